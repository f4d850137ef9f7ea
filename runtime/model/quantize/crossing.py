"""From how many rows on the second form of a weight is faster: measured once for each shape, and kept on disk.

A ladder of rows is searched by halves; a rung costs a few calls of both forms, in turn, over many weights of the shape,
so that they are read from memory as in a step. What was found depends on processor, threads, torch and our own
operations, so those are the name of the table. A table that cannot be kept is not measured, either: where each start
chose anew, the same text would come out differently from start to start.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from latticework.lang.errors import ModelError
from latticework.runtime.environment import cpu
from latticework.runtime.model.files import write_atomically
from latticework.runtime.model.quantize.by_rows import FEW_ROWS, ByRows

log = logging.getLogger("latticework.model")

LADDER = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
_REPEATS = 5
_WEIGHTS = 32  # of one shape, at most: fewer would stay in the caches, where none stays in a step
_SECONDS = 1.0  # for one shape, about

Clock = Callable[[], float]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """limits: by shape and forms, the most rows for which the first form is taken."""

    machine: str
    limits: dict[str, int]


class Crossings:
    """The table of this machine. Owner of its file."""

    def __init__(self, folder: Path, computed: str = "torch", clock: Clock = time.perf_counter) -> None:
        """computed: by what, with its version."""
        self._machine = f"{machine()}, {computed}"
        self._path = folder / f"{hashlib.blake2b(self._machine.encode(), digest_size=8).hexdigest()}.json"
        self._clock = clock
        self._limits = self._read()

    def choose(self, weights: Sequence[ByRows], inputs: int, outputs: int, dtype: torch.dtype) -> None:
        """Sets the limit of weights of one shape, forms and type, measuring it if it is not known."""
        first = weights[0]
        name = f"{outputs}x{inputs} {dtype} {first.few.kind} {first.many.kind}"
        if name not in self._limits:
            found = crossing(weights[:_WEIGHTS], inputs, dtype, self._clock)
            self._limits[name] = found if self._write({**self._limits, name: found}) else FEW_ROWS
        for weight in weights:
            weight.limit = self._limits[name]

    def _read(self) -> dict[str, int]:
        try:
            table = msgspec.json.decode(self._path.read_bytes(), type=_Table)
        except OSError:
            return {}
        except msgspec.DecodeError as error:
            log.warning("%s is damaged and measured anew: %s", self._path, error)
            return {}
        fits = table.machine == self._machine and all(limit >= 0 for limit in table.limits.values())
        return dict(table.limits) if fits else {}

    def _write(self, limits: dict[str, int]) -> bool:
        try:
            write_atomically(self._path, json.dumps({"machine": self._machine, "limits": limits}, indent=1))
        except ModelError as error:
            log.warning("which form of a weight is faster is not measured: %s", error.message)
            return False
        return True


def machine() -> str:
    """What speeds depend on."""
    features = torch.backends.cpu.get_cpu_capability()
    return f"{cpu()}, {features}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def crossing(weights: Sequence[ByRows], inputs: int, dtype: torch.dtype, clock: Clock = time.perf_counter) -> int:
    """The most rows of the ladder up to which the first form is not the slower one; 0 if it always is."""
    won, lost = 0, len(LADDER)  # rungs below `won` are the first form's, from `lost` on the second one's
    began = clock()
    while won < lost and clock() - began < _SECONDS:
        rung = (won + lost) // 2
        few, many = _fastest(weights, torch.ones(LADDER[rung], inputs, dtype=dtype), clock)
        won, lost = (won, rung) if many < few else (rung + 1, lost)
    return LADDER[won - 1] if won else 0


@torch.inference_mode()
def _fastest(weights: Sequence[ByRows], x: Tensor, clock: Clock) -> tuple[float, float]:
    """Seconds for all weights in the first form, and in the second: the best of a few rounds."""
    few: list[float] = []
    many: list[float] = []
    for _ in range(_REPEATS):
        start = clock()
        for weight in weights:
            weight.few(x)
        middle = clock()
        for weight in weights:
            weight.many(x)
        few.append(middle - start)
        many.append(clock() - middle)
    return min(few), min(many)  # whatever else runs on the machine only adds
