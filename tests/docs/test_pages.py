"""What the pages show is Python, with names that there are; what they link to exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import latticework as lw
from latticework.runtime.config import EngineConfig, ServerConfig
from latticework.runtime.options import settings_of

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PYTHON = re.compile(r"^```python.*?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!http)([^)#\s]+)(?:#[^)]*)?\)")
MENTIONED = re.compile(r"`(?:lw|sgl)\.([A-Za-z_]+)")
OPTION = re.compile(r"`(--[a-z][a-z-]+)`")
KNOWN = {setting.flag for struct in (EngineConfig, ServerConfig) for setting in settings_of(struct)} | {
    "--backend", "--url", "--json", "--as", "--base-url", "--help"  # of single commands, and of benchmarks
}  # fmt: skip


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
