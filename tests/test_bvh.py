"""The .bvh door: what real files hold, and what a user gets."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imdy_plugin.adapters.bvh import BvhMotion, read_bvh
from imdy_plugin.errors import DataWarning, FileFormatError, ImdyError, UnknownNameError

TEXT = """HIERARCHY
ROOT Hips
{
  OFFSET 0 0 0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Yrotation Xrotation
  JOINT Chest
  {
    OFFSET 0 2 0
    CHANNELS 3 Xrotation Zrotation Yrotation
    End Site
    {
      OFFSET 0 0 1
    }
  }
}
MOTION
Frames: 2
Frame Time: 0.01
0 0 0 0 0 0 0 0 0
1 2 3 90 0 90 0 90 0
"""


def read(folder: Path, text: str | bytes) -> BvhMotion:
    path = folder / "motion.bvh"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_bvh(path)


def test_a_small_file_is_read_whole(tmp_path: Path) -> None:
    bvh = read(tmp_path, TEXT)
    assert bvh.joints == ("Hips", "Chest")
    assert bvh.parents == (-1, 0)
    assert bvh.channels[1] == ("Xrotation", "Zrotation", "Yrotation")
    np.testing.assert_array_equal(bvh.offsets, [[0, 0, 0], [0, 2, 0]])
    np.testing.assert_array_equal(bvh.ends["Chest"], [0, 0, 1])
    np.testing.assert_allclose(bvh.time, [0, 0.01])
    assert len(bvh) == 2


def test_rotations_apply_in_the_order_of_the_channels(tmp_path: Path) -> None:
    rotation, position = read(tmp_path, TEXT).world()
    np.testing.assert_allclose(position[0], [[0, 0, 0], [0, 2, 0]])
    # the last channel turns first: y to z about x, then z stays where x goes to y
    np.testing.assert_allclose(rotation[1, 0], [[0, 0, 1], [1, 0, 0], [0, 1, 0]], atol=1e-12)
    np.testing.assert_allclose(position[1], [[1, 2, 3], [1, 2, 5]], atol=1e-12)
    np.testing.assert_allclose(rotation[1, 1], rotation[1, 0] @ [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-12)


def test_another_order_of_channels_is_another_rotation(tmp_path: Path) -> None:
    other = read(tmp_path, TEXT.replace("Zrotation Yrotation Xrotation", "Xrotation Yrotation Zrotation"))
    assert np.abs(other.world()[0][1, 0] - read(tmp_path, TEXT).world()[0][1, 0]).max() > 0.5


def test_joints_with_places_of_their_own_are_moved(tmp_path: Path) -> None:
    text = TEXT.replace("CHANNELS 3 Xrotation Zrotation Yrotation", "CHANNELS 3 Zposition Xposition Yposition")
    np.testing.assert_allclose(read(tmp_path, text).world()[1][0, 1], [0, 0, 0])


@pytest.mark.parametrize("change", [lambda t: t.replace("\n", "\r\n"), lambda t: "\ufeff" + t, lambda t: t.replace("\n", "\r"), lambda t: t.rstrip()])
def test_line_ends_and_byte_order_marks_change_nothing(tmp_path: Path, change: object) -> None:
    np.testing.assert_array_equal(read(tmp_path, change(TEXT)).values, read(tmp_path, TEXT).values)  # type: ignore[operator]


def test_a_header_that_lies_about_frames_is_warned_of(tmp_path: Path) -> None:
    with pytest.warns(DataWarning, match="states 5 frames, the file holds 2"):
        assert len(read(tmp_path, TEXT.replace("Frames: 2", "Frames: 5"))) == 2


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("MOTION\n", "", "no line 'MOTION'"),
        ("HIERARCHY\n", "", "line 1: .* where HIERARCHY must stand"),
        ("1 2 3 90 0 90 0 90 0", "1 2 3 90 0 90 0 90", "line 20: 8 values where the channels are 9"),
        ("1 2 3 90", "1 2 nan 90", "line 20, column 3: nan is not finite"),
        ("1 2 3 90", "1 2 x3 90", "line 20, column 3: 'x3' is not a number"),
        ("Xrotation Zrotation Yrotation", "Xrotation Zrotation Yrotatoin", "line 9: unknown channel 'Yrotatoin'.*Yrotation"),
        ("CHANNELS 3 X", "CHANNELS 4 X", "line 9: 'CHANNELS 4' followed by 3 names"),
        ("Xrotation Zrotation Yrotation", "Xrotation Zrotation Zrotation", "line 9: a channel named twice"),
        ("Frame Time: 0.01", "Frame Time: 0", "line 18: Frame Time is 0"),
        ("Frame Time: 0.01", "Frame Time: -0.01", "Frame Time is -0.01"),
        ("Frame Time: 0.01", "Frame Time: inf", "inf is not finite"),
        ("Frame Time: 0.01\n", "", "'Frame Time:' must follow MOTION"),
        ("OFFSET 0 2 0", "OFFSET 0 2", "line 8: 2 values where 3 must stand"),
        ("    OFFSET 0 2 0\n", "", "no OFFSET in Chest"),
        ("OFFSET 0 2 0", "OFFSET 0 2 inf", "line 8, column 3: inf is not finite"),
        ("JOINT Chest", "JOINT Hips", "line 6: joint 'Hips' occurs twice"),
        ("}\nMOTION", "MOTION", "1 braces not closed"),
        ("}\nMOTION", "}\n}\nMOTION", "'}' without its '{'"),
        ("JOINT Chest", "JONIT Chest", "line 6: unknown word 'JONIT'.*JOINT"),
        ("JOINT Chest", "ROOT Chest", "line 6: ROOT 'Chest' where it must not stand"),
        ("0 0 0 0 0 0 0 0 0\n1 2 3 90 0 90 0 90 0\n", "", "no frames"),
        ("Hips", "\0", "zero bytes"),
    ],
)
def test_a_damaged_file_says_what_and_where(tmp_path: Path, old: str, new: str, found: str) -> None:
    assert old in TEXT
    with pytest.raises(FileFormatError, match=found):
        read(tmp_path, TEXT.replace(old, new, 1))


def test_utf16_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="UTF-16"):
        read(tmp_path, TEXT.encode("utf-16"))


def test_an_unknown_joint_lists_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="nearest: Chest"):
        read(tmp_path, TEXT).index("chest1")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(TEXT) - 1), st.integers(0, 12), st.text(alphabet="{}0-9.: \nJOINTend", max_size=8))
def test_whatever_is_cut_or_put_in_ends_in_an_error_of_ours(tmp_path: Path, start: int, length: int, put: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        try:
            bvh = read(tmp_path, TEXT[:start] + put + TEXT[start + length :])
        except ImdyError:
            return
    assert np.isfinite(bvh.values).all()
    assert bvh.frame_time > 0
