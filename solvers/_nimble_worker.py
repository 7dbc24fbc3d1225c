"""Inverse dynamics by Nimble physics in a process of its own: ``python _nimble_worker.py FOLDER``.

Reads ``model.osim`` and ``input.npz`` in FOLDER and writes ``output.npz``; a fault that can be told goes to ``fault.txt``. It imports nothing of
this package: whatever happens here stays here.

Nimble was built for numpy 1. Under numpy 2 a call that takes an array in ends the process, so numbers go in one by one and only what comes out are
arrays. Its gravity is a vector that goes in, so the weight of the bodies is put in by the Jacobian of the centre of mass instead.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def solve(folder: Path) -> None:
    """Solve what lies in ``folder``.

    ``input.npz`` holds ``coordinate (coordinate,)`` names; ``q``, ``qd``, ``qdd (time, coordinate)``; ``gravity (3,)``; ``load_body (load,)`` names and
    ``load (load, 3, time, 3)``, their force, point and moment about it in ground; ``pose_frame``, the frames whose poses are asked for. ``output.npz``
    holds ``dof`` names and ``force (time, dof)``, ``body`` names, ``mass (body,)`` and ``pose (frame, body, 4, 4)``.
    """
    with np.load(folder / "input.npz", allow_pickle=False) as file:
        given = dict(file)
    skeleton = read_model(folder / "model.osim")
    dofs = [str(skeleton.getDofByIndex(i).getName()) for i in range(skeleton.getNumDofs())]
    nodes = [skeleton.getBodyNode(i) for i in range(skeleton.getNumBodyNodes())]
    columns = find_columns(dofs, given["coordinate"].tolist())
    q, qd, qdd = (given[name][:, columns] for name in ("q", "qd", "qdd"))
    bodies = {str(node.getName()): node for node in nodes}
    loads = [(find_body(bodies, name), load) for name, load in zip(given["load_body"].tolist(), given["load"], strict=True)]
    force = inverse_dynamics(skeleton, q, qd, qdd, given["gravity"], loads)
    poses = poses_at(skeleton, nodes, q[given["pose_frame"]])
    np.savez(folder / "output.npz", dof=np.array(dofs), force=force, body=np.array(list(bodies)), mass=[node.getMass() for node in nodes], pose=poses)


def inverse_dynamics(skeleton: Any, q: FloatArray, qd: FloatArray, qdd: FloatArray, gravity: FloatArray, loads: Sequence[tuple[Any, FloatArray]]) -> FloatArray:
    """``tau = M(q) qdd + C(q, qd) - J_com^T m g - sum J^T F``, ``(time, dof)``."""
    force, weight = np.empty(q.shape), skeleton.getMass() * gravity
    for frame in range(len(q)):
        set_state(skeleton, q[frame], qd[frame])
        force[frame] = skeleton.getMassMatrix() @ qdd[frame] + skeleton.getCoriolisForces().ravel() - skeleton.getCOMLinearJacobian().T @ weight
        for body, load in loads:
            force[frame] -= skeleton.getWorldJacobian(body).T @ about_origin(load[:, frame], body)
    return force


def find_columns(dofs: Sequence[str], coordinates: Sequence[str]) -> list[int]:
    """Index of each of Nimble's degrees of freedom among the model's coordinates."""
    unknown = [name for name in dofs if name not in coordinates]
    if unknown:
        raise ValueError(f"it has degrees of freedom that the model lacks: {', '.join(unknown)}")
    return [coordinates.index(name) for name in dofs]


def read_model(path: Path) -> Any:
    """Nimble's skeleton of an .osim file."""
    # the package's own __init__ imports torch, which nothing here needs
    nimble: Any = importlib.import_module("nimblephysics_libs._nimblephysics")
    parsed = nimble.biomechanics.OpenSimParser.parseOsim(str(path), "", True)
    if parsed.skeleton is None:
        raise ValueError("it cannot read the model")
    return parsed.skeleton


def find_body(bodies: dict[str, Any], name: str) -> Any:
    """The body of that name."""
    if name not in bodies:
        raise ValueError(f"it leaves out body '{name}', on which a ground force acts")
    return bodies[name]


def set_state(skeleton: Any, q: FloatArray, qd: FloatArray) -> None:
    """Positions and velocities of all degrees of freedom, one by one."""
    for i, (position, velocity) in enumerate(zip(q.tolist(), qd.tolist(), strict=True)):
        skeleton.setPosition(i, position)
        skeleton.setVelocity(i, velocity)


def about_origin(load: FloatArray, body: Any) -> FloatArray:
    """Moment about a body's origin and force, in ground, of a load: force, point, and moment about the point."""
    force, point, moment = load
    arm = point - body.getWorldTransform().translation().ravel()
    return np.concatenate([moment + np.cross(arm, force), force])


def poses_at(skeleton: Any, nodes: Sequence[Any], q: FloatArray) -> FloatArray:
    """Homogeneous transforms of the bodies in ground ``(frame, body, 4, 4)``."""
    poses = np.empty((len(q), len(nodes), 4, 4))
    for frame, values in enumerate(q):
        set_state(skeleton, values, np.zeros(len(values)))
        poses[frame] = [node.getWorldTransform().matrix() for node in nodes]
    return poses


if __name__ == "__main__":
    place = Path(sys.argv[1])
    try:
        solve(place)
    except (ValueError, RuntimeError) as error:
        (place / "fault.txt").write_text(str(error), encoding="utf-8")
        sys.exit(1)
