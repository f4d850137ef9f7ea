"""Bytes to text, a piece at a time.

This file knows UTF-8 and nothing of tokens.
"""

from __future__ import annotations

import codecs


class Utf8Stream:
    """Turns a stream of bytes into text without ever showing half a character.

    Bytes that cannot begin or continue a character become U+FFFD as soon as that is certain, so the pieces
    concatenate to `data.decode("utf-8", "replace")` however the data was cut.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes, final: bool = False) -> str:
        """The text that is certain now. With `final`, an unfinished character becomes U+FFFD."""
        return self._decoder.decode(data, final)
