"""Whether a frame is data: the check against engine and other mechanics, and what it must find."""

from __future__ import annotations

from dataclasses import replace

import mujoco
import numpy as np
import pytest
import xarray as xr
from scipy.spatial.transform import Rotation

from imdy_plugin.adapters.smpl.dataset import from_coordinates, to_coordinates
from imdy_plugin.adapters.smpl.motion import BodyMotion
from imdy_plugin.errors import InputError
from imdy_plugin.schema import new_motion
from imdy_plugin.sim.backends.mujoco import MujocoBackend
from imdy_plugin.sim.dynamics import place, required_force, tree_of
from imdy_plugin.sim.humanoid import BODIES, build_humanoid, joint_angles, state_of
from imdy_plugin.sim.imitator.base import CONTROL_RATE, TIMESTEP, Controller
from imdy_plugin.sim.records import Episode, position_of, record_of
from imdy_plugin.sim.rollout import Part, roll_out
from imdy_plugin.sim.standin import build_standin
from imdy_plugin.sim.validity import LIMIT, checked, lawful_ground, residual
from imdy_plugin.sim.variation import Variation
from imdy_plugin.solvers.body_load import BodyLoad
from imdy_plugin.solvers.multibody.mechanics import body_mechanics

FRAMES = 40


class Holding(Controller):
    """Asks each joint for the angle that the reference has next."""

    def __init__(self, reference: BodyMotion) -> None:
        self.angles = joint_angles(state_of(reference)[0])

    def target(self, frame: int, position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        return self.angles[frame + 1]


@pytest.fixture(scope="module")
def person() -> xr.Dataset:
    return build_standin(1.8, 80.0)


@pytest.fixture(scope="module")
def motion(person: xr.Dataset) -> BodyMotion:
    """Standing with swinging arms, begun a little above the ground, so that it lands."""
    time = np.arange(FRAMES + 1) / CONTROL_RATE
    rotation = np.zeros((len(time), 24, 4))
    rotation[..., 0] = 1.0
    for joint, size in ((16, 0.8), (17, -0.5), (18, 0.4), (1, 0.2), (5, -0.3)):
        angle = size * np.sin(2 * np.pi * time)
        rotation[:, joint, 0], rotation[:, joint, 3] = np.cos(angle / 2), np.sin(angle / 2)
    root = np.zeros((len(time), 3))
    root[:, 1] = float(person["coordinate_default"].values[1]) + 0.01
    root[:, 0] = 3.0 + 0.5 * time
    return BodyMotion(time, root, rotation, "swing")


@pytest.fixture(scope="module")
def episode(person: xr.Dataset, motion: BodyMotion) -> Episode:
    simulation = MujocoBackend().start([person], timestep=TIMESTEP)
    return roll_out(simulation, [Part(person, motion, Holding(motion), Variation())])[0]


@pytest.fixture(scope="module")
def record(episode: Episode, person: xr.Dataset) -> xr.Dataset:
    return checked(record_of(episode, person, {}), person)


def test_inverse_dynamics_are_those_of_the_engine(person: xr.Dataset) -> None:
    rng = np.random.default_rng(0)
    frames = 50
    position = rng.normal(size=(frames, 99))
    position[:, 3:] = (position[:, 3:].reshape(frames, 24, 4) / np.linalg.norm(position[:, 3:].reshape(frames, 24, 4), axis=-1, keepdims=True)).reshape(
        frames, -1
    )
    velocity, acceleration = 3 * rng.normal(size=(frames, 75)), 10 * rng.normal(size=(frames, 75))
    force, moment = 300 * rng.normal(size=(frames, 24, 3)), 50 * rng.normal(size=(frames, 24, 3))
    tree = tree_of(person, BODIES)
    found = required_force(tree, place(tree, position), velocity, acceleration, force, moment)
    wanted = _by_the_engine(person, position, velocity, acceleration, force, moment)
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    heavier = replace(tree, mass=tree.mass * np.where(np.arange(24) == 5, 1.01, 1.0))
    assert np.abs(required_force(heavier, place(tree, position), velocity, acceleration, force, moment) - wanted).max() > 0.1


def _by_the_engine(person, position, velocity, acceleration, force, moment):
    model = build_humanoid(person).model
    data, wanted = mujoco.MjData(model), np.empty_like(velocity)
    for frame in range(len(position)):
        data.qpos[:], data.qvel[:], data.qacc[:] = position[frame], velocity[frame], acceleration[frame]
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_comVel(model, data)
        mujoco.mj_rne(model, data, 1, wanted[frame])
        loads = np.zeros(75)
        for body in range(24):
            mujoco.mj_applyFT(model, data, force[frame, body], moment[frame, body], position[frame, :3], body + 1, loads)
        wanted[frame] -= loads
    return wanted


def test_inverse_dynamics_are_those_of_the_multibody_mechanics(person: xr.Dataset) -> None:
    """The same motion in scalar coordinates, through the mechanics that solvers use; what joins the two is differentiated numerically."""
    rng = np.random.default_rng(1)
    mechanics, tree = body_mechanics(person), tree_of(person)
    start, rate, change = rng.uniform(-0.6, 0.6, (3, len(mechanics.coordinates))) * np.array([[1.0], [4.0], [20.0]])
    step = 1e-4
    path = [start + rate * t + 0.5 * change * t**2 for t in step * np.arange(-2, 3)]
    states = _states(person, np.array(path))
    spin = [_spin(before, after, 2 * step) for before, after in zip(states, states[2:], strict=False)]
    velocity = np.concatenate([rate[:3], spin[1].ravel()])
    acceleration = np.concatenate([change[:3], ((spin[2] - spin[0]) / (2 * step)).ravel()])
    axes = np.array([_spin(*_states(person, np.array([start - 1e-6 * unit, start + 1e-6 * unit])), 2e-6) for unit in np.eye(len(start))])
    load = BodyLoad("left_ankle", np.array([[30.0, 400.0, -20.0]]), np.array([[0.1, 0.0, 0.2]]), np.array([[0.0, 5.0, 0.0]]))
    force, moment = np.zeros((1, 24, 3)), np.zeros((1, 24, 3))
    ankle = tree.bodies.index("left_ankle")
    force[0, ankle], moment[0, ankle] = load.force[0], load.moment[0] + np.cross(load.point[0] - states[2, :3], load.force[0])
    found = required_force(tree, place(tree, states[2:3]), velocity[None], acceleration[None], force, moment)[0]
    generalized = np.einsum("cjk,jk->c", axes, found[3:].reshape(24, 3))
    generalized[:3] += found[:3]
    wanted = mechanics.inverse_dynamics(start[None], rate[None], change[None], [load])[0]
    np.testing.assert_allclose(generalized, wanted, atol=1e-6 * np.abs(wanted).max())


def _states(person: xr.Dataset, values: np.ndarray) -> np.ndarray:
    """Places and quaternions of coordinates ``(time, coordinate)``, bodies in the model's order."""
    motion = new_motion(np.arange(len(values), dtype=float), coordinates=([str(c) for c in person["coordinate"].values], values))
    moved = from_coordinates(motion)
    return np.concatenate([moved.root_position, moved.rotation_wxyz.reshape(len(values), -1)], axis=1)


def _spin(before: np.ndarray, after: np.ndarray, step: float) -> np.ndarray:
    """Angular velocities ``(24, 3)`` along the axes of the turned bodies."""
    first, second = (Rotation.from_quat(state[3:].reshape(24, 4), scalar_first=True) for state in (before, after))
    middle = first * Rotation.from_rotvec(0.5 * (first.inv() * second).as_rotvec())
    return middle.inv().apply((second * first.inv()).as_rotvec()) / step


def test_stored_frames_close_the_equations_of_motion(record: xr.Dataset) -> None:
    assert record["ground_force"].values[..., 1].sum(axis=1).max() > 80 * 9.8
    assert record["valid"].values.all()
    assert max(record["residual_force"].values.max(), record["residual_moment"].values.max()) < 0.5 * LIMIT
    assert not record["failed"].values.any()


def test_a_torque_off_by_a_hundredth_is_found(record: xr.Dataset, person: xr.Dataset) -> None:
    wrong = record["torque"].copy()
    wrong.loc[{"joint": "left_knee"}] *= 1.01
    found = residual(record.assign(torque=wrong), person)
    assert (found.moment > 10 * LIMIT).mean() > 0.9
    assert (found.force < LIMIT).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_hidden_newton_on_the_pelvis_is_found(person: xr.Dataset, motion: BodyMotion, axis: int) -> None:
    """The engine is made to push. It counts that as a force of the ground on the pelvis where the feet touch too, and not where they do not."""
    simulation = MujocoBackend().start([person], timestep=TIMESTEP)
    simulation._worlds[0].data.xfrc_applied[1, axis] = 1.0
    (episode,) = roll_out(simulation, [Part(person, motion, Holding(motion), Variation())])
    found = residual(record_of(episode, person, {}), person)
    np.testing.assert_allclose(found.force[0], 1.0 / (80.0 * 9.80665), rtol=1e-3)
    assert not found.valid.any()


def test_ground_that_pulls_or_holds_is_not_the_ground(episode: Episode, person: xr.Dataset) -> None:
    tree = tree_of(person, episode.bodies)
    placed, force = place(tree, episode.position), episode.ground_force
    assert lawful_ground(tree, placed, force).all()
    for wrong in ([0.0, -2.0, 0.0], [500.0, 300.0, 400.0]):
        pulled = force.copy()
        pulled[7, tree.bodies.index("left_ankle")] = wrong
        np.testing.assert_array_equal(np.flatnonzero(~lawful_ground(tree, placed, pulled)), [7])
    held = force.copy()
    held[9, tree.bodies.index("head"), 1] = 5.0
    np.testing.assert_array_equal(np.flatnonzero(~lawful_ground(tree, placed, held)), [9])


def test_a_dropped_contact_is_found(record: xr.Dataset, person: xr.Dataset) -> None:
    touched = record["ground_force"].sel(body="right_ankle").values[:, 1] > 1.0
    dropped = record["ground_force"].copy()
    dropped.loc[{"body": "right_ankle"}] = 0.0
    found = residual(record.assign(ground_force=dropped), person)
    assert touched.any()
    assert not found.valid[touched].any()


def test_a_lost_free_moment_is_found(record: xr.Dataset, person: xr.Dataset) -> None:
    found = residual(record.assign(free_moment=record["free_moment"] * 0.0), person)
    assert (found.moment > 10 * LIMIT).any()


def test_what_is_not_finite_is_not_valid(record: xr.Dataset, person: xr.Dataset) -> None:
    broken = record["angular_acceleration"].copy()
    broken[{"time": 7}] = np.nan
    valid = checked(record.assign(angular_acceleration=broken), person)["valid"].values
    assert not valid[7]
    assert valid[:7].all()
    assert valid[8:].all()


def test_frames_after_a_failure_are_marked_and_stay_so(record: xr.Dataset, person: xr.Dataset) -> None:
    away = record["reference_root_position"].copy()
    away[{"time": slice(20, 25)}] += [0.0, 0.0, 1.0]
    found = checked(record.assign(reference_root_position=away), person)
    assert not found["failed"].values[:20].any()
    assert found["failed"].values[20:].all()
    assert found["valid"].values.all()
    assert found["joint_error"].values[22] > 0.9


def test_the_order_of_bodies_does_not_matter(record: xr.Dataset, person: xr.Dataset) -> None:
    bodies, joints = list(BODIES), list(BODIES[1:])
    turned = record.sel(body=bodies, joint=joints)
    assert bodies != [str(b) for b in record["body"].values]
    found = residual(turned, person)
    np.testing.assert_allclose(found.moment, record["residual_moment"].values, atol=1e-9)


def test_landmarks_are_where_the_mechanics_put_them(record: xr.Dataset, person: xr.Dataset) -> None:
    state = position_of(record)
    mechanics = body_mechanics(person)
    motion = BodyMotion(record["time"].values, state[:, :3], state[:, 3:].reshape(len(state), 24, 4))
    values = to_coordinates(person, motion)["coordinate_value"].values
    np.testing.assert_allclose(record["marker_position"].values, mechanics.marker_positions(values), atol=1e-4)


def test_a_model_with_turned_joint_frames_is_refused(person: xr.Dataset) -> None:
    turned = person["joint_parent_orientation"].copy()
    turned[3, 1] = 0.1
    with pytest.raises(InputError, match="joint_parent_orientation"):
        tree_of(person.assign(joint_parent_orientation=turned))
    with pytest.raises(InputError, match="listed before 'pelvis'"):
        tree_of(person, [*BODIES[1:], BODIES[0]])
    with pytest.raises(InputError, match="right_hand"):
        tree_of(person, [b for b in BODIES if b != "right_hand"])
