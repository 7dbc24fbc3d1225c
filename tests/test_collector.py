"""Collecting: what is in the store after whatever happens while it is filled."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from imdy_plugin.adapters.smpl.amass import write_amass
from imdy_plugin.cli import app
from imdy_plugin.errors import InputError, SolverError
from imdy_plugin.sim.backends.base import DivergedError
from imdy_plugin.sim.backends.mujoco import MujocoBackend
from imdy_plugin.sim.collector import Task, collect, collect_together, jobs_of, plan
from imdy_plugin.sim.file_clips import file_clips
from imdy_plugin.sim.records import RecordStore, open_store
from imdy_plugin.sim.throughput import collection_costs
from imdy_plugin.sim.variation import Variation, sole_heights

_PEOPLE = '''
"""Clips and an imitator that processes of their own can import."""

from dataclasses import dataclass

import numpy as np

from imdy_plugin.adapters.smpl.motion import BodyMotion
from imdy_plugin.errors import InputError
from imdy_plugin.sim.backends.mujoco import MujocoBackend
from imdy_plugin.sim.collector import plan
from imdy_plugin.sim.humanoid import joint_angles, state_of
from imdy_plugin.sim.imitator.base import Controller, Imitator
from imdy_plugin.sim.standin import build_standin
from imdy_plugin.sim.variation import Variation


@dataclass(frozen=True)
class Swing:
    """Standing while the arms swing; where ``falls`` is set the reference runs away."""

    name: str
    frames: int = 20
    speed: float = 0.0
    activity: str = "swing"
    person: str = "made/up"
    source: str = "made"
    held_out: bool = False
    may_train: bool = True
    broken: str = ""

    def load(self):
        if self.broken:
            raise InputError(self.broken)
        person = build_standin(1.7, 70.0)
        time = np.arange(self.frames + 1) / 60.0
        rotation = np.zeros((len(time), 24, 4))
        angle = 0.5 * np.sin(2 * np.pi * time + len(self.name))
        rotation[..., 0] = 1.0
        rotation[:, 17, 0], rotation[:, 17, 3] = np.cos(angle), np.sin(angle)
        root = np.zeros((len(time), 3))
        root[:, 0], root[:, 1] = self.speed * time, float(person["coordinate_default"].values[1])
        return BodyMotion(time, root, rotation, self.name), person


class Hold(Imitator):
    """Asks each joint for the angle that the reference has next."""

    name = "hold"

    def begin(self, person, reference, seed=0):
        return Holding(joint_angles(state_of(reference)[0]))


class Holding(Controller):
    def __init__(self, angles):
        self.angles = angles

    def target(self, frame, position, velocity):
        return self.angles[frame + 1]


CLIPS = [Swing(f"made/{n:02d}", frames=15 + n) for n in range(5)]
VARIATIONS = [Variation(), Variation("noisy", height=1.05, target_noise=0.05, start_noise=0.02)]


def tasks(store):
    return plan(CLIPS, [Hold()], store, MujocoBackend(), VARIATIONS)

'''


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module above, where processes find it."""
    (tmp_path / "collected_people.py").write_text(_PEOPLE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    import collected_people

    yield collected_people
    del sys.modules["collected_people"]


def _content(store: Path) -> dict[str, bytes]:
    return {str(p.relative_to(store)): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


def test_a_collection_holds_every_episode_once_and_is_not_repeated(people: Any, tmp_path: Path) -> None:
    tasks = people.tasks(tmp_path / "store")
    report = collect(tasks, workers=1)
    assert len(report.collected) == len(tasks) == 10
    assert report.total("frames") == 2 * sum(c.frames for c in people.CLIPS) + sum(
        RecordStore(tmp_path / "store").attrs(t.name)["reference_frames"] - t.clip.frames for t in tasks
    )
    assert report.total("valid") == report.total("frames")
    assert "valid 100.00 %" in report.lines()[2]
    before = _content(tmp_path / "store")
    again = collect(tasks, workers=1)
    assert (again.skipped, again.outcomes) == (10, [])
    assert _content(tmp_path / "store") == before
    assert open_store(tmp_path / "store").names() == sorted(t.name for t in tasks)


def test_what_is_collected_says_where_it_came_from(people: Any, tmp_path: Path) -> None:
    task = people.tasks(tmp_path / "store")[1]
    collect([task], workers=1)
    store = open_store(tmp_path / "store")
    attrs = store.attrs(task.name)
    told = {"clip": "made/00", "imitator": "hold", "backend": "mujoco", "variation": "noisy", "seed": 0, "activity": "swing", "source": "made"}
    assert told.items() <= attrs.items()
    assert attrs["variation_options"]["target_noise"] == 0.05
    assert attrs["height"] == pytest.approx(1.05 * 1.7)
    assert {"left_ankle", "right_ankle"} <= set(attrs["bodies_touched"])
    still = store.open(task.name)["target"].sel(joint="left_knee").values
    assert 0.02 < still.std() < 0.1


def test_episodes_come_out_the_same_alone_together_and_in_processes(people: Any, tmp_path: Path) -> None:
    for folder, options in {"alone": {"workers": 1}, "together": {"workers": 1, "worlds": 5}, "processes": {"workers": 2}}.items():
        collect(people.tasks(tmp_path / folder)[:6], **options)
    alone = _content(tmp_path / "alone")
    assert len(alone) > 6
    assert alone == _content(tmp_path / "together") == _content(tmp_path / "processes")


def test_a_killed_collection_loses_and_doubles_nothing(people: Any, tmp_path: Path) -> None:
    """Killed at random moments, as often as it takes, the store ends up with the same bytes as without."""
    collect(people.tasks(tmp_path / "whole"), workers=1)
    store, rng = tmp_path / "killed", np.random.default_rng(0)
    seen = []
    for _ in range(4):
        process = multiprocessing.get_context("fork").Process(target=collect, args=(people.tasks(store),), kwargs={"workers": 1})
        process.start()
        _wait_for_more(store, process)
        time.sleep(float(rng.uniform(0.0, 0.08)))
        process.kill()
        process.join()
        seen.append(len(RecordStore(store).names()))
        assert all((store / p.name).read_bytes() == (tmp_path / "whole" / p.name).read_bytes() for p in store.glob("*.zip"))
    assert 0 < seen[0] < 10
    collect(people.tasks(store), workers=1)
    assert _content(store) == _content(tmp_path / "whole")


def _wait_for_more(store: Path, process: BaseProcess) -> None:
    before = len(RecordStore(store).names())
    while len(RecordStore(store).names()) == before and process.is_alive():
        time.sleep(0.005)


def test_what_a_dead_process_left_half_written_is_cleared_away(people: Any, tmp_path: Path) -> None:
    tasks = people.tasks(tmp_path / "store")[:1]
    half = tmp_path / "store" / ".partial"
    half.mkdir(parents=True)
    for suffix in (".zarr.zip", ".lock"):
        (half / f"{tasks[0].name}{suffix}").write_text("half")
    assert RecordStore(tmp_path / "store").names() == []
    assert len(collect(tasks, workers=1).collected) == 1
    assert list(half.iterdir()) == []


def test_an_episode_that_somebody_is_at_is_left_to_them(people: Any, tmp_path: Path) -> None:
    task = people.tasks(tmp_path / "store")[0]
    store = RecordStore(tmp_path / "store")
    with store.claimed(task.name) as ours:
        assert ours
        (outcome,) = collect_together([task])
        assert not outcome.collected
        assert not outcome.error
        assert task.name not in store
    (outcome,) = collect_together([task])
    assert outcome.collected


def test_two_collections_share_a_store(people: Any, tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    both = [fork.Process(target=collect, args=(people.tasks(tmp_path / "store"),), kwargs={"workers": 1}) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    collect(people.tasks(tmp_path / "alone"), workers=1)
    assert _content(tmp_path / "store") == _content(tmp_path / "alone")


def test_an_episode_that_cannot_be_made_does_not_stop_the_others(people: Any, tmp_path: Path) -> None:
    clips = [people.CLIPS[0], replace(people.CLIPS[1], broken="the file is torn"), replace(people.CLIPS[2], frames=0)]
    tasks = plan(clips, [people.Hold()], tmp_path / "store", MujocoBackend(), [Variation()])
    report = collect(tasks, workers=1)
    assert [o.name for o in report.collected] == [tasks[0].name]
    assert "the file is torn" in report.errors[tasks[1].name]
    assert "fewer than two frames" in report.errors[tasks[2].name]
    assert any("the file is torn" in line for line in report.lines())


def test_a_person_who_fails_is_followed_for_a_while_and_no_longer(people: Any, tmp_path: Path) -> None:
    runaway = people.Swing("made/runaway", frames=240, speed=2.0)
    (task,) = plan([runaway], [people.Hold()], tmp_path / "store", MujocoBackend(), [Variation()])
    collect([task], workers=1)
    record = open_store(tmp_path / "store").open(task.name)
    failed = record["failed"].values
    first = int(np.argmax(failed))
    assert 0.5 < record["joint_error"].values[first] < 0.6
    assert failed[first:].all()
    assert 30 <= len(failed) - first <= 30 + 30
    assert record.attrs["failed_frames"] == failed.sum()


class Bursting(MujocoBackend):
    """Diverges in the chosen worlds at a chosen step."""

    def __init__(self, at: int, worlds: tuple[int, ...]) -> None:
        self.at, self.chosen = at, worlds

    def start(self, *args: Any, **kwargs: Any) -> Any:
        simulation = super().start(*args, **kwargs)
        plain, count = simulation.step_towards, iter(range(10**6))

        def step(target: Any, substeps: int = 1) -> Any:
            record = plain(target, substeps)
            if next(count) == self.at:
                raise DivergedError("burst", self.chosen, record)
            return record

        simulation.step_towards = step  # type: ignore[method-assign]
        return simulation


def test_a_world_that_diverges_keeps_what_came_before_and_disturbs_nobody(people: Any, tmp_path: Path) -> None:
    clips = people.CLIPS[:3]
    tasks = plan(clips, [people.Hold()], tmp_path / "store", Bursting(8, (1,)), [Variation()])
    report = collect(tasks, workers=1, worlds=3)
    assert [o.frames for o in report.outcomes] == [15, 8, 17]
    assert [o.valid for o in report.outcomes] == [15, 8, 17]
    first = plan(clips[:1], [people.Hold()], tmp_path / "first", Bursting(0, (0,)), [Variation()])
    assert "diverged in its first step" in collect(first, workers=1).errors[first[0].name]


def test_names_that_would_collide_are_refused(people: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="twice"):
        plan([people.CLIPS[0]] * 2, [people.Hold()], tmp_path, MujocoBackend())


def test_portions_keep_the_episodes_of_a_clip_together(people: Any, tmp_path: Path) -> None:
    tasks = people.tasks(tmp_path)
    assert [len(job) for job in jobs_of(tasks)] == [2] * 5
    assert all(len({t.clip.name for t in job}) == 1 for job in jobs_of(tasks))
    assert [len(job) for job in jobs_of(tasks, worlds=6)] == [6, 4]


def test_workers_that_keep_dying_are_an_error_with_what_is_missing(people: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imdy_plugin.sim.collector._RESTARTS", 1)
    (tmp_path / "killing.py").write_text(
        "import os, signal\nfrom imdy_plugin.sim.backends.mujoco import MujocoBackend\n"
        "class Killing(MujocoBackend):\n    def start(self, *args, **kwargs):\n        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    import killing

    tasks = [replace(t, backend=killing.Killing()) for t in people.tasks(tmp_path / "store")[:1]]
    with pytest.raises(SolverError, match="worker processes died"):
        collect(tasks, workers=2)


@pytest.mark.slow
def test_a_dask_cluster_does_the_same_though_a_worker_is_killed(people: Any, tmp_path: Path) -> None:
    from distributed import LocalCluster

    collect(people.tasks(tmp_path / "here"), workers=1)
    store = tmp_path / "there"
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        victim = next(iter(cluster.workers.values())).pid
        killer = subprocess.Popen([sys.executable, "-c", _KILL_HALF_WAY, str(store), str(victim)])
        report = collect(people.tasks(store), scheduler=cluster.scheduler_address)
        assert killer.wait() == 0
    assert not report.errors
    assert _content(store) == _content(tmp_path / "here")


_KILL_HALF_WAY = """
import os, pathlib, signal, sys, time
while len(list(pathlib.Path(sys.argv[1]).glob("*.zip"))) < 4:
    time.sleep(0.005)
os.kill(int(sys.argv[2]), signal.SIGKILL)
"""


def test_a_task_describes_itself(people: Any, tmp_path: Path) -> None:
    task: Task = people.tasks(tmp_path)[0]
    assert task.name.startswith("made_00-hold-plain-")
    assert replace(task, seed=1).name != task.name
    assert replace(task, variation=Variation("plain", mass=1.1)).name != task.name


def test_costs_are_told_part_by_part(people: Any, tmp_path: Path) -> None:
    costs = collection_costs(people.tasks(tmp_path)[0], repeats=1)
    assert set(costs.parts) == {"load", "begin", "start", "simulate", "record", "store"}
    assert costs.frames == people.CLIPS[0].frames
    assert 0.0 < costs.bare < costs.parts["simulate"]
    assert 0.0 < costs.share_of_bare < 1.0
    assert costs.speed > 0.0
    assert list(tmp_path.glob("*.zip")) == []


@pytest.fixture
def poses(people: Any, tmp_path: Path) -> Path:
    """A motion file of poses, a metre above the floor and off the origin."""
    motion, _ = people.CLIPS[0].load()
    (tmp_path / "ann").mkdir()
    return write_amass(tmp_path / "ann" / "swing.npz", motion.placed(np.array([2.0, 1.0, 0.0])))


def test_motion_files_are_clips_on_the_floor(poses: Path) -> None:
    (clip,) = file_clips([poses.parent])
    assert (clip.name, clip.person) == ("ann/swing", "files/ann")
    motion, person = clip.load()
    assert abs(sole_heights(motion, person).min()) < 0.01
    assert len(motion) == 16
    assert person.attrs["height"] == pytest.approx(1.70)


def test_files_that_are_no_motions_are_refused(poses: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"unknown kind; motion files end in .bvh, .npz"):
        file_clips([tmp_path / "notes.txt"])
    with pytest.raises(InputError, match="does not exist"):
        file_clips([tmp_path / "nowhere.npz"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no motion"):
        file_clips([tmp_path / "empty"])
    (tmp_path / "other" / "ann").mkdir(parents=True)
    (tmp_path / "other" / "ann" / "swing.npz").write_bytes(poses.read_bytes())
    with pytest.raises(InputError, match="'ann/swing'"):
        file_clips([poses, tmp_path / "other"])


def test_the_command_line_collects_files_and_goes_on(people: Any, poses: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imdy_plugin.sim.imitator.named.find_imitator", lambda name: people.Hold())
    words = ["collect", str(poses), "--out", str(tmp_path / "store"), "--variations", "plain,mirrored", "--draw", "1", "--workers", "1"]
    first = CliRunner().invoke(app, words)
    assert first.exit_code == 0, first.output
    assert "3 episodes collected, 0 were there, 0 failed to run" in first.output
    assert "valid 100.00 %" in first.output
    again = CliRunner().invoke(app, words)
    assert "0 episodes collected, 3 were there" in again.output
    wrong = CliRunner().invoke(app, [*words, "--variations", "plane"])
    assert wrong.exit_code == 2
    assert "nearest: plain" in wrong.output
