"""What the tokens of a suffix do inside one terminal, and among the listed keys of an object.

That depends on nothing around the terminal, so it is found once and holds wherever the terminal stands. What a token
does behind the terminal's end, `leaving.py` knows.
"""

from __future__ import annotations

from copy import copy

from latticework.runtime.constrain.base import Row
from latticework.runtime.constrain.clock import Clock
from latticework.runtime.constrain.keys import KeyNode
from latticework.runtime.constrain.places import State
from latticework.runtime.constrain.suffixes import Suffix, Suffixes
from latticework.runtime.constrain.terminals import Difference, Inside, Terminal
from latticework.runtime.constrain.vocabulary import Vocabulary

FEW_TOKENS = 64  # no more than these are written into a row one by one
_ENTRY_BYTES = 400  # what a kept part costs beside its arrays


class Part:
    """One terminal state's share of the tokens of a suffix: those that do not leave it before their last byte, as a
    list (few) or, where they are many, packed (words). most: the largest cost of the terminal after any of them; exits:
    how the other tokens go on behind it."""

    __slots__ = ("exits", "few", "most", "words")

    def __init__(self, inside: Inside, exits: Suffix | None, vocabulary: Vocabulary) -> None:
        count = len(inside.tokens)
        is_few = count <= FEW_TOKENS
        self.few: list[int] = inside.tokens.tolist() if is_few else []
        self.words: Row | None = None if is_few else vocabulary.pack(inside.tokens)
        self.most = int(inside.costs.max()) if count else 0
        self.exits = exits

    def without(self, tokens: list[int], vocabulary: Vocabulary) -> Part:
        """The same less these tokens."""
        twin = copy(self)
        twin.few = [token for token in self.few if token not in tokens]
        if self.words is not None:
            twin.words = self.words & ~vocabulary.pack(tokens)
        return twin

    def with_tokens(self, tokens: list[int], most: int, vocabulary: Vocabulary) -> Part:
        """The same with these as well, none of them in it. most: their largest cost."""
        twin = copy(self)
        twin.most = max(self.most, most)
        if self.words is not None:
            twin.words = self.words | vocabulary.pack(tokens)
        else:
            twin.few = [*self.few, *tokens]
        return twin

    @property
    def nbytes(self) -> int:
        return _ENTRY_BYTES + (8 * len(self.few) if self.words is None else self.words.nbytes)


class Parts:
    """Makes and keeps parts. standard: those that need not be made. nbytes: memory held, roughly."""

    def __init__(self, vocabulary: Vocabulary, suffixes: Suffixes, standard: Parts | None = None) -> None:
        self._standard = standard
        self._vocabulary = vocabulary
        self._suffixes = suffixes
        self.forget()

    def empty(self) -> Parts:
        """Others over the same vocabulary, of which nothing but what is standard is known yet."""
        return Parts(self._vocabulary, self._suffixes, self._standard)

    def forget(self) -> None:
        self._wholes: dict[State, Part] = {}
        self._below: dict[tuple[Suffix, State], tuple[Part, Inside]] = {}
        self._keys: dict[tuple[Suffix, KeyNode], list[tuple[KeyNode, Suffix]]] = {}
        self.nbytes = 0

    def whole(self, terminal: Terminal, state: State, clock: Clock) -> Part:
        """The share of all tokens. Raises Late."""
        relaxed = terminal.states.relax(terminal.states.adopt(state))
        found = self._wholes.get(relaxed)
        if found is None and self._standard is not None:
            found = self._standard._wholes.get(relaxed)
        if found is None:
            difference = terminal.difference(relaxed, clock)
            if difference is None:
                found = self._part(terminal.inside(relaxed, clock))
            else:
                found = self._changed(self.whole(terminal, difference.base, clock), difference)
            self._wholes[relaxed] = found
            self.nbytes += found.nbytes
            clock.check()
        return found

    def below(self, suffix: Suffix, terminal: Terminal, state: State, clock: Clock) -> tuple[Part, Inside]:
        """The share of the tokens of `suffix`, and the same one by one. Raises Late."""
        relaxed = terminal.states.relax(terminal.states.adopt(state))
        found = self._below.get((suffix, relaxed))
        if found is None and self._standard is not None:
            found = self._standard._below.get((suffix, relaxed))
        if found is None:
            inside = terminal.below(relaxed, suffix, clock)
            found = self._below[suffix, relaxed] = self._part(inside), inside
            self.nbytes += found[0].nbytes + inside.tokens.nbytes + inside.costs.nbytes
            clock.check()
        return found

    def keys(self, suffix: Suffix, at: KeyNode) -> list[tuple[KeyNode, Suffix]]:
        """Where the tokens of `suffix` come to among all listed keys from `at` on, and how they go on there."""
        found = self._keys.get((suffix, at))
        if found is None:
            found = self._keys[suffix, at] = []
            work = [(at, suffix)]
            while work:
                here, above = work.pop()
                listed, below = here.children, above.children
                for byte in listed.keys() & below.keys():
                    reached = listed[byte], below[byte]
                    found.append(reached)
                    if reached[0].ends < 0:
                        work.append(reached)
            self.nbytes += _ENTRY_BYTES + 80 * len(found)
        return found

    def _changed(self, base: Part, difference: Difference) -> Part:
        """The part of a state that is nearly like that of `base`."""
        _, gone, gone_exits, tokens, costs, exits = difference
        found = base.without(gone, self._vocabulary).with_tokens(tokens, max(costs, default=0), self._vocabulary)
        if gone_exits != exits:
            nodes = set(() if base.exits is None else base.exits.nodes).difference(gone_exits).union(exits)
            found.exits = self._suffixes.of(nodes) if nodes else None
        return found

    def _part(self, inside: Inside) -> Part:
        exits = self._suffixes.of(inside.exits.tolist()) if len(inside.exits) else None
        return Part(inside, exits, self._vocabulary)


__all__ = ["Part", "Parts"]
