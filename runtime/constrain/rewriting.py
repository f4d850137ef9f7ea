"""What can be done to nodes with calls: the empty text taken out, calls replaced, recursion at an end laid bare.

Nodes are seen with their sequences flat, and children before those that name them: nothing recurses, and a long
sequence is walked once. A call is taken not to have the empty text; `grammar.py` sees to that.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import NamedTuple

from latticework.runtime.constrain.builder import EMPTY, NEVER, Builder
from latticework.runtime.constrain.rules import Call, Either, Machine, Repeat, Structured, Terminal, Then

_LONG = 8  # repeats of fewer rounds are as good as written out


class Split(NamedTuple):
    """A node, taken apart at one end: the calls that its texts may begin with (or end with) and what each goes with,
    and the texts that begin with none of them."""

    recurring: dict[int, list[int]]
    rest: int


class Rewriting:
    """Rewrites nodes of one builder; remembers what is the same for all of them."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self._parts: dict[int, tuple[int, ...]] = {}
        self._nonempty: dict[int, int] = {NEVER: NEVER, EMPTY: NEVER}
        self._structured: dict[int, bool] = {NEVER: False}
        self._calling: dict[int, bool] = {NEVER: False}
        self._heavy: dict[int, bool] = {NEVER: False}
        self._with_terminals: dict[int, int] = {NEVER: NEVER, EMPTY: EMPTY}

    # ------------------------------------------------------------ nodes and what they name

    def parts(self, index: int) -> tuple[int, ...]:
        """The nodes that a node names; of a sequence, all of its items. Calls and machines name none."""
        found = self._parts.get(index)
        if found is not None:
            return found
        match self.builder.node(index):
            case Then(first, rest):
                items = [first]
                while isinstance(node := self.builder.node(rest), Then):
                    items.append(node.first)
                    rest = node.rest
                found = (*items, rest)
            case Either(choices):
                found = choices
            case Repeat(item) | Terminal(item):
                found = (item,)
            case _:
                found = ()
        self._parts[index] = found
        return found

    def below(self, roots: Iterable[int], known: Container[int] = ()) -> list[int]:
        """All nodes at and below `roots`, those in `known` left out, children first."""
        found: set[int] = set()
        work = [root for root in roots if root != NEVER]
        while work:
            index = work.pop()
            if index in found or index in known:
                continue
            self.builder.tick()
            found.add(index)
            work += self.parts(index)
        return sorted(found)

    def calls(self, root: int) -> set[int]:
        """The rules that `root` calls."""
        nodes = map(self.builder.node, self.below([root]))
        return {node.rule for node in nodes if isinstance(node, Call)}

    def is_regular(self, root: int) -> bool:
        """Whether `root` has no structure: no call, no terminal."""
        for index in self.below([root], self._structured):
            is_structured = isinstance(self.builder.node(index), Structured)
            self._structured[index] = is_structured or any(self._structured[part] for part in self.parts(index))
        return not self._structured[root]

    def is_call_free(self, root: int) -> bool:
        """Whether `root` calls nothing."""
        for index in self.below([root], self._calling):
            is_call = isinstance(self.builder.node(index), Call)
            self._calling[index] = is_call or any(self._calling[part] for part in self.parts(index))
        return not self._calling[root]

    def is_heavy(self, root: int) -> bool:
        """Whether `root` repeats something: many tokens may stand in it, or begin in it and go on behind it. Worth a
        terminal of its own, shared by all places where it stands."""
        for index in self.below([root], self._heavy):
            node = self.builder.node(index)
            is_loop = isinstance(node, Machine) or (isinstance(node, Repeat) and (node.high or _LONG) >= _LONG)
            self._heavy[index] = is_loop or any(self._heavy[part] for part in self.parts(index))
        return self._heavy[root]

    # ------------------------------------------------------------ rewriting

    def replaced(self, root: int, call: Callable[[int], int], memo: dict[int, int], *, melt: bool = True) -> int:
        """`root` with `call(rule)` in place of every call; no item of a repeat has the empty text. melt: terminals
        become part of what is around them, but heavy ones. memo: of earlier uses with the same arguments."""
        builder = self.builder
        memo[NEVER] = NEVER
        for index in self.below([root], memo):
            match builder.node(index):
                case Call(rule):
                    memo[index] = call(rule)
                case Terminal(item) if melt and not self.is_heavy(item):
                    memo[index] = memo[item]
                case Then():
                    memo[index] = builder.sequence([memo[part] for part in self.parts(index)])
                case Either(items):
                    memo[index] = builder.either([memo[item] for item in items])
                case Repeat(item, low, high):
                    low = 0 if builder.is_nullable(memo[item]) else low
                    memo[index] = builder.repeat(self.nonempty(memo[item]), low, high)
                case _:
                    memo[index] = index
        return memo[root]

    def nonempty(self, root: int) -> int:
        """The texts of `root` but the empty one."""
        builder, memo = self.builder, self._nonempty
        for index in self.below([root], memo):
            if not builder.is_nullable(index):
                memo[index] = index
                continue
            match builder.node(index):
                case Then():
                    parts = self.parts(index)
                    begun = [builder.sequence([memo[part], *parts[at + 1 :]]) for at, part in enumerate(parts)]
                    memo[index] = builder.either(begun)
                case Either(items):
                    memo[index] = builder.either([memo[item] for item in items])
                case Repeat(item, _, high):
                    memo[index] = builder.repeat(memo[item], 1, high)
                case Terminal(item):
                    memo[index] = builder.terminal(memo[item])
                case Machine(states, low, high):
                    memo[index] = builder.machine(states, max(low, 1), high)
        return memo[root]

    def with_terminals(self, root: int) -> int:
        """`root`, each largest part of it that has no structure made a terminal."""
        builder, memo = self.builder, self._with_terminals
        if self.is_regular(root):
            return builder.terminal(root)
        for index in self.below([root], memo):
            if self.is_regular(index):
                continue
            match builder.node(index):
                case Then():
                    memo[index] = builder.sequence(self._grouped(self.parts(index)))
                case Either(items):
                    plain = builder.either([item for item in items if self.is_regular(item)])
                    kept = [memo[item] for item in items if not self.is_regular(item)]
                    memo[index] = builder.either([*kept, *self._optional_terminal(plain)])
                case Repeat(item, low, high):
                    memo[index] = builder.repeat(memo[item], low, high)
                case _:
                    memo[index] = index
        return memo[root]

    def _grouped(self, parts: tuple[int, ...]) -> list[int]:
        found: list[int] = []
        run: list[int] = []
        for part in parts:
            if self.is_regular(part):
                run.append(part)
                continue
            found += [self.builder.terminal(self.builder.sequence(run)), self._with_terminals[part]]
            run = []
        return [*found, self.builder.terminal(self.builder.sequence(run))]

    def _optional_terminal(self, plain: int) -> list[int]:
        is_nullable = self.builder.is_nullable(plain)
        terminal = self.builder.terminal(self.nonempty(plain))
        return [terminal, EMPTY] if is_nullable else [terminal]

    # ------------------------------------------------------------ recursion at an end

    def split(self, root: int, members: set[int], *, at_start: bool) -> Split:
        """`root` as the calls of `members` that stand at its start (else its end), and the rest."""
        memo: dict[int, Split] = {NEVER: Split({}, NEVER)}
        for index in self._at_end(root, at_start):
            memo[index] = self._split_one(index, memo, members, at_start)
        return memo[root]

    def _at_end(self, root: int, at_start: bool) -> list[int]:
        """The nodes whose texts may begin (or end) a text of `root`, children first."""
        found: set[int] = set()
        work = [root] if root != NEVER else []
        while work:
            index = work.pop()
            if index in found:
                continue
            self.builder.tick()
            found.add(index)
            parts = self.parts(index)
            if isinstance(self.builder.node(index), Then):
                work += self.outermost(parts, at_start)
            else:
                work += parts
        return sorted(found)

    def outermost(self, parts: tuple[int, ...], at_start: bool) -> list[int]:
        """The items of a sequence that its text may begin (or end) with."""
        found: list[int] = []
        for part in parts if at_start else reversed(parts):
            found.append(part)
            if not self.builder.is_nullable(part):
                break
        return found

    def _split_one(self, index: int, memo: dict[int, Split], members: set[int], at_start: bool) -> Split:
        builder = self.builder
        recurring: dict[int, list[int]] = {}

        def add(found: Split, tail: int) -> None:
            for rule, others in found.recurring.items():
                for other in others:
                    joined = [other, tail] if at_start else [tail, other]
                    recurring.setdefault(rule, []).append(builder.sequence(joined))

        match builder.node(index):
            case Call(rule):
                return Split({rule: [EMPTY]}, NEVER) if rule in members else Split({}, index)
            case Then():
                parts = self.parts(index)
                outer = self.outermost(parts, at_start)
                if not any(memo[part].recurring for part in outer):
                    return Split({}, index)
                rests: list[int] = []
                for at, part in enumerate(outer):
                    inner = parts[at + 1 :] if at_start else parts[: len(parts) - 1 - at]
                    tail = builder.sequence(inner)
                    add(memo[part], tail)
                    rest = memo[part].rest
                    rest = self.nonempty(rest) if builder.is_nullable(part) else rest
                    rests.append(builder.sequence([rest, tail] if at_start else [tail, rest]))
                if builder.is_nullable(index):
                    rests.append(EMPTY)
                return Split(recurring, builder.either(rests))
            case Either(items):
                for item in items:
                    add(memo[item], EMPTY)
                return Split(recurring, builder.either([memo[item].rest for item in items]))
            case Repeat(item, low, high):
                if not memo[item].recurring:
                    return Split({}, index)
                tail = builder.repeat(item, max(low - 1, 0), None if high is None else high - 1)
                add(memo[item], tail)
                rest = memo[item].rest
                begun = builder.sequence([rest, tail] if at_start else [tail, rest])
                return Split(recurring, builder.optional(begun) if low == 0 else begun)
            case _:
                return Split({}, index)
