"""Passes: each leaves what a program says as it is, and says something true of it."""

from __future__ import annotations

import pytest

from latticework.lang.ir import (
    Arg,
    Branch,
    Choices,
    Fork,
    Gen,
    Join,
    Op,
    Program,
    Ref,
    Regex,
    Role,
    Sampling,
    Select,
    Set,
    Text,
)
from latticework.lang.passes import (
    chains,
    constant_prefix,
    constraints,
    fold_constants,
    fork_order,
    last_needed,
    merge_text,
    unedited,
)


def program(*blocks: list[Op]) -> Program:
    return Program(tuple(Branch(tuple(block)) for block in blocks))


def test_adjacent_text_becomes_one_and_refs_follow_their_ops() -> None:
    edited = merge_text(
        program(
            [Text("a"), Text("b"), Gen("x"), Text(""), Fork((1,)), Gen("x"), Ref("x", (0, 2)), Text("c"), Text("d")],
            [Set("y", (Text("1"), Text("2"), Ref("x"), Text("")))],
        )
    )
    assert edited.program == program(
        [Text("ab"), Gen("x"), Fork((1,)), Gen("x"), Ref("x", (0, 1)), Text("cd")],
        [Set("y", (Text("12"), Ref("x")))],
    )
    assert edited.origins == ((0, 2, 4, 5, 6, 7), (0,))


def test_a_message_between_two_texts_keeps_them_apart() -> None:
    given = program([Text("a"), Role("user"), Text("b"), Role(None), Text("c")])
    assert merge_text(given).program == given


def test_a_ref_to_a_set_becomes_what_it_says() -> None:
    edited = fold_constants(
        program(
            [
                Set("c", (Text("v"),)),
                Gen("x"),
                Set("d", (Ref("c"), Arg("a"), Ref("x"))),
                Ref("d"),
                Fork((1,)),
            ],
            [Set("d", (Text("inner"),)), Ref("d"), Ref("d", (0, 2))],
        )
    )
    said: list[Op] = [Text("v"), Arg("a"), Ref("x")]
    assert list(edited.program.branches[0].ops) == [
        Set("c", (Text("v"),)), Gen("x"), Set("d", tuple(said)), *said, Fork((1,)),  # type: ignore[arg-type]
    ]  # fmt: skip
    assert list(edited.program.branches[1].ops) == [Set("d", (Text("inner"),)), Text("inner"), *said]
    assert edited.origins[1] == (0, 1, 2, 2, 2)


def test_edits_follow_one_another() -> None:
    given = program([Set("c", (Text("b"),)), Text("a"), Ref("c"), Gen("x")])
    edited = unedited(given)
    for edit in (fold_constants, merge_text):
        edited = edited.then(edit(edited.program))
    assert edited.program == program([Set("c", (Text("b"),)), Text("ab"), Gen("x")])
    assert edited.origins == ((0, 1, 3),)


@pytest.mark.parametrize(
    ("ops", "count"),
    [
        ([], 0),
        ([Arg("a"), Text("b")], 0),
        ([Role("system"), Text("a"), Role(None), Text("b"), Arg("c")], 4),
        ([Text("a"), Set("x", (Text("b"),)), Gen("y")], 2),
        ([Text("a"), Set("x", (Arg("b"),)), Text("c")], 1),
        ([Text("a"), Fork((1,))], 1),
        ([Text("a")], 1),
    ],
)
def test_the_constant_prefix_ends_where_calls_differ(ops: list[Op], count: int) -> None:
    blocks = [ops, []] if any(isinstance(op, Fork) for op in ops) else [ops]
    assert constant_prefix(program(*blocks)) == count


def test_each_constraint_is_listed_once() -> None:
    one, two = Regex("a+"), Choices(("x",))
    given = program(
        [Gen("a", constraint=one), Gen("b", constraint=two), Fork((1,)), Gen("d")], [Gen("c", constraint=Regex("a+"))]
    )
    assert constraints(given) == {one: ((0, 0), (1, 0)), two: ((0, 1),)}


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ([[Text("a"), Gen("x"), Text("b"), Gen("y"), Text("c")]], [[(0, 4)]]),
        ([[Text("a")]], [[]]),
        ([[Text("a"), Gen("x"), Ref("x"), Gen("y")]], [[(0, 2), (2, 4)]]),
        ([[Text("a"), Gen("x"), Ref("x"), Text("b")]], [[(0, 2)]]),
        ([[Text("a"), Gen("x"), Gen("y"), Ref("x"), Gen("z"), Ref("x"), Gen("w")]], [[(0, 3), (3, 7)]]),
        ([[Gen("x"), Ref("x"), Gen("y"), Set("v", (Ref("y"),)), Gen("z")]], [[(0, 1), (1, 5)]]),
        ([[Gen("x"), Set("v", (Ref("x"),)), Ref("v"), Gen("z")]], [[(0, 1), (1, 4)]]),
        ([[Text("a"), Gen("x", Sampling(n=2), ("n",)), Gen("y")]], [[(0, 2), (2, 3)]]),
        ([[Gen("w"), Text("a"), Gen("x", Sampling(n=2), ("n",)), Gen("y")]], [[(0, 1), (1, 3), (3, 4)]]),
        ([[Text("a"), Fork((1, 2)), Gen("x")], [Gen("y")], [Text("b")]], [[(0, 1), (2, 3)], [(0, 1)], []]),
        ([[Gen("x"), Fork((1,)), Gen("y")], [Ref("x"), Gen("z")]], [[(0, 1), (2, 3)], [(0, 2)]]),
        ([[Text("a"), Fork((1,)), Join((1,)), Ref("y", (1, 0)), Gen("x")], [Gen("y")]], [[(0, 1), (2, 5)], [(0, 1)]]),
        ([[Fork((1,)), Gen("w"), Ref("y", (1, 0)), Gen("x")], [Gen("y")]], [[(1, 2), (2, 4)], [(0, 1)]]),
        ([[Gen("w"), Fork((1,))], [Text("b")]], [[(0, 1)], []]),
    ],
)  # fmt: skip
def test_a_chain_ends_where_text_depends_on_what_is_not_known(
    blocks: list[list[Op]], expected: list[list[tuple[int, int]]]
) -> None:
    assert [[(part.start, part.stop) for part in parts] for parts in chains(program(*blocks))] == expected


def test_a_lease_is_needed_up_to_the_last_op_that_continues_from_it() -> None:
    given = program(
        [Text("a"), Gen("x"), Fork((1, 2)), Join((1, 2)), Text("end")], [Gen("y"), Text("b")], [Text("only text")]
    )
    assert last_needed(given) == (2, 0, -1)
    assert last_needed(program([Gen("x"), Fork((1,))], [Text("b")])) == (0, -1)


def test_the_longest_way_to_the_end_goes_first() -> None:
    def of(tokens: int) -> Gen:
        return Gen(None, Sampling(max_tokens=tokens), ("max_tokens",))

    given = program(
        [Fork((1, 2, 3))],
        [of(10)],
        [of(5), Fork((4,)), of(2), Join((4,)), of(1)],
        [Select("s", ("a", "b"))],
        [of(20)],
    )
    assert fork_order(given) == {(0, 0): (2, 1, 3), (2, 1): (4,)}
