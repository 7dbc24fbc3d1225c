"""Plans are simulated motion that keeps to its reference; what they are computed from agrees with finite differences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mujoco
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from imdy_plugin.adapters.smpl.motion import BodyMotion, global_rotations, joint_positions
from imdy_plugin.adapters.smpl.topology import JOINTS
from imdy_plugin.errors import InputError
from imdy_plugin.registry import get_sim_backend
from imdy_plugin.schema import GRAVITY
from imdy_plugin.sim.floor import lowest_points
from imdy_plugin.sim.humanoid import BODIES, STANDING_DEPTH, build_humanoid, joint_angles, motion_of, state_of
from imdy_plugin.sim.imitator import planning
from imdy_plugin.sim.imitator.base import CONTROL_RATE, SUBSTEPS, TIMESTEP
from imdy_plugin.sim.imitator.feedforward import feedforward_targets, strengths
from imdy_plugin.sim.imitator.planning import Plan, PlanSettings, flat_footed, plan_motion, standing
from imdy_plugin.sim.standin import build_standin, joint_offsets

Array = NDArray[np.float64]

MASS = 75.0
SHORT = PlanSettings(horizon=16, advance=12, first_improvements=2)
FRAMES = 25


@pytest.fixture(scope="module")
def person() -> Any:
    return build_standin(1.75, MASS)


def moved(turns: dict[str, Any], person: Any, frames: int = FRAMES, stands_on: str = "right_ankle") -> BodyMotion:
    """Joints turned by rotation vectors ``(3,)`` or ``(frames, 3)``, arms hanging; one ankle stays over one place, its foot on the ground."""
    vectors = np.zeros((frames, 24, 3))
    for joint, turn in ({"right_shoulder": [1.3, 0, 0], "left_shoulder": [-1.3, 0, 0]} | turns).items():
        vectors[:, JOINTS.index(joint)] = turn
    wxyz = Rotation.from_rotvec(vectors.reshape(-1, 3)).as_quat(scalar_first=True).reshape(frames, 24, 4)
    motion = BodyMotion(np.arange(frames) / CONTROL_RATE, np.zeros((frames, 3)), wxyz, "made/up")
    ankle = joint_positions(motion, joint_offsets(person))[:, JOINTS.index(stands_on)]
    motion = replace(motion, root_position=-ankle)
    return motion.placed(np.array([0.0, -float(lowest_points(motion, person)[..., 1].min()), 0.0]))


def squat(person: Any, frames: int = FRAMES, depth: float = 0.4) -> BodyMotion:
    """Down and up again with the right arm raised a little: the feet stay flat, the trunk upright."""
    bend = depth * (1 - np.cos(2 * np.pi * np.arange(frames) / (frames - 1))) / 2
    forward = np.outer(bend, [0.0, 0.0, 1.0])
    legs = {f"{side}_{joint}": times * forward for side in ("right", "left") for joint, times in (("hip", 1), ("knee", -2), ("ankle", 1))}
    return moved(legs | {"right_elbow": 0.5 * forward}, person, frames)


@pytest.fixture(scope="module")
def reference(person: Any) -> BodyMotion:
    return squat(person)


@pytest.fixture(scope="module")
def plan(person: Any, reference: BodyMotion) -> Plan:
    return plan_motion(person, reference, SHORT)


def planner_of(person: Any, reference: BodyMotion, settings: PlanSettings = SHORT) -> Any:
    return planning._Planner(person, reference, settings)


def errors(position: Array, person: Any, reference: BodyMotion) -> Array:
    """Mean distance of the joints from the reference with its soles on the ground [m], ``(frame,)``."""
    done, wanted = motion_of(reference.time[: len(position)], position), standing(reference, person).part(0, len(position))
    offsets = joint_offsets(person)
    return np.asarray(np.linalg.norm(joint_positions(done, offsets) - joint_positions(wanted, offsets), axis=-1).mean(axis=1))


def replayed(person: Any, position: Array, velocity: Array, target: Array) -> tuple[Array, Array]:
    """Positions and mean forces of the ground ``(step, 3)`` [N] under commands, in the backend that ships."""
    simulation = get_sim_backend("mujoco").start([person], timestep=TIMESTEP)
    simulation.reset(position[None], velocity[None])
    positions, forces = [position], []
    for command in target:
        forces.append(simulation.step_towards(command[None], SUBSTEPS).mean_ground_force[0].sum(axis=0))
        positions.append(simulation.state()[0][0])
    return np.array(positions), np.array(forces)


# The plan ---------------------------------------------------------------------------------------------------------------------


def test_a_plan_keeps_to_its_reference(person: Any, reference: BodyMotion, plan: Plan) -> None:
    assert plan.complete
    assert (plan.position.shape, plan.velocity.shape) == ((FRAMES, 99), (FRAMES, 75))
    assert (plan.target.shape, plan.gain.shape) == ((FRAMES - 1, 69), (FRAMES - 1, 69, 150))
    assert errors(plan.position, person, reference).mean() < 0.015


def test_planning_is_better_than_inverse_dynamics_alone(person: Any, reference: BodyMotion, plan: Plan) -> None:
    position, velocity = state_of(standing(reference, person))
    alone, _ = replayed(person, position[0], velocity[0], feedforward_targets(build_humanoid(person, TIMESTEP), position, velocity)[:-1])
    assert errors(plan.position, person, reference).max() < 0.7 * errors(alone, person, reference).max()


def test_a_plan_is_what_the_simulation_does_under_its_commands(person: Any, plan: Plan) -> None:
    again, _ = replayed(person, plan.position[0], plan.velocity[0], plan.target)
    np.testing.assert_allclose(again, plan.position, atol=1e-6)


def test_nothing_but_the_ground_and_gravity_moves_the_whole_body(person: Any, plan: Plan) -> None:
    model = build_humanoid(person, TIMESTEP).model
    data, momentum = mujoco.MjData(model), []
    for frame in (0, -1):
        data.qpos, data.qvel = plan.position[frame], plan.velocity[frame]
        mujoco.mj_forward(model, data)
        mujoco.mj_subtreeVel(model, data)
        momentum.append(MASS * data.subtree_linvel[1])
    _, force = replayed(person, plan.position[0], plan.velocity[0], plan.target)
    weight, duration = MASS * GRAVITY, (FRAMES - 1) / CONTROL_RATE
    needed = (momentum[1] - momentum[0]) / duration + np.array([0.0, weight, 0.0])
    np.testing.assert_allclose(force.mean(axis=0), needed, atol=0.01 * weight)
    assert 0.9 * weight < force[:, 1].mean() < 1.1 * weight


def test_the_commands_stay_within_human_strength(person: Any, plan: Plan) -> None:
    humanoid = build_humanoid(person, TIMESTEP)
    torque = humanoid.kp * (plan.target - joint_angles(plan.position[:-1])) - humanoid.kd * plan.velocity[:-1, 6:]
    assert np.sqrt(np.mean((torque / strengths()) ** 2)) < 1.0


def test_the_same_plan_is_made_twice(person: Any) -> None:
    still, quick = moved({}, person, frames=4), PlanSettings(horizon=2, advance=2, first_improvements=1)
    first, second = (plan_motion(person, still, quick) for _ in range(2))
    np.testing.assert_array_equal(first.target, second.target)
    np.testing.assert_array_equal(first.gain, second.gain)


def test_a_motion_that_cannot_be_followed_is_planned_as_far_as_it_goes(person: Any) -> None:
    flees = moved({}, person, frames=31)
    flees = flees.placed(np.outer(20.0 * flees.time**2, [1.0, 0.0, 0.0]))
    plan = plan_motion(person, flees, PlanSettings(horizon=4, advance=4, first_improvements=1, harder=(), lost=0.1, failed=0.1))
    assert not plan.complete
    assert 4 < len(plan.position) < 31
    assert len(plan.target) == len(plan.gain) == len(plan.position) - 1


def test_who_gets_lost_goes_back_and_looks_harder_until_it_was_tried_often_enough(person: Any) -> None:
    planner, guess = planner_of(person, moved({}, person, frames=5)), np.zeros((200, 69))
    planner.target = np.ones((200, 69))
    trail = planning._Trail([np.zeros(99)] * 131, [np.zeros(75)] * 131, [np.zeros(69)] * 130)
    assert planner._returned(trail, guess)
    assert (trail.frame, len(trail.position), len(trail.velocity), trail.level) == (55, 56, 56, 1)
    assert trail.hard_until > 130
    assert (guess[:55] == 0).all()
    assert (guess[55:] == 1).all()
    trail.target += [np.zeros(69)] * 75
    assert planner._returned(trail, guess)
    assert (trail.frame, trail.level) == (10, 2)
    trail.target += [np.zeros(69)] * 120
    assert not planner._returned(trail, guess)
    assert trail.frame == 130


@pytest.mark.parametrize(("frames", "rate"), [(2, 60.0), (1, 60.0), (20, 120.0), (20, 59.0)])
def test_a_reference_too_short_or_at_another_rate_is_refused(person: Any, frames: int, rate: float) -> None:
    motion = moved({}, person, frames)
    with pytest.raises(InputError, match=rf"'made/up' has {frames} frames.* 60 Hz \(resampled\)"):
        plan_motion(person, replace(motion, time=np.arange(frames) / rate))


# What it is computed from -----------------------------------------------------------------------------------------------------


def after(planner: Any, position: Array, velocity: Array, target: Array) -> tuple[Array, Array]:
    """The state after one command."""
    data = planner.data
    mujoco.mj_resetData(planner.model, data)
    data.qpos, data.qvel = position, velocity
    for _ in range(SUBSTEPS):
        planner._step(target)
    return data.qpos.copy(), data.qvel.copy()


def differences(planner: Any, position: Array, velocity: Array, target: Array, size: float = 1e-6) -> tuple[Array, Array]:
    """Central differences of the next state by this one ``(150, 150)`` and by the command ``(150, 69)``."""
    columns = []
    for index in range(150 + 69):
        ends = []
        for sign in (size, -size):
            p, v, t = position.copy(), velocity.copy(), target.copy()
            if index < 75:
                mujoco.mj_integratePos(planner.model, p, sign * np.eye(75)[index], 1.0)
            elif index < 150:
                v[index - 75] += sign
            else:
                t[index - 150] += sign
            ends.append(after(planner, p, v, t))
        turned = np.empty(75)
        mujoco.mj_differentiatePos(planner.model, turned, 2 * size, ends[1][0], ends[0][0])
        columns.append(np.concatenate([turned, (ends[0][1] - ends[1][1]) / (2 * size)]))
    whole = np.array(columns).T
    return whole[:, :150], whole[:, 150:]


def apart(planner: Any, position: Array, velocity: Array, target: Array) -> float:
    """How far the derivatives are from finite differences, over the size of these; the larger of both."""
    computed, measured = planner._derivatives(position, velocity, target), differences(planner, position, velocity, target)
    return max(float(np.linalg.norm(c - m) / np.linalg.norm(m)) for c, m in zip(computed, measured, strict=True))


STATES = ("in flight", "on the ground", "at a torque limit")


@pytest.fixture(scope="module")
def planner(person: Any, reference: BodyMotion) -> Any:
    return planner_of(person, standing(reference, person))


def state(kind: str, planner: Any) -> tuple[Array, Array, Array]:
    """In the middle of the squat, every joint turned and moving."""
    random = np.random.default_rng(5)
    position, velocity, target = planner.position[9].copy(), planner.velocity[9].copy(), planner.target[9].copy()
    turn = np.concatenate([np.zeros(3), random.normal(scale=0.02, size=72)])
    mujoco.mj_integratePos(planner.model, position, turn, 1.0)
    velocity[3:] += random.normal(scale=0.3, size=72)
    if kind == "in flight":
        position[1] += 0.5
    if kind == "at a torque limit":
        target[[3, 40]] += 3.0
    return position, velocity, target


@pytest.mark.parametrize("kind", STATES)
def test_derivatives_agree_with_finite_differences(kind: str, planner: Any) -> None:
    position, velocity, target = state(kind, planner)
    assert apart(planner, position, velocity, target) < 1e-3
    after(planner, position, velocity, target)
    assert (planner.data.ncon > 0) == (kind != "in flight")


def test_derivatives_need_the_turning_of_rotation_vectors(planner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_turning", lambda vectors: np.tile(np.eye(3), (len(vectors) // 3, 1, 1)))
    assert apart(planner, *state("on the ground", planner)) > 1e-2


@pytest.mark.parametrize(("sole", "exact"), [(0.0, slice(0, 150)), (0.1, slice(75, 150))])
def test_gradients_of_the_cost_agree_with_finite_differences(person: Any, reference: BodyMotion, sole: float, exact: slice) -> None:
    """By positions only but for the slip of the feet, whose Jacobian is taken as it is."""
    planner = planner_of(person, standing(reference, person), replace(SHORT, sole=sole))
    position, velocity, _ = state("on the ground", planner)
    gradient, curvature = planner._quadratic(12, position, velocity)
    measured = []
    for row in np.eye(150):
        costs = []
        for size in (1e-6, -1e-6):
            planner.data.qpos, planner.data.qvel = position, velocity + size * row[75:]
            mujoco.mj_integratePos(planner.model, planner.data.qpos, size * row[:75], 1.0)
            mujoco.mj_kinematics(planner.model, planner.data)
            costs.append(planner._state_cost(12))
        measured.append((costs[0] - costs[1]) / 2e-6)
    assert np.linalg.norm(measured[exact]) > 0.01
    np.testing.assert_allclose(gradient[exact], measured[exact], atol=1e-6)
    np.testing.assert_allclose(curvature, curvature.T, atol=1e-12)
    assert np.linalg.eigvalsh(curvature).min() > -1e-9


@pytest.mark.parametrize("caution", [0.0, 3.0])
def test_corrections_and_gains_solve_the_linear_quadratic_problem(planner: Any, caution: float) -> None:
    """Against one dense system for the commands of three steps; caution weighs the corrections besides."""
    start, steps, size = 8, 3, 150
    frames, random = slice(start, start + steps), np.random.default_rng(6)
    position, velocity, target = planner.position[start : start + steps + 1], planner.velocity[start : start + steps + 1] + 0.2, planner.target[frames] + 0.1
    dynamics = [(random.normal(scale=0.1, size=(size, size)), random.normal(scale=0.1, size=(size, 69))) for _ in range(steps)]
    correction, gain = planner._solved(start, planning._Stretch(position, velocity, target, 0.0), dynamics, caution)
    state, commands, wanted = np.zeros((size, steps * 69)), np.diag(np.tile(2 * planner.effort, steps)), np.tile(2 * planner.effort, steps) * 0.1
    for i, (by_state, by_target) in enumerate(dynamics):
        state = by_state @ state
        state[:, 69 * i : 69 * (i + 1)] += by_target
        factor = planner.settings.ending if i == steps - 1 else 1.0
        slope, curve = (factor * q for q in planner._quadratic(start + i + 1, position[i + 1], velocity[i + 1]))
        commands, wanted = commands + state.T @ curve @ state, wanted + state.T @ slope
    if caution == 0.0:
        departure, made = np.zeros(size), []
        for i, (by_state, by_target) in enumerate(dynamics):
            made.append(correction[i] + gain[i] @ departure)
            departure = by_state @ departure + by_target @ made[-1]
        np.testing.assert_allclose(np.concatenate(made), np.linalg.solve(commands, -wanted), rtol=1e-6, atol=1e-9)
    else:
        last = commands[-69:, -69:] + np.diag(2 * caution * planner.effort)
        np.testing.assert_allclose(correction[-1], np.linalg.solve(last, -wanted[-69:]), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("angle", [0.0, 1e-6, 9e-5, 2e-4, 0.5, 2.0, 3.1])
def test_turning_is_the_derivative_of_the_rotation_vector(angle: float) -> None:
    vectors = angle * np.array([[0.6, 0.0, 0.8], [-0.48, 0.8, 0.36]])
    made = planning._turning(vectors.ravel())
    for vector, turning in zip(vectors, made, strict=True):
        ends = [(Rotation.from_rotvec(vector) * Rotation.from_rotvec(size * np.eye(3))).as_rotvec() for size in (1e-6, -1e-6)]
        np.testing.assert_allclose(turning, (ends[0] - ends[1]).T / 2e-6, atol=1e-5)


def test_smoothest_solves_the_dense_problem() -> None:
    random = np.random.default_rng(2)
    values, weight, stiffness = random.normal(size=12), random.uniform(0.1, 3.0, 12), 7.0
    second = np.diff(np.eye(12), 2, axis=0)
    dense = np.linalg.solve(np.diag(weight) + stiffness * second.T @ second, weight * values)
    np.testing.assert_allclose(planning._smoothest(values, weight, stiffness), dense, rtol=1e-9)
    line = np.linspace(-1, 2, 12)
    np.testing.assert_allclose(planning._smoothest(line, weight, 1e4), line, atol=1e-8)


# Where the soles are -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("height", [-0.03, 0.0, 0.02, 0.3])
def test_the_lowest_sole_stands_as_deep_as_soles_give_way(person: Any, height: float) -> None:
    stands = standing(moved({}, person).placed(np.array([0.0, height, 0.0])), person)
    np.testing.assert_allclose(lowest_points(stands, person)[..., 1].min(axis=1), -STANDING_DEPTH, atol=5e-4)


def test_who_jumps_stays_in_the_air(person: Any) -> None:
    rise = np.concatenate([np.zeros(15), 0.2 * np.sin(np.linspace(0, np.pi, 25)), np.zeros(15)])
    still = moved({}, person, frames=55)
    low = lowest_points(standing(still.placed(np.outer(rise, [0.0, 1.0, 0.0])), person), person)[..., 1].min(axis=1)
    np.testing.assert_allclose(low[[0, -1]], -STANDING_DEPTH, atol=3e-3)
    assert low.max() > 0.17


def roll(motion: BodyMotion, side: str) -> Array:
    return np.asarray(np.arcsin(global_rotations(motion)[:, JOINTS.index(f"{side}_ankle"), 1, 2]))


def pitch(motion: BodyMotion, side: str) -> Array:
    return np.asarray(np.arcsin(global_rotations(motion)[:, JOINTS.index(f"{side}_ankle"), 1, 0]))


def one_legged(person: Any) -> BodyMotion:
    """On the right foot, which is rolled; the left, turned likewise, is in the air."""
    return moved({"right_ankle": [0.1, 0, 0], "left_hip": [0, 0, 0.6], "left_knee": [0, 0, -1.2], "left_ankle": [0.1, 0, 0.6]}, person)


def test_roll_is_taken_out_of_a_foot_that_stands(person: Any) -> None:
    motion = one_legged(person)
    level = flat_footed(motion, person)
    assert np.abs(roll(motion, "right")).min() > 0.09
    np.testing.assert_allclose(roll(level, "right"), 0.0, atol=1e-9)
    kept = [joint for joint in range(24) if JOINTS[joint] != "right_ankle"]
    same = np.abs(np.einsum("tjk,tjk->tj", motion.rotation_wxyz, level.rotation_wxyz))
    np.testing.assert_allclose(same[:, kept], 1.0, atol=1e-12)
    assert (same[:, JOINTS.index("right_ankle")] < 1 - 1e-3).all()


def test_a_foot_in_the_air_is_left_as_it_is(person: Any) -> None:
    motion = one_legged(person)
    assert np.abs(roll(motion, "left")).min() > 0.09
    np.testing.assert_allclose(roll(flat_footed(motion, person), "left"), roll(motion, "left"), atol=1e-12)


@pytest.mark.parametrize(("angle", "left"), [(np.radians(3.0), 0.0), (np.radians(-5.0), 0.0), (np.radians(-25.0), 1.0)])
def test_pitch_is_taken_out_only_where_it_is_small(person: Any, angle: float, left: float) -> None:
    motion = moved({"right_ankle": [0, 0, angle], "left_hip": [0, 0, 0.6], "left_knee": [0, 0, -1.2]}, person)
    np.testing.assert_allclose(pitch(flat_footed(motion, person), "right"), left * angle, atol=1e-6)


def test_a_foot_turned_outwards_is_levelled_along_its_own_direction(person: Any) -> None:
    outward, tilt = Rotation.from_rotvec([0, -0.5, 0]), Rotation.from_rotvec([0.08, 0, 0.05])
    motion = moved({"right_ankle": (outward * tilt).as_rotvec()}, person)
    foot = global_rotations(flat_footed(motion, person))[:, JOINTS.index("right_ankle")]
    np.testing.assert_allclose(foot[:, 1], np.tile([0.0, 1.0, 0.0], (FRAMES, 1)), atol=0.01)
    np.testing.assert_allclose(np.arctan2(-foot[:, 2, 0], foot[:, 0, 0]), -0.5, atol=0.02)


# The feed-forward ----------------------------------------------------------------------------------------------------------------


def test_inverse_dynamics_bears_the_weight_on_the_ground_and_nothing_in_free_fall(person: Any) -> None:
    humanoid, legs = build_humanoid(person, TIMESTEP), {"hip": 0.5, "knee": -1.0, "ankle": 0.5}
    bent = moved({f"{side}_{joint}": [0, 0, angle] for side in ("right", "left") for joint, angle in legs.items()}, person, frames=9)
    position, velocity = state_of(bent)
    torque = humanoid.kp * (feedforward_targets(humanoid, position, velocity) - joint_angles(position))
    knees = [3 * (BODIES.index(f"{side}_knee") - 1) + 2 for side in ("right", "left")]
    assert torque[4, knees].min() > 20.0
    falling = velocity.copy()
    falling[:, 1] = -GRAVITY * np.arange(9) / CONTROL_RATE
    aloft = position + np.eye(99)[1]
    np.testing.assert_allclose(feedforward_targets(humanoid, aloft, falling), joint_angles(aloft), atol=1e-6)
