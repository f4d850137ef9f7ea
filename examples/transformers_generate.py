"""The constraints without the runtime: as a logits processor for transformers.

The model here is tiny and random, so nothing but the constraint makes sense of its output. With a real one, put
AutoModelForCausalLM.from_pretrained(name) and AutoTokenizer.from_pretrained(name) in place of `tiny_model`.
"""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from latticework.lang.ir import Lark
from latticework.runtime.constrain import ConstraintLogitsProcessor, Vocabulary, compile_constraint

SUMS = r"""
start: sum "=" NUMBER
sum: sum ("+" | "-") NUMBER | NUMBER
NUMBER: /[1-9][0-9]{0,3}/
"""


def tiny_model() -> tuple[Any, Any]:
    """Two random layers over single bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = {token: index for index, token in enumerate([*alphabet, "<end>"])}
    backend = Tokenizer(models.BPE(vocab=tokens, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<end>")
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    return LlamaForCausalLM(config), tokenizer


def main() -> None:
    model, tokenizer = tiny_model()
    vocabulary = Vocabulary.from_tokenizer(tokenizer, size=model.config.vocab_size)
    automaton = compile_constraint(Lark(SUMS), vocabulary)
    inputs = tokenizer(["A sum: ", "Another: "], return_tensors="pt", padding=True, padding_side="left")
    inputs.pop("token_type_ids", None)
    processor = ConstraintLogitsProcessor(automaton, max_new_tokens=24)
    outputs = model.generate(**inputs, logits_processor=[processor], max_new_tokens=24, do_sample=True)
    for text in tokenizer.batch_decode(outputs[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True):
        print(text)


if __name__ == "__main__":
    main()
