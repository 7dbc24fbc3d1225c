"""Motions in the layout of AMASS (Mahmood et al. 2019, ICCV): .npz files of SMPL, SMPL+H and SMPL-X poses.

Poses are rotation vectors of the joints; ``trans`` moves the whole body. Of the hands, the jaw and the eyes of SMPL+H and SMPL-X
nothing is kept: the hands follow the wrists.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from imdy_plugin.adapters.smpl.dataset import joint_offsets
from imdy_plugin.adapters.smpl.motion import BodyMotion, global_rotations, joint_positions
from imdy_plugin.adapters.smpl.npz import list_npz, read_npz
from imdy_plugin.adapters.smpl.topology import FROM_SMPL, JOINTS
from imdy_plugin.atomic import check_free, replacing
from imdy_plugin.errors import DataWarning, FileFormatError, InputError

Array = NDArray[np.float64]
_Path = str | os.PathLike[str]
Up = Literal["z", "y"]

FROM_Z_UP = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [-1.0, 0.0, 0.0]])
"""Turns a vector of AMASS's world (z up) into the ground frame. A body whose pelvis is turned by a quarter turn about the world's x,
which is how SMPL's T-pose stands in it, faces the ground frame's x."""

RATE_NAMES = ("mocap_framerate", "mocap_frame_rate")
"""Names under which files keep their frame rate [Hz]."""

WIDTHS = {72: "SMPL", 156: "SMPL+H", 165: "SMPL-X"}
"""Family member by the width of ``poses``."""

FASTEST = 20.0
"""Speed of the pelvis [m/s] that no person reaches; sprinters run 12."""

_WANTED = (*RATE_NAMES, "poses", "root_orient", "pose_body", "trans", "betas", "gender")
_UPRIGHT, _LYING = 0.7, 0.5
_SHORT_FALL = 1e-3


def read_amass(
    path: str | os.PathLike[str],
    model: xr.Dataset | None = None,
    *,
    pelvis: ArrayLike | None = None,
    up: Up | None = None,
    rate: float | None = None,
) -> BodyMotion:
    """Read a motion.

    Parameters
    ----------
    path
        A .npz file with ``poses`` (or ``root_orient`` and ``pose_body``), ``trans``, and ``mocap_framerate`` or ``mocap_frame_rate``.
    model
        The person's model (:func:`~imdy_plugin.adapters.smpl.dataset.smpl_model_dataset`). With it, feet that are below the floor at
        the start are lifted onto it (:func:`on_floor`).
    pelvis
        Place of the pelvis joint in the T-pose of the body model that the motion was made for, in SMPL's axes [m], ``(3,)``:
        ``trans`` moves that point. By default the model's ``pelvis_in_file`` where it has one, else zero, which leaves the whole
        motion off by a constant.
    up
        The world's axis that points up; by default ``"z"``, AMASS's, which is then held against how the body stands.
    rate
        Frames a second [Hz], for a file that does not say.

    Returns
    -------
    BodyMotion
        In the ground frame. ``attrs`` tell ``source``, ``layout``, and where the file has them ``betas`` and ``gender``; ``log`` what
        was done.

    Raises
    ------
    FileFormatError
        The file is cut short, states no frame rate, lacks an array, or an array has an unknown shape, which is named, holds Python
        objects or unpacks to more than it declares.
    InputError
        The body does not stand along the axis that points up.
    """
    arrays = read_npz(path, _WANTED)
    poses, layout = _poses(path, arrays)
    trans = _trans(path, arrays, len(poses))
    stated = _rate(path, arrays, rate)
    attrs: dict[str, Any] = {"source": str(path), "layout": layout} | _person(path, arrays)
    world = FROM_SMPL if up == "y" else FROM_Z_UP
    rotation = _rotations(poses, world)
    offset = _pelvis(model, pelvis)
    position = (trans + (np.zeros(3) if offset is None else offset)) @ world.T
    attrs["log"] = f"read {len(poses)} frames at {stated:g} Hz of {layout} poses from {Path(path).name}, {up or 'z'} up" + (
        "" if offset is not None else "; the place of the pelvis in the body model is not known: positions are off by a constant"
    )
    motion = BodyMotion(np.arange(len(poses)) / stated, position, rotation, Path(path).stem, attrs)
    if up is None:
        _check_upright(path, motion)
    _check_speed(path, motion)
    return motion if model is None else on_floor(motion, model)


def write_amass(path: str | os.PathLike[str], motion: BodyMotion, *, pelvis: ArrayLike | None = None, force: bool = False) -> Path:
    """Write a motion as a .npz file of SMPL poses in AMASS's layout, z up.

    Parameters
    ----------
    path
        The file to write.
    motion
        The motion; ``betas`` and ``gender`` of its attributes are written where it has them.
    pelvis
        As for :func:`read_amass`; the same value reads the motion back as it was.
    force
        Replace a file that exists.

    Raises
    ------
    InputError
        The file exists, its name does not end in .npz, or the frames are not evenly spaced.
    """
    target = Path(path)
    if target.suffix.lower() != ".npz":
        raise InputError(f"the motion would be written to {target}; name a file that ends in .npz")
    if len(motion) < 2 or np.ptp(np.diff(motion.time)) > 1e-6:
        raise InputError(f"motion '{motion.name}' has {len(motion)} frames that are not evenly spaced; resample it: motion.resampled(rate)")
    check_free([target], force)
    offset = np.zeros(3) if pelvis is None else np.asarray(pelvis, float)
    content = {
        "poses": _rotation_vectors(motion.rotation_wxyz),
        "trans": motion.root_position @ FROM_Z_UP - offset,
        "mocap_framerate": np.array(motion.rate),
        "betas": np.asarray(motion.attrs.get("betas", np.zeros(10)), float),
        "gender": np.array(str(motion.attrs.get("gender", "neutral"))),
    }
    with replacing(target) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **content)
    return target


def on_floor(motion: BodyMotion, model: xr.Dataset, *, lower: bool = False) -> BodyMotion:
    """Lift a motion whose feet are below the floor in its first frame so that the lowest point of the soles is on it.

    Parameters
    ----------
    motion
        The motion.
    model
        The person's model, which tells where its soles are.
    lower
        Also lower a motion whose feet are above the floor at the start.

    Returns
    -------
    BodyMotion
        ``attrs["floor_shift"]`` is the shift upwards [m], and the log reports it.
    """
    gap = float(sole_heights(motion.part(0, 1), model).min())
    if gap > -_SHORT_FALL and not (lower and gap > _SHORT_FALL):
        return replace(motion, attrs={**motion.attrs, "floor_shift": 0.0})
    line = f"moved {'up' if gap < 0 else 'down'} by {abs(gap):.4f} m: the feet were {'below' if gap < 0 else 'above'} the floor at the start"
    log = f"{motion.attrs['log']}\n{line}" if motion.attrs.get("log") else line
    moved = motion.placed(np.array([0.0, -gap, 0.0]))
    return replace(moved, attrs={**motion.attrs, "floor_shift": -gap, "log": log})


def sole_heights(motion: BodyMotion, model: xr.Dataset) -> Array:
    """Height of the lowest point of each body's sole above the floor [m], ``(time, body)``.

    Raises
    ------
    InputError
        The model does not tell where its soles are.
    """
    turned, placed = global_rotations(motion), joint_positions(motion, joint_offsets(model))
    lowest = []
    for body, points in _sole_points(model).items():
        joint = JOINTS.index(body)
        lowest.append((placed[:, joint, None, 1] + turned[:, joint, 1] @ points.T).min(axis=1))
    return np.stack(lowest, axis=-1)


def _sole_points(model: xr.Dataset) -> dict[str, Array]:
    """Points of the soles by body ``(point, 3)`` [m]; of a model that tells its heels only those, and the points level with them below the toe joints."""
    if "sole_points" in model.attrs:
        return {body: np.asarray(points, float).reshape(-1, 3) for body, points in model.attrs["sole_points"].items()}
    heels = np.asarray(model.attrs.get("heel_points", ()), float).reshape(-1, 3)
    if not len(heels):
        raise InputError(f"the model '{model.attrs.get('name', '')}' does not tell where its soles are; give one made by smpl_model_dataset")
    feet, toes = model.attrs["foot_bodies"], [joint_offsets(model)[JOINTS.index(name)] for name in model.attrs["toe_bodies"]]
    return {foot: np.array([heel, [toe[0], heel[1], toe[2]]]) for foot, heel, toe in zip(feet, heels, toes, strict=True)}


def _poses(path: _Path, arrays: dict[str, NDArray[Any]]) -> tuple[Array, str]:
    """Rotation vectors of the 24 joints ``(time, 24, 3)`` and the layout they come in."""
    if "poses" in arrays:
        poses = _numbers(path, "poses", arrays["poses"])
        if poses.ndim != 2 or poses.shape[1] not in WIDTHS:
            known = ", ".join(f"(frames, {width}) {kind}" for width, kind in WIDTHS.items())
            raise FileFormatError(path, f"poses have shape {poses.shape}; known are {known}", "give rotation vectors of all joints, a row for each frame")
        return _with_hands(path, poses, WIDTHS[poses.shape[1]])
    return _from_parts(path, arrays)


def _from_parts(path: _Path, arrays: dict[str, NDArray[Any]]) -> tuple[Array, str]:
    lacking = [name for name in ("root_orient", "pose_body") if name not in arrays]
    if lacking:
        fix = "give an AMASS motion, or the body model as the model" if "v_template" in list_npz(path) else "give an AMASS motion with poses and trans"
        raise FileFormatError(path, f"holds neither poses nor {' and '.join(lacking)}; it holds {', '.join(list_npz(path)[:12])}", fix)
    root, body = (_numbers(path, name, arrays[name]) for name in ("root_orient", "pose_body"))
    if root.shape != (len(root), 3) or body.ndim != 2 or len(body) != len(root) or body.shape[1] not in (63, 69):
        found = f"root_orient has shape {root.shape} and pose_body {body.shape}"
        raise FileFormatError(path, f"{found}, must be (frames, 3) and (frames, 63) or (frames, 69)", "give rotation vectors of the body's joints")
    return _with_hands(path, np.concatenate([root, body], axis=1), "SMPL" if body.shape[1] == 69 else "SMPL+H or SMPL-X")


def _with_hands(path: object, poses: Array, layout: str) -> tuple[Array, str]:
    if not len(poses):
        raise FileFormatError(path, "holds no frames", "get it again")
    kept = poses if layout == "SMPL" else np.concatenate([poses[:, :66], np.zeros((len(poses), 6))], axis=1)
    return kept.reshape(len(poses), len(JOINTS), 3), layout


def _trans(path: object, arrays: dict[str, NDArray[Any]], frames: int) -> Array:
    if "trans" not in arrays:
        raise FileFormatError(path, "holds no trans, which says where the body is", "give a file with trans (frames, 3) [m]")
    trans = _numbers(path, "trans", arrays["trans"])
    if trans.shape != (frames, 3):
        raise FileFormatError(path, f"trans has shape {trans.shape}, the poses have {frames} frames: it must be ({frames}, 3)", "get it again")
    return trans


def _numbers(path: object, name: str, array: NDArray[Any]) -> Array:
    if array.dtype.kind not in "fiu":
        raise FileFormatError(path, f"'{name}' holds {array.dtype}, not numbers", "get it from its maker again")
    values = np.asarray(array, float)
    if not np.isfinite(values).all():
        frame = int(np.argwhere(~np.isfinite(values))[0][0]) if values.ndim else 0
        raise FileFormatError(path, f"'{name}' holds NaN or infinite values, first in frame {frame}", "cut the motion there, or get it again")
    return values


def _rate(path: _Path, arrays: dict[str, NDArray[Any]], given: float | None) -> float:
    stated = {name: float(_numbers(path, name, arrays[name]).ravel()[0]) for name in RATE_NAMES if name in arrays and arrays[name].size == 1}
    rates = [given] if given is not None else sorted(set(stated.values()))
    if not rates:
        fix = "give it: read_amass(path, rate=120)"
        raise FileFormatError(path, f"states no frame rate ({' or '.join(RATE_NAMES)}); it holds {', '.join(list_npz(path)[:12])}", fix)
    if len(rates) > 1 or not (np.isfinite(rates[0]) and rates[0] > 0):
        raise FileFormatError(path, f"states the frame rate {', '.join(f'{rate:g} Hz' for rate in rates)}", "give it: read_amass(path, rate=120)")
    return rates[0]


def _person(path: object, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Shape and gender, where the file has them; betas that are given for each frame alike are one row."""
    found: dict[str, Any] = {}
    if "betas" in arrays:
        betas = np.atleast_2d(_numbers(path, "betas", arrays["betas"]))
        if betas.ndim != 2 or np.ptp(betas, axis=0).max(initial=0.0) > 1e-9:
            raise FileFormatError(path, f"betas have shape {arrays['betas'].shape} and differ from row to row", "give one person's motion")
        found["betas"] = betas[0].tolist()
    if "gender" in arrays and arrays["gender"].size == 1:
        gender = arrays["gender"].ravel()[0]
        found["gender"] = (gender.decode("latin1") if isinstance(gender, bytes) else str(gender)).strip().lower()
    return found


def _rotations(poses: Array, world: Array) -> Array:
    """Quaternions, scalar first, of rotation vectors in SMPL's axes; the root's lead into the world."""
    turn = Rotation.from_matrix(FROM_SMPL)
    local = turn * Rotation.from_rotvec(poses.reshape(-1, 3)) * turn.inv()
    quaternions: Array = local.as_quat(scalar_first=True).reshape(*poses.shape[:2], 4)
    root = Rotation.from_matrix(world) * Rotation.from_rotvec(poses[:, 0]) * turn.inv()
    quaternions[:, 0] = root.as_quat(scalar_first=True)
    return quaternions


def _rotation_vectors(rotation_wxyz: Array) -> Array:
    """Rotation vectors ``(time, 72)`` in SMPL's axes, the root's in a world with z up: the reverse of :func:`_rotations`."""
    turn = Rotation.from_matrix(FROM_SMPL)
    local = turn.inv() * Rotation.from_quat(rotation_wxyz.reshape(-1, 4), scalar_first=True) * turn
    vectors: Array = local.as_rotvec().reshape(len(rotation_wxyz), -1)
    root = Rotation.from_matrix(FROM_Z_UP).inv() * Rotation.from_quat(rotation_wxyz[:, 0], scalar_first=True) * turn
    vectors[:, :3] = root.as_rotvec()
    return vectors


def _pelvis(model: xr.Dataset | None, given: ArrayLike | None) -> Array | None:
    if given is None and model is not None:
        given = model.attrs.get("pelvis_in_file")
    if given is None:
        return None
    place = np.asarray(given, float)
    if place.shape != (3,) or not np.isfinite(place).all():
        raise InputError(f"the pelvis is at {given!r}; give 3 numbers [m]")
    return place


def _check_upright(path: object, motion: BodyMotion) -> None:
    """Refuse a motion in which the trunk mostly stands along another axis than that taken for up."""
    along = global_rotations(motion)[:, 0, :, 1]
    up, others = float(np.median(np.abs(along[:, 1]))), np.median(np.abs(along[:, [0, 2]]), axis=0)
    # with y up, read as z up, a standing trunk lies along the ground frame's x, which was the world's -y
    if up < _LYING and float(others[0]) > _UPRIGHT:
        raise InputError(
            f"{path}: with z up the body lies most of the time ({up:.2f} of the trunk's length points up, {others[0]:.2f} along the world's y); "
            "if the file has y up say so: read_amass(path, up='y'); if the person lies, say up='z'"
        )


def _check_speed(path: object, motion: BodyMotion) -> None:
    if len(motion) < 2:
        return
    speed = np.linalg.norm(np.diff(motion.root_position, axis=0), axis=1) * motion.rate
    fastest = int(np.argmax(speed))
    if speed[fastest] > FASTEST:
        text = f"{path}: at {motion.rate:g} Hz the pelvis moves at {speed[fastest]:.1f} m/s from frame {fastest} to {fastest + 1}, faster than any person"
        warnings.warn(f"{text}; check the frame rate (read_amass(path, rate=...)) and the unit of trans", DataWarning, stacklevel=3)
