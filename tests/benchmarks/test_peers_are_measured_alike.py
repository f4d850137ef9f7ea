"""What stands beside our numbers was given the same threads, format and model, or is refused."""

from __future__ import annotations

import pytest

from benchmarks.serve import parse
from benchmarks.transformers_generate import Generator, drawn_tokens
from benchmarks.workloads import Call
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


def test_transformers_runs_in_the_format_asked_for() -> None:
    generator = Generator(EngineConfig(dtype="float32", threads=1))
    assert generator.model.dtype == generator.torch.float32
    assert generator.torch.get_num_threads() == 1
    assert 1 <= generator.run([Call([{"role": "user", "content": "Hi"}], 3)]) <= 3
