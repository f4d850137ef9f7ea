"""Stop regexes in the engine, with real automata."""

from __future__ import annotations

from typing import Any

import pytest

from latticework.lang.ir import Regex
from latticework.runtime.constrain import (
    Automaton,
    Vocabulary,
    compile_constraint,
    decode_rules,
    encode_rules,
    search,
    to_rules,
)
from latticework.runtime.request import GenSegment
from latticework.runtime.schedule.automata import Automata
from latticework.runtime.schedule.stops import MAX_HELD, StopHit, StopMatcher
from tests.runtime.engine.bench import Bench, ScriptedRunner, byte_tokenizer, greedy, merged_tokenizer, vocab_size_of


class RegexBench(Bench):
    """Rules are real here."""

    def _build(self, rules: bytes) -> Any:
        tokens = self.tokenizer.padded(vocab_size_of(self.tokenizer))
        return Automaton(decode_rules(rules), Vocabulary(tokens, self.end_ids))

    def stopping(self, *patterns: str, **fields: Any) -> GenSegment:
        for pattern in patterns:
            self.engine.define("a", pattern, encode_rules(to_rules(Regex(pattern))))
        segment = greedy(stop_regex=patterns, **fields)
        return GenSegment(segment.sampling, stop_rules=patterns)


def scripted(said: bytes, **options: Any) -> RegexBench:
    tokenizer = byte_tokenizer()
    return RegexBench(tokenizer, ScriptedRunner([*b"ab", *said, *[0] * 20], vocab_size_of(tokenizer)), **options)


@pytest.mark.parametrize(("include", "kept"), [(False, b"cd "), (True, b"cd 12.")])
def test_a_match_ends_the_output(include: bool, kept: bytes) -> None:
    bench = scripted(b"cd 12.5")
    number = bench.submit("ab", bench.stopping("[0-9]+[.]", max_tokens=9, include_stop=include), hold_lease=1)
    bench.run()
    final = bench.final(number)
    assert (final.end, final.stopped_by, bench.data(number)) == ("stop", "[0-9]+[.]", kept)
    assert bench.engine.leases.get("a", 1).tokens == list(b"ab" + kept)
    assert bench.engine.automata.missing(["[0-9]+[.]"]) is None
    bench.engine.release("a", [1])
    bench.assert_all_free()


def test_text_is_held_back_while_it_may_become_a_match() -> None:
    bench = scripted(b"c12d34!")
    number = bench.submit("ab", bench.stopping("[0-9]+!", max_tokens=9))
    bench.run()
    assert [event.data for event in bench.events["a", number]] == [b"c", b"", b"", b"12d", b"", b"", b""]


def test_the_match_that_begins_first_is_cut_of_those_that_end_together() -> None:
    bench = scripted(b"wxyz")
    number = bench.submit("ab", bench.stopping("x.z", "yz", max_tokens=9, stop=("z",)))
    bench.run()
    assert (bench.data(number), bench.final(number).stopped_by) == (b"w", "x.z")


def test_a_match_inside_a_token_leaves_its_bytes() -> None:
    tokenizer = merged_tokenizer()
    token, spelled = next((t, b) for t, b in enumerate(tokenizer.token_bytes) if len(b) == 3 and len(set(b)) == 3)
    runner = ScriptedRunner([*tokenizer.encode("Q "), token, *[0] * 20], vocab_size_of(tokenizer))
    bench = RegexBench(tokenizer, runner)
    pattern = f"[{chr(spelled[1])}]."
    number = bench.submit("Q ", bench.stopping(pattern, max_tokens=3), hold_lease=1)
    bench.run()
    assert bench.data(number) == spelled[:1]
    assert bench.engine.leases.get("a", 1).carry == spelled[:1]


def test_of_a_match_longer_than_what_is_held_the_rest_is_cut() -> None:
    vocabulary = Vocabulary([bytes([byte]) for byte in range(256)], ())
    cursor = StopMatcher().cursor([("<x*>", compile_constraint(Regex("<x*>"), vocabulary).search())])
    for byte in b"<" + b"x" * (MAX_HELD + 49):
        assert cursor.feed(bytes([byte])) is None
    assert cursor.held == MAX_HELD
    hit = cursor.copy().feed(b"x>")
    assert hit == cursor.feed(b"x>") == StopHit(50, "<x*>")


def test_min_tokens_passes_matches_by() -> None:
    bench = scripted(b"c1d2e3")
    number = bench.submit("ab", bench.stopping("[0-9]", max_tokens=9, min_tokens=3))
    bench.run()
    assert bench.data(number) == b"c1d"


def test_what_cannot_be_a_stop_fails_its_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MAX_RUNS", 100)
    bench = scripted(b"a" * 300)
    bad = bench.submit("ab", bench.stopping("x*", max_tokens=9))
    deep = bench.submit("ab", bench.stopping("a{1,290}b", max_tokens=500))
    bare = bench.submit("ab", greedy(3, stop_regex=("x",)))
    good = bench.submit("ab", greedy(3))
    bench.run()
    for number, said in ((bad, "empty text"), (deep, "under way"), (bare, "without its rules")):
        error = bench.final(number).error
        assert error is not None
        assert error.field == "stop_regex"
        assert said in error.message
    assert bench.data(good) == b"aaa"
    assert isinstance(bench.engine.automata, Automata)
    bench.assert_all_free()
