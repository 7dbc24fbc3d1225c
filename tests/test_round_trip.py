"""The files that a result leaves give the same moments in OpenSim's own InverseDynamicsTool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import imdy_plugin
from imdy_plugin import registry
from imdy_plugin.adapters.results import read_id_sto, write_result_files
from imdy_plugin.adapters.storage import read_table

TOLERANCE = 0.5
"""Root mean square difference [N m or N] of any coordinate, away from the ends of the motion."""
MARGIN = 0.1
"""Seconds at both ends that are not judged: the spline through the frames that were written ends there, that of the solver does not."""

RECORDINGS = {
    "arnold walk": (
        "arnold_2013_walking/subject01/subject01_final.osim",
        "arnold_2013_walking/subject01/walk2/expdata/marker_trajectories.trc",
        (1.0, 3.0),
    ),
    "hamner run": (
        "hamner_delp_2013_running/data/subject03/model/subject03_adjusted_scaled.osim",
        "hamner_delp_2013_running/data/subject03/expData/Run_3.trc",
        (1.0, 2.0),
    ),
}


def opensim_inverse_dynamics(model: Path, files: dict[str, Path], folder: Path) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
    """Run OpenSim's tool, without a filter and without the model's muscles, on the files of a result."""
    opensim: Any = pytest.importorskip("opensim")
    native = opensim.Model(str(model))
    for index in reversed(range(native.getForceSet().getSize())):
        native.updForceSet().remove(index)
    native.initSystem()
    tool = opensim.InverseDynamicsTool()
    tool.setModel(native)
    tool.setCoordinatesFileName(str(files["coordinates"]))
    tool.setExternalLoadsFileName(str(files["external_loads"]))
    tool.setLowpassCutoffFrequency(-1)
    tool.setResultsDir(str(folder))
    tool.setOutputGenForceFileName("tool.sto")
    assert tool.run()
    return read_id_sto(folder / "tool.sto")


def differences(result: xr.Dataset, model: Path, folder: Path) -> dict[str, float]:
    """Root mean square difference between a result and OpenSim's tool on its files, by coordinate; its coordinates in degrees."""
    files = write_result_files(result, folder, "trial", registry.load_model(model).dataset)
    assert read_table(files["coordinates"]).in_degrees
    time, names, theirs = opensim_inverse_dynamics(model, files, folder)
    ours = result["generalized_force"].sel(coordinate=list(names)).interp(time=time).values
    judged = (time > time[0] + MARGIN) & (time < time[-1] - MARGIN)
    assert judged.sum() > 50
    return dict(zip(names, np.sqrt(np.mean((ours - theirs)[judged] ** 2, axis=0)), strict=True))


@pytest.mark.parametrize("solver", ["imdys", "physics"])
def test_files_of_the_generated_walk_hold_its_moments(walk: dict[str, Path], tmp_path: Path, solver: str) -> None:
    result = imdy_plugin.solve(walk["model"], walk["markers"], solver=solver)
    apart = differences(result, walk["model"], tmp_path)
    assert max(apart.values()) < TOLERANCE, apart
    lighter = result.assign(ground_force=0.9 * result["ground_force"])
    assert max(differences(lighter, walk["model"], tmp_path).values()) > 10 * TOLERANCE


@pytest.mark.filterwarnings("ignore:.*NumFrames says")
@pytest.mark.parametrize("solver", ["imdys", "physics"])
@pytest.mark.parametrize("trial", RECORDINGS)
def test_files_of_a_recording_hold_its_moments(data_dir: Path, tmp_path: Path, trial: str, solver: str) -> None:
    model, markers, span = RECORDINGS[trial]
    result = imdy_plugin.solve(data_dir / model, data_dir / markers, solver=solver, time_range=span)
    apart = differences(result, data_dir / model, tmp_path)
    assert max(apart.values()) < TOLERANCE, {name: value for name, value in apart.items() if value >= TOLERANCE}
