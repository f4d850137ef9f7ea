"""How JSON is laid out: the bytes between tokens, for each kind of whitespace."""

from __future__ import annotations

from dataclasses import dataclass

from latticework.runtime.constrain.builder import Builder

MAX_SPACES = 20  # of flexible whitespace in one place
MAX_INDENTED = 16  # how deep indented arrays and objects nest


@dataclass(frozen=True, slots=True)
class Marks:
    """Nodes of what stands around members, or items."""

    empty: int
    open: int
    close: int
    comma: int


class Layout:
    """whitespace: "compact", "spaced", "flexible", or the width of json.dumps' indent. Only that depends on depth."""

    def __init__(self, builder: Builder, whitespace: str | int) -> None:
        self.builder = builder
        self.indent = whitespace if isinstance(whitespace, int) else None
        self.has_whole_floats = whitespace == "flexible"
        self._marks: dict[tuple[bytes, int], Marks] = {}
        literal = builder.literal
        if whitespace == "flexible":
            space = builder.byte_set(((0x09, 0x0A), (0x0D, 0x0D), (0x20, 0x20)))
            self._space = builder.repeat(space, 0, MAX_SPACES)
            self.colon = builder.sequence([self._space, literal(b":"), self._space])
            self._comma = builder.sequence([self._space, literal(b","), self._space])
        else:
            self._space = literal(b"")
            self.colon = literal(b":" if whitespace == "compact" else b": ")
            self._comma = literal(b", " if whitespace == "spaced" else b",")

    def marks(self, brackets: bytes, depth: int) -> Marks:
        """brackets: b"[]" or b"{}"; depth: how many arrays and objects are around it."""
        key = (brackets, depth if self.indent is not None else 0)
        known = self._marks.get(key)
        if known is None:
            known = self._marks[key] = self._make(brackets[:1], brackets[1:], depth)
        return known

    def _make(self, opening: bytes, closing: bytes, depth: int) -> Marks:
        literal, sequence = self.builder.literal, self.builder.sequence
        if self.indent is None:
            before, after, between = self._space, self._space, self._comma
        else:
            inner = b"\n" + b" " * self.indent * (depth + 1)
            before, after = literal(inner), literal(b"\n" + b" " * self.indent * depth)
            between = literal(b"," + inner)
        empty = sequence([literal(opening), self._space, literal(closing)])
        return Marks(empty, sequence([literal(opening), before]), sequence([after, literal(closing)]), between)
