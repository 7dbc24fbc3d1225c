"""The .trc door: what real files hold, and what a user gets."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imdy_plugin.adapters.trc import TrcReader, read_trc, write_trc
from imdy_plugin.errors import DataWarning, FileFormatError, ImdyError, InputError
from imdy_plugin.schema import new_motion

NAMES = ("RASI", "LASI", "RHEE")


def trc_text(
    *,
    frames: int = 5,
    names: tuple[str, ...] = NAMES,
    unit: str = "mm",
    rate: str = "100",
    stated_frames: int | None = None,
    stated_markers: int | None = None,
    times: list[str] | None = None,
    labels: str | None = None,
    path_type: str = "4",
) -> str:
    times = times or [f"{i / 100:.2f}" for i in range(frames)]
    counts = f"{rate}\t{rate}\t{stated_frames or frames}\t{stated_markers or len(names)}\t{unit}\t{rate}\t1\t{frames}"
    keys = "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames"
    head = f"PathFileType\t{path_type}\t(X/Y/Z)\tx.trc\n{keys}\n{counts}\n"
    labels = labels or "Frame#\tTime\t" + "\t\t\t".join(names) + "\t\t"
    axes = "\t\t" + "\t".join(f"X{i}\tY{i}\tZ{i}" for i in range(1, len(names) + 1))
    rows = [f"{i + 1}\t{times[i]}\t" + "\t".join(f"{1000 + 10 * i + j}" for j in range(3 * len(names))) for i in range(frames)]
    return head + labels + "\n" + axes + "\n\n" + "\n".join(rows) + "\n"


def put(folder: Path, text: str | bytes) -> Path:
    path = folder / "markers.trc"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_positions_come_out_in_metres(tmp_path: Path) -> None:
    motion = TrcReader().read(put(tmp_path, trc_text()))
    assert list(motion["marker"].values) == list(NAMES)
    np.testing.assert_allclose(motion["marker_position"].values[2, 1], [1.023, 1.024, 1.025])
    np.testing.assert_allclose(motion["time"].values, np.arange(5) / 100)
    assert "mm to m" in motion.attrs["log"]


@pytest.mark.parametrize(("unit", "factor"), [("m", 1.0), ("cm", 0.01), ("MM", 0.001), ("in", 0.0254), (" mm ", 0.001)])
def test_known_units_are_turned_into_metres(tmp_path: Path, unit: str, factor: float) -> None:
    motion = read_trc(put(tmp_path, trc_text(unit=unit)))
    assert motion["marker_position"].values[0, 0, 0] == pytest.approx(1000 * factor)


def test_unknown_unit_is_an_error_that_lists_known_ones(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"unit 'furlong' is unknown.*cm.*mm"):
        read_trc(put(tmp_path, trc_text(unit="furlong")))


def test_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    assert read_trc(put(tmp_path, b"\xef\xbb\xbf" + trc_text().encode())).sizes["time"] == 5


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_named(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(FileFormatError, match="UTF-16"):
        read_trc(put(tmp_path, trc_text().encode(encoding)))


def test_ragged_row_is_an_error_with_its_line(tmp_path: Path) -> None:
    lines = trc_text().splitlines()
    lines[8] = lines[8].rpartition("\t")[0]
    with pytest.raises(FileFormatError, match="line 9 has 10 columns, the labels ask for 11"):
        read_trc(put(tmp_path, "\n".join(lines)))


def test_blanks_are_missing_and_keep_their_columns(tmp_path: Path) -> None:
    lines = trc_text().splitlines()
    cells = lines[7].split("\t")
    cells[5:8] = ["", "", ""]
    lines[7] = "\t".join(cells)
    motion = read_trc(put(tmp_path, "\n".join(lines)))
    assert np.isnan(motion["marker_position"].values[1, 1]).all()
    assert motion["marker_position"].values[1, 2, 0] == pytest.approx(1.016)


def test_trailing_tabs_are_no_columns(tmp_path: Path) -> None:
    text = "\n".join(line + "\t\t\t" for line in trc_text().splitlines())
    assert read_trc(put(tmp_path, text)).sizes["marker"] == 3


@pytest.mark.parametrize(("what", "stated"), [("NumFrames", {"stated_frames": 9}), ("NumMarkers", {"stated_markers": 7})])
def test_counts_that_lie_are_warned_of_with_both_numbers(tmp_path: Path, what: str, stated: dict[str, int]) -> None:
    with pytest.warns(DataWarning, match=rf"{what} says {next(iter(stated.values()))}, the file holds [53]"):
        assert read_trc(put(tmp_path, trc_text(**stated))).sizes["time"] == 5


def test_duplicate_labels_are_an_error_or_get_a_suffix(tmp_path: Path) -> None:
    path = put(tmp_path, trc_text(names=("A", "B", "A")))
    with pytest.raises(FileFormatError, match="more than once: A"):
        read_trc(path)
    assert list(read_trc(path, duplicates="suffix")["marker"].values) == ["A", "B", "A_2"]


def test_suffix_does_not_collide_with_a_name_that_is_there(tmp_path: Path) -> None:
    path = put(tmp_path, trc_text(names=("A", "A_2", "A", "A")))
    assert list(read_trc(path, duplicates="suffix")["marker"].values) == ["A", "A_2", "A_3", "A_4"]


@pytest.mark.parametrize(
    ("times", "message"),
    [(["0.00", "0.01", "0.01", "0.03", "0.04"], "line 9: time repeats"), (["0.00", "0.01", "0.02", "0.01", "0.04"], "line 10: time runs backwards")],
)
def test_time_that_stands_or_runs_back_is_an_error_with_its_line(tmp_path: Path, times: list[str], message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        read_trc(put(tmp_path, trc_text(times=times)))


def test_rate_that_contradicts_the_time_stamps_is_warned_of(tmp_path: Path) -> None:
    with pytest.warns(DataWarning, match="DataRate says 250 Hz, the time stamps say 100 Hz"):
        motion = read_trc(put(tmp_path, trc_text(rate="250")))
    assert motion["time"].values[1] == pytest.approx(0.01)


def test_rounded_time_stamps_become_the_rate_that_was_rounded(tmp_path: Path) -> None:
    motion = read_trc(put(tmp_path, trc_text(rate="60", times=["0.000", "0.017", "0.033", "0.050", "0.067"])))
    np.testing.assert_allclose(motion["time"].values, np.arange(5) / 60)


def test_missing_frames_are_warned_of(tmp_path: Path) -> None:
    times = [f"{t:.2f}" for t in np.delete(np.arange(400) / 100, 200)]
    with pytest.warns(DataWarning, match="frames are missing after 1.99 s"):
        read_trc(put(tmp_path, trc_text(frames=399, times=times)))


def test_a_prefix_is_taken_off_on_request(tmp_path: Path) -> None:
    path = tmp_path / "x.trc"
    path.write_text(trc_text(names=("Ann:RASI", "Ann:LASI", "Ann:RHEE")))
    assert list(read_trc(path)["marker"].values) == ["Ann:RASI", "Ann:LASI", "Ann:RHEE"]
    stripped = TrcReader(strip_prefix=True).read(path)
    assert tuple(stripped["marker"].values) == NAMES
    assert "'Ann:' taken off" in stripped.attrs["log"]


def test_marker_without_a_label_is_left_out_with_a_warning(tmp_path: Path) -> None:
    with pytest.warns(DataWarning, match=r"1 marker\(s\) without a label, first column 6"):
        motion = read_trc(put(tmp_path, trc_text(labels="Frame#\tTime\tA\t\t\t\t\t\tC\t\t")))
    assert list(motion["marker"].values) == ["A", "C"]
    assert motion["marker_position"].values[0, 1, 0] == pytest.approx(1.006)


def test_labels_two_tabs_apart_are_read_as_opensim_writes_them(tmp_path: Path) -> None:
    assert list(read_trc(put(tmp_path, trc_text(labels="Frame#\tTimes\t\tA\t\tB\t\tC")))["marker"].values) == ["A", "B", "C"]


def test_labels_out_of_place_are_taken_in_order_with_a_warning(tmp_path: Path) -> None:
    with pytest.warns(DataWarning, match="do not stand over their columns"):
        motion = read_trc(put(tmp_path, trc_text(labels="Frame#\tTime\tA\tB\tC")))
    assert list(motion["marker"].values) == ["A", "B", "C"]


def test_other_path_file_types_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"PathFileType is 3.*only type 4"):
        read_trc(put(tmp_path, trc_text(path_type="3")))


def test_zeros_in_all_axes_are_missing_and_counted(tmp_path: Path) -> None:
    lines = trc_text().splitlines()
    for row in (6, 8):
        cells = lines[row].split("\t")
        cells[2:5] = ["0", "0.000", "0"]
        lines[row] = "\t".join(cells)
    with pytest.warns(DataWarning, match="2 marker positions are exactly 0, 0, 0"):
        motion = read_trc(put(tmp_path, "\n".join(lines)))
    assert motion.attrs["zeros_as_missing"] == 2
    assert np.isnan(motion["marker_position"].values[[0, 2], 0]).all()


def _walking(frames: int) -> np.ndarray:
    t = np.arange(frames) / 100
    return np.stack([np.stack([1.5 * t + i, 0.1 * np.sin(5 * t + i) + 1, t * 0 + i], -1) for i in range(6)], axis=1)


def test_marker_that_stands_still_while_others_move_is_warned_of(tmp_path: Path) -> None:
    position = _walking(200)
    position[50:150, 2] = position[50, 2]
    write_trc(new_motion(np.arange(200) / 100, markers=(list("ABCDEF"), position)), tmp_path / "m.trc")
    with pytest.warns(DataWarning, match="marker 'C' stands still from 0.5 to 1.49 s"):
        read_trc(tmp_path / "m.trc")


def test_person_who_stands_still_is_not_warned_of(tmp_path: Path) -> None:
    position = np.repeat(_walking(200)[:1], 200, axis=0)
    write_trc(new_motion(np.arange(200) / 100, markers=(list("ABCDEF"), position)), tmp_path / "m.trc")
    assert read_trc(tmp_path / "m.trc").sizes["time"] == 200


def test_decimal_commas_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"line 7, column 2: '0,00' is not a number.*locale"):
        read_trc(put(tmp_path, trc_text(times=["0,00", "0,01", "0,02", "0,03", "0,04"])))


@pytest.mark.parametrize("text", ["", "PathFileType", "x,y,z\n1,2,3\n", "PathFileType\t4\n\n\n\n\n\n"])
def test_what_is_no_trc_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(FileFormatError):
        read_trc(put(tmp_path, text))


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="cannot be read"):
        read_trc(tmp_path / "none.trc")


@pytest.mark.parametrize("unit", ["mm", "m"])
def test_what_is_written_is_read_back(tmp_path: Path, unit: str) -> None:
    position = _walking(40)
    position[3, 4] = np.nan
    motion = new_motion(1.5 + np.arange(40) / 120, markers=(list("ABCDEF"), position))
    again = read_trc(write_trc(motion, tmp_path / "new" / "m.trc", unit=unit))
    np.testing.assert_allclose(again["marker_position"].values, position, atol=1e-6)
    np.testing.assert_allclose(again["time"].values, motion["time"].values, atol=1e-8)


def test_motion_without_markers_is_not_written(tmp_path: Path) -> None:
    motion = new_motion([0.0, 0.1], coordinates=(["q"], np.zeros((2, 1))))
    with pytest.raises(InputError, match="no markers"):
        write_trc(motion, tmp_path / "m.trc")
    assert not (tmp_path / "m.trc").exists()


def test_opensim_reads_what_is_written(tmp_path: Path) -> None:
    from imdy_plugin._opensim import import_opensim

    position = _walking(20)
    write_trc(new_motion(np.arange(20) / 100, markers=(list("ABCDEF"), position)), tmp_path / "m.trc")
    table = import_opensim().TimeSeriesTableVec3(str(tmp_path / "m.trc"))
    flat = table.flatten()
    assert list(table.getColumnLabels()) == list("ABCDEF")
    np.testing.assert_allclose(flat.getMatrix().to_numpy()[7], position[7].ravel() * 1000, atol=1e-5)


@pytest.mark.parametrize("missing", ["A", "F"])
def test_opensim_reads_a_row_whose_first_or_last_marker_is_missing(tmp_path: Path, missing: str) -> None:
    from imdy_plugin._opensim import import_opensim

    position = np.random.default_rng(1).normal(size=(20, 6, 3))
    position[3, "ABCDEF".index(missing)] = np.nan
    write_trc(new_motion(np.arange(20) / 100, markers=(list("ABCDEF"), position)), tmp_path / "m.trc")
    table = import_opensim().TimeSeriesTableVec3(str(tmp_path / "m.trc"))
    assert np.isnan(table.getDependentColumn(missing)[3].to_numpy()).all()
    np.testing.assert_array_equal(np.isnan(read_trc(tmp_path / "m.trc")["marker_position"].values), np.isnan(position))


_FUZZ = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_FUZZ
@given(st.binary(max_size=400))
def test_random_bytes_give_only_our_errors(tmp_path: Path, data: bytes) -> None:
    _read_or_refuse(put(tmp_path, data))


@_FUZZ
@given(st.data())
def test_damaged_files_give_only_our_errors(tmp_path: Path, data: st.DataObject) -> None:
    text = bytearray(trc_text().encode())
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    _read_or_refuse(put(tmp_path, bytes(text[: data.draw(st.integers(0, len(text)))])))


def _read_or_refuse(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        try:
            assert read_trc(path).sizes["time"] > 0
        except ImdyError as error:
            assert str(error)


EXPECTED_WARNINGS = ("NumFrames says", "exactly 0, 0, 0", "do not stand over their columns")


def test_every_trc_file_of_the_manifest_is_read(data_dir: Path) -> None:
    with (data_dir / "MANIFEST.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["marker_file"].endswith(".trc")]
    assert len(rows) > 60
    for row in rows:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            motion = read_trc(data_dir / row["marker_file"])
        assert motion.sizes["marker"] == int(row["n_markers"]), row["marker_file"]
        strange = [str(w.message) for w in caught if not any(e in str(w.message) for e in EXPECTED_WARNINGS)]
        assert not strange
