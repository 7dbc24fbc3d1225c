"""Variation of who imitates and how well: other bodies, mirrored motion, noise.

A person ``s`` times as tall with geometrically similar limbs moves in a dynamically similar way when lengths grow by ``s``, times by
the square root of ``s`` and all forces with mass (Alexander and Jayes 1983, J Zool 201:135-152: equal Froude numbers, because
gravity stays). So a taller person's reference is the clip with its path scaled by the length of the legs and its
time stretched by the root of that; what was planned for the one fits the other with torques in the ratio of mass times length.
Merely scaling a record would add nothing new: the stretched clip is imitated again, at the same control rate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.adapters.smpl.motion import BodyMotion, global_rotations, joint_positions
from imdy_plugin.adapters.smpl.topology import JOINTS
from imdy_plugin.errors import InputError, UnknownNameError
from imdy_plugin.schema import INERTIA_COMPONENTS, add_log
from imdy_plugin.sim.imitator.base import CONTROL_RATE
from imdy_plugin.sim.standin import joint_offsets, rest_positions, sole_points

Array = NDArray[np.float64]

PARTS: dict[str, tuple[str, ...]] = {
    "legs": ("hip", "knee"),
    "feet": ("ankle", "foot"),
    "trunk": ("pelvis", "spine1", "spine2", "spine3", "neck"),
    "arms": ("shoulder", "elbow", "wrist", "hand"),
}
"""Bodies of each part whose length can vary alone, by the joint that they hang on, sides left out."""


@dataclass(frozen=True)
class Variation:
    """What is changed of a clip, its person and the imitation.

    Attributes
    ----------
    name
        Of the variation; with the names of clip and imitator it seeds whatever is random.
    height
        Factor of all lengths.
    mass
        Factor of all masses, over the one that geometric similarity (the cube of ``height``) gives.
    parts
        Factor of the lengths of some of :data:`PARTS`, over ``height``.
    mirrored
        Left and right exchanged.
    target_noise
        Standard deviation of the noise on what the joints are set to [rad].
    noise_time
        Time over which the noise changes [s]; it is smooth over shorter ones.
    start_noise
        Standard deviation of the joints' rotations [rad] at the start.
    """

    name: str = "plain"
    height: float = 1.0
    mass: float = 1.0
    parts: Mapping[str, float] = field(default_factory=dict)
    mirrored: bool = False
    target_noise: float = 0.0
    noise_time: float = 0.1
    start_noise: float = 0.0

    def __post_init__(self) -> None:
        unknown = sorted(set(self.parts) - set(PARTS))
        if unknown:
            raise InputError(f"variation '{self.name}': there is no part {', '.join(unknown)}; parts are {', '.join(PARTS)}")
        factors = {"height": self.height, "mass": self.mass, **self.parts}
        wrong = [f"{k} {v:g}" for k, v in factors.items() if not 0.5 <= v <= 2.0]
        if wrong:
            raise InputError(f"variation '{self.name}': {', '.join(wrong)} is no adult's; factors lie between 0.5 and 2")
        if min(self.target_noise, self.start_noise) < 0 or self.noise_time <= 0:
            raise InputError(f"variation '{self.name}': noise must not be negative, and its time must be positive")

    def described(self) -> dict[str, Any]:
        """All of it, as plain values."""
        return asdict(self)

    def applied(self, motion: BodyMotion, person: xr.Dataset) -> tuple[BodyMotion, xr.Dataset]:
        """The motion to imitate, at the control rate, and who imitates it."""
        if len(motion) < 2:
            raise InputError(f"motion '{motion.name}' has fewer than two frames; nothing to imitate")
        if self.mirrored:
            motion, person = motion.mirrored(), mirrored_person(person)
        other = self.person(person)
        return (_at_control_rate(motion) if other is person else similar_motion(motion, person, other)), other

    def person(self, person: xr.Dataset) -> xr.Dataset:
        """The person with this variation's lengths and masses."""
        lengths = np.full(person.sizes["body"], self.height)
        for index, body in enumerate(str(b) for b in person["body"].values):
            lengths[index] *= next((f for part, f in self.parts.items() if body.split("_")[-1] in PARTS[part]), 1.0)
        return person if (lengths == 1.0).all() and self.mass == 1.0 else scaled_person(person, lengths, self.mass * self.height**3, self.name)


DEFAULT_VARIATIONS = (
    Variation(),
    Variation("mirrored", mirrored=True),
    Variation("short-light", height=0.92, mass=0.95, target_noise=0.01, start_noise=0.02),
    Variation("tall-heavy", height=1.07, mass=1.15, target_noise=0.01, start_noise=0.02),
    Variation("long-legs", parts={"legs": 1.06, "trunk": 0.96}, target_noise=0.02),
    Variation("short-legs", parts={"legs": 0.95, "trunk": 1.04, "arms": 1.04}, mirrored=True, target_noise=0.02),
)
"""What is collected of every clip where nobody says otherwise."""


def drawn_variation(number: int) -> Variation:
    """One of endlessly many variations; the same number gives the same.

    Height varies by 5 % and mass by 10 % (standard deviations; 95 % of adults of one sex are within 8 % of the mean height), limbs by 3 %; every
    other one is mirrored. Half are without noise on the targets, the others have up to 0.03 rad.
    """
    name = f"drawn-{number:03d}"
    rng = np.random.default_rng(seed_of(name))
    height, mass, *parts = np.clip(rng.normal(size=2 + len(PARTS)), -2.5, 2.5)
    noise = max(float(rng.uniform(-0.03, 0.03)), 0.0)
    return Variation(
        name,
        height=round(1.0 + 0.05 * height, 4),
        mass=round(1.0 + 0.10 * mass, 4),
        parts={part: round(1.0 + 0.03 * change, 4) for part, change in zip(PARTS, parts, strict=True)},
        mirrored=number % 2 == 1,
        target_noise=round(noise, 4),
        start_noise=0.02,
    )


def choose_variations(names: Sequence[str], drawn: int = 0) -> list[Variation]:
    """Some of :data:`DEFAULT_VARIATIONS` by name, all where none is named, and the first of :func:`drawn_variation`.

    Parameters
    ----------
    names
        Names; ``drawn-007`` and its like are known too.
    drawn
        How many are drawn.

    Raises
    ------
    UnknownNameError
        There is no such variation.
    """
    known = {v.name: v for v in DEFAULT_VARIATIONS}
    chosen = []
    for name in names:
        number = name.removeprefix("drawn-")
        if name not in known and not (name.startswith("drawn-") and number.isdigit()):
            raise UnknownNameError("variation", name, known)
        chosen.append(known[name] if name in known else drawn_variation(int(number)))
    more = [drawn_variation(n) for n in range(drawn)]
    return list({v.name: v for v in [*(chosen or DEFAULT_VARIATIONS), *more]}.values())


def scaled_person(person: xr.Dataset, lengths: Array, mass: float, name: str) -> xr.Dataset:
    """A person with longer or shorter bodies.

    Parameters
    ----------
    person
        A model of 24 bodies.
    lengths
        Factor of the lengths of each body, ``(body,)``: of the places of joints, markers and its centre of mass in it.
    mass
        Factor of body mass; it is shared out as before but for the lengths: a longer body is heavier in proportion.
    name
        Added to the person's name.

    Returns
    -------
    xarray.Dataset
        Its ``height`` follows the lengths on the way from the soles to the head.
    """
    factor = dict(zip((str(b) for b in person["body"].values), lengths, strict=True))
    on = {dim: np.array([factor.get(str(b), 1.0) for b in person[dim].values]) for dim in ("joint_parent", "marker_body")}
    share = person["body_mass"].values * lengths
    masses = share * (person["body_mass"].values.sum() * mass / share.sum())
    growth = masses / person["body_mass"].values * lengths**2
    scaled = person.assign(
        body_mass=person["body_mass"].copy(data=masses),
        body_center_of_mass=person["body_center_of_mass"] * xr.Variable("body", lengths),
        body_inertia=person["body_inertia"] * xr.Variable("body", growth),
        joint_parent_location=person["joint_parent_location"] * xr.Variable("joint", on["joint_parent"]),
        marker_location=person["marker_location"] * xr.Variable("marker", on["marker_body"]),
    )
    for variable in ("body_center_of_mass", "body_inertia", "joint_parent_location", "marker_location"):
        scaled[variable].attrs.update(person[variable].attrs)
    stands = _stature(joint_offsets(scaled)) / _stature(joint_offsets(person))
    changed = {"name": f"{person.attrs['name']}~{name}", "mass": float(masses.sum()), "height": float(person.attrs["height"]) * stands}
    changed |= _sole_attrs(person, lambda body, points: points * factor[body], str)
    scaled = scaled.assign_attrs(changed)
    default = person["coordinate_default"].copy(deep=True)
    default.loc[{"coordinate": person.attrs["root_coordinates"][1]}] += _sole_level(person) - _sole_level(scaled)
    return add_log(scaled.assign(coordinate_default=default), f"scaled: variation {name}, height {stands:.4f}, mass {mass:.4f} of {person.attrs['name']}")


def _sole_level(person: xr.Dataset) -> float:
    """Height of the soles' lowest point over the pelvis's joint in the T-pose [m]."""
    return float(sole_heights(BodyMotion(np.zeros(1), np.zeros((1, 3)), np.tile([1.0, 0.0, 0.0, 0.0], (1, len(JOINTS), 1))), person)[0])


def _stature(offsets: Array) -> float:
    """From the toes' joint to the head's in the T-pose [m]."""
    rest = rest_positions(offsets)
    return float(rest[JOINTS.index("head"), 1] - rest[[JOINTS.index("left_foot"), JOINTS.index("right_foot")], 1].mean())


def mirrored_person(person: xr.Dataset) -> xr.Dataset:
    """The person as seen in a mirror: what was measured on the right is on the left."""
    bodies, markers = ([str(n) for n in person[dim].values] for dim in ("body", "marker"))
    from_body = [bodies.index(_other_side(b, bodies)) for b in bodies]
    children = [str(c) for c in person["joint_child"].values]
    from_joint = [children.index(_other_side(c, children)) for c in children]
    from_marker = [markers.index(_other_side(m, markers)) for m in markers]
    flip = xr.Variable("axis", [1.0, 1.0, -1.0])
    order = {"body_mass": from_body, "body_center_of_mass": from_body, "body_inertia": from_body, "joint_parent_location": from_joint}
    made = {name: person[name].copy(data=person[name].values[rows]) for name, rows in order.items()}
    made["marker_location"] = person["marker_location"].copy(data=person["marker_location"].values[from_marker])
    for name in ("body_center_of_mass", "joint_parent_location", "marker_location"):
        made[name] = (made[name] * flip).assign_attrs(person[name].attrs)
    turned = xr.Variable("inertia_component", [-1.0 if c in ("xz", "yz") else 1.0 for c in INERTIA_COMPONENTS])
    made["body_inertia"] = (made["body_inertia"] * turned).assign_attrs(person["body_inertia"].attrs)
    changed = {"name": f"{person.attrs['name']}~mirrored"} | _sole_attrs(person, lambda _, points: points * [1.0, 1.0, -1.0], lambda b: _other_side(b, bodies))
    return add_log(person.assign(made).assign_attrs(changed), f"mirrored: {person.attrs['name']}")


def _sole_attrs(person: xr.Dataset, moved: Callable[[str, Array], Array], renamed: Callable[[str], str]) -> dict[str, Any]:
    """What a model's attributes say of its soles, with the points of each body moved and put onto another."""
    changed: dict[str, Any] = {}
    if "heel_points" in person.attrs:
        feet = [str(b) for b in person.attrs["foot_bodies"]]
        heels = dict(zip(feet, np.reshape(person.attrs["heel_points"], (-1, 3)), strict=True))
        turned = {renamed(body): moved(body, points) for body, points in heels.items()}
        changed["heel_points"] = np.concatenate([turned[body] for body in feet]).tolist()
    if "sole_points" in person.attrs:
        soles = {b: np.reshape(points, (-1, 3)) for b, points in person.attrs["sole_points"].items()}
        changed["sole_points"] = {renamed(body): moved(body, points).tolist() for body, points in soles.items()}
    return changed


def _other_side(name: str, names: Sequence[str]) -> str:
    """The same name on the other side of the body; the name itself where there is none."""
    swaps = {"left_": "right_", "right_": "left_", "L": "R", "R": "L"}
    other = next((new + name.removeprefix(old) for old, new in swaps.items() if name.startswith(old)), name)
    return other if other in names else name


def similar_motion(motion: BodyMotion, before: xr.Dataset, after: xr.Dataset) -> BodyMotion:
    """The motion as a person of other lengths does it, at the control rate.

    Joints turn alike, the path grows with the legs, time with its root, and the soles come as near to the ground as they did.

    Parameters
    ----------
    motion
        Motion of ``before``.
    before, after
        Models of who moved and of who will.
    """
    legs = leg_length(joint_offsets(after)) / leg_length(joint_offsets(before))
    moved = replace(motion, time=motion.time * np.sqrt(legs), root_position=motion.root_position * legs)
    lift = legs * sole_heights(motion, before).min() - sole_heights(moved, after).min()
    return _at_control_rate(moved.placed(np.array([0.0, lift, 0.0])))


def leg_length(offsets: Array) -> float:
    """From the hip to the ankle along the bones [m], mean of both legs, of joints at ``offsets (24, 3)`` in their parents."""
    bones = [JOINTS.index(f"{side}_{joint}") for side in ("left", "right") for joint in ("knee", "ankle")]
    return float(np.linalg.norm(offsets[bones], axis=1).sum() / 2)


def sole_heights(motion: BodyMotion, person: xr.Dataset) -> Array:
    """Height of the lowest point of the soles over the ground [m], ``(time,)``."""
    places, turned = joint_positions(motion, joint_offsets(person)), global_rotations(motion)
    heights = []
    for body, points in sole_points(person).items():
        joint = JOINTS.index(body)
        heights.append(places[:, joint, 1:2] + turned[:, joint, 1] @ points.T)
    return np.asarray(np.concatenate(heights, axis=1).min(axis=1))


def _at_control_rate(motion: BodyMotion) -> BodyMotion:
    return motion if abs(motion.rate - CONTROL_RATE) < 1e-6 * CONTROL_RATE else motion.resampled(CONTROL_RATE)


def seed_of(*names: str) -> int:
    """A seed that is the same wherever the same names come together."""
    return int.from_bytes(hashlib.sha256("\0".join(names).encode()).digest()[:4])
