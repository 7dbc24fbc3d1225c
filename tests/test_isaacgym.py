"""The backend for Isaac Gym, against a stand-in that speaks its tensor interface; and what happens when its process does not behave."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from imdy_plugin.errors import InputError, SolverError
from imdy_plugin.sim.backends import _isaacgym_worker
from imdy_plugin.sim.backends.isaacgym import PYTHON_VARIABLE, WORKER, IsaacGymBackend, Worker
from imdy_plugin.sim.backends.mujoco import MujocoBackend
from imdy_plugin.sim.standin import build_standin
from imdy_plugin.testing import SimBackendContract, contract_people

STANDIN = Path(__file__).parent / "isaacgym_standin"


@pytest.fixture(autouse=True)
def standin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, sys.executable)
    monkeypatch.setenv("PYTHONPATH", str(STANDIN))


@pytest.mark.slow
class TestIsaacGymStandin(SimBackendContract):
    backend = IsaacGymBackend
    options: ClassVar = {"device": None}
    tolerance: ClassVar[float] = 5e-4
    exact: ClassVar[bool] = False
    gives_moments: ClassVar[bool] = False


def _standing(worlds: int) -> tuple[np.ndarray, np.ndarray]:
    position = np.zeros((worlds, 99))
    position[:, 3::4], position[:, 1] = 1.0, 1.0
    return position, np.zeros((worlds, 75))


def test_moves_people_as_mujoco_does() -> None:
    people, target = contract_people(), 0.1 * np.random.default_rng(0).normal(size=(2, 69))
    simulations = MujocoBackend().start(people), IsaacGymBackend().start(people, device=None)
    for simulation in simulations:
        simulation.reset(*_standing(2))
    for _ in range(5):
        mujoco, isaac = (simulation.step_towards(target, 2) for simulation in simulations)
        np.testing.assert_allclose(isaac.torque, mujoco.torque, atol=0.01 * np.abs(mujoco.torque).max())
        np.testing.assert_allclose(isaac.mean_ground_force, mujoco.mean_ground_force, atol=0.02 * np.abs(mujoco.mean_ground_force).max() + 1.0)
        touching = isaac.ground_force.any(axis=-1)
        assert np.isnan(isaac.ground_moment[touching]).all()
        assert (isaac.ground_moment[~touching] == 0).all()
    assert touching.any()
    for found, expected in zip(simulations[1].state(), simulations[0].state(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-3)
    folder = simulations[1]._worker.folder
    simulations[1].close()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("die", r"(ended|closed its ears).*SIGABRT"),
        ("hang", "said nothing for 3 s"),
        ("raise", r"could not advance: RuntimeError: PhysX ran out of memory"),
        ("sim", "could not start: RuntimeError: Isaac Gym could not create"),
    ],
)
def test_a_process_that_does_not_behave_is_an_error(monkeypatch: pytest.MonkeyPatch, fault: str, words: str) -> None:
    monkeypatch.setenv("STANDIN_FAULT", fault)
    with pytest.raises(SolverError, match=words):
        _one_step(timeout_s=3.0 if fault == "hang" else 60.0)


def _one_step(timeout_s: float) -> None:
    simulation = IsaacGymBackend().start([build_standin()], device=None, timeout_s=timeout_s)
    simulation.reset(*_standing(1))
    try:
        simulation.step(np.zeros((1, 69)))
    finally:
        process = simulation._worker._process
        assert process.returncode is not None
        with pytest.raises(SolverError, match="has ended"):
            simulation.step(np.zeros((1, 69)))


def _saying(script: str) -> Worker:
    return Worker([sys.executable, "-c", script], 20.0)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("print('Importing module gym_38', flush=True); input()", "no message begins with"),
        ("import sys; sys.stderr.write('no CUDA device'); sys.exit(3)", r"(?s)(ended|closed its ears) \(exit code 3\); its last words: no CUDA device"),
        ("import os, struct; os.write(1, b'IMDY' + struct.pack('<QQ', 1 << 40, 0)); input()", "1099511627776 bytes"),
        ("import os, struct; os.write(1, b'IMDY' + struct.pack('<QQ', 2, 0) + b'[]'); input()", "cannot be read"),
        ("import os, struct; os.write(1, b'IMDY' + struct.pack('<QQ', 9, 5) + b'{\"kin'); os._exit(0)", "in the middle of an answer"),
    ],
)
def test_what_is_no_answer_is_an_error(script: str, words: str) -> None:
    with pytest.raises(SolverError, match=words):
        _saying(script).ask("start", {"a": np.zeros(3)}, {})


def test_an_interpreter_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SolverError, match="cannot be run"):
        IsaacGymBackend().start([build_standin()], python=tmp_path / "python3.8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(SolverError, match="No module named 'isaacgym'"):
        IsaacGymBackend().start([build_standin()])
    monkeypatch.delenv(PYTHON_VARIABLE)
    with pytest.raises(InputError, match=PYTHON_VARIABLE):
        IsaacGymBackend().start([build_standin()])


def test_a_file_read_otherwise_is_an_error_and_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN_FAULT", "names")
    begun: list[Worker] = []
    monkeypatch.setattr(Worker, "__init__", lambda self, *given, make=Worker.__init__: (begun.append(self), make(self, *given))[1])
    with pytest.raises(SolverError, match="read bodies"):
        IsaacGymBackend().start([build_standin()], device=None)
    assert begun[0]._process.returncode is not None
    assert not begun[0].folder.exists()


def test_messages_keep_every_bit() -> None:
    arrays = {"a": np.random.default_rng(0).normal(size=(3, 4)).astype("<f4"), "empty": np.zeros((0, 2)), "i": np.arange(5, dtype="<i4")}
    message = _isaacgym_worker.pack("step", arrays, {"number": 3})
    header, body = _isaacgym_worker.lengths(message[:20])
    kind, found, text = _isaacgym_worker.unpack(message[20 : 20 + header], message[20 + header :])
    assert (kind, text, len(message)) == ("step", {"number": 3}, 20 + header + body)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_messages_hold_no_objects() -> None:
    message = _isaacgym_worker.pack("step", {"a": np.array(["x"])}, {})
    header, _ = _isaacgym_worker.lengths(message[:20])
    with pytest.raises(ValueError, match="type"):
        _isaacgym_worker.unpack(message[20 : 20 + header], message[20 + header :])


def test_the_worker_keeps_to_python_3_8() -> None:
    compile(WORKER.read_text(encoding="utf-8"), str(WORKER), "exec", dont_inherit=True)
    import ast

    ast.parse(WORKER.read_text(encoding="utf-8"), feature_version=(3, 8))
