"""Rows of one automaton that are begun, abandoned and ended while others of it pause."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from latticework.lang.ir import JsonSchema, Sampling
from latticework.runtime.constrain import Automaton, Vocabulary, to_rules
from latticework.runtime.profile import Profile
from latticework.runtime.request import GenSegment
from latticework.runtime.schedule import pieces as pieces_module
from latticework.runtime.schedule.masks import Masks
from latticework.runtime.schedule.pieces import Abandoned, Job, Pace, Pieces

LETTERS = b'abc ",:{}[]0123'
TOKENS = [*(bytes([i]) for i in range(256)), *(bytes([i, j]) for i in LETTERS for j in LETTERS), b""]
MEMBER = {"type": ["string", "integer", "array"], "uniqueItems": True, "maxItems": 5}
SCHEMA = JsonSchema({"type": "object", "properties": {"aa": MEMBER, "ab": MEMBER}, "required": ["aa", "ab"]})


class OneAutomaton:
    """Stands for the `Automata` of an engine."""

    def __init__(self, automaton: Automaton) -> None:
        self.automaton = automaton

    def grown(self, key: str) -> int:
        return 0


def sequence(automaton: Automaton, text: bytes, remaining: int) -> Any:
    """What `Masks` looks at of a sequence whose gen has written `text`. It is one of its own, as sequences are."""
    matcher = automaton.matcher()
    assert all(map(matcher.accept, text))
    output = SimpleNamespace(matcher=matcher, closing=True, remaining=remaining, drawn=0, position=0)
    chain = [GenSegment(Sampling(max_tokens=5, seed=1), "k")]
    return _Sequence(output, SimpleNamespace(chain=chain))


class _Sequence:
    def __init__(self, output: Any, request: Any) -> None:
        self.output = output
        self.request = request
        self.tokens = [0]
        self.segment = 0


@pytest.fixture
def every_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs stop at every place where they may."""

    def breathe(job: Job[object]) -> None:
        if not job._is_abandoned:
            assert job._thread is not None
            job._thread.pause()
        if job._is_abandoned:
            raise Abandoned

    monkeypatch.setattr(Job, "breathe", breathe)
    monkeypatch.setattr(pieces_module, "LEAST_SECONDS", 2e-5)


@pytest.mark.usefixtures("every_pause")
def test_a_row_abandoned_while_another_pauses_keeps_no_later_row_from_being_made() -> None:
    pace = Pace()
    pieces = Pieces(pace, 0.01)
    automaton = Automaton(to_rules(SCHEMA), Vocabulary(TOKENS, (len(TOKENS) - 1,)), pause=pace)
    open_sequences: list[Any] = []
    masks = Masks(
        OneAutomaton(automaton),  # type: ignore[arg-type]
        len(TOKENS),
        Profile(False),
        pieces,
        lambda one: any(one is other for other in open_sequences),
    )
    near = sequence(automaton, b'{"aa":[1,2,{"a":"', 60)
    near.output.matcher.prepare(math.inf)
    near.output.remaining = near.output.matcher.shortest() + 1
    gone = sequence(automaton, b'{"aa":1,"ab":', 300)
    open_sequences += [near, gone]
    pieces.begin(True)
    assert not masks.is_ready(gone)
    open_sequences.remove(gone)  # its client is gone in the middle of a row
    masks.tidy()
    pieces._left = 2e-5  # the next row begins before anybody looks whether this one is wanted
    assert not masks.is_ready(near)
    assert len(pieces) == 2
    pieces.drop_unwanted()
    assert len(pieces) == 1
    for _ in range(10_000):
        if not len(pieces):
            break
        pieces.go_on(0.001)
    assert masks.is_ready(near)
    assert not automaton.is_at_work
    later = sequence(automaton, b'{"aa":[1,', 300)
    open_sequences.append(later)
    for _ in range(10_000):
        pieces.begin(True)
        if masks.is_ready(later):
            break
        pieces.go_on(0.01)
    assert masks.is_ready(later)
