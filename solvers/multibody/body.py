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


@dataclass(frozen=True)
class Kinematics:
    """Motion of all bodies, ``(..., body, ...)``, in the ground frame.

    Attributes
    ----------
    rotation, position
        Pose of the body frames, ``(..., body, 3, 3)`` and ``(..., body, 3)`` [m].
    reference
        The point about which the spatial vectors are taken ``(..., 3)`` [m].
    motion
        Spatial velocity per rate of each coordinate ``(..., coordinate, 6)``; a body moves by the sum over those that carry it.
    velocity, acceleration
        Spatial velocity and acceleration of the bodies ``(..., body, 6)``; None where no rates were given.
    """

    rotation: Tensor
    position: Tensor
    reference: Tensor
    motion: Tensor
    velocity: Tensor | None = None
    acceleration: Tensor | None = None

    def points(self, body: Tensor, location: Tensor) -> Tensor:
        """Positions ``(..., point, 3)`` of points fixed to bodies: indices ``(point,)`` and places ``(point, 3)`` in them."""
        return _points(self.rotation, self.position, body, location)

    def point_velocities(self, body: Tensor, position: Tensor) -> Tensor:
        """Velocities ``(..., point, 3)`` of points of bodies that are at ``position (..., point, 3)``."""
        assert self.velocity is not None
        angular, linear = _halves(self.velocity[..., body, :])
        return linear + _cross(angular, position - self.reference[..., None, :])

    def point_accelerations(self, body: Tensor, position: Tensor) -> Tensor:
        """Accelerations ``(..., point, 3)``: ``a = a0 + alpha x r + omega x v``."""
        assert self.acceleration is not None and self.velocity is not None
        angular, linear = _halves(self.acceleration[..., body, :])
        turning = _halves(self.velocity[..., body, :])[0]
        return linear + _cross(angular, position - self.reference[..., None, :]) + _cross(turning, self.point_velocities(body, position))


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
        the third as well; its accelerations are then not the derivatives of its velocities. For comparisons only.

    Attributes
    ----------
    coordinates, bodies, markers
        Names.
    body_mass, body_center_of_mass, body_inertia
        ``(body,)`` [kg], ``(body, 3)`` [m], ``(body, 3, 3)`` [kg m^2] about the centre of mass in body axes.
    marker_location
        ``(marker, 3)`` in its body [m].
    joint_parent_location, joint_child_location
        Place of each body's joint in its parent and in itself ``(body, 3)`` [m], in the order of the bodies.
    gravity
        ``(3,)`` [m/s^2].

    Raises
    ------
    InputError
        The model holds what cannot be represented; the error names it.
    """

    body_mass: Tensor
    body_center_of_mass: Tensor
    body_inertia: Tensor
    marker_location: Tensor
    joint_parent_location: Tensor
    joint_child_location: Tensor
    gravity: Tensor

    def __init__(self, model: xr.Dataset, dtype: torch.dtype = torch.float64, device: str | torch.device = "cpu", *, simbody_rates: bool = False) -> None:
        self.dtype, self.device = dtype, torch.device(device)
        self.coordinates = tuple(str(n) for n in model["coordinate"].values)
        self.bodies = tuple(str(n) for n in model["body"].values)
        self.markers = tuple(str(n) for n in model["marker"].values)
        tree = compile_tree(model)
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

    def tensor(self, values: Any) -> Tensor:
        """Values in the model's type, on its device."""
        return torch.as_tensor(values, dtype=self.dtype, device=self.device)

    # Kinematics ----------------------------------------------------------------------------------------------------------

    def kinematics(self, q: Tensor, qd: Tensor | None = None, qdd: Tensor | None = None) -> Kinematics:
        """Poses, and with rates also velocities and accelerations, of all bodies."""
        (_, slope, curvature), rotation, position, movers = self._pose(q)
        reference = position[..., 0, :].detach()
        motion = self._weights.mT @ (movers * slope[..., None])
        if qd is None:
            return Kinematics(rotation, position, reference, motion)
        rate = self._weighted(qd)
        moving = movers * (slope * rate)[..., None]
        velocity = self._carried_by_mover @ moving
        if qdd is None:
            return Kinematics(rotation, position, reference, motion, velocity)
        pushing = movers * (slope * self._weighted(qdd) + curvature * rate**2)[..., None]
        acceleration = self._carried_by_mover @ (pushing + _cross_motion(self._before_mover @ moving, moving))
        return Kinematics(rotation, position, reference, motion, velocity, acceleration)

    def marker_positions(self, q: Tensor, names: Sequence[str] | None = None) -> Tensor:
        """Positions of markers in ground ``(..., marker, 3)`` [m]; all by default."""
        chosen = self._chosen_markers(names)
        location = self.marker_location[chosen]
        _, rotation, position, *_ = self._pose(q)
        return torch.where(self._is_ground_marker[chosen][:, None], location, _points(rotation, position, self._marker_body[chosen], location))

    def marker_jacobian(self, q: Tensor, names: Sequence[str] | None = None) -> Tensor:
        """Derivatives of the markers' positions by the coordinates ``(..., marker, 3, coordinate)``."""
        chosen = self._chosen_markers(names)
        state = self.kinematics(q)
        body = self._marker_body[chosen]
        moving = (~self._is_ground_marker[chosen]).to(self.dtype)
        return self._point_jacobian(state, body, state.points(body, self.marker_location[chosen])) * moving[:, None, None]

    def point_jacobian(self, q: Tensor, body: str, points: Tensor) -> Tensor:
        """Derivatives ``(..., point, 3, coordinate)`` of the positions of ``points (point, 3)`` fixed to a body."""
        state = self.kinematics(q)
        bodies = self.index("body", [body]).expand(len(points))
        return self._point_jacobian(state, bodies, state.points(bodies, points))

    def center_of_mass(self, q: Tensor, qd: Tensor | None = None, qdd: Tensor | None = None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Position, velocity and acceleration of the whole body's centre of mass, each ``(..., 3)``; None without rates."""
        state = self.kinematics(q, qd, qdd)
        every = torch.arange(len(self.bodies), device=self.device)
        place = state.points(every, self.body_center_of_mass)
        share = (self.body_mass / self.mass)[:, None]
        velocity = None if qd is None else (share * state.point_velocities(every, place)).sum(dim=-2)
        acceleration = None if qdd is None else (share * state.point_accelerations(every, place)).sum(dim=-2)
        return (share * place).sum(dim=-2), velocity, acceleration

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
            applied = _wrench_about(load.force, load.point, load.moment, state.reference)
            wrench = wrench - self._unit_bodies[self.index("body", [load.body])[0]][:, None] * applied[..., None, :]
        return (state.motion * (self._carries_body @ wrench)).sum(dim=-1)

    def ground_wrench(self, q: Tensor, qd: Tensor, qdd: Tensor) -> Tensor:
        """Force and moment about the ground's origin ``(..., 6)``, force first, that must act on the model from outside.

        Newton's and Euler's equations of all bodies: ``F = sum m (a - g)``, ``M = sum r x m (a - g) + I alpha + omega x I omega``.
        """
        state = self.kinematics(q, qd, qdd)
        moment, force = _halves(self._body_wrenches(state).sum(dim=-2))
        return torch.cat([force, moment + _cross(state.reference, force)], dim=-1)

    def momentum(self, q: Tensor, qd: Tensor, about: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Linear [kg m/s] and angular momentum [kg m^2/s], each ``(..., 3)``; the angular about ``about (..., 3)``, else the centre of mass."""
        state = self.kinematics(q, qd)
        assert state.velocity is not None
        angular, linear = _halves((self._spatial_inertia(state) @ state.velocity[..., None])[..., 0].sum(dim=-2))
        point = self.center_of_mass(q)[0] if about is None else about
        return linear, angular - _cross(point - state.reference, linear)

    def momentum_rate(self, q: Tensor, qd: Tensor, qdd: Tensor, about: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Rates of the linear [N] and the angular momentum [N m] about a fixed point, else about the centre of mass."""
        force, moment = _halves(self.ground_wrench(q, qd, qdd))
        point, weight = self.center_of_mass(q)[0], self.mass * self.gravity
        at = point if about is None else about
        return force + weight, moment - _cross(at, force) + _cross(point - at, weight.expand_as(point))

    def mass_matrix(self, q: Tensor) -> Tensor:
        """Inertia by coordinates ``(..., coordinate, coordinate)``: kinetic energy is half of ``qd' M qd``."""
        state = self.kinematics(q)
        return self.composite_products(state.motion, self._spatial_inertia(state))

    def bias_force(self, q: Tensor, qd: Tensor) -> Tensor:
        """Generalized forces ``(..., coordinate)`` of motion at constant rates: Coriolis, centrifugal and gravity."""
        return self.inverse_dynamics(q, qd, torch.zeros_like(q))

    def kinetic_energy(self, q: Tensor, qd: Tensor) -> Tensor:
        """Kinetic energy ``(...)`` [J]."""
        state = self.kinematics(q, qd)
        assert state.velocity is not None
        return 0.5 * torch.einsum("...bi,...bij,...bj->...", state.velocity, self._spatial_inertia(state), state.velocity)

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
        body = self._coordinate_body[columns[0]]
        state = self.kinematics(q)
        angular, linear = _halves(state.motion[..., columns, :])
        place = (state.position[..., body, :] - state.reference)[..., None, :]
        motion = torch.cat([linear + _cross(angular, place.expand_as(angular)), angular], dim=-1)
        wrench: Tensor = (torch.linalg.pinv(motion) @ generalized_force[..., columns, None])[..., 0]
        return wrench

    # Couplings -----------------------------------------------------------------------------------------------------------

    def couple(self, q: Tensor) -> Tensor:
        """Coordinates with those that follow others set to what they follow."""
        columns = list(q.unbind(-1))
        for follower, weights, table in self._couplings:
            argument = torch.stack([columns[leader] * weight for leader, weight in weights.items()]).sum(dim=0)
            columns[follower] = table(argument[..., None])[0][..., 0]
        return torch.stack(columns, dim=-1)

    def coupling_slopes(self, q: Tensor) -> list[tuple[int, int, Tensor]]:
        """Derivatives of :meth:`couple` at ``q``: follower, leader and slope ``(...)``, those that follow followers last."""
        slopes = []
        for follower, weights, table in self._couplings:
            argument = torch.stack([q[..., leader] * weight for leader, weight in weights.items()]).sum(dim=0)
            slope = table(argument[..., None])[1][..., 0]
            slopes += [(follower, leader, slope * weight) for leader, weight in weights.items()]
        return slopes

    @property
    def followers(self) -> dict[int, tuple[int, ...]]:
        """Index of each coordinate that follows others, and of its leaders."""
        return {follower: tuple(weights) for follower, weights, _ in self._couplings}

    # Sums over the tree, for the fit of markers too ----------------------------------------------------------------------

    def composite_products(self, motion: Tensor, matrix: Tensor) -> Tensor:
        """``S_j' (sum of the bodies' matrices that both carry) S_k`` ``(..., coordinate, coordinate)``.

        With spatial inertias ``(..., body, 6, 6)`` this is the mass matrix (composite rigid bodies, Featherstone 2008, chapter 6);
        with the second moments of markers, the normal matrix of a fit.
        """
        carried = (self._carries_body @ matrix.flatten(-2)).reshape(*motion.shape[:-1], 6, 6)
        lower: Tensor = (_turned(carried, motion) @ motion.mT) * self._on_path
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
        self._is_ground_marker = torch.tensor([owner == "ground" for owner in owners], dtype=torch.bool, device=self.device)
        self._marker_body = self.index("body", [self.bodies[0] if owner == "ground" else owner for owner in owners])
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
        path = np.where(driven[:, None] == driven[None], np.tri(len(driven)), carries[:, driven].T)
        self._coordinate_body = torch.as_tensor(driven, device=self.device)
        self._unit_bodies = torch.eye(bodies, dtype=self.dtype, device=self.device)
        self._hangs, self._carries_body, self._on_path = self.tensor(hangs), self.tensor(carries), self.tensor(path)
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
        self._picked = torch.as_tensor(np.argmax(weights, axis=1), device=self.device) if picks else None
        turning, sliding = ([i for i, m in enumerate(movers) if m.rotates is kind] for kind in (True, False))
        chains = _chain_rotations(tree, turning)
        self._read_rotations(tree, turning, chains)
        owner = np.zeros((len(tree.parent), len(sliding)))
        owner[[movers[i].body for i in sliding], np.arange(len(sliding))] = 1.0
        self._sliders, self._slider_owner = torch.tensor(sliding, dtype=torch.long, device=self.device), self.tensor(owner)
        self._slider_parent = self._above[[movers[i].body for i in sliding]]
        self._slider_axis = self.tensor(np.array([movers[i].axis for i in sliding]).reshape(-1, 3))
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
        self._rotator_terms = self.tensor(np.stack([frames, frames @ skews, frames @ skews @ skews]))
        self._rotator_axis = self.tensor(np.array([f @ m.axis for f, m in zip(frames, movers, strict=True)]).reshape(-1, 3))
        starts = np.cumsum([0, *(len(level) for level in chains.levels)])
        self._levels = [slice(int(a), int(b)) for a, b in itertools.pairwise(starts)]
        firsts = [0, *(int(start) for start in starts[:-1])]
        self._level_parents = [self._rotator_before[level] - first for level, first in zip(self._levels, firsts, strict=False)]
        self._body_rotator = torch.tensor([place.get(r, ground) for r in chains.last], dtype=torch.long, device=self.device)
        self._body_frame = self.tensor(np.array(chains.body_frame))

    def _read_couplings(self, tree: Tree) -> None:
        self._couplings = [(c.follower, c.weights, FunctionTable([c.function], self.dtype, self.device)) for c in tree.couplings]

    def _chosen_markers(self, names: Sequence[str] | None) -> Tensor:
        return self.index("marker", self.markers if names is None else names)

    def _weighted(self, values: Tensor) -> Tensor:
        """Arguments of the movers' functions ``(..., mover)``."""
        if values.shape[-1] != len(self.coordinates):
            raise InputError(
                f"coordinates have shape {tuple(values.shape)}, must be (..., {len(self.coordinates)}): one column for each coordinate of the model"
            )
        return values[..., self._picked] if self._picked is not None else values @ self._weights.mT

    def _pose(self, q: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor, Tensor]:
        """Functions of the movers; rotations and positions of the bodies; spatial axes of the movers ``(..., mover, 6)``."""
        functions = self._functions(self._weighted(q))
        value = functions[0]
        rotation, axis = self._orient(value[..., self._rotators])
        ground = torch.eye(3, dtype=self.dtype, device=self.device).expand(*rotation.shape[:-3], 1, 3, 3)
        above = torch.cat([rotation, ground], dim=-3)
        direction = _turned(above[..., self._slider_parent, :, :], self._slider_axis)
        offset = _turned(above[..., self._above, :, :], self.joint_parent_location)
        offset = offset + self._slider_owner @ (direction * value[..., self._sliders, None])
        arm = _turned(rotation, self.joint_child_location)
        position = self._hangs @ (offset - arm)
        center = (position + arm - position[..., :1, :].detach())[..., self._rotator_body, :]
        slide = torch.cat([torch.zeros_like(direction), direction], dim=-1)
        turn = torch.cat([axis, _cross(center, axis)], dim=-1)
        return functions, rotation, position, torch.cat([slide, turn], dim=-2)[..., self._mover_order, :]

    def _orient(self, angle: Tensor) -> tuple[Tensor, Tensor]:
        """Rotations of the bodies, and the axes of the rotators in ground, level by level from ground (Rodrigues)."""
        still, odd, even = self._rotator_terms
        sine, versine = angle.sin()[..., None, None], (1.0 - angle.cos())[..., None, None]
        relative = still + sine * odd + versine * even
        eye = torch.eye(3, dtype=self.dtype, device=self.device).expand(*angle.shape[:-1], 1, 3, 3)
        turned = [relative[..., level, :, :] for level in self._levels[:1]]
        for level, parents in zip(self._levels[1:], self._level_parents[1:], strict=True):
            turned.append(turned[-1][..., parents, :, :] @ relative[..., level, :, :])
        everything = torch.cat([*turned, eye], dim=-3)
        axis = _turned(everything[..., self._rotator_before, :, :], self._rotator_axis)
        return everything[..., self._body_rotator, :, :] @ self._body_frame, axis

    def _point_jacobian(self, state: Kinematics, body: Tensor, position: Tensor) -> Tensor:
        angular, linear = _halves(state.motion[..., None, :, :])
        arm = (position - state.reference[..., None, :])[..., None, :].expand(*position.shape[:-1], len(self.coordinates), 3)
        moved = (linear + _cross(angular.expand_as(arm), arm)) * self._carries_body.mT[body][..., None]
        return moved.mT

    def _body_wrenches(self, state: Kinematics) -> Tensor:
        """Moment about the reference and force ``(..., body, 6)`` that move each body so, gravity apart."""
        assert state.velocity is not None and state.acceleration is not None
        every = torch.arange(len(self.bodies), device=self.device)
        place = state.points(every, self.body_center_of_mass)
        force = self.body_mass[:, None] * (state.point_accelerations(every, place) - self.gravity)
        inertia = state.rotation @ self.body_inertia @ state.rotation.mT
        turning, pushing = _halves(state.velocity)[0], _halves(state.acceleration)[0]
        moment = _turned(inertia, pushing) + _cross(turning, _turned(inertia, turning))
        return torch.cat([moment + _cross(place - state.reference[..., None, :], force), force], dim=-1)

    def _spatial_inertia(self, state: Kinematics) -> Tensor:
        """Spatial inertia of each body about the reference ``(..., body, 6, 6)``."""
        every = torch.arange(len(self.bodies), device=self.device)
        arm = state.points(every, self.body_center_of_mass) - state.reference[..., None, :]
        cross = _skew(arm)
        mass = self.body_mass[:, None, None]
        turning = state.rotation @ self.body_inertia @ state.rotation.mT - mass * cross @ cross
        moving = (mass * torch.eye(3, dtype=self.dtype, device=self.device)).expand_as(turning)
        return torch.cat([torch.cat([turning, mass * cross], dim=-1), torch.cat([-mass * cross, moving], dim=-1)], dim=-2)


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


def _turned_by_simbody(tree: Tree, before: FloatArray) -> FloatArray:
    """``before``, but the second axis of a custom joint turns with its first coordinate, the third with all but the third coordinate."""
    out = before.copy()
    for row, mover in enumerate(tree.movers):
        coordinates = [c for c, body in enumerate(tree.coordinate_body) if body == mover.body]
        turning = {0: set[int](), 1: set(coordinates[:1]), 2: set(coordinates) - set(coordinates[2:3])}[mover.number]
        for column, other in enumerate(tree.movers):
            if mover.rotates and other.rotates and other.body == mover.body and tree.custom[mover.body]:
                out[row, column] = float(set(other.weights) <= turning)
    return out


def _from_ground(parent: Sequence[int]) -> list[int]:
    """Bodies, each after the one it hangs on."""
    order: list[int] = []
    while len(order) < len(parent):
        order += [b for b in range(len(parent)) if b not in order and (parent[b] == -1 or parent[b] in order)]
    return order


def _halves(spatial: Tensor) -> tuple[Tensor, Tensor]:
    return spatial[..., :3], spatial[..., 3:]


def _cross(a: Tensor, b: Tensor) -> Tensor:
    product: Tensor = torch.linalg.cross(a, b)
    return product


def _cross_motion(a: Tensor, b: Tensor) -> Tensor:
    """Rate of a spatial motion ``b`` that is fixed in a frame moving by ``a``."""
    (turning, moving), (angular, linear) = _halves(a), _halves(b)
    return torch.cat([_cross(turning, angular), _cross(turning, linear) + _cross(moving, angular)], dim=-1)


def _turned(rotation: Tensor, vector: Tensor) -> Tensor:
    return (rotation @ vector[..., None])[..., 0]


def _points(rotation: Tensor, position: Tensor, body: Tensor, location: Tensor) -> Tensor:
    return position[..., body, :] + _turned(rotation[..., body, :, :], location)


def _skew(vector: Tensor) -> Tensor:
    """Matrices ``(..., 3, 3)`` that multiply as the cross product by ``vector`` does."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).reshape(*vector.shape[:-1], 3, 3)


def _wrench_about(force: Tensor, point: Tensor, moment: Tensor, about: Tensor) -> Tensor:
    return torch.cat([moment + _cross(point - about, force), force], dim=-1)
