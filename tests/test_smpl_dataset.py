"""The 24-joint body as a model dataset, and its motion as coordinates and markers."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, RotationSpline

from imdy_plugin.adapters.smpl.dataset import (
    COORDINATES,
    coordinates_from_rotations,
    from_coordinates,
    is_smpl_model,
    joint_offsets,
    rotation_order,
    rotations_from_coordinates,
    smpl_model_dataset,
    to_coordinates,
    turning_axes,
    virtual_markers,
)
from imdy_plugin.adapters.smpl.motion import BodyMotion, global_rotations, joint_positions
from imdy_plugin.adapters.smpl.topology import JOINTS, PARENTS
from imdy_plugin.errors import DataWarning, InputError
from imdy_plugin.solvers.multibody.mechanics import body_mechanics

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def model() -> xr.Dataset:
    rng = np.random.default_rng(0)
    offsets = rng.normal(0.0, 0.2, (24, 3))
    offsets[JOINTS.index("right_foot")] = offsets[JOINTS.index("left_foot")] = [0.12, -0.04, 0.0]
    mass = rng.uniform(0.5, 5.0, 24)
    sole = [[-0.05, -0.08, 0.0], [0.1, -0.08, 0.02]]
    return smpl_model_dataset(
        name="odd",
        offsets=offsets,
        body_mass=mass,
        center_of_mass=rng.normal(0.0, 0.1, (24, 3)),
        inertia=np.concatenate([rng.uniform(0.05, 0.06, (24, 3)), rng.normal(0.0, 0.002, (24, 3))], axis=1) * mass[:, None],
        markers={name: (body, rng.normal(0.0, 0.1, 3)) for name, body in (("RASI", "pelvis"), ("LKNE", "left_hip"), ("RTOE", "right_ankle"))},
        soles={"right_ankle": sole, "left_ankle": sole, "right_foot": [[0.05, -0.04, 0.0]], "left_foot": [[0.05, -0.04, 0.0]]},
        height=1.7,
    )


@pytest.fixture(scope="module")
def motion() -> BodyMotion:
    """Joints that tumble smoothly through all of space."""
    frames = np.linspace(0, 5, 400)
    turned = [RotationSpline(np.arange(6), Rotation.random(6, random_state=seed))(frames).as_quat(scalar_first=True) for seed in range(24)]
    root = np.stack([np.sin(frames), 1 + 0.1 * np.cos(frames), frames], axis=1)
    return BodyMotion(frames, root, np.stack(turned, axis=1), "tumble")


def quiet_coordinates(model: xr.Dataset, motion: BodyMotion) -> xr.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return to_coordinates(model, motion)


def same_rotation(a: Array, b: Array) -> float:
    """Largest angle between rotations [rad]; q and -q are one."""
    return float((Rotation.from_quat(a.reshape(-1, 4), scalar_first=True).inv() * Rotation.from_quat(b.reshape(-1, 4), scalar_first=True)).magnitude().max())


def test_coordinates_give_the_rotations_back(model: xr.Dataset, motion: BodyMotion) -> None:
    back = from_coordinates(quiet_coordinates(model, motion))
    assert same_rotation(back.rotation_wxyz, motion.rotation_wxyz) < 1e-7
    np.testing.assert_array_equal(back.root_position, motion.root_position)
    xyzw = motion.rotation_wxyz[..., [1, 2, 3, 0]]
    assert same_rotation(xyzw, motion.rotation_wxyz) > 1.0


def test_angles_run_on_without_jumps(model: xr.Dataset, motion: BodyMotion) -> None:
    values = quiet_coordinates(model, motion)["coordinate_value"].values
    steps = np.abs(np.diff(values[:, 3:], axis=0))
    assert np.quantile(steps, 0.999) < 0.6
    assert np.abs(values[:, 3:]).max() > np.pi  # beyond what angles from a single rotation can be


def test_the_models_mechanics_move_as_the_motion_does(model: xr.Dataset, motion: BodyMotion) -> None:
    """Kinematics of the dataset by coordinates, against forward kinematics of the rotations."""
    values = quiet_coordinates(model, motion)["coordinate_value"].values
    mechanics = body_mechanics(model)
    state = mechanics.body.kinematics(torch.as_tensor(values))
    np.testing.assert_allclose(state.rotation.numpy(), global_rotations(motion), atol=1e-12)
    np.testing.assert_allclose(state.position.numpy(), joint_positions(motion, joint_offsets(model)), atol=1e-12)
    moved = virtual_markers(model, motion)
    np.testing.assert_allclose(mechanics.marker_positions(values, mechanics.markers), moved["marker_position"].values, atol=1e-12)
    assert list(moved["marker"].values) == ["RASI", "LKNE", "RTOE"]


def test_one_angle_turns_one_axis(model: xr.Dataset) -> None:
    """The sign and axis of a coordinate: a positive angle about z bends a left knee forward, so that flexion is negative."""
    values = np.zeros((1, len(COORDINATES)))
    values[0, COORDINATES.index("left_knee_z")] = 0.4
    rotation, _ = rotations_from_coordinates(COORDINATES, values)
    np.testing.assert_allclose(rotation[0, JOINTS.index("left_knee")], [np.cos(0.2), 0.0, 0.0, np.sin(0.2)], atol=1e-15)
    assert model.attrs["knee_sign"] == -1


@pytest.mark.parametrize("joint", ["left_shoulder", "right_hip", "pelvis", "left_elbow"])
def test_gimbal_lock_is_passed_and_told(model: xr.Dataset, joint: str) -> None:
    """Through the lock, and resting in it, the angles stay continuous and give the same rotation."""
    through = np.concatenate([np.linspace(1.2, np.pi / 2, 30), np.full(20, np.pi / 2), np.linspace(np.pi / 2, 2.0, 30)])
    angles = np.stack([np.linspace(0.1, 0.5, 80), through, np.linspace(-0.3, 0.4, 80)], axis=1)
    rotation = np.zeros((80, 24, 4))
    rotation[..., 0] = 1.0
    rotation[:, JOINTS.index(joint)] = Rotation.from_euler(rotation_order(joint).upper(), angles).as_quat(scalar_first=True)
    with pytest.warns(DataWarning, match=rf"joint '{joint}' is in or near gimbal lock in \d+ of 80 frames, first in frame \d+"):
        values = coordinates_from_rotations(model, rotation, np.zeros((80, 3)))
    back, _ = rotations_from_coordinates(COORDINATES, values)
    assert same_rotation(back, rotation) < 1e-6
    assert np.abs(np.diff(values, axis=0)).max() < 0.25


def test_arms_hang_swing_and_spread_without_lock(model: xr.Dataset) -> None:
    poses = [Rotation.from_euler("X", 90, degrees=True)]
    poses += [Rotation.from_euler("Z", angle, degrees=True) * poses[0] for angle in (-40, -20, 20, 40, 60)]
    poses += [Rotation.from_euler("X", angle, degrees=True) for angle in (-80, -45, 0, 45)]
    rotation = np.zeros((len(poses), 24, 4))
    rotation[..., 0] = 1.0
    rotation[:, JOINTS.index("right_shoulder")] = [pose.as_quat(scalar_first=True) for pose in poses]
    coordinates_from_rotations(model, rotation, np.zeros((len(poses), 3)))  # a warning would be an error


def test_axes_of_the_angles(model: xr.Dataset) -> None:
    """Angular velocities by finite differences, and power: a moment times angular velocity is generalized forces times rates."""
    rng = np.random.default_rng(1)
    values, rates, step = rng.normal(0.0, 0.7, (50, len(COORDINATES))), rng.normal(size=(50, len(COORDINATES))), 1e-6
    before, _ = rotations_from_coordinates(COORDINATES, values - step * rates)
    after, _ = rotations_from_coordinates(COORDINATES, values + step * rates)
    turned = Rotation.from_quat(before.reshape(-1, 4), scalar_first=True).inv() * Rotation.from_quat(after.reshape(-1, 4), scalar_first=True)
    velocity = turned.as_rotvec().reshape(50, 24, 3) / (2 * step)
    axes, by_joint = turning_axes(COORDINATES, values), rates[:, 3:].reshape(50, 24, 3)
    np.testing.assert_allclose(np.einsum("tjak,tja->tjk", axes, by_joint), velocity, atol=1e-7)
    moment = rng.normal(size=(50, 24, 3))
    force = np.einsum("tjak,tjk->tja", axes, moment)
    np.testing.assert_allclose((force * by_joint).sum(axis=(1, 2)), (moment * velocity).sum(axis=(1, 2)), atol=1e-6)


def test_inverse_dynamics_by_moments_of_the_joints(model: xr.Dataset) -> None:
    """Gravity alone: the moment of each joint holds the weight of all that it carries, worked out without the model's mechanics."""
    rng = np.random.default_rng(2)
    values = rng.normal(0.0, 0.5, (1, len(COORDINATES)))
    zero = np.zeros_like(values)
    force = body_mechanics(model).inverse_dynamics(values, zero, zero)
    rotation, root = rotations_from_coordinates(COORDINATES, values)
    pose = BodyMotion(np.zeros(1), root, rotation)
    turned, placed = global_rotations(pose)[0], joint_positions(pose, joint_offsets(model))[0]
    center = placed + np.einsum("bij,bj->bi", turned, model["body_center_of_mass"].values)
    weight = model["body_mass"].values[:, None] * np.array([0.0, 9.80665, 0.0])
    axes = turning_axes(COORDINATES, values)[0]
    for joint in range(1, 24):
        carried = [body for body in range(24) if joint in path_to_root(body)]
        moment = np.cross(center[carried] - placed[joint], weight[carried]).sum(axis=0)
        np.testing.assert_allclose(force[0, 3 + 3 * joint : 6 + 3 * joint], axes[joint] @ turned[joint].T @ moment, atol=1e-10)


def path_to_root(body: int) -> list[int]:
    path = []
    while body >= 0:
        path.append(body)
        body = PARENTS[body]
    return path


def test_coordinates_in_another_order(model: xr.Dataset, motion: BodyMotion) -> None:
    shuffled = model.isel(coordinate=np.random.default_rng(3).permutation(len(COORDINATES)))
    coordinates = quiet_coordinates(shuffled, motion)
    assert list(coordinates["coordinate"].values) == list(shuffled["coordinate"].values) != list(COORDINATES)
    assert same_rotation(from_coordinates(coordinates).rotation_wxyz, motion.rotation_wxyz) < 1e-7


def test_other_models_and_missing_coordinates_are_refused(model: xr.Dataset, motion: BodyMotion) -> None:
    other = model.isel(coordinate=slice(0, 70))
    assert is_smpl_model(model)
    assert not is_smpl_model(other)
    with pytest.raises(InputError, match="'odd' is none of the 24-joint body"):
        to_coordinates(other, motion)
    coordinates = quiet_coordinates(model, motion).isel(coordinate=slice(0, 70))
    with pytest.raises(InputError, match="5 coordinates of the 24-joint body are missing: left_hand_y"):
        from_coordinates(coordinates)
    with pytest.raises(InputError, match="no coordinate_value"):
        from_coordinates(virtual_markers(model, motion))


def test_the_model_is_stored_whole(model: xr.Dataset, tmp_path: Path) -> None:
    from imdy_plugin.adapters.netcdf import read_netcdf, write_netcdf

    write_netcdf(model, tmp_path / "model.nc")
    back = read_netcdf(tmp_path / "model.nc")
    assert back.attrs["sole_points"] == model.attrs["sole_points"]
    assert back.attrs["heel_points"] == model.attrs["heel_points"] == [-0.05, -0.08, 0.0] * 2
    np.testing.assert_array_equal(back["body_inertia"], model["body_inertia"])


def test_the_soles_set_the_height_of_the_pelvis(model: xr.Dataset) -> None:
    default = model["coordinate_default"].values[None]
    rotation, root = rotations_from_coordinates([str(n) for n in model["coordinate"].values], default)
    placed = joint_positions(BodyMotion(np.zeros(1), root, rotation), joint_offsets(model))[0]
    lowest = min((placed[JOINTS.index(body)] + np.asarray(points))[:, 1].min() for body, points in model.attrs["sole_points"].items())
    assert lowest == pytest.approx(0.0, abs=1e-12)
