"""Whether a recorded frame is data: do the torques of its joints, the ground and gravity explain how the body moved?

For every frame, Newton's and Euler's equations of the recorded state and acceleration, with the recorded ground forces, must give
the recorded torques, and leave nothing for the free root:

    M(q) qdd + c(q, qd) - J(q)^T lambda - [0; tau] = 0

They are evaluated from the person's model dataset by :mod:`~imdy_plugin.sim.dynamics`, which shares nothing with the engine that
made the record, and on the numbers as they are stored. What is left over is given in body weights and in body weights times body
height; a hidden force of a newton is a thousand times the limit.

Nor may help come under the name of the ground: it pushes and does not pull, drags no more than friction lets it, and acts on what
is near it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.sim.dynamics import BodyTree, Placement, place, required_force, tree_of
from imdy_plugin.sim.humanoid import FRICTION
from imdy_plugin.sim.records import acceleration_of, position_of, velocity_of, with_variables

Array = NDArray[np.float64]

LIMIT = 1e-6
"""Largest unexplained force of a valid frame in body weights, and moment in body weights times body height."""

NEAR_GROUND = 0.3
"""A body whose joints and centre of mass are all higher [m] is not touched by the ground."""

_SLACK = 1e-5
"""Force [body weights] by which an engine may miss the cone of friction."""

FAILURE_DISTANCE = 0.5
"""Mean distance of the joints from the reference's [m] at which an imitation has failed (Luo et al. 2023)."""


@dataclass(frozen=True)
class Residual:
    """What the equations of motion leave unexplained.

    Attributes
    ----------
    force
        Largest component of the force on the root, in body weights, ``(time,)``.
    moment
        Largest component of the moment on the root or on any joint, in body weights times body height, ``(time,)``.
    lawful_ground
        Frames in which what is called the ground's force can be the ground's, ``(time,)``.
    """

    force: Array
    moment: Array
    lawful_ground: NDArray[np.bool_]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Frames in which both are within :data:`LIMIT` (a number that is not finite is not) and the ground is the ground."""
        return np.asarray((self.force <= LIMIT) & (self.moment <= LIMIT) & self.lawful_ground)


def residual(record: xr.Dataset, person: xr.Dataset) -> Residual:
    """What a record leaves unexplained.

    Parameters
    ----------
    record
        A record (:data:`imdy_plugin.sim.records.VARIABLES`); read are state, acceleration, the first torque of each frame and the ground's forces.
    person
        The person's model.
    """
    tree = _tree_like(record, person)
    return _residual(record, tree, place(tree, position_of(record)), float(person.attrs["height"]))


def _residual(record: xr.Dataset, tree: BodyTree, placed: Placement, height: float) -> Residual:
    force = record["ground_force"].values
    arm = record["center_of_pressure"].values - record["root_position"].values[:, None]
    moment = record["free_moment"].values + np.cross(arm, force)
    left = required_force(tree, placed, velocity_of(record), acceleration_of(record), force, moment)
    left[:, 6:] -= record["torque"].values[:, 0].reshape(len(left), -1)
    largest = np.abs(left)
    lawful = lawful_ground(tree, placed, force)
    return Residual(largest[:, :3].max(axis=1) / tree.weight, largest[:, 3:].max(axis=1) / (tree.weight * height), lawful)


def lawful_ground(tree: BodyTree, placed: Placement, force: Array) -> NDArray[np.bool_]:
    """Frames in which forces on the bodies ``(time, body, 3)`` [N] push, lie in the cone of friction and act near the ground, ``(time,)``."""
    across = np.hypot(force[..., 0], force[..., 2])
    pushes = across <= FRICTION * force[..., 1] + _SLACK * tree.weight
    touched = (force != 0.0).any(axis=-1)
    return np.asarray((pushes & (~touched | (_lowest(tree, placed) < NEAR_GROUND))).all(axis=1))


def _lowest(tree: BodyTree, placed: Placement) -> Array:
    """Height of the lowest of each body's joints and centre of mass [m], ``(time, body)``."""
    origin = placed.origin[1] + placed.root[1]
    center = origin + np.einsum("jtb,bj->tb", placed.rotation[1], tree.center)
    lowest: Array = np.minimum(origin, center)
    for body, parent in enumerate(tree.parents):
        if parent >= 0:
            np.minimum(lowest[:, parent], origin[:, body], out=lowest[:, parent])
    return lowest


def checked(record: xr.Dataset, person: xr.Dataset) -> xr.Dataset:
    """The record with ``residual_force``, ``residual_moment``, ``valid``, ``joint_error`` and ``failed``.

    A frame has failed where the joints are more than :data:`FAILURE_DISTANCE` from the reference's on average, and ever after.
    """
    tree = _tree_like(record, person)
    placed = place(tree, position_of(record))
    found = _residual(record, tree, placed, float(person.attrs["height"]))
    error = joint_error(tree, placed, position_of(record, "reference_"))
    arrays: dict[str, NDArray[np.generic]] = {
        "residual_force": found.force.astype(np.float32),
        "residual_moment": found.moment.astype(np.float32),
        "valid": found.valid,
        "joint_error": error,
        "failed": np.maximum.accumulate(error > FAILURE_DISTANCE),
    }
    return with_variables(record, arrays)


def joint_error(tree: BodyTree, placed: Placement, reference: Array) -> Array:
    """Distance of the joints from those of the reference's ``position (time, coordinate)`` [m], mean over the joints, ``(time,)``."""
    wanted = place(tree, reference)
    apart = placed.origin - wanted.origin + placed.root - wanted.root
    return np.asarray(np.sqrt((apart**2).sum(axis=0)).mean(axis=-1))


def _tree_like(record: xr.Dataset, person: xr.Dataset) -> BodyTree:
    return tree_of(person, [str(b) for b in record["body"].values])
