"""The ideal of small programs, counted by hand: a token a character, steps of ten."""

from __future__ import annotations

import pytest

import latticework as lw
from benchmarks.programs.ideal import Answer, Ideal, Model, Tree, ideal


class Brackets:
    """A template that writes `[` and `]`."""

    def copy(self) -> Brackets:
        return self

    def marker(self, role: str | None) -> str:
        return "]" if role is None else "["


MODEL = Model(lambda pieces, at_start: [ord(c) for text, _ in pieces for c in text], Brackets, chunk=10)


@lw.function
def straight(s: lw.State, word: str) -> None:
    s += "ab" + word + lw.gen("x") + "tail" + lw.gen("y") + "never needed"


@lw.function
def forked(s: lw.State, word: str) -> None:
    s += word
    branches = s.fork(2)
    for letter, branch in zip("pq", branches, strict=True):
        branch += letter + lw.gen("x")
    branches.join()
    s += "+".join(s["x"]) + lw.gen("y")


@lw.function
def crossed(s: lw.State) -> None:
    s += "abc"
    left, right = s.fork(2)
    right += "r" + lw.gen("x")
    left += right["x"] + lw.gen("y")


def test_a_chain_costs_its_text_once_and_a_step_a_token() -> None:
    tree = Tree()
    program = straight.compile().ir
    answers = {(0, 2): Answer("drawn", 3), (0, 4): Answer("more", 5)}
    assert ideal(program, {"word": "cd"}, answers, MODEL, tree) == Ideal(4 + 4, 3 + 5)
    assert ideal(program, {"word": "cd"}, answers, MODEL, tree) == Ideal(0, 3 + 5)
    assert ideal(program, {"word": "ce"}, answers, MODEL, tree) == Ideal(1 + 4, 3 + 5)


def test_long_text_costs_a_step_a_chunk() -> None:
    answers = {(0, 2): Answer("drawn", 3), (0, 4): Answer("more", 5)}
    assert ideal(straight.compile().ir, {"word": "c" * 19}, answers, MODEL, Tree()) == Ideal(21 + 4, 2 + 3 + 5)


def test_a_join_waits_for_the_longest_branch_and_siblings_share_their_prefix() -> None:
    program = forked.compile().ir
    last = len(program.branches[0].ops) - 1
    answers = {(1, 1): Answer("left", 2), (2, 1): Answer("rightmost", 7), (0, last): Answer("end", 4)}
    joined = len("left+rightmost")
    assert ideal(program, {"word": "abc"}, answers, MODEL, Tree()) == Ideal(3 + 2 + joined, 7 + 1 + 4)


def test_text_of_another_branch_is_waited_for() -> None:
    answers = {(1, 1): Answer("y", 2), (2, 1): Answer("four", 5)}
    assert ideal(crossed.compile().ir, {}, answers, MODEL, Tree()) == Ideal(3 + 1 + 4, 5 + 2)


def test_the_options_of_a_select_cost_one_more_step_where_they_are_longer_than_a_token() -> None:
    @lw.function
    def choose(s: lw.State, word: str) -> None:
        s += lw.user(word) + lw.select("x", ["a", "b"]) + lw.select("y", ["long", "b"])

    answers = {(0, 3): Answer("a", 1), (0, 4): Answer("long", 4)}
    assert ideal(choose.compile().ir, {"word": "abc"}, answers, MODEL, Tree()) == Ideal(5, 1 + 2)


def test_an_op_without_an_answer_is_named() -> None:
    with pytest.raises(ValueError, match="op 2 of branch 0 has no answer"):
        ideal(straight.compile().ir, {"word": "x"}, {}, MODEL, Tree())
