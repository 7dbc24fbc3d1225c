"""Isaac Gym in a process of its own, under an interpreter that has it: ``python _isaacgym_worker.py``.

Requests come in on standard input and answers go out on standard output, as :func:`pack` makes them; whatever the engine prints goes to standard
error. It imports nothing of this package, and keeps to Python 3.8, which Isaac Gym needs. Frames and units are Isaac Gym's: quaternions with the
scalar last, velocities along the ground's axes, the root's that of its centre of mass; a joint of three hinges is a ball joint whose three
coordinates are its rotation vector, and their rates its angular velocity along the child's axes.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

MAGIC = b"IMDY"
"""First bytes of every message."""

LARGEST = 2**31
"""Bytes beyond which a message is none."""

_DTYPES = ("<f4", "<f8", "<i4")


def pack(kind: str, arrays: dict[str, np.ndarray[Any, Any]], text: dict[str, Any]) -> bytes:
    """A message: magic, length of header and of body as 64-bit integers, the header in JSON, and the arrays' bytes one after the other."""
    ordered = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    described = [[name, array.dtype.str, list(array.shape)] for name, array in ordered.items()]
    header = json.dumps({"kind": kind, "arrays": described, "text": text}).encode()
    body = b"".join(array.tobytes() for array in ordered.values())
    return MAGIC + struct.pack("<QQ", len(header), len(body)) + header + body


def lengths(start: bytes) -> tuple[int, int]:
    """Lengths of header and body, from the first twenty bytes of a message.

    Raises
    ------
    ValueError
        This is no message.
    """
    if start[:4] != MAGIC[: len(start[:4])]:
        raise ValueError(f"no message begins with {bytes(start[:20])!r}")
    header, body = struct.unpack("<QQ", start[4:20])
    if header + body > LARGEST:
        raise ValueError(f"a message of {header + body} bytes was announced")
    return header, body


def unpack(header: bytes, body: bytes) -> tuple[str, dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    """Kind, arrays and text of a message.

    Raises
    ------
    ValueError
        The parts do not make a message.
    """
    told = json.loads(header.decode())
    if not isinstance(told, dict) or set(told) != {"kind", "arrays", "text"}:
        raise ValueError("the header holds no kind, arrays and text")
    arrays, place = {}, 0
    for name, dtype, shape in told["arrays"]:
        if dtype not in _DTYPES:
            raise ValueError(f"array '{name}' is of type {dtype}")
        count = int(math.prod(shape))
        arrays[str(name)] = np.frombuffer(body, dtype, count, place).reshape(shape).copy()
        place += count * np.dtype(dtype).itemsize
    if place != len(body):
        raise ValueError(f"{len(body) - place} bytes are left over")
    return str(told["kind"]), arrays, told["text"]


class Engine:
    """People in Isaac Gym, one to an environment.

    Parameters
    ----------
    text
        ``timestep`` [s], ``gravity`` [m/s^2], ``friction``, ``device`` (a number, or None for the processor) and ``assets``, a path for each person.
    """

    def __init__(self, text: dict[str, Any]) -> None:
        self.gymapi, self.gymtorch = importlib.import_module("isaacgym.gymapi"), importlib.import_module("isaacgym.gymtorch")
        self.torch = importlib.import_module("torch")
        self.gym, self.worlds = self.gymapi.acquire_gym(), len(text["assets"])
        self.device = "cpu" if text["device"] is None else "cuda:{}".format(text["device"])
        self.sim = self._create_sim(text)
        self._add_ground(text["friction"])
        self.actors = self._add_people(text["assets"])
        self.gym.prepare_sim(self.sim)
        self.root = self._tensor("acquire_actor_root_state_tensor").view(self.worlds, 13)
        self.dof = self._tensor("acquire_dof_state_tensor").view(self.worlds, -1, 2)
        self.contact = self._tensor("acquire_net_contact_force_tensor").view(self.worlds, -1, 3)
        self.armature = -1

    def _create_sim(self, text: dict[str, Any]) -> Any:
        params = self.gymapi.SimParams()
        params.dt, params.substeps = text["timestep"], 1
        params.up_axis, params.gravity = self.gymapi.UP_AXIS_Y, self.gymapi.Vec3(*text["gravity"])
        params.use_gpu_pipeline = params.physx.use_gpu = text["device"] is not None
        params.physx.solver_type, params.physx.num_position_iterations, params.physx.num_velocity_iterations = 1, 8, 2
        params.physx.contact_offset, params.physx.rest_offset = 0.02, 0.0
        sim = self.gym.create_sim(text["device"] or 0, -1, self.gymapi.SIM_PHYSX, params)
        if sim is None:
            raise RuntimeError("Isaac Gym could not create a simulation")
        return sim

    def _add_ground(self, friction: float) -> None:
        plane = self.gymapi.PlaneParams()
        plane.normal, plane.distance = self.gymapi.Vec3(0.0, 1.0, 0.0), 0.0
        plane.static_friction = plane.dynamic_friction = friction
        plane.restitution = 0.0
        self.gym.add_ground(self.sim, plane)

    def _add_people(self, paths: list[str]) -> list[Any]:
        options = self.gymapi.AssetOptions()
        options.angular_damping = options.linear_damping = options.armature = 0.0
        options.max_angular_velocity, options.max_linear_velocity = 1000.0, 1000.0
        options.default_dof_drive_mode = self.gymapi.DOF_MODE_EFFORT
        assets = {path: self.gym.load_asset(self.sim, str(Path(path).parent), Path(path).name, options) for path in sorted(set(paths))}
        self.bodies, self.dofs = ([str(n) for n in names(assets[paths[0]])] for names in (self.gym.get_asset_rigid_body_names, self.gym.get_asset_dof_names))
        low, high = self.gymapi.Vec3(-1.0, 0.0, -1.0), self.gymapi.Vec3(1.0, 2.0, 1.0)
        actors = []
        for number, path in enumerate(paths):
            env = self.gym.create_env(self.sim, low, high, int(math.sqrt(len(paths))) + 1)
            # the same filter on all bodies of a person keeps them from touching each other; a group to each keeps people apart
            actors.append((env, self.gym.create_actor(env, assets[path], self.gymapi.Transform(), "person", number, 1)))
        return actors

    def _tensor(self, acquire: str) -> Any:
        return self.gymtorch.wrap_tensor(getattr(self.gym, acquire)(self.sim))

    def _host(self, tensor: Any) -> np.ndarray[Any, Any]:
        return np.array(tensor.cpu().numpy(), dtype="<f4")

    def _send(self, array: np.ndarray[Any, Any]) -> Any:
        return self.torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def set_armature(self, armature: np.ndarray[Any, Any], number: int) -> None:
        """Give every joint coordinate an inertia of its own, ``(world, dof)``; ``number`` tells which of several it is."""
        if number == self.armature:
            return
        for (env, actor), row in zip(self.actors, armature):  # noqa: B905 - strict came after Python 3.8
            props = self.gym.get_actor_dof_properties(env, actor)
            props["driveMode"][:], props["hasLimits"][:] = int(self.gymapi.DOF_MODE_EFFORT), False
            for name in ("stiffness", "damping", "friction"):
                props[name][:] = 0.0
            props["effort"][:], props["velocity"][:], props["armature"][:] = 1e6, 1e4, row
            self.gym.set_actor_dof_properties(env, actor, props)
        self.armature = number

    def reset(self, worlds: np.ndarray[Any, Any], root: np.ndarray[Any, Any], dof: np.ndarray[Any, Any]) -> None:
        """Put the chosen worlds into a state, ``root (world, 13)`` and ``dof (world, dof, 2)``."""
        chosen = self._send(worlds.astype("<i4"))
        self.root[chosen.long()], self.dof[chosen.long()] = self._send(root), self._send(dof)
        unwrap, count = self.gymtorch.unwrap_tensor, len(worlds)
        self.gym.set_actor_root_state_tensor_indexed(self.sim, unwrap(self.root), unwrap(chosen), count)
        self.gym.set_dof_state_tensor_indexed(self.sim, unwrap(self.dof), unwrap(chosen), count)

    def advance(self, torque: np.ndarray[Any, Any]) -> None:
        """One physics step under torques ``(world, dof)``."""
        self.gym.set_dof_actuation_force_tensor(self.sim, self.gymtorch.unwrap_tensor(self._send(torque.astype("<f4"))))
        self.gym.simulate(self.sim)
        self.gym.fetch_results(self.sim, True)
        for name in ("actor_root_state", "dof_state", "net_contact_force"):
            getattr(self.gym, f"refresh_{name}_tensor")(self.sim)

    def state(self) -> dict[str, np.ndarray[Any, Any]]:
        """What there is to know now."""
        return {"root": self._host(self.root), "dof": self._host(self.dof), "contact": self._host(self.contact)}


def answer(
    engine: Engine | None, kind: str, arrays: dict[str, np.ndarray[Any, Any]], text: dict[str, Any]
) -> tuple[Engine, dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    """Do what a request asks for."""
    if engine is None or kind == "start":
        engine = Engine(text)
        return engine, engine.state(), {"bodies": engine.bodies, "dofs": engine.dofs}
    if kind == "reset":
        engine.reset(arrays["worlds"], arrays["root"], arrays["dof"])
    else:
        engine.set_armature(arrays["armature"], int(text["number"]))
        engine.advance(arrays["torque"])
    return engine, engine.state(), {}


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def main() -> None:
    """Answer requests until there are no more."""
    # a script's own folder comes first where modules are sought, and this one holds an isaacgym.py
    here = Path(__file__).resolve().parent
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != here]
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    engine = None
    while True:
        try:
            kind, arrays, text = unpack(*(_exactly(sys.stdin.buffer, n) for n in lengths(_exactly(sys.stdin.buffer, 20))))
        except EOFError:
            return
        try:
            engine, given, told = answer(engine, kind, arrays, text)
            reply = pack("done", given, told)
        except Exception as error:
            reply = pack("fault", {}, {"fault": f"{type(error).__name__}: {error}"})
        replies.write(reply)
        replies.flush()


if __name__ == "__main__":
    main()
