"""Motions in files of one's own, as clips that can be imitated and collected."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from imdy_plugin.adapters.bvh import read_bvh
from imdy_plugin.adapters.smpl.amass import on_floor, read_amass
from imdy_plugin.adapters.smpl.body_model import body_dataset, load_body_model
from imdy_plugin.adapters.smpl.motion import BodyMotion
from imdy_plugin.errors import InputError
from imdy_plugin.sim.clips import CUTOFF, Clip, clips
from imdy_plugin.sim.floor import grounded
from imdy_plugin.sim.imitator.evaluation import choose_clips
from imdy_plugin.sim.retarget import BODY_MASS_INDEX, retarget_bvh
from imdy_plugin.sim.standin import build_standin

SUFFIXES = (".bvh", ".npz")
"""Kinds of files that are read: BVH skeletons, and AMASS or SMPL poses."""

STANDIN_HEIGHT = 1.70
"""Height of who imitates poses that come without a body [m]."""


@dataclass(frozen=True)
class FileClip:
    """A motion file, with the members of :class:`imdy_plugin.sim.clips.Clip`.

    Attributes
    ----------
    name
        ``folder/file``, without the suffix.
    path
        The file.
    body_model
        Body model in the smplx format for poses (:func:`imdy_plugin.adapters.smpl.body_model.load_body_model`); without one the stand-in
        of :data:`STANDIN_HEIGHT` imitates them.
    activity, person, source, held_out, may_train
        As for a clip; the folder is who moved.
    """

    name: str
    path: Path
    body_model: Path | None = None
    activity: str = "unknown"
    source: str = "files"
    held_out: bool = False
    may_train: bool = True

    @property
    def person(self) -> str:
        """The folder's name."""
        return f"{self.source}/{self.name.partition('/')[0]}"

    def load(self) -> tuple[BodyMotion, xr.Dataset]:
        """The motion, on the floor, and the person's model."""
        return self._load_bvh() if self.path.suffix.lower() == ".bvh" else self._load_poses()

    def _load_bvh(self) -> tuple[BodyMotion, xr.Dataset]:
        motion, offsets = retarget_bvh(read_bvh(self.path), cutoff=CUTOFF, name=self.name)
        person = build_standin(mass=BODY_MASS_INDEX * motion.attrs["height"] ** 2, offsets=offsets, name=self.person)
        return motion, person

    def _load_poses(self) -> tuple[BodyMotion, xr.Dataset]:
        if self.body_model is None:
            person = build_standin(STANDIN_HEIGHT, BODY_MASS_INDEX * STANDIN_HEIGHT**2, name=self.person)
            return grounded(read_amass(self.path), person), person
        told = read_amass(self.path, pelvis=(0.0, 0.0, 0.0)).attrs
        person = body_dataset(load_body_model(self.body_model), told.get("betas"), gender=told.get("gender")).assign_attrs(name=self.person)
        return on_floor(read_amass(self.path, person), person), person


def file_clips(paths: Iterable[str | Path], body_model: str | Path | None = None) -> list[FileClip]:
    """Clips of some files, and of all motion files in some folders.

    Raises
    ------
    InputError
        A path does not exist, is of an unknown kind, or two would have the same name.
    """
    model = None if body_model is None else Path(body_model).absolute()
    files = sorted({file.absolute() for path in paths for file in _files(Path(path))})
    found = [FileClip(f"{file.parent.name}/{file.stem}", file, model) for file in files]
    names = [clip.name for clip in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        where = ", ".join(str(clip.path) for clip in found if clip.name == twice[0])
        raise InputError(f"two files would both be called '{twice[0]}': {where}; rename a file or its folder")
    return found


def find_clips(
    paths: Sequence[str | Path],
    names: Sequence[str] = (),
    activities: Sequence[str] = (),
    *,
    body_model: str | Path | None = None,
    objects: bool = False,
) -> list[Clip] | list[FileClip]:
    """What is to be imitated: clips of a folder of recordings, or motion files.

    Parameters
    ----------
    paths
        One folder of recordings (:func:`imdy_plugin.sim.clips.clips`), or files and folders of them (:func:`file_clips`).
    names, activities
        Which clips of a folder of recordings, see :func:`imdy_plugin.sim.imitator.evaluation.choose_clips`.
    body_model
        As for :func:`file_clips`.
    objects
        Take clips with objects or uneven ground too, which the simulation lacks.

    Raises
    ------
    InputError
        Nothing is left.
    """
    if len(paths) != 1 or not any((Path(paths[0]) / part).is_dir() for part in ("cmu_mocap", "references")):
        return file_clips(paths, body_model)
    found = clips(paths[0])
    return choose_clips([c for c in found if objects or (c.flat and not c.touches_objects)], names, activities)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES]
        if not found:
            raise InputError(f"{path} holds no motion; files end in {', '.join(SUFFIXES)}")
        return found
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} is of an unknown kind; motion files end in {', '.join(SUFFIXES)}")
    return [path]
