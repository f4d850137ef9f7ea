"""The same tokens whatever the cache, the batch, the chunks, the pages and the drafts."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from tests.runtime.engine.bench import Bench, dense_logits, gen, greedy

SHARED = "The quick brown fox jumps over the lazy dog, and then "
PROMPTS = [SHARED + tail for tail in ("it naps.", "it", "it naps. Or does it?", "runs", "", "rests a bit", "eats")]
SEEDS = range(7)


def reference(prompt: str, count: int) -> list[int]:
    """Greedy tokens, each from a forward pass over everything before it."""
    tokens = list(prompt.encode())
    for _ in range(count):
        tokens.append(int(dense_logits(tokens)[-1].argmax()))
    return tokens[len(prompt) :]


def outputs(batch: int, **options: Any) -> list[list[int]]:
    """Tokens of every prompt, greedy and seeded, `batch` at a time."""
    bench = Bench(max_running=batch, **options)
    numbers = [bench.submit(prompt, greedy(5)) for prompt in PROMPTS]
    numbers += [
        bench.submit(prompt, gen(max_tokens=5, temperature=1.5, top_p=0.95, seed=seed))
        for prompt, seed in zip(PROMPTS, SEEDS, strict=True)
    ]
    bench.run()
    bench.assert_all_free()
    return [bench.tokens(number) for number in numbers]


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    return outputs(batch=1, prefix_cache=False, chunk_tokens=4096, page_size=16, drafts="off")


def test_greedy_tokens_are_those_of_a_dense_forward_pass(expected: list[list[int]]) -> None:
    for prompt, tokens in zip(PROMPTS[:4], expected, strict=False):
        assert tokens == reference(prompt, 5)


def test_seeds_differ_and_are_not_greedy(expected: list[list[int]]) -> None:
    assert expected[7:] != expected[:7]


@pytest.mark.parametrize(
    ("cache", "batch", "chunk", "page"), list(itertools.product([True, False], [1, 2, 7], [16, 64, 4096], [1, 16]))
)
def test_every_option_gives_the_same_tokens(
    expected: list[list[int]], cache: bool, batch: int, chunk: int, page: int
) -> None:
    assert outputs(batch, prefix_cache=cache, chunk_tokens=chunk, page_size=page) == expected


@pytest.mark.parametrize("cache", [True, False])
def test_a_pool_that_forces_retraction_gives_the_same_tokens(cache: bool) -> None:
    chains = [(f"{n} says {PROMPTS[n][:20]}", gen(max_tokens=70, temperature=1.2, seed=n)) for n in range(5)]
    tight = Bench(kv_tokens=160, prefix_cache=cache)
    roomy = Bench(max_running=1)
    numbers = [(tight.submit(*chain), roomy.submit(*chain)) for chain in chains]
    tight.run()
    roomy.run()
    assert tight.engine.scheduler.retractions > 0
    for here, there in numbers:
        assert tight.tokens(here) == roomy.tokens(there)
        assert tight.final(here).end == roomy.final(there).end
    tight.assert_all_free()


def test_logprobs_are_those_of_a_dense_forward_pass() -> None:
    bench = Bench(chunk_tokens=16)
    number = bench.submit(PROMPTS[2], gen(max_tokens=6, temperature=1.0, logprobs=3))
    bench.run()
    tokens = bench.tokens(number)
    infos = [info for event in bench.events["a", number] for info in event.logprobs]
    assert len(infos) == len(tokens) == 6
    dense = torch.log_softmax(dense_logits([*PROMPTS[2].encode(), *tokens]), dim=-1)
    for index, (token, info) in enumerate(zip(tokens, infos, strict=True)):
        row = dense[len(PROMPTS[2]) - 1 + index]
        assert info.logprob == pytest.approx(float(row[token]), abs=1e-9)
        values, ids = row.topk(3)
        assert [other for other, _ in info.top] == ids.tolist()
        assert [value for _, value in info.top] == pytest.approx(values.tolist(), abs=1e-9)
