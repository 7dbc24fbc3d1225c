"""Hold our inverse kinematics against OpenSim's InverseKinematicsTool on every recording that has a scaled model.

Both get the same markers (those that model and recording share), unit weights and the same frames, with OpenSim's defaults otherwise. OpenSim's
answers are kept in a folder, so that a second run pays only for ours.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin import references, registry
from imdy_plugin.interfaces import LoadedModel, Trial

Array = NDArray[np.float64]

BLOCK = 20
"""Frames after which another set of markers goes missing."""

GAPS = (0.05, 0.15, 0.4)
"""Whole-frame gaps [s]: two short enough to be bridged, one that is not."""


CUTOFF_HZ = 6.0

WORSE = 1e-4
"""Root mean square marker distance [m] by which a frame counts as worse, or better."""

SPOILED = 0.05
"""Amplitude [rad] by which the negative control is wrong."""


@dataclass(frozen=True)
class Case:
    """One recording, as both sides get it; but OpenSim's tool, which gives up where a frame has no markers, gets it without gaps."""

    id: str
    model: Path
    dataset: xr.Dataset
    trial: Trial
    without_gaps: xr.Dataset
    markers: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """Coordinates ``(time, coordinate)`` in the model's order [rad, m], what they cost (wall clock and processor time [s]), and where a
    solver masks coordinates that markers do not tell, the marker distance that it states itself ``(time,)`` [m]."""

    value: Array
    wall: float
    processor: float
    stated: Array | None = None


def read_cases(data: Path, chosen: Sequence[str], seconds: float, missing: float, gaps: bool) -> Iterator[Case]:
    """Recordings with a model, cut to ``seconds`` about their middle, with markers taken away as asked."""
    from imdy_plugin.evaluation import build_trial

    for reference in references.read_references(data):
        model = reference.dataset.attrs.get("model_path")
        if not model or (chosen and not any(part in reference.id for part in chosen)):
            continue
        trial = build_trial(reference, data, "own")
        assert trial.model is not None
        motion = cut(trial.motion, seconds)
        names = {str(n) for n in trial.model["marker"].values}
        shared = [str(n) for n in motion["marker"].values if str(n) in names]
        motion = motion.sel(marker=shared)
        generator = np.random.default_rng(int.from_bytes(hashlib.sha256(reference.id.encode()).digest()[:8], "big"))
        thinned = thin_out(motion, missing, generator)
        yield Case(reference.id, data / str(model), trial.model, replace(trial, motion=interrupt(thinned) if gaps else thinned), thinned, tuple(shared))


def cut(motion: xr.Dataset, seconds: float) -> xr.Dataset:
    """The middle of a motion."""
    stamps = motion["time"].values
    middle = 0.5 * (stamps[0] + stamps[-1])
    return motion.sel(time=slice(middle - seconds / 2, middle + seconds / 2)) if math.isfinite(seconds) else motion


def thin_out(motion: xr.Dataset, missing: float, generator: np.random.Generator) -> xr.Dataset:
    """The motion without a random share of its markers, drawn anew every :data:`BLOCK` frames."""
    position = motion["marker_position"].values.copy()
    frames, markers = position.shape[:2]
    for start in range(0, frames, BLOCK):
        lost = generator.permutation(markers)[: round(missing * markers)]
        position[start : start + BLOCK, lost] = np.nan
    return motion.assign(marker_position=motion["marker_position"].copy(data=position))


def interrupt(motion: xr.Dataset) -> xr.Dataset:
    """The motion without any marker in the :data:`GAPS`, which are spread evenly."""
    position, stamps = motion["marker_position"].values.copy(), motion["time"].values
    for number, length in enumerate(GAPS, 1):
        begin = stamps[0] + number / (len(GAPS) + 1) * (stamps[-1] - stamps[0])
        position[(stamps >= begin) & (stamps < begin + length)] = np.nan
    return motion.assign(marker_position=motion["marker_position"].copy(data=position))


# --- the two sides ---------------------------------------------------------------------------------------------------------------------------------


def answer_of_opensim(case: Case, cache: Path | None, accuracy: float) -> Answer:
    """What OpenSim's tool says, from the cache where the same question has been asked."""
    kept = cache / f"{case.id}__{question(case, accuracy)}.npz" if cache else None
    if kept is None or not kept.exists():
        answer = run_tool(case, accuracy)
        if kept is None:
            return answer
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez(kept, value=answer.value, wall=answer.wall, processor=answer.processor)
    with np.load(kept) as stored:
        return Answer(stored["value"], float(stored["wall"]), float(stored["processor"]))


def question(case: Case, accuracy: float) -> str:
    """A short name for what is asked: model, markers, accuracy and OpenSim's version."""
    from importlib.metadata import version

    digest = hashlib.sha256(case.model.read_bytes())
    for part in (case.without_gaps["time"].values, np.round(case.without_gaps["marker_position"].values, 8)):
        digest.update(np.ascontiguousarray(part).tobytes())
    digest.update(f"{case.markers} {accuracy:g} {version('opensim')}".encode())
    return digest.hexdigest()[:12]


def run_tool(case: Case, accuracy: float) -> Answer:
    """Run OpenSim's InverseKinematicsTool; only its run is timed, not the reading of the model."""
    from imdy_plugin._opensim import import_opensim
    from imdy_plugin.adapters.coordinates import read_coordinates
    from imdy_plugin.adapters.trc import write_trc

    opensim = import_opensim()
    with tempfile.TemporaryDirectory() as folder:
        write_trc(case.without_gaps, Path(folder, "markers.trc"))
        tool = opensim.InverseKinematicsTool()
        model = opensim.Model(str(case.model))
        tool.setModel(model)
        tool.setMarkerDataFileName(str(Path(folder, "markers.trc")))
        tool.setResultsDir(folder)
        tool.setOutputMotionFileName(str(Path(folder, "ik.mot")))
        tool.setStartTime(-math.inf)
        tool.setEndTime(math.inf)
        tool.set_report_errors(False)
        tool.set_accuracy(accuracy)
        wall, processor = time.perf_counter(), time.process_time()
        if not tool.run():
            raise RuntimeError(f"{case.id}: InverseKinematicsTool failed")
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        motion = read_coordinates(Path(folder, "ik.mot"), case.dataset)
    value = motion["coordinate_value"].sel(coordinate=case.dataset["coordinate"].values).values
    return Answer(value, wall, processor)


def answer_of_ours(case: Case) -> Answer:
    """What our own inverse kinematics says, from nothing but the markers."""
    from imdy_plugin.solvers import kinematics
    from imdy_plugin.solvers.multibody import mechanics

    kinematics._cache.clear()
    mechanics._compiled.clear()
    fits: list[Any] = []

    def noting(*given: Any, **options: Any) -> Any:
        fits.append(fit_markers(*given, **options))
        return fits[-1]

    fit_markers = kinematics.fit_markers
    with patch.object(kinematics, "fit_markers", noting):
        wall, processor = time.perf_counter(), time.process_time()
        motion = kinematics.coordinates_of(case.trial)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
    value = motion["coordinate_value"].sel(coordinate=case.dataset["coordinate"].values).values
    return Answer(value, wall, processor, fits[0].rms)


# --- what is compared ------------------------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def mechanics_of(model: Path) -> Any:
    """OpenSim's own evaluation of a model: both sides are judged by it."""
    from imdy_plugin.solvers.opensim_mechanics import OpenSimMechanics

    loaded: LoadedModel = registry.load_model(model)
    return OpenSimMechanics(loaded.native)


def marker_error(case: Case, value: Array) -> Array:
    """Root mean square distance of the visible markers in each frame ``(time,)`` [m]; NaN without an answer or markers."""
    offset = mechanics_of(case.model).marker_positions(value, case.markers) - case.trial.motion["marker_position"].values
    squared = (offset**2).sum(axis=2)
    seen = np.isfinite(case.trial.motion["marker_position"].values).all(axis=2)
    with np.errstate(invalid="ignore"):
        mean = np.where(seen, squared, 0.0).sum(axis=1) / np.where(seen.any(axis=1), seen.sum(axis=1), np.nan)
    return np.asarray(np.sqrt(mean))


def generalized_force(case: Case, value: Array) -> Array:
    """Classic inverse dynamics ``(time, coordinate)`` per body mass, without loads, coordinates low-passed at :data:`CUTOFF_HZ`."""
    from imdy_plugin.solvers.kinematics import smooth

    mechanics = mechanics_of(case.model)
    force: Array = mechanics.inverse_dynamics(*smooth(case.trial.motion["time"].values, value, CUTOFF_HZ)) / mechanics.mass
    return force


def spoil(case: Case, value: Array) -> Array:
    """An answer that is wrong by :data:`SPOILED` in one knee (or the first joint): what the comparison must see."""
    mechanics = mechanics_of(case.model)
    names = [n for n in mechanics.coordinates if n.startswith("knee_angle_r")] or [n for n in mechanics.coordinates if n not in mechanics.root_coordinates]
    out = value.copy()
    out[:, mechanics.coordinates.index(names[0])] += SPOILED * np.sin(2 * np.pi * case.trial.motion["time"].values)
    coupled: Array = mechanics.couple(out)
    return coupled


def force_difference(case: Case, first: Array, second: Array) -> dict[str, float]:
    """Root mean square difference of generalized forces by coordinate [N m/kg, N/kg]."""
    gone = np.where(np.isfinite(first) & np.isfinite(second), 0.0, np.nan)
    squared = (generalized_force(case, first + gone) - generalized_force(case, second + gone)) ** 2
    return {name: float(np.sqrt(np.nanmean(column))) for name, column in zip(mechanics_of(case.model).coordinates, squared.T, strict=True)}


def compare(case: Case, reference: Answer, ours: Answer, tight: Answer | None = None) -> dict[str, Any]:
    """One row of the table."""
    theirs, own, spoiled = (marker_error(case, v) for v in (reference.value, ours.value, spoil(case, ours.value)))
    masked = np.isnan(own)
    if ours.stated is not None:
        own = np.where(masked, ours.stated, own)
    both = np.isfinite(theirs) & np.isfinite(own)
    excess = (own - theirs)[both]
    seen = np.isfinite(case.trial.motion["marker_position"].values).all(axis=2).any(axis=1)
    frames = len(own)
    row: dict[str, Any] = {
        "id": case.id,
        "frames": frames,
        "markers": len(case.markers),
        "coordinates": reference.value.shape[1],
        "masked": int((seen & masked).sum()),
        "unanswered": int((seen & ~np.isfinite(own)).sum()),
        "rms_opensim": float(theirs[both].mean()),
        "rms_ours": float(own[both].mean()),
        "excess_mean": float(excess.mean()),
        "excess_largest": float(excess.max()),
        "excess_least": float(excess.min()),
        "frames_worse": int((excess > WORSE).sum()),
        "frames_better": int((excess < -WORSE).sum()),
        "control_frames_worse": float(((spoiled - theirs)[both & ~masked] > WORSE).mean()),
        "opensim_ms": 1e3 * reference.processor / frames,
        "ours_ms": 1e3 * ours.processor / frames,
        "ours_wall_ms": 1e3 * ours.wall / frames,
        "ratio": reference.processor / ours.processor,
    }
    if seen.all():
        row["force"] = force_difference(case, reference.value, ours.value)
        row["force_control"] = force_difference(case, spoil(case, ours.value), ours.value)
    if tight is not None:
        floor = marker_error(case, tight.value)
        row |= {"floor_excess_largest": float(np.nanmax(np.abs(floor - theirs))), "force_floor": force_difference(case, reference.value, tight.value)}
        row["force_tight"] = force_difference(case, tight.value, ours.value)
    return row


# --- tables ----------------------------------------------------------------------------------------------------------------------------------------


def summarize(rows: Sequence[dict[str, Any]]) -> str:
    """Tables by data set and by coordinate, and the trials in which ours is worse."""
    parts = [table_by_source(rows)]
    if any("force" in r for r in rows):
        parts.append(table_by_coordinate(rows))
    worse = [r for r in rows if r["frames_worse"] or r["unanswered"]]
    parts.append("Trials with frames that are worse or unanswered: " + (", ".join(map(told, worse)) or "none"))
    return "\n\n".join(parts)


def told(row: dict[str, Any]) -> str:
    parts = (f"{row['frames_worse']} worse, by at most {1e3 * row['excess_largest']:.2f} mm", f"{row['unanswered']} unanswered", f"{row['masked']} masked")
    return f"{row['id']} ({', '.join(parts)}, of {row['frames']})"


def table_by_source(rows: Sequence[dict[str, Any]]) -> str:
    head = ("data set", "trials", "frames", "OpenSim, mm", "ours, mm", "mean excess, mm", "largest", "frames > 0.1 mm worse", "better", "masked", "unanswered")
    lines = ["| " + " | ".join((*head, "control", "OpenSim, ms/frame", "ours", "ratio")) + " |", "| --- |" + " ---: |" * 14]
    sources = list(dict.fromkeys(r["id"].partition("__")[0] for r in rows))
    groups = {s: [r for r in rows if r["id"].startswith(f"{s}__")] for s in sources} | {"all": list(rows)}
    for source, group in groups.items():
        frames = np.array([r["frames"] for r in group], float)
        mean = {k: float(np.average([r[k] for r in group], weights=frames)) for k in ("rms_opensim", "rms_ours", "excess_mean", "control_frames_worse")}
        spent = {k: float(np.average([r[k] for r in group], weights=frames)) for k in ("opensim_ms", "ours_ms")}
        count = {k: sum(r[k] for r in group) for k in ("frames", "frames_worse", "frames_better", "masked", "unanswered")}
        cells = [source, len(group), count["frames"], f"{1e3 * mean['rms_opensim']:.3f}", f"{1e3 * mean['rms_ours']:.3f}"]
        cells += [f"{1e3 * mean['excess_mean']:+.5f}", f"{1e3 * max(r['excess_largest'] for r in group):+.4f}"]
        cells += [count["frames_worse"], count["frames_better"], count["masked"], count["unanswered"], f"{mean['control_frames_worse']:.2f}"]
        cells += [f"{spent['opensim_ms']:.2f}", f"{spent['ours_ms']:.3f}", f"{spent['opensim_ms'] / spent['ours_ms']:.0f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def table_by_coordinate(rows: Sequence[dict[str, Any]]) -> str:
    """Median over trials, and the largest, of the difference of generalized forces by coordinate without its side."""
    columns = [c for c in ("force", "force_tight", "force_floor", "force_control") if any(c in r for r in rows)]
    label = {
        "force": "ours - OpenSim",
        "force_tight": "ours - OpenSim at 1e-9",
        "force_floor": "OpenSim - OpenSim at 1e-9",
        "force_control": "control",
    }
    lines = ["| coordinate | " + " | ".join(f"{label[c]}, median | largest" for c in columns) + " |", "| --- |" + " ---: | ---: |" * len(columns)]
    values: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        for column in columns:
            for name, value in row.get(column, {}).items():
                short = name.removesuffix("_r").removesuffix("_l")
                values.setdefault(short, {}).setdefault(column, []).append(value)
    for name, found in values.items():
        cells = [f"{np.nanmedian(found[c]):.5f} | {np.nanmax(found[c]):.5f}" if c in found else "- | -" for c in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("IMDY_DATA_DIR"), help="data folder with references/; by default $IMDY_DATA_DIR")
    parser.add_argument("--cache", type=Path, help="folder in which OpenSim's answers are kept")
    parser.add_argument("--trials", default="", help="parts of the trials' names, separated by commas; all by default")
    parser.add_argument("--seconds", type=float, default=4.0, help="the middle of each trial; inf for whole trials")
    parser.add_argument("--missing", type=float, default=0.0, help="share of markers taken away at random")
    parser.add_argument("--gaps", action="store_true", help="take all markers away in a few stretches")
    parser.add_argument("--accuracy", type=float, default=1e-5, help="of OpenSim's tool")
    parser.add_argument("--floor", action="store_true", help="also run OpenSim's tool at an accuracy of 1e-9, and hold it against itself")
    parser.add_argument("--json", type=Path, help="write every row here")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("give --data or set IMDY_DATA_DIR")
    warnings.simplefilter("ignore")
    chosen = [part for part in arguments.trials.split(",") if part]
    rows: list[dict[str, Any]] = []
    for case in read_cases(arguments.data, chosen, arguments.seconds, arguments.missing, arguments.gaps):
        reference = answer_of_opensim(case, arguments.cache, arguments.accuracy)
        tight = answer_of_opensim(case, arguments.cache, 1e-9) if arguments.floor else None
        if not rows:
            answer_of_ours(case)
        rows.append(compare(case, reference, answer_of_ours(case), tight))
        print(told(rows[-1]), flush=True)
    print(summarize(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps({"arguments": {k: str(v) for k, v in vars(arguments).items()}, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
