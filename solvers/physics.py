"""Joint moments and ground forces from the motion alone, by mechanics and nothing else.

A body that moves freely in the ground frame tells the force that moves it: Newton's and Euler's equations of the whole model give the one
wrench that the ground must exert. Contact comes from the motion of the soles, the wrench is shared between the feet that touch, and
inverse dynamics with these loads leaves nothing on the root. Nothing is learned and nothing is fitted to a recording.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pydantic import Field

from imdy_plugin.interfaces import Solver, SolverOptions, Trial
from imdy_plugin.runs import runs
from imdy_plugin.schema import new_result
from imdy_plugin.solvers.body_load import BodyLoad

if TYPE_CHECKING:
    from imdy_plugin.solvers.contact import Contact
    from imdy_plugin.solvers.ground_split import FootLoads
    from imdy_plugin.solvers.multibody.mechanics import BodyMechanics

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

PULL = 0.1
"""Downward vertical force, in body weights, from which the feet would have to hold on to the ground."""
TIPPING = 0.15
"""Distance [m] by which the zero-moment point may lie outside the soles, at one body weight."""
AIRBORNE = 0.4
"""Force, in body weights, from which something other than a foot holds a person whose feet do not touch."""


class PhysicsOptions(SolverOptions):
    """Options of :class:`PhysicsSolver`."""

    cutoff_hz: Annotated[float, Field(gt=0)] | Literal["auto"] | None = Field(
        "auto", description="low-pass cut-off of the coordinates [Hz]; 'auto' by the motion, null filters nothing"
    )
    floor_height: float | None = Field(None, description="height of the floor [m]; estimated from the soles by default")
    contact_height: float = Field(0.045, gt=0, description="height of a sole point above its rest [m] at which contact is as likely as not")
    contact_speed: float = Field(0.6, gt=0, description="least speed of a sole point against the ground [m/s] at which contact is as likely as not")
    contact_relative_speed: float = Field(0.15, ge=0, description="the same as part of the heels' speed in swing; the larger of both counts")
    shortest_contact: float = Field(0.06, ge=0, description="shortest contact and shortest gap in it that are believed [s]")
    pivot_height: float = Field(
        1.5, ge=0.5, description="height of the point that the forces of two feet aim at, in heights of the centre of mass; training recordings prefer 1.2 to 2"
    )
    weight_shift_hz: float = Field(
        5.0, gt=0, description="how fast weight can shift from foot to foot [Hz]: the zero-moment point that shares it is low-passed here"
    )
    transition: float = Field(0.03, ge=0, description="time in which a foot takes its share after landing and gives it up before lifting [s]")
    beyond_soles: Literal["feet", "root"] = Field(
        "feet",
        description="who carries the moment that no pressure under the soles can exert: 'feet', so that the root carries nothing; or 'root', as a "
        "residual, which keeps errors of the motion out of the legs",
    )


class PhysicsSolver(Solver):
    """Ground forces from the whole body's equations of motion, shared by the zero-moment point; exact inverse dynamics."""

    name: ClassVar[str] = "physics"
    summary: ClassVar[str] = "no plates, nothing learned: ground wrench from the motion, shared between the feet by the zero-moment point"
    version: ClassVar[str] = "1"
    needs: ClassVar[frozenset[str]] = frozenset({"kinematics", "model"})
    gives: ClassVar[frozenset[str]] = frozenset(
        {"generalized_force", "ground_force", "center_of_pressure", "free_moment", "root_residual", "contact_probability", "flag", "coordinate_value"}
    )
    requires: ClassVar[tuple[str, ...]] = ("torch", "scipy")
    Options: ClassVar[type[SolverOptions]] = PhysicsOptions

    def solve(self, trial: Trial, options: Any) -> xr.Dataset:
        """Solve one trial.

        Returns
        -------
        xarray.Dataset
            The root carries nothing while a foot touches (unless ``beyond_soles`` is ``root``). In flight the feet carry nothing and
            ``root_residual`` is the wrench that the motion would need. ``flag`` marks ``flight`` and ``wrench_outside_feet``: the
            wanted wrench pulls at the ground, lies outside the soles (the rest is carried as horizontal free moment), or acts
            while no foot touches. Frames without coordinates are NaN.

        Raises
        ------
        InputError
            The model has no free root or no feet, or the motion is too short.
        """
        from imdy_plugin.solvers.kinematics import choose_cutoff, coordinates_of
        from imdy_plugin.solvers.multibody.mechanics import body_mechanics

        self.check(trial)
        assert trial.model is not None
        mechanics = body_mechanics(trial.model)
        coordinates = coordinates_of(trial)
        cutoff, reason = choose_cutoff(options.cutoff_hz, coordinates, mechanics)
        motion = _Motion.of(coordinates, cutoff)
        wrench = mechanics.ground_wrench(motion.q, motion.qd, motion.qdd)
        contact, loads = _share_between_feet(mechanics, motion, wrench, options)
        result = _as_result(self, mechanics, motion, contact, loads, wrench, options)
        log = "\n".join(line for line in (coordinates.attrs.get("log", ""), f"coordinates low-passed: {reason}", *_remarks(result)) if line)
        return result.assign_attrs(cutoff_hz=-1.0 if cutoff is None else cutoff, log=log)


@dataclass(frozen=True)
class _Motion:
    """Smoothed coordinates of the frames that have any, and where these are in the trial."""

    time: Array
    known: Mask
    q: Array
    qd: Array
    qdd: Array

    @classmethod
    def of(cls, coordinates: xr.Dataset, cutoff: float | None) -> _Motion:
        from imdy_plugin.solvers.kinematics import smooth

        time = coordinates["time"].values
        smoothed = smooth(time, coordinates["coordinate_value"].values, cutoff)
        known = np.asarray(np.isfinite(np.concatenate(smoothed, axis=1)).all(axis=1))
        return cls(time, known, *(array[known] for array in smoothed))

    def spread(self, values: Array, fill: float = np.nan) -> Array:
        """Put values of the known frames back among all frames."""
        out = np.full((len(self.time), *values.shape[1:]), fill)
        out[self.known] = values
        return out


def _share_between_feet(mechanics: BodyMechanics, motion: _Motion, wrench: Array, options: PhysicsOptions) -> tuple[Contact, FootLoads]:
    """Find contact from the soles and share a wrench ``(time, 6)`` about the ground origin between the feet that touch."""
    from imdy_plugin.solvers.contact import ContactThresholds, detect_contact, loading, sole_motion
    from imdy_plugin.solvers.ground_split import split_wrench, zero_moment_point

    thresholds = ContactThresholds(
        height=options.contact_height, speed=options.contact_speed, relative_speed=options.contact_relative_speed, shortest=options.shortest_contact
    )
    sole, velocity = sole_motion(mechanics, motion.q, motion.qd)
    contact = detect_contact(motion.time[motion.known], sole, velocity, thresholds, options.floor_height)
    floor = contact.floor_height
    pivot = mechanics.center_of_mass(motion.q, motion.qd, motion.qdd)[0]
    pivot[:, 1] = floor + options.pivot_height * (pivot[:, 1] - floor)
    target = zero_moment_point(_slow_part(motion, wrench, options.weight_shift_hz), floor)
    factor = loading(contact.touching, motion.time[motion.known], options.transition)
    return contact, split_wrench(wrench, sole, contact.score, floor, pivot, target=target, loading=factor, all_on_feet=options.beyond_soles == "feet")


def _slow_part(motion: _Motion, wrench: Array, cutoff_hz: float) -> Array:
    """Low-passed wrench; as it is where a stretch is too short to filter."""
    from imdy_plugin.solvers.kinematics import MIN_FRAMES_FILTERED, finite_stretches, smooth

    everywhere = motion.spread(wrench)
    if max(stretch.stop - stretch.start for stretch in finite_stretches(everywhere)) < MIN_FRAMES_FILTERED:
        return wrench
    slow = smooth(motion.time, everywhere, cutoff_hz)[0][motion.known]
    return np.where(np.isfinite(slow), slow, wrench)


def outside_feet(wrench: Array, loads: FootLoads, touching: Mask, weight: float) -> Mask:
    """Frames whose wrench cannot come through the feet, ``(time,)``.

    The ground would have to pull (more than :data:`PULL` body weights), the wrench lies outside the soles (its horizontal moment about the
    centres of pressure exceeds :data:`TIPPING` times the body weight), or something else holds the body: while no foot
    touches, from lift to landing, the median force is more than :data:`AIRBORNE` body weights.

    Parameters
    ----------
    wrench
        Force and moment about the ground origin, ``(time, 6)``.
    loads
        What the feet were given of it.
    touching
        ``(time, foot)``.
    weight
        Body weight [N].
    """
    flight = np.asarray(~touching.any(axis=1))
    carried = loads.free_moment.sum(axis=1) + loads.unexplained[:, 3:]
    tipping = np.linalg.norm(carried[:, [0, 2]], axis=1)
    outside = ~flight & ((wrench[:, 1] < -PULL * weight) | (tipping > TIPPING * weight))
    for start, stop in runs(flight):
        outside[start:stop] = np.median(np.linalg.norm(wrench[start:stop, :3], axis=1)) > AIRBORNE * weight
    return np.asarray(outside)


def _body_loads(mechanics: BodyMechanics, loads: FootLoads) -> list[BodyLoad]:
    parts = (loads.force, loads.center_of_pressure, loads.free_moment)
    return [BodyLoad(body, *(part[:, foot] for part in parts)) for foot, body in enumerate(mechanics.foot_bodies)]


def _as_result(
    solver: PhysicsSolver,
    mechanics: BodyMechanics,
    motion: _Motion,
    contact: Contact,
    loads: FootLoads,
    wrench: Array,
    options: PhysicsOptions,
) -> xr.Dataset:
    generalized = mechanics.inverse_dynamics(motion.q, motion.qd, motion.qdd, _body_loads(mechanics, loads))
    weight = mechanics.mass * float(np.linalg.norm(mechanics.gravity))
    flags = {"flight": ~contact.touching.any(axis=1), "wrench_outside_feet": outside_feet(wrench, loads, contact.touching, weight)}
    return new_result(
        motion.time,
        coordinates=mechanics.coordinates,
        generalized_force=motion.spread(generalized),
        units=mechanics.units,
        bodies=mechanics.foot_bodies,
        ground_force=motion.spread(loads.force),
        center_of_pressure=motion.spread(loads.center_of_pressure),
        free_moment=motion.spread(loads.free_moment),
        root_residual=motion.spread(mechanics.root_wrench(motion.q, generalized)),
        solver=solver.name,
        solver_version=solver.version,
        options=options.model_dump(),
        model=mechanics.name,
        mass=mechanics.mass,
        attrs={"floor_height": contact.floor_height, "ground_velocity": contact.ground_velocity.tolist()},
        coordinate_value=motion.spread(motion.q),
        coordinate_velocity=motion.spread(motion.qd),
        coordinate_acceleration=motion.spread(motion.qdd),
        contact_probability=motion.spread(contact.touching.astype(float)),
        flag={kind: motion.spread(frames.astype(float), 0.0).astype(bool) for kind, frames in flags.items()},
    )


def _remarks(result: xr.Dataset) -> list[str]:
    """What the log says about contact and about wrenches that the feet cannot give."""
    counts = {str(kind): int(result["flag"].sel(kind=kind).sum()) for kind in result["kind"].values}
    lines = [f"floor at {result.attrs['floor_height']:.3f} m, ground moving at {np.round(result.attrs['ground_velocity'], 2).tolist()} m/s"]
    lines += [f"{counts['flight']} of {result.sizes['time']} frames in flight"] if counts["flight"] else []
    if counts["wrench_outside_feet"]:
        lines.append(f"{counts['wrench_outside_feet']} of {result.sizes['time']} frames need a wrench that feet on the floor cannot give: another contact?")
    return lines
