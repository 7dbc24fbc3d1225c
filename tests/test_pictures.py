"""Pictures of simulated people: that they show what they say, at a size one can read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.image import imread
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from imdy_plugin.adapters.smpl.motion import BodyMotion
from imdy_plugin.adapters.smpl.topology import JOINTS
from imdy_plugin.errors import InputError
from imdy_plugin.schema import GRAVITY
from imdy_plugin.sim.imitator.evaluation import Imitated, sole_track
from imdy_plugin.sim.pictures import foot_tracks, imitation_strip, motion_strip
from imdy_plugin.sim.standin import build_standin

Array = NDArray[np.float64]
ORANGE, BLUE = (0xC8, 0x44, 0x1B), (0x2B, 0x8C, 0xC4)


@pytest.fixture(scope="module")
def person() -> xr.Dataset:
    return build_standin(1.75, 75.0)


@pytest.fixture(scope="module")
def stepping(person: xr.Dataset) -> BodyMotion:
    """Two seconds of legs that swing, moving along x, arms down."""
    time = np.arange(121) / 60.0
    turned = np.zeros((121, len(JOINTS), 3))
    for side, phase in (("right", 0.0), ("left", np.pi)):
        turned[:, JOINTS.index(f"{side}_hip"), 2] = 0.4 * np.cos(2 * np.pi * time + phase)
        turned[:, JOINTS.index(f"{side}_shoulder"), 0] = 1.3 if side == "right" else -1.3
    rotation = Rotation.from_rotvec(turned.reshape(-1, 3)).as_quat(scalar_first=True).reshape(121, len(JOINTS), 4)
    flying = BodyMotion(time, np.zeros((121, 3)), rotation, "step", {"activity": "walk"})
    lowest = np.minimum(*(sole_track(flying, person, side).lowest for side in ("right", "left")))
    return replace(flying, root_position=np.stack([1.2 * time, -lowest, 0 * time], axis=-1))


@pytest.fixture(scope="module")
def imitated(stepping: BodyMotion, person: xr.Dataset) -> Imitated:
    force = np.zeros((120, len(JOINTS), 3))
    force[:, JOINTS.index("right_ankle"), 1] = 75.0 * GRAVITY
    place = stepping.root_position[:-1] * [1.0, 0.0, 1.0]
    moment = np.zeros_like(force)
    moment[:, JOINTS.index("right_ankle")] = np.cross(place, force[:, JOINTS.index("right_ankle")])
    return Imitated(stepping, stepping.placed(np.array([0.05, 0.0, 0.0])), person, np.zeros((120, 2, 23, 3)), force, moment, "puppet")


def _share(path: Path, colour: tuple[int, int, int]) -> float:
    """Share of the pixels of a picture that have a colour."""
    pixels = imread(path)[..., :3] * 255.0
    return float((np.abs(pixels - colour).max(axis=-1) < 4).mean())


def _columns(path: Path, colour: tuple[int, int, int]) -> int:
    """How many separate things of a colour stand beside each other."""
    pixels = imread(path)[..., :3] * 255.0
    seen = (np.abs(pixels - colour).max(axis=-1) < 4).any(axis=0)
    return int((np.diff(seen.astype(int)) == 1).sum())


def test_a_strip_shows_reference_imitation_and_forces(imitated: Imitated, tmp_path: Path) -> None:
    imitation_strip(tmp_path / "strip.png", imitated)
    height, width = imread(tmp_path / "strip.png").shape[:2]
    assert 600 < height < 2400 and 800 < width < 2400
    assert _share(tmp_path / "strip.png", BLUE) > 0.005
    assert _share(tmp_path / "strip.png", ORANGE) > 0.0005


def test_without_forces_there_are_no_arrows(imitated: Imitated, tmp_path: Path) -> None:
    motion_strip(tmp_path / "strip.png", imitated.reference, imitated.imitation, imitated.person)
    assert _share(tmp_path / "strip.png", ORANGE) == 0.0


def test_a_reference_alone_is_grey(stepping: BodyMotion, person: xr.Dataset, tmp_path: Path) -> None:
    motion_strip(tmp_path / "strip.png", stepping, None, person, title="reference")
    assert _share(tmp_path / "strip.png", BLUE) == 0.0


@pytest.mark.parametrize("heading", [2.0, np.pi])
def test_whoever_walks_anywhere_is_seen_from_the_side(heading: float, stepping: BodyMotion, imitated: Imitated, person: xr.Dataset, tmp_path: Path) -> None:
    """The picture does not depend on the direction of the walk."""

    def turned(motion: BodyMotion) -> BodyMotion:
        turn = Rotation.from_rotvec([0.0, heading, 0.0])
        rotation = motion.rotation_wxyz.copy()
        rotation[:, 0] = (turn * Rotation.from_quat(rotation[:, 0], scalar_first=True)).as_quat(scalar_first=True)
        return replace(motion, root_position=turn.apply(motion.root_position), rotation_wxyz=rotation)

    turn = Rotation.from_rotvec([0.0, heading, 0.0]).as_matrix()
    motion_strip(tmp_path / "there.png", turned(stepping), turned(imitated.imitation), person, instants=3)
    motion_strip(tmp_path / "here.png", stepping, imitated.imitation, person, instants=3)
    assert np.abs(imread(tmp_path / "there.png") - imread(tmp_path / "here.png")).mean() < 1e-3
    force, moment = imitated.ground_force @ turn.T, imitated.ground_moment @ turn.T
    motion_strip(tmp_path / "with.png", turned(stepping), turned(imitated.imitation), person, ground_force=force, ground_moment=moment, instants=3)
    assert _share(tmp_path / "with.png", ORANGE) > 0.0005


def test_an_imitation_that_fell_is_drawn_as_far_as_it_got(imitated: Imitated, tmp_path: Path) -> None:
    steps = 20
    fell = replace(
        imitated,
        imitation=imitated.imitation.part(0, steps + 1),
        torque=imitated.torque[:steps],
        ground_force=imitated.ground_force[:steps],
        ground_moment=imitated.ground_moment[:steps],
        failure="0.51 m off at 0.33 s",
    )
    imitation_strip(tmp_path / "strip.png", fell)
    foot_tracks(tmp_path / "feet.png", fell)
    at_once = replace(
        fell, imitation=fell.imitation.part(0, 1), torque=fell.torque[:0], ground_force=fell.ground_force[:0], ground_moment=fell.ground_moment[:0]
    )
    imitation_strip(tmp_path / "at_once.png", at_once)
    foot_tracks(tmp_path / "no_feet.png", at_once)
    assert imread(tmp_path / "at_once.png").shape[1] < imread(tmp_path / "strip.png").shape[1]


def test_foot_tracks_show_when_a_foot_is_loaded(imitated: Imitated, tmp_path: Path) -> None:
    foot_tracks(tmp_path / "feet.png", imitated)
    loaded = _share(tmp_path / "feet.png", (0xF6, 0xE3, 0xDA))
    foot_tracks(tmp_path / "never.png", replace(imitated, ground_force=0 * imitated.ground_force))
    assert loaded > 0.1
    assert _share(tmp_path / "never.png", (0xF6, 0xE3, 0xDA)) < 0.01


def test_the_number_of_figures_is_the_number_of_instants(stepping: BodyMotion, person: xr.Dataset, tmp_path: Path) -> None:
    trunk = (0xC3, 0xC8, 0xCF)
    for instants in (2, 5):
        motion_strip(tmp_path / "strip.png", stepping, None, person, instants=instants)
        assert _columns(tmp_path / "strip.png", trunk) >= instants


def test_what_does_not_fit_is_refused(imitated: Imitated, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing fits"):
        motion_strip(tmp_path / "strip.png", imitated.reference.part(0, 10), imitated.imitation, imitated.person)
    with pytest.raises(InputError, match="nothing fits"):
        motion_strip(tmp_path / "strip.png", imitated.reference, None, imitated.person, instants=0)
    assert not list(tmp_path.iterdir())
