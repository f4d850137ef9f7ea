"""Places: the points of a regular node, each with everything that must still follow it.

A *place* is a linked list of nodes, each repeat with its remaining counts (Antimirov's partial derivatives; counters
are never unrolled). A *head* is a place that writes the next byte. Every place has a non-empty language. This file
knows places one by one; sets of them are the states of `places.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from latticework.runtime.constrain.expressions import Classes, Expressions
from latticework.runtime.constrain.fragments import Fragment, Fragments
from latticework.runtime.constrain.rounds import Rounds
from latticework.runtime.constrain.rules import Bytes, Either, Empty, Literal, Machine, Repeat, Then, Words
from latticework.runtime.constrain.vocabulary import Vocabulary

NOTHING, WHOLE, SOMETHING = range(3)  # see `Places.writes`
_END = -1  # the node of the place where nothing follows
_UNBOUNDED = 1 << 40
_FREE = (1 << 32) - 1  # used characters of a machine whose bounds are far: nothing counts them any more
_FEW = 3  # rounds that many tokens hold of most repeats
_DEEPEST = 32  # bits for a word's depth in the number of a shape


class Place:
    """A point in the expression and what follows it. `low` and `high` are a repeat's remaining counts; for a literal,
    `low` is how much of it is written; for words, they are the position in their table; for a machine, its state and
    how many characters are written; for alternatives, `low` is 1 + the state of their fragment, or 0 before any of
    them is chosen. shape: number of the same chain without its counts. counts: every (-low, high) of the chain.
    cost: tokens that surely suffice to finish."""

    __slots__ = ("after", "cost", "counts", "heads", "high", "loose", "low", "node", "rest", "shape")

    def __init__(
        self, node: int, low: int, high: int, rest: Place | None, shape: int, counts: tuple[int, ...], cost: int
    ) -> None:
        self.node = node
        self.low = low
        self.high = high
        self.rest = rest
        self.shape = shape
        self.counts = counts
        self.cost = cost
        self.heads: tuple[Place, ...] | None = None  # the places that can write the next byte from here
        self.after: dict[int, tuple[Place, ...]] = {}  # of a head: the heads after each byte class
        self.loose: Place | None = None  # the same place relaxed


class Places:
    """The places of regular nodes over one vocabulary, each made once. split: the byte classes that they go by.
    end: the place where nothing follows."""

    def __init__(self, expressions: Expressions, vocabulary: Vocabulary, split: Classes) -> None:
        self._expressions = expressions
        self._nodes = expressions.nodes
        self._pause = expressions.pause
        self._reach = vocabulary.longest + 1
        self._classes = split.classes
        self._node_classes = {node: frozenset(found) for node, found in split.of_node.items()}
        self._fragments = Fragments(expressions, split)
        self._rounds = Rounds(expressions, vocabulary)
        self._shapes: dict[tuple[int, int, int], int] = {}
        self._known: dict[tuple[int, int, int, Place], Place] = {}
        self.end = Place(_END, 0, 0, None, 0, (), 0)
        self.end.heads = (self.end,)
        self.end.loose = self.end

    def __len__(self) -> int:
        return len(self._known)

    def forget(self) -> None:
        """Drops all places; those held elsewhere stay usable."""
        self._known.clear()

    def start(self, node: int, rest: Place) -> Place:
        """The start of `node`, followed by `rest`."""
        kind = self._nodes[node]
        if isinstance(kind, Repeat):
            return self._point(node, kind.low, _UNBOUNDED if kind.high is None else kind.high, rest)
        return self._point(node, 0, 0, rest)

    def _point(self, node: int, low: int, high: int, rest: Place) -> Place:
        self._pause()
        key = (node, low, high, rest)
        place = self._known.get(key)
        if place is None:
            counts = rest.counts
            shape_key = (node, 0, rest.shape)
            match self._nodes[node]:
                case Repeat(item):
                    counts = (-low, high, *counts)
                    cost = low * self._expressions.costs[item]
                case Literal():
                    shape_key = (node, low, rest.shape)
                    cost = self._expressions.literal_cost(node, low)
                case Words():
                    shape_key = (node, low << _DEEPEST | high, rest.shape)
                    cost = self._expressions.table(node).cost(low, high)
                case Machine():
                    shape_key = (node, low << _DEEPEST | high, rest.shape)
                    cost = self._expressions.machine_cost(node, low, high)
                case Either() if low:
                    shape_key = (node, low, rest.shape)
                    cost = self._fragments.of(node).cost(low - 1)
                case _:
                    cost = self._expressions.costs[node]
            cost += rest.cost
            shape = self._shapes.setdefault(shape_key, len(self._shapes) + 1)
            place = self._known.setdefault(key, Place(node, low, high, rest, shape, counts, cost))  # spelling may pause
        return place

    def heads(self, start: Place) -> tuple[Place, ...]:
        """The places that can write the next byte from `start`, the end among them if nothing need follow."""
        if start.heads is not None:
            return start.heads
        found: dict[Place, None] = {}
        entered: dict[tuple[int, Place], list[tuple[int, int]]] = {}
        work = [start]
        while work:
            place = work.pop()
            if place.heads is not None:
                found.update(dict.fromkeys(place.heads))
                continue
            rest = place.rest
            assert rest is not None
            match self._nodes[place.node]:
                case Bytes() | Literal() | Words():
                    found[place] = None
                case Empty():
                    work.append(rest)
                case Then(first, following):
                    work.append(self.start(first, self.start(following, rest)))
                case Either() if place.low:
                    found[place] = None
                case Either(items):
                    fragment, others = self._fragments.split(place.node, items)
                    if fragment is not None:
                        found[self._point(place.node, 1, 0, rest)] = None
                    work += [self.start(item, rest) for item in others]
                case Machine(states):
                    lengths = self._expressions.lengths(place.node)
                    if states[place.low].accepts and place.high >= lengths.low:
                        work.append(rest)
                    used = _FREE if place.high == _FREE else lengths.count(place.high + 1)
                    for part, target in states[place.low].moves:
                        if used == _FREE or lengths.is_live(target, used):
                            work.append(self.start(part, self._point(place.node, target, used, rest)))
                case Repeat(item):
                    counts = entered.setdefault((place.node, rest), [])
                    if any(low <= place.low and high >= place.high for low, high in counts):
                        continue  # a round that wrote nothing: covered by the one before
                    counts.append((place.low, place.high))
                    if place.low == 0:
                        work.append(rest)
                    work.append(self.start(item, self._next_round(place, rest)))
        start.heads = tuple(found)
        return start.heads

    def _next_round(self, place: Place, rest: Place) -> Place:
        high = place.high if place.high == _UNBOUNDED else place.high - 1
        return self._point(place.node, max(place.low - 1, 0), high, rest) if high else rest

    def after(self, place: Place, byte_class: int) -> tuple[Place, ...]:
        """The heads after a head and a byte class; none where it does not go on so."""
        after = place.after.get(byte_class)
        if after is None:
            after = place.after[byte_class] = self._find_after(place, byte_class)
        return after

    def _find_after(self, place: Place, byte_class: int) -> tuple[Place, ...]:
        rest = place.rest
        if rest is None:
            return ()  # the end
        match self._nodes[place.node]:
            case Literal(data):
                if int(self._classes[data[place.low]]) != byte_class:
                    return ()
                is_over = place.low + 1 == len(data)
                return self.heads(rest) if is_over else (self._point(place.node, place.low + 1, 0, rest),)
            case Words():
                place.after.update(self._after_words(place, rest))  # all at once, as one search finds them
                return place.after.get(byte_class, ())
            case Either():
                move = self._fragments.of(place.node).moves(place.low - 1).get(byte_class)
                if move is None:
                    return ()
                after = self.heads(rest) if move.ends else ()
                return after if move.state is None else (*after, self._point(place.node, move.state + 1, 0, rest))
            case _:
                return self.heads(rest) if byte_class in self._node_classes[place.node] else ()

    def _after_words(self, place: Place, rest: Place) -> Iterator[tuple[int, tuple[Place, ...]]]:
        for byte, ends, longer in self._expressions.table(place.node).branches(place.low, place.high):
            after = self.heads(rest) if ends else ()
            if longer is not None:
                after = (*after, self._point(place.node, place.low + 1, longer, rest))
            yield int(self._classes[byte]), after  # words set each of their bytes apart

    def writes(self, place: Place, symbols: tuple[int, ...]) -> int:
        """What a head writes of some byte classes: NOTHING where it does not go on so, WHOLE where they are all of it,
        so that what follows it comes next, SOMETHING otherwise."""
        match self._nodes[place.node] if place.rest is not None else None:
            case None:
                return NOTHING
            case Either():
                return self._writes_fragment(self._fragments.of(place.node), place.low - 1, symbols)
            case Literal(data):
                is_last = place.low + 1 == len(data)
            case Words():
                is_last = False
            case _:
                is_last = True
        if symbols[0] not in self.taken(place):
            return NOTHING
        return WHOLE if is_last and len(symbols) == 1 else SOMETHING

    @staticmethod
    def _writes_fragment(fragment: Fragment, state: int, symbols: tuple[int, ...]) -> int:
        *leading, last = symbols
        for symbol in leading:
            move = fragment.moves(state).get(symbol)
            if move is None:
                return NOTHING
            if move.ends or move.state is None:
                return SOMETHING  # what follows may write the others
            state = move.state
        move = fragment.moves(state).get(last)
        if move is None:
            return NOTHING
        return WHOLE if move.state is None else SOMETHING

    def taken(self, place: Place) -> Iterable[int]:
        """The byte classes that a head goes on with."""
        if place.rest is None:
            return ()  # the end
        match self._nodes[place.node]:
            case Literal(data):
                return (int(self._classes[data[place.low]]),)
            case Words():
                found = self._expressions.table(place.node).branches(place.low, place.high)
                return [int(self._classes[byte]) for byte, _, _ in found]
            case Either():
                return self._fragments.of(place.node).moves(place.low - 1)
            case _:
                return self._node_classes[place.node]

    def relaxed(self, place: Place) -> Place:
        """A place with the same tokens allowed and the same costs after each, without the upper bounds that one token
        cannot reach."""
        chain: list[Place] = []
        while place.loose is None:
            chain.append(place)
            assert place.rest is not None
            place = place.rest
        loose = place.loose
        for link in reversed(chain):
            high = link.high
            match self._nodes[link.node]:
                case Repeat() if high > self._reach or (high > _FEW and high >= self._rounds.most(link.node)):
                    high = _UNBOUNDED
                case Machine(_, low, bound) if bound is not None and low <= high < _FREE:
                    lengths = self._expressions.lengths(link.node)
                    if bound - high > self._reach + lengths.furthest:
                        high = _FREE  # used characters: near neither bound
            loose = self._point(link.node, link.low, high, loose)
            link.loose = loose
        return loose


def without_covered(places: frozenset[Place]) -> frozenset[Place]:
    """The places less those whose texts another one of the same shape all has: it needs no more rounds and allows
    no fewer."""
    if len({place.shape for place in places}) == len(places):
        return places
    by_shape: dict[int, list[Place]] = {}
    for place in places:
        by_shape.setdefault(place.shape, []).append(place)
    kept: list[Place] = []
    for group in by_shape.values():
        group.sort(key=lambda place: place.counts, reverse=True)
        front: list[Place] = []
        for place in group:
            if not any(all(map(int.__ge__, other.counts, place.counts)) for other in front):
                front.append(place)
        kept += front
    return frozenset(kept)


__all__ = ["NOTHING", "SOMETHING", "WHOLE", "Place", "Places", "without_covered"]
