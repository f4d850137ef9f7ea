"""A request is a chain: text, gens and selects in one sequence."""

from __future__ import annotations

import pytest

from latticework.runtime.request import TextSegment
from latticework.runtime.schedule.plan import Plan
from latticework.runtime.text.tokenizer import Tokenizer
from tests.runtime.engine.bench import (
    Bench,
    ScriptedRunner,
    byte_tokenizer,
    gen,
    greedy,
    merged_tokenizer,
    vocab_size_of,
)


def token(tokenizer: Tokenizer, data: bytes) -> int:
    return tokenizer.token_bytes.index(data)


def scripted(prompt: list[int], continuation: list[int], tokenizer: Tokenizer, **options: object) -> Bench:
    """An engine whose model writes `continuation` after `prompt`, and full stops for ever after."""
    script = prompt + continuation + [ord(".")] * 64
    return Bench(tokenizer, ScriptedRunner(script, vocab_size_of(tokenizer)), **options)


def test_a_chain_of_gens_equals_separate_requests() -> None:
    bench = Bench()
    whole = bench.submit("Name: ", greedy(6), " Age: ", gen(max_tokens=4, seed=3), " End", hold_lease=1)
    bench.run()
    first = bench.submit("Name: ", greedy(6), hold_lease=2)
    bench.run()
    second = bench.submit(" Age: ", gen(max_tokens=4, seed=3), parent_lease=2)
    bench.run()
    assert bench.tokens(whole, 1) == bench.tokens(first, 1)
    assert bench.tokens(whole, 3) == bench.tokens(second, 1)
    assert [bench.end(whole, s).end for s in (1, 3)] == ["length", "length"]
    final = bench.final(whole)
    assert (final.segment, final.end, final.tokens) == (4, "text", ())
    text = b"Name: " + bench.data(whole, 1) + b" Age: " + bench.data(whole, 3) + b" End"
    assert bytes(bench.engine.leases.get("a", 1).tokens) == text


def test_a_gen_that_ends_the_chain_has_the_final_event() -> None:
    bench = Bench()
    number = bench.submit("abc", greedy(3))
    bench.run()
    final = bench.final(number)
    assert (final.end, final.segment, final.complete) == ("length", 1, True)
    assert final.usage is not None
    assert (final.usage.prompt, final.usage.cached, final.usage.computed, final.usage.output) == (3, 0, 3, 3)


def test_the_second_request_finds_the_first_ones_prefix() -> None:
    bench = Bench()
    bench.submit("x" * 30, greedy(2))
    bench.run()
    number = bench.submit("x" * 30, greedy(2))
    bench.run()
    usage = bench.final(number).usage
    assert usage is not None
    assert (usage.prompt, usage.cached, usage.computed) == (30, 29, 1)  # token-exact, whatever the page size


def test_text_alone_computes_kv_for_it() -> None:
    bench = Bench()
    number = bench.submit("hold this text")
    bench.run()
    assert bench.final(number).end == "text"
    assert bench.engine.tree.peek(list(b"hold this text")) == len("hold this text")


def test_an_empty_chain_ends_at_once() -> None:
    bench = Bench()
    number = bench.submit(hold_lease=1)
    bench.run()
    assert bench.final(number).end == "text"
    assert bench.engine.leases.get("a", 1).tokens == []


def test_an_end_token_ends_the_gen_and_is_not_kept() -> None:
    tokenizer = byte_tokenizer()
    end = tokenizer.special["<|im_end|>"]
    bench = scripted(list(b"ab"), [*b"cd", end], tokenizer)
    number = bench.submit("ab", greedy(9), "<|im_end|>\n", hold_lease=1)
    bench.run()
    ended = bench.end(number, 1)
    assert (ended.end, ended.stopped_by, ended.complete, ended.tokens) == ("stop", None, True, ())
    assert bench.data(number, 1) == b"cd"
    assert bench.engine.leases.get("a", 1).tokens == [*b"abcd", end, ord("\n")]
    assert bench.final(number).usage.output == 3  # type: ignore[union-attr]


def test_a_stop_id_ends_the_gen_and_is_named() -> None:
    bench = scripted(list(b"ab"), list(b"cdZ"), byte_tokenizer())
    number = bench.submit("ab", greedy(9, stop_token_ids=(ord("Z"),)))
    bench.run()
    final = bench.final(number)
    assert (final.end, final.stopped_by, bench.data(number), bench.tokens(number)) == (
        "stop",
        ord("Z"),
        b"cd",
        list(b"cd"),
    )


def test_data_lags_behind_what_may_be_a_stop() -> None:
    bench = scripted(list(b"ab"), list(b"c\n\nx\n\nEnd"), byte_tokenizer())
    number = bench.submit("ab", greedy(12, stop=("\n\nEnd",)), hold_lease=1)
    bench.run()
    pieces = [event.data for event in bench.events["a", number]]
    assert pieces == [b"c", b"", b"", b"\n\nx", b"", b"", b"", b"", b""]
    final = bench.final(number)
    assert (final.end, final.stopped_by) == ("stop", "\n\nEnd")
    assert bench.engine.leases.get("a", 1).tokens == list(b"abc\n\nx")


def test_what_was_held_back_is_sent_when_the_budget_ends() -> None:
    bench = scripted(list(b"ab"), list(b"cE"), byte_tokenizer())
    number = bench.submit("ab", greedy(2, stop=("End",)))
    bench.run()
    assert (bench.data(number), bench.final(number).end) == (b"cE", "length")


def carry_setup() -> tuple[Tokenizer, bytes, int]:
    """A tokenizer, a token of several bytes, and its id."""
    tokenizer = merged_tokenizer()
    data = next(t for t in tokenizer.token_bytes[256:] if len(t) == 3 and b" " not in t)
    return tokenizer, data, token(tokenizer, data)


def test_a_stop_inside_a_token_is_encoded_again_with_the_next_text() -> None:
    tokenizer, data, piece = carry_setup()
    prompt = tokenizer.encode("ab ")
    bench = scripted(prompt, [ord("Q"), piece], tokenizer)
    following = "nop<|im_end|>\nx"
    number = bench.submit("ab ", greedy(9, stop=(data[1:].decode(),), logprobs=0), following, hold_lease=1)
    bench.run()
    assert bench.data(number, 1) == b"Q" + data[:1]
    assert bench.tokens(number, 1) == [ord("Q"), piece]  # the last one counts: part of it stays
    expected = [*prompt, ord("Q"), *tokenizer.encode_bytes(data[:1] + b"nop")]
    tail = [tokenizer.special["<|im_end|>"], *tokenizer.encode("\nx")]
    lease = bench.engine.leases.get("a", 1)
    assert (lease.tokens, lease.carry) == (expected + tail, b"")


def test_a_carry_before_a_gen_is_encoded_alone() -> None:
    tokenizer, data, piece = carry_setup()
    bench = scripted(tokenizer.encode("ab "), [piece], tokenizer)
    bench.submit("ab ", greedy(9, stop=(data[1:].decode(),)), greedy(1), hold_lease=1)
    bench.run()
    assert bench.engine.leases.get("a", 1).tokens[len(tokenizer.encode("ab ")) :][:1] == [data[0]]


def test_a_lease_keeps_the_carry_for_the_next_request() -> None:
    tokenizer, data, piece = carry_setup()
    prompt = tokenizer.encode("ab ")
    bench = scripted(prompt, [piece], tokenizer)
    bench.submit("ab ", greedy(9, stop=(data[1:].decode(),)), hold_lease=1)
    bench.run()
    lease = bench.engine.leases.get("a", 1)
    assert (lease.tokens, lease.carry) == (prompt, data[:1])
    bench.submit("nop", parent_lease=1, hold_lease=2)
    bench.run()
    assert bench.engine.leases.get("a", 2).tokens == prompt + tokenizer.encode_bytes(data[:1] + b"nop")


def test_a_gen_after_a_cut_computes_its_last_token_again() -> None:
    """The stop drops tokens until all that are left have KV; their logits are gone."""
    bench = Bench()
    prompt = "The quick brown fox "
    bench.submit(prompt, greedy(8))
    bench.run()
    text = bench.data(0).decode()
    number = bench.submit(prompt, greedy(8, stop=(text[3:6],)), greedy(4))
    plain = bench.submit(prompt + text[:3], greedy(4))
    bench.run()
    assert bench.data(number, 1) == text[:3].encode()
    assert bench.tokens(number, 2) == bench.tokens(plain, 1)


def test_head_tokens_are_replaced_even_when_the_head_is_empty() -> None:
    tokenizer, data, piece = carry_setup()
    end = tokenizer.special["<|im_end|>"]
    bench = scripted(tokenizer.encode("ab "), [piece], tokenizer)
    bench.submit("ab ", greedy(9, stop=(data[1:].decode(),)), TextSegment((end,), b"", 0), hold_lease=1)
    bench.run()
    assert bench.engine.leases.get("a", 1).tokens == [*tokenizer.encode("ab "), data[0], end]


@pytest.mark.parametrize("page_size", [1, 4])
def test_a_stop_that_leaves_nothing_goes_back_into_shared_pages(page_size: int) -> None:
    bench = Bench(page_size=page_size)
    prompt = "The quick brown fox "
    bench.submit(prompt, greedy(3))
    bench.run()
    number = bench.submit(prompt, greedy(9, stop=(bench.data(0).decode(),)), gen(max_tokens=5, seed=8))
    plain = bench.submit(prompt, gen(max_tokens=5, seed=8))
    bench.run()
    assert bench.data(number, 1) == b""
    assert bench.tokens(number, 2) == bench.tokens(plain, 1)
    bench.assert_all_free()


@pytest.mark.parametrize("page_size", [1, 4])
def test_a_stop_may_cut_what_a_retraction_has_put_into_the_tree(page_size: int) -> None:
    bench = scripted(list(b"go: "), list(b"all well, END OF IT"), byte_tokenizer(), page_size=page_size)
    number = bench.submit("go: ", greedy(60, stop=("END OF IT",)), "!", greedy(3), hold_lease=1)
    while len(bench.tokens(number)) < 17:
        bench.step()
    scheduler = bench.engine.scheduler
    scheduler._retract(Plan(0), scheduler.running[0])
    bench.engine.check()
    bench.run()
    assert bench.data(number, 1) == b"all well, "
    lease = bench.engine.leases.get("a", 1)
    assert bytes(lease.tokens).startswith(b"go: all well, !")
    bench.engine.release("a", (1,))
    bench.assert_all_free()
