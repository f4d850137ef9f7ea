"""max_itl: chunks of prompts shrink so that a step is short enough, and nothing else changes. And what arrives
together is computed once, what is forked runs together."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch import Tensor

from latticework.runtime import engine
from latticework.runtime.engine import Runner
from latticework.runtime.schedule.batch import Batch
from tests.runtime.engine.bench import Bench, greedy

PROMPT = "a long prompt that takes many steps when a step may only take so long. " * 8
FIXED, PER_TOKEN = 0.002, 0.001


class SlowRunner:
    """A model whose steps take FIXED + PER_TOKEN · tokens seconds of a clock that only it moves."""

    def __init__(self, inner: Runner) -> None:
        self.kv = inner.kv
        self.inner = inner
        self.now = 0.0
        self.batches: list[tuple[int, int]] = []  # tokens, sequences

    def run(self, batch: Batch) -> Tensor:
        self.batches.append((len(batch.tokens), len(batch.page_table)))
        self.now += FIXED + PER_TOKEN * len(batch.tokens)
        return self.inner.run(batch)


def run_two(monkeypatch: pytest.MonkeyPatch, max_itl: float | None) -> tuple[list[int], list[int], list[float]]:
    """Tokens of a sequence that decodes, of one with a long prompt beside it, and how long each step took."""
    made: list[SlowRunner] = []

    def slow(inner: Runner) -> Runner:
        made.append(SlowRunner(inner))
        return made[-1]

    bench = Bench(runner=slow, max_itl=max_itl, kv_tokens=4096)
    monkeypatch.setattr(engine, "time", SimpleNamespace(monotonic=lambda: made[0].now))
    talking = bench.submit("talk", greedy(60))
    for _ in range(4):
        bench.step()
    busy = bench.submit(PROMPT, greedy(5))
    took = []
    while bench.engine.has_work():
        before = made[0].now
        decoding = len(bench.tokens(talking)) < 60
        bench.step()
        took += [made[0].now - before] if decoding else []
    monkeypatch.undo()
    return bench.tokens(talking), bench.tokens(busy), took


def test_steps_stay_within_max_itl_and_tokens_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    *free, long_steps = run_two(monkeypatch, None)
    *bounded, steps = run_two(monkeypatch, 50.0)
    assert bounded == free
    assert max(long_steps) > 0.3
    assert max(steps) <= 0.050 + 1e-9


def test_a_limit_nobody_can_meet_does_not_stop_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_two(monkeypatch, 0.01)[:2] == run_two(monkeypatch, None)[:2]


def test_a_new_prefix_of_many_requests_is_computed_once() -> None:
    made: list[SlowRunner] = []
    bench = Bench(runner=lambda inner: made.append(SlowRunner(inner)) or made[-1], chunk_tokens=64)  # type: ignore[func-returns-value]
    numbers = [bench.submit(f"{PROMPT}{n:02d}", greedy(1)) for n in range(10)]
    bench.run()
    computed = sum(tokens for tokens, _ in made[0].batches)
    assert computed <= len(PROMPT) + 10 * 8
    assert all(bench.final(number).end == "length" for number in numbers)


def test_siblings_of_a_fork_are_in_one_batch() -> None:
    made: list[SlowRunner] = []
    bench = Bench(runner=lambda inner: made.append(SlowRunner(inner)) or made[-1])  # type: ignore[func-returns-value]
    bench.submit(PROMPT, hold_lease=1)
    bench.run()
    bench.submit("stranger", greedy(3))
    for n in range(6):
        bench.submit(f"{n}", greedy(4), parent_lease=1, group=3)
    bench.run()
    assert [sequences for _, sequences in made[0].batches][-4:] == [7, 7, 7, 6]
