"""Joint coordinates from markers, whole recordings at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from imdy_plugin.adapters.opensim_model import OpenSimModelAdapter
from imdy_plugin.errors import DataWarning, InputError, UnknownNameError
from imdy_plugin.solvers.multibody import Multibody
from imdy_plugin.solvers.multibody.chunks import FRAMES
from imdy_plugin.solvers.multibody.descent import descend
from imdy_plugin.solvers.multibody.inverse_kinematics import fit_markers
from imdy_plugin.solvers.multibody.marker_problem import MarkerProblem, Task
from imdy_plugin.solvers.multibody.mechanics import BodyMechanics
from imdy_plugin.solvers.multibody.root_pose import RootJoint, align

RATE = 50.0
NOISE = 0.004


@pytest.fixture(scope="module")
def model(native: Any) -> xr.Dataset:
    return OpenSimModelAdapter().load(native).dataset


@pytest.fixture(scope="module")
def body(model: xr.Dataset) -> BodyMechanics:
    return BodyMechanics(model)


@pytest.fixture(scope="module")
def motion(body: BodyMechanics) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Time, coordinates and noisy markers of a lively motion."""
    time = np.arange(60) / RATE
    rng = np.random.default_rng(5)
    q = body.default_values + 0.25 * rng.normal(size=len(body.coordinates)) * np.sin(3 * time + rng.uniform(0, 6))[:, None]
    q = np.clip(body.couple(q), *(body.bounds + np.array([0.01, -0.01])).T)
    q[:, body.locked] = body.default_values[body.locked]
    return time, q, body.marker_positions(q) + NOISE * rng.normal(size=(len(time), len(body.markers), 3))


def problem_of(body: BodyMechanics, positions: np.ndarray, weights: np.ndarray, tasks: tuple[Task, ...] = ()) -> MarkerProblem:
    torch_body = body.body
    lower, upper = torch_body.tensor(body.bounds).unbind(-1)
    target = torch_body.tensor(positions).permute(2, 1, 0)
    return MarkerProblem(torch_body, body.markers, target, torch_body.tensor(weights), torch.as_tensor(body.locked), lower, upper, tasks)


def cost_of(body: Multibody, positions: torch.Tensor, weights: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    squared = ((body.marker_positions(q) - positions) ** 2).sum(dim=-1)
    return torch.where(torch.isfinite(squared), squared * weights, 0.0).sum(dim=-1)


def test_the_sums_over_bodies_say_what_the_markers_say(body: BodyMechanics, motion: tuple[np.ndarray, ...]) -> None:
    _, q, positions = motion
    rng = np.random.default_rng(1)
    positions = positions.copy()
    positions[rng.random(positions.shape[:2]) < 0.2] = np.nan
    weights = rng.uniform(0.0, 2.0, len(body.markers))
    problem, torch_body = problem_of(body, positions, weights), body.body
    frames, free = torch.tensor([3, 30]), problem.free
    at = torch.tensor(q[[3, 30]] + 0.1 * rng.normal(size=(2, q.shape[1])))
    found = problem.linearize(at.mT.clone(), problem.measured(frames), torch.zeros(2, dtype=torch.bool))
    target = torch.tensor(np.nan_to_num(positions[[3, 30]]))
    seen = torch.tensor(np.isfinite(positions[[3, 30]]).all(axis=2)) * torch.tensor(weights)

    def cost(value: torch.Tensor) -> torch.Tensor:
        return (((torch_body.marker_positions(torch_body.couple(value)) - target) ** 2).sum(dim=-1) * seen).sum(dim=-1)

    assert torch.allclose(found.cost, cost(at), rtol=1e-12)
    gradient = torch.autograd.functional.jacobian(lambda value: cost(value).sum(), at)
    assert torch.allclose(found.descent, -0.5 * gradient[:, free].mT, rtol=1e-9, atol=1e-10)
    jacobian = torch_body.marker_jacobian(at)[..., free] * seen.sqrt()[..., None, None]
    flat = jacobian.flatten(1, 2)
    assert found.matrix is not None
    expected = flat.mT @ flat
    assert torch.allclose(found.matrix.tril(), expected.tril(), atol=1e-8)
    assert not torch.allclose(found.matrix.tril(), 1.01 * expected.tril(), atol=1e-4)


def test_normal_matrix_and_curvature_are_the_second_derivative(body: BodyMechanics, motion: tuple[np.ndarray, ...]) -> None:
    _, q, positions = motion
    problem = problem_of(body, positions, np.ones(len(body.markers)))
    at = torch.tensor(q[[7]] + 0.2)
    found = problem.linearize(at.mT.clone().expand(-1, 2), problem.measured(torch.tensor([7, 7])), torch.tensor([True, False]))
    target = torch.tensor(positions[7])
    whole = torch.autograd.functional.hessian(lambda value: ((body.body.marker_positions(value) - target) ** 2).sum(), at[0])
    hessian = whole[problem.free][:, problem.free]
    assert found.matrix is not None and found.scale is not None
    newton, gauss_newton = found.matrix
    assert torch.allclose(newton.tril(), 0.5 * hessian.tril(), atol=1e-7)
    assert not torch.allclose(gauss_newton.tril(), 0.5 * hessian.tril(), atol=1e-2)
    assert torch.allclose(found.scale[:, 0], gauss_newton.diagonal())


def test_the_end_is_a_minimum(body: BodyMechanics, motion: tuple[np.ndarray, ...]) -> None:
    time, _, positions = motion
    fit = fit_markers(body, time, body.markers, positions)
    target, ones = torch.tensor(positions), torch.ones(len(body.markers), dtype=torch.float64)
    best = cost_of(body.body, target, ones, torch.tensor(fit.value))
    rng = np.random.default_rng(0)
    for _ in range(20):
        moved = fit.value + 1e-3 * rng.normal(size=fit.value.shape)
        moved[:, body.locked] = fit.value[:, body.locked]
        nearby = np.clip(moved, *body.bounds.T)
        assert bool((cost_of(body.body, target, ones, torch.tensor(body.couple(nearby))) > best - 1e-12).all())
    assert fit.converged.all() and (fit.steps > 0).all() and not fit.at_limit[:, ~body.locked].all(axis=0).any()


@pytest.mark.parametrize("turn", [(0.0, 3.0, 0.0), (1.4, 0.0, 0.0), (0.0, -2.0, 1.0), (np.pi, 0.0, 0.0)])
def test_any_pose_of_the_root_is_found_from_nothing(body: BodyMechanics, motion: tuple[np.ndarray, ...], turn: tuple[float, float, float]) -> None:
    time, _, positions = motion
    rotation = torch.linalg.matrix_exp(
        torch.tensor([[0.0, -turn[2], turn[1]], [turn[2], 0.0, -turn[0]], [-turn[1], turn[0], 0.0]], dtype=torch.float64)
    ).numpy()
    fit = fit_markers(body, time, body.markers, positions @ rotation.T + np.array([5.0, 2.0, -7.0]))
    assert fit.rms.max() < 2 * NOISE


def test_missing_markers_leave_the_rest_where_it_was(body: BodyMechanics, motion: tuple[np.ndarray, ...]) -> None:
    time, q, positions = motion
    thinned = positions.copy()
    thinned[np.random.default_rng(2).random(positions.shape[:2]) < 0.2] = np.nan
    thinned[[20, 21, 40]] = np.nan
    fit = fit_markers(body, time, body.markers, thinned)
    angles = np.array([unit == "N m" for unit in body.units])
    assert np.isnan(fit.rms[[20, 21, 40]]).all() and np.isfinite(np.delete(fit.rms, [20, 21, 40])).all()
    assert np.nanmedian(np.abs(fit.value - q)[:, angles]) < 0.03
    assert fit.bridged >= 3 and np.nanmax(fit.rms) < 2 * NOISE


def test_frames_do_not_depend_on_their_company(body: BodyMechanics, motion: tuple[np.ndarray, ...]) -> None:
    _, _, positions = motion
    many = np.concatenate([positions] * (FRAMES // len(positions) + 2))
    time = np.arange(len(many)) / RATE
    fit, alone = fit_markers(body, time, body.markers, many), fit_markers(body, time[: len(positions)], body.markers, positions)
    assert np.abs(fit.value[: len(positions)] - alone.value).max() < 1e-4
    assert np.array_equal(fit_markers(body, time, body.markers, many).value, fit.value)


def test_a_task_draws_a_coordinate(body: BodyMechanics, motion: tuple[np.ndarray, ...]) -> None:
    time, _, positions = motion
    knee = body.coordinates.index("knee_angle_r")
    free = fit_markers(body, time, body.markers, positions).value[:, knee]
    drawn = fit_markers(body, time, body.markers, positions, tasks={"knee_angle_r": (free + 0.2, 1e4)}).value[:, knee]
    idle = fit_markers(body, time, body.markers, positions, tasks={"knee_angle_r": (np.full(len(time), np.nan), 1e4)}).value[:, knee]
    assert np.allclose(drawn, np.clip(free + 0.2, *body.bounds[knee]), atol=1e-3) and np.allclose(idle, free, atol=1e-6)
    with pytest.raises(UnknownNameError, match="knee_angel_r"):
        fit_markers(body, time, body.markers, positions, tasks={"knee_angel_r": (0.0, 1.0)})


def test_a_heavy_task_does_not_stall_the_rest(body: BodyMechanics, motion: tuple[np.ndarray, ...]) -> None:
    time, _, positions = motion
    light, heavy = (fit_markers(body, time[:5], body.markers, positions[:5], tasks={"elbow_flex_r": (0.3, weight)}) for weight in (1e4, 1e7))
    assert heavy.converged.all() and np.abs(heavy.value - light.value).max() < 1e-4


def test_a_task_tells_what_no_marker_does(body: BodyMechanics, motion: tuple[np.ndarray, ...], model: xr.Dataset) -> None:
    time, _, positions = motion
    owner = dict(zip(model["marker"].values.tolist(), model["marker_body"].values.tolist(), strict=True))
    legs = [i for i, name in enumerate(body.markers) if owner[name].startswith(("pelvis", "femur", "tibia", "talus", "calcn", "toes"))]
    names = [body.markers[i] for i in legs]
    elbow = body.coordinates.index("elbow_flex_r")
    plain = fit_markers(body, time, names, positions[:, legs])
    drawn = fit_markers(body, time, names, positions[:, legs], tasks={"elbow_flex_r": (0.7, 1.0)})
    assert "elbow_flex_r" in plain.never_seen and np.allclose(plain.value[:, elbow], body.default_values[elbow])
    assert "elbow_flex_r" not in drawn.never_seen and np.allclose(drawn.value[:, elbow], 0.7, atol=1e-4)


def test_a_follower_with_markers_pulls_its_leader(model: xr.Dataset, motion: tuple[np.ndarray, ...]) -> None:
    coupling = '{"coordinates": ["knee_angle_r"], "function": {"type": "LinearFunction", "coefficients": [0.5, 0.1]}, "scale": 1.0}'
    texts = [coupling if name == "ankle_angle_r" else text for name, text in zip(model["coordinate"].values, model["coordinate_coupling"].values, strict=True)]
    body = BodyMechanics(model.assign(coordinate_coupling=("coordinate", np.array(texts))))
    time, q, _ = motion
    knee, ankle = body.coordinates.index("knee_angle_r"), body.coordinates.index("ankle_angle_r")
    coupled = body.couple(q)
    assert np.allclose(coupled[:, ankle], 0.5 * coupled[:, knee] + 0.1)
    fit = fit_markers(body, time, body.markers, body.marker_positions(coupled))
    assert fit.rms.max() < 1e-6 and np.abs(fit.value - coupled)[:, [knee, ankle]].max() < 1e-4


def test_smoothing_trades_distance_for_acceleration(body: BodyMechanics, motion: tuple[np.ndarray, ...]) -> None:
    time, q, positions = motion
    fits = [fit_markers(body, time, body.markers, positions, smoothing=weight) for weight in (0.0, 1e-9, 1e-7)]
    jerky = [float((np.diff(fit.value, n=2, axis=0) ** 2).sum()) for fit in fits]
    assert jerky[0] > 1.2 * jerky[1] > 1.2 * jerky[2]
    assert fits[0].rms.mean() < fits[1].rms.mean() < fits[2].rms.mean() < 2 * NOISE
    angles = np.array([unit == "N m" for unit in body.units])
    errors = [float(np.sqrt(((fit.value - q)[:, angles] ** 2).mean())) for fit in fits]
    assert errors[1] < errors[0]


def test_smoothing_in_windows_is_smoothing_at_once(body: BodyMechanics, motion: tuple[np.ndarray, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    time, _, positions = motion
    whole = fit_markers(body, time, body.markers, positions, smoothing=1e-9).value
    monkeypatch.setattr("imdy_plugin.solvers.multibody.smoothing.WINDOW", 40)
    monkeypatch.setattr("imdy_plugin.solvers.multibody.smoothing.OVERLAP", 30)
    assert np.abs(fit_markers(body, time, body.markers, positions, smoothing=1e-9).value - whole).max() < 2e-3


def test_smoothing_that_does_not_come_to_rest_is_told(body: BodyMechanics, motion: tuple[np.ndarray, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    time, _, positions = motion
    monkeypatch.setattr("imdy_plugin.solvers.multibody.smoothing._MAX_STEPS", 2)
    with pytest.warns(DataWarning, match="frames of 0 to 1.18 s did not come to rest under a smoothing of 0.0001; give a smaller weight"):
        fit_markers(body, time, body.markers, positions, smoothing=1e-4)


def test_a_held_column_does_not_move(body: BodyMechanics, motion: tuple[np.ndarray, ...]) -> None:
    _, q, positions = motion
    problem = problem_of(body, positions, np.ones(len(body.markers)))
    start = torch.tensor(q[:4] + 0.05).mT
    moves = torch.tensor([i % 2 == 0 for i in range(len(problem.free))])
    end = descend(problem, start, torch.arange(4), 1e-6, columns=moves)
    held = problem.free[~moves]
    assert torch.equal(end.q[held], problem.lawful(start)[held]) and bool(end.converged.all())


def test_rigid_alignment_gives_the_pose_back_and_knows_what_it_cannot_tell() -> None:
    rng = np.random.default_rng(0)
    local = rng.normal(size=(5, 3))
    rotation = torch.linalg.matrix_exp(torch.tensor([[0.0, -2.0, 0.5], [2.0, 0.0, 0.3], [-0.5, -0.3, 0.0]], dtype=torch.float64)).numpy()
    measured = np.repeat((local @ rotation.T + [1.0, 2.0, 3.0])[None], 3, axis=0)
    measured[1, :2] = np.nan
    measured[2, 1:4] = np.nan
    found, origin, known = align(local, measured)
    assert np.allclose(found[:2], rotation) and np.allclose(origin[:2], [1.0, 2.0, 3.0]) and known.tolist() == [True, True, False]
    line = np.outer(np.arange(4.0), [1.0, 2.0, 3.0])
    assert not align(line, line[None])[2].any()


def test_root_coordinates_follow_from_a_pose(body: BodyMechanics) -> None:
    joint = RootJoint.of(body.body.tree, body.bodies.index(body.root_body))
    assert joint is not None
    turning, sliding = joint.coordinates
    rng = np.random.default_rng(0)
    steps = np.cumsum(0.2 * rng.normal(size=(60, 3)), axis=0)
    q = np.tile(body.default_values, (60, 1))
    q[:, turning], q[:, sliding] = steps * [1.0, 0.3, 1.0], rng.normal(size=(60, 3))
    state = body.body.kinematics(torch.tensor(q))
    root = body.bodies.index(body.root_body)
    rotation, origin = state.rotation[:, root].numpy(), state.position[:, root].numpy()
    assert np.allclose(joint.angles(rotation), q[:, turning], atol=1e-9) and np.allclose(joint.distances(rotation, origin), q[:, sliding], atol=1e-9)


def test_too_few_markers_are_told(body: BodyMechanics, motion: tuple[np.ndarray, ...]) -> None:
    time, _, positions = motion
    with pytest.raises(InputError, match="share 3 marker"):
        fit_markers(body, time, body.markers[:3], positions[:, :3])
    ones = np.ones(len(body.markers))
    for wrong, match in ((-ones, "finite numbers of zero or more"), (ones[1:], "one for each marker"), (np.nan * ones, "finite")):
        with pytest.raises(InputError, match=match):
            fit_markers(body, time, body.markers, positions, wrong)
    with pytest.raises(InputError, match="have shape"):
        fit_markers(body, time[1:], body.markers, positions)
    with pytest.raises(InputError, match="no frame has enough markers"):
        fit_markers(body, time, body.markers, positions, 0.0 * ones)
    with pytest.raises(InputError, match="no frame has enough markers"):
        fit_markers(body, time, body.markers, np.full_like(positions, np.nan))
