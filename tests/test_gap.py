"""Simulated beside recorded walking, on walks that are known beforehand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from imdy_plugin.adapters.smpl.motion import BodyMotion
from imdy_plugin.adapters.smpl.topology import JOINTS
from imdy_plugin.errors import DataWarning, InputError
from imdy_plugin.gait_cycle import GaitCycle
from imdy_plugin.references import Reference, read_reference
from imdy_plugin.schema import GRAVITY
from imdy_plugin.sim.dynamics import rotation_vectors
from imdy_plugin.sim.gap import LEG_JOINTS, Walk, headings, in_heading, leg_moments, low_pass, walk_of, walk_of_record
from imdy_plugin.sim.imitator.evaluation import Imitated
from imdy_plugin.sim.standin import build_standin
from imdy_plugin.sim_gap import (
    QUANTITIES,
    Gap,
    compare_walks,
    draw_gap,
    imitate_walks,
    person_of,
    recorded_cutoff,
    recorded_cycles,
    recorded_walk,
    simulated_cycles,
    stored_walks,
)

Array = NDArray[np.float64]

MASS, PERIOD, STANCE = 70.0, 1.1, 0.62


def _vertical(phase: Array, peak: float = 1.1) -> Array:
    """A vertical force with two peaks over stance [body weights], zero in swing."""
    share = phase / STANCE
    return np.where(share < 1, peak * (1.15 * np.sin(np.pi * share) + 0.3 * np.sin(3 * np.pi * share)), 0.0)


def _phases(time: Array) -> Array:
    """Phase of the right and the left foot's cycle, ``(time, foot)``."""
    return np.stack([(time / PERIOD) % 1.0, (time / PERIOD + 0.5) % 1.0], axis=-1)


def _walk(name: str = "sim/1", person: str = "sim/one", seconds: float = 6.0, rate: float = 100.0, peak: float = 1.1, moment: float = 1.0) -> Walk:
    time = 0.31 + np.arange(int(seconds * rate)) / rate
    phase = _phases(time)
    up = _vertical(phase, peak)
    force = np.stack([-0.18 * np.sin(2 * np.pi * phase / STANCE) * (phase < STANCE), up, -0.05 * up], axis=-1)
    moments = moment * np.stack([np.cos(2 * np.pi * phase), np.sin(2 * np.pi * phase), _vertical(phase)], axis=-1)
    return Walk(name, person, time, force, moments, MASS, 1.3)


def _reference(
    name: str, *, treadmill: bool = True, backwards_knee: bool = False, heading: float = 0.0, peak: float = 1.1, activity: str = "walk"
) -> Reference:
    """What :func:`_walk` is, as a reference answer; on the ground, only the first whole stance of each foot is on a plate."""
    walk = _walk(seconds=4.0, peak=peak)
    angle = np.full(len(walk.time), heading)
    knee = -1.0 if backwards_knee else 1.0
    columns = {"pelvis_rotation": angle, "pelvis_tx": 1.3 * np.cos(heading) * walk.time, "pelvis_tz": -1.3 * np.sin(heading) * walk.time}
    columns = {k: v * (0.0 if treadmill and k != "pelvis_rotation" else 1.0) for k, v in columns.items()}
    values, torques = dict(columns), dict.fromkeys(columns, 0 * angle)
    for foot, side in enumerate("rl"):
        values |= {f"hip_flexion_{side}": 0.2 + 0 * angle, f"knee_angle_{side}": knee * (0.5 + 0 * angle), f"ankle_angle_{side}": 0 * angle}
        extension = walk.moment[:, foot] * MASS
        torques |= {f"hip_flexion_{side}": -extension[:, 0], f"knee_angle_{side}": -knee * extension[:, 1], f"ankle_angle_{side}": -extension[:, 2]}
    ahead, right = np.array([np.cos(heading), 0.0, -np.sin(heading)]), np.array([np.sin(heading), 0.0, np.cos(heading)])
    outward = walk.force[..., 2:] * np.array([1.0, -1.0])[:, None]
    force = (walk.force[..., :1] * ahead + walk.force[..., 1:2] * np.array([0.0, 1.0, 0.0]) + outward * right) * MASS * GRAVITY
    touching = force[..., 1] > 20.0
    contact = touching.copy()
    if not treadmill:
        for foot in range(2):
            starts = np.flatnonzero(np.diff(touching[:, foot].astype(int)) == 1) + 1
            contact[: starts[0], foot] = contact[starts[1] :, foot] = False
        force = np.where(contact[..., None], force, 0.0)
    foot_axis = ("time", "foot", "axis")
    ds = xr.Dataset(
        {
            "ground_force": (foot_axis, force),
            "center_of_pressure": (foot_axis, 0 * force),
            "contact": (("time", "foot"), contact),
            "touching": (("time", "foot"), touching),
            "valid": ("time", np.ones(len(walk.time), bool)),
            "coordinate_value": (("time", "coordinate"), np.stack(list(values.values()), axis=-1)),
            "generalized_force": (("time", "coordinate"), np.stack(list(torques.values()), axis=-1)),
        },
        coords={"time": walk.time, "foot": ["right", "left"], "axis": list("xyz"), "coordinate": list(values)},
        attrs={"activity": activity, "mass": MASS, "subject": name, "belt_velocity_x": -1.3 if treadmill else 0.0},
    )
    return Reference(Path(f"made__{name}__1.nc"), ds)


# --- the simulated side ----------------------------------------------------------------------------------------------------------------------------


def _still(frames: int, turned: dict[str, tuple[float, float, float]] | None = None) -> BodyMotion:
    rotation = np.tile([1.0, 0.0, 0.0, 0.0], (frames, len(JOINTS), 1))
    for joint, vector in (turned or {}).items():
        rotation[:, JOINTS.index(joint)] = Rotation.from_rotvec(vector).as_quat(scalar_first=True)
    return BodyMotion(np.arange(frames) / 60.0, np.zeros((frames, 3)), rotation, "still")


@pytest.mark.parametrize(("joint", "sign"), [("hip", -1.0), ("knee", 1.0), ("ankle", -1.0)])
@pytest.mark.parametrize("side", ["right", "left"])
def test_extension_is_positive(joint: str, sign: float, side: str) -> None:
    """A positive turn about the axis to the right swings the thigh forward, stretches the knee and lifts the toes."""
    torque = np.zeros((4, 23, 3))
    torque[:, JOINTS.index(f"{side}_{joint}") - 1, 2] = 10.0
    moments = leg_moments(_still(5), torque)
    expected = np.zeros_like(moments)
    expected[:, ["right", "left"].index(side), LEG_JOINTS.index(joint)] = 10.0 * sign
    assert moments == pytest.approx(expected)


def test_moments_are_about_the_axis_of_the_parent_wherever_body_and_joint_are_turned() -> None:
    torque = np.zeros((4, 23, 3))
    knee = JOINTS.index("right_knee") - 1
    turn = Rotation.from_rotvec([0.3, 0.4, -0.9])
    torque[:, knee] = turn.inv().apply([3.0, -5.0, 10.0])
    motion = _still(5, {"pelvis": (0.1, 2.0, 0.3), "right_hip": (-0.4, 0.2, 0.8), "right_knee": tuple(turn.as_rotvec())})
    assert leg_moments(motion, torque)[:, 0, 1] == pytest.approx(10.0)
    assert leg_moments(motion, torque)[:, 1] == pytest.approx(0.0)


def test_forces_are_told_forward_and_outward_wherever_the_person_faces() -> None:
    for heading in (0.0, 1.0, 3.0):
        motion = _still(20, {"pelvis": (0.0, heading, 0.0)})
        turn = Rotation.from_rotvec([0.0, heading, 0.0])
        force = np.tile(turn.apply([30.0, 700.0, 20.0]), (20, 2, 1))
        told = in_heading(force, headings(motion))
        assert told[:, 0] == pytest.approx(np.tile([30.0, 700.0, 20.0], (20, 1)))
        assert told[:, 1] == pytest.approx(np.tile([30.0, 700.0, -20.0], (20, 1)))


def test_the_low_pass_leaves_slow_moments_and_takes_fast_ones() -> None:
    time = np.arange(300) / 60.0
    slow, fast = np.sin(2 * np.pi * time), np.sin(2 * np.pi * 20 * time)
    assert low_pass(slow + fast, 60.0, 6.0)[60:-60] == pytest.approx(slow[60:-60], abs=0.02)


@pytest.fixture
def imitated() -> Imitated:
    """Somebody who stands and is carried by both feet, walking along -x without moving the legs."""
    frames = 61
    motion = _still(frames, {"pelvis": (0.0, np.pi, 0.0)})
    motion = replace(motion, root_position=motion.time[:, None] * [-1.2, 0.0, 0.0], attrs={"person": "made/somebody"})
    force = np.zeros((frames - 1, 24, 3))
    force[:, JOINTS.index("right_ankle")] = force[:, JOINTS.index("right_foot")] = [-20.0, 0.25 * MASS * GRAVITY, 0.0]
    torque = np.zeros((frames - 1, 2, 23, 3))
    torque[:, 0, JOINTS.index("left_ankle") - 1, 2] = -2 * MASS
    return Imitated(motion, motion, build_standin(1.7, MASS), torque, force, 0 * force, "puppet")


def test_the_legs_of_an_imitation(imitated: Imitated) -> None:
    walk = walk_of(imitated)
    assert (walk.person, walk.name) == ("made/somebody", "still")
    assert walk.speed == pytest.approx(1.2)
    assert walk.force[:, 0] == pytest.approx(np.tile([40.0 / (MASS * GRAVITY), 0.5, 0.0], (60, 1)))
    assert walk.force[:, 1] == pytest.approx(0.0)
    assert walk.moment[:, 1, 2] == pytest.approx(1.0)
    assert walk.roughness == pytest.approx([0.0, 0.0, 0.0], abs=1e-9)
    assert walk.time[0] == pytest.approx(0.5 / 60)


def test_the_legs_of_a_record_are_those_of_the_imitation(imitated: Imitated) -> None:
    bodies, axes = list(JOINTS), list("xyz")
    last = np.zeros((1, 2, 23, 3))
    record = xr.Dataset(
        {
            "root_position": (("time", "axis"), imitated.imitation.root_position),
            "rotation": (("time", "body", "axis"), rotation_vectors(imitated.imitation.rotation_wxyz)),
            "torque": (("time", "substep", "joint", "axis"), np.concatenate([imitated.torque, last])),
            "mean_ground_force": (("time", "body", "axis"), np.concatenate([imitated.ground_force, imitated.ground_force[-1:]])),
            "failed": ("time", np.zeros(61, bool)),
        },
        coords={"time": imitated.imitation.time, "body": bodies, "joint": bodies[1:], "axis": axes, "quaternion": list("wxyz")},
        attrs={"clip": "still", "person": "made/somebody", "mass": MASS},
    )
    ours, theirs = walk_of(imitated), walk_of_record(record.isel(body=slice(None, None, -1)))
    assert theirs.force == pytest.approx(ours.force)
    assert theirs.moment == pytest.approx(ours.moment)
    record["failed"][40:] = True
    assert len(walk_of_record(record).time) == 39


def test_a_few_steps_are_no_walk(imitated: Imitated) -> None:
    fell = replace(imitated, imitation=imitated.imitation.part(0, 6), torque=imitated.torque[:5], ground_force=imitated.ground_force[:5])
    with pytest.raises(InputError, match="5 steps only"):
        walk_of(fell)


# --- the recorded side -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backwards_knee", [False, True])
@pytest.mark.parametrize("heading", [0.0, np.pi, 1.0])
def test_a_reference_tells_the_walk_it_was_made_from(backwards_knee: bool, heading: float) -> None:
    walk, wanted = recorded_walk(_reference("a", backwards_knee=backwards_knee, heading=heading)), _walk(seconds=4.0)
    assert walk is not None
    assert walk.force == pytest.approx(wanted.force, abs=1e-9)
    assert walk.moment == pytest.approx(wanted.moment, abs=1e-9)


def test_speed_is_over_the_ground_or_the_belt() -> None:
    for treadmill in (True, False):
        walk = recorded_walk(_reference("a", treadmill=treadmill))
        assert walk is not None and walk.speed == pytest.approx(1.3)


def test_a_cycle_needs_one_whole_stance_on_a_plate() -> None:
    overground = recorded_cycles(_reference("a", treadmill=False))
    assert sorted(c.foot for c in overground) == ["left", "right"]
    assert all(c.duration == pytest.approx(PERIOD, abs=0.011) for c in overground)
    assert all(c.duty_factor == pytest.approx(STANCE, abs=0.03) for c in overground)
    assert len(recorded_cycles(_reference("a"))) > len(overground)


def test_a_step_that_missed_part_of_the_plate_is_no_stance() -> None:
    reference = _reference("a", treadmill=False)
    contact = reference.dataset["contact"].values
    for foot in range(2):
        first = int(np.argmax(contact[:, foot]))
        contact[first : first + 20, foot] = False
    assert recorded_cycles(reference) == []


def test_without_moments_there_is_no_walk() -> None:
    reference = _reference("a")
    assert recorded_walk(replace(reference, dataset=reference.dataset.drop_vars("generalized_force"))) is None


# --- beside each other -----------------------------------------------------------------------------------------------------------------------------


def test_equal_walks_do_not_differ() -> None:
    gap = compare_walks([_walk()], [_reference("a"), _reference("b", treadmill=False)])
    assert gap.difference()["up"] < 0.03
    assert gap.difference()["knee"] < 0.03
    assert (len(gap.simulated), len(gap.recorded)) == (1, 2)


def test_what_differs_is_told() -> None:
    gap = compare_walks([_walk(peak=1.43, moment=2.0)], [_reference("a"), _reference("b", peak=1.0)])
    numbers = gap.numbers()
    assert numbers["first_peak"]["simulated"] / numbers["first_peak"]["recorded"] == pytest.approx(1.43 / 1.05, rel=0.02)
    assert numbers["first_peak"]["recorded_sd"] > 0.05
    assert numbers["stance"]["simulated"] == pytest.approx(100 * STANCE, abs=2.0)
    assert gap.difference()["knee"] == pytest.approx(np.sqrt(0.5), rel=0.05)
    assert "first peak of the vertical force: simulated" in gap.text() and "above" in gap.text()


def test_each_person_counts_the_same_however_many_cycles() -> None:
    gap = compare_walks([_walk()], [_reference("a"), _reference("b", treadmill=False, peak=2.2)])
    up = QUANTITIES.index("up")
    middle = gap.mean(gap.recorded)[up].max()
    assert middle == pytest.approx(0.5 * (gap.recorded[0].curves[up].max() + gap.recorded[1].curves[up].max()), rel=0.01)
    assert gap.recorded[0].cycles > gap.recorded[1].cycles


def test_loading_rate_is_the_slope_to_the_first_peak() -> None:
    walk = _walk(rate=1000.0)
    rise = np.clip((_phases(walk.time)[:, 0] * PERIOD) / 0.2, 0.0, 1.0) * (_phases(walk.time)[:, 0] < STANCE)
    force = walk.force.copy()
    force[:, 0, 1] = 1.2 * rise * (1 - 1e-3 * _phases(walk.time)[:, 0])
    start = 2 * PERIOD
    cycle = GaitCycle("right", start, start + STANCE * PERIOD, start + PERIOD)
    person = person_of("one", [(replace(walk, force=force), [cycle])])
    assert person.numbers["loading_rate"] == pytest.approx(6.0, rel=0.01)


def test_a_foot_that_chatters_makes_no_cycles_of_its_own() -> None:
    walk = _walk()
    force = walk.force.copy()
    for start in np.arange(0.1, STANCE, 0.1):
        off = np.abs(_phases(walk.time) - start) < 0.02
        force[off] = 0.0
    chattering = simulated_cycles(replace(walk, force=force))
    assert [(c.foot, c.duration) for c in chattering] == [(c.foot, pytest.approx(c.duration, abs=0.02)) for c in simulated_cycles(walk)]
    assert len(chattering) > 6


def test_the_simulated_walk_needs_two_strides() -> None:
    with pytest.raises(InputError, match="'sim/1' holds no gait cycle"):
        simulated_cycles(_walk(seconds=1.0))


def test_what_fails_or_does_not_walk_is_left_out_and_named(imitated: Imitated, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clip:
        name, flat = "made/1", True

        def load(self) -> tuple[BodyMotion, xr.Dataset]:
            return imitated.reference, imitated.person

    made: Any = Clip()
    nobody: Any = None
    for got, why in ((imitated, "'still' holds no gait cycle"), (replace(imitated, failure="0.5 m off"), "'made/1' failed: 0.5 m off")):
        monkeypatch.setattr("imdy_plugin.sim_gap.imitate", lambda *args, got=got, **kwargs: got)
        with pytest.warns(DataWarning, match=why):
            assert imitate_walks(nobody, [made], nobody) == []


def test_records_that_failed_or_do_something_else_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    attrs = {"good": ("walk", 0), "fell": ("walk", 3), "ran": ("run", 0)}

    class Store:
        folder = "store"

        def names(self) -> list[str]:
            return list(attrs)

        def attrs(self, name: str) -> dict[str, object]:
            return {"activity": attrs[name][0], "failed_frames": attrs[name][1]}

        def open(self, name: str) -> str:
            return name

    store: Any = Store()
    monkeypatch.setattr("imdy_plugin.sim_gap.walk_of_record", lambda record, cutoff: _walk(name=record))
    assert [w.name for w in stored_walks(store)] == ["good"]
    with pytest.raises(InputError, match="3 episodes, none of 'jump'"):
        stored_walks(store, "jump")


def test_the_low_pass_is_that_of_the_recorded_people() -> None:
    references = [_reference(str(i), activity="run") for i in range(3)]
    assert recorded_cutoff(references, "run") == 6.0
    for reference in references:
        reference.dataset.attrs["fc_coordinates"] = 12.0
    assert recorded_cutoff(references, "run") == 12.0
    assert recorded_cutoff(references, "walk") == 6.0


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(InputError, match="no simulated walk"):
        compare_walks([], [_reference("a")])
    with pytest.raises(InputError, match="none of 1 references shows 'walk'"):
        compare_walks([_walk()], [_reference("a", activity="run")])


def test_files(tmp_path: Path) -> None:
    gap = compare_walks([_walk()], [_reference("a")])
    gap.to_json(tmp_path / "gap.json")
    draw_gap(tmp_path / "gap.png", gap)
    told = json.loads((tmp_path / "gap.json").read_text())
    assert told["rms_difference"]["up"] < 0.03
    assert told["rms_difference_of_a_recorded_person_from_the_others"]["up"] is None
    assert len(told["curves"]["simulated"]["hip"]) == 101
    assert (tmp_path / "gap.png").stat().st_size > 20_000


def test_recorded_people_walk_as_people_do(data_dir: Path) -> None:
    """Published adult walking (Winter 2009): peaks a little above body weight, stance 58 to 64 %, ankle moment 1.2 to 1.8 N m/kg, knees that extend first."""
    paths = sorted((data_dir / "references").glob("schreiber__*.nc"))
    gap = compare_walks([_walk()], [read_reference(path) for path in paths])
    numbers = gap.numbers()
    assert len(gap.recorded) >= 10
    assert isinstance(gap, Gap)
    assert 1.0 < numbers["first_peak"]["recorded"] < 1.3
    assert 57.0 < numbers["stance"]["recorded"] < 64.0
    assert 1.2 < numbers["ankle_extension"]["recorded"] < 1.8
    assert 0.4 < numbers["knee_extension"]["recorded"] < 1.0
    assert -0.3 < numbers["braking"]["recorded"] < -0.1 < 0.1 < numbers["propulsion"]["recorded"] < 0.3
