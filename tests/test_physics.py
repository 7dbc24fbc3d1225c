from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from pydantic import ValidationError

from imdy_plugin.adapters.opensim_model import OpenSimModelAdapter
from imdy_plugin.errors import InputError
from imdy_plugin.interfaces import Trial
from imdy_plugin.schema import new_motion, validate_result
from imdy_plugin.solvers.ground_split import FootLoads
from imdy_plugin.solvers.physics import PhysicsOptions, PhysicsSolver, outside_feet

WEIGHT = 700.0


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A generated person's walk and the model."""
    from imdy_plugin.sim.gait import build_walk
    from imdy_plugin.sim.person import write_person

    path = write_person(tmp_path_factory.mktemp("person") / "person.osim")
    return build_walk(path), OpenSimModelAdapter().load(path).dataset


def solve(generated: tuple[Any, Any], coordinates: np.ndarray | None = None, **options: Any) -> xr.Dataset:
    trial, model = generated
    motion = trial.motion
    values = motion["coordinate_value"].values if coordinates is None else coordinates
    given = new_motion(motion["time"].values, coordinates=(list(motion["coordinate"].values), values))
    return PhysicsSolver().solve(Trial(given, model=model), PhysicsOptions(**options))


@pytest.fixture(scope="module")
def result(generated: tuple[Any, Any]) -> xr.Dataset:
    return solve(generated)


def inner(result: xr.Dataset) -> slice:
    """Frames away from the ends, where filters settle."""
    return slice(10, result.sizes["time"] - 10)


def test_the_root_carries_nothing_while_walking(result: xr.Dataset) -> None:
    validate_result(result)
    assert (result["contact_probability"].max("body") == 1).all()
    np.testing.assert_allclose(result["root_residual"].values, 0.0, atol=1e-8)


def test_forces_and_moments_of_a_generated_walk_come_back(generated: tuple[Any, Any], result: xr.Dataset) -> None:
    truth, ground, mass = generated[0].truth, generated[0].ground_force, generated[0].mass
    frames = inner(result)
    error = np.linalg.norm(result["ground_force"].values - ground["ground_force"].values, axis=2)[frames].mean() / mass
    zero = np.linalg.norm(ground["ground_force"].values, axis=2)[frames].mean() / mass
    assert error < 0.6 < zero / 5
    names = [f"{joint}_{side}" for joint in ("hip_flexion", "hip_adduction", "knee_angle", "ankle_angle") for side in "rl"]
    moments = result["generalized_force"].sel(coordinate=names).values - truth["generalized_force"].sel(coordinate=names).values
    assert np.abs(moments[frames]).mean() / mass < 0.12


def test_contact_of_a_generated_walk_comes_back(generated: tuple[Any, Any], result: xr.Dataset) -> None:
    true = generated[0].ground_force["ground_force"].values[..., 1] > 0.03 * generated[0].mass * 9.81
    found = result["contact_probability"].values > 0.5
    assert 2 * (found & true).sum() / (found.sum() + true.sum()) > 0.95


def test_centers_of_pressure_lie_under_the_walker(result: xr.Dataset) -> None:
    touching = result["contact_probability"].values > 0.5
    centers = result["center_of_pressure"].values
    pelvis = result["coordinate_value"].sel(coordinate=["pelvis_tx", "pelvis_tz"]).values
    assert np.abs(centers[..., [0, 2]] - pelvis[:, None])[touching].max() < 0.6
    np.testing.assert_allclose(centers[..., 1][touching], result.attrs["floor_height"])
    assert not centers[~touching].any() and not result["ground_force"].values[~touching].any()


@pytest.mark.parametrize("degrees", [37.0, 180.0])
def test_walking_another_way_gives_the_same_answer_turned(generated: tuple[Any, Any], result: xr.Dataset, degrees: float) -> None:
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_euler("y", degrees, degrees=True)
    motion = generated[0].motion
    values = motion["coordinate_value"].values.copy()
    at = [list(motion["coordinate"].values).index(f"pelvis_{name}") for name in ("tilt", "list", "rotation", "tx", "ty", "tz")]
    values[:, at[:3]] = np.unwrap((turn * Rotation.from_euler("ZXY", values[:, at[:3]])).as_euler("ZXY"), axis=0)
    values[:, at[3:]] = turn.apply(values[:, at[3:]])
    turned = solve(generated, values)
    frames = inner(result)
    force = result["ground_force"].values @ turn.as_matrix().T
    np.testing.assert_allclose(turned["ground_force"].values[frames], force[frames], atol=0.01 * WEIGHT)
    joints = [name for name in result["coordinate"].values if not str(name).startswith("pelvis")]
    moments = (r["generalized_force"].sel(coordinate=joints).values[frames] for r in (turned, result))
    np.testing.assert_allclose(*moments, atol=2.0)


def test_a_treadmill_gives_the_same_answer(generated: tuple[Any, Any], result: xr.Dataset) -> None:
    motion = generated[0].motion
    values = motion["coordinate_value"].values.copy()
    values[:, list(motion["coordinate"].values).index("pelvis_tx")] -= generated[0].speed * motion["time"].values
    treadmill = solve(generated, values)
    np.testing.assert_allclose(treadmill.attrs["ground_velocity"], [-generated[0].speed, 0.0, 0.0], atol=0.1)
    apart = np.abs(treadmill["ground_force"].values - result["ground_force"].values)
    assert apart.mean() < 2e-3 * WEIGHT
    assert (apart.max(axis=(1, 2)) > 0.01 * WEIGHT).mean() < 0.05, "contact may differ by a frame at each edge, no more"


def test_without_a_floor_under_the_feet_nothing_is_exerted_and_it_is_said(generated: tuple[Any, Any]) -> None:
    lifted = solve(generated, floor_height=-1.0)
    assert not lifted["ground_force"].values.any()
    assert lifted["flag"].sel(kind=["flight", "wrench_outside_feet"]).values.all()
    assert lifted["root_residual"].sel(component="force_y").mean() == pytest.approx(generated[0].mass * 9.80665, rel=0.02)
    assert "another contact" in lifted.attrs["log"]


def test_walking_is_not_flagged(result: xr.Dataset) -> None:
    assert result["flag"].values[inner(result)].mean() < 0.05


def test_what_the_soles_cannot_carry_may_be_left_on_the_root(generated: tuple[Any, Any]) -> None:
    left = solve(generated, beyond_soles="root")
    np.testing.assert_allclose(left["free_moment"].values[..., [0, 2]], 0.0)
    np.testing.assert_allclose(left["root_residual"].values[:, :3], 0.0, atol=1e-8)
    assert np.abs(left["root_residual"].values[:, 3:]).max() > 0.1


def test_frames_without_coordinates_stay_unknown(generated: tuple[Any, Any]) -> None:
    values = generated[0].motion["coordinate_value"].values.copy()
    values[:15] = np.nan
    gone = solve(generated, values)
    for name in ("generalized_force", "ground_force", "root_residual", "contact_probability"):
        assert np.isnan(gone[name].values[:15]).all(), name
        assert np.isfinite(gone[name].values[15:]).all(), name
    assert not gone["flag"].values[:15].any()


def test_a_short_trial_is_solved_without_a_filter(generated: tuple[Any, Any]) -> None:
    trial, model = generated
    motion = trial.motion.isel(time=slice(20, 28))
    given = new_motion(motion["time"].values, coordinates=(list(motion["coordinate"].values), motion["coordinate_value"].values))
    short = PhysicsSolver().solve(Trial(given, model=model), PhysicsOptions(cutoff_hz=None))
    assert np.isfinite(short["generalized_force"].values).all()


def test_a_trial_without_a_model_is_refused(generated: tuple[Any, Any]) -> None:
    with pytest.raises(InputError, match="needs model"):
        PhysicsSolver().solve(Trial(generated[0].motion), PhysicsOptions())


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ValidationError, match="cutof"):
        PhysicsOptions(cutof=6)


def test_a_cutoff_must_be_positive() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        PhysicsOptions(cutoff_hz=0.0)


def standing(moment: tuple[float, float, float] = (0.0, 0.0, 0.0), frames: int = 4) -> FootLoads:
    free = np.zeros((frames, 2, 3))
    free[:, 0] = moment
    return FootLoads(np.zeros((frames, 2, 3)), np.zeros((frames, 2, 3)), free, np.zeros((frames, 6)))


def wrench(vertical: float, frames: int = 4) -> np.ndarray:
    return np.tile([0.0, vertical, 0.0, 0.0, 0.0, 0.0], (frames, 1))


def test_flags_tell_what_feet_cannot_give() -> None:
    down, up = np.ones((4, 2), bool), np.zeros((4, 2), bool)
    assert not outside_feet(wrench(WEIGHT), standing(), down, WEIGHT).any()
    assert not outside_feet(wrench(WEIGHT), standing((0.05 * WEIGHT, 2.0 * WEIGHT, 0.0)), down, WEIGHT).any()
    assert outside_feet(wrench(WEIGHT), standing((0.0, 0.0, 0.3 * WEIGHT)), down, WEIGHT).all()
    assert outside_feet(wrench(-0.3 * WEIGHT), standing(), down, WEIGHT).all()
    assert outside_feet(wrench(WEIGHT), standing(), up, WEIGHT).all()
    assert not outside_feet(wrench(0.05 * WEIGHT), standing(), up, WEIGHT).any()
