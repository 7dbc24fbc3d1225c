"""Tables of numbers over time in OpenSim's text format (.mot, .sto), read strictly and written so that OpenSim reads them."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imdy_plugin.adapters.safe_xml import existing_file
from imdy_plugin.atomic import replacing
from imdy_plugin.errors import DataWarning, FileFormatError, InputError, UnknownNameError

_ROW_KEYS = ("nrows", "datarows")
_COLUMN_KEYS = ("ncolumns", "datacolumns")
_TRUE, _FALSE = ("yes", "y", "true", "1"), ("no", "n", "false", "0")
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+(?:[eE][-+]?\d+)?")
_WINDOWS_NAN = re.compile(r"[-+]?\d\.#(?:QNAN|SNAN|IND)\d*|[-+]?nan\([a-z]*\)", re.IGNORECASE)
_ENCODINGS = {b"\xff\xfe": "UTF-16 (little-endian)", b"\xfe\xff": "UTF-16 (big-endian)"}


@dataclass(frozen=True)
class Table:
    """Columns over time.

    Attributes
    ----------
    path
        The file it came from.
    names
        Column names without ``time``.
    time
        Time stamps [s], strictly increasing, shape ``(T,)``.
    values
        Shape ``(T, C)``, in the file's own units.
    in_degrees
        What the header's ``inDegrees`` says, or None where the header is silent.
    header
        The header's key-value pairs, keys in lower case.
    """

    path: Path
    names: tuple[str, ...]
    time: NDArray[np.float64]
    values: NDArray[np.float64]
    in_degrees: bool | None
    header: Mapping[str, str]

    def column(self, name: str) -> NDArray[np.float64]:
        """Values of one column, ``(T,)``.

        Raises
        ------
        UnknownNameError
            There is no such column; the message lists the nearest ones.
        """
        if name not in self.names:
            raise UnknownNameError("column", name, self.names, f"({self.path.name})")
        return self.values[:, self.names.index(name)]


def read_table(path: str | os.PathLike[str], *, allow_nan: bool = False) -> Table:
    """Read a .mot or .sto file.

    Accepted: tabs or spaces, blank lines, a byte-order mark, old headers (``nRows=``, ``datarows``). Counts in the header
    that do not match the data are a :class:`~imdy_plugin.errors.DataWarning` that names both.

    Parameters
    ----------
    path
        The file.
    allow_nan
        Let NaN through, as force files hold it where nothing touches; otherwise NaN is an error.

    Raises
    ------
    FileFormatError
        No ``endheader``; first column not ``time``; a column twice; a ragged row; text or decimal commas where numbers
        belong; time that repeats or runs backwards; infinite values; NaN without ``allow_nan``.
    """
    file = existing_file(path)
    lines = _decode(file).splitlines()
    end = _end_of_header(file, lines)
    header = _header(lines[:end])
    start = next((i for i in range(end + 1, len(lines)) if lines[i].strip()), None)
    if start is None:
        raise FileFormatError(file, "holds no column labels after 'endheader'", "the file is cut short")
    names = _labels(file, lines[start], start + 1)
    numbers = _numbers(file, lines, start + 1, names)
    _check_counts(file, header, rows=len(numbers), columns=len(names))
    _check_time(file, numbers[:, 0])
    _check_finite(file, names, numbers, allow_nan)
    return Table(file, tuple(names[1:]), numbers[:, 0].copy(), numbers[:, 1:].copy(), _in_degrees(file, header), header)


def write_table(
    path: str | os.PathLike[str],
    names: Sequence[str],
    time: ArrayLike,
    values: ArrayLike,
    *,
    in_degrees: bool = False,
    name: str | None = None,
) -> Path:
    """Write a table that OpenSim's readers load; the file appears only when it is complete.

    Parameters
    ----------
    path
        ``.mot`` or ``.sto``.
    names
        Column names without ``time``.
    time
        Time stamps [s], shape ``(T,)``.
    values
        Shape ``(T, C)``, finite.
    in_degrees
        What the header says about the unit of angles.
    name
        First line of the file; by default the file's stem.

    Raises
    ------
    InputError
        Shapes do not fit, names repeat or hold blanks, time does not increase, or a value is not finite.
    """
    file = Path(path)
    numbers = _writable(names, np.asarray(time, float), np.asarray(values, float))
    flag = "yes" if in_degrees else "no"
    head = [
        name or file.stem,
        "version=1",
        f"nRows={len(numbers)}",
        f"nColumns={numbers.shape[1]}",
        f"inDegrees={flag}",
        "endheader",
        "\t".join(["time", *names]),
    ]
    with replacing(file) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write("\n".join(head) + "\n")
        np.savetxt(stream, numbers, fmt="%.10g", delimiter="\t")
    return file


def _decode(file: Path) -> str:
    raw = file.read_bytes()
    encoding = _ENCODINGS.get(raw[:2])
    if encoding:
        raise FileFormatError(file, f"is encoded as {encoding}", "save it as UTF-8 or plain text")
    if b"\x00" in raw:
        raise FileFormatError(file, "holds zero bytes: it is a binary file, not a text table", "give a .mot or .sto file")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _end_of_header(file: Path, lines: list[str]) -> int:
    for i, line in enumerate(lines):
        if line.strip().lower() == "endheader":
            return i
    raise FileFormatError(file, f"has no 'endheader' line in its {len(lines)} lines", "put a line 'endheader' before the column labels")


def _header(lines: list[str]) -> dict[str, str]:
    header: dict[str, str] = {}
    for line in lines:
        text = line.strip()
        key, separator, value = text.partition("=")
        if not separator:
            key, _, value = text.partition(" ")
        if key:
            header.setdefault(key.strip().lower(), value.strip())
    return header


def _labels(file: Path, line: str, number: int) -> list[str]:
    names = [n.strip() for n in line.split("\t")] if "\t" in line else line.split()
    names = [n for n in names if n]
    if names[0].lower() != "time":
        raise FileFormatError(file, f"line {number}: the first column is '{names[0]}', must be 'time'", "the labels follow the line 'endheader'")
    repeated = sorted({n for n in names if names.count(n) > 1})
    if repeated:
        raise FileFormatError(file, f"line {number}: column {', '.join(map(repr, repeated))} occurs more than once", "remove or rename the copies")
    return names


def _numbers(file: Path, lines: list[str], first: int, names: list[str]) -> NDArray[np.float64]:
    body = lines[first:]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            numbers = np.loadtxt(body, ndmin=2, comments=None)
    except ValueError:
        body = [_WINDOWS_NAN.sub("nan", line) for line in body]
        _check_rows(file, body, first + 1, names)
        numbers = np.loadtxt(body, ndmin=2, comments=None)
    if numbers.size == 0:
        raise FileFormatError(file, "holds no rows of numbers", "the file is cut short")
    if numbers.shape[1] != len(names):
        raise FileFormatError(file, f"has {len(names)} column labels but {numbers.shape[1]} numbers in each row", "give each column one label")
    return numbers


def _check_rows(file: Path, body: list[str], first: int, names: list[str]) -> None:
    """Find the row that could not be read, and say what is wrong with it."""
    for number, line in enumerate(body, first):
        cells = line.split()
        for cell, name in zip(cells, names, strict=False):
            _check_cell(file, cell, f"line {number}, column '{name}'")
        if cells and len(cells) != len(names):
            raise FileFormatError(
                file,
                f"line {number} holds {len(cells)} values, the labels name {len(names)} columns",
                "an empty cell or a cut line; write nan for a missing value",
            )


def _check_cell(file: Path, cell: str, where: str) -> None:
    if _DECIMAL_COMMA.fullmatch(cell):
        raise FileFormatError(
            file, f"{where}: '{cell}' has a decimal comma, as programs in a German, French or similar locale write it", "export with decimal points"
        )
    try:
        float(cell)
    except ValueError:
        raise FileFormatError(file, f"{where}: '{cell}' is not a number", "remove the text; write nan for a missing value") from None


def _check_counts(file: Path, header: Mapping[str, str], *, rows: int, columns: int) -> None:
    for keys, actual, what in ((_ROW_KEYS, rows, "rows"), (_COLUMN_KEYS, columns, "columns")):
        for key in keys:
            stated = re.match(r"\d+", header.get(key, ""))
            if stated and int(stated[0]) != actual:
                warnings.warn(
                    f"{file}: the header states {stated[0]} {what} ({key}), the file holds {actual}; the file may be cut or merged", DataWarning, stacklevel=4
                )


def _check_time(file: Path, time: NDArray[np.float64]) -> None:
    if not np.isfinite(time).all():
        frame = int(np.flatnonzero(~np.isfinite(time))[0])
        raise FileFormatError(file, f"time is {time[frame]} at row {frame + 1}", "every row needs a time stamp")
    steps = np.diff(time)
    bad = np.flatnonzero(steps <= 0)
    if bad.size:
        row = int(bad[0])
        what = f"time {time[row + 1]:g} occurs twice, at rows" if steps[row] == 0 else f"time runs backwards ({time[row]:g} to {time[row + 1]:g}) at rows"
        more = f"; {bad.size} such places" if bad.size > 1 else ""
        raise FileFormatError(file, f"{what} {row + 1} and {row + 2}{more}", "sort the rows and keep one for each time stamp")


def _check_finite(file: Path, names: list[str], numbers: NDArray[np.float64], allow_nan: bool) -> None:
    infinite = np.isinf(numbers)
    bad = infinite if allow_nan else ~np.isfinite(numbers)
    if not bad.any():
        return
    columns = np.flatnonzero(bad.any(axis=0))
    told = ", ".join(_where(names[c], numbers[:, 0], bad[:, c]) for c in columns[:5])
    more = f" and {columns.size - 5} more columns" if columns.size > 5 else ""
    what = "infinite values" if infinite.any() else "NaN"
    raise FileFormatError(file, f"{what} in column {told}{more}", "fill the gap or cut the file to the frames that are known")


def _where(name: str, time: NDArray[np.float64], bad: NDArray[np.bool_]) -> str:
    first = int(np.argmax(bad))
    return f"'{name}' ({int(bad.sum())} frames, first at frame {first}, t = {time[first]:g} s)"


def _in_degrees(file: Path, header: Mapping[str, str]) -> bool | None:
    value = header.get("indegrees")
    if value is None:
        return None
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise FileFormatError(file, f"header says inDegrees={value}", "write inDegrees=yes or inDegrees=no")


def _writable(names: Sequence[str], time: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    if values.shape != (time.size, len(names)) or time.ndim != 1:
        raise InputError(f"values have shape {values.shape}, must be ({time.size}, {len(names)}): one row for each time stamp, one column for each name")
    unlawful = sorted({n for n in names if list(names).count(n) > 1 or not n or re.search(r"\s", n) or n == "time"})
    if unlawful:
        raise InputError(f"column names {unlawful} repeat, are empty, hold blanks or are 'time'; OpenSim could not tell the columns apart")
    if time.size == 0 or not np.isfinite(time).all() or (np.diff(time) <= 0).any():
        raise InputError("time must hold at least one frame and increase from frame to frame")
    bad = np.argwhere(~np.isfinite(values))
    if bad.size:
        frame, column = bad[0]
        raise InputError(
            f"column '{names[column]}' is {values[frame, column]} at frame {frame}; OpenSim drops such rows without a word, so write only frames that are known"
        )
    return np.column_stack([time, values])
