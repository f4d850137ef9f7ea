"""What a backend that runs whole programs is given, beside what every backend can do.

    call      one run: a program by its hash, and arguments
    warm      the work that all calls of a program have in common, kept as long as somebody wants it

A backend without `call` still runs compiled programs, op by op: see `stepwise.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import msgspec

from latticework.lang.backends.base import Backend, Listener, Session
from latticework.lang.ir import Program, Sampling


class Encoded(msgspec.Struct, frozen=True):
    """A program with its message and its content hash, made once."""

    program: Program
    data: bytes
    hash: str

    @classmethod
    def of(cls, program: Program) -> Encoded:
        return cls(program, program.to_msgpack(), program.hash)


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """How one call is to be run. sampling: defaults for ops that do not say otherwise. seed, item: see `derive_seed`.
    timeout: seconds for the whole run. priority: higher goes first. max_total_tokens: output tokens of all ops
    together, beyond which the run fails with LimitExceeded. chunks: somebody may read texts as they grow; without, a
    backend need tell none but whole ones."""

    sampling: Sampling
    seed: int
    item: int = 0
    timeout: float | None = None
    priority: int = 0
    max_total_tokens: int | None = None
    chunks: bool = True


@runtime_checkable
class Calling(Backend, Protocol):
    """A backend that executes programs itself."""

    def call(self, program: Encoded, arguments: Mapping[str, str], terms: Terms, listener: Listener) -> Session:
        """Starts a run of the whole program. Every Role and Ref gets a Rendered, every Gen and Select a Done or a
        Failed, as with `Session.append`, which this session does not take. Raises ConnectionLost or Busy."""
        ...

    def warm(self, program: Encoded) -> Session:
        """Computes the text that all calls begin with and keeps it until the session is closed. Returns at once; what
        goes wrong with it goes wrong in the calls too, and is told there."""
        ...


@runtime_checkable
class Bounding(Protocol):
    """A backend that compiles constraints."""

    name: str

    def bounds(self, program: Encoded) -> dict[tuple[int, int], int]:
        """For each gen (branch, position) whose constraint has a longest text, the tokens it can have at most."""
        ...
