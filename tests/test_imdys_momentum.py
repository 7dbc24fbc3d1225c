from __future__ import annotations

import numpy as np
import pytest

from imdy_plugin.solvers.imdys import momentum as mo
from imdy_plugin.solvers.imdys.prediction import GroundLoads

G = 9.81


def stepping(scale: float = 1.0, seconds: float = 8.0) -> GroundLoads:
    """Two feet that share body weight in turn, with an overlap, one second a stride."""
    time = np.arange(int(100 * seconds)) / 100.0
    share = np.clip(0.5 + 0.8 * np.sin(2 * np.pi * time), 0.0, 1.0)
    force = np.zeros((time.size, 2, 3))
    force[:, 0, 1], force[:, 1, 1] = scale * G * share, scale * G * (1.0 - share)
    point = np.zeros((time.size, 2, 3))
    point[:, 0, 2], point[:, 1, 2] = 0.1, -0.1
    return GroundLoads(time, force, point, np.zeros((time.size, 2)), share[:, None] * [1.0, -1.0], np.zeros((time.size, 15)))


def weight(loads: GroundLoads) -> np.ndarray:
    return np.tile([0.0, G, 0.0], (len(loads.time), 1))


@pytest.mark.parametrize("scale", [0.85, 1.15])
def test_mean_vertical_force_becomes_body_weight_and_swing_stays_free(scale: float) -> None:
    loads = stepping(scale)
    corrected = mo.correct_force(loads, weight(loads), mo.WHOLE_BODY)
    np.testing.assert_allclose(corrected.loads.force[..., 1].sum(axis=1), G, rtol=1e-6)
    swing = loads.force[..., 1] == 0.0
    assert swing.any()
    np.testing.assert_array_equal(corrected.loads.force[swing], 0.0)
    assert not corrected.exceeded.any()


def test_slow_braking_is_shared_by_vertical_force() -> None:
    loads = stepping()
    total = weight(loads) + np.array([0.5, 0.0, 0.0])
    force = mo.correct_force(loads, total, mo.WHOLE_BODY).loads.force
    np.testing.assert_allclose(force[..., 0], 0.5 * loads.force[..., 1] / G, atol=1e-6)


def test_what_is_fast_stays_the_networks() -> None:
    loads = stepping()
    shaking = weight(loads) + np.outer(np.sin(2 * np.pi * 10.0 * loads.time), [0.0, 3.0, 0.0])
    corrected = mo.correct_force(loads, shaking, mo.WHOLE_BODY).loads
    np.testing.assert_allclose(corrected.force[100:-100], loads.force[100:-100], atol=0.01)


def test_a_chair_is_noticed_and_not_pressed_into_the_feet() -> None:
    loads = stepping(0.4)
    corrected = mo.correct_force(loads, weight(loads), mo.WHOLE_BODY)
    assert corrected.exceeded.all()
    np.testing.assert_allclose(corrected.loads.force, loads.force * (1.0 + mo.LARGEST_GAIN))


def test_the_pelvis_alone_is_believed_within_a_tolerance() -> None:
    close, far = stepping(0.98), stepping(0.9)
    np.testing.assert_array_equal(mo.correct_force(close, weight(close), mo.PELVIS).loads.force, close.force)
    mean = mo.correct_force(far, weight(far), mo.PELVIS).loads.force[..., 1].sum(axis=1).mean()
    assert 0.97 * G < mean < G


def test_a_constant_error_of_the_centre_of_pressure_is_removed() -> None:
    loads = stepping()
    true_moment = np.cross(loads.center_of_pressure, loads.force).sum(axis=1)
    wrench = np.concatenate([loads.force.sum(axis=1), true_moment], axis=1)
    center = np.tile([0.02, 0.9, 0.01], (len(loads.time), 1))
    shifted = GroundLoads(**{**vars(loads), "center_of_pressure": loads.center_of_pressure + np.array([0.02, 0.0, -0.01])})
    mended = mo.correct_pressure(shifted, wrench, center)
    left = (1.0 - mo.PRESSURE_TRUST) * np.array([0.02, 0.0, -0.01])
    np.testing.assert_allclose(mended.center_of_pressure - loads.center_of_pressure, np.broadcast_to(left, loads.center_of_pressure.shape), atol=1e-6)


def test_a_shift_is_limited() -> None:
    loads = stepping()
    wrench = np.concatenate([loads.force.sum(axis=1), np.cross(loads.center_of_pressure + np.array([0.2, 0.0, 0.0]), loads.force).sum(axis=1)], axis=1)
    moved = mo.correct_pressure(loads, wrench, np.zeros((len(loads.time), 3))).center_of_pressure - loads.center_of_pressure
    np.testing.assert_allclose(moved[..., 0], mo.PRESSURE_TRUST * mo.LARGEST_SHIFT_M)


def test_unknown_frames_do_not_spread() -> None:
    loads = stepping(0.9)
    total = weight(loads)
    total[300:350] = np.nan
    corrected = mo.correct_force(loads, total, mo.WHOLE_BODY).loads.force
    assert np.isfinite(corrected).all()
    np.testing.assert_allclose(corrected[:250, :, 1].sum(axis=1), G, rtol=1e-6)


def standing(share: float) -> GroundLoads:
    loads = stepping()
    force, point = np.zeros_like(loads.force), np.zeros_like(loads.center_of_pressure)
    force[:, 0, 1], force[:, 1, 1] = G * share, G * (1.0 - share)
    point[:, 0, 2], point[:, 1, 2] = 0.15, -0.15
    return GroundLoads(**{**vars(loads), "force": force, "center_of_pressure": point})


def test_a_lopsided_stand_is_shared_by_the_moment_balance() -> None:
    truth, even = standing(0.62), standing(0.5)
    wrench = np.concatenate([truth.force.sum(axis=1), np.cross(truth.center_of_pressure, truth.force).sum(axis=1)], axis=1)
    shared = mo.correct_share(even, wrench, np.zeros((len(even.time), 3)))
    middle = slice(150, -150)
    np.testing.assert_allclose(shared.force[middle, 0, 1] / G, 0.62, atol=0.02)
    np.testing.assert_allclose(shared.force[..., 1].sum(axis=1), G)


def test_the_share_of_steps_is_left_to_the_network() -> None:
    loads = stepping()
    lopsided = np.concatenate([loads.force.sum(axis=1), np.cross(loads.center_of_pressure + np.array([0.0, 0.0, 0.03]), loads.force).sum(axis=1)], axis=1)
    np.testing.assert_allclose(mo.correct_share(loads, lopsided, np.zeros((len(loads.time), 3))).force, loads.force, atol=1e-9)


def test_a_large_disagreement_is_bounded_and_a_small_one_let_stand() -> None:
    loads = stepping()
    for extra, left in ((1.0, 1.0), (5.0, mo.BELIEVED_DISAGREEMENT)):
        bound = mo.bound_disagreement(loads, weight(loads) + np.array([0.0, extra, 0.0]))
        np.testing.assert_allclose(G + extra - bound.force[..., 1].sum(axis=1), left, atol=1e-6)
        np.testing.assert_array_equal(bound.force[loads.force[..., 1] == 0.0], 0.0)


def test_a_seat_behind_the_feet_is_noticed() -> None:
    loads = standing(0.5)
    force = loads.force.sum(axis=1)
    for behind, noticed in ((0.05, False), (0.25, True)):
        moment = np.cross(np.tile([-behind, 0.0, 0.0], (len(force), 1)), force)
        held = mo.held_elsewhere(loads, np.concatenate([force, moment], axis=1), np.zeros_like(force))
        assert (held == noticed).all()
