"""Force plates: from analog channels to force and centre of pressure in the ground frame.

Plate types 1 to 4 and the meaning of ``CORNERS``, ``ORIGIN`` and ``CAL_MATRIX`` follow the C3D user guide (c3d.org,
"Force platform parameters"). In a plate's own frame x and y lie in its surface, corner 1 in the quadrant +x +y, 2 in
-x +y, 3 in -x -y, 4 in +x -y, and z = x cross y (into the floor on most plates).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imdy_plugin.adapters.c3d_bytes import C3dFile
from imdy_plugin.adapters.marker_checks import LENGTH_UNITS
from imdy_plugin.errors import DataWarning, FileFormatError
from imdy_plugin.runs import runs

Array = NDArray[np.float64]

CONTACT_THRESHOLD = 20.0
"""Vertical force [N] above which something stands on a plate."""

_FORCE_UNITS = {"n": 1.0, "newton": 1.0, "newtons": 1.0, "kn": 1000.0}
_MOMENT_UNITS = {"nm": 1.0, "nmm": 1e-3, "ncm": 1e-2, "knm": 1e3}

_CHANNELS = {1: 6, 2: 6, 3: 8, 4: 6}
_LARGEST_OFFSET = 100.0
"""A plate that never reads less [N] bears somebody throughout; less can be drift of the amplifier."""
_SHORTEST_CONTACT, _LONGEST_DROPOUT = 0.03, 0.01
"""Shorter loads [s] are spikes; shorter losses of load are noise around the threshold."""


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
        Corners of the surface [m] (4, 3), NaN where its place is not known.
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
    return np.array([*force, *(LENGTH_UNITS.get(u, metres) for u in units[3:5]), _MOMENT_UNITS.get(units[5], moment)])


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
    contact = clean_contact(wrench[:, :3] @ up > level, file.analog_rate)
    centre = corners.mean(axis=0)
    cop, twist = on_surface(wrench[:, :3], wrench[:, 3:], axes[:, 2])
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


def clean_contact(mask: NDArray[np.bool_], rate: float) -> NDArray[np.bool_]:
    """A mask of loaded samples at ``rate`` [Hz] without spikes, and without losses of load that are noise around the threshold."""
    mask = mask.copy()
    for start, stop in runs(~mask):
        if start > 0 and stop < len(mask) and stop - start <= _LONGEST_DROPOUT * rate:
            mask[start:stop] = True
    for start, stop in runs(mask):
        if stop - start < _SHORTEST_CONTACT * rate:
            mask[start:stop] = False
    return mask


def on_surface(force: Array, moment: Array, normal: Array) -> tuple[Array, Array]:
    """Where a wrench acts on a surface through its reference point.

    Parameters
    ----------
    force, moment
        Force [N] and moment about the reference point [N m], each (time, 3).
    normal
        Unit normal of the surface (3).

    Returns
    -------
    tuple
        Point of application from the reference point [m], NaN where no force presses, and the moment about it along the normal [N m], each (time, 3).
    """
    along = force @ normal
    safe = np.where(along == 0, np.nan, along)
    point = np.cross(normal, moment) / safe[:, None]
    left = moment - np.cross(point, force)
    return point, (left @ normal)[:, None] * normal
