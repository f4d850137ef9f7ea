"""What was asked (frozen) and how it ends: Request, its segments, TokenEvent.

Both sides of the engine link speak these. A Sequence (how far a request got) lives in runtime/schedule and is
the scheduler's alone.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from latticework.lang.errors import ErrorData
from latticework.lang.events import Finish, Usage
from latticework.lang.ir import OnLength, Sampling, SelectMethod


class TextSegment(msgspec.Struct, frozen=True, tag="text", omit_defaults=True, forbid_unknown_fields=True):
    """Constant text. `tokens` is the whole of it, encoded alone.

    The first `head_tokens` tokens spell `head`, the plain text before the first special token (all of it, if
    there is none). When the segment before was stopped inside a token, the engine encodes the bytes left over
    together with `head` and keeps the other tokens as they are.
    """

    tokens: tuple[int, ...]
    head: bytes = b""
    head_tokens: int = 0


class GenSegment(msgspec.Struct, frozen=True, tag="gen", omit_defaults=True, forbid_unknown_fields=True):
    """Text the model writes. `sampling.seed` is set. `constraint` is the key of a rule graph that a `Define`
    has named before; `stop_rules` are those of `sampling.stop_regex`, in order. healable: so
    many bytes at the end of the text before it are plain text, of which the last tokens may be taken back and spelled
    again together with the output (runtime/constrain/healing.py)."""

    sampling: Sampling
    constraint: str | None = None
    on_length: OnLength = "close"
    stop_rules: tuple[str, ...] = ()
    healable: Annotated[int, Meta(ge=0)] = 0


class SelectSegment(msgspec.Struct, frozen=True, tag="select", omit_defaults=True, forbid_unknown_fields=True):
    """One of the options, each encoded alone, at least one token each. temperature and seed: see `decide`, as
    unconditional, one number for each option where the method needs them."""

    options: tuple[tuple[int, ...], ...]
    method: SelectMethod = "token_length_normalized"
    temperature: float = 0.0
    seed: int = 0
    unconditional: tuple[float, ...] = ()


Segment: TypeAlias = TextSegment | GenSegment | SelectSegment


class Request(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A chain of segments, run in one sequence without leaving the batch.

    id: chosen by the front, unique on its connection. parent_lease: continue from the tokens of that lease.
    hold_lease: at the end, keep the whole sequence under this lease id. group: requests with the same number
    are scheduled together (siblings of a fork). namespace: of an adapter, say. tenant: who pays;
    tenants share the engine fairly. Prefixes are shared only inside one namespace of one tenant. priority: higher goes
    first, however long others have waited. deadline: seconds from its arrival in the engine after which it is ended.
    A chain of text alone computes KV for it and is used to hold a prefix: its lease is there from the start, as what it
    says is known, so requests that continue from it may follow at once.
    """

    id: int
    chain: tuple[Segment, ...]
    parent_lease: int | None = None
    hold_lease: int | None = None
    group: int | None = None
    namespace: str = ""
    tenant: str = ""
    priority: int = 0
    deadline: float | None = None

    @property
    def is_text(self) -> bool:
        """Nothing is drawn."""
        return all(isinstance(segment, TextSegment) for segment in self.chain)

    @property
    def space(self) -> str:
        """The part of the prefix cache it may see: one for each pair of tenant and namespace."""
        if not self.tenant and not self.namespace:
            return ""
        return f"{len(self.tenant)}:{self.tenant}:{self.namespace}"


class TokenInfo(msgspec.Struct, frozen=True, array_like=True):
    """Log-probabilities of one token: the token's own, and the likeliest (id, logprob), best first."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


End: TypeAlias = Finish | Literal["cancelled", "error", "text"]
"""How a segment or request ended: `text` closes a request whose last segment is constant text."""


class TokenEvent(msgspec.Struct, omit_defaults=True):
    """The only thing that leaves the engine.

    tokens: new output tokens of the segment; data: their bytes as far as they can no longer be cut by a stop
    (data may lag behind tokens, and ends without the stop's bytes). logprobs: one per token where asked.
    prompt_tokens: of the constant text before a gen, in order, before any of its own; only where their
    log-probabilities are asked for, which are prompt_logprobs, one each.
    end: set on the segment's last event. final: set on exactly one event of each accepted request, its last;
    it may carry the last segment's end. chosen, scores, probabilities: the `Decision` of a SelectSegment.
    option_logprobs: of each of its options, those of its tokens.
    usage: of the request so far, on every event with an end.
    complete: whether the text satisfies the constraint. carry: bytes past the last whole token kept, which the
    lease remembers.
    """

    request: int
    segment: int
    tokens: tuple[int, ...] = ()
    data: bytes = b""
    logprobs: tuple[TokenInfo, ...] = ()
    end: End | None = None
    complete: bool = True
    stopped_by: str | int | None = None
    chosen: int | None = None
    scores: tuple[float, ...] = ()
    usage: Usage | None = None
    error: ErrorData | None = None
    final: bool = False
    prompt_tokens: tuple[int, ...] = ()
    prompt_logprobs: tuple[TokenInfo, ...] = ()
    probabilities: tuple[float, ...] = ()
    option_logprobs: tuple[tuple[float, ...], ...] = ()

    def after(self, earlier: TokenEvent) -> TokenEvent:
        """Both as one event: `earlier` is of the same segment, right before, and ends nothing."""
        return msgspec.structs.replace(
            self,
            tokens=earlier.tokens + self.tokens,
            data=earlier.data + self.data,
            logprobs=earlier.logprobs + self.logprobs,
        )
