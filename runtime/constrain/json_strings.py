"""Sets of strings: a list of words, or a language of the algebra. Closed under `meet` and `join`."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from latticework.runtime.constrain.algebra import Text, any_text, both, either, has_word, is_never, literal, negate


class Strings(msgspec.Struct, frozen=True, eq=False):
    """Either `words`, in the order that they were listed, or the language `text`; every string where both are None."""

    words: tuple[str, ...] | None = None
    text: Text | None = None

    @property
    def is_never(self) -> bool:
        return self.words == ()

    def as_text(self) -> Text:
        if self.words is not None:
            return either(*map(literal, self.words))
        return any_text() if self.text is None else self.text


ALL_STRINGS = Strings()
NO_STRINGS = Strings(())


def meet_strings(a: Strings, b: Strings) -> Strings:
    """What is in both."""
    if a is ALL_STRINGS or b is ALL_STRINGS:
        return b if a is ALL_STRINGS else a
    if a.words is None and b.words is not None:
        a, b = b, a
    if a.words is not None:
        if b.words is not None:
            allowed = set(b.words)
            return Strings(tuple(word for word in a.words if word in allowed))
        language = b.as_text()
        return Strings(tuple(word for word in a.words if has_word(language, word)))
    text = both(a.as_text(), b.as_text())
    return NO_STRINGS if is_never(text) else Strings(None, text)


def join_strings(a: Strings, b: Strings) -> Strings:
    """What is in either."""
    if a is ALL_STRINGS or b is ALL_STRINGS or a is b:
        return ALL_STRINGS if a is not b else a
    if a.words is not None and b.words is not None:
        return Strings(tuple(dict.fromkeys((*a.words, *b.words))))
    if a.is_never or b.is_never:
        return b if a.is_never else a
    return Strings(None, either(a.as_text(), b.as_text()))


def all_but(words: Iterable[str]) -> Strings:
    """Every string that is not among `words`."""
    return Strings(None, negate(either(*map(literal, words))))
