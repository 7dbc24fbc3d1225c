"""Runs: stretches of consecutive frames in which something holds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Runs of True in ``mask (time,)`` as first frame and frame after the last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def longest_run(mask: NDArray[np.bool_]) -> slice:
    """Longest run of True in ``mask (time,)``, the first of equals; an empty slice where there is none."""
    return slice(*max(runs(mask), key=lambda run: run[1] - run[0], default=(0, 0)))
