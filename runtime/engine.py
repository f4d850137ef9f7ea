"""The engine: requests in, token events out, one step at a time.

    step() = schedule, run, settle

schedule  which sequences compute what (schedule/scheduler.py)
run       one batch through the model
settle    every sequence takes its token, moves along its chain, ends or goes on (settle.py, schedule/requests.py)

Single-threaded and without sockets: runtime/link puts a process around it. Whatever goes wrong with one sequence
ends that one with an error event.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from latticework.runtime.attention.base import KVCache
from latticework.runtime.cache.kv import copy_tokens
from latticework.runtime.cache.leases import LeaseTable
from latticework.runtime.cache.pages import PagePool
from latticework.runtime.cache.radix import RadixTree
from latticework.runtime.config import EngineConfig, check_sizes
from latticework.runtime.constrain import Automaton, Vocabulary, decode_rules
from latticework.runtime.constrain.automaton import ROW_CACHE_BYTES
from latticework.runtime.device.decoder import DeviceDecoder
from latticework.runtime.device.flight import Flight
from latticework.runtime.device.make import decodes_on_device, make_steps, steps_overlap
from latticework.runtime.link.messages import EngineStats
from latticework.runtime.model.assemble import assemble
from latticework.runtime.model.locate import find_model
from latticework.runtime.model.spec import ModelCard, ModelSpec
from latticework.runtime.model.threads import use_threads
from latticework.runtime.profile import Profile
from latticework.runtime.request import Request
from latticework.runtime.schedule.accepted import check_request, constraint_keys
from latticework.runtime.schedule.automata import EXPANSION, Automata, Build
from latticework.runtime.schedule.batch import Batch, build_batch
from latticework.runtime.schedule.chain import Chain
from latticework.runtime.schedule.drafts import Drafts
from latticework.runtime.schedule.held import Held
from latticework.runtime.schedule.masks import Masks
from latticework.runtime.schedule.memory import Memory
from latticework.runtime.schedule.pieces import Pace, Pieces
from latticework.runtime.schedule.plan import Plan
from latticework.runtime.schedule.requests import Events, Requests
from latticework.runtime.schedule.scheduler import Scheduler
from latticework.runtime.schedule.sequence import Owner, Sequence
from latticework.runtime.schedule.step_cost import StepCost
from latticework.runtime.settle import Settlement
from latticework.runtime.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from latticework.kernels.cpu.library import Library
    from latticework.runtime.device.steps import DecodeSteps


def _texts(card: ModelCard) -> tuple[Tokenizer, Vocabulary]:
    """What the engine knows of texts, made while weights are read."""
    tokenizer = Tokenizer.from_file(card.tokenizer)
    return tokenizer, Vocabulary(tokenizer.padded(card.spec.vocab_size), card.end_ids).warm()


class Runner(Protocol):
    """What the engine needs of a model: see `ModelRunner`."""

    kv: KVCache

    def run(self, batch: Batch) -> Tensor:  # [R, V]
        ...


class Engine:
    """Owner of everything: the KV, the cache, the automata and every open request."""

    def __init__(
        self,
        config: EngineConfig,
        runner: Runner,
        tokenizer: Tokenizer,
        build: Build,
        spec: ModelSpec,
        end_ids: Iterable[int],
        dtype: str,
        vocabulary: Vocabulary,
        profile: Profile | None = None,
        pace: Pace | None = None,
        matrices: Mapping[str, int] | None = None,
        library: Library | None = None,
        steps: DecodeSteps | None = None,
        overlaps: bool = False,
    ) -> None:
        """runner: brings the KV pool along. build: makes automata of rule graphs, over `vocabulary`; pace: what they
        call where they may pause. dtype: name of the weights' type. matrices: how many of the model's are held in which
        forms. library: draws tokens with it, from logits on the CPU. steps: draw on the device, over the same KV pool,
        whose last page is then theirs; overlaps: the next one is launched before the one before has told its tokens."""
        self.config = config
        self.dtype = dtype
        self.matrices = dict(matrices or {})
        self.context = min(spec.max_position_embeddings, config.context or spec.max_position_embeddings)
        self.profile = profile or Profile(config.profile)
        self.runner = runner
        self._vocabulary = vocabulary
        kv = runner.kv
        pages = kv.keys[0].shape[0] - (steps is not None)
        self.kv_tokens = pages * kv.page_size
        self.pool = PagePool(pages, kv.page_size)
        self.tree = RadixTree(self.pool)
        self.leases = LeaseTable(self.tree)
        self.memory = Memory(
            self.pool,
            self.tree,
            self.leases,
            lambda source, target, count: copy_tokens(kv, source, target, count),
            config.prefix_cache,
        )
        pace = pace or Pace()
        self.pieces = Pieces(pace, config.mask_budget_ms / 1000)
        self.automata = Automata(build, config.row_cache_mb << 20, self.pieces, EXPANSION)
        self.chain = Chain(
            tokenizer.encode_bytes,
            tokenizer.padded(spec.vocab_size),
            vocabulary,
            frozenset(end_ids),
            self.automata,
            self.memory,
            min(self.context, self.kv_tokens),
        )
        self.masks = Masks(
            self.automata,
            spec.vocab_size,
            self.profile,
            self.pieces,
            lambda sequence: self.requests.is_open(sequence),
        )
        self.decoder: DeviceDecoder | None = None
        if steps is not None:
            self.decoder = DeviceDecoder(steps, self.automata, self.pieces, pace, overlaps)
        self._flight: Flight | None = None  # the step that has not told its tokens yet
        self.drafts = Drafts(config.drafts, tokenizer.encode_bytes, tokenizer.padded(spec.vocab_size), self.masks)
        self.scheduler = Scheduler(
            self.memory,
            config.max_running,
            config.chunk_tokens,
            self._is_ready,
            self.drafts,
            lambda sequence: self.decoder is not None and self.decoder.goes_ahead(sequence),
        )
        self.requests = Requests(
            self.chain,
            self.scheduler,
            self.memory,
            self.leases,
            self.automata,
            lambda request: check_request(request, spec.vocab_size),
            config.max_waiting,
        )
        self.held = Held(self.automata, self.requests, config.max_waiting)
        self.settlement = Settlement(
            self.requests, self.chain, self.memory, self.masks, self.drafts, self.profile, library
        )
        self.step_cost = StepCost()
        self.model_steps = 0  # a step in which every sequence waits for its mask is none of the model's

    @staticmethod
    def load(config: EngineConfig, progress: Callable[[float], None] | None = None) -> Engine:
        """Reads model and tokenizer and allocates the KV pool. Raises a ModelError or InvalidArgument.

        progress: told the fraction of the weights read. Sets the number of CPU threads of the process."""
        card = find_model(config.model, config.load_format)
        check_sizes(config, card.spec.max_position_embeddings)
        use_threads(config.threads)
        profile = Profile(config.profile)
        report = None if progress is None else lambda read, total: progress(read / max(1, total))
        with ThreadPoolExecutor(1) as beside:
            texts = beside.submit(_texts, card)
            runner, dtype = assemble(card, config, profile, report)
            tokenizer, vocabulary = texts.result()
        spec, held, device = runner.model.spec, runner.model.held(), runner.kv.keys[0].device.type
        on_device = decodes_on_device(config, device, runner.attention)
        steps = make_steps(config, runner.model, runner.attention, runner.kv, vocabulary) if on_device else None
        row_bytes = min(ROW_CACHE_BYTES, config.row_cache_mb << 19)  # half of what there is: states need the rest

        pace = Pace()

        def build(rules: bytes) -> Automaton:
            return Automaton(decode_rules(rules, pace), vocabulary, row_bytes, pause=pace)

        return Engine(
            config,
            runner,
            tokenizer,
            build,
            spec,
            card.end_ids,
            dtype,
            vocabulary,
            profile,
            pace,
            held,
            runner.library,
            steps,
            steps_overlap(config, device),
        )

    # ------------------------------------------------------------ what a front asks

    def define(self, owner: Owner, key: str, rules: bytes) -> None:
        """Names a rule graph. One that cannot be used fails the requests that name it."""
        self.automata.define(key, rules)

    def submit(self, owner: Owner, request: Request) -> str | None:
        """Accepts a request, or returns a constraint key that has to be defined first.

        An accepted request gets exactly one final event, from a later `step`; refusal is one, too."""
        keys = constraint_keys(request)
        missing = self.automata.missing(keys)
        if missing is not None:
            self.automata.expect((owner, request.id), keys)
            return missing
        if self.automata.are_ready(keys):
            self.requests.accept(owner, request, time.monotonic())
        else:
            self.held.hold(owner, request, time.monotonic())
        self.automata.expected((owner, request.id))  # after it has taken its own
        return None

    def cancel(self, owner: Owner, request_id: int) -> None:
        """Ends a request with end "cancelled". Ignored if it has ended."""
        self.automata.expected((owner, request_id))
        self.held.cancel(owner, request_id)
        self.requests.cancel(owner, request_id)

    def release(self, owner: Owner, leases: Iterable[int]) -> None:
        """Gives leases back. Ids not held are ignored."""
        self.leases.release(owner, leases)

    def drop(self, owner: Owner) -> None:
        """The owner is gone: ends its requests, gives its leases back, forgets its events."""
        self.held.drop(owner)
        self.requests.drop(owner)
        self.automata.expect_nothing_of(owner)
        self.leases.release_all(owner)

    def flush_cache(self) -> None:
        """Evicts every prefix that no lease and no running sequence holds, constraints that no request uses, and what
        was learnt on the way."""
        self.tree.flush()
        self.drafts.forget()
        self.automata.flush()
        self.pieces.drop_unwanted()
        self._vocabulary.forget()

    # ------------------------------------------------------------ one step

    def has_work(self) -> bool:
        """`step` has something to do or to tell."""
        return bool(self.requests or self.held or self.pieces or self._flight) or self.requests.has_news

    def step(self) -> Events:
        """Schedules, runs and settles one batch; returns what has happened since the last call.

        Where steps overlap, what decodes on the device is settled by the next call: while it runs, that one schedules.
        """
        with self.profile.part("mask"):
            self.pieces.begin(is_waited=self.scheduler.decoding > 0)
        self.masks.begin()
        if self.decoder is not None:
            self.decoder.tables.begin()
        now = time.monotonic()
        self.held.proceed(now)
        self.requests.expire(now)
        with self.profile.part("schedule"):
            plan = self._plan()
            if not plan.works and self.pieces:
                self.pieces.go_on(self.config.mask_budget_ms / 1000)  # nobody waits for this step
        rows = sum(len(work.entry.tokens) for work in plan.works)
        if self.decoder is not None:
            self._decode(self.decoder, plan)
        logits = self._run(plan)
        with self.profile.part("settle"):
            self.settlement.settle(plan, logits)
        self.masks.tidy()
        if rows:
            self.pieces.observe(time.monotonic() - now)
            self.step_cost.observe(rows, time.monotonic() - now)
        return self.requests.news()

    def _decode(self, decoder: DeviceDecoder, plan: Plan) -> None:
        """Launches what of the plan the device draws itself. Settles that; or what was launched by the step before,
        which the device has done meanwhile."""
        with self.profile.part("layers"):
            launched = decoder.launch(plan)
        self.model_steps += launched is not None
        landing = launched
        if decoder.overlaps:
            landing, self._flight = self._flight, launched
        if landing is not None:
            with self.profile.part("settle"):
                decoder.surplus += self.settlement.land(landing)

    def _is_ready(self, sequence: Sequence) -> bool:
        """The next token of a sequence under a constraint can be drawn in this step."""
        return (self.decoder is not None and self.decoder.takes(sequence)) or self.masks.is_ready(sequence)

    def _plan(self) -> Plan:
        """What to compute. Where planning itself fails, and not over one sequence, those that run are the likeliest
        cause; without them the others are. They end, so that the next step is another one."""
        try:
            return self.scheduler.schedule(self._prompt_tokens())
        except Exception as error:
            suspects = self.scheduler.running or list(self.scheduler.waiting)
            return Plan(0, failures=[(sequence, error) for sequence in suspects])

    def _prompt_tokens(self) -> int | None:
        """How much of prompts this step may compute for `max_itl`; None: no limit, as nobody waits for a token."""
        decoding = self.scheduler.decoding
        if self.config.max_itl is None or not decoding:
            return None
        return self.step_cost.prompt_tokens(self.config.max_itl / 1000, decoding)

    def _run(self, plan: Plan) -> Tensor | None:
        """Logits [R, V] of the planned rows. A failing batch fails its requests."""
        if not plan.works:
            return None
        try:
            with self.profile.part("build"):
                batch = build_batch([work.entry for work in plan.works], self.pool.page_size)
            logits = self.runner.run(batch)
            self.model_steps += 1
            return logits
        except Exception as error:
            for work in plan.works:
                plan.fail(work.sequence, error)
            return None

    # ------------------------------------------------------------ insight

    def stats(self) -> EngineStats:
        decoder = self.decoder
        return EngineStats(
            running=len(self.scheduler.running),
            waiting=len(self.scheduler.waiting),
            pages_free=self.pool.free_count,
            pages_cached=self.tree.cached_pages,
            pages_total=self.pool.total,
            leases=len(self.leases),
            steps=self.model_steps,
            retractions=self.scheduler.retractions,
            drafted=self.drafts.drafted,
            accepted=self.drafts.accepted,
            automata=len(self.automata),
            automata_bytes=self.automata.size,
            matrices=self.matrices,
            device_tokens=0 if decoder is None else decoder.drawn,
            surplus_tokens=0 if decoder is None else decoder.surplus,
            host_tokens={} if decoder is None else dict(decoder.by_host),
            profile=dict(self.profile.seconds),
        )

    def check(self) -> None:
        """Proves that every page has one owner and every open request one place. For tests, after each step."""
        self.scheduler.check(self.requests)
        self.memory.check(self.requests)
        if self.decoder is not None:
            self.decoder.check(self.scheduler.running)
