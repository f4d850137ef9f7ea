"""A progress bar for many runs at once: runs done, output tokens per second, time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

Show: TypeAlias = Callable[[int, int], None]
"""Called with the runs that are done and the tokens they wrote."""


@contextmanager
def silent() -> Iterator[Show]:
    yield lambda done, tokens: None


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Show]:
    """A bar on stderr. total: how many runs there will be, if known."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f} tok/s"),
        TimeRemainingColumn(),
    )
    started = time.monotonic()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, rate=0.0)

        def show(done: int, tokens: int) -> None:
            elapsed = max(time.monotonic() - started, 1e-9)
            bar.update(task, completed=done, rate=tokens / elapsed)

        yield show
