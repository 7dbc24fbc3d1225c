from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin._opensim import import_opensim
from imdy_plugin.adapters.external_loads import read_ground_force
from imdy_plugin.adapters.netcdf import read_netcdf
from imdy_plugin.adapters.results import read_id_sto, write_generalized_force, write_result_files
from imdy_plugin.adapters.storage import read_table
from imdy_plugin.errors import DataWarning, FileFormatError, InputError
from imdy_plugin.schema import new_result, validate_result

NAMES = ("pelvis_tilt", "pelvis_tx", "knee_angle_r")
COUNT = 20


def build(*, force: NDArray[np.float64] | None = None, ground: NDArray[np.float64] | None = None, **optional: object) -> xr.Dataset:
    rng = np.random.default_rng(0)
    given = rng.normal(size=(COUNT, len(NAMES))) if force is None else force
    vertical = np.zeros((COUNT, 2, 3))
    vertical[:12, 0, 1], vertical[8:, 1, 1] = 700.0, 650.0
    forces = vertical if ground is None else ground
    return new_result(
        np.arange(COUNT) / 100,
        coordinates=NAMES,
        generalized_force=given,
        units=["N m", "N", "N m"],
        bodies=["calcn_r", "calcn_l"],
        ground_force=forces,
        center_of_pressure=np.where((forces == 0).all(axis=-1, keepdims=True), 0.0, [0.5, 0.0, 0.1]),
        free_moment=np.zeros_like(forces),
        root_residual=np.zeros((COUNT, 6)),
        solver="s",
        solver_version="1",
        options={"cutoff": None},
        model="m",
        mass=70.0,
        **optional,
    )


def test_every_file_is_written_and_loads_in_opensim(tmp_path: Path) -> None:
    opensim = import_opensim()
    result = build(coordinate_value=np.full((COUNT, 3), 0.5))
    files = write_result_files(result, tmp_path / "new", "walk")
    assert {kind: path.name for kind, path in files.items()} == {
        "netcdf": "walk.nc",
        "id": "walk_id.sto",
        "ground_force": "walk_grf.mot",
        "external_loads": "walk_external_loads.xml",
        "coordinates": "walk_coordinates.mot",
    }
    for kind in ("id", "ground_force", "coordinates"):
        assert opensim.TimeSeriesTable(str(files[kind])).getNumRows() == COUNT
        assert opensim.Storage(str(files[kind])).getSize() == COUNT
    assert opensim.ExternalLoads(str(files["external_loads"]), True).getSize() == 2
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(p.name for p in files.values())


def test_columns_are_named_as_opensims_inverse_dynamics_names_them(tmp_path: Path) -> None:
    result = build()
    table = read_table(write_generalized_force(result, tmp_path / "id.sto"))
    assert table.names == ("pelvis_tilt_moment", "pelvis_tx_force", "knee_angle_r_moment")
    assert table.in_degrees is False
    np.testing.assert_allclose(table.values, result["generalized_force"].values, rtol=1e-9)


def test_generalized_forces_read_back_by_coordinate(tmp_path: Path) -> None:
    result = build()
    time, names, values = read_id_sto(write_generalized_force(result, tmp_path / "id.sto"))
    assert names == NAMES
    np.testing.assert_allclose(time, result["time"].values)
    np.testing.assert_allclose(values, result["generalized_force"].values, rtol=1e-9)


def test_a_table_that_is_no_inverse_dynamics_result_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ik.sto"
    path.write_text("x\nendheader\ntime\tknee\n0\t1\n1\t2\n")
    with pytest.raises(FileFormatError, match="column 'knee' ends neither in _moment nor in _force"):
        read_id_sto(path)


def test_the_netcdf_holds_the_whole_result(tmp_path: Path) -> None:
    result = build(flag={"implausible": np.arange(COUNT) > 3})
    back = read_netcdf(write_result_files(result, tmp_path, "a")["netcdf"])
    validate_result(back)
    xr.testing.assert_identical(back, result)


def test_coordinates_are_written_in_radians_since_no_model_tells_the_rotations(tmp_path: Path) -> None:
    table = read_table(write_result_files(build(coordinate_value=np.full((COUNT, 3), 0.5)), tmp_path, "a")["coordinates"])
    assert table.in_degrees is False
    np.testing.assert_array_equal(table.values[0], [0.5, 0.5, 0.5])


def test_ground_forces_read_back(tmp_path: Path) -> None:
    result = build()
    forces = read_ground_force(write_result_files(result, tmp_path, "a")["external_loads"])
    for name in ("ground_force", "center_of_pressure", "free_moment"):
        np.testing.assert_allclose(forces[name].values, result[name].values, atol=1e-9)


def test_unknown_frames_are_cut_from_opensims_files_with_a_warning_and_kept_in_the_netcdf(tmp_path: Path) -> None:
    force = np.ones((COUNT, 3))
    force[:3] = np.nan
    ground = np.full((COUNT, 2, 3), 100.0)
    ground[-5:] = np.nan
    result = build(force=force, ground=ground)
    with (
        pytest.warns(DataWarning, match=r"a_id\.sto: wrote generalized_force from 0\.03 to 0\.19 s, the longest span that is known \(17 of 20 frames\)"),
        pytest.warns(DataWarning, match=r"a_grf\.mot: ground forces are known in 15 of 20 frames; wrote 0 to 0\.14 s"),
    ):
        files = write_result_files(result, tmp_path, "a")
    assert read_table(files["id"]).time.size == 17
    assert read_table(files["ground_force"]).time.size == 15
    assert np.isnan(read_netcdf(files["netcdf"])["generalized_force"].values).sum() == 9


def test_files_that_are_read_together_hold_the_same_frames(tmp_path: Path) -> None:
    force, ground = np.ones((COUNT, 3)), np.full((COUNT, 2, 3), 100.0)
    force[6:] = np.nan
    ground[6:8] = np.nan
    with (
        pytest.warns(DataWarning, match=r"a_id\.sto: wrote generalized_force from 0 to 0\.05 s"),
        pytest.warns(DataWarning, match=r"a_grf\.mot: wrote ground_force from 0 to 0\.05 s, the known span that goes with the generalized forces"),
    ):
        files = write_result_files(build(force=force, ground=ground), tmp_path, "a")
    np.testing.assert_array_equal(read_table(files["ground_force"]).time, read_table(files["id"]).time)


def test_a_coordinate_that_is_never_known_is_left_out_with_a_warning(tmp_path: Path) -> None:
    force = np.ones((COUNT, 3))
    force[:, 1] = np.nan
    with pytest.warns(DataWarning, match=r"left out pelvis_tx, known in no frame"):
        files = write_result_files(build(force=force), tmp_path, "a")
    assert read_table(files["id"]).names == ("pelvis_tilt_moment", "knee_angle_r_moment")


def test_a_file_of_which_nothing_is_known_is_not_written(tmp_path: Path) -> None:
    unknown = np.full((COUNT, 3), np.nan)
    with (
        pytest.warns(DataWarning, match=r"a_id\.sto: no frame of generalized_force is known; not written"),
        pytest.warns(DataWarning, match=r"a_grf\.mot: no frame of ground_force is known; not written"),
    ):
        files = write_result_files(build(force=unknown, ground=np.full((COUNT, 2, 3), np.nan)), tmp_path, "a")
    assert set(files) == {"netcdf"}


def test_generalized_forces_alone_are_cut_to_what_is_known_too(tmp_path: Path) -> None:
    force = np.ones((COUNT, 3))
    force[4] = np.nan
    with pytest.warns(DataWarning, match="15 of 20 frames"):
        path = write_generalized_force(build(force=force), tmp_path / "id.sto")
    assert read_table(path).time[0] == 0.05
    with pytest.raises(InputError, match="no frame of generalized_force is known"):
        write_generalized_force(build(force=force * np.nan), tmp_path / "id.sto")


def test_forces_without_a_known_place_are_not_written(tmp_path: Path) -> None:
    result = build()
    result["center_of_pressure"] = result["center_of_pressure"] * np.nan
    with pytest.warns(DataWarning, match="no frame of ground_force is known"):
        assert "ground_force" not in write_result_files(result, tmp_path, "a")


def test_a_result_without_ground_forces_leaves_their_files_out(tmp_path: Path) -> None:
    assert set(write_result_files(build().isel(body=[]), tmp_path, "a")) == {"netcdf", "id"}


def test_an_unknown_unit_is_refused(tmp_path: Path) -> None:
    result = build().assign_coords(generalized_force_unit=("coordinate", ["N m", "N", "Nm"]))
    with pytest.raises(InputError, match=r"generalized_force_unit holds \['Nm'\]"):
        write_generalized_force(result, tmp_path / "id.sto")


def test_reference_results_of_opensim_read(data_dir: Path) -> None:
    paths = [p for p in data_dir.rglob("*.sto") if p.name.endswith("_id.sto") or "InverseDynamics" in p.name]
    assert len(paths) > 15
    for path in paths:
        time, names, values = read_id_sto(path)
        assert values.shape == (time.size, len(names))
        assert not any(name.endswith(("_moment", "_force")) for name in names)
