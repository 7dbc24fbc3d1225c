"""A minute of the data set as it was collected: what it holds, and that its equations of motion close."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from imdy_plugin.schema import GRAVITY
from imdy_plugin.sim.record_reader import load_records
from imdy_plugin.sim.records import RecordStore
from imdy_plugin.sim.statistics import statistics
from imdy_plugin.sim.validity import residual

SAMPLE = Path(__file__).parent / "imdy_sample"


@pytest.fixture(scope="module")
def store() -> RecordStore:
    return RecordStore(SAMPLE)


def _walks(store: RecordStore) -> list[xr.Dataset]:
    return [store.open(name) for name in store.names() if store.attrs(name)["activity"] == "walk"]


def test_every_frame_obeys_the_equations_of_motion(store: RecordStore) -> None:
    for name in store.names():
        assert residual(store.open(name), store.person(name)).valid.all(), name


@pytest.mark.parametrize("change", [("torque", 1.001), ("ground_force", 0.999)])
def test_a_record_that_is_a_thousandth_wrong_is_found(store: RecordStore, change: tuple[str, float]) -> None:
    variable, factor = change
    name = store.names()[-1]
    wrong = store.open(name).load().copy(deep=True)
    wrong[variable] = wrong[variable] * factor
    loaded = np.linalg.norm(wrong["ground_force"].values, axis=-1).sum(axis=1) > 1.0
    assert loaded.sum() > 20
    assert not residual(wrong, store.person(name)).valid[loaded].any()


def test_it_holds_a_minute_of_several_activities(store: RecordStore) -> None:
    found = statistics(store)
    assert sum(store.open(name).sizes["time"] for name in store.names()) / 60.0 == pytest.approx(58.0, abs=1.0)
    assert {store.attrs(name)["activity"] for name in store.names()} >= {"walk", "run", "jump", "dance"}
    assert found.hours == pytest.approx(58 / 3600, rel=0.05)
    assert sum(file.stat().st_size for file in SAMPLE.iterdir()) < 5_000_000


def test_walking_people_weigh_what_they_weigh(store: RecordStore) -> None:
    for walk in _walks(store):
        mean = float(walk["ground_force"].sel(axis="y").sum("body").mean())
        assert mean == pytest.approx(walk.attrs["mass"] * GRAVITY, rel=0.12)


def test_feet_alone_touch_the_ground_in_walking(store: RecordStore) -> None:
    for walk in _walks(store):
        touched = np.abs(walk["ground_force"].values).max(axis=(0, 2)) > 0
        assert all(str(body).endswith(("_ankle", "_foot")) for body in walk["body"].values[touched])


def test_windows_for_training_come_out(store: RecordStore) -> None:
    windows = list(load_records(store, window=30, stride=30))
    assert len(windows) >= 80
    assert all(w.sizes["time"] == 30 for w in windows)
