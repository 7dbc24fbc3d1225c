"""Batched mechanics: against OpenSim on every kind of joint and model, against finite differences, Lagrange's equations and energy."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

from imdy_plugin._opensim import import_opensim, strip_forces
from imdy_plugin.adapters.opensim_model import OpenSimModelAdapter
from imdy_plugin.errors import InputError, UnknownNameError
from imdy_plugin.solvers.body_load import BodyLoad
from imdy_plugin.solvers.multibody import Load, Multibody
from imdy_plugin.solvers.opensim_mechanics import OpenSimMechanics

PLACE = 1e-9
"""Largest difference from OpenSim of any body's or marker's position [m]."""

FORCE = 1e-8
"""Largest difference from OpenSim of a generalized force, by the largest that this coordinate carries."""

Motion = tuple[np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Tensors are small here; a second thread only waits for its turn where cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# Models -----------------------------------------------------------------------------------------------------------------------

Transform = dict[str, tuple[Sequence[str], Callable[[], Any]]]
"""Of a custom joint: for each axis that moves or is turned the names of its coordinates, and their function."""

LINES, STEPS, NATURAL = "PiecewiseLinearFunction", "PiecewiseConstantFunction", "GCVSpline"

AXES = ("rotation1", "rotation2", "rotation3", "translation1", "translation2", "translation3")


def vector(rng: np.random.Generator, size: float = 0.3) -> Any:
    return import_opensim().Vec3(*(float(x) for x in size * rng.normal(size=3)))


def heavy(rng: np.random.Generator, name: str) -> Any:
    """A body whose centre of mass and axes of inertia lie anywhere."""
    spread = np.eye(3) * 0.05 + (lambda a: a @ a.T)(0.2 * rng.normal(size=(3, 3)))
    inertia = np.trace(spread) * np.eye(3) - spread
    numbers = (inertia[i, j] for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)))
    return import_opensim().Body(name, float(rng.uniform(0.5, 4)), vector(rng), import_opensim().Inertia(*(float(x) for x in numbers)))


def spline(seed: int = 0, kind: str = "SimmSpline", points: int = 6) -> Any:
    rng, function = np.random.default_rng(seed), getattr(import_opensim(), kind)()
    if kind == NATURAL:
        function.setDegree(5)
    for x in np.linspace(-0.9, 0.9, points):
        function.addPoint(float(x), float(0.5 * rng.normal()))
    return function


def line(slope: float = 1.0, constant: float = 0.0) -> Any:
    return import_opensim().LinearFunction(slope, constant)


def plane(*coefficients: float) -> Any:
    """Linear function of several coordinates, its constant last."""
    array = import_opensim().ArrayDouble(0.0, len(coefficients))
    for i, value in enumerate(coefficients):
        array.set(i, value)
    return import_opensim().LinearFunction(array)


def times(factor: float, function: Any) -> Any:
    function.thisown = False
    return import_opensim().MultiplierFunction(function, factor)


def parabola() -> Any:
    osim = import_opensim()
    return osim.PolynomialFunction(osim.Vector.createFromMat(np.array([0.4, -0.7, 0.1])))


def custom(transform: Transform, seed: int = 3, oblique: bool = True) -> Callable[..., Any]:
    """Maker of a custom joint with axes of any length, at any angle to one another where they are ``oblique``."""

    def make(name: str, *ends: Any) -> Any:
        osim, rng = import_opensim(), np.random.default_rng(seed)
        spatial = osim.SpatialTransform()
        for group in (AXES[:3], AXES[3:]):
            frame = np.linalg.qr(rng.normal(size=(3, 3)))[0]
            for i, axis in enumerate(group):
                direction = (frame[:, i] + 0.2 * rng.normal(size=3)) * rng.uniform(0.3, 3) if oblique else frame[:, i]
                coordinates, function = transform.get(axis, ((), lambda: import_opensim().Constant(0.0)))
                _fill(getattr(spatial, f"upd_{axis}")(), coordinates, function(), osim.Vec3(*(float(x) for x in direction)))
        return osim.CustomJoint(name, *ends, spatial)

    return make


def _fill(axis: Any, coordinates: Sequence[str], function: Any, direction: Any) -> None:
    names = import_opensim().ArrayStr()
    for coordinate in coordinates:
        names.append(coordinate)
    axis.setCoordinateNames(names)
    axis.setFunction(function)
    function.thisown = False
    axis.setAxis(direction)


def simple(kind: str) -> Callable[..., Any]:
    return lambda *arguments: getattr(import_opensim(), kind)(*arguments)


KNEE: Transform = {
    "rotation1": (["bend"], line),
    "rotation2": (["bend"], lambda: spline(1)),
    "rotation3": (["bend"], lambda: times(0.7, spline(2))),
    "translation1": (["bend"], lambda: spline(3)),
    "translation2": (["bend"], lambda: spline(4, points=3)),
}
"""One coordinate drives three rotations, as in the knee of Rajagopal et al. (2016)."""

JOINTS: dict[str, Callable[..., Any]] = {
    **{kind: simple(f"{kind}Joint") for kind in ("Pin", "Slider", "Universal", "Gimbal", "Ball", "Planar", "Free", "Weld")},
    "custom of every axis": custom({axis: ([f"q{i}"], line) for i, axis in enumerate(AXES)}),
    "custom, axes in another order": custom({axis: ([name], line) for axis, name in zip(AXES, "cbafed", strict=True)}, oblique=False),
    "custom that only slides": custom({"translation3": (["a"], parabola), "translation1": (["b"], lambda: line(-0.5, 0.2))}),
    "custom that turns last": custom({"rotation3": (["a"], parabola)}),
    "custom, constant rotation last": custom({"rotation1": (["a"], line), "rotation3": ((), lambda: import_opensim().Constant(0.4))}),
    "custom, constant translation": custom({"rotation2": (["a"], line), "translation2": ((), lambda: import_opensim().Constant(-0.3))}),
    "two-point splines": custom({"rotation1": (["a"], lambda: spline(5, points=2)), "translation1": (["a"], lambda: spline(6, points=2))}),
    "three-point splines": custom({"rotation1": (["a"], lambda: spline(5, points=3)), "translation1": (["a"], lambda: spline(6, points=3))}),
    "many-point splines": custom({"rotation1": (["a"], lambda: spline(5, points=15)), "rotation2": (["b"], lambda: spline(6, points=15))}),
    "lines": custom({"rotation1": (["a"], lambda: spline(5, LINES)), "rotation2": (["b"], lambda: spline(6, LINES, 2))}),
    "steps": custom({"rotation1": (["a"], line), "translation2": (["a"], lambda: spline(6, STEPS))}),
    "natural splines": custom({"rotation1": (["a"], lambda: spline(5, NATURAL, 8)), "translation1": (["a"], lambda: times(2.0, spline(6, NATURAL, 8)))}),
    "factors of factors": custom({"rotation1": (["a"], lambda: times(0.5, times(-1 / 3, spline(5)))), "translation1": (["a"], lambda: times(1 / 3, line()))}),
    "translation of several": custom({"rotation1": (["a"], line), "rotation2": (["b"], line), "translation2": (["a", "b"], lambda: plane(0.3, -0.7, 0.1))}),
    "knee": custom(KNEE),
}


def chain(joint: Callable[..., Any], seed: int = 0, follow: bool = False) -> Any:
    """Three bodies: a free one, one on it by ``joint``, one on that by a pin; joint frames anywhere; markers on bodies, frames and ground."""
    osim, rng = import_opensim(), np.random.default_rng(seed)
    model, bodies = osim.Model(), [heavy(rng, name) for name in ("trunk", "arm", "hand")]
    for body in bodies:
        model.addBody(body)
    for make, name, parent, child in (
        (simple("FreeJoint"), "root", model.getGround(), bodies[0]),
        (joint, "joint", bodies[0], bodies[1]),
        (simple("PinJoint"), "wrist", bodies[1], bodies[2]),
    ):
        model.addJoint(make(name, parent, vector(rng), vector(rng), child, vector(rng), vector(rng)))
    frame = osim.PhysicalOffsetFrame("plate", bodies[2], osim.Transform(osim.Rotation(0.7, osim.CoordinateAxis(1)), vector(rng)))
    bodies[2].addComponent(frame)
    for name, owner in (("on_ground", model.getGround()), ("on_frame", frame), ("on_arm", bodies[1])):
        model.addMarker(osim.Marker(name, owner, vector(rng)))
    model.finalizeConnections()
    return model


def corners(marked: Any) -> Any:
    """Give the model markers at the origin of each body and along its axes, by which its pose is known, and take its forces off."""
    osim = import_opensim()
    strip_forces(marked)
    names = [marked.getBodySet().get(i).getName() for i in range(marked.getBodySet().getSize())]
    for name in names:
        for label, place in (("origin", (0, 0, 0)), ("x", (1, 0, 0)), ("y", (0, 1, 0))):
            marked.addMarker(osim.Marker(f"{name}_{label}", marked.getBodySet().get(name), osim.Vec3(*place)))
    marked.finalizeConnections()
    return marked


def dataset_of(native: Any) -> xr.Dataset:
    return OpenSimModelAdapter().load(native).dataset


def tensor(values: Any) -> Tensor:
    return torch.as_tensor(np.array(values), dtype=torch.float64)


# Motions ----------------------------------------------------------------------------------------------------------------------


def random_motion(model: xr.Dataset, frames: int, seed: int = 0) -> Motion:
    """Poses anywhere inside the coordinates' ranges, with velocities and accelerations as in a sprint."""
    rng = np.random.default_rng(seed)
    low, high = np.clip(model["coordinate_range"].values, -1.5, 1.5).T
    q = low + (high - low) * rng.random((frames, len(low)))
    return q, 5 * rng.normal(size=q.shape), 50 * rng.normal(size=q.shape)


def random_loads(bodies: Sequence[str], frames: int, seed: int = 1) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    chosen = [bodies[i] for i in rng.permutation(len(bodies))[:3]]
    return [(body, *(size * rng.normal(size=(frames, 3)) for size in (500, 1, 50))) for body in chosen]


def torch_loads(loads: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]]) -> list[Load]:
    return [Load(body, *(tensor(part) for part in parts)) for body, *parts in loads]


def smooth_motion(count: int, time: Tensor, seed: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates ``(time, coordinate)`` that swing about different poses, with their exact derivatives."""
    rng = np.random.default_rng(seed)
    middle, a, b = (tensor(0.25 * rng.normal(size=count)) for _ in range(3))
    s, c = torch.sin(3 * time)[:, None], torch.cos(5 * time)[:, None]
    ds, dc = 3 * torch.cos(3 * time)[:, None], -5 * torch.sin(5 * time)[:, None]
    return middle + a * s + b * c, a * ds + b * dc, -9 * a * s - 25 * b * c


def central(values: Callable[[Tensor], Tensor], step: float = 1e-4) -> Tensor:
    """Derivative by time of ``values(time)`` at time 0.3, of fourth order."""
    far, near, after, beyond = values(0.3 + step * tensor([-2.0, -1.0, 1.0, 2.0]))
    return (far - 8 * near + 8 * after - beyond) / (12 * step)


# Against OpenSim --------------------------------------------------------------------------------------------------------------


def force_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, each coordinate by the largest force that it carries."""
    scale = np.abs(expected).max(axis=0)
    return float((np.abs(found - expected).max(axis=0) / np.maximum(scale, 1e-6 * scale.max())).max(initial=0.0))


def one_rotation_a_coordinate(model: xr.Dataset) -> bool:
    """Whether no coordinate drives two rotations of one custom joint, so that OpenSim's own accelerations are exact."""
    for kind, text in zip(model["joint_type"].values, model["joint_transform"].values, strict=True):
        transform = json.loads(str(text))
        moving = [transform[a] for a in AXES[:3] if transform[a]["coordinates"] and transform[a]["function"]["type"] != "Constant"]
        drivers = [c for axis in moving for c in axis["coordinates"]]
        if kind == "CustomJoint" and (len(set(drivers)) < len(drivers) or len(drivers) > len(moving)):
            return False
    return True


def assert_like_opensim(native: Any, frames: int) -> None:
    """Positions of bodies and markers, and generalized forces under loads, in random poses."""
    marked = corners(native)
    model, mechanics = dataset_of(marked), OpenSimMechanics(marked)
    q, qd, qdd = random_motion(model, frames)
    loads = random_loads(mechanics.bodies, frames)
    exact, alike = Multibody(model), Multibody(model, simbody_rates=True)
    assert np.abs(exact.marker_positions(tensor(q)).numpy() - mechanics.marker_positions(q)).max() < PLACE

    def error(body: Multibody, speed: float, expected: np.ndarray) -> float:
        return force_error(body.inverse_dynamics(tensor(q), tensor(speed * qd), tensor(qdd), torch_loads(loads)).numpy(), expected)

    def by_opensim(speed: float) -> np.ndarray:
        return mechanics.inverse_dynamics(q, speed * qd, qdd, [BodyLoad(*load) for load in loads])

    moving = by_opensim(1.0)
    assert error(alike, 1.0, moving) < FORCE
    if one_rotation_a_coordinate(model):
        assert error(exact, 1.0, moving) < FORCE
    else:
        assert error(exact, 1.0, moving) > FORCE
        assert error(exact, 0.0, by_opensim(0.0)) < FORCE


def recorded_models() -> list[Any]:
    """Each .osim of the recordings; of those that differ in numbers of their path only, the first is run always, the others if slow tests are."""
    folder = os.environ.get("IMDY_DATA_DIR")
    if not folder:
        return [pytest.param("", marks=pytest.mark.skip(reason="IMDY_DATA_DIR is not set: this test needs the recordings"))]
    files = [str(f.relative_to(folder)) for f in sorted(Path(folder).rglob("*.osim"))]
    kinds = [re.sub(r"\d+", "#", f).replace("Adjusted", "") for f in files]
    return [pytest.param(f, marks=[pytest.mark.slow] if kinds.index(k) < i else [], id=f) for i, (f, k) in enumerate(zip(files, kinds, strict=True))]


@pytest.mark.parametrize("file", recorded_models())
def test_recorded_models_move_as_in_opensim(file: str, data_dir: Path) -> None:
    assert_like_opensim(import_opensim().Model(str(data_dir / file)), 200)


def test_the_generated_person_moves_as_in_opensim(native: Any) -> None:
    assert_like_opensim(native.clone(), 200)


@pytest.mark.parametrize("name", JOINTS)
def test_each_kind_of_joint_moves_as_in_opensim(name: str) -> None:
    assert_like_opensim(chain(JOINTS[name]), 200)


@pytest.mark.parametrize(("part", "factor"), [("body_inertia", 1.01), ("body_mass", 1.01), ("body_center_of_mass", 1.01)])
@pytest.mark.parametrize("body", ["hand_l", "femur_r"])
def test_one_hundredth_of_one_body_is_seen(part: str, factor: float, body: str, native: Any, mechanics: OpenSimMechanics) -> None:
    model = dataset_of(native)
    q, qd, qdd = random_motion(model, 20)
    expected = mechanics.inverse_dynamics(q, qd, qdd)
    exact = Multibody(model)
    assert force_error(exact.inverse_dynamics(tensor(q), tensor(qd), tensor(qdd)).numpy(), expected) < FORCE
    wrong = exact.replace(**{part: changed(exact, part, body, factor)})
    assert force_error(wrong.inverse_dynamics(tensor(q), tensor(qd), tensor(qdd)).numpy(), expected) > 1000 * FORCE


def changed(body: Multibody, part: str, name: str, factor: float) -> Tensor:
    values: Tensor = getattr(body, part).clone()
    values[body.bodies.index(name)] *= factor
    return values


def test_the_measure_is_opensims_own_inverse_dynamics_solver(native: Any, mechanics: OpenSimMechanics) -> None:
    """What everything here is held against, held against ``opensim.InverseDynamicsSolver`` with a force on a body."""
    osim, model = import_opensim(), native.clone()
    strip_forces(model)
    state = model.initSystem()
    q, qd, qdd = (part[0] for part in random_motion(dataset_of(native), 1))
    for name, value, speed in zip(mechanics.coordinates, q, qd, strict=True):
        coordinate = model.getCoordinateSet().get(name)
        coordinate.setValue(state, float(value), False)
        coordinate.setSpeedValue(state, float(speed))
    order = [mechanics.coordinates.index(str(model.getCoordinateNamesInMultibodyTreeOrder().getElt(i))) for i in range(len(q))]
    model.realizeVelocity(state)
    foot, force, point, moment = model.getBodySet().get("calcn_r"), np.array([50.0, 700.0, -30.0]), np.array([0.2, 0.1, -0.3]), np.array([5.0, -20.0, 9.0])
    about_origin = moment + np.cross(point - foot.getPositionInGround(state).to_numpy(), force)
    still = osim.SpatialVec(osim.Vec3(0), osim.Vec3(0))
    pushes, nothing = (osim.VectorOfSpatialVec(model.getBodySet().getSize() + 1, still) for _ in range(2))
    pushes.set(foot.getMobilizedBodyIndex(), osim.SpatialVec(osim.Vec3(*about_origin), osim.Vec3(*force)))
    none, udot, solver = osim.Vector(len(q), 0.0), osim.Vector.createFromMat(qdd[order]), osim.InverseDynamicsSolver(model)
    pushed, weightless = (solver.solve(state, udot, none, forces).to_numpy() for forces in (pushes, nothing))
    solved = solver.solve(state, udot).to_numpy() + pushed - weightless
    load = BodyLoad("calcn_r", force[None], point[None], moment[None])
    found = mechanics.inverse_dynamics(q[None], qd[None], qdd[None], [load])[0, order]
    np.testing.assert_allclose(found, solved, rtol=1e-10, atol=1e-9 * np.abs(solved).max())


@pytest.mark.parametrize("name", ["Ball", "Universal", "custom of every axis"])
def test_momentum_and_energy_are_opensims(name: str) -> None:
    marked = chain(JOINTS[name])
    model, mechanics = dataset_of(marked), OpenSimMechanics(marked)
    q, qd, qdd = random_motion(model, 5)
    exact = Multibody(model)
    for frame, _ in mechanics._frames(q, qd, qdd):
        pose, rate = tensor(q[frame]), tensor(qd[frame])
        assert float(exact.kinetic_energy(pose, rate)) == pytest.approx(mechanics.native.calcKineticEnergy(mechanics._state), rel=1e-12)
        spatial = mechanics.native.getMatterSubsystem().calcSystemCentralMomentum(mechanics._state)
        linear, angular = exact.momentum(pose, rate)
        np.testing.assert_allclose(angular, spatial.get(0).to_numpy(), rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(linear, spatial.get(1).to_numpy(), rtol=1e-10, atol=1e-10)


# What OpenSim's engine gets wrong ---------------------------------------------------------------------------------------------


def hand_path(mechanics: OpenSimMechanics, time: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Position, velocity and acceleration ``(time, 3)`` of the hand by OpenSim, in a smooth motion."""
    motion = [part.numpy() for part in smooth_motion(len(mechanics.coordinates), time)]
    position, velocity, acceleration = mechanics.point_kinematics(*motion, "hand", [[0.1, 0.2, 0.3]])
    return position[:, 0], velocity[:, 0], acceleration[:, 0]


def hand_of(body: Multibody, time: Tensor) -> tuple[Tensor, Tensor]:
    """Velocity and acceleration ``(time, 3)`` of the same point by ours."""
    state = body.kinematics(*smooth_motion(len(body.coordinates), time))
    place = body.index("body", ["hand"]), body.tensor([[0.1, 0.2, 0.3]])
    return state.point_velocities(*place)[:, 0], state.point_accelerations(*place)[:, 0]


def test_accelerations_of_a_knee_are_exact_where_opensims_are_not() -> None:
    """One coordinate that drives several rotations: ours are the derivatives of OpenSim's own velocities; OpenSim's are not."""
    native = chain(JOINTS["knee"])
    model, mechanics, now = dataset_of(native), OpenSimMechanics(native), tensor([0.3])
    assert not one_rotation_a_coordinate(model)
    derivative = central(lambda time: tensor(hand_path(mechanics, time)[1]))
    velocity, acceleration = hand_of(Multibody(model), now)
    np.testing.assert_allclose(velocity, hand_path(mechanics, now)[1], atol=1e-10)
    np.testing.assert_allclose(acceleration[0], derivative, atol=1e-7)
    by_opensim = hand_path(mechanics, now)[2][0]
    assert np.abs(by_opensim - derivative.numpy()).max() > 0.01
    np.testing.assert_allclose(hand_of(Multibody(model, simbody_rates=True), now)[1][0], by_opensim, atol=1e-9)


def test_the_knee_does_work_as_opensims_does_not() -> None:
    """Work of OpenSim's generalized forces does not close the energy of its own bodies; that of ours does."""
    native = chain(JOINTS["knee"])
    model, mechanics = dataset_of(native), OpenSimMechanics(native)
    exact, count = Multibody(model), len(mechanics.coordinates)
    q, qd, qdd = smooth_motion(count, tensor([0.3]))
    power = central(lambda time: exact.kinetic_energy(*smooth_motion(count, time)[:2]) + exact.potential_energy(smooth_motion(count, time)[0]))
    assert float((exact.inverse_dynamics(q, qd, qdd) * qd).sum()) == pytest.approx(float(power), abs=1e-6)
    by_opensim = mechanics.inverse_dynamics(q.numpy(), qd.numpy(), qdd.numpy())
    assert abs(float((tensor(by_opensim) * qd).sum() - power)) > 1e-3


def test_velocities_after_a_constant_rotation_are_exact_where_opensims_are_not() -> None:
    """OpenSim leaves a constant rotation out of the axes that come after it; its velocities are then not those of its positions."""
    native = chain(custom({"rotation1": ((), lambda: import_opensim().Constant(0.5)), "rotation2": (["a"], line)}))
    model, mechanics, now = dataset_of(native), OpenSimMechanics(native), tensor([0.3])
    derivative = central(lambda time: tensor(hand_path(mechanics, time)[0]))
    np.testing.assert_allclose(hand_of(Multibody(model), now)[0][0], derivative, atol=1e-8)
    assert np.abs(hand_path(mechanics, now)[1][0] - derivative.numpy()).max() > 0.01


def test_opensims_rates_are_not_imitated_where_they_are_unknown() -> None:
    native = chain(custom({"rotation1": (["a"], line), "rotation2": (["a", "b"], lambda: plane(0.5, 1.0, 0.0))}))
    with pytest.raises(InputError, match="several coordinates"):
        Multibody(dataset_of(native), simbody_rates=True)


# Against calculus -------------------------------------------------------------------------------------------------------------

TANGLE: Transform = {
    "rotation1": (["a"], line),
    "rotation2": (["a", "b"], lambda: plane(0.5, -1.2, 0.1)),
    "rotation3": (["a"], lambda: spline(1)),
    "translation1": (["c"], parabola),
    "translation2": (["a"], lambda: spline(3)),
    "translation3": (["b", "c"], lambda: plane(0.2, 0.3, 0.1)),
}


@pytest.fixture(scope="module", params=["person", "tangle", "knee"])
def body(request: pytest.FixtureRequest, native: Any) -> Multibody:
    """Three models: a whole person, a joint in which everything drives everything, a knee."""
    made = {"person": lambda: native, "tangle": lambda: chain(custom(TANGLE)), "knee": lambda: chain(JOINTS["knee"])}
    return Multibody(dataset_of(made[request.param]()))


@pytest.fixture(scope="module")
def moving(body: Multibody) -> tuple[Tensor, Tensor, Tensor]:
    return smooth_motion(len(body.coordinates), torch.linspace(0, 1, 5, dtype=torch.float64))


def test_jacobians_are_the_derivatives(body: Multibody, moving: tuple[Tensor, ...]) -> None:
    q, name, points = moving[0], body.bodies[-1], tensor([[0.1, 0.2, 0.3], [-0.3, 0.0, 0.1]])
    states = body.index("body", [name, name])
    steps = 1e-5 * torch.eye(q.shape[-1], dtype=torch.float64)
    for place, jacobian in (
        (body.marker_positions, body.marker_jacobian(q)),
        (lambda at: body.kinematics(at).points(states, points), body.point_jacobian(q, name, points)),
    ):
        difference = (place(q[:, None] + steps) - place(q[:, None] - steps)) / 2e-5
        assert (difference.permute(0, 2, 3, 1) - jacobian).abs().max() < 1e-8
        assert (difference.permute(0, 2, 3, 1) - 1.001 * jacobian).abs().max() > 1e-4


def test_markers_of_chosen_names_come_in_that_order(body: Multibody, moving: tuple[Tensor, ...]) -> None:
    names = [body.markers[2], body.markers[0]]
    torch.testing.assert_close(body.marker_positions(moving[0], names), body.marker_positions(moving[0])[:, [2, 0]], rtol=0, atol=1e-15)
    torch.testing.assert_close(body.marker_jacobian(moving[0], names), body.marker_jacobian(moving[0])[:, [2, 0]], rtol=0, atol=1e-15)


def test_velocities_and_accelerations_are_the_derivatives(body: Multibody) -> None:
    def at(time: Tensor) -> tuple[Tensor, ...]:
        return smooth_motion(len(body.coordinates), time)

    every, place = body.index("body", body.bodies), body.body_center_of_mass + 0.1
    now = body.kinematics(*at(tensor([0.3])))
    velocity, acceleration = now.point_velocities(every, place)[0], now.point_accelerations(every, place)[0]
    assert (central(lambda t: body.kinematics(at(t)[0]).points(every, place)) - velocity).abs().max() < 1e-8
    assert (central(lambda t: body.kinematics(*at(t)[:2]).point_velocities(every, place)) - acceleration).abs().max() < 1e-7
    assert acceleration.abs().max() > 1
    _, velocity, acceleration = body.center_of_mass(*at(tensor([0.3])))
    assert (central(lambda t: body.center_of_mass(at(t)[0])[0]) - velocity[0]).abs().max() < 1e-8
    assert (central(lambda t: body.center_of_mass(*at(t)[:2])[1]) - acceleration[0]).abs().max() < 1e-7


@pytest.mark.parametrize("about", ["center of mass", "fixed point"])
def test_forces_and_moments_are_the_rates_of_momentum(body: Multibody, about: str) -> None:
    def at(time: Tensor) -> tuple[Tensor, ...]:
        return smooth_motion(len(body.coordinates), time)

    point = None if about == "center of mass" else tensor([0.3, -0.2, 0.5])
    rates = body.momentum_rate(*at(tensor([0.3])), point)
    for part, rate in enumerate(rates):
        difference = central(lambda t, part=part: body.momentum(*at(t)[:2], point)[part])
        assert (difference - rate[0]).abs().max() < 1e-7 * (1 + rate.abs().max())
        wrong = body.replace(body_inertia=1.01 * body.body_inertia, body_mass=1.01 * body.body_mass)
        assert (difference - wrong.momentum_rate(*at(tensor([0.3])), point)[part][0]).abs().max() > 1e-5 * (1 + rate.abs().max())
    linear, _ = body.momentum(*at(tensor([0.3]))[:2])
    torch.testing.assert_close(linear, body.mass * body.center_of_mass(*at(tensor([0.3]))[:2])[1], rtol=1e-10, atol=1e-10)


def test_the_mass_matrix_is_that_of_inverse_dynamics(body: Multibody, moving: tuple[Tensor, ...]) -> None:
    q, qd, _ = moving
    matrix, still = body.mass_matrix(q), torch.zeros_like(q)
    unit = torch.eye(q.shape[-1], dtype=torch.float64)[:, None].expand(-1, len(q), -1)
    everywhere = q.expand_as(unit)
    columns = body.inverse_dynamics(everywhere, 0 * everywhere, unit) - body.inverse_dynamics(q, still, still)
    assert (columns.permute(1, 2, 0) - matrix).abs().max() < 1e-9
    assert (columns.permute(1, 2, 0) - body.replace(body_mass=changed(body, "body_mass", body.bodies[-1], 1.01)).mass_matrix(q)).abs().max() > 1e-6
    assert (matrix - matrix.mT).abs().max() < 1e-12
    assert (torch.linalg.eigvalsh(matrix) > 0).all()
    energy = 0.5 * (qd * (matrix @ qd[..., None])[..., 0]).sum(dim=-1)
    torch.testing.assert_close(body.kinetic_energy(q, qd), energy, rtol=1e-10, atol=1e-10)


def test_equations_of_motion_are_linear_in_accelerations(body: Multibody, moving: tuple[Tensor, ...]) -> None:
    q, qd, qdd = moving
    whole = (body.mass_matrix(q) @ qdd[..., None])[..., 0] + body.bias_force(q, qd)
    assert force_error(whole.numpy(), body.inverse_dynamics(q, qd, qdd).numpy()) < 1e-9


def lagrange(body: Multibody, q: Tensor, qd: Tensor, qdd: Tensor) -> Tensor:
    """Generalized forces of one frame from nothing but the energies: ``d/dt dT/dqd - dT/dq + dV/dq`` by automatic differentiation."""

    def momenta(q: Tensor, qd: Tensor) -> Tensor:
        return torch.func.grad(lambda rate: body.kinetic_energy(q, rate))(qd)

    _, rate = torch.func.jvp(momenta, (q, qd), (qd, qdd))
    return rate - torch.func.grad(lambda pose: body.kinetic_energy(pose, qd) - body.potential_energy(pose))(q)


def test_inverse_dynamics_is_lagranges_equations(body: Multibody, moving: tuple[Tensor, ...]) -> None:
    expected = torch.stack([lagrange(body, *frame) for frame in zip(*moving, strict=True)]).numpy()
    assert force_error(body.inverse_dynamics(*moving).numpy(), expected) < 1e-9
    for part in ("body_inertia", "body_mass", "body_center_of_mass"):
        wrong = body.replace(**{part: changed(body, part, body.bodies[-1], 1.01)})
        assert force_error(wrong.inverse_dynamics(*moving).numpy(), expected) > 1e-5


def test_power_of_all_forces_is_the_rate_of_energy(body: Multibody) -> None:
    def at(time: Tensor) -> tuple[Tensor, ...]:
        return smooth_motion(len(body.coordinates), time)

    q, qd, qdd = now = at(tensor([0.3]))
    loads = torch_loads(random_loads(body.bodies, 1))
    state, outer = body.kinematics(*now), 0.0
    for load in loads:
        index, turned = body.index("body", [load.body]), state.rotation[0, body.bodies.index(load.body)]
        place = (turned.mT @ (load.point[0] - state.position[0, body.bodies.index(load.body)]))[None]
        moved = state.point_velocities(index.expand(4), torch.cat([place, place + turned]))[0]
        spin = 0.5 * torch.linalg.cross(torch.eye(3, dtype=torch.float64), moved[1:] - moved[0]).sum(dim=0)
        outer = outer + load.force[0] @ moved[0] + load.moment[0] @ spin
    rate = float(central(lambda t: body.kinetic_energy(*at(t)[:2]) + body.potential_energy(at(t)[0])))

    def power(model: Multibody) -> float:
        return float((model.inverse_dynamics(q, qd, qdd, loads) * qd).sum() + outer)

    scale, heaviest = abs(rate) + abs(float(outer)), body.bodies[int(body.body_mass.argmax())]
    assert power(body) == pytest.approx(rate, abs=1e-8 * scale)
    for part in ("body_inertia", "body_mass", "body_center_of_mass"):
        assert abs(power(body.replace(**{part: changed(body, part, heaviest, 1.01)})) - rate) > 1e-7 * scale


def test_the_root_carries_what_the_ground_does_not(native: Any) -> None:
    body, root = Multibody(dataset_of(native)), dataset_of(native).attrs["root_coordinates"]
    q, qd, qdd = smooth_motion(len(body.coordinates), torch.linspace(0, 1, 5, dtype=torch.float64))
    wrench = body.ground_wrench(q, qd, qdd)
    held = body.root_wrench(q, body.inverse_dynamics(q, qd, qdd), root)
    origin = body.kinematics(q).position[:, body.bodies.index("pelvis")]
    moment = held[:, 3:] + torch.linalg.cross(origin, held[:, :3])
    torch.testing.assert_close(torch.cat([held[:, :3], moment], dim=-1), wrench, rtol=1e-9, atol=1e-9)
    load = Load("calcn_r", wrench[:, :3], torch.zeros(5, 3, dtype=torch.float64), wrench[:, 3:])
    columns = body.index("coordinate", root)
    assert body.inverse_dynamics(q, qd, qdd, [load])[:, columns].abs().max() < 1e-9
    away = Load("calcn_r", load.force, load.point + 0.01, load.moment)
    assert body.inverse_dynamics(q, qd, qdd, [away])[:, columns].abs().max() > 1


# Gradients --------------------------------------------------------------------------------------------------------------------

PARAMETERS = ("body_mass", "body_inertia", "body_center_of_mass", "joint_parent_location", "joint_child_location", "gravity")


def forces_by_everything(body: Multibody) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """Inverse dynamics as a function of motion and parameters, and their values."""
    loads = torch_loads(random_loads(body.bodies, 2))

    def forces(q: Tensor, qd: Tensor, qdd: Tensor, *parameters: Tensor) -> Tensor:
        return body.replace(**dict(zip(PARAMETERS, parameters, strict=True))).inverse_dynamics(q, qd, qdd, loads)

    inputs = [*smooth_motion(len(body.coordinates), tensor([0.1, 0.4])), *(getattr(body, name) for name in PARAMETERS)]
    return forces, [value.clone().requires_grad_() for value in inputs]


def test_gradients_of_inverse_dynamics(body: Multibody) -> None:
    whole = len(body.bodies) > 3
    assert torch.autograd.gradcheck(*forces_by_everything(body), eps=1e-5, atol=1e-3 if whole else 1e-5, rtol=1e-5, fast_mode=whole)


def test_gradients_of_markers(body: Multibody, moving: tuple[Tensor, ...]) -> None:
    def places(q: Tensor, marker: Tensor, joint: Tensor) -> Tensor:
        return body.replace(marker_location=marker, joint_parent_location=joint).marker_positions(q, body.markers[:5])

    inputs = [v.clone().requires_grad_() for v in (moving[0][:1], body.marker_location, body.joint_parent_location)]
    assert torch.autograd.gradcheck(places, inputs, eps=1e-5, atol=1e-7, fast_mode=len(body.bodies) > 3)


@pytest.mark.parametrize("joint", [custom(TANGLE), JOINTS["knee"]], ids=["tangle", "knee"])
def test_gradients_of_gradients(joint: Callable[..., Any]) -> None:
    forces, inputs = forces_by_everything(Multibody(dataset_of(chain(joint))))
    assert torch.autograd.gradgradcheck(forces, inputs, eps=1e-5, atol=1e-3, rtol=1e-4, fast_mode=True)


def test_the_check_of_gradients_can_fail() -> None:
    forces, inputs = forces_by_everything(Multibody(dataset_of(chain(custom(TANGLE)))))
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(lambda q, *rest: forces(q.detach(), *rest) + 0 * q, inputs, eps=1e-5, fast_mode=True)


def test_replacing_leaves_the_model_as_it_was(body: Multibody, moving: tuple[Tensor, ...]) -> None:
    before = body.inverse_dynamics(*moving)
    other = body.replace(body_mass=2 * body.body_mass, body_inertia=2 * body.body_inertia)
    torch.testing.assert_close(other.inverse_dynamics(*moving), 2 * before, rtol=1e-9, atol=1e-9)
    assert torch.equal(body.inverse_dynamics(*moving), before)
    with pytest.raises(UnknownNameError, match=r"'body_masses'.*nearest: body_mass"):
        body.replace(body_masses=body.body_mass)
    with pytest.raises(InputError, match=r"body_mass has shape \(1,\), must be"):
        body.replace(body_mass=body.body_mass[:1])


# Couplings --------------------------------------------------------------------------------------------------------------------


def coupled(function: Callable[[], Any], leaders: Sequence[str], scale: float = 1.0) -> Any:
    """A chain whose wrist follows other coordinates."""
    osim, model = import_opensim(), chain(JOINTS["Universal"])
    coupler, names = osim.CoordinateCouplerConstraint(), osim.ArrayStr()
    for leader in leaders:
        names.append(leader)
    coupler.setIndependentCoordinateNames(names)
    coupler.setDependentCoordinateName("wrist_coord_0")
    coupler.setFunction(function())
    osim.PropertyHelper.setValueDouble(scale, coupler.updPropertyByName("scale_factor"))
    model.addConstraint(coupler)
    model.finalizeConnections()
    return model


@pytest.mark.parametrize(
    ("function", "leaders", "scale"),
    [
        (lambda: spline(7), ["joint_coord_0"], 1.0),
        (lambda: line(-0.5, 0.1), ["joint_coord_1"], 1.0),
        (lambda: plane(0.3, -0.7, 0.1), ["joint_coord_0", "joint_coord_1"], 1.0),
        (lambda: spline(7), ["joint_coord_0"], -0.5),
    ],
)
def test_followers_are_where_opensim_assembles_them(function: Callable[[], Any], leaders: Sequence[str], scale: float) -> None:
    native = coupled(function, leaders, scale)
    body = Multibody(dataset_of(native))
    follower = body.coordinates.index("wrist_coord_0")
    assert body.followers == {follower: tuple(body.coordinates.index(name) for name in leaders)}
    state = native.initSystem()
    for pose in random_motion(dataset_of(native), 5)[0]:
        for name, value in zip(body.coordinates, pose, strict=True):
            if name != "wrist_coord_0":
                native.getCoordinateSet().get(name).setValue(state, float(value), False)
        native.assemble(state)
        assembled = np.array([native.getCoordinateSet().get(name).getValue(state) for name in body.coordinates])
        np.testing.assert_allclose(body.couple(tensor(assembled))[follower], assembled[follower], atol=1e-7)
    assert abs(float(body.couple(tensor(assembled + 0.1))[follower]) - assembled[follower]) > 1e-3


def test_slopes_of_followers_are_gradients() -> None:
    body = Multibody(dataset_of(coupled(lambda: plane(0.3, -0.7, 0.1), ["joint_coord_0", "joint_coord_1"], 2.0)))
    q = tensor(random_motion(dataset_of(coupled(lambda: line(), ["joint_coord_0"])), 4)[0])
    jacobian = torch.func.vmap(torch.func.jacrev(body.couple))(q)
    for follower, leader, slope in body.coupling_slopes(q):
        torch.testing.assert_close(slope, jacobian[:, follower, leader])
    assert torch.equal(jacobian[:, follower, follower], torch.zeros(4, dtype=torch.float64))


# Refusals ---------------------------------------------------------------------------------------------------------------------


def with_joint(make: Callable[..., Any]) -> Callable[[], xr.Dataset]:
    return lambda: dataset_of(chain(make))


def with_sine() -> xr.Dataset:
    return dataset_of(chain(custom({"rotation1": (["a"], lambda: import_opensim().Sine(1.0, 1.0, 0.0))})))


def with_curved_surface() -> xr.Dataset:
    def surface() -> Any:
        osim = import_opensim()
        return osim.MultivariatePolynomialFunction(osim.Vector.createFromMat(np.array([1.0, 2.0, 3.0])), 2, 1)

    return dataset_of(chain(custom({"rotation1": (["a"], line), "rotation2": (["b"], line), "translation1": (["a", "b"], surface)})))


def with_loop() -> xr.Dataset:
    osim, model = import_opensim(), chain(JOINTS["Ball"])
    model.addJoint(osim.PinJoint("closing", model.getGround(), model.getBodySet().get("hand")))
    model.finalizeConnections()
    return dataset_of(model)


def edited(variable: str, values: Callable[[np.ndarray], Any], joint: str = "Ball") -> Callable[[], xr.Dataset]:
    def make() -> xr.Dataset:
        model = dataset_of(chain(JOINTS[joint]))
        return model.assign({variable: (model[variable].dims, np.asarray(values(model[variable].values.copy())), model[variable].attrs)})

    return make


def transform_edited(change: Callable[[dict[str, Any]], Any], joint: str = "Universal") -> Callable[[], xr.Dataset]:
    def edit(texts: np.ndarray) -> list[str]:
        transform = json.loads(str(texts[1]))
        change(transform)
        return [str(texts[0]), json.dumps(transform), str(texts[2])]

    return edited("joint_transform", edit, joint)


def circle(texts: np.ndarray) -> list[str]:
    def follow(leader: str) -> str:
        return json.dumps({"coordinates": [leader], "function": {"type": "LinearFunction", "coefficients": [1.0, 0.0]}, "scale": 1.0})

    return [*("" for _ in texts[:-2]), follow("wrist_coord_0"), follow("joint_coord_2")]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (edited("coordinate_prescribed", lambda v: [True, *v[1:]]), "coordinate.s. root_coord_0 follow prescribed functions of time.*clear 'prescribed'"),
        (with_joint(lambda n, *e: import_opensim().EllipsoidJoint(n, *e, import_opensim().Vec3(1, 2, 3))), "joint 'joint' is a EllipsoidJoint"),
        (with_joint(lambda n, *e: import_opensim().ScapulothoracicJoint(n, *e, import_opensim().Vec3(1), import_opensim().Vec2(0), 0.1)), "Scapulothoracic"),
        (with_sine, "rotation1 of joint 'joint' follows a Sine, which cannot be represented; known: Constant"),
        (with_curved_surface, r"translation1 of joint 'joint' follows a MultivariatePolynomialFunction of 2 coordinates \(a, b\).*a LinearFunction can"),
        (with_loop, "body 'hand' is the child of joint 'wrist' and of joint 'closing': a closed loop"),
        (edited("joint_parent", lambda v: ["hand", v[1], v[2]]), "body 'trunk' does not hang on ground: its joints form a closed loop"),
        (edited("joint_child", lambda v: ["ground", *v[1:]]), "joint 'root' has ground as its child"),
        (transform_edited(lambda t: t["rotation1"].update(axis=[0.0, 0.0, 0.0])), "rotation1 of joint 'joint' has the axis .*no direction"),
        (transform_edited(lambda t: t["rotation1"].update(coordinates=["wrist_coord_0"])), "rotation1 of joint 'joint' follows 'wrist_coord_0'"),
        (transform_edited(lambda t: t["rotation3"].update(function={"type": "LinearFunction", "coefficients": [1.0, 0.0]})), "LinearFunction of no coordinate"),
        (transform_edited(lambda t: t["rotation1"].update(function={"type": "SimmSpline", "x": [0.0, 0.0], "y": [1.0, 2.0]})), "x do not increase"),
        (transform_edited(lambda t: t["rotation1"].update(coordinates=["joint_coord_0"] * 2)), r"names a coordinate twice \(joint_coord_0, joint_coord_0"),
        (edited("coordinate_coupling", circle), "joint_coord_2, wrist_coord_0 follow one another in a circle"),
    ],
)
def test_what_cannot_be_represented_is_refused_by_name(make: Callable[[], xr.Dataset], told: str) -> None:
    model = make()
    with pytest.raises(InputError, match=told):
        Multibody(model)


def test_a_body_without_a_joint_is_refused() -> None:
    model = dataset_of(chain(JOINTS["Ball"]))
    with pytest.raises(InputError, match="hand are no joint's child"):
        Multibody(model.isel(joint=[0, 1], coordinate=slice(0, 9)))


def test_names_and_shapes_that_do_not_fit_are_refused(body: Multibody, moving: tuple[Tensor, ...]) -> None:
    q, qd, qdd = moving
    nothing = torch.zeros(5, 3, dtype=torch.float64)
    with pytest.raises(UnknownNameError, match="body 'nose'"):
        body.inverse_dynamics(q, qd, qdd, [Load("nose", nothing, nothing, nothing)])
    with pytest.raises(UnknownNameError, match="marker 'nose'"):
        body.marker_positions(q, ["nose"])
    with pytest.raises(InputError, match=f"have {q.shape[-1] - 1} columns, must have {q.shape[-1]}"):
        body.marker_positions(q[:, 1:])
    with pytest.raises(InputError, match=r"does not fit coordinates with the leading dimensions \(5,\)"):
        body.inverse_dynamics(q, qd[:4], qdd)
    with pytest.raises(InputError, match=r"leading dimensions \(2, 5\)"):
        body.inverse_dynamics(q.expand(2, 5, -1), qd.expand(2, 5, -1).reshape(5, 2, -1), qdd)


def test_rates_that_were_not_given_are_asked_for(body: Multibody, moving: tuple[Tensor, ...]) -> None:
    place = body.index("body", body.bodies[:1]), body.body_center_of_mass[:1]
    with pytest.raises(InputError, match=r"velocities are not known: give kinematics the coordinates' rates$"):
        body.kinematics(moving[0]).point_velocities(*place)
    with pytest.raises(InputError, match=r"accelerations are not known: give .* and their derivatives"):
        body.kinematics(*moving[:2]).point_accelerations(*place)


# Frames -----------------------------------------------------------------------------------------------------------------------


def everything(body: Multibody, q: Tensor, qd: Tensor, qdd: Tensor) -> list[Tensor]:
    """All that is computed of frames."""
    load = Load(body.bodies[-1], q.new_tensor([1.0, 2.0, 3.0]), q.new_tensor([0.1, 0.2, 0.3]), q.new_tensor([4.0, 5.0, 6.0]))
    state = body.kinematics(q, qd, qdd)
    wrench = body.root_wrench(q, body.inverse_dynamics(q, qd, qdd), body.coordinates[:6])
    return [
        *(state.rotation, state.position, wrench, body.inverse_dynamics(q, qd, qdd, [load]), body.ground_wrench(q, qd, qdd)),
        *(*body.momentum(q, qd), *body.momentum_rate(q, qd, qdd), *body.center_of_mass(q, qd, qdd)),
        *(body.mass_matrix(q), body.bias_force(q, qd), body.kinetic_energy(q, qd), body.potential_energy(q)),
        *(body.marker_positions(q), body.marker_jacobian(q), body.point_jacobian(q, body.bodies[0], q.new_ones(2, 3)), body.couple(q)),
    ]


def test_any_leading_dimensions(body: Multibody, moving: tuple[Tensor, ...]) -> None:
    whole = everything(body, *moving)
    trials = everything(body, *(torch.stack([part, part.flip(0), part, part])[:, None] for part in moving))
    single = everything(body, *(part[2] for part in moving))
    for one, many, alone in zip(whole, trials, single, strict=True):
        assert many.shape == (4, 1, *one.shape)
        torch.testing.assert_close(many[3, 0], one, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(many[1, 0], one.flip(0), rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(alone, one[2], rtol=1e-11, atol=1e-11)


def test_no_frames_at_all(body: Multibody, moving: tuple[Tensor, ...]) -> None:
    for one, none in zip(everything(body, *moving), everything(body, *(part[:0] for part in moving)), strict=True):
        assert none.shape == (0, *one.shape[1:])


def test_frames_with_nan_come_out_nan_and_leave_the_others_alone(body: Multibody, moving: tuple[Tensor, ...]) -> None:
    q, qd, qdd = (part.clone() for part in moving)
    q[2] = torch.nan
    whole = everything(body, *moving)
    for found, expected in zip(everything(body, q, qd, qdd), whole, strict=True):
        assert found[2].isnan().any()
        keep = [0, 1, 3, 4]
        torch.testing.assert_close(found[keep], expected[keep], rtol=1e-12, atol=1e-12)
    qdd[1, 0] = torch.nan
    forces = body.inverse_dynamics(moving[0], qd, qdd)
    assert forces[1].isnan().any() and not forces[[0, 2, 3, 4]].isnan().any()


def test_markers_on_ground_stay(moving: tuple[Tensor, ...]) -> None:
    body = Multibody(dataset_of(chain(JOINTS["Ball"])))
    q = tensor(random_motion(dataset_of(chain(JOINTS["Ball"])), 3)[0])
    index = body.markers.index("on_ground")
    assert torch.equal(body.marker_positions(q)[:, index], body.marker_location[index].expand(3, 3))
    assert not body.marker_jacobian(q)[:, index].any() and body.marker_jacobian(q)[:, index - 1].any()


@pytest.mark.parametrize("body", ["person"], indirect=True)
def test_single_precision(body: Multibody, native: Any, moving: tuple[Tensor, ...]) -> None:
    """Positions to 2e-6 m and generalized forces to 1e-4 of their scale."""
    single = Multibody(dataset_of(native), dtype=torch.float32)
    motion = [part.to(torch.float32) for part in moving]
    assert single.inverse_dynamics(*motion).dtype == torch.float32
    assert (single.marker_positions(motion[0]) - body.marker_positions(moving[0])).abs().max() < 2e-6
    assert force_error(single.inverse_dynamics(*motion).numpy(), body.inverse_dynamics(*moving).numpy()) < 1e-4


def test_whole_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="which would cut masses and lengths"):
        Multibody(dataset_of(chain(JOINTS["Ball"])), dtype=torch.int32)


@pytest.mark.parametrize("body", ["person"], indirect=True)
def test_everything_stays_on_its_device(body: Multibody, native: Any, moving: tuple[Tensor, ...]) -> None:
    """On a device without storage; any tensor left on the processor would be refused."""
    elsewhere = Multibody(dataset_of(native), device="meta")
    outputs = everything(elsewhere, *(part.to("meta") for part in moving))
    assert all(o.device.type == "meta" for o in outputs)
    assert [o.shape for o in outputs] == [o.shape for o in everything(body, *moving)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("body", ["person"], indirect=True)
def test_a_gpu_gives_the_same(body: Multibody, native: Any, moving: tuple[Tensor, ...]) -> None:
    there = everything(Multibody(dataset_of(native), device="cuda"), *(part.cuda() for part in moving))
    for found, expected in zip(there, everything(body, *moving), strict=True):
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-9, atol=1e-9)


def test_a_body_that_cannot_move() -> None:
    osim = import_opensim()
    model = osim.Model()
    model.addBody(osim.Body("block", 2.0, osim.Vec3(0), osim.Inertia(1, 1, 1)))
    model.addJoint(osim.WeldJoint("weld", model.getGround(), osim.Vec3(1, 2, 3), osim.Vec3(0), model.getBodySet().get(0), osim.Vec3(0), osim.Vec3(0)))
    model.addMarker(osim.Marker("top", model.getBodySet().get(0), osim.Vec3(0, 1, 0)))
    model.finalizeConnections()
    body, nothing = Multibody(dataset_of(model)), torch.zeros(4, 0, dtype=torch.float64)
    assert body.inverse_dynamics(nothing, nothing, nothing).shape == (4, 0)
    np.testing.assert_allclose(body.marker_positions(nothing), np.tile([1.0, 3.0, 3.0], (4, 1, 1)))
    np.testing.assert_allclose(body.ground_wrench(nothing, nothing, nothing)[:, 1], 2.0 * 9.80665)
