"""What a motion, a model and a result are.

All three are :class:`xarray.Dataset` in one convention: ground frame x forward, y up, z right; metres, seconds, radians,
newtons; time first; singular dimension names. Each variable has ``attrs["units"]``, each operation adds a line to
``attrs["log"]``. The validators collect everything that is wrong and raise it as one
:class:`~imdy_plugin.errors.InvalidDatasetError`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from imdy_plugin.errors import InvalidDatasetError

AXES = ("x", "y", "z")
"""Axes of the ground frame: forward, up, right."""

RESIDUAL_COMPONENTS = ("force_x", "force_y", "force_z", "moment_x", "moment_y", "moment_z")
"""Components of ``root_residual``: what the root would have to be held with, in ground axes, moment about the origin of the root body."""

GRAVITY = 9.80665
"""Standard gravity [m/s^2]."""

GROUND_FORCE_VARIABLES = ("ground_force", "center_of_pressure", "free_moment")

_MOTION = {
    "marker_position": (("time", "marker", "axis"), "m"),
    "coordinate_value": (("time", "coordinate"), "rad or m"),
    "coordinate_velocity": (("time", "coordinate"), "rad/s or m/s"),
    "coordinate_acceleration": (("time", "coordinate"), "rad/s^2 or m/s^2"),
    "ground_force": (("time", "body", "axis"), "N"),
    "center_of_pressure": (("time", "body", "axis"), "m"),
    "free_moment": (("time", "body", "axis"), "N m"),
    "marker_rms": (("time",), "m"),
    "marker_error": (("time", "marker"), "m"),
    "fit_steps": (("time",), "1"),
    "fit_converged": (("time",), ""),
    "at_limit": (("time", "coordinate"), ""),
}

_MODEL = {
    "body_mass": (("body",), "kg"),
    "body_center_of_mass": (("body", "axis"), "m"),
    "body_inertia": (("body", "inertia_component"), "kg m^2"),
    "joint_type": (("joint",), ""),
    "joint_parent": (("joint",), ""),
    "joint_child": (("joint",), ""),
    "joint_parent_location": (("joint", "axis"), "m"),
    "joint_parent_orientation": (("joint", "axis"), "rad"),
    "joint_child_location": (("joint", "axis"), "m"),
    "joint_child_orientation": (("joint", "axis"), "rad"),
    "joint_transform": (("joint",), ""),
    "coordinate_joint": (("coordinate",), ""),
    "coordinate_kind": (("coordinate",), ""),
    "coordinate_default": (("coordinate",), "rad or m"),
    "coordinate_range": (("coordinate", "bound"), "rad or m"),
    "coordinate_locked": (("coordinate",), ""),
    "coordinate_clamped": (("coordinate",), ""),
    "coordinate_prescribed": (("coordinate",), ""),
    "coordinate_coupling": (("coordinate",), ""),
    "marker_body": (("marker",), ""),
    "marker_location": (("marker", "axis"), "m"),
}

INERTIA_COMPONENTS = ("xx", "yy", "zz", "xy", "xz", "yz")
"""Inertia about the body's centre of mass, in body axes."""

_RESULT = {
    "generalized_force": (("time", "coordinate"), "N m or N, see generalized_force_unit"),
    "ground_force": (("time", "body", "axis"), "N"),
    "center_of_pressure": (("time", "body", "axis"), "m"),
    "free_moment": (("time", "body", "axis"), "N m"),
    "root_residual": (("time", "component"), "N or N m"),
    "coordinate_value": (("time", "coordinate"), "rad or m"),
    "coordinate_velocity": (("time", "coordinate"), "rad/s or m/s"),
    "coordinate_acceleration": (("time", "coordinate"), "rad/s^2 or m/s^2"),
    "contact_probability": (("time", "body"), "1"),
    "angular_impulse": (("time", "joint", "axis"), "N m s"),
    "plausibility": (("time",), "1"),
    "flag": (("time", "kind"), ""),
}

RESULT_ATTRIBUTES = ("solver", "solver_version", "options", "model", "mass")
"""What every result says about what made it."""


def new_motion(time: ArrayLike, *, log: str = "", attrs: Mapping[str, Any] | None = None, **groups: Any) -> xr.Dataset:
    """Build a motion from plain arrays.

    Parameters
    ----------
    time
        Time stamps [s], shape ``(time,)``.
    log
        First line of the log.
    attrs
        Further attributes.
    **groups
        ``markers=(names, position)`` with position ``(time, marker, 3)`` in metres, NaN where missing;
        ``coordinates=(names, value)`` with value ``(time, coordinate)`` in radians or metres, or
        ``(names, value, velocity, acceleration)``;
        ``fit=`` a mapping with what a fit of coordinates to markers says of itself, any of ``marker_rms (time,)`` [m], ``fit_steps (time,)``,
        ``fit_converged (time,)`` and ``at_limit (time, coordinate)``;
        ``ground=(bodies, force, center_of_pressure, free_moment)``, each ``(time, body, 3)``.

    Raises
    ------
    InvalidDatasetError
        The arrays do not make a lawful motion.
    """
    unknown = set(groups) - {"markers", "coordinates", "fit", "ground"}
    if unknown:
        raise TypeError(f"unknown groups {sorted(unknown)}; known: markers, coordinates, fit, ground")
    ds = xr.Dataset(coords={"time": ("time", np.asarray(time, float), {"units": "s"})})
    if "markers" in groups:
        names, position = groups["markers"]
        ds = _put(ds, _MOTION, {"marker_position": position}).assign_coords(marker=_names(names), axis=list(AXES))
    if "coordinates" in groups:
        names, *arrays = groups["coordinates"]
        variables = zip(("coordinate_value", "coordinate_velocity", "coordinate_acceleration"), arrays, strict=False)
        ds = _put(ds, _MOTION, dict(variables)).assign_coords(coordinate=_names(names))
    if "fit" in groups:
        ds = _put(ds, _MOTION, groups["fit"])
    if "ground" in groups:
        bodies, *arrays = groups["ground"]
        ds = _put(ds, _MOTION, dict(zip(GROUND_FORCE_VARIABLES, arrays, strict=True)))
        ds = ds.assign_coords(body=_names(bodies), axis=list(AXES))
    ds.attrs.update(attrs or {})
    if log:
        ds = add_log(ds, log)
    validate_motion(ds)
    return ds


def new_result(
    time: ArrayLike,
    *,
    coordinates: Sequence[str],
    generalized_force: ArrayLike,
    units: Sequence[str],
    bodies: Sequence[str],
    ground_force: ArrayLike,
    center_of_pressure: ArrayLike,
    free_moment: ArrayLike,
    root_residual: ArrayLike,
    solver: str,
    solver_version: str,
    options: Mapping[str, Any],
    model: str,
    mass: float,
    attrs: Mapping[str, Any] | None = None,
    **optional: Any,
) -> xr.Dataset:
    """Build a result from plain arrays.

    Parameters
    ----------
    time
        Time stamps [s], shape ``(time,)``.
    coordinates, generalized_force, units
        Names, values ``(time, coordinate)`` and for each coordinate ``"N m"`` or ``"N"``.
    bodies, ground_force, center_of_pressure, free_moment
        Bodies that the ground acts on, and for each the force [N], its point of application [m] and the moment about
        that point [N m], ``(time, body, 3)``, in the ground frame; zero where nothing touches, NaN where unknown.
    root_residual
        ``(time, 6)``, see :data:`RESIDUAL_COMPONENTS`.
    solver, solver_version, options, model, mass
        What made it; mass in kg.
    **optional
        Further variables of a result by name, such as ``coordinate_value``, ``contact_probability`` or ``flag``. A flag is
        a mapping from kind to a boolean array ``(time,)``; ``lower`` and ``upper`` bounds of a variable are named
        ``<variable>_lower``, ``<variable>_upper``.

    Raises
    ------
    InvalidDatasetError
        The arrays do not make a lawful result.
    """
    ds = xr.Dataset(coords={"time": ("time", np.asarray(time, float), {"units": "s"}), "axis": list(AXES)})
    ds = ds.assign_coords(
        coordinate=_names(coordinates),
        generalized_force_unit=("coordinate", np.asarray(list(units), dtype=np.str_)),
        body=_names(bodies),
        component=list(RESIDUAL_COMPONENTS),
    )
    given = {
        "generalized_force": generalized_force,
        "ground_force": ground_force,
        "center_of_pressure": center_of_pressure,
        "free_moment": free_moment,
        "root_residual": root_residual,
    }
    flags = optional.pop("flag", None)
    if flags is not None:
        ds = ds.assign_coords(kind=_names(list(flags)))
        optional["flag"] = np.stack([np.asarray(v, bool) for v in flags.values()], axis=-1)
    ds = _put(ds, _RESULT, {**given, **optional})
    ds.attrs.update(solver=solver, solver_version=solver_version, options=json.dumps(dict(options), default=str, sort_keys=True), model=model, mass=float(mass))
    ds.attrs.update(attrs or {})
    validate_result(ds)
    return ds


def new_model(
    *,
    coords: Mapping[str, Sequence[str]],
    variables: Mapping[str, ArrayLike],
    attrs: Mapping[str, Any],
) -> xr.Dataset:
    """Build a model from plain arrays.

    Parameters
    ----------
    coords
        Names along ``body``, ``joint``, ``coordinate`` and ``marker``.
    variables
        By name: ``body_mass (body)``, ``body_center_of_mass (body, axis)``, ``body_inertia (body, inertia_component)``
        about the centre of mass; ``joint_type``, ``joint_parent``, ``joint_child`` ``(joint)``, the joint frames'
        ``joint_{parent,child}_{location,orientation} (joint, axis)`` in the parent and child body (orientation as
        body-fixed x-y-z Euler angles), ``joint_transform (joint)`` (JSON: the six axes and functions of a custom joint);
        ``coordinate_joint``, ``coordinate_kind`` (``rotational``, ``translational`` or ``coupled``), ``coordinate_default``,
        ``coordinate_locked`` (held at its default), ``coordinate_clamped`` (held within its range), ``coordinate_prescribed``
        (follows a function of time), ``coordinate_coupling`` (JSON, empty where free) ``(coordinate)``, ``coordinate_range
        (coordinate, bound)``; ``marker_body (marker)``, ``marker_location (marker, axis)`` in that body.
    attrs
        At least ``name``, ``mass`` [kg], ``gravity`` (3 numbers, m/s^2); ``height`` [m] where known, ``root_coordinates``
        and ``foot_bodies`` (right, left) as lists of names, ``other_constraints`` (enforced ones that are no couplings) likewise.

    Raises
    ------
    InvalidDatasetError
        The arrays do not make a lawful model.
    """
    ds = xr.Dataset(coords={"axis": list(AXES), "inertia_component": list(INERTIA_COMPONENTS), "bound": ["lower", "upper"]})
    ds = ds.assign_coords({dim: _names(names) for dim, names in coords.items()})
    ds = _put(ds, _MODEL, variables)
    ds.attrs.update(attrs)
    validate_model(ds)
    return ds


def add_log(ds: xr.Dataset, line: str) -> xr.Dataset:
    """Return the dataset with one more line in ``attrs["log"]``."""
    previous = ds.attrs.get("log", "")
    return ds.assign_attrs(log=f"{previous}\n{line}" if previous else line)


def sampling_rate(time: ArrayLike) -> float:
    """Median sampling rate [Hz] of time stamps [s]."""
    steps = np.diff(np.asarray(time, float))
    return float(1.0 / np.median(steps)) if steps.size else float("nan")


def validate_motion(ds: xr.Dataset) -> None:
    """Raise :class:`InvalidDatasetError` with everything that is wrong with a motion."""
    problems = _check_variables(ds, _MOTION) + _check_time(ds)
    if not any(v in ds for v in ("marker_position", "coordinate_value", "ground_force")):
        problems.append("holds none of marker_position, coordinate_value, ground_force")
    problems += _check_ground(ds)
    problems += [f"{name} holds infinite values" for name in _MOTION if name in ds and ds[name].dtype.kind == "f" and np.isinf(ds[name].values).any()]
    for name in ("coordinate_velocity", "coordinate_acceleration"):
        if name in ds and "coordinate_value" not in ds:
            problems.append(f"{name} without coordinate_value")
    _raise("motion", problems)


def validate_model(ds: xr.Dataset) -> None:
    """Raise :class:`InvalidDatasetError` with everything that is wrong with a model."""
    problems = [f"variable {name} is missing" for name in _MODEL if name not in ds]
    problems += _check_variables(ds, _MODEL)
    problems += [f"attribute '{a}' is missing" for a in ("name", "mass", "gravity") if a not in ds.attrs]
    if "body_mass" in ds:
        bad = [str(b) for b, m in zip(ds["body"].values, ds["body_mass"].values, strict=True) if not m >= 0]
        problems += [f"body '{b}' has a negative or undefined mass" for b in bad]
    if "mass" in ds.attrs and not ds.attrs["mass"] > 0:
        problems.append(f"total mass is {ds.attrs['mass']} kg, must be positive")
    problems += _check_references(ds)
    _raise("model", problems)


def validate_result(ds: xr.Dataset) -> None:
    """Raise :class:`InvalidDatasetError` with everything that is wrong with a result."""
    required = ("generalized_force", "ground_force", "center_of_pressure", "free_moment", "root_residual")
    problems = [f"variable {name} is missing" for name in required if name not in ds]
    known = dict(_RESULT)
    for name in ds.data_vars:
        base = str(name).removesuffix("_lower").removesuffix("_upper")
        if base in _RESULT:
            known[str(name)] = _RESULT[base]
    problems += _check_variables(ds, known) + _check_time(ds) + _check_ground(ds)
    problems += [f"attribute '{a}' is missing" for a in RESULT_ATTRIBUTES if a not in ds.attrs]
    if "generalized_force" in ds and "generalized_force_unit" not in ds.coords:
        problems.append("coordinate generalized_force_unit (coordinate) is missing")
    if "root_residual" in ds and "component" in ds.coords and tuple(ds["component"].values) != RESIDUAL_COMPONENTS:
        problems.append(f"component is {list(ds['component'].values)}, must be {list(RESIDUAL_COMPONENTS)}")
    if "generalized_force" in ds and np.isinf(ds["generalized_force"].values).any():
        problems.append("generalized_force holds infinite values")
    _raise("result", problems)


def _names(names: Sequence[str]) -> NDArray[np.str_]:
    return np.asarray([str(n) for n in names], dtype=np.str_)


def _put(ds: xr.Dataset, known: Mapping[str, tuple[tuple[str, ...], str]], arrays: Mapping[str, ArrayLike]) -> xr.Dataset:
    """The dataset with variables, their dimensions and units as known; all at once, since each assignment copies the whole."""
    variables = {name: _variable(known, name, array) for name, array in arrays.items()}
    try:
        return ds.assign(variables)
    except ValueError as error:
        shapes = ", ".join(f"{name} {np.shape(values)}" for name, (_, values, _) in variables.items())
        raise InvalidDatasetError("dataset", [f"{shapes} do not fit: {error}"]) from error


def _variable(known: Mapping[str, tuple[tuple[str, ...], str]], name: str, array: ArrayLike) -> tuple[tuple[str, ...], NDArray[Any], dict[str, str]]:
    base = name.removesuffix("_lower").removesuffix("_upper")
    if base not in known:
        raise TypeError(f"unknown variable '{name}'; known: {', '.join(known)}")
    dims, units = known[base]
    values = np.asarray(array)
    if values.ndim != len(dims):
        raise InvalidDatasetError("dataset", [f"{name} has shape {values.shape}, must have dimensions {dims}"])
    return dims, values, {"units": units} if units else {}


def _check_variables(ds: xr.Dataset, known: Mapping[str, tuple[tuple[str, ...], str]]) -> list[str]:
    problems = []
    for name, (dims, units) in known.items():
        if name not in ds:
            continue
        var = ds.variables[name]
        if var.dims != dims:
            problems.append(f"{name} has dimensions {var.dims}, must have {dims}")
        if units and "units" not in var.attrs:
            problems.append(f"{name} has no attrs['units'], must have '{units}'")
        for dim in set(var.dims) & set(dims) - {"time"}:
            problems += _check_labels(ds, name, str(dim))
    return problems


def _check_labels(ds: xr.Dataset, name: str, dim: str) -> list[str]:
    if dim not in ds.coords:
        return [f"{name}: dimension '{dim}' has no labels"]
    labels = [str(x) for x in ds[dim].values]
    repeated = sorted({x for x in labels if labels.count(x) > 1}) if len(set(labels)) < len(labels) else []
    problems = [f"{dim} '{x}' occurs more than once" for x in repeated]
    if dim == "axis" and tuple(labels) != AXES:
        problems.append(f"axis is {labels}, must be {list(AXES)}")
    return problems


def _check_time(ds: xr.Dataset) -> list[str]:
    if "time" not in ds.coords:
        return ["coordinate 'time' is missing"]
    time = ds["time"].values
    if time.dtype.kind != "f":
        return [f"time has type {time.dtype}, must be seconds as floating point"]
    if time.size == 0:
        return ["holds no frames"]
    if not np.isfinite(time).all():
        return ["time holds NaN or infinite values"]
    back = np.flatnonzero(np.diff(time) <= 0)
    return [f"time does not increase at frame {back[0] + 1} ({time[back[0]]} -> {time[back[0] + 1]})"] if back.size else []


def _check_ground(ds: xr.Dataset) -> list[str]:
    present = [v for v in GROUND_FORCE_VARIABLES if v in ds]
    if not present or len(present) == len(GROUND_FORCE_VARIABLES):
        return []
    missing = [v for v in GROUND_FORCE_VARIABLES if v not in ds]
    return [f"{', '.join(present)} without {', '.join(missing)}"]


def _check_references(ds: xr.Dataset) -> list[str]:
    def labels(dim: str) -> set[str]:
        return {str(x) for x in ds[dim].values} if dim in ds.coords else set()

    checks: list[tuple[str, Callable[[], set[str]]]] = [
        ("joint_parent", lambda: labels("body") | {"ground"}),
        ("joint_child", lambda: labels("body")),
        ("coordinate_joint", lambda: labels("joint")),
        ("marker_body", lambda: labels("body") | {"ground"}),
    ]
    problems = []
    for name, allowed in checks:
        if name in ds:
            unknown = sorted({str(v) for v in ds[name].values} - allowed())
            problems += [f"{name} names '{u}', which does not exist" for u in unknown]
    return problems


def _raise(kind: str, problems: list[str]) -> None:
    if problems:
        raise InvalidDatasetError(kind, problems)
