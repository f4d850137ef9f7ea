"""What a request draws is a function of the request: alone, in a crowd, retracted, with the cache on or off."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from latticework.runtime.request import Request, Segment
from tests.runtime.engine.bench import Bench, gen, merged_tokenizer

TEXTS = ("abc ", "abcdef ghij ", "nop abc klm", "jklm nop abc def ghi abc abc def klm ")
STOPS: tuple[tuple[str, ...], ...] = ((), (), ("a",), ("bc", "k"), ("ef", "lm", "o"))
WORDS = ("apple apple apple pie", "apple", "appp", "abc def ghi jkl mno p", "aaaaaaaaaaaaaaaaaa", "aaaa")
REQUESTS = 50


def fields(random: np.random.Generator) -> dict[str, Any]:
    """Every parameter at random."""

    def pick(*options: Any) -> Any:
        return options[random.integers(len(options))]

    most = int(random.integers(1, 28))
    return {
        "max_tokens": most,
        "temperature": pick(0.0, 0.7, 1.0, 3.0),
        "top_p": pick(1.0, 0.9),
        "top_k": pick(-1, -1, 20),
        "min_p": pick(0.0, 0.05),
        "seed": int(random.integers(1 << 62)),
        "frequency_penalty": pick(0.0, 1.5, -2.0),
        "presence_penalty": pick(0.0, 2.0, -0.5),
        "repetition_penalty": pick(1.0, 1.4, 0.8),
        "logit_bias": pick((), ((97, 4.0), (98, -100.0), (300, 3.0))),
        "min_tokens": pick(0, 0, most // 2),
        "ignore_eos": pick(False, False, True),
        "include_stop": pick(False, True),
        "stop": pick(*STOPS),
        "stop_token_ids": pick((), (99, 101)),
        "logprobs": pick(None, 0, 2),
    }


def requests() -> list[tuple[str | Segment, ...]]:
    random = np.random.default_rng(31)
    made: list[tuple[str | Segment, ...]] = []
    for _ in range(REQUESTS):
        constraint = "words" if random.random() < 0.5 else None
        on_length = str(random.choice(["cut", "prefer_close"]))
        stops = fields(random) | {"stop_regex": ("[anything]",)}
        one = msgspec.structs.replace(gen(constraint, on_length, **stops), stop_rules=("stops",))
        two = gen(None, **fields(random))
        made.append((str(random.choice(TEXTS)), one, str(random.choice(TEXTS)), two))
    return made


def answers(order: list[int], steps_between: int | None, **options: Any) -> tuple[dict[int, Any], Bench]:
    bench = Bench(merged_tokenizer(), **options)
    bench.define("words", *WORDS)
    bench.define("stops", "ple p", "dd", "ijk", "nop a")
    made = requests()
    for number in order:
        bench.events["a", number] = []
        chain = tuple(bench.text(part) if isinstance(part, str) else part for part in made[number])
        assert bench.engine.submit("a", Request(number, chain)) is None
        if steps_between is None:
            bench.run()
        for _ in range(steps_between or 0):
            bench.step()
    bench.run(20_000)
    found = {}
    for number in order:
        final = bench.final(number)
        assert final.error is None, final.error
        logprobs = [info for event in bench.events["a", number] for info in event.logprobs]
        found[number] = (bench.tokens(number), bench.data(number), bench.end(number, 1).end, final.end, logprobs)
    return found, bench


@pytest.fixture(scope="module")
def alone() -> dict[int, Any]:
    return answers(list(range(REQUESTS)), None, kv_tokens=4096, max_running=1, prefix_cache=False, page_size=16)[0]


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("seed", [1, 2])
def test_random_requests_draw_the_same_in_any_crowd(alone: dict[int, Any], cache: bool, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(REQUESTS).tolist()
    found, bench = answers(order, seed - 1, kv_tokens=200, chunk_tokens=16, max_running=8, prefix_cache=cache)
    assert bench.engine.scheduler.retractions > 0
    for number in range(REQUESTS):
        tokens, data, first, last, logprobs = found[number]
        assert (tokens, data, first, last) == alone[number][:4], number
        assert [info.logprob for info in logprobs] == pytest.approx([info.logprob for info in alone[number][4]])
