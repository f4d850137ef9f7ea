"""A lease in the engine, as those who continue from it share it."""

from __future__ import annotations

from latticework.lang.errors import ErrorData
from latticework.runtime.link.engine_link import EngineLink


class Hold:
    """A lease that whoever shares it lets go of once; the last one gives it back. One the engine never granted, or
    one of an engine that is gone, is given back to no effect.

    filling: the request that computes its text, while that is under way; nobody waits for it. error: why that request
    failed, so that there is no lease."""

    def __init__(self, link: EngineLink) -> None:
        self.id = link.number()
        self.generation = link.generation
        self._link = link
        self.filling: int | None = None
        self.error: ErrorData | None = None
        self._holders = 1

    def share(self) -> Hold:
        self._holders += 1
        return self

    def drop(self) -> None:
        self._holders -= 1
        if self._holders == 0:
            if self.filling is not None:
                self._link.cancel(self.filling)
            self._link.release(self.id, self.generation)
