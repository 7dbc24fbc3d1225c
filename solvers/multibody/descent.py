"""Damped Gauss-Newton descent of a marker problem, all frames at once (Levenberg 1944, Marquardt 1963; limits as Bertsekas 1982).

Frames do not wait for one another: those that are finished leave the batch. A frame whose steps shrink keeps its factorized
normal matrix (the chord method), since only the right-hand side decides where it ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imdy_plugin.solvers.multibody.marker_problem import MarkerProblem

MAX_STEPS = 100
"""Most steps of one frame."""

_FIRST_DAMPING, _LEAST_DAMPING = 1e-6, 1e-9
_KEEPS_FACTOR = 0.02
"""Largest step [rad or m] after which a frame's normal matrix is not computed anew."""


@dataclass(frozen=True)
class Descent:
    """Where the frames ended.

    Attributes
    ----------
    q
        ``(coordinate, frame)``.
    cost
        Weighted sum of squares ``(frame,)``.
    steps
        Number of steps ``(frame,)``.
    converged
        Whether the last step was shorter than asked ``(frame,)``.
    """

    q: Tensor
    cost: Tensor
    steps: Tensor
    converged: Tensor


def descend(problem: MarkerProblem, q: Tensor, frames: Tensor, accuracy: float, columns: Tensor | None = None, max_steps: int = MAX_STEPS) -> Descent:
    """Best poses near ``q``.

    Parameters
    ----------
    problem
        Markers of all frames.
    q
        Where to start ``(coordinate, start)``.
    frames
        The frame that each start is for ``(start,)``.
    accuracy
        A frame is finished when no coordinate moves by more than this [rad or m].
    columns
        Whether each free coordinate may move ``(free,)``; all by default.
    max_steps
        Most steps.
    """
    q, count = problem.lawful(q), len(frames)
    result = Descent(
        q.clone(), q.new_empty(count), torch.zeros(count, dtype=torch.long, device=q.device), torch.zeros(count, dtype=torch.bool, device=q.device)
    )
    still = None if columns is None else ~columns
    active = torch.arange(count, device=q.device)
    at = problem.linearize(q, frames)
    damping = q.new_full((count,), _FIRST_DAMPING)
    cost, descent, normal = at.cost, at.descent, at.normal
    assert normal is not None
    factor, blocked = _factorize(problem, q, descent, normal, damping, still)
    for step in range(1, max_steps + 1):
        change = _solve(factor, descent, blocked)
        candidate = q.clone()
        candidate[problem.free] += change
        candidate = problem.lawful(candidate)
        moved = (candidate - q)[problem.free].abs().amax(dim=0)
        keeps = bool((moved < _KEEPS_FACTOR).all())
        new = problem.linearize(candidate, frames, matrix=not keeps)
        better = new.cost <= cost * (1 + 1e-12)
        finished = moved < accuracy
        damping = torch.where(better, (damping / 10.0).clamp(min=_LEAST_DAMPING), damping * 10.0)
        q = torch.where(better, candidate, q)
        cost, descent = torch.where(better, new.cost, cost), torch.where(better, new.descent, descent)
        done = finished | (step == max_steps)
        if bool(done.any()):
            ended = active[done]
            result.q[:, ended], result.cost[ended], result.steps[ended], result.converged[ended] = q[:, done], cost[done], step, finished[done]
        if bool(done.all()):
            break
        stay = ~done
        changed = _blocked(problem, q, descent, still) != blocked
        if new.normal is not None:
            normal = torch.where(better[:, None, None], new.normal, normal)
        if bool(done.any()):
            active, frames, q, cost, damping, better = active[stay], frames[stay], q[:, stay], cost[stay], damping[stay], better[stay]
            descent, normal, factor, blocked, changed = descent[:, stay], normal[stay], factor[stay], blocked[:, stay], changed[:, stay]
        if not keeps or not bool(better.all()) or bool(changed.any()):
            factor, blocked = _factorize(problem, q, descent, normal, damping, still)
    return result


def _blocked(problem: MarkerProblem, q: Tensor, descent: Tensor, still: Tensor | None) -> Tensor:
    """Coordinates ``(free, frame)`` that may not move: held ones, and those at a limit that are drawn across it."""
    value = q[problem.free]
    out = ((value <= problem.lower) & (descent < 0)) | ((value >= problem.upper) & (descent > 0))
    return out if still is None else out | still[:, None]


def _factorize(problem: MarkerProblem, q: Tensor, descent: Tensor, normal: Tensor, damping: Tensor, still: Tensor | None) -> tuple[Tensor, Tensor]:
    """Cholesky factors of the damped normal matrices, rows and columns of blocked coordinates made those of the identity."""
    blocked = _blocked(problem, q, descent, still)
    matrix = normal.clone()
    if bool(blocked.any()):
        free = (~blocked).to(matrix.dtype).mT
        matrix = matrix * free[:, :, None] * free[:, None, :]
        matrix.diagonal(dim1=1, dim2=2).add_(1.0 - free)
    matrix.diagonal(dim1=1, dim2=2).mul_(1.0 + damping[:, None])
    return torch.linalg.cholesky_ex(matrix)[0], blocked


def _solve(factor: Tensor, descent: Tensor, blocked: Tensor) -> Tensor:
    right = torch.where(blocked, 0.0, descent).mT[..., None]
    return torch.cholesky_solve(right, factor)[..., 0].mT
