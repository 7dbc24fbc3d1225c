"""Filtering, differentiating and fitting joint coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from imdy_plugin._opensim import import_opensim
from imdy_plugin.adapters.opensim_model import OpenSimModelAdapter
from imdy_plugin.errors import DataWarning, InputError, UnknownNameError
from imdy_plugin.interfaces import Trial
from imdy_plugin.progress import progress_to
from imdy_plugin.schema import new_motion
from imdy_plugin.solvers import kinematics
from imdy_plugin.solvers.kinematics import auto_cutoff, coordinates_of, resample, resample_stretches, smooth
from imdy_plugin.solvers.opensim_mechanics import OpenSimMechanics

RATE = 50.0


@pytest.fixture(scope="module")
def truth(mechanics: OpenSimMechanics) -> xr.Dataset:
    """A lively second of motion with its markers."""
    time = np.arange(26) / RATE
    rng = np.random.default_rng(3)
    q = mechanics.default_values + 0.15 * rng.normal(size=len(mechanics.coordinates)) * np.sin(4 * time)[:, None]
    bounded = np.clip(q, *(mechanics.bounds + np.array([0.01, -0.01])).T)
    return new_motion(time, markers=(mechanics.markers, mechanics.marker_positions(bounded)), coordinates=(mechanics.coordinates, bounded))


def model_of(native: Any) -> xr.Dataset:
    return OpenSimModelAdapter().load(native).dataset


def markers_of(truth: xr.Dataset, **changes: np.ndarray) -> xr.Dataset:
    position = truth["marker_position"].values.copy()
    for name, frames in changes.items():
        position[frames, list(truth["marker"].values).index(name)] = np.nan
    return new_motion(truth["time"].values, markers=(truth["marker"].values, position))


def native_smooth(time: np.ndarray, values: np.ndarray, cutoff: float) -> np.ndarray:
    """The steps of OpenSim's InverseDynamicsTool by OpenSim's own classes."""
    osim = import_opensim()
    storage, labels = osim.Storage(), osim.ArrayStr()
    for label in ["time", *(f"c{i}" for i in range(values.shape[1]))]:
        labels.append(label)
    storage.setColumnLabels(labels)
    for stamp, row in zip(time, values, strict=True):
        storage.append(float(stamp), osim.Vector.createFromMat(row))
    if cutoff >= 0:
        storage.pad(storage.getSize() // 2)
        storage.lowpassIIR(cutoff)
    splines = osim.GCVSplineSet(5, storage)
    out = np.empty((3, *values.shape))
    for column in range(values.shape[1]):
        spline = splines.get(f"c{column}")
        for frame, stamp in enumerate(time):
            argument, order = osim.Vector(1, float(stamp)), osim.StdVectorInt()
            out[0, frame, column] = spline.calcValue(argument)
            for derivative in (1, 2):
                order.append(0)
                out[derivative, frame, column] = spline.calcDerivative(order, argument)
    return out


@pytest.mark.parametrize("cutoff", [-1.0, 6.0, 12.0])
@pytest.mark.parametrize("time", [np.arange(60) / 100, np.round(np.arange(61) / 60, 3), 3 + np.arange(40) / 250], ids=["even", "rounded", "late"])
def test_smoothing_is_that_of_opensims_tool(time: np.ndarray, cutoff: float) -> None:
    values = np.cumsum(np.random.default_rng(0).normal(size=(len(time), 2)), axis=0) * 0.1
    expected = native_smooth(time, values, cutoff)
    for ours, theirs in zip(smooth(time, values, cutoff), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-9 * max(1.0, np.abs(theirs).max()))
    other = smooth(time, values, 5.0)[2]
    assert np.abs(other - expected[2]).max() > 1.0


def test_smoothing_keeps_the_range_and_the_signal() -> None:
    time = np.arange(101) / 100
    signal = np.sin(2 * np.pi * time)
    value, first, second = smooth(time, signal, 12.0)
    assert value.shape == first.shape == second.shape == time.shape
    inner = slice(20, -20)
    np.testing.assert_allclose(value[inner], signal[inner], atol=2e-3)
    np.testing.assert_allclose(first[inner], 2 * np.pi * np.cos(2 * np.pi * time[inner]), atol=0.02)
    np.testing.assert_allclose(smooth(time, signal, None)[0], signal, atol=1e-12)


@pytest.mark.parametrize(("frames", "cutoff"), [(4, None), (4, 6.0), (5, -1.0), (11, 6.0)])
def test_too_few_frames_state_both_minima(frames: int, cutoff: float | None) -> None:
    with pytest.raises(InputError, match=rf"{frames} frame\(s\).* 6 are needed without a filter and 12 with one"):
        smooth(np.arange(frames) / 100, np.zeros((frames, 2)), cutoff)


def test_gaps_stay_gaps_and_change_nothing_else() -> None:
    time = np.arange(90) / 100
    values = np.sin(5 * time)[:, None] * [1.0, 2.0]
    gapped = values.copy()
    gapped[40:50, 1] = np.nan
    gapped[85] = np.nan
    value, _, second = smooth(time, gapped, 6.0)
    assert np.isnan(value[40:50]).all() and np.isnan(value[85:]).all() and np.isfinite(value[:40]).all() and np.isfinite(value[50:85]).all()
    np.testing.assert_allclose(second[:40], smooth(time[:40], values[:40], 6.0)[2])


def test_resampling_is_exact_on_samples_and_never_extrapolates() -> None:
    time = np.arange(11) / 10
    values = np.stack([np.sin(time), time], axis=1)
    out = resample(time, values, [-0.05, 0.0, 0.3, 0.35, 1.0, 1.05])
    np.testing.assert_allclose(out[[1, 2, 4]], values[[0, 3, 10]], atol=1e-12)
    np.testing.assert_allclose(out[3], [np.sin(0.35), 0.35], atol=1e-3)
    assert np.isnan(out[[0, 5]]).all()


def test_resampling_leaves_gaps_open() -> None:
    time, values = np.arange(21) / 10, np.arange(21.0)[:, None]
    values[8:12] = np.nan
    out = resample_stretches(time, values, np.array([0.65, 0.7, 0.75, 1.1, 1.15, 1.2, 1.25, 2.1]))
    np.testing.assert_array_equal(np.isfinite(out[:, 0]), [True, True, False, False, False, True, True, False])
    np.testing.assert_allclose(out[[0, 1, 5, 6], 0], [6.5, 7, 12, 12.5])


def test_markers_give_the_coordinates_back(native: Any, mechanics: OpenSimMechanics, truth: xr.Dataset) -> None:
    found = coordinates_of(Trial(motion=markers_of(truth), model=model_of(native)))
    np.testing.assert_allclose(found["coordinate_value"], truth["coordinate_value"], atol=2e-4)
    assert found.attrs["marker_rms_max"] < 1e-4 and found.attrs["kinematics"] == "fitted"
    assert f"{len(mechanics.markers)} markers" in found.attrs["log"]


@pytest.mark.parametrize("turn", [np.pi / 2, np.pi])
def test_any_direction_of_walking_is_found(native: Any, mechanics: OpenSimMechanics, truth: xr.Dataset, turn: float) -> None:
    rotation = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    turned = new_motion(truth["time"].values[:8], markers=(truth["marker"].values, truth["marker_position"].values[:8] @ rotation.T + [3, 0, -2]))
    found = coordinates_of(Trial(motion=turned, model=model_of(native)))
    joints = [n for n in mechanics.coordinates if n not in mechanics.root_coordinates]
    np.testing.assert_allclose(found["coordinate_value"].sel(coordinate=joints), truth["coordinate_value"].sel(coordinate=joints)[:8], atol=2e-4)
    assert np.abs(found["coordinate_value"].sel(coordinate="pelvis_list")).max() < 0.5


def test_short_gaps_are_bridged_and_long_ones_masked(native: Any, truth: xr.Dataset) -> None:
    names = [str(n) for n in truth["marker"].values]
    hand = [n for n in names if n in hand_markers(native)]
    short, long = np.arange(5, 9), np.arange(10, 22)
    found = coordinates_of(Trial(motion=markers_of(truth, **dict.fromkeys(hand, short)), model=model_of(native)))
    value = found["coordinate_value"]
    assert np.isfinite(value).all() and "4 frame(s) bridged, 0 masked" in found.attrs["log"]
    np.testing.assert_allclose(value, truth["coordinate_value"], atol=0.02)
    masked = coordinates_of(Trial(motion=markers_of(truth, **dict.fromkeys(hand, long)), model=model_of(native)))
    lost = masked["coordinate_value"].sel(coordinate="wrist_flex_r").isnull()
    np.testing.assert_array_equal(np.flatnonzero(lost), long)
    assert np.isfinite(masked["coordinate_value"].sel(coordinate="hip_flexion_r")).all()


def hand_markers(native: Any) -> set[str]:
    markers = native.getMarkerSet()
    both = [markers.get(i) for i in range(markers.getSize())]
    return {m.getName() for m in both if m.getParentFrameName().endswith("hand_r")}


def test_a_coordinate_that_no_marker_tells_stays_at_its_default_and_is_named(native: Any, truth: xr.Dataset) -> None:
    kept = [n for n in truth["marker"].values if n not in hand_markers(native)]
    motion = new_motion(truth["time"].values[:8], markers=(kept, truth["marker_position"].sel(marker=kept).values[:8]))
    found = coordinates_of(Trial(motion=motion, model=model_of(native)))
    assert "no marker tells: " in found.attrs["log"] and "wrist_flex_r" in found.attrs["log"]
    np.testing.assert_allclose(found["coordinate_value"].sel(coordinate="wrist_flex_r"), 0.0, atol=1e-9)


def test_a_trunk_that_no_marker_tells_is_warned_of(native: Any, truth: xr.Dataset) -> None:
    markers = native.getMarkerSet()
    above = ("torso", "humerus", "ulna", "radius", "hand")
    owner = {markers.get(i).getName(): markers.get(i).getParentFrameName() for i in range(markers.getSize())}
    kept = [n for n in truth["marker"].values if not any(body in owner[str(n)] for body in above)]
    motion = new_motion(truth["time"].values[:8], markers=(kept, truth["marker_position"].sel(marker=kept).values[:8]))
    with pytest.warns(DataWarning, match=r"no marker tells lumbar_extension, .*as if that part were stiff"):
        coordinates_of(Trial(motion=motion, model=model_of(native)))


def test_a_frame_without_markers_is_not_held_at_the_last_value(native: Any, truth: xr.Dataset) -> None:
    all_lost = {str(n): np.arange(20, 26) for n in truth["marker"].values}
    found = coordinates_of(Trial(motion=markers_of(truth, **all_lost), model=model_of(native)))
    assert np.isnan(found["coordinate_value"][20:]).all() and np.isfinite(found["coordinate_value"][:20]).all()


def test_clamped_coordinates_stay_within_their_limits(native: Any, truth: xr.Dataset) -> None:
    clamped = native.clone()
    knee = clamped.updCoordinateSet().get("knee_angle_r")
    knee.setDefaultClamped(True)
    bent = float(truth["coordinate_value"].sel(coordinate="knee_angle_r").max())
    knee.setRangeMin(bent - 0.02)
    knee.setRangeMax(bent + 1.0)
    found = coordinates_of(Trial(motion=markers_of(truth), model=model_of(clamped)))["coordinate_value"].sel(coordinate="knee_angle_r")
    assert float(found.min()) == pytest.approx(bent - 0.02)
    assert float(truth["coordinate_value"].sel(coordinate="knee_angle_r").min()) < bent - 0.03


def test_locked_coordinates_keep_their_default(native: Any, truth: xr.Dataset) -> None:
    locked = native.clone()
    locked.updCoordinateSet().get("mtp_angle_r").setDefaultLocked(True)
    found = coordinates_of(Trial(motion=markers_of(truth), model=model_of(locked)))["coordinate_value"]
    np.testing.assert_array_equal(found.sel(coordinate="mtp_angle_r"), 0.0)


def test_too_few_common_markers_list_the_nearest_names(native: Any, truth: xr.Dataset) -> None:
    names = [f"subject:{n}" for n in truth["marker"].values]
    motion = new_motion(truth["time"].values, markers=(names, truth["marker_position"].values))
    with pytest.raises(InputError, match=r"only 0 of \d+ markers are the model's, at least 6.*nearest: .*strip_prefix=True"):
        coordinates_of(Trial(motion=motion, model=model_of(native)))


def test_a_bad_fit_is_warned_of(native: Any, truth: xr.Dataset) -> None:
    small = new_motion(truth["time"].values[:3], markers=(truth["marker"].values, 0.7 * truth["marker_position"].values[:3]))
    with pytest.warns(DataWarning, match="mm from the measured ones on average.*scaled"):
        coordinates_of(Trial(motion=small, model=model_of(native)))


def test_fitting_is_done_once_for_the_same_content(native: Any, truth: xr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[str, int, int]] = []
    with progress_to(lambda *step: steps.append(step)):
        first = coordinates_of(Trial(motion=markers_of(truth), model=model_of(native)), accuracy=2e-5)
    assert steps[-1] == ("inverse kinematics", 26, 26)
    monkeypatch.setattr(kinematics, "fit_markers", lambda *_: pytest.fail("fitted again"))
    again = coordinates_of(Trial(motion=markers_of(truth), model=model_of(native.clone())), accuracy=2e-5)
    xr.testing.assert_identical(first, again)
    again["coordinate_value"][:] = 0.0
    xr.testing.assert_identical(first, coordinates_of(Trial(motion=markers_of(truth), model=model_of(native)), accuracy=2e-5))


def test_weights_pull_the_model(native: Any, truth: xr.Dataset) -> None:
    motion = markers_of(truth).isel(time=slice(0, 2))
    name = str(truth["marker"].values[0])
    motion["marker_position"].loc[{"marker": name}] += 0.05
    distance = []
    for weight in (1.0, 30.0):
        found = coordinates_of(Trial(motion=motion, model=model_of(native)), weights={name: weight})
        placed = OpenSimMechanics(native).marker_positions(found["coordinate_value"].values, [name])[:, 0]
        distance.append(np.linalg.norm(placed - motion["marker_position"].sel(marker=name).values, axis=1).max())
    assert distance[1] < 0.5 * distance[0]
    with pytest.raises(UnknownNameError, match="marker 'nose'"):
        coordinates_of(Trial(motion=motion, model=model_of(native)), weights={"nose": 2.0})


def test_given_coordinates_are_put_in_the_models_order(native: Any, mechanics: OpenSimMechanics, truth: xr.Dataset) -> None:
    shuffled = truth[["coordinate_value"]].isel(coordinate=slice(None, None, -1))
    found = coordinates_of(Trial(motion=shuffled, model=model_of(native)))
    assert tuple(found["coordinate"].values) == mechanics.coordinates
    np.testing.assert_array_equal(found["coordinate_value"], truth["coordinate_value"])
    lacking = shuffled.drop_sel(coordinate="knee_angle_r")
    with pytest.raises(InputError, match=r"lacks coordinate.* knee_angle_r .*nearest: knee_angle_l"):
        coordinates_of(Trial(motion=lacking, model=model_of(native)))
    with pytest.raises(InputError, match="need a model"):
        coordinates_of(Trial(motion=shuffled))


def test_a_coupled_coordinate_follows_or_is_warned_of(native: Any, truth: xr.Dataset) -> None:
    osim, model = import_opensim(), native.clone()
    coupler, leaders = osim.CoordinateCouplerConstraint(), osim.ArrayStr()
    leaders.append("knee_angle_r")
    coupler.setName("toe_follows_knee")
    coupler.setIndependentCoordinateNames(leaders)
    coupler.setDependentCoordinateName("mtp_angle_r")
    coupler.setFunction(osim.LinearFunction(0.5, 0.0))
    model.addConstraint(coupler)
    model.finalizeConnections()
    given = truth[["coordinate_value"]].drop_sel(coordinate="mtp_angle_r")
    found = coordinates_of(Trial(motion=given, model=model_of(model)))
    np.testing.assert_allclose(found["coordinate_value"].sel(coordinate="mtp_angle_r"), 0.5 * truth["coordinate_value"].sel(coordinate="knee_angle_r"))
    assert "mtp_angle_r from the model" in found.attrs["log"]
    odd = truth[["coordinate_value"]].copy(deep=True)
    odd["coordinate_value"].loc[{"coordinate": "mtp_angle_r"}] = 28.6
    with pytest.warns(DataWarning, match="'mtp_angle_r' is on average .* in degrees"):
        coordinates_of(Trial(motion=odd, model=model_of(model)))
    fitted = coordinates_of(Trial(motion=markers_of(truth), model=model_of(model)))["coordinate_value"]
    np.testing.assert_allclose(fitted.sel(coordinate="mtp_angle_r"), 0.5 * fitted.sel(coordinate="knee_angle_r"))


@pytest.mark.parametrize(("amplitude", "cutoff"), [(0.02, 6.0), (0.06, 12.0)])
def test_cutoff_follows_the_vertical_acceleration(mechanics: OpenSimMechanics, amplitude: float, cutoff: float) -> None:
    time = np.arange(200) / 100
    q = np.tile(mechanics.default_values, (200, 1))
    q[:, mechanics.coordinates.index("pelvis_ty")] += amplitude * np.sin(2 * np.pi * 2.7 * time)
    hz, reason = auto_cutoff(new_motion(time, coordinates=(mechanics.coordinates, q)), mechanics)
    assert hz == cutoff and reason.startswith(f"{cutoff:g} Hz: ") and "m/s^2" in reason


def test_a_hole_in_the_time_stamps_is_not_filtered_across() -> None:
    time = np.arange(0, 4, 0.01)
    wave = np.sin(2 * np.pi * time)[:, None]
    keep = (time < 1.5) | (time > 2.5)
    first = smooth(time[time < 1.5], wave[time < 1.5], 6.0)
    both = smooth(time[keep], wave[keep], 6.0)
    for alone, together in zip(first, both, strict=True):
        np.testing.assert_allclose(together[: len(alone)], alone, atol=1e-9)
    bridged = smooth(np.arange(keep.sum()) * 0.01, wave[keep], 6.0)[2]
    assert np.abs(bridged[:150] - first[2]).max() > 1.0


def test_a_constraint_that_is_not_heeded_is_warned_of(native: Any, truth: xr.Dataset) -> None:
    model = model_of(native)
    trial = Trial(markers_of(truth), model=model.assign_attrs(other_constraints=["hands_on_bar"]))
    with pytest.warns(DataWarning, match="hands_on_bar"):
        coordinates_of(trial)
