"""OpenSim models: an .osim file or an ``opensim.Model`` into the common representation."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar
from xml.etree.ElementTree import Element, fromstring

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin._opensim import coordinate_kinds, find_feet, find_root, import_opensim, is_opensim_object, silenced, strip_forces
from imdy_plugin.adapters.model_outline import read_outline
from imdy_plugin.errors import DataWarning, FileFormatError, ImdyError, InputError
from imdy_plugin.interfaces import Deferred, LoadedModel, ModelAdapter
from imdy_plugin.schema import add_log, new_model

FloatArray = NDArray[np.float64]

TRANSFORM_AXES = ("rotation1", "rotation2", "rotation3", "translation1", "translation2", "translation3")
"""Axes of a joint's transform in the order they act: three body-fixed rotations, then translations along the parent frame."""

_UNIT_AXES = dict(zip(TRANSFORM_AXES, np.tile(np.eye(3), (2, 1)).tolist(), strict=True))

_SIMPLE_JOINTS = {
    "WeldJoint": (),
    "PinJoint": ("rotation3",),
    "SliderJoint": ("translation1",),
    "UniversalJoint": ("rotation1", "rotation2"),
    "GimbalJoint": ("rotation1", "rotation2", "rotation3"),
    "BallJoint": ("rotation1", "rotation2", "rotation3"),
    "PlanarJoint": ("rotation3", "translation1", "translation2"),
    "FreeJoint": TRANSFORM_AXES,
}


class OpenSimModelAdapter(ModelAdapter):
    """Reads OpenSim models."""

    name: ClassVar[str] = "opensim"
    summary: ClassVar[str] = "OpenSim models: an .osim path or an opensim.Model"

    def accepts(self, source: Any) -> bool:
        """Whether ``source`` is an ``.osim`` path or an ``opensim.Model``."""
        if isinstance(source, (str, os.PathLike)):
            return str(source).lower().endswith(".osim")
        return is_opensim_object(source, "Model")

    def load(self, source: Any) -> LoadedModel:
        """Read ``source``; the native model is handed on whole, with its muscles, and read from a file when it is first asked for.

        Beyond the schema's attributes the dataset states ``root_body``, ``source``, ``own_forces`` (names of the model's own
        forces), ``other_constraints`` and ``knee_sign``: +1 where a positive knee angle is flexion, -1 where a negative one is, 0 without a knee.

        Raises
        ------
        FileFormatError
            The file does not exist, is empty, is cut short (with the line), declares XML entities, or is not a model.
        InputError
            A body has a negative mass, or moves without any mass.
        """
        if isinstance(source, (str, os.PathLike)):
            return _load_file(Path(source))
        return LoadedModel(_to_dataset(source, f"opensim.Model '{source.getName()}'"), source)


def scale_mass(loaded: LoadedModel, mass: float) -> LoadedModel:
    """Scale all masses and inertias by one factor to a total of ``mass`` [kg]; the input is not changed.

    Raises
    ------
    InputError
        ``mass`` is not positive and finite.
    """
    if not (np.isfinite(mass) and mass > 0):
        raise InputError(f"the mass is {mass} kg; give a positive number of kilograms")
    before = float(loaded.dataset.attrs["mass"])
    factor = mass / before
    scaled = {name: loaded.dataset[name] * factor for name in ("body_mass", "body_inertia")}
    ds = loaded.dataset.assign({name: array.assign_attrs(loaded.dataset[name].attrs) for name, array in scaled.items()})
    ds = add_log(ds.assign_attrs(mass=float(mass)), f"masses and inertias scaled by {factor:.6g} from {before:.6g} to {mass:.6g} kg")
    given = loaded.deferred_native
    return LoadedModel(ds, None if given is None else Deferred(lambda: _scaled_native(loaded.native, factor)))


def _scaled_native(native: Any, factor: float) -> Any:
    opensim = import_opensim()
    with silenced():
        clone = native.clone()
        bodies = clone.getBodySet()
        for body in (bodies.get(i) for i in range(bodies.getSize())):
            inertia = body.get_inertia()
            body.set_mass(body.get_mass() * factor)
            body.set_inertia(opensim.Vec6(*(inertia.get(k) * factor for k in range(6))))
    return clone


def _load_file(path: Path) -> LoadedModel:
    """Read a model's skeleton, which takes a fraction of the time, and promise the whole; where that is not possible read the whole."""
    return _load_skeleton(path) or _load_whole(path)


def _load_skeleton(path: Path) -> LoadedModel | None:
    outline = read_outline(path)
    if outline is None:
        return None
    try:
        native = _open_text(path, outline.skeleton)
        dataset = _to_dataset(native, str(path), outline.forces)
    except ImdyError:
        return None
    _check_version(path, outline.version)
    return LoadedModel(dataset, Deferred(lambda: _open_as_it_was(path, outline.text)))


def _load_whole(path: Path) -> LoadedModel:
    from imdy_plugin.adapters.safe_xml import parse_xml

    root = parse_xml(path)
    if root.tag != "OpenSimDocument" or root.find("Model") is None:
        raise FileFormatError(
            path, f"holds <{root.tag}> with {[child.tag for child in root][:3]}, not an OpenSim model", "give an .osim file with <OpenSimDocument><Model>"
        )
    _check_version(path, root.get("Version", ""))
    native = _open(path)
    return LoadedModel(_to_dataset(native, str(path)), native)


def _open(path: Path) -> Any:
    opensim = import_opensim()
    try:
        with silenced():
            return opensim.Model(str(path))
    except RuntimeError as error:
        fix = _hint(error) or "open it in OpenSim and save it again"
        raise FileFormatError(path, f"OpenSim cannot read the model: {_first_line(error)}", fix) from error


def _open_as_it_was(path: Path, text: bytes) -> Any:
    """Open a model that has been read before, even where its file has changed or gone since."""
    unchanged = path.is_file() and path.read_bytes() == text
    return _open(path) if unchanged else _open_text(path, text)


def _open_text(path: Path, text: bytes) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, path.name)
        copy.write_bytes(text)
        return _open(copy)


def _check_version(path: Path, version: str) -> None:
    if not version.isdigit():
        raise FileFormatError(path, f"has document version '{version}'", 'an .osim file starts with <OpenSimDocument Version="40600"> or similar')
    if int(version) > _latest_version():
        warnings.warn(
            f"{path}: document version {version} is newer than this OpenSim's {_latest_version()}; parts it does not know are left out -- update opensim",
            DataWarning,
            stacklevel=4,
        )


@cache
def _latest_version() -> int:
    """Document version that the installed OpenSim writes."""
    from imdy_plugin.adapters.safe_xml import parse_xml

    with tempfile.TemporaryDirectory() as folder, silenced():
        file = Path(folder) / "empty.osim"
        import_opensim().Model().printToXML(str(file))
        return int(parse_xml(file).attrib["Version"])


def _to_dataset(native: Any, origin: str, own_forces: Sequence[str] | None = None) -> xr.Dataset:
    """The dataset of a model; one whose forces are told is a skeleton without them, and may be changed."""
    try:
        with silenced():
            model = native if own_forces is not None else native.clone()
            own_forces = strip_forces(model) if own_forces is None else own_forces
            state = model.initSystem()
    except RuntimeError as error:
        raise InputError(f"{origin}: OpenSim cannot build the model: {_first_line(error)} -- {_hint(error)}") from error
    coords, variables = _body_variables(model)
    for part_coords, part in (_joint_variables(model), _coordinate_variables(model), _marker_variables(model)):
        coords |= part_coords
        variables |= part
    _check_massless(origin, coords["body"], variables)
    root_coordinates, root_body = find_root(model)
    feet = find_feet(coords["body"])
    attrs = {
        "name": str(model.getName()) or Path(origin).stem,
        "mass": float(np.sum(variables["body_mass"])),
        "gravity": model.getGravity().to_numpy().tolist(),
        "root_coordinates": list(root_coordinates),
        "root_body": root_body,
        "foot_bodies": list(feet),
        "knee_sign": _knee_sign(model, state, coords["coordinate"], feet),
        "own_forces": list(own_forces),
        "other_constraints": _other_constraints(model),
        "source": origin,
    }
    return add_log(new_model(coords=coords, variables=variables, attrs=attrs), f"read from {origin}")


def _items(native_set: Any) -> list[Any]:
    return [native_set.get(i) for i in range(native_set.getSize())]


def _body_variables(model: Any) -> tuple[dict[str, list[str]], dict[str, Any]]:
    bodies = _items(model.getBodySet())
    inertias = [body.getInertia() for body in bodies]
    return {"body": [str(b.getName()) for b in bodies]}, {
        "body_mass": np.array([b.get_mass() for b in bodies]),
        "body_center_of_mass": _rows(b.get_mass_center().to_numpy() for b in bodies),
        "body_inertia": np.array([np.concatenate([i.getMoments().to_numpy(), i.getProducts().to_numpy()]) for i in inertias]).reshape(-1, 6),
    }


def _joint_variables(model: Any) -> tuple[dict[str, list[str]], dict[str, Any]]:
    joints = _items(model.getJointSet())
    parents = [_in_base(j.getParentFrame()) for j in joints]
    children = [_in_base(j.getChildFrame()) for j in joints]
    return {"joint": [str(j.getName()) for j in joints]}, {
        "joint_type": _text(str(j.getConcreteClassName()) for j in joints),
        "joint_parent": _text(p[0] for p in parents),
        "joint_child": _text(c[0] for c in children),
        "joint_parent_location": _rows(p[1] for p in parents),
        "joint_parent_orientation": _rows(p[2] for p in parents),
        "joint_child_location": _rows(c[1] for c in children),
        "joint_child_orientation": _rows(c[2] for c in children),
        "joint_transform": _text(json.dumps(_transform(j)) for j in joints),
    }


def _in_base(frame: Any) -> tuple[str, FloatArray, FloatArray]:
    """Name of the body under a frame, and the frame's origin and body-fixed x-y-z angles in it."""
    transform = frame.findTransformInBaseFrame()
    return str(frame.findBaseFrame().getName()), transform.p().to_numpy(), transform.R().convertRotationToBodyFixedXYZ().to_numpy()


def _transform(joint: Any) -> dict[str, Any]:
    """The six axes of a joint: for each its direction, its coordinates and the function of them; or the joint's own properties."""
    coordinates = [str(joint.get_coordinates(k).getName()) for k in range(joint.numCoordinates())]
    kind = str(joint.getConcreteClassName())
    if kind in _SIMPLE_JOINTS:
        moving = dict(zip(_SIMPLE_JOINTS[kind], coordinates, strict=True))
        return {axis: _unit_axis(axis, moving.get(axis)) for axis in TRANSFORM_AXES}
    element = _xml(joint)
    spatial = element.find("SpatialTransform")
    if spatial is None:
        return {"type": kind, "coordinates": coordinates} | {child.tag: _value(child) for child in element if not len(child) and (child.text or "").strip()}
    native = import_opensim().CustomJoint.safeDownCast(joint).getSpatialTransform()
    return {name: _transform_axis(axis, getattr(native, f"get_{name}")()) for axis in spatial.findall("TransformAxis") for name in [str(axis.get("name"))]}


def _unit_axis(axis: str, coordinate: str | None) -> dict[str, Any]:
    function = {"type": "LinearFunction", "coefficients": [1.0, 0.0]} if coordinate else {"type": "Constant", "value": 0.0}
    return {"axis": _UNIT_AXES[axis], "coordinates": [coordinate] if coordinate else [], "function": function}


def _transform_axis(element: Element, native: Any) -> dict[str, Any]:
    functions = [_exact(_function(child), native.get_function()) for child in element if child.tag not in ("coordinates", "axis", "components")]
    return {
        "axis": _numbers(element.findtext("axis", "")),
        "coordinates": element.findtext("coordinates", "").split(),
        "function": functions[0] if functions else {"type": "Constant", "value": 0.0},
    }


def _function(element: Element) -> dict[str, Any]:
    """A function as its type and parameters; a function inside (of a multiplier) the same way."""
    if element.tag == "function" and len(element) == 1:
        return _function(element[0])
    out: dict[str, Any] = {"type": element.tag}
    for child in element:
        if child.tag != "components":
            out[child.tag] = _function(child) if len(child) else _value(child)
    return out


def _exact(told: dict[str, Any], function: Any) -> dict[str, Any]:
    """A function as :func:`_function` tells it, its lists of numbers to the last digit: OpenSim writes six of some."""
    helper = import_opensim().PropertyHelper
    for entry in (function.getPropertyByIndex(i) for i in range(function.getNumProperties())):
        if entry.isObjectProperty() and entry.size() == 1 and entry.getName() in told:
            _exact(told[entry.getName()], entry.getValueAsObject())
        elif entry.getTypeName() == "double" and entry.isListProperty():
            told[entry.getName()] = [helper.getValueDouble(entry, k) for k in range(entry.size())]
    return told


def _value(element: Element) -> Any:
    text = (element.text or "").strip()
    if text in ("true", "false"):
        return text == "true"
    try:
        numbers = _numbers(text)
    except ValueError:
        return text
    plural = element.tag in ("x", "y", "coefficients") or len(numbers) != 1
    return numbers if plural else numbers[0]


def _coordinate_variables(model: Any) -> tuple[dict[str, list[str]], dict[str, Any]]:
    kinds = coordinate_kinds(model)
    coordinates = _items(model.getCoordinateSet())
    couplings = _couplings(model)
    names = [str(c.getName()) for c in coordinates]
    return {"coordinate": names}, {
        "coordinate_joint": _text(str(c.getJoint().getName()) for c in coordinates),
        "coordinate_kind": _text(kinds[n] for n in names),
        "coordinate_default": np.array([c.getDefaultValue() for c in coordinates], float),
        "coordinate_range": np.array([[c.getRangeMin(), c.getRangeMax()] for c in coordinates], float).reshape(-1, 2),
        "coordinate_locked": np.array([bool(c.get_locked()) for c in coordinates], bool),
        "coordinate_clamped": np.array([bool(c.get_clamped()) for c in coordinates], bool),
        "coordinate_prescribed": np.array([bool(c.get_prescribed()) for c in coordinates], bool),
        "coordinate_coupling": _text(json.dumps(couplings[n]) if n in couplings else "" for n in names),
    }


def _couplings(model: Any) -> dict[str, dict[str, Any]]:
    """For each coupled coordinate the coordinates it follows, the function of them, and a factor."""
    found = {}
    for constraint in _items(model.getConstraintSet()):
        if constraint.getConcreteClassName() != "CoordinateCouplerConstraint" or not constraint.get_isEnforced():
            continue
        element = _xml(constraint)
        holder = element.find("coupled_coordinates_function")
        coupler = import_opensim().CoordinateCouplerConstraint.safeDownCast(constraint)
        function = _exact(_function(holder[0]), coupler.getFunction()) if holder is not None and len(holder) else {}
        found[element.findtext("dependent_coordinate_name", "").strip()] = {
            "coordinates": element.findtext("independent_coordinate_names", "").split(),
            "function": function,
            "scale": float(element.findtext("scale_factor", "1")),
        }
    return found


def _other_constraints(model: Any) -> list[str]:
    """Names of enforced constraints that are no couplings."""
    found = [c for c in _items(model.getConstraintSet()) if c.getConcreteClassName() != "CoordinateCouplerConstraint" and c.get_isEnforced()]
    return [str(c.getName()) for c in found]


def _marker_variables(model: Any) -> tuple[dict[str, list[str]], dict[str, Any]]:
    markers = _items(model.getMarkerSet())
    frames = [m.getParentFrame() for m in markers]
    stations = [f.findTransformInBaseFrame().shiftFrameStationToBase(m.get_location()).to_numpy() for f, m in zip(frames, markers, strict=True)]
    return {"marker": [str(m.getName()) for m in markers]}, {
        "marker_body": _text(str(f.findBaseFrame().getName()) for f in frames),
        "marker_location": _rows(stations),
    }


def _check_massless(origin: str, bodies: Sequence[str], variables: Mapping[str, Any]) -> None:
    """A body without mass is lawful where it cannot move against its parent, or something heavy hangs on it."""
    children: dict[str, list[str]] = {}
    for parent, child in zip(variables["joint_parent"], variables["joint_child"], strict=True):
        children.setdefault(str(parent), []).append(str(child))
    heavy = {name for name, mass in zip(bodies, variables["body_mass"], strict=True) if mass > 0}
    for child, transform in zip(variables["joint_child"], variables["joint_transform"], strict=True):
        if '"coordinates": ["' in str(transform) and not heavy & _subtree(str(child), children):
            raise InputError(f"{origin}: body '{child}' moves but has no mass, nor has anything that hangs on it; give that body a positive mass, or weld it")


def _subtree(body: str, children: Mapping[str, Sequence[str]]) -> set[str]:
    found, waiting = set(), [body]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting.extend(children.get(current, ()))
    return found


def _knee_sign(model: Any, state: Any, coordinates: Sequence[str], feet: Sequence[str]) -> int:
    """Bend each coordinate named knee and see whether the foot swings backwards (the default pose faces +x)."""
    if not feet:
        return 0
    foot = model.getBodySet().get(feet[0])
    knees = [c for c in coordinates if "knee" in c.lower() and "beta" not in c.lower()]
    for name in sorted(knees, key=lambda n: (not n.lower().endswith("_r"), n)):
        coordinate = model.getCoordinateSet().get(name)
        forward = []
        for angle in (-0.5, 0.5):
            _set_value(coordinate, state, angle)
            model.realizePosition(state)
            forward.append(foot.getPositionInGround(state).to_numpy()[0])
        if abs(forward[1] - forward[0]) > 0.05:
            return 1 if forward[1] < forward[0] else -1
    return 0


def _set_value(coordinate: Any, state: Any, value: float) -> None:
    coordinate.setLocked(state, False)
    coordinate.setClamped(state, False)
    coordinate.setValue(state, value, False)


def _xml(component: Any) -> Element:
    """What OpenSim writes of a component; it declares no entities."""
    return fromstring(component.dump())


def _numbers(text: str) -> list[float]:
    return [float(word) for word in text.split()]


def _rows(vectors: Iterable[Any]) -> FloatArray:
    return np.array([np.asarray(v, float) for v in vectors], float).reshape(-1, 3)


def _text(values: Iterable[str]) -> NDArray[np.str_]:
    return np.array(list(values), dtype=np.str_)


def _hint(error: Exception) -> str:
    """What to do about a body whose mass OpenSim refuses; its message names the body."""
    return "give that body a positive mass, or weld it to one that has" if " mass" in str(error) else ""


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
