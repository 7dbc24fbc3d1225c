"""Markers from memory: xarray objects and OpenSim tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from imdy_plugin.adapters.objects import OpenSimTableReader, XarrayReader
from imdy_plugin.errors import FileFormatError, InvalidDatasetError, UnknownNameError
from imdy_plugin.schema import new_motion


def motion() -> xr.Dataset:
    return new_motion(np.arange(4) / 100, markers=(["A", "B"], np.arange(24.0).reshape(4, 2, 3)))


def test_a_motion_passes_as_it_is() -> None:
    assert XarrayReader().accepts(motion())
    xr.testing.assert_identical(XarrayReader().read(motion())["marker_position"], motion()["marker_position"])


def test_an_array_of_positions_becomes_a_motion() -> None:
    assert XarrayReader().read(motion()["marker_position"]).sizes == {"time": 4, "marker": 2, "axis": 3}


def test_millimetres_become_metres_and_the_source_stays() -> None:
    source = motion()
    source["marker_position"].attrs["units"] = "mm"
    read = XarrayReader().read(source)
    assert read["marker_position"].values[1, 0, 0] == pytest.approx(0.006)
    assert read["marker_position"].attrs["units"] == "m"
    assert "from mm to m" in read.attrs["log"]
    assert source["marker_position"].attrs["units"] == "mm"


def test_positions_without_a_unit_are_refused() -> None:
    source = motion()
    del source["marker_position"].attrs["units"]
    with pytest.raises(InvalidDatasetError, match="no attrs"):
        XarrayReader().read(source)


def test_an_unknown_unit_is_refused_with_the_known_ones() -> None:
    source = motion()
    source["marker_position"].attrs["units"] = "mmm"
    with pytest.raises(UnknownNameError, match="unit of length 'mmm' does not exist; nearest: mm"):
        XarrayReader().read(source)


def test_everything_that_is_wrong_is_listed() -> None:
    wrong = motion().assign_coords(axis=["x", "z", "y"], time=[0.0, 0.1, 0.1, 0.2])
    with pytest.raises(InvalidDatasetError) as error:
        XarrayReader().read(wrong)
    assert len(error.value.problems) == 2


def test_ground_force_that_a_dataset_holds_is_given() -> None:
    force = new_motion([0.0, 0.1], ground=(["calcn_r"], *(np.ones((2, 1, 3)) for _ in range(3))))
    together = force.assign({k: v.variable for k, v in new_motion([0.0, 0.1], markers=(["A"], np.ones((2, 1, 3)))).items()}).assign_coords(marker=["A"])
    found = XarrayReader().read_ground_force(together)
    assert found is not None
    assert set(found.data_vars) == {"ground_force", "center_of_pressure", "free_moment"}
    assert XarrayReader().read_ground_force(motion()) is None


def table(unit: str | None = "mm", labels: tuple[str, ...] = ("A", "B"), rows: int = 3) -> Any:
    from imdy_plugin._opensim import import_opensim

    osim = import_opensim()
    made = osim.TimeSeriesTableVec3()
    made.setColumnLabels(labels)
    for i in range(rows):
        made.appendRow(i / 100, osim.RowVectorVec3([osim.Vec3(100.0 * i + j, 1, 2) for j in range(len(labels))]))
    if unit:
        made.addTableMetaDataString("Units", unit)
    return made


def test_an_opensim_table_is_read_in_metres() -> None:
    source = table()
    assert OpenSimTableReader().accepts(source)
    assert not XarrayReader().accepts(source)
    read = OpenSimTableReader().read(source)
    np.testing.assert_allclose(read["marker_position"].values[2, 1], [0.201, 0.001, 0.002])
    np.testing.assert_allclose(read["time"].values, [0, 0.01, 0.02])
    assert list(read["marker"].values) == ["A", "B"]


def test_an_opensim_table_with_a_missing_marker_has_nan() -> None:
    from imdy_plugin._opensim import import_opensim

    source = table()
    source.updRowAtIndex(1)[0] = import_opensim().Vec3(np.nan, 1.0, 2.0)
    assert np.isnan(OpenSimTableReader().read(source)["marker_position"].values[1, 0]).all()


def test_an_opensim_table_without_or_with_an_unknown_unit_is_refused() -> None:
    with pytest.raises(InvalidDatasetError, match="no 'Units'"):
        OpenSimTableReader().read(table(None))
    with pytest.raises(UnknownNameError, match="'furlong'"):
        OpenSimTableReader().read(table("furlong"))


def test_an_empty_opensim_table_is_refused() -> None:
    with pytest.raises((InvalidDatasetError, FileFormatError)):
        OpenSimTableReader().read(table(rows=0))


@pytest.mark.parametrize("other", ["markers.trc", None, 3, np.zeros((2, 3))])
def test_other_things_are_not_accepted(other: object) -> None:
    assert not XarrayReader().accepts(other)
    assert not OpenSimTableReader().accepts(other)
