"""Hundreds of requests of every kind in a pool far too small, with `check()` after every step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from latticework.runtime.request import Request, Segment
from tests.runtime.engine.bench import Bench, gen, merged_tokenizer

TEXTS = ("abc ", "abcdef ghij ", "nop abc klm", " a", "jklm nop abc def ghi abc abc def klm ", "<|im_end|>\nx")
WORDS = {"fruit": ("fig", "apple", "apple pie"), "word": ("no",), "number": ("12", "123", "1234567")}
STOPS: tuple[tuple[str, ...], ...] = ((), (), ("a",), ("bc", "k"), ("ab",), ("ef", "lm", "o"))
REQUESTS = 200


class Traffic:
    """Random requests. Knows which leases it holds."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self.bench = bench
        self.random = np.random.default_rng(seed)
        self.leases: list[int] = []
        self.accepted: list[int] = []
        self.cancelled: set[int] = set()
        self.define()

    def define(self) -> None:
        for key, words in WORDS.items():
            self.bench.define(key, *words)

    def _pick(self, options: tuple) -> object:
        return options[self.random.integers(len(options))]

    def segments(self) -> Iterator[str | Segment]:
        for _ in range(self.random.integers(1, 5)):
            yield str(self._pick(TEXTS))
            kind = self.random.random()
            if kind < 0.5:
                yield gen(
                    max_tokens=int(self.random.integers(1, 30)),
                    temperature=float(self.random.choice([0.0, 1.0, 2.0])),
                    seed=int(self.random.integers(1000)),
                    stop=self._pick(STOPS),
                    logprobs=self._pick((None, 0, 2)),
                    prompt_logprobs=self._pick((None, None, 1)),
                )
            elif kind < 0.7:
                yield gen(
                    str(self._pick(tuple(WORDS))),
                    str(self._pick(("close", "cut", "prefer_close"))),
                    max_tokens=int(self.random.integers(1, 12)),
                    seed=int(self.random.integers(1000)),
                    stop=self._pick(STOPS),
                )
            elif kind < 0.85:
                yield self.bench.select("abc", "def ghi jkl", "n", "abd nop")

    def submit(self) -> None:
        parent = None
        if self.leases and self.random.random() < 0.5:
            parent = int(self.random.choice(self.leases))
        hold = len(self.accepted) if self.random.random() < 0.4 else None
        group = int(self.random.integers(3)) if self.random.random() < 0.3 else None
        chain = tuple(self.segments())
        self.accepted.append(self.bench.submit(*chain, parent_lease=parent, hold_lease=hold, group=group))

    def meddle(self) -> None:
        """Cancels, releases, redefines."""
        if self.accepted and self.random.random() < 0.15:
            number = int(self.random.choice(self.accepted[-8:]))
            self.bench.engine.cancel("a", number)
            self.cancelled.add(number)
        held = self.bench.engine.leases._leases.get("a", {})
        self.leases = list(held)
        if len(self.leases) > 6:
            self.bench.engine.release("a", [int(self.random.choice(self.leases))])
            self.leases = list(held)
        if self.random.random() < 0.01:
            self.bench.engine.flush_cache()
            self.define()
        self.bench.engine.check()


@pytest.mark.parametrize(("cache", "page", "chunk"), [(True, 4, 16), (True, 1, 7), (True, 16, 64), (False, 4, 16)])
def test_random_requests_end_once_each_and_leave_nothing_behind(cache: bool, page: int, chunk: int) -> None:
    bench = Bench(
        merged_tokenizer(), kv_tokens=160, page_size=page, chunk_tokens=chunk, max_running=6, prefix_cache=cache
    )
    traffic = Traffic(bench, seed=page)
    while len(traffic.accepted) < REQUESTS:
        if traffic.random.random() < 0.3:
            traffic.submit()
        traffic.meddle()
        bench.step()
    bench.run(limit=20_000)
    ends = {bench.final(number).end for number in traffic.accepted}
    assert ends >= {"stop", "length", "select", "text", "cancelled"}
    errors = [bench.final(number).error for number in traffic.accepted]
    assert {error.type for error in errors if error} <= {"PromptTooLong", "BudgetTooSmall", "InvalidArgument"}
    assert sum(error is None for error in errors) > REQUESTS // 2
    assert bench.engine.scheduler.retractions > 0
    bench.engine.release("a", range(REQUESTS))
    assert len(bench.engine.leases) == 0
    assert bench.engine.pool.free_count + bench.engine.tree.cached_pages == bench.engine.pool.total
    bench.assert_all_free()


def test_a_crowd_in_a_small_pool_draws_what_each_draws_alone() -> None:
    tokenizer = merged_tokenizer()
    crowd = Bench(tokenizer, kv_tokens=200, chunk_tokens=16, max_running=8)
    alone = Bench(tokenizer, kv_tokens=4096, max_running=1, prefix_cache=False, page_size=16)
    source, twin = Traffic(crowd, seed=11), Traffic(alone, seed=11)
    for number in range(60):
        chain = tuple(crowd.text(part) if isinstance(part, str) else part for part in source.segments())
        for bench in (crowd, alone):
            bench.events["a", number] = []
            assert bench.engine.submit("a", Request(number, chain)) is None
        crowd.step()
    crowd.run()
    alone.run()
    assert twin.accepted == []
    assert crowd.engine.scheduler.retractions > 0
    for number in range(60):
        here, there = crowd.final(number), alone.final(number)
        if here.error is not None and here.error.type == "PromptTooLong":
            continue  # the small pool
        assert here.end == there.end
        assert crowd.tokens(number) == alone.tokens(number)
        assert crowd.data(number) == alone.data(number)
