"""A model with coordinates as MuJoCo simulates it: the same equations of motion, or how far from them."""

from __future__ import annotations

import json
from pathlib import Path

import mujoco
import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.errors import DataWarning, InputError, UnknownNameError
from imdy_plugin.registry import load_model
from imdy_plugin.schema import new_motion, validate_model
from imdy_plugin.sim.links import inertia_matrices, links_of, plain_model
from imdy_plugin.sim.opensim_humanoid import CoordinateHumanoid, build_coordinate_humanoid, measure_agreement, motion_of, state_of
from imdy_plugin.sim.standin import build_standin
from imdy_plugin.solvers.multibody.mechanics import BodyMechanics

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def person(walk: dict[str, Path]) -> xr.Dataset:
    return load_model(walk["model"]).dataset


@pytest.fixture(scope="module")
def humanoid(person: xr.Dataset) -> CoordinateHumanoid:
    return build_coordinate_humanoid(person, 1 / 240)


def with_joint(person: xr.Dataset, child: str, **axes: dict[str, object]) -> xr.Dataset:
    """The model with other axes in the joint that carries a body."""
    joint = [str(c) for c in person["joint_child"].values].index(child)
    transforms = person["joint_transform"].values.astype(object)
    described = json.loads(transforms[joint])
    for name, axis in axes.items():
        described[name] |= axis
    transforms[joint] = json.dumps(described)
    return person.assign(joint_transform=person["joint_transform"].copy(data=np.array(transforms, dtype=np.str_)))


def changed(person: xr.Dataset, variable: str, coordinate: str, value: object) -> xr.Dataset:
    """The model with another value of a coordinate's property."""
    values = person[variable].values.astype(object if isinstance(value, str) else None)
    values[[str(c) for c in person["coordinate"].values].index(coordinate)] = value
    return person.assign({variable: person[variable].copy(data=values.astype(np.str_) if isinstance(value, str) else values)})


def spline(coordinate: str, x: Array, y: Array) -> dict[str, object]:
    return {"coordinates": [coordinate], "function": {"type": "SimmSpline", "x": x.tolist(), "y": y.tolist()}}


def rolling_knee(person: xr.Dataset) -> xr.Dataset:
    """Knees whose shank slides and turns about its long axis as they bend, as those of cadavers do."""
    angle = np.radians(np.linspace(0.0, 120.0, 9))
    for side in "rl":
        name = f"knee_angle_{side}"
        forward, up = spline(name, angle, 0.006 * np.sin(angle)), spline(name, angle, -0.02 * (1 - np.cos(angle)) - 0.003 * np.sin(3 * angle))
        person = with_joint(person, f"tibia_{side}", translation1=forward, translation2=up, rotation3=spline(name, angle, 0.05 * np.sin(angle)))
    return person


def random_states(humanoid: CoordinateHumanoid, frames: int = 30, seed: int = 0) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    value = rng.uniform(-0.4, 0.4, (frames, len(humanoid.coordinates)))
    knees = ["knee" in name for name in humanoid.coordinates]
    value[:, knees] = rng.uniform(0.0, np.radians(65.0), (frames, sum(knees)))
    return value, rng.normal(size=value.shape), 5 * rng.normal(size=value.shape)


def test_generated_person_is_simulated_exactly(humanoid: CoordinateHumanoid, person: xr.Dataset) -> None:
    assert set(humanoid.coordinates) == {str(c) for c in person["coordinate"].values}
    assert set(humanoid.bodies) == {str(b) for b in person["body"].values}
    assert set(humanoid.actuated) == set(humanoid.coordinates) - set(person.attrs["root_coordinates"])
    agreement = measure_agreement(humanoid, *random_states(humanoid))
    assert agreement.largest < 1e-12
    assert agreement.mass_matrix < 1e-12
    assert agreement.inverse_dynamics < 1e-10
    assert agreement.simulation_error < 1e-10


def test_standin_with_its_coordinates_is_simulated_exactly() -> None:
    humanoid = build_coordinate_humanoid(build_standin())
    agreement = measure_agreement(humanoid, *random_states(humanoid, 10))
    assert max(agreement.largest, agreement.mass_matrix, agreement.inverse_dynamics) < 1e-10


def test_agreement_sees_another_body(humanoid: CoordinateHumanoid, walk: dict[str, Path], tmp_path: Path) -> None:
    from imdy_plugin.sim.person import write_person

    other = load_model(write_person(tmp_path / "other.osim", height=1.76)).dataset
    strange = CoordinateHumanoid(**{**vars(humanoid), "person": other, "plain": plain_model(other)})
    agreement = measure_agreement(strange, *random_states(humanoid, 5))
    assert agreement.largest > 1e-3
    assert min(agreement.mass_matrix, agreement.inverse_dynamics, agreement.simulation_error) > 1e-4


def test_a_knee_of_splines_becomes_the_nearest_hinge(person: xr.Dataset) -> None:
    humanoid = build_coordinate_humanoid(rolling_knee(person))
    agreement = measure_agreement(humanoid, *random_states(humanoid))
    assert 0 < agreement.position["tibia_r"] < 0.003
    assert agreement.position["femur_r"] < 1e-12
    assert agreement.position["calcn_r"] < 0.01
    assert 0 < agreement.mass_matrix < 0.01
    assert 0 < agreement.inverse_dynamics < 0.01
    assert agreement.simulation_error < 1e-10


def test_a_hinge_elsewhere_that_splines_describe_is_found(person: xr.Dataset) -> None:
    """A shank that turns about a point 3 cm off its joint, told as translations: the hinge is put there."""
    angle = np.radians(np.linspace(-5.0, 125.0, 61))
    center = np.array([0.03, 0.01])
    turned = np.stack([np.cos(angle) * center[0] + np.sin(angle) * center[1], -np.sin(angle) * center[0] + np.cos(angle) * center[1]])
    moved = center[:, None] - turned
    model = with_joint(person, "tibia_r", translation1=spline("knee_angle_r", angle, moved[0]), translation2=spline("knee_angle_r", angle, moved[1]))
    plain = plain_model(model, {"knee_angle_r": (0.0, 1.5)})
    joint = [str(c) for c in model["joint_child"].values].index("tibia_r")
    np.testing.assert_allclose(plain["joint_child_location"].values[joint][:2] - model["joint_child_location"].values[joint][:2], center, atol=1e-4)
    value = np.zeros((3, model.sizes["coordinate"]))
    value[:, [str(c) for c in model["coordinate"].values].index("knee_angle_r")] = [0.1, 0.7, 1.4]
    places = [BodyMechanics(m).point_positions(value, "calcn_r", np.zeros((1, 3))) for m in (model, plain)]
    np.testing.assert_allclose(places[0], places[1], atol=1e-4)
    assert np.abs(places[0] - BodyMechanics(person).point_positions(value, "calcn_r", np.zeros((1, 3)))).max() > 0.02


def test_a_plain_model_stays_as_it_is(person: xr.Dataset) -> None:
    plain = plain_model(person)
    validate_model(plain)
    for name in person.data_vars:
        if name != "joint_transform":
            np.testing.assert_array_equal(plain[name].values, person[name].values, err_msg=str(name))


def test_locked_coordinates_are_held_at_their_defaults(person: xr.Dataset) -> None:
    model = changed(changed(person, "coordinate_locked", "mtp_angle_r", True), "coordinate_default", "mtp_angle_r", 0.3)
    humanoid = build_coordinate_humanoid(model)
    assert "mtp_angle_r" not in humanoid.coordinates
    assert "toes_r" in humanoid.bodies
    agreement = measure_agreement(humanoid, *random_states(humanoid, 5))
    assert max(agreement.largest, agreement.mass_matrix, agreement.inverse_dynamics) < 1e-10
    motion = motion_of(humanoid, [0.0, 0.1], np.zeros((2, len(humanoid.coordinates))))
    np.testing.assert_allclose(motion["coordinate_value"].sel(coordinate="mtp_angle_r"), 0.3)


def test_a_coordinate_that_follows_another_is_held_at_its_mean_and_told_with_its_law(person: xr.Dataset) -> None:
    law = {"coordinates": ["knee_angle_r"], "function": {"type": "LinearFunction", "coefficients": [0.5, 0.1]}, "scale": 1.0}
    model = changed(person, "coordinate_coupling", "mtp_angle_r", json.dumps(law))
    humanoid = build_coordinate_humanoid(model, ranges={"knee_angle_r": (0.0, 1.0)})
    plain = BodyMechanics(humanoid.plain)
    person_mechanics = BodyMechanics(person)
    value = np.zeros((1, len(person_mechanics.coordinates)))
    value[0, person_mechanics.coordinates.index("mtp_angle_r")] = 0.5 * 0.5 + 0.1
    tip = np.array([[0.1, 0.0, 0.0]])
    held = plain.point_positions(np.zeros((1, len(plain.coordinates))), "toes_r", tip)
    np.testing.assert_allclose(held, person_mechanics.point_positions(value, "toes_r", tip), atol=1e-12)
    position = np.zeros((1, len(humanoid.coordinates)))
    position[0, humanoid.coordinates.index("knee_angle_r")] = 0.8
    assert motion_of(humanoid, [0.0], position)["coordinate_value"].sel(coordinate="mtp_angle_r").item() == pytest.approx(0.5)


def test_states_and_motions_are_each_others_inverse(humanoid: CoordinateHumanoid) -> None:
    time = np.arange(20) / 60
    value = np.sin(time[:, None] * np.arange(1, len(humanoid.coordinates) + 1) / 10)
    motion = motion_of(humanoid, time, value)
    shuffled = motion.isel(coordinate=np.random.default_rng(0).permutation(motion.sizes["coordinate"]))
    position, velocity = state_of(humanoid, shuffled)
    np.testing.assert_array_equal(position, value)
    np.testing.assert_allclose(velocity[1:-1], (value[2:] - value[:-2]) * 30, atol=1e-12)
    given = new_motion(time, coordinates=(list(humanoid.coordinates), value, 3 * value))
    np.testing.assert_array_equal(state_of(humanoid, given)[1], 3 * value)


def test_a_motion_that_lacks_a_coordinate_is_refused(humanoid: CoordinateHumanoid) -> None:
    motion = motion_of(humanoid, [0.0, 0.1], np.zeros((2, len(humanoid.coordinates)))).drop_sel(coordinate="knee_angle_l")
    with pytest.raises(InputError, match="knee_angle_l"):
        state_of(humanoid, motion)


def test_standing_weighs_what_the_person_does(humanoid: CoordinateHumanoid) -> None:
    """Held upright by its joints' control, the body settles on both soles."""
    model, data = humanoid.model, mujoco.MjData(humanoid.model)
    default = dict(zip(humanoid.plain["coordinate"].values, humanoid.plain["coordinate_default"].values, strict=True))
    data.qpos[:] = [default[name] for name in humanoid.coordinates]
    data.ctrl[:] = [default[name] for name in humanoid.actuated]
    mujoco.mj_step(model, data, 120)
    up = humanoid.coordinates.index("pelvis_ty")
    assert data.qfrc_constraint[up] == pytest.approx(70.0 * 9.80665, rel=0.01)
    assert data.qpos[up] == pytest.approx(default["pelvis_ty"], abs=0.02)
    touching = {model.body(model.geom_bodyid[contact.geom[1]]).name for contact in data.contact[: data.ncon]}
    assert {"calcn_r", "calcn_l"} <= touching <= {"calcn_r", "calcn_l", "toes_r", "toes_l"}


def test_gains_go_by_the_names_of_coordinates_and_the_mass(humanoid: CoordinateHumanoid) -> None:
    gains = dict(zip(humanoid.actuated, zip(humanoid.kp, humanoid.kd, humanoid.torque_limit, strict=True), strict=True))
    np.testing.assert_allclose(gains["hip_flexion_r"], np.array([800.0, 80.0, 1000.0]) * 70 / 77)
    np.testing.assert_allclose(gains["wrist_dev_l"], np.array([300.0, 30.0, 500.0]) * 70 / 77)
    np.testing.assert_allclose(humanoid.model.actuator_gainprm[:, 0], humanoid.kp)
    np.testing.assert_allclose(-humanoid.model.actuator_biasprm[:, 2], humanoid.kd)


def test_impossible_inertia_is_lowered_with_a_warning(person: xr.Dataset) -> None:
    toes = [str(b) for b in person["body"].values].index("toes_r")
    inertia = person["body_inertia"].values.copy()
    inertia[toes] = [1e-4, 2e-4, 1e-3, 0, 0, 0]
    model = person.assign(body_inertia=person["body_inertia"].copy(data=inertia))
    with pytest.warns(DataWarning, match="toes_r"):
        humanoid = build_coordinate_humanoid(model)
    np.testing.assert_allclose(inertia_matrices(humanoid.plain)[toes], np.diag([1e-4, 2e-4, 3e-4]), atol=1e-18)


def test_what_cannot_be_simulated_is_said(person: xr.Dataset) -> None:
    angle = np.linspace(0.0, 2.0, 5)
    with pytest.raises(InputError, match="plain_model"):
        links_of(rolling_knee(person))
    with pytest.raises(InputError, match=r"locked.*plain_model"):
        links_of(changed(person, "coordinate_locked", "mtp_angle_r", True))
    with pytest.raises(InputError, match=r"knee_angle_r.*one to one"):
        plain_model(with_joint(person, "tibia_r", rotation1=spline("knee_angle_r", angle, angle**2)))
    with pytest.raises(UnknownNameError, match="knee_angle_r"):
        plain_model(person, {"knee_angel_r": (0.0, 1.0)})
    with pytest.raises(InputError, match="moves freely"):
        build_coordinate_humanoid(person.assign_attrs(root_coordinates=[]))


def test_measured_models_come_within_a_centimetre(data_dir: Path) -> None:
    """Rajagopal's and Delp's models over recorded ranges: what the hinge in the knee's place costs."""
    rajagopal = data_dir / "bmc_walk_run/opensim/Mod&Sim2018/Rajagopal2015.osim"
    delp = data_dir / "opensim_core_tests_moco/Bindings/Java/Matlab/examples/testData/Subject01/subject01_gait2392_scaled.osim"
    for path, millimetres in ((rajagopal, 10.0), (delp, 1.0)):
        with pytest.warns(DataWarning, match="toes"):
            humanoid = build_coordinate_humanoid(load_model(path).dataset)
        value, velocity, acceleration = random_states(humanoid)
        value[:, ["knee" in name for name in humanoid.coordinates]] *= humanoid.person.attrs["knee_sign"]
        agreement = measure_agreement(humanoid, value, velocity, acceleration)
        assert max(distance for body, distance in agreement.position.items() if "patella" not in body) < millimetres / 1000
        assert agreement.mass_matrix < 0.005
        assert agreement.inverse_dynamics < 0.005
        assert agreement.simulation_error < 1e-10
