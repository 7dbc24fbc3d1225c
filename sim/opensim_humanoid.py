"""An OpenSim model, or any model with its coordinates, as a body that MuJoCo simulates.

Bodies, masses and coordinates are the model's own; joints are hinges and slides (:func:`~imdy_plugin.sim.links.plain_model` says
what is put in the place of a knee of splines). Nothing passive acts at the joints. The root moves by the model's own coordinates, so
that positions and velocities are coordinates and their rates.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from imdy_plugin.errors import InputError
from imdy_plugin.schema import new_motion
from imdy_plugin.sim.humanoid import GAIN_MASS, add_flesh, add_ground, add_sole
from imdy_plugin.sim.links import Link, links_of, plain_model
from imdy_plugin.solvers.contact import sole_points
from imdy_plugin.solvers.multibody.mechanics import BodyMechanics

Array = NDArray[np.float64]

GAINS: dict[str, tuple[float, float, float]] = {
    "hip": (800.0, 80.0, 1000.0),
    "knee": (800.0, 80.0, 1000.0),
    "ankle": (800.0, 80.0, 1000.0),
    "subtalar": (800.0, 80.0, 1000.0),
    "mtp": (500.0, 50.0, 500.0),
    "lumbar": (1000.0, 100.0, 1000.0),
    "arm": (500.0, 50.0, 500.0),
    "elbow": (500.0, 50.0, 500.0),
    "pro_sup": (300.0, 30.0, 500.0),
    "wrist": (300.0, 30.0, 500.0),
}
"""Stiffness [N m/rad], damping [N m s/rad] and largest torque [N m] of a person of 77 kg, by how a coordinate's name begins."""

OTHER_GAINS = (500.0, 50.0, 500.0)
"""Those of a coordinate whose name is not among them."""

_SHORTEST_BONE = 0.03


@dataclass(frozen=True)
class CoordinateHumanoid:
    """A model as MuJoCo simulates it.

    Attributes
    ----------
    model
        The compiled model: one hinge or slide for each coordinate, one position actuator for each that is not the root's.
    coordinates
        Names in the order of positions and velocities.
    actuated
        Names in the order of actuators.
    bodies
        Names in MuJoCo's order, the ground left out.
    kp, kd, torque_limit
        Of each actuator.
    person
        The model that was given.
    plain
        The model that is simulated (:func:`~imdy_plugin.sim.links.plain_model`).
    """

    model: mujoco.MjModel
    coordinates: tuple[str, ...]
    actuated: tuple[str, ...]
    bodies: tuple[str, ...]
    kp: Array
    kd: Array
    torque_limit: Array
    person: xr.Dataset
    plain: xr.Dataset


def build_coordinate_humanoid(person: xr.Dataset, timestep: float = 1 / 120, ranges: dict[str, tuple[float, float]] | None = None) -> CoordinateHumanoid:
    """Build the simulated body of a model.

    Parameters
    ----------
    person
        A model with a free root.
    timestep
        Length of a physics step [s].
    ranges
        As in :func:`~imdy_plugin.sim.links.plain_model`.

    Raises
    ------
    InputError
        The model has no free root, a joint that no hinge can stand for, or a body that moves without mass.
    """
    if not person.attrs.get("root_coordinates"):
        raise InputError(f"the model '{person.attrs['name']}' has no body that moves freely in ground; give a model whose pelvis does")
    plain = plain_model(person, ranges)
    spec = coordinate_spec(plain, timestep)
    try:
        model = spec.compile()
    except ValueError as error:
        raise InputError(f"MuJoCo cannot simulate '{person.attrs['name']}': {' '.join(str(error).split())}; give each body that moves a mass") from error
    actuated = tuple(model.actuator(i).name for i in range(model.nu))
    kp, kd, limit = _gains(actuated, float(plain.attrs["mass"]))
    coordinates = tuple(model.joint(i).name for i in range(model.njnt))
    bodies = tuple(model.body(i).name for i in range(1, model.nbody))
    return CoordinateHumanoid(model, coordinates, actuated, bodies, kp, kd, limit, person, plain)


def coordinate_spec(plain: xr.Dataset, timestep: float = 1 / 120) -> mujoco.MjSpec:
    """A plain model as MuJoCo's own model builder holds it."""
    spec = mujoco.MjSpec()
    spec.modelname = str(plain.attrs["name"])
    spec.compiler.balanceinertia = False
    spec.option.timestep = timestep
    spec.option.gravity = [float(g) for g in plain.attrs["gravity"]]
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.disableflags = mujoco.mjtDisableBit.mjDSBL_AUTORESET
    add_ground(spec)
    links = links_of(plain)
    soles = _soles(plain)
    made: list[mujoco.MjsBody] = []
    for index, link in enumerate(links):
        made.append(_add_link(spec.worldbody if link.parent < 0 else made[link.parent], link))
        if link.name in soles:
            add_sole(made[-1], soles[link.name])
        else:
            _add_flesh(made[-1], link, [other for other in links if other.parent == index])
    _add_actuators(spec, plain)
    return spec


def _add_link(carrier: mujoco.MjsBody, link: Link) -> mujoco.MjsBody:
    body = carrier.add_body(
        name=link.name,
        pos=link.position,
        quat=Rotation.from_matrix(link.rotation).as_quat(scalar_first=True),
        mass=link.mass,
        ipos=link.center_of_mass,
        fullinertia=link.inertia[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]],
        explicitinertial=True,
    )
    for degree in link.degrees:
        kind = mujoco.mjtJoint.mjJNT_SLIDE if degree.slides else mujoco.mjtJoint.mjJNT_HINGE
        body.add_joint(name=degree.coordinate, type=kind, axis=degree.axis, pos=link.anchor)
    return body


def _add_flesh(body: mujoco.MjsBody, link: Link, carried: list[Link]) -> None:
    """A capsule towards the joints that the body carries, or through its centre of mass where it ends; none on a body that is but a joint."""
    joints = np.array([other.position + other.rotation @ other.anchor for other in carried]).reshape(-1, 3)
    reaches = len(joints) > 0 and np.linalg.norm(joints.mean(axis=0)) > _SHORTEST_BONE
    if reaches or 2 * np.linalg.norm(link.center_of_mass) > _SHORTEST_BONE:
        add_flesh(body, link.mass, joints if reaches else np.empty((0, 3)), link.center_of_mass)


def _soles(plain: xr.Dataset) -> dict[str, Array]:
    """Points of the soles by body, in it [m]."""
    mechanics = BodyMechanics(plain)
    if not mechanics.foot_bodies:
        return {}
    found: dict[str, list[Array]] = {}
    for sole in sole_points(mechanics):
        for body, location in zip(sole.bodies, sole.location, strict=True):
            found.setdefault(body, []).append(location)
    return {body: np.array(points) for body, points in found.items()}


def _add_actuators(spec: mujoco.MjSpec, plain: xr.Dataset) -> None:
    root = set(plain.attrs["root_coordinates"])
    names = [str(n) for n in plain["coordinate"].values if str(n) not in root]
    for name, kp, kd, limit in zip(names, *_gains(tuple(names), float(plain.attrs["mass"])), strict=True):
        actuator = spec.add_actuator(name=name, trntype=mujoco.mjtTrn.mjTRN_JOINT, target=name)
        actuator.set_to_position(kp=kp, kv=kd)
        actuator.forcelimited = True
        actuator.forcerange = [-limit, limit]


def _gains(names: tuple[str, ...], mass: float) -> tuple[Array, Array, Array]:
    chosen = [next((gains for start, gains in GAINS.items() if name.lower().startswith(start)), OTHER_GAINS) for name in names]
    kp, kd, limit = (np.array(chosen, float).reshape(-1, 3) * mass / GAIN_MASS).T
    return kp, kd, limit


def state_of(humanoid: CoordinateHumanoid, motion: xr.Dataset) -> tuple[Array, Array]:
    """Positions and velocities ``(time, coordinate)`` of a motion, as the simulation lays them out.

    Velocities are the motion's own where it has them, else central differences.

    Raises
    ------
    InputError
        The motion lacks a coordinate that is simulated.
    """
    names = [str(n) for n in motion["coordinate"].values] if "coordinate_value" in motion else []
    lacking = [n for n in humanoid.coordinates if n not in names]
    if lacking:
        raise InputError(f"the motion lacks the coordinate(s) {', '.join(lacking)} of '{humanoid.person.attrs['name']}'; it has {', '.join(names) or 'none'}")
    chosen = motion.sel(coordinate=list(humanoid.coordinates))
    position = np.asarray(chosen["coordinate_value"].values, float)
    if "coordinate_velocity" in chosen:
        return position, np.asarray(chosen["coordinate_velocity"].values, float)
    return position, np.gradient(position, motion["time"].values, axis=0)


def motion_of(humanoid: CoordinateHumanoid, time: ArrayLike, position: ArrayLike) -> xr.Dataset:
    """The motion of simulated positions ``(time, coordinate)``, with all coordinates of the model that was given.

    Coordinates that are not simulated have their defaults, or follow those that they are coupled to.
    """
    names = [str(n) for n in humanoid.person["coordinate"].values]
    values = np.tile(np.asarray(humanoid.person["coordinate_default"].values, float), (len(np.asarray(position)), 1))
    values[:, [names.index(n) for n in humanoid.coordinates]] = position
    values = BodyMechanics(humanoid.person).couple(values)
    return new_motion(time, coordinates=(names, values), log=f"simulated coordinates of {humanoid.person.attrs['name']}")


@dataclass(frozen=True)
class Agreement:
    """How far a simulated body is from the model that it was made of, over some poses.

    Attributes
    ----------
    position
        Distance of each body's origin, root mean square over the poses, by body [m].
    largest
        The largest distance of any body [m].
    mass_matrix
        Norm of the difference of the mass matrices over the norm of the model's, the largest of all poses.
    inverse_dynamics
        Root mean square of the difference of the generalized forces over the root mean square of the model's.
    simulation_error
        The same between the simulation and the mechanics of the plain model, which are to be equal.
    """

    position: dict[str, float]
    largest: float
    mass_matrix: float
    inverse_dynamics: float
    simulation_error: float


def measure_agreement(humanoid: CoordinateHumanoid, value: Array, velocity: Array, acceleration: Array) -> Agreement:
    """Compare the simulated body with the model, for simulated coordinates and their derivatives ``(time, coordinate)``.

    Forces and mass matrices are those of the simulated coordinates; those that follow them move along with theirs.
    """
    person, plain = BodyMechanics(humanoid.person), BodyMechanics(humanoid.plain)
    spread = _spread(humanoid, person, value)
    lift = _lift(humanoid, person, spread)
    states = [
        spread,
        np.einsum("tij,tj->ti", lift, velocity),
        np.einsum("tij,tj->ti", lift, acceleration) + _coupled_curvature(humanoid, person, value, velocity),
    ]
    full = person.inverse_dynamics(*states)
    wanted = np.einsum("tij,ti->tj", lift, full)
    matrix = lift.swapaxes(1, 2) @ person.body.mass_matrix(torch.as_tensor(spread)).numpy() @ lift
    places, matrices, forces = _simulated(humanoid, value, velocity, acceleration)
    order = [plain.coordinates.index(n) for n in humanoid.coordinates]
    back = np.argsort(order)
    exact = plain.inverse_dynamics(value[:, back], velocity[:, back], acceleration[:, back])[:, order]
    own = person.body.kinematics(torch.as_tensor(spread)).position.numpy()
    apart = np.linalg.norm(places - own[:, [person.bodies.index(b) for b in humanoid.bodies]], axis=-1)
    return Agreement(
        position=dict(zip(humanoid.bodies, np.sqrt((apart**2).mean(axis=0)).tolist(), strict=True)),
        largest=float(apart.max()),
        mass_matrix=float((np.linalg.norm(matrices - matrix, axis=(1, 2)) / np.linalg.norm(matrix, axis=(1, 2))).max()),
        inverse_dynamics=_relative(forces, wanted),
        simulation_error=_relative(forces, exact),
    )


def _relative(values: Array, reference: Array) -> float:
    return float(np.sqrt(np.square(values - reference).mean() / np.square(reference).mean()))


def _spread(humanoid: CoordinateHumanoid, person: BodyMechanics, value: Array) -> Array:
    """All coordinates of the model for simulated ones."""
    full = np.tile(person.default_values, (len(value), 1))
    full[:, [person.coordinates.index(n) for n in humanoid.coordinates]] = value
    return person.couple(full)


def _lift(humanoid: CoordinateHumanoid, person: BodyMechanics, spread: Array) -> Array:
    """How all coordinates move with the simulated ones ``(time, coordinate, simulated)``."""
    lift = np.zeros((len(spread), len(person.coordinates), len(humanoid.coordinates)))
    lift[:, [person.coordinates.index(n) for n in humanoid.coordinates], np.arange(len(humanoid.coordinates))] = 1.0
    for follower, leader, slope in person.body.coupling_slopes(torch.as_tensor(spread)):
        lift[:, follower] += slope.numpy()[:, None] * lift[:, leader]
    return lift


def _coupled_curvature(humanoid: CoordinateHumanoid, person: BodyMechanics, value: Array, velocity: Array, step: float = 1e-4) -> Array:
    """Acceleration of coordinates that follow others, at constant rates of these."""
    ahead, here, behind = (_spread(humanoid, person, value + k * step * velocity) for k in (1, 0, -1))
    followers = np.isin(np.arange(len(person.coordinates)), list(person.couplings))
    return np.where(followers, (ahead - 2 * here + behind) / step**2, 0.0)


def _simulated(humanoid: CoordinateHumanoid, value: Array, velocity: Array, acceleration: Array) -> tuple[Array, Array, Array]:
    """Places of the bodies, mass matrices and generalized forces without contact, in MuJoCo."""
    model, data = humanoid.model, mujoco.MjData(humanoid.model)
    flags = int(model.opt.disableflags)
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_CONSTRAINT
    places, matrices, forces = [], [], []
    for data.qpos[:], data.qvel[:], data.qacc[:] in zip(value, velocity, acceleration, strict=True):
        mujoco.mj_inverse(model, data)
        matrix = np.zeros((model.nv, model.nv))
        mujoco.mj_fullM(model, data, matrix)
        places.append(data.xpos[1:].copy())
        matrices.append(matrix)
        forces.append(data.qfrc_inverse.copy())
    model.opt.disableflags = flags
    return np.array(places), np.array(matrices), np.array(forces)
