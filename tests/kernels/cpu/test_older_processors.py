"""The library as processors without AVX-512 or without AVX build it, run on this one."""

from __future__ import annotations

import platform
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from latticework.kernels.cpu import build
from latticework.kernels.cpu.draw import draw, draw_reference
from latticework.kernels.cpu.int4_matmul import int4_matmul, int4_matmul_reference, pack_int4
from latticework.kernels.cpu.int8_matmul import Int8Packed, int8_matmul, int8_matmul_reference
from latticework.kernels.cpu.library import DTYPES, Library
from latticework.kernels.cpu.paged_attention import AttentionPlan, paged_attention, paged_attention_reference
from latticework.kernels.cpu.pointwise import TORCH, NativePointwise
from tests.kernels.cpu.test_draw import random_draws, random_logits
from tests.runtime.attention.batches import make_batch, make_inputs, make_kv

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="of x86 processors"),
]


@pytest.mark.parametrize("processor", ["x86-64-v2", "haswell", "cascadelake"])
def test_the_operations_equal_their_twins(processor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if processor == "cascadelake" and torch.cpu.get_capabilities().get("avx512_vnni") is not True:
        pytest.skip("this processor has no AVX-512")
    flags = tuple(flag.replace("native", processor) for flag in build.FLAGS)
    monkeypatch.setattr(build, "FLAGS", flags)
    library = Library(build.build(tmp_path))
    assert not library.uses_tiles
    torch.manual_seed(5)
    for dtype in DTYPES:
        check_attention(library, dtype)
        check_pointwise(library, dtype)
        check_draw(library, dtype)
    if library.multiplies_bytes:
        check_bytes(library)


def check_attention(library: Library, dtype: torch.dtype) -> None:
    batch, pages = make_batch([(1, 300), (5, 170), (1, 1)], 16, np.random.default_rng(3))
    kv = make_kv(pages, 16, 3, 64, dtype)
    inputs = make_inputs(batch, 9, 3, 64, dtype)
    arrays = batch.slots, batch.positions, batch.starts, batch.lengths, batch.page_table
    plan = AttentionPlan(library, *arrays, np.arange(3), 16)
    found = paged_attention(library, *inputs, kv.keys[0], kv.values[0], plan, 0.125)
    expected = paged_attention_reference(*inputs, kv.keys[0], kv.values[0], batch, 0.125)
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE[dtype])


def check_bytes(library: Library) -> None:
    codes, scales = torch.randint(-127, 128, (49, 96), dtype=torch.int8), torch.rand(49)
    for rows in (1, 3, 18):
        x = torch.randn(rows, 96)
        found = int8_matmul(library, x, Int8Packed(codes, scales), None)
        torch.testing.assert_close(found, int8_matmul_reference(x, codes, scales, None), rtol=1e-5, atol=1e-3)
        four, (scale, zero) = codes.view(torch.uint8) % 16, torch.rand(2, 49, 3)
        found = int4_matmul(library, x, pack_int4(four, scale, zero), 49, None)
        torch.testing.assert_close(found, int4_matmul_reference(x, four, scale, zero, None), rtol=1e-5, atol=1e-3)


def check_pointwise(library: Library, dtype: torch.dtype) -> None:
    native, close = NativePointwise(library), TOLERANCE[dtype]
    x, weight = torch.randn(5, 102, dtype=dtype), torch.randn(102, dtype=dtype)
    heads, angles = torch.randn(5, 3, 34, dtype=dtype), torch.randn(5, 1, 34, dtype=dtype)
    for found, expected in (
        (native.rms_norm(x, weight, 1e-5), TORCH.rms_norm(x, weight, 1e-5)),
        (native.gate(x, False), TORCH.gate(x, False)),
        (native.gate(x, True), TORCH.gate(x, True)),
        (native.rotate(heads.clone(), angles.cos(), angles.sin()), TORCH.rotate(heads, angles.cos(), angles.sin())),
    ):
        torch.testing.assert_close(found, expected, rtol=close, atol=close)


def check_draw(library: Library, dtype: torch.dtype) -> None:
    logits, draws = random_logits(300, 301, seed=5).to(dtype), random_draws(300, 301, random.Random(5))
    assert draw(library, logits, draws) == draw_reference(logits, draws)
