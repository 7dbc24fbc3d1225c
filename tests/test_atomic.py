from __future__ import annotations

from pathlib import Path

import pytest

from imdy_plugin.atomic import replacing


def test_what_was_written_before_survives_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "results.sto"
    path.write_text("precious")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_success_replaces_and_makes_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.sto"
    with replacing(path) as temporary:
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert [p.name for p in path.parent.iterdir()] == ["results.sto"]
