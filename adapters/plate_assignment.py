"""Force plates do not know whose foot stands on them; markers of the feet do.

Each contact of a plate is given to the foot that bears it, or is unknown where nobody can tell.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.adapters.force_plates import Plate, on_surface
from imdy_plugin.errors import DataWarning, InputError
from imdy_plugin.runs import runs
from imdy_plugin.schema import new_motion

Array = NDArray[np.float64]

_LOW, _SLOW = 0.03, 0.8
"""A marker so near its lowest level [m] and so slow [m/s] belongs to a foot that stands on the floor."""
_HIGHEST_REST = 0.15
"""No foot marker of a standing foot is higher above the plates [m]; the lowest level of a foot that never lands is."""
_STANDING = 0.4
"""Feet that both stand move against each other more slowly [m/s]; a belt carries both alike."""
_EDGE, _WIDEN = 0.04, 0.04
"""A marker may be outside a plate by this much [m]; unknown stretches are widened by this much [s]."""
_LANDING = 2 * _WIDEN + 0.06
"""A foot is slow and low, and yet unloaded, for so long [s] when it lands or leaves; the widening is in it."""
_FARTHEST, _NEAR = 0.25, 0.15
"""Mean and largest distance [m] from the centre of pressure to the foot that bears it."""
_CLEAR_SHARE, _SHARED_SHARE = 0.9, 0.1
"""A contact is one foot's if that foot is nearest for this share of the load, and both stand for no more than the other."""


def assign_plates_to_feet(
    plates: Sequence[Plate],
    feet: Mapping[str, tuple[Array, Array]],
    *,
    source: object = "the plates",
) -> xr.Dataset:
    """Ground force per foot, from plates that do not know whose foot stands on them.

    Each contact goes to the foot whose markers are nearest to the centre of pressure and low. Where both feet stand on
    one plate at once the shares cannot be told apart: while they do, the force of both is NaN. Where a foot stands beside
    the plates, wholly or in part, its force is NaN. A plate whose place is not known bears one foot at a time; where there
    is such a plate, a foot that stands while no plate is given to it has no known force.

    Parameters
    ----------
    plates
        Measurements on one time base.
    feet
        By body (such as ``calcn_r``, ``calcn_l``): time stamps [s] and positions of its heel and toe markers [m]
        (time, marker, 3), NaN where missing.
    source
        What messages name.

    Returns
    -------
    xarray.Dataset
        A motion with ``ground_force``, ``center_of_pressure`` and ``free_moment`` (time, body, axis); zero where nothing
        touches, NaN where unknown.

    Raises
    ------
    InputError
        There is no plate, not two feet, or the plates have different time bases.

    Warns
    -----
    DataWarning
        A contact that cannot be given to one foot, or a foot that stands partly off the plates.
    """
    if not plates or len(feet) != 2 or any(len(p.time) != len(plates[0].time) for p in plates):
        raise InputError(f"{source}: plates on one time base and two feet are needed, got {len(plates)} plates and {len(feet)} feet")
    time = plates[0].time
    floor = max(_level(p) for p in plates)
    tracks = [_Foot.of(*feet[body], floor) for body in feet]
    sums = [_Sum.of(len(time)) for _ in feet]
    unknown, notes = _share_out(plates, tracks, sums)
    if all(map(_has_place, plates)):
        partly = [b for i, b in enumerate(feet) if (_beside_plates(tracks[i], plates, time) & (sums[i].force[:, 1] > 0)).any()]
        notes += [f"{b} stands partly beside the plates; unknown there" for b in partly]
    if notes:
        more = f"; and {len(notes) - 6} more" if len(notes) > 6 else ""
        warnings.warn(f"{source}: {'; '.join(notes[:6])}{more}", DataWarning, stacklevel=2)
    force, point, twist = (np.stack(a, axis=1) for a in zip(*(s.wrench() for s in sums), strict=True))
    for array in (force, point, twist):
        array[unknown] = np.nan
    log = f"ground force of {len(plates)} plates given to {', '.join(feet)}; unknown in {unknown.mean():.0%} of the samples"
    return new_motion(time, ground=(list(feet), force, point, twist), log="\n".join([*(p.note for p in plates), log]))


def _share_out(plates: Sequence[Plate], feet: Sequence[_Foot], sums: Sequence[_Sum]) -> tuple[NDArray[np.bool_], list[str]]:
    """Add each contact to its foot's sum; returns where a foot's force is unknown (time, foot), and what to warn of."""
    time = plates[0].time
    notes = []
    unknown = np.zeros((len(time), len(feet)), bool)
    for plate in plates:
        for start, stop in runs(plate.contact):
            owners, why = _owners(plate, slice(start, stop), feet)
            for i, total in enumerate(sums):
                total.add(plate, start + np.flatnonzero(owners == i))
            unknown[start:stop] |= (owners == _UNKNOWN)[:, None]
            if why:
                notes.append(f"{plate.name} {time[start]:.2f}-{time[stop - 1]:.2f} s: {why}")
    beside = np.stack([_beside_plates(foot, plates, time) for foot in feet], axis=1)
    if not all(map(_has_place, plates)):
        loaded = np.stack([total.force[:, 1] > 0 for total in sums], axis=1)
        beside = _lasting(beside & ~loaded, time)
    return unknown | beside, notes


def _has_place(plate: Plate) -> bool:
    return bool(np.isfinite(plate.corners).all())


def _level(plate: Plate) -> float:
    """Height of a plate's surface [m]."""
    heights = plate.corners[:, 1] if _has_place(plate) else plate.center_of_pressure[plate.contact, 1]
    return float(heights.max()) if heights.size else 0.0


def _lasting(mask: NDArray[np.bool_], time: Array) -> NDArray[np.bool_]:
    """The mask without stretches that are no more than a foot's landing or leaving; those at the ends of the recording may be longer than seen."""
    kept = np.zeros_like(mask)
    for column in range(mask.shape[1]):
        for start, stop in runs(mask[:, column]):
            cut = start == 0 or stop == len(time)
            kept[start:stop, column] = cut or time[stop - 1] - time[start] > _LANDING
    return kept


@dataclass(frozen=True)
class _Foot:
    """Markers of one foot: positions, how high each is above its own lowest level, how fast it moves along the ground."""

    time: Array
    position: Array
    lift: Array
    velocity: Array

    @classmethod
    def of(cls, time: Array, position: Array, floor: float) -> _Foot:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            lowest = np.nanpercentile(position[..., 1], 5, axis=0)
        lift = position[..., 1] - np.fmin(lowest, floor + _HIGHEST_REST)
        velocity = np.gradient(position, time, axis=0) if len(time) > 1 else np.zeros_like(position)
        return cls(time, position, lift, velocity)

    @property
    def down(self) -> NDArray[np.bool_]:
        """Markers that are low (time, marker)."""
        return self.lift < _LOW

    def at(self, time: Array) -> NDArray[np.intp]:
        """Frames nearest to time stamps."""
        return np.clip(np.searchsorted(self.time, time - 0.5 * (self.time[1] - self.time[0]) if len(self.time) > 1 else time), 0, len(self.time) - 1)

    def distance(self, frames: NDArray[np.intp], point: Array) -> Array:
        """Distance of points from the foot [m], along the ground to its outline's markers and their midpoints, and upward by its lift."""
        markers = self.position[frames]
        first, second = np.triu_indices(markers.shape[1])
        outline = 0.5 * (markers[:, first] + markers[:, second])
        apart = np.linalg.norm((outline - point[:, None])[..., [0, 2]], axis=-1)
        return np.hypot(_nanmin(apart), np.maximum(_nanmin(self.lift[frames]), 0.0))


def _nanmin(values: Array) -> Array:
    return np.asarray(np.min(np.where(np.isnan(values), np.inf, values), axis=1))


_UNKNOWN, _NOBODY = -1, -2


def _owners(plate: Plate, span: slice, feet: Sequence[_Foot]) -> tuple[NDArray[np.intp], str]:
    """Which foot bears a contact, sample by sample (index, :data:`_UNKNOWN` or :data:`_NOBODY`), and what to warn of."""
    time, point, weight = plate.time[span], plate.center_of_pressure[span], plate.force[span, 1]
    frames = [f.at(time) for f in feet]
    apart = np.stack([f.distance(i, point) for f, i in zip(feet, frames, strict=True)])
    nearest = np.argmin(apart, axis=0)
    usable = np.isfinite(apart.min(axis=0)) & (weight > 0)
    if not usable.any():
        return np.full(len(time), _NOBODY), "no foot markers; given to no foot"
    weight = np.where(usable, weight, 0.0) / weight[usable].sum()
    winner = int(np.bincount(nearest, weight, minlength=2).argmax())
    gap = float(np.sum(weight[usable] * apart[winner, usable]))
    if gap > _FARTHEST:
        return np.full(len(time), _NOBODY), f"no foot within {_FARTHEST} m of the centre of pressure ({gap:.2f} m); given to no foot"
    both = _both_stand(plate, feet, frames)
    if weight[nearest == winner].sum() >= _CLEAR_SHARE and weight[both].sum() <= _SHARED_SHARE:
        return np.full(len(time), winner), ""
    alone = ~_widened(both, time) & usable & (apart.min(axis=0) < _NEAR)
    return np.where(alone, nearest, _UNKNOWN), f"both feet stand on it at once; unknown for {(~alone).mean() * (time[-1] - time[0]):.2f} s"


def _widened(mask: NDArray[np.bool_], time: Array) -> NDArray[np.bool_]:
    wide = mask.copy()
    for start, stop in runs(mask):
        wide |= (time >= time[start] - _WIDEN) & (time <= time[stop - 1] + _WIDEN)
    return wide


def _both_stand(plate: Plate, feet: Sequence[_Foot], frames: Sequence[NDArray[np.intp]]) -> NDArray[np.bool_]:
    """Both feet are low, inside the plate, and do not move against each other along the ground."""
    lowest = [np.argmin(np.where(np.isnan(f.lift[i]), np.inf, f.lift[i]), axis=1) for f, i in zip(feet, frames, strict=True)]
    inside = [_inside(plate.corners, f.position[i, k], 0.02) & (f.lift[i, k] < _LOW) for f, i, k in zip(feet, frames, lowest, strict=True)]
    against = feet[0].velocity[frames[0], lowest[0]] - feet[1].velocity[frames[1], lowest[1]]
    return np.asarray(inside[0] & inside[1] & (np.linalg.norm(against[:, [0, 2]], axis=-1) < _STANDING))


def _inside(corners: Array, point: Array, margin: float) -> NDArray[np.bool_]:
    """Whether points lie over a plate widened by a margin [m]; False where a point is missing."""
    flat = corners[:, [0, 2]]
    centre = flat.mean(axis=0)
    inside: NDArray[np.bool_] = np.asarray(np.isfinite(point).all(axis=-1))
    for a, b in zip(flat, np.roll(flat, -1, axis=0), strict=True):
        along = (b - a) / np.linalg.norm(b - a)
        outward = np.array([along[1], -along[0]])
        outward *= np.sign(outward @ (a - centre))
        inside &= (point[..., [0, 2]] - a) @ outward <= margin
    return inside


def _beside_plates(foot: _Foot, plates: Sequence[Plate], time: Array) -> NDArray[np.bool_]:
    """Samples at which a marker of the foot is low, slow and over no plate."""
    slow = np.linalg.norm(foot.velocity[..., [0, 2]], axis=-1) < _SLOW
    over = np.any([_inside(p.corners, foot.position, _EDGE) for p in plates], axis=0)
    beside = (foot.down & slow & ~over & np.isfinite(foot.position).all(axis=-1)).any(axis=1)
    unknown = np.zeros(len(time), bool)
    for start, stop in runs(beside):
        unknown |= (time >= foot.time[start] - _WIDEN) & (time <= foot.time[stop - 1] + _WIDEN)
    return unknown


@dataclass(frozen=True)
class _Sum:
    """Wrench of one foot about the ground origin, and the height of the surface it stands on."""

    force: Array
    moment: Array
    height: Array

    @classmethod
    def of(cls, samples: int) -> _Sum:
        return cls(np.zeros((samples, 3)), np.zeros((samples, 3)), np.zeros(samples))

    def add(self, plate: Plate, samples: NDArray[np.intp]) -> None:
        force, point = plate.force[samples], plate.center_of_pressure[samples]
        before = self.force[samples, 1]
        total = before + force[:, 1]
        self.height[samples] = (self.height[samples] * before + point[:, 1] * force[:, 1]) / np.where(total == 0, 1.0, total)
        self.force[samples] += force
        self.moment[samples] += np.cross(point, force) + plate.free_moment[samples]

    def wrench(self) -> tuple[Array, Array, Array]:
        """Force, point of application at the surface's height, and moment about the vertical through it; zero out of contact."""
        touching = self.force[:, 1] > 0
        level = np.column_stack([np.zeros_like(self.height), self.height, np.zeros_like(self.height)])
        about = self.moment - np.cross(level, self.force)
        up = np.array([0.0, 1.0, 0.0])
        point, twist = on_surface(self.force, about, up)
        return (
            np.where(touching[:, None], self.force, 0.0),
            np.where(touching[:, None], point + level, 0.0),
            np.where(touching[:, None], twist, 0.0),
        )
