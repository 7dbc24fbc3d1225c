"""Setup files of OpenSim's ScaleTool: what they ask for, with every path resolved."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Literal
from xml.etree.ElementTree import Element

from imdy_plugin.adapters.safe_xml import child_text, parse_xml
from imdy_plugin.errors import FileFormatError

Step = Literal["measurements", "manualScale"]


@dataclass(frozen=True)
class Measurement:
    """A distance on the body, and what is scaled by it.

    Attributes
    ----------
    name
        As in the setup.
    pairs
        Pairs of markers; the factor is the mean over them of measured distance over the model's.
    scales
        For each body the axes (0, 1, 2) that the factor is for.
    """

    name: str
    pairs: tuple[tuple[str, str], ...]
    scales: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class CoordinateTask:
    """What the static pose is drawn to: a coordinate, with a weight, to a value [rad or m], to its default or to a file's."""

    coordinate: str
    weight: float
    source: Literal["manual_value", "default_value", "from_file"]
    value: float


@dataclass(frozen=True)
class ScaleSetup:
    """What a ScaleTool setup asks for.

    Attributes
    ----------
    path
        The setup file; relative paths in it are resolved against its folder. Existence of the other files is not checked.
    mass, height
        Of the person [kg, m]; None where the setup says none.
    model_file, marker_set_file
        Generic model, and markers that replace or join its own; or None.
    scales, places
        Whether the model is scaled, and whether its markers are placed.
    order
        In which order the factors are set; what comes later wins.
    measurements, manual
        Those that are to be applied; ``manual`` has for each body its factors along x, y, z.
    preserve_mass_distribution
        Whether bodies keep their share of the mass.
    scale_file, scale_range
        Recording that distances are measured in, and the first and last time [s] of it, or None for everything.
    place_file, place_range
        The same for the static pose.
    marker_weights, coordinate_tasks
        Those that are to be applied; a marker with weight zero is placed but not tracked.
    coordinate_file
        Where the values of tasks with source ``from_file`` are, or None.
    """

    path: Path
    mass: float | None
    height: float | None
    model_file: Path | None
    marker_set_file: Path | None
    scales: bool
    places: bool
    order: tuple[Step, ...]
    measurements: tuple[Measurement, ...]
    manual: tuple[tuple[str, tuple[float, float, float]], ...]
    preserve_mass_distribution: bool
    scale_file: Path | None
    scale_range: tuple[float, float] | None
    place_file: Path | None
    place_range: tuple[float, float] | None
    marker_weights: tuple[tuple[str, float], ...]
    coordinate_tasks: tuple[CoordinateTask, ...]
    coordinate_file: Path | None


def read_scale_setup(path: str | os.PathLike[str]) -> ScaleSetup:
    """Read a ScaleTool setup, of any document version.

    Raises
    ------
    FileFormatError
        It is not such a setup (the message names the tool it is for), a number in it is none, a pair has not two markers, an axis or a step
        is unknown, or a factor is not positive.
    """
    file = Path(path)
    return _Reader(file, _tool(file, parse_xml(file))).read()


class _Reader:
    def __init__(self, file: Path, tool: Element) -> None:
        self.file, self.tool = file, tool
        self.maker, self.scaler, self.placer = (_part(tool, tag) for tag in ("GenericModelMaker", "ModelScaler", "MarkerPlacer"))

    def read(self) -> ScaleSetup:
        tasks = list(self._objects(self.placer, "IKTaskSet"))
        return ScaleSetup(
            path=self.file,
            mass=self._known(self.tool, "mass", 1.0),
            height=self._known(self.tool, "height", 1e-3),
            model_file=self._path(self.maker, "model_file"),
            marker_set_file=self._path(self.maker, "marker_set_file"),
            scales=self._flag(self.scaler, "apply", True),
            places=self._flag(self.placer, "apply", True),
            order=tuple(self._step(word) for word in child_text(self.scaler, "scaling_order").split()),
            measurements=tuple(self._measurement(m) for m in self._objects(self.scaler, "MeasurementSet") if self._flag(m, "apply", True)),
            manual=tuple(self._manual(s) for s in self._objects(self.scaler, "ScaleSet") if self._flag(s, "apply", True)),
            preserve_mass_distribution=self._flag(self.scaler, "preserve_mass_distribution", False),
            scale_file=self._path(self.scaler, "marker_file"),
            scale_range=self._range(self.scaler),
            place_file=self._path(self.placer, "marker_file"),
            place_range=self._range(self.placer),
            marker_weights=tuple(self._weight(t) for t in tasks if t.tag == "IKMarkerTask" and self._flag(t, "apply", True)),
            coordinate_tasks=tuple(self._coordinate(t) for t in tasks if t.tag == "IKCoordinateTask" and self._flag(t, "apply", True)),
            coordinate_file=self._path(self.placer, "coordinate_file"),
        )

    def _objects(self, part: Element, tag: str) -> Iterator[Element]:
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

    def _measurement(self, element: Element) -> Measurement:
        name = element.get("name", "")
        pairs = [tuple((pair.findtext("markers") or "").split()) for pair in element.iter("MarkerPair")]
        for pair in pairs:
            if len(pair) != 2:
                raise FileFormatError(self.file, f"measurement '{name}' has a pair of {len(pair)} marker(s): '{' '.join(pair)}'", "name two markers")
        scales = tuple((scale.get("name", ""), self._axes(name, scale.findtext("axes") or "")) for scale in element.iter("BodyScale"))
        return Measurement(name, tuple((pair[0], pair[1]) for pair in pairs), scales)

    def _axes(self, measurement: str, text: str) -> tuple[int, ...]:
        for word in text.split():
            if word.upper() not in ("X", "Y", "Z"):
                raise FileFormatError(self.file, f"measurement '{measurement}' scales along '{word}'", "write X, Y and Z with blanks in between")
        return tuple(sorted({"XYZ".index(word.upper()) for word in text.split()}))

    def _manual(self, element: Element) -> tuple[str, tuple[float, float, float]]:
        body = child_text(element, "segment")
        factors = [self._number("scales", word) for word in child_text(element, "scales").split()]
        if len(factors) != 3 or not all(0 < f < math.inf for f in factors):
            raise FileFormatError(self.file, f"the scale factors of '{body}' are {factors}", "write three positive numbers")
        return body, (factors[0], factors[1], factors[2])

    def _weight(self, element: Element) -> tuple[str, float]:
        return element.get("name", ""), self._task_weight(element)

    def _coordinate(self, element: Element) -> CoordinateTask:
        name = element.get("name", "")
        source = child_text(element, "value_type") or "default_value"
        if source not in ("manual_value", "default_value", "from_file"):
            raise FileFormatError(self.file, f"value_type of '{name}' is '{source}'", "write default_value, manual_value or from_file")
        value = self._number("value", child_text(element, "value") or "0")
        return CoordinateTask(name, self._task_weight(element), source, value)  # type: ignore[arg-type]

    def _task_weight(self, element: Element) -> float:
        weight = self._number("weight", child_text(element, "weight") or "0")
        if not 0 <= weight < math.inf:
            raise FileFormatError(self.file, f"the weight of '{element.get('name', '')}' is {weight}", "write a number from zero up")
        return weight

    def _step(self, word: str) -> Step:
        if word == "measurements" or word == "manualScale":
            return word  # type: ignore[return-value]
        raise FileFormatError(self.file, f"scaling_order holds '{word}'", "write measurements, manualScale or both")

    def _known(self, element: Element, tag: str, unit: float) -> float | None:
        text = child_text(element, tag)
        value = self._number(tag, text) if text else -1.0
        return value * unit if value > 0 else None

    def _range(self, part: Element) -> tuple[float, float] | None:
        words = child_text(part, "time_range").split()
        numbers = [self._number("time_range", word) for word in words]
        if not numbers or numbers == [-1.0, -1.0]:
            return None
        if len(numbers) != 2 or not numbers[0] <= numbers[1]:
            raise FileFormatError(self.file, f"time_range is '{' '.join(words)}'", "write the first and the last time")
        return numbers[0], numbers[1]

    def _flag(self, part: Element, tag: str, default: bool) -> bool:
        text = child_text(part, tag).lower()
        if text not in ("", "true", "false"):
            raise FileFormatError(self.file, f"{tag} is '{text}'", "write true or false")
        return default if not text else text == "true"

    def _path(self, part: Element, tag: str) -> Path | None:
        text = child_text(part, tag)
        return Path(os.path.normpath(self.file.parent / _plain(text))) if text else None

    def _number(self, tag: str, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise FileFormatError(self.file, f"{tag} is '{text}', not a number", "write it with a decimal point") from None
        if math.isnan(value):
            raise FileFormatError(self.file, f"{tag} is '{text}'", "write a number")
        return value


def _tool(file: Path, root: Element) -> Element:
    tool = root if root.tag == "ScaleTool" else root.find("ScaleTool")
    if tool is None:
        held = next((child.tag for child in root), root.tag) if root.tag == "OpenSimDocument" else root.tag
        raise FileFormatError(file, f"holds a {held}, not a ScaleTool", "give the setup file of scaling")
    return tool


def _part(tool: Element, tag: str) -> Element:
    found = tool.find(tag)
    return Element(tag) if found is None else found


def _plain(text: str) -> Path:
    return Path(PureWindowsPath(text).as_posix()) if "\\" in text else Path(text)
