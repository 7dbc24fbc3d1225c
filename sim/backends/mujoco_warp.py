"""MuJoCo Warp: MuJoCo's equations for thousands of worlds at once on a CUDA device, in single precision.

Control and what is recorded are those of :mod:`imdy_plugin.sim.backends.mujoco`, from which the people's models come.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.errors import InputError
from imdy_plugin.interfaces import SimBackend, StepRecord
from imdy_plugin.sim.backends.base import CheckedSimulation, Made, check_people
from imdy_plugin.sim.backends.mujoco import PersonModel, people_models, quaternion_addresses

if TYPE_CHECKING:
    import mujoco

Array = NDArray[np.float64]

CONTACTS = {"mjGEOM_SPHERE": 1, "mjGEOM_CAPSULE": 2}
"""Largest number of contacts of a shape with a plane; of others :data:`MOST_CONTACTS`."""

MOST_CONTACTS = 4

ROWS = 6
"""Largest number of rows that a contact has in the solver."""

UNUSED = frozenset({"dof_length"})
"""Arrays of a model that people may differ in without effect: this one weighs speeds to tell whether a body may sleep, and nobody sleeps."""


class MujocoWarpBackend(SimBackend):
    """MuJoCo Warp, on the first CUDA device if there is one and on the processor (slowly) if not; the seed changes nothing."""

    name: ClassVar[str] = "mujoco-warp"
    summary: ClassVar[str] = "MuJoCo Warp on a CUDA device, single precision"
    requires: ClassVar[tuple[str, ...]] = ("mujoco", "mujoco_warp", "warp")

    def start(self, people: Sequence[xr.Dataset], *, timestep: float = 1 / 120, seed: int = 0, device: str | None = None) -> MujocoWarpSimulation:
        """Start one world for each person.

        Parameters
        ----------
        people, timestep, seed
            See :meth:`imdy_plugin.interfaces.SimBackend.start`.
        device
            Warp's name of the device, such as ``cuda:1`` or ``cpu``; Warp's preferred one by default.

        Raises
        ------
        InputError
            There is nobody, the time step is not positive, people have different bodies, or there is no such device.
        """
        import warp

        check_people(people, timestep)
        if device is not None and device not in (known := [str(d) for d in warp.get_devices()]):
            raise InputError(f"Warp has no device '{device}'; it has {', '.join(known)}")
        names = [str(person.attrs["name"]) for person in people]
        with warp.ScopedDevice(device):
            return MujocoWarpSimulation(people_models(people, timestep), names, timestep)


class MujocoWarpSimulation(CheckedSimulation):
    """People simulated by MuJoCo Warp; see :class:`MujocoWarpBackend`."""

    def __init__(self, people: Sequence[PersonModel], names: Sequence[str], timestep: float) -> None:
        import mujoco_warp
        import warp

        model = people[0].effort
        super().__init__(names, timestep, people[0].bodies, (model.nq, model.nv, model.nu), quaternion_addresses(model))
        self._engine, self._warp, self._device = mujoco_warp, warp, warp.get_device()
        self._model = _batched(people)
        self._kp, self._kd, self._limit = (np.array([getattr(person, name) for person in people]) for name in ("kp", "kd", "limit"))
        self._armature = [self._array([getattr(p, kind).dof_armature for p in people], like=self._model.dof_armature) for kind in ("effort", "damped")]
        contacts = _most_contacts(model)
        self._data = mujoco_warp.make_data(model, nworld=len(people), nconmax=contacts, njmax=ROWS * contacts)

    def _array(self, rows: Sequence[NDArray[Any]], like: Any) -> Any:
        return self._warp.array(np.asarray(rows), dtype=like.dtype, device=self._device)

    def _put(self, worlds: NDArray[np.intp], position: Array, velocity: Array) -> None:
        chosen = np.zeros(self.worlds, dtype=bool)
        chosen[worlds] = True
        state = [(self._data.qpos, position), (self._data.qvel, velocity)]
        kept = [array.numpy().copy() for array, _ in state]
        self._engine.reset_data(self._model, self._data, reset=self._warp.array(chosen, dtype=bool, device=self._device))
        for (array, rows), values in zip(state, kept, strict=True):
            values[worlds] = rows
            array.assign(values)

    def _read(self) -> tuple[Array, Array]:
        return _host(self._data.qpos), _host(self._data.qvel)

    def _advance(self, command: Array, substeps: int, *, towards: bool) -> tuple[StepRecord, Array]:
        made = Made.empty(self.worlds, substeps, len(self.bodies), self.velocity_size, self.torque_size)
        self._model.dof_armature = self._armature[int(towards)]
        with self._warp.ScopedDevice(self._device):
            for substep in range(substeps):
                self._substep(command, made, substep, towards=towards)
        made.speed[:] = np.linalg.norm(_host(self._data.qvel), axis=1)
        return made.record(self.timestep), made.speed

    def _substep(self, command: Array, made: Made, substep: int, *, towards: bool) -> None:
        data, before = self._data, _host(self._data.qvel)
        self._engine.step1(self._model, data)
        torque = np.clip(self._kp * (command - _host(data.actuator_length)) if towards else command, -self._limit, self._limit)
        data.ctrl.assign((torque - self._kd * _host(data.actuator_velocity) if towards else torque).astype(np.float32))
        self._engine.step2(self._model, data)
        gain = _host(data.qvel) - before
        made.torque[:, substep] = _host(data.ctrl) - self._kd * gain[:, -self.torque_size :] if towards else _host(data.ctrl)
        made.load[:, substep], made.center[:, substep] = _host(data.cfrc_ext)[:, 1:], _host(data.subtree_com)[:, 1]
        if substep == 0:
            made.gain[:] = gain


def _host(array: Any) -> Array:
    """A copy of a device's array, in double precision."""
    copied: Array = array.numpy().astype(np.float64)
    return copied


def _batched(people: Sequence[PersonModel]) -> Any:
    """One model of all worlds: what differs between people is held for each world."""
    import mujoco_warp
    import warp

    unique = {id(person): person for person in people}
    models = {key: mujoco_warp.put_model(_supported(person.effort)) for key, person in unique.items()}
    first = models[id(people[0])]
    for name, array in vars(first).items():
        if not isinstance(array, warp.array) or name in UNUSED:
            continue
        values = {key: getattr(model, name).numpy() for key, model in models.items()}
        if all(_equal(value, values[id(people[0])]) for value in values.values()):
            continue
        if any(value.shape[0] != 1 for value in values.values()):
            raise InputError(f"the bodies of the people differ in '{name}', which MuJoCo Warp holds once for all worlds; start a simulation for each")
        setattr(first, name, warp.array(np.concatenate([values[id(person)] for person in people]), dtype=array.dtype))
    first.opt.deterministic = True
    first.opt.run_rne_postconstraint = True
    return first


def _equal(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one.shape == other.shape and bool(np.array_equal(one, other))


def _supported(model: mujoco.MjModel) -> mujoco.MjModel:
    """The same model without the flag against automatic resets, which MuJoCo Warp neither knows nor makes."""
    import mujoco

    plain = copy.copy(model)
    plain.opt.disableflags &= ~int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
    return plain


def _most_contacts(model: mujoco.MjModel) -> int:
    """Contacts with the ground when every shape lies on it."""
    import mujoco

    return sum(CONTACTS.get(mujoco.mjtGeom(int(kind)).name, MOST_CONTACTS) for kind, body in zip(model.geom_type, model.geom_bodyid, strict=True) if body > 0)
