"""The Triton backend in the interpreter gives the torch backend's results: in one layer, and in a whole model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latticework.lang.errors import Unsupported
from latticework.runtime.attention import make_attention
from latticework.runtime.attention.base import AttentionBackend, KVCache
from latticework.runtime.model.load import load_model
from latticework.runtime.model.locate import find_model
from latticework.runtime.model.runner import ModelRunner
from latticework.runtime.schedule.batch import Batch

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


def test_a_mixed_batch_equals_the_torch_backend() -> None:
    torch.manual_seed(1)
    batch = make_batch([[0], [0] * 5, [0]], [9, 3, 0])
    q, k, v = torch.randn(7, 6, 16), torch.randn(7, 2, 16), torch.randn(7, 2, 16)
    keys, values = torch.randn(1 + 3 * PAGES_EACH, PAGE, 2, 16), torch.randn(1 + 3 * PAGES_EACH, PAGE, 2, 16)
    results = []
    for name in ("torch", "triton"):
        kv = KVCache((keys.clone(),), (values.clone(),))
        backend = make_attention(name, "cpu")
        results.append((backend.forward(0, q, k, v, kv, backend.plan(batch, kv)), kv.keys[0], kv.values[0]))
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


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
