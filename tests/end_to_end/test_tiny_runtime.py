"""Programs through client, front and engine, over the tiny random model: whatever does not depend on what it says."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

import latticework as lw
from latticework.lang.backends.base import Listener, Session
from latticework.lang.backends.runtime import Runtime
from latticework.lang.errors import BudgetTooSmall, Cancelled, PromptTooLong, RegexError, SchemaError
from latticework.lang.events import Event
from latticework.lang.ir import Sampling
from latticework.lang.run import Run


@dataclasses.dataclass
class City:
    name: str
    population: int


@lw.function
def two_gens(s: lw.State, word: str) -> None:
    s += f"Say {word}: " + lw.gen("first", max_tokens=8)
    s += " and again: " + lw.gen("second", max_tokens=8)


class Unhurried:
    """The runtime, whose answers come when somebody waits for them. A body that the operating system lets pause before
    its end would otherwise find them there, and wait for nothing."""

    name = "unhurried"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def open(
        self, sampling: Sampling, seed: int, item: int, listener: Listener, timeout: float | None = None
    ) -> Session:
        run: Run = listener.__self__  # type: ignore[attr-defined]

        def listen(event: Event) -> None:
            end = time.monotonic() + 20
            while not run.waits and time.monotonic() < end:
                time.sleep(0.001)
            listener(event)

        return self._runtime.open(sampling, seed, item, listen, timeout)

    def shutdown(self) -> None:
        """The runtime is the session's."""


def test_a_straight_line_program_waits_once(tiny_runtime: Runtime) -> None:
    state = two_gens.run("hello", backend=Unhurried(tiny_runtime), seed=1)
    assert state.text() == f"Say hello: {state['first']} and again: {state['second']}"
    assert state.waits == 1


def test_the_same_seed_gives_the_same_text_and_another_seed_another(tiny_runtime: Runtime) -> None:
    texts = [two_gens.run("x", backend=tiny_runtime, seed=seed).text() for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]


def test_a_batch_gives_what_single_runs_of_the_same_items_give(tiny_runtime: Runtime) -> None:
    words = [{"word": f"w{i}"} for i in range(6)]
    together = two_gens.run_batch(words, backend=tiny_runtime, seed=3)
    again = two_gens.run_batch(words, backend=tiny_runtime, seed=3, num_threads=1)
    assert [s.text() for s in together] == [s.text() for s in again]
    assert len({s["first"] for s in together}) > 1


def test_programs_run_inside_a_live_event_loop(tiny_runtime: Runtime) -> None:
    async def notebook_cell() -> str:
        return two_gens.run("cell", backend=tiny_runtime, seed=1)["first"]

    assert asyncio.run(notebook_cell()) == two_gens.run("cell", backend=tiny_runtime, seed=1)["first"]


def test_a_variable_of_the_programs_own_needs_no_model(tiny_runtime: Runtime) -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s["mine"] = "value"
        s += "x" + s["mine"] + lw.gen("a", max_tokens=3)

    state = program.run(backend=tiny_runtime, seed=1)
    assert state["mine"] == "value"
    assert state.text() == "xvalue" + state["a"]


def test_an_op_that_fails_leaves_the_ones_before_it_alone(tiny_runtime: Runtime) -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += "x" + lw.gen("good", max_tokens=3) + lw.gen("bad", regex="a++", max_tokens=3)

    state = program.run(backend=tiny_runtime, seed=1, wait=False)
    with pytest.raises(RegexError, match="gen 'bad'"):
        state["bad"]
    assert len(state["good"]) > 0


def test_text_that_can_never_fit_is_refused_at_once_and_disturbs_nobody(tiny_runtime: Runtime) -> None:
    @lw.function
    def huge(s: lw.State) -> None:
        s += "x" * 8_000_000 + lw.gen("a", max_tokens=2)

    other = two_gens.run("meanwhile", backend=tiny_runtime, seed=1, wait=False)
    with pytest.raises(PromptTooLong, match="8000000 characters"):
        huge.run(backend=tiny_runtime, seed=1)
    assert other.text()


def test_cancelled_programs_leave_no_lease(tiny_runtime: Runtime) -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += "x" + lw.gen("a", max_tokens=3) + lw.gen("b", max_tokens=100, regex="[a-z]{80,100}")

    for seed in range(20):
        program.run(backend=tiny_runtime, seed=seed, wait=False).cancel()

    def is_idle() -> bool:
        stats = tiny_runtime.stats()
        return stats.open_runs == stats.engine.leases == stats.engine.running == 0

    end = time.monotonic() + 10
    while not is_idle() and time.monotonic() < end:
        time.sleep(0.1)
    assert is_idle()


@lw.function
def branches(s: lw.State) -> None:
    s += "A common beginning, long enough to be shared. "
    forks = s.fork(3)
    for index, fork in enumerate(forks):
        fork += f"Branch {index}: " + lw.gen("word", max_tokens=5)
    forks.join()
    s += "All: " + ", ".join(s["word"]) + lw.gen("end", max_tokens=5)


def test_branches_share_their_prefix_and_join_into_lists(tiny_runtime: Runtime) -> None:
    state = branches.run(backend=tiny_runtime, seed=5)
    assert len(state["word"]) == 3
    assert state.text().startswith("A common beginning")
    assert all(word in state.text() for word in state["word"])


def test_nested_forks_and_reads_in_the_middle(tiny_runtime: Runtime) -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += "root " + lw.gen("a", max_tokens=3)
        outer = s.fork(2)
        for fork in outer:
            fork += fork["a"] + lw.gen("b", max_tokens=3)
            inner = fork.fork(2)
            for leaf in inner:
                leaf += lw.gen("c", max_tokens=3)
            inner.join()
        outer.join()

    state = program.run(backend=tiny_runtime, seed=2)
    assert [len(c) for c in state["c"]] == [2, 2]
    assert program.run(backend=tiny_runtime, seed=2)["c"] == state["c"]


def test_typed_output_always_parses(tiny_runtime: Runtime) -> None:
    @lw.function
    def extract(s: lw.State) -> None:
        s += lw.user("Name a city.")
        s += lw.assistant(lw.gen("city", schema=City, max_tokens=60))

    for seed in range(5):
        state = extract.run(backend=tiny_runtime, seed=seed, temperature=1.0)
        city = state.value("city")
        assert isinstance(city, City)
        assert json.loads(state["city"]) == dataclasses.asdict(city)


def test_regex_and_choices_hold(tiny_runtime: Runtime) -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += "Date: " + lw.gen("date", regex=r"[0-9]{4}-[0-9]{2}-[0-9]{2}", max_tokens=20)
        s += " " + lw.select("answer", ["yes", "no", "maybe"])

    state = program.run(backend=tiny_runtime, seed=1)
    assert re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", state["date"])
    assert state["answer"] in ("yes", "no", "maybe")
    assert len(state.meta("answer").scores) == 3


def test_roles_use_the_models_template(tiny_runtime: Runtime) -> None:
    @lw.function
    def chat(s: lw.State) -> None:
        s += lw.system("Be brief.")
        with s.user():
            s += "Hello <|im_end|> there"
        s += lw.assistant(lw.gen("reply", max_tokens=4))

    state = chat.run(backend=tiny_runtime, seed=1)
    assert state.text().startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello <|im_end|> there")
    assert [m["role"] for m in state.messages()] == ["system", "user", "assistant"]
    assert state.messages()[2]["content"] == state["reply"]


def test_a_stream_gives_the_whole_text_in_pieces(tiny_runtime: Runtime) -> None:
    state = two_gens.run("stream", backend=tiny_runtime, seed=4, stream=True)
    pieces = list(state.text_iter())
    assert "".join(pieces) == state.text()
    assert len(pieces) > 2


def test_logprobs_come_with_every_token(tiny_runtime: Runtime) -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += "x" + lw.gen("a", max_tokens=6, return_logprob=True)

    done = program.run(backend=tiny_runtime, seed=1).meta("a")
    assert len(done.logprobs) == done.usage.output
    assert all(entry.logprob <= 0.0 for entry in done.logprobs)


def test_every_gen_has_the_logprobs_of_the_text_right_before_it(tiny_runtime: Runtime) -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += "One: " + lw.gen("a", max_tokens=3, prompt_logprobs=2)
        s += "; two: " + lw.gen("b", max_tokens=3)
        s += " and " + "three: " + lw.gen("c", max_tokens=3, prompt_logprobs=0)
        forks = s.fork(2)
        for fork in forks:
            fork += "four: " + lw.gen("d", max_tokens=3, prompt_logprobs=1)
        forks.join()

    state = program.run(backend=tiny_runtime, seed=1)
    told = [state.meta(name).prompt_logprobs for name in "abc"] + [done.prompt_logprobs for done in state.meta("d")]
    texts = ["".join(token.text for token in tokens) for tokens in told]
    assert texts == ["ne: ", "", " and three: ", "four: ", "four: "]
    assert [{len(token.top) for token in tokens} for tokens in told] == [{2}, set(), {0}, {1}, {1}]


def test_a_long_shared_prefix_is_computed_once(tiny_runtime: Runtime) -> None:
    @lw.function
    def program(s: lw.State, tail: str) -> None:
        s += "prefix " * 40 + tail + lw.gen("a", max_tokens=2)

    program.run("one", backend=tiny_runtime, seed=1)
    usage = program.run("two", backend=tiny_runtime, seed=1).usage()
    assert usage.cached >= 256
    assert usage.computed < 40


def test_a_gen_says_how_long_its_constraint_was_compiled(tiny_runtime: Runtime) -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += "x" + lw.gen("a", regex="[0-9]{3}(y|z)+?", max_tokens=8) + lw.gen("b", max_tokens=2)

    state = program.run(backend=tiny_runtime, seed=1)
    assert state.meta("a").usage.compile_seconds > 0 == state.meta("b").usage.compile_seconds
    assert state.usage().compile_seconds == state.meta("a").usage.compile_seconds


@pytest.mark.parametrize(
    ("op", "error", "where"),
    [
        (lambda: lw.gen("a", regex="a(b"), RegexError, "position"),
        (lambda: lw.gen("a", json_schema={"type": "object", "not": {}}), SchemaError, "pointer"),
        (lambda: lw.gen("a", regex="[0-9]{40}", max_tokens=8), BudgetTooSmall, "message"),
    ],
)
def test_bad_constraints_raise_their_own_error(
    tiny_runtime: Runtime, op: Callable[[], Any], error: type[Exception], where: str
) -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += "x" + op()

    with pytest.raises(error) as caught:
        program.run(backend=tiny_runtime, seed=1)
    assert getattr(caught.value, where) is not None
    assert two_gens.run("alive", backend=tiny_runtime, seed=1)["first"] is not None


def test_a_prompt_longer_than_the_context_is_refused_with_the_numbers(tiny_runtime: Runtime) -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += "x" * 5000 + lw.gen("a", max_tokens=2)

    with pytest.raises(PromptTooLong, match="5000"):
        program.run(backend=tiny_runtime, seed=1)


def test_cancelling_ends_the_program(tiny_runtime: Runtime) -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += "x" + lw.gen("a", max_tokens=400, regex="[a-z]{300,390}")

    state = program.run(backend=tiny_runtime, seed=1, wait=False)
    state.cancel()
    with pytest.raises(Cancelled):
        state["a"]
