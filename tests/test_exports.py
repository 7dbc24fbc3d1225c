"""Bodies written as files and read again by MuJoCo: the same masses, the same places, the same equations of motion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from imdy_plugin.adapters.smpl.dataset import to_coordinates
from imdy_plugin.adapters.smpl.motion import BodyMotion, global_rotations, joint_positions
from imdy_plugin.adapters.smpl.topology import JOINTS
from imdy_plugin.errors import InputError
from imdy_plugin.registry import load_model
from imdy_plugin.sim.exports import ISAAC_BODIES, ISAAC_NAMES, isaac_state, mjcf_document, motion_of_isaac_state, write_isaac_mjcf, write_mjcf, write_urdf
from imdy_plugin.sim.humanoid import BODIES, build_humanoid
from imdy_plugin.sim.links import inertia_matrices
from imdy_plugin.sim.standin import build_standin, joint_offsets
from imdy_plugin.solvers.multibody.mechanics import BodyMechanics

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def standin() -> xr.Dataset:
    return build_standin(1.731, 71.23, "female")


@pytest.fixture(scope="module")
def generated(walk: dict[str, Path]) -> xr.Dataset:
    return load_model(walk["model"]).dataset


@pytest.fixture(params=["standin", "generated"])
def person(request: pytest.FixtureRequest) -> xr.Dataset:
    chosen: xr.Dataset = request.getfixturevalue(request.param)
    return chosen


def read(path: Path) -> tuple[Any, Any]:
    model = mujoco.MjModel.from_xml_path(str(path))
    return model, mujoco.MjData(model)


def random_motion(frames: int = 6, seed: int = 0) -> BodyMotion:
    rng = np.random.default_rng(seed)
    rotation = Rotation.from_rotvec(rng.normal(size=(frames * 24, 3))).as_quat(scalar_first=True).reshape(frames, 24, 4)
    return BodyMotion(np.arange(frames) / 60, rng.normal(size=(frames, 3)), rotation)


def check_bodies(person: xr.Dataset, model: Any, names: dict[str, str] | None = None, atol: float = 1e-14) -> None:
    """Masses, centres of mass and inertias, in the bodies' own frames."""
    for name, mass, center, inertia in zip(
        person["body"].values, person["body_mass"].values, person["body_center_of_mass"].values, inertia_matrices(person), strict=True
    ):
        body = model.body((names or {}).get(str(name), str(name)))
        axes = Rotation.from_quat(body.iquat, scalar_first=True).as_matrix()
        np.testing.assert_allclose(body.mass, mass, rtol=1e-14)
        np.testing.assert_allclose(body.ipos, center, atol=atol)
        np.testing.assert_allclose(axes @ np.diag(body.inertia) @ axes.T, inertia, atol=atol)


def check_mechanics(person: xr.Dataset, model: Any, data: Any, atol: float) -> None:
    """Places of all bodies and generalized forces at random coordinates, against the mechanics."""
    mechanics = BodyMechanics(person)
    rng = np.random.default_rng(3)
    value, velocity, acceleration = rng.normal(size=(3, 1, len(mechanics.coordinates)))
    position = [int(model.joint(c).qposadr[0]) for c in mechanics.coordinates]
    degree = [int(model.joint(c).dofadr[0]) for c in mechanics.coordinates]
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_CONSTRAINT
    data.qpos[position], data.qvel[degree], data.qacc[degree] = value[0], velocity[0], acceleration[0]
    mujoco.mj_inverse(model, data)
    places = mechanics.point_positions(value, list(mechanics.bodies), np.zeros((len(mechanics.bodies), 3)))[0]
    np.testing.assert_allclose([data.body(name).xpos for name in mechanics.bodies], places, atol=1e-12)
    np.testing.assert_allclose(data.qfrc_inverse[degree], mechanics.inverse_dynamics(value, velocity, acceleration)[0], atol=atol)


def test_mjcf_is_the_body(person: xr.Dataset, tmp_path: Path) -> None:
    model, data = read(write_mjcf(person, tmp_path / "body.xml"))
    assert model.nq == model.nv == person.sizes["coordinate"]
    assert model.nu == model.nv - 6
    np.testing.assert_array_equal(model.opt.gravity, person.attrs["gravity"])
    check_bodies(person, model)
    check_mechanics(person, model, data, 1e-10)


def test_another_mass_would_be_seen(standin: xr.Dataset, tmp_path: Path) -> None:
    path = write_mjcf(build_standin(1.731, 71.24, "female"), tmp_path / "body.xml")
    with pytest.raises(AssertionError):
        check_mechanics(standin, *read(path), 1e-10)


def test_urdf_is_the_body(person: xr.Dataset, tmp_path: Path) -> None:
    model, data = read(write_urdf(person, tmp_path / "body.urdf", root="coordinates"))
    assert model.nv == person.sizes["coordinate"]
    np.testing.assert_array_equal(model.opt.gravity, person.attrs["gravity"])
    check_bodies(person, model)
    assert model.body_subtreemass[0] == pytest.approx(person.attrs["mass"], rel=1e-8)
    check_mechanics(person, model, data, 1e-5)


def test_urdf_with_a_free_root_starts_with_it(standin: xr.Dataset, tmp_path: Path) -> None:
    path = write_urdf(standin, tmp_path / "body.urdf")
    model, _ = read(path)
    assert model.nv == standin.sizes["coordinate"] - 6
    assert 'name="world"' not in path.read_text()
    assert path.read_text().index('link name="pelvis"') < path.read_text().index('link name="left_hip"')


def test_balls_are_the_simulated_body(standin: xr.Dataset, tmp_path: Path) -> None:
    model, _ = read(write_mjcf(standin, tmp_path / "balls.xml", joints="balls", timestep=0.005))
    wanted = build_humanoid(standin, 0.005).model
    arrays = ["body_mass", "body_inertia", "body_pos", "jnt_type", "geom_size", "geom_pos", "geom_contype", "geom_conaffinity", "geom_friction"]
    arrays += ["actuator_gear", "actuator_gainprm", "actuator_biasprm", "actuator_forcerange", "actuator_forcelimited"]
    for name in arrays:
        np.testing.assert_allclose(getattr(model, name), getattr(wanted, name), atol=1e-15, err_msg=name)
    for name in ("timestep", "integrator", "cone", "disableflags"):
        assert getattr(model.opt, name) == getattr(wanted.opt, name), name


def test_written_body_falls_as_the_simulated_one_does(standin: xr.Dataset, tmp_path: Path) -> None:
    """Contact, friction, control and integration included, over half a second with the ground under it."""
    wanted = build_humanoid(standin).model
    models = [wanted, read(write_mjcf(standin, tmp_path / "balls.xml", joints="balls"))[0]]
    ends = []
    for model in models:
        data = mujoco.MjData(model)
        data.qpos[1] = float(standin["coordinate_default"].sel(coordinate="pelvis_ty")) + 0.05
        data.qvel[0] = 0.5
        mujoco.mj_step(model, data, 60)
        assert data.ncon > 4
        ends.append(data.qpos.copy())
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-7)


def test_document_written_of_what_was_read_is_the_same(standin: xr.Dataset, tmp_path: Path) -> None:
    path = write_mjcf(standin, tmp_path / "balls.xml", joints="balls")
    again = tmp_path / "again.xml"
    again.write_text(mjcf_document(read(path)[0]), encoding="utf-8")
    first, second = (read(p)[0] for p in (path, again))
    np.testing.assert_allclose(first.body_inertia, second.body_inertia, rtol=1e-14)
    np.testing.assert_array_equal(first.actuator_biasprm, second.actuator_biasprm)


def test_isaac_body_moves_as_the_rotations_do(standin: xr.Dataset, tmp_path: Path) -> None:
    model, data = read(write_isaac_mjcf(standin, tmp_path / "isaac.xml"))
    assert (model.nq, model.nv, model.nu) == (76, 75, 69)
    assert tuple(model.body(i).name for i in range(1, 25)) == ISAAC_BODIES
    assert [model.joint(i).name for i in range(1, 7)] == ["L_Hip_x", "L_Hip_y", "L_Hip_z", "L_Knee_x", "L_Knee_y", "L_Knee_z"]
    check_bodies(standin, model, ISAAC_NAMES)
    motion = random_motion()
    places, turned = joint_positions(motion, joint_offsets(standin)), global_rotations(motion)
    for frame, (root, angles) in enumerate(zip(*isaac_state(motion), strict=True)):
        data.qpos[:7], data.qpos[7:] = root, angles
        mujoco.mj_kinematics(model, data)
        for joint, name in enumerate(JOINTS):
            np.testing.assert_allclose(data.body(ISAAC_NAMES[name]).xpos, places[frame, joint], atol=1e-13)
            np.testing.assert_allclose(data.body(ISAAC_NAMES[name]).xmat.reshape(3, 3), turned[frame, joint], atol=1e-13)


def test_isaac_hinges_carry_the_gains_and_are_limited_to_half_a_turn(standin: xr.Dataset, tmp_path: Path) -> None:
    model, _ = read(write_isaac_mjcf(standin, tmp_path / "isaac.xml"))
    humanoid = build_humanoid(standin)
    np.testing.assert_allclose(model.jnt_stiffness[1:], humanoid.kp)
    np.testing.assert_allclose(model.dof_damping[6:], humanoid.kd)
    np.testing.assert_allclose(model.actuator_forcerange[:, 1], humanoid.torque_limit)
    np.testing.assert_allclose(model.jnt_range[1:], [[-np.pi, np.pi]] * 69)


def test_isaac_state_comes_back() -> None:
    motion = random_motion(20, seed=4)
    back = motion_of_isaac_state(motion.time, *isaac_state(motion))
    np.testing.assert_allclose(np.abs((back.rotation_wxyz * motion.rotation_wxyz).sum(axis=-1)), 1.0, atol=1e-14)
    np.testing.assert_array_equal(back.root_position, motion.root_position)


def test_isaac_order_of_turns_matters() -> None:
    root, angles = isaac_state(random_motion(3))
    other = motion_of_isaac_state(np.arange(3) / 60, root, angles.reshape(3, -1, 3)[:, :, ::-1].reshape(3, -1))
    assert np.abs((other.rotation_wxyz * random_motion(3).rotation_wxyz).sum(axis=-1))[:, 1:].min() < 0.9


def test_names_and_order_of_isaac_bodies() -> None:
    assert set(ISAAC_NAMES) == set(JOINTS)
    assert ISAAC_BODIES[:6] == ("Pelvis", "L_Hip", "L_Knee", "L_Ankle", "L_Toe", "R_Hip")
    assert ISAAC_BODIES[9:15] == ("Torso", "Spine", "Chest", "Neck", "Head", "L_Thorax")
    assert len(BODIES) == len(set(ISAAC_BODIES)) == 24


def test_a_model_that_is_no_24_joint_body_has_no_balls(generated: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="24 of SMPL"):
        write_mjcf(generated, tmp_path / "a.xml", joints="balls")
    with pytest.raises(InputError, match="build_standin"):
        write_isaac_mjcf(generated, tmp_path / "a.xml")
    assert not list(tmp_path.glob("*.xml"))


def test_other_shapes_are_refused() -> None:
    text = '<mujoco><worldbody><body name="a"><freejoint/><geom name="brick" type="box" size="1 1 1"/></body></worldbody></mujoco>'
    with pytest.raises(InputError, match=r"brick.*BOX"):
        mjcf_document(mujoco.MjModel.from_xml_string(text))


def test_coordinates_of_the_file_are_those_of_the_model(standin: xr.Dataset, tmp_path: Path) -> None:
    model, data = read(write_mjcf(standin, tmp_path / "body.xml"))
    motion = random_motion(1)
    value = to_coordinates(standin, motion)["coordinate_value"][0]
    for name in standin["coordinate"].values:
        data.joint(str(name)).qpos[:] = float(value.sel(coordinate=name))
    mujoco.mj_kinematics(model, data)
    np.testing.assert_allclose([data.body(name).xpos for name in JOINTS], joint_positions(motion, joint_offsets(standin))[0], atol=1e-13)
