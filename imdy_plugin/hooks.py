"""The hooks. A plugin implements any of them in a module named by an entry point in the group ``imdy_plugin``.

What ships with the package registers through exactly these.
"""

from __future__ import annotations

from collections.abc import Callable

import pluggy

from imdy_plugin.interfaces import MarkerReader, ModelAdapter, SimBackend, Solver

hookspec = pluggy.HookspecMarker("imdy_plugin")
hookimpl = pluggy.HookimplMarker("imdy_plugin")

ENTRY_POINT_GROUP = "imdy_plugin"


@hookspec
def imdy_register_solvers(register: Callable[[type[Solver]], None]) -> None:
    """Call ``register`` with each :class:`~imdy_plugin.interfaces.Solver` class."""


@hookspec
def imdy_register_model_adapters(register: Callable[[type[ModelAdapter]], None]) -> None:
    """Call ``register`` with each :class:`~imdy_plugin.interfaces.ModelAdapter` class."""


@hookspec
def imdy_register_marker_readers(register: Callable[[type[MarkerReader]], None]) -> None:
    """Call ``register`` with each :class:`~imdy_plugin.interfaces.MarkerReader` class."""


@hookspec
def imdy_register_sim_backends(register: Callable[[type[SimBackend]], None]) -> None:
    """Call ``register`` with each :class:`~imdy_plugin.interfaces.SimBackend` class."""
