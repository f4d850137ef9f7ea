"""Sets of strings: a list of words, or a language of the algebra. Closed under `meet` and `join`."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from latticework.lang.errors import ConstraintError
from latticework.runtime.constrain.algebra import Text, any_text, both, either, has_word, is_never, negate, word_set
from latticework.runtime.constrain.base import Limits

_FEW_STATES = Limits(states=40)


class Strings(msgspec.Struct, frozen=True, eq=False):
    """Either `words`, in the order that they were listed, or the language `text` (every string where it is None)
    without the words `excluded`."""

    words: tuple[str, ...] | None = None
    text: Text | None = None
    excluded: frozenset[str] = frozenset()
    _is_never: bool | None = None

    @property
    def is_never(self) -> bool:
        """Whether surely no string is left, as far as that shows without the excluded words and in few states."""
        if self._is_never is None:
            msgspec.structs.force_setattr(self, "_is_never", self._find())
        return self._is_never is True

    def _find(self) -> bool:
        if self.words is not None or self.text is None:
            return self.words == ()
        try:
            return is_never(self.text, _FEW_STATES)
        except ConstraintError:
            return False

    def has(self, word: str) -> bool:
        if self.words is not None:
            return word in self.words
        return word not in self.excluded and (self.text is None or has_word(self.text, word))

    def as_text(self) -> Text:
        if self.words is not None:
            return word_set(self.words)
        if not self.excluded:
            return any_text() if self.text is None else self.text
        others = negate(word_set(self.excluded))
        return others if self.text is None else both(self.text, others)


ALL_STRINGS = Strings()
NO_STRINGS = Strings(())


def meet_strings(a: Strings, b: Strings) -> Strings:
    """What is in both."""
    if a is ALL_STRINGS or b is ALL_STRINGS:
        return b if a is ALL_STRINGS else a
    if a.words is None and b.words is not None:
        a, b = b, a
    if a.words is not None:
        allowed = set(b.words) if b.words is not None else None
        return Strings(tuple(word for word in a.words if (b.has(word) if allowed is None else word in allowed)))
    excluded = a.excluded | b.excluded
    if a.text is None or b.text is None or a.text is b.text:
        return Strings(None, a.text or b.text, excluded)
    return Strings(None, both(a.text, b.text), excluded)


def join_strings(a: Strings, b: Strings) -> Strings:
    """What is in either."""
    if a is ALL_STRINGS or b is ALL_STRINGS:
        return ALL_STRINGS
    if a.words is not None and b.words is not None:
        return Strings(tuple(dict.fromkeys((*a.words, *b.words))))
    if a.words == () or b.words == ():
        return b if a.words == () else a
    if a.text is None and b.text is None:
        for one, other in ((a, b), (b, a)):
            if one.words is None:
                return _but(frozenset(word for word in one.excluded if not other.has(word)))
    return Strings(None, either(a.as_text(), b.as_text()))


def all_but(words: Iterable[str]) -> Strings:
    """Every string that is not among `words`."""
    return _but(frozenset(words))


def complement(strings: Strings) -> Strings:
    """Every string that is not in `strings`."""
    if strings.words is not None:
        return _but(frozenset(strings.words))
    if strings.text is None:
        return Strings(tuple(sorted(strings.excluded)))
    return Strings(None, negate(strings.as_text()))


def _but(excluded: frozenset[str]) -> Strings:
    return Strings(None, None, excluded) if excluded else ALL_STRINGS
