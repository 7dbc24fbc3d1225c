"""Writing a file so that what was there before is lost only when the new one is complete, and its loss was wanted."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from imdy_plugin.errors import InputError


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path``, on failure it is removed.

    The folder of ``path`` is made when it does not exist.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def check_free(paths: Iterable[str | os.PathLike[str]], force: bool) -> None:
    """Refuse to replace files that exist, unless that is wanted.

    Raises
    ------
    InputError
        One of them exists, and ``force`` is not given.
    """
    for path in paths:
        if Path(path).exists() and not force:
            raise InputError(f"{path} exists and would be replaced; name another file, or say --force (force=True)")
