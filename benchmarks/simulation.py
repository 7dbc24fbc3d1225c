"""Speed of the simulation backends against a bare loop of MuJoCo's ``mj_step`` on the same bodies, in the same process, in alternation.

Everybody stands and shifts from foot to foot under control, two physics steps to a command. The bare loop steps the humanoid's own model with its own
actuators and looks at nothing; ours returns state and record at every command. Figures are physics steps a second, and the ratio in one repetition: its
median and range.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from imdy_plugin.interfaces import Simulation
from imdy_plugin.registry import get_sim_backend
from imdy_plugin.sim.humanoid import build_humanoid
from imdy_plugin.sim.standin import build_standin

Array = NDArray[np.float64]

SUBSTEPS = 2

CASES = ((1, 1), (16, 1), (2, 2), (16, 2))
"""Worlds, and threads that share them."""

PERSON = build_standin()


def targets(count: int) -> Array:
    """Commands at 60 Hz: hips and ankles sway by a few degrees."""
    phase = 2 * np.pi * np.arange(count)[:, None] / 60
    names = build_humanoid(PERSON).bodies[1:]
    sway = np.array([0.05 if name.split("_")[-1] in ("hip", "ankle") else 0.0 for name in names for _ in "xyz"])
    return sway * np.sin(phase)


def start_state() -> tuple[Array, Array]:
    """Position and velocity of somebody who stands in the T-pose."""
    model = build_humanoid(PERSON).model
    position = model.qpos0.copy()
    position[1] = float(PERSON["coordinate_default"].sel(coordinate="pelvis_ty"))
    return position, np.zeros(model.nv)


def bare(worlds: int, threads: int, commands: Array) -> Callable[[], None]:
    """``mj_step`` in each of some threads, until all commands are through."""
    model = build_humanoid(PERSON).model
    data = [mujoco.MjData(model) for _ in range(worlds)]
    position, velocity = start_state()

    def work(share: range) -> None:
        for world in share:
            mujoco.mj_resetData(model, data[world])
            data[world].qpos[:], data[world].qvel[:] = position, velocity
        for command in commands:
            for world in share:
                data[world].ctrl[:] = command
                for _ in range(SUBSTEPS):
                    mujoco.mj_step(model, data[world])

    def run() -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, [range(first, worlds, threads) for first in range(threads)]))

    return run


def ours(simulation: Simulation, commands: Array) -> Callable[[], None]:
    """The same through a simulation, with state and record at every command."""
    position, velocity = (np.tile(part, (simulation.worlds, 1)) for part in start_state())

    def run() -> None:
        simulation.reset(position, velocity)
        for command in commands:
            simulation.step_towards(np.tile(command, (simulation.worlds, 1)), SUBSTEPS)
            simulation.state()

    return run


def seconds(run: Callable[[], None]) -> float:
    """By the wall clock."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def measure(backend: str, worlds: int, threads: int, count: int, repeats: int) -> dict[str, Any]:
    """One row: physics steps a second of both, and their ratio."""
    options = {"threads": threads} if backend == "mujoco" else {}
    simulation = get_sim_backend(backend).start([PERSON] * worlds, **options)
    commands = targets(count)
    both = bare(worlds, threads, commands), ours(simulation, commands)
    seconds(ours(simulation, commands[:5]))
    times = [(seconds(both[0]), seconds(both[1])) for _ in range(repeats)]
    simulation.close()
    steps, ratios = worlds * count * SUBSTEPS, [one / two for one, two in times]
    rates = [steps / statistics.median(side) for side in zip(*times, strict=True)]
    return {
        "backend": backend,
        "worlds": worlds,
        "threads": threads,
        "bare": rates[0],
        "ours": rates[1],
        "ratio": statistics.median(ratios),
        "range": (min(ratios), max(ratios)),
    }


def to_markdown(rows: list[dict[str, Any]]) -> str:
    """A table."""
    lines = ["| backend | worlds | threads | bare, steps/s | ours, steps/s | ours / bare | range |", "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for row in rows:
        low, high = row["range"]
        lines.append(
            f"| {row['backend']} | {row['worlds']} | {row['threads']} | {row['bare']:,.0f} | {row['ours']:,.0f} | {row['ratio']:.2f} | {low:.2f}-{high:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="mujoco", help="any backend that is registered; the bare loop stays MuJoCo's, on the processor")
    parser.add_argument("--cases", default=",".join(f"{w}x{t}" for w, t in CASES), help="WORLDSxTHREADS, separated by commas")
    parser.add_argument("--commands", type=int, default=600, help="control steps in a run")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write every figure here")
    arguments = parser.parse_args()
    cases = [tuple(map(int, case.split("x"))) for case in arguments.cases.split(",")]
    rows = [measure(arguments.backend, worlds, threads, arguments.commands, arguments.repeats) for worlds, threads in cases]
    facts = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "mujoco": version("mujoco"),
        "repeats": arguments.repeats,
    }
    print(json.dumps(facts))
    print(to_markdown(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(facts | {"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
