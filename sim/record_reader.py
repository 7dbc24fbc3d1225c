"""Reading collected records for training: which episodes, and which stretches of them."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.errors import InputError, UnknownNameError
from imdy_plugin.runs import runs
from imdy_plugin.sim.records import VARIABLES, RecordStore, open_store

Split = Literal["train", "held_out", "all"]

HELD_OUT_PART = 10
"""One of so many people is held out where the split is by person."""


def load_records(
    store: RecordStore | str | os.PathLike[str],
    split: Split = "train",
    *,
    by: Literal["clip", "person"] = "clip",
    valid: bool = True,
    window: int | None = None,
    stride: int | None = None,
    variables: Sequence[str] | None = None,
) -> Iterator[xr.Dataset]:
    """Records in memory, episode by episode, without what is not data.

    Parameters
    ----------
    store
        The store or its folder.
    split
        ``"train"``, ``"held_out"`` or ``"all"``.
    by
        What the split keeps apart: ``"clip"`` (a tenth of each activity's clips is held out, see :func:`imdy_plugin.sim.clips.clips`) or ``"person"``
        (a tenth of the people). Neither side has clips whose licence forbids training on them; ``"all"`` has.
    valid
        Leave out frames that are not valid or after a failure; each stretch between them comes for itself.
    window, stride
        Cut stretches into pieces of so many frames, one each ``stride`` frames (as many as the window by default); what is shorter is left out.
    variables
        Only these variables of a record.

    Yields
    ------
    xarray.Dataset
        Consecutive frames of one episode, with its attributes and ``episode`` and ``first_frame``.

    Raises
    ------
    InputError
        There is no store, the split is unknown or the window not positive.
    UnknownNameError
        A record has no such variable.
    """
    opened = store if isinstance(store, RecordStore) else open_store(Path(store))
    if split not in ("train", "held_out", "all"):
        raise InputError(f"there is no split '{split}'; splits are train, held_out and all")
    if (window is not None and window < 1) or (stride is not None and stride < 1):
        raise InputError(f"window {window} and stride {stride} must be positive numbers of frames")
    for name in variables or ():
        if name not in VARIABLES:
            raise UnknownNameError("variable", name, VARIABLES)
    return _pieces(opened, chosen_episodes(opened.manifest(), split, by), valid, window, stride, variables)


def chosen_episodes(manifest: Mapping[str, Mapping[str, Any]], split: Split, by: Literal["clip", "person"] = "clip") -> list[str]:
    """Names of the episodes of a split; see :func:`load_records`."""
    if split == "all":
        return sorted(manifest)
    people = _held_out_people({str(attrs["person"]) for attrs in manifest.values()})
    apart = {name: bool(attrs["held_out"]) if by == "clip" else attrs["person"] in people for name, attrs in manifest.items()}
    return [name for name in sorted(manifest) if manifest[name]["may_train"] and apart[name] == (split == "held_out")]


def export_sample(store: RecordStore, folder: str | os.PathLike[str], seconds: float = 60.0) -> RecordStore:
    """Copy some episodes into a store of their own: of each activity in turn the one whose joints are nearest to the reference's.

    Parameters
    ----------
    store
        The whole store.
    folder
        Of the sample; it must not hold episodes.
    seconds
        Duration of the usable frames that is wanted; the last episode goes beyond it.

    Raises
    ------
    InputError
        The folder holds episodes already.
    """
    sample = RecordStore(folder)
    if sample.names():
        raise InputError(f"{folder} holds episodes already; name another folder")
    manifest, taken = store.manifest(), 0.0
    for name in _in_turn({n: a for n, a in manifest.items() if a["may_train"] and a["usable_frames"]}):
        if taken >= seconds:
            break
        sample.copy(store, name)
        taken += manifest[name]["usable_frames"] / manifest[name]["rate"]
    sample.write_manifest()
    return sample


def _in_turn(manifest: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names so that activities take turns, those without a failure and with the smallest error first."""
    ranked = sorted(manifest, key=lambda n: (manifest[n]["failed_frames"] > 0, manifest[n]["mean_joint_error"], n))
    turns = Counter[str]()
    order = {}
    for name in ranked:
        order[name] = turns[manifest[name]["activity"]]
        turns[manifest[name]["activity"]] += 1
    return sorted(ranked, key=lambda n: order[n])


def _held_out_people(people: set[str]) -> set[str]:
    ordered = sorted(people, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return set(ordered[: round(len(ordered) / HELD_OUT_PART) or int(len(ordered) > 1)])


def _pieces(
    store: RecordStore, names: Sequence[str], valid: bool, window: int | None, stride: int | None, variables: Sequence[str] | None
) -> Iterator[xr.Dataset]:
    for name in names:
        record = store.open(name)
        usable = record["valid"].values & ~record["failed"].values if valid else np.ones(record.sizes["time"], bool)
        chosen = (record if variables is None else record[list(variables)]).load()
        for first, last in _cut(usable, window, stride):
            yield chosen.isel(time=slice(first, last)).assign_attrs(episode=name, first_frame=first)


def _cut(usable: NDArray[np.bool_], window: int | None, stride: int | None) -> list[tuple[int, int]]:
    stretches = runs(usable)
    if window is None:
        return stretches
    return [(at, at + window) for first, last in stretches for at in range(first, last - window + 1, stride or window)]
