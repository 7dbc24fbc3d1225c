"""The backends that ship pass the test that every backend passes; backends that break it are caught."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import mujoco
import numpy as np
import pytest

from imdy_plugin import registry
from imdy_plugin.errors import InputError, UnknownNameError
from imdy_plugin.interfaces import SimBackend, Simulation, StepRecord
from imdy_plugin.sim.backends.base import DivergedError
from imdy_plugin.sim.backends.mujoco import MujocoBackend, MujocoSimulation, build_models
from imdy_plugin.sim.humanoid import build_humanoid
from imdy_plugin.sim.standin import build_standin
from imdy_plugin.testing import SimBackendContract, contract_people


class TestMujoco(SimBackendContract):
    backend = MujocoBackend


class TestMujocoOneThread(SimBackendContract):
    backend = MujocoBackend
    options: ClassVar = {"threads": 1}


class _Falsified(Simulation):
    """MuJoCo's simulation with one thing about it false."""

    def __init__(self, true: MujocoSimulation, change: Callable[[StepRecord], StepRecord]) -> None:
        self._true, self._change = true, change
        for name in ("worlds", "timestep", "bodies", "position_size", "velocity_size", "torque_size"):
            setattr(self, name, getattr(true, name))

    def reset(self, *arguments: Any) -> None:
        self._true.reset(*arguments)

    def state(self) -> tuple[Any, Any]:
        return self._true.state()

    def step(self, torque: Any, substeps: int = 1) -> StepRecord:
        return self._change(self._true.step(torque, substeps))

    def step_towards(self, target: Any, substeps: int = 1) -> StepRecord:
        return self._change(self._true.step_towards(target, substeps))


def _contract(change: Callable[[StepRecord], StepRecord]) -> SimBackendContract:
    class Falsified(SimBackend):
        name, summary = "falsified", "MuJoCo with one thing about it false"

        def start(self, people: Any, *, timestep: float = 1 / 120, seed: int = 0) -> Simulation:
            return _Falsified(MujocoBackend().start(people, timestep=timestep), change)

    return type("Contract", (SimBackendContract,), {"backend": Falsified})()


def _fails(contract: SimBackendContract, check: str) -> None:
    with pytest.raises(AssertionError):
        getattr(contract, check)(lambda people=None, **options: contract.backend().start(people or contract_people(), **options))


WRONG: dict[str, tuple[Callable[[StepRecord], StepRecord], tuple[str, ...]]] = {
    "torque": (
        lambda r: replace(r, torque=1.01 * r.torque),
        (
            "test_equations_of_motion_close_in_flight",
            "test_equations_of_motion_close_on_the_ground",
            "test_torque_is_recorded_as_applied",
            "test_control_follows_its_law",
        ),
    ),
    "force": (lambda r: replace(r, ground_force=1.0001 * r.ground_force), ("test_equations_of_motion_close_on_the_ground",)),
    "mean force": (lambda r: replace(r, mean_ground_force=1.01 * r.mean_ground_force), ("test_ground_carries_the_weight", "test_substeps_are_steps")),
    "moment": (
        lambda r: replace(r, ground_moment=r.ground_moment + 1e-3),
        ("test_equations_of_motion_close_on_the_ground", "test_only_what_touches_is_pushed"),
    ),
    "mean moment": (lambda r: replace(r, mean_ground_moment=0.9 * r.mean_ground_moment), ("test_ground_carries_the_weight",)),
    "acceleration": (lambda r: replace(r, acceleration=1.0001 * r.acceleration), ("test_equations_of_motion_close_in_flight", "test_substeps_are_steps")),
    "noise": (lambda r: replace(r, torque=r.torque + 1e-12 * np.random.default_rng().normal(size=r.torque.shape)), ("test_is_deterministic",)),
}


@pytest.mark.parametrize(("wrong", "check"), [(wrong, check) for wrong, (_, checks) in WRONG.items() for check in checks])
def test_the_contract_catches_a_record_that_is_not_what_acted(wrong: str, check: str) -> None:
    _fails(_contract(WRONG[wrong][0]), check)


class Worn(MujocoBackend):
    """A backend whose people are not those that were asked for: their joints have friction, which nobody records."""

    def start(self, people: Any, **options: Any) -> MujocoSimulation:
        simulation = super().start(people, **options)
        for world in simulation._worlds:
            world.person.effort.dof_damping[6:] = 0.05
            world.person.damped.dof_damping[6:] = 0.05
        return simulation


class Held(MujocoBackend):
    """A backend that holds people by the pelvis."""

    def start(self, people: Any, **options: Any) -> MujocoSimulation:
        simulation = super().start(people, **options)
        for world in simulation._worlds:
            world.data.xfrc_applied[1, 1] = 20.0
        return simulation


@pytest.mark.parametrize(
    ("backend", "check"),
    [
        (Worn, "test_equations_of_motion_close_in_flight"),
        (Held, "test_equations_of_motion_close_on_the_ground"),
        (Held, "test_falls_freely"),
        (Held, "test_keeps_momentum_in_flight"),
    ],
)
def test_the_contract_catches_what_acts_in_secret(backend: type[MujocoBackend], check: str) -> None:
    _fails(type("Contract", (SimBackendContract,), {"backend": backend})(), check)


@pytest.fixture
def falling() -> Iterator[tuple[MujocoSimulation, np.ndarray]]:
    """Four people who fall over under targets that do not hold them up, and those targets, over forty steps."""
    people = [build_standin(1.6 + 0.1 * i, 55.0 + 10 * i) for i in range(4)]
    simulation = MujocoBackend().start(people, threads=3)
    yield simulation, 0.3 * np.random.default_rng(0).normal(size=(40, 4, 69))
    simulation.close()


def _begin(simulation: Simulation) -> tuple[np.ndarray, np.ndarray]:
    position = np.zeros((simulation.worlds, 99))
    position[:, 3::4], position[:, 1] = 1.0, 0.95
    return position, np.zeros((simulation.worlds, 75))


def _histories(simulation: Simulation, targets: np.ndarray) -> np.ndarray:
    simulation.reset(*_begin(simulation))
    rows = []
    for target in targets:
        record = simulation.step_towards(target, 2)
        rows.append(np.concatenate([*simulation.state(), record.torque.reshape(len(target), -1), record.mean_ground_moment.reshape(len(target), -1)], axis=1))
    return np.array(rows)


def test_threads_change_no_bit(falling: tuple[MujocoSimulation, np.ndarray]) -> None:
    simulation, targets = falling
    alone = MujocoBackend().start([build_standin(1.6 + 0.1 * i, 55.0 + 10 * i) for i in range(4)], threads=1)
    np.testing.assert_array_equal(_histories(simulation, targets), _histories(alone, targets))


def test_loads_are_the_forces_of_the_contacts() -> None:
    """Force and moment of every body are the sums over MuJoCo's own list of contacts, and give its constraint forces."""
    simulation = MujocoBackend().start([build_standin()])
    simulation.reset(*_begin(simulation))
    world, most = simulation._worlds[0], 0
    for _ in range(20):
        record = simulation.step_towards(np.full((1, 69), 0.05))
        force, moment, generalized = np.zeros((24, 3)), np.zeros((24, 3)), np.zeros(75)
        for number, contact in enumerate(world.data.contact):
            local, forward, turning = np.zeros(6), np.zeros((3, 75)), np.zeros((3, 75))
            mujoco.mj_contactForce(world.person.damped, world.data, number, local)
            body = int(world.person.damped.geom_bodyid[contact.geom[1]])
            frame = contact.frame.reshape(3, 3)
            push, twist = local[:3] @ frame, local[3:] @ frame
            mujoco.mj_jac(world.person.damped, world.data, forward, turning, contact.pos, body)
            force[body - 1] += push
            moment[body - 1] += twist + np.cross(contact.pos, push)
            generalized += forward.T @ push + turning.T @ twist
        most = max(most, world.data.ncon)
        np.testing.assert_allclose(record.ground_force[0], force, atol=1e-9)
        np.testing.assert_allclose(record.ground_moment[0], moment, atol=1e-9)
        np.testing.assert_allclose(generalized, world.data.qfrc_constraint, atol=1e-8)
    assert most > 4


def test_control_is_the_humanoids_in_flight() -> None:
    """Where nothing touches and nothing is at its limit, the law is that of MuJoCo's position actuators and implicit integrator."""
    person = build_standin()
    humanoid = build_humanoid(person)
    data = mujoco.MjData(humanoid.model)
    simulation = MujocoBackend().start([person])
    position, velocity = _begin(simulation)
    position[:, 1] += 3.0
    data.qpos[:] = position[0]
    simulation.reset(position, velocity)
    target = 0.2 * np.random.default_rng(0).normal(size=69)
    for _ in range(20):
        data.ctrl[:] = target
        mujoco.mj_step(humanoid.model, data)
        simulation.step_towards(target[None])
    np.testing.assert_allclose(simulation.state()[0][0], data.qpos, atol=1e-8)


def test_holds_the_limit_of_what_a_target_asks_for() -> None:
    """Targets far away ask for the largest torque, less the damping of the motion that comes of it, and the body stays whole."""
    person = build_standin()
    models, simulation = build_models(person, 1 / 120), MujocoBackend().start([person])
    position, velocity = _begin(simulation)
    position[:, 1] += 3.0
    simulation.reset(position, velocity)
    hip = simulation.bodies.index("left_hip") * 3 - 1
    target = np.zeros((1, 69))
    target[0, hip] = 3.0
    assert models.kp[hip] * 3.0 > models.limit[hip]
    record = simulation.step_towards(target)
    expected = models.limit[hip] - models.kd[hip] * simulation.state()[1][0, 6 + hip]
    np.testing.assert_allclose(record.torque[0, 0, hip], expected)


def test_a_hard_fall_stays_finite(falling: tuple[MujocoSimulation, np.ndarray]) -> None:
    simulation, targets = falling
    for target in np.repeat(3 * targets, 6, axis=0):
        simulation.step_towards(target)
    assert np.abs(simulation.state()[1]).max() < 200.0


def test_divergence_is_told_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    simulation = MujocoBackend().start([build_standin(), build_standin()])
    position, velocity = _begin(simulation)
    velocity[0, 20] = 1e12
    simulation.reset(position, velocity)
    with pytest.raises(DivergedError, match=r"world 0 \('standin_175cm_75kg'\) at 0\.0") as caught:
        for _ in range(5):
            simulation.step_towards(np.zeros((2, 69)))
    assert caught.value.worlds == (0,)
    assert np.isnan(caught.value.record.torque[0]).all()
    assert np.isfinite(caught.value.record.torque[1]).all()
    with pytest.raises(DivergedError):
        simulation.step_towards(np.zeros((2, 69)))
    assert not list(tmp_path.iterdir())
    assert "WARNING" not in capfd.readouterr().err


def test_other_bodies_and_threads_are_refused() -> None:
    person = build_standin()
    renamed = person.assign_coords(body=[f"x{b}" for b in person["body"].values])
    with pytest.raises(InputError, match="person 1"):
        MujocoBackend().start([person, renamed])
    with pytest.raises(InputError, match="0 threads"):
        MujocoBackend().start([person], threads=0)


def test_backends_are_found_by_name() -> None:
    assert isinstance(registry.get_sim_backend("mujoco"), MujocoBackend)
    with pytest.raises(UnknownNameError, match="mujoco"):
        registry.get_sim_backend("mujuco")


def test_a_backend_that_cannot_be_started_is_refused() -> None:
    class Blind(SimBackend):
        name, summary = "blind", "knows nothing of time"

        def start(self, people: Any, *, seed: int = 0) -> Simulation:  # type: ignore[override]
            raise NotImplementedError

    assert "timestep" in registry.find_fault("sim_backends", Blind)
