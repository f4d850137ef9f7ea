"""Tables of automata on the device: the rows they give, within any budget, are the matchers'; states have one owner."""

from __future__ import annotations

import random

import numpy as np
import pytest

pytest.importorskip("triton")

import torch

from latticework.kernels.affordable import UNBOUNDED, Automata, affordable_reference
from latticework.kernels.automaton import TokenBytes, mask_rows_reference
from latticework.lang.ir import Choices, JsonSchema, Lark, Regex
from latticework.runtime.constrain import (
    Automaton,
    Vocabulary,
    compile_constraint,
    decode_rules,
    encode_rules,
    to_rules,
)
from latticework.runtime.constrain.tabulate import Table, tabulate
from latticework.runtime.device.tables import NO_ROOM, TOO_LARGE, UNDER_WAY, Placed, Tables
from latticework.runtime.schedule import automata as schedule_automata
from latticework.runtime.schedule.pieces import Pace, Pieces

END = 0
LETTERS = bytes(range(0x20, 0x7F))
CLOSED = {"type": "object", "additionalProperties": False, "required": ["a"]}
SHORT = {"type": "string", "maxLength": 3, "pattern": "^[a-c]*$"}
CONSTRAINTS: list[Regex | Choices | JsonSchema | Lark] = [
    Regex(r"[0-9]{4}-[0-9]{2}"),
    Regex(r"(a|bc)*x?"),
    Regex(r"[a-c]{0,12}(-[xyz]+)?"),
    Choices(("abc", "abx", "xyz", "a")),
    JsonSchema(CLOSED | {"properties": {"a": {"type": "boolean"}, "b": {"enum": ["x", 1]}}}),
    JsonSchema({"type": "array", "maxItems": 3, "items": {"enum": [1, 10, None]}}),
    JsonSchema(CLOSED | {"properties": {"a": SHORT, "c": {"type": "array", "maxItems": 1, "items": SHORT}}}),
]


def make_vocabulary() -> Vocabulary:
    """An end token, single bytes, and pieces of two to five of them."""
    randomly = random.Random(3)
    pieces = {bytes(randomly.choices(LETTERS, k=randomly.randint(2, 5))) for _ in range(60)}
    words = [b"", *(bytes([byte]) for byte in LETTERS), b"abc", b'"a"', b'{"a"', b"true", *sorted(pieces)]
    return Vocabulary(list(dict.fromkeys(words)), (END,))


def on_device(table: Table, vocabulary: Vocabulary) -> tuple[Automata, TokenBytes]:
    tokens = TokenBytes.of(list(vocabulary.tokens), torch.device("cpu"))
    transitions = torch.from_numpy(table.transitions)
    masks = mask_rows_reference(transitions, tokens)
    masks[torch.from_numpy(table.accepts)] |= torch.from_numpy(vocabulary.end_row)
    return Automata(transitions, masks, torch.from_numpy(table.costs), torch.from_numpy(table.need())), tokens


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_rows_within_every_budget_are_the_matchers(constraint: Regex | Choices | JsonSchema | Lark) -> None:
    vocabulary = make_vocabulary()
    automaton = compile_constraint(constraint, vocabulary)
    table = tabulate(automaton)
    assert table is not None
    automata, tokens = on_device(table, vocabulary)
    randomly = random.Random(5)
    tried = 0
    for _ in range(12):
        matcher, text = automaton.matcher(), b""
        while not matcher.is_finished() and len(text) < 20:
            state = table.walk(text)
            assert int(table.costs[state]) == matcher.shortest()
            row = np.empty(vocabulary.words, np.int32)
            found = torch.empty(1, vocabulary.words, dtype=torch.int32)
            for left in (*range(matcher.shortest(), matcher.shortest() + 5), 40, UNBOUNDED):
                if left == 0:
                    continue
                matcher.fill_mask(row, left)
                affordable_reference(torch.tensor([state]).int(), torch.tensor([left]).int(), automata, tokens, found)
                assert found[0].tolist() == row.tolist(), (text, left)
                tried += 1
            allowed = [t for t in range(1, vocabulary.size) if row[t // 32] >> (t % 32) & 1]
            if not allowed:
                break
            token = randomly.choice(allowed)
            assert matcher.accept(token)
            text += vocabulary.tokens[token]
    assert tried > 20


def test_with_as_much_as_is_needed_a_row_is_whole() -> None:
    vocabulary = make_vocabulary()
    for constraint in CONSTRAINTS:
        table = tabulate(compile_constraint(constraint, vocabulary))
        assert table is not None
        automata, tokens = on_device(table, vocabulary)
        states = torch.arange(len(table.costs), dtype=torch.int32)
        out = torch.empty_like(automata.masks)
        always = Automata(automata.transitions, automata.masks, automata.costs, torch.full_like(states, UNBOUNDED))
        affordable_reference(states, automata.need, always, tokens, out)  # every row is looked through
        assert out.tolist() == automata.masks.tolist()


class Room:
    """A device with so many states; what was put where."""

    def __init__(self, states: int) -> None:
        self.states = states
        self.put: list[tuple[int, int]] = []

    def put_table(self, table: Table, base: int) -> None:
        self.put.append((base, len(table.transitions)))


class Setting:
    """Tables over real automata, tabulated when `work` is called."""

    def __init__(self, states: int) -> None:
        vocabulary, self.pace = make_vocabulary(), Pace()
        self.pieces = Pieces(self.pace, 1.0)

        def build(rules: bytes) -> Automaton:
            return Automaton(decode_rules(rules), vocabulary)

        self.automata = schedule_automata.Automata(build, 64 << 20)
        self.used: set[str] = set()
        self.room = Room(states)
        self.tables = Tables(self.room, self.automata, self.pieces, self.pace, lambda key: key in self.used)

    def define(self, key: str, pattern: str) -> None:
        self.automata.define(key, encode_rules(to_rules(Regex(pattern))))
        self.automata.acquire([key])

    def find(self, key: str) -> Placed | str:
        self.tables.find(key)
        self.pieces.go_on(10.0)
        self.tables.begin()
        found = self.tables.find(key)
        self.tables.check()
        return found


def test_a_table_is_made_between_steps_and_then_found() -> None:
    setting = Setting(100)
    setting.define("key", "[a-c]{3}")
    assert setting.tables.find("key") == UNDER_WAY
    found = setting.find("key")
    assert isinstance(found, Placed)
    assert (found.base, found.table.walk(b"ab")) == (0, found.table.walk(b"cc"))
    assert found.table.walk(b"abx") == found.table.walk(b"abab") == -1
    assert setting.room.put == [(0, 4)]


def test_tables_used_longest_ago_make_room_and_used_ones_do_not() -> None:
    setting = Setting(10)  # two tables of four states
    for key in "abcd":
        setting.define(key, f"{key}xy")
    first, second = setting.find("a"), setting.find("b")
    assert isinstance(first, Placed)
    assert isinstance(second, Placed)
    setting.used = {"a"}
    third = setting.find("c")
    assert isinstance(third, Placed)
    assert third.base == second.base
    setting.used = {"a", "c"}
    assert setting.find("d") == NO_ROOM
    setting.used = {"a"}
    assert isinstance(setting.find("d"), Placed)  # it was not made again
    assert setting.room.put == [(0, 4), (4, 4), (4, 4), (4, 4)]


def test_what_has_no_table_is_remembered() -> None:
    setting = Setting(50)
    setting.define("long", "[a-c]{60}")
    assert setting.find("long") == TOO_LARGE
    assert setting.tables.find("long") == TOO_LARGE
    assert len(setting.pieces) == 0
