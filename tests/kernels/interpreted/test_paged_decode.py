"""The decode kernel against its plain-torch twin, on shapes that no block divides."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from latticework.kernels.paged_decode import paged_decode, paged_decode_reference
from tests.kernels.interpreted.paged_inputs import TOLERANCE, error_of, in_double, make_pages, tolerance

Lengths = list[int]
SHAPES: dict[str, tuple[int, int, int, int, Lengths]] = {  # heads, kv_heads, head_dim, page_size, lengths
    "one token": (2, 2, 16, 16, [1]),
    "group of three, odd head dim": (3, 1, 20, 3, [7, 40]),
    "page of one token": (4, 2, 8, 1, [5, 1, 33]),
    "page of 64, several blocks": (9, 3, 64, 64, [65, 130]),
    "many splits, one empty sequence": (4, 1, 16, 16, [700, 0, 256, 257]),
    "more splits than a merge block": (2, 1, 8, 64, [2500]),
    "wide head, wide page": (2, 1, 256, 256, [19]),
    "group of 20": (20, 1, 8, 2, [21]),
}
WAYS: dict[str, dict[str, Any]] = {
    "a window within a block": {"window": 5},
    "a window over two splits": {"window": 30},
    "a window of one token": {"window": 1},
    "a window longer than all": {"window": 5000, "soft_cap": 2.0},
    "all of them": {"window": 258, "soft_cap": 3.0, "scale": 0.7},
}


def make(heads: int, kv_heads: int, head_dim: int, page_size: int, lengths: Lengths, dtype: torch.dtype) -> Any:
    torch.manual_seed(len(lengths) + heads)
    return torch.randn(len(lengths), heads, head_dim).to(dtype), *make_pages(
        kv_heads, head_dim, page_size, lengths, dtype
    )


def check(arguments: Any, dtype: torch.dtype, **how: Any) -> None:
    out = paged_decode(*arguments, **how)
    exact = paged_decode_reference(*in_double(arguments), **how)
    assert out.dtype == dtype
    assert error_of(out, exact) <= tolerance(dtype, how.get("soft_cap"))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_kernel_equals_its_twin(shape: str, dtype: torch.dtype) -> None:
    check(make(*SHAPES[shape], dtype), dtype)


@pytest.mark.parametrize("way", WAYS)
def test_windows_caps_and_scales_are_the_twins(way: str) -> None:
    check(make(4, 1, 16, 16, [0, 31, 530], torch.float32), torch.float32, **WAYS[way])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_windows_caps_and_scales_in_16_bits(dtype: torch.dtype) -> None:
    check(make(3, 1, 20, 5, [300, 9], dtype), dtype, **WAYS["all of them"])


@pytest.mark.slow
@pytest.mark.parametrize("page_size", [1, 2, 4, 8, 16, 32, 64])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("how", [{}, {"window": 1000, "soft_cap": 30.0}], ids=["plain", "windowed and capped"])
def test_long_sequences_equal_the_twin(page_size: int, dtype: torch.dtype, how: dict[str, Any]) -> None:
    check(make(16, 4, 128, page_size, [1800, 255, 1025, 1], dtype), dtype, **how)


@pytest.mark.parametrize("window", [None, 270])
def test_a_sequence_gets_the_same_bits_alone_and_in_a_batch(window: int | None) -> None:
    q, keys, values, table, lengths = make(4, 1, 16, 16, [300, 17, 400], torch.float32)
    together = paged_decode(q, keys, values, table, lengths, window)
    alone = paged_decode(q[:1], keys, values, table[:1, :20], lengths[:1], window)
    assert torch.equal(alone[0], together[0])


def test_the_twin_runs_where_the_environment_chooses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = make(4, 2, 16, 16, [300, 17], torch.float32)
    monkeypatch.setenv("LATTICEWORK_KERNELS", "torch")
    assert torch.equal(paged_decode(*arguments), paged_decode_reference(*arguments))
    monkeypatch.setenv("LATTICEWORK_KERNELS", "cuda")
    with pytest.raises(ValueError, match="LATTICEWORK_KERNELS is 'cuda'; expected triton or torch"):
        paged_decode(*arguments)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({0: torch.float64, 1: torch.float64, 2: torch.float64}, "float64; supported are"),
        ({0: torch.float16}, "expected one dtype"),
        ({3: torch.int64}, "page_table is torch.int64"),
        ({4: torch.int64}, "lengths is torch.int64"),
    ],
)
def test_wrong_dtypes_are_named(change: dict[int, torch.dtype], text: str) -> None:
    arguments = list(make(2, 1, 8, 16, [3, 4], torch.float32))
    for index, dtype in change.items():
        arguments[index] = arguments[index].to(dtype)
    with pytest.raises(TypeError, match=f"paged_decode: .*{text}"):
        paged_decode(*arguments)


def test_wrong_shapes_are_named() -> None:
    q, keys, values, table, lengths = make(4, 2, 8, 16, [3, 4], torch.float32)
    wide = torch.zeros(2, 16, 2, 300)
    for arguments, text in [
        ((q[:, :3], keys, values, table, lengths), "3 heads are not a multiple of 2"),
        ((q[..., :4], keys, values, table, lengths), r"q \(2, 4, 4\)"),
        ((q, keys, values[:1], table, lengths), r"values \(1, 16, 2, 8\)"),
        ((q, keys, values, table[:1], lengths), "with B = 2"),
        ((q, keys, values, table, lengths[:1]), "with B = 2"),
        ((torch.zeros(2, 4, 300), wide, wide, table, lengths), "head_dim 300; supported are 1 to 256"),
        ((q, *[torch.zeros(2, 300, 2, 8)] * 2, table, lengths), "page_size 300; supported are 1 to 256"),
        ((torch.zeros(2, 130, 8), keys, values, table, lengths), "query heads per KV head 65; supported are 1 to 64"),
        ((q.transpose(1, 2).contiguous().transpose(1, 2), keys, values, table, lengths), "q is not contiguous"),
    ]:
        with pytest.raises(ValueError, match=f"paged_decode: .*{text}"):
            paged_decode(*arguments)


@pytest.mark.parametrize(("how", "text"), [({"window": 0}, "window 0"), ({"soft_cap": 0.0}, "soft_cap 0.0")])
def test_windows_and_caps_that_let_nothing_through_are_refused(how: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"paged_decode: {text}; expected"):
        paged_decode(*make(2, 1, 8, 16, [3], torch.float32), **how)
