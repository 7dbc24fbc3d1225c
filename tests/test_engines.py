"""The solvers without plates stand on our mechanics and answer as they would on OpenSim's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from imdy_plugin import api, registry
from imdy_plugin.errors import InputError
from imdy_plugin.evaluation import build_trial
from imdy_plugin.interfaces import Trial
from imdy_plugin.references import read_reference
from imdy_plugin.solvers import kinematics
from imdy_plugin.solvers.body_load import BodyLoad
from imdy_plugin.solvers.multibody import mechanics
from imdy_plugin.solvers.multibody.mechanics import BodyMechanics, body_mechanics
from imdy_plugin.solvers.opensim_mechanics import OpenSimMechanics
from imdy_plugin.testing import contract_trial

COMPARED = ("generalized_force", "ground_force", "center_of_pressure", "free_moment", "root_residual", "contact_probability")


def solve(name: str, trial: Trial, engine: Any, monkeypatch: pytest.MonkeyPatch) -> xr.Dataset:
    for module in (mechanics, kinematics):
        monkeypatch.setattr(module, "body_mechanics", lambda _: engine)
    solver = registry.get_solver(name)
    return solver.solve(trial, registry.make_options(solver, {}))


def apart(first: xr.Dataset, second: xr.Dataset, names: tuple[str, ...] = COMPARED) -> float:
    """Largest difference; the same frames are known."""
    for name in names:
        np.testing.assert_array_equal(np.isnan(first[name]), np.isnan(second[name]), err_msg=name)
    return max(float(np.nanmax(np.abs(first[name].values - second[name].values))) for name in names)


@pytest.mark.parametrize("name", ["physics", "imdys"])
def test_a_person_of_simple_joints(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = contract_trial()
    assert trial.model is not None
    theirs = solve(name, trial, OpenSimMechanics(trial.native_model), monkeypatch)
    assert apart(solve(name, trial, BodyMechanics(trial.model), monkeypatch), theirs) < 1e-7
    heavier = trial.model.assign(body_mass=1.0001 * trial.model["body_mass"])
    assert apart(solve(name, trial, BodyMechanics(heavier), monkeypatch), theirs) > 1e-3


@pytest.mark.parametrize("name", ["physics", "imdys"])
def test_recorded_walking_on_coupled_knees(data_dir: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one difference is how OpenSim's engine differentiates the axes of coupled knees."""
    trial = build_trial(read_reference(data_dir / "references" / "schreiber__2014001__C4_05.nc"), data_dir)
    assert trial.model is not None
    theirs = solve(name, trial, OpenSimMechanics(trial.native_model), monkeypatch)
    alike = solve(name, trial, BodyMechanics(trial.model, simbody_rates=True), monkeypatch)
    exact = solve(name, trial, BodyMechanics(trial.model), monkeypatch)
    assert apart(alike, theirs) < 1e-7
    assert 0.1 < apart(exact, theirs, ("generalized_force",)) < 1.0
    assert apart(exact, theirs, ("ground_force",)) < 1.0
    assert apart(exact, theirs, ("center_of_pressure",)) < 1e-4


def test_points_of_several_bodies_are_found_at_once() -> None:
    trial = contract_trial()
    assert trial.model is not None
    rng = np.random.default_rng(7)
    engines = BodyMechanics(trial.model), OpenSimMechanics(trial.native_model)
    bodies, points = ["toes_r", "calcn_l", "toes_r"], rng.normal(size=(3, 3))
    motion = [0.2 * rng.normal(size=(4, len(engines[0].coordinates))) for _ in range(3)]
    motion[0][2] = np.nan
    for engine in engines:
        together = engine.point_kinematics(*motion, bodies, points)
        for i, body in enumerate(bodies):
            for part, alone in zip(together, engine.point_kinematics(*motion, body, points[i]), strict=True):
                np.testing.assert_allclose(part[:, i], alone[:, 0], atol=1e-14)
        np.testing.assert_array_equal(engine.point_positions(motion[0], bodies, points), together[0])
        assert np.isnan(together[0][2]).all() and np.isfinite(together[0][3]).all()
    np.testing.assert_allclose(*(engine.point_positions(motion[0], bodies, points) for engine in engines), atol=1e-12)


def test_as_many_frames_of_each_are_needed() -> None:
    model = contract_trial().model
    assert model is not None
    engine, q = BodyMechanics(model), np.zeros((4, model.sizes["coordinate"]))
    load = BodyLoad("calcn_r", *(np.ones((5, 3)) for _ in range(3)))
    with pytest.raises(InputError, match="have 4, 4, 4, 5, 5, 5 frames"):
        engine.inverse_dynamics(q, q, q, [load])
    with pytest.raises(InputError, match="have 4, 3, 4 frames"):
        engine.ground_wrench(q, q[:3], q)


@pytest.mark.parametrize("name", ["physics", "imdys", "multibody"])
def test_a_dataset_is_model_enough(name: str) -> None:
    trial = contract_trial()
    assert trial.model is not None
    full = api.run_solver(name, trial)
    bare = api.run_solver(name, replace(trial, native_model=None, motion=trial.motion.drop_dims("marker")))
    assert apart(full, bare, ("ground_force", "generalized_force")) < 1e-3, "markers are measured, or those of the model: rounded, or not"
    prescribed = trial.model["coordinate_prescribed"].copy(data=trial.model["coordinate"].values == "mtp_angle_r")
    odd = replace(trial, model=trial.model.assign(coordinate_prescribed=prescribed), native_model=None)
    with pytest.raises(InputError, match=r"mtp_angle_r follow prescribed functions.*; solver 'opensim' can take"):
        api.run_solver(name, odd)


def test_a_model_is_compiled_once_for_its_content() -> None:
    model = contract_trial().model
    assert model is not None
    first = body_mechanics(model)
    assert body_mechanics(model.copy(deep=True).assign_attrs(log="read elsewhere", source="elsewhere")) is first
    assert body_mechanics(model, simbody_rates=True) is not first
    for changed in (
        model.assign(body_mass=1.01 * model["body_mass"]),
        model.assign_attrs(gravity=[0.0, -1.62, 0.0]),
        model.assign(joint_child_location=model["joint_child_location"] + 1e-12),
        model.assign(coordinate_locked=~model["coordinate_locked"]),
        model.assign_coords(marker=[f"{name}_" for name in model["marker"].values]),
    ):
        assert body_mechanics(changed) is not first
