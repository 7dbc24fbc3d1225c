"""Isaac Gym (preview 4) in a process of its own under the user's Python 3.8, which it needs and where it is installed.

Set ``IMDY_ISAACGYM_PYTHON`` to that interpreter. A person goes in as the MJCF file of :func:`imdy_plugin.sim.exports.write_isaac_mjcf`; Isaac Gym makes
one ball joint of three hinges, whose coordinates are a rotation vector. Torques go in as efforts, and control is that of
:mod:`imdy_plugin.sim.backends.mujoco`, the damping's inertia being an armature of the joints. Isaac Gym tells the net force of the ground on each body but
not where it acts: moments are NaN where something touches.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.errors import InputError, SolverError
from imdy_plugin.interfaces import SimBackend, StepRecord
from imdy_plugin.schema import GRAVITY
from imdy_plugin.sim.backends import _isaacgym_worker
from imdy_plugin.sim.backends.base import CheckedSimulation, Made, check_people

Array = NDArray[np.float64]

PYTHON_VARIABLE = "IMDY_ISAACGYM_PYTHON"
"""Environment variable that names the interpreter."""

WORKER = Path(_isaacgym_worker.__file__)

TAIL = 2000
"""How much of the process's last words an error repeats [characters]."""


class IsaacGymBackend(SimBackend):
    """Isaac Gym behind a pipe; the seed changes nothing."""

    name: ClassVar[str] = "isaacgym"
    summary: ClassVar[str] = f"Isaac Gym in a process of its own, under the interpreter that {PYTHON_VARIABLE} names"
    requires: ClassVar[tuple[str, ...]] = ("mujoco",)

    def start(
        self,
        people: Sequence[xr.Dataset],
        *,
        timestep: float = 1 / 120,
        seed: int = 0,
        python: str | os.PathLike[str] | None = None,
        device: int | None = 0,
        timeout_s: float = 300.0,
    ) -> IsaacGymSimulation:
        """Start one environment for each person.

        Parameters
        ----------
        people, timestep, seed
            See :meth:`imdy_plugin.interfaces.SimBackend.start`.
        python
            The interpreter that has Isaac Gym; what ``IMDY_ISAACGYM_PYTHON`` says by default.
        device
            Number of the CUDA device, or None for the processor.
        timeout_s
            Longest time that the process may take to answer [s].

        Raises
        ------
        InputError
            There is nobody, the time step is not positive, people have different bodies, or no interpreter is named.
        SolverError
            The process does not start, dies, is silent for too long, or says what is no answer.
        """
        check_people(people, timestep)
        chosen = os.fspath(python) if python is not None else os.environ.get(PYTHON_VARIABLE, "")
        if not chosen:
            raise InputError(f"no interpreter with Isaac Gym is named; set {PYTHON_VARIABLE} to the Python 3.8 that it is installed in, or give python=...")
        worker = Worker([chosen, str(WORKER)], timeout_s)
        try:
            return IsaacGymSimulation(people, timestep, worker, device)
        except BaseException:
            worker.close()
            raise


class IsaacGymSimulation(CheckedSimulation):
    """People simulated by Isaac Gym; see :class:`IsaacGymBackend`."""

    def __init__(self, people: Sequence[xr.Dataset], timestep: float, worker: Worker, device: int | None) -> None:
        from imdy_plugin.sim.humanoid import BODIES, FRICTION, joint_gains

        sizes = (7 + 4 * (len(BODIES) - 1), 6 + 3 * (len(BODIES) - 1), 3 * (len(BODIES) - 1))
        super().__init__([str(p.attrs["name"]) for p in people], timestep, BODIES, sizes, range(3, sizes[0], 4))
        self._kp, self._kd, self._limit = np.moveaxis(np.array([joint_gains(float(p.attrs["mass"])) for p in people]), 1, 0)
        self._armature = [np.zeros_like(self._kd), timestep * self._kd]
        self._center = np.array([p["body_center_of_mass"].sel(body=BODIES[0]).values for p in people], float)
        self._worker = worker
        text = {
            "timestep": timestep,
            "gravity": [0.0, -GRAVITY, 0.0],
            "friction": FRICTION,
            "device": device,
            "assets": _write_assets(people, worker.folder, timestep),
        }
        state, told = worker.ask("start", {}, text)
        self._body, self._dof = _order(told)
        self._position, self._velocity = self._ours(state)

    def close(self) -> None:
        """End the process."""
        self._worker.close()

    def _ours(self, state: Mapping[str, NDArray[Any]]) -> tuple[Array, Array]:
        """Position and velocity in the layout of :class:`imdy_plugin.interfaces.Simulation`."""
        from scipy.spatial.transform import Rotation

        root, joints = state["root"].astype(float), state["dof"][:, self._dof].astype(float)
        finite = np.isfinite(root).all(axis=1) & np.isfinite(joints).all(axis=(1, 2)) & (np.abs(root[:, 3:7]).max(axis=1) > 0)
        root[~finite], joints[~finite] = [0, 0, 0, 0, 0, 0, 1, *[np.nan] * 6], np.nan
        turned = Rotation.from_quat(root[:, 3:7])
        quaternion = Rotation.from_rotvec(np.nan_to_num(joints[..., 0]).reshape(-1, 3)).as_quat(scalar_first=True).reshape(len(root), -1)
        linear = root[:, 7:10] - np.cross(root[:, 10:13], turned.apply(self._center))
        position = np.concatenate([root[:, :3], turned.as_quat(scalar_first=True), quaternion], axis=1)
        position[~finite] = np.nan
        return position, np.concatenate([linear, turned.inv().apply(root[:, 10:13]), joints[..., 1]], axis=1)

    def _theirs(self, position: Array, velocity: Array, worlds: NDArray[np.intp]) -> dict[str, NDArray[Any]]:
        """The same in Isaac Gym's layout."""
        from scipy.spatial.transform import Rotation

        turned = Rotation.from_quat(position[:, 3:7], scalar_first=True)
        spin = turned.apply(velocity[:, 3:6])
        linear = velocity[:, :3] + np.cross(spin, turned.apply(self._center[worlds]))
        angles = Rotation.from_quat(position[:, 7:].reshape(-1, 4), scalar_first=True).as_rotvec().reshape(len(position), -1)
        dof = np.empty((len(position), self.torque_size, 2), "<f4")
        dof[:, self._dof] = np.stack([angles, velocity[:, 6:]], axis=-1)
        root = np.concatenate([position[:, :3], turned.as_quat(), linear, spin], axis=1)
        return {"worlds": worlds.astype("<i4"), "root": root.astype("<f4"), "dof": dof}

    def _put(self, worlds: NDArray[np.intp], position: Array, velocity: Array) -> None:
        state, _ = self._worker.ask("reset", self._theirs(position, velocity, worlds), {})
        self._position, self._velocity = self._ours(state)

    def _read(self) -> tuple[Array, Array]:
        return self._position.copy(), self._velocity.copy()

    def _advance(self, command: Array, substeps: int, *, towards: bool) -> tuple[StepRecord, Array]:
        made = Made.empty(self.worlds, substeps, len(self.bodies), self.velocity_size, self.torque_size)
        for substep in range(substeps):
            self._substep(command, made, substep, towards=towards)
        # nobody says where the forces act
        made.load[..., :3] = np.where(made.load[..., 3:].any(axis=-1, keepdims=True), np.nan, 0.0)
        made.speed[:] = np.linalg.norm(self._velocity, axis=1)
        return made.record(self.timestep), made.speed

    def _substep(self, command: Array, made: Made, substep: int, *, towards: bool) -> None:
        from imdy_plugin.sim.humanoid import joint_angles

        before = self._velocity
        torque = np.clip(self._kp * (command - joint_angles(self._position)) if towards else command, -self._limit, self._limit)
        effort = (torque - self._kd * before[:, 6:] if towards else torque).astype("<f4")
        asked = np.empty((2, self.worlds, self.torque_size), "<f4")
        asked[:, :, self._dof] = np.nan_to_num(effort), self._armature[int(towards)]
        state, _ = self._worker.ask("advance", {"torque": asked[0], "armature": asked[1]}, {"number": int(towards)})
        self._position, self._velocity = self._ours(state)
        gain = self._velocity - before
        made.torque[:, substep] = effort - self._kd * gain[:, 6:] if towards else effort
        made.load[:, substep, :, 3:] = state["contact"][:, self._body]
        if substep == 0:
            made.gain[:] = gain


class Worker:
    """A process that answers requests, and an error where it does not.

    Parameters
    ----------
    command
        What is run.
    timeout_s
        Longest time that an answer may take [s].

    Attributes
    ----------
    folder
        A folder for the process alone, which it runs in.
    """

    def __init__(self, command: Sequence[str], timeout_s: float) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="imdy-isaacgym-")
        self.folder, self._timeout = Path(self._folder.name), timeout_s
        self._words = (self.folder / "stderr.txt").open("w+b")
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._words, cwd=self.folder)
        except OSError as error:
            self._folder.cleanup()
            raise SolverError(f"'{command[0]}' cannot be run: {error.strerror}; set {PYTHON_VARIABLE} to the Python 3.8 that has Isaac Gym") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)

    def ask(self, kind: str, arrays: Mapping[str, NDArray[Any]], text: Mapping[str, Any]) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Send a request, and wait for the answer.

        Raises
        ------
        SolverError
            The process died, is silent for too long, or says what is no answer; its last words are repeated. It is ended.
        """
        if self._process.returncode is not None:
            raise SolverError("Isaac Gym's process has ended; start another simulation")
        header, body = self._exchange(_isaacgym_worker.pack(kind, dict(arrays), dict(text)))
        try:
            answered, given, told = _isaacgym_worker.unpack(header, body)
        except (ValueError, TypeError, KeyError) as error:
            self._fail(f"gave an answer that cannot be read ({error})")
        if answered != "done":
            self._fail(f"could not {kind}: {told.get('fault', 'it does not say why')}")
        return given, told

    def close(self) -> None:
        """End the process and remove its folder."""
        for stream in (self._process.stdin, self._process.stdout, self._words):
            if stream is not None and not stream.closed:
                stream.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def _exchange(self, message: bytes) -> tuple[bytes, bytes]:
        deadline, left, got = time.monotonic() + self._timeout, memoryview(message), bytearray()
        while True:
            readable, writable, _ = select.select([self._out], [self._in] if left else [], [], max(0.0, deadline - time.monotonic()))
            if not (readable or writable):
                self._fail(f"said nothing for {self._timeout:g} s")
            if writable:
                left = left[self._write(left) :]
            if readable:
                got += self._read(got)
            if len(got) >= 20:
                header, body = self._lengths(got)
                if len(got) >= 20 + header + body:
                    return bytes(got[20 : 20 + header]), bytes(got[20 + header :])

    def _write(self, data: memoryview) -> int:
        try:
            return os.write(self._in, data[: 2**16])
        except BrokenPipeError:
            self._fail("closed its ears")

    def _read(self, got: bytearray) -> bytes:
        data = os.read(self._out, 2**20)
        if not data:
            self._fail("ended in the middle of an answer" if got else "ended")
        return data

    def _lengths(self, got: bytearray) -> tuple[int, int]:
        try:
            return _isaacgym_worker.lengths(bytes(got[:20]))
        except ValueError as error:
            self._fail(f"said what is no answer ({error})")

    def _fail(self, what: str) -> NoReturn:
        try:
            code: int | None = self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            code = None
        self._words.seek(0)
        said = self._words.read().decode(errors="replace").strip()[-TAIL:]
        self.close()
        end = "" if code is None else f" (exit code {code})" if code >= 0 else f" ({signal.Signals(-code).name})"
        raise SolverError(f"Isaac Gym's process {what}{end}; its last words: {said or 'none'}")


def _write_assets(people: Sequence[xr.Dataset], folder: Path, timestep: float) -> list[str]:
    """A file for each different person; the path for each person."""
    from imdy_plugin.sim.exports import write_isaac_mjcf

    unique = {id(person): person for person in people}
    paths = {key: str(write_isaac_mjcf(person, folder / f"person_{number}.xml", timestep)) for number, (key, person) in enumerate(unique.items())}
    return [paths[id(person)] for person in people]


def _order(told: Mapping[str, Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Index among Isaac Gym's bodies and joint coordinates of each of ours."""
    from imdy_plugin.sim.exports import ISAAC_BODIES

    wanted = list(ISAAC_BODIES), [f"{body}_{axis}" for body in ISAAC_BODIES[1:] for axis in "xyz"]
    for kind, names in zip(("bodies", "dofs"), wanted, strict=True):
        if sorted(told[kind]) != sorted(names):
            raise SolverError(f"Isaac Gym read {kind} {json.dumps(told[kind])[:300]} from the person's file, not {json.dumps(names)[:300]}")
    body, dof = (np.array([told[kind].index(name) for name in names], dtype=np.intp) for kind, names in zip(("bodies", "dofs"), wanted, strict=True))
    return body, dof
