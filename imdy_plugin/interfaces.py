"""What a plugin implements: solver, model adapter, marker reader, simulation backend; and the trial that a solver is handed."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from imdy_plugin.errors import InputError

NEEDS = ("markers", "kinematics", "model", "native_model", "ground_force", "mass")
"""What a solver may need. ``kinematics`` is markers or coordinates; ``model`` its dataset, ``native_model`` an OpenSim model object."""


class Deferred:
    """Something that takes long to make, and is made when it is first asked for.

    Parameters
    ----------
    make
        Makes it; called at most once.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make: Callable[[], Any] | None = make
        self._made: Any = None

    def get(self) -> Any:
        """What was made."""
        if self._make is not None:
            self._made, self._make = self._make(), None
        return self._made


class _MayBeDeferred:
    """A field, None by default, that may be given as :class:`Deferred`; whoever reads it gets what was made."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._key = f"_{name}"

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        given = None if instance is None else instance.__dict__[self._key]
        return given.get() if isinstance(given, Deferred) else given

    def __set__(self, instance: Any, value: Any) -> None:
        instance.__dict__[self._key] = value


@dataclass(frozen=True)
class Trial:
    """One recording of one person, as a solver sees it.

    Attributes
    ----------
    motion
        Markers and/or coordinates on one time base (:func:`imdy_plugin.schema.validate_motion`).
    model
        The person's model (:func:`imdy_plugin.schema.validate_model`), or None.
    mass
        Body mass [kg], or None where nobody said and no model holds it.
    ground_force
        Measured ground forces on their own time base, a motion with ``ground_force``, ``center_of_pressure`` and
        ``free_moment`` per body; zero out of contact, NaN where unknown. Or None.
    native_model
        The ``opensim.Model`` that ``model`` was read from, or None; it may be given as :class:`Deferred`. A solver clones it before
        changing anything.
    height
        Body height [m], or None.
    provenance
        Where each input came from, by input.
    """

    motion: xr.Dataset
    model: xr.Dataset | None = None
    mass: float | None = None
    ground_force: xr.Dataset | None = None
    native_model: Any = _MayBeDeferred()
    height: float | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)

    def has(self, need: str) -> bool:
        """Whether the trial holds one of :data:`NEEDS`."""
        present = {
            "markers": "marker_position" in self.motion,
            "kinematics": "marker_position" in self.motion or "coordinate_value" in self.motion,
            "model": self.model is not None,
            "native_model": self.__dict__["_native_model"] is not None,
            "ground_force": self.ground_force is not None,
            "mass": self.mass is not None,
        }
        return present[need]

    def with_motion(self, motion: xr.Dataset) -> Trial:
        """The same trial with another motion; unlike :func:`dataclasses.replace` this makes no model that is deferred."""
        return replace(self, motion=motion, native_model=self.__dict__["_native_model"])


class SolverOptions(BaseModel):
    """Base of a solver's options: typed, frozen, and an unknown name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Solver(abc.ABC):
    """Markers and a model in, joint moments and ground forces out.

    A subclass states what it is as class attributes and implements :meth:`solve`. Its module imports nothing heavy at the
    top: solvers are listed without being used.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    version: ClassVar[str]
    needs: ClassVar[frozenset[str]]
    gives: ClassVar[frozenset[str]]
    requires: ClassVar[tuple[str, ...]] = ()
    """Import names of the libraries that :meth:`solve` needs."""
    Options: ClassVar[type[SolverOptions]] = SolverOptions

    @abc.abstractmethod
    def solve(self, trial: Trial, options: Any) -> xr.Dataset:
        """Solve one trial.

        Parameters
        ----------
        trial
            Holds everything in :attr:`needs`; it is not changed.
        options
            An instance of :attr:`Options`.

        Returns
        -------
        xarray.Dataset
            A result (:func:`imdy_plugin.schema.validate_result`).
        """

    def check(self, trial: Trial) -> None:
        """Raise :class:`InputError` naming everything this solver needs and the trial lacks."""
        lacking = [need for need in NEEDS if need in self.needs and not trial.has(need)]
        if lacking:
            raise InputError(f"solver '{self.name}' needs {', '.join(lacking)}, which the trial lacks; give {' and '.join(_HOW[n] for n in lacking)}")


_HOW = {
    "markers": "a marker file (markers=...)",
    "kinematics": "a marker file (markers=...) or joint coordinates (coordinates=...)",
    "model": "a model (an .osim path; 'imdy model' writes one)",
    "native_model": "an OpenSim model (an .osim path or an opensim.Model)",
    "ground_force": "measured ground forces (ground_force=..., an ExternalLoads .xml or .c3d)",
    "mass": "the body mass (mass=..., in kg)",
}


@dataclass(frozen=True)
class LoadedModel:
    """A model in the common representation, with the object it was read from, which may be given as :class:`Deferred`."""

    dataset: xr.Dataset
    native: Any = _MayBeDeferred()

    @property
    def deferred_native(self) -> Any:
        """:attr:`native` as it was given, to be handed on without being made."""
        return self.__dict__["_native"]


class ModelAdapter(abc.ABC):
    """Reads one kind of body model into the common representation."""

    name: ClassVar[str]
    summary: ClassVar[str]

    @abc.abstractmethod
    def accepts(self, source: Any) -> bool:
        """Whether this adapter reads ``source`` (a path or an object); cheap, imports nothing heavy."""

    @abc.abstractmethod
    def load(self, source: Any) -> LoadedModel:
        """Read ``source``."""


class MarkerReader(abc.ABC):
    """Reads markers (and ground forces where the file holds them) into a motion."""

    name: ClassVar[str]
    summary: ClassVar[str]

    @abc.abstractmethod
    def accepts(self, source: Any) -> bool:
        """Whether this reader reads ``source`` (a path or an object); cheap, imports nothing heavy."""

    @abc.abstractmethod
    def read(self, source: Any) -> xr.Dataset:
        """Read ``source`` into a motion with ``marker_position``."""

    def read_ground_force(self, source: Any) -> xr.Dataset | None:
        """Ground forces that ``source`` holds beside its markers, on their own time base, or None."""
        return None


@dataclass(frozen=True)
class StepRecord:
    """What acted on simulated people during one call of :meth:`Simulation.step`, in the ground frame.

    Together with the state before the step, ``acceleration``, ``torque[:, 0]``, ``ground_force`` and ``ground_moment`` close the
    equations of motion: nothing else acts.

    Attributes
    ----------
    torque
        Torque of every joint axis in every physics step [N m], ``(world, substep, torque)``.
    acceleration
        Generalized acceleration over the first physics step, ``(world, velocity)``: the change of velocity over the time step.
    ground_force, ground_moment
        Force [N] of the ground on each body in the first physics step, and its moment [N m] about the origin of the ground
        frame, ``(world, body, 3)``.
    mean_ground_force, mean_ground_moment
        The same, averaged over all physics steps of the call.
    """

    torque: NDArray[np.float64]
    acceleration: NDArray[np.float64]
    ground_force: NDArray[np.float64]
    ground_moment: NDArray[np.float64]
    mean_ground_force: NDArray[np.float64]
    mean_ground_moment: NDArray[np.float64]


class Simulation(abc.ABC):
    """Some simulated people, one in each world, that move on level ground under the torques of their joints.

    The root of each person is free: its position is 3 coordinates [m] and a unit quaternion (scalar first), its velocity 3
    components along the ground's axes [m/s] and 3 along its own [rad/s]. A joint of three axes is a unit quaternion and an
    angular velocity along the child's axes, a joint of one axis an angle and its rate. Torques and targets follow the velocities
    without the root's six. The ground is the plane y = 0.

    Attributes
    ----------
    worlds, timestep
        Number of worlds, and length of a physics step [s].
    bodies
        Names of the bodies, root first.
    position_size, velocity_size, torque_size
        Numbers of coordinates, velocities and torques.
    """

    worlds: int
    timestep: float
    bodies: tuple[str, ...]
    position_size: int
    velocity_size: int
    torque_size: int

    @abc.abstractmethod
    def reset(self, position: NDArray[np.float64], velocity: NDArray[np.float64], worlds: Sequence[int] | None = None) -> None:
        """Put people into a state.

        Parameters
        ----------
        position, velocity
            ``(world, position)`` and ``(world, velocity)``, one row for each of ``worlds``.
        worlds
            Which worlds; all by default.
        """

    @abc.abstractmethod
    def state(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Position ``(world, position)`` and velocity ``(world, velocity)`` of everybody."""

    @abc.abstractmethod
    def step(self, torque: NDArray[np.float64], substeps: int = 1) -> StepRecord:
        """Advance everybody by ``substeps`` physics steps under a constant torque ``(world, torque)`` [N m], cut at the joints' limits."""

    @abc.abstractmethod
    def step_towards(self, target: NDArray[np.float64], substeps: int = 1) -> StepRecord:
        """Advance everybody by ``substeps`` physics steps, each under the torques of proportional-derivative control.

        Parameters
        ----------
        target
            Rotation vectors of the joints of three axes and angles of the others [rad], ``(world, torque)``.
        substeps
            Physics steps.

        Returns
        -------
        StepRecord
            Its torques are those that acted, damping and limits included.
        """

    def close(self) -> None:  # noqa: B027
        """Give back what the simulation holds; it is not used again."""


class SimBackend(abc.ABC):
    """A physics engine behind the simulated people."""

    name: ClassVar[str]
    summary: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ()
    """Import names of the libraries that :meth:`start` needs."""

    @abc.abstractmethod
    def start(self, people: Sequence[xr.Dataset], *, timestep: float = 1 / 120, seed: int = 0) -> Simulation:
        """Start one world for each person.

        Parameters
        ----------
        people
            Their models (:func:`imdy_plugin.schema.validate_model`), all with the same bodies and joints.
        timestep
            Length of a physics step [s].
        seed
            The same seed, people and torques give the same motion.
        """
