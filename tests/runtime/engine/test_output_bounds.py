"""min_tokens, ignore_eos and included stops in the engine, one scripted continuation each."""

from __future__ import annotations

from typing import Any

import pytest

from tests.runtime.engine.bench import (
    Bench,
    ScriptedRunner,
    byte_tokenizer,
    gen,
    greedy,
    merged_tokenizer,
    vocab_size_of,
)

END = byte_tokenizer().special["<|im_end|>"]


def scripted(said: list[int], prompt: bytes = b"ab") -> Bench:
    return Bench(runner=ScriptedRunner([*prompt, *said, *[0] * 20], vocab_size_of(byte_tokenizer())))


def test_no_end_token_is_drawn_before_min_tokens() -> None:
    bench = scripted([*b"cd", END, *b"ef", END])
    number = bench.submit("ab", greedy(9, min_tokens=4))
    bench.run()
    assert bench.data(number) == b"cd\0ef"  # where the end stood the next best came
    assert (bench.final(number).end, len(bench.tokens(number))) == ("stop", 5)


def test_stops_before_min_tokens_are_passed_by() -> None:
    bench = scripted(list(b"cdcdcdcd"))
    number = bench.submit("ab", greedy(8, min_tokens=3, stop=("cd",)))
    bench.run()
    assert (bench.data(number), bench.final(number).stopped_by) == (b"cd", "cd")
    number = bench.submit("ab", greedy(8, min_tokens=3, stop_token_ids=(ord("c"),)))
    bench.run()
    assert bench.data(number).startswith(b"\0")  # barred at first


def test_ignore_eos_goes_on_to_the_budget() -> None:
    bench = scripted([*b"cd", END, *b"e", END, END])
    number = bench.submit("ab", greedy(6, ignore_eos=True))
    bench.run()
    assert (bench.final(number).end, len(bench.tokens(number))) == ("length", 6)
    assert END not in bench.tokens(number)


def test_a_constraint_ends_before_min_tokens_where_it_leaves_nothing_else() -> None:
    bench = Bench()
    bench.define("fruit", "fig")
    for more in ({"min_tokens": 9}, {"ignore_eos": True}):
        number = bench.submit("ab", gen("fruit", "cut", max_tokens=9, **more))
        bench.run()
        assert (bench.data(number), bench.final(number).end, bench.final(number).complete) == (b"fig", "stop", True)


def test_min_tokens_goes_on_in_a_constraint_that_may_end() -> None:
    bench = Bench()
    bench.define("fruit", "a", "abcdef")
    number = bench.submit("ab", gen("fruit", max_tokens=9, min_tokens=3))
    bench.run()
    assert bench.data(number) == b"abcdef"


def test_an_included_stop_string_stays_whole_and_nothing_after_it() -> None:
    bench = scripted(list(b"c\nEndx"))
    number = bench.submit("ab", greedy(9, stop=("\nEnd",), include_stop=True), hold_lease=1)
    bench.run()
    final = bench.final(number)
    assert (final.end, final.stopped_by, bench.data(number)) == ("stop", "\nEnd", b"c\nEnd")
    assert bench.tokens(number) == list(b"c\nEnd")
    assert bench.engine.leases.get("a", 1).tokens == list(b"abc\nEnd")
    bench.engine.release("a", [1])
    bench.assert_all_free()


def test_an_included_stop_id_stays() -> None:
    bench = scripted(list(b"cdZe"))
    number = bench.submit("ab", greedy(9, stop_token_ids=(ord("Z"),), include_stop=True))
    bench.run()
    assert (bench.data(number), bench.tokens(number)) == (b"cdZ", list(b"cdZ"))


def test_an_included_stop_inside_a_token_leaves_its_bytes_to_what_follows() -> None:
    tokenizer = merged_tokenizer()
    token, spelled = next((t, b) for t, b in enumerate(tokenizer.token_bytes) if len(b) == 3 and t > 256)
    stop = spelled[:2].decode()
    prompt = tokenizer.encode("Q ")
    runner = ScriptedRunner([*prompt, token, *[0] * 20], vocab_size_of(tokenizer))
    bench = Bench(tokenizer, runner=runner)
    number = bench.submit("Q ", greedy(9, stop=(stop,), include_stop=True), hold_lease=1)
    bench.run()
    assert bench.data(number) == spelled[:2]
    assert bench.engine.leases.get("a", 1).carry == spelled[:2]
    bench.engine.check()


@pytest.mark.parametrize("include", [False, True])
def test_a_stop_in_a_constrained_gen_leaves_the_matcher_where_the_text_is(include: bool) -> None:
    bench = Bench()
    bench.define("word", "abcd", "ab")
    number = bench.submit("x", gen("word", max_tokens=9, stop=("ab",), include_stop=include))
    bench.run()
    final = bench.final(number)
    assert (bench.data(number), final.complete) == ((b"ab", True) if include else (b"", False))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"min_tokens": 10, "max_tokens": 9}, "min_tokens"),
        ({"logit_bias": ((5000, 1.0),)}, "logit_bias"),
        ({"stop_token_ids": (5000,)}, "stop_token_ids"),
    ],
)
def test_what_the_engine_refuses_names_the_field(fields: dict[str, Any], field: str) -> None:
    bench = Bench()
    number = bench.submit("ab", gen(**fields))
    bench.run()
    error = bench.final(number).error
    assert error is not None
    assert (error.type, error.field) == ("InvalidArgument", field)
