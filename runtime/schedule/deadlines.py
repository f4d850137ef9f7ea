"""Which open requests have run out of time. Knows keys and moments, nothing of requests."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

SLACK = 64  # entries of requests that ended in time, kept before they are swept out


class Deadlines(Generic[K]):
    """Owner of the moments; in the order of time whatever the order of `set`."""

    def __init__(self) -> None:
        self._moments: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._serial = itertools.count()

    def __len__(self) -> int:
        return len(self._moments)

    def set(self, key: K, moment: float) -> None:
        self._moments[key] = moment
        heapq.heappush(self._heap, (moment, next(self._serial), key))
        if len(self._heap) > 2 * len(self._moments) + SLACK:
            self._heap = [(moment, next(self._serial), key) for key, moment in self._moments.items()]
            heapq.heapify(self._heap)

    def forget(self, key: K) -> None:
        self._moments.pop(key, None)

    def expired(self, now: float) -> list[K]:
        """Every key whose moment has come; they are forgotten."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            moment, _, key = heapq.heappop(self._heap)
            if self._moments.get(key) == moment:
                del self._moments[key]
                found.append(key)
        return found
