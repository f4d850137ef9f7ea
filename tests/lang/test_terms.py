"""A run's own terms: priority, a limit on tokens, a deadline, in every way to run a program."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

import latticework as lw
from latticework.lang.backends.base import Listener
from latticework.lang.backends.calls import Terms
from latticework.lang.backends.scripted import Reply
from latticework.lang.events import Done, Spent, Usage
from latticework.lang.ir import Gen, Op, Sampling

pytestmark = pytest.mark.timeout(60)


@lw.function
def program(s: lw.State) -> None:
    s += "p" + lw.gen("a")
    s += lw.gen("b")


@lw.function
async def asynchronous(s: lw.AsyncState) -> None:
    s += "p" + lw.gen("a")
    s += lw.gen("b")


RUNS: list[Callable[..., Any]] = [
    program.run,
    program.compile().run,
    lambda **settings: asyncio.run(program.arun(**settings)),
    lambda **settings: asyncio.run(asynchronous.arun(**settings)),
    lambda **settings: program.run_batch([{}], **settings)[0],
    lambda **settings: program.compile().run_batch([{}], **settings)[0],
]
NAMES = ["run", "compiled", "arun", "async body", "batch", "compiled batch"]


@pytest.mark.parametrize("run", RUNS, ids=NAMES)
def test_a_run_that_draws_more_than_it_was_given_fails_by_name(run: Callable[..., Any]) -> None:
    with lw.Scripted({"a": "12345", "b": "67"}) as backend:
        assert run(backend=backend, max_total_tokens=7).text() == "p1234567"
        with pytest.raises(lw.LimitExceeded, match="more tokens than max_total_tokens") as caught:
            run(backend=backend, max_total_tokens=6)
        assert caught.value.field == "max_total_tokens"
    assert backend.opened == backend.closed == 2


def test_nothing_more_is_asked_for_once_the_limit_is_passed() -> None:
    @lw.function
    def reading(s: lw.State) -> None:
        s += "p" + lw.gen("a")
        if s["a"]:
            s += lw.gen("b")

    with lw.Scripted({"a": "12345", "b": "67"}) as backend:
        with pytest.raises(lw.LimitExceeded):
            reading.run(backend=backend, max_total_tokens=4)
        assert [name for name, _, _ in backend.asked] == ["a"]


@pytest.mark.parametrize("run", RUNS, ids=NAMES)
def test_a_backend_without_priorities_refuses_one_before_anything_is_sent(run: Callable[..., Any]) -> None:
    with lw.Scripted({"a": "1", "b": "2"}) as backend:
        assert run(backend=backend, priority=0).text() == "p12"
        opened = backend.opened
        with pytest.raises(lw.Unsupported, match="priorities"):
            run(backend=backend, priority=3)
        assert backend.opened == opened


@pytest.mark.parametrize("run", RUNS, ids=NAMES)
def test_a_run_that_takes_longer_than_it_was_given_fails_by_name(run: Callable[..., Any]) -> None:
    with lw.Scripted({"a": Reply("late", delay=3600.0), "b": ""}) as backend, pytest.raises(lw.DeadlineExceeded):
        run(backend=backend, timeout=0.05)


@pytest.mark.parametrize("run", RUNS, ids=NAMES)
@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"priority": "high"}, "priority"),
        ({"priority": 1001}, "priority"),
        ({"priority": True}, "priority"),
        ({"max_total_tokens": 0}, "max_total_tokens"),
        ({"max_total_tokens": 1.5}, "max_total_tokens"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": "soon"}, "timeout"),
    ],
)
def test_terms_that_cannot_be_are_named(run: Callable[..., Any], settings: dict[str, Any], field: str) -> None:
    with lw.Scripted({"a": "1", "b": "2"}) as backend:
        with pytest.raises(lw.InvalidArgument, match=field) as caught:
            run(backend=backend, **settings)
        assert caught.value.field == field
        assert backend.opened == 0


def test_a_programs_own_parameters_of_these_names_are_its_own() -> None:
    @lw.function
    def own(s: lw.State, priority: str, max_total_tokens: int) -> str:
        return f"{priority} {max_total_tokens}"

    with lw.Scripted() as backend:
        assert own.run("high", max_total_tokens=0, backend=backend).ret_value == "high 0"


class Noting:
    """A backend that is told all terms, and answers every gen with its name. spent: what it tells of besides."""

    name = "noting"

    def __init__(self, spent: Usage | None = None) -> None:
        self.spent = spent
        self.terms: list[Terms] = []

    def open(
        self, sampling: Sampling, seed: int, item: int, listener: Listener, timeout: float | None = None
    ) -> Noting:
        raise AssertionError("it is opened with all terms")

    def open_run(self, terms: Terms, listener: Listener) -> Noting:
        self.terms.append(terms)
        self.listener = listener
        return self

    def append(self, branch: int, first: int, ops: Sequence[Op]) -> None:
        if self.spent is not None:
            self.listener(Spent(branch, self.spent))
        for position, op in enumerate(ops, first):
            if isinstance(op, Gen):
                self.listener(Done(branch, position, str(op.name), "stop", usage=Usage(prompt=2, output=1)))

    def close(self) -> None:
        """Nothing is held."""

    def shutdown(self) -> None:
        """Nothing was started."""


@pytest.mark.parametrize("run", RUNS, ids=NAMES)
def test_a_backend_that_knows_them_is_told_all_terms(run: Callable[..., Any]) -> None:
    backend = Noting()
    settings = {"priority": 4, "max_total_tokens": 9, "timeout": 30.0, "seed": 7, "temperature": 0.0}
    assert run(backend=backend, **settings).text() == "pab"
    wanted = Terms(sampling=Sampling(temperature=0.0), seed=7, item=0, timeout=30.0, priority=4, max_total_tokens=9)
    assert [msgspec.structs.replace(terms, chunks=True) for terms in backend.terms] == [wanted]


def test_usage_has_what_no_op_tells_of() -> None:
    @lw.function
    def straight(s: lw.State) -> None:
        s += "p" + lw.gen("a") + lw.gen("b")

    state = straight.run(backend=Noting(Usage(prompt=5, computed=5)))
    assert (state.usage().prompt, state.usage().computed, state.usage().output) == (9, 5, 2)
    assert (state.meta("a").usage.prompt, state.get_meta_info("b")["prompt_tokens"]) == (2, 2)
