"""Exact rigid-body mechanics of an OpenSim model, frame by frame.

Of the model's own forces only gravity is kept, unless asked otherwise: what muscles, springs, bushings, contact and limits carry
would otherwise be missing from the joint moments. Frames that hold NaN come out as NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imdy_plugin._opensim import coordinate_kinds, find_feet, find_root, import_opensim, silenced, strip_forces
from imdy_plugin.errors import InputError, SolverError, UnknownNameError
from imdy_plugin.solvers.body_load import BodyLoad

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class _BodyMotion:
    """Pose, velocity and acceleration of body frames in ground; ``(time, body, ...)``."""

    rotation: FloatArray
    position: FloatArray
    angular_velocity: FloatArray
    velocity: FloatArray
    angular_acceleration: FloatArray
    acceleration: FloatArray


class OpenSimMechanics:
    """Mechanics of one OpenSim model; the model that is handed in is cloned and not changed.

    All coordinate arrays are ``(time, coordinate)`` in the order of :attr:`coordinates`, radians and metres, with first and
    second derivatives by time. Generalized forces are conjugate to them.

    Parameters
    ----------
    native_model
        An ``opensim.Model``.
    only_muscles
        Leave out only the model's muscles: springs, bushings, contact and limits then act in :meth:`inverse_dynamics`.

    Attributes
    ----------
    name
        The model's name.
    coordinates, units
        Names in the model's order, and for each ``"N m"`` or ``"N"``.
    root_coordinates, root_body
        Coordinates and child of the joint that frees the model from ground; empty where there is none.
    foot_bodies
        Right and left foot, found by name; empty where there is no pair.
    bodies, markers
        Names.
    mass
        Total mass [kg].
    gravity
        ``(3,)`` [m/s^2].
    excluded_forces
        Names of the model's own forces that are left out.
    default_values, bounds, locked
        For each coordinate its default, its lower and upper limit ``(coordinate, 2)`` (infinite where it is not clamped), and
        whether the model holds it fixed.
    native
        The clone, without the excluded forces.
    """

    def __init__(self, native_model: Any, *, only_muscles: bool = False) -> None:
        self._opensim = import_opensim()
        try:
            with silenced():
                self.native = native_model.clone()
                self.excluded_forces = strip_forces(self.native, only_muscles=only_muscles)
                self._state = self.native.initSystem()
        except RuntimeError as error:
            raise SolverError(f"OpenSim cannot build the model '{native_model.getName()}': {error}") from error
        self.name = str(self.native.getName())
        self._matter = self.native.getMatterSubsystem()
        self._solver = self._opensim.InverseDynamicsSolver(self.native) if self.native.getForceSet().getSize() else None
        self._read_names()
        self._read_couplings()
        self._read_bodies()
        self.root_coordinates, self.root_body = find_root(self.native)
        self.foot_bodies = find_feet(self.bodies)

    def inverse_dynamics(self, q: ArrayLike, qd: ArrayLike, qdd: ArrayLike, loads: Sequence[BodyLoad] = ()) -> FloatArray:
        """Generalized forces ``(time, coordinate)`` that make the model move so under gravity and ``loads``.

        Constraints are ignored, as OpenSim's InverseDynamicsTool does: a coupled coordinate carries its own force.

        Raises
        ------
        UnknownNameError
            A load acts on a body that the model lacks.
        """
        rows = [6 * self._mobod(load.body) for load in loads]
        out = np.full(np.shape(q), np.nan)
        for frame, udot in self._frames(q, qd, qdd):
            force = self._residual(self._vector(udot))
            if loads:
                jacobian = self._system_jacobian()
                for load, row in zip(loads, rows, strict=True):
                    force = force - jacobian[row : row + 6].T @ self._load_at_origin(load, frame)
            out[frame] = self._rates().T @ force
        return out

    def _residual(self, udot: Any) -> FloatArray:
        """Forces of the speeds that remain when gravity, and the model's forces where they are kept, are accounted for."""
        if self._solver is not None:
            kept: FloatArray = self._solver.solve(self._state, udot).to_numpy()
            return kept
        none, residual = self._opensim.Vector(self._state.getNU(), 0.0), self._opensim.Vector()
        gravity = self.native.getGravityBodyForces(self._state)
        self._matter.calcResidualForceIgnoringConstraints(self._state, none, gravity, udot, residual)
        values: FloatArray = residual.to_numpy()
        return values

    def root_wrench(self, q: ArrayLike, generalized_force: ArrayLike) -> FloatArray:
        """Force and moment about the root body's origin in ground axes ``(time, 6)`` that equal the root's generalized forces.

        A root with fewer than six coordinates (a planar model) carries the rest in its joint; those components are zero.

        Raises
        ------
        InputError
            The model has no free root.
        """
        self._require_root()
        columns = [self.coordinates.index(name) for name in self.root_coordinates]
        row = 6 * self._mobod(self.root_body)
        tau = np.asarray(generalized_force, float)[:, columns]
        out = np.full((len(tau), 6), np.nan)
        for frame, _ in self._frames(q, np.zeros(np.shape(q)), np.zeros(np.shape(q))):
            jacobian = (self._system_jacobian()[row : row + 6] @ self._rates())[:, columns]
            spatial = np.linalg.pinv(jacobian.T) @ tau[frame]
            out[frame] = np.concatenate([spatial[3:], spatial[:3]])
        return out

    def ground_wrench(self, q: ArrayLike, qd: ArrayLike, qdd: ArrayLike) -> FloatArray:
        """Total external force and moment about the ground origin ``(time, 6)`` that moves the model so under gravity.

        Newton and Euler over all bodies: ``F = sum m (a - g)``, ``M = sum r x m (a - g) + I alpha + omega x I omega``.
        With this wrench on any body of a free model its root carries nothing.

        Raises
        ------
        InputError
            The model has no free root.
        """
        self._require_root()
        motion = self._body_motion(q, qd, qdd, self.bodies)
        position, _, acceleration = _points(motion, self._centers)
        force = self._masses[:, None] * (acceleration - self.gravity)
        inertia = motion.rotation @ self._inertias @ np.swapaxes(motion.rotation, -1, -2)
        spin = np.einsum("tbij,tbj->tbi", inertia, motion.angular_velocity)
        moment = np.einsum("tbij,tbj->tbi", inertia, motion.angular_acceleration) + np.cross(motion.angular_velocity, spin)
        return np.concatenate([force.sum(axis=1), (moment + np.cross(position, force)).sum(axis=1)], axis=1)

    def point_kinematics(
        self, q: ArrayLike, qd: ArrayLike, qdd: ArrayLike, body: str | Sequence[str], points: ArrayLike
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Position, velocity and acceleration in ground, each ``(time, point, 3)``, of ``points (point, 3)`` fixed to a body, or each to its own."""
        stations = np.atleast_2d(np.asarray(points, float))
        owners = [body] * len(stations) if isinstance(body, str) else list(body)
        bodies = list(dict.fromkeys(owners))
        motion, which = self._body_motion(q, qd, qdd, bodies), [bodies.index(owner) for owner in owners]
        return _points(_BodyMotion(*(a[:, which] for a in vars(motion).values())), stations)

    def point_positions(self, q: ArrayLike, body: str | Sequence[str], points: ArrayLike) -> FloatArray:
        """The positions of :meth:`point_kinematics` alone."""
        rest = np.zeros(np.shape(q))
        return self.point_kinematics(q, rest, rest, body, points)[0]

    def center_of_mass(self, q: ArrayLike, qd: ArrayLike, qdd: ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Position, velocity and acceleration of the whole body's centre of mass in ground, each ``(time, 3)``."""
        points = _points(self._body_motion(q, qd, qdd, self.bodies), self._centers)
        position, velocity, acceleration = (np.einsum("b,tbi->ti", self._masses, p) / self.mass for p in points)
        return position, velocity, acceleration

    def marker_positions(self, q: ArrayLike, names: Sequence[str] | None = None) -> FloatArray:
        """Positions of the model's markers in ground ``(time, marker, 3)``; all of :attr:`markers` by default.

        Raises
        ------
        UnknownNameError
            The model lacks a marker.
        """
        markers = self._find_markers(self.markers if names is None else names)
        out = np.full((len(np.asarray(q)), len(markers), 3), np.nan)
        zeros = np.zeros(np.shape(q))
        for frame, _ in self._frames(q, zeros, zeros):
            out[frame] = self._locate(markers)
        return out

    @property
    def couplings(self) -> dict[int, int]:
        """Index of each coordinate that follows another, and of its leader."""
        return {follower: leader for follower, leader, _, _ in self._couplings}

    def couple(self, q: FloatArray) -> FloatArray:
        """Coordinates ``(..., coordinate)`` with those that follow others set to what they follow."""
        out: FloatArray = np.array(q, float)
        for follower, leader, function, scale in self._couplings:
            led = out[..., leader]
            values = [scale * function.calcValue(self._opensim.Vector(1, float(v))) if np.isfinite(v) else np.nan for v in led.ravel()]
            out[..., follower] = np.reshape(values, led.shape)
        return out

    def _read_names(self) -> None:
        kinds, markers = coordinate_kinds(self.native), self.native.getMarkerSet()
        self.coordinates = tuple(kinds)
        self.units = tuple("N" if kind == "translational" else "N m" for kind in kinds.values())
        self.markers = tuple(str(markers.get(i).getName()) for i in range(markers.getSize()))
        coordinates = [self.native.getCoordinateSet().get(name) for name in self.coordinates]
        self.default_values = np.array([c.getDefaultValue() for c in coordinates], float)
        self.locked = np.array([c.getDefaultLocked() or c.getDefaultIsPrescribed() for c in coordinates], bool)
        limits = [(c.getRangeMin(), c.getRangeMax()) if c.getDefaultClamped() else (-np.inf, np.inf) for c in coordinates]
        self.bounds = np.array(limits, float).reshape(-1, 2)
        order = self.native.getCoordinateNamesInMultibodyTreeOrder()
        tree = [order.getElt(i) for i in range(order.size())]
        if sorted(tree) != sorted(self.coordinates) or self._state.getNU() != len(tree):
            raise SolverError(
                f"the model has {len(self.coordinates)} coordinates for {self._state.getNU()} degrees of freedom; give each joint its own coordinates"
            )
        self._find_slots(coordinates, tree)

    def _find_slots(self, coordinates: Sequence[Any], tree: Sequence[str]) -> None:
        """Where each coordinate lies in the state, and how speeds follow from the coordinates' rates."""
        before = self._state.getQ().to_numpy().copy()
        slots = []
        for coordinate in coordinates:
            coordinate.setLocked(self._state, False)
            coordinate.setClamped(self._state, False)
            coordinate.setIsPrescribed(self._state, False)
            coordinate.setValue(self._state, coordinate.getValue(self._state) + 0.1, False)
            after = self._state.getQ().to_numpy().copy()
            slots.append(int(np.argmax(np.abs(after - before))))
            before = after
        if len(set(slots)) != len(slots):
            raise SolverError(f"two coordinates of the model '{self.native.getName()}' share one degree of freedom")
        self._slots = np.array(slots, dtype=int)
        self._permutation = np.array([[float(name == row) for name in self.coordinates] for row in tree])
        self._pose_at(np.linspace(0.1, 0.5, len(self.coordinates)))
        self._plain = self._state.getNQ() == self._state.getNU() and np.allclose(self._speeds_by_rates(), self._permutation)

    def _read_couplings(self) -> None:
        constraints = self.native.getConstraintSet()
        self._couplings: list[tuple[int, int, Any, float]] = []
        for constraint in (constraints.get(i) for i in range(constraints.getSize())):
            coupler = self._opensim.CoordinateCouplerConstraint.safeDownCast(constraint)
            leaders = coupler.getIndependentCoordinateNames() if coupler is not None else None
            if leaders is not None and leaders.getSize() == 1 and constraint.get_isEnforced():
                follower = self.coordinates.index(coupler.getDependentCoordinateName())
                factor = coupler.getPropertyByName("scale_factor")
                scale = float(self._opensim.PropertyHelper.getValueDouble(factor))
                self._couplings.append((follower, self.coordinates.index(leaders.get(0)), coupler.getFunction(), scale))

    def _read_bodies(self) -> None:
        body_set = self.native.getBodySet()
        bodies = [body_set.get(i) for i in range(body_set.getSize())]
        self.bodies = tuple(str(b.getName()) for b in bodies)
        self._native_bodies = dict(zip(self.bodies, bodies, strict=True))
        self._masses = np.array([b.getMass() for b in bodies])
        self._centers = np.array([b.getMassCenter().to_numpy() for b in bodies])
        self._inertias = np.array([_inertia_matrix(b.getInertia()) for b in bodies])
        self.mass = float(self._masses.sum())
        self.gravity = self.native.getGravity().to_numpy().astype(float)

    def _require_root(self) -> None:
        if not self.root_coordinates:
            raise InputError(f"the model '{self.native.getName()}' has no body that moves freely in ground; give a model whose pelvis does")

    def _mobod(self, body: str) -> int:
        if body not in self._native_bodies:
            raise UnknownNameError("body", body, self.bodies, "in this model")
        return int(self._native_bodies[body].getMobilizedBodyIndex())

    def _find_markers(self, names: Sequence[str]) -> list[Any]:
        for name in names:
            if name not in self.markers:
                raise UnknownNameError("marker", name, self.markers, "in this model")
        marker_set = self.native.getMarkerSet()
        return [marker_set.get(name) for name in names]

    def _locate(self, markers: Sequence[Any]) -> FloatArray:
        return np.array([marker.getLocationInGround(self._state).to_numpy() for marker in markers]).reshape(-1, 3)

    def _vector(self, values: FloatArray) -> Any:
        return self._opensim.Vector.createFromMat(np.ascontiguousarray(values))

    def _frames(self, q: ArrayLike, qd: ArrayLike, qdd: ArrayLike) -> Iterator[tuple[int, FloatArray]]:
        """Realize each finite frame to velocity; yield its index and the accelerations of its speeds."""
        position, velocity, acceleration = (self._checked(a) for a in (q, qd, qdd))
        finite = np.isfinite(position).all(axis=1) & np.isfinite(velocity).all(axis=1) & np.isfinite(acceleration).all(axis=1)
        for frame in np.flatnonzero(finite):
            if not self._plain:
                self._pose_at(position[frame])
            rates = self._rates()
            self._state.setQ(self._vector(self._full(position[frame])))
            self._state.setU(self._vector(rates @ velocity[frame]))
            self.native.realizeVelocity(self._state)
            yield int(frame), rates @ (acceleration[frame] - self._rate_bias())

    def _checked(self, values: ArrayLike) -> FloatArray:
        array = np.asarray(values, float)
        if array.ndim != 2 or array.shape[1] != len(self.coordinates):
            raise InputError(f"coordinates have shape {array.shape}, must be (time, {len(self.coordinates)}): one column for each coordinate of the model")
        return array

    def _full(self, q: FloatArray) -> FloatArray:
        full = np.zeros(self._state.getNQ())
        full[self._slots] = q
        return full

    def _pose_at(self, q: FloatArray) -> None:
        self._state.setQ(self._vector(self._full(q)))
        self.native.realizePosition(self._state)

    def _rates(self) -> FloatArray:
        """Speeds by the coordinates' rates ``(speed, coordinate)`` at the present pose.

        One for one in the order of the tree, but for free and ball joints: their speeds are angular velocities, their
        coordinates are Euler angles.
        """
        return self._permutation if self._plain else self._speeds_by_rates()

    def _speeds_by_rates(self) -> FloatArray:
        columns, speed = [], self._opensim.Vector()
        for unit in np.eye(self._state.getNQ())[self._slots]:
            self._matter.multiplyByNInv(self._state, False, self._vector(unit), speed)
            columns.append(speed.to_numpy().copy())
        return np.array(columns).T

    def _rate_bias(self) -> FloatArray | float:
        """Second derivatives of the coordinates at constant speeds ``(coordinate,)``."""
        if self._plain:
            return 0.0
        bias = self._opensim.Vector()
        self._matter.multiplyByNDot(self._state, False, self._state.getU(), bias)
        values: FloatArray = bias.to_numpy()[self._slots]
        return values

    def _system_jacobian(self) -> FloatArray:
        """Angular and linear velocity of each body's origin per speed, ``(6 bodies, speed)``."""
        jacobian = self._opensim.Matrix()
        self._matter.calcSystemJacobian(self._state, jacobian)
        values: FloatArray = jacobian.to_numpy()
        return values

    def _load_at_origin(self, load: BodyLoad, frame: int) -> FloatArray:
        origin = self._native_bodies[load.body].getPositionInGround(self._state).to_numpy()
        force = np.asarray(load.force[frame], float)
        if not force.any():
            return np.concatenate([load.moment[frame], force])
        return np.concatenate([load.moment[frame] + _cross(load.point[frame] - origin, force), force])

    def _body_motion(self, q: ArrayLike, qd: ArrayLike, qdd: ArrayLike, names: Sequence[str]) -> _BodyMotion:
        mobods = np.array([self._mobod(name) for name in names])
        rows = 6 * mobods[:, None] + np.arange(6)
        count = len(np.asarray(q))
        pose = np.full((count, len(names), 3, 4), np.nan)
        velocity, acceleration = np.full((count, len(names), 6), np.nan), np.full((count, len(names), 6), np.nan)
        bias = self._opensim.Vector()
        for frame, udot in self._frames(q, qd, qdd):
            jacobian = self._system_jacobian()[rows]
            self._matter.calcBiasForSystemJacobian(self._state, bias)
            velocity[frame] = jacobian @ self._state.getU().to_numpy()
            acceleration[frame] = jacobian @ udot + bias.to_numpy()[rows]
            for i, name in enumerate(names):
                pose[frame, i] = _pose(self._native_bodies[name].getTransformInGround(self._state))
        return _BodyMotion(pose[..., :3], pose[..., 3], velocity[..., :3], velocity[..., 3:], acceleration[..., :3], acceleration[..., 3:])


def _inertia_matrix(inertia: Any) -> FloatArray:
    (xx, yy, zz), (xy, xz, yz) = inertia.getMoments().to_numpy(), inertia.getProducts().to_numpy()
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


def _pose(transform: Any) -> FloatArray:
    matrix = transform.R().asMat33()
    rotation = [matrix.get(i, j) for i in range(3) for j in range(3)]
    return np.concatenate([np.reshape(rotation, (3, 3)), transform.p().to_numpy()[:, None]], axis=1)


def _cross(a: FloatArray, b: FloatArray) -> FloatArray:
    """Cross product of two single vectors, many times faster than numpy's."""
    return np.array([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def _points(motion: _BodyMotion, stations: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Motion of one station ``(body, 3)`` on each body: ``a = a0 + alpha x r + omega x (omega x r)``."""
    arm = np.einsum("tbij,bj->tbi", motion.rotation, stations)
    turning = np.cross(motion.angular_velocity, arm)
    acceleration = motion.acceleration + np.cross(motion.angular_acceleration, arm) + np.cross(motion.angular_velocity, turning)
    return motion.position + arm, motion.velocity + turning, acceleration
