"""Markers that are already in memory: xarray objects and OpenSim tables."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import xarray as xr

from imdy_plugin._opensim import is_opensim_object
from imdy_plugin.adapters.marker_checks import LENGTH_UNITS, unique_labels
from imdy_plugin.errors import InvalidDatasetError, UnknownNameError
from imdy_plugin.interfaces import MarkerReader
from imdy_plugin.schema import add_log, new_motion, validate_motion


class XarrayReader(MarkerReader):
    """Reads an :class:`xarray.Dataset` that is a motion, or an :class:`xarray.DataArray` of marker positions."""

    name: ClassVar[str] = "xarray"
    summary: ClassVar[str] = "markers in an xarray Dataset or DataArray (time, marker, axis)"

    def accepts(self, source: Any) -> bool:
        """Whether ``source`` is an xarray object."""
        return isinstance(source, xr.Dataset | xr.DataArray)

    def read(self, source: Any) -> xr.Dataset:
        """Check a motion that is in memory and bring its markers to metres; ``source`` itself is not changed.

        Parameters
        ----------
        source
            A motion, or positions with dimensions time, marker, axis and coordinates for each; ``attrs["units"]`` of the
            positions is a unit of length.

        Raises
        ------
        InvalidDatasetError
            Everything that keeps it from being a motion.
        UnknownNameError
            The unit is unknown.
        """
        motion = source.rename("marker_position").to_dataset() if isinstance(source, xr.DataArray) else source
        if "marker_position" in motion:
            motion = _in_metres(motion)
        validate_motion(motion)
        return motion

    def read_ground_force(self, source: Any) -> xr.Dataset | None:
        """Ground forces that the dataset holds, or None."""
        variables = ["ground_force", "center_of_pressure", "free_moment"]
        if not isinstance(source, xr.Dataset) or not all(v in source for v in variables):
            return None
        motion = source[variables]
        validate_motion(motion)
        return motion


def _in_metres(motion: xr.Dataset) -> xr.Dataset:
    position = motion["marker_position"]
    unit = str(position.attrs.get("units", "")).strip().lower()
    if not unit:
        raise InvalidDatasetError("motion", ["marker_position has no attrs['units'], such as 'm' or 'mm'"])
    factor = _metres_per(unit)
    if factor == 1.0:
        return motion.assign(marker_position=position.astype(float).assign_attrs(units="m"))
    scaled = (position * factor).assign_attrs(position.attrs, units="m")
    return add_log(motion.assign(marker_position=scaled), f"marker_position from {unit} to m")


def _metres_per(unit: str) -> float:
    try:
        return LENGTH_UNITS[unit]
    except KeyError:
        raise UnknownNameError("unit of length", unit, LENGTH_UNITS) from None


class OpenSimTableReader(MarkerReader):
    """Reads an ``opensim.TimeSeriesTableVec3`` of marker positions."""

    name: ClassVar[str] = "opensim-table"
    summary: ClassVar[str] = "markers in an opensim.TimeSeriesTableVec3 (y up)"

    def accepts(self, source: Any) -> bool:
        """Whether ``source`` is a ``TimeSeriesTableVec3``."""
        return is_opensim_object(source, "TimeSeriesTableVec3")

    def read(self, source: Any) -> xr.Dataset:
        """Read a table of marker positions.

        Parameters
        ----------
        source
            A ``TimeSeriesTableVec3`` with ``Units`` in its metadata; NaN is a missing marker.

        Raises
        ------
        InvalidDatasetError
            The table states no unit or is no lawful motion.
        UnknownNameError
            The unit is unknown.
        FileFormatError
            A label occurs twice.
        """
        unit = _table_unit(source)
        names = unique_labels([str(n) for n in source.getColumnLabels()], "error", "TimeSeriesTableVec3")
        rows, columns = int(source.getNumRows()), len(names)
        if not rows or not columns:
            raise InvalidDatasetError("motion", [f"the table has {rows} rows and {columns} columns"])
        flat = source.flatten()
        position = flat.getMatrix().to_numpy().reshape(rows, columns, 3) * _metres_per(unit)
        incomplete = np.isnan(position).any(axis=-1, keepdims=True)
        time = np.asarray(source.getIndependentColumn(), float)
        log = f"read {columns} markers and {rows} frames from a TimeSeriesTableVec3 ({unit} to m)"
        return new_motion(time, markers=(names, np.where(incomplete, np.nan, position)), log=log, attrs={"source": "TimeSeriesTableVec3", "source_units": unit})


def _table_unit(table: Any) -> str:
    if not table.hasTableMetaDataKey("Units"):
        raise InvalidDatasetError("motion", ["the table's metadata has no 'Units'; add it: table.addTableMetaDataString('Units', 'mm')"])
    return str(table.getTableMetaDataString("Units")).strip().lower()
