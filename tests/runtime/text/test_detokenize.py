from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latticework.runtime.text.detokenize import Utf8Stream


@pytest.mark.parametrize("text", ["é", "你", "🎉", "👩‍💻 ok"])
def test_half_a_character_is_never_shown(text: str) -> None:
    stream = Utf8Stream()
    pieces = [stream.feed(bytes([byte])) for byte in text.encode()]
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) == text
    assert stream.feed(b"", final=True) == ""


@given(st.lists(st.binary(max_size=6)))
def test_pieces_concatenate_to_the_decoded_whole(parts: list[bytes]) -> None:
    stream = Utf8Stream()
    shown = "".join(stream.feed(part) for part in parts) + stream.feed(b"", final=True)
    assert shown == b"".join(parts).decode("utf-8", "replace")


def test_invalid_bytes_are_replaced_at_once_and_unfinished_ones_at_the_end() -> None:
    stream = Utf8Stream()
    assert stream.feed(b"a\xffb") == "a\ufffdb"
    assert stream.feed(b"\xe2\x82") == ""
    assert stream.feed(b"", final=True) == "\ufffd"
