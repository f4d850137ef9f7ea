"""The compiled constraints an engine holds, by key: bounded in bytes, never dropped while a request needs them.

    no user     dropped, the least recently used first
    in use      kept, but rows and states that can be made again are forgotten, the largest automaton first
    awaited     kept: a request that was sent back for one of its keys names these, too

One that takes long to make is made in pieces (pieces.py): it is defined at once, and ready later. This file knows
names and sizes. What an automaton is, is runtime/constrain's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from latticework.lang.errors import ConstraintError, LatticeworkError, RuntimeFailure
from latticework.runtime.constrain.base import Automaton, Matcher, Search
from latticework.runtime.schedule.pieces import Job, Pieces, gone
from latticework.runtime.schedule.sequence import Owner

Build = Callable[[bytes], Automaton]
"""From an encoded rule graph to an automaton over the engine's vocabulary."""

EXPANSION = 28  # a rule graph that is ready for use takes about so many times its encoded bytes
MAX_AWAITED = 1024  # requests sent back for a key; those of a front that never sends them again must not add up


@dataclass(slots=True)
class _Entry:
    automaton: Automaton | LatticeworkError | None  # the error: a rule graph that could not be used; None: not ready
    rules_bytes: int
    making: Job[Automaton] | None = None
    users: int = 0
    size: int = 0  # when it was last measured
    least: int = 0  # size without anything that `forget` drops

    def measure(self) -> None:
        cached = (
            0 if self.automaton is None or isinstance(self.automaton, LatticeworkError) else self.automaton.cached_bytes
        )
        self.size = self.rules_bytes + cached


class Automata:
    """Owner of all automata of one engine. All of them together hold at most `limit_bytes`, and beyond it only
    what those in use cannot do without.

    forgotten: how often rows and states of an automaton in use were given up. pieces: makes automata between steps;
    without it each is made when it is defined. dropped_bytes: what all that was dropped or given up has held.
    """

    def __init__(self, build: Build, limit_bytes: int, pieces: Pieces | None = None, expansion: int = 1) -> None:
        """expansion: bytes that one byte of an encoded rule graph becomes."""
        self._expansion = expansion
        self._build = build
        self._pieces = pieces
        self._limit = limit_bytes
        self._entries: dict[str, _Entry] = {}  # least recently used first
        self._awaited: dict[tuple[Owner, int], list[str]] = {}  # keys by request, the longest awaited first
        self._size = 0
        self.forgotten = 0
        self.dropped_bytes = 0

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size(self) -> int:
        """Bytes held."""
        return self._size

    # ------------------------------------------------------------ names

    def define(self, key: str, rules: bytes) -> None:
        """Never raises: a rule graph that cannot be used fails the requests that name it. A key names content, so
        defining it again changes nothing."""
        known = self._entries.pop(key, None)
        if known is not None:
            self._entries[key] = known
            return
        self.trim()  # before it comes in: its first request is on its way
        entry = self._entries[key] = _Entry(None, self._expansion * len(rules))
        if self._pieces is None:
            _settle(entry, partial(self._build, rules))
        else:
            fault = partial(self._is_unwanted, key, entry)
            entry.making = self._pieces.start(partial(self._build, rules), "making its automaton", fault)
        self._measure(entry)
        entry.least = entry.size

    def are_ready(self, keys: Iterable[str]) -> bool:
        """All of these, defined before, can be used now."""
        return all(self._is_ready(self._entries[key]) for key in keys)

    def _is_ready(self, entry: _Entry) -> bool:
        making = entry.making
        if making is None:
            return True
        if not making.is_done:
            return False
        entry.making = None
        _settle(entry, making.result)
        self._measure(entry)
        entry.least = entry.size
        return True

    def _is_unwanted(self, key: str, entry: _Entry) -> LatticeworkError | None:
        """The fault of an automaton that was dropped before it was ready."""
        return None if self._entries.get(key) is entry else gone()

    def missing(self, keys: Iterable[str]) -> str | None:
        """The first key that is not defined."""
        return next((key for key in keys if key not in self._entries), None)

    def expect(self, request: tuple[Owner, int], keys: list[str]) -> None:
        """Keeps these keys, defined or not yet, until `expected` is told of the same request: it will come again."""
        self._awaited.pop(request, None)
        self._awaited[request] = keys
        if len(self._awaited) > MAX_AWAITED:
            del self._awaited[next(iter(self._awaited))]

    def expected(self, request: tuple[Owner, int]) -> None:
        """The request has come, or will not come any more. Ignored if it was not awaited."""
        self._awaited.pop(request, None)

    def expect_nothing_of(self, owner: Owner) -> None:
        """None of its requests will come any more."""
        self._awaited = {request: keys for request, keys in self._awaited.items() if request[0] != owner}

    # ------------------------------------------------------------ users

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
        return self.automaton(key).matcher()

    def healing_matcher(self, key: str, prefix: bytes) -> Matcher:
        """One that spells `prefix` first. Raises what was wrong with the rule graph."""
        return self.automaton(key).healing_matcher(prefix)

    def search(self, key: str) -> Search:
        """A fresh search. Raises what was wrong with the rule graph, or if it has the empty text."""
        return self.automaton(key).search()

    def automaton(self, key: str) -> Automaton:
        """Raises what was wrong with the rule graph."""
        automaton = self._entries[key].automaton
        if automaton is None:
            raise RuntimeFailure("the compiled constraint is used before it is ready")
        if isinstance(automaton, LatticeworkError):
            raise automaton
        return automaton

    # ------------------------------------------------------------ memory

    def grown(self, key: str) -> int:
        """To be told when an automaton has computed something. Makes room when all of them hold too much. Returns the
        bytes that this one holds."""
        entry = self._entries[key]
        self._measure(entry)
        self.trim()
        return entry.size

    def flush(self) -> None:
        """Drops every automaton that nobody uses or awaits."""
        awaited = {key for keys in self._awaited.values() for key in keys}
        for key, entry in list(self._entries.items()):
            if entry.users == 0 and key not in awaited:
                self._drop(key)

    def trim(self) -> None:
        if self._size <= self._limit:
            return
        awaited = {key for keys in self._awaited.values() for key in keys}
        for key, entry in list(self._entries.items()):
            if entry.users == 0 and key not in awaited:
                self._drop(key)
                if self._size <= self._limit:
                    return
        for entry in sorted(self._entries.values(), key=lambda entry: -entry.size):
            if isinstance(entry.automaton, LatticeworkError | None) or entry.size <= entry.least:
                continue
            if entry.automaton.forget():
                self.forgotten += 1
                self.dropped_bytes += entry.size
                self._measure(entry)
                self.dropped_bytes -= entry.size
                entry.least = entry.size
                if self._size <= self._limit:
                    return

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key)
        self._size -= entry.size
        self.dropped_bytes += entry.size

    def _measure(self, entry: _Entry) -> None:
        self._size -= entry.size
        entry.measure()
        self._size += entry.size


def _settle(entry: _Entry, make: Callable[[], Automaton]) -> None:
    """Puts an automaton, or what is wrong with it, where it belongs."""
    try:
        entry.automaton = make()
    except LatticeworkError as error:
        entry.automaton = error.with_traceback(None)  # which would hold the rule graph
    except Exception as error:
        entry.automaton = ConstraintError(f"the compiled constraint cannot be used: {error}", field="constraint")
