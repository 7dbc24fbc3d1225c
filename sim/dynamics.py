"""Inverse dynamics of a tree of rigid bodies on ball joints, for whole motions at once, in numpy.

It serves to check what a physics engine recorded, so it owes nothing to one: it knows a person's model dataset and Newton's and
Euler's equations, body by body, in the ground frame (Featherstone 2008, Rigid Body Dynamics Algorithms, ch. 2 and 5, in world
coordinates). Sums along the tree are products with a constant 0/1 matrix, so no loop runs over frames and only the rotations
are followed from parent to child.

Positions and velocities are laid out as :class:`imdy_plugin.interfaces.Simulation` has them: the root's place and unit quaternion
(scalar first), then one quaternion for each joint; the root's velocity along the ground's axes, its angular velocity and those
of the joints along the axes of the turned body.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.errors import InputError
from imdy_plugin.schema import INERTIA_COMPONENTS

Array = NDArray[np.float64]


@dataclass(frozen=True)
class BodyTree:
    """Rigid bodies on ball joints, the first one free.

    Attributes
    ----------
    bodies
        Names, parents before children.
    parents
        Index of each body's parent, -1 for the first.
    offsets
        Each joint in the parent's body [m], ``(body, 3)``.
    mass, center, inertia
        Mass [kg] ``(body,)``, centre of mass [m] ``(body, 3)`` and inertia about it [kg m^2] ``(body, 3, 3)``, in the body.
    ancestors
        1 where the body of the column carries the body of the row or is it, ``(body, body)``.
    gravity
        Acceleration of free fall [m/s^2], ``(3,)``.
    """

    bodies: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: Array
    mass: Array
    center: Array
    inertia: Array
    ancestors: Array
    gravity: Array

    @property
    def weight(self) -> float:
        """Body weight [N]."""
        return float(self.mass.sum() * np.linalg.norm(self.gravity))


@dataclass(frozen=True)
class Placement:
    """Where the bodies are: ``rotation`` matrices ``(3, 3, body, time)`` against the ground and ``origin`` ``(3, body, time)`` [m].

    Origins are seen from the root's, so that nothing is lost far from the ground's origin; ``root`` is the root's own, ``(3, 1, time)``.
    Frames come last in memory: few calls, each on long stretches.
    """

    rotation: Array
    origin: Array
    root: Array

    def points(self, body: NDArray[np.intp], location: Array) -> Array:
        """Points fixed in bodies, seen from the ground [m], ``(time, point, 3)``, given the ``body`` and ``location (point, 3)`` of each."""
        turned = _turn(self.rotation[:, :, body], location.T[..., None])
        return np.ascontiguousarray((turned + self.origin[:, body] + self.root).T)


def tree_of(person: xr.Dataset, bodies: Sequence[str] | None = None) -> BodyTree:
    """The bodies of a model.

    Parameters
    ----------
    person
        A model whose joint frames are aligned with their bodies and whose joints are all ball joints but the root's
        (:func:`imdy_plugin.sim.standin.build_standin`).
    bodies
        Their order, parents before children; the model's own if not given.

    Raises
    ------
    InputError
        A joint frame is turned or moved against its child body, or the order does not list each body once, parents first.
    """
    turned = [n for n in ("joint_parent_orientation", "joint_child_orientation", "joint_child_location") if np.any(person[n].values)]
    if turned:
        raise InputError(f"model '{person.attrs['name']}': {', '.join(turned)} are not zero; here a joint's frame is its child's body, aligned with the parent")
    names = [str(b) for b in person["body"].values]
    joint_of = {str(c): i for i, c in enumerate(person["joint_child"].values)}
    parent_of = {c: str(person["joint_parent"].values[i]) for c, i in joint_of.items()}
    order = list(bodies or names)
    _check_order(order, names, parent_of)
    chosen = [names.index(b) for b in order]
    parents = tuple(-1 if parent_of[b] == "ground" else order.index(parent_of[b]) for b in order)
    offsets = person["joint_parent_location"].values[[joint_of[b] for b in order]].astype(float)
    offsets[0] = 0.0
    inertia = person["body_inertia"].sel(inertia_component=list(INERTIA_COMPONENTS)).values[chosen]
    return BodyTree(
        tuple(order),
        parents,
        offsets,
        person["body_mass"].values[chosen].astype(float),
        person["body_center_of_mass"].values[chosen].astype(float),
        inertia[:, [[0, 3, 4], [3, 1, 5], [4, 5, 2]]].astype(float),
        _ancestors(parents),
        np.asarray(person.attrs["gravity"], float),
    )


def place(tree: BodyTree, position: Array) -> Placement:
    """Where the bodies are at ``position (time, coordinate)``."""
    quaternion = np.ascontiguousarray(position[:, 3:].T).reshape(len(tree.bodies), 4, len(position)).swapaxes(0, 1)
    local = _matrices(quaternion / np.sqrt((quaternion**2).sum(axis=0)))
    rotation = np.empty_like(local)
    for joint, parent in enumerate(tree.parents):
        rotation[:, :, joint] = local[:, :, joint] if parent < 0 else np.einsum("ijt,jkt->ikt", rotation[:, :, parent], local[:, :, joint])
    steps = _turn(rotation[:, :, _carriers(tree)], tree.offsets.T[..., None])
    return Placement(rotation, tree.ancestors @ steps, np.ascontiguousarray(position[:, :3].T)[:, None])


def required_force(tree: BodyTree, placed: Placement, velocity: Array, acceleration: Array, force: Array | None = None, moment: Array | None = None) -> Array:
    """Generalized force that must act, beside gravity and the given loads, for the bodies to accelerate as they do.

    Parameters
    ----------
    tree, placed
        The bodies and where they are.
    velocity, acceleration
        ``(time, velocity)``.
    force, moment
        Loads on the bodies: force [N] and its moment about the root's origin [N m], both ``(time, body, 3)`` along the ground's axes.

    Returns
    -------
    numpy.ndarray
        ``(time, velocity)``: force on the root along the ground's axes [N], moment about its origin along its own axes, and the moment of each joint along
        the axes of the child [N m].
    """
    inertial, turning = _inertial_loads(tree, placed, velocity, acceleration)
    if force is not None and moment is not None:
        inertial, turning = inertial - force.T, turning - moment.T
    carried, moments = tree.ancestors.T @ inertial, tree.ancestors.T @ turning
    about_joint = _turn_back(placed.rotation, moments - _cross(placed.origin, carried))
    return np.concatenate([carried[:, 0].T, about_joint.T.reshape(len(velocity), -1)], axis=1)


def _inertial_loads(tree: BodyTree, placed: Placement, velocity: Array, acceleration: Array) -> tuple[Array, Array]:
    """Rate of change of each body's momentum less its weight, and the moment of that about the root's origin, ``(3, body, time)``."""
    carriers, along = _carriers(tree), tree.ancestors
    own = _turn(placed.rotation, _per_body(velocity))
    spin = along @ own
    turning = along @ (_turn(placed.rotation, _per_body(acceleration)) + _cross(spin, own))
    step = placed.origin - placed.origin[:, carriers]
    at_origin = acceleration[:, :3].T[:, None] + along @ _of_point(turning[:, carriers], spin[:, carriers], step)
    arm = _turn(placed.rotation, tree.center.T[..., None])
    force = tree.mass[:, None] * (at_origin + _of_point(turning, spin, arm) - tree.gravity[:, None, None])
    return force, _euler(tree, placed.rotation, spin, turning) + _cross(placed.origin + arm, force)


def _euler(tree: BodyTree, rotation: Array, spin: Array, turning: Array) -> Array:
    """Rate of change of each body's angular momentum about its centre of mass, along the ground's axes."""
    inertia = np.moveaxis(tree.inertia, 0, -1)[..., None]
    own_spin, own_turning = _turn_back(rotation, spin), _turn_back(rotation, turning)
    return _turn(rotation, _turn(inertia, own_turning) + _cross(own_spin, _turn(inertia, own_spin)))


def _of_point(turning: Array, spin: Array, arm: Array) -> Array:
    """Acceleration of a point of a turning body against the body's origin."""
    return _cross(turning, arm) + _cross(spin, _cross(spin, arm))


def _per_body(velocity: Array) -> Array:
    return np.ascontiguousarray(velocity[:, 3:].T).reshape(velocity.shape[1] // 3 - 1, 3, len(velocity)).swapaxes(0, 1)


def _carriers(tree: BodyTree) -> NDArray[np.intp]:
    """Index of what each body hangs on; the root on itself, with an offset of zero."""
    return np.maximum(np.array(tree.parents, dtype=np.intp), 0)


def _turn(rotation: Array, vector: Array) -> Array:
    return np.asarray(rotation[:, 0] * vector[0] + rotation[:, 1] * vector[1] + rotation[:, 2] * vector[2])


def _turn_back(rotation: Array, vector: Array) -> Array:
    return np.asarray(rotation[0] * vector[0] + rotation[1] * vector[1] + rotation[2] * vector[2])


def _cross(a: Array, b: Array) -> Array:
    return np.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def _matrices(quaternion: Array) -> Array:
    """Rotation matrices ``(3, 3, ...)`` of unit quaternions ``(4, ...)``, scalar first."""
    w, x, y, z = quaternion
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.array(rows)


def rotation_vectors(quaternion: Array) -> Array:
    """Rotation vectors ``(..., 3)`` [rad], no longer than pi, of unit quaternions ``(..., 4)``, scalar first."""
    scalar, vector = np.abs(quaternion[..., 0]), quaternion[..., 1:]
    sine = np.sqrt(np.square(vector).sum(axis=-1))
    factor = np.where(sine > 1e-9, 2.0 * np.arctan2(sine, scalar) / np.maximum(sine, 1e-12), 2.0)
    return np.asarray(vector * np.where(quaternion[..., 0] < 0, -factor, factor)[..., None])


def quaternions(rotation_vector: Array) -> Array:
    """Unit quaternions ``(..., 4)``, scalar first, of rotation vectors ``(..., 3)`` [rad]."""
    half = 0.5 * np.sqrt(np.square(rotation_vector).sum(axis=-1, keepdims=True))
    return np.concatenate([np.cos(half), 0.5 * np.sinc(half / np.pi) * rotation_vector], axis=-1)


def _check_order(order: list[str], names: list[str], parent_of: dict[str, str]) -> None:
    if sorted(order) != sorted(names):
        raise InputError(f"the order of bodies lists {', '.join(sorted(set(order) ^ set(names)))} on one side only; it must list the model's bodies, each once")
    late = [b for i, b in enumerate(order) if parent_of[b] not in {"ground", *order[:i]}]
    if late:
        raise InputError(f"body '{late[0]}' is listed before '{parent_of[late[0]]}', which carries it; list parents first")


def _ancestors(parents: tuple[int, ...]) -> Array:
    rows = np.eye(len(parents))
    for body, parent in enumerate(parents):
        if parent >= 0:
            rows[body] += rows[parent]
    return rows
