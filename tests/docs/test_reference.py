"""The reference has every public name, and what it shows is there and documented."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import latticework as lw
from latticework.runtime import constrain
from latticework.runtime.cli import app

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "reference").glob("*.md"))
SHOWN = {name: page.name for page in PAGES for name in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.MULTILINE)}


def found(path: str) -> Any:
    """The object at a dotted path, a module or what is in one."""
    parts = path.split(".")
    for size in range(len(parts), 0, -1):
        try:
            value: Any = import_module(".".join(parts[:size]))
        except ModuleNotFoundError:
            continue
        for part in parts[size:]:
            value = getattr(value, part)
        return value
    raise ModuleNotFoundError(path)


@pytest.mark.parametrize(("module", "package"), [(lw, "latticework"), (constrain, "latticework.runtime.constrain")])
def test_every_public_name_is_in_the_reference(module: Any, package: str) -> None:
    missing = [name for name in module.__all__ if f"{package}.{name}" not in SHOWN]
    assert not missing


@pytest.mark.parametrize("path", SHOWN)
def test_what_the_reference_shows_is_there_and_documented(path: str) -> None:
    value = found(path)
    if inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value):
        assert inspect.getdoc(value), path
        assert value.__doc__ or not inspect.isclass(value), f"{path} has the docstring of another class"
    if inspect.isclass(value):
        assert undocumented(value) == [], path


def undocumented(kind: type) -> list[str]:
    """The public methods and properties of a class's own without a docstring."""
    if issubclass(kind, Exception):
        return []
    return [
        name
        for name, member in vars(kind).items()
        if not name.startswith("_")
        and isinstance(member, property | staticmethod | classmethod | FunctionType)
        and not inspect.getdoc(member)
    ]


def test_every_error_is_in_the_reference() -> None:
    tree = [kind.__name__ for kind in subclasses(lw.LatticeworkError)]
    assert not [name for name in tree if SHOWN.get(f"latticework.{name}") != "errors.md"]


def subclasses(kind: type[lw.LatticeworkError]) -> list[type[lw.LatticeworkError]]:
    """Those below `kind`, of the tree in lang/errors.py."""
    below = [child for child in kind.__subclasses__() if child.__module__ == "latticework.lang.errors"]
    return below + [further for child in below for further in subclasses(child)]


def test_the_commands_page_has_every_command_and_its_own_options() -> None:
    hook = import_module("docs.commands_table")
    page = hook.on_page_markdown((ROOT / "docs" / "reference" / "commands.md").read_text())
    names = [command.callback.__name__ for command in app.registered_commands if command.callback]
    assert re.findall(r"^## latticework (\w+)$", page, re.MULTILINE) == names
    assert "| `--as` | text \\| mermaid \\| html \\| passes | `text` | what it is shown as |" in page
    assert page.count("[engine setting]") == 6
    assert page.count("[server setting]") == 1


def test_every_page_is_in_the_navigation_and_every_entry_leads_to_one() -> None:
    listed = set(re.findall(r"(?:: |- )([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    docs = ROOT / "docs"
    assert listed == {page.relative_to(docs).as_posix() for page in docs.rglob("*.md")}
