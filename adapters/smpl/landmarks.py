"""Where on the skin of an SMPL body a laboratory would put its markers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imdy_plugin.adapters.smpl.topology import JOINTS

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Place:
    """A landmark of the right side, or of the midline.

    Attributes
    ----------
    body
        The body that it moves with: the bone below it, not the skin.
    joint, toward, share
        A point at this share of the way from one joint to another.
    offset
        From there to the skin in the T-pose, forward, up and right [m], of a person whose legs (hip to ankle) are 0.8 m long.
    smpl, smplx
        Vertex of the meshes of SMPL and SMPL+H (6,890 vertices), and of SMPL-X (10,475), or -1; and those of the left side.
    """

    body: str
    joint: str
    offset: tuple[float, float, float]
    smpl: int = -1
    smplx: int = -1
    left_smpl: int = -1
    left_smplx: int = -1
    toward: str = ""
    share: float = 0.0


SMPL_VERTICES, SMPLX_VERTICES = 6890, 10475
"""Numbers of vertices by which the meshes are known."""

MIDLINE: Mapping[str, Place] = {
    "C7": Place("spine3", "neck", (-0.06, 0.02, 0.0), 3470, 3832),
    "T10": Place("spine2", "spine3", (-0.12, -0.02, 0.0), 3016, 5623),
    "CLAV": Place("spine3", "neck", (0.07, -0.07, 0.0), 3171, 5533),
    "STRN": Place("spine3", "spine3", (0.12, 0.02, 0.0), 3506, 5531),
    "SACR": Place("pelvis", "pelvis", (-0.12, 0.03, 0.0), 3022),
}
"""Landmarks of the midline. The vertices are those at which MoSh (Loper et al. 2014, ACM Trans Graph 33:220) places its markers."""

SIDED: Mapping[str, Place] = {
    "FHD": Place("head", "head", (0.09, 0.10, 0.05), 3512, 2198, 0, 707),
    "BHD": Place("head", "head", (-0.09, 0.10, 0.05), 3694, 3066, 182, 2026),
    "SHO": Place("collar", "shoulder", (0.0, 0.06, 0.0), 5322, 6627, 1861, 4481),
    "UPA": Place("shoulder", "shoulder", (0.0, 0.05, 0.0), 4918, 6777, 1443, 4030, "elbow", 0.5),
    "ELB": Place("shoulder", "elbow", (0.0, 0.04, 0.0), 5135, 7040, 1666, 4302),
    "MELBOW": Place("shoulder", "elbow", (0.0, -0.04, 0.0), 5194, 7099, 1725, 4363),
    "WRA": Place("elbow", "wrist", (0.03, 0.0, 0.0), 5573, 7462, 2112, 4726),
    "WRB": Place("elbow", "wrist", (-0.03, 0.0, 0.0), 5568, 7458, 2108, 4722),
    "ASI": Place("pelvis", "pelvis", (0.10, 0.05, 0.12), 4343, 6248, 857, 3486),
    "PSI": Place("pelvis", "pelvis", (-0.12, 0.06, 0.05), 6544, 8391, 3122, 5697),
    "THI": Place("hip", "hip", (0.0, 0.0, 0.08), 4927, 6832, 1454, 4088, "knee", 0.4),
    "KNE": Place("hip", "knee", (0.0, 0.02, 0.06), 4538, 6443, 1053, 3682),
    "MKNEE": Place("hip", "knee", (0.0, 0.02, -0.06), 4544, 6449, 1058, 3688),
    "TIB": Place("knee", "knee", (0.0, 0.0, 0.05), 4598, 6503, 1112, 3745, "ankle", 0.4),
    "ANK": Place("knee", "ankle", (0.0, 0.0, 0.04), 6728, 8576, 3327, 5882),
    "MANKLE": Place("knee", "ankle", (0.0, 0.0, -0.04), 6832, 8680, 3432, 8892),
    "HEE": Place("ankle", "ankle", (-0.06, -0.03, 0.0), 6786, 8634, 3387, 8846),
    "MT5": Place("ankle", "foot", (0.0, -0.01, 0.045), 6747, 8595, 3346, 5901),
    "MT1": Place("ankle", "foot", (0.02, -0.01, -0.04), 6736, -1, 3336, -1),
    "TOE": Place("ankle", "foot", (0.02, 0.02, 0.0), 6633, 8481, 3233, 5787),
}
"""Landmarks of the right side, without it; names as the table of the learned solver knows them."""

FARTHEST = 0.15
"""How far a vertex of the tables may lie from where its landmark is expected [m], of a person whose legs are 0.8 m long."""

_LEG = 0.8


def skin_markers(vertices: Array, joints: Array) -> tuple[dict[str, tuple[str, Array]], str]:
    """Markers on the skin.

    Parameters
    ----------
    vertices, joints
        Skin ``(vertex, 3)`` and the 24 joints ``(24, 3)`` in the T-pose, in the ground frame's axes [m].

    Returns
    -------
    dict
        By name the body and the place in it [m].
    str
        How they were found. The vertices of the tables are taken where the mesh is one of theirs and they lie within
        :data:`FARTHEST` of where the landmark is expected; else the vertex next to that place.
    """
    scale = float(np.linalg.norm(joints[JOINTS.index("right_ankle")] - joints[JOINTS.index("right_hip")])) / _LEG
    markers, by_table = {}, 0
    for name, body, expected, index in _expected(len(vertices), joints, scale):
        in_table = index >= 0 and float(np.linalg.norm(vertices[index] - expected)) < FARTHEST * scale
        chosen = index if in_table else int(np.argmin(np.linalg.norm(vertices - expected, axis=1)))
        by_table += in_table
        markers[name] = (body, vertices[chosen] - joints[JOINTS.index(body)])
    return markers, f"{len(markers)} markers on the skin, {by_table} at the vertices of the table, the others at the vertex next to the landmark"


def _expected(count: int, joints: Array, scale: float) -> list[tuple[str, str, Array, int]]:
    found = [_place(name, place, "", joints, scale, _vertex(place, count, left=False)) for name, place in MIDLINE.items()]
    for name, place in SIDED.items():
        found += [_place(side[0].upper() + name, place, side, joints, scale, _vertex(place, count, left=side == "left")) for side in ("right", "left")]
    return found


def _vertex(place: Place, count: int, *, left: bool) -> int:
    tables = {SMPL_VERTICES: (place.smpl, place.left_smpl), SMPLX_VERTICES: (place.smplx, place.left_smplx)}
    return tables[count][left] if count in tables else -1


def _place(name: str, place: Place, side: str, joints: Array, scale: float, vertex: int) -> tuple[str, str, Array, int]:
    body, joint = _on(side, place.body), _on(side, place.joint)
    at = joints[JOINTS.index(joint)]
    if place.toward:
        at = at + place.share * (joints[JOINTS.index(_on(side, place.toward))] - at)
    mirror = np.array([1.0, 1.0, -1.0 if side == "left" else 1.0])
    return name, body, at + scale * mirror * np.array(place.offset), vertex


def _on(side: str, part: str) -> str:
    return f"{side}_{part}" if f"{side}_{part}" in JOINTS else part
