from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import xarray as xr

from imdy_plugin.interfaces import LoadedModel, Trial
from imdy_plugin.registry import load_model
from imdy_plugin.schema import new_motion
from imdy_plugin.sim.person import write_person

FOLDER = Path(__file__).parent.parent / "benchmarks"


def load_script(name: str) -> ModuleType:
    if not (FOLDER / f"{name}.py").is_file():
        pytest.skip("the benchmarks are not beside the tests")
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load_script("end_to_end")


@pytest.fixture(scope="module")
def kinematics() -> ModuleType:
    return load_script("inverse_kinematics")


@pytest.fixture(scope="module")
def multibody() -> ModuleType:
    return load_script("multibody")


def markers(frames: int = 100, count: int = 10) -> xr.Dataset:
    names = [f"M{i}" for i in range(count)]
    return new_motion(np.arange(frames) / 100.0, markers=(names, np.random.default_rng(0).normal(size=(frames, count, 3))))


def test_every_part_that_is_timed_exists(benchmark: ModuleType) -> None:
    for part, owner, name in benchmark.PARTS:
        assert callable(getattr(benchmark.find(owner), name)), part


def test_time_inside_another_part_is_counted_once(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 3.0, 10.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    watch = benchmark.Stopwatch()
    with watch.part("outer"), watch.part("inner"):
        pass
    assert watch.seconds == {"inner": 2.0, "outer": 8.0}


def test_ratio_is_of_the_same_repetition_and_without_the_report(benchmark: ModuleType) -> None:
    runs = {
        "imdys": [{"reading": 1.0, "report": 50.0}, {"reading": 4.0}],
        "opensim tools": [{"inverse kinematics": 2.0}, {"inverse kinematics": 8.0}],
    }
    rows = {(r["runner"], r["part"]): r for r in benchmark.summarize(runs, frames=1000)}
    assert rows["imdys", "total"]["ratio"] == 0.5
    assert rows["imdys", "total"]["median"] == 2.5
    assert (rows["imdys", "total"]["low"], rows["imdys", "total"]["high"]) == (1.0, 4.0)
    assert rows["imdys", "report"]["high"] == 50.0


def test_as_many_markers_go_missing_as_asked_and_the_same_ones_each_time(kinematics: ModuleType) -> None:
    thinned = [kinematics.thin_out(markers(), 0.2, np.random.default_rng(seed))["marker_position"].values for seed in (1, 1, 2)]
    missing = [np.isnan(position).all(axis=2) for position in thinned]
    assert (missing[0].sum(axis=1) == 2).all() and missing[0].any(axis=0).sum() > 2
    assert (missing[0] == missing[1]).all() and (missing[0] != missing[2]).any()


def test_gaps_take_all_markers_for_as_long_as_they_say(kinematics: ModuleType) -> None:
    seen = np.isfinite(kinematics.interrupt(markers(400))["marker_position"].values).any(axis=(1, 2))
    assert (~seen).sum() / 100.0 == pytest.approx(sum(kinematics.GAPS), abs=0.011)
    assert seen[0] and seen[-1] and (np.diff(seen.astype(int)) == -1).sum() == len(kinematics.GAPS)


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LoadedModel]:
    path = write_person(tmp_path_factory.mktemp("model") / "person.osim")
    return path, load_model(path)


def test_an_answer_that_is_wrong_is_seen_in_markers_and_forces(kinematics: ModuleType, person: tuple[Path, LoadedModel]) -> None:
    path, loaded = person
    mechanics = kinematics.mechanics_of(path)
    time = np.arange(60) / 100.0
    value = np.tile(mechanics.couple(mechanics.default_values[None])[0], (60, 1))
    position = mechanics.marker_positions(value)
    position[:, 0] = np.nan
    motion = new_motion(time, markers=(mechanics.markers, position))
    case = kinematics.Case("data__trial", path, loaded.dataset, Trial(motion, loaded.dataset), motion, mechanics.markers)
    right, wrong = kinematics.Answer(value, 1.0, 1.0), kinematics.Answer(kinematics.spoil(case, value), 0.5, 0.5)
    same, spoiled = kinematics.compare(case, right, right), kinematics.compare(case, right, wrong)
    assert same["frames_worse"] == 0 and same["excess_largest"] == 0.0 and max(same["force"].values()) == 0.0
    assert spoiled["frames_worse"] > 30 and spoiled["force"]["knee_angle_r"] > 1e-4 and spoiled["ratio"] == 2.0
    assert same["control_frames_worse"] > 0.5
    assert "data" in kinematics.summarize([same]) and "by at most" in kinematics.summarize([spoiled])


def test_times_are_compared_within_each_repetition(multibody: ModuleType) -> None:
    spent = {
        "OpenSim": [multibody.Cost(10.0, 9.0), multibody.Cost(40.0, 9.0)],
        "ours": [multibody.Cost(1.0, 3.0), multibody.Cost(2.0, 3.0)],
    }
    rows = {row["runner"]: row for row in multibody.rows_of("walk", "ik", spent, 100, "OpenSim")}
    assert (rows["ours"]["ratio"], rows["ours"]["low"], rows["ours"]["high"]) == (15.0, 10.0, 20.0)
    assert rows["ours"]["processor_ratio"] == 3.0 and "ratio" not in rows["OpenSim"]
    assert "| walk | ik | ours | 100 | 1500.0 | 15.0000 | 15 | 10 to 20 | 3 |" in multibody.to_markdown(list(rows.values()))


def test_a_longer_trial_is_the_same_one_there_and_back(multibody: ModuleType) -> None:
    once = markers(50)
    longer = multibody.lengthened(Trial(once), 200).motion["marker_position"].values
    assert len(longer) == 200
    np.testing.assert_array_equal(longer[:50], once["marker_position"].values)
    assert (longer[50] == longer[48]).all() and (longer[98] == longer[0]).all()
    assert np.allclose(np.abs(np.diff(longer, axis=0)).max(), np.abs(np.diff(longer[:50], axis=0)).max())
