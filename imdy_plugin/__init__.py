"""Which joint moments and which ground forces made this movement?

``solve`` answers for one solver, ``compare`` for several. Everything is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "solve": "imdy_plugin.api",
    "compare": "imdy_plugin.api",
    "load_trial": "imdy_plugin.api",
    "inverse_kinematics": "imdy_plugin.ik",
    "scale": "imdy_plugin.scaling",
    "hookimpl": "imdy_plugin.hooks",
    "Solver": "imdy_plugin.interfaces",
    "SolverOptions": "imdy_plugin.interfaces",
    "Trial": "imdy_plugin.interfaces",
    "ImdyError": "imdy_plugin.errors",
}

__all__ = ["ImdyError", "Solver", "SolverOptions", "Trial", "__version__", "compare", "hookimpl", "inverse_kinematics", "load_trial", "scale", "solve"]

if TYPE_CHECKING:
    from imdy_plugin.api import compare, load_trial, solve
    from imdy_plugin.errors import ImdyError
    from imdy_plugin.hooks import hookimpl
    from imdy_plugin.ik import inverse_kinematics
    from imdy_plugin.interfaces import Solver, SolverOptions, Trial
    from imdy_plugin.scaling import scale


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'imdy_plugin' has no attribute '{name}'; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
