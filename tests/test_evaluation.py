from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import xarray as xr

from imdy_plugin import evaluation, references, registry, schema
from imdy_plugin.errors import FileFormatError, InputError, SolverError, UnknownNameError
from imdy_plugin.evaluation import Evaluation, Plan, evaluate, unseen_weights
from imdy_plugin.interfaces import Solver, SolverOptions, Trial
from imdy_plugin.references import Reference, read_reference, read_references

COORDINATES = ["pelvis_rotation", "hip_flexion_r", "hip_flexion_l", "knee_angle_r", "knee_angle_l", "mtp_angle_r"]
FRAMES = 21


def write_reference(
    folder: Path, subject: str, *, source: str = "lab", activity: str = "walk", mass: float = 50.0, share: float = 1.0, torque: bool = True
) -> Path:
    """A person who stands on the right foot, with `share` of 10 N/kg, and holds `share` Nm/kg at every joint; heading 90 degrees to the left."""
    time = np.arange(FRAMES) * 0.01
    force = np.zeros((FRAMES, 2, 3))
    force[:, 0] = [0.0, 10.0 * mass * share, -2.0 * mass * share]
    point = np.full((FRAMES, 2, 3), np.nan)
    point[:, 0] = [0.1, 0.0, 0.1]
    ds = xr.Dataset(
        {
            "ground_force": (("time", "foot", "axis"), force),
            "center_of_pressure": (("time", "foot", "axis"), point),
            "ground_force_id": (("time", "foot", "axis"), force),
            "ground_moment_origin_id": (("time", "foot", "axis"), np.cross(np.nan_to_num(point), force)),
            "contact": (("time", "foot"), force[..., 1] > 20),
            "valid": ("time", np.ones(FRAMES, bool)),
            "valid_id": ("time", np.ones(FRAMES, bool)),
        },
        coords={"time": time, "foot": ["right", "left"], "axis": list(schema.AXES)},
        attrs={"activity": activity, "mass": mass, "source": source, "subject": subject, "contact_threshold_N": 20.0, "marker_path": "none.trc"},
    )
    if torque:
        value = np.zeros((FRAMES, len(COORDINATES)))
        value[:, 0] = np.pi / 2
        value[:, 3:5] = -0.5
        ds = ds.assign_coords(coordinate=COORDINATES)
        ds["coordinate_value"] = (("time", "coordinate"), value)
        ds["generalized_force"] = (("time", "coordinate"), np.full((FRAMES, len(COORDINATES)), share * mass))
    path = folder / "references" / f"{source}__{subject}__{activity}.nc"
    path.parent.mkdir(exist_ok=True)
    ds.to_netcdf(path, engine="h5netcdf")
    return path


def write_weights(path: Path, people: list[str] | None) -> Path:
    from safetensors.numpy import save_file

    save_file({"w": np.zeros(1)}, str(path), metadata=None if people is None else {"card": json.dumps({"people": people})})
    return path


class Options(SolverOptions):
    cutoff_hz: float | None = None
    weights: str = ""


class Fake(Solver):
    """Answers what the test put into `answer`."""

    name = "fake"
    summary = "fake"
    version = "1"
    needs = frozenset({"kinematics"})
    gives = frozenset({"ground_force"})
    Options = Options
    answer: ClassVar[Any] = None
    seen: ClassVar[list[Options]] = []

    def solve(self, trial: Trial, options: Any) -> xr.Dataset:
        Fake.seen.append(options)
        if isinstance(Fake.answer, Exception):
            raise Fake.answer
        return Fake.answer(trial)  # type: ignore[no-any-return]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    """The fake solver under its name, on trials whose motion is the reference's coordinates."""

    def build(reference: Reference, data_dir: Path, kinematics: str) -> Trial:
        ds = reference.dataset
        return Trial(schema.new_motion(ds["time"].values, coordinates=(COORDINATES, ds["coordinate_value"].values)), mass=reference.mass)

    monkeypatch.setattr(registry, "get_solver", lambda name: Fake())
    monkeypatch.setattr(evaluation, "build_trial", build)
    Fake.seen.clear()
    return Fake


def answer(trial: Trial, force: float = 10.0, frames: slice = slice(None), bodies: tuple[str, str] = ("calcn_l", "calcn_r")) -> xr.Dataset:
    """A result with `force` [N/kg] up on the right foot and 1 Nm/kg at two joints; the left foot comes first."""
    time = trial.motion["time"].values[frames]
    ground = np.zeros((time.size, 2, 3))
    ground[:, 1] = [0.0, force * trial.mass, -2.0 * trial.mass]
    names = ["knee_angle_r", "hip_flexion_r"]
    return schema.new_result(
        time,
        coordinates=names,
        generalized_force=np.full((time.size, 2), trial.mass),
        units=["N m", "N m"],
        bodies=bodies,
        ground_force=ground,
        center_of_pressure=np.where(ground[..., 1:2] > 0, [0.1, 0.0, 0.1], 0.0),
        free_moment=np.zeros_like(ground),
        root_residual=np.zeros((time.size, 6)),
        solver="fake",
        solver_version="1",
        options={},
        model="",
        mass=trial.mass,
    )


def test_zero_scores_the_size_of_the_reference(tmp_path: Path) -> None:
    write_reference(tmp_path, "a")
    row = evaluate(tmp_path, ["zero"]).rows[0]
    assert row["status"] == "ok"
    assert row["force"] == pytest.approx(math.hypot(10, 2) / 2, rel=1e-6)
    assert row["torque"] == pytest.approx(1.0)
    assert row["frames"] == FRAMES


def test_mean_of_others_in_the_heading_frame(tmp_path: Path) -> None:
    write_reference(tmp_path, "a")
    write_reference(tmp_path, "b", share=2.0, mass=80.0)
    rows = evaluate(tmp_path, ["mean"]).rows
    reference = read_references(tmp_path)[0]
    said = references.mean_solution(reference, references.mean_answers([reference], read_references(tmp_path))[reference.id])  # type: ignore[arg-type]
    np.testing.assert_allclose(said.force[0] / 50.0, [[0, 10, -2], [0, 10, -2]], atol=1e-6)
    assert rows[0]["torque"] == pytest.approx(1.0)
    assert rows[0]["force"] == pytest.approx(math.hypot(10, 2) / 2, rel=1e-6)


def test_mean_never_looks_at_the_person(tmp_path: Path) -> None:
    write_reference(tmp_path, "a")
    write_reference(tmp_path, "a", source="other lab")
    assert {r["status"] for r in evaluate(tmp_path, ["mean"]).rows} == {"absent"}


def test_people_of_two_sources_with_one_label_and_other_mass_are_two(tmp_path: Path) -> None:
    write_reference(tmp_path, "a", mass=50.0)
    write_reference(tmp_path, "a", source="other lab", mass=70.0)
    assert {r["status"] for r in evaluate(tmp_path, ["mean"]).rows} == {"ok"}


def test_solver_is_scored_foot_by_name_and_coordinate_by_name(tmp_path: Path, fake: type[Fake]) -> None:
    write_reference(tmp_path, "a")
    fake.answer = answer
    row = evaluate(tmp_path, ["fake"]).rows[0]
    assert row["status"] == "ok"
    assert row["force"] == pytest.approx(0.0, abs=1e-6)
    assert row["cop"] == pytest.approx(0.0, abs=1e-6)
    assert row["torque"] == pytest.approx(0.5)


def test_swapped_feet_are_not_forgiven(tmp_path: Path, fake: type[Fake]) -> None:
    write_reference(tmp_path, "a")
    fake.answer = lambda trial: answer(trial, bodies=("calcn_r", "calcn_l"))
    assert evaluate(tmp_path, ["fake"]).rows[0]["force"] > 9


def test_a_trial_that_fails_scores_as_zero(tmp_path: Path, fake: type[Fake]) -> None:
    write_reference(tmp_path, "a")
    fake.answer = SolverError("no convergence")
    zero, failed = evaluate(tmp_path, ["zero", "fake"]).rows
    assert failed["status"] == "failed"
    assert failed["message"] == "no convergence"
    for measure in ("force", "vertical", "torque", "torque_norm", "contact_f1"):
        assert failed[measure] == zero[measure]


def test_a_solution_that_covers_nothing_fails(tmp_path: Path, fake: type[Fake]) -> None:
    write_reference(tmp_path, "a")
    fake.answer = lambda trial: answer(trial, force=math.nan)
    row = evaluate(tmp_path, ["fake"]).rows[0]
    assert row["status"] == "failed"
    assert "covers no frame" in row["message"]


def test_frames_left_out_count_against_coverage(tmp_path: Path, fake: type[Fake]) -> None:
    write_reference(tmp_path, "a")
    fake.answer = lambda trial: answer(trial, frames=slice(0, 11))
    row = evaluate(tmp_path, ["fake"]).rows[0]
    assert row["coverage"] == pytest.approx(11 / 21)
    assert row["force"] == pytest.approx(0.0, abs=1e-6)


def test_a_marker_file_that_is_missing_is_a_failure_with_its_name(tmp_path: Path) -> None:
    write_reference(tmp_path, "a")
    row = evaluate(tmp_path, ["opensim"]).rows[0]
    assert row["status"] == "failed"
    assert "none.trc" in row["message"]


def test_the_reference_cutoff_is_handed_on(tmp_path: Path, fake: type[Fake]) -> None:
    path = write_reference(tmp_path, "a")
    with xr.open_dataset(path, engine="h5netcdf") as opened:
        ds = opened.load().assign_attrs(fc_coordinates=12.0)
    ds.to_netcdf(path, engine="h5netcdf")
    fake.answer = answer
    evaluate(tmp_path, ["fake"])
    evaluate(tmp_path, ["fake"], options={"fake": {"cutoff_hz": 3.0}})
    assert [o.cutoff_hz for o in fake.seen] == [12.0, 3.0]


def test_weights_that_saw_the_person_are_refused(tmp_path: Path) -> None:
    write_reference(tmp_path, "a")
    reference = read_references(tmp_path)[0]
    saw = write_weights(tmp_path / "fold0.safetensors", ["lab/a", "lab/b"])
    clean = write_weights(tmp_path / "fold1.safetensors", ["lab/b", "lab/c"])
    others = [Reference(tmp_path / f"lab__{name}__walk.nc", reference.dataset.assign_attrs(subject=name)) for name in "bc"]
    assert unseen_weights(reference, [saw, clean], others) == clean
    with pytest.raises(InputError, match="lab/a"):
        unseen_weights(reference, [saw])


def test_weights_that_saw_the_person_under_another_name_are_refused(tmp_path: Path) -> None:
    write_reference(tmp_path, "a")
    write_reference(tmp_path, "a", source="other lab")
    references = read_references(tmp_path)
    saw = write_weights(tmp_path / "fold0.safetensors", ["other lab/a"])
    with pytest.raises(InputError, match="was trained on lab/a"):
        unseen_weights(references[0], [saw], references)


def test_weights_that_do_not_say_whom_they_saw_are_refused(tmp_path: Path) -> None:
    write_reference(tmp_path, "a")
    silent = write_weights(tmp_path / "fold0.safetensors", None)
    with pytest.raises(FileFormatError, match="which people"):
        unseen_weights(read_references(tmp_path)[0], [silent])


def test_weights_whose_people_nobody_knows_are_refused(tmp_path: Path) -> None:
    write_reference(tmp_path, "a")
    strange = write_weights(tmp_path / "fold0.safetensors", ["person 7"])
    with pytest.raises(FileFormatError, match="person 7"):
        unseen_weights(read_references(tmp_path)[0], [strange])


def test_shipped_weights_come_before_folds(tmp_path: Path) -> None:
    for name in ("fold0", "imdys", "fold1", "fold2.checkpoint"):
        write_weights(tmp_path / f"{name}.safetensors", [])
    assert [p.stem for p in evaluation.find_weights(tmp_path)] == ["imdys", "fold0", "fold1"]


def test_evaluation_stops_before_running_where_weights_saw_somebody(tmp_path: Path, fake: type[Fake]) -> None:
    write_reference(tmp_path, "a")
    folder = tmp_path / "weights"
    folder.mkdir()
    write_weights(folder / "fold0.safetensors", ["lab/a"])
    with pytest.raises(InputError, match="lab/a"):
        evaluate(tmp_path, ["imdys"], weights=folder)
    assert not fake.seen


def test_the_unseen_weights_reach_the_solver(tmp_path: Path, fake: type[Fake]) -> None:
    write_reference(tmp_path, "a")
    folder = tmp_path / "weights"
    folder.mkdir()
    write_reference(tmp_path, "b")
    write_weights(folder / "fold0.safetensors", ["lab/a"])
    clean = write_weights(folder / "fold1.safetensors", ["lab/b"])
    fake.answer = answer
    evaluate(tmp_path, ["imdys"], weights=folder)
    assert fake.seen[0].weights == str(clean)
    assert fake.seen[1].weights == str(folder / "fold0.safetensors")


def test_means_are_over_people_not_trials() -> None:
    def row(person: str, force: float) -> dict[str, Any]:
        return {"person": person, "activity": "walk", "solver": "x", "status": "ok", "force": force}

    found = Evaluation([row("a", 1.0), row("a", 1.0), row("a", 1.0), row("b", 3.0)]).table(["force"])[0]
    assert (found.mean, found.people, found.trials) == (2.0, 2, 4)
    assert (found.low, found.high) == (1.0, 3.0)


def test_table_shows_what_is_absent_and_what_failed() -> None:
    base = {"activity": "walk", "source": "lab", "person": "a"}
    rows = [
        base | {"solver": "x", "status": "failed", "force": 4.0, "torque": 0.125},
        base | {"solver": "y", "status": "absent"},
    ]
    text = Evaluation(rows).to_markdown()
    lines = text.splitlines()
    assert lines[2].startswith("| walk | x | 1 | 1 (1) | 4.00 | - |")
    assert "| 0.125 |" in lines[2]
    assert lines[3].startswith("|  | y | - | 0 | - |")
    assert len({line.count("|") for line in lines[:4]}) == 1


def test_laboratories_are_told_apart_where_several_show_an_activity() -> None:
    base = {"solver": "x", "status": "ok", "person": "a"}
    rows = [
        base | {"activity": "walk", "source": "one", "force": 1.0},
        base | {"activity": "walk", "source": "two", "force": 2.0},
        base | {"activity": "jump", "source": "two", "force": 3.0},
    ]
    found = Evaluation(rows).by_source().table(["force"])
    assert [(s.activity, s.mean) for s in found] == [("walk, one", 1.0), ("walk, two", 2.0)]
    assert "By data set" in Evaluation(rows).to_markdown()
    assert "By data set" not in Evaluation(rows[1:]).to_markdown()


def test_what_plates_leave_on_the_root_is_told_even_where_no_solver_ran() -> None:
    rows = [
        {"activity": "walk", "source": "lab", "person": p, "solver": "x", "status": "absent", "residual_force": f, "residual_moment": 0.25}
        for p, f in (("a", 0.5), ("b", 1.5))
    ]
    found = Evaluation(rows)
    assert [s.mean for s in found.noise_floor()] == [1.0, 0.25]
    assert "| walk | 2 | 1.00 [0.50, 1.50] | 0.25 [0.25, 0.25] |" in found.to_markdown()


def test_csv_holds_every_row(tmp_path: Path) -> None:
    write_reference(tmp_path, "a")
    write_reference(tmp_path, "child", activity="child_walk", torque=False)
    found = evaluate(tmp_path, ["zero"])
    found.to_csv(tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [r["subject"] for r in rows] == ["a", "child"]
    assert rows[1].get("torque", "") == ""
    assert float(rows[0]["force"]) == found.rows[0]["force"]


def test_two_processes_say_the_same_as_one(tmp_path: Path) -> None:
    for subject in "ab":
        write_reference(tmp_path, subject)
    assert [r["force"] for r in evaluate(tmp_path, ["zero"], workers=2).rows] == [r["force"] for r in evaluate(tmp_path, ["zero"]).rows]


def test_plate_wrench_is_kept_where_the_center_of_pressure_is_not_known(tmp_path: Path) -> None:
    from imdy_plugin.interfaces import LoadedModel

    path = write_reference(tmp_path, "a")
    with xr.open_dataset(path, engine="h5netcdf") as opened:
        ds = opened.load()
    ds["center_of_pressure"][5:8] = np.nan
    reference = Reference(path, ds)
    plates = evaluation._plate_motion(reference, LoadedModel(xr.Dataset(attrs={"foot_bodies": ["calcn_r", "calcn_l"]})))
    assert plates is not None
    moment = np.cross(plates["center_of_pressure"], plates["ground_force"]) + plates["free_moment"].values
    np.testing.assert_allclose(moment, ds["ground_moment_origin_id"].values, atol=1e-4)


def test_frames_without_kinematics_are_not_scored_with_reference_kinematics(tmp_path: Path) -> None:
    path = write_reference(tmp_path, "a")
    with xr.open_dataset(path, engine="h5netcdf") as opened:
        ds = opened.load()
    ds["coordinate_value"][:4] = np.nan
    reference = Reference(path, ds)
    assert reference.truth("reference").valid.sum() == FRAMES - 4
    assert reference.truth("own").valid.sum() == FRAMES


@pytest.mark.parametrize(("chosen", "nearest"), [({"sources": ["lap"]}, "lab"), ({"activities": ["wak"]}, "walk"), ({"kinematics": "owm"}, "own")])
def test_unknown_names_list_the_nearest(tmp_path: Path, chosen: dict[str, Any], nearest: str) -> None:
    write_reference(tmp_path, "a")
    with pytest.raises(UnknownNameError, match=nearest):
        evaluate(tmp_path, ["zero"], **chosen)


def test_a_folder_without_references_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="references"):
        evaluate(tmp_path, ["zero"])


def test_a_reference_that_lacks_variables_is_named(tmp_path: Path) -> None:
    path = write_reference(tmp_path, "a")
    with xr.open_dataset(path, engine="h5netcdf") as opened:
        ds = opened.load()
    ds.drop_vars("contact").to_netcdf(path, engine="h5netcdf")
    with pytest.raises(FileFormatError, match="contact"):
        evaluate(tmp_path, ["zero"])


def test_zero_on_a_recording_is_the_size_of_its_forces(data_dir: Path) -> None:
    reference = read_reference(data_dir / "references" / "arnold__subject01__walk2.nc")
    row = evaluation.run_reference(reference, Plan(data_dir, ("zero",), "reference", {}))[0]
    assert row["force"] == pytest.approx(5.0, abs=0.3)
    assert row["torque"] == pytest.approx(0.23, abs=0.03)


def test_a_plan_is_plain_data() -> None:
    import pickle

    plan = Plan(Path("data"), ("zero",), "reference", {})
    assert pickle.loads(pickle.dumps(plan)) == plan
