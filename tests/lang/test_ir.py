"""The program as data: equality, serialisation, refusal of what is no program, sampling, seeds."""

import json
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latticework.lang.errors import ConstraintError, InvalidArgument, ProgramError, SchemaError
from latticework.lang.ir import (
    IR_VERSION,
    MAX_BRANCHES,
    Arg,
    Branch,
    Choices,
    Fork,
    Gen,
    Join,
    JsonSchema,
    Op,
    Program,
    Ref,
    Regex,
    Role,
    Sampling,
    Select,
    Set,
    Text,
    constraint_key,
    derive_seed,
    merge_sampling,
    sample_seed,
)

EVERY_OP = Program(
    (
        Branch(
            (
                Role("user"),
                Text("Zürich, 東京 \n"),
                Arg("text"),
                Role(None),
                Gen("a", Sampling(max_tokens=7, stop=("\n",)), ("max_tokens", "stop"), Regex("[a-z]+"), "cut"),
                Gen("b", constraint=JsonSchema({"type": "object", "properties": {"z": {}, "a": {}}})),
                Gen(None, constraint=Choices(("x", "y"))),
                Select("c", ("yes", "no")),
                Set("d", (Text("v"), Ref("a"), Arg("text"))),
                Fork((1, 2)),
                Join((1, 2)),
                Ref("c"),
            )
        ),
        Branch((Text("one"), Fork((3,)), Join((3,)))),
        Branch(()),
        Branch((Gen("e"),)),
    )
)


def test_a_program_with_every_op_survives_json_and_msgpack() -> None:
    assert Program.from_json(EVERY_OP.to_json()) == EVERY_OP
    assert Program.from_msgpack(EVERY_OP.to_msgpack()) == EVERY_OP
    assert Program.from_json(EVERY_OP.to_json()).hash == EVERY_OP.hash


def test_programs_are_equal_and_hash_alike_by_content_only() -> None:
    one, two = (Program((Branch((Text("a"), Gen("x", Sampling(seed=1), ("seed",)))),)) for _ in range(2))
    other = Program((Branch((Text("a"), Gen("x", Sampling(seed=2), ("seed",)))),))
    assert one == two
    assert hash(one) == hash(two)
    assert one.hash == two.hash
    assert one != other
    assert one.hash != other.hash


def test_the_content_hash_is_the_same_in_every_process_and_release() -> None:
    # Changing how ops are encoded must raise IR_VERSION, because runtimes know programs by this hash.
    assert IR_VERSION == 1
    assert Program((Branch((Text("a"), Gen("x"))),)).hash == "43aa86c146891d1681433543b184e6f1"


texts = st.text(st.characters(codec="utf-8"), max_size=8)
names = st.text("abc", min_size=1, max_size=2)
ops = st.one_of(
    st.builds(Text, texts),
    st.builds(Arg, names),
    st.builds(Ref, names),
    st.builds(Role, st.none() | st.sampled_from(["user", "assistant"])),
    st.builds(Set, names, st.tuples(st.builds(Text, texts), st.builds(Ref, names))),
    st.builds(
        Gen,
        st.none() | names,
        st.builds(Sampling, max_tokens=st.integers(1, 9), temperature=st.floats(0, 2), top_p=st.floats(0.1, 1)),
        st.sampled_from([(), ("max_tokens",), ("temperature", "top_p")]),
        st.none() | st.builds(Regex, texts) | st.builds(Choices, st.lists(texts, min_size=1).map(tuple)),
        st.sampled_from(["close", "cut", "prefer_close"]),
    ),
)


def made_valid(block: list[Op]) -> tuple[Op, ...]:
    """Without Refs to what no op has set, and with messages that open and close in turn."""
    kept: list[Op] = []
    known: set[str] = set()
    role: str | None = None
    for op in block:
        pieces = op.value if isinstance(op, Set) else (op,)
        if any(isinstance(piece, Ref) and piece.name not in known for piece in pieces):
            continue
        if isinstance(op, Role):
            if (op.role is None) == (role is None):
                continue
            role = op.role
        if isinstance(op, Set | Gen) and op.name:
            known.add(op.name)
        kept.append(op)
    return tuple(kept)


@given(st.lists(ops, max_size=8).map(made_valid))
def test_any_straight_line_program_round_trips(block: tuple[Op, ...]) -> None:
    program = Program((Branch(block),))
    assert Program.from_json(program.to_json()) == program
    assert Program.from_msgpack(program.to_msgpack()) == program
    assert len(str(program).splitlines()) == 1 + len(block)


def test_str_shows_no_control_characters() -> None:
    shown = str(Program((Branch((Text("\x1b[31m\x9b\x85\u2028\U000e0001"), Select(None, ("\x7f",)))),)))
    assert shown.replace("\n", "").isprintable()


def test_str_reads_like_the_source() -> None:
    assert str(EVERY_OP).splitlines()[:8] == [
        "program:",
        "    role user",
        '    text "Zürich, 東京 \\n"',
        "    arg text",
        "    role end",
        "    gen a max_tokens=7 stop=('\\n',) regex='[a-z]+' on_length='cut'",
        '    gen b json_schema={"type":"object","properties":{"z":{},"a":{}}}',
        '    gen _ choices=["x", "y"]',
    ]


@pytest.mark.parametrize(
    ("branches", "message"),
    [
        ((), "0 branches"),
        ([[Fork((0,))]], "cannot start"),
        ([[Fork((5,))]], "cannot start"),
        ([[Fork((1, 1))], []], "cannot start"),
        ([[Fork((1,))], [Fork((1,))]], "cannot start"),
        ([[Fork((1,)), Fork((1,))], []], "cannot start"),
        ([[Fork((2,))], [Fork((2,))], []], "cannot start"),
        ([[], []], "no fork starts branch 1"),
        ([[Fork((1,))], [Join((1,))]], "did not fork"),
        ([[Join((1,))], []], "did not fork"),
        ([[]] * (MAX_BRANCHES + 1), "4097 branches"),
    ],
)
def test_a_program_whose_forks_make_no_tree_is_refused(branches: list, message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        Program(tuple(Branch(tuple(block)) for block in branches))


def test_a_program_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latticework.lang.ir.MAX_OPS", 3)
    monkeypatch.setattr("latticework.lang.ir.MAX_TEXT_BYTES", 100)
    with pytest.raises(ProgramError, match="more than 3 ops"):
        Program((Branch((Text("a"),) * 4),))
    with pytest.raises(ProgramError, match="100 characters"):
        Program((Branch((Text("x" * 60), Text("y" * 60))),))
    with pytest.raises(ProgramError, match="at most 400 are read"):
        Program.from_json(" " * 401)


@pytest.mark.parametrize(
    "data",
    [
        "",
        "{}",
        "[]",
        '{"branches": []}',
        '{"branches": [{"ops": [{"type": "eval", "code": "1"}]}]}',
        '{"branches": [{"ops": [{"type": "text", "text": 5}]}]}',
        '{"branches": [{"ops": [{"type": "text", "text": "a", "more": 1}]}]}',
        '{"branches": [{"ops": [{"type": "gen", "sampling": {"max_tokens": -1}}]}]}',
        '{"branches": [{"ops": [{"type": "select", "name": "x", "options": []}]}]}',
        '{"branches": [{"ops": []}], "version": 2}',
        '{"branches": [{"ops": [{"type": "fork", "children": [0]}]}]}',
        "[" * 100_000,
    ],
)
def test_json_that_is_no_program_is_a_program_error(data: str) -> None:
    with pytest.raises(ProgramError):
        Program.from_json(data)


@given(st.binary(max_size=64))
def test_random_bytes_are_a_program_error(data: bytes) -> None:
    with pytest.raises(ProgramError):
        Program.from_msgpack(data)


def test_truncated_msgpack_is_a_program_error() -> None:
    data = EVERY_OP.to_msgpack()
    for end in range(0, len(data), 7):
        with pytest.raises(ProgramError):
            Program.from_msgpack(data[:end])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", "80"),
        ("max_tokens", 2.5),
        ("max_tokens", True),
        ("max_tokens", 1 << 21),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", "hot"),
        ("top_p", 0),
        ("top_p", 1.1),
        ("top_k", 0),
        ("top_k", -2),
        ("min_p", -1),
        ("min_p", 2),
        ("seed", -1),
        ("seed", 1 << 64),
        ("seed", 1.0),
        ("logprobs", 21),
        ("prompt_logprobs", 21),
        ("prompt_logprobs", -1),
        ("logprobs", -1),
        ("stop", ("",)),
        ("stop", ("x" * 1025,)),
        ("stop", (1,)),
        ("stop", 5),
        ("stop", ("a",) * 65),
        ("stop_token_ids", (-1,)),
        ("stop_token_ids", ("a",)),
        ("stop_token_ids", tuple(range(65))),
        ("frequency_penalty", 2.1),
        ("presence_penalty", -2.1),
        ("presence_penalty", float("nan")),
        ("repetition_penalty", 0),
        ("repetition_penalty", float("inf")),
        ("logit_bias", {1: 101}),
        ("logit_bias", {"a": 1}),
        ("logit_bias", {-1: 1}),
        ("logit_bias", ((1, 2.0), (1, 3.0))),
        ("logit_bias", (1, 2)),
        ("logit_bias", 5),
        ("logit_bias", dict.fromkeys(range(1025), 1.0)),
        ("min_tokens", -1),
        ("ignore_eos", 1),
        ("stop_regex", ("",)),
        ("stop_regex", (1,)),
        ("stop_regex", ("^a",)),
        ("stop_regex", (r"a\Z",)),
        ("stop_regex", ("(a$)",)),
        ("stop_regex", ("\ud800",)),
        ("stop", ("a", "b\ud800")),
        ("include_stop", "yes"),
        ("n", 0),
        ("n", 65),
        ("n", True),
        ("best_of", 0),
        ("best_of", 65),
        ("best_of", 2.0),
    ],
)
def test_sampling_names_the_field_it_refuses(field: str, value: object) -> None:
    with pytest.raises(InvalidArgument, match=field) as caught:
        Sampling(**{field: value})  # type: ignore[arg-type]
    assert caught.value.field == field


def test_best_of_is_no_less_than_n() -> None:
    with pytest.raises(InvalidArgument, match="best_of") as caught:
        Sampling(n=3, best_of=2)
    assert caught.value.field == "best_of"
    asked = [Sampling(), Sampling(n=3), Sampling(best_of=4), Sampling(n=2, best_of=2), Sampling(best_of=1)]
    assert [(s.candidates, s.ranked) for s in asked] == [(1, False), (3, False), (4, True), (2, True), (1, False)]


def test_the_first_of_several_outputs_keeps_the_seed_and_the_others_have_their_own() -> None:
    seeds = [sample_seed(5, sample) for sample in range(4)]
    assert seeds[0] == 5
    assert len(set(seeds)) == 4
    assert sample_seed(6, 1) != seeds[1]


def test_stops_may_be_one_string_or_a_list_and_compare_as_tuples() -> None:
    assert Sampling(stop="\n") == Sampling(stop=["\n"]) == Sampling(stop=("\n",))  # type: ignore[arg-type]
    assert len({Sampling(stop="ab"), Sampling(stop=("ab",))}) == 1  # type: ignore[arg-type]


def test_a_bias_may_be_a_mapping_and_compares_by_content() -> None:
    one = Sampling(logit_bias={7: 1, 3: -2.0})  # type: ignore[arg-type]
    assert one == Sampling(logit_bias=((3, -2.0), (7, 1.0)))
    assert len({one, Sampling(logit_bias=((3, -2.0), (7, 1.0)))}) == 1
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(one), type=Sampling) == one


def test_a_stop_regex_may_hold_what_only_looks_like_an_anchor() -> None:
    patterns = (r"\$5", "[$^]", r"[^a]\^", r"[]$]", r"\\[$]")
    assert Sampling(stop_regex=patterns).stop_regex == patterns


def test_merging_takes_only_the_given_fields() -> None:
    run = Sampling(max_tokens=9, temperature=0.5)
    own = Sampling(temperature=0.0, stop=("x",))
    assert merge_sampling(run, own, ("temperature",)) == Sampling(max_tokens=9, temperature=0.0)
    assert merge_sampling(run, own, ()) is run


def test_a_schema_keeps_the_order_of_its_keys_as_part_of_its_identity() -> None:
    one = JsonSchema('{"properties": {"b": {}, "a": {}}}')
    assert one == JsonSchema({"properties": {"b": {}, "a": {}}})
    assert one != JsonSchema({"properties": {"a": {}, "b": {}}})
    assert json.loads(one.text) == {"properties": {"b": {}, "a": {}}}
    assert constraint_key(one) == constraint_key(JsonSchema(one.text))
    assert constraint_key(Regex("a")) != constraint_key(Choices(("a",)))


@pytest.mark.parametrize("schema", ["", "{", "5", '"a"', "[1]", {"a": object()}, {"a": {1, 2}}, "[" * 100_000])
def test_a_schema_that_is_no_json_object_is_refused(schema: object) -> None:
    with pytest.raises(SchemaError) as caught:
        JsonSchema(schema)  # type: ignore[arg-type]
    assert caught.value.field == "json_schema"


def test_choices_and_selects_must_have_options() -> None:
    with pytest.raises(ConstraintError, match="choices is empty"):
        Choices(())
    for options in ((), ("",), ("a", "a")):
        with pytest.raises(InvalidArgument) as caught:
            Select("x", options)
        assert caught.value.field == "choices"


def test_seeds_depend_on_each_of_their_parts_and_on_nothing_else() -> None:
    places = [
        (0, 0, (), 0, 0),
        (1, 0, (), 0, 0),
        (0, 1, (), 0, 0),
        (0, 0, (), 1, 0),
        (0, 0, (), 0, 1),
        (0, 0, (0, 0), 0, 0),
        (0, 0, (0, 1), 0, 0),
        (0, 0, (1, 0), 0, 0),
        (0, 0, (0, 0, 0, 0), 0, 0),
    ]
    seeds = [derive_seed(*place) for place in places]
    assert len(set(seeds)) == len(seeds)
    assert seeds == [derive_seed(*place) for place in places]
    assert all(0 <= seed < 1 << 64 for seed in seeds)


def test_seeds_are_the_same_in_every_release() -> None:
    assert derive_seed(0, 0, (), 0) == 15424751921001482597
    assert derive_seed(7, 3, (0, 2), 1) == 8469832153917571914


def test_ops_refuse_unknown_fields() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode('{"max_tokens": 4, "max_token": 4}', type=Sampling)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Regex("a\ud800"), "regex"),
        (lambda: Regex(5), "regex"),  # type: ignore[arg-type]
        (lambda: Choices(("a", "\ud800")), "choices"),
    ],
)
def test_a_constraint_of_what_is_no_text_is_refused(make: Callable[[], Regex | Choices], field: str) -> None:
    with pytest.raises(ConstraintError) as caught:
        make()
    assert caught.value.field == field


def test_half_a_surrogate_pair_in_a_schema_stays_escaped() -> None:
    assert JsonSchema({"const": "é\ud800"}).text == '{"const":"\\u00e9\\ud800"}'
    assert JsonSchema({"const": "é"}).text == '{"const":"é"}'
