"""The catalogue of recorded motions that simulated people imitate."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5netcdf  # type: ignore[import-untyped]
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.adapters.bvh import read_bvh
from imdy_plugin.adapters.opensim_model import OpenSimModelAdapter
from imdy_plugin.adapters.smpl.motion import BodyMotion
from imdy_plugin.errors import DataWarning, InputError
from imdy_plugin.sim.retarget import BODY_MASS_INDEX, retarget_bvh, retarget_coordinates
from imdy_plugin.sim.standin import build_standin

RATE = 60.0
"""Frames per second of a loaded clip [Hz]."""

CUTOFF = 10.0
"""Low-pass of the recorded motion [Hz]."""

HELD_OUT_PART = 10
"""One of so many clips of an activity is held out."""

EVALUATION_ONLY = ("hamner", "arnold")
"""Sources on which nothing is trained: no licence allows it, and an unseen laboratory is the honest test."""

_CMU_ACTIVITIES = {
    "01": "playground",
    "03": "uneven terrain",
    "05": "dance",
    "06": "basketball",
    "07": "walk",
    "08": "walk",
    "09": "run",
    "02_01": "walk",
    "02_02": "walk",
    "02_03": "run",
    "02_04": "jump",
    "02_05": "punch",
    "02_06": "scoop",
    "02_07": "swordplay",
    "02_08": "swordplay",
    "02_09": "swordplay",
    "02_10": "wash",
    "05_01": "walk",
    "06_01": "walk",
    "09_12": "navigate",
}
"""What the database's descriptions say, by subject or by trial."""


_CMU_UNSOUND = ("05_05", "05_06")
"""Feet that stand range over more than 12 cm in height, by what the joints' places say, and a leg snaps in up to half of the frames."""


@dataclass(frozen=True)
class Clip:
    """A recorded motion and the body that it fits.

    Attributes
    ----------
    name
        ``source/trial``.
    activity
        What the person does.
    person
        Who, ``source/subject``.
    source
        The data set.
    held_out
        Kept from all training of imitators, to see how they do on what they have not seen.
    may_train
        Whether its licence allows training on it, and it is not kept for evaluation alone.
    flat
        Whether the ground is level.
    touches_objects
        Whether the person holds, throws or leans on something that the simulation lacks.
    sound
        Whether the recorded skeleton holds together: feet that stand are on one floor, knees do not snap all the time.
    whole_body
        Whether trunk and arms were recorded; otherwise the trunk is upright and the arms hang.
    """

    name: str
    activity: str
    person: str
    source: str
    held_out: bool
    may_train: bool
    flat: bool
    touches_objects: bool
    _load: Callable[[], tuple[BodyMotion, xr.Dataset]]
    sound: bool = True
    whole_body: bool = True

    def load(self) -> tuple[BodyMotion, xr.Dataset]:
        """The motion at :data:`RATE` and the person's model."""
        motion, person = self._load()
        attrs = {**motion.attrs, "activity": self.activity, "person": self.person, "source": self.source}
        return replace(motion.resampled(RATE), name=self.name, attrs=attrs), person


def clips(data_dir: str | Path) -> list[Clip]:
    """Every clip of a data folder, by name.

    Raises
    ------
    InputError
        The folder holds none.
    """
    found = sorted([*_cmu_clips(Path(data_dir)), *_model_clips(Path(data_dir))], key=lambda clip: clip.name)
    if not found:
        raise InputError(f"{data_dir} holds no motion; give the data folder that has 'cmu_mocap/bvh' or 'references' in it")
    held = held_out({clip.name: f"{clip.source}/{clip.activity}" for clip in found})
    return [replace(clip, held_out=clip.name in held) for clip in found]


def held_out(kinds: Mapping[str, str]) -> set[str]:
    """Names of the clips that are held out: a tenth of each kind, chosen by a hash of the name; rare kinds are drawn from together.

    Parameters
    ----------
    kinds
        ``source/activity`` of each clip, by its name.
    """
    counts = Counter(kinds.values())
    strata: dict[str, list[str]] = {}
    for name, kind in kinds.items():
        common = counts[kind] >= HELD_OUT_PART // 2
        strata.setdefault(kind if common else kind.partition("/")[0], []).append(name)
    return {name for names in strata.values() for name in _tenth(names)}


def _tenth(names: Iterable[str]) -> list[str]:
    ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    least = 1 if len(ordered) >= HELD_OUT_PART // 2 else 0
    return ordered[: max(least, round(len(ordered) / HELD_OUT_PART))]


def _cmu_clips(data_dir: Path) -> list[Clip]:
    return [_cmu_clip(path) for path in sorted((data_dir / "cmu_mocap" / "bvh").glob("**/*.bvh"))]


def _cmu_clip(path: Path) -> Clip:
    trial = path.stem
    subject = trial.partition("_")[0]
    activity = _CMU_ACTIVITIES.get(trial, _CMU_ACTIVITIES.get(subject, "unknown"))
    return Clip(
        name=f"cmu/{trial}",
        activity=activity,
        person=f"cmu/{subject}",
        source="cmu",
        held_out=False,
        may_train=True,
        flat=activity not in ("uneven terrain",),
        touches_objects=activity in ("basketball", "swordplay", "playground"),
        _load=lambda: _load_bvh(path),
        sound=trial not in _CMU_UNSOUND,
    )


def _model_clips(data_dir: Path) -> list[Clip]:
    """Clips of the recordings whose joint coordinates are known: ``references/*.nc``."""
    found = []
    for path in sorted((data_dir / "references").glob("*.nc")):
        with h5netcdf.File(path, "r") as opened:  # xarray takes a tenth of a second for each
            if "coordinate_value" in opened.variables:
                found.append(_model_clip(data_dir, path, dict(opened.attrs), [_text(name) for name in opened.variables["coordinate"][:]]))
    return found


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _model_clip(data_dir: Path, path: Path, attrs: dict[str, Any], coordinates: list[str]) -> Clip:
    source, _, trial = path.stem.partition("__")
    person = f"{source}/{attrs['subject']}"
    return Clip(
        name=f"{source}/{trial}",
        activity=str(attrs["activity"]),
        person=person,
        source=source,
        held_out=False,
        may_train=source not in EVALUATION_ONLY,
        flat=True,
        touches_objects=attrs["activity"] == "sit_to_stand",
        _load=lambda: _load_coordinates(data_dir, path, person),
        whole_body=all(any(name.startswith(part) for name in coordinates) for part in ("lumbar_", "arm_")),
    )


def _load_coordinates(data_dir: Path, path: Path, person: str) -> tuple[BodyMotion, xr.Dataset]:
    with xr.open_dataset(path, engine="h5netcdf") as opened:
        reference = opened.load()
    known = reference.isel(time=_longest_run(np.isfinite(reference["coordinate_value"].values).all(axis=1)))
    model = OpenSimModelAdapter().load(data_dir / reference.attrs["model_path"]).dataset
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # coordinates that the published kinematics lack stay at their defaults
        motion, offsets = retarget_coordinates(model, known, belt_speed=-float(reference.attrs.get("belt_velocity_x", 0.0)), cutoff=CUTOFF)
    return motion, build_standin(mass=float(reference.attrs["mass"]), offsets=offsets, name=person.replace("/", "_"))


def _longest_run(known: NDArray[np.bool_]) -> slice:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(int)))
    if not len(edges):
        return slice(0, 0)
    start, stop = max(edges.reshape(-1, 2), key=lambda run: run[1] - run[0])
    return slice(int(start), int(stop))


def _load_bvh(path: Path) -> tuple[BodyMotion, xr.Dataset]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        bvh = read_bvh(path)
    motion, offsets = retarget_bvh(bvh, cutoff=CUTOFF, name=path.stem)
    mass = BODY_MASS_INDEX * motion.attrs["height"] ** 2
    return motion, build_standin(mass=mass, offsets=offsets, name=f"cmu_{path.stem.partition('_')[0]}")
