"""What the constraint harness runs on: the open data, the keyword probes, a list of patterns and grammars.

Instances become tokens here, once, so that every engine gets the same ones: compact and with json.dumps' default
separators.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from latticework.runtime.constrain.vocabulary import Vocabulary
from latticework.runtime.model.locate import find_model

OPEN_DATA = "constraints-open.jsonl.gz"
KEYWORD_CASES = "keyword-cases.jsonl"
SETS = ("json", "jsts", "keyword", "regex", "grammar")

_CHARACTER = (
    r'\{\n    "name": "[\w\d\s]{1,16}",\n    "house": "(Gryffindor|Slytherin|Ravenclaw|Hufflepuff)",\n'
    r'    "blood status": "(Pure-blood|Half-blood|Muggle-born)",\n'
    r'    "occupation": "(student|teacher|auror|ministry of magic|death eater|order of the phoenix)",\n'
    r'    "wand": \{\n        "wood": "[\w\d\s]{1,16}",\n        "core": "[\w\d\s]{1,16}",\n'
    r'        "length": [0-9]{1,2}\.[0-9]{0,2}\n    \},\n    "alive": "(Alive|Deceased)",\n'
    r'    "patronus": "[\w\d\s]{1,16}",\n    "bogart": "[\w\d\s]{1,16}"\n\}'
)
_HARRY = (
    '{\n    "name": "Harry Potter",\n    "house": "Gryffindor",\n    "blood status": "Half-blood",\n'
    '    "occupation": "student",\n    "wand": {\n        "wood": "Holly",\n        "core": "Phoenix feather",\n'
    '        "length": 11.0\n    },\n    "alive": "Alive",\n    "patronus": "Stag",\n    "bogart": "Dementor"\n}'
)
# name: pattern, texts that match, texts that do not (by re.fullmatch)
REGEXES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "date": (r"[0-9]{4}-[0-9]{2}-[0-9]{2}", ("2026-11-22",), ("2026-1-22", "x2026-11-22")),
    "ipv4": (
        r"((25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)",
        ("192.168.0.1", "255.255.255.255"),
        ("256.1.1.1", "1.2.3", "01.2.3.4"),
    ),
    "email": (
        r"[a-zA-Z0-9._%+-]+@[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)*\.[a-zA-Z]{2,}",
        ("first.last@mail.example.org",),
        ("@example.org", "a@b", "a b@example.org"),
    ),
    "choice": (r"(yes|no|maybe)", ("yes", "maybe"), ("yess", "perhaps")),
    "any200": (r".{0,200}", ("", "The quick brown fox jumps over the lazy dog. " * 4), ("a\nb", "x" * 201)),
    "letters500": (
        r"[a-zA-Z ]{1,500}",
        ("The quick brown fox jumps over the lazy dog " * 5,),
        ("", "with 1 digit", "word " * 101),
    ),
    "iso8601": (
        r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?"
        r"(Z|[+-]([01]\d|2[0-3]):[0-5]\d)",
        ("2026-11-22T17:30:00Z", "2026-11-22T17:30:00.125+01:00"),
        ("2026-13-22T17:30:00Z", "2026-11-22 17:30:00Z"),
    ),
    "character": (_CHARACTER, (_HARRY,), (_HARRY.replace("Gryffindor", "Durmstrang"), _HARRY[:-1])),
    "jsonstring": (r'"[^"\\]*(\\.[^"\\]*)*"', ('"a \\"quoted\\" text"',), ('"open', 'bare"', '"two" "texts"')),
    "decimal": (r"\d+(\.\d+)?", ("3", "3.14159"), (".5", "3.", "1e5")),
    "nasty_ab12": (r"(a|b)*a(a|b){12}", ("abbab" + "a" + "ab" * 6,), ("b" * 20, "ab")),
    "nasty_nested": (r"((a+)+b?)+c", ("aaabaabaaac",), ("aaaaaaaaaaaaaaaab", "bc")),
    "nasty_unicode": ("[α-ω]+( [α-ω]+)*", ("καλημερα κοσμε",), ("kalimera", "καλημερα  κοσμε")),
    "nasty_lookahead": (r"(?=.*[0-9])[a-z0-9]{4,8}", ("abc1", "0abcdefg"), ("abcdefgh", "ab1")),
    "nasty_backref": (r"([a-c]+)-\1", ("abc-abc",), ("abc-abd",)),
    "nasty_ab16": (r"(a|b)*a(a|b){16}", ("abbab" + "a" + "ab" * 8,), ("b" * 30,)),
    "nasty_w1000": (r"(\w{1,50}\s){1,100}END", ("one two three four END",), ("one two three", "END")),
}

_LARK_JSON = r"""
start: value
value: object | array | STRING | NUMBER | "true" | "false" | "null"
object: "{" [pair ("," pair)*] "}"
pair: STRING ":" value
array: "[" [value ("," value)*] "]"
STRING: /"([^"\\\x00-\x1f]|\\["\\\/bfnrt]|\\u[0-9a-fA-F]{4})*"/
NUMBER: /-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/
WS: /[ \t\n\r]+/
%ignore WS
"""
_LARK_ARITH = r"""
start: sum
sum: product (("+" | "-") product)*
product: atom (("*" | "/") atom)*
atom: NUMBER | "-" atom | "(" sum ")"
NUMBER: /[0-9]+(\.[0-9]+)?/
"""
_GBNF_ARITH = r"""
root ::= sum
sum ::= product (("+" | "-") product)*
product ::= atom (("*" | "/") atom)*
atom ::= number | "-" atom | "(" sum ")"
number ::= [0-9]+ ("." [0-9]+)?
"""
_GBNF_JSON = r"""
root ::= ws value ws
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ws (pair (ws "," ws pair)*)? ws "}"
pair ::= string ws ":" ws value
array ::= "[" ws (value (ws "," ws value)*)? ws "]"
string ::= "\"" ([^"\\\x00-\x1f] | "\\" ["\\/bfnrt])* "\""
number ::= "-"? ("0" | [1-9] [0-9]*) ("." [0-9]+)? ([eE] [+-]? [0-9]+)?
ws ::= [ \t\n\r]*
"""
_LARK_SQL = r"""
start: "SELECT " columns " FROM " NAME (" WHERE " condition)? (" ORDER BY " NAME (" DESC")?)? (" LIMIT " INT)?
columns: "*" | NAME (", " NAME)*
condition: comparison ((" AND " | " OR ") comparison)*
comparison: NAME OPERATOR value
OPERATOR: " = " | " <> " | " < " | " > "
value: INT | TEXT
NAME: /[a-z_][a-z0-9_]*/
INT: /[0-9]+/
TEXT: /'[^']*'/
"""
_ARITH_TEXTS = (("1+2*3", "-(4.5-6)/7"), ("1+", "2**3", "(1", "a"))
_JSON_TEXTS = (
    ('{"a": [1, 2.5e3, null], "b": {"c": "x"}}', "[true,\n  false]"),
    ('{"a": }', "[1,]", '{"a" 1}'),
)
_SQL_TEXTS = (
    ("SELECT a, b FROM t WHERE a = 1 AND b <> 'x' ORDER BY a DESC LIMIT 10", "SELECT * FROM t"),
    ("SELECT FROM t", "SELECT a FROM t WHERE", "DELETE FROM t"),
)
GRAMMARS: dict[str, tuple[str, str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "lark_arith": ("lark", _LARK_ARITH, _ARITH_TEXTS),
    "lark_json": ("lark", _LARK_JSON, _JSON_TEXTS),
    "lark_sql": ("lark", _LARK_SQL, _SQL_TEXTS),
    "gbnf_arith": ("gbnf", _GBNF_ARITH, _ARITH_TEXTS),
    "gbnf_json": ("gbnf", _GBNF_JSON, _JSON_TEXTS),
}


class Cases:
    """Cases and the vocabulary they are written in. A case: id, set, kind, source, tests of (valid, forms, text)."""

    def __init__(self, model: str = "smollm2") -> None:
        card = find_model(model)
        self._tokenizer = Tokenizer.from_file(card.tokenizer)
        vocabulary = Vocabulary.from_tokenizer(self._tokenizer, end_ids=card.end_ids, size=card.spec.vocab_size)
        self.tokens = vocabulary.tokens
        self.end_ids = list(vocabulary.end_ids)
        self.cases: list[dict[str, Any]] = []

    def job(self) -> dict[str, Any]:
        """What a worker reads."""
        tokens = [base64.b64encode(token).decode() for token in self.tokens]
        return {
            "tokens": tokens, "end_ids": self.end_ids, "tokenizer": self._tokenizer.to_str(), "cases": self.cases
        }  # fmt: skip

    def add_schemas(self, name: str, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            tests = [
                {"valid": test["valid"], "forms": self._forms(test["instance"]), "instance": test["instance"]}
                for test in line["tests"]
            ]
            self.cases.append({"id": line["id"], "set": name, "kind": "json", "source": line["schema"], "tests": tests})

    def add_texts(
        self, name: str, id: str, kind: str, source: str, valid: tuple[str, ...], invalid: tuple[str, ...]
    ) -> None:
        tests = [
            {"valid": is_valid, "forms": [self._encode(text)], "instance": text}
            for texts, is_valid in ((valid, True), (invalid, False))
            for text in texts
        ]
        self.cases.append({"id": id, "set": name, "kind": kind, "source": source, "tests": tests, "walk": True})

    def _forms(self, instance: Any) -> list[list[int]]:
        compact = json.dumps(instance, separators=(",", ":"), ensure_ascii=False)
        return [self._encode(compact), self._encode(json.dumps(instance, ensure_ascii=False))]

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def gather(sets: tuple[str, ...], data: Path, sample: int | None, match: str = "") -> Cases:
    """The cases of `sets` whose id has `match` in it; at most `sample` of MaskBench, the same ones every time."""
    cases = Cases()
    if {"json", "jsts"} & set(sets):
        lines = [line for line in _lines(data / OPEN_DATA) if match in line["id"]]
        suite = [line for line in lines if line["source"].startswith("JSTS")]
        bench = [line for line in lines if not line["source"].startswith("JSTS")]
        if "json" in sets:
            cases.add_schemas("json", _sample(bench, sample))
        if "jsts" in sets:
            cases.add_schemas("jsts", suite)
    if "keyword" in sets:
        cases.add_schemas("keyword", [line for line in _lines(data / KEYWORD_CASES) if match in line["id"]])
    if "regex" in sets:
        for id, (pattern, valid, invalid) in REGEXES.items():
            if match in id:
                cases.add_texts("regex", id, "regex", pattern, valid, invalid)
    if "grammar" in sets:
        for id, (kind, text, (valid, invalid)) in GRAMMARS.items():
            if match in id:
                cases.add_texts("grammar", id, kind, text, valid, invalid)
    return cases


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    data = path.read_bytes()
    for line in (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines():
        yield json.loads(line)


def _sample(lines: list[dict[str, Any]], count: int | None) -> list[dict[str, Any]]:
    """`count` of the lines, by hash of their ids, in the order they came."""
    if count is None or count >= len(lines):
        return lines
    ranked = sorted(lines, key=lambda line: hashlib.sha256(line["id"].encode()).digest())[:count]
    kept = {line["id"] for line in ranked}
    return [line for line in lines if line["id"] in kept]
