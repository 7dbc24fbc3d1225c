"""Questions asked of markers before anything is computed from them: unit, vertical, sides, gaps, names."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from imdy_plugin.errors import FileFormatError

LENGTH_UNITS = {
    "m": 1.0,
    "meters": 1.0,
    "metres": 1.0,
    "cm": 0.01,
    "centimeters": 0.01,
    "mm": 0.001,
    "millimeters": 0.001,
    "in": 0.0254,
    "inches": 0.0254,
    "ft": 0.3048,
    "feet": 0.3048,
}
"""Metres per unit of length, by the names that files use."""

FROZEN_SECONDS = 0.5
FROZEN_TRAVEL = 0.05
"""A marker that does not move at all for so long [s] while the median marker travels this far [m] was filled, not measured."""


def unique_labels(labels: Sequence[str], duplicates: str, path: str | os.PathLike[str]) -> list[str]:
    """Labels of which none occurs twice.

    Parameters
    ----------
    labels
        As the file has them.
    duplicates
        ``"error"``, or ``"suffix"`` to name the second of two ``name_2``.
    path
        The file, for the message.

    Raises
    ------
    FileFormatError
        A label occurs twice and ``duplicates`` is ``"error"``.
    """
    repeated = sorted({n for n in labels if labels.count(n) > 1}) if len(set(labels)) < len(labels) else []
    if not repeated:
        return list(labels)
    if duplicates != "suffix":
        raise FileFormatError(path, f"labels occur more than once: {', '.join(repeated[:10])}", "rename them, or read with duplicates='suffix'")
    taken = set(labels)
    seen: dict[str, int] = {}
    names = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        name = label
        while seen[label] > 1 and name in taken:
            name = f"{label}_{seen[label]}"
            seen[label] += name in taken
        taken.add(name)
        names.append(name)
    return names


def frozen_markers(names: Sequence[str], time: NDArray[np.float64], position: NDArray[np.float64]) -> dict[str, tuple[float, float]]:
    """Markers that keep exactly the same place for :data:`FROZEN_SECONDS` while most of the others move.

    Parameters
    ----------
    names, time, position
        Markers, time stamps [s] and positions (time, marker, 3).

    Returns
    -------
    dict
        First and last time stamp [s] of the longest such stretch, by marker.
    """
    if len(time) < 10:
        return {}
    still = (np.diff(position, axis=0) == 0).all(axis=-1)
    found = {}
    for i in np.flatnonzero(still.any(axis=0)):
        start, stop = _longest_run(still[:, i])
        if stop - start >= 10 and time[stop] - time[start] >= FROZEN_SECONDS and _median_travel(position[start : stop + 1]) > FROZEN_TRAVEL:
            found[names[i]] = (float(time[start]), float(time[stop]))
    return found


def _median_travel(position: NDArray[np.float64]) -> float:
    seen = position[:, np.isfinite(position).all(axis=(0, 2))]
    return float(np.median(np.linalg.norm(np.ptp(seen, axis=0), axis=-1))) if seen.size else 0.0


def _longest_run(mask: NDArray[np.bool_]) -> tuple[int, int]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.view(np.int8), [0]])))
    starts, stops = edges[::2], edges[1::2]
    best = int((stops - starts).argmax())
    return int(starts[best]), int(stops[best])
