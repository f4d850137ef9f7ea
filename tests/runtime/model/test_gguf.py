from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, RopeScalingType, TokenType
from gguf.quants import dequantize, quantize

from latticework.lang.errors import BrokenModel, UnsupportedModel
from latticework.runtime.model.gguf import GgufFile, GgufTensor, dequantise
from latticework.runtime.model.gguf_card import gguf_tokenizer
from latticework.runtime.model.layers import Rotary
from latticework.runtime.model.load import load_model
from latticework.runtime.model.locate import find_model
from latticework.runtime.model.weights import transformers_name, unpermute
from latticework.runtime.text.tokenizer import Tokenizer, byte_alphabet
from tests.runtime.model.by_hand import Row, make_runner, save_llama, save_model, step
from tests.runtime.model.families import FAMILIES, LLAMA3_ROPE, Family

Change = Callable[[GGUFWriter], None]


def write_gguf(path: Path, folder: Path, change: Change | None = None, omit: str = "", **metadata: Any) -> Any:
    """A tiny random Llama in llama.cpp's names and order. Returns transformers' model."""
    return write_family(path, save_llama(folder), change, omit, **metadata)


def write_family(
    path: Path, theirs: Any, change: Change | None = None, omit: str = "", kind: str = "F32", **metadata: Any
) -> Any:
    """`theirs` in llama.cpp's names and order, matrices quantised as `kind`; they become what is left of them."""
    config: Any = theirs.config
    architecture = metadata.get("arch", "llama")
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    if architecture == "qwen3":
        writer.add_key_length(config.head_dim)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    texts = [*byte_alphabet(), "<|endoftext|>", "<|im_start|>", "<|im_end|>", "ab", *(f"[PAD{n}]" for n in range(4))]
    writer.add_tokenizer_model(metadata.get("model", "gpt2"))
    writer.add_tokenizer_pre(metadata.get("pre", "smollm"))
    writer.add_token_list(texts)
    kinds = [TokenType.NORMAL] * 256 + [TokenType.CONTROL] * 3 + [TokenType.NORMAL] + [TokenType.UNUSED] * 4
    writer.add_token_types(kinds)
    writer.add_token_merges(metadata.get("merges", ["a b"]))
    writer.add_eos_token_id(metadata.get("eos", 258))
    if change:
        change(writer)
    number = GGMLQuantizationType[kind]
    for name, weight in theirs.state_dict().items():
        if name == omit or (name == "lm_head.weight" and config.tie_word_embeddings):
            continue
        array = weight.numpy()
        if number != GGMLQuantizationType.F32 and array.ndim == 2:
            array = dequantize(quantize(array, number), number)  # the very values that the file will hold
            weight.copy_(torch.from_numpy(array.copy()))
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            array = permute(array, heads)
        if array.ndim == 2:
            writer.add_tensor(llama_cpp_name(name), quantize(np.ascontiguousarray(array), number), raw_dtype=number)
        else:
            writer.add_tensor(llama_cpp_name(name), np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return theirs


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to q and k."""
    rows, *columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, *columns).swapaxes(1, 2).reshape(weight.shape)


def llama_cpp_name(name: str) -> str:
    outside = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    parts = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    if name in outside:
        return outside[name]
    _, _, layer, rest = name.split(".", 3)
    part, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{parts[part]}.{kind}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "m.gguf", tmp_path / "hf")
    return tmp_path / "m.gguf"


def test_a_gguf_runs_as_the_model_it_was_made_from(tmp_path: Path) -> None:
    theirs = write_gguf(tmp_path / "m.gguf", tmp_path / "hf")
    card = find_model(str(tmp_path / "m.gguf"))
    seen: list[tuple[int, int]] = []
    model = load_model(card, "float32", progress=lambda done, total: seen.append((done, total)))
    tokens = list(b"some bytes")
    (logits,) = step(make_runner(model, torch.float32), [(Row([1, 2, 3]), tokens)])
    with torch.no_grad():
        expected = theirs(torch.tensor([tokens])).logits[0]
    assert (logits - expected).abs().max() <= 1e-4
    assert seen[-1] == (30, 30)
    assert card.end_ids == (256, 258)
    assert card.eos_token == "<|im_end|>"
    assert not card.spec.tie_word_embeddings


GGUF_FAMILIES = [family for family in FAMILIES if family.gguf]


@pytest.mark.parametrize("kind", ["F32", "F16", "Q4_0", "Q4_1", "Q8_0"])
@pytest.mark.parametrize("family", GGUF_FAMILIES, ids=lambda family: family.gguf)
def test_every_family_runs_from_a_gguf_with_the_logits_of_its_values(family: Family, kind: str, tmp_path: Path) -> None:
    changes = {**family.base, "hidden_size": 32, "intermediate_size": 64, "tie_word_embeddings": kind == "F16"}
    theirs = save_model(tmp_path / "hf", family.architecture, family.config, **changes)
    write_family(tmp_path / "m.gguf", theirs, kind=kind, arch=family.gguf, pre="qwen2")
    card = find_model(str(tmp_path / "m.gguf"))
    assert card.spec.architecture == family.architecture
    assert card.spec.tie_word_embeddings == (kind == "F16")
    assert card.spec == msgspec.structs.replace(
        find_model(str(tmp_path / "hf")).spec, rms_norm_eps=card.spec.rms_norm_eps, output_bias=False
    )
    tokens = list(b"some bytes")
    (logits,) = step(make_runner(load_model(card, "float32"), torch.float32), [(Row([1, 2, 3]), tokens)])
    with torch.no_grad():
        expected = theirs(torch.tensor([tokens])).logits[0]
    assert expected.abs().max() > 1.0
    assert (logits - expected).abs().max() <= 1e-4


def test_stretched_positions_run_from_a_gguf(tmp_path: Path) -> None:
    """Llama 3's as the factors that llama.cpp's converter writes, others by their name."""

    def llama3(writer: GGUFWriter) -> None:
        plain = Rotary(find_model(str(tmp_path / "plain")).spec, torch.float32)
        stretched = Rotary(find_model(str(tmp_path / "llama3")).spec, torch.float32)
        angle = [torch.atan2(rotary.sin[1], rotary.cos[1])[:4] for rotary in (plain, stretched)]
        writer.add_tensor("rope_freqs.weight", (angle[0] / angle[1]).numpy())

    def linear(writer: GGUFWriter) -> None:
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)

    save_llama(tmp_path / "plain")
    ropes = {
        "llama3": (llama3, LLAMA3_ROPE),
        "linear": (linear, {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}),
    }
    tokens = list(b"some bytes, and some more of them, to get where it matters")
    for name, (change, rope) in ropes.items():
        theirs = save_llama(tmp_path / name, rope_parameters=rope)
        write_family(tmp_path / f"{name}.gguf", theirs, change)
        model = load_model(find_model(str(tmp_path / f"{name}.gguf")), "float32")
        (logits,) = step(make_runner(model, torch.float32), [(Row(list(range(1, 20))), tokens)])
        with torch.no_grad():
            expected = theirs(torch.tensor([tokens])).logits[0]
        assert (logits - expected).abs().max() <= 1e-4, name


def test_the_tokenizer_is_converted_once(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LATTICEWORK_CACHE", str(tmp_path / "cache"))
    card = find_model(str(path))
    tokenizer = Tokenizer.from_file(card.tokenizer)
    assert tokenizer.encode("ab<|im_end|>", special=True) == [259, 258]
    assert tokenizer.token_bytes[259] == b"ab"
    before = Path(card.tokenizer).stat().st_mtime_ns
    assert find_model(str(path)) == card
    assert Path(card.tokenizer).stat().st_mtime_ns == before
    assert [entry.name for entry in Path(card.tokenizer).parent.iterdir()] == ["tokenizer.json"]


def test_qwens_pre_tokenizer_splits_single_digits_and_composes_letters(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", tmp_path / "hf", pre="qwen2")
    tokenizer = gguf_tokenizer(GgufFile(tmp_path / "m.gguf"))
    assert tokenizer.normalizer.normalize_str("e\u0301") == "\u00e9"
    words = [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str("It's 120 times.\n\n x")]
    assert words == ["It", "'s", "\u0120", "1", "2", "0", "\u0120times", ".\u010a\u010a", "\u0120x"]


def test_bos_is_added_where_the_file_says_so(tmp_path: Path) -> None:
    def with_bos(writer: GGUFWriter) -> None:
        writer.add_bos_token_id(257)
        writer.add_add_bos_token(True)

    write_gguf(tmp_path / "m.gguf", tmp_path / "hf", with_bos)
    assert Tokenizer.from_file(find_model(str(tmp_path / "m.gguf")).tokenizer).bos_ids == (257,)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q8_0"])
def test_dequantisation_equals_the_gguf_package(kind: str, tmp_path: Path) -> None:
    number = GGMLQuantizationType[kind]
    values = np.random.default_rng(3).standard_normal((70, 96)).astype(np.float32)
    writer = GGUFWriter(tmp_path / "t.gguf", "llama")
    data = quantize(values, number)
    writer.add_tensor("w", data, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = dequantise(GgufFile(tmp_path / "t.gguf").tensors["w"])
    assert found.dtype == np.float32
    assert np.array_equal(found, dequantize(data, number).reshape(values.shape))


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_k_quants_equal_the_gguf_package(kind: str, tmp_path: Path) -> None:
    number = GGMLQuantizationType[kind]
    _, size = GGML_QUANT_SIZES[number]
    blocks = np.random.default_rng(3).integers(0, 256, (6, size), dtype=np.uint8)
    blocks[:, -4:] = blocks[:, :4] = np.array([0x00, 0x2C, 0x00, 0x28], np.uint8)  # half-precision scales: 2^-4, 2^-5
    data = blocks.reshape(3, 2 * size)
    writer = GGUFWriter(tmp_path / "t.gguf", "llama")
    writer.add_tensor("w", data, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = dequantise(GgufFile(tmp_path / "t.gguf").tensors["w"])
    assert found.shape == (3, 512)
    assert np.isfinite(found).all()
    assert np.array_equal(found, dequantize(data, number))


def test_a_q6_k_block_made_by_hand_has_its_values() -> None:
    """ggml's layout: 128 bytes of low halves, 64 of upper pairs of bits, 16 scales, one half-precision scale."""
    quants = np.arange(256) % 64
    low, high = quants & 15, quants >> 4
    ql, qh = np.zeros(128, np.uint8), np.zeros(64, np.uint8)
    for at, (four, two) in enumerate(zip(low, high, strict=True)):
        half, place = divmod(at, 128)
        quarter, column = divmod(place, 32)
        ql[64 * half + 32 * (quarter % 2) + column] |= four << 4 * (quarter // 2)
        qh[32 * half + column] |= two << 2 * quarter
    scales = np.arange(16, dtype=np.int8) - 5
    data = np.concatenate((ql, qh, scales.view(np.uint8), np.array([0.25], np.float16).view(np.uint8)))
    found = dequantise(GgufTensor("w", (1, 256), int(GGMLQuantizationType.Q6_K), data))
    assert np.array_equal(found[0], 0.25 * np.repeat(scales, 16) * (quants - 32.0))


def test_unpermuting_undoes_llama_cpps_order() -> None:
    weight = torch.randn(24, 5)
    assert torch.equal(unpermute(torch.from_numpy(permute(weight.numpy(), 3)), 3), weight)
    with pytest.raises(BrokenModel):
        unpermute(weight, 5)


def test_an_unknown_tensor_name_is_an_error() -> None:
    assert transformers_name("blk.3.attn_q.weight") == "model.layers.3.self_attn.q_proj.weight"
    with pytest.raises(BrokenModel, match=r"blk\.0\.ffn_gate_exps"):
        transformers_name("blk.0.ffn_gate_exps.weight")


def test_every_truncation_is_a_clear_error(path: Path) -> None:
    data = path.read_bytes()
    metadata_end = GgufFile(path)._at
    for size in [0, 3, 4, 8, 20, 30, *range(40, metadata_end, 997), metadata_end, len(data) - 100]:
        path.write_bytes(data[:size])
        with pytest.raises(BrokenModel, match=r"m\.gguf"):
            find_model(str(path))


def test_damaged_headers_never_crash(path: Path) -> None:
    data = bytearray(path.read_bytes())
    random = np.random.default_rng(5)
    for _ in range(150):
        broken = bytearray(data)
        for at in random.integers(4, 3000, size=4):
            broken[at] = random.integers(256)
        path.write_bytes(broken)
        with contextlib.suppress(BrokenModel, UnsupportedModel):
            find_model(str(path))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"arch": "mamba"}, r"'mamba'; supported in GGUF files: llama \(LlamaForCausalLM\), qwen2"),
        ({"pre": "dbrx"}, "'dbrx'.*'smollm'"),
        ({"model": "llama"}, "tokenizer 'llama'"),
    ],
)
def test_what_is_not_supported_is_listed(metadata: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", tmp_path / "hf", **metadata)
    with pytest.raises(UnsupportedModel, match=message):
        find_model(str(tmp_path / "m.gguf"))


def test_experts_and_stretched_positions_are_unsupported(tmp_path: Path) -> None:
    changes: list[Change] = [
        lambda writer: writer.add_expert_count(8),
        lambda writer: writer.add_string("llama.rope.scaling.type", "yarn"),
        lambda writer: writer.add_rope_dimension_count(4),
    ]
    for index, change in enumerate(changes):
        write_gguf(tmp_path / f"{index}.gguf", tmp_path / "hf", change)
        with pytest.raises(UnsupportedModel, match=f"{index}.gguf"):
            find_model(str(tmp_path / f"{index}.gguf"))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [({"merges": ["a"]}, "'a' is not a merge"), ({"merges": ["a zz"]}, "merges"), ({"eos": 9999}, "eos_token_id")],
)
def test_a_damaged_tokenizer_is_named(metadata: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", tmp_path / "hf", **metadata)
    with pytest.raises(BrokenModel, match=f"m.gguf.*{message}"):
        find_model(str(tmp_path / "m.gguf"))


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", tmp_path / "hf", omit="model.layers.1.mlp.up_proj.weight")
    with pytest.raises(BrokenModel, match=r"m\.gguf: 1 weights are missing.*layers\.1\.mlp\.up_proj"):
        load_model(find_model(str(tmp_path / "m.gguf")), "float32")
