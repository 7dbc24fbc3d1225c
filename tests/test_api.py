from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import xarray as xr

import imdy_plugin
from imdy_plugin import api, registry, schema
from imdy_plugin.errors import DataWarning, InputError, OptionError, PluginError, SolverError, UnknownNameError
from imdy_plugin.interfaces import Solver, Trial


class EchoSolver(Solver):
    """Answers with zeros; what the tests change is set on subclasses."""

    name: ClassVar[str] = "echo"
    summary: ClassVar[str] = "zeros"
    version: ClassVar[str] = "1"
    needs: ClassVar[frozenset[str]] = frozenset({"kinematics"})
    gives: ClassVar[frozenset[str]] = frozenset({"generalized_force"})

    def solve(self, trial: Trial, options: Any) -> xr.Dataset:
        time = trial.motion["time"].values
        nothing = np.zeros((time.size, 0, 3))
        return schema.new_result(
            time,
            coordinates=["knee_angle_r"],
            generalized_force=np.zeros((time.size, 1)),
            units=["N m"],
            bodies=[],
            ground_force=nothing,
            center_of_pressure=nothing,
            free_moment=nothing,
            root_residual=np.zeros((time.size, 6)),
            solver=self.name,
            solver_version=self.version,
            options={},
            model="",
            mass=70.0,
        )


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    def add(cls: type[Solver]) -> None:
        monkeypatch.setitem(registry.get_registry().solvers, cls.name, registry.Registered(cls, "test"))

    return add


def standing(seconds: float = 1.0) -> xr.Dataset:
    """Six markers of somebody who stands still, 1.7 m tall."""
    time = np.arange(0, seconds, 0.01)
    heights = {"RHEE": 0.05, "LHEE": 0.05, "RASI": 0.95, "LASI": 0.95, "C7": 1.45, "HEAD": 1.7}
    place = np.array([[0.0, y, 0.1 if n.startswith("R") else -0.1 if n.startswith("L") else 0.0] for n, y in heights.items()])
    return schema.new_motion(time, markers=(list(heights), np.broadcast_to(place, (time.size, 6, 3)).copy()))


def test_nothing_to_solve_is_an_error_that_says_what_to_give() -> None:
    with pytest.raises(InputError, match=r"markers=.*coordinates="):
        imdy_plugin.solve(None)


@pytest.mark.parametrize("mass", [0.0, -3.0, float("nan")])
def test_mass_must_be_positive(mass: float) -> None:
    with pytest.raises(InputError, match="kilograms"):
        imdy_plugin.solve(None, standing(), mass=mass)


@pytest.mark.parametrize("mass", [0.07, 70000.0])
def test_a_mass_in_another_unit_is_warned_of(mass: float) -> None:
    with pytest.warns(DataWarning, match="which no person has"):
        api.load_trial(None, standing(), mass=mass)


def test_a_mass_far_from_the_models_is_warned_of(walk: dict[str, Path]) -> None:
    api.load_trial(walk["model"], walk["markers"], mass=80.0)
    with pytest.warns(DataWarning, match=r"154 kg, that of the model 70 kg.* multiplied by 2\.2"):
        api.load_trial(walk["model"], walk["markers"], mass=154.0)


def test_forces_that_are_none_of_this_person_are_warned_of(walk: dict[str, Path]) -> None:
    forces = api.load_trial(walk["model"], walk["markers"], ground_force=walk["ground_force"]).ground_force
    assert forces is not None
    small = forces.assign(ground_force=(forces["ground_force"] / 1000).assign_attrs(units="N"))
    with pytest.warns(DataWarning, match="of the body weight of 70 kg"):
        imdy_plugin.solve(walk["model"], coordinates=walk["coordinates"], ground_force=small)


def test_frames_that_were_left_out_are_warned_of() -> None:
    motion = standing()
    api.load_trial(None, motion.isel(time=slice(None, None, 3)))
    with pytest.warns(DataWarning, match=r"time stamps of the markers jump from 0\.3 to 0\.6 s \(frame 30 to 31\); results beside"):
        api.load_trial(None, motion.isel(time=[*range(31), *range(60, 100)]))


def test_a_file_that_no_reader_reads_lists_the_readers() -> None:
    with pytest.raises(InputError, match=r"no marker reader reads 'walk\.xyz'.*trc.*c3d"):
        imdy_plugin.solve(None, "walk.xyz")


def test_unknown_solver_and_option_are_refused(install: Any) -> None:
    install(EchoSolver)
    with pytest.raises(UnknownNameError, match="nearest: echo"):
        imdy_plugin.solve(None, standing(), solver="ecko")
    with pytest.raises(OptionError, match="no options, 'cutof' was given"):
        imdy_plugin.solve(None, standing(), solver="echo", cutof=6)


def test_what_a_solver_needs_and_does_not_get_is_named() -> None:
    with pytest.raises(InputError, match=r"solver 'opensim' needs .*ground_force"):
        imdy_plugin.solve(None, standing(), solver="opensim")


def test_result_carries_what_made_it(install: Any) -> None:
    install(EchoSolver)
    result = imdy_plugin.solve(None, standing(), solver="echo")
    assert result.attrs["provenance"] == '{"markers": "Dataset"}'
    assert result.attrs["imdy_plugin_version"] == imdy_plugin.__version__


def test_time_range_is_cut_out_and_must_lie_in_the_data(install: Any) -> None:
    install(EchoSolver)
    result = imdy_plugin.solve(None, standing(), solver="echo", time_range=(0.2, 0.5))
    np.testing.assert_allclose(result["time"].values[[0, -1]], [0.2, 0.5])
    assert result.sizes["time"] == 31
    with pytest.raises(InputError, match=r"0\.5 to 3 s is not inside the data, 0 to 0\.99 s"):
        imdy_plugin.solve(None, standing(), solver="echo", time_range=(0.5, 3.0))


def test_a_solver_that_breaks_says_its_name(install: Any) -> None:
    def explode(self: Any, trial: Trial, options: Any) -> xr.Dataset:
        raise ZeroDivisionError("by zero")

    install(type("Bomb", (EchoSolver,), {"name": "bomb", "solve": explode}))
    with pytest.raises(SolverError, match="solver 'bomb' broke: ZeroDivisionError: by zero"):
        imdy_plugin.solve(None, standing(), solver="bomb")


def test_an_unlawful_result_is_the_plugins_fault(install: Any) -> None:
    install(type("Liar", (EchoSolver,), {"name": "liar", "solve": lambda self, trial, options: xr.Dataset()}))
    with pytest.raises(PluginError, match=r"solver 'liar' returned an unlawful result"):
        imdy_plugin.solve(None, standing(), solver="liar")


def test_comparison_leaves_out_who_fails_and_says_so(install: Any) -> None:
    def explode(self: Any, trial: Trial, options: Any) -> xr.Dataset:
        raise ZeroDivisionError

    install(EchoSolver)
    install(type("Bomb", (EchoSolver,), {"name": "bomb", "solve": explode}))
    with pytest.warns(DataWarning, match="solver 'bomb' is left out"):
        both = imdy_plugin.compare(None, standing(), solvers=["echo", "bomb"])
    assert both["solver"].values.tolist() == ["echo"]
    with pytest.raises(SolverError, match="no solver finished"):
        imdy_plugin.compare(None, standing(), solvers=["bomb"])


def test_options_for_a_solver_that_is_not_compared_are_refused(install: Any) -> None:
    install(EchoSolver)
    with pytest.raises(InputError, match="'imdys', which is not compared"):
        imdy_plugin.compare(None, standing(), solvers=["echo"], options={"imdys": {}})


def test_default_solver_follows_the_ground_force() -> None:
    motion = standing()
    force = np.zeros((motion.sizes["time"], 1, 3))
    forces = schema.new_motion(motion["time"].values, ground=(["calcn_r"], force, force, force))
    assert api.default_solver(Trial(motion)) == "imdys"
    assert api.default_solver(Trial(motion, ground_force=forces)) == "opensim"


def test_coordinates_are_put_onto_the_markers_stamps_where_both_are() -> None:
    motion = standing()
    coarse = schema.new_motion([0.1, 0.5, 0.8], coordinates=(["knee_angle_r"], [[0.0], [0.4], [0.1]]))
    trial = api.load_trial(None, motion, coordinates=coarse)
    np.testing.assert_allclose(trial.motion["time"].values[[0, -1]], [0.1, 0.8])
    np.testing.assert_allclose(trial.motion["coordinate_value"].sel(time=0.3, method="nearest").values, 0.2, atol=1e-9)
    late = coarse.assign_coords(time=[10.0, 11.0, 12.0])
    with pytest.raises(InputError, match="do not overlap"):
        api.load_trial(None, motion, coordinates=late)


def test_whole_path_on_the_generated_walk(walk: dict[str, Path]) -> None:
    result = imdy_plugin.solve(walk["model"], walk["markers"], ground_force=walk["ground_force"])
    assert result.attrs["solver"] == "opensim"
    both = imdy_plugin.compare(
        walk["model"], walk["markers"], coordinates=walk["coordinates"], ground_force=walk["ground_force"], solvers=["physics", "opensim"]
    )
    knee = both["generalized_force"].sel(coordinate="knee_angle_r")
    difference = float(abs(knee.sel(solver="physics") - knee.sel(solver="opensim")).mean()) / result.attrs["mass"]
    assert difference < 0.15
