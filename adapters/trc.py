"""Markers in .trc files: read strictly, written so that any tool reads them.

The format is a table of tab-separated text: three lines of header, a line of labels (one per three columns), a line of
axis names, then a row per frame with frame number, time and three numbers per marker. A blank is a missing marker.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.adapters.marker_checks import LENGTH_UNITS, common_prefix, frozen_markers, unique_labels
from imdy_plugin.atomic import replacing
from imdy_plugin.errors import DataWarning, FileFormatError, InputError
from imdy_plugin.interfaces import MarkerReader
from imdy_plugin.schema import new_motion

Duplicates = Literal["error", "suffix"]

_AXIS_LABEL = re.compile(r"[XYZ]\d+", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class TrcReader(MarkerReader):
    """Reads .trc files.

    Parameters
    ----------
    duplicates
        ``"error"`` refuses a label that occurs twice; ``"suffix"`` keeps both as ``name``, ``name_2``.
    strip_prefix
        Whether to take ``subject:`` off labels that all have the same.
    """

    name: ClassVar[str] = "trc"
    summary: ClassVar[str] = "markers in OpenSim's .trc text files (y up)"

    def __init__(self, duplicates: Duplicates = "error", *, strip_prefix: bool = False) -> None:
        self.duplicates, self.strip_prefix = duplicates, strip_prefix

    def accepts(self, source: Any) -> bool:
        """Whether ``source`` is a path that ends in .trc."""
        return isinstance(source, str | os.PathLike) and Path(source).suffix.lower() == ".trc"

    def read(self, source: Any) -> xr.Dataset:
        """Read a .trc file; see :func:`read_trc`."""
        return read_trc(source, duplicates=self.duplicates, strip_prefix=self.strip_prefix)


def read_trc(path: str | os.PathLike[str], *, duplicates: Duplicates = "error", strip_prefix: bool = False) -> xr.Dataset:
    """Read the markers of a .trc file.

    Parameters
    ----------
    path
        The file, in UTF-8 (a byte-order mark is accepted) or Latin-1. Its axes are taken as the ground frame, y up.
    duplicates
        What to do with a label that occurs twice: ``"error"``, or ``"suffix"`` to keep both.
    strip_prefix
        Whether to take ``subject:`` off labels that all have the same.

    Returns
    -------
    xarray.Dataset
        A motion with ``marker_position`` (time, marker, axis) in metres. Blank cells and exact zeros in all three axes are
        NaN; ``attrs["zeros_as_missing"]`` counts the latter. Time stamps that are the declared rate rounded to the printed
        digits are replaced by that rate's exact ones.

    Raises
    ------
    FileFormatError
        The file is not a .trc file, or a row, a unit, a label or a time stamp of it cannot be used.

    Warns
    -----
    DataWarning
        Counts or rate that the header states wrongly, labels out of place, zeros as missing, a marker that stands still
        while the others move.
    """
    file = Path(path)
    lines = _decode(file).splitlines()
    header = _read_header(file, lines)
    columns = _read_labels(file, lines)
    values, numbers, decimals = _read_rows(file, lines, columns)
    _compare_counts(file, header, columns, len(values))
    time = _check_time(file, values[:, 1], numbers, header.rate, decimals)
    position = values[:, 2:].reshape(len(values), -1, 3)[:, columns.slots] * header.scale
    position, zeros = _zeros_to_missing(file, position)
    labels = [columns.labels[i] for i in columns.slots]
    prefix = common_prefix(labels) if strip_prefix else ""
    names = unique_labels([n.removeprefix(prefix) for n in labels], duplicates, file)
    _warn_frozen(file, names, time, position)
    log = f"read {len(names)} markers and {len(time)} frames from {file.name} ({header.unit} to m)" + (
        f"; prefix '{prefix}' taken off the names" if prefix else ""
    )
    return new_motion(time, markers=(names, position), log=log, attrs={"source": str(file), "source_units": header.unit, "zeros_as_missing": zeros})


def write_trc(motion: xr.Dataset, path: str | os.PathLike[str], *, unit: str = "mm") -> Path:
    """Write the markers of a motion as a .trc file; what was there before is replaced only by a complete file.

    Parameters
    ----------
    motion
        A motion with ``marker_position`` in metres; NaN is written as a blank. Each row ends with a tab, as capture programs write it:
        without one OpenSim does not count a blank at the end.
    path
        Where to write.
    unit
        Unit of the numbers in the file.

    Returns
    -------
    Path
        The file.
    """
    if "marker_position" not in motion:
        raise InputError("the motion holds no markers; a .trc file holds nothing else")
    time = motion["time"].values
    names = [str(n) for n in motion["marker"].values]
    values = motion["marker_position"].values.reshape(len(time), -1) / LENGTH_UNITS[unit]
    rate = (len(time) - 1) / (time[-1] - time[0]) if len(time) > 1 else 1.0
    head = _header_text(Path(path).name, f"{rate:.10g}", len(time), names, unit)
    rows = (f"{i + 1}\t{t:.9g}\t" + "".join("\t" if np.isnan(v) else f"{v:.6f}\t" for v in row) for i, (t, row) in enumerate(zip(time, values, strict=True)))
    with replacing(path) as temporary:
        temporary.write_text(head + "\n".join(rows) + "\n", encoding="utf-8")
    return Path(path)


def _header_text(name: str, rate: str, frames: int, names: Sequence[str], unit: str) -> str:
    keys = "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames"
    counts = f"{rate}\t{rate}\t{frames}\t{len(names)}\t{unit}\t{rate}\t1\t{frames}"
    labels = "Frame#\tTime\t" + "\t\t\t".join(names) + "\t\t"
    axes = "\t\t" + "\t".join(f"X{i}\tY{i}\tZ{i}" for i in range(1, len(names) + 1))
    return f"PathFileType\t4\t(X/Y/Z)\t{name}\n{keys}\n{counts}\n{labels}\n{axes}\n\n"


@dataclass(frozen=True)
class _Header:
    rate: float
    frames: int | None
    markers: int | None
    unit: str
    scale: float


@dataclass(frozen=True)
class _Columns:
    labels: list[str]
    slots: list[int]
    first_row: int

    @property
    def width(self) -> int:
        return 2 + 3 * len(self.labels)


def _decode(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileFormatError(path, f"cannot be read ({error.strerror})", "check the path") from error
    if data[:2] in _UTF16_MARKS or b"\x00" in data[:2000]:
        raise FileFormatError(path, "is UTF-16 or binary, not text in UTF-8", "save it as UTF-8 text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _read_header(path: Path, lines: Sequence[str]) -> _Header:
    first = lines[0].split() if lines else []
    if len(lines) < 5 or not first or first[0] != "PathFileType":
        raise FileFormatError(path, "does not begin with 'PathFileType' and five lines of header", "is it a .trc file?")
    if first[1:2] != ["4"]:
        raise FileFormatError(path, f"line 1: PathFileType is {' '.join(first[1:2]) or 'blank'}", "only type 4 (a row per frame) is read; export it again")
    keys = [c.strip().lower() for c in lines[1].split("\t") if c.strip()]
    cells = [c.strip() for c in lines[2].split("\t") if c.strip()]
    fields = dict(zip(keys, cells, strict=False))
    unit = fields.get("units", "").lower()
    if unit not in LENGTH_UNITS:
        raise FileFormatError(path, f"line 3: unit '{fields.get('units', '')}' is unknown", f"known units: {', '.join(sorted(LENGTH_UNITS))}")
    rate = _header_number(path, fields, "datarate")
    if rate is None or rate <= 0:
        raise FileFormatError(path, f"line 3: DataRate is '{fields.get('datarate', '')}'", "it must be a positive number of frames a second")
    frames, markers = _header_number(path, fields, "numframes"), _header_number(path, fields, "nummarkers")
    return _Header(rate, None if frames is None else int(frames), None if markers is None else int(markers), unit, LENGTH_UNITS[unit])


def _header_number(path: Path, fields: dict[str, str], key: str) -> float | None:
    text = fields.get(key)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise FileFormatError(path, f"line 3: {key} is '{text}', not a number", _locale_hint(text))
    return value


def _read_labels(path: Path, lines: Sequence[str]) -> _Columns:
    """Labels stand over the first of a marker's three columns, or (as OpenSim writes them) two tabs apart after one more tab."""
    cells = [c.strip() for c in lines[3].split("\t")]
    if len(cells) < 3 or not cells[0].lower().startswith("frame") or not cells[1].lower().startswith("time"):
        raise FileFormatError(path, "line 4 does not begin with 'Frame#', 'Time'", "the fourth line must hold the labels")
    axis_cells = [c for c in lines[4].split("\t") if _AXIS_LABEL.fullmatch(c.strip())]
    first_row = 5 if axis_cells else 4
    named = [(i, c) for i, c in enumerate(cells) if i >= 2 and c]
    if not named:
        raise FileFormatError(path, "line 4 names no marker", "the fourth line must hold the labels")
    if [i for i, _ in named] == [3 + 2 * k for k in range(len(named))]:
        return _Columns([c for _, c in named], list(range(len(named))), first_row)
    if any((i - 2) % 3 for i, _ in named):
        warnings.warn(f"{path}: line 4: labels do not stand over their columns; taken in their order", DataWarning, stacklevel=4)
        return _Columns([c for _, c in named], list(range(len(named))), first_row)
    count = max((named[-1][0] - 2) // 3 + 1, len(axis_cells) // 3)
    labels = [""] * count
    for i, label in named:
        labels[(i - 2) // 3] = label
    blank = [i for i, label in enumerate(labels) if not label]
    if blank:
        where = ", ".join(str(3 + 3 * i) for i in blank[:5])
        warnings.warn(f"{path}: line 4: {len(blank)} marker(s) without a label, first column {where}; left out", DataWarning, stacklevel=4)
    return _Columns(labels, [i for i, label in enumerate(labels) if label], first_row)


def _read_rows(path: Path, lines: Sequence[str], columns: _Columns) -> tuple[NDArray[np.float64], list[int], int]:
    numbered = [(n, line) for n, line in enumerate(lines[columns.first_row :], start=columns.first_row + 1) if line.strip()]
    if not numbered:
        raise FileFormatError(path, "holds no rows of data", "export it again")
    rows = []
    decimals = 0
    for number, line in numbered:
        cells = _trim(path, number, line.split("\t"), columns.width)
        rows.append(_to_numbers(path, number, cells))
        decimals = max(decimals, len(cells[1].strip().partition(".")[2]))
    return np.array(rows), [n for n, _ in numbered], decimals


def _trim(path: Path, number: int, cells: list[str], width: int) -> list[str]:
    while len(cells) > width and not cells[-1].strip():
        cells.pop()
    if len(cells) != width:
        fix = "columns must be separated by tabs" if len(cells) == 1 else "the row is cut or a label is missing; export it again"
        raise FileFormatError(path, f"line {number} has {len(cells)} columns, the labels ask for {width}", fix)
    return cells


def _to_numbers(path: Path, number: int, cells: Sequence[str]) -> list[float]:
    try:
        return list(map(float, cells))
    except ValueError:
        return _to_numbers_and_blanks(path, number, cells)


def _to_numbers_and_blanks(path: Path, number: int, cells: Sequence[str]) -> list[float]:
    try:
        return [float(c) if c.strip() else np.nan for c in cells]
    except ValueError:
        for column, cell in enumerate(cells, start=1):
            if cell.strip() and not _is_number(cell):
                raise FileFormatError(path, f"line {number}, column {column}: '{cell.strip()[:40]}' is not a number", _locale_hint(cell)) from None
        raise


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _locale_hint(text: str) -> str:
    if _DECIMAL_COMMA.fullmatch(text.strip()):
        return "decimal commas: the program that wrote it ran under a locale that writes them; export it with decimal points"
    return "a missing marker is a blank cell"


def _compare_counts(path: Path, header: _Header, columns: _Columns, frames: int) -> None:
    for name, stated, held in (("NumFrames", header.frames, frames), ("NumMarkers", header.markers, len(columns.labels))):
        if stated is not None and stated != held:
            warnings.warn(f"{path}: line 3: {name} says {stated}, the file holds {held}; the file's own {held} are used", DataWarning, stacklevel=3)


def _check_time(path: Path, time: NDArray[np.float64], numbers: Sequence[int], rate: float, decimals: int) -> NDArray[np.float64]:
    bad = np.flatnonzero(~np.isfinite(time))
    if bad.size:
        raise FileFormatError(path, f"line {numbers[bad[0]]}: the time stamp is blank or not finite", "every row needs a time")
    back = np.flatnonzero(np.diff(time) <= 0)
    if back.size:
        i = int(back[0])
        what = "repeats" if time[i + 1] == time[i] else "runs backwards"
        raise FileFormatError(path, f"line {numbers[i + 1]}: time {what} ({time[i]:g} s, then {time[i + 1]:g} s)", "remove or mend that row")
    return _unround_time(path, time, rate, decimals)


def _unround_time(path: Path, time: NDArray[np.float64], rate: float, decimals: int) -> NDArray[np.float64]:
    exact = time[0] + np.arange(len(time)) / rate
    if np.abs(exact - time).max() <= min(1.01 * 10.0**-decimals, 0.2 / rate):
        return np.asarray(exact)
    if len(time) > 1:
        found = (len(time) - 1) / (time[-1] - time[0])
        steps = np.diff(time)
        if abs(found / rate - 1) > 0.005:
            warnings.warn(f"{path}: DataRate says {rate:g} Hz, the time stamps say {found:g} Hz; the time stamps are used", DataWarning, stacklevel=4)
        elif steps.max() > 1.5 * np.median(steps):
            i = int(steps.argmax())
            warnings.warn(f"{path}: frames are missing after {time[i]:g} s (the next is at {time[i + 1]:g} s)", DataWarning, stacklevel=4)
    return time


def _zeros_to_missing(path: Path, position: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    if np.isinf(position).any():
        raise FileFormatError(path, "holds infinite coordinates", "a missing marker is a blank cell")
    incomplete = np.isnan(position).any(axis=-1)
    zeros = (position == 0).all(axis=-1)
    if zeros.any():
        message = f"{path}: {int(zeros.sum())} marker positions are exactly 0, 0, 0; taken as missing"
        warnings.warn(message, DataWarning, stacklevel=3)
    return np.where((zeros | incomplete)[..., None], np.nan, position), int(zeros.sum())


def _warn_frozen(path: Path, names: Sequence[str], time: NDArray[np.float64], position: NDArray[np.float64]) -> None:
    for name, (start, stop) in frozen_markers(names, time, position).items():
        warnings.warn(f"{path}: marker '{name}' stands still from {start:g} to {stop:g} s while others move; was it filled?", DataWarning, stacklevel=3)
