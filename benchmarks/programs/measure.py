"""Counts and times workloads.

counted    items one after the other on an empty cache: tokens and steps are the same every time, and are compared
           with what the program needs at least (ideal.py), with drafts off and on
timed      all items at once on an empty cache, the sides taking turns, each repeat with data of its own
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.programs.base import Sizes, Workload
from benchmarks.programs.ideal import Ideal, Model, Tree, ideal
from benchmarks.programs.sides import Compiled, Interpreted, Raw, Side, Used
from benchmarks.serve import BadAnswer
from latticework.lang.backends.runtime import Connection
from latticework.runtime.config import EngineConfig
from latticework.runtime.model.locate import find_model
from latticework.runtime.programs.turns import Turns
from latticework.runtime.text.chat import ChatTemplate
from latticework.runtime.text.tokenizer import Tokenizer

COUNTED_ITEMS = 2  # one after the other: the second finds what the first has left in the cache
PREFILL_LIMIT, STEPS_LIMIT = 1.05, 1.1  # of the ideal, for a compiled program
TIME_LIMIT = 1.05  # of the median of interpreted runs, and of raw calls to our own server
HEARTBEAT_PATIENCE = 30.0  # seconds; a heartbeat comes every half second


@dataclass(frozen=True)
class Server:
    """Ours. base_url: with its /v1."""

    connection: Connection
    base_url: str
    model: str


@dataclass(frozen=True)
class Other:
    base_url: str
    model: str


@dataclass(frozen=True)
class Totals:
    """Sums of our server since it started."""

    prompt: int
    cached: int
    output: int
    steps: int


@dataclass(frozen=True)
class Counts:
    """What one side used for all items, one after the other."""

    prompt: int
    cached: int
    computed: int
    output: int
    steps: int
    waits: int


@dataclass(frozen=True)
class Counted:
    """With one setting of drafts. sides: by their names."""

    ideal: Ideal
    sides: dict[str, Counts]

    @property
    def prefill(self) -> float:
        """Of the ideal's: what the compiled program computed before anything was drawn."""
        return self.sides["compiled"].computed / self.ideal.prefill

    @property
    def steps(self) -> float:
        """Of the ideal's: the compiled program's."""
        return self.sides["compiled"].steps / self.ideal.steps


@dataclass
class Result:
    """Of one workload. counted: by the setting of drafts. seconds, outputs: a number a repeat, by the side's name."""

    name: str
    counted: dict[str, Counted] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    outputs: dict[str, list[int]] = field(default_factory=dict)

    def ratio(self, side: str) -> float:
        """Median seconds of the compiled program over those of a side."""
        return statistics.median(self.seconds["compiled"]) / statistics.median(self.seconds[side])

    def beyond(self) -> list[str]:
        """Which limits the compiled program does not keep."""
        found = []
        for drafts, one in self.counted.items():
            numbers = {"prefill": (one.prefill, PREFILL_LIMIT), "steps": (one.steps, STEPS_LIMIT)}
            numbers["blocking waits"] = one.sides["compiled"].waits, 1
            found += [f"{name} {is_:.3g} with drafts {drafts}" for name, (is_, limit) in numbers.items() if is_ > limit]
        times = {side: self.ratio(side) for side in self.seconds if side in ("interpreted", "raw")}
        return found + [f"{ratio:.2f}× the time of {side}" for side, ratio in times.items() if ratio > TIME_LIMIT]


@dataclass(frozen=True)
class _Template:
    chat: ChatTemplate


def model_of(name: str) -> Model:
    """What the ideal needs to know of a model that is here. Raises ModelError."""
    card = find_model(name)
    tokenizer = Tokenizer.from_file(Path(card.tokenizer))
    template = _Template(ChatTemplate.of(card))

    def encode(pieces: Sequence[tuple[str, bool]], at_start: bool) -> Sequence[int]:
        tokens = tuple(tokenizer.encode_pieces(pieces)[0])
        begin = tokenizer.bos_ids
        return (*begin, *tokens) if at_start and tokens[: len(begin)] != begin else tokens

    return Model(encode, lambda: Turns(template), EngineConfig().chunk_tokens)  # type: ignore[arg-type]


def sides_of(workload: Workload, rng: random.Random, sizes: Sizes, server: Server) -> tuple[Compiled, list[Side]]:
    """The compiled side, and all of our own."""
    data = workload.data(rng, sizes)
    compiled = Compiled(workload, data, server.connection)
    raw = Raw("raw", workload, data, server.base_url, server.model)
    return compiled, [compiled, Interpreted(workload, data, server.connection), raw]


# ---------------------------------------------------------------- counted


def count(workload: Workload, seed: int, sizes: Sizes, server: Server, model: Model) -> Counted:
    sizes = replace(sizes, items=min(sizes.items, COUNTED_ITEMS))
    compiled, sides = sides_of(workload, random.Random(f"{seed} {workload.name}"), sizes, server)
    counts: dict[str, Counts] = {}
    totals = read_totals(server)
    for side in sides:
        counts[side.name], totals = _counted(side, server, totals)
    return Counted(ideal_of(compiled, model), counts)


def ideal_of(compiled: Compiled, model: Model) -> Ideal:
    """Of all items, one after the other: they share what is cached."""
    tree = Tree()
    pairs = zip(compiled.items, compiled.answers, strict=True)
    found = [ideal(compiled.program.ir, item, answers, model, tree) for item, answers in pairs]
    return Ideal(sum(one.prefill for one in found), sum(one.steps for one in found))


def _counted(side: Side, server: Server, before: Totals) -> tuple[Counts, Totals]:
    """What a side uses after `before`, with an empty cache; and the totals behind it, with an empty cache too."""
    waits = side.in_turn().waits
    after = read_totals(server, before.steps)
    prompt, cached = after.prompt - before.prompt, after.cached - before.cached
    output, steps = after.output - before.output, after.steps - before.steps
    return Counts(prompt, cached, prompt - cached, output, steps, waits), after


OTHER_SPINS = 2.0  # seconds in which threads of another server may still use the cores after its last answer


def rest(server: Server, steps: int = -1) -> int:
    """Waits until nothing runs and empties the cache. Returns how many steps there have been.

    steps: how many there were before what has run. Steps come with heartbeats: the one that shows an empty cache after
    more steps is later than all of them, as what runs, or has run, leaves something in the cache."""
    end = time.monotonic() + HEARTBEAT_PATIENCE
    while True:
        server.connection.flush_cache()  # again and again: what is about to end fills it once more
        stats = server.connection.stats()
        engine = stats.engine
        if stats.open_requests == engine.running == engine.pages_cached == 0 and engine.steps > steps:
            return engine.steps
        if time.monotonic() > end:
            raise BadAnswer(f"the engine did not come to rest within {HEARTBEAT_PATIENCE} s: {stats}")
        time.sleep(0.05)


def read_totals(server: Server, steps: int = -1) -> Totals:
    """What the server tells of all requests so far, text computed ahead of forks included, once they are over; see
    `rest`."""
    rest(server, steps)
    response = httpx.get(server.base_url.removesuffix("/v1") + "/metrics", timeout=30)
    response.raise_for_status()
    families = text_string_to_metric_families(response.text)
    found = {sample.name: int(sample.value) for family in families for sample in family.samples if not sample.labels}
    names = ("prompt_tokens", "prefix_cache_hits", "generation_tokens", "steps")
    return Totals(*(found[f"latticework:{name}_total"] for name in names))


# ---------------------------------------------------------------- timed


def clock(
    results: Sequence[Result],
    workloads: Mapping[str, Workload],
    seed: int,
    sizes: Sizes,
    server: Server,
    other: Other | None,
    repeats: int,
) -> None:
    """Adds the seconds of all repeats to the results. Nobody finds in the cache what the one before still held."""
    steps = rest(server)
    for repeat in range(repeats):
        for result in results:
            workload = workloads[result.name]
            rng = random.Random(f"{seed} {workload.name} {repeat}")
            _, sides = sides_of(workload, rng, sizes, server)
            if other is not None:
                data = workload.data(random.Random(f"{seed} {workload.name} {repeat}"), sizes)
                sides.append(Raw("other", workload, data, other.base_url, other.model))
            for side in rotated(sides, repeat):
                seconds, used = timed(side.at_once)
                if side.name == "other":
                    time.sleep(OTHER_SPINS)
                else:
                    steps = rest(server, steps)
                result.seconds.setdefault(side.name, []).append(seconds)
                result.outputs.setdefault(side.name, []).append(used.usage.output)


def rotated(sides: list[Side], repeat: int) -> list[Side]:
    """Another side begins in every repeat."""
    first = repeat % len(sides)
    return sides[first:] + sides[:first]


def timed(run: Callable[[], Used]) -> tuple[float, Used]:
    began = time.perf_counter()
    used = run()
    return time.perf_counter() - began, used
