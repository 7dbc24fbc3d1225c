"""Markers and force plates in .c3d files, turned into the ground frame at the door."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.adapters.c3d_bytes import C3dFile, read_c3d_bytes
from imdy_plugin.adapters.force_plates import CONTACT_THRESHOLD, read_plates
from imdy_plugin.adapters.marker_checks import (
    LENGTH_UNITS,
    common_prefix,
    foot_tracks,
    frozen_markers,
    unique_labels,
    vertical_direction,
)
from imdy_plugin.adapters.plate_assignment import assign_plates_to_feet
from imdy_plugin.errors import DataWarning, FileFormatError, InputError
from imdy_plugin.interfaces import MarkerReader
from imdy_plugin.schema import new_motion

Array = NDArray[np.float64]

_AXIS = {"X": 0, "Y": 1, "Z": 2}
_OTHER_KINDS = ("ANGLES", "FORCES", "MOMENTS", "POWERS", "SCALARS", "REACTIONS")


class C3dReader(MarkerReader):
    """Reads .c3d files: markers, and the ground's force on each foot from types 1 to 4 of force plates.

    Parameters
    ----------
    up
        Which of the file's axes points up, such as ``"z"`` or ``"-y"``, where the file does not say so itself.
    units
        Unit of length of the points, where the file does not state it.
    strip_prefix
        Whether to take ``subject:`` off labels that all have the same.
    duplicates
        ``"error"`` refuses a label that occurs twice; ``"suffix"`` keeps both as ``name``, ``name_2``.
    threshold
        Vertical force [N] above which something stands on a plate.
    remove_offset
        Whether what an unloaded plate reads is taken off.
    foot_bodies
        Names of the bodies that the ground acts on, right and left.
    """

    name: ClassVar[str] = "c3d"
    summary: ClassVar[str] = "markers and force plates in .c3d files"

    def __init__(
        self,
        *,
        up: str | None = None,
        units: str | None = None,
        strip_prefix: bool = True,
        duplicates: Literal["error", "suffix"] = "error",
        threshold: float = CONTACT_THRESHOLD,
        remove_offset: bool = True,
        foot_bodies: Sequence[str] = ("calcn_r", "calcn_l"),
    ) -> None:
        if up is not None and up.lower().lstrip("+-") not in ("x", "y", "z"):
            raise InputError(f"up is '{up}', must be one of x, y, z with or without a sign")
        self.up, self.units, self.strip_prefix, self.duplicates = up, units, strip_prefix, duplicates
        self.threshold, self.remove_offset, self.foot_bodies = threshold, remove_offset, tuple(foot_bodies)

    def accepts(self, source: Any) -> bool:
        """Whether ``source`` is a path that ends in .c3d."""
        return isinstance(source, str | os.PathLike) and Path(source).suffix.lower() == ".c3d"

    def read(self, source: Any) -> xr.Dataset:
        """Read the markers of a .c3d file.

        Points that are angles, forces, moments, powers or scalars by the file's own lists are left out, and so are points
        without a name. Time begins at zero with the first frame; ``attrs["first_frame"]`` has its number.

        Returns
        -------
        xarray.Dataset
            A motion with ``marker_position`` (time, marker, axis) in metres, NaN where the file marks a point invalid.

        Raises
        ------
        FileFormatError
            The bytes are no C3D or fewer than stated, there are no markers, the unit is unknown, the vertical is not
            stated or stated in two ways, or a label occurs twice.

        Warns
        -----
        DataWarning
            Zeros as missing, a marker that stands still while the others move, counts or rates that do not fit.
        """
        return self._markers(read_c3d_bytes(source))[0]

    def read_ground_force(self, source: Any) -> xr.Dataset | None:
        """Ground force per foot at the plates' own rate, or None where the file holds no plates.

        The plates' forces are given to the feet by :func:`~imdy_plugin.adapters.plate_assignment.assign_plates_to_feet`, with
        heel and toe markers found by common names.

        Raises
        ------
        FileFormatError
            As for :meth:`read`; or no foot markers were found.
        """
        file = read_c3d_bytes(source)
        if not file.numbers("FORCE_PLATFORM", "USED").any() or not file.analog.size:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)  # the same markers' warnings come from read()
            motion, rotation, metres = self._markers(file)
        plates = read_plates(file, rotation, metres, self.threshold, remove_offset=self.remove_offset)
        return assign_plates_to_feet(plates, foot_tracks(motion, self.foot_bodies, file.path), source=file.path).assign_attrs(source=str(file.path))

    def _markers(self, file: C3dFile) -> tuple[xr.Dataset, Array, float]:
        metres = self._metres(file)
        labels, columns = _marker_columns(file)
        if not labels:
            raise FileFormatError(file.path, "holds no markers (no points, or none that is a position with a name)", "markers are needed; export them too")
        prefix = common_prefix(labels) if self.strip_prefix else ""
        names = unique_labels([n.removeprefix(prefix) for n in labels], self.duplicates, file.path)
        position, zeros = _zeros_to_missing(file.path, file.points[:, columns])
        rotation, reason = _rotation(file, names, position, self.up)
        position = position @ rotation.T * metres
        time = np.arange(len(position)) / file.point_rate
        for name, (start, stop) in frozen_markers(names, time, position).items():
            text = f"{file.path}: marker '{name}' stands still from {start:g} to {stop:g} s while others move; was it filled?"
            warnings.warn(text, DataWarning, stacklevel=4)
        left_out = file.points.shape[1] - len(names)
        log = f"read {len(names)} markers and {len(time)} frames from {file.path.name} ({left_out} other points left out); {reason}"
        log += f"; prefix '{prefix}' taken off the names" if prefix else ""
        attrs = {
            "source": str(file.path),
            "source_units": (self.units or "".join(file.texts("POINT", "UNITS")[:1])),
            "source_rotation": rotation.ravel().tolist(),
            "first_frame": file.first_frame,
            "zeros_as_missing": zeros,
        }
        return new_motion(time, markers=(names, position), log=log, attrs=attrs), rotation, metres

    def _metres(self, file: C3dFile) -> float:
        unit = self.units or "".join(file.texts("POINT", "UNITS")[:1])
        if unit.lower() not in LENGTH_UNITS:
            found = f"POINT:UNITS is '{unit}'" if unit else "states no POINT:UNITS"
            fix = f"read it with C3dReader(units=...); known units: {', '.join(sorted(LENGTH_UNITS))}"
            raise FileFormatError(file.path, found, fix)
        return LENGTH_UNITS[unit.lower()]


def _marker_columns(file: C3dFile) -> tuple[list[str], list[int]]:
    """Labels and columns of the points that are positions and have a name."""
    labels = file.texts("POINT", "LABELS")[: file.points.shape[1]]
    other = {_bare(label) for kind in _other_kinds(file) for label in file.texts("POINT", kind)}
    kept = [(i, label) for i, label in enumerate(labels) if _bare(label) and not _bare(label).startswith("*") and _bare(label) not in other]
    return [label for _, label in kept], [i for i, _ in kept]


def _other_kinds(file: C3dFile) -> list[str]:
    """Names of the file's lists of points that are no positions; a list of its own is one if its unit is no length."""
    groups = file.texts("POINT", "TYPE_GROUPS")
    own = [g for g, single in zip(groups[::2], groups[1::2], strict=False) if _has_foreign_unit(file, single)]
    return list(dict.fromkeys([*_OTHER_KINDS, *own]))


def _has_foreign_unit(file: C3dFile, single: str) -> bool:
    unit = "".join(file.texts("POINT", f"{single}_UNITS")[:1]).lower()
    return bool(unit) and unit not in LENGTH_UNITS


def _bare(label: str) -> str:
    return label.rpartition(":")[2].strip()


def _zeros_to_missing(path: Path, position: Array) -> tuple[Array, int]:
    zeros = (position == 0).all(axis=-1)
    if zeros.any():
        warnings.warn(f"{path}: {int(zeros.sum())} marker positions are exactly 0, 0, 0; taken as missing", DataWarning, stacklevel=5)
    return np.where(zeros[..., None], np.nan, position), int(zeros.sum())


def _rotation(file: C3dFile, names: Sequence[str], position: Array, up: str | None) -> tuple[Array, str]:
    """Rotation into the ground frame and how it was found.

    The vertical is what the caller said; else the file's Y_SCREEN, the normal of the plates and the direction from feet to
    pelvis, which must not contradict each other.
    """
    if up is not None:
        axis = up.upper() if up[0] in "+-" else f"+{up.upper()}"
        return _upright(axis), f"{axis} is up, as asked"
    screen = _screen(file)
    evidence = {
        "Y_SCREEN": screen[1] if screen else "",
        "the plates' surface": _plate_normal(file, position),
        "the markers of feet and pelvis": _axis_name(vertical_direction(names, position)),
    }
    found = {source: axis for source, axis in evidence.items() if axis}
    if not found:
        raise FileFormatError(
            file.path, "does not say which axis is up (no screen axes, plates, or feet and pelvis by name)", "read it with C3dReader(up='z') or up='y'"
        )
    if len(set(found.values())) > 1:
        said = ", ".join(f"{source}: {axis}" for source, axis in found.items())
        raise FileFormatError(file.path, f"contradicts itself about which axis is up ({said})", "read it with C3dReader(up='z') or up='y'")
    source, axis = next(iter(found.items()))
    rotation = _from_screen(*screen) if screen else _upright(axis)
    rows = ", ".join(f"{name} = {_axis_name(row)}" for name, row in zip("xyz", rotation, strict=True))
    return rotation, f"{axis} is up by {source}; ground {rows}"


def _screen(file: C3dFile) -> tuple[str, str] | None:
    axes = [_signed("".join(file.texts("POINT", name)[:1])) for name in ("X_SCREEN", "Y_SCREEN")]
    return (axes[0], axes[1]) if axes[0] and axes[1] and axes[0][1] != axes[1][1] else None


def _signed(text: str) -> str:
    text = text.strip().upper()
    text = text if text[:1] in ("+", "-") else f"+{text}"
    return text if text[1:] in _AXIS else ""


def _vector(axis: str) -> Array:
    vector = np.zeros(3)
    vector[_AXIS[axis[1]]] = -1.0 if axis[0] == "-" else 1.0
    return vector


def _axis_name(direction: Array | None) -> str:
    if direction is None:
        return ""
    i = int(np.abs(direction).argmax())
    return f"{'-' if direction[i] < 0 else '+'}{'XYZ'[i]}"


def _from_screen(right: str, up: str) -> Array:
    x, y = _vector(right), _vector(up)
    return np.stack([x, y, np.cross(x, y)])


def _upright(up: str) -> Array:
    """Ground x is the file's x where that lies flat, else its y."""
    return _from_screen("+Y" if up[1] == "X" else "+X", up)


def _plate_normal(file: C3dFile, position: Array) -> str:
    """Up by the first plate: normal to its surface, on the side of the markers; empty where that is along no axis."""
    corners = file.numbers("FORCE_PLATFORM", "CORNERS").ravel(order="F")[:12]
    if len(corners) < 12 or not np.isfinite(corners).all():
        return ""
    corner = corners.reshape(3, 4, order="F").T
    normal = np.cross(corner[0] - corner[2], corner[1] - corner[3])
    size = np.linalg.norm(normal)
    if size == 0 or np.abs(normal).max() < 0.99 * size or np.isnan(position).all():
        return ""
    side = np.nanmedian((position - corner.mean(axis=0)) @ normal)
    return _axis_name(normal * np.sign(side)) if side else ""
