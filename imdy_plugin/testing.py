"""The test that every solver passes; a third party subclasses it in one line.

.. code-block:: python

    class TestMySolver(SolverContract):
        solver = MySolver
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import xarray as xr

from imdy_plugin import registry, schema
from imdy_plugin.errors import InputError, OptionError
from imdy_plugin.interfaces import Solver, Trial


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
