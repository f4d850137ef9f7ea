"""What a run has to say to its backend: messages in order, from whatever thread has one.

    branch queue ── put ──▶ outbox ── send ──▶ session.append

One thread at a time sends, and holds no lock meanwhile, so that a backend may answer from inside its `append`. This
file knows no branches.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from latticework.lang.backends.base import Session
from latticework.lang.branch import Failure
from latticework.lang.errors import LatticeworkError, RuntimeFailure
from latticework.lang.ir import Op


class Outbox:
    """Owner of a run's session, once it is there: a backend may say something while it is being opened. lock: the
    run's; fail: told of a message that could not be sent."""

    session: Session

    def __init__(self, lock: threading.Condition, fail: Callable[[Failure], None]) -> None:
        self.is_closed = False
        self._lock = lock
        self._fail = fail
        self._messages: deque[tuple[int, int, tuple[Op, ...]]] = deque()
        self._sending = False

    def put(self, branch: int, first: int, ops: tuple[Op, ...]) -> None:
        """Ops of a branch from position `first` on. Called under the lock; they leave with the next `send`."""
        self._messages.append((branch, first, ops))

    def send(self) -> None:
        """Sends all there is, unless another thread is at it."""
        while True:
            with self._lock:
                if self._sending or not self._messages:
                    return
                self._sending = True
                branch, first, ops = self._messages.popleft()
            try:
                self.session.append(branch, first, ops)
            except LatticeworkError as error:
                self._fail(Failure(error.to_data()))
            except Exception as error:
                self._fail(Failure(RuntimeFailure(str(error)).to_data(), cause=error))
            finally:
                with self._lock:
                    self._sending = False

    def close(self) -> None:
        """Gives back what the backend holds; what was not sent never is. Idempotent."""
        with self._lock:
            if self.is_closed:
                return
            self.is_closed = True
            self._messages.clear()
        self.session.close()
