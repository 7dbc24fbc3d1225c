"""Joint coordinates over time: from .mot and .sto into a motion in the model's order and units, and back out."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.adapters.storage import Table, read_table, write_table
from imdy_plugin.errors import DataWarning, FileFormatError, InputError, suggest
from imdy_plugin.schema import new_motion

LARGEST_SILENT_ANGLE = np.pi
"""Largest angle [rad] that a file without ``inDegrees`` may hold and still be taken for radians, as OpenSim does."""

LARGEST_STATED_RADIANS = 4 * np.pi
"""Largest angle [rad] that a file with ``inDegrees=no`` may hold: two full turns."""

LARGEST_COUPLING_ERROR = 0.1
"""Mean difference [rad] between a coupled coordinate and what couples it, above which a file is suspicious."""

_STATE_PATH = re.compile(r"^/?(?:[^/]+/)*(?P<coordinate>[^/]+)/(?P<kind>value|speed)$")


def read_coordinates(
    path: str | os.PathLike[str],
    model: xr.Dataset,
    *,
    degrees: bool | None = None,
    use_defaults: bool = False,
) -> xr.Dataset:
    """Read joint coordinates of ``model``.

    Columns are named by coordinate (``knee_angle_r``) or by state (``/jointset/walker_knee_r/knee_angle_r/value``; speeds
    are left out). Coordinates of kind ``rotational`` are turned from degrees to radians where the file is in degrees;
    others are in metres and stay as they are. Coupled coordinates stay too, as in OpenSim, unless their coupling shows that
    the file has them in degrees. A coordinate that the file lacks but that the model locks, or couples to another by a
    straight line, takes its value from the model.

    Parameters
    ----------
    path
        A .mot or .sto file.
    model
        A model (:func:`imdy_plugin.schema.validate_model`); it gives order, kind, defaults and couplings.
    degrees
        Whether angles are in degrees, for a file whose header is silent (or wrong). By default the header's ``inDegrees``
        decides. A silent header counts as radians, as in OpenSim, only while no angle exceeds
        :data:`LARGEST_SILENT_ANGLE`; beyond that the file is refused.
    use_defaults
        Give a coordinate that the file lacks the model's default, with a warning, instead of raising.

    Returns
    -------
    xarray.Dataset
        A motion with ``coordinate_value (time, coordinate)`` [rad or m] in the model's order.

    Raises
    ------
    FileFormatError
        What :func:`~imdy_plugin.adapters.storage.read_table` raises; NaN; a missing coordinate; a silent header with
        angles that look like degrees.
    """
    table = read_table(path)
    columns = _columns_by_coordinate(table)
    names = [str(n) for n in model["coordinate"].values]
    _warn_about_extra(table, columns, names)
    values = np.full((table.time.size, len(names)), np.nan)
    for i, name in enumerate(names):
        if name in columns:
            values[:, i] = table.values[:, columns[name]]
    rotational = [i for i, kind in enumerate(model["coordinate_kind"].values) if kind == "rotational" and names[i] in columns]
    in_degrees = _angles_in_degrees(table, values[:, rotational], [names[i] for i in rotational], degrees)
    if in_degrees:
        values[:, rotational] = np.deg2rad(values[:, rotational])
        _turn_coupled(table, model, names, values)
    _warn_about_wraps(table, [names[i] for i in rotational], values[:, rotational])
    _fill_missing(table, model, list(columns), values, use_defaults)
    log = f"read coordinates from {table.path.name} ({'degrees' if in_degrees else 'radians'})"
    return new_motion(table.time, coordinates=(names, values), log=log, attrs={"source": str(table.path)})


def read_coordinate_columns(path: str | os.PathLike[str], model: xr.Dataset, names: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read some coordinates of ``model`` from a file that may lack the others.

    Parameters
    ----------
    path, model
        As in :func:`read_coordinates`.
    names
        Coordinates of the model.

    Returns
    -------
    tuple
        Time [s] ``(time,)`` and values [rad or m] ``(time, name)``.

    Raises
    ------
    FileFormatError
        As :func:`read_coordinates` raises it.
    """
    table = read_table(path)
    columns = _columns_by_coordinate(table)
    lacking = [name for name in names if name not in columns]
    if lacking:
        raise FileFormatError(table.path, f"holds no coordinate '{lacking[0]}': {suggest(lacking[0], columns)}", "add the column, or draw to another value")
    values = table.values[:, [columns[name] for name in names]].copy()
    rotational = np.flatnonzero(_is_rotational(model, list(names))).tolist()
    if _angles_in_degrees(table, values[:, rotational], [names[i] for i in rotational], None):
        values[:, rotational] = np.deg2rad(values[:, rotational])
    return table.time, values


def write_coordinates(motion: xr.Dataset, path: str | os.PathLike[str], model: xr.Dataset | None = None) -> Path:
    """Write ``coordinate_value`` of a motion or result as a motion file: in degrees where a model tells which coordinates are rotations.

    Without a model the file is in radians, and its header says so. Units of force do not tell a rotation: a coordinate that is coupled to
    an angle, such as a patella's, carries N m too, but OpenSim never converts it and would read its degrees as radians.

    Parameters
    ----------
    motion
        Holds ``coordinate_value (time, coordinate)`` [rad or m].
    path
        The ``.mot`` to write.
    model
        Tells which coordinates are rotations (``coordinate_kind``).

    Raises
    ------
    InputError
        There are no coordinates, a value is not finite, or the model lacks a coordinate.
    """
    if "coordinate_value" not in motion:
        raise InputError("there is no coordinate_value to write")
    names = [str(n) for n in motion["coordinate"].values]
    scale = np.where(_is_rotational(model, names), 180.0 / np.pi, 1.0) if model is not None else 1.0
    return write_table(path, names, motion["time"].values, motion["coordinate_value"].values * scale, in_degrees=model is not None, name="Coordinates")


def _columns_by_coordinate(table: Table) -> dict[str, int]:
    columns: dict[str, int] = {}
    for i, name in enumerate(table.names):
        state = _STATE_PATH.match(name)
        if state and state["kind"] == "speed":
            continue
        coordinate = state["coordinate"] if state else name
        if coordinate in columns:
            raise FileFormatError(table.path, f"columns '{table.names[columns[coordinate]]}' and '{name}' both hold '{coordinate}'", "remove one of them")
        columns[coordinate] = i
    return columns


def _warn_about_extra(table: Table, columns: dict[str, int], names: list[str]) -> None:
    extra = [c for c in columns if c not in names]
    if extra:
        shown = "; ".join(f"'{c}' ({suggest(c, names, 2)})" for c in extra[:3])
        more = f" and {len(extra) - 3} more" if len(extra) > 3 else ""
        warnings.warn(f"{table.path}: the model has no coordinate for column {shown}{more}; left out", DataWarning, stacklevel=3)


def _angles_in_degrees(table: Table, angles: NDArray[np.float64], names: list[str], degrees: bool | None) -> bool:
    """Whether the file's angles are in degrees: as the caller says, else as the header says, if that can be."""
    reach = np.abs(angles).max(axis=0, initial=0.0)
    worst = int(reach.argmax()) if names else -1
    largest, name = (float(reach[worst]), names[worst]) if names else (0.0, "")
    if degrees is None:
        degrees = _stated_unit(table, largest, name)
    if degrees and len(names) >= 5 and 0 < largest < np.pi:
        text = f"{table.path}: taken as degrees, but no angle exceeds {largest:.3g}; if they are radians, pass degrees=False"
        warnings.warn(text, DataWarning, stacklevel=3)
    return degrees


def _stated_unit(table: Table, largest: float, name: str) -> bool:
    if table.in_degrees is None and largest > LARGEST_SILENT_ANGLE:
        found = f"the header has no inDegrees line, and '{name}' reaches {largest:.4g}, which looks like degrees"
        raise FileFormatError(table.path, found, "pass degrees=True (or degrees=False), or add the line inDegrees=yes before endheader")
    if table.in_degrees is False and largest > LARGEST_STATED_RADIANS:
        found = f"the header says inDegrees=no, but '{name}' reaches {largest:.4g}, more than two full turns in radians"
        raise FileFormatError(table.path, found, "mend the header, or pass degrees=True or degrees=False")
    return bool(table.in_degrees)


def _turn_coupled(table: Table, model: xr.Dataset, names: list[str], values: NDArray[np.float64]) -> None:
    """Turn coupled coordinates to radians where the file has them in degrees too, which older versions of OpenSim wrote."""
    for i, name in enumerate(names):
        expected = _coupled_value(model, i, values)
        if model["coordinate_kind"].values[i] != "coupled" or expected is None or np.isnan(values[:, i]).any():
            continue
        as_it_is, turned = (float(np.abs(v - expected).mean()) for v in (values[:, i], np.deg2rad(values[:, i])))
        if turned < as_it_is:
            values[:, i] = np.deg2rad(values[:, i])
        if min(turned, as_it_is) > LARGEST_COUPLING_ERROR:
            text = f"{table.path}: '{name}' differs from what the model couples it to by {min(turned, as_it_is):.2g} rad on average"
            warnings.warn(f"{text}; was the file made with another model?", DataWarning, stacklevel=3)


def _warn_about_wraps(table: Table, names: list[str], angles: NDArray[np.float64]) -> None:
    """Warn where an angle jumps by more than half a turn from one frame to the next: it was wrapped, and its velocity is wrong there."""
    steps = np.abs(np.diff(angles, axis=0))
    wrapped = np.argwhere(steps > np.pi)
    if len(wrapped):
        frame, column = wrapped[0]
        text = f"'{names[column]}' jumps by {np.rad2deg(steps[frame, column]):.0f} degrees from frame {frame} to {frame + 1}"
        warnings.warn(f"{table.path}: {text}; angles must run on beyond +-180 degrees, unwrap them", DataWarning, stacklevel=3)


def _fill_missing(table: Table, model: xr.Dataset, columns: list[str], values: NDArray[np.float64], use_defaults: bool) -> None:
    """Give each coordinate that the file lacks its value from the model, or raise for all that cannot be known."""
    unknown = []
    for i, name in enumerate(str(n) for n in model["coordinate"].values):
        if name in columns:
            continue
        known = _coupled_value(model, i, values)
        if known is None and not bool(model["coordinate_locked"].values[i]):
            unknown.append(name)
        values[:, i] = float(model["coordinate_default"].values[i]) if known is None else known
    if not unknown:
        return
    if use_defaults:
        warnings.warn(f"{table.path}: {', '.join(unknown)} missing, held at the model's default", DataWarning, stacklevel=3)
        return
    shown = ", ".join(f"'{n}'" for n in unknown[:8]) + (f" and {len(unknown) - 8} more" if len(unknown) > 8 else "")
    found = f"lacks {len(unknown)} of the model's coordinates: {shown}; '{unknown[0]}': {suggest(unknown[0], columns)}"
    raise FileFormatError(table.path, found, "rename the columns, or pass use_defaults=True to hold them at the model's default")


def _coupled_value(model: xr.Dataset, i: int, values: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Values of a coordinate that the model couples to one known coordinate by a straight line; None for any other."""
    coupling = str(model["coordinate_coupling"].values[i])
    if not coupling:
        return None
    given = json.loads(coupling)
    line, followed = _straight_line(given["function"]), given["coordinates"]
    if line is None or len(followed) != 1:
        return None
    leader = values[:, [str(n) for n in model["coordinate"].values].index(followed[0])]
    value = given.get("scale", 1.0) * (line[0] * leader + line[1])
    return None if np.isnan(value).any() else np.asarray(value)


def _straight_line(function: Mapping[str, Any]) -> tuple[float, float] | None:
    """Slope and intercept of a coupling function, or None where it is not a straight line."""
    kind = function.get("type")
    if kind == "LinearFunction":
        slope, intercept = function["coefficients"]
        return slope, intercept
    if kind == "MultiplierFunction":
        inner = _straight_line(function["function"])
        return None if inner is None else (function["scale"] * inner[0], function["scale"] * inner[1])
    x, y = np.asarray(function.get("x", []), float), np.asarray(function.get("y", []), float)
    if x.size < 2 or x.shape != y.shape:
        return None
    slope, intercept = np.polyfit(x, y, 1)
    straight = np.allclose(slope * x + intercept, y, rtol=0.0, atol=1e-9)
    return (float(slope), float(intercept)) if straight else None


def _is_rotational(model: xr.Dataset, names: list[str]) -> NDArray[np.bool_]:
    kinds = dict(zip(model["coordinate"].values, model["coordinate_kind"].values, strict=True))
    unknown = [n for n in names if n not in kinds]
    if unknown:
        raise InputError(f"the model has no coordinate {', '.join(unknown)}; {suggest(unknown[0], kinds)}")
    return np.asarray([kinds[n] == "rotational" for n in names])
