"""A body model compiled for batched mechanics: who hangs on whom, by which axes, driven by which coordinates.

Every joint is a chain of *movers*, each one axis with one function of the coordinates: first translations along axes fixed in
the parent, then body-fixed rotations, as in OpenSim's ``SpatialTransform``. What does not move is folded into constant frames.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.errors import InputError
from imdy_plugin.solvers.multibody.functions import PiecewisePolynomial, compile_function

FloatArray = NDArray[np.float64]

_ROTATIONS = ("rotation1", "rotation2", "rotation3")
_TRANSLATIONS = ("translation1", "translation2", "translation3")


@dataclass(frozen=True)
class Mover:
    """One axis of a joint.

    Attributes
    ----------
    body
        Index of the body that the joint carries.
    rotates
        Whether it turns about its axis, or moves along it.
    number
        Which of the joint's rotations, or translations, it is: 0, 1 or 2.
    axis
        Unit axis ``(3,)`` in the frame before it.
    frame
        Constant rotation from the frame before the axis into the one in which ``axis`` is given ``(3, 3)``.
    function
        Angle [rad] or distance [m] by the weighted sum of coordinates.
    weights
        Weight of each coordinate by its index.
    """

    body: int
    rotates: bool
    number: int
    axis: FloatArray
    frame: FloatArray
    function: PiecewisePolynomial
    weights: dict[int, float]

    @property
    def is_identity(self) -> bool:
        """Whether its angle or distance is one coordinate itself."""
        coefficients = self.function.coefficients
        is_line = not len(self.function.breaks) and coefficients.shape[1] == 2 and np.array_equal(coefficients[0], [0.0, 1.0])
        return is_line and not self.function.origins.any() and list(self.weights.values()) == [1.0]


@dataclass(frozen=True)
class Coupling:
    """A coordinate that follows others: ``function(sum of weights times leaders)``."""

    follower: int
    weights: dict[int, float]
    function: PiecewisePolynomial


@dataclass
class Tree:
    """What is constant about a model; bodies, coordinates and markers in the dataset's order.

    Attributes
    ----------
    parent
        Index of the body that each hangs on ``(body,)``, -1 for ground.
    movers
        All movers; those of one joint in the order they act.
    offset, child_offset
        The joint's place in the parent's and in the child's frame ``(body, 3)`` [m].
    child_rotation
        From the frame after the last rotation into the body's ``(body, 3, 3)``.
    coordinate_body
        The body whose joint each coordinate moves ``(coordinate,)``.
    custom
        Whether each body's joint is OpenSim's ``CustomJoint`` ``(body,)``.
    couplings
        Coordinates that follow others, leaders first.
    """

    parent: list[int]
    movers: list[Mover] = field(default_factory=list)
    offset: FloatArray = field(default_factory=lambda: np.zeros((0, 3)))
    child_offset: FloatArray = field(default_factory=lambda: np.zeros((0, 3)))
    child_rotation: FloatArray = field(default_factory=lambda: np.zeros((0, 3, 3)))
    coordinate_body: list[int] = field(default_factory=list)
    custom: list[bool] = field(default_factory=list)
    couplings: list[Coupling] = field(default_factory=list)


def compile_tree(model: xr.Dataset) -> Tree:
    """Compile the joints and couplings of a model.

    Raises
    ------
    InputError
        What cannot be represented, by name: a closed loop, a joint that runs against the tree, a joint of an unknown kind, a
        function that is not piecewise polynomial, a prescribed coordinate, a body without a joint.
    """
    bodies = [str(b) for b in model["body"].values]
    coordinates = [str(c) for c in model["coordinate"].values]
    _refuse_prescribed(model, coordinates)
    joints = _joint_of_each_body(model, bodies)
    above = [str(name) for name in model["joint_parent"].values[[joints[body] for body in range(len(bodies))]]]
    parents = [bodies.index(name) if name != "ground" else -1 for name in above]
    _refuse_cycles(bodies, parents)
    count = len(bodies)
    by_joint = {str(model["joint"].values[joint]): body for body, joint in joints.items()}
    driven = [by_joint[str(j)] for j in model["coordinate_joint"].values]
    custom = [str(model["joint_type"].values[joints[body]]) == "CustomJoint" for body in range(count)]
    frames = np.zeros((count, 3)), np.zeros((count, 3)), np.zeros((count, 3, 3))
    tree = Tree(parents, [], *frames, driven, custom, _compile_couplings(model, coordinates))
    columns = {str(name): array.values for name, array in model.variables.items() if array.dims[:1] == ("joint",)}
    for body in range(count):
        _compile_joint(tree, body, {name: values[joints[body]] for name, values in columns.items()}, coordinates)
    return tree


def skew(vector: FloatArray) -> FloatArray:
    """Matrix that multiplies as the cross product by ``vector`` does."""
    x, y, z = vector
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def rotation_matrix(axis: FloatArray, angle: float) -> FloatArray:
    """Rotation by ``angle`` [rad] about a unit axis (Rodrigues)."""
    cross = skew(axis)
    turned: FloatArray = np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross
    return turned


def body_fixed_xyz(angles: FloatArray) -> FloatArray:
    """Rotation by body-fixed x-y-z Euler angles [rad]."""
    x, y, z = (rotation_matrix(axis, angle) for axis, angle in zip(np.eye(3), angles, strict=True))
    turned: FloatArray = x @ y @ z
    return turned


def _refuse_prescribed(model: xr.Dataset, coordinates: list[str]) -> None:
    prescribed = [c for c, fixed in zip(coordinates, model["coordinate_prescribed"].values, strict=True) if fixed]
    if prescribed:
        raise InputError(
            f"coordinate(s) {', '.join(prescribed)} follow prescribed functions of time, which cannot be represented; clear 'prescribed' in the model"
        )


def _joint_of_each_body(model: xr.Dataset, bodies: list[str]) -> dict[int, int]:
    joints: dict[int, int] = {}
    for joint, child in enumerate(str(c) for c in model["joint_child"].values):
        name = str(model["joint"].values[joint])
        if child == "ground":
            raise InputError(f"joint '{name}' has ground as its child, which cannot be represented; exchange its parent and child")
        body = bodies.index(child)
        if body in joints:
            other = str(model["joint"].values[joints[body]])
            raise InputError(
                f"body '{child}' is the child of joint '{other}' and of joint '{name}': a closed loop, or a joint against the tree, cannot be represented"
            )
        joints[body] = joint
    lacking = [name for body, name in enumerate(bodies) if body not in joints]
    if lacking:
        raise InputError(f"body(ies) {', '.join(lacking)} are no joint's child; give each a joint to its parent or to ground")
    return joints


def _refuse_cycles(bodies: list[str], parents: list[int]) -> None:
    for body in range(len(bodies)):
        seen, current = {body}, parents[body]
        while current != -1:
            if current in seen:
                raise InputError(f"body '{bodies[body]}' does not hang on ground: its joints form a closed loop, which cannot be represented")
            seen.add(current)
            current = parents[current]


def _compile_joint(tree: Tree, body: int, joint: Mapping[str, Any], coordinates: list[str]) -> None:
    name, kind = str(joint["joint"]), str(joint["joint_type"])
    transform = json.loads(str(joint["joint_transform"]))
    if set(transform) != {*_ROTATIONS, *_TRANSLATIONS}:
        raise InputError(f"joint '{name}' is a {kind}, which cannot be represented; joints of three rotations and three translations can")
    frame = body_fixed_xyz(joint["joint_parent_orientation"])
    tree.offset[body] = joint["joint_parent_location"]
    tree.child_offset[body] = joint["joint_child_location"]
    for number, axis in enumerate(_TRANSLATIONS):
        direction = frame @ _unit(transform[axis]["axis"], f"{axis} of joint '{name}'")
        function, weights = _compile_axis(tree, body, transform[axis], coordinates, f"{axis} of joint '{name}'")
        if function.constant is not None:
            tree.offset[body] += direction * function.constant
        else:
            tree.movers.append(Mover(body, False, number, direction, np.eye(3), function, weights))
    for number, axis in enumerate(_ROTATIONS):
        turning = _unit(transform[axis]["axis"], f"{axis} of joint '{name}'")
        function, weights = _compile_axis(tree, body, transform[axis], coordinates, f"{axis} of joint '{name}'")
        if function.constant is not None:
            frame = frame @ rotation_matrix(turning, function.constant)
        else:
            tree.movers.append(Mover(body, True, number, turning, frame, function, weights))
            frame = np.eye(3)
    tree.child_rotation[body] = frame @ body_fixed_xyz(joint["joint_child_orientation"]).T


def _unit(axis: list[float], where: str) -> FloatArray:
    vector = np.asarray(axis, float)
    length = float(np.linalg.norm(vector))
    if not length > 0:
        raise InputError(f"{where} has the axis {axis}, which has no direction")
    unit: FloatArray = vector / length
    return unit


def _compile_axis(tree: Tree, body: int, axis: Mapping[str, Any], coordinates: list[str], where: str) -> tuple[PiecewisePolynomial, dict[int, float]]:
    names = [str(n) for n in axis["coordinates"]]
    strangers = [n for n in names if n not in coordinates or tree.coordinate_body[coordinates.index(n)] != body]
    if strangers:
        raise InputError(f"{where} follows '{strangers[0]}', which is no coordinate of that joint; this cannot be represented")
    function, weights = _compile_of_many(axis["function"], names, where)
    if not names and function.constant is None:
        raise InputError(f"{where} follows a {axis['function']['type']} of no coordinate; name its coordinate, or give a Constant")
    return function, {coordinates.index(n): w for n, w in zip(names, weights, strict=True)}


def _compile_of_many(description: Mapping[str, Any], names: list[str], where: str) -> tuple[PiecewisePolynomial, list[float]]:
    """A function of several coordinates as one of a weighted sum of them; only a linear one can be."""
    kind = str(description.get("type", ""))
    if len(set(names)) < len(names):
        raise InputError(f"{where} names a coordinate twice ({', '.join(names)}), which cannot be represented; name each once")
    if kind == "MultiplierFunction":
        function, weights = _compile_of_many(description["function"], names, where)
        return function.scaled(float(description.get("scale", 1.0))), weights
    if len(names) <= 1 or kind == "Constant":
        return compile_function(description, where), [1.0] * len(names)
    coefficients = [float(c) for c in description.get("coefficients", [])]
    if kind != "LinearFunction" or len(coefficients) != len(names) + 1:
        raise InputError(f"{where} follows a {kind} of {len(names)} coordinates ({', '.join(names)}), which cannot be represented; a LinearFunction can")
    return compile_function({"type": "LinearFunction", "coefficients": [1.0, coefficients[-1]]}, where), coefficients[:-1]


def _compile_couplings(model: xr.Dataset, coordinates: list[str]) -> list[Coupling]:
    found = {}
    for follower, text in enumerate(str(c) for c in model["coordinate_coupling"].values):
        if text:
            coupling, where = json.loads(text), f"coordinate '{coordinates[follower]}'"
            function, weights = _compile_of_many(coupling["function"], coupling["coordinates"], where)
            leaders = {coordinates.index(n): w for n, w in zip(coupling["coordinates"], weights, strict=True)}
            found[follower] = Coupling(follower, leaders, function.scaled(float(coupling.get("scale", 1.0))))
    ordered: list[Coupling] = []
    while found:
        ready = [f for f, coupling in found.items() if not set(coupling.weights) & set(found)]
        if not ready:
            raise InputError(f"coordinates {', '.join(coordinates[f] for f in found)} follow one another in a circle")
        ordered += [found.pop(f) for f in ready]
    return ordered
