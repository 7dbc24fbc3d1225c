"""Functions of coordinates, evaluated as OpenSim evaluates them, with their first two derivatives.

Everything a joint or a coupling may hold is a piecewise polynomial: constant, linear, polynomial, piecewise constant and linear,
cubic and natural splines, each times a factor. They are compiled to one table and evaluated together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imdy_plugin.errors import InputError

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class PiecewisePolynomial:
    """A function of one number.

    Attributes
    ----------
    breaks
        Where one piece ends and the next begins ``(piece - 1,)``, increasing.
    origins
        Number from which each piece measures its argument ``(piece,)``.
    coefficients
        ``(piece, power)``, the constant first.
    """

    breaks: FloatArray
    origins: FloatArray
    coefficients: FloatArray

    def scaled(self, factor: float) -> PiecewisePolynomial:
        """The function times a factor."""
        return PiecewisePolynomial(self.breaks, self.origins, self.coefficients * factor)

    @property
    def constant(self) -> float | None:
        """Its value where it does not depend on its argument, else None."""
        depends = len(self.breaks) > 0 or bool(np.any(self.coefficients[:, 1:]))
        return None if depends else float(self.coefficients[0, 0])

    @property
    def line(self) -> tuple[float, float] | None:
        """Its value at zero and its slope where it is a straight line, else None."""
        if len(self.breaks) or self.coefficients.shape[1] > 2:
            return None
        value, slope = (*self.coefficients[0], 0.0)[:2]
        return float(value - slope * self.origins[0]), float(slope)


def compile_function(description: Mapping[str, Any], where: str) -> PiecewisePolynomial:
    """Compile a function of one number from its description in a model's ``joint_transform`` or ``coordinate_coupling``.

    Parameters
    ----------
    description
        ``type`` and the properties of an OpenSim function.
    where
        What holds the function, for the error.

    Raises
    ------
    InputError
        The function is of a kind that is not supported, or its numbers do not make one.
    """
    kind = str(description.get("type", ""))
    if kind == "MultiplierFunction":
        return compile_function(description["function"], where).scaled(float(description.get("scale", 1.0)))
    if kind not in _COMPILERS:
        raise InputError(
            f"{where} follows a {kind or 'missing function'}, which cannot be represented; known: {', '.join((*_COMPILERS, 'MultiplierFunction'))}"
        )
    try:
        return _COMPILERS[kind](description)
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"{where} follows a {kind} that is not lawful: {error}") from error


def _polynomial(coefficients: Sequence[float]) -> PiecewisePolynomial:
    if not coefficients:
        raise ValueError("it has no coefficients")
    return PiecewisePolynomial(np.zeros(0), np.zeros(1), np.asarray(coefficients, float)[None])


def _compile_linear(description: Mapping[str, Any]) -> PiecewisePolynomial:
    slope, constant = description["coefficients"]
    return _polynomial([constant, slope])


def _points(description: Mapping[str, Any], least: int) -> tuple[FloatArray, FloatArray]:
    x, y = np.asarray(description["x"], float), np.asarray(description["y"], float)
    if x.shape != y.shape or len(x) < least:
        raise ValueError(f"{len(x)} x and {len(y)} y, needs {least} or more of both")
    if not (np.diff(x) > 0).all():
        raise ValueError("its x do not increase")
    return x, y


def _compile_steps(description: Mapping[str, Any]) -> PiecewisePolynomial:
    x, y = _points(description, 1)
    return PiecewisePolynomial(x[1:], x, y[:, None])


def _compile_lines(description: Mapping[str, Any]) -> PiecewisePolynomial:
    x, y = _points(description, 2)
    return PiecewisePolynomial(x[1:-1], x[:-1], np.stack([y[:-1], np.diff(y) / np.diff(x)], axis=1))


def _compile_simm_spline(description: Mapping[str, Any]) -> PiecewisePolynomial:
    """Cubic spline whose third derivative at each end is that of the cubic through the four nearest points, a line beyond.

    Source: Forsythe, Malcolm and Moler, Computer Methods for Mathematical Computations, 1977, chapter 4.
    """
    from scipy.interpolate import make_interp_spline

    x, y = _points(description, 2)
    if len(x) == 2:
        return _compile_lines(description)
    ends = [[(3, _third_derivative(x[part], y[part]))] for part in (slice(None, 4), slice(-4, None))]
    if len(x) == 3:
        return _with_ends(x, _three_points(x, y), 1)
    return _with_ends(x, _pieces(x, make_interp_spline(x, y, k=3, bc_type=tuple(ends))), 1)


def _three_points(x: FloatArray, y: FloatArray) -> FloatArray:
    """Both pieces of the spline through three points: third derivatives vanish, so it is one parabola."""
    second = ((y[2] - y[1]) / (x[2] - x[1]) - (y[1] - y[0]) / (x[1] - x[0])) / (x[2] - x[0])
    slopes = np.diff(y) / np.diff(x) - second * np.diff(x)
    return np.stack([y[:2], slopes, np.full(2, second), np.zeros(2)], axis=1)


def _third_derivative(x: FloatArray, y: FloatArray) -> float:
    """Third derivative of the cubic through four points."""
    differences = y
    for order in range(1, len(x)):
        differences = np.diff(differences) / (x[order:] - x[:-order])
    return 6.0 * float(differences[0]) if len(x) == 4 else 0.0


def _compile_natural_spline(description: Mapping[str, Any]) -> PiecewisePolynomial:
    """Natural spline of odd degree ``2 half_order - 1`` through its points; beyond them a polynomial of degree ``half_order - 1``."""
    from scipy.interpolate import make_interp_spline

    half, variance = int(description.get("half_order", 3)), float(description.get("error_variance", 0.0))
    if variance != 0.0:
        raise ValueError(f"error_variance is {variance:g}; only a spline through its points (0) can be represented")
    x, y = _points(description, 2 * half)
    ends = [(order, 0.0) for order in range(half, 2 * half - 1)]
    spline = make_interp_spline(x, y, k=2 * half - 1, bc_type=(ends, ends) if ends else None)
    return _with_ends(x, _pieces(x, spline), half - 1)


def _pieces(x: FloatArray, spline: Any) -> FloatArray:
    """Taylor coefficients ``(piece, power)`` of a spline at the start of each piece."""
    orders = range(spline.k + 1)
    derivatives: FloatArray = np.stack([spline(0.5 * (x[:-1] + x[1:]), nu) for nu in orders], axis=1)
    step = -0.5 * np.diff(x)
    out = np.zeros_like(derivatives)
    for order in orders:
        for higher in range(order, spline.k + 1):
            out[:, order] += derivatives[:, higher] * step ** (higher - order) / (math.factorial(higher - order) * math.factorial(order))
    return out


def _with_ends(x: FloatArray, pieces: FloatArray, degree: int) -> PiecewisePolynomial:
    """Put pieces between the points, both ends included, and, beyond them, the polynomials of ``degree`` that touch at the ends."""
    powers = pieces.shape[1]
    first = np.where(np.arange(powers) <= degree, pieces[0], 0.0)
    width = x[-1] - x[-2]
    last = np.zeros(powers)
    derivative = pieces[-1].copy()
    factorial = 1.0
    for order in range(degree + 1):
        last[order] = np.polyval(derivative[::-1], width) / factorial
        derivative = derivative[1:] * np.arange(1, len(derivative))
        factorial *= order + 1
    breaks = np.append(x[:-1], np.nextafter(x[-1], np.inf))
    return PiecewisePolynomial(breaks, np.concatenate([x[:1], x[:-1], x[-1:]]), np.vstack([first, pieces, last]))


_COMPILERS = {
    "Constant": lambda d: _polynomial([float(d["value"])]),
    "LinearFunction": _compile_linear,
    "PolynomialFunction": lambda d: _polynomial(list(reversed(d["coefficients"]))),
    "PiecewiseConstantFunction": _compile_steps,
    "PiecewiseLinearFunction": _compile_lines,
    "SimmSpline": _compile_simm_spline,
    "GCVSpline": _compile_natural_spline,
}


class FunctionTable:
    """Many functions, evaluated together.

    Parameters
    ----------
    functions
        One for each column.
    dtype, device
        Of the tensors.
    """

    def __init__(self, functions: Sequence[PiecewisePolynomial], dtype: torch.dtype, device: torch.device) -> None:
        curved = [i for i, f in enumerate(functions) if f.line is None]
        straight = [i for i in range(len(functions)) if i not in curved]
        order = np.argsort([*straight, *curved], kind="stable") if functions else np.zeros(0, int)
        lines = [functions[i].line for i in straight]
        self._straight, self._curved, self._order = (torch.as_tensor(np.asarray(a, int), device=device) for a in (straight, curved, order))
        self._constant, self._slope = torch.as_tensor(np.asarray(lines, float).reshape(-1, 2), dtype=dtype, device=device).unbind(-1)
        pieces = max((len(functions[i].origins) for i in curved), default=1)
        powers = max((functions[i].coefficients.shape[1] for i in curved), default=1)
        breaks, origins, coefficients = np.full((len(curved), pieces - 1), np.inf), np.zeros((len(curved), pieces)), np.zeros((len(curved), pieces, powers))
        for row, f in enumerate(functions[i] for i in curved):
            breaks[row, : len(f.breaks)], origins[row, : len(f.origins)] = f.breaks, f.origins
            coefficients[row, : len(f.origins), : f.coefficients.shape[1]] = f.coefficients
        self._breaks, self._origins, self._coefficients = (torch.as_tensor(a, dtype=dtype, device=device) for a in (breaks, origins, coefficients))
        self._rows = torch.arange(len(curved), device=device)

    def __call__(self, argument: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values and first and second derivatives, each ``(function, ...)``, at ``argument (function, ...)``."""
        frames = (-1, *(1 for _ in argument.shape[1:]))
        line = argument[self._straight]
        slopes = self._slope.reshape(frames)
        value, slope, curvature = self._constant.reshape(frames) + slopes * line, slopes.expand_as(line), torch.zeros_like(line)
        if len(self._rows):
            curved = self._evaluate_curved(argument[self._curved])
            value, slope, curvature = (torch.cat(pair) for pair in zip((value, slope, curvature), curved, strict=True))
        return value[self._order], slope[self._order], curvature[self._order]

    def _evaluate_curved(self, argument: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        flat = argument.reshape(len(self._rows), -1)
        piece = torch.searchsorted(self._breaks, flat.detach().contiguous(), right=True)
        step = flat - self._origins.gather(1, piece)
        value = slope = curvature = torch.zeros_like(step)
        for coefficients in reversed(self._coefficients.unbind(-1)):
            curvature = curvature * step + 2.0 * slope
            slope = slope * step + value
            value = value * step + coefficients.gather(1, piece)
        return value.reshape(argument.shape), slope.reshape(argument.shape), curvature.reshape(argument.shape)
