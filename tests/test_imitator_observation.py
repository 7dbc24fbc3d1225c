"""What an imitator sees, and what it is rewarded for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from imdy_plugin.adapters.smpl.motion import BodyMotion, global_rotations, joint_positions
from imdy_plugin.errors import InputError
from imdy_plugin.sim.humanoid import BODIES, ORDER, build_humanoid, state_of
from imdy_plugin.sim.imitator.feedforward import feedforward_targets
from imdy_plugin.sim.imitator.observation import (
    OWN_SIZE,
    STYLE_SIZE,
    TASK_SIZE,
    Kinematics,
    headings,
    kinematics,
    observe,
    own_state,
    simulated_offsets,
    style_state,
    task_state,
)
from imdy_plugin.sim.imitator.reference import Library, lay_out
from imdy_plugin.sim.imitator.reward import RewardConfig, approach_reward, failed, imitation_reward, power_cost, rotation_angles
from imdy_plugin.sim.standin import build_standin, joint_offsets

RATE = 60.0


@pytest.fixture(scope="module")
def person() -> Any:
    return build_standin()


@pytest.fixture(scope="module")
def motion() -> BodyMotion:
    """Every joint turns smoothly, the pelvis walks about."""
    random = np.random.default_rng(3)
    time = np.arange(120) / RATE
    phase, size = random.uniform(0, 6, (24, 3)), random.uniform(-0.5, 0.5, (24, 3))
    vectors = size * np.sin(2.0 * time[:, None, None] + phase)
    vectors[:, 0, 1] += 2.0 * time
    wxyz = Rotation.from_rotvec(vectors.reshape(-1, 3)).as_quat(scalar_first=True).reshape(-1, 24, 4)
    root = np.stack([0.8 * time, 0.95 + 0.05 * np.sin(5 * time), 0.3 * np.sin(time)], axis=1)
    return BodyMotion(time, root, wxyz, "moving")


@pytest.fixture(scope="module")
def body(person: Any, motion: BodyMotion) -> Kinematics:
    return kinematics(*state_of(motion), simulated_offsets(person))


def turned(body: Kinematics, angle: float, shift: tuple[float, float]) -> Kinematics:
    """The same people elsewhere on the ground, facing another way."""
    turn = Rotation.from_rotvec([0, angle, 0]).as_matrix()
    away = np.array([shift[0], 0.0, shift[1]])
    return Kinematics(body.position @ turn.T + away, turn @ body.rotation, body.velocity @ turn.T, body.angular_velocity @ turn.T)


def test_bodies_are_where_the_motion_has_its_joints(person: Any, motion: BodyMotion, body: Kinematics) -> None:
    order = list(ORDER)
    assert body.position == pytest.approx(joint_positions(motion, joint_offsets(person))[:, order], abs=1e-12)
    assert body.rotation == pytest.approx(global_rotations(motion)[:, order], abs=1e-12)


def test_velocities_are_those_of_the_positions(body: Kinematics) -> None:
    numerical = (body.position[2:] - body.position[:-2]) * RATE / 2
    assert body.velocity[1:-1] == pytest.approx(numerical, abs=0.01)
    assert np.abs(numerical).max() > 1.0
    spin = Rotation.from_matrix((body.rotation[2:] @ np.swapaxes(body.rotation[:-2], -1, -2)).reshape(-1, 3, 3)).as_rotvec().reshape(-1, 24, 3) * RATE / 2
    assert body.angular_velocity[1:-1] == pytest.approx(spin, abs=0.02)


def test_sizes_are_those_of_the_recipe(body: Kinematics, motion: BodyMotion) -> None:
    assert (OWN_SIZE, TASK_SIZE, STYLE_SIZE) == (358, 576, 232)
    assert own_state(body).shape == (120, 358)
    assert task_state(body, body).shape == (120, 576)
    assert observe(body, [body, body]).shape == (120, 358 + 2 * 576)
    assert style_state(body, *state_of(motion)).shape == (120, 232)


def test_neither_place_nor_heading_is_seen(body: Kinematics) -> None:
    later = body[np.minimum(np.arange(120) + 5, 119)]
    seen = observe(body, [later])
    elsewhere = observe(turned(body, 2.1, (3.0, -7.0)), [turned(later, 2.1, (3.0, -7.0))])
    assert elsewhere == pytest.approx(seen, abs=1e-5)
    assert np.abs(observe(body, [turned(later, 0.5, (0.0, 0.0))]) - seen).max() > 0.1, "the reference alone turned is another sight"
    leaning = Rotation.from_rotvec([0.3, 0, 0]).as_matrix()
    assert np.abs(own_state(Kinematics(body.position, leaning @ body.rotation, body.velocity, body.angular_velocity)) - own_state(body)).max() > 0.1


def test_own_state_says_what_it_should(body: Kinematics) -> None:
    state = own_state(body)
    assert state[:, 0] == pytest.approx(body.position[:, 0, 1])
    lengths = np.linalg.norm(state[:, 1:70].reshape(-1, 23, 3), axis=-1)
    assert lengths == pytest.approx(np.linalg.norm(body.position[:, 1:] - body.position[:, :1], axis=-1))
    forward = state[:, 70:73]
    assert np.abs(forward[:, 2]).max() < 0.5, "the pelvis looks about along its heading, so hardly to the side"


def test_nothing_is_to_be_done_where_the_reference_is_reached(body: Kinematics) -> None:
    task = task_state(body, body)
    assert task[:, :72] == pytest.approx(0.0)
    assert task[:, 72 + 144 : 72 + 144 + 144] == pytest.approx(0.0, abs=1e-12)
    assert task[:, 72 : 72 + 144] == pytest.approx(np.tile([1, 0, 0, 0, 1, 0], 24)[None].repeat(120, axis=0), abs=1e-12)


def test_heading_of_somebody_who_lies_is_known() -> None:
    lying = Rotation.from_euler("YZ", [[0.7, np.pi / 2], [0.7, -np.pi / 2], [0.7, 0.0]])
    expected = Rotation.from_rotvec([0, 0.7, 0]).as_matrix()
    assert headings(lying.as_matrix()) == pytest.approx(expected[None].repeat(3, axis=0), abs=1e-12)
    upside_down = Rotation.from_rotvec([[np.pi, 0, 0]]).as_matrix()
    assert np.isfinite(headings(upside_down)).all()


def test_reward_is_one_at_the_reference_and_falls_away_from_it(body: Kinematics) -> None:
    assert imitation_reward(body, body) == pytest.approx(1.0)
    moved = Kinematics(body.position + np.array([0.1, 0, 0]), body.rotation, body.velocity, body.angular_velocity)
    assert imitation_reward(body, moved) == pytest.approx(0.5 * np.exp(-100 * 0.01 / 3) + 0.5)
    spun = Kinematics(body.position, Rotation.from_rotvec([0.2, 0, 0]).as_matrix() @ body.rotation, body.velocity, body.angular_velocity)
    assert imitation_reward(body, spun) == pytest.approx(0.3 * np.exp(-10 * 0.04) + 0.7)
    faster = Kinematics(body.position, body.rotation, body.velocity + np.array([3.0, 0, 0]), body.angular_velocity - [0, 0, 6.0])
    assert imitation_reward(body, faster) == pytest.approx(0.1 * np.exp(-0.1 * 3) + 0.1 * np.exp(-0.1 * 12) + 0.8)


def test_angles_between_rotations() -> None:
    a = Rotation.from_rotvec([[0.1, 0, 0], [0, 0, 0], [0, np.pi, 0]]).as_matrix()
    assert rotation_angles(a, np.eye(3)) == pytest.approx([0.1, 0.0, np.pi])


def test_power_costs_whichever_sign_it_has() -> None:
    torque = np.array([[[2.0, -3.0], [4.0, -1.0]]])
    assert power_cost(torque, np.array([[1.0, 2.0]]), RewardConfig(power=0.5)) == pytest.approx([0.5 * (8.0 + 6.0) / 2])


def test_coming_nearer_is_rewarded(body: Kinematics) -> None:
    nearer = Kinematics(body.position * [0.5, 1, 0.5], body.rotation, body.velocity, body.angular_velocity)
    target = Kinematics(np.zeros_like(body.position), body.rotation, body.velocity, body.angular_velocity)
    assert (approach_reward(nearer, body, target)[30:] > 0.05).all()
    assert (approach_reward(body, nearer, target)[30:] < -0.05).all()


def test_an_episode_fails_by_any_joint_or_by_their_mean(body: Kinematics) -> None:
    hand = np.zeros((24, 3))
    hand[BODIES.index("left_hand")] = [0.3, 0, 0]
    off = Kinematics(body.position + hand, body.rotation, body.velocity, body.angular_velocity)
    assert failed(off, body).all()
    assert not failed(off, body, rule="mean", limit=0.5).any()
    assert failed(Kinematics(body.position + 0.4, *list(vars(body).values())[1:]), body, rule="mean", limit=0.5).all()
    assert not failed(body, body).any()


def test_base_commands_are_those_of_the_feedforward(person: Any, motion: BodyMotion) -> None:
    reference = lay_out(person, motion)
    expected = feedforward_targets(build_humanoid(person), reference.position, reference.velocity)
    assert reference.base(10, "residual") == pytest.approx(expected[10])
    assert reference.base(500, "residual") == pytest.approx(expected[-1])
    assert not reference.base(10, "absolute").any()


def test_soles_are_brought_to_the_ground(person: Any) -> None:
    wxyz = np.zeros((30, 24, 4))
    wxyz[..., 0] = 1.0
    high = BodyMotion(np.arange(30) / RATE, np.tile([0.0, 1.03, 0.0], (30, 1)), wxyz, "standing")
    reference = lay_out(person, high)
    assert reference.motion is high
    assert (reference.position[:, 1] < 1.02).all()


def test_library_gives_each_world_its_frame(person: Any, motion: BodyMotion) -> None:
    library = Library([lay_out(person, motion), lay_out(person, motion.part(20, 60))])
    clip, frame = np.array([1, 0, 1]), np.array([5, 25, 500])
    body = library.body(clip, frame)
    assert body.position[0] == pytest.approx(library.references[1].body.position[5])
    assert body.position[1] == pytest.approx(library.references[0].body.position[25])
    assert body.position[2] == pytest.approx(library.references[1].body.position[-1])
    assert library.state(clip, frame)[0][1] == pytest.approx(library.references[0].position[25])
    assert library.base(clip, frame, "residual")[1] == pytest.approx(library.references[0].base(25, "residual"))
    assert library.style(clip, frame, 4)[1] == pytest.approx(library.references[0].style[22:26])
    assert library.style_windows(7, 10, np.random.default_rng(0)).shape == (7, 2320)


def test_the_same_person_is_known_again(motion: BodyMotion) -> None:
    people = [build_standin(), build_standin(), build_standin(mass=90.0)]
    library = Library([lay_out(person, motion) for person in people])
    assert library.owners.tolist() == [0, 0, 2]
    assert library.people(np.array([1, 0, 2])) == [people[0], people[0], people[2]]


def test_motions_too_short_or_missing_are_refused(person: Any, motion: BodyMotion) -> None:
    with pytest.raises(InputError, match="2 frames"):
        lay_out(person, motion.part(0, 2))
    with pytest.raises(InputError, match="no motion"):
        Library([])
