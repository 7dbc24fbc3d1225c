"""The main job on a trial that needs no download."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from imdy_plugin import api
from imdy_plugin.interfaces import Trial


def run_demo(folder: Path, height: float = 1.75, mass: float = 70.0) -> tuple[xr.Dataset, Trial]:
    """Write a generated person's walk as OpenSim files, read them back, and solve it by every solver that ships.

    Parameters
    ----------
    folder
        Where the model, marker and force files go.
    height, mass
        Of the person [m, kg].

    Returns
    -------
    comparison, trial
        As :func:`imdy_plugin.compare` returns, with classic inverse dynamics as reference; and the trial.
    """
    from imdy_plugin.sim.gait import build_walk, write_trial
    from imdy_plugin.sim.person import write_person

    model = write_person(folder / "model.osim", height=height, mass=mass)
    paths = write_trial(build_walk(model), folder)
    trial = api.load_trial(paths["model"], paths["markers"], ground_force=paths["ground_force"])
    return api.compare_trial(trial, solvers=["imdys", "physics", "opensim"]), trial
