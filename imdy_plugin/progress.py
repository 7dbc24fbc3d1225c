"""Progress of long computations, shown by whoever listens; silent when nobody does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, int, int], None]
"""Called with the task, the number of steps done and the total."""

_listener: ContextVar[Listener | None] = ContextVar("imdy_progress", default=None)


def report_progress(task: str, done: int, total: int) -> None:
    """Tell the listener, if there is one, that ``done`` of ``total`` steps of ``task`` are finished."""
    listener = _listener.get()
    if listener is not None:
        listener(task, done, total)


@contextmanager
def progress_to(listener: Listener) -> Iterator[None]:
    """Within this context, progress goes to ``listener``."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
