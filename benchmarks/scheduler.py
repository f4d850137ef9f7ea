"""What scheduling costs: `python benchmarks/scheduler.py`.

Per step, with 64 sequences running and 10,000 waiting behind them, without a model; and per token matched or inserted
in trees of growing size. Numbers are of this machine, printed with it.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterable, Iterator

from latticework.lang.ir import Sampling
from latticework.runtime.cache.leases import LeaseTable
from latticework.runtime.cache.pages import PagePool
from latticework.runtime.cache.radix import RadixTree
from latticework.runtime.request import GenSegment, Request
from latticework.runtime.schedule.memory import Memory
from latticework.runtime.schedule.scheduler import Scheduler
from latticework.runtime.schedule.sequence import Output, Sequence
from latticework.runtime.schedule.stops import StopCursor, StopMatcher

RUNNING, WAITING, STEPS = 64, 10_000, 300
PAGE = 16
PROMPT = 400
OUTPUT = 64


def tokens(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(50_000) for _ in range(count)]


def sequence(number: int, prompt: list[int], tenant: str) -> Sequence:
    sampling = Sampling(max_tokens=OUTPUT, seed=number)
    request = Request(number, (GenSegment(sampling),), tenant=tenant)
    made = Sequence("bench", request, number, prompt)
    made.output = Output(sampling, len(prompt), OUTPUT, stops=StopCursor(StopMatcher()))
    return made


def steps(tenants: int) -> Iterator[float]:
    """Seconds of each step: schedule, and hand every sequence its token; who is done makes room for the next."""
    rng = random.Random(1)
    pool = PagePool(200_000 // PAGE, PAGE)
    tree = RadixTree(pool)
    memory = Memory(pool, tree, LeaseTable(tree), lambda *_: None, True)
    scheduler = Scheduler(memory, RUNNING, 4096, lambda *_: True)
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
            one.computed += len(work.entry.tokens)
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


def describe(seconds: Iterable[float]) -> str:
    times = sorted(list(seconds)[50:])
    return f"median {times[len(times) // 2] * 1e3:.2f} ms, p99 {times[len(times) * 99 // 100] * 1e3:.2f} ms"


def main() -> None:
    from benchmarks.hardware import hardware

    print(hardware())
    for tenants in (1, 10, 1000):
        print(f"step, {RUNNING} running, {WAITING} waiting, {tenants} tenants: {describe(steps(tenants))}")
    for cached in (10_000, 100_000, 1_000_000):
        match, insert = tree_costs(cached)
        print(f"tree of {cached:>9,} tokens: match {match:.3f} µs a token, insert {insert:.3f} µs a token")


if __name__ == "__main__":
    main()
