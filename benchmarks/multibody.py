"""Speed of our own mechanics against OpenSim's on the same trial, in the same process, in alternation.

Every figure is a ratio of times in one repetition: its median and range over repetitions, and beside it the ratio of processor times, which other
work on the machine changes less. Parts: ``ik`` (inverse kinematics of the whole trial), ``id``
(inverse dynamics of all frames, coordinates and derivatives given), ``solve`` (from the files of model, markers and plates to written moments),
``growth`` (time per frame of longer and longer trials), ``memory`` (an hour of recording, in a process of its own), ``device`` (many trials at once
on a CUDA device).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imdy_plugin.schema import new_motion

Array = NDArray[np.float64]
Row = dict[str, Any]

CUTOFF_HZ = 6.0

PARTS = ("ik", "id", "solve", "growth", "memory", "device")

GROWTH = (1, 2, 4, 8, 16, 32)
"""How many times longer the trial is made."""

HOUR = 360_000
"""Frames of an hour at 100 Hz."""

MOST_MEMORY = 8 * 2**30
"""Bytes that the hour may take before it fails, so that nothing else on the machine does."""

TRIALS_AT_ONCE = 1000

SHORT_RUNS = 5
"""How often a call that takes less than a second is made in one repetition."""

RECORDED = {
    "Rajagopal walk": (
        "opensim_core_tests_moco/OpenSim/Examples/Moco/example3DWalking/subject_walk_scaled.osim",
        "opensim_core_tests_moco/OpenSim/Examples/Moco/example3DWalking/markers_walk.trc",
        "opensim_core_tests_moco/OpenSim/Examples/Moco/example3DWalking/grf_walk.xml",
    ),
    "Hamner run": (
        "hamner_delp_2013_running/data/subject01/model/subject01_adjusted_scaled.osim",
        "hamner_delp_2013_running/data/subject01/expData/Run_4.trc",
        "hamner_delp_2013_running/data/subject01/expData/Run_4_grf.xml",
    ),
}
"""Model, markers and external loads in the data folder."""


@dataclass(frozen=True)
class Case:
    """One trial to be timed."""

    name: str
    model: Path
    markers: Path
    loads: Path | None


@dataclass(frozen=True)
class Cost:
    """Seconds by the wall clock, and of processor time in all threads."""

    wall: float
    processor: float


def find_cases(data: Path | None, folder: Path) -> list[Case]:
    """The generated walk that ships, and recordings where there is a data folder."""
    from imdy_plugin.sim.gait import build_walk, write_trial
    from imdy_plugin.sim.person import write_person

    paths = write_trial(build_walk(write_person(folder / "model.osim")), folder)
    loads = paths.get("ground_force")
    cases = [Case("generated walk", Path(paths["model"]), Path(paths["markers"]), Path(loads) if loads else None)]
    for name, files in RECORDED.items():
        if data is not None and (data / files[0]).is_file():
            cases.append(Case(name, *(data / file for file in files)))
    return cases


# --- the two sides ---------------------------------------------------------------------------------------------------------------------------------


def forget_kinematics() -> None:
    """Make the next solve pay for its own inverse kinematics and for compiling its model."""
    from imdy_plugin.solvers import kinematics
    from imdy_plugin.solvers.multibody import mechanics

    kinematics._cache.clear()
    mechanics._compiled.clear()


def fit_ours(trial: Any) -> Array:
    """Our inverse kinematics, model compiled anew."""
    from imdy_plugin.solvers.kinematics import coordinates_of

    forget_kinematics()
    value: Array = coordinates_of(trial)["coordinate_value"].values
    return value


def run_ik_tool(model: Any, markers: Path, motion: Path) -> None:
    """OpenSim's inverse kinematics of the whole recording."""
    from imdy_plugin._opensim import import_opensim

    tool = import_opensim().InverseKinematicsTool()
    tool.setModel(model)
    tool.setMarkerDataFileName(str(markers))
    tool.setResultsDir(str(motion.parent))
    tool.setOutputMotionFileName(str(motion))
    tool.setStartTime(-math.inf)
    tool.setEndTime(math.inf)
    tool.set_report_errors(False)
    if not tool.run():
        raise RuntimeError("InverseKinematicsTool failed")


def run_id_tool(case: Case, motion: Path) -> None:
    """OpenSim's inverse dynamics of the whole motion, all forces but the plates' left out."""
    from imdy_plugin._opensim import import_opensim

    opensim = import_opensim()
    tool = opensim.InverseDynamicsTool()
    tool.setModelFileName(str(case.model))
    tool.setCoordinatesFileName(str(motion))
    tool.setLowpassCutoffFrequency(CUTOFF_HZ)
    if case.loads is not None:
        tool.setExternalLoadsFileName(str(case.loads))
    excluded = opensim.ArrayStr()
    excluded.append("muscles")
    tool.setExcludedForces(excluded)
    tool.setStartTime(-math.inf)
    tool.setEndTime(math.inf)
    tool.setResultsDir(str(motion.parent))
    tool.setOutputGenForceFileName("opensim_id.sto")
    if not tool.run():
        raise RuntimeError("InverseDynamicsTool failed")


class OpenSimDynamics:
    """OpenSim's InverseDynamicsSolver on a model without any force but gravity."""

    def __init__(self, model: Any, time_stamps: Array, motion: tuple[Array, Array, Array]) -> None:
        from imdy_plugin._opensim import import_opensim, strip_forces

        self.opensim = import_opensim()
        self.model = model.clone()
        strip_forces(self.model)
        self.state = self.model.initSystem()
        self.solver = self.opensim.InverseDynamicsSolver(self.model)
        order = self.model.getCoordinateNamesInMultibodyTreeOrder()
        tree = [order.getElt(i) for i in range(order.size())]
        names = [str(c.getName()) for c in (self.model.getCoordinateSet().get(i) for i in range(self.model.getCoordinateSet().getSize()))]
        self.columns = [names.index(name) for name in tree]
        self.inverse = np.argsort(self.columns)
        self.times = time_stamps
        self.splines = self._splines(tree, motion[0][:, self.columns])
        self.motion = [np.ascontiguousarray(values[:, self.columns]) for values in motion]

    def _splines(self, tree: Sequence[str], values: Array) -> Any:
        table = self.opensim.TimeSeriesTable()
        table.setColumnLabels(list(tree))
        for stamp, row in zip(self.times, values, strict=True):
            table.appendRow(float(stamp), self.opensim.RowVector.createFromMat(np.ascontiguousarray(row)))
        return self.opensim.GCVSplineSet(table, self.opensim.StdVectorString(), 5, 0.0)

    def by_functions(self) -> Array:
        """Frame by frame from splines of the coordinates: what the call over all frames, which Python is not offered, does inside."""
        solve, state, splines = self.solver.solve, self.state, self.splines
        return np.array([solve(state, splines, float(stamp)).to_numpy() for stamp in self.times])[:, self.inverse]

    def by_states(self) -> Array:
        """Frame by frame from coordinates and derivatives that are known."""
        vector, state, out = self.opensim.Vector.createFromMat, self.state, []
        for q, qd, qdd in zip(*self.motion, strict=True):
            state.setQ(vector(q))
            state.setU(vector(qd))
            self.model.realizeVelocity(state)
            out.append(self.solver.solve(state, vector(qdd)).to_numpy())
        return np.array(out)[:, self.inverse]


# --- parts -----------------------------------------------------------------------------------------------------------------------------------------


def measure(runners: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[Cost]]:
    """What each runner costs in each repetition, in alternation; one repetition beforehand warms up."""
    spent: dict[str, list[Cost]] = {name: [] for name in runners}
    for repetition in range(repeats + 1):
        for name, run in runners.items():
            cost = typical_cost(run)
            if repetition:
                spent[name].append(cost)
    return spent


def typical_cost(run: Callable[[], Any]) -> Cost:
    """What one call costs: the median of as many as fit a second, up to :data:`SHORT_RUNS`, so that a short call is not one moment's luck."""
    costs: list[Cost] = []
    begun = time.perf_counter()
    while not costs or (len(costs) < SHORT_RUNS and time.perf_counter() - begun < 1.0):
        wall, processor = time.perf_counter(), time.process_time()
        run()
        costs.append(Cost(time.perf_counter() - wall, time.process_time() - processor))
    return Cost(statistics.median(c.wall for c in costs), statistics.median(c.processor for c in costs))


def rows_of(case: str, part: str, spent: dict[str, list[Cost]], frames: int, reference: str) -> list[Row]:
    """Milliseconds, and how many times faster than ``reference`` in the same repetition."""
    rows = []
    for name, costs in spent.items():
        row: Row = {"case": case, "part": part, "runner": name, "frames": frames, "ms": 1e3 * statistics.median(c.wall for c in costs)}
        row |= {"seconds": [c.wall for c in costs], "processor_seconds": [c.processor for c in costs]}
        if name != reference:
            row |= compared(costs, spent[reference])
        rows.append(row)
    return rows


def compared(costs: Sequence[Cost], reference: Sequence[Cost]) -> Row:
    """Median and range of the ratio of wall clock times, and the median ratio of processor times, by repetition."""
    ratios = [theirs.wall / own.wall for own, theirs in zip(costs, reference, strict=True)]
    processor = statistics.median(theirs.processor / own.processor for own, theirs in zip(costs, reference, strict=True))
    return {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios), "processor_ratio": processor}


def time_kinematics(case: Case, trial: Any, repeats: int, folder: Path) -> list[Row]:
    """Part ``ik``."""
    frames = trial.motion.sizes["time"]
    model = trial.native_model.clone()
    runners = {"OpenSim": lambda: run_ik_tool(model, case.markers, folder / "ik.mot"), "ours": lambda: fit_ours(trial)}
    return rows_of(case.name, "ik", measure(runners, repeats), frames, "OpenSim")


def smoothed(trial: Any) -> tuple[Array, tuple[Array, Array, Array]]:
    """Time stamps, and coordinates with their derivatives, of the frames that have any."""
    from imdy_plugin.solvers.kinematics import coordinates_of, smooth

    coordinates = coordinates_of(trial)
    stamps = coordinates["time"].values
    motion = smooth(stamps, coordinates["coordinate_value"].values, CUTOFF_HZ)
    known = np.isfinite(motion).all(axis=(0, 2))
    return stamps[known], (motion[0][known], motion[1][known], motion[2][known])


def time_dynamics(case: Case, trial: Any, repeats: int, folder: Path) -> list[Row]:
    """Part ``id``; both sides must agree, with Simbody's rates of custom joints, before they are timed."""
    from imdy_plugin.solvers.multibody.mechanics import BodyMechanics

    stamps, motion = smoothed(trial)
    mechanics, theirs = BodyMechanics(trial.model), OpenSimDynamics(trial.native_model, stamps, motion)
    force = theirs.by_states()
    alike = BodyMechanics(trial.model, simbody_rates=True).inverse_dynamics(*motion)
    worst = float(np.abs(alike - force).max() / np.abs(force).max())
    if worst > 1e-8:
        raise RuntimeError(f"{case.name}: inverse dynamics differ by {worst:.2g} of the largest force")
    runners: dict[str, Callable[[], Any]] = {
        "OpenSim": theirs.by_states,
        "OpenSim, splines": theirs.by_functions,
        "ours": lambda: mechanics.inverse_dynamics(*motion),
    }
    return rows_of(case.name, "id", measure(runners, repeats), len(stamps), "OpenSim")


def time_solve(case: Case, trial: Any, repeats: int, folder: Path) -> list[Row]:
    """Part ``solve``."""
    from imdy_plugin._opensim import import_opensim

    def theirs() -> None:
        motion = folder / "whole.mot"
        run_ik_tool(import_opensim().Model(str(case.model)), case.markers, motion)
        run_id_tool(case, motion)

    runners: dict[str, Callable[[], Any]] = {"OpenSim": theirs}
    for solver in solvers_for(case):
        runners[solver] = partial(solve_ours, case, solver, folder)
    return rows_of(case.name, "solve", measure(runners, repeats), trial.motion.sizes["time"], "OpenSim")


def solvers_for(case: Case) -> list[str]:
    """Classic inverse dynamics where there are plates, and the solver that needs none."""
    from imdy_plugin import registry

    known = registry.get_registry().solvers
    classic = "multibody" if "multibody" in known else "opensim"
    return [*([classic] if case.loads is not None else []), "physics"]


def solve_ours(case: Case, solver: str, folder: Path) -> None:
    """From the files of model, markers and plates to the same two files that OpenSim's tools write, by our own path."""
    from imdy_plugin import api
    from imdy_plugin.adapters.coordinates import write_coordinates
    from imdy_plugin.adapters.results import write_generalized_force

    forget_kinematics()
    trial = api.load_trial(case.model, case.markers, ground_force=case.loads)
    result = api.run_solver(solver, trial, {"cutoff_hz": CUTOFF_HZ})
    write_coordinates(result.isel(time=np.isfinite(result["coordinate_value"].values).all(axis=1)), folder / f"{solver}.mot", trial.model)
    write_generalized_force(result, folder / f"{solver}.sto")


def lengthened(trial: Any, frames: int) -> Any:
    """The trial, played forwards and backwards until it has so many frames."""
    motion = trial.motion
    once = motion["marker_position"].values
    there_and_back = np.concatenate([once, once[-2:0:-1]])
    position = there_and_back[np.arange(frames) % len(there_and_back)]
    step = float(np.diff(motion["time"].values).mean())
    names = [str(n) for n in motion["marker"].values]
    return replace(trial, motion=new_motion(step * np.arange(frames), markers=(names, position)))


def time_growth(case: Case, trial: Any, repeats: int, folder: Path) -> list[Row]:
    """Part ``growth``: the ratio is of the time per frame of the shortest trial."""
    frames = trial.motion.sizes["time"]
    longer = {factor: lengthened(trial, factor * frames) for factor in GROWTH}
    spent = measure({str(factor): partial(analyze, longer[factor]) for factor in GROWTH}, max(1, repeats // 2))
    first = spent["1"]
    rows = []
    for factor in GROWTH:
        scaled = [Cost(c.wall / factor, c.processor / factor) for c in spent[str(factor)]]
        row = {"case": case.name, "part": "growth", "runner": f"{factor} times", "frames": factor * frames}
        rows.append(row | {"ms": 1e3 * factor * statistics.median(c.wall for c in scaled)} | compared(scaled, first))
    return rows


def analyze(trial: Any) -> None:
    """Coordinates, derivatives and joint moments of a trial."""
    from imdy_plugin.solvers.multibody.mechanics import BodyMechanics

    forget_kinematics()
    _, motion = smoothed(trial)
    BodyMechanics(trial.model).inverse_dynamics(*motion)


def measure_memory(case: Case, trial: Any, repeats: int, folder: Path) -> list[Row]:
    """Part ``memory``: peak memory of processes that analyze a short trial and an hour; the hour's markers alone are in it."""
    rows = []
    for frames in (trial.motion.sizes["time"], HOUR // 10, HOUR):
        command = [sys.executable, __file__, "--frames", str(frames), "--model", str(case.model), "--markers", str(case.markers)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        row = {"case": case.name, "part": "memory", "runner": f"{frames} frames", "frames": frames, "ms": 1e3 * found["seconds"]}
        rows.append(row | {key: found[key] for key in ("before_mib", "peak_mib", "data_mib")})
    return rows


def analyze_and_tell(model: Path, markers: Path, frames: int) -> None:
    """Analyze a trial of so many frames and print the memory before and at its peak; runs in a process of its own."""
    from imdy_plugin import api

    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
    trial = api.load_trial(model, markers)
    analyze(lengthened(trial, 500))
    longer = lengthened(trial, frames)
    before, started = peak_mib(), time.perf_counter()
    analyze(longer)
    data = longer.motion["marker_position"].nbytes + 4 * 8 * frames * longer.model.sizes["coordinate"]
    print(json.dumps({"before_mib": before, "peak_mib": peak_mib(), "data_mib": data / 2**20, "seconds": time.perf_counter() - started}))


def peak_mib() -> float:
    """Largest memory that this process has had so far [MiB]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def time_device(case: Case, trial: Any, repeats: int, folder: Path) -> list[Row]:
    """Part ``device``: :data:`TRIALS_AT_ONCE` copies of the trial on a CUDA device, against one after the other on the processor."""
    import torch

    if not torch.cuda.is_available():
        return [{"case": case.name, "part": "device", "runner": "no CUDA device", "frames": 0}]
    return [*_device_dynamics(case, trial, repeats), *_device_kinematics(case, trial, repeats)]


def _device_dynamics(case: Case, trial: Any, repeats: int) -> list[Row]:
    import torch

    from imdy_plugin.solvers.multibody import Multibody

    stamps, motion = smoothed(trial)
    there, here = Multibody(trial.model, device="cuda"), Multibody(trial.model)
    many = [there.tensor(np.broadcast_to(values, (TRIALS_AT_ONCE, *values.shape))) for values in motion]
    one = [here.tensor(values) for values in motion]

    def on_device() -> None:
        for start in range(0, TRIALS_AT_ONCE, 50):
            q, qd, qdd = (values[start : start + 50] for values in many)
            there.inverse_dynamics(q, qd, qdd)
        torch.cuda.synchronize()

    spent = measure({"processor": lambda: here.inverse_dynamics(one[0], one[1], one[2]), "device": on_device}, repeats)
    return rows_of(case.name, "device, id", many_times(spent), TRIALS_AT_ONCE * len(stamps), "processor")


def _device_kinematics(case: Case, trial: Any, repeats: int) -> list[Row]:
    import torch

    from imdy_plugin.solvers.multibody.inverse_kinematics import fit_markers
    from imdy_plugin.solvers.multibody.mechanics import BodyMechanics

    frames = trial.motion.sizes["time"]
    there, here = BodyMechanics(trial.model, device="cuda"), BodyMechanics(trial.model)
    shared = [str(n) for n in trial.motion["marker"].values if str(n) in here.markers]
    one, many = trial.motion.sel(marker=shared), lengthened(trial, TRIALS_AT_ONCE * frames).motion.sel(marker=shared)

    def fit(mechanics: BodyMechanics, motion: Any) -> None:
        fit_markers(mechanics, motion["time"].values, shared, motion["marker_position"].values)
        torch.cuda.synchronize()

    spent = measure({"processor": lambda: fit(here, one), "device": lambda: fit(there, many)}, repeats)
    return rows_of(case.name, "device, ik", many_times(spent), TRIALS_AT_ONCE * frames, "processor")


def many_times(spent: dict[str, list[Cost]]) -> dict[str, list[Cost]]:
    """The costs of one trial on the processor taken as many times as there are trials on the device."""
    one_by_one = [Cost(c.wall * TRIALS_AT_ONCE, c.processor * TRIALS_AT_ONCE) for c in spent["processor"]]
    return {**spent, "processor": one_by_one}


RUNNERS: dict[str, Callable[[Case, Any, int, Path], list[Row]]] = {
    "ik": time_kinematics,
    "id": time_dynamics,
    "solve": time_solve,
    "growth": time_growth,
    "memory": measure_memory,
    "device": time_device,
}


# --- tables ----------------------------------------------------------------------------------------------------------------------------------------


def describe(threads: int) -> dict[str, Any]:
    """The machine and the versions that figures depend on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts = {"machine": platform.machine(), "python": platform.python_version(), "cores": cores, "threads": threads, "load": os.getloadavg()[0]}
    return facts | {name: version(name) for name in ("imdy-plugin", "opensim", "torch", "numpy")}


def to_markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| trial | part | who | frames | ms | ms/frame | times faster | range | by processor time |", "| --- | --- | --- |" + " ---: |" * 6]
    for row in rows:
        ms = [f"{row['ms']:.1f}", f"{row['ms'] / row['frames']:.4f}"] if "ms" in row else ["-", "-"]
        told = [f"{row['ratio']:.3g}", f"{row['low']:.3g} to {row['high']:.3g}", f"{row['processor_ratio']:.3g}"] if "ratio" in row else ["", "", ""]
        if "peak_mib" in row:
            told = ["", f"peak {row['peak_mib']:.0f} MiB, {row['before_mib']:.0f} before; in and out {row['data_mib']:.0f}", ""]
        lines.append("| " + " | ".join([row["case"], row["part"], row["runner"], str(row["frames"]), *ms, *told]) + " |")
    return "\n".join(lines)


def run_parts(cases: Sequence[Case], parts: Sequence[str], repeats: int, folder: Path) -> list[Row]:
    """Every part on every trial; growth, memory and device on the first alone."""
    from imdy_plugin import api

    rows = []
    for number, case in enumerate(cases):
        trial = api.load_trial(case.model, case.markers)
        for part in parts:
            if number == 0 or part in ("ik", "id", "solve"):
                rows += RUNNERS[part](case, trial, repeats, folder)
                print(to_markdown(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("IMDY_DATA_DIR"), help="data folder with recordings; by default $IMDY_DATA_DIR")
    parser.add_argument("--model", type=Path, help=".osim; with --markers, in the place of the recordings")
    parser.add_argument("--markers", type=Path, help=".trc")
    parser.add_argument("--loads", type=Path, help="ExternalLoads .xml")
    parser.add_argument("--parts", default=",".join(PARTS), help="separated by commas")
    parser.add_argument("--trials", default="", help="parts of the trials' names, separated by commas")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write every figure here")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    if arguments.frames:
        analyze_and_tell(arguments.model, arguments.markers, arguments.frames)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments.model:
            cases = [Case(arguments.markers.stem, arguments.model, arguments.markers, arguments.loads)]
        else:
            wanted = arguments.trials.split(",")
            cases = [case for case in find_cases(arguments.data, folder) if any(part in case.name for part in wanted)]
        rows = run_parts(cases, arguments.parts.split(","), arguments.repeats, folder)
    facts = describe(arguments.threads) | {"repeats": arguments.repeats}
    print(json.dumps(facts))
    print(to_markdown(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(facts | {"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
