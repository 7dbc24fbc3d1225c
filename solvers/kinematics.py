"""Joint coordinates of a trial, and their derivatives as OpenSim's InverseDynamicsTool takes them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imdy_plugin.errors import InputError

FloatArray = NDArray[np.float64]

MIN_FRAMES = 6
"""Fewest frames that a quintic spline takes."""

MIN_FRAMES_FILTERED = 12
"""Fewest frames that are filtered: four times the order of the filter, below which its start-up fills the recording."""


def smooth(time: ArrayLike, values: ArrayLike, cutoff_hz: float | None) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Low-pass and differentiate as OpenSim's InverseDynamicsTool does.

    The values are padded by half their length at both ends with their point reflection, resampled to the shortest time step
    where steps differ, run forwards and backwards through a third-order Butterworth filter, and differentiated as natural
    quintic splines. What is returned is evaluated at ``time``: the padding does not leak. Stretches between frames that hold
    NaN are treated one by one; a stretch that is too short stays NaN.

    Parameters
    ----------
    time
        ``(time,)`` [s].
    values
        ``(time, ...)``.
    cutoff_hz
        Cut-off frequency [Hz]; None or a negative number filters nothing.

    Returns
    -------
    value, first derivative, second derivative
        Each of the shape of ``values``.

    Raises
    ------
    InputError
        No stretch of the recording is long enough.
    """
    t, x = np.asarray(time, float), np.asarray(values, float)
    flat = x.reshape(len(t), -1)
    filtered = cutoff_hz is not None and cutoff_hz >= 0
    shortest = MIN_FRAMES_FILTERED if filtered else MIN_FRAMES
    out = np.full((3, *flat.shape), np.nan)
    stretches = [s for s in finite_stretches(flat) if s.stop - s.start >= shortest]
    if not stretches:
        longest = max((s.stop - s.start for s in finite_stretches(flat)), default=0)
        raise InputError(
            f"the longest stretch without gaps has {longest} frame(s) of {len(t)}; "
            f"at least {MIN_FRAMES} are needed without a filter and {MIN_FRAMES_FILTERED} with one"
        )
    for stretch in stretches:
        out[:, stretch] = _smooth_stretch(t[stretch], flat[stretch], cutoff_hz if filtered else None)
    value, first, second = out.reshape(3, *x.shape)
    return value, first, second


def finite_stretches(values: ArrayLike) -> list[slice]:
    """Slices of consecutive frames without NaN of ``values (time, ...)``."""
    array = np.asarray(values, float)
    good = np.isfinite(array.reshape(len(array), -1)).all(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], good.astype(int), [0]])))
    return [slice(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def resample(time: ArrayLike, values: ArrayLike, new_time: ArrayLike, degree: int = 3) -> FloatArray:
    """Values ``(time, ...)`` at ``new_time`` by the natural spline of odd ``degree`` through them; NaN outside ``time``.

    With degree 3 this is how OpenSim reads the data of an external force.
    """
    from scipy.interpolate import make_interp_spline

    t, x, new = np.asarray(time, float), np.asarray(values, float), np.asarray(new_time, float)
    ends = [(order, np.zeros(x.shape[1:])) for order in range((degree + 1) // 2, degree)]
    result: FloatArray = make_interp_spline(t, x, k=degree, bc_type=(ends, ends))(new)
    slack = 1e-6 * (t[-1] - t[0]) / max(len(t) - 1, 1)
    result[(new < t[0] - slack) | (new > t[-1] + slack)] = np.nan
    return result


def _smooth_stretch(time: FloatArray, values: FloatArray, cutoff_hz: float | None) -> FloatArray:
    from scipy.interpolate import make_interp_spline

    t, x = time, values
    if cutoff_hz is not None:
        t, x = _pad(t[:, None], len(time) // 2)[:, 0], _pad(x, len(time) // 2)
        steps = np.diff(t)
        step = float(steps.min())
        if steps.mean() - step > 1e-9 * step:
            uniform = t[0] + step * np.arange(int((t[-1] - t[0]) / step + 1e-6) + 1)
            t, x = uniform, resample(t, x, uniform, degree=5)
        x = _low_pass(x, cutoff_hz, step)
    ends = [(3, np.zeros(x.shape[1])), (4, np.zeros(x.shape[1]))]
    spline = make_interp_spline(t, x, k=5, bc_type=(ends, ends))
    return np.stack([spline(time, nu) for nu in range(3)])


def _pad(values: FloatArray, count: int) -> FloatArray:
    before = 2.0 * values[0] - values[count:0:-1]
    after = 2.0 * values[-1] - values[-2 : -count - 2 : -1]
    return np.concatenate([before, values, after])


def _low_pass(values: FloatArray, cutoff_hz: float, step: float) -> FloatArray:
    """Third-order Butterworth filter, forwards and backwards, each pass started from its first three samples as they are."""
    from scipy.signal import butter

    nyquist = 0.5 / step
    b, a = butter(3, min(cutoff_hz, 0.98 * nyquist) / nyquist)
    forwards = _filter_once(b, a, values)
    return _filter_once(b, a, forwards[::-1])[::-1]


def _filter_once(b: FloatArray, a: FloatArray, values: FloatArray) -> FloatArray:
    from scipy.signal import lfilter, lfiltic

    start = values[:3]
    state = np.stack([lfiltic(b, a, y=column[::-1], x=column[::-1]) for column in start.T], axis=1)
    rest, _ = lfilter(b, a, values[3:], axis=0, zi=state)
    return np.concatenate([start, rest])
