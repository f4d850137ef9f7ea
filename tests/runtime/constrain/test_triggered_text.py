"""Free text with tags in it, and constraints behind a marker, against plain string searches."""

from __future__ import annotations

import random
import re

import msgspec
import pytest

from latticework.lang.errors import ConstraintError
from latticework.lang.ir import (
    After,
    Choices,
    Constraint,
    Gbnf,
    JsonSchema,
    Lark,
    Regex,
    Tag,
    Triggered,
    constraint_key,
)
from latticework.runtime.constrain import compile_constraint, to_rules
from tests.runtime.constrain.oracle import accepts, byte_vocabulary, walk
from tests.runtime.constrain.reference import ends

VOCABULARY = byte_vocabulary(b"</", b"think", b">1", b"<a", b"<f=a>")
TAGS = (Tag("<a>", Regex("x*"), "</a>"), Tag("<ab", Choices(("y", "<a>"))))


def is_tagged(text: str, *, at_least_one: bool, stop_after_first: bool) -> bool:
    """The meaning of TAGS, read from left to right."""
    count = 0
    while True:
        start = text.find("<a")
        if start < 0:
            return count > 0 or not at_least_one
        tag = re.match(r"<a>x*</a>|<ab(y|<a>)", text[start:])
        if tag is None:
            return False
        text = text[start + tag.end() :]
        count += 1
        if stop_after_first:
            return text == ""


@pytest.mark.parametrize("at_least_one", [False, True])
@pytest.mark.parametrize("stop_after_first", [False, True])
def test_tags_begin_where_the_first_trigger_is(at_least_one: bool, stop_after_first: bool) -> None:
    constraint = Triggered(TAGS, ("<a",), at_least_one, stop_after_first)
    graph = to_rules(constraint)
    automaton = compile_constraint(constraint, VOCABULARY)
    rng = random.Random(1)
    pieces = ["<a>", "x", "</a>", "<ab", "y", "<", "é", "a", "<a>x</a>"]
    for _ in range(300):
        text = "".join(rng.choice(pieces) for _ in range(rng.randint(0, 6)))
        wanted = is_tagged(text, at_least_one=at_least_one, stop_after_first=stop_after_first)
        assert ends(graph, text.encode()) == wanted, text
        assert accepts(automaton, text.encode()) == wanted, text


def test_without_triggers_every_beginning_is_one() -> None:
    graph = to_rules(Triggered(TAGS))
    assert ends(graph, b"<a <ac")
    assert ends(graph, b"<a>xx</a><aby")
    assert not ends(graph, b"<a>")


@pytest.mark.parametrize(
    "inner",
    [
        Regex("[0-9]{2}"),
        Choices(("one", "two")),
        JsonSchema({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}),
        Lark('start: "(" start ")" | "1"'),
        Gbnf('root ::= "(" root ")" | "1"'),
        Triggered((Tag("<f=a>", Regex("1+"), "<"),), at_least_one=True),
        After("!", Regex("1")),
    ],
    ids=lambda inner: type(inner).__name__,
)
def test_any_constraint_stands_behind_a_marker_or_in_a_tag(inner: Constraint) -> None:
    own = to_rules(inner)
    for constraint, before, after in (
        (After("</think>", inner), b"so, </ think> </think>", b""),
        (Triggered((Tag("<f=a>", inner, "</f>"),)), b"so <f=b> <f=a>", b"</f> and so"),
    ):
        graph = to_rules(constraint)
        automaton = compile_constraint(constraint, VOCABULARY)
        for text in (b"12", b"one", b'{"a":1}', b"((1))", b"1", b"<f=a>1<", b"x!1", b""):
            wanted = ends(own, text)
            if isinstance(inner, Triggered | After) and isinstance(constraint, Triggered):
                continue  # free text may hold </f> itself
            assert ends(graph, before + text + after) == wanted, text
            assert accepts(automaton, before + text + after) == wanted, text
        shortest = automaton.matcher().shortest()
        for seed in range(5):
            assert ends(graph, walk(automaton, shortest + 2 * seed, random.Random(seed), end=0.1))


def test_text_before_a_marker_is_free_but_for_the_marker() -> None:
    graph = to_rules(After("aab", Regex("c")))
    assert ends(graph, b"aaabc")
    assert ends(graph, "é\n aa aabc".encode())
    assert not ends(graph, b"aabaabc")
    assert not ends(graph, b"\xffaabc")


def test_constraints_inside_of_others_are_equal_by_content() -> None:
    one, other = (After("x", Triggered((Tag("<", Regex("a"), ">"),))) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert constraint_key(one) == constraint_key(other) != constraint_key(After("x", Regex("a")))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(one), type=Constraint) == one


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConstraintError, match="tags is empty"):
        Triggered(())
    with pytest.raises(ConstraintError, match="begins with none of the triggers"):
        Triggered((Tag("<a>", Regex("x")), Tag("<b>", Regex("x"))), ("<b",))
    with pytest.raises(ConstraintError, match="no tag begins with the trigger"):
        Triggered((Tag("<a>", Regex("x")),), ("<a", "<b"))
    with pytest.raises(ConstraintError, match="marker is empty"):
        After("", Regex("x"))
    with pytest.raises(ConstraintError, match="can never begin"):
        to_rules(Triggered((Tag("xaby", Regex("1")), Tag("ab", Regex("2")))))
    with pytest.raises(ConstraintError, match="no text satisfies"):
        to_rules(After("x", Gbnf("root ::= root")))
    with pytest.raises(ConstraintError, match="lone surrogate"):
        to_rules(After("\ud800", Regex("x")))
    deep: Constraint = Regex("a")
    for _ in range(20):
        deep = After("x", deep)
    with pytest.raises(ConstraintError, match="nest more than 16"):
        to_rules(deep)
