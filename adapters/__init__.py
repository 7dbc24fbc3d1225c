"""The doors: OpenSim models and objects, SMPL bodies, marker, motion and force files; into the common representation and back out."""

from __future__ import annotations

from collections.abc import Callable

from imdy_plugin.hooks import hookimpl
from imdy_plugin.interfaces import MarkerReader, ModelAdapter


@hookimpl
def imdy_register_model_adapters(register: Callable[[type[ModelAdapter]], None]) -> None:
    """Register the model adapters that ship."""
    from imdy_plugin.adapters.b3d import B3dModelAdapter
    from imdy_plugin.adapters.opensim_model import OpenSimModelAdapter
    from imdy_plugin.adapters.smpl.model_adapter import SmplModelAdapter

    register(OpenSimModelAdapter)
    register(B3dModelAdapter)
    register(SmplModelAdapter)


@hookimpl
def imdy_register_marker_readers(register: Callable[[type[MarkerReader]], None]) -> None:
    """Register the marker readers that ship."""
    from imdy_plugin.adapters.b3d import B3dReader
    from imdy_plugin.adapters.c3d import C3dReader
    from imdy_plugin.adapters.objects import OpenSimTableReader, XarrayReader
    from imdy_plugin.adapters.trc import TrcReader

    register(TrcReader)
    register(C3dReader)
    register(B3dReader)
    register(OpenSimTableReader)
    register(XarrayReader)
