"""Datasets as NetCDF files, with attributes that NetCDF itself has no type for (None, dict, list, bool, tuple)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from imdy_plugin.adapters.safe_xml import existing_file
from imdy_plugin.atomic import replacing
from imdy_plugin.errors import FileFormatError, InputError

JSON_ATTRIBUTES = "json_attributes"
"""Attribute that lists the names of the attributes that are stored as JSON."""

_TUPLE, _ARRAY, _PAIRS = "__tuple__", "__array__", "__pairs__"
_TAGS = frozenset({_TUPLE, _ARRAY, _PAIRS})


def write_netcdf(ds: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write a dataset; the file appears only when it is complete.

    Strings and numbers are stored as they are; None, booleans, lists, tuples, dicts and arrays in attributes, of the
    dataset and of its variables, are stored as JSON and named in the attribute :data:`JSON_ATTRIBUTES`.

    Raises
    ------
    InputError
        An attribute holds something else.
    """
    file = Path(path)
    stored = _map_attributes(ds, _encode_attributes)
    with replacing(file) as temporary:
        stored.to_netcdf(temporary, engine="h5netcdf", format="NETCDF4")
    return file


def read_netcdf(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read what :func:`write_netcdf` wrote, into memory.

    Text comes back as fixed-width unicode, attributes with the types they had.

    Raises
    ------
    FileFormatError
        The file does not exist, is empty, or is not NetCDF-4.
    """
    file = existing_file(path)
    try:
        with xr.open_dataset(file, engine="h5netcdf", decode_times=False, decode_timedelta=False) as opened:
            ds = opened.load()
    except (OSError, ValueError, KeyError) as error:
        raise FileFormatError(file, f"is not a NetCDF-4 file, or is cut short: {error}", "write it with write_netcdf") from error
    ds = ds.assign_coords({n: _as_text(v) for n, v in ds.coords.items() if v.dtype.kind == "O"})
    ds = ds.assign({n: _as_text(v) for n, v in ds.data_vars.items() if v.dtype.kind == "O"})
    ds = _map_attributes(ds, lambda attributes, where: _decode_attributes(file, attributes, where))
    for variable in ds.variables.values():
        variable.encoding = {}
    ds.encoding = {}
    return ds


def _as_text(variable: xr.DataArray) -> xr.DataArray:
    return variable.astype(np.str_)


def _map_attributes(ds: xr.Dataset, change: Callable[[Mapping[Hashable, Any], str], dict[str, Any]]) -> xr.Dataset:
    changed = ds.copy()
    changed.attrs = dict(change(ds.attrs, "the dataset"))
    for name in ds.variables:
        changed[name].attrs = dict(change(ds[name].attrs, f"variable '{name}'"))
    return changed


def _encode_attributes(attributes: Mapping[Hashable, Any], where: str) -> dict[str, Any]:
    stored: dict[str, Any] = {}
    as_json = []
    for key, value in attributes.items():
        plain = value.item() if isinstance(value, np.generic) else value
        if isinstance(plain, str | int | float) and not isinstance(plain, bool) and plain != "":
            stored[str(key)] = plain
            continue
        stored[str(key)] = json.dumps(_to_json(plain, f"attribute '{key}' of {where}"))
        as_json.append(str(key))
    if as_json:
        stored[JSON_ATTRIBUTES] = json.dumps(as_json)
    return stored


def _decode_attributes(file: Path, attributes: Mapping[Hashable, Any], where: str) -> dict[str, Any]:
    given = {str(k): v.item() if isinstance(v, np.generic) else v for k, v in attributes.items()}
    try:
        for key in json.loads(given.pop(JSON_ATTRIBUTES, "[]")):
            given[key] = _from_json(json.loads(given[key]))
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError(file, f"an attribute of {where} is not the JSON that it is listed as ({error})", "write the file again") from error
    return given


def _to_json(value: Any, where: str) -> Any:
    """Turn a value to what JSON holds, with a tag where JSON would lose its type."""
    if value is None or isinstance(value, bool | str | int | float):
        return value
    if isinstance(value, np.generic):
        return _to_json(value.item(), where)
    if isinstance(value, tuple):
        return {_TUPLE: [_to_json(v, where) for v in value]}
    if isinstance(value, list):
        return [_to_json(v, where) for v in value]
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufU":
        return {_ARRAY: value.tolist(), "dtype": value.dtype.str}
    if isinstance(value, Mapping):
        return _mapping_to_json(value, where)
    raise InputError(f"{where} is a {type(value).__name__}, which cannot be stored; use None, bool, numbers, text, list, tuple, dict or an array")


def _mapping_to_json(value: Mapping[Any, Any], where: str) -> dict[str, Any]:
    if all(isinstance(k, str) and k not in _TAGS for k in value):
        return {k: _to_json(v, where) for k, v in value.items()}
    return {_PAIRS: [[_to_json(k, where), _to_json(v, where)] for k, v in value.items()]}


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(v) for v in value]
    if not isinstance(value, dict):
        return value
    if _TUPLE in value:
        return tuple(_from_json(v) for v in value[_TUPLE])
    if _ARRAY in value:
        return np.asarray(value[_ARRAY], dtype=np.dtype(value["dtype"]))
    if _PAIRS in value:
        return {_from_json(k): _from_json(v) for k, v in value[_PAIRS]}
    return {k: _from_json(v) for k, v in value.items()}
