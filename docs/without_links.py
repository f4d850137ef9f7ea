"""mkdocs hook: a copy of the package in which lang, runtime and kernels are plain packages, for mkdocstrings, whose
reader neither follows links nor looks into folders without an `__init__.py`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1] / "latticework"
COPY = PACKAGE.parent / "build" / "docs" / "latticework"  # as `paths` in mkdocs.yml has it


def on_startup(**_: Any) -> None:
    shutil.rmtree(COPY, ignore_errors=True)
    shutil.copytree(PACKAGE, COPY, ignore=shutil.ignore_patterns("__pycache__", "*.json"))
    for folder in COPY.rglob("*"):
        if folder.is_dir():
            (folder / "__init__.py").touch()
