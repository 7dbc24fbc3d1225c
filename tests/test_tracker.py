"""The tracker follows its plan and finds back to it; it is had by its name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from imdy_plugin.adapters.smpl.motion import BodyMotion, joint_positions
from imdy_plugin.adapters.smpl.topology import JOINTS
from imdy_plugin.errors import InputError, UnknownNameError
from imdy_plugin.sim.backends.mujoco import MujocoBackend
from imdy_plugin.sim.humanoid import build_humanoid, motion_of, state_of
from imdy_plugin.sim.imitator import plans, tracker
from imdy_plugin.sim.imitator.base import CONTROL_RATE, TIMESTEP
from imdy_plugin.sim.imitator.feedforward import strengths
from imdy_plugin.sim.imitator.named import find_imitator, plans_folder
from imdy_plugin.sim.imitator.planning import Plan, PlanSettings, plan_motion
from imdy_plugin.sim.imitator.tracker import FollowedPlan, Tracker
from imdy_plugin.sim.rollout import Part, roll_out
from imdy_plugin.sim.standin import build_standin, joint_offsets
from imdy_plugin.sim.variation import Variation

Array = NDArray[np.float64]

FRAMES = 31
QUICK = PlanSettings(horizon=FRAMES, advance=FRAMES, improvements=0, first_improvements=0)
"""Inverse dynamics alone, and feedback about what comes of it."""


@pytest.fixture(scope="module")
def person() -> Any:
    return build_standin(1.75, 75.0)


@pytest.fixture(scope="module")
def reference(person: Any) -> BodyMotion:
    """Standing while the hanging arms swing forward."""
    time = np.arange(FRAMES) / CONTROL_RATE
    wxyz = np.tile([1.0, 0.0, 0.0, 0.0], (FRAMES, 24, 1))
    swing = Rotation.from_rotvec(np.outer(0.3 * (1 - np.cos(6.0 * time)), [0.0, 0.0, 1.0]))
    for side, lower in (("right", 1.3), ("left", -1.3)):
        wxyz[:, JOINTS.index(f"{side}_shoulder")] = (swing * Rotation.from_rotvec([lower, 0.0, 0.0])).as_quat(scalar_first=True)
    return BodyMotion(time, np.tile([0.0, float(person["coordinate_default"].values[1]), 0.0], (FRAMES, 1)), wxyz, "made/swing")


@pytest.fixture(scope="module")
def plan(person: Any, reference: BodyMotion) -> Plan:
    return plan_motion(person, reference, QUICK)


@pytest.fixture
def calls(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> list[PlanSettings]:
    """Settings of the plans that are made; all are the same plan."""
    made: list[PlanSettings] = []

    def pretend(person: Any, reference: BodyMotion, settings: PlanSettings) -> Plan:
        made.append(settings)
        return plan

    for module in (tracker, plans):
        monkeypatch.setattr(module, "plan_motion", pretend)
    return made


def strays(person: Any, reference: BodyMotion, plan: Plan, variation: Variation) -> Array:
    """Mean distance of the joints from the plan of whoever follows it [m], ``(frame,)``."""
    simulation = MujocoBackend().start([person], timestep=TIMESTEP)
    done = roll_out(simulation, [Part(person, reference, FollowedPlan(person, plan), variation, seed=3)])[0].position
    time, offsets = reference.time[: len(done)], joint_offsets(person)
    places = [joint_positions(motion_of(time, position), offsets) for position in (done, plan.position[: len(done)])]
    return np.asarray(np.linalg.norm(places[0] - places[1], axis=-1).mean(axis=1))


def deaf(plan: Plan) -> Plan:
    """The plan without its feedback."""
    return replace(plan, gain=np.zeros_like(plan.gain))


# Following --------------------------------------------------------------------------------------------------------------------


def test_undisturbed_the_plan_is_followed_exactly(person: Any, reference: BodyMotion, plan: Plan) -> None:
    assert strays(person, reference, plan, Variation()).max() < 1e-9


@pytest.mark.parametrize(("variation", "left"), [(Variation("start", start_noise=0.03), 0.5), (Variation("target", target_noise=0.03), 0.8)])
def test_feedback_leads_back_to_the_plan(person: Any, reference: BodyMotion, plan: Plan, variation: Variation, left: float) -> None:
    heard, unheard = (strays(person, reference, p, variation) for p in (plan, deaf(plan)))
    assert len(heard) == len(unheard) == FRAMES - 1
    assert unheard[-5:].mean() > 0.01
    assert heard[-5:].mean() < left * unheard[-5:].mean()


def test_feedback_the_wrong_way_leads_astray(person: Any, reference: BodyMotion, plan: Plan) -> None:
    variation = Variation("start", start_noise=0.03)
    wrong = strays(person, reference, replace(plan, gain=-plan.gain), variation)
    assert wrong[-5:].mean() > 1.3 * strays(person, reference, deaf(plan), variation)[-5:].mean()


def test_the_command_is_the_plans_and_the_answer_to_the_departure(person: Any, plan: Plan) -> None:
    follower, random = FollowedPlan(person, plan), np.random.default_rng(1)
    np.testing.assert_array_equal(follower.target(7, plan.position[7], plan.velocity[7]), plan.target[7])
    moved, turned, faster = random.normal(scale=1e-3, size=3), random.normal(scale=1e-3, size=(24, 3)), random.normal(scale=1e-3, size=75)
    before = Rotation.from_quat(plan.position[7, 3:].reshape(24, 4), scalar_first=True)
    position = np.concatenate([plan.position[7, :3] + moved, (before * Rotation.from_rotvec(turned)).as_quat(scalar_first=True).ravel()])
    answer = plan.gain[7].astype(float) @ np.concatenate([moved, turned.ravel(), faster])
    np.testing.assert_allclose(follower.target(7, position, plan.velocity[7] + faster), plan.target[7] + answer, atol=1e-6)
    assert np.abs(answer).max() > 1e-4


def test_the_answer_asks_for_no_more_than_two_moderate_efforts(person: Any, plan: Plan) -> None:
    humanoid = build_humanoid(person, TIMESTEP)
    lost = plan.velocity[7] + 100.0
    answer = FollowedPlan(person, plan).target(7, plan.position[7], lost) - plan.target[7]
    torque = np.abs(answer) * humanoid.kp / strengths()
    assert torque.max() == pytest.approx(2.0)
    assert (torque > 1.99).mean() > 0.5


def test_past_the_end_of_the_plan_its_last_command_is_kept(person: Any, plan: Plan) -> None:
    follower, last = FollowedPlan(person, plan), FRAMES - 2
    for frame in (last, last + 1, last + 100):
        np.testing.assert_array_equal(follower.target(frame, plan.position[last], plan.velocity[last]), plan.target[-1])


def test_it_begins_with_a_state_of_the_plan_that_may_be_changed(person: Any, plan: Plan) -> None:
    follower = FollowedPlan(person, plan)
    begun = follower.start(4)
    assert begun is not None
    np.testing.assert_array_equal(begun[0], plan.position[4])
    np.testing.assert_array_equal(begun[1], plan.velocity[4])
    begun[0][:] = begun[1][:] = 9.0
    again = follower.start(4)
    assert again is not None
    assert max(np.abs(again[0]).max(), np.abs(again[1]).max()) < 9.0


# Planning ---------------------------------------------------------------------------------------------------------------------


def test_without_a_folder_each_motion_is_planned_anew(person: Any, reference: BodyMotion, plan: Plan, calls: list[PlanSettings], tmp_path: Path) -> None:
    imitator = Tracker(settings=QUICK)
    for _ in range(2):
        assert imitator.begin(person, reference).plan is plan
    Tracker().begin(person, reference)
    assert calls == [QUICK, QUICK, PlanSettings()]
    assert list(tmp_path.iterdir()) == []


def test_with_a_folder_each_motion_is_planned_once(person: Any, reference: BodyMotion, plan: Plan, calls: list[PlanSettings], tmp_path: Path) -> None:
    for seed in range(2):
        controller = Tracker(tmp_path / "plans", QUICK).begin(person, reference, seed)
        np.testing.assert_array_equal(controller.plan.target, plan.target)
    assert calls == [QUICK]
    assert len(list((tmp_path / "plans").iterdir())) == 1


def test_a_plan_that_was_kept_is_followed_as_well(person: Any, reference: BodyMotion, calls: list[PlanSettings], tmp_path: Path) -> None:
    kept = [Tracker(tmp_path, QUICK).begin(person, reference).plan for _ in range(2)][1]
    assert strays(person, reference, kept, Variation()).max() < 1e-9
    assert strays(person, reference, kept, Variation(start_noise=0.03))[-1] < 0.01
    assert len(calls) == 1


def test_a_motion_at_another_rate_is_refused(person: Any, reference: BodyMotion) -> None:
    with pytest.raises(InputError, match="31 frames at 30 Hz"):
        Tracker().begin(person, replace(reference, time=2 * reference.time))


# By name ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "folder"), [("tracker", "own"), ("tracker:", "own"), ("tracker:kept/plans", "kept/plans"), ("tracker:C:/plans", "C:/plans")])
def test_it_is_found_by_its_name_and_a_folder(name: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMDY_PLANS_DIR", "own")
    found = find_imitator(name)
    assert isinstance(found, Tracker)
    assert (found.name, str(found.plans), found.settings) == ("tracker", folder, PlanSettings())


def test_the_policy_that_ships_is_found_by_its_name(person: Any, reference: BodyMotion) -> None:
    policy = find_imitator("policy")
    assert policy.name == "policy"
    position, velocity = state_of(reference)
    target = policy.begin(person, reference).target(0, position[0], velocity[0])
    assert target.shape == (69,)
    assert np.isfinite(target).all()


def test_plans_go_into_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMDY_PLANS_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert plans_folder() == tmp_path / "imdy-plans"


@pytest.mark.parametrize("name", ["trakcer", "tracker2", "Tracker:plans", "missing.safetensors", ""])
def test_a_name_that_is_nobodys_is_refused(name: str) -> None:
    with pytest.raises(UnknownNameError, match=r"imitator '.*' does not exist.*tracker.*\.safetensors"):
        find_imitator(name)
