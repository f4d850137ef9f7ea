"""Stops over bytes: where they cut, what they hold back, and which tokens stay."""

import random

import pytest

from latticework.runtime.schedule.stops import Cut, OutputText, StopHit, StopMatcher


def run(matcher: StopMatcher, pieces: list[bytes]) -> tuple[StopHit | None, list[int]]:
    """Feeds pieces until a hit; also how much was held after each."""
    cursor = matcher.cursor()
    held: list[int] = []
    for piece in pieces:
        hit = cursor.feed(piece)
        if hit is not None:
            return hit, held
        held.append(cursor.held)
    return None, held


@pytest.mark.parametrize(
    ("stops", "pieces", "hit", "held"),
    [
        (("\n",), [b"a", b"b\nc"], StopHit(2, "\n"), [0]),
        (("END",), [b"x E", b"N", b"D"], StopHit(2, "END"), [1, 2]),
        (("END",), [b"x E", b"N", b"E", b"ND"], StopHit(4, "END"), [1, 2, 1]),
        (("aab",), [b"aaa", b"a", b"b"], StopHit(2, "aab"), [2, 2]),
        (("abcd", "bc"), [b"ab", b"cd"], StopHit(1, "bc"), [2]),  # bc is complete first
        (("bcd", "abcd"), [b"xabcd"], StopHit(1, "abcd"), []),  # complete together: the longest
        (("abcd", "bcd"), [b"xbcd"], StopHit(1, "bcd"), []),
        (("abcx", "bcy"), [b"abcy"], StopHit(1, "bcy"), []),  # falls back to a suffix
        (("é",), ["né".encode()[:2], "né".encode()[2:]], StopHit(1, "é"), [1]),  # half a character is held
        (("stop",), [b"st", b"art"], None, [2, 0]),
        ((), [b"anything"], None, [0]),
        (("x",), [b"", b"x"], StopHit(0, "x"), [0]),
    ],
)
def test_stop_strings(stops: tuple[str, ...], pieces: list[bytes], hit: StopHit | None, held: list[int]) -> None:
    assert run(StopMatcher(stops), pieces) == (hit, held)


def test_a_stop_id_cuts_before_its_bytes() -> None:
    cursor = StopMatcher(("zz",), frozenset({7})).cursor()
    assert cursor.feed(b"ab", 3) is None
    assert cursor.feed(b"z", 4) is None
    assert cursor.feed(b"z", 7) == StopHit(3, 7)


def test_cursors_share_a_matcher_and_not_their_place() -> None:
    cursor = StopMatcher(("abc",)).cursor()
    cursor.feed(b"xa")
    twin = cursor.copy()
    assert cursor.feed(b"x") is None
    assert twin.feed(b"bc") == StopHit(1, "abc")
    assert (cursor.held, twin.feed(b"")) == (0, None)


def test_random_texts_agree_with_a_plain_search() -> None:
    choose = random.Random(11)
    for _ in range(400):
        stops = tuple("".join(choose.choices("abé", k=choose.randrange(1, 5))) for _ in range(choose.randrange(1, 5)))
        text = "".join(choose.choices("abé", k=30)).encode()
        sliced, at = [], 0
        while at < len(text):
            step = choose.randrange(1, 4)
            sliced.append(text[at : at + step])
            at += step
        found = [
            (end, -len(stop.encode()), stop)
            for stop in stops
            for end in range(len(text) + 1)
            if text[:end].endswith(stop.encode())
        ]
        hit, held = run(StopMatcher(stops), sliced)
        if found:
            end, length, stop = min(found)
            assert hit == StopHit(end + length, stop)
        else:
            assert hit is None
        at = 0
        for piece, count in zip(sliced, held, strict=False):
            at += len(piece)
            prefixes = [
                n for stop in stops for n in range(1, len(stop.encode())) if text[:at].endswith(stop.encode()[:n])
            ]
            assert count == max(prefixes, default=0)


def test_a_cut_keeps_whole_tokens_and_carries_the_rest() -> None:
    output = OutputText()
    for token, piece in enumerate([b"The", b" answer", b" is\n", b"\nEnd"]):
        output.append(token, piece)
    assert output.cut(13) == Cut(2, b" is")  # the stop is "\n\n"
    assert output.tokens == [0, 1]
    assert output.data == b"The answer is"
    assert output.release() == b"The answer is"


def test_a_cut_between_tokens_carries_nothing() -> None:
    output = OutputText()
    output.append(5, b"ab")
    output.append(6, b"cd")
    assert output.cut(2) == Cut(1, b"")
    assert output.copy().cut(0) == Cut(0, b"")


def test_a_cut_inside_the_first_token_keeps_no_token() -> None:
    output = OutputText()
    output.append(5, b"abSTOP")
    assert output.cut(2) == Cut(0, b"ab")
    assert output.tokens == []


def test_held_bytes_wait_and_are_released_at_the_end() -> None:
    cursor, output = StopMatcher(("END",)).cursor(), OutputText()
    released = []
    for token, piece in enumerate([b"one E", b"N", b"d", b" E"]):
        output.append(token, piece)
        assert cursor.feed(piece, token) is None
        released.append(output.release(cursor.held))
    assert released == [b"one ", b"", b"ENd", b" "]
    assert output.release() == b"E"
    assert output.release() == b""
    assert output.released == len(output) == 9


def test_bytes_are_released_without_regard_to_characters() -> None:
    output = OutputText()
    output.append(1, b"\xe2\x82")
    assert output.release() == b"\xe2\x82"
    output.append(2, b"\xac")
    assert output.release() == b"\xac"


def test_what_was_released_is_never_cut() -> None:
    choose = random.Random(12)
    for _ in range(300):
        matcher = StopMatcher(tuple("".join(choose.choices("ab", k=choose.randrange(2, 5))) for _ in range(3)))
        cursor, output, seen = matcher.cursor(), OutputText(), b""
        hit = None
        for token in range(20):
            piece = "".join(choose.choices("ab", weights=(3, 1), k=choose.randrange(4))).encode()
            output.append(token, piece)
            hit = cursor.feed(piece, token)
            if hit is not None:
                cut = output.cut(hit.cut)
                assert len(output.tokens) == cut.tokens
                break
            seen += output.release(cursor.held)
        assert seen + output.release() == output.data
        assert hit is None or len(output.data) == hit.cut


def test_a_copied_output_goes_its_own_way() -> None:
    output = OutputText()
    output.append(1, b"ab")
    output.release()
    twin = output.copy()
    twin.append(2, b"cd")
    assert (output.data, twin.data, twin.tokens) == (b"ab", b"abcd", [1, 2])
    assert (output.release(), twin.release()) == (b"", b"cd")
