"""Published results of OpenSim's own tools, column by column, each with a control that must fail the same tolerance."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.adapters.coordinates import read_coordinates
from imdy_plugin.adapters.external_loads import read_ground_force
from imdy_plugin.adapters.opensim_model import OpenSimModelAdapter, scale_mass
from imdy_plugin.adapters.results import read_id_sto
from imdy_plugin.adapters.trc import TrcReader
from imdy_plugin.errors import DataWarning
from imdy_plugin.interfaces import LoadedModel, Trial
from imdy_plugin.solvers.body_load import BodyLoad
from imdy_plugin.solvers.classic import MultibodyOptions, MultibodySolver, OpenSimOptions, OpenSimSolver
from imdy_plugin.solvers.kinematics import coordinates_of, smooth
from imdy_plugin.solvers.opensim_mechanics import OpenSimMechanics

FloatArray = NDArray[np.float64]

PIPELINES, CORE = Path("opensim_models_pipelines"), Path("opensim_core_tests_moco")
GAIT10, GAIT2354, GAIT2392 = (PIPELINES / n for n in ("Gait10dof18musc", "Gait2354_Simbody", "Gait2392_Simbody"))
WALK3D, ID_TESTS = CORE / "OpenSim/Examples/Moco/example3DWalking", CORE / "Applications/ID/tests/resources"
DORN = Path("dorn_2012_running_sprint")


@dataclass(frozen=True)
class Case:
    """A published inverse-dynamics result, what it was made from, and how near one comes [N m], [N]."""

    model: Path
    coordinates: Path
    loads: Path
    published: Path
    cutoff: float
    moment: float
    force: float
    columns: int
    degrees: bool | None = None
    """Unit of the angles where the file does not say."""
    rate_error: float = 0.0
    """By how much the moments change where axes of coupled joints are differentiated exactly [N m]."""


CASES = {
    "gait10 walk": Case(
        GAIT10 / "OutputReference/subject01.osim",
        GAIT10 / "OutputReference/IK/subject01_walk_IK.mot",
        GAIT10 / "ExperimentalData/subject01_walk_grf.xml",
        GAIT10 / "OutputReference/ID/Results/subject01_walk_ID.sto",
        cutoff=6.0,
        moment=0.01,
        force=0.01,
        columns=10,
    ),
    "gait2354 walk": Case(
        GAIT2354 / "OutputReference/subject01_simbody.osim",
        GAIT2354 / "OutputReference/subject01_walk1_ik.mot",
        GAIT2354 / "subject01_walk1_grf.xml",
        GAIT2354 / "OutputReference/ResultsInverseDynamics/inverse_dynamics.sto",
        cutoff=6.0,
        moment=0.01,
        force=0.01,
        columns=23,
    ),
    "gait2392 walk": Case(
        GAIT2392 / "OutputReference/subject01_simbody.osim",
        GAIT2392 / "subject01_walk1_ik.mot",
        GAIT2392 / "subject01_walk1_grf.xml",
        GAIT2392 / "OutputReference/ResultsInverseDynamics/InverseDynamicsOutput.sto",
        cutoff=6.0,
        moment=0.9,
        force=0.01,
        columns=23,
    ),
    "opensim-core walk": Case(
        ID_TESTS / "subject01.osim",
        ID_TESTS / "subject01_walk1_ik.mot",
        ID_TESTS / "subject01_walk1_grf.xml",
        ID_TESTS / "std_subject01_InverseDynamics.sto",
        cutoff=6.0,
        moment=1.0,
        force=0.01,
        columns=23,
        degrees=True,
    ),
    "dorn jog": Case(
        DORN / "JA1_SCALED_Osim40.osim",
        DORN / "jog_ik.mot",
        DORN / "jog_grf.xml",
        DORN / "jog_id.sto",
        cutoff=12.0,
        moment=0.01,
        force=0.01,
        columns=37,
    ),
    "rajagopal walk": Case(
        WALK3D / "subject_walk_scaled.osim",
        WALK3D / "coordinates.sto",
        WALK3D / "grf_walk.xml",
        WALK3D / "id_walk.sto",
        cutoff=6.0,
        moment=0.4,
        force=0.5,
        columns=31,
        rate_error=1.2,
    ),
}


def read_motion(path: Path, loaded: LoadedModel, degrees: bool | None = None) -> xr.Dataset:
    """Coordinates of the model; absent ones are the default, coupled ones are left to follow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        motion = read_coordinates(path, loaded.dataset, degrees=degrees, use_defaults=True)
    kind = loaded.dataset["coordinate_kind"].sel(coordinate=motion["coordinate"])
    return motion.sel(coordinate=motion["coordinate"].values[kind.values != "coupled"])


Errors = dict[str, tuple[float, str]]


def errors(result: xr.Dataset, path: Path) -> Errors:
    """Root mean square difference of each published column within the frames that were solved, and its unit."""
    stamps, names, values = read_id_sto(path)
    known = np.isfinite(result["generalized_force"]).all("coordinate").values
    time = result["time"].values[known]
    inside = (stamps > time[0] - 1e-3) & (stamps < time[-1] + 1e-3)
    out = {}
    for column, name in enumerate(names):
        ours = result["generalized_force"].sel(coordinate=name)
        difference = np.interp(stamps[inside], time, ours.values[known]) - values[inside, column]
        out[name] = float(np.sqrt(np.mean(difference**2))), str(ours["generalized_force_unit"].item())
    return out


def worst(found: Errors) -> tuple[float, float]:
    """Largest error of the moments [N m] and of the forces [N]."""
    moments, forces = ([error for error, unit in found.values() if unit == wanted] for wanted in ("N m", "N"))
    return max(moments), max(forces)


def read_trial(case: Case, data_dir: Path, *, mass: float = 1.0, swap: bool = False) -> Trial:
    loaded = OpenSimModelAdapter().load(data_dir / case.model)
    scaled = scale_mass(loaded, mass * loaded.dataset.attrs["mass"]) if mass != 1.0 else loaded
    ground = read_ground_force(data_dir / case.loads)
    if swap:
        ground = ground.assign_coords(body=ground["body"].values[::-1])
    motion = read_motion(data_dir / case.coordinates, loaded, case.degrees)
    return Trial(motion=motion, model=scaled.dataset, native_model=scaled.native, ground_force=ground, mass=70.0)


def solve(case: Case, data_dir: Path, *, cutoff: float | None = None, **changes: Any) -> Errors:
    result = OpenSimSolver().solve(read_trial(case, data_dir, **changes), OpenSimOptions(cutoff_hz=cutoff or case.cutoff))
    return errors(result, data_dir / case.published)


@pytest.mark.parametrize("name", CASES)
def test_published_inverse_dynamics(data_dir: Path, name: str) -> None:
    case = CASES[name]
    found = solve(case, data_dir)
    moment, force = worst(found)
    assert len(found) == case.columns
    assert moment < case.moment and force < case.force, {n: round(e, 4) for n, (e, _) in found.items() if e > 0.001}


@pytest.mark.parametrize("name", CASES)
def test_our_mechanics_answer_as_opensim_does(data_dir: Path, name: str) -> None:
    """With OpenSim's rates of coupled joints to the last digits; with exact ones within what those rates are off by."""
    case = CASES[name]
    trial = read_trial(case, data_dir)
    theirs = OpenSimSolver().solve(trial, OpenSimOptions(cutoff_hz=case.cutoff))["generalized_force"]
    alike, exact = (
        MultibodySolver().solve(trial, MultibodyOptions(cutoff_hz=case.cutoff, simbody_rates=rates))["generalized_force"] for rates in (True, False)
    )
    np.testing.assert_allclose(alike, theirs, atol=1e-8)
    assert 0.5 * case.rate_error <= float(np.abs(exact - theirs).max()) <= case.rate_error + 1e-8
    heavier = MultibodySolver().solve(read_trial(case, data_dir, mass=1.0001), MultibodyOptions(cutoff_hz=case.cutoff, simbody_rates=True))
    assert float(np.abs(heavier["generalized_force"] - theirs).max()) > 1e-3


@pytest.mark.parametrize("change", [{"mass": 1.05}, {"cutoff": 7.0}, {"swap": True}], ids=["5 % heavier", "another filter", "forces on the wrong feet"])
@pytest.mark.parametrize("name", CASES)
def test_published_inverse_dynamics_is_not_met_by_mistakes(data_dir: Path, name: str, change: dict[str, float]) -> None:
    case = CASES[name]
    assert worst(solve(case, data_dir, **change))[0] > case.moment


def test_published_inverse_dynamics_of_an_arm(data_dir: Path) -> None:
    folder = data_dir / ID_TESTS
    loaded = OpenSimModelAdapter().load(folder / "arm26.osim")
    mechanics = OpenSimMechanics(loaded.native)
    motion = read_motion(folder / "arm26_InverseKinematics.mot", loaded, degrees=True)
    stamps, names, published = read_id_sto(folder / "std_arm26_InverseDynamics.sto")

    def distance(cutoff: float) -> float:
        force = mechanics.inverse_dynamics(*smooth(motion["time"].values, motion["coordinate_value"].values, cutoff))
        columns = [mechanics.coordinates.index(n) for n in names]
        ours = np.stack([np.interp(stamps, motion["time"].values, force[:, c]) for c in columns], axis=1)
        return float(np.sqrt(((ours - published) ** 2).mean(axis=0)).max())

    assert distance(6.0) < 0.01 < distance(3.0)


def test_published_inverse_kinematics(data_dir: Path) -> None:
    """With the tool's weights the coordinates are the tool's, and no frame's markers are farther away; without them they differ."""
    loaded = OpenSimModelAdapter().load(data_dir / GAIT10 / "OutputReference/subject01.osim")
    mechanics = OpenSimMechanics(loaded.native)
    motion = TrcReader().read(data_dir / GAIT10 / "ExperimentalData/subject01_walk.trc").isel(time=slice(0, 40))
    names = [str(n) for n in motion["marker"].values]
    tasks = ElementTree.parse(data_dir / GAIT10 / "IK/walk_Setup_IK.xml").iter("IKMarkerTask")
    listed = {str(t.get("name")): float(t.findtext("weight", "1")) for t in tasks if t.findtext("apply") == "true"}
    weights = {n: listed.get(n, 0.0) for n in names}
    tool = read_motion(data_dir / GAIT10 / "OutputReference/IK/subject01_walk_IK.mot", loaded)["coordinate_value"][:40]
    tool = tool.sel(coordinate=list(mechanics.coordinates)).values

    def distance(given: dict[str, float] | None) -> FloatArray:
        return coordinates_of(Trial(motion=motion, model=loaded.dataset), weights=given)["coordinate_value"].values - tool

    def cost(q: FloatArray) -> FloatArray:
        used = [n for n in names if weights[n]]
        squares = ((mechanics.marker_positions(q, used) - motion["marker_position"].sel(marker=used).values) ** 2).sum(axis=2)
        return squares @ np.array([weights[n] for n in used])

    ours = distance(weights)
    assert np.sqrt((ours**2).mean(axis=0)).max() < 5e-4 < 0.05 < np.sqrt((distance(None) ** 2).mean(axis=0)).max()
    assert (cost(ours + tool) <= cost(tool)).all()


REFERENCES = ("schreiber__2014015__C4_04", "hamner__subject01__Run_2", "arnold__subject01__walk2", "opencap4__subject4__DJ1")


def reference_filter(values: FloatArray, cutoff: float) -> FloatArray:
    """Second-order Butterworth filter forwards and backwards, -3 dB at the cut-off, at 100 Hz."""
    from scipy.signal import butter, filtfilt

    out: FloatArray = filtfilt(*butter(2, cutoff / (np.sqrt(2) - 1) ** 0.25 / 50.0), values, axis=0)
    return out


@pytest.mark.parametrize("name", REFERENCES)
def test_reference_answers_of_the_recordings(data_dir: Path, name: str) -> None:
    """With the references' own filter and loads the joint moments agree; with a foot's load lost they do not."""
    reference = xr.load_dataset(data_dir / f"references/{name}.nc", engine="h5netcdf")
    mechanics = OpenSimMechanics(OpenSimModelAdapter().load(data_dir / reference.attrs["model_path"]).native)
    expected = reference.sel(coordinate=list(mechanics.coordinates))
    given = expected["coordinate_value"].values.astype(float)
    solved = np.flatnonzero(np.isfinite(given).all(axis=1))
    span = slice(solved[0], solved[-1] + 1)
    motion = smooth(reference["time"].values[span], reference_filter(given[span], float(reference.attrs["fc_coordinates"])), None)
    force, moment = (np.nan_to_num(reference[f"{n}_id"].values[span].astype(float)) for n in ("ground_force", "ground_moment_origin"))
    loads = [BodyLoad(foot, force[:, i], 0 * force[:, i], moment[:, i]) for i, foot in enumerate(mechanics.foot_bodies)]
    valid = reference["valid_id"].values[span]

    def distance(applied: list[BodyLoad]) -> float:
        found = mechanics.inverse_dynamics(*motion, applied)
        moments = [i for i, unit in enumerate(mechanics.units) if unit == "N m"]
        difference = (found - expected["generalized_force"].values[span])[valid][:, moments]
        return float(np.sqrt((difference**2).mean(axis=0)).max())

    assert valid.sum() > 50 and distance(loads) < 0.1 < 10.0 < distance(loads[:1])
