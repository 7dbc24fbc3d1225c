"""How well a person imitates a reference at one moment: the reward, and when an episode has failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from imdy_plugin.sim.imitator.observation import Kinematics

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RewardConfig:
    """Weights and sharpness of the terms (perpetual humanoid control, Luo et al. 2023).

    Attributes
    ----------
    position, rotation, velocity, angular_velocity
        Weight and sharpness: ``weight * exp(-sharpness * squared error)``.
    power
        Cost of a watt of joint power, whichever sign it has [1/W].
    """

    position: tuple[float, float] = (0.5, 100.0)
    rotation: tuple[float, float] = (0.3, 10.0)
    velocity: tuple[float, float] = (0.1, 0.1)
    angular_velocity: tuple[float, float] = (0.1, 0.1)
    power: float = 0.0005


def imitation_reward(body: Kinematics, reference: Kinematics, config: RewardConfig | None = None) -> Array:
    """Reward for being as the reference is, ``(world,)``, at most 1.

    Squared errors are means over the bodies, of positions [m], velocities [m/s] and angular velocities [rad/s] over the three
    axes too; that of a rotation is the squared angle [rad].
    """
    config = config or RewardConfig()
    errors = (
        (config.position, np.square(reference.position - body.position).mean(axis=(1, 2))),
        (config.rotation, np.square(rotation_angles(body.rotation, reference.rotation)).mean(axis=1)),
        (config.velocity, np.square(reference.velocity - body.velocity).mean(axis=(1, 2))),
        (config.angular_velocity, np.square(reference.angular_velocity - body.angular_velocity).mean(axis=(1, 2))),
    )
    return np.asarray(np.sum([weight * np.exp(-sharpness * error) for (weight, sharpness), error in errors], axis=0))


def power_cost(torque: Array, velocity: Array, config: RewardConfig | None = None) -> Array:
    """Cost of the joints' power, ``(world,)``: ``power * sum |torque * velocity|``, mean over the physics steps.

    Parameters
    ----------
    torque
        As recorded, ``(world, substep, 69)`` [N m].
    velocity
        Of the joints after the step, ``(world, 69)`` [rad/s].
    """
    config = config or RewardConfig()
    return np.asarray(config.power * np.abs(torque * velocity[:, None]).sum(axis=2).mean(axis=1))


def approach_reward(body: Kinematics, before: Kinematics, reference: Kinematics) -> Array:
    """Reward for coming nearer to a reference that is far away, ``(world,)``: how much less far the pelvis is than before [m]."""
    far, was = (np.linalg.norm(reference.position[:, 0] - k.position[:, 0], axis=1) for k in (body, before))
    return np.asarray(was - far)


def rotation_angles(a: Array, b: Array) -> Array:
    """Angles [rad] between rotation matrices ``(..., 3, 3)``."""
    trace = np.einsum("...ij,...ij->...", a, b)
    return np.asarray(np.arccos(np.clip((trace - 1.0) / 2.0, -1.0, 1.0)))


def failed(body: Kinematics, reference: Kinematics, *, rule: Literal["any", "mean"] = "any", limit: float = 0.25) -> NDArray[np.bool_]:
    """Whether people have lost their reference, ``(world,)``: any joint, or the mean over the joints, is further away than ``limit`` [m]."""
    distance = np.linalg.norm(reference.position - body.position, axis=-1)
    return np.asarray((distance.max(axis=1) if rule == "any" else distance.mean(axis=1)) > limit)
