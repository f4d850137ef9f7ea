"""GBNF grammars: tables of what they have, random ones against a parser of their own meaning, and errors."""

from __future__ import annotations

import random
import re

import pytest

from latticework.lang.errors import ConstraintError, GrammarError
from latticework.lang.ir import Gbnf
from latticework.runtime.constrain import Limits, compile_constraint, decode_rules, encode_rules, to_rules
from tests.runtime.constrain.oracle import accepts, byte_vocabulary, walk
from tests.runtime.constrain.reference import ends

VOCABULARY = byte_vocabulary(b'{"', b'":', b", ", b"12")

ARITHMETIC = r"""
root  ::= expr
expr  ::= term (("+" | "-") term)*
term  ::= factor ("*" factor | "/" factor)*   # left to right
factor ::= [0-9]+ ("." [0-9]{1,3})? | "(" expr ")"
"""
JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}))* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [1-9] [0-9]{0,15})? ws
ws     ::= | " " | "\n" [ \t]{0,20}
"""
ESCAPES = r"""
root ::= "\x41\u00e9\U0001F600\t\"\\" [\]\-a-c] [^\n] . other-rule_2
other-rule_2 ::= "é"{2,} | [à-ü]{,2} "!"
"""
LEFT = 'root ::= root "a" | other "b" | "c"\nother ::= root "d" | empty other | "e"\nempty ::= "" | empty'

TABLE: list[tuple[str, list[str], list[str]]] = [
    (ARITHMETIC, ["1", "1+2*3", "(1.25-2)/3", "((1))"], ["", "1+", "1.2345", "()", "1 + 2"]),
    (JSON, ['{"a":[1, -2.5e3, {}]}', "{}", '{"a":"x\\n\\u00e9"}\n  '], ["[]", '{"a"}', '{"a":01}', '{"a":1,}', "{}  "]),
    (ESCAPES, ['Aé😀\t"\\]x\néé', 'Aé😀\t"\\b]-!', 'Aé😀\t"\\-yzàü!'],
     ['Aé😀\t"\\d]-!', 'Aé😀\t"\\a\n-!', 'Aé😀\t"\\aazé']),
    (LEFT, ["c", "caa", "eb", "cdb", "ebdbaa"], ["", "a", "cd", "e"]),
    ('root ::= [a-z]+ |\n  "1"\n  "2"\nx ::= "y"', ["abc", "12"], ["", "1", "ab1"]),
    ('root ::= "a" | # nothing\nx ::= "y"', ["", "a"], ["y"]),
]  # fmt: skip


@pytest.mark.parametrize(("grammar", "good", "bad"), TABLE, ids=range(len(TABLE)))
def test_grammars_have_the_texts_they_say(grammar: str, good: list[str], bad: list[str]) -> None:
    graph = to_rules(Gbnf(grammar))
    automaton = compile_constraint(Gbnf(grammar), VOCABULARY)
    for text in (*good, *bad):
        assert ends(graph, text.encode()) == (text in good), text
        assert accepts(automaton, text.encode()) == (text in good), text


@pytest.mark.parametrize(("grammar", "good", "bad"), TABLE[:4], ids=["arithmetic", "json", "escapes", "left"])
def test_texts_drawn_from_the_masks_belong(grammar: str, good: list[str], bad: list[str]) -> None:
    graph = to_rules(Gbnf(grammar))
    automaton = compile_constraint(Gbnf(grammar), VOCABULARY)
    shortest = automaton.matcher().shortest()
    for seed in range(10):
        assert ends(graph, walk(automaton, shortest + seed, random.Random(seed)))


def test_another_rule_can_be_the_start() -> None:
    graph = to_rules(Gbnf('root ::= "a"\nx ::= "b" root', start="x"))
    assert ends(graph, b"ba")
    assert not ends(graph, b"a")


@pytest.mark.parametrize("seed", range(40))
def test_regular_grammars_mean_what_their_patterns_mean(seed: int) -> None:
    rng = random.Random(seed)

    def part(depth: int) -> tuple[str, str]:
        kind = rng.random()
        if depth == 0 or kind < 0.3:
            return rng.choice([('"ab"', "ab"), ("[a-c]", "[a-c]"), ("[^b]", "[^b]"), ('"é"', "é"), ('""', "")])
        parts = [part(depth - 1) for _ in range(2)]
        if kind < 0.55:
            return " ".join(p for p, _ in parts), "".join(f"(?:{q})" for _, q in parts)
        if kind < 0.75:
            return f"({' | '.join(p for p, _ in parts)})", f"(?:{'|'.join(q for _, q in parts)})"
        sign, same = rng.choice(
            [("*", "*"), ("+", "+"), ("?", "?"), ("{2}", "{2}"), ("{1,3}", "{1,3}"), ("{2,}", "{2,}")]
        )
        return f"({parts[0][0]}){sign}", f"(?:{parts[0][1]}){same}"

    grammar, pattern = part(4)
    graph = to_rules(Gbnf(f"root ::= {grammar}"))
    for _ in range(60):
        text = "".join(rng.choice("abcé") for _ in range(rng.randint(0, 6)))
        assert ends(graph, text.encode()) == bool(re.fullmatch(pattern, text)), (grammar, text)


ERRORS: list[tuple[str, str, int]] = [
    ('root ::= "a', "unterminated string", 9),
    ("root ::= [a", "unterminated character class", 9),
    ("root ::= []", "the character class is empty", 9),
    ("root ::= [b-a]", "the range is reversed", 10),
    ("root ::= x", "the rule x is not defined", 9),
    ("root ::= ((x)", "missing )", 9),
    ('root ::= "a")', "unbalanced parenthesis", 12),
    ("root ::= * ", "nothing to repeat", 9),
    ('root ::= "a"{3,2}', "min repeat greater", 12),
    ('root ::= "a"{x}', "expected bounds", 12),
    ('root ::= "a"{5000000000}', "too large", 12),
    ('root ::= "\\q"', "unknown escape", 10),
    ('root ::= "\\x4"', "expected 2 hexadecimal digits", 10),
    ('root ::= "a"\nroot ::= "b"', "defined twice", 13),
    ('"a"', "expected a rule", 0),
    ('x ::= "a"', "no rule root", 0),
    ('root ::= "a" (="b")', "lookahead", 13),
    ("root ::= <[5]>", "tokens by id", 9),
    ("root ::= root", "derives no text", 0),
    ("root ::= \n ::= ", "expected the name", 11),
    ("", "no rule root", 0),
]


@pytest.mark.parametrize(("grammar", "message", "position"), ERRORS[:-1], ids=[row[1] for row in ERRORS[:-1]])
def test_what_is_wrong_or_unsupported_is_shown(grammar: str, message: str, position: int) -> None:
    with pytest.raises(GrammarError) as caught:
        to_rules(Gbnf(grammar))
    assert message in str(caught.value)
    assert caught.value.field == "gbnf"
    assert caught.value.position == position


HOSTILE = [
    "root ::= root root | root | ",
    "root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000,
    "root ::= " + "(" * 190 + '"a"' + ")*" * 190,
    "root ::= " + " | ".join(f'"w{i}"' for i in range(30_000)),
    "root ::= " + '"a" ' * 200_000,
    "root ::= [a-z]{0,4000000000}",
    "".join(f"r{i} ::= r{i + 1} r{i + 1} | r{i + 1}\n" for i in range(400)) + 'r400 ::= "a" root\nroot ::= r0',
    "".join(f"r{i} ::= r{i + 1}? r{i + 1}?\n" for i in range(400)) + 'r400 ::= "a"\nroot ::= r0',
    "".join(f"r{i} ::= r{(i * 7 + 1) % 200} [a-z] | r{(i * 3) % 200} | r{i} r{i}\n" for i in range(200))
    + "root ::= r0",
    "root ::= a\na ::= b\nb ::= a",
]


@pytest.mark.parametrize("grammar", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_grammars_are_taken_or_refused_in_bounded_time(grammar: str) -> None:
    try:
        rules = to_rules(Gbnf(grammar), Limits(seconds=1.0))
    except ConstraintError:
        return
    assert decode_rules(encode_rules(rules)) == rules  # valid: everything that is checked on a wire holds
