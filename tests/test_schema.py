from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from imdy_plugin import schema
from imdy_plugin.errors import InvalidDatasetError


def a_motion() -> xr.Dataset:
    return schema.new_motion([0.0, 0.1, 0.2], markers=(["LASI", "RASI"], np.zeros((3, 2, 3))), log="made")


def a_result(**changes: object) -> xr.Dataset:
    arguments: dict[str, object] = {
        "coordinates": ["pelvis_ty", "knee_angle_r"],
        "generalized_force": np.zeros((3, 2)),
        "units": ["N", "N m"],
        "bodies": ["calcn_r", "calcn_l"],
        "ground_force": np.zeros((3, 2, 3)),
        "center_of_pressure": np.zeros((3, 2, 3)),
        "free_moment": np.zeros((3, 2, 3)),
        "root_residual": np.zeros((3, 6)),
        "solver": "test",
        "solver_version": "1",
        "options": {"cutoff_hz": 6.0},
        "model": "a.osim",
        "mass": 70.0,
    }
    arguments.update(changes)
    return schema.new_result([0.0, 0.1, 0.2], **arguments)  # type: ignore[arg-type]


def a_model(**variables: object) -> xr.Dataset:
    arrays: dict[str, object] = {
        "body_mass": [1.0],
        "body_center_of_mass": np.zeros((1, 3)),
        "body_inertia": np.ones((1, 6)),
        "joint_type": ["PinJoint"],
        "joint_parent": ["ground"],
        "joint_child": ["rod"],
        "joint_parent_location": np.zeros((1, 3)),
        "joint_parent_orientation": np.zeros((1, 3)),
        "joint_child_location": np.zeros((1, 3)),
        "joint_child_orientation": np.zeros((1, 3)),
        "joint_transform": [""],
        "coordinate_joint": ["pin"],
        "coordinate_kind": ["rotational"],
        "coordinate_default": [0.0],
        "coordinate_range": [[-1.0, 1.0]],
        "coordinate_locked": [False],
        "coordinate_clamped": [False],
        "coordinate_prescribed": [False],
        "coordinate_coupling": [""],
        "marker_body": ["rod"],
        "marker_location": np.zeros((1, 3)),
    }
    arrays.update(variables)
    names = {"body": ["rod"], "joint": ["pin"], "coordinate": ["angle"], "marker": ["TIP"]}
    return schema.new_model(coords=names, variables=arrays, attrs={"name": "rod", "mass": 1.0, "gravity": [0, -9.8, 0]})  # type: ignore[arg-type]


def test_builders_make_lawful_datasets() -> None:
    schema.validate_motion(a_motion())
    schema.validate_result(a_result())
    schema.validate_model(a_model())


def test_one_error_lists_everything_wrong_with_a_motion() -> None:
    broken = a_motion().assign_coords(time=[0.0, 0.2, 0.1], marker=["LASI", "LASI"], axis=["x", "z", "y"])
    del broken["marker_position"].attrs["units"]
    with pytest.raises(InvalidDatasetError) as caught:
        schema.validate_motion(broken)
    text = str(caught.value)
    assert len(caught.value.problems) == 4
    for part in ("time does not increase at frame 2", "'LASI' occurs more than once", "axis is ['x', 'z', 'y']", "units"):
        assert part in text


@pytest.mark.parametrize(
    ("time", "problem"),
    [([0.0, np.nan, 0.2], "NaN"), ([0, 1, 2], "floating point"), ([0.0, 0.1, 0.1], "frame 2")],
)
def test_motion_time_must_be_increasing_seconds(time: list[float], problem: str) -> None:
    with pytest.raises(InvalidDatasetError, match=problem):
        schema.validate_motion(a_motion().assign_coords(time=time))


def test_infinite_positions_are_refused_and_missing_ones_are_not() -> None:
    motion = a_motion()
    motion["marker_position"].values[0, 0, 0] = np.nan
    schema.validate_motion(motion)
    motion["marker_position"].values[0, 0, 0] = np.inf
    with pytest.raises(InvalidDatasetError, match="marker_position holds infinite values"):
        schema.validate_motion(motion)


def test_a_motion_must_hold_something() -> None:
    with pytest.raises(InvalidDatasetError, match="holds none of"):
        schema.new_motion([0.0, 1.0])


def test_ground_force_needs_its_point_and_moment() -> None:
    with pytest.raises(InvalidDatasetError, match="free_moment"):
        schema.validate_result(a_result().drop_vars("free_moment"))


def test_shape_that_does_not_fit_is_named() -> None:
    with pytest.raises(InvalidDatasetError, match=r"generalized_force \(3, 5\)"):
        a_result(generalized_force=np.zeros((3, 5)))


def test_result_must_say_what_made_it() -> None:
    result = a_result()
    del result.attrs["solver"]
    with pytest.raises(InvalidDatasetError, match="attribute 'solver'"):
        schema.validate_result(result)


def test_infinite_moments_are_refused_and_nan_is_not() -> None:
    a_result(generalized_force=np.full((3, 2), np.nan))
    with pytest.raises(InvalidDatasetError, match="infinite"):
        a_result(generalized_force=np.full((3, 2), np.inf))


def test_flags_and_bounds_have_a_place() -> None:
    result = a_result(flag={"airborne": np.array([True, False, False])}, ground_force_lower=np.zeros((3, 2, 3)))
    assert result["flag"].sel(kind="airborne").values.tolist() == [True, False, False]
    assert result["ground_force_lower"].attrs["units"] == "N"


def test_unknown_variable_of_a_result_is_refused() -> None:
    with pytest.raises(TypeError, match="unknown variable 'torque'"):
        a_result(torque=np.zeros(3))


def test_moments_and_forces_carry_their_unit() -> None:
    assert a_result()["generalized_force_unit"].values.tolist() == ["N", "N m"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"joint_child": ["stick"]}, "joint_child names 'stick'"),
        ({"marker_body": ["stick"]}, "marker_body names 'stick'"),
        ({"body_mass": [-1.0]}, "body 'rod' has a negative"),
        ({"coordinate_joint": ["hinge"]}, "coordinate_joint names 'hinge'"),
    ],
)
def test_model_names_and_masses_are_checked(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(InvalidDatasetError, match=problem):
        a_model(**changes)


def test_log_grows_by_a_line_and_leaves_the_old_dataset_alone() -> None:
    motion = a_motion()
    assert schema.add_log(motion, "turned").attrs["log"] == "made\nturned"
    assert motion.attrs["log"] == "made"
