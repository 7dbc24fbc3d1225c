"""Collecting the ImDy data set: clips are imitated in simulation, checked and stored, on as many processes or machines as there are.

An episode is one clip, imitated once by one imitator in one variation. It is the unit of work and of storage: whatever dies, a
finished episode stays and an unfinished one is done again, from seeds made of its names, so that it comes out the same.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from threading import Thread
from typing import Any, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.adapters.smpl.motion import BodyMotion
from imdy_plugin.errors import ImdyError, InputError, SolverError
from imdy_plugin.interfaces import SimBackend
from imdy_plugin.progress import report_progress
from imdy_plugin.sim.dynamics import BodyTree, tree_of
from imdy_plugin.sim.imitator.base import CONTROL_RATE, SUBSTEPS, TIMESTEP, Imitator
from imdy_plugin.sim.records import Episode, RecordStore, episode_arrays, episode_name, record_from
from imdy_plugin.sim.rollout import Part, roll_out
from imdy_plugin.sim.validity import checks
from imdy_plugin.sim.variation import DEFAULT_VARIATIONS, Variation, seed_of

_AT_ONCE = 256
"""Frames that are made into a record at once: few enough for what is computed on the way to stay in the processor's cache."""

_RESTARTS = 3
"""How often dead worker processes are replaced before the collection gives up."""


class ClipLike(Protocol):
    """What can be collected: a clip of :func:`imdy_plugin.sim.clips.clips`, or anything with the same members."""

    @property
    def name(self) -> str:
        """``source/trial``."""

    @property
    def activity(self) -> str:
        """What the person does."""

    @property
    def person(self) -> str:
        """Who."""

    @property
    def source(self) -> str:
        """The data set."""

    @property
    def held_out(self) -> bool:
        """Kept from training."""

    @property
    def may_train(self) -> bool:
        """Whether its licence allows training on it."""

    def load(self) -> tuple[BodyMotion, xr.Dataset]:
        """The motion and the person's model."""


@dataclass(frozen=True)
class Task:
    """One episode to collect."""

    clip: ClipLike
    imitator: Imitator
    variation: Variation
    backend: SimBackend
    store: Path
    seed: int = 0

    @property
    def key(self) -> dict[str, Any]:
        """What makes the episode what it is."""
        return {
            "clip": self.clip.name,
            "imitator": self.imitator.name,
            "backend": self.backend.name,
            "variation": self.variation.name,
            "variation_options": self.variation.described(),
            "seed": self.seed,
        }

    @property
    def name(self) -> str:
        """Name of the episode in the store."""
        return episode_name(self.key)


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes
    ----------
    name
        Of the episode.
    collected
        Whether it was collected now; otherwise it was there, another process has it, or ``error`` says why not.
    seconds, processor_seconds
        Simulated time [s], and time of a processor that it took [s].
    frames, valid, failed
        Numbers of frames, of valid ones, and of those after a failure.
    error
        Why there is no episode.
    """

    name: str
    collected: bool = False
    seconds: float = 0.0
    processor_seconds: float = 0.0
    frames: int = 0
    valid: int = 0
    failed: int = 0
    error: str = ""


@dataclass
class CollectionReport:
    """What a collection did."""

    outcomes: list[Outcome] = field(default_factory=list)
    skipped: int = 0
    wall_seconds: float = 0.0

    @property
    def collected(self) -> list[Outcome]:
        """Episodes that are new in the store."""
        return [o for o in self.outcomes if o.collected]

    @property
    def errors(self) -> dict[str, str]:
        """Why episodes are missing, by name."""
        return {o.name: o.error for o in self.outcomes if o.error}

    def total(self, figure: str) -> float:
        """Sum of a figure of :class:`Outcome` over the collected episodes."""
        return float(sum(getattr(o, figure) for o in self.collected))

    def lines(self) -> list[str]:
        """What a person wants to know of it."""
        frames, simulated, processor = self.total("frames"), self.total("seconds"), self.total("processor_seconds")
        said = [f"{len(self.collected)} episodes collected, {self.skipped} were there, {len(self.errors)} failed to run"]
        if frames:
            said += [
                f"{simulated / 3600:.3f} h simulated in {self.wall_seconds:.0f} s: {simulated / self.wall_seconds:.1f} s a second,"
                f" {simulated / max(processor, 1e-9):.1f} s a processor second",
                f"valid {100 * self.total('valid') / frames:.2f} % of {frames:.0f} frames; after a failure {100 * self.total('failed') / frames:.2f} %",
            ]
        return said + [f"{name}: {error}" for name, error in sorted(self.errors.items())]


def plan(
    clips: Iterable[ClipLike],
    imitators: Sequence[Imitator],
    store: str | os.PathLike[str],
    backend: SimBackend,
    variations: Sequence[Variation] = DEFAULT_VARIATIONS,
    seed: int = 0,
) -> list[Task]:
    """All episodes of some clips, each imitated by each imitator in each variation.

    Raises
    ------
    InputError
        Two of them would have the same name.
    """
    tasks = [Task(clip, imitator, v, backend, Path(store).absolute(), seed) for clip in clips for v in variations for imitator in imitators]
    names = [task.name for task in tasks]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise InputError(f"episode {twice[0]} would be collected twice; give clips, imitators and variations names of their own")
    return tasks


def collect(tasks: Sequence[Task], *, workers: int = 2, scheduler: str | None = None, worlds: int = 1) -> CollectionReport:
    """Collect episodes that are not in their store yet.

    Parameters
    ----------
    tasks
        What to collect (:func:`plan`).
    workers
        Local processes; with 1 all is done in this one.
    scheduler
        Address of a Dask scheduler; its workers do it instead. They need this package and the same folders.
    worlds
        How many episodes share a simulation, for backends that advance many at once.

    Returns
    -------
    CollectionReport
        What was done. An episode that cannot be made does not keep the others from being made.

    Raises
    ------
    SolverError
        Worker processes die again and again; what they finished is in the store.
    """
    started = time.perf_counter()
    stores = {task.store: RecordStore(task.store) for task in tasks}
    for store in stores.values():
        store.clean()
    missing = [task for task in tasks if task.name not in stores[task.store]]
    report = CollectionReport(skipped=len(tasks) - len(missing))
    for outcome in _run(jobs_of(missing, worlds), workers, scheduler, worlds):
        report.outcomes.append(outcome)
        report_progress("collect", len(report.outcomes), len(missing))
    for store in stores.values():
        store.write_manifest()
    report.wall_seconds = time.perf_counter() - started
    return report


def _run(portions: Sequence[Sequence[Task]], workers: int, scheduler: str | None, worlds: int) -> Iterator[Outcome]:
    if scheduler:
        return _on_dask([_Job.of(tasks, worlds) for tasks in portions], scheduler)
    if workers > 1:
        return _in_processes([_Job.of(tasks, worlds) for tasks in portions], workers)
    return (outcome for tasks in portions for outcome in collect_together(tasks, worlds))


def collect_together(tasks: Sequence[Task], worlds: int = 1) -> list[Outcome]:
    """Collect some episodes in this process, but those that are there or that somebody else is at.

    Parameters
    ----------
    tasks
        Each clip is loaded once where its episodes follow each other.
    worlds
        How many episodes share a simulation; they have one backend.
    """
    clips = _Clips()
    return [outcome for first in range(0, len(tasks), worlds) for outcome in _collect_in_one(tasks[first : first + worlds], clips)]


def _collect_in_one(tasks: Sequence[Task], clips: _Clips) -> list[Outcome]:
    """Collect episodes in one simulation, each in a world."""
    started = time.process_time()
    outcomes = {task.name: Outcome(task.name) for task in tasks}
    with ExitStack() as claims:
        ours = [task for task in tasks if claims.enter_context(RecordStore(task.store).claimed(task.name))]
        parts = []
        for task in ours:
            try:
                parts.append((task, part_of(task, clips.load(task.clip))))
            except (ImdyError, OSError) as error:
                outcomes[task.name] = Outcome(task.name, error=_told(error))
        for task, part, record in _simulated(parts) if parts else []:
            outcomes[task.name] = _stored(task, record, part.person)
    each = (time.process_time() - started) / max(sum(o.collected for o in outcomes.values()), 1)
    return [replace(o, processor_seconds=each) if o.collected else o for o in outcomes.values()]


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


class _Clips:
    """The clip that was loaded last: its episodes follow each other."""

    def __init__(self) -> None:
        self._loaded: dict[str, tuple[BodyMotion, xr.Dataset]] = {}

    def load(self, clip: ClipLike) -> tuple[BodyMotion, xr.Dataset]:
        if clip.name not in self._loaded:
            self._loaded = {clip.name: clip.load()}
        return self._loaded[clip.name]


def part_of(task: Task, loaded: tuple[BodyMotion, xr.Dataset]) -> Part:
    """Who imitates what in an episode whose clip is loaded."""
    reference, person = task.variation.applied(*loaded)
    seed = seed_of(task.name, str(task.seed))
    return Part(person, reference, task.imitator.begin(person, reference, seed), task.variation, seed)


def _simulated(parts: Sequence[tuple[Task, Part]]) -> Iterator[tuple[Task, Part, xr.Dataset | str]]:
    """Records of tasks that share a simulation, or why there is none."""
    task, part = parts[0]
    try:
        simulation = task.backend.start([p.person for _, p in parts], timestep=TIMESTEP, seed=part.seed)
        try:
            episodes = roll_out(simulation, [p for _, p in parts])
        finally:
            simulation.close()
    except ImdyError as error:
        yield from ((task, part, _told(error)) for task, part in parts)
        return
    for (task, part), episode in zip(parts, episodes, strict=True):
        yield task, part, finished_record(episode, part.person, provenance(task, part)) if len(episode.time) else "the simulation diverged in its first step"


def _stored(task: Task, record: xr.Dataset | str, person: xr.Dataset) -> Outcome:
    if isinstance(record, str):
        return Outcome(task.name, error=record)
    RecordStore(task.store).write(task.name, record, person)
    frames = record.sizes["time"]
    return Outcome(task.name, True, frames / CONTROL_RATE, 0.0, frames, int(record["valid"].values.sum()), int(record["failed"].values.sum()))


def finished_record(episode: Episode, person: xr.Dataset, attrs: Mapping[str, Any]) -> xr.Dataset:
    """The record of an episode with markers, checks and figures."""
    tree, frames = tree_of(person), len(episode.time)
    parts = [_recorded(episode.part(slice(first, first + _AT_ONCE)), person, tree) for first in range(0, frames, _AT_ONCE)]
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    arrays["failed"] = np.maximum.accumulate(arrays["failed"])
    return record_from(arrays, episode.time, person, {**attrs, **_figures(arrays, [str(b) for b in person["body"].values])})


def _recorded(episode: Episode, person: xr.Dataset, tree: BodyTree) -> dict[str, NDArray[Any]]:
    arrays = episode_arrays(episode, person, tree)
    return arrays | checks(arrays, tree, float(person.attrs["height"]))


def provenance(task: Task, part: Part) -> dict[str, Any]:
    """What a record says of where it came from."""
    body = {"body": str(part.person.attrs["name"]), "height": float(part.person.attrs["height"]), "mass": float(part.person.attrs["mass"])}
    clip = {name: getattr(task.clip, name) for name in ("activity", "person", "source", "held_out", "may_train")}
    settings = {"timestep": TIMESTEP, "substeps": SUBSTEPS, "rate": CONTROL_RATE, "imdy_version": version("imdy-plugin")}
    return {**task.key, **clip, **settings, **body, "reference_frames": len(part.reference) - 1}


def _figures(arrays: Mapping[str, NDArray[Any]], bodies: Sequence[str]) -> dict[str, Any]:
    valid, failed = arrays["valid"], arrays["failed"]
    touched = (arrays["ground_force"] != 0.0).any(axis=(0, 2))
    return {
        "frames": int(valid.size),
        "valid_frames": int(valid.sum()),
        "failed_frames": int(failed.sum()),
        "usable_frames": int((valid & ~failed).sum()),
        "mean_joint_error": float(arrays["joint_error"][~failed].mean()) if not failed.all() else None,
        "largest_residual": float(max(arrays["residual_force"].max(), arrays["residual_moment"].max())),
        "bodies_touched": [body for body, there in zip(bodies, touched, strict=True) if there],
    }


def jobs_of(tasks: Sequence[Task], worlds: int = 1) -> list[list[Task]]:
    """Tasks in the portions that a process gets: the episodes of one clip, or as many as share a simulation."""
    if worlds > 1:
        return [list(tasks[first : first + worlds]) for first in range(0, len(tasks), worlds)]
    return [list(group) for _, group in groupby(tasks, key=lambda task: task.clip.name)]


@dataclass(frozen=True)
class _Job:
    """A portion of work, ready to travel; clips and imitators may hold functions that plain pickle refuses."""

    names: tuple[str, ...]
    packed: bytes

    @classmethod
    def of(cls, tasks: Sequence[Task], worlds: int) -> _Job:
        import cloudpickle  # type: ignore[import-untyped]

        return cls(tuple(task.name for task in tasks), cloudpickle.dumps((list(tasks), worlds)))

    def run(self) -> list[Outcome]:
        return collect_together(*pickle.loads(self.packed))


def _in_processes(jobs: Sequence[_Job], workers: int) -> Iterator[Outcome]:
    left = list(jobs)
    for _ in range(_RESTARTS):
        if not left:
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(left)), context, initializer=_begin_worker) as pool:
            futures = {pool.submit(job.run): job for job in left}
            try:
                for future in as_completed(futures):
                    outcomes = future.result()
                    left.remove(futures[future])
                    yield from outcomes
            except BrokenProcessPool:
                continue
    if left:
        raise SolverError(f"worker processes died {_RESTARTS} times (short of memory?); {len(left)} clips are missing, run the same again to go on")


def _begin_worker() -> None:
    """Let a worker process keep to one processor, and end when the one that started it does, however it ended."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=watch, daemon=True).start()


def _on_dask(jobs: Sequence[_Job], scheduler: str) -> Iterator[Outcome]:
    from distributed import Client
    from distributed import as_completed as completed

    with Client(scheduler, set_as_default=False) as client:  # type: ignore[no-untyped-call]
        futures = {client.submit(job.run, key=f"imdy-{job.names[0]}", pure=False, retries=_RESTARTS): job for job in jobs}
        for future in completed(list(futures), loop=client.loop):  # type: ignore[no-untyped-call]
            error = future.exception()
            yield from future.result() if error is None else [Outcome(name, error=_told(error)) for name in futures[future].names]
            future.release()
