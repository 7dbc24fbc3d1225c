"""Runs the Python examples of README.md and docs/ in a folder that holds the files they name."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser


def _prepare(namespace: dict[str, Any]) -> None:
    from imdy_plugin.sim.gait import build_walk, write_trial
    from imdy_plugin.sim.person import write_person

    folder = Path(tempfile.mkdtemp(prefix="imdy-docs-"))
    paths = write_trial(build_walk(write_person(folder / "model.osim")), folder)
    paths["model"].rename(folder / "subject01.osim")
    namespace["_previous"] = Path.cwd()
    os.chdir(folder)


def _restore(namespace: dict[str, Any]) -> None:
    os.chdir(namespace["_previous"])


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["README.md", "docs/*.md"],
    setup=_prepare,
    teardown=_restore,
).pytest()
