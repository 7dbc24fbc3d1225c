"""Inverse kinematics as it is called: from Python, from a setup, from the command line."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import imdy_plugin
from imdy_plugin import api, schema
from imdy_plugin._opensim import import_opensim
from imdy_plugin.adapters.coordinates import read_coordinates
from imdy_plugin.adapters.ik_setup import read_ik_setup
from imdy_plugin.adapters.trc import write_trc
from imdy_plugin.cli import app
from imdy_plugin.errors import DataWarning, FileFormatError, InputError, InvalidDatasetError, UnknownNameError
from imdy_plugin.solvers.multibody.mechanics import body_mechanics

NOISE = 0.01
FRAMES = slice(60, 85)

SETUP = """<?xml version="1.0" encoding="UTF-8" ?>
<OpenSimDocument Version="40000">
  <InverseKinematicsTool name="walk">
    <model_file>{model}</model_file>
    <constraint_weight>{constraint}</constraint_weight>
    <accuracy>1e-9</accuracy>
    <IKTaskSet><objects>{tasks}</objects></IKTaskSet>
    <marker_file>{markers}</marker_file>
    <coordinate_file>{coordinates}</coordinate_file>
    <time_range>{time}</time_range>
    <output_motion_file>out.mot</output_motion_file>
  </InverseKinematicsTool>
</OpenSimDocument>
"""


def marker_task(name: str, weight: float, apply: str = "true") -> str:
    return f'<IKMarkerTask name="{name}"><apply>{apply}</apply><weight>{weight}</weight></IKMarkerTask>'


def coordinate_task(name: str, weight: float, source: str, value: float = 0.0) -> str:
    inner = f"<apply>true</apply><weight>{weight}</weight><value_type>{source}</value_type><value>{value}</value>"
    return f'<IKCoordinateTask name="{name}">{inner}</IKCoordinateTask>'


@pytest.fixture(scope="module")
def noisy(walk: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some frames of the walk, its markers displaced so that weights matter, and some missing."""
    motion = api.load_trial(walk["model"], walk["markers"]).motion.isel(time=FRAMES)
    rng = np.random.default_rng(2)
    position = motion["marker_position"].values + NOISE * rng.normal(size=(1, motion.sizes["marker"], 3))
    position[10:18, :7] = np.nan
    path = tmp_path_factory.mktemp("noisy") / "noisy.trc"
    return write_trc(motion.assign(marker_position=motion["marker_position"].copy(data=position)), path)


def write_setup(walk: dict[str, Path], noisy: Path, folder: Path, tasks: str | None = None, **changes: object) -> Path:
    names = [str(n) for n in api.load_trial(walk["model"], noisy).motion["marker"].values]
    weights = dict.fromkeys(names, 1.0) | {"RASI": 10.0, "LASI": 4.0, "C7": 0.0, "RTOE": 0.3}
    weights.pop("STRN")
    given = "".join(marker_task(name, weight, "false" if name == "T10" else "true") for name, weight in weights.items())
    given += coordinate_task("knee_angle_r", 0.02, "manual_value", -0.3) + coordinate_task("arm_rot_r", 0.01, "default_value")
    given += coordinate_task("hip_flexion_l", 0.03, "from_file")
    values = {"model": walk["model"], "markers": noisy, "coordinates": walk["coordinates"], "constraint": "Inf", "time": "-100 100", "tasks": tasks or given}
    path = folder / "setup.xml"
    path.write_text(SETUP.format(**{**values, **changes}))
    return path


def opensims(setup: Path, model: xr.Dataset) -> xr.Dataset:
    """What OpenSim's own tool gives from the same setup."""
    tool = import_opensim().InverseKinematicsTool(str(setup))
    tool.setOutputMotionFileName(str(setup.parent / "theirs.mot"))
    tool.set_report_errors(False)
    tool.run()
    return read_coordinates(setup.parent / "theirs.mot", model)


def difference(ours: xr.Dataset, theirs: xr.Dataset) -> float:
    np.testing.assert_allclose(ours["time"], theirs["time"], atol=1e-6)
    return float(np.abs(ours["coordinate_value"].values - theirs["coordinate_value"].values).max())


def test_a_setup_gives_what_opensims_tool_gives(walk: dict[str, Path], noisy: Path, tmp_path: Path) -> None:
    setup = write_setup(walk, noisy, tmp_path)
    theirs = opensims(setup, api.load_trial(walk["model"], noisy).model)
    ours = imdy_plugin.inverse_kinematics(setup=setup)
    assert difference(ours, theirs) < 1e-4
    other = imdy_plugin.inverse_kinematics(setup=setup, weights={"RASI": 9.0})
    assert difference(other, theirs) > 5e-4
    assert difference(imdy_plugin.inverse_kinematics(setup=setup, tasks={"knee_angle_r": (-0.3, 0.022)}), theirs) > 5e-4
    assert "setup.xml" in ours.attrs["log"] and "knee_angle_r, arm_rot_r, hip_flexion_l" in ours.attrs["log"]
    assert not {"STRN", "T10", "C7"} & set(ours["marker"].values) and "CLAV" in ours["marker"].values


def test_the_report_says_how_far_markers_are(walk: dict[str, Path], noisy: Path) -> None:
    motion = imdy_plugin.inverse_kinematics(walk["model"], noisy)
    schema.validate_motion(motion)
    trial = api.load_trial(walk["model"], noisy)
    mechanics = body_mechanics(trial.model)
    names = [str(n) for n in motion["marker"].values]
    expected = np.linalg.norm(mechanics.marker_positions(motion["coordinate_value"].values, names) - trial.motion["marker_position"].sel(marker=names), axis=2)
    np.testing.assert_allclose(motion["marker_error"], expected, atol=1e-12)
    assert np.isnan(motion["marker_error"].values[10:18, :7]).all()
    np.testing.assert_allclose(motion["marker_rms"], np.sqrt(np.nanmean(expected**2, axis=1)), rtol=1e-9)
    assert motion["fit_converged"].all() and (motion["fit_steps"] > 0).all()
    assert 0.3 * NOISE < motion.attrs["marker_rms_mean"] < 2 * NOISE


def test_what_it_returns_is_what_solvers_would_find(walk: dict[str, Path], noisy: Path) -> None:
    motion = imdy_plugin.inverse_kinematics(walk["model"], noisy)
    direct = imdy_plugin.solve(walk["model"], noisy, solver="physics")
    given = imdy_plugin.solve(walk["model"], noisy, coordinates=motion, solver="physics")
    for name in ("coordinate_value", "generalized_force", "ground_force"):
        np.testing.assert_array_equal(direct[name], given[name])
    weighted = imdy_plugin.inverse_kinematics(walk["model"], noisy, weights={"RCAL": 30.0})
    other = imdy_plugin.solve(walk["model"], noisy, coordinates=weighted, solver="physics")
    assert np.abs(other["generalized_force"] - direct["generalized_force"]).max() > 0.01


def test_a_heavy_task_holds_a_coordinate_and_none_stands_for_the_default(walk: dict[str, Path], noisy: Path) -> None:
    ramp = np.linspace(-0.2, -0.4, FRAMES.stop - FRAMES.start)
    motion = imdy_plugin.inverse_kinematics(walk["model"], noisy, tasks={"knee_angle_r": (ramp, 1e4), "arm_rot_l": (None, 1e4)}, time_range=(0.7, 0.8))
    inside = (motion["time"].values >= 0.7 - 1e-6) & (motion["time"].values <= 0.8 + 1e-6)
    assert inside.all() and 5 < inside.size < ramp.size
    stamps = api.load_trial(walk["model"], noisy).motion["time"].values
    expected = ramp[(stamps >= 0.7 - 1e-6) & (stamps <= 0.8 + 1e-6)]
    np.testing.assert_allclose(motion["coordinate_value"].sel(coordinate="knee_angle_r"), expected, atol=1e-4)
    np.testing.assert_allclose(motion["coordinate_value"].sel(coordinate="arm_rot_l"), 0.0, atol=1e-4)


def without(path: Path, walk: dict[str, Path], markers: tuple[str, ...], frames: slice = slice(None)) -> xr.Dataset:
    motion = api.load_trial(walk["model"], path).motion
    position = motion["marker_position"].values.copy()
    position[frames, [list(motion["marker"].values).index(name) for name in markers]] = np.nan
    return motion.assign(marker_position=motion["marker_position"].copy(data=position))


ARM = ("LUA", "LLEL", "LMEL", "LFAsuperior", "LFAradius", "LFAulna", "LFIN")


def test_a_task_tells_what_no_marker_does(walk: dict[str, Path], noisy: Path) -> None:
    motion = without(noisy, walk, ARM)
    held = imdy_plugin.inverse_kinematics(walk["model"], motion, tasks={"elbow_flex_l": (0.7, 1.0)})
    free = imdy_plugin.inverse_kinematics(walk["model"], motion)
    np.testing.assert_allclose(held["coordinate_value"].sel(coordinate="elbow_flex_l"), 0.7, atol=1e-6)
    assert "elbow_flex_l" in free.attrs["never_seen"] and "elbow_flex_l" not in held.attrs["never_seen"]


def test_a_task_without_weight_tells_nothing(walk: dict[str, Path], noisy: Path) -> None:
    found = imdy_plugin.inverse_kinematics(walk["model"], without(noisy, walk, ARM), tasks={"elbow_flex_l": (0.7, 0.0)})
    assert "elbow_flex_l" in found.attrs["never_seen"]


def test_a_person_who_faces_where_the_model_cannot_turn_is_told(walk: dict[str, Path], noisy: Path, tmp_path: Path) -> None:
    native = import_opensim().Model(str(walk["model"]))
    for name in ("pelvis_rotation", "pelvis_tilt", "pelvis_list"):
        turn = native.updCoordinateSet().get(name)
        turn.setRangeMin(-0.5 * np.pi)
        turn.setRangeMax(0.5 * np.pi)
        turn.setDefaultClamped(True)
    native.printToXML(str(tmp_path / "clamped.osim"))
    motion = api.load_trial(walk["model"], noisy).motion
    turned = motion.assign(marker_position=motion["marker_position"] * np.array([-1.0, 1.0, -1.0]))
    with pytest.warns(DataWarning, match="pelvis_rotation of the root would go beyond .* face another way"):
        imdy_plugin.inverse_kinematics(tmp_path / "clamped.osim", turned)
    assert imdy_plugin.inverse_kinematics(walk["model"], turned).attrs["marker_rms_mean"] < 2 * NOISE


def test_smoothing_smooths(walk: dict[str, Path], noisy: Path) -> None:
    trial = api.load_trial(walk["model"], noisy)
    shaken = trial.motion["marker_position"] + 0.005 * np.random.default_rng(0).normal(size=trial.motion["marker_position"].shape)
    motion = trial.motion.assign(marker_position=shaken)
    bends = [
        float(np.abs(np.diff(imdy_plugin.inverse_kinematics(walk["model"], motion, smoothing=w)["coordinate_value"].values, 2, axis=0)).mean())
        for w in (0.0, 1e-6)
    ]
    assert bends[1] < 0.5 * bends[0]


def with_coupling(model: Path, folder: Path) -> Path:
    osim = import_opensim()
    native = osim.Model(str(model))
    coupling = osim.CoordinateCouplerConstraint()
    coupling.setName("together")
    leaders = osim.ArrayStr()
    leaders.append("elbow_flex_r")
    coupling.setIndependentCoordinateNames(leaders)
    coupling.setDependentCoordinateName("elbow_flex_l")
    coupling.setFunction(osim.LinearFunction(1.0, 0.0))
    native.addConstraint(coupling)
    native.finalizeConnections()
    path = folder / "coupled.osim"
    native.printToXML(str(path))
    return path


def test_constraints_that_may_give_way_are_refused_where_there_are_any(walk: dict[str, Path], noisy: Path, tmp_path: Path) -> None:
    setup = write_setup(walk, noisy, tmp_path, constraint=20)
    imdy_plugin.inverse_kinematics(setup=setup, time_range=(0.7, 0.72))
    with pytest.raises(InputError, match=r"constraint_weight is 20.*elbow_flex_l.*Inf"):
        imdy_plugin.inverse_kinematics(with_coupling(walk["model"], tmp_path), setup=setup)


def test_a_file_of_coordinates_that_is_too_short_is_told(walk: dict[str, Path], noisy: Path, tmp_path: Path) -> None:
    trial = api.load_trial(walk["model"], coordinates=walk["coordinates"])
    from imdy_plugin.adapters.coordinates import write_coordinates

    short = write_coordinates(trial.motion.isel(time=slice(0, 70)), tmp_path / "short.mot", trial.model)
    with pytest.warns(DataWarning, match=r"short.mot: covers .* 15 of 25 frames have no value that hip_flexion_l"):
        imdy_plugin.inverse_kinematics(setup=write_setup(walk, noisy, tmp_path, coordinates=short))
    tasks = marker_task("RASI", 1.0) + coordinate_task("hip_flexion_l", 1.0, "from_file")
    with pytest.raises(InputError, match="names no coordinate_file"):
        imdy_plugin.inverse_kinematics(setup=write_setup(walk, noisy, tmp_path, tasks, coordinates=""))


def test_markers_that_a_setup_wants_in_vain_are_named(walk: dict[str, Path], noisy: Path, tmp_path: Path) -> None:
    names = ("RASI", "LASI", "RPSI", "LPSI", "C7", "CLAV", "STRN", "RTH1", "RLFC", "RMFC", "LTH1", "LLFC", "RASIS")
    tasks = "".join(marker_task(name, 1.0) for name in names)
    with pytest.warns(DataWarning) as told:
        imdy_plugin.inverse_kinematics(setup=write_setup(walk, noisy, tmp_path, tasks))
    assert any("left out: RASIS; 'RASIS': " in str(w.message) and "RASI" in str(w.message).split("RASIS': ")[1] for w in told)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"weights": {"RASIX": 2.0}}, UnknownNameError, "RASI"),
        ({"weights": {"RASI": -1.0}}, InputError, "weight of 'RASI' is -1"),
        ({"weights": {"RASI": float("nan")}}, InputError, "weight of 'RASI' is nan"),
        ({"tasks": {"knee_angle": (0.0, 1.0)}}, UnknownNameError, "knee_angle_r"),
        ({"tasks": {"knee_angle_r": (0.0, -1.0)}}, InputError, "weight of 'knee_angle_r' is -1"),
        ({"tasks": {"knee_angle_r": ([0.0, 1.0], 1.0)}}, InputError, r"shape \(2,\).*25 frames"),
        ({"smoothing": -1.0}, InputError, "smoothing"),
        ({"time_range": (0.0, 1.3)}, InputError, "not inside the data"),
    ],
)
def test_what_cannot_be_meant_is_refused(walk: dict[str, Path], noisy: Path, changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        imdy_plugin.inverse_kinematics(walk["model"], noisy, **changes)


def test_what_is_missing_is_asked_for(walk: dict[str, Path], noisy: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no model is given; give model="):
        imdy_plugin.inverse_kinematics(markers=noisy)
    setup = write_setup(walk, noisy, tmp_path, markers="Unassigned")
    with pytest.raises(InputError, match=r"no markers are given, and .*setup.xml names none"):
        imdy_plugin.inverse_kinematics(setup=setup)
    with pytest.raises(InputError, match="holds no frame of the recording"):
        imdy_plugin.inverse_kinematics(markers=noisy, setup=write_setup(walk, noisy, tmp_path, time="50 60"))


def test_setup_is_read_with_its_paths(tmp_path: Path) -> None:
    (tmp_path / "tasks.xml").write_text(
        f"<OpenSimDocument><IKTaskSet><objects>{marker_task('A', 2.5)}{marker_task('B', 1, 'false')}</objects></IKTaskSet></OpenSimDocument>"
    )
    text = SETUP.format(model="..\\models\\a.osim", markers=" ../b.trc ", coordinates="Unassigned", constraint="Infinity", time="", tasks="")
    text = text.replace("<IKTaskSet><objects></objects></IKTaskSet>", '<results_directory>res</results_directory><IKTaskSet file="tasks.xml"/>')
    (tmp_path / "s.xml").write_text(text)
    job = read_ik_setup(tmp_path / "s.xml")
    assert job.model_file == tmp_path.parent / "models" / "a.osim" and job.marker_file == tmp_path.parent / "b.trc"
    assert job.output_file == tmp_path / "res" / "out.mot" and job.coordinate_file is None and job.time_range is None
    assert job.marker_weights == (("A", 2.5),) and np.isinf(job.constraint_weight)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("InverseKinematicsTool", "InverseDynamicsTool", "holds an InverseDynamicsTool, not an InverseKinematicsTool"),
        ("<weight>1.0</weight>", "<weight>-1</weight>", "weight of 'A' is -1"),
        ("<weight>1.0</weight>", "<weight>0</weight>", "gives no marker a weight"),
        ("<apply>true</apply>", "<apply>perhaps</apply>", "apply is 'perhaps'"),
        ("<time_range>0 1<", "<time_range>1 0<", "time_range"),
        (">Inf<", ">much<", "constraint_weight is 'much'"),
    ],
)
def test_a_setup_that_makes_no_sense_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = SETUP.format(model="a.osim", markers="b.trc", coordinates="", constraint="Inf", time="0 1", tasks=marker_task("A", 1.0))
    assert old in text
    (tmp_path / "s.xml").write_text(text.replace(old, new))
    with pytest.raises(FileFormatError, match=message):
        read_ik_setup(tmp_path / "s.xml")


def test_a_fit_of_other_frames_is_no_motion() -> None:
    with pytest.raises(InvalidDatasetError, match="marker_rms"):
        schema.new_motion([0.0, 1.0], coordinates=(["a"], np.zeros((2, 1))), fit={"marker_rms": np.zeros(3)})


def run(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["ik", *map(str, arguments)])
    text = done.output + (done.stderr or "")
    assert done.exit_code == code, text
    return text


def test_command_writes_what_opensim_reads_and_a_report(walk: dict[str, Path], noisy: Path, tmp_path: Path) -> None:
    text = run(walk["model"], noisy, "--report", tmp_path / "errors.csv", "--weight", "RASI=2", "--task", "arm_rot_l=default:1000", "--from", 0.7)
    motion = imdy_plugin.inverse_kinematics(
        walk["model"],
        noisy,
        weights={"RASI": 2.0},
        tasks={"arm_rot_l": (None, 1000.0)},
        time_range=(0.7, float(api.load_trial(walk["model"], noisy).motion["time"][-1])),
    )
    written = tmp_path / "noisy_ik.mot"
    storage = import_opensim().Storage(str(written))
    assert storage.isInDegrees() and storage.getSize() == motion.sizes["time"]
    read = read_coordinates(written, api.load_trial(walk["model"], noisy).model)
    np.testing.assert_allclose(read["coordinate_value"], motion["coordinate_value"], atol=1e-8)
    with (tmp_path / "errors.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == motion.sizes["time"] and rows[0]["converged"] == "1"
    np.testing.assert_allclose([float(row["rms_m"]) for row in rows], motion["marker_rms"], atol=1e-6)
    assert any(row["C7_m"] == "" for row in rows) and float(rows[-1]["C7_m"]) == pytest.approx(float(motion["marker_error"].sel(marker="C7")[-1]), abs=1e-6)
    worst = str(motion["marker"].values[int(motion["marker_error"].mean("time").values.argmax())])
    for part in (f"{motion.sizes['time']}, ", f"{worst} ", "100 % of", "0 frames bridged", "noisy_ik.mot"):
        assert part in text


def test_command_replaces_nothing_unless_it_is_told_to(walk: dict[str, Path], noisy: Path, tmp_path: Path) -> None:
    setup = write_setup(walk, noisy, tmp_path)
    run("--setup", setup, "--to", 0.65)
    before = (tmp_path / "out.mot").read_text()
    assert "--force" in run("--setup", setup, code=2)
    assert (tmp_path / "out.mot").read_text() == before
    run("--setup", setup, "--force")
    assert (tmp_path / "out.mot").read_text() != before
    (tmp_path / "errors.csv").write_text("mine")
    assert "errors.csv" in run("--setup", setup, "--output", tmp_path / "b.mot", "--report", tmp_path / "errors.csv", code=2)
    assert not (tmp_path / "b.mot").exists() and (tmp_path / "errors.csv").read_text() == "mine"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--weight", "RASI"), "NAME=WEIGHT"),
        (("--weight", "RASI=much"), "'much', given for 'RASI', is not a number"),
        (("--task", "knee_angle_r=0.1"), "NAME=VALUE:WEIGHT"),
        (("--task", "knee_angel_r=0.1:5"), "knee_angle_r"),
    ],
)
def test_command_explains_itself(walk: dict[str, Path], noisy: Path, tmp_path: Path, given: tuple[str, str], message: str) -> None:
    assert message in " ".join(run(walk["model"], noisy, *given, code=2).split())
    assert not list(tmp_path.glob("*.mot"))


def test_command_cuts_what_markers_do_not_tell(walk: dict[str, Path], noisy: Path, tmp_path: Path) -> None:
    whole = write_trc(without(noisy, walk, ARM, slice(18, None)), tmp_path / "arm.trc")
    text = run(walk["model"], whole)
    assert "longest span that is known (18 of 25 frames)" in " ".join(text.split()) and "7 masked" in text
    assert read_coordinates(tmp_path / "arm_ik.mot", api.load_trial(walk["model"], whole).model).sizes["time"] == 18


# --- published setups and the motions that their laboratories published with them ---------------------------------------------------------------------

PIPELINES = "opensim_models_pipelines"
SCHREIBER = "schreiber_moissenet_2019_walking/data"


def schreiber(subject: str, trial: str) -> tuple[str, str, str, str]:
    base = f"{SCHREIBER}/{subject}"
    model, markers = f"{base}/scaling/{subject}_scaledModelAdjusted.osim", f"{base}/dynamic/{subject}_{trial}.trc"
    return f"{base}/ik/{trial}/{trial}_ikSetup.xml", model, markers, f"{base}/ik/{trial}/{trial}_ik.mot"


PUBLISHED = {
    "gait10dof18musc": (
        f"{PIPELINES}/Gait10dof18musc/IK/walk_Setup_IK.xml",
        f"{PIPELINES}/Gait10dof18musc/OutputReference/subject01.osim",
        f"{PIPELINES}/Gait10dof18musc/ExperimentalData/subject01_walk.trc",
        f"{PIPELINES}/Gait10dof18musc/OutputReference/IK/subject01_walk_IK.mot",
    ),
    "gait2354": (
        f"{PIPELINES}/Gait2354_Simbody/subject01_Setup_IK.xml",
        f"{PIPELINES}/Gait2354_Simbody/OutputReference/subject01_simbody.osim",
        f"{PIPELINES}/Gait2354_Simbody/subject01_walk1.trc",
        f"{PIPELINES}/Gait2354_Simbody/OutputReference/subject01_walk1_ik.mot",
    ),
    "hamner": (
        f"{PIPELINES}/Hamner/Setup_IK.xml",
        f"{PIPELINES}/Hamner/outputReference/subject02_RRA_Adjusted.osim",
        f"{PIPELINES}/Hamner/subject02_running.trc",
        f"{PIPELINES}/Hamner/outputReference/ResultsIK/subject02_running_ik.mot",
    ),
    "schreiber 2014001": schreiber("2014001", "C4_05"),
    "schreiber 2014031": schreiber("2014031", "C5_05"),
}

APART = {"gait10dof18musc": 0.002, "gait2354": 0.003, "hamner": 0.25, "schreiber 2014001": 0.1, "schreiber 2014031": 0.1}
"""Largest difference [rad or m] of any coordinate in any frame; OpenSim's tool stops before its answer is exact, at Hamner's arms with accuracy 1e-4."""


def objective(motion: xr.Dataset, setup: Path, value: np.ndarray, model: Path, markers: Path) -> np.ndarray:
    """What the setup minimizes ``(time,)``, from its tasks and the model's markers alone."""
    job, trial = read_ik_setup(setup), api.load_trial(model, markers)
    mechanics = body_mechanics(trial.model)
    names = [str(n) for n in motion["marker"].values]
    measured = trial.motion["marker_position"].sel(marker=names, time=motion["time"].values).values
    weight = np.array([dict(job.marker_weights)[n] for n in names])
    squared = ((mechanics.marker_positions(value, names) - measured) ** 2).sum(axis=2)
    cost = np.nansum(squared * weight, axis=1) / (np.isfinite(squared) * weight).sum(axis=1)
    for task in job.coordinate_tasks:
        assert task.source == "default_value"
        column = mechanics.coordinates.index(task.coordinate)
        cost = cost + task.weight * (value[:, column] - mechanics.default_values[column]) ** 2
    return cost


@pytest.mark.filterwarnings("ignore::imdy_plugin.errors.DataWarning")
@pytest.mark.parametrize("name", PUBLISHED)
def test_no_frame_is_worse_than_the_published_one(data_dir: Path, name: str) -> None:
    setup, model, markers, published = (data_dir / part for part in PUBLISHED[name])
    motion = imdy_plugin.inverse_kinematics(model, markers, setup=setup)
    theirs = read_coordinates(published, api.load_trial(model, markers).model, use_defaults=True)
    motion = motion.sel(time=slice(float(theirs["time"][0]) - 0.002, float(theirs["time"][-1]) + 0.002))
    near = theirs.sel(time=motion["time"].values, method="nearest", tolerance=0.002)
    value = body_mechanics(api.load_trial(model, markers).model).couple(near["coordinate_value"].values)
    ours, other = (objective(motion, setup, q, model, markers) for q in (motion["coordinate_value"].values, value))
    assert motion.sizes["time"] > 40 and motion["fit_converged"].all()
    assert (ours <= other * (1 + 1e-9)).all()
    assert np.abs(motion["coordinate_value"].values - value).max() < APART[name]
    spoiled = objective(motion, setup, motion["coordinate_value"].values + 0.003 * np.eye(value.shape[1])[6], model, markers)
    assert (spoiled > ours).all()
