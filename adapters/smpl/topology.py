"""The 24 joints of the SMPL body (Loper et al. 2015, ACM Trans Graph 34:248), and its axes.

SMPL looks along +z with y up and x to its left; the ground frame here is x forward, y up, z right. One constant turn about y,
:data:`FROM_SMPL`, leads from one to the other, for positions and for rotation vectors alike.
"""

from __future__ import annotations

import numpy as np

JOINTS = (
    "pelvis",
    "left_hip",
    "right_hip",
    "spine1",
    "left_knee",
    "right_knee",
    "spine2",
    "left_ankle",
    "right_ankle",
    "spine3",
    "left_foot",
    "right_foot",
    "neck",
    "left_collar",
    "right_collar",
    "head",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hand",
    "right_hand",
)
"""Names of the joints, and of the bodies that they carry, in the order of SMPL's files."""

PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
"""Index of each joint's parent, -1 for the pelvis."""

MIRRORED = tuple(
    JOINTS.index({"left": name.replace("left", "right", 1), "right": name.replace("right", "left", 1)}.get(name.split("_")[0], name)) for name in JOINTS
)
"""Index of the same joint on the other side of the body."""

FROM_SMPL = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
"""Turns a vector in SMPL's axes (x left, y up, z forward) into the ground frame's (x forward, y up, z right)."""
