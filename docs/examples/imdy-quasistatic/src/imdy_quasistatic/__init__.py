"""Quasi-static inverse dynamics: the moments that would hold each posture still.

The difference to a dynamic solver is what the movement itself costs.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import xarray as xr
from pydantic import Field

from imdy_plugin import Solver, SolverOptions, Trial, hookimpl


class QuasistaticOptions(SolverOptions):
    """Options of :class:`QuasistaticSolver`."""

    foot_length: float = Field(0.15, gt=0, description="distance from the foot body's origin to the middle of the sole, forward [m]")


class QuasistaticSolver(Solver):
    """Weight under the feet, shared by where the centre of mass is; no acceleration."""

    name: ClassVar[str] = "quasistatic"
    summary: ClassVar[str] = "inverse dynamics without accelerations: the moments that hold each posture still"
    version: ClassVar[str] = "0.1.0"
    needs: ClassVar[frozenset[str]] = frozenset({"kinematics", "model", "mass"})
    gives: ClassVar[frozenset[str]] = frozenset({"generalized_force", "ground_force", "center_of_pressure", "free_moment", "root_residual"})
    Options: ClassVar[type[SolverOptions]] = QuasistaticOptions

    def solve(self, trial: Trial, options: Any) -> xr.Dataset:
        """Share the weight between the feet by the position of the centre of mass between them, then inverse dynamics at rest."""
        from imdy_plugin.schema import new_result
        from imdy_plugin.solvers.body_load import BodyLoad
        from imdy_plugin.solvers.kinematics import coordinates_of
        from imdy_plugin.solvers.multibody.mechanics import body_mechanics

        assert trial.model is not None
        mechanics = body_mechanics(trial.model)
        motion = coordinates_of(trial)
        value = motion["coordinate_value"].sel(coordinate=list(mechanics.coordinates)).values
        rest = np.zeros_like(value)
        middle = np.array([[options.foot_length, 0.0, 0.0]])
        soles = [mechanics.point_kinematics(value, rest, rest, foot, middle)[0][:, 0] for foot in mechanics.foot_bodies]
        wrench = mechanics.ground_wrench(value, rest, rest)
        center = np.stack([wrench[:, 5], np.zeros(len(value)), -wrench[:, 3]], axis=1) / wrench[:, 1:2]
        between = soles[1] - soles[0]
        left = np.clip(np.sum((center - soles[0]) * between, axis=1) / np.sum(between**2, axis=1), 0, 1)
        loads = []
        for foot, sole, share in zip(mechanics.foot_bodies, soles, (1 - left, left), strict=True):
            force = wrench[:, :3] * share[:, None]
            loads.append(BodyLoad(body=foot, force=force, point=sole * [1, 0, 1], moment=np.zeros_like(force)))
        moments = mechanics.inverse_dynamics(value, rest, rest, loads)
        return new_result(
            motion["time"].values,
            coordinates=mechanics.coordinates,
            generalized_force=moments,
            units=mechanics.units,
            bodies=mechanics.foot_bodies,
            ground_force=np.stack([load.force for load in loads], axis=1),
            center_of_pressure=np.stack([load.point for load in loads], axis=1),
            free_moment=np.stack([load.moment for load in loads], axis=1),
            root_residual=mechanics.root_wrench(value, moments),
            solver=self.name,
            solver_version=self.version,
            options=options.model_dump(),
            model=mechanics.name,
            mass=float(trial.mass or mechanics.mass),
        )


@hookimpl
def imdy_register_solvers(register: Any) -> None:
    """Offer the solver to imdy_plugin."""
    register(QuasistaticSolver)
