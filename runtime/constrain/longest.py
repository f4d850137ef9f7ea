"""Rules over tokens -> rules in which every token takes as much as it can.

Lark's lexer lets a terminal match as far as it can: in `NAME "in" NAME` the text `xiny` is one name. So after a token
no character may come that could go on with it. That is a condition on two neighbours alone, and it holds by itself for
nearly all neighbours: for a string before a comma, for a number before a bracket. Where it does not, rules are split by
what they may not begin with and by what may not follow them (a product of the grammar with a small automaton), and
tokens by the characters that could go on with their words.

A character counts as going on as soon as some longer word has it: in `1` `.` `.` the first dot already could belong to
a number `1.5`. So the language can be a little smaller than lark's; it is never larger.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from latticework.lang.errors import ConstraintError
from latticework.runtime.constrain import algebra, text_kinds
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.builder import EMPTY, NEVER, Builder
from latticework.runtime.constrain.character_machines import CharacterMachine, TooManyStates, character_machine
from latticework.runtime.constrain.derivatives import Derivatives
from latticework.runtime.constrain.grammar import Nonempty
from latticework.runtime.constrain.ranges import ANY, intersect, subtract, union
from latticework.runtime.constrain.rewriting import Rewriting
from latticework.runtime.constrain.rules import Call, Either, MachineState, Ranges, Repeat, Terminal, Then
from latticework.runtime.constrain.text_kinds import Text
from latticework.runtime.constrain.utf8 import utf8_characters

_MOST_SETS = 12  # more sets of forbidden characters than this are joined
_MOST_STATES = 2000  # of a token's automaton; beyond, its counts are left out of account
_MOST_COPIES = 64  # of what is repeated, where each copy needs another form


def with_longest_tokens(
    builder: Builder, bodies: Mapping[int, int], start: int, tokens: Mapping[int, Text], limits: Limits
) -> tuple[dict[int, int], int]:
    """The rules again, without the texts in which a token could go on; and the rule to start with.

    tokens: for each terminal node in `bodies`, its words, none of them empty. Raises ConstraintError.
    """
    rewriting = Rewriting(builder)
    rules = Nonempty(rewriting, bodies, start, melt=False)
    neighbours = _Neighbours(rewriting, rules.bodies)
    words = _Words(builder, neighbours, tokens, limits)
    if not words.sets[1:]:
        return dict(bodies), start
    product = _Product(rewriting, rules.bodies, words)
    root = builder.rule()
    body = product.of_rule(start)
    done = product.finish()
    done[root] = builder.optional(body) if start in rules.nullable else body
    return done, root


def _bits(mask: int) -> Iterable[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


class _Neighbours:
    """Which tokens may follow which. Sets of tokens are integers, one bit a token; nodes: the node of each bit."""

    def __init__(self, rewriting: Rewriting, bodies: Mapping[int, int]) -> None:
        self.rewriting = rewriting
        self.builder = rewriting.builder
        self.order = rewriting.below(bodies.values())
        self.nodes = [index for index in self.order if isinstance(self.builder.node(index), Terminal)]
        first = {node: 1 << bit for bit, node in enumerate(self.nodes)}
        last = dict(first)
        while True:
            before = dict(first), dict(last)
            for index in self.order:
                first[index] = self._end(index, first, bodies, at_start=True)
                last[index] = self._end(index, last, bodies, at_start=False)
            if before == (first, last):
                break
        self.follow = dict.fromkeys(self.nodes, 0)
        self._find_pairs(first, last)

    def _end(self, index: int, known: dict[int, int], bodies: Mapping[int, int], *, at_start: bool) -> int:
        self.builder.tick()
        match self.builder.node(index):
            case Terminal():
                return known[index]
            case Call(rule):
                return known.get(bodies[rule], 0)
            case Then():
                found = 0
                for part in self.rewriting.outermost(self.rewriting.parts(index), at_start):
                    found |= known.get(part, 0)
                return found
            case _:
                found = 0
                for part in self.rewriting.parts(index):
                    found |= known.get(part, 0)
                return found

    def _find_pairs(self, first: Mapping[int, int], last: Mapping[int, int]) -> None:
        pairs: set[tuple[int, int]] = set()
        for index in self.order:
            match self.builder.node(index):
                case Then():
                    open_ends = 0
                    for part in self.rewriting.parts(index):
                        pairs.add((open_ends, first[part]))
                        open_ends = last[part] | (open_ends if self.builder.is_nullable(part) else 0)
                case Repeat(item):
                    pairs.add((last[item], first[item]))
        for ends, begins in pairs:
            for bit in _bits(ends):
                self.builder.tick()
                self.follow[self.nodes[bit]] |= begins


class _Words:
    """What the tokens' words begin with, and what could go on with them.

    sets: the sets of characters that may not follow; 0 is the empty one. outcomes[token][number of a set] = the states
    of the token's automaton after whose words the set may not follow.
    """

    def __init__(self, builder: Builder, neighbours: _Neighbours, tokens: Mapping[int, Text], limits: Limits) -> None:
        self.builder = builder
        self.limits = limits
        self.tokens = tokens
        self._machines: dict[int, CharacterMachine] = {}
        self._rough_ones: set[int] = set()
        self._forms: dict[tuple[int, Ranges, int], int] = {}
        self.first = {node: self._begin(tokens[node]) for node in neighbours.nodes}
        going_on: dict[int, dict[int, Ranges]] = {}
        for node in neighbours.nodes:
            if not neighbours.follow[node]:
                going_on[node] = {0: ()}  # whatever its states, nothing comes after it
                continue
            follow = union(pair for bit in _bits(neighbours.follow[node]) for pair in self.first[neighbours.nodes[bit]])
            going_on[node] = self._going_on(self._rough(node), follow)
        for join in (lambda found: found, self._joined, self._all_joined):
            joined = join(going_on)
            used = dict.fromkeys(ranges for states in joined.values() for ranges in states.values() if ranges)
            self.sets: list[Ranges] = [(), *used]
            if len(self.sets) <= _MOST_SETS:
                break
        numbers = {ranges: number for number, ranges in enumerate(self.sets)}
        self.outcomes: dict[int, dict[int, set[int]]] = {}
        for node, found in joined.items():
            outcome = self.outcomes[node] = {}
            for state, ranges in found.items():
                outcome.setdefault(numbers[ranges], set()).add(state)

    def _rough(self, node: int) -> CharacterMachine:
        """The automaton of a token, or one of more words where counts make its own too large."""
        if node not in self._machines:
            text = self.tokens[node]
            try:
                found = character_machine(text, self.limits, self.builder.tick, _MOST_STATES)
            except TooManyStates:
                found = character_machine(_without_counts(text), self.limits, self.builder.tick)
                self._rough_ones.add(node)
            assert found is not None
            self._machines[node] = found
        return self._machines[node]

    @staticmethod
    def _begin(text: Text) -> Ranges:
        """The characters that words begin with (and perhaps some that turn out to lead to none)."""
        derivatives = Derivatives(text)
        return union(p for mask, _ in derivatives.moves(text) for p in derivatives.alphabet.characters(mask))

    @staticmethod
    def _going_on(machine: CharacterMachine, follow: Ranges) -> dict[int, Ranges]:
        """For each state that accepts, the characters out of `follow` that could go on."""
        found: dict[int, Ranges] = {}
        for state, accepts in enumerate(machine.accepts):
            if accepts:
                more = union(pair for mask, _ in machine.moves[state] for pair in machine.alphabet.characters(mask))
                found[state] = intersect(more, follow)
        return found

    @staticmethod
    def _joined(going_on: dict[int, dict[int, Ranges]]) -> dict[int, dict[int, Ranges]]:
        """One set for each token."""
        joined = {node: union(pair for found in states.values() for pair in found) for node, states in going_on.items()}
        return {node: dict.fromkeys(states, joined[node]) for node, states in going_on.items()}

    @staticmethod
    def _all_joined(going_on: dict[int, dict[int, Ranges]]) -> dict[int, dict[int, Ranges]]:
        """One set for all tokens that need any."""
        every = union(pair for states in going_on.values() for found in states.values() for pair in found)
        return {node: dict.fromkeys(states, every if any(states.values()) else ()) for node, states in going_on.items()}

    def form(self, node: int, forbidden: int, outcomes: int) -> int:
        """The words of a token that do not begin with a forbidden character and have one of the outcomes (bits)."""
        cut = intersect(self.first[node], self.sets[forbidden])
        own = sum(1 << number for number in self.outcomes[node])
        if not cut and own & outcomes == own:
            return node
        key = (node, cut, own & outcomes)
        if key not in self._forms:
            self._forms[key] = self._restricted(node, cut, own & outcomes, own)
        return self._forms[key]

    def _restricted(self, node: int, cut: Ranges, outcomes: int, own: int) -> int:
        if node in self._rough_ones:
            if outcomes != own:
                raise ConstraintError(
                    "a terminal with large counts stands beside others that could go on with it",
                    field=self.builder.field,
                    hint="put something between them, or lower the counts",
                )
            machine = character_machine(self.tokens[node], self.limits, self.builder.tick)
            assert machine is not None
        else:
            machine = self._rough(node)
        accepts = machine.accepts
        if outcomes != own:
            accepting = {state for number in _bits(outcomes) for state in self.outcomes[node][number]}
            accepts = [state in accepting for state in range(len(accepts))]
        states = [MachineState(False, self._moves(machine, 0, subtract(ANY, cut)))]
        states += [MachineState(accepts[state], self._moves(machine, state, ANY)) for state in range(len(accepts))]
        return self.builder.terminal(self.builder.machine(states, machine.low, machine.high))

    def _moves(self, machine: CharacterMachine, state: int, allowed: Ranges) -> tuple[tuple[int, int], ...]:
        moves = [
            (utf8_characters(self.builder, intersect(machine.alphabet.characters(mask), allowed)), target + 1)
            for mask, target in machine.moves[state]
        ]
        return tuple((node, target) for node, target in moves if node != NEVER)


class _Product:
    """The rules, once for each set that their text may not begin with and each choice of sets that may not follow it.

    A set is its number in `words.sets`; a choice of them is an integer, one bit a set.
    """

    def __init__(self, rewriting: Rewriting, bodies: Mapping[int, int], words: _Words) -> None:
        self.rewriting = rewriting
        self.builder = rewriting.builder
        self.bodies = bodies
        self.words = words
        self.count = len(words.sets)
        self.every = (1 << self.count) - 1
        self._minds: dict[int, int] = {}  # node -> the sets that it makes a difference not to begin with
        self._reach: dict[int, list[int]] = {}  # node -> for each set not to begin with, those that may not follow
        self._forms: dict[tuple[int, int, int], int] = {}
        self._rules: dict[tuple[str, int, int, int], int] = {}
        self._waiting: list[tuple[str, int, int, int]] = []
        order = rewriting.below(bodies.values())
        while True:
            before = dict(self._minds), dict(self._reach)
            for index in order:
                self._describe(index)
            if before == (self._minds, self._reach):
                break

    def of_rule(self, rule: int) -> int:
        """A rule's text, whatever follows it."""
        call = self.builder.call(rule)
        self._know(call)
        return self._form(call, 0, self.every)

    def finish(self) -> dict[int, int]:
        """The texts of all rules that were called."""
        found: dict[int, int] = {}
        while self._waiting:
            key = self._waiting.pop()
            kind, index, forbidden, outcomes = key
            if kind == "rule":
                found[self._rules[key]] = self._form(self.bodies[index], forbidden, outcomes)
            else:
                found[self._rules[key]] = self._repeats(index, forbidden, outcomes, low=0)
        return found

    # ------------------------------------------------------------ what is known of a node

    def _describe(self, index: int) -> None:
        self.builder.tick()
        minds = 0
        nothing = [0] * self.count
        match self.builder.node(index):
            case Terminal():
                if index not in self.words.outcomes:
                    return
                first, sets = self.words.first[index], self.words.sets
                minds = sum(1 << number for number, found in enumerate(sets) if intersect(first, found))
                reach = [sum(1 << number for number in self.words.outcomes[index])] * self.count
            case Call(rule):
                minds = self._minds.get(self.bodies[rule], 0)
                reach = self._reach.get(self.bodies[rule], nothing)
            case Then():
                parts = self.rewriting.parts(index)
                for part in self.rewriting.outermost(parts, True):
                    minds |= self._minds.get(part, 0)
                reach = [self._through(parts, number) for number in range(self.count)]
            case Either(items):
                reach = nothing
                for item in items:
                    minds |= self._minds.get(item, 0)
                    reach = [a | b for a, b in zip(reach, self._reach.get(item, nothing), strict=True)]
            case Repeat(item, low):
                minds = self._minds.get(item, 0)
                reach = [self._closure(item, number, low) for number in range(self.count)]
            case _:
                reach = [1 << number for number in range(self.count)] if index == EMPTY else nothing
        self._minds[index] = minds
        self._reach[index] = reach

    def _through(self, parts: Iterable[int], number: int) -> int:
        sets = 1 << number
        for part in parts:
            sets = self._after(part, sets)
        return sets

    def _after(self, index: int, sets: int) -> int:
        reach = self._reach.get(index)
        found = 0
        for number in _bits(sets if reach is not None else 0):
            found |= reach[number] if reach is not None else 0
        return found

    def _closure(self, item: int, number: int, low: int) -> int:
        found = 1 << number if low == 0 else 0
        following = self._after(item, 1 << number)
        while following & ~found:
            found |= following
            following = self._after(item, found)
        return found

    def _know(self, index: int) -> None:
        for below in self.rewriting.below([index], self._reach):
            self._describe(below)

    # ------------------------------------------------------------ forms of a node

    def _form(self, index: int, forbidden: int, outcomes: int) -> int:
        """The texts of a node that do not begin with the forbidden set and may not be followed by one of `outcomes`."""
        if index == NEVER:
            return NEVER
        if not self.builder.is_nullable(index) and not self._minds[index] >> forbidden & 1:
            forbidden = 0
        outcomes &= self._reach[index][forbidden]
        if not outcomes:
            return NEVER
        key = (index, forbidden, outcomes)
        found = self._forms.get(key)
        if found is None:
            found = self._forms[key] = self._made(index, forbidden, outcomes)
        return found

    def _made(self, index: int, forbidden: int, outcomes: int) -> int:
        self.builder.tick()
        match self.builder.node(index):
            case Terminal():
                return self.words.form(index, forbidden, outcomes)
            case Call(rule):
                return self._call("rule", rule, forbidden, outcomes)
            case Either(items):
                return self.builder.either([self._form(item, forbidden, outcomes) for item in items])
            case Then():
                return self._sequence(self.rewriting.parts(index), forbidden, outcomes)
            case Repeat(item, low, high):
                return self._repeat(item, low, high, forbidden, outcomes)
            case _:
                return EMPTY  # and it has the outcome that it began with

    def _call(self, kind: str, index: int, forbidden: int, outcomes: int) -> int:
        key = (kind, index, forbidden, outcomes)
        if key not in self._rules:
            self._rules[key] = self.builder.rule()
            self._waiting.append(key)
        return self.builder.call(self._rules[key])

    def _sequence(self, parts: tuple[int, ...], forbidden: int, outcomes: int) -> int:
        begun = [1 << forbidden]  # the sets that each part may have before it
        for part in parts:
            begun.append(self._after(part, begun[-1]))
        tails = {number: EMPTY if outcomes >> number & 1 else NEVER for number in _bits(begun[-1])}
        for part, before in zip(reversed(parts), reversed(begun[:-1]), strict=True):
            tails = {number: self._joined(part, number, tails) for number in _bits(before)}
        return tails[forbidden]

    def _joined(self, part: int, forbidden: int, tails: Mapping[int, int]) -> int:
        """`part`, then the tail for the set that may not follow it. Sets with one tail need not be told apart."""
        groups: dict[int, int] = {}
        for number in _bits(self._after(part, 1 << forbidden)):
            if tails[number] != NEVER:
                groups[tails[number]] = groups.get(tails[number], 0) | 1 << number
        found = [self.builder.sequence([self._form(part, forbidden, own), tail]) for tail, own in groups.items()]
        return self.builder.either(found)

    # ------------------------------------------------------------ repeats

    def _repeat(self, item: int, low: int, high: int | None, forbidden: int, outcomes: int) -> int:
        builder = self.builder
        is_empty_fine = low == 0 and outcomes >> forbidden & 1
        inner = self._after(item, 1 << forbidden)
        inner |= self._closure(item, forbidden, 1)
        minds = self._minds[item] & (inner | 1 << forbidden)
        if not minds:
            whole = self._form(item, 0, self.every)
            last = self._form(item, 0, outcomes)
            if last == whole:
                return builder.repeat(whole, low if is_empty_fine else max(low, 1), high)
            before = builder.repeat(whole, max(low - 1, 0), None if high is None else high - 1)
            found = builder.sequence([before, last])
            return builder.optional(found) if is_empty_fine else found
        if high is None and low <= 1:
            return self._repeats(item, forbidden, outcomes, low=low)
        copies = low if high is None else high
        if copies > _MOST_COPIES:
            raise ConstraintError(
                f"what is repeated {copies} times runs into itself; at most {_MOST_COPIES} such repeats are supported",
                field=builder.field,
                hint="put a separator between the repeats",
            )
        rest = builder.repeat(item) if high is None else EMPTY
        for _ in range(0 if high is None else high - low):
            rest = builder.optional(builder.sequence([item, rest]))
        written_out = builder.sequence([*[item] * low, rest])
        self._know(written_out)
        return self._form(written_out, forbidden, outcomes)

    def _repeats(self, item: int, forbidden: int, outcomes: int, *, low: int) -> int:
        """`item` any number of times, at least `low` (0 or 1): once, and then the rule of any more."""
        tails = {
            number: self._call("repeat", item, number, outcomes) for number in _bits(self._after(item, 1 << forbidden))
        }
        found = self._joined(item, forbidden, tails)
        return self.builder.optional(found) if low == 0 and outcomes >> forbidden & 1 else found


def _without_counts(text: Text) -> Text:
    """A text with all words of `text`, and without large counts."""
    match text:
        case text_kinds.Then():
            items = []
            while isinstance(text, text_kinds.Then):
                items.append(text.first)
                text = text.rest
            return algebra.seq(*map(_without_counts, [*items, text]))
        case text_kinds.Union():
            return algebra.either(*map(_without_counts, text.items))
        case text_kinds.Repeat():
            return algebra.repeat(_without_counts(text.item), min(text.low, 1))
        case text_kinds.Both():
            return algebra.both(*map(_without_counts, text.items))
        case text_kinds.Complement() | text_kinds.Unfolding():
            return algebra.ANYTHING
        case _:
            return text


__all__ = ["with_longest_tokens"]
