from __future__ import annotations

import numpy as np
import pytest

from imdy_plugin.solvers.ground_split import FootLoads, split_wrench, spread_pressure, zero_moment_point

WEIGHT = 700.0
HALF_WIDTH = 0.1
CORNERS = np.array([(-0.05, -0.03), (-0.05, 0.03), (0.15, -0.03), (0.15, 0.03)])


def stand(frames: int = 1) -> np.ndarray:
    """Two feet side by side, the right one at z = +HALF_WIDTH, soles from 5 cm behind to 15 cm before the origin."""
    sole = np.zeros((frames, 2, 4, 3))
    sole[..., [0, 2]] = CORNERS
    sole[:, 0, :, 2] += HALF_WIDTH
    sole[:, 1, :, 2] -= HALF_WIDTH
    return sole


def wrench_at(force: tuple[float, float, float], point: tuple[float, float, float], twist: float = 0.0) -> np.ndarray:
    """One frame: a force through a point with a moment about the vertical."""
    return np.concatenate([force, np.cross(point, force) + np.array([0.0, twist, 0.0])])[None]


def total(loads: FootLoads) -> np.ndarray:
    moment = loads.free_moment + np.cross(loads.center_of_pressure, loads.force)
    return np.concatenate([loads.force.sum(axis=1), moment.sum(axis=1)], axis=1)


def both_down(frames: int = 1) -> np.ndarray:
    return np.ones((frames, 2, 4))


def test_quiet_standing_is_shared_by_halves() -> None:
    loads = split_wrench(wrench_at((0.0, WEIGHT, 0.0), (0.05, 0.0, 0.0)), stand(), both_down(), 0.0)
    np.testing.assert_allclose(loads.force[0], [[0.0, WEIGHT / 2, 0.0]] * 2, atol=1e-3)
    np.testing.assert_allclose(loads.center_of_pressure[0], [[0.05, 0.0, HALF_WIDTH], [0.05, 0.0, -HALF_WIDTH]], atol=1e-6)
    np.testing.assert_allclose(loads.free_moment, 0.0, atol=1e-2)


def test_a_zero_moment_point_at_the_outer_edge_of_a_foot_loads_that_foot_alone() -> None:
    loads = split_wrench(wrench_at((0.0, WEIGHT, 0.0), (0.05, 0.0, HALF_WIDTH + 0.03)), stand(), both_down(), 0.0)
    assert loads.force[0, 0, 1] == pytest.approx(WEIGHT, rel=1e-3)
    assert loads.force[0, 1, 1] == pytest.approx(0.0, abs=1e-3 * WEIGHT)


def test_the_share_follows_the_zero_moment_point_from_foot_to_foot() -> None:
    across = np.linspace(-HALF_WIDTH, HALF_WIDTH, 21)
    wrench = np.concatenate([wrench_at((0.0, WEIGHT, 0.0), (0.05, 0.0, z)) for z in across])
    right = split_wrench(wrench, stand(21), both_down(21), 0.0).force[:, 0, 1] / WEIGHT
    assert (np.diff(right) > 0).all()
    np.testing.assert_allclose(right + right[::-1], 1.0, atol=1e-5)
    assert right[0] < 0.2


def test_a_foot_about_to_lift_carries_less() -> None:
    score = both_down()
    score[:, 1] = 0.05
    wrench = wrench_at((0.0, WEIGHT, 0.0), (0.05, 0.0, HALF_WIDTH - 0.02))
    lifting, standing = split_wrench(wrench, stand(), score, 0.0), split_wrench(wrench, stand(), both_down(), 0.0)
    assert lifting.force[0, 1, 1] < 0.7 * standing.force[0, 1, 1]


def test_a_foot_in_the_air_carries_nothing() -> None:
    score = both_down()
    score[:, 1] = 0.0
    loads = split_wrench(wrench_at((30.0, WEIGHT, -20.0), (0.05, 0.0, 0.0)), stand(), score, 0.0)
    assert not loads.force[:, 1].any() and not loads.free_moment[:, 1].any() and not loads.center_of_pressure[:, 1].any()
    np.testing.assert_allclose(loads.force[0, 0], [30.0, WEIGHT, -20.0])


def test_a_slower_target_shares_and_the_centers_follow_the_wrench() -> None:
    wrench, target = wrench_at((0.0, WEIGHT, 0.0), (0.12, 0.0, 0.02)), np.array([[0.05, 0.0, 0.0]])
    loads = split_wrench(wrench, stand(), both_down(), 0.0, target=target)
    np.testing.assert_allclose(loads.force[0, :, 1], WEIGHT / 2, rtol=1e-3)
    np.testing.assert_allclose(loads.center_of_pressure[0], [[0.12, 0.0, HALF_WIDTH + 0.02], [0.12, 0.0, 0.02 - HALF_WIDTH]], atol=1e-4)
    np.testing.assert_allclose(total(loads), wrench, atol=1e-9)


def test_a_center_of_pressure_stays_off_the_part_of_a_sole_that_is_lifted() -> None:
    score = both_down()
    score[:, :, :2] = 0.01
    loads = split_wrench(wrench_at((0.0, WEIGHT, 0.0), (0.0, 0.0, 0.0)), stand(), score, 0.0, target=np.array([[0.15, 0.0, 0.0]]))
    np.testing.assert_allclose(loads.center_of_pressure[0, :, 0], 0.15, atol=1e-6)


def test_a_foot_that_lands_takes_over_gradually_and_the_sum_stays_exact() -> None:
    factor = np.array([[1.0, 0.1], [1.0, 0.5], [1.0, 1.0]])
    wrench = np.concatenate([wrench_at((20.0, WEIGHT, 9.0), (0.05, 0.0, 0.0))] * 3)
    loads = split_wrench(wrench, stand(3), both_down(3), 0.0, loading=factor)
    np.testing.assert_allclose(loads.force[:, 1, 1] / WEIGHT, [0.1 / 1.1, 0.5 / 1.5, 0.5], rtol=1e-3)
    np.testing.assert_allclose(total(loads), wrench, atol=1e-9)


@pytest.mark.parametrize("pivot", [None, np.array([[0.1, 1.4, 0.02]])])
@pytest.mark.parametrize("height", [0.0, -0.3])
def test_loads_sum_to_the_wrench_exactly(pivot: np.ndarray | None, height: float) -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        wrench = rng.normal(0, 300, (1, 6))
        score = rng.uniform(0.02, 1, (1, 2, 4)) * rng.permutation([[[1.0], [rng.integers(0, 2)]]], axis=1)
        loads = split_wrench(wrench, stand() + np.array([0.0, height, 0.0]), score, height, pivot)
        np.testing.assert_allclose(total(loads), wrench, atol=1e-9)
        assert not loads.unexplained.any()


def test_centers_of_pressure_stay_in_the_soles_and_the_rest_is_free_moment() -> None:
    loads = split_wrench(wrench_at((0.0, WEIGHT, 0.0), (0.4, 0.0, 0.0)), stand(), both_down(), 0.0)
    np.testing.assert_allclose(loads.center_of_pressure[0, :, 0], 0.15, atol=1e-3)
    assert loads.free_moment[0].sum(axis=0)[2] == pytest.approx(0.25 * WEIGHT, rel=1e-3)


def test_the_rest_can_be_left_unexplained() -> None:
    wrench = wrench_at((0.0, WEIGHT, 0.0), (0.4, 0.0, 0.0), twist=5.0)
    loads = split_wrench(wrench, stand(), both_down(), 0.0, all_on_feet=False)
    assert not loads.free_moment[..., [0, 2]].any()
    np.testing.assert_allclose(total(loads) + loads.unexplained, wrench, atol=1e-9)
    assert loads.unexplained[0, 5] == pytest.approx(0.25 * WEIGHT, rel=1e-3)
    assert not loads.unexplained[0, [0, 1, 2, 4]].any()


def test_nothing_is_exerted_in_flight() -> None:
    wrench = wrench_at((0.0, 0.2 * WEIGHT, 0.0), (0.05, 0.0, 0.0))
    loads = split_wrench(wrench, stand(), np.zeros((1, 2, 4)), 0.0)
    assert not total(loads).any()
    np.testing.assert_array_equal(loads.unexplained, wrench)


def test_a_pulling_ground_is_still_exact() -> None:
    wrench = wrench_at((10.0, -50.0, 5.0), (0.05, 0.0, 0.0))
    np.testing.assert_allclose(total(split_wrench(wrench, stand(), both_down(), 0.0)), wrench, atol=1e-9)


def test_with_a_pivot_straddled_feet_lean_inwards() -> None:
    wrench = wrench_at((0.0, WEIGHT, 0.0), (0.05, 0.0, 0.0))
    aimed = split_wrench(wrench, stand(), both_down(), 0.0, np.array([[0.05, 1.0, 0.0]]))
    np.testing.assert_allclose(aimed.force[0, :, 2], [-WEIGHT / 2 * HALF_WIDTH, WEIGHT / 2 * HALF_WIDTH], rtol=1e-4)
    apart = split_wrench(wrench, stand(), both_down(), 0.0)
    np.testing.assert_allclose(apart.force[0, :, 2], 0.0, atol=1e-9)


@pytest.mark.parametrize("degrees", [37.0, 180.0])
def test_a_turned_world_gives_turned_loads(degrees: float) -> None:
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    wrench, pivot = wrench_at((40.0, WEIGHT, -15.0), (0.09, 0.0, 0.04), twist=4.0), np.array([[0.08, 1.4, 0.02]])
    straight = split_wrench(wrench, stand(), both_down(), 0.0, pivot)
    turned = split_wrench(np.concatenate([wrench[:, :3] @ turn.T, wrench[:, 3:] @ turn.T], axis=1), stand() @ turn.T, both_down(), 0.0, pivot @ turn.T)
    for name in ("force", "center_of_pressure", "free_moment"):
        np.testing.assert_allclose(getattr(turned, name), getattr(straight, name) @ turn.T, atol=1e-6)


def test_the_zero_moment_point_is_where_a_force_meets_the_floor() -> None:
    wrench = wrench_at((100.0, WEIGHT, 50.0), (0.3, 1.0, -0.2))
    point = zero_moment_point(wrench, 0.25)[0]
    np.testing.assert_allclose(point, [0.3 - 0.75 * 100 / WEIGHT, 0.25, -0.2 - 0.75 * 50 / WEIGHT])
    assert np.isnan(zero_moment_point(np.zeros((1, 6)), 0.0)).all()


def test_pressure_is_as_even_as_the_target_allows() -> None:
    np.testing.assert_allclose(spread_pressure(CORNERS.mean(axis=0), CORNERS, np.ones(4)), 0.25, atol=1e-6)
    np.testing.assert_allclose(spread_pressure(CORNERS[2], CORNERS, np.ones(4)), [0, 0, 1, 0], atol=1e-4)
