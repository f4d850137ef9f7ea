"""What stands beside our numbers was given the same threads, format and model, or is refused."""

from __future__ import annotations

import pytest

from benchmarks.serve import parse
from benchmarks.transformers_generate import Generator, drawn_tokens, run_workload
from benchmarks.workloads import Call, Task, Workload
from latticework.runtime.config import EngineConfig


def test_the_server_options_are_the_peers_too() -> None:
    options = parse(["--start", "--transformers", "--serve-args", "--threads 1 --dtype=float32 --max-running 8"])
    assert (options.engine.threads, options.engine.dtype, options.engine.model) == (1, "float32", "smollm2")
    assert options.serve == ["--threads", "1", "--dtype=float32", "--max-running", "8"]
    assert parse(["--start", "--transformers"]).engine == EngineConfig()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--base-url", "http://127.0.0.1:1/v1", "--transformers"], "needs --start"),
        (["--base-url", "http://127.0.0.1:1/v1", "--serve-args", "--threads 1"], "are for --start"),
        (["--start", "--transformers", "--model", "tiny"], "not tiny"),
        (["--start", "--transformers", "--serve-args=--model=tiny"], "not tiny"),
        (["--start", "--transformers", "--serve-args", "--threads 0"], ">= 1"),
        (["--start", "--transformers", "--serve-args", "--dtype float8"], "float8"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(arguments)
    assert said in capsys.readouterr().err


def test_the_end_token_counts_and_padding_does_not() -> None:
    assert drawn_tokens([5, 6, 2, 2, 2], [0, 2]) == 3
    assert drawn_tokens([5, 6], [0, 2]) == 2
    assert drawn_tokens([], [0, 2]) == 0


@pytest.fixture(scope="module")
def generator() -> Generator:
    return Generator(EngineConfig(dtype="float32", threads=1))


def test_transformers_runs_in_the_format_asked_for(generator: Generator) -> None:
    assert generator.model.dtype == generator.torch.float32
    assert generator.torch.get_num_threads() == 1
    (free,) = generator.run([Call([{"role": "user", "content": "Hi"}], 3)])
    assert 1 <= free.tokens <= 3


def test_transformers_draws_to_the_end_when_asked_to_and_joins_the_answers(generator: Generator) -> None:
    messages = [{"role": "user", "content": "Say only: yes"}]
    two = (Call(messages, 8, to_the_end=True), Call([*messages, *messages], 8, to_the_end=True))
    seen: list[list[str]] = []

    def join(answers: list[str]) -> Call:
        seen.append(answers)
        return Call(messages, 4, to_the_end=True)

    drawn, wall = run_workload(generator, Workload((Task(two, join),), concurrency=1))
    assert [one.tokens for one in drawn] == [8, 8, 4]
    assert seen == [[drawn[0].text, drawn[1].text]]
    assert wall > 0
    with pytest.raises(ValueError, match="one length and no schema"):
        generator.run([two[0], Call(messages, 4)])
