"""Rules that call one another -> rules that the automaton can run.

Front ends write every rule's text as a node of the builder, with calls; here the rules are made fit. The language
stays the same:

- the empty text is taken out of every rule and put where the rule is called, so cycles that write nothing vanish;
- rules that begin with themselves, directly or through others, become repeats: A = A x | y is y x*;
- rules that call nothing, or recur at one end only, are regular and melt into those that call them;
- what is regular between two calls becomes one terminal.

This file knows rules and which call which; what happens inside of one is in `rewriting.py`. It knows no grammar's
syntax.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from latticework.lang.errors import GrammarError, point_at
from latticework.runtime.constrain.builder import NEVER, Builder
from latticework.runtime.constrain.rewriting import Rewriting, Split
from latticework.runtime.constrain.rules import Call, Either, Empty, Repeat, Terminal, Then

_MOST_LINEAR = 2  # more rules than this that recur at their ends stay calls: as one expression they would be huge


def grammar_error(text: str, position: int, message: str, field: str, hint: str | None = None) -> GrammarError:
    """The error at a place of a grammar, with line, column and caret."""
    position = min(position, len(text))
    begin = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position)
    line = text.count("\n", 0, begin) + 1
    shown = point_at(text[begin : end if end >= 0 else len(text)], position - begin)
    message = f"{message} at line {line}, column {position - begin + 1}\n{shown}"
    return GrammarError(message, field=field, position=position, hint=hint)


def build_rules(builder: Builder, bodies: Mapping[int, int], start: int) -> int:
    """The node for the text of rule `start`; NEVER where there is none.

    bodies: for each rule of `builder`, its text: regular nodes, terminals, and calls of these rules.
    """
    return _Rules(builder, bodies, start).solve()


class Nonempty:
    """The rules that `start` needs. bodies: the text of each but the empty one; nullable: those that have it. melt:
    terminals become part of what is around them."""

    def __init__(self, rewriting: Rewriting, bodies: Mapping[int, int], start: int, *, melt: bool) -> None:
        self.rewriting = rewriting
        self.builder = rewriting.builder
        reached = self._reached(bodies, start)
        self.nullable = self._find_nullable(reached)
        memo: dict[int, int] = {}
        texts = {rule: rewriting.replaced(body, self._call, memo, melt=melt) for rule, body in reached.items()}
        self.bodies = {rule: rewriting.nonempty(text) for rule, text in texts.items()}

    def _call(self, rule: int) -> int:
        call = self.builder.call(rule)
        return self.builder.optional(call) if rule in self.nullable else call

    def _reached(self, bodies: Mapping[int, int], start: int) -> dict[int, int]:
        found: dict[int, int] = {}
        work = [start]
        while work:
            rule = work.pop()
            if rule not in found:
                found[rule] = bodies[rule]
                work += self.rewriting.calls(bodies[rule])
        return found

    def _find_nullable(self, bodies: dict[int, int]) -> set[int]:
        """The rules that have the empty text: believed of none until it is seen."""
        users: dict[int, list[int]] = {}  # node -> those whose answer may change with it
        rules: dict[int, list[int]] = {}  # node -> the rules whose text it is
        callers: dict[int, int] = {}
        order = self.rewriting.below(bodies.values())
        for index in order:
            for part in self.rewriting.parts(index):
                users.setdefault(part, []).append(index)
            node = self.builder.node(index)
            if isinstance(node, Call):
                callers[node.rule] = index
        for rule, body in bodies.items():
            rules.setdefault(body, []).append(rule)
        seen: set[int] = set()
        work = [index for index in order if self._is_nullable(index, seen)]
        nullable: set[int] = set()
        while work:
            self.builder.tick()
            index = work.pop()
            if index in seen:
                continue
            seen.add(index)
            work += [user for user in users.get(index, ()) if user not in seen and self._is_nullable(user, seen)]
            for rule in rules.get(index, ()):
                nullable.add(rule)
                if rule in callers:
                    work.append(callers[rule])
        return nullable

    def _is_nullable(self, index: int, seen: set[int]) -> bool:
        match self.builder.node(index):
            case Empty():
                return True
            case Then():
                return all(part in seen for part in self.rewriting.parts(index))
            case Either(items):
                return any(item in seen for item in items)
            case Repeat(item, low):
                return low == 0 or item in seen
            case Terminal(item):
                return item in seen
            case Call():
                return False
            case _:
                return self.builder.is_nullable(index)


class _Rules:
    """The rules that `start` needs, one group that calls itself after the other."""

    def __init__(self, builder: Builder, bodies: Mapping[int, int], start: int) -> None:
        self.builder = builder
        self.start = start
        self.rewriting = Rewriting(builder)
        self.solved: dict[int, int] = {}  # rule -> what stands for a call of it
        found = Nonempty(self.rewriting, bodies, start, melt=True)
        self.bodies = found.bodies
        self.nullable = found.nullable

    def solve(self) -> int:
        edges = {rule: self.rewriting.calls(body) for rule, body in self.bodies.items()}
        uses = self._count_uses()
        for group in connected(edges):
            self._solve_group(group, edges, uses)
        for rule, body in self.bodies.items():
            if self.solved[rule] == self.builder.call(rule):
                self.builder.define(rule, self.rewriting.with_terminals(body))
        root = self.solved[self.start]
        if not self.rewriting.is_regular(root):
            root = self.rewriting.with_terminals(root)
        return self.builder.optional(root) if self.start in self.nullable else root

    def _count_uses(self) -> Counter[int]:
        uses: Counter[int] = Counter([self.start])
        for index in self.rewriting.below(self.bodies.values()):
            nodes = map(self.builder.node, self.rewriting.parts(index))
            uses.update(node.rule for node in nodes if isinstance(node, Call))
        for body in self.bodies.values():
            if body != NEVER and isinstance(node := self.builder.node(body), Call):
                uses[node.rule] += 1
        return uses

    # ------------------------------------------------------------ one group of rules that call one another

    def _solve_group(self, group: list[int], edges: Mapping[int, set[int]], uses: Counter[int]) -> None:
        memo: dict[int, int] = {}
        for rule in group:
            self.bodies[rule] = self.rewriting.replaced(self.bodies[rule], self._solved_call, memo)
        is_recursive = len(group) > 1 or group[0] in edges[group[0]]
        if is_recursive:
            is_recursive = not self._make_regular(group)
        for rule in group:
            body = self.bodies[rule]
            melts = not is_recursive and (uses[rule] == 1 or self.rewriting.is_call_free(body))
            self.solved[rule] = self._shared(body, uses[rule]) if melts else self.builder.call(rule)

    def _shared(self, body: int, uses: int) -> int:
        """What melts into its callers: a heavy text as a terminal, so that all of them have the same."""
        if uses > 1 and self.rewriting.is_regular(body) and self.rewriting.is_heavy(body):
            return self.builder.terminal(body)
        return body

    def _solved_call(self, rule: int) -> int:
        return self.solved.get(rule, self.builder.call(rule))

    def _make_regular(self, group: list[int]) -> bool:
        """Gives the rules texts that do not recur, if they recur at their starts only, or at their ends only."""
        members = set(group)
        for at_start in (True, False):
            if len(group) > _MOST_LINEAR:
                break
            rows = {rule: self.rewriting.split(self.bodies[rule], members, at_start=at_start) for rule in group}
            if not any(self._mention(row, members) for row in rows.values()):
                self.bodies.update(self._eliminated(rows, at_start, stay=False))
                return True
        self._without_left_recursion(group)
        return False

    def _mention(self, row: Split, members: set[int]) -> bool:
        nodes = [row.rest, *(other for others in row.recurring.values() for other in others)]
        return any(not members.isdisjoint(self.rewriting.calls(node)) for node in nodes)

    def _without_left_recursion(self, group: list[int]) -> None:
        """No rule of the group begins with itself any more."""
        members = set(group)
        rows = {rule: self.rewriting.split(self.bodies[rule], members, at_start=True) for rule in group}
        edges = {rule: set(row.recurring) for rule, row in rows.items()}
        for part in connected(edges):
            if len(part) == 1 and part[0] not in edges[part[0]]:
                continue
            among = set(part)
            taken = {rule: self.rewriting.split(self.bodies[rule], among, at_start=True) for rule in part}
            self.bodies.update(self._eliminated(taken, at_start=True, stay=True))

    def _eliminated(self, rows: Mapping[int, Split], at_start: bool, *, stay: bool) -> dict[int, int]:
        """Solves A = A a | B b | … | c by Arden's rule: A = A a | c is c a*.

        One row after the other is put into those that come later, so what is left leads to later rows only: as calls
        where rules `stay` rules, else (they recur at their ends only) as the texts themselves.
        """
        builder = self.builder
        factors = {
            rule: {other: builder.either(found) for other, found in row.recurring.items()} for rule, row in rows.items()
        }
        rests = {rule: row.rest for rule, row in rows.items()}
        users: dict[int, set[int]] = {rule: set() for rule in rows}
        for rule, row in rows.items():
            for other in row.recurring:
                users[other].add(rule)

        def join(*items: int) -> int:
            builder.tick()
            return builder.sequence(items if at_start else items[::-1])

        for rule in rows:
            star = builder.repeat(self.rewriting.nonempty(factors[rule].pop(rule, NEVER)))
            rests[rule] = join(rests[rule], star)
            factors[rule] = {other: join(found, star) for other, found in factors[rule].items()}
            for user in users[rule] - {rule}:
                behind = factors[user].pop(rule)
                rests[user] = builder.either([rests[user], join(rests[rule], behind)])
                for other, found in factors[rule].items():
                    known = factors[user].get(other, NEVER)
                    factors[user][other] = builder.either([known, join(found, behind)])
                    users[other].add(user)
            for other in factors[rule]:
                users[other].discard(rule)
        texts: dict[int, int] = {}
        for rule in reversed(list(rows)):
            parts = [
                join(builder.call(other) if stay else texts[other], found) for other, found in factors[rule].items()
            ]
            texts[rule] = builder.either([rests[rule], *parts])
        return texts


def connected(edges: Mapping[int, set[int]]) -> Iterator[list[int]]:
    """The strongly connected groups, each after those that it leads to (Tarjan's algorithm, without recursion)."""
    number: dict[int, int] = {}
    lowest: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    for root in edges:
        if root in number:
            continue
        work = [(root, iter(sorted(edges[root])))]
        number[root] = lowest[root] = len(number)
        stack.append(root)
        on_stack.add(root)
        while work:
            rule, following = work[-1]
            for other in following:
                if other not in number:
                    number[other] = lowest[other] = len(number)
                    stack.append(other)
                    on_stack.add(other)
                    work.append((other, iter(sorted(edges[other]))))
                    break
                if other in on_stack:
                    lowest[rule] = min(lowest[rule], number[other])
            else:
                work.pop()
                if work:
                    lowest[work[-1][0]] = min(lowest[work[-1][0]], lowest[rule])
                if lowest[rule] == number[rule]:
                    group = _popped(stack, rule)
                    on_stack.difference_update(group)
                    yield sorted(group)


def _popped(stack: list[int], rule: int) -> list[int]:
    group: list[int] = []
    while not group or group[-1] != rule:
        group.append(stack.pop())
    return group
