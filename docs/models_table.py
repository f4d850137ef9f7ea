"""mkdocs hook: replaces `<!-- families -->` by a table made from the list that the tests run."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

MARKS = {"<!-- families -->": "FAMILIES", "<!-- others -->": "OTHERS"}
TESTED = Path(__file__).parents[1] / "tests" / "runtime" / "model" / "families.py"


def on_page_markdown(markdown: str, **_: Any) -> str:
    for mark, name in MARKS.items():
        if mark in markdown:
            markdown = markdown.replace(mark, table(name))
    return markdown


def table(name: str) -> str:
    lines = ["| models | architecture | GGUF | beside a plain Llama | tested shapes |", "|---|---|---|---|---|"]
    for family in runpy.run_path(str(TESTED))[name]:
        gguf = f"`{family.gguf}`" if family.gguf else ""
        shapes = ", ".join(family.shapes)
        lines.append(f"| {family.models} | `{family.architecture}` | {gguf} | {family.own} | {shapes} |")
    return "\n".join(lines)
