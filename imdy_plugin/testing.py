"""The tests that every solver and every simulation backend passes; a third party subclasses them in one line.

.. code-block:: python

    class TestMySolver(SolverContract):
        solver = MySolver


    class TestMyBackend(SimBackendContract):
        backend = MyBackend
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin import registry, schema
from imdy_plugin.errors import InputError, OptionError, SolverError
from imdy_plugin.interfaces import SimBackend, Simulation, Solver, StepRecord, Trial

Array = NDArray[np.float64]


@functools.cache
def contract_trial() -> Trial:
    """One second of a generated person's walk, with model, markers, coordinates and ground forces."""
    from imdy_plugin import api
    from imdy_plugin.sim.gait import build_walk, write_trial
    from imdy_plugin.sim.person import write_person

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_trial(build_walk(write_person(folder / "model.osim")), folder)
        trial = api.load_trial(paths["model"], paths["markers"], coordinates=paths["coordinates"], ground_force=paths["ground_force"])
    middle = float(trial.motion["time"].mean())
    return trial.with_motion(trial.motion.sel(time=slice(middle - 0.5, middle + 0.5)))


class SolverContract:
    """Subclass with ``solver`` set; pytest does the rest.

    Attributes
    ----------
    solver
        The class under test.
    options
        Options to solve with.
    """

    solver: ClassVar[type[Solver]]
    options: ClassVar[Mapping[str, Any]] = {}

    @pytest.fixture(scope="class")
    @classmethod
    def trial(cls) -> Trial:
        """The trial that is solved; override to use another."""
        return contract_trial()

    @pytest.fixture(scope="class")
    @classmethod
    def result(cls, trial: Trial) -> xr.Dataset:
        """The solver's answer on :meth:`trial`."""
        return cls._solve(trial)

    @classmethod
    def _solve(cls, trial: Trial) -> xr.Dataset:
        solver = cls.solver()
        solver.check(trial)
        return solver.solve(trial, registry.make_options(solver, dict(cls.options)))

    def test_fits_the_hook(self) -> None:
        assert registry.find_fault("solvers", self.solver) == ""

    def test_options_say_what_they_are(self) -> None:
        silent = [name for name, field in self.solver.Options.model_fields.items() if not field.description]
        assert not silent, f"options without a description: {silent}"

    def test_options_have_defaults(self) -> None:
        self.solver.Options()

    def test_refuses_an_unknown_option(self) -> None:
        with pytest.raises(OptionError, match="no_such_option"):
            registry.make_options(self.solver(), {"no_such_option": 1})

    def test_result_is_lawful(self, result: xr.Dataset) -> None:
        schema.validate_result(result)

    def test_gives_what_it_says(self, result: xr.Dataset) -> None:
        lacking = sorted(self.solver.gives - set(map(str, result.data_vars)))
        assert not lacking, f"promised but not given: {lacking}"

    def test_says_what_made_it(self, result: xr.Dataset) -> None:
        assert result.attrs["solver"] == self.solver.name
        assert result.attrs["solver_version"] == self.solver.version

    def test_stays_within_the_time_of_the_trial(self, trial: Trial, result: xr.Dataset) -> None:
        step = 1 / schema.sampling_rate(trial.motion["time"].values)
        assert result["time"][0] >= trial.motion["time"][0] - step
        assert result["time"][-1] <= trial.motion["time"][-1] + step

    def test_moments_are_numbers(self, result: xr.Dataset) -> None:
        assert np.isfinite(result["generalized_force"].values).mean() > 0.9

    def test_is_deterministic(self, trial: Trial, result: xr.Dataset) -> None:
        again = self._solve(trial)
        for name in result.data_vars:
            np.testing.assert_array_equal(result[name].values, again[name].values, err_msg=str(name))

    def test_does_not_change_the_trial(self, trial: Trial) -> None:
        before = trial.motion.copy(deep=True)
        self._solve(trial)
        xr.testing.assert_identical(before, trial.motion)

    def test_says_what_it_lacks(self, trial: Trial) -> None:
        for need in self.solver.needs:
            with pytest.raises(InputError, match=need):
                self.solver().check(_without(trial, need))


def _without(trial: Trial, need: str) -> Trial:
    motion = trial.motion
    if need in ("markers", "kinematics"):
        motion = motion.drop_vars([v for v in motion.data_vars if str(v).startswith(("marker", "coordinate") if need == "kinematics" else "marker")])
    fields: dict[str, Any] = {"model": {"model": None}, "native_model": {"native_model": None}, "ground_force": {"ground_force": None}, "mass": {"mass": None}}
    return replace(trial, motion=motion, **fields.get(need, {}))


@functools.cache
def contract_people() -> tuple[xr.Dataset, xr.Dataset]:
    """Two people of different height, mass and sex."""
    from imdy_plugin.sim.standin import build_standin

    return build_standin(1.80, 80.0, "male", name="tall"), build_standin(1.60, 55.0, "female", name="short")


@dataclass(frozen=True)
class Step:
    """One call of a simulation: the state before and after, and what acted."""

    position: Array
    velocity: Array
    after: tuple[Array, Array]
    record: StepRecord


class SimBackendContract:
    """Subclass with ``backend`` set; pytest does the rest.

    What acts on the people is held against Newton's and Euler's equations of their model datasets (:mod:`imdy_plugin.sim.dynamics`), which know no
    engine.

    Attributes
    ----------
    backend
        The class under test.
    options
        Further arguments of :meth:`imdy_plugin.interfaces.SimBackend.start`.
    tolerance
        Largest part of body weight [N, or N m at one metre] that the equations of motion may leave, and largest error of a velocity [m/s, rad/s] over
        a tenth of a second of flight. An engine in single precision states a larger one.
    exact
        Whether the same seed, people and torques give the same bits; otherwise the same within ``tolerance``.
    gives_moments
        Whether the moments of the ground's forces are known; otherwise they are NaN where something touches, and momentum is tested without them.
    """

    backend: ClassVar[type[SimBackend]]
    options: ClassVar[Mapping[str, Any]] = {}
    tolerance: ClassVar[float] = 1e-9
    exact: ClassVar[bool] = True
    gives_moments: ClassVar[bool] = True

    @pytest.fixture
    def start(self) -> Iterator[Callable[..., Simulation]]:
        """Starts a simulation of the given people, which ends with the test."""
        started: list[Simulation] = []

        def start(people: Sequence[xr.Dataset] | None = None, **arguments: Any) -> Simulation:
            started.append(self.backend().start(contract_people() if people is None else people, **{**self.options, **arguments}))
            return started[-1]

        yield start
        for simulation in started:
            simulation.close()

    def test_fits_the_hook(self) -> None:
        assert registry.find_fault("sim_backends", self.backend) == ""

    def test_says_how_large_it_is(self, start: Callable[..., Simulation]) -> None:
        simulation = start(timestep=0.004)
        assert (simulation.worlds, simulation.timestep) == (2, 0.004)
        assert set(simulation.bodies) == set(contract_people()[0]["body"].values.tolist())
        assert (simulation.position_size, simulation.velocity_size, simulation.torque_size) == (99, 75, 69)

    def test_state_is_what_was_put_in(self, start: Callable[..., Simulation]) -> None:
        simulation = start()
        position, velocity = _flying(simulation)
        simulation.reset(position, velocity)
        for found, given in zip(simulation.state(), (position, velocity), strict=True):
            np.testing.assert_allclose(found, given, atol=max(self.tolerance, 1e-12) * 10)

    def test_falls_freely(self, start: Callable[..., Simulation]) -> None:
        simulation = start(timestep=1 / 240)
        position, velocity = _upright(simulation, 2.0), np.zeros((2, 75))
        velocity[:, :3] = [[1.0, 0.5, -0.3], [0.0, 0.0, 0.0]]
        steps = _run(simulation, position, velocity, 24, lambda k: np.zeros((2, 69)), towards=False)
        time = np.arange(1, 25)[:, None] / 240
        expected = velocity[:, :3] - time[..., None] * [0.0, schema.GRAVITY, 0.0]
        np.testing.assert_allclose(np.array([s.after[1][:, :3] for s in steps]), expected, atol=10 * self.tolerance)
        drop = np.array([s.after[0][:, 1] for s in steps]) - position[:, 1] - velocity[:, 1] * time
        np.testing.assert_allclose(drop, np.repeat(-0.5 * schema.GRAVITY * time**2, 2, axis=1), atol=0.6 * schema.GRAVITY * 0.1 / 240)
        assert not any(s.record.ground_force.any() or s.record.ground_moment.any() for s in steps)

    def test_keeps_momentum_in_flight(self, start: Callable[..., Simulation]) -> None:
        """Joint torques change neither the motion of the centre of mass nor the angular momentum about it, but for what shrinks with the time step."""
        drift = [self._drift(start(timestep=0.1 / count), count) for count in (50, 100)]
        assert np.abs(drift).max() < 0.5
        np.testing.assert_allclose(2 * drift[1] - drift[0], 0.0, atol=0.01 + 10 * self.tolerance)

    def _drift(self, simulation: Simulation, count: int) -> Array:
        """Change over 0.1 s beyond what gravity explains: velocity of the centre of mass [m/s], angular momentum about it [N m s], ``(world, 6)``."""
        target = np.random.default_rng(1).normal(size=(2, 69)) * 0.3
        steps = _run(simulation, *_flying(simulation), count, lambda k: target, towards=True)
        rows = []
        for world, person in enumerate(contract_people()):
            first = _momentum(person, simulation, steps[0].position[world], steps[0].velocity[world])
            last = _momentum(person, simulation, steps[-1].after[0][world], steps[-1].after[1][world])
            rows.append(np.concatenate([last[0] - first[0] + [0.0, 0.1 * schema.GRAVITY, 0.0], last[1] - first[1]]))
        return np.array(rows)

    def test_equations_of_motion_close_in_flight(self, start: Callable[..., Simulation]) -> None:
        simulation = start()
        torque = np.random.default_rng(2).normal(size=(2, 69)) * _joint_inertia(simulation)
        self._closes(simulation, _run(simulation, *_flying(simulation), 4, lambda k: torque, towards=False))

    def test_equations_of_motion_close_on_the_ground(self, start: Callable[..., Simulation]) -> None:
        simulation = start()
        target = np.random.default_rng(3).normal(size=(2, 69)) * 0.1
        steps = _run(simulation, _upright(simulation, 0.02), np.zeros((2, 75)), 60, lambda k: target, towards=True, substeps=2)
        assert max(s.record.ground_force[..., 1].sum(axis=1).min() for s in steps) > 100.0
        self._closes(simulation, steps)

    def _closes(self, simulation: Simulation, steps: Sequence[Step]) -> None:
        for world, person in enumerate(contract_people()):
            left = _left_over(person, simulation, steps, world, moments=self.gives_moments)
            weight = person.attrs["mass"] * schema.GRAVITY
            worst = np.abs(left).max(axis=0) / weight
            assert worst.max() < self.tolerance, f"velocity {worst.argmax()} of '{person.attrs['name']}': {worst.max():.2g} of body weight is left over"

    def test_ground_carries_the_weight(self, start: Callable[..., Simulation]) -> None:
        simulation = start()
        # After one second: on soles that give way, whoever only holds the joints tips over in the end.
        steps = _run(simulation, _upright(simulation), np.zeros((2, 75)), 60, lambda k: np.zeros((2, 69)), towards=True, substeps=2)[-30:]
        for world, person in enumerate(contract_people()):
            assert np.abs(steps[-1].after[1][world]).max() < 0.1, f"'{person.attrs['name']}' does not come to rest on its feet"
            weight = person.attrs["mass"] * schema.GRAVITY
            force = np.mean([s.record.mean_ground_force[world].sum(axis=0) for s in steps], axis=0)
            np.testing.assert_allclose(force, [0.0, weight, 0.0], atol=0.005 * weight)
            if self.gives_moments:
                center = _center(person, simulation, steps[-1].after[0][world])
                moment = np.mean([s.record.mean_ground_moment[world].sum(axis=0) for s in steps], axis=0)
                np.testing.assert_allclose(moment, np.cross(center, [0.0, weight, 0.0]), atol=0.02 * weight)

    def test_only_what_touches_is_pushed(self, start: Callable[..., Simulation]) -> None:
        simulation = start()
        record = _run(simulation, _upright(simulation), np.zeros((2, 75)), 30, lambda k: np.zeros((2, 69)), towards=True)[-1].record
        high = [index for index, name in enumerate(simulation.bodies) if name.split("_")[-1] not in ("ankle", "foot")]
        assert not record.ground_force[:, high].any()
        assert not record.ground_moment[:, high].any()
        assert (record.ground_force[..., 1] >= 0).all()

    def test_torque_is_recorded_as_applied(self, start: Callable[..., Simulation]) -> None:
        simulation = start(timestep=1e-6)
        limit = _limits()
        torque = np.random.default_rng(4).uniform(-2.0, 2.0, (2, 69)) * limit
        step = _run(simulation, _upright(simulation, 1.0), np.zeros((2, 75)), 1, lambda k: torque, towards=False, substeps=3)[0]
        assert step.record.torque.shape == (2, 3, 69)
        clipped = np.clip(torque, -limit, limit)
        np.testing.assert_allclose(step.record.torque, np.repeat(clipped[:, None], 3, axis=1), rtol=max(self.tolerance, 1e-12))
        assert (np.abs(torque) > limit).any()

    def test_control_follows_its_law(self, start: Callable[..., Simulation]) -> None:
        """At rest in the T-pose the first torque of a small target is ``kp a - kd v+``."""
        from imdy_plugin.sim.humanoid import joint_gains

        simulation = start()
        target = np.random.default_rng(5).normal(size=(2, 69)) * 0.1
        step = _run(simulation, _upright(simulation, 1.0), np.zeros((2, 75)), 1, lambda k: target, towards=True)[0]
        for world, person in enumerate(contract_people()):
            kp, kd, _ = joint_gains(float(person.attrs["mass"]))
            law = kp * target[world] - kd * step.after[1][world, 6:]
            np.testing.assert_allclose(step.record.torque[world, 0], law, atol=np.abs(law).max() * max(100 * self.tolerance, 1e-9))

    def test_recorded_torque_makes_the_same_motion(self, start: Callable[..., Simulation]) -> None:
        simulation = start()
        target = np.random.default_rng(6).normal(size=(2, 69)) * 0.2
        steered = _run(simulation, *_flying(simulation), 6, lambda k: target, towards=True)
        simulation.reset(*_flying(simulation))
        for step in steered:
            simulation.step(step.record.torque[:, 0])
            np.testing.assert_allclose(simulation.state()[1], step.after[1], atol=1e-6 + 100 * self.tolerance)

    def test_substeps_are_steps(self, start: Callable[..., Simulation]) -> None:
        simulation = start()
        target = np.full((2, 69), 0.05)
        begin = _upright(simulation, 0.001), np.zeros((2, 75))
        both = _run(simulation, *begin, 10, lambda k: target, towards=True, substeps=2)
        single = _run(simulation, *begin, 20, lambda k: target, towards=True)
        same = functools.partial(self._same, tolerance=0.01)
        for step, one, two in zip(both, single[::2], single[1::2], strict=True):
            same(step.after[1], two.after[1])
            same(step.record.torque, np.concatenate([one.record.torque, two.record.torque], axis=1))
            same(step.record.ground_force, one.record.ground_force)
            same(step.record.mean_ground_force, (one.record.ground_force + two.record.ground_force) / 2)
            same(step.record.acceleration * simulation.timestep, one.record.acceleration * simulation.timestep)
            np.testing.assert_allclose(one.record.acceleration * simulation.timestep, one.after[1] - one.velocity, atol=max(self.tolerance, 1e-9))

    def test_is_deterministic(self, start: Callable[..., Simulation]) -> None:
        first, second = start(seed=3), start(seed=3)
        target = np.random.default_rng(7).normal(size=(2, 69)) * 0.1
        runs = [_run(s, _upright(s), np.zeros((2, 75)), 20, lambda k: target, towards=True)[-1] for s in (first, second, first)]
        for again in runs[1:]:
            self._same(runs[0].after[0], again.after[0])
            self._same(runs[0].record.torque, again.record.torque, tolerance=1.0)
            self._same(runs[0].record.ground_force, again.record.ground_force, tolerance=10.0)

    def test_nobody_feels_the_others(self, start: Callable[..., Simulation]) -> None:
        tall, short = contract_people()
        together, alone = start([short, tall, short]), start([tall])
        target = np.random.default_rng(8).normal(size=(3, 69)) * 0.1
        many = _run(together, _upright(together, 0.0, [short, tall, short]), np.zeros((3, 75)), 20, lambda k: target, towards=True)[-1]
        one = _run(alone, _upright(alone, 0.0, [tall]), np.zeros((1, 75)), 20, lambda k: target[1:2], towards=True)[-1]
        self._same(many.after[0][1:2], one.after[0])
        self._same(many.record.torque[1:2], one.record.torque, tolerance=1.0)
        assert np.abs(many.after[0][0] - many.after[0][1]).max() > 1e-3

    def test_resets_some_worlds_only(self, start: Callable[..., Simulation]) -> None:
        simulation = start()
        position, velocity = _flying(simulation)
        target = np.random.default_rng(9).normal(size=(2, 69)) * 0.1
        first = _run(simulation, position, velocity, 5, lambda k: target, towards=True)
        simulation.reset(position[1:], velocity[1:], [1])
        np.testing.assert_array_equal(simulation.state()[0][0], first[-1].after[0][0])
        simulation.step_towards(target)
        self._same(simulation.state()[0][1], first[0].after[0][1])

    def test_refuses_wrong_input(self, start: Callable[..., Simulation]) -> None:
        simulation = start()
        position, velocity = _upright(simulation), np.zeros((2, 75))
        unlike = position.copy()
        unlike[1, 3:7] = [2.0, 0.0, 0.0, 0.0]
        wrong: list[tuple[str, Callable[[], object]]] = [
            ("position", lambda: simulation.reset(position[:, :-1], velocity)),
            ("velocity", lambda: simulation.reset(position, velocity[:1])),
            ("position", lambda: simulation.reset(unlike, velocity)),
            ("velocity", lambda: simulation.reset(position, velocity * np.nan)),
            ("world", lambda: simulation.reset(position[:1], velocity[:1], [2])),
            ("torque", lambda: simulation.step(np.zeros((2, 68)))),
            ("torque", lambda: simulation.step(np.full((2, 69), np.inf))),
            ("target", lambda: simulation.step_towards(np.zeros(69))),
            ("physics steps", lambda: simulation.step(np.zeros((2, 69)), 0)),
            ("person|people", lambda: start([])),
            ("time step", lambda: start(timestep=-1.0)),
        ]
        for words, call in wrong:
            with pytest.raises(InputError, match=words):
                call()

    def test_says_which_world_diverged(self, start: Callable[..., Simulation]) -> None:
        simulation = start()
        position, velocity = _flying(simulation)
        velocity[1, 10] = 1e9
        simulation.reset(position, velocity)
        with pytest.raises(SolverError, match=r"world 1 \('short'\)"):
            for _ in range(10):
                simulation.step(np.zeros((2, 69)))
        position, velocity = _flying(simulation)
        simulation.reset(position[1:], velocity[1:], [1])
        simulation.step(np.zeros((2, 69)))
        assert np.isfinite(simulation.state()[0]).all()

    def _same(self, found: Array, expected: Array, tolerance: float = 0.0) -> None:
        """Equal in every bit, or within the tolerance of the engine and ``tolerance`` times that again for each unit."""
        if self.exact:
            np.testing.assert_array_equal(found, expected)
        else:
            np.testing.assert_allclose(found, expected, atol=self.tolerance * (10 + 1e4 * tolerance))


def _run(
    simulation: Simulation, position: Array, velocity: Array, count: int, command: Callable[[int], Array], *, towards: bool, substeps: int = 1
) -> list[Step]:
    simulation.reset(position, velocity)
    steps = []
    for number in range(count):
        before = simulation.state()
        record = (simulation.step_towards if towards else simulation.step)(command(number), substeps)
        steps.append(Step(*before, simulation.state(), record))
    return steps


def _upright(simulation: Simulation, height: float = 0.0, people: Sequence[xr.Dataset] | None = None) -> Array:
    """The T-pose with the soles so high above the ground [m], away from its origin."""
    people = contract_people() if people is None else people
    position = np.zeros((len(people), simulation.position_size))
    position[:, [0, 2, 3]] = 2.0, -1.0, 1.0
    position[:, 7::4] = 1.0
    position[:, 1] = [float(p["coordinate_default"].sel(coordinate="pelvis_ty")) + height for p in people]
    return position


def _flying(simulation: Simulation) -> tuple[Array, Array]:
    """A bent pose two metres up, turning at moderate rates."""
    rng = np.random.default_rng(0)
    position = _upright(simulation, 2.0)
    quaternion = position[:, 3:].reshape(2, -1, 4)
    quaternion[..., 1:] = 0.1 * rng.normal(size=quaternion[..., 1:].shape)
    quaternion /= np.linalg.norm(quaternion, axis=-1, keepdims=True)
    return position, 0.3 * rng.normal(size=(2, simulation.velocity_size))


def _limits() -> Array:
    from imdy_plugin.sim.humanoid import joint_gains

    return np.array([joint_gains(float(p.attrs["mass"]))[2] for p in contract_people()])


def _joint_inertia(simulation: Simulation) -> Array:
    """Smallest inertia [kg m^2] of the body that each joint axis turns, which tells what torque is a small one, ``(world, torque)``."""
    own = [p["body_inertia"].sel(body=list(simulation.bodies[1:]), inertia_component=["xx", "yy", "zz"]).values.min(axis=1) for p in contract_people()]
    return np.repeat(np.array(own), 3, axis=1)


def _left_over(person: xr.Dataset, simulation: Simulation, steps: Sequence[Step], world: int, *, moments: bool) -> Array:
    """Generalized force that the recorded torques and loads do not account for, ``(step, velocity)``; of the root's three translations without moments."""
    from imdy_plugin.sim import dynamics

    tree = dynamics.tree_of(person, simulation.bodies)
    position, velocity = (np.array([getattr(s, name)[world] for s in steps]) for name in ("position", "velocity"))
    acceleration, force, moment = (np.array([getattr(s.record, n)[world] for s in steps]) for n in ("acceleration", "ground_force", "ground_moment"))
    about_root = moment - np.cross(position[:, None, :3], force)
    required = dynamics.required_force(tree, dynamics.place(tree, position), velocity, acceleration, force, about_root if moments else 0 * force)
    required[:, 6:] -= np.array([s.record.torque[world, 0] for s in steps])
    return required if moments else required[:, :3]


def _center(person: xr.Dataset, simulation: Simulation, position: Array) -> Array:
    from imdy_plugin.sim import dynamics

    tree = dynamics.tree_of(person, simulation.bodies)
    points = dynamics.place(tree, position[None]).points(np.arange(len(tree.bodies)), tree.center)[0]
    return np.asarray(tree.mass @ points / tree.mass.sum())


def _momentum(person: xr.Dataset, simulation: Simulation, position: Array, velocity: Array) -> tuple[Array, Array]:
    """Velocity of the centre of mass [m/s], and angular momentum about it [N m s]: both are what a change of velocity from rest would require."""
    from imdy_plugin.sim import dynamics

    tree = replace(dynamics.tree_of(person, simulation.bodies), gravity=np.zeros(3))
    needed = dynamics.required_force(tree, dynamics.place(tree, position[None]), 0 * velocity[None], velocity[None])[0]
    turned = dynamics.place(tree, position[None]).rotation[:, :, 0, 0] @ needed[3:6]
    arm = _center(person, simulation, position) - position[:3]
    return needed[:3] / tree.mass.sum(), turned - np.cross(arm, needed[:3])
