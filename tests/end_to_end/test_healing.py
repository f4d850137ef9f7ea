"""Healed prompts through client, front and engine, over a real tokenizer, whichever way a program is run."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

import latticework as lw
from latticework.lang.backends.base import Listener, Session
from latticework.lang.backends.runtime import Runtime
from latticework.lang.ir import Gen, Sampling

pytestmark = pytest.mark.timeout(300)

PROMPT = "The page is at http:"


@lw.function
def link(s: lw.State, prompt: str, heal: bool = True) -> None:
    s += prompt + lw.gen("x", max_tokens=3, temperature=0, heal=heal, return_logprob=True)
    s += " and" + lw.gen("y", max_tokens=3, temperature=0)


class OpByOp:
    """The runtime as a backend that executes no programs."""

    name = "op by op"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def open(
        self, sampling: Sampling, seed: int, item: int, listener: Listener, timeout: float | None = None
    ) -> Session:
        return self._runtime.open(sampling, seed, item, listener, timeout)

    def shutdown(self) -> None:
        """The runtime is the session's."""


def test_the_token_across_the_boundary_is_drawn_and_the_text_is_whole(smollm2_runtime: Runtime) -> None:
    state = link.run(PROMPT, backend=smollm2_runtime, seed=1)
    first = state.meta("x").logprobs[0]
    assert first.text == "://"
    assert state["x"].startswith("//")
    assert state.text() == PROMPT + state["x"] + " and" + state["y"]
    assert first.logprob > link.run(PROMPT, heal=False, backend=smollm2_runtime, seed=1).meta("x").logprobs[0].logprob
    usage = state.meta("x").usage
    assert usage.output == len(state.meta("x").logprobs) == 3


def test_a_healed_program_says_the_same_in_every_way_to_run_it(smollm2_runtime: Runtime) -> None:
    compiled = link.compile(heal=True)
    assert "heal=True" in str(compiled.ir)
    whole = link.run(PROMPT, backend=smollm2_runtime, seed=1).text()
    ways: list[Callable[[], lw.State]] = [
        lambda: compiled.run(PROMPT, backend=smollm2_runtime, seed=1),
        lambda: compiled.run(PROMPT, backend=OpByOp(smollm2_runtime), seed=1),
        lambda: asyncio.run(link.arun(PROMPT, backend=smollm2_runtime, seed=1)),
        lambda: compiled.run_batch([{"prompt": PROMPT}] * 3, backend=smollm2_runtime, seed=1)[2],
    ]
    assert [way().text() for way in ways] == [whole] * len(ways)
    with lw.connect(smollm2_runtime.address) as remote:
        assert compiled.run(PROMPT, backend=remote, seed=1).text() == whole
        assert link.run(PROMPT, backend=remote, seed=1).text() == whole


@pytest.mark.parametrize("is_compiled", [True, False])
def test_branches_and_several_outputs_heal_the_text_they_share(smollm2_runtime: Runtime, is_compiled: bool) -> None:
    gen = lw.gen("x", max_tokens=3, temperature=0, heal=True, return_logprob=True)

    @lw.function
    def forked(s: lw.State) -> None:
        s += PROMPT
        forks = s.fork(2)
        forks += gen
        forks.join()

    @lw.function
    def several(s: lw.State) -> None:
        s += PROMPT + lw.gen("x", max_tokens=3, temperature=0, heal=True, return_logprob=True, n=2)

    whole = link.run(PROMPT, backend=smollm2_runtime, seed=1)["x"]
    for program in (forked, several):
        runnable: Any = program.compile() if is_compiled else program
        state = runnable.run(backend=smollm2_runtime, seed=1)
        assert state["x"] == [whole] * 2
        assert [meta.logprobs[0].text for meta in state.meta("x")] == ["://"] * 2


def test_a_constraint_begins_behind_what_is_healed(smollm2_runtime: Runtime) -> None:
    @lw.function
    def constrained(s: lw.State) -> None:
        s += PROMPT + lw.gen("x", regex=r"//[a-z]{3,12}\.(com|org)", heal=True, max_tokens=16)

    states = [constrained.run(backend=smollm2_runtime, seed=seed, temperature=0.8) for seed in range(4)]
    for state in states:
        assert re.fullmatch(r"//[a-z]{3,12}\.(com|org)", state["x"])
        assert state.meta("x").complete


def test_a_templates_markers_and_generated_text_are_never_taken_back(smollm2_runtime: Runtime) -> None:
    @lw.function
    def chat(s: lw.State, heal: bool) -> None:
        s += lw.user("Say hello.") + lw.assistant(lw.gen("x", max_tokens=4, heal=heal))
        s += lw.gen("y", max_tokens=2, heal=heal) + lw.gen("z", max_tokens=2, heal=heal)

    texts = [chat.run(heal, backend=smollm2_runtime, seed=3).text() for heal in (True, False)]
    assert texts[0] == texts[1]


# ---------------------------------------------------------------- where there is nothing to heal


def test_other_backends_refuse_before_anything_is_sent() -> None:
    with lw.Scripted({"x": "a", "y": "b"}) as backend:
        with pytest.raises(lw.Unsupported, match="heal"):
            link.run(PROMPT, backend=backend)
        with pytest.raises(lw.Unsupported, match="heal"):
            link.compile(heal=True).run(PROMPT, backend=backend)
        assert backend.asked == []


def test_a_select_and_what_is_no_flag_are_refused_at_once() -> None:
    with pytest.raises(lw.InvalidArgument, match="heal"):
        lw.gen("x", choices=["a", "b"], heal=True)
    with pytest.raises(lw.InvalidArgument, match="heal is 1"):
        lw.gen("x", heal=1)  # type: ignore[arg-type]


def test_a_raw_prompt_is_taken_as_it_is_and_says_so(tiny_runtime: Runtime) -> None:
    heard: list[Any] = []
    told = threading.Event()

    def hear(event: Any) -> None:
        heard.append(event)
        told.set()

    gen = Gen(sampling=Sampling(max_tokens=2, seed=1), heal=True)
    session = tiny_runtime.generate("ab:", gen, hear, 30.0)
    assert told.wait(30)
    session.close()
    assert (heard[0].error.type, heard[0].error.field) == ("Unsupported", "heal")
