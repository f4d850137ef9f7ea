"""The kinds of expression that a `Text` is made of, and the table that keeps equal ones one object.

The table holds them weakly: an expression goes when nobody uses it. How expressions are made, `texts.py` knows.
"""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakValueDictionary

from latticework.runtime.constrain.rules import Ranges

MANY = 1 << 40  # where lengths stop being counted

_interned: WeakValueDictionary[tuple[object, ...], Text] = WeakValueDictionary()


class Text:
    """A language. nullable: it has the empty word. shortest, longest: bounds on the characters of its words, exact
    where `is_plain`; longest None is no bound. Made by the functions of `texts.py` alone."""

    __slots__ = ("__weakref__", "automaton", "is_plain", "longest", "nullable", "shortest")

    nullable: bool
    shortest: int
    longest: int | None
    is_plain: bool
    automaton: object  # kept by `derivatives.py`


class Never(Text):
    """No word."""

    __slots__ = ()


class Empty(Text):
    """The empty word alone."""

    __slots__ = ()


class Literal(Text):
    """One word, not empty."""

    __slots__ = ("text",)
    text: str


class Characters(Text):
    """One character out of `ranges`, of which there are at least two."""

    __slots__ = ("ranges",)
    ranges: Ranges


class Words(Text):
    """Any one of many words: sorted, distinct, none empty."""

    __slots__ = ("words",)
    words: tuple[str, ...]


class Then(Text):
    """`first`, then `rest`; `first` is no `Then`."""

    __slots__ = ("first", "rest")
    first: Text
    rest: Text


class Union(Text):
    """Any one of `items`."""

    __slots__ = ("items",)
    items: tuple[Text, ...]


class Repeat(Text):
    """`item` `low` to `high` times; high None is no bound."""

    __slots__ = ("high", "item", "low")
    item: Text
    low: int
    high: int | None


class Both(Text):
    """The words that all of `items` have."""

    __slots__ = ("items",)
    items: tuple[Text, ...]


class Complement(Text):
    """The words that `item` does not have."""

    __slots__ = ("item",)
    item: Text


class Unfolding(Text):
    """A language that `unfold` writes down only when it is needed: what a repeated assertion comes to."""

    __slots__ = ()

    def unfold(self) -> Text:
        """An equal text, whose words begin outside of `self`."""
        raise NotImplementedError

    def sets(self) -> Iterable[Ranges]:
        """Every set of characters that unfolding may ever bring."""
        raise NotImplementedError

    def parts(self) -> tuple[Text, ...]:
        """Texts that unfolding brings as they are."""
        raise NotImplementedError


def known_text(key: tuple[object, ...]) -> Text | None:
    """The text made under `key`, while somebody holds it."""
    return _interned.get(key)


def finish(
    made: Text, key: tuple[object, ...], shortest: int, longest: int | None, nullable: bool, plain: bool
) -> None:
    """Completes `made` and makes it the text of `key`."""
    made.shortest = min(shortest, MANY)
    made.longest = longest if longest is None else min(longest, MANY)
    made.nullable = nullable
    made.is_plain = plain
    made.automaton = None
    _interned[key] = made


def intern(made: Text, key: tuple[object, ...], *, shortest: int, longest: int | None, nullable: bool) -> Text:
    """`made`, or the text known by the same key: for kinds of `Unfolding`."""
    known = _interned.get(key)
    if known is not None:
        return known
    finish(made, key, shortest, longest, nullable, False)
    return made


def _constant(made: Text, longest: int | None, nullable: bool) -> Text:
    finish(made, (type(made),), 0, longest, nullable, True)
    return made


NEVER = _constant(Never(), 0, False)
EMPTY = _constant(Empty(), 0, True)
