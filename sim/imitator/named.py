"""Imitators by name, for whoever types one."""

from __future__ import annotations

import os
from pathlib import Path

from imdy_plugin.errors import UnknownNameError
from imdy_plugin.sim.imitator.base import Imitator

TRACKER, POLICY = "tracker", "policy"


def plans_folder() -> Path:
    """Where plans are kept if nobody says otherwise: ``IMDY_PLANS_DIR``, or ``imdy-plans`` in the user's cache."""
    return Path(os.environ.get("IMDY_PLANS_DIR") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imdy-plans")


def find_imitator(name: str) -> Imitator:
    """The tracker by its name, the policy that ships by its, or another policy by the path of its weights.

    ``tracker`` keeps its plans in :func:`plans_folder`, ``tracker:FOLDER`` in a folder.

    Raises
    ------
    UnknownNameError
        There is neither.
    FileFormatError
        The file holds no policy.
    """
    if name == TRACKER or name.startswith(f"{TRACKER}:"):
        from imdy_plugin.sim.imitator.tracker import Tracker

        return Tracker(name.partition(":")[2] or plans_folder())
    path = Path(__file__).parent / "weights" / "policy.safetensors" if name == POLICY else Path(name)
    if path.suffix == ".safetensors" and path.is_file():
        from imdy_plugin.sim.imitator.policy import PolicyImitator

        return PolicyImitator.load(path, name=path.stem)
    raise UnknownNameError("imitator", name, [TRACKER, POLICY], "Or give the path of a policy's weights (.safetensors).")
