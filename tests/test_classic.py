"""Classic inverse dynamics on made-up trials whose answer is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from pydantic import ValidationError

from imdy_plugin._opensim import import_opensim
from imdy_plugin.adapters.opensim_model import OpenSimModelAdapter
from imdy_plugin.errors import InputError, UnknownNameError
from imdy_plugin.interfaces import Trial
from imdy_plugin.schema import new_motion, validate_result
from imdy_plugin.solvers.classic import MultibodyOptions, MultibodySolver, OpenSimOptions, OpenSimSolver
from imdy_plugin.solvers.opensim_mechanics import OpenSimMechanics

TIME = np.arange(40) / 100
FORCE_TIME = np.arange(-50, 450) / 1000
FEET = ("calcn_r", "calcn_l")


def swaying(mechanics: OpenSimMechanics, time: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    a, omega = 0.1 * rng.normal(size=len(mechanics.coordinates)), 4.0
    wave = time[:, None]
    return mechanics.default_values + a * np.sin(omega * wave), omega * a * np.cos(omega * wave), -(omega**2) * a * np.sin(omega * wave)


@pytest.fixture(scope="module")
def trial(native: Any, mechanics: OpenSimMechanics) -> Trial:
    """A person who sways on the right foot, the ground doing exactly what the motion needs; the left foot is in the air."""
    q = swaying(mechanics, TIME)[0]
    wrench = mechanics.ground_wrench(*swaying(mechanics, FORCE_TIME))
    force, moment = (np.stack([part, 0 * part], axis=1) for part in (wrench[:, :3], wrench[:, 3:]))
    ground = new_motion(FORCE_TIME, ground=(FEET, force, 0 * force, moment))
    return with_model(Trial(motion=new_motion(TIME, coordinates=(mechanics.coordinates, q)), ground_force=ground, mass=70.0), native)


def with_model(trial: Trial, native: Any) -> Trial:
    return replace(trial, model=OpenSimModelAdapter().load(native).dataset, native_model=native)


def solve(trial: Trial, **options: Any) -> xr.Dataset:
    return OpenSimSolver().solve(trial, OpenSimOptions(**{"cutoff_hz": None, **options}))


def change_ground(trial: Trial, frames: slice, value: float, body: str = "calcn_r") -> Trial:
    ground = trial.ground_force.copy(deep=True)  # type: ignore[union-attr]
    for name in ("ground_force", "center_of_pressure", "free_moment"):
        ground[name].loc[{"body": body, "time": ground["time"][frames]}] = value
    return replace(trial, ground_force=ground)


def test_the_right_ground_force_leaves_nothing_on_the_root(trial: Trial) -> None:
    result = solve(trial)
    validate_result(result)
    inner = result.isel(time=slice(5, -5))
    assert float(np.abs(inner["root_residual"]).max()) < 0.05
    assert float(np.abs(inner["generalized_force"].sel(coordinate="hip_flexion_r")).max()) > 5.0
    assert not result["flag"].any()


def by_multibody(trial: Trial, **options: Any) -> xr.Dataset:
    return MultibodySolver().solve(trial, MultibodyOptions(**{"cutoff_hz": None, **options}))


def test_our_mechanics_answer_as_opensim_does(trial: Trial) -> None:
    """The person's joints are simple ones, for which OpenSim's rates are exact."""
    theirs, ours = solve(trial), by_multibody(replace(trial, native_model=None))
    for name in ("generalized_force", "root_residual", "ground_force", "coordinate_acceleration"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-8, err_msg=name)
    assert ours.attrs["excluded_forces"] == theirs.attrs["excluded_forces"] and ours.attrs["model"] == theirs.attrs["model"]
    light = trial.model.copy(deep=True)  # type: ignore[union-attr]
    light["body_inertia"] *= 0.99
    assert float(np.abs(by_multibody(replace(trial, model=light))["generalized_force"] - theirs["generalized_force"]).max()) > 1e-3


def test_a_model_that_cannot_be_represented_is_left_to_opensim(trial: Trial, native: Any) -> None:
    prescribed = native.clone()
    toe = prescribed.updCoordinateSet().get("mtp_angle_r")
    toe.setPrescribedFunction(import_opensim().Constant(0.1))
    toe.setDefaultIsPrescribed(True)
    given = with_model(trial, prescribed)
    with pytest.raises(InputError, match=r"mtp_angle_r follow prescribed functions.*; solver 'opensim' can"):
        by_multibody(given)
    np.testing.assert_allclose(solve(given)["generalized_force"], solve(trial)["generalized_force"])
    markers = new_motion(TIME, markers=(["a", "b"], np.zeros((len(TIME), 2, 3))))
    with pytest.raises(InputError, match="mtp_angle_r follow prescribed"):
        solve(replace(given, motion=markers))


def test_a_model_and_an_object_that_differ_are_refused(trial: Trial) -> None:
    osim = import_opensim()
    other = osim.Model()
    other.addBody(osim.Body("calcn_r", 1.0, osim.Vec3(0), osim.Inertia(1)))
    foot = other.getBodySet().get("calcn_r")
    other.addBody(osim.Body("calcn_l", 1.0, osim.Vec3(0), osim.Inertia(1)))
    other.addJoint(osim.PinJoint("hinge", other.getGround(), foot))
    other.addJoint(osim.PinJoint("other_hinge", foot, other.getBodySet().get("calcn_l")))
    other.finalizeConnections()
    with pytest.raises(InputError, match="model and native_model have different coordinates"):
        solve(replace(trial, native_model=other))


def test_the_wrong_ground_force_does_not(trial: Trial) -> None:
    swapped = trial.ground_force.assign_coords(body=list(reversed(FEET)))  # type: ignore[union-attr]
    right, wrong = solve(trial), solve(replace(trial, ground_force=swapped))
    assert float(np.abs(right["generalized_force"] - wrong["generalized_force"]).sel(coordinate="ankle_angle_r").max()) > 10.0
    heavier = trial.ground_force.copy(deep=True)  # type: ignore[union-attr]
    heavier["ground_force"] *= 1.05
    assert float(np.abs(solve(replace(trial, ground_force=heavier))["root_residual"]).max()) > 20.0


def test_unknown_force_is_masked_and_flagged_not_extrapolated(trial: Trial) -> None:
    result = solve(change_ground(trial, slice(150, 250), np.nan))
    unknown = result["flag"].sel(kind="ground_force_unknown").values
    assert unknown.sum() == 10 and np.isnan(result["generalized_force"].values[unknown]).all() and np.isnan(result["ground_force"].values[unknown][:, 0]).all()
    np.testing.assert_allclose(result["generalized_force"].values[~unknown], solve(trial)["generalized_force"].values[~unknown], atol=0.01)
    assert "10 of 40 frames masked: ground force unknown" in result.attrs["log"]
    short = replace(trial, ground_force=trial.ground_force.sel(time=slice(0.0, 0.2)))  # type: ignore[union-attr]
    np.testing.assert_array_equal(np.flatnonzero(solve(short)["flag"].sel(kind="ground_force_unknown")), np.arange(21, 40))
    elsewhere = trial.ground_force.assign_coords(time=FORCE_TIME + 9.0)  # type: ignore[union-attr]
    with pytest.raises(InputError, match=r"0 to 0.39 s, has known ground forces; they span 8.95 to 9.449"):
        solve(replace(trial, ground_force=elsewhere))


def test_nothing_touches_where_the_plates_say_so(trial: Trial) -> None:
    result = solve(change_ground(trial, slice(203, None), 0.0))
    late = result.isel(time=slice(16, None))
    for name in ("ground_force", "center_of_pressure", "free_moment"):
        assert (late[name] == 0.0).all()
    assert np.isfinite(late["generalized_force"]).all()


def test_an_undefined_center_of_pressure_in_swing_is_no_gap(trial: Trial) -> None:
    ground = trial.ground_force.copy(deep=True)  # type: ignore[union-attr]
    ground["center_of_pressure"].loc[{"body": "calcn_l"}] = np.nan
    np.testing.assert_allclose(solve(replace(trial, ground_force=ground))["generalized_force"], solve(trial)["generalized_force"])


def test_missing_coordinates_are_masked_and_flagged(trial: Trial) -> None:
    motion = trial.motion.copy(deep=True)
    motion["coordinate_value"][18:20, 3] = np.nan
    result = solve(replace(trial, motion=motion))
    np.testing.assert_array_equal(np.flatnonzero(result["flag"].sel(kind="kinematics_missing")), [18, 19])
    assert np.isnan(result["generalized_force"][18:20]).all() and np.isfinite(result["generalized_force"][:18]).all()


def test_a_force_on_a_body_the_model_lacks_is_refused(trial: Trial) -> None:
    ground = trial.ground_force.assign_coords(body=["calcn_right", "calcn_l"])  # type: ignore[union-attr]
    with pytest.raises(UnknownNameError, match="body 'calcn_right' does not exist; nearest: calcn_r"):
        solve(replace(trial, ground_force=ground))
    with pytest.raises(InputError, match="needs ground_force"):
        solve(replace(trial, ground_force=None))


def test_filtering_forces_keeps_their_moment(trial: Trial, mechanics: OpenSimMechanics) -> None:
    """The same load stated about another point filters to the same joint moments."""
    ground = trial.ground_force.copy(deep=True)  # type: ignore[union-attr]
    moved = ground.copy(deep=True)
    point = np.array([0.3, 0.0, 0.1])
    moved["center_of_pressure"].values[:, 0] = point
    moved["free_moment"].values[:, 0] -= np.cross(point, ground["ground_force"].values[:, 0])
    first, second = (solve(replace(trial, ground_force=g), force_cutoff_hz=20.0) for g in (ground, moved))
    np.testing.assert_allclose(first["generalized_force"], second["generalized_force"], atol=1e-6)
    noisy = ground.copy(deep=True)
    noisy["ground_force"].values[:, 0, 1] += 50.0 * np.sin(2 * np.pi * 170 * FORCE_TIME)
    calm = solve(replace(trial, ground_force=noisy), force_cutoff_hz=20.0)["generalized_force"] - first["generalized_force"]
    rough = solve(replace(trial, ground_force=noisy))["generalized_force"] - solve(trial)["generalized_force"]
    assert float(np.abs(calm[5:-5]).max()) < 0.05 * float(np.abs(rough).max())


def test_the_result_tells_what_made_it(trial: Trial) -> None:
    result = solve(trial, cutoff_hz="auto")
    assert "model's own forces excluded: pelvis_tilt_residual, " in result.attrs["log"] and " more" in result.attrs["log"]
    assert "coordinates low-passed: 6 Hz: walking-like" in result.attrs["log"]
    assert result.attrs["solver"] == "opensim" and result.attrs["mass"] == pytest.approx(70.0)
    assert "none, as asked" in solve(trial).attrs["log"] and "8 Hz, as asked" in solve(trial, cutoff_hz=8.0).attrs["log"]


@pytest.mark.parametrize("solver", [solve, by_multibody])
def test_splines_may_choose_the_smoothing(trial: Trial, solver: Any) -> None:
    noise = 1e-3 * np.random.default_rng(4).normal(size=trial.motion["coordinate_value"].shape)
    shaken = replace(trial, motion=trial.motion.assign(coordinate_value=trial.motion["coordinate_value"] + noise))
    chosen = solver(shaken, cutoff_hz="auto", differentiation="gcv")
    rough, true = solver(shaken), solver(trial)
    inner = slice(8, -8)
    error, without = (float(np.sqrt(((r["generalized_force"] - true["generalized_force"])[inner] ** 2).mean())) for r in (chosen, rough))
    assert error < 0.1 * without
    assert "smoothing splines" in chosen.attrs["filter"] and len(chosen.attrs["cutoff_hz"]) == chosen.sizes["coordinate"]
    assert "under generalized cross-validation, cut-offs" in chosen.attrs["log"] and rough.attrs["filter"] == "none"
    with pytest.raises(ValidationError, match="cutoff_hz has no meaning"):
        solver(shaken, cutoff_hz=6.0, differentiation="gcv")


def test_markers_do_as_well_as_coordinates(trial: Trial, mechanics: OpenSimMechanics) -> None:
    motion = new_motion(TIME, markers=(mechanics.markers, mechanics.marker_positions(trial.motion["coordinate_value"].values)))
    result = solve(replace(trial, motion=motion), cutoff_hz=12.0)
    difference = (result["generalized_force"] - solve(trial, cutoff_hz=12.0)["generalized_force"]).isel(time=slice(5, -5))
    assert float(np.sqrt((difference**2).mean())) < 0.1
    assert result.attrs["marker_rms_mean"] < 1e-4


def test_only_muscles_are_left_out_on_request(trial: Trial, native: Any) -> None:
    osim, sprung = import_opensim(), native.clone()
    spring = osim.SpringGeneralizedForce("knee_angle_r")
    spring.setName("knee_spring")
    spring.setStiffness(200.0)
    sprung.addForce(spring)
    sprung.finalizeConnections()
    given = with_model(trial, sprung)
    without, kept = solve(given), solve(given, exclude_forces="muscles")
    carried = (without["generalized_force"] - kept["generalized_force"]).sel(coordinate="knee_angle_r")
    np.testing.assert_allclose(carried, -200.0 * without["coordinate_value"].sel(coordinate="knee_angle_r"), atol=1e-6)
    np.testing.assert_allclose(without["generalized_force"], solve(trial)["generalized_force"])
    assert "and 35 more" in without.attrs["log"] and "excluded: none" in kept.attrs["log"]


def test_a_model_without_a_root_still_has_joint_moments() -> None:
    osim = import_opensim()
    model = osim.Model()
    bob = osim.Body("bob", 2.0, osim.Vec3(0, -0.7, 0), osim.Inertia(0.05, 0.05, 0.05))
    model.addBody(bob)
    model.addJoint(osim.PinJoint("hinge", model.getGround(), bob))
    model.finalizeConnections()
    angle = 0.3 * np.sin(4 * TIME)[:, None]
    push = np.tile([10.0, 0.0, 0.0], (len(TIME), 1, 1))
    ground = new_motion(TIME, ground=(["bob"], push, 0 * push + [0.0, -0.7, 0.0], 0 * push))
    result = solve(with_model(Trial(motion=new_motion(TIME, coordinates=(["hinge_coord_0"], angle)), ground_force=ground, mass=2.0), model))
    expected = (0.05 + 2 * 0.49) * -16 * angle + 2 * 9.80665 * 0.7 * np.sin(angle) - 10.0 * 0.7
    np.testing.assert_allclose(result["generalized_force"][5:-5], expected[5:-5], atol=2e-3)
    assert np.isnan(result["root_residual"]).all() and "no free root" in result.attrs["log"]
