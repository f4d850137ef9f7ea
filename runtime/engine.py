"""The engine: requests in, token events out, one step at a time.

    step() = schedule, run, settle

schedule  which sequences compute what (schedule/scheduler.py)
run       one batch through the model
settle    every sequence takes its token, moves along its chain (schedule/chain.py), ends or goes on

Single-threaded and without sockets: runtime/link puts a process around it. Whatever goes wrong with one sequence
ends that one with an error event.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

import numpy as np

from latticework.lang.errors import (
    Busy,
    DeadlineExceeded,
    ErrorData,
    InvalidArgument,
    LatticeworkError,
    RuntimeFailure,
)
from latticework.runtime.attention import make_attention
from latticework.runtime.attention.base import KVCache
from latticework.runtime.cache.kv import allocate_kv, copy_tokens, pages_for_memory
from latticework.runtime.cache.leases import LeaseTable
from latticework.runtime.cache.pages import PagePool
from latticework.runtime.cache.radix import RadixTree
from latticework.runtime.config import EngineConfig, check_sizes
from latticework.runtime.constrain import Automaton, Vocabulary, decode_rules
from latticework.runtime.constrain.automaton import ROW_CACHE_BYTES
from latticework.runtime.constrain.base import Row as MaskRow
from latticework.runtime.link.messages import EngineStats
from latticework.runtime.model.load import load_any, resolve_dtype, torch_dtype
from latticework.runtime.model.locate import find_model
from latticework.runtime.model.runner import ModelRunner
from latticework.runtime.model.spec import ModelSpec
from latticework.runtime.model.threads import use_threads
from latticework.runtime.profile import Profile
from latticework.runtime.request import GenSegment, Request, TextSegment, TokenEvent
from latticework.runtime.sample.contained import draw
from latticework.runtime.sample.sampler import Row
from latticework.runtime.sample.scores import token_logprobs
from latticework.runtime.schedule.accepted import check_request, constraint_keys
from latticework.runtime.schedule.automata import Automata, Build
from latticework.runtime.schedule.batch import Batch, build_batch
from latticework.runtime.schedule.chain import Chain
from latticework.runtime.schedule.deadlines import Deadlines
from latticework.runtime.schedule.memory import Memory
from latticework.runtime.schedule.scheduler import Plan, Scheduler, Work
from latticework.runtime.schedule.sequence import Output, Owner, Scoring, Selection, Sequence
from latticework.runtime.schedule.step_cost import StepCost
from latticework.runtime.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

Events = dict[Owner, list[TokenEvent]]


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
        profile: Profile | None = None,
    ) -> None:
        """runner: brings the KV pool along. build: makes automata of rule graphs. dtype: name of the weights' type."""
        self.config = config
        self.dtype = dtype
        self.context = min(spec.max_position_embeddings, config.context or spec.max_position_embeddings)
        self.profile = profile or Profile(config.profile)
        self._runner = runner
        self._vocab_size = spec.vocab_size
        kv = runner.kv
        pages = kv.keys[0].shape[0]
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
        self.automata = Automata(build, config.row_cache_mb << 20)
        self.chain = Chain(
            tokenizer.encode_bytes,
            tokenizer.padded(spec.vocab_size),
            frozenset(end_ids),
            self.automata,
            self.memory,
            min(self.context, self.kv_tokens),
        )
        self.scheduler = Scheduler(self.memory, config.max_running, config.chunk_tokens, self._is_ready)
        self.step_cost = StepCost()
        self._open: dict[tuple[Owner, int], Sequence] = {}
        self._deadlines: Deadlines[tuple[Owner, int]] = Deadlines()
        self._arrivals = itertools.count()
        self._events: Events = {}
        self._deadline = 0.0  # until when this step may compute cold masks

    @staticmethod
    def load(config: EngineConfig, progress: Callable[[float], None] | None = None) -> Engine:
        """Reads model and tokenizer and allocates the KV pool. Raises a ModelError or InvalidArgument.

        progress: told the fraction of the weights read. Sets the number of CPU threads of the process."""
        card = find_model(config.model)
        check_sizes(config, card.spec.max_position_embeddings)
        use_threads(config.threads)
        tokenizer = Tokenizer.from_file(card.tokenizer)
        dtype = resolve_dtype(config.dtype)
        report = None if progress is None else lambda read, total: progress(read / max(1, total))
        model = load_any(card, dtype, config.model_impl, report)
        spec = model.spec
        kind = torch_dtype(dtype)
        if config.kv_tokens is None:
            pages = pages_for_memory(spec, kind.itemsize, config.page_size)
        else:
            pages = config.kv_tokens // config.page_size
        kv = allocate_kv(spec, pages, config.page_size, kind)
        attention = make_attention(config.attention, "cpu", spec.head_dim, kind, spec.attention_layers)
        profile = Profile(config.profile)
        runner = ModelRunner(model, attention, kv, profile)
        vocabulary = Vocabulary(tokenizer.padded(spec.vocab_size), card.end_ids)

        row_bytes = min(ROW_CACHE_BYTES, config.row_cache_mb << 19)  # half of what there is: states need the rest

        def build(rules: bytes) -> Automaton:
            return Automaton(decode_rules(rules), vocabulary, row_bytes)

        return Engine(config, runner, tokenizer, build, spec, card.end_ids, dtype, profile)

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
        try:
            self._accept(owner, request)
        except Exception as error:
            event = TokenEvent(request.id, 0, end="error", error=_describe(error), final=True)
            self._events.setdefault(owner, []).append(event)
        self.automata.expected((owner, request.id))  # after it has taken its own
        return None

    def cancel(self, owner: Owner, request_id: int) -> None:
        """Ends a request with end "cancelled". Ignored if it has ended."""
        self.automata.expected((owner, request_id))
        sequence = self._open.get((owner, request_id))
        if sequence is not None:
            self._close(sequence, TokenEvent(request_id, sequence.segment, end="cancelled", complete=False), True)

    def release(self, owner: Owner, leases: Iterable[int]) -> None:
        """Gives leases back. Ids not held are ignored."""
        self.leases.release(owner, leases)

    def drop(self, owner: Owner) -> None:
        """The owner is gone: ends its requests, gives its leases back, forgets its events."""
        for key in [key for key in self._open if key[0] == owner]:
            self.cancel(*key)
        self.automata.expect_nothing_of(owner)
        self.leases.release_all(owner)
        self._events.pop(owner, None)

    def flush_cache(self) -> None:
        """Evicts every prefix that no lease and no running sequence holds."""
        self.tree.flush()

    # ------------------------------------------------------------ one step

    def has_work(self) -> bool:
        """`step` has something to do or to tell."""
        return bool(self._open or self._events)

    def step(self) -> Events:
        """Schedules, runs and settles one batch; returns what has happened since the last call."""
        now = time.monotonic()
        self._deadline = now + self.config.mask_budget_ms / 1000
        self._expire(now)
        with self.profile.part("schedule"):
            plan = self._plan()
        logits = self._run(plan)
        with self.profile.part("settle"):
            self._settle(plan, logits)
        if plan.works:
            self.step_cost.observe(sum(len(work.entry.tokens) for work in plan.works), time.monotonic() - now)
        events, self._events = self._events, {}
        return events

    def _expire(self, now: float) -> None:
        """Ends every request whose time is over; what it has computed is good and stays in the cache."""
        for key in self._deadlines.expired(now):
            sequence = self._open[key]
            error = DeadlineExceeded(
                f"the request took longer than the {round(sequence.request.deadline or 0, 2):g} seconds it was given",
                hint="give it more time, or ask for fewer tokens",
                field="timeout",
            )
            event = TokenEvent(key[1], sequence.current, end="error", complete=False, error=error.to_data())
            self._close(sequence, event, True)

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
            return self._runner.run(batch)
        except Exception as error:
            for work in plan.works:
                plan.fail(work.sequence, error)
            return None

    def _settle(self, plan: Plan, logits: Tensor | None) -> None:
        for sequence, error in plan.failures:
            self._fail(sequence, error)
        if logits is not None:
            self._settle_works(plan.works, logits)
        for sequence in list(self.scheduler.running):
            if sequence.at_end and sequence.uncomputed == 0:
                self._finish(sequence)

    def _settle_works(self, works: list[Work], logits: Tensor) -> None:
        """Sorts the works by what their logits are for, before any sequence moves on, then serves them."""
        samples: list[tuple[Work, int]] = []  # with the work's first row of logits
        scores: list[tuple[Work, int]] = []
        row, now = 0, time.monotonic()
        for work in works:
            work.sequence.count_work(now)
            if work.scoring is None:
                work.sequence.computed += len(work.entry.tokens)
            if not work.entry.logits:
                try:
                    self._publish(work)
                except Exception as error:
                    self._fail(work.sequence, error)
            elif work.sequence.output is not None:
                samples.append((work, row))
            else:
                scores.append((work, row))
            row += work.entry.logits
        self._settle_samples(samples, logits)
        self._settle_scores(scores, logits)

    def _settle_samples(self, works: list[tuple[Work, int]], logits: Tensor) -> None:
        """Draws a token for every gen."""
        drawing: list[tuple[Work, int, Row]] = []
        for work, row in works:
            output = work.sequence.output
            assert output is not None
            try:
                drawing.append((work, row, self._rule(work.sequence, output)))
            except Exception as error:
                self._fail(work.sequence, error)
        if not drawing:
            return
        with self.profile.part("sample"):
            drawn = draw(logits, [row for _, row, _ in drawing], [rule for _, _, rule in drawing])
        for (work, _, _), found in zip(drawing, drawn, strict=True):
            sequence = work.sequence
            try:
                if isinstance(found, Exception):
                    raise found
                self._publish(work)
                event = self.chain.accept(sequence, *found)
            except Exception as error:
                self._fail(sequence, error)
                continue
            self._proceed(sequence, event)

    def _rule(self, sequence: Sequence, output: Output) -> Row:
        """How the next token of a gen is drawn."""
        mask = self._mask(sequence)
        return Row(output.sampling, output.drawn, mask, output.before, output.text.tokens, output.barred)

    def _settle_scores(self, works: list[tuple[Work, int]], logits: Tensor) -> None:
        """Hands log-probabilities to the options of selects, and decides those that are complete. A failure is that
        of its own sequence."""
        touched: dict[Sequence, None] = {}
        for work, row in works:
            if not self._is_open(work.sequence):
                continue  # another of its options has failed it
            selection = work.sequence.selection
            assert selection is not None
            rows = logits[row : row + work.entry.logits]
            try:
                with self.profile.part("sample"):
                    _score(selection, work.scoring, rows)
            except Exception as error:
                self._fail(work.sequence, error)
            touched[work.sequence] = None
        for sequence in touched:
            if self._is_open(sequence):
                self._decide(sequence)

    def _decide(self, sequence: Sequence) -> None:
        selection = sequence.selection
        assert selection is not None
        try:
            if any(math.isnan(number) for scoring in selection.options for number in scoring.logprobs):
                raise RuntimeFailure("model produced NaN")
            self.memory.publish(sequence)
            if selection.pending:
                self.chain.keep_best(sequence)
                return
            event = self.chain.choose(sequence)
        except Exception as error:
            self._fail(sequence, error)
            return
        self._proceed(sequence, event)

    def _publish(self, work: Work) -> None:
        """Lets others share a prompt once it is computed."""
        if len(work.entry.tokens) > 1 and work.sequence.uncomputed == 0:
            self.memory.publish(work.sequence)

    # ------------------------------------------------------------ masks

    def _is_ready(self, sequence: Sequence, patient: bool) -> bool:
        output = sequence.output
        assert output is not None
        assert output.matcher is not None
        with self.profile.part("mask"):
            is_ready = output.matcher.prepare(math.inf if patient else self._deadline) or patient
        self._count_growth(sequence)
        return is_ready

    def _mask(self, sequence: Sequence) -> MaskRow | None:
        """The tokens that may come next, [W]; None: all."""
        output = sequence.output
        if output is None or output.matcher is None:
            return None
        row = np.zeros(-(-self._vocab_size // 32), dtype=np.int32)
        with self.profile.part("mask"):
            output.matcher.fill_mask(row, output.remaining if output.closing else None)
        self._count_growth(sequence)
        return row

    def _count_growth(self, sequence: Sequence) -> None:
        """A mask was computed: all automata together stay within their bytes."""
        segment = sequence.request.chain[sequence.segment]
        assert isinstance(segment, GenSegment)
        assert segment.constraint is not None
        self.automata.grown(segment.constraint)

    # ------------------------------------------------------------ the life of a request

    def _accept(self, owner: Owner, request: Request) -> None:
        if (owner, request.id) in self._open:
            raise InvalidArgument(f"request {request.id} is open already", field="id")
        if len(self.scheduler.waiting) >= self.config.max_waiting:
            raise Busy(f"{self.config.max_waiting} requests are waiting", hint="retry later")
        check_request(request, self._vocab_size)
        sequence = Sequence(owner, request, next(self._arrivals), [])
        if request.parent_lease is not None:
            lease = self.leases.get(owner, request.parent_lease)
            if lease.namespace != request.space:
                raise InvalidArgument("the lease is of another tenant or namespace", field="parent_lease")
            sequence.tokens = list(lease.tokens)
            sequence.carry = lease.carry
            sequence.given = len(lease.tokens)
        self.chain.enter(sequence)
        keys = constraint_keys(request)
        self.automata.acquire(keys)
        self._open[owner, request.id] = sequence
        if request.deadline is not None:
            self._deadlines.set((owner, request.id), time.monotonic() + request.deadline)
        self.scheduler.add(sequence)
        if sequence.at_end and not self._wants_kv(sequence):
            self._finish(sequence)

    def _wants_kv(self, sequence: Sequence) -> bool:
        """Closing text is worth computing when someone will continue from it, or nothing else was asked for."""
        if not self.memory.caches:
            return False
        request = sequence.request
        return request.hold_lease is not None or all(isinstance(s, TextSegment) for s in request.chain)

    def _proceed(self, sequence: Sequence, event: TokenEvent) -> None:
        """Tells of a token; after a segment's last one, begins the next segment or ends the request."""
        if event.end is None:
            self._tell(sequence, event)
        elif sequence.at_end:
            self._close(sequence, event, True)
        else:
            event.usage = sequence.usage
            self._tell(sequence, event)
            try:
                self.chain.enter(sequence)
            except Exception as error:
                self._fail(sequence, error)
                return
            if sequence.at_end and not self._wants_kv(sequence):
                self._finish(sequence)

    def _finish(self, sequence: Sequence) -> None:
        """Ends a request whose chain ends with constant text."""
        last = max(0, len(sequence.request.chain) - 1)
        self._close(sequence, TokenEvent(sequence.request.id, last, end="text"), True)

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        """Ends one request with an error. Its KV is not kept: it may be what is wrong."""
        if not self._is_open(sequence):
            return
        if not isinstance(error, LatticeworkError):
            log.error("request %s failed", sequence.request.id, exc_info=error)
        event = TokenEvent(sequence.request.id, sequence.current, end="error", complete=False, error=_describe(error))
        self._close(sequence, event, False)

    def _is_open(self, sequence: Sequence) -> bool:
        return self._open.get((sequence.owner, sequence.request.id)) is sequence

    def _close(self, sequence: Sequence, event: TokenEvent, keep: bool) -> None:
        """The one way in which a request ends. keep: its KV is good."""
        request = sequence.request
        del self._open[sequence.owner, request.id]
        self._deadlines.forget((sequence.owner, request.id))
        self.scheduler.remove(sequence)
        if not sequence.running:
            sequence.count_wait()
        computed = sequence.computed
        node = self.memory.detach(sequence, keep)
        if request.hold_lease is not None and event.end not in ("error", "cancelled"):
            self.leases.hold(
                sequence.owner,
                request.hold_lease,
                sequence.tokens,
                sequence.carry,
                request.space,
                node,
                computed if node is not None else 0,
            )
        self.automata.release(constraint_keys(request))
        event.usage = sequence.usage
        event.final = True
        self._tell(sequence, event)

    def _tell(self, sequence: Sequence, event: TokenEvent) -> None:
        self._events.setdefault(sequence.owner, []).append(event)

    # ------------------------------------------------------------ insight

    def stats(self) -> EngineStats:
        return EngineStats(
            running=len(self.scheduler.running),
            waiting=len(self.scheduler.waiting),
            pages_free=self.pool.free_count,
            pages_cached=self.tree.cached_pages,
            pages_total=self.pool.total,
            leases=len(self.leases),
            steps=self.scheduler.step,
            retractions=self.scheduler.retractions,
            profile=dict(self.profile.seconds),
        )

    def check(self) -> None:
        """Proves that every page has one owner and every open request one place. For tests, after each step."""
        self.scheduler.check(self._open.values())
        self.memory.check(self._open.values())


def _score(selection: Selection, scoring: Scoring | None, logits: Tensor) -> None:
    """Hands log-probabilities to one option, or, where `scoring` is None, their first ones to all. logits: [R, V]"""
    if scoring is None:
        firsts = token_logprobs(logits, [[option.tokens[0] for option in selection.options]])[0]
        for option, logprob in zip(selection.options, firsts, strict=True):
            option.logprobs = [logprob]
    else:
        known = len(scoring.logprobs)
        predicted = scoring.tokens[known : known + len(logits)]
        scoring.logprobs += [one for (one,) in token_logprobs(logits, [[token] for token in predicted])]


def _describe(error: Exception) -> ErrorData:
    """An error for whoever asked: ours as it is, others without what an operating system may tell of paths."""
    if isinstance(error, LatticeworkError):
        return error.to_data()
    detail = "" if isinstance(error, OSError) else f": {str(error)[:200]}"
    return RuntimeFailure(f"internal error: {type(error).__name__}{detail}").to_data()
