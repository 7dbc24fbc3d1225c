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
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.sim.dynamics import BodyTree, Placement, place, required_force, tree_of
from imdy_plugin.sim.humanoid import FRICTION
from imdy_plugin.sim.records import Arrays, acceleration_of, arrays_in, cross, position_of, rounded, velocity_of, with_variables

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
    arrays, tree = arrays_in(record), tree_of(person, [str(b) for b in record["body"].values])
    return _residual(arrays, tree, place(tree, position_of(arrays)), float(person.attrs["height"]))


def _residual(arrays: Arrays, tree: BodyTree, placed: Placement, height: float) -> Residual:
    force = arrays["ground_force"]
    moment = arrays["free_moment"] + cross(arrays["center_of_pressure"] - arrays["root_position"][:, None], force)
    left = required_force(tree, placed, velocity_of(arrays), acceleration_of(arrays), force, moment)
    left[:, 6:] -= arrays["torque"][:, 0].reshape(len(left), -1)
    largest = np.abs(left)
    lawful = lawful_ground(tree, placed, force)
    return Residual(largest[:, :3].max(axis=1) / tree.weight, largest[:, 3:].max(axis=1) / (tree.weight * height), lawful)


def lawful_ground(tree: BodyTree, placed: Placement, force: Array) -> NDArray[np.bool_]:
    """Frames in which forces on the bodies ``(time, body, 3)`` [N] push, lie in the cone of friction and act near the ground, ``(time,)``."""
    across = np.hypot(force[..., 0], force[..., 2])
    pushes = across <= FRICTION * force[..., 1] + _SLACK * tree.weight
    touched = (force != 0.0).any(axis=-1)
    return np.asarray((pushes & (~touched | (_lowest(tree, placed).T < NEAR_GROUND))).all(axis=1))


def _lowest(tree: BodyTree, placed: Placement) -> Array:
    """Height of the lowest of each body's joints and centre of mass [m], ``(body, time)``."""
    origin = placed.origin[1] + placed.root[1]
    center = origin + sum(placed.rotation[1, axis] * tree.center[:, axis, None] for axis in range(3))
    lowest: Array = np.minimum(origin, center)
    for body, parent in enumerate(tree.parents):
        if parent >= 0:
            np.minimum(lowest[parent], origin[body], out=lowest[parent])
    return lowest


def checked(record: xr.Dataset, person: xr.Dataset) -> xr.Dataset:
    """The record with what :func:`checks` finds."""
    tree = tree_of(person, [str(b) for b in record["body"].values])
    return with_variables(record, checks(arrays_in(record), tree, float(person.attrs["height"])))


def checks(arrays: Arrays, tree: BodyTree, height: float) -> dict[str, NDArray[Any]]:
    """``residual_force``, ``residual_moment``, ``valid``, ``joint_error`` and ``failed`` of a record's variables, rounded as they are stored.

    A frame has failed where the joints are more than :data:`FAILURE_DISTANCE` from the reference's on average, and ever after.

    Parameters
    ----------
    arrays
        Variables of a record as they are stored, bodies in the order of the tree.
    tree
        The person's bodies.
    height
        Body height [m].
    """
    placed = place(tree, position_of(arrays))
    found = _residual(arrays, tree, placed, height)
    error = joint_error(placed, place(tree, position_of(arrays, "reference_")))
    return rounded(
        {
            "residual_force": found.force.astype(np.float32),
            "residual_moment": found.moment.astype(np.float32),
            "valid": found.valid,
            "joint_error": error,
            "failed": np.maximum.accumulate(error > FAILURE_DISTANCE),
        }
    )


def joint_error(placed: Placement, wanted: Placement) -> Array:
    """Distance of the joints from where they should be [m], mean over the joints, ``(time,)``."""
    apart = placed.origin - wanted.origin + placed.root - wanted.root
    return np.asarray(np.sqrt((apart**2).sum(axis=0)).mean(axis=0))
