"""The .c3d door: bytes are checked, kinds kept apart, axes turned, cut files refused."""

from __future__ import annotations

import csv
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from imdy_plugin.adapters.c3d import C3dReader
from imdy_plugin.adapters.c3d_bytes import read_c3d_bytes
from imdy_plugin.errors import DataWarning, FileFormatError, ImdyError, InputError

Groups = dict[str, dict[str, Any]]
FEET = ("RHEE", "LHEE", "RTOE", "LTOE", "RASI", "LASI")


class Writer:
    """Writes .c3d bytes by the book, for each of the three processors, and lies where it is told to."""

    def __init__(self, processor: int = 84) -> None:
        self.processor = processor
        self.order = ">" if processor == 86 else "<"

    def integers(self, values: Any) -> bytes:
        return np.asarray(values).astype(np.int64).astype(np.uint16).astype(self.order + "u2").tobytes()

    def floats(self, values: Any) -> bytes:
        flat = np.asarray(values, np.float32).ravel()
        if self.processor != 85:
            return flat.astype(self.order + "f4").tobytes()
        return (flat * 4).astype("<f4").view("<u2").reshape(-1, 2)[:, ::-1].astype("<u2").tobytes()

    def record(self, number: int, name: str, body: bytes) -> bytes:
        return struct.pack("bb", len(name), number) + name.encode() + self.integers([2 + len(body)]) + body

    def value(self, value: Any) -> bytes:
        if isinstance(value, list):
            width = max([len(v) for v in value], default=0)
            return struct.pack("bBBB", -1, 2, width, len(value)) + "".join(v.ljust(width) for v in value).encode() + b"\x00"
        array = np.asarray(value)
        kind, raw = (4, self.floats(array.ravel(order="F"))) if array.dtype.kind == "f" else (2, self.integers(array.ravel(order="F")))
        return struct.pack("bB", kind, array.ndim) + bytes(array.shape) + raw + b"\x00"

    def parameters(self, groups: Groups) -> bytes:
        records = b""
        for number, (group, values) in enumerate(groups.items(), start=1):
            records += self.record(-number, group, b"\x00")
            for name, value in values.items():
                records += self.record(number, name, self.value(value))
        section = bytes([1, 0x50, 0, self.processor]) + records + b"\x00\x00"
        blocks = -(-len(section) // 512)
        return section[:2] + bytes([blocks]) + section[3:].ljust(512 * blocks - 3, b"\x00")

    def file(
        self,
        path: Path,
        points: NDArray[np.float64],
        labels: tuple[str, ...],
        *,
        scale: float = -1.0,
        analog: NDArray[np.float64] | None = None,
        per_frame: int = 10,
        groups: Groups | None = None,
        header_frames: int | None = None,
        header_points: int | None = None,
    ) -> Path:
        frames, count = points.shape[:2]
        channels = 0 if analog is None else analog.shape[1]
        known: Groups = {
            "POINT": {
                "USED": np.array([count]),
                "FRAMES": np.array([frames]),
                "RATE": np.array([100.0]),
                "SCALE": np.array([scale]),
                "UNITS": ["mm"],
                "LABELS": list(labels),
                "X_SCREEN": ["+X"],
                "Y_SCREEN": ["+Z"],
            },
            "ANALOG": {"USED": np.array([channels]), "RATE": np.array([100.0 * per_frame]), "GEN_SCALE": np.array([1.0])},
        }
        if channels:
            known["ANALOG"] |= {"SCALE": np.ones(channels), "OFFSET": np.zeros(channels, int)}
        for group, values in (groups or {}).items():
            merged = known.setdefault(group, {}) | values
            known[group] = {k: v for k, v in merged.items() if v is not None}
        section = self.parameters(known)
        start = 2 + len(section) // 512
        words = [0x5002, header_points or count, channels * per_frame, 1, header_frames or frames, 0]
        head = bytes([2, 0x50]) + self.integers(words[1:]) + self.floats([scale]) + self.integers([start, per_frame]) + self.floats([100.0])
        path.write_bytes(head.ljust(512, b"\x00") + section + self.frames(points, analog, scale, per_frame))
        return path

    def frames(self, points: NDArray[np.float64], analog: NDArray[np.float64] | None, scale: float, per_frame: int) -> bytes:
        invalid = np.isnan(points).any(axis=-1)
        fourth = np.where(invalid, -1, 0)[..., None]
        stored = np.nan_to_num(points) / (scale if scale > 0 else 1.0)
        table = np.concatenate([stored, fourth], axis=-1).reshape(len(points), -1)
        if analog is not None:
            table = np.hstack([table, analog.reshape(len(points), -1)])
        return self.integers(np.rint(table)) if scale > 0 else self.floats(table)


def person(frames: int = 20, seed: int = 0) -> NDArray[np.float64]:
    """Feet and pelvis of somebody who walks along x, z up, in millimetres."""
    t = np.arange(frames) / 100
    rest = np.array([[0, -100, 60], [0, 100, 60], [180, -100, 40], [180, 100, 40], [90, -120, 950], [90, 120, 950]], float)
    return rest + np.stack([1200 * t, 10 * np.sin(7 * t + seed), 20 * np.cos(9 * t)], axis=-1)[:, None] + 5


@pytest.mark.parametrize("processor", [84, 85, 86])
@pytest.mark.parametrize("scale", [-0.1, 0.05])
def test_every_processor_and_number_format_is_read(tmp_path: Path, processor: int, scale: float) -> None:
    points = np.round(person() / 0.05) * 0.05
    points[3, 2] = np.nan
    analog = np.arange(20 * 10 * 3, dtype=float).reshape(-1, 3)
    file = read_c3d_bytes(Writer(processor).file(tmp_path / "a.c3d", points, FEET, scale=scale, analog=analog))
    np.testing.assert_allclose(file.points, points, atol=1e-3)
    np.testing.assert_allclose(file.analog, analog)
    assert (file.point_rate, file.analog_rate) == (100.0, 1000.0)
    assert file.texts("POINT", "LABELS") == list(FEET)


@pytest.mark.parametrize("scale", [-0.1, 0.05])
def test_an_independent_reader_sees_the_same(tmp_path: Path, scale: float) -> None:
    import ezc3d

    path = Writer().file(tmp_path / "a.c3d", person(), FEET, scale=scale, analog=np.arange(600.0).reshape(-1, 3))
    other, file = ezc3d.c3d(str(path)), read_c3d_bytes(path)
    np.testing.assert_allclose(other["data"]["points"][:3].transpose(2, 1, 0), file.points, atol=1e-4)
    np.testing.assert_allclose(other["data"]["analogs"][0].T, file.analog, atol=1e-4)


def test_analog_offset_and_scale_are_applied(tmp_path: Path) -> None:
    analog = np.full((200, 1), 30.0)
    groups = {"ANALOG": {"OFFSET": np.array([10]), "SCALE": np.array([0.5]), "GEN_SCALE": np.array([3.0])}}
    file = read_c3d_bytes(Writer().file(tmp_path / "a.c3d", person(), FEET, analog=analog, groups=groups))
    np.testing.assert_allclose(file.analog, 30.0)


def test_z_up_is_turned_into_the_ground_frame(tmp_path: Path) -> None:
    points = person()
    motion = C3dReader().read(Writer().file(tmp_path / "a.c3d", points, FEET))
    np.testing.assert_allclose(motion["marker_position"].values, np.stack([points[..., 0], points[..., 2], -points[..., 1]], -1) / 1000, atol=1e-6)
    assert "+Z is up by Y_SCREEN" in motion.attrs["log"]
    assert np.linalg.det(np.reshape(motion.attrs["source_rotation"], (3, 3))) == pytest.approx(1.0)
    np.testing.assert_allclose(motion["time"].values, np.arange(20) / 100)


def test_y_up_stays_as_it_is(tmp_path: Path) -> None:
    points = person()[..., [0, 2, 1]] * [1, 1, -1]
    path = Writer().file(tmp_path / "a.c3d", points, FEET, groups={"POINT": {"Y_SCREEN": ["+Y"]}})
    np.testing.assert_allclose(C3dReader().read(path)["marker_position"].values, points / 1000, atol=1e-6)


NO_SCREEN: Groups = {"POINT": {"X_SCREEN": None, "Y_SCREEN": None}}
CORNERS = np.array([[400, 400, 0], [0, 400, 0], [0, 0, 0], [400, 0, 0]], float).T[..., None]


def test_without_screen_axes_the_plates_surface_is_the_ground(tmp_path: Path) -> None:
    groups = NO_SCREEN | {"FORCE_PLATFORM": {"USED": np.array([1]), "CORNERS": CORNERS}}
    names = tuple(f"M{i}" for i in range(6))
    motion = C3dReader().read(Writer().file(tmp_path / "a.c3d", person(), names, groups=groups))
    assert "+Z is up by the plates' surface" in motion.attrs["log"]


def test_without_screen_and_plates_feet_and_pelvis_tell_the_vertical(tmp_path: Path) -> None:
    motion = C3dReader().read(Writer().file(tmp_path / "a.c3d", person(), FEET, groups=NO_SCREEN))
    assert "+Z is up by the markers of feet and pelvis" in motion.attrs["log"]


def test_a_vertical_that_nothing_tells_is_an_error_and_never_a_guess(tmp_path: Path) -> None:
    path = Writer().file(tmp_path / "a.c3d", person(), tuple(f"M{i}" for i in range(6)), groups=NO_SCREEN)
    with pytest.raises(FileFormatError, match=r"which axis is up.*C3dReader\(up='z'\)"):
        C3dReader().read(path)
    assert "+Z is up, as asked" in C3dReader(up="z").read(path).attrs["log"]


def test_screen_axes_that_contradict_the_body_are_an_error(tmp_path: Path) -> None:
    path = Writer().file(tmp_path / "a.c3d", person(), FEET, groups={"POINT": {"Y_SCREEN": ["+Y"]}})
    with pytest.raises(FileFormatError, match=r"Y_SCREEN: \+Y.*feet and pelvis: \+Z"):
        C3dReader().read(path)


def test_an_axis_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match="up is 'w'"):
        C3dReader(up="w")


@pytest.mark.parametrize("part", [0.3, 0.5, 0.95])
def test_a_file_cut_in_half_is_an_error(tmp_path: Path, part: float) -> None:
    path = Writer().file(tmp_path / "a.c3d", person(50), FEET, analog=np.zeros((500, 6)))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(FileFormatError, match=r"50 frames are stated, the bytes hold|cut or damaged"):
        C3dReader().read(path)


@pytest.mark.parametrize("data", [b"", b"PathFileType", b"\x02\x50" + b"\x00" * 2000, bytes(range(256)) * 8])
def test_bytes_that_are_no_c3d_are_an_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.c3d").write_bytes(data)
    with pytest.raises(FileFormatError, match="no C3D"):
        C3dReader().read(tmp_path / "a.c3d")


@pytest.mark.parametrize(("lie", "message"), [({"header_frames": 12}, "12 frames .*FRAMES 20"), ({"header_points": 9}, "9 points, POINT:USED 6")])
def test_a_header_that_lies_is_an_error_with_both_numbers(tmp_path: Path, lie: dict[str, int], message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        C3dReader().read(Writer().file(tmp_path / "a.c3d", person(), FEET, **lie))


def test_frames_beyond_the_stated_ones_are_warned_of(tmp_path: Path) -> None:
    path = Writer().file(tmp_path / "a.c3d", person(200), FEET, header_frames=20, groups={"POINT": {"FRAMES": np.array([20])}})
    with pytest.warns(DataWarning, match="20 frames are stated, the bytes would hold 200"):
        assert C3dReader().read(path).sizes["time"] == 20


def test_duplicate_labels_are_an_error_or_get_a_suffix(tmp_path: Path) -> None:
    path = Writer().file(tmp_path / "a.c3d", person(), ("RHEE", "LHEE", "RTOE", "LTOE", "RASI", "RASI"))
    with pytest.raises(FileFormatError, match="more than once: RASI"):
        C3dReader().read(path)
    assert list(C3dReader(duplicates="suffix").read(path)["marker"].values)[-2:] == ["RASI", "RASI_2"]


def test_labels_over_255_come_from_labels2(tmp_path: Path) -> None:
    names = tuple(f"M{i:03d}" for i in range(300))
    points = np.arange(4 * 300 * 3, dtype=float).reshape(4, 300, 3) + 1
    groups = {"POINT": {"LABELS": list(names[:255]), "LABELS2": list(names[255:])}}
    motion = C3dReader().read(Writer().file(tmp_path / "a.c3d", points, names[:255], groups=groups))
    assert list(motion["marker"].values) == list(names)
    assert motion["marker_position"].sel(marker="M299").values[0, 0] == pytest.approx(points[0, 299, 0] / 1000)


def test_angles_moments_and_powers_are_no_markers(tmp_path: Path) -> None:
    names = (*FEET, "RKneeAngles", "RKneeMoment", "RKneePower", "Joint", "*31", "")
    points = np.concatenate([person(), np.full((20, 6, 3), 77.0)], axis=1)
    kinds = {"ANGLES": ["RKneeAngles"], "MOMENTS": ["RKneeMoment"], "POWERS": ["RKneePower"], "MODELED_MARKERS": ["Joint"]}
    groups = {"POINT": {**kinds, "TYPE_GROUPS": ["ANGLES", "ANGLE", "MODELED_MARKERS", "MODELED_MARKER"]}}
    motion = C3dReader().read(Writer().file(tmp_path / "a.c3d", points, names, groups=groups))
    assert list(motion["marker"].values) == [*FEET, "Joint"]
    assert "5 other points left out" in motion.attrs["log"]


def test_a_list_of_its_own_is_no_markers_where_its_unit_is_no_length(tmp_path: Path) -> None:
    names = (*FEET, "Load")
    points = np.concatenate([person(), np.full((20, 1, 3), 77.0)], axis=1)
    groups = {"POINT": {"LOADS": ["Load"], "LOAD_UNITS": ["N"], "TYPE_GROUPS": ["LOADS", "LOAD"]}}
    assert "Load" not in C3dReader().read(Writer().file(tmp_path / "a.c3d", points, names, groups=groups))["marker"].values


def test_a_point_marked_invalid_is_missing(tmp_path: Path) -> None:
    points = person()
    points[4, 1] = np.nan
    position = C3dReader().read(Writer().file(tmp_path / "a.c3d", points, FEET))["marker_position"].values
    assert np.isnan(position[4, 1]).all()
    assert np.isfinite(np.delete(position, 1, axis=1)).all()


def test_zeros_in_all_axes_are_missing_and_counted(tmp_path: Path) -> None:
    points = person()
    points[4:7, 1] = 0.0
    with pytest.warns(DataWarning, match="3 marker positions are exactly 0, 0, 0"):
        motion = C3dReader().read(Writer().file(tmp_path / "a.c3d", points, FEET))
    assert motion.attrs["zeros_as_missing"] == 3


def test_one_prefix_for_all_is_taken_off_and_two_are_kept(tmp_path: Path) -> None:
    one = Writer().file(tmp_path / "one.c3d", person(), tuple(f"Ann:{n}" for n in FEET))
    motion = C3dReader().read(one)
    assert list(motion["marker"].values) == list(FEET)
    assert "prefix 'Ann:'" in motion.attrs["log"]
    assert "Ann:RHEE" in C3dReader(strip_prefix=False).read(one)["marker"].values
    two = Writer().file(tmp_path / "two.c3d", person(), ("Ann:RHEE", *(f"Bob:{n}" for n in FEET[1:])))
    assert "Bob:LHEE" in C3dReader().read(two)["marker"].values


def test_no_analog_rate_is_tolerated_with_a_warning(tmp_path: Path) -> None:
    path = Writer().file(tmp_path / "a.c3d", person(), FEET, analog=np.zeros((200, 2)), groups={"ANALOG": {"RATE": None}})
    with pytest.warns(DataWarning, match="no ANALOG:RATE; 10 samples a frame make 1000 Hz"):
        assert read_c3d_bytes(path).analog_rate == 1000.0


def test_frames_that_are_not_whole_are_tolerated_with_a_warning(tmp_path: Path) -> None:
    path = Writer().file(tmp_path / "a.c3d", person(), FEET, groups={"POINT": {"FRAMES": np.array([20.4])}})
    with pytest.warns(DataWarning, match=r"POINT:FRAMES is 20.4, not whole"):
        assert C3dReader().read(path).sizes["time"] == 20


def test_no_points_at_all_is_a_clear_error(tmp_path: Path) -> None:
    path = Writer().file(tmp_path / "a.c3d", np.zeros((20, 0, 3)), (), analog=np.zeros((200, 2)))
    with pytest.raises(FileFormatError, match="holds no markers"):
        C3dReader().read(path)


def test_units_that_are_missing_or_unknown_are_an_error_with_the_fix(tmp_path: Path) -> None:
    missing = Writer().file(tmp_path / "a.c3d", person(), FEET, groups={"POINT": {"UNITS": None}})
    with pytest.raises(FileFormatError, match=r"states no POINT:UNITS.*units=.*mm"):
        C3dReader().read(missing)
    assert C3dReader(units="mm").read(missing)["marker_position"].max() < 2
    with pytest.raises(FileFormatError, match="'furlong'"):
        C3dReader().read(Writer().file(tmp_path / "b.c3d", person(), FEET, groups={"POINT": {"UNITS": ["furlong"]}}))


def test_a_file_without_plates_has_no_ground_force(tmp_path: Path) -> None:
    assert C3dReader().read_ground_force(Writer().file(tmp_path / "a.c3d", person(), FEET)) is None


def _plate_file(path: Path, names: tuple[str, ...], points: NDArray[np.float64]) -> Path:
    frames = len(points)
    load = np.zeros((frames * 10, 6))
    load[frames * 5 :, 2], load[frames * 5 :, 3] = -700.0, 7000.0
    plate = {
        "USED": np.array([1]),
        "TYPE": np.array([2]),
        "CORNERS": np.array([[400, 200, 0], [400, -200, 0], [-400, -200, 0], [-400, 200, 0]], float).T[..., None],
        "ORIGIN": np.array([[0.0], [0.0], [-40.0]]),
        "CHANNEL": np.arange(1, 7)[:, None],
    }
    groups = {"FORCE_PLATFORM": plate, "ANALOG": {"UNITS": ["N", "N", "N", "Nmm", "Nmm", "Nmm"]}}
    return Writer().file(path, points, names, analog=load, groups=groups)


def _right_foot_stands() -> NDArray[np.float64]:
    """The right foot comes down within 0.2 s, the left stays in the air."""
    points = np.repeat(person(1), 60, axis=0)
    points[:, [1, 3], 2] += 250
    points[:20, :, 2] += np.linspace(100, 0, 20)[:, None]
    return points


def test_ground_force_goes_to_the_foot_that_stands(tmp_path: Path) -> None:
    force = C3dReader().read_ground_force(_plate_file(tmp_path / "a.c3d", FEET, _right_foot_stands()))
    assert force is not None
    assert list(force["body"].values) == ["calcn_r", "calcn_l"]
    np.testing.assert_allclose(force["ground_force"].values[400, 0], [0, 700, 0], atol=1e-6)
    assert not force["ground_force"].values[400, 1].any()
    assert not force["ground_force"].values[:250].any()


def test_a_load_that_both_feet_share_is_unknown(tmp_path: Path) -> None:
    points = _right_foot_stands()
    points[:, [1, 3], 2] -= 250
    with pytest.warns(DataWarning, match="both feet stand on it at once"):
        force = C3dReader().read_ground_force(_plate_file(tmp_path / "a.c3d", FEET, points))
    assert force is not None
    assert np.isnan(force["ground_force"].values[350:]).all()


def test_feet_without_known_names_are_an_error_with_the_names_looked_for(tmp_path: Path) -> None:
    path = _plate_file(tmp_path / "a.c3d", tuple(f"M{i}" for i in range(6)), _right_foot_stands())
    with pytest.raises(FileFormatError, match=r"no heel or toe marker of the right foot.*HEEL, HEE"):
        C3dReader().read_ground_force(path)


_FUZZ = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_FUZZ
@given(st.data())
def test_damaged_files_give_only_our_errors(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "a.c3d"
    if not path.exists():
        _plate_file(path, FEET, _right_foot_stands())
        (tmp_path / "whole").write_bytes(path.read_bytes())
    damaged = bytearray((tmp_path / "whole").read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, 3000))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged[: data.draw(st.integers(len(damaged) // 2, len(damaged)))])
    _read_or_refuse(path)


@_FUZZ
@given(st.binary(min_size=1000, max_size=3000))
def test_random_bytes_after_a_true_beginning_give_only_our_errors(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.c3d").write_bytes(b"\x02\x50" + data[:510] + b"\x01\x50\x01\x54" + data[510:])
    _read_or_refuse(tmp_path / "a.c3d")


def _read_or_refuse(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        for read in (C3dReader().read, C3dReader().read_ground_force):
            try:
                read(path)
            except ImdyError as error:
                assert str(error)


EXPECTED_WARNINGS = ("exactly 0, 0, 0",)


def test_every_c3d_file_of_the_manifest_is_read(data_dir: Path) -> None:
    with (data_dir / "MANIFEST.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["marker_file"].endswith(".c3d")]
    assert len(rows) > 40
    for row in rows:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            motion = C3dReader().read(data_dir / row["marker_file"])
        assert not [str(w.message) for w in caught if not any(e in str(w.message) for e in EXPECTED_WARNINGS)]
        body = motion["marker_position"].quantile([0.05, 0.95], ("time", "marker")).diff("quantile").sel(axis="y").item()
        assert 0.4 < body < 2.0, row["marker_file"]


def test_recordings_are_read_as_an_independent_reader_reads_them(data_dir: Path) -> None:
    import ezc3d

    for path in sorted(data_dir.glob("*/**/*.c3d"))[::12]:
        other, file = ezc3d.c3d(str(path)), read_c3d_bytes(path)
        np.testing.assert_allclose(other["data"]["points"][:3].transpose(2, 1, 0), file.points, atol=1e-3)
        np.testing.assert_allclose(other["data"]["analogs"][0].T, file.analog.reshape(other["data"]["analogs"][0].T.shape), atol=1e-3)
