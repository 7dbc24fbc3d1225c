"""Classic inverse dynamics: measured ground forces and the motion give the joint moments."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pydantic import Field, model_validator

from imdy_plugin.errors import InputError
from imdy_plugin.interfaces import Solver, SolverOptions, Trial
from imdy_plugin.schema import add_log, new_result

if TYPE_CHECKING:
    from imdy_plugin.solvers.body_load import BodyLoad
    from imdy_plugin.solvers.kinematics import Mechanics
    from imdy_plugin.solvers.multibody.mechanics import BodyMechanics
    from imdy_plugin.solvers.opensim_mechanics import OpenSimMechanics

FloatArray = NDArray[np.float64]
Engine = TypeVar("Engine", bound="Mechanics")
"""Mechanics of the model that a classic solver stands on."""


class ClassicOptions(SolverOptions):
    """Options of every :class:`ClassicSolver`."""

    cutoff_hz: Annotated[float, Field(gt=0)] | Literal["auto"] | None = Field(
        "auto", description="low-pass cut-off of the coordinates [Hz]; 'auto' by the motion, null filters nothing"
    )
    differentiation: Literal["lowpass", "gcv"] = Field(
        "lowpass",
        description="'lowpass': Butterworth filter run both ways at cutoff_hz, then interpolating quintic splines, as OpenSim's tool; 'gcv': quintic "
        "smoothing splines, each coordinate's smoothing chosen by generalized cross-validation, without cutoff_hz",
    )
    force_cutoff_hz: float | None = Field(
        None, gt=0, description="low-pass cut-off of the ground forces [Hz]; by default they are not filtered, as in OpenSim's tool"
    )

    @model_validator(mode="after")
    def _has_one_smoothing(self) -> ClassicOptions:
        if self.differentiation == "gcv" and self.cutoff_hz != "auto":
            raise ValueError("cutoff_hz has no meaning with differentiation='gcv', which chooses its own; leave it out")
        return self


class OpenSimOptions(ClassicOptions):
    """Options of :class:`OpenSimSolver`."""

    exclude_forces: Literal["all", "muscles"] = Field("all", description="which of the model's own forces are left out; kept ones lessen the joint moments")


class MultibodyOptions(ClassicOptions):
    """Options of :class:`MultibodySolver`."""

    simbody_rates: bool = Field(
        False, description="differentiate the axes of coupled joints, such as knees, as OpenSim's engine does instead of exactly; for comparisons"
    )


@dataclass(frozen=True)
class _States:
    """Smoothed coordinates with first and second derivatives ``(time, coordinate)``, and what was done: attributes of the result, a line of its log."""

    q: FloatArray
    qd: FloatArray
    qdd: FloatArray
    attrs: dict[str, Any]
    line: str


@dataclass(frozen=True)
class JointForces:
    """What an engine of inverse dynamics answers.

    Attributes
    ----------
    generalized_force
        ``(time, coordinate)`` in the model's order [N m or N]; NaN where the motion or a load is, and for a coordinate that the engine lacks.
    log
        What the reader of the result has to know, a line each.
    attrs
        Further attributes of the result.
    """

    generalized_force: FloatArray
    log: Sequence[str] = ()
    attrs: dict[str, Any] = field(default_factory=dict)


class ClassicSolver(Solver, Generic[Engine]):
    """What every classic inverse dynamics shares: preparation of motion and loads, masks, root residual, log.

    A subclass names itself and implements :meth:`mechanics` and :meth:`joint_forces`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model", "native_model", "kinematics", "ground_force", "mass"})
    gives: ClassVar[frozenset[str]] = frozenset(
        {
            "generalized_force",
            "ground_force",
            "center_of_pressure",
            "free_moment",
            "root_residual",
            "coordinate_value",
            "coordinate_velocity",
            "coordinate_acceleration",
            "flag",
        }
    )
    Options: ClassVar[type[SolverOptions]] = ClassicOptions

    @abc.abstractmethod
    def mechanics(self, trial: Trial, options: Any) -> Engine:
        """The model's mechanics: names and order of the coordinates, bodies, root."""

    @abc.abstractmethod
    def joint_forces(self, mechanics: Engine, q: FloatArray, qd: FloatArray, qdd: FloatArray, loads: Sequence[BodyLoad], options: Any) -> JointForces:
        """Generalized forces of a motion ``(time, coordinate)`` under ``loads``; frames may hold NaN."""

    def solve(self, trial: Trial, options: Any) -> xr.Dataset:
        """Solve one trial.

        Returns
        -------
        xarray.Dataset
            On the motion's time base. Frames in which a ground force is unknown or a coordinate missing are NaN and flagged as
            ``ground_force_unknown`` and ``kinematics_missing``; nothing is extrapolated. ``root_residual`` is NaN for a model
            without a free root.

        Raises
        ------
        UnknownNameError
            A force acts on a body that the model lacks.
        InputError
            The motion is too short, lacks coordinates, or shares no frame with the ground forces.
        """
        from imdy_plugin.solvers.kinematics import coordinates_of, mechanics_of
        from imdy_plugin.solvers.loads import body_loads, check_bodies, ground_forces_at

        self.check(trial)
        ground = trial.ground_force
        assert ground is not None
        mechanics, shared = self.mechanics(trial, options), mechanics_of(trial)
        check_bodies(ground, mechanics.bodies)
        motion = coordinates_of(trial)
        _check_order(motion, mechanics)
        states = _differentiate(motion, shared, options)
        time, q, qd, qdd = motion["time"].values, states.q, states.qd, states.qdd
        loads = ground_forces_at(time, ground, options.force_cutoff_hz)
        forces = self.joint_forces(mechanics, q, qd, qdd, body_loads(ground, loads), options)
        result = new_result(
            time,
            coordinates=mechanics.coordinates,
            generalized_force=forces.generalized_force,
            units=mechanics.units,
            bodies=[str(b) for b in ground["body"].values],
            **loads,
            root_residual=_root_residual(shared, q, forces.generalized_force),
            solver=self.name,
            solver_version=self.version,
            options=options.model_dump(),
            model=mechanics.name,
            mass=mechanics.mass,
            attrs=_attributes(motion, mechanics) | states.attrs | forces.attrs,
            coordinate_value=q,
            coordinate_velocity=qd,
            coordinate_acceleration=qdd,
            flag={
                "ground_force_unknown": ~np.isfinite(loads["ground_force"]).all(axis=(1, 2)),
                "kinematics_missing": ~np.isfinite(q).all(axis=1),
            },
        )
        return _logged(result, mechanics, states.line, options, forces.log)


class OpenSimSolver(ClassicSolver["OpenSimMechanics"]):
    """OpenSim's inverse dynamics: the model, its motion and measured ground forces."""

    name: ClassVar[str] = "opensim"
    summary: ClassVar[str] = "classic inverse dynamics with force plates, equal to OpenSim's InverseDynamicsTool"
    version: ClassVar[str] = "1"
    requires: ClassVar[tuple[str, ...]] = ("opensim", "torch", "scipy")
    Options: ClassVar[type[SolverOptions]] = OpenSimOptions

    def mechanics(self, trial: Trial, options: Any) -> OpenSimMechanics:
        """The model's mechanics, with those of its own forces that the options keep."""
        from imdy_plugin.solvers.opensim_mechanics import OpenSimMechanics

        return OpenSimMechanics(trial.native_model, only_muscles=options.exclude_forces == "muscles")

    def joint_forces(self, mechanics: OpenSimMechanics, q: FloatArray, qd: FloatArray, qdd: FloatArray, loads: Sequence[BodyLoad], options: Any) -> JointForces:
        """Generalized forces by OpenSim's own multibody engine."""
        return JointForces(mechanics.inverse_dynamics(q, qd, qdd, loads))


class MultibodySolver(ClassicSolver["BodyMechanics"]):
    """The same by this package's own mechanics of all frames at once; any model in the common representation, no OpenSim."""

    name: ClassVar[str] = "multibody"
    summary: ClassVar[str] = "classic inverse dynamics with force plates, by batched mechanics of its own; many times faster than OpenSim"
    version: ClassVar[str] = "1"
    needs: ClassVar[frozenset[str]] = ClassicSolver.needs - {"native_model"}
    requires: ClassVar[tuple[str, ...]] = ("torch", "scipy")
    Options: ClassVar[type[SolverOptions]] = MultibodyOptions

    def mechanics(self, trial: Trial, options: Any) -> BodyMechanics:
        """The model's mechanics; those that were compiled before where the model has not changed."""
        from imdy_plugin.solvers.multibody.mechanics import body_mechanics

        assert trial.model is not None
        return body_mechanics(trial.model, simbody_rates=options.simbody_rates)

    def joint_forces(self, mechanics: BodyMechanics, q: FloatArray, qd: FloatArray, qdd: FloatArray, loads: Sequence[BodyLoad], options: Any) -> JointForces:
        """Generalized forces by Newton's and Euler's equations of every body, summed along the tree."""
        line = "rates of coupled joints as in OpenSim's engine" if options.simbody_rates else "rates of coupled joints exact"
        return JointForces(mechanics.inverse_dynamics(q, qd, qdd, loads), [line])


def _check_order(motion: xr.Dataset, mechanics: Mechanics) -> None:
    names = tuple(str(n) for n in motion["coordinate"].values)
    if names != mechanics.coordinates:
        other = next((n for n in (*names, *mechanics.coordinates) if n not in names or n not in mechanics.coordinates), "in another order")
        raise InputError(f"the trial's model and native_model have different coordinates ({other}); give a model and the object that it was read from")


def _differentiate(motion: xr.Dataset, mechanics: Mechanics, options: ClassicOptions) -> _States:
    from imdy_plugin.solvers.kinematics import choose_cutoff, cross_validate, smooth

    time, given = motion["time"].values, motion["coordinate_value"].values
    if options.differentiation == "gcv":
        value, cutoffs = cross_validate(time, given)
        attrs = {"filter": "natural quintic smoothing splines by generalized cross-validation", "cutoff_hz": cutoffs.tolist()}
        line = f"coordinates smoothed by quintic splines under generalized cross-validation, cut-offs {cutoffs.min():.2g} to {cutoffs.max():.2g} Hz"
        return _States(*smooth(time, value, None), attrs, f"{line}, median {np.median(cutoffs):.2g} Hz")
    cutoff, reason = choose_cutoff(options.cutoff_hz, motion, mechanics)
    attrs = {"filter": "none" if cutoff is None else "third-order Butterworth, run forwards and backwards", "cutoff_hz": -1.0 if cutoff is None else cutoff}
    return _States(*smooth(time, given, cutoff), attrs, f"coordinates low-passed: {reason}; differentiated as natural quintic splines")


def _root_residual(mechanics: Mechanics, q: FloatArray, force: FloatArray) -> FloatArray:
    return mechanics.root_wrench(q, force) if mechanics.root_coordinates else np.full((len(q), 6), np.nan)


def _attributes(motion: xr.Dataset, mechanics: Mechanics) -> dict[str, Any]:
    told = ("kinematics", "marker_rms_mean", "marker_rms_max", "frames_not_converged", "frames_bridged", "frames_masked", "never_seen", "log")
    attrs = {name: motion.attrs[name] for name in told if name in motion.attrs}
    return attrs | {"excluded_forces": list(mechanics.excluded_forces)}


def _logged(result: xr.Dataset, mechanics: Mechanics, smoothing: str, options: ClassicOptions, lines: Sequence[str]) -> xr.Dataset:
    excluded = mechanics.excluded_forces
    named = ", ".join(excluded[:3]) + (f" and {len(excluded) - 3} more" if len(excluded) > 3 else "")
    result = add_log(result, f"model's own forces excluded: {named or 'none'}")
    result = add_log(result, f"{smoothing}; ground forces low-passed: {options.force_cutoff_hz or 'no'}")
    for line in lines:
        result = add_log(result, line)
    for kind in result["kind"].values:
        frames = int(result["flag"].sel(kind=kind).sum())
        if frames:
            result = add_log(result, f"{frames} of {result.sizes['time']} frames masked: {str(kind).replace('_', ' ')}")
    if not mechanics.root_coordinates:
        result = add_log(result, "the model has no free root: no root residual")
    return result
