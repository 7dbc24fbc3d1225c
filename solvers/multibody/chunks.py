"""Frames in chunks on all processors: one chunk fits a cache, and memory does not grow with the recording."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch

FRAMES = 512
"""Most frames of a chunk on a processor."""

_WORTH_SHARING = 128
"""Frames from which two threads are sooner done than one."""

FRAMES_ON_DEVICE = 65536
"""Frames of a chunk on an accelerator."""

T = TypeVar("T")


def map_chunks(function: Callable[[slice], T], frames: int, device: torch.device) -> Iterator[T]:
    """Apply a function to slices of the frames, in order; without gradients.

    On a processor each chunk is computed by one thread: small operations gain nothing from several, and lose much where others
    use the machine too. The function must not call this itself: it would wait for a thread that waits for it.
    """
    most = FRAMES if device.type == "cpu" else FRAMES_ON_DEVICE
    count = max(1, -(-frames // most))
    if device.type == "cpu" and frames > _WORTH_SHARING:
        count = -(-count // _processors()) * _processors()
    size = max(1, -(-frames // count))
    parts = [slice(first, first + size) for first in range(0, max(frames, 1), size)]

    def computed(part: slice) -> T:
        with torch.no_grad():
            return function(part)

    with one_thread():
        yield from map(computed, parts) if len(parts) == 1 or device.type != "cpu" else _pool().map(computed, parts)


@cache
def _pool() -> ThreadPoolExecutor:
    """Threads that are kept: starting them takes longer than a chunk."""
    return ThreadPoolExecutor(_processors(), "imdy-chunks", initializer=torch.set_num_threads, initargs=(1,))


def _begin_as_child() -> None:
    """A forked process has none of its parent's threads: neither those kept here nor torch's own, which an operation would await for ever."""
    _pool.cache_clear()
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_as_child)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def one_thread() -> Iterator[None]:
    """Have each operation computed by the thread that asks for it: others that wait for their turn would hold it up."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
