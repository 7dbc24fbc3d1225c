"""Share one ground wrench between two feet.

The whole-body equations of motion give the total force and moment that the ground must exert; with both feet down they do not say how
much of it each foot carries. Here the vertical force is spread over the sole points that touch, as evenly as their contact scores allow,
such that its centre is the zero-moment point (ZMP). That gives each foot's share and centre of pressure in one step: a foot on which the
ZMP lies carries all, a foot that is about to lift carries little. What no pressure under the soles can exert is carried as free moment,
and said.

References: Vukobratović M, Borovac B (2004) Int J Humanoid Robotics 1:157-173 (zero-moment point); Maus H-M et al. (2010) Nature
Communications 1:70 (ground forces point to a point above the centre of mass).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imdy_plugin.solvers.contact import nearest_in_hull

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_EXACT = 1e3
"""Weight of the zero-moment point against evenness, both without unit."""
_LENGTH = 0.1
"""Length [m] that makes a shift of the centre of pressure comparable with a share of the force."""


@dataclass(frozen=True)
class FootLoads:
    """What the ground exerts on each foot.

    Attributes
    ----------
    force
        ``(time, foot, 3)`` [N], zero where no foot touches.
    center_of_pressure
        ``(time, foot, 3)`` [m], on the floor; zero where the foot does not touch.
    free_moment
        Moment about the centre of pressure [N m], ``(time, foot, 3)``. Horizontal components are what the pressure could not carry.
    unexplained
        ``(time, 6)``: the part of the wanted wrench that is not exerted, about the ground origin. Zero wherever a foot touches, unless
        the feet were to carry only what pressure can exert.
    """

    force: Array
    center_of_pressure: Array
    free_moment: Array
    unexplained: Array


def zero_moment_point(wrench: Array, height: float) -> Array:
    """Point on the floor about which a wrench has no horizontal moment, ``(time, 3)`` [m]; NaN where the vertical force is zero.

    Parameters
    ----------
    wrench
        Force and moment about the ground origin, ``(time, 6)``.
    height
        Height of the floor [m].
    """
    force, moment = wrench[:, :3], wrench[:, 3:]
    with np.errstate(divide="ignore", invalid="ignore"):
        x = (moment[:, 2] + height * force[:, 0]) / force[:, 1]
        z = (height * force[:, 2] - moment[:, 0]) / force[:, 1]
    point = np.stack([x, np.full(len(wrench), height), z], axis=1)
    return np.where(np.isfinite(point).all(axis=1, keepdims=True), point, np.nan)


def spread_pressure(target: Array, points: Array, score: Array) -> Array:
    """Spread a unit of vertical force over sole points so that its centre comes as near to a target as it can.

    Minimises ``sum(share**2 / score)`` with ``share >= 0``, ``sum(share) = 1`` and the centre at the target; where the target is
    outside the points, the centre is the nearest one inside.

    Parameters
    ----------
    target
        Wanted centre, horizontal, ``(2,)`` [m].
    points
        ``(point, 2)`` [m].
    score
        Contact score of each point, ``(point,)``, at least one above zero.

    Returns
    -------
    numpy.ndarray
        ``(point,)``, sums to 1.
    """
    from scipy.optimize import nnls

    used = np.flatnonzero(score > 1e-3)
    offset = (points[used] - target).T / _LENGTH
    matrix = np.vstack([_EXACT * np.ones(len(used)), _EXACT * offset, np.diag(1.0 / np.sqrt(score[used]))])
    wanted = np.zeros(len(matrix))
    wanted[0] = _EXACT
    share = np.zeros(len(score))
    share[used] = nnls(matrix, wanted)[0]
    spread: Array = share / share.sum()
    return spread


def split_wrench(
    wrench: Array,
    sole: Array,
    score: Array,
    height: float,
    pivot: Array | None = None,
    *,
    target: Array | None = None,
    loading: Array | None = None,
    all_on_feet: bool = True,
) -> FootLoads:
    """Share a ground wrench between the feet so that the feet's loads sum to it exactly.

    Parameters
    ----------
    wrench
        Force and moment about the ground origin that the ground must exert, ``(time, 6)`` [N], [N m].
    sole
        Positions of sole points, ``(time, foot, point, 3)`` [m].
    score
        Contact scores of sole points, ``(time, foot, point)``, zero where the foot does not touch.
    height
        Height of the floor [m].
    pivot
        Point that each foot's force is taken to aim at, ``(time, 3)`` [m], such as the centre of mass; where None the horizontal
        force is shared as the vertical one.
    target
        Zero-moment point to share the vertical force by, ``(time, 3)`` [m], such as a smoother one; that of the wrench where None. The
        centres of pressure then move toward the wrench's own as far as the soles allow.
    loading
        Factor of each foot's share, ``(time, foot)``, zero at landing and lifting, above zero between; the other foot takes the rest. None for 1.
    all_on_feet
        Whether the feet also carry, as horizontal free moment, what no pressure under their soles can exert; otherwise it is unexplained.

    Returns
    -------
    FootLoads
        Where no foot touches, all zero and the wrench unexplained.
    """
    exact = zero_moment_point(wrench, height)
    share, pressure = _share_vertical(exact if target is None else target, sole, score)
    if loading is not None:
        share = _normalised(share * loading)
    if target is not None or loading is not None:
        pressure = _move_pressure(exact, share, pressure, sole, score)
    touching = share.sum(axis=1) > 0
    aim = None if pivot is None else pivot - np.array([0.0, height, 0.0])
    force = _share_force(wrench[:, :3], share, pressure, aim)
    center = np.concatenate([pressure[..., :1], np.where(share > 0, height, 0.0)[..., None], pressure[..., 1:]], axis=2)
    rest = np.where(touching[:, None], wrench[:, 3:] - np.cross(center, force).sum(axis=1), 0.0)
    unexplained = np.where(touching[:, None], 0.0, wrench)
    if not all_on_feet:
        unexplained[:, [3, 5]] += rest[:, [0, 2]]
        rest[:, [0, 2]] = 0.0
    return FootLoads(force, center, share[..., None] * rest[:, None], unexplained)


def _share_vertical(target: Array, sole: Array, score: Array) -> tuple[Array, Array]:
    """Share of each foot ``(time, foot)`` and its centre of pressure ``(time, foot, 2)``, both zero where it does not touch."""
    frames, feet, points = score.shape
    pressure = np.zeros((frames, feet * points))
    flat, place = score.reshape(frames, -1), sole[..., [0, 2]].reshape(frames, -1, 2)
    for frame in np.flatnonzero((flat > 1e-3).any(axis=1)):
        middle = flat[frame] @ place[frame] / flat[frame].sum()
        wanted = target[frame, [0, 2]] if np.isfinite(target[frame, 0]) else middle
        pressure[frame] = spread_pressure(wanted, place[frame], flat[frame])
    by_foot = pressure.reshape(frames, feet, points)
    share = by_foot.sum(axis=2)
    center = np.einsum("tfp,tfpc->tfc", by_foot, sole[..., [0, 2]]) / np.maximum(share, 1e-12)[..., None]
    return share, center


def _normalised(share: Array) -> Array:
    """Shares ``(time, foot)`` that sum to one, or are all zero."""
    return share / np.where(share.any(axis=1), share.sum(axis=1), 1.0)[:, None]


def _move_pressure(target: Array, share: Array, pressure: Array, sole: Array, score: Array) -> Array:
    """Move centres of pressure ``(time, foot, 2)`` alike, so that their common centre comes to the target, each within what touches of its sole."""
    shift = target[:, [0, 2]] - np.einsum("tf,tfc->tc", share, pressure)
    wanted = pressure + np.where(np.isfinite(shift), shift, 0.0)[:, None]
    best = np.take_along_axis(sole, score.argmax(axis=2)[..., None, None], axis=2)
    corners = np.where(score[..., None] > 0.1 * score.max(axis=2)[..., None, None], sole, best)[..., [0, 2]]
    moved = [nearest_in_hull(wanted[:, foot], corners[:, foot]) for foot in range(sole.shape[1])]
    return np.where(share[..., None] > 0, np.stack(moved, axis=1), pressure)


def _share_force(total: Array, share: Array, pressure: Array, pivot: Array | None) -> Array:
    """Forces of the feet ``(time, foot, 3)``: vertical by share, horizontal toward the pivot (from the floor), what is left of it by share."""
    force = share[..., None] * total[:, None]
    if pivot is None:
        return force
    lean = (pivot[:, None, [0, 2]] - pressure) / np.maximum(pivot[:, 1], 0.1)[:, None, None]
    aimed = lean * force[..., 1:2]
    missing = (total[:, [0, 2]] - aimed.sum(axis=1))[:, None]
    force[..., [0, 2]] = aimed + share[..., None] * missing
    return force
