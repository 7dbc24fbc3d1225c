"""Markers, ground forces and the scaled model in AddBiomechanics' .b3d files."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin._opensim import find_feet
from imdy_plugin.adapters.b3d_bytes import MISSING_REASONS, B3dFile, B3dTrial, read_b3d_bytes
from imdy_plugin.adapters.force_plates import CONTACT_THRESHOLD, Plate, clean_contact
from imdy_plugin.adapters.marker_checks import foot_tracks, frozen_markers, unique_labels
from imdy_plugin.adapters.plate_assignment import assign_plates_to_feet
from imdy_plugin.errors import DataWarning, FileFormatError, InputError, UnknownNameError
from imdy_plugin.interfaces import LoadedModel, MarkerReader, ModelAdapter
from imdy_plugin.schema import add_log, new_motion

Array = NDArray[np.float64]

_MARKERS = {"marker_obs": 2}
_PLATES = {"raw_force_plate_force": 9, "raw_force_plate_cop": 7, "raw_force_plate_torque": 8}
_CONTACTS = {"ground_contact_force": 8, "ground_contact_center_of_pressure": 6, "ground_contact_torque": 7}
"""Fields of the frames, force, point of application and moment in this order."""

LARGEST_TWIST = 0.1
"""Moment about the centre of pressure over force [m] that feet do not exceed; a larger one is about another point."""


class B3dReader(MarkerReader):
    """Reads .b3d files: the markers of one trial, and the ground's force on each contact body.

    Axes and units are the ground frame's already (AddBiomechanics turns y up).

    Parameters
    ----------
    trial
        Name of a trial or its number, from 0; may be left out where the file holds one. ``file.b3d#name`` as source says the same.
    duplicates
        ``"error"`` refuses a label that occurs twice; ``"suffix"`` keeps both as ``name``, ``name_2``.
    threshold
        Vertical force [N] above which something stands on a plate.
    foot_bodies
        Names of the bodies that plates act on, right and left, where the file does not give the forces by body.
    """

    name: ClassVar[str] = "b3d"
    summary: ClassVar[str] = "markers and ground forces of one trial in AddBiomechanics' .b3d files (file.b3d#trial)"

    def __init__(
        self,
        trial: str | int | None = None,
        *,
        duplicates: Literal["error", "suffix"] = "error",
        threshold: float = CONTACT_THRESHOLD,
        foot_bodies: Sequence[str] = ("calcn_r", "calcn_l"),
    ) -> None:
        self.trial, self.duplicates, self.threshold, self.foot_bodies = trial, duplicates, threshold, tuple(foot_bodies)

    def accepts(self, source: Any) -> bool:
        """Whether ``source`` is a path that ends in .b3d, or in .b3d#trial."""
        return isinstance(source, str | os.PathLike) and Path(_split(source)[0]).suffix.lower() == ".b3d"

    def read(self, source: Any) -> xr.Dataset:
        """Read the markers of one trial.

        Returns
        -------
        xarray.Dataset
            A motion with ``marker_position`` (time, marker, axis) in metres, NaN where a marker was not seen. Time begins at zero. Attributes
            ``mass`` [kg] and ``height`` [m] are the person's where the file states them, ``trial`` and ``original_trial`` its names.

        Raises
        ------
        FileFormatError
            The file is empty, cut, damaged, or of a newer version; it holds no markers, or a label occurs twice.
        InputError
            The file holds several trials and none was chosen.
        UnknownNameError
            It holds no such trial.

        Warns
        -----
        DataWarning
            Zeros as missing, or a marker that stands still while the others move.
        """
        path, chosen = _split(source)
        file = read_b3d_bytes(path)
        return self._markers(file, self._choose(file, chosen))

    def read_ground_force(self, source: Any) -> xr.Dataset | None:
        """Ground forces of one trial, or None where the file holds none.

        Where a processing pass gives them by contact body, those of the first such pass; else the plates' are given to the feet by
        :func:`~imdy_plugin.adapters.plate_assignment.assign_plates_to_feet`. Frames of which AddBiomechanics says that their force is not known are NaN.

        Raises
        ------
        FileFormatError
            As for :meth:`read`; the plates' moments are about no point that can be told, their forces point down, or no foot markers were found.
        InputError, UnknownNameError
            As for :meth:`read`.
        """
        path, chosen = _split(source)
        file = read_b3d_bytes(path)
        trial = self._choose(file, chosen)
        forces = _contact_forces(file, trial)
        if forces is None:
            forces = self._plate_forces(file, trial)
        return None if forces is None else _without_unknown(forces, trial).assign_attrs(source=f"{file.path}#{trial.name}")

    def _choose(self, file: B3dFile, chosen: str | None) -> B3dTrial:
        """The trial that was asked for; one without frames is refused."""
        wanted = chosen if chosen is not None else self.trial
        names = [trial.name for trial in file.trials]
        if wanted is None:
            if len(names) != 1:
                raise InputError(f"{file.path} holds {len(names)} trials: {', '.join(names)}; choose one as {file.path.name}#{(names or ['name'])[0]}")
            wanted = 0
        number = _number(wanted, names)
        if number is None:
            raise UnknownNameError("trial", str(wanted), names, f"in {file.path}")
        if not file.trials[number].frames:
            raise FileFormatError(file.path, f"trial '{names[number]}' holds no frames", "choose another")
        return file.trials[number]

    def _markers(self, file: B3dFile, trial: B3dTrial) -> xr.Dataset:
        columns = [i for i, name in enumerate(file.markers) if name.strip()]
        if not columns:
            raise FileFormatError(file.path, "holds no markers with a name", "markers are needed")
        names = unique_labels([file.markers[i] for i in columns], self.duplicates, file.path)
        (numbers,) = file.sensor_numbers(trial, _MARKERS, 3 * len(file.markers))
        position, zeros = _with_gaps(numbers.reshape(trial.frames, -1, 3)[:, columns])
        if zeros:
            warnings.warn(f"{file.path}: {zeros} marker positions are exactly 0, 0, 0; taken as missing", DataWarning, stacklevel=3)
        time = _time(trial)
        for name, (start, stop) in frozen_markers(names, time, position).items():
            text = f"{file.path}: marker '{name}' stands still from {start:g} to {stop:g} s while others move; was it filled?"
            warnings.warn(text, DataWarning, stacklevel=3)
        unnamed = len(file.markers) - len(columns)
        log = f"read {len(names)} markers and {trial.frames} frames of trial '{trial.name}' from {file.path.name}"
        log += f" ({unnamed} without a name left out)" if unnamed else ""
        person = {key: value for key, value in (("mass", file.mass), ("height", file.height)) if np.isfinite(value) and value > 0}
        attrs = {"source": str(file.path), "trial": trial.name, "original_trial": trial.original_name, "zeros_as_missing": zeros, **person}
        return new_motion(time, markers=(names, position), log=log, attrs=attrs)

    def _plate_forces(self, file: B3dFile, trial: B3dTrial) -> xr.Dataset | None:
        numbers = file.sensor_numbers(trial, _PLATES, 3 * trial.plates, padded=True)
        force, point, moment = (n.reshape(trial.frames, trial.plates, 3) for n in numbers)
        if not force.any():
            return None
        plates = [self._plate(file, trial, i, force[:, i], point[:, i], moment[:, i]) for i in range(trial.plates)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)  # the same markers' warnings come from read()
            motion = self._markers(file, trial)
        return assign_plates_to_feet(plates, foot_tracks(motion, self.foot_bodies, file.path), source=file.path)

    def _plate(self, file: B3dFile, trial: B3dTrial, index: int, force: Array, point: Array, moment: Array) -> Plate:
        name = f"plate {index + 1}"
        force, point, moment = (_zero_where_missing(a) for a in (force, point, moment))
        strongest = int(np.abs(force[:, 1]).argmax())
        if force[strongest, 1] < -self.threshold:
            found = f"{name} of trial '{trial.name}' pushes down by {-force[strongest, 1]:.0f} N in frame {strongest}"
            raise FileFormatError(file.path, found, "its forces are not those on the person; correct the file")
        contact = clean_contact(force[:, 1] > self.threshold, 1.0 / trial.time_step)
        twist, about = _about_pressure(force, point, moment, contact)
        if not about:
            found = f"the moments of {name} in trial '{trial.name}' are neither about its centre of pressure nor about the ground's origin"
            raise FileFormatError(file.path, found, "give the forces as an ExternalLoads .xml")
        return Plate(
            name,
            _time(trial),
            np.where(contact[:, None], force, 0.0),
            np.where(contact[:, None], point, np.nan),
            np.where(contact[:, None], twist, 0.0),
            trial.corners[index],
            contact,
            f"{name}: contact above {self.threshold:g} N, moments about {about}"
            + ("" if np.isfinite(trial.corners[index]).all() else ", its place is not known"),
        )


class B3dModelAdapter(ModelAdapter):
    """Reads the scaled OpenSim model that a .b3d file holds; of several processing passes the last one's."""

    name: ClassVar[str] = "b3d"
    summary: ClassVar[str] = "the scaled OpenSim model in AddBiomechanics' .b3d files"

    def accepts(self, source: Any) -> bool:
        """Whether ``source`` is a path that ends in .b3d, or in .b3d#trial."""
        return B3dReader().accepts(source)

    def load(self, source: Any) -> LoadedModel:
        """Read the model of ``source``, as :class:`~imdy_plugin.adapters.opensim_model.OpenSimModelAdapter` does.

        Raises
        ------
        FileFormatError
            The file is no .b3d, holds no model, or one that OpenSim cannot read.
        """
        from imdy_plugin.adapters.opensim_model import OpenSimModelAdapter

        file = read_b3d_bytes(_split(source)[0])
        texts = [text for text in file.models if text.strip()]
        if not texts:
            raise FileFormatError(file.path, "holds no model", "give an .osim file")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{file.path.stem}.osim")
            path.write_text(texts[-1], encoding="utf-8")
            try:
                loaded = OpenSimModelAdapter().load(path)
            except FileFormatError as error:
                raise FileFormatError(file.path, f"its model: {error.found}", error.fix) from error
        return LoadedModel(loaded.dataset.assign_attrs(source=str(file.path)), loaded.deferred_native)


def _split(source: str | os.PathLike[str]) -> tuple[str, str | None]:
    """Path, and the trial named after ``#``; a ``#`` in a folder's or another file's name is none."""
    text = os.fspath(source)
    at = text.lower().rfind(".b3d#")
    return (text, None) if at < 0 else (text[: at + 4], text[at + 5 :])


def _number(wanted: str | int, names: Sequence[str]) -> int | None:
    if isinstance(wanted, str):
        if wanted in names:
            return names.index(wanted)
        if not wanted.isdecimal():
            return None
    number = int(wanted)
    return number if 0 <= number < len(names) else None


def _time(trial: B3dTrial) -> Array:
    time: Array = trial.time_step * np.arange(trial.frames, dtype=np.float64)
    return time


def _zero_where_missing(values: Array) -> Array:
    known = np.asarray(np.isfinite(values).all(axis=1))
    return np.where(known[:, None], values, 0.0)


def _with_gaps(position: Array) -> tuple[Array, int]:
    """Positions, NaN where any axis is or where all are exactly zero, and how many are zero."""
    zeros = (position == 0).all(axis=-1)
    missing = zeros | np.isnan(position).any(axis=-1)
    return np.where(missing[..., None], np.nan, position), int(zeros.sum())


def _contact_forces(file: B3dFile, trial: B3dTrial) -> xr.Dataset | None:
    """Forces by contact body from the first processing pass that has any; the right foot first where there is a pair."""
    count = len(file.contact_bodies)
    for index, kind in enumerate(trial.passes if count else ()):
        numbers = file.pass_numbers(trial, index, _CONTACTS, 3 * count)
        force, point, moment = (n.reshape(trial.frames, count, 3) for n in numbers)
        if force.any():
            touching = (force != 0).any(axis=2, keepdims=True)
            bodies = unique_labels(list(file.contact_bodies), "error", file.path)
            motion = new_motion(_time(trial), ground=(bodies, force, np.where(touching, point, 0.0), np.where(touching, moment, 0.0)))
            return add_log(_feet_first(motion), f"ground force by contact body from processing pass {index} ({kind}) of trial '{trial.name}'")
    return None


def _feet_first(motion: xr.Dataset) -> xr.Dataset:
    bodies = [str(b) for b in motion["body"].values]
    feet = list(find_feet(bodies))
    return motion.sel(body=feet + [b for b in bodies if b not in feet])


def _about_pressure(force: Array, point: Array, moment: Array, contact: NDArray[np.bool_]) -> tuple[Array, str]:
    """Moment about the centre of pressure, and what the given one was about; empty where that cannot be told.

    Files give either moments about the centre of pressure, which feet keep small, or about the ground's origin.
    """
    moved = moment - np.cross(point, force)
    if not contact.any():
        return moment, "nothing"
    weight = np.linalg.norm(force[contact], axis=1)
    sizes = [float(np.median(np.linalg.norm(m[contact], axis=1) / weight)) for m in (moment, moved)]
    if min(sizes) > LARGEST_TWIST:
        return moment, ""
    return (moment, "the centre of pressure") if sizes[0] <= sizes[1] else (moved, "the ground's origin")


def _without_unknown(forces: xr.Dataset, trial: B3dTrial) -> xr.Dataset:
    """NaN where the file says that the ground's force is not known."""
    unknown = trial.missing_force != 0
    if not unknown.any():
        return forces
    known = xr.DataArray(~unknown, dims="time", coords={"time": forces["time"]})
    attrs = forces.attrs
    masked = forces.assign({name: forces[name].where(known).assign_attrs(forces[name].attrs) for name in forces.data_vars})
    reasons = sorted({MISSING_REASONS.get(int(code), "of an unknown reason") for code in trial.missing_force[unknown]})
    return add_log(masked.assign_attrs(attrs), f"ground force unknown in {int(unknown.sum())} frames, as the file says: {', '.join(reasons)}")
