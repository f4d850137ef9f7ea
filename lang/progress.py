"""A progress bar for many runs at once: runs done, output tokens per second, share of prompts cached, time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from latticework.lang.events import Usage

Show: TypeAlias = Callable[[int, Usage], None]
"""Called with the runs that are done and their tokens."""


@contextmanager
def silent() -> Iterator[Show]:
    yield lambda done, usage: None


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Show]:
    """A bar on stderr. total: how many runs there will be, if known."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f} tok/s, {task.fields[cached]:.0%} cached"),
        TimeRemainingColumn(),
    )
    started = time.monotonic()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, rate=0.0, cached=0.0)

        def show(done: int, usage: Usage) -> None:
            elapsed = max(time.monotonic() - started, 1e-9)
            cached = usage.cached / max(1, usage.prompt)
            bar.update(task, completed=done, rate=usage.output / elapsed, cached=cached)

        yield show
