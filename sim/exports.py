"""A person's body as files that physics engines read: MuJoCo's MJCF, URDF, and an MJCF laid out as Isaac Gym's humanoids are.

All keep the ground frame (x forward, y up, z right), with gravity along -y. Numbers are written to the last digit.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree as ET

import mujoco
import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from imdy_plugin.adapters.smpl.motion import BodyMotion
from imdy_plugin.adapters.smpl.topology import JOINTS
from imdy_plugin.atomic import replacing
from imdy_plugin.errors import InputError
from imdy_plugin.sim.humanoid import BODIES, humanoid_spec, joint_gains
from imdy_plugin.sim.links import Link, links_of, plain_model
from imdy_plugin.sim.opensim_humanoid import coordinate_spec

Array = NDArray[np.float64]

ISAAC_NAMES: dict[str, str] = {
    "pelvis": "Pelvis",
    "spine1": "Torso",
    "spine2": "Spine",
    "spine3": "Chest",
    "neck": "Neck",
    "head": "Head",
    **{
        f"{side}_{joint}": f"{letter}_{name}"
        for side, letter in (("left", "L"), ("right", "R"))
        for joint, name in {
            "hip": "Hip",
            "knee": "Knee",
            "ankle": "Ankle",
            "foot": "Toe",
            "collar": "Thorax",
            "shoulder": "Shoulder",
            "elbow": "Elbow",
            "wrist": "Wrist",
            "hand": "Hand",
        }.items()
    },
}
"""Names of the 24 bodies in assets for Isaac Gym (perpetual humanoid control, Luo et al. 2023)."""

ISAAC_BODIES: tuple[str, ...] = tuple(ISAAC_NAMES[name] for name in BODIES)
"""Those names in the order of the file, and of its hinges: three to each after the first, about x, y and z."""

_WEIGHTLESS = 1e-9
"""Mass [kg] of a link that only joins two hinges of a URDF."""

_JOINTS = {
    mujoco.mjtJoint.mjJNT_FREE: "free",
    mujoco.mjtJoint.mjJNT_BALL: "ball",
    mujoco.mjtJoint.mjJNT_SLIDE: "slide",
    mujoco.mjtJoint.mjJNT_HINGE: "hinge",
}

_GEOMS = {mujoco.mjtGeom.mjGEOM_PLANE: "plane", mujoco.mjtGeom.mjGEOM_SPHERE: "sphere", mujoco.mjtGeom.mjGEOM_CAPSULE: "capsule"}


def write_mjcf(model: xr.Dataset, path: str | os.PathLike[str], *, joints: Literal["coordinates", "balls"] = "coordinates", timestep: float = 1 / 120) -> Path:
    """Write a body as an MJCF file that needs no other file.

    Parameters
    ----------
    model
        A model with a free root; one that is not plain is made so (:func:`~imdy_plugin.sim.links.plain_model`).
    path
        Where to.
    joints
        ``"coordinates"`` gives each coordinate a hinge or a slide of its name, ``"balls"`` (24-joint bodies only) gives a free root and
        ball joints with three actuators each, as the simulation has.
    timestep
        Length of a physics step [s].

    Raises
    ------
    InputError
        The model cannot be simulated so.
    """
    spec = _ball_spec(model, timestep) if joints == "balls" else coordinate_spec(plain_model(model), timestep)
    return _write(path, mjcf_document(spec.compile()))


def write_isaac_mjcf(person: xr.Dataset, path: str | os.PathLike[str], timestep: float = 1 / 120) -> Path:
    """Write a 24-joint body as assets for Isaac Gym are laid out: a free root, and three hinges about x, y and z for each joint.

    Hinges turn one after the other (:func:`isaac_state`). Their stiffness and damping are those of the joint's control, which Isaac
    Gym reads from there; in MuJoCo they would act as springs, so that a simulation there sets ``jnt_stiffness`` and ``dof_damping`` to zero.

    Raises
    ------
    InputError
        The model is no 24-joint body.
    """
    return _write(path, mjcf_document(_isaac_spec(person, timestep).compile()))


def isaac_state(motion: BodyMotion) -> tuple[Array, Array]:
    """Place and quaternion (scalar first) of the root ``(time, 7)`` and the hinges' angles ``(time, 69)`` [rad] of a motion.

    Each joint's rotation is that about x, then about y turned by it, then about z turned by both. Angles run on without jumps.
    """
    order = [JOINTS.index(name) for name in BODIES]
    matrices = Rotation.from_quat(motion.rotation_wxyz.reshape(-1, 4), scalar_first=True).as_matrix().reshape(len(motion), len(JOINTS), 3, 3)
    angles = np.stack([_euler_angles(matrices[:, joint], "xyz") for joint in order[1:]], axis=1)
    root = np.concatenate([motion.root_position, motion.rotation_wxyz[:, 0]], axis=1)
    return root, _continuous(angles).reshape(len(motion), -1)


def motion_of_isaac_state(time: ArrayLike, root: Array, angles: Array, name: str = "") -> BodyMotion:
    """The motion of a root ``(time, 7)`` and hinges ``(time, 69)``, as :func:`isaac_state` gives them."""
    turned = Rotation.from_euler("XYZ", angles.reshape(-1, 3)).as_quat(scalar_first=True).reshape(len(angles), -1, 4)
    rotation = np.empty((len(angles), len(JOINTS), 4))
    rotation[:, [JOINTS.index(body) for body in BODIES]] = np.concatenate([root[:, None, 3:], turned], axis=1)
    return BodyMotion(np.asarray(time, float), root[:, :3].copy(), rotation, name)


def _euler_angles(matrix: Array, letters: str) -> Array:
    """Angles ``(time, 3)`` of turns about three axes, each turned by those before; they give the rotation even in gimbal lock."""
    i, j, k = ("xyz".index(letter) for letter in letters)
    sign = 1.0 if (j - i) % 3 == 1 else -1.0
    first = np.arctan2(-sign * matrix[:, j, k], matrix[:, k, k])
    rest = Rotation.from_euler(letters[0], -first[:, None]).as_matrix() @ matrix
    second, third = np.arctan2(sign * rest[:, i, k], rest[:, k, k]), np.arctan2(sign * rest[:, j, i], rest[:, j, j])
    return np.stack([first, second, third], axis=-1)


def _continuous(angles: Array) -> Array:
    """Angles ``(time, joint, 3)`` with each triple in place of its equal that is nearest to the frame before."""
    out = angles.copy()
    other = angles * [1.0, -1.0, 1.0] + np.pi
    before = np.zeros_like(angles[0])
    for frame in range(len(out)):
        choices = np.stack([angles[frame], other[frame]])
        choices -= 2 * np.pi * np.round((choices - before) / (2 * np.pi))
        nearer = np.abs(choices - before).sum(axis=-1).argmin(axis=0)
        out[frame] = before = np.take_along_axis(choices, nearer[None, :, None], axis=0)[0]
    return out


def write_urdf(model: xr.Dataset, path: str | os.PathLike[str], *, root: Literal["free", "coordinates"] = "free") -> Path:
    """Write a body as a URDF file.

    A joint of several coordinates becomes a chain of links of next to no mass, one for each; joints have the coordinates' names, the last
    link of a chain the body's. URDF has no gravity: simulate with (0, -9.80665, 0).

    Parameters
    ----------
    model
        As in :func:`write_mjcf`.
    path
        Where to.
    root
        ``"free"`` makes the root body the file's first link, which an engine sets free or holds; ``"coordinates"`` carries it from a link
        ``world`` by the root's own slides and hinges.

    Raises
    ------
    InputError
        The model holds a joint that no hinge can stand for.
    """
    return _write(path, urdf_document(plain_model(model), root))


def mjcf_document(model: mujoco.MjModel) -> str:
    """A compiled model of planes, spheres, capsules, joints and joint actuators as an MJCF document.

    Raises
    ------
    InputError
        The model holds a shape of another kind.
    """
    option = {name: _numbers(getattr(model.opt, name)) for name in ("timestep", "gravity", "impratio", "tolerance", "ls_tolerance")}
    option |= {name: str(int(getattr(model.opt, name))) for name in ("iterations", "ls_iterations")}
    option |= {"integrator": _integrator(model), "cone": _cone(model)}
    document = ET.Element("mujoco", model=_title(model))
    ET.SubElement(document, "compiler", angle="radian", autolimits="false", inertiafromgeom="false", balanceinertia="false", fusestatic="false")
    flags = ET.SubElement(ET.SubElement(document, "option", option), "flag")
    flags.set("autoreset", "disable" if model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_AUTORESET else "enable")
    elements = [ET.SubElement(document, "worldbody")]
    for index in range(model.nbody):
        if index > 0:
            elements.append(_body_element(model, index, elements[model.body_parentid[index]]))
        for geom in range(model.ngeom):
            if model.geom_bodyid[geom] == index:
                _geom_element(model, geom, elements[index])
    actuators = ET.SubElement(document, "actuator")
    for index in range(model.nu):
        _actuator_element(model, index, actuators)
    return _text(document)


def _body_element(model: mujoco.MjModel, index: int, carrier: ET.Element) -> ET.Element:
    element = ET.SubElement(carrier, "body", name=model.body(index).name, pos=_numbers(model.body_pos[index]), quat=_numbers(model.body_quat[index]))
    inertial = {"pos": model.body_ipos[index], "quat": model.body_iquat[index], "mass": [model.body_mass[index]], "diaginertia": model.body_inertia[index]}
    ET.SubElement(element, "inertial", {name: _numbers(values) for name, values in inertial.items()})
    first = int(model.body_jntadr[index])
    for joint in range(first, first + int(model.body_jntnum[index])):
        _joint_element(model, joint, element)
    return element


def _joint_element(model: mujoco.MjModel, joint: int, body: ET.Element) -> None:
    kind, name = _JOINTS[mujoco.mjtJoint(model.jnt_type[joint])], model.joint(joint).name
    if kind == "free":
        ET.SubElement(body, "freejoint", name=name)
        return
    element = ET.SubElement(body, "joint", name=name, type=kind, pos=_numbers(model.jnt_pos[joint]), limited="false")
    if kind != "ball":
        element.set("axis", _numbers(model.jnt_axis[joint]))
    if model.jnt_limited[joint]:
        element.attrib |= {"limited": "true", "range": _numbers(model.jnt_range[joint])}
    degree = model.jnt_dofadr[joint]
    passive = {"stiffness": model.jnt_stiffness[joint], "damping": model.dof_damping[degree], "armature": model.dof_armature[degree]}
    element.attrib |= {key: _numbers([value]) for key, value in passive.items() if value}


def _geom_element(model: mujoco.MjModel, geom: int, body: ET.Element) -> None:
    kind = mujoco.mjtGeom(model.geom_type[geom])
    if kind not in _GEOMS:
        raise InputError(f"the shape '{model.geom(geom).name}' is a {kind.name}; planes, spheres and capsules can be written")
    size = {"plane": 3, "sphere": 1, "capsule": 2}[_GEOMS[kind]]
    ET.SubElement(
        body,
        "geom",
        name=model.geom(geom).name,
        type=_GEOMS[kind],
        size=_numbers(model.geom_size[geom][:size]),
        pos=_numbers(model.geom_pos[geom]),
        quat=_numbers(model.geom_quat[geom]),
        contype=str(int(model.geom_contype[geom])),
        conaffinity=str(int(model.geom_conaffinity[geom])),
        condim=str(int(model.geom_condim[geom])),
        priority=str(int(model.geom_priority[geom])),
        attrib={name: _numbers(getattr(model, f"geom_{name}")[geom]) for name in ("friction", "solref", "solimp", "solmix", "margin", "gap")},
    )


def _actuator_element(model: mujoco.MjModel, index: int, actuators: ET.Element) -> None:
    element = ET.SubElement(actuators, "general", name=model.actuator(index).name, joint=model.joint(int(model.actuator_trnid[index, 0])).name)
    element.attrib |= {"gear": _numbers(model.actuator_gear[index]), "gainprm": _numbers(model.actuator_gainprm[index][:1]), "ctrllimited": "false"}
    if model.actuator_biastype[index] == mujoco.mjtBias.mjBIAS_AFFINE:
        element.attrib |= {"biastype": "affine", "biasprm": _numbers(model.actuator_biasprm[index][:3])}
    limited = bool(model.actuator_forcelimited[index])
    element.attrib |= {"forcelimited": "true", "forcerange": _numbers(model.actuator_forcerange[index])} if limited else {"forcelimited": "false"}


def _title(model: mujoco.MjModel) -> str:
    return bytes(model.names).split(b"\0", 1)[0].decode()


def _integrator(model: mujoco.MjModel) -> str:
    names = {"EULER": "Euler", "RK4": "RK4", "IMPLICIT": "implicit", "IMPLICITFAST": "implicitfast"}
    return names[mujoco.mjtIntegrator(model.opt.integrator).name.removeprefix("mjINT_")]


def _cone(model: mujoco.MjModel) -> str:
    return str(mujoco.mjtCone(model.opt.cone).name).removeprefix("mjCONE_").lower()


def _ball_spec(model: xr.Dataset, timestep: float) -> mujoco.MjSpec:
    _require_24(model)
    return humanoid_spec(model, timestep)


def _require_24(model: xr.Dataset) -> None:
    bodies = sorted(str(b) for b in model["body"].values)
    if bodies != sorted(JOINTS):
        found = f"has {len(bodies)} bodies ({', '.join(bodies[:3])} ...), not the 24 of SMPL's topology"
        raise InputError(f"the model '{model.attrs['name']}' {found}; make one by build_standin")


def _isaac_spec(person: xr.Dataset, timestep: float) -> mujoco.MjSpec:
    """The simulated body with each ball joint in three hinges, and motors in place of its actuators."""
    spec = _ball_spec(person, timestep)
    spec.compiler.degree = False
    gains = np.reshape(joint_gains(float(person.attrs["mass"])), (3, -1, 3))
    for actuator in list(spec.actuators):
        spec.delete(actuator)
    for index, name in enumerate(BODIES):
        body = spec.body(name)
        body.name = ISAAC_NAMES[name]
        if index > 0:
            spec.delete(body.joints[0])
            _add_hinges(spec, body, *gains[:, index - 1])
    return spec


def _add_hinges(spec: mujoco.MjSpec, body: mujoco.MjsBody, kp: Array, kd: Array, limit: Array) -> None:
    for number, letter in enumerate("xyz"):
        name = f"{body.name}_{letter}"
        body.add_joint(
            name=name,
            type=mujoco.mjtJoint.mjJNT_HINGE,
            axis=np.eye(3)[number],
            limited=True,
            range=[-np.pi, np.pi],
            stiffness=[kp[number], 0.0, 0.0],
            damping=[kd[number], 0.0, 0.0],
        )
        motor = spec.add_actuator(name=name, trntype=mujoco.mjtTrn.mjTRN_JOINT, target=name)
        motor.set_to_motor()
        motor.forcelimited = True
        motor.forcerange = [-limit[number], limit[number]]


# URDF -------------------------------------------------------------------------------------------------------------------------


def urdf_document(plain: xr.Dataset, root: Literal["free", "coordinates"] = "free") -> str:
    """A plain model as a URDF document, see :func:`write_urdf`."""
    shapes = coordinate_spec(plain).compile()
    document = ET.Element("robot", name=str(plain.attrs["name"]))
    settings = ET.SubElement(document, "mujoco")
    ET.SubElement(settings, "compiler", fusestatic="false", balanceinertia="false", discardvisual="false")
    ET.SubElement(settings, "option", gravity=_numbers(plain.attrs["gravity"]))
    links = links_of(plain)
    if root == "coordinates":
        ET.SubElement(document, "link", name="world")
    for link in links:
        if link.parent >= 0 or root == "coordinates":
            _chain(document, link, links[link.parent].name if link.parent >= 0 else "world")
        _link_element(document, link, shapes)
    return _text(document)


def _chain(document: ET.Element, link: Link, parent: str) -> None:
    """The joints that carry a link, with a link between each two; they meet in the joint's centre."""
    place, turned = link.position + link.rotation @ link.anchor, link.rotation
    away = bool(np.any(link.anchor)) or not link.degrees
    last = len(link.degrees) - 1
    for number, degree in enumerate(link.degrees):
        child = link.name if number == last and not away else f"{degree.coordinate}_link"
        joint = _joint(document, degree.coordinate, "prismatic" if degree.slides else "continuous", parent, child, place, turned)
        ET.SubElement(joint, "axis", xyz=_numbers(degree.axis))
        if degree.slides:
            ET.SubElement(joint, "limit", lower="-1000", upper="1000", effort="100000", velocity="1000")
        if child != link.name:
            _inertial(ET.SubElement(document, "link", name=child), _WEIGHTLESS, np.zeros(3), _WEIGHTLESS * np.eye(3))
        parent, place, turned = child, np.zeros(3), np.eye(3)
    if away:
        _joint(document, f"{link.name}_fixed", "fixed", parent, link.name, place - turned @ link.anchor, turned)


def _joint(document: ET.Element, name: str, kind: str, parent: str, child: str, place: Array, turned: Array) -> ET.Element:
    joint = ET.SubElement(document, "joint", name=name, type=kind)
    _origin(joint, place, turned)
    ET.SubElement(joint, "parent", link=parent)
    ET.SubElement(joint, "child", link=child)
    return joint


def _link_element(document: ET.Element, link: Link, shapes: mujoco.MjModel) -> None:
    element = ET.SubElement(document, "link", name=link.name)
    _inertial(element, link.mass, link.center_of_mass, link.inertia)
    body = shapes.body(link.name).id
    for geom in np.flatnonzero(shapes.geom_bodyid == body):
        turned = Rotation.from_quat(shapes.geom_quat[geom], scalar_first=True).as_matrix()
        for what in ("visual", "collision"):
            shape = ET.SubElement(element, what)
            _origin(shape, shapes.geom_pos[geom], turned)
            _shape(ET.SubElement(shape, "geometry"), shapes, int(geom))


def _shape(geometry: ET.Element, shapes: mujoco.MjModel, geom: int) -> None:
    radius, half = shapes.geom_size[geom][:2]
    if shapes.geom_type[geom] == mujoco.mjtGeom.mjGEOM_SPHERE:
        ET.SubElement(geometry, "sphere", radius=_numbers([radius]))
    else:
        ET.SubElement(geometry, "cylinder", radius=_numbers([radius]), length=_numbers([2 * half]))


def _inertial(link: ET.Element, mass: float, center: Array, inertia: Array) -> None:
    element = ET.SubElement(link, "inertial")
    _origin(element, center, np.eye(3))
    ET.SubElement(element, "mass", value=_numbers([mass]))
    names = {"ixx": (0, 0), "ixy": (0, 1), "ixz": (0, 2), "iyy": (1, 1), "iyz": (1, 2), "izz": (2, 2)}
    ET.SubElement(element, "inertia", {name: _numbers([inertia[at]]) for name, at in names.items()})


def _origin(element: ET.Element, place: Array, turned: Array) -> None:
    ET.SubElement(element, "origin", xyz=_numbers(place), rpy=_numbers(Rotation.from_matrix(turned).as_euler("xyz")))


# Text --------------------------------------------------------------------------------------------------------------------------


def _numbers(values: ArrayLike) -> str:
    return " ".join(repr(float(v) + 0.0) for v in np.ravel(values))


def _text(document: ET.Element) -> str:
    ET.indent(document)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(document, encoding="unicode") + "\n"


def _write(path: str | os.PathLike[str], document: str) -> Path:
    with replacing(path) as temporary:
        temporary.write_text(document, encoding="utf-8")
    return Path(path)
