"""The catalogue of recorded motions that simulated people imitate."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import xarray as xr

from imdy_plugin.adapters.bvh import read_bvh
from imdy_plugin.adapters.smpl.motion import BodyMotion
from imdy_plugin.errors import DataWarning, InputError
from imdy_plugin.sim.retarget import BODY_MASS_INDEX, retarget_bvh
from imdy_plugin.sim.standin import build_standin

RATE = 60.0
"""Frames per second of a loaded clip [Hz]."""

CUTOFF = 10.0
"""Low-pass of the recorded motion [Hz]."""

HELD_OUT_PART = 10
"""One of so many clips of an activity is held out."""

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
    found = sorted(_cmu_clips(Path(data_dir)), key=lambda clip: clip.name)
    if not found:
        raise InputError(f"{data_dir} holds no motion; give the data folder that has 'cmu_mocap/bvh' or 'references' in it")
    held = held_out({clip.name: clip.activity for clip in found})
    return [replace(clip, held_out=clip.name in held) for clip in found]


def held_out(activities: dict[str, str]) -> set[str]:
    """Names of a tenth of the clips of each activity (those of rare activities together), chosen by a hash of the name."""
    strata: dict[str, list[str]] = {}
    for name, activity in activities.items():
        common = sum(a == activity for a in activities.values()) >= HELD_OUT_PART // 2
        strata.setdefault(activity if common else "", []).append(name)
    return {name for names in strata.values() for name in _tenth(names)}


def _tenth(names: Iterable[str]) -> list[str]:
    ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return ordered[: max(1, round(len(ordered) / HELD_OUT_PART))]


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
    )


def _load_bvh(path: Path) -> tuple[BodyMotion, xr.Dataset]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        bvh = read_bvh(path)
    motion, offsets = retarget_bvh(bvh, cutoff=CUTOFF, name=path.stem)
    height = motion.attrs["height"]
    subject = path.stem.partition("_")[0]
    return motion, build_standin(height, BODY_MASS_INDEX * height**2, offsets=offsets, name=f"cmu_{subject}")
