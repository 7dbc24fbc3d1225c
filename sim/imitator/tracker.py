"""The model-based imitator: it plans through the simulator, and follows the plan with linear feedback."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import ClassVar

import mujoco
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.adapters.smpl.motion import BodyMotion
from imdy_plugin.sim.humanoid import build_humanoid, joint_gains
from imdy_plugin.sim.imitator.base import TIMESTEP, Controller, Imitator
from imdy_plugin.sim.imitator.feedforward import strengths
from imdy_plugin.sim.imitator.planning import Plan, PlanSettings, plan_motion
from imdy_plugin.sim.imitator.plans import PlanFolder
from imdy_plugin.sim.standin import build_standin

Array = NDArray[np.float64]


class Tracker(Imitator):
    """Plans each motion (:func:`~imdy_plugin.sim.imitator.planning.plan_motion`) and follows the plan.

    Parameters
    ----------
    plans
        A folder in which plans are kept; without one each is made when it is needed.
    settings
        How plans are made.
    """

    name: ClassVar[str] = "tracker"

    def __init__(self, plans: str | os.PathLike[str] | None = None, settings: PlanSettings | None = None) -> None:
        self.plans, self.settings = plans, settings or PlanSettings()

    def begin(self, person: xr.Dataset, reference: BodyMotion, seed: int = 0) -> FollowedPlan:
        """Plan the motion, or take up its plan; see :meth:`imdy_plugin.sim.imitator.base.Imitator.begin`."""
        if self.plans is None:
            return FollowedPlan(person, plan_motion(person, reference, self.settings))
        return FollowedPlan(person, PlanFolder(self.plans, self.settings).get(person, reference))


@lru_cache(maxsize=1)
def _skeleton() -> mujoco.MjModel:
    """Somebody's body: how far two positions are apart depends on the joints alone."""
    return build_humanoid(build_standin(), TIMESTEP).model


class FollowedPlan(Controller):
    """Commands of a plan, with feedback on the departure from it."""

    def __init__(self, person: xr.Dataset, plan: Plan) -> None:
        self.plan, self._model = plan, _skeleton()
        self._gain = plan.gain.astype(np.float32)
        self._most = 2.0 * strengths() / joint_gains(float(person.attrs["mass"]))[0]
        self._departure = np.empty(2 * self._model.nv)

    def target(self, frame: int, position: Array, velocity: Array) -> Array:
        """See :meth:`imdy_plugin.sim.imitator.base.Controller.target`; past the end of the plan its last command is kept."""
        frame = min(frame, len(self.plan.target) - 1)
        half = len(self._departure) // 2
        mujoco.mj_differentiatePos(self._model, self._departure[:half], 1.0, self.plan.position[frame], position)
        np.subtract(velocity, self.plan.velocity[frame], out=self._departure[half:])
        answer = np.asarray(self._gain[frame] @ self._departure.astype(np.float32), dtype=np.float64)
        return np.asarray(self.plan.target[frame] + np.clip(answer, -self._most, self._most))

    def start(self, frame: int) -> tuple[Array, Array] | None:
        """The plan's state at a frame."""
        return self.plan.position[frame].copy(), self.plan.velocity[frame].copy()
