"""Joint coordinates from markers: weighted least squares of a whole recording at once, with exact derivatives.

The problem is that of OpenSim's InverseKinematicsTool: the coordinates that bring the model's markers nearest to the measured
ones, within the limits of clamped coordinates, coupled coordinates following their leaders, locked ones fixed.

Nothing but the markers is needed to start. A rigid alignment of the root's markers places the root in a few frames spread over
the recording, in which all joints are then sought from the model's default; the other frames start from these, interpolated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from imdy_plugin.errors import InputError
from imdy_plugin.progress import report_progress
from imdy_plugin.runs import runs
from imdy_plugin.solvers.multibody.chunks import map_chunks
from imdy_plugin.solvers.multibody.descent import MAX_STEPS, descend
from imdy_plugin.solvers.multibody.marker_problem import MarkerProblem, Task
from imdy_plugin.solvers.multibody.mechanics import BodyMechanics
from imdy_plugin.solvers.multibody.root_pose import RootJoint, align
from imdy_plugin.solvers.multibody.smoothing import smooth_fit

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int_]

LONGEST_BRIDGE = 0.2
"""Longest time [s] that a coordinate is interpolated over while its markers are missing."""

MIN_MARKERS = 6
"""Fewest markers that model and recording must share."""

_FEWEST_SEEN = 3
"""Fewest markers of a frame that is fitted."""

_KEY_SPACING = 0.08
"""Time [s] between the frames that are fitted first."""

_KEY_ACCURACY = 5e-3
"""How near to their end these are brought [rad or m]; the frames between start from them."""

_LEAP, _KEY_LEAP = 0.7, 1.5
"""How far an angle may be from the mean of both neighbours' [rad] without being doubted: from frame to frame, and between the frames that are fitted first."""

_UNNATURAL = 2.0
"""How far a joint without limits may be from its default [rad] without a nearer pose being sought."""

_REPAIRS = 20
"""Most times that odd poses are sought again; a stretch of them is mended from its ends."""

_RESOLVED = 0.9
_SINGULAR = 1e-8
_ALL_RESOLVED = 1e7
"""Trace of the inverse normal matrix below which no direction is singular."""


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
    steps
        Number of steps of the last descent of each frame ``(time,)``; 0 where no frame was fitted.
    converged
        Whether that ended because no coordinate moved any more ``(time,)``.
    at_limit
        Whether a coordinate is held by its limit ``(time, coordinate)``.
    """

    value: FloatArray
    rms: FloatArray
    never_seen: tuple[str, ...]
    bridged: int
    masked: int
    steps: IntArray
    converged: BoolArray
    at_limit: BoolArray


def fit_markers(
    mechanics: BodyMechanics,
    time: FloatArray,
    names: Sequence[str],
    positions: FloatArray,
    weights: FloatArray | None = None,
    accuracy: float = 1e-5,
    *,
    tasks: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    smoothing: float = 0.0,
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
        A frame is finished when no coordinate is further than this from where it would end [rad or m], by its last two steps.
    tasks
        Coordinates by name that are drawn to a value [rad or m], with a weight of the squared difference, each one number or one
        for each frame ``(time,)``. A coordinate that is drawn is determined, whatever the markers say.
    smoothing
        Weight of the coordinates' squared accelerations [m^2 s^4/rad^2] beside the markers' squared distances; 0, and every frame
        is fitted for itself. Frames on both sides of a hole longer than :data:`LONGEST_BRIDGE` are not joined.

    Raises
    ------
    InputError
        Fewer than :data:`MIN_MARKERS` markers, no frame in which they determine where the model is, a weight that is negative or
        no number, or arrays of different lengths.
    UnknownNameError
        A task names a coordinate that the model lacks.
    """
    if len(names) < MIN_MARKERS:
        raise InputError(f"model and recording share {len(names)} marker(s) ({', '.join(names) or 'none'}); at least {MIN_MARKERS} are needed")
    shares = np.ones(len(names)) if weights is None else np.asarray(weights, float)
    if np.shape(positions) != (len(time), len(names), 3):
        raise InputError(f"marker positions have shape {np.shape(positions)}, must be (time, marker, axis) = {(len(time), len(names), 3)}")
    if shares.shape != (len(names),) or not (np.isfinite(shares) & (shares >= 0.0)).all():
        raise InputError(f"weights must be {len(names)} finite numbers of zero or more, one for each marker; they are {shares.tolist()}")
    fitter = _Fitter(mechanics, tuple(names), np.asarray(positions, float), shares, accuracy, tasks or {})
    fitted = np.flatnonzero(fitter.visible[:, shares > 0.0].sum(axis=1) >= _FEWEST_SEEN)
    if not fitted.size:
        most = int(fitter.visible.sum(axis=1).max(initial=0))
        raise InputError(
            f"no frame has enough markers to tell where '{mechanics.root_body}' is (at most {most} are visible at once); give three or more on one body"
        )
    keys = fitter.fit_keys(_spread(time, fitted, fitter.visible))
    value = _between(time, keys)
    found = fitter.repaired(fitter.fit(value[fitted], fitted, near=True), _LEAP, accuracy)
    found = fitter.natural(found, accuracy)
    value[fitted] = found.q
    settled = np.ones(len(time), bool)
    if smoothing > 0.0:
        for part in np.split(fitted, np.flatnonzero(np.diff(time[fitted]) > LONGEST_BRIDGE) + 1):
            value[part], settled[part] = smooth_fit(fitter.problem, time, value[part], part, smoothing, accuracy)
    rms, steps, converged = np.full(len(time), np.nan), np.zeros(len(time), int), np.zeros(len(time), bool)
    rms[fitted], steps[fitted], converged[fitted] = fitter.rms(value[fitted], fitted), found.steps, found.converged & settled[fitted]
    determined = fitter.determined(value, fitted)
    _require_root(mechanics, determined, fitter.visible)
    lower, upper = mechanics.bounds.T
    at_limit = np.isfinite(rms)[:, None] & ((value <= lower) | (value >= upper))
    masked_value, never, bridged, masked = _mask(mechanics, time, value, determined)
    return MarkerFit(masked_value, rms, never, bridged, masked, steps, converged, at_limit)


@dataclass(frozen=True)
class _Poses:
    """Coordinates ``(frame, coordinate)`` of some frames, and how their descent ended."""

    frames: IntArray
    q: FloatArray
    cost: FloatArray
    steps: IntArray
    converged: BoolArray


class _Fitter:
    """One model and one recording."""

    def __init__(
        self,
        mechanics: BodyMechanics,
        names: tuple[str, ...],
        positions: FloatArray,
        weights: FloatArray,
        accuracy: float,
        tasks: Mapping[str, tuple[ArrayLike, ArrayLike]],
    ) -> None:
        self.mechanics, self.names, self.positions, self.weights, self.accuracy = mechanics, names, positions, weights, accuracy
        self.visible = np.asarray(np.isfinite(positions).all(axis=2), bool)
        body = mechanics.body
        lower, upper = body.tensor(mechanics.bounds).unbind(-1)
        drawn = []
        self.drawn = np.zeros((len(positions), len(mechanics.coordinates)), bool)
        for name, (value, weight) in tasks.items():
            column = int(body.index("coordinate", [name])[0])
            values, shares = (np.broadcast_to(np.asarray(given, float), len(positions)).copy() for given in (value, weight))
            drawn.append(Task(column, body.tensor(values), body.tensor(shares)))
            self.drawn[:, column] |= np.isfinite(values) & (shares > 0)
        target = body.tensor(positions).permute(2, 1, 0)
        self.problem = MarkerProblem(body, names, target, body.tensor(weights), torch.as_tensor(mechanics.locked), lower, upper, drawn)
        self.angles = np.array([unit == "N m" for unit in mechanics.units])
        self.turning = _turns_freely(mechanics) & ~np.isin(np.arange(len(self.angles)), [task.coordinate for task in drawn])
        self.root = [mechanics.coordinates.index(n) for n in mechanics.root_coordinates]

    def fit(
        self,
        start: FloatArray,
        frames: IntArray,
        columns: BoolArray | None = None,
        accuracy: float | None = None,
        max_steps: int = MAX_STEPS,
        near: bool = False,
    ) -> _Poses:
        """Best poses near ``start (frame, coordinate)``, chunk by chunk on all processors."""
        device = self.mechanics.body.device
        wanted = self.accuracy if accuracy is None else accuracy
        moving = None if columns is None else torch.as_tensor(columns, device=device)[self.problem.free]

        def solve(part: slice) -> tuple[FloatArray, FloatArray, IntArray, BoolArray]:
            q, rows = self.mechanics.body.tensor(start[part]).mT, torch.as_tensor(frames[part], device=device)
            end = descend(self.problem, q, rows, wanted, moving, max_steps, near=near)
            return end.q.mT.cpu().numpy(), end.cost.cpu().numpy(), end.steps.cpu().numpy(), end.converged.cpu().numpy()

        pieces, done = [], 0
        for piece in map_chunks(solve, len(frames), device):
            pieces.append(piece)
            done += len(piece[0])
            report_progress("inverse kinematics", done, len(frames))
        q, cost, steps, converged = (np.concatenate(part) for part in zip(*pieces, strict=True))
        return _Poses(frames, q, cost, steps, converged)

    def fit_keys(self, frames: IntArray) -> _Poses:
        """Poses of a few frames from nothing: the root placed first, then all joints from the model's default."""
        start = np.tile(self.mechanics.couple(self.mechanics.default_values), (len(frames), 1))
        placed = self._place_root(start, frames)
        found = self.fit(placed, frames, accuracy=_KEY_ACCURACY)
        return self.natural(self.repaired(self.natural(found, _KEY_ACCURACY), _KEY_LEAP, _KEY_ACCURACY), _KEY_ACCURACY)

    def natural(self, poses: _Poses, accuracy: float) -> _Poses:
        """Without whole turns, and of two poses that fit alike the one nearer to the model's default.

        A joint of two axes that carries one marker reaches it in two ways, one of them half a turn off.
        """
        out = replace(poses, q=self.unwound(poses.q))
        joints = self.turning & ~np.isin(np.arange(len(self.turning)), self.root)
        away = np.abs(out.q - self.mechanics.default_values) * joints
        rows = np.flatnonzero((away > _UNNATURAL).any(axis=1))
        if not rows.size:
            return out
        start = np.where(away[rows] > _UNNATURAL, self.mechanics.default_values, out.q[rows])
        again = self.fit(start, out.frames[rows], accuracy=accuracy)
        again = replace(again, q=self.unwound(again.q))
        nearer = (np.abs(again.q - self.mechanics.default_values) * joints).max(axis=1) < away[rows].max(axis=1) - 0.1
        chosen = np.flatnonzero(nearer & (again.cost < 1.000001 * out.cost[rows] + 1e-9))
        return _replaced(out, rows[chosen], again, chosen)

    def unwound(self, q: FloatArray) -> FloatArray:
        """The same poses ``(frame, coordinate)`` without leaps of whole turns, near the model's default.

        Only the root turns further than once; a joint that seems to has leapt between two sets of angles for one pose.
        """
        out = q.copy()
        for column in np.flatnonzero(self.turning):
            default = self.mechanics.default_values[column]
            followed = np.unwrap(q[:, column])
            followed -= 2.0 * np.pi * np.round((np.median(followed) - default) / (2.0 * np.pi))
            wanders = column not in self.root and np.ptp(followed) > 2.0 * np.pi
            out[:, column] = q[:, column] - 2.0 * np.pi * np.round((q[:, column] - default) / (2.0 * np.pi)) if wanders else followed
        return out

    def repaired(self, poses: _Poses, jump: float, accuracy: float) -> _Poses:
        """Poses that stand out from their neighbours, sought again from these and from the nearest that do not; the better fit is kept.

        A frame stands out whose markers fit much worse, or in which an angle is further than ``jump`` [rad] from the mean of both
        neighbours'.
        """
        out, changed = poses, np.arange(len(poses.frames))
        for _ in range(_REPAIRS):
            suspects = self._suspects(out, jump)
            suspects = suspects[np.isin(suspects - 1, changed) | np.isin(suspects + 1, changed)]
            if not suspects.size:
                break
            source = np.concatenate([suspects - 1, suspects + 1, *_nearest_of_the_rest(suspects, len(out.frames))])
            source, rows = np.clip(source, 0, len(out.frames) - 1), np.tile(suspects, 4)
            again = self.fit(out.q[source], out.frames[rows], accuracy=accuracy)
            between = 0.5 * (out.q[np.maximum(rows - 1, 0)] + out.q[np.minimum(rows + 1, len(out.frames) - 1)])
            smoother = np.abs(again.q - between).max(axis=1) < np.abs(out.q[rows] - between).max(axis=1) - 0.1
            better = (again.cost < 0.999 * out.cost[rows] - 1e-9) | (smoother & (again.cost < 1.000001 * out.cost[rows] + 1e-9))
            best = np.flatnonzero(better)[np.argsort(-again.cost[better], kind="stable")]
            out, changed = _replaced(out, rows[best], again, best), np.unique(rows[best])
        return out

    def _suspects(self, poses: _Poses, jump: float) -> IntArray:
        if len(poses.frames) < 3:
            return np.zeros(0, int)
        angle = poses.q[:, self.angles]
        bend = np.zeros(len(angle))
        bend[1:-1] = np.abs(angle[1:-1] - 0.5 * (angle[:-2] + angle[2:])).max(axis=1, initial=0.0)
        bend[[0, -1]] = 0.5 * np.abs(angle[[1, -2]] - angle[[0, -1]]).max(axis=1, initial=0.0)
        rms = np.sqrt(np.maximum(poses.cost, 0.0) / np.maximum(self.visible[poses.frames] @ self.weights, 1e-12))
        return np.flatnonzero((bend > jump) | (rms > 1.5 * float(np.median(rms)) + 0.005))

    def rms(self, q: FloatArray, frames: IntArray) -> FloatArray:
        """Root mean square distance ``(frame,)`` [m] of the visible markers that count."""
        chosen = [i for i, weight in enumerate(self.weights) if weight > 0]
        names = [self.names[i] for i in chosen]

        def of(part: slice) -> FloatArray:
            model = self.mechanics.body.marker_positions(self.mechanics.body.tensor(q[part]), names).cpu().numpy()
            squared = ((self.positions[frames[part]][:, chosen] - model) ** 2).sum(axis=2)
            seen = np.isfinite(squared)
            count = seen.sum(axis=1)
            mean: FloatArray = np.where(seen, squared, 0.0).sum(axis=1) / np.where(count > 0, count, np.nan)
            return np.sqrt(mean)

        return np.concatenate(list(map_chunks(of, len(frames), self.mechanics.body.device)))

    def _place_root(self, start: FloatArray, frames: IntArray) -> FloatArray:
        """Root coordinates in closed form where its joint allows it, else the best of a few turns."""
        if not self.root:
            return start
        joint = RootJoint.of(self.mechanics.body.tree, self.mechanics.bodies.index(self.mechanics.root_body))
        if joint is None:
            return self._best_of_turns(start, frames)
        rotation, origin = self._root_poses(start[0], frames)
        turning, sliding = joint.coordinates
        out = start.copy()
        out[:, turning], out[:, sliding] = joint.angles(rotation), joint.distances(rotation, origin)
        return out

    def _root_poses(self, default: FloatArray, frames: IntArray) -> tuple[FloatArray, FloatArray]:
        """Rotation and origin of the root body: by its own markers where three are seen, else by all as if the body were stiff."""
        on_root = [i for i, name in enumerate(self.names) if self._body_of(name) == self.mechanics.root_body]
        frame = self.mechanics.point_kinematics(
            default[None], default[None] * 0, default[None] * 0, self.mechanics.root_body, np.vstack([np.zeros(3), np.eye(3)])
        )[0][0]
        local = (self.mechanics.marker_positions(default[None], self.names)[0] - frame[0]) @ (frame[1:] - frame[0]).T
        measured = self.positions[frames]
        rotation, origin, known = align(local, measured)
        own_rotation, own_origin, own = align(local[on_root], measured[:, on_root])
        rotation[own], origin[own] = own_rotation[own], own_origin[own]
        good = np.flatnonzero(own | known)
        after = np.clip(np.searchsorted(good, np.arange(len(frames))), 0, max(good.size - 1, 0))
        nearest = good[after] if good.size else np.arange(len(frames))
        return rotation[nearest], origin[nearest]

    def _body_of(self, marker: str) -> str:
        body = self.mechanics.body
        return body.bodies[int(body.marker_body[body.markers.index(marker)])]

    def _best_of_turns(self, start: FloatArray, frames: IntArray) -> FloatArray:
        """Root turned to each side about each of its axes, moved to the markers, and the best of those kept."""
        columns = np.isin(np.arange(start.shape[1]), self.root)
        turns = [start]
        for column in self.root:
            for angle in (-np.pi / 2, np.pi / 2, np.pi) if self.angles[column] else ():
                turned = start.copy()
                turned[:, column] += angle
                turns.append(turned)
        sliding = columns & ~self.angles
        centered = [self.fit(turn, frames, sliding, accuracy=1e-3).q for turn in turns]
        ends = [self.fit(turn, frames, columns, accuracy=1e-3) for turn in centered]
        cost = np.stack([end.cost for end in ends])
        reach = np.stack([np.abs(end.q[:, columns & self.angles]).sum(axis=1) for end in ends])
        best = np.where(cost <= 1.001 * cost.min(axis=0) + 1e-6, reach, np.inf).argmin(axis=0)
        chosen: FloatArray = np.stack([end.q for end in ends])[best, np.arange(len(frames))]
        return chosen

    def determined(self, value: FloatArray, fitted: IntArray) -> BoolArray:
        """Whether the visible markers, or a task, determine each coordinate ``(time, coordinate)``, judged once for each set of visible markers."""
        _, first, which = np.unique(self.visible[fitted], axis=0, return_index=True, return_inverse=True)
        out = np.zeros(value.shape, bool)
        free = self.problem.free.cpu().numpy()
        representative = fitted[first]
        parts = map_chunks(lambda part: self._resolved(value[representative[part]], representative[part]), len(first), self.mechanics.body.device)
        resolved = np.concatenate(list(parts))
        out[np.ix_(fitted, free)] = resolved[which.ravel()]
        out[np.ix_(fitted, np.flatnonzero(self.mechanics.locked))] = True
        out[fitted] |= self.drawn[fitted]
        for follower, leader in self.mechanics.couplings.items():
            out[:, follower] = out[:, leader]
        return out

    def _resolved(self, q: FloatArray, frames: IntArray) -> BoolArray:
        """Diagonal of the resolution matrix, 1 where the data determine a parameter, against :data:`_RESOLVED` ``(frame, free)``."""
        rows = torch.as_tensor(frames, device=self.mechanics.body.device)
        normal = self.problem.marker_normal(self.mechanics.body.tensor(q).mT, rows)
        out = torch.ones(normal.shape[:2], dtype=torch.bool, device=normal.device)
        felt = (normal.diagonal(dim1=1, dim2=2) > _SINGULAR).any(dim=0)
        out[:, ~felt] = False
        core = normal[:, felt][:, :, felt]
        factor, failed = torch.linalg.cholesky_ex(core)
        factor[failed != 0] = torch.eye(core.shape[-1], dtype=core.dtype, device=core.device)
        doubtful = (failed != 0) | (torch.cholesky_inverse(factor).diagonal(dim1=1, dim2=2).sum(dim=1) > _ALL_RESOLVED)
        if bool(doubtful.any()):
            size, direction = torch.linalg.eigh(core[doubtful])
            share = (direction**2 * (size > _SINGULAR)[:, None]).sum(dim=2)
            part = out[doubtful]
            part[:, felt] = share > _RESOLVED
            out[doubtful] = part
        resolved: BoolArray = out.cpu().numpy()
        return resolved


def _nearest_of_the_rest(chosen: IntArray, count: int) -> tuple[IntArray, IntArray]:
    """The nearest index before and after each chosen one that is not chosen itself; at the ends the other, without any itself."""
    rest = np.setdiff1d(np.arange(count), chosen)
    if not rest.size:
        return chosen, chosen
    after = np.searchsorted(rest, chosen)
    return rest[np.clip(after - 1, 0, rest.size - 1)], rest[np.clip(after, 0, rest.size - 1)]


def _turns_freely(mechanics: BodyMechanics) -> BoolArray:
    """Whether a whole turn of a coordinate leaves every pose as it is ``(coordinate,)``: it is an angle, without limits, of one axis."""
    tree = mechanics.body.tree
    axes = [[m for m in tree.movers if c in m.weights] for c in range(len(mechanics.coordinates))]
    leaders = {leader for coupling in tree.couplings for leader in coupling.weights} | set(mechanics.couplings)
    plain = [len(found) == 1 and found[0].rotates and found[0].is_identity and c not in leaders for c, found in enumerate(axes)]
    free: BoolArray = np.array(plain, bool) & np.isinf(mechanics.bounds).all(axis=1) & ~mechanics.locked
    return free


def _replaced(poses: _Poses, rows: IntArray, by: _Poses, chosen: IntArray) -> _Poses:
    q, cost, steps, converged = poses.q.copy(), poses.cost.copy(), poses.steps.copy(), poses.converged.copy()
    q[rows], cost[rows], steps[rows], converged[rows] = by.q[chosen], by.cost[chosen], by.steps[chosen], by.converged[chosen]
    return _Poses(poses.frames, q, cost, steps, converged)


def _spread(time: FloatArray, fitted: IntArray, visible: BoolArray) -> IntArray:
    """Frames about :data:`_KEY_SPACING` apart, of each stretch the one in which most markers are seen, and the first and the last."""
    stretch = np.floor((time[fitted] - time[fitted[0]]) / _KEY_SPACING).astype(int)
    seen = visible[fitted].sum(axis=1)
    order = np.lexsort((np.arange(len(fitted)), -seen, stretch))
    _, first = np.unique(stretch[order], return_index=True)
    return np.unique(np.concatenate([fitted[order[first]], fitted[[0, -1]]]))


def _between(time: FloatArray, keys: _Poses) -> FloatArray:
    """Coordinates of all frames between those that are known, smoothly; the nearest ones beyond them."""
    from scipy.interpolate import CubicSpline

    if len(keys.frames) < 4:
        return np.stack([np.interp(time, time[keys.frames], column) for column in keys.q.T], axis=1)
    at = np.clip(time, time[keys.frames[0]], time[keys.frames[-1]])
    value: FloatArray = CubicSpline(time[keys.frames], keys.q)(at)
    hole = np.diff(time[keys.frames])[np.clip(np.searchsorted(keys.frames, np.arange(len(time))) - 1, 0, len(keys.frames) - 2)] > 3 * _KEY_SPACING
    value[hole] = np.stack([np.interp(time[hole], time[keys.frames], column) for column in keys.q.T], axis=1)
    return value


def _require_root(mechanics: BodyMechanics, determined: BoolArray, visible: BoolArray) -> None:
    root = [mechanics.coordinates.index(n) for n in mechanics.root_coordinates]
    if root and not determined[:, root].all(axis=1).any():
        most = int(visible.sum(axis=1).max())
        raise InputError(
            f"no frame has enough markers to tell where '{mechanics.root_body}' is (at most {most} are visible at once); give three or more on one body"
        )


def _mask(mechanics: BodyMechanics, time: FloatArray, value: FloatArray, determined: BoolArray) -> tuple[FloatArray, tuple[str, ...], int, int]:
    """Bridge short stretches in which a coordinate is not determined, mask long ones and those at the ends.

    Returns the coordinates, the names of those that no frame determines, and the numbers of bridged and of masked frames.
    """
    from scipy.interpolate import PchipInterpolator

    never = np.asarray(~determined.any(axis=0), bool)
    out = value.copy()
    out[:, never] = mechanics.couple(mechanics.default_values)[never]
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
    return out, names, int((touched & ~masked).sum()), int(masked.sum())
