from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from imdy_plugin._opensim import import_opensim
from imdy_plugin.adapters.coordinates import read_coordinates, write_coordinates
from imdy_plugin.adapters.storage import write_table
from imdy_plugin.errors import DataWarning, FileFormatError, InputError
from imdy_plugin.schema import new_model, new_motion

TIME = np.arange(4) / 100
KINDS = {"pelvis_tilt": "rotational", "pelvis_ty": "translational", "hip": "rotational", "knee": "rotational", "knee_beta": "coupled", "toe": "rotational"}
LINE = {"type": "LinearFunction", "coefficients": [1.0, 0.0]}


def build_model(*, coupling: Mapping[str, object] | None = None, locked: Sequence[str] = ("toe",)) -> xr.Dataset:
    """A model of one joint with coordinates as in KINDS; knee_beta follows knee, toe is locked at 0.1 rad."""
    names = list(KINDS)
    count = len(names)
    couplings = [json.dumps(coupling or {"coordinates": ["knee"], "function": LINE, "scale": 1.0}) if n == "knee_beta" else "" for n in names]
    zero = np.zeros((1, 3))
    return new_model(
        coords={"body": ["pelvis"], "joint": ["root"], "coordinate": names, "marker": ["m"]},
        variables={
            "body_mass": [1.0],
            "body_center_of_mass": zero,
            "body_inertia": np.zeros((1, 6)),
            "joint_type": ["CustomJoint"],
            "joint_parent": ["ground"],
            "joint_child": ["pelvis"],
            "joint_parent_location": zero,
            "joint_parent_orientation": zero,
            "joint_child_location": zero,
            "joint_child_orientation": zero,
            "joint_transform": ["{}"],
            "coordinate_joint": ["root"] * count,
            "coordinate_kind": list(KINDS.values()),
            "coordinate_default": np.where(np.array(names) == "toe", 0.1, 0.5),
            "coordinate_range": np.tile([-9.0, 9.0], (count, 1)),
            "coordinate_locked": np.isin(names, list(locked)),
            "coordinate_clamped": np.zeros(len(names), bool),
            "coordinate_prescribed": np.zeros(len(names), bool),
            "coordinate_coupling": couplings,
            "marker_body": ["pelvis"],
            "marker_location": zero,
        },
        attrs={"name": "m", "mass": 1.0, "gravity": [0.0, -9.80665, 0.0]},
    )


def write(folder: Path, columns: Mapping[str, float], header: str | None = "inDegrees=yes") -> Path:
    """A motion file with one constant per column, a little more in each frame."""
    values = np.outer(np.linspace(0.9, 1.0, TIME.size), list(columns.values()))
    path = write_table(folder / "a.mot", list(columns), TIME, values)
    path.write_text(path.read_text().replace("inDegrees=no\n", f"{header}\n" if header else ""))
    return path


COLUMNS = {"knee": 60.0, "pelvis_tilt": 5.0, "pelvis_ty": 0.95, "hip": 30.0, "knee_beta": np.deg2rad(60.0), "toe": 2.0}


def last(motion: xr.Dataset, name: str) -> float:
    return float(motion["coordinate_value"].sel(coordinate=name).values[-1])


def test_degrees_become_radians_and_metres_stay_in_the_models_order(tmp_path: Path) -> None:
    motion = read_coordinates(write(tmp_path, COLUMNS), build_model())
    assert list(motion["coordinate"].values) == list(KINDS)
    assert last(motion, "knee") == pytest.approx(np.deg2rad(60.0))
    assert last(motion, "pelvis_ty") == pytest.approx(0.95)
    assert last(motion, "toe") == pytest.approx(np.deg2rad(2.0))


def test_radians_stay(tmp_path: Path) -> None:
    columns = {**COLUMNS, "knee": 1.0, "hip": 0.5, "pelvis_tilt": 0.1, "toe": 0.0, "knee_beta": 1.0}
    assert last(read_coordinates(write(tmp_path, columns, "inDegrees=no"), build_model()), "knee") == pytest.approx(1.0)


def test_degrees_under_a_silent_header_are_refused_unless_the_caller_says(tmp_path: Path) -> None:
    path = write(tmp_path, COLUMNS, None)
    with pytest.raises(FileFormatError, match=r"no inDegrees line, and 'knee' reaches 60, which looks like degrees -- pass degrees=True"):
        read_coordinates(path, build_model())
    assert last(read_coordinates(path, build_model(), degrees=True), "knee") == pytest.approx(np.deg2rad(60.0))


def test_a_sentence_in_the_header_does_not_state_the_unit(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="looks like degrees"):
        read_coordinates(write(tmp_path, COLUMNS, "Angles are in degrees."), build_model())


def test_radians_under_a_silent_header_are_read_as_opensim_reads_them(tmp_path: Path) -> None:
    columns = {**COLUMNS, "knee": 1.0, "hip": 0.5, "pelvis_tilt": 0.1, "toe": 0.0, "knee_beta": 1.0}
    assert last(read_coordinates(write(tmp_path, columns, None), build_model()), "knee") == pytest.approx(1.0)


def test_a_header_that_says_radians_over_degrees_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="more than two full turns"):
        read_coordinates(write(tmp_path, COLUMNS, "inDegrees=no"), build_model())


def test_a_header_that_says_degrees_over_radians_is_a_warning(tmp_path: Path) -> None:
    model = build_model()
    model = model.assign(coordinate_kind=("coordinate", ["rotational"] * len(KINDS)))
    with pytest.warns(DataWarning, match=r"taken as degrees, but no angle exceeds 1\.2"):
        read_coordinates(write(tmp_path, dict.fromkeys(KINDS, 1.2)), model)


def test_nan_is_an_error_with_column_and_frame(tmp_path: Path) -> None:
    path = write(tmp_path, COLUMNS)
    lines = path.read_text().splitlines()
    lines[-2] = lines[-2].rpartition("\t")[0] + "\tnan"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(FileFormatError, match=r"NaN in column 'toe' \(1 frames, first at frame 2"):
        read_coordinates(path, build_model())


def test_an_angle_that_was_wrapped_is_a_warning(tmp_path: Path) -> None:
    values = np.zeros((TIME.size, len(KINDS)))
    values[:, 0] = [170.0, 178.0, -174.0, -166.0]
    path = write_table(tmp_path / "a.mot", list(KINDS), TIME, values, in_degrees=True)
    with pytest.warns(DataWarning, match="'pelvis_tilt' jumps by 352 degrees from frame 1 to 2"):
        read_coordinates(path, build_model())


def test_a_missing_coordinate_is_an_error_that_lists_the_nearest_or_the_default_on_request(tmp_path: Path) -> None:
    path = write(tmp_path, {("hipp" if k == "hip" else k): v for k, v in COLUMNS.items()})
    with (
        pytest.warns(DataWarning, match="no coordinate for column 'hipp'"),
        pytest.raises(FileFormatError, match=r"lacks 1 of the model's coordinates: 'hip'.*nearest: hipp.*use_defaults=True"),
    ):
        read_coordinates(path, build_model())
    path = write(tmp_path, {k: v for k, v in COLUMNS.items() if k != "hip"})
    with pytest.warns(DataWarning, match="hip missing, held at the model's default"):
        motion = read_coordinates(path, build_model(), use_defaults=True)
    assert last(motion, "hip") == 0.5


def test_an_unknown_extra_column_is_a_warning(tmp_path: Path) -> None:
    with pytest.warns(DataWarning, match=r"no coordinate for column 'knees' \(nearest: knee.*left out"):
        motion = read_coordinates(write(tmp_path, {**COLUMNS, "knees": 1.0}), build_model())
    assert "knees" not in motion["coordinate"].values


def test_columns_named_by_state_are_understood_and_speeds_left_out(tmp_path: Path) -> None:
    columns = {f"/jointset/j/{k}/value": v for k, v in COLUMNS.items()} | {"/jointset/j/knee/speed": 400.0}
    motion = read_coordinates(write(tmp_path, columns), build_model())
    assert last(motion, "knee") == pytest.approx(np.deg2rad(60.0))


def test_one_coordinate_in_two_columns_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="both hold 'knee'"):
        read_coordinates(write(tmp_path, {**COLUMNS, "/jointset/j/knee/value": 1.0}), build_model())


def test_a_locked_coordinate_and_a_coupled_one_may_be_missing(tmp_path: Path) -> None:
    path = write(tmp_path, {k: v for k, v in COLUMNS.items() if k not in ("toe", "knee_beta")})
    motion = read_coordinates(
        path, build_model(coupling={"coordinates": ["knee"], "function": {"type": "LinearFunction", "coefficients": [2.0, 0.1]}, "scale": 0.5})
    )
    assert last(motion, "toe") == 0.1
    assert last(motion, "knee_beta") == pytest.approx(0.5 * (2 * np.deg2rad(60.0) + 0.1))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ({"type": "MultiplierFunction", "scale": 3.0, "function": LINE}, 3.0),
        ({"type": "SimmSpline", "x": [0.0, 1.0, 2.0], "y": [0.0, 2.0, 4.0]}, 2.0),
        ({"type": "SimmSpline", "x": [0.0, 1.0, 2.0], "y": [0.0, 2.0, 5.0]}, None),
        ({"type": "Constant", "value": 1.0}, None),
    ],
)
def test_only_straight_couplings_stand_in_for_a_missing_coordinate(tmp_path: Path, function: dict[str, object], expected: float | None) -> None:
    path = write(tmp_path, {k: v for k, v in COLUMNS.items() if k != "knee_beta"})
    model = build_model(coupling={"coordinates": ["knee"], "function": function, "scale": 1.0})
    if expected is None:
        with pytest.raises(FileFormatError, match="'knee_beta'"):
            read_coordinates(path, model)
    else:
        assert last(read_coordinates(path, model), "knee_beta") == pytest.approx(expected * np.deg2rad(60.0))


@pytest.mark.parametrize("beta", [60.0, np.deg2rad(60.0)])
def test_a_coupled_coordinate_is_understood_in_either_unit(tmp_path: Path, beta: float) -> None:
    motion = read_coordinates(write(tmp_path, {**COLUMNS, "knee_beta": beta}), build_model())
    assert last(motion, "knee_beta") == pytest.approx(np.deg2rad(60.0))


def test_a_coupled_coordinate_that_fits_in_neither_unit_is_a_warning(tmp_path: Path) -> None:
    with pytest.warns(DataWarning, match="'knee_beta' differs from what the model couples it to"):
        read_coordinates(write(tmp_path, {**COLUMNS, "knee_beta": 20.0}), build_model())


def test_what_is_written_reads_back_here_and_in_opensim(tmp_path: Path) -> None:
    opensim, model = import_opensim(), build_model()
    values = np.random.default_rng(0).uniform(-1.0, 1.0, size=(TIME.size, len(KINDS)))
    values[:, 4] = values[:, 3]
    motion = new_motion(TIME, coordinates=(list(KINDS), values))
    path = write_coordinates(motion, tmp_path / "b.mot", model)
    np.testing.assert_allclose(read_coordinates(path, model)["coordinate_value"].values, values, atol=1e-9)
    table = opensim.TimeSeriesTable(str(path))
    assert table.getTableMetaDataString("inDegrees") == "yes"
    np.testing.assert_allclose(table.getDependentColumn("knee").to_numpy(), np.rad2deg(values[:, 3]), atol=1e-7)
    np.testing.assert_allclose(table.getDependentColumn("pelvis_ty").to_numpy(), values[:, 1], atol=1e-9)


def test_radians_are_written_where_no_model_tells_which_coordinates_are_rotations(tmp_path: Path) -> None:
    values = np.full((TIME.size, len(KINDS)), 0.5)
    path = write_coordinates(new_motion(TIME, coordinates=(list(KINDS), values)), tmp_path / "b.mot")
    assert "inDegrees=no" in path.read_text()
    np.testing.assert_array_equal(read_coordinates(path, build_model())["coordinate_value"].values, values)


def test_coordinates_that_are_missing_or_not_the_models_are_not_written(tmp_path: Path) -> None:
    motion = new_motion(TIME, coordinates=(["knee", "neck"], np.zeros((TIME.size, 2))))
    with pytest.raises(InputError, match="no coordinate neck"):
        write_coordinates(motion, tmp_path / "b.mot", build_model())
    with pytest.raises(InputError, match="no coordinate_value"):
        write_coordinates(motion.drop_vars("coordinate_value"), tmp_path / "b.mot", build_model())


@pytest.mark.parametrize(
    ("file", "osim"),
    [
        (
            "hamner_delp_2013_running/data/subject01/moco/run5/cycle1/*_mocoKinematics.sto",
            "hamner_delp_2013_running/data/subject01/model/*adjusted_scaled.osim",
        ),
        ("schreiber_moissenet_2019_walking/data/2014001/ik/C5_01/*_ik.mot", "schreiber_moissenet_2019_walking/data/2014001/scaling/*.osim"),
        ("nimblephysics_data/opencap_subject4/IK/*_ik.mot", "nimblephysics_data/opencap_subject4/Models/*.osim"),
        ("arnold_2013_walking/subject01/walk2/ik/*.mot", "arnold_2013_walking/subject01/subject01.osim"),
        ("dorn_2012_running_sprint/jog_ik.mot", "dorn_2012_running_sprint/*.osim"),
        ("bmc_walk_run/opensim/*/IK/results/ik_output_run.mot", "bmc_walk_run/opensim/*/*.osim"),
        ("opensim_models_pipelines/Gait10dof18musc/OutputReference/IK/subject01_walk_IK.mot", "opensim_models_pipelines/Gait10dof18musc/**/*.osim"),
    ],
)
def test_coordinates_of_the_recordings_read_as_human_angles(data_dir: Path, file: str, osim: str) -> None:
    from imdy_plugin.adapters.opensim_model import OpenSimModelAdapter

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        model = OpenSimModelAdapter().load(sorted(data_dir.glob(osim))[0]).dataset
    paths = sorted(data_dir.glob(file))
    assert paths
    for path in paths:
        motion = read_coordinates(path, model)
        angles = motion["coordinate_value"].values[:, model["coordinate_kind"].values != "translational"]
        assert 0.5 < np.abs(angles).max() < 1.1 * np.pi, path
