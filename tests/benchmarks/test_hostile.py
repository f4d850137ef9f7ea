"""The hostile run in short: every hostile request has a named outcome, and nothing is left behind."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.hostile import Plan, measure
from benchmarks.hostile_corpus import Hostile, corpus
from benchmarks.hostile_server import started
from latticework.lang.errors import LatticeworkError
from latticework.lang.ir import Constraint

SOME = (
    "regex: subset explosion",
    "regex: 60,000 groups",
    "stop_regex: 64",
    "choices: 10,000",
    "schema: 10,000 values",
    "schema: recursion without a base",
    "gbnf: cycle of nothing",
    "lark: left recursion",
    "after: 15 deep",
)


@pytest.mark.slow
def test_every_hostile_request_has_a_named_outcome_beside_free_streams() -> None:
    items = [item for item in corpus() if item.name in SOME]
    assert len(items) == len(SOME)
    with started("tiny", ["--kv-tokens", "4096", "--threads", "1"]) as server:
        plan = Plan(pairs=1, tokens=100, streams=2, senders=3, items=items, settle=1.2)
        report = asyncio.run(measure(server, "tiny", plan))
    assert [problem for problem in report.problems() if "answered after" not in problem] == []
    assert {one.name for one in report.attempts} == set(SOME)
    outcomes = {one.name: one.outcome for one in report.attempts if one.way == "link"}
    assert outcomes["regex: subset explosion"] == "answered"
    assert "`depth`" in outcomes["regex: 60,000 groups"]
    assert "no JSON value" in outcomes["schema: recursion without a base"]
    assert report.held["after"]["automata"] == 0


@pytest.mark.parametrize("item", corpus(), ids=lambda item: item.name)
def test_a_salted_constraint_is_another_one(item: Hostile) -> None:
    made: list[Constraint | None] = []
    for salt in (1, 2):
        try:
            made.append(item.constraint(salt))
        except LatticeworkError:
            return  # refused by the language itself
    assert made[0] != made[1] or (made[0] is None and item.stops(1) != item.stops(2))
