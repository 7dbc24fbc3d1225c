"""Frames in chunks on all processors."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from imdy_plugin.solvers.multibody import chunks
from imdy_plugin.solvers.multibody.chunks import FRAMES, map_chunks, one_thread

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("frames", [0, 1, 127, 129, FRAMES, FRAMES + 1, 10 * FRAMES + 7])
def test_every_frame_is_in_one_chunk_and_they_come_in_order(frames: int) -> None:
    parts = list(map_chunks(lambda part: np.arange(frames)[part], frames, CPU))
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(frames))
    assert max(len(part) for part in parts) <= FRAMES


def test_chunks_are_computed_by_one_thread_each_and_without_gradients() -> None:
    weight = torch.ones(1, requires_grad=True)
    found = list(map_chunks(lambda part: (torch.get_num_threads(), (2 * weight).requires_grad), 5 * FRAMES, CPU))
    assert set(found) == {(1, False)} and (2 * weight).requires_grad and torch.get_num_threads() == 3


def test_an_error_in_a_chunk_reaches_the_caller_and_leaves_the_threads_as_they_were() -> None:
    def broken(part: slice) -> int:
        if part.start:
            raise ValueError(f"no frame {part.start}")
        return part.stop

    with pytest.raises(ValueError, match="no frame"):
        list(map_chunks(broken, 5 * FRAMES, CPU))
    assert torch.get_num_threads() == 3
    assert list(map_chunks(lambda part: part.start, 10, CPU)) == [0]


def test_chunks_that_nobody_asks_for_any_more_leave_the_threads_as_they_were() -> None:
    pieces = map_chunks(lambda part: part.start, 5 * FRAMES, CPU)
    assert next(pieces) == 0 and torch.get_num_threads() == 1
    pieces.close()  # type: ignore[attr-defined]
    assert torch.get_num_threads() == 3


def test_one_thread_ends_with_an_error_too() -> None:
    with pytest.raises(ValueError, match="no"), one_thread():
        assert torch.get_num_threads() == 1
        raise ValueError("no")
    assert torch.get_num_threads() == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_has_threads_of_its_own() -> None:
    before = chunks._pool()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, b"same" if chunks._pool() is before else b"own")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 4) == b"own" and chunks._pool() is before
    os.close(reading)
    os.close(writing)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_does_not_wait_for_threads_of_torch_that_only_its_parent_has() -> None:
    large = torch.ones(1 << 20)
    expected = float((large * 2).sum())
    child = os.fork()
    if not child:
        signal.alarm(20)
        os._exit(0 if float((large * 2).sum()) == expected else 1)
    assert os.waitpid(child, 0)[1] == 0
