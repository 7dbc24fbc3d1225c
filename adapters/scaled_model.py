"""Scaled OpenSim models: a generic model with factors for its bodies, a total mass and moved markers, and the file of it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imdy_plugin._opensim import import_opensim, silenced
from imdy_plugin.atomic import replacing
from imdy_plugin.errors import DataWarning, FileFormatError, InputError, SolverError, UnknownNameError

FloatArray = NDArray[np.float64]


def with_marker_set(native: Any, path: str | os.PathLike[str]) -> Any:
    """A copy of a model with the markers of a MarkerSet file: those of the same name are replaced, new ones added.

    Raises
    ------
    FileFormatError
        The file is no marker set, or a marker of it is on a body that the model lacks.
    """
    from imdy_plugin.adapters.safe_xml import parse_xml

    root = parse_xml(path)
    if root.tag != "MarkerSet" and root.find("MarkerSet") is None:
        raise FileFormatError(path, f"holds <{root.tag}> with {[child.tag for child in root][:3]}, not a MarkerSet", "give a marker set (.xml)")
    opensim = import_opensim()
    try:
        with silenced():
            model = native.clone()
            model.updateMarkerSet(opensim.MarkerSet(str(path)))
            model.initSystem()
    except RuntimeError as error:
        raise FileFormatError(path, f"its markers do not fit the model '{native.getName()}': {_brief(error)}", "name bodies that the model has") from error
    return model


def default_marker_positions(native: Any) -> dict[str, FloatArray]:
    """Where the markers are in ground [m] in a model's default pose."""
    model, state = _built(native)
    markers = model.getMarkerSet()
    return {str(m.getName()): m.getLocationInGround(state).to_numpy().copy() for m in (markers.get(i) for i in range(markers.getSize()))}


def body_names(native: Any) -> tuple[str, ...]:
    """Names of a model's bodies in its order."""
    bodies = native.getBodySet()
    return tuple(str(bodies.get(i).getName()) for i in range(bodies.getSize()))


def total_mass(native: Any) -> float:
    """Sum of the bodies' masses [kg]."""
    bodies = native.getBodySet()
    return float(sum(bodies.get(i).get_mass() for i in range(bodies.getSize())))


def scale_model(native: Any, factors: Mapping[str, ArrayLike], mass: float, *, preserve_mass_distribution: bool) -> Any:
    """A copy of a model, its bodies scaled: joints, markers, wrapping, muscles and masses with them.

    Parameters
    ----------
    native
        An ``opensim.Model``; it is not changed.
    factors
        For each body that is scaled, its factors along its own x, y and z.
    mass
        Total mass of the scaled model [kg].
    preserve_mass_distribution
        Whether bodies keep their share of the mass; otherwise each body's mass goes with its volume.

    Raises
    ------
    InputError
        The mass or a factor is not positive and finite.
    UnknownNameError
        A factor is for a body that the model lacks.
    SolverError
        OpenSim cannot scale the model.
    """
    opensim = import_opensim()
    _check_factors(native, factors, mass)
    scales = opensim.ScaleSet()
    for body in body_names(native):
        scale = opensim.Scale()
        scale.setSegmentName(body)
        scale.setScaleFactors(opensim.Vec3(*(float(f) for f in np.asarray(factors.get(body, np.ones(3)), float))))
        scale.setApply(True)
        scales.cloneAndAppend(scale)
    model, state = _built(native)
    try:
        with silenced():
            model.scale(state, scales, preserve_mass_distribution, float(mass))
    except RuntimeError as error:
        raise SolverError(f"OpenSim cannot scale the model '{native.getName()}': {_brief(error)}") from error
    _set_mass(model, float(mass))
    return model


def move_markers(native: Any, measured: Mapping[str, ArrayLike], pose: Mapping[str, float]) -> dict[str, float]:
    """Move markers of a model, in place, to where they were measured while the model stood in a pose.

    Parameters
    ----------
    native
        An ``opensim.Model``.
    measured
        Positions in ground [m] by marker.
    pose
        Values [rad or m] by coordinate.

    Returns
    -------
    dict
        How far each marker was moved [m].
    """
    model, state = _built(native)
    coordinates = model.getCoordinateSet()
    for name, value in pose.items():
        coordinate = coordinates.get(name)
        coordinate.setLocked(state, False)
        coordinate.setClamped(state, False)
        coordinate.setValue(state, float(value), False)
    model.realizePosition(state)
    opensim, moved = import_opensim(), {}
    for name, position in measured.items():
        marker = model.getMarkerSet().get(name)
        station = model.getGround().findStationLocationInAnotherFrame(state, opensim.Vec3(*(float(x) for x in np.asarray(position))), marker.getParentFrame())
        moved[name] = float(np.linalg.norm(station.to_numpy() - marker.get_location().to_numpy()))
        native.updMarkerSet().get(name).set_location(station)
    return moved


def shift_markers(native: Any, shifts: Mapping[str, ArrayLike]) -> None:
    """Move markers of a model, in place, by distances along the axes of their bodies [m]."""
    opensim = import_opensim()
    model, state = _built(native)
    for name, shift in shifts.items():
        own = model.getMarkerSet().get(name)
        frame = own.getParentFrame()
        local = frame.findBaseFrame().expressVectorInAnotherFrame(state, opensim.Vec3(*(float(x) for x in np.asarray(shift))), frame)
        native.updMarkerSet().get(name).set_location(opensim.Vec3(*(own.get_location().to_numpy() + local.to_numpy()).tolist()))


def keep_markers(native: Any, names: set[str]) -> tuple[str, ...]:
    """Remove markers of a model, in place, that are not among ``names``; return those removed."""
    markers = native.updMarkerSet()
    removed = []
    for index in reversed(range(markers.getSize())):
        name = str(markers.get(index).getName())
        if name not in names:
            removed.append(name)
            markers.remove(index)
    return tuple(reversed(removed))


def fixed_markers(native: Any) -> set[str]:
    """Names of markers that the model holds fixed to their bodies."""
    markers = native.getMarkerSet()
    return {str(m.getName()) for m in (markers.get(i) for i in range(markers.getSize())) if m.get_fixed()}


def write_model(native: Any, path: str | os.PathLike[str]) -> Path:
    """Write a model, so that what was there before is lost only when the new file is complete and OpenSim reads it.

    Raises
    ------
    InputError
        The path does not end in ``.osim``.
    SolverError
        OpenSim cannot write it, or not read it again.
    """
    target = Path(path)
    if target.suffix.lower() != ".osim":
        raise InputError(f"the scaled model would be written to '{target}'; give a name that ends in .osim")
    opensim = import_opensim()
    with replacing(target) as temporary:
        try:
            with silenced():
                native.printToXML(str(temporary))
                opensim.Model(str(temporary)).initSystem()
        except RuntimeError as error:
            raise SolverError(f"the scaled model does not survive being written to '{target}': {_brief(error)}") from error
    return target


def _built(native: Any) -> tuple[Any, Any]:
    """A copy of a model, and its state in the default pose."""
    try:
        with silenced():
            model = native.clone()
            state = model.initSystem()
            model.realizePosition(state)
    except RuntimeError as error:
        raise SolverError(f"OpenSim cannot build the model '{native.getName()}': {_brief(error)}") from error
    return model, state


def _check_factors(native: Any, factors: Mapping[str, ArrayLike], mass: float) -> None:
    if not (np.isfinite(mass) and mass > 0):
        raise InputError(f"the mass is {mass} kg; give a positive number of kilograms")
    known = body_names(native)
    for body, values in factors.items():
        if body not in known:
            raise UnknownNameError("body", body, known, f"in the model '{native.getName()}'")
        numbers = np.asarray(values, float)
        if numbers.shape != (3,) or not (np.isfinite(numbers) & (numbers > 0)).all():
            raise InputError(f"the scale factors of body '{body}' are {numbers.tolist()}; they must be three positive numbers")


def _set_mass(model: Any, mass: float) -> None:
    """Remove the rounding that is left between the sum of the bodies' masses and the mass."""
    opensim = import_opensim()
    bodies = [model.updBodySet().get(i) for i in range(model.getBodySet().getSize())]
    total = sum(body.get_mass() for body in bodies)
    if not abs(total / mass - 1) < 1e-6:
        warnings.warn(
            f"OpenSim scaled the model to {total:g} kg instead of {mass:g} kg; masses and inertias are multiplied by the rest", DataWarning, stacklevel=4
        )
    for body in bodies:
        inertia = body.get_inertia()
        body.set_mass(body.get_mass() * mass / total)
        body.set_inertia(opensim.Vec6(*(inertia.get(k) * mass / total for k in range(6))))


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
