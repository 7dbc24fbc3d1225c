"""What a report shows of a result or a comparison, before it is drawn: joints, feet, direction, cycles and the summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.comparison import as_comparison, body_mass, differences, foot_forces, reference_of, split
from imdy_plugin.gait_cycle import GaitCycle, GaitSummary, foot_contacts, gait_cycles, mean_vertical_force
from imdy_plugin.interfaces import Trial
from imdy_plugin.schema import GRAVITY

FEET = ("right", "left")
SAGITTAL = ("hip_flexion", "knee_angle", "ankle_angle", "hip_z", "knee_z", "ankle_z")
"""Joint coordinates of the leg that a short report shows, by their standard names."""

_KNEES, _HEADINGS = ("knee_angle", "knee_z"), ("pelvis_rotation", "pelvis_ry")
_WALKED = 0.5
_DASH = "\u2013"
_MINUS = "\u2212"


@dataclass(frozen=True)
class Joint:
    """A joint coordinate by its standard name (without side) and what its positive and negative internal moments do.

    OpenSim's models end names with the side, ``knee_angle_r``; the 24-joint body starts them with it, ``right_knee_z``.
    """

    base: str
    name: str
    plus: str
    minus: str
    paired: bool = True
    side_first: bool = False

    def coordinate(self, side: str) -> str:
        """The coordinate's name on one side."""
        if self.side_first:
            return f"{side}_{self.base}"
        return f"{self.base}_{side[0]}" if self.paired else self.base


@dataclass(frozen=True)
class SummaryRow:
    """One line of the summary.

    Attributes
    ----------
    quantity, unit
        What it is.
    values
        Formatted values by solver and foot (``right``, ``left``), or ``""`` for the whole body.
    """

    quantity: str
    unit: str
    values: Mapping[tuple[str, str], str]

    @property
    def by_foot(self) -> bool:
        """Whether there is a value for each side."""
        return any(side for _, side in self.values)


@dataclass(frozen=True)
class Panel:
    """One pair of axes: a quantity of one side by solver, each ``(time,)``, with bounds where the solver gives them."""

    title: str
    unit: str
    second_unit: str
    factor: float
    side: str
    series: Mapping[str, xr.DataArray]
    bounds: Mapping[str, tuple[xr.DataArray, xr.DataArray]]


Grid = list[list[Panel]]


class View:
    """A result or a comparison with everything derived from it that a report shows."""

    def __init__(self, ds: xr.Dataset, trial: Trial | None = None) -> None:
        self.comparison = as_comparison(ds)
        self.trial = trial
        self.results = split(self.comparison)
        self.solvers = list(self.results)
        self.reference = reference_of(self.comparison)
        self.mass = body_mass(self.comparison)
        self.weight = self.mass * GRAVITY
        self.feet = {name: foot_forces(result) for name, result in self.results.items()}
        self.gait = {name: gait_cycles(result, self.mass) for name, result in self.results.items()}
        self.forward, self.direction = _heading(self)
        self.joints = _joints(self)
        self.cycle_solver = self._cycle_solver()
        self._contacts = foot_contacts(self.results[self.cycle_solver], self.mass)

    @property
    def time(self) -> NDArray[np.float64]:
        """Time stamps [s]."""
        return np.asarray(self.comparison["time"].values, float)

    @property
    def ordered(self) -> list[str]:
        """Solvers with the reference first."""
        return [self.reference, *(s for s in self.solvers if s != self.reference)]

    @property
    def cycles(self) -> GaitSummary:
        """The cycles that all solvers are averaged over."""
        return self.gait[self.cycle_solver]

    def cycles_for(self, side: str) -> tuple[GaitCycle, ...]:
        """Cycles of a side; of whichever foot has them for what belongs to neither."""
        own = self.cycles.cycles.get(side, ())
        return own if side else next((c for c in self.cycles.cycles.values() if c), ())

    def contacts(self, side: str) -> list[tuple[float, float]]:
        """When the foot of a side is on the ground [s], by the solver that gives the cycles."""
        return [(c.start, c.end) for c in self._contacts.get(side, [])]

    def foot_names(self) -> list[str]:
        """Feet that any solver knows, right and left first."""
        names = dict.fromkeys(str(f) for feet in self.feet.values() for f in feet["foot"].values)
        return sorted(names, key=lambda n: (n not in FEET, FEET.index(n) if n in FEET else 0))

    def in_body_direction(self, vector: xr.DataArray) -> dict[str, xr.DataArray]:
        """Components of a ground vector: up, forward (the direction of travel) and right."""
        x, z = vector.sel(axis="x", drop=True), vector.sel(axis="z", drop=True)
        ahead, aside = self.forward
        return {"up": vector.sel(axis="y", drop=True), "forward": ahead * x + aside * z, "right": ahead * z - aside * x}

    def force_grid(self) -> Grid:
        """Vertical, fore-aft and medio-lateral ground force, a column for each foot."""
        titles = {"up": "Vertical force", "forward": "Fore-aft force (+ forward)", "right": "Medio-lateral force (+ to the right)"}
        return [[self._force_panel(key, f"{title}, {foot} foot", foot) for foot in self.foot_names()] for key, title in titles.items()]

    def leg_grid(self, bases: tuple[str, ...] = ()) -> Grid:
        """Moments of the paired joints, a column for each side."""
        chosen = [j for j in self.joints if j.paired and (not bases or j.base in bases)]
        return [[self.moment_panel(j.coordinate(s), f"{j.name} moment, {s} (+ {j.plus})", s) for s in FEET] for j in chosen]

    def trunk_grid(self) -> Grid:
        """Moments of the lumbar joint in one row."""
        row = [self.moment_panel(j.base, f"{j.name} moment (+ {j.plus})", "") for j in self.joints if not j.paired]
        return [row] if row else []

    def other_grid(self, columns: int = 3) -> Grid:
        """Every coordinate that is in no other figure, by name."""
        names = [str(c) for c in self.comparison["coordinate"].values]
        rest = [n for n in names if n not in self.shown()]
        return [[self.moment_panel(n, n, "") for n in rest[i : i + columns]] for i in range(0, len(rest), columns)]

    def knee(self) -> Joint | None:
        """The knee, where its coordinate has a standard name."""
        return next((j for j in self.joints if j.base in _KNEES), None)

    def shown(self) -> set[str]:
        """Coordinates that have a panel among the joint moments."""
        return {j.coordinate(s) for j in self.joints for s in FEET}

    def moment_panel(self, coordinate: str, title: str, side: str) -> Panel:
        """The generalized force of one coordinate by solver, per body mass."""
        units = dict(zip(self.comparison["coordinate"].values.tolist(), self.comparison["generalized_force_unit"].values.tolist(), strict=True))
        unit = units.get(coordinate, "N m")
        having = {n: r for n, r in self.results.items() if coordinate in r["coordinate"].values}
        series = {n: r["generalized_force"].sel(coordinate=coordinate) / self.mass for n, r in having.items()}
        bounds = {
            n: (r["generalized_force_lower"].sel(coordinate=coordinate) / self.mass, r["generalized_force_upper"].sel(coordinate=coordinate) / self.mass)
            for n, r in having.items()
            if "generalized_force_lower" in r and "generalized_force_upper" in r
        }
        return Panel(title, f"{unit}/kg", unit, self.mass, side, series, bounds)

    def _force_panel(self, key: str, title: str, foot: str) -> Panel:
        having = {n: f for n, f in self.feet.items() if foot in f["foot"].values}
        series = {n: self.in_body_direction(f["ground_force"].sel(foot=foot))[key] for n, f in having.items()}
        side = foot if foot in FEET else ""
        return Panel(title, "N", "% BW", 100.0 / self.weight, side, series, self._force_bounds(key, foot) if key == "up" else {})

    def _force_bounds(self, key: str, foot: str) -> dict[str, tuple[xr.DataArray, xr.DataArray]]:
        found = {}
        for name, result in self.results.items():
            if "ground_force_lower" in result and "ground_force_upper" in result:
                parts = [foot_forces(result.assign(ground_force=result[f"ground_force_{b}"])) for b in ("lower", "upper")]
                if foot in parts[0]["foot"].values:
                    lower, upper = (self.in_body_direction(p["ground_force"].sel(foot=foot))[key] for p in parts)
                    found[name] = (lower, upper)
        return found

    def _cycle_solver(self) -> str:
        with_cycles = [s for s in self.ordered if not self.gait[s].reason]
        return with_cycles[0] if with_cycles else self.reference


def summary_rows(view: View) -> list[SummaryRow]:
    """The summary that report and terminal show alike."""
    return [*_force_rows(view), *_gait_rows(view), *_moment_rows(view), *_quality_rows(view)]


def number(value: float, digits: int = 2) -> str:
    """A number as people write it; a dash where there is none."""
    if not np.isfinite(value):
        return _DASH
    text = f"{value:.{digits}f}"
    return (text[1:] if float(text) == 0 and text.startswith("-") else text).replace("-", _MINUS)


def signed_pair(values: NDArray[np.float64], digits: int = 2) -> str:
    """Largest and smallest value, as ``0.91 / -1.02``."""
    known = values[np.isfinite(values)]
    return f"{number(known.max(), digits)} / {number(known.min(), digits)}" if known.size else _DASH


def words(name: str) -> str:
    """A name in code as words."""
    text = name.replace("_", " ").strip()
    return text[:1].upper() + text[1:]


def flagged_share(result: xr.Dataset) -> float:
    """Share of frames that carry any flag; NaN where the solver gives no flags."""
    return float(result["flag"].any("kind").mean()) if "flag" in result else float("nan")


def _force_rows(view: View) -> Iterator[SummaryRow]:
    peak, shear = {}, {}
    for name, feet in view.feet.items():
        for foot in (str(f) for f in feet["foot"].values if str(f) in FEET):
            parts = view.in_body_direction(feet["ground_force"].sel(foot=foot) / view.weight)
            up = parts["up"].values
            peak[name, foot] = number(float(np.nanmax(up))) if np.isfinite(up).any() else _DASH
            shear[name, foot] = signed_pair(parts["forward"].values)
    yield SummaryRow("Vertical ground force, peak", "BW", peak)
    yield SummaryRow("Fore-aft ground force, peak propelling / braking", "BW", shear)


def _gait_rows(view: View) -> Iterator[SummaryRow]:
    if all(gait.reason for gait in view.gait.values()):
        return
    mean, stance, cadence = {}, {}, {}
    for name, gait in view.gait.items():
        for foot, cycles in gait.cycles.items():
            stance[name, foot] = f"{number(gait.stance[foot], 1)} ({len(cycles)})" if cycles else _DASH
        cadence[name, ""] = number(gait.cadence, 0)
        whole = [c for cycles in gait.cycles.values() for c in cycles if c.both_feet]
        mean[name, ""] = number(100.0 * float(mean_vertical_force(view.results[name], whole, view.mass).mean()), 1) if whole else _DASH
    yield SummaryRow("Mean vertical force over whole gait cycles (100 expected)", "% BW", mean)
    yield SummaryRow("Contact time (number of cycles)", "% of cycle", stance)
    yield SummaryRow("Cadence", "steps/min", cadence)


def _moment_rows(view: View) -> Iterator[SummaryRow]:
    for joint in view.joints:
        values = {}
        for side in FEET if joint.paired else ("",):
            for name, result in view.results.items():
                coordinate = joint.coordinate(side)
                if coordinate in result["coordinate"].values:
                    values[name, side] = signed_pair(result["generalized_force"].sel(coordinate=coordinate).values / view.mass)
        yield SummaryRow(f"{joint.name} moment, peak {joint.plus} / {joint.minus}", "N m/kg", values)


def _quality_rows(view: View) -> Iterator[SummaryRow]:
    ds = differences(view.comparison, view.mass)
    for kind, unit in (("force", "N/kg"), ("moment", "N m/kg")):
        rms = {(s, ""): number(float(ds[f"root_{kind}_rms_per_mass"].sel(solver=s))) for s in view.solvers}
        yield SummaryRow(f"Residual {kind} at the root, RMS", unit, rms)
    yield SummaryRow("Frames flagged", "%", {(s, ""): number(100.0 * flagged_share(r), 1) for s, r in view.results.items()})


def _joints(view: View) -> list[Joint]:
    plus, minus = _knee_directions(view)
    known = [
        Joint("hip_flexion", "Hip flexion", "flexion", "extension"),
        Joint("hip_adduction", "Hip adduction", "adduction", "abduction"),
        Joint("hip_rotation", "Hip rotation", "internal", "external"),
        Joint("knee_angle", "Knee", plus, minus),
        Joint("ankle_angle", "Ankle", "dorsiflexion", "plantarflexion"),
        Joint("subtalar_angle", "Subtalar", "inversion", "eversion"),
        Joint("lumbar_extension", "Lumbar extension", "extension", "flexion", False),
        Joint("lumbar_bending", "Lumbar bending", "to the right", "to the left", False),
        Joint("lumbar_rotation", "Lumbar rotation", "to the left", "to the right", False),
        Joint("hip_z", "Hip flexion", "flexion", "extension", side_first=True),
        Joint("knee_z", "Knee", plus, minus, side_first=True),
        Joint("ankle_z", "Ankle", "dorsiflexion", "plantarflexion", side_first=True),
        Joint("spine1_z", "Lower spine", "extension", "flexion", False),
        Joint("spine2_z", "Middle spine", "extension", "flexion", False),
        Joint("spine3_z", "Upper spine", "extension", "flexion", False),
    ]
    names = set(view.comparison["coordinate"].values.tolist())
    return [j for j in known if names & {j.coordinate(s) for s in FEET}]


def _knee_directions(view: View) -> tuple[str, str]:
    sign = _knee_sign(view)
    if sign == 0:
        return "as coordinate", "opposite"
    return ("flexion", "extension") if sign > 0 else ("extension", "flexion")


def _knee_sign(view: View) -> float:
    """Positive where the knee's coordinate grows in flexion, negative in extension: as a result or the model says; 0 where neither does."""
    model = view.trial.model if view.trial else None
    stated = [r.attrs.get("knee_sign", 0) for r in view.results.values()]
    stated += [model.attrs.get("knee_sign", 0)] if model is not None else []
    return next((float(sign) for sign in stated if sign), 0.0)


def _heading(view: View) -> tuple[tuple[float, float], str]:
    """Horizontal unit vector (x, z) of travel, and how it was found."""
    path = _root_path(view)
    if path is not None:
        way = path[-1] - path[0]
        if np.linalg.norm(way) > _WALKED:
            x, z = way / np.linalg.norm(way)
            return (float(x), float(z)), "the mean direction of travel"
    turn = _mean_rotation(view)
    if turn is not None:
        return (float(np.cos(turn)), float(-np.sin(turn))), "the mean heading of the pelvis"
    return (1.0, 0.0), "the ground frame's x axis"


def _motions(view: View) -> Iterator[xr.Dataset]:
    yield from (view.results[s] for s in view.ordered)
    if view.trial is not None:
        yield view.trial.motion


def _root_path(view: View) -> NDArray[np.float64] | None:
    for ds in _motions(view):
        if "coordinate_value" in ds and {"pelvis_tx", "pelvis_tz"} <= set(ds["coordinate"].values.tolist()):
            path = ds["coordinate_value"].sel(coordinate=["pelvis_tx", "pelvis_tz"]).values
        elif "marker_position" in ds:
            path = ds["marker_position"].sel(axis=["x", "z"]).median("marker").values
        else:
            continue
        path = path[np.isfinite(path).all(axis=1)]
        if len(path) > 1:
            return np.asarray(path, float)
    return None


def _mean_rotation(view: View) -> float | None:
    for ds in _motions(view):
        heading = next((n for n in _HEADINGS if "coordinate_value" in ds and n in ds["coordinate"].values), None)
        if heading is not None:
            angle = ds["coordinate_value"].sel(coordinate=heading).values
            angle = angle[np.isfinite(angle)]
            if angle.size:
                return float(np.arctan2(np.sin(angle).mean(), np.cos(angle).mean()))
    return None
