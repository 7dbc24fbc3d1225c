"""What the network sees of a motion: landmarks in a heading frame, the same on a treadmill, overground, and in any direction.

The heading frame of a frame has its origin at the pelvis' projection on the ground, x along the slowly varying heading of the
pelvis, y up, z right. Velocities are relative to the pelvis' mean horizontal velocity over a long window, so that a belt
that moves under the person and a person who moves over the ground look alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.errors import InputError
from imdy_plugin.solvers.imdys.landmarks import FOOT, LANDMARKS, LEFT_RIGHT_PAIRS, MINIMUM_LANDMARKS, PELVIS, SIDES, match_landmarks

Array = NDArray[np.float64]

RATE_HZ = 100.0
"""Rate at which features are computed and answers are given."""

LOWPASS_HZ = 15.0
"""Cutoff of the 4th-order zero-lag Butterworth low-pass on marker positions."""

LONGEST_FILLED_GAP_S = 0.1
"""Gaps up to here are bridged by a cubic; longer ones stay missing."""

SHORTEST_RUN_S = 0.2
"""A marker seen for less than this at a stretch is taken as missing: its acceleration means nothing."""

HEADING_WINDOW_S, VELOCITY_WINDOW_S = 0.25, 0.5
"""Standard deviations of the Gaussian windows of heading and mean velocity."""

LOW_PERCENTILE = 5.0
"""Percentile of a foot landmark's height that is taken as its height when the foot stands."""

SHORTEST_LEG_M, LONGEST_LEG_M = 0.15, 1.6
"""Median distance of pelvis and feet that a person can have, crouching children and tall adults included."""

_FOOT_INDEX = {s + n: LANDMARKS.index(s + n) for s in SIDES for n in FOOT}
_SCALES = np.repeat([0.5, 2.0, 10.0], 3)


@dataclass(frozen=True)
class Features:
    """Features of one motion.

    Attributes
    ----------
    time
        Time stamps [s], ``(T,)``.
    values
        Position, velocity and acceleration of each landmark in the heading frame, divided by 0.5 m, 2 m/s and 10 m/s^2,
        ``(T, landmark, 9)``; zero where missing. The height of a foot landmark is above its own standing height.
    present
        ``(T, landmark)``.
    usable
        Frames with enough landmarks and a heading, ``(T,)``.
    rotation
        Turns a vector of the heading frame into the ground frame, ``(T, 3, 3)``.
    foot_point
        Midpoint of heel and forefoot, right and left, ground frame [m], ``(T, 2, 3)``; NaN where unseen.
    floor
        Height of the foot landmarks when standing [m], the lowest of them; the floor is at most a few centimetres below.
    mean_velocity
        The pelvis' mean horizontal velocity over the long window [m/s], ground frame, ``(T, 3)``.
    pelvis_acceleration
        Mean acceleration of the landmarks of the pelvis that are there [m/s^2], ground frame, ``(T, 3)``; NaN where none is.
    landmarks
        The marker of each landmark found.
    """

    time: Array
    values: NDArray[np.float32]
    present: NDArray[np.bool_]
    usable: NDArray[np.bool_]
    rotation: Array
    foot_point: Array
    floor: float
    mean_velocity: Array
    pelvis_acceleration: Array
    landmarks: Mapping[str, str]


def compute_features(motion: xr.Dataset, time: Array | None = None) -> Features:
    """Compute the features of a motion.

    Parameters
    ----------
    motion
        Holds ``marker_position``.
    time
        Uniform time stamps at :data:`RATE_HZ` [s]; by default those that the motion spans.

    Raises
    ------
    InputError
        Too few landmarks, or fewer frames than half a second at :data:`RATE_HZ`.
    """
    landmarks = match_landmarks(str(m) for m in motion["marker"].values)
    grid = uniform_time(motion["time"].values) if time is None else np.asarray(time, float)
    if grid.size < RATE_HZ / 2:
        raise InputError(f"the motion spans {grid.size / RATE_HZ:.2f} s; the network needs at least 0.5 s")
    position, velocity, acceleration = _kinematics(motion, landmarks, grid)
    seen = np.isfinite(acceleration[..., 0])
    position[~seen] = np.nan
    origin, heading, located = _root(position)
    mean_velocity = _mean_velocity(grid, origin, located)
    rotation = _yaw_matrices(heading)
    usable = located & np.isfinite(mean_velocity[:, 0]) & (seen.sum(axis=1) >= MINIMUM_LANDMARKS)
    stand = {name: float(np.nanpercentile(position[:, i, 1], LOW_PERCENTILE)) for name, i in _FOOT_INDEX.items() if seen[:, i].any()}
    if not usable.any() or not stand:
        raise InputError(f"no frame holds {MINIMUM_LANDMARKS} landmarks for {SHORTEST_RUN_S} s at a stretch; found markers of {', '.join(landmarks)}")
    floor = min(stand.values())
    foot_point = _foot_points(position)
    _check_size(position, foot_point)
    relative = position - origin[:, None, :]
    relative[..., 1] = position[..., 1] - floor
    for name, height in stand.items():
        relative[:, _FOOT_INDEX[name], 1] = position[:, _FOOT_INDEX[name], 1] - height
    parts = [np.einsum("tij,tlj->tli", rotation.transpose(0, 2, 1), x) for x in (relative, velocity - mean_velocity[:, None, :], acceleration)]
    present = seen & usable[:, None]
    values = np.where(present[..., None], np.concatenate(parts, axis=-1) / _SCALES, 0.0)
    pelvis = _mean_present(acceleration, [LANDMARKS.index(n) for n in PELVIS])
    return Features(grid, values.astype(np.float32), present, usable, rotation, foot_point, floor, mean_velocity, pelvis, landmarks)


def _check_size(position: Array, foot_point: Array) -> None:
    pelvis = _mean_present(position, [LANDMARKS.index(n) for n in PELVIS])
    leg = float(np.nanmedian(np.linalg.norm(pelvis[:, None] - foot_point, axis=-1)))
    if not SHORTEST_LEG_M < leg < LONGEST_LEG_M:
        raise InputError(
            f"pelvis and feet are {leg:.3g} m apart, which no person's are ({SHORTEST_LEG_M} to {LONGEST_LEG_M} m); "
            "check that the markers are in metres and named right"
        )


def uniform_time(time: Array) -> Array:
    """Time stamps at :data:`RATE_HZ` from the first to the last of ``time`` [s]."""
    return float(time[0]) + np.arange(int(np.floor((time[-1] - time[0]) * RATE_HZ + 1e-6)) + 1) / RATE_HZ


def _kinematics(motion: xr.Dataset, landmarks: Mapping[str, str], grid: Array) -> tuple[Array, Array, Array]:
    names = [str(m) for m in motion["marker"].values]
    raw = np.asarray(motion["marker_position"].values, float)
    time = np.asarray(motion["time"].values, float)
    indices = np.array([LANDMARKS.index(landmark) for landmark in landmarks], dtype=np.intp)
    position = raw[:, [names.index(marker) for marker in landmarks.values()]]
    out = tuple(np.full((grid.size, len(LANDMARKS), 3), np.nan) for _ in range(3))
    seen, pattern = np.unique(np.isfinite(position).all(axis=2), axis=1, return_inverse=True)
    for number in range(seen.shape[1]):
        alike = np.flatnonzero(pattern.ravel() == number)
        for target, values in zip(out, _smooth(time, position[:, alike].reshape(len(time), -1), grid), strict=True):
            target[:, indices[alike]] = values.reshape(grid.size, len(alike), 3)
    return out[0], out[1], out[2]


def _smooth(time: Array, position: Array, grid: Array) -> tuple[Array, Array, Array]:
    """Low-passed position ``(T, column)``, velocity and acceleration on the grid, NaN in and beside gaps, which all columns share."""
    from scipy.interpolate import CubicSpline, make_interp_spline
    from scipy.signal import butter, sosfiltfilt

    out = tuple(np.full((grid.size, position.shape[1]), np.nan) for _ in range(3))
    for run in _runs(time, _known(position)):
        fine = grid[(grid >= time[run[0]] - 1e-9) & (grid <= time[run[-1]] + 1e-9)]
        if fine.size < max(SHORTEST_RUN_S * RATE_HZ, 4):
            continue
        values = CubicSpline(time[run], position[run])(fine)
        sos = butter(2, LOWPASS_HZ, fs=RATE_HZ, output="sos")
        values = sosfiltfilt(sos, values, axis=0, padlen=min(fine.size - 1, 30))
        spline = make_interp_spline(fine, values, k=3)
        rows = np.searchsorted(grid, fine - 1e-9)
        for order, target in enumerate(out):
            target[rows] = spline(fine, nu=order)
    return out[0], out[1], out[2]


def _known(vectors: Array) -> NDArray[np.bool_]:
    """Rows of ``(T, n)`` without NaN."""
    return np.asarray(np.isfinite(vectors).all(axis=1), bool)


def _runs(time: Array, finite: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    """Frames with a position, cut where a gap is too long to bridge; a run has at least four frames."""
    rows = np.flatnonzero(finite)
    cuts = np.flatnonzero(np.diff(time[rows]) > LONGEST_FILLED_GAP_S) + 1
    return [run for run in np.split(rows, cuts) if run.size >= 4]


def _mean_of(position: Array, names: tuple[str, ...]) -> Array:
    """Mean over landmarks, NaN in frames where one of them is missing; NaN throughout where one never is there."""
    return np.asarray(np.mean([position[:, LANDMARKS.index(n)] for n in names], axis=0))


def _mean_present(values: Array, columns: list[int]) -> Array:
    chosen = values[:, columns]
    count = np.isfinite(chosen[..., 0]).sum(axis=1)[:, None]
    return np.where(count > 0, np.nansum(chosen, axis=1) / np.maximum(count, 1), np.nan)


def _first_finite(candidates: list[Array]) -> Array:
    out = candidates[0].copy()
    for candidate in candidates[1:]:
        lacking = ~_known(out)
        out[lacking] = candidate[lacking]
    return out


def _root(position: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Ground projection of the pelvis, smoothed heading (unit vector in the ground plane), and whether both are known."""
    front, back, sacrum = _mean_of(position, ("RASI", "LASI")), _mean_of(position, ("RPSI", "LPSI")), _mean_of(position, ("SACR",))
    rear = _first_finite([back, sacrum])
    others = [_mean_of(position, (f"R{n}", f"L{n}")) for n in ("ILC", "GTR")]
    single = [position[:, LANDMARKS.index(s + n)] for n in ("ASI", "PSI") for s in SIDES]
    origin = _first_finite([(front + rear) / 2, front, rear, *others, *single])
    origin[:, 1] = 0.0
    across = _first_finite([position[:, LANDMARKS.index(f"R{n}")] - position[:, LANDMARKS.index(f"L{n}")] for n in LEFT_RIGHT_PAIRS])
    forward = np.stack([across[:, 2], np.zeros(len(across)), -across[:, 0]], axis=1)
    length = np.linalg.norm(forward, axis=1, keepdims=True)
    forward = _gaussian(forward / np.where(length > 0.02, length, np.nan), HEADING_WINDOW_S)
    heading = forward / np.linalg.norm(forward, axis=1, keepdims=True)
    return origin, heading, _known(origin) & _known(heading)


def _gaussian(values: Array, sigma_s: float) -> Array:
    """Gaussian mean over the finite frames, ``(T, n)``; NaN where no frame is near."""
    from scipy.ndimage import gaussian_filter1d

    known = _known(values)
    weight = gaussian_filter1d(known.astype(float), sigma_s * RATE_HZ, mode="constant")
    total = gaussian_filter1d(np.where(known[:, None], values, 0.0), sigma_s * RATE_HZ, axis=0, mode="constant")
    return np.where(weight[:, None] > 0.05, total / np.maximum(weight, 1e-9)[:, None], np.nan)


def _mean_velocity(time: Array, origin: Array, located: NDArray[np.bool_]) -> Array:
    """Slope of a locally weighted line through the pelvis' path: exact for steady motion up to both ends."""
    weights = np.where(located, 1.0, np.nan)[:, None]
    shift = time - time.mean()
    t = shift[:, None] * weights
    product = np.where(located[:, None], origin * shift[:, None], np.nan)
    mean_t, mean_x = _gaussian(t, VELOCITY_WINDOW_S), _gaussian(np.where(located[:, None], origin, np.nan), VELOCITY_WINDOW_S)
    covariance = _gaussian(product, VELOCITY_WINDOW_S) - mean_t * mean_x
    variance = _gaussian(t * t, VELOCITY_WINDOW_S) - mean_t**2
    return covariance / np.where(variance > 1e-6, variance, np.nan)


def _yaw_matrices(heading: Array) -> Array:
    """Columns are the heading frame's axes in the ground frame, ``(T, 3, 3)``."""
    cos, sin = heading[:, 0], heading[:, 2]
    zero, one = np.zeros_like(cos), np.ones_like(cos)
    return np.stack([np.stack([cos, zero, -sin], -1), np.stack([zero, one, zero], -1), np.stack([sin, zero, cos], -1)], axis=1)


def _foot_points(position: Array) -> Array:
    points = []
    for side in SIDES:
        heel, mt5, mt1, toe, ankle = (position[:, LANDMARKS.index(side + n)] for n in ("HEE", "MT5", "MT1", "TOE", "ANK"))
        fore = _first_finite([(mt5 + mt1) / 2, (mt5 + toe) / 2, toe, mt5, mt1])
        points.append(_first_finite([(heel + fore) / 2, (ankle + fore) / 2, ankle, heel, fore]))
    return np.stack(points, axis=1)
