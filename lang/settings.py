"""How a run goes, apart from what the program says: backend, default sampling, seed, deadline.

`f.run(text="…", temperature=0, seed=1)` mixes the program's arguments with these settings. Where a program has a
parameter of a setting's name, the parameter gets the value: `sampling=` always reaches the run, unless the
program has a parameter of that name too.
"""

from __future__ import annotations

import secrets
from collections.abc import Container, Mapping
from typing import Any

import msgspec

from latticework.lang.backends.base import Backend
from latticework.lang.errors import InvalidArgument
from latticework.lang.ir import Sampling

SAMPLING_NAMES = frozenset(Sampling.__struct_fields__) - {"seed"}
OTHER_NAMES = frozenset({"backend", "sampling", "seed", "stream", "timeout", "wait"})


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """sampling: defaults for ops that do not say otherwise. seed: of the run; each op derives its own from it.
    timeout: seconds the run may take before DeadlineExceeded. wait: return only when the run is over.
    stream: run in a thread and return at once. backend None: the default one."""

    sampling: Sampling = Sampling()
    seed: int
    backend: Backend | None = None
    timeout: float | None = None
    wait: bool = True
    stream: bool = False


def split_settings(given: Mapping[str, Any], parameters: Container[str]) -> tuple[Settings, dict[str, Any]]:
    """The settings in `given`, and the rest: the program's arguments. `parameters` are the program's own names."""
    settings = {name: value for name, value in given.items() if _is_setting(name) and name not in parameters}
    arguments = {name: value for name, value in given.items() if name not in settings}
    return _settings(settings), arguments


def _is_setting(name: str) -> bool:
    return name in SAMPLING_NAMES or name in OTHER_NAMES


def _settings(given: dict[str, Any]) -> Settings:
    sampling = given.pop("sampling", None) or Sampling()
    if not isinstance(sampling, Sampling):
        raise InvalidArgument(f"sampling is a {type(sampling).__name__}; expected lw.Sampling", field="sampling")
    own = {name: given.pop(name) for name in list(given) if name in SAMPLING_NAMES}
    seed = given.pop("seed", None)
    if seed is None:
        seed = sampling.seed  # as a run's default it is the run's seed, or every op would draw the same numbers
    sampling = msgspec.structs.replace(
        sampling, seed=None, **{name: value for name, value in own.items() if value is not None}
    )
    timeout = given.get("timeout")
    if timeout is not None and not (isinstance(timeout, int | float) and timeout >= 0):
        raise InvalidArgument(f"timeout is {timeout!r}; expected seconds", field="timeout")
    if seed is None:
        seed = secrets.randbits(63)
    return Settings(sampling=sampling, seed=msgspec.structs.replace(sampling, seed=seed).seed or 0, **given)
