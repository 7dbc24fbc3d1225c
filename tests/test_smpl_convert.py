"""Body models out of pickles, without running what a pickle asks for."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from typer.testing import CliRunner

from imdy_plugin.adapters.smpl.body_model import load_body_model
from imdy_plugin.adapters.smpl.convert import _read_pickle, convert_body, read_pickled_body
from imdy_plugin.adapters.smpl.topology import PARENTS
from imdy_plugin.cli import app
from imdy_plugin.errors import FileFormatError, InputError


def model_arrays(vertices: int = 30) -> dict[str, Any]:
    """What the pickle of a body model holds."""
    rng = np.random.default_rng(0)
    weights = rng.random((vertices, 24))
    return {
        "v_template": rng.random((vertices, 3)),
        "shapedirs": np.asfortranarray(rng.random((vertices, 3, 10))),
        "posedirs": rng.random((vertices, 3, 207)),
        "J_regressor": sparse.csc_matrix(rng.random((24, vertices)) * (rng.random((24, vertices)) > 0.5)),
        "kintree_table": np.array([[2**32 - 1, *PARENTS[1:]], range(24)], dtype=np.uint32),
        "weights": weights / weights.sum(axis=1, keepdims=True),
        "f": rng.integers(0, vertices, (50, 3)).astype(np.uint32),
        "bs_type": "lrotmin",
        "scale": np.float64(1.0),
    }


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Pickles something into a file."""

    def write(content: Any, protocol: int = 2, name: str = "model.pkl") -> Path:
        path = tmp_path / name
        path.write_bytes(pickle.dumps(content, protocol))
        return path

    return write


def check_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, array in found.items():
        wanted = expected[name].toarray() if sparse.issparse(expected[name]) else expected[name]
        np.testing.assert_array_equal(array, wanted)
        assert array.dtype == wanted.dtype


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", [sparse.csc_matrix, sparse.csr_matrix, sparse.csc_array])
def test_a_model_comes_out_as_it_was(save: Callable[..., Path], protocol: int, kind: Any) -> None:
    arrays = model_arrays()
    arrays["J_regressor"] = kind(arrays["J_regressor"])
    found = read_pickled_body(save(arrays, protocol))
    assert set(found) == {"v_template", "shapedirs", "posedirs", "J_regressor", "kintree_table", "weights", "f"}
    check_same(found, arrays)


def test_arrays_of_the_other_byte_order(save: Callable[..., Path]) -> None:
    arrays = model_arrays()
    arrays["v_template"] = arrays["v_template"].astype(">f8")
    np.testing.assert_array_equal(read_pickled_body(save(arrays))["v_template"], arrays["v_template"])


@pytest.fixture
def chumpy_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[type]:
    """A class that pickles as one of chumpy's arrays; the module exists only while the pickle is written."""
    ch = types.ModuleType("chumpy.ch")
    kind = type("Ch", (), {"__module__": "chumpy.ch"})
    ch.Ch = kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "chumpy", types.ModuleType("chumpy"))
    monkeypatch.setitem(sys.modules, "chumpy.ch", ch)
    yield kind


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_chumpy_arrays_are_read_without_chumpy(save: Callable[..., Path], chumpy_module: type, monkeypatch: pytest.MonkeyPatch, protocol: int) -> None:
    arrays = model_arrays()
    wrapped, expression = chumpy_module(), chumpy_module()
    wrapped.__dict__.update(x=arrays["shapedirs"], _dirty_vars=set(), _itr=None)
    expression.__dict__.update(a=wrapped, idxs=3)
    path = save({**arrays, "shapedirs": wrapped}, protocol)
    other = save({**arrays, "shapedirs": expression}, protocol, "expression.pkl")
    monkeypatch.delitem(sys.modules, "chumpy")
    monkeypatch.delitem(sys.modules, "chumpy.ch")
    check_same(read_pickled_body(path), arrays)
    assert not any(name.startswith("chumpy") for name in sys.modules)
    with pytest.raises(FileFormatError, match="'shapedirs' is a chumpy expression"):
        read_pickled_body(other)


def test_a_pickle_of_python_2(tmp_path: Path) -> None:
    """Bytes of arrays are text there: what Python 3 reads with the encoding latin1."""
    array = np.arange(6.0).reshape(2, 3) * 1.1
    raw = "".join(f"\\x{byte:02x}" for byte in array.tobytes())
    text = "(dp0\nS'v_template'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntp4\nS'b'\np5\ntp6\nRp7\n(I1\n(I2\nI3\ntp8\n"
    text += f"cnumpy\ndtype\np9\n(S'f8'\np10\nI0\nI1\ntp11\nRp12\n(I3\nS'<'\np13\nNNNI-1\nI-1\nI0\ntp14\nbI00\nS'{raw}'\np15\ntp16\nbs."
    reference = pickle.loads(text.encode("ascii"), encoding="latin1")
    np.testing.assert_array_equal(reference["v_template"], array)
    path = tmp_path / "two.pkl"
    path.write_bytes(text.encode("ascii"))
    found = _read_pickle(path)["v_template"].made
    np.testing.assert_array_equal(found, array)


# Pickles that would run something ------------------------------------------------------------------------------------------------


class _Call:
    """Pickles as the call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def touch(path: Path) -> str:
    return f"open({str(path)!r}, 'w').close()"


ATTACKS: dict[str, Callable[[Path], Any]] = {
    "posix.system": lambda path: _Call(os.system, f"touch {path}"),
    "builtins.eval": lambda path: _Call(eval, touch(path)),
    "builtins.exec": lambda path: {"v_template": [{"deep": _Call(exec, touch(path))}]},
    "builtins.getattr": lambda path: _Call(getattr, "text", "upper"),
    "builtins.__import__": lambda path: _Call(__import__, "antigravity"),
    "subprocess.Popen": lambda path: _Call(subprocess.Popen, ["touch", str(path)]),
    "pickle.loads": lambda path: _Call(pickle.loads, pickle.dumps(_Call(exec, touch(path)))),
    "numpy.load": lambda path: _Call(np.load, str(path)),
    "io.open": lambda path: _Call(io.open, str(path), "w"),
}


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("name", ATTACKS)
def test_anything_else_is_refused_by_name_and_nothing_runs(save: Callable[..., Path], tmp_path: Path, name: str, protocol: int) -> None:
    trap = tmp_path / "ran"
    path = save({**model_arrays(), "v_template": ATTACKS[name](trap)}, protocol)
    with pytest.raises(FileFormatError, match=r"names '[\w.]+', which no body model is made of; nothing was run") as error:
        read_pickled_body(path)
    assert name.split(".")[-1] in str(error.value)
    assert not trap.exists()


def test_the_traps_work_where_a_pickle_is_loaded(save: Callable[..., Path], tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    pickle.loads(save(ATTACKS["builtins.exec"](trap)).read_bytes())
    assert trap.exists()


def opcodes(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


@pytest.mark.parametrize(
    "content",
    [
        opcodes(b"cnumpy.core.multiarray\n_reconstruct\n", b"}(U\x01aU\x01bub"),  # changes the stand-in itself
        opcodes(b"cchumpy.ch\nCh\n", b"}(U\x0c__setstate__U\x01bub"),
        opcodes(b"cscipy.sparse.csc\ncsc_matrix\n", b"N}(U\x04kindU\x01bu\x86b"),
        opcodes(b"cnumpy\nndarray.__reduce__\n", b")R"),
        opcodes(b"cchumpy.ch\nCh.__class__.__base__\n", b")R"),
        opcodes(b"U\x03abcQ"),  # a persistent id
        opcodes(b"cnumpy.core.multiarray\n_reconstruct\n(I1\ntR", b"(I1\n(I9\nI9\nI9\ntcnumpy\ndtype\n(U\x02O8tRI00\nU\x03abctb"),
    ],
)
def test_unlawful_pickles_are_our_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.pkl"
    path.write_bytes(content)
    with pytest.raises(FileFormatError):
        read_pickled_body(path)
    check_stand_ins_are_whole(tmp_path)


def check_stand_ins_are_whole(folder: Path) -> None:
    """An unlawful pickle leaves nothing behind: the next model is read as ever."""
    (folder / "good.pkl").write_bytes(pickle.dumps(model_arrays(), 2))
    check_same(read_pickled_body(folder / "good.pkl"), model_arrays())


def test_object_arrays_and_damaged_arrays(save: Callable[..., Path]) -> None:
    arrays = model_arrays()
    with pytest.raises(FileFormatError, match=r"not whole|no whole|not of numbers"):
        read_pickled_body(save({**arrays, "v_template": np.array([1, "a"], dtype=object)}))
    with pytest.raises(FileFormatError, match="'weights' is a list, not an array"):
        read_pickled_body(save({**arrays, "weights": [1.0, 2.0]}))
    broken = arrays["J_regressor"].copy()
    broken.indices = broken.indices + 1000
    with pytest.raises(FileFormatError, match="sparse matrix 'J_regressor' is not whole"):
        read_pickled_body(save({**arrays, "J_regressor": broken}))


def test_cut_short_or_no_model(save: Callable[..., Path], tmp_path: Path) -> None:
    path = save(model_arrays())
    whole = path.read_bytes()
    for size in (0, 1, 50, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(FileFormatError, match="no whole pickle"):
            read_pickled_body(path)
    with pytest.raises(FileFormatError, match="holds a list, not the table"):
        read_pickled_body(save([1, 2]))
    with pytest.raises(FileFormatError, match=r"lacks v_template, .*; it holds poses"):
        read_pickled_body(save({"poses": np.zeros(3)}))
    with pytest.raises(FileFormatError, match="no such file"):
        read_pickled_body(tmp_path / "absent.pkl")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_damage_anywhere_is_our_error_or_none(save: Callable[..., Path], protocol: int) -> None:
    path, rng, refused = save(model_arrays(), protocol), np.random.default_rng(0), 0
    whole = path.read_bytes()
    for _ in range(100):
        content = bytearray(whole)
        for at in rng.integers(0, 300, 3):
            content[at] = rng.integers(256)
        path.write_bytes(bytes(content))
        try:
            read_pickled_body(path)
        except FileFormatError:
            refused += 1
    assert refused > 60


# The command ---------------------------------------------------------------------------------------------------------------------


def test_the_command_writes_what_the_loader_reads(save: Callable[..., Path]) -> None:
    arrays = model_arrays()
    path = save(arrays)
    ran = CliRunner().invoke(app, ["convert-body", str(path)])
    assert ran.exit_code == 0, ran.output
    model = load_body_model(path.with_suffix(".npz"))
    np.testing.assert_array_equal(model.template, arrays["v_template"])
    np.testing.assert_array_equal(model.regressor, arrays["J_regressor"].toarray())


def test_the_command_replaces_nothing_unasked(save: Callable[..., Path], tmp_path: Path) -> None:
    path, target = save(model_arrays()), tmp_path / "model.npz"
    target.write_text("mine")
    ran = CliRunner().invoke(app, ["convert-body", str(path), str(target)])
    assert ran.exit_code == 2
    assert target.read_text() == "mine"
    assert CliRunner().invoke(app, ["convert-body", str(path), str(target), "--force"]).exit_code == 0
    load_body_model(target)
    with pytest.raises(InputError, match=r"ends in \.npz"):
        convert_body(path, tmp_path / "model.txt")


def test_a_refused_pickle_writes_nothing(save: Callable[..., Path], tmp_path: Path) -> None:
    path = save(ATTACKS["posix.system"](tmp_path / "ran"))
    ran = CliRunner().invoke(app, ["convert-body", str(path)])
    assert ran.exit_code == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.pkl"]


def test_a_pickle_is_never_opened_as_a_model(save: Callable[..., Path], tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    with pytest.raises(FileFormatError, match=r"is a pickle, which can run code.*imdy convert-body"):
        load_body_model(save(ATTACKS["builtins.exec"](trap)))
    assert not trap.exists()
