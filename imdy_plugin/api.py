"""Solve and compare: what a script calls."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import imdy_plugin
from imdy_plugin import registry, schema
from imdy_plugin.adapters.smpl.model_adapter import is_body_motion, read_body_motion
from imdy_plugin.errors import DataWarning, ImdyError, InputError, InvalidDatasetError, PluginError, SolverError
from imdy_plugin.interfaces import Solver, Trial

DEFAULT_WITHOUT_PLATES = "imdys"
"""Solver used where no ground force is given."""

DEFAULT_WITH_PLATES = "opensim"
"""Solver used where ground forces are given."""

_MARGIN = 0.5
"""Seconds kept on both sides of a requested range, so that filters and windows settle outside it."""

_LONGEST_STEP = 0.1
"""Time between frames [s] from which some may have been left out."""

_SAME_TIME = 1e-9
"""Difference of time stamps [s] that are the same."""

PLAUSIBLE_MASS = (5.0, 350.0)
"""Body masses [kg] of people."""

_LARGEST_MASS_RATIO = 1.5
"""How much heavier or lighter than their model a person may be without a warning."""


def load_trial(
    model: Any = None,
    markers: Any = None,
    *,
    coordinates: Any = None,
    ground_force: Any = None,
    mass: float | None = None,
    height: float | None = None,
    degrees: bool | None = None,
    use_defaults: bool = False,
) -> Trial:
    """Read a recording into a :class:`~imdy_plugin.interfaces.Trial`.

    Parameters
    ----------
    model
        ``.osim`` or ``.b3d`` path, ``opensim.Model``, SMPL body model (``.npz`` path or
        :class:`~imdy_plugin.adapters.smpl.body_model.SmplBody`), a model dataset, or anything a model adapter reads. None for a
        solver that needs none.
    markers
        ``.trc``, ``.c3d`` or ``.b3d#trial`` path, ``opensim.TimeSeriesTableVec3``, motion dataset, or anything a marker reader reads.
        A motion of an SMPL body, as for ``coordinates``, may stand here as well.
    coordinates
        ``.mot`` or ``.sto`` path of joint coordinates, or a motion dataset; used instead of inverse kinematics. For an SMPL body an
        AMASS ``.npz`` path or a :class:`~imdy_plugin.adapters.smpl.motion.BodyMotion`.
    ground_force
        ExternalLoads ``.xml``, ground force ``.mot``, ``.c3d`` with force plates, ``.b3d#trial``, or a motion dataset.
    mass
        Body mass [kg]; the model's where None. Where it differs from the model's, the model's masses and inertias are
        scaled to it uniformly.
    height
        Body height [m].
    degrees
        Unit of the rotational coordinates where the file does not say.
    use_defaults
        Fill coordinates that the file lacks with the model's defaults, instead of refusing.

    Raises
    ------
    ImdyError
        An input cannot be read, or holds what would give a wrong answer.
    """
    if mass is not None:
        check_mass(mass)
    if coordinates is None and is_body_motion(markers):
        markers, coordinates = None, markers
    loaded = registry.load_model(model) if model is not None else None
    if mass is not None and loaded is not None:
        from imdy_plugin.adapters.opensim_model import scale_mass

        _check_mass_of_model(mass, float(loaded.dataset.attrs["mass"]))
        loaded = scale_mass(loaded, mass)
    dataset = loaded.dataset if loaded is not None else None
    provenance = {"model": _name(model), "markers": _name(markers), "coordinates": _name(coordinates), "ground_force": _name(ground_force)}
    return Trial(
        motion=_read_motion(dataset, markers, coordinates, height, degrees, use_defaults),
        model=dataset,
        mass=mass if mass is not None or dataset is None else float(dataset.attrs["mass"]),
        ground_force=_read_ground_force(ground_force, dataset),
        native_model=loaded.deferred_native if loaded is not None else None,
        height=height,
        provenance={key: value for key, value in provenance.items() if value},
    )


def solve(
    model: Any = None,
    markers: Any = None,
    *,
    coordinates: Any = None,
    ground_force: Any = None,
    mass: float | None = None,
    height: float | None = None,
    solver: str | None = None,
    time_range: tuple[float, float] | None = None,
    degrees: bool | None = None,
    use_defaults: bool = False,
    **options: Any,
) -> xr.Dataset:
    """Joint moments and ground forces of a motion.

    Parameters
    ----------
    model, markers, coordinates, ground_force, mass, height, degrees, use_defaults
        As in :func:`load_trial`.
    solver
        A name that ``imdy solvers`` lists. By default ``opensim`` where ground forces are given, else ``imdys``.
    time_range
        First and last time [s] wanted.
    **options
        The solver's own options.

    Returns
    -------
    xarray.Dataset
        A result (:func:`imdy_plugin.schema.new_result`).

    Raises
    ------
    ImdyError
        Bad input, an unknown solver or option, or a solver that could not finish.

    Examples
    --------
    >>> result = imdy_plugin.solve("subject01.osim", "walk.trc")  # doctest: +SKIP
    >>> result["generalized_force"].sel(coordinate="knee_angle_r")  # doctest: +SKIP
    """
    trial = load_trial(model, markers, coordinates=coordinates, ground_force=ground_force, mass=mass, height=height, degrees=degrees, use_defaults=use_defaults)
    return run_solver(solver or default_solver(trial), trial, options, time_range=time_range)


def compare(
    model: Any = None,
    markers: Any = None,
    *,
    solvers: Sequence[str] | None = None,
    reference: str | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    time_range: tuple[float, float] | None = None,
    **inputs: Any,
) -> xr.Dataset:
    """The same motion by several solvers, side by side.

    Parameters
    ----------
    model, markers, **inputs
        As in :func:`load_trial`.
    solvers
        Names; by default ``imdys`` and ``physics``, and ``opensim`` where ground forces are given.
    reference
        The solver that the others are held against; by default ``opensim`` where it is among them, else the first.
    options
        Options by solver.
    time_range
        First and last time [s] wanted.

    Returns
    -------
    xarray.Dataset
        The results along a leading ``solver`` dimension, on common frames; :func:`imdy_plugin.comparison.differences`
        tells them apart. A solver that fails is left out with a :class:`~imdy_plugin.errors.DataWarning`.

    Raises
    ------
    ImdyError
        Bad input, an unknown name, or no solver finished.
    """
    trial = load_trial(model, markers, **inputs)
    return compare_trial(trial, solvers=solvers, reference=reference, options=options, time_range=time_range)


def compare_trial(
    trial: Trial,
    *,
    solvers: Sequence[str] | None = None,
    reference: str | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    time_range: tuple[float, float] | None = None,
) -> xr.Dataset:
    """:func:`compare` for a trial that is already loaded."""
    from imdy_plugin.comparison import combine

    names = list(solvers) if solvers else [DEFAULT_WITHOUT_PLATES, "physics", *([DEFAULT_WITH_PLATES] if trial.ground_force is not None else [])]
    chosen = {name: registry.get_solver(name) for name in names}
    given = options or {}
    strangers = sorted(set(given) - set(names))
    if strangers:
        raise InputError(f"options are given for '{strangers[0]}', which is not compared; solvers: {', '.join(names)}")
    prepared = {name: registry.make_options(solver, dict(given.get(name, {}))) for name, solver in chosen.items()}
    results, failures = {}, {}
    for name, solver in chosen.items():
        try:
            results[name] = _run(solver, trial, prepared[name], time_range)
        except ImdyError as error:
            failures[name] = str(error)
    if not results:
        raise SolverError("no solver finished: " + "; ".join(f"{name}: {why}" for name, why in failures.items()))
    for name, why in failures.items():
        warnings.warn(f"solver '{name}' is left out: {why}", DataWarning, stacklevel=2)
    if reference is None:
        reference = DEFAULT_WITH_PLATES if DEFAULT_WITH_PLATES in results else next(iter(results))
    return combine(results, reference)


def default_solver(trial: Trial) -> str:
    """The solver that answers where the user names none."""
    return DEFAULT_WITH_PLATES if trial.ground_force is not None else DEFAULT_WITHOUT_PLATES


def run_solver(
    name: str,
    trial: Trial,
    options: Mapping[str, Any] | None = None,
    *,
    time_range: tuple[float, float] | None = None,
) -> xr.Dataset:
    """Run one solver on a loaded trial.

    Raises
    ------
    ImdyError
        Unknown solver or option, a need that the trial lacks, or a solver that could not finish.
    """
    solver = registry.get_solver(name)
    return _run(solver, trial, registry.make_options(solver, dict(options or {})), time_range)


def _run(solver: Solver, trial: Trial, options: Any, time_range: tuple[float, float] | None) -> xr.Dataset:
    if time_range is not None:
        trial = _crop(trial, time_range)
    if "markers" in solver.needs and not trial.has("markers"):
        trial = _with_model_markers(trial)
    solver.check(trial)
    try:
        result = solver.solve(trial, options)
    except ImdyError:
        raise
    except Exception as error:
        raise SolverError(f"solver '{solver.name}' broke: {type(error).__name__}: {error}") from error
    try:
        schema.validate_result(result)
    except InvalidDatasetError as error:
        raise PluginError(f"solver '{solver.name}' returned an unlawful result: {error}") from error
    if time_range is not None:
        result = _select(result, time_range)
    if trial.ground_force is not None and "ground_force" in solver.needs:
        _check_forces(trial, result)
    if trial.model is not None and "knee_sign" in trial.model.attrs:
        result = result.assign_attrs(knee_sign=trial.model.attrs["knee_sign"])
    return _with_log_of(trial, result).assign_attrs(
        provenance=json.dumps(dict(trial.provenance), sort_keys=True),
        imdy_plugin_version=imdy_plugin.__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _with_log_of(trial: Trial, result: xr.Dataset) -> xr.Dataset:
    """Put what was done to the inputs before what the solver did."""
    logs = [trial.motion.attrs.get("log", ""), trial.ground_force.attrs.get("log", "") if trial.ground_force is not None else ""]
    before = [line for log in logs for line in log.splitlines()]
    own = [line for line in result.attrs.get("log", "").splitlines() if line not in before]
    return result.assign_attrs(log="\n".join([*before, *own]))


def check_mass(mass: float, *, stacklevel: int = 3) -> None:
    """Refuse a body mass [kg] that is none, and warn of one outside :data:`PLAUSIBLE_MASS`.

    Raises
    ------
    InputError
        It is not positive and finite.
    """
    if not (np.isfinite(mass) and mass > 0):
        raise InputError(f"mass is {mass} kg; give the body mass in kilograms, a positive number")
    if not PLAUSIBLE_MASS[0] <= mass <= PLAUSIBLE_MASS[1]:
        warnings.warn(f"mass is {mass:g} kg, which no person has; give the body mass in kilograms", DataWarning, stacklevel=stacklevel)


def _check_mass_of_model(mass: float, model_mass: float) -> None:
    ratio = mass / model_mass
    if not 1 / _LARGEST_MASS_RATIO <= ratio <= _LARGEST_MASS_RATIO:
        text = f"the mass given is {mass:g} kg, that of the model {model_mass:.3g} kg; the model's masses and inertias are multiplied by {ratio:.2g}"
        warnings.warn(f"{text}; check that it is the model of this person, and the mass in kilograms", DataWarning, stacklevel=3)


def _read_motion(model: xr.Dataset | None, markers: Any, coordinates: Any, height: float | None, degrees: bool | None, use_defaults: bool) -> xr.Dataset:
    if markers is None and coordinates is None:
        raise InputError("neither markers nor coordinates are given; give a marker file (markers=...) or joint coordinates (coordinates=...)")
    motions = []
    if markers is not None:
        from imdy_plugin.adapters.marker_checks import check_markers

        motion = registry.find_marker_reader(markers).read(markers)
        check_markers(motion, height)
        motions.append(motion)
    if coordinates is not None:
        motions.append(_read_coordinates(coordinates, model, degrees, use_defaults))
    for motion in motions:
        _check_steps(motion)
    return motions[0] if len(motions) == 1 else _merge(*motions)


def _check_steps(motion: xr.Dataset) -> None:
    """Warn where frames were left out of a recording: nothing marks them as missing, so everything is interpolated across."""
    time = motion["time"].values
    steps = np.diff(time)
    holes = np.flatnonzero((steps > _LONGEST_STEP) & (steps > 5 * np.median(steps))) if steps.size else steps
    if holes.size:
        frame, what = int(holes[0]), "markers" if "marker_position" in motion else "coordinates"
        text = f"the time stamps of the {what} jump from {time[frame]:g} to {time[frame + 1]:g} s (frame {frame} to {frame + 1})"
        more = f", and at {holes.size - 1} more places" if holes.size > 1 else ""
        warnings.warn(f"{text}{more}; results beside such a hole are wrong: give the stretches one by one", DataWarning, stacklevel=4)


def _read_coordinates(source: Any, model: xr.Dataset | None, degrees: bool | None, use_defaults: bool) -> xr.Dataset:
    if isinstance(source, xr.Dataset):
        schema.validate_motion(source)
        return source
    if model is None:
        raise InputError(f"coordinates '{_name(source)}' need a model that says what they mean; give model=...")
    if is_body_motion(source):
        return read_body_motion(source, model)
    from imdy_plugin.adapters.coordinates import read_coordinates

    return read_coordinates(source, model, degrees=degrees, use_defaults=use_defaults)


def _merge(markers: xr.Dataset, coordinates: xr.Dataset) -> xr.Dataset:
    """Put coordinates onto the markers' time stamps, within the time that both cover."""
    start = max(markers["time"].values[0], coordinates["time"].values[0]) - _SAME_TIME
    stop = min(markers["time"].values[-1], coordinates["time"].values[-1]) + _SAME_TIME
    kept = markers.sel(time=slice(start, stop))
    if kept.sizes["time"] < 2:
        raise InputError(f"markers cover {_span(markers)} and coordinates {_span(coordinates)}: they do not overlap; give files of the same recording")
    given = coordinates.drop_vars([n for n, variable in coordinates.data_vars.items() if "marker" in variable.dims or variable.dtype.kind != "f"])
    near = given.sel(time=kept["time"].values, method="nearest")
    if np.abs(near["time"].values - kept["time"].values).max() < _SAME_TIME:
        return kept.assign(dict(near.assign_coords(time=kept["time"]).data_vars))
    moved = given.interp(time=kept["time"], kwargs={"fill_value": "extrapolate"})
    merged = kept.assign({name: moved[name].assign_attrs(given[name].attrs) for name in given.data_vars})
    return schema.add_log(merged, "coordinates interpolated linearly onto the markers' time stamps")


def _read_ground_force(source: Any, model: xr.Dataset | None) -> xr.Dataset | None:
    if source is None:
        return None
    if isinstance(source, xr.Dataset):
        schema.validate_motion(source)
        if "ground_force" not in source:
            raise InputError("the ground_force dataset holds no variable 'ground_force'")
        return source
    if re.search(r"\.(c3d|b3d(#.*)?)$", str(source), re.IGNORECASE):
        forces = registry.find_marker_reader(source).read_ground_force(source)
        if forces is None:
            raise InputError(f"{source} holds no ground forces")
        return _on_feet_of(forces, model)
    from imdy_plugin.adapters.external_loads import read_ground_force

    return read_ground_force(source, model=model)


def _on_feet_of(forces: xr.Dataset, model: xr.Dataset | None) -> xr.Dataset:
    """Name the bodies of plate forces (right, left) as the model's feet, unless they are bodies of the model already."""
    if model is None or {str(b) for b in forces["body"].values} <= {str(b) for b in model["body"].values}:
        return forces
    feet = list(model.attrs.get("foot_bodies", []))
    return forces.assign_coords(body=feet) if len(feet) == forces.sizes["body"] == 2 else forces


def _with_model_markers(trial: Trial) -> Trial:
    """Compute markers from coordinates and the model's own marker set, for a solver that reads markers."""
    if trial.model is None or "coordinate_value" not in trial.motion or not trial.model.sizes.get("marker"):
        return trial
    from imdy_plugin.solvers.kinematics import mechanics_of

    names = [str(n) for n in trial.model["marker"].values]
    mechanics = mechanics_of(trial)
    value = trial.motion["coordinate_value"].sel(coordinate=list(mechanics.coordinates)).values
    made = schema.new_motion(trial.motion["time"].values, markers=(names, mechanics.marker_positions(value, names)))
    motion = trial.motion.merge(made[["marker_position"]]).assign_attrs(trial.motion.attrs)
    return trial.with_motion(schema.add_log(motion, f"{len(names)} markers computed from the coordinates and the model's marker set"))


def _crop(trial: Trial, time_range: tuple[float, float]) -> Trial:
    start, stop = time_range
    available = (float(trial.motion["time"][0]), float(trial.motion["time"][-1]))
    step = 1.0 / schema.sampling_rate(trial.motion["time"].values)
    if not (start < stop and start >= available[0] - step / 2 and stop <= available[1] + step / 2):
        raise InputError(f"the time range {start:g} to {stop:g} s is not inside the data, {available[0]:g} to {available[1]:g} s")
    if "coordinate_value" in trial.motion:
        return trial
    return trial.with_motion(trial.motion.sel(time=slice(start - _MARGIN, stop + _MARGIN)))


def _select(result: xr.Dataset, time_range: tuple[float, float]) -> xr.Dataset:
    half = 0.5 / schema.sampling_rate(result["time"].values)
    return result.sel(time=slice(time_range[0] - half, time_range[1] + half))


def _check_forces(trial: Trial, result: xr.Dataset) -> None:
    """Warn where measured forces are not of this person's size, or seem to act on the wrong foot, or far from it."""
    from imdy_plugin.adapters.force_checks import check_size

    check_size(result, float(result.attrs["mass"]))
    _check_feet(trial, result)


def _check_feet(trial: Trial, result: xr.Dataset) -> None:
    if trial.model is None or "coordinate_value" not in result or not trial.model.attrs.get("foot_bodies"):
        return
    from imdy_plugin.adapters.force_checks import check_foot_assignment, check_pressure_near_foot
    from imdy_plugin.solvers.kinematics import mechanics_of

    mechanics = mechanics_of(trial)
    value = result["coordinate_value"].sel(coordinate=list(mechanics.coordinates)).values
    feet = list(trial.model.attrs["foot_bodies"])
    position = mechanics.point_positions(value, feet, np.zeros((len(feet), 3)))
    where = xr.DataArray(position, dims=("time", "body", "axis"), coords={"time": result["time"], "body": feet, "axis": list(schema.AXES)})
    loads = result[list(schema.GROUND_FORCE_VARIABLES)]
    check_foot_assignment(loads, where)
    check_pressure_near_foot(loads, where)


def _span(motion: xr.Dataset) -> str:
    return f"{float(motion['time'][0]):g} to {float(motion['time'][-1]):g} s"


def _name(source: Any) -> str:
    if source is None:
        return ""
    return Path(source).name if isinstance(source, (str, os.PathLike)) else type(source).__name__
