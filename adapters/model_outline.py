"""The skeleton of an .osim file: what bodies, joints, constraints and markers need, cut out of the text before anybody reads the rest.

Muscles with their paths and curves are nine tenths of a model's file and of the time that OpenSim takes to read it; its mechanics needs none of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

DROPPED = frozenset({"ForceSet", "ControllerSet", "ProbeSet", "ContactGeometrySet", "WrapObjectSet", "attached_geometry", "VisibleObject", "ComponentSet"})
"""Elements without which a model moves and weighs the same; ``defaults`` stays, since a body or coordinate may have its numbers from it."""

_COMMENT = re.compile(rb"<!--.*?-->", re.DOTALL)


@dataclass(frozen=True)
class Outline:
    """What a model's file holds besides muscles.

    Attributes
    ----------
    text
        The document.
    skeleton
        The document without comments and the elements of :data:`DROPPED`.
    version
        Version of the document, a number.
    forces
        Names of the model's own forces.
    """

    text: bytes
    skeleton: bytes
    version: str
    forces: tuple[str, ...]


class _UnfitError(Exception):
    """The file is not of the plain kind that can be cut."""


@dataclass
class _Scan:
    """Handlers of a parser that notes where the dropped elements lie; ``depth`` counts the elements that are open."""

    parser: Any
    version: str = ""
    depth: int = 0
    dropped_from: int = 0
    in_forces: bool = False
    in_forces_list: bool = False
    spans: list[list[int]] = field(default_factory=list)
    forces: list[str] = field(default_factory=list)

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """Begin an element that is kept, or one that is not."""
        if self.depth < 2 and tag != ("OpenSimDocument", "Model")[self.depth]:
            raise _UnfitError
        if self.depth == 0:
            self.version = attributes.get("Version", "")
        if attributes.get("file"):
            raise _UnfitError
        if tag in DROPPED:
            self.dropped_from, self.in_forces = self.depth, tag == "ForceSet"
            self.spans.append([self.parser.CurrentByteIndex])
            self.parser.StartElementHandler, self.parser.EndElementHandler = self.start_dropped, self.end_dropped
        self.depth += 1

    def end(self, _: str) -> None:
        """End an element that is kept."""
        self.depth -= 1

    def start_dropped(self, tag: str, attributes: dict[str, str]) -> None:
        """Begin an element inside one that is dropped; a force lies at ``ForceSet/objects/<force>``."""
        if self.in_forces and self.depth == self.dropped_from + 1:
            self.in_forces_list = tag == "objects"
        elif self.in_forces and self.depth == self.dropped_from + 2 and self.in_forces_list:
            self.forces.append(attributes.get("name", ""))
        self.depth += 1

    def end_dropped(self, _: str) -> None:
        """End an element inside one that is dropped, or that one."""
        self.depth -= 1
        if self.depth == self.dropped_from:
            self.spans[-1].append(self.parser.CurrentByteIndex)
            self.parser.StartElementHandler, self.parser.EndElementHandler = self.start, self.end

    def refuse(self, *_: Any) -> None:
        """Meet a document type, which may declare entities."""
        raise _UnfitError


def read_outline(path: Path) -> Outline | None:
    """Cut the skeleton out of a model's file; None where it is no well-formed model, declares a document type, or points to other files."""
    try:
        data = path.read_bytes()
        parser = expat.ParserCreate()
        scan = _Scan(parser)
        parser.StartElementHandler, parser.EndElementHandler, parser.StartDoctypeDeclHandler = scan.start, scan.end, scan.refuse
        parser.Parse(data, True)
    except (OSError, expat.ExpatError, LookupError, ValueError, _UnfitError):
        return None
    return Outline(data, _cut(data, scan.spans), scan.version, tuple(scan.forces)) if scan.version.isdigit() else None


def _cut(data: bytes, spans: list[list[int]]) -> bytes:
    """``data`` without ``spans``, each from the beginning of a start tag to the beginning of its end tag; empty elements stay."""
    parts, kept = [], 0
    for start, end in spans:
        if end > start:
            parts.append(data[kept:start])
            kept = data.index(b">", end) + 1
    skeleton = b"".join([*parts, data[kept:]])
    return skeleton if b"<![CDATA[" in skeleton else _COMMENT.sub(b"", skeleton)
