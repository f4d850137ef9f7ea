"""The C++ attention against its twin, token by token in float32 or better, over random ragged batches."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from latticework.kernels.cpu import paged_attention as operation
from latticework.kernels.cpu.library import Library
from latticework.kernels.cpu.paged_attention import (
    CHUNK,
    SHARED,
    AttentionPlan,
    paged_attention,
    paged_attention_reference,
)
from latticework.runtime.attention.base import KVCache
from latticework.runtime.schedule.batch import Batch
from tests.runtime.attention.batches import Inputs, make_batch, make_inputs, make_kv, one_of, share_prefix

TOLERANCE = {torch.float64: 1e-13, torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}

SHAPES = [(9, 3, 64), (4, 4, 8), (8, 1, 96), (5, 1, 20), (2, 2, 256)]  # heads, KV heads, head_dim


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(7)


def plan_for(library: Library, batch: Batch, page_size: int, window: int | None = None) -> AttentionPlan:
    everyone = np.arange(len(batch.lengths))
    arrays = batch.slots, batch.positions, batch.starts, batch.lengths, batch.page_table
    return AttentionPlan(library, *arrays, everyone, page_size, window)


def of_tokens(inputs: Inputs, tokens: slice) -> Inputs:
    q, k, v = inputs
    return q[tokens], k[tokens], v[tokens]


def run(library: Library, batch: Batch, kv: KVCache, inputs: Inputs, window: int | None = None) -> Tensor:
    plan = plan_for(library, batch, kv.page_size, window)
    return paged_attention(library, *inputs, kv.keys[0], kv.values[0], plan, 0.3)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), SHAPES)
@pytest.mark.parametrize("page_size", [1, 3, 16])
def test_attention_equals_its_twin(
    native_library: Library, dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int, page_size: int
) -> None:
    sequences = [(1, 1), (1, CHUNK), (1, CHUNK + 1), (3, 300), (20, 290), (17, 17), (1, 2 * CHUNK + 5)]
    batch, pages = make_batch(sequences, page_size, np.random.default_rng(3))
    kv = make_kv(pages, page_size, kv_heads, head_dim, dtype)
    twin = KVCache((kv.keys[0].clone(),), (kv.values[0].clone(),))
    inputs = make_inputs(batch, heads, kv_heads, head_dim, dtype)
    for cap, window in ((None, None), (2.0, None), (None, 1), (3.0, CHUNK + 3)):
        plan = plan_for(native_library, batch, page_size, window)
        scale = head_dim**-0.5
        found = paged_attention(native_library, *inputs, kv.keys[0], kv.values[0], plan, scale, cap)
        expected = paged_attention_reference(*inputs, twin.keys[0], twin.values[0], batch, scale, cap, window)
        torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE[dtype])
    assert kv.keys[0].equal(twin.keys[0])
    assert kv.values[0].equal(twin.values[0])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_sequence_gets_the_same_bits_alone_and_in_any_batch(native_library: Library, dtype: torch.dtype) -> None:
    random = np.random.default_rng(11)
    sequences = [(int(random.choice([1, 1, 1, 4, 30])), 2 * CHUNK + int(random.integers(40, 200))) for _ in range(20)]
    batch, pages = make_batch(sequences, 16, random)
    share_prefix(batch, range(0, 20, 2), 2 * CHUNK // 16)
    kv = make_kv(pages, 16, 3, 64, dtype)
    inputs = make_inputs(batch, 9, 3, 64, dtype)
    together = run(native_library, batch, kv, inputs)
    for b in range(len(sequences)):
        rows = slice(int(batch.starts[b]), int(batch.starts[b + 1]))
        alone = run(native_library, one_of(batch, b), kv, of_tokens(inputs, rows))
        assert alone.equal(together[rows])


def test_an_extend_of_several_tokens_gets_the_bits_of_one_at_a_time(native_library: Library) -> None:
    batch, pages = make_batch([(40, 200)], 16, np.random.default_rng(2))
    kv = make_kv(pages, 16, 3, 64, torch.bfloat16)
    inputs = make_inputs(batch, 9, 3, 64, torch.bfloat16)
    together = run(native_library, batch, kv, inputs)
    for t in range(40):
        single = Batch(
            tokens=batch.tokens[t : t + 1],
            positions=batch.positions[t : t + 1],
            slots=batch.slots[t : t + 1],
            starts=np.array([0, 1]),
            lengths=batch.positions[t : t + 1] + 1,
            page_table=batch.page_table,
            logit_rows=np.array([0]),
        )
        assert run(native_library, single, kv, of_tokens(inputs, slice(t, t + 1))).equal(together[t : t + 1])


def in_whole_items(monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    """Long prompts attend in items of all their chunks, whatever the number of threads; or never do."""
    monkeypatch.setattr(operation, "SHARES", 0 if whole else 1 << 40)


def part_of(batch: Batch, first: int, stop: int) -> Batch:
    """Some of the tokens of a batch of one sequence that are all new."""
    return Batch(
        tokens=batch.tokens[first:stop],
        positions=batch.positions[first:stop],
        slots=batch.slots[first:stop],
        starts=np.array([0, stop - first]),
        lengths=np.array([stop]),
        page_table=batch.page_table,
        logit_rows=np.array([stop - first - 1]),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("cap", "window"), [(None, None), (2.0, None), (None, CHUNK + 20), (3.0, 50)])
def test_long_prompts_equal_their_twin(
    native_library: Library,
    dtype: torch.dtype,
    cap: float | None,
    window: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_whole_items(monkeypatch, True)
    sequences = [(2 * CHUNK + 13, 2 * CHUNK + 13), (1, 40), (SHARED, 3 * CHUNK - 1), (5, 5), (SHARED - 1, 200)]
    batch, pages = make_batch(sequences, 16, np.random.default_rng(3))
    kv = make_kv(pages, 16, 3, 64, dtype)
    inputs = make_inputs(batch, 9, 3, 64, dtype)
    plan = plan_for(native_library, batch, 16, window)
    assert (plan.items[:, 1] - plan.items[:, 0]).max() > CHUNK
    found = paged_attention(native_library, *inputs, kv.keys[0], kv.values[0], plan, 0.125, cap)
    expected = paged_attention_reference(*inputs, kv.keys[0], kv.values[0], batch, 0.125, cap, window)
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("window", [None, 1, CHUNK + 20])
def test_a_prompt_gets_the_same_bits_in_whole_items_in_parts_and_in_pieces(
    native_library: Library, dtype: torch.dtype, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = 2 * CHUNK + 50
    batch, pages = make_batch([(tokens, tokens)], 16, np.random.default_rng(2))
    kv = make_kv(pages, 16, 2, 32, dtype)
    inputs = make_inputs(batch, 6, 2, 32, dtype)
    in_whole_items(monkeypatch, False)
    in_parts = run(native_library, batch, kv, inputs, window)
    in_whole_items(monkeypatch, True)
    assert run(native_library, batch, kv, inputs, window).equal(in_parts)
    cuts = [0, 70, 71, CHUNK + 9, 2 * CHUNK, tokens]
    for first, stop in itertools.pairwise(cuts):
        piece = part_of(batch, first, stop)
        found = run(native_library, piece, kv, of_tokens(inputs, slice(first, stop)), window)
        assert found.equal(in_parts[first:stop])


def test_whole_prompts_have_no_parts_and_their_longest_items_come_first(
    native_library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_whole_items(monkeypatch, True)
    batch, _ = make_batch([(1, 150), (2 * SHARED + 1, 2 * CHUNK)], 16, np.random.default_rng(2))
    plan = plan_for(native_library, batch, 16)
    assert plan.items[:, :3].tolist() == [[0, 256, 1], [0, 255, 1], [0, 191, 1], [0, 128, 0], [128, 150, 0]]
    assert plan.rows.tolist() == [0]
    assert plan.part_count == 2


def test_a_prompt_too_short_for_all_threads_attends_in_parts(native_library: Library) -> None:
    batch, _ = make_batch([(SHARED, 5 * CHUNK)], 16, np.random.default_rng(2))
    plan = plan_for(native_library, batch, 16)
    assert len(plan.items) == 5
    assert plan.part_count == 5 * SHARED


def test_a_shared_prefix_is_one_item_a_chunk(native_library: Library) -> None:
    sequences = [(1, 3 * CHUNK + 1 + b) for b in range(8)]
    batch, _ = make_batch(sequences, 16, np.random.default_rng(2))
    assert len(plan_for(native_library, batch, 16).items) == 8 * 4
    share_prefix(batch, range(8), 3 * CHUNK // 16)
    plan = plan_for(native_library, batch, 16)
    assert len(plan.items) == 3 + 8
    assert plan.part_count == 8 * 4


def test_an_item_has_so_many_tokens_at_most(native_library: Library) -> None:
    sequences = [(1, CHUNK)] * (2 * SHARED + 1)
    batch, _ = make_batch(sequences, 16, np.random.default_rng(2))
    share_prefix(batch, range(len(sequences)), CHUNK // 16)
    assert len(plan_for(native_library, batch, 16).items) == 3
    batch, _ = make_batch([(2 * SHARED + 1, CHUNK + 2 * SHARED + 1)], 16, np.random.default_rng(2))
    firsts = plan_for(native_library, batch, 16).items[:, 0]
    assert (firsts == 0).sum() == 3


def test_a_window_visits_only_the_chunks_it_shows(native_library: Library) -> None:
    batch, _ = make_batch([(1, 10 * CHUNK)], 16, np.random.default_rng(2))
    plan = plan_for(native_library, batch, 16, window=CHUNK + 1)
    assert plan.items[:, 0].tolist() == [8 * CHUNK, 9 * CHUNK]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_nan_in_one_sequence_or_in_a_free_slot_reaches_no_other(native_library: Library, dtype: torch.dtype) -> None:
    sequences = [(1, 200), (5, 130), (1, 141), (1, 17)]
    batch, pages = make_batch(sequences, 16, np.random.default_rng(1))
    kv = make_kv(pages, 16, 3, 32, dtype)
    used = [int(batch.page_table[b, i // 16]) * 16 + i % 16 for b in (0, 2, 3) for i in range(int(batch.lengths[b]))]
    free = sorted({*range(pages * 16)} - {*used})
    kv.keys[0].flatten(0, 1)[free] = torch.nan
    kv.values[0].flatten(0, 1)[free] = torch.nan
    q, k, v = make_inputs(batch, 6, 3, 32, dtype)
    k[1:6] = v[1:6] = torch.nan
    found = run(native_library, batch, kv, (q, k, v)).isnan().flatten(1).any(1)
    assert found.tolist() == [False] + [True] * 5 + [False] * 2


def test_who_does_not_attend_is_written_all_the_same(native_library: Library) -> None:
    batch, pages = make_batch([(1, 40), (6, 20), (1, 9)], 16, np.random.default_rng(1))
    kv = make_kv(pages, 16, 3, 32, torch.float32)
    q, k, v = make_inputs(batch, 6, 3, 32, torch.float32)
    arrays = batch.slots, batch.positions, batch.starts, batch.lengths, batch.page_table
    plan = AttentionPlan(native_library, *arrays, np.array([0, 2]), 16)
    assert plan.rows.tolist() == [0, 7]
    found = paged_attention(native_library, q, k, v, kv.keys[0], kv.values[0], plan, 0.3)
    assert kv.keys[0].flatten(0, 1)[torch.from_numpy(batch.slots)].equal(k)
    assert kv.values[0].flatten(0, 1)[torch.from_numpy(batch.slots)].equal(v)
    expected = paged_attention_reference(q, k, v, kv.keys[0], kv.values[0], batch, 0.3)
    torch.testing.assert_close(found[[0, 7]], expected[[0, 7]], rtol=0, atol=2e-6)
