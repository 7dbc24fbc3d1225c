"""Arrays from .npz files of unknown origin: nothing is unpickled, and nothing is unpacked that is larger than it says."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from imdy_plugin.errors import FileFormatError

LARGEST = 2 * 1024**3
"""Bytes that the arrays read from one file may hold together."""

_LONGEST_HEADER = 64 * 1024


@dataclass(frozen=True)
class _Entry:
    """What one array of a file says of itself."""

    member: zipfile.ZipInfo
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    start: int

    @property
    def size(self) -> int:
        """Bytes of its numbers."""
        count = 1
        for length in self.shape:
            count *= int(length)
        return count * self.dtype.itemsize


def read_npz(path: str | os.PathLike[str], wanted: Collection[str] | None = None, largest: int = LARGEST) -> dict[str, NDArray[Any]]:
    """Read arrays of a file, after a look at what each says of its size and type.

    Parameters
    ----------
    path
        The file.
    wanted
        Names of the arrays to read, where the file has them; all by default. Others are not opened.
    largest
        Bytes that they may hold together.

    Raises
    ------
    FileFormatError
        There is no such file, it is cut short or no .npz, or an array holds Python objects, is damaged, or unpacks to another size
        than it declares or to more than ``largest``. Nothing of it has been unpacked then.
    """
    with _opened(path) as file:
        return _read(path, file, wanted, largest)


def list_npz(path: str | os.PathLike[str]) -> list[str]:
    """Names of a file's arrays.

    Raises
    ------
    FileFormatError
        There is no such file, or it is no .npz.
    """
    with _opened(path) as file:
        return [member.filename.removesuffix(".npy") for member in file.infolist()]


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[zipfile.ZipFile]:
    """An archive; whatever goes wrong with it is a :class:`FileFormatError`."""
    try:
        with zipfile.ZipFile(Path(path)) as file:
            yield file
    except (FileFormatError, PermissionError):
        raise
    except FileNotFoundError:
        raise FileFormatError(path, "no such file", "check the path") from None
    except IsADirectoryError:
        raise FileFormatError(path, "is a folder", "give a .npz file") from None
    except Exception as error:  # a damaged archive may fail anywhere, with anything
        raise FileFormatError(path, f"is no whole .npz file ({error})", "it may be cut short or of another kind; get it again") from error


def _read(path: object, file: zipfile.ZipFile, wanted: Collection[str] | None, largest: int) -> dict[str, NDArray[Any]]:
    chosen = {member.filename.removesuffix(".npy"): member for member in file.infolist()}
    chosen = {name: member for name, member in chosen.items() if wanted is None or name in wanted}
    declared = sum(member.file_size for member in chosen.values())
    if declared > largest:
        raise FileFormatError(path, f"unpacks to {declared / 1024**3:.3g} GiB, at most {largest / 1024**3:.3g} are read", "get it from its maker again")
    entries = {name: _entry(path, name, file, member) for name, member in chosen.items()}
    return {name: _array(path, name, file, entry) for name, entry in entries.items()}


def _entry(path: object, name: str, file: zipfile.ZipFile, member: zipfile.ZipInfo) -> _Entry:
    """Read the header of one array, and hold it against the sizes in the archive's directory."""
    if member.flag_bits & 0x1:
        raise FileFormatError(path, f"array '{name}' is encrypted", "unpack it and save it again without a password")
    with file.open(member) as stream:
        try:
            version = npy.read_magic(stream)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, dtype = read(stream, max_header_size=_LONGEST_HEADER)
        except ValueError as error:
            raise FileFormatError(path, f"'{name}' is no array ({error})", "give a .npz file that numpy.savez wrote") from error
        entry = _Entry(member, shape, fortran, dtype, stream.tell())
    if dtype.hasobject:
        raise FileFormatError(path, f"array '{name}' holds Python objects, which can run code when read", "save it again as plain numbers or text")
    if entry.start + entry.size != member.file_size:
        raise FileFormatError(
            path, f"array '{name}' of shape {shape} needs {entry.start + entry.size} bytes, the file declares {member.file_size}", "get it from its maker again"
        )
    return entry


def _array(path: object, name: str, file: zipfile.ZipFile, entry: _Entry) -> NDArray[Any]:
    with file.open(entry.member) as stream:
        stream.read(entry.start)
        data = stream.read(entry.size)
        if len(data) != entry.size or stream.read(1):
            raise FileFormatError(path, f"array '{name}' unpacks to another size than the {entry.size} bytes it declares", "get it from its maker again")
    array: NDArray[Any] = np.frombuffer(bytearray(data), dtype=entry.dtype).reshape(entry.shape, order="F" if entry.fortran else "C")
    return array
