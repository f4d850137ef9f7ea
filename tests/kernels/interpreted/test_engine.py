"""A whole engine on the Triton backend, in the interpreter, gives the tokens of one on the torch backend."""

from __future__ import annotations

from typing import Any

import pytest

from latticework.lang.ir import Regex, Sampling
from latticework.runtime.config import EngineConfig
from latticework.runtime.constrain import encode_rules, to_rules
from latticework.runtime.engine import Engine
from latticework.runtime.request import GenSegment, Request, TextSegment
from latticework.runtime.text.tokenizer import Tokenizer

PROMPTS = ["The quick brown fox jumps", "The quick brown fox", "x"]


def engine_of(attention: Any, overlap: Any = "auto") -> Engine:
    return Engine.load(
        EngineConfig(
            model="tiny",
            dtype="float32",
            attention=attention,
            kv_tokens=256,
            page_size=4,
            chunk_tokens=16,
            threads=1,
            max_running=4,
            drafts="off",
            overlap=overlap,
        )
    )


def tokens_of(engine: Engine, steps: int, **rule: Any) -> dict[int, list[int]]:
    """What three requests that share a prefix are answered, one of them at random; prompts are cut into chunks."""
    for number, prompt in enumerate(PROMPTS):
        sampling = Sampling(max_tokens=steps, temperature=1.0 if number == 1 else 0.0, seed=number, **rule)
        ask(engine, number, prompt, GenSegment(sampling))
    return answers(engine, len(PROMPTS))


def ask(engine: Engine, number: int, prompt: str, gen: GenSegment) -> None:
    text, head, head_tokens = Tokenizer.bytes_only().encode_pieces([(prompt, True)])
    assert engine.submit("a", Request(number, (TextSegment(tuple(text), head, head_tokens), gen))) is None


def answers(engine: Engine, requests: int) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {number: [] for number in range(requests)}
    while engine.has_work():
        for events in engine.step().values():
            for event in events:
                assert event.error is None, event.error
                found[event.request] += event.tokens
        engine.check()
    return found


def test_requests_get_the_torch_backends_tokens() -> None:
    found = tokens_of(engine_of("triton"), 5)
    assert found == tokens_of(engine_of("torch"), 5)
    assert all(len(tokens) == 5 for tokens in found.values())


@pytest.mark.parametrize(
    "rule",
    [
        {"top_p": 0.9, "logprobs": 2},
        pytest.param({"presence_penalty": 0.5, "repetition_penalty": 1.2, "min_tokens": 3}, marks=pytest.mark.slow),
        pytest.param({"top_k": 9, "min_p": 0.01, "logit_bias": ((101, 2.0),)}, marks=pytest.mark.slow),
    ],
)
def test_overlapped_steps_on_static_buffers_give_the_torch_backends_tokens(rule: dict[str, Any]) -> None:
    engine = engine_of("triton", "on")
    found = tokens_of(engine, 4, **rule)
    assert found == tokens_of(engine_of("torch"), 4, **rule)
    assert engine.stats().device_tokens >= 3 * len(PROMPTS)


def constrained(engine: Engine, patterns: list[str]) -> dict[int, list[int]]:
    """One request under each pattern, all but the first of its tokens within steps on the device, where there are."""
    for number, pattern in enumerate(patterns):
        engine.define("a", str(number), encode_rules(to_rules(Regex(pattern))))
        engine.pieces.go_on(60.0)
        assert engine.automata.are_ready([str(number)])
        if engine.decoder is not None:  # its table is made at once, too
            engine.decoder.tables.find(str(number))
            engine.pieces.go_on(60.0)
    for number in range(len(patterns)):
        sampling = Sampling(max_tokens=7 + number, temperature=1.5 * (number % 2), seed=number)
        ask(engine, number, f"{number}: ", GenSegment(sampling, str(number)))
    return answers(engine, len(patterns))


def test_states_on_the_device_give_the_host_matchers_tokens_in_the_engine() -> None:
    patterns = ["[0-9]{4}-[0-9]{2}", "[a-z]{2,6}@(com|org)"]
    engine = engine_of("triton", "on")
    found = constrained(engine, patterns)
    assert found == constrained(engine_of("torch"), patterns)
    stats = engine.stats()
    assert stats.device_tokens > stats.surplus_tokens + 6
    assert set(stats.host_tokens) <= {"prompt", "shared prompt"}


@pytest.mark.slow
def test_long_answers_are_the_torch_backends_too() -> None:
    expected = tokens_of(engine_of("torch"), 40)
    assert tokens_of(engine_of("triton"), 40) == expected
    assert tokens_of(engine_of("triton", "on"), 40) == expected
