from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from imdy_plugin.errors import InputError
from imdy_plugin.gait_cycle import Contact, GaitCycle, contacts, foot_contacts, gait_cycles, mean_vertical_force, normalise
from imdy_plugin.schema import GRAVITY, new_result

MASS = 100.0 / GRAVITY
TIME = np.arange(0.0, 4.0, 0.01)


def box(start: float, duration: float, period: float, force: float = 100.0) -> Any:
    """A force that is on for ``duration`` in every ``period``, first at ``start``."""
    return np.where((TIME - start) % period < duration - 1e-9, force, 0.0) * (start - 1e-9 <= TIME)


def result(right: Any, left: Any, time: Any = TIME) -> xr.Dataset:
    """A result with these vertical forces of a person of 100 N."""
    n = len(time)
    force = np.zeros((n, 2, 3))
    force[:, 0, 1], force[:, 1, 1] = right, left
    return new_result(
        time,
        coordinates=["knee_angle_r"],
        generalized_force=np.zeros((n, 1)),
        units=["N m"],
        bodies=["calcn_r", "calcn_l"],
        ground_force=force,
        center_of_pressure=np.zeros((n, 2, 3)),
        free_moment=np.zeros((n, 2, 3)),
        root_residual=np.zeros((n, 6)),
        solver="s",
        solver_version="1",
        options={},
        model="m",
        mass=MASS,
    )


def test_crossings_are_interpolated() -> None:
    (found,) = contacts([0, 1, 2, 3, 4, 5], [0, 0, 100, 100, 0, 0], threshold=20, release=10)
    assert found == Contact(pytest.approx(1.2), pytest.approx(3.9), True, True)


def test_hysteresis_ignores_a_dip_between_the_levels() -> None:
    force = [0, 100, 15, 100, 0]
    assert len(contacts(range(5), force, threshold=20, release=10)) == 1
    assert len(contacts(range(5), force, threshold=20, release=18)) == 2


def test_what_is_not_seen_is_said() -> None:
    unknown_end = contacts(range(5), [0, 100, 100, np.nan, 0], threshold=20)
    assert [(c.begins, c.ends) for c in unknown_end] == [(True, False)]
    cut = contacts(range(4), [100, 100, 0, 100], threshold=20)
    assert [(c.begins, c.ends) for c in cut] == [(False, True), (True, False)]
    after_unknown = contacts(range(4), [np.nan, 100, 100, 0], threshold=20)
    assert [(c.begins, c.ends) for c in after_unknown] == [(False, True)]


def test_short_contacts_and_short_gaps_are_noise() -> None:
    time = np.arange(0, 1, 0.01)
    force = np.where((time > 0.2) & (time < 0.7), 100.0, 0.0)
    force[40] = 0.0
    force[90] = 100.0
    (found,) = contacts(time, force, threshold=20)
    assert found.start == pytest.approx(0.2, abs=0.011) and found.end == pytest.approx(0.7, abs=0.011)
    assert len(contacts(time, force, threshold=20, minimum_duration=0.0)) == 3


@pytest.mark.parametrize(("threshold", "release"), [(0.0, None), (10.0, 20.0), (-5.0, None)])
def test_unlawful_thresholds(threshold: float, release: float | None) -> None:
    with pytest.raises(InputError, match="contact threshold"):
        contacts([0, 1], [0, 0], threshold, release)


def test_walking_arithmetic() -> None:
    trial = result(box(0.2, 0.6, 1.0), box(0.7, 0.6, 1.0))
    summary = gait_cycles(trial)
    assert [len(summary.cycles[f]) for f in ("right", "left")] == [3, 3]
    assert summary.stance["right"] == pytest.approx(60.0, abs=1.1)
    assert summary.cadence == pytest.approx(120.0)
    assert summary.gait == "walk" and summary.reason == ""
    assert all(cycle.both_feet for cycle in summary.cycles["right"])
    first, *rest = mean_vertical_force(trial, summary.cycles["right"])
    assert first == pytest.approx(1.1, abs=0.01)
    assert rest == pytest.approx([1.2, 1.2], abs=0.001)
    assert mean_vertical_force(trial, summary.cycles["right"][1:], mass=2 * MASS)[0] == pytest.approx(0.6, abs=0.001)


def test_running_has_flight() -> None:
    summary = gait_cycles(result(box(0.2, 0.25, 0.7, 250.0), box(0.55, 0.25, 0.7, 250.0)))
    assert summary.gait == "run"
    assert summary.stance["left"] == pytest.approx(100 * 0.25 / 0.7, abs=1.5)
    assert summary.cadence == pytest.approx(120 / 0.7)


def test_one_foot_only() -> None:
    summary = gait_cycles(result(box(0.2, 0.6, 1.0), np.full(TIME.size, np.nan)))
    assert len(summary.cycles["right"]) == 3 and summary.cycles["left"] == ()
    assert not any(c.both_feet for c in summary.cycles["right"])
    assert np.isnan(mean_vertical_force(result(box(0.2, 0.6, 1.0), np.full(TIME.size, np.nan)), summary.cycles["right"])).all()


def test_a_jump_is_no_gait() -> None:
    both = box(0.2, 0.5, 1.0)
    summary = gait_cycles(result(both, both))
    assert not any(summary.cycles.values())
    assert "enclose a cycle" in summary.reason


def test_a_missed_step_is_no_cycle() -> None:
    right = box(0.2, 0.6, 1.0)
    right[(TIME > 1.1) & (TIME < 2.1)] = 0.0
    summary = gait_cycles(result(right, box(0.7, 0.6, 1.0)))
    assert [c.start for c in summary.cycles["right"]] == [pytest.approx(2.2, abs=0.02)]


def test_unknown_forces_within_are_no_cycle() -> None:
    right = box(0.2, 0.6, 1.0)
    right[100] = np.nan
    assert len(gait_cycles(result(right, box(0.7, 0.6, 1.0))).cycles["right"]) == 2


def test_says_why_there_is_no_cycle() -> None:
    short = result(box(0.2, 0.6, 9.0), box(0.7, 0.6, 9.0))
    assert gait_cycles(short).reason == "1 initial contact of the right foot and 1 initial contact of the left foot seen; a full cycle needs two of one foot"
    assert np.isnan(gait_cycles(short).cadence) and gait_cycles(short).gait == ""


def test_threshold_in_newtons_or_body_weight() -> None:
    ramp = np.clip(TIME, 0, 1) * 100.0
    assert foot_contacts(result(ramp, 0 * ramp))["right"][0].start == pytest.approx(0.05)
    assert foot_contacts(result(ramp, 0 * ramp), threshold=20.0)["right"][0].start == pytest.approx(0.2)


def test_normalise_resamples_and_averages() -> None:
    ramp = xr.DataArray(np.stack([TIME, 2 * TIME], axis=1), dims=("time", "coordinate"), coords={"time": TIME, "coordinate": ["a", "b"]})
    cycles = [GaitCycle("right", 0.2, 0.8, 1.2), GaitCycle("right", 1.2, 1.8, 2.2)]
    curves = normalise(ramp, cycles, points=5)
    assert curves["value"].dims == ("cycle", "point", "coordinate")
    np.testing.assert_allclose(curves["point"], [0, 25, 50, 75, 100])
    np.testing.assert_allclose(curves["mean"].sel(coordinate="a"), [0.7, 0.95, 1.2, 1.45, 1.7])
    np.testing.assert_allclose(curves["sd"].sel(coordinate="b"), np.full(5, np.sqrt(2.0)))


def test_normalise_leaves_missing_values_missing() -> None:
    values = np.where((TIME > 0.65) & (TIME < 0.75), np.nan, 1.0)
    curves = normalise(xr.DataArray(values, dims="time", coords={"time": TIME}), [GaitCycle("right", 0.2, 0.8, 1.2)])
    assert np.isnan(curves["mean"].sel(point=50.0)) and float(curves["mean"].sel(point=0.0)) == 1.0
    assert np.isnan(curves["sd"]).all()


def test_normalise_needs_a_cycle() -> None:
    line = xr.DataArray(TIME, dims="time", coords={"time": TIME})
    with pytest.raises(InputError, match="no gait cycle"):
        normalise(line, [])
    with pytest.raises(InputError, match="1 point"):
        normalise(line, [GaitCycle("right", 0.0, 0.5, 1.0)], points=1)


@pytest.mark.parametrize(
    ("name", "gait", "stance"),
    [("arnold__subject01__walk2", "walk", (58, 68)), ("hamner__subject01__Run_3", "run", (25, 45)), ("opencap4__subject4__DJ1", "", None)],
)
def test_recordings(data_dir: Any, name: str, gait: str, stance: tuple[float, float] | None) -> None:
    with xr.open_dataset(data_dir / "references" / f"{name}.nc", engine="h5netcdf") as reference:
        force = reference["ground_force"].values.astype(float)
        trial = result(force[:, 0, 1], force[:, 1, 1], reference["time"].values)
        mass = float(reference.attrs["mass"])
    summary = gait_cycles(trial, mass=mass)
    assert summary.gait == gait
    if stance is None:
        return
    assert all(stance[0] < s < stance[1] for s in summary.stance.values())
    means = [mean_vertical_force(trial, cycles, mass).mean() for cycles in summary.cycles.values()]
    assert np.mean(means) == pytest.approx(1.0, abs=0.03)
