from __future__ import annotations

import csv
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin._opensim import import_opensim
from imdy_plugin.adapters.external_loads import (
    read_external_loads,
    read_ground_force,
    write_ground_force,
)
from imdy_plugin.adapters.force_checks import check_foot_assignment, check_pressure_near_foot, check_size, check_zero_load
from imdy_plugin.errors import DataWarning, FileFormatError, InputError, UnknownNameError
from imdy_plugin.schema import new_motion

FORCE = """
<ExternalForce name="{name}">
  {extra}
  <applied_to_body>{body}</applied_to_body>
  <force_expressed_in_body>{frame}</force_expressed_in_body>
  <point_expressed_in_body>ground</point_expressed_in_body>
  <force_identifier>{force}</force_identifier>
  <point_identifier>{point}</point_identifier>
  <torque_identifier>{torque}</torque_identifier>
</ExternalForce>"""


def force(name: str = "right", body: str = "calcn_r", frame: str = "ground", mark: str = "ground_force_r", extra: str = "", **columns: str) -> str:
    given = {"force": f"{mark}_v", "point": f"{mark}_p", "torque": f"{mark}_m", **columns}
    return FORCE.format(name=name, body=body, frame=frame, extra=extra, **given)


def document(folder: Path, *forces: str, datafile: str = "grf.mot", name: str = "loads.xml") -> Path:
    path = folder / name
    loads = f'<ExternalLoads name="e"><objects>{"".join(forces)}</objects><datafile>{datafile}</datafile></ExternalLoads>'
    path.write_text(f'<OpenSimDocument Version="40000">{loads}</OpenSimDocument>')
    return path


def steps(count: int = 100) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Time at 100 Hz, and two feet's force, point and moment ``(T, 2, 9)``: right, then left, then right again."""
    time = np.arange(count) / 100
    values = np.zeros((count, 2, 9))
    for foot, first, last, x in ((0, 5, 35, 0.2), (1, 30, 70, 0.8), (0, 65, 95, 1.4)):
        s = np.linspace(0, 1, last - first)
        values[first:last, foot, 1] = 100 + 600 * np.sin(np.pi * s)
        values[first:last, foot, 3] = x + 0.2 * s
        values[first:last, foot, 5] = 0.1 if foot == 0 else -0.1
        values[first:last, foot, 7] = 1.0 + foot
    return time, values


def table(
    folder: Path, marks: Sequence[str] = ("ground_force_r", "ground_force_l"), *, values: NDArray[np.float64] | None = None, name: str = "grf.mot"
) -> Path:
    time, made = steps()
    values = made if values is None else values
    names = [f"{mark}_{kind}{axis}" for mark in marks for kind in "vpm" for axis in "xyz"]
    return raw_table(folder / name, names, time, values.reshape(len(time), -1)[:, : len(names)])


def raw_table(path: Path, names: Sequence[str], time: NDArray[np.float64], values: NDArray[np.float64]) -> Path:
    lines = ["grf", f"nRows={len(time)}", f"nColumns={len(names) + 1}", "endheader", "\t".join(["time", *names])]
    lines += ["\t".join(f"{v:.9g}" for v in (t, *row)) for t, row in zip(time, values, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path


def motion(values: NDArray[np.float64] | None = None, bodies: Sequence[str] = ("calcn_r", "calcn_l")) -> xr.Dataset:
    time, made = steps()
    values = made if values is None else values
    return new_motion(time[: len(values)], ground=(list(bodies), values[..., :3], values[..., 3:6], values[..., 6:]))


def test_forces_of_a_document_reach_their_bodies(tmp_path: Path) -> None:
    table(tmp_path)
    path = document(tmp_path, force(), force("left", "/bodyset/calcn_l", mark="ground_force_l"))
    forces = read_ground_force(path)
    assert list(forces["body"].values) == ["calcn_r", "calcn_l"]
    xr.testing.assert_allclose(forces[["ground_force", "center_of_pressure", "free_moment"]], motion())
    assert "grf.mot" in forces.attrs["log"]


def test_a_document_without_the_outer_element_and_with_an_open_identifier_reads(tmp_path: Path) -> None:
    time, values = steps()
    names = [f"f_{k}{a}" for k in "vp" for a in "xyz"] + [f"torque_{a}" for a in "xyz"]
    raw_table(tmp_path / "grf.mot", names, time, values[:, 0])
    path = tmp_path / "old.xml"
    path.write_text(
        f"<ExternalLoads name='e'><objects>{force(force='f_v', point='f_p', torque='torque')}</objects><datafile>grf.mot</datafile></ExternalLoads>"
    )
    assert float(read_ground_force(path)["free_moment"].values[10, 0, 1]) == 1.0


@pytest.mark.parametrize("extra", ["<isDisabled>true</isDisabled>", "<appliesForce>false</appliesForce>"])
def test_a_force_that_is_switched_off_is_left_out(tmp_path: Path, extra: str) -> None:
    table(tmp_path)
    forces = read_ground_force(document(tmp_path, force(), force("left", "calcn_l", mark="ground_force_l", extra=extra)))
    assert list(forces["body"].values) == ["calcn_r"]
    with pytest.raises(FileFormatError, match="no force that is switched on"):
        read_ground_force(document(tmp_path, force(extra=extra)))


def test_a_force_expressed_in_a_body_is_refused_by_name(tmp_path: Path) -> None:
    table(tmp_path)
    with pytest.raises(FileFormatError, match="force 'right' has force_expressed_in_body 'calcn_r'"):
        read_ground_force(document(tmp_path, force(frame="calcn_r")))


@pytest.mark.parametrize(
    ("element", "message"),
    [
        (force(body=""), "does not say which body"),
        (force(point=""), "no point_identifier"),
        (force(force="", torque="Unassigned"), "neither force nor torque"),
        ("<PrescribedForce name='p'/>", "'p' is a PrescribedForce"),
        ("", "no force that is switched on"),
    ],
)
def test_half_a_force_is_refused(tmp_path: Path, element: str, message: str) -> None:
    table(tmp_path)
    with pytest.raises(FileFormatError, match=message):
        read_ground_force(document(tmp_path, element))


def test_another_document_is_named(tmp_path: Path) -> None:
    path = tmp_path / "setup.xml"
    path.write_text('<OpenSimDocument Version="40000"><InverseDynamicsTool name="t"/></OpenSimDocument>')
    with pytest.raises(FileFormatError, match="holds no ExternalLoads, but OpenSimDocument > InverseDynamicsTool"):
        read_external_loads(path)


def test_an_entity_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "loads.xml"
    path.write_text('<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><ExternalLoads>&b;</ExternalLoads>')
    with pytest.raises(FileFormatError, match="entities"):
        read_ground_force(path)


def test_columns_that_do_not_exist_list_the_nearest(tmp_path: Path) -> None:
    table(tmp_path)
    with pytest.raises(FileFormatError, match=r"force 'right' needs the columns ground_force_rr_vx, .*nearest: ground_force_r_vx"):
        read_ground_force(document(tmp_path, force(mark="ground_force_rr")))


def test_the_data_file_is_looked_for_beside_the_document_then_in_the_given_folders(tmp_path: Path) -> None:
    there = tmp_path / "setup"
    there.mkdir()
    table(there)
    path = document(tmp_path, force())
    with pytest.raises(FileFormatError, match=r"'grf\.mot' does not exist; looked for .*grf\.mot -- put"):
        read_ground_force(path)
    assert read_external_loads(path, folders=[there]).data_file == there / "grf.mot"
    table(tmp_path)
    assert read_external_loads(path, folders=[there]).data_file == tmp_path / "grf.mot"


def test_a_path_of_another_machine_falls_back_to_the_file_beside_with_a_warning(tmp_path: Path) -> None:
    table(tmp_path)
    with pytest.warns(DataWarning, match="took '.*grf.mot' of the same name"):
        loads = read_external_loads(document(tmp_path, force(), datafile="C:\\Users\\me\\grf.mot"))
    assert loads.data_file == tmp_path / "grf.mot"


def test_bodies_that_the_model_lacks_list_the_nearest(tmp_path: Path) -> None:
    table(tmp_path)
    model = xr.Dataset(coords={"body": ["pelvis", "calcn_r", "calcn_l"]})
    with pytest.raises(UnknownNameError, match="body 'calcnr' does not exist; nearest: calcn_r"):
        read_ground_force(document(tmp_path, force(body="calcnr")), model=model)


def test_several_forces_on_one_body_are_added_up_to_an_equal_one(tmp_path: Path) -> None:
    table(tmp_path)
    path = document(tmp_path, force("a", "box"), force("b", "box", mark="ground_force_l"))
    with pytest.warns(DataWarning, match="2 forces act on 'box'"):
        one = read_ground_force(path)
    two = motion()
    assert one.sizes["body"] == 1
    np.testing.assert_allclose(one["ground_force"].sum("body"), two["ground_force"].sum("body"), atol=1e-6)
    np.testing.assert_allclose(moment_about_origin(one), moment_about_origin(two), atol=1e-5)


def moment_about_origin(forces: xr.Dataset) -> NDArray[np.float64]:
    turned = np.cross(forces["center_of_pressure"].values, forces["ground_force"].values) + forces["free_moment"].values
    return np.asarray(turned.sum(axis=1))


@pytest.mark.parametrize(
    ("marks", "torques", "bodies"),
    [
        (("ground_force", "1_ground_force"), ("ground_torque_", "1_ground_torque_"), ["calcn_r", "calcn_l"]),
        (("ground_force", "l_ground_force"), ("ground_torque_", "l_ground_torque_"), ["calcn_r", "calcn_l"]),
        (("L_ground_force", "R_ground_force"), ("L_ground_torque_", "R_ground_torque_"), ["calcn_l", "calcn_r"]),
        (("ground_force_r", "ground_force_l"), ("ground_torque_r_", "ground_torque_l_"), ["calcn_r", "calcn_l"]),
        (("ground_force_r", "ground_force_l"), ("ground_force_r_m", "ground_force_l_m"), ["calcn_r", "calcn_l"]),
        (("ground_force_left", "ground_force_right"), ("ground_moment_left_m", "ground_moment_right_m"), ["calcn_l", "calcn_r"]),
        (("ground_force_talus_l", "ground_force_talus_r"), ("ground_torque_talus_l_", "ground_torque_talus_r_"), ["talus_l", "talus_r"]),
    ],
)
def test_a_table_alone_says_its_bodies_by_the_usual_names(tmp_path: Path, marks: tuple[str, str], torques: tuple[str, str], bodies: list[str]) -> None:
    time, values = steps()
    names = [f"{m}_{k}{a}" for m in marks for k in "vp" for a in "xyz"] + [f"{t}{a}" for t in torques for a in "xyz"]
    columns = np.concatenate([values[..., :6].reshape(len(time), 12), values[..., 6:].reshape(len(time), 6)], axis=1)
    forces = read_ground_force(raw_table(tmp_path / "grf.mot", names, time, columns))
    assert list(forces["body"].values) == bodies
    xr.testing.assert_allclose(forces[["ground_force", "center_of_pressure", "free_moment"]], motion(bodies=bodies))


def test_numbered_plates_need_to_be_told_their_bodies(tmp_path: Path) -> None:
    path = table(tmp_path, ("ground_force_1", "ground_force_2"))
    with pytest.raises(FileFormatError, match=r"marked \['1', '2'\].*give the ExternalLoads"):
        read_ground_force(path)
    assert list(read_ground_force(path, bodies=("calcn_l", "calcn_r"))["body"].values) == ["calcn_l", "calcn_r"]
    assert list(read_ground_force(path, bodies={"2": "calcn_r", "1": "calcn_l"})["body"].values) == ["calcn_l", "calcn_r"]
    with pytest.raises(InputError, match="1 bodies given for 2 sets"):
        read_ground_force(path, bodies=("calcn_l",))
    with pytest.raises(InputError, match=r"nothing about the columns marked \['2'\]"):
        read_ground_force(path, bodies={"1": "calcn_l"})


def test_a_table_without_force_columns_is_an_error(tmp_path: Path) -> None:
    time, values = steps()
    with pytest.raises(FileFormatError, match="no columns named like ground_force_vx; columns: knee, hip"):
        read_ground_force(raw_table(tmp_path / "ik.mot", ["knee", "hip"], time, values[:, 0, :2]))


def test_moments_that_go_with_no_force_are_a_warning(tmp_path: Path) -> None:
    time, values = steps()
    names = [f"ground_force_r_{k}{a}" for k in "vp" for a in "xyz"] + [f"ground_torque_right_{a}" for a in "xyz"]
    with pytest.warns(DataWarning, match=r"columns ground_torque_right_x \(and y, z\)"):
        read_ground_force(raw_table(tmp_path / "grf.mot", names, time, values[:, 0]))


def test_nan_in_swing_is_no_contact_and_counted(tmp_path: Path) -> None:
    _, values = steps()
    swing = values[:, 0, 1] == 0
    values[swing, 0, 3:6] = np.nan
    with pytest.warns(DataWarning, match=rf"NaN taken as no contact: 'calcn_r' in {swing.sum()} of 100 frames"):
        forces = read_ground_force(table(tmp_path, values=values))
    xr.testing.assert_allclose(forces[["ground_force", "center_of_pressure", "free_moment"]], motion())
    assert f"'calcn_r' in {swing.sum()} of 100 frames" in forces.attrs["log"]


def test_nan_in_all_columns_through_swing_is_no_contact(tmp_path: Path) -> None:
    _, values = steps()
    values[values[:, 0, 1] == 0, 0] = np.nan
    with pytest.warns(DataWarning, match="no contact"):
        forces = read_ground_force(table(tmp_path, values=values))
    assert float(np.abs(forces["ground_force"].values[:5]).max()) == 0.0


def test_a_loaded_frame_without_a_centre_of_pressure_is_an_error(tmp_path: Path) -> None:
    _, values = steps()
    values[20, 0, 3] = np.nan
    with pytest.raises(FileFormatError, match=r"force 'r' is \d+ N at frame 20 \(t = 0\.2 s\), but part"):
        read_ground_force(table(tmp_path, values=values))


def test_a_gap_in_the_middle_of_stance_stays_unknown(tmp_path: Path) -> None:
    _, values = steps()
    values[18:22, 0] = np.nan
    with pytest.warns(DataWarning, match=r"no numbers in 4 frames between loaded ones \(first at t = 0\.18 s\)"):
        forces = read_ground_force(table(tmp_path, values=values))
    assert np.isnan(forces["ground_force"].values[18:22, 0]).all()
    assert np.isfinite(forces["ground_force"].values[:, 1]).all()


def feet(swapped: bool) -> xr.DataArray:
    time = np.arange(0, 200) / 200
    right = np.stack([np.where(time < 0.5, 0.2, 1.4), 0 * time, 0 * time + 0.1], axis=-1)
    left = np.stack([0 * time + 0.8, 0 * time, 0 * time - 0.1], axis=-1)
    names = ["calcn_l", "calcn_r"] if swapped else ["calcn_r", "calcn_l"]
    return xr.DataArray(np.stack([right, left], axis=1), dims=("time", "body", "axis"), coords={"time": time, "body": names, "axis": ["x", "y", "z"]})


def test_a_force_on_the_wrong_foot_is_a_warning() -> None:
    check_foot_assignment(motion(), feet(swapped=False))
    with pytest.warns(DataWarning, match=r"the force on 'calcn_r' acts nearer to 'calcn_l' in \d+% of \d+ loaded frames"):
        check_foot_assignment(motion().isel(body=[0]), feet(swapped=True))


def test_a_force_far_from_its_foot_is_a_warning_with_place_and_size() -> None:
    forces = motion()
    check_pressure_near_foot(forces, feet(swapped=False))
    far = forces.copy(deep=True)
    frame = int(np.argmax(far["ground_force"].values[:, 0, 1]))
    far["center_of_pressure"].values[frame, 0, 0] += 20.0
    with pytest.warns(DataWarning, match=r"'calcn_r' acts more than 0\.5 m from it in 1 frame\(s\), (19|20)\.\d+ m at"):
        check_pressure_near_foot(far, feet(swapped=False))


@pytest.mark.parametrize("factor", [1e-3, 1 / 700, 50.0])
def test_forces_in_another_unit_are_warned_of(factor: float) -> None:
    forces = motion()
    mass = float(np.linalg.norm(forces["ground_force"].values.sum(axis=1), axis=1).max()) / 9.81
    check_size(forces, mass)
    check_size(forces.assign(ground_force=0 * forces["ground_force"]), mass)
    with pytest.warns(DataWarning, match="of the body weight"):
        check_size(forces.assign(ground_force=factor * forces["ground_force"]), mass)


def test_a_body_that_is_no_foot_is_not_checked() -> None:
    check_foot_assignment(motion(bodies=("chair", "calcn_l")), feet(swapped=False))


@pytest.mark.parametrize("offset", [15.0, -15.0])
def test_a_plate_that_was_not_zeroed_is_a_warning(tmp_path: Path, offset: float) -> None:
    _, values = steps()
    values[:, 0, 1] += offset + np.random.default_rng(0).normal(scale=0.5, size=100)
    with pytest.warns(DataWarning, match=rf"the vertical force on 'calcn_r' stays near {'-' if offset < 0 else ''}1[45]"):
        read_ground_force(table(tmp_path, values=values))


def test_noise_around_zero_and_quiet_standing_are_no_offset() -> None:
    _, values = steps()
    noise = np.random.default_rng(0).normal(scale=1.0, size=(100, 2))
    values[..., 1] += noise
    check_zero_load(motion(values))
    values[..., 1] = 350.0 + noise
    check_zero_load(motion(values))


@pytest.mark.parametrize(("axis", "sign", "told"), [(2, 1.0, r"\+z"), (1, -1.0, "-y")])
def test_forces_that_do_not_push_up_are_a_warning(tmp_path: Path, axis: int, sign: float, told: str) -> None:
    _, values = steps()
    turned = values.copy()
    turned[..., 1] = 0.0
    turned[..., axis] = sign * values[..., 1]
    with pytest.warns(DataWarning, match=f"pushes mainly along {told}.*not up along"):
        read_ground_force(table(tmp_path, values=turned))


def test_what_is_written_reads_back_here_and_in_opensim(tmp_path: Path) -> None:
    opensim, given = import_opensim(), motion()
    mot, xml = write_ground_force(given, tmp_path / "out" / "walk_grf.mot", tmp_path / "out" / "walk_loads.xml")
    xr.testing.assert_allclose(read_ground_force(xml)[["ground_force", "center_of_pressure", "free_moment"]], given, atol=1e-6)
    xr.testing.assert_allclose(read_ground_force(mot)[["ground_force", "center_of_pressure", "free_moment"]], given, atol=1e-6)
    assert "<datafile>walk_grf.mot</datafile>" in xml.read_text()
    loads = opensim.ExternalLoads(str(xml), True)
    assert [loads.get(i).get_applied_to_body() for i in range(loads.getSize())] == ["calcn_r", "calcn_l"]
    assert opensim.Storage(str(mot)).getSize() == 100
    assert opensim.TimeSeriesTable(str(mot)).getNumColumns() == 18


def test_the_point_is_held_in_swing_where_opensim_interpolates_it(tmp_path: Path) -> None:
    mot, _ = write_ground_force(motion(), tmp_path / "a.mot", tmp_path / "a.xml")
    point = import_opensim().TimeSeriesTable(str(mot)).getDependentColumn("ground_force_calcn_r_px").to_numpy()
    assert point[0] == pytest.approx(0.2)
    assert point[36] == pytest.approx(0.4)
    assert point[64] == pytest.approx(1.4)


def test_unknown_frames_are_cut_with_a_warning_and_never_written(tmp_path: Path) -> None:
    _, values = steps()
    values[:10] = np.nan
    values[90:] = np.nan
    with pytest.warns(DataWarning, match=r"known in 80 of 100 frames; wrote 0\.1 to 0\.89 s \(80 frames\)"):
        mot, _ = write_ground_force(motion(values), tmp_path / "a.mot", tmp_path / "a.xml")
    assert "nan" not in mot.read_text()
    with pytest.raises(InputError, match="no frame has known"):
        write_ground_force(motion(values * np.nan), tmp_path / "b.mot", tmp_path / "b.xml")
    with pytest.raises(InputError, match="no ground forces to write"):
        write_ground_force(motion(values).drop_vars("ground_force"), tmp_path / "b.mot", tmp_path / "b.xml")


def test_every_external_loads_document_with_its_data_reads(data_dir: Path) -> None:
    count = 0
    for path in sorted(data_dir.rglob("*.xml")):
        if b"<ExternalForce " not in path.read_bytes():
            continue
        try:
            forces = quietly(path)
        except FileFormatError as error:
            assert "datafile" in str(error), path
            continue
        count += 1
        total = forces["ground_force"].sel(axis="y").sum("body").values
        assert 200 < np.nanmax(total) < 5000, path
    assert count >= 60


def test_every_force_table_of_the_trials_reads(data_dir: Path) -> None:
    with (data_dir / "MANIFEST.csv").open() as stream:
        paths = [data_dir / row["grf_file"] for row in csv.DictReader(stream) if row["grf_file"].endswith(".mot")]
    assert len(paths) > 80
    for path in paths:
        try:
            forces = quietly(path)
        except FileFormatError as error:
            assert "marked ['1', '2'" in str(error)
            forces = quietly(path, bodies={"1": "a", "2": "b", "3": "c"})
        assert np.nanmean(forces["ground_force"].sel(axis="y").sum("body").values) > 50, path


def quietly(path: Path, **options: object) -> xr.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return read_ground_force(path, **options)  # type: ignore[arg-type]
