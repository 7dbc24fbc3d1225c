"""Time a whole solve, from files to files, next to OpenSim's own tools on the same trial.

Per repetition, in alternation: each solver (reading, inverse kinematics, smoothing, its own mathematics, inverse dynamics, writing), then OpenSim's
InverseKinematicsTool and InverseDynamicsTool. Figures are milliseconds per frame: median and range over repetitions, and the ratio to OpenSim's tools.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

CUTOFF_HZ = 6.0

_MECHANICS = "imdy_plugin.solvers.multibody.mechanics.BodyMechanics"

PARTS = (
    ("inverse kinematics", "imdy_plugin.solvers.kinematics", "coordinates_of"),
    ("smoothing", "imdy_plugin.solvers.kinematics", "smooth"),
    ("network", "imdy_plugin.solvers.imdys.network", "load_network"),
    ("network", "imdy_plugin.solvers.imdys.features", "compute_features"),
    ("network", "imdy_plugin.solvers.imdys.prediction", "predict"),
    ("ground wrench", _MECHANICS, "ground_wrench"),
    ("inverse dynamics", _MECHANICS, "inverse_dynamics"),
    ("report", "imdy_plugin.report", "write_report"),
    ("report", "imdy_plugin.report", "write_picture"),
)
"""Functions that are timed inside a solve, by part."""


@dataclass
class Stopwatch:
    """Seconds by part; a part that runs inside another is taken out of the outer one."""

    seconds: dict[str, float] = field(default_factory=dict)
    _inner: list[float] = field(default_factory=list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._inner.append(0.0)
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            self.seconds[name] = self.seconds.get(name, 0.0) + spent - self._inner.pop()
            if self._inner:
                self._inner[-1] += spent

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **keywords: Any) -> Any:
            with self.part(name):
                return function(*args, **keywords)

        return wrapper


@dataclass(frozen=True)
class Case:
    """One trial to be timed."""

    model: Path
    markers: Path
    frames: int


def time_solve(case: Case, solver: str, folder: Path) -> dict[str, float]:
    """Seconds of each part of one solve by our own path."""
    from imdy_plugin import api, registry
    from imdy_plugin.outputs import write_outputs

    forget_kinematics()
    watch = Stopwatch()
    known = registry.get_solver(solver).Options.model_fields
    options = {"cutoff_hz": CUTOFF_HZ} if "cutoff_hz" in known else {}
    with ExitStack() as stack:
        stack.enter_context(watch.part("rest"))
        for part, owner, name in PARTS:
            holder = find(owner)
            stack.enter_context(patch.object(holder, name, watch.timed(part, getattr(holder, name))))
        with watch.part("reading"):
            trial = api.load_trial(case.model, case.markers)
        result = api.run_solver(solver, trial, options)
        with watch.part("writing"):
            write_outputs(result, folder, solver, trial)
    return watch.seconds


def time_opensim(case: Case, folder: Path) -> dict[str, float]:
    """Seconds of OpenSim's two tools, each reading and writing its own files."""
    from imdy_plugin._opensim import import_opensim

    opensim = import_opensim()
    watch = Stopwatch()
    motion = folder / "opensim_ik.mot"
    with watch.part("inverse kinematics"):
        model = opensim.Model(str(case.model))
        tool = opensim.InverseKinematicsTool()
        tool.setModel(model)
        tool.setMarkerDataFileName(str(case.markers))
        tool.setResultsDir(str(folder))
        tool.setOutputMotionFileName(str(motion))
        tool.setStartTime(-math.inf)
        tool.setEndTime(math.inf)
        tool.set_report_errors(False)
        if not tool.run():
            raise RuntimeError("InverseKinematicsTool failed")
    with watch.part("inverse dynamics"):
        dynamics = opensim.InverseDynamicsTool()
        dynamics.setModelFileName(str(case.model))
        dynamics.setCoordinatesFileName(str(motion))
        dynamics.setLowpassCutoffFrequency(CUTOFF_HZ)
        excluded = opensim.ArrayStr()
        excluded.append("muscles")
        dynamics.setExcludedForces(excluded)
        dynamics.setStartTime(-math.inf)
        dynamics.setEndTime(math.inf)
        dynamics.setResultsDir(str(folder))
        dynamics.setOutputGenForceFileName("opensim_id.sto")
        if not dynamics.run():
            raise RuntimeError("InverseDynamicsTool failed")
    return watch.seconds


def forget_kinematics() -> None:
    """Make the next solve pay for its own inverse kinematics and for compiling its model."""
    from imdy_plugin.solvers import kinematics
    from imdy_plugin.solvers.multibody import mechanics

    kinematics._cache.clear()
    mechanics._compiled.clear()


def find(dotted: str) -> Any:
    """A module, or a class in one."""
    module, _, name = dotted.rpartition(".")
    return getattr(import_module(module), name) if name[0].isupper() else import_module(dotted)


def make_case(model: Path | None, markers: Path | None, folder: Path) -> Case:
    """The given trial, or the generated walk that ships."""
    from imdy_plugin import registry

    if model is None or markers is None:
        from imdy_plugin.sim.gait import build_walk, write_trial
        from imdy_plugin.sim.person import write_person

        paths = write_trial(build_walk(write_person(folder / "model.osim")), folder)
        model, markers = Path(paths["model"]), Path(paths["markers"])
    frames = registry.find_marker_reader(markers).read(markers).sizes["time"]
    return Case(model.resolve(), markers.resolve(), frames)


def measure(case: Case, solvers: list[str], repeats: int, folder: Path) -> dict[str, list[dict[str, float]]]:
    """Seconds by part, for each repetition of each runner; one repetition beforehand warms up imports and caches."""
    runners: dict[str, Callable[[], dict[str, float]]] = {name: lambda name=name: time_solve(case, name, folder) for name in solvers}  # type: ignore[misc]
    runners["opensim tools"] = lambda: time_opensim(case, folder)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in runners}
    for repetition in range(repeats + 1):
        for name, run in runners.items():
            seconds = run()
            if repetition:
                runs[name].append(seconds)
    return runs


def summarize(runs: dict[str, list[dict[str, float]]], frames: int) -> list[dict[str, Any]]:
    """Median and range in ms a frame of each part, and of the total against OpenSim's tools in the same repetition."""
    rows = []
    reference = [_computing(r) for r in runs["opensim tools"]]
    for name, repetitions in runs.items():
        parts = list(dict.fromkeys(p for r in repetitions for p in r))
        for part in [*parts, "total"]:
            spent = [1e3 / frames * (_computing(r) if part == "total" else r.get(part, 0.0)) for r in repetitions]
            row: dict[str, Any] = {"runner": name, "part": part, "median": statistics.median(spent), "low": min(spent), "high": max(spent)}
            if part == "total":
                row["ratio"] = statistics.median(_computing(r) / o for r, o in zip(repetitions, reference, strict=True))
            rows.append(row)
    return rows


def _computing(seconds: dict[str, float]) -> float:
    """Everything but the pictures, of which OpenSim's tools draw none."""
    return sum(spent for part, spent in seconds.items() if part != "report")


def describe() -> dict[str, Any]:
    """The machine and the versions that figures depend on."""
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": os.getloadavg()[0],
        **{name: version(name) for name in ("imdy-plugin", "opensim", "torch", "numpy")},
    }


def to_markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = ["| runner | part | ms/frame (median) | range | of OpenSim's tools |", "| --- | --- | ---: | ---: | ---: |"]
    for row in rows:
        ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
        lines.append(f"| {row['runner']} | {row['part']} | {row['median']:.3f} | {row['low']:.3f} to {row['high']:.3f} | {ratio} |")
    return "\n".join(lines)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help=".osim; with --markers. The generated walk if not given")
    parser.add_argument("--markers", type=Path, help=".trc")
    parser.add_argument("--solvers", default="imdys,physics", help="names, separated by commas")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write every repetition here")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        case = make_case(arguments.model, arguments.markers, Path(temporary))
        runs = measure(case, arguments.solvers.split(","), arguments.repeats, Path(temporary))
    facts = describe() | {"frames": case.frames, "repeats": arguments.repeats, "trial": case.markers.name}
    print(json.dumps(facts))
    print(to_markdown(summarize(runs, case.frames)))
    if arguments.json:
        arguments.json.write_text(json.dumps(facts | {"seconds": runs}, indent=1))


if __name__ == "__main__":
    main()
