"""Random programs, compiled and interpreted, say the same; and nothing of them is left in the engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import latticework as lw
from latticework.lang.backends.runtime import Runtime
from latticework.lang.events import Done

Act = Callable[[lw.State, dict[str, str]], None]
NAMES = ("x", "y", "z")
MAX_DEPTH = 2


class Plan:
    """What a branch does, and what it knows when it has: a text, or a list of something."""

    def __init__(self, known: dict[str, str]) -> None:
        self.acts: list[Act] = []
        self.known = dict(known)
        self.own: set[str] = set()

    def set(self, name: str, kind: str) -> None:
        self.known[name] = kind
        self.own.add(name)

    def run(self, s: lw.State, arguments: dict[str, str]) -> None:
        for act in self.acts:
            act(s, arguments)


def first_text(value: Any) -> str:
    """Some text of a variable: itself, or the last in a list, which may be of lists."""
    while isinstance(value, list):
        value = value[-1]
    return value


@st.composite
def gens(draw: st.DrawFn) -> tuple[dict[str, Any], str]:
    options: dict[str, Any] = {"max_tokens": draw(st.integers(1, 5))}
    if draw(st.booleans()):
        options["temperature"] = draw(st.sampled_from([0.0, 0.7]))
    constraint = draw(st.sampled_from(["none", "none", "regex", "closed", "json", "stop", "n"]))
    match constraint:
        case "regex":
            options["regex"] = "[a-f]+( [0-9])?"
        case "closed":
            options |= {"regex": "(yes|no|maybe)", "max_tokens": 20}
        case "json":
            options |= {"json_schema": {"enum": [True, [1, 2], "a"]}, "max_tokens": 20}
        case "stop":
            options["stop"] = ["a", "e", "t", " "]
        case "n":
            options["n"] = 2
    return options, "list" if constraint == "n" else "text"


@st.composite
def plans(draw: st.DrawFn, known: dict[str, str], depth: int = 0, in_role: bool = False) -> Plan:
    plan = Plan(known)
    for _ in range(draw(st.integers(1, 5))):
        kinds = ["text", "argument", "gen", "gen", "select", "read", "set", "role", "fork"]
        kind = draw(st.sampled_from(kinds))
        if kind == "text":
            add_text(plan, draw(st.sampled_from([" and ", "é, ", "12", "\n", "<|im_end|>"])))
        elif kind == "argument":
            add_argument(plan, draw(st.sampled_from(["p", "q"])), draw(st.booleans()))
        elif kind == "gen":
            options, result = draw(gens())
            add_gen(plan, draw(st.none() | st.sampled_from(NAMES)), options, result)
        elif kind == "select":
            add_select(plan, draw(st.sampled_from(NAMES)), draw(st.sampled_from([["a", "bc"], ["yes", "no", "x"]])))
        elif kind == "read" and plan.known:
            add_read(plan, draw(st.sampled_from(sorted(plan.known))))
        elif kind == "set" and plan.known:
            add_set(plan, draw(st.sampled_from(NAMES)), draw(st.sampled_from(sorted(plan.known))))
        elif kind == "role" and not in_role:
            add_role(plan, draw(plans(plan.known, depth, True)))
        elif kind == "fork" and depth < MAX_DEPTH:
            children = draw(st.lists(plans(plan.known, depth + 1, in_role), min_size=1, max_size=3))
            add_fork(plan, children, draw(st.booleans()), draw(st.booleans()))
    return plan


def add_text(plan: Plan, text: str) -> None:
    def act(s: lw.State, arguments: dict[str, str]) -> None:
        s += text

    plan.acts.append(act)


def add_argument(plan: Plan, name: str, formatted: bool) -> None:
    def act(s: lw.State, arguments: dict[str, str]) -> None:
        s += f"[{arguments[name]}]" if formatted else arguments[name]

    plan.acts.append(act)


def add_gen(plan: Plan, name: str | None, options: dict[str, Any], kind: str) -> None:
    def act(s: lw.State, arguments: dict[str, str]) -> None:
        s += lw.gen(name, **options)

    plan.acts.append(act)
    if name is not None:
        plan.set(name, kind)


def add_select(plan: Plan, name: str, options: list[str]) -> None:
    def act(s: lw.State, arguments: dict[str, str]) -> None:
        s += lw.select(name, options)

    plan.acts.append(act)
    plan.set(name, "text")


def add_read(plan: Plan, name: str) -> None:
    def act(s: lw.State, arguments: dict[str, str]) -> None:
        s += "{" + first_text(s[name]) + "}"

    plan.acts.append(act)


def add_set(plan: Plan, name: str, source: str) -> None:
    def act(s: lw.State, arguments: dict[str, str]) -> None:
        s[name] = f"{first_text(s[source])};{arguments['p']}"

    plan.acts.append(act)
    plan.set(name, "text")


def add_role(plan: Plan, inner: Plan) -> None:
    def act(s: lw.State, arguments: dict[str, str]) -> None:
        with s.user():
            s += "r"
            inner.run(s, arguments)

    plan.acts.append(act)
    for name in inner.own:
        plan.set(name, inner.known[name])


def add_fork(plan: Plan, children: list[Plan], is_read: bool, is_joined: bool) -> None:
    def act(s: lw.State, arguments: dict[str, str]) -> None:
        forks = s.fork(len(children))
        for fork, child in zip(forks, children, strict=True):
            child.run(fork, arguments)
        if is_read:
            for fork, child in zip(forks, children, strict=True):
                for name in sorted(child.own)[:1]:
                    s += "|" + first_text(fork[name])
        if is_joined:
            forks.join()

    plan.acts.append(act)
    if is_joined:
        for child in children:
            for name in child.own:
                plan.set(name, "list")


def outcome(state: lw.State) -> tuple[Any, ...]:
    """All that a run has said, branch by branch."""
    branches = [
        ("".join(slot.text for slot in branch.slots), [told(slot.done) for slot in branch.slots if slot.done])
        for branch in state._run.branches
    ]
    return branches, state.text(), state.messages(), {name: state[name] for name in state.variables()}, state.ret_value


def told(done: Done) -> tuple[Any, ...]:
    samples = tuple(told(sample) for sample in done.samples)
    scores = tuple(round(score, 9) for score in done.scores)  # the last bits depend on the shape of a batch
    return done.text, done.finish, done.complete, done.stopped_by, scores, done.seed, samples


def run_both(runtime: Runtime, plan: Plan, temperature: float, seed: int, patience: float | None) -> None:
    """patience: seconds after which one more run of each kind is cancelled."""

    @lw.function
    def program(s: lw.State, p: str, q: str) -> str:
        s += "Begin. "
        plan.run(s, {"p": p, "q": q})
        return f"{len(plan.known)} {p}"

    given: dict[str, Any] = {"p": "first é", "q": "second", "temperature": temperature, "seed": seed}
    interpreted = program.run(**given, backend=runtime, timeout=60)
    compiled = program.compile().run(**given, backend=runtime, timeout=60)
    assert outcome(compiled) == outcome(interpreted)
    assert compiled.waits <= 1
    if patience is None:
        return
    for kind in (program.compile(), program):
        state = kind.run(**given, backend=runtime, timeout=60, wait=False)
        time.sleep(patience)
        state.cancel()
        state.cancel()
        assert state.error() is None or isinstance(state.error(), lw.Cancelled)
        if state.error() is None:  # it was over before
            assert outcome(state) == outcome(compiled)


def is_idle(runtime: Runtime) -> bool:
    stats = runtime.stats()
    engine = stats.engine
    pages = engine.pages_free == engine.pages_total
    return pages and not (stats.open_runs or stats.open_requests or engine.leases or engine.running or engine.waiting)


def wait_until_idle(runtime: Runtime) -> None:
    """Nothing runs, no lease is held, and once what is cached goes every page is free. A program that forks text nobody
    continues from has a request under way when it ends: once is not enough."""
    end = time.monotonic() + 20
    idle = 0
    while idle < 2 and time.monotonic() < end:
        runtime.flush_cache()
        idle = idle + 1 if is_idle(runtime) else 0
        time.sleep(0.02)
    assert idle == 2, runtime.stats()


seeded = st.tuples(st.sampled_from([0.0, 1.0]), st.integers(0, 1000), st.none() | st.sampled_from([0.0, 0.005, 0.02]))
unhurried = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=24, derandomize=True)


@unhurried
@given(plan=plans({}), how=seeded)
def check_some(runtime: Runtime, plan: Plan, how: tuple[float, int, float | None]) -> None:
    run_both(runtime, plan, *how)


@settings(unhurried, max_examples=500, derandomize=False)
@given(plan=plans({}), how=seeded)
def check_many(runtime: Runtime, plan: Plan, how: tuple[float, int, float | None]) -> None:
    run_both(runtime, plan, *how)
    wait_until_idle(runtime)


def test_compiled_and_interpreted_programs_say_the_same_and_leave_nothing(tiny_runtime: Runtime) -> None:
    check_some(tiny_runtime)
    wait_until_idle(tiny_runtime)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_compiled_and_interpreted_programs_say_the_same_and_leave_nothing(tiny_runtime: Runtime) -> None:
    check_many(tiny_runtime)
