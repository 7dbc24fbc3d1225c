"""A generic model made the size of a person, from a standing trial (or any other) and the person's mass."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin import api, registry
from imdy_plugin.atomic import check_free
from imdy_plugin.errors import DataWarning, FileFormatError, InputError, UnknownNameError, suggest

if TYPE_CHECKING:
    from rich.table import Table

    from imdy_plugin.adapters.scale_setup import Measurement, ScaleSetup
    from imdy_plugin.solvers.multibody.mechanics import BodyMechanics
    from imdy_plugin.solvers.size_fit import SizeFit

FloatArray = NDArray[np.float64]
Positions = dict[str, FloatArray]
Placing = Literal["free", "all", "soft", "none"]

PLAUSIBLE_FACTORS = (0.5, 2.0)
"""Scale factors between a generic adult and a person."""

LARGE_SWAY = 0.02
"""Distance [m] from its mean place beyond which a marker is not that of a person who stands still."""

LARGE_POSE_ERROR = 0.05
"""Root mean square distance [m] of markers in the static pose beyond which the fit is called suspicious."""

LARGE_OFFSET = 0.1
"""Distance [m] of a marker from where the generic model has it beyond which it may be another one."""

FRAMES = 15
"""Frames of each recording that are fitted automatically, spread over it."""

_VISIBLE = 0.8
"""Share of the most markers seen at once that a frame must show to be fitted."""

_STAMP = 0.1
"""Share of a frame's duration by which rounded time stamps may miss."""

_SAME_TIME = 1e-6
"""Difference of time stamps [s] that are the same."""


@dataclass(frozen=True)
class ScaledModel:
    """A model of a person's size, and what made it.

    Attributes
    ----------
    native
        The ``opensim.Model``; :func:`imdy_plugin.solve` takes it as it is.
    factors
        Scale factors of each body along its own x, y and z.
    mass
        Total mass [kg].
    uncertainty
        Standard deviation of each factor, relative to it; empty where a setup states the measurements.
    pose
        Coordinates [rad or m] in which the person stood, or of the first frame of an automatic fit; empty where there is none.
    marker_error
        Distance [m] of each tracked marker from the scaled model's: with a setup in the static pose before any was moved, of an automatic fit
        the root mean square over its frames, with markers where it finds them.
    moved
        How far [m] each marker was moved on its body.
    removed
        Markers of the generic model that the recording lacks, and that were therefore left out.
    path
        The file that was written, or None.
    """

    native: Any
    factors: dict[str, tuple[float, float, float]]
    mass: float
    uncertainty: dict[str, tuple[float, float, float]]
    pose: dict[str, float]
    marker_error: dict[str, float]
    moved: dict[str, float]
    removed: tuple[str, ...]
    path: Path | None

    @property
    def marker_rms(self) -> float:
        """Root mean square of :attr:`marker_error` [m]; NaN where markers were not placed."""
        return float(np.sqrt(np.mean(np.square(list(self.marker_error.values()))))) if self.marker_error else float("nan")


def scale(
    model: Any = None,
    static: Any = None,
    *,
    mass: float | None = None,
    height: float | None = None,
    setup: str | os.PathLike[str] | None = None,
    markers: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    force: bool = False,
    preserve_mass_distribution: bool | None = None,
    place_markers: Placing | None = None,
    keep_unmeasured: bool = False,
    symmetric: bool = True,
    also: Sequence[Any] = (),
) -> ScaledModel:
    """Scale a generic model to a person.

    With a ``setup`` this gives what OpenSim's ScaleTool gives from it: factors from distances between markers and from the setup, masses, the
    static pose by weighted inverse kinematics, and markers moved to where they were measured.

    Without one, factors, places of the markers on their bodies and the poses of a few frames are fitted together
    (:mod:`imdy_plugin.solvers.size_fit`); what the markers do not tell follows the segments beside it and the size of the whole body.

    Parameters
    ----------
    model
        Generic model, an ``.osim`` path or an ``opensim.Model``; that of the setup where None. It is not changed.
    static
        Recording of the person standing, or without a setup of any movement (``.trc``, ``.c3d`` or a motion); that of the setup where None.
    mass
        Body mass [kg]; that of the setup where None.
    height
        Body height [m], to check the recording by; that of the setup where None.
    setup
        ScaleTool setup (.xml).
    markers
        Marker set (.xml) that replaces or joins the model's markers; that of the setup where None.
    output
        ``.osim`` file to write, never the generic model; nothing is written where None.
    force
        Replace that file where it exists, instead of refusing.
    preserve_mass_distribution
        Whether bodies keep their share of the mass; where None as the setup says, and True without one.
    place_markers
        Which markers are moved to where they were measured: ``"free"`` those that the model does not hold fixed, ``"all"``, ``"soft"`` only
        those between two joints of a limb (clusters on soft tissue), ``"none"``. Where None as the setup says, and ``"free"`` without one.
    keep_unmeasured
        Keep the model's markers that the recording lacks; they stay where scaling puts them.
    symmetric
        Give left and right the same factors; only without a setup, which states what is scaled by what.
    also
        Further recordings of the same person with the same markers, for an automatic fit: walking tells where joints are.

    Returns
    -------
    ScaledModel

    Raises
    ------
    ImdyError
        An input is missing, cannot be read, or would make a wrong model; the message says which and what to do.

    Warns
    -----
    DataWarning
        A factor is outside :data:`PLAUSIBLE_FACTORS`, markers have gaps or move, a fit did not come to rest, or the scaled model does not fit
        the markers.

    Examples
    --------
    >>> person = imdy_plugin.scale("generic.osim", "static.trc", mass=72.6, setup="scale_setup.xml", output="scaled.osim")  # doctest: +SKIP
    >>> imdy_plugin.solve(person.native, "walk.trc")  # doctest: +SKIP
    """
    from imdy_plugin.adapters.scale_setup import read_scale_setup

    if place_markers not in (None, *get_args(Placing)):
        raise InputError(f"place_markers is '{place_markers}'; {suggest(str(place_markers), get_args(Placing))}")
    chosen = _Choices(mass, height, markers, output, force, preserve_mass_distribution, place_markers, keep_unmeasured)
    if setup is None:
        return _scale_automatically(model, [static, *also], chosen, symmetric)
    if also:
        raise InputError("further recordings are given with a setup, which measures in one; leave out either")
    return _scale_by_setup(read_scale_setup(setup), model, static, chosen)


@dataclass(frozen=True)
class _Choices:
    """What the caller of :func:`scale` chose, setup or not."""

    mass: float | None
    height: float | None
    markers: str | os.PathLike[str] | None
    output: str | os.PathLike[str] | None
    force: bool
    preserve_mass_distribution: bool | None
    place_markers: Placing | None
    keep_unmeasured: bool


def _scale_by_setup(job: ScaleSetup, model: Any, static: Any, chosen: _Choices) -> ScaledModel:
    source = model if model is not None else job.model_file
    if source is None:
        raise InputError(f"{job.path}: names no generic model; give model=...")
    _check_output(chosen, source)
    mass = _mass(chosen.mass, job)
    height = chosen.height if chosen.height is not None else job.height
    native = _with_markers(_native(source), chosen.markers if chosen.markers is not None else job.marker_set_file)
    factors = _setup_factors(job, native, _recording(static, job.scale_file, job, height)) if job.scales else {}
    preserve = job.preserve_mass_distribution if chosen.preserve_mass_distribution is None else chosen.preserve_mass_distribution
    scaled = _scaled(native, factors, mass, preserve)
    placing, placed = chosen.place_markers or ("free" if job.places else "none"), _Placement()
    if placing != "none":
        placed = _place(scaled, job, _recording(static, job.place_file, job, height), placing, chosen.keep_unmeasured)
    return _finish(scaled, factors, placed, chosen.output)


@dataclass(frozen=True)
class _Placement:
    """What placing the markers gave, as in :class:`ScaledModel`."""

    pose: dict[str, float] = field(default_factory=dict)
    marker_error: dict[str, float] = field(default_factory=dict)
    moved: dict[str, float] = field(default_factory=dict)
    removed: tuple[str, ...] = ()


def _scale_automatically(model: Any, recordings: Sequence[Any], chosen: _Choices, symmetric: bool) -> ScaledModel:
    from imdy_plugin.adapters.scaled_model import keep_markers

    if model is None or recordings[0] is None:
        raise InputError(f"no {'generic model' if model is None else 'recording of the person'} is given, and no setup that names one")
    _check_output(chosen, model)
    if chosen.mass is None:
        raise InputError("no body mass is given, and no setup that states one; give mass=... in kilograms")
    api.check_mass(chosen.mass, stacklevel=4)
    native = _with_markers(_native(model), chosen.markers)
    motions = [_read_markers(source, chosen.height) for source in recordings]
    names, measured = _pooled_frames(motions, native)
    fit = _fitted_size(native, names, measured, symmetric)
    factors = dict(zip(fit.bodies, fit.size.factors, strict=True))
    scaled = _scaled(native, factors, chosen.mass, chosen.preserve_mass_distribution is not False)
    recorded = {str(name) for motion in motions for name in motion["marker"].values}
    removed = () if chosen.keep_unmeasured else keep_markers(scaled, recorded)
    placed = _put_markers(scaled, fit, chosen.place_markers or "free", removed)
    spread = {body: (float(u[0]), float(u[1]), float(u[2])) for body, u in zip(fit.bodies, fit.size.uncertainty, strict=True)}
    return _finish(scaled, factors, placed, chosen.output, spread)


@dataclass(frozen=True)
class _Fit:
    """An automatic fit with the names of what it is of."""

    bodies: tuple[str, ...]
    coordinates: tuple[str, ...]
    markers: tuple[str, ...]
    size: SizeFit


def _pooled_frames(recordings: Sequence[xr.Dataset], native: Any) -> tuple[list[str], FloatArray]:
    """Markers that the model shares with any recording, and their places in frames spread over all of them ``(frame, marker, 3)``."""
    from imdy_plugin.solvers.multibody.inverse_kinematics import MIN_MARKERS

    model = registry.load_model(native).dataset
    known = {str(name) for name, body in zip(model["marker"].values, model["marker_body"].values, strict=True) if body != "ground"}
    every = list(dict.fromkeys(str(n) for motion in recordings for n in motion["marker"].values))
    shared = [name for name in every if name in known]
    if len(shared) < MIN_MARKERS:
        nearest = " ".join(f"'{name}': {suggest(name, known)}" for name in [n for n in every if n not in known][:3])
        raise InputError(
            f"model and recording share {len(shared)} marker(s) ({', '.join(shared) or 'none'}), at least {MIN_MARKERS} are needed; {nearest} "
            "Rename them, or give a marker set (markers=...) that puts the recording's markers on the model's bodies"
        )
    measured = np.concatenate([_spread_frames(motion, shared) for motion in recordings])
    seen = np.isfinite(measured).all(axis=-1).any(axis=0)
    lost = [name for name, was in zip(shared, seen, strict=True) if not was]
    if lost:
        warnings.warn(f"markers are not seen in the frames that are fitted, and stay where scaling puts them: {_first(lost)}", DataWarning, stacklevel=4)
    return [name for name, was in zip(shared, seen, strict=True) if was], measured[:, seen]


def _spread_frames(motion: xr.Dataset, names: Sequence[str]) -> FloatArray:
    """Places of markers in frames that show most of them, spread evenly over a recording; NaN where missing."""
    position = motion["marker_position"].reindex(marker=list(names)).values
    count = np.isfinite(position).all(axis=-1).sum(axis=1)
    good = np.flatnonzero(count >= max(_VISIBLE * count.max(), 3))
    if not good.size:
        raise InputError(f"no frame of '{motion.attrs.get('source', 'the recording')}' shows three of the model's markers")
    chosen = np.unique(np.linspace(0, len(good) - 1, min(FRAMES, len(good))).round().astype(int))
    places: FloatArray = position[good[chosen]]
    return places


def _fitted_size(native: Any, names: list[str], measured: FloatArray, symmetric: bool) -> _Fit:
    from imdy_plugin.solvers.size_fit import SizeProblem, fit_size

    problem = SizeProblem(registry.load_model(native).dataset, names, measured, symmetric=symmetric)
    found = fit_size(problem)
    _warn_of_fit(names, found)
    return _Fit(tuple(problem.bodies), tuple(problem.coordinates), tuple(names), found)


def _warn_of_fit(names: Sequence[str], found: SizeFit) -> None:
    if not found.converged:
        text = f"the fit of sizes and poses did not come to rest in {found.steps} steps, so that factors are not the most probable ones"
        warnings.warn(f"{text}; check the markers' names, or give a recording that shows more of them", DataWarning, stacklevel=5)
    distance = np.linalg.norm(found.offset, axis=1)
    far = [f"{name} {1e3 * d:.0f} mm" for name, d in zip(names, distance, strict=True) if d > LARGE_OFFSET]
    if far:
        text = f"markers sit far from where the scaled model has them: {_first(far)}"
        warnings.warn(f"{text}; check their names, and that right and left are not swapped", DataWarning, stacklevel=5)
    _warn_of_pose(dict(zip(names, found.marker_rms.tolist(), strict=True)))


def _put_markers(scaled: Any, fit: _Fit, placing: Placing, removed: tuple[str, ...]) -> _Placement:
    """Move markers, in place, to where the fit has them."""
    from imdy_plugin.adapters.scaled_model import fixed_markers, shift_markers

    fixed = fixed_markers(scaled)
    allowed = {
        "free": [name not in fixed for name in fit.markers],
        "all": [True] * len(fit.markers),
        "soft": [name not in fixed and bool(soft) for name, soft in zip(fit.markers, fit.size.technical, strict=True)],
        "none": [False] * len(fit.markers),
    }[placing]
    if placing == "free" and not any(allowed):
        text = "the model holds all its markers fixed, so none is moved to where it was measured"
        warnings.warn(f"{text}; place_markers='all' (--place all) moves them", DataWarning, stacklevel=4)
    shifts = {name: offset for name, offset, may in zip(fit.markers, fit.size.offset, allowed, strict=True) if may}
    shift_markers(scaled, shifts)
    moved = {name: float(np.linalg.norm(shift)) for name, shift in shifts.items()}
    pose = dict(zip(fit.coordinates, fit.size.pose[0].tolist(), strict=True))
    return _Placement(pose, dict(zip(fit.markers, fit.size.marker_rms.tolist(), strict=True)), moved, removed)


def factor_table(person: ScaledModel) -> Table:
    """Scale factors of each body along its axes, for a terminal."""
    from rich.table import Table

    table = Table("body", *(f"{axis} axis" for axis in "xyz"), box=None, padding=(0, 2, 0, 0))
    for body, factors in person.factors.items():
        spread = person.uncertainty.get(body)
        table.add_row(body, *(f"{f:.3f}" if spread is None else f"{f:.3f} ± {f * u:.3f}" for f, u in zip(factors, spread or factors, strict=True)))
    return table


def pose_line(person: ScaledModel) -> str:
    """How well the scaled model fits the markers, in a line; empty where it was not posed."""
    if not person.marker_error:
        return ""
    what = "fit" if person.uncertainty else "static pose"
    return f"{what}: {len(person.marker_error)} markers tracked, rms {1e3 * person.marker_rms:.1f} mm; {len(person.moved)} markers moved on their bodies"


def _finish(
    scaled: Any,
    factors: Mapping[str, FloatArray],
    placed: _Placement,
    output: str | os.PathLike[str] | None,
    uncertainty: dict[str, tuple[float, float, float]] | None = None,
) -> ScaledModel:
    from imdy_plugin.adapters.scaled_model import body_names, total_mass, write_model

    every = {body: np.asarray(factors.get(body, np.ones(3)), float) for body in body_names(scaled)}
    triples = {body: (float(f[0]), float(f[1]), float(f[2])) for body, f in every.items()}
    path = write_model(scaled, output) if output is not None else None
    return ScaledModel(scaled, triples, total_mass(scaled), uncertainty or {}, placed.pose, placed.marker_error, placed.moved, placed.removed, path)


def _native(source: Any) -> Any:
    native = registry.load_model(source).native
    if native is None:
        raise InputError(f"the generic model {source!r} is not an OpenSim model; give an .osim path or an opensim.Model")
    return native


def _with_markers(native: Any, marker_set: str | os.PathLike[str] | None) -> Any:
    from imdy_plugin.adapters.scaled_model import with_marker_set

    return native if marker_set is None else with_marker_set(native, marker_set)


def _check_output(chosen: _Choices, generic: Any) -> None:
    """Refuse to overwrite the generic model, whatever was said, and another file unless it was."""
    if chosen.output is None:
        return
    target = Path(chosen.output)
    if isinstance(generic, (str, os.PathLike)):
        source = Path(generic)
        if target.resolve() == source.resolve() or (target.exists() and source.exists() and target.samefile(source)):
            raise InputError(f"the scaled model would overwrite the generic one, '{target}'; give another output")
    check_free([target], chosen.force)


def _mass(mass: float | None, job: ScaleSetup) -> float | None:
    chosen = mass if mass is not None else job.mass
    if chosen is None and job.scales:
        raise InputError(f"{job.path}: states no mass; give mass=... in kilograms")
    if chosen is not None:
        api.check_mass(chosen, stacklevel=5)
    return chosen


def _scaled(native: Any, factors: Mapping[str, FloatArray], mass: float | None, preserve: bool) -> Any:
    from imdy_plugin.adapters.scaled_model import scale_model, total_mass

    _warn_of_factors(factors)
    return scale_model(native, factors, total_mass(native) if mass is None else mass, preserve_mass_distribution=preserve)


def _warn_of_factors(factors: Mapping[str, FloatArray]) -> None:
    low, high = PLAUSIBLE_FACTORS
    odd = [f"{body} {axis} by {f:.3g}" for body, fs in factors.items() for axis, f in zip("xyz", fs, strict=True) if not low <= f <= high]
    if odd:
        text = f"scaled far from the generic model: {', '.join(odd[:6])}{' and more' if len(odd) > 6 else ''}"
        warnings.warn(f"{text}; check the markers' names and the unit of the recording", DataWarning, stacklevel=4)


def _recording(static: Any, named: Path | None, job: ScaleSetup, height: float | None) -> xr.Dataset:
    """The static trial that is given, or that the setup names."""
    source = static if static is not None else named
    if source is None:
        raise InputError(f"{job.path}: names no recording; give static=...")
    return _read_markers(source, height)


def _read_markers(source: Any, height: float | None) -> xr.Dataset:
    """Markers, checked as those of any recording are."""
    from imdy_plugin.adapters.marker_checks import check_markers

    motion = registry.find_marker_reader(source).read(source)
    if "marker_position" not in motion:
        raise InputError(f"the recording {source!r} holds no markers; give a marker file")
    check_markers(motion, height)
    return motion


def _frames(motion: xr.Dataset, wanted: tuple[float, float] | None) -> slice:
    """Frames that OpenSim takes for a time range: from the last one at or before its start to the first at or after its end."""
    time = motion["time"].values
    if wanted is None:
        return slice(0, len(time))
    start, end = wanted
    slack = _STAMP * float(np.median(np.diff(time))) if len(time) > 1 else 0.0
    if start > time[-1] + slack or end < time[0] - slack:
        raise InputError(f"the time range {start:g} to {end:g} s holds no frame of the static trial, which covers {time[0]:g} to {time[-1]:g} s")
    first = int(np.searchsorted(time, start + slack, side="right")) - 1
    last = int(np.searchsorted(time, end - slack, side="left"))
    return slice(max(first, 0), min(last, len(time) - 1) + 1)


def _marker_arrays(motion: xr.Dataset, frames: slice) -> Positions:
    position = motion["marker_position"].values[frames]
    return {str(name): position[:, i] for i, name in enumerate(motion["marker"].values)}


def _setup_factors(job: ScaleSetup, native: Any, motion: xr.Dataset) -> dict[str, FloatArray]:
    """Factors of each body, in the order that the setup asks for; what comes later wins."""
    from imdy_plugin.adapters.scaled_model import body_names

    bodies = body_names(native)
    factors = {body: np.ones(3) for body in bodies}
    for step in job.order:
        if step == "manualScale":
            for body, values in job.manual:
                _known_body(body, bodies, "the setup's ScaleSet")
                factors[body] = np.array(values)
        else:
            _measure(job, native, motion, factors)
    return factors


def _measure(job: ScaleSetup, native: Any, motion: xr.Dataset, factors: dict[str, FloatArray]) -> None:
    from imdy_plugin.adapters.scaled_model import default_marker_positions

    own, measured = default_marker_positions(native), _marker_arrays(motion, _frames(motion, job.scale_range))
    _check_names(job.measurements, own, measured)
    for measurement in job.measurements:
        if not measurement.pairs:
            warnings.warn(f"{job.path}: measurement '{measurement.name}' has no pair of markers; nothing is scaled by it", DataWarning, stacklevel=5)
            continue
        factor = float(np.mean([_ratio(measurement.name, pair, own, measured) for pair in measurement.pairs]))
        for body, axes in measurement.scales:
            _known_body(body, tuple(factors), f"measurement '{measurement.name}'")
            factors[body][list(axes)] = factor


def _check_names(measurements: Sequence[Measurement], own: Positions, measured: Positions) -> None:
    """Raise with every marker that a measurement needs and the model or the recording lacks."""
    problems = []
    for where, known in (("the recording", measured), ("the generic model", own)):
        lacking: dict[str, list[str]] = {}
        for measurement in measurements:
            for name in dict.fromkeys(name for pair in measurement.pairs for name in pair if name not in known):
                lacking.setdefault(name, []).append(measurement.name)
        problems += [f"{where} lacks '{name}' (measurement {', '.join(users)}); {suggest(name, known)}" for name, users in lacking.items()]
    if problems:
        raise InputError(" ".join(problems) + " Correct the names, or set <apply> of these measurements to false")


def _ratio(measurement: str, pair: tuple[str, str], own: Positions, measured: Positions) -> float:
    """Mean distance of two markers in the recording over their distance on the model."""
    first, second = pair
    generic = float(np.linalg.norm(own[first] - own[second]))
    distances = np.linalg.norm(measured[first] - measured[second], axis=1)
    seen = np.isfinite(distances)
    if not seen.any():
        raise InputError(f"measurement '{measurement}': '{first}' and '{second}' are never seen together in the static trial; set its <apply> to false")
    if not seen.all():
        text = f"measurement '{measurement}': '{first}' and '{second}' are seen together in {int(seen.sum())} of {len(seen)} frames; the mean is over those"
        warnings.warn(text, DataWarning, stacklevel=6)
    person = float(distances[seen].mean())
    if not (generic > 1e-6 and person > 1e-6):
        which = "on the generic model" if generic <= 1e-6 else "in the static trial"
        raise InputError(f"measurement '{measurement}': '{first}' and '{second}' are at the same place {which}; a scale factor needs a distance")
    return person / generic


def _known_body(body: str, bodies: Sequence[str], where: str) -> None:
    if body not in bodies:
        raise UnknownNameError("body", body, bodies, f"in the generic model, but {where} scales it")


def _mean_place(motion: xr.Dataset, frames: slice) -> Positions:
    """Mean place of each marker that is seen at all [m], with a warning of those that move or have gaps."""
    means, moving, gaps = {}, [], []
    for name, position in _marker_arrays(motion, frames).items():
        seen = position[np.isfinite(position).all(axis=1)]
        if not len(seen):
            continue
        means[name] = seen.mean(axis=0)
        if np.linalg.norm(seen - means[name], axis=1).max() > LARGE_SWAY:
            moving.append(name)
        if len(seen) < len(position):
            gaps.append(f"{name} ({len(seen)} of {len(position)} frames)")
    if moving:
        text = f"markers move by more than {1e3 * LARGE_SWAY:.0f} mm in the static trial: {_first(moving)}; choose frames in which the person stands still"
        warnings.warn(text, DataWarning, stacklevel=5)
    if gaps:
        warnings.warn(f"markers have gaps in the static trial: {_first(gaps)}; the mean is over the frames that show them", DataWarning, stacklevel=5)
    return means


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _place(scaled: Any, job: ScaleSetup, motion: xr.Dataset, placing: Placing, keep_unmeasured: bool) -> _Placement:
    """Fit the static pose and move the free markers, in place."""
    from imdy_plugin.adapters.scaled_model import fixed_markers, keep_markers, move_markers
    from imdy_plugin.adapters.tool_setup import warn_of_lost_markers
    from imdy_plugin.solvers.multibody.mechanics import body_mechanics
    from imdy_plugin.solvers.static_pose import fit_pose

    if placing == "soft":
        raise InputError("markers on soft tissue are told apart by the automatic fit only; with a setup place 'free', 'all' or 'none'")
    measured = _mean_place(motion, _frames(motion, job.place_range))
    mechanics = body_mechanics(registry.load_model(scaled).dataset)
    names = [name for name in mechanics.markers if name in measured]
    if not names:
        some = next(iter(measured), "")
        raise InputError(f"model and static trial share no marker; '{some}': {suggest(some, mechanics.markers)} Rename them, or give a marker set")
    given = dict(job.marker_weights)
    warn_of_lost_markers(job.path, job.marker_weights, names, stacklevel=5)
    weights = np.array([given.get(name, 0.0) for name in names])
    target = np.array([measured[name] for name in names])
    found = fit_pose(mechanics, names, target, weights, _targets(job, mechanics, scaled, _start(motion, job.place_range)))
    distance = np.linalg.norm(found.position - target, axis=1)
    error = {name: float(d) for name, d, w in zip(names, distance, weights, strict=True) if w > 0}
    _warn_of_pose(error)
    if not found.converged:
        text = "the static pose did not come to rest, so that it and the places of markers in it are not the best ones"
        warnings.warn(f"{text}; check marker names and weights, and the model's limits", DataWarning, stacklevel=4)
    removed = () if keep_unmeasured else keep_markers(scaled, set(motion["marker"].values.tolist()))
    held = set() if placing == "all" else fixed_markers(scaled)
    moved = move_markers(scaled, {n: measured[n] for n in names if n not in held}, found.value)
    return _Placement(found.value, error, moved, removed)


def _warn_of_pose(error: Mapping[str, float]) -> None:
    rms = float(np.sqrt(np.mean(np.square(list(error.values())))))
    if rms > LARGE_POSE_ERROR:
        worst = sorted(error, key=lambda name: -error[name])[:3]
        named = ", ".join(f"{name} {1e3 * error[name]:.0f} mm" for name in worst)
        text = f"the scaled model's markers stay {1e3 * rms:.0f} mm (rms) from the measured ones in the static pose, worst {named}"
        warnings.warn(f"{text}; check marker names, measurements and the pose", DataWarning, stacklevel=5)


def _start(motion: xr.Dataset, wanted: tuple[float, float] | None) -> float:
    """Time [s] for which a file of coordinates tells the static pose: the start of its range, as in OpenSim, or of the recording."""
    first = float(motion["time"].values[0])
    return max(wanted[0], first) if wanted else first


def _targets(job: ScaleSetup, mechanics: BodyMechanics, scaled: Any, time: float) -> dict[str, tuple[float, float]]:
    """What coordinates are drawn to, with which weight."""
    for task in job.coordinate_tasks:
        if task.coordinate not in mechanics.coordinates:
            raise UnknownNameError("coordinate", task.coordinate, mechanics.coordinates, f"in the model, but {job.path} draws it to a value")
    from_file = [task.coordinate for task in job.coordinate_tasks if task.source == "from_file"]
    filed = _values_in_file(job, from_file, scaled, time) if from_file else {}
    defaults = dict(zip(mechanics.coordinates, np.asarray(mechanics.default_values, float).tolist(), strict=True))
    targets = {}
    for task in job.coordinate_tasks:
        value = task.value if task.source == "manual_value" else (defaults if task.source == "default_value" else filed)[task.coordinate]
        targets[task.coordinate] = value, task.weight
    return targets


def _values_in_file(job: ScaleSetup, names: Sequence[str], scaled: Any, at: float) -> dict[str, float]:
    """Values [rad or m] of coordinates in the setup's file at a time [s], on straight lines between its rows."""
    from imdy_plugin.adapters.coordinates import read_coordinate_columns

    if job.coordinate_file is None:
        raise InputError(f"{job.path}: takes '{names[0]}' from a file, but names no coordinate_file")
    time, values = read_coordinate_columns(job.coordinate_file, registry.load_model(scaled).dataset, names)
    slack = _STAMP * float(np.median(np.diff(time))) if len(time) > 1 else _SAME_TIME
    if not time[0] - slack <= at <= time[-1] + slack:
        raise FileFormatError(
            job.coordinate_file,
            f"covers {time[0]:g} to {time[-1]:g} s, but the static pose, which takes {', '.join(names)} from it, starts at {at:g} s",
            "give a file that covers it, or set value_type to manual_value",
        )
    return {name: float(np.interp(at, time, column)) for name, column in zip(names, values.T, strict=True)}
