"""Force plates of every type, against wrenches that are known and against an independent reader."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from imdy_plugin.adapters.c3d_bytes import C3dFile, read_c3d_bytes
from imdy_plugin.adapters.force_plates import plate_wrench, read_plates
from imdy_plugin.errors import DataWarning, FileFormatError

Array = NDArray[np.float64]

RATE = 1000.0
Z_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
PLATE_AXES = np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, -1]])
"""Columns are a plate's axes in a z-up laboratory: z into the floor, turned by 90 degrees."""
CENTRE = np.array([1500.0, -300.0, 2.0])
HALF = np.array([230.0, 300.0])
ORIGIN = {1: [3.0, -2.0, 0.0], 2: [1.5, -0.7, -41.0], 3: [210.0, 130.0, -55.0], 4: [0.9, 1.2, -59.0]}
CALIBRATION = np.diag([2.9, 3.0, 11.0, 900.0, 850.0, 600.0]) + 0.01 * np.arange(36).reshape(6, 6)


def corners() -> Array:
    signs = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    return CENTRE + (signs * HALF) @ PLATE_AXES[:, :2].T


def known_wrench(samples: int = 600) -> tuple[Array, Array, Array, NDArray[np.bool_]]:
    """Reaction on a person in plate axes [N], where it acts from the surface's centre [mm], twist [N mm], contact."""
    t = np.arange(samples) / samples
    contact = (t > 0.3) & (t < 0.8)
    bump = np.where(contact, np.sin(np.pi * np.clip((t - 0.3) / 0.5, 0, 1)) * 800 + 50, 0.0)
    force = np.column_stack([0.1 * bump, -0.15 * bump * np.cos(6 * t), -bump])
    point = np.column_stack([-120 + 300 * t, 40 * np.sin(5 * t), 0 * t])
    return force, point, 3000 * np.sin(8 * t) * contact, contact


def channels(kind: int, force: Array, point: Array, twist: Array) -> Array:
    """What the plate's amplifier puts out, from where its transducers sit."""
    origin = np.array(ORIGIN[kind])
    if kind == 1:
        return np.column_stack([force, point[:, :2] + origin[:2], twist])
    arm = point + (origin if kind != 3 else [0, 0, origin[2]])
    moment = np.cross(arm, force) + twist[:, None] * [0, 0, 1]
    if kind == 3:
        return piezo_channels(force, moment, origin)
    wrench = np.hstack([force, moment])
    return wrench if kind == 2 else np.linalg.solve(CALIBRATION, wrench.T).T


def piezo_channels(force: Array, moment: Array, origin: Array) -> Array:
    """Loads of transducers at (a, b), (-a, b), (-a, -b), (a, -b) that add up to a wrench."""
    a, b = origin[:2]
    x, y = np.array([a, -a, -a, a]), np.array([b, b, -b, -b])
    vertical = np.linalg.lstsq(np.stack([np.ones(4), y, -x]), np.stack([force[:, 2], moment[:, 0], moment[:, 1]]), rcond=None)[0].T
    rows = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [-b, b, a, -a]], float)
    shear = np.linalg.lstsq(rows, np.stack([force[:, 0], force[:, 1], moment[:, 2]]), rcond=None)[0].T
    return np.hstack([shear, vertical])


def file_of(kind: int, analog: Array, **changes: Any) -> C3dFile:
    platform: dict[str, Any] = {
        "USED": np.array([1]),
        "TYPE": np.array([kind]),
        "CORNERS": corners().T[..., None],
        "ORIGIN": np.array(ORIGIN[kind])[:, None],
        "CHANNEL": np.arange(1, analog.shape[1] + 1)[:, None],
    }
    if kind == 4:
        platform["CAL_MATRIX"] = CALIBRATION[..., None]
    units = ["N"] * 8 if kind == 3 else ["N", "N", "N", *(["mm", "mm", "Nmm"] if kind == 1 else ["Nmm"] * 3)]
    parameters: Mapping[str, Mapping[str, Any]] = {"FORCE_PLATFORM": platform | changes, "ANALOG": {"UNITS": units}}
    return C3dFile(Path("made.c3d"), parameters, np.zeros((60, 1, 3)), 100.0, 1, analog, RATE)


def expected() -> tuple[Array, Array, Array]:
    force, point, twist, contact = known_wrench()
    to_ground = Z_UP @ PLATE_AXES
    place = (CENTRE @ Z_UP.T + point @ to_ground.T) / 1000
    return force @ to_ground.T, np.where(contact[:, None], place, np.nan), twist[:, None] * to_ground[:, 2] / 1000


@pytest.mark.parametrize("kind", [1, 2, 3, 4])
def test_a_known_wrench_comes_back_in_the_ground_frame(kind: int) -> None:
    force, point, twist, contact = known_wrench()
    plate = read_plates(file_of(kind, channels(kind, force, point, twist)), Z_UP, 0.001)[0]
    for found, wanted in zip((plate.force, plate.center_of_pressure, plate.free_moment), expected(), strict=True):
        np.testing.assert_allclose(found[contact], wanted[contact], atol=1e-8)
    assert plate.force[contact][:, 1].min() > 0
    np.testing.assert_array_equal(plate.contact, contact)
    assert not plate.force[~contact].any()
    assert np.isnan(plate.center_of_pressure[~contact]).all()
    assert plate.time[1] == pytest.approx(0.001)


@pytest.mark.parametrize("kind", [1, 2, 3, 4])
def test_with_another_origin_the_center_of_pressure_moves(kind: int) -> None:
    """Negative control: the origin is used."""
    force, point, twist, contact = known_wrench()
    moved = np.array(ORIGIN[kind])[:, None] + np.array([[20.0], [0.0], [-30.0]])
    plate = read_plates(file_of(kind, channels(kind, force, point, twist), ORIGIN=moved), Z_UP, 0.001)[0]
    assert np.abs(plate.center_of_pressure - expected()[1])[contact].max() > 0.004


def test_without_its_calibration_matrix_type_4_is_far_off() -> None:
    force, point, twist, contact = known_wrench()
    plate = read_plates(file_of(4, channels(4, force, point, twist), CAL_MATRIX=np.eye(6)[..., None]), Z_UP, 0.001)[0]
    assert np.abs(plate.force - expected()[0])[contact].max() > 100


def test_a_transposed_calibration_matrix_is_off() -> None:
    force, point, twist, contact = known_wrench()
    plate = read_plates(file_of(4, channels(4, force, point, twist), CAL_MATRIX=CALIBRATION.T[..., None]), Z_UP, 0.001)[0]
    assert np.abs(plate.center_of_pressure - expected()[1])[contact].max() > 1e-4


def test_a_depth_given_as_positive_is_taken_as_below_the_surface() -> None:
    force, point, twist, contact = known_wrench()
    turned = -np.array(ORIGIN[2])[:, None]
    plate = read_plates(file_of(2, channels(2, force, point, twist), ORIGIN=turned), Z_UP, 0.001)[0]
    np.testing.assert_allclose(plate.center_of_pressure[contact], expected()[1][contact], atol=1e-8)


def test_an_action_on_the_plate_is_turned_into_the_reaction_and_said() -> None:
    force, point, twist, contact = known_wrench()
    plate = read_plates(file_of(2, -channels(2, force, point, twist)), Z_UP, 0.001)[0]
    np.testing.assert_allclose(plate.force[contact], expected()[0][contact], atol=1e-8)
    assert "signs turned" in plate.note


@pytest.mark.parametrize("kind", [2, 3, 4])
def test_the_offset_of_an_unloaded_plate_is_removed_and_warned_of(kind: int) -> None:
    force, point, twist, contact = known_wrench()
    loaded = channels(kind, force, point, twist)
    offset = channels(kind, np.array([[5.0, -3.0, -30.0]]), np.array([[50.0, 20.0, 0.0]]), np.array([200.0]))
    with pytest.warns(DataWarning, match=r"plate 1 reads 30.6 N while nothing stands on it"):
        plate = read_plates(file_of(kind, loaded + offset), Z_UP, 0.001)[0]
    np.testing.assert_allclose(plate.force[contact], expected()[0][contact], atol=1e-8)
    np.testing.assert_allclose(plate.center_of_pressure[contact], expected()[1][contact], atol=1e-8)


def test_a_plate_that_is_never_unloaded_keeps_its_load() -> None:
    force, point, twist = np.tile([[0.0, 0.0, -700.0]], (600, 1)), np.zeros((600, 3)), np.zeros(600)
    plate = read_plates(file_of(2, channels(2, force, point, twist)), Z_UP, 0.001)[0]
    assert plate.contact.all()
    assert "never unloaded" in plate.note
    np.testing.assert_allclose(plate.force[:, 1], 700)


def test_the_offset_is_kept_on_request() -> None:
    force, point, twist, contact = known_wrench()
    analog = channels(2, force, point, twist) + np.array([0, 0, -30.0, 0, 0, 0])
    plate = read_plates(file_of(2, analog), Z_UP, 0.001, 50.0, remove_offset=False)[0]
    np.testing.assert_allclose(plate.force[contact][:, 1], expected()[0][contact][:, 1] + 30)


def test_spikes_and_noise_are_no_contact() -> None:
    rng = np.random.default_rng(1)
    load = np.zeros((2000, 6))
    load[:, 2] = rng.normal(0, 8, 2000)
    load[500:505, 2] = -400
    assert not read_plates(file_of(2, load), Z_UP, 0.001)[0].contact.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"TYPE": np.array([6])}, "plate 1 is of type 6; types 1 to 4"),
        ({"CHANNEL": np.array([[1], [2], [3], [4], [5], [60]])}, r"names channels \[1, 2, 3, 4, 5, 60\], the file has 6"),
        ({"CORNERS": np.zeros((3, 4, 1))}, "CORNERS of plate 1 span 0"),
        ({"ORIGIN": np.zeros((2, 1))}, "ORIGIN holds 2 values for 1 plates"),
        ({"TYPE": np.zeros(0)}, "TYPE holds 0 values"),
    ],
)
def test_a_plate_that_is_not_described_is_an_error(changes: dict[str, Array], message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        read_plates(file_of(2, np.zeros((600, 6)), **changes), Z_UP, 0.001)


def test_a_sample_that_is_no_number_is_an_error_with_its_place() -> None:
    analog = np.zeros((600, 6))
    analog[123, 2] = np.nan
    with pytest.raises(FileFormatError, match="plate 1: channel 3 is not finite at sample 123"):
        read_plates(file_of(2, analog), Z_UP, 0.001)


def test_type_4_without_a_matrix_is_an_error() -> None:
    with pytest.raises(FileFormatError, match="CAL_MATRIX holds 0 values"):
        read_plates(file_of(4, np.zeros((600, 6)), CAL_MATRIX=np.zeros(0)), Z_UP, 0.001)


def test_the_moment_moves_with_the_force() -> None:
    """Three numbers by hand: 100 N down, 0.2 m along x and 0.1 m along y, transducers 0.05 m below."""
    load = np.array([[10.0, 0.0, -100.0, 0.0, 0.0, 0.0]])
    _, moment = plate_wrench(2, load, np.array([0.0, 0.0, -0.05]))
    np.testing.assert_allclose(moment, [[0.0, 0.5, 0.0]])


@pytest.mark.parametrize(
    ("path", "rotation"),
    [
        ("dorn_2012_running_sprint/JA1Gait21.c3d", Z_UP),
        ("fukuchi_rbds_2017_running/RBDS001/RBDS001runT25.c3d", np.eye(3)),
        ("bmc_walk_run/Gait.c3d", Z_UP),
    ],
)
def test_plates_agree_with_an_independent_reader(data_dir: Path, path: str, rotation: Array) -> None:
    import ezc3d

    plates = read_plates(read_c3d_bytes(data_dir / path), rotation, 0.001, remove_offset=False)
    others = ezc3d.c3d(str(data_dir / path), extract_forceplat_data=True)["data"]["platform"]
    assert len(others) == len(plates)
    for plate, other in zip(plates, others, strict=True):
        on = plate.contact
        np.testing.assert_allclose(plate.force[on], (other["force"].T @ rotation.T)[on], atol=1e-3)
        np.testing.assert_allclose(plate.center_of_pressure[on], (other["center_of_pressure"].T @ rotation.T)[on] / 1000, atol=1e-4)
        np.testing.assert_allclose(plate.free_moment[on], (other["Tz"].T @ rotation.T)[on] / 1000, atol=1e-2)
