"""What words a text has: Brzozowski's derivatives over classes of characters.

An `Alphabet` cuts the code points into the classes that no set of an expression tells apart; a set of classes is a
Python integer, one bit a class. `Derivatives` says what a text comes to after a character of each class (Brzozowski
1964; Owens, Reppy and Turon 2009). Everything is memoised and works with explicit stacks: no nesting is too deep.
Nothing here knows of bytes; `character_machines.py` turns this into automata.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence

from latticework.runtime.constrain.ranges import ANY, union
from latticework.runtime.constrain.rules import Ranges
from latticework.runtime.constrain.text_kinds import (
    EMPTY,
    NEVER,
    Both,
    Characters,
    Complement,
    Literal,
    Repeat,
    Text,
    Then,
    Unfolding,
    Union,
    Words,
)
from latticework.runtime.constrain.texts import ANYTHING, both, either, literal, negate, repeat, seq, word_set

Moves = tuple[tuple[int, Text], ...]  # disjoint sets of classes, and what is left after one of their characters

_KEPT = 20_000  # texts whose derivatives a text keeps for `has_word`


class Alphabet:
    """The classes of characters that `texts` and their derivatives tell apart. Class i is bit 1 << i."""

    def __init__(self, *texts: Text) -> None:
        self._masks: dict[Ranges, int] = {}
        self._bits: dict[str, int] = {}
        sets = list(_sets(texts))
        toggles: dict[int, int] = {}
        for index, ranges in enumerate(sets):
            bit = 1 << index
            for low, high in ranges:
                toggles[low] = toggles.get(low, 0) ^ bit
                toggles[high + 1] = toggles.get(high + 1, 0) ^ bit
        self._starts = sorted(toggles)
        self._bit_at: list[int] = []  # the class of the code points from each start on
        signature = 0
        classes: dict[int, int] = {}
        self.ranges: list[list[tuple[int, int]]] = []  # of each class
        for place, start in enumerate(self._starts):
            signature ^= toggles[start]
            if not signature & 1:  # the first set is all characters
                self._bit_at.append(0)
                continue
            number = classes.setdefault(signature, len(classes))
            self._bit_at.append(1 << number)
            if number == len(self.ranges):
                self.ranges.append([])
            self.ranges[number].append((start, self._starts[place + 1] - 1))
        self.all = (1 << len(classes)) - 1
        for index, ranges in enumerate(sets):
            self._masks[ranges] = sum(1 << number for sign, number in classes.items() if sign >> index & 1)

    def mask(self, ranges: Ranges) -> int:
        """The classes that `ranges`, a union of classes, has."""
        found = self._masks.get(ranges)
        if found is None:
            lows = [low for low, _ in ranges]
            found = 0
            for number, own in enumerate(self.ranges):
                place = bisect_right(lows, own[0][0]) - 1
                if place >= 0 and own[0][0] <= ranges[place][1]:
                    found |= 1 << number
            self._masks[ranges] = found
        return found

    def bit(self, character: str) -> int:
        """The class of `character`; 0 for a surrogate."""
        found = self._bits.get(character)
        if found is None:
            place = bisect_right(self._starts, ord(character)) - 1
            found = self._bits[character] = self._bit_at[place] if place >= 0 else 0
        return found

    def characters(self, mask: int) -> Ranges:
        """The characters of a set of classes."""
        found: list[tuple[int, int]] = []
        while mask:
            bit = mask & -mask
            found += self.ranges[bit.bit_length() - 1]
            mask ^= bit
        return union(found)


def _sets(texts: Iterable[Text]) -> Iterable[Ranges]:
    """Every set of characters in `texts`, all characters first."""
    found: dict[Ranges, None] = {ANY: None}
    letters: set[str] = set()
    work = list(texts)
    seen = set(work)

    def add(*parts: Text) -> None:
        for part in parts:
            if part not in seen:
                seen.add(part)
                work.append(part)

    while work:
        match work.pop():
            case Characters() as part:
                found[part.ranges] = None
            case Literal() as part:
                letters.update(part.text)
            case Words() as part:
                letters.update(*part.words)
            case Then() as part:
                add(part.first, part.rest)
            case Union() | Both() as part:
                add(*part.items)
            case Repeat() | Complement() as part:
                add(part.item)
            case Unfolding() as part:
                found.update(dict.fromkeys(part.sets()))
                add(*part.parts())
            case _:
                pass
    found.update(dict.fromkeys(((ord(letter), ord(letter)),) for letter in sorted(letters)))
    return found


class Derivatives:
    """The derivatives of `texts` and of what they lead to. tick: called for every new one; may raise to stop."""

    def __init__(self, *texts: Text, tick: Callable[[], None] | None = None) -> None:
        self.alphabet = Alphabet(*texts)
        self.size = 0  # texts whose moves are known
        self.work = 0  # moves looked at for them
        self._tick = tick
        self._moves: dict[Text, Moves] = {NEVER: (), EMPTY: (), ANYTHING: ((self.alphabet.all, ANYTHING),)}
        self._unfolded: dict[Text, Text] = {}

    def moves(self, text: Text) -> Moves:
        """What `text` comes to after one character, by its class. What is not there comes to no word at all."""
        known = self._moves
        found = known.get(text)
        if found is not None:
            return found
        work = [text]
        while work:
            part = work[-1]
            if part in known:
                work.pop()
                continue
            missing = [child for child in self._needed(part) if child not in known]
            if missing:
                work += missing
                continue
            if self._tick is not None:
                self._tick()
            self.size += 1
            self.work += sum(len(known[child]) for child in self._needed(part))
            known[part] = self._computed(part)
            work.pop()
        return known[text]

    def step(self, text: Text, character: str) -> Text:
        """What is left of `text` after `character`."""
        bit = self.alphabet.bit(character)
        for mask, following in self.moves(text):
            if mask & bit:
                return following
        return NEVER

    def _needed(self, text: Text) -> tuple[Text, ...]:
        match text:
            case Then():
                return (text.first, text.rest) if text.first.nullable else (text.first,)
            case Union() | Both():
                return text.items
            case Repeat() | Complement():
                return (text.item,)
            case Unfolding():
                if text not in self._unfolded:
                    self._unfolded[text] = text.unfold()
                return (self._unfolded[text],)
            case _:
                return ()

    def _computed(self, text: Text) -> Moves:
        known = self._moves
        match text:
            case Characters():
                return ((self.alphabet.mask(text.ranges), EMPTY),)
            case Literal():
                return ((self.alphabet.bit(text.text[0]), literal(text.text[1:])),)
            case Words():
                return self._word_moves(text.words)
            case Then():
                rest = text.rest
                first = [(mask, seq(after, rest)) for mask, after in known[text.first]]
                if text.first.nullable:
                    return _united([*first, *known[rest]])
                return _grouped(first)
            case Repeat():
                rest = repeat(text.item, max(text.low - 1, 0), None if text.high is None else text.high - 1)
                return _grouped([(mask, seq(after, rest)) for mask, after in known[text.item]])
            case Union():
                return _united([move for item in text.items for move in known[item]])
            case Both():
                return self._intersected(text)
            case Complement():
                moves = known[text.item]
                others = self.alphabet.all
                for mask, _ in moves:
                    others &= ~mask
                return _grouped([*((mask, negate(after)) for mask, after in moves), (others, ANYTHING)])
            case Unfolding():
                return known[self._unfolded[text]]
            case _:
                return ()

    def _word_moves(self, words: Sequence[str]) -> Moves:
        groups: dict[str, list[str]] = {}
        for word in words:
            groups.setdefault(word[0], []).append(word[1:])
        return _grouped([(self.alphabet.bit(first), word_set(rests)) for first, rests in groups.items()])

    def _intersected(self, text: Both) -> Moves:
        pieces: list[tuple[int, tuple[Text, ...]]] = [(self.alphabet.all, ())]
        for item in text.items:
            moves = self._moves[item]
            pieces = [
                (mask & own, (*parts, after)) for mask, parts in pieces for own, after in moves if mask & own
            ]  # fmt: skip
        return _grouped([(mask, both(*parts)) for mask, parts in pieces])


def _united(moves: list[tuple[int, Text]]) -> Moves:
    """Moves that may overlap, as disjoint ones."""
    targets: dict[int, dict[Text, None]] = {}
    for mask, after in moves:
        targets.setdefault(mask, {})[after] = None
    pieces: list[tuple[int, tuple[Text, ...]]] = []
    seen = 0
    for mask, group in targets.items():
        if mask & seen:
            cut: list[tuple[int, tuple[Text, ...]]] = []
            for own, parts in pieces:
                if own & mask:
                    cut.append((own & mask, (*parts, *group)))
                if own & ~mask:
                    cut.append((own & ~mask, parts))
            pieces = cut
        if mask & ~seen:
            pieces.append((mask & ~seen, tuple(group)))
        seen |= mask
    return _grouped([(mask, parts[0] if len(parts) == 1 else either(*parts)) for mask, parts in pieces])


def _grouped(moves: list[tuple[int, Text]]) -> Moves:
    """One move for each target."""
    if len(moves) == 1:
        return tuple(moves) if moves[0][0] and moves[0][1] is not NEVER else ()
    masks: dict[Text, int] = {}
    for mask, after in moves:
        if mask and after is not NEVER:
            masks[after] = masks.get(after, 0) | mask
    return tuple((mask, after) for after, mask in masks.items())


def has_word(text: Text, word: str) -> bool:
    """`text` has `word`."""
    if len(word) < text.shortest or (text.longest is not None and len(word) > text.longest):
        return False
    if isinstance(text, Literal):
        return text.text == word
    derivatives = text.automaton
    if not isinstance(derivatives, Derivatives) or derivatives.size > _KEPT:
        derivatives = text.automaton = Derivatives(text)
    for character in word:
        text = derivatives.step(text, character)
        if text is NEVER:
            return False
    return text.nullable
