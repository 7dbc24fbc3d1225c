"""An open body of 24 rigid parts and ball joints, in the topology of SMPL, made from published proportions.

It stands in for the SMPL body where its files are not to be had: the same joints in the same tree, in the T-pose (arms out to
the sides) with all frames along the ground's, so that a rotation of one is a rotation of the other. Lengths come from standing
height or from a recorded skeleton; masses, centres of mass and inertias from de Leva (1996) by :mod:`~imdy_plugin.sim.anthropometry`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from imdy_plugin.adapters.smpl.topology import JOINTS, PARENTS
from imdy_plugin.errors import InputError
from imdy_plugin.schema import GRAVITY, add_log, new_model, new_motion
from imdy_plugin.sim.anthropometry import ASIS_WIDTH, HIP_CENTER_IN_ASIS_WIDTHS, LENGTHS, PELVIS_DEPTH, Segment, Sex, check_person, segment_table
from imdy_plugin.sim.person import FOOT

Array = NDArray[np.float64]

ROTATION_ORDERS: dict[str, str] = {
    "pelvis": "yxz",
    "hip": "zxy",
    "knee": "zxy",
    "ankle": "zxy",
    "foot": "zxy",
    "spine1": "zxy",
    "spine2": "zxy",
    "spine3": "zxy",
    "neck": "yxz",
    "head": "yxz",
    "collar": "xzy",
    "shoulder": "xzy",
    "elbow": "yxz",
    "wrist": "xyz",
    "hand": "xyz",
}
"""Order in which the three coordinates of a joint turn, each about an axis that the ones before have turned."""

_HEIGHTS = {"pelvis": 0.577, "spine1": 0.614, "spine2": 0.676, "spine3": 0.738, "collar": 0.818, "neck": 0.845, "head": 0.905}
"""Heights of the joints of the trunk over standing height."""

_COLLAR_HALF_WIDTH, _HALF_HAND = 0.020, 0.5

_SLAB_ASPECT = 0.65
"""Depth of the trunk over its width."""

_FLESH_DENSITY = 1000.0

_NECK_SHARE, _COLLAR_SHARE, _FINGERS_SHARE, _TOES_SHARE = 0.20, 0.12, 0.35, 0.16


def build_standin(height: float = 1.75, mass: float = 75.0, sex: Sex | None = None, offsets: ArrayLike | None = None, name: str | None = None) -> xr.Dataset:
    """Build the body of a person.

    Parameters
    ----------
    height, mass, sex
        Standing height [m], body mass [kg] and ``"male"``, ``"female"`` or None, whose proportions the masses follow.
    offsets
        Each joint in its parent's body in the T-pose [m], ``(24, 3)``, of a recorded skeleton; its lengths then decide, and the
        height is the skeleton's. The pelvis's row is not used.
    name
        What the person is called.

    Returns
    -------
    xarray.Dataset
        A model (:func:`imdy_plugin.schema.new_model`). The soles touch the ground where all coordinates have their defaults.

    Raises
    ------
    InputError
        Height, mass, sex or a bone is no adult's.
    """
    skeleton = default_offsets(height) if offsets is None else _checked_offsets(offsets)
    if offsets is not None:
        height = skeleton_height(skeleton)
    check_person(height, mass)
    parts = _parts(skeleton, height, mass, segment_table(sex))
    called = name or f"standin_{height * 100:.0f}cm_{mass:.0f}kg" + (f"_{sex}" if sex else "")
    markers = _markers(skeleton, height)
    model = new_model(
        coords={"body": JOINTS, "joint": ("ground_pelvis", *JOINTS[1:]), "coordinate": COORDINATES, "marker": [m[0] for m in markers]},
        variables=_body_variables(parts) | _joint_variables(skeleton) | _coordinate_variables(skeleton) | _marker_variables(markers),
        attrs={
            "name": called,
            "mass": float(mass),
            "height": float(height),
            "sex": sex or "",
            "gravity": [0.0, -GRAVITY, 0.0],
            "root_coordinates": list(COORDINATES[:6]),
            "root_body": "pelvis",
            "foot_bodies": ["right_ankle", "left_ankle"],
            "knee_sign": -1,
            "own_forces": [],
            "other_constraints": [],
            "source": "published proportions",
        },
    )
    return add_log(model, f"built from published proportions: {called}")


def default_offsets(height: float) -> Array:
    """Each joint in its parent's body in the T-pose [m], ``(24, 3)``, of a person of ``height`` [m]."""
    right = _right_joints()
    place = {name: np.array([0.0, h, 0.0]) for name, h in _HEIGHTS.items() if name != "collar"}
    place |= {f"right_{name}": at for name, at in right.items()} | {f"left_{name}": at * [1.0, 1.0, -1.0] for name, at in right.items()}
    absolute = np.array([place[name] for name in JOINTS]) * height
    return np.array([np.zeros(3) if parent < 0 else absolute[joint] - absolute[parent] for joint, parent in enumerate(PARENTS)])


def _right_joints() -> dict[str, Array]:
    """Places of the joints of the right limbs over standing height, on the ground below the hips' middle."""
    hip, shoulder, ankle = HIP_CENTER_IN_ASIS_WIDTHS[2] * ASIS_WIDTH, LENGTHS["shoulder_half_width"], LENGTHS["ankle_height"]
    elbow = shoulder + LENGTHS["upper_arm"]
    wrist = elbow + LENGTHS["forearm"]
    foot = FOOT["ball"] * LENGTHS["foot_length"], FOOT["ball_height"] * LENGTHS["foot_length"]
    up = LENGTHS["shoulder_height"]
    return {
        "hip": np.array([0.0, LENGTHS["hip_height"], hip]),
        "knee": np.array([0.0, LENGTHS["knee_height"], hip]),
        "ankle": np.array([0.0, ankle, hip]),
        "foot": np.array([foot[0], foot[1], hip]),
        "collar": np.array([0.0, _HEIGHTS["collar"], _COLLAR_HALF_WIDTH]),
        "shoulder": np.array([0.0, up, shoulder]),
        "elbow": np.array([0.0, up, elbow]),
        "wrist": np.array([0.0, up, wrist]),
        "hand": np.array([0.0, up, wrist + _HALF_HAND * LENGTHS["hand"]]),
    }


def skeleton_height(offsets: Array) -> float:
    """Standing height [m] of a skeleton ``(24, 3)``: its head joint is as high above its soles as a person's of that height."""
    rest = rest_positions(offsets)
    return float((rest[JOINTS.index("head"), 1] - _sole_level(rest)) / _HEIGHTS["head"])


def rest_positions(offsets: Array) -> Array:
    """Places of the joints in the T-pose [m], ``(24, 3)``, seen from the pelvis."""
    place = np.zeros((len(JOINTS), 3))
    for joint, parent in enumerate(PARENTS):
        if parent >= 0:
            place[joint] = place[parent] + offsets[joint]
    return place


def joint_offsets(model: xr.Dataset) -> Array:
    """Each joint in its parent's body in the T-pose [m], ``(24, 3)``; zero for the pelvis."""
    children = [str(c) for c in model["joint_child"].values]
    offsets = model["joint_parent_location"].values[[children.index(name) for name in JOINTS]].astype(float)
    offsets[0] = 0.0
    return offsets


def sole_points(model: xr.Dataset) -> dict[str, Array]:
    """Points of the soles in their bodies [m], ``(point, 3)``: heel and ball, each inside and outside, and the toes with their tip.

    In the T-pose all lie in one horizontal plane.
    """
    rest = rest_positions(joint_offsets(model))
    level, height = _sole_level(rest), float(model.attrs["height"])
    points = {}
    for side, lateral in (("left", -1.0), ("right", 1.0)):
        ankle, ball = rest[JOINTS.index(f"{side}_ankle")], rest[JOINTS.index(f"{side}_foot")]
        foot = _foot(ankle, ball)
        half = 0.5 * LENGTHS["foot_width"] * height
        aside = lateral * half * foot.aside
        heel, tip = foot.heel * foot.forward, foot.toe * foot.forward
        down, below = np.array([0.0, level - ankle[1], 0.0]), np.array([0.0, level - ball[1], 0.0])
        front = ball - ankle
        front = np.array([front[0], 0.0, front[2]])
        points[f"{side}_ankle"] = np.array([heel - 0.6 * aside, heel + 0.6 * aside, front - aside, front + aside]) + down
        points[f"{side}_foot"] = np.array([0.6 * tip - 0.8 * aside, 0.5 * tip + 0.8 * aside, tip - 0.2 * aside]) + below
    return points


@dataclass(frozen=True)
class _Foot:
    """Directions of a foot, and how far its heel is from the ankle and its toes' tip from their joint [m]."""

    forward: Array
    aside: Array
    length: float
    heel: float
    toe: float


def _foot(ankle: Array, ball: Array) -> _Foot:
    along = (ball - ankle) * [1.0, 0.0, 1.0]
    reach = float(np.linalg.norm(along))
    forward = along / reach
    length = reach / FOOT["ball"]
    return _Foot(forward, np.array([-forward[2], 0.0, forward[0]]), length, FOOT["heel"] * length, (FOOT["toe"] - FOOT["ball"]) * length)


def _sole_level(rest: Array) -> float:
    """Height of the soles' plane, seen from the pelvis."""
    levels = []
    for side in ("left", "right"):
        ankle, ball = rest[JOINTS.index(f"{side}_ankle")], rest[JOINTS.index(f"{side}_foot")]
        levels += [
            ball[1] - FOOT["ball_height"] * _foot(ankle, ball).length,
            ankle[1] - 0.5 * LENGTHS["ankle_height"] / LENGTHS["foot_length"] * _foot(ankle, ball).length,
        ]
    return float(min(levels))


def _checked_offsets(offsets: ArrayLike) -> Array:
    given = np.array(offsets, float)
    if given.shape != (len(JOINTS), 3) or not np.isfinite(given).all():
        raise InputError(f"offsets have shape {given.shape}; give ({len(JOINTS)}, 3) finite numbers [m], one row for each of {', '.join(JOINTS)}")
    given[0] = 0.0
    return given


# Masses ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """Mass [kg], centre of mass [m] in the body and inertia about it [kg m^2], ``(3, 3)``."""

    mass: float
    center: Array
    inertia: Array


def _parts(offsets: Array, height: float, mass: float, table: Mapping[str, Segment]) -> list[_Part]:
    """The 24 bodies in the order of the joints."""
    rest = rest_positions(offsets)
    share = {name: segment.mass * mass for name, segment in table.items()}
    at = {name: rest[i] for i, name in enumerate(JOINTS)}
    found = {
        "pelvis": _slab(share["lower_trunk"], 0.5 * (at["left_hip"] + at["right_hip"]), at["spine1"], at["pelvis"]),
        "spine1": _slab(0.5 * share["mid_trunk"], at["spine1"], at["spine2"], at["spine1"]),
        "spine2": _slab(0.5 * share["mid_trunk"], at["spine2"], at["spine3"], at["spine2"]),
        "spine3": _slab((1 - 2 * _COLLAR_SHARE) * share["upper_trunk"], at["spine3"], at["neck"], at["spine3"]),
        "neck": _slab(_NECK_SHARE * share["head"], at["neck"], at["head"], at["neck"], aspect=1.0),
        "head": _head((1 - _NECK_SHARE) * share["head"], height),
    }
    for side in ("left", "right"):
        found |= _limbs(side, at, share, table, height)
        found[f"{side}_collar"] = _rod(_COLLAR_SHARE * share["upper_trunk"], at[f"{side}_shoulder"] - at[f"{side}_collar"])
    return [found[name] for name in JOINTS]


def _limbs(side: str, at: Mapping[str, Array], share: Mapping[str, float], table: Mapping[str, Segment], height: float) -> dict[str, _Part]:
    ends = {"hip": ("knee", "thigh"), "knee": ("ankle", "shank"), "shoulder": ("elbow", "upper_arm"), "elbow": ("wrist", "forearm")}
    found = {f"{side}_{near}": _limb(share[segment], at[f"{side}_{far}"] - at[f"{side}_{near}"], table[segment]) for near, (far, segment) in ends.items()}
    palm = at[f"{side}_hand"] - at[f"{side}_wrist"]
    width, thick = 0.047 * height, 0.016 * height
    fingers = palm / np.linalg.norm(palm) * (1 - _HALF_HAND) * LENGTHS["hand"] * height
    found[f"{side}_wrist"] = _box((1 - _FINGERS_SHARE) * share["hand"], 0.5 * palm, (width, thick, float(np.linalg.norm(palm))))
    found[f"{side}_hand"] = _box(_FINGERS_SHARE * share["hand"], 0.5 * fingers, (width, 0.7 * thick, float(np.linalg.norm(fingers))))
    ankle, ball = at[f"{side}_ankle"], at[f"{side}_foot"]
    foot, level = _foot(ankle, ball), _sole_level(np.array([at[name] for name in JOINTS]))
    breadth, up = LENGTHS["foot_width"] * height, np.array([0.0, 1.0, 0.0])
    rise = ankle[1] - level
    rear = 0.5 * (foot.heel + FOOT["ball"] * foot.length) * foot.forward - 0.5 * rise * up
    found[f"{side}_ankle"] = _turned_box((1 - _TOES_SHARE) * share["foot"], rear, (FOOT["ball"] * foot.length - foot.heel, rise, 0.9 * breadth), foot)
    low = ball[1] - level
    toes = 0.5 * foot.toe * foot.forward
    found[f"{side}_foot"] = _turned_box(_TOES_SHARE * share["foot"], toes, (foot.toe, 2 * low, breadth), foot)
    return found


def _limb(mass: float, bone: Array, segment: Segment) -> _Part:
    """A segment along a bone, its inertia turned with it."""
    length = float(np.linalg.norm(bone))
    axis = bone / length
    across, along = 0.5 * (segment.gyration[0] ** 2 + segment.gyration[2] ** 2), segment.gyration[1] ** 2
    inertia = mass * length**2 * (across * np.eye(3) + (along - across) * np.outer(axis, axis))
    return _Part(mass, segment.center_of_mass * bone, inertia)


def _rod(mass: float, bone: Array) -> _Part:
    """A round bar from the joint to the end of the bone, as thick as its mass asks for."""
    length = float(np.linalg.norm(bone))
    axis, square = bone / length, mass / (_FLESH_DENSITY * np.pi * length)
    along, across = 0.5 * square, (3 * square + length**2) / 12
    return _Part(mass, 0.5 * bone, mass * (across * np.eye(3) + (along - across) * np.outer(axis, axis)))


def _slab(mass: float, lower: Array, upper: Array, joint: Array, aspect: float = _SLAB_ASPECT) -> _Part:
    """An upright elliptic cylinder between two heights of the trunk, as wide as its mass asks for."""
    length = float(abs(upper[1] - lower[1]))
    width2 = mass / (_FLESH_DENSITY * np.pi * length * aspect)
    depth2 = aspect**2 * width2
    inertia = mass * np.diag([width2 / 4 + length**2 / 12, (width2 + depth2) / 4, depth2 / 4 + length**2 / 12])
    return _Part(mass, 0.5 * (lower + upper) - joint, inertia)


def _head(mass: float, height: float) -> _Part:
    """An ellipsoid from the head joint to the top."""
    radii = np.array([0.055, 0.5 * (1.0 - _HEIGHTS["head"]) * 1.25, 0.044]) * height
    squares = radii**2
    return _Part(mass, np.array([0.01 * height, (1.0 - _HEIGHTS["head"]) * height - radii[1], 0.0]), mass / 5 * np.diag(squares.sum() - squares))


def _box(mass: float, center: Array, size: tuple[float, float, float]) -> _Part:
    squares = np.square(size)
    return _Part(mass, center, mass / 12 * np.diag(squares.sum() - squares))


def _turned_box(mass: float, center: Array, size: tuple[float, float, float], foot: _Foot) -> _Part:
    axes = np.column_stack([foot.forward, [0.0, 1.0, 0.0], foot.aside])
    return _Part(mass, center, axes @ _box(mass, center, size).inertia @ axes.T)


# The dataset's variables ------------------------------------------------------------------------------------------------------


def _names_of(joint: str) -> tuple[str, str, str]:
    """Names of a joint's coordinates about x, y and z."""
    separator = "_r" if joint == "pelvis" else "_"
    return (f"{joint}{separator}x", f"{joint}{separator}y", f"{joint}{separator}z")


COORDINATES: tuple[str, ...] = ("pelvis_tx", "pelvis_ty", "pelvis_tz", *(c for joint in JOINTS for c in _names_of(joint)))
"""Names of the coordinates: the pelvis's place, then the rotations about x, y and z of each joint."""


def rotation_order(joint: str) -> str:
    """Axes about which the coordinates of a joint turn, first to last, such as ``"zxy"``."""
    return ROTATION_ORDERS[joint.split("_")[-1]]


def _body_variables(parts: list[_Part]) -> dict[str, Any]:
    inertia = np.array([p.inertia for p in parts])
    return {
        "body_mass": np.array([p.mass for p in parts]),
        "body_center_of_mass": np.array([p.center for p in parts]),
        "body_inertia": inertia[:, [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]],
    }


def _joint_variables(offsets: Array) -> dict[str, Any]:
    zero = np.zeros((len(JOINTS), 3))
    return {
        "joint_type": np.array(["CustomJoint"] * len(JOINTS)),
        "joint_parent": np.array(["ground" if p < 0 else JOINTS[p] for p in PARENTS]),
        "joint_child": np.array(JOINTS),
        "joint_parent_location": offsets,
        "joint_parent_orientation": zero,
        "joint_child_location": zero,
        "joint_child_orientation": zero,
        "joint_transform": np.array([json.dumps(_transform(joint)) for joint in JOINTS]),
    }


def _transform(joint: str) -> dict[str, Any]:
    letters = rotation_order(joint)
    turning = {f"rotation{i + 1}": (_names_of(joint)["xyz".index(letter)], letter) for i, letter in enumerate(letters)}
    moving = {f"translation{i + 1}": (f"pelvis_t{letter}" if joint == "pelvis" else "", letter) for i, letter in enumerate("xyz")}
    return {axis: _axis(*described) for axis, described in {**turning, **moving}.items()}


def _axis(coordinate: str, letter: str) -> dict[str, Any]:
    function = {"type": "LinearFunction", "coefficients": [1.0, 0.0]} if coordinate else {"type": "Constant", "value": 0.0}
    return {"axis": [float(letter == a) for a in "xyz"], "coordinates": [coordinate] if coordinate else [], "function": function}


def _coordinate_variables(offsets: Array) -> dict[str, Any]:
    count = len(COORDINATES)
    default = np.zeros(count)
    default[1] = -_sole_level(rest_positions(offsets))
    no = np.zeros(count, bool)
    return {
        "coordinate_joint": np.array(["ground_pelvis"] * 6 + [joint for joint in JOINTS[1:] for _ in range(3)]),
        "coordinate_kind": np.array(["translational"] * 3 + ["rotational"] * (count - 3)),
        "coordinate_default": default,
        "coordinate_range": np.array([[-50.0, 50.0]] * 3 + [[-np.pi, np.pi]] * (count - 3)),
        "coordinate_locked": no,
        "coordinate_clamped": no,
        "coordinate_prescribed": no,
        "coordinate_coupling": np.array([""] * count),
    }


def _marker_variables(markers: list[tuple[str, str, Array]]) -> dict[str, Any]:
    return {"marker_body": np.array([m[1] for m in markers]), "marker_location": np.array([m[2] for m in markers])}


def _markers(offsets: Array, height: float) -> list[tuple[str, str, Array]]:
    asis = 0.5 * ASIS_WIDTH * height
    right = [
        ("RASI", "pelvis", np.array([0.06 * height, 0.0, asis])),
        ("RPSI", "pelvis", np.array([0.06 * height - PELVIS_DEPTH * height, 0.01 * height, 0.027 * height])),
    ]
    return right + [("L" + name[1:], body, at * [1, 1, -1]) for name, body, at in right]


# Coordinates and rotations ------------------------------------------------------------------------------------------------------


def rotations_from_coordinates(model: xr.Dataset, motion: xr.Dataset) -> tuple[Array, Array]:
    """Rotations ``(time, 24, 4)`` (scalar first) and the pelvis's place ``(time, 3)`` [m] of a motion of this body."""
    values = motion["coordinate_value"].sel(coordinate=list(COORDINATES)).values
    quaternions = np.empty((len(values), len(JOINTS), 4))
    for index, joint in enumerate(JOINTS):
        letters = rotation_order(joint)
        angles = values[:, [3 + 3 * index + "xyz".index(letter) for letter in letters]]
        quaternions[:, index] = Rotation.from_euler(letters.upper(), angles).as_quat(scalar_first=True)
    return quaternions, values[:, :3]


def coordinates_from_rotations(model: xr.Dataset, time: ArrayLike, rotation_wxyz: Array, root_position: Array) -> xr.Dataset:
    """A motion of this body from rotations ``(time, 24, 4)`` (scalar first) and the pelvis's place ``(time, 3)`` [m].

    Angles run on from frame to frame without jumps.
    """
    values = np.empty((len(rotation_wxyz), len(COORDINATES)))
    values[:, :3] = root_position
    for index, joint in enumerate(JOINTS):
        letters = rotation_order(joint)
        angles = _continuous(Rotation.from_quat(rotation_wxyz[:, index], scalar_first=True).as_euler(letters.upper()))
        for column, letter in enumerate(letters):
            values[:, 3 + 3 * index + "xyz".index(letter)] = angles[:, column]
    return new_motion(time, coordinates=(list(COORDINATES), values), log=f"coordinates of {model.attrs['name']} from rotations")


def _continuous(angles: Array) -> Array:
    """Of the two triples that give the same rotation the one nearer to the frame before, without jumps of a turn."""
    out = angles.copy()
    for frame in range(1, len(out)):
        other = out[frame] * [1, -1, 1] + np.pi
        choices = [a - 2 * np.pi * np.round((a - out[frame - 1]) / (2 * np.pi)) for a in (out[frame], other)]
        out[frame] = min(choices, key=lambda a: float(np.abs(a - out[frame - 1]).sum()))
    return out
