"""The kernels that work row by row (norm, gate, turning and storing) against their twins, on odd sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from latticework.kernels.gated import ACTIVATIONS, gated, gated_reference
from latticework.kernels.rms_norm import rms_norm, rms_norm_reference
from latticework.kernels.turn_and_store import HeadNorm, turn_and_store, turn_and_store_reference
from tests.kernels.interpreted.device import INTERPRETED
from tests.kernels.interpreted.paged_inputs import error_of

# One rounding: the interpreter truncates to bfloat16. A GPU takes roots and powers to 22 bits.
TOLERANCE = {torch.float32: 1e-6 if INTERPRETED else 5e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("size", "offset", "adding"), [(40, 0.0, True), (64, 1.0, False), (1, 0.0, True)])
def test_norms_equal_their_twin(dtype: torch.dtype, size: int, offset: float, adding: bool) -> None:
    torch.manual_seed(size)
    x = torch.randn(3, 2 * size).to(dtype)[:, :size]  # a view of wider rows
    weight, residual = torch.randn(size).to(dtype), torch.randn(3, size).to(dtype) if adding else None
    normed, total = rms_norm(x, weight, 1e-5, residual, offset)
    assert normed.dtype == total.dtype == dtype
    expected = x if residual is None else (x.float() + residual.float()).to(dtype)
    assert error_of(total, expected) <= TOLERANCE[dtype]
    exact, _ = rms_norm_reference(total.double(), weight.double(), 1e-5, None, offset)
    assert error_of(normed, exact) <= TOLERANCE[dtype]


def test_what_norms_cannot_take_is_named() -> None:
    x, weight = torch.zeros(2, 8), torch.ones(8)
    cases: Any = [
        ((x.double(), weight, 1e-5), TypeError, "float64; supported are"),
        ((x, weight.half(), 1e-5), TypeError, "weight is torch.float16"),
        ((x, weight[:4], 1e-5), ValueError, r"weight \(4,\); expected \(8,\)"),
        ((x, weight, 1e-5, x[:1]), ValueError, r"residual \(1, 8\)"),
        ((torch.zeros(1, 20000), torch.ones(20000), 1e-5), ValueError, "size 20000; supported are 1 to 16384"),
        ((torch.zeros(8, 2).t(), weight, 1e-5), ValueError, "x is not contiguous"),
    ]
    for arguments, error, text in cases:
        with pytest.raises(error, match=f"rms_norm: .*{text}"):
            rms_norm(*arguments)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # as meant: 1 / (1 + inf) is 0
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gates_equal_their_twin(dtype: torch.dtype, activation: str) -> None:
    torch.manual_seed(1)
    x = 3 * torch.randn(2, 2 * 1030)
    x[0, :4] = torch.tensor([-100.0, 100.0, 0.0, -0.0])
    x = x.to(dtype)
    out = gated(x, activation)
    assert out.dtype == dtype
    assert error_of(out, gated_reference(x.double(), activation)) <= TOLERANCE[dtype]


def test_what_gates_cannot_take_is_named() -> None:
    for arguments, error, text in [
        ((torch.zeros(2, 8), "relu"), ValueError, "activation 'relu'; supported are silu"),
        ((torch.zeros(2, 7), "silu"), ValueError, r"x \(2, 7\); expected"),
        ((torch.zeros(2, 8).double(), "silu"), TypeError, "dtype torch.float64"),
    ]:
        with pytest.raises(error, match=f"gated: {text}"):
            gated(*arguments)


HEADS = {  # heads, kv_heads, head_dim, rotary_dim (None: not turned), normed
    "a Llama": (4, 2, 8, 8, False),
    "a Qwen3, odd heads": (5, 1, 20, 20, True),
    "part of a head turns": (2, 2, 12, 4, False),
    "no positions": (3, 1, 16, None, False),
    "normed, no positions": (9, 3, 8, None, True),
}


def make_heads(
    heads: int, kv_heads: int, head_dim: int, turning: int | None, normed: bool, dtype: torch.dtype
) -> list[Any]:
    torch.manual_seed(heads)
    tokens, page_size = 5, 3
    qkv = torch.randn(tokens, (heads + 2 * kv_heads) * head_dim).to(dtype)
    positions = torch.tensor([0, 1, 30, 7, 2])
    slots = torch.tensor([11, 4, 3, 0, 8])
    turn = None
    if turning is not None:
        angles = torch.rand(31, turning // 2).repeat(1, 2) * 6
        turn = (angles.cos().to(dtype), angles.sin().to(dtype))
    q_weight, k_weight = (torch.randn(2, head_dim) + 1).to(dtype)
    norm = HeadNorm(q_weight, k_weight, 1e-6, 0.5) if normed else None
    keys, values = (torch.zeros(4, page_size, kv_heads, head_dim, dtype=dtype) for _ in range(2))
    return [qkv, positions, slots, keys, values, turn, norm]


def in_double(argument: Any) -> Any:
    if isinstance(argument, HeadNorm):
        return HeadNorm(argument.q.double(), argument.k.double(), argument.eps, argument.offset)
    if isinstance(argument, tuple):
        return tuple(in_double(part) for part in argument)
    return argument.double() if isinstance(argument, Tensor) and argument.is_floating_point() else argument


@pytest.mark.parametrize("shape", HEADS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_turning_and_storing_equals_its_twin(shape: str, dtype: torch.dtype) -> None:
    arguments = make_heads(*HEADS[shape], dtype)
    wide = [in_double(argument) for argument in arguments]
    expected = [turn_and_store_reference(*wide), *wide[3:5]]
    for got, exact in zip([turn_and_store(*arguments), *arguments[3:5]], expected, strict=True):
        assert got.dtype == dtype
        assert error_of(got, exact) <= 2 * TOLERANCE[dtype], "cos and sin are rounded too"


def test_what_turning_cannot_take_is_named() -> None:
    qkv, positions, slots, keys, values, turn, norm = make_heads(*HEADS["a Qwen3, odd heads"], torch.float32)
    for arguments, error, text in [
        ((qkv.double(), positions, slots, keys, values, turn, norm), TypeError, "float64; supported are"),
        ((qkv, positions.int(), slots, keys, values, turn, norm), TypeError, "positions .*int32"),
        ((qkv[:, :-1], positions, slots, keys, values, turn, norm), ValueError, r"qkv \(5, 139\)"),
        ((qkv, positions, slots, keys.half(), values, turn, norm), TypeError, "keys is torch.float16"),
        ((qkv, positions, slots, keys, values, (turn[0][:, :5],) * 2, norm), ValueError, r"cos \(31, 5\)"),
        ((qkv, positions, slots, keys, values, turn, HeadNorm(norm.q[:4], norm.k, 1e-5)), ValueError, "norm.q"),
    ]:
        with pytest.raises(error, match=f"turn_and_store: .*{text}"):
            turn_and_store(*arguments)


def test_the_twins_run_where_the_environment_chooses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATTICEWORK_KERNELS", "torch")
    x, weight = torch.randn(2, 8), torch.randn(8)
    assert torch.equal(rms_norm(x, weight, 1e-5, x)[0], rms_norm_reference(x, weight, 1e-5, x)[0])
    assert torch.equal(gated(x, "silu"), gated_reference(x, "silu"))
    arguments = make_heads(*HEADS["a Llama"], torch.float32)
    assert torch.equal(turn_and_store(*arguments), turn_and_store_reference(*arguments))
