"""MuJoCo on the processor: the engine that ships, one thread for each of several worlds.

The torque of proportional-derivative control is ``clip(kp (a - q), limit) - kd v+``: the limit holds for what the target asks for,
and the damping acts on the velocity after the step, which is what keeps stiff control stable. Since ``v+ = v + h qdd``, that is the
force ``clip(kp (a - q), limit) - kd v`` on a body whose joints have the inertia ``h kd`` on top of their own; MuJoCo solves for the
contacts of that body, so that they know the damping too. (Its own implicit integrator finds the contacts without the damping and
adds it afterwards: forces of the ground then are several times too large at impacts. Its own limit on an actuator's force takes the
damping away from a joint that reaches it, and light bodies burst.) What is recorded is exactly what acted on the body as it is.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.errors import InputError
from imdy_plugin.interfaces import SimBackend, StepRecord
from imdy_plugin.sim.backends.base import CheckedSimulation, Made, check_people

if TYPE_CHECKING:
    import mujoco

Array = NDArray[np.float64]


class MujocoBackend(SimBackend):
    """MuJoCo, embedded; nothing in it is random, so the seed changes nothing, nor does the number of threads."""

    name: ClassVar[str] = "mujoco"
    summary: ClassVar[str] = "MuJoCo on the processor, worlds in threads"
    requires: ClassVar[tuple[str, ...]] = ("mujoco",)

    def start(self, people: Sequence[xr.Dataset], *, timestep: float = 1 / 120, seed: int = 0, threads: int | None = None) -> MujocoSimulation:
        """Start one world for each person.

        Parameters
        ----------
        people, timestep, seed
            See :meth:`imdy_plugin.interfaces.SimBackend.start`.
        threads
            Worlds that are advanced at once; as many as there are processors for this process by default.

        Raises
        ------
        InputError
            There is nobody, a time step or number of threads is not positive, or people have different bodies.
        """
        check_people(people, timestep)
        if threads is not None and threads < 1:
            raise InputError(f"{threads} threads were asked for; give at least one")
        names = [str(person.attrs["name"]) for person in people]
        return MujocoSimulation(people_models(people, timestep), names, timestep, threads or _processors())


def _processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class PersonModel:
    """A person for MuJoCo: two models whose actuators are the torques of the joints; they share their data.

    Attributes
    ----------
    effort
        The body as it is.
    damped
        The same with the inertia ``h kd`` [kg m^2] added to its joints.
    bodies
        Names of the bodies, root first.
    kp, kd, limit
        Stiffness [N m/rad], damping [N m s/rad] and largest torque [N m] of each joint axis.
    """

    effort: mujoco.MjModel
    damped: mujoco.MjModel
    bodies: tuple[str, ...]
    kp: Array
    kd: Array
    limit: Array


def build_models(person: xr.Dataset, timestep: float) -> PersonModel:
    """Build a person's two models."""
    import mujoco

    from imdy_plugin.sim.humanoid import build_humanoid

    humanoid = build_humanoid(person, timestep)
    effort = copy.copy(humanoid.model)
    effort.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
    effort.actuator_forcelimited[:] = False
    effort.actuator_biastype[:] = mujoco.mjtBias.mjBIAS_NONE
    effort.actuator_gainprm[:, 0] = 1.0
    damped = copy.copy(effort)
    damped.dof_armature[-effort.nu :] += timestep * humanoid.kd
    return PersonModel(effort, damped, humanoid.bodies, humanoid.kp, humanoid.kd, humanoid.torque_limit)


def quaternion_addresses(model: mujoco.MjModel) -> list[int]:
    """Index of the first component of each quaternion among the coordinates."""
    import mujoco

    shift = {int(mujoco.mjtJoint.mjJNT_FREE): 3, int(mujoco.mjtJoint.mjJNT_BALL): 0}
    return [int(address) + shift[int(kind)] for kind, address in zip(model.jnt_type, model.jnt_qposadr, strict=True) if int(kind) in shift]


def people_models(people: Sequence[xr.Dataset], timestep: float) -> list[PersonModel]:
    """Build the models of each person; people who are the same object share them."""
    unique = {id(person): person for person in people}
    models = {key: build_models(person, timestep) for key, person in unique.items()}
    return [models[id(person)] for person in people]


class MujocoSimulation(CheckedSimulation):
    """People simulated by MuJoCo; see :class:`MujocoBackend`."""

    def __init__(self, people: Sequence[PersonModel], names: Sequence[str], timestep: float, threads: int) -> None:
        model = people[0].effort
        super().__init__(names, timestep, people[0].bodies, (model.nq, model.nv, model.nu), quaternion_addresses(model))
        self._worlds = [_World(person) for person in people]
        count = min(threads, len(people))
        self._shares = [range(first, len(people), count) for first in range(count)]
        self._pool = ThreadPoolExecutor(count - 1, "mujoco") if count > 1 else None

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def _put(self, worlds: NDArray[np.intp], position: Array, velocity: Array) -> None:
        for row, world in enumerate(worlds):
            self._worlds[world].put(position[row], velocity[row])

    def _read(self) -> tuple[Array, Array]:
        return np.array([world.qpos for world in self._worlds]), np.array([world.qvel for world in self._worlds])

    def _advance(self, command: Array, substeps: int, *, towards: bool) -> tuple[StepRecord, Array]:
        made = Made.empty(self.worlds, substeps, len(self.bodies), self.velocity_size, self.torque_size)

        def work(share: range) -> None:
            for index in share:
                world = self._worlds[index]
                (world.step_towards if towards else world.step)(command[index], made, index)

        others = [self._pool.submit(work, share) for share in self._shares[1:]] if self._pool is not None else []
        work(self._shares[0])
        for other in others:
            other.result()
        return made.record(self.timestep), made.speed


class _World:
    """One person, and the arrays of MuJoCo's data that are read and written at every step."""

    def __init__(self, person: PersonModel) -> None:
        import mujoco

        self.person, self.data = person, mujoco.MjData(person.effort)
        # MuJoCo prints the first warning of a kind and writes it to a file in the working folder; a world that diverges is raised as an error instead
        for warning in self.data.warning:
            warning.number = 1
        self._step1, self._step2, self._whole, self._contact = mujoco.mj_step1, mujoco.mj_step2, mujoco.mj_step, mujoco.mj_rnePostConstraint
        data = self.data
        self.qpos, self.qvel, self.ctrl, self.memory = data.qpos, data.qvel, data.ctrl, data.qacc_warmstart
        self.length, self.rate = data.actuator_length, data.actuator_velocity
        self.load, self.center = data.cfrc_ext[1:], data.subtree_com[1]
        self._before, self._work, self._damping = np.empty_like(data.qvel), np.empty_like(data.ctrl), np.empty_like(data.ctrl)
        self._lowest = -person.limit

    def put(self, position: Array, velocity: Array) -> None:
        self.qpos[:], self.qvel[:], self.memory[:], self.data.time = position, velocity, 0.0, 0.0

    def step(self, torque: Array, made: Made, world: int) -> None:
        person, torques = self.person, made.torque[world]
        np.clip(torque, -person.limit, person.limit, out=self.ctrl)
        for substep in range(len(torques)):
            np.copyto(self._before, self.qvel)
            self._whole(person.effort, self.data)
            torques[substep] = self.ctrl
            self._note(made, world, substep)
        made.speed[world] = np.sqrt(self.qvel @ self.qvel)

    def step_towards(self, target: Array, made: Made, world: int) -> None:
        person, torques, work = self.person, made.torque[world], self._work
        for substep in range(len(torques)):
            np.copyto(self._before, self.qvel)
            self._step1(person.damped, self.data)
            np.subtract(target, self.length, out=work)
            np.multiply(work, person.kp, out=work)
            np.minimum(work, person.limit, out=work)
            np.maximum(work, self._lowest, out=work)
            np.subtract(work, np.multiply(person.kd, self.rate, out=self._damping), out=self.ctrl)
            self._step2(person.damped, self.data)
            gain = self._note(made, world, substep)
            np.subtract(self.ctrl, np.multiply(person.kd, gain[-len(work) :], out=work), out=torques[substep])
        made.speed[world] = np.sqrt(self.qvel @ self.qvel)

    def _note(self, made: Made, world: int, substep: int) -> Array:
        """Note the loads of the ground and the change of velocity, which is returned."""
        if self.data.ncon:
            self._contact(self.person.effort, self.data)
            made.load[world, substep], made.center[world, substep] = self.load, self.center
        gain: Array = self._before if substep else made.gain[world]
        np.subtract(self.qvel, self._before, out=gain)
        return gain
