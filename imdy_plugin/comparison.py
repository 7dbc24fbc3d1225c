"""Several results of one trial on one time base, and how far they differ.

A comparison is a result with a leading dimension ``solver``. Values between two stamps are interpolated linearly; nothing is
bridged over a NaN or a gap in time, and nothing is extrapolated.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from imdy_plugin.errors import DataWarning, InputError, UnknownNameError
from imdy_plugin.schema import AXES, GRAVITY, GROUND_FORCE_VARIABLES, add_log, validate_result

LOADED_FRACTION = 0.05
"""A centre of pressure counts where the vertical force exceeds this share of body weight."""

_GAP_STEPS = 2.5
_STAMP_TOLERANCE = 1e-4
_MASS_TOLERANCE = 0.005
_SIDE = re.compile(r"(?:^|[^a-z])(?:(right|r)|(left|l))(?:[^a-z]|$)|(right)|(left)", re.IGNORECASE)


@dataclass(frozen=True)
class DifferenceRow:
    """How one quantity of a solver differs from the reference.

    Attributes
    ----------
    solver, reference
        Names of the two.
    quantity
        ``coordinate``, ``ground force``, ``vertical ground force`` or ``centre of pressure``.
    name
        The coordinate or the foot.
    rms, mean_absolute, unit
        Root mean square and mean absolute difference; of a vector, of its length.
    rms_normalised, mean_absolute_normalised, normalised_unit
        The same divided by body mass or body weight; NaN and empty for a centre of pressure.
    frames
        Number of frames in which both have a value.
    """

    solver: str
    reference: str
    quantity: str
    name: str
    rms: float
    mean_absolute: float
    unit: str
    rms_normalised: float
    mean_absolute_normalised: float
    normalised_unit: str
    frames: int


def is_comparison(ds: xr.Dataset) -> bool:
    """Whether a dataset is a comparison, that is, has the dimension ``solver``."""
    return "solver" in ds.dims


def as_comparison(ds: xr.Dataset) -> xr.Dataset:
    """Return a comparison as it is, and a result as a comparison of one solver on its own time base."""
    if is_comparison(ds):
        return ds
    return combine({str(ds.attrs.get("solver", "solver")): ds})


def solver_result(comparison: xr.Dataset, solver: str) -> xr.Dataset:
    """Take one solver's part of a comparison: its own coordinates, bodies and flags, with its own attributes.

    Raises
    ------
    UnknownNameError
        The comparison holds no such solver.
    """
    names = [str(s) for s in comparison["solver"].values]
    if solver not in names:
        raise UnknownNameError("solver", solver, names)
    own = json.loads(comparison.attrs["solvers"])[solver]
    part = comparison.sel(solver=solver, drop=True)
    part = part.drop_vars([v for v in part.data_vars if str(v) not in own["variables"]])
    labels = {dim: own["labels"][dim] for dim in own["labels"] if dim in part.dims}
    return part.sel(labels).assign_attrs(own["attrs"])


def split(comparison: xr.Dataset) -> dict[str, xr.Dataset]:
    """Take a comparison apart into results by the name of their solver, on the common time base."""
    return {str(s): solver_result(comparison, str(s)) for s in comparison["solver"].values}


def combine(results: Mapping[str, xr.Dataset], reference: str | None = None) -> xr.Dataset:
    """Put results of one trial on one time base, along a leading dimension ``solver``.

    The stamps are those of the reference (or of the first result) inside the time that all cover. Coordinates, bodies, flags
    and variables are joined; what a solver lacks is NaN (a flag: False) and named in the log. A centre of pressure is
    interpolated with the force as weight, so that it never wanders off to where an unloaded foot stores it.

    Parameters
    ----------
    results
        Results by the name of their solver.
    reference
        The one that the others are compared with; also decides the time stamps.

    Returns
    -------
    xarray.Dataset
        Variables of a result with ``solver`` first; ``attrs["solvers"]`` is JSON with each solver's attributes.

    Raises
    ------
    InputError
        No result is given, they share no time, or they give one coordinate different units.
    UnknownNameError
        The reference is not among the results.
    InvalidDatasetError
        A result breaks the schema.
    """
    if not results:
        raise InputError("nothing to compare: give at least one result")
    if reference is not None and reference not in results:
        raise UnknownNameError("reference", reference, results)
    for result in results.values():
        validate_result(result)
    time = _common_time(results, reference or next(iter(results)))
    sampled = {name: sample(result, time) for name, result in results.items()}
    labels = _union_labels(sampled)
    ds = xr.Dataset(coords={"time": ("time", time, {"units": "s"}), **labels, "solver": list(results)})
    ds = ds.assign_coords(generalized_force_unit=("coordinate", _joined_units(sampled, labels["coordinate"])))
    for variable in dict.fromkeys(str(v) for part in sampled.values() for v in part.data_vars):
        ds[variable] = _stacked(variable, list(sampled.values()), labels)
    return _with_provenance(ds, results, reference)


def sample(result: xr.Dataset, time: ArrayLike) -> xr.Dataset:
    """Sample a result or a motion linearly at other time stamps.

    NaN where a neighbouring stamp is NaN, where the stamps around are further apart than 2.5 times the usual step, and
    outside the data. A flag is set where either neighbour is.

    Parameters
    ----------
    result
        Any dataset with ``time``.
    time
        Stamps [s], shape ``(time,)``.
    """
    at = np.asarray(time, float)
    neighbours = _Neighbours.of(np.asarray(result["time"].values, float), at)
    variables = {}
    for name, var in result.data_vars.items():
        if "time" not in var.dims:
            variables[name] = var
            continue
        values = var.transpose("time", ...)
        out: NDArray[Any]
        if values.dtype.kind == "b":
            out = neighbours.either(values.values)
        elif name == "center_of_pressure" and "ground_force" in result:
            out = neighbours.weighted(values.values, result["ground_force"].transpose("time", ...).values)
        else:
            out = neighbours.linear(np.asarray(values.values, float))
        variables[name] = xr.DataArray(out, dims=values.dims, attrs=var.attrs).transpose(*var.dims)
    coords = {name: c for name, c in result.coords.items() if "time" not in c.dims}
    return xr.Dataset(variables, coords={**coords, "time": ("time", at, {"units": "s"})}, attrs=result.attrs)


def side_of(name: str) -> str:
    """Which side a name speaks of: ``"right"``, ``"left"`` or ``""``."""
    match = _SIDE.search(name)
    if match is None:
        return ""
    return "right" if match.group(1) or match.group(3) else "left"


def foot_forces(result: xr.Dataset) -> xr.Dataset:
    """Ground forces by foot: bodies of one side are added, others keep their name.

    Parameters
    ----------
    result
        A result, a motion with ground forces, or a comparison.

    Returns
    -------
    xarray.Dataset
        ``ground_force``, ``center_of_pressure``, ``free_moment`` with dimension ``foot`` (``right``, ``left``, others) in the
        place of ``body``. The centre of pressure is the mean of the bodies' weighted by their vertical force. A body
        that a solver does not know at all is left out of its sums.
    """
    if is_comparison(result):
        parts = [foot_forces(result.sel(solver=s)[list(GROUND_FORCE_VARIABLES)]) for s in result["solver"].values]
        return xr.concat(parts, dim="solver", join="outer", coords="minimal", compat="override").transpose("solver", "time", ...)
    groups: dict[str, list[str]] = {"right": [], "left": []}
    for body in result["body"].values:
        groups.setdefault(side_of(str(body)) or str(body), []).append(str(body))
    parts = [_foot(result, bodies).expand_dims(foot=[foot]) for foot, bodies in groups.items() if bodies]
    if not parts:
        return result[list(GROUND_FORCE_VARIABLES)].rename(body="foot")
    return xr.concat(parts, dim="foot", coords="minimal", compat="override").transpose("time", "foot", "axis")


def reference_of(comparison: xr.Dataset) -> str:
    """Name of the solver that the others are compared with: the reference, or the first."""
    return str(comparison.attrs.get("reference") or comparison["solver"].values[0])


def body_mass(ds: xr.Dataset, mass: float | None = None) -> float:
    """The given mass [kg], or the dataset's.

    Raises
    ------
    InputError
        There is none, or it is not positive.
    """
    value = float(ds.attrs.get("mass", "nan") if mass is None else mass)
    if not (np.isfinite(value) and value > 0):
        raise InputError(f"body mass is {value} kg, must be positive; give mass=... in kg")
    return value


def differences(comparison: xr.Dataset, mass: float | None = None) -> xr.Dataset:
    """How far each solver is from the reference.

    Parameters
    ----------
    comparison
        From :func:`combine`.
    mass
        Body mass [kg]; the comparison's where not given.

    Returns
    -------
    xarray.Dataset
        By ``solver`` and ``coordinate``: ``generalized_force_rms``, ``generalized_force_mean_absolute`` (N m or N). By ``solver`` and
        ``foot``: ``ground_force_rms``, ``ground_force_mean_absolute`` of the length of the difference (N), ``vertical_force_...`` (N)
        and ``center_of_pressure_...`` (mm, horizontal, where both carry more than 5 % of body weight). The same with ``_per_mass``
        (N m/kg, N/kg) and, for the vertical force, ``_body_weight`` (%); ``..._frames`` counts the frames in which both have a
        value. By ``solver``: ``root_force_rms`` (N), ``root_moment_rms`` (N m) and ``_per_mass`` of each solver's own residual.
        The reference's own row of differences is zero.
    """
    kg = body_mass(comparison, mass)
    reference = reference_of(comparison)
    ds = _coordinate_differences(comparison, reference, kg)
    for other in (_foot_differences(comparison, reference, kg), _residuals(comparison, kg)):
        ds = ds.assign_coords(other.coords).assign(other.data_vars)
    return ds.assign_attrs(reference=reference, mass=kg)


def difference_table(comparison: xr.Dataset, mass: float | None = None) -> list[DifferenceRow]:
    """The differences as rows, coordinates first, for every solver but the reference; quantities with no common frame are left out."""
    ds = differences(comparison, mass)
    units = dict(zip(comparison["coordinate"].values.tolist(), comparison["generalized_force_unit"].values.tolist(), strict=True))
    rows = []
    for solver in (str(s) for s in ds["solver"].values if str(s) != ds.attrs["reference"]):
        one = ds.sel(solver=solver)
        for name in (str(c) for c in ds["coordinate"].values):
            rows.append(_row(one.sel(coordinate=name), solver, "coordinate", name, "generalized_force", units[name], f"{units[name]}/kg", "_per_mass"))
        for foot in (str(f) for f in ds["foot"].values):
            at = one.sel(foot=foot)
            rows.append(_row(at, solver, "ground force", foot, "ground_force", "N", "N/kg", "_per_mass"))
            rows.append(_row(at, solver, "vertical ground force", foot, "vertical_force", "N", "% BW", "_body_weight"))
            rows.append(_row(at, solver, "centre of pressure", foot, "center_of_pressure", "mm", "", None))
    return [row for row in rows if row.frames > 0]


@dataclass(frozen=True)
class _Neighbours:
    left: NDArray[np.intp]
    right: NDArray[np.intp]
    weight: NDArray[np.float64]
    known: NDArray[np.bool_]

    @classmethod
    def of(cls, stamps: NDArray[np.float64], at: NDArray[np.float64]) -> _Neighbours:
        step = float(np.median(np.diff(stamps))) if stamps.size > 1 else 0.0
        nearest = np.abs(stamps[:, None] - at[None, :]).argmin(axis=0) if stamps.size < 2 else _nearest(stamps, at)
        hit = np.abs(stamps[nearest] - at) <= _STAMP_TOLERANCE * step
        right = np.clip(np.searchsorted(stamps, at), 1, max(stamps.size - 1, 1)) if stamps.size > 1 else nearest
        left = np.where(hit, nearest, right - 1)
        right = np.where(hit, nearest, right)
        span = np.where(hit, 1.0, stamps[right] - stamps[np.maximum(left, 0)])
        weight = np.where(hit, 0.0, (at - stamps[np.maximum(left, 0)]) / np.where(span == 0, 1.0, span))
        known = hit | ((at >= stamps[0]) & (at <= stamps[-1]) & (span <= _GAP_STEPS * step) & (left >= 0))
        return cls(np.maximum(left, 0), right, weight, known)

    def linear(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        w = self._shaped(self.weight, values)
        out = np.where(w == 0, values[self.left], (1 - w) * values[self.left] + w * values[self.right])
        return np.where(self._shaped(self.known, values), out, np.nan)

    def either(self, values: NDArray[np.bool_]) -> NDArray[np.bool_]:
        out: NDArray[np.bool_] = (values[self.left] | values[self.right]) & self._shaped(self.known, values)
        return out

    def weighted(self, point: NDArray[np.float64], force: NDArray[np.float64]) -> NDArray[np.float64]:
        load = np.linalg.norm(force, axis=-1, keepdims=True)
        moment = np.where(load == 0, 0.0, load * point)
        total, weighted = self.linear(load), self.linear(moment)
        unloaded = np.where(np.isnan(total), np.nan, 0.0)
        out = np.broadcast_to(unloaded, weighted.shape).copy()
        np.divide(weighted, total, out=out, where=total > 0)
        return out

    @staticmethod
    def _shaped(flat: NDArray[Any], like: NDArray[Any]) -> NDArray[Any]:
        return flat.reshape((-1,) + (1,) * (like.ndim - 1))


def _nearest(stamps: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.intp]:
    right = np.clip(np.searchsorted(stamps, at), 1, stamps.size - 1)
    return np.where(at - stamps[right - 1] < stamps[right] - at, right - 1, right)


def _common_time(results: Mapping[str, xr.Dataset], first: str) -> NDArray[np.float64]:
    ranges = {name: (float(r["time"].values[0]), float(r["time"].values[-1])) for name, r in results.items()}
    stamps = np.asarray(results[first]["time"].values, float)
    slack = _STAMP_TOLERANCE * float(np.median(np.diff(stamps))) if stamps.size > 1 else 0.0
    start, end = max(r[0] for r in ranges.values()), min(r[1] for r in ranges.values())
    common = stamps[(stamps >= start - slack) & (stamps <= end + slack)]
    if not common.size:
        spans = "; ".join(f"{name} {a:g} to {b:g} s" for name, (a, b) in ranges.items())
        raise InputError(f"the results share no time stamp of '{first}': {spans}; solve them over the same time range")
    return common


def _union_labels(parts: Mapping[str, xr.Dataset]) -> dict[str, list[str]]:
    labels: dict[str, dict[str, None]] = {}
    for part in parts.values():
        for dim in part.dims:
            if dim != "time":
                labels.setdefault(str(dim), {}).update(dict.fromkeys(str(x) for x in part[dim].values))
    return {dim: list(names) for dim, names in labels.items()}


def _joined_units(parts: Mapping[str, xr.Dataset], coordinates: Sequence[str]) -> NDArray[np.str_]:
    found: dict[str, tuple[str, str]] = {}
    for solver, part in parts.items():
        for name, unit in zip(part["coordinate"].values.tolist(), part["generalized_force_unit"].values.tolist(), strict=True):
            other, known = found.setdefault(name, (solver, unit))
            if known != unit:
                raise InputError(f"coordinate '{name}' is in {known} by '{other}' and in {unit} by '{solver}'; the models differ, compare results of one model")
    return np.asarray([found[c][1] for c in coordinates], dtype=np.str_)


def _stacked(variable: str, parts: Sequence[xr.Dataset], labels: Mapping[str, list[str]]) -> xr.Variable:
    model = next(part[variable] for part in parts if variable in part)
    logical = model.dtype.kind == "b"
    full = model.reindex({d: labels[str(d)] for d in model.dims if d != "time"}, fill_value=False if logical else np.nan)
    empty = xr.full_like(full, False if logical else np.nan)
    arrays = []
    for part in parts:
        var = part[variable].reindex_like(full, fill_value=False if logical else np.nan) if variable in part else empty
        arrays.append(var.transpose(*full.dims).values)
    return xr.Variable(("solver", *full.dims), np.stack(arrays), model.attrs)


def _with_provenance(ds: xr.Dataset, results: Mapping[str, xr.Dataset], reference: str | None) -> xr.Dataset:
    provenance: dict[str, dict[str, Any]] = {}
    for name, result in results.items():
        labels = {str(d): [str(x) for x in result[d].values] for d in result.dims if d != "time"}
        provenance[name] = {"attrs": dict(result.attrs), "variables": [str(v) for v in result.data_vars], "labels": labels}
    first = results[reference or next(iter(results))]
    mass = float(first.attrs["mass"])
    made_by = json.dumps(provenance, default=_plain)
    ds.attrs.update(solvers=made_by, reference=reference or "", mass=mass, model=first.attrs["model"])
    ds.attrs.update({key: first.attrs[key] for key in ("provenance", "height") if key in first.attrs})
    if len(results) > 1:
        ds = add_log(ds, f"combined {', '.join(results)} on {ds.sizes['time']} stamps of '{reference or next(iter(results))}' by linear interpolation")
    for name, result in results.items():
        if abs(float(result.attrs["mass"]) - mass) > _MASS_TOLERANCE * mass:
            text = f"'{name}' was solved with a body mass of {float(result.attrs['mass']):g} kg, the comparison uses {mass:g} kg"
            warnings.warn(f"{text}; solve all with one mass", DataWarning, stacklevel=3)
            ds = add_log(ds, text)
        ds = _log_lacks(ds, name, provenance[name]["labels"])
    return ds


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _log_lacks(ds: xr.Dataset, name: str, labels: Mapping[str, list[str]]) -> xr.Dataset:
    for dim in ("coordinate", "body"):
        missing = [str(x) for x in ds[dim].values if str(x) not in labels.get(dim, [])]
        if missing:
            plural = {"coordinate": "coordinates", "body": "bodies"}[dim] if len(missing) > 1 else dim
            ds = add_log(ds, f"'{name}' does not give the {plural} {', '.join(missing)} (NaN)")
    return ds


def _foot(result: xr.Dataset, bodies: list[str]) -> xr.Dataset:
    known = [b for b in bodies if not np.isnan(result["ground_force"].sel(body=b).values).all()]
    part = result.sel(body=known or bodies[:1])
    force, point = part["ground_force"], part["center_of_pressure"]
    if part.sizes["body"] == 1:
        return part[list(GROUND_FORCE_VARIABLES)].isel(body=0, drop=True)
    load = abs(force.sel(axis="y", drop=True))
    total = load.sum("body", skipna=False)
    center = (point.where(load > 0, 0.0) * load).sum("body", skipna=False) / total.where(total > 0)
    center = center.where(total != 0, 0.0)
    arm = (point - center).where(load > 0, 0.0)
    moment = part["free_moment"] + _cross(arm, force)
    out = {"ground_force": force.sum("body", skipna=False), "center_of_pressure": center, "free_moment": moment.sum("body", skipna=False)}
    return xr.Dataset({name: v.transpose("time", "axis").assign_attrs(part[name].attrs) for name, v in out.items()})


def _cross(a: xr.DataArray, b: xr.DataArray) -> xr.DataArray:
    b = b.transpose(*a.dims)
    return a.copy(data=np.cross(a.values, b.values, axis=a.get_axis_num("axis")))


def _coordinate_differences(comparison: xr.Dataset, reference: str, kg: float) -> xr.Dataset:
    force = comparison["generalized_force"]
    return _statistics(abs(force - force.sel(solver=reference, drop=True)), "generalized_force", "_per_mass", kg)


def _foot_differences(comparison: xr.Dataset, reference: str, kg: float) -> xr.Dataset:
    feet = foot_forces(comparison)
    force, base = feet["ground_force"], feet["ground_force"].sel(solver=reference, drop=True)
    delta = force - base
    length = (delta**2).sum("axis", skipna=False) ** 0.5
    vertical = force.sel(axis="y", drop=True)
    loaded = (vertical > LOADED_FRACTION * kg * GRAVITY) & (base.sel(axis="y", drop=True) > LOADED_FRACTION * kg * GRAVITY)
    shift = feet["center_of_pressure"] - feet["center_of_pressure"].sel(solver=reference, drop=True)
    distance = ((shift.sel(axis=["x", "z"]) ** 2).sum("axis", skipna=False) ** 0.5).where(loaded) * 1000.0
    ds = _statistics(length, "ground_force", "_per_mass", kg)
    vertical_difference = _statistics(abs(delta.sel(axis="y", drop=True)), "vertical_force", "_body_weight", kg * GRAVITY / 100.0)
    return ds.assign(vertical_difference.data_vars).assign(_statistics(distance, "center_of_pressure").data_vars)


def _residuals(comparison: xr.Dataset, kg: float) -> xr.Dataset:
    ds = xr.Dataset()
    for kind in ("force", "moment"):
        part = comparison["root_residual"].sel(component=[f"{kind}_{a}" for a in AXES])
        rms = (part**2).sum("component", skipna=False).mean("time") ** 0.5
        ds = ds.assign({f"root_{kind}_rms": rms, f"root_{kind}_rms_per_mass": rms / kg})
    return ds


def _statistics(absolute: xr.DataArray, name: str, suffix: str = "", divisor: float = 1.0) -> xr.Dataset:
    values = {"rms": (absolute**2).mean("time") ** 0.5, "mean_absolute": absolute.mean("time")}
    ds = xr.Dataset({f"{name}_{kind}": v for kind, v in values.items()})
    if suffix:
        ds = ds.assign({f"{name}_{kind}{suffix}": v / divisor for kind, v in values.items()})
    ds = ds.assign({f"{name}_frames": absolute.notnull().sum("time")})
    return ds.drop_vars([c for c in ds.coords if c not in ds.dims])


def _row(one: xr.Dataset, solver: str, quantity: str, name: str, variable: str, unit: str, normalised_unit: str, suffix: str | None) -> DifferenceRow:
    def value(kind: str) -> float:
        return float(one[f"{variable}_{kind}"])

    normalised = [value(f"{kind}{suffix}") if suffix else float("nan") for kind in ("rms", "mean_absolute")]
    frames = int(one[f"{variable}_frames"])
    return DifferenceRow(
        solver, str(one.attrs["reference"]), quantity, name, value("rms"), value("mean_absolute"), unit, normalised[0], normalised[1], normalised_unit, frames
    )
