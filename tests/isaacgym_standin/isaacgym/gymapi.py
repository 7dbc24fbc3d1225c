"""The simulator: float32 buffers of all actors, refreshed on request; three hinges of a body become one ball joint."""

import os
from pathlib import Path
from types import SimpleNamespace

import mujoco
import numpy as np

UP_AXIS_Y, SIM_PHYSX, DOF_MODE_EFFORT = 0, 1, 3

DOF_PROPERTIES = [
    ("hasLimits", "?"),
    ("lower", "f4"),
    ("upper", "f4"),
    ("driveMode", "i4"),
    ("velocity", "f4"),
    ("effort", "f4"),
    ("stiffness", "f4"),
    ("damping", "f4"),
    ("friction", "f4"),
    ("armature", "f4"),
]


class Vec3:
    def __init__(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> None:
        self.x, self.y, self.z = x, y, z


class SimParams(SimpleNamespace):
    def __init__(self) -> None:
        super().__init__(physx=SimpleNamespace())


class PlaneParams(SimpleNamespace):
    pass


class AssetOptions(SimpleNamespace):
    pass


class Transform(SimpleNamespace):
    pass


def acquire_gym() -> "Gym":
    return Gym()


class Gym:
    def create_sim(self, device: int, graphics: int, engine: int, params: SimParams) -> SimpleNamespace:
        if os.environ.get("STANDIN_FAULT") == "sim":
            return None
        assert (engine, params.up_axis, params.substeps) == (SIM_PHYSX, UP_AXIS_Y, 1)
        return SimpleNamespace(params=params, actors=[], plane=None, ready=False)

    def add_ground(self, sim: SimpleNamespace, plane: PlaneParams) -> None:
        assert (plane.normal.x, plane.normal.y, plane.normal.z) == (0.0, 1.0, 0.0)
        sim.plane = plane

    def load_asset(self, sim: SimpleNamespace, root: str, name: str, options: AssetOptions) -> mujoco.MjModel:
        spec = mujoco.MjSpec.from_file(str(Path(root) / name))
        gravity = sim.params.gravity
        spec.option.timestep, spec.option.gravity = sim.params.dt, [gravity.x, gravity.y, gravity.z]
        spec.option.disableflags = mujoco.mjtDisableBit.mjDSBL_AUTORESET
        for actuator in list(spec.actuators):
            spec.delete(actuator)
        for geom in spec.geoms:
            if geom.type == mujoco.mjtGeom.mjGEOM_PLANE:
                geom.friction[0] = sim.plane.static_friction
        for body in spec.bodies:
            if len(body.joints) == 3:
                self._make_ball(spec, body)
        return spec.compile()

    def _make_ball(self, spec: mujoco.MjSpec, body: mujoco.MjsBody) -> None:
        names = [joint.name for joint in body.joints]
        for joint in list(body.joints):
            spec.delete(joint)
        body.add_joint(name=names[0], type=mujoco.mjtJoint.mjJNT_BALL)
        for axis, name in enumerate(names):
            gear = np.zeros(6)
            gear[axis] = 1.0
            spec.add_actuator(name=name, trntype=mujoco.mjtTrn.mjTRN_JOINT, target=names[0], gear=gear).set_to_motor()

    def get_asset_rigid_body_names(self, asset: mujoco.MjModel) -> list[str]:
        return [asset.body(i).name for i in range(1, asset.nbody) if os.environ.get("STANDIN_FAULT") != "names" or i != 7]

    def get_asset_dof_names(self, asset: mujoco.MjModel) -> list[str]:
        return [asset.actuator(i).name for i in range(asset.nu)]

    def create_env(self, sim: SimpleNamespace, low: Vec3, high: Vec3, per_row: int) -> SimpleNamespace:
        return sim

    def create_actor(self, env: SimpleNamespace, asset: mujoco.MjModel, pose: Transform, name: str, group: int, filtered: int) -> int:
        assert (group, filtered) == (len(env.actors), 1)
        model = asset.__copy__()
        env.actors.append(SimpleNamespace(model=model, data=mujoco.MjData(model)))
        return group

    def prepare_sim(self, sim: SimpleNamespace) -> None:
        count, dofs, bodies = len(sim.actors), sim.actors[0].model.nu, sim.actors[0].model.nbody - 1
        sim.root, sim.dof = np.zeros((count, 13), "f4"), np.zeros((count * dofs, 2), "f4")
        sim.contact = np.zeros((count * bodies, 3), "f4")

    def acquire_actor_root_state_tensor(self, sim: SimpleNamespace) -> np.ndarray:
        return sim.root

    def acquire_dof_state_tensor(self, sim: SimpleNamespace) -> np.ndarray:
        return sim.dof

    def acquire_net_contact_force_tensor(self, sim: SimpleNamespace) -> np.ndarray:
        return sim.contact

    def get_actor_dof_properties(self, env: SimpleNamespace, actor: int) -> np.ndarray:
        return np.zeros(env.actors[actor].model.nu, DOF_PROPERTIES)

    def set_actor_dof_properties(self, env: SimpleNamespace, actor: int, props: np.ndarray) -> None:
        model = env.actors[actor].model
        assert (props["driveMode"] == DOF_MODE_EFFORT).all()
        assert not props["hasLimits"].any()
        assert not props["stiffness"].any()
        assert not props["damping"].any()
        model.dof_armature[6:] = props["armature"]

    def set_actor_root_state_tensor_indexed(self, sim: SimpleNamespace, root: np.ndarray, chosen: np.ndarray, count: int) -> None:
        assert chosen.dtype == np.int32
        for actor, row in ((sim.actors[i], root.reshape(-1, 13)[i].astype(float)) for i in chosen[:count]):
            data, turn = actor.data, np.zeros(9)
            data.qpos[:3], data.qpos[3:7] = row[:3], row[[6, 3, 4, 5]]
            mujoco.mju_normalize4(data.qpos[3:7])
            mujoco.mju_quat2Mat(turn, data.qpos[3:7])
            turn = turn.reshape(3, 3)
            data.qvel[:3] = row[7:10] - np.cross(row[10:13], turn @ actor.model.body_ipos[1])
            data.qvel[3:6] = turn.T @ row[10:13]
            data.qacc_warmstart[:] = 0.0

    def set_dof_state_tensor_indexed(self, sim: SimpleNamespace, dof: np.ndarray, chosen: np.ndarray, count: int) -> None:
        for actor, rows in ((sim.actors[i], dof.reshape(len(sim.actors), -1, 2)[i].astype(float)) for i in chosen[:count]):
            actor.data.qvel[6:] = rows[:, 1]
            for joint, vector in enumerate(rows[:, 0].reshape(-1, 3)):
                angle, quaternion = np.linalg.norm(vector), np.zeros(4)
                mujoco.mju_axisAngle2Quat(quaternion, vector / angle if angle else np.array([1.0, 0.0, 0.0]), angle)
                actor.data.qpos[7 + 4 * joint : 11 + 4 * joint] = quaternion

    def set_dof_actuation_force_tensor(self, sim: SimpleNamespace, force: np.ndarray) -> None:
        assert force.dtype == np.float32
        for actor, row in zip(sim.actors, force.reshape(len(sim.actors), -1), strict=True):
            actor.data.ctrl[:] = row

    def simulate(self, sim: SimpleNamespace) -> None:
        fault = os.environ.get("STANDIN_FAULT")
        if fault == "die":
            os.abort()
        if fault == "hang":
            while True:
                pass
        if fault == "raise":
            raise RuntimeError("PhysX ran out of memory")
        for actor in sim.actors:
            mujoco.mj_step(actor.model, actor.data)
            mujoco.mj_rnePostConstraint(actor.model, actor.data)

    def fetch_results(self, sim: SimpleNamespace, wait: bool) -> None:
        assert wait

    def refresh_actor_root_state_tensor(self, sim: SimpleNamespace) -> None:
        for row, actor in zip(sim.root, sim.actors, strict=True):
            data, turn = actor.data, np.zeros(9)
            mujoco.mju_quat2Mat(turn, data.qpos[3:7])
            turn = turn.reshape(3, 3)
            spin = turn @ data.qvel[3:6]
            row[:3], row[3:7], row[10:13] = data.qpos[:3], data.qpos[[4, 5, 6, 3]], spin
            row[7:10] = data.qvel[:3] + np.cross(spin, turn @ actor.model.body_ipos[1])

    def refresh_dof_state_tensor(self, sim: SimpleNamespace) -> None:
        for rows, actor in zip(sim.dof.reshape(len(sim.actors), -1, 2), sim.actors, strict=True):
            rows[:, 1] = actor.data.qvel[6:]
            for joint in range(actor.model.njnt - 1):
                vector = np.zeros(3)
                mujoco.mju_quat2Vel(vector, actor.data.qpos[7 + 4 * joint : 11 + 4 * joint], 1.0)
                rows[3 * joint : 3 * joint + 3, 0] = vector

    def refresh_net_contact_force_tensor(self, sim: SimpleNamespace) -> None:
        for rows, actor in zip(sim.contact.reshape(len(sim.actors), -1, 3), sim.actors, strict=True):
            rows[:] = actor.data.cfrc_ext[1:, 3:]
