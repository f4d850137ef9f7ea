"""A select scores every option after the same prefix."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest
import torch

from latticework.lang.choices import decide
from latticework.lang.ir import SelectMethod
from latticework.runtime.request import SelectSegment
from latticework.runtime.schedule.plan import Plan
from tests.runtime.engine.bench import Bench, dense_logits, greedy

PREFIX = "Is the sky blue? Answer: "
OPTIONS = ("yes", "no, never", "m", "maybe it is")


def brute_force(prefix: str, options: tuple[str, ...]) -> list[float]:
    """Mean log-probability of each option's tokens, each from one dense pass."""
    scores = []
    for option in options:
        logprobs = torch.log_softmax(dense_logits(list((prefix + option).encode())), dim=-1)
        data = option.encode()
        found = [float(logprobs[len(prefix) - 1 + index, byte]) for index, byte in enumerate(data)]
        scores.append(sum(found) / len(found))
    return scores


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize(("chunk", "page"), [(512, 4), (3, 1), (16, 16)])
def test_scores_equal_brute_force(cache: bool, chunk: int, page: int) -> None:
    bench = Bench(prefix_cache=cache, chunk_tokens=chunk, page_size=page)
    number = bench.submit(PREFIX, bench.select(*OPTIONS), " So ", greedy(4), hold_lease=1)
    bench.run()
    expected = brute_force(PREFIX, OPTIONS)
    event = bench.end(number, 1)
    assert event.end == "select"
    assert event.scores == pytest.approx(expected, abs=1e-9)
    assert event.chosen == max(range(4), key=expected.__getitem__)
    chosen = OPTIONS[event.chosen]
    plain = bench.submit(PREFIX + chosen + " So ", greedy(4))
    bench.run()
    assert bench.tokens(number, 3) == bench.tokens(plain, 1)
    bench.engine.release("a", (1,))
    bench.assert_all_free()


def test_all_options_are_scored_in_one_batch() -> None:
    bench = Bench()
    number = bench.submit(PREFIX, bench.select(*OPTIONS))
    for _ in range(3):  # the prefix, the options, and nothing
        bench.step()
    assert bench.final(number).end == "select"
    assert bench.engine.scheduler.step == 3 or not bench.engine.has_work()


def test_options_of_one_token_need_no_step_of_their_own() -> None:
    bench = Bench()
    number = bench.submit(PREFIX, bench.select("a", "b", "c"), bench.select("x", "y"))
    bench.step()
    assert bench.end(number, 1).end == "select"
    bench.step()
    assert bench.final(number).segment == 2


def test_a_chosen_option_is_not_computed_again() -> None:
    bench = Bench()
    bench.submit(PREFIX, bench.select("yes or no", "no or yes"), hold_lease=1)
    bench.run()
    lease = bench.engine.leases.get("a", 1)
    assert lease.covered == len(lease.tokens) - 1


def test_two_selects_in_a_row_equal_brute_force() -> None:
    bench = Bench()
    number = bench.submit(PREFIX, bench.select(*OPTIONS), bench.select(", good", ", bad."))
    bench.run()
    first, second = bench.end(number, 1), bench.end(number, 2)
    assert first.chosen is not None
    assert second.scores == pytest.approx(brute_force(PREFIX + OPTIONS[first.chosen], (", good", ", bad.")), abs=1e-9)


@pytest.mark.parametrize("pages", [8, 9, 12, 16])
def test_a_pool_too_small_for_all_options_scores_them_in_turn(pages: int) -> None:
    bench = Bench(kv_tokens=pages * 4)
    options = tuple(f"{n} is the number" for n in range(4))
    numbers = [bench.submit("Which? ", bench.select(*options)), bench.submit("What? ", greedy(16))]
    bench.run()
    event = bench.final(numbers[0])
    assert event.scores == pytest.approx(brute_force("Which? ", options), abs=1e-9)
    assert bench.final(numbers[1]).end == "length"
    bench.assert_all_free()


def test_an_option_that_cannot_fit_is_refused() -> None:
    bench = Bench(context=32)
    number = bench.submit("a" * 20, SelectSegment(((65,), (66,) * 13)))
    bench.run()
    error = bench.final(number).error
    assert error is not None
    assert error.type == "PromptTooLong"
    assert "20 tokens and needs 13 more" in error.message
    assert "at most 32" in error.message


def test_options_that_do_not_fit_the_pool_beside_their_prefix_fail_alone() -> None:
    bench = Bench(kv_tokens=16)
    number = bench.submit("a" * 10, bench.select("bcdefg", "b"))
    later = bench.submit("xyz", greedy(4))
    bench.run()
    error = bench.final(number).error
    assert error is not None
    assert error.type == "PromptTooLong"
    assert "KV pool of 16 tokens" in error.message
    assert len(bench.tokens(later)) == 4
    bench.assert_all_free()


def test_a_select_that_gives_way_is_scored_the_same() -> None:
    bench = Bench(chunk_tokens=8)
    bench.submit("Other: ", greedy(3))
    number = bench.submit(PREFIX, bench.select(*OPTIONS))
    running = bench.engine.scheduler.running
    while not (running and running[-1].selection and any(option.pages for option in running[-1].selection.options)):
        assert bench.engine.has_work()
        bench.step()
    bench.engine.scheduler._retract(Plan(0), running[-1])
    bench.engine.check()
    bench.run()
    assert bench.final(number).scores == pytest.approx(brute_force(PREFIX, OPTIONS), abs=1e-9)


# ---------------------------------------------------------------- methods


def token_logprobs(prefix: str, option: str) -> list[float]:
    """Of an option's tokens, from one dense pass."""
    logprobs = torch.log_softmax(dense_logits(list((prefix + option).encode())), dim=-1)
    return [float(logprobs[len(prefix) - 1 + index, byte]) for index, byte in enumerate(option.encode())]


@pytest.mark.parametrize("method", get_args(SelectMethod))
@pytest.mark.parametrize("pages", [12, 1024])
def test_every_method_decides_as_brute_force_does(method: SelectMethod, pages: int) -> None:
    bench = Bench(kv_tokens=pages * 4)
    # Options that share a beginning share its numbers: dense passes of different lengths round them differently.
    logprobs = [[round(number, 11) for number in token_logprobs(PREFIX, option)] for option in OPTIONS]
    alone = [sum(token_logprobs(option[0], option[1:])) for option in OPTIONS]
    needed = tuple(alone) if method == "unconditional_likelihood_normalized" else ()
    segment = msgspec.structs.replace(bench.select(*OPTIONS), method=method, unconditional=needed)
    number = bench.submit(PREFIX, segment, " So ", greedy(2))
    bench.run()
    event, expected = bench.end(number, 1), decide(method, logprobs, alone)
    assert event.chosen == expected.chosen
    assert event.scores == pytest.approx(expected.scores, abs=1e-9)
    assert event.probabilities == pytest.approx(expected.probabilities, abs=1e-9)
    for found, wanted in zip(event.option_logprobs, logprobs, strict=True):
        assert found == pytest.approx(wanted, abs=1e-9)
    plain = bench.submit(PREFIX + OPTIONS[expected.chosen] + " So ", greedy(2))
    bench.run()
    assert bench.tokens(number, 3) == bench.tokens(plain, 1)  # the chosen one's KV is there, whichever was kept
    bench.assert_all_free()


def test_a_draw_among_options_depends_on_the_seed_alone() -> None:
    drawn: list[list[int | None]] = []
    for chunk in (3, 512):
        bench = Bench(chunk_tokens=chunk)
        select = msgspec.structs.replace(bench.select(*OPTIONS), method="probability", temperature=50.0)
        numbers = [bench.submit(PREFIX, msgspec.structs.replace(select, seed=seed)) for seed in range(40)]
        bench.run()
        drawn.append([bench.final(number).chosen for number in numbers])
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) > 1
