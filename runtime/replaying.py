"""What `latticework replay` does: recorded runs in a backend of the caller's choice, shown one after the other.

Knows the language's public names, and where keys come from: the environment, never the command line.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import msgspec
from rich.console import Console

import latticework as lw
from latticework.lang.comparing import USUAL, Comparison
from latticework.lang.errors import InvalidArgument
from latticework.lang.record import read_records
from latticework.lang.replay import replay_each
from latticework.runtime.config import EngineConfig
from latticework.runtime.terminal import started

Place = Literal["runtime", "openai", "completions"]


def replay_file(
    path: str,
    place: Place,
    url: str | None,
    summary: str | None,
    timeout: float | None,
    engine: EngineConfig,
    comparison: Comparison = USUAL,
) -> bool:
    """Whether nothing differs. The file is read, and the summary's opened, before anything is started. Raises
    InvalidArgument."""
    records = list(read_records(path))
    if not records:
        raise InvalidArgument(f"{path} has no recorded runs", field="path")
    if summary is not None:
        _write(summary, "")
    console = Console(highlight=False)
    found: list[lw.Replayed] = []
    with backend_of(place, url, engine) as backend:
        for replayed in replay_each(records, backend, timeout, comparison):
            console.print(lw.show_replayed(replayed), soft_wrap=True)
            found.append(replayed)
    same = sum(replayed.same for replayed in found)
    console.print(f"{len(found)} runs, {same} without differences", style="dim")
    if summary is not None:
        _write(summary, msgspec.json.format(msgspec.json.encode(summary_of(found))).decode() + "\n")
    return same == len(found)


def backend_of(place: Place, url: str | None, engine: EngineConfig) -> AbstractContextManager[Any]:
    """The backend that the options name. Raises InvalidArgument, ConnectionLost."""
    if place != "runtime":
        return lw.OpenAI(engine.model, is_chat_model=place == "openai", base_url=url)
    if url is None:
        return started(engine)
    is_http = url.startswith(("http://", "https://"))
    return lw.connect(url, api_key=os.environ.get("LATTICEWORK_API_KEY") if is_http else None)


def summary_of(found: Sequence[lw.Replayed]) -> dict[str, Any]:
    """As JSON: counts, and each difference with the line and the program it is of."""
    differences = [
        {"line": replayed.line, "program": replayed.recorded.name, **msgspec.to_builtins(difference)}
        for replayed in found
        for difference in replayed.differences
    ]
    return {
        "runs": len(found),
        "same": sum(replayed.same for replayed in found),
        "left_out": sum(replayed.left_out for replayed in found),
        "differences": differences,
    }


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be written: {error}", field="json") from None
