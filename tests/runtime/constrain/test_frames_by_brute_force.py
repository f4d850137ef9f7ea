"""Soundness of objects, arrays and recursion: masks of random small graphs against the plain reference."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from latticework.runtime.constrain import Automaton, Limits, Matcher, Vocabulary
from latticework.runtime.constrain.builder import NEVER, Builder
from latticework.runtime.constrain.rules import RuleGraph, check_rules
from tests.runtime.constrain.graphs import ALPHABET, Spec, finite_specs, lower, raw_graph, recursive_specs
from tests.runtime.constrain.oracle import allowed
from tests.runtime.constrain.reference import can_continue, ends, words

END, SPECIAL = 0, 1
BYTES = ALPHABET + "é".encode()
LONGER = st.lists(
    st.one_of(
        st.sampled_from([b'"a"', b'":', b'","', b'{"', b"},", b"],", b'"}', b"a,b", b"a]", b",[", b'a,"', b'":a,"']),
        st.lists(st.sampled_from([bytes([byte]) for byte in ALPHABET]), min_size=2, max_size=4).map(b"".join),
    ),
    max_size=10,
    unique=True,
)
QUIET = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)


def vocabulary_of(longer: list[bytes]) -> Vocabulary:
    return Vocabulary([b"</s>", b"", *(bytes([byte]) for byte in BYTES), *longer], end_ids=(END,))


def automaton_of(spec: Spec, vocabulary: Vocabulary) -> Automaton | None:
    """None: no text is in the language."""
    builder = Builder(Limits(), "constraint")
    root = lower(builder, spec)
    rules = builder.finish(root) if root != NEVER else None
    if rules is None:
        return None
    check_rules(rules)
    return Automaton(rules, vocabulary)


class Language:
    """All texts up to a length, and whether longer ones begin with a text."""

    def __init__(self, graph: RuleGraph, longest: int, more: int) -> None:
        self.graph = graph
        self.texts = sorted(words(graph, longest, alphabet=BYTES))
        self._prefixes = {text[:length] for text in self.texts for length in range(len(text) + 1)}
        self._more = more
        self._known: dict[bytes, bool] = {}

    def has(self, text: bytes) -> bool:
        return ends(self.graph, text)

    def lives(self, text: bytes) -> bool:
        """Whether some text of the language begins with `text`."""
        if text in self._prefixes:
            return True
        if not self._more:
            return False
        known = self._known.get(text)
        if known is None:
            known = self._known[text] = can_continue(self.graph, text, self._more, BYTES)
        return known

    def tokens(self, text: bytes, vocabulary: Vocabulary) -> set[int]:
        found = {i for i, token in enumerate(vocabulary.tokens) if token and self.lives(text + token)}
        return found | ({END} if self.has(text) else set())

    def endings(self, text: bytes) -> list[bytes]:
        return [whole[len(text) :] for whole in self.texts if whole.startswith(text)]


def visit(
    language: Language, automaton: Automaton, rng: random.Random, walks: int, steps: int,
    check: Callable[[Matcher, bytes, set[int]], None],
) -> None:  # fmt: skip
    """Random walks on the masks, which have to be exact; `check` sees every state on the way."""
    vocabulary = automaton.vocabulary
    for _ in range(walks):
        matcher, text = automaton.matcher(), b""
        for _ in range(steps):
            expected = language.tokens(text, vocabulary)
            got = allowed(matcher, vocabulary)
            assert got == expected, f"after {text!r}: {shown(got - expected, vocabulary)} should not be allowed, "\
                f"{shown(expected - got, vocabulary)} should"  # fmt: skip
            check(matcher, text, expected)
            going_on = sorted(expected - {END})
            if not going_on:
                break
            token = rng.choice(going_on)
            assert matcher.accept(token)
            text += vocabulary.tokens[token]


def shown(tokens: set[int], vocabulary: Vocabulary) -> list[bytes]:
    return [vocabulary.tokens[token] or b"</s>" for token in sorted(tokens)]


def nothing(matcher: Matcher, text: bytes, expected: set[int]) -> None:
    pass


# ---------------------------------------------------------------- the reference itself


@QUIET
@given(finite_specs(), st.integers(0, 9))
def test_the_two_halves_of_the_reference_agree(spec: Spec, seed: int) -> None:
    graph = raw_graph(spec)
    check_rules(graph)
    texts = words(graph, 60, alphabet=BYTES)
    rng = random.Random(seed)
    for text in sorted(texts)[:40]:
        assert ends(graph, text)
        changed = bytearray(text or b"a")
        changed[rng.randrange(len(changed))] = rng.choice(ALPHABET)
        assert ends(graph, bytes(changed)) == (bytes(changed) in texts)
        shorter = text[: rng.randrange(len(text) + 1)]
        assert ends(graph, shorter) == (shorter in texts)


# ---------------------------------------------------------------- masks


@QUIET
@given(finite_specs(), LONGER, st.integers(0, 9))
def test_masks_of_random_structures_are_exactly_the_tokens_that_can_be_completed(
    spec: Spec, longer: list[bytes], seed: int
) -> None:
    vocabulary = vocabulary_of(longer)
    language = Language(raw_graph(spec), 80, more=0)
    automaton = automaton_of(spec, vocabulary)
    assert (automaton is None) == (not language.texts)
    if automaton is not None:
        visit(language, automaton, random.Random(seed), 5, 14, nothing)


@QUIET
@given(recursive_specs(), LONGER, st.integers(0, 9))
def test_masks_of_random_recursive_structures_are_exactly_the_tokens_that_can_be_completed(
    spec: Spec, longer: list[bytes], seed: int
) -> None:
    vocabulary = vocabulary_of(longer)
    language = Language(raw_graph(spec), 9, more=0)
    assume(len(language.texts) < 3000)
    automaton = automaton_of(spec, vocabulary)
    assert automaton is not None
    for text in random.Random(seed).sample(language.texts, min(10, len(language.texts))):
        check_path(language, automaton, text, random.Random(seed))


def finish(matcher: Matcher, token: int, text: bytes, vocabulary: Vocabulary) -> bytes:
    """`text`, the token and a completion of them within what `shortest` promises."""
    assert matcher.accept(token)
    text += vocabulary.tokens[token]
    while not matcher.is_complete():
        following = min(allowed(matcher, vocabulary, matcher.shortest()))
        assert matcher.accept(following)
        text += vocabulary.tokens[following]
    return text


def check_path(language: Language, automaton: Automaton, text: bytes, rng: random.Random) -> None:
    """On the way to a text of the language every token that a text up to the longest begins with is allowed, and
    what is allowed beyond them can be completed."""
    vocabulary, matcher, here = automaton.vocabulary, automaton.matcher(), b""
    while True:
        got = allowed(matcher, vocabulary)
        expected = language.tokens(here, vocabulary)
        assert expected <= got, f"after {here!r}: {shown(expected - got, vocabulary)} should be allowed"
        for token in rng.sample(sorted(got - expected), min(2, len(got - expected))):
            assert token != END, here
            finished = finish(matcher.copy(), token, here, vocabulary)
            assert ends(language.graph, finished), f"{finished!r} is no text"
        if here == text:
            assert matcher.is_complete()
            return
        token = rng.choice([t for t in got if t != END and text.startswith(here + vocabulary.tokens[t])])
        assert matcher.accept(token)
        here += vocabulary.tokens[token]


# ---------------------------------------------------------------- the rest of the contract


@QUIET
@given(finite_specs(), LONGER, st.integers(0, 9))
def test_completion_and_forced_text_are_exact(spec: Spec, longer: list[bytes], seed: int) -> None:
    vocabulary = vocabulary_of(longer)
    language = Language(raw_graph(spec), 80, more=0)
    automaton = automaton_of(spec, vocabulary)
    assume(automaton is not None)
    assert automaton is not None

    def check(matcher: Matcher, text: bytes, expected: set[int]) -> None:
        assert matcher.is_complete() == (END in expected)
        assert matcher.is_finished() == (expected == {END})
        endings = language.endings(text)
        forced = matcher.forced()
        assert all(ending.startswith(forced) for ending in endings), (text, forced)
        assert forced == common(endings), (text, forced)

    visit(language, automaton, random.Random(seed), 3, 12, check)


def common(texts: list[bytes]) -> bytes:
    shortest, longest = min(texts), max(texts)
    length = next((i for i, (a, b) in enumerate(zip(shortest, longest, strict=False)) if a != b), len(shortest))
    return shortest[:length]


@QUIET
@given(finite_specs(), LONGER, st.integers(0, 9))
def test_budgets_leave_room_to_finish(spec: Spec, longer: list[bytes], seed: int) -> None:
    vocabulary = vocabulary_of(longer)
    language = Language(raw_graph(spec), 80, more=0)
    automaton = automaton_of(spec, vocabulary)
    assume(automaton is not None)
    assert automaton is not None

    def fewest(text: bytes) -> int:
        return min(vocabulary.fewest_tokens(ending)[0] for ending in language.endings(text))

    def check(matcher: Matcher, text: bytes, expected: set[int]) -> None:
        shortest = matcher.shortest()
        assert shortest >= fewest(text), f"after {text!r}: no completion has {shortest} tokens"
        assert (shortest == 0) == (END in expected)
        for remaining in {0, 1, shortest - 1, shortest, shortest + 1, shortest + 3, 90} - {-1}:
            got = allowed(matcher, vocabulary, remaining)
            assert got <= expected
            assert got or remaining < shortest, f"after {text!r} with {remaining} tokens: dead end"
            for token in got - {END}:
                begun = text + vocabulary.tokens[token]
                assert fewest(begun) <= remaining - 1, f"{begun!r} does not fit into {remaining} tokens"
                assert matcher.accept(token)
                assert allowed(matcher, vocabulary, remaining - 1), f"{begun!r} with {remaining - 1} left: dead end"
                matcher.rollback(1)

    visit(language, automaton, random.Random(seed), 2, 10, check)


@QUIET
@given(st.one_of(finite_specs(), recursive_specs()), LONGER, st.integers(0, 9), st.integers(0, 12))
def test_random_walks_under_a_budget_end_in_the_language(
    spec: Spec, longer: list[bytes], seed: int, spare: int
) -> None:
    vocabulary = vocabulary_of(longer)
    graph, automaton, rng = raw_graph(spec), automaton_of(spec, vocabulary), random.Random(seed)
    assume(automaton is not None)
    assert automaton is not None
    for _ in range(3):
        matcher, text = automaton.matcher(), b""
        for remaining in range(matcher.shortest() + spare, -1, -1):
            got = allowed(matcher, vocabulary, remaining)
            assert got, f"dead end after {text!r} with {remaining} tokens left"
            going_on = sorted(got - {END})
            if END in got and (not going_on or rng.random() < 0.2):
                break
            token = rng.choice(going_on)
            assert matcher.accept(token)
            text += vocabulary.tokens[token]
        assert matcher.is_complete()
        assert ends(graph, text), text


@QUIET
@given(st.one_of(finite_specs(), recursive_specs()), LONGER, st.integers(0, 9))
def test_accept_rollback_and_copy_agree_with_the_masks(spec: Spec, longer: list[bytes], seed: int) -> None:
    vocabulary = vocabulary_of(longer)
    automaton, rng = automaton_of(spec, vocabulary), random.Random(seed)
    assume(automaton is not None)
    assert automaton is not None
    matcher, masks, twins = automaton.matcher(), [], []
    for _ in range(10):
        mask = allowed(matcher, vocabulary)
        masks.append(mask)
        twins.append(matcher.copy())
        for token in range(-1, vocabulary.size + 1):
            probe = matcher.copy()
            assert probe.accept(token) == (token in mask), token
        going_on = sorted(mask - {END})
        if not going_on:
            break
        assert matcher.accept(rng.choice(going_on))
    else:
        masks.append(allowed(matcher, vocabulary))
    for mask, twin in zip(masks, twins, strict=False):
        assert allowed(twin, vocabulary) == mask
    fresh = automaton_of(spec, vocabulary)
    assert fresh is not None
    assert allowed(fresh.matcher(), vocabulary) == masks[0]
    for mask in reversed(masks[:-1]):
        matcher.rollback(1)
        assert allowed(matcher, vocabulary) == mask
    automaton.forget()
    assert allowed(matcher, vocabulary) == masks[0]
    assert allowed(twins[-1], vocabulary) == masks[len(twins) - 1]


# ---------------------------------------------------------------- endless languages, by hand

STAR: Spec = ("terminal", ("repeat", ("bytes", ((ord("a"), ord("b")),)), 0, None))
PLUS: Spec = ("terminal", ("repeat", ("bytes", ((ord("a"), ord("b")),)), 1, None))
LETTER: Spec = ("terminal", ("bytes", ((ord("a"), ord("b")),)))
KEY: Spec = ("then", ("text", b'"'), ("repeat", ("bytes", ((ord("a"), ord("b")),)), 0, None), ("text", b'"'))
BRACES = tuple(("text", mark) for mark in (b"{}", b"{", b"}", b",", b":"))
BRACKETS = tuple(("text", mark) for mark in (b"[]", b"[", b"]", b","))
ENDLESS: dict[str, Spec] = {
    "extras of any key": ("object", BRACES, [], [(KEY, [(LETTER, ())])], True, 1, None, ()),
    "extras between listed ones": (
        "object", BRACES, [(b'"a"', [(LETTER, ())], True), (b'"b"', [(STAR, ())], False)], [(KEY, [(STAR, ())])],
        True, 2, 3, (),
    ),
    "a key that may not come": ("object", BRACES, [(b'"a"', [], False)], [(KEY, [(LETTER, ())])], False, 0, 2, ()),
    "distinct items": ("array", BRACKETS, [], [(PLUS, ())], 2, None, (), True),
    "few distinct items": ("array", BRACKETS, [], [(LETTER, ())], 0, None, (), True),
    "items that count": (
        "array", BRACKETS, [], [(("terminal", ("text", b"a")), (0,)), (("terminal", ("text", b"b")), ())],
        0, None, ((2, 3),), False,
    ),
    "lists of lists": (
        "rules", ("array", BRACKETS, [], [(("call", 0), ()), (LETTER, ())], 0, None, (), False), ("call", 0),
    ),
    "mutual recursion": (
        "rules", ("either", ("array", BRACKETS, [], [(("call", 1), ())], 0, 2, (), False), LETTER),
        ("object", BRACES, [(b'"a"', [(("call", 0), ())], True)], [], True, 0, None, ()), ("call", 0),
    ),
    "a repeat of objects": (
        "repeat", ("object", BRACES, [(b'"a"', [(LETTER, ())], True)], [], True, 0, None, ()), 1, None
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDLESS)
@pytest.mark.parametrize("longer", [[], [b'"a"', b'{"', b'":a', b"},", b",a", b"],", b"a]", b'","', b"aa"]], ids=len)
def test_masks_of_endless_structures_are_exact(name: str, longer: list[bytes]) -> None:
    vocabulary = vocabulary_of(longer)
    automaton = automaton_of(ENDLESS[name], vocabulary)
    assert automaton is not None
    language = Language(raw_graph(ENDLESS[name]), 12, more=10)
    rng = random.Random(4)
    for text in rng.sample(language.texts, min(6, len(language.texts))):
        check_path(language, automaton, text, rng)
