"""Arrays and objects as items of an array without repeats: which texts write a value that is taken already.

Two texts write the same value when they differ in blanks between tokens and in the order of members alone: every
scalar and key is written in one way. `normal_text` is one text of each value. A `Copybook` follows a text byte by
byte for as long as it may still become a copy of a value that is taken, whatever the order of its members: its states
are sets of ways to go on, all values at once. What is no JSON is compared as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import IntEnum, auto
from typing import NamedTuple, TypeAlias

_BLANKS = b" \t\n\r"
_TOKEN = re.compile(rb'[ \t\n\r]*("(?:[^"\\]|\\.)*"|[\[\]{}:,]|[^ \t\n\r\[\]{}:,"]+)', re.DOTALL)


class Group(NamedTuple):
    """An array (no keys) or an object (a key for each value, sorted). text: its normal text."""

    is_object: bool
    keys: tuple[bytes, ...]
    values: tuple[Value, ...]
    text: bytes


Value: TypeAlias = bytes | Group


def normal_text(text: bytes) -> bytes:
    """The same for two texts exactly when they write the same value."""
    value = _read(text)
    return value if isinstance(value, bytes) else value.text


def _read(text: bytes) -> Value:
    """Without recursion: values may nest as deep as texts are long."""
    open_groups: list[tuple[bool, list[bytes], list[Value]]] = [(False, [], [])]
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            return text
        place = match.end()
        token = match[1]
        is_object, keys, values = open_groups[-1]
        if token in (b"{", b"["):
            open_groups.append((token == b"{", [], []))
        elif token in (b"}", b"]"):
            if len(open_groups) == 1 or is_object != (token == b"}") or (is_object and len(keys) != len(values)):
                return text
            open_groups.pop()
            open_groups[-1][2].append(_group(is_object, keys, values))
        elif token == b":":
            key = values.pop() if values else None
            if not isinstance(key, bytes) or not is_object:
                return text
            keys.append(key)
        elif token != b",":
            values.append(token)
    found = open_groups[0][2]
    return found[0] if len(open_groups) == 1 and len(found) == 1 else text


def _group(is_object: bool, keys: list[bytes], values: list[Value]) -> Group:
    if is_object:
        members = sorted(zip(keys, values, strict=True), key=lambda member: member[0])
        keys, values = [key for key, _ in members], [value for _, value in members]
    texts = [value if isinstance(value, bytes) else value.text for value in values]
    if is_object:
        text = b"{" + b",".join(key + b":" + text for key, text in zip(keys, texts, strict=True)) + b"}"
    else:
        text = b"[" + b",".join(texts) + b"]"
    return Group(is_object, tuple(keys), tuple(values), text)


class _Kind(IntEnum):
    END = auto()
    ITEMS = auto()
    ITEM = auto()
    MEMBERS = auto()
    KEY = auto()
    COLON = auto()
    VALUE = auto()


class _Task:
    """What must still be written: `kind` of `group`, then `rest`. at: of an array the next item, of an object a bit for
    each member that is not written; key: the member whose colon or value comes."""

    __slots__ = ("at", "group", "key", "kind", "rest")

    def __init__(self, kind: _Kind, group: Group | None, at: int, key: int, rest: _Task | None) -> None:
        self.kind = kind
        self.group = group
        self.at = at
        self.key = key
        self.rest = rest


class Way(NamedTuple):
    """One way to go on: the rest of a token, and the task after it. is_fresh: nothing of the token is written."""

    token: bytes
    is_fresh: bool
    task: _Task


Copies: TypeAlias = frozenset[Way]
"""Every way in which a text may go on to be a copy."""


class Copybook:
    """The values that `texts`, normal ones, write. start: the copies of them all, nothing written."""

    def __init__(self, texts: Iterable[bytes]) -> None:
        self._tasks: dict[tuple[_Kind, int, int, int, _Task | None], _Task] = {}
        self._steps: dict[tuple[Copies, int], Copies] = {}
        self._end = _Task(_Kind.END, None, 0, 0, None)
        self._values = [_read(text) for text in texts]  # held, because tasks know groups by identity
        self.start: Copies = frozenset(way for value in self._values for way in self._begin(value, self._end))

    def step(self, copies: Copies, byte: int) -> Copies:
        """What is left of `copies` after one more byte."""
        if not copies:
            return copies
        known = self._steps.get((copies, byte))
        if known is None:
            known = self._steps[copies, byte] = frozenset(self._step(copies, byte))
        return known

    def has_copy(self, copies: Copies) -> bool:
        """Whether the text is a copy as it stands."""
        return any(way.task is self._end and not way.token for way in copies)

    @staticmethod
    def next_bytes(copies: Copies) -> set[int]:
        """The bytes, blanks aside, after which some copies are left."""
        return {way.token[0] for way in copies if way.token}

    def _step(self, copies: Copies, byte: int) -> Iterator[Way]:
        for way in copies:
            if way.is_fresh and byte in _BLANKS:
                yield way
            elif way.token and way.token[0] == byte:
                if len(way.token) > 1:
                    yield Way(way.token[1:], False, way.task)
                else:
                    yield from self._then(way.task)

    def _then(self, task: _Task) -> Iterator[Way]:
        group, rest = task.group, task.rest
        if group is None or rest is None:
            yield Way(b"", False, task)
            return
        match task.kind:
            case _Kind.ITEMS if task.at == len(group.values):
                yield Way(b"]", True, rest)
            case _Kind.ITEMS if task.at:
                yield Way(b",", True, self._task(_Kind.ITEM, group, task.at, 0, rest))
            case _Kind.ITEMS | _Kind.ITEM:
                yield from self._begin(group.values[task.at], self._task(_Kind.ITEMS, group, task.at + 1, 0, rest))
            case _Kind.MEMBERS if not task.at:
                yield Way(b"}", True, rest)
            case _Kind.MEMBERS if task.at != (1 << len(group.keys)) - 1:
                yield Way(b",", True, self._task(_Kind.KEY, group, task.at, 0, rest))
            case _Kind.MEMBERS | _Kind.KEY:
                for index, key in enumerate(group.keys):
                    if task.at >> index & 1:
                        left = task.at & ~(1 << index)
                        yield Way(key, True, self._task(_Kind.COLON, group, left, index, rest))
            case _Kind.COLON:
                yield Way(b":", True, self._task(_Kind.VALUE, group, task.at, task.key, rest))
            case _Kind.VALUE:
                yield from self._begin(group.values[task.key], self._task(_Kind.MEMBERS, group, task.at, 0, rest))

    def _begin(self, value: Value, rest: _Task) -> Iterator[Way]:
        if isinstance(value, bytes):
            yield Way(value, True, rest)
        elif value.is_object:
            yield Way(b"{", True, self._task(_Kind.MEMBERS, value, (1 << len(value.keys)) - 1, 0, rest))
        else:
            yield Way(b"[", True, self._task(_Kind.ITEMS, value, 0, 0, rest))

    def _task(self, kind: _Kind, group: Group, at: int, key: int, rest: _Task) -> _Task:
        known = self._tasks.get((kind, id(group), at, key, rest))
        if known is None:
            known = self._tasks[kind, id(group), at, key, rest] = _Task(kind, group, at, key, rest)
        return known


__all__ = ["Copies", "Copybook", "normal_text"]
