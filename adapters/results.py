"""A result as the files that OpenSim's own tools read next, and reading the generalized forces that OpenSim wrote."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.adapters.coordinates import write_coordinates
from imdy_plugin.adapters.external_loads import ground_force_is_known, write_ground_force
from imdy_plugin.adapters.netcdf import write_netcdf
from imdy_plugin.adapters.storage import read_table, write_table
from imdy_plugin.errors import DataWarning, FileFormatError, InputError
from imdy_plugin.runs import longest_run, runs

_SUFFIXES = {"N m": "_moment", "N": "_force"}


def write_result_files(result: xr.Dataset, folder: str | os.PathLike[str], stem: str, model: xr.Dataset | None = None) -> dict[str, Path]:
    """Write a result as files.

    OpenSim drops rows with NaN without a word, so frames that the result does not know are cut from its files: each holds the longest
    span that is known (of ground forces and coordinates, the one that shares most with that of the generalized forces), and a
    :class:`~imdy_plugin.errors.DataWarning` says which. The NetCDF file holds everything.

    Parameters
    ----------
    result
        See :func:`imdy_plugin.schema.validate_result`.
    folder
        Where to; made when it does not exist.
    stem
        How the files' names begin.
    model
        Tells which coordinates are rotations, so that they are written in degrees; without it they are written in radians.

    Returns
    -------
    dict
        Path of each file written: ``netcdf`` (``<stem>.nc``), ``id`` (``<stem>_id.sto``, columns as OpenSim's InverseDynamicsTool
        names them: ``knee_angle_r_moment``, ``pelvis_tx_force``), ``ground_force`` (``<stem>_grf.mot``), ``external_loads``
        (``<stem>_external_loads.xml``) and, where the result holds coordinates, ``coordinates`` (``<stem>_coordinates.mot``).
        A file of which no frame is known is left out, with a warning.
    """
    base = Path(folder)
    id_file, ground_file = base / f"{stem}_id.sto", base / f"{stem}_grf.mot"
    files = {"netcdf": write_netcdf(result, base / f"{stem}.nc")}
    if _is_known(result, "generalized_force", id_file):
        files["id"] = write_generalized_force(result, id_file)
    if result.sizes["body"] and _is_known(result, "ground_force", ground_file):
        near = _beside_moments(result, ground_force_is_known(result), "ground_force", ground_file)
        files["ground_force"], files["external_loads"] = write_ground_force(near, ground_file, base / f"{stem}_external_loads.xml")
    if "coordinate_value" in result:
        coordinates_file = base / f"{stem}_coordinates.mot"
        if _is_known(result, "coordinate_value", coordinates_file):
            near = _beside_moments(result, _known_frames(result, "coordinate_value"), "coordinate_value", coordinates_file)
            files["coordinates"] = write_coordinates(_known_part(near, "coordinate_value", coordinates_file), coordinates_file, model)
    return files


def write_generalized_force(result: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write ``generalized_force`` [N m or N] with the column names of OpenSim's InverseDynamicsTool.

    Frames that are unknown are cut: the longest span that is known is written, with a warning.

    Raises
    ------
    InputError
        No frame is known, or a unit is neither ``N m`` nor ``N``.
    """
    file = Path(path)
    known = _known_part(result, "generalized_force", file)
    units = [str(u) for u in known["generalized_force_unit"].values]
    unknown = sorted(set(units) - set(_SUFFIXES))
    if unknown:
        raise InputError(f"generalized_force_unit holds {unknown}; must be 'N m' or 'N'")
    names = id_column_names([str(c) for c in known["coordinate"].values], units)
    return write_table(file, names, known["time"].values, known["generalized_force"].values, name="Inverse Dynamics Generalized Forces")


def write_known_coordinates(motion: xr.Dataset, path: str | os.PathLike[str], model: xr.Dataset | None = None) -> Path:
    """Write ``coordinate_value`` as :func:`~imdy_plugin.adapters.coordinates.write_coordinates` does, cut to the longest span that is known, with a warning.

    Raises
    ------
    InputError
        No frame is known.
    """
    file = Path(path)
    return write_coordinates(_known_part(motion, "coordinate_value", file), file, model)


def id_column_names(coordinates: Sequence[str], units: Sequence[str]) -> list[str]:
    """Column names of OpenSim's InverseDynamicsTool: ``_moment`` where the unit is N m, ``_force`` where it is N."""
    return [f"{name}{_SUFFIXES[unit]}" for name, unit in zip(coordinates, units, strict=True)]


def read_id_sto(path: str | os.PathLike[str]) -> tuple[NDArray[np.float64], tuple[str, ...], NDArray[np.float64]]:
    """Read generalized forces that OpenSim's InverseDynamicsTool wrote.

    Returns
    -------
    tuple
        Time [s] ``(T,)``, coordinate names without ``_moment`` or ``_force``, and values [N m or N] ``(T, C)``.

    Raises
    ------
    FileFormatError
        A column is named neither ``..._moment`` nor ``..._force``.
    """
    table = read_table(path)
    names = tuple(re.sub(r"_(moment|force)$", "", name) for name in table.names)
    other = [name for name, short in zip(table.names, names, strict=True) if name == short]
    if other:
        raise FileFormatError(table.path, f"column '{other[0]}' ends neither in _moment nor in _force", "give the results file of inverse dynamics")
    return table.time, names, table.values


def _is_known(result: xr.Dataset, variable: str, path: Path) -> bool:
    """Whether any frame of a variable is known (beside coordinates that never are); warns where none is."""
    frames = ground_force_is_known(result) if variable == "ground_force" else _known_frames(result, variable)
    if not frames.any():
        warnings.warn(f"{path}: no frame of {variable} is known; not written", DataWarning, stacklevel=3)
    return bool(frames.any())


def _known_frames(result: xr.Dataset, variable: str) -> NDArray[np.bool_]:
    """Frames in which every coordinate that is known at all is known, ``(time,)``."""
    finite = np.isfinite(result[variable].values)
    frames: NDArray[np.bool_] = finite[:, finite.any(axis=0)].all(axis=1) & finite.any()
    return frames


def _beside_moments(result: xr.Dataset, known: NDArray[np.bool_], variable: str, path: Path) -> xr.Dataset:
    """Cut a result to the run of ``known`` frames that shares most with the written generalized forces, where that is not the longest.

    OpenSim's tools read these files together, and extrapolate forces without a word where they end too early.
    """
    moments, longest = longest_run(_known_frames(result, "generalized_force")), longest_run(known)

    def shared(run: tuple[int, int]) -> tuple[int, int]:
        return min(run[1], moments.stop) - max(run[0], moments.start), run[1] - run[0]

    start, stop = max(runs(known), key=shared)
    if moments.start == moments.stop or start == longest.start:
        return result
    time = result["time"].values
    text = f"wrote {variable} from {time[start]:g} to {time[stop - 1]:g} s, the known span that goes with the generalized forces"
    warnings.warn(f"{path}: {text} ({stop - start} of {time.size} frames)", DataWarning, stacklevel=3)
    return result.isel(time=slice(start, stop))


def _known_part(result: xr.Dataset, variable: str, path: Path) -> xr.Dataset:
    """Cut a result to the coordinates and the longest span of frames that ``variable (time, coordinate)`` knows."""
    finite = np.isfinite(result[variable].values)
    columns = finite.any(axis=0)
    span = longest_run(finite[:, columns].all(axis=1)) if columns.any() else slice(0, 0)
    if span.stop == span.start:
        raise InputError(f"no frame of {variable} is known; there is nothing to write to {path}")
    if not finite.all():
        warnings.warn(f"{path}: {_told(result, variable, columns, span)}", DataWarning, stacklevel=3)
    return result.isel(time=span, coordinate=np.flatnonzero(columns))


def _told(result: xr.Dataset, variable: str, columns: NDArray[np.bool_], span: slice) -> str:
    time = result["time"].values
    count = f"{span.stop - span.start} of {time.size} frames"
    told = f"wrote {variable} from {time[span.start]:g} to {time[span.stop - 1]:g} s, the longest span that is known ({count})"
    lost = [str(c) for c in result["coordinate"].values[~columns]]
    return f"{told}; left out {', '.join(lost)}, known in no frame" if lost else told
