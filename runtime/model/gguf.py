"""The GGUF container: metadata, tensor headers, dequantisation to float32.

A reader of its own, because the gguf package takes seconds to open a file (it makes an array of every string).
That package still dequantises the formats for which this file has no code. Layout: the GGUF specification of
ggml. This file knows no model, no tokenizer and no torch.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from latticework.lang.errors import BrokenModel, UnsupportedModel

Value: TypeAlias = "int | float | bool | str | list[Value]"

MAGIC = b"GGUF"
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_ITEMS = 1 << 26
_MAX_NESTING = 4


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """shape: in torch's order, outermost first. data: the raw blocks, mapped from the file."""

    name: str
    shape: tuple[int, ...]
    format: int  # ggml's number of the quantisation
    data: NDArray[np.uint8]


class GgufFile:
    """A file's metadata and tensors; tensor bytes are read when they are used. metadata_digest: hash of the
    metadata, which is all that a tokenizer is made of.

    Raises BrokenModel naming the file and what was wrong, UnsupportedModel for formats that cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise BrokenModel(f"{path} cannot be read: {error}") from None
        if self._map[:4] != MAGIC:
            raise BrokenModel(f"{path} is not a GGUF file: it begins with {self._map[:4]!r}")
        self._at = 4
        try:
            self.metadata, self.tensors = self._read()
        except (struct.error, UnicodeDecodeError) as error:
            raise BrokenModel(f"{path} is damaged or truncated near byte {self._at}: {error}") from None

    def _read(self) -> tuple[dict[str, Value], dict[str, GgufTensor]]:
        (version,) = self._take("I")
        if version not in (2, 3):
            raise UnsupportedModel(f"{self.path} has GGUF version {version}; supported: 2 and 3, little-endian")
        tensor_count, pair_count = self._take("QQ")
        self._check_count(tensor_count + pair_count)
        metadata: dict[str, Value] = {}
        for _ in range(pair_count):
            key = self._text()
            metadata[key] = self._value(self._take("I")[0])
        self.metadata_digest = hashlib.blake2b(self._map[: self._at], digest_size=16).hexdigest()
        headers = [self._header() for _ in range(tensor_count)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise BrokenModel(f"{self.path}: general.alignment is {alignment!r}")
        start = math.ceil(self._at / alignment) * alignment
        return metadata, {header[0]: self._tensor(start, *header) for header in headers}

    def _take(self, layout: str) -> tuple[int, ...]:
        found = struct.unpack_from("<" + layout, self._map, self._at)
        self._at += struct.calcsize("<" + layout)
        return found

    def _check_count(self, count: int) -> None:
        """A damaged count must not become a huge loop or allocation."""
        if count > _MAX_ITEMS or count > len(self._map):
            raise BrokenModel(f"{self.path} is damaged: it announces {count} items near byte {self._at}")

    def _text(self) -> str:
        (length,) = self._take("Q")
        self._check_count(length)
        (data,) = struct.unpack_from(f"{length}s", self._map, self._at)
        self._at += length
        return data.decode()

    def _value(self, kind: int, depth: int = 0) -> Value:
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY and depth < _MAX_NESTING:
            inner, count = self._take("IQ")
            self._check_count(count)
            if inner in _SCALARS:
                return list(self._take(f"{count}{_SCALARS[inner]}"))
            return [self._value(inner, depth + 1) for _ in range(count)]
        if kind not in _SCALARS:
            raise BrokenModel(f"{self.path} is damaged: value type {kind} near byte {self._at}")
        return self._take(_SCALARS[kind])[0]

    def _header(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._text()
        (dimensions,) = self._take("I")
        self._check_count(dimensions)
        shape = self._take(f"{dimensions}Q")
        kind, offset = self._take("IQ")
        return name, shape[::-1], kind, offset

    def _tensor(self, start: int, name: str, shape: tuple[int, ...], kind: int, offset: int) -> GgufTensor:
        values, size = block_layout(kind, f"{self.path}: tensor {name}")
        if not shape or shape[-1] % values:
            raise BrokenModel(f"{self.path}: tensor {name} has shape {list(shape)}, not a multiple of {values}")
        length = math.prod(shape) // values * size
        if start + offset + length > len(self._map):
            raise BrokenModel(
                f"{self.path} is truncated: tensor {name} ends at byte {start + offset + length}, "
                f"the file at {len(self._map)}"
            )
        data = np.frombuffer(self._map, np.uint8, count=length, offset=start + offset)
        return GgufTensor(name, shape, kind, data)


# ---------------------------------------------------------------- dequantisation


def _float32(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    return blocks.view("<f4").astype(np.float32, copy=False)


def _float16(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    return blocks.view("<f2").astype(np.float32)


def _scale(blocks: NDArray[np.uint8], at: int) -> NDArray[np.float32]:
    """The half-precision number at byte `at` of every block, [blocks, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _nibbles(blocks: NDArray[np.uint8], at: int) -> NDArray[np.uint8]:
    """[blocks, 32]: the low halves of 16 bytes, then the high halves."""
    packed = blocks[:, at : at + 16]
    return np.concatenate((packed & 0x0F, packed >> 4), axis=1)


def _q4_0(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    return (_nibbles(blocks, 2).astype(np.float32) - 8.0) * _scale(blocks, 0)


def _q4_1(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    return _nibbles(blocks, 4) * _scale(blocks, 0) + _scale(blocks, 2)


def _q8_0(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    return blocks[:, 2:].view(np.int8) * _scale(blocks, 0)


def four_bit_groups(tensor: GgufTensor) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]] | None:
    """A Q4_0 or Q4_1 matrix as it is stored: codes [outputs, inputs], 0 to 15, and scales and zeros [outputs, inputs /
    32], so that a value is (code - 8) * scale + zero. None for other formats."""
    if tensor.format not in _FOUR_BITS or len(tensor.shape) != 2:
        return None
    at, has_minimum = _FOUR_BITS[tensor.format]
    outputs, inputs = tensor.shape
    blocks = tensor.data.reshape(-1, _FORMATS[tensor.format][1])
    codes = np.empty((len(blocks), 32), np.uint8)
    step = _CHUNK_VALUES // 32
    for start in range(0, len(blocks), step):
        codes[start : start + step] = _nibbles(blocks[start : start + step], at)
    scales = _scale(blocks, 0).reshape(outputs, inputs // 32)
    zeros = np.zeros_like(scales)
    if has_minimum:
        zeros = _scale(blocks, 2).reshape(outputs, inputs // 32) + 8 * scales
    return codes.reshape(outputs, inputs), scales, zeros


_Decode: TypeAlias = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

# ggml's number: (values in a block, bytes in a block, [blocks, bytes] -> [blocks, values])
_FORMATS: dict[int, tuple[int, int, _Decode]] = {
    0: (1, 4, _float32),
    1: (1, 2, _float16),
    2: (32, 18, _q4_0),
    3: (32, 20, _q4_1),
    8: (32, 34, _q8_0),
}
_FOUR_BITS = {2: (2, False), 3: (4, True)}  # Q4_0, Q4_1: where a block's codes begin, and whether it has a minimum
_CHUNK_VALUES = 1 << 16  # as many as stay in a core's cache: three times faster than whole matrices


def block_layout(kind: int, where: str) -> tuple[int, int]:
    """(values, bytes) of one block. Raises UnsupportedModel for a format that ggml does not name."""
    if kind in _FORMATS:
        return _FORMATS[kind][:2]
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        return GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError):
        raise UnsupportedModel(f"{where} has the unknown quantisation {kind}") from None


def dequantise(tensor: GgufTensor) -> NDArray[np.float32]:
    """The tensor's values, in its shape. Raises UnsupportedModel."""
    if tensor.format not in _FORMATS:
        return _dequantise_by_package(tensor)
    values, size, decode = _FORMATS[tensor.format]
    blocks = tensor.data.reshape(-1, size)
    found = np.empty((len(blocks), values), np.float32)
    step = _CHUNK_VALUES // values
    for start in range(0, len(blocks), step):
        found[start : start + step] = decode(blocks[start : start + step])
    return found.reshape(tensor.shape)


def _dequantise_by_package(tensor: GgufTensor) -> NDArray[np.float32]:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    kind = GGMLQuantizationType(tensor.format)
    values, size = block_layout(tensor.format, tensor.name)
    rows = tensor.data.reshape(*tensor.shape[:-1], tensor.shape[-1] // values * size)
    try:
        found: NDArray[np.float32] = dequantize(rows, kind)
    except NotImplementedError:
        raise UnsupportedModel(f"tensor {tensor.name} is quantised as {kind.name}, which cannot be read") from None
    return found.reshape(tensor.shape)
