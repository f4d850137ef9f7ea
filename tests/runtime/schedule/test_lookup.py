"""What is guessed from earlier text, against looking for it plainly."""

from __future__ import annotations

import numpy as np
import pytest

from latticework.runtime.schedule.lookup import FIRST, LONGEST, PAUSE, SAME, Lookup


def plain(tokens: list[int], count: int) -> tuple[int, ...]:
    """The tokens behind the latest earlier place of the last SAME tokens, the text repeated behind itself."""
    for end in range(len(tokens) - 1, SAME - 1, -1):
        if tokens[end - SAME : end] == tokens[-SAME:]:
            period = tokens[end:]
            return tuple((period * count)[:count])
    return ()


@pytest.mark.parametrize("seed", range(20))
def test_the_continuation_is_what_stood_behind_the_same_tokens_last(seed: int) -> None:
    random = np.random.default_rng(seed)
    lookup, tokens = Lookup(), random.integers(3, size=int(random.integers(400))).tolist()
    found = 0
    for _ in range(60):
        guess = lookup.continuation(tokens, 7)
        assert guess == plain(tokens, min(7, lookup.length))
        found += bool(guess)
        if random.random() < 0.2:
            del tokens[len(tokens) - int(random.integers(len(tokens) + 1)) :]
            lookup.cut(len(tokens))
        tokens += random.integers(3, size=int(random.integers(1, 9))).tolist()
    assert found > 5


def test_large_token_ids_do_not_collide() -> None:
    top = (1 << 21) - 1
    lookup = Lookup()
    assert lookup.continuation([top, 0, top, 5, 0, top, top, 6, top, 0, top], 4)[0] == 5


def test_texts_too_short_to_repeat_have_no_continuation() -> None:
    for size in range(SAME + 1):
        assert Lookup().continuation([1] * size, 4) == ()


def test_guesses_grow_while_they_are_right_and_stop_for_a_while_when_they_are_wrong() -> None:
    lookup, tokens = Lookup(), [1] * 20
    assert len(lookup.continuation(tokens, 99)) == FIRST
    for _ in range(9):
        lookup.learn(lookup.length, lookup.length, len(tokens))
    assert len(lookup.continuation(tokens, 99)) == LONGEST
    lookup.learn(LONGEST, 3, len(tokens))
    assert len(lookup.continuation(tokens, 99)) == 3
    while lookup.continuation(tokens, 99):
        lookup.learn(lookup.length, 0, len(tokens))
    tokens += [1] * (PAUSE - 1)
    assert lookup.continuation(tokens, 99) == ()
    tokens.append(1)
    assert lookup.continuation(tokens, 99) == (1, 1)


def test_no_guess_teaches_nothing() -> None:
    lookup = Lookup()
    lookup.learn(0, 0, 10)
    assert lookup.length == FIRST
