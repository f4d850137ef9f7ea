"""Sets of object keys, as keywords speak of them: those that patterns match, those that nothing else names."""

from __future__ import annotations

import msgspec

from latticework.runtime.constrain.algebra import Text, has_word


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
