"""The decode kernel against its plain-torch twin, on shapes that no block divides."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from latticework.kernels.paged_decode import paged_decode, paged_decode_reference

# Half a unit in the last place of a value near 1, doubled: the interpreter truncates to bfloat16, a GPU rounds.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
SHAPES = {  # heads, kv_heads, head_dim, page_size, lengths
    "one token": (2, 2, 16, 16, [1]),
    "group of three, odd head dim": (3, 1, 20, 3, [7, 40]),
    "page of one token": (4, 2, 8, 1, [5, 1, 33]),
    "page of 64, several blocks": (9, 3, 64, 64, [65, 130]),
    "many splits, one empty sequence": (4, 1, 16, 16, [700, 0, 256, 257]),
    "more splits than a merge block": (2, 1, 8, 64, [2500]),
    "wide head": (2, 1, 256, 5, [19]),
}


def make(
    heads: int, kv_heads: int, head_dim: int, page_size: int, lengths: list[int], dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Arguments of the kernel over shuffled pages; pages that no sequence holds are NaN."""
    torch.manual_seed(len(lengths) + heads)
    wide = -(-max(lengths) // page_size)
    pages = len(lengths) * wide + 1
    table = torch.randperm(pages)[:-1].view(len(lengths), wide).int()
    q = torch.randn(len(lengths), heads, head_dim).to(dtype)
    keys = torch.randn(pages, page_size, kv_heads, head_dim).to(dtype)
    values = torch.randn(pages, page_size, kv_heads, head_dim).to(dtype)
    for b, length in enumerate(lengths):
        unused = table[b, -(-length // page_size) :].long()
        keys[unused] = values[unused] = torch.nan
    return q, keys, values, table, torch.tensor(lengths, dtype=torch.int32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_kernel_equals_its_twin(shape: str, dtype: torch.dtype) -> None:
    arguments = make(*SHAPES[shape], dtype)
    out = paged_decode(*arguments)
    exact = paged_decode_reference(*(a.double() if a.is_floating_point() else a for a in arguments))
    assert out.dtype == dtype
    error = (out.double() - exact).abs() / exact.abs().clamp(min=1)
    assert error.max() <= TOLERANCE[dtype]


def test_a_sequence_gets_the_same_bits_alone_and_in_a_batch() -> None:
    q, keys, values, table, lengths = make(4, 2, 16, 16, [300, 17, 600], torch.float32)
    together = paged_decode(q, keys, values, table, lengths)
    alone = paged_decode(q[:1], keys, values, table[:1, :20], lengths[:1])
    assert torch.equal(alone[0], together[0])


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({0: torch.float64, 1: torch.float64, 2: torch.float64}, TypeError, "float64; supported are"),
        ({0: torch.float16}, TypeError, "expected one dtype"),
        ({3: torch.int64}, TypeError, "page_table is torch.int64"),
        ({4: torch.int64}, TypeError, "lengths is torch.int64"),
    ],
)
def test_wrong_dtypes_are_named(change: dict[int, torch.dtype], error: type[Exception], text: str) -> None:
    arguments = list(make(2, 1, 8, 16, [3, 4], torch.float32))
    for index, dtype in change.items():
        arguments[index] = arguments[index].to(dtype)
    with pytest.raises(error, match=f"paged_decode: .*{text}"):
        paged_decode(*arguments)


def test_wrong_shapes_are_named() -> None:
    q, keys, values, table, lengths = make(4, 2, 8, 16, [3, 4], torch.float32)
    for arguments, text in [
        ((q[:, :3], keys, values, table, lengths), "3 heads are not a multiple of 2"),
        ((q[..., :4], keys, values, table, lengths), r"q \(2, 4, 4\)"),
        ((q, keys, values[:1], table, lengths), r"values \(1, 16, 2, 8\)"),
        ((q, keys, values, table[:1], lengths), "with B = 2"),
        ((q, keys, values, table, lengths[:1]), "with B = 2"),
        ((torch.zeros(2, 4, 300), keys, values, table, lengths), "head_dim 300; supported are 1 to 256"),
        ((q.transpose(1, 2).contiguous().transpose(1, 2), keys, values, table, lengths), "q is not contiguous"),
    ]:
        with pytest.raises(ValueError, match=f"paged_decode: .*{text}"):
            paged_decode(*arguments)
