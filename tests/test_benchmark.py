from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "end_to_end.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    if not SCRIPT.is_file():
        pytest.skip("the benchmarks are not beside the tests")
    spec = importlib.util.spec_from_file_location("end_to_end", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["end_to_end"] = module
    spec.loader.exec_module(module)
    return module


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
