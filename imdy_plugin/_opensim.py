"""One way to import OpenSim: quietly, lazily, and with a clear error where it is not installed."""

from __future__ import annotations

from functools import cache
from types import ModuleType

from imdy_plugin.errors import MissingDependencyError


@cache
def import_opensim() -> ModuleType:
    """Import ``opensim`` without its log file in the working folder and without its console chatter.

    Raises
    ------
    MissingDependencyError
        OpenSim is not installed.
    """
    try:
        import opensim
    except ImportError as error:
        raise MissingDependencyError(f"OpenSim cannot be imported ({error}); install it with 'pip install opensim'") from error
    opensim.Logger.removeFileSink()
    opensim.Logger.setLevelString("Error")
    return opensim


def is_opensim_object(value: object, class_name: str) -> bool:
    """Whether ``value`` is an OpenSim object of the named class, without importing OpenSim."""
    return any(t.__name__ == class_name and t.__module__.startswith("opensim") for t in type(value).__mro__)
