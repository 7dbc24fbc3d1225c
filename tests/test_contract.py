"""The solvers that ship pass the test that every solver passes; solvers that break it are caught."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from imdy_plugin.interfaces import Trial
from imdy_plugin.solvers.classic import MultibodySolver, OpenSimSolver
from imdy_plugin.solvers.imdys.solver import ImdysSolver
from imdy_plugin.solvers.physics import PhysicsSolver
from imdy_plugin.testing import SolverContract, contract_trial


class TestOpenSim(SolverContract):
    solver = OpenSimSolver


class TestMultibody(SolverContract):
    solver = MultibodySolver


class TestPhysics(SolverContract):
    solver = PhysicsSolver


class TestImdys(SolverContract):
    solver = ImdysSolver


class MoodySolver(PhysicsSolver):
    """Answers a little differently each time, scribbles on the trial, and forgets who it is."""

    def solve(self, trial: Trial, options: Any) -> xr.Dataset:
        result = super().solve(trial, options)
        trial.motion["marker_position"].values[0] += 1.0
        noise = np.random.default_rng().normal(size=result["generalized_force"].shape)
        return result.assign(generalized_force=result["generalized_force"] + noise).assign_attrs(solver="somebody")


@pytest.mark.parametrize("check", ["test_is_deterministic", "test_says_what_made_it"])
def test_the_contract_catches_a_moody_solver(check: str) -> None:
    trial = contract_trial()
    before = trial.motion["marker_position"].values[0].copy()
    contract = type("Contract", (SolverContract,), {"solver": MoodySolver})()
    result = contract._solve(trial)
    arguments = (trial, result) if check == "test_is_deterministic" else (result,)
    with pytest.raises(AssertionError):
        getattr(contract, check)(*arguments)
    with pytest.raises(AssertionError):
        contract.test_does_not_change_the_trial(trial)
    trial.motion["marker_position"].values[0] = before
