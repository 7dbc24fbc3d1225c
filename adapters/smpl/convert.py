"""Body models from pickles into .npz, without running anything that a pickle asks for.

The files of SMPL and SMPL+H are distributed as Python 2 pickles, and unpickling runs whatever a file says. Here only what such a model is
made of is rebuilt: numpy arrays, scipy's compressed sparse matrices, and chumpy's arrays as the plain data that they hold. The first
other name in a file ends the reading, before anything is called.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imdy_plugin.atomic import check_free, replacing
from imdy_plugin.errors import FileFormatError, InputError

LARGEST = 2 * 1024**3
"""Bytes of a pickle that is read, and of a matrix that it stores without its zeros."""

ARRAYS = (
    "v_template",
    "shapedirs",
    "posedirs",
    "J_regressor",
    "kintree_table",
    "weights",
    "f",
    "hands_meanl",
    "hands_meanr",
    "hands_componentsl",
    "hands_componentsr",
)
"""What a model may hold that is written."""

REQUIRED = ("v_template", "shapedirs", "J_regressor", "kintree_table", "weights", "f")
"""What a model must hold."""


def convert_body(source: str | os.PathLike[str], target: str | os.PathLike[str] | None = None, *, force: bool = False) -> Path:
    """Write the arrays of a pickled body model as a .npz file.

    Parameters
    ----------
    source
        The .pkl file, as it was downloaded under its licence.
    target
        The file to write; beside ``source`` with the ending .npz by default.
    force
        Replace a file that exists.

    Returns
    -------
    pathlib.Path
        What was written.

    Raises
    ------
    FileFormatError
        The pickle names anything but arrays (the message says what; nothing was run), is cut short, or is no body model.
    InputError
        The target exists, or is no .npz.
    """
    path = Path(target) if target is not None else Path(source).with_suffix(".npz")
    if path.suffix.lower() != ".npz":
        raise InputError(f"the body model would be written to {path}; name a file that ends in .npz")
    check_free([path], force)
    arrays = read_pickled_body(source)
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)
    return path


def read_pickled_body(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """Read the arrays :data:`ARRAYS` of a pickled body model; sparse ones come out dense.

    Raises
    ------
    FileFormatError
        As for :func:`convert_body`.
    """
    content = _read_pickle(path)
    if not isinstance(content, dict):
        raise FileFormatError(path, f"holds a {type(content).__name__}, not the table of a body model", "give the .pkl of SMPL, SMPL+H or SMPL-X")
    named = {_text(key): value for key, value in content.items()}
    lacking = [name for name in REQUIRED if name not in named]
    if lacking:
        has = ", ".join(sorted(named)[:12]) or "nothing"
        raise FileFormatError(path, f"lacks {', '.join(lacking)}; it holds {has}", "give the .pkl of SMPL, SMPL+H or SMPL-X")
    return {name: _dense(path, name, named[name]) for name in ARRAYS if name in named}


def _read_pickle(path: str | os.PathLike[str]) -> Any:
    """Rebuild what a pickle holds, if it holds nothing but containers, numbers, text and arrays.

    Arrays, sparse matrices and chumpy's arrays come as objects that only this module knows.

    Raises
    ------
    FileFormatError
        It names anything else, is cut short, or is too large. Nothing that it names was imported or called.
    """
    file = Path(path)
    if not file.is_file():
        raise FileFormatError(path, "no such file", "check the path")
    if file.stat().st_size > LARGEST:
        raise FileFormatError(path, f"has {file.stat().st_size / 1024**3:.3g} GiB, at most {LARGEST / 1024**3:.3g} are read")
    with file.open("rb") as stream:
        try:
            return _PlainUnpickler(path, stream).load()
        except FileFormatError:
            raise
        except MemoryError:
            raise FileFormatError(path, "declares more than fits into memory", "get it from its maker again") from None
        except Exception as error:  # a damaged pickle may fail anywhere, with anything
            raise FileFormatError(path, f"is no whole pickle ({type(error).__name__}: {error})", "it may be cut short; get it again") from error


class _Stored:
    """Stands for an object of a class that is not needed to read what it held.

    All that a pickle gets hold of are classes of this kind. Each has a ``__setstate__``, so that a pickle that tries to change the
    class itself fails.
    """

    state: dict[str, Any]

    def __new__(cls, *arguments: Any) -> Any:
        made = super().__new__(cls)
        made.state = {}
        return made

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.state.update({_text(key): value for key, value in part.items()})


class _Sparse(_Stored):
    """Stands for one of scipy's compressed sparse matrices, by columns."""

    by_column = True


class _SparseRows(_Sparse):
    by_column = False


class _Chumpy(_Stored):
    """Stands for one of chumpy's arrays, or an expression of them."""


class _Container(_Stored):
    """Stands for a container that chumpy keeps its books in; what is put into it is dropped."""

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Drop it."""

    def extend(self, values: Any) -> None:
        """Drop them."""

    def add(self, value: Any) -> None:
        """Drop it."""


class _Dtype(_Stored):
    """Stands for a type of numbers."""

    def __init__(self, code: Any, *arguments: Any) -> None:
        self._code, self._order = _text(code), "="

    def __setstate__(self, state: Any) -> None:
        self._order = _text(state[1])

    @property
    def made(self) -> np.dtype[Any]:
        """The type, of plain numbers."""
        if not re.fullmatch(r"[<>|=]?(f[248]|[iu][1248]|b1|\?)", self._code):
            raise pickle.UnpicklingError(f"an array of type '{self._code}', not of numbers")
        made: np.dtype[Any] = np.dtype(self._code)
        return made.newbyteorder(">") if self._order == ">" else made


class _Array(_Stored):
    """Stands for an array; its numbers are put in place when all is read."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        self.fill(shape, dtype, bool(fortran), raw)

    def fill(self, shape: Any, dtype: Any, fortran: bool, raw: Any) -> None:
        """Remember what the pickle says of it."""
        self._parts = tuple(int(n) for n in shape), dtype, fortran, raw.encode("latin1") if isinstance(raw, str) else bytes(raw)

    @property
    def made(self) -> NDArray[Any]:
        """The array."""
        shape, dtype, fortran, raw = self._parts
        return np.frombuffer(raw, dtype=dtype.made).reshape(shape, order="F" if fortran else "C")


class _StartArray(_Stored):
    """Makes an array that waits for its state."""

    def __new__(cls, *arguments: Any) -> Any:
        return _Array()


class _FromBuffer(_Stored):
    """Makes an array of numbers that follow at once, as protocol 5 stores them."""

    def __new__(cls, raw: Any, dtype: Any, shape: Any, order: Any) -> Any:
        array = _Array()
        array.fill(shape, dtype, order == "F", raw)
        return array


class _Scalar(_Stored):
    """Makes a single number."""

    def __new__(cls, dtype: Any, raw: Any = b"") -> Any:
        array = _Array()
        array.fill((), dtype, False, raw)
        return array


class _Encode(_Stored):
    """Makes bytes of text, as Python 3 stores them in old protocols."""

    def __new__(cls, text: Any, encoding: Any = "latin1") -> Any:
        return str(text).encode("latin1")


class _Rebuild(_Stored):
    """Makes an object that waits for its state, as ``copyreg`` does in old protocols."""

    def __new__(cls, kind: Any, base: Any = None, state: Any = None) -> Any:
        if isinstance(kind, type) and issubclass(kind, _Stored):
            return kind()
        raise pickle.UnpicklingError(f"an object of {kind!r}")


_NUMPY_CORES = ("numpy.core", "numpy._core")

_ALLOWED: dict[tuple[str, str], type[_Stored]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    **{(f"{core}.multiarray", "_reconstruct"): _StartArray for core in _NUMPY_CORES},
    **{(f"{core}.multiarray", "scalar"): _Scalar for core in _NUMPY_CORES},
    **{(f"{core}.numeric", "_frombuffer"): _FromBuffer for core in _NUMPY_CORES},
    ("_codecs", "encode"): _Encode,
    **{(module, "_reconstructor"): _Rebuild for module in ("copy_reg", "copyreg")},
    **{(module, "object"): _Stored for module in ("__builtin__", "builtins")},
    **{(module, name): _Container for module in ("__builtin__", "builtins") for name in ("set", "frozenset", "list", "dict", "tuple", "slice")},
    ("collections", "OrderedDict"): _Container,
}
"""What a pickle may name, and what stands for it."""

_SPARSE: dict[str, type[_Sparse]] = {"csc_matrix": _Sparse, "csc_array": _Sparse, "csr_matrix": _SparseRows, "csr_array": _SparseRows}


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, path: object, stream: Any) -> None:
        super().__init__(stream, encoding="latin1")
        self._path = path

    def find_class(self, module: str, name: str) -> type[_Stored]:
        """What stands for a name in the pickle; nothing is imported."""
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if module.startswith("scipy.sparse") and name in _SPARSE:
            return _SPARSE[name]
        if module.split(".")[0] == "chumpy" and name.isidentifier():
            return _Chumpy
        raise FileFormatError(
            self._path,
            f"names '{module}.{name}', which no body model is made of; nothing was run",
            "do not open this file with any other tool before you know where it comes from",
        )

    def persistent_load(self, pid: Any) -> Any:
        """Refuse what lies outside the file."""
        raise FileFormatError(self._path, "refers to something outside the file", "get it from its maker again")


def _text(key: Any) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)


def _dense(path: object, name: str, value: Any) -> NDArray[Any]:
    if isinstance(value, _Sparse):
        return _dense_of_sparse(path, name, value)
    if isinstance(value, _Chumpy):
        if "x" not in value.state:
            fix = "save the model's plain arrays with the library that made it"
            raise FileFormatError(path, f"'{name}' is a chumpy expression that stores no values of its own", fix)
        return _dense(path, name, value.state["x"])
    if not isinstance(value, _Array):
        raise FileFormatError(path, f"'{name}' is a {type(value).__name__}, not an array", "get it from its maker again")
    return _made(path, name, value)


def _made(path: object, name: str, array: Any) -> NDArray[Any]:
    try:
        made: NDArray[Any] = array.made
    except (ValueError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        raise FileFormatError(path, f"the array '{name}' is not whole ({error})", "get it from its maker again") from error
    return made


def _dense_of_sparse(path: object, name: str, value: _Sparse) -> NDArray[Any]:
    from scipy import sparse

    state = value.state
    shape = tuple(int(n) for n in state.get("_shape", ()))
    if len(shape) != 2 or min(shape) < 1 or 8 * shape[0] * shape[1] > LARGEST or not {"data", "indices", "indptr"} <= set(state):
        raise FileFormatError(path, f"the sparse matrix '{name}' of shape {shape} is not whole", "get it from its maker again")
    parts = tuple(_made(path, name, state[key]) for key in ("data", "indices", "indptr"))
    build: Callable[..., Any] = sparse.csc_matrix if value.by_column else sparse.csr_matrix
    try:
        matrix = build(parts, shape=shape)
        matrix.check_format(full_check=True)
    except (ValueError, TypeError, IndexError) as error:
        raise FileFormatError(path, f"the sparse matrix '{name}' is not whole ({error})", "get it from its maker again") from error
    return np.asarray(matrix.toarray())
