"""The extend kernel against its plain-torch twin: ragged prefixes and new tokens, on shapes that no block divides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from latticework.kernels.paged_extend import paged_extend, paged_extend_reference
from tests.kernels.interpreted.paged_inputs import TOLERANCE, error_of, in_double, make_pages, tolerance

Sequences = list[tuple[int, int]]  # (new tokens, all tokens) of each
SHAPES: dict[str, tuple[int, int, int, int, Sequences]] = {  # heads, kv_heads, head_dim, page_size, sequences
    "one token": (2, 2, 16, 16, [(1, 1)]),
    "a prefill beside a chunk": (4, 2, 16, 16, [(37, 37), (5, 40)]),
    "drafts, group of three, odd head dim": (3, 1, 20, 3, [(4, 20), (4, 37), (4, 4)]),
    "page of one token, several tiles": (4, 1, 8, 1, [(70, 90), (1, 33)]),
    "page of 64": (9, 3, 64, 64, [(2, 65), (9, 130)]),
    "wide head": (2, 1, 256, 5, [(19, 21)]),
    "group of 40": (40, 1, 8, 2, [(3, 7)]),
}
WAYS: dict[str, dict[str, Any]] = {
    "a window within a block": {"window": 5},
    "a window over blocks": {"window": 50},
    "a window of one token": {"window": 1},
    "a window longer than all": {"window": 5000, "soft_cap": 2.0},
    "all of them": {"window": 33, "soft_cap": 3.0, "scale": 0.7},
}


def make(heads: int, kv_heads: int, head_dim: int, page_size: int, sequences: Sequences, dtype: torch.dtype) -> Any:
    """All arguments; a row before each sequence's new tokens belongs to nobody."""
    torch.manual_seed(len(sequences) + heads)
    counts = torch.tensor([new for new, _ in sequences])
    first = torch.cumsum(counts + 1, 0) - counts
    q = torch.randn(int(counts.sum()) + len(sequences), heads, head_dim).to(dtype)
    keys, values, table, lengths = make_pages(kv_heads, head_dim, page_size, [n for _, n in sequences], dtype)
    out = torch.full_like(q, 7.0)
    return q, keys, values, table, first.int(), counts.int(), lengths, int(counts.max()), out


def check(arguments: Any, **how: Any) -> None:
    q, out = arguments[0], arguments[-1]
    exact = paged_extend_reference(*in_double(arguments), **how)
    assert paged_extend(*arguments, **how) is out
    assert error_of(out, exact) <= tolerance(q.dtype, how.get("soft_cap"))
    others = torch.ones(len(q), dtype=torch.bool)
    for start, count in zip(arguments[4].tolist(), arguments[5].tolist(), strict=True):
        others[start : start + count] = False
    assert torch.equal(out[others], torch.full_like(out[others], 7.0)), "rows of others stay"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_kernel_equals_its_twin(shape: str, dtype: torch.dtype) -> None:
    check(make(*SHAPES[shape], dtype))


@pytest.mark.parametrize("way", WAYS)
def test_windows_caps_and_scales_are_the_twins(way: str) -> None:
    check(make(4, 1, 16, 16, [(20, 90), (2, 30)], torch.float32), **WAYS[way])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_windows_caps_and_scales_in_16_bits(dtype: torch.dtype) -> None:
    check(make(3, 1, 20, 5, [(9, 80), (50, 50)], dtype), **WAYS["all of them"])


@pytest.mark.slow
@pytest.mark.parametrize("page_size", [1, 4, 16, 64])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("how", [{}, {"window": 300, "soft_cap": 30.0}], ids=["plain", "windowed and capped"])
def test_long_sequences_equal_the_twin(page_size: int, dtype: torch.dtype, how: dict[str, Any]) -> None:
    check(make(8, 2, 128, page_size, [(500, 700), (1, 900), (130, 130)], dtype), **how)


@pytest.mark.parametrize("window", [None, 40])
def test_chunks_and_neighbours_change_no_bit(window: int | None) -> None:
    q, keys, values, table, first, new, lengths, longest, out = make(4, 2, 16, 16, [(90, 120), (3, 50)], torch.float32)
    whole = paged_extend(q, keys, values, table, first, new, lengths, longest, out, window).clone()
    start, cached = int(first[0]), 30
    out.zero_()
    for begin, count in ((0, 17), (17, 1), (18, 22)):

        def one(number: int) -> Tensor:
            return torch.tensor([number], dtype=torch.int32)

        arguments = (one(start + begin), one(count), one(cached + begin + count), count)
        paged_extend(q, keys, values, table[:1], *arguments, out, window)
    assert torch.equal(out[start : start + 40], whole[start : start + 40])


def test_the_twin_runs_where_the_environment_chooses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = make(4, 2, 16, 16, [(5, 20)], torch.float32)
    monkeypatch.setenv("LATTICEWORK_KERNELS", "torch")
    expected = paged_extend_reference(*arguments).clone()
    arguments[-1].fill_(7.0)
    assert torch.equal(paged_extend(*arguments), expected)


def test_what_the_kernel_cannot_take_is_named() -> None:
    q, keys, values, table, *rows, longest, out = make(4, 2, 8, 16, [(3, 4)], torch.float32)
    first, new, lengths = rows
    cases: Any = [
        ((q[:, :3], keys, values, table, *rows, longest, out), ValueError, "3 heads are not a multiple of 2"),
        ((q, keys, values, table, first.long(), new, lengths, longest, out), TypeError, "first is torch.int64"),
        ((q, keys, values, table, first, new[:0], lengths, longest, out), ValueError, "new .*with B = 1"),
        ((q, keys, values, table, *rows, longest, out.half()), ValueError, "out .*float16"),
        ((q.double(), keys, values, table, *rows, longest, out), TypeError, "float64; supported are"),
    ]
    for given, error, text in cases:
        with pytest.raises(error, match=f"paged_extend: .*{text}"):
            paged_extend(*given)
    with pytest.raises(ValueError, match="paged_extend: window 0; expected at least 1"):
        paged_extend(q, keys, values, table, first, new, lengths, longest, out, window=0)
