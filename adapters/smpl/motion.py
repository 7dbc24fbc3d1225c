"""Motion of the 24-joint body: where its pelvis is and how each joint is turned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp

from imdy_plugin.adapters.smpl.topology import JOINTS, MIRRORED, PARENTS
from imdy_plugin.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class BodyMotion:
    """Motion of the 24-joint body in the ground frame (x forward, y up, z right).

    Attributes
    ----------
    time
        Time stamps [s], evenly spaced, shape ``(time,)``.
    root_position
        Position of the pelvis joint [m], ``(time, 3)``.
    rotation_wxyz
        Unit quaternions, scalar first, that turn each joint's body against its parent's (the pelvis: against the ground),
        ``(time, 24, 4)``; all are the identity where the body stands in the T-pose, facing x.
    name
        What the motion is called, such as ``cmu/07_01``.
    attrs
        Whatever else is known: ``source``, ``activity``, ``person``, ``license``.
    """

    time: Array
    root_position: Array
    rotation_wxyz: Array
    name: str = ""
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.time)
        if self.root_position.shape != (n, 3) or self.rotation_wxyz.shape != (n, len(JOINTS), 4):
            raise InputError(
                f"motion '{self.name}': {n} time stamps, root_position {self.root_position.shape}, rotation_wxyz {self.rotation_wxyz.shape}; "
                f"must be ({n}, 3) and ({n}, {len(JOINTS)}, 4)"
            )
        if not (np.isfinite(self.root_position).all() and np.isfinite(self.rotation_wxyz).all()):
            raise InputError(f"motion '{self.name}' holds values that are not finite")

    def __len__(self) -> int:
        return len(self.time)

    @property
    def rate(self) -> float:
        """Frames per second [Hz]."""
        return float((len(self.time) - 1) / (self.time[-1] - self.time[0])) if len(self.time) > 1 else float("nan")

    @property
    def duration(self) -> float:
        """From the first to the last frame [s]."""
        return float(self.time[-1] - self.time[0])

    def resampled(self, rate: float) -> BodyMotion:
        """The motion at another rate [Hz]: rotations along the shortest arc, positions linearly."""
        count = int(np.floor(self.duration * rate + 1e-6)) + 1
        time = self.time[0] + np.arange(count) / rate
        time[-1] = min(time[-1], self.time[-1])
        position = np.stack([np.interp(time, self.time, p) for p in self.root_position.T], axis=-1)
        turned = [_wxyz(Slerp(self.time, _rotation(q))(time)) for q in np.moveaxis(self.rotation_wxyz, 1, 0)]
        return replace(self, time=self.time[0] + np.arange(count) / rate, root_position=position, rotation_wxyz=np.stack(turned, axis=1))

    def part(self, start: int, stop: int) -> BodyMotion:
        """Frames ``start`` to ``stop``, the latter left out."""
        chosen = slice(start, stop)
        return replace(self, time=self.time[chosen], root_position=self.root_position[chosen], rotation_wxyz=self.rotation_wxyz[chosen])

    def mirrored(self) -> BodyMotion:
        """The motion as seen in a mirror: left and right exchanged."""
        rotation = self.rotation_wxyz[:, list(MIRRORED)] * np.array([1.0, -1.0, -1.0, 1.0])
        return replace(self, root_position=self.root_position * np.array([1.0, 1.0, -1.0]), rotation_wxyz=rotation, name=f"{self.name}~mirrored")

    def placed(self, offset: Array) -> BodyMotion:
        """The motion moved by ``offset`` [m], shape ``(3,)``."""
        return replace(self, root_position=self.root_position + offset)


def global_rotations(motion: BodyMotion) -> Array:
    """Rotation matrices of the bodies against the ground, ``(time, 24, 3, 3)``."""
    local = _rotation(motion.rotation_wxyz.reshape(-1, 4)).as_matrix().reshape(len(motion), len(JOINTS), 3, 3)
    turned: Array = np.empty_like(local)
    for joint, parent in enumerate(PARENTS):
        turned[:, joint] = local[:, joint] if parent < 0 else turned[:, parent] @ local[:, joint]
    return turned


def joint_positions(motion: BodyMotion, offsets: Array) -> Array:
    """Positions of the joints [m], ``(time, 24, 3)``.

    Parameters
    ----------
    motion
        The motion.
    offsets
        Where each joint lies in its parent's body in the T-pose [m], ``(24, 3)``; the pelvis's row is not used.
    """
    turned = global_rotations(motion)
    placed = np.empty((len(motion), len(JOINTS), 3))
    for joint, parent in enumerate(PARENTS):
        placed[:, joint] = motion.root_position if parent < 0 else placed[:, parent] + turned[:, parent] @ offsets[joint]
    return placed


def _rotation(wxyz: Array) -> Rotation:
    return Rotation.from_quat(wxyz, scalar_first=True)


def _wxyz(rotation: Rotation) -> Array:
    return np.asarray(rotation.as_quat(scalar_first=True))
