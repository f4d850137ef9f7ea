"""UUIDs (RFC 4122), JSON Pointers (RFC 6901), relative ones (draft-bhutton-relative-json-pointer-00)."""

from __future__ import annotations

from latticework.runtime.constrain.patterns import from_python
from latticework.runtime.constrain.text_kinds import Text
from latticework.runtime.constrain.texts import either, literal, seq


def uuid() -> Text:
    return from_python("[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}")


def json_pointer() -> Text:
    return from_python("(?:/(?:[^/~]|~[01])*)*")


def relative_json_pointer() -> Text:
    return seq(from_python("0|[1-9][0-9]*"), either(literal("#"), json_pointer()))
