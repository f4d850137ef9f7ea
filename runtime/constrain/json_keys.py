"""Sets of object keys, as keywords speak of them: those that patterns match, those that nothing else names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from latticework.lang.errors import ConstraintError
from latticework.runtime.constrain.algebra import Text, both, has_word, negate
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.character_machines import have_word
from latticework.runtime.constrain.derivatives import Derivatives

_MAX_CLASSES = 64


class Keys(msgspec.Struct, frozen=True):
    """The keys that are in all of `texts`, in none of `outside`, and not among `names`."""

    texts: tuple[Text, ...] = ()
    outside: tuple[Text, ...] = ()
    names: frozenset[str] = frozenset()

    def has(self, name: str) -> bool:
        if name in self.names:
            return False
        if not self.texts and not self.outside:
            return True
        return all(has_word(text, name) for text in self.texts) and not any(
            has_word(text, name) for text in self.outside
        )

    @property
    def patterns(self) -> tuple[Text, ...]:
        return (*self.texts, *self.outside)


ALL_KEYS = Keys()
KeyClass: TypeAlias = tuple[Text, Callable[[Keys], bool]]
"""Keys, and whether they are in a set of keys, names aside."""


def key_classes(texts: tuple[Text, ...], limits: Limits, tick: Callable[[], None]) -> list[KeyClass]:
    """All keys, by which of the texts have them. Raises ConstraintError."""
    derivatives = Derivatives(*texts, tick=tick)
    classes: list[tuple[Text, ...]] = [()]  # the texts that have the keys of a class; those before, not in it, do not
    for number, text in enumerate(texts):
        before = texts[:number]
        split = [((*inside, text), _others(before, inside)) for inside in classes]
        split += [(inside, (*_others(before, inside), text)) for inside in classes]
        classes = [inside for inside, outside in split if have_word(derivatives, inside, outside, limits, tick)]
        if len(classes) > _MAX_CLASSES:
            raise ConstraintError(f"the patterns tell more than {_MAX_CLASSES} kinds of keys apart")
    return [(both(*inside, *map(negate, _others(texts, inside))), _is_inside(frozenset(inside))) for inside in classes]


def _others(texts: tuple[Text, ...], some: tuple[Text, ...]) -> tuple[Text, ...]:
    return tuple(text for text in texts if text not in some)


def _is_inside(inside: frozenset[Text]) -> Callable[[Keys], bool]:
    return lambda keys: inside.issuperset(keys.texts) and inside.isdisjoint(keys.outside)
