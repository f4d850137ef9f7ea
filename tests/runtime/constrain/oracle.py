"""What the constraint tests share: small vocabularies, masks as sets, and walks under a budget."""

from __future__ import annotations

import random

import numpy as np

from latticework.runtime.constrain import Automaton, Matcher, Vocabulary


def byte_vocabulary(*longer: bytes, without: bytes = b"") -> Vocabulary:
    """Every byte as a token (but those in `without`), then `longer`; the last two ids are a special token and the
    end token."""
    tokens = [bytes([byte]) if byte not in without else b"" for byte in range(256)]
    return Vocabulary([*tokens, *longer, b"", b""], end_ids=(256 + len(longer) + 1,))


def allowed(matcher: Matcher, vocabulary: Vocabulary, remaining: int | None = None) -> set[int]:
    """The ids whose bit is set."""
    row = np.full(vocabulary.words, -1, np.int32)
    matcher.fill_mask(row, remaining)
    bits = np.unpackbits(row.view(np.uint8), bitorder="little")
    assert not bits[vocabulary.size :].any(), "bits beyond the vocabulary"
    return set(np.flatnonzero(bits).tolist())


def accepts(automaton: Automaton, text: bytes) -> bool:
    """Whether `text` is in the language, byte by byte."""
    matcher = automaton.matcher()
    vocabulary = automaton.vocabulary
    for byte in text:
        token = vocabulary.token_for(bytes([byte]))
        if token is None or not matcher.accept(token):
            return False
    return matcher.is_complete()


def walk(automaton: Automaton, budget: int, rng: random.Random, end: float = 0.3) -> bytes:
    """A random text of at most `budget` tokens, drawn from the masks, which must never be empty before the text is
    complete. `end`: how likely it stops where it may."""
    matcher, vocabulary = automaton.matcher(), automaton.vocabulary
    assert matcher.shortest() <= budget
    text = b""
    for remaining in range(budget, -1, -1):
        choices = allowed(matcher, vocabulary, remaining)
        ends = choices & set(vocabulary.end_ids)
        assert bool(ends) == matcher.is_complete()
        going_on = sorted(choices - ends)
        if ends and (not going_on or rng.random() < end):
            assert matcher.accept(next(iter(ends)))
            assert matcher.is_finished()
            return text
        assert going_on, f"dead end after {text!r} with {remaining} tokens left"
        token = rng.choice(going_on)
        assert matcher.accept(token)
        text += vocabulary.tokens[token]
    raise AssertionError(f"out of budget after {text!r}")
