"""The backend of runs that name none: the one set, else the embedded runtime. And what SGLang's programs ask of it."""

from __future__ import annotations

import threading
from typing import Any

from latticework.lang.backends.base import Backend
from latticework.lang.errors import InvalidArgument, Unsupported

_lock = threading.Lock()
_chosen: list[Backend] = []  # at most one


def set_default_backend(backend: Backend | None) -> None:
    """Runs that name no backend use this one; None goes back to the embedded runtime. The one before is not shut down.
    Raises InvalidArgument for what is no backend."""
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


def flush_cache(backend: Backend | None = None) -> None:
    """Forgets every cached prefix that nothing holds. Raises Unsupported where the backend has no such cache."""
    _method("flush_cache", backend)()


def get_server_info(backend: Backend | None = None) -> dict[str, Any]:
    """What the backend tells of its model, its sizes and its counters. Raises Unsupported where it tells nothing."""
    found: dict[str, Any] = _method("get_server_info", backend)()
    return found


def _method(name: str, backend: Backend | None) -> Any:
    backend = backend or default_backend()
    method = getattr(backend, name, None)
    if method is None:
        raise Unsupported(f"{backend.name} has no {name}", field="backend")
    return method


class GlobalConfig:
    """What programs written for SGLang set in `global_config`.

    default_backend: as `set_default_backend` has it. The others are kept as they are set and change nothing: prefixes
    are shared, and text is encoded, by what a program says and not by how it is run.
    """

    __slots__ = (
        "enable_parallel_encoding",
        "enable_precache_with_tracing",
        "skip_special_tokens_in_output",
        "spaces_between_special_tokens_in_out",
        "verbosity",
    )

    def __init__(self) -> None:
        self.verbosity = 0
        self.enable_precache_with_tracing = True
        self.enable_parallel_encoding = True
        self.skip_special_tokens_in_output = True
        self.spaces_between_special_tokens_in_out = True

    @property
    def default_backend(self) -> Backend | None:
        """The one set, None where the embedded runtime is; may be set."""
        return chosen_backend()

    @default_backend.setter
    def default_backend(self, backend: Backend | None) -> None:
        set_default_backend(backend)


global_config = GlobalConfig()
"""The only one there is."""
