"""Packed weights of a model from disk, or onto it; and which of two forms serves how many rows.

What is kept are the forms of a quantised model. Others are read as fast from their own files, a GGUF's too, as from
copies of twice the size.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from latticework.lang.errors import BrokenModel
from latticework.runtime import config
from latticework.runtime.model.decoder import Decoder
from latticework.runtime.model.dummy import DUMMY
from latticework.runtime.model.quantize.base import Form, Kind, Parts
from latticework.runtime.model.quantize.by_rows import ByRows
from latticework.runtime.model.quantize.crossing import Crossings
from latticework.runtime.model.quantize.packing import Keep, Packing, by_rows
from latticework.runtime.model.quantize.store import Keeper, Kept, key_of
from latticework.runtime.model.spec import ModelCard
from latticework.runtime.model.weights import Progress

log = logging.getLogger("latticework.model")

KINDS: tuple[Kind, ...] = ("int4", "int8", "plain")  # in the order in which they serve rows, few ones first
_REST = "rest"


class WeightCache:
    """The packed weights of one model as one Packing makes them."""

    def __init__(self, card: ModelCard, packing: Packing, limit: int) -> None:
        """limit: bytes on disk for all models, 0 for none."""
        self._limit = limit if _is_worth_it(card, packing) else 0
        self._packing = packing
        self._root = config.cache_folder() / "weights"
        self._key = "" if self._limit == 0 else key_of(*_facts(card, packing))

    def restore(self, model: Decoder, progress: Progress | None = None) -> bool:
        """Fills the model, if its weights are there and whole."""
        if self._limit == 0:
            return False
        kept = Kept.find(self._root, self._key)
        if kept is None:
            return False
        try:
            kept.check(torch.get_num_threads())
            _fill(model, kept, self._packing, progress)
        except BrokenModel as error:
            log.warning("%s; the weights are packed anew", error.message)
            return False
        return True

    @contextmanager
    def keeping(self, model: Decoder) -> Iterator[Keep | None]:
        """What to tell while a model is packed, so that the next start finds it."""
        if self._limit == 0:
            yield None
            return
        keeper = Keeper(self._root, self._key, self._limit)

        def keep(name: str, kind: Kind, parts: Parts) -> None:
            keeper.add(f"{name}.{kind}", parts)

        try:
            yield keep
            keeper.add(_REST, _rest(model))
        except BaseException:
            keeper.discard()
            raise
        keeper.finish()


def choose_forms(model: Decoder, packing: Packing) -> None:
    """Sets up to how many rows the first of two forms is taken, from the table of this machine."""
    shapes: dict[tuple[int, int, str, str], list[ByRows]] = defaultdict(list)
    for _, linear in model.linears():
        packed = linear.packed
        if isinstance(packed, ByRows):
            shapes[linear.inputs, linear.outputs, packed.few.kind, packed.many.kind].append(packed)
    if not shapes:
        return
    computed = "torch" if packing.library is None else packing.library.path.stem
    crossings = Crossings(config.cache_folder() / "crossings", computed)
    for (inputs, outputs, *_), weights in shapes.items():
        crossings.choose(weights, inputs, outputs, model.embed.dtype)


def _is_worth_it(card: ModelCard, packing: Packing) -> bool:
    return packing.quantization != "none" and card.weights not in ("tiny", DUMMY)


def _facts(card: ModelCard, packing: Packing) -> Iterator[object]:
    """Everything that packed bytes depend on: the files, how they are read, and the layouts of this processor."""
    path = Path(card.weights)
    for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
        status = file.stat()
        yield from (file, status.st_size, status.st_mtime_ns, status.st_ino)
    yield from (card.spec, packing.quantization, packing.dtype, packing.is_native)
    yield from (torch.__version__, torch.backends.cpu.get_cpu_capability())


def _rest(model: Decoder) -> dict[str, Tensor]:
    """What is left when matrices are packed. A tied head has no tensor of its own."""
    return {name: parameter.data for name, parameter in model.named_parameters()}


def _fill(model: Decoder, kept: Kept, packing: Packing, progress: Progress | None) -> None:
    """Changes the model only when everything is there."""
    linears = list(model.linears())
    matrices = {f"{name}.weight" for name, _ in linears}
    rest = kept.read(_REST)
    loose = {name: parameter for name, parameter in model.named_parameters() if name not in matrices}
    for name, parameter in loose.items():
        found = rest.get(name)
        if found is None or found.shape != parameter.shape or found.dtype != parameter.dtype:
            raise BrokenModel(f"{kept.folder} has no {name} that fits")
    packed: list[Form | ByRows] = []
    for name, _ in linears:
        kinds = [kind for kind in KINDS if f"{name}.{kind}" in kept]
        if not kinds:
            raise BrokenModel(f"{kept.folder} has no {name}")
        bias = rest.get(f"{name}.bias")
        packed.append(by_rows([packing.form(kind, kept.read(f"{name}.{kind}"), bias) for kind in kinds]))
        if progress:
            progress(len(packed), len(linears))
    for name, parameter in loose.items():
        parameter.data = rest[name]
    for (_, linear), forms in zip(linears, packed, strict=True):
        linear.pack(forms)
