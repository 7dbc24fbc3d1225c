"""An open body of 24 rigid parts and ball joints, in the topology of SMPL, made from published proportions.

It stands in for the SMPL body where its files are not to be had: the same joints in the same tree, in the T-pose (arms out to
the sides) with all frames along the ground's, so that a rotation of one is a rotation of the other. Lengths come from standing
height or from a recorded skeleton; masses, centres of mass and inertias from de Leva (1996) by :mod:`~imdy_plugin.sim.anthropometry`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from imdy_plugin.adapters.smpl.dataset import check_smpl_model, from_coordinates, joint_offsets, rest_positions, smpl_model_dataset, to_coordinates
from imdy_plugin.adapters.smpl.motion import BodyMotion
from imdy_plugin.adapters.smpl.topology import JOINTS, PARENTS
from imdy_plugin.errors import InputError
from imdy_plugin.sim.anthropometry import ASIS_WIDTH, HIP_CENTER_IN_ASIS_WIDTHS, LENGTHS, PELVIS_DEPTH, Segment, Sex, check_person, segment_table
from imdy_plugin.sim.person import FOOT

__all__ = [
    "build_standin",
    "coordinates_from_rotations",
    "default_offsets",
    "joint_offsets",
    "rest_positions",
    "rotations_from_coordinates",
    "skeleton_height",
    "sole_points",
]

Array = NDArray[np.float64]

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
    inertia = np.array([part.inertia for part in parts])
    return smpl_model_dataset(
        name=called,
        offsets=skeleton,
        body_mass=np.array([part.mass for part in parts]),
        center_of_mass=np.array([part.center for part in parts]),
        inertia=inertia[:, [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]],
        markers={marker.name: (marker.body, marker.place) for marker in _markers(skeleton, height)},
        soles=_soles(skeleton, height),
        height=float(height),
        sex=sex,
        attrs={
            "mass": float(mass),
            "heel_points": [float(x) for side in ("right", "left") for x in _heel_point(skeleton, height, side)],
            "source": "published proportions",
        },
        log=f"built from published proportions: {called}",
    )


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


def sole_points(model: xr.Dataset) -> dict[str, Array]:
    """Points of the soles in their bodies [m], ``(point, 3)``.

    Those of a body that :func:`build_standin` made are, of an ankle's body, the heel's and the ball's inner and outer edge, and of a
    foot's (the toes') inner edge, outer edge and tip. In the T-pose those of one side lie in one horizontal plane; both planes are one
    where the legs are equally long.

    Raises
    ------
    InputError
        The model does not tell where its soles are.
    """
    if "sole_points" not in model.attrs:
        raise InputError(f"the model '{model.attrs.get('name', '')}' does not tell where its soles are; give one of the 24-joint body")
    return {body: np.reshape(np.asarray(points, float), (-1, 3)) for body, points in model.attrs["sole_points"].items()}


def _soles(offsets: Array, height: float) -> dict[str, Array]:
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


# Markers ---------------------------------------------------------------------------------------------------------------------


class _Marker(NamedTuple):
    """A marker: body that carries it and place in its frame [m]."""

    name: str
    body: str
    place: Array


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


# Coordinates ----------------------------------------------------------------------------------------------------------------------


def coordinates_from_rotations(model: xr.Dataset, motion: BodyMotion) -> xr.Dataset:
    """The coordinates of a body for rotations of its joints (:func:`~imdy_plugin.adapters.smpl.dataset.to_coordinates`)."""
    return to_coordinates(model, motion)


def rotations_from_coordinates(model: xr.Dataset, motion: xr.Dataset) -> BodyMotion:
    """The rotations of the joints for coordinates of a body (:func:`~imdy_plugin.adapters.smpl.dataset.from_coordinates`).

    Raises
    ------
    InputError
        The model is no 24-joint body, or its angles turn in another order; or the motion lacks a coordinate.
    """
    check_smpl_model(model)
    return from_coordinates(motion)
