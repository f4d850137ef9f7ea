"""What a GGUF's metadata says: the model's shape, its tokenizer, its end tokens and chat template.

The tokenizer is built with the `tokenizers` library from vocabulary, merges and pre-tokenizer name; that takes a
fraction of a second, so it needs no process of its own, and is done once per file. No torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as HfTokenizer

from latticework.lang.errors import BrokenModel, UnsupportedModel
from latticework.runtime import config
from latticework.runtime.model.files import write_atomically
from latticework.runtime.model.gguf import GgufFile, dequantise
from latticework.runtime.model.registry import SUPPORTED
from latticework.runtime.model.spec import LinearScaling, ModelCard, ModelSpec, RopeFactors

CONVERSION = 1  # raise it when a conversion changes, so that cached ones are not used

_ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_CONTROL, _USER_DEFINED = 3, 4  # ggml's token types
# Control tokens that end a text in the families we run, whatever eos_token_id says (llama.cpp does the same).
_END_TEXTS = frozenset({"<|endoftext|>", "<|im_end|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "</s>"})
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = _LLAMA3_SPLIT.replace("{1,3}", "")

T = TypeVar("T", bound="int | float | str | list[object]")


def gguf_card(path: Path, name: str) -> ModelCard:
    """Reads the header; converts the tokenizer unless the cache folder has it.

    Raises BrokenModel or UnsupportedModel naming the file.
    """
    file = GgufFile(path)
    spec = gguf_spec(file)
    spec.check(str(path))
    tokens = _strings(file, "tokenizer.ggml.tokens")
    types = _types(file, len(tokens))
    tokenizer = config.cache_folder() / "tokenizers" / f"{file.metadata_digest}-{CONVERSION}" / "tokenizer.json"
    if not tokenizer.exists():
        write_atomically(tokenizer, gguf_tokenizer(file).to_str())
    template = file.metadata.get("tokenizer.chat_template")
    return ModelCard(
        name=name,
        weights=str(path),
        tokenizer=str(tokenizer),
        spec=spec,
        end_ids=_end_ids(file, tokens, types),
        chat_template=template if isinstance(template, str) else None,
        bos_token=_named_token(file, tokens, "bos"),
        eos_token=_named_token(file, tokens, "eos"),
    )


def gguf_spec(file: GgufFile) -> ModelSpec:
    """The model's shape. Raises UnsupportedModel for what would be computed wrongly."""
    kind = _get(file, "general.architecture", str)
    if kind not in _ARCHITECTURES:
        known = ", ".join(f"{theirs} ({ours})" for theirs, ours in _ARCHITECTURES.items() if ours in SUPPORTED)
        raise UnsupportedModel(f"{file.path} has the architecture {kind!r}; supported in GGUF files: {known}")
    if file.metadata.get(f"{kind}.expert_count"):
        raise UnsupportedModel(f"{file.path} is a mixture of experts; supported: dense models")
    hidden = _get(file, f"{kind}.embedding_length", int)
    heads = _get(file, f"{kind}.attention.head_count", int)
    head_dim = _get(file, f"{kind}.attention.key_length", int, hidden // max(heads, 1))
    rotated = _get(file, f"{kind}.rope.dimension_count", int, head_dim)
    if rotated != head_dim:
        raise UnsupportedModel(f"{file.path} rotates {rotated} of {head_dim} dimensions; supported: all of them")
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise BrokenModel(f"{file.path} has no tensor token_embd.weight")
    return ModelSpec(
        architecture=_ARCHITECTURES[kind],
        num_hidden_layers=_get(file, f"{kind}.block_count", int),
        hidden_size=hidden,
        intermediate_size=_get(file, f"{kind}.feed_forward_length", int),
        num_attention_heads=heads,
        num_key_value_heads=_get(file, f"{kind}.attention.head_count_kv", int, heads),
        head_dim=head_dim,
        vocab_size=embedding.shape[0],
        max_position_embeddings=_get(file, f"{kind}.context_length", int),
        rope_theta=_get(file, f"{kind}.rope.freq_base", float, 10000.0),
        rope_scaling=_rope_scaling(file, kind, head_dim),
        rms_norm_eps=_get(file, f"{kind}.attention.layer_norm_rms_epsilon", float),
        tie_word_embeddings="output.weight" not in file.tensors,
        qk_norm="head" if "blk.0.attn_q_norm.weight" in file.tensors else None,
        attention_bias="blk.0.attn_q.bias" in file.tensors,
        output_bias="blk.0.attn_output.bias" in file.tensors,
        mlp_bias="blk.0.ffn_down.bias" in file.tensors,
    )


def _rope_scaling(file: GgufFile, kind: str, head_dim: int) -> LinearScaling | RopeFactors | None:
    """llama.cpp stores Llama 3's stretching as the factors that come of it."""
    scaling = _get(file, f"{kind}.rope.scaling.type", str, "none")
    factors = file.tensors.get("rope_freqs.weight")
    if factors is not None and scaling == "none":
        found = dequantise(factors).reshape(-1).tolist()
        if len(found) != head_dim // 2 or min(found) <= 0:
            raise BrokenModel(f"{file.path}: rope_freqs.weight is {found}; expected {head_dim // 2} factors above 0")
        return RopeFactors(factors=tuple(found))
    if scaling == "linear" and factors is None:
        factor = _get(file, f"{kind}.rope.scaling.factor", float)
        if factor <= 0:
            raise BrokenModel(f"{file.path}: {kind}.rope.scaling.factor is {factor}; expected more than 0")
        return LinearScaling(factor=factor)
    if scaling != "none":
        raise UnsupportedModel(
            f"{file.path} stretches its rotary positions ({scaling!r}); supported in GGUF files: linear, llama3",
            hint="use the model's safetensors folder",
        )
    return None


# ---------------------------------------------------------------- tokenizer


def gguf_tokenizer(file: GgufFile) -> HfTokenizer:
    """A byte-level BPE tokenizer equal to the one the file was made from. Raises UnsupportedModel."""
    kind, split = _get(file, "tokenizer.ggml.model", str), _get(file, "tokenizer.ggml.pre", str, "default")
    if kind != "gpt2" or split not in _PRE_TOKENIZERS:
        raise UnsupportedModel(
            f"{file.path} has the tokenizer {kind!r} with the pre-tokenizer {split!r}; "
            f"supported: 'gpt2' with {', '.join(sorted(map(repr, _PRE_TOKENIZERS)))}",
            hint="use the model's safetensors folder with its tokenizer.json",
        )
    tokens = _strings(file, "tokenizer.ggml.tokens")
    types = _types(file, len(tokens))
    merges = [_merge(file, line) for line in _strings(file, "tokenizer.ggml.merges")]
    llama3 = split == "llama-bpe"
    try:
        model = models.BPE({text: token for token, text in enumerate(tokens)}, merges, ignore_merges=llama3)
    except Exception as error:  # the tokenizers library raises plain Exception
        raise BrokenModel(f"{file.path}: the tokenizer's merges do not fit its vocabulary: {error}") from None
    found = HfTokenizer(model)
    found.pre_tokenizer = _PRE_TOKENIZERS[split]()
    if split == "qwen2":
        found.normalizer = normalizers.NFC()
    found.decoder = decoders.ByteLevel()
    for kind_number, special in ((_CONTROL, True), (_USER_DEFINED, False)):
        added = [text for text, number in zip(tokens, types, strict=True) if number == kind_number]
        found.add_tokens([AddedToken(text, special=special, normalized=False) for text in added])
    if file.metadata.get("tokenizer.ggml.add_bos_token", llama3):
        bos = _named_token(file, tokens, "bos")
        found.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=None, special_tokens=[(bos, tokens.index(bos))]
        )
    return found


def _smollm() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


def _gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


_PRE_TOKENIZERS: dict[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "smollm": _smollm,
    "gpt-2": _gpt2,
    "llama-bpe": lambda: _split(_LLAMA3_SPLIT),
    "qwen2": lambda: _split(_QWEN2_SPLIT),
}


def _merge(file: GgufFile, line: str) -> tuple[str, str]:
    left, _, right = line.partition(" ")
    if not left or not right:
        raise BrokenModel(f"{file.path}: {line!r} is not a merge of two tokens")
    return left, right


# ---------------------------------------------------------------- metadata


def _get(file: GgufFile, key: str, kind: type[T], default: T | None = None) -> T:
    value = file.metadata.get(key, default)
    if value is None:
        raise BrokenModel(f"{file.path} lacks {key}")
    if not isinstance(value, kind):
        raise BrokenModel(f"{file.path}: {key} is a {type(value).__name__}; expected {kind.__name__}")
    return value


def _strings(file: GgufFile, key: str) -> list[str]:
    found = _get(file, key, list)
    if not all(isinstance(item, str) for item in found):
        raise BrokenModel(f"{file.path}: {key} holds something that is not a string")
    return [str(item) for item in found]


def _types(file: GgufFile, count: int) -> list[object]:
    types = _get(file, "tokenizer.ggml.token_type", list)
    if len(types) != count:
        raise BrokenModel(f"{file.path} has {count} tokens but {len(types)} token types")
    return types


def _named_token(file: GgufFile, tokens: list[str], role: str) -> str:
    token = file.metadata.get(f"tokenizer.ggml.{role}_token_id")
    if token is None:
        return ""
    if not isinstance(token, int) or not 0 <= token < len(tokens):
        raise BrokenModel(f"{file.path}: tokenizer.ggml.{role}_token_id is {token}, no token of the vocabulary")
    return tokens[token]


def _end_ids(file: GgufFile, tokens: list[str], types: list[object]) -> tuple[int, ...]:
    texts = {_named_token(file, tokens, role) for role in ("eos", "eot", "eom")}
    found = {tokens.index(text) for text in texts if text}
    found |= {token for token, text in enumerate(tokens) if types[token] == _CONTROL and text in _END_TEXTS}
    if not found:
        raise BrokenModel(f"{file.path} names no end token")
    return tuple(sorted(found))
