"""Simulated people and generated motion."""

from __future__ import annotations

from collections.abc import Callable

from imdy_plugin.hooks import hookimpl
from imdy_plugin.interfaces import SimBackend


@hookimpl
def imdy_register_sim_backends(register: Callable[[type[SimBackend]], None]) -> None:
    """Register the simulation backends that ship."""
    from imdy_plugin.sim.backends.isaacgym import IsaacGymBackend
    from imdy_plugin.sim.backends.mujoco import MujocoBackend
    from imdy_plugin.sim.backends.mujoco_warp import MujocoWarpBackend

    register(MujocoBackend)
    register(MujocoWarpBackend)
    register(IsaacGymBackend)
