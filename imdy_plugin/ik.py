"""Inverse kinematics of a whole recording, from the model and the markers, or from a setup of OpenSim's InverseKinematicsTool."""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from imdy_plugin import api, schema
from imdy_plugin.atomic import check_free, replacing
from imdy_plugin.errors import DataWarning, InputError, UnknownNameError
from imdy_plugin.interfaces import Trial

if TYPE_CHECKING:
    from rich.table import Table

    from imdy_plugin.adapters.ik_setup import IkSetup

FloatArray = NDArray[np.float64]
Tasks = Mapping[str, tuple[ArrayLike | None, float]]

ACCURACY = 1e-5
"""How near a coordinate comes to where it would end [rad or m]."""

_SLACK = 1e-6
"""Time [s] by which a stamp may miss the end of a range."""

_WORST = 5


def inverse_kinematics(
    model: Any = None,
    markers: Any = None,
    *,
    weights: Mapping[str, float] | None = None,
    tasks: Tasks | None = None,
    smoothing: float = 0.0,
    accuracy: float = ACCURACY,
    setup: str | os.PathLike[str] | None = None,
    height: float | None = None,
    time_range: tuple[float, float] | None = None,
) -> xr.Dataset:
    """Coordinates that bring the model's markers nearest to the measured ones, in every frame of a recording at once.

    What is minimized in a frame is OpenSim's: the weighted mean of the visible markers' squared distances [m^2] and, for each task, its weight
    times the squared difference of the coordinate from its value; within the limits of clamped coordinates, coupled coordinates
    following their leaders, locked ones fixed.

    Parameters
    ----------
    model
        ``.osim`` path, ``opensim.Model``, or anything a model adapter reads; that of the setup where None.
    markers
        ``.trc`` or ``.c3d`` path, or anything a marker reader reads; that of the setup where None.
    weights
        Weights of markers by name; those not named have 1, or with a setup what it says. Markers with weight 0 are not tracked.
    tasks
        Coordinates by name that are drawn to a value [rad or m], with a weight: ``{"knee_angle_r": (0.1, 1000.0)}``. The value is one number,
        one for each frame of the recording, or None for the model's default. They join or replace those of the setup.
    smoothing
        Weight of the coordinates' squared accelerations [m^2 s^4/rad^2] beside the weighted *sum* of squared distances; 0 smooths nothing.
        Steps and convergence are then those of the fit that it starts from.
    accuracy
        A frame is finished when no coordinate is further than this from where it would end [rad or m]. A setup's own is not used.
    setup
        InverseKinematicsTool setup (.xml): markers and coordinates with their weights, model, recording, time range.
    height
        Body height [m], to check the recording by.
    time_range
        First and last time [s] wanted; as the setup says where None, and everything without one.

    Returns
    -------
    xarray.Dataset
        A motion. ``coordinate_value (time, coordinate)`` [rad or m] holds all coordinates of the model, NaN where markers do not determine one
        for longer than 0.2 s. The report on the fit: ``marker_error (time, marker)`` [m] of the tracked markers, NaN where missing;
        ``marker_rms (time)`` [m]; ``fit_steps (time)``; ``fit_converged (time)``; ``at_limit (time, coordinate)``; attributes
        ``marker_rms_mean``, ``marker_rms_max``, ``frames_bridged``, ``frames_masked``, ``never_seen``. :func:`imdy_plugin.solve` takes it
        as ``coordinates``.

    Raises
    ------
    ImdyError
        An input is missing, cannot be read, or a name is unknown; a setup lets constraints of the model give way.

    Warns
    -----
    DataWarning
        A setup names markers that the model or the recording lacks, a file of coordinates does not cover the recording, or the fit is poor.

    Examples
    --------
    >>> motion = imdy_plugin.inverse_kinematics("subject01.osim", "walk.trc", tasks={"mtp_angle_r": (None, 100.0)})  # doctest: +SKIP
    >>> imdy_plugin.solve("subject01.osim", "walk.trc", coordinates=motion)  # doctest: +SKIP
    """
    job = _job(setup)
    trial = _load(model, markers, job, height)
    wanted = _wanted(job, trial, weights or {}, tasks or {})
    return _fitted(trial, wanted, _frames(trial.motion["time"].values, time_range, job), smoothing, accuracy, job)


@dataclass(frozen=True)
class _Wanted:
    """Weights of markers, and what coordinates are drawn to ``(time,)`` of the whole recording, with which weight."""

    weights: dict[str, float]
    tasks: dict[str, tuple[FloatArray, float]]


def _job(setup: str | os.PathLike[str] | None) -> IkSetup | None:
    from imdy_plugin.adapters.ik_setup import read_ik_setup

    return read_ik_setup(setup) if setup is not None else None


def _load(model: Any, markers: Any, job: IkSetup | None, height: float | None) -> Trial:
    trial = api.load_trial(_source("model", model, job), _source("markers", markers, job), height=height)
    if "marker_position" not in trial.motion:
        raise InputError("the recording holds no markers; give a marker file")
    return trial


def _source(what: str, given: Any, job: IkSetup | None) -> Any:
    named = None if job is None else job.model_file if what == "model" else job.marker_file
    source = named if given is None else given
    if source is None:
        missing = "no model is" if what == "model" else "no markers are"
        raise InputError(f"{missing} given{f', and {job.path} names none' if job else ''}; give {what}=...")
    return source


def _fitted(trial: Trial, wanted: _Wanted, frames: slice, smoothing: float, accuracy: float, job: IkSetup | None) -> xr.Dataset:
    from imdy_plugin.solvers.kinematics import coordinates_of

    part = trial.with_motion(trial.motion[["marker_position"]].isel(time=frames))
    tasks = {name: (value[frames], weight) for name, (value, weight) in wanted.tasks.items()}
    found = coordinates_of(part, accuracy=accuracy, weights=wanted.weights, tasks=tasks, smoothing=smoothing)
    motion = _with_marker_errors(found, part, wanted.weights)
    lines = [f"weights and tasks from {job.path.name}"] if job else []
    lines += [f"coordinates drawn to values: {', '.join(tasks)}"] if tasks else []
    lines += [f"accelerations smoothed with weight {smoothing:g}"] if smoothing else []
    for line in lines:
        motion = schema.add_log(motion, line)
    schema.validate_motion(motion)
    return motion


def _with_marker_errors(motion: xr.Dataset, trial: Trial, weights: Mapping[str, float]) -> xr.Dataset:
    """The motion with the distance of each tracked marker from the model's."""
    from imdy_plugin.solvers.multibody.mechanics import body_mechanics

    assert trial.model is not None
    mechanics = body_mechanics(trial.model)
    known = set(mechanics.markers)
    names = [str(n) for n in trial.motion["marker"].values if str(n) in known and weights.get(str(n), 1.0) > 0]
    modelled = mechanics.marker_positions(motion["coordinate_value"].values, names)
    distance = np.linalg.norm(trial.motion["marker_position"].sel(marker=names).values - modelled, axis=2)
    return motion.assign_coords(marker=names).assign(marker_error=(("time", "marker"), distance, {"units": "m"}))


def _frames(time: FloatArray, wanted: tuple[float, float] | None, job: IkSetup | None) -> slice:
    """Frames inside a range; that of a setup may reach beyond the recording, as in OpenSim."""
    start, stop = wanted or (job.time_range if job and job.time_range else (-np.inf, np.inf))
    if wanted is not None and not (time[0] - _SLACK <= start <= stop <= time[-1] + _SLACK):
        raise InputError(f"the time range {start:g} to {stop:g} s is not inside the data, {time[0]:g} to {time[-1]:g} s")
    first, last = np.searchsorted(time, (start - _SLACK, stop + _SLACK))
    if first == last:
        raise InputError(f"the time range {start:g} to {stop:g} s holds no frame of the recording, which covers {time[0]:g} to {time[-1]:g} s")
    return slice(int(first), int(last))


def _wanted(job: IkSetup | None, trial: Trial, weights: Mapping[str, float], tasks: Tasks) -> _Wanted:
    from imdy_plugin.adapters.tool_setup import warn_of_lost_markers

    assert trial.model is not None
    recorded = [str(n) for n in trial.motion["marker"].values]
    chosen: dict[str, float] = {}
    drawn: dict[str, tuple[FloatArray, float]] = {}
    if job is not None:
        _check_constraints(job, trial.model)
        warn_of_lost_markers(job.path, job.marker_weights, set(recorded) & {str(n) for n in trial.model["marker"].values})
        given = dict(job.marker_weights)
        chosen = {name: given.get(name, 0.0) for name in recorded}
        drawn = _setup_tasks(job, trial)
    own = {name: (_task_values(name, value, trial), weight) for name, (value, weight) in tasks.items()}
    return _Wanted({**chosen, **weights}, {**drawn, **own})


def _task_values(name: str, value: ArrayLike | None, trial: Trial) -> FloatArray:
    """What a coordinate is drawn to ``(time,)`` [rad or m]; the model's default where None."""
    assert trial.model is not None
    known = [str(n) for n in trial.model["coordinate"].values]
    if name not in known:
        raise UnknownNameError("coordinate", name, known, "in the model")
    frames = trial.motion.sizes["time"]
    values = np.asarray(trial.model["coordinate_default"].values[known.index(name)] if value is None else value, float)
    if values.ndim and values.shape != (frames,):
        raise InputError(f"the values that '{name}' is drawn to have shape {values.shape}; give one number, or one for each of the {frames} frames")
    return np.broadcast_to(values, frames)


def _setup_tasks(job: IkSetup, trial: Trial) -> dict[str, tuple[FloatArray, float]]:
    from_file = [task.coordinate for task in job.coordinate_tasks if task.source == "from_file"]
    filed = _filed_values(job, trial, from_file) if from_file else {}
    drawn = {}
    for task in job.coordinate_tasks:
        value = filed[task.coordinate] if task.source == "from_file" else task.value if task.source == "manual_value" else None
        drawn[task.coordinate] = _task_values(task.coordinate, value, trial), task.weight
    return drawn


def _filed_values(job: IkSetup, trial: Trial, names: Sequence[str]) -> dict[str, FloatArray]:
    """Values ``(time,)`` of coordinates in the setup's file, by the quintic splines through them, as in OpenSim; NaN beyond its ends."""
    from imdy_plugin.adapters.coordinates import read_coordinate_columns
    from imdy_plugin.solvers.kinematics import resample

    assert trial.model is not None
    if job.coordinate_file is None:
        raise InputError(f"{job.path}: draws '{names[0]}' to values from a file, but names no coordinate_file")
    time, values = read_coordinate_columns(job.coordinate_file, trial.model, names)
    stamps = trial.motion["time"].values
    moved = resample(time, values, stamps, degree=5)
    inside = _frames(stamps, None, job)
    beyond = int(np.isnan(moved[inside, 0]).sum())
    if beyond:
        text = f"{job.coordinate_file}: covers {time[0]:g} to {time[-1]:g} s, so that {beyond} of {inside.stop - inside.start} frames"
        warnings.warn(f"{text} have no value that {', '.join(names)} could be drawn to", DataWarning, stacklevel=5)
    return dict(zip(names, moved.T, strict=True))


def _check_constraints(job: IkSetup, model: xr.Dataset) -> None:
    """Refuse a setup that lets constraints give way, where the model has any."""
    coupled = [str(n) for n, coupling in zip(model["coordinate"].values, model["coordinate_coupling"].values, strict=True) if coupling]
    held = [*coupled, *model.attrs.get("other_constraints", [])]
    if np.isfinite(job.constraint_weight) and held:
        raise InputError(
            f"{job.path}: constraint_weight is {job.constraint_weight:g}, so that {held[0]} would only be drawn to what the model couples it to; "
            "constraints hold exactly here: write Inf"
        )


@dataclass(frozen=True)
class IkRun:
    """What :func:`run_ik` found, and the files that it wrote."""

    motion: xr.Dataset
    paths: tuple[Path, ...]


def run_ik(
    model: str | os.PathLike[str] | None = None,
    markers: str | os.PathLike[str] | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    report: str | os.PathLike[str] | None = None,
    force: bool = False,
    start: float | None = None,
    stop: float | None = None,
    setup: str | os.PathLike[str] | None = None,
    height: float | None = None,
    weights: Mapping[str, float] | None = None,
    tasks: Tasks | None = None,
    smoothing: float = 0.0,
) -> IkRun:
    """Run :func:`inverse_kinematics` on files, and write a motion file that OpenSim reads, in degrees.

    Frames that the markers do not determine are cut from it, with a warning: it holds the longest span that is known.

    Parameters
    ----------
    model, markers, setup, height, weights, tasks, smoothing
        As in :func:`inverse_kinematics`.
    output
        The ``.mot`` to write; where None as the setup says, or in the working folder, named after the recording.
    report
        ``.csv`` for :func:`write_errors`.
    force
        Replace files that exist, instead of refusing.
    start, stop
        First and last time [s]; the recording's where one of them is None.

    Raises
    ------
    ImdyError
        As :func:`inverse_kinematics`, or a file exists.
    """
    from imdy_plugin.adapters.results import write_known_coordinates

    job = _job(setup)
    path = Path(output) if output is not None else _output_path(_source("markers", markers, job), job)
    paths = (path, *([Path(report)] if report is not None else []))
    check_free(paths, force)
    trial = _load(model, markers, job, height)
    frames = _frames(trial.motion["time"].values, _range(trial.motion["time"].values, start, stop), job)
    motion = _fitted(trial, _wanted(job, trial, weights or {}, tasks or {}), frames, smoothing, ACCURACY, job)
    write_known_coordinates(motion, path, trial.model)
    if report is not None:
        write_errors(motion, report)
    return IkRun(motion, paths)


def _output_path(recording: Any, job: IkSetup | None) -> Path:
    return job.output_file if job is not None and job.output_file is not None else Path(f"{Path(recording).stem}_ik.mot")


def _range(time: FloatArray, start: float | None, stop: float | None) -> tuple[float, float] | None:
    if start is None and stop is None:
        return None
    return float(time[0]) if start is None else start, float(time[-1]) if stop is None else stop


def fit_table(motion: xr.Dataset) -> Table:
    """How well the coordinates of :func:`inverse_kinematics` fit, for a terminal."""
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for label, text in _told(motion):
        table.add_row(label, text)
    return table


def _told(motion: xr.Dataset) -> list[tuple[str, str]]:
    time, rms = motion["time"].values, motion["marker_rms"].values
    fitted = np.isfinite(rms)
    seen = motion["marker_error"].dropna("marker", how="all").mean("time")
    furthest = seen.isel(marker=np.argsort(-seen.values)[:_WORST])
    worst = ", ".join(f"{name} {1e3 * value:.1f} mm" for name, value in zip(furthest["marker"].values, furthest.values, strict=True))
    held = {str(n): int(k) for n, k in zip(motion["coordinate"].values, motion["at_limit"].values.sum(axis=0), strict=True) if k}
    at = int(np.nanargmax(rms))
    return [
        ("frames", f"{time.size}, {time[0]:g} to {time[-1]:g} s"),
        ("markers", f"{motion.sizes['marker']}, rms {1e3 * np.nanmean(rms):.1f} mm on average, {1e3 * rms[at]:.1f} mm at worst ({time[at]:g} s)"),
        ("furthest markers", f"{worst} on average"),
        ("converged", f"{100 * motion['fit_converged'].values[fitted].mean():.4g} % of {int(fitted.sum())} fitted frames"),
        ("not determined", f"{motion.attrs['frames_bridged']} frames bridged, {motion.attrs['frames_masked']} masked"),
        ("never seen", ", ".join(motion.attrs["never_seen"]) or "none"),
        ("at limits", ", ".join(f"{name} in {count} frames" for name, count in held.items()) or "none"),
    ]


def write_errors(motion: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write the report of :func:`inverse_kinematics` as CSV.

    A row for each frame: time [s], root mean square distance of the markers [m], steps, whether it converged, and the distance of each marker
    [m]; empty where there is none.
    """
    file = Path(path)
    names = [str(n) for n in motion["marker"].values]
    columns = [motion[name].values[:, None] for name in ("time", "marker_rms", "fit_steps", "fit_converged")]
    with replacing(file) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["time_s", "rms_m", "steps", "converged", *(f"{name}_m" for name in names)])
        for time, rms, steps, converged, *errors in np.hstack([*columns, motion["marker_error"].values]):
            writer.writerow([f"{time:.9g}", _cell(rms), int(steps), int(converged), *map(_cell, errors)])
    return file


def _cell(distance: float) -> str:
    return f"{distance:.6f}" if np.isfinite(distance) else ""
