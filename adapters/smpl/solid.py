"""Volume, centre and inertia of solids that a triangle mesh encloses, whole or cut into bodies.

A solid's integrals are sums over the tetrahedra between its triangles and one point (Lien and Kajiya 1984, IEEE Comput Graph Appl
4(10):35-42): exact for the polyhedron. A mesh is cut into bodies along the line on its surface where two bodies move the skin alike,
and from there inwards by the cone of that line to the joint between them. The bodies fill the solid without gap or overlap.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

Apex = Callable[[int, int], Array]
"""Where the cut between two bodies has its point [m], ``(3,)``, by their numbers."""


@dataclass(frozen=True)
class Solid:
    """Integrals of a solid of density one.

    Attributes
    ----------
    volume
        [m^3].
    first
        Integral of the place, ``(3,)`` [m^4].
    second
        Integral of the place's outer product with itself, ``(3, 3)`` [m^5].
    """

    volume: float
    first: Array
    second: Array

    @property
    def center(self) -> Array:
        """Centre of the volume, ``(3,)`` [m]."""
        return np.asarray(self.first / self.volume)

    @property
    def inertia(self) -> Array:
        """Moment of inertia about the centre, ``(3, 3)`` [m^5]."""
        about = self.second - self.volume * np.outer(self.center, self.center)
        return np.asarray(np.trace(about) * np.eye(3) - about)


def enclosed_solid(triangles: Array) -> Solid:
    """Integrals of what triangles ``(triangle, 3, 3)`` [m] enclose, corners anticlockwise when seen from outside."""
    determinant = np.einsum("ti,ti->t", triangles[:, 0], np.cross(triangles[:, 1], triangles[:, 2]))
    total = triangles.sum(axis=1)
    corners = np.einsum("t,tki,tkj->ij", determinant, triangles, triangles)
    second = (np.einsum("t,ti,tj->ij", determinant, total, total) + corners) / 120.0
    return Solid(float(determinant.sum() / 6.0), np.asarray(determinant @ total / 24.0), np.asarray(second))


def open_edges(faces: Indices) -> Indices:
    """Directed edges of a mesh ``(edge, 2)`` that no neighbouring face runs along in the other direction; none where it is closed."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    count = int(faces.max()) + 1
    forth, back = edges[:, 0] * count + edges[:, 1], edges[:, 1] * count + edges[:, 0]
    return edges[~np.isin(forth, back)]


def repeated_edges(faces: Indices) -> int:
    """Number of directed edges that more than one face runs along: of a mesh whose faces are not turned alike, or that branches."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    return len(edges) - len(np.unique(edges, axis=0))


def close_holes(vertices: Array, faces: Indices) -> tuple[Array, Indices, int]:
    """Close each hole of a mesh by a fan about the middle of its rim; returns vertices, faces and the number of holes."""
    edges = open_edges(faces)
    following = {int(a): int(b) for a, b in edges}
    holes = 0
    while following:
        rim = [next(iter(following))]
        while rim[-1] in following:
            rim.append(following.pop(rim[-1]))
        vertices = np.vstack([vertices, vertices[rim[:-1]].mean(axis=0)])
        fan = np.array([[b, a, len(vertices) - 1] for a, b in itertools.pairwise(rim)], dtype=np.int64)
        faces = np.vstack([faces, fan])
        holes += 1
    return vertices, faces, holes


def cut(vertices: Array, faces: Indices, weights: Array, apex: Apex) -> dict[int, Solid]:
    """Cut what a closed mesh encloses into bodies.

    Parameters
    ----------
    vertices, faces
        The mesh: ``(vertex, 3)`` [m] and ``(face, 3)``, corners anticlockwise when seen from outside.
    weights
        How much each body moves each vertex, ``(vertex, body)``; a vertex belongs to the body that moves it most.
    apex
        Where the cut between two bodies has its point. Where three bodies meet on the skin, their three points should lie on one line,
        else the tetrahedron between them and the skin is no one's.

    Returns
    -------
    dict
        For each body that owns skin its integrals.
    """
    owner = np.argmax(weights, axis=1)
    of_face = owner[faces]
    same = (of_face == of_face[:, :1]).all(axis=1)
    parts: dict[int, list[Array]] = {int(body): [vertices[faces[same & (of_face[:, 0] == body)]]] for body in np.unique(owner)}
    for face, owners in zip(faces[~same], of_face[~same], strict=True):
        for body, triangles in _cut_face(vertices[face], weights[face], owners, apex).items():
            parts[body].append(triangles)
    return {body: enclosed_solid(np.concatenate(triangles)) for body, triangles in parts.items()}


def _cut_face(corners: Array, weights: Array, owners: Indices, apex: Apex) -> Mapping[int, Array]:
    """Triangles of each body in a face whose corners belong to two or three bodies: its skin, and the walls below its edges."""
    alone = next((k for k in range(3) if owners[(k + 1) % 3] == owners[(k + 2) % 3]), None)
    if alone is None:
        return _cut_in_three(corners, weights, owners, apex)
    order = [alone, (alone + 1) % 3, (alone + 2) % 3]
    tip, left, right = corners[order]
    one, other = int(owners[order[0]]), int(owners[order[1]])
    a, b = (_meeting(corners, weights, order[0], k, one, other) for k in order[1:])
    point = apex(one, other)
    return {one: np.array([[tip, a, b], [b, a, point]]), other: np.array([[a, left, right], [a, right, b], [a, b, point]])}


def _cut_in_three(corners: Array, weights: Array, owners: Indices, apex: Apex) -> Mapping[int, Array]:
    bodies = [int(body) for body in owners]
    onward = [_meeting(corners, weights, k, (k + 1) % 3, bodies[k], bodies[(k + 1) % 3]) for k in range(3)]
    middle = np.mean(onward, axis=0)
    found = {}
    for k in range(3):
        following, before = bodies[(k + 1) % 3], bodies[k - 1]
        ahead, behind = apex(bodies[k], following), apex(bodies[k], before)
        skin = [[corners[k], onward[k], middle], [corners[k], middle, onward[k - 1]]]
        walls = [[middle, onward[k], ahead], [onward[k - 1], middle, behind], [middle, ahead, behind]]
        found[bodies[k]] = np.array(skin + walls)
    return found


def _meeting(corners: Array, weights: Array, first: int, second: int, one: int, other: int) -> Array:
    """The point on an edge where two bodies move the skin alike."""
    ahead = float(weights[first, one] - weights[first, other])
    behind = float(weights[second, other] - weights[second, one])
    share = 0.5 if ahead + behind <= 0.0 else ahead / (ahead + behind)
    return np.asarray(corners[first] + share * (corners[second] - corners[first]))
