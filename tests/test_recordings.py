"""The whole path on real people that the shipped weights have never seen, and on one they have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import imdy_plugin
from imdy_plugin.gait_cycle import gait_cycles, mean_vertical_force

TRIALS = {
    "rajagopal walk": (
        "opensim_core_tests_moco/OpenSim/Examples/Moco/example3DWalking/subject_walk_scaled.osim",
        "opensim_models_pipelines/Rajagopal/ExpData/motion_capture_walk.trc",
    ),
    "arnold walk": (
        "arnold_2013_walking/subject01/subject01_final.osim",
        "arnold_2013_walking/subject01/walk2/expdata/marker_trajectories.trc",
    ),
    "hamner run": (
        "hamner_delp_2013_running/data/subject03/model/subject03_adjusted_scaled.osim",
        "hamner_delp_2013_running/data/subject03/expData/Run_3.trc",
    ),
    "schreiber walk": (
        "schreiber_moissenet_2019_walking/data/2014004/scaling/2014004_scaledModelAdjusted.osim",
        "schreiber_moissenet_2019_walking/data/2014004/dynamic/2014004_C4_02.trc",
    ),
}


@pytest.mark.filterwarnings("ignore:.*NumFrames says")
@pytest.mark.parametrize("trial", TRIALS)
def test_markers_alone_give_a_gait_that_carries_the_body(data_dir: Path, trial: str) -> None:
    model, markers = (data_dir / path for path in TRIALS[trial])
    result = imdy_plugin.solve(model, markers)
    assert result.attrs["solver"] == "imdys"
    summary = gait_cycles(result)
    carried = np.concatenate([mean_vertical_force(result, cycles) for cycles in summary.cycles.values()])
    assert carried.size >= 2
    assert abs(carried.mean() - 1) < 0.03

    vertical = result["ground_force"].sel(axis="y") / (result.attrs["mass"] * 9.81)
    peaks, stance = vertical.max("time").values, float((vertical > 0).mean())
    together = float((vertical > 0).all("body").mean())
    if trial.endswith("run"):
        assert np.all((peaks > 1.8) & (peaks < 3.2)) and stance < 0.45 and together < 0.02
    else:
        assert np.all((peaks > 0.95) & (peaks < 1.5)) and 0.5 < stance < 0.75 and together > 0.1
