"""A person as a body that MuJoCo simulates: rigid bodies, ball joints with their control, and what touches the ground.

Nothing passive acts at the joints (no limits, no damping, no rotor inertia), so that what moves the body is the torque of its
joints, the ground and gravity, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.adapters.smpl.motion import BodyMotion
from imdy_plugin.adapters.smpl.topology import JOINTS, PARENTS
from imdy_plugin.schema import GRAVITY, INERTIA_COMPONENTS
from imdy_plugin.sim.standin import joint_offsets, sole_points

Array = NDArray[np.float64]

_GAINS: dict[str, tuple[float, float]] = {
    "hip": (800.0, 80.0),
    "knee": (800.0, 80.0),
    "ankle": (800.0, 80.0),
    "foot": (500.0, 50.0),
    "spine1": (1000.0, 100.0),
    "spine2": (1000.0, 100.0),
    "spine3": (1000.0, 100.0),
    "neck": (500.0, 50.0),
    "head": (500.0, 50.0),
    "collar": (500.0, 50.0),
    "shoulder": (500.0, 50.0),
    "elbow": (500.0, 50.0),
    "wrist": (300.0, 30.0),
    "hand": (300.0, 30.0),
}
"""Stiffness [N m/rad] and damping [N m s/rad] of the joints of a person of :data:`GAIN_MASS` (perpetual humanoid control, Luo et al. 2023)."""

GAIN_MASS = 77.0
"""Body mass [kg] that the gains are for; they grow in proportion to it."""

TORQUE_LIMITS: dict[str, float] = {"hip": 1000.0, "knee": 1000.0, "ankle": 1000.0, "spine1": 1000.0, "spine2": 1000.0, "spine3": 1000.0}
"""Largest torque of a joint axis [N m]; of the others :data:`TORQUE_LIMIT`."""

TORQUE_LIMIT = 500.0

SOLE_RADIUS = 0.012
"""Radius of the rounded edges of the soles [m]."""

FRICTION = 1.0

_SOFTNESS = {"solref": [0.02, 1.0], "solimp": [0.0, 0.95, 0.02, 0.5, 2.0]}
"""Contact gives way as padded heels and shoes do: standing people sink in by a centimetre, and force sets in without a jump."""

STANDING_DEPTH = 0.01
"""How deep the soles of somebody who stands are in the ground [m], about."""

_FLESH_DENSITY = 1000.0


def _depth_first(joint: int = 0) -> tuple[int, ...]:
    children = [child for child, parent in enumerate(PARENTS) if parent == joint]
    return (joint, *(below for child in children for below in _depth_first(child)))


ORDER = _depth_first()
"""Index in :data:`~imdy_plugin.adapters.smpl.topology.JOINTS` of each simulated body: MuJoCo numbers bodies limb by limb."""

BODIES = tuple(JOINTS[joint] for joint in ORDER)
"""Names of the simulated bodies, root first, in the order of positions, velocities, torques and contacts."""


@dataclass(frozen=True)
class Humanoid:
    """A person as MuJoCo simulates it.

    Attributes
    ----------
    model
        The compiled model: a free root, 23 ball joints, 3 actuators to a joint.
    bodies
        Names of the bodies in the order of positions, velocities and torques, root first; the ground is not among them.
    kp, kd, torque_limit
        Stiffness [N m/rad], damping [N m s/rad] and largest torque [N m] of each joint axis, ``(69,)``.
    offsets
        Each joint in its parent's body [m], ``(24, 3)``.
    mass
        Body mass [kg].
    """

    model: mujoco.MjModel
    bodies: tuple[str, ...]
    kp: Array
    kd: Array
    torque_limit: Array
    offsets: Array
    mass: float


def build_humanoid(person: xr.Dataset, timestep: float = 1 / 120) -> Humanoid:
    """Build the simulated body of a person.

    Parameters
    ----------
    person
        A model of 24 bodies (:func:`imdy_plugin.sim.standin.build_standin`).
    timestep
        Length of a physics step [s].
    """
    spec = humanoid_spec(person, timestep)
    kp, kd, limit = joint_gains(float(person.attrs["mass"]))
    return Humanoid(spec.compile(), BODIES, kp, kd, limit, joint_offsets(person), float(person.attrs["mass"]))


def joint_gains(mass: float) -> tuple[Array, Array, Array]:
    """Stiffness [N m/rad], damping [N m s/rad] and largest torque [N m] of each joint axis of a person of ``mass`` [kg], ``(69,)``."""
    kinds = [name.split("_")[-1] for name in BODIES[1:]]
    gains = np.array([_GAINS[kind] for kind in kinds]) * mass / GAIN_MASS
    limits = np.array([TORQUE_LIMITS.get(kind, TORQUE_LIMIT) for kind in kinds]) * mass / GAIN_MASS
    return np.repeat(gains[:, 0], 3), np.repeat(gains[:, 1], 3), np.repeat(limits, 3)


def humanoid_spec(person: xr.Dataset, timestep: float = 1 / 120) -> mujoco.MjSpec:
    """The simulated body of a person as MuJoCo's own model builder holds it, for whoever wants to add to it."""
    spec = mujoco.MjSpec()
    spec.modelname = str(person.attrs["name"])
    spec.compiler.balanceinertia = False
    spec.option.timestep = timestep
    spec.option.gravity = [0.0, -GRAVITY, 0.0]
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.disableflags = mujoco.mjtDisableBit.mjDSBL_AUTORESET
    add_ground(spec)
    _add_bodies(spec, person)
    _add_actuators(spec, float(person.attrs["mass"]))
    return spec


def state_of(motion: BodyMotion) -> tuple[Array, Array]:
    """Positions ``(time, 99)`` and velocities ``(time, 75)`` of a motion, as the simulation lays them out: bodies as in :data:`BODIES`.

    Velocities are central differences, one-sided at both ends; quaternions keep their sign from frame to frame.
    """
    rotation = _continuous(motion.rotation_wxyz[:, list(ORDER)])
    position = np.concatenate([motion.root_position, rotation.reshape(len(motion), -1)], axis=1)
    step = 1.0 / motion.rate
    velocity = np.empty((len(motion), 6 + 3 * (len(BODIES) - 1)))
    velocity[:, :3] = np.gradient(motion.root_position, step, axis=0)
    velocity[:, 3:] = _angular_velocity(rotation, step).reshape(len(motion), -1)
    return position, velocity


def motion_of(time: Array, position: Array, name: str = "") -> BodyMotion:
    """The motion of simulated positions ``(time, 99)`` at ``time`` [s]."""
    rotation = np.empty((len(position), len(JOINTS), 4))
    rotation[:, list(ORDER)] = position[:, 3:].reshape(len(position), -1, 4)
    return BodyMotion(np.asarray(time, float), position[:, :3].copy(), rotation, name)


def _continuous(rotation: Array) -> Array:
    signs = np.sign(np.einsum("tjk,tjk->tj", rotation[1:], rotation[:-1]))
    signs[signs == 0] = 1.0
    return np.concatenate([rotation[:1], rotation[1:] * np.cumprod(signs, axis=0)[..., None]])


def _angular_velocity(rotation: Array, step: float) -> Array:
    """Angular velocity along the axes of the turned body, ``(time, joint, 3)``."""
    ahead, behind = np.arange(len(rotation)) + 1, np.arange(len(rotation)) - 1
    ahead[-1], behind[0] = len(rotation) - 1, 0
    turned = _product(_conjugate(rotation[behind]), rotation[ahead])
    return _rotation_vector(turned) / ((ahead - behind) * step)[:, None, None]


def _conjugate(q: Array) -> Array:
    return np.asarray(q * np.array([1.0, -1.0, -1.0, -1.0]))


def _product(a: Array, b: Array) -> Array:
    w = a[..., 0] * b[..., 0] - np.einsum("...k,...k->...", a[..., 1:], b[..., 1:])
    v = a[..., :1] * b[..., 1:] + b[..., :1] * a[..., 1:] + np.cross(a[..., 1:], b[..., 1:])
    return np.concatenate([w[..., None], v], axis=-1)


def _rotation_vector(q: Array) -> Array:
    q = np.where(q[..., :1] < 0, -q, q)
    sine = np.linalg.norm(q[..., 1:], axis=-1, keepdims=True)
    angle = 2.0 * np.arctan2(sine, q[..., :1])
    return np.where(sine > 1e-9, angle / np.maximum(sine, 1e-12), 2.0) * q[..., 1:]


def joint_angles(position: Array) -> Array:
    """Rotation vectors of the joints, ``(..., 69)``, of positions ``(..., 99)``."""
    q = position[..., 7:].reshape(*position.shape[:-1], -1, 4)
    return _rotation_vector(q).reshape(*position.shape[:-1], -1)


def rotations_between(first: Array, second: Array) -> Array:
    """Rotation vectors from the rotations of root and joints in one position to those in another, ``(time, 72)``, of positions ``(time, 99)``."""
    a, b = (p[:, 3:].reshape(len(p), -1, 4) for p in (first, second))
    return _rotation_vector(_product(_conjugate(a), b)).reshape(len(first), -1)


def departed(reference: Array, old_reference: Array, old: Array, length: float) -> Array:
    """Positions that depart from a reference as others do from theirs, ``(time, 99)`` each; distances ``length`` times as long."""
    root = reference[:, :3] + length * (old[:, :3] - old_reference[:, :3])
    was, now, base = (p[:, 3:].reshape(len(p), -1, 4) for p in (old_reference, old, reference))
    turned = _product(base, _product(_conjugate(was), now))
    turned /= np.linalg.norm(turned, axis=-1, keepdims=True)
    return np.concatenate([root, turned.reshape(len(root), -1)], axis=1)


def add_ground(spec: mujoco.MjSpec) -> None:
    """The ground: the plane y = 0, which bodies touch and nothing else does."""
    upright = np.sqrt(0.5)
    spec.worldbody.add_geom(
        name="ground",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[0, 0, 1],
        quat=[upright, -upright, 0, 0],
        friction=[FRICTION, 0.005, 0.0001],
        contype=1,
        conaffinity=2,
        **_SOFTNESS,
    )


def _add_bodies(spec: mujoco.MjSpec, person: xr.Dataset) -> None:
    offsets, masses = joint_offsets(person), person["body_mass"].sel(body=list(JOINTS)).values
    centers = person["body_center_of_mass"].sel(body=list(JOINTS)).values
    inertia = person["body_inertia"].sel(body=list(JOINTS), inertia_component=list(INERTIA_COMPONENTS)).values
    soles = sole_points(person)
    made: list[mujoco.MjsBody] = []
    for index, (name, parent) in enumerate(zip(JOINTS, PARENTS, strict=True)):
        carrier = spec.worldbody if parent < 0 else made[parent]
        body = carrier.add_body(
            name=name,
            pos=np.zeros(3) if parent < 0 else offsets[index],
            mass=masses[index],
            ipos=centers[index],
            fullinertia=inertia[index],
            explicitinertial=True,
        )
        if parent < 0:
            body.add_freejoint(name=name)
        else:
            body.add_joint(name=name, type=mujoco.mjtJoint.mjJNT_BALL)
        if name in soles:
            add_sole(body, soles[name])
        else:
            add_flesh(body, masses[index], offsets[[i for i, p in enumerate(PARENTS) if p == index]], centers[index])
        made.append(body)


def add_sole(body: mujoco.MjsBody, points: Array) -> None:
    """Balls that touch the ground at the points of the sole, ``(point, 3)``."""
    for number, point in enumerate(points):
        center = point + np.array([0.0, SOLE_RADIUS, 0.0])
        body.add_geom(name=f"{body.name}_{number}", type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[SOLE_RADIUS, 0, 0], pos=center, **_TOUCHES_GROUND)


def add_flesh(body: mujoco.MjsBody, mass: float, ends: Array, center: Array) -> None:
    """A capsule along the bone, as thick as the mass of the body asks for."""
    end = ends.mean(axis=0) if len(ends) else 2 * center
    length = max(float(np.linalg.norm(end)), 0.04)
    radius = float(np.clip(np.sqrt(mass / (_FLESH_DENSITY * np.pi * length)), 0.02, 0.11))
    inner = end * np.clip(np.array([radius, length - radius]) / length, 0.3, 0.7)[:, None]
    body.add_geom(name=body.name, type=mujoco.mjtGeom.mjGEOM_CAPSULE, size=[radius, 0, 0], fromto=inner.reshape(-1), **_TOUCHES_GROUND)


_TOUCHES_GROUND = {"contype": 2, "conaffinity": 0, "friction": [FRICTION, 0.005, 0.0001], "mass": 0.0} | _SOFTNESS


def _add_actuators(spec: mujoco.MjSpec, mass: float) -> None:
    kp, kd, limit = joint_gains(mass)
    for index, axis in enumerate(f"{joint} {axis}" for joint in BODIES[1:] for axis in "xyz"):
        joint, letter = axis.split()
        gear = np.zeros(6)
        gear["xyz".index(letter)] = 1.0
        actuator = spec.add_actuator(name=f"{joint}_{letter}", trntype=mujoco.mjtTrn.mjTRN_JOINT, target=joint, gear=gear)
        actuator.set_to_position(kp=kp[index], kv=kd[index])
        actuator.forcelimited = True
        actuator.forcerange = [-limit[index], limit[index]]
