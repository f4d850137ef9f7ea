"""Constraints made to hurt whoever compiles, keeps or masks them. Plain data: no server, no engine.

Each is one of a kind of attack: sizes, depths, counts, products of automata, ambiguity, recursion without an end, masks
that are slow while they are cold, states that pile up. `Hostile.constraint(salt)` is a new constraint for every salt,
so that no cache of compiled ones helps.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import msgspec

from benchmarks.hostile_schemas import SCHEMAS, Json, properties, required
from latticework.lang.ir import After, Choices, Constraint, Gbnf, JsonSchema, Lark, Regex, Tag, Triggered


@dataclass(frozen=True)
class Hostile:
    """One attack. make: its constraint, None where there is none; it may raise, as some are refused before they are
    sent. stop_regex: patterns to stop at. max_tokens: of the request, so that accepted ones visit some states."""

    name: str
    make: Callable[[], Constraint | None]
    stop_regex: tuple[str, ...] = ()
    max_tokens: int = 12

    def constraint(self, salt: int) -> Constraint | None:
        """Raises LatticeworkError where the language itself refuses it."""
        made = self.make()
        return None if made is None else salted(made, salt)

    def stops(self, salt: int) -> tuple[str, ...]:
        return tuple(f"{pattern}|~{salt}~{number}" for number, pattern in enumerate(self.stop_regex))


def salted(constraint: Constraint, salt: int) -> Constraint:
    """A constraint that costs the same and is another one."""
    match constraint:
        case Regex(pattern):
            return Regex(f"{pattern}|~{salt}")
        case Choices(options):
            return Choices((*options, f"~{salt}"))
        case JsonSchema():
            text = constraint.text if isinstance(constraint.schema, str) else json.dumps(constraint.schema)
            head = f'{{"$comment":"{salt}"' + ("," if text != "{}" else "")
            return msgspec.structs.replace(constraint, schema=head + text[1:])
        case Lark():
            return msgspec.structs.replace(constraint, grammar=f"{constraint.grammar}\n// {salt}\n")
        case Gbnf():
            return msgspec.structs.replace(constraint, grammar=f"{constraint.grammar}\n# {salt}\n")
        case After():
            return msgspec.structs.replace(constraint, marker=f"{constraint.marker}{salt}")
        case Triggered():
            return msgspec.structs.replace(constraint, tags=(*constraint.tags, Tag(f"<~{salt}>", Regex("a"))))


# ---------------------------------------------------------------- the corpus


def _regexes() -> list[Hostile]:
    patterns = {
        "subset explosion": "(a|b)*a(a|b){16}",
        "subset explosion, large": "(a|b)*a(a|b){20000}",
        "any and one of them": "(.|x)*x.{50}",
        "nested plus": "(a+)+$",
        "nested stars": "((((a*)*)*)*)*b",
        "60,000 groups": "(" * 60_000 + "a" + ")" * 60_000,
        "60,000 open groups": "(" * 60_000,
        "a hundred million": "a{0,100000000}",
        "a hundred million letters": "[a-zA-Z ]{1,100000000}",
        "counts in counts": "((a{1,1000}b?){1,1000}c?){1,1000}",
        "at least a billion": "((a{1000}){1000}){1000}",
        "words in words": r"(\w{1,50}\s){1,100}END",
        "letters in words": r"([^\W\d_]{1,1000}\s?){1,1000}",
        "classes with counts": r"(\w{1,500}[^\w]{1,500}[\w\s]{1,500}){1,500}",
        "a megabyte of text": "a" * 1_000_000,
        "a megabyte of classes": "[ab]" * 250_000,
        "a megabyte of words": "|".join(f"{n:06d}" for n in range(140_000)),
        "a megabyte of alternatives": "|".join(f"{n:06d}x*" for n in range(110_000)),
        "18,000 alternatives": "|".join(f"{n:06d}x*" for n in range(18_000)),
        "a megabyte of options": "a?" * 500_000,
        "3,000 options": "a?" * 3000,
        "larger than the limit": "x" * (2 << 20),
        "lookaheads": "".join(f"(?=.*{c}.{{12}})" for c in "abcd") + ".*",
        "lookaheads, more": "".join(f"(?=.*{c}.*{c}.{{{n}}})" for n, c in enumerate("abcdefghijkl", 5)) + ".{20,}",
        "denials": "".join(f"(?!.*{c}.{{{n}}}y)" for n, c in enumerate("abcdefgh", 4)) + ".*",
        "lookahead in a loop": "((?=a.*b)[a-z]+c)*",
        "backreference": r"(a+)\1",
    }
    found = [Hostile(f"regex: {name}", partial(Regex, pattern)) for name, pattern in patterns.items()]
    slow = tuple(f"(a|b)*a(a|b){{{n + 4}}}(c|d)+e" for n in range(64))
    found.append(Hostile("stop_regex: 64", lambda: None, slow, 24))
    large = tuple("|".join(f"{n:04d}{m}x+" for n in range(100)) for m in range(64))
    found.append(Hostile("stop_regex: 64 large ones", lambda: None, large, 24))
    found.append(Hostile("stop_regex: lookaheads", lambda: None, (patterns["lookaheads, more"] + "q",) * 16, 8))
    return found


def _choices() -> list[Hostile]:
    return [
        Hostile("choices: 10,000", lambda: Choices(tuple(f"item {n}" for n in range(10_000)))),
        Hostile("choices: 30,000", lambda: Choices(tuple(f"item {n}" for n in range(30_000)))),
        Hostile("choices: 400 of 4,000 characters", lambda: Choices(tuple(f"{n}" * 1000 for n in range(1000, 1400)))),
    ]


def _schemas() -> list[Hostile]:
    def make(schema: Callable[[], Json | str]) -> Constraint:
        return JsonSchema(schema())

    return [
        *(Hostile(f"schema: {name}", partial(make, schema)) for name, schema in SCHEMAS.items()),
        Hostile("schema: 600 keys in any order", lambda: JsonSchema(properties(600), key_order="any")),
        Hostile("schema: 20 required in any order", lambda: JsonSchema(required(20), key_order="any")),
        Hostile("schema: flexible blanks", lambda: JsonSchema(properties(300), whitespace="flexible")),
    ]


def _grammars() -> list[Hostile]:
    letters = "abcdefghijklmnop"
    larks: dict[str, str] = {
        "left recursion": 'start: start "a" | "a"',
        "hidden left recursion": 'start: x start "a" | "b"\nx: "c"?',
        "cycle of nothing": "start: a\na: b | \nb: a | ",
        "mutual recursion without a base": 'start: "x" a\na: "a" b\nb: "b" a',
        "all ambiguous": 'start: start start | start start start | "a" | ',
        "ambiguous sums": 'start: start "+" start | start "*" start | "(" start ")" | /[0-9]+/',
        "terminals that collide": "start: ("
        + " | ".join(f"T{n}" for n in range(60))
        + ")*\n"
        + "\n".join(f"T{n}: /[a-z]*{letters[n % 16]}[a-z]{{{n % 13}}}/" for n in range(60)),
        "templates in templates": 'start: t16{"a"}\nt0{x}: x\n'
        + "\n".join(f"t{n}{{x}}: t{n - 1}{{x}} t{n - 1}{{x}}" for n in range(1, 17)),
        "templates that grow": 'start: t9{"a"}\nt0{x}: x\nd{x}: x x\n'
        + "\n".join(f"t{n}{{x}}: t{n - 1}{{d{{x}}}} | x" for n in range(1, 10)),
        "a template without an end": 'start: t{"a"}\nd{x}: x x\nt{x}: "b" | t{d{x}}',
        "20,000 rules": 'start: r0\nr20000: "y"\n' + "\n".join(f'r{n}: "{n}" r{n + 1} | "x"' for n in range(20_000)),
        "60,000 groups": "start: " + "(" * 60_000 + '"a"' + ")" * 60_000,
        "repeats": 'start: ("a"~1..1000 "b"?)~1..1000',
        "repeats of rules": 'start: (x~1..300 ",")~1..300\nx: "a" | "b" x',
        "nullable rules": "start: "
        + " ".join(f"r{n}" for n in range(200))
        + "".join(f'\nr{n}: "a"?' for n in range(200)),
        "ignored everything": "start: A+\nA: /[a-z]+/\n%ignore /[a-z ]+/",
        "a megabyte": "start: " + " | ".join(f'"{n:06d}"' for n in range(100_000)),
    }
    gbnfs: dict[str, str] = {
        "left recursion": 'root ::= root "a" | "a"',
        "cycle of nothing": 'root ::= a\na ::= b | ""\nb ::= a | ""',
        "all ambiguous": 'root ::= root root | "a" | ""',
        "60,000 groups": "root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000,
        "a hundred million": "root ::= [a-z]{0,100000000}",
        "counts in counts": 'root ::= (([a-z]{1,300} "x"?){1,300} "y"?){1,300}',
        "30,000 rules": 'root ::= r0\nr30000 ::= "z"\n'
        + "\n".join(f'r{n} ::= "a" r{n + 1} | [b-d]' for n in range(30_000)),
        "palindromes": 'root ::= "" | [a-z] | ' + " | ".join(f'"{c}" root "{c}"' for c in "abcdefghijklmnopqrstuvwxyz"),
    }
    return [
        *(Hostile(f"lark: {name}", partial(Lark, grammar)) for name, grammar in larks.items()),
        *(Hostile(f"gbnf: {name}", partial(Gbnf, grammar)) for name, grammar in gbnfs.items()),
    ]


def _tags() -> list[Hostile]:
    def after(depth: int) -> Constraint:
        constraint: Constraint = Regex("(a|b)*a(a|b){16}")
        for level in range(depth):
            constraint = After(f"</{level}>", constraint)
        return constraint

    call = JsonSchema({"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]})
    large = JsonSchema(properties(20))
    return [
        Hostile("tags: 5,000", lambda: Triggered(tuple(Tag(f"<f{n}>", Regex(f"{n}+"), "</f>") for n in range(5000)))),
        Hostile(
            "tags: 500 of one trigger",
            lambda: Triggered(tuple(Tag(f"<f={n}>", call, f"</f{n}>") for n in range(500)), ("<",)),
            max_tokens=24,
        ),
        Hostile("tags: 300 schemas", lambda: Triggered(tuple(Tag(f"<{n}>", large) for n in range(300)))),
        Hostile("after: 15 deep", lambda: after(15)),
        Hostile("after: 40 deep", lambda: after(40)),
    ]  # fmt: skip


def corpus() -> list[Hostile]:
    """All of them, always in the same order."""
    return [*_regexes(), *_choices(), *_schemas(), *_grammars(), *_tags()]
