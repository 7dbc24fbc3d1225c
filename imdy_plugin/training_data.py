"""Recordings with force plates, read as training data for the learned solver.

A data folder holds ``references/*.nc``, one per trial: ground forces, contact, frames in which these are known, and classic inverse
dynamics where there is a model; its attributes name the marker file. Weights that ship leave out the sources in
:data:`EVALUATION_ONLY`, so that these stay a laboratory the network has never seen.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.adapters.c3d import C3dReader
from imdy_plugin.adapters.trc import TrcReader
from imdy_plugin.errors import DataWarning, InputError
from imdy_plugin.interfaces import MarkerReader
from imdy_plugin.progress import report_progress

if TYPE_CHECKING:
    from imdy_plugin.solvers.imdys.training import TrainingConfig, TrainingTrial

Array = NDArray[np.float64]

EVALUATION_ONLY = ("hamner", "arnold")
"""Sources (what the names of their references begin with) that are never trained on: no licence allows it, and an unseen laboratory is the honest test."""

FOLDS = 5

STEPS_PER_EPOCH = 50
"""Windows are drawn at random, so an epoch is a number of optimiser steps, not a pass over the data."""

_READERS: tuple[type[MarkerReader], ...] = (TrcReader, C3dReader)


def train_on_recordings(
    data: str | Path,
    folder: str | Path,
    *,
    fold: int | None = None,
    seed: int = 0,
    epochs: int | None = None,
    config: TrainingConfig | None = None,
    leave_out: Sequence[str] = EVALUATION_ONLY,
    device: str = "cpu",
) -> Path:
    """Train the learned solver on a folder of recordings; run again after a break to go on.

    Parameters
    ----------
    data
        Folder with ``references/``.
    folder
        Where the weights are written, as ``imdys.safetensors`` or ``fold<k>.safetensors``.
    fold
        Leave out the people of this fold (0 to 4, see :func:`fold_of_people`); by default all are trained on.
    seed
        Of everything random.
    epochs
        Multiples of :data:`STEPS_PER_EPOCH` optimiser steps; the recipe's if not given.
    config
        The recipe.
    leave_out
        Sources that are not trained on.
    device
        A torch device.

    Returns
    -------
    pathlib.Path
        The weights.

    Raises
    ------
    InputError
        The folder holds no references, or there is no such fold.
    """
    from imdy_plugin.solvers.imdys.training import TrainingConfig, train

    if fold is not None and fold not in range(FOLDS):
        raise InputError(f"there is no fold {fold}; folds are 0 to {FOLDS - 1}")
    recipe = replace(config or TrainingConfig(), seed=seed)
    if epochs is not None:
        recipe = replace(recipe, steps=epochs * STEPS_PER_EPOCH)
    trials = read_training_trials(data, leave_out=leave_out)
    folds = fold_of_people(t.person for t in trials)
    kept = [t for t in trials if fold is None or folds[t.person] != fold]
    name = "imdys" if fold is None else f"fold{fold}"
    command = f"imdy train DATA --seed {seed}" + ("" if fold is None else f" --fold {fold}") + ("" if epochs is None else f" --epochs {epochs}")
    card = {"command": command, "fold": fold, "sources": sorted({t.source for t in kept}), "left_out_sources": list(leave_out)}
    return train(kept, Path(folder) / f"{name}.safetensors", recipe, card=card, device=device)


def fold_of_people(people: Iterable[str]) -> dict[str, int]:
    """The fold of each person: people of a source in order of their names are dealt out in turn, each source beginning where the last ended."""
    by_source: dict[str, list[str]] = {}
    for person in sorted(set(people)):
        by_source.setdefault(person.rpartition("/")[0], []).append(person)
    order = [person for source in sorted(by_source, key=lambda s: (len(by_source[s]), s)) for person in by_source[source]]
    return {person: position % FOLDS for position, person in enumerate(order)}


def read_training_trials(data: str | Path, *, leave_out: Sequence[str] = EVALUATION_ONLY) -> list[TrainingTrial]:
    """Read every trial of ``data/references`` with its markers, but those of the sources in ``leave_out``.

    A trial whose markers cannot be used is left out with a :class:`~imdy_plugin.errors.DataWarning`.

    Raises
    ------
    InputError
        The folder holds no references.
    """
    paths = sorted((Path(data) / "references").glob("*.nc"))
    if not paths:
        raise InputError(f"{Path(data) / 'references'} holds no .nc file; give the folder of the recordings with their references")
    return list(_read_trials(Path(data), paths, leave_out))


def _read_trials(data: Path, paths: Sequence[Path], leave_out: Sequence[str]) -> Iterator[TrainingTrial]:
    for done, path in enumerate(paths, start=1):
        if path.stem.partition("__")[0] not in leave_out:
            with xr.open_dataset(path, engine="h5netcdf") as opened:
                reference = opened.load()
            try:
                yield _training_trial(data, path.stem, reference)
            except InputError as error:
                warnings.warn(f"{path.name} is not trained on: {error}", DataWarning, stacklevel=3)
        report_progress("reading recordings", done, len(paths))


def _training_trial(data: Path, name: str, reference: xr.Dataset) -> TrainingTrial:
    from imdy_plugin.solvers.imdys.features import compute_features
    from imdy_plugin.solvers.imdys.training import Targets, TrainingTrial

    attrs = reference.attrs
    mass = float(attrs["mass"])
    features = compute_features(_read_markers(data / attrs["marker_path"]), reference["time"].values)
    targets = Targets(
        force=_values(reference, "ground_force") / mass,
        center_of_pressure=_values(reference, "center_of_pressure"),
        free_moment=_values(reference, "free_moment")[..., 1] / mass,
        contact=reference["contact"].values.astype(bool),
        valid=reference["valid"].values.astype(bool),
        torque=_torques(reference) / mass,
    )
    source = name.partition("__")[0]
    return TrainingTrial(name, f"{source}/{attrs['subject']}", source, attrs["activity"], features, targets)


def _read_markers(path: Path) -> xr.Dataset:
    readers = [reader() for reader in _READERS]
    reader = next((r for r in readers if r.accepts(path)), None)
    if reader is None:
        raise InputError(f"{path}: no marker reader among {', '.join(r.name for r in readers)} reads this file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # occlusions and frozen markers are what training has to live with
        return reader.read(path)


def _values(reference: xr.Dataset, name: str) -> Array:
    return np.asarray(reference[name].values, float)


def _torques(reference: xr.Dataset) -> Array:
    """Joint moments [N m] by the network's coordinates, knee flexion positive, NaN where not known."""
    from imdy_plugin.solvers.imdys.network import TORQUES

    out = np.full((reference.sizes["time"], len(TORQUES)), np.nan)
    if "generalized_force" not in reference:
        return out
    names = [str(c) for c in reference["coordinate"].values]
    moments: dict[str, Any] = dict(zip(names, _values(reference, "generalized_force").T, strict=True))
    angles: dict[str, Any] = dict(zip(names, _values(reference, "coordinate_value").T, strict=True))
    for column, name in enumerate(TORQUES):
        if name in moments:
            flexes_negative = name.startswith("knee") and np.nanmean(angles[name]) < 0.0
            out[:, column] = -moments[name] if flexes_negative else moments[name]
    out[~reference["valid_id"].values.astype(bool)] = np.nan
    return out
