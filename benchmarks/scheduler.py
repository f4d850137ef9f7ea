"""What scheduling costs: `python -m benchmarks.scheduler`.

Per step, with 64 sequences running and 10,000 waiting behind them, without a model; per token matched or inserted in
trees of growing size; and as a share of the steps of SmolLM2, measured in the engine that takes them. Numbers are of
this machine, printed with it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.hardware import conditions
from latticework.lang.ir import Sampling
from latticework.runtime.cache.leases import LeaseTable
from latticework.runtime.cache.pages import PagePool
from latticework.runtime.cache.radix import RadixTree
from latticework.runtime.config import EngineConfig
from latticework.runtime.constrain import Automaton
from latticework.runtime.engine import Engine
from latticework.runtime.profile import Profile
from latticework.runtime.request import GenSegment, Request, TextSegment
from latticework.runtime.schedule.automata import Automata
from latticework.runtime.schedule.drafts import Drafts
from latticework.runtime.schedule.masks import Masks
from latticework.runtime.schedule.memory import Memory
from latticework.runtime.schedule.pieces import Pace, Pieces
from latticework.runtime.schedule.scheduler import Scheduler
from latticework.runtime.schedule.sequence import Output, Sequence
from latticework.runtime.schedule.stops import StopCursor, StopMatcher

RUNNING, WAITING, STEPS = 64, 10_000, 300
PAGE = 16
PROMPT = 400
OUTPUT = 64
MODEL_STEPS = 16
VOCABULARY = 40_000  # token ids that every model here has
SHARE_LIMIT = 0.05


@dataclass(frozen=True)
class StepCost:
    """Milliseconds of scheduling a step, tree and settling included."""

    tenants: int
    median: float
    p99: float


@dataclass(frozen=True)
class TreeCost:
    """Microseconds a token."""

    cached: int
    match: float
    insert: float


@dataclass(frozen=True)
class Share:
    """A model's steps: milliseconds in all, milliseconds of scheduling (plan, tree and settling), and the second as a
    share of the first, summed over all steps."""

    model: str
    dtype: str
    steps: int
    step_median: float
    scheduling_median: float
    share: float


def tokens(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(VOCABULARY) for _ in range(count)]


def sequence(number: int, prompt: list[int], tenant: str) -> Sequence:
    sampling = Sampling(max_tokens=OUTPUT, seed=number)
    request = Request(number, (GenSegment(sampling),), tenant=tenant)
    made = Sequence("bench", request, number, prompt)
    made.output = Output(sampling, len(prompt), OUTPUT, stops=StopCursor(StopMatcher()))
    return made


def no_constraint(rules: bytes) -> Automaton:
    raise AssertionError("no sequence here has a constraint")


def steps(tenants: int) -> Iterator[float]:
    """Seconds of each step: schedule, and hand every sequence its token; who is done makes room for the next."""
    rng = random.Random(1)
    pool = PagePool(200_000 // PAGE, PAGE)
    tree = RadixTree(pool)
    memory = Memory(pool, tree, LeaseTable(tree), lambda *_: None, True)
    masks = Masks(Automata(no_constraint, 0), VOCABULARY, Profile(False), Pieces(Pace(), 0.0), lambda _: True)
    scheduler = Scheduler(memory, RUNNING, 4096, lambda *_: True, Drafts("off", lambda _: [], [], masks))
    prefixes = [tokens(rng, PROMPT - 20) for _ in range(50)]
    number = 0

    def arrive() -> None:
        nonlocal number
        number += 1
        prompt = rng.choice(prefixes) + tokens(rng, 20) if rng.random() < 0.8 else tokens(rng, PROMPT)
        scheduler.add(sequence(number, prompt, str(number % tenants)))

    for _ in range(WAITING + RUNNING):
        arrive()
    for _ in range(STEPS + 50):
        began = time.perf_counter()
        plan = scheduler.schedule()
        ended = []
        for work in plan.works:
            one = work.sequence
            one.computed += work.own
            if work.entry.logits:
                memory.publish(one)
                one.tokens.append(7)
                assert one.output is not None
                one.output.drawn += 1
                if one.output.remaining <= 0:
                    ended.append(one)
        for one in ended:
            scheduler.remove(one)
            memory.detach(one, keep=True)
        yield time.perf_counter() - began
        for _ in ended:
            arrive()


def tree_costs(cached: int) -> tuple[float, float]:
    """Microseconds per token: of a match of 1,000 tokens, of an insert of 1,000 of which half are new."""
    rng = random.Random(2)
    pool = PagePool(cached // PAGE + 4096, PAGE)
    tree = RadixTree(pool)
    stems: list[list[int]] = []
    while tree.cached_pages * PAGE < cached:
        stem = tokens(rng, 1008)
        if stems and rng.random() < 0.7:
            stem[:512] = rng.choice(stems)[:512]
        stems.append(stem)
        match = tree.match(stem)
        own = pool.allocate((len(stem) - match.length) // PAGE)
        pool.free(tree.insert(stem, match.pages + own).duplicates)
    matches, inserts = [], []
    for _ in range(300):
        known = rng.choice(stems)
        began = time.perf_counter()
        tree.match(known)
        matches.append(time.perf_counter() - began)
        new = known[:512] + tokens(rng, 496)
        match = tree.match(new)
        own = pool.allocate((len(new) - match.length) // PAGE)
        began = time.perf_counter()
        inserted = tree.insert(new, match.pages + own)
        inserts.append(time.perf_counter() - began)
        pool.free(inserted.duplicates)
        tree.evict(len(own))
    return statistics.median(matches) * 1e6 / 1008, statistics.median(inserts) * 1e6 / 1008


def step_cost(tenants: int) -> StepCost:
    times = sorted(list(steps(tenants))[50:])
    return StepCost(tenants, statistics.median(times) * 1e3, times[len(times) * 99 // 100] * 1e3)


def share_of(model: str) -> Share:
    """Real steps: sequences end and others, with prefixes that are cached by then, take their places."""
    config = EngineConfig(model=model, max_running=RUNNING, max_waiting=2 * WAITING, kv_tokens=65536, profile=True)
    engine = Engine.load(config)
    rng = random.Random(3)
    prefixes = [tokens(rng, PROMPT - 20) for _ in range(4)]
    for number in range(WAITING + RUNNING + MODEL_STEPS * 8):
        prompt = (*rng.choice(prefixes), *tokens(rng, 20))
        sampling = Sampling(max_tokens=rng.randrange(OUTPUT // 4, OUTPUT), seed=number, ignore_eos=True)
        engine.submit("bench", Request(number, (TextSegment(prompt), GenSegment(sampling))))
    while len(engine.scheduler.running) < RUNNING:
        engine.step()
        assert engine.has_work(), "the requests were refused"
    whole, scheduling = [], []
    for _ in range(MODEL_STEPS):
        before, began = dict(engine.profile.seconds), time.perf_counter()
        engine.step()
        whole.append(time.perf_counter() - began)
        scheduling.append(sum(engine.profile.seconds[part] - before[part] for part in ("schedule", "settle")))
    assert len(engine.scheduler.waiting) >= WAITING
    middle, cost = statistics.median(whole) * 1e3, statistics.median(scheduling) * 1e3
    return Share(model, engine.dtype, MODEL_STEPS, middle, cost, sum(scheduling) / sum(whole))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2", help="whose steps scheduling is a share of")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    given = parser.parse_args()
    about = conditions() | {"load_before": f"{os.getloadavg()[0]:.2f}"}
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    costs = [step_cost(tenants) for tenants in (1, 10, 1000)]
    for cost in costs:
        print(
            f"step, {RUNNING} running, {WAITING} waiting, {cost.tenants} tenants: median {cost.median:.2f} ms, "
            f"p99 {cost.p99:.2f} ms"
        )
    trees = [TreeCost(cached, *tree_costs(cached)) for cached in (10_000, 100_000, 1_000_000)]
    for tree in trees:
        print(
            f"tree of {tree.cached:>9,} tokens: match {tree.match:.3f} µs a token, insert {tree.insert:.3f} µs a token"
        )
    share = share_of(given.model)
    print(
        f"{share.model} ({share.dtype}), {RUNNING} running, {WAITING} waiting, {share.steps} steps: step median "
        f"{share.step_median:.1f} ms, scheduling and tree median {share.scheduling_median:.2f} ms: {share.share:.2%} "
        f"of the time (at most {SHARE_LIMIT:.0%})"
    )
    if given.json:
        found = {"steps": [asdict(c) for c in costs], "trees": [asdict(t) for t in trees], "share": asdict(share)}
        given.json.write_text(json.dumps(about | found, indent=1) + "\n")
    raise SystemExit(1 if share.share > SHARE_LIMIT else 0)


if __name__ == "__main__":
    main()
