"""Mechanics of one model for arrays of frames: numpy in, numpy out, in chunks that fit the processor's cache."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from imdy_plugin.errors import InputError
from imdy_plugin.solvers.body_load import BodyLoad
from imdy_plugin.solvers.multibody.body import Load, Multibody
from imdy_plugin.solvers.multibody.chunks import map_chunks

FloatArray = NDArray[np.float64]

_KEPT_MODELS = 8
_compiled: OrderedDict[tuple[str, bool], BodyMechanics] = OrderedDict()


def body_mechanics(model: xr.Dataset, *, simbody_rates: bool = False) -> BodyMechanics:
    """Mechanics of a model on the processor; compiled once for the same content.

    Parameters
    ----------
    model, simbody_rates
        As in :class:`BodyMechanics`.

    Raises
    ------
    InputError
        The model holds what cannot be represented; the error names it, and says which solver takes the model nevertheless.
    """
    key = model_digest(model), simbody_rates
    mechanics = _compiled.pop(key, None) or _compile(model, simbody_rates)
    _compiled[key] = mechanics
    while len(_compiled) > _KEPT_MODELS:
        _compiled.popitem(last=False)
    return mechanics


def _compile(model: xr.Dataset, simbody_rates: bool) -> BodyMechanics:
    try:
        return BodyMechanics(model, simbody_rates=simbody_rates)
    except InputError as error:
        hint = "solver 'opensim' can take such a model, with joint coordinates and measured ground forces"
        raise InputError(f"model '{model.attrs['name']}': {error}; {hint}") from error


def model_digest(model: xr.Dataset) -> str:
    """A digest of what a model is, whatever its file and log; equal for equal models."""
    digest = hashlib.sha256()
    for name, variable in sorted(model.variables.items(), key=lambda pair: str(pair[0])):
        digest.update(f"{name} {variable.dims} {variable.shape}".encode())
        values = variable.values
        digest.update(repr(values.tolist()).encode() if values.dtype.kind == "O" else np.ascontiguousarray(values).tobytes())
    digest.update(repr([(key, value) for key, value in sorted(model.attrs.items()) if key not in ("source", "log")]).encode())
    return digest.hexdigest()


class BodyMechanics:
    """Mechanics of one model of the common representation.

    All coordinate arrays are ``(time, coordinate)`` in the order of :attr:`coordinates`, radians and metres, with first and second
    derivatives by time. Generalized forces are conjugate to the coordinates' rates. Frames that hold NaN come out as NaN.

    Parameters
    ----------
    model
        A model (:func:`imdy_plugin.schema.new_model`).
    device
        Where it is computed.
    simbody_rates
        As in :class:`~imdy_plugin.solvers.multibody.body.Multibody`.

    Attributes
    ----------
    body
        The model in torch.
    name
        The model's name.
    coordinates, units
        Names, and for each ``"N m"`` or ``"N"``.
    root_coordinates, root_body
        Coordinates and child of the joint that frees the model from ground; empty where there is none.
    foot_bodies
        Right and left foot; empty where there is no pair.
    sole_starts
        For each foot of which the model says so: the body of its toes, and where its sole starts at the heel, in the foot [m].
    bodies, markers
        Names.
    mass
        Total mass [kg].
    gravity
        ``(3,)`` [m/s^2].
    default_values, bounds, locked
        For each coordinate its default, its lower and upper limit ``(coordinate, 2)`` (infinite where it is not clamped), and
        whether the model holds it fixed.
    couplings
        Index of each coordinate that follows others, and of the first that it follows.
    excluded_forces
        Names of the model's own forces, which are left out.
    other_constraints
        Names of enforced constraints that are no couplings; nothing here heeds them.

    Raises
    ------
    InputError
        The model holds what cannot be represented; the error names it.
    """

    def __init__(self, model: xr.Dataset, device: str = "cpu", *, simbody_rates: bool = False) -> None:
        self.body = Multibody(model, device=device, simbody_rates=simbody_rates)
        self.name = str(model.attrs["name"])
        self.coordinates, self.bodies, self.markers = self.body.coordinates, self.body.bodies, self.body.markers
        self.units = tuple("N" if kind == "translational" else "N m" for kind in model["coordinate_kind"].values)
        self.root_coordinates = tuple(str(n) for n in model.attrs.get("root_coordinates", ()))
        self.root_body = str(model.attrs.get("root_body", ""))
        self.foot_bodies = tuple(str(n) for n in model.attrs.get("foot_bodies", ()))
        starts = np.reshape(np.asarray(model.attrs.get("heel_points", ()), float), (-1, 3))
        self.sole_starts = {foot: (str(toes), at) for foot, toes, at in zip(self.foot_bodies, model.attrs.get("toe_bodies", ()), starts, strict=False)}
        self.mass = float(self.body.mass)
        self.gravity = np.asarray(model.attrs["gravity"], float)
        self.default_values = np.asarray(model["coordinate_default"].values, float)
        clamped = np.asarray(model["coordinate_clamped"].values, bool)[:, None]
        self.bounds = np.where(clamped, model["coordinate_range"].values, [-np.inf, np.inf])
        self.locked = np.asarray(model["coordinate_locked"].values, bool)
        self.couplings = {follower: leaders[0] for follower, leaders in self.body.followers.items()}
        self.excluded_forces = [str(n) for n in model.attrs.get("own_forces", ())]
        self.other_constraints = [str(n) for n in model.attrs.get("other_constraints", ())]

    def inverse_dynamics(self, q: ArrayLike, qd: ArrayLike, qdd: ArrayLike, loads: Sequence[BodyLoad] = ()) -> FloatArray:
        """Generalized forces ``(time, coordinate)`` that make the model move so under gravity and ``loads``.

        Constraints are ignored, as OpenSim's InverseDynamicsTool does: a coupled coordinate carries its own force.

        Raises
        ------
        UnknownNameError
            A load acts on a body that the model lacks.
        """
        names = [load.body for load in loads]
        self.body.index("body", names)
        parts = [np.asarray(part, float) for load in loads for part in (load.force, load.point, load.moment)]
        # a point that is not known counts where no force acts: zero times NaN would be NaN
        still = [np.where((force != 0.0).any(axis=1, keepdims=True), point, 0.0) for force, point in zip(parts[::3], parts[1::3], strict=True)]
        parts[1::3] = still

        def frames(q: Tensor, qd: Tensor, qdd: Tensor, *parts: Tensor) -> Tensor:
            triples = zip(names, parts[::3], parts[1::3], parts[2::3], strict=True)
            return self.body.inverse_dynamics(q, qd, qdd, [Load(*triple) for triple in triples])

        (force,) = self._map(frames, q, qd, qdd, arrays=parts)
        return force

    def root_wrench(self, q: ArrayLike, generalized_force: ArrayLike) -> FloatArray:
        """Force and moment about the root body's origin in ground axes ``(time, 6)`` that equal the root's generalized forces.

        A root with fewer than six coordinates (a planar model) carries the rest in its joint; those components are zero.

        Raises
        ------
        InputError
            The model has no free root.
        """
        self._require_root()
        force, root = np.asarray(generalized_force, float), [self.coordinates.index(name) for name in self.root_coordinates]
        known = np.isfinite(np.asarray(q, float)).all(axis=1) & np.isfinite(force[:, root]).all(axis=1)
        out = np.full((len(known), 6), np.nan)
        (out[known],) = self._map(lambda q, tau: self.body.root_wrench(q, tau, self.root_coordinates), np.asarray(q, float)[known], arrays=[force[known]])
        return out

    def ground_wrench(self, q: ArrayLike, qd: ArrayLike, qdd: ArrayLike) -> FloatArray:
        """Total external force and moment about the ground origin ``(time, 6)`` that moves the model so under gravity.

        With this wrench on any body of a free model its root carries nothing.

        Raises
        ------
        InputError
            The model has no free root.
        """
        self._require_root()
        (wrench,) = self._map(self.body.ground_wrench, q, qd, qdd)
        return wrench

    def point_kinematics(
        self, q: ArrayLike, qd: ArrayLike, qdd: ArrayLike, body: str | Sequence[str], points: ArrayLike
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Position, velocity and acceleration in ground, each ``(time, point, 3)``, of ``points (point, 3)`` fixed to a body, or each to its own."""
        location, bodies = self._places(body, points)

        def frames(q: Tensor, qd: Tensor, qdd: Tensor) -> tuple[Tensor, ...]:
            state = self.body.kinematics(q, qd, qdd)
            return state.points(bodies, location), state.point_velocities(bodies, location), state.point_accelerations(bodies, location)

        position, velocity, acceleration = self._map(frames, q, qd, qdd)
        return position, velocity, acceleration

    def point_positions(self, q: ArrayLike, body: str | Sequence[str], points: ArrayLike) -> FloatArray:
        """The positions of :meth:`point_kinematics` alone."""
        location, bodies = self._places(body, points)
        (position,) = self._map(lambda q: self.body.kinematics(q).points(bodies, location), q)
        return position

    def center_of_mass(self, q: ArrayLike, qd: ArrayLike, qdd: ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Position, velocity and acceleration of the whole body's centre of mass in ground, each ``(time, 3)``."""
        position, velocity, acceleration = self._map(self.body.center_of_mass, q, qd, qdd)
        return position, velocity, acceleration

    def marker_positions(self, q: ArrayLike, names: Sequence[str] | None = None) -> FloatArray:
        """Positions of the model's markers in ground ``(time, marker, 3)``; all of :attr:`markers` by default.

        Raises
        ------
        UnknownNameError
            The model lacks a marker.
        """
        (position,) = self._map(lambda q: self.body.marker_positions(q, names), q)
        return position

    def couple(self, q: FloatArray) -> FloatArray:
        """Coordinates ``(..., coordinate)`` with those that follow others set to what they follow."""
        with torch.no_grad():
            coupled: FloatArray = self.body.couple(self.body.tensor(np.asarray(q, float))).cpu().numpy()
        return coupled

    def _places(self, body: str | Sequence[str], points: ArrayLike) -> tuple[Tensor, Tensor]:
        """Places ``(point, 3)`` in their bodies, and the bodies' indices ``(point,)``."""
        location = self.body.tensor(np.atleast_2d(np.asarray(points, float)))
        return location, self.body.index("body", [body] if isinstance(body, str) else body).expand(len(location))

    def _require_root(self) -> None:
        if not self.root_coordinates:
            raise InputError(f"the model '{self.name}' has no body that moves freely in ground; give a model whose pelvis does")

    def _map(self, function: Callable[..., Any], *coordinates: ArrayLike, arrays: Sequence[FloatArray] = ()) -> list[FloatArray]:
        """Apply a function of tensors to frames, chunk by chunk."""
        states = [self._checked(values) for values in coordinates]
        inputs = [*states, *(np.asarray(a, float) for a in arrays)]
        if len({len(values) for values in inputs}) > 1:
            raise InputError(f"coordinates, their derivatives and loads have {', '.join(str(len(v)) for v in inputs)} frames; give as many of each")

        def computed(part: slice) -> list[FloatArray]:
            outputs = function(*(self.body.tensor(a[part]) for a in inputs))
            return [o.cpu().numpy() for o in (outputs if isinstance(outputs, tuple) else (outputs,))]

        pieces = list(map_chunks(computed, len(states[0]), self.body.device))
        joined = [np.concatenate(parts) for parts in zip(*pieces, strict=True)]
        unknown = ~np.isfinite(np.concatenate(states, axis=1)).all(axis=1)
        for array in joined:
            array[unknown] = np.nan
        return joined

    def _checked(self, values: ArrayLike) -> FloatArray:
        array = np.asarray(values, float)
        if array.ndim != 2 or array.shape[1] != len(self.coordinates):
            raise InputError(f"coordinates have shape {array.shape}, must be (time, {len(self.coordinates)}): one column for each coordinate of the model")
        return array
