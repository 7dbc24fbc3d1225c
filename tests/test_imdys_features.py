from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from imdy_plugin.errors import InputError
from imdy_plugin.schema import new_motion
from imdy_plugin.solvers.imdys import features as ft
from imdy_plugin.solvers.imdys.landmarks import LANDMARKS

REST = {
    "RASI": (0.1, 1.0, 0.12),
    "LASI": (0.1, 1.0, -0.12),
    "SACR": (-0.1, 1.02, 0.0),
    "RKNE": (0.03, 0.5, 0.12),
    "LKNE": (0.03, 0.5, -0.12),
    "RHEE": (-0.08, 0.04, 0.1),
    "LHEE": (-0.08, 0.04, -0.1),
    "RTOE": (0.13, 0.03, 0.1),
    "LTOE": (0.13, 0.03, -0.1),
    "C7": (-0.05, 1.5, 0.0),
}


def stroll(speed: float = 1.2, seconds: float = 3.0, rate: float = 100.0) -> xr.Dataset:
    """A stick person that swings its feet and moves forward."""
    time = np.arange(int(seconds * rate)) / rate
    position = np.repeat(np.array(list(REST.values()))[None], time.size, axis=0)
    for column, name in enumerate(REST):
        if name[1:] in ("HEE", "TOE", "KNE"):
            phase = 2 * np.pi * 0.9 * time + (np.pi if name[0] == "L" else 0.0)
            position[:, column, 0] += 0.25 * np.sin(phase)
            position[:, column, 1] += 0.05 * np.maximum(np.cos(phase), 0.0) ** 2
    position[..., 0] += speed * time[:, None]
    return new_motion(time, markers=(list(REST), position))


def turned(motion: xr.Dataset, angle: float, shift: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> xr.Dataset:
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    return motion.assign(marker_position=(motion["marker_position"].dims, motion["marker_position"].values @ rotation.T + shift, {"units": "m"}))


@pytest.mark.parametrize("angle", [0.3, np.pi / 2, np.pi, -2.0])
def test_direction_and_place_do_not_matter(angle: float) -> None:
    plain, moved = ft.compute_features(stroll()), ft.compute_features(turned(stroll(), angle, (3.0, 0.0, -2.0)))
    np.testing.assert_allclose(moved.values, plain.values, atol=1e-5)
    forward = moved.rotation[:, :, 0]
    np.testing.assert_allclose(forward, np.broadcast_to([np.cos(angle), 0, np.sin(angle)], forward.shape), atol=1e-6)


def test_a_treadmill_and_the_ground_look_alike() -> None:
    overground, treadmill = ft.compute_features(stroll(1.2)), ft.compute_features(stroll(0.0))
    np.testing.assert_allclose(overground.values, treadmill.values, atol=1e-4)
    np.testing.assert_allclose(overground.mean_velocity[:, 0], 1.2, atol=1e-6)


def test_the_test_above_can_fail() -> None:
    quick = stroll()
    quick["marker_position"][:, :, 0] += 0.2 * quick["time"] ** 2
    assert np.abs(ft.compute_features(quick).values - ft.compute_features(stroll()).values).max() > 0.01


def test_order_of_markers_and_a_prefix_do_not_matter() -> None:
    motion = stroll()
    shuffled = motion.isel(marker=[7, 3, 9, 0, 5, 2, 8, 1, 6, 4])
    shuffled = shuffled.assign_coords(marker=[f"Anna:{m}" for m in shuffled["marker"].values])
    np.testing.assert_array_equal(ft.compute_features(shuffled).values, ft.compute_features(motion).values)


def test_shoes_do_not_matter_to_the_feet() -> None:
    shod = stroll()
    feet = [str(m)[1:] in ("HEE", "TOE") for m in shod["marker"].values]
    shod["marker_position"][:, feet, 1] += 0.05
    columns = [LANDMARKS.index(n) for n in ("RHEE", "LTOE")]
    np.testing.assert_allclose(ft.compute_features(shod).values[:, columns], ft.compute_features(stroll()).values[:, columns], atol=1e-5)


def test_velocity_and_acceleration_are_those_of_the_motion() -> None:
    features = ft.compute_features(stroll(0.0, seconds=4.0))
    column = LANDMARKS.index("RTOE")
    time = features.time
    omega = 2 * np.pi * 0.9
    middle = slice(100, 300)
    np.testing.assert_allclose(2.0 * features.values[middle, column, 3], 0.25 * omega * np.cos(omega * time[middle]), atol=0.02)
    np.testing.assert_allclose(10.0 * features.values[middle, column, 6], -0.25 * omega**2 * np.sin(omega * time[middle]), atol=0.1)


def test_a_long_gap_is_masked_and_a_short_one_bridged() -> None:
    motion = stroll()
    whole = ft.compute_features(motion)
    column = LANDMARKS.index("RKNE")
    motion["marker_position"][100:104, 3] = np.nan
    motion["marker_position"][150:200, 3] = np.nan
    features = ft.compute_features(motion)
    assert features.present[98:106, column].all()
    assert not features.present[151:199, column].any()
    np.testing.assert_array_equal(features.values[160:190, column], 0.0)
    np.testing.assert_allclose(features.values[100:104, column, :3], whole.values[100:104, column, :3], atol=0.01)


def test_frames_without_enough_landmarks_are_not_usable() -> None:
    motion = stroll()
    motion["marker_position"][100:200, 4:] = np.nan
    usable = ft.compute_features(motion).usable
    assert usable[:99].all()
    assert not usable[101:199].any()


def test_another_rate_gives_the_same_features() -> None:
    fine, coarse = ft.compute_features(stroll(rate=250.0)), ft.compute_features(stroll(rate=60.0))
    frames = min(len(fine.time), len(coarse.time))
    np.testing.assert_allclose(fine.values[30 : frames - 30], coarse.values[30 : frames - 30], atol=0.02)


def test_too_short_a_motion_is_refused() -> None:
    with pytest.raises(InputError, match=r"at least 0\.5 s"):
        ft.compute_features(stroll(seconds=0.4))


def test_a_motion_of_gaps_is_refused() -> None:
    motion = stroll()
    motion["marker_position"][:, 5:] = np.nan
    with pytest.raises(InputError, match="no frame holds"):
        ft.compute_features(motion)


def test_millimetres_are_noticed() -> None:
    motion = stroll()
    motion["marker_position"] *= 1000.0
    with pytest.raises(InputError, match="metres"):
        ft.compute_features(motion)
