"""A lease in the engine, as those who continue from it share it."""

from __future__ import annotations

from latticework.runtime.link.engine_link import EngineLink


class Hold:
    """A lease that whoever shares it lets go of once; the last one gives it back. One the engine never granted, or
    one of an engine that is gone, is given back to no effect."""

    def __init__(self, link: EngineLink) -> None:
        self.id = link.number()
        self.generation = link.generation
        self._link = link
        self._holders = 1

    def share(self) -> Hold:
        self._holders += 1
        return self

    def drop(self) -> None:
        self._holders -= 1
        if self._holders == 0:
            self._link.release(self.id, self.generation)
