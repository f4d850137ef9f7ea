"""Languages of strings as values: the public face of `Text`.

Make a text from a pattern (`from_pattern`, `from_python`), a format (`from_format`) or by hand, combine texts with
`either`, `both`, `negate`, `seq` and `repeat`, ask what words they have, and lower them to nodes of a rule graph, as
JSON strings or as they are. Texts are interned: equal expressions are one object.
"""

from __future__ import annotations

from latticework.runtime.constrain.analysis import both, has_word, is_never, is_subset, words
from latticework.runtime.constrain.formats import FORMATS, from_format
from latticework.runtime.constrain.patterns import from_pattern, from_python
from latticework.runtime.constrain.text_kinds import EMPTY, NEVER, Text
from latticework.runtime.constrain.text_nodes import lower_json, lower_plain
from latticework.runtime.constrain.texts import (
    ANYTHING,
    any_text,
    chars,
    either,
    length,
    literal,
    negate,
    nonempty,
    repeat,
    seq,
    word_set,
)

__all__ = [
    "ANYTHING",
    "EMPTY",
    "FORMATS",
    "NEVER",
    "Text",
    "any_text",
    "both",
    "chars",
    "either",
    "from_format",
    "from_pattern",
    "from_python",
    "has_word",
    "is_never",
    "is_subset",
    "length",
    "literal",
    "lower_json",
    "lower_plain",
    "negate",
    "nonempty",
    "repeat",
    "seq",
    "word_set",
    "words",
]
