"""Log-probabilities of prompts: those of a dense forward pass, each told once, and no row of logits more."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from latticework.lang.ir import Sampling
from latticework.runtime.engine import Runner
from latticework.runtime.request import GenSegment, TextSegment, TokenInfo
from latticework.runtime.schedule import chain, plan
from latticework.runtime.schedule.batch import Batch
from tests.runtime.engine.bench import Bench, dense_logits, gen, greedy, merged_tokenizer

SHARED = "The quick brown fox jumps over the lazy dog, and then "
PROMPTS = [SHARED + tail for tail in ("it naps.", "it", "it naps. Or does it?", "runs", "", "rests a bit")]


class Counter:
    """A model whose rows of logits are counted."""

    def __init__(self, inner: Runner) -> None:
        self.inner = inner
        self.kv = inner.kv
        self.rows: list[int] = []

    def run(self, batch: Batch) -> Tensor:
        self.rows.append(len(batch.logit_rows))
        return self.inner.run(batch)


class Counted(Bench):
    def __init__(self, **options: Any) -> None:
        super().__init__(runner=self._count, **options)

    def _count(self, inner: Runner) -> Runner:
        self.counter = Counter(inner)
        return self.counter


def told(bench: Bench, number: int, segment: int = 1) -> list[tuple[int, TokenInfo]]:
    """Every (token, info) of a prompt, in order; each before the first token of its gen."""
    pairs: list[tuple[int, TokenInfo]] = []
    begun = False
    for event in bench.events["a", number]:
        if event.segment == segment:
            assert not (event.prompt_tokens and begun)
            begun = begun or bool(event.tokens)
            pairs += zip(event.prompt_tokens, event.prompt_logprobs, strict=True)
    return pairs


def assert_dense(pairs: list[tuple[int, TokenInfo]], before: Sequence[int], text: Sequence[int], top: int) -> None:
    """`pairs` are those of `text` after `before`, as one forward pass says."""
    tokens = [*before, *text]
    first = max(1, len(before))
    assert [token for token, _ in pairs] == tokens[first:]
    rows = torch.log_softmax(dense_logits(tokens), dim=-1)[first - 1 : -1]
    for (token, info), row in zip(pairs, rows, strict=True):
        assert info.logprob == pytest.approx(float(row[token]), abs=1e-9)
        values, ids = row.topk(top)
        assert [other for other, _ in info.top] == ids.tolist()
        assert [value for _, value in info.top] == pytest.approx(values.tolist(), abs=1e-9)


@pytest.mark.parametrize(
    ("cache", "batch", "chunk", "page"), list(itertools.product([True, False], [1, 6], [16, 4096], [1, 16]))
)
def test_they_are_those_of_a_dense_forward_pass(cache: bool, batch: int, chunk: int, page: int) -> None:
    bench = Bench(max_running=batch, prefix_cache=cache, chunk_tokens=chunk, page_size=page)
    plain = Bench(max_running=1)
    numbers = [bench.submit(prompt, gen(max_tokens=4, prompt_logprobs=3)) for prompt in PROMPTS]
    twins = [plain.submit(prompt, gen(max_tokens=4)) for prompt in PROMPTS]
    bench.run()
    plain.run()
    for prompt, number, twin in zip(PROMPTS, numbers, twins, strict=True):
        assert_dense(told(bench, number), [], prompt.encode(), 3)
        assert bench.tokens(number) == plain.tokens(twin)
    bench.assert_all_free()


@pytest.mark.parametrize("chunk", [16, 4096])
def test_rows_are_computed_where_they_are_asked_for_and_nowhere_else(chunk: int) -> None:
    bench = Counted(chunk_tokens=chunk, prefix_cache=False)
    prompt = PROMPTS[0]
    bench.submit(prompt, greedy(1))
    bench.run()
    assert sum(bench.counter.rows) == 1
    bench.submit(prompt, greedy(1, prompt_logprobs=0))
    bench.submit(prompt, greedy(1))
    bench.run()
    assert sum(bench.counter.rows) == 1 + len(prompt) + 1


def test_a_cached_prompt_is_computed_again_from_the_first_row_that_is_asked_for() -> None:
    bench = Counted()
    prompt = PROMPTS[2]
    bench.submit(prompt, greedy(2))
    bench.run()
    again = bench.submit(prompt, greedy(2, prompt_logprobs=1))
    bench.run()
    assert_dense(told(bench, again), [], prompt.encode(), 1)
    usage = bench.final(again).usage
    assert usage is not None
    assert usage.cached == 0
    later = bench.submit(prompt, greedy(2))
    bench.run()
    usage = bench.final(later).usage
    assert usage is not None
    assert usage.cached == len(prompt) - 1


def test_a_step_computes_a_bounded_number_of_rows() -> None:
    bench = Counted(chunk_tokens=4096)
    numbers = [bench.submit(prompt, gen(max_tokens=3, prompt_logprobs=0)) for prompt in PROMPTS]
    bench.run()
    limit = plan.PROMPT_ROWS
    assert limit < sum(map(len, PROMPTS))
    assert limit <= max(bench.counter.rows) <= limit + len(PROMPTS)
    for prompt, number in zip(PROMPTS, numbers, strict=True):
        assert_dense(told(bench, number), [], prompt.encode(), 0)


@pytest.mark.parametrize("cache", [True, False])
def test_a_sequence_that_gives_way_tells_each_of_them_once(cache: bool) -> None:
    bench = Counted(kv_tokens=160, chunk_tokens=16, prefix_cache=cache, drafts="off")
    prompts = [f"{n} says {PROMPTS[n][:36]}" for n in range(5)]
    numbers = [
        bench.submit(p, gen(max_tokens=60, temperature=1.2, seed=n, prompt_logprobs=2, ignore_eos=True))
        for n, p in enumerate(prompts)
    ]
    for step in itertools.count():
        if not bench.engine.has_work():
            break
        running = bench.engine.scheduler.running
        if step % 5 == 2 and len(running) > 1:  # in the middle of a prompt, too
            bench.engine.scheduler._retract(plan.Plan(0), running[-1])
        bench.step()
    assert bench.engine.scheduler.retractions > 5
    for prompt, number in zip(prompts, numbers, strict=True):
        assert_dense(told(bench, number), [], prompt.encode(), 2)
        assert len(bench.tokens(number)) == 60
    drawn = 5 * 60
    assert sum(bench.counter.rows) == drawn + sum(len(prompt) - 1 for prompt in prompts)
    bench.assert_all_free()


def test_every_gen_of_a_chain_has_those_of_the_text_right_before_it() -> None:
    bench = Bench(chunk_tokens=16)
    number = bench.submit(
        "Say one: ",
        greedy(3, prompt_logprobs=1),
        " and ",
        "two: ",
        bench.select("yes", "no"),
        "; three: ",
        greedy(2),
        " four: ",
        greedy(2, prompt_logprobs=2),
        greedy(1, prompt_logprobs=0),
    )
    bench.run()
    before = b"Say one: " + bench.data(number, 1) + b" and two: " + bench.data(number, 4) + b"; three: "
    before += bench.data(number, 6)
    assert_dense(told(bench, number, 1), [], b"Say one: ", 1)
    assert [told(bench, number, segment) for segment in (4, 6, 9)] == [[], [], []]
    assert_dense(told(bench, number, 8), before, b" four: ", 2)
    bench.assert_all_free()


def test_after_a_stop_the_text_begins_with_what_the_stop_left_of_a_token() -> None:
    tokenizer = merged_tokenizer()
    merged = next(t for t, data in enumerate(tokenizer.token_bytes) if len(data) == 2 and t > 256)
    first, second = (bytes([byte]).decode() for byte in tokenizer.token_bytes[merged])
    bench = Bench(tokenizer=tokenizer)
    forced = {merged: 100.0}
    stop = GenSegment(Sampling(temperature=0.0, stop=(second,), logit_bias=tuple(forced.items())))
    number = bench.submit("Go on. ", stop, " After", greedy(1, prompt_logprobs=0))
    bench.run()
    assert bench.data(number, 1) == first.encode()
    pairs = told(bench, number, 3)
    assert b"".join(tokenizer.token_bytes[token] for token, _ in pairs) == f"{first} After".encode()
    tokens = tokenizer.encode("Go on. ") + [token for token, _ in pairs]
    rows = torch.log_softmax(dense_logits(tokens, tokenizer), dim=-1)[-len(pairs) - 1 : -1]
    for (token, info), row in zip(pairs, rows, strict=True):
        assert info.logprob == pytest.approx(float(row[token]), abs=1e-9)
    bench.assert_all_free()


def test_after_an_end_token_the_last_row_is_computed_again() -> None:
    bench = Bench()
    end = bench.end_ids[0]
    ended = GenSegment(Sampling(temperature=0.0, logit_bias=((end, 100.0),)))
    number = bench.submit("A text that ends.", ended, " Or not: ", greedy(2, prompt_logprobs=2))
    bench.run()
    assert bench.data(number, 1) == b""
    assert_dense(told(bench, number, 3), b"A text that ends.", b" Or not: ", 2)
    bench.assert_all_free()


def test_after_a_lease_they_are_those_of_the_requests_own_text() -> None:
    bench = Bench()
    bench.submit("A text to go on from.", hold_lease=7)
    bench.run()
    numbers = [
        bench.submit(text, greedy(2, prompt_logprobs=1), parent_lease=7, group=1) for text in (" One", " Two", "")
    ]
    bench.run()
    for number, text in zip(numbers[:2], (b" One", b" Two"), strict=True):
        assert_dense(told(bench, number), b"A text to go on from.", text, 1)
        usage = bench.final(number).usage
        assert usage is not None
        assert usage.cached >= 16
    assert told(bench, numbers[2]) == []
    bench.engine.release("a", [7])
    bench.assert_all_free()


def test_they_go_with_constraints_whose_masks_are_cold() -> None:
    bench = Counted(chunk_tokens=16, prefix_cache=False)
    bench.define("k", "yes", "no")
    bench.automata[0].cold = 5
    number = bench.submit(PROMPTS[0], gen("k", prompt_logprobs=1, logprobs=0, repetition_penalty=1.3))
    bench.run()
    assert_dense(told(bench, number), [], PROMPTS[0].encode(), 1)
    assert bench.data(number) in (b"yes", b"no")
    assert sum(bench.counter.rows) == len(PROMPTS[0]) - 1 + len(bench.tokens(number))


def test_a_prompt_of_one_token_has_none() -> None:
    bench = Bench()
    number = bench.submit(TextSegment((65,)), greedy(2, prompt_logprobs=2))
    bench.run()
    assert told(bench, number) == []
    assert len(bench.tokens(number)) == 2


def test_more_numbers_than_an_answer_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "MAX_PROMPT_LOGPROBS", 100)
    bench = Bench()
    refused = bench.submit("x" * 51, greedy(2, prompt_logprobs=1))
    fine = bench.submit("x" * 50, greedy(2, prompt_logprobs=1))
    bench.run()
    error = bench.final(refused).error
    assert error is not None
    assert error.field == "prompt_logprobs"
    assert "102 numbers" in error.message
    assert bench.final(fine).error is None


def test_rows_that_are_no_logits_fail_their_own_request() -> None:
    class Broken(Counter):
        def run(self, batch: Batch) -> Tensor:
            logits = self.inner.run(batch).clone()
            logits[batch.tokens[batch.logit_rows] == ord("#")] = float("nan")
            return logits

    bench = Bench(runner=Broken, chunk_tokens=16)
    bad = bench.submit("a # in the middle of it", greedy(3, prompt_logprobs=0))
    good = bench.submit("none in the middle of it", greedy(3, prompt_logprobs=0))
    bench.run()
    error = bench.final(bad).error
    assert error is not None
    assert error.message == "model produced NaN"
    assert_dense(told(bench, good), [], b"none in the middle of it", 0)
    bench.assert_all_free()


@pytest.mark.parametrize("start", [0, 1, 7, len(SHARED), len(SHARED) + 3, len(SHARED) + 30])
def test_a_beginning_that_is_not_asked_about_is_not_told_and_comes_from_the_cache(start: int) -> None:
    bench = Counted()
    bench.submit(SHARED)
    bench.run()
    rows = sum(bench.counter.rows)
    prompt = PROMPTS[0]
    number = bench.submit(prompt, gen(max_tokens=1, prompt_logprobs=2, prompt_logprobs_start=start))
    bench.run()
    first = min(max(1, start), len(prompt))
    text = prompt.encode()
    assert_dense(told(bench, number), text[:first] if first > 1 else b"", text[first:] if first > 1 else text, 2)
    usage = bench.final(number).usage
    assert usage is not None
    assert usage.cached == min(first - 1, len(SHARED))
    assert sum(bench.counter.rows) - rows == len(prompt) - first + 1
