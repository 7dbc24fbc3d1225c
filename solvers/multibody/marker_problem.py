"""The least-squares problem that inverse kinematics solves, for many frames at once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from imdy_plugin.solvers.multibody.body import Moments, Multibody, Spatial, cross, product, turn

_STILL = 1e-9
"""Added to the normal matrix's diagonal, so that coordinates of which no marker tells stay where they are."""


@dataclass(frozen=True)
class Task:
    """A coordinate that is drawn to a value ``(frame,)`` with a weight, one or one for each frame; NaN draws to nothing."""

    coordinate: int
    value: Tensor
    weight: float | Tensor


@dataclass(frozen=True)
class Linearization:
    """The problem about a pose.

    Attributes
    ----------
    cost, descent
        ``(frame,)``, and half of its derivative turned downhill ``(free, frame)``.
    matrix
        Half of the second derivative ``(frame, free, free)``, lower part: the normal matrix, and in the frames where that was asked
        what the markers' distances to the model add to it, where these are not small.
    scale
        Diagonal of the normal matrix alone ``(free, frame)``.
    """

    cost: Tensor
    descent: Tensor
    matrix: Tensor | None = None
    scale: Tensor | None = None


@dataclass(frozen=True)
class Measured:
    """Weighted sums over each body's visible markers; places in the body are ``l``, measured ones, less the frame's ``middle``, ``t``.

    ``mass (body, frame)``: of the weights; ``location (3, body, frame)``: of ``l``; ``target``: of ``t``; ``mixed (3, 3, body,
    frame)``: of ``l t'``; ``second``: of ``l l'``; ``spread (body, frame)``: of ``l.l``; ``square (frame,)``: of ``t.t``; and
    the values ``wanted (task, frame)`` of the coordinates that are drawn, with their weights ``drawn (task, frame)``.
    """

    middle: Tensor
    mass: Tensor
    location: Tensor
    target: Tensor
    mixed: Tensor
    second: Tensor
    spread: Tensor
    square: Tensor
    wanted: Tensor
    drawn: Tensor

    def at(self, chosen: Tensor) -> Measured:
        """Of some of these frames: indices, or whether each is meant."""
        return Measured(*(getattr(self, name)[..., chosen] for name in self.__dataclass_fields__))


class MarkerProblem:
    """Sum of the markers' weighted squared distances, and of the tasks', by the free coordinates.

    All that markers say is summed body by body before the first step: markers are points of mass on the bodies, the normal matrix
    is the mass matrix that these would have, and the descent is the wrench of springs between them and where they were. A step
    costs the same however many markers there are.

    Parameters
    ----------
    body
        The model.
    markers
        Names.
    target
        Where they were ``(3, marker, frame)`` [m], NaN where missing.
    weights
        Of each marker's squared distance ``(marker,)``.
    locked, lower, upper
        For each coordinate whether it is fixed, and its limits [rad or m].
    tasks
        Coordinates that are drawn to values.

    Attributes
    ----------
    free
        Indices of the coordinates that are sought, those nearer to ground first.
    """

    def __init__(
        self, body: Multibody, markers: Sequence[str], target: Tensor, weights: Tensor, locked: Tensor, lower: Tensor, upper: Tensor, tasks: Sequence[Task] = ()
    ) -> None:
        self.body, self.tasks = body, tuple(tasks)
        chosen = body.index("marker", markers)
        chosen, target = chosen[~body.is_ground_marker[chosen]], target[:, ~body.is_ground_marker[chosen]]
        weights = weights[~body.is_ground_marker[body.index("marker", markers)]]
        self._marked = torch.unique(body.marker_body[chosen])
        self._owner = body.tensor(self._marked[:, None] == body.marker_body[chosen])
        self._location, self._target, self._weights = body.marker_location[chosen].mT[..., None], target, weights
        followers = body.followers
        free = [i for i in range(len(body.coordinates)) if i not in followers and not bool(locked[i])]
        self.free = body.from_ground(free)
        self.lower, self.upper = lower[self.free, None], upper[self.free, None]
        self._path, self._carries = body.on_path(self.free), body.carries_body[:, self._marked]
        self._leads = bool((self._carries[list(followers)] > 0).any())

    def lawful(self, q: Tensor) -> Tensor:
        """Coordinates ``(coordinate, frame)`` within their limits, with those that follow others set to what they follow."""
        out = q.clone()
        out[self.free] = torch.clamp(q[self.free], self.lower, self.upper)
        return self.body.couple(out.mT).mT if self.body.followers else out

    def measured(self, frames: Tensor) -> Measured:
        """What was measured in some frames (indices)."""
        owner, place, target = self._owner, self._location, self._target[:, :, frames]
        seen = torch.isfinite(target).all(dim=0)
        weight = torch.where(seen, self._weights[:, None], 0.0)
        middle = torch.where(seen, target, 0.0).sum(dim=1) / seen.sum(dim=0).clamp(min=1)
        shifted = torch.where(seen, target - middle[:, None], 0.0)
        return Measured(
            middle=middle,
            mass=owner @ weight,
            location=owner @ (place * weight),
            target=owner @ (shifted * weight),
            mixed=owner @ (place[:, None] * (shifted * weight)[None]),
            second=owner @ (place[:, None] * place[None] * weight),
            spread=owner @ ((place * place).sum(dim=0) * weight),
            square=(shifted * shifted * weight).sum(dim=(0, 1)),
            wanted=torch.stack([task.value[frames] for task in self.tasks]) if self.tasks else middle[:0],
            drawn=torch.stack([(task.weight * torch.isfinite(task.value))[frames] for task in self.tasks]) if self.tasks else middle[:0],
        )

    def linearize(self, q: Tensor, sums: Measured, curved: Tensor | None = None) -> Linearization:
        """The problem of frames about ``q (coordinate, frame)``, and what was :meth:`measured` in them.

        Without ``curved`` there is no matrix; with it, that of Newton where it is true ``(frame,)``, of Gauss and Newton elsewhere.
        """
        state = self.body.kinematics(q.mT)
        rotation, origin = state.inner_rotation[:, :, self._marked], state.inner_position[:, self._marked]
        center, place = origin - sums.middle[:, None], origin - state.inner_reference[:, None]
        turned = turn(rotation, sums.location)
        pull = sums.target - sums.mass * center - turned
        mixed = product(rotation, sums.mixed)
        twist = torch.stack([mixed[1, 2] - mixed[2, 1], mixed[2, 0] - mixed[0, 2], mixed[0, 1] - mixed[1, 0]])
        cost = (
            sums.square - (center * (sums.target + pull - turned)).sum(dim=(0, 1)) + (sums.spread - 2.0 * (mixed[0, 0] + mixed[1, 1] + mixed[2, 2])).sum(dim=0)
        )
        wrench = Spatial(twist - cross(turned, center) + cross(place, pull), pull).summed(self._carries)
        motion = state.inner_motion
        descent = (motion.angular * wrench.angular + motion.linear * wrench.linear).sum(dim=0)
        matrix = scale = None
        if curved is not None:
            own = product(product(rotation, sums.second), rotation.transpose(0, 1))
            momentum = _moments(sums, turned, place, own).summed(self._carries).momentum(motion)
            dyad = place[:, None] * pull[None] + mixed - turned[:, None] * center[None] - own
            bent = self._bend(motion, self._carries @ pull, self._carries @ dyad) * curved
            matrix, scale = self._second_derivative(motion, momentum, bent)
        return self._with_tasks(q, sums, self._led(q, Linearization(cost, descent, matrix, scale)))

    def marker_normal(self, q: Tensor, frames: Tensor) -> Tensor:
        """What the markers alone put into the normal matrix ``(frame, free, free)``, lower part."""
        normal = self.without_tasks().linearize(q, self.measured(frames), torch.zeros_like(frames, dtype=torch.bool)).matrix
        assert normal is not None
        normal.diagonal(dim1=1, dim2=2).sub_(_STILL)
        return normal

    def without_tasks(self) -> MarkerProblem:
        """The same problem with nothing but markers."""
        other = copy.copy(self)
        other.tasks = ()
        return other

    def _second_derivative(self, motion: Spatial, momentum: Spatial, bent: Tensor) -> tuple[Tensor, Tensor]:
        """Matrix and scale; by all coordinates where followers are felt, and then without what ``bent`` adds."""
        if self._leads:
            normal = self.body.path_products(momentum, motion)
            return normal, normal.diagonal(dim1=1, dim2=2).mT
        left, right = (torch.cat([part.linear, part.angular])[:, self.free] for part in (momentum, motion))
        scale = (left * right).sum(dim=0)
        left, right = torch.cat([left, -bent]), torch.cat([right, right[3:]])
        return torch.bmm(left.permute(2, 1, 0).contiguous(), right.permute(2, 0, 1).contiguous()).mul_(self._path), scale

    def _bend(self, motion: Spatial, pull: Tensor, dyad: Tensor) -> Tensor:
        """What the markers' distances say against turning what each coordinate moves ``(3, free, frame)``.

        A point that coordinate ``k`` moves by ``v`` is moved by ``j``, which carries ``k``, so that ``v`` turns with ``j``: this,
        times the axis of ``j``, is the distances times the second derivatives of the markers' places. What functions of
        coordinates bend is left out; it is small and the answer does not depend on it.
        """
        turning = motion.angular[:, self.free]
        spread = dyad[:, :, self.free]
        trace = spread[0, 0] + spread[1, 1] + spread[2, 2]
        return cross(motion.linear[:, self.free], pull[:, self.free]) + turn(spread, turning) - trace * turning

    def _led(self, q: Tensor, whole: Linearization) -> Linearization:
        """Hand what pulls at followers on to their leaders, and keep the free coordinates."""
        descent, matrix = whole.descent, whole.matrix
        for follower, leader, slope in reversed(self.body.coupling_slopes(q.mT) if self._leads else []):
            descent[leader] += slope * descent[follower]
            if matrix is not None:
                matrix[:, leader] += slope[:, None] * matrix[:, follower]
                matrix[:, :, leader] += slope[:, None] * matrix[:, :, follower]
        if matrix is None or not self._leads:
            return replace(whole, descent=descent[self.free])
        matrix = matrix[:, self.free][:, :, self.free]
        return Linearization(whole.cost, descent[self.free], matrix, matrix.diagonal(dim1=1, dim2=2).mT.clone())

    def _with_tasks(self, q: Tensor, sums: Measured, plain: Linearization) -> Linearization:
        cost, descent, matrix, scale = plain.cost, plain.descent, plain.matrix, plain.scale
        for task, wanted, weight in zip(self.tasks, sums.wanted, sums.drawn, strict=False):
            row = (self.free == task.coordinate).nonzero()
            if not len(row):
                continue
            off = torch.nan_to_num(wanted - q[task.coordinate])
            cost = cost + weight * off**2
            descent[row[0, 0]] += weight * off
            if matrix is not None and scale is not None:
                matrix[:, row[0, 0], row[0, 0]] += weight
                scale[row[0, 0]] += weight
        if matrix is not None and scale is not None:
            matrix.diagonal(dim1=1, dim2=2).add_(_STILL)
            scale += _STILL
        return Linearization(cost, descent, matrix, scale)


def _moments(sums: Measured, turned: Tensor, place: Tensor, own: Tensor) -> Moments:
    """Moments of the bodies' markers about the reference, each marker a point of the mass of its weight."""
    first = sums.mass * place + turned
    outer = place[:, None] * first[None] + turned[:, None] * place[None] + own
    trace = outer[0, 0] + outer[1, 1] + outer[2, 2]
    eye = torch.eye(3, dtype=place.dtype, device=place.device)[:, :, None, None]
    return Moments(sums.mass, first, trace * eye - outer)
