"""Finds solvers, model adapters, marker readers and simulation backends through the hooks.

Listing is lazy and cached. Each plugin is isolated: one that fails to import or to register is a
:class:`~imdy_plugin.errors.PluginWarning` with its distribution's name, and the rest works; in strict mode it is an error.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy
import xarray as xr
from pydantic import ValidationError

from imdy_plugin import hooks
from imdy_plugin.errors import InputError, MissingDependencyError, OptionError, PluginError, PluginWarning, UnknownNameError, suggest
from imdy_plugin.interfaces import NEEDS, LoadedModel, MarkerReader, ModelAdapter, SimBackend, Solver, SolverOptions
from imdy_plugin.schema import validate_model

BUILT_IN = "imdy-plugin"
"""The distribution whose plugins win where names are given twice."""


@dataclass(frozen=True)
class Registered:
    """A class that a plugin registered, and the distribution that it came from."""

    cls: type[Any]
    distribution: str


@dataclass
class Registry:
    """Everything that was registered, by kind and name."""

    solvers: dict[str, Registered] = field(default_factory=dict)
    model_adapters: dict[str, Registered] = field(default_factory=dict)
    marker_readers: dict[str, Registered] = field(default_factory=dict)
    sim_backends: dict[str, Registered] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


_KINDS: dict[str, tuple[str, type, tuple[str, ...]]] = {
    "solvers": ("imdy_register_solvers", Solver, ("solve",)),
    "model_adapters": ("imdy_register_model_adapters", ModelAdapter, ("accepts", "load")),
    "marker_readers": ("imdy_register_marker_readers", MarkerReader, ("accepts", "read")),
    "sim_backends": ("imdy_register_sim_backends", SimBackend, ("start",)),
}


def build_registry(points: Iterable[EntryPoint]) -> Registry:
    """Load plugins from entry points into a new registry, collecting what goes wrong in ``problems``."""
    registry = Registry()
    for point in sorted(points, key=_order):
        distribution = _distribution(point)
        try:
            plugin = point.load()
        except Exception as error:
            registry.problems.append(f"plugin '{point.name}' of {distribution} could not be imported: {type(error).__name__}: {error}")
            continue
        register_plugin(registry, plugin, distribution)
    return registry


def register_plugin(registry: Registry, plugin: object, distribution: str) -> None:
    """Call every hook that ``plugin`` (a module or object) implements, isolated from the others."""
    manager = pluggy.PluginManager(hooks.ENTRY_POINT_GROUP)
    manager.add_hookspecs(hooks)
    try:
        manager.register(plugin)
        unknown = [name for name in dir(plugin) if name.startswith("imdy_register_") and name not in {k[0] for k in _KINDS.values()}]
        if unknown:
            raise PluginError(f"implements {unknown[0]}, which is no hook; {suggest(unknown[0], (k[0] for k in _KINDS.values()))}")
    except Exception as error:
        registry.problems.append(f"plugin of {distribution} does not fit the hooks: {error}")
        return
    for kind, (hook, _, _) in _KINDS.items():
        try:
            getattr(manager.hook, hook)(register=_registrar(registry, kind, distribution))
        except Exception as error:
            registry.problems.append(f"plugin of {distribution} failed in {hook}: {type(error).__name__}: {error}")


def _registrar(registry: Registry, kind: str, distribution: str) -> Callable[[type], None]:
    def register(cls: type[Any]) -> None:
        table: dict[str, Registered] = getattr(registry, kind)
        fault = find_fault(kind, cls)
        if fault:
            registry.problems.append(f"{distribution}: {fault}")
            return
        name: str = cls.name
        if name in table:
            registry.problems.append(f"{distribution} registers '{name}' again; the one of {table[name].distribution} is used")
            return
        table[name] = Registered(cls, distribution)

    return register


def find_fault(kind: str, cls: object) -> str:
    """Say why ``cls`` does not fit its kind, or return an empty string."""
    _, base, methods = _KINDS[kind]
    if not (inspect.isclass(cls) and issubclass(cls, base)):
        return f"{cls!r} is no subclass of {base.__name__}"
    lacking = [a for a in ("name", "summary") if not isinstance(getattr(cls, a, None), str)]
    if lacking:
        return f"{cls.__name__} lacks the class attribute(s) {', '.join(lacking)} (text)"
    label = f"{kind[:-1].replace('_', ' ')} '{cls.name}'"  # type: ignore[attr-defined]
    if inspect.isabstract(cls):
        return f"{label} does not implement {', '.join(sorted(getattr(cls, '__abstractmethods__', ())))}"
    for method in methods:
        fault = _signature_fault(label, getattr(base, method), getattr(cls, method))
        if fault:
            return fault
    return _solver_fault(label, cls) if kind == "solvers" else ""


def _signature_fault(label: str, expected: Callable[..., Any], actual: Callable[..., Any]) -> str:
    parameters = inspect.signature(actual).parameters
    positional = [p for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters.values()):
        return ""
    asked = inspect.signature(expected).parameters
    wanted = [name for name, p in asked.items() if p.kind is not p.KEYWORD_ONLY]
    named = [name for name, p in asked.items() if p.kind is p.KEYWORD_ONLY]
    extra = [p.name for p in positional[len(wanted) :] if p.default is p.empty and p.name not in named]
    extra += [p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY and p.default is p.empty and p.name not in named]
    if extra:
        return f"{label}: {expected.__name__} takes {', '.join(extra)}, which the hook has not; it is called with ({', '.join([*wanted[1:], *named])})"
    unknown = [] if any(p.kind is p.VAR_KEYWORD for p in parameters.values()) else [name for name in named if name not in parameters]
    if len(positional) < len(wanted) or unknown:
        return f"{label}: {expected.__name__} takes ({', '.join(parameters)}), but is called with ({', '.join(asked)})"
    return ""


def _solver_fault(label: str, cls: Any) -> str:
    if not isinstance(getattr(cls, "version", None), str):
        return f"{label} lacks the class attribute version (text)"
    for attribute in ("needs", "gives"):
        if not isinstance(getattr(cls, attribute, None), (set, frozenset)):
            return f"{label} lacks the class attribute {attribute} (a frozenset of names)"
    unknown = sorted(set(cls.needs) - set(NEEDS))
    if unknown:
        return f"{label} needs '{unknown[0]}', which no trial has; known: {', '.join(NEEDS)}"
    if not (inspect.isclass(cls.Options) and issubclass(cls.Options, SolverOptions)):
        return f"{label}: Options is no subclass of SolverOptions"
    return ""


def _order(point: EntryPoint) -> tuple[bool, str, str]:
    distribution = _distribution(point)
    return (distribution != BUILT_IN, distribution, point.name)


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


@cache
def _load() -> Registry:
    registry = build_registry(entry_points(group=hooks.ENTRY_POINT_GROUP))
    for problem in registry.problems:
        warnings.warn(problem, PluginWarning, stacklevel=3)
    return registry


def get_registry(strict: bool | None = None) -> Registry:
    """The registry of this process.

    Parameters
    ----------
    strict
        Raise :class:`PluginError` when any plugin is broken or duplicated. By default, whether the environment variable
        ``IMDY_STRICT_PLUGINS`` is set.
    """
    registry = _load()
    if strict is None:
        strict = bool(os.environ.get("IMDY_STRICT_PLUGINS"))
    if strict and registry.problems:
        raise PluginError("; ".join(registry.problems))
    return registry


def refresh() -> None:
    """Forget the cached registry, so that plugins installed since are found."""
    _load.cache_clear()


def missing_requirements(cls: type[Solver] | Solver | type[SimBackend]) -> list[str]:
    """Import names that a solver or a simulation backend requires and that are not installed."""
    return [name for name in cls.requires if importlib.util.find_spec(name) is None]


def get_solver(name: str) -> Solver:
    """An instance of the named solver.

    Raises
    ------
    UnknownNameError
        No such solver.
    MissingDependencyError
        It is registered, but a library it requires is not installed.
    """
    solver: Solver = _get("solver", name, get_registry().solvers, "'imdy solvers' lists them; a plugin of its own may not be installed.")
    return solver


def get_sim_backend(name: str) -> SimBackend:
    """An instance of the named simulation backend; see :func:`get_solver` for the errors."""
    backend: SimBackend = _get("simulation backend", name, get_registry().sim_backends, "A plugin of its own may not be installed.")
    return backend


def _get(kind: str, name: str, table: dict[str, Registered], hint: str) -> Any:
    if name not in table:
        raise UnknownNameError(kind, name, table, hint)
    found = table[name]
    missing = missing_requirements(found.cls)
    if missing:
        raise MissingDependencyError(f"{kind} '{name}' of {found.distribution} requires {', '.join(missing)}, not installed: pip install {' '.join(missing)}")
    return found.cls()


def make_options(solver: Solver, given: dict[str, Any]) -> SolverOptions:
    """Check options against the solver's typed model.

    Raises
    ------
    OptionError
        An option is unknown (the known ones are listed) or has an unlawful value.
    """
    try:
        return solver.Options(**given)
    except ValidationError as error:
        raise OptionError("; ".join(_explain(solver, dict(item)) for item in error.errors())) from error


def _explain(solver: Solver, item: dict[str, Any]) -> str:
    name = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = solver.Options.model_fields
        return (
            f"solver '{solver.name}' has no option '{name}'; {suggest(name, known)}" if known else f"solver '{solver.name}' has no options, '{name}' was given"
        )
    return f"option '{name}' of solver '{solver.name}': {item['msg']}, got {item['input']!r}"


def load_model(source: Any) -> LoadedModel:
    """Read a body model with the first adapter that accepts it; a model dataset is taken as it is.

    Raises
    ------
    InputError
        No adapter accepts it; the message lists those there are.
    InvalidDatasetError
        The dataset is no model.
    """
    if isinstance(source, xr.Dataset):
        validate_model(source)
        return LoadedModel(source, None)
    adapters = get_registry().model_adapters
    for registered in adapters.values():
        adapter: ModelAdapter = registered.cls()
        if adapter.accepts(source):
            return adapter.load(source)
    raise InputError(f"no model adapter reads {_describe(source)}; there are: {_listing(adapters)}")


def find_marker_reader(source: Any) -> MarkerReader:
    """The first marker reader that accepts ``source``.

    Raises
    ------
    InputError
        None accepts it; the message lists those there are.
    """
    readers = get_registry().marker_readers
    for registered in readers.values():
        reader: MarkerReader = registered.cls()
        if reader.accepts(source):
            return reader
    raise InputError(f"no marker reader reads {_describe(source)}; there are: {_listing(readers)}")


def _describe(source: Any) -> str:
    return f"'{source}'" if isinstance(source, (str, os.PathLike)) else f"an object of type {type(source).__module__}.{type(source).__name__}"


def _listing(table: dict[str, Registered]) -> str:
    return "; ".join(f"{name} ({entry.cls.summary})" for name, entry in table.items())
