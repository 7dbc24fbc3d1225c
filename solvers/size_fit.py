"""How large a person is, from markers of any trial: scale factors of a model's bodies, places of its markers and poses, fitted together.

The posterior mode of a linear-Gaussian prior and the markers: factors are the product of one for the whole body, one for each segment and one
for each of its axes; markers sit on the body near where the generic model has them, those between two joints of a limb (clusters on soft tissue)
more freely than those over bone. What the markers do not determine therefore follows the segment, its neighbours and the whole body, in this
order. Damped Gauss-Newton steps; the poses are eliminated frame by frame (Schur complement), so that cost grows linearly with frames.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.errors import SolverError
from imdy_plugin.progress import report_progress
from imdy_plugin.solvers.multibody.chunks import one_thread

if TYPE_CHECKING:
    from imdy_plugin.solvers.multibody import Multibody

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int_]

_MAX_STEPS = 60
_MAX_REFUSALS = 12
"""Steps, each ten times shorter than the one before, after which none is sought any more."""
_SETTLED = 1e-5
"""Share of the cost that the last step may still have gained."""
_UNSETTLED = 1e-4
"""Share of the cost that a step without damping may still promise where the fit has settled."""
_LIMB_MIDDLE = (0.2, 0.8)
"""Part of the way between a limb segment's joints where a marker sits on soft tissue."""
_HOLD = 1e-9
"""Precision with which the root is drawn to its default, so that what nothing tells stays there."""
_SCALED_JOINT = "CustomJoint"
"""Type of the joints whose translations grow with their parent."""
_SHORTEST_PAIR = 0.03
"""Distance [m] between markers on the generic model from which it says something about size."""
_SHORTEST_LIMB = 0.12
"""Distance [m] between joints from which a segment counts as a limb."""


@dataclass(frozen=True)
class SizePrior:
    """What is known before the markers are seen, as standard deviations.

    Attributes
    ----------
    size, segment, neighbor, axis
        Logarithm of the whole body's factor; of a segment's over it; of the ratio of neighbours; of an axis' over its segment's.
    bony, technical
        Place of a marker over bone, and of one between two joints of a limb [m].
    noise
        A marker's distance from its place on the body in one frame [m]. Larger than what is seen from frame to frame: skin slides with the pose,
        the same way in every stride, and would otherwise be taken for a joint that is elsewhere.
    angle
        A coordinate's distance from the model's default [rad or m]; the root is free.
    """

    size: float = 0.3
    segment: float = 0.05
    neighbor: float = 0.05
    axis: float = 0.03
    bony: float = 0.01
    technical: float = 0.05
    noise: float = 0.015
    angle: float = 1.0


@dataclass(frozen=True)
class SizeFit:
    """The fit.

    Attributes
    ----------
    factors
        Of each body along its axes ``(body, 3)``.
    offset
        How far each marker is from the scaled model's, in its body ``(marker, 3)`` [m].
    technical
        Which markers count as being on soft tissue ``(marker,)``.
    pose
        ``(frame, coordinate)`` [rad or m].
    marker_rms
        Root mean square distance of each marker over the frames, once it is placed ``(marker,)`` [m].
    uncertainty
        Standard deviation of the logarithm of each factor, prior and markers together ``(body, 3)``.
    steps
        Number of steps taken.
    converged
        Whether the steps ended because none gains anything any more.
    """

    factors: FloatArray
    offset: FloatArray
    technical: BoolArray
    pose: FloatArray
    marker_rms: FloatArray
    uncertainty: FloatArray
    steps: int
    converged: bool


def scaled_dataset(model: xr.Dataset, factors: FloatArray) -> xr.Dataset:
    """The geometry of a model whose bodies are scaled by ``factors (body, 3)``, as OpenSim scales it; masses are not changed.

    Translations of a CustomJoint are scaled with its parent; those of the other joints are lengths, which OpenSim leaves alone.
    """
    bodies = [str(b) for b in model["body"].values]
    by_name = dict(zip(bodies, factors, strict=True)) | {"ground": np.ones(3)}

    def times(variable: str, owners: str) -> xr.DataArray:
        scale = np.array([by_name[str(owner)] for owner in model[owners].values]).reshape(-1, 3)
        return model[variable].copy(data=model[variable].values * scale)

    joints = zip(*(model[name].values for name in ("joint_type", "joint_transform", "joint_parent")), strict=True)
    transforms = [_scaled_transform(str(text), by_name[str(parent)]) if str(kind) == _SCALED_JOINT else str(text) for kind, text, parent in joints]
    return model.assign(
        marker_location=times("marker_location", "marker_body"),
        joint_parent_location=times("joint_parent_location", "joint_parent"),
        joint_child_location=times("joint_child_location", "joint_child"),
        joint_transform=model["joint_transform"].copy(data=np.array(transforms, dtype=np.str_)),
    )


def _scaled_transform(text: str, factors: FloatArray) -> str:
    if (factors == 1).all():
        return text
    transform = json.loads(text)
    for name, axis in transform.items():
        if name.startswith("translation") and isinstance(axis, dict):
            scale = float(np.dot(axis["axis"], factors))
            axis["function"] = {"type": "MultiplierFunction", "function": axis["function"], "scale": scale}
    return json.dumps(transform)


def mirrored(name: str) -> str:
    """A body's or coordinate's name on the other side; the name itself where it tells no side."""
    sides = {"r": "l", "l": "r", "right": "left", "left": "right"}

    def swap(match: re.Match[str]) -> str:
        word = match.group(0)
        other = sides[word.lower()]
        return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other

    return re.sub(r"(?<![A-Za-z0-9])(?:right|left|r|l)(?![A-Za-z0-9])", swap, name.replace("_", " "), flags=re.IGNORECASE).replace(" ", "_")


class SizeProblem:
    """A generic model, markers in some frames, and what is known before.

    Parameters
    ----------
    model
        The generic model (:func:`imdy_plugin.schema.new_model`).
    names, measured
        Markers of the model and where they were ``(frame, marker, 3)`` [m]; NaN where missing.
    prior
        What is known before.
    symmetric
        Whether bodies of left and right have the same factors.
    """

    def __init__(
        self,
        model: xr.Dataset,
        names: Sequence[str],
        measured: FloatArray,
        *,
        prior: SizePrior | None = None,
        symmetric: bool = True,
    ) -> None:
        self.model, self.names, self.measured, self.prior = model, tuple(names), np.asarray(measured, float), prior or SizePrior()
        self.bodies = [str(b) for b in model["body"].values]
        self.coordinates = [str(c) for c in model["coordinate"].values]
        marker = [str(m) for m in model["marker"].values]
        chosen = [marker.index(name) for name in self.names]
        self.marker_body = np.array([self.bodies.index(str(model["marker_body"].values[i])) for i in chosen], dtype=int)
        self.location = model["marker_location"].values[chosen]
        self.seen = np.isfinite(self.measured).all(axis=-1)
        self._read_tree()
        self._read_priors(symmetric)
        self._read_coordinates()

    # What does not change -------------------------------------------------------------------------------------------------

    def _read_tree(self) -> None:
        """For each body the one that it hangs on (-1: ground), whether its joint's translations grow with that, and which markers are on soft tissue."""
        self.parent, self.stretches = np.full(len(self.bodies), -1), np.zeros(len(self.bodies), bool)
        joints = (self.model[name].values for name in ("joint_type", "joint_parent", "joint_child"))
        for kind, parent, child in zip(*joints, strict=True):
            if str(child) in self.bodies and str(parent) in self.bodies:
                self.parent[self.bodies.index(str(child))] = self.bodies.index(str(parent))
                self.stretches[self.bodies.index(str(child))] = str(kind) == _SCALED_JOINT
        order: list[int] = []
        while len(order) < len(self.bodies):
            order += [b for b in range(len(self.bodies)) if b not in order and (self.parent[b] == -1 or self.parent[b] in order)]
        self.order = order
        default = self.multibody(np.ones((len(self.bodies), 3)))
        q = default.couple(default.tensor(self.model["coordinate_default"].values[None]))
        state = default.kinematics(q)
        joint = _joints(state.rotation.numpy(), state.position.numpy(), default.joint_child_location.numpy())[0]
        self.technical = np.array([self._on_soft_tissue(i, joint, state.rotation[0].numpy(), state.position[0].numpy()) for i in range(len(self.names))])

    def _on_soft_tissue(self, marker: int, joint: FloatArray, rotation: FloatArray, position: FloatArray) -> bool:
        """Whether a marker is well between its body's own joint and the next one of a limb."""
        body = int(self.marker_body[marker])
        below = [c for c in range(len(self.bodies)) if self.parent[c] == body and self._carries_markers(c)]
        if len(below) != 1 or self.parent[body] == -1:
            return False
        along = joint[below[0]] - joint[body]
        length = float(np.linalg.norm(along))
        place = position[body] + rotation[body] @ self.location[marker] - joint[body]
        share = float(place @ along) / max(length**2, 1e-12)
        return length > _SHORTEST_LIMB and _LIMB_MIDDLE[0] < share < _LIMB_MIDDLE[1]

    def _carries_markers(self, body: int) -> bool:
        below = {body}
        for b in self.order:
            if int(self.parent[b]) in below:
                below.add(b)
        return bool(np.isin(self.marker_body, list(below)).any())

    def _read_priors(self, symmetric: bool) -> None:
        """``log factors = mixing @ parameters``: the whole body, segments, axes; and the precision of the parameters."""
        groups: dict[str, int] = {}
        which = []
        for name in self.bodies:
            twin = mirrored(name)
            key = min(name, twin) if symmetric and twin in self.bodies else name
            which.append(groups.setdefault(key, len(groups)))
        count, bodies = len(groups), len(self.bodies)
        mixing = np.zeros((bodies, 3, 1 + 4 * count))
        mixing[:, :, 0] = 1.0
        for body, group in enumerate(which):
            mixing[body, :, 1 + group] = 1.0
            mixing[body, range(3), 1 + count + 3 * group + np.arange(3)] = 1.0
        self.mixing = mixing.reshape(3 * bodies, -1)
        precision = np.zeros((1 + 4 * count, 1 + 4 * count))
        precision[0, 0] = self.prior.size**-2
        marked = {which[b] for b in self.marker_body}
        for group in range(count):
            precision[1 + group, 1 + group] += self.prior.segment**-2 if group in marked else (10 * self.prior.segment) ** -2
        for child, group in enumerate(which):
            if self.parent[child] != -1 and which[self.parent[child]] != group:
                pair = np.zeros(len(precision))
                pair[[1 + group, 1 + which[self.parent[child]]]] = 1.0, -1.0
                precision += np.outer(pair, pair) / self.prior.neighbor**2
        axes = np.arange(1 + count, len(precision))
        precision[axes, axes] = self.prior.axis**-2
        self.precision = precision
        spread = np.where(self.technical, self.prior.technical, self.prior.bony)
        self.offset_precision = np.repeat(spread**-2.0, 3)

    def _read_coordinates(self) -> None:
        """Limits, which coordinates move, and what they are drawn to: the model's default, but the root."""
        from imdy_plugin.solvers.multibody.mechanics import body_mechanics

        mechanics = body_mechanics(self.model)
        self.bounds, self.goal = mechanics.bounds, np.asarray(mechanics.default_values, float)
        lower, upper = self.bounds.T
        fixed = np.asarray(mechanics.locked, bool) | (lower >= upper)
        fixed[list(mechanics.couplings)] = True
        self.free = np.flatnonzero(~fixed)
        self.pull = np.full(len(self.coordinates), self.prior.angle**-2.0)
        self.pull[[self.coordinates.index(name) for name in mechanics.root_coordinates]] = _HOLD

    def start(self, size: float) -> FloatArray:
        """Poses ``(frame, coordinate)`` of the generic model enlarged by one factor, that fit the markers best."""
        from imdy_plugin.solvers.multibody.inverse_kinematics import fit_markers
        from imdy_plugin.solvers.multibody.mechanics import BodyMechanics

        mechanics = BodyMechanics(scaled_dataset(self.model, np.full((len(self.bodies), 3), size)))
        found = fit_markers(mechanics, np.arange(float(len(self.measured))), self.names, self.measured).value
        return np.where(np.isfinite(found), found, self.goal)

    # What the parameters give ---------------------------------------------------------------------------------------------

    def factors(self, size: FloatArray) -> FloatArray:
        """Scale factors ``(body, 3)`` by the size parameters."""
        return np.exp(self.mixing @ size).reshape(-1, 3)

    def multibody(self, factors: FloatArray) -> Multibody:
        """Mechanics of the model with these factors."""
        from imdy_plugin.solvers.multibody import Multibody

        return Multibody(scaled_dataset(self.model, factors))

    def evaluate(self, size: FloatArray, offset: FloatArray, pose: FloatArray) -> _Point:
        """Markers, and their derivatives by poses, sizes and offsets."""
        factors = self.factors(size)
        body = self.multibody(factors)
        q = body.couple(body.tensor(pose))
        state = body.kinematics(q)
        rotation, position = state.rotation.numpy(), state.position.numpy()
        arm = self.location * factors[self.marker_body]
        turned = rotation[:, self.marker_body]
        place = position[:, self.marker_body] + np.einsum("fmij,mj->fmi", turned, arm + offset)
        return _Point(self, body, q.numpy(), rotation, position, place, arm, offset)

    def cost(self, point: _Point, size: FloatArray) -> float:
        """Minus twice the logarithm of the posterior, up to a constant."""
        error = np.where(self.seen[..., None], point.place - np.nan_to_num(self.measured), 0.0) / self.prior.noise
        pose = (point.pose - self.goal)[:, self.free]
        prior = size @ self.precision @ size + self.offset_precision @ point.offset.ravel() ** 2
        return float((error**2).sum() + prior + (self.pull[self.free] * pose**2).sum())


@dataclass(frozen=True)
class _Point:
    """One evaluation: a scaled model in all frames."""

    problem: SizeProblem
    body: Multibody
    pose: FloatArray
    rotation: FloatArray
    position: FloatArray
    place: FloatArray
    arm: FloatArray
    offset: FloatArray

    def pose_slopes(self) -> FloatArray:
        """Derivatives of the markers by the free coordinates ``(frame, marker, 3, coordinate)``, followers led."""
        problem = self.problem
        location = self.body.marker_location.clone()
        chosen = self.body.index("marker", problem.names)
        location[chosen] = self.body.tensor(self.arm + self.offset)
        q = self.body.tensor(self.pose)
        slopes = self.body.replace(marker_location=location).marker_jacobian(q, problem.names).numpy()
        for follower, leader, slope in reversed(self.body.coupling_slopes(q)):
            slopes[..., leader] += slopes[..., follower] * slope.numpy()[:, None, None]
        return np.ascontiguousarray(slopes[..., problem.free])

    def size_slopes(self) -> FloatArray:
        """Derivatives of the markers by the logarithms of the factors ``(frame, marker, 3, 3 bodies)``.

        A body's origin is that of its parent, plus the way to its joint in the parent, which is scaled with the parent (of other joints than
        CustomJoints without their translation), less the way from its own origin to the joint, scaled with itself. Rotations do not depend on size.
        """
        problem, (frames, bodies) = self.problem, self.position.shape[:2]
        parent, child = self.body.joint_parent_location.numpy(), self.body.joint_child_location.numpy()
        joint = _joints(self.rotation, self.position, child)
        origin = np.zeros((frames, bodies, 3, bodies, 3))
        for c in problem.order:
            b = int(problem.parent[c])
            if b != -1:
                origin[:, c] = origin[:, b]
                moved = np.einsum("fji,fj->fi", self.rotation[:, b], joint[:, c] - self.position[:, b])
                way = moved if problem.stretches[c] else np.broadcast_to(parent[c], moved.shape)
                origin[:, c, :, b] += self.rotation[:, b] * way[:, None, :]
            origin[:, c, :, c] -= self.rotation[:, c] * child[c]
        slopes = origin[:, problem.marker_body]
        markers = np.arange(len(problem.marker_body))
        own = self.rotation[:, problem.marker_body] * self.arm[:, None, :]
        slopes[:, markers, :, problem.marker_body] += np.moveaxis(own, 0, 1)
        return slopes.reshape(frames, len(markers), 3, -1)


def overall_size(model: xr.Dataset, names: Sequence[str], measured: FloatArray) -> float:
    """Size of the whole body over the generic model's, from distances between markers of the same body.

    Parameters
    ----------
    model
        The generic model.
    names, measured
        Markers of the model and where they were ``(frame, marker, 3)`` [m].

    Returns
    -------
    float
        Geometric mean over pairs, weighted by the generic distance; 1 where no body has two markers.
    """
    marker = [str(m) for m in model["marker"].values]
    chosen = [marker.index(name) for name in names]
    body, location = model["marker_body"].values[chosen], model["marker_location"].values[chosen]
    first, second = np.triu_indices(len(names), 1)
    same = body[first] == body[second]
    first, second = first[same], second[same]
    generic = np.linalg.norm(location[first] - location[second], axis=1)
    distance = np.linalg.norm(measured[:, first] - measured[:, second], axis=-1)
    used = (generic > _SHORTEST_PAIR) & np.isfinite(distance).any(axis=0)
    if not used.any():
        return 1.0
    ratio = np.nanmedian(distance[:, used], axis=0) / generic[used]
    return float(np.exp(np.average(np.log(np.maximum(ratio, 1e-3)), weights=generic[used])))


def _joints(rotation: FloatArray, position: FloatArray, child: FloatArray) -> FloatArray:
    """Where each body's joint is in ground ``(frame, body, 3)``."""
    joints: FloatArray = position + np.einsum("fbij,bj->fbi", rotation, child)
    return joints


def fit_size(problem: SizeProblem) -> SizeFit:
    """Fit sizes, marker places and poses, from nothing but the markers.

    Raises
    ------
    InputError
        The markers do not tell where the model is in any frame.
    SolverError
        Neither markers nor prior tell something that is sought.
    """
    size = overall_size(problem.model, problem.names, problem.measured)
    with one_thread():
        state = _Fit(problem, problem.start(size), size)
        ended = False
        for step in range(_MAX_STEPS):
            report_progress("fitting the size", step, _MAX_STEPS)
            ended = state.step()
            if ended:
                break
        report_progress("fitting the size", _MAX_STEPS, _MAX_STEPS)
        return state.result(step + 1, ended)


class _Fit:
    def __init__(self, problem: SizeProblem, start: FloatArray, size: float) -> None:
        self.problem = problem
        self.size = np.zeros(problem.mixing.shape[1])
        self.size[0] = np.log(size)
        self.offset = np.zeros((len(problem.names), 3))
        self.pose = np.array(start, float)
        self.damping = 1e-3
        self.point = problem.evaluate(self.size, self.offset, self.pose)
        self.cost = problem.cost(self.point, self.size)

    def step(self) -> bool:
        """One accepted step, or as many refused ones as it takes to find one; whether it gained next to nothing, or there is none."""
        equations = self._equations()
        for _ in range(_MAX_REFUSALS):
            change_pose, change_shared = equations.solve(self.damping)
            size = self.size + change_shared[: len(self.size)]
            offset = self.offset + change_shared[len(self.size) :].reshape(-1, 3)
            pose = self.pose.copy()
            pose[:, self.problem.free] += change_pose
            lower, upper = self.problem.bounds.T
            pose = np.clip(pose, lower, upper)
            point = self.problem.evaluate(size, offset, pose)
            cost = self.problem.cost(point, size)
            if cost <= self.cost:
                small = self.cost - cost < _SETTLED * self.cost
                self.size, self.offset, self.pose, self.point, self.cost = size, offset, point.pose, point, cost
                self.damping = max(self.damping / 10.0, 1e-9)
                return small
            self.damping *= 10.0
        return True

    def _equations(self) -> _Equations:
        problem, point = self.problem, self.point
        weight = np.where(problem.seen, 1.0 / problem.prior.noise, 0.0)[..., None]
        error = np.where(problem.seen[..., None], point.place - np.nan_to_num(problem.measured), 0.0) * weight
        frames, markers = problem.seen.shape
        by_pose = (point.pose_slopes() * weight[..., None]).reshape(frames, 3 * markers, -1)
        by_size = (point.size_slopes() @ problem.mixing) * weight[..., None]
        by_offset = np.zeros((frames, markers, 3, markers, 3))
        each = np.arange(markers)
        by_offset[:, each, :, each] = np.moveaxis(point.rotation[:, problem.marker_body] * weight[..., None], 0, 1)
        shared = np.concatenate([by_size, by_offset.reshape(frames, markers, 3, -1)], axis=-1).reshape(frames, 3 * markers, -1)
        pull = problem.pull[problem.free]
        return _Equations.build(
            by_pose,
            shared,
            error.reshape(frames, -1),
            pull,
            pull * (point.pose - problem.goal)[:, problem.free],
            self._blocked(point.pose),
            np.concatenate([problem.precision @ self.size, problem.offset_precision * self.offset.ravel()]),
            _block(problem.precision, problem.offset_precision),
        )

    def _blocked(self, pose: FloatArray) -> tuple[BoolArray, BoolArray]:
        """Which free coordinates are at their lower and their upper limit."""
        lower, upper = self.problem.bounds[self.problem.free].T
        q = pose[:, self.problem.free]
        return q <= lower, q >= upper

    def result(self, steps: int, ended: bool) -> SizeFit:
        """What was found, with the markers at the mean of where they were measured on their bodies."""
        problem, point = self.problem, self.point
        away = problem.measured - (point.place - np.einsum("fmij,mj->fmi", point.rotation[:, problem.marker_body], self.offset))
        measured = np.einsum("fmji,fmj->fmi", point.rotation[:, problem.marker_body], away)
        offset = np.nanmean(measured, axis=0)
        rms: FloatArray = np.sqrt(np.nanmean(((measured - offset) ** 2).sum(axis=-1), axis=0))
        equations = self._equations()
        covariance = equations.covariance(len(self.size))
        converged = ended and equations.promised() <= _UNSETTLED * max(self.cost, 1.0)
        spread = np.sqrt(np.einsum("ij,jk,ik->i", problem.mixing, covariance, problem.mixing)).reshape(-1, 3)
        return SizeFit(problem.factors(self.size), offset, problem.technical, point.pose, rms, spread, steps, converged)


def _block(first: FloatArray, diagonal: FloatArray) -> FloatArray:
    out = np.zeros((len(first) + len(diagonal),) * 2)
    out[: len(first), : len(first)] = first
    tail = np.arange(len(first), len(out))
    out[tail, tail] = diagonal
    return out


@dataclass(frozen=True)
class _Equations:
    """Normal equations with one block for each frame's pose and one for what frames share."""

    pose: FloatArray
    mixed: FloatArray
    shared: FloatArray
    pose_gradient: FloatArray
    shared_gradient: FloatArray

    @classmethod
    def build(
        cls,
        by_pose: FloatArray,
        by_shared: FloatArray,
        error: FloatArray,
        pull: FloatArray,
        pull_gradient: FloatArray,
        at_limit: tuple[BoolArray, BoolArray],
        prior_gradient: FloatArray,
        precision: FloatArray,
    ) -> _Equations:
        """From derivatives ``(frame, row, ...)``, errors and priors; coordinates pressed against a limit are held."""
        gradient = np.einsum("frc,fr->fc", by_pose, error) + pull_gradient
        held = (at_limit[0] & (gradient > 0)) | (at_limit[1] & (gradient < 0))
        by_pose = np.where(held[:, None, :], 0.0, by_pose)
        transposed = by_pose.transpose(0, 2, 1)
        pose = _product(transposed, by_pose)
        diagonal = np.arange(pose.shape[1])
        pose[:, diagonal, diagonal] += pull + held
        mixed = _product(transposed, by_shared)
        flat = by_shared.reshape(-1, by_shared.shape[-1])
        shared_gradient = flat.T @ error.ravel() + prior_gradient
        return cls(pose, mixed, _product(flat.T, flat) + precision, np.where(held, 0.0, gradient), shared_gradient)

    def solve(self, damping: float) -> tuple[FloatArray, FloatArray]:
        """Damped Gauss-Newton step: of the poses ``(frame, coordinate)`` and of what frames share."""
        pose, shared = self.pose.copy(), self.shared.copy()
        rows = np.arange(pose.shape[1])
        pose[:, rows, rows] *= 1.0 + damping
        shared[np.diag_indices_from(shared)] *= 1.0 + damping
        solved = _solution(pose, np.concatenate([self.mixed, self.pose_gradient[..., None]], axis=-1))
        shares = len(self.shared)
        eliminated = _product(self.mixed.reshape(-1, shares).T, solved.reshape(-1, shares + 1))
        change = -_solution(shared - eliminated[:, :-1], (self.shared_gradient - eliminated[:, -1])[:, None])[:, 0]
        return -solved[..., -1] - solved[..., :-1] @ change, change

    def promised(self) -> float:
        """How much a step without damping would lower the cost, were the problem linear."""
        pose, shared = self.solve(0.0)
        return -float((self.pose_gradient * pose).sum() + self.shared_gradient @ shared)

    def covariance(self, count: int) -> FloatArray:
        """Covariance of the first ``count`` of what frames share."""
        shares = len(self.shared)
        solved = _solution(self.pose, self.mixed)
        reduced = self.shared - _product(self.mixed.reshape(-1, shares).T, solved.reshape(-1, shares))
        return _solution(reduced, np.eye(shares))[:count, :count]


def _product(a: FloatArray, b: FloatArray) -> FloatArray:
    """Matrix product by torch, whose threads can be told to rest."""
    product: FloatArray = (torch.from_numpy(np.ascontiguousarray(a)) @ torch.from_numpy(np.ascontiguousarray(b))).numpy()
    return product


def _solution(matrix: FloatArray, right: FloatArray) -> FloatArray:
    solution, info = torch.linalg.solve_ex(torch.from_numpy(matrix), torch.from_numpy(np.ascontiguousarray(right)))
    solved: FloatArray = solution.numpy()
    if bool(info.any()) or not np.isfinite(solved).all():
        raise SolverError(
            "the fit of a person's size has no single answer: neither the markers nor what is known before tell some size, place or pose; "
            "give frames that show more of the model's markers, finite spreads in the prior, or a ScaleTool setup (setup=...)"
        )
    return solved
