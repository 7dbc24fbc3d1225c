"""Where the root is, from markers alone: rigid alignment, and the coordinates of a root joint that make a pose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imdy_plugin.solvers.multibody.tree import Mover, Tree

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_FLAT = 1e-6
"""Second singular value [m^2] below which points lie on a line and tell no rotation."""


def align(local: FloatArray, measured: FloatArray) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Rotations ``(frame, 3, 3)`` and origins ``(frame, 3)`` that bring points nearest to where they were measured (Kabsch 1976).

    Parameters
    ----------
    local
        Points in their body ``(point, 3)`` [m].
    measured
        ``(frame, point, 3)`` [m], NaN where missing.

    Returns
    -------
    rotation, origin, known
        ``known (frame,)`` says where three points or more, not in line, are seen.
    """
    seen: BoolArray = np.isfinite(measured).all(axis=2)  # type: ignore[assignment]
    count = np.maximum(seen.sum(axis=1), 1)[:, None]
    target = np.where(seen[:, :, None], measured, 0.0)
    here, there = (seen @ local) / count, target.sum(axis=1) / count
    spread = np.einsum("fpi,fpj->fij", np.where(seen[:, :, None], local - here[:, None], 0.0), target - there[:, None])
    left, size, right = np.linalg.svd(spread)
    sign = np.linalg.det(left @ right)
    right[:, 2] *= sign[:, None]
    rotation = np.swapaxes(left @ right, 1, 2)
    return rotation, there - np.einsum("fij,fj->fi", rotation, here), (seen.sum(axis=1) >= 3) & (size[:, 1] > _FLAT)


@dataclass(frozen=True)
class RootJoint:
    """A joint to ground whose coordinates follow from a pose in closed form: three rotations about orthogonal axes, three translations."""

    turning: tuple[Mover, Mover, Mover]
    sliding: tuple[Mover, Mover, Mover]
    offset: FloatArray
    child_offset: FloatArray
    child_rotation: FloatArray

    @classmethod
    def of(cls, tree: Tree, body: int) -> RootJoint | None:
        """The root joint of a body, or None where its coordinates do not follow so."""
        movers = [m for m in tree.movers if m.body == body]
        turning, sliding = ([m for m in movers if m.rotates is kind] for kind in (True, False))
        plain = all(m.is_identity for m in movers) and all(np.allclose(m.frame, np.eye(3)) for m in turning[1:])
        square = len(turning) == 3 and len(sliding) == 3 and all(np.allclose(a.T @ a, np.eye(3)) for a in (_axes(turning), _axes(sliding)))
        if tree.parent[body] != -1 or not (plain and square):
            return None
        return cls(
            (turning[0], turning[1], turning[2]),
            (sliding[0], sliding[1], sliding[2]),
            tree.offset[body],
            tree.child_offset[body],
            tree.child_rotation[body],
        )

    def angles(self, rotation: FloatArray) -> FloatArray:
        """Angles ``(frame, 3)`` of the joint's rotations for rotations of the body ``(frame, 3, 3)``, continuous in time, the first near zero."""
        axes = _axes(self.turning)
        plain = axes.T @ self.turning[0].frame.T @ rotation @ self.child_rotation.T @ axes
        middle = np.arcsin(np.clip(plain[:, 0, 2], -1.0, 1.0))
        first, last = np.arctan2(-plain[:, 1, 2], plain[:, 2, 2]), np.arctan2(-plain[:, 0, 1], plain[:, 0, 0])
        found = np.linalg.det(axes) * np.stack([first, middle, last], axis=1)
        return _continuous(found)

    def distances(self, rotation: FloatArray, origin: FloatArray) -> FloatArray:
        """Distances ``(frame, 3)`` of the joint's translations for poses of the body."""
        moved: FloatArray = (origin + rotation @ self.child_offset - self.offset) @ _axes(self.sliding)
        return moved

    @property
    def coordinates(self) -> tuple[list[int], list[int]]:
        """Indices of the coordinates of the rotations and of the translations."""
        turning, sliding = ([next(iter(m.weights)) for m in movers] for movers in (self.turning, self.sliding))
        return turning, sliding


def _axes(movers: tuple[Mover, ...] | list[Mover]) -> FloatArray:
    return np.stack([m.axis for m in movers], axis=1) if movers else np.zeros((3, 0))


def _continuous(angles: FloatArray) -> FloatArray:
    """Of the two sets of Euler angles of each rotation, and of their turns, those that follow on from the frame before."""
    out = angles.copy()
    before = np.zeros(3)
    for frame, found in enumerate(angles):
        other = found + np.pi * np.array([1.0, 0.0, 1.0])
        other[1] = np.pi - found[1]
        near = [before + (option - before + np.pi) % (2 * np.pi) - np.pi for option in (found, other)]
        before = out[frame] = min(near, key=lambda option: float(np.abs(option - before).sum()))
    return out
