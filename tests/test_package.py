"""What holds for the package as a whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import imdy_plugin


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_import_pulls_in_nothing_heavy() -> None:
    assert run("import imdy_plugin, sys; print(sorted({'torch', 'opensim', 'xarray', 'numpy', 'scipy'} & set(sys.modules)))") == "[]"


def test_listing_solvers_needs_neither_torch_nor_opensim() -> None:
    assert run("import imdy_plugin.registry as r, sys; r.get_registry(); print(sorted({'torch', 'opensim', 'scipy'} & set(sys.modules)))") == "[]"


def test_unknown_attribute_says_what_there_is() -> None:
    with pytest.raises(AttributeError, match=r"it has .*solve"):
        _ = imdy_plugin.solvee


def test_public_names_resolve() -> None:
    for name in imdy_plugin.__all__:
        assert getattr(imdy_plugin, name) is not None


def test_version_agrees_with_the_metadata() -> None:
    from importlib.metadata import version

    assert version("imdy-plugin") == imdy_plugin.__version__


def test_opensim_leaves_no_log_file(tmp_path: Path) -> None:
    code = "from imdy_plugin._opensim import import_opensim; import_opensim().Model()"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    assert list(tmp_path.iterdir()) == []
