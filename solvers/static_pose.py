"""The pose in which a person stood: one frame of weighted inverse kinematics, with coordinates drawn to values.

The problem is that of OpenSim's MarkerPlacer: half the mean of the markers' squared distances, weighted, plus half the weighted squared
distances of coordinates from what they are drawn to, within the limits of clamped coordinates, coupled ones following their leaders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imdy_plugin.errors import InputError, UnknownNameError

FloatArray = NDArray[np.float64]

MIN_MARKERS = 3
"""Fewest markers with a weight that place a body."""

_HOLD = 1e-9
"""Weight with which a coordinate that nothing tells stays at its default."""


@dataclass(frozen=True)
class StaticPose:
    """A pose and how well it fits.

    Attributes
    ----------
    value
        Value [rad or m] of each coordinate.
    position
        Where the model's markers are in ground ``(marker, 3)`` [m].
    cost
        What was minimised.
    """

    value: dict[str, float]
    position: FloatArray
    cost: float


def fit_pose(
    mechanics: Any, names: Sequence[str], measured: FloatArray, weights: FloatArray, targets: Mapping[str, tuple[float, float]] | None = None
) -> StaticPose:
    """Fit the model's pose to one frame of markers.

    Parameters
    ----------
    mechanics
        The model, as :class:`~imdy_plugin.solvers.opensim_mechanics.OpenSimMechanics`.
    names, measured
        Markers of the model and where they were ``(marker, 3)`` [m]; NaN where missing.
    weights
        Weight of each ``(marker,)``.
    targets
        For coordinates that are drawn to a value: that value [rad or m] and its weight.

    Raises
    ------
    InputError
        Fewer than :data:`MIN_MARKERS` markers have a weight and a place.
    UnknownNameError
        A target is for a coordinate that the model lacks.
    """
    problem = _Problem(mechanics, tuple(names), np.asarray(measured, float), np.asarray(weights, float), dict(targets or {}))
    poses = [problem.solve(start, problem.root) for start in problem.starts()] if problem.root.size else [problem.start]
    nearest = min(problem.cost(pose) for pose in poses)
    alike = [problem.unwound(pose) for pose in poses if problem.cost(pose) <= 1.01 * nearest + 1e-12]
    best = problem.solve(min(alike, key=problem.turning), problem.free)
    return StaticPose(dict(zip(mechanics.coordinates, best.tolist(), strict=True)), mechanics.marker_jacobian(best, names)[0], problem.cost(best))


def fit_poses(mechanics: Any, names: Sequence[str], measured: FloatArray, weights: FloatArray) -> FloatArray:
    """Poses ``(frame, coordinate)`` of several frames of markers ``(frame, marker, 3)`` [m], each searched from the one before.

    Where that leads to a fit twice as bad as the best so far, the frame is searched from nowhere.

    Raises
    ------
    InputError
        A frame shows fewer than :data:`MIN_MARKERS` markers that have a weight.
    """
    poses: list[FloatArray] = []
    best = np.inf
    for frame in measured:
        problem = _Problem(mechanics, tuple(names), frame, weights, {})
        near = problem.solve(problem.solve(poses[-1], problem.root), problem.free) if poses else problem.start
        if not poses or problem.cost(near) > 2.0 * best:
            found = fit_pose(mechanics, names, frame, weights).value
            far = np.array([found[name] for name in mechanics.coordinates])
            near = far if not poses or problem.cost(far) < problem.cost(near) else near
        best = min(best, problem.cost(near))
        poses.append(near)
    return np.array(poses)


class _Problem:
    def __init__(self, mechanics: Any, names: tuple[str, ...], measured: FloatArray, weights: FloatArray, targets: dict[str, tuple[float, float]]) -> None:
        self.mechanics, self.names, self.measured = mechanics, names, measured
        weights = np.where(np.isfinite(measured).all(axis=1), weights, 0.0)
        if (weights > 0).sum() < MIN_MARKERS:
            raise InputError(f"only {int((weights > 0).sum())} marker(s) have a weight and were seen; at least {MIN_MARKERS} are needed for a pose")
        self.used = weights > 0
        self.root_weights = np.sqrt(weights[self.used] / weights.sum())
        self._read_targets(targets)
        followers = set(mechanics.couplings)
        lower, upper = mechanics.bounds.T
        fixed = np.asarray(mechanics.locked, bool) | (lower >= upper)
        self.free = np.array([i for i in range(len(mechanics.coordinates)) if i not in followers and not fixed[i]], dtype=int)
        root = np.array([mechanics.coordinates.index(n) for n in mechanics.root_coordinates], dtype=int)
        self.root = root[np.isin(root, self.free)]
        self.start = self._start()

    def _read_targets(self, targets: dict[str, tuple[float, float]]) -> None:
        coordinates = self.mechanics.coordinates
        for name in targets:
            if name not in coordinates:
                raise UnknownNameError("coordinate", name, coordinates, "in the model")
        self.goal, self.pull = np.array(self.mechanics.default_values, float), np.full(len(coordinates), _HOLD)
        for name, (value, weight) in targets.items():
            self.goal[coordinates.index(name)] = value
            self.pull[coordinates.index(name)] = max(weight, _HOLD)
        angles = [unit == "N m" for unit in self.mechanics.units]
        placed = [coordinates.index(n) for n in self.mechanics.root_coordinates if n not in targets]
        self.pull[[i for i in placed if not angles[i]]] = 0.0

    def _start(self) -> FloatArray:
        """Coordinates at what they are drawn to, the rest at the default."""
        q = np.array(self.mechanics.default_values, float)
        drawn = self.free[self.pull[self.free] > _HOLD]
        q[drawn] = self.goal[drawn]
        lower, upper = self.mechanics.bounds[self.free].T
        q[self.free] = np.clip(q[self.free], lower, upper)
        coupled: FloatArray = self.mechanics.couple(q)
        return coupled

    def residual(self, q: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Weighted differences of markers and coordinates, and their derivatives by all coordinates that lead."""
        position, derivative = self.mechanics.marker_jacobian(q, self.names)
        slopes = self.mechanics.coupling_slopes(q) if self.mechanics.couplings else np.eye(len(q))
        weight = self.root_weights[:, None]
        marker_slopes = (derivative[self.used] * weight[..., None]).reshape(-1, len(q)) @ slopes
        pull = np.sqrt(self.pull)
        error = np.concatenate([((position - self.measured)[self.used] * weight).ravel(), pull * (q - self.goal)])
        return error, np.concatenate([marker_slopes, pull[:, None] * slopes])

    def cost(self, q: FloatArray) -> float:
        """Half the sum of squares."""
        error, _ = self.residual(q)
        return 0.5 * float(error @ error)

    def solve(self, start: FloatArray, columns: NDArray[np.int_]) -> FloatArray:
        """Best pose near ``start``, with only ``columns`` moving."""
        from scipy.optimize import least_squares

        def full(x: FloatArray) -> FloatArray:
            q = start.copy()
            q[columns] = x
            coupled: FloatArray = self.mechanics.couple(q)
            return coupled

        lower, upper = self.mechanics.bounds[columns].T
        inside = np.clip(start[columns], lower, upper)
        found = least_squares(
            lambda x: self.residual(full(x))[0],
            inside,
            jac=lambda x: self.residual(full(x))[1][:, columns],
            bounds=(lower, upper),
            xtol=1e-12,
            ftol=1e-14,
            gtol=1e-14,
            x_scale=1.0,
            max_nfev=300,
        )
        return full(found.x)

    def starts(self) -> list[FloatArray]:
        """The root turned to each side about each of its axes, and moved so that the markers' middle is where it was measured."""
        poses = [self.start]
        for column in self._angles():
            for angle in (-np.pi / 2, np.pi / 2, np.pi):
                turned = self.start.copy()
                turned[column] += angle
                poses.append(turned)
        return [self._centered(pose) for pose in poses]

    def _angles(self) -> list[int]:
        return [int(c) for c in self.root if self.mechanics.units[c] == "N m"]

    def _centered(self, q: FloatArray) -> FloatArray:
        moving = [c for c in self.root if self.mechanics.units[c] == "N"]
        error, slopes = self.residual(q)
        out = q.copy()
        out[moving] -= np.linalg.lstsq(slopes[:, moving], error, rcond=None)[0]
        return out

    def unwound(self, q: FloatArray) -> FloatArray:
        """The same pose with the root's angles between -pi and pi."""
        out = q.copy()
        angles = self._angles()
        out[angles] = (q[angles] + np.pi) % (2 * np.pi) - np.pi
        return out

    def turning(self, q: FloatArray) -> float:
        """How far the root is turned: of two sets of angles for one pose the smaller is the natural one."""
        return sum(float(abs(q[c])) for c in self._angles())
