"""Imitators by name, for whoever types one."""

from __future__ import annotations

from pathlib import Path

from imdy_plugin.errors import UnknownNameError
from imdy_plugin.sim.imitator.base import Imitator

TRACKER = "tracker"


def find_imitator(name: str) -> Imitator:
    """The tracker by its name (``tracker:FOLDER`` keeps its plans in a folder), or a policy by the path of its weights.

    Raises
    ------
    UnknownNameError
        There is neither.
    FileFormatError
        The file holds no policy.
    """
    if name == TRACKER or name.startswith(f"{TRACKER}:"):
        from imdy_plugin.sim.imitator.tracker import Tracker

        return Tracker(name.partition(":")[2] or None)
    path = Path(name)
    if path.suffix == ".safetensors" and path.is_file():
        from imdy_plugin.sim.imitator.policy import PolicyImitator

        return PolicyImitator.load(path, name=path.stem)
    raise UnknownNameError("imitator", name, [TRACKER], "Or give the path of a policy's weights (.safetensors).")
