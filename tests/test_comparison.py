from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import xarray as xr

from imdy_plugin.comparison import as_comparison, combine, difference_table, differences, foot_forces, sample, side_of, solver_result, split
from imdy_plugin.errors import DataWarning, InputError, InvalidDatasetError, UnknownNameError
from imdy_plugin.schema import GRAVITY, new_result, validate_result

MASS = 50.0


def make(time: Any, moment: Any = 0.0, vertical: Any = 0.0, *, names: Any = ("knee_angle_r", "pelvis_tx"), solver: str = "one", **change: Any) -> xr.Dataset:
    """A result with one moment in all coordinates and one vertical force under the right foot."""
    time = np.asarray(time, float)
    n = time.size
    force = np.zeros((n, 2, 3))
    force[:, 0, 1] = vertical
    given: dict[str, Any] = {
        "coordinates": list(names),
        "generalized_force": np.broadcast_to(np.asarray(moment, float).reshape(-1, 1), (n, len(names))).copy(),
        "units": ["N" if name.endswith("tx") else "N m" for name in names],
        "bodies": ["calcn_r", "calcn_l"],
        "ground_force": force,
        "center_of_pressure": np.zeros((n, 2, 3)),
        "free_moment": np.zeros((n, 2, 3)),
        "root_residual": np.zeros((n, 6)),
        "solver": solver,
        "solver_version": "1",
        "options": {"cutoff_hz": 6.0},
        "model": "a.osim",
        "mass": MASS,
    }
    return new_result(time, **{**given, **change})


def test_interpolates_between_stamps_of_the_reference() -> None:
    fine, coarse = make([0.0, 0.1, 0.2, 0.3, 0.4], [0, 1, 2, 3, 4]), make([0.05, 0.15, 0.25, 0.35], [10, 20, 30, 40])
    both = combine({"fine": fine, "coarse": coarse}, "fine")
    np.testing.assert_allclose(both["time"], [0.1, 0.2, 0.3])
    np.testing.assert_allclose(both["generalized_force"].sel(solver="coarse", coordinate="knee_angle_r"), [15, 25, 35])
    np.testing.assert_allclose(both["generalized_force"].sel(solver="fine", coordinate="knee_angle_r"), [1, 2, 3])
    assert both["generalized_force"].dims == ("solver", "time", "coordinate")
    assert both["generalized_force"].attrs["units"]


def test_the_first_gives_the_stamps_where_there_is_no_reference() -> None:
    both = combine({"b": make([0.0, 0.2, 0.4]), "a": make([0.0, 0.1, 0.2, 0.3, 0.4])})
    np.testing.assert_allclose(both["time"], [0.0, 0.2, 0.4])
    assert both.attrs["reference"] == ""


def test_a_missing_value_is_never_bridged() -> None:
    holed = make([0.0, 0.1, 0.2, 0.3, 0.4], [0, 1, np.nan, 3, 4])
    values = sample(holed, [0.1, 0.15, 0.2, 0.25, 0.3, 0.35])["generalized_force"].sel(coordinate="knee_angle_r")
    np.testing.assert_allclose(values, [1, np.nan, np.nan, np.nan, 3, 3.5])


def test_a_gap_in_time_is_never_bridged_and_nothing_is_extrapolated() -> None:
    holed = make([0.0, 0.1, 0.2, 0.3, 0.9, 1.0], [0, 1, 2, 3, 9, 10])
    values = sample(holed, [-0.01, 0.25, 0.3, 0.5, 0.9, 0.95, 1.01])["generalized_force"].sel(coordinate="knee_angle_r")
    np.testing.assert_allclose(values, [np.nan, 2.5, 3, np.nan, 9, 9.5, np.nan])


def test_one_frame_survives() -> None:
    single = combine({"a": make([0.5], [3.0]), "b": make([0.4, 0.5], [1.0, 2.0])}, "a")
    np.testing.assert_allclose(single["generalized_force"].sel(coordinate="knee_angle_r"), [[3.0], [2.0]])


def test_center_of_pressure_does_not_wander_to_where_an_unloaded_foot_stores_it() -> None:
    point = np.zeros((2, 2, 3))
    point[1, 0] = [2.0, 0.0, 0.4]
    landing = make([0.0, 0.1], vertical=[0.0, 400.0], center_of_pressure=point)
    half = sample(landing, [0.05])
    np.testing.assert_allclose(half["center_of_pressure"].sel(body="calcn_r"), [[2.0, 0.0, 0.4]])
    np.testing.assert_allclose(half["center_of_pressure"].sel(body="calcn_l"), [[0.0, 0.0, 0.0]])
    assert float(half["ground_force"].sel(body="calcn_r", axis="y")[0]) == 200.0


def test_center_of_pressure_keeps_the_moment_of_the_force() -> None:
    point = np.zeros((2, 2, 3))
    point[:, 0, 0] = [1.0, 2.0]
    loaded = make([0.0, 0.1], vertical=[100.0, 300.0], center_of_pressure=point)
    assert float(sample(loaded, [0.05])["center_of_pressure"].sel(body="calcn_r", axis="x")[0]) == pytest.approx((100 * 1 + 300 * 2) / 400)


def test_flags_join_and_are_set_where_either_neighbour_is() -> None:
    flagged = make([0.0, 0.1, 0.2, 0.3], flag={"gap": [False, False, True, False]})
    both = combine({"a": make([0.05, 0.15, 0.25]), "b": flagged})
    assert both["flag"].dtype == bool
    np.testing.assert_array_equal(both["flag"].sel(solver="b", kind="gap"), [False, True, True])
    assert not both["flag"].sel(solver="a").any()


def test_what_a_solver_lacks_is_missing_and_named_in_the_log() -> None:
    both = combine({"a": make([0.0, 0.1], 1.0), "b": make([0.0, 0.1], 2.0, names=("knee_angle_r", "wrist"))})
    assert list(both["coordinate"].values) == ["knee_angle_r", "pelvis_tx", "wrist"]
    assert list(both["generalized_force_unit"].values) == ["N m", "N", "N m"]
    assert np.isnan(both["generalized_force"].sel(solver="b", coordinate="pelvis_tx")).all()
    assert np.isnan(both["generalized_force"].sel(solver="a", coordinate="wrist")).all()
    assert "'b' does not give the coordinate pelvis_tx (NaN)" in both.attrs["log"]
    assert "'a' does not give the coordinate wrist (NaN)" in both.attrs["log"]


def test_each_solver_comes_back_out_as_it_went_in() -> None:
    one, two = make([0.0, 0.1], 1.0, 300.0), make([0.0, 0.1], 2.0, names=("wrist",), flag={"gap": [True, False]})
    parts = split(combine({"a": one, "b": two}))
    for name, original in {"a": one, "b": two}.items():
        validate_result(parts[name])
        xr.testing.assert_allclose(parts[name][list(original.data_vars)], original)
        assert json.loads(parts[name].attrs["options"]) == {"cutoff_hz": 6.0}
        assert set(parts[name].data_vars) == set(original.data_vars)
    with pytest.raises(UnknownNameError, match="solver 'c' does not exist; available: a, b"):
        solver_result(as_comparison(combine({"a": one, "b": two})), "c")


def test_refuses_what_cannot_be_compared() -> None:
    a = make([0.0, 0.1])
    with pytest.raises(InputError, match="at least one"):
        combine({})
    with pytest.raises(UnknownNameError, match="nearest: opensim"):
        combine({"opensim": a}, "opensin")
    with pytest.raises(InputError, match=r"share no time.*0 to 0.1 s.*5 to 5.1 s"):
        combine({"a": a, "b": make([5.0, 5.1])})
    with pytest.raises(InputError, match="'knee_angle_r' is in N m by 'a' and in N by 'b'"):
        combine({"a": a, "b": make([0.0, 0.1], units=["N", "N"])})
    with pytest.raises(InvalidDatasetError):
        combine({"a": a.drop_vars("root_residual")})
    with pytest.warns(DataWarning, match="'b' was solved with a body mass of 70 kg, the comparison uses 50 kg"):
        combine({"a": a, "b": make([0.0, 0.1], mass=70.0)})


def test_a_result_does_not_differ_from_itself() -> None:
    result = make(np.arange(20) / 100, np.sin(np.arange(20)), 300 + np.arange(20.0))
    ds = differences(combine({"a": result, "b": result}, "a"))
    for name in (n for n in ds.data_vars if not str(n).endswith("_frames")):
        assert float(abs(ds[name]).max()) == 0.0, name
    assert int(ds["generalized_force_frames"].min()) == 20


def test_a_known_offset_is_found_in_every_unit() -> None:
    a = make([0.0, 0.1, 0.2, 0.3], 1.0, 400.0)
    residual = np.zeros((4, 6))
    residual[:, :3] = [3.0, 4.0, 12.0]
    shifted = np.zeros((4, 2, 3))
    shifted[:, 0] = [0.03, 5.0, 0.04]
    b = make([0.0, 0.1, 0.2, 0.3], [6.0, -4.0, 6.0, -4.0], 400.0 + MASS * GRAVITY * 0.1, root_residual=residual, center_of_pressure=shifted)
    ds = differences(combine({"a": a, "b": b}, "a")).sel(solver="b")
    knee, right = ds.sel(coordinate="knee_angle_r"), ds.sel(foot="right")
    assert float(knee["generalized_force_rms"]) == pytest.approx(5.0)
    assert float(knee["generalized_force_mean_absolute"]) == pytest.approx(5.0)
    assert float(knee["generalized_force_rms_per_mass"]) == pytest.approx(0.1)
    assert float(right["vertical_force_rms_body_weight"]) == pytest.approx(10.0)
    assert float(right["ground_force_mean_absolute_per_mass"]) == pytest.approx(0.1 * GRAVITY)
    assert float(right["center_of_pressure_mean_absolute"]) == pytest.approx(50.0)
    assert float(ds["root_force_rms"]) == pytest.approx(13.0)
    assert int(ds["center_of_pressure_frames"].sel(foot="left")) == 0


def test_rms_and_mean_absolute_are_not_the_same() -> None:
    a, b = make([0.0, 0.1, 0.2, 0.3], 0.0), make([0.0, 0.1, 0.2, 0.3], [0.0, 0.0, 0.0, 4.0])
    (row,) = [r for r in difference_table(combine({"a": a, "b": b})) if r.name == "knee_angle_r"]
    assert (row.rms, row.mean_absolute, row.unit, row.frames) == (2.0, 1.0, "N m", 4)
    assert (row.rms_normalised, row.normalised_unit) == (2.0 / MASS, "N m/kg")


def test_the_center_of_pressure_counts_only_where_both_feet_carry() -> None:
    a = make([0.0, 0.1, 0.2], vertical=[400.0, 400.0, 10.0])
    point = np.zeros((3, 2, 3))
    point[:, 0, 0] = [0.1, 0.1, 9.0]
    b = make([0.0, 0.1, 0.2], vertical=[400.0, 5.0, 400.0], center_of_pressure=point)
    rows = {(r.quantity, r.name): r for r in difference_table(combine({"a": a, "b": b}))}
    assert rows["centre of pressure", "right"].frames == 1
    assert rows["centre of pressure", "right"].rms == pytest.approx(100.0)
    assert ("centre of pressure", "left") not in rows


def test_mass_must_be_positive() -> None:
    with pytest.raises(InputError, match=r"mass is 0\.0 kg"):
        differences(combine({"a": make([0.0, 0.1])}), 0.0)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("calcn_r", "right"),
        ("toes_l", "left"),
        ("RightFoot", "right"),
        ("left_foot", "left"),
        ("r_foot", "right"),
        ("L Ankle", "left"),
        ("pelvis", ""),
        ("torso", ""),
        ("lumbar", ""),
    ],
)
def test_side_of_a_name(name: str, side: str) -> None:
    assert side_of(name) == side


def test_bodies_of_one_foot_are_added_about_their_common_center() -> None:
    force, point = np.zeros((1, 3, 3)), np.zeros((1, 3, 3))
    force[0, :, 1] = [300.0, 100.0, 50.0]
    point[0, :, 0] = [0.0, 0.2, 7.0]
    result = make([0.0], bodies=["calcn_r", "toes_r", "calcn_l"], ground_force=force, center_of_pressure=point, free_moment=np.zeros((1, 3, 3)))
    feet = foot_forces(result)
    assert list(feet["foot"].values) == ["right", "left"]
    assert float(feet["ground_force"].sel(foot="right", axis="y")[0]) == 400.0
    assert float(feet["center_of_pressure"].sel(foot="right", axis="x")[0]) == pytest.approx(0.05)
    np.testing.assert_allclose(feet["free_moment"].sel(foot="right"), 0.0, atol=1e-12)
    moved = np.cross(point[0, :2], force[0, :2]).sum(axis=0)
    np.testing.assert_allclose(np.cross(feet["center_of_pressure"].sel(foot="right")[0], [0.0, 400.0, 0.0]), moved)


def test_feet_with_other_names_are_compared_all_the_same() -> None:
    a, b = make([0.0, 0.1], vertical=300.0), make([0.0, 0.1], vertical=350.0, bodies=["right_foot", "left_foot"])
    right = differences(combine({"a": a, "b": b})).sel(solver="b", foot="right")
    assert float(right["vertical_force_rms"]) == pytest.approx(50.0)
