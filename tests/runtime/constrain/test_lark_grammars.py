"""Lark grammars against lark itself: its Earley parser with the dynamic lexer says what is in the language."""

from __future__ import annotations

import contextlib
import random

import lark
import pytest

from latticework.lang.errors import ConstraintError, GrammarError
from latticework.lang.ir import Lark
from latticework.runtime.constrain import (
    Limits,
    RuleGraph,
    compile_constraint,
    decode_rules,
    encode_rules,
    to_rules,
)
from tests.runtime.constrain.oracle import accepts, byte_vocabulary, walk
from tests.runtime.constrain.reference import ends

VOCABULARY = byte_vocabulary(b"select", b" a", b"12", b'":', b"  ")

ARITHMETIC = r"""
?start: expr
?expr: expr "+" term | expr "-" term | term
?term: term "*" factor | factor
?factor: NUMBER | NAME | "(" expr ")"
%import common.NUMBER
%import common.CNAME -> NAME
%import common.WS
%ignore WS
"""
JSON = r"""
?start: value
?value: object | array | STRING | SIGNED_NUMBER | "true" | "false" | "null"
object: "{" [_list{pair}] "}"
pair: STRING ":" value
array: "[" [_list{value}] "]"
_list{item}: item ("," item)*
STRING: ESCAPED_STRING
%import common (ESCAPED_STRING, SIGNED_NUMBER, WS)
%ignore WS
"""
QUERY = r"""
start: "select" columns "from" NAME [where] ";"?   // the keywords are lower case
columns: "*" | NAME ("," NAME)*
where: "where" condition (("and" | "or") condition)*
condition: NAME OPERATOR (NUMBER | STRING | NAME)
OPERATOR: "=" | "<" | ">" | "<=" | ">="
NAME: /[a-z_]\w*/
NUMBER: /\d+(\.\d+)?/
STRING: "'" _STRING_ESC_INNER "'"
%import common._STRING_ESC_INNER
%ignore /[ \t]+/
%ignore /--[^\n]*\n/
"""
LAZY = r"""
start: (COMMENT | TEXT | WORD | BLOCK)+
COMMENT: "/*" /(.|\n)*?/ "*/"
TEXT: /".*?"/ | /'.*?'/
WORD: /[a-z]+/i
BLOCK: /<<.*?>>/s
"""
FLAGS = r"""
start: A B? (C | D)~1..2 -> all
A: "ab"i
B: /x . y/xs
C: "a".."c" | "\n" | "\\" | "\u00e9"
D: /[^\x00-\x7f]/
"""

TEXTS: list[tuple[str, list[str]]] = [
    (ARITHMETIC, ["1", "1+2", "a b", "(1 + x)*2.5e3", " ( 1)", "1 2", "", "1+", "12.", "1.e5", "x1+1x", "((a))*-1"]),
    (JSON, ['{"a":[1,-2.5e3]}', "[]", "{}", '{"a"}', '"x\\"y" ', '"x"y"', "[1 2]", '[1,]', 'tru', "nulll",
           '"\\\\"', '{"a":1,}']),
    (QUERY, ["select a from b", "select a,b from t where x=1", "selecta fromb", "select afrom b", "select * fromb",
             "select*from b where a<=3 and b='x';",
             "select a from b--hi\n where c=d", "select a from b where c=1.and e=1",
             "select a from b where c=dand e=1", "select a from b where c=1and e=1", r"select a from b where c='\''"]),
    (LAZY, ["/**/", "/* a */x", "/* a */ */", '"a""b"', '"a"b"', "'a'", "'a\"'", "<<a\nb>>", "<<>>>", "/*/", "aB", ""]),
    (FLAGS, ["aBa", "ABx\nyb", "abé", "ab\\", "ab\n\n", "abxyc", "abü", "abaaa", "ab"]),
    (r"start: A | B" "\n" r'A: /[^\\"]+/' "\n" r'B: "\"" "\\"', ['a', '\\', '"\\', '""']),
]  # fmt: skip


def parses(parser: lark.Lark, text: str) -> bool:
    try:
        parser.parse(text)
    except lark.exceptions.UnexpectedInput:
        return False
    return True


@pytest.mark.parametrize(("grammar", "texts"), TEXTS, ids=["arithmetic", "json", "query", "lazy", "flags", "escapes"])
def test_texts_are_those_that_lark_parses(grammar: str, texts: list[str]) -> None:
    parser = lark.Lark(grammar)
    graph = to_rules(Lark(grammar))
    automaton = compile_constraint(Lark(grammar), VOCABULARY)
    for text in texts:
        wanted = parses(parser, text)
        assert ends(graph, text.encode()) == wanted, text
        assert accepts(automaton, text.encode()) == wanted, text


@pytest.mark.parametrize("grammar", [ARITHMETIC, JSON, QUERY], ids=["arithmetic", "json", "query"])
def test_texts_drawn_from_the_masks_parse(grammar: str) -> None:
    parser = lark.Lark(grammar)
    automaton = compile_constraint(Lark(grammar), VOCABULARY)
    shortest = automaton.matcher().shortest()
    for seed in range(12):
        text = walk(automaton, shortest + seed * 2, random.Random(seed))
        parser.parse(text.decode())


# ---------------------------------------------------------------- random grammars

TERMINALS = [
    '"a"', "/a+/", "/ab?/", "/[ab]+/", '"a".."c"', "/a.*?b/", '"a" | "ab"', "/a|ab/", '"a" "b"*', "/a{2,3}/", 'B "a"',
    '"ab"i', "/b+a/", "/a(b|bc)?/", '"abc" | /ab+/', '/"[^"]*"/', '("a" | "b")~1..2', "/[^b]/", '["b"] "a"', "/a*?b/",
]  # fmt: skip


def random_rule(rng: random.Random, rules: list[str], depth: int) -> str:
    kind = rng.random()
    if depth == 0 or kind < 0.3:
        return rng.choice(["A", "A", "B", *rules, '"a"', '"b"', '"ab"', '"c"'])
    if kind < 0.6:
        return " ".join(random_rule(rng, rules, depth - 1) for _ in range(rng.randint(1, 3)))
    if kind < 0.75:
        return f"({' | '.join(random_rule(rng, rules, depth - 1) for _ in range(2))})"
    if kind < 0.85:
        return f"[{random_rule(rng, rules, depth - 1)}]"
    return f"({random_rule(rng, rules, depth - 1)}){rng.choice(['?', '*', '+', '~2', '~1..3'])}"


def random_grammar(rng: random.Random) -> str:
    names = ["start", "r1", "r2"][: rng.randint(1, 3)]
    rules = [
        f"{name}: {' | '.join(random_rule(rng, names, rng.randint(1, 3)) for _ in range(rng.randint(1, 2)))}"
        for name in names
    ]
    rules += [f"A: {rng.choice(TERMINALS)}", f"B: {rng.choice([t for t in TERMINALS if 'B' not in t])}"]
    if rng.random() < 0.3:
        rules.append(f"%ignore {rng.choice([chr(34) + ' ' + chr(34), '/ +/', '/#[^#]*#/'])}")
    return "\n".join(rules) + "\n"


@pytest.mark.parametrize("seed", range(60))
def test_random_grammars_have_no_text_that_lark_refuses(seed: int) -> None:
    rng = random.Random(seed)
    grammar = random_grammar(rng)
    try:
        parser = lark.Lark(grammar)
    except lark.exceptions.LarkError:
        return
    graph: RuleGraph | None = None
    with contextlib.suppress(GrammarError):  # no text at all
        graph = to_rules(Lark(grammar))
    letters = "abc" + " " * ("' '" in repr(grammar) or "/ +/" in grammar) + "#" * ("#" in grammar)
    for text in {"".join(rng.choice(letters) for _ in range(rng.randint(0, 7))) for _ in range(40)}:
        wanted = parses(parser, text)
        found = graph is not None and ends(graph, text.encode())
        assert found == wanted, (grammar, text)


# ---------------------------------------------------------------- errors

ERRORS: list[tuple[str, str, int]] = [
    ("start: (a", "unexpected a new line", 9),
    ('start: "a', "unexpected '\"'", 7),
    ("start: a", "a is not defined", 7),
    ("start: A", "A is not defined", 7),
    ('start: "a"\nstart: "b"', "the rule start is defined twice", 11),
    ('root: "a"', "the grammar has no rule start", 0),
    ('start: A\nA: A "a"', "part of itself", 12),
    ("start: A\nA: /a*/", "matches the empty text", 7),
    ("start: /a(?=b)/", "no anchors, word boundaries or lookarounds", 7),
    ("start: /^a/", "no anchors", 7),
    ("start: /(a)\\1/", "backreferences", 7),
    ("start: /a.*?b+/", "after a lazy repeat everything has one length", 7),
    ("start: /a/l", "the flag l", 7),
    ('start: A\nA: /a|b/ "c"', "alternatives is part of a longer terminal", 12),
    ('start: ""', "this one is empty", 7),
    ('start: "ab".."c"', "from one character to another", 7),
    ('start: "c".."a"', "the range is reversed", 7),
    ('start: "a"~3..2', "bad bounds 3..2", 11),
    ("%import python.NAME\nstart: NAME", "only `common` can be imported from", 8),
    ("%import .common.WS\nstart: WS", "only `common` can be imported from", 9),
    ("%import common.NAME\nstart: NAME", "`common` has no terminal NAME", 15),
    ("%declare A\nstart: A", "%declare is not supported", 9),
    ('start: f{"a"}\nf{x, y}: x y', "f takes 2 arguments, not 1", 7),
    ('start: A | B\nA.2: "ab"\nB: /a./', "priority would decide", 15),
    ("start: start", "derives no text", 0),
]


@pytest.mark.parametrize(("grammar", "message", "position"), ERRORS, ids=[message for _, message, _ in ERRORS])
def test_what_is_wrong_or_unsupported_is_shown(grammar: str, message: str, position: int) -> None:
    with pytest.raises(GrammarError) as caught:
        to_rules(Lark(grammar))
    assert message in str(caught.value)
    assert caught.value.field == "lark"
    assert caught.value.position == position


def test_errors_have_line_column_and_caret() -> None:
    with pytest.raises(GrammarError, match="line 3, column 9") as caught:
        to_rules(Lark('start: a\na: "x"\n  | "y" b\n'))
    assert str(caught.value).splitlines()[1:3] == ['  | "y" b', "        ^"]


def test_ignored_text_is_bounded() -> None:
    graph = to_rules(Lark('start: "a" "b"\n%ignore " "\n%ignore /#[^#]*#/'))
    assert ends(graph, b"a" + b" " * 20 + b"b")
    assert not ends(graph, b"a" + b" " * 21 + b"b")
    assert ends(graph, b" a # # #x# b#y##z#")
    assert not ends(graph, b"a##########b")


def test_priorities_that_decide_nothing_are_taken() -> None:
    assert ends(to_rules(Lark('start.2: A | B\nA.5: "a"\nB: "b"')), b"b")


# ---------------------------------------------------------------- hostile grammars

HOSTILE = [
    "start: start | start start | ",
    "start: a\na: b | \nb: c a\nc: b? a? c?\n",
    "start: x x x x x x x x x x\nx: y y y y y y y y y y | \ny: z z z z z z | \nz: start? \"a\"?\n",
    "start: " + "(" * 150 + '"a"' + ")*" * 150,
    "start: " + "(" * 5000 + '"a"' + ")" * 5000,
    "start: r0\n" + "".join(f'r{i}: r{i + 1} "a" | r{i + 1}\n' for i in range(2000)) + 'r2000: "b"\n',
    "start: r0\n" + "".join(f'r{i}: r{(i + 1) % 300} "a" | r{(7 * i) % 300}\n' for i in range(300)) + "",
    'start: f{"a"}\nf{x}: f{g{x}} | x\ng{x}: x x\n',
    "start: " + " | ".join(f'"w{i}"' for i in range(3000)),
    "start: A~4000000000\nA: /a/",
    "start: /" + "(a|b)*a(a|b){16}" + "/",
    "start: /" + "\\\\" * 40_000,
    "start: A0\n" + "".join(f"A{i}: A{i + 1} A{i + 1}\n" for i in range(60)) + 'A60: "a"\n',
    "start: X\n" + "\n" * 500_000,
    "start: NAME*\nNAME: /[a-z]{1,100000}/",
]  # fmt: skip


@pytest.mark.parametrize("grammar", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_grammars_are_taken_or_refused_in_bounded_time(grammar: str) -> None:
    try:
        rules = to_rules(Lark(grammar), Limits(seconds=1.0))
    except ConstraintError:
        return
    assert decode_rules(encode_rules(rules)) == rules  # valid: everything that is checked on a wire holds


def test_a_grammar_beyond_the_limit_is_refused() -> None:
    with pytest.raises(ConstraintError, match="`pattern_bytes`"):
        to_rules(Lark("start: " + '"a" ' * 300_000))
