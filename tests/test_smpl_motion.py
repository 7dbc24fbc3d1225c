"""Motions in AMASS's layout: layouts, axes, rates, and files that hold what they should not."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from imdy_plugin.adapters.smpl.amass import on_floor, read_amass, sole_heights, write_amass
from imdy_plugin.adapters.smpl.motion import BodyMotion, global_rotations, joint_positions
from imdy_plugin.adapters.smpl.npz import read_npz
from imdy_plugin.adapters.smpl.topology import FROM_SMPL, JOINTS
from imdy_plugin.errors import DataWarning, FileFormatError, InputError
from imdy_plugin.sim.standin import build_standin, joint_offsets

Array = NDArray[np.float64]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a motion of one second: a person who stands, facing the world's -y, and moves sideways; arrays by name replace its own, None leaves one out."""

    def save(name: str = "walk_poses.npz", width: int = 72, **arrays: Any) -> Path:
        poses = np.zeros((61, width))
        poses[:, 0] = np.pi / 2
        trans = np.stack([np.linspace(0, 1, 61), np.zeros(61), np.full(61, 0.9)], axis=1)
        content = {"poses": poses, "trans": trans, "mocap_framerate": 60.0, "betas": np.zeros(16), "gender": "female", **arrays}
        path = tmp_path / name
        np.savez(path, **{key: value for key, value in content.items() if value is not None})
        return path

    return save


def as_matrix(motion: BodyMotion, joint: str) -> Array:
    return np.asarray(Rotation.from_quat(motion.rotation_wxyz[:, JOINTS.index(joint)], scalar_first=True).as_matrix())


@pytest.mark.parametrize("name", ["mocap_framerate", "mocap_frame_rate"])
def test_both_spellings_of_the_frame_rate(write: Write, name: str) -> None:
    motion = read_amass(write(**{"mocap_framerate": None, name: np.array(60.0)}))
    assert motion.rate == pytest.approx(60.0)
    assert motion.duration == pytest.approx(1.0)


def test_no_frame_rate_is_an_error_and_may_be_given(write: Write) -> None:
    path = write(mocap_framerate=None)
    with pytest.raises(FileFormatError, match=r"no frame rate \(mocap_framerate or mocap_frame_rate\).*poses"):
        read_amass(path)
    assert read_amass(path, rate=30).rate == pytest.approx(30.0)


def test_frame_rates_that_differ_or_are_none(write: Write) -> None:
    with pytest.raises(FileFormatError, match="60 Hz, 120 Hz"):
        read_amass(write(mocap_frame_rate=120.0))
    with pytest.raises(FileFormatError, match="rate 0 Hz"):
        read_amass(write(mocap_framerate=0.0))


def test_a_rate_that_makes_the_body_fly_is_warned_of(write: Write) -> None:
    with pytest.warns(DataWarning, match=r"at 1500 Hz the pelvis moves at 25\.0 m/s from frame"):
        read_amass(write(mocap_framerate=1500.0))
    read_amass(write(mocap_framerate=1100.0))


def test_a_standing_person_faces_forward_and_moves_in_the_ground_frame(write: Write) -> None:
    motion = read_amass(write())
    np.testing.assert_allclose(global_rotations(motion)[0], np.tile(np.eye(3), (24, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(motion.root_position[0], [0.0, 0.9, 0.0], atol=1e-12)
    # the world's x is to the left of a person who faces its -y, and right is the ground frame's z
    np.testing.assert_allclose(motion.root_position[-1], [0.0, 0.9, -1.0], atol=1e-12)


def test_quaternions_are_scalar_first_and_turn_about_the_right_axis(write: Write) -> None:
    poses = np.zeros((61, 72))
    poses[:, 0] = np.pi / 2
    poses[:, 3 * JOINTS.index("left_knee")] = 0.5  # about SMPL's x, to the left: bends the knee backwards
    poses[:, 3 * JOINTS.index("neck") + 1] = 0.3
    motion = read_amass(write(poses=poses))
    knee = motion.rotation_wxyz[0, JOINTS.index("left_knee")]
    np.testing.assert_allclose(knee, [np.cos(0.25), 0.0, 0.0, -np.sin(0.25)], atol=1e-12)
    np.testing.assert_allclose(motion.rotation_wxyz[0, JOINTS.index("neck")], [np.cos(0.15), 0.0, np.sin(0.15), 0.0], atol=1e-12)
    shank = as_matrix(motion, "left_knee")[0] @ [0.0, -1.0, 0.0]
    assert shank[0] < 0 < 1 + shank[1]


@pytest.mark.parametrize(("width", "layout"), [(72, "SMPL"), (156, "SMPL+H"), (165, "SMPL-X")])
def test_layouts_give_the_same_body(write: Write, width: int, layout: str) -> None:
    vectors = np.random.default_rng(1).normal(0, 0.4, (61, width))
    vectors[:, :3] = [np.pi / 2, 0.1, 0.2]
    vectors[:, 66:] = 0.3
    motion = read_amass(write(width=width, poses=vectors))
    assert motion.attrs["layout"] == layout
    local = Rotation.from_rotvec(vectors[7, 3:66].reshape(-1, 3)).as_matrix()
    expected = FROM_SMPL @ local @ FROM_SMPL.T
    found = np.stack([as_matrix(motion, joint)[7] for joint in JOINTS[1:22]])
    np.testing.assert_allclose(found, expected, atol=1e-12)
    hands = motion.rotation_wxyz[:, 22:]
    assert (np.abs(hands[..., 0] - 1) < 1e-12).all() == (width != 72)


@pytest.mark.parametrize("width", [63, 69])
def test_split_layout(write: Write, width: int) -> None:
    body = np.random.default_rng(2).normal(0, 0.3, (61, width))
    root = np.tile([np.pi / 2, 0.0, 0.0], (61, 1))
    whole = np.zeros((61, 72))
    whole[:, :3], whole[:, 3 : 3 + width] = root, body
    split = read_amass(write("split.npz", poses=None, root_orient=root, pose_body=body))
    together = read_amass(write("whole.npz", poses=whole))
    np.testing.assert_allclose(split.rotation_wxyz, together.rotation_wxyz, atol=1e-15)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"poses": np.zeros((61, 71))}, r"poses have shape \(61, 71\); known are \(frames, 72\) SMPL, \(frames, 156\)"),
        ({"poses": np.zeros((61, 24, 3))}, r"poses have shape \(61, 24, 3\)"),
        ({"poses": np.zeros((0, 72)), "trans": np.zeros((0, 3))}, "no frames"),
        ({"trans": np.zeros((60, 3))}, r"trans has shape \(60, 3\).*must be \(61, 3\)"),
        ({"trans": None}, "no trans"),
        ({"poses": None}, "neither poses nor root_orient and pose_body"),
        ({"poses": None, "root_orient": np.zeros((61, 3)), "pose_body": np.zeros((61, 60))}, r"pose_body \(61, 60\)"),
        ({"poses": np.full((61, 72), np.nan)}, "'poses' holds NaN or infinite values, first in frame 0"),
        ({"poses": np.full((61, 72), "a")}, "'poses' holds <U1, not numbers"),
        ({"betas": np.arange(61 * 10.0).reshape(61, 10)}, "differ from row to row"),
    ],
)
def test_arrays_that_do_not_fit_are_named(write: Write, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        read_amass(write(**arrays))


def test_person_of_the_file(write: Write) -> None:
    attrs = read_amass(write(betas=np.tile(np.arange(16.0), (61, 1)), gender=np.array(b"Male"))).attrs
    assert attrs["betas"] == list(range(16))
    assert attrs["gender"] == "male"


def test_y_up_is_an_error_unless_said(write: Write) -> None:
    poses, trans = np.zeros((61, 72)), np.stack([np.zeros(61), np.full(61, 0.9), np.linspace(0, 1, 61)], axis=1)
    path = write(poses=poses, trans=trans)
    with pytest.raises(InputError, match="read_amass\\(path, up='y'\\)"):
        read_amass(path)
    motion = read_amass(path, up="y")
    np.testing.assert_allclose(global_rotations(motion)[0, 0], np.eye(3), atol=1e-12)
    np.testing.assert_allclose(motion.root_position[-1], [1.0, 0.9, 0.0], atol=1e-12)
    lying = read_amass(path, up="z")
    assert abs(global_rotations(lying)[0, 0, 1, 1]) < 1e-12


def test_the_pelvis_of_the_body_model_moves_the_root(write: Write) -> None:
    motion = read_amass(write(), pelvis=[0.0, -0.2, 0.03])
    # AMASS adds the pelvis joint's place in the T-pose to trans without turning it: -0.2 along the world's y, 0.03 along its z
    np.testing.assert_allclose(motion.root_position[0], [0.2, 0.93, 0.0], atol=1e-12)
    assert "not known" in read_amass(write()).attrs["log"]
    with pytest.raises(InputError, match="3 numbers"):
        read_amass(write(), pelvis=[0.0, 1.0])


def test_feet_below_the_floor_are_lifted_and_reported(write: Write) -> None:
    model = build_standin()
    stands = float(model["coordinate_default"].sel(coordinate="pelvis_ty"))
    low = read_amass(write(trans=np.tile([0.0, 0.0, stands - 0.3], (61, 1))), model)
    assert low.attrs["floor_shift"] == pytest.approx(0.3, abs=1e-9)
    assert "moved up by 0.3000 m: the feet were below the floor" in low.attrs["log"]
    assert sole_heights(low, model).min() == pytest.approx(0.0, abs=1e-9)
    high = read_amass(write(trans=np.tile([0.0, 0.0, stands + 0.3], (61, 1))), model)
    assert high.attrs["floor_shift"] == 0.0
    assert sole_heights(high, model).min() == pytest.approx(0.3, abs=1e-9)
    lowered = on_floor(high, model, lower=True)
    assert lowered.attrs["floor_shift"] == pytest.approx(-0.3, abs=1e-9)
    assert sole_heights(lowered, model).min() == pytest.approx(0.0, abs=1e-9)


def random_motion(frames: int = 40) -> BodyMotion:
    rng = np.random.default_rng(3)
    rotation = Rotation.from_rotvec(rng.normal(0, 0.8, (frames * 24, 3))).as_quat(scalar_first=True).reshape(frames, 24, 4)
    root = Rotation.from_euler("YZ", np.stack([np.linspace(0, 5, frames), np.full(frames, 0.2)], axis=1))
    rotation[:, 0] = root.as_quat(scalar_first=True)
    return BodyMotion(np.arange(frames) / 100, rng.normal((0.0, 1.0, 0.0), 0.02, (frames, 3)), rotation, "random", {"betas": [0.5, -1.0], "gender": "male"})


@pytest.mark.parametrize("pelvis", [None, (0.01, -0.2, 0.03)])
def test_round_trip(tmp_path: Path, pelvis: tuple[float, float, float] | None) -> None:
    motion = random_motion()
    path = write_amass(tmp_path / "out.npz", motion, pelvis=pelvis)
    back = read_amass(path, pelvis=pelvis)
    np.testing.assert_allclose(back.time, motion.time, atol=1e-12)
    np.testing.assert_allclose(back.root_position, motion.root_position, atol=1e-14)
    np.testing.assert_allclose(global_rotations(back), global_rotations(motion), atol=1e-13)
    offsets = joint_offsets(build_standin())
    np.testing.assert_allclose(joint_positions(back, offsets), joint_positions(motion, offsets), atol=1e-13)
    assert (back.attrs["betas"], back.attrs["gender"]) == ([0.5, -1.0], "male")
    assert np.abs(read_amass(path, pelvis=(0.0, 0.0, 0.1)).root_position - motion.root_position).max() > 0.05


def test_writing_replaces_nothing_unasked(tmp_path: Path) -> None:
    path = write_amass(tmp_path / "out.npz", random_motion())
    with pytest.raises(InputError, match="exists"):
        write_amass(path, random_motion())
    write_amass(path, random_motion(), force=True)
    with pytest.raises(InputError, match=r"ends in \.npz"):
        write_amass(tmp_path / "out.pkl", random_motion())
    motion = random_motion()
    motion.time[3] += 0.004
    with pytest.raises(InputError, match="not evenly spaced"):
        write_amass(tmp_path / "uneven.npz", motion)


# Files that are not what they say ------------------------------------------------------------------------------------------------


class _Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_object_arrays_are_refused_and_nothing_runs(write: Write, tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    objects = np.empty(1, dtype=object)
    objects[0] = _Trap(trap)
    with pytest.raises(FileFormatError, match="array 'poses' holds Python objects"):
        read_amass(write(poses=objects))
    assert read_amass(write(markers_latent_vids=objects)).rate == pytest.approx(60.0)  # not asked for, not opened
    assert not trap.exists()
    with np.load(write(poses=objects), allow_pickle=True) as file:
        assert file["poses"].size == 1
    assert trap.exists()  # the trap works where a file is unpickled


def test_truncated_files_are_our_error(write: Write, tmp_path: Path) -> None:
    whole = write().read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        path = tmp_path / "cut.npz"
        path.write_bytes(whole[:size])
        with pytest.raises(FileFormatError, match="no whole"):
            read_amass(path)
    with pytest.raises(FileFormatError, match="no such file"):
        read_amass(tmp_path / "absent.npz")
    with pytest.raises(FileFormatError, match="folder"):
        read_npz(tmp_path)


def test_damaged_data_is_our_error(write: Write) -> None:
    path = write()
    content = bytearray(path.read_bytes())
    middle = content.index(b"poses.npy") + 4000
    content[middle : middle + 8] = b"\xff" * 8
    path.write_bytes(bytes(content))
    with pytest.raises(FileFormatError, match="no whole"):
        read_amass(path)


def test_damage_anywhere_is_our_error_or_none(write: Write, tmp_path: Path) -> None:
    whole, rng, refused = write().read_bytes(), np.random.default_rng(0), 0
    ends = [*range(300), *range(len(whole) - 700, len(whole))]
    for _ in range(150):
        content = bytearray(whole)
        for at in rng.choice(ends, 3):
            content[at] = rng.integers(256)
        (tmp_path / "damaged.npz").write_bytes(bytes(content))
        try:
            read_npz(tmp_path / "damaged.npz")
        except FileFormatError:
            refused += 1
    assert refused > 100


def npy_header(shape: tuple[int, ...], kind: str = "<f8") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def test_an_array_that_says_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.npz", {"poses": npy_header((10**12, 72)) + bytes(800)})
    with pytest.raises(FileFormatError, match=r"'poses' of shape \(1000000000000, 72\) needs 576000000000128 bytes, the file declares 928"):
        read_npz(path)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zip(tmp_path / "bomb.npz", {"poses": npy_header((72 * 10**5,)) + bytes(8 * 72 * 10**5)})
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_, **__: pytest.fail("something was unpacked"))
    with pytest.raises(FileFormatError, match=r"unpacks to 0\.0536 GiB, at most 0\.00977 are read"):
        read_npz(path, largest=10 * 1024**2)


def test_an_archive_that_unpacks_to_more_than_it_declares_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "liar.npz", {"poses": npy_header((100,)) + bytes(8 * 10**6)})
    honest = len(npy_header((100,))) + 800
    content = bytearray(path.read_bytes())
    for at in (content.index(b"PK\x03\x04") + 22, content.index(b"PK\x01\x02") + 24):
        content[at : at + 4] = struct.pack("<I", honest)
    path.write_bytes(bytes(content))
    with pytest.raises(FileFormatError, match=r"no whole|another size"):
        read_npz(path)


def test_members_that_are_no_arrays(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="'poses' is no array"):
        read_npz(write_zip(tmp_path / "text.npz", {"poses": b"hello"}))
    with pytest.raises(FileFormatError, match="'poses' is no array"):
        read_npz(write_zip(tmp_path / "long.npz", {"poses": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**20) + b" " * 2**20}))


def test_reading_gives_what_was_written(tmp_path: Path) -> None:
    arrays = {
        "a": np.asfortranarray(np.random.default_rng(0).random((3, 4))),
        "b": np.array("text"),
        "c": np.array([], dtype=np.int32),
        "d": np.array([1, 2], ">i4"),
    }
    np.savez(tmp_path / "x.npz", allow_pickle=False, **arrays)
    found = read_npz(tmp_path / "x.npz")
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    assert set(read_npz(tmp_path / "x.npz", ["a", "z"])) == {"a"}
