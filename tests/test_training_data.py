from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from imdy_plugin import training_data as td
from imdy_plugin.adapters.trc import write_trc
from imdy_plugin.errors import DataWarning, InputError
from imdy_plugin.schema import new_motion
from imdy_plugin.solvers.imdys.network import TORQUES, NetworkConfig, load_network
from imdy_plugin.solvers.imdys.training import TrainingConfig

PLACES = {
    "RASI": (0.1, 1.0, 0.12),
    "LASI": (0.1, 1.0, -0.12),
    "RPSI": (-0.1, 1.0, 0.05),
    "LPSI": (-0.1, 1.0, -0.05),
    "RHEE": (-0.1, 0.04, 0.1),
    "RTOE": (0.1, 0.04, 0.1),
    "LHEE": (-0.1, 0.04, -0.1),
    "LTOE": (0.1, 0.04, -0.1),
}
MASS = 60.0


def write_trial(folder: Path, source: str, subject: str, *, knee_flexes_negative: bool = False, markers: int = len(PLACES)) -> None:
    time = np.arange(120) / 100.0
    position = np.tile(np.array(list(PLACES.values())), (time.size, 1, 1)) + 0.01 * np.sin(6 * time)[:, None, None]
    path = folder / "markers" / f"{source}_{subject}.trc"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_trc(new_motion(time, markers=(list(PLACES)[:markers], position[:, :markers])), path)
    per_foot = np.zeros((time.size, 2, 3))
    per_foot[..., 1] = MASS * 9.81 / 2
    sign = -1.0 if knee_flexes_negative else 1.0
    reference = xr.Dataset(
        {
            "ground_force": (("time", "foot", "axis"), per_foot),
            "center_of_pressure": (("time", "foot", "axis"), 0.0 * per_foot),
            "free_moment": (("time", "foot", "axis"), 0.0 * per_foot),
            "contact": (("time", "foot"), np.ones((time.size, 2), bool)),
            "valid": (("time",), np.ones(time.size, bool)),
            "valid_id": (("time",), time > 0.5),
            "generalized_force": (("time", "coordinate"), np.tile([sign * 30.0, 12.0], (time.size, 1))),
            "coordinate_value": (("time", "coordinate"), np.tile([sign * 0.4, 0.1], (time.size, 1))),
        },
        coords={"time": time, "foot": ["right", "left"], "axis": list("xyz"), "coordinate": ["knee_angle_r", "ankle_angle_r"]},
        attrs={"source": source, "subject": subject, "activity": "walk", "mass": MASS, "marker_path": str(path.relative_to(folder))},
    )
    (folder / "references").mkdir(exist_ok=True)
    reference.to_netcdf(folder / "references" / f"{source}__{subject}__t1.nc", engine="h5netcdf")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for subject in ("s1", "s2", "s3"):
        write_trial(tmp_path, "lab", subject)
    write_trial(tmp_path, "other", "s1", knee_flexes_negative=True)
    write_trial(tmp_path, "hamner", "s1")
    return tmp_path


def test_trials_are_read_per_mass_and_evaluation_only_sources_left_out(folder: Path) -> None:
    trials = td.read_training_trials(folder)
    assert [t.person for t in trials] == ["lab/s1", "lab/s2", "lab/s3", "other/s1"]
    np.testing.assert_allclose(trials[0].targets.force[:, :, 1], 9.81 / 2)
    assert {t.person for t in td.read_training_trials(folder, leave_out=())} >= {"hamner/s1"}


def test_torques_have_one_knee_sign_and_are_unknown_elsewhere(folder: Path) -> None:
    ours, other = (t.targets.torque for t in td.read_training_trials(folder) if t.person in ("lab/s1", "other/s1"))
    knee, ankle = TORQUES.index("knee_angle_r"), TORQUES.index("ankle_angle_r")
    np.testing.assert_allclose(ours[60:, knee], 0.5)
    np.testing.assert_allclose(other[60:, knee], 0.5)
    np.testing.assert_allclose(ours[60:, ankle], 0.2)
    assert np.isnan(ours[:50]).all()
    assert np.isnan(ours[:, TORQUES.index("hip_flexion_l")]).all()


def test_a_trial_with_too_few_markers_is_left_out_with_a_warning(folder: Path) -> None:
    write_trial(folder, "lab", "s4", markers=5)
    with pytest.warns(DataWarning, match=r"lab__s4__t1\.nc is not trained on"):
        trials = td.read_training_trials(folder)
    assert "lab/s4" not in {t.person for t in trials}


def test_no_references_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="references"):
        td.read_training_trials(tmp_path)


def test_folds_share_out_people_evenly_and_do_not_depend_on_order() -> None:
    people = [f"a/{i:02d}" for i in range(13)] + [f"b/{i:02d}" for i in range(7)]
    folds = td.fold_of_people(people)
    assert folds == td.fold_of_people(reversed(people * 2))
    for source in "ab":
        counts = [sum(1 for p, f in folds.items() if p.startswith(source) and f == fold) for fold in range(td.FOLDS)]
        assert max(counts) - min(counts) <= 1


def test_a_fold_is_trained_without_its_people(folder: Path, tmp_path: Path) -> None:
    config = TrainingConfig(network=NetworkConfig(width=8, dilations=(1,)), steps=2, batch=2, window_s=0.6)
    path = td.train_on_recordings(folder, tmp_path / "out", fold=1, config=config)
    _, card = load_network(path)
    folds = td.fold_of_people(["lab/s1", "lab/s2", "lab/s3", "other/s1"])
    assert path.name == "fold1.safetensors"
    assert card["people"] == sorted(p for p, f in folds.items() if f != 1)
    assert card["command"] == "imdy train DATA --seed 0 --fold 1"
    assert "hamner" in card["left_out_sources"]


def test_an_unknown_fold_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="folds are 0 to 4"):
        td.train_on_recordings(folder, folder / "out", fold=5)
