"""Rows found through loops and counts, against the walk of the whole trie from the same state: tokens and prices."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest

from latticework.lang.ir import Choices, Constraint, JsonSchema, Regex
from latticework.runtime.constrain import Automaton, Vocabulary, to_rules
from latticework.runtime.constrain.characters import Characters, Reach
from latticework.runtime.constrain.clock import ENDLESS
from latticework.runtime.constrain.frames import Thread
from latticework.runtime.constrain.parts import Parts
from latticework.runtime.constrain.places import State
from latticework.runtime.constrain.terminals import Terminal
from tests.runtime.constrain.oracle import allowed, byte_vocabulary

PIECES = ["a", "b", "é", "語", "😀", "END", " ", "  ", '"', "\\n", "aaaa", "bab", " aé", " bb", "é é", "a語b", "😀a"]
CONSTRAINTS: list[Constraint] = [
    Regex(".*"),
    Regex(".{0,9}"),
    Regex(".{2,7}END"),
    Regex("[ab é]{1,5}"),
    Regex("[^b]{3,}b?"),
    Regex(r"(\w{1,5}\s){1,4}END"),
    Regex(r"\w+( \w+){0,3}"),
    Regex("(aa|b)*"),
    Regex("[a-zé]{3,12}@(x|yy)"),
    Regex(r'"[^"\\]*(\\.[^"\\]*)*"'),
    Choices(("é", "aa", "ab", "aé", "éa", "éé", "aaa", "aaaa", "語", "é語b")),
    Regex("[aé]{0,5}語"),
    Regex("[^é]{1,6}é[^語]{0,2}"),
    Regex("(.{1,4}é){1,3}"),
    Regex("(a|ab|é){1,7}b"),
    Regex("([aé語]{1,3} ){2,4}END"),
    Regex(r"(\w{1,3}\w{2,4}){1,3}x"),
    Regex("((a{1,3}b?){1,2}|é{2}){1,12} ?"),
    Regex(".{4,30}.{0,9}(b{5}|é+)"),
    Regex("(?=.*é)(?!.*b b)[abé ]{3,14}"),
    JsonSchema({"type": "string", "pattern": "^[aé]+( [bé]+){1,3}$", "minLength": 4, "maxLength": 11}),
    JsonSchema({"type": "array", "items": {"type": "string", "maxLength": 4}, "minItems": 1, "maxItems": 5}),
    JsonSchema({"type": "string", "minLength": 3, "maxLength": 6}),
    JsonSchema({"type": "array", "items": {"type": "string"}}),
    JsonSchema({"type": "string", "not": {"enum": ["bab", "END b", "a", "é é", "語b語b"]}}),
    Regex("(?!ab|aé)[ab é]*"),
]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    """Whole characters, their pieces, and tokens that begin or end inside one."""
    rng = random.Random(4)
    words = {"".join(rng.choices(PIECES, k=rng.randint(1, 4))).encode() for _ in range(600)}
    spaced = {b" " + word for word in words}
    cut = {word[rng.randint(0, 2) : len(word) - rng.randint(0, 2)] for word in words}
    broken = {b"\xc3", b"a\xc3", b"\xa9a", b"\xff", b"\xe8\xaa", b"a\xf0\x9f\x98", b"\xc3\xc3", b" \xc3", b"\xc0\x80"}
    return byte_vocabulary(*sorted((words | spaced | cut | broken) - {b""}))


def plain(terminal: Terminal, state: State) -> tuple[dict[int, int], set[int]]:
    """Token by token, byte by byte: what each costs that stays inside, and the trie nodes where others leave."""
    costs: dict[int, int] = {}
    exits: set[int] = set()
    trie = terminal.vocabulary.trie
    for token, text in enumerate(terminal.vocabulary.tokens):
        here: State | None = state if text else None
        node = 0
        for place, byte in enumerate(text):
            here = terminal.step(here, byte) if here is not None else None
            if here is None:
                break
            node = trie.child(node, byte)
            if here.is_complete and place + 1 < len(text):
                exits.add(node)
        if here is not None:
            costs[token] = here.cost
    return costs, exits


def check(thread: Thread, parts: Parts, is_whole: bool) -> None:
    assert thread.terminal is not None
    assert thread.state is not None
    terminal = thread.terminal
    relaxed = terminal.states.relax(terminal.states.adopt(thread.state))
    costs, exits = plain(terminal, thread.state)
    inside = terminal.inside(relaxed)
    assert len(set(inside.tokens.tolist())) == len(inside.tokens), "a token is reached twice"
    assert dict(zip(inside.tokens.tolist(), inside.costs.tolist(), strict=True)) == costs
    exits = set() if is_whole else exits
    assert set(inside.exits.tolist()) == exits
    part = parts.whole(terminal, relaxed, ENDLESS)
    tokens = set(part.few)
    if part.words is not None:
        tokens |= set(np.flatnonzero(np.unpackbits(part.words.view(np.uint8), bitorder="little")).tolist())
    assert tokens == set(costs)
    assert part.most >= max(costs.values(), default=0)
    assert set([] if part.exits is None else part.exits.nodes) == exits


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=str)
def test_rows_and_prices_equal_the_plain_walk(constraint: Constraint, vocabulary: Vocabulary) -> None:
    automaton = Automaton(to_rules(constraint), vocabulary)
    rng = random.Random(8)
    for _ in range(6):
        matcher = automaton.matcher()
        for step in range(10):
            if step == 4:
                automaton.forget()
            assert matcher._config is not None
            for thread in matcher._config.threads:
                if isinstance(thread, Thread):
                    check(thread, automaton.rows._parts, automaton.frames.is_regular)
            going_on = sorted(allowed(matcher, vocabulary) - set(vocabulary.end_ids))
            if not going_on:
                break
            assert matcher.accept(rng.choice(going_on))


def test_a_state_that_excludes_a_word_is_told_by_what_distinguishes_it(vocabulary: Vocabulary) -> None:
    (thread,) = Automaton(to_rules(Regex("(?!END b).*")), vocabulary).frames.start.threads
    assert isinstance(thread, Thread)
    assert thread.terminal is not None
    assert thread.state is not None
    relaxed = thread.terminal.states.relax(thread.state)
    difference = thread.terminal.difference(relaxed)
    assert difference is not None
    assert 0 < len(difference.gone) < 100 < len(thread.terminal.inside(relaxed).tokens)
    assert thread.terminal.difference(difference.base) is None


@pytest.mark.parametrize("pattern", [r"(\w{1,3}\s){1,4}END", "(ab|é|語)*[^a]x?", "(?!ab|aé)[ab é]*"])
def test_the_bytes_that_go_on_are_known_without_their_transitions(pattern: str) -> None:
    states = Automaton(to_rules(Regex(pattern)), byte_vocabulary()).states
    index = 1
    while index < min(states.size, 60):
        before = np.flatnonzero(states.goes_on(index)).tolist()
        assert before == sorted(states.arrows(index)) == np.flatnonzero(states.goes_on(index)).tolist()
        index += 1


def test_budgeted_rows_near_a_count_equal_the_plain_walk(vocabulary: Vocabulary) -> None:
    automaton = Automaton(to_rules(Regex("[ab é]{4,9}END")), vocabulary)
    matcher = automaton.matcher()
    for _ in range(9):
        assert matcher._config is not None
        (thread,) = matcher._config.threads
        assert isinstance(thread, Thread)
        assert thread.terminal is not None
        assert thread.state is not None
        prices, _ = plain(thread.terminal, thread.state)
        for remaining in range(matcher.shortest() + 3):
            assert allowed(matcher, vocabulary, remaining) == {t for t, cost in prices.items() if cost < remaining}
        assert matcher.accept(ord("a"))


def test_runs_are_the_tokens_made_of_the_given_characters(vocabulary: Vocabulary) -> None:
    characters = vocabulary.characters
    texts = [bytes(text[:n]) for text, n in zip(characters.texts, characters.lengths.tolist(), strict=True)]
    chosen = {b"a", "é".encode(), "😀".encode(), b" "}
    members = np.array([text in chosen for text in texts])
    runs = characters.runs(0, members, ~members)
    counts = dict(zip(runs.tokens.tolist(), runs.counts.tolist(), strict=True))
    for token, data in enumerate(vocabulary.tokens):
        text = data.decode(errors="replace")
        is_run = bool(data) and all(letter.encode() in chosen for letter in text)
        assert counts.get(token) == (len(text) if is_run else None)
    assert characters.runs(0, members, ~members) is runs
    assert max(counts.values()) == runs.longest


def test_kept_runs_stay_within_their_bound(vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    characters = Characters(vocabulary.trie)
    everything, nothing = np.ones(len(characters.texts), bool), np.zeros(len(characters.texts), bool)
    size = Reach(characters, 0, everything).nbytes
    monkeypatch.setattr("latticework.runtime.constrain.characters.RUN_BYTES", 3 * size)
    for number in range(20):
        characters.runs(0, np.arange(len(characters.texts)) != number, nothing)
        assert characters._kept_bytes == sum(runs.nbytes for runs in characters._kept.values()) <= 3 * size


def test_a_vocabulary_without_tokens_to_write_has_no_characters() -> None:
    characters = Vocabulary([b"", b""], end_ids=(0,)).characters
    assert len(characters.texts) == 0
    assert characters.heavy is None


@pytest.mark.parametrize(
    ("pattern", "places"), [(r"\w{1,50}", 1), (r"(\w{1,50}\s){1,100}END", 1), ("[ -~é-語]*", 2), ("(ab|ac|é)+", 1)]
)
def test_a_set_of_characters_is_one_place_however_many_it_has(pattern: str, places: int) -> None:
    states = Automaton(to_rules(Regex(pattern)), byte_vocabulary()).states
    assert len(states.start.places) == places  # the end is one


def test_far_counts_share_their_masks(vocabulary: Vocabulary) -> None:
    automaton = Automaton(to_rules(Regex(r"([abé]{1,90} ){1,40}END")), vocabulary)
    matcher = automaton.matcher()
    states = automaton.states
    kept: set[State] = set()
    for text in ["a", "é", "bab", " ", "a", "a", " ", "bab"] * 4:
        assert matcher.accept(vocabulary.tokens.index(text.encode()))
        assert matcher._config is not None
        (thread,) = matcher._config.threads
        assert isinstance(thread, Thread)
        assert thread.state is not None
        kept.add(states.relax(states.adopt(thread.state)))
    assert len(kept) == 2  # after a letter, after a blank


@pytest.mark.parametrize(
    ("alphabet", "first", "last"),
    [(b"ab", b"ab", b"ab"), (b"ab ", b"ab", b" "), (b"aEND", b"E", b"aD"), (b"ab", b"", b"b")],
)
def test_rounds_are_counted_in_the_token_with_the_most(
    vocabulary: Vocabulary, alphabet: bytes, first: bytes, last: bytes
) -> None:
    most = 0
    for token in vocabulary.tokens:
        begun = 0
        for before, byte in pairwise(token):
            begun = begun + (before in last and byte in first) if byte in alphabet else 0
            most = max(most, begun)
    sets = [np.isin(np.arange(256), list(letters)) for letters in (alphabet, first, last)]
    assert vocabulary.characters.most_rounds(*sets) == 1 + most
