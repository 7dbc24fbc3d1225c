from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from typing import Any, ClassVar

import pytest
import xarray as xr
from pydantic import Field

from imdy_plugin import registry
from imdy_plugin.errors import MissingDependencyError, OptionError, PluginError, PluginWarning, UnknownNameError
from imdy_plugin.hooks import hookimpl
from imdy_plugin.interfaces import Solver, SolverOptions, Trial


class NothingOptions(SolverOptions):
    cutoff_hz: float = Field(6.0, gt=0, description="Low-pass frequency [Hz].")


class NothingSolver(Solver):
    name: ClassVar[str] = "nothing"
    summary: ClassVar[str] = "says nothing"
    version: ClassVar[str] = "1"
    needs: ClassVar[frozenset[str]] = frozenset({"markers"})
    gives: ClassVar[frozenset[str]] = frozenset()
    Options: ClassVar[type[SolverOptions]] = NothingOptions

    def solve(self, trial: Trial, options: Any) -> xr.Dataset:
        return xr.Dataset()


def plugin_of(*classes: object) -> object:
    class Plugin:
        @hookimpl
        def imdy_register_solvers(self, register: Any) -> None:
            for cls in classes:
                register(cls)

    return Plugin()


def registry_of(*plugins: object) -> registry.Registry:
    made = registry.Registry()
    for number, plugin in enumerate(plugins):
        registry.register_plugin(made, plugin, f"dist-{number}")
    return made


def test_a_plugin_in_this_file_registers() -> None:
    made = registry_of(plugin_of(NothingSolver))
    assert made.solvers["nothing"].cls is NothingSolver
    assert made.solvers["nothing"].distribution == "dist-0"
    assert made.problems == []


def test_duplicate_names_the_winner() -> None:
    made = registry_of(plugin_of(NothingSolver), plugin_of(NothingSolver))
    assert made.solvers["nothing"].distribution == "dist-0"
    assert made.problems == ["dist-1 registers 'nothing' again; the one of dist-0 is used"]


def with_solve(function: Any) -> type:
    return type("Odd", (NothingSolver,), {"name": "odd", "solve": function})


@pytest.mark.parametrize(
    ("cls", "fault"),
    [
        (with_solve(lambda self, trial, options, foo: None), "solver 'odd': solve takes foo, which the hook has not"),
        (with_solve(lambda self, trial: None), "solver 'odd': solve takes .self, trial., but is called with"),
        (type("NoName", (NothingSolver,), {"name": None}), "NoName lacks the class attribute"),
        (type("Greedy", (NothingSolver,), {"needs": frozenset({"money"})}), "needs 'money', which no trial has"),
        (type("BadOptions", (NothingSolver,), {"Options": dict}), "Options is no subclass of SolverOptions"),
        (dict, "is no subclass of Solver"),
        (type("Abstract", (Solver,), {"name": "a", "summary": "b"}), "does not implement solve"),
    ],
)
def test_a_wrong_class_is_refused_when_it_registers(cls: type, fault: str) -> None:
    made = registry_of(plugin_of(cls, NothingSolver))
    assert list(made.solvers) == ["nothing"]
    assert len(made.problems) == 1
    assert re.search(fault, made.problems[0])


def test_a_plugin_that_raises_leaves_the_others_alone() -> None:
    class Broken:
        @hookimpl
        def imdy_register_solvers(self, register: Any) -> None:
            raise RuntimeError("out of coffee")

    made = registry_of(Broken(), plugin_of(NothingSolver))
    assert list(made.solvers) == ["nothing"]
    assert "dist-0" in made.problems[0]
    assert "out of coffee" in made.problems[0]


def test_a_misspelt_hook_is_reported_with_the_nearest() -> None:
    class Misspelt:
        @hookimpl
        def imdy_register_solver(self, register: Any) -> None:
            register(NothingSolver)

    made = registry_of(Misspelt())
    assert "imdy_register_solvers" in made.problems[0]


def test_an_entry_point_that_cannot_be_imported_names_itself() -> None:
    made = registry.build_registry([EntryPoint("ghost", "no_such_module_at_all", "imdy_plugin")])
    assert "ghost" in made.problems[0]
    assert "ModuleNotFoundError" in made.problems[0]


@pytest.fixture
def broken_entry_point(monkeypatch: pytest.MonkeyPatch) -> Any:
    ghost = EntryPoint("ghost", "no_such_module_at_all", "imdy_plugin")
    monkeypatch.setattr(registry, "entry_points", lambda group: [ghost])
    registry.refresh()
    yield
    monkeypatch.undo()
    registry.refresh()


def test_broken_plugin_is_a_warning_and_an_error_in_strict_mode(broken_entry_point: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(PluginWarning, match="no_such_module_at_all"):
        registry.get_registry()
    with pytest.raises(PluginError, match="no_such_module_at_all"):
        registry.get_registry(strict=True)
    monkeypatch.setenv("IMDY_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError):
        registry.get_registry()


def test_what_ships_registers_through_the_hooks_without_a_problem() -> None:
    made = registry.get_registry(strict=True)
    assert {"imdys", "opensim", "physics"} <= set(made.solvers)
    assert {"trc", "c3d"} <= set(made.marker_readers)
    assert made.solvers["imdys"].distribution == registry.BUILT_IN


def test_unknown_solver_lists_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="nearest: imdys"):
        registry.get_solver("imdy")


def test_installed_but_unusable_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    needy = type("Needy", (NothingSolver,), {"name": "needy", "requires": ("no_such_library",)})
    monkeypatch.setitem(registry.get_registry().solvers, "needy", registry.Registered(needy, "needy-dist"))
    with pytest.raises(MissingDependencyError, match="needy-dist requires no_such_library"):
        registry.get_solver("needy")


def test_options_are_typed_and_unknown_ones_refused_with_the_known() -> None:
    solver = NothingSolver()
    assert registry.make_options(solver, {"cutoff_hz": "12"}).cutoff_hz == 12.0  # type: ignore[attr-defined]
    with pytest.raises(OptionError, match="no option 'cutof'; nearest: cutoff_hz"):
        registry.make_options(solver, {"cutof": 3})
    with pytest.raises(OptionError, match=r"'cutoff_hz'.*greater than 0.*-1"):
        registry.make_options(solver, {"cutoff_hz": -1})
