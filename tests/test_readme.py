"""README's first screen is true, and what it names exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "program.py").write_text(program)
    return subprocess.run(
        [sys.executable, str(folder / "program.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )


def test_the_first_program_prints_what_the_readme_shows(tmp_path: Path) -> None:
    kind, program = BLOCKS[0]
    assert kind == "python"
    done = run(program, tmp_path)
    assert done.stdout == BLOCKS[1][1]
    assert "started smollm2" in done.stderr


def test_the_picture_of_a_program_is_the_one_it_draws(tmp_path: Path) -> None:
    (place,) = [index for index, (kind, _) in enumerate(BLOCKS) if kind == "mermaid"]
    assert run(BLOCKS[place - 1][1], tmp_path).stdout == BLOCKS[place][1]


def test_every_command_the_readme_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for command in re.findall(r"^latticework (\w+)", README, re.MULTILINE):
        subprocess.run(
            [sys.executable, "-m", "latticework", command, "--help"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=60,
        )


def test_every_link_of_the_readme_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
