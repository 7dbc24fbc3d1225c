"""Reads skeletons and their motion from ``.bvh`` files (Biovision hierarchy)."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imdy_plugin.errors import DataWarning, FileFormatError, UnknownNameError, suggest

Array = NDArray[np.float64]

CHANNELS = ("Xposition", "Yposition", "Zposition", "Xrotation", "Yrotation", "Zrotation")
"""Names that a channel may have, in whatever order a joint lists them."""


@dataclass(frozen=True)
class BvhMotion:
    """A skeleton and its motion, in the file's own axes and unit of length.

    Attributes
    ----------
    joints
        Names of the joints, parents before children.
    parents
        Index of each joint's parent, -1 for the root.
    offsets
        Where each joint lies in its parent's frame, ``(joint, 3)``, in the file's unit of length.
    ends
        Where the end site lies in the frame of a joint that has one, by the joint's name.
    channels
        Names of each joint's channels, in the order in which the file applies them.
    values
        The channels' values, ``(time, channel)``: positions in the file's unit, rotations in **degrees**, as written.
    frame_time
        Time from one frame to the next [s].
    path
        The file.
    """

    joints: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: Array
    ends: dict[str, Array]
    channels: tuple[tuple[str, ...], ...]
    values: Array
    frame_time: float
    path: str = ""

    def __len__(self) -> int:
        return len(self.values)

    @property
    def time(self) -> Array:
        """Time stamps from zero [s], ``(time,)``."""
        return np.asarray(np.arange(len(self.values)) * self.frame_time, np.float64)

    def index(self, joint: str) -> int:
        """Index of a joint.

        Raises
        ------
        UnknownNameError
            When the skeleton has no such joint; lists the nearest ones.
        """
        if joint not in self.joints:
            raise UnknownNameError("joint", joint, self.joints, hint=f"({self.path})")
        return self.joints.index(joint)

    def local(self) -> tuple[Array, Array]:
        """Each joint's rotation against its parent ``(time, joint, 3, 3)`` and place in it ``(time, joint, 3)``."""
        count = len(self.joints)
        rotation = np.broadcast_to(np.eye(3), (len(self), count, 3, 3)).copy()
        place = np.broadcast_to(self.offsets, (len(self), count, 3)).copy()
        column = 0
        for joint, names in enumerate(self.channels):
            moved = [i for i, name in enumerate(names) if name.endswith("position")]
            for i in moved:
                place[:, joint, "XYZ".index(names[i][0])] = self.values[:, column + i]
            for i, name in enumerate(names):
                if i not in moved:
                    rotation[:, joint] = rotation[:, joint] @ _about(name[0], np.radians(self.values[:, column + i]))
            column += len(names)
        return rotation, place

    def world(self) -> tuple[Array, Array]:
        """Each joint's rotation ``(time, joint, 3, 3)`` and position ``(time, joint, 3)`` in the file's world axes and unit."""
        rotation, place = self.local()
        for joint, parent in enumerate(self.parents):
            if parent >= 0:
                place[:, joint] = place[:, parent] + np.einsum("tij,tj->ti", rotation[:, parent], place[:, joint])
                rotation[:, joint] = rotation[:, parent] @ rotation[:, joint]
        return rotation, place


def read_bvh(path: str | Path) -> BvhMotion:
    """Read a ``.bvh`` file.

    Parameters
    ----------
    path
        The file. Line ends of any kind, a byte-order mark and channels in any order are accepted.

    Raises
    ------
    FileFormatError
        When the file is no BVH file or holds values that would give a wrong answer; names the line.

    Warns
    -----
    DataWarning
        When the header states another number of frames than the file holds.
    """
    lines = _lines(Path(path))
    split = next((i for i, line in enumerate(lines) if line.split()[:1] == ["MOTION"]), None)
    if split is None:
        raise FileFormatError(path, "no line 'MOTION'", "a .bvh file holds a HIERARCHY, then MOTION; the file may be cut off")
    skeleton = _Hierarchy(path, lines[:split])
    stated, frame_time, first = _timing(path, lines, split)
    values = _values(path, lines, first, sum(map(len, skeleton.channels)))
    if stated != len(values):
        warnings.warn(f"{path}: the header states {stated} frames, the file holds {len(values)}; all that it holds are used", DataWarning, stacklevel=2)
    return BvhMotion(
        joints=tuple(skeleton.joints),
        parents=tuple(skeleton.parents),
        offsets=np.array(skeleton.offsets),
        ends=skeleton.ends,
        channels=tuple(skeleton.channels),
        values=values,
        frame_time=frame_time,
        path=str(path),
    )


def _lines(path: Path) -> list[str]:
    raw = path.read_bytes()
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise FileFormatError(path, "text in UTF-16", "save it as UTF-8 or ASCII")
    if b"\0" in raw:
        raise FileFormatError(path, "zero bytes; a .bvh file is text", "give a text file that starts with HIERARCHY")
    return raw.decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n").split("\n")


class _Hierarchy:
    """Joints of the HIERARCHY section, read line by line."""

    def __init__(self, path: str | Path, lines: list[str]) -> None:
        self.path = path
        self.joints: list[str] = []
        self.parents: list[int] = []
        self.offsets: list[Array] = []
        self.channels: list[tuple[str, ...]] = []
        self.ends: dict[str, Array] = {}
        self._open: list[int | None] = []
        self._pending: list[int | None] = []
        self._placed: set[int] = set()
        self._started = False
        for number, line in enumerate(lines, start=1):
            if words := line.split():
                self._take(number, words)
        self._finish(len(lines) + 1)

    def _take(self, number: int, words: list[str]) -> None:
        if not self._started:
            if words != ["HIERARCHY"]:
                raise self._error(number, f"'{' '.join(words)[:60]}' where HIERARCHY must stand", "give a .bvh file")
            self._started = True
            return
        actions = {"ROOT": self._joint, "JOINT": self._joint, "End": self._end, "{": self._enter, "}": self._leave}
        actions |= {"OFFSET": self._offset, "CHANNELS": self._channels}
        if words[0] not in actions:
            raise self._error(number, f"unknown word '{words[0][:40]}'", suggest(words[0], actions))
        actions[words[0]](number, words)

    def _joint(self, number: int, words: list[str]) -> None:
        name = " ".join(words[1:])
        if not name or name in self.joints:
            raise self._error(number, f"joint '{name}' occurs twice" if name else "a joint without a name", "give every joint a name of its own")
        if (words[0] == "ROOT") != (not self._open) or (words[0] == "ROOT" and self.joints):
            raise self._error(number, f"{words[0]} '{name}' where it must not stand", "one ROOT holds all joints; split a file of several")
        self.joints.append(name)
        self.parents.append(-1 if words[0] == "ROOT" else self._current(number))
        self.offsets.append(np.zeros(3))
        self.channels.append(())
        self._pending.append(len(self.joints) - 1)

    def _end(self, number: int, words: list[str]) -> None:
        self._current(number)
        self._pending.append(None)

    def _enter(self, number: int, words: list[str]) -> None:
        if not self._pending:
            raise self._error(number, "'{' without a joint before it", "the file is damaged")
        self._open.append(self._pending.pop())

    def _leave(self, number: int, words: list[str]) -> None:
        if not self._open:
            raise self._error(number, "'}' without its '{'", "the file is damaged")
        self._open.pop()

    def _offset(self, number: int, words: list[str]) -> None:
        offset = np.array(_numbers(self.path, number, words[1:], 3))
        owner = self._open[-1] if self._open else self._current(number)
        if owner is None:
            self.ends[self.joints[self._current_joint(number)]] = offset
        else:
            self.offsets[owner] = offset
            self._placed.add(owner)

    def _channels(self, number: int, words: list[str]) -> None:
        joint, names = self._current(number), words[2:]
        if not (len(words) > 1 and words[1].isdigit() and int(words[1]) == len(names)):
            raise self._error(number, f"'{' '.join(words[:2])}' followed by {len(names)} names", "the number must be that of the names")
        for name in names:
            if name not in CHANNELS:
                raise self._error(number, f"unknown channel '{name[:40]}'", suggest(name, CHANNELS))
        if len(set(names)) < len(names):
            raise self._error(number, f"a channel named twice: {' '.join(names)}", "the file is damaged")
        self.channels[joint] = tuple(names)

    def _current(self, number: int) -> int:
        if not self._open or self._open[-1] is None:
            raise self._error(number, "a line that belongs to a joint stands outside of one", "the file is damaged")
        return self._open[-1]

    def _current_joint(self, number: int) -> int:
        if len(self._open) < 2 or self._open[-2] is None:
            raise self._error(number, "an end site outside of a joint", "the file is damaged")
        return self._open[-2]

    def _finish(self, number: int) -> None:
        if not self.joints:
            raise self._error(number, "no ROOT before MOTION", "the file is damaged or no .bvh file")
        if self._open or self._pending:
            raise self._error(number, f"{len(self._open) + len(self._pending)} braces not closed before MOTION", "the file is damaged")
        if missing := [name for i, name in enumerate(self.joints) if i not in self._placed]:
            raise self._error(number, f"no OFFSET in {', '.join(missing)}", "the file is damaged")

    def _error(self, number: int, found: str, fix: str) -> FileFormatError:
        return FileFormatError(self.path, f"line {number}: {found}", fix)


def _timing(path: str | Path, lines: list[str], split: int) -> tuple[int, float, int]:
    """Stated number of frames, time between frames [s], index of the first line of values."""
    numbered = [i for i in range(split + 1, len(lines)) if lines[i].strip()][:2]
    found = [lines[i].split(":") for i in numbered]
    if [f[0].strip() for f in found] != ["Frames", "Frame Time"] or any(len(f) != 2 for f in found):
        raise FileFormatError(path, f"line {split + 2}: 'Frames:' and 'Frame Time:' must follow MOTION", "the file is damaged")
    stated = _numbers(path, numbered[0] + 1, found[0][1].split(), 1)[0]
    frame_time = _numbers(path, numbered[1] + 1, found[1][1].split(), 1)[0]
    if frame_time <= 0:
        raise FileFormatError(path, f"line {numbered[1] + 1}: Frame Time is {frame_time:g}", "it must be the time between frames in seconds, above zero")
    return int(stated), frame_time, numbered[1] + 1


def _values(path: str | Path, lines: list[str], first: int, width: int) -> Array:
    rows = [(i + 1, words) for i in range(first, len(lines)) if (words := lines[i].split())]
    if not rows:
        raise FileFormatError(path, "no frames after 'Frame Time:'", "the file is cut off")
    for number, words in rows:
        if len(words) != width:
            raise FileFormatError(path, f"line {number}: {len(words)} values where the channels are {width}", "the row is ragged or the file cut off")
    try:
        values = np.array([words for _, words in rows], dtype=np.float64)
    except ValueError:
        values = np.array([_numbers(path, number, words, width) for number, words in rows])
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise FileFormatError(path, f"line {rows[row][0]}, column {column + 1}: {rows[row][1][column]} is not finite", "remove or repair these frames")
    return values


def _numbers(path: str | Path, number: int, words: list[str], count: int) -> list[float]:
    if len(words) != count:
        raise FileFormatError(path, f"line {number}: {len(words)} values where {count} must stand", "the file is damaged")
    values = []
    for column, word in enumerate(words, start=1):
        try:
            values.append(float(word))
        except ValueError:
            raise FileFormatError(path, f"line {number}, column {column}: '{word[:40]}' is not a number", "the file is damaged") from None
        if not math.isfinite(values[-1]):
            raise FileFormatError(path, f"line {number}, column {column}: {word} is not finite", "remove or repair these values")
    return values


def _about(axis: str, angle: Array) -> Array:
    """Rotation matrices about one axis, ``(time, 3, 3)``."""
    i = "XYZ".index(axis)
    j, k = (i + 1) % 3, (i + 2) % 3
    turned = np.zeros((len(angle), 3, 3))
    turned[:, i, i] = 1.0
    turned[:, j, j] = turned[:, k, k] = np.cos(angle)
    turned[:, k, j] = np.sin(angle)
    turned[:, j, k] = -turned[:, k, j]
    return turned
