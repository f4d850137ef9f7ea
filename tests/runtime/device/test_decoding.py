"""Decode steps on static buffers draw what the host draws: in float64, with the kernels' twins."""

from __future__ import annotations

import random
from typing import Any

import pytest

from latticework.lang.ir import Choices, Constraint, JsonSchema, Regex
from latticework.runtime.device.tables import TOO_LARGE
from tests.runtime.device.bench import DeviceBench, twins
from tests.runtime.engine.bench import gen, greedy, merged_tokenizer

pytestmark = pytest.mark.usefixtures("twins")
__all__ = ["twins"]

CONSTRAINTS: dict[str, Constraint] = {
    "date": Regex(r"[0-9]{4}-[0-9]{2}"),
    "letters": Regex(r"(a|bc)*x?"),
    "words": Choices(("fig", "figs", "apple", "apple pie")),
    "object": JsonSchema(
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {"a": {"type": "boolean"}, "b": {"enum": ["x", 1]}},
        }
    ),
    "open": JsonSchema({"type": "array", "items": {"type": ["array", "boolean"]}}),  # has no table
}
RULES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "plain": {"temperature": 1.5},
    "nucleus": {"temperature": 1.2, "top_p": 0.8, "min_p": 0.01},
    "few": {"temperature": 2.0, "top_k": 7},
    "penalised": {"temperature": 1.0, "repetition_penalty": 1.3, "frequency_penalty": 0.7, "presence_penalty": -0.5},
    "biased": {"temperature": 1.0, "logit_bias": ((65, 3.0), (97, -100.0)), "frequency_penalty": 0.1},
    "no end": {"temperature": 2.0, "ignore_eos": True, "min_tokens": 4, "stop_token_ids": (101, 32)},
    "told": {"temperature": 1.0, "logprobs": 3, "stop": ("a",)},
}


def answers(on: str, **options: Any) -> tuple[DeviceBench, list[Any]]:
    bench = DeviceBench(on, merged_tokenizer(), **options)
    for key, constraint in CONSTRAINTS.items():
        bench.constrain(key, constraint)
    numbers = []
    for seed, rule in enumerate(RULES.values()):
        numbers.append(bench.submit(f"{seed} says: ", gen(max_tokens=12, **{"seed": seed, **rule}), " and"))
        for key in CONSTRAINTS:
            fields = {"seed": seed, "max_tokens": 16 + seed, **rule, "stop_token_ids": ()}
            numbers.append(bench.submit(f"{key}: ", gen(key, "prefer_close", **fields), ", ", greedy(3)))
    bench.run()
    found = []
    for number in numbers:
        events = bench.events["a", number]
        said = [(e.segment, e.end, e.complete, e.stopped_by) for e in events if e.end is not None]
        found.append((bench.tokens(number), bench.data(number), said))
    bench.assert_all_free()
    return bench, found


@pytest.mark.parametrize("on", ["device", "overlapped"])
def test_every_rule_and_constraint_gives_the_hosts_tokens(on: str) -> None:
    bench, found = answers(on)
    _, expected = answers("host")
    assert found == expected
    stats = bench.engine.stats()
    assert stats.device_tokens - stats.surplus_tokens > 250
    assert (stats.surplus_tokens > 0) == (on == "overlapped")
    assert stats.host_tokens.keys() <= {"prompt", "shared prompt", TOO_LARGE}
    assert stats.host_tokens[TOO_LARGE] > 10


@pytest.mark.parametrize("on", ["device", "overlapped"])
def test_texts_are_closed_within_their_budget_on_the_device(on: str) -> None:
    pattern = Regex("([a-p]{2}-){1,30}(end|fin)")
    found = []
    for place in (on, "host"):
        bench = DeviceBench(place, merged_tokenizer())
        bench.constrain("key", pattern)
        numbers = [
            bench.submit(
                f"{seed}: ", gen("key", max_tokens=budget, temperature=1.0, seed=seed, logit_bias=((45, -2.0),))
            )
            for seed, budget in enumerate((6, 7, 8, 9, 13, 20, 31))
        ]
        bench.run()
        assert all(bench.final(number).complete for number in numbers)
        found.append([bench.data(number) for number in numbers])
        if place == on:
            assert bench.engine.stats().host_tokens.keys() <= {"prompt", "shared prompt"}
    assert found[0] == found[1]


@pytest.mark.slow
def test_fifty_constraints_give_the_host_matchers_tokens_in_the_engine() -> None:
    randomly = random.Random(7)

    def part(depth: int) -> str:
        kind = randomly.randrange(6) if depth else randomly.randrange(3)
        match kind:
            case 0:
                return "".join(randomly.choices("abcxyz019 -", k=randomly.randint(1, 3)))
            case 1:
                return randomly.choice(("[a-c]", "[0-9]", "[^a-z]", "\\w"))
            case 2:
                return f"({part(0)})" + randomly.choice(("?", "*", "+", "{1,3}"))
            case 3:
                return f"({part(depth - 1)}|{part(depth - 1)})"
            case 4:
                return f"({part(depth - 1)}){randomly.choice(('?', '*', '{2}'))}"
            case _:
                return part(depth - 1) + part(depth - 1)

    patterns = [part(3) + part(2) + "." for _ in range(50)]
    found = []
    for on in ("overlapped", "host"):
        bench = DeviceBench(on, merged_tokenizer(), table_bytes=64 << 20)
        for index, pattern in enumerate(patterns):
            bench.constrain(str(index), Regex(pattern))
        numbers = [
            bench.submit(
                f"{index}: ",
                gen(str(index), "prefer_close", max_tokens=14, seed=index, temperature=1.5 * (index % 2)),
            )
            for index in range(len(patterns))
        ]
        bench.run()
        found.append([bench.tokens(number) for number in numbers])
        if on == "overlapped":
            stats = bench.engine.stats()
            assert stats.device_tokens - stats.surplus_tokens > 150
            assert stats.host_tokens.keys() <= {"prompt", "shared prompt", TOO_LARGE}
    assert found[0] == found[1]
