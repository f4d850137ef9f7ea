"""The default model against transformers, on the same weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from latticework.runtime.model.gguf import GgufFile, dequantise
from latticework.runtime.model.load import load_model
from latticework.runtime.model.locate import find_model
from latticework.runtime.model.weights import gguf_weights
from latticework.runtime.text.chat import ChatTemplate
from latticework.runtime.text.tokenizer import Tokenizer
from tests.runtime.model.by_hand import PAGE_SIZE, Row, make_runner, step

QUESTIONS = [
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Count from 1 to 20.",
    "Explain photosynthesis to a child.",
    "Name three prime numbers above 100.",
    "Translate 'good morning' into Spanish.",
    "Who wrote Hamlet?",
    "List five fruits.",
    "What is 17 times 3?",
    "Tell me a story about a dragon.",
    "Give me a recipe for pancakes.",
    "What causes rain?",
    "Describe the colour blue.",
    "Write a Python function that adds two numbers.",
    "What is a prime number?",
    "Summarise the story of Romeo and Juliet.",
    "How do bees make honey?",
    "Why is the sky blue?",
    "Give three tips for sleeping well.",
    "Write a short poem about winter.",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(find_model("smollm2").tokenizer)


@pytest.fixture(scope="module")
def theirs() -> LlamaForCausalLM:
    """transformers' class with our dequantised weights, float32."""
    card = find_model("smollm2")
    spec = card.spec
    config = LlamaConfig(
        **{name: getattr(spec, name) for name in spec.__struct_fields__ if name not in ("architecture", "rope_theta")},
        rope_parameters={"rope_type": "default", "rope_theta": spec.rope_theta},
        eos_token_id=None,  # generate() goes on past an end token, as the comparison does
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.to_empty(device="cpu")
    model.load_state_dict(dict(gguf_weights(Path(card.weights), spec)), strict=False)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its angles are no weights
    return model.eval()


def prompts(tokenizer: Tokenizer, count: int) -> list[list[int]]:
    template = ChatTemplate.of(find_model("smollm2"))
    return [
        tokenizer.encode_pieces(template.pieces([{"role": "user", "content": question}]))[0]
        for question in QUESTIONS[:count]
    ]


def greedy(asked: list[list[int]], count: int) -> list[list[int]]:
    """`count` tokens for every prompt, all in one batch."""
    runner = make_runner(load_model(find_model("smollm2"), "float32"), torch.float32, pages=1 + 40 * len(asked))
    pages = iter(range(1, 1 + 40 * len(asked)))
    rows = [Row([next(pages) for _ in range((len(prompt) + count) // PAGE_SIZE + 1)]) for prompt in asked]
    new = asked
    for _ in range(count):
        new = [[int(logits[-1].argmax())] for logits in step(runner, list(zip(rows, new, strict=True)))]
    return [(row.tokens + last)[len(prompt) :] for row, last, prompt in zip(rows, new, asked, strict=True)]


def their_choices(theirs: LlamaForCausalLM, prompt: list[int], answer: list[int]) -> list[int]:
    """transformers' greedy choice after each prefix of the answer, in one pass: where it equals the answer,
    transformers would have written it too."""
    with torch.inference_mode():
        logits = theirs(torch.tensor([prompt + answer])).logits[0]
    choices: list[int] = logits[len(prompt) - 1 : -1].argmax(-1).tolist()
    return choices


def test_greedy_text_equals_transformers(theirs: LlamaForCausalLM, tokenizer: Tokenizer) -> None:
    asked = prompts(tokenizer, 3)
    answers = greedy(asked, 32)
    for prompt, answer in zip(asked, answers, strict=True):
        assert their_choices(theirs, prompt, answer) == answer
    assert b"Paris" in tokenizer.decode_bytes(answers[0])


@pytest.mark.slow
def test_greedy_text_of_20_prompts_equals_transformers(theirs: LlamaForCausalLM, tokenizer: Tokenizer) -> None:
    asked = prompts(tokenizer, 20)
    answers = greedy(asked, 64)
    for prompt, answer in zip(asked, answers, strict=True):
        assert their_choices(theirs, prompt, answer) == answer
    out = theirs.generate(torch.tensor(asked[:1]), max_new_tokens=64, do_sample=False)  # type: ignore[misc]
    assert out[0, len(asked[0]) :].tolist() == answers[0]


@pytest.mark.slow
def test_dequantised_weights_equal_transformers_own_loader(theirs: LlamaForCausalLM) -> None:
    card = find_model("smollm2")
    expected = load_gguf_checkpoint(card.weights, return_tensors=True, model_to_load=theirs)["tensors"]
    for name, weight in gguf_weights(Path(card.weights), card.spec):
        assert isinstance(weight, torch.Tensor)
        assert torch.equal(weight, expected[name]), name


def test_dequantised_weights_are_pinned() -> None:
    """The values of one layer, hashed when they were equal to transformers' own loader's."""
    file = GgufFile(Path(find_model("smollm2").weights))
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(file.tensors.items()):
        if name.startswith("blk.7."):
            digest.update(np.ascontiguousarray(dequantise(tensor)).tobytes())
    assert digest.hexdigest() == "13a4c4a779768562863d72f6b6033e07"


# What llama.cpp, and the model's own tokenizer, give.
ENCODED = {
    "In 2024, 12345 x  10 y": [788, 216, 34, 32, 34, 36, 28, 216, 33, 34, 35, 36, 37, 1792, 256, 33, 32, 329],
}


@pytest.mark.parametrize("text", ENCODED)
def test_digits_are_tokens_of_their_own(text: str, tokenizer: Tokenizer) -> None:
    assert tokenizer.encode(text) == ENCODED[text]
    digits = "31415926 535 8979"
    assert len(tokenizer.encode(digits)) == len(digits)


@pytest.mark.parametrize(
    "text", ["", " ", "  a\n\n\tb \r\n", "héllo wörld 你好 🎉👩‍💻", "It's 3.14e-10 isn't it?", "a" * 100, "<|im_end|>"]
)
def test_text_comes_back_as_the_same_bytes(text: str, tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(text)
    assert tokenizer.decode_bytes(tokens) == text.encode()
    assert tokenizer.encode_bytes(text.encode()) == tokens
    assert not set(tokens) & set(tokenizer.special.values())


def test_half_a_character_is_spelled_with_byte_tokens(tokenizer: Tokenizer) -> None:
    data = "naïve 你".encode()[:-1]
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data


def test_template_markers_are_single_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("<|im_start|>user\n", special=True)[0] == 1
    assert tokenizer.bos_ids == ()
    assert tokenizer.special["<|im_end|>"] == 2
    assert len(tokenizer) == 49152
