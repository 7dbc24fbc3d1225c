"""One way to import OpenSim: quietly, lazily, and with a clear error where it is not installed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

from imdy_plugin.errors import MissingDependencyError


@cache
def import_opensim() -> ModuleType:
    """Import ``opensim`` without its log file in the working folder and without its console chatter.

    Raises
    ------
    MissingDependencyError
        OpenSim is not installed.
    """
    try:
        import opensim
    except ImportError as error:
        raise MissingDependencyError(f"OpenSim cannot be imported ({error}); install it with 'pip install opensim'") from error
    opensim.Logger.removeFileSink()
    opensim.Logger.setLevelString("Error")
    module: ModuleType = opensim
    return module


def is_opensim_object(value: object, class_name: str) -> bool:
    """Whether ``value`` is an OpenSim object of the named class, without importing OpenSim."""
    return any(t.__name__ == class_name and t.__module__.startswith("opensim") for t in type(value).__mro__)


_FOOT_NAMES = (
    ("calcn_r", "calcn_l"),
    ("calcaneus_r", "calcaneus_l"),
    ("foot_r", "foot_l"),
    ("r_foot", "l_foot"),
    ("right_foot", "left_foot"),
    ("foot_right", "foot_left"),
    ("rfoot", "lfoot"),
)


def find_feet(bodies: Iterable[str]) -> tuple[str, ...]:
    """Right and left foot among body names, by the names in use; empty where there is no such pair."""
    lowered = {name.lower(): name for name in bodies}
    for right, left in _FOOT_NAMES:
        if right in lowered and left in lowered:
            return lowered[right], lowered[left]
    return ()


def find_root(model: Any) -> tuple[tuple[str, ...], str]:
    """Coordinates and child body of the joint that lets an ``opensim.Model`` move in ground; ``((), "")`` where none does.

    Such a joint has ground as parent and at least three coordinates, one of them a translation: six in space, three in a plane.
    """
    kinds = coordinate_kinds(model)
    joints = model.getJointSet()
    for joint in (joints.get(i) for i in range(joints.getSize())):
        names = tuple(str(joint.get_coordinates(k).getName()) for k in range(joint.numCoordinates()))
        from_ground = joint.getParentFrame().findBaseFrame().getName() == "ground"
        if from_ground and len(names) >= 3 and any(kinds[n] == "translational" for n in names):
            return names, str(joint.getChildFrame().findBaseFrame().getName())
    return (), ""


def coordinate_kinds(model: Any) -> dict[str, str]:
    """Kind of each coordinate of an ``opensim.Model`` by name, in the model's order.

    ``rotational`` and ``coupled`` (rotates by a function that is not the identity, or rotates and translates) are in radians,
    ``translational`` in metres. OpenSim calls a translation through a scaled function coupled; here it is a translation.
    """
    opensim = import_opensim()
    coordinates = model.getCoordinateSet()
    kinds = {}
    for coordinate in (coordinates.get(i) for i in range(coordinates.getSize())):
        motion = coordinate.getMotionType()
        if motion == opensim.Coordinate.Rotational:
            kind = "rotational"
        elif motion == opensim.Coordinate.Translational or not _rotates(coordinate):
            kind = "translational"
        else:
            kind = "coupled"
        kinds[str(coordinate.getName())] = kind
    return kinds


def _rotates(coordinate: Any) -> bool:
    joint = import_opensim().CustomJoint.safeDownCast(coordinate.getJoint())
    if joint is None:
        return True
    transform = joint.getSpatialTransform()
    axes = (transform.get_rotation1(), transform.get_rotation2(), transform.get_rotation3())
    names = [axis.getCoordinateNamesInArray() for axis in axes]
    return any(array.get(i) == coordinate.getName() for array in names for i in range(array.getSize()))


def strip_forces(model: Any, *, only_muscles: bool = False) -> tuple[str, ...]:
    """Remove the forces (or only the muscles), controllers and probes of an ``opensim.Model``; return the names of the forces removed.

    Gravity stays. Without its muscles a model builds even where a muscle's parameters are unlawful.
    """
    muscle = import_opensim().Muscle
    forces = model.updForceSet()
    removed = []
    for index in reversed(range(forces.getSize())):
        force = forces.get(index)
        if not only_muscles or muscle.safeDownCast(force) is not None:
            removed.append(str(force.getName()))
            forces.remove(index)
    for owned in (model.updControllerSet(), model.updProbeSet()):
        owned.clearAndDestroy()
    model.finalizeFromProperties()
    return tuple(reversed(removed))


def passive_forces(model: Any) -> tuple[str, ...]:
    """Names of an ``opensim.Model``'s forces that act without being driven: springs, bushings, limits, contact."""
    actuator = import_opensim().Actuator
    forces = model.getForceSet()
    found = [forces.get(index) for index in range(forces.getSize())]
    return tuple(str(force.getName()) for force in found if actuator.safeDownCast(force) is None and force.get_appliesForce())


@contextmanager
def silenced() -> Iterator[None]:
    """Within this context OpenSim writes nothing to the console; what matters comes as an exception."""
    logger = import_opensim().Logger
    level = logger.getLevelString()
    logger.setLevelString("Off")
    try:
        yield
    finally:
        logger.setLevelString(level)
