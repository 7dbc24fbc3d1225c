"""What the legs of a simulated person carry while it walks, in the terms of a gait laboratory, to be laid over recorded walking.

Forces are in body weights: forward, up, and outward to the foot's own side. Moments are those that the muscles would exert, in newton metres to a
kilogram of body mass, about the mediolateral axis: the simulated torque's component along the axis that points to the right in the
parent's body (pelvis, thigh, shank). Extension of hip and knee and plantarflexion of the ankle are positive (Winter 2009, Biomechanics and motor control of
human movement).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d
from scipy.signal import butter, sosfiltfilt

from imdy_plugin.adapters.smpl.motion import BodyMotion, global_rotations
from imdy_plugin.adapters.smpl.topology import JOINTS, PARENTS
from imdy_plugin.errors import InputError
from imdy_plugin.schema import GRAVITY
from imdy_plugin.sim.dynamics import quaternions
from imdy_plugin.sim.imitator.evaluation import Imitated, foot_force
from imdy_plugin.sim.pictures import SIDES

Array = NDArray[np.float64]

LEG_JOINTS = ("hip", "knee", "ankle")

EXTENSION = {"hip": -1.0, "knee": 1.0, "ankle": -1.0}
"""Sense of extension (the ankle: plantarflexion) about the axis to the right."""

MOMENT_CUTOFF = 6.0
"""Low-pass of the simulated moments [Hz], the one behind recorded moments of walking: 4th order zero-lag Butterworth."""

_HEADING_SECONDS = 1.0


@dataclass(frozen=True)
class Walk:
    """Forces and moments of the legs of somebody who walks. Feet are right and left.

    Attributes
    ----------
    name, person
        Which trial, of whom.
    time
        Time stamps [s], ``(time,)``.
    force
        Force of the ground on each foot [body weights], ``(time, foot, 3)``: forward, up, outward.
    moment
        Moments of hip, knee and ankle [N m/kg], ``(time, foot, joint)``, extension and plantarflexion positive; NaN where unknown.
    mass
        Body mass [kg].
    speed
        Mean horizontal speed over the ground [m/s]; NaN where unknown, as on a treadmill.
    roughness
        Root mean square of what the low-pass took from the moments [N m/kg], ``(joint,)``; None where nobody knows.
    """

    name: str
    person: str
    time: Array
    force: Array
    moment: Array
    mass: float
    speed: float
    roughness: Array | None = None


def walk_of(imitated: Imitated, cutoff: float = MOMENT_CUTOFF) -> Walk:
    """The legs of an imitation; a value stands in the middle of its control step.

    Parameters
    ----------
    imitated
        The imitation.
    cutoff
        Low-pass of the moments [Hz].
    """
    force = np.stack([foot_force(imitated, side) for side in SIDES], axis=1)
    person = str(imitated.reference.attrs.get("person", imitated.person.attrs["name"]))
    return _walk(imitated.imitation, imitated.torque.mean(axis=1), force, person, imitated.mass, cutoff)


def walk_of_record(record: xr.Dataset, cutoff: float = MOMENT_CUTOFF) -> Walk:
    """The legs of a record of simulated people (:data:`imdy_plugin.sim.records.VARIABLES`).

    Parameters
    ----------
    record
        The record, with ``mass`` [kg], ``clip`` and ``person`` among its attributes; frames after a failure are left out.
    cutoff
        Low-pass of the moments [Hz].
    """
    failed = np.flatnonzero(record["failed"].values) if "failed" in record else np.empty(0, int)
    kept = record.isel(time=slice(0, int(failed[0]) if failed.size else None))
    joints = list(JOINTS)
    rotation = quaternions(kept["rotation"].sel(body=joints).transpose("time", "body", "axis").values)
    motion = BodyMotion(kept["time"].values, kept["root_position"].values, rotation, str(record.attrs["clip"]))
    torque = kept["torque"].mean("substep").sel(joint=joints[1:]).transpose("time", "joint", "axis").values[:-1]
    ground = kept["mean_ground_force"].transpose("time", "body", "axis")
    force = np.stack([ground.sel(body=[f"{side}_ankle", f"{side}_foot"]).sum("body").values[:-1] for side in SIDES], axis=1)
    return _walk(motion, torque, force, str(record.attrs["person"]), float(record.attrs["mass"]), cutoff)


def _walk(motion: BodyMotion, torque: Array, force: Array, person: str, mass: float, cutoff: float) -> Walk:
    if len(torque) < 16:
        raise InputError(f"motion '{motion.name}' was simulated for {len(torque)} steps only: too few for a step of a walk")
    raw = leg_moments(motion, torque) / mass
    smooth = low_pass(raw, motion.rate, cutoff)
    way = motion.root_position[-1] - motion.root_position[0]
    return Walk(
        name=motion.name,
        person=person,
        time=0.5 * (motion.time[1:] + motion.time[:-1]),
        force=in_heading(force, headings(motion)[:-1]) / (mass * GRAVITY),
        moment=smooth,
        mass=mass,
        speed=float(np.hypot(way[0], way[2]) / motion.duration),
        roughness=np.sqrt(((raw - smooth) ** 2).mean(axis=(0, 1))),
    )


def leg_moments(motion: BodyMotion, torque: Array) -> Array:
    """Moments about the mediolateral axes of the legs [N m], ``(step, foot, joint)``, extension and plantarflexion positive.

    Parameters
    ----------
    motion
        The motion that the torques drove, one frame longer than they.
    torque
        Torques of the joints but the root [N m], ``(step, 23, 3)``, along the axes of the joint's own body.
    """
    turned = global_rotations(motion)[:-1]
    moments = np.empty((len(torque), len(SIDES), len(LEG_JOINTS)))
    for foot, side in enumerate(SIDES):
        for number, joint in enumerate(LEG_JOINTS):
            child = JOINTS.index(f"{side}_{joint}")
            in_ground = np.einsum("tij,tj->ti", turned[:, child], torque[:, child - 1])
            moments[:, foot, number] = EXTENSION[joint] * np.einsum("ti,ti->t", turned[:, PARENTS[child], :, 2], in_ground)
    return moments


def low_pass(values: Array, rate: float, cutoff: float) -> Array:
    """Values ``(time, ...)`` through a 4th order zero-lag Butterworth filter of ``cutoff`` [Hz]."""
    sections = butter(2, cutoff, fs=rate, output="sos")
    return np.asarray(sosfiltfilt(sections, values, axis=0, padlen=min(15, len(values) - 1)))


def headings(motion: BodyMotion) -> Array:
    """Direction that the pelvis faces, over the ground and averaged over a second: unit vectors, ``(time, 3)``."""
    ahead = global_rotations(motion)[:, 0, :, 0] * np.array([1.0, 0.0, 1.0])
    width = max(1, round(_HEADING_SECONDS * motion.rate))
    ahead = uniform_filter1d(ahead, width, axis=0, mode="nearest")
    return np.asarray(ahead / np.maximum(np.linalg.norm(ahead, axis=-1, keepdims=True), 1e-9))


def in_heading(force: Array, ahead: Array) -> Array:
    """Forces of the right and the left foot ``(time, foot, 3)`` of the ground frame as forward, up and outward."""
    forward = np.einsum("tfi,ti->tf", force, ahead)
    right = np.stack([-ahead[:, 2], 0 * ahead[:, 0], ahead[:, 0]], axis=-1)
    rightward = np.einsum("tfi,ti->tf", force, right)
    return np.stack([forward, force[..., 1], rightward * np.array([1.0, -1.0])], axis=-1)
