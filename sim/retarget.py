"""Brings recorded motion onto the 24-joint body: from a BVH skeleton, or from the coordinates of a musculoskeletal model.

The body takes the recorded skeleton's own bone lengths, so that the joints stay where they were recorded. Its T-pose is made by
construction: thighs and shanks straight down, arms straight out, feet pointing forward; each bone of the recording is turned by a
constant so that a person who stands straight has rotations near the identity.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.signal import butter, sosfiltfilt
from scipy.spatial.transform import Rotation, Slerp

from imdy_plugin.adapters.bvh import BvhMotion
from imdy_plugin.adapters.smpl.motion import BodyMotion
from imdy_plugin.adapters.smpl.topology import FROM_SMPL, JOINTS, PARENTS
from imdy_plugin.errors import DataWarning, InputError
from imdy_plugin.sim.anthropometry import LENGTHS
from imdy_plugin.sim.floor import UP, grounded
from imdy_plugin.sim.standin import build_standin, default_offsets, rest_positions, skeleton_height
from imdy_plugin.solvers.multibody.mechanics import body_mechanics

Array = NDArray[np.float64]

CMU_UNIT = 0.0254 / 0.45
"""Unit of length of the Carnegie Mellon database's skeletons [m]: an inch over its scale of 0.45."""

DOWN = -UP

FASTEST_TURN = float(np.radians(4500.0))
"""No body turns faster against its parent [rad/s]."""

_LONGEST_BRIDGE = 0.25
"""Over a longer time [s] a fault is not bridged as one."""

_SNAP = float(np.radians(60.0))
"""No thigh or hand turns as far between two frames [rad]."""

HEIGHT_PER_LEG = 1.0 / (LENGTHS["hip_height"] - LENGTHS["ankle_height"])
"""Body height over the length of thigh and shank."""

BODY_MASS_INDEX = 23.0
"""Of a person of unknown mass [kg/m^2]: the middle of what counts as normal weight."""

SPLIT = 0.3
"""Where on a bone of the recording a joint is put that the recording lacks, as a part of its length."""

FASTEST = 20.0
"""No joint moves faster between frames [m/s]; what does is a jump from the skeleton's own pose to the recording."""

_SIDES = {"left": ("Left", -1.0), "right": ("Right", 1.0)}


def retarget_bvh(bvh: BvhMotion, *, unit: float = CMU_UNIT, drop: int = 1, cutoff: float | None = None, name: str = "") -> tuple[BodyMotion, Array]:
    """Motion of the 24-joint body from a BVH skeleton with the joint names of the Carnegie Mellon database.

    Parameters
    ----------
    bvh
        The skeleton and its motion: y up, z forward, x left where nothing is turned.
    unit
        Its unit of length [m].
    drop
        Frames to leave out at the start (the database's conversion begins with a T-pose); what follows is left out too as
        long as a joint still jumps.
    cutoff
        Low-pass the motion, zero-lag, 4th order, at this frequency [Hz].
    name
        Name of the motion.

    Returns
    -------
    motion, offsets
        The motion, standing on ``y = 0`` and starting over the origin; where each joint lies in its parent's body in the T-pose
        [m], ``(24, 3)``. ``motion.attrs`` hold ``height`` [m], ``dropped_frames``, ``mended_frames`` and what :func:`grounded` tells.

    Raises
    ------
    UnknownNameError
        When the skeleton lacks a joint that is needed.
    InputError
        When the body's height is not a person's: the unit is wrong.
    """
    skeleton = _Skeleton.of(bvh, unit)
    offsets = skeleton.offsets()
    height = skeleton_height(offsets)
    if not 1.0 < height < 2.3:
        raise InputError(f"{bvh.path}: with a unit of {unit:g} m the person is {height:.2f} m tall; give the file's unit of length in metres as unit=")
    start = _first_frame(skeleton.position, bvh.frame_time, drop)
    time = bvh.time[start:] - bvh.time[start]
    if len(time) < 2:
        raise InputError(f"{bvh.path}: {len(time)} frame(s) left after {start} at the start were dropped")
    turned = skeleton.turned(offsets)[start:]
    rotation, mended = _mend(turned, offsets, bvh.frame_time)
    attrs = {"height": height, "dropped_frames": start, "mended_frames": mended}
    motion = BodyMotion(time, skeleton.at("Hips")[start:], rotation, name, attrs)
    if cutoff is not None:
        motion = smoothed(motion, cutoff)
    person = build_standin(offsets=offsets, mass=BODY_MASS_INDEX * height**2)
    return grounded(motion, person), offsets


def smoothed(motion: BodyMotion, cutoff: float) -> BodyMotion:
    """The motion after a zero-lag Butterworth low-pass of 4th order at ``cutoff`` [Hz].

    Raises
    ------
    InputError
        When the frequency does not lie between zero and half the motion's rate.
    """
    if not 0 < cutoff < motion.rate / 2:
        raise InputError(f"motion '{motion.name}': a cutoff of {cutoff:g} Hz; must lie between 0 and half the rate of {motion.rate:g} Hz")
    sections = butter(2, cutoff, fs=motion.rate, output="sos")
    pad = min(len(motion) - 1, int(3 * motion.rate / cutoff))
    position = sosfiltfilt(sections, motion.root_position, axis=0, padlen=pad)
    rotation = sosfiltfilt(sections, motion.rotation_wxyz, axis=0, padlen=pad)
    rotation /= np.linalg.norm(rotation, axis=-1, keepdims=True)
    return BodyMotion(motion.time, position, rotation, motion.name, motion.attrs)


def retarget_coordinates(
    model: xr.Dataset, motion: xr.Dataset, *, belt_speed: float = 0.0, cutoff: float | None = None, name: str = ""
) -> tuple[BodyMotion, Array]:
    """Motion of the 24-joint body from the coordinates of a musculoskeletal model.

    Parameters
    ----------
    model
        A model whose bodies have OpenSim's usual names: ``pelvis``, ``femur_r``, ``tibia_r``, ``talus_r`` or ``calcn_r``, and where
        they exist ``toes_r``, ``torso``, ``humerus_r``, ``ulna_r``, ``hand_r``, and the left ones. With all its coordinates at zero
        the model stands upright facing x. A trunk that it lacks is held upright; arms that it lacks hang.
    motion
        ``coordinate_value`` of the model's coordinates; what it lacks is left at its default.
    belt_speed
        Of a treadmill whose belt runs against x [m/s]; the motion is moved along as over ground.
    cutoff
        Low-pass the motion, zero-lag, 4th order, at this frequency [Hz].
    name
        Name of the motion.

    Returns
    -------
    motion, offsets
        As of :func:`retarget_bvh`.

    Raises
    ------
    InputError
        The model lacks a body of the legs, or the motion holds frames without values or unevenly spaced ones.

    Warns
    -----
    DataWarning
        The motion lacks coordinates of the model.
    """
    time = _even(motion["time"].values)
    moving = _ModelPose.of(model, _coordinate_values(model, motion))
    still = _ModelPose.of(model, np.zeros((1, model.sizes["coordinate"])))
    offsets, turn = _model_offsets(still)
    root, turned = _model_rotations(moving, offsets, turn)
    root = root + np.outer(time - time[0], [belt_speed, 0.0, 0.0])
    height = skeleton_height(offsets)
    moved = BodyMotion(time - time[0], root, _steady(_wxyz(_relative(turned))), name, {"height": height, "mended_frames": 0, "dropped_frames": 0})
    if cutoff is not None:
        moved = smoothed(moved, cutoff)
    return grounded(moved, build_standin(offsets=offsets, mass=BODY_MASS_INDEX * height**2)), offsets


def _even(time: Array) -> Array:
    steps = np.diff(time)
    if len(time) < 2 or not np.allclose(steps, steps.mean(), rtol=0.01):
        raise InputError(f"{len(time)} frames whose time stamps are not evenly spaced; resample the motion")
    return np.linspace(time[0], time[-1], len(time))


def _coordinate_values(model: xr.Dataset, motion: xr.Dataset) -> Array:
    wanted, given = [str(c) for c in model["coordinate"].values], [str(c) for c in motion["coordinate"].values]
    values = np.tile(np.asarray(model["coordinate_default"].values, float), (motion.sizes["time"], 1))
    common = [c for c in wanted if c in given]
    if not common:
        raise InputError(f"the motion has no coordinate of the model '{model.attrs['name']}'; give a motion of this model")
    if missing := sorted(set(wanted) - set(given)):
        warnings.warn(f"the motion lacks {', '.join(missing)}: left at the model's defaults", DataWarning, stacklevel=3)
    values[:, [wanted.index(c) for c in common]] = motion["coordinate_value"].sel(coordinate=common).values
    if len(bad := np.flatnonzero(~np.isfinite(values).all(axis=1))):
        raise InputError(f"{len(bad)} frames of coordinates are unknown, the first of them frame {bad[0]}; give a part of the motion without gaps")
    return values


_LEG_BODIES = {"hip": ("femur",), "knee": ("tibia",), "ankle": ("talus", "calcn"), "sole": ("calcn",), "foot": ("toes",)}
_ARM_BODIES = {"shoulder": ("humerus",), "elbow": ("ulna", "radius"), "wrist": ("hand",)}


@dataclass(frozen=True)
class _ModelPose:
    """Rotations ``(time, 3, 3)`` and origins ``(time, 3)`` of a model's bodies in ground, by what they carry, such as ``left_hip``."""

    rotation: Mapping[str, Array]
    origin: Mapping[str, Array]

    @classmethod
    def of(cls, model: xr.Dataset, values: Array) -> _ModelPose:
        mechanics = body_mechanics(model)
        bodies = _model_bodies(mechanics.bodies, mechanics.name)
        corners = np.tile(np.vstack([np.zeros(3), np.eye(3)]), (len(bodies), 1))
        places = mechanics.point_positions(values, [body for body in bodies.values() for _ in range(4)], corners).reshape(len(values), len(bodies), 4, 3)
        axes = np.swapaxes(places[:, :, 1:] - places[:, :, :1], -1, -2)
        return cls({part: axes[:, i] for i, part in enumerate(bodies)}, {part: places[:, i, 0] for i, part in enumerate(bodies)})

    def has(self, *parts: str) -> bool:
        return all(part in self.origin for part in parts)


def _model_bodies(bodies: Sequence[str], name: str) -> dict[str, str]:
    found = {part: part for part in ("pelvis", "torso") if part in bodies}
    for side, letter in (("left", "l"), ("right", "r")):
        for part, stems in (_LEG_BODIES | _ARM_BODIES).items():
            if present := [f"{stem}_{letter}" for stem in stems if f"{stem}_{letter}" in bodies]:
                found[f"{side}_{part}"] = present[0]
    needed = ("pelvis", *(f"{side}_{part}" for side in _SIDES for part in ("hip", "knee", "ankle", "sole")))
    if lacking := [part for part in needed if part not in found]:
        raise InputError(f"the model '{name}' has no body for {', '.join(lacking)}; bodies must be named as in OpenSim's models: pelvis, femur_r, tibia_r, ...")
    return found


def _model_offsets(still: _ModelPose) -> tuple[Array, dict[str, Array]]:
    """Offsets of the body in the T-pose ``(24, 3)``, and what turns each body of the standing model into the T-pose.

    What the model does not tell is taken from a person of the same height.
    """
    at = {part: origin[0] for part, origin in still.origin.items()}
    leg = [np.linalg.norm(at[f"{side}_{far}"] - at[f"{side}_{near}"]) for side in _SIDES for near, far in (("hip", "knee"), ("knee", "ankle"))]
    usual = default_offsets(float(np.sum(leg) / 2 * HEIGHT_PER_LEG))
    offsets, turn = usual.copy(), {joint: np.eye(3) for joint in JOINTS}
    pelvis = 0.5 * (at["left_hip"] + at["right_hip"]) - usual[JOINTS.index("right_hip")] * (1, 1, 0)
    chains = {"hip": ("knee", "ankle"), "shoulder": ("elbow", "wrist")}
    for side, (_, lateral) in _SIDES.items():
        put = partial(_put, offsets, side)
        put("hip", at[f"{side}_hip"] - pelvis)
        for joint, end in zip(("hip", "knee"), chains["hip"], strict=True):
            bone = at[f"{side}_{end}"] - at[f"{side}_{joint}"]
            turn[f"{side}_{joint}"] = _between(bone, DOWN)
            put(end, DOWN * np.linalg.norm(bone))
        if still.has(f"{side}_foot"):
            sole = at[f"{side}_foot"] - at[f"{side}_ankle"]
            turn[f"{side}_ankle"] = turn[f"{side}_foot"] = _between(sole * (1, 0, 1), np.array([1.0, 0.0, 0.0]))
            put("foot", turn[f"{side}_ankle"] @ sole)
        for joint, end in zip(("shoulder", "elbow"), chains["shoulder"], strict=True):
            if still.has(f"{side}_{joint}", f"{side}_{end}"):
                bone = at[f"{side}_{end}"] - at[f"{side}_{joint}"]
                turn[f"{side}_{joint}"] = turn[f"{side}_{end}"] = turn[f"{side}_hand"] = _between(bone, np.array([0.0, 0.0, lateral]))
                put(end, np.array([0.0, 0.0, lateral * np.linalg.norm(bone)]))
    if still.has("torso", "left_shoulder", "right_shoulder"):
        _raise_trunk(offsets, at, pelvis)
    return offsets, turn


def _put(offsets: Array, side: str, joint: str, place: Array) -> None:
    offsets[JOINTS.index(f"{side}_{joint}")] = place


def _raise_trunk(offsets: Array, at: Mapping[str, Array], pelvis: Array) -> None:
    """Put the trunk's joints between the model's lumbar joint and its shoulders, as high as a person's are, in place."""
    rest = rest_positions(offsets)
    rows = {name: JOINTS.index(name) for name in ("spine1", "spine2", "spine3", "neck")}
    lumbar, shoulders = at["torso"] - pelvis, 0.5 * (at["left_shoulder"] + at["right_shoulder"]) - pelvis
    above = rest[rows["neck"]] - 0.5 * (rest[JOINTS.index("left_shoulder")] + rest[JOINTS.index("right_shoulder")])
    neck = shoulders + above * UP
    span = rest[rows["neck"], 1] - rest[rows["spine1"], 1]
    for name, row in rows.items():
        rest[row] = lumbar + (neck - lumbar) * (rest[row, 1] - rest[rows["spine1"], 1]) / span if name != "spine1" else lumbar
    for side in _SIDES:
        collar, shoulder = JOINTS.index(f"{side}_collar"), JOINTS.index(f"{side}_shoulder")
        inner = rest[collar] - rest[shoulder]
        rest[shoulder] = at[f"{side}_shoulder"] - pelvis
        rest[collar] = rest[shoulder] + inner
        for row in (collar, shoulder):
            offsets[row] = rest[row] - rest[PARENTS[row]]
    for row in rows.values():
        offsets[row] = rest[row] - rest[PARENTS[row]]


def _model_rotations(moving: _ModelPose, offsets: Array, turn: Mapping[str, Array]) -> tuple[Array, Array]:
    """Place of the pelvis joint ``(time, 3)`` and rotations of the 24 bodies in ground ``(time, 24, 3, 3)``; limbs point at the recorded joints."""
    hips = [moving.origin[f"{side}_hip"] for side in _SIDES]
    inner = np.mean([offsets[JOINTS.index(f"{side}_hip")] for side in _SIDES], axis=0)
    root = np.mean(hips, axis=0) - moving.rotation["pelvis"] @ inner
    turned, place = np.empty((len(root), len(JOINTS), 3, 3)), np.empty((len(root), len(JOINTS), 3))
    for joint, (name, parent) in enumerate(zip(JOINTS, PARENTS, strict=True)):
        place[:, joint] = root if parent < 0 else place[:, parent] + turned[:, parent] @ offsets[joint]
        turned[:, joint] = _model_rotation(moving, name, turned[:, parent] if parent >= 0 else None, turn)
        side, _, part = name.partition("_")
        end = {"hip": "knee", "knee": "ankle", "shoulder": "elbow", "elbow": "wrist"}.get(part)
        if end and moving.has(name, f"{side}_{end}"):
            bone = turned[:, joint] @ offsets[JOINTS.index(f"{side}_{end}")]
            turned[:, joint] = _between(bone, moving.origin[f"{side}_{end}"] - place[:, joint]) @ turned[:, joint]
    return root, turned


def _model_rotation(moving: _ModelPose, joint: str, parent: Array | None, turn: Mapping[str, Array]) -> Array:
    source = {"spine1": "torso", "left_ankle": "left_sole", "right_ankle": "right_sole"}.get(joint, joint)
    if moving.has(source):
        return np.asarray(moving.rotation[source] @ turn[joint].T)
    if parent is None:
        raise InputError("the model has no pelvis")
    if joint == "spine1":
        heading = np.arctan2(-parent[:, 2, 0], parent[:, 0, 0])
        return np.asarray(Rotation.from_rotvec(np.outer(heading, UP)).as_matrix())
    if joint.endswith("_shoulder"):
        return np.asarray(parent @ _between(np.array([0.0, 0.0, _SIDES[joint.split("_")[0]][1]]), DOWN))
    return parent


@dataclass(frozen=True)
class _Skeleton:
    """A BVH skeleton and its motion in the ground frame, in metres."""

    bvh: BvhMotion
    unit: float
    rotation: Array
    position: Array

    @classmethod
    def of(cls, bvh: BvhMotion, unit: float) -> _Skeleton:
        whole = _with_chest(bvh)
        rotation, position = whole.world()
        return cls(whole, unit, FROM_SMPL @ rotation @ FROM_SMPL.T, position @ FROM_SMPL.T * unit)

    def at(self, joint: str) -> Array:
        return self.position[:, self.bvh.index(joint)]

    def facing(self, joint: str) -> Array:
        return self.rotation[:, self.bvh.index(joint)]

    def bone(self, joint: str) -> Array:
        return np.asarray(self.bvh.offsets[self.bvh.index(joint)] @ FROM_SMPL.T * self.unit)

    def alignment(self) -> dict[str, Array]:
        """What turns each of the recording's bones from its pose without rotation into the T-pose, by the 24-joint body's name."""
        turn = {name: np.eye(3) for name in JOINTS}
        for side, (prefix, lateral) in _SIDES.items():
            turn[f"{side}_hip"] = _between(self.bone(f"{prefix}Leg"), DOWN)
            turn[f"{side}_knee"] = _between(self.bone(f"{prefix}Foot"), DOWN)
            ahead = turn[f"{side}_knee"] @ self.bone(f"{prefix}ToeBase")
            turn[f"{side}_ankle"] = _between(ahead * (1, 0, 1), np.array([1.0, 0.0, 0.0])) @ turn[f"{side}_knee"]
            turn[f"{side}_foot"] = turn[f"{side}_ankle"]
            for joint, bone in {"shoulder": "ForeArm", "elbow": "Hand", "wrist": "HandIndex1"}.items():
                turn[f"{side}_{joint}"] = _between(self.bone(f"{prefix}{bone}"), np.array([0.0, 0.0, lateral]))
            turn[f"{side}_hand"] = turn[f"{side}_wrist"]
        return turn

    def offsets(self) -> Array:
        turn, place = self.alignment(), {"pelvis": np.zeros(3)}
        place |= {"spine1": SPLIT * self.bone("Spine"), "spine2": (1 - SPLIT) * self.bone("Spine"), "spine3": self.bone("Spine1")}
        place |= {"neck": self.bone("Neck") + 0.5 * self.bone("Neck1"), "head": 0.5 * self.bone("Neck1") + self.bone("Head")}
        for side, (prefix, _) in _SIDES.items():
            place |= {
                f"{side}_hip": self.bone(f"{prefix}UpLeg"),
                f"{side}_collar": self.bone(f"{prefix}Shoulder"),
                f"{side}_shoulder": self.bone(f"{prefix}Arm"),
            }
            place |= {f"{side}_knee": turn[f"{side}_hip"] @ self.bone(f"{prefix}Leg"), f"{side}_ankle": turn[f"{side}_knee"] @ self.bone(f"{prefix}Foot")}
            place[f"{side}_foot"] = turn[f"{side}_ankle"] @ self.bone(f"{prefix}ToeBase")
            place |= {
                f"{side}_elbow": turn[f"{side}_shoulder"] @ self.bone(f"{prefix}ForeArm"),
                f"{side}_wrist": turn[f"{side}_elbow"] @ self.bone(f"{prefix}Hand"),
            }
            place[f"{side}_hand"] = turn[f"{side}_wrist"] @ self.bone(f"{prefix}HandIndex1")
        return np.array([place[name] for name in JOINTS])

    def turned(self, offsets: Array) -> Array:
        """Rotations of the 24 bodies against the ground, ``(time, 24, 3, 3)``.

        A body that begins at a joint that the recording lacks points at where its end was recorded.
        """
        source, turn, aims = self._sources(), self.alignment(), self._aims()
        turned = np.empty((len(self.bvh), len(JOINTS), 3, 3))
        position = np.empty((len(self.bvh), len(JOINTS), 3))
        for joint, (name, parent) in enumerate(zip(JOINTS, PARENTS, strict=True)):
            position[:, joint] = self.at("Hips") if parent < 0 else position[:, parent] + turned[:, parent] @ offsets[joint]
            turned[:, joint] = self.facing(source[name]) @ turn[name].T
            if name in aims:
                child, target = aims[name]
                now = turned[:, joint] @ offsets[JOINTS.index(child)]
                turned[:, joint] = _between(now, self.at(target) - position[:, joint]) @ turned[:, joint]
        return turned

    @staticmethod
    def _sources() -> dict[str, str]:
        found = {"pelvis": "Hips", "spine1": "LowerBack", "spine2": "Spine", "spine3": "Spine1", "neck": "Neck1", "head": "Head"}
        joints = {"hip": "UpLeg", "knee": "Leg", "ankle": "Foot", "foot": "ToeBase", "collar": "Shoulder", "shoulder": "Arm"}
        joints |= {"elbow": "ForeArm", "wrist": "FingerBase", "hand": "FingerBase"}
        return found | {f"{side}_{joint}": f"{prefix}{name}" for side, (prefix, _) in _SIDES.items() for joint, name in joints.items()}

    @staticmethod
    def _aims() -> dict[str, tuple[str, str]]:
        return {"spine1": ("spine2", "Spine"), "neck": ("head", "Head")}


def _with_chest(bvh: BvhMotion) -> BvhMotion:
    """The skeleton with a bone between ``Spine1`` and where neck and shoulders begin, where the file gives it no length.

    The database's conversion loses the length of that bone, though not its rotation: shoulders and neck come out a hand's breadth
    lower than the markers of the same trial. It is given the vector of the bone below, as long as it in the database's skeletons.
    """
    above = [bvh.index(name) for name in ("Neck", "LeftShoulder", "RightShoulder")]
    if np.any(bvh.offsets[above]):
        return bvh
    offsets = bvh.offsets.copy()
    offsets[above] = offsets[bvh.index("Spine1")]
    return replace(bvh, offsets=offsets)


def _mend(turned: Array, offsets: Array, step: float) -> tuple[Array, int]:
    """Quaternions ``(time, 24, 4)`` of each body against its parent without snaps, and the number of frames that were mended.

    A skeleton fitted to markers frame by frame can hold a nearly straight leg in two ways, the knee before or behind the line from
    hip to ankle, and jumps from one to the other; half a turn about that line leads back and leaves hip and ankle in place. Hands
    do so about their own axis. What still turns faster than :data:`FASTEST_TURN` between frames is bridged.
    """
    turned = turned.copy()
    mended = np.zeros(len(turned), bool)
    for side in _SIDES:
        hip, knee, ankle, wrist, hand = (JOINTS.index(f"{side}_{name}") for name in ("hip", "knee", "ankle", "wrist", "hand"))
        mended |= _unsnapped(turned, (hip, knee), turned[:, hip] @ offsets[knee] + turned[:, knee] @ offsets[ankle])
        mended |= _unsnapped(turned, (wrist, hand), turned[:, wrist] @ offsets[hand])
    rotation = _wxyz(_relative(turned))
    for joint in range(len(JOINTS)):
        mended |= _bridged(rotation[:, joint], FASTEST_TURN * step, max(1, round(_LONGEST_BRIDGE / step)))
    return _steady(rotation), int(mended.sum())


def _unsnapped(turned: Array, bodies: tuple[int, ...], line: Array) -> NDArray[np.bool_]:
    """Turn bodies back that snap by half a turn about a line, in place; tells the frames in which they were turned."""
    line = line / np.linalg.norm(line, axis=-1, keepdims=True)
    half_turn = 2 * line[:, :, None] * line[:, None, :] - np.eye(3)
    first = turned[:, bodies[0]]
    step = _angle(first[:-1], first[1:])
    snaps = (step > _SNAP) & (_angle(first[:-1], half_turn[1:] @ first[1:]) < 0.5 * step)
    other = np.concatenate([[0], np.cumsum(snaps)]) % 2 == 1
    if other.mean() > 0.5:
        other = ~other
    for body in bodies:
        turned[other, body] = half_turn[other] @ turned[other, body]
    return np.asarray(other)


def _bridged(rotation: Array, fastest: float, longest: int) -> NDArray[np.bool_]:
    """Replace what lies between jumps of quaternions ``(time, 4)`` by the shortest arc, in place; tells the frames replaced.

    Jumps no more than ``longest`` frames apart count as one fault; of a jump by itself the frames on both its sides are replaced.
    """
    bad = np.zeros(len(rotation), bool)
    cosine = np.abs((rotation[1:] * rotation[:-1]).sum(axis=-1))
    jumps = np.flatnonzero(2 * np.arccos(np.clip(cosine, 0, 1)) > fastest)
    for group in np.split(jumps, np.flatnonzero(np.diff(jumps) > longest) + 1) if len(jumps) else []:
        alone = 1 if len(group) == 1 else 0
        bad[max(0, group[0] + 1 - alone) : group[-1] + 1 + alone] = True
    if bad.all() or not bad.any():
        return bad & False
    good = np.flatnonzero(~bad)
    within = np.clip(np.flatnonzero(bad), good[0], good[-1])
    rotation[bad] = Slerp(good, Rotation.from_quat(rotation[good], scalar_first=True))(within).as_quat(scalar_first=True)
    return bad


def _angle(first: Array, second: Array) -> Array:
    """Angle between rotations [rad]."""
    return np.asarray(np.arccos(np.clip((np.einsum("...ij,...ij->...", first, second) - 1) / 2, -1, 1)))


def _first_frame(position: Array, step: float, drop: int) -> int:
    """The first frame after ``drop`` from which on, for a tenth of a second, no joint jumps."""
    early = position[: drop + int(0.1 / step) + 2]
    speed = np.linalg.norm(np.diff(early, axis=0), axis=-1).max(axis=1) / step
    jumps = np.flatnonzero(speed[drop:] > FASTEST)
    return drop + (int(jumps[-1]) + 1 if len(jumps) else 0)


def _relative(turned: Array) -> Array:
    local = turned.copy()
    for joint, parent in enumerate(PARENTS):
        if parent >= 0:
            local[:, joint] = np.swapaxes(turned[:, parent], -1, -2) @ turned[:, joint]
    return local


def _wxyz(rotation: Array) -> Array:
    """Quaternions, scalar first, of rotation matrices ``(time, joint, 3, 3)``."""
    quaternion = np.asarray(Rotation.from_matrix(rotation.reshape(-1, 3, 3)).as_quat(scalar_first=True)).reshape(*rotation.shape[:2], 4)
    return _steady(quaternion)


def _steady(quaternion: Array) -> Array:
    """The same rotations ``(time, joint, 4)``, without changes of sign from frame to frame."""
    quaternion = quaternion.copy()
    quaternion[0] *= np.where(quaternion[0, :, :1] < 0, -1.0, 1.0)
    flips = np.where((quaternion[1:] * quaternion[:-1]).sum(axis=-1, keepdims=True) < 0, -1.0, 1.0)
    quaternion[1:] *= np.cumprod(flips, axis=0)
    return quaternion


def _between(start: Array, end: Array) -> Array:
    """The smallest rotations that turn directions ``start`` into ``end``, ``(..., 3, 3)``."""
    a = start / np.linalg.norm(start, axis=-1, keepdims=True)
    b = end / np.linalg.norm(end, axis=-1, keepdims=True)
    axis, cosine = np.cross(a, b), (a * b).sum(axis=-1)[..., None, None]
    x, y, z = np.moveaxis(axis, -1, 0)
    zero = np.zeros_like(x)
    skew = np.stack([np.stack([zero, -z, y], -1), np.stack([z, zero, -x], -1), np.stack([-y, x, zero], -1)], -2)
    return np.asarray(np.eye(3) + skew + skew @ skew / (1 + cosine))
