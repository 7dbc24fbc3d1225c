from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from imdy_plugin._opensim import import_opensim
from imdy_plugin.adapters.storage import read_table, write_table
from imdy_plugin.errors import DataWarning, FileFormatError, InputError, UnknownNameError

HEAD = "motion\nversion=1\nnRows=3\nnColumns=3\ninDegrees=yes\nendheader\n"
BODY = "time\thip\tknee\n0.0\t1.0\t2.0\n0.1\t1.5\t2.5\n0.2\t2.0\t3.0\n"


def write(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "a.mot"
    path.write_bytes(text.encode(encoding))
    return path


def test_names_time_values_and_header_are_read(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, HEAD + BODY))
    assert table.names == ("hip", "knee")
    np.testing.assert_array_equal(table.time, [0.0, 0.1, 0.2])
    np.testing.assert_array_equal(table.values, [[1.0, 2.0], [1.5, 2.5], [2.0, 3.0]])
    assert table.in_degrees is True
    assert table.header["nrows"] == "3"
    np.testing.assert_array_equal(table.column("knee"), [2.0, 2.5, 3.0])


def test_an_unknown_column_lists_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="nearest: knee"):
        read_table(write(tmp_path, HEAD + BODY)).column("kne")


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + HEAD + BODY,
        (HEAD + BODY).replace("\n", "\r\n"),
        HEAD + "\n\n" + BODY.replace("\n", "\n\n"),
        HEAD + BODY.replace("\t", "     "),
        HEAD + BODY.replace("\n", "\t\n"),
        HEAD + BODY.replace("\t", "\t      "),
        "name m\ndatacolumns 3\ndatarows 3\nrange 0 0.2\nendheader\n" + BODY,
        "motion\t\t\nnRows=3\t\t\nendheader\t\t\n" + BODY,
        HEAD.replace("endheader", "EndHeader ") + BODY,
    ],
    ids=["byte-order mark", "CRLF", "blank lines", "spaces", "trailing tabs", "padded", "SIMM header", "tabs in header", "capitals"],
)
def test_the_ways_that_files_are_written_read_the_same(tmp_path: Path, text: str) -> None:
    table = read_table(write(tmp_path, text))
    assert table.names == ("hip", "knee")
    np.testing.assert_array_equal(table.values, [[1.0, 2.0], [1.5, 2.5], [2.0, 3.0]])


@pytest.mark.parametrize(("line", "expected"), [("inDegrees=no\n", False), ("indegrees = Yes\n", True), ("", None)])
def test_in_degrees_is_what_the_header_says_or_nothing(tmp_path: Path, line: str, expected: bool | None) -> None:
    assert read_table(write(tmp_path, f"m\n{line}endheader\n{BODY}")).in_degrees is expected


def test_in_degrees_that_is_neither_yes_nor_no_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="inDegrees=maybe"):
        read_table(write(tmp_path, f"m\ninDegrees=maybe\nendheader\n{BODY}"))


def test_nan_is_an_error_with_column_and_frame(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + BODY.replace("2.5", "nan"))
    with pytest.raises(FileFormatError, match=r"NaN in column 'knee' \(1 frames, first at frame 1, t = 0\.1 s\)"):
        read_table(path)
    assert np.isnan(read_table(path, allow_nan=True).values[1, 1])


def test_windows_nan_is_nan_and_infinity_is_never_allowed(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, HEAD + BODY.replace("2.5", "-1.#IND")), allow_nan=True)
    assert np.isnan(table.values[1, 1])
    with pytest.raises(FileFormatError, match="infinite values in column 'knee'"):
        read_table(write(tmp_path, HEAD + BODY.replace("2.5", "inf")), allow_nan=True)


def test_a_duplicate_time_stamp_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"time 0\.1 occurs twice, at rows 2 and 3"):
        read_table(write(tmp_path, HEAD + BODY.replace("0.2\t", "0.1\t")))


def test_time_that_runs_backwards_names_the_row(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"time runs backwards \(0\.1 to 0\.05\) at rows 2 and 3"):
        read_table(write(tmp_path, HEAD + BODY.replace("0.2\t", "0.05\t")))


def test_time_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="time is nan at row 3"):
        read_table(write(tmp_path, HEAD + BODY.replace("0.2\t", "nan\t")), allow_nan=True)


def test_the_same_column_twice_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"line 7: column 'hip' occurs more than once"):
        read_table(write(tmp_path, HEAD + BODY.replace("knee", "hip")))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("nRows=3", "nRows=30", r"states 30 rows \(nrows\), the file holds 3"),
        ("nColumns=3", "nColumns=4", r"states 4 columns \(ncolumns\), the file holds 3"),
        ("version=1", "datarows 7", r"states 7 rows \(datarows\), the file holds 3"),
    ],
)
def test_counts_that_lie_are_a_warning_with_both_numbers(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.warns(DataWarning, match=message):
        table = read_table(write(tmp_path, HEAD.replace(old, new) + BODY))
    assert table.values.shape == (3, 2)


def test_no_endheader_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="has no 'endheader' line"):
        read_table(write(tmp_path, HEAD.replace("endheader\n", "") + BODY))


def test_decimal_commas_are_an_error_that_names_the_locale(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"line 8, column 'time': '0,0' has a decimal comma.*locale"):
        read_table(write(tmp_path, HEAD + BODY.replace(".", ",")))


def test_a_ragged_row_names_its_line(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="line 9 holds 2 values, the labels name 3 columns"):
        read_table(write(tmp_path, HEAD + BODY.replace("\t2.5", "")))


def test_an_empty_cell_is_not_filled_by_its_neighbour(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="line 9 holds 2 values"):
        read_table(write(tmp_path, HEAD + BODY.replace("1.5", "")))


def test_text_among_the_numbers_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="line 9, column 'hip': 'oops' is not a number"):
        read_table(write(tmp_path, HEAD + BODY.replace("1.5", "oops")))


def test_more_numbers_than_labels_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="2 column labels but 3 numbers"):
        read_table(write(tmp_path, HEAD + BODY.replace("\tknee", "")))


def test_a_first_column_that_is_not_time_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="first column is 'frame', must be 'time'"):
        read_table(write(tmp_path, HEAD + BODY.replace("time", "frame")))


@pytest.mark.parametrize("text", [HEAD, HEAD + "time\thip\n"])
def test_a_file_without_rows_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(FileFormatError, match="cut short"):
        read_table(write(tmp_path, text))


def test_other_encodings_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="UTF-16"):
        read_table(write(tmp_path, HEAD + BODY, "utf-16"))
    with pytest.raises(FileFormatError, match="binary"):
        read_table(write(tmp_path, HEAD + "\0"))
    assert read_table(write(tmp_path, "Höhe\nendheader\n" + BODY, "latin-1")).names == ("hip", "knee")


def test_what_is_written_reads_back_here_and_in_opensim(tmp_path: Path) -> None:
    opensim = import_opensim()
    rng = np.random.default_rng(0)
    time, values = np.arange(20) / 100, rng.normal(size=(20, 3)) * [1e-3, 1.0, 1e3]
    path = write_table(tmp_path / "new" / "a.sto", ["a", "b_force", "/c/value"], time, values, in_degrees=True)
    table = read_table(path)
    np.testing.assert_allclose(table.values, values, rtol=1e-9)
    assert table.in_degrees is True
    theirs = opensim.TimeSeriesTable(str(path))
    assert tuple(theirs.getColumnLabels()) == table.names
    np.testing.assert_allclose(theirs.getMatrix().to_numpy(), values, rtol=1e-9)
    storage = opensim.Storage(str(path))
    assert storage.getSize() == 20
    assert storage.isInDegrees()


@pytest.mark.parametrize(
    ("names", "time", "values", "message"),
    [
        (["a"], [0.0, 1.0], [[1.0], [np.nan]], "column 'a' is nan at frame 1"),
        (["a"], [0.0, 0.0], [[1.0], [1.0]], "increase"),
        (["a", "a"], [0.0], [[1.0, 1.0]], "column names"),
        (["a b"], [0.0], [[1.0]], "column names"),
        (["a"], [0.0], [[1.0, 2.0]], "shape"),
    ],
)
def test_what_opensim_could_not_read_is_not_written(tmp_path: Path, names: list[str], time: list[float], values: list[list[float]], message: str) -> None:
    path = tmp_path / "a.sto"
    path.write_text("before")
    with pytest.raises(InputError, match=message):
        write_table(path, names, time, values)
    assert path.read_text() == "before"


def test_half_a_minute_at_2000_hz_reads_whole(tmp_path: Path) -> None:
    time = np.arange(60_000) / 2000
    values = np.random.default_rng(0).normal(size=(60_000, 18))
    path = write_table(tmp_path / "a.mot", [f"c{i}" for i in range(18)], time, values)
    np.testing.assert_allclose(read_table(path).values, values, atol=1e-6)


def test_every_table_of_the_recordings_reads(data_dir: Path) -> None:
    count = 0
    for path in sorted([*data_dir.rglob("*.mot"), *data_dir.rglob("*.sto")]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)
            try:
                table = read_table(path)
            except FileFormatError as error:
                assert "occurs more than once" in str(error), path
                continue
        assert table.values.shape == (table.time.size, len(table.names))
        count += 1
    assert count > 200
