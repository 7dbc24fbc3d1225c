"""How far simulated walking is from recorded walking: ground forces and moments of the legs over the gait cycle, laid over each other."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.atomic import replacing
from imdy_plugin.errors import DataWarning, InputError
from imdy_plugin.gait_cycle import GaitCycle, contacts, normalise
from imdy_plugin.progress import report_progress
from imdy_plugin.references import FEET, Reference, feet_array
from imdy_plugin.runs import runs
from imdy_plugin.schema import GRAVITY
from imdy_plugin.sim.gap import EXTENSION, LEG_JOINTS, MOMENT_CUTOFF, Walk, in_heading, walk_of, walk_of_record
from imdy_plugin.sim.imitator.evaluation import imitate
from imdy_plugin.sim.pictures import DPI, drawing_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from imdy_plugin.interfaces import SimBackend
    from imdy_plugin.sim.clips import Clip
    from imdy_plugin.sim.imitator.base import Imitator
    from imdy_plugin.sim.records import RecordStore

Array = NDArray[np.float64]

FORCES = ("forward", "up", "outward")
QUANTITIES = (*FORCES, *LEG_JOINTS)
"""What is compared: forces [body weights], moments [N m/kg]."""

CONTACT = 20.0
"""Force that tells when a simulated foot is on the ground [N], as a laboratory has it."""

SHORTEST_SWING = 0.15
"""Shorter times off the ground, and on it, are chatter of a simulated foot [s]."""

_COORDINATES = {"hip": "hip_flexion", "knee": "knee_angle", "ankle": "ankle_angle"}
_SAME_CONTACT = 0.12
_CYCLE = (0.6, 2.0)
_LEAST_WAY = 0.5

_TITLES = {
    "forward": "ground force, forward",
    "up": "ground force, up",
    "outward": "ground force, outward",
    "hip": "hip moment, extension +",
    "knee": "knee moment, extension +",
    "ankle": "ankle moment, plantarflexion +",
}
_SIMULATED, _RECORDED = "#0072B2", "#1a1a1a"


# --- recorded walking ------------------------------------------------------------------------------------------------------------------------------


def recorded_walk(reference: Reference) -> Walk | None:
    """The legs in a reference answer (:mod:`imdy_plugin.references`); None where it holds no moments.

    Moments outside a foot's contact with a plate hold only where the foot swings; :func:`recorded_cycles` heeds that.
    """
    ds = reference.dataset
    if not reference.has_torque or "pelvis_rotation" not in ds["coordinate"].values:
        return None
    names = [str(c) for c in ds["coordinate"].values]
    if any(f"{c}_{side}" not in names for c in _COORDINATES.values() for side in "rl"):
        return None
    angle = ds["coordinate_value"].sel(coordinate="pelvis_rotation").values.astype(float)
    ahead = np.stack([np.cos(angle), 0 * angle, -np.sin(angle)], axis=-1).astype(float)
    ahead = np.tile(np.nanmean(ahead, axis=0) / np.linalg.norm(np.nanmean(ahead, axis=0)), (len(angle), 1))
    force = in_heading(feet_array(ds["ground_force"]), ahead) / (reference.mass * GRAVITY)
    moment = np.stack([np.stack([_extension(ds, joint, side) for joint in LEG_JOINTS], axis=-1) for side in "rl"], axis=1)
    return Walk(reference.id, reference.person, ds["time"].values.astype(float), force, moment / reference.mass, reference.mass, _speed(ds))


def _extension(ds: xr.Dataset, joint: str, side: str) -> Array:
    """Moment of extension [N m]: hips and ankles of OpenSim's models turn about an axis to the right, knees so or the other way round."""
    name = f"{_COORDINATES[joint]}_{side}"
    moment = ds["generalized_force"].sel(coordinate=name).values.astype(float)
    bends_forward = float(np.nanmean(ds["coordinate_value"].sel(coordinate=name).values)) >= 0
    return moment * (-1.0 if joint == "knee" and bends_forward else EXTENSION[joint])


def _speed(ds: xr.Dataset) -> float:
    """Speed of the pelvis over the ground or the belt of a treadmill [m/s]; NaN for who goes nowhere."""
    place = ds["coordinate_value"].sel(coordinate=["pelvis_tx", "pelvis_tz"]).values.astype(float)
    known = np.flatnonzero(np.isfinite(place).all(axis=1))
    if known.size < 2:
        return math.nan
    duration = float(ds["time"].values[known[-1]] - ds["time"].values[known[0]])
    belt = np.array([float(ds.attrs.get("belt_velocity_x", 0.0)), 0.0])
    way = float(np.linalg.norm(place[known[-1]] - place[known[0]] - belt * duration))
    return way / duration if way > _LEAST_WAY else math.nan


def recorded_cycles(reference: Reference) -> list[GaitCycle]:
    """Gait cycles of feet whose whole stance was on a plate.

    A cycle runs from the foot's contact with the plate to the next time that it touches the ground, on a plate or off: kinematics tell
    (``touching``). What the other foot stands on does not matter: force and moments of a leg depend on its own foot's plate alone.
    """
    ds = reference.dataset
    if "touching" not in ds:
        return []
    edges = _edges(ds["time"].values.astype(float))
    found: list[GaitCycle] = []
    for foot in FEET:
        on_plate, on_ground = (edges[np.array(runs(ds[n].sel(foot=foot).values.astype(bool)), int).reshape(-1, 2)] for n in ("contact", "touching"))
        for start, stop in on_plate[(on_plate[:, 0] > edges[0]) & (on_plate[:, 1] < edges[-1])]:
            same = np.flatnonzero((np.abs(on_ground - [start, stop]) < _SAME_CONTACT).all(axis=1))
            if len(same) == 1 and same[0] + 1 < len(on_ground):
                end = _contact_near(on_ground[same[0] + 1, 0], on_plate[:, 0])
                found += [GaitCycle(foot, float(start), float(stop), end)] if _CYCLE[0] < end - start < _CYCLE[1] else []
    return found


def _edges(time: Array) -> Array:
    """Times between frames, and half a frame before the first and after the last."""
    between = 0.5 * (time[1:] + time[:-1])
    return np.concatenate([[1.5 * time[0] - 0.5 * time[1]], between, [1.5 * time[-1] - 0.5 * time[-2]]])


def _contact_near(touched: float, contacts: Array) -> float:
    """When a plate feels a foot that touches the ground, or when it touches where no plate is."""
    nearest = contacts[np.argmin(np.abs(contacts - touched))]
    return float(nearest if abs(nearest - touched) < _SAME_CONTACT else touched)


def simulated_cycles(walk: Walk) -> list[GaitCycle]:
    """Gait cycles of a simulated walk, from its forces; a foot that leaves the ground for less than :data:`SHORTEST_SWING` has not swung.

    Raises
    ------
    InputError
        It holds none.
    """
    found: list[GaitCycle] = []
    for foot, side in enumerate(FEET):
        seen = contacts(walk.time, walk.force[:, foot, 1] * walk.mass * GRAVITY, CONTACT, minimum_duration=SHORTEST_SWING)
        pairs = pairwise(c for c in seen if c.begins and c.start - walk.time[0] > SHORTEST_SWING)
        found += [GaitCycle(side, a.start, a.end, b.start) for a, b in pairs if _CYCLE[0] < b.start - a.start < _CYCLE[1]]
    if not found:
        told = f"no foot that touches the ground twice within {_CYCLE[0]:g} to {_CYCLE[1]:g} s, with a swing between"
        raise InputError(f"'{walk.name}' holds no gait cycle: {told}; give a walk of at least two strides")
    return found


def recorded_cutoff(references: Sequence[Reference], activity: str = "walk") -> float:
    """Low-pass behind the recorded moments of an activity [Hz], the middle one; :data:`~imdy_plugin.sim.gap.MOMENT_CUTOFF` where none is told."""
    told = [float(r.dataset.attrs["fc_coordinates"]) for r in references if r.activity == activity and "fc_coordinates" in r.dataset.attrs]
    return float(np.median(told)) if told else MOMENT_CUTOFF


def imitate_walks(imitator: Imitator, clips: Sequence[Clip], backend: SimBackend, *, seed: int = 0, cutoff: float = MOMENT_CUTOFF) -> list[Walk]:
    """Imitate clips of walking on level ground; one that fails, or that holds no gait cycle, is left out with a warning.

    Parameters
    ----------
    imitator, backend, seed
        See :func:`imdy_plugin.sim.imitator.evaluation.imitate`.
    clips
        What is imitated.
    cutoff
        Low-pass of the moments [Hz].
    """
    walks: list[Walk] = []
    level = [clip for clip in clips if clip.flat]
    for done, clip in enumerate(level, 1):
        imitated = imitate(imitator, *clip.load(), backend, seed=seed)
        if imitated.failure:
            warnings.warn(f"left out: '{clip.name}' failed: {imitated.failure}", DataWarning, stacklevel=2)
        else:
            walks += _whole(walk_of, imitated, cutoff)
        report_progress("imitation", done, len(level))
    return walks


def stored_walks(store: RecordStore, activity: str = "walk", *, cutoff: float = MOMENT_CUTOFF) -> list[Walk]:
    """Walks among collected records; one that failed is left out, one that holds no gait cycle likewise, with a warning.

    Parameters
    ----------
    store
        The records.
    activity
        What is taken.
    cutoff
        Low-pass of the moments [Hz].

    Raises
    ------
    InputError
        The store holds none of this activity.
    """
    kept = {name: store.attrs(name) for name in store.names()}
    names = [name for name, attrs in kept.items() if attrs["activity"] == activity and not attrs["failed_frames"]]
    if not names:
        raise InputError(f"{store.folder} holds {len(kept)} episodes, none of '{activity}' that did not fail")
    walks: list[Walk] = []
    for done, name in enumerate(names, 1):
        walks += _whole(walk_of_record, store.open(name), cutoff)
        report_progress("records", done, len(names))
    return walks


def _whole(make: Callable[[Any, float], Walk], source: Any, cutoff: float) -> list[Walk]:
    """The walk, or nothing and a warning where it holds no gait cycle."""
    try:
        walk = make(source, cutoff)
        simulated_cycles(walk)
    except InputError as error:
        warnings.warn(f"left out: {error}", DataWarning, stacklevel=3)
        return []
    return [walk]


# --- what is compared ------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Person:
    """Mean gait of one person over all cycles of both legs.

    Attributes
    ----------
    name
        Who.
    cycles
        How many.
    curves
        Mean over the cycles, ``(quantity, point)``, see :data:`QUANTITIES`.
    numbers
        ``first_peak``, ``valley``, ``second_peak`` of the vertical force [body weights], ``loading_rate`` [body weights/s], ``braking`` and
        ``propulsion`` [body weights], ``stance`` [% of the cycle], ``cycle`` [s], ``speed`` [m/s], and the greatest and least ``<joint>_extension`` and
        ``<joint>_flexion`` moment [N m/kg].
    """

    name: str
    cycles: int
    curves: Array
    numbers: Mapping[str, float]


def person_of(name: str, walks: Sequence[tuple[Walk, Sequence[GaitCycle]]]) -> Person:
    """Average a person's walks, each with its cycles; every cycle counts the same."""
    curves, numbers = [], []
    for walk, cycles in walks:
        for foot, side in enumerate(FEET):
            own = [c for c in cycles if c.foot == side]
            if own:
                both = np.concatenate([walk.force[:, foot], walk.moment[:, foot]], axis=-1)
                curves.append(normalise(xr.DataArray(both, dims=("time", "quantity"), coords={"time": walk.time}), own)["value"].values)
                numbers += [_numbers(walk, foot, cycle) for cycle in own]
    stacked = np.concatenate(curves)
    return Person(name, len(stacked), np.nanmean(stacked, axis=0).T, {k: _mean(n[k] for n in numbers) for k in numbers[0]})


def _numbers(walk: Walk, foot: int, cycle: GaitCycle) -> dict[str, float]:
    stance = (walk.time >= cycle.start) & (walk.time <= cycle.toe_off)
    whole = (walk.time >= cycle.start) & (walk.time <= cycle.end)
    time, up, forward = walk.time[stance], walk.force[stance, foot, 1], walk.force[stance, foot, 0]
    share = (time - cycle.start) / (cycle.toe_off - cycle.start)
    first = int(np.argmax(np.where(share <= 0.5, up, -np.inf)))
    moments: dict[str, float] = {}
    for number, joint in enumerate(LEG_JOINTS):
        values = walk.moment[whole, foot, number]
        moments |= {f"{joint}_extension": float(np.nanmax(values)), f"{joint}_flexion": float(np.nanmin(values))}
    return {
        "first_peak": float(up[first]),
        "valley": float(up[(share > 0.3) & (share < 0.7)].min(initial=math.inf)),
        "second_peak": float(up[share > 0.5].max(initial=-math.inf)),
        "loading_rate": _loading_rate(time[: first + 1], up[: first + 1]),
        "braking": float(forward.min()),
        "propulsion": float(forward.max()),
        "stance": 100.0 * cycle.duty_factor,
        "cycle": cycle.duration,
        "speed": walk.speed,
        **moments,
    }


def _loading_rate(time: Array, up: Array) -> float:
    """Mean slope between 20 and 80 % of the first peak, which comes last [body weights/s]."""
    levels = np.array([0.2, 0.8]) * up[-1]
    after = [int(np.argmax(up >= level)) for level in levels]
    if after[0] == 0:
        time, up = np.concatenate([[time[0] - (time[1] - time[0] if len(time) > 1 else 1 / 60)], time]), np.concatenate([[0.0], up])
        after = [int(np.argmax(up >= level)) for level in levels]
    at = [time[i - 1] + (level - up[i - 1]) / (up[i] - up[i - 1]) * (time[i] - time[i - 1]) for i, level in zip(after, levels, strict=True)]
    return float((levels[1] - levels[0]) / (at[1] - at[0]))


def _mean(values: Iterable[float]) -> float:
    known = [v for v in values if math.isfinite(v)]
    return float(np.mean(known)) if known else math.nan


def _sd(values: Iterable[float]) -> float:
    known = [v for v in values if math.isfinite(v)]
    return float(np.std(known, ddof=1)) if len(known) > 1 else math.nan


@dataclass(frozen=True)
class Gap:
    """Simulated beside recorded walking.

    Attributes
    ----------
    simulated, recorded
        The people.
    roughness
        Mean over the simulated walks of what the low-pass took from the moments [N m/kg rms], by joint.
    activity
        What they do.
    """

    simulated: tuple[Person, ...]
    recorded: tuple[Person, ...]
    roughness: Mapping[str, float]
    activity: str = "walk"

    def mean(self, people: Sequence[Person]) -> Array:
        """Mean curves of some people, each counting the same, ``(quantity, point)``."""
        return np.asarray(np.nanmean([p.curves for p in people], axis=0))

    def difference(self) -> dict[str, float]:
        """Root mean square difference of the mean curves, by quantity."""
        return _rms(self.mean(self.simulated) - self.mean(self.recorded))

    def among_recorded(self) -> dict[str, float]:
        """The same of each recorded person from the mean of the others, averaged over people: how far apart real people are."""
        apart = [_rms(p.curves - self.mean([q for q in self.recorded if q is not p])) for p in self.recorded] if len(self.recorded) > 1 else []
        return {q: _mean(a[q] for a in apart) for q in QUANTITIES}

    def numbers(self) -> dict[str, dict[str, float]]:
        """Mean and standard deviation over people of each number of :class:`Person`, simulated and recorded."""
        return {
            name: {
                "simulated": _mean(p.numbers[name] for p in self.simulated),
                "simulated_sd": _sd(p.numbers[name] for p in self.simulated),
                "recorded": _mean(p.numbers[name] for p in self.recorded),
                "recorded_sd": _sd(p.numbers[name] for p in self.recorded),
            }
            for name in self.recorded[0].numbers
        }

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write numbers, differences and mean curves; what is not known is null."""
        content: dict[str, Any] = {
            "simulated": {p.name: p.cycles for p in self.simulated},
            "recorded": {p.name: p.cycles for p in self.recorded},
            "numbers": self.numbers(),
            "rms_difference": self.difference(),
            "rms_difference_of_a_recorded_person_from_the_others": self.among_recorded(),
            "moment_removed_by_low_pass": dict(self.roughness),
            "curves": {group: dict(zip(QUANTITIES, self.mean(people).tolist(), strict=True)) for group, people in self._groups()},
            "text": self.text(),
        }
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(_without_nan(content), indent=1) + "\n", encoding="utf-8")

    def _groups(self) -> list[tuple[str, tuple[Person, ...]]]:
        return [("simulated", self.simulated), ("recorded", self.recorded)]

    def text(self) -> str:
        """What the figures say, in words."""
        return "\n".join([self._whom(), *(self._number_line(*line) for line in _NUMBER_LINES), *self._curve_lines(), self._filter_line()])

    def _whom(self) -> str:
        told = [f"{group}: {len(people)} people, {sum(p.cycles for p in people)} gait cycles" for group, people in self._groups()]
        return "; ".join(told) + ". Mean (standard deviation over people)."

    def _number_line(self, name: str, words: str, unit: str, digits: int) -> str:
        n = self.numbers()[name]
        told = [_told(n[group], n[f"{group}_sd"], digits) for group in ("simulated", "recorded")]
        apart = (n["simulated"] - n["recorded"]) / n["recorded_sd"] if n["recorded_sd"] else math.nan
        verdict = f", {abs(apart):.1f} standard deviations of the recorded people {'above' if apart > 0 else 'below'}" if math.isfinite(apart) else ""
        return f"{words}: simulated {told[0]}, recorded {told[1]} {unit}{verdict}."

    def _curve_lines(self) -> list[str]:
        ours, theirs = self.difference(), self.among_recorded()
        lines = []
        for quantity in QUANTITIES:
            unit = "body weights" if quantity in FORCES else "N m/kg"
            times = ours[quantity] / theirs[quantity] if theirs[quantity] else math.nan
            beside = f", {times:.1f} times what a recorded person is from the mean of the others ({theirs[quantity]:.3f})" if math.isfinite(times) else ""
            lines.append(f"{_TITLES[quantity]}: mean curves differ by {ours[quantity]:.3f} {unit} rms{beside}.")
        return lines

    def _filter_line(self) -> str:
        removed = ", ".join(f"{joint} {value:.3f}" for joint, value in self.roughness.items())
        took = f"; that took away {removed} N m/kg rms" if removed else ""
        return f"Simulated moments went through the low-pass of the recorded ones{took}."


_NUMBER_LINES = (
    ("speed", "walking speed", "m/s", 2),
    ("cycle", "gait cycle", "s", 2),
    ("stance", "stance", "% of the cycle", 1),
    ("first_peak", "first peak of the vertical force", "body weights", 2),
    ("valley", "valley between the peaks", "body weights", 2),
    ("second_peak", "second peak", "body weights", 2),
    ("loading_rate", "loading rate (20 to 80 % of the first peak)", "body weights/s", 1),
    ("braking", "braking", "body weights", 2),
    ("propulsion", "propulsion", "body weights", 2),
)


def _told(mean: float, sd: float, digits: int) -> str:
    if not math.isfinite(mean):
        return "unknown"
    return f"{mean:.{digits}f}" + (f" ({sd:.{digits}f})" if math.isfinite(sd) else "")


def _rms(curves: Array) -> dict[str, float]:
    return dict(zip(QUANTITIES, np.sqrt(np.nanmean(curves**2, axis=-1)).tolist(), strict=True))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def compare_walks(simulated: Sequence[Walk], references: Sequence[Reference], activity: str = "walk") -> Gap:
    """Lay simulated walks over the recorded ones.

    Parameters
    ----------
    simulated
        Walks of simulated people (:func:`imdy_plugin.sim.gap.walk_of`).
    references
        Reference answers with plates (:func:`imdy_plugin.references.read_references`); those of ``activity`` with a whole stance on a plate are used.
    activity
        What the recorded people do.

    Raises
    ------
    InputError
        There is no simulated or no recorded gait cycle.
    """
    if not simulated:
        raise InputError("no simulated walk to compare")
    recorded: dict[str, list[tuple[Walk, Sequence[GaitCycle]]]] = {}
    for reference in (r for r in references if r.activity == activity):
        walk, cycles = recorded_walk(reference), recorded_cycles(reference)
        if walk is not None and cycles:
            recorded.setdefault(walk.person, []).append((walk, cycles))
    if not recorded:
        raise InputError(f"none of {len(references)} references shows '{activity}' with moments and a whole stance on a plate")
    own: dict[str, list[tuple[Walk, Sequence[GaitCycle]]]] = {}
    for walk in simulated:
        own.setdefault(walk.person, []).append((walk, simulated_cycles(walk)))
    rough = [walk.roughness for walk in simulated if walk.roughness is not None]
    roughness = dict(zip(LEG_JOINTS, np.mean(rough, axis=0).tolist(), strict=True)) if rough else {}
    simulated_people, recorded_people = (tuple(person_of(name, walks) for name, walks in group.items()) for group in (own, recorded))
    return Gap(simulated_people, recorded_people, roughness, activity)


def draw_gap(path: str | os.PathLike[str], gap: Gap) -> None:
    """Draw the mean curves over each other, with the standard deviation over people and a thin line for each recorded person, as a PNG."""
    from matplotlib.figure import Figure

    with drawing_style():
        figure = Figure(figsize=(11.0, 6.6))
        axes = figure.subplots(2, 3, sharex=True, gridspec_kw={"left": 0.07, "right": 0.985, "top": 0.87, "bottom": 0.08, "wspace": 0.22, "hspace": 0.24})
        for number, (ax, quantity) in enumerate(zip(axes.flat, QUANTITIES, strict=True)):
            _draw_quantity(ax, gap, number, quantity)
        for ax in axes[1]:
            ax.set_xlabel("gait cycle [%]")
        _legend(figure, gap)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=DPI)


def _draw_quantity(ax: Axes, gap: Gap, number: int, quantity: str) -> None:
    percent = np.linspace(0.0, 100.0, gap.recorded[0].curves.shape[1])
    for person in gap.recorded:
        ax.plot(percent, person.curves[number], color="#9a9a9a", linewidth=0.5, alpha=0.7)
    for people, colour in ((gap.recorded, _RECORDED), (gap.simulated, _SIMULATED)):
        curves = np.array([p.curves[number] for p in people])
        mean = np.nanmean(curves, axis=0)
        if len(people) > 1:
            sd = np.nanstd(curves, axis=0, ddof=1)
            ax.fill_between(percent, mean - sd, mean + sd, color=colour, alpha=0.16, linewidth=0)
        ax.plot(percent, mean, color=colour, linewidth=2.0)
        ax.axvline(_mean(p.numbers["stance"] for p in people), color=colour, linestyle=":", linewidth=1.0)
    ax.axhline(0.0, color="#999999", linewidth=0.7)
    ax.set_title(_TITLES[quantity])
    ax.set_ylabel("[body weights]" if quantity in FORCES else "[N m/kg]")
    ax.set_xlim(0.0, 100.0)
    ax.grid(color="#e2e2e2", linewidth=0.5)


def _legend(figure: Figure, gap: Gap) -> None:
    from matplotlib.lines import Line2D

    def told(group: str, people: Sequence[Person]) -> str:
        return f"{group}: {len(people)} {'person' if len(people) == 1 else 'people'}, {sum(p.cycles for p in people)} gait cycles"

    handles = [Line2D([], [], color=c, linewidth=2, label=told(g, p)) for (g, p), c in zip(gap._groups(), (_SIMULATED, _RECORDED), strict=True)]
    handles.append(Line2D([], [], color="#555555", linestyle=":", label="toe-off"))
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.06, 0.94), ncols=3, fontsize=9)
    title = f"Simulated over recorded people, {gap.activity}: mean and standard deviation over people"
    figure.text(0.07, 0.98, title, ha="left", va="top", fontsize=11, fontweight="bold")
