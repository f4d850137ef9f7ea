"""How a run goes, apart from what the program says: backend, default sampling, seed, deadline.

`f.run(text="…", temperature=0, seed=1)` mixes the program's arguments with these settings. Where a program has a
parameter of a setting's name, the parameter gets the value: `sampling=` always reaches the run, unless the
program has a parameter of that name too.
"""

from __future__ import annotations

import secrets
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import msgspec

from latticework.lang.backends.base import Backend
from latticework.lang.backends.calls import Terms
from latticework.lang.errors import InvalidArgument
from latticework.lang.ir import Sampling
from latticework.lang.record import checked_record

SAMPLING_NAMES = frozenset(Sampling.__struct_fields__) - {"seed"}
SGLANG_NAMES = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens"}
LOGPROB_NAMES = (
    "return_logprob", "logprob_start_len", "top_logprobs_num", "return_text_in_logprobs", "top_logprobs"
)  # fmt: skip
MAX_PRIORITY = 1000
MAX_TOTAL_TOKENS = 1 << 40
OTHER_NAMES = frozenset(
    {
        "backend", "max_total_tokens", "priority", "record", "sampling", "seed", "stream", "timeout", "use_thread",
        "wait", *SGLANG_NAMES, *LOGPROB_NAMES,
    }
)  # fmt: skip


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """sampling: defaults for ops that do not say otherwise. seed: of the run; each op derives its own from it.
    timeout: seconds the run may take before DeadlineExceeded. wait: return only when the run is over.
    stream: run in a thread and return at once. backend None: the default one. record: a file that gets a line of
    each run, see lang/record.py. priority, max_total_tokens, chunks: see `Terms`; the last is nobody's to choose."""

    sampling: Sampling = Sampling()
    seed: int
    backend: Backend | None = None
    timeout: float | None = None
    wait: bool = True
    stream: bool = False
    record: Path | None = None
    priority: int = 0
    max_total_tokens: int | None = None
    chunks: bool = True

    def terms(self, item: int) -> Terms:
        """Of the run at that place in its batch."""
        return Terms(
            sampling=self.sampling,
            seed=self.seed,
            item=item,
            timeout=self.timeout,
            priority=self.priority,
            max_total_tokens=self.max_total_tokens,
            chunks=self.chunks,
        )


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
    own.update(_by_sglangs_names(given, own))
    seed = given.pop("seed", None)
    if seed is None:
        seed = sampling.seed  # as a run's default it is the run's seed, or every op would draw the same numbers
    sampling = msgspec.structs.replace(
        sampling, seed=None, **{name: value for name, value in own.items() if value is not None}
    )
    given.pop("use_thread", None)  # nothing here costs a thread that it could save
    timeout = given.get("timeout")
    if timeout is not None and not (isinstance(timeout, int | float) and timeout >= 0):
        raise InvalidArgument(f"timeout is {timeout!r}; expected seconds", field="timeout")
    if given.get("priority") is None:
        given.pop("priority", None)
    _check_integer(given, "priority", -MAX_PRIORITY, MAX_PRIORITY)
    _check_integer(given, "max_total_tokens", 1, MAX_TOTAL_TOKENS)
    if given.get("record") is not None:
        given["record"] = checked_record(given["record"])
    if seed is None:
        seed = secrets.randbits(63)
    return Settings(sampling=sampling, seed=msgspec.structs.replace(sampling, seed=seed).seed or 0, **given)


def _check_integer(given: Mapping[str, Any], name: str, low: int, high: int) -> None:
    value = given.get(name)
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidArgument(f"{name} is {value!r}; expected an integer from {low} to {high}", field=name)


def _by_sglangs_names(given: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Takes SGLang's names of sampling fields out of `given`. Raises InvalidArgument where ours are given too."""
    found = {field: given.pop(name) for name, field in SGLANG_NAMES.items() if given.get(name) is not None}
    for name in SGLANG_NAMES:
        given.pop(name, None)
    asked = {name: given.pop(name, None) for name in LOGPROB_NAMES}
    top = asked.pop("top_logprobs")
    if any(value is not None for value in (*asked.values(), top)):
        logprobs = asked_logprobs(**asked, top_logprobs=top)
        found.update({name: value for name, value in logprobs.items() if value is not None})
    for field in found:
        if own.get(field) is not None:
            raise InvalidArgument(f"{field} is given twice, by two names", field=field)
    return found


def asked_logprobs(
    return_logprob: bool | None,
    logprob_start_len: int | None,
    top_logprobs_num: int | None,
    return_text_in_logprobs: bool | None,
    top_logprobs: int | None = None,
    prompt_logprobs: int | None = None,
) -> dict[str, int | None]:
    """Sampling's logprobs and prompt_logprobs, from the ways to ask for them. return_text_in_logprobs: their text is
    always there. Raises InvalidArgument."""
    if top_logprobs is not None and top_logprobs_num is not None:
        raise InvalidArgument("top_logprobs and top_logprobs_num are one thing; expected one", field="top_logprobs")
    top = top_logprobs if top_logprobs is not None else top_logprobs_num or None
    for name, value in (("return_logprob", return_logprob), ("return_text_in_logprobs", return_text_in_logprobs)):
        if value is not None and not isinstance(value, bool):
            raise InvalidArgument(f"{name} is {value!r}; expected true or false", field=name)
    start = None
    if logprob_start_len is not None:
        if not isinstance(logprob_start_len, int) or isinstance(logprob_start_len, bool) or logprob_start_len < -1:
            raise InvalidArgument(
                f"logprob_start_len is {logprob_start_len!r}; expected the first token that is told of, or -1",
                field="logprob_start_len",
            )
        start = logprob_start_len if logprob_start_len > 0 else None
        if logprob_start_len >= 0 and prompt_logprobs is None:
            prompt_logprobs = top or 0
    return {
        "logprobs": top if top is not None else 0 if return_logprob else None,
        "prompt_logprobs": prompt_logprobs,
        "prompt_logprobs_start": start,
    }
