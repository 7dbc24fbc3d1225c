"""Damped descent of a marker problem, all frames at once: Gauss-Newton from afar, Newton near the end.

Sources: Levenberg 1944, Marquardt 1963; limits as Bertsekas 1982.

Frames do not wait for one another: those that are finished leave the batch. A frame whose steps shrink keeps its factorized
normal matrix (the chord method), since only the right-hand side decides where it ends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from imdy_plugin.solvers.multibody.marker_problem import Linearization, MarkerProblem, Measured

MAX_STEPS = 60
"""Most steps of one frame."""

_FIRST_DAMPING, _LIGHT = 1e-6, 1e-5
"""Damping, relative to the diagonal, of a step that is not doubted, and of the first after one that failed."""

_FAR, _HEAVY = 0.3, 1e-2
"""Step [rad or m] that leads far, and the damping after one such that failed."""

_DOUBTED = 1.0
"""Damping from which a short step says nothing about how far the end is."""

_SETTLING = 0.2
"""Largest last step [rad or m] from which the second derivative is used in full, as Newton does: far away it misleads."""

_SLOW = 0.3
"""Ratio of two steps above which a kept factor has served its time."""

_FLATTEST = 1e-6
"""Least curvature in any direction, relative to the largest."""

_FASTEST = 0.05
"""Least ratio of two steps that is believed when the way that is left is estimated from them."""

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
        Whether what is left to go was less than asked ``(frame,)``, by the last two steps.
    """

    q: Tensor
    cost: Tensor
    steps: Tensor
    converged: Tensor


def descend(
    problem: MarkerProblem, q: Tensor, frames: Tensor, accuracy: float, columns: Tensor | None = None, max_steps: int = MAX_STEPS, *, near: bool = False
) -> Descent:
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
    near
        Whether the starts are within :data:`_SETTLING` of the end, so that the first step too can be Newton's.
    """
    q, count = problem.lawful(q), len(frames)
    result = Descent(
        q.clone(), q.new_empty(count), torch.zeros(count, dtype=torch.long, device=q.device), torch.zeros(count, dtype=torch.bool, device=q.device)
    )
    still = None if columns is None else ~columns
    measured = problem.measured(frames)
    moved = q.new_full((count,), 0.0 if near else torch.inf)
    row = _Rows.of(q, measured, problem.linearize(q, measured, moved < _SETTLING))
    factor, blocked = _factorize(problem, row, still)
    for step in range(1, max_steps + 1):
        candidate = _stepped(problem, row, factor, blocked)
        moved = (candidate - row.q)[problem.free].abs().amax(dim=0)
        small = bool((moved < _KEEPS_FACTOR).all())
        new = problem.linearize(candidate, row.measured, None if small else moved < _SETTLING)
        better = new.cost <= row.cost * (1 + 1e-12)
        ratio = moved / row.moved
        left = torch.where(ratio < 0.5, moved * (ratio / (1.0 - ratio)).clamp(min=_FASTEST), moved)
        converged = (left < accuracy) & (better | (row.damping < _DOUBTED))
        heavy, slow = bool((row.damping >= _LIGHT).any()), small & (ratio > _SLOW)
        row = row.accepted(problem, candidate, new, better, moved)
        done = converged | (step == max_steps)
        if bool(done.any()):
            ended = row.index[done]
            result.q[:, ended], result.cost[ended], result.steps[ended], result.converged[ended] = row.q[:, done], row.cost[done], step, converged[done]
            if bool(done.all()):
                break
            row, factor, blocked, better, slow = row.at(~done), factor[~done], blocked[:, ~done], better[~done], slow[~done]
        if bool(slow.any()):
            row = row.renewed(problem, slow)
        if not small or heavy or bool(slow.any()) or not bool(better.all()) or bool((_blocked(problem, row, still) != blocked).any()):
            factor, blocked = _factorize(problem, row, still)
    return result


@dataclass(frozen=True)
class _Rows:
    """Frames that are still on their way: their place in the result, what was measured, pose, linearization, damping and last step."""

    index: Tensor
    measured: Measured
    q: Tensor
    cost: Tensor
    descent: Tensor
    matrix: Tensor
    scale: Tensor
    damping: Tensor
    moved: Tensor

    @classmethod
    def of(cls, q: Tensor, measured: Measured, at: Linearization) -> _Rows:
        assert at.matrix is not None and at.scale is not None
        damping, moved = torch.full_like(at.cost, _FIRST_DAMPING), torch.full_like(at.cost, torch.inf)
        return cls(torch.arange(q.shape[1], device=q.device), measured, q, at.cost, at.descent, at.matrix, at.scale, damping, moved)

    def at(self, chosen: Tensor) -> _Rows:
        return _Rows(
            self.index[chosen],
            self.measured.at(chosen),
            self.q[:, chosen],
            self.cost[chosen],
            self.descent[:, chosen],
            self.matrix[chosen],
            self.scale[:, chosen],
            self.damping[chosen],
            self.moved[chosen],
        )

    def renewed(self, problem: MarkerProblem, chosen: Tensor) -> _Rows:
        """With the second derivatives of the chosen frames computed anew."""
        near = self.moved[chosen] < _SETTLING
        fresh = problem.linearize(self.q[:, chosen], self.measured.at(chosen), near)
        matrix, scale = self.matrix.clone(), self.scale.clone()
        assert fresh.matrix is not None and fresh.scale is not None
        matrix[chosen], scale[:, chosen] = fresh.matrix, fresh.scale
        return replace(self, matrix=matrix, scale=scale)

    def accepted(self, problem: MarkerProblem, q: Tensor, new: Linearization, better: Tensor, moved: Tensor) -> _Rows:
        """Where the step was ``better`` it is taken, elsewhere not; the damping follows from how well the fall was foretold (Nielsen 1999)."""
        step = (q - self.q)[problem.free]
        foretold = (step * (self.descent + self.damping * self.scale * step)).sum(dim=0)
        gain = (self.cost - new.cost) / foretold.clamp(min=1e-300)
        lessened = (self.damping * (1.0 - (2.0 * gain - 1.0) ** 3).clamp(0.3, 2.0)).clamp(min=_FIRST_DAMPING)
        least = torch.where((moved > _FAR) & (self.damping < _LIGHT), _HEAVY, _LIGHT).to(moved)
        damping = torch.where(better, lessened, torch.maximum(self.damping * 5.0, least))
        matrix, scale = self.matrix, self.scale
        if new.matrix is not None and new.scale is not None:
            all_better = bool(better.all())
            matrix = new.matrix if all_better else torch.where(better[:, None, None], new.matrix, matrix)
            scale = new.scale if all_better else torch.where(better, new.scale, scale)
        q, cost, descent = torch.where(better, q, self.q), torch.where(better, new.cost, self.cost), torch.where(better, new.descent, self.descent)
        return _Rows(self.index, self.measured, q, cost, descent, matrix, scale, damping, torch.where(better, moved, torch.inf))


def _stepped(problem: MarkerProblem, row: _Rows, factor: Tensor, blocked: Tensor) -> Tensor:
    right = torch.where(blocked, 0.0, row.descent)
    step = torch.cholesky_solve(right.mT[..., None], factor)[..., 0].mT
    value = row.q[problem.free]
    across = ((value + step < problem.lower) | (value + step > problem.upper)) & ~blocked
    rows = across.any(dim=0)
    if bool(rows.any()):
        to_limit = torch.where(across, torch.clamp(value + step, problem.lower, problem.upper) - value, 0.0)[:, rows]
        step[:, rows] = _within_limits(factor[rows], right[:, rows], to_limit, (across | blocked)[:, rows])
    candidate = row.q.clone()
    candidate[problem.free] += step
    return problem.lawful(candidate)


def _within_limits(factor: Tensor, right: Tensor, to_limit: Tensor, held: Tensor) -> Tensor:
    """Steps ``(free, frame)`` that end at the limits that they would cross, and are best for the other coordinates then."""
    matrix = factor @ factor.mT
    right = torch.where(held, 0.0, right - (matrix @ to_limit.mT[..., None])[..., 0].mT)
    factor = torch.linalg.cholesky_ex(_without(matrix, held))[0]
    return torch.cholesky_solve(right.mT[..., None], factor)[..., 0].mT + to_limit


def _without(matrix: Tensor, held: Tensor) -> Tensor:
    """Matrices with the rows and columns of ``held (free, frame)`` made those of the identity."""
    free = (~held).to(matrix.dtype).mT
    out = matrix * free[:, :, None] * free[:, None, :]
    out.diagonal(dim1=1, dim2=2).add_(1.0 - free)
    return out


def _blocked(problem: MarkerProblem, row: _Rows, still: Tensor | None) -> Tensor:
    """Coordinates ``(free, frame)`` that may not move: held ones, and those at a limit that are drawn across it."""
    value = row.q[problem.free]
    out = ((value <= problem.lower) & (row.descent < 0)) | ((value >= problem.upper) & (row.descent > 0))
    return out if still is None else out | still[:, None]


def _factorize(problem: MarkerProblem, row: _Rows, still: Tensor | None) -> tuple[Tensor, Tensor]:
    """Cholesky factors of the damped normal matrices, rows and columns of blocked coordinates made those of the identity."""
    blocked = _blocked(problem, row, still)
    matrix = _without(row.matrix, blocked) if bool(blocked.any()) else row.matrix.clone()
    damped = (row.damping * row.scale).mT
    light = not bool((row.damping > _FIRST_DAMPING).any())
    if light:
        matrix.diagonal(dim1=1, dim2=2).add_(damped)
    factor, failed = torch.linalg.cholesky_ex(matrix)
    bent = failed != 0
    if bool(bent.any()):
        matrix[bent] = _bent_up(matrix[bent], row.scale[:, bent])
    if not light:
        matrix.diagonal(dim1=1, dim2=2).add_(damped)
    if not light or bool(bent.any()):
        factor = torch.linalg.cholesky_ex(matrix)[0]
    return factor, blocked


def _bent_up(matrix: Tensor, scale: Tensor) -> Tensor:
    """Matrices made positive: what curves down is taken to curve up as much, so that a step leads out of a ridge.

    Coordinates are measured by their ``scale (free, frame)``, lest a heavy one hide what curves little.
    """
    unit = scale.mT.clamp(min=1e-12).sqrt()
    size, direction = torch.linalg.eigh(matrix / unit[:, :, None] / unit[:, None, :])
    direction, size = unit[:, :, None] * direction, torch.maximum(size.abs(), _FLATTEST * size[:, -1:])
    bent: Tensor = (direction * size[:, None]) @ direction.mT
    return bent
