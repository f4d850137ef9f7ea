"""Every example runs on the real model and prints something true."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

import latticework as lw
from latticework.lang.backends.runtime import Runtime

ROOT = Path(__file__).parents[2]
Show = Callable[[str], str]


@pytest.fixture
def show(smollm2_runtime: Runtime, capsys: pytest.CaptureFixture[str]) -> Iterator[Show]:
    """Runs an example's main on the shared runtime; what it printed."""

    def run(name: str) -> str:
        import_module(f"examples.{name}").main()
        return capsys.readouterr().out

    lw.set_default_backend(smollm2_runtime)
    yield run
    lw.set_default_backend(None)


def test_every_example_is_tested() -> None:
    tested = set(re.findall(r"show\(\"(\w+)\"\)|examples/(\w+)\.py", Path(__file__).read_text()))
    names = {first or second for first, second in tested}
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} <= names


def test_hello(show: Show) -> None:
    assert show("hello") == "The capital of France is Paris\n"


def test_extract(show: Show) -> None:
    text, value = show("extract").splitlines()
    assert json.loads(text) == {"name": "Yuki", "age": 27, "city": "Osaka"}
    assert value == "Person(name='Yuki', age=27, city='Osaka')"


def test_classify(show: Show) -> None:
    assert [line.split()[0] for line in show("classify").splitlines()] == ["positive", "negative"] * 2


def test_dates(show: Show) -> None:
    assert show("dates") == "1969-07-20\n"


def test_transformers_generate() -> None:
    done = subprocess.run(
        [sys.executable, "examples/transformers_generate.py"],
        cwd=ROOT, capture_output=True, text=True, timeout=240, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all(re.fullmatch(r"[1-9]\d{0,3}([+-][1-9]\d{0,3})*=[1-9]\d{0,3}", line) for line in lines)


def test_branches(show: Show) -> None:
    lines = show("branches").splitlines()
    assert [line.split()[-1] for line in lines[:3]] == ["Paris", "Europe", "French"]
    cached, prompt = map(int, re.findall(r"\d+", lines[3]))
    assert cached > prompt / 2


def test_compiled(show: Show) -> None:
    *program, bad, good = show("compiled").splitlines()
    assert program[0] == "program:"
    assert "    arg review" in program
    assert [line.split(":")[0] for line in (bad, good)] == ["food bad, service bad", "food good, service good"]


def test_tree_of_thought(show: Show) -> None:
    story, *lines, usage = show("tree_of_thought").splitlines()
    assert story.endswith("lost in the snow.")
    assert len(lines) == 2
    assert all(re.fullmatch(r"The fox [a-z ]{10,50}\.  \(\d{1,3}% happy\)", line) for line in lines)
    cached, prompt = map(int, re.findall(r"\d+", usage))
    assert cached > prompt / 2


def test_stream_chat(show: Show) -> None:
    first, second = show("stream_chat").split("> ")[1:]
    assert "Red" in first
    assert "Paris" in second


def test_batch(show: Show) -> None:
    lines = show("batch").splitlines()
    capitals = dict(line.split(maxsplit=1) for line in lines[:32])
    assert len(capitals) == 32
    known = {"France": "Paris", "Japan": "Tokyo", "Kenya": "Nairobi", "Peru": "Lima", "Greece": "Athens"}
    assert {country: capitals[country] for country in known} == known
    assert lines[-1].startswith("32 programs;")


def test_offline() -> None:
    output = subprocess.run(
        [sys.executable, "examples/offline.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    *lines, last = output.splitlines()
    assert [line.split()[0] for line in lines] == ["negative", "positive"] * 2
    assert last.startswith("4 prompts, ")


def test_openai_client_against_the_server() -> None:
    serve = [sys.executable, "-m", "latticework", "serve", "--port", "0", "--dtype", "float32", "--kv-tokens", "8192"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stdout is not None
            ready = next(line for line in server.stdout if "ready" in line)
            url = re.search(r"http://127\.0\.0\.1:\d+", ready)
            assert url is not None
            output = subprocess.run(
                [sys.executable, "examples/openai_client.py", f"{url[0]}/v1"],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                timeout=120,
            ).stdout
        finally:
            server.terminate()
    place = json.loads(output.splitlines()[0])
    assert place == {"capital": "Rome", "continent": "Europe"}
    assert "5" in output
