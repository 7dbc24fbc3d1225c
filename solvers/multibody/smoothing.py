"""Marker fits in which accelerations cost something: frames are no longer sought one by one, but stretch by stretch."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray

from imdy_plugin.errors import DataWarning
from imdy_plugin.solvers.multibody.marker_problem import MarkerProblem

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int_]
BoolArray = NDArray[np.bool_]

WINDOW, OVERLAP = 600, 100
"""Frames that are solved together, and those at its start that only lead in; what is further away is not felt."""

_MAX_STEPS = 30
"""Most steps of a window."""


def smooth_fit(problem: MarkerProblem, time: FloatArray, q: FloatArray, frames: IntArray, weight: float, accuracy: float) -> tuple[FloatArray, BoolArray]:
    """Coordinates ``(frame, coordinate)`` that bring markers near and accelerate little.

    To the weighted sum of squared marker distances, each frame adds ``weight`` times the sum of its squared accelerations, from
    second differences of the coordinates. Damped Gauss-Newton on all frames of a window; the normal matrix is banded.

    Parameters
    ----------
    problem
        Markers of all frames.
    time
        ``(time,)`` [s].
    q
        Where to start ``(frame, coordinate)``, near the answer without smoothing.
    frames
        Which frames these are.
    weight
        Of squared accelerations [m^2 s^4/rad^2].
    accuracy
        A window is finished when no coordinate moves by more than this [rad or m].

    Returns
    -------
    coordinates, settled
        ``settled (frame,)`` says which came to rest.

    Warns
    -----
    DataWarning
        Frames did not come to rest: the weight is so large that the markers hardly count.
    """
    out, settled = q.copy(), np.ones(len(frames), bool)
    for first in range(0, len(frames), WINDOW - OVERLAP):
        part = slice(first, first + WINDOW)
        new, at_rest = _smooth_window(problem, time[frames[part]], out[part], frames[part], weight, accuracy)
        keep = OVERLAP // 2 if first else 0
        kept = slice(first + keep, first + len(new))
        out[kept], settled[kept] = new[keep:], at_rest
        if first + WINDOW >= len(frames):
            break
    if not settled.all():
        restless = time[frames[~settled]]
        text = f"frames of {restless[0]:g} to {restless[-1]:g} s did not come to rest under a smoothing of {weight:g}"
        warnings.warn(f"{text}; give a smaller weight", DataWarning, stacklevel=2)
    return out, settled


def _smooth_window(problem: MarkerProblem, time: FloatArray, q: FloatArray, frames: IntArray, weight: float, accuracy: float) -> tuple[FloatArray, bool]:
    """Coordinates of a window, and whether they came to rest."""
    from scipy.linalg import solveh_banded

    free = problem.free.cpu().numpy()
    if len(time) < 3:
        return q, True
    second = _second_differences(time)
    measured = problem.measured(torch.as_tensor(frames, device=problem.body.device))
    plain = torch.zeros(len(frames), dtype=torch.bool, device=problem.body.device)
    penalty = weight * second.T @ second
    lower, upper = (bound[:, 0].cpu().numpy() for bound in (problem.lower, problem.upper))
    cost, damping, best, candidate = np.inf, 0.0, q, q
    for _ in range(_MAX_STEPS):
        with torch.no_grad():
            at = problem.linearize(problem.body.tensor(candidate).mT, measured, plain)
        assert at.matrix is not None
        value = candidate[:, free]
        now = float(at.cost.sum()) + weight * float(((second @ value) ** 2).sum())
        if now > cost * (1.0 + 1e-12):
            damping = max(10.0 * damping, 1e-3)
        else:
            moved = np.abs(candidate - best).max() if np.isfinite(cost) else np.inf
            best, cost, damping = candidate, now, damping / 10.0
            descent = at.descent.mT.cpu().numpy() - penalty @ value
            normal = at.matrix.cpu().numpy()
            if moved < accuracy:
                return best, True
        blocked = ((best[:, free] <= lower) & (descent < 0)) | ((best[:, free] >= upper) & (descent > 0))
        band = _banded(normal, penalty, damping, blocked)
        step = solveh_banded(band, np.where(blocked, 0.0, descent).ravel(), lower=True, overwrite_ab=True, check_finite=False).reshape(value.shape)
        candidate = best.copy()
        candidate[:, free] = np.clip(best[:, free] + step, lower, upper)
        with torch.no_grad():
            candidate = problem.lawful(problem.body.tensor(candidate).mT).mT.cpu().numpy()
    return best, False


def _second_differences(time: FloatArray) -> FloatArray:
    """Matrix ``(frame - 2, frame)`` that gives the accelerations at the inner frames."""
    before, after = np.diff(time)[:-1], np.diff(time)[1:]
    out = np.zeros((len(time) - 2, len(time)))
    inner = np.arange(len(time) - 2)
    out[inner, inner] = 2.0 / (before * (before + after))
    out[inner, inner + 1] = -2.0 / (before * after)
    out[inner, inner + 2] = 2.0 / (after * (before + after))
    return out


def _banded(normal: FloatArray, penalty: FloatArray, damping: float, blocked: NDArray[np.bool_]) -> FloatArray:
    """Lower band of the normal matrix of all frames: blocks of the markers, and diagonals that join each frame to the next two."""
    frames, count = blocked.shape
    band = np.zeros((2 * count + 1, frames * count))
    grid = band.reshape(2 * count + 1, frames, count)
    held = blocked[:, :, None] | blocked[:, None, :]
    block = np.where(held, 0.0, normal)
    for offset in range(count):
        grid[offset, :, : count - offset] = np.diagonal(block, -offset, axis1=1, axis2=2)
    grid[0] *= 1.0 + damping
    for lag in range(3):
        joined = np.diagonal(penalty, -lag)[:, None] * ~(blocked[lag:] | blocked[: frames - lag])
        grid[lag * count, : frames - lag] += joined
    grid[0] += blocked
    return band
