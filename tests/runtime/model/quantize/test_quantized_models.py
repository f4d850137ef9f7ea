"""Small models in every quantization: what is held, what it computes, and that a second start finds it packed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from latticework.lang.errors import InvalidArgument, UnsupportedModel
from latticework.lang.ir import Sampling
from latticework.runtime.config import EngineConfig
from latticework.runtime.engine import Engine
from latticework.runtime.model.decoder import Decoder
from latticework.runtime.model.load import load_any, load_model
from latticework.runtime.model.locate import find_model
from latticework.runtime.model.quantize.base import Quantization
from latticework.runtime.model.quantize.by_rows import ByRows
from latticework.runtime.request import GenSegment, Request, TextSegment
from tests.runtime.model.by_hand import Row, make_runner, save_llama, step
from tests.runtime.model.test_gguf import write_family

TOKENS = list(b"some bytes that are a prompt")
CACHE_MB = 64


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LATTICEWORK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def four_bit_file(folder: Path, kind: str = "Q4_1", **changes: object) -> str:
    """A GGUF whose matrices are all in 4 bits."""
    sizes = {"intermediate_size": 64, "initializer_range": 0.1} | changes
    theirs = save_llama(folder / "hf", **sizes)
    write_family(folder / "m.gguf", theirs, kind=kind)
    return str(folder / "m.gguf")


def load(name: str, quantization: Quantization, dtype: str = "float32", cache_mb: int = 0) -> Decoder:
    return load_model(find_model(name), dtype, quantization=quantization, cache_mb=cache_mb)


def logits(model: Decoder, dtype: torch.dtype = torch.float32) -> Tensor:
    (found,) = step(make_runner(model, dtype), [(Row(list(range(1, 9))), TOKENS)])
    return found


def serve_all_rows(model: Decoder, limit: int) -> None:
    for _, linear in model.linears():
        if isinstance(linear.packed, ByRows):
            linear.packed.limit = limit


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1"])
def test_a_files_4_bits_are_computed_with_as_they_are(tmp_path: Path, own_cache: Path, kind: str) -> None:
    name = four_bit_file(tmp_path, kind)
    exact = logits(load(name, "none"))
    allowed = 0.02 * exact.abs().max()  # bfloat16; rounding once more to 4 bits would be ten times that
    model = load(name, "int4")
    assert {linear.packed.few.kind for _, linear in model.linears() if isinstance(linear.packed, ByRows)} == {"int4"}
    for limit in (1 << 20, 0):
        serve_all_rows(model, limit)
        assert (logits(model) - exact).abs().max() < allowed


def test_auto_takes_a_files_own_4_bits(tmp_path: Path, own_cache: Path) -> None:
    name = four_bit_file(tmp_path)
    exact = logits(load(name, "none"))
    model = load(name, "auto")
    for _, linear in model.linears():
        assert isinstance(linear.packed, ByRows)
        assert (linear.packed.few.kind, linear.packed.many.kind) == ("int4", "plain")
    for limit in (1 << 20, 0):
        serve_all_rows(model, limit)
        assert (logits(model) - exact).abs().max() < 0.02 * exact.abs().max()


@pytest.mark.parametrize("quantization", ["int4", "auto"])
def test_two_forms_of_a_weight_hold_the_same_values(
    tmp_path: Path, own_cache: Path, quantization: Quantization
) -> None:
    save_llama(tmp_path, intermediate_size=64)
    model = load(str(tmp_path), quantization)
    for name, linear in model.linears():
        assert isinstance(linear.packed, ByRows)
        assert linear.packed.few.kind == ("int4" if quantization == "int4" and name != "head" else "int8")
        x = torch.randn(5, linear.inputs, generator=torch.Generator().manual_seed(1)).bfloat16().float()
        few, many = linear.packed.few(x), linear.packed.many(x)
        assert (few - many).abs().max() < 0.006 * many.abs().max()


def test_8_bits_lose_less_than_4(tmp_path: Path, own_cache: Path) -> None:
    save_llama(tmp_path, intermediate_size=64)
    plain, eight, rounded = (load(str(tmp_path), kind) for kind in ("none", "int8", "int4"))
    assert plain.held() == {"plain": 13}
    assert eight.held() == {"int8": 13}
    exact = logits(plain)
    errors = [
        (logits(model) - exact).square().mean().sqrt() / exact.square().mean().sqrt() for model in (eight, rounded)
    ]
    assert errors[0] < 0.1
    assert 2 * errors[0] < errors[1] < 1


def test_the_head_keeps_8_bits_unless_its_file_has_4(tmp_path: Path, own_cache: Path) -> None:
    save_llama(tmp_path / "folder", intermediate_size=64)
    packed = load(str(tmp_path / "folder"), "int4").head.packed
    assert isinstance(packed, ByRows)
    assert packed.few.kind == "int8"
    for tied in (True, False):
        (tmp_path / str(tied)).mkdir()
        model = load(four_bit_file(tmp_path / str(tied), tie_word_embeddings=tied), "int4")
        assert isinstance(model.head.packed, ByRows)
        assert model.head.packed.few.kind == "int4"
        assert model.embed.dtype == torch.float32


def test_a_weight_that_cannot_have_4_bits_gets_8_and_that_is_told(
    tmp_path: Path, own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_llama(tmp_path, intermediate_size=48)  # no multiple of 32
    with caplog.at_level(logging.WARNING):
        model = load(str(tmp_path), "int4")
    eight = [
        name
        for name, linear in model.linears()
        if isinstance(linear.packed, ByRows) and linear.packed.few.kind == "int8"
    ]
    assert eight == ["layers.0.mlp.down", "layers.1.mlp.down", "layers.2.mlp.down", "head"]
    assert "layers.2.mlp.down has rows of 48: 4 bits take multiples of 32" in caplog.text
    assert logits(model).isfinite().all()


@pytest.mark.parametrize("quantization", ["int8", "int4", "auto"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_second_start_finds_the_weights_packed(
    tmp_path: Path, own_cache: Path, quantization: Quantization, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = four_bit_file(tmp_path)
    first = load(name, quantization, dtype, CACHE_MB)
    monkeypatch.setattr(Decoder, "load", None)
    seen: list[tuple[int, int]] = []
    card = find_model(name)
    again = load_model(
        card, dtype, progress=lambda *now: seen.append(now), quantization=quantization, cache_mb=CACHE_MB
    )
    assert again.held() == first.held()
    kind = torch.float32 if dtype == "float32" else torch.bfloat16
    assert torch.equal(logits(first, kind), logits(again, kind))
    assert seen == [(done, len(seen)) for done in range(1, len(seen) + 1)]


def test_damaged_weights_are_packed_anew(tmp_path: Path, own_cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = four_bit_file(tmp_path)
    first = logits(load(name, "auto", cache_mb=CACHE_MB))
    (path,) = (own_cache / "weights").glob("*/layers.1.qkv.int4.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    with caplog.at_level(logging.WARNING):
        assert torch.equal(logits(load(name, "auto", cache_mb=CACHE_MB)), first)
    assert "layers.1.qkv.int4.safetensors is damaged" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert torch.equal(logits(load(name, "auto", cache_mb=CACHE_MB)), first)
    assert not caplog.text


def test_another_file_under_the_same_name_is_packed_anew(tmp_path: Path, own_cache: Path) -> None:
    name = four_bit_file(tmp_path)
    first = logits(load(name, "int8", cache_mb=CACHE_MB))
    four_bit_file(tmp_path, initializer_range=0.15)
    other = logits(load(name, "int8", cache_mb=CACHE_MB))
    assert not torch.equal(first, other)
    assert torch.equal(other, logits(load(name, "int8")))


def test_a_model_that_is_not_quantised_is_not_copied(tmp_path: Path, own_cache: Path) -> None:
    load(four_bit_file(tmp_path), "none", cache_mb=CACHE_MB)
    assert not (own_cache / "weights").exists()


def test_what_cannot_be_quantised_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="quantization is 'int8' with dtype float64") as caught:
        load("tiny", "int8", "float64")
    assert caught.value.field == "quantization"
    save_llama(tmp_path)
    with pytest.raises(UnsupportedModel, match="runs through transformers has only 'none'"):
        load_any(find_model(str(tmp_path)), EngineConfig(model_impl="transformers", quantization="int8"))


def outputs(engine: Engine, numbers: Sequence[int]) -> list[bytes]:
    """Greedy and seeded texts of requests that run together."""
    texts = dict.fromkeys(numbers, b"")
    for number in numbers:
        sampling = Sampling(max_tokens=12, temperature=float(number % 2), seed=number, ignore_eos=True)
        request = Request(number, (TextSegment(tuple(b"Text %d" % number)), GenSegment(sampling)))
        assert engine.submit(b"front", request) is None
    while engine.has_work():
        for event in engine.step().get(b"front", []):
            texts[event.request] += event.data
    return [texts[number] for number in numbers]


def test_in_8_bits_a_text_is_the_same_whatever_runs_beside_it() -> None:
    config = EngineConfig(model="tiny", dtype="float32", quantization="int8", kv_tokens=2048, threads=1)
    engine = Engine.load(config)
    assert engine.stats().matrices == {"int8": 9}
    together = outputs(engine, range(10))
    assert [outputs(engine, [number])[0] for number in range(10)] == together
