"""A full-body OpenSim model of a person of any height, mass and sex, made from published proportions.

Names, axis orders and signs are those of the full-body model of Rajagopal et al. (2016), IEEE Trans Biomed Eng 63:2068-2079,
so that files made for it fit: ``hip_flexion_r``, ``knee_angle_r`` (flexion positive), ``ankle_angle_r`` (dorsiflexion
positive), ``subtalar_angle_r`` (inversion positive), ``mtp_angle_r`` (toe flexion positive), ``lumbar_extension``,
``arm_flex_r`` and so on. All lengths are proportional to height, so people of different height are geometrically similar.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imdy_plugin.atomic import replacing
from imdy_plugin.schema import GRAVITY
from imdy_plugin.sim import anthropometry as table
from imdy_plugin.sim.anthropometry import LENGTHS, Segment, Sex, check_person, segment_table

Vector = tuple[float, float, float]

HEEL_RADIUS = 0.020
"""Radius of the rounded heel over height: seen from the side, the sole runs flat from below its centre to the ball."""

FOOT = {
    "heel": -0.25,
    "origin": -0.18,
    "heel_center": -0.25 + HEEL_RADIUS / LENGTHS["foot_length"],
    "ball": 0.48,
    "toe": 0.75,
    "ball_height": 0.0766,
}
"""Points along the foot, forward of the ankle centre, and the height of the toe joint, in foot lengths."""

_TALUS_SHARE, _TOES_SHARE = 0.07, 0.14


@dataclass(frozen=True)
class Axis:
    """One coordinate of a joint: it turns about (or moves along) a fixed axis of the joint's parent frame."""

    coordinate: str
    direction: Vector
    lower: float
    upper: float
    default: float = 0.0
    translates: bool = False
    strength: float = 3.0
    """Largest force of its actuator per body mass [N m/kg or N/kg]."""


@dataclass(frozen=True)
class Shape:
    """An ellipsoid that shows a segment: centre and radii [m] in the body's frame."""

    center: Vector
    radii: Vector


@dataclass(frozen=True)
class Body:
    """A rigid body and the joint that carries it.

    Attributes
    ----------
    name, mass
        Name and mass [kg].
    center_of_mass
        In the body's frame [m].
    inertia
        Principal moments about the centre of mass, along the body's axes [kg m^2].
    joint, parent
        Name of the joint and of the body (or ``ground``) that it hangs on.
    location, location_in_child
        Joint centre in the parent's and in this body's frame [m]; both joint frames are aligned with their bodies.
    axes
        Coordinates, in the order in which they turn.
    """

    name: str
    mass: float
    center_of_mass: Vector
    inertia: Vector
    joint: str
    parent: str
    location: Vector
    axes: tuple[Axis, ...]
    shapes: tuple[Shape, ...] = ()
    location_in_child: Vector = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Marker:
    """A marker: body that carries it and location in its frame [m]."""

    name: str
    body: str
    location: Vector


@dataclass(frozen=True)
class Person:
    """What the model file of a person holds: bodies from the root outwards, and markers."""

    height: float
    mass: float
    sex: Sex | None
    bodies: tuple[Body, ...]
    markers: tuple[Marker, ...] = field(default=())

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Names of all coordinates, joint by joint."""
        return tuple(a.coordinate for b in self.bodies for a in b.axes)


def design_person(height: float = 1.75, mass: float = 70.0, sex: Sex | None = None) -> Person:
    """Bodies, joints and markers of a person.

    Parameters
    ----------
    height, mass
        Standing height [m] and body mass [kg].
    sex
        ``"male"`` or ``"female"`` takes de Leva's table for it, None the mean of both. Lengths do not depend on it.

    Raises
    ------
    InputError
        Height, mass or sex is out of range.
    """
    check_person(height, mass)
    segments = segment_table(sex)
    right = [*_leg(height, mass, segments), *_arm(height, mass, segments)]
    bodies = [_pelvis(height, mass, segments), _torso(height, mass, segments)]
    bodies += [b for r in right for b in (r, _mirror_body(r))]
    return Person(float(height), float(mass), sex, tuple(bodies), tuple(_markers(height)))


def build_person(height: float = 1.75, mass: float = 70.0, sex: Sex | None = None) -> str:
    """OpenSim model document (.osim) of a person.

    The soles touch y = 0 in the default pose, the top of the head is at ``height``, the masses sum to ``mass``. Each coordinate
    has an actuator; those of the root are named ``..._residual``.

    Parameters
    ----------
    height, mass, sex
        As for :func:`design_person`.

    Raises
    ------
    InputError
        Height, mass or sex is out of range.
    """
    person = design_person(height, mass, sex)
    name = f"person_{height * 100:.0f}cm_{mass:.0f}kg" + (f"_{sex}" if sex else "")
    return "\n".join(
        [
            '<?xml version="1.0" encoding="UTF-8" ?>',
            '<OpenSimDocument Version="40000">',
            f"<Model name={quoteattr(name)}>",
            "<credits>Generated from published body proportions: Drillis and Contini 1966, de Leva 1996.</credits>",
            "<length_units>meters</length_units><force_units>N</force_units>",
            f"<gravity>0 {-GRAVITY} 0</gravity>",
            _object_set("BodySet", "bodyset", (_body_xml(b) for b in person.bodies)),
            _object_set("JointSet", "jointset", (_joint_xml(b) for b in person.bodies)),
            _object_set("ForceSet", "forceset", (_actuator_xml(a, b, mass) for b in person.bodies for a in b.axes)),
            _object_set("MarkerSet", "markerset", (_marker_xml(m) for m in person.markers)),
            "</Model>",
            "</OpenSimDocument>",
            "",
        ]
    )


def write_person(path: str | os.PathLike[str], height: float = 1.75, mass: float = 70.0, sex: Sex | None = None) -> Path:
    """Write :func:`build_person` to a file and return its path.

    Raises
    ------
    InputError
        Height, mass or sex is out of range; nothing is written.
    """
    document = build_person(height, mass, sex)
    with replacing(path) as temporary:
        temporary.write_text(document, encoding="utf-8")
    return Path(path)


def _degrees(coordinate: str, direction: Vector, lower: float, upper: float, strength: float = 3.0) -> Axis:
    return Axis(coordinate, direction, math.radians(lower), math.radians(upper), strength=strength)


_Part = tuple[float, NDArray[np.float64], NDArray[np.float64]]
"""Mass, centre of mass and principal inertia about it, all in one frame."""


def _combine(parts: Sequence[_Part]) -> _Part:
    """One body made of parts whose products of inertia cancel."""
    mass = math.fsum(m for m, _, _ in parts)
    center = sum((m * c for m, c, _ in parts), np.zeros(3)) / mass
    return mass, center, sum((i + m * _offset_inertia(c - center) for m, c, i in parts), np.zeros(3))


def _remainder(whole: _Part, parts: Sequence[_Part]) -> _Part:
    """What is left of a body without its parts."""
    mass = whole[0] - math.fsum(m for m, _, _ in parts)
    center = (whole[0] * whole[1] - sum((m * c for m, c, _ in parts), np.zeros(3))) / mass
    taken = sum((i + m * _offset_inertia(c - whole[1]) for m, c, i in parts), np.zeros(3))
    return mass, center, whole[2] - taken - mass * _offset_inertia(center - whole[1])


def _offset_inertia(d: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([d[1] ** 2 + d[2] ** 2, d[0] ** 2 + d[2] ** 2, d[0] ** 2 + d[1] ** 2])


def _stacked(segment: Segment, top: float, forward: float, height: float, mass: float) -> _Part:
    """A segment of the trunk whose upper end is ``top`` above the lumbar joint."""
    length, own = segment.length * height, segment.mass * mass
    return own, np.array([forward, top - segment.center_of_mass * length, 0.0]), np.array(_inertia(own, length, segment))


def _vector(v: ArrayLike) -> Vector:
    x, y, z = (float(k) for k in np.asarray(v))
    return (x, y, z)


def _inertia(mass: float, length: float, segment: Segment) -> Vector:
    x, y, z = (mass * (length * r) ** 2 for r in segment.gyration)
    return (x, y, z)


def _limb(length: float, mass: float, segment: Segment, thickness: float) -> tuple[Vector, Vector, tuple[Shape, ...]]:
    """Centre of mass, inertia and shape of a segment that hangs straight down from its joint."""
    shape = Shape((0.0, -length / 2, 0.0), (thickness, length / 2, thickness))
    return (0.0, -length * segment.center_of_mass, 0.0), _inertia(mass, length, segment), (shape,)


def _hip(height: float) -> Vector:
    x, y, z = (k * table.ASIS_WIDTH * height for k in table.HIP_CENTER_IN_ASIS_WIDTHS)
    return (x, y, z)


def _lumbar(height: float, segments: dict[str, Segment]) -> Vector:
    """Lumbar joint in the pelvis frame: at the navel's height, where the table parts lower and middle trunk."""
    hip = _hip(height)
    return (hip[0] - 0.025 * height, hip[1] + segments["lower_trunk"].length * height, 0.0)


def _pelvis(height: float, mass: float, segments: dict[str, Segment]) -> Body:
    segment, hip = segments["lower_trunk"], _hip(height)
    length, own = segment.length * height, segment.mass * mass
    center = (hip[0], hip[1] + length * (1 - segment.center_of_mass), 0.0)
    axes = (
        _degrees("pelvis_tilt", (0, 0, 1), -90, 90),
        _degrees("pelvis_list", (1, 0, 0), -90, 90),
        _degrees("pelvis_rotation", (0, 1, 0), -180, 180),
        Axis("pelvis_tx", (1, 0, 0), -50, 50, translates=True),
        Axis("pelvis_ty", (0, 1, 0), -10, 10, LENGTHS["hip_height"] * height - hip[1], translates=True),
        Axis("pelvis_tz", (0, 0, 1), -50, 50, translates=True),
    )
    shape = Shape(center, (0.055 * height, 0.06 * height, 0.09 * height))
    return Body("pelvis", own, center, _inertia(own, length, segment), "ground_pelvis", "ground", (0, 0, 0), axes, (shape,))


def _torso(height: float, mass: float, segments: dict[str, Segment]) -> Body:
    """Middle trunk, upper trunk and head in one body, stacked above the hip centres."""
    lumbar, hip = _lumbar(height, segments), _hip(height)
    base = _lumbar_height(height, segments)
    forward = hip[0] - lumbar[0]
    tops = {"mid_trunk": base + segments["mid_trunk"].length * height}
    tops["upper_trunk"] = tops["mid_trunk"] + segments["upper_trunk"].length * height
    tops["head"] = height
    own, center, inertia = _combine([_stacked(segments[n], top - base, forward, height, mass) for n, top in tops.items()])
    axes = (
        _degrees("lumbar_extension", (0, 0, 1), -90, 45, 5.0),
        _degrees("lumbar_bending", (1, 0, 0), -60, 60, 5.0),
        _degrees("lumbar_rotation", (0, 1, 0), -60, 60, 5.0),
    )
    trunk = tops["upper_trunk"] - base
    shapes = (
        Shape((forward, trunk / 2, 0.0), (0.06 * height, 0.55 * trunk, 0.095 * height)),
        Shape((forward, height - base - 0.065 * height, 0.0), (0.055 * height, 0.065 * height, 0.045 * height)),
    )
    return Body("torso", own, _vector(center), _vector(inertia), "back", "pelvis", lumbar, axes, shapes)


def _leg(height: float, mass: float, segments: dict[str, Segment]) -> list[Body]:
    thigh = (LENGTHS["hip_height"] - LENGTHS["knee_height"]) * height
    shank = (LENGTHS["knee_height"] - LENGTHS["ankle_height"]) * height
    hip_axes = (
        _degrees("hip_flexion_r", (0, 0, 1), -45, 130, 5.0),
        _degrees("hip_adduction_r", (1, 0, 0), -60, 45, 5.0),
        _degrees("hip_rotation_r", (0, 1, 0), -60, 60),
    )
    knee_axes = (_degrees("knee_angle_r", (0, 0, -1), -10, 150, 5.0),)
    femur = _limb(thigh, segments["thigh"].mass * mass, segments["thigh"], 0.045 * height)
    tibia = _limb(shank, segments["shank"].mass * mass, segments["shank"], 0.03 * height)
    return [
        Body("femur_r", segments["thigh"].mass * mass, femur[0], femur[1], "hip_r", "pelvis", _hip(height), hip_axes, femur[2]),
        Body("tibia_r", segments["shank"].mass * mass, tibia[0], tibia[1], "walker_knee_r", "femur_r", (0, -thigh, 0), knee_axes, tibia[2]),
        *_foot(height, segments["foot"].mass * mass, segments["foot"], (0.0, -shank, 0.0)),
    ]


def ankle_axis() -> Vector:
    """Right talocrural axis, pointing laterally, down and back (Inman 1976); unit vector in the shank's frame."""
    fall, turn = (math.radians(a) for a in table.INMAN_ANKLE_AXIS_DEGREES)
    return (-math.sin(turn) * math.cos(fall), -math.sin(fall), math.cos(turn) * math.cos(fall))


def subtalar_axis() -> Vector:
    """Right subtalar axis, pointing forward, up and medially (Inman 1976); unit vector in the talus's frame."""
    rise, turn = (math.radians(a) for a in table.INMAN_SUBTALAR_AXIS_DEGREES)
    return (math.cos(rise) * math.cos(turn), math.sin(rise), -math.cos(rise) * math.sin(turn))


def _foot(height: float, mass: float, segment: Segment, ankle: Vector) -> list[Body]:
    """Talus, heel bone and toes; together they have the mass, centre of mass and inertia of the table's foot."""
    length, rise = LENGTHS["foot_length"] * height, LENGTHS["ankle_height"] * height
    at = {name: value * length for name, value in FOOT.items()}
    toe_length, half_width = at["toe"] - at["ball"], LENGTHS["foot_width"] * height / 2
    talus = (_TALUS_SHARE * mass, np.array([0.0, rise, 0.0]), _TALUS_SHARE * mass * 0.4 * (0.5 * rise) ** 2 * np.ones(3))
    toes = (_TOES_SHARE * mass, np.array([at["ball"] + 0.4 * toe_length, at["ball_height"], 0.0]), _TOES_SHARE * mass * toe_length**2 / 12 * np.ones(3))
    along, across, lateral = segment.gyration[1], segment.gyration[0], segment.gyration[2]
    center = np.array([at["heel"] + segment.center_of_mass * length, 0.5 * rise, 0.0])
    whole = (mass, center, mass * (length * np.array([along, across, lateral])) ** 2)
    calcn = _remainder(whole, [talus, toes])
    origin = np.array([at["origin"], 0.0, 0.0])
    sole = Shape(((at["ball"] + at["heel"]) / 2 - at["origin"], 0.45 * rise, 0.0), ((at["ball"] - at["heel"]) / 2, 0.45 * rise, 0.8 * half_width))
    tip = Shape((0.4 * toe_length, 0.0, 0.0), (0.6 * toe_length, at["ball_height"], half_width))
    knob = Shape((0.0, 0.0, 0.0), (0.5 * rise, 0.5 * rise, 0.5 * rise))
    ball = (at["ball"] - at["origin"], at["ball_height"], 0.0)
    joint_in_calcn = (-at["origin"], rise, 0.0)
    ankle_axes = (_degrees("ankle_angle_r", ankle_axis(), -60, 40, 4.0),)
    subtalar_axes = (_degrees("subtalar_angle_r", subtalar_axis(), -35, 35),)
    toe_axes = (_degrees("mtp_angle_r", (0, 0, -1), -60, 40),)
    toes_center = (0.4 * toe_length, 0.0, 0.0)
    return [
        Body("talus_r", talus[0], (0, 0, 0), _vector(talus[2]), "ankle_r", "tibia_r", ankle, ankle_axes, (knob,)),
        Body("calcn_r", calcn[0], _vector(calcn[1] - origin), _vector(calcn[2]), "subtalar_r", "talus_r", (0, 0, 0), subtalar_axes, (sole,), joint_in_calcn),
        Body("toes_r", toes[0], toes_center, _vector(toes[2]), "mtp_r", "calcn_r", ball, toe_axes, (tip,)),
    ]


def _arm(height: float, mass: float, segments: dict[str, Segment]) -> list[Body]:
    upper, fore, hand = (LENGTHS[n] * height for n in ("upper_arm", "forearm", "hand"))
    lumbar, hip, base = _lumbar(height, segments), _hip(height), _lumbar_height(height, segments)
    shoulder = (hip[0] - lumbar[0], LENGTHS["shoulder_height"] * height - base, LENGTHS["shoulder_half_width"] * height)
    shoulder_axes = (
        _degrees("arm_flex_r", (0, 0, 1), -90, 180),
        _degrees("arm_add_r", (1, 0, 0), -180, 90),
        _degrees("arm_rot_r", (0, 1, 0), -90, 90),
    )
    wrist_axes = (_degrees("wrist_flex_r", (0, 0, 1), -70, 70), _degrees("wrist_dev_r", (1, 0, 0), -25, 35))
    humerus = _limb(upper, segments["upper_arm"].mass * mass, segments["upper_arm"], 0.026 * height)
    half = segments["forearm"].mass * mass / 2
    forearm = _limb(fore, half, segments["forearm"], 0.018 * height)
    palm = segments["hand"].length * height
    own = segments["hand"].mass * mass
    hand_shape = Shape((0.0, -hand / 2, 0.0), (0.01 * height, hand / 2, 0.025 * height))
    hand_center = (0.0, -palm * segments["hand"].center_of_mass, 0.0)
    elbow_axes = (_degrees("elbow_flex_r", (0, 0, 1), -5, 150),)
    radioulnar_axes = (_degrees("pro_sup_r", (0, 1, 0), -90, 100),)
    return [
        Body("humerus_r", segments["upper_arm"].mass * mass, humerus[0], humerus[1], "acromial_r", "torso", shoulder, shoulder_axes, humerus[2]),
        Body("ulna_r", half, forearm[0], forearm[1], "elbow_r", "humerus_r", (0, -upper, 0), elbow_axes, forearm[2]),
        Body("radius_r", half, forearm[0], forearm[1], "radioulnar_r", "ulna_r", (0, 0, 0), radioulnar_axes),
        Body("hand_r", own, hand_center, _inertia(own, palm, segments["hand"]), "radius_hand_r", "radius_r", (0, -fore, 0), wrist_axes, (hand_shape,)),
    ]


def _mirror_body(body: Body) -> Body:
    """The left body of a right one: mirrored in z, axes of rotation as axial vectors, coordinates with the same meaning."""
    return Body(
        name=_left(body.name),
        mass=body.mass,
        center_of_mass=_flip(body.center_of_mass),
        inertia=body.inertia,
        joint=_left(body.joint),
        parent=_left(body.parent),
        location=_flip(body.location),
        axes=tuple(Axis(_left(a.coordinate), _flip_axial(a.direction), a.lower, a.upper, a.default, a.translates, a.strength) for a in body.axes),
        shapes=tuple(Shape(_flip(s.center), s.radii) for s in body.shapes),
        location_in_child=_flip(body.location_in_child),
    )


def _left(name: str) -> str:
    return name.removesuffix("_r") + "_l" if name.endswith("_r") else name


def _flip(v: Vector) -> Vector:
    return (v[0], v[1], -v[2])


def _flip_axial(v: Vector) -> Vector:
    return (-v[0] + 0.0, -v[1] + 0.0, v[2])


def _markers(height: float) -> list[Marker]:
    """Markers on the skin, named as in Rajagopal et al. (2016), head and sternum as in Plug-in Gait."""
    asis, depth = table.ASIS_WIDTH * height, table.PELVIS_DEPTH * height
    right = [
        Marker("RASI", "pelvis", (0.006 * height, 0.0, asis / 2)),
        Marker("RPSI", "pelvis", (-depth, 0.01 * height, 0.027 * height)),
        *_leg_markers(height),
        *_arm_markers(height),
    ]
    return [*_trunk_markers(height), *right, *(Marker("L" + m.name[1:], _left(m.body), _flip(m.location)) for m in right)]


def _trunk_markers(height: float) -> list[Marker]:
    """Markers of the torso; heights of C7 and sternum as fractions of standing height."""
    torso = _torso(height, 1.0, segment_table())
    base = _lumbar_height(height, segment_table())
    x = torso.center_of_mass[0]
    places = {
        "C7": (-0.035, 0.845, 0.0),
        "T10": (-0.065, 0.700, 0.0),
        "CLAV": (0.045, 0.820, 0.0),
        "STRN": (0.065, 0.730, 0.0),
        "RFHD": (0.045, 0.945, 0.035),
        "RBHD": (-0.045, 0.945, 0.035),
        "RACR": (0.0, 0.836, 0.110),
        "RASH": (0.030, 0.812, 0.128),
        "RPSH": (-0.030, 0.812, 0.128),
    }
    places |= {"L" + n[1:]: _flip(p) for n, p in places.items() if n.startswith("R")}
    return [Marker(n, "torso", (x + p[0] * height, p[1] * height - base, p[2] * height)) for n, p in places.items()]


def _leg_markers(height: float) -> list[Marker]:
    thigh = (LENGTHS["hip_height"] - LENGTHS["knee_height"]) * height
    shank = (LENGTHS["knee_height"] - LENGTHS["ankle_height"]) * height
    foot = LENGTHS["foot_length"] * height
    half, origin = LENGTHS["foot_width"] * height / 2, FOOT["origin"] * foot
    ball = (FOOT["ball"] - FOOT["origin"]) * foot
    toe = (FOOT["toe"] - FOOT["ball"]) * foot
    return [
        Marker("RTH1", "femur_r", (0.03 * height, -0.35 * thigh, 0.035 * height)),
        Marker("RTH2", "femur_r", (0.03 * height, -0.65 * thigh, 0.030 * height)),
        Marker("RTH3", "femur_r", (-0.005 * height, -0.50 * thigh, 0.050 * height)),
        Marker("RLFC", "femur_r", (0.0, -thigh, 0.031 * height)),
        Marker("RMFC", "femur_r", (0.0, -thigh, -0.031 * height)),
        Marker("RTB1", "tibia_r", (0.020 * height, -0.30 * shank, 0.020 * height)),
        Marker("RTB2", "tibia_r", (0.018 * height, -0.60 * shank, 0.015 * height)),
        Marker("RTB3", "tibia_r", (-0.005 * height, -0.45 * shank, 0.032 * height)),
        Marker("RLMAL", "tibia_r", (-0.005 * height, -shank - 0.004 * height, 0.022 * height)),
        Marker("RMMAL", "tibia_r", (0.005 * height, -shank + 0.004 * height, -0.022 * height)),
        Marker("RCAL", "calcn_r", (FOOT["heel"] * foot - origin, 0.015 * height, 0.0)),
        Marker("RMT1", "calcn_r", (ball, 0.020 * height, -0.9 * half)),
        Marker("RMT5", "calcn_r", (ball - 0.10 * foot, 0.014 * height, half)),
        Marker("RTOE", "toes_r", (0.8 * toe, 0.004 * height, -0.3 * half)),
    ]


def _arm_markers(height: float) -> list[Marker]:
    upper, fore, hand = (LENGTHS[n] * height for n in ("upper_arm", "forearm", "hand"))
    return [
        Marker("RUA", "humerus_r", (0.0, -0.5 * upper, 0.026 * height)),
        Marker("RLEL", "humerus_r", (0.0, -upper, 0.020 * height)),
        Marker("RMEL", "humerus_r", (0.0, -upper, -0.020 * height)),
        Marker("RFAsuperior", "radius_r", (0.016 * height, -0.5 * fore, 0.010 * height)),
        Marker("RFAradius", "radius_r", (0.0, -fore, 0.018 * height)),
        Marker("RFAulna", "radius_r", (0.0, -fore, -0.018 * height)),
        Marker("RFIN", "hand_r", (-0.008 * height, -0.5 * hand, 0.012 * height)),
    ]


def _lumbar_height(height: float, segments: dict[str, Segment]) -> float:
    return (LENGTHS["hip_height"] + segments["lower_trunk"].length) * height


def _object_set(kind: str, name: str, items: Iterable[str]) -> str:
    return f'<{kind} name="{name}"><objects>\n' + "\n".join(items) + f"\n</objects><groups /></{kind}>"


def _numbers(values: Iterable[float]) -> str:
    return " ".join(repr(float(v) + 0.0) for v in values)


def _body_xml(body: Body) -> str:
    shapes = "".join(_shape_xml(body.name, i, s) for i, s in enumerate(body.shapes))
    inertia = _numbers([*body.inertia, 0.0, 0.0, 0.0])
    return (
        f'<Body name="{body.name}">'
        + (f"<components>{shapes}</components>" if shapes else "")
        + f"<mass>{body.mass!r}</mass><mass_center>{_numbers(body.center_of_mass)}</mass_center><inertia>{inertia}</inertia></Body>"
    )


def _shape_xml(body: str, index: int, shape: Shape) -> str:
    return (
        f'<PhysicalOffsetFrame name="{body}_shape{index}"><socket_parent>..</socket_parent>'
        f"<translation>{_numbers(shape.center)}</translation><orientation>0 0 0</orientation>"
        f'<attached_geometry><Ellipsoid name="{body}_ellipsoid{index}"><socket_frame>..</socket_frame><radii>{_numbers(shape.radii)}</radii>'
        f"<Appearance><opacity>1</opacity><color>0.8 0.72 0.62</color></Appearance></Ellipsoid></attached_geometry></PhysicalOffsetFrame>"
    )


def _joint_xml(body: Body) -> str:
    frames = _frame_xml(body.parent, body.location) + _frame_xml(body.name, body.location_in_child)
    coordinates = "".join(_coordinate_xml(a) for a in body.axes)
    return (
        f'<CustomJoint name="{body.joint}"><socket_parent_frame>{body.parent}_offset</socket_parent_frame>'
        f"<socket_child_frame>{body.name}_offset</socket_child_frame>"
        f"<coordinates>{coordinates}</coordinates><frames>{frames}</frames><SpatialTransform>{_transform_xml(body.axes)}</SpatialTransform></CustomJoint>"
    )


def _frame_xml(body: str, location: Vector) -> str:
    path = "/ground" if body == "ground" else f"/bodyset/{body}"
    return (
        f'<PhysicalOffsetFrame name="{body}_offset"><socket_parent>{path}</socket_parent>'
        f"<translation>{_numbers(location)}</translation><orientation>0 0 0</orientation></PhysicalOffsetFrame>"
    )


def _coordinate_xml(axis: Axis) -> str:
    return (
        f'<Coordinate name="{axis.coordinate}"><default_value>{axis.default!r}</default_value><default_speed_value>0</default_speed_value>'
        f"<range>{_numbers((axis.lower, axis.upper))}</range><clamped>false</clamped><locked>false</locked></Coordinate>"
    )


def _transform_xml(axes: Sequence[Axis]) -> str:
    turns = [a for a in axes if not a.translates]
    slides = {int(np.argmax(np.abs(a.direction))): a for a in axes if a.translates}
    directions = [np.array(a.direction, float) for a in turns]
    while len(directions) < 3:
        directions.append(_perpendicular(directions))
    rotation = [_transform_axis_xml(f"rotation{i + 1}", d, turns[i] if i < len(turns) else None) for i, d in enumerate(directions)]
    translation = [_transform_axis_xml(f"translation{i + 1}", np.eye(3)[i], slides.get(i)) for i in range(3)]
    return "".join(rotation + translation)


def _perpendicular(taken: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """A unit vector at right angles to those taken."""
    v = np.cross(taken[0], taken[1] if len(taken) == 2 else np.eye(3)[int(np.argmin(np.abs(taken[0])))])
    return np.asarray(v / np.linalg.norm(v))


def _transform_axis_xml(name: str, direction: NDArray[np.float64], axis: Axis | None) -> str:
    function = "<LinearFunction><coefficients>1 0</coefficients></LinearFunction>" if axis else "<Constant><value>0</value></Constant>"
    coordinate = axis.coordinate if axis else ""
    return f'<TransformAxis name="{name}"><coordinates>{coordinate}</coordinates><axis>{_numbers(direction)}</axis>{function}</TransformAxis>'


def _actuator_xml(axis: Axis, body: Body, mass: float) -> str:
    name = f"{axis.coordinate}_residual" if body.parent == "ground" else f"{axis.coordinate}_actuator"
    return (
        f'<CoordinateActuator name="{name}"><min_control>-10</min_control><max_control>10</max_control>'
        f"<coordinate>{axis.coordinate}</coordinate><optimal_force>{axis.strength * mass!r}</optimal_force></CoordinateActuator>"
    )


def _marker_xml(marker: Marker) -> str:
    return (
        f'<Marker name="{marker.name}"><socket_parent_frame>/bodyset/{marker.body}</socket_parent_frame>'
        f"<location>{_numbers(marker.location)}</location><fixed>true</fixed></Marker>"
    )
