"""`Regex`: a pattern in Python's syntax -> byte expressions."""

from __future__ import annotations

from latticework.lang.errors import RegexError
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.builder import Builder
from latticework.runtime.constrain.character_machines import TooManyStates
from latticework.runtime.constrain.patterns import from_python
from latticework.runtime.constrain.text_nodes import lower_plain


def build_regex(builder: Builder, pattern: str, limits: Limits) -> int:
    """The node of all texts that `re.fullmatch(pattern, text)` accepts. Raises RegexError, or ConstraintError beyond
    a limit."""
    try:
        return lower_plain(builder, from_python(pattern, limits, builder.tick))
    except TooManyStates as error:
        raise RegexError(error.message, field=builder.field, hint=error.hint) from None
