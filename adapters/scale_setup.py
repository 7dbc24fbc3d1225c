"""Setup files of OpenSim's ScaleTool: what they ask for, with every path resolved."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree.ElementTree import Element

from imdy_plugin.adapters.safe_xml import child_text
from imdy_plugin.adapters.tool_setup import CoordinateTask, ToolSetup
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
    return _Reader(ToolSetup(path, "ScaleTool", "scaling")).read()


class _Reader:
    def __init__(self, setup: ToolSetup) -> None:
        self.setup, self.file = setup, setup.file
        self.maker, self.scaler, self.placer = (setup.part(tag) for tag in ("GenericModelMaker", "ModelScaler", "MarkerPlacer"))

    def read(self) -> ScaleSetup:
        setup, tasks = self.setup, self.setup.tasks(self.placer)
        return ScaleSetup(
            path=self.file,
            mass=self._known("mass", 1.0),
            height=self._known("height", 1e-3),
            model_file=setup.path(self.maker, "model_file"),
            marker_set_file=setup.path(self.maker, "marker_set_file"),
            scales=setup.flag(self.scaler, "apply", True),
            places=setup.flag(self.placer, "apply", True),
            order=tuple(self._step(word) for word in child_text(self.scaler, "scaling_order").split()),
            measurements=tuple(self._measurement(m) for m in setup.objects(self.scaler, "MeasurementSet") if setup.flag(m, "apply", True)),
            manual=tuple(self._manual(s) for s in setup.objects(self.scaler, "ScaleSet") if setup.flag(s, "apply", True)),
            preserve_mass_distribution=setup.flag(self.scaler, "preserve_mass_distribution", False),
            scale_file=setup.path(self.scaler, "marker_file"),
            scale_range=setup.time_range(self.scaler),
            place_file=setup.path(self.placer, "marker_file"),
            place_range=setup.time_range(self.placer),
            marker_weights=tasks.marker_weights,
            coordinate_tasks=tasks.coordinate_tasks,
            coordinate_file=setup.path(self.placer, "coordinate_file"),
        )

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
        factors = [self.setup.number("scales", word) for word in child_text(element, "scales").split()]
        if len(factors) != 3 or not all(0 < f < math.inf for f in factors):
            raise FileFormatError(self.file, f"the scale factors of '{body}' are {factors}", "write three positive numbers")
        return body, (factors[0], factors[1], factors[2])

    def _step(self, word: str) -> Step:
        if word == "measurements" or word == "manualScale":
            return word  # type: ignore[return-value]
        raise FileFormatError(self.file, f"scaling_order holds '{word}'", "write measurements, manualScale or both")

    def _known(self, tag: str, unit: float) -> float | None:
        text = child_text(self.setup.tool, tag)
        value = self.setup.number(tag, text) if text else -1.0
        return value * unit if value > 0 else None
