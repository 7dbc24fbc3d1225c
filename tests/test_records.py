"""The record, its store, what is read of it and what is said of it."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from typer.testing import CliRunner

from imdy_plugin.cli import app
from imdy_plugin.errors import FileFormatError, InputError, UnknownNameError
from imdy_plugin.schema import validate_model, validate_motion
from imdy_plugin.sim.collector import finished_record
from imdy_plugin.sim.dynamics import place, tree_of
from imdy_plugin.sim.humanoid import BODIES
from imdy_plugin.sim.record_reader import chosen_episodes, export_sample, load_records
from imdy_plugin.sim.records import ROUNDING, VARIABLES, Episode, RecordStore, episode_name, open_store, position_of, velocity_of
from imdy_plugin.sim.standin import build_standin
from imdy_plugin.sim.statistics import statistics
from imdy_plugin.sim.validity import residual
from imdy_plugin.sim.zarr_writer import FixedPoint, write_group

FRAMES = 50


@pytest.fixture(scope="module")
def person() -> xr.Dataset:
    return build_standin(1.75, 75.0)


@pytest.fixture(scope="module")
def episode(person: xr.Dataset) -> Episode:
    """Smooth motion of the right size in all that is recorded; the forces do not belong to it."""
    rng = np.random.default_rng(0)
    time = np.arange(FRAMES) / 60.0

    def smooth(*shape: int) -> np.ndarray:
        phase = rng.uniform(0, 6, shape)
        return np.sin(3.0 * time.reshape(-1, *(1 for _ in shape)) + phase)

    half = 0.2 * smooth(24, 3)
    rotation = np.concatenate([np.sqrt(1 - (half**2).sum(axis=-1, keepdims=True)), half], axis=-1)
    root = smooth(3) + np.array([0.0, 1.0, 0.0])
    position = np.concatenate([root, rotation.reshape(FRAMES, -1)], axis=1)
    force = np.zeros((FRAMES, 24, 3))
    ankle = BODIES.index("left_ankle")
    force[10:30, ankle] = [20.0, 600.0, -15.0]
    point = np.array([0.4, 0.0, -0.2])
    moment = np.cross(np.broadcast_to(point, force.shape), force)
    moment[10:30, ankle, 1] += 7.0
    return Episode(
        BODIES,
        time,
        position,
        3 * smooth(75),
        0.3 * smooth(69),
        position,
        30 * smooth(75),
        50 * smooth(2, 69),
        force,
        moment,
        0.5 * force,
        0.5 * moment,
        1 / 120,
    )


_ATTRS = {
    "clip": "made/01",
    "activity": "walk",
    "person": "made/up",
    "source": "made",
    "held_out": False,
    "may_train": True,
    "imitator": "hold",
    "backend": "mujoco",
    "variation": "plain",
    "seed": 0,
    "rate": 60.0,
    "body": "standin",
    "reference_frames": FRAMES,
}


@pytest.fixture
def record(episode: Episode, person: xr.Dataset) -> xr.Dataset:
    made = finished_record(episode, person, _ATTRS)
    return made.assign(valid=("time", np.ones(FRAMES, bool)), failed=("time", np.zeros(FRAMES, bool))).assign_attrs(
        valid_frames=FRAMES, failed_frames=0, usable_frames=FRAMES, mean_joint_error=0.02
    )


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    return RecordStore(tmp_path / "store")


@pytest.fixture
def add(store: RecordStore, record: xr.Dataset, person: xr.Dataset) -> Callable[..., str]:
    """Adds an episode with other attributes."""

    def added(changed: xr.Dataset | None = None, **attrs: object) -> str:
        made = (record if changed is None else changed).assign_attrs(attrs)
        name = episode_name({k: made.attrs[k] for k in ("clip", "imitator", "variation", "seed")})
        with store.claimed(name) as ours:
            assert ours
            store.write(name, made, person)
        return name

    return added


def test_a_record_is_a_lawful_motion_of_what_happened(record: xr.Dataset, episode: Episode, person: xr.Dataset) -> None:
    validate_motion(record)
    assert set(VARIABLES) == set(record.data_vars)
    joint, body = [str(j) for j in record["joint"].values], [str(b) for b in record["body"].values]
    np.testing.assert_allclose(record["torque"].values[:, 1, joint.index("neck")], episode.torque[:, 1, 3 * BODIES[1:].index("neck") :][:, :3], atol=1e-3)
    spin = episode.velocity[:, 3:].reshape(FRAMES, 24, 3)[:, BODIES.index("right_knee")]
    np.testing.assert_allclose(record["angular_velocity"].values[:, body.index("right_knee")], spin, atol=1e-6)
    np.testing.assert_allclose(record["angular_impulse"].values, record["torque"].values.sum(axis=1) / 120, atol=2e-3)
    for variable in record.variables.values():
        assert "units" in variable.attrs or variable.dtype.kind in "bU"


def test_positions_read_back_place_the_bodies_as_before(record: xr.Dataset, episode: Episode, person: xr.Dataset) -> None:
    before = place(tree_of(person, BODIES), episode.position)
    after = place(tree_of(person), position_of(record))
    order = [BODIES.index(str(b)) for b in record["body"].values]
    np.testing.assert_allclose(after.origin + after.root, before.origin[:, order] + before.root, atol=1e-6)
    assert velocity_of(record).shape == (FRAMES, 75)


def test_force_centre_and_free_moment_are_the_ground_s_wrench(record: xr.Dataset, episode: Episode) -> None:
    for prefix, share in (("", 1.0), ("mean_", 0.5)):
        force, point, free = (record[f"{prefix}{name}"].sel(body="left_ankle").values for name in ("ground_force", "center_of_pressure", "free_moment"))
        np.testing.assert_allclose(point[10:30], np.broadcast_to([0.4, 0.0, -0.2], (20, 3)), atol=1e-4)
        np.testing.assert_allclose(free[10:30], np.broadcast_to([0.0, 7.0 * share, 0.0], (20, 3)), atol=1e-2)
        moment = np.cross(point, force) + free
        np.testing.assert_allclose(moment, share * episode.ground_moment[:, BODIES.index("left_ankle")], atol=1e-3)
        assert not force[:10].any()
        assert not point[:10].any()


def test_what_is_read_is_what_was_checked(record: xr.Dataset, person: xr.Dataset, store: RecordStore, add: Callable[..., str]) -> None:
    """To the last bit, so that a check of the record is a check of the file."""
    opened = store.open(add())
    xr.testing.assert_identical(opened.load(), record)
    np.testing.assert_array_equal(residual(opened, person).moment.astype(np.float32), record["residual_moment"].values)


def test_a_store_is_read_by_other_programs(record: xr.Dataset, store: RecordStore, add: Callable[..., str]) -> None:
    group = zarr.open_group(zarr.storage.ZipStore(store.path(add()), mode="r"), mode="r")
    raw = np.asarray(group["torque"][:])
    assert raw.dtype == np.int32
    np.testing.assert_array_equal(raw * group["torque"].attrs["scale_factor"], record["torque"].values)
    assert [str(b) for b in group["body"][:]] == [str(b) for b in record["body"].values]


def test_the_person_comes_back_as_it_was(person: xr.Dataset, store: RecordStore, add: Callable[..., str]) -> None:
    name = add()
    found = store.person(name)
    validate_model(found)
    xr.testing.assert_identical(found, person)
    with zipfile.ZipFile(store.path(name), "w") as archive:
        archive.writestr("person.json.gz", gzip.compress(b"{}"))
    with pytest.raises(FileFormatError, match="no complete episode"):
        store.person(name)


def test_large_numbers_take_more_bits_and_small_ones_round(tmp_path: Path) -> None:
    values = np.array([[1e9, -3.0000001], [0.125, 1e-9], [7.0, 2.5]])
    dataset = xr.Dataset({"a": (("time", "axis"), values), "s": ((), 3.5)}, coords={"time": np.arange(3.0)})
    write_group(tmp_path / "g", dataset, {"a": FixedPoint(4, 2, True)})
    read = xr.open_zarr(zarr.storage.ZipStore(tmp_path / "g", mode="r")).load()
    np.testing.assert_array_equal(read["a"].values, [[1e9, -3.0], [0.125, 0.0], [7.0, 2.5]])
    assert float(read["s"]) == 3.5
    np.testing.assert_array_equal(FixedPoint(4).rounded(values), read["a"].values)


def test_a_minute_is_less_than_five_megabytes(episode: Episode, person: xr.Dataset, tmp_path: Path) -> None:
    """Of smooth motion with noise far above what is rounded away in half of it."""
    rng = np.random.default_rng(1)
    times = np.arange(1200) / 60.0

    def longer(array: np.ndarray, noise: float) -> np.ndarray:
        pieces = np.concatenate([array, array[::-1]] * 12)
        return pieces + noise * rng.normal(size=pieces.shape)

    noisy = {"position": 0.0, "velocity": 1e-3, "target": 1e-3, "reference": 0.0, "acceleration": 0.1, "torque": 0.1}
    arrays = {name: longer(getattr(episode, name), noise) for name, noise in noisy.items()}
    arrays |= {n: longer(getattr(episode, n), 0.0) for n in ("ground_force", "ground_moment", "mean_ground_force", "mean_ground_moment")}
    long = Episode(BODIES, times, timestep=1 / 120, **arrays)
    write_group(tmp_path / "minute", finished_record(long, person, _ATTRS), ROUNDING)
    assert 3 * (tmp_path / "minute").stat().st_size < 5e6


def test_names_tell_and_never_collide() -> None:
    key = {"clip": "cmu/07_01", "imitator": "tracker", "variation": "plain", "seed": 0}
    assert episode_name(key).startswith("cmu_07_01-tracker-plain-")
    others = [key | {"clip": "cmu_07_01"}, key | {"seed": 1}, key | {"imitator": "tracker-plain", "variation": ""}]
    assert len({episode_name(k) for k in [key, *others]}) == 4
    assert "/" not in episode_name(key | {"clip": "../../etc/passwd"})


def test_a_store_that_is_none_and_an_episode_that_is_not_there(store: RecordStore, add: Callable[..., str]) -> None:
    with pytest.raises(InputError, match="imdy collect --out"):
        open_store(store.folder)
    name = add()
    with pytest.raises(UnknownNameError, match=name):
        store.open(name[:-1])
    store.path(name).write_bytes(store.path(name).read_bytes()[:-100])
    for read in (store.attrs, store.open, store.person):
        with pytest.raises(FileFormatError, match="delete the file and collect again"):
            read(name)


def test_a_claim_is_one_process_s_and_ends_with_it(store: RecordStore) -> None:
    with store.claimed("x") as first, store.claimed("x") as second:
        assert (first, second) == (True, False)
    with store.claimed("x") as again:
        assert again
    assert list((store.folder / ".partial").iterdir()) == []


def test_the_manifest_is_made_from_what_is_there(store: RecordStore, add: Callable[..., str]) -> None:
    names = [add(clip=f"made/{n}") for n in range(3)]
    assert set(json.loads(store.write_manifest().read_text())) == set(names)
    assert list((store.folder / ".partial").iterdir()) == []
    store.write_manifest().write_text("{}")
    assert set(store.manifest()) == set(names)


def test_training_reads_only_what_is_data(record: xr.Dataset, store: RecordStore, add: Callable[..., str]) -> None:
    valid, failed = np.ones(FRAMES, bool), np.arange(FRAMES) >= 40
    valid[20] = False
    add(record.assign(valid=("time", valid), failed=("time", failed)))
    pieces = list(load_records(store))
    assert [(p.attrs["first_frame"], p.sizes["time"]) for p in pieces] == [(0, 20), (21, 19)]
    np.testing.assert_array_equal(pieces[1]["torque"].values, record["torque"].values[21:40])
    windows = list(load_records(store, window=8, stride=4, variables=["torque"]))
    assert [w.attrs["first_frame"] for w in windows] == [0, 4, 8, 12, 21, 25, 29]
    assert {w.sizes["time"] for w in windows} == {8}
    assert list(windows[0].data_vars) == ["torque"]
    assert [p.sizes["time"] for p in load_records(store, valid=False)] == [FRAMES]


def test_held_out_clips_people_and_licences_are_kept_apart(store: RecordStore, add: Callable[..., str]) -> None:
    for n in range(12):
        add(clip=f"made/{n}", person=f"made/{n // 2}", held_out=n == 3, may_train=n != 5)
    manifest = store.manifest()
    clips = {split: {manifest[n]["clip"] for n in chosen_episodes(manifest, split)} for split in ("train", "held_out", "all")}
    assert clips["held_out"] == {"made/3"}
    assert clips["train"] == clips["all"] - {"made/3", "made/5"}
    people = {split: {manifest[n]["person"] for n in chosen_episodes(manifest, split, "person")} for split in ("train", "held_out")}
    assert len(people["held_out"]) == 1
    assert not people["held_out"] & people["train"]
    assert sum(1 for _ in load_records(store, "held_out")) == 1


def test_nonsense_is_refused_before_anything_is_read(store: RecordStore, add: Callable[..., str]) -> None:
    add()
    with pytest.raises(InputError, match="splits are train"):
        load_records(store, "test")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="window 0"):
        load_records(store, window=0)
    with pytest.raises(UnknownNameError, match="torque"):
        load_records(store, variables=["torques"])


def test_statistics_count_people_hours_and_failures(store: RecordStore, add: Callable[..., str]) -> None:
    add(clip="made/1", body="a", usable_frames=40, valid_frames=45, failed_frames=5)
    add(clip="made/2", body="b", activity="run", mean_joint_error=0.04)
    add(clip="made/2", body="c", variation="tall", activity="run", mean_joint_error=None, failed_frames=FRAMES, usable_frames=0)
    found = statistics(store)
    assert (found.episodes, found.clips, found.people, found.bodies, found.complete) == (3, 2, 1, 3, 1)
    assert (found.frames, found.usable, found.failed, found.valid) == (150, 90, 55, 145)
    assert found.hours == pytest.approx(150 / 60 / 3600)
    assert found.hours_by["activity"] == pytest.approx({"walk": 40 / 216000, "run": 50 / 216000})
    assert found.joint_error == pytest.approx((0.02 * 45 + 0.04 * 50) / 95)
    assert found.touched == {"left_ankle": 3}
    assert found.row("x")[:3] == ("x", "3", "0.00")


def test_a_sample_takes_the_best_of_each_activity(store: RecordStore, add: Callable[..., str], tmp_path: Path) -> None:
    add(clip="made/walk", mean_joint_error=0.01)
    add(clip="made/other", mean_joint_error=0.02)
    add(clip="made/run", activity="run", mean_joint_error=0.3)
    add(clip="made/secret", activity="jump", may_train=False)
    sample = export_sample(store, tmp_path / "sample", seconds=1.5)
    assert {sample.attrs(n)["clip"] for n in sample.names()} == {"made/walk", "made/run"}
    xr.testing.assert_identical(sample.open(sample.names()[0]).load(), store.open(sample.names()[0]).load())
    with pytest.raises(InputError, match="already"):
        export_sample(store, tmp_path / "sample")


def test_the_command_line_tells_of_a_store_and_samples_it(store: RecordStore, add: Callable[..., str], tmp_path: Path) -> None:
    add()
    told = CliRunner().invoke(app, ["dataset", "info", str(store.folder)])
    assert told.exit_code == 0, told.output
    for wanted in ("1 episodes of 1 clips", "valid 100.000 %", "AddBiomech", "57.6", "hours by activity: walk"):
        assert wanted in told.output
    sampled = CliRunner().invoke(app, ["dataset", "export-sample", str(store.folder), str(tmp_path / "sample")])
    assert sampled.exit_code == 0, sampled.output
    assert open_store(tmp_path / "sample").names() == store.names()
    missing = CliRunner().invoke(app, ["dataset", "info", str(tmp_path / "nothing")])
    assert missing.exit_code == 2
    assert "holds no episodes" in missing.output
