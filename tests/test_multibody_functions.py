"""Functions of coordinates against OpenSim's own, value, slope and curvature, inside and outside their points."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from imdy_plugin._opensim import import_opensim
from imdy_plugin.adapters.opensim_model import OpenSimModelAdapter
from imdy_plugin.errors import InputError
from imdy_plugin.solvers.multibody.functions import FunctionTable, PiecewisePolynomial, compile_function


def knots(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Points with all their digits, at uneven distances."""
    rng = np.random.default_rng(5 + count)
    return np.linspace(-1, 1, count) + 0.2 / count * rng.normal(size=count), rng.normal(size=count)


def through_points(kind: str, count: int) -> Any:
    function = getattr(import_opensim(), kind)()
    for x, y in zip(*knots(count), strict=True):
        function.addPoint(float(x), float(y))
    return function


def natural_spline(degree: int, count: int) -> Any:
    function = through_points("GCVSpline", count)
    function.setDegree(degree)
    return function


def multiplied(function: Any, factor: float) -> Any:
    product = import_opensim().MultiplierFunction(function, factor)
    function.thisown = False
    return product


def polynomial(*highest_first: float) -> Any:
    osim = import_opensim()
    return osim.PolynomialFunction(osim.Vector.createFromMat(np.array(highest_first)))


MAKERS: dict[str, Callable[[], Any]] = {
    "constant": lambda: import_opensim().Constant(1 / 3),
    "linear": lambda: import_opensim().LinearFunction(-2 / 3, 1 / 7),
    "polynomial": lambda: polynomial(0.3, -0.2, 0.5, 1 / 3),
    "quadratic": lambda: polynomial(1 / 3, 0.0, -0.1),
    **{f"spline of {n}": lambda n=n: through_points("SimmSpline", n) for n in (2, 3, 4, 5, 12)},
    **{f"lines of {n}": lambda n=n: through_points("PiecewiseLinearFunction", n) for n in (2, 3, 7)},
    **{f"steps of {n}": lambda n=n: through_points("PiecewiseConstantFunction", n) for n in (1, 2, 7)},
    **{f"natural {d} of {n}": lambda d=d, n=n: natural_spline(d, n) for d in (1, 3, 5, 7) for n in (d + 1, 12)},
    "spline times factor": lambda: multiplied(through_points("SimmSpline", 6), -2.5),
    "factor times factor": lambda: multiplied(multiplied(through_points("SimmSpline", 6), -2.5), 1 / 3),
    "lines times factor": lambda: multiplied(through_points("PiecewiseLinearFunction", 2), 1 / 3),
}


def described(function: Any) -> dict[str, Any]:
    """The function as the model adapter tells it when it moves a joint; the function dies with the model."""
    osim = import_opensim()
    model, body = osim.Model(), osim.Body("b", 1.0, osim.Vec3(0), osim.Inertia(1, 1, 1))
    model.addBody(body)
    transform, names = osim.SpatialTransform(), osim.ArrayStr()
    names.append("q")
    transform.updTransformAxis(3).setCoordinateNames(names)
    transform.updTransformAxis(3).setFunction(function)
    function.thisown = False
    zero = osim.Vec3(0)
    model.addJoint(osim.CustomJoint("j", model.getGround(), zero, zero, body, zero, zero, transform))
    model.finalizeConnections()
    dataset = OpenSimModelAdapter().load(model).dataset
    told: dict[str, Any] = json.loads(str(dataset["joint_transform"].values[0]))["translation1"]["function"]
    return told


def by_opensim(function: Any, at: np.ndarray) -> np.ndarray:
    """Values, slopes and curvatures ``(3, point)``."""
    osim = import_opensim()
    first, second = osim.StdVectorInt(), osim.StdVectorInt()
    for order, times in ((first, 1), (second, 2)):
        for _ in range(times):
            order.append(0)
    arguments = [osim.Vector(1, float(x)) for x in at]
    return np.array([[function.calcValue(x) for x in arguments], *([function.calcDerivative(order, x) for x in arguments] for order in (first, second))])


def evaluate(functions: list[PiecewisePolynomial], at: np.ndarray, dtype: torch.dtype = torch.float64) -> np.ndarray:
    """Values, slopes and curvatures ``(3, function, point)``."""
    table = FunctionTable(functions, dtype, torch.device("cpu"))
    return np.stack([part.numpy() for part in table(torch.as_tensor(at, dtype=dtype).expand(len(functions), -1))])


def places(count: int = 60) -> np.ndarray:
    """Where functions are compared: inside, outside on both sides, far away."""
    return np.concatenate([np.random.default_rng(1).uniform(-1.6, 1.6, count), [-4.0, 4.0]])


@pytest.mark.parametrize("name", MAKERS)
def test_functions_are_what_opensim_evaluates(name: str) -> None:
    expected = by_opensim(MAKERS[name](), places())
    found = evaluate([compile_function(described(MAKERS[name]()), name)], places())[:, 0]
    scale = np.abs(expected).max(axis=1, keepdims=True) + 1e-12
    assert (np.abs(found - expected) / scale).max() < 1e-9


@pytest.mark.parametrize("name", [n for n in MAKERS if n.startswith(("spline", "natural 3", "natural 5", "natural 7"))])
def test_the_first_and_the_last_point_belong_to_the_spline(name: str) -> None:
    """A coordinate on its bound moves as OpenSim moves it: with the curvature of the last piece, not of the line beyond."""
    told = described(MAKERS[name]())
    x = np.asarray((told if "x" in told else told["function"])["x"])
    for at in (x[:1], x[-1:]):
        expected = by_opensim(MAKERS[name](), at)
        assert np.abs(evaluate([compile_function(told, name)], at)[:, 0] - expected).max() < 1e-8 * (1 + np.abs(expected).max())


def test_the_comparison_can_fail() -> None:
    """The same points through another spline, or rounded to six digits, are told apart."""
    told = described(through_points("SimmSpline", 12))
    right = evaluate([compile_function(told, "")], places())
    for wrong in (told | {"type": "GCVSpline", "half_order": 2.0}, told | {"y": [float(f"{y:.6g}") for y in told["y"]]}):
        assert np.abs(evaluate([compile_function(wrong, "")], places()) - right).max() > 1e-7


def test_functions_evaluated_together_are_those_evaluated_alone() -> None:
    compiled = [compile_function(described(make()), name) for name, make in MAKERS.items()]
    together = evaluate(compiled, places())
    for row, function in enumerate(compiled):
        np.testing.assert_array_equal(together[:, row], evaluate([function], places())[:, 0])
    assert evaluate([], places()).shape == (3, 0, len(places()))
    assert evaluate(compiled, np.zeros(0)).shape == (3, len(compiled), 0)


def test_slope_and_curvature_are_the_gradients() -> None:
    compiled = [compile_function(described(make()), name) for name, make in MAKERS.items()]
    table = FunctionTable(compiled, torch.float64, torch.device("cpu"))
    at = torch.as_tensor(places()).repeat(len(compiled), 1).requires_grad_()
    value, slope, curvature = table(at)
    for of, expected in ((value, slope), (slope, curvature)):
        (gradient,) = torch.autograd.grad(of.sum(), at, retain_graph=True)
        np.testing.assert_allclose(gradient.detach(), expected.detach(), rtol=1e-9, atol=1e-9)


def test_nan_stays_where_it_is() -> None:
    compiled = [compile_function(described(make()), name) for name, make in MAKERS.items() if "steps" not in name]
    at = places()
    at[3] = np.nan
    found, whole = evaluate(compiled, at), evaluate(compiled, places())
    assert np.isnan(found[0, [f.constant is None for f in compiled], 3]).all()
    np.testing.assert_array_equal(np.delete(found, 3, axis=2), np.delete(whole, 3, axis=2))


def test_single_precision_is_near() -> None:
    compiled = compile_function(described(through_points("SimmSpline", 12)), "")
    double, single = evaluate([compiled], places()), evaluate([compiled], places(), torch.float32)
    assert single.dtype == np.float32
    assert np.abs(single[0] - double[0]).max() < 1e-4


def test_what_does_not_move_is_known() -> None:
    assert compile_function({"type": "Constant", "value": 0.3}, "").constant == 0.3
    assert compile_function({"type": "LinearFunction", "coefficients": [0.0, 0.3]}, "").constant == 0.3
    assert compile_function({"type": "MultiplierFunction", "scale": 2.0, "function": {"type": "Constant", "value": 0.3}}, "").constant == 0.6
    assert compile_function({"type": "LinearFunction", "coefficients": [1.0, 0.3]}, "").constant is None
    assert compile_function({"type": "PiecewiseConstantFunction", "x": [0.0, 1.0], "y": [1.0, 2.0]}, "").constant is None
    two = compile_function({"type": "SimmSpline", "x": [1.0, 3.0], "y": [5.0, 9.0]}, "")
    assert two.line == (3.0, 2.0) and compile_function({"type": "PolynomialFunction", "coefficients": [1.0, 0.0, 0.0]}, "").line is None


@pytest.mark.parametrize(
    ("description", "told"),
    [
        ({"type": "Sine", "amplitude": 1.0}, "elbow follows a Sine, which cannot be represented; known: Constant, LinearFunction"),
        ({"type": "StepFunction"}, "elbow follows a StepFunction"),
        ({"type": "MultiplierFunction", "scale": 2.0, "function": {"type": "FourierFunction"}}, "elbow follows a FourierFunction"),
        ({}, "elbow follows a missing function"),
        ({"type": "SimmSpline", "x": [0.0, 1.0, 1.0], "y": [0.0, 1.0, 2.0]}, "SimmSpline that is not lawful: its x do not increase"),
        ({"type": "PiecewiseLinearFunction", "x": [0.0, -1.0], "y": [0.0, 1.0]}, "its x do not increase"),
        ({"type": "SimmSpline", "x": [0.0, float("nan")], "y": [0.0, 1.0]}, "its x do not increase"),
        ({"type": "SimmSpline", "x": [0.0], "y": [0.0]}, "1 x and 1 y, needs 2 or more of both"),
        ({"type": "SimmSpline", "x": [0.0, 1.0], "y": [0.0]}, "2 x and 1 y"),
        ({"type": "GCVSpline", "half_order": 3, "x": [0.0, 1.0, 2.0], "y": [0.0] * 3}, "needs 6 or more"),
        ({"type": "GCVSpline", "half_order": 3, "error_variance": 0.1, "x": list(range(6)), "y": [0.0] * 6}, "error_variance is 0.1"),
        ({"type": "LinearFunction", "coefficients": [1.0, 2.0, 3.0]}, "LinearFunction that is not lawful"),
        ({"type": "PolynomialFunction", "coefficients": []}, "it has no coefficients"),
        ({"type": "Constant"}, "Constant that is not lawful: 'value'"),
    ],
)
def test_what_cannot_be_represented_is_refused_by_name(description: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        compile_function(description, "elbow")
