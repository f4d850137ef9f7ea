"""Guessed tokens save steps, and change nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from latticework.lang.errors import ConstraintError
from latticework.lang.ir import Constraint, JsonSchema, Regex, constraint_key
from latticework.runtime.constrain import Automaton, Vocabulary, decode_rules, encode_rules, to_rules
from latticework.runtime.engine import Runner
from latticework.runtime.schedule import masks
from latticework.runtime.schedule.batch import Batch
from latticework.runtime.schedule.drafts import MAX_DRAFT
from tests.runtime.engine.bench import (
    Bench,
    ScriptedRunner,
    byte_tokenizer,
    gen,
    greedy,
    merged_tokenizer,
    vocab_size_of,
)

PERSON = JsonSchema(
    {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
)


@pytest.fixture(autouse=True)
def all_time_for_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what is guessed does not depend on how fast rows are made."""
    monkeypatch.setattr(masks, "DRAFT_SECONDS", 1000.0)


class RealBench(Bench):
    """With the automata of the runtime itself."""

    def _build(self, rules: bytes) -> Any:
        tokens = self.tokenizer.padded(vocab_size_of(self.tokenizer))
        return Automaton(decode_rules(rules), Vocabulary(tokens, self.end_ids))

    def define_real(self, constraint: Constraint) -> str:
        key = constraint_key(constraint)
        self.engine.define("a", key, encode_rules(to_rules(constraint)))
        return key


def scripted(text: str, **options: Any) -> tuple[Bench, ScriptedRunner]:
    """A model that goes on with `text`, whatever it is asked."""
    runner = ScriptedRunner(list(text.encode()) + [0] * 64, vocab_size_of(byte_tokenizer()), pages=256)
    return Bench(runner=runner, **{"kv_tokens": 1024, **options}), runner


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_forced_text_takes_one_step_and_is_the_same(temperature: float) -> None:
    texts, steps = [], []
    for drafts in ("off", "forced"):
        bench = RealBench(merged_tokenizer(), drafts=drafts)
        key = bench.define_real(PERSON)
        number = bench.submit("Who? ", gen(key, max_tokens=60, temperature=temperature, seed=5))
        bench.run()
        texts.append((bench.tokens(number), bench.data(number), bench.final(number).end))
        steps.append(bench.engine.scheduler.step)
        bench.assert_all_free()
    assert texts[0] == texts[1]
    assert texts[0][1].startswith(b'{"name":"')
    assert steps[1] < 0.6 * steps[0]


def test_what_was_guessed_and_what_of_it_was_right_is_told() -> None:
    bench = RealBench(drafts="forced")
    key = bench.define_real(Regex("abcdefgh[ij]"))
    number = bench.submit("x", gen(key, max_tokens=200))
    bench.run()
    usage = bench.final(number).usage
    assert usage is not None
    assert (usage.output, usage.drafted, usage.accepted) == (9, 8, 8)
    stats = bench.engine.stats()
    assert (stats.drafted, stats.accepted, stats.steps) == (8, 8, 1)


def test_near_the_end_of_the_budget_only_tokens_are_guessed_that_are_forced_and_so_are_those_after_them() -> None:
    bench = RealBench(drafts="all")
    key = bench.define_real(Regex("abcdefgh[ij]"))
    number = bench.submit("x", gen(key, max_tokens=20))
    bench.run()
    usage = bench.final(number).usage
    assert usage is not None
    assert (usage.output, usage.drafted, usage.accepted) == (9, 7, 7)


def test_rows_after_guesses_are_made_only_in_the_time_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "DRAFT_SECONDS", 0.0)
    bench = RealBench(drafts="forced")
    key = bench.define_real(Regex("abcdefgh[ij]"))
    drafted = []
    for _ in range(2):
        number = bench.submit("x", gen(key, max_tokens=200))
        bench.run()
        usage = bench.final(number).usage
        assert usage is not None
        assert usage.output == 9
        drafted.append(usage.drafted)
    assert drafted == [0, 8]  # the second time, every row is cached


def test_a_long_forced_text_is_guessed_piece_by_piece() -> None:
    bench = RealBench(drafts="forced")
    word = "abcdefghij" * 12
    key = bench.define_real(Regex(word))
    number = bench.submit("x", gen(key, max_tokens=200))
    bench.run()
    assert bench.data(number) == word.encode()
    assert bench.engine.scheduler.step == -(-len(word) // (MAX_DRAFT + 1))


def test_text_that_repeats_is_guessed_from_itself() -> None:
    text = "one two three, " * 8
    plain, _ = scripted(text, drafts="off")
    quick, runner = scripted(text, drafts="all")
    for bench in (plain, quick):
        number = bench.submit(text[:20], greedy(80))
        bench.run()
        assert bench.data(number).decode() == text[20:100]
        bench.assert_all_free()
    assert quick.engine.scheduler.step < plain.engine.scheduler.step / 3
    assert max(map(len, runner.seen[1:])) > 8
    only_forced, _ = scripted(text, drafts="forced")
    only_forced.submit(text[:20], greedy(80))
    only_forced.run()
    assert only_forced.engine.scheduler.step == plain.engine.scheduler.step


def test_wrong_guesses_cost_rows_and_no_token() -> None:
    text = "abcdX abcdY abcdZ abcdW abcdV abcdU abcdT abcdS"
    bench, _ = scripted(text, drafts="all")
    number = bench.submit(text[:6], greedy(len(text) - 6))
    bench.run()
    assert bench.data(number).decode() == text[6:]
    usage = bench.final(number).usage
    assert usage is not None
    assert 0 < usage.accepted < usage.drafted
    bench.assert_all_free()


def test_a_step_tells_of_all_its_tokens_at_once() -> None:
    bench = RealBench(drafts="forced")
    key = bench.define_real(Regex("hello (you|me)"))
    number = bench.submit("x", gen(key, max_tokens=200, logprobs=1))
    bench.step()
    (event,) = bench.events["a", number]
    assert (event.data[:6], len(event.tokens), len(event.logprobs)) == (b"hello ", 7, 7)
    bench.run()


def test_a_stop_in_the_middle_of_a_guess_cuts_it() -> None:
    for drafts in ("off", "forced"):
        bench = RealBench(drafts=drafts)
        key = bench.define_real(Regex("abcdefghijkl"))
        number = bench.submit("x", gen(key, max_tokens=20, stop=("ef",)), " and ", greedy(3))
        bench.run()
        assert bench.data(number, 1) == b"abcd"
        assert bench.end(number, 1).stopped_by == "ef"
        bench.assert_all_free()


def test_no_more_is_guessed_than_the_budget_has() -> None:
    bench = RealBench(drafts="forced")
    key = bench.define_real(Regex("abcdefghijkl"))
    number = bench.submit("x", gen(key, on_length="cut", max_tokens=5))
    bench.run()
    assert (bench.data(number), bench.final(number).end) == (b"abcde", "length")
    usage = bench.final(number).usage
    assert usage is not None
    assert usage.drafted == 4


def test_a_guess_ends_where_masks_are_not_ready() -> None:
    bench = Bench(drafts="forced")
    bench.define("word", "hello")
    number = bench.submit("Say ", gen("word"))
    (automaton,) = bench.automata
    original = automaton.matcher
    calls = iter([True, True, False, False, *[True] * 8])  # not cached, and not made in time

    def matcher() -> Any:
        made = original()
        made.prepare = lambda deadline: next(calls)  # type: ignore[method-assign]
        return made

    automaton.matcher = matcher  # type: ignore[method-assign]
    bench.engine.cancel("a", number)
    number = bench.submit("Say ", gen("word"))
    bench.step()
    assert bench.data(number) == b"he"
    bench.run()
    assert bench.data(number) == b"hello"


@pytest.mark.parametrize("what", ["accept", "prepare", "forced"])
def test_a_guess_that_leads_into_what_is_too_ambiguous_fails_nobody(what: str) -> None:
    bench = Bench(drafts="forced")
    bench.define("word", "hello")
    (automaton,) = bench.automata
    original = automaton.matcher
    calls = iter([False, False, what != "forced", *[what == "forced"] * 40])

    def matcher() -> Any:
        made = original()
        usual = getattr(made, what)

        def ambiguous(argument: Any) -> Any:
            if next(calls):
                raise ConstraintError("too ambiguous")
            return usual(argument)

        setattr(made, what, ambiguous)
        return made

    automaton.matcher = matcher  # type: ignore[method-assign]
    number = bench.submit("Say ", gen("word"))
    bench.run()
    assert (bench.data(number), bench.final(number).end) == (b"hello", "stop")


class BrokenAfter:
    """A model whose logits are not numbers behind one token."""

    def __init__(self, inner: Runner, token: int) -> None:
        self.inner = inner
        self.kv = inner.kv
        self.token = token

    def run(self, batch: Batch) -> torch.Tensor:
        logits = self.inner.run(batch)
        logits[np.flatnonzero(batch.tokens[batch.logit_rows] == self.token)] = torch.nan
        return logits


def test_tokens_before_a_failure_in_the_same_step_are_told() -> None:
    runner = BrokenAfter(ScriptedRunner([0] * 64, vocab_size_of(byte_tokenizer()), pages=256), ord("d"))
    bench = Bench(runner=runner, kv_tokens=1024, drafts="forced")
    bench.define("word", "abcdefgh")
    failing, fine = bench.submit("x", gen("word")), bench.submit("y", greedy(3))
    bench.run()
    assert bench.data(failing) == b"abcd"
    error = bench.final(failing).error
    assert error is not None
    assert "NaN" in error.message
    assert bench.final(fine).end == "length"
    bench.assert_all_free()


def test_guesses_make_nobody_give_way() -> None:
    def retractions(drafts: str) -> int:
        bench = Bench(kv_tokens=96, max_running=8, drafts=drafts)
        bench.define("word", "abcdefgh" * 4)
        numbers = [bench.submit(f"{n} ", gen("word", max_tokens=40)) for n in range(6)]
        bench.run()
        assert {bench.data(number) for number in numbers} == {b"abcdefgh" * 4}
        return bench.engine.scheduler.retractions

    assert retractions("forced") <= retractions("off")


def test_forced_text_is_cut_where_the_tokenizer_would_cut_it() -> None:
    tokenizer = merged_tokenizer()
    bench = Bench(tokenizer)
    cut = bench.engine.drafts._cut
    for text in (b"abc def ghi", b"nop abc abc def", b"klm jklm"):
        tokens = tokenizer.encode_bytes(text)
        for place in range(1, len(tokens)):
            before = tokenizer.decode_bytes(tokens[:place])
            assert list(cut(before, text[len(before) :])) == tokens[place:]
    first = tokenizer.decode_bytes(tokenizer.encode_bytes(b"abc def")[:1])
    assert len(first) > 1
    rest = b"abc def"[len(first) - 1 :]  # no token begins there: it is cut as if it stood alone
    assert list(cut(first[:-1], rest)) == tokenizer.encode_bytes(rest)


def test_pages_for_what_was_guessed_wrong_are_given_back_at_once() -> None:
    text = "abc" * 20 + "abcaQ" + "z" * 40
    bench, _ = scripted(text, kv_tokens=256, drafts="all", prefix_cache=False)
    number = bench.submit(text[:20], greedy(60))
    while bench.engine.has_work():
        bench.step()
        for sequence in bench.engine.scheduler.running:
            assert len(sequence.pages) <= bench.engine.memory.pages_for(sequence.computed + 1)
    usage = bench.final(number).usage
    assert usage is not None
    assert usage.accepted < usage.drafted


def test_guesses_leave_less_room_for_prompts_in_the_same_step() -> None:
    bench = Bench(drafts="forced", chunk_tokens=64)
    bench.define("word", "abcdefghijklmnop")
    bench.submit("x", gen("word"))
    (sequence,) = bench.engine.scheduler.waiting
    plan = bench.engine.scheduler.schedule(16)
    (work,) = plan.works
    assert work.sequence is sequence
    assert len(work.draft.tokens) == 4
    assert plan.budget == 16 - 1 - 4


def test_how_forced_text_is_spelled_is_found_once_until_the_cache_is_flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = RealBench(drafts="forced")
    spelled: list[bytes] = []
    encode = bench.engine.drafts._encode

    def spell(data: bytes) -> list[int]:
        spelled.append(data)
        return encode(data)

    monkeypatch.setattr(bench.engine.drafts, "_encode", spell)

    def run() -> int:
        spelled.clear()
        bench.submit("Who? ", gen(bench.define_real(PERSON), max_tokens=60, temperature=1.3, seed=5))
        bench.run()
        return len(spelled)

    first = run()
    assert first > 0
    assert run() == 0
    bench.engine.flush_cache()
    assert run() == first
