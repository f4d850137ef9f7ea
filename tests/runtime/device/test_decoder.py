"""What decode steps do beside drawing: they fail alone, are padded and captured, move rows, and say what they leave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

pytest.importorskip("triton")

import torch
from torch import Tensor, nn

from latticework.lang.ir import Regex
from latticework.runtime.device import buffers, decoder, row, steps
from latticework.runtime.device.buffers import Rows
from latticework.runtime.device.row import Row
from latticework.runtime.device.sizes import Shape, covering, page_sizes, row_sizes
from latticework.runtime.device.tables import NO_ROOM, TOO_LARGE
from latticework.runtime.model.base import Attend, Model
from latticework.runtime.model.spec import ModelSpec
from tests.runtime.device.bench import DeviceBench, twins
from tests.runtime.engine.bench import gen, greedy

pytestmark = pytest.mark.usefixtures("twins")
__all__ = ["twins"]

PROMPTS = ("abc", "the quick", "x y z", "Lorem ipsum dolor")


class Poisoned:
    """A model whose logits are NaN after a token. In steps with padding, too."""

    pads = False

    def __init__(self, inner: Model, token: int) -> None:
        self.inner = inner
        self.token = token
        self.poisoned: Tensor | None = None

    @property
    def spec(self) -> ModelSpec:
        return self.inner.spec

    def __call__(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        self.poisoned = tokens == self.token
        return self.inner(tokens, positions, attend)

    def logits(self, hidden: Tensor) -> Tensor:
        assert self.poisoned is not None
        return self.inner.logits(hidden).masked_fill(self.poisoned[:, None], torch.nan)

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.inner.parameters()

    def held(self) -> dict[str, int]:
        return {}


def drawn(bench: DeviceBench, **rule: Any) -> list[list[int]]:
    fields = {"max_tokens": 9, "temperature": 1.0, **rule}
    numbers = [bench.submit(prompt, gen(seed=seed, **fields)) for seed, prompt in enumerate(PROMPTS)]
    bench.run()
    return [bench.tokens(number) for number in numbers]


@pytest.mark.parametrize("on", ["device", "overlapped"])
def test_a_step_that_goes_wrong_fails_its_sequences_and_the_next_one_works(
    on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = DeviceBench(on)
    assert bench.steps is not None
    number = bench.submit("abc", gen(max_tokens=20))
    for _ in range(4):
        bench.step()

    def fail(*_: Any) -> Any:
        raise RuntimeError("the device is on fire")

    with monkeypatch.context() as patch:
        patch.setattr(bench.steps, "launch", fail)
        bench.run()
    error = bench.final(number).error
    assert error is not None
    assert "on fire" in error.message
    assert drawn(bench) == drawn(DeviceBench("host"))
    bench.assert_all_free()


@pytest.mark.parametrize("on", ["device", "overlapped"])
def test_numbers_that_are_none_end_one_request(on: str) -> None:
    expected = drawn(DeviceBench("host"), stop_token_ids=())
    token = expected[1][4]
    bench = DeviceBench(on, wrap=lambda model: Poisoned(model, token))
    numbers = [bench.submit(p, gen(seed=s, max_tokens=9, temperature=1.0)) for s, p in enumerate(PROMPTS)]
    bench.run()
    for number, whole in zip(numbers, expected, strict=True):
        error = bench.final(number).error
        met = whole.index(token) + 1 if token in whole[:-1] else None
        assert bench.tokens(number) == whole[:met]
        assert (error is not None) == (met is not None)
        assert error is None or "model produced NaN" in error.message
    assert bench.final(numbers[1]).error is not None
    bench.assert_all_free()


class Tried:
    """What `CapturedGraph` does with a step, but for the graph: it is tried out first, and undone."""

    count = 0

    def __init__(self, step: Callable[[], None], kept: Callable[[], AbstractContextManager[None]], pool: Any) -> None:
        with kept():
            step()
        self._step = step
        Tried.count += 1

    def replay(self) -> None:
        self._step()


def test_trying_steps_out_before_they_are_captured_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "CapturedGraph", Tried)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    bench = DeviceBench("overlapped", captures=True, max_running=5)
    assert Tried.count == len(row_sizes(5)) == 4
    rule = {"presence_penalty": 0.5, "logprobs": 1, "min_tokens": 3}
    bench.constrain("key", Regex("[a-f]{3,7}"))
    assert drawn(bench, **rule, constraint="key") == drawn_constrained("host", rule)
    assert Tried.count > 4
    assert bench.steps is not None
    assert bench.steps.captured == Tried.count


def drawn_constrained(on: str, rule: dict[str, Any]) -> list[list[int]]:
    bench = DeviceBench(on)
    bench.constrain("key", Regex("[a-f]{3,7}"))
    return drawn(bench, **rule, constraint="key")


def test_prefixes_that_many_share_are_read_once_in_a_step_of_its_own() -> None:
    shared = "The quick brown fox jumps over the lazy dog. " * 6 + "And "
    found = []
    for on, cascade in (("host", 1 << 30), ("overlapped", 1)):
        bench = DeviceBench(on, cascade_from=cascade, page_size=16, chunk_tokens=64)
        numbers = [bench.submit(shared + tail, greedy(6)) for tail in ("it", "then", "x", "so")]
        bench.run()
        found.append([bench.tokens(number) for number in numbers])
    assert found[0] == found[1]
    assert bench.steps is not None
    assert 0 < bench.steps.launched - bench.steps.replayed <= bench.steps.launched


def test_nothing_is_guessed_for_sequences_whose_tokens_only_the_device_knows() -> None:
    drafted = []
    for on in ("overlapped", "device"):
        bench = DeviceBench(on, drafts="all")
        bench.constrain("key", Regex("abcdefgh(x|y)abcdefgh"))
        number = bench.submit("x: ", gen("key", max_tokens=30))
        bench.run()
        assert bench.data(number)[9:] == b"abcdefgh"
        drafted.append(bench.engine.stats().drafted)
    assert drafted[0] == 0 < drafted[1]


def test_what_the_device_has_no_place_for_the_host_draws_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (row, buffers, decoder):
        monkeypatch.setattr(module, "MOST_CHANGED", 6)
    monkeypatch.setattr(buffers, "_LISTS", {"changed": (-1, 6), "times": (0, 6), "bias": (0, 6)})
    rules: tuple[dict[str, Any], ...] = ({"repetition_penalty": 1.2}, {"frequency_penalty": 0.4})
    expected = [drawn(DeviceBench("host"), **rule) for rule in rules]
    bench = DeviceBench("overlapped")
    assert [drawn(bench, **rule) for rule in rules] == expected
    stats = bench.engine.stats()
    assert stats.host_tokens["many penalised tokens"] > 0
    assert stats.device_tokens > 0  # until there were too many


def test_tables_that_do_not_fit_leave_their_sequences_to_the_host() -> None:
    bench, host = DeviceBench("overlapped", table_bytes=24 * 4 * 300), DeviceBench("host")
    found = []
    for one in (bench, host):
        one.constrain("long", Regex("[a-c]+"))  # few states, in use until the others are through
        numbers = [one.submit("a: ", gen("long", "cut", seed=1, max_tokens=150, ignore_eos=True))]
        for _ in range(3):
            one.step()
        for key, pattern in (("large", "[x-z]{25}"), ("too large", "[0-9]{20,40}")):
            one.constrain(key, Regex(pattern))
            numbers += [one.submit(f"{n}: ", gen(key, "cut", seed=n, max_tokens=12)) for n in range(2)]
        one.run()
        found.append([one.tokens(number) for number in numbers])
    assert found[0] == found[1]
    assert bench.steps is not None
    assert bench.steps.states == 26
    assert bench.engine.stats().host_tokens.keys() >= {NO_ROOM, TOO_LARGE}


def test_rows_are_written_moved_and_forgotten() -> None:
    rows = Rows.empty(4, 3, 9, torch.device("cpu"))
    rows.write([2, 0], [Row(tokens=7, live=1, temperature=0.5), Row(tokens=8)])
    rows.write_pages([(2, 0, 5), (2, 1, 6)])
    rows.move(2, 1)
    assert rows.tokens.tolist() == [8, 7, 7, 0]
    assert rows.page_table.tolist() == [[9, 9, 9], [5, 6, 9], [5, 6, 9], [9, 9, 9]]
    with rows.kept():
        rows.tokens.fill_(3)
    rows.write([2], [Row()])
    rows.forget_pages([2], 9)
    assert rows.tokens.tolist() == [8, 7, 0, 0]
    assert rows.page_table[2].tolist() == [9, 9, 9]
    assert (rows.temperature[1], rows.live.tolist()) == (0.5, [0, 1, 0, 0])
    assert rows.first(2, 2).page_table.data_ptr() == rows.page_table.data_ptr()


def test_sizes_are_few_and_cover_all() -> None:
    assert row_sizes(1) == (1,)
    assert row_sizes(64) == (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64)
    assert row_sizes(100)[-2:] == (96, 100)
    assert row_sizes(4096)[-1] == 4096
    assert len(row_sizes(4096)) < 60
    assert page_sizes(100, 16) == (100,)
    assert page_sizes(8192, 16) == (128, 512, 2048, 8192)
    assert covering(row_sizes(64), 9) == 16
    assert Shape(1, 2) == Shape(1, 2, logprobs=-1)
