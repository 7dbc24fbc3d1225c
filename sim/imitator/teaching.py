"""A teacher who reads from plans: for every frame a state, the command there, and how to change it when the person departs from it."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from imdy_plugin.adapters.smpl.motion import BodyMotion
from imdy_plugin.atomic import replacing
from imdy_plugin.errors import FileFormatError, InputError
from imdy_plugin.sim.imitator.base import Controller, Imitator
from imdy_plugin.sim.imitator.cloning import Demonstration
from imdy_plugin.sim.imitator.planning import Plan
from imdy_plugin.sim.imitator.reference import Reference

Array = NDArray[np.float64]

_ARRAYS = {"position": (99,), "velocity": (75,), "target": (69,), "gain": (69, 150)}


class PlanController(Controller):
    """Commands what a plan says, with its feedback."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def target(self, frame: int, position: Array, velocity: Array) -> Array:
        """The plan's command, and its gain times the departure from the plan; the last one holds after the end."""
        at = min(frame, len(self._plan.target) - 1)
        departure = departures(self._plan.position[at], self._plan.velocity[at], position, velocity)
        return np.asarray(self._plan.target[at] + self._plan.gain[at] @ departure)


class PlannedTeacher(Imitator):
    """Teaches the motions that a folder holds plans of, :func:`plan_path` by name.

    Parameters
    ----------
    folder
        Of the plans.
    """

    name: ClassVar[str] = "plans"

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def knows(self, name: str) -> bool:
        """Whether there is a plan of this motion."""
        return plan_path(self.folder, name).exists()

    def begin(self, person: xr.Dataset, reference: BodyMotion, seed: int = 0) -> Controller:
        """Read the plan of a motion."""
        return PlanController(read_plan(plan_path(self.folder, reference.name)))

    def demonstration(self, reference: Reference) -> Demonstration:
        """What the plan of a motion did.

        Raises
        ------
        InputError
            It is of a motion with fewer or more frames.
        """
        plan = read_plan(plan_path(self.folder, reference.name))
        if len(plan.position) > len(reference) or (plan.complete and len(plan.position) < len(reference)):
            raise InputError(f"the plan of '{reference.name}' has {len(plan.position)} frames, the motion {len(reference)}: it was made of another one")
        return Demonstration(reference, plan.position, plan.velocity, plan.target)


def plan_path(folder: str | Path, name: str) -> Path:
    """Where the plan of a motion lies: ``cmu/07_01`` in ``cmu__07_01.npz``."""
    return Path(folder) / f"{name.replace('/', '__')}.npz"


def write_plan(path: str | Path, plan: Plan) -> None:
    """Write a plan; gains in single precision."""
    with replacing(path) as temporary:
        np.savez(
            temporary, position=plan.position, velocity=plan.velocity, target=plan.target, gain=plan.gain.astype(np.float32), complete=np.array(plan.complete)
        )


def read_plan(path: str | Path) -> Plan:
    """Read what :func:`write_plan` wrote.

    Raises
    ------
    FileFormatError
        The file does not exist, is damaged, or holds something else.
    """
    fix = "write it again with write_plan"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in (*_ARRAYS, "complete") if name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FileFormatError(path, f"is no readable plan ({error})", fix) from error
    lacking = [name for name in (*_ARRAYS, "complete") if name not in arrays]
    if lacking:
        raise FileFormatError(path, f"lacks {', '.join(lacking)}", fix)
    frames = len(arrays["position"])
    for name, size in _ARRAYS.items():
        expected = (frames - (name in ("target", "gain")), *size)
        if arrays[name].shape != expected or not np.isfinite(arrays[name]).all():
            raise FileFormatError(path, f"{name} has shape {arrays[name].shape} or values that are not finite; must be {expected}", fix)
    return Plan(arrays["position"], arrays["velocity"], arrays["target"], arrays["gain"], bool(arrays["complete"]))


def departures(position: Array, velocity: Array, other_position: Array, other_velocity: Array) -> Array:
    """How far another state is from one, ``(150,)``: the pelvis's way [m], rotation vectors along the bodies' own axes [rad], and
    differences of the velocities."""
    turn = _rotations(position).inv() * _rotations(other_position)
    return np.concatenate([other_position[:3] - position[:3], turn.as_rotvec().ravel(), other_velocity - velocity])


def _rotations(position: Array) -> Rotation:
    return Rotation.from_quat(position[3:].reshape(-1, 4), scalar_first=True)
