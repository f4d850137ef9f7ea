"""What makes a program one that can be run, and which op a Ref means."""

from __future__ import annotations

import json

import msgspec
import pytest

from latticework.lang.check import check_program, linked, shortened
from latticework.lang.errors import ProgramError
from latticework.lang.ir import (
    MAX_FORK_DEPTH,
    Arg,
    Branch,
    Fork,
    Gen,
    Join,
    Op,
    Program,
    Ref,
    Role,
    Sampling,
    Select,
    Set,
    Text,
)


def program(*blocks: list[Op]) -> Program:
    return Program(tuple(Branch(tuple(block)) for block in blocks))


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([[Ref("x")]], r"branch 0, op 0 \(ref x\): no op before it sets 'x'; this branch sets: none"),
        ([[Text("a"), Gen("y"), Ref("x"), Gen("x")]], r"op 2 .*no op before it sets 'x'; this branch sets: 'y'"),
        ([[Set("v", (Text("a"), Ref("x")))]], r"op 0 \(set v = .*no op before it sets 'x'"),
        ([[Fork((1,)), Join((1,)), Ref("x")], [Gen("x")]], r"op 2 .*'x' is a list here"),
        ([[Gen("x"), Ref("y", (0, 0))]], r"op 0 of branch 0 sets no 'y'"),
        ([[Text("a"), Ref("y", (0, 0))]], r"op 0 of branch 0 sets no 'y'"),
        ([[Ref("y", (7, 0))]], r"op 0 of branch 7 sets no 'y'"),
        ([[Gen("y"), Ref("y", (0, 9))]], r"op 9 of branch 0 sets no 'y'"),
        ([[Gen("y"), Ref("y", (0, -1))]], r"op -1 of branch 0 sets no 'y'"),
        ([[Gen("y", Sampling(n=2), ("n",)), Ref("y", None, 2)]], "there is no output 2"),
        ([[Select("y", ("a",)), Ref("y", None, 1)]], "there is no output 1"),
        ([[Ref("x", (0, 1)), Gen("x")]], r"op 0 .*waits for something that waits for it"),
        ([[Ref("x", (0, 0))]], r"op 0 .*waits for something"),
        ([[Fork((1, 2))], [Ref("x", (2, 1)), Gen("x")], [Ref("x", (1, 1)), Gen("x")]], r"branch 1, op 0 .*waits for"),
        ([[Fork((1,)), Join((1,)), Gen("x")], [Ref("x", (0, 2))]], r"branch 0, op 1 .*waits for something"),
        ([[Role(None)]], "no message is open"),
        ([[Role("user"), Role("user")]], "a user message is open already"),
        ([[Role("user"), Fork((1,))], [Role("assistant")]], r"branch 1, op 0 .*a user message is open already"),
        ([[Gen("x", Sampling(), ("temprature",))]], r"given is \['temprature'\]"),
        ([[Gen("x", Sampling(), ("n", "n"))]], "given is"),
        ([[Gen("")]], "the name is empty"),
        ([[Arg("")]], "the name is empty"),
        ([[Role("")]], "the name is empty"),
        ([[Text("a\ud800")]], "lone surrogate at character 1"),
        ([[Fork(())]], "it starts no branch"),
        ([[Join(())]], "it joins no branch"),
        ([[Fork((1,)), Join((1,)), Join((1,))], []], r"op 2 .*joins no branch, or one twice"),
    ],
)
def test_what_cannot_run_is_refused_naming_branch_and_op(blocks: list[list[Op]], message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        check_program(program(*blocks))


def test_forks_nest_only_so_deep() -> None:
    blocks: list[list[Op]] = [[Fork((index + 1,))] for index in range(MAX_FORK_DEPTH + 1)]
    with pytest.raises(ProgramError, match=f"branch {MAX_FORK_DEPTH}, op 0 .*more than {MAX_FORK_DEPTH} deep"):
        check_program(program(*blocks, []))
    check_program(program(*blocks[:-1], []))


def test_variables_of_variables_stand_for_only_so_much_text() -> None:
    doubling: list[Op] = [Set("v0", (Text("a"),))]
    doubling += [Set(f"v{i + 1}", (Ref(f"v{i}"), Ref(f"v{i}"))) for i in range(40)]
    with pytest.raises(ProgramError, match=r"branch 0, op 1[0-9] .*more than 100000 pieces"):
        check_program(program(doubling))
    deep: list[Op] = [Set("v0", ()), *(Set(f"v{i + 1}", (Ref(f"v{i}"),)) for i in range(100))]
    with pytest.raises(ProgramError, match=r"op 64 .*more than 64 deep"):
        check_program(program(deep))
    often: list[Op] = [Set("v", (Text("a"),) * 1000), *([Ref("v")] * 100)]
    with pytest.raises(ProgramError, match=r"op 100 .*more than 100000 pieces"):
        check_program(program(often))


def test_a_program_of_the_largest_size_is_checked_without_copies() -> None:
    variables: list[Op] = [Set(f"v{i}", ()) for i in range(50_000)]
    children = tuple(range(1, 4000))
    last: list[Op] = [Ref("v0"), Ref("v49999")]
    check_program(program([*variables, Fork(children), Join(children)], *[last for _ in children]))


def test_a_program_from_the_wire_is_checked() -> None:
    bad = program([Ref("x")])
    with pytest.raises(ProgramError, match="no op before it sets"):
        Program.from_json(bad.to_json())
    with pytest.raises(ProgramError, match="no op before it sets"):
        Program.from_msgpack(bad.to_msgpack())


def test_another_version_is_named_whatever_else_is_in_it() -> None:
    data = {"branches": [{"ops": [{"type": "teleport"}]}], "version": 99}
    with pytest.raises(ProgramError, match="IR version 99"):
        Program.from_json(json.dumps(data))
    with pytest.raises(ProgramError, match="IR version 99"):
        Program.from_msgpack(msgspec.msgpack.encode(data))


def test_a_malformed_op_is_named() -> None:
    data = '{"branches": [{"ops": [{"type": "text", "text": "a"}, {"type": "text", "text": 5}]}]}'
    with pytest.raises(ProgramError, match=r"branches\[0\]\.ops\[1\]\.text"):
        Program.from_json(data)


def test_a_ref_is_linked_to_the_latest_op_of_its_name() -> None:
    given = program([Gen("x"), Fork((1,)), Gen("x"), Ref("x")], [Ref("x"), Set("x", (Text("v"),)), Ref("x")])
    assert [op.op for block in linked(given).branches for op in block.ops if isinstance(op, Ref)] == [
        (0, 2),
        (0, 0),
        (1, 1),
    ]


def test_a_branch_knows_what_was_set_before_it_was_forked_and_no_later() -> None:
    given = program([Gen("x"), Fork((1,)), Gen("x"), Gen("y")], [Ref("x"), Fork((2,)), Gen("x")], [Ref("x")])
    assert [op.op for block in linked(given).branches for op in block.ops if isinstance(op, Ref)] == [(0, 0), (0, 0)]
    with pytest.raises(ProgramError, match="sets 'y'"):
        check_program(program([Gen("x"), Fork((1,)), Gen("y")], [Ref("y")]))


def test_refs_of_other_branches_and_of_hidden_ops_keep_their_op() -> None:
    given = program(
        [Gen("x"), Fork((1, 2)), Gen("x"), Ref("x", (0, 0)), Ref("x", (0, 2)), Ref("y", (1, 0)), Join((1, 2))],
        [Gen("y"), Ref("x", (0, 0))],
        [Ref("y", (1, 0))],
    )
    short = shortened(given)
    assert [op.op for block in short.branches for op in block.ops if isinstance(op, Ref)] == [
        (0, 0),
        None,
        (1, 0),
        None,
        (1, 0),
    ]
    assert linked(short) == given
    assert Program.from_json(short.to_json()) == short


def test_the_text_form_of_a_ref_names_its_op() -> None:
    given = program([Gen("x", Sampling(n=2), ("n",)), Fork((1,)), Ref("x"), Ref("x", (0, 0), 1), Set("y", ())], [])
    assert str(given).splitlines()[3:6] == ["    ref x", "    ref x@0.0#1", '    set y = ""']
