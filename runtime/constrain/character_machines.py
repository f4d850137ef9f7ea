"""A text -> a small deterministic automaton over classes of characters.

The states are the text's derivatives, found breadth first, without those from which no word can be finished, and
merged where they accept the same (Moore). A bound on the length of the words stays a bound beside the automaton: it
never becomes states.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from latticework.lang.errors import ConstraintError
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.derivatives import Alphabet, Derivatives
from latticework.runtime.constrain.intersections import Intersection
from latticework.runtime.constrain.text_kinds import EMPTY, NEVER, Both, Repeat, Text, Union
from latticework.runtime.constrain.text_lengths import has_length, without_needless_counts
from latticework.runtime.constrain.texts import ANY_CHARACTER, both

MAX_STATES = 20_000
_WORK = 10  # moves looked at for a state, on average, at most
_MERGED = 600  # automata larger than this are not looked at for equal states

S = TypeVar("S", bound=Hashable)


@dataclass(slots=True)
class CharacterMachine:
    """accepts[s], moves[s] = [(set of classes, next state)], disjoint; it starts in state 0, and every state leads to
    an accepting one. low, high: bounds on the length of the words, which some word keeps; high None is no bound."""

    alphabet: Alphabet
    accepts: list[bool]
    moves: list[list[tuple[int, int]]]
    low: int = 0
    high: int | None = None


class TooManyStates(ConstraintError):
    """The automaton of a text has too many states. To users it is a ConstraintError."""


def character_machine(
    text: Text, limits: Limits, tick: Callable[[], None] | None = None, most: int = MAX_STATES
) -> CharacterMachine | None:
    """The automaton of `text`; None where it has no word. Raises ConstraintError beyond `most` states."""
    most = min(most, limits.states)
    core, low, high = _without_bounds(text)
    if high is not None:
        core = without_needless_counts(core, high)
    machine = _explored(core, most, tick, high)
    if machine is None:
        return None
    machine.low, machine.high = low, high
    if (low, high) != (0, None) and not _can_end(machine, low, high):
        return None
    return _in_order(_merged(machine) if len(machine.accepts) <= _MERGED else machine)


def _without_bounds(text: Text) -> tuple[Text, int, int | None]:
    """`text` without its length, and its length."""
    if isinstance(text, Both):
        for item in text.items:
            if isinstance(item, Repeat) and item.item is ANY_CHARACTER:
                return both(*(part for part in text.items if part is not item)), item.low, item.high
    return text, 0, None


def _explored(
    text: Text, most: int, tick: Callable[[], None] | None, high: int | None
) -> CharacterMachine | None:  # fmt: skip
    """high: words longer than this do not count."""
    derivatives = Derivatives(text, tick=tick)
    if isinstance(text, Both):
        together = Intersection(derivatives, text.items)
        return _walked(together.start, together.moves, together.accepts, derivatives, most, tick, high)
    return _walked(text, derivatives.moves, lambda state: state.nullable, derivatives, most, None, high)


def _walked(
    start: S,
    moves_of: Callable[[S], Iterable[tuple[int, S]]],
    accepts: Callable[[S], bool],
    derivatives: Derivatives,
    most: int,
    tick: Callable[[], None] | None,
    high: int | None,
) -> CharacterMachine | None:
    numbers = {start: 0}
    states = [start]
    moves: list[list[tuple[int, int]]] = []
    depth, end_of_depth = 0, 1
    work = 0
    while len(moves) < len(states):
        if len(moves) == end_of_depth:
            depth, end_of_depth = depth + 1, len(states)
        if tick is not None:
            tick()
        own: list[tuple[int, int]] = []
        if high is None or depth < high:
            for mask, after in moves_of(states[len(moves)]):
                number = numbers.setdefault(after, len(states))
                if number == len(states):
                    states.append(after)
                own.append((mask, number))
            work += len(own)
            if len(states) > most or derivatives.work + work > 2 * _WORK * most:
                raise TooManyStates(
                    f"an intersection or complement of texts needs more than {most} states",
                    hint="smaller counts, or fewer lookaheads, `not`s and patterns on one string",
                )
        moves.append(own)
    return _trimmed(CharacterMachine(derivatives.alphabet, [accepts(state) for state in states], moves), high)


def _trimmed(machine: CharacterMachine, high: int | None) -> CharacterMachine | None:
    """Without the states from which no word of at most `high` characters can be finished."""
    shortest = _distances(machine, machine.accepts)
    depths: dict[int, int] = {0: 0}
    order = [0]
    for state in order:
        for _, target in machine.moves[state]:
            if target not in depths:
                depths[target] = depths[state] + 1
                order.append(target)
    live = [
        state for state in order
        if (away := shortest[state]) is not None and (high is None or depths[state] + away <= high)
    ]  # fmt: skip
    if not live or live[0] != 0:
        return None
    place = {state: number for number, state in enumerate(live)}
    moves = [[(mask, place[to]) for mask, to in machine.moves[state] if to in place] for state in live]
    return CharacterMachine(machine.alphabet, [machine.accepts[state] for state in live], moves)


def _distances(machine: CharacterMachine, goals: list[bool]) -> list[int | None]:
    """For each state, how many characters the nearest goal is away."""
    before: list[list[int]] = [[] for _ in machine.moves]
    for state, own in enumerate(machine.moves):
        for _, target in own:
            before[target].append(state)
    found: list[int | None] = [0 if is_goal else None for is_goal in goals]
    level = [state for state, is_goal in enumerate(goals) if is_goal]
    distance = 0
    while level:
        distance += 1
        following: list[int] = []
        for state in level:
            for other in before[state]:
                if found[other] is None:
                    found[other] = distance
                    following.append(other)
        level = following
    return found


def _can_end(machine: CharacterMachine, low: int, high: int | None) -> bool:
    """Whether some word has `low` to `high` characters. Sets of states, one for each number of characters, come back
    to one another, so few have to be looked at."""
    level = frozenset((0,))
    seen: dict[frozenset[int], int] = {}
    ends: list[bool] = []  # whether a word may have so many characters
    while level not in seen:
        if high is not None and len(ends) > high:
            return False
        seen[level] = len(ends)
        ends.append(any(machine.accepts[state] for state in level))
        if ends[-1] and len(ends) > low:
            return True
        level = frozenset(target for state in level for _, target in machine.moves[state])
    begin = seen[level]
    period = len(ends) - begin
    first = max(low, begin)
    later = [length for length in range(first, first + period) if ends[begin + (length - begin) % period]]
    return bool(later) and (high is None or later[0] <= high)


def _longest(machine: CharacterMachine) -> list[int | None]:
    """The length of the longest word from each state on; None is no bound. Every state is live."""
    found: list[int | None] = [None] * len(machine.moves)
    waiting = [len(own) for own in machine.moves]
    before: list[list[int]] = [[] for _ in machine.moves]
    for state, own in enumerate(machine.moves):
        for _, target in own:
            before[target].append(state)
    ready = [state for state, count in enumerate(waiting) if count == 0]
    while ready:
        state = ready.pop()
        longest = 0
        for _, target in machine.moves[state]:
            after = found[target]
            assert after is not None
            longest = max(longest, after + 1)
        found[state] = longest
        for other in before[state]:
            waiting[other] -= 1
            if waiting[other] == 0:
                ready.append(other)
    return found


def _merged(machine: CharacterMachine) -> CharacterMachine:
    """With states that accept the same words as one."""
    # Equal states have words of the same lengths; to tell by those first saves most rounds where counts are.
    numbers: dict[tuple[int | None, int | None], int] = {}
    shortest = _distances(machine, machine.accepts)
    kinds = [numbers.setdefault(ends, len(numbers)) for ends in zip(shortest, _longest(machine), strict=True)]
    count = len(numbers)
    while True:
        known: dict[tuple[int, tuple[tuple[int, int], ...]], int] = {}
        signatures: list[int] = []
        for state, own in enumerate(machine.moves):
            masks: dict[int, int] = {}
            for mask, target in own:
                masks[kinds[target]] = masks.get(kinds[target], 0) | mask
            signature = (kinds[state], tuple(sorted(masks.items())))
            signatures.append(known.setdefault(signature, len(known)))
        kinds = signatures
        if len(known) == count:
            break
        count = len(known)
    if count == len(kinds):
        return machine
    accepts: list[bool] = []
    moves: list[list[tuple[int, int]]] = []
    for state, kind in enumerate(kinds):  # a kind's number is smaller than those of kinds seen after it
        if kind == len(accepts):
            merged: dict[int, int] = {}
            for mask, target in machine.moves[state]:
                merged[kinds[target]] = merged.get(kinds[target], 0) | mask
            accepts.append(machine.accepts[state])
            moves.append([(mask, target) for target, mask in merged.items()])
    return CharacterMachine(machine.alphabet, accepts, moves, machine.low, machine.high)


def _in_order(machine: CharacterMachine) -> CharacterMachine:
    """With states in the order in which they are come to: one automaton, however its text was put together."""
    for own in machine.moves:
        own.sort(key=lambda move: move[0] & -move[0])
    place = {0: 0}
    order = [0]
    for state in order:
        for _, target in machine.moves[state]:
            if target not in place:
                place[target] = len(order)
                order.append(target)
    moves = [[(mask, place[target]) for mask, target in machine.moves[state]] for state in order]
    accepts = [machine.accepts[state] for state in order]
    return CharacterMachine(machine.alphabet, accepts, moves, machine.low, machine.high)


def distributed(text: Text) -> list[Text] | None:
    """Alternatives whose union `text` is, if it is an intersection with a union in it: together they may need far
    fewer states."""
    if isinstance(text, Both):
        unions = [item for item in text.items if isinstance(item, Union)]
        if unions:
            least = min(unions, key=lambda union: len(union.items))
            others = [item for item in text.items if item is not least]
            return [both(part, *others) for part in least.items]
    return None


def first_word(text: Text, limits: Limits, tick: Callable[[], None] | None = None) -> bool:
    """Whether `text` has a word, looking only as far as needed."""
    alternatives = distributed(text)
    if alternatives is not None:
        return any(_first_word(part, limits, tick) for part in alternatives)
    return _first_word(text, limits, tick)


def _first_word(text: Text, limits: Limits, tick: Callable[[], None] | None) -> bool:
    if text is NEVER:
        return False
    if text.is_plain or text.nullable:
        return True
    core, low, high = _without_bounds(text)
    if low or high is not None:
        told = has_length(core, low, high) if core.is_plain else None
        return character_machine(text, limits, tick) is not None if told is None else told
    derivatives = Derivatives(core, tick=tick)
    if isinstance(core, Both):
        together = Intersection(derivatives, core.items)
        return _comes_to(together.start, together.moves, together.surely_has_word, limits, tick)
    return _comes_to(core, derivatives.moves, lambda rest: rest.nullable or rest.is_plain, limits, None)


def have_word(
    derivatives: Derivatives,
    wanted: Sequence[Text],
    unwanted: Sequence[Text],
    limits: Limits,
    tick: Callable[[], None] | None = None,
) -> bool:
    """Whether all of `wanted` and none of `unwanted` have some word."""
    together = Intersection(derivatives, wanted, unwanted)
    if together.surely_has_word(together.start):
        return True
    return _comes_to(together.start, together.moves, together.surely_has_word, limits, tick)


def _comes_to(
    start: S,
    moves_of: Callable[[S], Iterable[tuple[int, S]]],
    has_word: Callable[[S], bool],
    limits: Limits,
    tick: Callable[[], None] | None,
) -> bool:
    """Whether some state that `start` leads to has a word for sure."""
    seen = {start}
    work = [start]
    while work:
        if tick is not None:
            tick()
        for _, after in moves_of(work.pop()):
            if has_word(after):
                return True
            if after not in seen:
                seen.add(after)
                work.append(after)
        if len(seen) > min(MAX_STATES, limits.states):
            raise TooManyStates(f"to see whether a text exists takes more than {MAX_STATES} states")
    return False


def all_words(text: Text, limit: int) -> list[str] | None:
    """All words in code point order; None where there are more than `limit`, or it takes too long to tell."""
    if text is NEVER:
        return []
    if text is EMPTY:
        return [""]
    if text.is_plain and text.longest is None:
        return None
    try:
        machine = _explored(text, MAX_STATES, None, None)
    except TooManyStates:
        return None
    if machine is None:
        return []
    if any(bound is None for bound in _longest(machine)):
        return None
    found: list[str] = []
    work = [("", 0)]
    while work:
        word, state = work.pop()
        if machine.accepts[state]:
            found.append(word)
        following: list[tuple[str, int]] = []
        for mask, target in machine.moves[state]:
            ranges = machine.alphabet.characters(mask)
            if sum(high - low + 1 for low, high in ranges) > limit:
                return None
            following += ((word + chr(point), target) for low, high in ranges for point in range(low, high + 1))
        work += sorted(following, reverse=True)
        if len(found) > limit or len(work) > limit:
            return None
    return found
