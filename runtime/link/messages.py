"""Every message on every link, and how one becomes bytes.

    client ── ToFront ──▶ front ── ToEngine ──▶ engine
           ◀─ ToClient ──       ◀─ FromEngine ──

Messages are tagged msgspec structs in msgpack. An unknown tag, an unknown field, a wrong type or too many bytes
is a `BadFrame`, which a receiver counts and drops. Nothing here opens a socket.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from latticework.lang.errors import ErrorData
from latticework.lang.events import Event, Usage
from latticework.lang.ir import Gen, Op, Sampling
from latticework.runtime.request import Request, TokenEvent

PROTOCOL = 2
MAX_FRAME_BYTES = 64 << 20
HEARTBEAT_SECONDS = 0.5  # a live peer says something at least this often
SILENCE_SECONDS = 5.0  # a peer silent for longer is dead
TENANT = r"^[A-Za-z0-9_.-]{0,64}\Z"
"""What a tenant may be called; nobody in particular is ""."""

Seconds = Annotated[float, Meta(ge=0, le=1e9)]


class BadFrame(Exception):
    """Bytes that are no message of the expected kind."""


class _Message(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    pass


# ---------------------------------------------------------------- front -> engine


class Define(_Message, frozen=True, tag="define"):
    """Names a compiled constraint; sent before the first request that uses `key`. rules: an encoded RuleGraph."""

    key: str
    rules: bytes


class Submit(_Message, frozen=True, tag="submit"):
    request: Request


class Release(_Message, frozen=True, tag="release"):
    """Gives leases back. Ids not held are ignored."""

    leases: tuple[int, ...]


class Cancel(_Message, frozen=True, tag="cancel"):
    """Ends a request with `end="cancelled"`. Ignored if it has ended."""

    request: int


class Ping(_Message, frozen=True, tag="ping"):
    """A heartbeat, either way on any link."""


class FlushCache(_Message, frozen=True, tag="flush_cache"):
    """Evicts every prefix that no lease and no running sequence holds, and every constraint that no request uses."""


ToEngine: TypeAlias = Define | Submit | Release | Cancel | Ping | FlushCache


# ---------------------------------------------------------------- engine -> front


class EngineReady(_Message, frozen=True, tag="engine_ready"):
    """Sent once the model is loaded, in answer to the first Ping of a connection."""

    context: int
    kv_tokens: int
    dtype: str


class TokenEvents(_Message, frozen=True, tag="token_events"):
    """All events of one step for one front."""

    events: tuple[TokenEvent, ...]


class UnknownKey(_Message, frozen=True, tag="unknown_key"):
    """The engine no longer holds this constraint: the request was not started; define and submit it again."""

    key: str
    request: int


class EngineStats(_Message, frozen=True, tag="engine_stats"):
    """A heartbeat with counters. running, waiting: sequences, now. pages: of the KV pool, now; cached ones are the
    prefix cache's. leases: prefixes held for programs. steps (batches that the model computed), bad_frames, retractions
    (sequences put back for want of pages), drafted, accepted: since the engine began. automata: compiled constraints
    held; automata_bytes: theirs, states and masks included. matrices: how many of the model's are held in which
    forms. device_tokens: drawn on a device within its steps, surplus_tokens of them for nothing, as the text had ended
    with the token before; host_tokens: drawn by the host beside them, by why. Empty and 0 where only the host draws.
    """

    running: int = 0
    waiting: int = 0
    pages_free: int = 0
    pages_cached: int = 0
    pages_total: int = 0
    leases: int = 0
    steps: int = 0
    bad_frames: int = 0
    retractions: int = 0
    drafted: int = 0  # tokens guessed
    accepted: int = 0  # tokens drawn as guessed
    automata: int = 0
    automata_bytes: int = 0
    matrices: dict[str, int] = {}
    device_tokens: int = 0
    surplus_tokens: int = 0
    host_tokens: dict[str, int] = {}
    profile: dict[str, float] = {}  # seconds per part, see runtime/profile.py; empty unless asked for


FromEngine: TypeAlias = EngineReady | TokenEvents | UnknownKey | EngineStats


# ---------------------------------------------------------------- client -> front


class Hello(_Message, frozen=True, tag="hello"):
    """First message of a client. tenant: who pays for what it asks, see `Request`."""

    protocol: int = PROTOCOL
    tenant: Annotated[str, Meta(pattern=TENANT)] = ""


class Open(_Message, frozen=True, tag="open"):
    """Starts a run; branch 0 exists from here on. run: chosen by the client, unique on its connection.
    sampling: the run's defaults. seed and item: see `derive_seed`. timeout: seconds after which it is ended. priority:
    see `Request`. max_total_tokens: output tokens of all ops, beyond which it fails."""

    run: int
    sampling: Sampling
    seed: int
    item: int = 0
    timeout: Seconds | None = None
    priority: int = 0
    max_total_tokens: int | None = None


class Append(_Message, frozen=True, tag="append"):
    """More ops of one branch; `first` is the position of ops[0]. Children of a Fork exist once it is appended."""

    run: int
    branch: int
    first: int
    ops: tuple[Op, ...]


class ChatMessage(_Message, frozen=True):
    """One message of a conversation."""

    role: str
    content: str


class Conversation(_Message, frozen=True, tag="conversation"):
    """A prompt in the model's own chat template, up to where the assistant answers. truncate: what becomes of one that
    leaves no room for max_tokens."""

    messages: tuple[ChatMessage, ...]
    truncate: Literal["error", "middle"] = "error"


Prompt: TypeAlias = str | tuple[int, ...] | Conversation
"""Raw text, in which special tokens are recognised; token ids, taken as they are; or messages."""


class Generate(_Message, frozen=True, tag="generate"):
    """A run of one gen after a prompt, in place of Open and Append. `gen.sampling` is used as it is, and is seeded.
    Answered by a Done or a Failed. timeout: seconds after which it is ended."""

    run: int
    prompt: Prompt
    gen: Gen
    timeout: Seconds | None = None


class Close(_Message, frozen=True, tag="close"):
    """Ends a run: whatever still runs is cancelled, whatever is held is released. Answered by `Closed`."""

    run: int


class Register(_Message, frozen=True, tag="register"):
    """Makes a program known under its content hash, once for a connection. program: its msgpack, read and checked by
    the front. Where it is none, `Refused` answers, else nothing does."""

    hash: str
    program: bytes


class Call(_Message, frozen=True, tag="call"):
    """A run of a registered program, in place of Open and Append; `Closed` when it is over. arguments: the text of
    each. chunks: whether text is told as it grows. For the rest see Open."""

    run: int
    hash: str
    arguments: dict[str, str]
    sampling: Sampling
    seed: int
    item: int = 0
    timeout: Seconds | None = None
    priority: int = 0
    max_total_tokens: int | None = None
    chunks: bool = True


class Warm(_Message, frozen=True, tag="warm"):
    """Computes the text that all calls of a registered program begin with, and holds it until the run is closed."""

    run: int
    hash: str


class AskBounds(_Message, frozen=True, tag="ask_bounds"):
    """Asks for the `Bounds` of a registered program."""

    hash: str


class AskStats(_Message, frozen=True, tag="ask_stats"):
    """Asks for `FrontStats`."""


class AskFlush(_Message, frozen=True, tag="ask_flush"):
    """Asks the runtime to forget every prefix and every compiled constraint that nothing holds."""


ToFront: TypeAlias = (
    Hello | Open | Append | Generate | Register | Call | Warm | Close | AskBounds | AskStats | AskFlush | Ping
)


# ---------------------------------------------------------------- front -> client


class Welcome(_Message, frozen=True, tag="welcome"):
    """Answers Hello."""

    protocol: int
    model: str
    context: int
    dtype: str


class RunEvents(_Message, frozen=True, tag="run_events"):
    """What happened to the ops of one run, in order."""

    run: int
    events: tuple[Event, ...]


class Closed(_Message, frozen=True, tag="closed"):
    """The last message about a run."""

    run: int
    usage: Usage


class Rejected(_Message, frozen=True, tag="rejected"):
    """A message could not be acted on at all."""

    error: ErrorData
    run: int | None = None


class Unknown(_Message, frozen=True, tag="unknown"):
    """The front does not know the program of that hash: the run was not begun; register it and call again."""

    run: int
    hash: str


class Refused(_Message, frozen=True, tag="refused"):
    """What was registered under that hash is no program that can be run."""

    hash: str
    error: ErrorData


class Bounds(_Message, frozen=True, tag="bounds"):
    """For gens whose constraint has a longest text: branch, position, and the tokens that it leaves possible."""

    hash: str
    gens: tuple[tuple[int, int, int], ...]


class FrontStats(_Message, frozen=True, tag="front_stats"):
    """Counters of the front and, as of its last heartbeat, of the engine. clients: connections. open_runs: programs
    under way; open_requests: what they, and HTTP, have in the engine. bad_frames: what was no message, and dropped.
    restarts: of the engine, since the front began."""

    clients: int
    open_runs: int
    open_requests: int
    bad_frames: int
    restarts: int
    engine: EngineStats


ToClient: TypeAlias = Welcome | RunEvents | Closed | Rejected | Unknown | Refused | Bounds | FrontStats | Ping

M = TypeVar("M")

_encoder = msgspec.msgpack.Encoder()


def encode(message: _Message) -> bytes:
    return _encoder.encode(message)


class Decoder:
    """Reads one direction of one link: `Decoder(ToEngine)`."""

    def __init__(self, kind: object) -> None:
        self._decoder: msgspec.msgpack.Decoder = msgspec.msgpack.Decoder(kind)

    def decode(self, frame: bytes | memoryview) -> object:
        """Raises BadFrame, never anything else."""
        if len(frame) > MAX_FRAME_BYTES:
            raise BadFrame(f"{len(frame)} bytes; at most {MAX_FRAME_BYTES} are read")
        try:
            return self._decoder.decode(frame)
        except (msgspec.DecodeError, RecursionError, ValueError) as error:  # ValueError: our own __post_init__
            raise BadFrame(str(error)) from None
