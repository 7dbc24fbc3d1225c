"""What is measured of an imitation, on motions whose errors are known beforehand."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from imdy_plugin import cli
from imdy_plugin.adapters.smpl.motion import BodyMotion, joint_positions
from imdy_plugin.adapters.smpl.topology import JOINTS
from imdy_plugin.errors import FileFormatError, InputError, UnknownNameError
from imdy_plugin.interfaces import SimBackend, Simulation, StepRecord
from imdy_plugin.schema import GRAVITY
from imdy_plugin.sim.backends.base import DivergedError
from imdy_plugin.sim.backends.mujoco import MujocoBackend
from imdy_plugin.sim.humanoid import BODIES, SOLE_RADIUS, joint_angles, state_of
from imdy_plugin.sim.imitator.base import CONTROL_RATE, Controller, Imitator
from imdy_plugin.sim.imitator.evaluation import (
    Imitated,
    ImitationEvaluation,
    choose_clips,
    evaluate_imitator,
    foot_force,
    imitate,
    position_metrics,
    score,
    sole_track,
)
from imdy_plugin.sim.imitator.named import find_imitator
from imdy_plugin.sim.pictures import SIDES
from imdy_plugin.sim.standin import build_standin, joint_offsets, sole_points

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def person() -> xr.Dataset:
    return build_standin(1.75, 75.0)


@pytest.fixture(scope="module")
def standing(person: xr.Dataset) -> BodyMotion:
    """A second in the T-pose with the soles on the ground."""
    time = np.arange(61) / CONTROL_RATE
    rotation = np.tile([1.0, 0.0, 0.0, 0.0], (61, len(JOINTS), 1))
    flying = BodyMotion(time, np.zeros((61, 3)), rotation, "stand", {"activity": "stand"})
    return flying.placed(np.array([0.0, -sole_track(flying, person, "right").lowest[0], 0.0]))


def _moving(motion: BodyMotion, velocity: Sequence[float]) -> BodyMotion:
    return replace(motion, root_position=motion.root_position + motion.time[:, None] * np.asarray(velocity))


def _leaning(motion: BodyMotion, joint: str, angle: float) -> BodyMotion:
    rotation = motion.rotation_wxyz.copy()
    rotation[:, JOINTS.index(joint)] = Rotation.from_rotvec([0.0, 0.0, angle]).as_quat(scalar_first=True)
    return replace(motion, rotation_wxyz=rotation)


def _imitated(reference: BodyMotion, imitation: BodyMotion, person: xr.Dataset, carrying: Sequence[str] = ("right_ankle", "left_ankle")) -> Imitated:
    steps = len(imitation) - 1
    force = np.zeros((steps, len(JOINTS), 3))
    for body in carrying:
        force[:, JOINTS.index(body), 1] = 75.0 * GRAVITY / len(carrying)
    return Imitated(reference, imitation, person, np.zeros((steps, 2, 23, 3)), force, np.zeros_like(force), "puppet")


@dataclass(frozen=True)
class _Clip:
    motion: BodyMotion
    model: xr.Dataset
    name: str = "made/1"
    activity: str = "stand"
    person: str = "made/somebody"
    source: str = "made"
    held_out: bool = False
    may_train: bool = True
    flat: bool = True
    touches_objects: bool = False

    def load(self) -> tuple[BodyMotion, xr.Dataset]:
        return self.motion, self.model


class _Puppets(Simulation):
    """Goes where a motion goes, whatever its joints are commanded."""

    bodies = BODIES
    torque_size = 69

    def __init__(self, motion: BodyMotion) -> None:
        self._states, self._at, self.closed, self.diverges_at = state_of(motion), 0, False, -1

    def reset(self, position: Array, velocity: Array, worlds: Sequence[int] | None = None) -> None:
        self.started_from = position

    def state(self) -> tuple[Array, Array]:
        return self._states[0][self._at : self._at + 1], self._states[1][self._at : self._at + 1]

    def step(self, torque: Array, substeps: int = 1) -> StepRecord:
        raise NotImplementedError

    def step_towards(self, target: Array, substeps: int = 1) -> StepRecord:
        self._at += 1
        if self._at == self.diverges_at:
            raise DivergedError("world 0 diverged", [0], StepRecord(*[np.full(1, np.nan)] * 6))
        force = np.zeros((1, len(JOINTS), 3))
        force[:, self.bodies.index("right_ankle"), 1] = 700.0
        return StepRecord(np.tile(target[:, None], (1, substeps, 1)), np.zeros((1, 75)), force, force, force, force)

    def close(self) -> None:
        self.closed = True


class _Stage(SimBackend):
    name, summary = "stage", "puppets"

    def __init__(self, motion: BodyMotion) -> None:
        self.simulation = _Puppets(motion)

    def start(self, people: Sequence[xr.Dataset], *, timestep: float = 1 / 120, seed: int = 0) -> Simulation:
        return self.simulation


class _Idle(Imitator):
    """Commands each joint axis to the number of the frame and a thousand times its own."""

    name = "idle"

    def begin(self, person: xr.Dataset, reference: BodyMotion, seed: int = 0) -> Controller:
        class Idle(Controller):
            def target(self, frame: int, position: Array, velocity: Array) -> Array:
                return frame + 1000.0 * np.arange(69)

        return Idle()


# --- positions -------------------------------------------------------------------------------------------------------------------------------------


def test_a_body_beside_its_reference_is_off_globally_and_not_relative_to_its_root(standing: BodyMotion, person: xr.Dataset) -> None:
    there = joint_positions(standing, joint_offsets(person))
    metrics = position_metrics(there, there + np.array([0.03, 0.0, 0.04]), CONTROL_RATE)
    assert metrics["mpjpe_global"] == pytest.approx(50.0)
    assert metrics["mpjpe_root"] == pytest.approx(0.0, abs=1e-9)
    assert metrics["velocity_error"] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("rate", [30.0, 60.0, 120.0, 50.0])
def test_velocity_and_acceleration_errors_are_per_frame_at_30_hz_whatever_the_rate(rate: float) -> None:
    time = np.arange(200) / rate
    drift = np.zeros((200, 24, 3))
    drift[..., 0] = (0.3 * time + 0.5 * 4.5 * time**2)[:, None]
    metrics = position_metrics(np.zeros_like(drift), drift, rate)
    lag = max(1, round(rate / 30.0))
    middle = time[:-lag] + 0.5 * lag / rate
    assert metrics["velocity_error"] == pytest.approx(1e3 * np.mean(0.3 + 4.5 * middle) / 30.0)
    assert metrics["acceleration_error"] == pytest.approx(1e3 * 4.5 / 900.0)


def test_jitter_is_the_mean_jerk() -> None:
    time = np.arange(100) / 60.0
    cubic = np.zeros((100, 24, 3))
    cubic[..., 2] = (7.0 * time**3 / 6.0)[:, None]
    metrics = position_metrics(np.zeros_like(cubic), cubic, 60.0)
    assert metrics["jitter"] == pytest.approx(7.0, rel=1e-6)
    assert metrics["jitter_reference"] == 0.0


def test_too_few_frames_leave_figures_unknown() -> None:
    metrics = position_metrics(np.zeros((2, 24, 3)), np.ones((2, 24, 3)), 60.0)
    assert math.isnan(metrics["velocity_error"]) and math.isnan(metrics["acceleration_error"]) and math.isnan(metrics["jitter"])


# --- feet ------------------------------------------------------------------------------------------------------------------------------------------


def test_soles_of_a_standing_person_touch_the_ground_and_stay(standing: BodyMotion, person: xr.Dataset) -> None:
    for side in ("right", "left"):
        track = sole_track(standing, person, side)
        assert track.height == pytest.approx(0.0, abs=1e-12)
        assert track.touching().all()
        assert np.nanmax(track.slide_speed()) == pytest.approx(0.0, abs=1e-9)


def test_a_sliding_person_skates_at_its_speed(standing: BodyMotion, person: xr.Dataset) -> None:
    found = score(_imitated(standing, _moving(standing, [0.06, 0.0, -0.08]), person), _Clip(standing, person))
    assert found.skate == pytest.approx(100.0)
    assert found.skate_per_stance == pytest.approx(100.0)
    assert found.skate_reference == pytest.approx(0.0, abs=1e-9)


def test_a_foot_that_carries_nothing_does_not_skate(standing: BodyMotion, person: xr.Dataset) -> None:
    found = score(_imitated(standing, _moving(standing, [0.1, 0.0, 0.0]), person, carrying=()), _Clip(standing, person))
    assert math.isnan(found.skate)


def test_a_hand_that_carries_does_not_make_the_feet_skate(standing: BodyMotion, person: xr.Dataset) -> None:
    found = score(_imitated(standing, _moving(standing, [0.1, 0.0, 0.0]), person, carrying=("right_hand",)), _Clip(standing, person))
    assert math.isnan(found.skate)


def _rolling(person: xr.Dataset, radius: float) -> BodyMotion:
    """A stiff body that rolls forward on the tip of its right toes as on a wheel of ``radius``."""
    angle = np.linspace(-0.6, -1.0, 61)
    turned = Rotation.from_rotvec(np.stack([0 * angle, 0 * angle, angle], axis=-1))
    rotation = np.tile([1.0, 0.0, 0.0, 0.0], (61, len(JOINTS), 1))
    rotation[:, 0] = turned.as_quat(scalar_first=True)
    still = BodyMotion(np.arange(61) / CONTROL_RATE, np.zeros((61, 3)), rotation)
    tip = sole_points(person)["right_foot"][2] + [0.0, SOLE_RADIUS, 0.0]
    center = joint_positions(still, joint_offsets(person))[:, JOINTS.index("right_foot")] + turned.apply(tip)
    wheel = np.stack([-radius * (angle - angle[0]), np.full(61, SOLE_RADIUS), 0 * angle], axis=-1)
    return replace(still, root_position=wheel - center)


def test_a_sole_that_rolls_over_its_rounded_toes_does_not_skate(person: xr.Dataset) -> None:
    rolling, too_far = (sole_track(_rolling(person, radius), person, "right") for radius in (SOLE_RADIUS, 2 * SOLE_RADIUS))
    tip = sole_points(person)["right_ankle"].shape[0] + 2
    assert rolling.height[:, tip] == pytest.approx(0.0, abs=1e-12)
    assert rolling.slide[:, tip].sum() == pytest.approx(0.0, abs=1e-6)
    assert too_far.slide[:, tip].sum() == pytest.approx(0.4 * SOLE_RADIUS, rel=1e-3)


def test_penetration_is_how_deep_the_lowest_place_is(standing: BodyMotion, person: xr.Dataset) -> None:
    found = score(_imitated(standing, standing.placed(np.array([0.0, -0.004, 0.0])), person), _Clip(standing, person))
    assert (found.penetration, found.penetration_worst) == pytest.approx((4.0, 4.0))
    assert found.penetration_reference == pytest.approx(0.0, abs=1e-9)
    above = score(_imitated(standing, standing.placed(np.array([0.0, 0.02, 0.0])), person), _Clip(standing, person))
    assert above.penetration == 0.0


# --- success ---------------------------------------------------------------------------------------------------------------------------------------


def test_success_needs_a_mean_error_below_half_a_metre_and_strictly_no_joint_beyond_a_quarter(standing: BodyMotion, person: xr.Dataset) -> None:
    def of(change: Callable[[BodyMotion], BodyMotion]) -> tuple[bool, bool]:
        found = score(_imitated(standing, change(standing), person), _Clip(standing, person))
        return found.success, found.success_strict

    assert of(lambda m: m.placed(np.array([0.24, 0.0, 0.0]))) == (True, True)
    assert of(lambda m: m.placed(np.array([0.26, 0.0, 0.0]))) == (True, False)
    assert of(lambda m: _leaning(m, "right_shoulder", 0.0)) == (True, True)
    assert of(lambda m: m.placed(np.array([0.49, 0.0, 0.0])))[0]
    assert not of(lambda m: m.placed(np.array([0.51, 0.0, 0.0])))[0]


def test_one_frame_that_is_off_is_a_failure(standing: BodyMotion, person: xr.Dataset) -> None:
    leaping = standing.root_position.copy()
    leaping[30] += 0.6
    found = score(_imitated(standing, replace(standing, root_position=leaping), person), _Clip(standing, person))
    assert not found.success
    assert found.worst_mean_error == pytest.approx(600 * math.sqrt(3))


def test_a_clip_that_was_not_imitated_to_its_end_is_a_failure(standing: BodyMotion, person: xr.Dataset) -> None:
    found = score(_imitated(standing, standing.part(0, 40), person), _Clip(standing, person))
    assert not found.success
    assert found.completed == pytest.approx(39 / 60)
    assert found.mpjpe_global == pytest.approx(0.0, abs=1e-9)


# --- rolling out -----------------------------------------------------------------------------------------------------------------------------------


def test_the_whole_clip_is_imitated_from_its_first_state(standing: BodyMotion, person: xr.Dataset) -> None:
    walking = _moving(standing, [1.0, 0.0, 0.0])
    stage = _Stage(walking)
    got = imitate(_Idle(), walking, person, stage)
    assert not got.failure
    assert stage.simulation.started_from == pytest.approx(state_of(walking)[0][:1])
    assert stage.simulation.closed
    assert joint_positions(got.imitation, joint_offsets(person)) == pytest.approx(joint_positions(walking, joint_offsets(person)))
    assert got.torque.shape == (60, 2, 23, 3)


def test_torques_come_in_the_order_of_the_joints(standing: BodyMotion, person: xr.Dataset) -> None:
    got = imitate(_Idle(), standing, person, _Stage(standing))
    number = BODIES.index("right_knee") - 1
    assert number != JOINTS.index("right_knee") - 1
    expected = np.arange(60)[:, None] + 1000.0 * (3 * number + np.arange(3))
    assert got.torque[:, 1, JOINTS.index("right_knee") - 1] == pytest.approx(expected)


def test_forces_come_in_the_order_of_the_joints_whatever_the_backends(standing: BodyMotion, person: xr.Dataset) -> None:
    got = imitate(_Idle(), standing, person, _Stage(standing))
    assert got.ground_force[:, JOINTS.index("right_ankle"), 1] == pytest.approx(700.0)
    assert np.abs(got.ground_force).sum() == pytest.approx(60 * 700.0)


def test_a_reference_at_another_rate_is_imitated_at_the_control_rate(standing: BodyMotion, person: xr.Dataset) -> None:
    got = imitate(_Idle(), standing.resampled(30.0), person, _Stage(standing))
    assert got.reference.rate == pytest.approx(CONTROL_RATE)
    assert len(got.imitation) == 61


def test_it_stops_where_the_person_has_fallen(standing: BodyMotion, person: xr.Dataset) -> None:
    falling = _moving(standing, [0.0, -1.0, 0.0])
    got = imitate(_Idle(), standing, person, _Stage(falling))
    assert len(got.imitation) == 31
    assert len(got.torque) == 30
    assert got.failure.startswith("0.5")
    assert not score(got, _Clip(standing, person)).success


def test_it_stops_where_the_simulation_diverges(standing: BodyMotion, person: xr.Dataset) -> None:
    stage = _Stage(standing)
    stage.simulation.diverges_at = 10
    got = imitate(_Idle(), standing, person, stage)
    assert got.failure == "world 0 diverged"
    assert stage.simulation.closed
    assert len(got.imitation) == 10 and len(got.torque) == 9


def test_a_simulation_that_diverges_at_once_leaves_a_score_without_contact(standing: BodyMotion, person: xr.Dataset) -> None:
    stage = _Stage(standing)
    stage.simulation.diverges_at = 1
    found = score(imitate(_Idle(), standing, person, stage), _Clip(standing, person))
    assert (found.success, found.completed) == (False, 0.0)
    assert math.isnan(found.skate)


def test_a_motion_of_one_frame_is_refused(standing: BodyMotion, person: xr.Dataset) -> None:
    with pytest.raises(InputError, match="at least two frames"):
        imitate(_Idle(), standing.part(0, 1), person, _Stage(standing))


# --- many clips ------------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def evaluation(standing: BodyMotion, person: xr.Dataset) -> ImitationEvaluation:
    def scored(name: str, activity: str, held_out: bool, off: float, **kinds: bool) -> object:
        clip = _Clip(standing, person, name=name, activity=activity, held_out=held_out, **kinds)
        return score(_imitated(standing, standing.placed(np.array([off, 0.0, 0.0])), person), clip)

    scores = (
        scored("made/1", "walk", False, 0.02),
        scored("made/2", "walk", True, 0.04),
        scored("made/3", "jump", True, 0.9),
        scored("made/4", "basketball", False, 0.1, touches_objects=True),
    )
    return ImitationEvaluation(scores)  # type: ignore[arg-type]


def test_summaries_keep_the_held_out_clips_apart(evaluation: ImitationEvaluation) -> None:
    rows = {(s.group, s.activity): s for s in evaluation.summaries()}
    assert rows["all", "all"].success == pytest.approx(0.75)
    assert rows["held out", "all"].success == pytest.approx(0.5)
    assert rows["held out", "walk"].successes["mpjpe_global"] == pytest.approx(40.0)
    assert rows["others", "walk"].successes["mpjpe_global"] == pytest.approx(20.0)
    assert rows["level, no objects", "all"].clips == 3
    assert ("others", "jump") not in rows


def test_errors_are_told_over_the_successes_and_over_all(evaluation: ImitationEvaluation) -> None:
    jump = next(s for s in evaluation.summaries() if (s.group, s.activity) == ("held out", "jump"))
    assert math.isnan(jump.successes["mpjpe_global"])
    assert jump.everything["mpjpe_global"] == pytest.approx(900.0)


def test_tables_say_what_is_not_known_with_a_dash(evaluation: ImitationEvaluation) -> None:
    lines = evaluation.markdown().splitlines()
    assert {line.count("|") for line in lines} == {14}
    assert any("| held out | jump | 1 | 0.0 | 0.0 | 0.0 | - |" in line for line in lines)
    assert evaluation.table().row_count == len(lines) - 2


def test_files_hold_every_clip(evaluation: ImitationEvaluation, tmp_path: Path) -> None:
    evaluation.to_csv(tmp_path / "a" / "scores.csv")
    evaluation.to_json(tmp_path / "scores.json")
    rows = (tmp_path / "a" / "scores.csv").read_text().splitlines()
    assert len(rows) == 5 and rows[0].startswith("clip,activity")
    told = json.loads((tmp_path / "scores.json").read_text())
    assert [c["clip"] for c in told["clips"]] == ["made/1", "made/2", "made/3", "made/4"]
    assert told["clips"][2]["success"] is False
    jump = next(s for s in told["summaries"] if s["activity"] == "jump" and s["group"] == "all")
    assert jump["successes"]["mpjpe_global"] is None


def test_clips_are_imitated_one_after_the_other_with_pictures(standing: BodyMotion, person: xr.Dataset, tmp_path: Path) -> None:
    found = evaluate_imitator(_Idle(), [_Clip(standing, person)], _Stage(standing), pictures=tmp_path)  # type: ignore[list-item]
    assert found.scores[0].success_strict
    assert {p.name for p in tmp_path.iterdir()} == {"made_1.png", "made_1_feet.png"}


def test_clips_are_imitated_in_processes_of_their_own_alike(standing: BodyMotion, person: xr.Dataset) -> None:
    here = sys.modules[_Clip.__module__]
    cloudpickle.register_pickle_by_value(here)
    clips = [_Clip(standing, person, name=f"made/{i}") for i in range(2)]
    found = evaluate_imitator(_Idle(), clips, _Stage(standing), workers=2)  # type: ignore[arg-type]
    assert [s.clip for s in found.scores] == ["made/0", "made/1"]
    assert all(s.success for s in found.scores)
    cloudpickle.unregister_pickle_by_value(here)


def test_clips_are_chosen_by_name_activity_and_whether_they_are_held_out(standing: BodyMotion, person: xr.Dataset) -> None:
    clips: list[Any] = [
        _Clip(standing, person, name="a/1", activity="walk"),
        _Clip(standing, person, name="a/2", activity="run", held_out=True),
        _Clip(standing, person, name="b/1", activity="walk", held_out=True),
    ]
    assert [c.name for c in choose_clips(clips, ["a/*"])] == ["a/1", "a/2"]
    assert [c.name for c in choose_clips(clips, activities=["walk"], held_out=True)] == ["b/1"]
    assert len(choose_clips(clips)) == 3
    with pytest.raises(UnknownNameError, match="nearest: b/1"):
        choose_clips(clips, ["b/2"])
    with pytest.raises(UnknownNameError, match="walk"):
        choose_clips(clips, activities=["wakl"])
    with pytest.raises(InputError, match="held out"):
        choose_clips(clips, ["a/1"], held_out=True)


def test_an_imitator_is_the_tracker_or_a_file(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="tracker"):
        find_imitator("traker")
    (tmp_path / "policy.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(FileFormatError):
        find_imitator(str(tmp_path / "policy.safetensors"))


def test_no_clip_is_an_error() -> None:
    with pytest.raises(InputError, match="no clip"):
        evaluate_imitator(_Idle(), [], _Stage.__new__(_Stage))


# --- with the engine that ships, from the command line ---------------------------------------------------------------------------------------------


class _Pose(Imitator):
    """Commands each joint to where the reference has it next."""

    name = "pose"

    def begin(self, person: xr.Dataset, reference: BodyMotion, seed: int = 0) -> Controller:
        angles = joint_angles(state_of(reference)[0])

        class Pose(Controller):
            def target(self, frame: int, position: Array, velocity: Array) -> Array:
                return angles[frame + 1]

        return Pose()


@pytest.fixture
def shown(standing: BodyMotion, person: xr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line finds two clips, of standing and of lying under the ground, and the imitator above."""
    buried = standing.placed(np.array([0.0, -3.0, 0.0]))
    made = [_Clip(standing, person), _Clip(buried, person, name="made/buried", activity="lie", held_out=True)]
    monkeypatch.setattr("imdy_plugin.sim.clips.clips", lambda data: made)
    monkeypatch.setattr("imdy_plugin.sim.imitator.named.find_imitator", lambda name: _Pose())


def test_a_standing_person_is_carried_by_its_feet(standing: BodyMotion, person: xr.Dataset) -> None:
    got = imitate(_Pose(), standing, person, MujocoBackend())
    assert not got.failure
    assert sum(foot_force(got, side)[-10:, 1].mean() for side in SIDES) == pytest.approx(75.0 * GRAVITY, rel=0.1)
    found = score(got, _Clip(standing, person))
    assert found.success_strict
    assert found.mpjpe_global < 30.0
    assert found.skate < 30.0
    assert found.penetration < 20.0


@pytest.mark.usefixtures("shown")
def test_the_command_line_evaluates(tmp_path: Path) -> None:
    got = CliRunner().invoke(cli.app, ["imitate", "eval", "data", "--csv", "a.csv", "--json", "a.json", "--markdown", "a.md", "--pictures", "pictures"])
    assert got.exit_code == 0, got.output
    assert "made/buried (lie)" in got.output and "made/1" not in got.output
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 3
    assert "| all | all | 2 |" in (tmp_path / "a.md").read_text()
    assert len(list((tmp_path / "pictures").iterdir())) == 4


@pytest.mark.usefixtures("shown")
def test_the_command_line_shows(tmp_path: Path) -> None:
    got = CliRunner().invoke(cli.app, ["imitate", "show", "data", "made/1", "--out", "here"])
    assert got.exit_code == 0, got.output
    assert "made/1, stand: whole length; mean joint error" in got.output
    assert {p.name for p in (tmp_path / "here").iterdir()} == {"made_1.png", "made_1_feet.png"}


@pytest.mark.usefixtures("shown")
def test_the_command_line_names_the_nearest_clip() -> None:
    got = CliRunner().invoke(cli.app, ["imitate", "show", "data", "made/2"])
    assert got.exit_code == 2
    assert "made/1" in got.output
