"""What the parsers of patterns make: texts, and the few constructs that look around them.

A part without an assertion is a `Text` at once. Anchors, word boundaries, lookaheads, and whatever holds one of them
stay a tree, which `assertions.py` turns into a text once it is known what follows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from latticework.runtime.constrain.text_kinds import Text
from latticework.runtime.constrain.texts import either, literal, repeat, seq


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """Nothing stands before."""


@dataclass(frozen=True, slots=True, eq=False)
class End:
    """Nothing follows, or (`or_newline`) a last newline alone."""

    or_newline: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Boundary:
    """Of the characters on both sides, exactly one is of a word; `negated`: both or none, but (`not_empty`, as Python
    has it until 3.14) not in the empty string."""

    negated: bool
    not_empty: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Ahead:
    """A text of `item` comes next, or (`negated`) none does."""

    item: Tree
    negated: bool


@dataclass(frozen=True, slots=True, eq=False)
class Concatenation:
    items: tuple[Tree, ...]
    can_be_empty: bool


@dataclass(frozen=True, slots=True, eq=False)
class Alternation:
    branches: tuple[Tree, ...]
    can_be_empty: bool


@dataclass(frozen=True, slots=True, eq=False)
class Repetition:
    """`item`, `low` to `high` times; high None is no bound. position: where the pattern says so."""

    item: Tree
    low: int
    high: int | None
    position: int
    can_be_empty: bool


Tree: TypeAlias = Text | Start | End | Boundary | Ahead | Concatenation | Alternation | Repetition


def can_be_empty(tree: Tree) -> bool:
    """A match may have no character, assertions apart."""
    if isinstance(tree, Text):
        return tree.nullable
    return isinstance(tree, Start | End | Boundary | Ahead) or tree.can_be_empty


@dataclass(slots=True)
class Group:
    """An open group of a pattern: what it holds so far. is_ahead: it is a lookahead, `negated` or not."""

    position: int
    flags: frozenset[str]
    is_ahead: bool = False
    negated: bool = False
    branches: list[Tree] = field(default_factory=list)
    items: list[Tree] = field(default_factory=list)
    letters: list[str] = field(default_factory=list)  # literal characters not yet in `items`
    repeatable: bool = False  # the last item may take a quantifier

    def add_letter(self, letter: str) -> None:
        self.letters.append(letter)
        self.repeatable = True

    def add(self, item: Tree, *, repeatable: bool = True) -> None:
        if self.letters:
            self._flush()
        self.items.append(item)
        self.repeatable = repeatable

    def repeat_last(self, low: int, high: int | None, position: int) -> None:
        """The last item, `low` to `high` times; nothing else may repeat it again."""
        item: Tree
        if self.letters:
            item = literal(self.letters.pop())
            if self.letters:
                self._flush()
        else:
            item = self.items.pop()
        if isinstance(item, Text):
            self.items.append(repeat(item, low, high))
        else:
            self.items.append(Repetition(item, low, high, position, low == 0 or can_be_empty(item)))
        self.repeatable = False

    @property
    def is_empty(self) -> bool:
        return not self.items and not self.letters

    def end_branch(self) -> None:
        if self.letters:
            self._flush()
        self.branches.append(_concatenation(self.items))
        self.items = []
        self.repeatable = False

    def close(self) -> Tree:
        self.end_branch()
        if len(self.branches) == 1:
            item = self.branches[0]
        elif all(isinstance(branch, Text) for branch in self.branches):
            item = either(*(branch for branch in self.branches if isinstance(branch, Text)))
        else:
            item = Alternation(tuple(self.branches), any(map(can_be_empty, self.branches)))
        return Ahead(item, self.negated) if self.is_ahead else item

    def _flush(self) -> None:
        self.items.append(literal("".join(self.letters)))
        self.letters.clear()


def _concatenation(items: list[Tree]) -> Tree:
    joined: list[Tree] = []
    texts: list[Text] = []  # that stand side by side
    for item in items:
        if isinstance(item, Text):
            texts.append(item)
            continue
        if texts:
            joined.append(seq(*texts))
            texts = []
        joined.append(item)
    if texts or not joined:
        joined.append(seq(*texts))
    return joined[0] if len(joined) == 1 else Concatenation(tuple(joined), all(map(can_be_empty, joined)))
