"""Rigid-body mechanics of a whole model for many frames at once, in torch, differentiable.

All sums over the tree are products with constant 0/1 matrices (who carries whom), so that a thousand frames cost as many calls
as one, on any device. Motions, momenta and forces are spatial vectors (Featherstone, Rigid Body Dynamics Algorithms, 2008):
angular part first, taken about one point that is fixed in ground, in ground axes. Each frame has a point of its own, the origin
of the first body, so that nothing is lost far from the ground's origin.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from imdy_plugin.errors import InputError, UnknownNameError
from imdy_plugin.solvers.multibody.functions import FunctionTable
from imdy_plugin.solvers.multibody.tree import FloatArray, Tree, compile_tree, skew

PARAMETERS = ("body_mass", "body_center_of_mass", "body_inertia", "marker_location", "joint_parent_location", "joint_child_location", "gravity")
"""What :meth:`Multibody.replace` can put tensors in the place of."""


_FEW = 8192
"""Numbers up to which it is the number of calls that costs, not what they do."""


@dataclass(frozen=True)
class Load:
    """One external load on one body, all in the ground frame.

    Attributes
    ----------
    body
        Name of the body.
    force
        ``(..., 3)`` [N].
    point
        Point of application ``(..., 3)`` [m].
    moment
        Moment about that point ``(..., 3)`` [N m].
    """

    body: str
    force: Tensor
    point: Tensor
    moment: Tensor


class Kinematics:
    """Motion of all bodies in the ground frame.

    Inside, tensors have their components first and their frames last, ``(3, body, frame)``: every operation then runs over
    contiguous frames, and every sum over the tree is one matrix product. What is public has the frames' dimensions first.
    """

    def __init__(self, shape: torch.Size, rotation: Tensor, position: Tensor, reference: Tensor, motion: Spatial) -> None:
        self._shape = shape
        self.inner_rotation, self.inner_position, self.inner_reference, self.inner_motion = rotation, position, reference, motion
        self._velocity: Spatial | None = None
        self._acceleration: Spatial | None = None

    @property
    def inner_velocity(self) -> Spatial:
        """Spatial velocities of the bodies."""
        return _given(self._velocity, "velocities")

    @inner_velocity.setter
    def inner_velocity(self, value: Spatial) -> None:
        self._velocity = value

    @property
    def inner_acceleration(self) -> Spatial:
        """Spatial accelerations of the bodies."""
        return _given(self._acceleration, "accelerations")

    @inner_acceleration.setter
    def inner_acceleration(self, value: Spatial) -> None:
        self._acceleration = value

    @property
    def rotation(self) -> Tensor:
        """Rotations of the body frames ``(..., body, 3, 3)``."""
        return self.outer(self.inner_rotation)

    @property
    def position(self) -> Tensor:
        """Origins of the body frames ``(..., body, 3)`` [m]."""
        return self.outer(self.inner_position)

    def points(self, body: Tensor, location: Tensor) -> Tensor:
        """Positions ``(..., point, 3)`` [m] of points fixed to bodies: indices ``(point,)`` and places ``(point, 3)`` in them."""
        return self.outer(self.inner_points(body, location))

    def point_velocities(self, body: Tensor, location: Tensor) -> Tensor:
        """Velocities ``(..., point, 3)`` [m/s] of such points.

        Raises
        ------
        InputError
            The motion was computed without rates.
        """
        return self.outer(self._point_velocities(body, self._arms(body, location)))

    def point_accelerations(self, body: Tensor, location: Tensor) -> Tensor:
        """Accelerations ``(..., point, 3)`` [m/s^2] of such points: ``a = a0 + alpha x r + omega x v``.

        Raises
        ------
        InputError
            The motion was computed without rates or without their derivatives.
        """
        return self.outer(self.inner_point_accelerations(body, location))

    def outer(self, inner: Tensor) -> Tensor:
        """A tensor ``(..., item, frame)`` with components first, as ``(frames..., item, components...)``."""
        components = inner.dim() - 2
        return inner.permute(-1, -2, *range(components)).reshape(*self._shape, inner.shape[-2], *inner.shape[:-2])

    def inner_points(self, body: Tensor, location: Tensor) -> Tensor:
        """Positions ``(3, point, frame)``."""
        return self.inner_position[:, body] + turn(self.inner_rotation[:, :, body], location.mT[..., None])

    def inner_point_accelerations(self, body: Tensor, location: Tensor) -> Tensor:
        """Accelerations ``(3, point, frame)``."""
        arm = self._arms(body, location)
        acceleration = self.inner_acceleration
        moved = acceleration.linear[:, body] + cross(acceleration.angular[:, body], arm)
        return moved + cross(self.inner_velocity.angular[:, body], self._point_velocities(body, arm))

    def _arms(self, body: Tensor, location: Tensor) -> Tensor:
        return self.inner_points(body, location) - self.inner_reference[:, None]

    def _point_velocities(self, body: Tensor, arm: Tensor) -> Tensor:
        return self.inner_velocity.linear[:, body] + cross(self.inner_velocity.angular[:, body], arm)


def _given(part: Spatial | None, what: str) -> Spatial:
    if part is None:
        raise InputError(f"{what} are not known: give kinematics the coordinates' rates{' and their derivatives' if what == 'accelerations' else ''}")
    return part


@dataclass(frozen=True)
class Spatial:
    """Spatial vectors about each frame's reference point: angular and linear part, each ``(3, item, frame)``."""

    angular: Tensor
    linear: Tensor

    def __add__(self, other: Spatial) -> Spatial:
        return Spatial(self.angular + other.angular, self.linear + other.linear)

    def __mul__(self, factor: Tensor) -> Spatial:
        return Spatial(self.angular * factor, self.linear * factor)

    def summed(self, matrix: Tensor) -> Spatial:
        """Sums over items by a constant matrix ``(sum, item)``."""
        return Spatial(matrix @ self.angular, matrix @ self.linear)

    def crossed(self, other: Spatial) -> Spatial:
        """Rate of a motion ``other`` that is fixed in a frame moving by this one."""
        return Spatial(cross(self.angular, other.angular), cross(self.angular, other.linear) + cross(self.linear, other.angular))


@dataclass(frozen=True)
class Moments:
    """Mass, first and second moment of bodies about each frame's reference: ``(item, frame)``, ``(3, item, frame)``, ``(3, 3, item, frame)``.

    The second moment is that of inertia, ``sum m (r.r 1 - r r')``.
    """

    mass: Tensor
    first: Tensor
    second: Tensor

    def momentum(self, motion: Spatial) -> Spatial:
        """Spatial momentum of bodies with these moments that move so: the angular part about the reference."""
        angular = turn(self.second, motion.angular) + cross(self.first, motion.linear)
        return Spatial(angular, self.mass * motion.linear - cross(self.first, motion.angular))

    def summed(self, matrix: Tensor) -> Moments:
        """Sums over items by a constant matrix ``(sum, item)``."""
        return Moments(matrix @ self.mass, matrix @ self.first, matrix @ self.second)


class Multibody:
    """Mechanics of one model.

    Coordinates are ``(..., coordinate)`` tensors in the order of :attr:`coordinates`, radians and metres; any leading dimensions
    (trials, frames). Generalized forces are conjugate to the coordinates' rates. Constraints are ignored unless a method says
    otherwise: a coupled coordinate is a coordinate, and :meth:`couple` sets it to what it follows.

    Parameters
    ----------
    model
        A model (:func:`imdy_plugin.schema.new_model`).
    dtype, device
        Of all tensors.
    simbody_rates
        Differentiate the axes of custom joints as OpenSim's engine does, instead of exactly. Where one coordinate drives several
        rotations (a knee whose abduction follows its flexion), Simbody's ``FunctionBased`` mobilizer turns the second axis with
        the third as well; its accelerations are then not the derivatives of its velocities. For comparisons only. (Simbody also
        leaves a constant rotation out of the axes that come after it, so that its velocities are not the derivatives of its
        positions; no model in use has one, and this is not reproduced.)

    Attributes
    ----------
    coordinates, bodies, markers
        Names.
    tree
        Bodies, joints and couplings.
    body_mass, body_center_of_mass, body_inertia
        ``(body,)`` [kg], ``(body, 3)`` [m], ``(body, 3, 3)`` [kg m^2] about the centre of mass in body axes.
    marker_location
        ``(marker, 3)`` in its body [m].
    joint_parent_location, joint_child_location
        Place of each body's joint in its parent and in itself ``(body, 3)`` [m], in the order of the bodies.
    gravity
        ``(3,)`` [m/s^2].
    carries_body
        1 where a coordinate moves a body ``(coordinate, body)``, else 0.
    marker_body, is_ground_marker
        Index of each marker's body, and whether it is fixed to ground instead ``(marker,)``.

    Raises
    ------
    InputError
        The model holds what cannot be represented; the error names it. Or the type is none of real numbers.
    """

    body_mass: Tensor
    body_center_of_mass: Tensor
    body_inertia: Tensor
    marker_location: Tensor
    joint_parent_location: Tensor
    joint_child_location: Tensor
    gravity: Tensor

    def __init__(self, model: xr.Dataset, dtype: torch.dtype = torch.float64, device: str | torch.device = "cpu", *, simbody_rates: bool = False) -> None:
        if not dtype.is_floating_point:
            raise InputError(f"dtype is {dtype}, which would cut masses and lengths; give torch.float64 or torch.float32")
        self.dtype, self.device = dtype, torch.device(device)
        self.coordinates = tuple(str(n) for n in model["coordinate"].values)
        self.bodies = tuple(str(n) for n in model["body"].values)
        self.markers = tuple(str(n) for n in model["marker"].values)
        self.tree = tree = compile_tree(model)
        self._read_parameters(model, tree)
        self._read_topology(tree, simbody_rates)
        self._read_movers(tree)
        self._read_couplings(tree)

    # What the model is ---------------------------------------------------------------------------------------------------

    def replace(self, **parameters: Tensor) -> Multibody:
        """The same model with other parameters (:data:`PARAMETERS`), which may carry gradients.

        Raises
        ------
        UnknownNameError
            There is no such parameter.
        InputError
            A tensor has another shape.
        """
        other = copy.copy(self)
        for name, value in parameters.items():
            if name not in PARAMETERS:
                raise UnknownNameError("parameter", name, PARAMETERS, "in a multibody model")
            if value.shape != getattr(self, name).shape:
                raise InputError(f"{name} has shape {tuple(value.shape)}, must be {tuple(getattr(self, name).shape)}")
            setattr(other, name, value.to(self.device, self.dtype))
        return other

    @property
    def mass(self) -> Tensor:
        """Total mass [kg]."""
        return self.body_mass.sum()

    def index(self, kind: str, names: Sequence[str]) -> Tensor:
        """Indices of bodies, markers or coordinates (``kind`` in the singular) by name.

        Raises
        ------
        UnknownNameError
            A name is not the model's.
        """
        known = {"body": self.bodies, "marker": self.markers, "coordinate": self.coordinates}[kind]
        for name in names:
            if name not in known:
                raise UnknownNameError(kind, name, known, "in this model")
        return torch.tensor([known.index(name) for name in names], dtype=torch.long, device=self.device)

    def from_ground(self, coordinates: Sequence[int]) -> Tensor:
        """Coordinates in an order in which each comes after those that carry it, those of one joint as they act."""
        bodies = self._hangs[self._coordinate_body].sum(dim=1).tolist()
        order = sorted(coordinates, key=lambda i: (bodies[i], int(self._coordinate_body[i]), float(self._rank[i])))
        return torch.tensor(order, dtype=torch.long, device=self.device)

    def on_path(self, coordinates: Tensor) -> Tensor:
        """1 where the second of two coordinates carries the first, or is of the same joint and acts no later ``(chosen, chosen)``."""
        return self._on_path[coordinates][:, coordinates]

    def tensor(self, values: Any) -> Tensor:
        """Values in the model's type, on its device."""
        return torch.as_tensor(values, dtype=self.dtype, device=self.device)

    # Kinematics ----------------------------------------------------------------------------------------------------------

    def kinematics(self, q: Tensor, qd: Tensor | None = None, qdd: Tensor | None = None) -> Kinematics:
        """Poses, and with rates also velocities and accelerations, of all bodies."""
        (_, slope, curvature), rotation, position, movers = self._pose(self._inner(q, q.shape[:-1]))
        state = Kinematics(q.shape[:-1], rotation, position, position[:, 0].detach(), (movers * slope).summed(self._weights.mT))
        if qd is None:
            return state
        rate = self._weighted(self._inner(qd, q.shape[:-1]))
        moving = movers * (slope * rate)
        state.inner_velocity = moving.summed(self._carried_by_mover)
        if qdd is not None:
            pushing = movers * (slope * self._weighted(self._inner(qdd, q.shape[:-1])) + curvature * rate**2)
            turned = moving.summed(self._before_mover).crossed(moving)
            state.inner_acceleration = (pushing + turned).summed(self._carried_by_mover)
        return state

    def marker_positions(self, q: Tensor, names: Sequence[str] | None = None) -> Tensor:
        """Positions of markers in ground ``(..., marker, 3)`` [m]; all by default."""
        chosen = self._chosen_markers(names)
        location = self.marker_location[chosen]
        moved = self.kinematics(q).points(self.marker_body[chosen], location)
        return torch.where(self.is_ground_marker[chosen][:, None], location, moved)

    def marker_jacobian(self, q: Tensor, names: Sequence[str] | None = None) -> Tensor:
        """Derivatives of the markers' positions by the coordinates ``(..., marker, 3, coordinate)``."""
        chosen = self._chosen_markers(names)
        moving = (~self.is_ground_marker[chosen]).to(self.dtype)
        return self._point_jacobian(q, self.marker_body[chosen], self.marker_location[chosen]) * moving[:, None, None]

    def point_jacobian(self, q: Tensor, body: str, points: Tensor) -> Tensor:
        """Derivatives ``(..., point, 3, coordinate)`` of the positions of ``points (point, 3)`` fixed to a body."""
        return self._point_jacobian(q, self.index("body", [body]).expand(len(points)), points)

    def center_of_mass(self, q: Tensor, qd: Tensor | None = None, qdd: Tensor | None = None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Position, velocity and acceleration of the whole body's centre of mass, each ``(..., 3)``; None without rates."""
        state = self.kinematics(q, qd, qdd)
        place = self._every_body, self.body_center_of_mass
        share = (self.body_mass / self.mass)[:, None]
        velocity = None if qd is None else (share * state.point_velocities(*place)).sum(dim=-2)
        acceleration = None if qdd is None else (share * state.point_accelerations(*place)).sum(dim=-2)
        return (share * state.points(*place)).sum(dim=-2), velocity, acceleration

    # Dynamics ------------------------------------------------------------------------------------------------------------

    def inverse_dynamics(self, q: Tensor, qd: Tensor, qdd: Tensor, loads: Sequence[Load] = ()) -> Tensor:
        """Generalized forces ``(..., coordinate)`` that make the model move so under gravity and external loads.

        Raises
        ------
        UnknownNameError
            A load acts on a body that the model lacks.
        """
        state = self.kinematics(q, qd, qdd)
        wrench = self._body_wrenches(state)
        for load in loads:
            acts = self._unit_bodies[self.index("body", [load.body])].mT
            force, point, moment = (self._inner(part, q.shape[:-1]) for part in (load.force, load.point, load.moment))
            applied = Spatial(moment + cross(point - state.inner_reference, force), force)
            wrench = wrench + Spatial(applied.angular[:, None], applied.linear[:, None]) * -acts
        carried = wrench.summed(self.carries_body)
        power = (state.inner_motion.angular * carried.angular + state.inner_motion.linear * carried.linear).sum(dim=0)
        return power.mT.reshape(q.shape)

    def ground_wrench(self, q: Tensor, qd: Tensor, qdd: Tensor) -> Tensor:
        """Force and moment about the ground's origin ``(..., 6)``, force first, that must act on the model from outside.

        Newton's and Euler's equations of all bodies: ``F = sum m (a - g)``, ``M = sum r x m (a - g) + I alpha + omega x I omega``.
        """
        state = self.kinematics(q, qd, qdd)
        wrench = self._body_wrenches(state)
        force, moment = wrench.linear.sum(dim=1), wrench.angular.sum(dim=1)
        return torch.cat([force, moment + cross(state.inner_reference, force)]).mT.reshape(*q.shape[:-1], 6)

    def momentum(self, q: Tensor, qd: Tensor, about: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Linear [kg m/s] and angular momentum [kg m^2/s], each ``(..., 3)``; the angular about ``about (..., 3)``, else the centre of mass."""
        state = self.kinematics(q, qd)
        momentum = self._moments(state).momentum(state.inner_velocity)
        linear, angular = (part.sum(dim=1).mT.reshape(*q.shape[:-1], 3) for part in (momentum.linear, momentum.angular))
        point = self.center_of_mass(q)[0] if about is None else about
        return linear, angular - _cross_rows(point - state.inner_reference.mT.reshape(linear.shape), linear)

    def momentum_rate(self, q: Tensor, qd: Tensor, qdd: Tensor, about: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Rates of the linear [N] and the angular momentum [N m] about a fixed point, else about the centre of mass."""
        wrench = self.ground_wrench(q, qd, qdd)
        force, moment = wrench[..., :3], wrench[..., 3:]
        point, weight = self.center_of_mass(q)[0], self.mass * self.gravity
        at = point if about is None else about.expand_as(point)
        return force + weight, moment - _cross_rows(at, force) + _cross_rows(point - at, weight.expand_as(point))

    def mass_matrix(self, q: Tensor) -> Tensor:
        """Inertia by coordinates ``(..., coordinate, coordinate)``: kinetic energy is half of ``qd' M qd``."""
        state = self.kinematics(q)
        return self.composite_products(state.inner_motion, self._moments(state)).reshape(*q.shape, q.shape[-1])

    def bias_force(self, q: Tensor, qd: Tensor) -> Tensor:
        """Generalized forces ``(..., coordinate)`` of motion at constant rates: Coriolis, centrifugal and gravity."""
        return self.inverse_dynamics(q, qd, torch.zeros_like(q))

    def kinetic_energy(self, q: Tensor, qd: Tensor) -> Tensor:
        """Kinetic energy ``(...)`` [J]."""
        state = self.kinematics(q, qd)
        velocity, momentum = state.inner_velocity, self._moments(state).momentum(state.inner_velocity)
        return 0.5 * (velocity.angular * momentum.angular + velocity.linear * momentum.linear).sum(dim=(0, 1)).reshape(q.shape[:-1])

    def potential_energy(self, q: Tensor) -> Tensor:
        """Energy in the field of gravity ``(...)`` [J], zero at the ground's origin."""
        return -self.mass * (self.center_of_mass(q)[0] @ self.gravity)

    def root_wrench(self, q: Tensor, generalized_force: Tensor, root: Sequence[str]) -> Tensor:
        """Force and moment about the root body's origin, force first ``(..., 6)``, that equal the generalized forces of its coordinates.

        Parameters
        ----------
        root
            Names of the coordinates of the joint to ground.
        """
        columns = self.index("coordinate", root)
        state = self.kinematics(q)
        place = state.inner_position[:, self._coordinate_body[columns]] - state.inner_reference[:, None]
        angular, linear = state.inner_motion.angular[:, columns], state.inner_motion.linear[:, columns]
        motion = torch.cat([linear + cross(angular, place), angular]).permute(2, 1, 0)
        force = generalized_force[..., columns].reshape(-1, len(columns), 1)
        known = motion.isfinite().all(dim=-1, keepdim=True).all(dim=-2, keepdim=True)
        inverse = torch.where(known, torch.linalg.pinv(torch.where(known, motion, 0.0)), torch.nan)
        return (inverse @ force).reshape(*q.shape[:-1], 6)

    # Couplings -----------------------------------------------------------------------------------------------------------

    def couple(self, q: Tensor) -> Tensor:
        """Coordinates with those that follow others set to what they follow."""
        columns = list(q.unbind(-1))
        for follower, weights, table in self._couplings:
            argument = torch.stack([columns[leader] * weight for leader, weight in weights.items()]).sum(dim=0)
            columns[follower] = table(argument[None])[0][0]
        return torch.stack(columns, dim=-1)

    def coupling_slopes(self, q: Tensor) -> list[tuple[int, int, Tensor]]:
        """Derivatives of :meth:`couple` at ``q``: follower, leader and slope ``(...)``, those that follow followers last."""
        slopes = []
        for follower, weights, table in self._couplings:
            argument = torch.stack([q[..., leader] * weight for leader, weight in weights.items()]).sum(dim=0)
            slope = table(argument[None])[1][0]
            slopes += [(follower, leader, slope * weight) for leader, weight in weights.items()]
        return slopes

    @property
    def followers(self) -> dict[int, tuple[int, ...]]:
        """Index of each coordinate that follows others, and of its leaders."""
        return {follower: tuple(weights) for follower, weights, _ in self._couplings}

    # Sums over the tree, for the fit of markers too ----------------------------------------------------------------------

    def composite_products(self, motion: Spatial, moments: Moments) -> Tensor:
        """``S_j' (sum of the moments of the bodies that both carry) S_k`` ``(frame, coordinate, coordinate)``.

        With the bodies' moments this is the mass matrix (composite rigid bodies, Featherstone 2008, chapter 6); with the moments
        of markers, each of the mass of its weight, the normal matrix of a fit.
        """
        return self.path_products(moments.summed(self.carries_body).momentum(motion), motion)

    def path_products(self, momentum: Spatial, motion: Spatial) -> Tensor:
        """``F_j . S_k`` where coordinate ``k`` carries ``j``, and the same with ``j`` and ``k`` exchanged: symmetric, else zero."""
        left, right = (torch.cat([part.linear, part.angular]).permute(2, 1, 0) for part in (momentum, motion))
        lower: Tensor = (left @ right.mT) * self._on_path
        return lower + (lower * self._strictly_on_path).mT

    # Internals -----------------------------------------------------------------------------------------------------------

    def _read_parameters(self, model: xr.Dataset, tree: Tree) -> None:
        self.body_mass = self.tensor(model["body_mass"].values)
        self.body_center_of_mass = self.tensor(model["body_center_of_mass"].values)
        xx, yy, zz, xy, xz, yz = np.moveaxis(model["body_inertia"].values, 1, 0)
        self.body_inertia = self.tensor(np.moveaxis(np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]), 2, 0))
        self.gravity = self.tensor(np.asarray(model.attrs["gravity"], float))
        self.marker_location = self.tensor(model["marker_location"].values.reshape(-1, 3))
        owners = [str(b) for b in model["marker_body"].values]
        self.is_ground_marker = torch.tensor([owner == "ground" for owner in owners], dtype=torch.bool, device=self.device)
        self.marker_body = self.index("body", [self.bodies[0] if owner == "ground" else owner for owner in owners])
        self.joint_parent_location, self.joint_child_location = self.tensor(tree.offset), self.tensor(tree.child_offset)

    def _read_topology(self, tree: Tree, simbody_rates: bool) -> None:
        """Constant 0/1 matrices: which mover and which coordinate carries which body."""
        bodies, movers, driven = len(tree.parent), tree.movers, np.asarray(tree.coordinate_body, int)
        self._above = torch.tensor([p if p != -1 else bodies for p in tree.parent], dtype=torch.long, device=self.device)
        hangs = np.eye(bodies)
        for body in range(bodies):
            above = tree.parent[body]
            while above != -1:
                hangs[body, above] = 1.0
                above = tree.parent[above]
        own = np.array([m.body for m in movers], int)
        carried = hangs[:, own]
        before = np.where(own[:, None] == own[None], np.tri(len(movers), k=-1), carried[own])
        if simbody_rates:
            before = _turned_by_simbody(tree, before)
        carries = hangs[:, driven].T
        rank = self._rank = _order_in_joint(tree)
        path = np.where(driven[:, None] == driven[None], rank[:, None] >= rank[None], carries[:, driven].T)
        self._coordinate_body = torch.as_tensor(driven, device=self.device)
        self._every_body = torch.arange(bodies, device=self.device)
        self._unit_bodies = torch.eye(bodies, dtype=self.dtype, device=self.device)
        self._hangs, self.carries_body, self._on_path = self.tensor(hangs), self.tensor(carries), self.tensor(path)
        self._strictly_on_path = self.tensor(path - np.diag(np.diag(path)))
        self._carried_by_mover, self._before_mover = self.tensor(carried), self.tensor(before)

    def _read_movers(self, tree: Tree) -> None:
        """Functions, weights and constant frames of the movers; rotations by their level, the number of rotations before them."""
        movers = tree.movers
        weights = np.zeros((len(movers), len(self.coordinates)))
        for row, mover in enumerate(movers):
            for coordinate, weight in mover.weights.items():
                weights[row, coordinate] = weight
        picks = ((weights == 1.0) | (weights == 0.0)).all() and (weights.sum(axis=1) == 1.0).all()
        self._functions = FunctionTable([m.function for m in movers], self.dtype, self.device)
        self._weights = self.tensor(weights)
        self._picked = torch.as_tensor(np.argmax(weights, axis=1), device=self.device) if picks and weights.size else None
        turning, sliding = ([i for i, m in enumerate(movers) if m.rotates is kind] for kind in (True, False))
        chains = _chain_rotations(tree, turning)
        self._read_rotations(tree, turning, chains)
        owner = np.zeros((len(tree.parent), len(sliding)))
        owner[[movers[i].body for i in sliding], np.arange(len(sliding))] = 1.0
        self._sliders, self._slider_owner = torch.tensor(sliding, dtype=torch.long, device=self.device), self.tensor(owner)
        self._slider_parent = self._above[[movers[i].body for i in sliding]]
        self._slider_axis = self.tensor(np.array([movers[i].axis for i in sliding]).reshape(-1, 3).T[..., None])
        by_kind = [*sliding, *(turning[i] for level in chains.levels for i in level)]
        self._mover_order = torch.as_tensor(np.argsort(by_kind), device=self.device)

    def _read_rotations(self, tree: Tree, turning: Sequence[int], chains: _RotationChains) -> None:
        order = [i for level in chains.levels for i in level]
        place = {rotator: position for position, rotator in enumerate(order)}
        ground = len(order)
        movers = [tree.movers[turning[i]] for i in order]
        frames = np.array([chains.frame[i] for i in order]).reshape(-1, 3, 3)
        skews = np.array([skew(m.axis) for m in movers]).reshape(-1, 3, 3)
        self._rotators = torch.tensor([turning[i] for i in order], dtype=torch.long, device=self.device)
        self._rotator_body = torch.tensor([m.body for m in movers], dtype=torch.long, device=self.device)
        self._rotator_before = torch.tensor([place.get(chains.before[i], ground) for i in order], dtype=torch.long, device=self.device)
        self._rotator_terms = self.tensor(np.stack([frames, frames @ skews, frames @ skews @ skews]).transpose(0, 2, 3, 1)[..., None])
        self._rotator_axis = self.tensor(np.array([f @ m.axis for f, m in zip(frames, movers, strict=True)]).reshape(-1, 3).T[..., None])
        starts = np.cumsum([0, *(len(level) for level in chains.levels)])
        self._levels = [slice(int(a), int(b)) for a, b in itertools.pairwise(starts)]
        firsts = [0, *(int(start) for start in starts[:-1])]
        self._level_parents = [self._rotator_before[level] - first for level, first in zip(self._levels, firsts, strict=False)]
        self._body_rotator = torch.tensor([place.get(r, ground) for r in chains.last], dtype=torch.long, device=self.device)
        self._body_frame = self.tensor(np.array(chains.body_frame).transpose(1, 2, 0)[..., None])

    def _read_couplings(self, tree: Tree) -> None:
        self._couplings = [(c.follower, c.weights, FunctionTable([c.function], self.dtype, self.device)) for c in tree.couplings]

    def _chosen_markers(self, names: Sequence[str] | None) -> Tensor:
        return self.index("marker", self.markers if names is None else names)

    def _inner(self, values: Tensor, frames: torch.Size) -> Tensor:
        """``(..., item)`` as ``(item, frame)``; what has fewer frames is repeated as torch broadcasts."""
        items = values.shape[-1]
        if values.shape[:-1] != frames:
            values = _broadcast(values, frames)
        return values.reshape(frames.numel(), items).mT

    def _weighted(self, values: Tensor) -> Tensor:
        """Arguments of the movers' functions ``(mover, frame)``."""
        if values.shape[0] != len(self.coordinates):
            raise InputError(f"coordinates have {values.shape[0]} columns, must have {len(self.coordinates)}: one for each coordinate of the model")
        return values[self._picked] if self._picked is not None else self._weights @ values

    def _pose(self, q: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor, Spatial]:
        """Functions of the movers; rotations and positions of the bodies; spatial axes of the movers."""
        functions = self._functions(self._weighted(q))
        value = functions[0]
        rotation, axis = self._orient(value[self._rotators])
        above = torch.cat([rotation, self._eye(value.shape[-1])], dim=2)
        direction = turn(above[:, :, self._slider_parent], self._slider_axis)
        offset = turn(above[:, :, self._above], self.joint_parent_location.mT[..., None]) + self._slider_owner @ (direction * value[self._sliders])
        arm = turn(rotation, self.joint_child_location.mT[..., None])
        position = self._hangs @ (offset - arm)
        center = (position + arm - position[:, :1].detach())[:, self._rotator_body]
        angular = torch.cat([torch.zeros_like(direction), axis], dim=1)[:, self._mover_order]
        linear = torch.cat([direction, cross(center, axis)], dim=1)[:, self._mover_order]
        return functions, rotation, position, Spatial(angular, linear)

    def _orient(self, angle: Tensor) -> tuple[Tensor, Tensor]:
        """Rotations of the bodies, and the axes of the rotators in ground, level by level from ground (Rodrigues)."""
        still, odd, even = self._rotator_terms
        relative = torch.addcmul(torch.addcmul(still, odd, angle.sin()), even, 1.0 - angle.cos())
        turned = [relative[:, :, level] for level in self._levels[:1]]
        for level, parents in zip(self._levels[1:], self._level_parents[1:], strict=True):
            turned.append(product(turned[-1][:, :, parents], relative[:, :, level]))
        everything = torch.cat([*turned, self._eye(angle.shape[-1])], dim=2)
        axis = turn(everything[:, :, self._rotator_before], self._rotator_axis)
        return product(everything[:, :, self._body_rotator], self._body_frame), axis

    def _eye(self, frames: int) -> Tensor:
        return torch.eye(3, dtype=self.dtype, device=self.device)[:, :, None, None].expand(3, 3, 1, frames)

    def _point_jacobian(self, q: Tensor, body: Tensor, location: Tensor) -> Tensor:
        state = self.kinematics(q)
        arm = (state.inner_points(body, location) - state.inner_reference[:, None])[:, :, None]
        angular, linear = state.inner_motion.angular[:, None], state.inner_motion.linear[:, None]
        moved = (linear + cross(angular, arm)) * self.carries_body.mT[body][..., None]
        return moved.permute(3, 1, 0, 2).reshape(*q.shape[:-1], len(body), 3, q.shape[-1])

    def _body_wrenches(self, state: Kinematics) -> Spatial:
        """Force, and moment about the reference, that move each body so, gravity apart."""
        acceleration = state.inner_point_accelerations(self._every_body, self.body_center_of_mass)
        force = self.body_mass[:, None] * (acceleration - self.gravity[:, None, None])
        back, inertia = state.inner_rotation.transpose(0, 1), self.body_inertia.permute(1, 2, 0)[..., None]
        turning, pushing = turn(back, state.inner_velocity.angular), turn(back, state.inner_acceleration.angular)
        moment = turn(state.inner_rotation, turn(inertia, pushing) + cross(turning, turn(inertia, turning)))
        arm = state.inner_points(self._every_body, self.body_center_of_mass) - state.inner_reference[:, None]
        return Spatial(moment + cross(arm, force), force)

    def _moments(self, state: Kinematics) -> Moments:
        arm = state.inner_points(self._every_body, self.body_center_of_mass) - state.inner_reference[:, None]
        mass = self.body_mass[:, None]
        own = product(product(state.inner_rotation, self.body_inertia.permute(1, 2, 0)[..., None]), state.inner_rotation.transpose(0, 1))
        return Moments(mass, mass * arm, own + mass * second_moment(arm))


@dataclass(frozen=True)
class _RotationChains:
    """Rotations as chains from ground.

    ``levels``: rotators by the number of rotators before them; ``before``: the one before each, -1 for ground; ``frame``: the
    constant rotation between; ``last``: the last rotator that turns each body; ``body_frame``: the constant rotation after it.
    """

    levels: list[list[int]]
    before: list[int]
    frame: list[FloatArray]
    last: list[int]
    body_frame: list[FloatArray]


def _chain_rotations(tree: Tree, turning: Sequence[int]) -> _RotationChains:
    count = len(tree.parent)
    of_body: list[list[int]] = [[] for _ in range(count)]
    for rotator, mover in enumerate(turning):
        of_body[tree.movers[mover].body].append(rotator)
    before, level, frame = [-1] * len(turning), [0] * len(turning), [np.eye(3)] * len(turning)
    last, body_frame = [-1] * count, [np.eye(3)] * count
    for body in _from_ground(tree.parent):
        above = tree.parent[body]
        previous, constant = (last[above], body_frame[above]) if above != -1 else (-1, np.eye(3))
        for rotator in of_body[body]:
            before[rotator], level[rotator] = previous, level[previous] + 1 if previous != -1 else 0
            frame[rotator] = constant @ tree.movers[turning[rotator]].frame
            previous, constant = rotator, np.eye(3)
        last[body], body_frame[body] = previous, constant @ tree.child_rotation[body]
    levels = [[r for r in range(len(turning)) if level[r] == depth] for depth in range(max(level, default=-1) + 1)]
    return _RotationChains(levels, before, frame, last, body_frame)


def _order_in_joint(tree: Tree) -> FloatArray:
    """Place of each coordinate's first mover; those that move nothing last, no two at the same."""
    count = len(tree.coordinate_body)
    first = [min((row for row, mover in enumerate(tree.movers) if c in mover.weights), default=len(tree.movers)) for c in range(count)]
    rank: FloatArray = np.asarray(first) + np.arange(count) / (count + 1.0)
    return rank


def _turned_by_simbody(tree: Tree, before: FloatArray) -> FloatArray:
    """``before``, but the second axis of a custom joint turns with its first coordinate, the third with all but the third coordinate."""
    out = before.copy()
    if any(m.rotates and len(m.weights) > 1 for m in tree.movers):
        raise InputError("simbody_rates: a rotation follows several coordinates; OpenSim's rates are not reproduced for those")
    for row, mover in enumerate(tree.movers):
        coordinates = [c for c, body in enumerate(tree.coordinate_body) if body == mover.body]
        turning = {0: set[int](), 1: set(coordinates[:1]), 2: set(coordinates) - set(coordinates[2:3])}[mover.number]
        for column, other in enumerate(tree.movers):
            if mover.rotates and other.rotates and other.body == mover.body and tree.custom[mover.body]:
                out[row, column] = float(set(other.weights) <= turning)
    return out


def _broadcast(values: Tensor, frames: torch.Size) -> Tensor:
    try:
        return values.expand(*frames, values.shape[-1])
    except RuntimeError as error:
        raise InputError(f"a tensor of shape {tuple(values.shape)} does not fit coordinates with the leading dimensions {tuple(frames)}") from error


def _from_ground(parent: Sequence[int]) -> list[int]:
    """Bodies, each after the one it hangs on."""
    order: list[int] = []
    while len(order) < len(parent):
        order += [b for b in range(len(parent)) if b not in order and (parent[b] == -1 or parent[b] in order)]
    return order


def second_moment(arm: Tensor) -> Tensor:
    """``r.r 1 - r r'`` of vectors ``(3, ...)``: ``(3, 3, ...)``."""
    x, y, z = arm
    xx, yy, zz, xy, xz, yz = x * x, y * y, z * z, -x * y, -x * z, -y * z
    return torch.stack([yy + zz, xy, xz, xy, xx + zz, yz, xz, yz, xx + yy]).reshape(3, 3, *x.shape)


def cross(a: Tensor, b: Tensor) -> Tensor:
    """Cross products of vectors with their components first."""
    if max(a.numel(), b.numel()) < _FEW:
        together: Tensor = torch.linalg.cross(a, b, dim=0)
        return together
    (ax, ay, az), (bx, by, bz) = a, b
    return torch.stack([torch.addcmul(ay * bz, az, by, value=-1), torch.addcmul(az * bx, ax, bz, value=-1), torch.addcmul(ax * by, ay, bx, value=-1)])


def _cross_rows(a: Tensor, b: Tensor) -> Tensor:
    """Cross products of vectors with their components last."""
    product: Tensor = torch.linalg.cross(a, b)
    return product


def turn(matrix: Tensor, vector: Tensor) -> Tensor:
    """Products ``(3, ...)`` of matrices ``(3, 3, ...)`` and vectors ``(3, ...)``."""
    if matrix.numel() < _FEW:
        return (matrix * vector[None]).sum(dim=1)
    return torch.addcmul(torch.addcmul(matrix[:, 0] * vector[0], matrix[:, 1], vector[1]), matrix[:, 2], vector[2])


def product(a: Tensor, b: Tensor) -> Tensor:
    """Products of matrices ``(3, 3, ...)``."""
    return (a[:, :, None] * b[None]).sum(dim=1)
