"""Intersections walked side by side: what is left of each of several texts after the same characters.

A step costs a few look-ups where the intersection of what is left, as a text of its own, has to be made, simplified
and interned; and what is found of one text serves every intersection that it is part of. A complement is the text
below it, read the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from latticework.runtime.constrain.derivatives import Derivatives
from latticework.runtime.constrain.text_kinds import Complement, Text
from latticework.runtime.constrain.texts import ANYTHING


class Rests(NamedTuple):
    """What is left: a word must be in all of `wanted` and in none of `unwanted`. What every word is in, or none, is not
    among them."""

    wanted: tuple[Text, ...]
    unwanted: tuple[Text, ...]


class Intersection:
    """The words that all of `wanted` have and none of `unwanted`. derivatives: over an alphabet that tells all their
    characters apart."""

    def __init__(self, derivatives: Derivatives, wanted: Sequence[Text], unwanted: Sequence[Text] = ()) -> None:
        self._derivatives = derivatives
        self.start = Rests(
            (*_plain(wanted), *(text.item for text in unwanted if isinstance(text, Complement))),
            (*_plain(unwanted), *(text.item for text in wanted if isinstance(text, Complement))),
        )

    def accepts(self, rests: Rests) -> bool:
        """Whether a word may end here."""
        return all(text.nullable for text in rests.wanted) and not any(text.nullable for text in rests.unwanted)

    def surely_has_word(self, rests: Rests) -> bool:
        """Whether that shows at a glance."""
        if not rests.unwanted and (not rests.wanted or (len(rests.wanted) == 1 and rests.wanted[0].is_plain)):
            return True
        return self.accepts(rests)

    def moves(self, rests: Rests) -> list[tuple[int, Rests]]:
        """What they come to after one character, by sets of classes. What can surely not end in a word is left out."""
        every = self._derivatives.alphabet.all
        pieces: list[tuple[int, tuple[Text, ...], tuple[Text, ...]]] = [(every, (), ())]
        for text in rests.wanted:
            own = self._derivatives.moves(text)
            pieces = [
                (both, wanted if after is ANYTHING or after in wanted else (*wanted, after), unwanted)
                for mask, wanted, unwanted in pieces
                for other, after in own
                if (both := mask & other)
            ]
        for text in rests.unwanted:
            own = self._derivatives.moves(text)
            outside = every
            for mask, _ in own:
                outside &= ~mask
            left: list[tuple[int, tuple[Text, ...]]] = [
                (mask, (after,)) for mask, after in own if after is not ANYTHING
            ]
            left.append((outside, ()))
            pieces = [
                (both, wanted, (*unwanted, *more))
                for mask, wanted, unwanted in pieces
                for other, more in left
                if (both := mask & other)
            ]
        found: dict[Rests, int] = {}
        for mask, wanted, unwanted in pieces:
            after = Rests(wanted, unwanted)
            found[after] = found.get(after, 0) | mask
        return [(mask, after) for after, mask in found.items()]


def _plain(texts: Sequence[Text]) -> list[Text]:
    return [text for text in texts if not isinstance(text, Complement)]
