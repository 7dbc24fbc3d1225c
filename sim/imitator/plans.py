"""Plans in a folder: each is made once, kept under a name that tells what it was made of, and lent to similar people.

A plan departs a little from its reference, and answers departures from itself. Both carry over to somebody a little taller, heavier or
with other proportions who does the same: the person's own reference takes the place of the old one, lengths grow with the path, times with
its root, and torques over stiffness with length (equal Froude numbers). What comes out is no plan any more, but feedback makes up for
what is wrong; whether it does shows in simulation.
"""

from __future__ import annotations

import glob
import hashlib
import os
import zipfile
from pathlib import Path

import numpy as np
import xarray as xr

from imdy_plugin.adapters.smpl.motion import BodyMotion
from imdy_plugin.adapters.smpl.topology import JOINTS, MIRRORED
from imdy_plugin.atomic import replacing
from imdy_plugin.errors import FileFormatError
from imdy_plugin.sim.humanoid import BODIES, departed, joint_angles, rotations_between, state_of
from imdy_plugin.sim.imitator.planning import Plan, PlanSettings, plan_motion

_ARRAYS = ("position", "velocity", "target", "gain")

_ALIKE = 0.05
"""Rotations of two references that are the same motion differ by less [rad, rms over joints and time]."""


class PlanFolder:
    """A folder of plans.

    Parameters
    ----------
    path
        The folder; it is made when the first plan is written.
    settings
        How plans are made.
    """

    def __init__(self, path: str | os.PathLike[str], settings: PlanSettings | None = None) -> None:
        self.path, self.settings = Path(path), settings or PlanSettings()

    def file(self, person: xr.Dataset, reference: BodyMotion) -> Path:
        """Where the plan of a motion is, or would be."""
        made_of = hashlib.sha256(repr(self.settings).encode())
        for name in ("body_mass", "body_center_of_mass", "body_inertia", "joint_parent_location"):
            made_of.update(np.ascontiguousarray(person[name].values, dtype="<f8").round(9).tobytes())
        for array in (reference.root_position, reference.rotation_wxyz):
            made_of.update(np.ascontiguousarray(array, dtype="<f8").round(7).tobytes())
        return self.path / f"{reference.name.replace('/', '__') or 'motion'}-{made_of.hexdigest()[:12]}.npz"

    def get(self, person: xr.Dataset, reference: BodyMotion) -> Plan:
        """The plan of a motion: read where there is one, lent by another person who does the same, or else made and written.

        Raises
        ------
        FileFormatError
            A file is damaged.
        """
        path = self.file(person, reference)
        if path.exists():
            return read_plan(path)[0]
        lent = self._lent(reference)
        return lent if lent is not None else write_plan(path, plan_motion(person, reference, self.settings), reference)

    def _lent(self, reference: BodyMotion) -> Plan | None:
        stem = reference.name.partition("~")[0].replace("/", "__")
        for path in sorted(self.path.glob(f"{glob.escape(stem)}-{'[0-9a-f]' * 12}.npz")) if stem else []:
            plan, before = read_plan(path)
            if "~mirrored" in reference.name:
                plan, before = mirrored_plan(plan), before.mirrored()
            lent = carried_over(plan, before, reference)
            if lent is not None:
                return lent
        return None


def carried_over(plan: Plan, before: BodyMotion, after: BodyMotion) -> Plan | None:
    """A plan for the reference ``before`` made to fit the reference ``after``, or None where that is another motion."""
    stretch = (len(after) - 1) / (len(before) - 1)
    old, old_velocity = state_of(before)
    new, new_velocity = state_of(after)
    frames = np.minimum(np.round(np.arange(len(after)) / stretch).astype(int), len(before) - 1)
    if not 0.8 < stretch < 1.25 or np.sqrt(np.mean(rotations_between(old[frames], new) ** 2)) > _ALIKE:
        return None
    kept = frames < len(plan.position)
    frames, new, new_velocity = frames[kept], new[kept], new_velocity[kept]
    length = stretch**2
    position = departed(new, old[frames], plan.position[frames], length)
    scale = np.concatenate([np.full(3, np.sqrt(length)), np.full(plan.velocity.shape[1] - 3, 1 / stretch)])
    velocity = new_velocity + (plan.velocity[frames] - old_velocity[frames]) * scale
    steps = np.minimum(frames[:-1], len(plan.target) - 1)
    own = joint_angles(plan.position[steps])
    target = joint_angles(position[:-1]) + (plan.target[steps] - own) * length
    by_position = np.concatenate([np.full(3, 1 / length), np.ones(len(scale) - 3)])
    gain = plan.gain[steps].astype(np.float32) * (length * np.concatenate([by_position, 1 / scale])).astype(np.float32)
    return Plan(position, velocity, target, gain, plan.complete)


def mirrored_plan(plan: Plan) -> Plan:
    """The plan as seen in a mirror."""
    order = [BODIES.index(JOINTS[MIRRORED[JOINTS.index(body)]]) for body in BODIES]
    turned = np.array([-1.0, -1.0, 1.0])
    quaternions = plan.position[:, 3:].reshape(len(plan.position), -1, 4)[:, order] * np.array([1.0, -1.0, -1.0, 1.0])
    position = np.concatenate([plan.position[:, :3] * (1.0, 1.0, -1.0), quaternions.reshape(len(plan.position), -1)], axis=1)
    joints = np.array([3 * (b - 1) + axis for b in order[1:] for axis in range(3)])
    state = np.concatenate([[0, 1, 2, 3, 4, 5], 6 + joints])
    signs = np.concatenate([[1.0, 1.0, -1.0], np.tile(turned, len(BODIES))])
    velocity, target = plan.velocity[:, state] * signs, plan.target[:, joints] * signs[6:]
    both = np.concatenate([state, len(state) + state])
    gain = plan.gain[:, joints][:, :, both] * (signs[6:, None] * np.tile(signs, 2)).astype(np.float32)
    return Plan(position, velocity, target, gain, plan.complete)


def write_plan(path: Path, plan: Plan, reference: BodyMotion) -> Plan:
    """Write a plan and its reference, gains at half precision; the plan is returned as it will be read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        gain = np.clip(plan.gain, -_HALF_MAX, _HALF_MAX).astype(np.float16)
        np.savez(
            file,
            position=plan.position,
            velocity=plan.velocity,
            target=plan.target,
            gain=gain,
            complete=plan.complete,
            time=reference.time,
            root_position=reference.root_position,
            rotation_wxyz=reference.rotation_wxyz,
            name=reference.name,
        )
    return read_plan(path)[0]


def read_plan(path: Path) -> tuple[Plan, BodyMotion]:
    """Read a plan and the reference that it was made for.

    Raises
    ------
    FileFormatError
        The file is no plan, or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            plan = Plan(**{name: file[name] for name in _ARRAYS}, complete=bool(file["complete"]))
            return plan, BodyMotion(file["time"], file["root_position"], file["rotation_wxyz"], str(file["name"]))
    except (OSError, EOFError, TypeError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise FileFormatError(path, f"is no plan, or damaged: {error}", "delete it and it is made again") from error


_HALF_MAX = float(np.finfo(np.float16).max)
