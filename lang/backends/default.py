"""The backend of runs that name none: the one set, else the embedded runtime."""

from __future__ import annotations

import threading

from latticework.lang.backends.base import Backend
from latticework.lang.errors import InvalidArgument

_lock = threading.Lock()
_chosen: list[Backend] = []  # at most one


def set_default_backend(backend: Backend | None) -> None:
    """Runs that name no backend use this one; None goes back to the embedded runtime."""
    if backend is not None and not (hasattr(backend, "open") and hasattr(backend, "shutdown")):
        raise InvalidArgument(
            f"a {type(backend).__name__} is not a backend", field="backend", hint="lw.Runtime(...), lw.connect(...)"
        )
    with _lock:
        _chosen[:] = [] if backend is None else [backend]


def default_backend() -> Backend:
    """The one set, else the embedded runtime, started by the first call."""
    with _lock:
        if _chosen:
            return _chosen[0]
    from latticework.lang.backends.runtime import embedded_default

    return embedded_default()


def chosen_backend() -> Backend | None:
    """The one set."""
    with _lock:
        return _chosen[0] if _chosen else None
