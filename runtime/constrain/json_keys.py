"""Sets of object keys, as keywords speak of them: those that patterns match, those that nothing else names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from latticework.lang.errors import ConstraintError
from latticework.runtime.constrain.algebra import Text, any_text, both, has_word, is_never, negate
from latticework.runtime.constrain.base import Limits

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
    classes: list[tuple[Text, frozenset[Text]]] = [(any_text(), frozenset())]
    for text in texts:
        split = [(both(keys, text), inside | {text}) for keys, inside in classes]
        split += [(both(keys, negate(text)), inside) for keys, inside in classes]
        classes = [(keys, inside) for keys, inside in split if not is_never(keys, limits, tick)]
        if len(classes) > _MAX_CLASSES:
            raise ConstraintError(f"the patterns tell more than {_MAX_CLASSES} kinds of keys apart")
    return [(keys, _is_inside(inside)) for keys, inside in classes]


def _is_inside(inside: frozenset[Text]) -> Callable[[Keys], bool]:
    return lambda keys: inside.issuperset(keys.texts) and inside.isdisjoint(keys.outside)
