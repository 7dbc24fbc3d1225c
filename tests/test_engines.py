"""The solvers without plates stand on our mechanics and answer as they would on OpenSim's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from imdy_plugin import registry
from imdy_plugin.evaluation import build_trial
from imdy_plugin.interfaces import Trial
from imdy_plugin.references import read_reference
from imdy_plugin.solvers import kinematics
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
