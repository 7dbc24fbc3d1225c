"""The open body of 24 parts: what it weighs, where its parts are, and how its coordinates and rotations go together."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

import imdy_plugin
from imdy_plugin.adapters.smpl.dataset import COORDINATES, rotation_order
from imdy_plugin.adapters.smpl.motion import BodyMotion, global_rotations, joint_positions
from imdy_plugin.adapters.smpl.topology import FROM_SMPL, JOINTS, MIRRORED, PARENTS
from imdy_plugin.errors import DataWarning, InputError
from imdy_plugin.schema import validate_model
from imdy_plugin.sim.anthropometry import segment_table
from imdy_plugin.sim.standin import build_standin, coordinates_from_rotations, default_offsets, joint_offsets, rotations_from_coordinates, sole_points
from imdy_plugin.solvers.contact import sole_motion
from imdy_plugin.solvers.imdys.landmarks import LANDMARKS, match_landmarks
from imdy_plugin.solvers.multibody.mechanics import BodyMechanics

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def person() -> xr.Dataset:
    return build_standin(1.75, 75.0)


@pytest.fixture(scope="module")
def mechanics(person: xr.Dataset) -> BodyMechanics:
    return BodyMechanics(person)


def inertias(person: xr.Dataset) -> Array:
    xx, yy, zz, xy, xz, yz = person["body_inertia"].values.T
    return np.moveaxis(np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]), -1, 0)


def random_motion(frames: int = 40, spread: float = 0.8, seed: int = 0) -> BodyMotion:
    rng = np.random.default_rng(seed)
    rotation = Rotation.from_rotvec(spread * rng.normal(size=(frames * 24, 3))).as_quat(scalar_first=True).reshape(frames, 24, 4)
    return BodyMotion(np.arange(frames) / 60, rng.normal(size=(frames, 3)), rotation)


def turned(joint: str, vectors: Array) -> BodyMotion:
    """One joint turns by rotation vectors ``(time, 3)``, all others stay."""
    rotation = np.tile([1.0, 0.0, 0.0, 0.0], (len(vectors), 24, 1))
    rotation[:, JOINTS.index(joint)] = Rotation.from_rotvec(vectors).as_quat(scalar_first=True)
    return BodyMotion(np.arange(len(vectors)) / 60, np.zeros((len(vectors), 3)), rotation)


@pytest.mark.parametrize("sex", ["male", "female", None])
@pytest.mark.parametrize(("height", "mass"), [(1.5, 45.0), (1.75, 75.0), (2.0, 130.0)])
def test_masses_are_the_persons_and_the_tables(height: float, mass: float, sex: str | None) -> None:
    person = build_standin(height, mass, sex)  # type: ignore[arg-type]
    validate_model(person)
    weight = dict(zip(JOINTS, person["body_mass"].values, strict=True))
    table = segment_table(sex)  # type: ignore[arg-type]
    assert sum(weight.values()) == pytest.approx(mass, rel=1e-14)
    assert weight["left_hip"] == pytest.approx(table["thigh"].mass * mass)
    assert weight["left_ankle"] + weight["left_foot"] == pytest.approx(table["foot"].mass * mass)
    assert weight["left_wrist"] + weight["left_hand"] == pytest.approx(table["hand"].mass * mass)
    trunk = sum(weight[name] for name in ("pelvis", "spine1", "spine2", "spine3", "left_collar", "right_collar"))
    assert trunk == pytest.approx(sum(table[name].mass for name in ("lower_trunk", "mid_trunk", "upper_trunk")) * mass)


@pytest.mark.parametrize("height", [1.3, 1.75, 2.2])
def test_no_inertia_is_impossible_or_vanishing(height: float) -> None:
    person = build_standin(height, 21 * height**2)
    principal = np.linalg.eigvalsh(inertias(person))
    assert (principal[:, 0] + principal[:, 1] > principal[:, 2]).all()
    gyration = np.sqrt(principal / person["body_mass"].values[:, None])
    assert gyration.min() > 0.012 * height / 1.75


def test_body_is_its_own_mirror_image(person: xr.Dataset) -> None:
    flip = np.array([1.0, 1.0, -1.0])
    other = list(MIRRORED)
    np.testing.assert_allclose(person["body_mass"].values[other], person["body_mass"].values, rtol=1e-14)
    np.testing.assert_allclose(person["body_center_of_mass"].values[other] * flip, person["body_center_of_mass"].values, atol=1e-15)
    np.testing.assert_allclose(inertias(person)[other] * np.outer(flip, flip), inertias(person), atol=1e-15)


def test_limb_has_the_tables_inertia(person: xr.Dataset) -> None:
    thigh = segment_table()["thigh"]
    length = np.linalg.norm(joint_offsets(person)[JOINTS.index("left_knee")])
    moments = person["body_inertia"].values[JOINTS.index("left_hip"), :3]
    mass = thigh.mass * 75.0
    np.testing.assert_allclose(moments[1], mass * (length * thigh.gyration[1]) ** 2)
    np.testing.assert_allclose(moments[0] + moments[2], mass * length**2 * (thigh.gyration[0] ** 2 + thigh.gyration[2] ** 2))


def test_trunk_keeps_the_tables_center_of_mass_height(person: xr.Dataset, mechanics: BodyMechanics) -> None:
    rest = mechanics.default_values[None]
    center = mechanics.center_of_mass(rest, 0 * rest, 0 * rest)[0][0]
    assert 0.55 < center[1] / 1.75 < 0.60
    heel, ball = sole_points(person)["left_ankle"][[0, 2], 0]
    assert heel < center[0] < ball


def test_soles_are_one_plane_on_the_ground(person: xr.Dataset, mechanics: BodyMechanics) -> None:
    rest = mechanics.default_values[None]
    points = np.concatenate([mechanics.point_positions(rest, body, at)[0] for body, at in sole_points(person).items()])
    np.testing.assert_allclose(points[:, 1], 0.0, atol=1e-12)
    outline, _ = sole_motion(mechanics, rest, 0 * rest)
    np.testing.assert_allclose(outline[0, ..., 1], 0.0, atol=1e-12)
    right = points[points[:, 2] > 0]
    assert (outline[0, 0].min(axis=0)[[0, 2]] > right.min(axis=0)[[0, 2]]).all()
    assert (outline[0, 0].max(axis=0)[[0, 2]] < right.max(axis=0)[[0, 2]]).all()


def test_soles_of_unequal_legs_are_below_their_own_ankles() -> None:
    offsets = default_offsets(1.75)
    offsets[JOINTS.index("left_knee"), 1] -= 0.02
    person = build_standin(mass=75.0, offsets=offsets)
    soles = sole_points(person)
    np.testing.assert_allclose(soles["left_ankle"][:, 1], soles["right_ankle"][:, 1])
    mechanics = BodyMechanics(person)
    rest = mechanics.default_values[None]
    left, right = (mechanics.point_positions(rest, f"{side}_ankle", soles[f"{side}_ankle"])[0][:, 1] for side in ("left", "right"))
    np.testing.assert_allclose([left, right - 0.02], 0.0, atol=1e-12)


def test_every_landmark_has_a_marker_on_the_right_side(person: xr.Dataset, mechanics: BodyMechanics) -> None:
    found = match_landmarks(str(m) for m in person["marker"].values)
    assert set(found) == set(LANDMARKS)
    rest = mechanics.default_values[None]
    place = dict(zip(LANDMARKS, mechanics.marker_positions(rest, [found[name] for name in LANDMARKS])[0], strict=True))
    for name, at in place.items():
        if name[0] in "RL" and "L" + name[1:] in place and "R" + name[1:] in place:
            assert (at[2] > 0) == (name[0] == "R")
            np.testing.assert_allclose(place["L" + name[1:]] * [1, 1, -1], place["R" + name[1:]], atol=1e-12)
    assert place["RASI"][0] > place["RPSI"][0]
    assert place["RTOE"][0] > place["RMT1"][0] > place["RANK"][0] > place["RHEE"][0]
    assert place["CLAV"][0] > place["C7"][0]
    assert place["RSHO"][1] > place["RASI"][1] > place["RKNE"][1] > place["RANK"][1] > place["RTOE"][1] > 0


def test_a_skeletons_own_lengths_decide() -> None:
    offsets = default_offsets(1.62)
    offsets[JOINTS.index("left_elbow")] *= 1.07
    person = build_standin(height=1.9, mass=60.0, offsets=offsets)
    np.testing.assert_array_equal(joint_offsets(person), offsets)
    assert person.attrs["height"] == pytest.approx(1.62)
    np.testing.assert_array_equal(joint_offsets(build_standin(1.62, 60.0)), default_offsets(1.62))


def _with(joint: str, offset: list[float]) -> Array:
    offsets = default_offsets(1.75)
    offsets[JOINTS.index(joint)] = offset
    return offsets


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        (default_offsets(1.75) @ FROM_SMPL, "FROM_SMPL"),
        (default_offsets(1.75) * [1.0, 1.0, -1.0], "not those of the T-pose"),
        (1000 * default_offsets(1.75), "millimetres"),
        (default_offsets(1.75)[:22], "24, 3"),
        (_with("spine2", [0.0, 0.0, 0.0]), "spine2 less than"),
        (_with("neck", [0.0, -0.3, 0.0]), "each must lie above"),
        (_with("left_elbow", [0.0, -0.3, 0.0]), "left_elbow"),
        (_with("left_elbow", [np.nan, 0.0, 0.0]), "finite"),
    ],
)
def test_a_skeleton_that_is_no_persons_is_refused(offsets: Array, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_standin(mass=75.0, offsets=offsets)


def test_a_person_out_of_range_is_refused() -> None:
    with pytest.raises(InputError, match="centimetres"):
        build_standin(175.0, 75.0)
    with pytest.raises(InputError, match="mass is 750"):
        build_standin(1.75, 750.0)
    with pytest.raises(InputError, match="sex"):
        build_standin(1.75, 75.0, "other")  # type: ignore[arg-type]


def test_coordinates_put_the_body_where_the_rotations_do(person: xr.Dataset, mechanics: BodyMechanics) -> None:
    motion = random_motion()
    value = coordinates_from_rotations(person, motion)["coordinate_value"].values
    state = mechanics.body.kinematics(torch.tensor(value))
    assert mechanics.bodies == JOINTS
    np.testing.assert_allclose(state.rotation.numpy(), global_rotations(motion), atol=1e-13)
    np.testing.assert_allclose(state.position.numpy(), joint_positions(motion, joint_offsets(person)), atol=1e-13)


def test_rotations_come_back(person: xr.Dataset) -> None:
    motion = random_motion(spread=3.0)
    back = rotations_from_coordinates(person, coordinates_from_rotations(person, motion))
    np.testing.assert_allclose(np.abs((back.rotation_wxyz * motion.rotation_wxyz).sum(axis=-1)), 1.0, atol=1e-14)
    np.testing.assert_array_equal(back.root_position, motion.root_position)


def test_order_of_a_motions_coordinates_does_not_matter(person: xr.Dataset) -> None:
    motion = coordinates_from_rotations(person, random_motion(5))
    shuffled = motion.isel(coordinate=np.random.default_rng(1).permutation(motion.sizes["coordinate"]))
    np.testing.assert_array_equal(rotations_from_coordinates(person, shuffled).rotation_wxyz, rotations_from_coordinates(person, motion).rotation_wxyz)


def test_angles_run_on_through_turns(person: xr.Dataset) -> None:
    angle = np.linspace(0.0, 7 * np.pi, 400)
    value = coordinates_from_rotations(person, turned("pelvis", angle[:, None] * np.array([0.0, 1.0, 0.0])))["coordinate_value"]
    np.testing.assert_allclose(value.sel(coordinate="pelvis_ry"), angle, atol=1e-9)


def test_angles_run_on_past_a_quarter_turn_of_the_second_axis(person: xr.Dataset) -> None:
    """A direct conversion jumps by half a turn where the second angle passes a right angle; the coordinates must not."""
    middle = "xyz".index(rotation_order("left_hip")[1])
    angle = np.linspace(0.0, 2.2, 221)
    vectors = np.zeros((len(angle), 3))
    vectors[:, middle] = angle
    motion = turned("left_hip", vectors)
    with pytest.warns(DataWarning, match="left_hip"):
        value = coordinates_from_rotations(person, motion)["coordinate_value"].values
    assert np.abs(np.diff(value, axis=0)).max() < 0.02
    naive = Rotation.from_rotvec(vectors).as_euler(rotation_order("left_hip").upper())
    assert np.abs(np.diff(naive, axis=0)).max() > 3.0


def test_gimbal_lock_still_gives_the_rotation(person: xr.Dataset) -> None:
    for joint in JOINTS:
        vectors = np.zeros((2, 3))
        vectors[:, "xyz".index(rotation_order(joint)[1])] = np.pi / 2
        motion = turned(joint, vectors)
        with pytest.warns(DataWarning, match=joint):
            back = rotations_from_coordinates(person, coordinates_from_rotations(person, motion))
        np.testing.assert_allclose(np.abs((back.rotation_wxyz * motion.rotation_wxyz).sum(axis=-1)), 1.0, atol=1e-14)


def test_everyday_poses_are_far_from_gimbal_lock(person: xr.Dataset) -> None:
    """Arms hanging, arms overhead, sitting, bowing, looking aside: the second angle of the joint stays below 60 degrees."""
    poses = {
        "right_shoulder": [(80, 0, 0), (-80, 0, 0), (0, 60, 0)],
        "left_shoulder": [(-80, 0, 0), (80, 0, 0), (0, -60, 0)],
        "right_hip": [(0, 0, 100), (0, 0, -30), (30, 0, 0)],
        "right_knee": [(0, 0, -140)],
        "right_elbow": [(0, 150, 0), (0, 0, 80)],
        "spine1": [(0, 0, -80), (0, 60, 0)],
        "neck": [(0, 80, 0), (0, 0, -60)],
        "pelvis": [(0, 170, 0), (0, 0, 90), (0, 0, -90)],
    }
    for joint, vectors in poses.items():
        value = coordinates_from_rotations(person, turned(joint, np.radians(np.array(vectors, float))))["coordinate_value"]
        names = [c for c in COORDINATES if c.startswith(joint) and not c.startswith("pelvis_t") and c.endswith(rotation_order(joint)[1])]
        assert np.degrees(np.abs(value.sel(coordinate=names))).max() < 62, joint


def test_another_model_or_motion_is_refused(person: xr.Dataset, walk: dict[str, object]) -> None:
    from imdy_plugin.registry import load_model

    other = load_model(walk["model"]).dataset
    with pytest.raises(InputError, match="24-joint body"):
        coordinates_from_rotations(other, random_motion(3))
    lacking = coordinates_from_rotations(person, random_motion(3)).sel(coordinate=list(COORDINATES[:-2]))
    with pytest.raises(InputError, match="2 coordinates"):
        rotations_from_coordinates(person, lacking)


def test_ground_carries_the_weight_of_a_body_that_stands(person: xr.Dataset) -> None:
    motion = turned("neck", np.zeros((120, 3)))
    standing = coordinates_from_rotations(person, motion)
    standing["coordinate_value"].loc[{"coordinate": "pelvis_ty"}] = person["coordinate_default"].values[1]
    result = imdy_plugin.solve(person, coordinates=standing, solver="physics")
    np.testing.assert_allclose(result["ground_force"].sum("body").values[20:-20], [[0.0, 75.0 * 9.80665, 0.0]] * 80, atol=1e-6)
    assert np.abs(result["root_residual"].values[20:-20]).max() < 1e-6
    pressure = result["center_of_pressure"].values[60]
    np.testing.assert_allclose(pressure[:, 1], 0.0, atol=1e-9)
    np.testing.assert_allclose(pressure[0] * [1, 1, -1], pressure[1], atol=1e-6)


def test_the_network_reads_its_markers(person: xr.Dataset) -> None:
    """The body sways gently; the network is given nothing but its coordinates."""
    time = np.arange(150) / 100
    motion = BodyMotion(time, np.zeros((150, 3)), turned("neck", np.zeros((150, 3))).rotation_wxyz)
    standing = coordinates_from_rotations(person, motion)
    sway = 0.01 * np.sin(2 * np.pi * time)
    for name, value in (("pelvis_ty", person["coordinate_default"].values[1]), ("pelvis_tz", sway), ("right_ankle_x", 0.01 * sway)):
        standing["coordinate_value"].loc[{"coordinate": name}] = value
    result = imdy_plugin.solve(person, coordinates=standing, solver="imdys")
    force = result["ground_force"].sum("body").values[40:-40]
    np.testing.assert_allclose(force[:, 1].mean(), 75.0 * 9.80665, rtol=0.1)
    assert list(result["body"].values) == ["right_ankle", "left_ankle"]


def test_parents_come_before_their_children(person: xr.Dataset) -> None:
    assert [str(p) for p in person["joint_parent"].values] == ["ground" if p < 0 else JOINTS[p] for p in PARENTS]


def test_a_model_whose_angles_turn_in_another_order_is_refused(person: xr.Dataset) -> None:
    knee = [str(c) for c in person["joint_child"].values].index("left_knee")
    transforms = person["joint_transform"].values.astype(object)
    described = json.loads(transforms[knee])
    described["rotation1"], described["rotation2"] = described["rotation2"], described["rotation1"]
    transforms[knee] = json.dumps(described)
    other = person.assign(joint_transform=person["joint_transform"].copy(data=transforms.astype(np.str_)))
    with pytest.raises(InputError, match="left_knee"):
        coordinates_from_rotations(other, random_motion(3))
    with pytest.raises(InputError, match="left_knee"):
        rotations_from_coordinates(other, coordinates_from_rotations(person, random_motion(3)))


def test_a_model_that_does_not_tell_its_soles_is_refused(walk: dict[str, object]) -> None:
    from imdy_plugin.registry import load_model

    with pytest.raises(InputError, match="where its soles are"):
        sole_points(load_model(walk["model"]).dataset)
