"""Setup files of OpenSim's InverseDynamicsTool: what they ask for, with every path resolved."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from xml.etree.ElementTree import Element

from imdy_plugin.adapters.safe_xml import child_text, parse_xml
from imdy_plugin.errors import FileFormatError, InputError

_DEFAULT_OUTPUT = "inverse_dynamics.sto"


@dataclass(frozen=True)
class IdSetup:
    """What an InverseDynamicsTool setup asks for.

    Attributes
    ----------
    path
        The setup file; relative paths in it are resolved against its folder.
    model_file, coordinates_file
        Existence is not checked: an argument may replace them. None where the setup names none.
    external_loads_file
        None where no force is applied.
    time_range
        First and last time [s], or None for everything.
    lowpass_cutoff
        Cut-off of the coordinates' low-pass filter [Hz], or None for no filter (OpenSim writes -1).
    results_directory
        Folder for the results.
    output_gen_force_file
        Name of the results file.
    forces_to_exclude
        Names or groups of model forces to leave out.
    """

    path: Path
    model_file: Path | None
    coordinates_file: Path | None
    external_loads_file: Path | None
    time_range: tuple[float, float] | None
    lowpass_cutoff: float | None
    results_directory: Path
    output_gen_force_file: str
    forces_to_exclude: tuple[str, ...]


def read_id_setup(path: str | os.PathLike[str]) -> IdSetup:
    """Read an InverseDynamicsTool setup, of any document version.

    Raises
    ------
    FileFormatError
        It is not such a setup (the message names the tool it is for), or a number in it is none.
    """
    file = Path(path)
    tool = _tool(file, parse_xml(file))
    folder = file.parent / (child_text(tool, "input_directory") or ".")
    return IdSetup(
        path=file,
        model_file=_path(file.parent, folder, child_text(tool, "model_file")),
        coordinates_file=_path(file.parent, folder, child_text(tool, "coordinates_file")),
        external_loads_file=_path(file.parent, folder, child_text(tool, "external_loads_file")),
        time_range=_time_range(file, child_text(tool, "time_range")),
        lowpass_cutoff=_cutoff(file, child_text(tool, "lowpass_cutoff_frequency_for_coordinates")),
        results_directory=_path(file.parent, file.parent, child_text(tool, "results_directory")) or file.parent,
        output_gen_force_file=child_text(tool, "output_gen_force_file") or _DEFAULT_OUTPUT,
        forces_to_exclude=tuple(child_text(tool, "forces_to_exclude").split()),
    )


def check_time_range(requested: tuple[float, float] | None, available: tuple[float, float], path: object) -> tuple[float, float] | None:
    """Return a time range, or raise when it is not inside the data.

    Parameters
    ----------
    requested
        First and last time [s], or None for everything, which is lawful.
    available
        First and last time [s] of the data.
    path
        The file that holds the data, for the message.

    Raises
    ------
    InputError
        The range is empty or reaches outside; the message names both.
    """
    if requested is None:
        return None
    start, end = requested
    first, last = available
    if not start < end:
        raise InputError(f"{path}: time range {start:g} to {end:g} s is empty; its end must come after its start")
    slack = 1e-6 * max(1.0, abs(first), abs(last))
    if start < first - slack or end > last + slack:
        raise InputError(f"{path}: time range {start:g} to {end:g} s reaches outside the data, which covers {first:g} to {last:g} s; choose a range inside it")
    return requested


def _tool(file: Path, root: Element) -> Element:
    tool = root if root.tag == "InverseDynamicsTool" else root.find("InverseDynamicsTool")
    if tool is None:
        held = next((child.tag for child in root), root.tag) if root.tag == "OpenSimDocument" else root.tag
        raise FileFormatError(file, f"holds a {held}, not an InverseDynamicsTool", "give the setup file of inverse dynamics")
    return tool


def _path(base: Path, folder: Path, text: str) -> Path | None:
    """Resolve a path against the setup's folder, or against its input directory where only that holds it."""
    if not text:
        return None
    plain = Path(PureWindowsPath(text).as_posix()) if "\\" in text else Path(text)
    inside = folder / plain
    return Path(os.path.normpath(inside if inside.exists() else base / plain))


def _time_range(file: Path, text: str) -> tuple[float, float] | None:
    if not text:
        return None
    numbers = [_number(file, "time_range", part) for part in text.split()]
    if len(numbers) != 2:
        raise FileFormatError(file, f"time_range holds {len(numbers)} number(s): '{text}'", "write the first and the last time")
    start, end = numbers
    whole = start == -float("inf") and end == float("inf")
    return None if whole else (start, end)


def _cutoff(file: Path, text: str) -> float | None:
    if not text:
        return None
    cutoff = _number(file, "lowpass_cutoff_frequency_for_coordinates", text)
    return cutoff if cutoff > 0 else None


def _number(file: Path, tag: str, text: str) -> float:
    words = {"-inf": -float("inf"), "inf": float("inf"), "-infinity": -float("inf"), "infinity": float("inf")}
    try:
        value = words.get(text.lower())
        value = float(text) if value is None else value
    except ValueError:
        raise FileFormatError(file, f"{tag} is '{text}', not a number", "write it with a decimal point") from None
    if value != value:
        raise FileFormatError(file, f"{tag} is '{text}'", "write a number")
    return value
