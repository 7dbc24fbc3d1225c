"""Reading XML without believing it: no entities, no external references, and an error that names the line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast
from xml.etree.ElementTree import Element, ParseError

from imdy_plugin.errors import FileFormatError


def parse_xml(path: str | os.PathLike[str]) -> Element:
    """Parse a file and return its root element.

    Parameters
    ----------
    path
        An XML file such as a model, a setup file or external loads.

    Raises
    ------
    FileFormatError
        The file does not exist, is empty, is not well-formed (the message names the line), or declares entities or
        external references, which can unpack to gigabytes or read other files.
    """
    import defusedxml.ElementTree
    from defusedxml.common import DefusedXmlException

    file = existing_file(path)
    try:
        root = defusedxml.ElementTree.parse(file).getroot()
    except DefusedXmlException as error:
        raise FileFormatError(
            file, f"declares XML entities or external references ({_brief(error)})", "remove the DOCTYPE section; no OpenSim file needs one"
        ) from error
    except ParseError as error:
        line, column = error.position
        raise FileFormatError(
            file, f"is not well-formed XML at line {line}, column {column + 1}: {error}", "the file may be cut short; copy it again"
        ) from error
    except (LookupError, ValueError) as error:
        raise FileFormatError(file, f"cannot be decoded as XML: {error}", "save it as UTF-8") from error
    return cast("Element", root)


def child_text(element: Element, tag: str) -> str:
    """Text of a child element without blanks around it; empty where there is no such child or it is ``Unassigned``, OpenSim's word for nothing."""
    text = (element.findtext(tag) or "").strip()
    return "" if text.lower() == "unassigned" else text


def existing_file(path: str | os.PathLike[str]) -> Path:
    """Return ``path`` as a :class:`~pathlib.Path` if it is a file that holds anything.

    Raises
    ------
    FileFormatError
        It does not exist, is a folder, or is empty; the message tells which.
    """
    file = Path(path)
    if file.is_dir():
        raise FileFormatError(file, "is a folder", "give a file")
    if not file.is_file():
        raise FileFormatError(file, "does not exist", _nearby(file))
    if file.stat().st_size == 0:
        raise FileFormatError(file, "is empty (0 bytes)", "copy it again from where it came")
    return file


def _nearby(file: Path) -> str:
    if not file.parent.is_dir():
        return f"nor does its folder '{file.parent}'; check the path"
    similar = sorted(p.name for p in file.parent.glob(f"*{file.suffix}"))[:5] if file.suffix else []
    return f"beside it: {', '.join(similar)}" if similar else "check the path"


def _brief(error: Exception) -> str:
    name = getattr(error, "name", None)
    return f"{type(error).__name__}: '{name}'" if name else type(error).__name__
