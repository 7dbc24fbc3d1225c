"""Measured ground forces: OpenSim's ExternalLoads .xml with its .mot, or a .mot alone, into the common representation and back out."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from imdy_plugin.adapters.force_checks import check_direction, check_zero_load
from imdy_plugin.adapters.safe_xml import child_text, existing_file, parse_xml
from imdy_plugin.adapters.storage import Table, read_table, write_table
from imdy_plugin.atomic import replacing
from imdy_plugin.errors import DataWarning, FileFormatError, InputError, UnknownNameError, suggest
from imdy_plugin.runs import longest_run, runs
from imdy_plugin.schema import AXES, GROUND_FORCE_VARIABLES, add_log, new_motion

SWING_FORCE, SWING_SHARE = 50.0, 0.05
"""Force [N], and share of the largest force, up to which a frame without a centre of pressure counts as swing (the larger of the two)."""

SHORTEST_SWING = 0.1
"""Time [s]: frames without numbers between two loaded frames are a gap, not a swing, when they last less than this."""

Array = NDArray[np.float64]
_FORCE_COLUMN = re.compile(r"(?:(?P<before>.+)_)?ground_force(?:_?(?P<after>.+?))??_?(?P<kind>[vpm])(?P<axis>[xyz])", re.IGNORECASE)
_TORQUE_COLUMN = re.compile(r"(?:(?P<before>.+)_)?ground_(?:torque|moment)(?:_?(?P<after>.+?))??(?:_m|_)?(?P<axis>[xyz])", re.IGNORECASE)
_SIDES = {"r": "calcn_r", "right": "calcn_r", "l": "calcn_l", "left": "calcn_l"}
_GROUND = ("ground", "/ground")


@dataclass(frozen=True)
class ExternalForce:
    """One force of an ExternalLoads document: the body it acts on, and how the names of its columns begin."""

    name: str
    body: str
    force: str
    point: str
    torque: str


@dataclass(frozen=True)
class ExternalLoads:
    """An ExternalLoads document: its forces, all expressed in ground, and the file that holds their numbers."""

    path: Path
    data_file: Path
    forces: tuple[ExternalForce, ...]


def read_external_loads(path: str | os.PathLike[str], *, folders: Sequence[str | os.PathLike[str]] = ()) -> ExternalLoads:
    """Read an ExternalLoads document (any document version) without its data.

    Forces that are switched off are left out.

    Parameters
    ----------
    path
        The ``.xml``.
    folders
        Where else to look for the data file, such as the folder of the setup file; the document's own folder comes first.

    Raises
    ------
    FileFormatError
        It holds no ExternalLoads or no force; a force is not expressed in ground or has no point of application; or the
        data file is nowhere (the message lists where it was looked for).
    """
    file = Path(path)
    root = parse_xml(file)
    loads = root if root.tag == "ExternalLoads" else root.find(".//ExternalLoads")
    if loads is None:
        held = " > ".join([root.tag, *(child.tag for child in root)][:2])
        raise FileFormatError(file, f"holds no ExternalLoads, but {held}", "give the external loads file, not the tool's setup")
    forces = tuple(_external_force(file, element) for element in _force_elements(loads) if _applies(element))
    if not forces:
        raise FileFormatError(file, "ExternalLoads holds no force that is switched on", "list each foot's ExternalForce under <objects>")
    return ExternalLoads(file, _find_data(file, child_text(loads, "datafile"), folders), forces)


def read_ground_force(
    path: str | os.PathLike[str],
    *,
    bodies: Sequence[str] | Mapping[str, str] | None = None,
    folders: Sequence[str | os.PathLike[str]] = (),
    model: xr.Dataset | None = None,
) -> xr.Dataset:
    """Read measured ground forces.

    An ExternalLoads ``.xml`` says which columns act on which body; several forces on one body are added up to one force,
    point and moment that are equal to them. A ``.mot`` or ``.sto`` alone is understood when its columns are named like
    ``ground_force_vx``, ``1_ground_force_vx``, ``R_ground_force_vx``, ``ground_force_l_vx``, ``ground_force_1_vx`` or
    ``ground_force_calcn_r_vx``, with ``p`` for the point and ``m`` or ``ground_torque_..._x`` for the moment. Its bodies
    are then ``calcn_r`` for ``r`` or ``right``, ``calcn_l`` for ``l`` or ``left``, and what is named in full for the
    rest; where one set has no mark and the other is ``1_`` or ``l_``, the unmarked one is right, as in OpenSim's examples.
    Numbered plates do not say which foot they are: give ``bodies``.

    Frames without numbers (NaN), as the centre of pressure is undefined in swing, become zero force and are counted in a
    warning; a short gap between loaded frames stays NaN: unknown.

    Parameters
    ----------
    path
        ``.xml``, ``.mot`` or ``.sto``.
    bodies
        For a table alone: the body of each set of columns in the file's order, or by the mark in the columns' names
        (``{"1": "calcn_l", "2": "calcn_r"}``).
    folders
        Where else to look for the data file that an ``.xml`` names.
    model
        Check that the bodies exist in this model.

    Returns
    -------
    xarray.Dataset
        A motion with ``ground_force`` [N], ``center_of_pressure`` [m] and ``free_moment`` [N m], ``(time, body, axis)``, in the
        ground frame on the file's own time base; zero where nothing touches.

    Raises
    ------
    FileFormatError
        The file or its data cannot be used, or nothing says which body a set of columns acts on.
    UnknownNameError
        A column or body does not exist.
    """
    file = existing_file(path)
    if file.suffix.lower() == ".xml":
        loads = read_external_loads(file, folders=folders)
        table, forces = read_table(loads.data_file, allow_nan=True), list(loads.forces)
    else:
        table = read_table(file, allow_nan=True)
        forces = _forces_by_column_name(table, bodies)
    if model is not None:
        _check_bodies(forces, model)
    motion = _to_motion(table, forces)
    check_zero_load(motion)
    check_direction(motion)
    return motion.assign_attrs(source=str(file))


def ground_force_is_known(forces: xr.Dataset) -> NDArray[np.bool_]:
    """Frames ``(T,)`` in which force, moment and, where a force acts, its point of application are known on every body."""
    force, point, moment = (forces[v].values for v in GROUND_FORCE_VARIABLES)
    placed = np.isfinite(point).all(axis=-1) | (force == 0).all(axis=-1)
    known = np.isfinite(force).all(axis=-1) & np.isfinite(moment).all(axis=-1) & placed
    return np.asarray(known.all(axis=1))


def write_ground_force(forces: xr.Dataset, mot_path: str | os.PathLike[str], xml_path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Write ground forces as a ``.mot`` and the ExternalLoads ``.xml`` that OpenSim's tools read.

    Columns are ``ground_force_<body>_vx``, ``ground_force_<body>_px`` and ``ground_torque_<body>_x``. Where nothing touches, the
    point is held at the nearest place of contact, because OpenSim interpolates it. Frames that are unknown (NaN) are cut:
    the longest span that is known is written, with a warning.

    Parameters
    ----------
    forces
        A motion or result with ground forces.
    mot_path, xml_path
        The files to write; the ``.xml`` names the ``.mot`` relative to its own folder.

    Raises
    ------
    InputError
        There are no ground forces, or no frame is known.
    """
    lacking = [v for v in GROUND_FORCE_VARIABLES if v not in forces] or ([] if forces.sizes["body"] else ["bodies"])
    if lacking:
        raise InputError(f"there are no ground forces to write: {', '.join(lacking)} missing")
    mot, xml = Path(mot_path), Path(xml_path)
    known = forces.isel(time=_known_span(forces, mot))
    bodies = [str(b) for b in known["body"].values]
    names, columns = [], []
    for i, body in enumerate(bodies):
        force, point, moment = (known[v].values[:, i] for v in GROUND_FORCE_VARIABLES)
        columns += [force, _hold_point(force, point), moment]
        names += [f"{_prefix(body, kind)}{axis}" for kind in ("v", "p", "m") for axis in AXES]
    write_table(mot, names, known["time"].values, np.concatenate(columns, axis=1), name=mot.stem)
    _write_external_loads(xml, os.path.relpath(mot, xml.parent), bodies)
    return mot, xml


def _force_elements(loads: Element) -> list[Element]:
    objects = loads.find("objects")
    return list(loads.iter("ExternalForce")) if objects is None else list(objects)


def _applies(element: Element) -> bool:
    return child_text(element, "isDisabled").lower() != "true" and child_text(element, "appliesForce").lower() != "false"


def _external_force(file: Path, element: Element) -> ExternalForce:
    name = element.get("name", "")
    if element.tag != "ExternalForce":
        raise FileFormatError(file, f"'{name}' is a {element.tag}, only ExternalForce is understood", "express it as an ExternalForce with a data file")
    for tag in ("force_expressed_in_body", "point_expressed_in_body"):
        frame = child_text(element, tag)
        if frame and frame not in _GROUND:
            raise FileFormatError(file, f"force '{name}' has {tag} '{frame}'; only forces and points in ground are understood", "express it in ground")
    force = ExternalForce(
        name, child_text(element, "applied_to_body").rsplit("/", 1)[-1], *(child_text(element, f"{k}_identifier") for k in ("force", "point", "torque"))
    )
    if not force.body:
        raise FileFormatError(file, f"force '{name}' does not say which body it acts on", "fill in applied_to_body")
    if not force.force and not force.torque:
        raise FileFormatError(file, f"force '{name}' names neither force nor torque columns", "fill in force_identifier")
    if force.force and not force.point:
        raise FileFormatError(file, f"force '{name}' has no point_identifier", "name the columns of its point of application, in ground")
    return force


def _find_data(file: Path, name: str, folders: Sequence[str | os.PathLike[str]]) -> Path:
    """Find the data file: as written from the document's folder, then from ``folders``, then by its bare name in each."""
    if not name:
        raise FileFormatError(file, "ExternalLoads names no datafile", "fill in <datafile>")
    places = [file.parent, *map(Path, folders)]
    relative, bare = Path(name.replace("\\", "/")), PureWindowsPath(name).name
    candidates = [place / relative for place in places]
    found = next((c for c in candidates if c.is_file()), None)
    if found is not None:
        return found
    moved = [place / bare for place in places]
    found = next((c for c in moved if c.is_file()), None)
    if found is None:
        looked = ", ".join(dict.fromkeys(str(c) for c in candidates + moved))
        raise FileFormatError(file, f"its datafile '{name}' does not exist; looked for {looked}", "put the data beside the document or mend <datafile>")
    warnings.warn(f"{file}: datafile '{name}' does not exist, took '{found}' of the same name", DataWarning, stacklevel=4)
    return found


def _forces_by_column_name(table: Table, bodies: Sequence[str] | Mapping[str, str] | None) -> list[ExternalForce]:
    sets = _column_sets(table)
    if not sets:
        raise FileFormatError(
            table.path, f"has no columns named like ground_force_vx; columns: {', '.join(table.names[:12])}", "give the ExternalLoads .xml that names them"
        )
    marks = list(sets)
    if bodies is None:
        names = _bodies_by_mark(table, marks)
    elif isinstance(bodies, Mapping):
        unknown = [m for m in marks if m not in bodies]
        if unknown:
            raise InputError(f"{table.path}: bodies says nothing about the columns marked {unknown}; it must name {marks}")
        names = [bodies[m] for m in marks]
    else:
        names = list(bodies)
    if len(names) != len(marks):
        raise InputError(f"{table.path}: {len(names)} bodies given for {len(marks)} sets of columns, marked {marks}")
    return [ExternalForce(mark or "ground_force", body, *sets[mark]) for mark, body in zip(marks, names, strict=True)]


def _column_sets(table: Table) -> dict[str, tuple[str, str, str]]:
    """Beginnings of the force, point and moment columns by the mark that tells the sets apart, in the file's order."""
    found: dict[str, dict[str, str]] = {}
    for name in table.names:
        match, kind = _FORCE_COLUMN.fullmatch(name), ""
        if match:
            kind = match["kind"].lower()
        else:
            match, kind = _TORQUE_COLUMN.fullmatch(name), "m"
        if match:
            mark = "_".join(part for part in (match["before"], match["after"]) if part)
            found.setdefault(mark, {}).setdefault(kind, name[:-1])
    stray = [f"{parts[kind]}x" for parts in found.values() if not {"v", "p"} <= set(parts) for kind in parts]
    if stray:
        text = f"{table.path}: columns {', '.join(stray)} (and y, z) look like ground forces, but force and point do not both go with them; left out"
        warnings.warn(text, DataWarning, stacklevel=5)
    return {mark: (parts["v"], parts["p"], parts.get("m", "")) for mark, parts in found.items() if {"v", "p"} <= set(parts)}


def _bodies_by_mark(table: Table, marks: list[str]) -> list[str]:
    low = [m.lower() for m in marks]
    if sorted(low) in (["", "1"], ["", "l"]):
        return ["calcn_r" if m == "" else "calcn_l" for m in low]
    named = [_SIDES.get(m.lower(), m if re.search(r"_[rl]$", m) else "") for m in marks]
    if all(named) and len(set(named)) == len(named):
        return named
    found = f"has {len(marks)} set(s) of force columns marked {marks}, which does not say which body each acts on"
    raise FileFormatError(table.path, found, "give the ExternalLoads .xml, or bodies=('calcn_r', 'calcn_l') in the file's order")


def _check_bodies(forces: list[ExternalForce], model: xr.Dataset) -> None:
    known = [str(b) for b in model["body"].values]
    for force in forces:
        if force.body not in known:
            raise UnknownNameError("body", force.body, known, f"(force '{force.name}')")


def _to_motion(table: Table, forces: list[ExternalForce]) -> xr.Dataset:
    by_body: dict[str, list[tuple[Array, Array, Array]]] = {}
    swing: dict[str, int] = {}
    for force in forces:
        arrays = tuple(_vector(table, force, identifier) for identifier in (force.force, force.point, force.torque))
        wrench, count = _swing_to_zero(table, force, *arrays)
        by_body.setdefault(force.body, []).append(wrench)
        swing[force.body] = swing.get(force.body, 0) + count
    several = {body: len(parts) for body, parts in by_body.items() if len(parts) > 1}
    for body, count in several.items():
        warnings.warn(
            f"{table.path}: {count} forces act on '{body}'; they are added up. If they are different feet, mend applied_to_body", DataWarning, stacklevel=4
        )
    wrenches = [_add_up(parts) for parts in by_body.values()]
    ground = tuple(np.stack([w[i] for w in wrenches], axis=1) for i in range(3))
    motion = new_motion(table.time, ground=(list(by_body), *ground), log=f"read ground forces on {', '.join(by_body)} from {table.path.name}")
    counted = {body: n for body, n in swing.items() if n}
    if not counted:
        return motion
    text = "NaN taken as no contact: " + ", ".join(f"'{body}' in {n} of {table.time.size} frames" for body, n in counted.items())
    warnings.warn(f"{table.path}: {text}", DataWarning, stacklevel=4)
    return add_log(motion, text)


def _vector(table: Table, force: ExternalForce, identifier: str) -> Array:
    """Three columns that begin with ``identifier``, ``(T, 3)``; zeros where the force has no such part."""
    if not identifier:
        return np.zeros((table.time.size, 3))
    for joint in ("", "_"):
        names = [f"{identifier}{joint}{axis}" for axis in AXES]
        if all(n in table.names for n in names):
            return np.column_stack([table.column(n) for n in names])
    columns = ", ".join(f"{identifier}{axis}" for axis in AXES)
    raise FileFormatError(
        table.path,
        f"force '{force.name}' needs the columns {columns}; {suggest(identifier + 'x', table.names)}",
        "mend the identifiers in the ExternalLoads document",
    )


def _swing_to_zero(table: Table, which: ExternalForce, force: Array, point: Array, moment: Array) -> tuple[tuple[Array, Array, Array], int]:
    """Zero where numbers are missing and nothing touches, NaN in all three where a gap hides a contact; and how many became zero."""
    missing = np.asarray(np.isnan(np.hstack([force, point, moment])).any(axis=1))
    size = np.linalg.norm(np.nan_to_num(force), axis=1)
    loaded = np.asarray(size > max(SWING_FORCE, SWING_SHARE * size.max()))
    _refuse_half_known(table, which, missing & loaded, size)
    gap = _gaps(table.time, missing, loaded)
    if gap.any():
        text = f"force '{which.name}' has no numbers in {int(gap.sum())} frames between loaded ones (first at t = {table.time[gap][0]:g} s)"
        warnings.warn(f"{table.path}: {text}; they stay unknown", DataWarning, stacklevel=5)
    empty = (missing | (size == 0))[:, None]
    parts = tuple(
        np.where(gap[:, None], np.nan, np.where(off, 0.0, part)) for off, part in ((missing[:, None], force), (empty, point), (missing[:, None], moment))
    )
    return (parts[0], parts[1], parts[2]), int((missing & ~gap).sum())


def _refuse_half_known(table: Table, which: ExternalForce, half: NDArray[np.bool_], size: Array) -> None:
    if not half.any():
        return
    frame = int(np.argmax(half))
    found = f"force '{which.name}' is {size[frame]:.0f} N at frame {frame} (t = {table.time[frame]:g} s)"
    found += f", but part of its force, point or moment is NaN; {int(half.sum())} such frames"
    raise FileFormatError(table.path, found, "a loaded foot needs its centre of pressure; fill it, or set the force to zero where nothing touches")


def _gaps(time: Array, missing: NDArray[np.bool_], loaded: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Frames of short runs of ``missing`` that have a loaded frame on both sides."""
    gap = np.zeros(missing.size, bool)
    for start, end in runs(missing):
        inside = start > 0 and end < missing.size
        if inside and loaded[start - 1] and loaded[end] and time[end] - time[start - 1] < SHORTEST_SWING:
            gap[start:end] = True
    return gap


def _add_up(parts: list[tuple[Array, Array, Array]]) -> tuple[Array, Array, Array]:
    """One force, point and moment equal to several: the point is their mean, weighted by vertical force."""
    if len(parts) == 1:
        return parts[0]
    force, point, moment = (np.stack([p[i] for p in parts]) for i in range(3))
    total = force.sum(axis=0)
    weight = np.abs(force[..., 1:2])
    share = np.divide(weight, weight.sum(axis=0), out=np.zeros_like(weight), where=weight.sum(axis=0) > 0)
    center = (share * point).sum(axis=0)
    return total, center, (moment + np.cross(point - center, force)).sum(axis=0)


def _hold_point(force: Array, point: Array) -> Array:
    """Point of application, ``(T, 3)``, that of the nearest frame in contact where nothing touches."""
    touching = np.flatnonzero((force != 0).any(axis=1) & np.isfinite(point).all(axis=1))
    unknown = np.asarray(~np.isfinite(force).all(axis=1))
    if touching.size == 0:
        return np.where(unknown[:, None], np.nan, np.nan_to_num(point))
    frames = np.arange(len(force))
    after = np.clip(np.searchsorted(touching, frames), 0, touching.size - 1)
    before = np.clip(after - 1, 0, None)
    nearer = np.where(np.abs(touching[before] - frames) < np.abs(touching[after] - frames), before, after)
    empty = (force == 0).all(axis=1)
    return np.where(empty[:, None], point[touching[nearer]], point)


def _known_span(forces: xr.Dataset, path: Path) -> slice:
    known = ground_force_is_known(forces)
    span = longest_run(known)
    count = span.stop - span.start
    if count == 0:
        raise InputError("no frame has known ground forces on every body; there is nothing to write")
    if count < known.size:
        time = forces["time"].values
        text = f"ground forces are known in {int(known.sum())} of {known.size} frames"
        span_text = f"{time[span.start]:g} to {time[span.stop - 1]:g} s ({count} frames), the longest span of them"
        warnings.warn(f"{path}: {text}; wrote {span_text}", DataWarning, stacklevel=4)
    return span


def _prefix(body: str, kind: str) -> str:
    return f"ground_torque_{body}_" if kind == "m" else f"ground_force_{body}_{kind}"


def _write_external_loads(path: Path, data_file: str, bodies: list[str]) -> None:
    document = Element("OpenSimDocument", Version="40000")
    loads = SubElement(document, "ExternalLoads", name="externalloads")
    objects = SubElement(loads, "objects")
    for body in bodies:
        force = SubElement(objects, "ExternalForce", name=f"ground_force_{body}")
        fields = {
            "applied_to_body": body,
            "force_expressed_in_body": "ground",
            "point_expressed_in_body": "ground",
            "force_identifier": _prefix(body, "v"),
            "point_identifier": _prefix(body, "p"),
            "torque_identifier": _prefix(body, "m"),
        }
        for tag, text in fields.items():
            SubElement(force, tag).text = text
    SubElement(loads, "groups")
    SubElement(loads, "datafile").text = Path(data_file).as_posix()
    indent(document, "\t")
    with replacing(path) as temporary:
        ElementTree(document).write(temporary, encoding="UTF-8", xml_declaration=True)
