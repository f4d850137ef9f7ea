"""Files the model layer writes: whole or not at all, so that processes starting together never read half of one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from latticework.lang.errors import ModelError


def write_atomically(path: Path, text: str) -> None:
    """Writes UTF-8 to `path`, making its folder. Raises ModelError when that cannot be done."""
    try:
        _write(path, text)
    except OSError as error:
        raise ModelError(
            f"{path} cannot be written: {error.strerror}", hint="set LATTICEWORK_CACHE to a folder you may write to"
        ) from None


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
