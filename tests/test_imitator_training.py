"""Tasks, reinforcement, cloning, and trainings that are cut off and taken up again."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from imdy_plugin.adapters.smpl.motion import BodyMotion
from imdy_plugin.errors import FileFormatError, InputError, OptionError, UnknownNameError
from imdy_plugin.interfaces import SimBackend, Simulation, StepRecord
from imdy_plugin.sim.backends.mujoco import MujocoBackend
from imdy_plugin.sim.humanoid import BODIES, joint_angles
from imdy_plugin.sim.imitator.amp import StyleConfig
from imdy_plugin.sim.imitator.base import Controller, Imitator
from imdy_plugin.sim.imitator.cloning import Buffer, Cloning, CloningConfig, Demonstration
from imdy_plugin.sim.imitator.lessons import configured, planned_part
from imdy_plugin.sim.imitator.planning import Plan
from imdy_plugin.sim.imitator.plans import PlanFolder, write_plan
from imdy_plugin.sim.imitator.policy import PolicyConfig, PolicyNetwork, load_policy
from imdy_plugin.sim.imitator.ppo import PpoConfig, Reinforcement
from imdy_plugin.sim.imitator.reference import Library, lay_out
from imdy_plugin.sim.imitator.rehearsal import rehearse
from imdy_plugin.sim.imitator.task import ImitationTask, TaskConfig
from imdy_plugin.sim.imitator.training import ImitationTraining, Stage, parse_stages, train_policy
from imdy_plugin.sim.standin import build_standin

Array = NDArray[np.float64]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Several threads are slower than one on networks this small, and many times so where the processors are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Puppets(Simulation):
    """People whose joints are at once where they are told to be, and whose pelvis stays where it is."""

    torque_size = 69

    def __init__(self, worlds: int, timestep: float) -> None:
        self.worlds, self.timestep, self.bodies = worlds, timestep, BODIES
        self.position_size, self.velocity_size = 99, 75
        self._position, self._velocity = np.zeros((worlds, 99)), np.zeros((worlds, 75))

    def reset(self, position: Array, velocity: Array, worlds: Sequence[int] | None = None) -> None:
        chosen = list(range(self.worlds) if worlds is None else worlds)
        self._position[chosen], self._velocity[chosen] = position, velocity

    def state(self) -> tuple[Array, Array]:
        return self._position.copy(), self._velocity.copy()

    def step(self, torque: Array, substeps: int = 1) -> StepRecord:
        raise AssertionError("puppets know no torque")

    def step_towards(self, target: Array, substeps: int = 1) -> StepRecord:
        self._position[:, 7:] = Rotation.from_rotvec(target.reshape(-1, 3)).as_quat(scalar_first=True).reshape(self.worlds, 92)
        nothing = np.zeros((self.worlds, 24, 3))
        return StepRecord(np.zeros((self.worlds, substeps, 69)), np.zeros((self.worlds, 75)), nothing, nothing, nothing, nothing)


class PuppetBackend(SimBackend):
    name: ClassVar[str] = "puppets"
    summary: ClassVar[str] = "joints that obey"

    def start(self, people: Sequence[Any], *, timestep: float = 1 / 120, seed: int = 0) -> Simulation:
        return Puppets(len(people), timestep)


class Holding(Imitator):
    """Commands the reference's pose, a little stiffer than the joints are."""

    name: ClassVar[str] = "holding"

    def begin(self, person: Any, reference: BodyMotion, seed: int = 0) -> Controller:
        laid = lay_out(person, reference)

        class Held(Controller):
            def target(self, frame: int, position: Array, velocity: Array) -> Array:
                base = laid.base(frame, "residual")
                return base + 0.2 * (base - joint_angles(position))

        return Held()


def standing(frames: int = 60, name: str = "standing", bend: float = 0.0) -> BodyMotion:
    wxyz = np.zeros((frames, 24, 4))
    wxyz[..., 0], wxyz[:, 18:20, 0], wxyz[:, 18:20, 2] = 1.0, np.cos(bend / 2), np.sin(bend / 2)
    return BodyMotion(np.arange(frames) / 60.0, np.tile([0.0, 1.01, 0.0], (frames, 1)), wxyz, name)


@pytest.fixture(scope="module")
def library() -> Library:
    person = build_standin()
    return Library([lay_out(person, standing()), lay_out(person, standing(40, "bent", 0.5))])


TINY = ImitationTraining(
    policy=PolicyConfig(hidden=(16,), composer_hidden=(8,)),
    task=TaskConfig(worlds=4),
    style=StyleConfig(hidden=(8,), batch=16, batches=1),
    ppo=PpoConfig(rollout=8, epochs=2, batches=2, updates=2, value_hidden=(8,), learning_rate=1e-3),
    cloning=CloningConfig(steps=8, updates=5, batch=32, capacity=1000),
)


def off_by(size: float, config: PolicyConfig, seed: int = 0) -> PolicyNetwork:
    """A policy that commands every joint wrongly by about as much."""
    torch.manual_seed(seed)
    network = PolicyNetwork(config)
    with torch.no_grad():
        network.primitives[0].layers[-1].bias.copy_(size * torch.randn(69))  # type: ignore[index,union-attr]
    return network


def test_somebody_who_is_told_the_reference_stays_with_it(library: Library) -> None:
    task = ImitationTask(library, MujocoBackend(), TaskConfig(worlds=4))
    assert task.restart(np.array([0.5, 0.5]), 0).shape == (4, 934)
    outcomes = [task.step(np.zeros((4, 69))) for _ in range(60)]
    task.close()
    assert not any(o.failed.any() for o in outcomes)
    assert sum(o.ended.sum() for o in outcomes) >= 4, "the end of a motion is the end of an episode"
    assert np.mean([o.error for o in outcomes]) < 0.02
    assert np.mean([o.reward for o in outcomes]) > 0.95
    assert outcomes[0].style.shape == (4, 10 * 232)


def test_somebody_who_does_nothing_right_fails_and_starts_anew(library: Library) -> None:
    task = ImitationTask(library, MujocoBackend(), TaskConfig(worlds=4))
    task.restart(np.array([1.0, 0.0]), 0)
    limp = np.zeros((4, 69))
    limp[:, :9] = 1.5
    failures = [task.step(limp).failed.sum() for _ in range(60)]
    assert sum(failures) >= 4
    assert (task.clip == 0).all()
    assert np.isfinite(task.observation()).all()
    task.close()


def test_a_restart_repeats_itself(library: Library) -> None:
    def run(seed: int) -> tuple[Any, Any]:
        task = ImitationTask(library, MujocoBackend(), TaskConfig(worlds=3, fallen=0.5))
        task.restart(np.array([0.5, 0.5]), seed)
        frames = task.frame.copy()
        for _ in range(20):
            task.step(np.full((3, 69), 0.1))
        task.close()
        return frames, task.observation()

    (frames, first), (_, again), (others, _) = run(5), run(5), run(6)
    assert (first == again).all()
    assert (frames != others).any()


def test_who_has_fallen_lies_and_is_waited_for(library: Library) -> None:
    task = ImitationTask(library, MujocoBackend(), TaskConfig(worlds=6, fallen=1.0, recovery_steps=30))
    task.restart(np.array([1.0, 0.0]), 1)
    assert (task.position[:, 1] < 0.8).all()
    assert task.body.position[..., 1].min() > -0.1
    frames = task.frame.copy()
    outcomes = [task.step(np.zeros((6, 69))) for _ in range(29)]
    assert not any(o.failed.any() for o in outcomes)
    assert (task.frame == frames).all()
    assert all(np.abs(o.reward).max() < 1.0 for o in outcomes)
    assert any(task.step(np.zeros((6, 69))).failed.any() for _ in range(3)), "and lost when the time to get up is over"
    task.close()


def test_starts_are_off_by_the_noise_that_is_asked_for(library: Library) -> None:
    def starts(noise: float) -> Any:
        task = ImitationTask(library, PuppetBackend(), TaskConfig(worlds=50, start_noise=noise))
        task.restart(np.array([1.0, 0.0]), 0)
        return task.position - library.state(task.clip, task.frame)[0], task.velocity - library.state(task.clip, task.frame)[1]

    position, velocity = starts(0.02)
    assert 2.0 * position[:, 4:].reshape(50, -1).std() == pytest.approx(0.02, rel=0.2)
    assert position[:, 1].std() == pytest.approx(0.01, rel=0.3)
    assert not position[:, [0, 2]].any()
    assert velocity.std() == pytest.approx(0.2, rel=0.1)
    assert not any(part.any() for part in starts(0.0))


def test_people_who_burst_start_anew(library: Library) -> None:
    task = ImitationTask(library, MujocoBackend(), TaskConfig(worlds=2))
    task.restart(np.array([1.0, 0.0]), 0)
    velocity = np.zeros((2, 75))
    velocity[1, 6:] = 1e6
    task._running.reset(task.position, velocity)
    outcome = task.step(np.zeros((2, 69)))
    assert outcome.failed[1]
    assert np.isfinite(outcome.reward).all()
    assert np.isfinite(outcome.final).all()
    assert np.isfinite(task.observation()).all()
    task.close()


def test_reinforcement_raises_the_reward(library: Library) -> None:
    config = PpoConfig(
        rollout=16, epochs=3, batches=1, updates=10, learning_rate=1e-3, gradient_norm=0.5, discount=0.3, style_share=0.0, task_share=1.0, value_hidden=(32,)
    )
    network = off_by(0.15, PolicyConfig(hidden=(32,)))
    learner = Reinforcement(network, library, PuppetBackend(), TaskConfig(worlds=16, limit=5.0), TINY.style, config)
    rewards = [row["reward"] for number in range(2) for row in learner.section(number)]
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.1


def test_reinforcement_without_learning_does_not(library: Library) -> None:
    config = PpoConfig(rollout=32, epochs=1, batches=1, updates=10, learning_rate=1e-9, style_share=0.0, task_share=1.0, value_hidden=(8,))
    learner = Reinforcement(off_by(0.15, PolicyConfig(hidden=(32,))), library, PuppetBackend(), TaskConfig(worlds=8, limit=5.0), TINY.style, config)
    rewards = [row["reward"] for row in learner.section(0)]
    assert abs(np.mean(rewards[-5:]) - np.mean(rewards[:5])) < 0.02


def test_the_value_alone_learns_while_warming_up(library: Library) -> None:
    learner = Reinforcement(PolicyNetwork(TINY.policy), library, PuppetBackend(), TINY.task, TINY.style, replace(TINY.ppo, warm_up=2))
    policy, value = (torch.nn.utils.parameters_to_vector(m.parameters()).clone() for m in (learner.network, learner.value))
    learner.section(0)
    assert (torch.nn.utils.parameters_to_vector(learner.network.parameters()) == policy).all()
    assert (torch.nn.utils.parameters_to_vector(learner.value.parameters()) != value).any()
    learner.section(1)
    assert (torch.nn.utils.parameters_to_vector(learner.network.parameters()) != policy).any()


def test_a_cloned_policy_does_what_its_teacher_does(library: Library) -> None:
    network = off_by(0.15, PolicyConfig(hidden=(64,)))
    before = rehearse(network, library, MujocoBackend())
    controllers = [Holding().begin(r.person, r.motion) for r in library.references]
    config = CloningConfig(steps=40, updates=60, batch=256, learning_rate=3e-3, average=0.9)
    learner = Cloning(network, library, controllers, MujocoBackend(), TaskConfig(worlds=8), config)
    losses = [learner.section(number)[0]["loss"] for number in range(3)]
    after = rehearse(learner.result(), library, MujocoBackend())
    assert losses[-1] < 0.2 * losses[0]
    assert after.success.all()
    assert after.error.max() < 0.3 * before.error.min()


def test_demonstrations_are_what_the_policy_would_have_seen_and_done(library: Library) -> None:
    reference = library.references[0]
    config = PolicyConfig()
    shown = Demonstration(reference, reference.position, reference.velocity, np.full((len(reference) - 1, 69), 0.3))
    observations, actions = shown.samples(config)
    assert observations.shape == (59, 934)
    assert actions == pytest.approx(0.3 - reference.commands[:-1], abs=1e-6)
    short = Demonstration(reference, reference.position[:20], reference.velocity[:20], shown.target[:19]).samples(config)
    assert (short[0] == observations[:19]).all()
    with pytest.raises(InputError, match="59 positions"):
        Demonstration(reference, reference.position[1:], reference.velocity, np.zeros((59, 69))).samples(config)


def test_motions_without_a_plan_are_not_taught(library: Library, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no plan of any of the 2"):
        planned_part(library, tmp_path)
    bent = library.references[1]
    plan = Plan(bent.position[:20], bent.velocity[:20], bent.commands[:19], np.zeros((19, 69, 150)), False)
    write_plan(PlanFolder(tmp_path).file(bent.person, bent.motion), plan, bent.motion)
    part, shown = planned_part(library, tmp_path)
    assert [reference.name for reference in part.references] == ["bent"]
    assert shown[0].samples(PolicyConfig())[1] == pytest.approx(0.0, abs=1e-6)


def test_the_oldest_samples_give_way() -> None:
    buffer = Buffer(10, 3)
    for value in range(4):
        buffer.add(np.full((4, 3), value, np.float32), np.full((4, 69), value, np.float32))
    assert len(buffer) == 10
    observations, actions = buffer.draw(500, np.random.default_rng(0))
    assert set(actions[:, 0].tolist()) == {1.0, 2.0, 3.0}
    assert (observations[:, 0] == actions[:, 0]).all()


def test_a_training_that_was_cut_off_ends_as_one_that_was_not(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = [Stage("primitive", sections=3)]
    train_policy(library, MujocoBackend(), tmp_path / "whole.safetensors", stages, TINY)
    section = Reinforcement.section

    def stop(self: Reinforcement, number: int) -> list[dict[str, float]]:
        if number == 2:
            raise KeyboardInterrupt
        return section(self, number)

    monkeypatch.setattr(Reinforcement, "section", stop)
    with pytest.raises(KeyboardInterrupt):
        train_policy(library, MujocoBackend(), tmp_path / "cut.safetensors", stages, TINY, checkpoint_minutes=0.0)
    half = load_policy(tmp_path / "cut.safetensors")[0].state_dict()
    monkeypatch.setattr(Reinforcement, "section", section)
    train_policy(library, MujocoBackend(), tmp_path / "cut.safetensors", stages, TINY)
    whole, cut = (load_policy(tmp_path / f"{name}.safetensors")[0].state_dict() for name in ("whole", "cut"))
    assert all((whole[name] == cut[name]).all() for name in whole)
    assert any((half[name] != cut[name]).any() for name in whole)
    assert (tmp_path / "cut.csv").read_text().count("primitive") == 6
    assert not (tmp_path / "cut.checkpoint.safetensors").exists()


def test_all_stages_lead_to_one_policy_with_its_card(library: Library, tmp_path: Path) -> None:
    kinds = ("clone", "primitive", "hard", "getup", "composer")
    config = replace(TINY, task=replace(TINY.task, limit=0.02))
    stages = [Stage(kind, sections=1) for kind in kinds]  # type: ignore[arg-type]
    demonstration = Demonstration(library.references[0], library.references[0].position, library.references[0].velocity, library.references[0].commands)
    path = train_policy(
        library, PuppetBackend(), tmp_path / "p.safetensors", stages, config, teacher=Holding(), demonstrations=[demonstration], card={"licence": "none"}
    )
    network, card = load_policy(path)
    assert network.config.primitives == 3
    assert card["samples"] > 0
    assert {clip["name"] for clip in card["clips"]} == {"standing", "bent"}
    text = (tmp_path / "p.md").read_text()
    assert "licence: none" in text
    assert "| bent |" in text
    assert (tmp_path / "p.png").stat().st_size > 1000
    assert [line.partition(",")[0] for line in (tmp_path / "p.csv").read_text().splitlines()[1:]][::2]


def test_checkpoints_that_are_pickles_or_of_another_training_are_refused(library: Library, tmp_path: Path) -> None:
    stages, path = [Stage("primitive", sections=1)], tmp_path / "p.checkpoint.safetensors"
    path.write_bytes(pickle.dumps({"policy": 1}))
    with pytest.raises(FileFormatError, match="pickled checkpoints"):
        train_policy(library, PuppetBackend(), tmp_path / "p.safetensors", stages, TINY)
    with pytest.raises(InputError, match="unfinished"):
        train_policy(library, PuppetBackend(), tmp_path / "p.safetensors", stages, TINY, resume=False)


def test_a_checkpoint_of_other_settings_is_refused_by_name(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = Reinforcement.section
    monkeypatch.setattr(Reinforcement, "section", lambda self, number: section(self, number) if number == 0 else (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train_policy(library, PuppetBackend(), tmp_path / "p.safetensors", [Stage("primitive", sections=2)], TINY, checkpoint_minutes=0.0)
    with pytest.raises(InputError, match=r"\(seed\)"):
        train_policy(library, PuppetBackend(), tmp_path / "p.safetensors", [Stage("primitive", sections=2)], replace(TINY, seed=1))


def test_stages_are_read_from_text() -> None:
    assert parse_stages("clone:20, primitive:0.5") == [Stage("clone", 20.0), Stage("primitive", 0.5)]
    with pytest.raises(UnknownNameError, match="nearest: primitive"):
        parse_stages("primitiv:3")
    for wrong, told in (("clone", "how many minutes"), ("clone:x", "how many minutes"), ("clone:-1", "positive"), ("clone:nan", "positive")):
        with pytest.raises(InputError, match=told):
            parse_stages(wrong)


@pytest.mark.parametrize(
    ("kinds", "told"),
    [
        ([], "at least one"),
        (["clone"], "teacher"),
        (["hard", "composer"], "begins with"),
        (["primitive", "hard"], "end with"),
        (["primitive", "composer"], "more than one primitive"),
        (["primitive", "hard", "composer", "getup"], "comes last"),
    ],
)
def test_stages_that_make_no_sense_are_refused(library: Library, tmp_path: Path, kinds: list[Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        train_policy(library, PuppetBackend(), tmp_path / "p.safetensors", [Stage(kind, sections=1) for kind in kinds], TINY)


def test_settings_are_typed_and_known() -> None:
    config = configured({"ppo.learning_rate": "1e-4", "policy.hidden": "[256, 256]", "policy.action": "absolute", "device": "cuda"})
    assert config.ppo.learning_rate == 1e-4
    assert config.policy == PolicyConfig(hidden=(256, 256), action="absolute")
    assert config.device == "cuda"
    assert configured({}) == ImitationTraining()
    with pytest.raises(UnknownNameError, match=r"ppo\.learning_rate"):
        configured({"ppo.learning_rat": "1"})
    with pytest.raises(OptionError, match=r"ppo\.learning_rate"):
        configured({"ppo.learning_rate": "fast"})
