"""An open body of 24 rigid parts and ball joints, in the topology of SMPL, made from published proportions.

It stands in for the SMPL body where its files are not to be had: the same joints in the same tree, in the T-pose (arms out to
the sides) with all frames along the ground's, so that a rotation of one is a rotation of the other. Lengths come from standing
height or from a recorded skeleton; masses, centres of mass and inertias from de Leva (1996) by :mod:`~imdy_plugin.sim.anthropometry`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from imdy_plugin.adapters.smpl.motion import BodyMotion
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
    "neck": "xzy",
    "head": "xzy",
    "collar": "xzy",
    "shoulder": "yzx",
    "elbow": "yxz",
    "wrist": "zxy",
    "hand": "xzy",
}
"""Order in which the three coordinates of a joint turn, each about an axis that the ones before have turned.

Where the second is a quarter turn the first and the third act about one axis (gimbal lock). Of the six orders each joint has the one
whose second angle stays furthest from that over recordings of everyday and athletic movement: below 60 degrees at most joints, at
the hip and the shoulder above 75 degrees in one frame of several hundred.
"""

_HEIGHTS = {"pelvis": 0.577, "spine1": 0.614, "spine2": 0.676, "spine3": 0.738, "collar": 0.818, "neck": 0.845, "head": 0.905}
"""Heights of the joints of the trunk over standing height: spine1 and spine3 where de Leva parts lower, middle and upper trunk, the
collars at the clavicles, the neck at the seventh cervical vertebra, the head where the skull rests."""

_COLLAR_HALF_WIDTH, _HALF_HAND = 0.020, 0.5

_HEIGHT_PER_LEG = 1.0 / (LENGTHS["hip_height"] - LENGTHS["ankle_height"])

_SLAB_ASPECT = 0.65
"""Depth of the trunk over its width."""

_FLESH_DENSITY = 1000.0

_NECK_SHARE, _COLLAR_SHARE, _TOES_SHARE = 0.20, 0.12, 0.16
"""Part of the head's, the upper trunk's and the foot's mass that goes to the neck, to each collar and to the toes."""

_TOES_THICKNESS = 0.014
"""Thickness of the toes over standing height."""

_SHORTEST_BONE = 0.005


def build_standin(height: float = 1.75, mass: float = 75.0, sex: Sex | None = None, offsets: ArrayLike | None = None, name: str | None = None) -> xr.Dataset:
    """Build the body of a person.

    Parameters
    ----------
    height, mass, sex
        Standing height [m], body mass [kg] and ``"male"``, ``"female"`` or None, whose proportions the masses follow.
    offsets
        Each joint in its parent's body in the T-pose [m], ``(24, 3)``, of a recorded skeleton; its lengths then decide, and
        the height is that of a person with such legs. The pelvis's row is not used.
    name
        What the person is called.

    Returns
    -------
    xarray.Dataset
        A model (:func:`imdy_plugin.schema.new_model`). The soles touch the ground where all coordinates have their defaults.

    Raises
    ------
    InputError
        Height, mass, sex or the skeleton is no adult's in the T-pose.
    """
    skeleton = default_offsets(height) if offsets is None else _checked_offsets(offsets)
    if offsets is not None:
        height = skeleton_height(skeleton)
    check_person(height, mass)
    parts = _parts(skeleton, height, mass, segment_table(sex))
    called = name or f"standin_{height * 100:.0f}cm_{mass:.0f}kg" + (f"_{sex}" if sex else "")
    markers = _markers(skeleton, height)
    model = new_model(
        coords={"body": JOINTS, "joint": ("ground_pelvis", *JOINTS[1:]), "coordinate": COORDINATES, "marker": [m.name for m in markers]},
        variables=_body_variables(parts) | _joint_variables(skeleton) | _coordinate_variables(skeleton, height) | _marker_variables(markers),
        attrs={
            "name": called,
            "mass": float(mass),
            "height": float(height),
            "sex": sex or "",
            "gravity": [0.0, -GRAVITY, 0.0],
            "root_coordinates": list(COORDINATES[:6]),
            "root_body": "pelvis",
            "foot_bodies": ["right_ankle", "left_ankle"],
            "toe_bodies": ["right_foot", "left_foot"],
            "heel_points": [float(x) for side in ("right", "left") for x in _heel_point(skeleton, height, side)],
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
    place |= {f"right_{name}": at for name, at in right.items()} | {f"left_{name}": at * _FLIP for name, at in right.items()}
    absolute = np.array([place[name] for name in JOINTS]) * height
    return np.array([np.zeros(3) if parent < 0 else absolute[joint] - absolute[parent] for joint, parent in enumerate(PARENTS)])


def _right_joints() -> dict[str, Array]:
    """Places of the joints of the right limbs over standing height, from the ground below the hips' middle."""
    hip, shoulder, ankle = HIP_CENTER_IN_ASIS_WIDTHS[2] * ASIS_WIDTH, LENGTHS["shoulder_half_width"], LENGTHS["ankle_height"]
    elbow = shoulder + LENGTHS["upper_arm"]
    wrist = elbow + LENGTHS["forearm"]
    ball, rise = FOOT["ball"] * LENGTHS["foot_length"], FOOT["ball_height"] * LENGTHS["foot_length"]
    up = LENGTHS["shoulder_height"]
    return {
        "hip": np.array([0.0, LENGTHS["hip_height"], hip]),
        "knee": np.array([0.0, LENGTHS["knee_height"], hip]),
        "ankle": np.array([0.0, ankle, hip]),
        "foot": np.array([ball, rise, hip]),
        "collar": np.array([0.0, _HEIGHTS["collar"], _COLLAR_HALF_WIDTH]),
        "shoulder": np.array([0.0, up, shoulder]),
        "elbow": np.array([0.0, up, elbow]),
        "wrist": np.array([0.0, up, wrist]),
        "hand": np.array([0.0, up, wrist + _HALF_HAND * LENGTHS["hand"]]),
    }


def skeleton_height(offsets: Array) -> float:
    """Standing height [m] of a person whose thighs and shanks are as long as those of a skeleton ``(24, 3)``, both sides' mean."""
    bones = [np.linalg.norm(offsets[JOINTS.index(f"{side}_{joint}")]) for side in ("left", "right") for joint in ("knee", "ankle")]
    return float(np.sum(bones) / 2 * _HEIGHT_PER_LEG)


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
    return np.asarray(offsets)


def sole_points(model: xr.Dataset) -> dict[str, Array]:
    """Points of the soles in their bodies [m], ``(point, 3)``.

    Of an ankle's body the heel's and the ball's inner and outer edge, of a foot's (the toes') inner edge, outer edge and tip. In
    the T-pose those of one side lie in one horizontal plane; both planes are one where the legs are equally long.
    """
    offsets, height = joint_offsets(model), float(model.attrs["height"])
    points = {}
    for side, lateral in (("left", -1.0), ("right", 1.0)):
        foot = _foot(offsets, height, side)
        aside = lateral * 0.5 * LENGTHS["foot_width"] * height * foot.aside
        heel, ball, tip = foot.heel * foot.forward, foot.ball * foot.forward, foot.toe * foot.forward
        under = np.array([0.0, -foot.ankle_height, 0.0])
        points[f"{side}_ankle"] = np.array([heel - 0.6 * aside, heel + 0.6 * aside, ball - aside, ball + aside]) + under
        below = np.array([0.0, -foot.ball_height, 0.0])
        points[f"{side}_foot"] = np.array([0.6 * tip - 0.8 * aside, 0.5 * tip + 0.8 * aside, tip - 0.2 * aside]) + below
    return points


@dataclass(frozen=True)
class _Foot:
    """A foot in the T-pose: its directions forward and to the right, and lengths [m] along it.

    ``heel`` and ``ball`` are forward of the ankle, ``toe`` is the tip forward of the ball; the joints' heights are above the sole.
    """

    forward: Array
    aside: Array
    heel: float
    ball: float
    toe: float
    ankle_height: float
    ball_height: float


def _foot(offsets: Array, height: float, side: str) -> _Foot:
    bone = offsets[JOINTS.index(f"{side}_foot")]
    along = bone * [1.0, 0.0, 1.0]
    ball = float(np.linalg.norm(along))
    forward = along / ball
    length, drop = ball / FOOT["ball"], float(bone[1])
    ankle_height = max(LENGTHS["ankle_height"] * height, 0.5 * FOOT["ball_height"] * length - drop)
    heel, toe = FOOT["heel"] * length, (FOOT["toe"] - FOOT["ball"]) * length
    return _Foot(forward, np.array([-forward[2], 0.0, forward[0]]), heel, ball, toe, ankle_height, ankle_height + drop)


def _heel_point(offsets: Array, height: float, side: str) -> Array:
    """Where the loaded part of a sole begins, in the ankle's body [m]."""
    foot = _foot(offsets, height, side)
    return np.asarray(foot.forward * FOOT["origin"] / FOOT["ball"] * foot.ball - np.array([0.0, foot.ankle_height, 0.0]))


def _sole_level(offsets: Array, height: float) -> float:
    """Height of the lower sole in the T-pose, seen from the pelvis [m]."""
    rest = rest_positions(offsets)
    return min(float(rest[JOINTS.index(f"{side}_ankle"), 1]) - _foot(offsets, height, side).ankle_height for side in ("left", "right"))


def _checked_offsets(offsets: ArrayLike) -> Array:
    given = np.array(offsets, float)
    if given.shape != (len(JOINTS), 3) or not np.isfinite(given).all():
        raise InputError(f"offsets have shape {given.shape}; give ({len(JOINTS)}, 3) finite numbers [m], one row for each of {', '.join(JOINTS)}")
    given[0] = 0.0
    short = [name for name, bone in zip(JOINTS[1:], given[1:], strict=True) if np.linalg.norm(bone) < _SHORTEST_BONE]
    if short:
        raise InputError(f"offsets put {', '.join(short)} less than {_SHORTEST_BONE} m from the joint that carries it; give each joint a place of its own [m]")
    amiss = [name for name, bone in zip(JOINTS, given, strict=True) if name.split("_")[-1] in _DIRECTIONS and not _points_so(name, bone)]
    if amiss:
        raise InputError(
            f"offsets of {', '.join(amiss)} are not those of the T-pose in the ground frame (x forward, y up, z right): thighs and shanks down, feet "
            "forward, arms to the sides; turn those of an SMPL file by adapters.smpl.topology.FROM_SMPL"
        )
    heights = rest_positions(given)[[JOINTS.index(n) for n in ("right_hip", "spine1", "spine2", "spine3", "neck", "head")], 1]
    if not (np.diff(heights) > _SHORTEST_BONE).all():
        raise InputError(f"the joints hip, spine1, spine2, spine3, neck, head are at {heights.round(3).tolist()} m; each must lie above the one before")
    return given


_DIRECTIONS = {"knee": (1, -1.0), "ankle": (1, -1.0), "foot": (0, 1.0), "elbow": (2, 1.0), "wrist": (2, 1.0)}
"""Axis and sign along which a bone of the right side points in the T-pose."""

_FLIP = np.array([1.0, 1.0, -1.0])


def _points_so(joint: str, bone: Array) -> bool:
    axis, sign = _DIRECTIONS[joint.split("_")[-1]]
    along = bone * _FLIP if joint.startswith("left") else bone
    return bool(sign * along[axis] > 0.7 * np.linalg.norm(bone))


# Masses ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """Mass [kg], centre of mass [m] and inertia about it [kg m^2], ``(3, 3)``."""

    mass: float
    center: Array
    inertia: Array


def _joined(parts: Sequence[_Part]) -> _Part:
    mass = sum(p.mass for p in parts)
    center = sum((p.mass * p.center for p in parts), np.zeros(3)) / mass
    inertia = sum((p.inertia + p.mass * _about(p.center - center) for p in parts), np.zeros((3, 3)))
    return _Part(mass, center, inertia)


def _about(arm: Array) -> Array:
    """Inertia of a unit of mass at the end of an arm."""
    return np.asarray(arm @ arm * np.eye(3) - np.outer(arm, arm))


def _parts(offsets: Array, height: float, mass: float, table: Mapping[str, Segment]) -> list[_Part]:
    """The 24 bodies in the order of the joints, each in its own frame."""
    bones = dict(zip(JOINTS, offsets, strict=True))
    share = {name: segment.mass * mass for name, segment in table.items()}
    found = _trunk(offsets, height, share, table)
    found["neck"] = _rod(_NECK_SHARE * share["head"], bones["head"])
    found["head"] = _head((1 - _NECK_SHARE) * share["head"], height)
    for side in ("left", "right"):
        found[f"{side}_collar"] = _rod(_COLLAR_SHARE * share["upper_trunk"], bones[f"{side}_shoulder"])
        for near, far, segment in (("hip", "knee", "thigh"), ("knee", "ankle", "shank"), ("shoulder", "elbow", "upper_arm"), ("elbow", "wrist", "forearm")):
            found[f"{side}_{near}"] = _limb(share[segment], bones[f"{side}_{far}"], table[segment])
        found[f"{side}_wrist"], found[f"{side}_hand"] = _hand(share["hand"], bones[f"{side}_hand"], height)
        found[f"{side}_ankle"], found[f"{side}_foot"] = _foot_parts(share["foot"], _foot(offsets, height, side), height)
    return [found[name] for name in JOINTS]


def _trunk(offsets: Array, height: float, share: Mapping[str, float], table: Mapping[str, Segment]) -> dict[str, _Part]:
    """Pelvis and spine: the table's three parts of the trunk, stacked from the hips upwards, cut where the joints are.

    The stack is stretched as the skeleton's distance from hips to shoulders asks.
    """
    rest = rest_positions(offsets)
    at = {name: rest[i] for i, name in enumerate(JOINTS)}
    hips, shoulders = (0.5 * (at[f"left_{joint}"] + at[f"right_{joint}"]) for joint in ("hip", "shoulder"))
    stretch = float(shoulders[1] - hips[1]) / (LENGTHS["shoulder_height"] - LENGTHS["hip_height"])
    names = ("lower_trunk", "mid_trunk", "upper_trunk")
    levels = hips[1] + stretch * np.cumsum([0.0, *(table[name].length for name in names)])
    masses = [share[name] * (1 - 2 * _COLLAR_SHARE if name == "upper_trunk" else 1.0) for name in names]
    bodies = ("pelvis", "spine1", "spine2", "spine3")
    middle = np.array([hips, at["spine1"], at["spine2"], at["spine3"], [at["neck"][0], max(at["neck"][1], levels[-1]), at["neck"][2]]])
    cuts = [levels[0], *middle[1:4, 1], levels[-1]]
    found = {}
    for body, low, high in zip(bodies, cuts[:-1], cuts[1:], strict=True):
        pieces = [_slab(m, levels[i : i + 2], (low, high), middle) for i, m in enumerate(masses) if min(high, levels[i + 1]) > max(low, levels[i])]
        if high - low < _SHORTEST_BONE or not pieces:
            raise InputError(
                f"the skeleton leaves no trunk for {body}: it would reach from {low:.3f} to {high:.3f} m above the pelvis; check the offsets of the spine"
            )
        whole = _joined(pieces)
        found[body] = _Part(whole.mass, whole.center - at[body], whole.inertia)
    return found


def _slab(mass: float, section: Array, cut: tuple[float, float], middle: Array) -> _Part:
    """What an elliptic cylinder of ``mass`` that fills a section of heights holds within a cut, about a bent middle line ``(point, 3)``."""
    low, high = max(cut[0], section[0]), min(cut[1], section[1])
    own, length = mass * (high - low) / (section[1] - section[0]), high - low
    width2 = own / (_FLESH_DENSITY * np.pi * length * _SLAB_ASPECT)
    depth2 = _SLAB_ASPECT**2 * width2
    level = 0.5 * (low + high)
    center = np.array([np.interp(level, middle[:, 1], middle[:, 0]), level, np.interp(level, middle[:, 1], middle[:, 2])])
    return _Part(own, center, own * np.diag([width2 / 4 + length**2 / 12, (width2 + depth2) / 4, depth2 / 4 + length**2 / 12]))


def _limb(mass: float, bone: Array, segment: Segment) -> _Part:
    """A segment along a bone, its inertia turned with it; across it is the mean of the table's two."""
    length = float(np.linalg.norm(bone))
    across, along = 0.5 * (segment.gyration[0] ** 2 + segment.gyration[2] ** 2), segment.gyration[1] ** 2
    return _Part(mass, segment.center_of_mass * bone, mass * length**2 * _round(bone / length, across, along))


def _rod(mass: float, bone: Array) -> _Part:
    """A round bar from the joint to the end of the bone, as thick as its mass asks for."""
    length = float(np.linalg.norm(bone))
    square = mass / (_FLESH_DENSITY * np.pi * length)
    return _Part(mass, 0.5 * bone, mass * _round(bone / length, square / 4 + length**2 / 12, square / 2))


def _round(axis: Array, across: float, along: float) -> Array:
    return np.asarray(across * np.eye(3) + (along - across) * np.outer(axis, axis))


def _head(mass: float, height: float) -> _Part:
    """An ellipsoid from somewhat below the head joint to the top of the head."""
    above = (1.0 - _HEIGHTS["head"]) * height
    radii = np.array([0.055 * height, 0.625 * above, 0.044 * height])
    squares = radii**2
    return _Part(mass, np.array([0.01 * height, above - radii[1], 0.0]), mass / 5 * np.diag(squares.sum() - squares))


def _hand(mass: float, palm: Array, height: float) -> tuple[_Part, _Part]:
    """Palm and fingers as boxes; the hand grows thinner towards the tips, so that its nearer half has two thirds of the mass."""
    whole, length = LENGTHS["hand"] * height, float(np.linalg.norm(palm))
    part = min(length / whole, 0.7)
    axis, near = palm / length, mass * part * (1.6 - 0.6 * part)
    fingers = (1 - part) * whole
    width, thick = 0.047 * height, 0.016 * height
    axes = np.column_stack([[1.0, 0.0, 0.0], np.cross(axis, [1.0, 0.0, 0.0]), axis])
    return _box(near, 0.5 * palm, (width, thick, length), axes), _box(mass - near, 0.5 * fingers * axis, (width, 0.7 * thick, fingers), axes)


def _foot_parts(mass: float, foot: _Foot, height: float) -> tuple[_Part, _Part]:
    """Rear foot and toes as boxes that stand on the sole."""
    axes = np.column_stack([foot.forward, [0.0, 1.0, 0.0], foot.aside])
    breadth, thick = LENGTHS["foot_width"] * height, _TOES_THICKNESS * height
    rear = axes @ [0.5 * (foot.heel + foot.ball), -0.5 * foot.ankle_height, 0.0]
    toes = axes @ [0.5 * foot.toe, 0.5 * thick - foot.ball_height, 0.0]
    size = (foot.ball - foot.heel, foot.ankle_height, 0.85 * breadth)
    return _box((1 - _TOES_SHARE) * mass, rear, size, axes), _box(_TOES_SHARE * mass, toes, (foot.toe, thick, breadth), axes)


def _box(mass: float, center: Array, size: tuple[float, float, float], axes: Array) -> _Part:
    squares = np.square(size)
    return _Part(mass, np.asarray(center), mass / 12 * axes @ np.diag(squares.sum() - squares) @ axes.T)


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


def _coordinate_variables(offsets: Array, height: float) -> dict[str, Any]:
    count = len(COORDINATES)
    default = np.zeros(count)
    default[COORDINATES.index("pelvis_ty")] = -_sole_level(offsets, height)
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


class _Marker(NamedTuple):
    """A marker: body that carries it and place in its frame [m]."""

    name: str
    body: str
    place: Array


def _marker_variables(markers: list[_Marker]) -> dict[str, Any]:
    return {"marker_body": np.array([m.body for m in markers]), "marker_location": np.array([m.place for m in markers])}


def _markers(offsets: Array, height: float) -> list[_Marker]:
    """Markers on the skin, named as in Rajagopal et al. (2016), head and sternum as in Plug-in Gait."""
    found = _midline_markers(offsets, height)
    for side, letter, lateral in (("right", "R", 1.0), ("left", "L", -1.0)):
        for name, body, along, aside in _sided_markers(offsets, height, side):
            place = along + height * np.array(aside) * [1.0, 1.0, lateral]
            found.append(_Marker(letter + name, f"{side}_{body}" if f"{side}_{body}" in JOINTS else body, place))
    return found


def _midline_markers(offsets: Array, height: float) -> list[_Marker]:
    """Places forward of the spine and heights, both over standing height; heights run with the skeleton's from hips to shoulders."""
    rest = dict(zip(JOINTS, rest_positions(offsets), strict=True))
    hips, shoulders = (0.5 * (rest[f"left_{joint}"] + rest[f"right_{joint}"]) for joint in ("hip", "shoulder"))
    rise = (shoulders[1] - hips[1]) / (LENGTHS["shoulder_height"] - LENGTHS["hip_height"])
    places = {"C7": ("spine3", -0.035, 0.845), "T10": ("spine2", -0.065, 0.700), "CLAV": ("spine3", 0.045, 0.820), "STRN": ("spine3", 0.065, 0.730)}
    found = [_Marker("SACR", "pelvis", _asis(offsets, height) + height * np.array([-PELVIS_DEPTH - 0.006, -0.005, 0.0]))]
    for name, (body, forward, level) in places.items():
        up = hips[1] + rise * (level - LENGTHS["hip_height"]) - rest[body][1]
        found.append(_Marker(name, body, np.array([forward * height, up, 0.0])))
    return found


def _asis(offsets: Array, height: float) -> Array:
    """Middle of the anterior superior iliac spines in the pelvis [m], from the hip centres by Bell's proportions."""
    hips = 0.5 * (offsets[JOINTS.index("left_hip")] + offsets[JOINTS.index("right_hip")])
    width = ASIS_WIDTH * height
    return np.asarray(hips * [1.0, 1.0, 0.0] - width * np.array([*HIP_CENTER_IN_ASIS_WIDTHS[:2], 0.0]))


def _sided_markers(offsets: Array, height: float, side: str) -> list[tuple[str, str, Array, tuple[float, float, float]]]:
    """Name, body, a place in it [m], and how far from there over standing height: forward, up, to the side."""
    bone = {name.removeprefix(f"{side}_"): offset for name, offset in zip(JOINTS, offsets, strict=True) if name.startswith(side)}
    asis, none, foot = _asis(offsets, height), np.zeros(3), _foot(offsets, height, side)
    heel, ball, tip = foot.heel * foot.forward, bone["foot"] * [1.0, 0.0, 1.0], foot.toe * foot.forward
    sole, half = -foot.ankle_height / height, 0.5 * LENGTHS["foot_width"]
    return [
        ("FHD", "head", none, (0.055, 0.040, 0.035)),
        ("BHD", "head", none, (-0.035, 0.040, 0.035)),
        ("Clavicle", "collar", none, (0.040, 0.012, 0.015)),
        ("ACR", "collar", bone["shoulder"], (0.0, 0.018, -0.019)),
        ("UA1", "shoulder", 0.5 * bone["elbow"], (0.0, 0.026, 0.0)),
        ("LEL", "shoulder", bone["elbow"], (0.0, 0.020, 0.0)),
        ("MEL", "shoulder", bone["elbow"], (0.0, -0.020, 0.0)),
        ("FAradius", "elbow", bone["wrist"], (0.018, 0.0, 0.0)),
        ("FAulna", "elbow", bone["wrist"], (-0.018, 0.0, 0.0)),
        ("ASI", "pelvis", asis, (0.006, 0.0, 0.5 * ASIS_WIDTH)),
        ("PSI", "pelvis", asis, (-PELVIS_DEPTH, 0.010, 0.027)),
        ("IliacCrest", "pelvis", asis, (-0.035, 0.030, 0.078)),
        ("GTR", "hip", none, (-0.005, -0.005, 0.045)),
        ("TH1", "hip", 0.35 * bone["knee"], (0.030, 0.0, 0.035)),
        ("TH3", "hip", 0.50 * bone["knee"], (-0.005, 0.0, 0.050)),
        ("LFC", "hip", bone["knee"], (0.0, 0.0, 0.031)),
        ("MFC", "hip", bone["knee"], (0.0, 0.0, -0.031)),
        ("TT", "knee", 0.12 * bone["ankle"], (0.030, 0.0, 0.0)),
        ("TB1", "knee", 0.30 * bone["ankle"], (0.020, 0.0, 0.020)),
        ("TB3", "knee", 0.45 * bone["ankle"], (-0.005, 0.0, 0.032)),
        ("LMAL", "knee", bone["ankle"], (-0.005, -0.004, 0.022)),
        ("MMAL", "knee", bone["ankle"], (0.005, 0.004, -0.022)),
        ("CAL", "ankle", heel, (0.0, sole + 0.015, 0.0)),
        ("MT1", "ankle", ball, (0.0, sole + 0.020, -0.9 * half)),
        ("MT5", "ankle", 0.8 * ball, (0.0, sole + 0.014, half)),
        ("TOE", "foot", 0.8 * tip, (0.0, 0.016 - foot.ball_height / height, -0.3 * half)),
    ]


# Coordinates and rotations ------------------------------------------------------------------------------------------------------


def rotations_from_coordinates(model: xr.Dataset, motion: xr.Dataset) -> BodyMotion:
    """The rotations of the joints for coordinates of this body.

    Parameters
    ----------
    model
        A model that :func:`build_standin` made.
    motion
        A motion with ``coordinate_value``; any order of coordinates.

    Raises
    ------
    InputError
        The motion lacks a coordinate of the body, or the model is another.
    """
    values = _values(motion)
    rotation = np.empty((len(values), len(JOINTS), 4))
    for index, (_, columns, letters) in enumerate(_rotation_columns(model)):
        rotation[:, index] = Rotation.from_euler(letters.upper(), values[:, columns]).as_quat(scalar_first=True)
    return BodyMotion(motion["time"].values, values[:, :3], rotation, str(motion.attrs.get("name", "")))


def coordinates_from_rotations(model: xr.Dataset, motion: BodyMotion) -> xr.Dataset:
    """The coordinates of this body for rotations of its joints; angles run on from frame to frame without jumps.

    Two triples of angles give each rotation; the first frame takes the one with the smaller angles, each later one that which is
    nearer to the frame before.

    Parameters
    ----------
    model
        A model that :func:`build_standin` made.
    motion
        Rotations and place of the pelvis.

    Returns
    -------
    xarray.Dataset
        A motion (:func:`imdy_plugin.schema.new_motion`) with ``coordinate_value``.

    Raises
    ------
    InputError
        The model is another.
    """
    values = np.empty((len(motion), len(COORDINATES)))
    values[:, :3] = motion.root_position
    described = _rotation_columns(model)
    matrices = Rotation.from_quat(motion.rotation_wxyz.reshape(-1, 4), scalar_first=True).as_matrix().reshape(len(motion), len(JOINTS), 3, 3)
    angles = np.stack([euler_angles(matrices[:, index], letters) for index, (_, _, letters) in enumerate(described)], axis=1)
    values[:, np.array([columns for _, columns, _ in described])] = continuous_angles(angles)
    attrs = {"name": motion.name} if motion.name else {}
    return new_motion(motion.time, coordinates=(list(COORDINATES), values), log=f"coordinates of {model.attrs['name']} from rotations", attrs=attrs)


def _values(motion: xr.Dataset) -> Array:
    names = [str(n) for n in motion["coordinate"].values] if "coordinate_value" in motion else []
    lacking = [n for n in COORDINATES if n not in names]
    if lacking:
        raise InputError(
            f"the motion lacks {len(lacking)} coordinate(s) of the 24-joint body, {', '.join(lacking[:3])} first; it has {', '.join(names[:6])} ..."
        )
    return np.asarray(motion["coordinate_value"].sel(coordinate=list(COORDINATES)).values, float)


def _rotation_columns(model: xr.Dataset) -> list[tuple[str, list[int], str]]:
    """For each joint its name, the columns of its coordinates in the order in which they turn, and the axes of these."""
    children = [str(c) for c in model["joint_child"].values]
    if sorted(children) != sorted(JOINTS):
        raise InputError(
            f"the model '{model.attrs['name']}' has the bodies {', '.join(children[:4])} ..., not the 24 of SMPL's topology; make one by build_standin"
        )
    described = []
    for joint in JOINTS:
        transform = json.loads(str(model["joint_transform"].values[children.index(joint)]))
        names = [transform[f"rotation{i}"]["coordinates"][0] for i in (1, 2, 3)]
        described.append((joint, [COORDINATES.index(name) for name in names], "".join(name[-1] for name in names)))
    return described


def euler_angles(matrix: Array, letters: str) -> Array:
    """Angles ``(time, 3)`` of turns about three axes, each turned by those before; they give the rotation even in gimbal lock."""
    i, j, k = ("xyz".index(letter) for letter in letters)
    sign = 1.0 if (j - i) % 3 == 1 else -1.0
    first = np.arctan2(-sign * matrix[:, j, k], matrix[:, k, k])
    rest = Rotation.from_euler(letters[0], -first[:, None]).as_matrix() @ matrix
    second, third = np.arctan2(sign * rest[:, i, k], rest[:, k, k]), np.arctan2(sign * rest[:, j, i], rest[:, j, j])
    return np.stack([first, second, third], axis=-1)


def continuous_angles(angles: Array) -> Array:
    """Angles ``(time, joint, 3)`` with each triple in place of its equal that is nearest to the frame before."""
    out = angles.copy()
    other = angles * [1.0, -1.0, 1.0] + np.pi
    before = np.zeros_like(angles[0])
    for frame in range(len(out)):
        choices = np.stack([angles[frame], other[frame]])
        choices -= 2 * np.pi * np.round((choices - before) / (2 * np.pi))
        nearer = np.abs(choices - before).sum(axis=-1).argmin(axis=0)
        out[frame] = before = np.take_along_axis(choices, nearer[None, :, None], axis=0)[0]
    return out
