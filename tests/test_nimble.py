"""Nimble's inverse dynamics against OpenSim's, and what happens when Nimble dies, leaves something out or misreads a model."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from imdy_plugin import registry
from imdy_plugin._opensim import import_opensim
from imdy_plugin.adapters.coordinates import read_coordinates
from imdy_plugin.adapters.external_loads import read_ground_force
from imdy_plugin.adapters.opensim_model import OpenSimModelAdapter
from imdy_plugin.errors import DataWarning, InputError, MissingDependencyError, SolverError, UnknownNameError
from imdy_plugin.interfaces import Trial
from imdy_plugin.schema import new_motion
from imdy_plugin.solvers.classic import OpenSimSolver
from imdy_plugin.solvers.nimble import WORKER, NimbleOptions, NimbleSolver, run_worker
from imdy_plugin.solvers.opensim_mechanics import OpenSimMechanics
from imdy_plugin.testing import SolverContract, contract_trial

needs_nimble = pytest.mark.skipif(importlib.util.find_spec("nimblephysics") is None, reason="nimblephysics is not installed: pip install imdy-plugin[nimble]")
TIME = np.arange(40) / 100


def solve(trial: Trial, **options: Any) -> xr.Dataset:
    return NimbleSolver().solve(trial, NimbleOptions(**options))


def solve_by_opensim(trial: Trial, **options: Any) -> xr.Dataset:
    return OpenSimSolver().solve(trial, OpenSimSolver.Options(**options))


def difference(trial: Trial, other: Trial | None = None, **options: Any) -> float:
    """Largest difference [N m, N] between Nimble on ``trial`` and OpenSim on the other, where Nimble answers."""
    ours, theirs = solve(trial, **options), solve_by_opensim(other or trial, **options)
    return float(np.abs(ours["generalized_force"] - theirs["generalized_force"]).max())


@needs_nimble
class TestContract(SolverContract):
    solver = NimbleSolver


@needs_nimble
def test_equals_opensim() -> None:
    trial = contract_trial()
    assert difference(trial) < 1e-9
    ours, theirs = solve(trial), solve_by_opensim(trial)
    np.testing.assert_allclose(ours["root_residual"].values, theirs["root_residual"].values, atol=1e-9)
    assert ours.attrs["left_out_bodies"] == ours.attrs["left_out_coordinates"] == []
    assert "Nimble's poses lie within" in ours.attrs["log"]


def changed(trial: Trial, change: Callable[[Any], Any]) -> Trial:
    native = trial.native_model.clone()
    change(native)
    return replace(trial, model=OpenSimModelAdapter().load(native).dataset, native_model=native)


@needs_nimble
def test_a_model_that_is_one_percent_off_is_not_equal() -> None:
    trial = contract_trial()

    def heavier(native: Any) -> None:
        thigh = native.getBodySet().get("femur_r")
        thigh.setInertia(import_opensim().Inertia(*(1.01 * thigh.getInertia().getMoments().to_numpy())))

    assert difference(trial, changed(trial, heavier)) > 1e-3


@needs_nimble
def test_gravity_is_the_models() -> None:
    moon = changed(contract_trial(), lambda native: native.setGravity(import_opensim().Vec3(0.3, -1.62, 0.1)))
    assert difference(moon) < 1e-9
    assert difference(moon, contract_trial()) > 100.0


@needs_nimble
def test_frames_of_unknown_force_stay_unknown() -> None:
    trial = contract_trial()
    ground = trial.ground_force.copy(deep=True)  # type: ignore[union-attr]
    middle = float(trial.motion["time"].mean())
    for name in ("ground_force", "center_of_pressure", "free_moment"):
        ground[name].loc[{"time": slice(middle - 0.1, middle + 0.1)}] = np.nan
    ours, theirs = solve(replace(trial, ground_force=ground)), solve_by_opensim(replace(trial, ground_force=ground))
    unknown = ours["flag"].sel(kind="ground_force_unknown").values
    assert 5 < unknown.sum() < 0.5 * unknown.size
    np.testing.assert_allclose(ours["generalized_force"].values, theirs["generalized_force"].values, atol=1e-9)
    assert np.isnan(ours["generalized_force"].values[unknown]).all() and np.isfinite(ours["generalized_force"].values[~unknown]).all()
    ground["ground_force"][:] = np.nan
    with pytest.raises(InputError, match="known ground forces"):
        solve(replace(trial, ground_force=ground))


def leg(root: str, hip: str) -> Trial:
    """A pelvis and a foot on joints of the named kinds, swaying while something pulls at the foot."""
    opensim = import_opensim()
    model, vector, none = opensim.Model(), opensim.Vec3, opensim.Vec3(0)
    model.setGravity(vector(0, -9.80665, 0))
    pelvis = opensim.Body("pelvis", 10.0, vector(0.01, 0.05, 0), opensim.Inertia(0.1, 0.1, 0.1, 0, 0, 0))
    foot = opensim.Body("foot", 2.0, vector(0, -0.2, 0), opensim.Inertia(0.02, 0.01, 0.02, 0, 0, 0))
    frames = (vector(0, -0.1, 0.1), vector(0.1, 0.2, 0.3), foot, vector(0, 0.2, 0), vector(0.2, -0.1, 0.1))
    more = (vector(0.1, 0.2, 0.3),) if hip == "EllipsoidJoint" else ()
    joints = (getattr(opensim, root)("root", model.getGround(), none, none, pelvis, none, none), getattr(opensim, hip)("hip", pelvis, *frames, *more))
    for body, joint in zip((pelvis, foot), joints, strict=True):
        model.addBody(body)
        model.addJoint(joint)
    model.finalizeConnections()
    names = OpenSimMechanics(model).coordinates
    motion = new_motion(TIME, coordinates=(names, 0.3 * np.sin(3 * TIME[:, None] + np.arange(len(names)))))
    force = np.tile([10.0, 100.0, 5.0], (len(TIME), 1, 1))
    ground = new_motion(TIME, ground=(["foot"], force, 0.001 * force, 0.01 * force))
    return Trial(motion=motion, model=OpenSimModelAdapter().load(model).dataset, native_model=model, mass=12.0, ground_force=ground)


@needs_nimble
@pytest.mark.parametrize("hip", ["PinJoint", "UniversalJoint"])
def test_simple_joints(hip: str) -> None:
    assert difference(leg("PinJoint", hip), cutoff_hz=None) < 1e-9


@needs_nimble
@pytest.mark.parametrize(
    ("root", "hip", "message"),
    [
        ("PinJoint", "BallJoint", "BallJoint"),
        ("FreeJoint", "PinJoint", "FreeJoint"),
        ("PinJoint", "EllipsoidJoint", "body 'foot' .* mm away from where OpenSim does"),
    ],
)
def test_what_nimble_cannot_represent_is_refused(root: str, hip: str, message: str) -> None:
    with pytest.raises(SolverError, match=message):
        solve(leg(root, hip), cutoff_hz=None)


@needs_nimble
def test_a_crash_of_nimble_is_an_error_and_no_more() -> None:
    with pytest.raises(SolverError, match=r"died of SIG\w+ .*use solver 'opensim'"):
        solve(leg("WeldJoint", "PinJoint"), cutoff_hz=None)
    assert difference(leg("PinJoint", "PinJoint"), cutoff_hz=None) < 1e-9


@needs_nimble
@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="it takes arrays in under numpy 1")
def test_nimble_dies_of_an_array_that_goes_in(native: Any, tmp_path: Path) -> None:
    native.clone().printToXML(str(tmp_path / "model.osim"))
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, numpy as np\n"
        "from nimblephysics_libs import _nimblephysics as nimble\n"
        "skeleton = nimble.biomechanics.OpenSimParser.parseOsim(sys.argv[1] + '/model.osim', '', True).skeleton\n"
        "skeleton.setPositions(np.zeros(skeleton.getNumDofs()))\n"
    )
    with pytest.raises(SolverError, match="died of SIGSEGV"):
        run_worker(script, tmp_path, 60.0)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os; os.abort()", r"died of SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", r"died of SIGKILL \(Killed\); its last words: it said nothing"),
        ("raise KeyError('lost')", r"exit code 1; its last words: KeyError: 'lost'"),
        ("import os; os._exit(3)", r"exit code 3"),
        ("import time; time.sleep(30)", r"longer than 2 s and was ended"),
    ],
)
def test_however_the_worker_ends_the_caller_lives(tmp_path: Path, code: str, message: str) -> None:
    (tmp_path / "script.py").write_text(code)
    with pytest.raises(SolverError, match=message):
        run_worker(tmp_path / "script.py", tmp_path, 2.0)


def test_the_workers_folder_shadows_nothing(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('shadowed')")
    (tmp_path / "script.py").write_text("import json")
    run_worker(tmp_path / "script.py", tmp_path, 60.0)


@needs_nimble
@pytest.mark.parametrize("text", ["", "no model", "<OpenSimDocument/>"])
def test_a_model_that_nimble_cannot_read_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.osim").write_text(text)
    np.savez(tmp_path / "input.npz", coordinate=np.array(["a"]))
    with pytest.raises(SolverError, match="it cannot read the model"):
        run_worker(WORKER, tmp_path, 60.0)


@needs_nimble
def test_time_runs_out() -> None:
    with pytest.raises(SolverError, match=r"longer than 0.01 s .*timeout_s"):
        solve(contract_trial(), timeout_s=0.01)


def with_kneecap(mass: float) -> Callable[[Any], None]:
    """Add a body on the right thigh whose only coordinate follows the knee, as patellae do."""

    def change(native: Any) -> None:
        opensim = import_opensim()
        kneecap = opensim.Body("patella_r", mass, opensim.Vec3(0, 0.02, 0), opensim.Inertia(0.0001, 0.0001, 0.0001, 0, 0, 0))
        none, thigh = opensim.Vec3(0), native.getBodySet().get("femur_r")
        joint = opensim.PinJoint("patellofemoral_r", thigh, opensim.Vec3(0, -0.4, 0), none, kneecap, none, none)
        joint.updCoordinate().setName("knee_angle_r_beta")
        native.addBody(kneecap)
        native.addJoint(joint)
        follow = opensim.CoordinateCouplerConstraint()
        leader = opensim.ArrayStr()
        leader.append("knee_angle_r")
        follow.setIndependentCoordinateNames(leader)
        follow.setDependentCoordinateName("knee_angle_r_beta")
        follow.setFunction(opensim.LinearFunction(1.0, 0.0))
        native.addConstraint(follow)
        native.finalizeConnections()

    return change


@needs_nimble
def test_what_nimble_leaves_out_is_named_and_has_no_answer() -> None:
    trial = changed(contract_trial(), with_kneecap(0.1))
    result = solve(trial)
    assert np.isnan(result["generalized_force"].sel(coordinate="knee_angle_r_beta")).all()
    assert result.attrs["left_out_coordinates"] == ["knee_angle_r_beta"] and result.attrs["left_out_bodies"] == ["patella_r"]
    assert "patella_r (0.1 kg are missing" in result.attrs["log"] and "without an answer: knee_angle_r_beta" in result.attrs["log"]
    missing = (solve_by_opensim(trial)["root_residual"] - result["root_residual"]).sel(component="force_y")
    np.testing.assert_allclose(missing.mean(), 0.1 * 9.80665, rtol=0.1)
    assert difference(trial) > 0.1
    with pytest.raises(SolverError, match=r"leaves out patella_r, 5 of 75 kg"):
        solve(changed(contract_trial(), with_kneecap(5.0)))
    ground = trial.ground_force.assign_coords(body=["patella_r", "calcn_l"])  # type: ignore[union-attr]
    with pytest.raises(SolverError, match="leaves out body 'patella_r'"):
        solve(replace(trial, ground_force=ground))
    with pytest.raises(UnknownNameError, match="calcn_x"):
        solve(replace(trial, ground_force=ground.assign_coords(body=["calcn_x", "calcn_l"])))


def test_is_listed_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "nimblephysics" else found(name, *rest))
    assert "nimble" in registry.get_registry().solvers
    assert registry.missing_requirements(NimbleSolver) == ["nimblephysics"]
    with pytest.raises(MissingDependencyError, match="nimblephysics, not installed"):
        registry.get_solver("nimble")


RECORDED = {
    "gait10 walk": ("opensim_models_pipelines/Gait10dof18musc", "OutputReference/subject01.osim", "OutputReference/IK/subject01_walk_IK.mot"),
    "gait2354 walk": ("opensim_models_pipelines/Gait2354_Simbody", "OutputReference/subject01_simbody.osim", "OutputReference/subject01_walk1_ik.mot"),
    "dorn jog": ("dorn_2012_running_sprint", "JA1_SCALED_Osim40.osim", "jog_ik.mot"),
    "rajagopal walk": ("opensim_core_tests_moco/OpenSim/Examples/Moco/example3DWalking", "subject_walk_scaled.osim", "coordinates.sto"),
}
LOADS = {
    "gait10 walk": "ExperimentalData/subject01_walk_grf.xml",
    "gait2354 walk": "subject01_walk1_grf.xml",
    "dorn jog": "jog_grf.xml",
    "rajagopal walk": "grf_walk.xml",
}


@pytest.fixture(scope="module", params=RECORDED)
def recorded(request: pytest.FixtureRequest, data_dir: Path) -> tuple[str, Trial]:
    folder, model, coordinates = RECORDED[request.param]
    loaded = OpenSimModelAdapter().load(data_dir / folder / model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        motion = read_coordinates(data_dir / folder / coordinates, loaded.dataset, use_defaults=True)
    kind = loaded.dataset["coordinate_kind"].sel(coordinate=motion["coordinate"])
    motion = motion.sel(coordinate=motion["coordinate"].values[kind.values != "coupled"])
    ground = read_ground_force(data_dir / folder / LOADS[request.param])
    return request.param, Trial(motion=motion, model=loaded.dataset, native_model=loaded.native, mass=70.0, ground_force=ground)


@needs_nimble
def test_recorded_motions(recorded: tuple[str, Trial]) -> None:
    """Equal but for the kneecaps, whose weight is missing, and what OpenSim makes of a knee whose rotations follow several functions (docs)."""
    name, trial = recorded
    ours, theirs = solve(trial, cutoff_hz=8.0), solve_by_opensim(trial, cutoff_hz=8.0)
    apart = ours["generalized_force"] - theirs["generalized_force"]
    if name != "rajagopal walk":
        assert float(np.abs(apart).max()) < 1e-9
        assert np.isfinite(ours["generalized_force"].values).any(axis=0).all()
        return
    assert float(apart.sel(coordinate="pelvis_ty").mean()) == pytest.approx(-0.14 * 9.80665, abs=0.05)
    moments = np.abs(apart.sel(coordinate=[c for c in apart["coordinate"].values if "pelvis" not in str(c)]))
    assert float(moments.max()) < 1.0


def test_nothing_of_the_worker_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("imdy_plugin.solvers.nimble.WORKER", tmp_path / "missing.py")
    with pytest.raises(SolverError, match="exit code 2"):
        solve(leg("PinJoint", "PinJoint"), cutoff_hz=None)
    assert list(tmp_path.iterdir()) == []
