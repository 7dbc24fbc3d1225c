from __future__ import annotations

from pathlib import Path

import pytest

from imdy_plugin.adapters.safe_xml import parse_xml
from imdy_plugin.errors import FileFormatError

BOMB = """<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;&lol;&lol;"><!ENTITY lol3 "&lol2;&lol2;&lol2;&lol2;">]>
<OpenSimDocument Version="40000"><Model name="&lol3;"/></OpenSimDocument>
"""
EXTERNAL = """<?xml version="1.0"?>
<!DOCTYPE x [<!ENTITY secret SYSTEM "{target}">]>
<OpenSimDocument Version="40000"><Model name="m">&secret;</Model></OpenSimDocument>
"""


def write(folder: Path, text: str, name: str = "a.osim") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_lawful_document_is_parsed(tmp_path: Path) -> None:
    root = parse_xml(write(tmp_path, '<OpenSimDocument Version="40000"><Model name="m"/></OpenSimDocument>'))
    assert root.tag == "OpenSimDocument"
    assert root.find("Model") is not None


def test_an_entity_bomb_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"entities.*lol.*DOCTYPE"):
        parse_xml(write(tmp_path, BOMB))


def test_an_external_entity_is_refused_and_not_read(tmp_path: Path) -> None:
    secret = write(tmp_path, "the secret", "secret.txt")
    with pytest.raises(FileFormatError, match="entities or external") as error:
        parse_xml(write(tmp_path, EXTERNAL.format(target=secret.as_uri())))
    assert "the secret" not in str(error.value)


def test_a_truncated_document_names_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, '<OpenSimDocument Version="40000">\n<Model name="m">\n<BodySet>')
    with pytest.raises(FileFormatError, match=r"not well-formed XML at line 3"):
        parse_xml(path)


def test_an_empty_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    empty = write(tmp_path, "", "empty.osim")
    with pytest.raises(FileFormatError, match="is empty"):
        parse_xml(empty)
    with pytest.raises(FileFormatError, match=r"does not exist -- beside it: empty\.osim"):
        parse_xml(tmp_path / "emty.osim")
    with pytest.raises(FileFormatError, match="nor does its folder"):
        parse_xml(tmp_path / "nowhere" / "a.osim")
    with pytest.raises(FileFormatError, match="is a folder"):
        parse_xml(tmp_path)


def test_an_unknown_encoding_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="XML"):
        parse_xml(write(tmp_path, '<?xml version="1.0" encoding="no-such-code"?><a/>'))


def test_bytes_that_are_no_xml_are_an_error_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(FileFormatError, match="not well-formed"):
        parse_xml(path)
