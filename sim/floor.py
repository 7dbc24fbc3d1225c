"""Puts a motion on the ground: finds the floor that the feet stood on, levels it and moves it to ``y = 0``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d, uniform_filter1d
from scipy.spatial.transform import Rotation

from imdy_plugin.adapters.smpl.motion import BodyMotion, global_rotations, joint_positions
from imdy_plugin.adapters.smpl.topology import JOINTS
from imdy_plugin.sim.standin import joint_offsets, sole_points

Array = NDArray[np.float64]

UP = np.array([0.0, 1.0, 0.0])

STEEPEST = float(np.radians(3.0))
"""A recorded floor that slopes more [rad] is no fault of the laboratory's vertical."""

UNEVEN = 0.10
"""Where the heights of the soles in stance range over more [m], the ground is not level."""

_STANDING_SPEED = 0.3
_MOST_BENT = 70.0
"""Toes bend no further than so many degrees from where they were."""

_PRINT_DEVIATION, _SLOPE_DEVIATION = 0.01, 0.02
"""How much footprints scatter in height [m], and how much laboratories' floors slope."""


def grounded(motion: BodyMotion, person: xr.Dataset) -> BodyMotion:
    """The motion moved so that the feet stand on ``y = 0`` and the pelvis starts over the origin.

    The floor is a plane through the lowest points of the soles where these are slower than 0.3 m/s. Where the plane says that the
    recording's vertical is off (laboratories' are, by a degree or two), the motion is turned upright; a slope is believed only as
    far as the footprints cover ground, and not at all above :data:`STEEPEST` or where the footprints lie in no plane. Toes that
    would reach into the floor are bent up: few recordings tell how toes turn, and many models hold them rigid.

    Parameters
    ----------
    motion
        The motion.
    person
        The body whose soles stand on the floor (:func:`imdy_plugin.sim.standin.build_standin`).

    Returns
    -------
    BodyMotion
        Its ``attrs`` tell ``ground_shift`` [m], by how much the recording was lifted where it begins; ``ground_tilt`` [rad], the
        floor's slope that was taken out; ``floor_spread`` [m], the range (5 to 95 %) of the soles' heights in stance that is left.
    """
    toes = [JOINTS.index("right_foot"), JOINTS.index("left_foot")]
    rotation = motion.rotation_wxyz.copy()
    rotation[:, toes] = bent_toes(_levelled(motion, person)[0], person).rotation_wxyz[:, toes]
    moved, tilt = _levelled(replace(motion, rotation_wxyz=rotation), person)
    spread = _spread(_footprints(moved, person), np.zeros(3))
    lift = float(moved.root_position[0, 1] - motion.root_position[0, 1])
    attrs = {**motion.attrs, "ground_shift": lift, "ground_tilt": tilt, "floor_spread": spread}
    return replace(bent_toes(moved, person), attrs=attrs)


def _levelled(motion: BodyMotion, person: xr.Dataset) -> tuple[BodyMotion, float]:
    """The motion on a level floor at ``y = 0`` over the origin, and by how much it was turned [rad]."""
    level = _floor(_footprints(motion, person))
    normal = np.array([-level[0], 1.0, -level[1]])
    axis = np.cross(normal, UP)
    upright = Rotation.from_rotvec(np.arccos(1 / np.linalg.norm(normal)) * axis / max(float(np.linalg.norm(axis)), 1e-12))
    start = motion.root_position[0]
    position = upright.apply(motion.root_position - (start[0], level @ (start[0], start[2], 1.0), start[2]))
    rotation = motion.rotation_wxyz.copy()
    rotation[:, 0] = (upright * Rotation.from_quat(rotation[:, 0], scalar_first=True)).as_quat(scalar_first=True)
    return replace(motion, root_position=position - position[0] * (1, 0, 1), rotation_wxyz=rotation), float(upright.magnitude())


def bent_toes(motion: BodyMotion, person: xr.Dataset) -> BodyMotion:
    """The motion with toes bent up about their joint where they would reach below the floor and below the ball of the foot."""
    rotation = motion.rotation_wxyz.copy()
    turned, place, soles = global_rotations(motion), joint_positions(motion, joint_offsets(person)), sole_points(person)
    angles = np.radians(np.arange(0.0, _MOST_BENT + 1.0, 2.0))
    for side in ("right", "left"):
        rear, toes = JOINTS.index(f"{side}_ankle"), JOINTS.index(f"{side}_foot")
        ball = (place[:, None, rear, 1] + np.einsum("tj,pj->tp", turned[:, rear, 1], soles[f"{side}_ankle"])).min(axis=1)
        bent = Rotation.from_rotvec(np.outer(angles, [0.0, 0.0, 1.0])).as_matrix()
        height = place[:, toes, 1][:, None, None] + np.einsum("tj,ajk,pk->tap", turned[:, toes, 1], bent, soles[f"{side}_foot"])
        depth = np.minimum(ball, 0.0)[:, None] - height.min(axis=2)
        chosen = np.where((depth > 1e-4).all(axis=1), np.argmin(depth, axis=1), np.argmax(depth <= 1e-4, axis=1))
        extra = _gently(angles[chosen], motion.rate)
        rotation[:, toes] = (Rotation.from_quat(rotation[:, toes], scalar_first=True) * Rotation.from_rotvec(np.outer(extra, [0.0, 0.0, 1.0]))).as_quat(
            scalar_first=True
        )
    return replace(motion, rotation_wxyz=rotation)


def _gently(angle: Array, rate: float) -> Array:
    """An angle that is nowhere less than the one given and has no steps: its maximum and then its mean over a twentieth of a second."""
    width = max(1, 2 * round(rate / 40) + 1)
    return np.asarray(uniform_filter1d(maximum_filter1d(angle, width, mode="nearest"), width, mode="nearest"))


def lowest_points(motion: BodyMotion, person: xr.Dataset) -> Array:
    """Place of each foot's lowest point [m], ``(time, foot[right, left], 3)``."""
    turned, place = global_rotations(motion), joint_positions(motion, joint_offsets(person))
    feet = []
    for side in ("right", "left"):
        bodies = [(JOINTS.index(body), points) for body, points in sole_points(person).items() if body.startswith(side)]
        points = np.concatenate([place[:, None, body] + np.einsum("tij,pj->tpi", turned[:, body], at) for body, at in bodies], axis=1)
        feet.append(points[np.arange(len(motion)), np.argmin(points[..., 1], axis=1)])
    return np.stack(feet, axis=1)


def _footprints(motion: BodyMotion, person: xr.Dataset) -> Array:
    """Points at which the lower foot stands [m], ``(frame, 3)``; the lowest of all where no foot ever does."""
    feet = lowest_points(motion, person)
    frames, lower = np.arange(len(motion)), np.argmin(feet[..., 1], axis=1)
    balls = joint_positions(motion, joint_offsets(person))[:, [JOINTS.index("right_foot"), JOINTS.index("left_foot")]]
    speed = np.linalg.norm(np.gradient(balls, motion.time, axis=0), axis=-1)[frames, lower]
    points = feet[frames, lower]
    slow = points[speed < _STANDING_SPEED]
    lowest = np.argsort(points[:, 1])[: max(1, len(points) // 10)]
    return slow if len(slow) >= 5 else np.asarray(points[lowest])


def _floor(points: Array) -> Array:
    """A floor ``y = a x + b z + c`` through footprints, as ``(a, b, c)``.

    Footprints are gathered in squares of a tenth of a metre that count the same; iteratively reweighted least squares (Huber).
    """
    cells = np.unique(np.round(points[:, [0, 2]] * 10), axis=0, return_inverse=True)[1].ravel()
    place = np.array([np.median(points[cells == cell], axis=0) for cell in range(cells.max() + 1)])
    middle = place[:, [0, 2]].mean(axis=0)
    columns = np.column_stack([place[:, [0, 2]] - middle, np.ones(len(place))])
    prior = np.diag([(_PRINT_DEVIATION / _SLOPE_DEVIATION) ** 2] * 2 + [0.0])
    plane, weight = np.zeros(3), np.ones(len(place))
    for _ in range(20):
        plane = np.linalg.solve((columns.T * weight) @ columns + prior, (columns.T * weight) @ place[:, 1])
        weight = np.minimum(1.0, _PRINT_DEVIATION / np.maximum(np.abs(place[:, 1] - columns @ plane), 1e-9))
    level = np.array([plane[0], plane[1], plane[2] - plane[:2] @ middle])
    if np.hypot(*plane[:2]) > np.tan(STEEPEST) or _spread(points, level) > UNEVEN:
        return np.array([0.0, 0.0, float(np.median(points[:, 1]))])
    return level


def _spread(points: Array, level: Array) -> float:
    left = points[:, 1] - points[:, [0, 2]] @ level[:2] - level[2]
    return float(np.subtract(*np.percentile(left, [95, 5])))
