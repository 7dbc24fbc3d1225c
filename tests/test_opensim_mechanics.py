"""Mechanics of OpenSim models against formulas, finite differences and conservation laws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imdy_plugin._opensim import import_opensim
from imdy_plugin.errors import InputError, UnknownNameError
from imdy_plugin.sim.person import write_person
from imdy_plugin.solvers.body_load import BodyLoad
from imdy_plugin.solvers.opensim_mechanics import OpenSimMechanics

G = 9.80665


def pendulum(mass: float = 2.0, length: float = 0.7, inertia: float = 0.05) -> Any:
    osim = import_opensim()
    model = osim.Model()
    model.setName("pendulum")
    bob = osim.Body("bob", mass, osim.Vec3(0, -length, 0), osim.Inertia(inertia, inertia, inertia))
    model.addBody(bob)
    model.addJoint(osim.PinJoint("hinge", model.getGround(), bob))
    model.finalizeConnections()
    return model


def free_chain() -> Any:
    osim = import_opensim()
    model = osim.Model()
    trunk = osim.Body("trunk", 2.0, osim.Vec3(0.1, 0.2, 0.3), osim.Inertia(0.5, 0.6, 0.7, 0.02, 0.03, 0.01))
    arm = osim.Body("arm", 1.0, osim.Vec3(0, 0.3, 0.1), osim.Inertia(0.05, 0.06, 0.07))
    model.addBody(trunk)
    model.addBody(arm)
    model.addJoint(osim.FreeJoint("root", model.getGround(), trunk))
    model.addJoint(osim.BallJoint("shoulder", trunk, osim.Vec3(0, 0.5, 0), osim.Vec3(0), arm, osim.Vec3(0), osim.Vec3(0)))
    model.finalizeConnections()
    return model


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> OpenSimMechanics:
    return OpenSimMechanics(import_opensim().Model(str(write_person(tmp_path_factory.mktemp("model") / "person.osim"))))


def wave(count: int, time: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A smooth motion of ``count`` coordinates with its exact derivatives."""
    a, b, c = np.random.default_rng(seed).normal(size=(3, count)) * 0.3
    s, k = np.sin(2 * time)[:, None], np.cos(3 * time)[:, None]
    ds, dk = 2 * np.cos(2 * time)[:, None], -3 * np.sin(3 * time)[:, None]
    return a + b * s + c * k, b * ds + c * dk, -4 * b * s - 9 * c * k


@pytest.fixture
def moving(person: OpenSimMechanics) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return wave(len(person.coordinates), np.linspace(0, 1, 7))


def test_pendulum_moment_is_the_textbook_formula() -> None:
    mass, length, inertia = 2.0, 0.7, 0.05
    mechanics = OpenSimMechanics(pendulum(mass, length, inertia))
    angle, _, acceleration = q, qd, qdd = wave(1, np.linspace(0, 2, 20))
    expected = (inertia + mass * length**2) * acceleration + mass * G * length * np.sin(angle)
    np.testing.assert_allclose(mechanics.inverse_dynamics(q, qd, qdd), expected, atol=1e-12)
    assert np.abs(OpenSimMechanics(pendulum(1.05 * mass, length, inertia)).inverse_dynamics(q, qd, qdd) - expected).max() > 0.05


def test_a_pendulum_has_no_root_but_inverse_dynamics() -> None:
    mechanics = OpenSimMechanics(pendulum())
    assert mechanics.root_coordinates == () and mechanics.root_body == "" and mechanics.foot_bodies == ()
    zero = np.zeros((2, 1))
    with pytest.raises(InputError, match="'pendulum' has no body that moves freely"):
        mechanics.root_wrench(zero, zero)
    with pytest.raises(InputError, match="moves freely"):
        mechanics.ground_wrench(zero, zero, zero)


def test_free_fall_leaves_nothing_on_the_root(person: OpenSimMechanics) -> None:
    still = np.tile(person.default_values, (1, 1))
    falling = np.zeros_like(still)
    falling[0, person.coordinates.index("pelvis_ty")] = -G
    force = person.inverse_dynamics(still, 0 * still, falling)
    np.testing.assert_allclose(force, 0.0, atol=1e-9)
    standing = person.inverse_dynamics(still, 0 * still, 0 * still)
    assert standing[0, person.coordinates.index("pelvis_ty")] == pytest.approx(person.mass * G)


def test_ground_wrench_closes_the_root(person: OpenSimMechanics, moving: tuple[np.ndarray, ...]) -> None:
    wrench = person.ground_wrench(*moving)
    origin = np.zeros((7, 3))
    root = [person.coordinates.index(n) for n in person.root_coordinates]
    for body in person.foot_bodies:
        closed = person.inverse_dynamics(*moving, [BodyLoad(body, wrench[:, :3], origin, wrench[:, 3:])])
        assert np.abs(closed[:, root]).max() < 1e-8
    shifted = person.inverse_dynamics(*moving, [BodyLoad(body, wrench[:, :3], origin + 0.01, wrench[:, 3:])])
    assert np.abs(shifted[:, root]).max() > 1.0


def test_root_wrench_is_the_ground_wrench_about_the_root(person: OpenSimMechanics, moving: tuple[np.ndarray, ...]) -> None:
    wrench = person.ground_wrench(*moving)
    held = person.root_wrench(moving[0], person.inverse_dynamics(*moving))
    origin = person.point_kinematics(*moving, person.root_body, np.zeros(3))[0][:, 0]
    np.testing.assert_allclose(held[:, :3], wrench[:, :3], atol=1e-9)
    np.testing.assert_allclose(held[:, 3:] + np.cross(origin, held[:, :3]), wrench[:, 3:], atol=1e-9)


def test_ground_force_is_mass_times_acceleration_of_the_center_of_mass(person: OpenSimMechanics, moving: tuple[np.ndarray, ...]) -> None:
    acceleration = person.center_of_mass(*moving)[2]
    np.testing.assert_allclose(person.ground_wrench(*moving)[:, :3], person.mass * (acceleration - person.gravity), atol=1e-9)


@pytest.mark.parametrize("make", ["person", "free joint"])
def test_velocities_and_accelerations_are_derivatives(make: str, person: OpenSimMechanics) -> None:
    mechanics = person if make == "person" else OpenSimMechanics(free_chain())
    time = 0.4 + 1e-4 * np.arange(-2, 3)
    motion = wave(len(mechanics.coordinates), time)
    body = mechanics.bodies[-1]
    for position, velocity, acceleration in (mechanics.center_of_mass(*motion), mechanics.point_kinematics(*motion, body, [[0.1, 0.2, 0.3]])):
        np.testing.assert_allclose((position[3] - position[1]) / 2e-4, velocity[2], atol=1e-6)
        np.testing.assert_allclose((velocity[3] - velocity[1]) / 2e-4, acceleration[2], atol=1e-5)


@pytest.mark.parametrize("make", ["person", "free joint"])
def test_power_of_the_generalized_forces_is_the_change_of_energy(make: str, person: OpenSimMechanics) -> None:
    mechanics = person if make == "person" else OpenSimMechanics(free_chain())
    time = 0.4 + 1e-4 * np.arange(-1, 2)
    q, qd, qdd = wave(len(mechanics.coordinates), time)
    energy = kinetic_energy(mechanics, q, qd) - mechanics.mass * mechanics.center_of_mass(q, qd, qdd)[0] @ mechanics.gravity
    power = (mechanics.inverse_dynamics(q, qd, qdd) * qd).sum(axis=1)
    assert (energy[2] - energy[0]) / 2e-4 == pytest.approx(power[1], abs=1e-4)


def kinetic_energy(mechanics: OpenSimMechanics, q: np.ndarray, qd: np.ndarray) -> np.ndarray:
    """Half of qd M qd, with M from the linearity of inverse dynamics in the accelerations."""
    out = []
    for pose, rate in zip(q, qd, strict=True):
        still = np.stack([pose, pose])
        inertia = mechanics.inverse_dynamics(still, 0 * still, np.stack([rate, 0 * rate]))
        out.append(0.5 * rate @ (inertia[0] - inertia[1]))
    return np.array(out)


def test_frames_with_nan_come_out_nan_and_leave_the_others_alone(person: OpenSimMechanics, moving: tuple[np.ndarray, ...]) -> None:
    q = moving[0].copy()
    q[3, 2] = np.nan
    force, whole = person.inverse_dynamics(q, *moving[1:]), person.inverse_dynamics(*moving)
    assert np.isnan(force[3]).all()
    np.testing.assert_array_equal(np.delete(force, 3, axis=0), np.delete(whole, 3, axis=0))


def test_unknown_names_list_the_nearest(person: OpenSimMechanics, moving: tuple[np.ndarray, ...]) -> None:
    load = BodyLoad("calcn_R2", np.zeros((7, 3)), np.zeros((7, 3)), np.zeros((7, 3)))
    with pytest.raises(UnknownNameError, match="nearest: calcn_"):
        person.inverse_dynamics(*moving, [load])
    with pytest.raises(UnknownNameError, match="marker 'nose'"):
        person.marker_positions(moving[0], ["nose"])
    with pytest.raises(InputError, match="one column for each coordinate"):
        person.inverse_dynamics(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 3)))


def test_forces_of_the_model_are_left_out_and_named(tmp_path: Path) -> None:
    osim, model = import_opensim(), pendulum()
    spring = osim.SpringGeneralizedForce(model.getCoordinateSet().get(0).getName())
    spring.setName("stiff_spring")
    spring.setStiffness(1e4)
    model.addForce(spring)
    q = np.array([[0.5]])
    mechanics = OpenSimMechanics(model)
    assert mechanics.excluded_forces == ("stiff_spring",)
    np.testing.assert_allclose(mechanics.inverse_dynamics(q, 0 * q, 0 * q), OpenSimMechanics(pendulum()).inverse_dynamics(q, 0 * q, 0 * q))
    assert model.getForceSet().getSize() == 1
    assert not list(tmp_path.iterdir())


def test_units_tell_translations_from_rotations(person: OpenSimMechanics) -> None:
    units = dict(zip(person.coordinates, person.units, strict=True))
    assert [units[n] for n in ("pelvis_tx", "pelvis_tilt", "knee_angle_r")] == ["N", "N m", "N m"]
