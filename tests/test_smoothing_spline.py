"""Smoothing splines under generalized cross-validation, against OpenSim's and against their definition."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from imdy_plugin._opensim import import_opensim
from imdy_plugin.errors import InputError
from imdy_plugin.solvers.kinematics import cross_validate, smooth
from imdy_plugin.solvers.smoothing_spline import _Problem, smooth_by_cross_validation

FloatArray = NDArray[np.float64]
NOISE = 0.01


def wave(time: FloatArray) -> FloatArray:
    return np.stack([np.sin(2 * np.pi * time) + 0.3 * np.sin(6 * np.pi * time + 1), np.cos(5 * time)], axis=1)


def noisy(time: FloatArray) -> FloatArray:
    return wave(time) + NOISE * np.random.default_rng(0).normal(size=(len(time), 2))


def by_opensim(time: FloatArray, values: FloatArray, variance: float) -> FloatArray:
    """Woltring's GCVSPL inside OpenSim: a negative variance asks for cross-validation, zero for interpolation."""
    osim = import_opensim()
    storage, labels = osim.Storage(), osim.ArrayStr()
    for label in ["time", *(f"c{i}" for i in range(values.shape[1]))]:
        labels.append(label)
    storage.setColumnLabels(labels)
    for stamp, row in zip(time, values, strict=True):
        storage.append(float(stamp), osim.Vector.createFromMat(row))
    splines = osim.GCVSplineSet(5, storage, variance)
    return np.array([[splines.get(f"c{c}").calcValue(osim.Vector(1, float(stamp))) for c in range(values.shape[1])] for stamp in time])


@pytest.mark.parametrize("time", [np.arange(200) / 100, 2 + np.cumsum(np.random.default_rng(3).uniform(0.007, 0.013, 150))], ids=["even", "uneven"])
def test_equals_opensims_cross_validated_splines(time: FloatArray) -> None:
    values = noisy(time)
    ours = smooth_by_cross_validation(time, values).value
    assert np.abs(ours - by_opensim(time, values, -1.0)).max() < 0.01 * NOISE
    assert np.abs(ours - by_opensim(time, values, 0.0)).max() > NOISE


def test_noise_goes_and_the_signal_stays() -> None:
    time = np.arange(400) / 100
    found = smooth_by_cross_validation(time, noisy(time))
    error = np.sqrt(((found.value - wave(time)) ** 2).mean(axis=0))
    assert (error < 0.5 * NOISE).all()
    assert 4.0 < found.cutoff_hz[0] < 15.0 and found.cutoff_hz[1] < found.cutoff_hz[0]
    clean = smooth_by_cross_validation(time, np.column_stack([wave(time), np.full(400, 3.0)]))
    np.testing.assert_allclose(clean.value, np.column_stack([wave(time), np.full(400, 3.0)]), atol=1e-4)


@pytest.mark.parametrize("log_p", [-3.0, 0.0, 5.0, 10.0])
def test_the_trace_is_that_of_the_whole_matrix(log_p: float) -> None:
    problem = _Problem.of(np.sort(np.random.default_rng(1).uniform(0, 40, 40)))
    residual = np.eye(40) - problem.smoothed(log_p, np.eye(40))
    assert problem._trace(log_p) == pytest.approx(np.trace(residual), abs=1e-6)


def test_the_cutoff_halves_a_wave() -> None:
    time, cutoff = np.arange(600.0), 0.05
    value = np.sin(2 * np.pi * cutoff * time)[:, None]
    smoothed = _Problem.of(time).smoothed(-6 * np.log(2 * np.pi * cutoff), value)
    np.testing.assert_allclose(smoothed[200:400], 0.5 * value[200:400], atol=1e-3)


def test_no_other_curve_costs_less() -> None:
    """Sum of squares and bending together rise in every direction, up and down."""
    from scipy.interpolate import make_interp_spline

    rng, p = np.random.default_rng(2), 7.0
    time = np.sort(rng.uniform(0, 40, 40))
    values = rng.normal(size=(40, 1))
    nodes, weights = np.polynomial.legendre.leggauss(4)
    half = np.diff(time)[:, None] / 2
    places = time[:-1, None] + half + half * nodes

    def cost(curve: FloatArray) -> float:
        ends = [(3, np.zeros(1)), (4, np.zeros(1))]
        bent = make_interp_spline(time, curve, k=5, bc_type=(ends, ends)).derivative(3)(places.ravel()).reshape(places.shape)
        return float(((values - curve) ** 2).sum() + p * (half * weights * bent**2).sum())

    best = _Problem.of(time).smoothed(np.log(p), values)
    for _ in range(5):
        change = 1e-3 * rng.normal(size=(40, 1))
        up, down = cost(best + change) - cost(best), cost(best - change) - cost(best)
        assert up > 0 and down > 0 and up == pytest.approx(down, rel=1e-3)


def test_gaps_stay_gaps() -> None:
    time = np.arange(200) / 100
    values = noisy(time)
    values[80:95, 1] = np.nan
    smoothed, cutoffs = cross_validate(time, values)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(smoothed[:, 0])), np.arange(80, 95))
    first = smooth_by_cross_validation(time[:80], values[:80])
    np.testing.assert_allclose(smoothed[:80], first.value)
    second = smooth_by_cross_validation(time[95:], values[95:])
    np.testing.assert_allclose(cutoffs, (80 * first.cutoff_hz + 105 * second.cutoff_hz) / 185)
    velocity = smooth(time, smoothed, None)[1]
    assert np.abs(velocity[110:-15, 1] + 5 * np.sin(5 * time[110:-15])).max() < 0.15
    with pytest.raises(InputError, match=r"11 frame\(s\)"):
        cross_validate(time[:11], values[:11])
