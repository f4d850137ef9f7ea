r"""gen's dtype: a pattern for each plain type, what ends it, and the value of its text.

    int      -?(0|[1-9][0-9]*)               ended by the first other character, which is cut off
    float    -?(0|[1-9][0-9]*)(\.[0-9]+)?     the same
    str      "[\w\d ]*"                      with its quotes
    bool     (True|False)

They are SGLang's, without what JSON could not read. There only a blank ends a number, and a model that would go on
with anything else has to write more digits: here it writes what it would, and that is cut off. The variable is text;
`s.value(name)` is of the type.
"""

from __future__ import annotations

from typing import Any

import msgspec

from latticework.lang.errors import InvalidArgument
from latticework.lang.ir import REGEX_BOOL, REGEX_STR, Regex
from latticework.lang.values import Decoder


class Dtype(msgspec.Struct, frozen=True):
    """stop: a pattern of what ends it, a stop_regex."""

    constraint: Regex
    decoder: Decoder
    stop: str | None = None


def _number(pattern: str, kind: type, others: str) -> Dtype:
    """others: a class of characters that numbers do not have."""
    return Dtype(Regex(rf"{pattern}({others}[\s\S]*)?"), Decoder(kind.__name__, kind), others)


def _bool(text: str) -> bool:
    if text not in ("True", "False"):
        raise ValueError("it is neither True nor False")
    return text == "True"


def _str(text: str) -> str:
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        raise ValueError("it has no quotes around it")
    return text[1:-1]


DTYPES = {
    "int": _number(r"-?(0|[1-9][0-9]*)", int, "[^-0-9]"),
    "float": _number(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?", float, "[^-.0-9]"),
    "str": Dtype(Regex(REGEX_STR), Decoder("str", _str)),
    "bool": Dtype(Regex(REGEX_BOOL), Decoder("bool", _bool)),
}


def dtype_of(dtype: Any) -> Dtype:
    """By type or name. Raises InvalidArgument."""
    name = dtype.__name__ if dtype in (int, float, str, bool) else dtype
    found = DTYPES.get(name) if isinstance(name, str) else None
    if found is None:
        raise InvalidArgument(
            f"dtype is {dtype!r}; expected int, float, str or bool", field="dtype", hint="other types go into schema="
        )
    return found
