"""Solvers against reference answers: the same frames, the same measures, people whom no solver has seen.

A data folder holds ``references/*.nc``, one per trial, with what is right (ground force, joint torque), the kinematics it was made from and the
paths of the marker file and the model. :func:`evaluate` runs solvers on them and keeps one row per trial and solver; means are over people, because
trials of one person are no independent evidence.
"""

from __future__ import annotations

import csv
import json
import math
import multiprocessing
import os
import time as clock
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin import api, registry, schema, scoring
from imdy_plugin.atomic import replacing
from imdy_plugin.errors import FileFormatError, ImdyError, InputError, UnknownNameError
from imdy_plugin.interfaces import LoadedModel, Trial
from imdy_plugin.progress import report_progress
from imdy_plugin.references import FEET, Kinematics, MeanAnswer, Reference, feet_array, mean_answers, mean_solution, read_references
from imdy_plugin.runs import longest_run

Row = dict[str, Any]

BASELINES = ("zero", "mean")
"""Answers that need no motion: no force at all, and what other people do on average in the same activity."""

SOLVERS = ("zero", "mean", "physics", "imdys", "opensim")
"""Compared by default; ``opensim`` has the plates and shows that torque is compared with torque."""

ACTIVITIES = ("walk", "run", "jump", "squat", "sit_to_stand", "static", "child_walk", "child_turn")
"""Order of the table; others follow by name."""

METRICS = {
    "force": ("force, N/kg", 2),
    "vertical": ("vertical, BW", 3),
    "cop": ("CoP, mm", 0),
    "contact_f1": ("contact F1", 2),
    "torque": ("torque, Nm/kg", 3),
    "torque_legs": ("without lumbar", 3),
    "torque_norm": ("per-joint norm", 3),
    "coverage": ("coverage", 2),
}
"""Columns of the table: heading and digits."""

FLOOR = ("residual_force", "residual_moment")
"""Columns of what the reference's root carries."""

_MARGIN = 0.5


@dataclass(frozen=True)
class Summary:
    """One figure of the table: mean over people and its 95 % interval, NaN where it cannot be told."""

    activity: str
    solver: str
    metric: str
    mean: float
    low: float
    high: float
    people: int
    trials: int
    failed: int


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found.

    Attributes
    ----------
    rows
        One per trial and solver: ``id``, ``source``, ``subject``, ``person``, ``trial``, ``activity``, ``solver``, ``status`` (``ok``, ``failed``:
        scored as zero, or ``absent``: the trial lacks what the solver needs, not scored), ``message``, ``seconds``, ``frames``, ``frames_torque``
        and the measures of :func:`imdy_plugin.scoring.score`.
    kinematics
        Whose kinematics the solvers were given.
    seed
        Of the resampling.
    """

    rows: list[Row]
    kinematics: str = "reference"
    seed: int = 0

    def table(self, metrics: Iterable[str] = tuple(METRICS)) -> list[Summary]:
        """Each measure by activity and solver: means over trials of a person, then over people, with an interval over people."""
        return [self._summary(activity, solver, metric) for activity, solver in self._cells() for metric in metrics]

    def to_markdown(self) -> str:
        """The table, by joint, by data set, and what the references leave unexplained: ``mean [low, high]``, ``-`` where there is nothing to say."""
        joints = {f"torque_{joint}": (joint, 3) for joint in scoring.JOINTS}
        few = {name: METRICS[name] for name in ("force", "vertical", "cop", "torque", "torque_legs")}
        several = self.by_source()
        tables = {
            "": self._markdown(METRICS),
            "Mean absolute torque error by joint, Nm/kg:": self._markdown(joints, keep_empty=False),
            "By data set, where several show an activity:": several._markdown(few) if several.rows else "",
            "What the root carries in the references, with plates:": self._floor_markdown(),
        }
        return "\n".join(f"{title}\n\n{table}" if title else table for title, table in tables.items() if table)

    def by_source(self) -> Evaluation:
        """The same rows with activities told apart by data set (``walk, schreiber``), for activities that several show."""
        sources: dict[str, set[str]] = {}
        for row in self.rows:
            sources.setdefault(row["activity"], set()).add(row["source"])
        rows = [row | {"activity": f"{row['activity']}, {row['source']}"} for row in self.rows if len(sources[row["activity"]]) > 1]
        return Evaluation(rows, self.kinematics, self.seed)

    def noise_floor(self) -> list[Summary]:
        """Force [N/kg] and moment [N m/kg] that plates leave on the root of the references, by activity: how far plates and motion disagree."""
        solver = self.rows[0]["solver"]
        return [self._summary(a, solver, metric) for a, s in self._cells() if s == solver for metric in FLOOR]

    def _floor_markdown(self) -> str:
        found = {(s.activity, s.metric): s for s in self.noise_floor()}
        lines = ["| activity | people | force, N/kg | moment, Nm/kg |", "| --- | ---: | ---: | ---: |"]
        for activity in dict.fromkeys(a for a, _ in found):
            force, moment = (found[activity, metric] for metric in FLOOR)
            if force.people:
                lines.append(f"| {activity} | {force.people} | {_cell(force, 2)} | {_cell(moment, 2)} |")
        return "\n".join(lines) + "\n"

    def _markdown(self, metrics: Mapping[str, tuple[str, int]], keep_empty: bool = True) -> str:
        heading = ["activity", "solver", "people", "trials (failed)", *(label for label, _ in metrics.values())]
        lines = ["| " + " | ".join(heading) + " |", "|" + "|".join([" --- "] * 2 + [" ---: "] * (len(heading) - 2)) + "|"]
        previous = ""
        for activity, solver in self._cells():
            cells = [self._summary(activity, solver, metric) for metric in metrics]
            told = [_cell(c, digits) for c, (_, digits) in zip(cells, metrics.values(), strict=True)]
            first = cells[0]
            trials = f"{first.trials}" + (f" ({first.failed})" if first.failed else "")
            people = max(c.people for c in cells)
            if not (people or keep_empty):
                continue
            lines.append("| " + " | ".join([activity if activity != previous else "", solver, str(people) if people else "-", trials, *told]) + " |")
            previous = activity
        return "\n".join(lines) + "\n"

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the rows; columns that a row lacks stay empty."""
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, columns)
            writer.writeheader()
            writer.writerows(self.rows)

    def _cells(self) -> list[tuple[str, str]]:
        activities = sorted({r["activity"] for r in self.rows}, key=_place)
        solvers = list(dict.fromkeys(r["solver"] for r in self.rows))
        return [(a, s) for a in activities for s in solvers]

    def _summary(self, activity: str, solver: str, metric: str) -> Summary:
        rows = [r for r in self.rows if r["activity"] == activity and r["solver"] == solver and (r["status"] != "absent" or metric in FLOOR)]
        by_person: dict[str, list[float]] = {}
        for row in rows:
            value = row.get(metric, math.nan)
            if math.isfinite(value):
                by_person.setdefault(row["person"], []).append(value)
        means = [float(np.mean(v)) for v in by_person.values()]
        low, high = scoring.bootstrap_interval(means, self.seed)
        failed = sum(r["status"] == "failed" for r in rows)
        return Summary(activity, solver, metric, float(np.mean(means)) if means else math.nan, low, high, len(means), len(rows), failed)


@dataclass(frozen=True)
class Plan:
    """How every trial is run: see :func:`evaluate`."""

    data_dir: Path
    solvers: tuple[str, ...]
    kinematics: Kinematics
    options: Mapping[str, Mapping[str, Any]]
    weights: Mapping[str, Path] = field(default_factory=dict)
    means: Mapping[str, MeanAnswer | None] = field(default_factory=dict)


def evaluate(
    data_dir: str | os.PathLike[str],
    solvers: Sequence[str] = SOLVERS,
    sources: Sequence[str] | None = None,
    kinematics: Kinematics = "reference",
    *,
    activities: Sequence[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    weights: str | os.PathLike[str] | None = None,
    workers: int = 1,
    seed: int = 0,
) -> Evaluation:
    """Run solvers on every reference trial and score them.

    Parameters
    ----------
    data_dir
        Folder with ``references/*.nc`` and the recordings that they name.
    solvers
        Names that ``imdy solvers`` lists, ``zero`` or ``mean``.
    sources
        Only these data sets.
    kinematics
        ``reference``: the coordinates that the reference was made from, so that errors are the solver's alone. ``own``: inverse kinematics of the
        markers, as for a user.
    activities
        Only these.
    options
        Options by solver.
    weights
        Folder of learned weights. Each person is solved with weights whose metadata say that they were trained without that person.
    workers
        Processes.
    seed
        Of the resampling of people.

    Raises
    ------
    InputError
        No reference fits, or a learned solver has no weights that never saw a person.
    UnknownNameError
        A solver, data set or activity does not exist.
    """
    folder = Path(data_dir)
    every = read_references(folder)
    chosen = _choose(every, sources, activities)
    _check_solvers(solvers, kinematics)
    unseen = {}
    if "imdys" in solvers:
        files = find_weights(Path(weights) if weights else weights_folder())
        unseen = {r.id: unseen_weights(r, files, every) for r in chosen}
    means = mean_answers(chosen, every) if "mean" in solvers else {}
    plan = Plan(folder, tuple(solvers), kinematics, options or {}, unseen, means)
    rows: dict[str, list[Row]] = {}
    for done, (name, found) in enumerate(_run_all(chosen, plan, workers), 1):
        rows[name] = found
        report_progress("evaluation", done, len(chosen))
    return Evaluation([row for r in chosen for row in rows[r.id]], kinematics, seed)


def _choose(references: Sequence[Reference], sources: Sequence[str] | None, activities: Sequence[str] | None) -> list[Reference]:
    for kind, wanted, known in (
        ("data set", sources, {r.source for r in references}),
        ("activity", activities, {r.activity for r in references}),
    ):
        for name in wanted or ():
            if name not in known:
                raise UnknownNameError(kind, name, known)
    return [r for r in references if (not sources or r.source in sources) and (not activities or r.activity in activities)]


def _check_solvers(solvers: Sequence[str], kinematics: str) -> None:
    if kinematics not in ("reference", "own"):
        raise UnknownNameError("kinematics", kinematics, ("reference", "own"))
    for name in solvers:
        if name not in BASELINES:
            registry.get_solver(name)


# --- weights that never saw a person ---------------------------------------------------------------------------------------------------------------


def weights_folder() -> Path:
    """Where the weights that ship with the package lie."""
    from imdy_plugin.solvers import imdys

    return Path(next(iter(imdys.__path__))) / "weights"


def find_weights(folder: Path) -> list[Path]:
    """Weights in a folder: those that are shipped for use first, then the folds; checkpoints of unfinished training are no weights.

    Raises
    ------
    InputError
        There are none.
    """
    finished = (p for p in folder.glob("*.safetensors") if not p.stem.endswith(".checkpoint"))
    found = sorted(finished, key=lambda p: (p.stem.startswith("fold"), p.name))
    if not found:
        raise InputError(f"{folder} holds no .safetensors file; train first ('imdy train') or name the folder (weights=...)")
    return found


@lru_cache(maxsize=64)
def training_people(path: Path) -> frozenset[str]:
    """People (``source/subject``) that weights were trained on, from the metadata of the file.

    Raises
    ------
    FileFormatError
        The metadata do not say; such weights cannot be held to be without knowledge of anybody.
    """
    from safetensors import safe_open

    with safe_open(str(path), framework="np") as opened:
        card = json.loads((opened.metadata() or {}).get("card", "{}"))
    if "people" not in card:
        raise FileFormatError(path, "its metadata do not say which people it was trained on ('people' in 'card')", "train it again; training writes them")
    return frozenset(card["people"])


def unseen_weights(reference: Reference, files: Sequence[Path], everybody: Sequence[Reference] = ()) -> Path:
    """The first weights that were not trained on the person of ``reference``, under any of the person's names among ``everybody``.

    Raises
    ------
    InputError
        All of them saw the person.
    FileFormatError
        Weights name their people in a way that fits nobody among ``everybody``: whom they saw cannot be told.
    """
    names = {reference.person} | {r.person for r in everybody if r.same_person(reference)}
    known = {r.person for r in everybody} | names
    for path in files:
        people = training_people(path)
        if people and not people & known:
            raise FileFormatError(path, f"was trained on people such as '{min(people)}', none of whom is in the references", f"name them as {min(known)}")
        if not names & people:
            return path
    raise InputError(f"every one of {', '.join(p.name for p in files)} was trained on {reference.person}; train a fold without that person")


# --- running ---------------------------------------------------------------------------------------------------------------------------------------


def _run_all(references: Sequence[Reference], plan: Plan, workers: int) -> Iterator[tuple[str, list[Row]]]:
    if workers <= 1:
        yield from ((r.id, run_reference(r, plan)) for r in references)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
        yield from zip((r.id for r in references), pool.map(run_reference, references, [plan] * len(references)), strict=True)


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"


def run_reference(reference: Reference, plan: Plan) -> list[Row]:
    """One row per solver of a trial."""
    trial: Trial | Exception | None = None
    rows = []
    for solver in plan.solvers:
        if trial is None and solver not in BASELINES:
            trial = _try_trial(reference, plan)
        rows.append(_run_one(reference, solver, trial, plan))
    return rows


def _try_trial(reference: Reference, plan: Plan) -> Trial | Exception:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return build_trial(reference, plan.data_dir, plan.kinematics)
    except ImdyError as error:
        return error


def _run_one(reference: Reference, solver: str, trial: Trial | Exception | None, plan: Plan) -> Row:
    truth = reference.truth(plan.kinematics)
    started = clock.perf_counter()
    status, message, solution = "ok", "", None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            solution = _solution(reference, truth, solver, trial, plan)
            if solution is not None and not (np.isfinite(solution.force).all(axis=(1, 2)) & truth.valid).any():
                raise InputError("the solution covers no frame that is scored")
        except ImdyError as error:
            status, message = "failed", str(error)
    if status == "failed":
        solution = scoring.zero_solution(truth)
    row = _identity(reference, solver, truth)
    if solution is None:
        return row | {"status": "absent", "message": "the trial lacks what the solver needs"}
    message = message or "; ".join(dict.fromkeys(str(w.message) for w in caught))
    row |= {"status": status, "message": message, "seconds": round(clock.perf_counter() - started, 3)}
    return row | scoring.score(truth, solution)


def _identity(reference: Reference, solver: str, truth: scoring.Truth) -> Row:
    return {
        "id": reference.id,
        "source": reference.source,
        "subject": reference.subject,
        "person": reference.person,
        "trial": str(reference.dataset.attrs.get("trial", reference.id)),
        "activity": reference.activity,
        "solver": solver,
        "frames": int(truth.valid.sum()),
        "frames_torque": 0 if truth.valid_torque is None else int(truth.valid_torque.sum()),
        **_residual(reference),
    }


def _residual(reference: Reference) -> dict[str, float]:
    """Mean size of the force [N/kg] and the moment [N m/kg] on the root of a reference."""
    ds = reference.dataset
    if "root_residual_force" not in ds or "root_residual_moment" not in ds or not ds["valid_id"].values.any():
        return {}
    used = ds["valid_id"].values.astype(bool)
    names = ("root_residual_force", "root_residual_moment")
    return {f: float(np.linalg.norm(ds[n].values[used], axis=1).mean()) / reference.mass for f, n in zip(FLOOR, names, strict=True)}


def _solution(reference: Reference, truth: scoring.Truth, solver: str, trial: Trial | Exception | None, plan: Plan) -> scoring.Solution | None:
    """What a solver says, or None where the trial lacks what it needs."""
    if solver == "zero":
        return scoring.zero_solution(truth)
    if solver == "mean":
        mean = plan.means.get(reference.id)
        return None if mean is None else mean_solution(reference, mean)
    if isinstance(trial, Exception):
        raise trial
    assert trial is not None
    if not all(trial.has(need) for need in registry.get_solver(solver).needs):
        return None
    result = api.run_solver(solver, trial, _options(reference, solver, plan))
    return sample_result(result, reference, trial)


def _options(reference: Reference, solver: str, plan: Plan) -> dict[str, Any]:
    """The options given; besides, unseen weights and the low-pass of the reference where the solver has such options."""
    known = registry.get_solver(solver).Options.model_fields
    options = dict(plan.options.get(solver, {}))
    cutoff = float(reference.dataset.attrs.get("fc_coordinates", math.nan))
    if "cutoff_hz" in known and math.isfinite(cutoff):
        options.setdefault("cutoff_hz", cutoff)
    if "weights" in known and reference.id in plan.weights:
        options.setdefault("weights", str(plan.weights[reference.id]))
    return options


@lru_cache(maxsize=2)
def _load_model(path: Path) -> LoadedModel:
    return registry.load_model(path)


def build_trial(reference: Reference, data_dir: Path, kinematics: Kinematics = "reference") -> Trial:
    """The trial of a reference, as a solver gets it.

    Markers are cropped to half a second around the reference. With ``reference`` kinematics they are sampled linearly at the reference's 100 Hz time
    stamps instead, within gaps only, so that coordinates are given as they are; the stretch is that on which all coordinates are known. The plates'
    forces go along for solvers that ask for them.

    Raises
    ------
    ImdyError
        A file cannot be read.
    """
    attrs = reference.dataset.attrs
    loaded = _load_model(data_dir / attrs["model_path"]) if attrs.get("model_path") else None
    marker_path = data_dir / str(attrs["marker_path"])
    motion = registry.find_marker_reader(marker_path).read(marker_path)
    if kinematics == "reference" and loaded is not None and "coordinate_value" in reference.dataset:
        motion = _with_coordinates(motion, reference)
    else:
        stamps = reference.dataset["time"].values
        motion = motion.sel(time=slice(stamps[0] - _MARGIN, stamps[-1] + _MARGIN))
    height = float(attrs.get("height", math.nan))
    return Trial(
        motion=motion,
        model=loaded.dataset if loaded else None,
        mass=reference.mass,
        ground_force=_plate_motion(reference, loaded) if loaded else None,
        native_model=loaded.deferred_native if loaded else None,
        height=height if math.isfinite(height) else None,
        provenance={"markers": marker_path.name, "reference": reference.path.name},
    )


def _with_coordinates(motion: xr.Dataset, reference: Reference) -> xr.Dataset:
    ds = reference.dataset
    stretch = longest_run(np.isfinite(ds["coordinate_value"].values).all(axis=1))
    if stretch.stop - stretch.start < 2:
        raise InputError(f"{reference.id} holds no stretch of known coordinates; use kinematics='own'")
    stamps = ds["time"].values[stretch]
    names = [str(m) for m in motion["marker"].values]
    markers = scoring.sample(motion["time"].values, motion["marker_position"].values, stamps)
    coordinates = [str(c) for c in ds["coordinate"].values]
    values = ds["coordinate_value"].values[stretch].astype(float)
    merged = schema.new_motion(stamps, markers=(names, markers), coordinates=(coordinates, values), attrs=motion.attrs)
    return schema.add_log(merged, "markers sampled linearly at the time stamps of the reference's coordinates")


def _plate_motion(reference: Reference, loaded: LoadedModel) -> xr.Dataset | None:
    """Plate forces of a reference as a motion; where the centre of pressure is undefined, the same wrench at its last place."""
    feet = list(loaded.dataset.attrs.get("foot_bodies", ()))
    if len(feet) != 2:
        return None
    ds = reference.dataset
    force = feet_array(ds["ground_force_id"])
    moment = feet_array(ds["ground_moment_origin_id"])
    point = _hold(feet_array(ds["center_of_pressure"]))
    return schema.new_motion(ds["time"].values, ground=(feet, force, point, moment - np.cross(point, force)))


def _hold(point: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fill undefined points with the last defined one (the first before it, zero where there is none)."""
    filled = np.zeros_like(point)
    for foot in range(point.shape[1]):
        known = np.flatnonzero(np.isfinite(point[:, foot]).all(axis=-1))
        if known.size:
            at = np.clip(np.searchsorted(known, np.arange(len(point)), side="right") - 1, 0, None)
            filled[:, foot] = point[known[at], foot]
    return filled


def sample_result(result: xr.Dataset, reference: Reference, trial: Trial) -> scoring.Solution:
    """A result at the time stamps of a reference, feet right and left, coordinates in its order.

    Coordinates that a result lacks count as zero torque, unless it lacks all that are scored.
    """
    time, at = result["time"].values, reference.dataset["time"].values
    feet = _foot_bodies(result, trial)
    force = result["ground_force"].sel(body=feet).values
    point = result["center_of_pressure"].sel(body=feet).values
    point = np.where(force[..., 1:2] > 0, point, np.nan)
    return scoring.Solution(scoring.sample(time, force, at), scoring.sample(time, point, at), _sample_torque(result, reference))


def _sample_torque(result: xr.Dataset, reference: Reference) -> NDArray[np.float64] | None:
    if not reference.has_torque or "generalized_force" not in result:
        return None
    names = [str(c) for c in reference.dataset["coordinate"].values]
    if not set(scoring.scored_coordinates(names)) & {str(c) for c in result["coordinate"].values}:
        return None
    aligned = result["generalized_force"].reindex(coordinate=names, fill_value=0.0)
    return scoring.sample(result["time"].values, aligned.values, reference.dataset["time"].values)


def _foot_bodies(result: xr.Dataset, trial: Trial) -> list[str]:
    bodies = [str(b) for b in result["body"].values]
    if trial.model is not None and trial.model.attrs.get("foot_bodies"):
        return list(trial.model.attrs["foot_bodies"])
    sides = [[b for b in bodies if side in b.lower().split("_")] for side in ("r", "l")]
    named = [[b for b in bodies if word in b.lower()] for word in FEET]
    for right, left in (named, sides):
        if len(right) == len(left) == 1:
            return [right[0], left[0]]
    raise InputError(f"the result's bodies {bodies} do not tell the right foot from the left")


def _place(activity: str) -> tuple[int, str]:
    known = activity.partition(",")[0]
    return (ACTIVITIES.index(known) if known in ACTIVITIES else len(ACTIVITIES), activity)


def _cell(summary: Summary, digits: int) -> str:
    if not math.isfinite(summary.mean):
        return "-"
    told = f"{summary.mean:.{digits}f}"
    return told if not math.isfinite(summary.low) else f"{told} [{summary.low:.{digits}f}, {summary.high:.{digits}f}]"
