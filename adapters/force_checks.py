"""Questions asked of ground forces before anything is computed from them: offset, direction, and whether they act on the right foot."""

from __future__ import annotations

import warnings

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.errors import DataWarning
from imdy_plugin.schema import AXES, GRAVITY

LOADED_FORCE = 50.0
"""Force [N] above which a foot counts as loaded, where a check asks."""

FELT_FORCE = 10.0
"""Force [N] from which a wrong point of application is felt in the joints."""

FARTHEST_PRESSURE = 0.5
"""Horizontal distance [m] between a centre of pressure and the origin of its foot that no foot reaches."""


LEAST_PEAK, LARGEST_PEAK = 0.25, 12.0
"""Body weights between which the largest force on a person lies who touches a plate."""


def check_size(forces: xr.Dataset, mass: float) -> None:
    """Warn when the largest total force is none that a person of this mass [kg] gives, as in kilonewtons or body weights; zero is no force."""
    total = np.linalg.norm(np.nansum(forces["ground_force"].values, axis=1), axis=1)
    peak, weight = float(total.max(initial=0.0)), mass * GRAVITY
    if peak > 0 and not LEAST_PEAK <= peak / weight <= LARGEST_PEAK:
        text = f"the ground force is at most {peak:.3g} N, {peak / weight:.2g} of the body weight of {mass:g} kg"
        warnings.warn(f"{text}; check the units of the forces (N) and the mass (kg)", DataWarning, stacklevel=3)


def check_foot_assignment(forces: xr.Dataset, foot_position: xr.DataArray) -> None:
    """Warn when a force acts where the other foot is.

    Parameters
    ----------
    forces
        A motion with ground forces.
    foot_position
        Position of each force's body in ground [m], ``(time, body, axis)``; of its frames the nearest in time counts. The horizontal
        distance from the centre of pressure decides, over frames with more than :data:`LOADED_FORCE`.

    A body of ``forces`` that ``foot_position`` lacks is not checked.
    """
    known = [str(b) for b in foot_position["body"].values]
    feet = foot_position.sel(time=forces["time"], method="nearest").transpose("time", "body", "axis").values
    for i, body in enumerate(str(b) for b in forces["body"].values):
        nearest = _nearest_foot(forces.isel(body=i), feet)
        if body not in known or nearest.size == 0:
            continue
        other = known[int(np.bincount(nearest, minlength=len(known)).argmax())]
        share = float(np.mean(nearest != known.index(body)))
        if share > 0.5:
            text = f"the force on '{body}' acts nearer to '{other}' in {share:.0%} of {nearest.size} loaded frames"
            warnings.warn(f"{text}; it may be on the wrong foot: swap applied_to_body", DataWarning, stacklevel=2)


def check_pressure_near_foot(forces: xr.Dataset, foot_position: xr.DataArray) -> None:
    """Warn when a force acts far from its foot, as a centre of pressure divided out of the first newtons does.

    Parameters
    ----------
    forces, foot_position
        As in :func:`check_foot_assignment`; frames with more than :data:`FELT_FORCE` are looked at.
    """
    known = [str(b) for b in foot_position["body"].values]
    feet = foot_position.sel(time=forces["time"], method="nearest").transpose("time", "body", "axis").values
    for body in (str(b) for b in forces["body"].values if str(b) in known):
        force = np.linalg.norm(forces["ground_force"].sel(body=body).values, axis=-1)
        offset = (forces["center_of_pressure"].sel(body=body).values - feet[:, known.index(body)])[:, [0, 2]]
        distance = np.where(force > FELT_FORCE, np.linalg.norm(offset, axis=-1), 0.0)
        far = np.flatnonzero(distance > FARTHEST_PRESSURE)
        if far.size:
            worst = int(far[np.argmax((distance * force)[far])])
            text = f"the force on '{body}' acts more than {FARTHEST_PRESSURE:g} m from it in {far.size} frame(s), {distance[worst]:.2f} m"
            what = f"{text} at {float(forces['time'][worst]):g} s ({force[worst]:.0f} N); joint moments are suspect there"
            warnings.warn(f"{what}: repair the centre of pressure, or zero the force where it is small", DataWarning, stacklevel=2)


def check_zero_load(forces: xr.Dataset) -> None:
    """Warn when a force has a constant offset while nothing touches, as a plate that was not zeroed gives.

    The lowest vertical forces are looked at: when at least a tenth of the frames lie within 5 N of a level between 5 and
    :data:`LOADED_FORCE` in size, and the trial also holds frames that are loaded, that level is an offset.
    """
    for body in forces["body"].values:
        vertical = forces["ground_force"].sel(body=body, axis="y").values
        vertical = vertical[np.isfinite(vertical)]
        if vertical.size < 20 or np.abs(vertical).max() < 4 * LOADED_FORCE:
            continue
        size = np.abs(vertical)
        level = float(np.median(vertical[size <= np.quantile(size, 0.1)]))
        near = vertical[np.abs(vertical - level) < 5.0]
        if 5.0 < abs(level) < LOADED_FORCE and near.size >= 0.1 * vertical.size and near.std() < 2.0:
            text = f"the vertical force on '{body}' stays near {np.median(near):.1f} N in {near.size} of {vertical.size} frames, its lowest"
            warnings.warn(f"{text}; zero the plate or subtract the offset", DataWarning, stacklevel=2)


def check_direction(motion: xr.Dataset) -> None:
    """Warn when the forces, taken together, do not push up along y."""
    total = np.nansum(motion["ground_force"].values, axis=1)
    loaded = np.linalg.norm(total, axis=1) > 2 * LOADED_FORCE
    if not loaded.any():
        return
    mean = total[loaded].mean(axis=0)
    main = int(np.abs(mean).argmax())
    if main != 1 or mean[1] < 0:
        sign = "-" if mean[main] < 0 else "+"
        text = f"the ground pushes mainly along {sign}{AXES[main]} (mean {', '.join(f'{v:.0f}' for v in mean)} N), not up along +y"
        warnings.warn(f"{text}; turn the data into x forward, y up, z right", DataWarning, stacklevel=3)


def _nearest_foot(force: xr.Dataset, feet: NDArray[np.float64]) -> NDArray[np.intp]:
    """Index of the foot nearest to the centre of pressure, in each loaded frame in which both are known."""
    loaded = np.linalg.norm(force["ground_force"].values, axis=-1) > LOADED_FORCE
    offset = (feet - force["center_of_pressure"].values[:, None])[loaded][..., [0, 2]]
    distance = np.linalg.norm(offset, axis=-1)
    return np.asarray(distance[np.isfinite(distance).all(axis=1)].argmin(axis=1))
