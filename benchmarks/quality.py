"""What fewer bits cost in quality: `python -m benchmarks.quality --json FILE`.

Every format computes the same text, in windows without anything before them, and is compared with float32: perplexity,
how often the likeliest next token is the same one, and the mean Kullback-Leibler divergence of the distributions. Where
a format has two forms of a weight, each is measured alone, serving all rows. Then greedy answers to questions through
whole engines: how many are float32's to the end, and how many tokens the others have in common with it.

The text is a novel in the public domain (benchmarks/texts). Numbers are of one model and one text, printed with both.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

import latticework as lw
from benchmarks.hardware import conditions
from latticework.runtime.attention import make_attention
from latticework.runtime.cache.kv import allocate_kv
from latticework.runtime.model.cpu_kernels import load_kernels
from latticework.runtime.model.decoder import Decoder
from latticework.runtime.model.load import load_model, torch_dtype
from latticework.runtime.model.locate import find_model
from latticework.runtime.model.quantize.base import Quantization
from latticework.runtime.model.quantize.by_rows import ByRows
from latticework.runtime.model.runner import ModelRunner
from latticework.runtime.model.spec import ModelCard
from latticework.runtime.schedule.batch import Entry, build_batch
from latticework.runtime.text.tokenizer import Tokenizer

TEXT = Path(__file__).parent / "texts" / "northanger-abbey.txt"
TOKENS, WINDOW = 20_000, 512
ANSWER = 48
INT8_LIMIT = 0.01  # of the perplexity of bfloat16
QUESTIONS = (
    "What is the capital of France?", "Write a haiku about the sea.", "Count from 1 to 20.",
    "Explain photosynthesis to a child.", "Name three prime numbers above 100.", "Who wrote Hamlet?",
    "Translate 'good morning' into Spanish.", "List five fruits.", "What is 17 times 3?", "What causes rain?",
    "Tell me a story about a dragon.", "Give me a recipe for pancakes.", "Describe the colour blue.",
    "Write a Python function that adds two numbers.", "What is a prime number?", "How do bees make honey?",
    "Summarise the story of Romeo and Juliet.", "Why is the sky blue?", "Give three tips for sleeping well.",
    "Write a short poem about winter.",
)  # fmt: skip


@dataclass(frozen=True)
class Format:
    """form: of two forms of a weight, the one that serves all rows; None: the only one there is."""

    name: str
    dtype: str
    quantization: Quantization
    form: str | None = None


FORMATS = (
    Format("float32", "float32", "none"),
    Format("bfloat16", "bfloat16", "none"),
    Format("int8", "bfloat16", "int8"),
    Format("int4, few rows", "bfloat16", "int4", "few"),
    Format("int4, many rows", "bfloat16", "int4", "many"),
)
ENGINES = (
    Format("float32", "float32", "none"),
    Format("bfloat16", "bfloat16", "none"),
    Format("int8", "bfloat16", "int8"),
    Format("int4", "bfloat16", "int4"),
    Format("auto", "bfloat16", "auto"),
)


@dataclass(frozen=True)
class Quality:
    """perplexity of the text. same: share of positions whose likeliest next token is float32's. divergence: mean
    KL(float32 || this), in nats. matrices: how the model's are held."""

    perplexity: float
    same: float
    divergence: float
    matrices: dict[str, int]


@dataclass(frozen=True)
class Agreement:
    """Of greedy answers with float32's: how many are the same to the end, and the mean share of tokens before the
    first difference."""

    answers: int
    same: int
    common: float


def main() -> None:
    arguments = parse_arguments()
    card = find_model(arguments.model)
    text = arguments.text.read_text(encoding="utf-8")
    tokens = Tokenizer.from_file(card.tokenizer).encode(text)[: arguments.tokens]
    print(f"{arguments.model}, {arguments.text.name}: {len(tokens)} tokens in windows of {WINDOW}", flush=True)
    found = qualities(card, tokens)
    agreements = {} if arguments.no_answers else answers(arguments.model)
    for name, agreement in agreements.items():
        same = f"{agreement.same}/{agreement.answers} answers the same"
        print(f"{name:16} {same}, {agreement.common:.0%} of the tokens before a difference")
    if arguments.json:
        report = conditions() | {
            "model": arguments.model,
            "text": arguments.text.name,
            "tokens": len(tokens),
            "window": WINDOW,
            "formats": {name: asdict(quality) for name, quality in found.items()},
            "answers": {name: asdict(agreement) for name, agreement in agreements.items()},
        }
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    worse = found["int8"].perplexity / found["bfloat16"].perplexity - 1
    if worse > INT8_LIMIT:
        raise SystemExit(f"int8 has a perplexity {worse:.2%} above bfloat16's; at most {INT8_LIMIT:.0%} is wanted")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--no-answers", action="store_true", help="leave out the engines")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


# ---------------------------------------------------------------- perplexity


def qualities(card: ModelCard, tokens: list[int]) -> dict[str, Quality]:
    """Of every format, window by window beside float32, so that no distribution is kept."""
    models = {kind.name: _Scorer(card, kind) for kind in FORMATS}
    sums = {name: [0.0, 0.0, 0.0] for name in models}  # negative log-likelihood, same, divergence
    count = 0
    for window in windows(tokens):
        targets = torch.tensor(window[1:])
        count += len(targets)
        reference = models[FORMATS[0].name].log_probabilities(window)
        best = reference.argmax(1)
        for name, model in models.items():
            found = reference if name == FORMATS[0].name else model.log_probabilities(window)
            sums[name][0] -= float(found.gather(1, targets.unsqueeze(1)).sum())
            sums[name][1] += int((found.argmax(1) == best).sum())
            sums[name][2] += float((reference.exp() * (reference - found)).sum())
    result = {}
    for name, (loss, same, divergence) in sums.items():
        result[name] = Quality(math.exp(loss / count), same / count, divergence / count, models[name].matrices)
        print(
            f"{name:16} perplexity {result[name].perplexity:.3f}  same likeliest token {same / count:.2%}  "
            f"divergence {divergence / count:.5f}",
            flush=True,
        )
    return result


def windows(tokens: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(tokens) - 1, WINDOW):
        yield tokens[start : start + WINDOW + 1]  # the last one is only a target


class _Scorer:
    """A model in one format, over one page of KV."""

    def __init__(self, card: ModelCard, kind: Format) -> None:
        model = load_model(card, kind.dtype, quantization=kind.quantization, library=load_kernels("auto"))
        self.matrices = model.held()
        if kind.form is not None:
            serve_all_rows(model, kind.form)
        dtype = torch_dtype(kind.dtype)
        attention = make_attention("torch", "cpu", card.spec.head_dim, dtype, card.spec.attention_layers)
        self._runner = ModelRunner(model, attention, allocate_kv(card.spec, 1, WINDOW + 1, dtype))

    def log_probabilities(self, window: list[int]) -> Tensor:
        """[len(window) - 1, V] float32, of the token after each but the last."""
        count = len(window) - 1
        logits = self._runner.run(build_batch([Entry(window[:-1], 0, [0], count)], WINDOW + 1))
        return torch.log_softmax(logits, dim=1)


def serve_all_rows(model: Decoder, form: str) -> None:
    """Lets "few" or "many" of two forms serve whatever rows there are."""
    for _, linear in model.linears():
        if isinstance(linear.packed, ByRows):
            linear.packed.limit = 1 << 30 if form == "few" else 0


# ---------------------------------------------------------------- answers


def answers(model: str) -> dict[str, Agreement]:
    """Greedy, one question at a time, so that formats with two forms use the one for a few rows after the prompt."""
    reference: list[list[int]] = []
    result = {}
    for kind in ENGINES:
        found = _answers(model, kind)
        reference = reference or found
        common = [_common(one, other) for one, other in zip(found, reference, strict=True)]
        same = sum(one == other for one, other in zip(found, reference, strict=True))
        result[kind.name] = Agreement(len(found), same, sum(common) / len(common))
    return result


def _answers(model: str, kind: Format) -> list[list[int]]:
    sampling = lw.Sampling(max_tokens=ANSWER, temperature=0, ignore_eos=True, logprobs=0)
    with lw.Engine(model=model, dtype=kind.dtype, quantization=kind.quantization, kv_tokens=4096) as engine:
        results = [engine.generate([question], sampling, progress_bar=False)[0] for question in QUESTIONS]
    return [[one.token for one in result.logprobs] for result in results]


def _common(one: list[int], other: list[int]) -> float:
    length = max(len(one), len(other), 1)
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), length) / length


if __name__ == "__main__":
    main()
