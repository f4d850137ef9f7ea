"""Backends of a CPU against attention written out per token in float64, over random ragged batches."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pytest
import torch

from latticework.kernels.cpu.library import Library
from latticework.lang.errors import InvalidArgument, Unsupported
from latticework.runtime.attention import make_attention, native_cpu, torch_cpu
from latticework.runtime.attention.base import AttentionBackend, KVCache
from latticework.runtime.attention.layer import PLAIN, LayerAttention
from latticework.runtime.attention.native_cpu import NativeAttention
from latticework.runtime.attention.torch_cpu import TorchAttention, group_sequences
from latticework.runtime.schedule.batch import Entry, build_batch
from tests.runtime.attention.batches import make_batch, make_inputs, make_kv, naive, one_of

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2}
BATCHES = {  # (new tokens, KV length after the step) of each sequence
    "prefill": [(7, 7), (1, 1), (20, 20)],
    "chunk": [(5, 40), (16, 33), (3, 4)],
    "decode": [(1, 33), (1, 1), (1, 40), (1, 16), (1, 17)],
    "mixed": [(1, 30), (9, 9), (1, 2), (6, 50), (1, 48)],
    "drafts": [(4, 20), (4, 37), (4, 4)],
}


Make: TypeAlias = Callable[[tuple[LayerAttention, ...]], AttentionBackend]


@pytest.fixture(params=["torch", "native", "native and torch"])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, library: Library | None) -> Make:
    """A backend for such layers. "native and torch": with prompts so short that most go through torch's formulation."""
    if request.param == "torch":
        return TorchAttention
    if library is None:
        pytest.skip("needs a C++ compiler")
    if request.param != "native":
        monkeypatch.setattr(native_cpu, "MOST_NEW", 3)
    return functools.partial(_native, library)


def _native(library: Library, layers: tuple[LayerAttention, ...]) -> AttentionBackend:
    return NativeAttention(library, layers=layers)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(7)


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("page_size", [1, 3, 16])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (6, 2), (4, 1)])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_attention_equals_the_naive_formula(
    make: Make, kind: str, page_size: int, heads: int, kv_heads: int, dtype: torch.dtype
) -> None:
    batch, pages = make_batch(BATCHES[kind], page_size, np.random.default_rng(3))
    kv = make_kv(pages, page_size, kv_heads, 8, dtype)
    q, k, v = make_inputs(batch, heads, kv_heads, 8, dtype)
    backend = make(())
    out = backend.forward(0, q, k, v, kv, backend.plan(batch, kv))
    assert out.dtype == dtype
    assert (kv.keys[0].flatten(0, 1)[torch.from_numpy(batch.slots)] == k).all()
    assert (kv.values[0].flatten(0, 1)[torch.from_numpy(batch.slots)] == v).all()
    assert (out.double() - naive(q, kv, batch)).abs().max() <= TOLERANCE[dtype]


@pytest.mark.parametrize("page_size", [1, 4])
def test_what_two_sequences_share_is_written_for_both_before_either_reads_it(make: Make, page_size: int) -> None:
    pages = -(-6 // page_size)
    first = Entry([1, 2, 3, 4, 5], 0, list(range(pages)), 1)
    second = Entry([8, 9, 7], 3, list(range(pages, 2 * pages)), 1, source=first, copied=3)
    batch = build_batch([first, second], page_size)
    kv = make_kv(2 * pages, page_size, 2, 8, torch.float64)
    q, k, v = make_inputs(batch, 4, 2, 8, torch.float64)
    backend = make(())
    out = backend.forward(0, q, k, v, kv, backend.plan(batch, kv))
    begin = pages * page_size
    for cache, new in ((kv.keys[0], k), (kv.values[0], v)):
        assert (cache.flatten(0, 1)[begin : begin + 6] == torch.cat((new[:3], new[5:]))).all()
    assert (out - naive(q, kv, batch)).abs().max() <= TOLERANCE[torch.float64]


SPECIAL = {
    "window": LayerAttention(window=6),
    "window of one": LayerAttention(window=1),
    "window wider than anything": LayerAttention(window=1000),
    "soft cap": LayerAttention(soft_cap=2.0),
    "scale": LayerAttention(scale=0.7),
    "all of it": LayerAttention(window=17, soft_cap=3.0, scale=1.3),
}


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_windows_soft_caps_and_scales_equal_the_naive_formula(
    make: Make, kind: str, special: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_cpu, "QUERY_ROWS", 8)
    batch, pages = make_batch(BATCHES[kind], 3, np.random.default_rng(3))
    kv = make_kv(pages, 3, 2, 8, dtype)
    kv = KVCache(kv.keys * 2, kv.values * 2)
    q, k, v = make_inputs(batch, 6, 2, 8, dtype)
    backend = make((PLAIN, SPECIAL[special]))
    plan = backend.plan(batch, kv)
    for layer, how in enumerate(backend.layers):  # one plan serves them all
        out = backend.forward(layer, q, k, v, kv, plan)
        assert (out.double() - naive(q, kv, batch, how)).abs().max() <= 2 * TOLERANCE[dtype]


def test_a_window_gathers_only_what_it_shows() -> None:
    batch, pages = make_batch([(1, 90), (1, 50)], 16, np.random.default_rng(3))
    kv = make_kv(pages, 16, 2, 8, torch.float32)
    (group,) = TorchAttention((LayerAttention(window=6),)).plan(batch, kv)[6].groups
    assert group.slots.numel() == 2 * 6
    assert group.tiles[0].mask is None


def test_prompts_longer_than_a_tile_are_causal_across_tiles(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_cpu, "QUERY_ROWS", 4)
    batch, pages = make_batch([(11, 30), (4, 9), (2, 2), (2, 7), (1, 5)], 4, np.random.default_rng(5))
    kv = make_kv(pages, 4, 2, 8, torch.float64)
    q, k, v = make_inputs(batch, 4, 2, 8, torch.float64)
    backend = make(())
    out = backend.forward(0, q, k, v, kv, backend.plan(batch, kv))
    assert (out - naive(q, kv, batch)).abs().max() <= 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_sequence_gets_the_same_result_alone_and_in_a_batch(make: Make, dtype: torch.dtype) -> None:
    random = np.random.default_rng(11)
    sequences = [(1 if random.random() < 0.6 else int(random.integers(1, 12)), 0) for _ in range(24)]
    sequences = [(new, new + int(random.integers(0, 90))) for new, _ in sequences]
    batch, pages = make_batch(sequences, 16, random)
    kv = make_kv(pages, 16, 2, 8, dtype)
    q, k, v = make_inputs(batch, 4, 2, 8, dtype)
    backend = make(())
    together = backend.forward(0, q, k, v, kv, backend.plan(batch, kv))
    for b in range(len(sequences)):
        rows = slice(int(batch.starts[b]), int(batch.starts[b + 1]))
        alone = one_of(batch, b)
        single = backend.forward(0, q[rows], k[rows], v[rows], kv, backend.plan(alone, kv))
        torch.testing.assert_close(single, together[rows], rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("kind", ["decode", "mixed", "drafts"])
def test_nan_in_one_sequence_or_in_a_free_slot_reaches_no_other(make: Make, kind: str) -> None:
    batch, pages = make_batch(BATCHES[kind], 16, np.random.default_rng(1))
    kv = make_kv(pages, 16, 2, 8, torch.float32)
    spoiled = 2
    used = {  # slots of the healthy sequences; all others are NaN
        int(batch.page_table[b, i // 16]) * 16 + i % 16
        for b in range(len(batch.lengths))
        for i in range(batch.lengths[b])
        if b != spoiled
    }
    free = [slot for slot in range(pages * 16) if slot not in used]
    kv.keys[0].flatten(0, 1)[free] = torch.nan
    kv.values[0].flatten(0, 1)[free] = torch.nan
    q, k, v = make_inputs(batch, 4, 2, 8, torch.float32)
    rows = slice(int(batch.starts[spoiled]), int(batch.starts[spoiled + 1]))
    k[rows] = v[rows] = torch.nan
    backend = make(())
    healthy = ~backend.forward(0, q, k, v, kv, backend.plan(batch, kv)).isnan().flatten(1).any(1)
    expected = torch.ones_like(healthy)
    expected[rows] = False
    assert healthy.equal(expected)


def test_groups_hold_each_sequence_once_within_the_limits() -> None:
    random = np.random.default_rng(2)
    for _ in range(200):
        size = int(random.integers(1, 40))
        new = random.choice([1, 1, 1, 4, 100], size)
        lengths = new + random.integers(0, 4000, size)
        chosen = np.flatnonzero(random.random(size) < 0.8)
        groups = group_sequences(new, lengths, chosen, 4096, 256)
        assert sorted(np.concatenate([*groups, np.array([], dtype=np.int64)])) == sorted(chosen)
        for group in groups:
            width = lengths[group].max()
            assert len(set(new[group])) == 1
            assert len(group) == 1 or len(group) * width <= 4096
            assert len(group) * width - lengths[group].sum() <= 256
            assert len(group) == 1 or len(group) * new[group[0]] <= torch_cpu.QUERY_ROWS


def test_one_long_sequence_does_not_pad_many_short_ones() -> None:
    lengths = np.array([100] * 15 + [4000])
    groups = group_sequences(np.ones(16, dtype=np.int64), lengths, np.arange(16), 8192, 1024)
    assert [len(group) for group in groups] == [15, 1]


def test_make_attention_knows_its_names() -> None:
    assert make_attention("auto", "cpu").name == "torch"
    assert make_attention("torch", "cpu").name == "torch"
    with pytest.raises(InvalidArgument, match=r"'flash'.*auto, torch, native, triton or flashinfer"):
        make_attention("flash", "cpu")


def test_triton_on_a_cpu_without_the_interpreter_is_refused() -> None:
    pytest.importorskip("triton")
    with pytest.raises(Unsupported, match="needs CUDA, or TRITON_INTERPRET=1"):
        make_attention("triton", "cpu")


def test_triton_that_is_not_installed_is_refused_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "latticework.runtime.attention.triton", raising=False)
    with pytest.raises(Unsupported, match=r"pip install latticework\[triton\]"):
        make_attention("triton", "cpu")
