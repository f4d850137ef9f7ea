"""What a request draws is a function of the request: alone, in a crowd, retracted, with cache and drafts on or off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from latticework.lang.ir import Choices, Constraint, JsonSchema, Regex, constraint_key
from latticework.runtime.constrain import Automaton, Vocabulary, decode_rules, encode_rules, to_rules
from latticework.runtime.request import GenSegment, Request, Segment, TokenInfo
from tests.runtime.engine.bench import Bench, gen, merged_tokenizer, vocab_size_of

REQUESTS = 300
TEXTS = ("abc ", "abcdef ghij ", "nop abc klm", "jklm nop abc def ghi abc abc def klm ")
STOPS: tuple[tuple[str, ...], ...] = ((), (), ("a",), ("bc", "k"), ("ef", "lm", "o"))
STOP_REGEXES: tuple[tuple[str, ...], ...] = ((), (), ("[a-d][e-p]{2}",), ("(no|m)p?[ab]", "kk+"), ("[0-9]+[,:]",))
CONSTRAINTS: tuple[Constraint, ...] = (
    Regex("[a-p ]{3,30}"),
    Regex("(abc|def|[j-m]{2})+(, [0-9]{1,3})?"),
    Choices(("apple apple apple pie", "apple", "appp", "abc def ghi jkl mno p", "aaaaaaaaaaaaaaaaaa", "aaaa")),
    JsonSchema({"type": "array", "items": {"enum": ["abc", "klm", 12]}, "minItems": 1, "maxItems": 4}),
    JsonSchema(
        {
            "type": "object",
            "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 500}, "b": {"type": "boolean"}},
            "required": ["a", "b"],
            "additionalProperties": False,
        }
    ),
)


@dataclass(frozen=True)
class Crowd:
    """How requests come and what room they have. gap: at most so many steps between two of them."""

    seed: int
    gap: int
    kv_tokens: int
    chunk_tokens: int
    max_running: int
    page_size: int
    drafts: str


CROWDS = (
    Crowd(1, 0, 200, 16, 8, 4, "all"),
    Crowd(2, 1, 220, 7, 12, 1, "forced"),
    Crowd(3, 4, 192, 64, 6, 16, "all"),
)


@dataclass(frozen=True)
class Answer:
    tokens: list[int]
    data: bytes
    ends: list[tuple[int, str, str | int | None, bool]]  # segment, end, what stopped it, complete
    logprobs: list[TokenInfo]
    prompt_tokens: list[tuple[int, int]]  # with their segments
    prompt_logprobs: list[TokenInfo]


class ConstrainedBench(Bench):
    """With the automata of the runtime itself."""

    def _build(self, rules: bytes) -> Any:
        tokens = self.tokenizer.padded(vocab_size_of(self.tokenizer))
        return Automaton(decode_rules(rules), Vocabulary(tokens, self.end_ids))

    def step(self) -> None:
        """Without `check()`, which other tests call: it would take most of the time."""
        for owner, events in self.engine.step().items():
            for event in events:
                self.events[owner, event.request].append(event)

    def define_real(self, constraint: Constraint) -> None:
        self.engine.define("a", constraint_key(constraint), encode_rules(to_rules(constraint)))
        self.engine.pieces.go_on(60.0)  # it is made at once


def random_gen(random: np.random.Generator, constraint: Constraint | None) -> GenSegment:
    """Every parameter at random."""

    def pick(*options: Any) -> Any:
        return options[random.integers(len(options))]

    most = int(random.integers(1, 32))
    stop_regex = pick(*STOP_REGEXES)
    one = gen(
        None if constraint is None else constraint_key(constraint),
        "close" if constraint is None else pick("cut", "prefer_close"),
        max_tokens=most,
        temperature=pick(0.0, 0.7, 1.0, 3.0),
        top_p=pick(1.0, 0.9),
        top_k=pick(-1, -1, 20),
        min_p=pick(0.0, 0.05),
        seed=int(random.integers(1 << 62)),
        frequency_penalty=pick(0.0, 1.5, -2.0),
        presence_penalty=pick(0.0, 2.0, -0.5),
        repetition_penalty=pick(1.0, 1.4, 0.8),
        logit_bias=pick((), ((97, 4.0), (98, -100.0), (300, 3.0))),
        min_tokens=pick(0, 0, most // 2),
        ignore_eos=pick(False, False, True),
        include_stop=pick(False, True),
        stop=pick(*STOPS),
        stop_token_ids=pick((), (99, 101)),
        stop_regex=stop_regex,
        logprobs=pick(None, 0, 2),
        prompt_logprobs=pick(None, None, 0, 3),
    )
    rules = tuple(constraint_key(Regex(pattern)) for pattern in stop_regex)
    return GenSegment(one.sampling, one.constraint, one.on_length, rules)


def chains() -> list[tuple[str | Segment, ...]]:
    """The requests: two gens each; in every other one the first is constrained."""
    random = np.random.default_rng(31)
    made: list[tuple[str | Segment, ...]] = []
    for number in range(REQUESTS):
        constraint = CONSTRAINTS[random.integers(len(CONSTRAINTS))] if number % 2 else None
        one, two = random_gen(random, constraint), random_gen(random, None)
        made.append((str(random.choice(TEXTS)), one, str(random.choice(TEXTS)), two))
    return made


def new_bench(**options: Any) -> ConstrainedBench:
    bench = ConstrainedBench(merged_tokenizer(), **options)
    for constraint in CONSTRAINTS:
        bench.define_real(constraint)
    for pattern in {pattern for patterns in STOP_REGEXES for pattern in patterns}:
        bench.define_real(Regex(pattern))
    return bench


def submit(bench: Bench, number: int, parts: tuple[str | Segment, ...]) -> None:
    bench.events["a", number] = []
    chain = tuple(bench.text(part) if isinstance(part, str) else part for part in parts)
    assert bench.engine.submit("a", Request(number, chain)) is None


def answer(bench: Bench, number: int) -> Answer:
    final = bench.final(number)
    assert final.error is None, final.error
    events = bench.events["a", number]
    ends: list[tuple[int, str, str | int | None, bool]] = [
        (e.segment, e.end, e.stopped_by, e.complete) for e in events if e.end is not None
    ]
    logprobs = [info for event in events for info in event.logprobs]
    prompt_tokens = [(event.segment, token) for event in events for token in event.prompt_tokens]
    prompt_logprobs = [info for event in events for info in event.prompt_logprobs]
    return Answer(bench.tokens(number), bench.data(number), ends, logprobs, prompt_tokens, prompt_logprobs)


@pytest.fixture(scope="module")
def alone() -> list[Answer]:
    """What each draws with the engine to itself."""
    bench = new_bench(kv_tokens=4096, max_running=1, prefix_cache=False, page_size=16, drafts="off")
    for number, parts in enumerate(chains()):
        submit(bench, number, parts)
        bench.run()
    return [answer(bench, number) for number in range(REQUESTS)]


@pytest.fixture(autouse=True)
def time_for_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every mask is made in the step that asks for it, so that no order depends on how fast the machine is."""
    monkeypatch.setattr("latticework.runtime.schedule.pieces.LEAST_SECONDS", 60.0)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize(
    "crowd",
    [CROWDS[0], *(pytest.param(crowd, marks=pytest.mark.slow) for crowd in CROWDS[1:])],
    ids=lambda crowd: f"crowd{crowd.seed}",
)
def test_random_requests_draw_the_same_in_any_crowd(alone: list[Answer], crowd: Crowd, cache: bool) -> None:
    bench = new_bench(
        kv_tokens=crowd.kv_tokens,
        chunk_tokens=crowd.chunk_tokens,
        max_running=crowd.max_running,
        page_size=crowd.page_size,
        prefix_cache=cache,
        drafts=crowd.drafts,
    )
    random, made = np.random.default_rng(crowd.seed), chains()
    for number in random.permutation(REQUESTS).tolist():
        submit(bench, number, made[number])
        for _ in range(random.integers(crowd.gap + 1)):
            bench.step()
    bench.run(50_000)
    bench.engine.check()
    assert bench.engine.scheduler.retractions >= 20
    assert bench.engine.drafts.accepted > 100
    for number in range(REQUESTS):
        found, expected = answer(bench, number), alone[number]
        assert (found.tokens, found.data, found.ends) == (expected.tokens, expected.data, expected.ends), number
        assert found.prompt_tokens == expected.prompt_tokens
        infos = found.logprobs + found.prompt_logprobs
        for here, there in zip(infos, expected.logprobs + expected.prompt_logprobs, strict=True):
            assert here.logprob == pytest.approx(there.logprob)
            assert [p for _, p in here.top] == pytest.approx([p for _, p in there.top])


def test_the_requests_above_are_of_every_kind(alone: list[Answer]) -> None:
    ends = [end for one in alone for end in one.ends]
    assert {end for _, end, _, _ in ends} == {"stop", "length"}
    stopped_by = {by for _, _, by, _ in ends}
    assert stopped_by >= {"a", "bc", 99} | set(STOP_REGEXES[2])
    assert sum(not one.ends[0][3] for one in alone[1::2]) > 10, "constrained texts that were cut"
    assert sum(one.ends[0][3] for one in alone[1::2]) > 50, "constrained texts that are whole"
    assert any(one.logprobs and not one.logprobs[0].top for one in alone)
    assert any(one.logprobs and one.logprobs[0].top for one in alone)
    for segment in (1, 3):
        assert sum(any(of == segment for of, _ in one.prompt_tokens) for one in alone) > 50
