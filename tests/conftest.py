"""Shared fixtures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The ``opensim.Model`` of a generated person; a test clones it before changing anything."""
    from imdy_plugin._opensim import import_opensim
    from imdy_plugin.sim.person import write_person

    return import_opensim().Model(str(write_person(tmp_path_factory.mktemp("model") / "person.osim")))


@pytest.fixture(scope="session")
def mechanics(native: Any) -> Any:
    """The :class:`~imdy_plugin.solvers.opensim_mechanics.OpenSimMechanics` of ``native``."""
    from imdy_plugin.solvers.opensim_mechanics import OpenSimMechanics

    return OpenSimMechanics(native)
