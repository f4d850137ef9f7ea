"""gen's dtype: a pattern for each plain type, what ends it, and the value of its text.

    int      -?(0|[1-9][0-9]*)[ \\n]*             ended by " " or "\\n", which is cut off
    float    -?(0|[1-9][0-9]*)(\\.[0-9]+)?[ \\n]*   the same
    str      "[\\w\\d ]*"                         with its quotes
    bool     (True|False)

They are SGLang's, without what JSON could not read. The variable is text; `s.value(name)` is of the type.
"""

from __future__ import annotations

from typing import Any

import msgspec

from latticework.lang.errors import InvalidArgument
from latticework.lang.ir import REGEX_BOOL, REGEX_FLOAT, REGEX_INT, REGEX_STR, Regex
from latticework.lang.values import Decoder

NUMBER_STOPS = (" ", "\n")


class Dtype(msgspec.Struct, frozen=True):
    """stops: what the model writes to end it."""

    constraint: Regex
    decoder: Decoder
    stops: tuple[str, ...] = ()


def _bool(text: str) -> bool:
    if text not in ("True", "False"):
        raise ValueError("it is neither True nor False")
    return text == "True"


def _str(text: str) -> str:
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        raise ValueError("it has no quotes around it")
    return text[1:-1]


DTYPES = {
    "int": Dtype(Regex(REGEX_INT), Decoder("int", int), NUMBER_STOPS),
    "float": Dtype(Regex(REGEX_FLOAT), Decoder("float", float), NUMBER_STOPS),
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
