"""Classic inverse dynamics: measured ground forces and the motion give the joint moments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pydantic import Field

from imdy_plugin.errors import InputError, UnknownNameError
from imdy_plugin.interfaces import Solver, SolverOptions, Trial
from imdy_plugin.schema import GROUND_FORCE_VARIABLES, add_log, new_result

if TYPE_CHECKING:
    from imdy_plugin.solvers.opensim_mechanics import OpenSimMechanics

FloatArray = NDArray[np.float64]

LEAST_LOAD = 20.0
"""Vertical force [N] from which the centre of pressure of a filtered load is computed anew."""


class OpenSimOptions(SolverOptions):
    """Options of :class:`OpenSimSolver`."""

    cutoff_hz: Annotated[float, Field(gt=0)] | Literal["auto"] | None = Field(
        "auto", description="low-pass cut-off of the coordinates [Hz]; 'auto' by the motion, null filters nothing"
    )
    exclude_forces: Literal["all", "muscles"] = Field("all", description="which of the model's own forces are left out; kept ones lessen the joint moments")
    force_cutoff_hz: float | None = Field(
        None, gt=0, description="low-pass cut-off of the ground forces [Hz]; by default they are not filtered, as in OpenSim's tool"
    )


class OpenSimSolver(Solver):
    """OpenSim's inverse dynamics: the model, its motion and measured ground forces."""

    name: ClassVar[str] = "opensim"
    summary: ClassVar[str] = "classic inverse dynamics with force plates, equal to OpenSim's InverseDynamicsTool"
    version: ClassVar[str] = "1"
    needs: ClassVar[frozenset[str]] = frozenset({"native_model", "kinematics", "ground_force", "mass"})
    gives: ClassVar[frozenset[str]] = frozenset(
        {
            "generalized_force",
            "ground_force",
            "center_of_pressure",
            "free_moment",
            "root_residual",
            "coordinate_value",
            "coordinate_velocity",
            "coordinate_acceleration",
            "flag",
        }
    )
    requires: ClassVar[tuple[str, ...]] = ("opensim", "scipy")
    Options: ClassVar[type[SolverOptions]] = OpenSimOptions

    def solve(self, trial: Trial, options: Any) -> xr.Dataset:
        """Solve one trial.

        Returns
        -------
        xarray.Dataset
            On the motion's time base. Frames in which a ground force is unknown or a coordinate missing are NaN and flagged as
            ``ground_force_unknown`` and ``kinematics_missing``; nothing is extrapolated. ``root_residual`` is NaN for a model
            without a free root.

        Raises
        ------
        UnknownNameError
            A force acts on a body that the model lacks.
        InputError
            The motion is too short, lacks coordinates, or shares no frame with the ground forces.
        """
        from imdy_plugin.solvers.kinematics import choose_cutoff, coordinates_of, smooth
        from imdy_plugin.solvers.opensim_mechanics import OpenSimMechanics

        self.check(trial)
        ground = trial.ground_force
        assert ground is not None
        mechanics = OpenSimMechanics(trial.native_model, only_muscles=options.exclude_forces == "muscles")
        _check_bodies(ground, mechanics)
        motion = coordinates_of(trial)
        cutoff, reason = choose_cutoff(options.cutoff_hz, motion, mechanics)
        time = motion["time"].values
        q, qd, qdd = smooth(time, motion["coordinate_value"].values, cutoff)
        loads = _loads_at(time, ground, options.force_cutoff_hz)
        force = mechanics.inverse_dynamics(q, qd, qdd, _body_loads(ground, loads))
        residual = mechanics.root_wrench(q, force) if mechanics.root_coordinates else np.full((len(time), 6), np.nan)
        result = new_result(
            time,
            coordinates=mechanics.coordinates,
            generalized_force=force,
            units=mechanics.units,
            bodies=[str(b) for b in ground["body"].values],
            **loads,
            root_residual=residual,
            solver=self.name,
            solver_version=self.version,
            options=options.model_dump(),
            model=mechanics.native.getName(),
            mass=mechanics.mass,
            attrs=_attributes(motion, mechanics),
            coordinate_value=q,
            coordinate_velocity=qd,
            coordinate_acceleration=qdd,
            flag={
                "ground_force_unknown": ~np.isfinite(loads["ground_force"]).all(axis=(1, 2)),
                "kinematics_missing": ~np.isfinite(q).all(axis=1),
            },
        )
        return _logged(result, mechanics, reason, options)


def _check_bodies(ground: xr.Dataset, mechanics: OpenSimMechanics) -> None:
    for body in ground["body"].values:
        if str(body) not in mechanics.bodies:
            raise UnknownNameError("body", str(body), mechanics.bodies, "A ground force acts on it; name a body of the model.")


def _loads_at(time: FloatArray, ground: xr.Dataset, cutoff_hz: float | None) -> dict[str, FloatArray]:
    """Ground forces at the motion's time stamps, zero where nothing touches, NaN where unknown."""
    from imdy_plugin.solvers.kinematics import resample_stretches

    own_time = ground["time"].values
    force, center, moment = (ground[name].values for name in GROUND_FORCE_VARIABLES)
    if cutoff_hz is not None:
        force, center, moment = _filtered(own_time, force, center, moment, cutoff_hz)
    known = np.isfinite(force).all(axis=2)
    out = {}
    for name, values in zip(GROUND_FORCE_VARIABLES, (force, _held(center, force), _without_gaps(moment)), strict=True):
        out[name] = np.zeros((len(time), force.shape[1], 3))
        for body in range(force.shape[1]):
            out[name][:, body] = resample_stretches(own_time, np.where(known[:, [body]], values[:, body], np.nan), time)
    silent = _silent(own_time, force, time)
    for values in out.values():
        values[silent] = 0.0
    if not np.isfinite(out["ground_force"]).all(axis=(1, 2)).any():
        raise InputError(f"no frame of the motion, {time[0]:g} to {time[-1]:g} s, has known ground forces; they span {own_time[0]:g} to {own_time[-1]:g} s")
    return out


def _without_gaps(values: FloatArray) -> FloatArray:
    """A centre of pressure or moment that is not defined where no force acts counts as zero."""
    return np.where(np.isfinite(values), values, 0.0)


def _held(center: FloatArray, force: FloatArray) -> FloatArray:
    """The centre of pressure, and where it is not defined (NaN or the origin) that of the nearest loaded sample in time.

    Files put zero there; a spline from zero to the foot overshoots by metres while the first newtons act.
    """
    out = _without_gaps(center)
    frames = np.arange(len(out))
    for body in range(center.shape[1]):
        defined = (out[:, body] != 0.0).any(axis=1)
        loaded = np.flatnonzero(defined & (np.abs(force[:, body, 1]) > LEAST_LOAD))
        if loaded.size:
            after = np.clip(np.searchsorted(loaded, frames), 0, loaded.size - 1)
            before = np.maximum(after - 1, 0)
            nearer = np.where(np.abs(frames - loaded[before]) <= np.abs(loaded[after] - frames), loaded[before], loaded[after])
            out[:, body] = np.where(defined[:, None], out[:, body], out[nearer, body])
    return out


def _silent(own_time: FloatArray, force: FloatArray, time: FloatArray) -> NDArray[np.bool_]:
    """Whether the samples on both sides of a time stamp carry no force at all ``(time, body)``: a spline rings there, nothing touches."""
    nothing = (force == 0.0).all(axis=2)
    after = np.clip(np.searchsorted(own_time, time - 1e-9), 0, len(own_time) - 1)
    before = np.clip(np.searchsorted(own_time, time + 1e-9, side="right") - 1, 0, len(own_time) - 1)
    inside = (time >= own_time[0] - 1e-9) & (time <= own_time[-1] + 1e-9)
    quiet: NDArray[np.bool_] = nothing[before] & nothing[after] & inside[:, None]
    return quiet


def _filtered(time: FloatArray, force: FloatArray, center: FloatArray, moment: FloatArray, cutoff_hz: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Low-pass force and moment about the ground origin, which are linear, and find the centre of pressure of what is left.

    The edges of contact spread by about half a period of the cut-off.
    """
    from imdy_plugin.solvers.kinematics import smooth

    center, moment = _without_gaps(center), _without_gaps(moment)
    wrench = np.concatenate([force, np.cross(center, force) + moment], axis=2)
    smoothed = smooth(time, wrench, cutoff_hz)[0]
    force, about_origin = smoothed[..., :3], smoothed[..., 3:]
    loaded = np.abs(force[..., 1]) > LEAST_LOAD
    vertical = np.where(loaded, force[..., 1], 1.0)
    height = center[..., 1]
    pressed = np.stack([(about_origin[..., 2] + height * force[..., 0]) / vertical, height, (height * force[..., 2] - about_origin[..., 0]) / vertical], axis=2)
    point = np.where(loaded[..., None], pressed, center)
    return force, point, about_origin - np.cross(point, force)


def _body_loads(ground: xr.Dataset, loads: dict[str, FloatArray]) -> list[Any]:
    from imdy_plugin.solvers.opensim_mechanics import BodyLoad

    return [BodyLoad(str(body), *(loads[name][:, i] for name in GROUND_FORCE_VARIABLES)) for i, body in enumerate(ground["body"].values)]


def _attributes(motion: xr.Dataset, mechanics: OpenSimMechanics) -> dict[str, Any]:
    attrs = {name: motion.attrs[name] for name in ("kinematics", "marker_rms_mean", "marker_rms_max", "log") if name in motion.attrs}
    return attrs | {"excluded_forces": list(mechanics.excluded_forces)}


def _logged(result: xr.Dataset, mechanics: OpenSimMechanics, reason: str, options: OpenSimOptions) -> xr.Dataset:
    excluded = mechanics.excluded_forces
    named = ", ".join(excluded[:3]) + (f" and {len(excluded) - 3} more" if len(excluded) > 3 else "")
    result = add_log(result, f"model's own forces excluded: {named or 'none'}")
    result = add_log(result, f"coordinates low-passed: {reason}; ground forces low-passed: {options.force_cutoff_hz or 'no'}")
    for kind in result["kind"].values:
        frames = int(result["flag"].sel(kind=kind).sum())
        if frames:
            result = add_log(result, f"{frames} of {result.sizes['time']} frames masked: {str(kind).replace('_', ' ')}")
    if not mechanics.root_coordinates:
        result = add_log(result, "the model has no free root: no root residual")
    return result
