"""How far a solution is from a reference: the error measures, on plain arrays.

Everything is per trial. Forces are ``(time, foot, axis)`` with feet right and left, in newtons and metres; torques are ``(time, coordinate)`` in
newton metres. A frame that a solution does not cover is NaN there, is left out of its errors, and counts against its coverage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

BODY_WEIGHT_GRAVITY = 9.81
"""Gravity that turns a mass into a body weight in the measures [m/s^2]."""

COP_SHARE = 0.05
"""Share of body weight above which a centre of pressure is compared."""

JOINTS = {
    "hip": ("hip_flexion_{side}", "hip_adduction_{side}", "hip_rotation_{side}"),
    "knee": ("knee_angle_{side}",),
    "ankle": ("ankle_angle_{side}",),
    "subtalar": ("subtalar_angle_{side}",),
    "lumbar": ("lumbar_extension", "lumbar_bending", "lumbar_rotation"),
}
"""Coordinates whose torques are scored, by joint; ``{side}`` stands for r and l."""

_GAP = 2.5
"""Median steps; a longer hole between two stamps of a solution is not bridged."""


@dataclass(frozen=True)
class Truth:
    """What is right, on its own time stamps.

    Attributes
    ----------
    force
        Ground force ``(time, foot, axis)`` [N], foot right then left.
    center_of_pressure
        ``(time, foot, axis)`` [m], NaN where it is not defined.
    contact
        Whether a foot touches, ``(time, foot)``.
    valid
        Frames on which forces are scored, ``(time,)``.
    mass
        Body mass [kg].
    contact_threshold
        Vertical force above which a solution counts as touching [N].
    coordinates, torque, valid_torque
        Names, joint torques ``(time, coordinate)`` [N m] and the frames on which they are scored; empty where there are none.
    """

    force: Array
    center_of_pressure: Array
    contact: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    mass: float
    contact_threshold: float
    coordinates: tuple[str, ...] = ()
    torque: Array | None = None
    valid_torque: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Solution:
    """What a solver says, on the time stamps of the truth; NaN where it says nothing. Shapes and units as in :class:`Truth`."""

    force: Array
    center_of_pressure: Array
    torque: Array | None = None


def zero_solution(truth: Truth) -> Solution:
    """No force and no torque anywhere: what a trial that fails is scored as."""
    torque = None if truth.torque is None else np.zeros_like(truth.torque)
    return Solution(np.zeros_like(truth.force), np.full_like(truth.center_of_pressure, np.nan), torque)


def score(truth: Truth, solution: Solution) -> dict[str, float]:
    """Every error measure of one trial.

    Returns
    -------
    dict
        ``force`` [N/kg], ``vertical`` [body weights], ``cop`` [mm], ``contact_f1``, ``coverage``; and, where both hold torques, ``torque``,
        ``torque_legs`` (without lumbar) and ``torque_norm`` [N m/kg], ``torque_<joint>`` by joint and ``coverage_torque``. NaN where a measure is
        not defined, such as a centre of pressure that is never compared.
    """
    scores = _score_force(truth, solution)
    if truth.torque is not None and solution.torque is not None:
        scores |= _score_torque(truth, solution)
    return scores


def _score_force(truth: Truth, solution: Solution) -> dict[str, float]:
    covered = np.isfinite(solution.force).all(axis=(1, 2))
    used = truth.valid & covered
    error = solution.force[used] - truth.force[used]
    weight = truth.mass * BODY_WEIGHT_GRAVITY
    return {
        "force": _mean(np.linalg.norm(error, axis=-1)) / truth.mass,
        "vertical": float(np.sqrt(_mean(error[..., 1] ** 2))) / weight,
        "cop": center_of_pressure_error(truth, solution, used),
        "contact_f1": contact_f1(truth.contact[used], solution.force[used][..., 1] > truth.contact_threshold),
        "coverage": _share(used, truth.valid),
    }


def center_of_pressure_error(truth: Truth, solution: Solution, used: NDArray[np.bool_]) -> float:
    """Mean horizontal distance [mm] over the frames and feet where both carry more than :data:`COP_SHARE` of body weight."""
    enough = COP_SHARE * truth.mass * BODY_WEIGHT_GRAVITY
    difference = (solution.center_of_pressure - truth.center_of_pressure)[..., [0, 2]]
    both = used[:, None] & (truth.force[..., 1] > enough) & (np.nan_to_num(solution.force[..., 1]) > enough)
    both &= np.isfinite(difference).all(axis=-1)
    return 1e3 * _mean(np.linalg.norm(difference[both], axis=-1))


def contact_f1(truth: NDArray[np.bool_], said: NDArray[np.bool_]) -> float:
    """Harmonic mean of precision and recall of contact over all frames and feet; NaN where neither ever touches."""
    hits = float((truth & said).sum())
    total = float(truth.sum() + said.sum())
    return 2.0 * hits / total if total else float("nan")


def _score_torque(truth: Truth, solution: Solution) -> dict[str, float]:
    assert truth.torque is not None and solution.torque is not None and truth.valid_torque is not None
    groups = joint_columns(truth.coordinates)
    columns = sorted(c for group in groups.values() for c in group)
    legs = sorted(c for name, group in groups.items() if not name.startswith("lumbar") for c in group)
    used = truth.valid_torque & np.isfinite(solution.torque[:, columns]).all(axis=1)
    error = np.abs(solution.torque[used] - truth.torque[used]) / truth.mass
    norms = [_mean(np.linalg.norm(error[:, group], axis=1)) for group in groups.values()]
    by_joint = {f"torque_{joint}": _mean(error[:, _of_joint(groups, joint)]) for joint in JOINTS}
    return {
        "torque": _mean(error[:, columns]),
        "torque_legs": _mean(error[:, legs]),
        "torque_norm": float(np.mean(norms)) if norms else float("nan"),
        **by_joint,
        "coverage_torque": _share(used, truth.valid_torque),
    }


def joint_columns(coordinates: Sequence[str]) -> dict[str, list[int]]:
    """Columns of the scored coordinates that exist, by joint and side: ``hip_r``, ``hip_l``, ..., ``lumbar``."""
    index = {name: i for i, name in enumerate(coordinates)}
    groups: dict[str, list[int]] = {}
    for joint, patterns in JOINTS.items():
        for side in ("r", "l") if "{side}" in patterns[0] else ("",):
            found = [index[n] for n in (p.format(side=side) for p in patterns) if n in index]
            if found:
                groups[f"{joint}_{side}".rstrip("_")] = found
    return groups


def scored_coordinates(coordinates: Sequence[str]) -> list[str]:
    """The names among ``coordinates`` whose torques are scored."""
    return [coordinates[c] for group in joint_columns(coordinates).values() for c in group]


def _of_joint(groups: dict[str, list[int]], joint: str) -> list[int]:
    return [c for name, group in groups.items() if name.partition("_")[0] == joint for c in group]


def sample(time: ArrayLike, values: ArrayLike, at: ArrayLike) -> Array:
    """Sample linearly at other time stamps; NaN outside the span, next to a NaN, and in holes longer than 2.5 median steps.

    Parameters
    ----------
    time
        Stamps of the values [s], ``(n,)``, increasing.
    values
        ``(n, ...)``.
    at
        Stamps wanted [s], ``(m,)``.

    Returns
    -------
    numpy.ndarray
        ``(m, ...)``. A stamp that is hit within a microsecond takes that frame alone, whatever its neighbours are.
    """
    t, y, x = np.asarray(time, float), np.asarray(values, float), np.asarray(at, float)
    if t.size < 2:
        return np.full((x.size, *y.shape[1:]), np.nan)
    left = np.clip(np.searchsorted(t, x, side="right") - 1, 0, t.size - 2)
    step = t[left + 1] - t[left]
    share = _snap((x - t[left]) / step, 1e-6 / step)
    shape = (-1, *([1] * (y.ndim - 1)))
    w = share.reshape(shape)
    low, high = y[left], y[left + 1]
    between = np.where(w == 0, low, np.where(w == 1, high, (1 - w) * low + w * high))
    inside = (share >= 0) & (share <= 1) & ((step <= _GAP * np.median(np.diff(t))) | (share == 0) | (share == 1))
    return np.where(inside.reshape(shape), between, np.nan)


def _snap(share: Array, tolerance: Array) -> Array:
    share = np.where(np.abs(share) < tolerance, 0.0, share)
    return np.where(np.abs(share - 1) < tolerance, 1.0, share)


def bootstrap_interval(values: Sequence[float], seed: int = 0, draws: int = 2000, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the mean by resampling the values (one per person) with replacement; NaN for fewer than two."""
    given = np.asarray(values, float)
    if given.size < 2:
        return float("nan"), float("nan")
    picks = np.random.default_rng(seed).integers(0, given.size, size=(draws, given.size))
    low, high = np.quantile(given[picks].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _mean(values: Array) -> float:
    return float(values.mean()) if values.size else float("nan")


def _share(used: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> float:
    return float(used.sum() / wanted.sum()) if wanted.any() else float("nan")
