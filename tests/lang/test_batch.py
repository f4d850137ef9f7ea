"""run_batch: order, concurrency, seeds, errors, progress."""

import threading
from typing import Any

import pytest

import latticework as lw
from latticework.lang.backends.scripted import Reply


@lw.function
def shout(s: lw.State, text: str) -> None:
    s += text + lw.gen("x")


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


def test_a_thousand_runs_are_answered_by_one_thread() -> None:
    @lw.function
    def three(s: lw.State, n: int) -> None:
        s += f"{n}" + lw.gen("a") + lw.gen("b") + lw.gen("c")

    with lw.Scripted({"a": "1", "b": "2", "c": "3"}) as backend:
        states = three.run_batch([{"n": n} for n in range(1000)], backend=backend)
        assert [state.text() for state in states] == [f"{n}123" for n in range(1000)]
        assert threading.active_count() < 50
