"""Shared fixtures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the recordings; tests that need them skip where it is not named."""
    value = os.environ.get("IMDY_DATA_DIR")
    if not value:
        pytest.skip("IMDY_DATA_DIR is not set: this test needs the recordings")
    folder = Path(value)
    if not (folder / "MANIFEST.csv").is_file():
        pytest.fail(f"IMDY_DATA_DIR={folder} holds no MANIFEST.csv")
    return folder


@pytest.fixture(autouse=True)
def _work_in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing a test writes lands in the tree."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def walk(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of a generated person's walk: model, markers, coordinates, ground_force."""
    from imdy_plugin.sim.gait import build_walk, write_trial
    from imdy_plugin.sim.person import write_person

    folder = tmp_path_factory.mktemp("walk")
    return write_trial(build_walk(write_person(folder / "model.osim")), folder)
