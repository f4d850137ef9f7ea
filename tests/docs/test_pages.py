"""What the pages show is Python, with names that there are; what they link to exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import latticework as lw
from latticework.runtime.cli import app
from latticework.runtime.config import EngineConfig, ServerConfig
from latticework.runtime.options import settings_of

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PYTHON = re.compile(r"^```python.*?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!http)([^)#\s]+)(?:#[^)]*)?\)")
MENTIONED = re.compile(r"`(?:lw|sgl)\.([A-Za-z_]+)")
ARGUMENT = re.compile(r'"(--[a-z][a-z-]+)"')
OPTION = re.compile(r"`(--[a-z][a-z-]+)`")


def of_commands(command: Any) -> set[str]:
    """Options of a command of click and of those under it."""
    found = {option for parameter in command.params for option in parameter.opts}
    return found.union(*map(of_commands, getattr(command, "commands", {}).values()))


KNOWN = (
    {setting.flag for struct in (EngineConfig, ServerConfig) for setting in settings_of(struct)}
    | of_commands(get_command(app))
    | {option for file in (ROOT / "benchmarks").rglob("*.py") for option in ARGUMENT.findall(file.read_text())}
    | {"--help"}
)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_of_python_parses_and_uses_names_that_there_are(page: Path) -> None:
    for block in PYTHON.findall(page.read_text()):
        tree = compile(block, name(page), "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        ours = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
            if alias.name == "latticework"
        } | {"lw"}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ours:
                assert node.attr in lw.__all__, f"{name(page)}: {node.value.id}.{node.attr}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_name_of_ours_that_a_page_mentions_exists(page: Path) -> None:
    missing = [found for found in MENTIONED.findall(page.read_text()) if not hasattr(lw, found)]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_option_that_a_page_mentions_exists(page: Path) -> None:
    unknown = [option for option in OPTION.findall(page.read_text()) if option.replace("--no-", "--") not in KNOWN]
    assert not unknown


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    missing = [target for target in LINK.findall(page.read_text()) if not (page.parent / target).exists()]
    assert not missing
