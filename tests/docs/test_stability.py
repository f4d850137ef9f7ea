"""The page of what stays as it is names what there is, no more and no less."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx

import latticework as lw
from latticework.runtime.cli import app
from tests.conftest import SERVER_KEYS

PAGE = (Path(__file__).parents[2] / "docs" / "stability.md").read_text()


def rows(mark: str) -> list[list[str]]:
    """The cells of the table behind a mark, without its head."""
    table = PAGE.split(f"<!-- public: {mark} -->\n")[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_the_public_names_are_those_of_the_package() -> None:
    named = [name for _, cell in rows("names") for name in code(cell)]
    assert sorted(named) == sorted(lw.__all__)
    for name in named:
        assert getattr(lw, name) is not None


def test_the_names_of_other_modules_exist() -> None:
    listed = {code(module)[0]: code(names) for module, names in rows("modules")}
    assert listed["latticework.runtime.constrain"]
    for module, names in listed.items():
        for name in names:
            assert hasattr(import_module(module), name), f"{module}.{name}"


def test_the_commands_are_those_there_are() -> None:
    named = [name for _, cell in rows("commands") for name in code(cell)]
    assert named == [command.callback.__name__ for command in app.registered_commands if command.callback]


def test_the_numbers_of_formats_are_those_of_the_code() -> None:
    for _, number, constant, _ in rows("formats"):
        module, _, name = code(constant)[0].rpartition(".")
        assert getattr(import_module(module), name) == int(number), constant


def test_the_routes_are_those_of_the_server(tiny_server: Any) -> None:
    key = {"Authorization": f"Bearer {SERVER_KEYS['ada']}"}
    answer = httpx.get(f"{tiny_server.url}/openapi.json", headers=key, timeout=20).raise_for_status().json()
    served = {f"{method.upper()} {path}" for path, methods in answer["paths"].items() for method in methods}
    assert {route for _, cell in rows("routes") for route in code(cell)} == served
