from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from imdy_plugin.errors import InputError
from imdy_plugin.runs import runs
from imdy_plugin.solvers.contact import (
    Sole,
    believed_contact,
    detect_contact,
    floor_height,
    ground_velocity,
    inside_hull,
    keep_in_sole,
    loading,
    nearest_in_hull,
    resting_height,
    sole_points,
)

RATE = 100.0
STEP, STANCE = 0.6, 0.36
"""Each foot is down for STANCE of every STEP seconds, the left one half a step later; both are down in between."""


@dataclass(frozen=True)
class Gait:
    time: np.ndarray
    position: np.ndarray
    velocity: np.ndarray
    down: np.ndarray


def gait(speed: float = 1.4, seconds: float = 4.0) -> Gait:
    """Three points of each of two feet: at rest in stance; a smooth hop of 12 cm over ``speed * STEP`` in swing."""
    time = np.arange(0.0, seconds, 1 / RATE)
    foot = np.stack([_foot(time - shift, speed) for shift in (0.0, STEP / 2)], axis=1)
    points = np.array([(-0.1, 0.0, 0.0), (0.1, 0.0, 0.03), (0.15, 0.0, -0.03)])
    position = foot[:, :, None] + points + np.array([[[0.0, 0.0, 0.1]], [[0.0, 0.0, -0.1]]])
    phase = np.stack([time, time - STEP / 2], axis=1) % STEP
    return Gait(time, position, np.gradient(position, time, axis=0), phase < STANCE)


def _foot(time: np.ndarray, speed: float) -> np.ndarray:
    cycle, phase = np.divmod(time, STEP)
    swing = np.clip((phase - STANCE) / (STEP - STANCE), 0.0, 1.0)
    forward = speed * STEP * (cycle + swing - np.sin(2 * np.pi * swing) / (2 * np.pi))
    return np.stack([forward, 0.06 * (1 - np.cos(2 * np.pi * swing)), np.zeros_like(time)], axis=1)


def agreement(found: np.ndarray, true: np.ndarray) -> float:
    return float(2 * (found & true).sum() / (found.sum() + true.sum()))


def test_contact_is_found_in_walking() -> None:
    walk = gait()
    found = detect_contact(walk.time, walk.position, walk.velocity)
    assert agreement(found.touching, walk.down) > 0.92
    assert not found.ground_velocity.any()
    assert ((found.score > 0).any(axis=2) == found.touching).all()


@pytest.mark.parametrize("belt", [np.zeros(3), np.array([-1.4, 0.0, 0.0]), np.array([0.7, 0.0, 2.0])])
def test_a_belt_changes_nothing_but_the_ground_velocity(belt: np.ndarray) -> None:
    walk = gait()
    still = detect_contact(walk.time, walk.position, walk.velocity)
    moved = detect_contact(walk.time, walk.position + belt * walk.time[:, None, None, None], walk.velocity + belt)
    np.testing.assert_array_equal(moved.touching, still.touching)
    np.testing.assert_allclose(moved.ground_velocity, belt, atol=0.1)


@pytest.mark.parametrize("degrees", [37.0, 180.0])
def test_the_direction_of_walking_does_not_matter(degrees: float) -> None:
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    walk = gait()
    straight = detect_contact(walk.time, walk.position, walk.velocity)
    turned = detect_contact(walk.time, walk.position @ turn.T, walk.velocity @ turn.T)
    np.testing.assert_allclose(turned.score, straight.score, atol=1e-9)


def test_flight_is_recognised() -> None:
    walk = gait()
    up = (walk.time > 1.0) & (walk.time < 1.4)
    walk.position[up, ..., 1] += 0.3
    found = detect_contact(walk.time, walk.position, np.gradient(walk.position, walk.time, axis=0))
    assert not found.touching[(walk.time > 1.02) & (walk.time < 1.38)].any()


def test_standing_touches_all_the_time_and_a_raised_foot_does_not() -> None:
    time = np.arange(0, 2, 0.01)
    position = np.zeros((200, 2, 3, 3)) + np.array([(-0.1, 0.0, 0.0), (0.1, 0.0, 0.03), (0.15, 0.0, -0.03)])
    position[:, 1, :, 1] += 0.25
    touching = detect_contact(time, position, np.zeros_like(position)).touching
    assert touching[:, 0].all() and not touching[:, 1].any()


def test_a_known_floor_below_the_feet_means_no_contact() -> None:
    walk = gait()
    assert detect_contact(walk.time, walk.position, walk.velocity, floor=-0.01).touching.any()
    assert not detect_contact(walk.time, walk.position, walk.velocity, floor=-0.30).touching.any()


def test_points_of_a_pitched_sole_rest_at_their_own_heights() -> None:
    walk = gait()
    walk.position[:, :, 0, 1] += 0.05
    rest = resting_height(walk.position[..., 1])
    np.testing.assert_allclose(rest, [[0.05, 0.0, 0.0]] * 2, atol=1e-3)
    assert floor_height(walk.position[..., 1]) == pytest.approx(0.0, abs=1e-3)


def test_ground_velocity_without_low_points_is_zero() -> None:
    assert not ground_velocity(np.ones((5, 2, 3)), np.ones((5, 2, 3, 3))).any()


def test_short_touches_and_gaps_are_not_believed() -> None:
    time = np.arange(40) / RATE
    score = np.zeros(40)
    score[5:8] = 1.0
    score[15:30] = 1.0
    score[20:23] = 0.0
    assert runs(believed_contact(score, time, 0.05)) == [(15, 30)]
    assert runs(believed_contact(score, time, 0.0)) == [(5, 8), (15, 20), (23, 30)]


def test_loading_rises_after_landing_and_not_at_the_ends_of_the_trial() -> None:
    time = np.arange(16) / RATE
    touching = np.ones((16, 1), bool)
    touching[6:9] = False
    factor = loading(touching, time, 0.04)[:, 0]
    steps = [u**2 * (3 - 2 * u) for u in (1 / 8, 3 / 8, 5 / 8, 7 / 8)]
    np.testing.assert_allclose(factor, [1, 1, *steps[::-1], 0, 0, 0, *steps, 1, 1, 1])
    np.testing.assert_array_equal(loading(touching, time, 0.0)[:, 0], touching[:, 0])


SQUARE = np.array([[(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.4, 0.6)]])


@pytest.mark.parametrize(
    ("point", "nearest"), [((0.5, 0.2), (0.5, 0.2)), ((2.0, 0.5), (1.0, 0.5)), ((-1.0, -1.0), (0.0, 0.0)), ((0.5, 1.5), (0.5, 1.0)), ((1.0, 0.3), (1.0, 0.3))]
)
def test_nearest_point_in_a_square(point: tuple[float, float], nearest: tuple[float, float]) -> None:
    np.testing.assert_allclose(nearest_in_hull(np.array([point]), SQUARE), [nearest], atol=1e-12)


def test_inside_needs_corners_on_all_sides() -> None:
    points = np.array([(0.5, 0.5), (1.5, 0.5), (0.5, -0.1)])
    np.testing.assert_array_equal(inside_hull(points, np.repeat(SQUARE, 3, axis=0)), [True, False, False])


def test_keep_in_sole_leaves_the_height_alone() -> None:
    sole = np.zeros((1, 5, 3))
    sole[..., [0, 2]] = SQUARE
    np.testing.assert_allclose(keep_in_sole(np.array([[3.0, 0.07, 0.5]]), sole), [[1.0, 0.07, 0.5]])


class TurnedFootMechanics:
    """A model of two feet whose origins are apart, with the toe joint at a given place; enough to place soles on."""

    def __init__(self, toe_joint: tuple[float, float, float] | None, feet: tuple[str, ...] = ("calcn_r", "calcn_l")) -> None:
        self.toe_joint, self.foot_bodies, self.coordinates = toe_joint, feet, ("a", "b")
        self.bodies = feet + (("toes_r", "toes_l") if toe_joint else ())

    def point_kinematics(self, q: np.ndarray, qd: np.ndarray, qdd: np.ndarray, body: str, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        turn = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
        offset = np.array(self.toe_joint or (0, 0, 0)) if body.startswith("toes") else np.zeros(3)
        position = (points + offset) @ turn.T + [0.3, 0.9, 0.1]
        return position[None], np.zeros_like(position)[None], np.zeros_like(position)[None]


def in_heel_frame(sole: Sole, toe_joint: tuple[float, float, float]) -> np.ndarray:
    on_toes = np.array([b.startswith("toes") for b in sole.bodies])
    return sole.location + np.where(on_toes[:, None], toe_joint, 0.0)


def test_soles_scale_with_the_foot_and_mirror() -> None:
    right, left = sole_points(TurnedFootMechanics((0.2, -0.01, 0.0)))  # type: ignore[arg-type]
    big, _ = sole_points(TurnedFootMechanics((0.4, -0.01, 0.0)))  # type: ignore[arg-type]
    assert (right.body, left.body) == ("calcn_r", "calcn_l")
    assert set(right.bodies) == {"calcn_r", "toes_r"}
    place = in_heel_frame(right, (0.2, -0.01, 0.0))
    np.testing.assert_allclose(in_heel_frame(left, (0.2, -0.01, 0.0)), place * [1, 1, -1], atol=1e-12)
    np.testing.assert_allclose(in_heel_frame(big, (0.4, -0.01, 0.0)), 2 * place, atol=1e-12)
    assert 0.2 < np.ptp(place[:, 0]) < 0.3 and place[3, 2] > 0.03 > -0.03 > place[4, 2]


def test_a_foot_without_toes_still_has_a_sole() -> None:
    right, _ = sole_points(TurnedFootMechanics(None))  # type: ignore[arg-type]
    assert set(right.bodies) == {"calcn_r"}
    assert 0.15 < np.ptp(right.location[:, 0]) < 0.3


def test_a_model_without_feet_is_refused() -> None:
    with pytest.raises(InputError, match="no feet"):
        sole_points(TurnedFootMechanics(None, ()))  # type: ignore[arg-type]
