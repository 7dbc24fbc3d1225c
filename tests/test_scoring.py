from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from imdy_plugin import scoring
from imdy_plugin.scoring import Solution, Truth

MASS = 50.0
WEIGHT = MASS * 9.81
COORDINATES = ("pelvis_tx", "hip_flexion_r", "knee_angle_r", "mtp_angle_r", "lumbar_extension")


@pytest.fixture
def truth() -> Truth:
    """Four frames; the right foot carries 500 N in the first three, the left nothing; the last frame is not valid."""
    force = np.zeros((4, 2, 3))
    force[:3, 0, 1] = 500.0
    point = np.full((4, 2, 3), np.nan)
    point[:3, 0] = [0.1, 0.0, 0.2]
    torque = np.tile([999.0, 10.0, 20.0, 999.0, 30.0], (4, 1))
    return Truth(
        force=force,
        center_of_pressure=point,
        contact=force[..., 1] > 20.0,
        valid=np.array([True, True, True, False]),
        mass=MASS,
        contact_threshold=20.0,
        coordinates=COORDINATES,
        torque=torque,
        valid_torque=np.array([False, True, True, False]),
    )


def exact(truth: Truth) -> Solution:
    assert truth.torque is not None
    return Solution(truth.force.copy(), truth.center_of_pressure.copy(), truth.torque.copy())


def test_an_exact_solution_has_no_error(truth: Truth) -> None:
    found = scoring.score(truth, exact(truth))
    assert found["force"] == found["vertical"] == found["cop"] == found["torque"] == found["torque_norm"] == 0.0
    assert found["contact_f1"] == found["coverage"] == found["coverage_torque"] == 1.0


def test_the_zero_solution_scores_the_size_of_the_truth(truth: Truth) -> None:
    found = scoring.score(truth, scoring.zero_solution(truth))
    assert found["force"] == pytest.approx(500 / MASS / 2)
    assert found["vertical"] == pytest.approx(500 / math.sqrt(2) / WEIGHT)
    assert math.isnan(found["cop"])
    assert found["contact_f1"] == 0.0
    assert found["torque"] == pytest.approx((10 + 20 + 30) / 3 / MASS)
    assert found["torque_legs"] == pytest.approx((10 + 20) / 2 / MASS)


def test_force_error_is_the_norm_over_axes(truth: Truth) -> None:
    solution = exact(truth)
    solution.force[0, 0] += [3.0, 0.0, 4.0]
    found = scoring.score(truth, solution)
    assert found["force"] == pytest.approx(5.0 / 6 / MASS)
    assert found["vertical"] == 0.0


def test_frames_that_are_not_valid_do_not_count(truth: Truth) -> None:
    solution = exact(truth)
    solution.force[3] = 1e6
    solution.torque[0] = 1e6  # type: ignore[index]
    found = scoring.score(truth, solution)
    assert found["force"] == found["torque"] == 0.0


def test_root_and_toe_torques_do_not_count(truth: Truth) -> None:
    solution = exact(truth)
    solution.torque[:, [0, 3]] = 0.0  # type: ignore[index]
    assert scoring.score(truth, solution)["torque"] == 0.0


def test_uncovered_frames_lower_coverage_and_no_error(truth: Truth) -> None:
    solution = exact(truth)
    solution.force[0, 1, 2] = np.nan
    solution.torque[1] = np.nan  # type: ignore[index]
    found = scoring.score(truth, solution)
    assert found["coverage"] == pytest.approx(2 / 3)
    assert found["coverage_torque"] == 0.5
    assert found["force"] == found["torque"] == 0.0


def test_center_of_pressure_is_horizontal_and_only_under_load(truth: Truth) -> None:
    solution = exact(truth)
    solution.center_of_pressure[:] = [0.13, 7.0, 0.24]
    assert scoring.score(truth, solution)["cop"] == pytest.approx(50.0)
    solution.force[1:, 0, 1] = 0.049 * WEIGHT
    solution.center_of_pressure[1:] = 99.0
    assert scoring.score(truth, solution)["cop"] == pytest.approx(50.0)


def test_contact_f1_by_hand() -> None:
    truth = np.array([True, True, True, False, False])
    said = np.array([True, True, False, True, False])
    assert scoring.contact_f1(truth, said) == pytest.approx(2 / 3)
    assert math.isnan(scoring.contact_f1(truth & False, said & False))


def test_joint_norm_and_joints_by_hand() -> None:
    names = ("hip_flexion_r", "hip_adduction_r", "hip_rotation_r", "ankle_angle_l")
    torque = np.zeros((1, 4))
    truth = Truth(np.zeros((1, 2, 3)), np.zeros((1, 2, 3)), np.zeros((1, 2), bool), np.ones(1, bool), 1.0, 20.0, names, torque, np.ones(1, bool))
    found = scoring.score(truth, Solution(truth.force, truth.center_of_pressure, np.array([[2.0, 3.0, 6.0, 1.0]])))
    assert found["torque_norm"] == pytest.approx((7.0 + 1.0) / 2)
    assert found["torque_hip"] == pytest.approx(11 / 3)
    assert found["torque_ankle"] == 1.0
    assert math.isnan(found["torque_lumbar"])


def test_without_torques_only_forces_are_scored(truth: Truth) -> None:
    forces_only = replace(truth, torque=None, valid_torque=None, coordinates=())
    assert set(scoring.score(forces_only, scoring.zero_solution(forces_only))) == {"force", "vertical", "cop", "contact_f1", "coverage"}


def test_sampling_is_linear_inside_and_says_nothing_outside() -> None:
    found = scoring.sample([0.0, 1.0, 2.0], [[0.0], [10.0], [0.0]], [-0.1, 0.0, 0.25, 1.5, 2.0, 2.1])
    np.testing.assert_allclose(found[:, 0], [np.nan, 0.0, 2.5, 5.0, 0.0, np.nan])


def test_sampling_does_not_bridge_missing_frames() -> None:
    time = np.array([0.0, 1.0, 2.0, 3.0, 10.0, 11.0])
    values = np.array([0.0, np.nan, 2.0, 3.0, 10.0, 11.0])
    found = scoring.sample(time, values, [0.0, 0.5, 1.5, 2.0, 3.0, 5.0, 10.0, 10.5])
    np.testing.assert_allclose(found, [0.0, np.nan, np.nan, 2.0, 3.0, np.nan, 10.0, 10.5])


def test_stamps_that_differ_by_rounding_are_hit() -> None:
    time = np.arange(5) * 0.01 + 11.0
    values = np.array([np.nan, 1.0, np.nan, 3.0, np.nan])
    np.testing.assert_allclose(scoring.sample(time, values, [11.0100000001, 11.0299999999]), [1.0, 3.0], rtol=1e-9)


def test_interval_is_the_same_for_a_seed_and_holds_the_mean() -> None:
    values = np.random.default_rng(0).normal(3.0, 1.0, 30)
    low, high = scoring.bootstrap_interval(values, seed=3)
    assert (low, high) == scoring.bootstrap_interval(values, seed=3)
    assert (low, high) != scoring.bootstrap_interval(values, seed=4)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(30), rel=0.15)


def test_one_person_has_no_interval() -> None:
    assert all(math.isnan(v) for v in scoring.bootstrap_interval([1.0]))
