"""A model as what a physics engine holds: rigid bodies in a tree, each carried by hinges and slides that move one after the other.

A joint whose axes each follow one coordinate in a straight line is such a chain exactly. One of splines (a knee) is not:
:func:`plain_model` puts the hinge in its place that comes nearest to it over a range of its coordinate.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.errors import DataWarning, InputError, UnknownNameError
from imdy_plugin.schema import add_log
from imdy_plugin.solvers.multibody.functions import PiecewisePolynomial
from imdy_plugin.solvers.multibody.tree import Mover, Tree, compile_tree, rotation_matrix

Array = NDArray[np.float64]

USUAL_RANGE = np.radians(70.0)
"""How far from its default a coordinate is followed where joints of splines are replaced [rad]; a knee bends so far in walking."""

_SAMPLES = 41

_COMPONENTS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))


@dataclass(frozen=True)
class Degree:
    """One degree of freedom: a hinge, or a slide, along an axis of the body that it carries.

    Attributes
    ----------
    coordinate
        Its name in the model.
    slides
        Whether it moves along its axis [m], or turns about it [rad].
    axis
        Unit axis ``(3,)`` in the body's frame, as it lies where this and all later ones of the joint are zero.
    """

    coordinate: str
    slides: bool
    axis: Array


@dataclass(frozen=True)
class Link:
    """A rigid body and what carries it.

    Attributes
    ----------
    name
        Of the body.
    parent
        Index of the link that it hangs on, -1 for the ground.
    position, rotation
        Of its frame in the parent's where its coordinates are zero: ``(3,)`` [m] and ``(3, 3)``.
    anchor
        The joint's centre in the body, through which all hinge axes go ``(3,)`` [m].
    degrees
        Slides first, then hinges in the order in which they turn, each with the later ones.
    mass, center_of_mass, inertia
        [kg], ``(3,)`` [m] in the body, ``(3, 3)`` about it in the body's axes [kg m^2].
    """

    name: str
    parent: int
    position: Array
    rotation: Array
    anchor: Array
    degrees: tuple[Degree, ...]
    mass: float
    center_of_mass: Array
    inertia: Array


def links_of(model: xr.Dataset) -> tuple[Link, ...]:
    """The bodies of a plain model, parents before children.

    Raises
    ------
    InputError
        An axis follows its coordinate in a curve, or with a slope that is neither 1 nor -1, or it follows several coordinates, or a
        coordinate is locked or follows others; the message names it and says what to do.
    """
    _refuse_unplain(model)
    tree = compile_tree(model)
    order = _from_ground(tree.parent)
    place = {body: index for index, body in enumerate(order)}
    names = [str(n) for n in model["coordinate"].values]
    return tuple(_link(model, tree, body, -1 if tree.parent[body] < 0 else place[tree.parent[body]], names) for body in order)


def inertia_matrices(model: xr.Dataset) -> Array:
    """Inertia of each body about its centre of mass ``(body, 3, 3)`` [kg m^2]."""
    matrices = np.empty((model.sizes["body"], 3, 3))
    for column, (i, j) in enumerate(_COMPONENTS):
        matrices[:, i, j] = matrices[:, j, i] = model["body_inertia"].values[:, column]
    return matrices


def _refuse_unplain(model: xr.Dataset) -> None:
    names = [str(n) for n in model["coordinate"].values]
    held = [n for n, locked, text in zip(names, model["coordinate_locked"].values, model["coordinate_coupling"].values, strict=True) if locked or str(text)]
    if held:
        raise InputError(f"coordinate(s) {', '.join(held)} are locked or follow others; plain_model fixes them")


def _from_ground(parents: list[int]) -> list[int]:
    """Bodies in an order in which each comes after the one that it hangs on."""
    order: list[int] = []
    while len(order) < len(parents):
        order += [body for body, parent in enumerate(parents) if body not in order and (parent < 0 or parent in order)]
    return order


def _link(model: xr.Dataset, tree: Tree, body: int, parent: int, names: list[str]) -> Link:
    name = str(model["body"].values[body])
    position, rotation = tree.offset[body].copy(), np.eye(3)
    moved: list[tuple[Degree, Array]] = []
    for mover in (m for m in tree.movers if m.body == body):
        value, slope, coordinate = _line_of(mover, names, name)
        if mover.rotates:
            rotation = rotation @ mover.frame @ rotation_matrix(mover.axis, value)
            moved.append((Degree(coordinate, False, slope * mover.axis), rotation))
        else:
            position += value * mover.axis
            moved.append((Degree(coordinate, True, slope * mover.axis), np.eye(3)))
    rotation = rotation @ tree.child_rotation[body]
    degrees = tuple(Degree(d.coordinate, d.slides, rotation.T @ frame @ d.axis) for d, frame in moved)
    anchor = tree.child_offset[body]
    return Link(
        name=name,
        parent=parent,
        position=position - rotation @ anchor,
        rotation=rotation,
        anchor=anchor,
        degrees=degrees,
        mass=float(model["body_mass"].values[body]),
        center_of_mass=np.asarray(model["body_center_of_mass"].values[body], float),
        inertia=inertia_matrices(model)[body],
    )


def _line_of(mover: Mover, names: list[str], body: str) -> tuple[float, float, str]:
    line = mover.function.line
    [(index, weight), *others] = mover.weights.items()
    if others or line is None or abs(abs(line[1] * weight) - 1.0) > 1e-9:
        what = "a curve of" if line is None else "several coordinates," if others else f"{line[1] * weight:g} times"
        raise InputError(f"an axis of the joint of body '{body}' follows {what} '{names[index]}'; a hinge follows one coordinate as it is: use plain_model")
    return line[0], float(np.sign(line[1] * weight)), names[index]


# A plain model in place of another ------------------------------------------------------------------------------------------------


def plain_model(model: xr.Dataset, ranges: Mapping[str, tuple[float, float]] | None = None) -> xr.Dataset:
    """The model with hinges and slides only: what follows a curve, a lock or another coordinate is held where it is on average.

    A coordinate keeps the first axis that follows it one to one. Its other axes are held at their mean over the coordinate's range, and
    the centre of the hinge is put where the body's frame deviates least over that range. Coordinates that are locked are held at
    their defaults, those that follow others (a patella) at their mean. Masses stay; moments of inertia that no rigid body can have (the
    largest above the sum of the two others) have the largest lowered to that sum.

    Parameters
    ----------
    model
        Any model that the mechanics here can represent.
    ranges
        Lower and upper end [rad or m] over which a coordinate is averaged, by name; by default its range in the model, at most
        :data:`USUAL_RANGE` to both sides of its default.

    Returns
    -------
    xarray.Dataset
        A model with the same bodies and markers and the coordinates that are left.

    Raises
    ------
    InputError
        No axis follows a coordinate one to one.
    UnknownNameError
        ``ranges`` names a coordinate that the model lacks.

    Warns
    -----
    DataWarning
        Moments of inertia were changed.
    """
    names = [str(n) for n in model["coordinate"].values]
    for name in ranges or {}:
        if name not in names:
            raise UnknownNameError("coordinate", name, names, f"in the model '{model.attrs['name']}'")
    spans = _Spans.of(model, ranges or {})
    joints = [_plain_joint(model, joint, spans) for joint in range(model.sizes["joint"])]
    changed = {
        "joint_transform": np.array([json.dumps(j.transform) for j in joints]),
        "joint_parent_location": np.array([j.parent_location for j in joints]),
        "joint_child_location": np.array([j.child_location for j in joints]),
        "body_inertia": _possible_inertia(model),
    }
    free = [name not in spans.held for name in names]
    plain = model.assign({name: model[name].copy(data=values) for name, values in changed.items()}).isel(coordinate=np.flatnonzero(free))
    fixed = [name for name, kept in zip(names, free, strict=True) if not kept]
    return add_log(plain, f"joints made hinges and slides; fixed: {', '.join(fixed) or 'no coordinate'}")


@dataclass(frozen=True)
class _Spans:
    """Values of each coordinate over its range ``(sample,)``, and the names of those that are held at their mean."""

    values: dict[str, Array]
    held: frozenset[str]

    @classmethod
    def of(cls, model: xr.Dataset, ranges: Mapping[str, tuple[float, float]]) -> _Spans:
        names = [str(n) for n in model["coordinate"].values]
        values: dict[str, Array] = {}
        for index, name in enumerate(names):
            default = float(model["coordinate_default"].values[index])
            low, high = ranges.get(name, np.clip(model["coordinate_range"].values[index], default - USUAL_RANGE, default + USUAL_RANGE))
            values[name] = np.full(_SAMPLES, default) if model["coordinate_locked"].values[index] else np.linspace(low, high, _SAMPLES)
        for coupling in compile_tree(model).couplings:
            follower = sum(weight * values[names[leader]] for leader, weight in coupling.weights.items())
            values[names[coupling.follower]] = evaluate(coupling.function, np.asarray(follower))
        coupled = {names[c.follower] for c in compile_tree(model).couplings}
        return cls(values, frozenset(coupled | {n for n, locked in zip(names, model["coordinate_locked"].values, strict=True) if locked}))


def evaluate(function: PiecewisePolynomial, argument: Array) -> Array:
    """Values of a piecewise polynomial."""
    piece = np.searchsorted(function.breaks, argument, side="right")
    offset = argument - function.origins[piece]
    powers = offset[..., None] ** np.arange(function.coefficients.shape[1])
    return np.asarray((function.coefficients[piece] * powers).sum(axis=-1))


@dataclass(frozen=True)
class _PlainJoint:
    transform: dict[str, Any]
    parent_location: Array
    child_location: Array


def _plain_joint(model: xr.Dataset, joint: int, spans: _Spans) -> _PlainJoint:
    """The joint with constants and lines; its centre is moved where a curve of it was given up."""
    body = [str(b) for b in model["body"].values].index(str(model["joint_child"].values[joint]))
    tree = compile_tree(model)
    names = [str(n) for n in model["coordinate"].values]
    transform = json.loads(str(model["joint_transform"].values[joint]))
    movers = [m for m in tree.movers if m.body == body]
    curved = False
    for name, mover in _axes(transform, movers):
        leaders = [names[i] for i in mover.weights]
        kept = [leader for leader in leaders if leader not in spans.held]
        if kept and mover is _first_line(movers, names.index(kept[0])):
            continue
        if any(_first_line(movers, names.index(leader)) is None for leader in kept):
            raise InputError(f"no axis of the joint '{model['joint'].values[joint]}' follows '{kept[0]}' one to one, so that no hinge can stand in its place")
        curved = curved or bool(kept)
        argument = np.sum([weight * spans.values[names[i]] for i, weight in mover.weights.items()], axis=0)
        transform[name] |= {"coordinates": [], "function": {"type": "Constant", "value": float(evaluate(mover.function, argument).mean())}}
    parent = np.asarray(model["joint_parent_location"].values[joint], float)
    child = np.asarray(model["joint_child_location"].values[joint], float)
    made = _PlainJoint(transform, parent, child)
    return _recentred(model, joint, body, made, spans) if curved else made


def _axes(transform: Mapping[str, Any], movers: list[Mover]) -> list[tuple[str, Mover]]:
    return [(f"{'rotation' if mover.rotates else 'translation'}{mover.number + 1}", mover) for mover in movers]


def _first_line(movers: list[Mover], coordinate: int) -> Mover | None:
    """The mover that follows a coordinate alone and one to one, a rotation before a translation."""
    for mover in sorted(movers, key=lambda m: not m.rotates):
        line = mover.function.line
        if list(mover.weights) == [coordinate] and line is not None and abs(abs(line[1] * mover.weights[coordinate]) - 1.0) < 1e-9:
            return mover
    return None


def _recentred(model: xr.Dataset, joint: int, body: int, made: _PlainJoint, spans: _Spans) -> _PlainJoint:
    """Move the hinge's centre, in parent and child, to where the child's origin follows its curve best (least squares)."""
    names = [str(n) for n in model["coordinate"].values]
    tree, plain = compile_tree(model), _with_joint(model, joint, made)
    simple = compile_tree(plain)
    movers = [m for m in tree.movers if m.body == body]
    driven = {i for m in movers for i in m.weights}
    values = np.array([spans.values[n] if i in driven else np.zeros(_SAMPLES) for i, n in enumerate(names)])
    wanted, _ = joint_poses(tree, body, values)
    origin, rotation = joint_poses(simple, body, values)
    # origin + d - R c = wanted, for shifts d of the centre in the parent and c in the child
    left = np.concatenate([np.tile(np.eye(3), (_SAMPLES, 1, 1)), -rotation], axis=2).reshape(-1, 6)
    shift = np.linalg.lstsq(left, (wanted - origin).reshape(-1), rcond=1e-8)[0]
    return _PlainJoint(made.transform, made.parent_location + shift[:3], made.child_location + shift[3:])


def _with_joint(model: xr.Dataset, joint: int, made: _PlainJoint) -> xr.Dataset:
    transforms = model["joint_transform"].values.astype(object)
    transforms[joint] = json.dumps(made.transform)
    return model.assign(joint_transform=model["joint_transform"].copy(data=np.array(transforms, dtype=np.str_)))


def joint_poses(tree: Tree, body: int, values: Array) -> tuple[Array, Array]:
    """Place ``(sample, 3)`` and rotation ``(sample, 3, 3)`` of a body in the one that carries it, at values ``(coordinate, sample)``."""
    count = values.shape[1]
    position, rotation = np.tile(tree.offset[body], (count, 1)), np.tile(np.eye(3), (count, 1, 1))
    for mover in (m for m in tree.movers if m.body == body):
        argument = np.sum([weight * values[i] for i, weight in mover.weights.items()], axis=0)
        amount = evaluate(mover.function, argument)
        if mover.rotates:
            rotation = rotation @ mover.frame @ np.array([rotation_matrix(mover.axis, a) for a in amount])
        else:
            position = position + amount[:, None] * mover.axis
    rotation = rotation @ tree.child_rotation[body]
    return position - rotation @ tree.child_offset[body], rotation


def _possible_inertia(model: xr.Dataset) -> Array:
    """Inertia ``(body, 6)`` whose largest principal moment is at most the sum of the others."""
    matrices, changed = inertia_matrices(model), []
    for body, matrix in enumerate(matrices):
        moments, axes = np.linalg.eigh(matrix)
        if moments[2] > (moments[0] + moments[1]) * (1 + 1e-9):
            moments[2] = moments[0] + moments[1]
            matrices[body] = axes @ np.diag(moments) @ axes.T
            changed.append(str(model["body"].values[body]))
    if changed:
        warnings.warn(
            f"the moments of inertia of {', '.join(changed)} are those of no rigid body (the largest exceeds the sum of the others); the largest is "
            "lowered to that sum -- correct the model where this matters",
            DataWarning,
            stacklevel=3,
        )
    return np.stack([matrices[:, i, j] for i, j in _COMPONENTS], axis=1)
