"""Joint coordinates of a trial, and their derivatives as OpenSim's InverseDynamicsTool takes them."""

from __future__ import annotations

import hashlib
import itertools
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from imdy_plugin.errors import DataWarning, InputError, UnknownNameError, suggest
from imdy_plugin.interfaces import Trial
from imdy_plugin.runs import runs
from imdy_plugin.schema import add_log, new_motion
from imdy_plugin.solvers.multibody.inverse_kinematics import LONGEST_BRIDGE, MIN_MARKERS, MarkerFit, fit_markers
from imdy_plugin.solvers.multibody.mechanics import BodyMechanics, body_mechanics, model_digest
from imdy_plugin.solvers.opensim_mechanics import OpenSimMechanics

FloatArray = NDArray[np.float64]
Mechanics = BodyMechanics | OpenSimMechanics
Tasks = Mapping[str, tuple[ArrayLike, float]]

MIN_FRAMES = 6
"""Fewest frames that a quintic spline takes."""

MIN_FRAMES_FILTERED = 12
"""Fewest frames that are filtered: four times the order of the filter, below which its start-up fills the recording."""

RUNNING_ACCELERATION = 5.0
"""Root mean square vertical acceleration of the root [m/s^2] above which a motion counts as running or jumping."""

LARGE_MARKER_ERROR = 0.05
"""Mean marker distance [m] above which the fit is called suspicious."""

LARGEST_COUPLING_ERROR = 0.1
"""Mean distance [rad or m] of a coupled coordinate from what it is coupled to, above which it is called suspicious."""

UNSEEN_TURN, UNSEEN_SHIFT = 0.2, 0.01
"""A turn [rad] by which a coordinate that no marker tells, and the shift of the centre of mass [m] that makes it worth a warning."""


@dataclass(frozen=True)
class _Wanted:
    """How markers are to be fitted, as in :func:`coordinates_of`."""

    accuracy: float
    weights: Mapping[str, float]
    tasks: Tasks
    smoothing: float

    def __repr__(self) -> str:
        tasks = sorted((name, np.asarray(value, float).tolist(), float(weight)) for name, (value, weight) in self.tasks.items())
        return repr((self.accuracy, sorted(self.weights.items()), tasks, self.smoothing))


_CACHE_SIZE = 8
_cache: OrderedDict[str, xr.Dataset] = OrderedDict()


def coordinates_of(
    trial: Trial,
    *,
    accuracy: float = 1e-5,
    weights: Mapping[str, float] | None = None,
    tasks: Tasks | None = None,
    smoothing: float = 0.0,
) -> xr.Dataset:
    """All coordinates of the trial's model: those of its motion, or those that fit its markers best.

    The answer is kept, so that several solvers on one trial fit its markers once.

    Parameters
    ----------
    trial
        Holds kinematics and a model.
    accuracy
        A frame is fitted when no coordinate moves by more than this [rad or m].
    weights
        Weights of markers by name; 1 for those not named. Markers with weight 0 are left out.
    tasks
        Coordinates by name that are drawn to a value [rad or m], one or one for each frame ``(time,)``, with a weight. As in OpenSim, a
        weight multiplies the squared difference beside the weighted mean of the visible markers' squared distances [m^2].
    smoothing
        Weight of squared accelerations, as in :func:`~imdy_plugin.solvers.multibody.inverse_kinematics.fit_markers`.

    Returns
    -------
    xarray.Dataset
        A motion with ``coordinate_value`` in the model's order; NaN where markers do not determine a coordinate for longer
        than 0.2 s. After a fit the attributes ``marker_rms_mean`` and ``marker_rms_max`` [m] tell how near the markers came,
        ``frames_not_converged`` in how many frames the fit did not come to rest, ``frames_bridged``, ``frames_masked`` and ``never_seen``
        what the markers did not tell; the variables ``marker_rms``, ``fit_steps``, ``fit_converged`` and ``at_limit`` report on each frame.

    Raises
    ------
    InputError
        There is no model, markers are given for one that cannot be represented, a coordinate is missing, too few markers are shared, or a
        weight is negative or not finite.
    UnknownNameError
        A weight names a marker that the trial lacks, or a task a coordinate that the model lacks.
    """
    if trial.model is None:
        raise InputError("joint coordinates need a model; give an .osim path or an opensim.Model")
    if "coordinate_value" in trial.motion:
        return _given_coordinates(trial.motion, mechanics_of(trial))
    wanted = _Wanted(accuracy, dict(weights or {}), dict(tasks or {}), smoothing)
    key = _content_key(trial.motion, trial.model, wanted)
    found = _cache.pop(key, None)
    if found is None:
        found = _fitted_coordinates(trial.motion, body_mechanics(trial.model), wanted)
    _cache[key] = found
    while len(_cache) > _CACHE_SIZE:
        _cache.popitem(last=False)
    return found.copy(deep=True)


def mechanics_of(trial: Trial) -> Mechanics:
    """Mechanics of a trial's model: OpenSim's where the model cannot be represented otherwise.

    Raises
    ------
    InputError
        There is no model, or one that cannot be represented and no native one beside it.
    """
    if trial.model is None:
        raise InputError("the trial holds no model; give an .osim path or an opensim.Model")
    try:
        return body_mechanics(trial.model)
    except InputError:
        if not trial.has("native_model"):
            raise
        return OpenSimMechanics(trial.native_model)


def choose_cutoff(asked: float | Literal["auto"] | None, coordinates: xr.Dataset, mechanics: Mechanics) -> tuple[float | None, str]:
    """Cut-off frequency [Hz] that an option asks for, and the reason: ``"auto"`` by :func:`auto_cutoff`, None filters nothing."""
    if asked == "auto":
        return auto_cutoff(coordinates, mechanics)
    return asked, "none, as asked" if asked is None else f"{asked:g} Hz, as asked"


def auto_cutoff(coordinates: xr.Dataset, mechanics: Mechanics) -> tuple[float, str]:
    """Cut-off frequency [Hz] for a motion, and the reason: 12 for running and jumping, 6 otherwise.

    Judged by the root mean square vertical acceleration of the root, low-passed at 6 Hz: in walking, squatting and sitting
    down it stays below about half of gravity, in running and jumping above, because nothing carries the body in flight.
    """
    if not mechanics.root_coordinates:
        return 6.0, "6 Hz: the model has no root that moves"
    values = coordinates["coordinate_value"].values
    height = mechanics.point_positions(values, mechanics.root_body, np.zeros((1, 3)))[:, :, 1]
    acceleration = smooth(coordinates["time"].values, height, 6.0)[2]
    rms = float(np.sqrt(np.nanmean(acceleration**2)))
    running = rms > RUNNING_ACCELERATION
    relation, kind, cutoff = (">", "running or jumping", 12.0) if running else ("<=", "walking-like", 6.0)
    return cutoff, f"{cutoff:g} Hz: {kind}, the root's vertical acceleration is {rms:.1f} m/s^2 rms {relation} {RUNNING_ACCELERATION:g}"


def smooth(time: ArrayLike, values: ArrayLike, cutoff_hz: float | None) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Low-pass and differentiate as OpenSim's InverseDynamicsTool does.

    The values are padded by half their length at both ends with their point reflection, resampled to the shortest time step
    where steps differ, run forwards and backwards through a third-order Butterworth filter, and differentiated as natural
    quintic splines. What is returned is evaluated at ``time``: the padding does not leak. Stretches between frames that hold
    NaN, or on both sides of a hole in the time stamps, are treated one by one; a stretch that is too short stays NaN.

    Parameters
    ----------
    time
        ``(time,)`` [s].
    values
        ``(time, ...)``.
    cutoff_hz
        Cut-off frequency [Hz]; None or a negative number filters nothing.

    Returns
    -------
    value, first derivative, second derivative
        Each of the shape of ``values``.

    Raises
    ------
    InputError
        No stretch of the recording is long enough.
    """
    t, x = np.asarray(time, float), np.asarray(values, float)
    flat = x.reshape(len(t), -1)
    filtered = cutoff_hz is not None and cutoff_hz >= 0
    shortest = MIN_FRAMES_FILTERED if filtered else MIN_FRAMES
    out = np.full((3, *flat.shape), np.nan)
    for stretch in _long_stretches(t, flat, shortest):
        out[:, stretch] = _smooth_stretch(t[stretch], flat[stretch], cutoff_hz if filtered else None)
    value, first, second = out.reshape(3, *x.shape)
    return value, first, second


def cross_validate(time: ArrayLike, values: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Values ``(time, column)`` smoothed by natural quintic splines under generalized cross-validation, and each column's cut-off [Hz].

    Stretches between gaps are treated one by one as by :func:`smooth`, the cut-off is their mean by frames. With
    :func:`smooth` without a cut-off the result is differentiated as the splines that it is made of.

    Raises
    ------
    InputError
        No stretch of the recording is long enough.
    """
    from imdy_plugin.solvers.smoothing_spline import smooth_by_cross_validation

    t, x = np.asarray(time, float), np.asarray(values, float)
    out, cutoffs = np.full(x.shape, np.nan), []
    stretches = _long_stretches(t, x, MIN_FRAMES_FILTERED)
    for stretch in stretches:
        smoothed = smooth_by_cross_validation(t[stretch], x[stretch])
        out[stretch] = smoothed.value
        cutoffs.append(smoothed.cutoff_hz)
    return out, np.average(cutoffs, axis=0, weights=[s.stop - s.start for s in stretches])


def finite_stretches(values: ArrayLike) -> list[slice]:
    """Slices of consecutive frames without NaN of ``values (time, ...)``."""
    array = np.asarray(values, float)
    good = np.isfinite(array.reshape(len(array), -1)).all(axis=1)
    return [slice(*run) for run in runs(good)]


def _long_stretches(time: FloatArray, values: FloatArray, shortest: int) -> list[slice]:
    whole = _without_holes(time, finite_stretches(values))
    stretches = [s for s in whole if s.stop - s.start >= shortest]
    if not stretches:
        longest = max((s.stop - s.start for s in whole), default=0)
        raise InputError(
            f"the longest stretch without gaps has {longest} frame(s) of {len(time)}; "
            f"at least {MIN_FRAMES} are needed without a filter and {MIN_FRAMES_FILTERED} with one"
        )
    return stretches


def _without_holes(time: FloatArray, stretches: list[slice]) -> list[slice]:
    """The stretches, cut where time stamps leave out more than :data:`~imdy_plugin.solvers.multibody.inverse_kinematics.LONGEST_BRIDGE`."""
    cut = []
    for stretch in stretches:
        holes = stretch.start + 1 + np.flatnonzero(np.diff(time[stretch]) > LONGEST_BRIDGE)
        edges = [stretch.start, *(int(hole) for hole in holes), stretch.stop]
        cut += [slice(start, stop) for start, stop in itertools.pairwise(edges)]
    return cut


def resample(time: ArrayLike, values: ArrayLike, new_time: ArrayLike, degree: int = 3) -> FloatArray:
    """Values ``(time, ...)`` at ``new_time`` by the natural spline of odd ``degree`` through them; NaN outside ``time``.

    With degree 3 this is how OpenSim reads the data of an external force.
    """
    from scipy.interpolate import make_interp_spline

    t, x, new = np.asarray(time, float), np.asarray(values, float), np.asarray(new_time, float)
    ends = [(order, np.zeros(x.shape[1:])) for order in range((degree + 1) // 2, degree)]
    result: FloatArray = make_interp_spline(t, x, k=degree, bc_type=(ends, ends))(new)
    slack = 1e-6 * (t[-1] - t[0]) / max(len(t) - 1, 1)
    result[(new < t[0] - slack) | (new > t[-1] + slack)] = np.nan
    return result


def resample_stretches(time: ArrayLike, values: ArrayLike, new_time: ArrayLike) -> FloatArray:
    """As :func:`resample` with degree 3, but for values with gaps: each stretch by its own spline, NaN in between.

    A stretch of fewer than four samples is joined by straight lines, as OpenSim does.
    """
    t, x, new = np.asarray(time, float), np.asarray(values, float), np.asarray(new_time, float)
    out = np.full((len(new), *x.shape[1:]), np.nan)
    for stretch in finite_stretches(x):
        inside = (new >= t[stretch.start] - 1e-9) & (new <= t[stretch.stop - 1] + 1e-9)
        if inside.any():
            count = stretch.stop - stretch.start
            at = np.clip(new[inside], t[stretch.start], t[stretch.stop - 1])
            out[inside] = resample(t[stretch], x[stretch], at, 3 if count > 3 else 1) if count > 1 else x[stretch]
    return out


def _smooth_stretch(time: FloatArray, values: FloatArray, cutoff_hz: float | None) -> FloatArray:
    from scipy.interpolate import make_interp_spline

    t, x = time, values
    if cutoff_hz is not None:
        t, x = _pad(t[:, None], len(time) // 2)[:, 0], _pad(x, len(time) // 2)
        steps = np.diff(t)
        step = float(steps.min())
        if steps.mean() - step > 1e-9 * step:
            uniform = t[0] + step * np.arange(int((t[-1] - t[0]) / step + 1e-6) + 1)
            t, x = uniform, resample(t, x, uniform, degree=5)
        x = _low_pass(x, cutoff_hz, step)
    ends = [(3, np.zeros(x.shape[1])), (4, np.zeros(x.shape[1]))]
    spline = make_interp_spline(t, x, k=5, bc_type=(ends, ends))
    return np.stack([spline(time, nu) for nu in range(3)])


def _pad(values: FloatArray, count: int) -> FloatArray:
    before = 2.0 * values[0] - values[count:0:-1]
    after = 2.0 * values[-1] - values[-2 : -count - 2 : -1]
    return np.concatenate([before, values, after])


def _low_pass(values: FloatArray, cutoff_hz: float, step: float) -> FloatArray:
    """Third-order Butterworth filter, forwards and backwards, each pass started from its first three samples as they are."""
    from scipy.signal import butter

    nyquist = 0.5 / step
    b, a = butter(3, min(cutoff_hz, 0.98 * nyquist) / nyquist)
    forwards = _filter_once(b, a, values)
    return _filter_once(b, a, forwards[::-1])[::-1]


def _filter_once(b: FloatArray, a: FloatArray, values: FloatArray) -> FloatArray:
    from scipy.signal import lfilter, lfiltic

    start = values[:3]
    state = np.stack([lfiltic(b, a, y=column[::-1], x=column[::-1]) for column in start.T], axis=1)
    rest, _ = lfilter(b, a, values[3:], axis=0, zi=state)
    return np.concatenate([start, rest])


def _given_coordinates(motion: xr.Dataset, mechanics: Mechanics) -> xr.Dataset:
    given = {str(name): i for i, name in enumerate(motion["coordinate"].values)}
    followers = {mechanics.coordinates[i] for i in mechanics.couplings}
    fixed = {name for name, locked in zip(mechanics.coordinates, mechanics.locked, strict=True) if locked}
    lacking = [name for name in mechanics.coordinates if name not in given and name not in followers | fixed]
    if lacking:
        raise InputError(
            f"the motion lacks coordinate(s) {', '.join(lacking)} of the model ('{lacking[0]}': {suggest(lacking[0], given)}) "
            "Give them, or read the file with use_defaults"
        )
    values = np.tile(mechanics.default_values, (motion.sizes["time"], 1))
    for column, name in enumerate(mechanics.coordinates):
        if name in given:
            values[:, column] = motion["coordinate_value"].values[:, given[name]]
    coupled = mechanics.couple(values)
    derived = [i for i, name in enumerate(mechanics.coordinates) if name in followers and name not in given]
    values[:, derived] = coupled[:, derived]
    _check_couplings(mechanics, values, coupled)
    filled = [name for name in mechanics.coordinates if name not in given]
    line = "coordinates as given" + (f"; {', '.join(filled)} from the model" if filled else "")
    return add_log(
        new_motion(motion["time"].values, coordinates=(mechanics.coordinates, values), attrs={"kinematics": "given", "log": motion.attrs.get("log", "")}), line
    )


def _check_couplings(mechanics: Mechanics, values: FloatArray, coupled: FloatArray) -> None:
    for follower, leader in mechanics.couplings.items():
        off = float(np.nanmean(np.abs(values[:, follower] - coupled[:, follower])))
        if off > LARGEST_COUPLING_ERROR:
            warnings.warn(
                f"coordinate '{mechanics.coordinates[follower]}' is on average {off:.3g} away from what the model couples it to "
                f"('{mechanics.coordinates[leader]}'); is it in degrees? Leave it out to have it follow",
                DataWarning,
                stacklevel=5,
            )


def _fitted_coordinates(motion: xr.Dataset, mechanics: BodyMechanics, wanted: _Wanted) -> xr.Dataset:
    names = [str(n) for n in motion["marker"].values]
    _check_wanted(wanted, names, mechanics.coordinates)
    shared = [n for n in names if n in set(mechanics.markers)]
    if len(shared) < MIN_MARKERS:
        raise InputError(_too_few(names, shared, mechanics.markers))
    tracked = [n for n in shared if wanted.weights.get(n, 1.0) > 0]
    positions = motion["marker_position"].sel(marker=tracked).values
    weights = np.array([wanted.weights.get(n, 1.0) for n in tracked])
    seen = np.isfinite(positions).all(axis=2) @ weights
    drawn = {name: (value, weight * seen) for name, (value, weight) in wanted.tasks.items()}
    fit = fit_markers(mechanics, motion["time"].values, tracked, positions, weights, wanted.accuracy, tasks=drawn, smoothing=wanted.smoothing)
    return _as_motion(motion, mechanics, tracked, fit)


def _check_wanted(wanted: _Wanted, markers: Sequence[str], coordinates: Sequence[str]) -> None:
    for name in wanted.weights:
        if name not in markers:
            raise UnknownNameError("marker", name, markers, "in the recording")
    for name in wanted.tasks:
        if name not in coordinates:
            raise UnknownNameError("coordinate", name, coordinates, "in the model")
    weights = {**wanted.weights, **{name: weight for name, (_, weight) in wanted.tasks.items()}, "smoothing": wanted.smoothing}
    for name, weight in weights.items():
        if not 0 <= weight < np.inf:
            raise InputError(f"the weight of '{name}' is {weight}; give a number from zero up")


def _as_motion(motion: xr.Dataset, mechanics: BodyMechanics, shared: list[str], fit: MarkerFit) -> xr.Dataset:
    mean, worst = float(np.nanmean(fit.rms)), float(np.nanmax(fit.rms))
    if mean > LARGE_MARKER_ERROR:
        warnings.warn(
            f"the model's markers stay {1e3 * mean:.0f} mm from the measured ones on average (at worst {1e3 * worst:.0f} mm in one frame); "
            "check units, axes, marker names and whether the model is scaled to this person",
            DataWarning,
            stacklevel=4,
        )
    _warn_of_constraints(mechanics)
    _warn_of_limits(mechanics, fit)
    _warn_of_unseen(mechanics, fit)
    line = f"inverse kinematics of {len(shared)} markers: rms {1e3 * mean:.1f} mm, at worst {1e3 * worst:.1f} mm"
    line += f"; {fit.bridged} frame(s) bridged, {fit.masked} masked"
    if fit.never_seen:
        line += f"; at the model's default, since no marker tells: {', '.join(fit.never_seen)}"
    lost = int((np.isfinite(fit.rms) & ~fit.converged).sum())
    if lost:
        line += f"; {lost} frame(s) did not come to rest"
    if mechanics.other_constraints:
        line += f"; constraints not heeded: {', '.join(mechanics.other_constraints)}"
    attrs = {"kinematics": "fitted", "marker_rms_mean": mean, "marker_rms_max": worst, "frames_not_converged": lost, "log": motion.attrs.get("log", "")}
    attrs |= {"frames_bridged": fit.bridged, "frames_masked": fit.masked, "never_seen": list(fit.never_seen)}
    report = {"marker_rms": fit.rms, "fit_steps": fit.steps, "fit_converged": fit.converged, "at_limit": fit.at_limit}
    return add_log(new_motion(motion["time"].values, coordinates=(mechanics.coordinates, fit.value), fit=report, attrs=attrs), line)


def _warn_of_constraints(mechanics: BodyMechanics) -> None:
    if mechanics.other_constraints:
        warnings.warn(
            f"the model's constraint(s) {', '.join(mechanics.other_constraints)} are not heeded by the fit of markers, only couplings of coordinates are; "
            "give joint coordinates that satisfy them, or clear them in the model",
            DataWarning,
            stacklevel=5,
        )


def _warn_of_limits(mechanics: BodyMechanics, fit: MarkerFit) -> None:
    """Warn of coordinates of the root that their limits hold in most frames, as the pelvis's of a person who walks the other way."""
    share = fit.at_limit[np.isfinite(fit.rms)].mean(axis=0)
    held = [name for name in mechanics.root_coordinates if share[mechanics.coordinates.index(name)] > 0.5]
    if held:
        warnings.warn(
            f"{', '.join(held)} of the root would go beyond the limits of the model in most frames; does the person face another way than the model "
            "allows? Widen or unclamp the range, or turn the recording",
            DataWarning,
            stacklevel=5,
        )


def _warn_of_unseen(mechanics: BodyMechanics, fit: MarkerFit) -> None:
    """Warn of coordinates that no marker tells and that move much of the body, as the trunk's do when only legs are marked."""
    pose = mechanics.couple(mechanics.default_values)
    columns = [mechanics.coordinates.index(name) for name in fit.never_seen]
    poses = np.tile(pose, (len(columns) + 1, 1))
    poses[np.arange(len(columns)), columns] += UNSEEN_TURN
    center = mechanics.center_of_mass(poses, 0 * poses, 0 * poses)[0]
    moved = np.linalg.norm(center[:-1] - center[-1], axis=1)
    named = [name for name, distance in zip(fit.never_seen, moved, strict=True) if distance > UNSEEN_SHIFT]
    if named:
        warnings.warn(
            f"no marker tells {', '.join(named)}, which move much of the body; they are held at the model's default, so forces and moments "
            "are as if that part were stiff: mark the trunk, or give coordinates",
            DataWarning,
            stacklevel=5,
        )


def _too_few(names: list[str], shared: list[str], known: tuple[str, ...]) -> str:
    missing = [n for n in names if n not in shared][:3]
    nearest = " ".join(f"'{name}': {suggest(name, known)}" for name in missing)
    found = f"only {len(shared)} of {len(names)} markers are the model's, at least {MIN_MARKERS} are needed"
    prefixed = any(name.rpartition(":")[2] in known for name in missing)
    return f"{found}; {nearest} Rename them" + (", or read them with their prefix taken off: TrcReader(strip_prefix=True)" if prefixed else "")


def _content_key(motion: xr.Dataset, model: xr.Dataset, wanted: _Wanted) -> str:
    digest = hashlib.sha256(model_digest(model).encode())
    for part in (motion["time"].values, motion["marker_position"].values):
        digest.update(np.ascontiguousarray(part).tobytes())
    digest.update(repr((motion["marker"].values.tolist(), wanted)).encode())
    return digest.hexdigest()
