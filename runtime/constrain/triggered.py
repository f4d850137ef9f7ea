"""`Triggered` and `After`: free text up to a marker, and a constraint behind it.

Free text is any UTF-8 in which no marker has come yet: the automaton of Aho and Corasick (1975), over characters. It
is regular; what stands behind the marker may be anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from latticework.lang.errors import ConstraintError
from latticework.lang.ir import After, Constraint, Triggered
from latticework.runtime.constrain.builder import NEVER, Builder
from latticework.runtime.constrain.ranges import complement, union
from latticework.runtime.constrain.rewriting import Rewriting
from latticework.runtime.constrain.rules import MachineState
from latticework.runtime.constrain.utf8 import utf8_characters

Build = Callable[[Constraint], int]


def build_after(builder: Builder, constraint: After, build: Build) -> int:
    """The node of any text up to the first marker, and then what `build` makes of the constraint."""
    free = _FreeText(builder, [constraint.marker], "after")
    return _arranged(
        builder, builder.sequence([free.up_to(frozenset([constraint.marker])), build(constraint.constraint)])
    )


def build_triggered(builder: Builder, constraint: Triggered, build: Build) -> int:
    """The node of free text with tags in it; `build` makes the node of a tag's constraint. Raises ConstraintError."""
    field = builder.field
    triggers = constraint.triggers or tuple(dict.fromkeys(tag.begin for tag in constraint.tags))
    free = _FreeText(builder, triggers, field)
    texts = [
        builder.sequence([build(tag.constraint), builder.literal(_encoded(tag.end, field))]) for tag in constraint.tags
    ]
    begun: list[int] = []
    reached: set[str] = set()
    for found in free.endings:
        tags: list[int] = []
        for tag, text in zip(constraint.tags, texts, strict=True):
            matching = [trigger for trigger in found if tag.begin.startswith(trigger)]
            reached.update([tag.begin] if matching else [])
            rests = [builder.literal(_encoded(tag.begin[len(trigger) :], field)) for trigger in matching]
            tags += [builder.sequence([rest, text]) for rest in rests]
        begun.append(builder.sequence([free.up_to(found), builder.either(tags)]))
    for tag in constraint.tags:
        if tag.begin not in reached:
            raise ConstraintError(
                f"the tag {tag.begin!r} can never begin: another trigger is inside of its own", field="tags"
            )
    segment = builder.either(begun)
    if constraint.stop_after_first:
        root = segment if constraint.at_least_one else builder.either([segment, free.without()])
    else:
        root = builder.sequence([builder.repeat(segment, int(constraint.at_least_one)), free.without()])
    return _arranged(builder, root)


def _arranged(builder: Builder, root: int) -> int:
    """A regular node as it is; of others, the regular parts as terminals."""
    rewriting = Rewriting(builder)
    return root if root == NEVER or rewriting.is_regular(root) else rewriting.with_terminals(root)


def _encoded(text: str, field: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ConstraintError(f"{text!r} holds a lone surrogate, which is no text", field=field) from None


class _FreeText:
    """Texts seen as far as they may become a marker. States are the beginnings of markers; 0 is the empty one.

    endings: the sets of markers that can be complete at the same character, for the first time in a text.
    """

    def __init__(self, builder: Builder, markers: Sequence[str], field: str) -> None:
        self.builder = builder
        for marker in markers:
            _encoded(marker, field)
        self._moves: list[dict[str, int]] = [{}]
        self._found: list[frozenset[str]] = [frozenset()]
        for marker in markers:
            state = 0
            for character in marker:
                builder.tick()
                if character not in self._moves[state]:
                    self._moves[state][character] = len(self._moves)
                    self._moves.append({})
                    self._found.append(frozenset())
                state = self._moves[state][character]
            self._found[state] |= {marker}
        self._complete()
        self.endings = self._reached_endings()

    def _complete(self) -> None:
        """Adds, for every beginning, what it goes on with when it is no beginning of a marker any more."""
        order = list(self._moves[0].values())
        shorter = dict.fromkeys(order, 0)  # the longest proper end that begins a marker
        for state in order:
            self.builder.tick()
            fallback = shorter[state]
            self._found[state] |= self._found[fallback]
            for character, target in self._moves[state].items():
                shorter[target] = self._moves[fallback].get(character, 0)
                order.append(target)
            self._moves[state] = {**self._moves[fallback], **self._moves[state]}

    def _reached_endings(self) -> list[frozenset[str]]:
        """Nothing goes on behind a marker, so markers with another inside of them never end."""
        found: dict[frozenset[str], None] = {}
        seen = {0}
        work = [0]
        while work:
            for target in self._moves[work.pop()].values():
                if self._found[target]:
                    found[self._found[target]] = None
                elif target not in seen:
                    seen.add(target)
                    work.append(target)
        return list(found)

    def up_to(self, ending: frozenset[str]) -> int:
        """Text up to its first marker, where that is one of `ending`."""
        return self._machine(lambda state: self._found[state] == ending)

    def without(self) -> int:
        """Text without any marker."""
        return self._machine(lambda state: not self._found[state])

    def _machine(self, accepts: Callable[[int], bool]) -> int:
        states: list[MachineState] = []
        for state, own in enumerate(self._moves):
            self.builder.tick()
            targets: dict[int, list[tuple[int, int]]] = {}
            for character, target in own.items():
                targets.setdefault(target, []).append((ord(character), ord(character)))
            known = union(pair for pairs in targets.values() for pair in pairs)
            targets.setdefault(0, []).extend(complement(known))
            is_over = bool(self._found[state])
            moves = [
                (utf8_characters(self.builder, union(pairs)), target)
                for target, pairs in targets.items()
                if not is_over and (accepts(target) or not self._found[target])
            ]
            states.append(MachineState(accepts(state), tuple(moves)))
        return self.builder.machine(states)


__all__ = ["build_after", "build_triggered"]
