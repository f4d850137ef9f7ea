"""The contract between a compiled constraint and whoever samples under it.

Two types: an `Automaton` is compiled once per (constraint, vocabulary) and shared; a `Matcher` is the cheap state
of one sequence. How a constraint becomes one is in the other files of this folder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

Pause = Callable[[], None]
"""Called in the inner loops of long computations, which may stop there for a while, or end with an exception."""

Row = NDArray[np.int32]
"""A mask, int32[W] with W = ceil(V / 32): token t is allowed where bit t % 32 of word t // 32 is set."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What compiling may cost. Exceeding one raises ConstraintError naming it. seconds: of the processor. memory_mb:
    MiB of address space of a compiling child; who compiles in its own process bounds its memory itself."""

    pattern_bytes: int = 1 << 20
    schema_bytes: int = 4 << 20
    depth: int = 200
    alternatives: int = 20_000
    properties: int = 10_000  # of one object
    states: int = 200_000
    seconds: float = 10.0
    memory_mb: int = 1024


def never_pause() -> None:
    """The `Pause` of whoever has time."""


class Matcher(Protocol):
    """Where one sequence stands in its constraint. Not shared, not thread-safe."""

    def fill_mask(self, row: Row, remaining: int | None = None) -> None:
        """Overwrites `row` with the tokens allowed next.

        Without a budget a bit is set exactly when some completion exists after that token. With `remaining`
        tokens left (this one included, the end token not counted) a set bit means that a completion still fits,
        and if remaining >= shortest() the row is not empty. End tokens are set exactly when is_complete().
        Special tokens never match text.
        """
        ...

    def prepare(self, deadline: float) -> bool:
        """Computes the current state's row if it can by `deadline` (time.monotonic()); True when it is ready."""
        ...

    def accept(self, token: int) -> bool:
        """Moves over `token`; False and no change if it is not allowed. An end token is accepted when
        is_complete()."""
        ...

    def rollback(self, count: int) -> None:
        """Takes back the last `count` accepted tokens."""
        ...

    def forced(self, most: int | None = None) -> bytes:
        """The longest byte string that every completion from here begins with; no more than its first `most` bytes,
        where given."""
        ...

    def is_complete(self) -> bool:
        """The text so far satisfies the constraint."""
        ...

    def is_finished(self) -> bool:
        """is_complete(), and nothing can follow."""
        ...

    def shortest(self) -> int:
        """An upper bound on the tokens the shortest completion needs, end token not counted; 0 when complete."""
        ...

    def copy(self) -> Matcher:
        """An independent matcher in the same place."""
        ...


class Search(Protocol):
    """Where one sequence stands in looking for a text of the language anywhere in its output."""

    def feed(self, byte: int) -> int | None:
        """Moves over one byte of output. How many bytes the longest match that ends with it has; None: none does.
        Raises ConstraintError where too many matches are under way at once."""
        ...

    @property
    def held(self) -> int:
        """How many trailing bytes may be the beginning of a match."""
        ...

    def copy(self) -> Search:
        """An independent search in the same place."""
        ...


class Automaton(Protocol):
    """A compiled constraint over one vocabulary: lazily built states and the cache of their rows."""

    def matcher(self) -> Matcher: ...

    def healing_matcher(self, prefix: bytes) -> Matcher:
        """One that spells `prefix` first, which is no part of the text: see healing.py."""
        ...

    def search(self) -> Search:
        """Raises ConstraintError for a language that has the empty text."""
        ...

    @property
    def cached_bytes(self) -> int:
        """Memory held by cached rows and states."""
        ...

    def forget(self) -> bool:
        """Drops cached rows and states; matchers go on, and make what they need again. False, and nothing is dropped,
        where that cannot be just now."""
        ...
