"""Plans are made once, read again, seen in a mirror, and lent to people who do the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from imdy_plugin.adapters.smpl.motion import BodyMotion, joint_positions
from imdy_plugin.adapters.smpl.topology import JOINTS
from imdy_plugin.errors import FileFormatError
from imdy_plugin.sim.backends.mujoco import MujocoBackend
from imdy_plugin.sim.floor import lowest_points
from imdy_plugin.sim.humanoid import joint_angles, motion_of, state_of
from imdy_plugin.sim.imitator import plans
from imdy_plugin.sim.imitator.base import CONTROL_RATE, TIMESTEP
from imdy_plugin.sim.imitator.planning import Plan, PlanSettings, plan_motion, standing
from imdy_plugin.sim.imitator.plans import PlanFolder, carried_over, mirrored_plan, read_plan, write_plan
from imdy_plugin.sim.imitator.tracker import FollowedPlan
from imdy_plugin.sim.rollout import Part, roll_out
from imdy_plugin.sim.standin import build_standin, joint_offsets
from imdy_plugin.sim.variation import Variation, mirrored_person

Array = NDArray[np.float64]

FRAMES = 25
QUICK = PlanSettings(horizon=FRAMES, advance=FRAMES, improvements=1, first_improvements=1)
ARRAYS = ("position", "velocity", "target", "gain")


@pytest.fixture(scope="module")
def person() -> Any:
    """Somebody with a weight in the left hand, so that a mirror shows somebody else."""
    person = build_standin(1.75, 75.0)
    mass = person["body_mass"].copy(deep=True)
    mass.loc[{"body": "left_hand"}] += 2.0
    return person.assign(body_mass=mass).assign_attrs(mass=77.0)


@pytest.fixture(scope="module")
def reference(person: Any) -> BodyMotion:
    """Down and up again, and only the right elbow bends."""
    bend = 0.2 * (1 - np.cos(2 * np.pi * np.arange(FRAMES) / (FRAMES - 1)))
    vectors = np.zeros((FRAMES, 24, 3))
    for side, lower in (("right", 1.3), ("left", -1.3)):
        vectors[:, JOINTS.index(f"{side}_shoulder"), 0] = lower
        for joint, times in (("hip", 1), ("knee", -2), ("ankle", 1)):
            vectors[:, JOINTS.index(f"{side}_{joint}"), 2] = times * bend
    vectors[:, JOINTS.index("right_elbow"), 2] = 2 * bend
    wxyz = Rotation.from_rotvec(vectors.reshape(-1, 3)).as_quat(scalar_first=True).reshape(FRAMES, 24, 4)
    motion = BodyMotion(np.arange(FRAMES) / CONTROL_RATE, np.zeros((FRAMES, 3)), wxyz, "made/squat")
    motion = replace(motion, root_position=-joint_positions(motion, joint_offsets(person))[:, JOINTS.index("right_ankle")])
    return motion.placed(np.array([0.3, -float(lowest_points(motion, person)[..., 1].min()), 0.2]))


@pytest.fixture(scope="module")
def plan(person: Any, reference: BodyMotion) -> Plan:
    return plan_motion(person, reference, QUICK)


@pytest.fixture
def calls(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the motions that are planned; all get the same plan."""
    made: list[str] = []

    def pretend(person: Any, reference: BodyMotion, settings: PlanSettings) -> Plan:
        made.append(reference.name)
        return plan

    monkeypatch.setattr(plans, "plan_motion", pretend)
    return made


def assert_same(first: Plan, second: Plan, tolerance: float = 0.0) -> None:
    for name in ARRAYS:
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), rtol=0, atol=tolerance, err_msg=name)
    assert first.complete == second.complete


def followed(person: Any, reference: BodyMotion, plan: Plan) -> Array:
    """Where a person gets who follows a plan in simulation, ``(frame, 99)``."""
    simulation = MujocoBackend().start([person], timestep=TIMESTEP)
    return roll_out(simulation, [Part(person, reference, FollowedPlan(person, plan), Variation())])[0].position


def errors(person: Any, reference: BodyMotion, position: Array) -> Array:
    """Mean distance of the joints from the reference on the ground [m], ``(frame,)``."""
    wanted, done = standing(reference, person).part(0, len(position)), motion_of(reference.time[: len(position)], position)
    return np.asarray(np.linalg.norm(np.subtract(*(joint_positions(m, joint_offsets(person)) for m in (wanted, done))), axis=-1).mean(axis=1))


# The folder -------------------------------------------------------------------------------------------------------------------


def test_a_plan_is_made_once_and_read_again(person: Any, reference: BodyMotion, plan: Plan, calls: list[str], tmp_path: Path) -> None:
    made = PlanFolder(tmp_path / "plans").get(person, reference)
    assert calls == ["made/squat"]
    assert_same(PlanFolder(tmp_path / "plans").get(person, reference), made)
    assert calls == ["made/squat"]
    assert_same(made, plan, 0.01)
    np.testing.assert_array_equal(made.target, plan.target)
    assert [p.name for p in (tmp_path / "plans").iterdir()] == [PlanFolder(tmp_path / "plans").file(person, reference).name]


def test_a_file_is_named_after_all_that_a_plan_is_made_of(person: Any, reference: BodyMotion, tmp_path: Path) -> None:
    folder = PlanFolder(tmp_path)
    file = folder.file(person, reference)
    assert file.parent == tmp_path
    assert file.name.startswith("made__squat-")
    assert PlanFolder(tmp_path, PlanSettings()).file(build_standin(1.75, 75.0), reference.part(0, 9)) != file
    assert folder.file(person.copy(deep=True), replace(reference, attrs={"source": "elsewhere"})) == file
    others = [
        PlanFolder(tmp_path, PlanSettings(horizon=30)).file(person, reference),
        folder.file(Variation(mass=1.001).person(person), reference),
        folder.file(Variation(parts={"arms": 1.001}).person(person), reference),
        folder.file(person, reference.placed(np.array([1e-4, 0.0, 0.0]))),
        folder.file(person, reference.part(0, FRAMES - 1)),
        folder.file(person, replace(reference, name="made/other")),
    ]
    assert len({file, *others}) == 1 + len(others)
    assert folder.file(person, replace(reference, name="")).name.startswith("motion-")


def test_a_plan_is_lent_to_whoever_does_the_same(person: Any, reference: BodyMotion, calls: list[str], tmp_path: Path) -> None:
    folder = PlanFolder(tmp_path)
    folder.get(person, reference)
    for variation in (Variation("heavy", mass=1.1), Variation("tall", height=1.05), Variation("mirrored", mirrored=True)):
        motion, other = variation.applied(reference, person)
        lent = folder.get(other, motion)
        assert len(lent.position) == len(motion)
        assert errors(other, motion, lent.position).mean() < 0.02
    assert calls == ["made/squat"]
    assert len(list(tmp_path.iterdir())) == 1


def test_nothing_is_lent_to_another_motion_or_another_name(person: Any, reference: BodyMotion, calls: list[str], tmp_path: Path) -> None:
    folder = PlanFolder(tmp_path)
    folder.get(person, reference)
    rotation = reference.rotation_wxyz.copy()
    rotation[:, 5:9] = [1.0, 0.0, 0.0, 0.0]
    others = [
        replace(reference, rotation_wxyz=rotation),
        replace(reference, name="made/squat2"),
        replace(reference, name=""),
        replace(reference, name="made/[s]quat"),
    ]
    for other in others:
        folder.get(person, other)
    assert calls == ["made/squat", "made/squat", "made/squat2", "", "made/[s]quat"]
    assert len(list(tmp_path.iterdir())) == 5


def test_what_is_written_is_read(reference: BodyMotion, plan: Plan, tmp_path: Path) -> None:
    strong = replace(plan, gain=plan.gain * 1e6, complete=False)
    written = write_plan(tmp_path / "deep" / "down" / "plan.npz", strong, reference)
    read, motion = read_plan(tmp_path / "deep" / "down" / "plan.npz")
    assert_same(written, read)
    assert not read.complete
    assert np.isfinite(read.gain).all()
    assert np.abs(read.gain).max() > 6e4
    assert motion.name == "made/squat"
    for name in ("time", "root_position", "rotation_wxyz"):
        np.testing.assert_array_equal(getattr(motion, name), getattr(reference, name))


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[2000] ^= 0xFF
    path.write_bytes(content)


def _without_gain(path: Path) -> None:
    with np.load(path) as file:
        kept = {name: file[name] for name in file.files if name != "gain"}
    np.savez(path, **kept)


def _one_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def _of_other_length(path: Path) -> None:
    with np.load(path) as file:
        kept = dict(file)
    np.savez(path, **kept | {"time": kept["time"][:-1]})


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": _truncated,
    "a byte changed": _flipped,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no plan"),
    "without gains": _without_gain,
    "one array": _one_array,
    "frames missing": _of_other_length,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused(damage: str, person: Any, reference: BodyMotion, calls: list[str], tmp_path: Path) -> None:
    folder = PlanFolder(tmp_path)
    folder.get(person, reference)
    path = folder.file(person, reference)
    DAMAGES[damage](path)
    with pytest.raises(FileFormatError, match=f"{path.name}: is no plan, or damaged: .* -- delete it") as caught:
        folder.get(person, reference)
    assert caught.value.path == str(path)
    path.unlink()
    assert folder.get(person, reference).complete


# In a mirror ------------------------------------------------------------------------------------------------------------------


def test_seen_in_two_mirrors_a_plan_is_itself(plan: Plan) -> None:
    once = mirrored_plan(plan)
    assert_same(mirrored_plan(once), plan)
    assert np.abs(once.target - plan.target).max() > 0.5


def test_a_mirrored_plan_begins_where_the_mirrored_reference_does(person: Any, reference: BodyMotion, plan: Plan) -> None:
    position, velocity = state_of(standing(reference, person).mirrored())
    mirrored = mirrored_plan(plan)
    np.testing.assert_allclose(mirrored.position[0], position[0], atol=1e-9)
    np.testing.assert_allclose(mirrored.velocity[0], velocity[0], atol=1e-9)


def test_a_mirrored_plan_is_what_the_mirrored_person_does(person: Any, reference: BodyMotion, plan: Plan) -> None:
    mirrored = mirrored_plan(plan)
    done = followed(mirrored_person(person), reference.mirrored(), mirrored)
    np.testing.assert_allclose(done, mirrored.position[:-1], atol=1e-6)
    wrong = followed(person, reference.mirrored(), replace(mirrored, gain=np.zeros_like(mirrored.gain)))
    assert np.abs(wrong - mirrored.position[:-1]).max() > 1e-3


def test_mirrored_feedback_answers_as_feedback_does(person: Any, plan: Plan) -> None:
    random = np.random.default_rng(4)
    position = plan.position.copy()
    quaternions = position[:, 3:].reshape(-1, 4)
    turned = Rotation.from_quat(quaternions, scalar_first=True) * Rotation.from_rotvec(random.normal(scale=0.01, size=(len(quaternions), 3)))
    position[:, 3:] = turned.as_quat(scalar_first=True).reshape(len(position), -1)
    position[:, :3] += random.normal(scale=0.01, size=(FRAMES, 3))
    departed = replace(plan, position=position, velocity=plan.velocity + random.normal(scale=0.1, size=plan.velocity.shape))
    mirror = mirrored_plan(departed)
    first, second = FollowedPlan(person, plan), FollowedPlan(mirrored_person(person), mirrored_plan(plan))
    commands = np.array([first.target(k, departed.position[k], departed.velocity[k]) for k in range(FRAMES - 1)])
    answers = np.array([second.target(k, mirror.position[k], mirror.velocity[k]) for k in range(FRAMES - 1)])
    np.testing.assert_allclose(mirrored_plan(replace(plan, target=commands)).target, answers, atol=1e-5)
    assert np.abs(commands - plan.target).max() > 0.01


# Carried over ------------------------------------------------------------------------------------------------------------------


def test_carried_over_to_the_same_motion_a_plan_is_itself(reference: BodyMotion, plan: Plan) -> None:
    carried = carried_over(plan, reference, reference)
    assert carried is not None
    assert_same(carried, plan, 1e-6)


def test_another_motion_gets_nothing(reference: BodyMotion, plan: Plan) -> None:
    turn = Rotation.from_rotvec([0.3, 0.0, 0.0])
    rotation = reference.rotation_wxyz.copy()
    for joint in ("left_shoulder", "right_shoulder", "spine1", "spine2", "neck", "left_hip"):
        column = JOINTS.index(joint)
        rotation[:, column] = (Rotation.from_quat(rotation[:, column], scalar_first=True) * turn).as_quat(scalar_first=True)
    assert carried_over(plan, reference, replace(reference, rotation_wxyz=rotation)) is None
    assert carried_over(plan, reference, reference.part(0, 15)) is None
    assert carried_over(plan, reference, reference.mirrored()) is None
    assert carried_over(plan, reference.part(0, 15), reference) is None


def test_a_heavier_person_follows_the_same_plan_in_the_same_way(person: Any, reference: BodyMotion, plan: Plan) -> None:
    motion, heavy = Variation("heavy", mass=1.1).applied(reference, person)
    carried = carried_over(plan, reference, motion)
    assert carried is not None
    np.testing.assert_allclose(followed(heavy, motion, carried), plan.position[:-1], atol=1e-6)


@pytest.mark.parametrize("variation", [Variation("tall", height=1.05), Variation("short", height=0.93), Variation("legs", parts={"legs": 1.05})])
def test_a_plan_carried_over_holds_for_a_person_of_other_lengths(person: Any, reference: BodyMotion, plan: Plan, variation: Variation) -> None:
    motion, other = variation.applied(reference, person)
    carried = carried_over(plan, reference, motion)
    assert carried is not None
    assert len(carried.position) == len(motion)
    assert errors(other, motion, followed(other, motion, carried)).max() < 0.02
    assert errors(other, motion, followed(other, motion, plan)).max() > 0.03


def test_departures_grow_with_length_and_speeds_with_its_root(person: Any, reference: BodyMotion, plan: Plan) -> None:
    motion, _ = Variation("tall", height=1.21).applied(reference, person)
    carried = carried_over(plan, reference, motion)
    assert carried is not None
    stretch = (len(motion) - 1) / (FRAMES - 1)
    old, old_velocity, new, new_velocity = *state_of(reference), *state_of(motion)
    frames = np.round(np.arange(len(motion)) / stretch).astype(int)
    departed, faster = carried.position[:, :3] - new[:, :3], carried.velocity - new_velocity
    was = plan.velocity[frames] - old_velocity[frames]
    np.testing.assert_allclose(departed, stretch**2 * (plan.position[frames, :3] - old[frames, :3]), atol=1e-9)
    np.testing.assert_allclose(faster[:, :3], stretch * was[:, :3], atol=1e-9)
    np.testing.assert_allclose(faster[:, 3:], was[:, 3:] / stretch, atol=1e-9)
    steps = frames[:-1]
    effort = plan.target[steps] - joint_angles(plan.position[steps])
    np.testing.assert_allclose(carried.target - joint_angles(carried.position[:-1]), stretch**2 * effort, atol=1e-9)
    metres, turns, speeds, rates = (carried.gain[..., part] for part in (slice(0, 3), slice(3, 75), slice(75, 78), slice(78, 150)))
    np.testing.assert_allclose(metres, plan.gain[steps][..., :3], rtol=1e-5)
    np.testing.assert_allclose(turns, stretch**2 * plan.gain[steps][..., 3:75], rtol=1e-5)
    np.testing.assert_allclose(speeds, stretch * plan.gain[steps][..., 75:78], rtol=1e-5)
    np.testing.assert_allclose(rates, stretch**3 * plan.gain[steps][..., 78:], rtol=1e-5)
    assert np.abs(was).max() > 0.1


def test_a_plan_that_ends_early_is_carried_over_as_far_as_it_goes(person: Any, reference: BodyMotion, plan: Plan) -> None:
    motion, _ = Variation("tall", height=1.1).applied(reference, person)
    early = Plan(plan.position[:11], plan.velocity[:11], plan.target[:10], plan.gain[:10], False)
    carried = carried_over(early, reference, motion)
    assert carried is not None
    assert not carried.complete
    assert len(motion) > FRAMES
    assert 10 <= len(carried.position) <= 12
    assert len(carried.target) == len(carried.gain) == len(carried.position) - 1
