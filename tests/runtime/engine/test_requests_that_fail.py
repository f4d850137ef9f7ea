"""What goes wrong with one request stays with that request."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from latticework.runtime import settle
from latticework.runtime.engine import Runner
from latticework.runtime.request import GenSegment, Request, SelectSegment, TextSegment
from latticework.runtime.sample import contained
from latticework.runtime.sample.sampler import Drawn, Row, sample
from latticework.runtime.sample.scores import token_logprobs
from latticework.runtime.schedule.batch import Batch
from latticework.runtime.schedule.sequence import Sequence as Running
from tests.runtime.engine.bench import Bench, gen, greedy


class Meddler:
    """A model whose logits are changed on the way."""

    def __init__(self, inner: Runner, change: Callable[[Batch, Tensor], None]) -> None:
        self.kv = inner.kv
        self.inner = inner
        self.change = change

    def run(self, batch: Batch) -> Tensor:
        logits = self.inner.run(batch).clone()
        self.change(batch, logits)
        return logits


def poison(batch: Batch, logits: Tensor) -> None:
    """NaN wherever the last token read was '!'."""
    for row, at in enumerate(batch.logit_rows):
        if batch.tokens[at] == ord("!"):
            logits[row] = torch.nan


def test_nan_fails_its_own_request_only() -> None:
    bench = Bench(runner=lambda inner: Meddler(inner, poison))
    bad = bench.submit("this one!", greedy(3), hold_lease=1)
    selecting = bench.submit("and this!", bench.select("a", "b"))
    good = bench.submit("but not this", greedy(3))
    bench.run()
    alone = Bench()
    alone.submit("but not this", greedy(3))
    alone.run()
    assert bench.tokens(good) == alone.tokens(0)
    for number in (bad, selecting):
        final = bench.final(number)
        assert final.end == "error"
        assert final.error is not None
        assert (final.error.type, final.error.message) == ("RuntimeFailure", "model produced NaN")
        assert final.usage is not None
    assert len(bench.engine.leases) == 0
    assert bench.engine.tree.peek(list(b"this one!")) == 0  # what may be wrong is not kept
    bench.assert_all_free()


def test_a_failing_batch_fails_its_requests_and_not_the_engine() -> None:
    def explode(batch: Batch, logits: Tensor) -> None:
        if ord("!") in batch.tokens:
            raise RuntimeError("out of tensors")

    bench = Bench(runner=lambda inner: Meddler(inner, explode), max_running=2)
    numbers = [bench.submit(text, greedy(3)) for text in ("bang!", "bystander", "later")]
    bench.run()
    errors = [bench.final(number).error for number in numbers]
    assert [error and error.type for error in errors] == ["RuntimeFailure", "RuntimeFailure", None]
    assert errors[0] is not None
    assert "RuntimeError: out of tensors" in errors[0].message
    bench.assert_all_free()


def test_an_error_of_the_system_names_no_path() -> None:
    def explode(batch: Batch, logits: Tensor) -> None:
        raise FileNotFoundError(2, "No such file", "/secret/weights")

    bench = Bench(runner=lambda inner: Meddler(inner, explode))
    number = bench.submit("x", greedy(3))
    bench.run()
    error = bench.final(number).error
    assert error is not None
    assert error.message == "internal error: FileNotFoundError"


@pytest.mark.parametrize("method", ["fill_mask", "accept", "prepare", "is_finished", "shortest"])
def test_a_matcher_that_raises_fails_its_own_request_only(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    bench.define("bad", "hello")
    bench.define("good", "hello")
    broken = bench.automata[0]

    def matcher() -> object:
        found = type(broken).matcher(broken)

        def explode(*_: object) -> None:
            raise ZeroDivisionError("in a matcher")

        setattr(found, method, explode)
        return found

    monkeypatch.setattr(broken, "matcher", matcher)
    bad, good, free = bench.submit("x", gen("bad")), bench.submit("x", gen("good")), bench.submit("x", greedy(9))
    bench.run()
    error = bench.final(bad).error
    assert error is not None
    assert "ZeroDivisionError: in a matcher" in error.message
    assert bench.data(good) == b"hello"
    assert len(bench.tokens(free)) == 9
    bench.assert_all_free()


def test_a_draw_that_fails_is_that_of_its_own_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(logits: Tensor, rows: Sequence[Row], places: Sequence[int], library: None) -> Drawn:
        if any(row.sampling.seed == 13 for row in rows):
            raise MemoryError("no room for the draw")
        return sample(logits, rows, places, library)

    monkeypatch.setattr(contained, "sample", explode)
    bench, alone = Bench(), Bench()
    numbers = [bench.submit(f"number {seed}", gen(seed=seed, max_tokens=4, logprobs=1)) for seed in (12, 13, 14)]
    twins = [alone.submit(f"number {seed}", gen(seed=seed, max_tokens=4, logprobs=1)) for seed in (12, 14)]
    bench.run()
    alone.run()
    assert [bench.tokens(n) for n in numbers] == [alone.tokens(twins[0]), [], alone.tokens(twins[1])]
    error = bench.final(numbers[1]).error
    assert error is not None
    assert error.message == "internal error: MemoryError: no room for the draw"
    bench.assert_all_free()


def test_scores_that_fail_are_those_of_their_own_select(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(logits: Tensor, tokens: Sequence[Sequence[int]]) -> list[list[float]]:
        if any(ord("#") in wanted for wanted in tokens):
            raise MemoryError("no room for the scores")
        return token_logprobs(logits, tokens)

    monkeypatch.setattr(settle, "token_logprobs", explode)
    bench = Bench()
    first = bench.submit("Which? ", bench.select("#one", "two", "three"))
    later = bench.submit("Which? ", bench.select("one#", "two", "three"))
    good = bench.submit("Which? ", bench.select("one", "two", "three"))
    bench.run()
    errors = [bench.final(number).error for number in (first, later, good)]
    assert [error and error.type for error in errors] == ["RuntimeFailure", "RuntimeFailure", None]
    bench.assert_all_free()


@pytest.mark.parametrize("method", ["cached", "about_to_cache", "attach", "reserve", "publish", "_copy"])
def test_planning_that_fails_over_one_request_fails_that_one(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(chunk_tokens=16)
    bench.submit("bad: what others have computed before")
    bench.run()
    kept = getattr(bench.engine.memory, method)

    def explode(*arguments: object) -> object:
        if not isinstance(arguments[0], Running) or bytes(arguments[0].tokens[:5]) == b"bad: ":
            raise ZeroDivisionError("in the memory")
        return kept(*arguments)

    monkeypatch.setattr(bench.engine.memory, method, explode)
    good = [bench.submit(f"{n} good, and in more than one chunk", greedy(6)) for n in range(2)]
    bad = bench.submit("bad: what others do not know, in more than one chunk", greedy(6))
    held = bench.submit("bad: text alone", hold_lease=1)
    bench.run()
    for number in (bad, held):
        error = bench.final(number).error
        assert error is not None
        assert error.message == "internal error: ZeroDivisionError: in the memory"
    assert [len(bench.tokens(number)) for number in good] == [6, 6]
    monkeypatch.undo()
    bench.assert_all_free()


def test_planning_that_fails_as_a_whole_ends_what_runs_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(max_running=2)
    numbers = [bench.submit(f"{n} of them", greedy(6)) for n in range(3)]
    bench.step()
    bench.step()

    def explode(*_: object) -> None:
        raise ZeroDivisionError("in the policy")

    monkeypatch.setattr(bench.engine.scheduler, "_admit", explode)
    bench.step()
    monkeypatch.undo()
    bench.run()
    errors = [bench.final(number).error for number in numbers]
    assert [error and error.message for error in errors] == ["internal error: ZeroDivisionError: in the policy"] * 2 + [
        None
    ]
    bench.assert_all_free()


def test_planning_that_never_works_ends_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        raise ZeroDivisionError("in the policy")

    bench = Bench()
    monkeypatch.setattr(bench.engine.scheduler, "_admit", explode)
    numbers = [bench.submit(f"{n} of them", greedy(6)) for n in range(3)]
    bench.run(limit=3)
    assert all(bench.final(number).error for number in numbers)
    bench.assert_all_free()


def test_a_prompt_that_can_never_fit_is_refused() -> None:
    bench = Bench(kv_tokens=64, context=4096)
    short = Bench(context=50)
    for one, limit in ((bench, 64), (short, 50)):
        fits = one.submit("x" * (limit - 1), greedy(9))
        full = one.submit("x" * limit, greedy(9))
        held = one.submit("x" * limit)
        over = one.submit("x" * (limit + 1))
        one.run()
        assert (len(one.tokens(fits)), one.final(fits).end) == (1, "length")  # what fits of max_tokens
        assert one.final(held).end == "text"
        for number, said in ((full, f"{limit} tokens and needs 1 more"), (over, f"{limit + 1} tokens")):
            error = one.final(number).error
            assert error is not None
            assert error.type == "PromptTooLong"
            assert said in error.message
            assert f"at most {limit}" in error.message


def test_text_later_in_the_chain_that_does_not_fit_ends_the_request() -> None:
    bench = Bench(context=40)
    number = bench.submit("x" * 20, greedy(8), "y" * 20, greedy(8), hold_lease=3)
    bench.run()
    assert bench.end(number, 1).end == "length"
    final = bench.final(number)
    assert final.error is not None
    assert (final.segment, final.error.type) == (2, "PromptTooLong")
    assert len(bench.engine.leases) == 0
    bench.assert_all_free()


@pytest.mark.parametrize(
    ("segment", "field"),
    [
        (TextSegment((5, 100_000)), "prompt"),
        (TextSegment((-1,)), "prompt"),
        (TextSegment((5,), b"a", 2), "chain"),
        (SelectSegment(()), "choices"),
        (SelectSegment(((1,), ())), "choices"),
        (SelectSegment(((100_000,),)), "prompt"),
        (SelectSegment(((1,),), temperature=-1.0), "temperature"),
        (SelectSegment(((1,),), temperature=math.inf), "temperature"),
        (SelectSegment(((1,),), seed=-1), "seed"),
        (SelectSegment(((1,),), unconditional=(0.0,)), "choices"),
        (SelectSegment(((1,),), "unconditional_likelihood_normalized"), "choices"),
        (SelectSegment(((1,),), "unconditional_likelihood_normalized", unconditional=(math.nan,)), "choices"),
        (gen(seed=None), "seed"),
    ],
)
def test_what_a_front_should_never_send_fails_alone(
    segment: TextSegment | SelectSegment | GenSegment, field: str
) -> None:
    bench = Bench()
    good = bench.submit("abc", greedy(2))
    bad = bench.submit("abc", segment)
    bench.run()
    assert len(bench.tokens(good)) == 2
    error = bench.final(bad).error
    assert error is not None
    assert (error.type, error.field) == ("InvalidArgument", field)


def test_a_gen_after_no_text_at_all_is_refused() -> None:
    bench = Bench()
    number = bench.submit(greedy(2))
    bench.run()
    error = bench.final(number).error
    assert error is not None
    assert error.field == "prompt"


def test_an_unknown_lease_is_refused() -> None:
    bench = Bench()
    number = bench.submit("x", greedy(2), parent_lease=9)
    bench.run()
    error = bench.final(number).error
    assert error is not None
    assert error.field == "parent_lease"


def test_too_many_waiting_requests_are_answered_busy() -> None:
    bench = Bench(max_waiting=2)
    numbers = [bench.submit("x", greedy(2)) for _ in range(3)]
    bench.run()
    error = bench.final(numbers[2]).error
    assert error is not None
    assert error.type == "Busy"
    assert bench.final(numbers[1]).end == "length"


def test_cancelling_ends_a_request_wherever_it_is() -> None:
    bench = Bench(max_running=1)
    running, waiting = bench.submit("abc", greedy(50)), bench.submit("abd", greedy(50))
    bench.step()
    bench.step()
    bench.engine.cancel("a", running)
    bench.engine.cancel("a", waiting)
    bench.engine.cancel("a", 99)
    bench.engine.cancel("b", running)
    bench.engine.check()
    bench.run()
    for number in (running, waiting):
        assert bench.final(number).end == "cancelled"
    assert bench.final(running).usage is not None
    bench.engine.cancel("a", running)
    assert not bench.engine.has_work()
    bench.assert_all_free()


def test_cancelling_a_select_frees_its_options() -> None:
    bench = Bench(chunk_tokens=8)
    number = bench.submit("Which one? ", bench.select("the first of all", "the second of all"))
    for _ in range(4):
        bench.step()
    assert any(s.pages for s in bench.engine.scheduler.running[0].selection.options)  # type: ignore[union-attr]
    bench.engine.cancel("a", number)
    bench.engine.check()
    bench.assert_all_free()


def test_dropping_an_owner_frees_everything_of_its_own_and_nothing_else() -> None:
    bench = Bench()
    bench.submit("held", hold_lease=1, owner="gone")
    bench.submit("held", hold_lease=1, owner="stays")
    bench.run()
    bench.submit("abc", greedy(30), owner="gone")
    other = bench.submit("abc", greedy(5), owner="stays")
    bench.step()
    bench.engine.drop("gone")
    bench.engine.check()
    bench.run()
    assert len(bench.tokens(other, owner="stays")) == 5
    assert len(bench.engine.leases) == 1
    assert bench.events["gone", 2][-1].final is False  # nobody is left to tell


def test_the_same_id_twice_is_refused_until_the_first_has_ended() -> None:
    bench = Bench()
    number = bench.submit("abc", greedy(3))
    bench.engine.submit("a", Request(number, (bench.text("abc"), greedy(3))))
    bench.engine.submit("b", Request(number, (bench.text("abc"), greedy(3))))
    bench.run()
    ends = [event.error.field if event.error else event.end for event in bench.events["a", number] if event.final]
    assert ends == ["id", "length"]
    assert bench.events["b", number][-1].end == "length"
