"""Which forms each weight of a model gets.

    quantization   a file's own 4 bits    other weights           the head, unless in 4 bits itself
    none           plain                  plain                   plain
    int8           int8                   int8                    int8
    int4           int4 | plain           int4 | plain, rounded   int8 | plain
    auto           int4 | plain           int8 | plain            int8 | plain

`a | b`: a for few rows, b for more. Both hold the very same values, so what they compute differs by the rounding of the
model's type and no more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from latticework.kernels.cpu.library import Library
from latticework.lang.errors import InvalidArgument
from latticework.runtime.model.quantize.arena import Arena
from latticework.runtime.model.quantize.base import Form, Kind, Parts, Quantization
from latticework.runtime.model.quantize.by_rows import ByRows
from latticework.runtime.model.quantize.four_bit import GROUP, FourBit
from latticework.runtime.model.quantize.int4 import Int4, int4_parts
from latticework.runtime.model.quantize.int8 import Int8, int8_parts
from latticework.runtime.model.quantize.native import NativeInt4, NativeInt8, NativePlain, native_int4_parts
from latticework.runtime.model.quantize.plain import Plain, plain_parts

log = logging.getLogger("latticework.model")

Keep = Callable[[str, Kind, Parts], None]
"""Told the name of a weight, and what one of its forms is made of."""

_FORMS: dict[Kind, Callable[[Parts, Tensor | None], Form]] = {"plain": Plain, "int8": Int8, "int4": Int4}
_NATIVE: dict[Kind, Callable[[Library, Arena, Parts, Tensor | None], Form]] = {"int8": NativeInt8, "int4": NativeInt4}


class Packing:
    """Makes the forms of one model's weights.

    library: computes what it can; None: torch computes everything.
    """

    def __init__(self, quantization: Quantization, dtype: torch.dtype, library: Library | None = None) -> None:
        """Raises InvalidArgument for a type that is not computed with quantised weights."""
        if quantization != "none":
            _check_quantization(quantization, dtype)
        self.quantization = quantization
        self.dtype = dtype
        self.library = library
        self._arena = Arena()

    @property
    def source_dtype(self) -> torch.dtype:
        """In which weights are collected: they are rounded once."""
        return self.dtype if self.quantization == "none" else torch.float32

    @property
    def wants_four_bits(self) -> bool:
        return self.quantization in ("int4", "auto")

    @property
    def is_native(self) -> bool:
        """Whether the library computes with codes, and 4-bit ones are kept as it reads them."""
        return self.library is not None and self.library.multiplies_bytes

    def pack(
        self, name: str, source: Tensor | FourBit, bias: Tensor | None, is_head: bool, keep: Keep | None = None
    ) -> Form | ByRows:
        """source: [outputs, inputs]. keep: told what every form is made of."""
        kinds = self._kinds(name, source, is_head)
        forms = []
        for kind, parts in self._parts(kinds, source):
            if keep is not None:
                keep(name, kind, parts)
            forms.append(self.form(kind, parts, bias))
        return by_rows(forms)

    def form(self, kind: Kind, parts: Parts, bias: Tensor | None) -> Form:
        """One form, out of what it is made of."""
        library = self.library
        if library is not None and library.uses_tiles and kind == "plain" and self.dtype == torch.bfloat16:
            return NativePlain(library, self._arena, parts, bias)
        if library is not None and library.multiplies_bytes and kind != "plain":
            return _NATIVE[kind](library, self._arena, parts, bias)
        return _FORMS[kind](parts, bias)

    def _kinds(self, name: str, source: Tensor | FourBit, is_head: bool) -> tuple[Kind, ...]:
        if self.quantization == "none":
            return ("plain",)
        if self.quantization == "int8":
            return ("int8",)
        is_stored = isinstance(source, FourBit)
        if not (is_stored if is_head or self.quantization == "auto" else True):
            return ("int8", "plain")
        if source.shape[1] % GROUP:
            log.warning("%s has rows of %d: 4 bits take multiples of %d, so it gets 8", name, source.shape[1], GROUP)
            return ("int8", "plain")
        return ("int4", "plain")

    def _parts(self, kinds: tuple[Kind, ...], source: Tensor | FourBit) -> Iterator[tuple[Kind, Parts]]:
        """Every form of what the first one holds."""
        if kinds[0] == "int4":
            four = (source if isinstance(source, FourBit) else FourBit.rounded(source)).in_bfloat16()
            yield "int4", native_int4_parts(four) if self.is_native else int4_parts(four)
            dense = four.dense()
        else:
            dense = source.dense() if isinstance(source, FourBit) else source
        if kinds[0] == "int8":
            parts = int8_parts(dense)
            yield "int8", parts
            dense = parts["codes"] * parts["scales"].unsqueeze(1)
        if kinds[-1] == "plain":
            yield "plain", plain_parts(dense, self.dtype)


def by_rows(forms: Sequence[Form]) -> Form | ByRows:
    """One form as it is; of two, the first serves few rows."""
    few, *many = forms
    return ByRows(few, many[0]) if many else few


def _check_quantization(quantization: str, dtype: torch.dtype) -> None:
    if dtype == torch.float64:
        raise InvalidArgument(
            f"quantization is {quantization!r} with dtype float64; quantised weights compute in float32 at most",
            field="quantization",
            hint="leave out dtype, or take quantization='none'",
        )
    if not torch.backends.mkldnn.is_available():
        raise InvalidArgument(
            f"quantization is {quantization!r}, for which this build of torch lacks oneDNN",
            field="quantization",
            hint="quantization='none' needs nothing",
        )
