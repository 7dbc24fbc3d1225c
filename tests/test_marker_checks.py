"""What markers are asked before anything is computed from them."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from imdy_plugin.adapters.c3d import C3dReader
from imdy_plugin.adapters.marker_checks import check_markers, common_prefix, find_landmarks, swapped_sides, vertical_direction
from imdy_plugin.adapters.trc import TrcReader
from imdy_plugin.errors import DataWarning, InputError
from imdy_plugin.schema import new_motion

BODY = {
    "R.Heel": (-0.08, 0.05, 0.1),
    "L.Heel": (-0.08, 0.05, -0.1),
    "R.Toe.Tip": (0.15, 0.04, 0.12),
    "L.Toe.Tip": (0.15, 0.04, -0.12),
    "R.ASIS": (0.1, 1.0, 0.12),
    "L.ASIS": (0.1, 1.0, -0.12),
    "V.Sacral": (-0.1, 1.02, 0.0),
    "R.Acromium": (0.0, 1.45, 0.2),
    "L.Acromium": (0.0, 1.45, -0.2),
    "Top.Head": (0.0, 1.75, 0.0),
}


def person(heading: float = 0.0, names: tuple[str, ...] = tuple(BODY), scale: float = 1.0, frames: int = 30) -> xr.Dataset:
    """Somebody who stands, and walks a little, toward ``heading`` [rad] about y."""
    t = np.arange(frames) / 100
    place = np.array([BODY[n] for n in BODY]) + np.stack([1.2 * t, 0.01 * np.sin(9 * t), 0 * t], -1)[:, None]
    c, s = np.cos(heading), np.sin(heading)
    turned = place @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T
    return new_motion(t, markers=(list(names), turned * scale))


def z_up(motion: xr.Dataset) -> xr.Dataset:
    p = motion["marker_position"].values
    return motion.assign(marker_position=(motion["marker_position"].dims, np.stack([p[..., 0], -p[..., 2], p[..., 1]], -1), {"units": "m"}))


@pytest.mark.parametrize("heading", [0.0, np.pi, np.pi / 2, 2.0])
def test_a_person_passes_whichever_way_they_walk(heading: float) -> None:
    check_markers(person(heading), height=1.8)


def test_somebody_who_turns_passes() -> None:
    motion = xr.concat([person(h, frames=10).assign_coords(time=np.arange(10) / 100 + i) for i, h in enumerate((0, 1.5, 3.0))], "time")
    check_markers(motion)


@pytest.mark.parametrize(("scale", "fix"), [(1000.0, "fit a person in mm"), (100.0, "in cm"), (0.001, "m where the file says mm"), (3.28084 * 12, "or in;")])
def test_a_wrong_unit_is_an_error_with_the_fix(scale: float, fix: str) -> None:
    with pytest.raises(InputError, match=f"which no person does; .*{fix}"):
        check_markers(person(scale=scale))


def test_z_up_given_as_y_up_is_an_error_with_the_fix() -> None:
    with pytest.raises(InputError, match=r"stand along \+z, not along \+y: .*\(x, z, -y\)"):
        check_markers(z_up(person()))


def test_z_up_without_known_names_is_warned_of() -> None:
    with pytest.warns(DataWarning, match="if y is not up"):
        check_markers(z_up(person(names=tuple(f"M{i}" for i in range(10)))))


def test_upside_down_is_an_error() -> None:
    motion = person()
    with pytest.raises(InputError, match="stand along -y"):
        check_markers(
            motion.assign(marker_position=motion["marker_position"] * [1, -1, -1]).assign(
                marker_position=lambda d: d["marker_position"].assign_attrs(units="m")
            )
        )


def test_left_and_right_swapped_is_warned_of_and_not_mended() -> None:
    swapped = tuple({"R": "L", "L": "R"}.get(n[0], n[0]) + n[1:] if n[1] == "." and n[0] in "RL" else n for n in BODY)
    motion = person(2.0, names=swapped)
    before = motion.copy(deep=True)
    with pytest.warns(DataWarning, match="swapped .* heel, toe, pelvis, shoulder"):
        check_markers(motion)
    xr.testing.assert_identical(motion, before)


def test_only_the_pelvis_swapped_is_named() -> None:
    names = tuple({"R.ASIS": "L.ASIS", "L.ASIS": "R.ASIS"}.get(n, n) for n in BODY)
    motion = person(names=names)
    assert swapped_sides(list(names), motion["marker_position"].values) == ["pelvis"]


def test_a_height_that_does_not_fit_is_warned_of() -> None:
    with pytest.warns(DataWarning, match="does not fit a body height of 180 m"):
        check_markers(person(), height=180)


@pytest.mark.parametrize("frames", [1, 2])
def test_a_marker_away_in_a_single_frame_is_warned_of_and_one_that_moved_is_not(frames: int) -> None:
    motion = person()
    motion["marker_position"].values[12 : 12 + frames, 3, 0] += 0.4
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_markers(motion)
    said = [str(w.message) for w in caught]
    assert [f"marker '{list(BODY)[3]}' is 0." in text and "single frame 12 (t = 0.12 s)" in text for text in said] == [True] * (frames == 1)


def test_a_body_that_leaps_is_warned_of() -> None:
    motion = person()
    motion["marker_position"].values[15:, :, 0] += 0.6
    with pytest.warns(DataWarning, match=r"markers leap by 0\.\d+ m from frame 14 to 15 \(t = 0\.15 s\); forces"):
        check_markers(motion)


def test_a_body_that_is_seen_again_elsewhere_after_a_while_does_not_leap() -> None:
    motion = person()
    motion["marker_position"].values[10:15] = np.nan
    motion["marker_position"].values[15:, :, 0] += 0.1
    check_markers(motion)


def test_no_marker_in_any_frame_is_an_error() -> None:
    motion = person()
    with pytest.raises(InputError, match="no marker is seen"):
        check_markers(motion.where(False).assign(marker_position=lambda d: d["marker_position"].assign_attrs(units="m")))


def test_a_motion_without_markers_passes() -> None:
    check_markers(new_motion([0.0, 0.1], coordinates=(["q"], np.zeros((2, 1)))))


@pytest.mark.parametrize(
    ("name", "kind", "side"),
    [
        ("RHEE", "heel", "right"),
        ("L.Heel.Bottom", "heel", "left"),
        ("R_FCC", "heel", "right"),
        ("r_calc", "heel", "right"),
        ("RxHeel", "heel", "right"),
        ("heel_l", "heel", "left"),
        ("Ann:LCAL", "heel", "left"),
        ("R.MT1", "toe", "right"),
        ("L_FM5", "toe", "left"),
        ("r_5meta", "toe", "right"),
        ("RP5MT", "toe", "right"),
        ("LxToe1", "toe", "left"),
        ("right toe", "toe", "right"),
        ("LASI", "pelvis", "left"),
        ("R_IPS", "pelvis", "right"),
        ("SACR", "pelvis", ""),
    ],
)
def test_landmarks_are_known_by_their_common_names(name: str, kind: str, side: str) -> None:
    assert find_landmarks(["x", name]) == {(kind, side): [1]}


@pytest.mark.parametrize("name", ["RTHI", "C7", "LELB", "RKNE", "L.Thigh.Top.Lateral", "heel", "RHeelAngle", "LToeMoment"])
def test_other_names_are_no_landmarks(name: str) -> None:
    assert find_landmarks([name]) == {}


def test_a_body_across_the_axes_has_no_vertical() -> None:
    place = np.array(list(BODY.values())) @ np.array([[1, 0, 0], [0, 0.7, 0.7], [0, -0.7, 0.7]])
    assert vertical_direction(list(BODY), place[None]) is None


@pytest.mark.parametrize(("labels", "prefix"), [(["a:x", "a:y"], "a:"), (["a:x", "b:y"], ""), (["x", "y"], ""), (["a:x", "y"], "")])
def test_a_prefix_is_common_only_when_all_have_it(labels: list[str], prefix: str) -> None:
    assert common_prefix(labels) == prefix


def test_every_recording_of_the_manifest_passes(data_dir: Path) -> None:
    with (data_dir / "MANIFEST.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows[::6]:
        reader = C3dReader() if row["marker_file"].endswith(".c3d") else TrcReader()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)
            motion = reader.read(data_dir / row["marker_file"])
        check_markers(motion, float(row["height_m"]) if row["height_m"] else None)


def test_a_mirrored_recording_is_warned_of(data_dir: Path) -> None:
    motion = TrcReader().read(data_dir / "bmc_walk_run/walk1.trc")
    with pytest.warns(DataWarning, match="right and left are swapped"):
        check_markers(motion)


def test_a_recording_with_z_up_is_refused(data_dir: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        motion = TrcReader().read(data_dir / "opensim_core_tests_moco/OpenSim/Common/Test/std_walking2_markers.trc")
    with pytest.raises(InputError, match=r"stand along \+z"):
        check_markers(motion)
