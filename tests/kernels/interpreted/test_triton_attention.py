"""The Triton backend in the interpreter gives the torch backend's results: in one layer, and in a whole model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latticework.lang.errors import Unsupported
from latticework.runtime.attention import make_attention
from latticework.runtime.attention.base import AttentionBackend, KVCache
from latticework.runtime.attention.layer import LayerAttention
from latticework.runtime.attention.torch_cpu import TorchAttention
from latticework.runtime.attention.triton import TritonAttention
from latticework.runtime.model.load import load_model
from latticework.runtime.model.locate import find_model
from latticework.runtime.model.runner import ModelRunner
from latticework.runtime.schedule.batch import Batch, Entry, build_batch

PAGE = 4
PAGES_EACH = 6  # of one sequence; page 0 is nobody's


def make_batch(new: list[list[int]], cached: list[int]) -> Batch:
    """new: token ids of each sequence, after `cached` tokens that are in its pages."""
    counts = np.array([len(tokens) for tokens in new])
    table = 1 + np.arange(len(new) * PAGES_EACH, dtype=np.int32).reshape(len(new), PAGES_EACH)[:, ::-1]
    starts = np.concatenate([[0], np.cumsum(counts)])
    owner = np.repeat(np.arange(len(new)), counts)
    positions = np.concatenate([np.arange(c, c + n) for c, n in zip(cached, counts, strict=True)])
    return Batch(
        tokens=np.concatenate([np.array(tokens, dtype=np.int64) for tokens in new]),
        positions=positions,
        slots=table[owner, positions // PAGE].astype(np.int64) * PAGE + positions % PAGE,
        starts=starts,
        lengths=np.array(cached) + counts,
        page_table=np.ascontiguousarray(table),
        logit_rows=starts[1:] - 1,
    )


def make_kv(layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype = torch.float32) -> KVCache:
    shape = (1 + 3 * PAGES_EACH, PAGE, kv_heads, head_dim)
    keys, values = (tuple(torch.zeros(shape, dtype=dtype) for _ in range(layers)) for _ in range(2))
    return KVCache(keys, values)


LAYERS = (
    LayerAttention(),
    LayerAttention(window=3),
    LayerAttention(window=7, soft_cap=2.0),
    LayerAttention(soft_cap=1.5, scale=0.4),
)


def compare(batch: Batch, kv: KVCache, backend: AttentionBackend) -> None:
    """Every layer of the backend, in place and result, with the torch backend's."""
    rows = len(batch.tokens)
    q, k, v = torch.randn(rows, 6, 16), torch.randn(rows, 2, 16), torch.randn(rows, 2, 16)
    expected = TorchAttention(backend.layers)
    caches = [KVCache(*(tuple(t.clone() for t in side) for side in (kv.keys, kv.values))) for _ in range(2)]
    plans = [way.plan(batch, cache) for way, cache in zip((expected, backend), caches, strict=True)]
    for layer in range(len(backend.layers)):
        wanted = expected.forward(layer, q, k, v, caches[0], plans[0])
        got = backend.forward(layer, q, k, v, caches[1], plans[1])
        torch.testing.assert_close(got, wanted, rtol=0, atol=2e-6)
        assert torch.equal(caches[1].keys[layer], caches[0].keys[layer])
        assert torch.equal(caches[1].values[layer], caches[0].values[layer])


def random_kv(pages: int) -> KVCache:
    keys, values = (tuple(torch.randn(pages, PAGE, 2, 16) for _ in LAYERS) for _ in range(2))
    return KVCache(keys, values)


@pytest.mark.parametrize(
    ("new", "cached"),
    [([1, 5, 1], [9, 3, 0]), ([1, 1], [16, 2]), ([9, 2], [0, 13])],
    ids=["mixed", "decode", "extend"],
)
def test_layers_of_every_kind_equal_the_torch_backends(new: list[int], cached: list[int]) -> None:
    torch.manual_seed(1)
    batch = make_batch([[0] * count for count in new], cached)
    compare(batch, random_kv(1 + 3 * PAGES_EACH), make_attention("triton", "cpu", 16, torch.float32, LAYERS))


def test_prefixes_that_are_shared_are_read_once_and_change_nothing() -> None:
    torch.manual_seed(2)
    shared, own = 70, 2  # pages: 280 tokens, of which a split of 256 is worth sharing
    common = 1 + torch.randperm(shared).numpy()
    tables = [[*common, *range(1 + shared + own * b, 1 + shared + own * (b + 1))] for b in range(3)]
    tables.append([1 + shared + own * 3] + [0] * (shared + own - 1))
    starts = [shared * PAGE + 5, shared * PAGE, shared * PAGE + 2, 1]
    batch = build_batch([Entry([0], start, pages, 1) for start, pages in zip(starts, tables, strict=True)], PAGE)
    kv = random_kv(2 + shared + own * 3)
    backend = TritonAttention("cpu", 16, torch.float32, LAYERS, cascade_from=500)
    plan = backend.plan(batch, kv)
    assert plan.decoding is not None
    assert plan.decoding.prefixes is not None
    assert plan.decoding.prefixes.done.tolist() == [256, 256, 256, 0]
    compare(batch, kv, backend)
    few = TritonAttention("cpu", 16, torch.float32, LAYERS, cascade_from=513).plan(batch, kv)
    assert few.decoding is not None
    assert few.decoding.prefixes is None


def test_the_tiny_model_decodes_with_the_torch_backends_logits() -> None:
    model = load_model(find_model("tiny"), "float32")
    spec = find_model("tiny").spec

    def runner(name: str) -> ModelRunner:
        attention: AttentionBackend = make_attention(name, "cpu", spec.head_dim, torch.float32)
        assert attention.name == name
        return ModelRunner(model, attention, make_kv(spec.num_hidden_layers, spec.num_key_value_heads, spec.head_dim))

    torch_runner, triton_runner = runner("torch"), runner("triton")
    new = [list(b"Hello, world"), list(b"a"), list(b'{"key": 1')]
    cached = [0, 0, 0]
    for step in range(6):
        if step == 3:
            new[1] = new[1] + list(b"xyz")  # a chunk beside two decode rows
        batch = make_batch(new, cached)
        expected = torch_runner.run(batch)
        logits = triton_runner.run(batch)
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
        assert torch.equal(logits.argmax(-1), expected.argmax(-1))
        cached = [c + len(tokens) for c, tokens in zip(cached, new, strict=True)]
        new = [[int(token)] for token in expected.argmax(-1)]


def test_what_the_kernel_cannot_do_is_refused_at_construction() -> None:
    with pytest.raises(Unsupported, match="head_dim 512; supported are 1 to 256"):
        make_attention("triton", "cpu", head_dim=512, dtype=torch.float32)
    with pytest.raises(Unsupported, match="float64"):
        make_attention("triton", "cpu", head_dim=64, dtype=torch.float64)


def test_what_the_kernel_cannot_do_is_refused_by_plan() -> None:
    with pytest.raises(Unsupported, match="float64"):
        make_attention("triton", "cpu").plan(make_batch([[1]], [0]), make_kv(1, 1, 8, torch.float64))


def test_the_twins_serve_where_the_environment_chooses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATTICEWORK_KERNELS", "torch")
    torch.manual_seed(1)
    batch = make_batch([[0], [0] * 5, [0]], [9, 3, 0])
    compare(batch, random_kv(1 + 3 * PAGES_EACH), make_attention("triton", "cpu", 16, torch.float32, LAYERS))
