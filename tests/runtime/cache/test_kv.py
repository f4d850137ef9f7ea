"""The KV tensors: shapes, copies between pages, and how many pages fit."""

from pathlib import Path

import pytest
import torch

from latticework.lang.errors import ModelError
from latticework.runtime.cache import kv as kv_module
from latticework.runtime.cache.kv import (
    MOST_PAGES,
    Step,
    allocate_kv,
    available_memory,
    copy_tokens,
    pages_for_memory,
    pages_on_device,
)
from latticework.runtime.model.devices import DeviceMemory
from latticework.runtime.model.spec import ModelSpec

SPEC = ModelSpec(
    architecture="LlamaForCausalLM",
    num_hidden_layers=2,
    hidden_size=8,
    intermediate_size=16,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=2,
    vocab_size=32,
    max_position_embeddings=64,
)


def test_the_cache_has_a_zeroed_tensor_per_layer() -> None:
    kv = allocate_kv(SPEC, pages=5, page_size=3, dtype=torch.float64)
    assert len(kv.keys) == len(kv.values) == 2
    for tensor in (*kv.keys, *kv.values):
        assert tensor.shape == (5, 3, 2, 2)
        assert tensor.dtype == torch.float64
        assert not tensor.any()
    assert kv.page_size == 3


def test_copying_moves_only_the_first_tokens_of_a_page() -> None:
    kv = allocate_kv(SPEC, pages=4, page_size=4, dtype=torch.float32)
    for number, tensor in enumerate((*kv.keys, *kv.values)):
        tensor[1] = torch.arange(16.0).reshape(4, 2, 2) + 100 * number
        tensor[2] = -1.0
    before = [tensor.clone() for tensor in (*kv.keys, *kv.values)]
    copy_tokens(kv, 1, 2, 3)
    for old, tensor in zip(before, (*kv.keys, *kv.values), strict=True):
        assert torch.equal(tensor[2, :3], old[1, :3])
        assert torch.equal(tensor[2, 3:], old[2, 3:])
        assert torch.equal(tensor[[0, 1, 3]], old[[0, 1, 3]])


def test_a_page_copied_onto_itself_stays() -> None:
    kv = allocate_kv(SPEC, pages=2, page_size=4, dtype=torch.bfloat16)
    kv.keys[0][1] = 3.0
    copy_tokens(kv, 1, 1, 2)
    assert (kv.keys[0][1] == 3.0).all()


def test_the_default_pool_takes_a_share_of_free_memory_up_to_a_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    page_bytes = SPEC.kv_bytes_per_token(4) * 16
    monkeypatch.setattr(kv_module, "available_memory", lambda: 100 * page_bytes)
    assert pages_for_memory(SPEC, 4, 16) == 50
    assert pages_for_memory(SPEC, 4, 16, fraction=0.1) == 10
    assert pages_for_memory(SPEC, 4, 16, cap=7 * page_bytes) == 7
    monkeypatch.setattr(kv_module, "available_memory", lambda: 0)
    assert pages_for_memory(SPEC, 4, 16) == 1


STEP = Step(tokens=10, sequences=4, context=64, itemsize=4)
PAGE_BYTES = SPEC.kv_bytes_per_token(4) * 16


def memory(before: int, weights: int, unit: int = PAGE_BYTES) -> DeviceMemory:
    return DeviceMemory(total=before * unit, before=before * unit, free=(before - weights) * unit)


def test_a_gpus_pool_and_the_weights_share_a_fraction_of_what_was_free() -> None:
    assert pages_on_device(SPEC, 16, memory(1000, 300), 0.9, STEP) == 600
    assert pages_on_device(SPEC, 16, memory(1000, 300), 0.5, STEP) == 200
    assert pages_on_device(SPEC, 16, memory(1000, 300), 0.9, STEP, asked=16 * 70 + 5) == 70
    assert pages_on_device(SPEC, 16, memory(10**8, 0), 1.0, STEP) == MOST_PAGES


def test_the_largest_step_fits_beside_a_gpus_pool() -> None:
    for_steps = -(-STEP.bytes(SPEC) // PAGE_BYTES)
    assert pages_on_device(SPEC, 16, memory(1000, 300), 1.0, STEP) == 700 - for_steps
    longer = Step(tokens=10, sequences=4, context=64 * 1024, itemsize=4)
    assert longer.bytes(SPEC) > STEP.bytes(SPEC)


def test_a_pool_that_does_not_fit_says_how_many_pages_do_and_what_changes_that() -> None:
    with pytest.raises(ModelError, match=r"600 KV pages of 16 tokens fit, 601 are needed") as caught:
        pages_on_device(SPEC, 16, memory(1000, 300), 0.9, STEP, asked=16 * 601)
    assert caught.value.field == "kv_tokens"
    assert f"kv_tokens up to {600 * 16} fit" in str(caught.value)
    assert "memory_fraction" in str(caught.value)


def test_weights_that_leave_no_room_for_a_page_are_refused() -> None:
    with pytest.raises(ModelError, match=r"0 KV pages of 16 tokens fit, 1 is needed.*the weights took") as caught:
        pages_on_device(SPEC, 16, memory(1000, 950), 0.9, STEP)
    assert caught.value.field == "memory_fraction"
    assert "quantization" in str(caught.value)


def test_a_pool_that_is_larger_than_memory_is_no_traceback_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(torch, "zeros", full)
    with pytest.raises(ModelError, match=r"a KV pool of 7 pages does not fit into cuda:0.*Tried to allocate"):
        allocate_kv(SPEC, 7, 16, torch.float32, "cuda:0")


def test_free_memory_is_known_here() -> None:
    assert available_memory() > 1 << 20


def test_a_container_limit_is_respected(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    assert kv_module._container_memory(tmp_path) == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert kv_module._container_memory(tmp_path) is None
