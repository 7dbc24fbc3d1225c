"""Brings recorded motion onto the 24-joint body: from a BVH skeleton, or from the coordinates of a musculoskeletal model.

The body takes the recorded skeleton's own bone lengths, so that the joints stay where they were recorded. Its T-pose is made by
construction: thighs and shanks straight down, arms straight out, feet pointing forward; each bone of the recording is turned by a
constant so that a person who stands straight has rotations near the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, sosfiltfilt
from scipy.spatial.transform import Rotation

from imdy_plugin.adapters.bvh import BvhMotion
from imdy_plugin.adapters.smpl.motion import BodyMotion
from imdy_plugin.adapters.smpl.topology import FROM_SMPL, JOINTS, PARENTS
from imdy_plugin.errors import InputError

Array = NDArray[np.float64]

CMU_UNIT = 0.0254 / 0.45
"""Unit of length of the Carnegie Mellon database's skeletons [m]: an inch over its scale of 0.45."""

UP, DOWN = np.array([0.0, 1.0, 0.0]), np.array([0.0, -1.0, 0.0])

HEIGHT_PER_LEG = 1 / (0.530 - 0.039)
"""Body height over the distance from hip to ankle (Drillis and Contini 1966, in Winter 2009, figure 4.1)."""

ANKLE_PER_HEIGHT = 0.039
"""Height of the ankle joint over the sole, over body height (the same source)."""

HEEL_PER_HEIGHT = 0.039
"""How far the heel reaches behind the ankle joint, over body height: a quarter of the foot's length of 0.152."""

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
        [m], ``(24, 3)``. ``motion.attrs`` hold ``height`` and ``ankle_height`` [m], ``ground_shift`` [m] (by how much the
        recording was lifted), ``floor_spread`` [m] and ``dropped_frames``.

    Raises
    ------
    UnknownNameError
        When the skeleton lacks a joint that is needed.
    InputError
        When the body's height is not a person's: the unit is wrong.
    """
    skeleton = _Skeleton.of(bvh, unit)
    offsets = skeleton.offsets()
    height = body_height(offsets)
    if not 1.0 < height < 2.3:
        raise InputError(f"{bvh.path}: with a unit of {unit:g} m the person is {height:.2f} m tall; give the file's unit of length in metres as unit=")
    start = _first_frame(skeleton.position, bvh.frame_time, drop)
    time = bvh.time[start:] - bvh.time[start]
    if len(time) < 2:
        raise InputError(f"{bvh.path}: {len(time)} frame(s) left after {start} at the start were dropped")
    turned = skeleton.turned(offsets)[start:]
    motion = BodyMotion(time, skeleton.at("Hips")[start:], _wxyz(_relative(turned)), name=name)
    if cutoff is not None:
        motion = smoothed(motion, cutoff)
    return grounded(motion, offsets, {"height": height, "ankle_height": ANKLE_PER_HEIGHT * height, "dropped_frames": start}), offsets


def body_height(offsets: Array) -> float:
    """Height of the person [m] from the length of the legs between hip and ankle."""
    leg = [sum(np.linalg.norm(offsets[JOINTS.index(f"{side}_{joint}")]) for joint in ("knee", "ankle")) for side in _SIDES]
    return float(np.mean(leg) * HEIGHT_PER_LEG)


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


def sole_points(motion: BodyMotion, offsets: Array, ankle_height: float, height: float) -> Array:
    """Positions of heel, ball and toe under each foot [m], ``(time, side[right, left], point[heel, ball, toe], axis)``."""
    turned, position = _kinematics(motion, offsets)
    soles = []
    for side in ("right", "left"):
        ankle, ball = JOINTS.index(f"{side}_ankle"), JOINTS.index(f"{side}_foot")
        under = ankle_height + offsets[ball, 1]
        heel = position[:, ankle] + turned[:, ankle] @ np.array([-HEEL_PER_HEIGHT * height, -ankle_height, 0.0])
        at_ball = position[:, ball] + turned[:, ankle] @ np.array([0.0, -under, 0.0])
        toe = position[:, ball] + turned[:, ball] @ np.array([HEEL_PER_HEIGHT * height, -under, 0.0])
        soles.append(np.stack([heel, at_ball, toe], axis=1))
    return np.stack(soles, axis=1)


def grounded(motion: BodyMotion, offsets: Array, attrs: dict[str, Any]) -> BodyMotion:
    """The motion moved so that the feet stand on ``y = 0`` and the pelvis starts over the origin.

    The floor is the median height of the lowest point of both soles over the frames in which that point is slower than 0.3 m/s.
    ``attrs`` must hold ``height`` and ``ankle_height`` [m].
    """
    soles = sole_points(motion, offsets, attrs["ankle_height"], attrs["height"]).reshape(len(motion), 6, 3)
    lowest = np.argmin(soles[..., 1], axis=1)
    speed = np.linalg.norm(np.gradient(soles, motion.time, axis=0), axis=-1)
    frames = np.arange(len(motion))
    height, slow = soles[frames, lowest, 1], speed[frames, lowest] < 0.3
    standing = height[slow] if slow.sum() >= 5 else np.sort(height)[: max(1, len(height) // 10)]
    floor = float(np.median(standing))
    spread = float(np.subtract(*np.percentile(standing, [95, 5])))
    start = motion.root_position[0]
    moved = motion.placed(np.array([-start[0], -floor, -start[2]]))
    return BodyMotion(
        moved.time, moved.root_position, moved.rotation_wxyz, motion.name, {**motion.attrs, **attrs, "ground_shift": -floor, "floor_spread": spread}
    )


@dataclass(frozen=True)
class _Skeleton:
    """A BVH skeleton and its motion in the ground frame, in metres."""

    bvh: BvhMotion
    unit: float
    rotation: Array
    position: Array

    @classmethod
    def of(cls, bvh: BvhMotion, unit: float) -> _Skeleton:
        rotation, position = bvh.world()
        return cls(bvh, unit, FROM_SMPL @ rotation @ FROM_SMPL.T, position @ FROM_SMPL.T * unit)

    def at(self, joint: str) -> Array:
        return self.position[:, self.bvh.index(joint)]

    def facing(self, joint: str) -> Array:
        return self.rotation[:, self.bvh.index(joint)]

    def bone(self, joint: str) -> Array:
        return self.bvh.offsets[self.bvh.index(joint)] @ FROM_SMPL.T * self.unit

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
        place |= {"neck": self.bone("Neck1"), "head": self.bone("Head")}
        for side, (prefix, _) in _SIDES.items():
            arm = self.bone(f"{prefix}Arm")
            place |= {f"{side}_hip": self.bone(f"{prefix}UpLeg"), f"{side}_collar": SPLIT * arm, f"{side}_shoulder": (1 - SPLIT) * arm}
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

        A body between a joint that the recording has and one that it lacks points at where the next joint was recorded.
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
        arms = {f"{side}_collar": (f"{side}_shoulder", f"{prefix}Arm") for side, (prefix, _) in _SIDES.items()}
        return {"spine1": ("spine2", "Spine"), "neck": ("head", "Head")} | arms


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


def _kinematics(motion: BodyMotion, offsets: Array) -> tuple[Array, Array]:
    from imdy_plugin.adapters.smpl.motion import global_rotations

    turned = global_rotations(motion)
    position = np.empty((len(motion), len(JOINTS), 3))
    for joint, parent in enumerate(PARENTS):
        position[:, joint] = motion.root_position if parent < 0 else position[:, parent] + turned[:, parent] @ offsets[joint]
    return turned, position


def _wxyz(rotation: Array) -> Array:
    """Quaternions, scalar first, of rotation matrices ``(time, joint, 3, 3)``, without changes of sign from frame to frame."""
    quaternion = np.asarray(Rotation.from_matrix(rotation.reshape(-1, 3, 3)).as_quat(scalar_first=True)).reshape(*rotation.shape[:2], 4)
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
