"""Recorded motion on the 24-joint body: the joints stay where they were, people stand straight, upright and on the ground."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from imdy_plugin.adapters.bvh import BvhMotion, read_bvh
from imdy_plugin.adapters.coordinates import read_coordinates
from imdy_plugin.adapters.opensim_model import OpenSimModelAdapter
from imdy_plugin.adapters.smpl.motion import BodyMotion, global_rotations, joint_positions
from imdy_plugin.adapters.smpl.topology import FROM_SMPL, JOINTS
from imdy_plugin.errors import DataWarning, InputError, UnknownNameError
from imdy_plugin.sim.floor import bent_toes, grounded, lowest_points
from imdy_plugin.sim.retarget import CMU_UNIT, retarget_bvh, retarget_coordinates, smoothed
from imdy_plugin.sim.standin import build_standin, default_offsets, joint_offsets
from imdy_plugin.solvers.multibody.mechanics import body_mechanics

Array = NDArray[np.float64]

RATE = 120.0

BONES: dict[str, tuple[str, tuple[float, float, float]]] = {
    "Hips": ("", (0, 0, 0)),
    "LHipJoint": ("Hips", (0, 0, 0)),
    "LeftUpLeg": ("LHipJoint", (1.7, -1.8, 0.6)),
    "LeftLeg": ("LeftUpLeg", (2.5, -7.0, 0)),
    "LeftFoot": ("LeftLeg", (2.5, -7.0, 0)),
    "LeftToeBase": ("LeftFoot", (0.2, -0.5, 2.0)),
    "LowerBack": ("Hips", (0, 0, 0)),
    "Spine": ("LowerBack", (0, 2.1, -0.1)),
    "Spine1": ("Spine", (0, 2.1, -0.1)),
    "Neck": ("Spine1", (0, 0, 0)),
    "Neck1": ("Neck", (0, 1.5, 0.1)),
    "Head": ("Neck1", (0, 1.5, -0.1)),
    "LeftShoulder": ("Spine1", (0, 0, 0)),
    "LeftArm": ("LeftShoulder", (3.2, 0.9, 0.1)),
    "LeftForeArm": ("LeftArm", (5.0, 0, 0)),
    "LeftHand": ("LeftForeArm", (3.4, 0, 0)),
    "LeftFingerBase": ("LeftHand", (0, 0, 0)),
    "LeftHandIndex1": ("LeftFingerBase", (0.7, 0, 0)),
}
"""A skeleton as the database's conversion has them, left side: parent, and place in it."""


def right(name: str) -> str:
    return name.replace("Left", "Right").replace("LHip", "RHip")


def all_bones() -> dict[str, tuple[str, tuple[float, float, float]]]:
    mirrored = {right(n): (right(p), (-x, y, z)) for n, (p, (x, y, z)) in BONES.items() if right(n) != n}
    return BONES | mirrored


def skeleton(rotations: dict[str, Array], root: Array, **changes: tuple[float, float, float]) -> BvhMotion:
    """A BVH motion from rotation vectors [rad], ``(time, 3)`` by joint; ``changes`` put joints elsewhere in their parents."""
    bones = all_bones()
    names = tuple(bones)
    columns = [root]
    for name in names:
        vectors = rotations.get(name, np.zeros((len(root), 3)))
        columns.append(Rotation.from_rotvec(vectors).as_euler("ZYX", degrees=True))
    turning = ("Zrotation", "Yrotation", "Xrotation")
    return BvhMotion(
        joints=names,
        parents=tuple(names.index(p) if p else -1 for p, _ in bones.values()),
        offsets=np.array([changes.get(n, place) for n, (_, place) in bones.items()], float),
        ends={},
        channels=tuple(("Xposition", "Yposition", "Zposition", *turning) if n == "Hips" else turning for n in names),
        values=np.concatenate(columns, axis=1),
        frame_time=1 / RATE,
        path="made.bvh",
    )


def standing(frames: int) -> dict[str, Array]:
    """Rotations of someone who stands straight: the splayed thighs are turned in until they point down."""
    splay = np.arctan2(2.5, 7.0)
    return {"LeftUpLeg": np.tile([0, 0, -splay], (frames, 1)), "RightUpLeg": np.tile([0, 0, splay], (frames, 1))}


def wriggling(frames: int = 90) -> BvhMotion:
    """All joints move, by up to half a radian, while the person moves along z and turns."""
    generator = np.random.default_rng(0)
    time = np.arange(frames) / RATE
    base = standing(frames)
    rotations = {}
    for name in (n for n in all_bones() if not n.endswith("HipJoint")):  # which the database holds still
        size, pace, phase = 0.25 * generator.uniform(0.2, 1, 3), generator.uniform(0.5, 1.5, 3), generator.uniform(0, 6, 3)
        rotations[name] = base.get(name, 0.0) + size * np.sin(2 * np.pi * time[:, None] * pace + phase)
    return skeleton(rotations, np.column_stack([3 + time, np.full(frames, 17.5), 20 * time]))


def recorded(bvh: BvhMotion) -> dict[str, Array]:
    """Places of the joints that both skeletons have, in ground axes [m], with the chest that the file leaves out."""
    offsets = bvh.offsets.copy()
    for name in ("Neck", "LeftShoulder", "RightShoulder"):
        offsets[bvh.index(name)] = offsets[bvh.index("Spine1")]
    place = replace(bvh, offsets=offsets).world()[1] @ FROM_SMPL.T * CMU_UNIT
    pairs = {"spine2": "Spine", "spine3": "Spine1", "head": "Head"}
    limbs = {"hip": "UpLeg", "knee": "Leg", "ankle": "Foot", "foot": "ToeBase", "shoulder": "Arm", "elbow": "ForeArm", "wrist": "Hand", "hand": "HandIndex1"}
    pairs |= {f"{s}_{a}": f"{p}{b}" for s, p in (("left", "Left"), ("right", "Right")) for a, b in limbs.items()}
    return {joint: place[:, bvh.index(name)] for joint, name in pairs.items()}


def deviations(motion: BodyMotion, offsets: Array, bvh: BvhMotion) -> dict[str, float]:
    """Mean distance of the shared joints from where they were recorded [m], after the one rigid motion that put the floor level."""
    first = int(motion.attrs["dropped_frames"])
    got, want = joint_positions(motion, offsets), {k: v[first:] for k, v in recorded(bvh).items()}
    names = list(want)
    a = np.stack([want[n] for n in names], axis=1).reshape(-1, 3)
    b = got[:, [JOINTS.index(n) for n in names]].reshape(-1, 3)
    turn, _ = Rotation.align_vectors(b - b.mean(0), a - a.mean(0))
    distance = np.linalg.norm(turn.apply(a - a.mean(0)) - (b - b.mean(0)), axis=1).reshape(len(got), -1)
    return dict(zip(names, distance.mean(axis=0), strict=True))


def test_joints_stay_where_they_were_recorded() -> None:
    bvh = wriggling()
    motion, offsets = retarget_bvh(bvh, drop=0)
    found = deviations(motion, offsets, bvh)
    assert np.mean(list(found.values())) < 0.003
    assert max(found.values()) < 0.008


def test_the_comparison_of_joints_notices_a_wrong_skeleton() -> None:
    bvh = wriggling()
    motion, offsets = retarget_bvh(bvh, drop=0)
    assert np.mean(list(deviations(motion, offsets * 1.03, bvh).values())) > 0.005
    swapped = motion.mirrored()
    assert np.mean(list(deviations(swapped, offsets, bvh).values())) > 0.02


def test_who_stands_straight_has_no_rotations_and_faces_x() -> None:
    root = np.tile([0, 17.0, 0], (10, 1)) + np.outer(np.arange(10), [0, 0, 0.1])
    motion, offsets = retarget_bvh(skeleton(standing(10), root), drop=0)
    angle = np.degrees(2 * np.arccos(np.clip(np.abs(motion.rotation_wxyz[..., 0]), 0, 1)))
    assert angle.max() < 3.0  # the neck points at a head that is not quite above it
    legs = [JOINTS.index(f"{s}_{j}") for s in ("left", "right") for j in ("hip", "knee", "foot")]
    assert angle[:, legs].max() < 1e-4
    assert motion.root_position[-1, 0] > 0.04  # moved along z, which is forward in the file
    assert offsets[JOINTS.index("right_hip"), 2] > 0 > offsets[JOINTS.index("left_hip"), 2]
    lowest = lowest_points(motion, build_standin(offsets=offsets))
    np.testing.assert_allclose(lowest[..., 1], 0, atol=1e-6)


def test_the_chest_that_the_conversion_loses_is_put_back() -> None:
    bvh = skeleton(standing(5), np.tile([0, 17.0, 0], (5, 1)))
    _, offsets = retarget_bvh(bvh, drop=0)
    collar = JOINTS.index("left_collar")
    np.testing.assert_allclose(offsets[collar], np.array([-0.1, 2.1, 0.0]) * CMU_UNIT)
    whole = skeleton(standing(5), np.tile([0, 17.0, 0], (5, 1)), Neck=(0, 3, 0), LeftShoulder=(0, 3, 0), RightShoulder=(0, 3, 0))
    np.testing.assert_allclose(retarget_bvh(whole, drop=0)[1][collar], np.array([0, 3, 0]) * CMU_UNIT)


def test_frames_of_the_t_pose_are_dropped() -> None:
    bvh = wriggling(60)
    values = bvh.values.copy()
    values[:3] = 0.0
    values[:3, :3] = bvh.values[0, :3]
    motion, _ = retarget_bvh(replace(bvh, values=values))
    assert motion.attrs["dropped_frames"] == 3
    assert len(motion) == 57
    assert retarget_bvh(bvh)[0].attrs["dropped_frames"] == 1


def test_a_wrong_unit_is_refused() -> None:
    with pytest.raises(InputError, match=r"unit of 0\.01 m the person is 0\.3"):
        retarget_bvh(wriggling(), unit=0.01)


def test_a_skeleton_of_other_names_is_refused() -> None:
    bvh = wriggling(5)
    with pytest.raises(UnknownNameError, match="LeftLeg"):
        retarget_bvh(replace(bvh, joints=tuple("LeftKnee" if n == "LeftLeg" else n for n in bvh.joints)))


def test_a_knee_that_snaps_to_the_other_side_of_the_leg_is_turned_back() -> None:
    frames = 60
    bend, splay = 0.5, np.arctan2(2.5, 7.0)
    thigh, shank = np.tile([-bend / 2, 0, 0], (frames, 1)), np.tile([bend, 0, 0], (frames, 1))
    turn = Rotation.from_rotvec([0, 0, -splay])
    hip = Rotation.from_rotvec(thigh) * turn
    knee = turn.inv() * Rotation.from_rotvec(shank) * turn
    root = np.tile([0, 17.0, 0], (frames, 1))
    good = skeleton(standing(frames) | {"LeftUpLeg": hip.as_rotvec(), "LeftLeg": knee.as_rotvec()}, root)
    snapped = Rotation.concatenate([Rotation.from_rotvec([0, np.pi, 0]) * h if 20 <= i < 35 else h for i, h in enumerate(hip)])
    bad = skeleton(standing(frames) | {"LeftUpLeg": snapped.as_rotvec(), "LeftLeg": knee.as_rotvec()}, root)
    clean, offsets = retarget_bvh(good, drop=0)
    mended, _ = retarget_bvh(bad, drop=0)
    assert clean.attrs["mended_frames"] == 0
    assert mended.attrs["mended_frames"] >= 15
    joints = [JOINTS.index(f"left_{j}") for j in ("hip", "knee", "ankle")]
    np.testing.assert_allclose(joint_positions(mended, offsets)[:, joints], joint_positions(clean, offsets)[:, joints], atol=1e-3)


def test_single_frames_that_jump_are_bridged() -> None:
    bvh = wriggling()
    values = bvh.values.copy()
    column = 3 + 3 * bvh.index("LeftForeArm")
    values[40, column : column + 3] += (0, 80, 0)
    clean, mended = retarget_bvh(bvh, drop=0)[0], retarget_bvh(replace(bvh, values=values), drop=0)[0]
    assert clean.attrs["mended_frames"] == 0
    assert mended.attrs["mended_frames"] == 1
    np.testing.assert_allclose(mended.rotation_wxyz, clean.rotation_wxyz, atol=2e-3)


def test_a_low_pass_takes_noise_and_leaves_motion() -> None:
    time = np.arange(240) / RATE
    angle = 0.5 * np.sin(2 * np.pi * time)
    rotation = np.tile([1.0, 0, 0, 0], (240, 24, 1))
    rotation[:, 4] = Rotation.from_rotvec(np.outer(angle, [0, 0, 1])).as_quat(scalar_first=True)
    noisy = np.zeros((240, 3))
    noisy[:, 1] = 0.01 * np.sin(2 * np.pi * 40 * time)
    motion = smoothed(BodyMotion(time, noisy, rotation), 8.0)
    inner = slice(30, -30)
    assert np.abs(motion.root_position[inner]).max() < 1e-4
    got = Rotation.from_quat(motion.rotation_wxyz[:, 4], scalar_first=True).as_rotvec()[:, 2]
    np.testing.assert_allclose(got[inner], angle[inner], atol=5e-3)
    for cutoff in (0.0, 60.0):
        with pytest.raises(InputError, match="between 0 and half the rate of 120 Hz"):
            smoothed(motion, cutoff)


# From the coordinates of a model --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(walk: dict[str, Path]) -> xr.Dataset:
    return OpenSimModelAdapter().load(walk["model"]).dataset


@pytest.fixture(scope="module")
def steps(walk: dict[str, Path], model: xr.Dataset) -> xr.Dataset:
    return read_coordinates(walk["coordinates"], model)


def bodies_in_ground(model: xr.Dataset, motion: xr.Dataset, bodies: list[str]) -> Array:
    mechanics = body_mechanics(model)
    values = motion["coordinate_value"].sel(coordinate=list(mechanics.coordinates)).values
    return mechanics.point_positions(values, bodies, np.zeros((len(bodies), 3)))


def test_a_models_joints_stay_where_they_are(model: xr.Dataset, steps: xr.Dataset) -> None:
    motion, offsets = retarget_coordinates(model, steps)
    pairs = {"hip": "femur", "knee": "tibia", "ankle": "talus", "foot": "toes", "shoulder": "humerus", "elbow": "ulna", "wrist": "hand"}
    names = [(f"{side}_{j}", f"{b}_{side[0]}") for side in ("left", "right") for j, b in pairs.items() if f"{b}_{side[0]}" in model["body"].values]
    assert len(names) >= 10
    want = bodies_in_ground(model, steps, [b for _, b in names])
    got = joint_positions(motion, offsets)[:, [JOINTS.index(j) for j, _ in names]]
    turn, _ = Rotation.align_vectors((got - got.mean((0, 1))).reshape(-1, 3), (want - want.mean((0, 1))).reshape(-1, 3))
    error = np.linalg.norm(turn.apply((want - want.mean((0, 1))).reshape(-1, 3)) - (got - got.mean((0, 1))).reshape(-1, 3), axis=1)
    assert error.mean() < 0.004
    assert turn.magnitude() < np.radians(0.5)


def test_generated_walk_stands_on_the_ground_and_walks_forward(model: xr.Dataset, steps: xr.Dataset) -> None:
    motion, offsets = retarget_coordinates(model, steps)
    lowest = lowest_points(motion, build_standin(offsets=offsets))[..., 1].min(axis=1)
    assert np.percentile(np.abs(lowest), 90) < 0.02
    assert motion.root_position[-1, 0] > 0.5
    knees = np.array([Rotation.from_quat(motion.rotation_wxyz[:, JOINTS.index(f"{s}_knee")], scalar_first=True).as_rotvec()[:, 2] for s in ("left", "right")])
    assert knees.min() < -0.6  # bent: the shank turns back, about -z
    assert knees.max() < 0.1


def test_a_belt_moves_the_person_on(model: xr.Dataset, steps: xr.Dataset) -> None:
    still, _ = retarget_coordinates(model, steps)
    time = steps["time"].values - float(steps["time"].values[0])
    on_belt = steps.copy(deep=True)
    on_belt["coordinate_value"].loc[{"coordinate": "pelvis_tx"}] -= 1.2 * xr.DataArray(time, dims="time")
    back, _ = retarget_coordinates(model, on_belt, belt_speed=1.2)
    np.testing.assert_allclose(back.root_position, still.root_position, atol=1e-6)


def test_what_a_motion_lacks_is_told(model: xr.Dataset, steps: xr.Dataset) -> None:
    lacking = steps.drop_sel(coordinate="arm_flex_r")
    with pytest.warns(DataWarning, match="lacks arm_flex_r"):
        retarget_coordinates(model, lacking)
    gap = steps.copy(deep=True)
    gap["coordinate_value"][5, 0] = np.nan
    with pytest.raises(InputError, match="1 frames of coordinates are unknown, the first of them frame 5"):
        retarget_coordinates(model, gap)
    with pytest.raises(InputError, match="not evenly spaced"):
        retarget_coordinates(model, steps.isel(time=[0, 1, 2, 5, 6]))
    with pytest.raises(InputError, match="no coordinate of the model"):
        retarget_coordinates(model, steps.assign_coords(coordinate=[f"{c}_x" for c in steps["coordinate"].values]))


def test_a_model_of_other_body_names_is_refused(model: xr.Dataset, steps: xr.Dataset) -> None:
    bodies = ["thigh_r" if b == "femur_r" else b for b in model["body"].values]
    renamed = model.assign_coords(body=bodies)
    for variable in ("joint_parent", "joint_child", "marker_body"):
        renamed[variable] = renamed[variable].where(renamed[variable] != "femur_r", "thigh_r")
    with pytest.raises(InputError, match="no body for right_hip"):
        retarget_coordinates(renamed, steps)


# The floor --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [0.0, 1.2, -1.2])
def test_a_laboratorys_slope_is_taken_out(model: xr.Dataset, steps: xr.Dataset, degrees: float) -> None:
    motion, offsets = retarget_coordinates(model, steps)
    person = build_standin(offsets=offsets)
    tilt = Rotation.from_rotvec([0, 0, np.radians(degrees)])
    rotation = motion.rotation_wxyz.copy()
    rotation[:, 0] = (tilt * Rotation.from_quat(rotation[:, 0], scalar_first=True)).as_quat(scalar_first=True)
    tilted = replace(motion, root_position=tilt.apply(motion.root_position) + np.array([0.3, 0.2, -1.0]), rotation_wxyz=rotation)
    level = grounded(tilted, person)
    assert level.attrs["ground_tilt"] == pytest.approx(abs(np.radians(degrees)), abs=np.radians(0.35))
    assert np.abs(joint_positions(level, offsets) - joint_positions(motion, offsets)).max() < 0.02
    assert level.attrs["ground_shift"] == pytest.approx(-0.2, abs=0.02)


def test_stairs_are_not_levelled() -> None:
    person = build_standin()
    time = np.arange(200) / 50
    position = np.column_stack([np.repeat(np.arange(4) * 0.3, 50), np.repeat(np.arange(4) * 0.18, 50), np.zeros(200)])
    rotation = np.tile([1.0, 0, 0, 0], (200, 24, 1))
    climbing = grounded(BodyMotion(time, position, rotation), person)
    assert climbing.attrs["ground_tilt"] == 0.0
    assert climbing.attrs["floor_spread"] > 0.3


def test_toes_bend_where_they_would_reach_into_the_floor() -> None:
    person = build_standin()
    standing_at = float(person["coordinate_default"].sel(coordinate="pelvis_ty"))
    frames = 121
    pitch = np.radians(45) * np.clip(np.linspace(-0.5, 1.5, frames), 0, 1)
    rotation = np.tile([1.0, 0, 0, 0], (frames, 24, 1))
    rotation[:, JOINTS.index("right_ankle")] = Rotation.from_rotvec(np.outer(-pitch, [0, 0, 1])).as_quat(scalar_first=True)
    flat = BodyMotion(np.arange(frames) / RATE, np.tile([0, standing_at, 0], (frames, 1)), rotation)
    ball = joint_positions(flat, joint_offsets(person))[:, JOINTS.index("right_foot"), 1]
    raised = replace(flat, root_position=flat.root_position + np.outer(ball[0] - ball, [0, 1, 0]))  # onto the ball of the foot
    before, after = (lowest_points(m, person)[:, 0, 1] for m in (raised, bent_toes(raised, person)))
    assert before.min() < -0.03
    assert (after - before).min() > -1e-9
    toes = Rotation.from_quat(bent_toes(raised, person).rotation_wxyz[:, JOINTS.index("right_foot")], scalar_first=True).as_rotvec()[:, 2]
    assert toes[0] == pytest.approx(0.0, abs=1e-9)
    assert np.degrees(toes[-1]) > 25
    assert after.min() > before.min() + 0.02
    left = JOINTS.index("left_foot")
    np.testing.assert_array_equal(bent_toes(flat, person).rotation_wxyz[:, left], flat.rotation_wxyz[:, left])


def test_the_lowest_point_is_on_the_sole() -> None:
    person = build_standin(1.8, 80)
    motion = BodyMotion(np.arange(3) / 60, np.tile([0, 1.0, 0], (3, 1)), np.tile([1.0, 0, 0, 0], (3, 24, 1)))
    ankle = joint_positions(motion, joint_offsets(person))[0, JOINTS.index("right_ankle")]
    lowest = lowest_points(motion, person)[0, 0]
    assert 0.04 < ankle[1] - lowest[1] < 0.12
    assert lowest[2] > 0
    np.testing.assert_allclose(global_rotations(motion)[0, 0], np.eye(3))
    assert default_offsets(1.8).shape == (24, 3)


# Real recordings ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trial", ["02_01", "07_01", "09_01", "05_03", "06_01"])
def test_recorded_clips_keep_their_joints_and_stand_on_the_floor(data_dir: Path, trial: str) -> None:
    bvh = read_bvh(data_dir / "cmu_mocap" / "bvh" / trial[:2] / f"{trial}.bvh")
    motion, offsets = retarget_bvh(bvh)
    assert 1.5 < motion.attrs["height"] < 2.0
    found = deviations(motion, offsets, bvh)
    assert np.mean(list(found.values())) < 0.004
    assert max(found.values()) < 0.010
    assert motion.attrs["floor_spread"] < 0.03
    lowest = lowest_points(motion, build_standin(offsets=offsets))[..., 1].min(axis=1)
    assert np.percentile(lowest, 2) > -0.025
    for side in ("left", "right"):
        bend = Rotation.from_quat(motion.rotation_wxyz[:, JOINTS.index(f"{side}_knee")], scalar_first=True).as_rotvec()[:, 2]
        assert bend.max() < 0.15
        assert bend.min() < -0.4


def test_shoulders_and_head_are_where_the_markers_of_the_same_trial_say(data_dir: Path) -> None:
    from imdy_plugin.adapters.c3d import C3dReader

    folder = data_dir / "cmu_mocap"
    motion, offsets = retarget_bvh(read_bvh(folder / "bvh" / "02" / "02_05.bvh"))
    joints = joint_positions(motion, offsets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        markers = C3dReader().read(folder / "c3d_nimble" / "cmu_02_05.c3d")
    names = {str(n).split(":")[-1]: i for i, n in enumerate(markers["marker"].values)}
    heights = markers["marker_position"].values[:, :, 1]

    def above(marker: str, joint: str) -> float:
        return float(np.nanmean(heights[: len(joints), names[marker]] - joints[: len(heights), JOINTS.index(joint), 1]))

    assert 0.0 < above("LSHO", "left_shoulder") < 0.07
    assert 0.0 < above("RSHO", "right_shoulder") < 0.07
    assert 0.04 < above("LFHD", "head") < 0.14
    assert -0.03 < above("LKNE", "left_knee") < 0.03
