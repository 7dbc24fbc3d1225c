"""What is recorded of simulated people, and the store that keeps it.

A record is an :class:`xarray.Dataset` of one episode: one person who imitates one clip once. Its frames are the instants at which
the imitator commands; what a frame says of forces holds at the beginning of the step that follows it. All is in the ground frame
(x forward, y up, z right); rotations turn a body against its parent, angular velocities and torques are along the axes of the
turned body. A record is a lawful motion (:func:`imdy_plugin.schema.validate_motion`) with more variables, see :data:`VARIABLES`.

The store is a folder with one Zarr group for each episode, each in a ZIP file of its own. An episode appears in it complete or not
at all: it is written beside and renamed, under a lock that the system frees when its owner dies. So any number of processes may
collect into one store, be killed, and go on. Without this package, ``xarray.open_zarr(zarr.storage.ZipStore(path, mode="r"))``
reads an episode.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.errors import FileFormatError, InputError, UnknownNameError
from imdy_plugin.schema import AXES, validate_model
from imdy_plugin.sim.dynamics import BodyTree, place, quaternions, rotation_vectors, tree_of
from imdy_plugin.sim.zarr_writer import FixedPoint, write_group

Array = NDArray[np.float64]

Arrays = Mapping[str, NDArray[Any]]
"""Variables of a record by name."""


@dataclass(frozen=True)
class Variable:
    """One variable of a record: its dimensions after time, its unit, what it is, and how it is rounded (None: as it is)."""

    dims: tuple[str, ...]
    units: str
    meaning: str
    rounding: FixedPoint | None = None


_BODY, _JOINT = ("body", "axis"), ("joint", "axis")

VARIABLES: dict[str, Variable] = {
    "root_position": Variable(("axis",), "m", "place of the root body's joint", FixedPoint(26, 2)),
    "rotation": Variable(_BODY, "rad", "rotation vector of each body against its parent", FixedPoint(26, 2, True)),
    "root_velocity": Variable(("axis",), "m/s", "velocity of the root body's joint", FixedPoint(22, 1)),
    "angular_velocity": Variable(_BODY, "rad/s", "of each body against its parent, along the body's axes", FixedPoint(22, 1, True)),
    "root_acceleration": Variable(("axis",), "m/s^2", "rate of root_velocity over the first physics step after the frame", FixedPoint(20)),
    "angular_acceleration": Variable(_BODY, "rad/s^2", "rate of angular_velocity over the first physics step after the frame", FixedPoint(16, 1, True)),
    "torque": Variable(
        ("substep", *_JOINT), "N m", "torque that acted in each physics step after the frame, along the axes of the child body", FixedPoint(11, 1, True)
    ),
    "angular_impulse": Variable(_JOINT, "N m s", "torque summed over the time to the next frame", FixedPoint(9, 1)),
    "ground_force": Variable(_BODY, "N", "force of the ground at the frame", FixedPoint(14)),
    "center_of_pressure": Variable(_BODY, "m", "point of the ground where that force acts", FixedPoint(20)),
    "free_moment": Variable(_BODY, "N m", "moment of the ground about that point", FixedPoint(13)),
    "mean_ground_force": Variable(_BODY, "N", "force of the ground, mean over the time to the next frame", FixedPoint(10)),
    "mean_center_of_pressure": Variable(_BODY, "m", "point of the ground where the mean force acts", FixedPoint(16)),
    "mean_free_moment": Variable(_BODY, "N m", "moment of the ground about that point, mean over the time to the next frame", FixedPoint(10)),
    "marker_position": Variable(("marker", "axis"), "m", "place of each landmark", FixedPoint(13, 2)),
    "target": Variable(_JOINT, "rad", "rotation vector that the joint's control was set to, noise included", FixedPoint(9, 1)),
    "reference_root_position": Variable(("axis",), "m", "root_position of the motion that is imitated", FixedPoint(13, 2)),
    "reference_rotation": Variable(_BODY, "rad", "rotation of the motion that is imitated", FixedPoint(12, 2, True)),
    "joint_error": Variable((), "m", "distance of the joints from the reference's, mean over the joints", FixedPoint(17, 2)),
    "residual_force": Variable((), "body weight", "largest force that the equations of motion leave unexplained"),
    "residual_moment": Variable((), "body weight x body height", "largest moment that the equations of motion leave unexplained"),
    "failed": Variable((), "", "the person is no longer imitating: too far from the reference, now or before"),
    "valid": Variable((), "", "the equations of motion hold with nothing but torques of the joints, ground and gravity"),
}
"""Variables of a record; time is the first dimension of each."""

ROUNDING = {name: v.rounding for name, v in VARIABLES.items() if v.rounding is not None}

_SUFFIX, _PERSON, _PARTIAL, _MANIFEST = ".zarr.zip", "person.json.gz", ".partial", "manifest.json"


@dataclass(frozen=True)
class Episode:
    """What one person did, as the simulation numbers bodies and joints (:class:`imdy_plugin.interfaces.Simulation`).

    Attributes
    ----------
    bodies
        Names in the order of the arrays, root first.
    time, position, velocity, target, reference
        At each frame: time [s], state, command and the position that is imitated.
    acceleration, torque, ground_force, ground_moment, mean_ground_force, mean_ground_moment
        What :class:`imdy_plugin.interfaces.StepRecord` says of the step after each frame, time first.
    timestep
        Length of a physics step [s].
    """

    bodies: tuple[str, ...]
    time: Array
    position: Array
    velocity: Array
    target: Array
    reference: Array
    acceleration: Array
    torque: Array
    ground_force: Array
    ground_moment: Array
    mean_ground_force: Array
    mean_ground_moment: Array
    timestep: float

    def part(self, frames: slice) -> Episode:
        """Some frames of it."""
        chosen: dict[str, Any] = {name: value[frames] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return replace(self, **chosen)


def record_of(episode: Episode, person: xr.Dataset, attrs: Mapping[str, Any]) -> xr.Dataset:
    """The record of an episode, rounded as it will be stored; what validity adds is still missing.

    Parameters
    ----------
    episode
        What happened.
    person
        The person's model; its order of bodies is the record's.
    attrs
        Provenance.
    """
    return record_from(episode_arrays(episode, person, tree_of(person)), episode.time, person, attrs)


def record_from(arrays: Arrays, time: Array, person: xr.Dataset, attrs: Mapping[str, Any]) -> xr.Dataset:
    """A record of some of :data:`VARIABLES`, bodies and joints in the order of the model."""
    bodies = [str(b) for b in person["body"].values]
    coords = {
        "time": ("time", time, {"units": "s"}),
        "body": bodies,
        "joint": bodies[1:],
        "axis": list(AXES),
        "marker": [str(m) for m in person["marker"].values],
    }
    return xr.Dataset(_described(arrays), coords, dict(attrs))


def with_variables(record: xr.Dataset, arrays: Arrays) -> xr.Dataset:
    """The record with more of :data:`VARIABLES`."""
    return record.assign(_described(arrays))


def _described(arrays: Arrays) -> dict[str, xr.Variable]:
    made = {}
    for name, values in arrays.items():
        variable = VARIABLES[name]
        said = {"long_name": variable.meaning} | ({"units": variable.units} if variable.units else {})
        made[name] = xr.Variable(("time", *variable.dims), values, said)
    return made


def rounded(arrays: Arrays) -> dict[str, NDArray[Any]]:
    """Variables as they will be read from the store."""
    return {name: ROUNDING[name].rounded(values) if name in ROUNDING else values for name, values in arrays.items()}


def arrays_in(record: xr.Dataset) -> dict[str, NDArray[Any]]:
    """The variables of a record as plain arrays."""
    return {str(name): variable.values for name, variable in record.variables.items() if name in VARIABLES}


def episode_arrays(episode: Episode, person: xr.Dataset, tree: BodyTree) -> dict[str, NDArray[Any]]:
    """What an episode gives of :data:`VARIABLES`, rounded, bodies and joints in the order of the person's tree."""
    order = [episode.bodies.index(body) for body in tree.bodies]
    carriers = np.array([tree.bodies.index(str(b)) for b in person["marker_body"].values], dtype=np.intp)
    turned = episode.position[:, 3:].reshape(len(episode.time), -1, 4)[:, order]
    placed = place(tree, np.concatenate([episode.position[:, :3], _flat(turned)], axis=1))
    markers = placed.points(carriers, person["marker_location"].values)
    return rounded(_kinematics(episode, order) | _kinetics(episode, order) | {"marker_position": markers})


def _kinematics(episode: Episode, order: list[int]) -> dict[str, Array]:
    frames = len(episode.time)
    spins = {name: getattr(episode, name)[:, 3:].reshape(frames, -1, 3)[:, order] for name in ("velocity", "acceleration")}
    return {
        "root_position": episode.position[:, :3],
        "rotation": _rotations(episode.position)[:, order],
        "root_velocity": episode.velocity[:, :3],
        "angular_velocity": spins["velocity"],
        "root_acceleration": episode.acceleration[:, :3],
        "angular_acceleration": spins["acceleration"],
        "target": episode.target.reshape(frames, -1, 3)[:, [i - 1 for i in order[1:]]],
        "reference_root_position": episode.reference[:, :3],
        "reference_rotation": _rotations(episode.reference)[:, order],
    }


def _kinetics(episode: Episode, order: list[int]) -> dict[str, Array]:
    frames, substeps = episode.torque.shape[:2]
    torque = episode.torque.reshape(frames, substeps, -1, 3)[:, :, [i - 1 for i in order[1:]]]
    arrays = {"torque": torque, "angular_impulse": torque.sum(axis=1) * episode.timestep}
    for prefix in ("", "mean_"):
        force, moment = (getattr(episode, f"{prefix}ground_{kind}")[:, order] for kind in ("force", "moment"))
        arrays |= _applied(prefix, force, moment)
    return arrays


def _applied(prefix: str, force: Array, moment: Array) -> dict[str, Array]:
    """Force, centre of pressure and free moment of loads ``(time, body, 3)`` with the moment about the ground's origin.

    The free moment is taken about the centre as it is stored, so that the three say the same however they are rounded.
    """
    names = [f"{prefix}{name}" for name in ("ground_force", "center_of_pressure", "free_moment")]
    force = ROUNDING[names[0]].rounded(force)
    touches = force[..., 1] > 0
    upward = np.where(touches, force[..., 1], 1.0)
    point = np.stack([moment[..., 2] / upward, np.zeros_like(upward), -moment[..., 0] / upward], axis=-1) * touches[..., None]
    point = ROUNDING[names[1]].rounded(point)
    return dict(zip(names, (force, point, moment - cross(point, force)), strict=True))


def cross(a: Array, b: Array) -> Array:
    """Cross products along the last of three or more dimensions; several times faster than numpy's own."""
    (x, y, z), (u, v, w) = np.moveaxis(a, -1, 0), np.moveaxis(b, -1, 0)
    return np.stack([y * w - z * v, z * u - x * w, x * v - y * u], axis=-1)


def _rotations(position: Array) -> Array:
    return rotation_vectors(position[:, 3:].reshape(len(position), -1, 4))


def position_of(record: xr.Dataset | Arrays, prefix: str = "") -> Array:
    """Place and quaternions (scalar first) in one array, ``(time, coordinate)``, bodies in the record's order; with ``"reference_"`` those imitated."""
    return np.concatenate([np.asarray(record[f"{prefix}root_position"]), _flat(quaternions(np.asarray(record[f"{prefix}rotation"])))], axis=1)


def velocity_of(record: xr.Dataset | Arrays) -> Array:
    """Velocities in one array, ``(time, velocity)``, bodies in the record's order."""
    return np.concatenate([np.asarray(record["root_velocity"]), _flat(np.asarray(record["angular_velocity"]))], axis=1)


def acceleration_of(record: xr.Dataset | Arrays) -> Array:
    """Accelerations in one array, ``(time, velocity)``, bodies in the record's order."""
    return np.concatenate([np.asarray(record["root_acceleration"]), _flat(np.asarray(record["angular_acceleration"]))], axis=1)


def _flat(values: Array) -> Array:
    return values.reshape(len(values), -1)


def episode_name(key: Mapping[str, Any]) -> str:
    """Name of the episode that ``key`` (clip, imitator, backend, variation, seed) describes: legible, and never the same for two keys."""
    digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True, default=str).encode()).hexdigest()[:10]
    words = [re.sub(r"[^A-Za-z0-9_.+]+", "_", str(key[k])) for k in ("clip", "imitator", "variation")]
    return "-".join([*words, digest])


class RecordStore:
    """A folder of episodes.

    Parameters
    ----------
    folder
        Where they are, or will be.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def names(self) -> list[str]:
        """Names of the complete episodes."""
        return sorted(p.name.removesuffix(_SUFFIX) for p in self.folder.glob(f"*{_SUFFIX}"))

    def __contains__(self, name: str) -> bool:
        return self.path(name).is_file()

    def path(self, name: str) -> Path:
        """File of an episode, whether it is there or not."""
        return self.folder / f"{name}{_SUFFIX}"

    def attrs(self, name: str) -> dict[str, Any]:
        """Provenance and figures of an episode, without opening its arrays."""
        with self._reading(name) as archive:
            read: dict[str, Any] = json.loads(archive.read(".zattrs"))
        return read

    def open(self, name: str) -> xr.Dataset:
        """The record of an episode, read as it is used."""
        from zarr.storage import ZipStore

        with self._reading(name):
            record: xr.Dataset = xr.open_zarr(ZipStore(self.path(name), mode="r"), consolidated=True, chunks=None)
        return record

    def person(self, name: str) -> xr.Dataset:
        """The model of an episode's person."""
        with self._reading(name) as archive:
            return person_from_json(gzip.decompress(archive.read(_PERSON)).decode("utf-8"))

    @contextmanager
    def _reading(self, name: str) -> Iterator[zipfile.ZipFile]:
        """An existing episode's file, where anything that is wrong with it is told with its name."""
        if name not in self:
            raise UnknownNameError("episode", name, self.names(), hint=f"(store {self.folder})")
        try:
            with zipfile.ZipFile(self.path(name)) as archive:
                yield archive
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, KeyError) as error:
            raise FileFormatError(self.path(name), f"is no complete episode ({error})", "delete the file and collect again") from error

    @contextmanager
    def claimed(self, name: str) -> Iterator[bool]:
        """Whether the episode is this process's to collect: not there yet, and claimed by nobody who lives.

        The claim lasts as long as the context; the system ends it when the process dies.
        """
        with _exclusive(self.folder / _PARTIAL / f"{name}.lock") as owned:
            yield owned and name not in self

    def write(self, name: str, record: xr.Dataset, person: xr.Dataset) -> Path:
        """Add a complete episode; call it within :meth:`claimed`."""
        model = gzip.compress(person_to_json(person).encode("utf-8"), compresslevel=3, mtime=0)
        write_group(self._unfinished(name), record, ROUNDING, {_PERSON: model})
        return self._unfinished(name).rename(self.path(name))

    def copy(self, other: RecordStore, name: str) -> None:
        """Add an episode of another store."""
        with self.claimed(name) as ours:
            if ours:
                shutil.copyfile(other.path(name), self._unfinished(name))
                self._unfinished(name).rename(self.path(name))

    def _unfinished(self, name: str) -> Path:
        return self.folder / _PARTIAL / f"{name}{_SUFFIX}"

    def clean(self) -> None:
        """Remove what killed processes left behind."""
        for lock in sorted((self.folder / _PARTIAL).glob("*.lock")):
            with _exclusive(lock) as owned:
                if owned:
                    self._unfinished(lock.stem).unlink(missing_ok=True)

    def manifest(self) -> dict[str, dict[str, Any]]:
        """What is in the store: attributes of each episode by name, from the episodes themselves."""
        return {name: self.attrs(name) for name in self.names()}

    def write_manifest(self) -> Path:
        """Write :meth:`manifest` beside the episodes, for people and other tools; nothing here reads it."""
        path, unfinished = self.folder / _MANIFEST, self.folder / _PARTIAL / _MANIFEST
        with _exclusive(self.folder / _PARTIAL / "manifest.lock", wait=True):
            unfinished.write_text(json.dumps(self.manifest(), indent=1, sort_keys=True), encoding="utf-8")
            return unfinished.rename(path)


def open_store(folder: str | os.PathLike[str]) -> RecordStore:
    """An existing store.

    Raises
    ------
    InputError
        The folder does not exist or holds no episode.
    """
    store = RecordStore(folder)
    if not store.names():
        raise InputError(f"{folder} holds no episodes; 'imdy collect --out {folder}' makes some")
    return store


def person_to_json(person: xr.Dataset) -> str:
    """A model as JSON, no number changed."""
    return json.dumps(person.to_dict(), sort_keys=True)


def person_from_json(text: str) -> xr.Dataset:
    """The model that :func:`person_to_json` wrote."""
    person = xr.Dataset.from_dict(json.loads(text))
    validate_model(person)
    return person


@contextmanager
def _exclusive(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Whether a lock file could be locked; it is removed by whoever locked it.

    With ``wait`` it always can, as soon as the others are done.
    """
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
                owned = path.exists() and os.path.samestat(os.fstat(lock.fileno()), path.stat())
            except (BlockingIOError, FileNotFoundError):
                owned = False
            if wait and not owned:
                continue
            try:
                yield owned
            finally:
                if owned:
                    path.unlink(missing_ok=True)
            return
