"""What all backends share: lawful input in, and a named error where a world's motion has become nonsense."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from imdy_plugin.errors import InputError, SolverError
from imdy_plugin.interfaces import Simulation, StepRecord

Array = NDArray[np.float64]

LARGEST_SPEED = 1e5
"""Length of the vector of all velocities [m/s, rad/s] beyond which a world counts as diverged."""

UNIT_TOLERANCE = 1e-3
"""How far a quaternion's length may be from one; it is made exactly one."""

_CROSS = np.array([[0, 0, 0, 0, 0, 1, 0, -1, 0], [0, 0, -1, 0, 0, 0, 1, 0, 0], [0, 1, 0, -1, 0, 0, 0, 0, 0]], dtype=float)
"""Leads from a point to the matrix, row by row, with ``force @ matrix = cross(point, force)``."""


class DivergedError(SolverError):
    """Some worlds left what a time step can follow; the others were advanced.

    Attributes
    ----------
    worlds
        Indices of the worlds that diverged. Each of them has to be reset before the next step.
    record
        What the step returns of the other worlds; rows of those that diverged are NaN.
    """

    def __init__(self, message: str, worlds: Sequence[int], record: StepRecord) -> None:
        super().__init__(message)
        self.worlds, self.record = tuple(worlds), record


class CheckedSimulation(Simulation):
    """A simulation that checks what it is given, and leaves the physics to :meth:`_put`, :meth:`_read` and :meth:`_advance`.

    Parameters
    ----------
    names
        What the person in each world is called.
    timestep
        Length of a physics step [s].
    bodies
        Names of the bodies, root first.
    sizes
        Numbers of coordinates, velocities and torques.
    quaternions
        Index of the first component of each quaternion among the coordinates.
    """

    def __init__(self, names: Sequence[str], timestep: float, bodies: Sequence[str], sizes: tuple[int, int, int], quaternions: Sequence[int]) -> None:
        self.worlds, self.timestep, self.bodies = len(names), timestep, tuple(bodies)
        self.position_size, self.velocity_size, self.torque_size = sizes
        self._names = tuple(names)
        self._quaternion = np.asarray(quaternions, dtype=np.intp)[:, None] + np.arange(4)
        self._steps = np.zeros(self.worlds, dtype=np.intp)

    def reset(self, position: ArrayLike, velocity: ArrayLike, worlds: Sequence[int] | None = None) -> None:
        """Put people into a state; quaternions are made unit length.

        Raises
        ------
        InputError
            A shape, a world, a number that is not finite or the length of a quaternion is wrong.
        """
        chosen = self._chosen(worlds)
        rows = _rows("position", position, (len(chosen), self.position_size)).copy()
        length = np.linalg.norm(rows[:, self._quaternion], axis=-1)
        if not (np.abs(length - 1.0) < UNIT_TOLERANCE).all():
            world, number = np.argwhere(~(np.abs(length - 1.0) < UNIT_TOLERANCE))[0]
            raise InputError(
                f"position of world {chosen[world]}: components {self._quaternion[number].tolist()} have length {length[world, number]:.4g}; "
                "a rotation is a unit quaternion, scalar first"
            )
        rows[:, self._quaternion] /= length[..., None]
        self._put(chosen, rows, _rows("velocity", velocity, (len(chosen), self.velocity_size)))
        self._steps[chosen] = 0

    def state(self) -> tuple[Array, Array]:
        """Position ``(world, position)`` and velocity ``(world, velocity)`` of everybody; NaN where a world diverged."""
        return self._read()

    def step(self, torque: ArrayLike, substeps: int = 1) -> StepRecord:
        """Advance everybody under constant torques.

        Raises
        ------
        InputError
            The torques have another shape or are not finite, or there are no substeps.
        DivergedError
            A world's motion is no longer finite.
        """
        return self._checked(_rows("torque", torque, (self.worlds, self.torque_size)), substeps, towards=False)

    def step_towards(self, target: ArrayLike, substeps: int = 1) -> StepRecord:
        """Advance everybody under proportional-derivative control; see :meth:`step` for the errors."""
        return self._checked(_rows("target", target, (self.worlds, self.torque_size)), substeps, towards=True)

    def _checked(self, command: Array, substeps: int, *, towards: bool) -> StepRecord:
        if substeps < 1:
            raise InputError(f"{substeps} physics steps were asked for; give at least one")
        record, speed = self._advance(command, int(substeps), towards=towards)
        self._steps += int(substeps)
        fast = np.flatnonzero(~(speed < LARGEST_SPEED))
        if fast.size:
            raise self._diverged(fast.tolist(), record)
        return record

    def _diverged(self, worlds: Sequence[int], record: StepRecord) -> DivergedError:
        for array in vars(record).values():
            array[worlds] = np.nan
        told = ", ".join(f"{w} ('{self._names[w]}') at {self._steps[w] * self.timestep:.4g} s" for w in worlds[:5])
        more = f" and {len(worlds) - 5} more" if len(worlds) > 5 else ""
        return DivergedError(
            f"the motion of world {told}{more} is no longer finite: what acts on it is too stiff or too large for steps of {self.timestep:.4g} s; "
            "reset it, and use shorter steps or smaller torques",
            worlds,
            record,
        )

    def _chosen(self, worlds: Sequence[int] | None) -> NDArray[np.intp]:
        chosen = np.arange(self.worlds) if worlds is None else np.asarray(worlds, dtype=np.intp).reshape(-1)
        wrong = [int(w) for w in chosen if not 0 <= w < self.worlds]
        if wrong:
            raise InputError(f"world {wrong[0]} does not exist; there are {self.worlds}, counted from 0")
        if len(set(chosen.tolist())) < len(chosen):
            raise InputError(f"worlds {chosen.tolist()}: a world is named more than once")
        return chosen

    @abc.abstractmethod
    def _put(self, worlds: NDArray[np.intp], position: Array, velocity: Array) -> None:
        """Put the chosen worlds into a state, at rest in all that is remembered from one step to the next."""

    @abc.abstractmethod
    def _read(self) -> tuple[Array, Array]:
        """Position and velocity of every world."""

    @abc.abstractmethod
    def _advance(self, command: Array, substeps: int, *, towards: bool) -> tuple[StepRecord, Array]:
        """Advance every world; with the record goes the length of each world's velocity, ``(world,)``, NaN where it is not finite."""


@dataclass
class Made:
    """What is written down as worlds are advanced, of which a record is made.

    Attributes
    ----------
    torque
        ``(world, substep, torque)`` [N m].
    gain
        Change of velocity in the first physics step, ``(world, velocity)``.
    load, center
        Moment about ``center (world, substep, 3)`` [m] and force of the ground on each body, ``(world, substep, body, 6)``.
    speed
        Length of each world's velocity at the end, ``(world,)``.
    """

    torque: Array
    gain: Array
    load: Array
    center: Array
    speed: Array

    @classmethod
    def empty(cls, worlds: int, substeps: int, bodies: int, velocities: int, torques: int) -> Made:
        """Arrays to be filled; loads and centres are zero."""
        shape = (worlds, substeps)
        return cls(np.empty((*shape, torques)), np.empty((worlds, velocities)), np.zeros((*shape, bodies, 6)), np.zeros((*shape, 3)), np.empty(worlds))

    def record(self, timestep: float) -> StepRecord:
        """The record of these steps."""
        force = self.load[..., 3:]
        moment = self.load[..., :3] + force @ (self.center @ _CROSS).reshape(*self.center.shape, 3)
        count = self.load.shape[1]
        means = (np.add.reduce(part, axis=1) / count for part in (force, moment))
        return StepRecord(self.torque, self.gain / timestep, force[:, 0].copy(), moment[:, 0].copy(), *means)


def check_people(people: Sequence[xr.Dataset], timestep: float) -> None:
    """Raise :class:`InputError` where there is nobody, the time step is not positive, or people have different bodies."""
    if not people:
        raise InputError("no people were given; start a simulation with at least one")
    if not (np.isfinite(timestep) and timestep > 0):
        raise InputError(f"the time step is {timestep} s; it must be positive")
    first = people[0]["body"].values.tolist()
    for number, person in enumerate(people):
        if person["body"].values.tolist() != first:
            other, one = person.attrs["name"], people[0].attrs["name"]
            raise InputError(f"person {number} ('{other}') has other bodies than person 0 ('{one}'); all people of a simulation have the same bodies")


def _rows(name: str, values: ArrayLike, shape: tuple[int, int]) -> Array:
    array = np.asarray(values, dtype=float)
    if array.shape != shape:
        raise InputError(f"{name} has shape {array.shape}, must have {shape}: one row for each world")
    if not np.isfinite(array).all():
        raise InputError(f"{name} of row {int(np.argwhere(~np.isfinite(array))[0][0])} holds values that are not finite")
    return array
