"""Questions about texts: does it have a word, which, is it part of another; intersections of few words."""

from __future__ import annotations

from collections.abc import Callable

from latticework.runtime.constrain import texts
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.character_machines import all_words, first_word
from latticework.runtime.constrain.derivatives import has_word
from latticework.runtime.constrain.text_kinds import Both, Literal, Text, Words
from latticework.runtime.constrain.texts import negate, word_set


def both(*items: Text) -> Text:
    """The words that all of the items have; written out where one of the items has few."""
    found = texts.both(*items)
    if isinstance(found, Both):
        for finite in found.items:
            if isinstance(finite, Literal | Words):
                others = [item for item in found.items if item is not finite]
                given = (finite.text,) if isinstance(finite, Literal) else finite.words
                return word_set(word for word in given if all(has_word(other, word) for other in others))
    return found


def is_never(text: Text, limits: Limits | None = None, tick: Callable[[], None] | None = None) -> bool:
    """`text` has no word. Raises ConstraintError where that takes too many states; tick may raise to stop."""
    return not first_word(text, limits or Limits(), tick)


def is_subset(
    smaller: Text, larger: Text, limits: Limits | None = None, tick: Callable[[], None] | None = None
) -> bool:  # fmt: skip
    """Every word of `smaller` is one of `larger`."""
    return smaller is larger or is_never(both(smaller, negate(larger)), limits, tick)


def words(text: Text, limit: int) -> list[str] | None:
    """All words in code point order; None where there are more than `limit`, or it takes too long to tell."""
    return all_words(text, limit)


__all__ = ["both", "has_word", "is_never", "is_subset", "words"]
