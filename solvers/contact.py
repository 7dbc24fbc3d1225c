"""Which foot touches the ground, from the motion of its sole alone.

The sole of each foot is a handful of points on the hind foot and the toes. A point touches when it is low and when it moves with the
ground. The ground's own velocity (zero, or that of a treadmill's belt) is the velocity that low points most often have, so the
answer does not depend on the frame that the motion was recorded in, nor on the direction of progress.

Every function works on plain arrays; :func:`sole_motion` is the only one that needs a model's mechanics.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from imdy_plugin.errors import InputError
from imdy_plugin.runs import runs

if TYPE_CHECKING:
    from imdy_plugin.solvers.multibody.mechanics import BodyMechanics

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

SOLE_POINT_NAMES = ("heel_back", "heel_lateral", "heel_medial", "fifth_metatarsal", "first_metatarsal", "toe_lateral", "toe_tip")
"""Points of a sole, in the order of every array here."""

_OUTLINE = np.array([(0.0, 0.0), (0.10, 0.12), (0.10, -0.10), (0.85, 0.22), (1.00, -0.18), (1.10, 0.15), (1.20, -0.05)])
"""The part of the sole that carries load, forward and lateral, in units of the distance from the heel body's origin to the toe joint.

It is smaller than the foot: measured centres of pressure stay away from the back of the heel, the edges and the tips of the toes.
"""

_ON_TOES = np.array([name.startswith("toe") for name in SOLE_POINT_NAMES])
_DEFAULT_TOE_DISTANCE = 0.18
_LEAST_SCORE = 0.01


@dataclass(frozen=True)
class Sole:
    """The sole of one foot.

    Attributes
    ----------
    body
        Hind-foot body, on which the ground acts.
    bodies
        Body of each point, ``(point,)``: the hind foot or the toes.
    location
        Location of each point in its body [m], ``(point, 3)``.
    """

    body: str
    bodies: tuple[str, ...]
    location: Array


@dataclass(frozen=True)
class ContactThresholds:
    """When a sole point counts as touching.

    Attributes
    ----------
    height
        Height above the floor [m] at which the contact score has fallen to one half.
    speed, relative_speed
        Speed relative to the ground at which the contact score has fallen to one half: the larger of ``speed`` [m/s] and
        ``relative_speed`` times the speed that the heels have in swing, because smoothing smears the jolt of a landing.
    shortest
        Shortest contact and shortest gap [s] that are believed.
    """

    height: float = 0.045
    speed: float = 0.6
    relative_speed: float = 0.15
    shortest: float = 0.06


@dataclass(frozen=True)
class Contact:
    """Where, when and on what the feet stand.

    Attributes
    ----------
    touching
        ``(time, foot)``.
    score
        How surely each sole point touches, ``(time, foot, point)``: above 0 and at most 1, zero where its foot does not.
    floor_height
        Height of the floor [m].
    ground_velocity
        Horizontal velocity of the ground [m/s], ``(3,)``; not zero on a treadmill.
    """

    touching: Mask
    score: Array
    floor_height: float
    ground_velocity: Array


def sole_points(mechanics: BodyMechanics) -> tuple[Sole, ...]:
    """Place the sole points of both feet, right foot first.

    The outline is scaled by the distance from the heel body's origin to the toe joint, which OpenSim's scaling sets to the person's
    foot. A model without toes gets a foot of average length. A model whose foot bodies have their origins elsewhere (in the ankle) says
    where the heel is: ``attrs["heel_points"]``, and which bodies are the toes: ``attrs["toe_bodies"]``.

    Raises
    ------
    InputError
        The model has no pair of feet.
    """
    if not mechanics.foot_bodies:
        raise InputError("the model has no feet that are known by name (calcn_r and calcn_l); give a model with feet to find where the ground acts")
    return tuple(_sole(mechanics, body, lateral) for body, lateral in zip(mechanics.foot_bodies, (1.0, -1.0), strict=True))


def _sole(mechanics: BodyMechanics, foot: str, lateral: float) -> Sole:
    toes, start = _toes_and_start(mechanics, foot)
    has_toes = toes in mechanics.bodies and toes != foot
    joint = _origin_in(mechanics, foot, toes) - start if has_toes else np.array([_DEFAULT_TOE_DISTANCE, 0.0, 0.0])
    length = float(np.hypot(joint[0], joint[2]))
    forward = np.array([joint[0], 0.0, joint[2]]) / length
    sideways = lateral * np.array([-forward[2], 0.0, forward[0]])
    location = length * (_OUTLINE[:, :1] * forward + _OUTLINE[:, 1:] * sideways)
    on_toes = _ON_TOES & has_toes
    location[on_toes] -= joint
    location[~on_toes] += start
    return Sole(foot, tuple(toes if t else foot for t in on_toes), location)


def _toes_and_start(mechanics: BodyMechanics, foot: str) -> tuple[str, Array]:
    """The body of a foot's toes, and where its sole starts at the heel [m]: in the foot's origin, unless the model says otherwise."""
    told: tuple[str, Array] | None = getattr(mechanics, "sole_starts", {}).get(foot)
    if told is not None:
        return told
    return foot.replace("calcn", "toes").replace("foot", "toes"), np.zeros(3)


def _origin_in(mechanics: BodyMechanics, body: str, other: str) -> Array:
    """Origin of another body, in a body's frame, with all coordinates zero."""
    zero = np.zeros((1, len(mechanics.coordinates)))
    frame = mechanics.point_kinematics(zero, zero, zero, body, np.vstack([np.zeros(3), np.eye(3)]))[0][0]
    origin = mechanics.point_kinematics(zero, zero, zero, other, np.zeros((1, 3)))[0][0, 0]
    return np.asarray((frame[1:] - frame[0]) @ (origin - frame[0]))


def sole_motion(mechanics: BodyMechanics, q: Array, qd: Array) -> tuple[Array, Array]:
    """Position [m] and velocity [m/s] of all sole points in ground, each ``(time, foot, point, 3)``, right foot first."""
    soles = sole_points(mechanics)
    bodies = [body for sole in soles for body in sole.bodies]
    position, velocity, _ = mechanics.point_kinematics(q, qd, np.zeros_like(q), bodies, np.concatenate([sole.location for sole in soles]))
    shape = len(q), len(soles), len(SOLE_POINT_NAMES), 3
    return position.reshape(shape), velocity.reshape(shape)


def resting_height(height: Array, quantile: float = 0.05, spread: float = 0.03) -> Array:
    """Estimate how high each sole point is above the ground frame's origin when it stands [m].

    Feet of models are pitched against the real soles and shoes have heels, so points of one foot do not rest at one height: each has
    its own, the low ``quantile`` of its heights. A foot that never comes down is held to the other one: the same point of two feet rests
    within ``spread``.

    Parameters
    ----------
    height
        Heights of sole points [m], ``(time, foot, point)``.
    quantile
        Part of the frames in which a point may lie lower.
    spread
        Largest believed difference between two feet [m].

    Returns
    -------
    numpy.ndarray
        ``(foot, point)``.
    """
    own = np.nanquantile(height, quantile, axis=0)
    lowest = own.min(axis=0, keepdims=True)
    return np.where(own - lowest > spread, lowest, own)


def floor_height(height: Array) -> float:
    """Estimate the height of the floor [m] from the heights of sole points ``(time, foot, point)``: the middle of where they rest."""
    return float(np.median(resting_height(height)))


def ground_velocity(height: Array, velocity: Array, thresholds: ContactThresholds | None = None) -> Array:
    """Estimate the horizontal velocity of the ground [m/s] as the one that low sole points most often have.

    Parameters
    ----------
    height
        Heights of sole points above where they rest [m], ``(time, foot, point)``.
    velocity
        Their velocities [m/s], ``(time, foot, point, 3)``.
    thresholds
        When a point is low; by default :class:`ContactThresholds`.

    Returns
    -------
    numpy.ndarray
        ``(3,)``, vertical component zero; zero below walking pace of a very slow belt (0.25 m/s), which is a person at rest.
    """
    limits = thresholds or ContactThresholds()
    low = (height < limits.height) & (np.abs(velocity[..., 1]) < limits.speed)
    candidates = velocity[low][:, [0, 2]]
    if not len(candidates):
        return np.zeros(3)
    mode = _densest(candidates, limits.speed / 2)
    return np.array([mode[0], 0.0, mode[1]]) if np.hypot(*mode) > 0.25 else np.zeros(3)


def _densest(points: Array, width: float, count: int = 2000) -> Array:
    """Find the mode of points ``(n, 2)`` by mean shift from the point with most neighbours, ever narrower."""
    sample = points[:: max(1, len(points) // count)]
    center = sample[np.argmax(_neighbours(sample, width))]
    for narrower in np.geomspace(width, width / 4, 20):
        weight = np.exp(-(np.linalg.norm(points - center, axis=1) ** 2) / narrower**2)
        center = (weight[:, None] * points).sum(axis=0) / weight.sum()
    return np.asarray(center)


def _neighbours(points: Array, width: float, rows: int = 64) -> Array:
    """How many points ``(n, 2)`` lie about each one, by a Gaussian bell of this width; a few rows of all pairs at a time, which fit a cache."""
    scaled = points / width
    x, z = scaled.T
    count = np.empty(len(points))
    for start in range(0, len(points), rows):
        part = slice(start, start + rows)
        apart = (x[part, None] - x) ** 2 + (z[part, None] - z) ** 2
        count[part] = np.exp(-apart).sum(axis=1)
    return count


def detect_contact(time: Array, position: Array, velocity: Array, thresholds: ContactThresholds | None = None, floor: float | None = None) -> Contact:
    """Find when each foot touches the ground.

    Parameters
    ----------
    time
        ``(time,)`` [s].
    position, velocity
        Of sole points in ground [m], [m/s], ``(time, foot, point, 3)``, as :func:`sole_motion` gives them.
    thresholds
        By default :class:`ContactThresholds`.
    floor
        Height of the floor [m] where it is known; then points that rest higher do not touch.

    Returns
    -------
    Contact
    """
    limits = thresholds or ContactThresholds()
    rest = resting_height(position[..., 1])
    height = float(np.median(rest)) if floor is None else floor
    above = position[..., 1] - np.minimum(rest, height + limits.height)
    ground = ground_velocity(above, velocity, limits)
    swing = float(np.nanquantile(np.linalg.norm(velocity[:, :, 0] - ground, axis=-1), 0.95))
    limits = replace(limits, speed=max(limits.speed, limits.relative_speed * swing))
    score = contact_score(above, velocity, ground, limits)
    touching = np.stack([believed_contact(score[:, foot].max(axis=1), time, limits.shortest) for foot in range(score.shape[1])], axis=1)
    return Contact(touching, np.where(touching[..., None], np.maximum(score, _LEAST_SCORE), 0.0), height, ground)


def contact_score(height: Array, velocity: Array, ground: Array, thresholds: ContactThresholds | None = None) -> Array:
    """Score between 0 and 1 how surely each sole point touches, ``(time, foot, point)``.

    A product of two smooth steps, one in the height, one in the speed relative to the ground.

    Parameters
    ----------
    height, velocity
        Of sole points, above where they rest [m], [m/s].
    ground
        Velocity of the ground [m/s], ``(3,)``.
    thresholds
        By default :class:`ContactThresholds`.
    """
    limits = thresholds or ContactThresholds()
    speed = np.linalg.norm(velocity - ground, axis=-1)
    return _fall(height / limits.height) * _fall(speed / limits.speed)


def _fall(ratio: Array) -> Array:
    """Smooth step from 1 to 0, one half at ``ratio`` 1."""
    return 1.0 / (1.0 + np.maximum(ratio, 0.0) ** 4)


def believed_contact(score: Array, time: Array, shortest: float) -> Mask:
    """Contact ``(time,)`` where a score ``(time,)`` is above one half, without gaps and then without touches shorter than ``shortest`` [s]."""
    touching = ~_without_short_runs(~(score > 0.5), time, shortest)
    return _without_short_runs(touching, time, shortest)


def _without_short_runs(mask: Mask, time: Array, shortest: float) -> Mask:
    """Clear runs of True shorter than ``shortest`` seconds, except those cut by an end of the trial."""
    kept = mask.copy()
    step = float(np.median(np.diff(time))) if len(time) > 1 else 0.0
    for start, stop in runs(mask):
        inside = start > 0 and stop < len(mask)
        if inside and (stop - start) * step < shortest:
            kept[start:stop] = False
    return kept


def loading(touching: Mask, time: Array, transition: float) -> Array:
    """Factor ``(time, foot)`` that rises smoothly from 0 to 1 over ``transition`` seconds after a foot lands, and falls so before it lifts."""
    factor = np.where(touching, 1.0, 0.0)
    for foot in range(touching.shape[1]):
        for start, stop in runs(touching[:, foot]):
            inside = time[start:stop]
            since = inside - (time[start - 1] + time[start]) / 2 if start else np.inf
            left = (time[stop - 1] + time[stop]) / 2 - inside if stop < len(time) else np.inf
            part = np.clip(np.minimum(since, left) / max(transition, 1e-9), 0.0, 1.0)
            factor[start:stop, foot] = part**2 * (3 - 2 * part)
    return factor


def nearest_in_hull(point: Array, corners: Array) -> Array:
    """Move horizontal points into the convex hull of corners by the shortest way.

    Parameters
    ----------
    point
        ``(time, 2)``.
    corners
        ``(time, corner, 2)``, in any order, two at least.

    Returns
    -------
    numpy.ndarray
        ``(time, 2)``; the points themselves where they are inside.
    """
    first, second = np.triu_indices(corners.shape[1], 1)
    a, b = corners[:, first], corners[:, second]
    along = b - a
    length = np.maximum((along**2).sum(axis=2), 1e-12)
    position = np.clip(((point[:, None] - a) * along).sum(axis=2) / length, 0.0, 1.0)
    foot = a + position[..., None] * along
    distance = np.linalg.norm(foot - point[:, None], axis=2)
    nearest = foot[np.arange(len(point)), np.argmin(distance, axis=1)]
    return np.where(inside_hull(point, corners)[:, None], point, nearest)


def inside_hull(point: Array, corners: Array) -> Mask:
    """Whether horizontal points ``(time, 2)`` lie in the convex hull of corners ``(time, corner, 2)``: no half plane is free of corners."""
    toward = corners - point[:, None]
    angle = np.sort(np.arctan2(toward[..., 1], toward[..., 0]), axis=1)
    gap = np.diff(np.concatenate([angle, angle[:, :1] + 2 * np.pi], axis=1), axis=1)
    return np.asarray(gap.max(axis=1) <= np.pi)


def keep_in_sole(center_of_pressure: Array, sole: Array) -> Array:
    """Move centres of pressure ``(time, 3)`` into the outline of a sole ``(time, point, 3)`` horizontally by the shortest way; height is kept."""
    kept = center_of_pressure.copy()
    kept[:, [0, 2]] = nearest_in_hull(center_of_pressure[:, [0, 2]], sole[..., [0, 2]])
    return kept
