"""Intersections walked side by side, against the words that each of their texts has."""

from __future__ import annotations

import random
from itertools import product

import pytest

from latticework.runtime.constrain.algebra import from_pattern, has_word, negate
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.character_machines import character_machine, have_word
from latticework.runtime.constrain.derivatives import Derivatives
from latticework.runtime.constrain.intersections import Intersection
from latticework.runtime.constrain.json_keys import Keys, key_classes
from latticework.runtime.constrain.text_kinds import Text
from latticework.runtime.constrain.texts import both

PATTERNS = ["^a", "b$", "^(?:ab)*$", "aa", "^.{2,3}$", "^(?!ba)", "c?b", "^[^a]*$", "^(?:a|bc){1,2}$", "^$", "x"]
WORDS = ["".join(letters) for count in range(5) for letters in product("abc", repeat=count)]


def _random_texts(seed: int) -> tuple[list[Text], list[Text]]:
    rng = random.Random(seed)
    chosen = [from_pattern(pattern, "ecma") for pattern in rng.sample(PATTERNS, 4)]
    chosen = [negate(text) if rng.random() < 0.2 else text for text in chosen]
    return chosen[:2], chosen[2 : rng.randint(2, 4)]


@pytest.mark.parametrize("seed", range(60))
def test_a_walk_accepts_the_words_of_all_wanted_and_no_unwanted_texts(seed: int) -> None:
    wanted, unwanted = _random_texts(seed)
    derivatives = Derivatives(*wanted, *unwanted)
    walk = Intersection(derivatives, wanted, unwanted)
    found = []
    for word in WORDS:
        rests = [walk.start]
        for letter in word:
            bit = derivatives.alphabet.bit(letter)
            rests = [after for rest in rests for mask, after in walk.moves(rest) if mask & bit]
            assert len(rests) <= 1  # moves are disjoint
        if rests and walk.accepts(rests[0]):
            found.append(word)
    expected = [
        word
        for word in WORDS
        if all(has_word(text, word) for text in wanted) and not any(has_word(text, word) for text in unwanted)
    ]
    assert found == expected
    whole = both(*wanted, *map(negate, unwanted))
    has_some = character_machine(whole, Limits()) is not None
    assert has_some or not expected
    assert have_word(derivatives, wanted, unwanted, Limits()) == has_some


@pytest.mark.parametrize("seed", range(20))
def test_every_key_is_in_exactly_one_class_which_knows_its_patterns(seed: int) -> None:
    texts = tuple(from_pattern(pattern, "ecma") for pattern in random.Random(seed).sample(PATTERNS, 4))
    classes = key_classes(texts, Limits(), lambda: None)
    for word in WORDS:
        (has,) = [has for keys, has in classes if has_word(keys, word)]
        for text in texts:
            assert has(Keys((text,))) == has_word(text, word)
            assert has(Keys(outside=(text,))) != has_word(text, word)


def test_an_automaton_does_not_depend_on_how_its_text_was_put_together() -> None:
    parts = [from_pattern(pattern, "ecma") for pattern in ("^a.*", "b$", "cc")]
    one = character_machine(both(*parts), Limits())
    other = character_machine(both(both(parts[2], parts[1]), parts[0]), Limits())
    assert one is not None
    assert other is not None
    assert (one.accepts, one.moves, one.low, one.high) == (other.accepts, other.moves, other.low, other.high)
