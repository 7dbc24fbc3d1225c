"""Joint coordinates from markers: weighted least squares, frame by frame, with exact derivatives.

The problem is that of OpenSim's InverseKinematicsTool: the coordinates that bring the model's markers nearest to the measured
ones, within the limits of clamped coordinates, coupled coordinates following their leaders, locked ones fixed. It is solved by
damped Gauss-Newton steps (Levenberg 1944, Marquardt 1963), which takes a few milliseconds a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imdy_plugin.errors import InputError
from imdy_plugin.progress import report_progress
from imdy_plugin.runs import runs
from imdy_plugin.solvers.opensim_mechanics import OpenSimMechanics

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

LONGEST_BRIDGE = 0.2
"""Longest time [s] that a coordinate is interpolated over while its markers are missing."""

MIN_MARKERS = 6
"""Fewest markers that model and recording must share."""

_MAX_STEPS = 60
_RESOLVED = 0.9


@dataclass(frozen=True)
class MarkerFit:
    """What the markers say about the coordinates.

    Attributes
    ----------
    value
        ``(time, coordinate)``; NaN where the markers do not determine a coordinate for longer than :data:`LONGEST_BRIDGE`.
    rms
        Root mean square distance of the visible markers to the model's ``(time,)`` [m]; NaN where no frame was fitted.
    never_seen
        Coordinates that no frame determines; they stay at the model's default.
    bridged, masked
        Number of frames with interpolated and with masked coordinates.
    """

    value: FloatArray
    rms: FloatArray
    never_seen: tuple[str, ...]
    bridged: int
    masked: int


def fit_markers(
    mechanics: OpenSimMechanics, time: FloatArray, names: Sequence[str], positions: FloatArray, weights: FloatArray | None = None, accuracy: float = 1e-5
) -> MarkerFit:
    """Fit the model's pose to markers in every frame.

    Parameters
    ----------
    mechanics
        The model.
    time
        ``(time,)`` [s].
    names, positions
        Markers that the model has too, and where they were ``(time, marker, 3)`` [m], NaN where missing.
    weights
        Weight of each marker's squared distance ``(marker,)``; 1 by default.
    accuracy
        A frame is finished when no coordinate moves by more than this [rad or m].

    Raises
    ------
    InputError
        Fewer than :data:`MIN_MARKERS` markers, or no frame in which they determine where the model is.
    """
    if len(names) < MIN_MARKERS:
        raise InputError(f"model and recording share {len(names)} marker(s) ({', '.join(names) or 'none'}); at least {MIN_MARKERS} are needed")
    fitter = _Fitter(mechanics, tuple(names), np.ones(len(names)) if weights is None else np.asarray(weights, float), accuracy)
    visible = np.asarray(np.isfinite(positions).all(axis=-1), bool)
    start = int(np.argmax(visible.sum(axis=1)))
    value, rms = np.full((len(time), len(mechanics.coordinates)), np.nan), np.full(len(time), np.nan)
    value[start], rms[start] = fitter.find_start(positions[start])
    for done, (frame, step) in enumerate([*((f, 1) for f in range(start + 1, len(time))), *((f, -1) for f in range(start - 1, -1, -1))]):
        before, earlier = frame - step, frame - 2 * step
        known = 0 <= earlier < len(time) and np.isfinite(rms[[before, earlier]]).all()
        guess = 2 * value[before] - value[earlier] if known else value[before]
        value[frame], rms[frame] = fitter.fit(guess, positions[frame])
        report_progress("inverse kinematics", done + 1, len(time) - 1)
    determined = _determined(fitter, value, visible)
    _require_root(mechanics, determined, visible)
    return _mask(mechanics, time, value, rms, determined)


class _Fitter:
    """One model and one set of markers."""

    def __init__(self, mechanics: OpenSimMechanics, names: tuple[str, ...], weights: FloatArray, accuracy: float) -> None:
        self.mechanics, self.names, self.accuracy = mechanics, names, accuracy
        self.root_weights = np.sqrt(weights)
        followers = set(mechanics.couplings)
        self.free = np.array([i for i in range(len(mechanics.coordinates)) if i not in followers and not mechanics.locked[i]], dtype=int)
        self.root = np.array([mechanics.coordinates.index(n) for n in mechanics.root_coordinates], dtype=int)
        self.root = self.root[np.isin(self.root, self.free)]

    def residual(self, q: FloatArray, target: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Weighted differences of the visible markers, and their derivatives by all coordinates."""
        position, derivative = self.mechanics.marker_jacobian(q, self.names)
        seen = np.isfinite(target).all(axis=-1)
        weight = self.root_weights[seen, None]
        slopes = (derivative[seen] * weight[..., None]).reshape(-1, len(q))
        if self.mechanics.couplings:
            slopes = slopes @ self.mechanics.coupling_slopes(q)
        return ((position - target)[seen] * weight).ravel(), slopes

    def fit(self, q: FloatArray, target: FloatArray, columns: NDArray[np.int_] | None = None) -> tuple[FloatArray, float]:
        """Best pose near ``q`` and the root mean square distance it leaves; ``q`` itself and NaN where fewer than three markers are seen."""
        if np.isfinite(target).all(axis=-1).sum() < 3:
            return q, float("nan")
        columns = self.free if columns is None else columns
        q, damping = self._lawful(q), 1e-6
        error, slopes = self.residual(q, target)
        for _ in range(_MAX_STEPS):
            candidate = self._lawful(q + self._step(q, error, slopes, columns, damping))
            new_error, new_slopes = self.residual(candidate, target)
            moved = np.abs(candidate - q)[columns].max()
            if new_error @ new_error <= error @ error:
                q, error, slopes, damping = candidate, new_error, new_slopes, max(damping / 10.0, 1e-9)
            else:
                damping *= 10.0
            if moved < self.accuracy:
                break
        return q, self._rms(error, target)

    def find_start(self, target: FloatArray) -> tuple[FloatArray, float]:
        """Best pose from nowhere: the root turned to each side about each of its axes, then all coordinates from the best of those."""
        default = self.mechanics.couple(self.mechanics.default_values)
        if not self.root.size:
            return self.fit(default, target)
        turns = [self.fit(pose, target, self.root) for pose in self._turned(default, target)]
        nearest = min(rms for _, rms in turns)
        alike = [self._unwound(pose) for pose, rms in turns if rms <= nearest + 1e-3]
        return self.fit(min(alike, key=self._turning), target)

    def _unwound(self, q: FloatArray) -> FloatArray:
        """The same pose with the root's angles between -pi and pi."""
        out = q.copy()
        angles = [c for c in self.root if self.mechanics.units[c] == "N m"]
        out[angles] = (q[angles] + np.pi) % (2 * np.pi) - np.pi
        return out

    def _turning(self, q: FloatArray) -> float:
        """How far the root is turned: of two sets of angles for one pose the smaller is the natural one."""
        return sum(float(abs(q[c])) for c in self.root if self.mechanics.units[c] == "N m")

    def _turned(self, default: FloatArray, target: FloatArray) -> list[FloatArray]:
        poses = [default]
        for column in self.root:
            if self.mechanics.units[column] == "N m":
                poses += [_with(default, column, angle) for angle in (-np.pi / 2, np.pi / 2, np.pi)]
        return [self._centered(pose, target) for pose in poses]

    def _centered(self, q: FloatArray, target: FloatArray) -> FloatArray:
        """Move the root so that the markers' mean is where it was measured."""
        moving = [c for c in self.root if self.mechanics.units[c] == "N"]
        error, slopes = self.residual(q, target)
        out = q.copy()
        out[moving] -= np.linalg.lstsq(slopes[:, moving], error, rcond=None)[0]
        return out

    def _step(self, q: FloatArray, error: FloatArray, slopes: FloatArray, columns: NDArray[np.int_], damping: float) -> FloatArray:
        """Damped Gauss-Newton step in ``columns``; those that would leave their limits are held there and the rest solved again."""
        step = np.zeros_like(q)
        lower, upper = self.mechanics.bounds.T
        active = columns
        while active.size:
            jacobian = slopes[:, active]
            normal = jacobian.T @ jacobian
            normal[np.diag_indices_from(normal)] += damping * normal.diagonal() + 1e-9
            change = -np.linalg.solve(normal, jacobian.T @ error)
            blocked = ((q[active] <= lower[active]) & (change < 0)) | ((q[active] >= upper[active]) & (change > 0))
            if not blocked.any():
                step[active] = change
                break
            active = active[~blocked]
        return step

    def _lawful(self, q: FloatArray) -> FloatArray:
        out = q.copy()
        lower, upper = self.mechanics.bounds[self.free].T
        out[self.free] = np.clip(q[self.free], lower, upper)
        return self.mechanics.couple(out)

    def _rms(self, error: FloatArray, target: FloatArray) -> float:
        weights = self.root_weights[np.isfinite(target).all(axis=-1), None]
        distances = error.reshape(-1, 3)[weights[:, 0] > 0] / weights[weights[:, 0] > 0]
        return float(np.sqrt((distances**2).sum(axis=-1).mean()))


def _with(q: FloatArray, column: int, value: float) -> FloatArray:
    out = q.copy()
    out[column] = value
    return out


def _determined(fitter: _Fitter, value: FloatArray, visible: BoolArray) -> BoolArray:
    """Whether the visible markers determine each coordinate ``(time, coordinate)``, judged once for each set of visible markers."""
    patterns, which = np.unique(visible, axis=0, return_inverse=True)
    out = np.ones(value.shape, bool)
    for index, pattern in enumerate(patterns):
        frames = np.flatnonzero(which.ravel() == index)
        target = np.where(pattern[:, None], 0.0, np.nan) * np.ones(3)
        _, slopes = fitter.residual(value[frames[0]], target)
        out[np.ix_(frames, fitter.free)] = _resolution(slopes[:, fitter.free]) > _RESOLVED
    for follower, leader in fitter.mechanics.couplings.items():
        out[:, follower] = out[:, leader]
    return out


def _resolution(slopes: FloatArray) -> FloatArray:
    """Diagonal of the resolution matrix: 1 where the data determine a parameter, 0 where they say nothing."""
    if not slopes.size:
        return np.zeros(slopes.shape[1])
    _, size, directions = np.linalg.svd(slopes, full_matrices=False)
    kept = directions[size > 1e-4]
    resolution: FloatArray = (kept**2).sum(axis=0)
    return resolution


def _require_root(mechanics: OpenSimMechanics, determined: BoolArray, visible: BoolArray) -> None:
    root = [mechanics.coordinates.index(n) for n in mechanics.root_coordinates]
    if root and not determined[:, root].all(axis=1).any():
        most = int(visible.sum(axis=1).max())
        raise InputError(
            f"no frame has enough markers to tell where '{mechanics.root_body}' is (at most {most} are visible at once); give three or more on one body"
        )


def _mask(mechanics: OpenSimMechanics, time: FloatArray, value: FloatArray, rms: FloatArray, determined: BoolArray) -> MarkerFit:
    """Bridge short stretches in which a coordinate is not determined, mask long ones and those at the ends."""
    from scipy.interpolate import PchipInterpolator

    never = np.asarray(~determined.any(axis=0), bool)
    out = value.copy()
    for column in np.flatnonzero(~never & ~determined.all(axis=0)):
        good = determined[:, column]
        out[~good, column] = np.nan
        for first, last in runs(~good):
            inside = first > 0 and last < len(time)
            if inside and time[last] - time[first - 1] <= LONGEST_BRIDGE and good.sum() >= 2:
                out[first:last, column] = PchipInterpolator(time[good], value[good, column])(time[first:last])
    touched = ~determined[:, ~never].all(axis=1)
    masked = np.isnan(out).any(axis=1)
    names = tuple(n for n, lost in zip(mechanics.coordinates, never, strict=True) if lost)
    return MarkerFit(out, rms, names, int((touched & ~masked).sum()), int(masked.sum()))
