"""What collecting costs beside the physics alone."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import xarray as xr

from imdy_plugin.sim.collector import Task, finished_record, part_of, provenance
from imdy_plugin.sim.imitator.base import CONTROL_RATE, SUBSTEPS, TIMESTEP
from imdy_plugin.sim.records import Episode, RecordStore
from imdy_plugin.sim.rollout import roll_out


@dataclass
class Costs:
    """Processor time of one episode [s].

    Attributes
    ----------
    frames
        Recorded frames.
    parts
        ``load`` (the clip), ``begin`` (the imitator), ``start`` (the simulation), ``simulate`` (commands, physics, notes), ``record`` (variables, checks)
        and ``store``.
    bare
        The same number of MuJoCo's steps of the same body from the same states under the same commands, and nothing else.
    """

    frames: int = 0
    parts: dict[str, float] = field(default_factory=dict)
    bare: float = float("inf")

    @property
    def share_of_bare(self) -> float:
        """Throughput over that of the bare steps; loading the clip and beginning to imitate are left out, which many episodes or none share."""
        return self.bare / sum(self.parts[part] for part in ("start", "simulate", "record", "store"))

    @property
    def speed(self) -> float:
        """Simulated seconds in a second of one processor, everything included."""
        return self.frames / CONTROL_RATE / sum(self.parts.values())

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Note the processor time of a block, the least of several."""
        started = time.process_time()
        yield
        self.parts[part] = min(self.parts.get(part, float("inf")), time.process_time() - started)


def collection_costs(task: Task, repeats: int = 3) -> Costs:
    """Collect an episode some times, each into a store that is thrown away, and note the least time of each part.

    Parameters
    ----------
    task
        The episode; its backend is not asked for more than one world.
    repeats
        How often.
    """
    costs = Costs()
    for _ in range(repeats):
        with costs.timed("load"):
            loaded = task.clip.load()
        with costs.timed("begin"):
            part = part_of(task, loaded)
        with costs.timed("start"):
            simulation = task.backend.start([part.person], timestep=TIMESTEP, seed=part.seed)
        with costs.timed("simulate"):
            (episode,) = roll_out(simulation, [part])
        simulation.close()
        with costs.timed("record"):
            record = finished_record(episode, part.person, provenance(task, part))
        with tempfile.TemporaryDirectory() as folder, RecordStore(Path(folder)).claimed("x"), costs.timed("store"):
            RecordStore(Path(folder)).write("x", record, part.person)
        costs.frames = record.sizes["time"]
        costs.bare = min(costs.bare, _bare(episode, part.person))
    return costs


def _bare(episode: Episode, person: xr.Dataset) -> float:
    """Processor time [s] of MuJoCo's own steps from the episode's states under its commands."""
    import mujoco

    from imdy_plugin.sim.humanoid import build_humanoid

    model = build_humanoid(person, TIMESTEP).model
    data, step = mujoco.MjData(model), mujoco.mj_step
    position, velocity, control = data.qpos, data.qvel, data.ctrl
    started = time.process_time()
    for q, v, target in zip(episode.position, episode.velocity, episode.target, strict=True):
        position[:], velocity[:], control[:] = q, v, target
        for _ in range(SUBSTEPS):
            step(model, data)
    return time.process_time() - started
