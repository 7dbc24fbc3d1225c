"""The bytes of a .c3d file, checked before they are believed.

Follows the C3D user guide (c3d.org): a header of 512 bytes, a section of parameters in groups, then per frame the points
and the analog samples. Every length that the file states is held against the bytes that are there, so that a cut or
damaged file is an error and never fewer frames or a crash.
"""

from __future__ import annotations

import math
import os
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imdy_plugin.errors import DataWarning, FileFormatError

BLOCK = 512
"""Bytes per block; sections of the file begin at whole blocks."""

_PROCESSORS = {84: "intel", 85: "dec", 86: "mips"}
_TYPE_BYTES = {-1: 1, 1: 1, 2: 2, 4: 4}


@dataclass(frozen=True)
class C3dFile:
    """What a .c3d file holds, in its own units and axes.

    Attributes
    ----------
    path
        The file.
    parameters
        Values by group and name: an array in the file's index order, or a list of texts.
    points
        Points (frame, point, 3); NaN where the file marks them invalid.
    point_rate
        Frames a second.
    first_frame
        Number of the first frame, as the file counts.
    analog
        Analog samples (sample, channel) with the file's offsets and scales applied.
    analog_rate
        Samples a second.
    """

    path: Path
    parameters: Mapping[str, Mapping[str, Any]]
    points: NDArray[np.float64]
    point_rate: float
    first_frame: int
    analog: NDArray[np.float64]
    analog_rate: float

    def texts(self, group: str, name: str) -> list[str]:
        """Texts of a parameter and of its continuations (``LABELS``, ``LABELS2``, ...), empty where it is absent."""
        found: list[str] = []
        for suffix in ("", *map(str, range(2, 100))):
            value = self.parameters.get(group, {}).get(name + suffix)
            if not isinstance(value, list):
                break
            found += value
        return found

    def numbers(self, group: str, name: str) -> NDArray[np.float64]:
        """Numbers of a parameter in the file's index order, empty where it is absent."""
        value = self.parameters.get(group, {}).get(name)
        return np.asarray(value, float) if isinstance(value, np.ndarray) else np.zeros(0)


@dataclass(frozen=True)
class _Header:
    points: int
    samples: int
    first_frame: int
    last_frame: int
    scale: float
    data_block: int
    samples_per_frame: int
    rate: float

    @property
    def frames(self) -> int:
        return self.last_frame - self.first_frame + 1


class _Numbers:
    """Numbers as one of the three kinds of processor writes them."""

    def __init__(self, kind: str) -> None:
        self.order = ">" if kind == "mips" else "<"
        self.dec = kind == "dec"

    def integers(self, data: bytes, unsigned: bool = False) -> NDArray[np.int64]:
        return np.frombuffer(data, self.order + ("u2" if unsigned else "i2")).astype(np.int64)

    def floats(self, data: bytes) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):  # damaged files hold signalling NaN
            if not self.dec:
                return np.frombuffer(data, self.order + "f4").astype(float)
            swapped = np.frombuffer(data, "<u2").reshape(-1, 2)[:, ::-1].astype("<u2")
            return swapped.reshape(-1).view("<f4").astype(float) / 4.0


def read_c3d_bytes(path: str | os.PathLike[str]) -> C3dFile:
    """Read a .c3d file in its own units and axes.

    Raises
    ------
    FileFormatError
        The bytes are no C3D, the header contradicts the parameters, or fewer frames are there than stated.

    Warns
    -----
    DataWarning
        The file states no analog rate, a number of frames that is not whole, or fewer frames than are there.
    """
    file = Path(path)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise FileFormatError(file, f"cannot be read ({error.strerror})", "check the path") from error
    if len(data) < 2 * BLOCK or data[1] != 0x50:
        raise FileFormatError(file, "the bytes are no C3D (no 0x50 mark, or under two blocks long)", "is it a .c3d file?")
    start = (data[0] - 1) * BLOCK
    if data[0] < 2 or start + 4 > len(data) or data[start + 3] not in _PROCESSORS:
        raise FileFormatError(file, "the bytes are no C3D (no section of parameters where the header points)", "is it a .c3d file?")
    numbers = _Numbers(_PROCESSORS[data[start + 3]])
    header = _read_header(data, numbers)
    parameters = _read_parameters(file, data, start, numbers)
    return _read_frames(file, data, numbers, header, parameters)


def _read_header(data: bytes, numbers: _Numbers) -> _Header:
    words = [int(w) for w in numbers.integers(data[: 2 * 12], unsigned=True)]
    scale, rate = numbers.floats(data[12:16])[0], numbers.floats(data[20:24])[0]
    return _Header(words[1], words[2], words[3], words[4], float(scale), words[8], words[9], float(rate))


def _read_parameters(path: Path, data: bytes, start: int, numbers: _Numbers) -> dict[str, dict[str, Any]]:
    """Walk the chain of records; names are upper case, a group is known by the negative of its number."""
    groups: dict[int, str] = {}
    records: list[tuple[int, str, Any]] = []
    at = start + 4
    try:
        while at + 2 <= len(data) and data[at]:
            length = abs(struct.unpack_from("b", data, at)[0])
            number = struct.unpack_from("b", data, at + 1)[0]
            name = _text(data[at + 2 : at + 2 + length]).upper()
            next_at = at + 2 + length
            step = int(numbers.integers(data[next_at : next_at + 2], unsigned=True)[0])
            if number < 0:
                groups[-number] = name
            elif number > 0:
                records.append((number, name, _read_value(data, next_at + 2, numbers)))
            if step == 0:
                break
            at = next_at + step
    except (IndexError, ValueError, struct.error) as error:
        raise FileFormatError(path, f"the parameters cannot be read (byte {at}: {error})", "the file is cut or damaged; export it again") from error
    found: dict[str, dict[str, Any]] = {name: {} for name in groups.values()}
    for number, name, value in records:
        found.setdefault(groups.get(number, f"GROUP{number}"), {})[name] = value
    return found


def _read_value(data: bytes, at: int, numbers: _Numbers) -> Any:
    kind = struct.unpack_from("b", data, at)[0]
    if kind not in _TYPE_BYTES:
        raise ValueError(f"a parameter has the unknown type {kind}")
    count = data[at + 1]
    shape = list(data[at + 2 : at + 2 + count])
    size = math.prod(shape) * _TYPE_BYTES[kind]
    raw = data[at + 2 + count : at + 2 + count + size]
    if len(shape) != count or len(raw) != size:
        raise ValueError("a parameter is longer than the file")
    if kind == -1:
        return _texts(raw, shape)
    if kind == 1:
        flat: NDArray[Any] = np.frombuffer(raw, "i1")
    else:
        flat = numbers.integers(raw) if kind == 2 else numbers.floats(raw)
    return flat.reshape(shape, order="F")


def _texts(raw: bytes, shape: list[int]) -> list[str]:
    if len(shape) < 2:
        return [_text(raw)]
    width = shape[0]
    return [_text(raw[i * width : (i + 1) * width]) for i in range(math.prod(shape[1:]))]


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8").strip(" \x00")
    except UnicodeDecodeError:
        return raw.decode("latin-1").strip(" \x00")


def _read_frames(path: Path, data: bytes, numbers: _Numbers, header: _Header, parameters: dict[str, dict[str, Any]]) -> C3dFile:
    point = parameters.get("POINT", {})
    _compare_with_header(path, header, point, parameters.get("ANALOG", {}))
    rate = _scalar(point, "RATE") or header.rate
    if not (math.isfinite(rate) and rate > 0):
        raise FileFormatError(path, f"POINT:RATE is {rate:g}", "the frame rate must be positive; export it again")
    scale = _scalar(point, "SCALE") or header.scale
    if scale == 0 or not math.isfinite(scale):
        raise FileFormatError(path, f"POINT:SCALE is {scale:g}", "the scale must not be zero; export it again")
    frames = _count_frames(path, header, parameters)
    table = _frame_table(path, data, numbers, header, frames, is_float=scale < 0, unsigned=_is_unsigned(parameters))
    points = _scale_points(table[:, : 4 * header.points].reshape(frames, header.points, 4), scale)
    analog = _scale_analog(path, table[:, 4 * header.points :], header, parameters.get("ANALOG", {}))
    return C3dFile(path, parameters, points, rate, header.first_frame, analog, _analog_rate(path, header, parameters, rate))


def _scalar(group: Mapping[str, Any], name: str) -> float | None:
    value = group.get(name)
    return float(value.ravel(order="F")[0]) if isinstance(value, np.ndarray) and value.size else None


def _unsigned(value: float) -> float:
    return value + 65536 if value < 0 else value


def _compare_with_header(path: Path, header: _Header, point: Mapping[str, Any], analog: Mapping[str, Any]) -> None:
    used = _scalar(point, "USED")
    if used is not None and _unsigned(used) != header.points:
        found = f"the header counts {header.points} points, POINT:USED {_unsigned(used):g}"
        raise FileFormatError(path, found, "the frames cannot be told apart; export it again")
    channels = _unsigned(_scalar(analog, "USED") or 0)
    if channels * header.samples_per_frame != header.samples and (channels or header.samples):
        found = f"the header counts {header.samples} analog samples a frame, ANALOG:USED gives {channels:g} x {header.samples_per_frame}"
        raise FileFormatError(path, found, "the frames cannot be told apart; export it again")


def _count_frames(path: Path, header: _Header, parameters: dict[str, dict[str, Any]]) -> int:
    """Frames that the file states; the header's and POINT:FRAMES' 16 bits are too few for long recordings."""
    point = parameters.get("POINT", {})
    stated = _scalar(point, "FRAMES")
    if stated is not None and not float(stated).is_integer():
        warnings.warn(f"{path}: POINT:FRAMES is {stated:g}, not whole; the header's {header.frames} is used", DataWarning, stacklevel=4)
        stated = None
    long = _scalar(point, "LONG_FRAMES") or _trial_frames(parameters.get("TRIAL", {}))
    if stated is not None:
        stated = _unsigned(stated)
    saturated = header.last_frame == 65535 or stated == 65535
    if long and (saturated or long > 65535):
        return int(long)
    if stated and not saturated and stated != header.frames:
        found = f"the header counts {header.frames} frames ({header.first_frame} to {header.last_frame}), POINT:FRAMES {stated:g}"
        raise FileFormatError(path, found, "export it again")
    frames = int(stated or header.frames)
    if frames < 1:
        raise FileFormatError(path, f"states {frames} frames", "export it again")
    return frames


def _trial_frames(trial: Mapping[str, Any]) -> float | None:
    ends = []
    for name in ("ACTUAL_START_FIELD", "ACTUAL_END_FIELD"):
        value = trial.get(name)
        if not isinstance(value, np.ndarray) or value.size != 2:
            return None
        low, high = (int(_unsigned(v)) for v in value.ravel())
        ends.append(low + 65536 * high)
    return float(ends[1] - ends[0] + 1)


def _is_unsigned(parameters: Mapping[str, Mapping[str, Any]]) -> bool:
    value = parameters.get("ANALOG", {}).get("FORMAT")
    return isinstance(value, list) and value[:1] == ["UNSIGNED"]


def _frame_table(path: Path, data: bytes, numbers: _Numbers, header: _Header, frames: int, *, is_float: bool, unsigned: bool) -> NDArray[np.float64]:
    columns = 4 * header.points + header.samples
    start = (header.data_block - 1) * BLOCK
    if header.data_block < 2 or start > len(data):
        raise FileFormatError(path, f"the data should begin at block {header.data_block}, outside the file", "the file is cut or damaged; export it again")
    size = columns * (4 if is_float else 2)
    held = (len(data) - start) // size if size else 0
    if size and held < frames:
        raise FileFormatError(path, f"{frames} frames are stated, the bytes hold {held}", "the file is cut; copy or export it again")
    if size and len(data) - start - frames * size >= max(size, 2 * BLOCK):
        warnings.warn(f"{path}: {frames} frames are stated, the bytes would hold {held}; the stated ones are used", DataWarning, stacklevel=5)
    raw = data[start : start + frames * size]
    if is_float:
        return numbers.floats(raw).reshape(frames, columns)
    table = numbers.integers(raw).reshape(frames, columns).astype(float)
    if unsigned:
        samples = table[:, 4 * header.points :]
        table[:, 4 * header.points :] = np.where(samples < 0, samples + 65536, samples)
    return table


def _scale_points(table: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Positions; a negative fourth word marks a point as invalid. Floating-point files are already scaled."""
    position = table[..., :3] * (scale if scale > 0 else 1.0)
    invalid = ~(table[..., 3] >= 0) | ~np.isfinite(position).all(axis=-1)
    return np.where(invalid[..., None], np.nan, position)


def _scale_analog(path: Path, table: NDArray[np.float64], header: _Header, analog: Mapping[str, Any]) -> NDArray[np.float64]:
    channels = header.samples // header.samples_per_frame if header.samples_per_frame else 0
    if not channels:
        return np.zeros((0, 0))
    samples = table.reshape(-1, channels)
    general = _scalar(analog, "GEN_SCALE")
    scale = _per_channel(path, analog, "SCALE", channels, 1.0) * (1.0 if general is None else general)
    return (samples - _per_channel(path, analog, "OFFSET", channels, 0.0)) * scale


def _per_channel(path: Path, analog: Mapping[str, Any], name: str, channels: int, default: float) -> NDArray[np.float64]:
    pieces = [analog[k].ravel() for k in (name, *(f"{name}{i}" for i in range(2, 100))) if isinstance(analog.get(k), np.ndarray)]
    values = np.concatenate(pieces).astype(float)[:channels] if pieces else np.full(channels, default)
    if len(values) < channels:
        raise FileFormatError(path, f"ANALOG:{name} holds {len(values)} values for {channels} channels", "export it again")
    return values


def _analog_rate(path: Path, header: _Header, parameters: Mapping[str, Mapping[str, Any]], point_rate: float) -> float:
    by_frame = point_rate * header.samples_per_frame
    stated = _scalar(parameters.get("ANALOG", {}), "RATE")
    if header.samples and (not stated or abs(stated - by_frame) > 1e-3 * by_frame):
        what = f"ANALOG:RATE is {stated:g} Hz" if stated else "states no ANALOG:RATE"
        warnings.warn(f"{path}: {what}; {header.samples_per_frame} samples a frame make {by_frame:g} Hz, which is used", DataWarning, stacklevel=4)
    return by_frame
