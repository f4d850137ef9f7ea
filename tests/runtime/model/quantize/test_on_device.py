"""Weights of fewer bits as a GPU holds them; the kernels' twins multiply here, the kernels in tests/kernels."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import quantize
from torch import Tensor

pytest.importorskip("triton")

from latticework.lang.errors import InvalidArgument
from latticework.runtime.model import mover
from latticework.runtime.model.decoder import Decoder
from latticework.runtime.model.dummy_weights import dummy_weights
from latticework.runtime.model.gguf import GgufTensor, dequantise, four_bit_groups
from latticework.runtime.model.load import load_model
from latticework.runtime.model.locate import find_model
from latticework.runtime.model.mover import Mover, moved
from latticework.runtime.model.quantize import on_device
from latticework.runtime.model.quantize.base import Quantization
from latticework.runtime.model.quantize.four_bit import FourBit
from latticework.runtime.model.quantize.on_device import DevicePacking, int4_as_stored, int4_of, int8_of
from latticework.runtime.model.tiny import SPEC
from latticework.runtime.model.weights import gguf_weights
from tests.runtime.model.quantize.test_quantized_models import four_bit_file


@pytest.fixture(autouse=True)
def _twins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATTICEWORK_KERNELS", "torch")


def make_model(quantization: Quantization) -> Decoder:
    packing = DevicePacking(quantization, torch.float32)
    model = Decoder(SPEC, torch.float32, source=packing.source_dtype)
    model.load(dummy_weights(model), packing)
    return model


@pytest.mark.parametrize(
    ("quantization", "held"),
    [
        ("none", {"plain": 9}),
        ("int8", {"int8": 9}),
        ("int4", {"int4": 8, "int8": 1}),
        ("auto", {"int8": 9}),
    ],
)
def test_every_matrix_gets_the_form_that_is_asked_for(quantization: Quantization, held: dict[str, int]) -> None:
    assert make_model(quantization).held() == held


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_products_are_those_of_the_nearest_steps(quantization: Quantization) -> None:
    exact = dict(dummy_weights(Decoder(SPEC, torch.float32)))
    model = make_model(quantization)
    x = torch.randn(3, SPEC.hidden_size, generator=torch.Generator().manual_seed(1))
    for name, linear in model.linears():
        if not name.endswith("gate_up"):
            continue
        at = f"model.{name.removesuffix('gate_up')}"
        weight = torch.cat((exact[f"{at}gate_proj.weight"], exact[f"{at}up_proj.weight"]))
        step = weight.abs().amax(1) / 127 if quantization == "int8" else steps_of_groups(weight)
        worst = x.abs().sum(1, keepdim=True) * step.max() * 0.55
        assert ((linear(x) - x @ weight.T).abs() <= worst).all()


def steps_of_groups(weight: Tensor) -> Tensor:
    groups = weight.unflatten(1, (-1, 32))
    return (groups.amax(2) - groups.amin(2)) / 15


@pytest.mark.parametrize("kind", [GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q4_1])
def test_a_files_own_four_bits_are_kept(kind: GGMLQuantizationType) -> None:
    blocks = quantize(np.random.default_rng(3).standard_normal((6, 96)).astype(np.float32), kind)
    tensor = GgufTensor("w", (6, 96), kind.value, np.ascontiguousarray(blocks).reshape(-1))
    groups = four_bit_groups(tensor)
    assert groups is not None
    weight = int4_as_stored(FourBit(*map(torch.from_numpy, groups)))
    assert (weight.minima is None) == (kind == GGMLQuantizationType.Q4_0)
    torch.testing.assert_close(weight.dequantise(), torch.from_numpy(dequantise(tensor)), rtol=0, atol=1e-6)


def test_a_matrix_is_quantised_a_few_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    weight = torch.randn(10, 64)
    weight[6:] = 0.0  # in pieces of their own: no minimum there
    whole8, whole4 = int8_of(weight), int4_of(weight)
    monkeypatch.setattr(on_device, "ROWS", 3)
    assert torch.equal(int8_of(weight).dequantise(), whole8.dequantise())
    assert torch.equal(int4_of(weight).dequantise(), whole4.dequantise())
    assert not whole4.dequantise()[6:].any()


def test_rows_that_are_no_multiple_of_a_group_get_eight_bits(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "latticework.model"):
        form = DevicePacking("int4", torch.float32).pack("odd", torch.randn(4, 40), torch.ones(4), is_head=False)
    assert form.kind == "int8"
    assert "odd has rows of 40" in caplog.text
    assert form(torch.zeros(2, 40)).tolist() == [[1.0] * 4] * 2  # the bias


def test_numbers_that_the_kernels_do_not_multiply_are_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"quantization is 'int8' with dtype torch\.float64; int8_matmul"):
        DevicePacking("int8", torch.float64)
    assert DevicePacking("none", torch.float64).source_dtype == torch.float64


def test_a_files_weights_are_moved_and_packed_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = find_model(four_bit_file(tmp_path, "Q4_0"))
    exact = load_model(card, "float32")
    packing = DevicePacking("auto", torch.float32)
    model = Decoder(card.spec, torch.float32, source=packing.source_dtype)
    monkeypatch.setattr(mover, "_WORTH_IT", 0)
    weights = gguf_weights(Path(card.weights), card.spec, four_bits=packing.wants_four_bits)
    model.load(moved(weights, Mover(torch.device("cpu"), window=1000, pinned=False)), packing)
    assert model.held().keys() <= {"int4", "int8"}
    assert model.held()["int4"] >= 8
    x = torch.randn(3, card.spec.hidden_size, generator=torch.Generator().manual_seed(1))
    for (name, linear), (_, other) in zip(model.linears(), exact.linears(), strict=True):
        if linear.packed is not None and linear.packed.kind == "int4" and linear.inputs == x.shape[1]:
            torch.testing.assert_close(linear(x), other(x), rtol=0, atol=1e-4, msg=name)
