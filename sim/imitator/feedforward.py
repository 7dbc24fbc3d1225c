"""What the joints would be set to if the reference were followed exactly: inverse dynamics with the ground under the soles."""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import nnls

from imdy_plugin.schema import GRAVITY
from imdy_plugin.sim.humanoid import BODIES, Humanoid, joint_angles
from imdy_plugin.sim.imitator.base import CONTROL_RATE

Array = NDArray[np.float64]

_STRENGTH = {
    "hip": 150.0,
    "knee": 150.0,
    "ankle": 120.0,
    "foot": 15.0,
    "spine1": 150.0,
    "spine2": 120.0,
    "spine3": 100.0,
    "neck": 30.0,
    "head": 15.0,
    "collar": 40.0,
    "shoulder": 50.0,
    "elbow": 30.0,
    "wrist": 8.0,
    "hand": 3.0,
}

_REACH = 0.05
"""A point of the sole higher than this [m] carries nothing."""

_CONE = np.array([[0.7, 1.0, 0.0], [-0.7, 1.0, 0.0], [0.0, 1.0, 0.7], [0.0, 1.0, -0.7]])
"""Edges of the friction pyramid at a point of the sole."""

_ROOT_WEIGHT, _LOAD_WEIGHT, _HEIGHT_WEIGHT = 30.0, 0.5, 200.0


def strengths() -> Array:
    """A moderate effort of each joint axis [N m], ``(69,)``: about what adults use in brisk movement, small where the limb is small."""
    return np.repeat([_STRENGTH[body.split("_")[-1]] for body in BODIES[1:]], 3)


def feedforward_targets(humanoid: Humanoid, position: Array, velocity: Array) -> Array:
    """Targets of the joints' control that make up for its lag and bear the loads of the motion.

    Parameters
    ----------
    humanoid
        The body.
    position, velocity
        States of the reference at the control rate, ``(time, 99)`` and ``(time, 75)``.

    Returns
    -------
    numpy.ndarray
        Rotation vectors [rad], ``(time, 69)``: the joints' own, plus what damping takes away at this speed, plus the torque of inverse
        dynamics over the stiffness. Forces of the ground are those inside the friction cones, near the ground, that leave the least
        to the root (non-negative least squares).
    """
    acceleration = np.gradient(velocity, 1.0 / CONTROL_RATE, axis=0)
    inverse = _Inverse(humanoid)
    torque = np.array([inverse.torque(*frame) for frame in zip(position, velocity, acceleration, strict=True)])
    limit = 3.0 * strengths()
    smooth = gaussian_filter1d(np.clip(torque, -limit, limit), 1.0, axis=0)
    return np.asarray(joint_angles(position) + (smooth + humanoid.kd * velocity[:, 6:]) / humanoid.kp)


class _Inverse:
    def __init__(self, humanoid: Humanoid) -> None:
        self.model, self.data = humanoid.model, mujoco.MjData(humanoid.model)
        balls = self.model.geom_type == mujoco.mjtGeom.mjGEOM_SPHERE
        self.soles, self.weight = np.flatnonzero(balls), humanoid.mass * GRAVITY
        self.rows = np.concatenate([np.full(6, _ROOT_WEIGHT / self.weight), 1.0 / strengths()])

    def torque(self, position: Array, velocity: Array, acceleration: Array) -> Array:
        force = self._without_ground(position, velocity, acceleration)
        points = self.data.geom_xpos[self.soles] - self.model.geom_size[self.soles, :1] * (0.0, 1.0, 0.0)
        near = points[:, 1] < _REACH
        if near.any():
            force = force - self._ground(force, self.soles[near], points[near])
        return np.asarray(force[6:])

    def _without_ground(self, position: Array, velocity: Array, acceleration: Array) -> Array:
        """Generalized forces of the motion; MuJoCo's inverse dynamics less what contacts would give."""
        data = self.data
        data.qpos, data.qvel = position, velocity
        mujoco.mj_fwdPosition(self.model, data)
        mujoco.mj_fwdVelocity(self.model, data)
        force = np.empty(self.model.nv)
        mujoco.mj_mulM(self.model, data, force, acceleration)
        return np.asarray(force + data.qfrc_bias)

    def _ground(self, force: Array, geoms: Array, points: Array) -> Array:
        jacobian, columns = np.empty((3, self.model.nv)), []
        for geom, point in zip(geoms, points, strict=True):
            mujoco.mj_jac(self.model, self.data, jacobian, None, point, self.model.geom_bodyid[geom])
            columns.append(jacobian.T @ _CONE.T)
        edges = np.concatenate(columns, axis=1)
        price = np.repeat(_LOAD_WEIGHT + _HEIGHT_WEIGHT * np.maximum(points[:, 1], 0.0), len(_CONE)) / self.weight
        system = np.concatenate([self.rows[:, None] * edges, np.diag(price)])
        load, _ = nnls(system, np.concatenate([self.rows * force, np.zeros(len(price))]))
        return np.asarray(edges @ load)
