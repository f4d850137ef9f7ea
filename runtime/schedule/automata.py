"""The compiled constraints an engine holds, by key: bounded in bytes, never dropped while a request needs them.

This file knows names and sizes. What an automaton is, is runtime/constrain's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from latticework.lang.errors import ConstraintError, LatticeworkError
from latticework.runtime.constrain.base import Automaton, Matcher

Build = Callable[[bytes], Automaton]
"""From an encoded rule graph to an automaton over the engine's vocabulary."""


@dataclass(slots=True)
class _Entry:
    automaton: Automaton | LatticeworkError  # the error: a rule graph that could not be used
    rules_bytes: int
    users: int = 0

    @property
    def size(self) -> int:
        return self.rules_bytes + (0 if isinstance(self.automaton, LatticeworkError) else self.automaton.cached_bytes)


class Automata:
    """Owner of all automata of one engine. Those without users go, the least recently used first, when all of
    them together exceed `limit_bytes`."""

    def __init__(self, build: Build, limit_bytes: int) -> None:
        self._build = build
        self._limit = limit_bytes
        self._entries: dict[str, _Entry] = {}  # least recently used first

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def define(self, key: str, rules: bytes) -> None:
        """Never raises: a rule graph that cannot be used fails the requests that name it. A key names content, so
        defining it again changes nothing."""
        known = self._entries.pop(key, None)
        if known is not None:
            self._entries[key] = known
            return
        automaton: Automaton | LatticeworkError
        try:
            automaton = self._build(rules)
        except LatticeworkError as error:
            automaton = error
        except Exception as error:
            automaton = ConstraintError(f"the compiled constraint cannot be used: {error}", field="constraint")
        self.trim()  # before it comes in: its first request is on its way
        self._entries[key] = _Entry(automaton, len(rules))

    def missing(self, keys: Iterable[str]) -> str | None:
        """The first key that is not defined."""
        return next((key for key in keys if key not in self._entries), None)

    def acquire(self, keys: Iterable[str]) -> None:
        """Keeps automata until `release`, once for each."""
        for key in keys:
            entry = self._entries.pop(key)
            entry.users += 1
            self._entries[key] = entry

    def release(self, keys: Iterable[str]) -> None:
        for key in keys:
            entry = self._entries[key]
            assert entry.users > 0
            entry.users -= 1
        self.trim()

    def matcher(self, key: str) -> Matcher:
        """A fresh matcher. Raises what was wrong with the rule graph."""
        automaton = self._entries[key].automaton
        if isinstance(automaton, LatticeworkError):
            raise automaton
        return automaton.matcher()

    def trim(self) -> None:
        total = sum(entry.size for entry in self._entries.values())
        for key, entry in list(self._entries.items()):
            if total <= self._limit:
                return
            if entry.users == 0:
                total -= entry.size
                del self._entries[key]
