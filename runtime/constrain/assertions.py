r"""Patterns with anchors, word boundaries and lookaheads -> texts.

A tree is read from its end: what a part means depends on what follows it, a text by then, and on the last character
before it, of which there are three kinds (none, of a word, another). So every part has several meanings, a `Tail`.
`$` is the intersection of what follows with the empty word, `(?=x)` its intersection with `x` and anything, `(?!x)`
with the complement of that. A repeated part that holds an assertion is an `Unfolding`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass

from latticework.lang.errors import RegexError, point_at
from latticework.runtime.constrain.pattern_tree import (
    Ahead,
    Alternation,
    Boundary,
    Concatenation,
    End,
    Repetition,
    Start,
    Tree,
    can_be_empty,
)
from latticework.runtime.constrain.ranges import ANY, subtract, union
from latticework.runtime.constrain.rules import Ranges
from latticework.runtime.constrain.text_kinds import (
    EMPTY,
    NEVER,
    Characters,
    Empty,
    Literal,
    Repeat,
    Text,
    Then,
    Unfolding,
    Union,
    Words,
    intern,
)
from latticework.runtime.constrain.texts import ANYTHING, both, chars, either, literal, negate, nonempty, repeat, seq

ASCII_WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_NEWLINE: Ranges = ((0x0A, 0x0A),)
_UNROLLED = 8  # a repeat of an assertion, at most this often, is written out


@dataclass(frozen=True, slots=True)
class Tail:
    """What follows, where no character has been read yet; where one of a word was the last; where another one was.
    What stands before the first character read is known beside: nothing ("start") or a character ("word", "other")."""

    fresh: Text
    word: Text
    other: Text

    def map(self, change: Callable[[Text], Text]) -> Tail:
        if self.fresh is self.word is self.other:
            return same(change(self.fresh))
        return Tail(change(self.fresh), change(self.word), change(self.other))


Steps = Generator[tuple[Tree, Tail], Tail, Tail]


def same(text: Text) -> Tail:
    return Tail(text, text, text)


class Assertions:
    """The trees of one pattern. word: the characters of words, for boundaries."""

    def __init__(self, pattern: str, word: Ranges, tick: Callable[[], None]) -> None:
        self.pattern = pattern
        self.word = word
        self._tick = tick

    def whole(self, tree: Tree) -> Text:
        """The texts that the tree matches from the first to the last character."""
        return self.before(tree, same(EMPTY)).fresh

    def anywhere(self, tree: Tree) -> Text:
        """The texts that hold a match."""
        if isinstance(tree, Text):
            return seq(ANYTHING, tree, ANYTHING)
        tail = self.before(tree, same(ANYTHING))
        if tail.word is tail.other:
            later = tail.other
            if later is NEVER:
                return tail.fresh
            found = seq(ANYTHING, later)
            if tail.fresh is later:
                return found
            begun = set(later.items if isinstance(later, Union) else (later,))
            own = tail.fresh.items if isinstance(tail.fresh, Union) else (tail.fresh,)
            if begun.issubset(own):
                return either(found, *(item for item in own if item not in begun))
            return either(tail.fresh, seq(_some(ANY), later))
        return either(
            tail.fresh,
            seq(ANYTHING, chars(self.word), tail.word),
            seq(ANYTHING, chars(subtract(ANY, self.word)), tail.other),
        )

    def before(self, tree: Tree, tail: Tail, stands: str = "start") -> Tail:
        """What `tree` and then `tail` come to. stands: what stands before the first character read."""
        work = [self._steps(tree, tail, stands)]
        answer: Tail | None = None
        while True:  # no recursion: groups nest deeper than Python's stack
            self._tick()
            try:
                asked = next(work[-1]) if answer is None else work[-1].send(answer)
            except StopIteration as done:
                work.pop()
                answer = done.value
                if not work:
                    return done.value
            else:
                work.append(self._steps(*asked, stands))
                answer = None

    def _steps(self, tree: Tree, tail: Tail, stands: str) -> Steps:
        """Yields the trees and tails whose meaning it needs, and is sent it."""
        match tree:
            case Text():
                return self._text(tree, tail)
            case Concatenation(items):
                for item in reversed(items):
                    tail = self._text(item, tail) if isinstance(item, Text) else (yield item, tail)
                return tail
            case Alternation(branches):
                tails = []
                for branch in branches:
                    tails.append((yield branch, tail))
                return Tail(
                    either(*(each.fresh for each in tails)),
                    either(*(each.word for each in tails)),
                    either(*(each.other for each in tails)),
                )
            case Start():
                return Tail(tail.fresh if stands == "start" else NEVER, NEVER, NEVER)
            case End(or_newline):
                last = either(EMPTY, literal("\n")) if or_newline else EMPTY
                return tail.map(lambda text: both(text, last))
            case Boundary():
                return self._boundary(tree, tail, stands)
            case Ahead(item, negated):
                ahead = yield item, same(ANYTHING)
                if negated:
                    ahead = ahead.map(negate)
                if ahead.fresh is ahead.word is ahead.other:
                    return tail.map(lambda text: both(text, ahead.fresh))
                return Tail(
                    both(tail.fresh, ahead.fresh), both(tail.word, ahead.word), both(tail.other, ahead.other)
                )  # fmt: skip
            case Repetition():
                return (yield from self._repetition(tree, tail, stands))

    def _text(self, text: Text, tail: Tail) -> Tail:
        if tail.word is tail.other:
            if not text.nullable or tail.fresh is tail.other:
                return same(seq(text, tail.other))
            later = seq(nonempty(text), tail.other)
            return Tail(either(tail.fresh, later), *[either(tail.other, later)] * 2)
        in_word, rest = self._last(text)
        later = either(seq(in_word, tail.word), seq(rest, tail.other))
        return tail.map(lambda follows: either(follows, later)) if text.nullable else same(later)

    def _last(self, text: Text) -> tuple[Text, Text]:
        """The words of `text` that end in a word's character, and those that end in another one."""
        found = _last_characters(text)
        if found is not None and not text.nullable:
            is_inside, is_outside = not subtract(found, self.word), not _overlap(found, self.word)
            if is_inside:
                return text, NEVER
            if is_outside:
                return NEVER, text
        return (
            both(text, seq(ANYTHING, chars(self.word))),
            both(text, seq(ANYTHING, chars(subtract(ANY, self.word)))),
        )

    def _boundary(self, tree: Boundary, tail: Tail, stands: str) -> Tail:
        begins = seq(chars(self.word), ANYTHING)
        at_word, elsewhere = begins, negate(begins)
        if tree.negated:
            at_word, elsewhere = elsewhere, at_word
        if tree.not_empty and stands == "start":
            tail = Tail(nonempty(tail.fresh), tail.word, tail.other)
        fresh = elsewhere if stands == "word" else at_word
        return Tail(both(tail.fresh, fresh), both(tail.word, elsewhere), both(tail.other, at_word))

    def _repetition(self, tree: Repetition, tail: Tail, stands: str) -> Steps:
        low, high = tree.low, tree.high
        if isinstance(tree.item, Start | End | Boundary | Ahead):
            return tail if low == 0 else (yield tree.item, tail)
        if high is not None and high <= _UNROLLED:
            following = tail if low == 0 else same(NEVER)
            after = tail
            for count in range(1, high + 1):
                after = yield tree.item, after
                if count >= low:
                    following = _either(following, after)
            return following
        # Rounds that read nothing only assert: beyond the least number they can be left out.
        first = low if can_be_empty(tree.item) else 0
        if first > _UNROLLED:
            raise RegexError(
                "a group that holds an assertion, may be empty and is repeated so often: not supported in a constraint "
                f"(position {tree.position})\n{point_at(self.pattern, tree.position)}",
                field="regex",
                position=tree.position,
            )
        loop = _Loop(self, tree.item, tail, stands)
        after = loop.tail(low - first, None if high is None else high - first)
        for _ in range(first):
            after = yield tree.item, after
        return after


@dataclass(frozen=True, slots=True)
class _Loop:
    """`item` again and again, then `tail`."""

    of: Assertions
    item: Tree
    follows: Tail
    stands: str

    def tail(self, low: int, high: int | None) -> Tail:
        return Tail(*(self.rounds(low, high, kind) for kind in ("fresh", "word", "other")))

    def rounds(self, low: int, high: int | None, kind: str) -> Text:
        """`low` to `high` rounds more. kind: a field of `Tail`."""
        end: Text = getattr(self.follows, kind)
        if high == 0:
            return end
        made = Rounds()
        made.loop, made.low, made.high, made.kind = self, low, high, kind
        nullable = low == 0 and end.nullable
        return intern(made, (Rounds, self, low, high, kind), shortest=0, longest=None, nullable=nullable)


def _either(left: Tail, right: Tail) -> Tail:
    return Tail(either(left.fresh, right.fresh), either(left.word, right.word), either(left.other, right.other))


def _some(ranges: Ranges) -> Text:
    return repeat(chars(ranges), 1)


def _overlap(left: Ranges, right: Ranges) -> bool:
    return subtract(left, right) != left


class Rounds(Unfolding):
    """What `_Loop.rounds` makes. Every round reads a character."""

    __slots__ = ("high", "kind", "loop", "low")
    loop: _Loop
    low: int
    high: int | None
    kind: str

    def unfold(self) -> Text:
        loop = self.loop
        again = loop.tail(max(self.low - 1, 0), None if self.high is None else self.high - 1)
        stands = loop.stands if self.kind == "fresh" else self.kind
        found = loop.of.before(loop.item, Tail(NEVER, again.word, again.other), stands).fresh
        return either(getattr(loop.follows, self.kind), found) if self.low == 0 else found

    def sets(self) -> Iterable[Ranges]:
        return (self.loop.of.word, _NEWLINE)

    def parts(self) -> tuple[Text, ...]:
        follows = self.loop.follows
        return (*_texts(self.loop.item), follows.fresh, follows.word, follows.other)


def _texts(tree: Tree) -> Iterable[Text]:
    work = [tree]
    while work:
        match work.pop():
            case Text() as text:
                yield text
            case Concatenation(items) | Alternation(items):
                work += items
            case Ahead(item) | Repetition(item):
                work.append(item)
            case _:
                pass


def _last_characters(text: Text) -> Ranges | None:
    """The characters that the words of `text` end in, the empty word apart; None where that is not plain to see."""
    found: list[tuple[int, int]] = []
    work = [text]
    while work:
        match work.pop():
            case Literal() as part:
                found.append((ord(part.text[-1]), ord(part.text[-1])))
            case Characters() as part:
                found += part.ranges
            case Words() as part:
                found += ((ord(word[-1]), ord(word[-1])) for word in part.words)
            case Then() as part:
                work.append(part.rest)
                if part.rest.nullable:
                    work.append(part.first)
            case Union() as part:
                work += part.items
            case Repeat() as part:
                work.append(part.item)
            case Empty():
                pass
            case _:
                return None
    return union(found)
