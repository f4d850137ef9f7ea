"""Where `latticework replay` runs what was recorded: servers, with keys of the environment."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import latticework as lw
from latticework.runtime.config import EngineConfig
from latticework.runtime.replaying import replay_file
from tests.conftest import SERVER_KEYS
from tests.runtime.server.conftest import ServedFront

ENGINE = EngineConfig(model="tiny")


@lw.function
def program(s: lw.State) -> None:
    s += "Once" + lw.gen("x", max_tokens=4, regex="[a-z]+")
    s += ", " + s["x"] + lw.select("y", ["a", "b"])


@pytest.fixture
def file(tiny_server: ServedFront, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run on the server, read as it grew."""
    for name in ("LATTICEWORK_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, SERVER_KEYS["ada"])
    path = tmp_path / "x.jsonl"

    async def stream() -> None:
        state = program.astream(backend=backend, seed=3, record=path)
        assert "".join([piece async for piece in state])

    with lw.connect(tiny_server.url, api_key=SERVER_KEYS["ada"]) as backend:
        asyncio.run(stream())
    assert SERVER_KEYS["ada"] not in path.read_text()
    return path


@pytest.mark.parametrize(("place", "end"), [("runtime", ""), ("completions", "/v1")])
def test_a_server_says_again_what_it_said(tiny_server: ServedFront, file: Path, place: Any, end: str) -> None:
    assert replay_file(str(file), place, tiny_server.url + end, None, 30.0, ENGINE)


def test_what_a_backend_cannot_do_is_a_difference(
    tiny_server: ServedFront, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not replay_file(str(file), "openai", f"{tiny_server.url}/v1", None, 30.0, ENGINE)
    assert "now: Unsupported" in capsys.readouterr().out


def test_a_file_without_runs_or_a_summary_that_cannot_be_written_starts_nothing(tmp_path: Path, file: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    with pytest.raises(lw.InvalidArgument, match="no recorded runs"):
        replay_file(str(empty), "runtime", "ipc:///nowhere", None, None, ENGINE)
    with pytest.raises(lw.InvalidArgument, match="cannot be written"):
        replay_file(str(file), "runtime", "ipc:///nowhere", str(tmp_path), None, ENGINE)
