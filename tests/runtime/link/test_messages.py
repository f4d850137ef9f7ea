"""Every message survives the wire, and nothing else gets through a decoder."""

import pickle

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latticework.lang.errors import ErrorData
from latticework.lang.events import Chunk, Done, Failed, Rendered, Usage
from latticework.lang.ir import Choices, Fork, Gen, JsonSchema, Regex, Role, Sampling, Select, Text
from latticework.runtime.link import messages as m
from latticework.runtime.request import GenSegment, Request, SelectSegment, TextSegment, TokenEvent, TokenInfo

REQUEST = Request(
    7,
    (
        TextSegment((1, 2, 3), b"abc", 3),
        GenSegment(Sampling(max_tokens=4, stop=("\n",), seed=1), "key", "cut"),
        SelectSegment(((1,), (2, 3))),
    ),
    parent_lease=3,
    hold_lease=4,
    group=9,
    namespace="n",
)
EVENT = TokenEvent(7, 1, (5,), b"\xff", (TokenInfo(-0.5, ((5, -0.5),)),), "stop", final=True, usage=Usage(1, 2, 3, 4))
OPS = (
    Role("user"),
    Text("hi"),
    Role(None),
    Gen("a", Sampling(max_tokens=3), ("max_tokens",), Regex("a+")),
    Gen("b", constraint=JsonSchema({"type": "object"})),
    Gen("c", constraint=Choices(("x", "y"))),
    Select("d", ("x", "y")),
    Fork((1, 2)),
)
ERROR = ErrorData("RegexError", "bad", position=3)

MESSAGES = [
    (m.ToEngine, m.Define("key", b"rules")),
    (m.ToEngine, m.Submit(REQUEST)),
    (m.ToEngine, m.Release((1, 2))),
    (m.ToEngine, m.Cancel(7)),
    (m.ToEngine, m.Ping()),
    (m.ToEngine, m.FlushCache()),
    (m.FromEngine, m.EngineReady(2048, 4096, "float32")),
    (m.FromEngine, m.TokenEvents((EVENT,))),
    (m.FromEngine, m.UnknownKey("key", 7)),
    (m.FromEngine, m.EngineStats(running=3)),
    (m.ToFront, m.Hello()),
    (m.ToFront, m.Hello(tenant="a.b-C_9")),
    (m.ToFront, m.Open(1, Sampling(), 5, 2)),
    (m.ToFront, m.Open(1, Sampling(), 5, 2, 1.5)),
    (m.ToFront, m.Generate(1, (1, 2), Gen("a"), 0.0)),
    (m.ToFront, m.Append(1, 0, 4, OPS)),
    (m.ToFront, m.Close(1)),
    (m.ToClient, m.Welcome(1, "tiny", 512, "float64")),
    (m.ToClient, m.RunEvents(1, (Rendered(0, 0, "x"), Chunk(0, 1, "y"), Done(0, 1, "y", "stop"), Failed(0, 2, ERROR)))),
    (m.ToClient, m.Closed(1, Usage(1, 0, 1, 2))),
    (m.ToClient, m.Rejected(ERROR, 1)),
]


@pytest.mark.parametrize(("direction", "message"), MESSAGES, ids=lambda value: type(value).__name__)
def test_a_message_comes_back_equal(direction: object, message: m.Ping) -> None:
    assert m.Decoder(direction).decode(m.encode(message)) == message


@pytest.mark.parametrize("direction", [m.ToEngine, m.FromEngine, m.ToFront, m.ToClient])
@given(frame=st.binary(max_size=200))
def test_garbage_is_a_bad_frame_and_nothing_worse(direction: object, frame: bytes) -> None:
    decoder = m.Decoder(direction)
    try:
        decoder.decode(frame)
    except m.BadFrame:
        return


@pytest.mark.parametrize(("direction", "message"), MESSAGES, ids=lambda value: type(value).__name__)
def test_a_truncated_message_is_a_bad_frame(direction: object, message: m.Ping) -> None:
    frame = m.encode(message)
    for length in range(len(frame)):
        with pytest.raises(m.BadFrame):
            m.Decoder(direction).decode(frame[:length])


def test_pickle_bytes_are_a_bad_frame() -> None:
    with pytest.raises(m.BadFrame):
        m.Decoder(m.ToEngine).decode(pickle.dumps({"type": "ping"}))


def test_a_message_of_another_link_is_a_bad_frame() -> None:
    with pytest.raises(m.BadFrame):
        m.Decoder(m.ToEngine).decode(m.encode(m.Hello()))


def test_an_unknown_field_is_a_bad_frame() -> None:
    frame = msgspec.msgpack.encode({"type": "cancel", "request": 1, "extra": 2})
    with pytest.raises(m.BadFrame):
        m.Decoder(m.ToEngine).decode(frame)


def test_an_invalid_sampling_is_a_bad_frame() -> None:
    frame = m.encode(m.Open(1, Sampling(max_tokens=77), 5))
    assert frame.count(bytes([77])) == 1
    with pytest.raises(m.BadFrame, match="max_tokens"):
        m.Decoder(m.ToFront).decode(frame.replace(bytes([77]), bytes([0])))


def test_an_oversize_frame_is_a_bad_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m, "MAX_FRAME_BYTES", 10)
    with pytest.raises(m.BadFrame, match="at most 10"):
        m.Decoder(m.ToFront).decode(bytes(11))
