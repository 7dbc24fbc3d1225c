"""Brings recorded motion onto the 24-joint body: from a BVH skeleton, or from the coordinates of a musculoskeletal model.

The body takes the recorded skeleton's own bone lengths, so that the joints stay where they were recorded. Its T-pose is made by
construction: thighs and shanks straight down, arms straight out, feet pointing forward; each bone of the recording is turned by a
constant so that a person who stands straight has rotations near the identity.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.signal import butter, sosfiltfilt
from scipy.spatial.transform import Rotation, Slerp

from imdy_plugin.adapters.bvh import BvhMotion
from imdy_plugin.adapters.smpl.motion import BodyMotion, global_rotations, joint_positions
from imdy_plugin.adapters.smpl.topology import FROM_SMPL, JOINTS, PARENTS
from imdy_plugin.errors import InputError
from imdy_plugin.sim.standin import build_standin, joint_offsets, skeleton_height, sole_points

Array = NDArray[np.float64]

CMU_UNIT = 0.0254 / 0.45
"""Unit of length of the Carnegie Mellon database's skeletons [m]: an inch over its scale of 0.45."""

UP, DOWN = np.array([0.0, 1.0, 0.0]), np.array([0.0, -1.0, 0.0])

STEEPEST = float(np.radians(3.0))
"""A recorded floor that slopes more [rad] is no fault of the laboratory's vertical."""

UNEVEN = 0.10
"""Where the heights of the soles in stance range over more [m], the ground is not level."""

FASTEST_TURN = float(np.radians(4500.0))
"""No body turns faster against its parent [rad/s]."""

_LONGEST_BRIDGE = 0.25
"""Over a longer time [s] a fault is not bridged as one."""

_SNAP = float(np.radians(60.0))
"""No thigh or hand turns as far between two frames [rad]."""

_STANDING_SPEED = 0.3
_PRINT_DEVIATION, _SLOPE_DEVIATION = 0.01, 0.02
"""How much footprints scatter in height [m], and how much laboratories' floors slope."""

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


def grounded(motion: BodyMotion, person: xr.Dataset) -> BodyMotion:
    """The motion moved so that the feet stand on ``y = 0`` and the pelvis starts over the origin.

    The floor is a plane through the lowest points of the soles where these are slower than 0.3 m/s. Where the plane says that the
    recording's vertical is off (laboratories' are, by a degree or two), the motion is turned upright; a slope is believed only as
    far as the footprints cover ground, and not at all above :data:`STEEPEST` or where the footprints lie in no plane.

    Parameters
    ----------
    motion
        The motion.
    person
        The body whose soles stand on the floor (:func:`imdy_plugin.sim.standin.build_standin`).

    Returns
    -------
    BodyMotion
        Its ``attrs`` tell ``ground_shift`` [m], by how much the recording was lifted where it begins; ``ground_tilt`` [rad], the
        floor's slope that was taken out; ``floor_spread`` [m], the range (5 to 95 %) of the soles' heights in stance that is left.
    """
    level, spread = _floor(_footprints(motion, person))
    normal = np.array([-level[0], 1.0, -level[1]])
    turn = _between(normal, UP)
    start = motion.root_position[0]
    under = np.array([start[0], level @ (start[0], start[2], 1.0), start[2]])
    position = (motion.root_position - under) @ turn.T
    rotation = motion.rotation_wxyz.copy()
    rotation[:, 0] = (Rotation.from_matrix(turn) * Rotation.from_quat(rotation[:, 0], scalar_first=True)).as_quat(scalar_first=True)
    tilt = float(np.arccos(1 / np.linalg.norm(normal)))
    attrs = {**motion.attrs, "ground_shift": float(-under[1]), "ground_tilt": tilt, "floor_spread": spread}
    return replace(motion, root_position=position - position[0] * (1, 0, 1), rotation_wxyz=_steady(rotation), attrs=attrs)


def lowest_points(motion: BodyMotion, person: xr.Dataset) -> Array:
    """Place of each foot's lowest point [m], ``(time, foot[right, left], 3)``."""
    turned, place = global_rotations(motion), joint_positions(motion, joint_offsets(person))
    feet = []
    for side in ("right", "left"):
        bodies = [(JOINTS.index(body), points) for body, points in sole_points(person).items() if body.startswith(side)]
        points = np.concatenate([place[:, None, body] + np.einsum("tij,pj->tpi", turned[:, body], at) for body, at in bodies], axis=1)
        feet.append(points[np.arange(len(motion)), np.argmin(points[..., 1], axis=1)])
    return np.stack(feet, axis=1)


def _footprints(motion: BodyMotion, person: xr.Dataset) -> Array:
    """Points at which the lower foot stands [m], ``(frame, 3)``; the lowest of all where no foot ever does."""
    feet = lowest_points(motion, person)
    frames, lower = np.arange(len(motion)), np.argmin(feet[..., 1], axis=1)
    ankles = joint_positions(motion, joint_offsets(person))[:, [JOINTS.index("right_foot"), JOINTS.index("left_foot")]]
    speed = np.linalg.norm(np.gradient(ankles, motion.time, axis=0), axis=-1)[frames, lower]
    points = feet[frames, lower]
    slow = points[speed < _STANDING_SPEED]
    return slow if len(slow) >= 5 else points[np.argsort(points[:, 1])[: max(1, len(points) // 10)]]


def _floor(points: Array) -> tuple[Array, float]:
    """A floor ``y = a x + b z + c`` through footprints, and the range of heights (5 to 95 %) about it [m].

    Footprints are gathered in squares of a tenth of a metre that count the same; iteratively reweighted least squares (Huber).
    """
    cells = np.unique(np.round(points[:, [0, 2]] * 10), axis=0, return_inverse=True)[1].ravel()
    place = np.array([np.median(points[cells == cell], axis=0) for cell in range(cells.max() + 1)])
    middle = place[:, [0, 2]].mean(axis=0)
    columns = np.column_stack([place[:, [0, 2]] - middle, np.ones(len(place))])
    prior = np.diag([(_PRINT_DEVIATION / _SLOPE_DEVIATION) ** 2] * 2 + [0.0])
    plane, weight = np.zeros(3), np.ones(len(place))
    for _ in range(20):
        plane = np.linalg.solve((columns.T * weight) @ columns + prior, (columns.T * weight) @ place[:, 1])
        weight = np.minimum(1.0, _PRINT_DEVIATION / np.maximum(np.abs(place[:, 1] - columns @ plane), 1e-9))
    level = np.array([plane[0], plane[1], plane[2] - plane[:2] @ middle])
    spread = _spread(points, level)
    if np.hypot(*plane[:2]) > np.tan(STEEPEST) or spread > UNEVEN:
        level = np.array([0.0, 0.0, float(np.median(points[:, 1]))])
        spread = _spread(points, level)
    return level, spread


def _spread(points: Array, level: Array) -> float:
    left = points[:, 1] - points[:, [0, 2]] @ level[:2] - level[2]
    return float(np.subtract(*np.percentile(left, [95, 5])))


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
