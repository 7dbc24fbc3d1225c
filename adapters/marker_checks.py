"""Questions asked of markers before anything is computed from them: unit, vertical, sides, gaps, names."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.errors import DataWarning, FileFormatError, InputError
from imdy_plugin.runs import longest_run

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
    for i in map(int, np.flatnonzero(still.any(axis=0))):
        run = longest_run(still[:, i])
        start, stop = run.start, run.stop
        if stop - start >= 10 and time[stop] - time[start] >= FROZEN_SECONDS and _median_travel(position[start : stop + 1]) > FROZEN_TRAVEL:
            found[names[i]] = (float(time[start]), float(time[stop]))
    return found


def _median_travel(position: NDArray[np.float64]) -> float:
    seen = position[:, np.isfinite(position).all(axis=(0, 2))]
    return float(np.median(np.linalg.norm(np.ptp(seen, axis=0), axis=-1))) if seen.size else 0.0


_LANDMARKS = {
    "heel": r"(heel|hee|cal|calc|calcn|calcaneus|fcc)(bottom|top|lateral|medial|lat|med|lower|upper)?",
    "toe": r"toe([1-5]|tip|lat|med)?|bigtoe|smalltoe|hallux|hlx|(mt|mth|fm|met|meta|mtp)[1-5]|[1-5](mt|mth|meta)|p[1-5]mt|d[1-5]m",
    "pelvis": r"asis|psis|asi|psi|ias|ips|iliaccrest|sacr|sacral|sacrum|vsacral|vsac|s2|midasis|midpsis",
    "shoulder": r"sho|shoulder|acr|acromium|acromion|should",
}
_SIDES = {"r": "right", "l": "left", "right": "right", "left": "left"}
_UNSIDED = {"pelvis"}

FOOT_NAMES = (
    "R or L (right, left; in front or behind, with or without . _ -) with HEEL, HEE, CAL, CALC, FCC for the heel, "
    "TOE, TOE.TIP, MT1 to MT5, FM1 to FM5, 1META to 5META, P1MT, P5MT, D5M, HLX for the toes"
)
"""Names by which heel and toe markers are found."""


def common_prefix(labels: Sequence[str]) -> str:
    """The ``subject:`` that all labels begin with, or an empty text."""
    prefixes = {label.rpartition(":")[0] for label in labels}
    return f"{prefixes.pop()}:" if len(prefixes) == 1 and "" not in prefixes else ""


def find_landmarks(names: Sequence[str]) -> dict[tuple[str, str], list[int]]:
    """Markers whose place on the body their names tell.

    Parameters
    ----------
    names
        Marker names; case, separators and a ``subject:`` in front do not matter.

    Returns
    -------
    dict
        Indices by kind (``heel``, ``toe``, ``pelvis``, ``shoulder``) and side (``right``, ``left``, empty for the middle).
    """
    found: dict[tuple[str, str], list[int]] = {}
    for i, name in enumerate(names):
        for side, rest in _readings(name):
            kind = next((k for k, pattern in _LANDMARKS.items() if re.fullmatch(pattern, rest)), None)
            if kind and (side or kind in _UNSIDED):
                found.setdefault((kind, side), []).append(i)
                break
    return found


def foot_tracks(motion: xr.Dataset, bodies: Sequence[str], path: str | os.PathLike[str]) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Time [s] ``(time,)`` and markers [m] ``(time, marker, 3)`` of heel and toes of each foot, by which plates are given to feet.

    Parameters
    ----------
    motion
        A motion with markers.
    bodies
        What the right and the left foot are called.
    path
        The file, for the message.

    Raises
    ------
    FileFormatError
        No name tells a heel or toe marker of one of the feet.
    """
    names = [str(n) for n in motion["marker"].values]
    landmarks = find_landmarks(names)
    feet = {}
    for body, side in zip(bodies, ("right", "left"), strict=True):
        columns = landmarks.get(("heel", side), []) + landmarks.get(("toe", side), [])
        if not columns:
            found = f"no heel or toe marker of the {side} foot among {', '.join(names[:40])}"
            raise FileFormatError(path, found, f"plates cannot be given to feet; names looked for: {FOOT_NAMES}")
        feet[body] = (motion["time"].values, motion["marker_position"].values[:, columns])
    return feet


def _readings(name: str) -> list[tuple[str, str]]:
    """Side and the rest of a name, in every way it can be read."""
    words = [w for w in re.split(r"[^a-z0-9]+", name.rpartition(":")[2].lower()) if w]
    joined = "".join(words)
    readings = [("", joined)]
    if words and words[-1] in _SIDES:
        readings.append((_SIDES[words[-1]], "".join(words[:-1])))
    for mark, side in (("right", "right"), ("left", "left"), ("rx", "right"), ("lx", "left"), ("r", "right"), ("l", "left")):
        if joined.startswith(mark):
            readings.append((side, joined[len(mark) :]))
    return readings


def vertical_direction(names: Sequence[str], position: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Direction from the feet to the pelvis (the shoulders where no pelvis is marked), if it lies along one axis.

    Parameters
    ----------
    names, position
        Markers and their positions (time, marker, 3), in any unit and axes.

    Returns
    -------
    numpy.ndarray or None
        Unit vector, median over the frames; None where the names tell no feet or pelvis, or the body lies across the axes.
    """
    landmarks = find_landmarks(names)
    feet = _middle(position, [i for (kind, _), at in landmarks.items() if kind in ("heel", "toe") for i in at])
    for top in ("pelvis", "shoulder"):
        upper = _middle(position, [i for (kind, _), at in landmarks.items() if kind == top for i in at])
        direction = _median_direction(upper - feet)
        if direction is not None:
            return direction if np.abs(direction).max() > 0.85 else None
    return None


def _middle(position: NDArray[np.float64], columns: Sequence[int]) -> NDArray[np.float64]:
    """Mean of markers per frame (time, 3), NaN where none is seen."""
    if not columns:
        return np.full((len(position), 3), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(position[:, columns], axis=1))


def _median_direction(vectors: NDArray[np.float64]) -> NDArray[np.float64] | None:
    seen = vectors[np.isfinite(vectors).all(axis=1)]
    if not len(seen):
        return None
    middle = np.median(seen, axis=0)
    length = np.linalg.norm(middle)
    return np.asarray(middle / length) if length > 0 else None


_SMALLEST, _LARGEST = 0.1, 5.0
_PLAUSIBLE = (0.3, 3.0)
_LEG_SHARE = (0.3, 0.8)
_SPIKE_DISTANCE, _SPIKE_SPEED = 0.2, 25.0
_CROSSED = 0.03
"""How far to the wrong side [m] is beyond doubt. Feet are judged only while both are level: a runner's swinging foot crosses the midline."""


def check_markers(motion: xr.Dataset, height: float | None = None) -> None:
    """Whether markers can be a person's, standing along y, with left and right where their names say.

    Parameters
    ----------
    motion
        A motion with ``marker_position``.
    height
        Body height [m], where known.

    Raises
    ------
    InputError
        The markers span what no person spans (a wrong unit), or stand along another axis than y. The message has the fix;
        nothing is mended here.

    Warns
    -----
    DataWarning
        Markers of left and right are swapped, the legs do not fit ``height``, a marker is in a single frame where nothing could have
        brought it, most markers leap at once, or the markers, none of which has a known name, spread little along y.
    """
    if "marker_position" not in motion:
        return
    names = [str(n) for n in motion["marker"].values]
    position = motion["marker_position"].values
    span = _typical_span(position)
    _check_unit(span)
    direction = vertical_direction(names, position)
    if direction is not None and direction[1] < 0.85:
        raise InputError(f"the markers stand along {_signed_axis(direction)}, not along +y: {_UPRIGHT_FIX}")
    if direction is None and not find_landmarks(names) and span[1] < 0.5 * max(span[0], span[2]):
        text = f"the markers spread {span[1]:.2f} m along y but {max(span[0], span[2]):.2f} m across; if y is not up: {_UPRIGHT_FIX}"
        warnings.warn(text, DataWarning, stacklevel=2)
    if height is not None:
        _check_height(names, position, height)
    _check_spikes(names, motion["time"].values, position)
    _check_leaps(motion["time"].values, position)
    swapped = swapped_sides(names, position)
    if swapped:
        text = f"right and left are swapped (or heels and toes) by the markers of {', '.join(swapped)}; not mended, check their names"
        warnings.warn(text, DataWarning, stacklevel=2)


_UPRIGHT_FIX = "give a file whose y axis points up, or turn it ((x, y, z) becomes (x, z, -y) where z was up)"


def _typical_span(position: NDArray[np.float64]) -> NDArray[np.float64]:
    """Extent along each axis [m] of most of the markers, median over the frames."""
    complete: NDArray[np.bool_] = np.asarray(np.isfinite(position).all(axis=-1))
    seen = position[complete.any(axis=1)]
    if not len(seen):
        raise InputError("no marker is seen in any frame")
    ordered = np.sort(seen[:: max(1, len(seen) // 200)], axis=1)
    return np.asarray(np.median(_percentile(ordered, 95) - _percentile(ordered, 5), axis=0))


def _percentile(ordered: NDArray[np.float64], percent: float) -> NDArray[np.float64]:
    """Percentile over markers ``(time, axis)`` of values ``(time, marker, axis)`` that are sorted, NaN last, and left out."""
    place = percent / 100.0 * (np.isfinite(ordered).sum(axis=1, keepdims=True) - 1)
    below = np.floor(place).astype(int)
    low, high = (np.take_along_axis(ordered, index, axis=1) for index in (below, np.ceil(place).astype(int)))
    return np.asarray((low + (place - below) * (high - low))[:, 0])


def _check_unit(span: NDArray[np.float64]) -> None:
    size = float(span.max())
    if _SMALLEST <= size <= _LARGEST:
        return
    fits = [f"{u}" for u, factor in (("mm", 1e-3), ("cm", 1e-2), ("in", 0.0254), ("ft", 0.3048)) if _PLAUSIBLE[0] <= size * factor <= _PLAUSIBLE[1]]
    fits += [f"m where the file says {u}" for u, factor in (("mm", 1e3), ("cm", 1e2)) if _PLAUSIBLE[0] <= size * factor <= _PLAUSIBLE[1]]
    hint = f"the numbers fit a person in {' or '.join(fits)}; correct the unit in the file" if fits else "correct the unit in the file"
    raise InputError(f"the markers span {size:.4g} m in a typical frame, which no person does; {hint}")


def _signed_axis(direction: NDArray[np.float64]) -> str:
    i = int(np.abs(direction).argmax())
    return f"{'-' if direction[i] < 0 else '+'}{'xyz'[i]}"


def _check_height(names: Sequence[str], position: NDArray[np.float64], height: float) -> None:
    landmarks = find_landmarks(names)
    feet = _middle(position, [i for (kind, _), at in landmarks.items() if kind in ("heel", "toe") for i in at])
    pelvis = _middle(position, [i for (kind, _), at in landmarks.items() if kind == "pelvis" for i in at])
    leg = (pelvis - feet)[:, 1]
    leg = leg[np.isfinite(leg)]
    if leg.size and not _LEG_SHARE[0] <= np.percentile(leg, 95) / height <= _LEG_SHARE[1]:
        text = f"the pelvis is {np.percentile(leg, 95):.2f} m above the feet, which does not fit a body height of {height:g} m; is the height in metres?"
        warnings.warn(text, DataWarning, stacklevel=3)


def _check_spikes(names: Sequence[str], time: NDArray[np.float64], position: NDArray[np.float64]) -> None:
    """Warn of markers that leap away and back from one frame to the next, faster and farther than a sprinter's foot moves."""
    step = np.diff(position, axis=0)
    distance = np.linalg.norm(step, axis=-1)
    leap = (distance > _SPIKE_DISTANCE) & (distance > _SPIKE_SPEED * np.diff(time)[:, None])
    spike = leap[:-1] & leap[1:] & ((step[:-1] * step[1:]).sum(axis=-1) < 0)
    if spike.any():
        frame, marker = (int(i) + j for i, j in zip(np.argwhere(spike)[0], (1, 0), strict=True))
        text = f"marker '{names[marker]}' is {distance[frame - 1, marker]:.2g} m away in the single frame {frame} (t = {time[frame]:g} s)"
        more = f", and {int(spike.sum()) - 1} more such" if spike.sum() > 1 else ""
        warnings.warn(f"{text}{more}; joint moments are wrong there, remove the marker from these frames", DataWarning, stacklevel=3)


def _check_leaps(time: NDArray[np.float64], position: NDArray[np.float64]) -> None:
    """Warn of frames between which more than half of the markers leap, as where two recordings or two people were joined."""
    step = np.linalg.norm(np.diff(position, axis=0), axis=-1)
    leaping = (step > _SPIKE_DISTANCE) & (step > _SPIKE_SPEED * np.diff(time)[:, None])
    leaps = np.flatnonzero(leaping.sum(axis=1) > np.maximum(2, 0.5 * np.isfinite(step).sum(axis=1)))
    if leaps.size:
        frame = int(leaps[0]) + 1
        text = (
            f"{int(leaping[frame - 1].sum())} markers leap by {np.nanmedian(step[frame - 1]):.2g} m from frame {frame - 1} to {frame} (t = {time[frame]:g} s)"
        )
        more = f", and there are {leaps.size - 1} more such leaps" if leaps.size > 1 else ""
        warnings.warn(f"{text}{more}; forces and moments are wrong there: give what is joined here one by one", DataWarning, stacklevel=3)


def swapped_sides(names: Sequence[str], position: NDArray[np.float64]) -> list[str]:
    """Kinds of landmarks whose right markers lie to the left of the left ones, judged by where the toes point.

    Parameters
    ----------
    names, position
        Markers and their positions (time, marker, 3), y up.

    Returns
    -------
    list of str
        Such as ``["pelvis", "shoulder"]``; empty where sides are right or cannot be judged.
    """
    landmarks = find_landmarks(names)
    middles = {key: _middle(position, at) for key, at in landmarks.items()}
    missing = np.full((len(position), 3), np.nan)
    pointing = [_level_unit(middles.get(("toe", s), missing) - middles.get(("heel", s), missing)) for s in ("right", "left")]
    both_level = np.isfinite(pointing).all(axis=(0, 2))
    forward = np.nansum(pointing, axis=0)
    rightward = _flat_unit(np.cross(forward, [0.0, 1.0, 0.0]))
    swapped = []
    for kind in ("heel", "toe", "pelvis", "shoulder"):
        apart = np.sum((middles.get((kind, "right"), missing) - middles.get((kind, "left"), missing)) * rightward, axis=1)
        judged = np.isfinite(apart) & (both_level | (kind not in ("heel", "toe")))
        if judged.mean() > 0.1 and np.median(apart[judged]) < -_CROSSED:
            swapped.append(kind)
    return swapped


def _flat_unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    flat = vectors * [1.0, 0.0, 1.0]
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.asarray(flat / np.where(length > 0, length, np.nan))


def _level_unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Direction along the ground of feet that are nearly level; NaN of others, which point anywhere."""
    steep = np.abs(vectors[:, 1]) > 0.5 * np.linalg.norm(vectors, axis=1)
    return np.where(steep[:, None], np.nan, _flat_unit(vectors))
