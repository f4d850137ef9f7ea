"""Gens that heal the end of their prompt: tokens, text, usage, and the same whatever else goes on."""

from __future__ import annotations

import functools
import random
import re
from typing import Any

import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as HfTokenizer

from latticework.lang.ir import Regex, Sampling
from latticework.runtime.constrain import Automaton, to_rules
from latticework.runtime.constrain.rules import decode_rules, encode_rules
from latticework.runtime.request import GenSegment, TextSegment
from latticework.runtime.sample.sampler import Row, sample
from latticework.runtime.text.tokenizer import BYTES_ONLY_SPECIAL, Tokenizer, byte_alphabet
from tests.runtime.engine.bench import (
    Bench,
    ScriptedRunner,
    dense_logits,
    merged_tokenizer,
    vocab_size_of,
    vocabulary_of,
)


@functools.cache
def slashes() -> Tokenizer:
    """Bytes, special tokens, and the tokens ":/" and "://"."""
    vocabulary = {**byte_alphabet(), ":/": 256, "://": 257}
    inner = HfTokenizer(models.BPE(vocab=vocabulary, merges=[(":", "/"), (":/", "/")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in BYTES_ONLY_SPECIAL])
    return Tokenizer(inner.to_str())


WHOLE = 257
"""The token "://"."""


class RealBench(Bench):
    """With constraints that are regexes, compiled as ever."""

    def _build(self, rules: bytes) -> Any:
        return Automaton(decode_rules(rules), vocabulary_of(self.tokenizer))

    def define_regex(self, key: str, pattern: str) -> None:
        self.engine.define("a", key, encode_rules(to_rules(Regex(pattern))))
        self.engine.pieces.go_on(60.0)


def scripted(script: list[int], **options: Any) -> RealBench:
    """A model that writes the script, whatever it is given, then full stops."""
    return RealBench(slashes(), ScriptedRunner([*script, *[ord(".")] * 64], vocab_size_of(slashes())), **options)


def healed(constraint: str | None = None, healable: int = 99, on_length: Any = "close", **sampling: Any) -> GenSegment:
    asked = Sampling(**{"seed": 1, "temperature": 0.0, "max_tokens": 4, **sampling})
    return GenSegment(asked, constraint, on_length, healable=healable)


# ---------------------------------------------------------------- what is said


def test_the_token_across_the_boundary_may_be_drawn_and_its_first_bytes_are_no_output() -> None:
    bench = scripted([ord("p"), WHOLE, *b"abc"])
    number = bench.submit("p:", healed(), hold_lease=1)
    bench.run()
    assert (bench.data(number), bench.tokens(number)) == (b"//abc", [WHOLE, *b"abc"])
    assert bench.engine.leases.get("a", 1).tokens == [ord("p"), WHOLE, *b"abc"]
    usage = bench.final(number).usage
    assert usage is not None
    assert (usage.prompt, usage.computed, usage.output) == (1, 1, 4)


def test_what_is_spelled_again_as_it_was_is_prompt_and_costs_no_output_token() -> None:
    bench = scripted([*b"p:", *b"abc."])
    number = bench.submit("p:", healed(), hold_lease=1)
    bench.run()
    assert (bench.data(number), bench.tokens(number)) == (b"abc.", list(b"abc."))
    assert bench.engine.leases.get("a", 1).tokens == [*b"p:abc."]
    usage = bench.final(number).usage
    assert usage is not None
    assert (usage.prompt, usage.output, bench.final(number).end) == (2, 4, "length")


def test_only_tokens_that_begin_with_the_text_can_be_drawn() -> None:
    bench = scripted([ord("p"), ord("z"), *b"abc"])  # the model would rather write z
    number = bench.submit("p:", healed())
    bench.run()
    assert bench.data(number)[:3] != b"z"
    assert bench.tokens(number)[0] in (WHOLE, 256) or bench.final(number).usage.prompt == 2  # type: ignore[union-attr]


@pytest.mark.parametrize(("prompt", "healable"), [("p:", 0), ("pq", 9), (":", 9), ("p:<|im_end|>", 9), ("p://", 9)])
def test_nothing_is_taken_back_where_nothing_may_or_could_change(prompt: str, healable: int) -> None:
    said = []
    for gen in (healed(healable=healable, temperature=1.0), healed(healable=0, temperature=1.0)):
        bench = Bench(slashes())
        number = bench.submit(prompt, gen, hold_lease=1)
        bench.run()
        said.append((bench.engine.leases.get("a", 1).tokens, bench.data(number), bench.final(number).usage.output))  # type: ignore[union-attr]
    assert said[0] == said[1]


def test_a_stop_that_begins_in_the_spanning_token_leaves_the_healed_text_as_it_was() -> None:
    bench = scripted([ord("p"), WHOLE, *b"abc"])
    number = bench.submit("p:", healed(stop=("/",)), "!", hold_lease=1)
    bench.run()
    ended = bench.end(number, 1)
    assert (bench.data(number, 1), ended.stopped_by, ended.complete) == (b"", "/", True)
    assert bench.engine.leases.get("a", 1).tokens == [*b"p:!"]


@pytest.mark.parametrize(("include", "data", "tokens"), [(False, b"", b"p:!"), (True, b"//", None)])
def test_a_stop_id_may_be_the_spanning_token(include: bool, data: bytes, tokens: bytes | None) -> None:
    bench = scripted([ord("p"), WHOLE, *b"abc"])
    number = bench.submit("p:", healed(stop_token_ids=(WHOLE,), include_stop=include), "!", hold_lease=1)
    bench.run()
    assert (bench.data(number, 1), bench.end(number, 1).stopped_by) == (data, WHOLE)
    assert bench.engine.leases.get("a", 1).tokens == ([*tokens] if tokens else [ord("p"), WHOLE, ord("!")])


def test_a_stop_inside_the_spanning_token_keeps_what_is_before_it() -> None:
    bench = scripted([ord("p"), WHOLE, ord("/"), *b"abc"])
    number = bench.submit("p:", healed(stop=("//",), max_tokens=9), "!", hold_lease=1)
    bench.run()
    assert bench.data(number, 1) == b""
    second = bench.submit("p:", healed(stop=("//a",), max_tokens=9), "!", hold_lease=2)
    bench.run()
    assert bench.data(second, 1) == b"/"
    assert bench.tokens(second, 1) == [WHOLE, ord("/"), ord("a")][:2]
    assert b"".join(slashes().token_bytes[token] for token in bench.engine.leases.get("a", 2).tokens) == b"p:/!"


def test_stops_do_not_look_at_the_healed_text() -> None:
    bench = scripted([*b"p:", *b"abcd"])
    number = bench.submit("p:", healed(stop=(":a", ":"), stop_token_ids=(ord(":"),)))
    bench.run()
    assert (bench.data(number), bench.final(number).end) == (b"abcd", "length")


def test_an_end_token_cannot_come_before_the_healed_text_is_spelled() -> None:
    end = slashes().special["<|im_end|>"]
    bench = scripted([ord("p"), end, end, end])
    number = bench.submit("p:", healed(), hold_lease=1)
    bench.run()
    assert bytes(slashes().decode_bytes(bench.engine.leases.get("a", 1).tokens)).startswith(b"p:")
    assert bench.final(number).end == "stop"


def test_a_second_gen_of_a_chain_heals_the_text_between_and_never_what_was_generated() -> None:
    bench = scripted([*b"pabc", ord("x"), WHOLE, *b"zzz"])
    number = bench.submit("p", healed(max_tokens=3), "x:", healed(max_tokens=2), hold_lease=1)
    bench.run()
    assert (bench.data(number, 1), bench.data(number, 3)) == (b"abc", b"//z")
    assert bench.engine.leases.get("a", 1).tokens == [*b"pabcx", WHOLE, ord("z")]


def test_held_text_is_healed_by_what_continues_from_it_and_stays_as_it_was() -> None:
    bench = Bench(slashes())
    bench.submit("some text p:", hold_lease=1)
    bench.run()
    held = list(bench.engine.leases.get("a", 1).tokens)
    children = [bench.submit(healed(temperature=1.0, seed=n), parent_lease=1, group=7) for n in range(6)]
    whole = [bench.submit("some text p:", healed(temperature=1.0, seed=n)) for n in range(6)]
    bench.run()
    assert [bench.data(n) for n in children] == [bench.data(n) for n in whole]
    assert bench.engine.leases.get("a", 1).tokens == held
    bench.engine.release("a", [1])
    bench.assert_all_free()


def test_text_too_long_to_be_spelled_again_is_refused() -> None:
    bench = Bench(slashes(), context=4)
    fits, too_long = bench.submit("12:", healed()), bench.submit("123:", healed())
    bench.run()
    assert bench.final(fits).error is None
    error = bench.final(too_long).error
    assert error is not None
    assert error.type == "PromptTooLong"


# ---------------------------------------------------------------- constraints


@pytest.mark.parametrize("drafts", ["off", "all"])
def test_a_constraint_holds_for_the_text_behind_the_healed_one(drafts: str) -> None:
    bench = RealBench(slashes(), drafts=drafts)
    bench.define_regex("link", "//[ab]{2,4}c")
    numbers = [bench.submit("see p:", healed("link", temperature=2.0, seed=n, max_tokens=9)) for n in range(12)]
    bench.run()
    for number in numbers:
        assert re.fullmatch(b"//[ab]{2,4}c", bench.data(number))
        assert bench.final(number).complete
    firsts = {bench.tokens(number)[0] for number in numbers}
    assert WHOLE in firsts
    assert len(firsts) > 1  # it was spelled in another way, too


def test_a_constraint_fits_the_budget_whatever_spells_the_healed_text() -> None:
    bench = RealBench(slashes())
    bench.define_regex("link", "/{2,9}c?")
    numbers = [bench.submit("p:", healed("link", temperature=3.0, seed=n, max_tokens=2)) for n in range(24)]
    bench.run()
    for number in numbers:
        assert bench.final(number).error is None
        assert re.fullmatch(b"/{2,9}c?", bench.data(number))
        assert len(bench.tokens(number)) <= 2


def test_a_constraint_that_is_finished_before_it_begins_ends_the_gen() -> None:
    bench = RealBench(slashes())
    bench.define_regex("nothing", "")
    number = bench.submit("p:", healed("nothing"), "!", hold_lease=1)
    bench.run()
    assert (bench.data(number, 1), bench.end(number, 1).end, bench.end(number, 1).complete) == (b"", "stop", True)
    assert slashes().decode_bytes(bench.engine.leases.get("a", 1).tokens) == b"p:!"


def test_a_stop_may_cut_a_constrained_text_at_the_boundary() -> None:
    bench = RealBench(slashes())
    bench.define_regex("maybe", "(//a)?")
    number = bench.submit("p:", healed("maybe", stop=("//",), logit_bias=((WHOLE, 100.0),)), hold_lease=1)
    bench.run()
    assert (bench.data(number), bench.final(number).complete, bench.final(number).stopped_by) == (b"", True, "//")
    assert bench.engine.leases.get("a", 1).carry == b":"


# ---------------------------------------------------------------- exactness


def reference(prompt: list[int], sampling: Sampling, healable: int, tokenizer: Tokenizer) -> tuple[bytes, list[int]]:
    """What a gen says, by one dense forward pass a token and masks by looking at every token. Its bytes, and all tokens
    of prompt and output."""
    pieces = tokenizer.padded(vocab_size_of(tokenizer))
    taken = 0
    for count in range(1, min(4, len(prompt) - 1) + 1):
        end = b"".join(pieces[token] for token in prompt[-count:])
        if not pieces[prompt[-count]] or len(end) > healable:
            break
        taken = count if any(len(one) > len(end) and one.startswith(end) for one in pieces) else taken
    left = b"".join(pieces[token] for token in prompt[len(prompt) - taken :])
    tokens, data, draws = prompt[: len(prompt) - taken], b"", 0
    output: list[int] = []
    ends = {tokenizer.special["<|endoftext|>"], tokenizer.special["<|im_end|>"]}
    while len(output) < sampling.max_tokens:
        mask = None
        if left:
            allowed = [t for t, one in enumerate(pieces) if one and (left.startswith(one) or one.startswith(left))]
            mask = vocabulary_of(tokenizer).pack(allowed)
        row = Row(sampling, draws, mask, None, output)
        token = sample(dense_logits(tokens, tokenizer)[-1:], [row]).tokens[0]
        draws += 1
        if token in ends:
            break
        tokens.append(token)
        if len(pieces[token]) > len(left):
            output.append(token)
            data += pieces[token][len(left) :]
        left = left[len(pieces[token]) :]
    return data, tokens


@pytest.mark.parametrize(
    "options",
    [{}, {"prefix_cache": False}, {"page_size": 1}, {"chunk_tokens": 3}, {"drafts": "off"}, {"max_running": 2}],
    ids=str,
)
def test_healed_gens_are_exact_whatever_goes_on_beside_them(options: dict[str, Any]) -> None:
    tokenizer = merged_tokenizer()
    rng = random.Random(3)
    bench = Bench(tokenizer, **options)
    asked = []
    for number in range(10):
        prompt = tokenizer.encode("".join(rng.choices("abcdefghijklmnop ", k=rng.randrange(2, 14))))
        sampling = Sampling(max_tokens=5, temperature=rng.choice([0.0, 1.0, 3.0]), seed=number, logprobs=0)
        healable = rng.choice([1, 2, 99])
        asked.append((prompt, sampling, healable))
        assert (
            bench.submit(TextSegment(tuple(prompt)), GenSegment(sampling, healable=healable), hold_lease=number)
            == number
        )
        if rng.random() < 0.5:
            bench.step()
    bench.run()
    changed = 0
    for number, (prompt, sampling, healable) in enumerate(asked):
        data, tokens = reference(prompt, sampling, healable, tokenizer)
        assert bench.data(number) == data
        assert bench.engine.leases.get("a", number).tokens == tokens
        changed += tokens[: len(prompt)] != prompt
    assert changed  # some prompt was cut in another way
    bench.engine.release("a", range(10))
    bench.assert_all_free()


@pytest.mark.parametrize(
    "options", [{}, {"page_size": 1, "drafts": "forced"}, {"chunk_tokens": 3, "max_running": 3}], ids=str
)
def test_healed_gens_under_constraints_are_exact_whatever_goes_on_beside_them(options: dict[str, Any]) -> None:
    patterns = {"link": "//[ab]{2,9}c", "any": "[a-p/ ]*", "fixed": "abcabcabcabc", "few": "(a|ab|b ?c|//d)+"}
    tokenizer = merged_tokenizer()
    rng = random.Random(5)
    prompts = ["".join(rng.choices("abcdefghijklmnop ", k=rng.randrange(3, 14))) for _ in range(16)]
    said = []
    for own in ({"prefix_cache": False, "drafts": "off", "max_running": 1}, options):
        bench = RealBench(tokenizer, **own)
        for key, pattern in patterns.items():
            bench.define_regex(key, pattern)
        keys = [list(patterns)[index % len(patterns)] for index in range(len(prompts))]
        asked = zip(prompts, keys, strict=True)
        numbers = [
            bench.submit(prompt, healed(key, temperature=2.0 * (n % 3), seed=n, max_tokens=14), hold_lease=n)
            for n, (prompt, key) in enumerate(asked)
        ]
        bench.run()
        for number, key in zip(numbers, keys, strict=True):
            assert re.fullmatch(patterns[key].encode(), bench.data(number))
        said.append([(bench.data(n), bench.engine.leases.get("a", n).tokens) for n in numbers])
        bench.engine.release("a", numbers)
        bench.assert_all_free()
    assert said[0] == said[1]
    cut = [tokenizer.encode(prompt) for prompt in prompts]
    assert any(tokens[: len(own)] != own for own, (_, tokens) in zip(cut, said[0], strict=True))


def test_a_spanning_token_has_its_own_logprob_and_the_prompt_those_of_what_is_left() -> None:
    bench = Bench(slashes())
    sampling: dict[str, Any] = {"logprobs": 0, "prompt_logprobs": 0, "logit_bias": ((WHOLE, 100.0),), "max_tokens": 2}
    number = bench.submit("ab:", healed(**sampling))
    bench.run()
    logits = dense_logits([*b"ab", WHOLE], slashes()).log_softmax(-1)
    events = bench.events["a", number]
    told = [info.logprob for event in events for info in event.logprobs]
    assert told[0] == pytest.approx(float(logits[1, WHOLE]))
    prompt = [
        (token, info.logprob) for e in events for token, info in zip(e.prompt_tokens, e.prompt_logprobs, strict=True)
    ]
    assert prompt == [(ord("b"), pytest.approx(float(logits[0, ord("b")])))]


def test_gens_that_heal_survive_being_taken_back_themselves() -> None:
    crowded = Bench(merged_tokenizer(), kv_tokens=160, max_running=8)
    roomy = Bench(merged_tokenizer())
    prompts = [f"{'abcdefg'[n:]}{n} a" for n in range(6)]
    said = []
    for bench in (crowded, roomy):
        numbers = [bench.submit(p, healed(temperature=1.0, seed=n, max_tokens=60)) for n, p in enumerate(prompts)]
        bench.run()
        said.append([bench.data(number) for number in numbers])
    assert said[0] == said[1]
    assert crowded.engine.scheduler.retractions > 0
    crowded.assert_all_free()
