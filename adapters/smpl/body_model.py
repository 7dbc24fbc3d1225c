"""Body models of the SMPL family (Loper et al. 2015; Romero et al. 2017; Pavlakos et al. 2019) from files that the user holds.

The files are those of the ``smplx`` package, as .npz. They come under their own licences and are not part of this package; pickled
ones are turned into .npz by ``imdy convert-body``. Of a model the shape is used: skin, joints and which body moves which skin. Masses,
centres of mass and inertias are those of what the skin encloses.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from imdy_plugin.adapters.smpl.dataset import smpl_model_dataset
from imdy_plugin.adapters.smpl.landmarks import skin_markers
from imdy_plugin.adapters.smpl.npz import list_npz, read_npz
from imdy_plugin.adapters.smpl.solid import Solid, close_holes, cut, enclosed_solid, repeated_edges
from imdy_plugin.adapters.smpl.topology import FROM_SMPL, JOINTS, PARENTS
from imdy_plugin.errors import DataWarning, FileFormatError, InputError

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

DENSITY = 985.0
"""Mean density of the body with air in its lungs [kg/m^3], from which the mass comes where nobody says it: people just float."""

LARGEST_REMAINDER = 0.01
"""Share of the volume that may be no body's without a warning."""

_KINDS = {24: "SMPL", 52: "SMPL+H", 55: "SMPL-X"}
"""Family member by its number of joints."""

_HANDS = {24: (22, 23), 52: (25, 40), 55: (28, 43)}
"""Joints that stand for the hands: their own, or the root of the middle finger."""

_SHAPES_OF_SMPLX, _WITHOUT_EXPRESSIONS = 300, 400
_MEMBERS = ("v_template", "shapedirs", "J_regressor", "kintree_table", "weights", "f")


@dataclass(frozen=True)
class SmplBodyModel:
    """A body model as its file holds it, in SMPL's axes (x left, y up, z forward) [m].

    Attributes
    ----------
    name, kind
        Name of the file, and ``"SMPL"``, ``"SMPL+H"`` or ``"SMPL-X"``.
    template
        Skin of the mean shape in the T-pose, ``(vertex, 3)``.
    directions
        How each shape component moves it, ``(vertex, 3, component)``.
    regressor
        Joints from the skin, ``(joint, vertex)``.
    parents
        Index of each joint's parent, -1 for the root.
    weights
        How much each joint moves each vertex, ``(vertex, joint)``.
    faces
        Corners of the triangles, ``(face, 3)``.
    """

    name: str
    kind: str
    template: Array
    directions: Array
    regressor: Array
    parents: tuple[int, ...]
    weights: Array
    faces: Indices

    def shape(self, betas: ArrayLike | None = None) -> tuple[Array, Array]:
        """Skin ``(vertex, 3)`` and joints ``(joint, 3)`` of a shape in the T-pose, in SMPL's axes [m].

        Parameters
        ----------
        betas
            Shape components, ``(component,)``; the mean shape where None. Fewer than the model has stand for zeros in the others.

        Raises
        ------
        InputError
            There are more than the model has, or they are no row of finite numbers.
        """
        given = self.checked_betas(betas)
        vertices = self.template + self.directions[:, :, : len(given)] @ given
        return vertices, self.regressor @ vertices

    def checked_betas(self, betas: ArrayLike | None) -> Array:
        """Shape components as a row; see :meth:`shape`."""
        given = np.zeros(0) if betas is None else np.asarray(betas, float)
        count = self.directions.shape[2]
        row = given[0] if given.ndim == 2 and len(given) == 1 else given
        if row.ndim != 1 or not np.isfinite(row).all():
            raise InputError(f"betas have shape {given.shape}; give a row of at most {count} finite numbers")
        if len(row) > count:
            raise InputError(
                f"betas have shape {given.shape}, but the shapes of {self.kind} model '{self.name}' are {self.directions.shape}: it has {count} components; "
                f"give the first {count}, or the file with all of them"
            )
        return np.asarray(row)

    def joints(self, betas: ArrayLike | None = None) -> Array:
        """The 24 joints of a shape in the T-pose, in the ground frame's axes [m], ``(24, 3)``."""
        return np.asarray(self.shape(betas)[1][list(self._joint_numbers())] @ FROM_SMPL.T)

    def body_weights(self) -> Array:
        """How much each of the 24 bodies moves each vertex, ``(vertex, 24)``: fingers count as the hand, jaw and eyes as the head."""
        merged = np.zeros((len(self.template), len(JOINTS)))
        for joint, body in enumerate(self._bodies()):
            merged[:, body] += self.weights[:, joint]
        return merged

    def _joint_numbers(self) -> tuple[int, ...]:
        return (*range(22), *_HANDS[len(self.parents)])

    def _bodies(self) -> list[int]:
        """Body of each joint."""
        found: list[int] = []
        hands = {JOINTS.index("left_wrist"): JOINTS.index("left_hand"), JOINTS.index("right_wrist"): JOINTS.index("right_hand")}
        for joint, parent in enumerate(self.parents):
            inherited = found[parent] if parent >= 0 else 0
            found.append(joint if joint < 22 else hands.get(inherited, inherited))
        return found


@dataclass(frozen=True)
class SmplBody:
    """Whose body a model file is to show: handed to :func:`imdy_plugin.solve` in the place of the file.

    Attributes
    ----------
    path
        The body model, a .npz file in the layout of the ``smplx`` package.
    betas
        Shape components; the mean shape where None.
    mass
        Body mass [kg]; where None it is estimated from the volume.
    gender
        ``"male"``, ``"female"``, ``"neutral"`` or None.
    """

    path: str | os.PathLike[str]
    betas: ArrayLike | None = None
    mass: float | None = None
    gender: str | None = None

    def load(self) -> xr.Dataset:
        """The person's model (:func:`body_dataset`)."""
        return body_dataset(load_body_model(self.path), self.betas, self.mass, self.gender)


def load_body_model(path: str | os.PathLike[str]) -> SmplBodyModel:
    """Read a body model.

    Parameters
    ----------
    path
        A .npz file of SMPL, SMPL+H or SMPL-X with the arrays ``v_template``, ``shapedirs``, ``J_regressor``, ``kintree_table``,
        ``weights`` and ``f``.

    Raises
    ------
    FileFormatError
        It is a pickle (which is never opened here), a motion, cut short, holds Python objects in the place of arrays, lacks an array,
        or its arrays do not fit each other.
    """
    if str(path).lower().endswith((".pkl", ".pickle")):
        raise FileFormatError(path, "is a pickle, which can run code when it is opened", f"turn it into .npz: imdy convert-body {path}")
    arrays = read_npz(path, _MEMBERS)
    lacking = [name for name in _MEMBERS if name not in arrays]
    if lacking:
        members = list_npz(path)
        fix = "give it as the motion (coordinates=...)" if "poses" in members else "give the .npz of SMPL, SMPL+H or SMPL-X"
        raise FileFormatError(path, f"lacks {', '.join(lacking)} of a body model; it holds {', '.join(members[:12])}", fix)
    _check_numbers(path, arrays)
    _check_shapes(path, arrays)
    count = arrays["weights"].shape[1]
    parents = _parents(path, arrays["kintree_table"], count)
    directions = np.asarray(arrays["shapedirs"], float)[:, :, : _shape_count(count, arrays["shapedirs"].shape[2])]
    template, regressor, weights = (np.asarray(arrays[name], float) for name in ("v_template", "J_regressor", "weights"))
    return SmplBodyModel(Path(path).stem, _KINDS[count], template, directions, regressor, parents, weights, np.asarray(arrays["f"]).astype(np.int64))


def body_dataset(model: SmplBodyModel, betas: ArrayLike | None = None, mass: float | None = None, gender: str | None = None) -> xr.Dataset:
    """A person with the shape of a body model, as a model of the common representation.

    Parameters
    ----------
    model
        The body model.
    betas
        Shape components; see :meth:`SmplBodyModel.shape`.
    mass
        Body mass [kg]; where None it is :data:`DENSITY` times the volume, and ``attrs["mass_source"]`` says so.
    gender
        ``"male"``, ``"female"``, ``"neutral"`` or None.

    Returns
    -------
    xarray.Dataset
        A model with the 24 bodies (:func:`~imdy_plugin.adapters.smpl.dataset.smpl_model_dataset`), of uniform density.
        ``attrs["betas"]`` and ``attrs["volume"]`` [m^3] tell the shape, ``attrs["pelvis_in_file"]`` where the pelvis joint is in
        the file's T-pose, in SMPL's axes [m].

    Raises
    ------
    InputError
        The shape has too many components, the mass is not positive, or a body owns no skin.
    """
    if mass is not None and not (np.isfinite(mass) and mass > 0):
        raise InputError(f"the mass is {mass} kg; give a positive number of kilograms, or None to estimate it from the volume")
    given = model.checked_betas(betas)
    vertices = model.shape(given)[0] @ FROM_SMPL.T
    joints = model.joints(given)
    solids, volume, note = _solids(model, vertices, joints)
    total = mass if mass is not None else DENSITY * volume
    density = total / sum(solid.volume for solid in solids)
    markers, found = skin_markers(vertices, joints)
    origin = "given" if mass is not None else f"estimated from {1000 * volume:.1f} l at {DENSITY:g} kg/m^3"
    components = model.directions.shape[2]
    padded = f"; {len(given)} of {components} shape components given, the others are zero" if len(given) < components else ""
    told = {"source": f"{model.kind} body model {model.name}", "betas": given.tolist(), "volume": volume, "mass_source": origin}
    told["pelvis_in_file"] = model.shape(given)[1][0].tolist()
    return smpl_model_dataset(
        name=model.name,
        offsets=_offsets(joints),
        body_mass=[density * solid.volume for solid in solids],
        center_of_mass=[solid.center - joint for solid, joint in zip(solids, joints, strict=True)],
        inertia=[density * solid.inertia[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]] for solid in solids],
        markers=markers,
        soles=_soles(vertices, joints, np.argmax(model.body_weights(), axis=1)),
        height=float(np.ptp(vertices[:, 1])),
        sex=gender if gender in ("male", "female") else "",
        attrs={
            "source": f"{model.kind} body model {model.name}",
            "betas": given.tolist(),
            "volume": volume,
            "mass_source": origin,
            "pelvis_in_file": model.shape(given)[1][0].tolist(),
        },
        log=f"{model.kind} body model {model.name}: mass {total:.4g} kg {origin}{padded}; {found}{note}",
    )


def _check_numbers(path: object, arrays: dict[str, NDArray[Any]]) -> None:
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise FileFormatError(path, f"'{name}' of type {array.dtype} holds what is no finite number", "get it from its maker again")


def _check_shapes(path: object, arrays: dict[str, NDArray[Any]]) -> None:
    shapes = {name: array.shape for name, array in arrays.items()}
    vertices, joints = shapes["v_template"][:1], shapes["weights"][1:]
    fits = shapes["v_template"][1:] == (3,) and len(shapes["shapedirs"]) == 3 and shapes["shapedirs"][:2] == (*vertices, 3)
    fits = fits and shapes["weights"] == (*vertices, *joints) and shapes["J_regressor"] == (*joints, *vertices)
    fits = fits and shapes["kintree_table"] == (2, *joints) and len(shapes["f"]) == 2 and shapes["f"][1] == 3
    if not fits:
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        fix = "of v vertices and j joints: v_template (v, 3), shapedirs (v, 3, n), J_regressor (j, v), kintree_table (2, j), weights (v, j), f (n, 3)"
        raise FileFormatError(path, f"the arrays do not fit each other: {found}", fix)
    if joints[0] not in _KINDS:
        known = ", ".join(f"{count} ({kind})" for count, kind in _KINDS.items())
        raise FileFormatError(path, f"has {joints[0]} joints; known are {known}", "give SMPL, SMPL+H or SMPL-X")
    if arrays["f"].min() < 0 or arrays["f"].max() >= vertices[0]:
        raise FileFormatError(path, f"faces name vertices up to {arrays['f'].max()}, there are {vertices[0]}", "get it from its maker again")


def _parents(path: object, table: NDArray[Any], count: int) -> tuple[int, ...]:
    parents = [-1, *(int(parent) for parent in table[0][1:])]
    if any(not 0 <= parent < joint for joint, parent in enumerate(parents) if joint) or tuple(parents[:22]) != PARENTS[:22]:
        raise FileFormatError(path, f"joints hang on {parents}, not as in the SMPL family", "give SMPL, SMPL+H or SMPL-X")
    return tuple(parents)


def _shape_count(joints: int, components: int) -> int:
    """Number of shape components; SMPL-X keeps its expressions behind them: 300 and 100, or 10 and 10."""
    if _KINDS[joints] != "SMPL-X":
        return components
    return _SHAPES_OF_SMPLX if components >= _WITHOUT_EXPRESSIONS else min(components, 10) if components <= 20 else components


def _offsets(joints: Array) -> Array:
    return np.array([np.zeros(3) if parent < 0 else joints[joint] - joints[parent] for joint, parent in enumerate(PARENTS)])


def _solids(model: SmplBodyModel, vertices: Array, joints: Array) -> tuple[list[Solid], float, str]:
    """The 24 bodies, the volume of them all, and what was done to close the skin."""
    branching = repeated_edges(model.faces)
    if branching:
        text = f"the skin of '{model.name}' has {branching} edges with more than one face on a side, where what it encloses is not clear"
        warnings.warn(f"{text}; masses are not to be trusted", DataWarning, stacklevel=4)
    closed, faces, holes = close_holes(vertices, model.faces)
    whole = enclosed_solid(closed[faces])
    if whole.volume <= 0:
        raise InputError(f"the skin of '{model.name}' encloses {whole.volume:.3g} m^3: it is turned inside out; give an unchanged model file")
    weights = model.body_weights()
    rims = np.zeros((holes, weights.shape[1]))
    for hole in range(holes):
        around = faces[(faces == len(vertices) + hole).any(axis=1)]
        rims[hole] = weights[around[around < len(vertices)]].mean(axis=0)
    found = cut(closed, faces, np.vstack([weights, rims]), lambda one, other: _cut_point(one, other, joints))
    lacking = [JOINTS[body] for body in range(len(JOINTS)) if body not in found or found[body].volume <= 0]
    if lacking:
        raise InputError(f"the bodies {', '.join(lacking)} of '{model.name}' own no skin, so their masses are not known; give an unchanged model file")
    solids = [found[body] for body in range(len(JOINTS))]
    remainder = 1.0 - sum(solid.volume for solid in solids) / whole.volume
    if abs(remainder) > LARGEST_REMAINDER:
        text = f"{100 * remainder:.1f} % of the volume of '{model.name}' is in none of its 24 bodies, which share its mass by their volumes"
        warnings.warn(f"{text}; the skin is cut unusually", DataWarning, stacklevel=4)
    return solids, whole.volume, f"; {holes} holes of the skin closed" if holes else ""


def _cut_point(one: int, other: int, joints: Array) -> Array:
    """The joint between two bodies; the middle of all joints on the way where they are no neighbours."""
    ancestors = [_up(one), _up(other)]
    between = set(ancestors[0]) ^ set(ancestors[1])
    return np.asarray(joints[sorted(between)].mean(axis=0))


def _up(body: int) -> list[int]:
    found = []
    while body >= 0:
        found.append(body)
        body = PARENTS[body]
    return found


def _soles(vertices: Array, joints: Array, owner: Indices) -> dict[str, Array]:
    """Points of the soles in their bodies: heel and ball, each inside and outside, and the toes with their tip, on the lowest skin."""
    feet = {side: [JOINTS.index(f"{side}_{part}") for part in ("ankle", "foot")] for side in ("left", "right")}
    level = min(float(vertices[np.isin(owner, bodies), 1].min()) for bodies in feet.values())
    soles = {}
    for side, (ankle, toe) in feet.items():
        along = (joints[toe] - joints[ankle]) * [1.0, 0.0, 1.0]
        reach = float(np.linalg.norm(along))
        forward = along / reach
        outward = np.array([-forward[2], 0.0, forward[0]]) * (1.0 if side == "right" else -1.0)
        skin = vertices[np.isin(owner, [ankle, toe])] - joints[ankle]
        back, tip = float((skin @ forward).min()), float((skin @ forward).max())
        inner, outer = float((skin @ outward).min()), float((skin @ outward).max())
        down = (level - joints[ankle][1]) * np.array([0.0, 1.0, 0.0])

        def at(distance: float, aside: float, forward: Array = forward, outward: Array = outward, down: Array = down) -> Array:
            return distance * forward + aside * outward + down

        soles[f"{side}_ankle"] = np.array([at(back, 0.6 * inner), at(back, 0.6 * outer), at(reach, inner), at(reach, outer)])
        toes = np.array([at(reach + 0.6 * (tip - reach), 0.8 * inner), at(reach + 0.5 * (tip - reach), 0.8 * outer), at(tip, 0.2 * inner)])
        soles[f"{side}_foot"] = toes - (joints[toe] - joints[ankle])
    return soles
