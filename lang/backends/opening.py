"""Opening a run on whatever backend there is, under all of its terms.

A backend that keeps to them itself (`Opening`) is told them. For others the limit on tokens is kept here, by what is
answered, and a priority is refused. This file knows no ops.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from latticework.lang.backends.base import Backend, Listener, Session
from latticework.lang.backends.calls import Terms
from latticework.lang.errors import LimitExceeded, Unsupported
from latticework.lang.events import Done, Event, Failed
from latticework.lang.ir import Op


@runtime_checkable
class Opening(Protocol):
    """A backend that knows priorities, and counts tokens as they are drawn."""

    name: str

    def open_run(self, terms: Terms, listener: Listener) -> Session:
        """`Backend.open` with all of a run's terms."""
        ...

    def shutdown(self) -> None: ...


def open_run(backend: Backend | Opening, terms: Terms, listener: Listener) -> Session:
    """Starts a run. Raises ConnectionLost or Busy, and Unsupported for a priority that the backend does not know."""
    if isinstance(backend, Opening):
        return backend.open_run(terms, listener)
    if terms.priority:
        raise Unsupported(f"{backend.name} knows no priorities", field="priority", hint="leave priority out")
    if terms.max_total_tokens is not None:
        return _Limited(backend, terms, listener)
    return backend.open(terms.sampling, terms.seed, terms.item, listener, terms.timeout)


class _Limited:
    """A Session that ends when its ops have drawn too much, all together; nothing is heard of it then."""

    def __init__(self, backend: Backend, terms: Terms, listener: Listener) -> None:
        self._left = terms.max_total_tokens or 0
        self._listener = listener
        self._lock = threading.Lock()
        self._session = backend.open(terms.sampling, terms.seed, terms.item, self._hear, terms.timeout)

    def append(self, branch: int, first: int, ops: Sequence[Op]) -> None:
        self._session.append(branch, first, ops)

    def close(self) -> None:
        self._session.close()

    def _hear(self, event: Event) -> None:
        with self._lock:
            was_over = self._left < 0
            if isinstance(event, Done):
                self._left -= event.usage.output
            is_over = self._left < 0
        if not is_over:
            self._listener(event)
        elif not was_over:
            error = LimitExceeded(
                "the run has drawn more tokens than max_total_tokens", field="max_total_tokens", hint="give it more"
            )
            self._listener(Failed(0, -1, error.to_data()))
            self._session.close()
