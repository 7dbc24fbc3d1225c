"""Measured ground forces as inverse dynamics takes them: checked against the model, at the motion's time stamps."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.errors import InputError, UnknownNameError
from imdy_plugin.schema import GROUND_FORCE_VARIABLES
from imdy_plugin.solvers.body_load import BodyLoad
from imdy_plugin.solvers.kinematics import resample_stretches, smooth

FloatArray = NDArray[np.float64]

LEAST_LOAD = 20.0
"""Vertical force [N] from which the centre of pressure of a filtered load is computed anew."""


def check_bodies(ground: xr.Dataset, bodies: Collection[str]) -> None:
    """Raise :class:`UnknownNameError` where a ground force acts on a body that is not among the model's ``bodies``."""
    for body in ground["body"].values:
        if str(body) not in bodies:
            raise UnknownNameError("body", str(body), bodies, "A ground force acts on it; name a body of the model.")


def ground_forces_at(time: FloatArray, ground: xr.Dataset, cutoff_hz: float | None = None) -> dict[str, FloatArray]:
    """Ground forces at the motion's time stamps, zero where nothing touches, NaN where unknown.

    Parameters
    ----------
    time
        ``(time,)`` [s].
    ground
        Measured ground forces on their own time base.
    cutoff_hz
        Low-pass cut-off of the forces [Hz]; None filters nothing.

    Returns
    -------
    dict
        By the names :data:`~imdy_plugin.schema.GROUND_FORCE_VARIABLES`, each ``(time, body, 3)``.

    Raises
    ------
    InputError
        No time stamp has known ground forces.
    """
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


def body_loads(ground: xr.Dataset, loads: dict[str, FloatArray]) -> list[BodyLoad]:
    """What :func:`ground_forces_at` found, as one load for each body that ``ground`` names."""
    return [BodyLoad(str(body), *(loads[name][:, i] for name in GROUND_FORCE_VARIABLES)) for i, body in enumerate(ground["body"].values)]
