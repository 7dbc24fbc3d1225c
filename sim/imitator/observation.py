"""What an imitator sees: its own body and what is to be imitated next, in the frame of its own heading.

The frame of the heading stands upright at the pelvis and is turned about the vertical as the pelvis is, so that neither where a
person is on the ground nor which way it faces changes what is seen. The layout is that of perpetual humanoid control (Luo et al.
2023, ICCV): 358 numbers for the own state and 576 for each reference frame ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.adapters.smpl.topology import PARENTS
from imdy_plugin.sim.humanoid import BODIES, ORDER
from imdy_plugin.sim.standin import joint_offsets

Array = NDArray[np.float64]

COUNT = len(BODIES)
"""Number of bodies; they come in the order of :data:`~imdy_plugin.sim.humanoid.BODIES`."""

OWN_SIZE = 1 + 3 * (COUNT - 1) + (6 + 3 + 3) * COUNT
"""Numbers of the own state: root height, positions, rotations, velocities, angular velocities."""

TASK_SIZE = 24 * COUNT
"""Numbers of one reference frame: differences of position, rotation, velocity and angular velocity, then position and rotation."""

STYLE_SIZE = 1 + 6 + 3 + 3 + (6 + 3) * (COUNT - 1) + 3 * 4
"""Numbers of one frame of :func:`style_state`."""

_PARENTS = np.array([ORDER.index(PARENTS[joint]) if PARENTS[joint] >= 0 else -1 for joint in ORDER])
_ENDS = [BODIES.index(name) for name in ("left_foot", "right_foot", "left_hand", "right_hand")]


def _chain(body: int) -> list[int]:
    """The body and all that carry it."""
    return [body] if _PARENTS[body] < 0 else [body, *_chain(_PARENTS[body])]


_CHAINS = [_chain(body) for body in range(COUNT)]
_CARRIED = np.array([[float(other in chain) for other in range(COUNT)] for chain in _CHAINS])
_GENERATIONS = [np.array([j for j in range(COUNT) if len(_CHAINS[j]) == depth]) for depth in range(2, 1 + max(map(len, _CHAINS)))]


@dataclass(frozen=True)
class Kinematics:
    """Where the 24 bodies of some people are and how they move, in the ground frame.

    Attributes
    ----------
    position, velocity
        Of the joint that carries each body [m, m/s], ``(world, 24, 3)``.
    rotation
        Rotation matrices, ``(world, 24, 3, 3)``.
    angular_velocity
        [rad/s], ``(world, 24, 3)``.
    """

    position: Array
    rotation: Array
    velocity: Array
    angular_velocity: Array

    def __len__(self) -> int:
        return len(self.position)

    def __getitem__(self, chosen: slice | NDArray[np.intp]) -> Kinematics:
        return Kinematics(self.position[chosen], self.rotation[chosen], self.velocity[chosen], self.angular_velocity[chosen])


def kinematics(position: Array, velocity: Array, offsets: Array) -> Kinematics:
    """Bodies in the ground frame.

    Parameters
    ----------
    position, velocity
        States as simulations lay them out, ``(world, 99)`` and ``(world, 75)``, see :class:`imdy_plugin.interfaces.Simulation`.
    offsets
        Where each joint lies in its parent's body [m], ``(24, 3)`` or ``(world, 24, 3)``, see :func:`simulated_offsets`.
    """
    rotation = _to_ground(rotation_matrices(position[:, 3:].reshape(len(position), COUNT, 4)))
    bones = np.einsum("wjik,wjk->wji", rotation[:, _PARENTS], np.broadcast_to(offsets, (len(position), COUNT, 3)))
    bones[:, 0] = position[:, :3]
    angular = _CARRIED @ np.einsum("wjik,wjk->wji", rotation, velocity[:, 3:].reshape(len(velocity), COUNT, 3))
    turning = cross(angular[:, _PARENTS], bones)
    turning[:, 0] = velocity[:, :3]
    return Kinematics(_CARRIED @ bones, rotation, _CARRIED @ turning, angular)


def simulated_offsets(person: xr.Dataset) -> Array:
    """Each joint in its parent's body [m], ``(24, 3)``, in the order of the simulated bodies."""
    return joint_offsets(person)[list(ORDER)]


def rotation_matrices(wxyz: Array) -> Array:
    """Rotation matrices ``(..., 3, 3)`` of unit quaternions ``(..., 4)``, scalar first."""
    w, x, y, z = np.moveaxis(wxyz, -1, 0)
    turned = np.empty((*wxyz.shape[:-1], 3, 3))
    turned[..., 0, 0], turned[..., 0, 1], turned[..., 0, 2] = 1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)
    turned[..., 1, 0], turned[..., 1, 1], turned[..., 1, 2] = 2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)
    turned[..., 2, 0], turned[..., 2, 1], turned[..., 2, 2] = 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)
    return turned


def cross(a: Array, b: Array) -> Array:
    """Cross product of vectors in the last axis; several times as fast as NumPy's on small arrays."""
    (a0, a1, a2), (b0, b1, b2) = np.moveaxis(a, -1, 0), np.moveaxis(b, -1, 0)
    return np.stack([a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0], axis=-1)


def headings(rotation: Array) -> Array:
    """Turns from the frame of the heading into the ground frame, ``(world, 3, 3)``, of root rotations ``(world, 3, 3)``.

    The heading is the twist of the root about the vertical: undefined only where the root is upside down, and turning with the
    person by exactly the angle by which it is turned.
    """
    sine, cosine = rotation[:, 0, 2] - rotation[:, 2, 0], rotation[:, 0, 0] + rotation[:, 2, 2]
    length = np.hypot(sine, cosine)
    known = length > 1e-9
    sine, cosine = np.where(known, sine, 0.0) / np.where(known, length, 1.0), np.where(known, cosine / np.where(known, length, 1.0), 1.0)
    turned = np.zeros_like(rotation)
    turned[:, 0, 0], turned[:, 0, 2] = cosine, sine
    turned[:, 2, 0], turned[:, 2, 2] = -sine, cosine
    turned[:, 1, 1] = 1.0
    return turned


def own_state(body: Kinematics) -> Array:
    """The own state, ``(world, 358)``: height of the pelvis, then by body positions (the pelvis left out), rotations, velocities
    and angular velocities in the frame of the heading."""
    heading = headings(body.rotation[:, 0])
    parts = (
        body.position[:, 0, 1:2],
        (body.position[:, 1:] - body.position[:, :1]) @ heading,
        _six(_local(heading, body.rotation)),
        body.velocity @ heading,
        body.angular_velocity @ heading,
    )
    return _flat(parts)


def task_state(body: Kinematics, reference: Kinematics) -> Array:
    """What is to be done next, ``(world, 576)``: by body the differences of position, rotation, velocity and angular velocity
    from the own to the reference's, then the reference's position against the own pelvis and its rotation, all in the frame of
    the own heading."""
    heading = headings(body.rotation[:, 0])
    turn = reference.rotation @ np.swapaxes(body.rotation, -1, -2)
    parts = (
        (reference.position - body.position) @ heading,
        _six(_local(heading, turn) @ heading[:, None]),
        (reference.velocity - body.velocity) @ heading,
        (reference.angular_velocity - body.angular_velocity) @ heading,
        (reference.position - body.position[:, :1]) @ heading,
        _six(_local(heading, reference.rotation)),
    )
    return _flat(parts)


def observe(body: Kinematics, references: Sequence[Kinematics]) -> NDArray[np.float32]:
    """The whole observation, ``(world, 358 + 576 * len(references))``."""
    return np.concatenate([own_state(body), *(task_state(body, reference) for reference in references)], axis=1).astype(np.float32)


def style_state(body: Kinematics, position: Array, velocity: Array) -> NDArray[np.float32]:
    """One frame as the judge of style sees it (adversarial motion priors, Peng et al. 2021, ACM Trans Graph 40:144).

    Height, rotation, velocity and angular velocity of the pelvis, rotations and angular velocities of the joints, and where feet
    and hands are against the pelvis, in the frame of the heading: ``(world, 232)``.
    """
    heading = headings(body.rotation[:, 0])
    joints = rotation_matrices(position[:, 7:].reshape(len(position), COUNT - 1, 4))
    parts = (
        body.position[:, 0, 1:2],
        _six(_local(heading, body.rotation[:, :1])),
        body.velocity[:, :1] @ heading,
        body.angular_velocity[:, :1] @ heading,
        _six(joints),
        velocity[:, 6:],
        (body.position[:, _ENDS] - body.position[:, :1]) @ heading,
    )
    return _flat(parts).astype(np.float32)


def _to_ground(local: Array) -> Array:
    turned = local.copy()
    for joints in _GENERATIONS:
        turned[:, joints] = turned[:, _PARENTS[joints]] @ local[:, joints]
    return turned


def _local(heading: Array, rotation: Array) -> Array:
    return np.asarray(np.swapaxes(heading, -1, -2)[:, None] @ rotation)


def _six(rotation: Array) -> Array:
    """The first two columns, from which a rotation is known (Zhou et al. 2019, CVPR)."""
    return np.concatenate([rotation[..., 0], rotation[..., 1]], axis=-1)


def _flat(parts: Sequence[Array]) -> Array:
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
