"""Force plates: from analog channels to the ground's force on each foot.

Plate types 1 to 4 and the meaning of ``CORNERS``, ``ORIGIN`` and ``CAL_MATRIX`` follow the C3D user guide (c3d.org,
"Force platform parameters"). In a plate's own frame x and y lie in its surface, corner 1 in the quadrant +x +y, 2 in
-x +y, 3 in -x -y, 4 in +x -y, and z = x cross y (into the floor on most plates).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.adapters.c3d_bytes import C3dFile
from imdy_plugin.errors import DataWarning, FileFormatError, InputError
from imdy_plugin.runs import runs
from imdy_plugin.schema import new_motion

Array = NDArray[np.float64]

CONTACT_THRESHOLD = 20.0
"""Vertical force [N] above which something stands on a plate."""

_FORCE_UNITS = {"n": 1.0, "newton": 1.0, "newtons": 1.0, "kn": 1000.0}
_MOMENT_UNITS = {"nm": 1.0, "nmm": 1e-3, "ncm": 1e-2, "knm": 1e3}
_LENGTH_UNITS = {"mm": 1e-3, "cm": 1e-2, "m": 1.0}

_CHANNELS = {1: 6, 2: 6, 3: 8, 4: 6}
_LARGEST_OFFSET = 100.0
"""A plate that never reads less [N] bears somebody throughout; less can be drift of the amplifier."""
_SHORTEST_CONTACT, _LONGEST_DROPOUT = 0.03, 0.01
"""Shorter loads [s] are spikes; shorter losses of load are noise around the threshold."""

_LOW, _SLOW = 0.03, 0.8
"""A marker so near its lowest level [m] and so slow [m/s] belongs to a foot that stands on the floor."""
_HIGHEST_REST = 0.15
"""No foot marker of a standing foot is higher above the plates [m]; the lowest level of a foot that never lands is."""
_STANDING = 0.4
"""Feet that both stand move against each other more slowly [m/s]; a belt carries both alike."""
_EDGE, _WIDEN = 0.04, 0.04
"""A marker may be outside a plate by this much [m]; unknown stretches are widened by this much [s]."""
_FARTHEST, _NEAR = 0.25, 0.15
"""Mean and largest distance [m] from the centre of pressure to the foot that bears it."""
_CLEAR_SHARE, _SHARED_SHARE = 0.9, 0.1
"""A contact is one foot's if that foot is nearest for this share of the load, and both stand for no more than the other."""


@dataclass(frozen=True)
class Plate:
    """One plate's measurement in the ground frame.

    Attributes
    ----------
    name
        Such as ``plate 1``.
    time
        Time stamps [s] at the plate's own rate.
    force
        Force on what stands on the plate [N] (time, 3); zero out of contact.
    center_of_pressure
        Its point of application on the surface [m] (time, 3); NaN out of contact.
    free_moment
        Moment about that point, normal to the surface [N m] (time, 3); zero out of contact.
    corners
        Corners of the surface [m] (4, 3).
    contact
        Whether something stands on it (time).
    note
        What was done to the signal.
    """

    name: str
    time: Array
    force: Array
    center_of_pressure: Array
    free_moment: Array
    corners: Array
    contact: NDArray[np.bool_]
    note: str


def read_plates(file: C3dFile, rotation: Array, metres: float, threshold: float = CONTACT_THRESHOLD, *, remove_offset: bool = True) -> list[Plate]:
    """Measurements of all plates of a .c3d file.

    Parameters
    ----------
    file
        The file.
    rotation
        Rotates the file's axes into the ground frame (3, 3).
    metres
        Metres per unit of length of the file.
    threshold
        Vertical force [N] above which something stands on a plate; raised to five times the noise of the unloaded plate.
    remove_offset
        Whether what the unloaded plate reads is taken off.

    Raises
    ------
    FileFormatError
        A plate is of a type other than 1 to 4, or lacks channels, corners or its calibration.

    Warns
    -----
    DataWarning
        The unloaded plate did not read zero by more than ``threshold``; the offset is removed.
    """
    count = int(_first(file.numbers("FORCE_PLATFORM", "USED"), 0))
    if not count or not file.analog.size:
        return []
    types = file.numbers("FORCE_PLATFORM", "TYPE").ravel().astype(int)
    if len(types) < count:
        raise FileFormatError(file.path, f"FORCE_PLATFORM:TYPE holds {len(types)} values for {count} plates", "export it again")
    return [_read_plate(file, i, count, int(types[i]), rotation, metres, threshold, remove_offset) for i in range(count)]


def _first(values: Array, default: float) -> float:
    return float(values.ravel()[0]) if values.size else default


def _read_plate(file: C3dFile, index: int, count: int, kind: int, rotation: Array, metres: float, threshold: float, remove_offset: bool) -> Plate:
    name = f"plate {index + 1}"
    if kind not in _CHANNELS:
        raise FileFormatError(file.path, f"{name} is of type {kind}; types 1 to 4 are read", "give the forces as an ExternalLoads .xml with its .mot")
    channels, length = _channels(file, index, count, kind, metres)
    corners = _per_plate(file, "CORNERS", index, count, 12).reshape(3, 4, order="F").T @ rotation.T * metres
    origin = _per_plate(file, "ORIGIN", index, count, 3) * metres
    if kind == 4:
        channels = channels @ _calibration(file, index, count, length).T
    force, moment = plate_wrench(kind, channels, origin)
    axes = _axes(file, name, corners)
    return _measure(file, name, force @ axes.T, moment @ axes.T, corners, axes, threshold, remove_offset)


def _per_plate(file: C3dFile, parameter: str, index: int, count: int, size: int) -> Array:
    values = file.numbers("FORCE_PLATFORM", parameter)
    flat = values.ravel(order="F")
    if flat.size < size * count:
        raise FileFormatError(file.path, f"FORCE_PLATFORM:{parameter} holds {flat.size} values for {count} plates", "export it again")
    return np.asarray(flat.reshape(-1, values.shape[-1] if values.ndim > 1 else count, order="F")[:size, index])


def _channels(file: C3dFile, index: int, count: int, kind: int, metres: float) -> tuple[Array, float]:
    """Channels of a plate in N, N m and m (type 4: as they are, its calibration turns them), and its unit of moment per N."""
    number = file.numbers("FORCE_PLATFORM", "CHANNEL")
    flat = number.ravel(order="F").reshape(-1, number.shape[-1] if number.ndim > 1 else count, order="F")
    columns = flat[: _CHANNELS[kind], index].astype(int) - 1 if index < flat.shape[1] else np.zeros(0, int)
    if len(columns) < _CHANNELS[kind] or columns.min() < 0 or columns.max() >= file.analog.shape[1]:
        found = f"plate {index + 1} (type {kind}) names channels {[int(c) + 1 for c in columns]}, the file has {file.analog.shape[1]}"
        raise FileFormatError(file.path, found, f"{_CHANNELS[kind]} existing channels are needed; export it again")
    bad = np.argwhere(~np.isfinite(file.analog[:, columns]))
    if bad.size:
        found = f"plate {index + 1}: channel {columns[bad[0, 1]] + 1} is not finite at sample {bad[0, 0]} ({len(bad)} such values)"
        raise FileFormatError(file.path, found, "export it again; what the plate bore there is not known")
    units = [u.lower().replace(" ", "").replace(".", "").replace("*", "").replace("-", "") for u in file.texts("ANALOG", "UNITS")]
    names = [units[c] if c < len(units) else "" for c in columns]
    moment = next((_MOMENT_UNITS[u] for u in names if u in _MOMENT_UNITS), metres)
    if kind == 4:
        return file.analog[:, columns], moment
    return file.analog[:, columns] * _factors(kind, names, moment, metres), moment


def _factors(kind: int, units: Sequence[str], moment: float, metres: float) -> Array:
    if kind == 3:
        return np.array([_FORCE_UNITS.get(u, 1.0) for u in units])
    force = [_FORCE_UNITS.get(u, 1.0) for u in units[:3]]
    if kind == 2:
        return np.array(force + [moment] * 3)
    return np.array([*force, *(_LENGTH_UNITS.get(u, metres) for u in units[3:5]), _MOMENT_UNITS.get(units[5], moment)])


def _calibration(file: C3dFile, index: int, count: int, moment: float) -> Array:
    matrix = _per_plate(file, "CAL_MATRIX", index, count, 36).reshape(6, 6, order="F")
    return np.asarray(matrix * np.array([1.0, 1.0, 1.0, moment, moment, moment])[:, None])


def plate_wrench(kind: int, channels: Array, origin: Array) -> tuple[Array, Array]:
    """Force and moment about the centre of the surface, in the plate's own frame.

    Parameters
    ----------
    kind
        1: Fx Fy Fz, centre of pressure x y, free moment; 2 and (after calibration) 4: Fx Fy Fz Mx My Mz about the
        transducers' origin; 3: Fx12 Fx34 Fy14 Fy23 Fz1 Fz2 Fz3 Fz4 of the four transducers.
    channels
        N, m and N m (time, 6 or 8).
    origin
        ``ORIGIN`` [m]: from the transducers' origin to the centre of the surface; for type 3 the transducers' distances a and
        b from the axes and the depth. A depth given as positive is taken as negative, since the transducers lie
        under the surface (z points into the floor).

    Returns
    -------
    tuple
        Force [N] and moment [N m], each (time, 3).

    Notes
    -----
    Moved by ``M_centre = M_origin + F x origin`` (C3D user guide, "The FORCE_PLATFORM group").
    """
    if kind == 1:
        force, twist = channels[:, :3], channels[:, 5]
        arm = np.column_stack([channels[:, 3:5] - origin[:2], np.zeros(len(channels))])
        return force, np.cross(arm, force) + twist[:, None] * [0.0, 0.0, 1.0]
    below = origin if origin[2] <= 0 else -origin
    if kind == 3:
        force, moment = _piezo_wrench(channels, abs(origin[0]), abs(origin[1]))
        return force, moment + np.cross(force, [0.0, 0.0, below[2]])
    force, moment = channels[:, :3], channels[:, 3:6]
    return force, moment + np.cross(force, below)


def _piezo_wrench(channels: Array, a: float, b: float) -> tuple[Array, Array]:
    fx12, fx34, fy14, fy23, fz1, fz2, fz3, fz4 = channels.T
    force = np.column_stack([fx12 + fx34, fy14 + fy23, fz1 + fz2 + fz3 + fz4])
    mx = b * (fz1 + fz2 - fz3 - fz4)
    my = a * (-fz1 + fz2 + fz3 - fz4)
    mz = b * (fx34 - fx12) + a * (fy14 - fy23)
    return force, np.column_stack([mx, my, mz])


def _axes(file: C3dFile, name: str, corners: Array) -> Array:
    """Columns are the plate's axes in the ground frame."""
    x = corners[0] + corners[3] - corners[1] - corners[2]
    y = corners[0] + corners[1] - corners[2] - corners[3]
    normal = np.cross(x, y)
    area = float(np.linalg.norm(normal)) / 4
    if not area > 1e-3:
        raise FileFormatError(file.path, f"the CORNERS of {name} span {area:g} m^2", "its place is not stated; give the forces as an ExternalLoads .xml")
    x, z = x / np.linalg.norm(x), normal / np.linalg.norm(normal)
    return np.column_stack([x, np.cross(z, x), z])


def _measure(file: C3dFile, name: str, force: Array, moment: Array, corners: Array, axes: Array, threshold: float, remove_offset: bool) -> Plate:
    time = np.arange(len(force)) / file.analog_rate
    up = axes[:, 2] if axes[1, 2] > 0 else -axes[:, 2]
    sign = -1.0 if _points_down(force @ up) else 1.0
    offset, noise, note = _baseline(sign * (force @ up), sign * np.hstack([force, moment]), file.analog_rate)
    if not remove_offset:
        offset, note = np.zeros(6), "offset kept"
    if np.linalg.norm(offset[:3]) > threshold:
        text = f"{file.path}: {name} reads {np.linalg.norm(offset[:3]):.1f} N while nothing stands on it; the offset is removed"
        warnings.warn(text, DataWarning, stacklevel=5)
    wrench = sign * np.hstack([force, moment]) - offset
    level = max(threshold, 5 * noise)
    contact = _clean_contact(wrench[:, :3] @ up > level, file.analog_rate)
    centre = corners.mean(axis=0)
    cop, twist = _on_surface(wrench[:, :3], wrench[:, 3:], axes[:, 2])
    turned = "; signs turned, it was recorded as the action on the plate" if sign < 0 else ""
    return Plate(
        name,
        time,
        np.where(contact[:, None], wrench[:, :3], 0.0),
        np.where(contact[:, None], centre + cop, np.nan),
        np.where(contact[:, None], twist, 0.0),
        corners,
        contact,
        f"{name}: {note}, contact above {level:.0f} N{turned}",
    )


def _points_down(vertical: Array) -> bool:
    strong = vertical[np.abs(vertical) > 0.5 * np.abs(vertical).max()] if vertical.size else vertical
    return bool(strong.size and np.median(strong) < 0)


def _baseline(vertical: Array, wrench: Array, rate: float) -> tuple[Array, float, str]:
    """Wrench and vertical noise of the unloaded plate, and what was found; zero where it is never unloaded."""
    level = float(np.percentile(vertical, 5))
    for _ in range(3):
        near = np.abs(vertical - level) < CONTACT_THRESHOLD
        level = float(np.median(vertical[near])) if near.any() else level
    loaded_throughout = abs(level) > _LARGEST_OFFSET or (level > CONTACT_THRESHOLD and level > 0.25 * np.percentile(vertical, 95))
    if loaded_throughout or near.sum() < 0.02 * rate:
        return np.zeros(6), 0.0, "never unloaded, no offset removed"
    offset = np.median(wrench[near], axis=0)
    noise = 1.4826 * float(np.median(np.abs(vertical[near] - level)))
    return offset, noise, f"offset of {np.linalg.norm(offset[:3]):.2f} N removed ({near.sum() / rate:.2f} s unloaded)"


def _clean_contact(mask: NDArray[np.bool_], rate: float) -> NDArray[np.bool_]:
    mask = mask.copy()
    for start, stop in runs(~mask):
        if start > 0 and stop < len(mask) and stop - start <= _LONGEST_DROPOUT * rate:
            mask[start:stop] = True
    for start, stop in runs(mask):
        if stop - start < _SHORTEST_CONTACT * rate:
            mask[start:stop] = False
    return mask


def _on_surface(force: Array, moment: Array, normal: Array) -> tuple[Array, Array]:
    """Where in the plane through the reference point the force acts, and the moment that is left along the normal."""
    along = force @ normal
    safe = np.where(along == 0, np.nan, along)
    point = np.cross(normal, moment) / safe[:, None]
    left = moment - np.cross(point, force)
    return point, (left @ normal)[:, None] * normal


def assign_plates_to_feet(
    plates: Sequence[Plate],
    feet: Mapping[str, tuple[Array, Array]],
    *,
    source: object = "the plates",
) -> xr.Dataset:
    """Ground force per foot, from plates that do not know whose foot stands on them.

    Each contact goes to the foot whose markers are nearest to the centre of pressure and low. Where both feet stand on
    one plate at once the shares cannot be told apart: while they do, the force of both is NaN. Where a foot stands beside
    the plates, wholly or in part, its force is NaN.

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
    floor = max(float(p.corners[:, 1].max()) for p in plates)
    tracks = [_Foot.of(*feet[body], floor) for body in feet]
    sums = [_Sum.of(len(time)) for _ in feet]
    unknown, notes = _share_out(plates, tracks, sums)
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
    unknown = np.stack([_beside_plates(foot, plates, time) for foot in feet], axis=1)
    notes = []
    for plate in plates:
        for start, stop in runs(plate.contact):
            owners, why = _owners(plate, slice(start, stop), feet)
            for i, total in enumerate(sums):
                total.add(plate, start + np.flatnonzero(owners == i))
            unknown[start:stop] |= (owners == _UNKNOWN)[:, None]
            if why:
                notes.append(f"{plate.name} {time[start]:.2f}-{time[stop - 1]:.2f} s: {why}")
    return unknown, notes


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
        point, twist = _on_surface(self.force, about, up)
        return (
            np.where(touching[:, None], self.force, 0.0),
            np.where(touching[:, None], point + level, 0.0),
            np.where(touching[:, None], twist, 0.0),
        )
