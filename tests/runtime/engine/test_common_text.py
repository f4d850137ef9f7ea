"""Sequences that begin alike compute what they have in common once, in one step, and say what each says alone."""

from __future__ import annotations

from typing import Any

import pytest

from latticework.runtime.schedule.plan import Plan, Source
from tests.runtime.engine.bench import Bench, gen, greedy

ROOT = "A problem that is looked at from more than one side. "
TAILS = ("Plan 1: walk", "Plan 2:", "Plan 2: run", "Plan 12", "Another plan", "Plan 2: run!")
ALIKE = (0, 5, 7, 6, 0, 11)  # letters each has in common with one before it


def tokens_alone(**fields: Any) -> list[list[int]]:
    bench = Bench(max_running=1, prefix_cache=False)
    numbers = [bench.submit(ROOT + tail, gen(max_tokens=6, **fields)) for tail in TAILS]
    bench.run()
    return [bench.tokens(number) for number in numbers]


@pytest.mark.parametrize("page", [1, 4, 16])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_siblings_compute_their_common_text_once_and_in_one_step(page: int, temperature: float) -> None:
    bench = Bench(page_size=page)
    bench.submit(ROOT, hold_lease=1)
    bench.run()
    drawn = gen(max_tokens=6, temperature=temperature, seed=5)
    numbers = [bench.submit(tail, drawn, parent_lease=1, group=1) for tail in TAILS]
    bench.step()
    assert all(len(bench.tokens(number)) == 1 for number in numbers)
    bench.run()
    computed = [bench.final(number).usage.computed for number in numbers]  # type: ignore[union-attr]
    assert computed == [len(tail) - alike for tail, alike in zip(TAILS, ALIKE, strict=True)]
    assert [bench.tokens(number) for number in numbers] == tokens_alone(temperature=temperature, seed=5)
    bench.engine.release("a", (1,))
    bench.assert_all_free()


def test_requests_that_come_together_are_not_kept_waiting_for_each_other() -> None:
    bench = Bench()
    numbers = [bench.submit(ROOT + tail, greedy(6)) for tail in TAILS]
    bench.step()
    assert all(len(bench.tokens(number)) == 1 for number in numbers)
    bench.run()
    assert [bench.tokens(number) for number in numbers] == tokens_alone(temperature=0.0)
    assert bench.engine.tree.cached_pages < 2 * len(ROOT) // 4 + 4 * len(TAILS)  # nor is it kept more than once


@pytest.mark.parametrize(("cache", "spaces"), [(False, ("", "")), (True, ("x", "y"))])
def test_without_a_cache_or_in_other_namespaces_nothing_is_shared(cache: bool, spaces: tuple[str, str]) -> None:
    bench = Bench(prefix_cache=cache)
    numbers = [bench.submit(ROOT + "?", greedy(2), namespace=space) for space in spaces]
    bench.run()
    assert [bench.final(number).usage.computed for number in numbers] == 2 * [len(ROOT) + 1]  # type: ignore[union-attr]


def test_what_is_logged_of_a_prompt_is_computed_for_it() -> None:
    bench = Bench()
    plain = bench.submit(ROOT + "?", greedy(2))
    logged = bench.submit(ROOT + "?", greedy(2, prompt_logprobs=0))
    bench.run()
    told = [event.prompt_logprobs for event in bench.events["a", logged]]
    assert sum(map(len, told)) == len(ROOT)
    assert bench.tokens(logged) == bench.tokens(plain)
    assert bench.final(logged).usage.cached == 0  # type: ignore[union-attr]


def test_nobody_copies_into_pages_that_others_would_have_to_give() -> None:
    bench = Bench(kv_tokens=160, chunk_tokens=64)
    bench.submit("z" * 80)
    bench.run()
    numbers = [bench.submit(ROOT + letter, greedy(2)) for letter in "?!"]  # 54 tokens each
    bench.step()
    assert [len(bench.tokens(number)) for number in numbers] == [1, 0]
    bench.run()
    assert bench.final(numbers[1]).usage.cached == len(ROOT) // 4 * 4  # type: ignore[union-attr]
    assert bench.engine.tree.peek(list(b"z" * 80)) == 80


def test_who_copies_from_one_that_gives_way_waits_too() -> None:
    bench = Bench()
    for tail in ("a", "b", "bc"):
        bench.submit(ROOT + tail, greedy(2))
    plan = bench.engine.scheduler.schedule()
    first, second, third = plan.works
    assert (second.source.work, third.source.work) == (first, second)
    plan.drop(second.sequence)
    assert plan.works == [first]
    assert (second.sequence.computed, third.sequence.computed) == (0, 0)
    bench.engine.check()


def test_copies_are_bounded_in_a_step() -> None:
    plan = Plan(100)
    bench = Bench()
    bench.submit(ROOT, greedy(2))
    (work,) = bench.engine.scheduler.schedule().works
    plan.works.append(work)
    other = Bench()
    other.submit(ROOT + "more", greedy(2))
    (sequence,) = other.engine.scheduler.waiting
    assert plan.source(sequence, 0) == Source()
    plan.copies = 7
    assert plan.source(sequence, 0) == Source(work, 7)
