"""Natural quintic smoothing splines whose smoothing the data choose by generalized cross-validation.

For values ``y`` at times ``t`` the spline minimises ``sum (y - f(t))^2 + p * integral f'''^2``. With third divided differences
``Q' y`` and the Gram matrix ``R`` of their B-splines, ``f = y - p Q (R + p Q'Q)^-1 Q' y`` (Reinsch 1967; de Boor, A Practical
Guide to Splines, chapter 14), all of it banded. ``p`` minimises ``mean (y - f)^2 / (trace(1 - A) / n)^2`` with ``f = A y``
(Craven and Wahba 1979), as in Woltring's GCVSPL (1986). The trace is the derivative of ``log det(R + p Q'Q)`` by ``log p``.

For even samples of rate ``s`` the spline is a low-pass filter of gain ``1 / (1 + p w^6)``, ``w = 2 pi frequency / s``, without phase; its
cut-off, where the gain is one half, is the frequency that is reported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_ORDER = 3
"""Order of the derivative that is held small."""

_LOWEST, _HIGHEST = 0.005, math.pi
"""Cut-offs that are tried [rad per mean step]; the highest is half the sampling rate."""

_TRIED, _FINER = 60, 100
_DERIVATIVE_STEP = 0.02


@dataclass(frozen=True)
class SmoothedValues:
    """Values ``(time, column)`` of smoothing splines at their own times, and the cut-off of each column [Hz]."""

    value: FloatArray
    cutoff_hz: FloatArray


def smooth_by_cross_validation(time: FloatArray, values: FloatArray) -> SmoothedValues:
    """Smooth each column by the quintic spline that generalized cross-validation chooses for it.

    The choice takes noise to be independent from frame to frame. Where it is not, as in values that were filtered before, too
    little is smoothed. A column without noise is left as it is.

    Parameters
    ----------
    time
        ``(time,)`` [s], increasing, at least six.
    values
        ``(time, column)``, finite.
    """
    step = float(time[-1] - time[0]) / (len(time) - 1)
    problem = _Problem.of((time - time[0]) / step)
    tried = np.linspace(math.log(_smoothing(_HIGHEST)), math.log(_smoothing(_LOWEST)), _TRIED)
    scores = np.array([problem.score(log_p, values) for log_p in tried])
    chosen = _minima(tried, scores)
    value = np.stack([problem.smoothed(log_p, values[:, [column]])[:, 0] for column, log_p in enumerate(chosen)], axis=1)
    return SmoothedValues(value, np.exp(chosen / -(2 * _ORDER)) / (2 * math.pi * step))


def _smoothing(cutoff: float) -> float:
    """The parameter ``p`` of a cut-off [rad per step]."""
    return cutoff ** (-2 * _ORDER)


@dataclass(frozen=True)
class _Problem:
    """Third differences ``(n - 3, n)``, sparse, and ``R`` and ``Q'Q`` as upper bands ``(4, n - 3)``."""

    differences: Any
    gram: FloatArray
    squares: FloatArray

    @classmethod
    def of(cls, time: FloatArray) -> _Problem:
        from scipy.sparse import diags_array

        count = len(time) - _ORDER
        nodes = np.stack([time[i : i + count] for i in range(_ORDER + 1)])
        weights = [math.factorial(_ORDER) / np.prod([nodes[i] - nodes[j] for j in range(_ORDER + 1) if j != i], axis=0) for i in range(_ORDER + 1)]
        differences = diags_array(weights, offsets=range(_ORDER + 1), shape=(count, len(time))).tocsr()
        return cls(differences, _upper_bands(_gram_matrix(time)), _upper_bands(differences @ differences.T))

    def smoothed(self, log_p: float, values: FloatArray) -> FloatArray:
        from scipy.linalg import cho_solve_banded

        p = math.exp(log_p)
        bent: FloatArray = self.differences.T @ cho_solve_banded((self._factor(log_p), False), self.differences @ values)
        return values - p * bent

    def score(self, log_p: float, values: FloatArray) -> FloatArray:
        """Generalized cross-validation of each column ``(column,)``."""
        residual = ((values - self.smoothed(log_p, values)) ** 2).mean(axis=0)
        return np.asarray(residual / (self._trace(log_p) / len(values)) ** 2)

    def _trace(self, log_p: float) -> float:
        """Trace of what turns values into residuals: ``d log det(R + p Q'Q) / d log p``, by a difference of fourth order."""
        h = _DERIVATIVE_STEP
        two, one, minus_one, minus_two = (self._log_determinant(log_p + k * h) for k in (2, 1, -1, -2))
        return (8 * (one - minus_one) - (two - minus_two)) / (12 * h)

    def _log_determinant(self, log_p: float) -> float:
        return 2.0 * float(np.log(self._factor(log_p)[-1]).sum())

    def _factor(self, log_p: float) -> FloatArray:
        from scipy.linalg import cholesky_banded

        factor: FloatArray = cholesky_banded(self.gram + math.exp(log_p) * self.squares)
        return factor


def _gram_matrix(time: FloatArray) -> Any:
    """Integrals of products of the quadratic B-splines that third divided differences are the integrals against ``f'''`` of."""
    from scipy.interpolate import BSpline
    from scipy.sparse import diags_array

    point, weight = np.polynomial.legendre.leggauss(_ORDER)
    half = np.diff(time)[:, None] / 2
    places = (time[:-1, None] + half + half * point).ravel()
    ends = [time[0] - np.arange(_ORDER - 1, 0, -1), time, time[-1] + np.arange(1, _ORDER)]
    basis = BSpline.design_matrix(places, np.concatenate(ends), _ORDER - 1)[:, _ORDER - 1 : -(_ORDER - 1)]
    unit = basis @ diags_array(_ORDER / (time[_ORDER:] - time[:-_ORDER]))
    return unit.T @ diags_array((half * weight).ravel()) @ unit


def _upper_bands(matrix: Any) -> FloatArray:
    bands = np.zeros((_ORDER + 1, matrix.shape[0]))
    for offset in range(_ORDER + 1):
        bands[_ORDER - offset, offset:] = matrix.diagonal(offset)
    return bands


def _minima(at: FloatArray, scores: FloatArray) -> FloatArray:
    """Where each column of ``scores (at, column)`` is least, by a cubic spline through their logarithms."""
    from scipy.interpolate import CubicSpline

    fine = np.linspace(at[0], at[-1], _FINER * (len(at) - 1) + 1)
    between = CubicSpline(at, np.log(np.maximum(scores, np.finfo(float).tiny)))(fine)
    return np.asarray(fine[np.argmin(between, axis=0)])
