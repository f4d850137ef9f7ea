"""Compiled programs on a backend that takes ops one by one: the same as interpreted, whatever happens."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import latticework as lw
from latticework.lang.backends.scripted import Answer, Reply
from latticework.lang.ir import Gen, Select


@dataclasses.dataclass
class City:
    name: str


@lw.function
def review(s: lw.State, text: str, tone: str = "kind") -> list[str]:
    """A review."""
    s += lw.system(f"Be {tone}.")
    with s.user():
        s += "Review: " + text
    s += lw.assistant(lw.gen("draft"))
    forks = s.fork(2)
    for index, fork in enumerate(forks):
        fork += lw.user(f"{index}: better than {fork['draft']}?")
        fork += lw.assistant(lw.gen("better"))
    forks.join()
    s["both"] = " or ".join(s["better"])
    s["count"] = 2
    s += lw.user(s["both"])
    s += lw.assistant(lw.select("verdict", ["good", "bad"]))
    return [s["verdict"], text]


def echo(prompt: str, op: Gen | Select) -> Answer:
    return "bad" if isinstance(op, Select) else f"<{op.name} after {len(prompt)}>"


def everything(state: lw.State) -> tuple[Any, ...]:
    values = {name: state[name] for name in state.variables()}
    return state.text(), state.messages(), values, state.ret_value, state.usage(), state.seed, state.item


def test_a_compiled_run_is_the_interpreted_one() -> None:
    with lw.Scripted(echo) as backend:
        interpreted = review.run("fine", backend=backend, seed=5)
        compiled = review.compile().run("fine", backend=backend, seed=5)
    assert everything(compiled) == everything(interpreted)
    assert compiled.meta("verdict").seed == interpreted.meta("verdict").seed
    assert compiled["count"] == 2
    assert [done.seed for done in compiled.meta("better")] == [done.seed for done in interpreted.meta("better")]
    assert backend.opened == backend.closed == 2


def test_a_compiled_run_waits_once() -> None:
    with lw.Scripted(echo, delay=0.02) as backend:
        assert review.compile().run("fine", backend=backend).waits == 1
        assert review.run("fine", backend=backend).waits > 1


def test_constants_are_chosen_when_compiling() -> None:
    with lw.Scripted(echo) as backend:
        state = review.compile(tone="harsh").run(text="fine", backend=backend)
        assert "Be harsh." in state.text()
        compiled = review.compile()
        with pytest.raises(lw.InvalidArgument, match="tone is a constant") as caught:
            compiled.run("fine", tone="harsh", backend=backend)
    assert "f.compile(tone=…)" in str(caught.value)


def test_only_what_the_call_gives_is_asked_for() -> None:
    compiled = review.compile(text="fixed")
    assert compiled.arguments == ()
    with lw.Scripted(echo) as backend:
        assert "Review: fixed" in compiled.run(backend=backend).text()


@pytest.mark.parametrize(
    ("value", "text"), [("a", "a"), (5, "5"), (1.5, "1.5"), (True, "True"), (None, "None"), ([1, "b"], "[1, 'b']")]
)
def test_plain_values_go_as_their_text(value: Any, text: str) -> None:
    with lw.Scripted(echo) as backend:
        assert f"Review: {text}" in review.compile().run(value, backend=backend).text()


@pytest.mark.parametrize("value", [object(), City("x"), {1, 2}, b"bytes", [object()], lw.gen("x"), "\ud800"])
def test_other_values_are_refused_by_name(value: Any) -> None:
    with lw.Scripted(echo) as backend:
        with pytest.raises(lw.InvalidArgument) as caught:
            review.compile().run(value, backend=backend)
        assert backend.opened == 0
    assert caught.value.field == "text"


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "missing a required argument: 'text'"),
        (("a", "b"), {}, "too many positional"),
        (("a",), {"nope": 1}, "unexpected keyword argument 'nope'"),
        (("a",), {"priority": "high"}, "priority is 'high'"),
        (("a",), {"max_total_tokens": 0}, "max_total_tokens is 0"),
        (("a",), {"timeout": -1}, "timeout is -1"),
    ],
)
def test_wrong_arguments_are_refused_at_once(args: tuple[Any, ...], kwargs: dict[str, Any], message: str) -> None:
    with lw.Scripted(echo) as backend:
        with pytest.raises(lw.InvalidArgument, match=message):
            review.compile().run(*args, **kwargs, backend=backend)
        assert backend.opened == 0


def test_a_backend_without_priorities_says_so_before_anything_is_sent() -> None:
    with lw.Scripted(echo) as backend:
        with pytest.raises(lw.Unsupported, match="priorities"):
            review.compile().run("a", priority=1, backend=backend)
        assert backend.opened == 0


def test_typed_values_decode_as_in_any_run() -> None:
    @lw.function
    def program(s: lw.State, word: str) -> None:
        s += word + lw.gen("city", schema=City)
        s += s["city"] + lw.gen("again", schema=City)

    with lw.Scripted({"city": '{"name": "Rome"}', "again": "no json"}) as backend:
        state = program.compile().run("w", backend=backend)
    assert state.value("city") == City("Rome")
    with pytest.raises(lw.InvalidValue, match="no json"):
        state.value("again")


def test_several_outputs_are_lists() -> None:
    @lw.function
    def program(s: lw.State) -> str:
        s += "a" + lw.gen("x", n=2)
        s += "|" + s["x"][1]
        return s["x"][1]

    with lw.Scripted(["one", "two"]) as backend:
        state = program.compile().run(backend=backend)
    assert (state["x"], state.text(), state.ret_value) == (["one", "two"], "aone|two", "two")


def test_a_program_that_draws_nothing_is_over_at_once() -> None:
    @lw.function
    def program(s: lw.State, word: str) -> str:
        s += f"<{word}>"
        return word

    with lw.Scripted() as backend:
        state = program.compile().run("w", backend=backend)
    assert (state.text(), state.ret_value, state.waits) == ("<w>", "w", 0)


def test_text_streams_as_it_grows() -> None:
    with lw.Scripted(echo, chunk=3) as backend:
        state = review.compile().stream("fine", backend=backend, seed=1)
        assert "".join(state.text_iter()) == state.text()
        assert "".join(state.text_iter("draft")) == state["draft"]


# ---------------------------------------------------------------- what goes wrong


@lw.function
def risky(s: lw.State, word: str) -> None:
    s += word + lw.gen("good")
    forks = s.fork(2)
    forks[0] += lw.gen("bad")
    forks[1] += "other " + lw.gen("fine")
    forks[1] += forks[0]["bad"] + lw.gen("never")
    s += lw.gen("after")


@pytest.mark.parametrize("wait", [True, False])
def test_a_failed_op_fails_what_needs_it_and_nothing_else(wait: bool) -> None:
    replies: dict[str, Answer] = {"good": "g", "bad": lw.Busy("no room"), "fine": "f", "never": "n", "after": "a"}
    with lw.Scripted(replies) as backend:
        compiled = risky.compile()
        if wait:
            with pytest.raises(lw.Busy, match="gen 'bad'"):
                compiled.run("w", backend=backend)
            return
        state = compiled.run("w", backend=backend, wait=False)
        with pytest.raises(lw.Busy, match="no room"):
            state.text(timeout=10)
        assert (state["good"], state["after"]) == ("g", "a")
        assert isinstance(state.error(), lw.Busy)
    assert sorted(asked[0] or "" for asked in backend.asked) == ["after", "bad", "fine", "good"]
    assert backend.opened == backend.closed


def test_what_a_failed_branch_would_have_forked_fails_those_who_wait_for_it() -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += "a"
        outer = s.fork(2)
        outer[0] += lw.gen("bad")
        (inner,) = outer[0].fork(1)
        inner += lw.gen("deep")
        outer[1] += inner["deep"] + lw.gen("never")

    with lw.Scripted({"bad": lw.Busy("no room"), "deep": "d", "never": "n"}) as backend, pytest.raises(lw.Busy):
        program.compile().run(backend=backend, timeout=20)


def test_a_deadline_ends_the_run() -> None:
    with lw.Scripted({"draft": Reply("x", delay=30.0)}) as backend:
        with pytest.raises(lw.DeadlineExceeded):
            review.compile().run("a", backend=backend, timeout=0.05)
        assert backend.opened == 1
    assert backend.closed == 1


def test_cancelling_ends_the_run_and_its_readers() -> None:
    with lw.Scripted({"draft": Reply("x", delay=30.0)}) as backend:
        state = review.compile().run("a", backend=backend, wait=False)
        state.cancel()
        with pytest.raises(lw.Cancelled):
            state.text(timeout=10)
        with pytest.raises(lw.Cancelled):
            state["draft"]
        state.cancel()
    assert backend.opened == backend.closed == 1


def test_more_tokens_than_were_given_end_the_run() -> None:
    with lw.Scripted(echo) as backend:
        with pytest.raises(lw.LimitExceeded, match="max_total_tokens"):
            review.compile().run("a", backend=backend, max_total_tokens=5)
        assert review.compile().run("a", backend=backend, max_total_tokens=10_000).error() is None


def test_a_backend_that_is_shut_down_fails_the_run() -> None:
    backend = lw.Scripted({"draft": Reply("x", delay=30.0)})
    state = review.compile().run("a", backend=backend, wait=False)
    backend.shutdown()
    with pytest.raises(lw.ConnectionLost):
        state.text(timeout=10)
    with pytest.raises(lw.ConnectionLost):
        review.compile().run("a", backend=backend)


# ---------------------------------------------------------------- many


def test_a_batch_keeps_the_order_and_gives_what_single_runs_give() -> None:
    compiled = review.compile()
    with lw.Scripted(echo) as backend:
        states = compiled.run_batch([{"text": f"t{i}"} for i in range(20)], backend=backend, seed=3, max_open=4)
        interpreted = review.run_batch([{"text": f"t{i}"} for i in range(20)], backend=backend, seed=3)
    assert [everything(state) for state in states] == [everything(state) for state in interpreted]


def test_a_batch_has_only_so_many_runs_open() -> None:
    open_now: list[int] = []

    def answer(prompt: str, op: Gen | Select) -> Answer:
        open_now.append(len(backend._open))
        return echo(prompt, op)

    with lw.Scripted(answer) as backend:
        review.compile().run_batch([{"text": str(i)} for i in range(30)], backend=backend, max_open=3)
    assert max(open_now) == 3


def test_a_failed_item_is_raised_when_all_are_over_or_stands_in_its_place() -> None:
    def answer(prompt: str, op: Gen | Select) -> Answer:
        return lw.Busy("no room") if "t1" in prompt else echo(prompt, op)

    items = [{"text": f"t{i}"} for i in range(3)]
    with lw.Scripted(answer) as backend:
        with pytest.raises(lw.Busy, match="no room"):
            review.compile().run_batch(items, backend=backend)
        first, second, third = review.compile().run_batch(items, backend=backend, return_exceptions=True)
    assert isinstance(second, lw.Busy)
    assert "t0" in first.text()
    assert "t2" in third.text()
    assert backend.opened == backend.closed == 6


@pytest.mark.parametrize(
    ("items", "options", "message"),
    [
        ([{"text": "a"}, {}], {}, "item 1: review.*missing"),
        (["a"], {}, "item 0 is a str"),
        ([{"text": "a"}], {"max_open": 0}, "max_open is 0"),
        ([{"text": "a"}], {"text": "b"}, "a batch takes no text"),
        ([{"text": "a"}], {"stream": True}, "a batch takes no stream"),
        ([{"text": "a", "tone": "b"}], {}, "item 0: tone is a constant"),
    ],
)
def test_a_wrong_batch_is_refused_before_anything_runs(items: Any, options: dict[str, Any], message: str) -> None:
    with lw.Scripted(echo) as backend:
        with pytest.raises(lw.InvalidArgument, match=message):
            review.compile().run_batch(items, **options, backend=backend)
        assert backend.opened == 0


def test_an_iterated_batch_takes_items_as_there_is_room_and_keeps_the_order() -> None:
    taken: list[int] = []

    def items() -> Iterator[dict[str, Any]]:
        for index in range(100):
            taken.append(index)
            yield {"text": f"t{index}"}

    with lw.Scripted(echo) as backend:
        states = review.compile().iter_batch(items(), backend=backend, seed=3, max_open=2)
        assert taken == []
        for index in range(5):
            assert f"Review: t{index}" in next(states).text()
        assert 5 <= len(taken) < 40
        states.close()  # type: ignore[attr-defined]
    assert backend.opened == backend.closed


def test_an_iterated_batch_raises_in_the_place_of_the_item() -> None:
    def answer(prompt: str, op: Gen | Select) -> Answer:
        return lw.Busy("no room") if "t1" in prompt else echo(prompt, op)

    items = [{"text": f"t{i}"} for i in range(3)]
    with lw.Scripted(answer) as backend:
        states = review.compile().iter_batch(items, backend=backend)
        assert "t0" in next(states).text()
        with pytest.raises(lw.Busy):
            next(states)
        kept: list[Any] = list(review.compile().iter_batch(items, backend=backend, return_exceptions=True))
        assert [isinstance(result, lw.Busy) for result in kept] == [False, True, False]
        states = review.compile().iter_batch([{"text": "a"}, {}], backend=backend)
        assert "Review: a" in next(states).text()
        with pytest.raises(lw.InvalidArgument, match="item 1"):
            next(states)
    assert backend.opened == backend.closed


def test_a_batch_shows_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with lw.Scripted(echo) as backend:
        review.compile().run_batch([{"text": "a"}] * 3, backend=backend, progress_bar=True)
    assert "review" in capsys.readouterr().err


def test_a_deadline_ends_the_items_of_a_batch_that_are_late() -> None:
    def answer(prompt: str, op: Gen | Select) -> Answer:
        return Reply("x", delay=30.0 if "t1" in prompt else 0.0) if isinstance(op, Gen) else "bad"

    items = [{"text": f"t{i}"} for i in range(3)]
    with lw.Scripted(answer) as backend:
        results: list[Any] = review.compile().run_batch(items, backend=backend, timeout=0.3, return_exceptions=True)
    assert [isinstance(result, lw.DeadlineExceeded) for result in results] == [False, True, False]


def test_an_empty_batch_is_empty() -> None:
    with lw.Scripted(echo) as backend:
        assert review.compile().run_batch([], backend=backend) == []


def test_neither_batches_nor_tasks_cost_threads() -> None:
    before = threading.active_count()
    seen: list[int] = []

    def answer(prompt: str, op: Gen | Select) -> Answer:
        seen.append(threading.active_count())
        return Reply("bad" if isinstance(op, Select) else "x", delay=0.01)

    compiled = review.compile()

    async def all_at_once(backend: lw.Scripted) -> list[lw.State]:
        return await asyncio.gather(*(compiled.arun(str(i), backend=backend) for i in range(200)))

    with lw.Scripted(answer) as backend:
        assert len(asyncio.run(all_at_once(backend))) == 200
        assert len(compiled.run_batch([{"text": str(i)} for i in range(200)], backend=backend)) == 200
    assert max(seen) == before + 1  # the scripted backend's own


def test_a_cancelled_task_cancels_its_run() -> None:
    async def cancel(backend: lw.Scripted) -> None:
        task = asyncio.create_task(review.compile().arun("a", backend=backend))
        while not backend.asked:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with lw.Scripted({"draft": Reply("x", delay=30.0)}) as backend:
        asyncio.run(asyncio.wait_for(cancel(backend), 20))
    assert backend.closed == 1


def test_a_task_has_its_deadline_and_its_errors() -> None:
    with lw.Scripted({"draft": Reply("x", delay=30.0)}) as backend, pytest.raises(lw.DeadlineExceeded):
        asyncio.run(review.compile().arun("a", backend=backend, timeout=0.05))
    with lw.Scripted({"draft": lw.Busy("no room")}) as backend, pytest.raises(lw.Busy, match="gen 'draft'"):
        asyncio.run(review.compile().arun("a", backend=backend))


def test_a_thousand_programs_at_once_cost_no_threads() -> None:
    @lw.function
    def three(s: lw.State, word: str) -> None:
        s += word + lw.gen("a") + "x" + lw.gen("b")
        s += s["a"] + lw.gen("c")

    compiled, before, seen = three.compile(), threading.active_count(), []

    def answer(prompt: str, op: Gen | Select) -> Answer:
        seen.append(threading.active_count())
        return Reply("y", delay=0.2)  # so that all are open when the first is answered

    async def all_at_once(backend: lw.Scripted) -> list[lw.State]:
        states = [compiled.arun(str(index), backend=backend) for index in range(1000)]
        return await asyncio.gather(*states)

    with lw.Scripted(answer) as backend:
        assert [state.text() for state in asyncio.run(all_at_once(backend))] == [f"{i}yxyyy" for i in range(1000)]
    assert max(seen) == before + 1


def test_the_program_of_the_docs_runs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "compiled.md").read_text()
    source = page.split("```python\n")[1].split("```")[0].split("compiled = ")[0]
    names: dict[str, Any] = {}
    code = compile(source, "compiled.md", "exec")
    FunctionType(code, names)()
    judge = names["judge"]
    with lw.Scripted(lambda prompt, op: f"<{op.name}>") as backend:
        interpreted = judge.run(essay="…", temperature=0, seed=1, backend=backend)
        compiled = judge.compile().run(essay="…", temperature=0, seed=1, backend=backend)
    assert everything(compiled) == everything(interpreted)
    assert compiled["point"] == ["<point>"] * 3


def test_a_program_is_called_from_many_threads() -> None:
    compiled = review.compile()
    texts: list[str] = []
    with lw.Scripted(echo) as backend:
        threads = [
            threading.Thread(target=lambda: texts.append(compiled.run("t", backend=backend).text())) for _ in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert len(texts) == 16
    assert len(set(texts)) == 1


# ---------------------------------------------------------------- looking


def test_the_ir_is_the_program_after_the_passes() -> None:
    @lw.function
    def program(s: lw.State, word: str) -> None:
        s += "a"
        s += "b"
        s += word
        s += lw.gen("x")

    compiled = program.compile()
    assert str(compiled.ir) == str(compiled) == 'program:\n    text "ab"\n    arg word\n    gen x'
    assert len(program.trace().branches[0].ops) == 4
    assert compiled.hash == program.compile().hash == compiled.ir.hash
    with lw.Scripted({"x": "c"}) as backend:
        assert compiled.run("W", backend=backend).program() == compiled.ir


def test_explain_says_what_each_pass_found() -> None:
    explanation = review.compile().explain()
    told = {section.title: "\n".join(section.lines) for section in explanation.sections}
    assert "5 ops with 16 characters, up to arg text" in told["constant prefix"]
    assert told["constraints"] == "none"
    assert explanation.requests == 4
    assert "held until branches 1, 2 have" not in told["leases"]  # the verdict continues from it later
    assert "1 2, the longest way to the end first" in told["order of branches"]
    assert str(explanation).startswith("fold constants\n    nothing to change\n")


def test_a_failing_run_tells_the_users_line() -> None:
    with lw.Scripted({"draft": lw.Busy("no room")}) as backend, pytest.raises(lw.Busy) as caught:
        review.compile().run("a", backend=backend)
    assert "test_compiled.py:" in str(caught.value)
