from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from imdy_plugin.adapters.netcdf import JSON_ATTRIBUTES, read_netcdf, write_netcdf
from imdy_plugin.errors import FileFormatError, InputError
from imdy_plugin.schema import new_motion, validate_motion

VALUES = {
    "none": None,
    "dict": {"a": [1, None, (2.5, "x")], "b": {"deep": True}},
    "dict with other keys": {1: "one", (2, 3): "pair"},
    "dict that looks like a tag": {"__tuple__": [1]},
    "list": ["a", "b"],
    "empty list": [],
    "tuple": (1, 2.5, "x"),
    "true": True,
    "false": False,
    "text": "as it is",
    "empty text": "",
    "text like JSON": '{"a": 1}',
    "unicode": "Höhe µ",
    "int": 3,
    "float": 72.6,
    "nan": float("nan"),
}


def dataset(**attrs: object) -> xr.Dataset:
    values = np.arange(12.0).reshape(2, 2, 3)
    values[0, 1] = np.nan
    return new_motion([0.0, 0.01], markers=(["knee", "Ferse_ä"], values)).assign_attrs(attrs)


@pytest.mark.parametrize("name", list(VALUES))
def test_an_attribute_comes_back_with_its_type(tmp_path: Path, name: str) -> None:
    value = VALUES[name]
    ds = dataset(x=value)
    ds["marker_position"].attrs["x"] = value
    ds["marker"].attrs["x"] = value
    back = read_netcdf(write_netcdf(ds, tmp_path / "a.nc"))
    for found in (back.attrs["x"], back["marker_position"].attrs["x"], back["marker"].attrs["x"]):
        assert type(found) is type(value)
        assert repr(found) == repr(value)
    assert JSON_ATTRIBUTES not in back.attrs


def test_arrays_and_numpy_numbers_come_back(tmp_path: Path) -> None:
    back = read_netcdf(write_netcdf(dataset(a=np.array([1, 2], np.int16), b=np.float32(1.5), c=np.bool_(True)), tmp_path / "a.nc"))
    np.testing.assert_array_equal(back.attrs["a"], np.array([1, 2], np.int16))
    assert back.attrs["a"].dtype == np.int16
    assert back.attrs["b"] == 1.5
    assert back.attrs["c"] is True


def test_the_dataset_comes_back_lawful_and_equal(tmp_path: Path) -> None:
    ds = dataset()
    flagged = ds.assign(flag=(("time", "kind"), np.array([[True], [False]]))).assign_coords(kind=["bad"])
    back = read_netcdf(write_netcdf(flagged, tmp_path / "new" / "a.nc"))
    xr.testing.assert_identical(back, flagged)
    assert back["marker"].dtype.kind == "U"
    assert back["flag"].dtype == bool
    assert back["time"].dtype == np.float64
    validate_motion(back[["marker_position"]])


def test_what_other_tools_see_is_plain(tmp_path: Path) -> None:
    path = write_netcdf(dataset(mass=72.6, name="x", feet=["r", "l"]), tmp_path / "a.nc")
    with xr.open_dataset(path, engine="h5netcdf") as raw:
        assert raw.attrs["mass"] == 72.6
        assert raw.attrs["name"] == "x"
        assert raw.attrs["feet"] == '["r", "l"]'


def test_what_cannot_be_stored_is_an_error_and_what_was_there_is_kept(tmp_path: Path) -> None:
    path = write_netcdf(dataset(n=1), tmp_path / "a.nc")
    with pytest.raises(InputError, match="attribute 'x' of variable 'marker' is a object"):
        ds = dataset()
        ds["marker"].attrs["x"] = object()
        write_netcdf(ds, path)
    assert read_netcdf(path).attrs["n"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.nc"]


def test_the_dataset_that_is_written_is_not_changed(tmp_path: Path) -> None:
    ds = dataset(x=None)
    write_netcdf(ds, tmp_path / "a.nc")
    assert ds.attrs["x"] is None
    assert JSON_ATTRIBUTES not in ds.attrs


@pytest.mark.parametrize("cut", [0, 100, 2000])
def test_a_file_that_is_cut_or_empty_is_an_error_of_ours(tmp_path: Path, cut: int) -> None:
    path = write_netcdf(dataset(), tmp_path / "a.nc")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(FileFormatError, match="is empty" if cut == 0 else "is not a NetCDF-4 file, or is cut short"):
        read_netcdf(path)


def test_bytes_that_are_no_netcdf_are_an_error_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    path.write_text("time\tknee\n")
    with pytest.raises(FileFormatError, match="is not a NetCDF-4 file"):
        read_netcdf(path)


def test_an_attribute_that_is_not_the_json_it_claims_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    dataset(x="{", **{JSON_ATTRIBUTES: '["x"]'}).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(FileFormatError, match="an attribute of the dataset is not the JSON"):
        read_netcdf(path)
