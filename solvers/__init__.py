"""The answers: classic inverse dynamics, plate-free physics, and learned solvers."""

from __future__ import annotations

from collections.abc import Callable

from imdy_plugin.hooks import hookimpl
from imdy_plugin.interfaces import Solver


@hookimpl
def imdy_register_solvers(register: Callable[[type[Solver]], None]) -> None:
    """Register the solvers that ship."""
    from imdy_plugin.solvers.classic import MultibodySolver, OpenSimSolver
    from imdy_plugin.solvers.imdys.solver import ImdysSolver
    from imdy_plugin.solvers.nimble import NimbleSolver
    from imdy_plugin.solvers.physics import PhysicsSolver

    register(OpenSimSolver)
    register(MultibodySolver)
    register(NimbleSolver)
    register(PhysicsSolver)
    register(ImdysSolver)
