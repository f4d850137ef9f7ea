"""What the commands show in a terminal: a loading bar, a finished run, a chat. Knows the language's public names."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

import latticework as lw
from latticework.lang.backends.runtime import Runtime
from latticework.lang.errors import InvalidArgument
from latticework.runtime.config import EngineConfig


class LoadingBar:
    """Shows on stderr how much of a model is loaded; says nothing where stderr is no terminal."""

    def __init__(self, model: str) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task(f"loading {model}", total=1.0)

    def advance(self, fraction: float) -> None:
        self._progress.update(self._task, completed=fraction)

    def stop(self) -> None:
        """Idempotent."""
        self._progress.stop()

    def __enter__(self) -> LoadingBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextmanager
def started(engine: EngineConfig) -> Iterator[Runtime]:
    """An embedded runtime with these settings, ended with the block."""
    with LoadingBar(engine.model) as bar:
        runtime = Runtime(progress=bar.advance, **msgspec.structs.asdict(engine))
    with runtime:
        yield runtime


# ---------------------------------------------------------------- run


def load_function(target: str) -> lw.Function:
    """The @function that FILE:FUNCTION names. Raises InvalidArgument; errors in the file itself pass through."""
    file, _, name = target.rpartition(":")
    if not file or not name:
        raise InvalidArgument(f"{target!r} names no function", field="target", hint="expected file.py:function")
    path = Path(file)
    if not path.is_file():
        raise InvalidArgument(f"there is no file {file}", field="target")
    found = getattr(_load(path), name, None)
    if not isinstance(found, lw.Function):
        what = f"a {type(found).__name__}" if found is not None else "nothing"
        raise InvalidArgument(f"{name} in {file} is {what}; expected a @function", field="target")
    return found


def _load(path: Path) -> ModuleType:
    name = f"_latticework_run_{path.stem}"  # of its own: json.py is not to replace json
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InvalidArgument(f"{path} is no Python file", field="target")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up by name
    sys.path.insert(0, str(path.parent.resolve()))  # as `python file.py` does
    spec.loader.exec_module(module)
    return module


def parse_arguments(pairs: Sequence[str]) -> dict[str, Any]:
    """key=value pairs; a value that is JSON is that value, anything else is text. Raises InvalidArgument."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise InvalidArgument(f"{pair!r} is no argument", field="arguments", hint="expected key=value")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def print_state(state: lw.State, seconds: float) -> None:
    """A finished run: its text with what the model wrote marked, its variables as values, its tokens."""
    console = Console(highlight=False)
    console.print(run_text(state), soft_wrap=True)
    console.print()
    console.print(values_table(state))
    console.print(usage_line(state, seconds), style="dim")


def run_text(state: lw.State) -> Text:
    """`lw.show_run`, without control characters."""
    shown, safe, end = lw.show_run(state), Text(), 0
    for span in shown.spans:  # side by side, as they were appended
        safe.append(printable(shown.plain[end : span.start]))
        safe.append(printable(shown.plain[span.start : span.end]), span.style)
        end = span.end
    return safe.append(printable(shown.plain[end:]))


def values_table(state: lw.State) -> Table:
    """The variables of a run, each as the value its type makes of it."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("variable", "value", "type"):
        table.add_column(column, header_style="dim", overflow="fold")
    for name in state.variables():
        value = state.value(name)
        cells = (printable(text) for text in (name, repr(value), type(value).__name__))
        table.add_row(Text(next(cells), style="bold"), *map(Text, cells))
    return table


def usage_line(state: lw.State, seconds: float) -> str:
    usage = state.usage()
    return (
        f"{usage.prompt} prompt tokens ({usage.cached} from the cache), {usage.output} generated, "
        f"{seconds:.2f} s, seed {state.seed}"
    )


# ---------------------------------------------------------------- chat


@lw.function
def conversation(s: lw.State, system: str | None, console: Console) -> None:
    """Reads a line, streams the answer, until a line is empty."""
    if system:
        s += lw.system(system)
    turn = 0
    while line := _ask(console):
        s += lw.user(line)
        s += lw.assistant(lw.gen(f"answer {turn}"))
        started_at = time.perf_counter()
        for piece in s.text_iter(f"answer {turn}"):
            console.print(printable(piece), end="", markup=False, soft_wrap=True)
        seconds = time.perf_counter() - started_at
        usage = s.meta(f"answer {turn}").usage
        console.print(f"\n[dim]{usage.output} tokens, {usage.output / seconds:.0f} tokens a second[/]\n")
        turn += 1


def _ask(console: Console) -> str:
    try:
        return console.input("[bold cyan]>[/] ").strip()
    except EOFError:
        return ""


def printable(text: str) -> str:
    """`text` without the control characters that would steer a terminal."""
    return "".join(letter for letter in text if letter in "\n\t" or letter.isprintable())
