"""What the next step computes: who runs, who waits, who has to give way.

    a step:   one token of every sequence that decodes
              + prompt chunks and options of selects, `chunk_tokens` in all, the first in rank first
              + whoever waits, while there are tokens, places and pages left

Rank is priority, then age. Between priority and age stand the tenants, where there are several: prompts of the one
that has had least go first, whether they wait or run; with every place taken it gets places of who holds most; and
prompts that have waited long take half of a step at most, as whoever comes next waits for its end. When pages run out
the last in rank gives way: its KV goes to the tree, where it may be evicted, and it waits to be resumed exactly where
it was. The first always goes on, so everything ends. This file knows no model, no bytes and no events.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

from latticework.lang.errors import PromptTooLong
from latticework.runtime.cache.pages import OutOfPages
from latticework.runtime.schedule.batch import Entry
from latticework.runtime.schedule.drafts import NOTHING, Draft, Drafts
from latticework.runtime.schedule.memory import Memory
from latticework.runtime.schedule.plan import Plan, Source, Work
from latticework.runtime.schedule.policy import WORTH_SHARING, who_gives_way
from latticework.runtime.schedule.sequence import Scoring, Sequence
from latticework.runtime.schedule.waiting import Waiting

HEADROOM_TOKENS = 32  # room to grow that each running sequence keeps when another comes in
FRESH_STEPS = 8  # a prompt may fill a step that was asked for so many steps ago
COPIES = 16  # for each token that a step may compute: on a CPU, writing KV once more takes a fiftieth of computing it
DRAFT_SHARE = 4  # guesses get a quarter of a step's prompt tokens
DRAFT_ROWS = 32  # and no more than this: everyone in the step waits for them
UNKNOWN = -1  # a token that only a device knows yet
ROOMY_ROWS = 32  # a step of fewer tokens takes hardly longer for a few more: guesses that may well be wrong pay


class Scheduler:
    """Owner of which sequences wait and which run.

    is_ready: whether a sequence's next token can be masked now. goes_ahead: whether it is drawn on a device, and the
    one after it may be computed before anybody knows it; then nothing is guessed, as a guess needs to know it.
    """

    def __init__(
        self,
        memory: Memory,
        max_running: int,
        chunk_tokens: int,
        is_ready: Callable[[Sequence], bool],
        drafts: Drafts,
        goes_ahead: Callable[[Sequence], bool] = lambda sequence: False,
    ) -> None:
        self.waiting = Waiting()
        self.running: list[Sequence] = []
        self.step = 0
        self.retractions = 0
        self._memory = memory
        self._max_running = max_running
        self._chunk_tokens = chunk_tokens
        self._age_tokens = max(1, chunk_tokens // 4)
        self._is_ready = is_ready
        self._drafts = drafts
        self._goes_ahead = goes_ahead

    def add(self, sequence: Sequence) -> None:
        sequence.waiting_since = self.step
        self.waiting.open(sequence)

    @property
    def decoding(self) -> int:
        """How many sequences wait for their next token alone."""
        return sum(sequence.uncomputed == 1 for sequence in self.running)

    def remove(self, sequence: Sequence) -> None:
        """Forgets a sequence; its pages are the caller's to take."""
        (self.running if sequence.running else self.waiting).remove(sequence)
        self.waiting.closed(sequence)

    def schedule(self, prompt_tokens: int | None = None) -> Plan:
        """prompt_tokens: at most so many of prompts and options, fewer than `chunk_tokens`."""
        self.step += 1
        plan = Plan(min(self._chunk_tokens, prompt_tokens or self._chunk_tokens))
        plan.drafts = min(plan.budget // DRAFT_SHARE, DRAFT_ROWS)
        plan.copies = COPIES * plan.budget if self._memory.caches else 0
        ranked = sorted(self.running, key=_rank)
        for sequence in ranked:
            if sequence.running and sequence.uncomputed == 1:
                try:  # `blaming`, without what entering it costs every token
                    self._plan_decode(plan, sequence)
                except Exception as error:
                    plan.fail(sequence, error)
        prompts = sorted((s for s in ranked if s.running and s.uncomputed != 1), key=self._turn_of, reverse=True)
        if prompts:
            self._admit(plan, ahead_of=prompts[0])
        for sequence in prompts:
            if sequence.running and plan.budget > 0:
                with plan.blaming(sequence):
                    self._plan_prompt(plan, sequence)
        self._admit(plan)
        return plan

    # ------------------------------------------------------------ parts of a step

    def _plan_decode(self, plan: Plan, sequence: Sequence) -> None:
        if sequence.ahead:
            self._plan_ahead(plan, sequence)
        elif self._may_sample(sequence):
            self._extend(plan, sequence, 1, Source())

    def _plan_ahead(self, plan: Plan, sequence: Sequence) -> None:
        """The token after one that only a device knows yet: it may turn out not to be needed, so nobody gives way to
        it."""
        if not self._goes_ahead(sequence):
            return
        start = sequence.computed + sequence.ahead
        if self._memory.reserve_spare(sequence, start + 1, len(self.running)):
            self._add(plan, Work(sequence, Entry([UNKNOWN], start, sequence.pages, 1), is_ahead=True))

    def _plan_prompt(self, plan: Plan, sequence: Sequence) -> None:
        """A chunk of what a sequence has not computed, or options of its select."""
        source = self._source(plan, sequence, sequence.computed)
        uncomputed = sequence.uncomputed - source.count
        count = min(uncomputed, self._left(plan, sequence))
        if count == 0:
            if sequence.selection is not None:
                self._score(plan, sequence)
            return
        silent = max(0, sequence.first_logits - sequence.computed - source.count)
        count = min(count, silent + plan.prompt_rows + 1)
        if count == uncomputed and not self._may_sample(sequence):
            count -= 1
        if count and self._extend(plan, sequence, count, source):
            self._spend(plan, sequence, count)

    def _source(self, plan: Plan, sequence: Sequence, computed: int) -> Source:
        """Whose KV a sequence can copy from `computed` on. Only pages that nobody has are used for that."""
        source = plan.source(sequence, computed)
        pages = self._memory.pages_for(computed + source.count) - computed // self._memory.page_size
        return source if pages <= self._memory.pool.free_count else Source()

    def _left(self, plan: Plan, sequence: Sequence) -> int:
        """Prompt tokens of a sequence that may still be added. A queue gains nothing from a long step, and others who
        come in the middle of it lose: its tenant gets half, where there are others."""
        tenant = sequence.request.tenant
        if self.step - sequence.waiting_since <= FRESH_STEPS or not self.waiting.has_company(tenant, self.step):
            return plan.budget
        whole = plan.budget + plan.spent.total()
        return max(0, min(plan.budget, -(-whole // 2) - plan.spent[tenant]))

    def _spend(self, plan: Plan, sequence: Sequence, count: int) -> None:
        plan.budget -= count
        plan.spent[sequence.request.tenant] += count

    def _may_sample(self, sequence: Sequence) -> bool:
        """A sequence whose next mask is cold waits for it, and keeps nobody else waiting."""
        output = sequence.output
        return output is None or output.matcher is None or self._is_ready(sequence)

    def _extend(self, plan: Plan, sequence: Sequence, count: int, source: Source) -> bool:
        """Plans the next `count` tokens of a sequence behind what it copies; False if there are no pages for them."""
        start = sequence.computed + source.count
        end = start + count
        if not self._reserve(plan, sequence, lambda: self._memory.reserve(sequence, end)):
            return False
        if source.work is not None and source.work not in plan.works:
            return False  # it has just given way
        draws = sequence.needs_logits and end == len(sequence.tokens)
        logits = max(0, end - max(start, sequence.first_logits))
        prompt_rows = logits - draws
        draft = self._draft(plan, sequence) if draws and not self._goes_ahead(sequence) else NOTHING
        tokens = sequence.tokens[start:end] + list(draft.tokens)
        computes = source.work.entry if source.work is not None else None
        entry = Entry(tokens, start, sequence.pages, logits + len(draft.tokens), computes, source.count)
        self._add(plan, Work(sequence, entry, prompt_rows=prompt_rows, draft=draft, source=source))
        plan.copies -= source.count
        plan.prompt_rows = max(0, plan.prompt_rows - prompt_rows)
        return True

    def _draft(self, plan: Plan, sequence: Sequence) -> Draft:
        """A guess of what comes after the sequence's last token, where there is room for one that nobody needs."""
        draft = self._drafts.propose(sequence, plan.drafts, plan.rows + len(self.running) <= ROOMY_ROWS)
        if not draft.tokens or not self._memory.reserve_spare(
            sequence, len(sequence.tokens) + len(draft.tokens), len(self.running)
        ):
            return NOTHING
        plan.drafts -= len(draft.tokens)
        plan.budget = max(0, plan.budget - len(draft.tokens))
        return draft

    def _add(self, plan: Plan, work: Work) -> None:
        plan.works.append(work)
        plan.rows += len(work.entry.tokens)
        self.waiting.charge(work.sequence, len(work.entry.tokens))

    def _score(self, plan: Plan, sequence: Sequence) -> None:
        """Plans options of a select, as many as budget and pages allow."""
        selection = sequence.selection
        assert selection is not None
        for scoring in selection.pending:
            count = min(scoring.unscored, self._left(plan, sequence))
            if count == 0 or not self._reserve_option(plan, sequence, scoring, count):
                return
            start = scoring.computed
            entry = Entry(
                list(scoring.tokens[start : start + count]),
                selection.base + start,
                self._memory.option_pages(sequence, scoring),
                count,
            )
            self._add(plan, Work(sequence, entry, scoring))
            self._spend(plan, sequence, count)

    # ------------------------------------------------------------ pages

    def _reserve_option(self, plan: Plan, sequence: Sequence, scoring: Scoring, count: int) -> bool:
        """Pages for one more option; options that are scored already give theirs before a sequence gives way."""
        assert sequence.selection is not None
        try:
            self._memory.reserve_option(sequence, scoring, count)
            return True
        except OutOfPages:
            if plan.includes(sequence):
                return False  # the options planned so far come first
        for done in sequence.selection.options:
            if not done.unscored:
                self._memory.drop_option(done)
        return self._reserve(plan, sequence, lambda: self._memory.reserve_option(sequence, scoring, count))

    def _reserve(self, plan: Plan, sequence: Sequence, take: Callable[[], None]) -> bool:
        """Tries to take pages, making the last in rank give way until there are enough."""
        while True:
            try:
                take()
                return True
            except OutOfPages:
                last = max(self.running, key=_rank)
                if len(self.running) == 1:
                    plan.fail(sequence, self._too_long(sequence))
                    return False
                self._retract(plan, last)
                if last is sequence:
                    return False

    def _too_long(self, sequence: Sequence) -> PromptTooLong:
        pool = self._memory.pool
        return PromptTooLong(
            f"a sequence of {len(sequence.tokens)} tokens and its options do not fit the KV pool of "
            f"{pool.total * pool.page_size} tokens",
            hint="shorten the text, or start the engine with larger kv_tokens",
            field="prompt",
        )

    def _retract(self, plan: Plan, sequence: Sequence) -> None:
        plan.has_retracted = True
        self._take_back(plan, sequence)

    def _take_back(self, plan: Plan, sequence: Sequence) -> None:
        plan.drop(sequence)
        self.retractions += 1
        self._memory.detach(sequence, keep=True)
        self.running.remove(sequence)
        sequence.running = False
        sequence.leave_steps()
        self.waiting.add(sequence)

    # ------------------------------------------------------------ admission

    def _admit(self, plan: Plan, ahead_of: Sequence | None = None) -> None:
        """ahead_of: only those whose turn comes before that of this one, which runs."""
        turn = self.waiting.turn()
        if turn is None or plan.has_retracted or not self._has_place(*turn):
            return
        prefilling = [sequence for sequence in self.running if sequence.uncomputed > 1]

        def look_up(sequence: Sequence) -> int:
            if sequence not in plan.cached:
                plan.cached[sequence] = 0
                with plan.blaming(sequence):
                    plan.cached[sequence] = self._memory.cached(sequence)
            return plan.cached[sequence]

        def has_turn(priority: int, tenant: str) -> bool:
            return ahead_of is None or (priority, self.waiting.standing(tenant)) > self._turn_of(ahead_of)

        families = self.waiting.families(look_up, self.step, self._age_tokens, has_turn)
        for sequence in itertools.chain.from_iterable(families):
            if plan.budget <= 0 or plan.has_retracted:
                return
            if plan.has_failed(sequence) or not self._left(plan, sequence):
                continue
            waited = (self.step - sequence.waiting_since) * self._age_tokens
            with plan.blaming(sequence):
                here = look_up(sequence)
                here += self._source(plan, sequence, here).count
                if self._memory.about_to_cache(sequence, prefilling) - here - waited >= WORTH_SHARING:
                    continue  # a running prefill will have done this work soon; the gain shrinks with every step
                if not self._make_place(plan, sequence):
                    return
                self._memory.attach(sequence)
                if self.running and not self._leaves_headroom(sequence):
                    self._memory.detach(sequence, keep=False)
                    return  # nobody overtakes it: running sequences will end
                self._start(sequence)
                if sequence.uncomputed > 1:
                    prefilling.append(sequence)
                self._plan_prompt(plan, sequence)

    def _has_place(self, priority: int, tenant: str) -> bool:
        return len(self.running) < self._max_running or self._giver(priority, tenant) is not None

    def _giver(self, priority: int, tenant: str) -> Sequence | None:
        """Who gives a tenant its place when all are taken. It costs next to nothing, as the cache keeps what is
        computed; without a cache the tenant waits for an end."""
        return who_gives_way(self.running, priority, tenant) if self._memory.caches else None

    def _make_place(self, plan: Plan, sequence: Sequence) -> bool:
        if len(self.running) < self._max_running:
            return True
        giver = self._giver(sequence.request.priority, sequence.request.tenant)
        if giver is not None:
            self._take_back(plan, giver)
        return giver is not None

    def _start(self, sequence: Sequence) -> None:
        self.waiting.admitted(sequence, self.step - sequence.waiting_since)
        if sequence.cached is None:
            sequence.cached = sequence.computed
        sequence.count_wait()
        self.running.append(sequence)
        sequence.running = True

    def _leaves_headroom(self, sequence: Sequence) -> bool:
        """There are pages for the whole of a sequence, and some growth of everyone."""
        wanted = sum(self._missing_pages(other) for other in (*self.running, sequence))
        return wanted <= self._memory.available

    def _missing_pages(self, sequence: Sequence) -> int:
        growth = min(HEADROOM_TOKENS, sequence.output.remaining) if sequence.output is not None else 0
        return max(0, self._memory.pages_for(len(sequence.tokens) + growth) - len(sequence.pages))

    def _turn_of(self, sequence: Sequence) -> tuple[int, int]:
        """The higher, the sooner its prompt is computed."""
        return sequence.request.priority, self.waiting.standing(sequence.request.tenant)

    def check(self, sequences: Iterable[Sequence]) -> None:
        """Proves that every open sequence either waits or runs."""
        assert set(self.waiting) | set(self.running) == set(sequences)
        assert len(self.waiting) + len(self.running) == len(set(sequences))
        assert all(sequence.running for sequence in self.running)
        assert not any(sequence.running for sequence in self.waiting)
        self.waiting.check()


def _rank(sequence: Sequence) -> tuple[int, int]:
    return (-sequence.request.priority, sequence.order)
