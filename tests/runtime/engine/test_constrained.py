"""Gens under a constraint: masks, budgets, cold rows, ends."""

from __future__ import annotations

import math
import time
from functools import partial

import numpy as np
import pytest

from latticework.lang.ir import JsonSchema
from latticework.runtime.constrain import Automaton, Vocabulary, to_rules
from latticework.runtime.request import GenSegment, Request
from latticework.runtime.schedule.pieces import Job, Pace
from tests.runtime.engine.bench import Bench, gen, greedy


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.define("fruit", "apple", "banana", "cherry pie", "fig", "figs")
    return bench


def test_the_output_is_one_of_the_strings(bench: Bench) -> None:
    numbers = [bench.submit(f"{n}: ", gen("fruit", seed=n, temperature=2.0)) for n in range(12)]
    bench.run()
    texts = {bench.data(number).decode() for number in numbers}
    assert texts <= {"apple", "banana", "cherry pie", "fig", "figs"}
    assert len(texts) > 1
    assert all(bench.final(number).end == "stop" and bench.final(number).complete for number in numbers)


@pytest.mark.parametrize(("drafts", "steps"), [("off", 5), ("forced", 1)])
def test_nothing_is_drawn_once_nothing_can_follow(drafts: str, steps: int) -> None:
    bench = Bench(drafts=drafts)
    bench.define("word", "hello")
    number = bench.submit("Say ", gen("word", max_tokens=50))
    bench.run()
    assert (bench.data(number), bench.final(number).end) == (b"hello", "stop")
    assert bench.engine.scheduler.step == steps


def test_a_small_budget_closes_with_what_fits(bench: Bench) -> None:
    numbers = [bench.submit(f"{n}: ", gen("fruit", max_tokens=5, seed=n, temperature=3.0)) for n in range(10)]
    bench.run()
    assert {bench.data(n).decode() for n in numbers} <= {"apple", "fig", "figs"}
    assert all(bench.final(n).complete for n in numbers)


def test_a_budget_below_the_shortest_text_is_refused(bench: Bench) -> None:
    number = bench.submit("x", gen("fruit", max_tokens=2))
    bench.run()
    error = bench.final(number).error
    assert error is not None
    assert (error.type, error.field) == ("BudgetTooSmall", "max_tokens")
    assert "3" in error.message
    assert error.hint is not None
    assert "max_tokens=3" in error.hint


@pytest.mark.parametrize("on_length", ["cut", "prefer_close"])
def test_cutting_ends_in_the_middle(bench: Bench, on_length: str) -> None:
    number = bench.submit("x", gen("fruit", on_length, max_tokens=2))
    bench.run()
    final = bench.final(number)
    assert (final.end, final.complete, len(bench.tokens(number))) == ("length", False, 2)


def test_room_in_the_context_counts_as_budget() -> None:
    bench = Bench(context=12)
    bench.define("word", "banana")
    fits = bench.submit("123456", gen("word", max_tokens=100))
    too_long = bench.submit("1234567", gen("word", max_tokens=100))
    bench.run()
    assert bench.data(fits) == b"banana"
    error = bench.final(too_long).error
    assert error is not None
    assert error.type == "BudgetTooSmall"


def test_a_stop_may_cut_a_constrained_text(bench: Bench) -> None:
    bench.define("pair", "one, two")
    bench.define("maybe", "one", "one, two")
    cut = bench.submit("x", gen("pair", stop=(", ",)))
    whole = bench.submit("x", gen("maybe", on_length="cut", stop=(",",), seed=5))
    bench.run()
    assert (bench.data(cut), bench.final(cut).end, bench.final(cut).complete) == (b"one", "stop", False)
    assert (bench.data(whole), bench.final(whole).end, bench.final(whole).complete) == (b"one", "stop", True)


def test_a_cold_mask_delays_its_own_sequence_only() -> None:
    bench = Bench()
    bench.define("word", "hello")
    constrained = bench.submit("Say ", gen("word"))
    free = bench.submit("Go ", greedy(4))
    bench.automata[0].cold = 3
    for _ in range(3):
        bench.step()
    assert bench.tokens(constrained) == []
    assert len(bench.tokens(free)) == 3
    bench.run()
    assert bench.data(constrained) == b"hello"


def test_a_step_in_which_all_wait_for_masks_is_none_of_the_models() -> None:
    bench = Bench(drafts="off", mask_budget_ms=0.001)
    bench.define("key", "yes")
    number = bench.submit("x", gen("key", max_tokens=4))
    bench.automata[0].cold = 3
    bench.run()
    assert bench.data(number) == b"yes"
    steps = bench.engine.stats().steps
    assert steps == len(bench.tokens(number)) == 3
    assert bench.engine.scheduler.step > steps


def test_a_mask_that_stays_cold_is_made_in_the_end() -> None:
    bench = Bench()
    bench.define("word", "hello")
    alone = bench.submit("Say ", gen("word"))
    bench.automata[0].cold = 20
    bench.run()
    assert bench.data(alone) == b"hello"
    bench.automata[0].cold = 20
    beside, free = bench.submit("Say ", gen("word")), bench.submit("Go ", greedy(100))
    bench.run()
    assert bench.data(beside) == b"hello"
    assert len(bench.tokens(free)) == 100


def test_an_unknown_key_is_returned_and_nothing_starts(bench: Bench) -> None:
    request = Request(7, (bench.text("x"), gen("fruit"), gen("nuts")))
    assert bench.engine.submit("a", request) == "nuts"
    assert not bench.engine.has_work()
    bench.define("nuts", "almond")
    assert bench.engine.submit("a", request) is None
    bench.run()
    assert bench.data(7, 2) == b"almond"


def test_a_request_whose_graphs_exceed_the_limit_together_is_served() -> None:
    bench = Bench(row_cache_mb=1)
    rules = {key: f'["{key}"]'.encode() + b" " * 25_000 for key in ("one", "two", "three")}
    request = Request(0, (bench.text("x"), *map(gen, rules)))
    for key in rules:
        bench.engine.define("a", key, rules[key])
    sent_back = 0
    while (missing := bench.engine.submit("a", request)) is not None:
        sent_back += 1
        assert sent_back <= len(rules)
        bench.engine.define("a", missing, rules[missing])
    bench.run()
    assert bench.data(0) == b"onetwothree"
    bench.define("small", "a")
    assert len(bench.engine.automata) == 2  # what the limit allows, and the new one


@pytest.mark.parametrize("gone", ["cancel", "drop"])
def test_graphs_of_a_request_that_never_comes_are_not_kept(gone: str) -> None:
    bench = Bench(row_cache_mb=1)
    rules = b'["a"]' + b" " * 700_000
    bench.engine.define("a", "one", rules)
    assert bench.engine.submit("a", Request(0, (bench.text("x"), gen("one"), gen("two")))) == "two"
    bench.engine.define("a", "two", rules)
    bench.define("small", "a")
    assert "one" in bench.engine.automata
    if gone == "cancel":
        bench.engine.cancel("a", 0)
    else:
        bench.engine.drop("a")
    bench.define("another", "a")
    assert "one" not in bench.engine.automata


def test_rules_that_cannot_be_used_fail_the_requests_that_name_them(bench: Bench) -> None:
    bench.engine.define("a", "garbage", b"\xff\x00")
    bench.engine.define("a", "refused", b"{}")
    numbers = [bench.submit("x", gen("garbage")), bench.submit("x", gen("refused")), bench.submit("x", gen("fruit"))]
    bench.run()
    errors = [bench.final(number).error for number in numbers]
    assert [error and error.type for error in errors] == ["ConstraintError", "ConstraintError", None]


def test_text_before_a_constrained_gen_does_not_wait_for_its_mask() -> None:
    bench = Bench(chunk_tokens=64)
    bench.define("word", "hello")
    number = bench.submit("a long prompt before ", gen("word"))
    bench.submit("Go ", greedy(3))
    bench.automata[0].cold = 2
    bench.step()
    (sequence,) = (s for s in bench.engine.scheduler.running if s.request.id == number)
    assert sequence.uncomputed == 1
    bench.run()


def test_options_of_a_segment_are_those_of_its_own_key(bench: Bench) -> None:
    bench.define("city", "Oslo", "Rome")
    chain: list[str | GenSegment] = ["A ", gen("fruit", seed=2), " in ", gen("city", seed=2)]
    number = bench.submit(*chain)
    bench.run()
    assert bench.data(number, 1).decode() in {"apple", "banana", "cherry pie", "fig", "figs"}
    assert bench.data(number, 3).decode() in {"Oslo", "Rome"}


def test_a_request_waits_for_an_automaton_that_takes_long_and_no_other_does() -> None:
    bench = Bench()
    bench.engine.define("a", "slow", b'["hello"]')  # made in the next steps
    late = Request(100, (bench.text("x"), gen("slow")))
    assert bench.engine.submit("a", late) is None
    assert len(bench.engine.held) == 1
    assert bench.engine.has_work()
    free = bench.submit("Go ", greedy(4))
    bench.run()
    assert len(bench.tokens(free)) == 4
    assert bench.data(100) == b"hello"
    assert len(bench.engine.held) == 0


@pytest.mark.parametrize("way", ["cancelled", "out of time", "dropped"])
def test_a_request_that_waits_for_its_automaton_can_be_ended(way: str) -> None:
    bench = Bench()
    bench.engine.define("a", "slow", b'["hello"]')
    deadline = 0.0 if way == "out of time" else None
    assert bench.engine.submit("a", Request(100, (bench.text("x"), gen("slow")), deadline=deadline)) is None
    if way == "cancelled":
        bench.engine.cancel("a", 100)
    elif way == "dropped":
        bench.engine.drop("a")
    bench.run()
    assert len(bench.engine.held) == 0
    if way == "dropped":
        assert ("a", 100) not in bench.events
    else:
        final = bench.final(100)
        assert final.end == ("cancelled" if way == "cancelled" else "error")
        assert final.error is None or final.error.type == "DeadlineExceeded"
    bench.engine.flush_cache()
    assert len(bench.engine.automata) == 0


def test_requests_beyond_those_that_may_wait_for_automata_are_refused() -> None:
    bench = Bench(max_waiting=1)
    bench.engine.define("a", "slow", b'["hello"]')
    for number in (1, 2):
        assert bench.engine.submit("a", Request(number, (bench.text("x"), gen("slow")))) is None
    bench.run()
    error = bench.final(2).error
    assert error is not None
    assert error.type == "Busy"
    assert bench.data(1) == b"hello"


def test_a_real_automaton_made_in_pieces_masks_as_one_made_at_once(bench: Bench) -> None:
    tokens = bench.tokenizer.padded(len(bench.tokenizer) + 5)
    vocabulary = Vocabulary(tokens, bench.end_ids)
    pace = Pace()
    rules = to_rules(JsonSchema({"type": "array", "items": {"enum": ["a", "bc", 1.5]}, "maxItems": 3}))
    making = Job(pace, lambda: Automaton(rules, vocabulary, pause=pace))
    while not making.resume(0.0):
        making.resume(time.monotonic() + 1e-5)
    whole, pieced = Automaton(rules, vocabulary).matcher(), making.result().matcher()
    for token in bench.tokenizer.encode('["bc",1.5]'):
        rows = [np.zeros(vocabulary.words, np.int32) for _ in range(2)]
        row = Job(pace, partial(pieced.prepare, math.inf))
        while not row.resume(0.0):
            pieced.is_complete()
            row.resume(time.monotonic() + 1e-5)
        whole.fill_mask(rows[0])
        pieced.fill_mask(rows[1])
        assert np.array_equal(rows[0], rows[1])
        assert whole.accept(token)
        assert pieced.accept(token)
    assert whole.is_complete()
    assert pieced.is_complete()


def test_a_request_submitted_twice_while_it_waits_is_refused_once_and_holds_nothing() -> None:
    bench = Bench()
    bench.define("k", "abc", "abd")
    request = Request(1, (bench.text("x"), gen("k", max_tokens=5)))
    bench.events["a", 1] = []
    assert bench.engine.submit("a", request) is None
    assert bench.engine.submit("a", request) is None
    bench.run()
    ends = [event for event in bench.events["a", 1] if event.final]
    assert sorted(event.end or "" for event in ends) == ["error", "stop"]
    bench.engine.flush_cache()
    assert len(bench.engine.automata) == 0
