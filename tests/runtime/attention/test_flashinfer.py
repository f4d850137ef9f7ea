"""The FlashInfer backend against a double of the package: its documented arguments, computed in plain torch.

What this cannot tell is whether the package does what it documents: that needs a GPU.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from latticework.kernels.paged import attention_reference
from latticework.lang.errors import Unsupported
from latticework.runtime.attention import flashinfer as backend_module
from latticework.runtime.attention import make_attention
from latticework.runtime.attention.base import AttentionBackend, QkvBackend
from latticework.runtime.attention.layer import LayerAttention
from latticework.runtime.config import EngineConfig
from latticework.runtime.engine import Engine
from latticework.runtime.schedule.batch import Entry, build_batch
from tests.kernels import steps

BFLOAT16 = torch.bfloat16
Layers: TypeAlias = tuple[LayerAttention, ...]


class Wrapper:
    """What both wrappers do: one sequence after the other."""

    def __init__(self, float_workspace_buffer: Tensor, kv_layout: str = "NHD", use_tensor_cores: bool = False) -> None:
        assert kv_layout == "NHD"
        assert not float_workspace_buffer.any()

    def keep(self, starts: Tensor, indptr: Tensor, indices: Tensor, last: Tensor, page_size: int, how: Any) -> None:
        assert all(index.dtype == torch.int32 for index in (starts, indptr, indices, last))
        assert len(starts) == len(indptr) == len(last) + 1
        assert len(indices) == int(indptr[-1])
        assert 1 <= int(last.min()) <= int(last.max()) <= page_size
        self.planned = starts.tolist(), indptr.tolist(), indices.long(), last.tolist()
        self.how = how

    def run(self, q: Tensor, paged_kv_cache: tuple[Tensor, Tensor]) -> Tensor:
        starts, indptr, indices, last = self.planned
        page_size = paged_kv_cache[0].shape[1]
        window_left, cap, scale = self.how
        assert len(q) == starts[-1]
        out = torch.empty_like(q)
        for b, final in enumerate(last):
            pages = indices[indptr[b] : indptr[b + 1]]
            length = (len(pages) - 1) * page_size + final
            k, v = (cache[pages].flatten(0, 1)[:length] for cache in paged_kv_cache)
            own = slice(starts[b], starts[b + 1])
            out[own] = attention_reference(q[own], k, v, None if window_left < 0 else window_left + 1, cap, scale)
        return out


class Decode(Wrapper):
    def plan(
        self,
        indptr: Tensor,
        indices: Tensor,
        last_page_len: Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim: int,
        page_size: int,
        pos_encoding_mode: str = "NONE",
        window_left: int = -1,
        logits_soft_cap: float | None = None,
        q_data_type: Any = "float16",
        kv_data_type: Any = None,
        sm_scale: float | None = None,
    ) -> None:
        starts = torch.arange(len(indptr), dtype=torch.int32)
        self.keep(starts, indptr, indices, last_page_len, page_size, (window_left, logits_soft_cap, sm_scale))


class Prefill(Wrapper):
    def plan(
        self,
        qo_indptr: Tensor,
        paged_kv_indptr: Tensor,
        paged_kv_indices: Tensor,
        paged_kv_last_page_len: Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim_qk: int,
        page_size: int,
        causal: bool = False,
        sm_scale: float | None = None,
        window_left: int = -1,
        logits_soft_cap: float | None = None,
        q_data_type: Any = "float16",
        kv_data_type: Any = None,
    ) -> None:
        assert causal
        how = window_left, logits_soft_cap, sm_scale
        self.keep(qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len, page_size, how)


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package, on a CPU and in any numbers."""
    package = ModuleType("flashinfer")
    vars(package).update(BatchDecodeWithPagedKVCacheWrapper=Decode, BatchPrefillWithPagedKVCacheWrapper=Prefill)
    monkeypatch.setitem(sys.modules, "flashinfer", package)
    monkeypatch.setenv("LATTICEWORK_KERNELS", "torch")
    monkeypatch.setattr(backend_module, "check_flashinfer", lambda *_: None)
    monkeypatch.setattr(backend_module, "WORKSPACE", 64)


@pytest.mark.parametrize("kind", steps.KINDS)
def test_steps_of_every_kind_of_model_are_planned_right(
    kind: str, double: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backend(name: str, device: str, head_dim: int, dtype: torch.dtype, layers: Layers) -> AttentionBackend:
        return make_attention("flashinfer" if name == "triton" else name, device, head_dim, dtype, layers, heads=6)

    monkeypatch.setattr(steps, "make_attention", backend)
    steps.check_kind(kind, torch.device("cpu"))


def test_heads_that_are_turned_already_are_attended_too(double: None) -> None:
    layers = (LayerAttention(window=3), LayerAttention(soft_cap=2.0, scale=0.4))
    batch = build_batch([Entry([1, 2, 3], 2, [4, 1], 1), Entry([5], 4, [3, 2], 1)], 4)
    torch.manual_seed(0)
    q, k, v = torch.randn(4, 6, 8), torch.randn(4, 2, 8), torch.randn(4, 2, 8)
    found = []
    for name in ("torch", "flashinfer"):
        backend = make_attention(name, "cpu", 8, torch.float32, layers, heads=6)
        torch.manual_seed(1)
        caches = [tuple(torch.randn(5, 4, 2, 8) for _ in layers) for _ in range(2)]
        kv = backend_module.KVCache(caches[0], caches[1])
        plan = backend.plan(batch, kv)
        found.append([backend.forward(layer, q, k, v, kv, plan) for layer in range(2)])
    for expected, other in zip(*found, strict=True):
        torch.testing.assert_close(other, expected, rtol=0, atol=1e-5)


def test_page_lists_leave_out_empty_places() -> None:
    batch = build_batch([Entry([1], 8, [4, 1, 9], 1), Entry([5], 3, [3], 1), Entry([5], 4, [7, 2], 1)], 4)
    first, pages, last = backend_module.page_lists(batch, 4)
    assert first.tolist() == [0, 3, 4, 6]
    assert pages.tolist() == [4, 1, 9, 3, 7, 2]
    assert last.tolist() == [1, 4, 1]
    assert {array.dtype for array in (first, pages, last)} == {np.dtype(np.int32)}


def test_it_takes_qkv_as_the_matrix_product_leaves_it(double: None) -> None:
    assert isinstance(make_attention("flashinfer", "cpu", 8, torch.float32, heads=2), QkvBackend)


def test_without_the_package_it_is_refused_at_load() -> None:
    with pytest.raises(Unsupported, match=r"needs the flashinfer-python package") as caught:
        Engine.load(EngineConfig(model="tiny", attention="flashinfer", device="cpu"))
    assert "pip install flashinfer-python" in str(caught.value)


@pytest.mark.parametrize(
    ("device", "head_dim", "dtype", "said"),
    [
        ("cpu", 128, BFLOAT16, "needs CUDA; the device is 'cpu'"),
        ("cuda", 96, BFLOAT16, r"flashinfer: head_dim 96; supported are 64, 128, 256"),
        ("cuda", 64, torch.float32, r"flashinfer: dtype torch\.float32; supported are torch\.float16, torch\.bfloat16"),
    ],
)
def test_its_limits_are_named(
    device: str, head_dim: int, dtype: torch.dtype, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "flashinfer", ModuleType("flashinfer"))
    with pytest.raises(Unsupported, match=said):
        backend_module.check_flashinfer(device, head_dim, dtype)
