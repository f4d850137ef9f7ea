"""What guessing tokens ahead is worth under constraints: `python -m benchmarks.drafts --data DIR --json FILE`.

Answers to the end-to-end schemas, compact JSON, half of them greedy and half seeded, on one engine for each kind of
drafts. Counts: answers that the schema accepts, steps of the model, tokens drafted and accepted. Texts have to be the
same with drafts on and off, but where a difference begins at a near-tie, of which the margin is printed: float32 sums
depend on how many tokens are computed at once. Then tokens a second, under the constraints and without, at the same
lengths, one after the other in turns; medians of the repeats.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import numpy as np

import latticework as lw
from benchmarks.constraint_cases import OPEN_DATA
from benchmarks.hardware import conditions
from latticework.kernels.cpu.draw import allowed_ids, to_numpy
from latticework.runtime.attention import make_attention
from latticework.runtime.cache.kv import allocate_kv
from latticework.runtime.config import EngineConfig
from latticework.runtime.constrain import Vocabulary, compile_constraint
from latticework.runtime.link.messages import HEARTBEAT_SECONDS, EngineStats
from latticework.runtime.model.load import load_any, torch_dtype
from latticework.runtime.model.locate import find_model
from latticework.runtime.model.runner import ModelRunner
from latticework.runtime.sample.philox import uniform
from latticework.runtime.schedule.batch import Entry, build_batch
from latticework.runtime.text.tokenizer import Tokenizer

SCHEMAS = "e2e-schemas.json"
KINDS = ("off", "forced", "all")
MAX_TOKENS = 300
SCHEMA_CHARACTERS = 600  # of a schema that a prompt shows
KV_TOKENS = 32768  # three engines stand side by side
LOGIT_EPSILON = 1e-3  # two logits closer than this, or u and an edge of the distribution, are a near-tie
EDGE_EPSILON = 1e-4
TOPICS = (
    "a small bakery", "a weather station", "a football match", "a moon base", "a public library", "an electric car",
    "a school trip", "a night train", "a vegetable garden", "a film festival",
)  # fmt: skip


@dataclass(frozen=True)
class Ask:
    """One request. schema: its number among the schemas."""

    schema: int
    prompt: list[int]
    sampling: lw.Sampling


@dataclass
class Outcome:
    """All requests with one kind of drafts. differences: margins at which texts left those without drafts."""

    valid: int
    steps: int
    output: int
    drafted: int
    accepted: int
    seconds: float
    tokens: list[list[int]] = field(repr=False)
    differences: list[float] = field(default_factory=list)
    unexplained: int = 0


def main() -> None:
    options = arguments()
    kinds = ("off", *options.drafts)
    schemas = read_schemas(options.data)[: options.schemas]
    card = find_model(options.model)
    tokenizer = Tokenizer.from_file(card.tokenizer)
    asks = requests(schemas, tokenizer, options.requests)
    constraints = [lw.JsonSchema(schema) for schema in schemas]
    report: dict[str, Any] = {
        **conditions(), "model": options.model, "dtype": options.dtype, "requests": len(asks),
        "running": options.running,
    }  # fmt: skip
    with ExitStack() as stack:
        engines = {
            kind: stack.enter_context(
                lw.Engine(
                    options.model, dtype=options.dtype, drafts=kind, max_running=options.running, kv_tokens=KV_TOKENS
                )
            )
            for kind in kinds
        }
        ties = Ties(options.model, options.dtype)
        outcomes: dict[str, Outcome] = {}
        for kind in kinds:
            outcome = outcomes[kind] = answer_all(engines[kind], asks, constraints, schemas)
            compare(outcomes["off"], outcome, asks, constraints, ties)
            print_outcome(kind, outcome, outcomes["off"])
        report["outcomes"] = {kind: _without_tokens(outcome) for kind, outcome in outcomes.items()}
        if options.repeats:
            chosen = list(range(0, len(asks), max(1, len(asks) // options.timed)))[: options.timed]
            report["rates"] = rates(engines, asks, constraints, outcomes["off"], chosen, options.repeats)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    wrong = [kind for kind, outcome in outcomes.items() if outcome.valid < len(asks) or outcome.unexplained]
    if wrong:
        sys.exit(f"not every answer is valid, or a difference is no near-tie: drafts {', '.join(wrong)}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Drafts under constraints: steps, exactness and speed.")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("LATTICEWORK_DATA", "../shared/data")))
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float64"))
    parser.add_argument("--drafts", nargs="*", default=KINDS[1:], choices=KINDS[1:], help="kinds beside none")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--schemas", type=int, default=20)
    parser.add_argument("--running", type=int, default=8, help="sequences in one batch")
    parser.add_argument("--timed", type=int, default=40, help="requests whose tokens a second are measured")
    parser.add_argument("--repeats", type=int, default=3, help="of the measurement of speed; 0: none")
    return parser.parse_args()


def read_schemas(folder: Path) -> list[Any]:
    """In the order of their list. Exits where the data is not there."""
    try:
        wanted = json.loads((folder / SCHEMAS).read_text(encoding="utf-8"))
        with gzip.open(folder / OPEN_DATA, "rt", encoding="utf-8") as file:
            known = {case["id"]: case["schema"] for case in map(json.loads, file)}
    except FileNotFoundError as error:
        sys.exit(f"no data: {error}; name its folder with --data or LATTICEWORK_DATA")
    return [known[name] for name in wanted]


def requests(schemas: list[Any], tokenizer: Tokenizer, count: int) -> list[Ask]:
    """Every other one is greedy; the topic changes once every schema had its turn with it."""
    asks = []
    for number in range(count):
        schema, topic = number % len(schemas), TOPICS[number // len(schemas) % len(TOPICS)]
        text = json.dumps(schemas[schema])[:SCHEMA_CHARACTERS]
        prompt = f"Schema: {text}\nA JSON document of this schema about {topic}:\n"
        greedy = (number + number // len(schemas)) % 2 == 0
        sampling = lw.Sampling(max_tokens=MAX_TOKENS, temperature=0.0 if greedy else 1.0, seed=number)
        asks.append(Ask(schema, tokenizer.encode(prompt), sampling))
    return asks


# ---------------------------------------------------------------- the same texts in fewer steps


def answer_all(engine: lw.Engine, asks: list[Ask], constraints: list[lw.JsonSchema], schemas: list[Any]) -> Outcome:
    sampling = [msgspec.structs.replace(ask.sampling, logprobs=0) for ask in asks]
    before, began = _settled(engine), time.perf_counter()
    results = engine.generate([ask.prompt for ask in asks], sampling, [constraints[ask.schema] for ask in asks])
    seconds = time.perf_counter() - began
    after = _settled(engine)
    return Outcome(
        valid=sum(_is_valid(result.text, schemas[ask.schema]) for result, ask in zip(results, asks, strict=True)),
        steps=after.steps - before.steps,
        output=sum(result.usage.output for result in results),
        drafted=sum(result.usage.drafted for result in results),
        accepted=sum(result.usage.accepted for result in results),
        seconds=seconds,
        tokens=[[one.token for one in result.logprobs] for result in results],
    )


def _settled(engine: lw.Engine) -> EngineStats:
    time.sleep(3 * HEARTBEAT_SECONDS)
    return engine.runtime.stats().engine


def _is_valid(text: str, schema: Any) -> bool:
    kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    try:
        return bool(kind(schema).is_valid(json.loads(text)))
    except ValueError:
        return False


def compare(plain: Outcome, other: Outcome, asks: list[Ask], constraints: list[lw.JsonSchema], ties: Ties) -> None:
    """Notes at which margin each text of `other` leaves the plain one."""
    for ask, left, right in zip(asks, plain.tokens, other.tokens, strict=True):
        if left == right:
            continue
        at = next(i for i, (a, b) in enumerate(itertools.zip_longest(left, right)) if a != b)
        margin, limit = ties.margin(ask, constraints[ask.schema], left, right, at)
        other.differences.append(margin)
        other.unexplained += int(margin > limit)


class Ties:
    """Says how close two draws were, by a forward pass over everything before them."""

    def __init__(self, model: str, dtype: str) -> None:
        card = find_model(model)
        self._model = load_any(card, msgspec.convert({"dtype": dtype}, EngineConfig))
        self._size = self._model.spec.vocab_size
        self._attention = make_attention(
            "torch", "cpu", self._model.spec.head_dim, torch_dtype(dtype), self._model.spec.attention_layers
        )
        self._dtype = torch_dtype(dtype)
        self._vocabulary = Vocabulary(Tokenizer.from_file(card.tokenizer).padded(self._size), card.end_ids)

    def margin(
        self, ask: Ask, constraint: lw.JsonSchema, left: list[int], right: list[int], at: int
    ) -> tuple[float, float]:
        """Between the tokens at `at`: of two logits, or of u from the other token's share of the distribution; and the
        margin up to which it is a near-tie. Infinite where one of the texts has ended there."""
        if at >= min(len(left), len(right)):
            return np.inf, LOGIT_EPSILON
        logits = self._logits(ask.prompt + left[:at])
        if ask.sampling.greedy:
            return abs(float(logits[left[at]] - logits[right[at]])), LOGIT_EPSILON
        matcher = compile_constraint(constraint, self._vocabulary).matcher()
        for token in left[:at]:
            assert matcher.accept(token)
        mask = np.zeros(self._vocabulary.words, np.int32)
        matcher.fill_mask(mask, ask.sampling.max_tokens - at)
        ids = allowed_ids(mask, self._size)
        x = logits[ids].astype(np.float64) / ask.sampling.temperature
        p = np.exp(x - x.max())
        edges = np.concatenate([[0.0], np.cumsum(p) / p.sum()])
        assert ask.sampling.seed is not None
        u = float(uniform([ask.sampling.seed], [at])[0])
        both = (left[at], right[at])
        places = [int(np.searchsorted(ids, token)) for token in both]
        assert all(ids[place] == token for place, token in zip(places, both, strict=True))
        return max(max(float(edges[place] - u), float(u - edges[place + 1]), 0.0) for place in places), EDGE_EPSILON

    def _logits(self, tokens: list[int]) -> Any:
        kv = allocate_kv(self._model.spec, 1, len(tokens), self._dtype)
        runner = ModelRunner(self._model, self._attention, kv)
        return to_numpy(runner.run(build_batch([Entry(tokens, 0, [0], 1)], len(tokens))))[0]


def print_outcome(kind: str, one: Outcome, plain: Outcome) -> None:
    share = f"{one.accepted / one.drafted:.0%}" if one.drafted else "-"
    margins = f", margins up to {max(one.differences):.1e}" if one.differences else ""
    print(
        f"drafts {kind:6}  valid {one.valid}/{len(one.tokens)}  tokens {one.output}  "
        f"steps {one.steps} ({one.steps / plain.steps:.2f}x)  drafted {one.drafted}, accepted {one.accepted} "
        f"({share})  differing texts {len(one.differences)}{margins}, unexplained {one.unexplained}  "
        f"{one.output / one.seconds:.1f} tok/s",
        flush=True,
    )


def _without_tokens(outcome: Outcome) -> dict[str, Any]:
    found = asdict(outcome)
    del found["tokens"]
    return found


# ---------------------------------------------------------------- tokens a second


def rates(
    engines: dict[str, lw.Engine],
    asks: list[Ask],
    constraints: list[lw.JsonSchema],
    plain: Outcome,
    chosen: list[int],
    repeats: int,
) -> dict[str, Any]:
    """Tokens a second of some of the requests by kind of drafts, constrained and free, in turns. Free texts are greedy
    or seeded as the others, and as long as the constrained ones."""
    prompts = [asks[number].prompt for number in chosen]
    lengths = [len(plain.tokens[number]) for number in chosen]
    free = [
        msgspec.structs.replace(asks[number].sampling, max_tokens=length, ignore_eos=True)
        for number, length in zip(chosen, lengths, strict=True)
    ]
    bound = [asks[number].sampling for number in chosen]
    rules = [constraints[asks[number].schema] for number in chosen]
    runs: dict[tuple[str, str], Callable[[], list[lw.Result]]] = {}
    for kind, engine in engines.items():
        runs[kind, "constrained"] = partial(engine.generate, prompts, bound, rules)
        runs[kind, "free"] = partial(engine.generate, prompts, free)
    measured: dict[tuple[str, str], list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            engines[name[0]].runtime.flush_cache()
            began = time.perf_counter()
            output = sum(result.usage.output for result in run())
            if repeat:  # the first warms up
                measured[name].append(output / (time.perf_counter() - began))
    return print_rates(measured)


def print_rates(measured: dict[tuple[str, str], list[float]]) -> dict[str, Any]:
    medians = {name: statistics.median(values) for name, values in measured.items()}
    base = medians["off", "free"]
    print("\ntokens a second, same lengths; ratio to free text without drafts, and with the same")
    found: dict[str, Any] = {}
    for (kind, what), values in measured.items():
        rate, own = medians[kind, what], medians[kind, "free"]
        spread = f"{min(values):.1f}-{max(values):.1f}"
        print(f"  drafts {kind:6} {what:11} {rate:7.1f}  ({spread})  {rate / base:.2f}x  {rate / own:.2f}x")
        found[f"{kind} {what}"] = {"tokens_per_s": values, "to_plain_free": rate / base, "to_own_free": rate / own}
    return found


if __name__ == "__main__":
    main()
