"""What followed the last few tokens of a text where they stood before in it: prompt lookup.

Saxena: "Prompt Lookup Decoding", 2023. Text that copies, lists or repeats goes on as it did before more often than
not; other text does not, so a lookup keeps count of how far it could be trusted. This file knows tokens as numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SAME = 3  # so many tokens have to be the same for what followed them to be a guess
FIRST, LONGEST = 4, 16  # tokens of a guess, at first and at most
PAUSE = 16  # tokens for which nothing is looked up after guesses that came to nothing
_BITS = 21  # of a token id in the number of a few tokens


class Lookup:
    """One text, read as it grows. length: tokens of the next guess. resumes: before the text has so many tokens,
    nothing is guessed."""

    __slots__ = ("_count", "_keys", "length", "resumes")

    def __init__(self) -> None:
        self.length = FIRST
        self.resumes = 0
        self._keys = np.full(256, -1, np.int64)  # of the last SAME tokens up to each place
        self._count = 0

    def continuation(self, tokens: Sequence[int], room: int) -> tuple[int, ...]:
        """At most `room` tokens that may follow `tokens`; what repeats is taken to go on repeating. `tokens` begin
        with those of the call before, but for what was cut since."""
        end = len(tokens)
        if end < self.resumes or end <= SAME:
            return ()
        self._read(tokens)
        same = np.flatnonzero(self._keys[: end - 1] == self._keys[end - 1])
        if not len(same):
            return ()
        start = int(same[-1]) + 1
        return tuple(tokens[start + index % (end - start)] for index in range(min(room, self.length)))

    def learn(self, drafted: int, accepted: int, end: int) -> None:
        """Longer guesses after one that was right throughout, shorter ones after one that was not, and none for a
        while after several that were wrong at once. end: tokens of the text by now."""
        if drafted == 0:
            return
        if accepted == drafted:
            self.length = min(LONGEST, 2 * self.length)
        elif accepted:
            self.length = max(2, accepted)
        elif self.length > 1:
            self.length //= 2
        else:
            self.length, self.resumes = 2, end + PAUSE

    def cut(self, end: int) -> None:
        """The text ends there now."""
        self._count = min(self._count, end)

    def _read(self, tokens: Sequence[int]) -> None:
        """Brings the keys up to the end of the text."""
        first, end = self._count, len(tokens)
        if len(self._keys) < end:
            self._keys = np.concatenate([self._keys[:first], np.full(2 * end - first, -1, np.int64)])
        begin = max(first, SAME - 1)  # the places before have no key
        recent = np.array(tokens[begin - SAME + 1 : end], np.int64)
        self._keys[begin:end] = recent[: 1 - SAME] << 2 * _BITS | recent[1 : 2 - SAME] << _BITS | recent[SAME - 1 :]
        self._count = end


__all__ = ["Lookup"]
