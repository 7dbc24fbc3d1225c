"""The 24-joint body as a model of the common representation, and its motion as coordinates of that model.

Each joint below the pelvis turns by three angles about the axes of its body, in an order that is far from gimbal lock in what people
do (:data:`ROTATION_ORDERS`). Bodies are aligned with the ground frame in the T-pose, their origins in their joints.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from imdy_plugin.adapters.smpl.motion import BodyMotion, global_rotations, joint_positions
from imdy_plugin.adapters.smpl.topology import JOINTS, PARENTS
from imdy_plugin.errors import DataWarning, InputError
from imdy_plugin.schema import AXES, GRAVITY, add_log, new_model, new_motion

Array = NDArray[np.float64]

ROTATION_ORDERS: dict[str, str] = {
    "pelvis": "yxz",
    "hip": "zxy",
    "knee": "zxy",
    "ankle": "zxy",
    "foot": "zxy",
    "spine1": "zxy",
    "spine2": "zxy",
    "spine3": "zxy",
    "neck": "xzy",
    "head": "xzy",
    "collar": "xzy",
    "shoulder": "xzy",
    "elbow": "yxz",
    "wrist": "zxy",
    "hand": "xzy",
}
"""Axes about which a joint turns, in the order in which the turns act, each axis carried by those before it; both sides alike.

The angles are not unique where the second is a right angle: a pelvis that lies on its side, a leg stretched out sideways, an elbow or wrist
out of joint, or an upper arm in the frontal plane turned by a right angle about itself. Arms hang, swing and reach freely. Over recordings
of everyday and athletic movement the second angle stays at 60 degrees or less at all joints but the hip and the shoulder, where it is
above 75 degrees in 0.06 % and 0.84 % of the poses.
"""

ROOT_JOINT = "ground_pelvis"
"""Name of the joint that frees the pelvis from ground; the others are named as the bodies that they carry."""

ROOT_COORDINATES = ("pelvis_tx", "pelvis_ty", "pelvis_tz", "pelvis_rx", "pelvis_ry", "pelvis_rz")
"""Coordinates of the pelvis: its position [m] and three angles [rad]."""

COORDINATES: tuple[str, ...] = (*ROOT_COORDINATES, *(f"{joint}_{axis}" for joint in JOINTS[1:] for axis in AXES))
"""Coordinates of the model: those of the root, then the angle about x, y and z of each joint."""

_FAR_FROM_LOCK = 1.3
"""Second angle [rad] up to which a joint that moves smoothly stays on one of the two triples."""

_LOCKED, _NEAR_LOCK = 1e-6, 0.02
"""Cosines of the second angle below which the first and third are not told apart, and below which their rates mean little."""


def rotation_order(joint: str) -> str:
    """Axes about which a joint of the body turns, in the order in which the turns act, such as ``"zxy"``."""
    return ROTATION_ORDERS[joint.rsplit("_", 1)[-1]]


def smpl_model_dataset(
    *,
    name: str,
    offsets: ArrayLike,
    body_mass: ArrayLike,
    center_of_mass: ArrayLike,
    inertia: ArrayLike,
    markers: Mapping[str, tuple[str, Sequence[float] | Array]],
    soles: Mapping[str, ArrayLike],
    height: float | None = None,
    sex: str | None = None,
    attrs: Mapping[str, Any] | None = None,
    log: str = "",
) -> xr.Dataset:
    """Model of a person with the 24 joints.

    Parameters
    ----------
    name
        Name of the model.
    offsets
        Where each joint lies in its parent's body [m], ``(24, 3)``; the pelvis's row is not used.
    body_mass, center_of_mass, inertia
        Of each body: mass [kg] ``(24,)``, centre of mass in its frame [m] ``(24, 3)``, and inertia about it ``(24, 6)``
        [kg m^2] in the order of :data:`imdy_plugin.schema.INERTIA_COMPONENTS`.
    markers
        By name the body and the place in it [m].
    soles
        Points of the soles in the bodies of both ankles and both feet [m], ``(point, 3)`` each; in the T-pose all lie in one plane.
    height
        Standing height [m], where known.
    sex
        ``"male"``, ``"female"`` or None.
    attrs
        Further attributes.
    log
        First line of the log.

    Returns
    -------
    xarray.Dataset
        A model (:func:`imdy_plugin.schema.new_model`) with the coordinates :data:`COORDINATES`.

    Raises
    ------
    InvalidDatasetError
        The arrays do not make a lawful model.
    """
    given: dict[str, Any] = {
        "name": name,
        "mass": float(np.sum(np.asarray(body_mass, float))),
        "gravity": [0.0, -GRAVITY, 0.0],
        "root_coordinates": list(ROOT_COORDINATES),
        "root_body": JOINTS[0],
        "foot_bodies": ["right_ankle", "left_ankle"],
        "toe_bodies": ["right_foot", "left_foot"],
        "heel_points": [x for side in ("right", "left") for x in _heel(soles[f"{side}_ankle"], np.asarray(offsets, float)[JOINTS.index(f"{side}_foot")])],
        "sole_points": {body: np.asarray(points, float).tolist() for body, points in soles.items()},
        "knee_sign": -1,
        "own_forces": [],
        "other_constraints": [],
    }
    given |= {key: value for key, value in (("height", height), ("sex", sex)) if value is not None}
    variables: dict[str, ArrayLike] = {"body_mass": np.asarray(body_mass, float), "body_center_of_mass": center_of_mass, "body_inertia": inertia}
    variables |= _joint_variables(np.asarray(offsets, float)) | _coordinate_variables(-_sole_level(np.asarray(offsets, float), soles))
    variables["marker_body"] = np.array([body for body, _ in markers.values()], dtype=np.str_)
    variables["marker_location"] = np.array([np.asarray(place, float) for _, place in markers.values()], float).reshape(-1, 3)
    coords = {"body": JOINTS, "joint": (ROOT_JOINT, *JOINTS[1:]), "coordinate": COORDINATES, "marker": list(markers)}
    model = new_model(coords=coords, variables=variables, attrs=given | dict(attrs or {}))
    return add_log(model, log) if log else model


def _heel(sole: ArrayLike, toe: Array) -> list[float]:
    """The point of a sole furthest back from the toe joint ``(3,)``, on the line from the ankle to it."""
    forward = np.array([toe[0], 0.0, toe[2]]) / np.hypot(toe[0], toe[2])
    points = np.asarray(sole, float)
    heel = (points @ forward).min() * forward + np.array([0.0, points[:, 1].mean(), 0.0])
    return [float(value) for value in heel]


def _sole_level(offsets: Array, soles: Mapping[str, ArrayLike]) -> float:
    """Height of the lowest point of the soles in the T-pose, seen from the pelvis joint."""
    return min(float(rest_positions(offsets)[JOINTS.index(body), 1] + np.asarray(points, float)[:, 1].min()) for body, points in soles.items())


def _joint_variables(offsets: Array) -> dict[str, ArrayLike]:
    count = len(JOINTS)
    location = offsets.copy()
    location[0] = 0.0
    still = np.zeros((count, 3))
    return {
        "joint_type": np.array(["CustomJoint"] * count),
        "joint_parent": np.array(["ground" if parent < 0 else JOINTS[parent] for parent in PARENTS]),
        "joint_child": np.array(JOINTS),
        "joint_parent_location": location,
        "joint_parent_orientation": still,
        "joint_child_location": still,
        "joint_child_orientation": still,
        "joint_transform": np.array([json.dumps(_transform(joint)) for joint in range(count)]),
    }


def _transform(joint: int) -> dict[str, Any]:
    turning = "pelvis_r" if joint == 0 else f"{JOINTS[joint]}_"
    turns = {f"rotation{k + 1}": _axis(axis, f"{turning}{axis}") for k, axis in enumerate(rotation_order(JOINTS[joint]))}
    moves = {f"translation{k + 1}": _axis(axis, f"pelvis_t{axis}" if joint == 0 else None) for k, axis in enumerate(AXES)}
    return turns | moves


def _axis(axis: str, coordinate: str | None) -> dict[str, Any]:
    function = {"type": "LinearFunction", "coefficients": [1.0, 0.0]} if coordinate else {"type": "Constant", "value": 0.0}
    return {"axis": np.eye(3)[AXES.index(axis)].tolist(), "coordinates": [coordinate] if coordinate else [], "function": function}


def _coordinate_variables(pelvis_height: float) -> dict[str, ArrayLike]:
    count = len(COORDINATES)
    moves = np.array([name.startswith("pelvis_t") for name in COORDINATES])
    default = np.where(np.array(COORDINATES) == "pelvis_ty", pelvis_height, 0.0)
    limit = np.where(moves, 50.0, np.pi)
    return {
        "coordinate_joint": np.array([ROOT_JOINT] * len(ROOT_COORDINATES) + [joint for joint in JOINTS[1:] for _ in AXES]),
        "coordinate_kind": np.where(moves, "translational", "rotational"),
        "coordinate_default": default,
        "coordinate_range": np.stack([-limit, limit], axis=-1),
        "coordinate_locked": np.zeros(count, bool),
        "coordinate_clamped": np.zeros(count, bool),
        "coordinate_prescribed": np.zeros(count, bool),
        "coordinate_coupling": np.array([""] * count),
    }


def rest_positions(offsets: Array) -> Array:
    """Places of the joints in the T-pose [m], ``(24, 3)``, seen from the pelvis joint."""
    place = np.zeros((len(JOINTS), 3))
    for joint, parent in enumerate(PARENTS):
        if parent >= 0:
            place[joint] = place[parent] + offsets[joint]
    return place


def is_smpl_model(model: xr.Dataset) -> bool:
    """Whether a model has the 24 joints and coordinates of :func:`smpl_model_dataset`, which turn as told by :data:`ROTATION_ORDERS`."""
    has = {dim: {str(n) for n in model[dim].values} if dim in model.coords else set() for dim in ("body", "coordinate")}
    return has["body"] == set(JOINTS) and has["coordinate"] == set(COORDINATES) and not _turned_otherwise(model)


def _turned_otherwise(model: xr.Dataset) -> list[str]:
    """Joints of a model with the 24 bodies whose angles turn in another order."""
    return list(_other_turns(*(tuple(str(text) for text in model[name].values) for name in ("joint_child", "joint_transform"))))


@lru_cache(maxsize=32)
def _other_turns(children: tuple[str, ...], transforms: tuple[str, ...]) -> tuple[str, ...]:
    told = dict(zip(children, (json.loads(text) for text in transforms), strict=True))
    wanted = {joint: _transform(index) for index, joint in enumerate(JOINTS)}
    return tuple(joint for joint in JOINTS if any(told[joint].get(f"rotation{k}") != wanted[joint][f"rotation{k}"] for k in (1, 2, 3)))


def check_smpl_model(model: xr.Dataset) -> None:
    """Refuse a model with other joints or coordinates than those of :func:`smpl_model_dataset`.

    Raises
    ------
    InputError
        It has others, or its angles turn in another order.
    """
    if not is_smpl_model(model):
        same = "body" in model.coords and {str(n) for n in model["body"].values} == set(JOINTS)
        why = f": the angles of {', '.join(_turned_otherwise(model)) or 'its joints'} have other names or turn in another order" if same else ""
        raise InputError(
            f"the model '{model.attrs.get('name', '')}' is none of the 24-joint body{why}; give an SMPL body model, or a model made by smpl_model_dataset"
        )


def joint_offsets(model: xr.Dataset) -> Array:
    """Where each joint lies in its parent's body [m], ``(24, 3)``, in the order of :data:`~imdy_plugin.adapters.smpl.topology.JOINTS`."""
    check_smpl_model(model)
    return np.asarray(model["joint_parent_location"].sel(joint=[ROOT_JOINT, *JOINTS[1:]]).values, float)


def coordinates_from_rotations(model: xr.Dataset, rotation_wxyz: ArrayLike, root_position: ArrayLike) -> Array:
    """Coordinates of a model in given poses.

    Parameters
    ----------
    model
        A model made by :func:`smpl_model_dataset`.
    rotation_wxyz, root_position
        As in :class:`~imdy_plugin.adapters.smpl.motion.BodyMotion`: unit quaternions, scalar first, ``(time, 24, 4)``, and the
        position of the pelvis joint [m], ``(time, 3)``.

    Returns
    -------
    numpy.ndarray
        ``(time, coordinate)`` [rad, m], in the model's order; angles run on continuously from frame to frame.

    Raises
    ------
    InputError
        The model has other joints.
    """
    check_smpl_model(model)
    rotation = np.asarray(rotation_wxyz, float)
    angles = np.stack([_angles(joint, rotation[:, joint]) for joint in range(len(JOINTS))], axis=1)
    values = np.concatenate([np.asarray(root_position, float), angles.reshape(len(angles), -1)], axis=1)
    order = [COORDINATES.index(str(name)) for name in model["coordinate"].values]
    return values[:, order]


def rotations_from_coordinates(coordinates: Sequence[str], values: ArrayLike) -> tuple[Array, Array]:
    """The pose of coordinates: unit quaternions, scalar first, ``(time, 24, 4)``, and the position of the pelvis joint [m], ``(time, 3)``.

    Parameters
    ----------
    coordinates, values
        Names, those of :data:`COORDINATES` in any order, and values ``(time, coordinate)`` [rad, m].

    Raises
    ------
    InputError
        A coordinate is missing.
    """
    ordered = _in_order(coordinates, np.asarray(values, float))
    angles = ordered[:, 3:].reshape(len(ordered), len(JOINTS), 3)
    turned = [_from_angles(joint, angles[:, joint]).as_quat(scalar_first=True) for joint in range(len(JOINTS))]
    return np.stack(turned, axis=1), ordered[:, :3].copy()


def to_coordinates(model: xr.Dataset, motion: BodyMotion) -> xr.Dataset:
    """A motion of the 24 joints as a motion in coordinates of a model (:func:`imdy_plugin.schema.new_motion`).

    Raises
    ------
    InputError
        The model has other joints.
    """
    values = coordinates_from_rotations(model, motion.rotation_wxyz, motion.root_position)
    names = [str(name) for name in model["coordinate"].values]
    attrs = {str(key): value for key, value in motion.attrs.items()}
    log = str(attrs.pop("log", ""))
    made = new_motion(motion.time, coordinates=(names, values), attrs={"name": motion.name} | attrs, log=log)
    return add_log(made, f"three angles of each joint from the rotations of motion '{motion.name}'")


def from_coordinates(motion: xr.Dataset, name: str = "") -> BodyMotion:
    """The motion of the 24 joints that coordinates describe.

    Raises
    ------
    InputError
        The motion holds no coordinates, lacks some, or has gaps.
    """
    if "coordinate_value" not in motion:
        raise InputError("the motion holds no coordinate_value; give one with joint coordinates")
    names = [str(n) for n in motion["coordinate"].values]
    rotation, position = rotations_from_coordinates(names, motion["coordinate_value"].values)
    return BodyMotion(np.asarray(motion["time"].values, float), position, rotation, name or str(motion.attrs.get("name", "")))


def virtual_markers(model: xr.Dataset, motion: BodyMotion) -> xr.Dataset:
    """The model's markers as they move with a motion, as a motion of the common representation.

    Raises
    ------
    InputError
        The model has other joints.
    """
    names = [str(name) for name in model["marker"].values]
    bodies = [JOINTS.index(str(body)) for body in model["marker_body"].values]
    placed, turned = joint_positions(motion, joint_offsets(model)), global_rotations(motion)
    position = placed[:, bodies] + np.einsum("tmij,mj->tmi", turned[:, bodies], model["marker_location"].values)
    log = f"{len(names)} markers of model '{model.attrs['name']}' moved with motion '{motion.name}'"
    return new_motion(motion.time, markers=(names, position), attrs={"name": motion.name}, log=log)


def turning_axes(coordinates: Sequence[str], values: ArrayLike) -> Array:
    """Axes that the angles turn about, in the axes of the body that they turn, ``(time, 24, angle, 3)``; the angles are x, y and z.

    With ``A`` the three rows of a joint, its body's angular velocity against its parent is ``A.T @ rates``, and a moment ``m`` of the
    joint, in the axes of that body, is the generalized force ``A @ m``.

    Parameters
    ----------
    coordinates, values
        As in :func:`rotations_from_coordinates`.
    """
    ordered = _in_order(coordinates, np.asarray(values, float))
    angles = ordered[:, 3:].reshape(len(ordered), len(JOINTS), 3)
    axes = np.empty((*angles.shape, 3))
    for joint, order in enumerate(map(rotation_order, JOINTS)):
        turned = Rotation.identity(len(angles))
        for axis in reversed(order):
            index = AXES.index(axis)
            axes[:, joint, index] = turned.inv().apply(np.eye(3)[index])
            turned = Rotation.from_euler(axis, angles[:, joint, index, None]) * turned
    return axes


def _in_order(coordinates: Sequence[str], values: Array) -> Array:
    lacking = [name for name in COORDINATES if name not in coordinates]
    if lacking:
        raise InputError(f"{len(lacking)} coordinates of the 24-joint body are missing: {', '.join(lacking[:5])}{', ...' if len(lacking) > 5 else ''}")
    return values[:, [list(coordinates).index(name) for name in COORDINATES]]


def _from_angles(joint: int, angles: Array) -> Rotation:
    order = rotation_order(JOINTS[joint])
    return Rotation.from_euler(order.upper(), angles[:, [AXES.index(axis) for axis in order]])


def _angles(joint: int, rotation_wxyz: Array) -> Array:
    """Angles about x, y and z ``(time, 3)``, continuous where the joint passes near gimbal lock."""
    order = rotation_order(JOINTS[joint])
    rotation = Rotation.from_quat(rotation_wxyz, scalar_first=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # gimbal lock is settled below
        angles: Array = rotation.as_euler(order.upper())
    locked = np.flatnonzero(np.abs(np.cos(angles[:, 1])) < _NEAR_LOCK)
    if locked.size:
        text = f"joint '{JOINTS[joint]}' is in or near gimbal lock in {locked.size} of {len(angles)} frames, first in frame {locked[0]}"
        warnings.warn(f"{text}: its three angles, and their rates, are not unique there", DataWarning, stacklevel=4)
    _run_on(angles, rotation, order)
    return angles[:, [order.index(axis) for axis in AXES]]


def _run_on(angles: Array, rotation: Rotation, order: str) -> None:
    """Choose, frame by frame, the angles nearest to the frame before, of all that mean the same rotation; changes ``angles``."""
    if np.abs(angles[:, 1]).max(initial=0.0) < _FAR_FROM_LOCK:
        angles[:] = np.unwrap(angles, axis=0)
        return
    locked = np.abs(np.cos(angles[:, 1])) < _LOCKED
    other = np.stack([angles[:, 0] + np.pi, np.pi - angles[:, 1], angles[:, 2] + np.pi], axis=-1)
    both = np.stack([angles, other])
    for frame in range(1, len(angles)):
        before = angles[frame - 1]
        if locked[frame]:
            both[:, frame] = _with_third(angles[frame], rotation[frame], order, before[2])
        near = both[:, frame] + 2 * np.pi * np.round((before - both[:, frame]) / (2 * np.pi))
        angles[frame] = near[int(np.argmin(np.abs(near - before).sum(axis=1)))]


def _with_third(angles: Array, rotation: Rotation, order: str, third: np.float64) -> Array:
    """Angles in gimbal lock whose third is as wanted."""
    rest: Rotation = rotation * Rotation.from_euler(order[1:].upper(), [angles[1], third]).inv()
    first = float(rest.as_rotvec()["xyz".index(order[0])])
    return np.array([first, float(angles[1]), float(third)])
