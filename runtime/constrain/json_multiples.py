"""Numbers that are multiples of something, or are not, -> deterministic automata over their characters.

A text is read once; its state is the remainder of what was read, and how it compares with each bound. Decimal, so
0.3 is a multiple of 0.1. Numbers with a point have at most 15 digits, which survive being read as doubles; none has
an exponent.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from latticework.lang.errors import ConstraintError
from latticework.runtime.constrain.builder import Builder
from latticework.runtime.constrain.json_number_sets import Numbers
from latticework.runtime.constrain.rules import MachineState

_MAX_STATES = 8000
_SAFE_DIGITS = 15
_WHOLE_DIGITS = 60
_START, _MINUS, _ZERO, _DIGITS, _POINT, _FRACTION = range(6)
_FREE = -1  # a remainder that nothing makes zero again


def build_multiples(builder: Builder, numbers: Numbers, *, has_whole_floats: bool, is_single: bool) -> int:
    """The texts of `numbers`; NEVER where there is none. Raises ConstraintError where that takes too many states."""
    is_whole = numbers.is_whole
    parts = []
    if not any(other.numerator == 1 for other in numbers.others):
        parts.append(_machine(builder, _Reader(numbers, False, is_single), _WHOLE_DIGITS))
    if not is_whole or has_whole_floats:
        parts.append(_machine(builder, _Reader(numbers, True, is_single), _SAFE_DIGITS + 2))
    return builder.either(parts)


@dataclass(frozen=True, slots=True)
class _Remainder:
    """Divisible by numerator / 10**places. State: (remainder, digits behind the point)."""

    numerator: int
    places: int

    @classmethod
    def by(cls, step: Fraction) -> _Remainder:
        places = 0
        while (step * 10**places).denominator != 1:
            places += 1
        return cls((step * 10**places).numerator, places)

    def next(self, state: tuple[int, int], digit: int, is_behind: bool) -> tuple[int, int]:
        remainder, behind = state
        if remainder == _FREE:
            return state
        if is_behind and behind == self.places:
            return state if digit == 0 else (_FREE, 0)
        return (remainder * 10 + digit) % self.numerator, behind + is_behind

    def divides(self, state: tuple[int, int]) -> bool:
        remainder, behind = state
        return remainder != _FREE and remainder * 10 ** (self.places - behind) % self.numerator == 0


@dataclass(frozen=True, slots=True)
class _Bound:
    """A magnitude in decimal. State: (digits read of this part, how what was read compares with it)."""

    whole: str
    fraction: str
    is_exclusive: bool

    @classmethod
    def at(cls, value: Fraction, is_exclusive: bool) -> _Bound:
        places = 0
        while (value * 10**places).denominator != 1:
            places += 1
        scaled = f"{(value * 10**places).numerator:0{places + 1}d}"
        return cls(scaled[: len(scaled) - places], scaled[len(scaled) - places :], is_exclusive)

    def next(self, state: tuple[int, int], digit: int, is_behind: bool) -> tuple[int, int]:
        count, order = state
        text = self.fraction if is_behind else self.whole
        if is_behind and (order or count == len(text)):
            return state if order or not digit else (0, 1)
        if not is_behind and count >= len(text):
            return len(text) + 1, 1
        wanted = int(text[count])
        return count + 1, order or (digit > wanted) - (digit < wanted)

    def whole_order(self, state: tuple[int, int]) -> int:
        """How the part before the point compares, where it ends here."""
        count, order = state
        return -1 if count < len(self.whole) else order

    def order(self, state: tuple[int, int], has_point: bool) -> int:
        """How a number that ends here compares."""
        count, order = state if has_point else (0, self.whole_order(state))
        return order or (-1 if self.fraction[count:].strip("0") else 0)


_State = tuple[int, bool, tuple[tuple[int, int], ...], bool]  # phase, is negative, parts, the last digit was a zero


class _Reader:
    """Reads numbers, all with a point or all without. is_single: no zero at the end."""

    def __init__(self, numbers: Numbers, has_point: bool, is_single: bool) -> None:
        self.has_point = has_point
        self.is_single = is_single
        step = numbers.step
        self.steps = [] if step is None else [_Remainder.by(step)]
        self.others = [_Remainder.by(other) for other in sorted(numbers.others)]
        low, high = numbers.low, numbers.high
        self.has_side = (
            high is None or high > 0 or (high == 0 and not numbers.high_exclusive),
            low is None or low < 0,
        )
        self.lows: tuple[list[_Bound], list[_Bound]] = ([], [])
        self.highs: tuple[list[_Bound], list[_Bound]] = ([], [])
        for value, is_exclusive, own, opposite in (
            (low, numbers.low_exclusive, self.lows, self.highs),
            (high, numbers.high_exclusive, self.highs, self.lows),
        ):
            if value is not None and value >= 0:
                own[0].append(_Bound.at(value, is_exclusive))
            if value is not None and value <= 0:
                opposite[1].append(_Bound.at(-value, is_exclusive))

    def _bounds(self, is_negative: bool) -> list[_Bound]:
        return self.lows[is_negative] + self.highs[is_negative]

    def start(self) -> _State:
        return _START, False, (), False

    def moves(self, state: _State) -> list[tuple[int, _State]]:
        """(byte, state after it)."""
        phase, is_negative, parts, _ = state
        found: list[tuple[int, _State]] = []
        if phase == _START and self.has_side[1]:
            found.append((0x2D, (_MINUS, True, (), False)))
        if phase in (_START, _MINUS):
            if not self.has_side[is_negative]:
                return found
            parts = ((0, 0),) * (len(self.steps) + len(self.others) + len(self._bounds(is_negative)))
        if phase in (_ZERO, _DIGITS) and self.has_point:
            found.append((0x2E, (_POINT, is_negative, self._at_point(parts, is_negative), False)))
        if phase != _ZERO:
            is_behind = phase in (_POINT, _FRACTION)
            for digit in range(10):
                after = _FRACTION if is_behind else _ZERO if digit == 0 and phase != _DIGITS else _DIGITS
                read = self._read(parts, is_negative, digit, is_behind)
                if not any(part[0] == _FREE for part in read[: len(self.steps)]):
                    found.append((0x30 + digit, (after, is_negative, read, self.is_single and digit == 0)))
        return found

    def _read(
        self, parts: tuple[tuple[int, int], ...], is_negative: bool, digit: int, is_behind: bool
    ) -> tuple[tuple[int, int], ...]:
        readers: tuple[_Remainder | _Bound, ...] = (*self.steps, *self.others, *self._bounds(is_negative))
        return tuple(reader.next(part, digit, is_behind) for reader, part in zip(readers, parts, strict=True))

    def _at_point(self, parts: tuple[tuple[int, int], ...], is_negative: bool) -> tuple[tuple[int, int], ...]:
        kept = len(self.steps) + len(self.others)
        bounds = zip(self._bounds(is_negative), parts[kept:], strict=True)
        return parts[:kept] + tuple((0, bound.whole_order(part)) for bound, part in bounds)

    def accepts(self, state: _State) -> bool:
        phase, is_negative, parts, ends_in_zero = state
        if phase not in ((_FRACTION,) if self.has_point else (_ZERO, _DIGITS)):
            return False
        if (phase == _ZERO and is_negative) or (self.has_point and ends_in_zero):
            return False
        steps, others = len(self.steps), len(self.others)
        if not all(step.divides(part) for step, part in zip(self.steps, parts[:steps], strict=True)):
            return False
        if any(o.divides(part) for o, part in zip(self.others, parts[steps : steps + others], strict=True)):
            return False
        orders = [
            (bound, bound.order(part, self.has_point))
            for bound, part in zip(self._bounds(is_negative), parts[steps + others :], strict=True)
        ]
        lows = len(self.lows[is_negative])
        return all(order > 0 or (order == 0 and not bound.is_exclusive) for bound, order in orders[:lows]) and all(
            order < 0 or (order == 0 and not bound.is_exclusive) for bound, order in orders[lows:]
        )


def _machine(builder: Builder, reader: _Reader, longest: int) -> int:
    place: dict[_State, int] = {reader.start(): 0}
    order = [reader.start()]
    targets: list[dict[int, list[int]]] = []  # state -> next state -> bytes
    for state in order:  # grows
        builder.tick()
        if len(order) > _MAX_STATES:
            raise ConstraintError(
                f"its automaton needs more than {_MAX_STATES} states",
                field=builder.field,
                hint="a smaller or rounder multipleOf",
            )
        moves: dict[int, list[int]] = {}
        for byte, after in reader.moves(state):
            if after not in place:
                place[after] = len(order)
                order.append(after)
            moves.setdefault(place[after], []).append(byte)
        targets.append(moves)
    accepting = [reader.accepts(state) for state in order]
    live = _live(accepting, targets)
    if not live[0]:
        return builder.machine([MachineState(False, ())])
    kind = _in_order(_merged(builder, accepting, [_only(moves, live) for moves in targets]), live)
    states: dict[int, MachineState] = {}
    for index, own in enumerate(kind):
        if not live[index] or own in states:
            continue
        moved: dict[int, list[int]] = {}
        for target, data in targets[index].items():
            if live[target]:
                moved.setdefault(kind[target], []).extend(data)
        moves_of = tuple(
            (builder.byte_set(tuple((byte, byte) for byte in sorted(data))), target) for target, data in moved.items()
        )
        states[own] = MachineState(accepting[index], moves_of)
    return builder.machine([states[own] for own in range(len(states))], 1, longest)


def _only(moves: dict[int, list[int]], live: list[bool]) -> dict[int, list[int]]:
    return {target: data for target, data in moves.items() if live[target]}


def _merged(builder: Builder, accepting: list[bool], targets: list[dict[int, list[int]]]) -> list[int]:
    """For each state a number that equal states share (Moore's algorithm)."""
    kinds = [int(accepts) for accepts in accepting]
    while True:
        seen: dict[tuple[int, frozenset[tuple[int, int]]], int] = {}
        refined: list[int] = []
        for own, moves in zip(kinds, targets, strict=True):
            builder.tick()
            read = frozenset((byte, kinds[target]) for target, data in moves.items() for byte in data)
            refined.append(seen.setdefault((own, read), len(seen)))
        if len(seen) == len(set(kinds)):
            return refined
        kinds = refined


def _in_order(kinds: list[int], live: list[bool]) -> list[int]:
    """The numbers of live states from 0 on, that of the first state first."""
    place: dict[int, int] = {}
    return [place.setdefault(kind, len(place)) if alive else -1 for kind, alive in zip(kinds, live, strict=True)]


def _live(accepting: list[bool], targets: list[dict[int, list[int]]]) -> list[bool]:
    """For each state, whether some accepting one can be reached."""
    before: list[list[int]] = [[] for _ in accepting]
    for index, moves in enumerate(targets):
        for target in moves:
            before[target].append(index)
    live = list(accepting)
    work = [index for index, accepts in enumerate(accepting) if accepts]
    while work:
        for index in before[work.pop()]:
            if not live[index]:
                live[index] = True
                work.append(index)
    return live
