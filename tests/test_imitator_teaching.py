"""Plans on disk and the teacher who reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from imdy_plugin.adapters.smpl.motion import BodyMotion
from imdy_plugin.errors import FileFormatError, InputError
from imdy_plugin.sim.humanoid import build_humanoid
from imdy_plugin.sim.imitator.planning import Plan
from imdy_plugin.sim.imitator.policy import PolicyConfig
from imdy_plugin.sim.imitator.reference import Reference, lay_out
from imdy_plugin.sim.imitator.teaching import PlannedTeacher, departures, plan_path, read_plan, write_plan
from imdy_plugin.sim.standin import build_standin


@pytest.fixture(scope="module")
def person() -> Any:
    return build_standin()


@pytest.fixture(scope="module")
def reference(person: Any) -> Reference:
    wxyz = np.zeros((10, 24, 4))
    wxyz[..., 0] = 1.0
    return lay_out(person, BodyMotion(np.arange(10) / 60.0, np.tile([0.0, 1.0, 0.0], (10, 1)), wxyz, "some/standing"))


def plan_of(reference: Reference, frames: int, complete: bool = True) -> Plan:
    gain = np.random.default_rng(0).standard_normal((frames - 1, 69, 150)).astype(np.float32)
    return Plan(reference.position[:frames], reference.velocity[:frames], reference.commands[: frames - 1], gain, complete)


def test_plans_survive_their_files(reference: Reference, tmp_path: Path) -> None:
    plan = plan_of(reference, 10)
    path = plan_path(tmp_path, "some/standing")
    write_plan(path, plan)
    read = read_plan(path)
    assert all((getattr(read, name) == getattr(plan, name)).all() for name in ("position", "velocity", "target", "gain"))
    assert read.complete
    teacher = PlannedTeacher(tmp_path)
    assert teacher.knows("some/standing")
    assert not teacher.knows("some/walking")


def test_departures_are_those_of_the_physics_engine(person: Any) -> None:
    random = np.random.default_rng(2)
    model = build_humanoid(person).model
    start, other, expected = mujoco.MjData(model).qpos.copy(), np.empty(99), np.empty(75)
    mujoco.mj_integratePos(model, start, random.standard_normal(75), 1.0)
    other[:] = start
    mujoco.mj_integratePos(model, other, 0.3 * random.standard_normal(75), 1.0)
    mujoco.mj_differentiatePos(model, expected, 1.0, start, other)
    found = departures(start, np.ones(75), other, np.full(75, 3.0))
    assert found[:75] == pytest.approx(expected, abs=1e-9)
    assert found[75:] == pytest.approx(2.0)


def test_the_teacher_leads_back_to_the_plan(person: Any, reference: Reference, tmp_path: Path) -> None:
    plan = plan_of(reference, 10)
    write_plan(plan_path(tmp_path, "some/standing"), plan)
    controller = PlannedTeacher(tmp_path).begin(person, reference.motion)
    assert controller.target(4, plan.position[4], plan.velocity[4]) == pytest.approx(plan.target[4])
    moved = plan.position[4].copy()
    moved[0] += 0.1
    assert controller.target(4, moved, plan.velocity[4]) == pytest.approx(plan.target[4] + 0.1 * plan.gain[4][:, 0])
    assert controller.target(40, plan.position[8], plan.velocity[8]) == pytest.approx(plan.target[8])


def test_demonstrations_reach_as_far_as_their_plans(reference: Reference, tmp_path: Path) -> None:
    teacher = PlannedTeacher(tmp_path)
    write_plan(plan_path(tmp_path, "some/standing"), plan_of(reference, 6, complete=False))
    observations, actions = teacher.demonstration(reference).samples(PolicyConfig())
    assert observations.shape == (5, 934)
    assert actions == pytest.approx(0.0)
    write_plan(plan_path(tmp_path, "some/standing"), plan_of(reference, 6, complete=True))
    with pytest.raises(InputError, match="6 frames, the motion 10"):
        teacher.demonstration(reference)


def test_files_that_are_no_plans_are_refused(reference: Reference, tmp_path: Path) -> None:
    path = tmp_path / "plan.npz"
    with pytest.raises(FileFormatError, match="no readable plan"):
        read_plan(path)
    write_plan(path, plan_of(reference, 10))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(FileFormatError, match="no readable plan"):
        read_plan(path)
    np.savez(path, position=np.array([{}], dtype=object))
    with pytest.raises(FileFormatError, match="no readable plan"):
        read_plan(path)
    np.savez(path, position=np.zeros((3, 99)))
    with pytest.raises(FileFormatError, match="lacks velocity, target, gain, complete"):
        read_plan(path)
    np.savez(path, position=np.zeros((3, 99)), velocity=np.zeros((3, 75)), target=np.zeros((3, 69)), gain=np.zeros((2, 69, 150)), complete=True)
    with pytest.raises(FileFormatError, match="target has shape"):
        read_plan(path)
