"""run_batch: order, concurrency, seeds, errors, progress."""

import gc
import itertools
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

import latticework as lw
from latticework.lang.backends.scripted import Reply


@lw.function
def shout(s: lw.State, text: str) -> None:
    s += text + lw.gen("x")


def all_closed(backend: lw.Scripted, opened: int) -> None:
    """So many runs were opened, and each is given up, as soon as the backend comes to it."""
    assert backend.opened == opened
    while backend.closed < opened:
        time.sleep(0.001)


def test_results_come_in_the_order_of_the_items() -> None:
    def script(prompt: str, op: object) -> Reply:
        return Reply(prompt.upper(), delay=0.001 * (10 - int(prompt)))

    with lw.Scripted(script) as backend:
        states = shout.run_batch([{"text": str(index)} for index in range(10)], backend=backend)
        assert [state["x"] for state in states] == [str(index) for index in range(10)]
        assert [state.item for state in states] == list(range(10))


def test_the_body_runs_exactly_once_an_item() -> None:
    calls: list[str] = []

    @lw.function
    def program(s: lw.State, text: str) -> None:
        calls.append(text)
        s += lw.gen("x")

    with lw.Scripted({"x": "a"}) as backend:
        program.run_batch([{"text": "a"}, {"text": "b"}], backend=backend)
        assert (sorted(calls), backend.opened, backend.closed <= 2) == (["a", "b"], 2, True)


@pytest.mark.parametrize("threads", [1, 3])
def test_no_more_runs_are_open_than_threads(threads: int) -> None:
    lock, open_now, most = threading.Lock(), 0, 0

    @lw.function
    def program(s: lw.State) -> None:
        nonlocal open_now, most
        with lock:
            open_now += 1
            most = max(most, open_now)
        s += lw.gen("x")
        s.wait()
        with lock:
            open_now -= 1

    with lw.Scripted({"x": Reply("a", delay=0.005)}) as backend:
        program.run_batch([{}] * 12, backend=backend, num_threads=threads)
    assert 1 <= most <= threads


def test_one_seed_serves_the_batch_and_each_item_draws_its_own() -> None:
    with lw.Scripted({"x": "a"}) as backend:
        items = [{"text": "same"}] * 3
        first, again = (shout.run_batch(items, backend=backend, seed=4) for _ in range(2))
        assert {state.seed for state in first} == {4}
        seeds = [state.meta("x").seed for state in first]
        assert len(set(seeds)) == 3
        assert seeds == [state.meta("x").seed for state in again]
        assert seeds[0] == shout.run("same", backend=backend, seed=4).meta("x").seed
        drawn = shout.run_batch(items, backend=backend)
        assert len({state.seed for state in drawn}) == 1


def test_run_settings_reach_every_item() -> None:
    with lw.Scripted({"x": "a"}) as backend:
        shout.run_batch([{"text": "a"}] * 2, backend=backend, max_tokens=5, temperature=0)
        assert {sampling for _, _, sampling in backend.asked} == {lw.Sampling(max_tokens=5, temperature=0)}


def test_the_first_items_error_is_raised_after_all_are_done() -> None:
    def script(prompt: str, op: object) -> Any:
        return lw.EngineDied(f"died on {prompt}") if prompt in "24" else prompt

    with lw.Scripted(script) as backend:
        items = [{"text": str(index)} for index in range(6)]
        with pytest.raises(lw.EngineDied, match="died on 2"):
            shout.run_batch(items, backend=backend)
        assert len(backend.asked) == 6
        results = shout.run_batch(items, backend=backend, return_exceptions=True)
    assert [isinstance(result, lw.EngineDied) for result in results] == [False, False, True, False, True, False]
    assert results[5]["x"] == "5"


def test_an_exception_of_a_body_is_collected_too() -> None:
    @lw.function
    def program(s: lw.State, n: int) -> None:
        s += str(1 / n)

    with lw.Scripted() as backend:
        with pytest.raises(ZeroDivisionError):
            program.run_batch([{"n": 1}, {"n": 0}], backend=backend)
        results = program.run_batch([{"n": 1}, {"n": 0}], backend=backend, return_exceptions=True)
    assert isinstance(results[1], ZeroDivisionError)


def test_an_exit_in_a_body_ends_the_batch_at_once() -> None:
    @lw.function
    def program(s: lw.State, n: int) -> None:
        s += lw.gen("x")
        if n == 1:
            raise SystemExit(3)
        s.wait()

    with lw.Scripted({"x": Reply("late", delay=3600.0)}) as backend, pytest.raises(SystemExit):
        program.run_batch([{"n": 0}, {"n": 1}, {"n": 2}], backend=backend)


@pytest.mark.parametrize(
    ("items", "settings", "message"),
    [
        ([{"text": "a"}, {"txt": "b"}], {}, "item 1: .*txt|item 1: .*text"),
        ([{"text": "a"}, "b"], {}, "item 1 is a str"),
        ([{"text": "a"}], {"num_threads": 0}, "num_threads"),
        ([{"text": "a"}], {"num_threads": "all"}, "num_threads"),
        ([{"text": "a"}], {"max_tokens": -1}, "max_tokens"),
        ([{"text": "a"}], {"stream": True}, "stream"),
        ([{"text": "a"}], {"wait": False}, "wait"),
        ([{}], {"text": "a"}, "text"),
    ],
)
def test_bad_items_and_settings_are_refused_before_anything_runs(
    items: list[Any], settings: dict[str, Any], message: str
) -> None:
    with lw.Scripted({"x": "a"}) as backend:
        with pytest.raises(lw.InvalidArgument, match=message):
            shout.run_batch(items, backend=backend, **settings)
        assert backend.opened == 0


def test_an_empty_batch_is_an_empty_list_and_starts_nothing() -> None:
    with lw.Scripted() as backend:
        assert shout.run_batch([], backend=backend, progress_bar=True) == []
        assert backend.opened == 0


def test_the_progress_bar_goes_to_stderr_and_ends_full(capsys: pytest.CaptureFixture[str]) -> None:
    with lw.Scripted({"x": "a"}) as backend:
        shout.run_batch([{"text": "a"}] * 5, backend=backend, progress_bar=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "5/5" in shown.err
    assert "tok/s" in shown.err
    assert "% cached" in shown.err


def test_a_thousand_runs_are_answered_by_one_thread() -> None:
    @lw.function
    def three(s: lw.State, n: int) -> None:
        s += f"{n}" + lw.gen("a") + lw.gen("b") + lw.gen("c")

    with lw.Scripted({"a": "1", "b": "2", "c": "3"}) as backend:
        states = three.run_batch([{"n": n} for n in range(1000)], backend=backend)
        assert [state.text() for state in states] == [f"{n}123" for n in range(1000)]
        assert threading.active_count() < 50


# ---------------------------------------------------------------- items, and results one by one


def test_an_item_may_be_a_tuple_of_arguments_in_order() -> None:
    @lw.function
    def program(s: lw.State, a: str, b: str = "b") -> None:
        s += a + b

    with lw.Scripted() as backend:
        states = program.run_batch([("1", "2"), ["3"], {"b": "5", "a": "4"}], backend=backend)
        assert [state.text() for state in states] == ["12", "3b", "45"]
        with pytest.raises(lw.InvalidArgument, match=r"item 1: .*too many positional"):
            program.run_batch([("1",), ("1", "2", "3")], backend=backend)


def test_a_generator_yields_each_state_in_order_as_soon_as_it_can() -> None:
    def script(prompt: str, op: object) -> Reply:
        return Reply(prompt, delay=3600.0 if prompt == "2" else 0.0)

    with lw.Scripted(script) as backend:
        items = [{"text": str(index)} for index in range(5)]
        states = shout.run_batch(items, backend=backend, generator_style=True)
        assert (next(states)["x"], next(states)["x"]) == ("0", "1")  # the third never comes
        states.close()  # type: ignore[attr-defined]
        all_closed(backend, 5)


@pytest.mark.parametrize("count", [2000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_generator_takes_items_as_there_is_room_and_keeps_no_run_that_was_given(count: int) -> None:
    taken = most_ahead = most_alive = given = 0
    alive: weakref.WeakSet[Any] = weakref.WeakSet()

    def items() -> Iterator[dict[str, str]]:
        nonlocal taken, most_ahead
        while True:  # endless
            taken += 1
            most_ahead = max(most_ahead, taken - given)
            yield {"text": f"{taken - 1}"}

    with lw.Scripted(lambda prompt, op: prompt) as backend:
        states = shout.run_batch(items(), backend=backend, generator_style=True, num_threads=16)
        for given, state in enumerate(itertools.islice(states, count), 1):
            assert state["x"] == str(given - 1)
            alive.add(state._run)
            if given % 500 == 0:
                gc.collect()
                most_alive = max(most_alive, len(alive))
        states.close()  # type: ignore[attr-defined]
    assert most_ahead <= 18
    assert most_alive <= 40


def test_a_generator_raises_a_failed_items_error_in_its_turn_and_cancels_the_rest() -> None:
    def script(prompt: str, op: object) -> Any:
        return {"0": "a", "1": lw.EngineDied("died")}.get(prompt, Reply("late", delay=3600.0))

    with lw.Scripted(script) as backend:
        items = [{"text": str(index)} for index in range(4)]
        states = shout.run_batch(items, backend=backend, generator_style=True)
        assert next(states)["x"] == "a"
        with pytest.raises(lw.EngineDied):
            next(states)
        all_closed(backend, 4)
        kept = shout.run_batch(items[:2], backend=backend, generator_style=True, return_exceptions=True)
        assert [isinstance(result, lw.EngineDied) for result in kept] == [False, True]


def test_a_generator_checks_a_list_before_anything_runs_and_an_iterator_as_it_comes() -> None:
    items = [{"text": "a"}, {"txt": "b"}]
    with lw.Scripted({"x": "a"}) as backend:
        with pytest.raises(lw.InvalidArgument, match="item 1"):
            shout.run_batch(items, backend=backend, generator_style=True)
        assert backend.opened == 0
        states = shout.run_batch(iter(items), backend=backend, generator_style=True, num_threads=1)
        assert next(states)["x"] == "a"
        with pytest.raises(lw.InvalidArgument, match="item 1"):
            next(states)


def test_what_an_iterator_of_items_raises_ends_the_batch() -> None:
    def items() -> Iterator[dict[str, str]]:
        yield {"text": "a"}
        raise OSError("no more")

    with lw.Scripted({"x": Reply("late", delay=3600.0)}) as backend:
        with pytest.raises(OSError, match="no more"):
            list(shout.run_batch(items(), backend=backend, generator_style=True))
        all_closed(backend, 1)


def test_bodies_that_wait_for_something_else_run_side_by_side() -> None:
    together = threading.Barrier(4, timeout=20)

    @lw.function
    def program(s: lw.State) -> None:
        together.wait()  # all four are in their bodies, or it breaks
        s += lw.gen("x")

    with lw.Scripted({"x": "a"}) as backend:
        assert len(program.run_batch([{}] * 8, backend=backend)) == 8
