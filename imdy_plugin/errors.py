"""Errors and warnings.

Every message says what was found, where, and what to do. A name that does not exist lists the nearest ones that do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class ImdyError(Exception):
    """Base of every error this package raises on purpose."""


class FileFormatError(ImdyError, ValueError):
    """A file is not what it claims to be, or holds values that would give a wrong answer.

    Parameters
    ----------
    path
        The file.
    found
        What was found, with the row, line or column.
    fix
        What the user can do.
    """

    def __init__(self, path: object, found: str, fix: str = "") -> None:
        self.path, self.found, self.fix = str(path), found, fix
        super().__init__(f"{path}: {found}" + (f" -- {fix}" if fix else ""))


class InvalidDatasetError(ImdyError, ValueError):
    """A dataset breaks the schema; ``problems`` lists everything that is wrong."""

    def __init__(self, kind: str, problems: Sequence[str]) -> None:
        self.kind, self.problems = kind, list(problems)
        lines = "".join(f"\n  - {p}" for p in self.problems)
        super().__init__(f"not a lawful {kind}, {len(self.problems)} problem(s):{lines}")


class UnknownNameError(ImdyError, LookupError):
    """A name does not exist; the message lists the nearest ones that do."""

    def __init__(self, kind: str, name: str, available: Iterable[str], hint: str = "") -> None:
        self.kind, self.name, self.available = kind, name, sorted(available)
        super().__init__(f"{kind} '{name}' does not exist; {suggest(name, self.available)}" + (f" {hint}" if hint else ""))


class OptionError(ImdyError, ValueError):
    """An option of a solver is unknown or has an unlawful value."""


class InputError(ImdyError, ValueError):
    """What was given cannot be computed with: a missing input, a mass of zero, a range outside the data."""


class SolverError(ImdyError, RuntimeError):
    """A solver could not finish on lawful input."""


class MissingDependencyError(ImdyError, ImportError):
    """A library that this part needs is not installed."""


class PluginError(ImdyError):
    """A plugin is broken, duplicated, or does not fit its hook."""


class ImdyWarning(UserWarning):
    """Base of every warning this package issues."""


class DataWarning(ImdyWarning):
    """The input is usable but suspicious; the message says what and where."""


class PluginWarning(ImdyWarning):
    """A plugin was left out; the message names its distribution."""


def suggest(name: str, available: Iterable[str], count: int = 5) -> str:
    """Phrase the names nearest to ``name``, or all of them when they are few."""
    names = sorted(available)
    if not names:
        return "none is available."
    lowered = {n.lower(): n for n in names}
    close = [lowered[m] for m in difflib.get_close_matches(name.lower(), lowered, n=count, cutoff=0.5)]
    if close:
        return f"nearest: {', '.join(close)}."
    shown = names[:20]
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"available: {', '.join(shown)}{more}."
