"""Reference answers with force plates, and what they alone can answer for a person: the mean of everybody else.

A data folder holds ``references/*.nc``, one per trial: ground forces, contact and the frames in which these are known; where there is a model also
its kinematics and joint torques; in its attributes the person, the activity and the paths of the marker file and the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin import scoring
from imdy_plugin.errors import FileFormatError, InputError

Kinematics = Literal["reference", "own"]
"""Whose joint coordinates a solver is given: those that the reference was made from, or what it finds from the markers."""

FEET = ("right", "left")
"""Order of the feet in every array."""


@dataclass(frozen=True)
class Reference:
    """One reference answer.

    Attributes
    ----------
    path, dataset
        The file and what it holds, with its attributes.
    """

    path: Path
    dataset: xr.Dataset

    @property
    def id(self) -> str:
        """Name of the file without its suffix."""
        return self.path.stem

    @property
    def activity(self) -> str:
        """What the person does."""
        return str(self.dataset.attrs["activity"])

    @property
    def mass(self) -> float:
        """Body mass [kg]."""
        return float(self.dataset.attrs["mass"])

    @property
    def source(self) -> str:
        """The data set: what the file name begins with, up to a double underscore."""
        return self.id.partition("__")[0]

    @property
    def subject(self) -> str:
        """The person within the data set."""
        return str(self.dataset.attrs["subject"])

    @property
    def person(self) -> str:
        """The person, ``source/subject``."""
        return f"{self.source}/{self.subject}"

    @property
    def has_torque(self) -> bool:
        """Whether joint torques are known."""
        return "generalized_force" in self.dataset

    def same_person(self, other: Reference) -> bool:
        """Whether both show one person: the same one of a data set, or one whom two data sets share (same label and mass)."""
        return self.subject == other.subject and (self.source == other.source or abs(self.mass - other.mass) < 0.05)

    def truth(self, kinematics: Kinematics) -> scoring.Truth:
        """What is right, on the frames that are scored; with reference kinematics only where there are such."""
        ds = self.dataset
        valid = ds["valid"].values.astype(bool)
        if kinematics == "reference" and "coordinate_value" in ds:
            valid = valid & np.isfinite(ds["coordinate_value"].values).all(axis=1)
        torque = ds["generalized_force"].values.astype(float) if self.has_torque else None
        return scoring.Truth(
            force=feet_array(ds["ground_force"]),
            center_of_pressure=feet_array(ds["center_of_pressure"]),
            contact=ds["contact"].sel(foot=list(FEET)).values.astype(bool),
            valid=valid,
            mass=self.mass,
            contact_threshold=float(ds.attrs["contact_threshold_N"]),
            coordinates=tuple(str(c) for c in ds["coordinate"].values) if self.has_torque else (),
            torque=torque,
            valid_torque=ds["valid_id"].values.astype(bool) if self.has_torque else None,
        )


def read_references(data_dir: Path) -> list[Reference]:
    """Every reference of a data folder, by name.

    Raises
    ------
    InputError
        The folder holds none.
    """
    paths = sorted((data_dir / "references").glob("*.nc"))
    if not paths:
        raise InputError(f"{data_dir / 'references'} holds no .nc file; give the data folder that has 'references' in it")
    return [read_reference(path) for path in paths]


def read_reference(path: Path) -> Reference:
    """Read one reference.

    Raises
    ------
    FileFormatError
        It lacks what scoring needs.
    """
    with xr.open_dataset(path, engine="h5netcdf") as opened:
        ds = opened.load()
    lacking = [v for v in ("ground_force", "center_of_pressure", "contact", "valid") if v not in ds]
    lacking += [a for a in ("activity", "mass", "subject", "contact_threshold_N", "marker_path") if a not in ds.attrs]
    if lacking:
        raise FileFormatError(path, f"lacks {', '.join(lacking)}", "give references as documented for 'imdy evaluate'")
    return Reference(path, ds)


@dataclass(frozen=True)
class MeanAnswer:
    """Mean of other people in the same activity: constant force per foot and mass in the heading frame, constant torque per mass.

    Attributes
    ----------
    force
        ``(foot, axis)`` [N/kg]: forward, up, outward of the foot's side.
    torque
        By coordinate without its side [N m/kg]; knees in the sense that flexion is positive.
    """

    force: NDArray[np.float64]
    torque: Mapping[str, float]


def mean_answers(references: Sequence[Reference], everybody: Sequence[Reference]) -> dict[str, MeanAnswer | None]:
    """:class:`MeanAnswer` for each trial, from all other people who do the same; None where nobody else does."""
    own = {r.id: {"force": _mean_force(r), **(_mean_torque(r) if r.has_torque else {})} for r in everybody}
    answers: dict[str, MeanAnswer | None] = {}
    for reference in references:
        others = [r for r in everybody if r.activity == reference.activity and not r.same_person(reference)]
        means = _mean_over_people([(r.person, own[r.id]) for r in others])
        force = means.pop("force", None)
        answers[reference.id] = None if force is None else MeanAnswer(force, {name: float(value) for name, value in means.items()})
    return answers


def _mean_over_people(given: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Mean of each named quantity over a person's trials, then over people."""
    by_name: dict[str, dict[str, list[Any]]] = {}
    for person, quantities in given:
        for name, value in quantities.items():
            by_name.setdefault(name, {}).setdefault(person, []).append(value)
    return {name: np.mean([np.mean(v, axis=0) for v in people.values()], axis=0) for name, people in by_name.items()}


def _mean_force(reference: Reference) -> NDArray[np.float64]:
    turned = _turn(feet_array(reference.dataset["ground_force"]), -_heading(reference))[reference.dataset["valid"].values.astype(bool)]
    outward = turned.mean(axis=0) / reference.mass * [[1, 1, 1], [1, 1, -1]]
    return np.broadcast_to(outward.mean(axis=0), (2, 3)).copy()


def _mean_torque(reference: Reference) -> dict[str, float]:
    ds = reference.dataset
    used = ds["valid_id"].values.astype(bool)
    if not used.any():
        return {}
    sides: dict[str, list[float]] = {}
    for name in scoring.scored_coordinates([str(c) for c in ds["coordinate"].values]):
        torque = float(ds["generalized_force"].sel(coordinate=name).values[used].mean()) / reference.mass
        sides.setdefault(_without_side(name), []).append(torque * _sense(ds, name))
    return {name: float(np.mean(values)) for name, values in sides.items()}


def mean_solution(reference: Reference, mean: MeanAnswer) -> scoring.Solution:
    """A :class:`MeanAnswer` laid over the frames of a trial; its centre of pressure is unknown."""
    ds = reference.dataset
    force = np.broadcast_to(mean.force * [[1, 1, 1], [1, 1, -1]] * reference.mass, (ds.sizes["time"], 2, 3))
    solution = _turn(force, _heading(reference))
    torque = None
    if reference.has_torque:
        names = [str(c) for c in ds["coordinate"].values]
        constant = [mean.torque.get(_without_side(n), 0.0) * _sense(ds, n) * reference.mass for n in names]
        torque = np.broadcast_to(constant, (ds.sizes["time"], len(names))).astype(float)
    return scoring.Solution(solution, np.full_like(solution, np.nan), torque)


def _without_side(coordinate: str) -> str:
    return coordinate.removesuffix("_r").removesuffix("_l")


def _sense(ds: xr.Dataset, coordinate: str) -> float:
    """-1 for a knee that bends towards negative angles, as some models have it; 1 otherwise."""
    if not coordinate.startswith("knee_angle"):
        return 1.0
    return 1.0 if float(np.nanmean(ds["coordinate_value"].sel(coordinate=coordinate).values)) >= 0 else -1.0


def _heading(reference: Reference) -> float:
    """Mean heading of the pelvis about the vertical [rad], 0 along x; NaN where no kinematics tell."""
    ds = reference.dataset
    if "coordinate_value" not in ds or "pelvis_rotation" not in ds["coordinate"].values:
        return math.nan
    angle = ds["coordinate_value"].sel(coordinate="pelvis_rotation").values
    angle = angle[np.isfinite(angle)]
    return float(np.arctan2(np.sin(angle).mean(), np.cos(angle).mean())) if angle.size else math.nan


def _turn(force: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    """Turn horizontal components about the vertical; drop them where the heading is unknown."""
    c, s = (math.cos(angle), math.sin(angle)) if math.isfinite(angle) else (0.0, 0.0)
    x, y, z = force[..., 0], force[..., 1], force[..., 2]
    return np.stack([c * x + s * z, y, -s * x + c * z], axis=-1)


def feet_array(values: xr.DataArray) -> NDArray[np.float64]:
    """Values ``(time, foot, axis)`` of a reference as a plain array, right foot first."""
    array: NDArray[np.float64] = values.sel(foot=list(FEET)).transpose("time", "foot", "axis").values.astype(float)
    return array
