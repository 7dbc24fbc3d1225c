"""MuJoCo Warp passes the backends' test in single precision, and moves people as MuJoCo does."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

pytest.importorskip("mujoco_warp", reason="MuJoCo Warp is not installed (extra 'gpu')")

from imdy_plugin import registry
from imdy_plugin.errors import InputError
from imdy_plugin.sim.backends.mujoco import MujocoBackend
from imdy_plugin.sim.backends.mujoco_warp import MujocoWarpBackend
from imdy_plugin.sim.standin import build_standin
from imdy_plugin.testing import SimBackendContract, contract_people

pytestmark = pytest.mark.slow


class TestMujocoWarp(SimBackendContract):
    backend = MujocoWarpBackend
    tolerance: ClassVar[float] = 5e-4
    exact: ClassVar[bool] = False


def _standing(worlds: int) -> tuple[np.ndarray, np.ndarray]:
    position = np.zeros((worlds, 99))
    position[:, 3::4], position[:, 1] = 1.0, 1.0
    return position, np.zeros((worlds, 75))


def test_moves_people_as_mujoco_does() -> None:
    people = contract_people()
    target = 0.1 * np.random.default_rng(0).normal(size=(2, 69))
    simulations = [backend().start(people) for backend in (MujocoBackend, MujocoWarpBackend)]
    for simulation in simulations:
        simulation.reset(*_standing(2))
    for _ in range(10):
        mujoco, warp = (simulation.step_towards(target, 2) for simulation in simulations)
        scale = np.abs(mujoco.torque).max()
        np.testing.assert_allclose(warp.torque, mujoco.torque, atol=0.01 * scale)
        np.testing.assert_allclose(warp.mean_ground_force, mujoco.mean_ground_force, atol=0.01 * np.abs(mujoco.mean_ground_force).max() + 1.0)
    np.testing.assert_allclose(simulations[1].state()[0], simulations[0].state()[0], atol=1e-4)


def test_repeats_itself_bit_by_bit() -> None:
    simulation = MujocoWarpBackend().start([build_standin()] * 3)
    target, found = 0.1 * np.random.default_rng(1).normal(size=(3, 69)), []
    for _ in range(2):
        simulation.reset(*_standing(3))
        record = [simulation.step_towards(target, 2) for _ in range(10)][-1]
        found.append((*simulation.state(), record.torque, record.ground_force))
    for first, second in zip(*found, strict=True):
        np.testing.assert_array_equal(first, second)


def test_is_found_by_name_and_names_its_devices() -> None:
    backend = registry.get_sim_backend("mujoco-warp")
    assert isinstance(backend, MujocoWarpBackend)
    with pytest.raises(InputError, match="cpu"):
        backend.start([build_standin()], device="cuda:77")
