"""Constraints made to hurt whoever compiles, keeps or masks them. Plain data: no server, no engine.

Each is one of a kind of attack: sizes, depths, counts, products of automata, ambiguity, recursion without an end, masks
that are slow while they are cold, states that pile up. `Hostile.constraint(salt)` is a new constraint for every salt,
so that no cache of compiled ones helps.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from latticework.lang.ir import After, Choices, Constraint, Gbnf, JsonSchema, Lark, Regex, Tag, Triggered

Json = dict[str, Any]


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


# ---------------------------------------------------------------- schemas that take more than a line


def nested(depth: int, wrap: str) -> Json:
    schema: Json = {"type": "null"}
    for level in range(depth):
        schema = {wrap: [schema, {"type": "object", "properties": {f"p{level}": {"type": "integer"}}}]}
    return schema


def doubling(levels: int) -> Json:
    """2^levels alternatives, in as many definitions as levels."""
    defs: Json = {f"d{levels}": {"type": "string"}}
    for level in range(levels):
        both = [
            {"properties": {f"{side}{level}": {"$ref": f"#/$defs/d{level + 1}"}}, "required": [f"{side}{level}"]}
            for side in "ab"
        ]
        defs[f"d{level}"] = {"type": "object", "oneOf": both}
    return {"$ref": "#/$defs/d0", "$defs": defs}


def product(factors: int, choices: int) -> Json:
    """choices^factors combinations of properties."""
    return {
        "type": "object",
        "allOf": [
            {"anyOf": [{"properties": {f"p{f}": {"const": c}}, "required": [f"p{f}"]} for c in range(choices)]}
            for f in range(factors)
        ],
    }


def chain(length: int) -> Json:
    defs: Json = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": defs | {f"d{length}": {"type": "integer"}}}


def conditions(count: int) -> Json:
    def one(n: int) -> Json:
        condition = {"properties": {f"p{n}": {"const": n}}, "required": [f"p{n}"]}
        return {"if": condition, "then": {"required": [f"q{n}"]}, "else": {"required": [f"r{n}"]}}

    return {"type": "object", "allOf": [one(n) for n in range(count)], "unevaluatedProperties": False}


def overlapping_patterns(count: int) -> Json:
    patterns = {f"[a-z]*{chr(97 + n)}[a-z]{{{n + 3}}}": {"minimum": n} for n in range(count)}
    return {"type": "object", "patternProperties": patterns, "minProperties": 1, "additionalProperties": False}


def required(count: int) -> Json:
    return {"type": "object", "required": [f"name{n}" for n in range(count)]}


def properties(count: int) -> Json:
    return {"type": "object", "properties": {f"key {n}": {"type": "string"} for n in range(count)}, "minProperties": 3}


def dependent(count: int) -> Json:
    names = [f"p{n}" for n in range(count)]
    return {"type": "object", "dependentRequired": {name: names[n + 1 :][:20] for n, name in enumerate(names)}}


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
    found = [Hostile(f"regex: {name}", lambda pattern=pattern: Regex(pattern)) for name, pattern in patterns.items()]
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
    integer: Json = {"type": "integer"}
    schemas: dict[str, Callable[[], Json | str]] = {
        "10,000 values": lambda: {"enum": [f"item {n}" for n in range(10_000)]},
        "10,000 objects": lambda: {"enum": [{"a": n, "b": [n, str(n)]} for n in range(10_000)]},
        "30,000 values": lambda: {"enum": list(range(30_000))},
        "100 nested oneOf": lambda: nested(100, "oneOf"),
        "100 nested anyOf": lambda: nested(100, "anyOf"),
        "oneOf that doubles": lambda: doubling(24),
        "product of anyOf": lambda: product(20, 3),
        "1,000 allOf": lambda: {"allOf": [{"properties": {f"p{n}": integer}, "minProperties": 1} for n in range(1000)]},
        "1,000 overlapping allOf": lambda: {"allOf": [{"pattern": f"{n}.*x.{{{n % 9}}}"} for n in range(1000)]},
        "60 conditions": lambda: conditions(60),
        "12 conditions": lambda: conditions(12),
        "negations": lambda: {"type": "object", "allOf": [{"not": {"required": [f"p{n}"]}} for n in range(300)]},
        "recursion without a base": lambda: {
            "$ref": "#/$defs/a",
            "$defs": {
                "a": {"type": "object", "properties": {"b": {"$ref": "#/$defs/b"}}, "required": ["b"]},
                "b": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"]},
            },
        },
        "reference to itself": lambda: {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}},
        "mutual references": lambda: {
            "$ref": "#/$defs/a",
            "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
        },
        "chain of 150 references": lambda: chain(150),
        "chain of 20,000 references": lambda: chain(20_000),
        "2,000 required": lambda: required(2000),
        "100,000 required": lambda: required(100_000),
        "2,000 properties": lambda: properties(2000),
        "20,000 properties": lambda: properties(20_000),
        "dependentRequired": lambda: dependent(400),
        "8 overlapping patterns": lambda: overlapping_patterns(8),
        "16 overlapping patterns": lambda: overlapping_patterns(16),
        "unique values of 10,000": lambda: {
            "type": "array",
            "items": {"enum": list(range(10_000))},
            "uniqueItems": True,
            "minItems": 5000,
        },
        "unique texts": lambda: {
            "type": "array",
            "items": {"type": "string", "maxLength": 1000},
            "uniqueItems": True,
            "minItems": 3,
        },
        "a million items": lambda: {"type": "array", "items": integer, "minItems": 1_000_000},
        "up to a billion items": lambda: {"type": "array", "items": integer, "maxItems": 1_000_000_000},
        "a billion characters": lambda: {"type": "string", "minLength": 1_000_000_000},
        "up to a billion characters": lambda: {"type": "string", "maxLength": 1_000_000_000},
        "contains": lambda: {
            "type": "array",
            "contains": {"multipleOf": 7},
            "minContains": 1000,
            "maxContains": 100_000,
        },
        "five contains": lambda: {
            "type": "array",
            "allOf": [{"contains": {"multipleOf": n}, "minContains": 5 * n} for n in (2, 3, 5, 7, 11)],
        },
        "multiples": lambda: {"type": "integer", "allOf": [{"multipleOf": n} for n in (9973, 9967, 9949, 9941)]},
        "multiple of a prime": lambda: {"type": "integer", "multipleOf": 999_999_937},
        "multiple of little": lambda: {"type": "number", "multipleOf": 1e-300},
        "bounds of 10,000 digits": lambda: f'{{"type":"integer","minimum":1{"0" * 10_000},"maximum":3{"7" * 10_000}}}',
        "exponents": lambda: '{"type":"number","minimum":-1e308,"exclusiveMaximum":1e-308,"multipleOf":1e-9}',
        "a pattern of a megabyte": lambda: {"type": "string", "pattern": "[a-c]x?" * 140_000},
        "an explosive pattern": lambda: {"type": "string", "pattern": "^(a|b)*a(a|b){16}$", "maxLength": 1000},
        "patterns that meet": lambda: {
            "type": "string",
            "allOf": [{"pattern": f"[a-z]*{c}[a-z]{{{n}}}"} for n, c in enumerate("abcdef", 6)],
        },
        "names with patterns": lambda: {
            "type": "object",
            "propertyNames": {"pattern": "^(a|b)*a(a|b){12}$"},
            "minProperties": 5,
        },
        "formats": lambda: {"type": "array", "items": {"type": "string", "format": "iri"}, "minItems": 3},
        "60,000 deep": lambda: '{"a":' * 60_000 + "1" + "}" * 60_000,
        "250 deep": lambda: nested(250, "anyOf"),
        "190 deep objects": lambda: json.loads('{"type":"object","properties":{"a":' * 90 + "true" + "}}" * 90),
        "larger than the limit": lambda: {"description": "x" * (5 << 20)},
        "a megabyte of text": lambda: {"const": "x" * 1_000_000},
    }
    found = [Hostile(f"schema: {name}", lambda make=make: JsonSchema(make())) for name, make in schemas.items()]
    any_order = {"600 keys in any order": properties(600), "20 required in any order": required(20)}
    found += [
        Hostile(f"schema: {name}", lambda schema=schema: JsonSchema(schema, key_order="any"))
        for name, schema in any_order.items()
    ]
    found.append(Hostile("schema: flexible blanks", lambda: JsonSchema(properties(300), whitespace="flexible")))
    return found


def _grammars() -> list[Hostile]:
    letters = "abcdefghijklmnop"
    larks: dict[str, str] = {
        "left recursion": 'start: start "a" | "a"',
        "hidden left recursion": 'start: x start "a" | "b"\nx: "c"?',
        "cycle of nothing": "start: a\na: b | \nb: a | ",
        "mutual recursion without a base": 'start: "x" a\na: "a" b\nb: "b" a',
        "all ambiguous": 'start: start start | start start start | "a" | ',
        "ambiguous sums": 'start: start "+" start | start "*" start | "(" start ")" | /[0-9]+/',
        "terminals that collide": "start: (" + " | ".join(f"T{n}" for n in range(60)) + ")*\n"
        + "\n".join(f"T{n}: /[a-z]*{letters[n % 16]}[a-z]{{{n % 13}}}/" for n in range(60)),
        "templates in templates": 'start: t16{"a"}\n' + "\n".join(f"t{n}{{x}}: t{n - 1}{{x x}}" for n in range(1, 17)) + '\nt0{x}: x',
        "a template without an end": 'start: t{"a"}\nt{x}: "b" | t{x x}',
        "20,000 rules": "start: r0\n" + "\n".join(f'r{n}: "{n}" r{n + 1} | "x"' for n in range(20_000)) + '\nr20000: "y"',
        "60,000 groups": "start: " + "(" * 60_000 + '"a"' + ")" * 60_000,
        "repeats": 'start: ("a"~1..1000 "b"?)~1..1000',
        "repeats of rules": 'start: (x~1..300 ",")~1..300\nx: "a" | "b" x',
        "nullable rules": "start: " + " ".join(f"r{n}" for n in range(200)) + "\n" + "\n".join(f'r{n}: "a"?' for n in range(200)),
        "ignored everything": 'start: A+\nA: /[a-z]+/\n%ignore /[a-z ]+/',
        "a megabyte": "start: " + " | ".join(f'"{n:06d}"' for n in range(100_000)),
    }  # fmt: skip
    gbnfs: dict[str, str] = {
        "left recursion": 'root ::= root "a" | "a"',
        "cycle of nothing": 'root ::= a\na ::= b | ""\nb ::= a | ""',
        "all ambiguous": 'root ::= root root | "a" | ""',
        "60,000 groups": "root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000,
        "a hundred million": "root ::= [a-z]{0,100000000}",
        "counts in counts": 'root ::= (([a-z]{1,300} "x"?){1,300} "y"?){1,300}',
        "30,000 rules": 'root ::= r0\n' + "\n".join(f'r{n} ::= "a" r{n + 1} | [b-d]' for n in range(30_000)) + '\nr30000 ::= "z"',
        "palindromes": 'root ::= "" | [a-z] | ' + " | ".join(f'"{c}" root "{c}"' for c in "abcdefghijklmnopqrstuvwxyz"),
    }  # fmt: skip
    return [
        *(Hostile(f"lark: {name}", lambda grammar=grammar: Lark(grammar)) for name, grammar in larks.items()),
        *(Hostile(f"gbnf: {name}", lambda grammar=grammar: Gbnf(grammar)) for name, grammar in gbnfs.items()),
    ]


def _tags() -> list[Hostile]:
    def after(depth: int) -> Constraint:
        constraint: Constraint = Regex("(a|b)*a(a|b){16}")
        for level in range(depth):
            constraint = After(f"</{level}>", constraint)
        return constraint

    call = JsonSchema({"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]})
    return [
        Hostile("tags: 5,000", lambda: Triggered(tuple(Tag(f"<f{n}>", Regex(f"{n}+"), "</f>") for n in range(5000)))),
        Hostile(
            "tags: 500 of one trigger",
            lambda: Triggered(tuple(Tag(f"<f={n}>", call, f"</f{n}>") for n in range(500)), ("<",)),
            max_tokens=24,
        ),
        Hostile("tags: 300 schemas", lambda: Triggered(tuple(Tag(f"<{n}>", JsonSchema(properties(20))) for n in range(300)))),
        Hostile("after: 15 deep", lambda: after(15)),
        Hostile("after: 40 deep", lambda: after(40)),
    ]  # fmt: skip


def corpus() -> list[Hostile]:
    """All of them, always in the same order."""
    return [*_regexes(), *_choices(), *_schemas(), *_grammars(), *_tags()]
