"""The tutorial, followed to the letter: every block runs, in its order, and prints what the page shows below it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial.md"
FENCE = re.compile(r'^```(\w+)(?: title="([\w.]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
END = "\x1e"  # printed behind each block
SETTING_UP = {". .venv/bin/activate"}
WITH_ENGINE = {"replay"}


class Block(NamedTuple):
    """kind: the fence's language. title: the file that it is. output: what the page shows below it."""

    kind: str
    title: str | None
    text: str
    output: str
    line: int


def blocks(page: str) -> list[Block]:
    found: list[Block] = []
    for fence in FENCE.finditer(page):
        kind, title, text = fence.groups()
        if kind in ("text", "mermaid"):
            found[-1] = found[-1]._replace(output=text)
        else:
            found.append(Block(kind, title, text, "", page[: fence.start()].count("\n") + 1))
    return found


BLOCKS = blocks(PAGE.read_text())
SESSION = [block for block in BLOCKS if block.kind == "python" and block.title is None]
COMMANDS = [block for block in BLOCKS if block.kind == "sh"]


def run(command: list[str], folder: Path) -> str:
    """What a command prints on stdout."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of one who has followed it, and what each block of the session has printed."""
    folder = tmp_path_factory.mktemp("tutorial")
    for block in BLOCKS:
        if block.title is not None:
            (folder / block.title).write_text(block.text)
    session = "".join(f"{block.text}\nprint({END!r}, end='')\n" for block in SESSION)
    (folder / "session.py").write_text(session)
    *printed, rest = run([sys.executable, "session.py"], folder).split(END)
    assert rest == ""
    return folder, printed


@pytest.mark.slow
def test_every_block_of_the_session_prints_what_the_page_shows(followed: tuple[Path, list[str]]) -> None:
    shown = [(block.line, block.output) for block in SESSION]
    assert [(block.line, text) for block, text in zip(SESSION, followed[1], strict=True)] == shown


@pytest.mark.slow
def test_every_command_that_needs_no_engine_prints_what_the_page_shows(followed: tuple[Path, list[str]]) -> None:
    for block in COMMANDS:
        for command in block.text.splitlines():
            first, second, *rest = command.split()
            if first == "make":
                assert re.search(rf"^{second}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
            elif first == "latticework" and second not in WITH_ENGINE:
                printed = run([sys.executable, "-m", "latticework", second, *rest], followed[0])
                assert printed == block.output or not block.output
            else:
                assert second in WITH_ENGINE or command in SETTING_UP, command


@pytest.mark.slow
def test_every_command_that_starts_an_engine_prints_what_the_page_shows(followed: tuple[Path, list[str]]) -> None:
    for block in COMMANDS:
        first, second, *rest = block.text.split()
        if first == "latticework" and second in WITH_ENGINE:
            assert run([sys.executable, "-m", "latticework", second, *rest], followed[0]) == block.output


def test_the_page_has_nothing_but_blocks_that_are_run() -> None:
    assert {block.kind for block in BLOCKS} == {"python", "sh", "bar"}
    assert [block.text.split()[0] for block in BLOCKS if block.kind == "bar"] == ["describe"]
    fences = re.findall("^```", PAGE.read_text(), re.MULTILINE)
    assert len(fences) == 2 * (len(BLOCKS) + sum(bool(block.output) for block in BLOCKS))
