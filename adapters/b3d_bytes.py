"""The bytes of AddBiomechanics' .b3d files: a header and frames of fixed size, both in the protocol buffers' wire format.

Everything is checked against the length of the file before it is believed, and nothing native reads it: a cut or corrupted file is an error
with the place, never a crash. Field numbers are those of ``SubjectOnDisk.proto`` in Nimble's sources, version 4 of the format.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imdy_plugin.errors import FileFormatError

Array = NDArray[np.float64]

NEWEST_VERSION = 4
"""Newest version of the format that is known."""

PASS_KINDS = {0: "kinematics", 1: "dynamics", 2: "low-pass filter"}

MISSING_REASONS = {
    1: "measured force zero while accelerating",
    2: "unmeasured external force",
    3: "torque discrepancy",
    4: "force discrepancy",
    5: "not over a force plate",
    6: "missing impact",
    7: "missing blip",
    8: "shifted",
    9: "clipped, interpolated",
    10: "manual review",
}
"""Why AddBiomechanics takes a frame's ground force as not known."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SHORTEST_STEP, _LONGEST_STEP, _MOST_PLATES = 1e-5, 1.0, 1000


class _MalformedError(ValueError):
    """Bytes that are no protocol buffers message, or a field of another type than the format has."""


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of up to 64 bits, seven per byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise _MalformedError(f"ends inside a number at byte {at}")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise _MalformedError(f"holds a number of more than 64 bits before byte {at}")


def _fields(data: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Number, wire type, value (of a varint, else 0), start and stop of the content of each field."""
    at = 0
    while at < len(data):
        key, start = _read_varint(data, at)
        number, kind = key >> 3, key & 7
        value = 0
        if kind == _VARINT:
            value, stop = _read_varint(data, start)
        elif kind == _BYTES:
            length, start = _read_varint(data, start)
            stop = start + length
        elif kind in (_FIXED64, _FIXED32):
            stop = start + (8 if kind == _FIXED64 else 4)
        else:
            raise _MalformedError(f"has a field of unknown type {kind} at byte {at}")
        if number == 0 or stop > len(data):
            raise _MalformedError(f"has a field at byte {at} that reaches beyond its end")
        yield number, kind, value, start, stop
        at = stop


class _Message:
    """The fields of one message, by number; absent ones are zero or empty, as the format has it."""

    def __init__(self, data: bytes) -> None:
        self._fields: dict[int, list[tuple[int, int, bytes]]] = {}
        for number, kind, value, start, stop in _fields(data):
            self._fields.setdefault(number, []).append((kind, value, data[start:stop]))

    def _of(self, number: int, kind: int) -> list[tuple[int, bytes]]:
        found = self._fields.get(number, [])
        if any(k != kind for k, _, _ in found):
            raise _MalformedError(f"has field {number} in another type than the format")
        return [(value, content) for _, value, content in found]

    def integer(self, number: int) -> int:
        """A 32-bit number with sign."""
        found = self._of(number, _VARINT)
        return _signed(found[-1][0]) if found else 0

    def number(self, number: int) -> float:
        found = self._of(number, _FIXED64)
        return float(struct.unpack("<d", found[-1][1])[0]) if found else 0.0

    def texts(self, number: int) -> list[str]:
        try:
            return [content.decode("utf-8") for _, content in self._of(number, _BYTES)]
        except UnicodeDecodeError as error:
            raise _MalformedError(f"has a text in field {number} that is not UTF-8") from error

    def text(self, number: int) -> str:
        return (self.texts(number) or [""])[-1]

    def messages(self, number: int) -> list[_Message]:
        return [_Message(content) for _, content in self._of(number, _BYTES)]

    def integers(self, number: int) -> list[int]:
        """Numbers in packed form."""
        values = []
        for _, content in self._of(number, _BYTES):
            at = 0
            while at < len(content):
                value, at = _read_varint(content, at)
                values.append(_signed(value))
        return values

    def numbers(self, number: int) -> Array:
        """Floating-point numbers in packed form."""
        content = b"".join(c for _, c in self._of(number, _BYTES))
        if len(content) % 8:
            raise _MalformedError(f"has {len(content)} bytes of 8-byte numbers in field {number}")
        return np.frombuffer(content, "<f8").astype(float)


def _signed(value: int) -> int:
    low = value & 0xFFFFFFFF
    return low - (1 << 32) if low >= 1 << 31 else low


@dataclass(frozen=True)
class B3dTrial:
    """What the header says of one trial.

    Attributes
    ----------
    name, original_name
        Its name, and that of the recording it was cut from.
    frames, time_step
        Number of frames, and the time between them [s].
    passes
        Kinds of the processing passes whose frames follow each sensor frame, see :data:`PASS_KINDS`.
    plates, corners
        Number of force plates, and their corners [m] ``(plate, 4, 3)``, NaN where not stated.
    missing_force
        For each frame 0, or why its ground force counts as unknown, see :data:`MISSING_REASONS`.
    start
        Where its first frame is in the file [byte].
    """

    name: str
    original_name: str
    frames: int
    time_step: float
    passes: tuple[str, ...]
    plates: int
    corners: Array
    missing_force: NDArray[np.int64]
    start: int


@dataclass(frozen=True)
class B3dFile:
    """A checked .b3d file.

    Attributes
    ----------
    path
        The file.
    markers, contact_bodies
        Names.
    mass, height
        The person's [kg], [m]; zero where not stated.
    models
        Document (.osim) of each processing pass.
    trials
        In the order of the file.
    sensor_size, pass_size
        Size [byte] of the two kinds of frames.
    """

    path: Path
    markers: tuple[str, ...]
    contact_bodies: tuple[str, ...]
    mass: float
    height: float
    models: tuple[str, ...]
    trials: tuple[B3dTrial, ...]
    sensor_size: int
    pass_size: int

    def sensor_numbers(self, trial: B3dTrial, fields: Mapping[str, int], count: int, *, padded: bool = False) -> list[Array]:
        """Numbers of a trial's sensor frames, each ``(frame, number)``.

        Parameters
        ----------
        trial
            One of :attr:`trials`.
        fields
            Field numbers by the name for messages.
        count
            How many numbers each field holds in a frame.
        padded
            Whether more may follow, which are left out: frames have room for the plates of the trial that has most.

        Raises
        ------
        FileFormatError
            The frames hold another count of numbers, or are laid out unlike each other.
        """
        return self._numbers(trial, 0, self.sensor_size, fields, count, padded)

    def pass_numbers(self, trial: B3dTrial, index: int, fields: Mapping[str, int], count: int) -> list[Array]:
        """As :meth:`sensor_numbers`, of the frames of processing pass ``index``."""
        return self._numbers(trial, self.sensor_size + index * self.pass_size, self.pass_size, fields, count, False)

    def _numbers(self, trial: B3dTrial, offset: int, size: int, fields: Mapping[str, int], count: int, padded: bool) -> list[Array]:
        stride = self.sensor_size + len(trial.passes) * self.pass_size
        with self.path.open("rb") as file:
            file.seek(trial.start)
            data = np.frombuffer(file.read(stride * trial.frames), np.uint8)
        if data.size != stride * trial.frames:
            raise FileFormatError(self.path, f"ends inside trial '{trial.name}'", "it was cut while it was read; read it again")
        frames = data.reshape(trial.frames, stride)[:, offset : offset + size]
        try:
            spans = _layout(frames)
        except _MalformedError as error:
            raise FileFormatError(self.path, f"trial '{trial.name}': a frame {error}", "the file is damaged; get it again") from error
        found = []
        for name, number in fields.items():
            start, stop = spans.get(number, (0, 0))
            if stop - start < 8 * count or (stop - start > 8 * count and not padded):
                text = f"trial '{trial.name}' has {(stop - start) / 8:g} numbers of {name} per frame, the header states {count}"
                raise FileFormatError(self.path, text, "the file is damaged; get it again")
            found.append(np.ascontiguousarray(frames[:, start : start + 8 * count]).view("<f8").astype(float))
        return found


def _layout(frames: NDArray[np.uint8]) -> dict[int, tuple[int, int]]:
    """Where the content of each field is, the same in all frames."""
    spans: dict[int, tuple[int, int]] = {}
    own = np.ones(frames.shape[1], bool)
    for number, kind, _, start, stop in _fields(frames[0].tobytes()):
        if kind == _BYTES and number not in spans:
            spans[number] = start, stop
            own[start:stop] = False
    other = np.flatnonzero((frames[:, own] != frames[0, own]).any(axis=1))
    if other.size:
        raise _MalformedError(f"({other[0]}) is laid out unlike the first")
    return spans


def read_b3d_bytes(path: str | os.PathLike[str]) -> B3dFile:
    """Read and check the header of a .b3d file; frames are read when they are asked for.

    Raises
    ------
    FileFormatError
        The file is empty, cut, longer than it says, of a newer version, or no .b3d at all.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = _header_length(path, file.read(8), size)
            header = file.read(length)
    except OSError as error:
        raise FileFormatError(path, f"cannot be read ({error.strerror or error})", "check the path") from error
    try:
        return _read_header(path, _Message(header), 8 + length, size)
    except _MalformedError as error:
        raise FileFormatError(path, f"the header {error}", "it is no .b3d file, or a damaged one; get it again") from error


def _header_length(path: Path, first: bytes, size: int) -> int:
    if size <= 8 or len(first) < 8:
        raise FileFormatError(path, f"has {size} bytes, no header", "it is empty or was cut; get it again")
    length = int.from_bytes(first, "little", signed=True)
    if not 0 < length <= size - 8:
        raise FileFormatError(path, f"states a header of {length} bytes in a file of {size}", "it is no .b3d file, or was cut; get it again")
    return length


def _read_header(path: Path, header: _Message, start: int, size: int) -> B3dFile:
    version, sensor_size, pass_size = (header.integer(n) for n in (10, 3, 4))
    if version > NEWEST_VERSION:
        raise FileFormatError(path, f"is version {version} of the format", f"versions up to {NEWEST_VERSION} are read")
    if sensor_size <= 0 or pass_size < 0:
        raise _MalformedError(f"states frames of {sensor_size} and {pass_size} bytes")
    trials = []
    for message in header.messages(9):
        trial = _read_trial(message, start, (size - start) // sensor_size)
        trials.append(trial)
        start += trial.frames * (sensor_size + len(trial.passes) * pass_size)
    if start != size:
        found = f"has {size} bytes; its header states {len(trials)} trial(s) that take {start}"
        raise FileFormatError(path, found, "it was cut or damaged; get it again")
    return B3dFile(
        path,
        markers=tuple(header.texts(17)),
        contact_bodies=tuple(header.texts(6)),
        mass=header.number(15),
        height=header.number(14),
        models=tuple(message.text(2) for message in header.messages(5)),
        trials=tuple(trials),
        sensor_size=sensor_size,
        pass_size=pass_size,
    )


def _read_trial(message: _Message, start: int, room: int) -> B3dTrial:
    name, frames, step, plates = message.text(1), message.integer(3), message.number(4), message.integer(7)
    if not 0 <= frames <= room:
        raise _MalformedError(f"states {frames} frames in trial '{name}', for which the file has no room")
    if not 0 <= plates <= _MOST_PLATES:
        raise _MalformedError(f"states {plates} force plates in trial '{name}'")
    if frames and not _SHORTEST_STEP < step < _LONGEST_STEP:
        raise _MalformedError(f"states a time step of {step:g} s in trial '{name}'")
    missing = message.integers(2)
    if missing and len(missing) != frames:
        raise _MalformedError(f"tells {len(missing)} frames of {frames} in trial '{name}' whether their force is known")
    corners = message.numbers(8)
    stated = corners.size == 12 * plates and plates > 0
    return B3dTrial(
        name=name,
        original_name=message.text(10) or name,
        frames=frames,
        time_step=step,
        passes=tuple(PASS_KINDS.get(p.integer(1), "unknown") for p in message.messages(5)),
        plates=plates,
        corners=_corners(corners.reshape(plates, 4, 3)) if stated else np.full((plates, 4, 3), np.nan),
        missing_force=np.array(missing or [0] * frames, dtype=np.int64),
        start=start,
    )


def _corners(corners: Array) -> Array:
    """Corners, NaN where a plate's are all zero: the format's way to say that they are not known."""
    known = np.isfinite(corners).all(axis=(1, 2)) & (np.ptp(corners, axis=1).max(axis=1) > 0)
    return np.where(known[:, None, None], corners, np.nan)
