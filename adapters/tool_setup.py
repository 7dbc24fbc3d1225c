"""What setup files of OpenSim's tools have in common: typed values, sets of tasks, and paths that count from the file's own folder."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Literal
from xml.etree.ElementTree import Element

from imdy_plugin.adapters.safe_xml import child_text, parse_xml
from imdy_plugin.errors import DataWarning, FileFormatError, suggest


@dataclass(frozen=True)
class CoordinateTask:
    """What a pose is drawn to: a coordinate, with a weight, to a value [rad or m], to its default or to a file's."""

    coordinate: str
    weight: float
    source: Literal["manual_value", "default_value", "from_file"]
    value: float


@dataclass(frozen=True)
class Tasks:
    """Members of an IKTaskSet that are to be applied."""

    marker_weights: tuple[tuple[str, float], ...]
    coordinate_tasks: tuple[CoordinateTask, ...]


def warn_of_lost_markers(setup: Path, weights: Iterable[tuple[str, float]], shared: Collection[str], *, stacklevel: int = 4) -> None:
    """Warn of markers that a setup gives a weight and that are not among those which model and recording share, with the names nearest to the first."""
    lost = [name for name, weight in weights if weight > 0 and name not in shared]
    if lost:
        shown = ", ".join(lost[:6]) + (f" and {len(lost) - 6} more" if len(lost) > 6 else "")
        text = f"{setup}: markers with a weight that the model or the recording lacks are left out: {shown}"
        warnings.warn(f"{text}; '{lost[0]}': {suggest(lost[0], shared)}", DataWarning, stacklevel=stacklevel)


class ToolSetup:
    """A setup file of a tool.

    Parameters
    ----------
    path
        The file.
    tag
        Element that holds the tool, such as ``ScaleTool``.
    purpose
        What the tool does, for the message.

    Attributes
    ----------
    file, tool
        The file, and the tool's element in it.

    Raises
    ------
    FileFormatError
        The file is not well-formed, or holds another tool; the message names it.
    """

    def __init__(self, path: str | os.PathLike[str], tag: str, purpose: str) -> None:
        self.file = Path(path)
        root = parse_xml(self.file)
        tool = root if root.tag == tag else root.find(tag)
        if tool is None:
            held = next((child.tag for child in root), root.tag) if root.tag == "OpenSimDocument" else root.tag
            raise FileFormatError(self.file, f"holds {_with_article(held)}, not {_with_article(tag)}", f"give the setup file of {purpose}")
        self.tool: Element = tool

    def part(self, tag: str) -> Element:
        """A child of the tool; an empty one where there is none."""
        found = self.tool.find(tag)
        return Element(tag) if found is None else found

    def objects(self, part: Element, tag: str) -> Iterator[Element]:
        """Members of a set, which may stand in a file of its own."""
        holder = part.find(tag)
        if holder is not None and holder.get("file"):
            other = self.file.parent / _plain(str(holder.get("file")))
            root = parse_xml(other)
            holder = root if root.tag == tag else root.find(tag)
            if holder is None:
                raise FileFormatError(other, f"holds no {tag}", f"'{self.file.name}' takes its {tag} from it; correct the name there")
        objects = holder.find("objects") if holder is not None else None
        return iter(() if objects is None else objects)

    def tasks(self, part: Element) -> Tasks:
        """What the part's IKTaskSet asks for."""
        applied = [task for task in self.objects(part, "IKTaskSet") if self.flag(task, "apply", True)]
        return Tasks(
            tuple((task.get("name", ""), self._weight(task)) for task in applied if task.tag == "IKMarkerTask"),
            tuple(self._coordinate(task) for task in applied if task.tag == "IKCoordinateTask"),
        )

    def time_range(self, part: Element) -> tuple[float, float] | None:
        """First and last time [s], None for everything."""
        words = child_text(part, "time_range").split()
        numbers = [self.number("time_range", word) for word in words]
        if not numbers or numbers == [-1.0, -1.0]:
            return None
        if len(numbers) != 2 or not numbers[0] <= numbers[1]:
            raise FileFormatError(self.file, f"time_range is '{' '.join(words)}'", "write the first and the last time")
        return numbers[0], numbers[1]

    def flag(self, part: Element, tag: str, default: bool) -> bool:
        """True or false, as a child says."""
        text = child_text(part, tag).lower()
        if text not in ("", "true", "false"):
            raise FileFormatError(self.file, f"{tag} is '{text}'", "write true or false")
        return default if not text else text == "true"

    def path(self, part: Element, tag: str) -> Path | None:
        """The file that a child names, relative to the setup's folder; existence is not checked."""
        text = child_text(part, tag)
        return Path(os.path.normpath(self.file.parent / _plain(text))) if text else None

    def number(self, tag: str, text: str) -> float:
        """A number, which may be infinite."""
        try:
            value = float(text)
        except ValueError:
            raise FileFormatError(self.file, f"{tag} is '{text}', not a number", "write it with a decimal point") from None
        if math.isnan(value):
            raise FileFormatError(self.file, f"{tag} is '{text}'", "write a number")
        return value

    def _coordinate(self, element: Element) -> CoordinateTask:
        name = element.get("name", "")
        source = child_text(element, "value_type") or "default_value"
        if source not in ("manual_value", "default_value", "from_file"):
            raise FileFormatError(self.file, f"value_type of '{name}' is '{source}'", "write default_value, manual_value or from_file")
        value = self.number("value", child_text(element, "value") or "0")
        return CoordinateTask(name, self._weight(element), source, value)  # type: ignore[arg-type]

    def _weight(self, element: Element) -> float:
        weight = self.number("weight", child_text(element, "weight") or "0")
        if not 0 <= weight < math.inf:
            raise FileFormatError(self.file, f"the weight of '{element.get('name', '')}' is {weight}", "write a number from zero up")
        return weight


def _with_article(word: str) -> str:
    return f"{'an' if word[:1] in 'AEIOU' else 'a'} {word}"


def _plain(text: str) -> Path:
    return Path(PureWindowsPath(text).as_posix()) if "\\" in text else Path(text)
