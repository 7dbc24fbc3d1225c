"""A generated walk: forces that close the equations of motion, feet that do not slide, and figures a biomechanist expects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from imdy_plugin._opensim import import_opensim
from imdy_plugin.adapters.external_loads import read_ground_force
from imdy_plugin.adapters.storage import read_table
from imdy_plugin.adapters.trc import read_trc
from imdy_plugin.errors import InputError
from imdy_plugin.schema import GRAVITY
from imdy_plugin.sim.anthropometry import LENGTHS
from imdy_plugin.sim.gait import DemoTrial, build_walk, interpolate_gait, write_trial
from imdy_plugin.sim.gait_table import GAITS
from imdy_plugin.sim.person import FOOT, HEEL_RADIUS, build_person
from imdy_plugin.solvers.opensim_mechanics import OpenSimMechanics

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def trial() -> DemoTrial:
    return build_walk(build_person())


@pytest.fixture(scope="module")
def files(trial: DemoTrial, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_trial(trial, tmp_path_factory.mktemp("trial"))


@pytest.fixture(scope="module")
def native(files: dict[str, Path]) -> Any:
    model = import_opensim().Model(str(files["model"]))
    model.initSystem()
    return model


def _in_body_weights(trial: DemoTrial) -> Array:
    return trial.ground_force["ground_force"].values / (trial.mass * GRAVITY)


def _phase(trial: DemoTrial) -> Array:
    """Of the right foot; the trial starts a tenth of a second before a right heel strike."""
    period = 120 / trial.cadence
    return (trial.ground_force["time"].values - 0.1) / period


def _moment(trial: DemoTrial, coordinate: str) -> Array:
    return trial.truth["generalized_force"].sel(coordinate=coordinate).values / trial.mass


def test_nothing_is_left_at_the_root_and_everything_without_forces(trial: DemoTrial, native: Any) -> None:
    assert np.abs(trial.truth["root_residual"].values).max() < 1e-6
    mechanics = OpenSimMechanics(native)
    q, qd, qdd = (trial.motion[f"coordinate_{k}"].values for k in ("value", "velocity", "acceleration"))
    free = mechanics.root_wrench(q, mechanics.inverse_dynamics(q, qd, qdd))
    assert np.abs(free[:, 1]).min() > 0.5 * trial.mass * GRAVITY


def test_forces_look_like_walking(trial: DemoTrial) -> None:
    phase, force = _phase(trial), _in_body_weights(trial)
    stance = (phase >= 0) & (phase < 0.62)
    vertical = force[stance, 0, 1]
    at = phase[stance]
    first, valley, second = vertical[at < 0.2].max(), vertical[(at > 0.2) & (at < 0.4)].min(), vertical[(at > 0.4)].max()
    assert 1.0 <= first <= 1.22 and 1.0 <= second <= 1.22 and 0.68 <= valley <= 0.82
    assert -0.24 <= force[:, 0, 0].min() <= -0.13 and 0.13 <= force[:, 0, 0].max() <= 0.24
    assert np.abs(force[:, :, 2]).max() <= 0.10
    both = (force[:, :, 1] > 0).all(axis=1)
    cycle = (phase >= 0) & (phase < 1)
    assert 0.19 <= both[cycle].mean() <= 0.26
    assert (force[:, :, 1] >= 0).all() and (force.sum(axis=1)[:, 1] > 0.6).all()
    assert np.abs(trial.ground_force["free_moment"].values).max() / trial.mass < 0.15


def test_nothing_pushes_in_swing(trial: DemoTrial) -> None:
    swing = (_phase(trial) % 1 > 0.63) & (_phase(trial) % 1 < 0.99)
    for name in ("ground_force", "center_of_pressure", "free_moment"):
        assert (trial.ground_force[name].values[swing, 0] == 0).all()


def test_pressure_moves_from_heel_to_toe_inside_the_sole(trial: DemoTrial, native: Any) -> None:
    mechanics = OpenSimMechanics(native)
    length, width = LENGTHS["foot_length"] * trial.height, LENGTHS["foot_width"] * trial.height
    q, qd, qdd = (trial.motion[f"coordinate_{k}"].values for k in ("value", "velocity", "acceleration"))
    for i, foot in enumerate(mechanics.foot_bodies):
        axes = np.eye(3)[[0, 2]] * 0.1
        points = mechanics.point_kinematics(q, qd, qdd, foot, np.concatenate([np.zeros((1, 3)), axes]))[0]
        loaded = trial.ground_force["ground_force"].values[:, i, 1] > 0.2 * trial.mass * GRAVITY
        flat = loaded & (np.abs(points[:, 1, 1] - points[:, 0, 1]) < 0.002)
        offset = trial.ground_force["center_of_pressure"].values[:, i] - points[:, 0]
        along, across = (np.einsum("ti,ti->t", offset, points[:, k] - points[:, 0]) / 0.1 for k in (1, 2))
        fraction = along / length + FOOT["origin"] - FOOT["heel"]
        assert flat.sum() > 30
        assert fraction[flat].min() > 0.05 and fraction[flat].max() < 0.80
        assert np.abs(across[flat]).max() < 0.45 * width
        runs = np.split(np.flatnonzero(flat), np.flatnonzero(np.diff(np.flatnonzero(flat)) > 1) + 1)
        assert all(np.diff(fraction[run]).min() > -0.01 for run in runs)


@pytest.mark.parametrize(
    ("coordinate", "low", "high"),
    [
        ("ankle_angle_r", (-1.7, -1.2), (0.0, 0.3)),
        ("knee_angle_r", (-0.85, -0.35), (0.2, 0.65)),
        ("hip_flexion_r", (-1.2, -0.6), (0.6, 1.25)),
        ("hip_adduction_r", (-1.1, -0.6), (0.0, 0.4)),
    ],
)
def test_joint_moments_are_of_the_usual_size(trial: DemoTrial, coordinate: str, low: tuple[float, float], high: tuple[float, float]) -> None:
    moment = _moment(trial, coordinate)
    assert low[0] <= moment.min() <= low[1]
    assert high[0] <= moment.max() <= high[1]


def test_joint_angles_stay_near_published_ones(trial: DemoTrial) -> None:
    from imdy_plugin.sim.gait_fit import EVERY_FIVE_PERCENT

    phase = _phase(trial)
    for name, values in EVERY_FIVE_PERCENT.items():
        angle = np.degrees(trial.motion["coordinate_value"].sel(coordinate=name).values)
        usual = np.interp(phase % 1, np.arange(21) / 20, [*values, values[0]])
        assert np.sqrt(np.mean((angle - usual) ** 2)) < 8, name


def test_feet_neither_slide_nor_sink(trial: DemoTrial, native: Any) -> None:
    mechanics = OpenSimMechanics(native)
    q, qd, qdd = (trial.motion[f"coordinate_{k}"].values for k in ("value", "velocity", "acceleration"))
    length, radius = LENGTHS["foot_length"] * trial.height, HEEL_RADIUS * trial.height
    ball = FOOT["ball_height"] * length
    heel = [(FOOT["heel_center"] - FOOT["origin"]) * length, radius, 0.0]
    toe = [(FOOT["toe"] - FOOT["ball"]) * length, -ball, 0.0]
    for i, side in enumerate("rl"):
        heel_place, heel_speed, _ = mechanics.point_kinematics(q, qd, qdd, f"calcn_{side}", [heel])
        toe_place, toe_speed, _ = mechanics.point_kinematics(q, qd, qdd, f"toes_{side}", [toe, [0.0, -ball, 0.0]])
        assert heel_place[..., 1].min() - radius > -0.002
        assert toe_place[..., 1].min() > -0.002
        own = (_phase(trial) + 0.5 * i) % 1
        flat, pushing = (own > 0.11) & (own < 0.32), (own > 0.11) & (own < 0.53)
        assert np.linalg.norm(heel_speed[flat], axis=-1).max() < 0.018
        assert np.linalg.norm(toe_speed[pushing], axis=-1).max() < 0.018
        assert np.sqrt((toe_speed[pushing] ** 2).sum(axis=-1).mean()) < 0.007
        assert np.linalg.norm(toe_speed[(own > 0.65) & (own < 0.9)], axis=-1).max() > 1.0


def test_it_is_periodic_and_symmetric() -> None:
    trial = build_walk(build_person(), rate=232 / 120 * 50, seconds=2.3)
    cycle = round(50 * 232 / 120 * 120 / trial.cadence)
    q = trial.motion["coordinate_value"].drop_sel(coordinate="pelvis_tx")
    assert np.abs(q.values[cycle:] - q.values[:-cycle]).max() < 1e-4
    advance = trial.motion["coordinate_value"].sel(coordinate="pelvis_tx").values
    assert (advance[cycle:] - advance[:-cycle]) * trial.cadence / 120 == pytest.approx(trial.speed, abs=1e-3)
    force = trial.ground_force["ground_force"].values
    half = cycle // 2
    assert np.abs(force[half:, 1] - force[:-half, 0] * [1, 1, -1]).max() < 0.01 * trial.mass * GRAVITY


def test_accelerations_and_forces_have_no_jumps(native: Any, files: dict[str, Path]) -> None:
    fine = build_walk(files["model"], rate=1000.0, seconds=0.7)
    force = fine.ground_force["ground_force"].values / (fine.mass * GRAVITY)
    assert np.abs(np.diff(force, axis=0)).max() < 0.03
    assert np.abs(np.diff(force, n=2, axis=0)).max() < 0.002
    acceleration = fine.motion["coordinate_acceleration"].values
    spread = np.ptp(acceleration, axis=0) + 1e-9
    assert (np.abs(np.diff(acceleration, axis=0)).max(axis=0) / spread < 0.06).all()


def test_it_is_deterministic_and_noise_is_seeded() -> None:
    document = build_person(1.68, 60.0, "female")
    first, second, noisy, again = (build_walk(document, seconds=0.3, noise=n, seed=3) for n in (0.0, 0.0, 0.0005, 0.0005))
    assert first.motion.identical(second.motion) and first.ground_force.identical(second.ground_force)
    assert noisy.motion.identical(again.motion)
    error = (noisy.motion["marker_position"] - first.motion["marker_position"]).values
    assert error.std() == pytest.approx(0.0005, rel=0.1)
    assert noisy.truth["generalized_force"].identical(first.truth["generalized_force"])


@pytest.mark.parametrize(
    ("height", "mass", "sex", "speed"), [(1.55, 48.0, "female", None), (1.95, 110.0, "male", 1.5), (1.75, 70.0, None, 1.22), (1.75, 70.0, None, 1.0)]
)
def test_other_people_and_speeds_walk_too(height: float, mass: float, sex: Any, speed: float | None) -> None:
    trial = build_walk(build_person(height, mass, sex), speed=speed)
    force = _in_body_weights(trial)
    assert trial.height == pytest.approx(height) and trial.mass == pytest.approx(mass)
    assert speed is None or trial.speed == pytest.approx(speed, rel=1e-4)
    assert np.abs(trial.truth["root_residual"].values).max() < 1e-6
    assert 1.0 < force[..., 1].max() < 1.4
    assert -1.9 < _moment(trial, "ankle_angle_r").min() < -1.1
    assert force.sum(axis=1)[:, 1].min() > 0.5


@pytest.mark.parametrize("known", GAITS, ids=lambda g: str(g.speed))
def test_a_speed_of_the_table_gives_its_entry(known: Any) -> None:
    gait = interpolate_gait(known.speed)
    assert gait.period == pytest.approx(known.period) and gait.stride == pytest.approx(known.stride)
    for name, rows in known.series.items():
        assert np.array(gait.series[name]) == pytest.approx(np.array(rows))
    assert known.stride * 1.75 / known.period == pytest.approx(known.speed, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"speed": 5.0}, "table holds"),
        ({"speed": float("nan")}, "table holds"),
        ({"seconds": 0.0}, "duration"),
        ({"rate": 5.0}, "rate"),
        ({"noise": -1.0}, "noise"),
    ],
)
def test_what_cannot_be_walked_is_refused(options: dict[str, float], says: str) -> None:
    with pytest.raises(InputError, match=says):
        build_walk(build_person(), **options)  # type: ignore[arg-type]


def test_other_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        build_walk(tmp_path / "none.osim")
    moved = build_person().replace('<CustomJoint name="walker_knee_r">', '<CustomJoint name="knee_r">')
    with pytest.raises(InputError, match="not one of a generated person"):
        build_walk(moved)


def test_files_say_what_the_trial_says(trial: DemoTrial, files: dict[str, Path]) -> None:
    markers = read_trc(files["markers"])["marker_position"]
    assert np.abs(markers.values - trial.motion["marker_position"].sel(marker=markers["marker"]).values).max() < 1e-6
    forces = read_ground_force(files["ground_force"])
    assert [str(b) for b in forces["body"].values] == ["calcn_r", "calcn_l"]
    assert np.abs(forces["ground_force"].values - trial.ground_force["ground_force"].values).max() < 1e-3


def _inverse_dynamics_tool(files: dict[str, Path], folder: Path, loads: Path | None) -> dict[str, Array]:
    opensim = import_opensim()
    tool = opensim.InverseDynamicsTool()
    tool.setModelFileName(str(files["model"]))
    tool.setCoordinatesFileName(str(files["coordinates"]))
    tool.setLowpassCutoffFrequency(-1)
    if loads is not None:
        tool.setExternalLoadsFileName(str(loads))
    excluded = opensim.ArrayStr()
    excluded.append("actuators")
    tool.setExcludedForces(excluded)
    tool.setStartTime(0.0)
    tool.setEndTime(10.0)
    tool.setResultsDir(str(folder))
    tool.setOutputGenForceFileName("id.sto")
    assert tool.run()
    table = read_table(folder / "id.sto")
    return {"time": table.time} | dict(zip(table.names, table.values.T, strict=True))


def test_opensim_inverse_dynamics_agrees(trial: DemoTrial, files: dict[str, Path], tmp_path: Path) -> None:
    moments = _inverse_dynamics_tool(files, tmp_path, files["ground_force"])
    time = trial.motion["time"].values
    inner = slice(5, -5)
    for name, unit in zip(trial.truth["coordinate"].values, trial.truth["generalized_force_unit"].values, strict=True):
        column = moments[f"{name}_{'force' if unit == 'N' else 'moment'}"]
        error = np.interp(time, moments["time"], column) - trial.truth["generalized_force"].sel(coordinate=name).values
        assert np.sqrt(np.mean(error[inner] ** 2)) < 1.0, name
    without = _inverse_dynamics_tool(files, tmp_path, None)
    assert np.abs(without["pelvis_ty_force"]).mean() > 0.5 * trial.mass * GRAVITY


def test_opensim_static_optimization_agrees(trial: DemoTrial, native: Any, files: dict[str, Path], tmp_path: Path) -> None:
    opensim = import_opensim()
    analysis = opensim.StaticOptimization()
    analysis.setStartTime(0.3)
    analysis.setEndTime(0.7)
    analysis.setStepInterval(5)
    analysis.setUseModelForceSet(True)
    tool = opensim.AnalyzeTool()
    tool.setName("so")
    tool.getAnalysisSet().cloneAndAppend(analysis)
    tool.setModelFilename(str(files["model"]))
    tool.setCoordinatesFileName(str(files["coordinates"]))
    tool.setExternalLoadsFileName(str(files["ground_force"]))
    tool.setLowpassCutoffFrequency(-1)
    tool.setInitialTime(0.3)
    tool.setFinalTime(0.7)
    tool.setResultsDir(str(tmp_path))
    tool.printToXML(str(tmp_path / "setup.xml"))
    assert opensim.AnalyzeTool(str(tmp_path / "setup.xml")).run()
    found = read_table(next(tmp_path.glob("*activation.sto")))
    assert len(found.time) >= 5
    time = trial.motion["time"].values
    for j, name in enumerate(found.names):
        coordinate = name.removesuffix("_actuator").removesuffix("_residual")
        strength = opensim.CoordinateActuator.safeDownCast(native.getForceSet().get(name)).getOptimalForce()
        truth = np.interp(found.time, time, trial.truth["generalized_force"].sel(coordinate=coordinate).values)
        assert np.abs(found.values[:, j] * strength - truth).max() < 3.0, name


def test_the_fit_knows_its_own_slope() -> None:
    from imdy_plugin.sim import gait_fit

    with gait_fit.double_precision():
        problem = gait_fit._Problem(gait_fit.walk_at(1.3))
        x, step = problem.start(), 1e-7 * np.random.default_rng(0).standard_normal(problem.basis.size)
        change = problem.residuals(x + step) - problem.residuals(x - step)
        slope = 2 * problem.jacobian(x) @ step
    far = np.abs(change - slope) > 1e-5 * np.abs(change).max()
    assert far.mean() < 0.001
    assert np.abs(change).max() > 1e-6
