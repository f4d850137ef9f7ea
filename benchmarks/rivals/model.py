"""The default model in the format of transformers and vLLM: the GGUF's own values, dequantised, in bfloat16.

The tokenizer is the one that we converted from the GGUF, with its digit split; transformers' own conversion of a GGUF
loses that.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from latticework.runtime.model.spec import ModelCard
from latticework.runtime.model.weights import gguf_weights

LLAMA_SHAPE = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
)


def llama(card: ModelCard, dtype: Any) -> Any:
    """transformers' model with the weights of a GGUF. dtype: torch's."""
    from transformers import LlamaConfig, LlamaForCausalLM

    spec = card.spec
    config = LlamaConfig(
        **{name: getattr(spec, name) for name in LLAMA_SHAPE},
        rope_parameters={"rope_type": "default", "rope_theta": spec.rope_theta},
    )
    model: Any = LlamaForCausalLM(config)
    model.load_state_dict(dict(gguf_weights(Path(card.weights), spec)), strict=False)  # the head is tied
    return model.to(dtype).eval()


def write_hf_folder(card: ModelCard, folder: Path) -> None:
    """All or nothing: a folder is whole, or not there."""
    import torch
    from transformers import GenerationConfig, PreTrainedTokenizerFast

    unfinished = folder.with_suffix(".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    model = llama(card, torch.bfloat16)
    ends = [int(token) for token in card.end_ids]
    model.config.eos_token_id = ends
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=ends[0])
    model.save_pretrained(unfinished, safe_serialization=True)
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_file=card.tokenizer, bos_token=card.bos_token or None, eos_token=card.eos_token
    )
    tokenizer.chat_template = card.chat_template
    tokenizer.save_pretrained(unfinished)
    _name_class(unfinished / "tokenizer_config.json")
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def _name_class(path: Path) -> None:
    """By the name that older versions of transformers know too: a rival has its own."""
    found = json.loads(path.read_text(encoding="utf-8"))
    found["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")
