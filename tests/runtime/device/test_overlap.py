"""Steps that overlap give what steps one after the other give: tokens, log-probabilities, ends, leases and pages, for
random requests that are cancelled, stopped and retracted, in a pool far too small."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from latticework.lang.ir import Choices, Constraint, Regex
from latticework.runtime.request import Segment
from tests.runtime.device.bench import DeviceBench, twins
from tests.runtime.engine.bench import gen, merged_tokenizer

pytestmark = pytest.mark.usefixtures("twins")
__all__ = ["twins"]

TEXTS = ("abc ", "abcdef ghij ", "nop abc klm", " a", "jklm nop abc def ghi abc abc def klm ", "<|im_end|>\nx")
CONSTRAINTS: dict[str, Constraint] = {
    "fruit": Choices(("fig", "apple", "apple pie")),
    "code": Regex("[a-c]{2,5}(-[0-9]{1,3})?"),
}
STOPS: tuple[tuple[str, ...], ...] = ((), (), ("a",), ("bc", "k"), ("ab",), ("ef", "lm", "o"))


class Traffic:
    """The same random requests for every bench."""

    def __init__(self, bench: DeviceBench, seed: int) -> None:
        self.bench = bench
        self.random = np.random.default_rng(seed)
        self.asked: list[int] = []
        for key, constraint in CONSTRAINTS.items():
            bench.constrain(key, constraint)

    def pick(self, options: tuple[Any, ...]) -> Any:
        return options[self.random.integers(len(options))]

    def segments(self) -> Iterator[str | Segment]:
        for _ in range(self.random.integers(1, 4)):
            yield self.pick(TEXTS)
            kind = self.random.random()
            rule = {
                "max_tokens": int(self.random.integers(1, 50)),
                "temperature": float(self.random.choice([0.0, 1.0, 2.0])),
                "seed": int(self.random.integers(1000)),
                "stop": self.pick(STOPS),
                "logprobs": self.pick((None, None, 0, 2)),
                "presence_penalty": self.pick((0.0, 0.0, 0.8)),
                "repetition_penalty": self.pick((1.0, 1.0, 1.4)),
                "min_tokens": self.pick((0, 0, 1)),
            }
            if kind < 0.5:
                yield gen(prompt_logprobs=self.pick((None, None, 1)), **rule)
            elif kind < 0.8:
                yield gen(self.pick(tuple(CONSTRAINTS)), self.pick(("cut", "prefer_close")), **rule)
            elif kind < 0.9:
                yield self.bench.select("abc", "def ghi jkl", "n", "abd nop")

    def submit(self) -> None:
        number = len(self.asked)
        chain = tuple(self.segments())
        hold = number if self.random.random() < 0.5 else None
        self.asked.append(self.bench.submit(*chain, hold_lease=hold))


def told(bench: DeviceBench, number: int) -> list[Any]:
    """What a request was answered, token for token, however it was cut into events."""
    events = bench.events["a", number]
    infos = [
        (round(info.logprob, 9), [(token, round(number, 9)) for token, number in info.top])
        for event in events
        for info in (*event.prompt_logprobs, *event.logprobs)
    ]
    ends = [(e.segment, e.end, e.complete, e.stopped_by, e.chosen) for e in events if e.end is not None]
    return [bench.tokens(number), bench.data(number), infos, ends]


def answers(
    on: str, seed: int, requests: int, cancels: bool = False, **options: Any
) -> tuple[DeviceBench, list[list[Any]]]:
    """What each request is told, and what the leases hold in the end; requests come while others are under way."""
    bench = DeviceBench(on, merged_tokenizer(), **options)
    traffic, meddling = Traffic(bench, seed), np.random.default_rng(seed)
    while len(traffic.asked) < requests:
        for _ in range(3):
            traffic.submit()
        bench.step()
        if cancels:
            bench.step()
            bench.engine.cancel("a", int(meddling.choice(traffic.asked[-9:])))
            bench.engine.check()
    bench.run(limit=20_000)
    found = [told(bench, number) for number in traffic.asked]
    leases = bench.engine.leases._leases.get("a", {})
    found.append([{number: (list(lease.tokens), lease.carry) for number, lease in leases.items()}])
    bench.engine.release("a", range(requests))
    bench.assert_all_free()
    return bench, found


@pytest.mark.parametrize(
    ("page", "chunk", "pool", "requests"),
    [(4, 16, 160, 24), *(pytest.param(*how, marks=pytest.mark.slow) for how in [(4, 16, 160, 300), (1, 7, 120, 300)])],
)
def test_overlapped_steps_give_what_plain_ones_and_the_host_give(
    page: int, chunk: int, pool: int, requests: int
) -> None:
    how: dict[str, Any] = {"kv_tokens": pool, "page_size": page, "chunk_tokens": chunk, "max_running": 6}
    bench, overlapped = answers("overlapped", page, requests, **how)
    plain_bench, plain = answers("device", page, requests, **how)
    _, host = answers("host", page, requests, **how)
    assert overlapped == plain == host
    stats = bench.engine.stats()
    assert stats.retractions > 0
    assert stats.surplus_tokens > 0
    assert stats.device_tokens - stats.surplus_tokens > 150
    assert plain_bench.engine.stats().surplus_tokens == 0


@pytest.mark.parametrize("requests", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_cancelled_requests_end_where_they_are_and_leave_nothing_behind(requests: int) -> None:
    how: dict[str, Any] = {"kv_tokens": 160, "max_running": 6, "chunk_tokens": 16}
    bench, found = answers("overlapped", 3, requests, cancels=True, **how)
    _, whole = answers("host", 3, requests, **how)
    cancelled = 0
    for number in bench.events:
        (tokens, data, infos, ends), expected = found[number[1]], whole[number[1]]
        if ends[-1][1] == "cancelled":
            cancelled += 1
            assert tokens == expected[0][: len(tokens)]
            assert data == expected[1][: len(data)]
            assert infos == expected[2][: len(infos)]
        else:
            assert [tokens, data, infos, ends] == expected
    assert cancelled > 5
    assert bench.engine.stats().surplus_tokens > 0
