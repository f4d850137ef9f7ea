"""One branch of a run in the front: a task that turns ops into chains, and chains into requests.

    ops       Role Text Text Gen Text Gen │ Fork
    chain     [   run   ][gen][run ][gen]   one request; its lease is what the next chain and the children continue

Text waits until an op needs it; role markers and text up to the next generating op are one run, encoded once. Text
that depends on values ends the chain that draws them. The run that branches belong to is in `run.py`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from latticework.lang.errors import (
    Cancelled,
    EngineDied,
    ErrorData,
    LatticeworkError,
    ProgramError,
    RuntimeFailure,
    Unsupported,
    from_data,
)
from latticework.lang.events import Done, Failed, Rendered, Spent, Usage
from latticework.lang.ir import (
    Arg,
    Fork,
    Gen,
    Join,
    Op,
    Ref,
    Role,
    Sampling,
    Select,
    Set,
    Text,
    derive_seed,
    describe,
    merge_sampling,
)
from latticework.lang.samples import as_one
from latticework.runtime.link.engine_link import EngineLink
from latticework.runtime.programs.choosing import Choosing, score_alone
from latticework.runtime.programs.generation import RESTART_PATIENCE
from latticework.runtime.programs.hold import Hold
from latticework.runtime.programs.samples import Said, Samples, Terms
from latticework.runtime.programs.speech import Speech
from latticework.runtime.programs.turns import Turns
from latticework.runtime.request import Request, Segment, TextSegment, TokenEvent

if TYPE_CHECKING:
    from latticework.runtime.programs.run import Run

Speaker: TypeAlias = Speech | Choosing
"""Who turns a generating segment's events into the op's."""
PLAIN_END = 1024  # characters of plain text that are remembered: more could not be healed
LONG_TEXT = 20_000  # characters; more are encoded in a thread

log = logging.getLogger(__name__)

ANSWERED = (Role, Gen, Select, Ref)  # ops that get a Rendered, a Done or a Failed


@dataclass(slots=True)
class Chain:
    """A request in the making: its segments, who speaks for the generating ones, their compiled constraints, and how
    long these took."""

    segments: list[Segment] = field(default_factory=list)
    speakers: dict[int, Speaker] = field(default_factory=dict)
    rules: dict[str, bytes] = field(default_factory=dict)
    compiling: dict[int, Usage] = field(default_factory=dict)  # by segment

    @property
    def is_text(self) -> bool:
        """Nothing is drawn in it."""
        return all(isinstance(segment, TextSegment) for segment in self.segments)

    def add(self, segment: Segment, speaker: Speaker | None = None) -> None:
        if speaker is not None:
            self.speakers[len(self.segments)] = speaker
        self.segments.append(segment)


class BranchTask:
    """One branch: its queue of ops, the text not yet sent, and the lease it continues from."""

    def __init__(self, run: Run, index: int, parent: BranchTask | None, path: tuple[int, ...]) -> None:
        self.run = run
        self.front = run.front
        self.index = index
        self.parent = parent
        self.path = path
        self.forks = 0
        self.expected = 0  # position of the next op to arrive
        self.task: asyncio.Task[None] | None = None
        self.idle = asyncio.Event()  # nothing is queued or running, or the branch has failed
        self.idle.set()
        self.over = asyncio.Event()  # of a sealed branch: it has ended, well or not
        self._sealed = False
        self._needed: int | None = None  # the last op that continues from this branch's text; None: who knows
        self._queue: deque[tuple[int, Op]] = deque()
        self._more = asyncio.Event()
        self._unanswered: dict[int, Op] = {}
        self._error: ErrorData | None = None
        self._pieces: list[tuple[str, bool]] = []
        self._turns = Turns(run.front)
        self._hold: Hold | None = None
        self._ordinal = 0
        self._plain = ""  # the end of the text as far as it is neither the template's nor generated
        self._group: int | None = None
        self._counted = Usage()  # of the open request, given to ops that have ended
        self._drawn = 0  # tokens of the op under way

    # ------------------------------------------------------------ from the client

    def begin(self, hold: Hold | None, turns: Turns, group: int | None = None, plain: str = "") -> None:
        """Starts working: the parent, if any, has come to the fork. Takes over one share of `hold`. plain: the end of
        what it continues, as far as that could be healed."""
        self._hold = hold
        self._turns = turns
        self._group = group
        self._plain = plain
        if self._error is None:
            self.task = asyncio.create_task(self._work())
        else:
            self.let_go()

    def seal(self, needed: int) -> None:
        """No more ops will come, and none behind `needed` continues from the text."""
        self._sealed = True
        self._needed = needed
        self._more.set()

    def continues(self, position: int) -> bool:
        """Whether the op at `position` or a later one needs what is held."""
        return self._needed is None or self._needed >= position

    def add(self, op: Op) -> None:
        position, self.expected = self.expected, self.expected + 1
        if isinstance(op, ANSWERED):
            self._unanswered[position] = op
        if self._error is not None:
            self.fail(self._error)
            if isinstance(op, Fork):
                self._fail_children(op)
            return
        self._queue.append((position, op))
        self._more.set()
        self.idle.clear()

    def fail(self, error: ErrorData) -> None:
        """This branch goes no further: answers every op that waits, and the children that never began."""
        self._error = self._error or error
        unanswered, self._unanswered = self._unanswered, {}
        for position, op in sorted(unanswered.items()):
            if self.run.values is not None:
                self.run.values.fail((self.index, position), self._error)
            named = msgspec.structs.replace(self._error, where=self._error.where or describe(op)[:200])
            self.run.emit(Failed(self.index, position, named))
        queue, self._queue = self._queue, deque()
        for _, op in queue:
            if isinstance(op, Fork):
                self._fail_children(op)
        self.idle.set()
        if self.task is None:
            self.over.set()

    def _fail_children(self, op: Fork) -> None:
        assert self._error is not None
        for child in op.children:
            branch = self.run.branches[child]
            if branch.parent is self and branch.task is None:
                branch.fail(self._error)

    def let_go(self) -> None:
        """Gives the lease back."""
        if self._hold is not None:
            self._hold.drop()
            self._hold = None

    # ------------------------------------------------------------ work

    async def _work(self) -> None:
        try:
            while True:
                await self._more.wait()
                await self._take()
                if not self._queue:
                    self.idle.set()
                    if self._sealed:
                        return self.let_go()
        except LatticeworkError as error:
            self.fail(error.to_data())
            self.let_go()
        except Exception as error:  # ours: it fails this branch, with its name, and nothing else
            log.exception("branch %d of a run failed", self.index)
            self.fail(RuntimeFailure(f"internal error: {type(error).__name__}: {error}").to_data())
            self.let_go()
        finally:
            self.over.set()

    async def _take(self) -> None:
        """Turns the ops at hand into one chain and runs it; a fork ends the chain."""
        chain = Chain()
        while self._queue:
            position, op = self._queue[0]  # taken off when done, so that `fail` still sees it
            try:
                chain = await self._step(chain, position, op)
            except LatticeworkError:
                await self._send(chain, position)  # what comes before the op at fault is good, and goes on
                raise
            self._queue.popleft()
        self._more.clear()
        await self._send(chain, self.expected)

    async def _step(self, chain: Chain, position: int, op: Op) -> Chain:
        """Adds an op to the chain, or ends the chain with it. Returns the chain to go on with."""
        match op:
            case Text(text):
                self._say(text)
            case Arg() | Ref() if self.run.values is not None:
                if not self.run.values.is_known(op):
                    await self._send(chain, position)
                    chain = Chain()
                self._say(await self.run.values.text(op), position)
            case Role(role):
                self._mark(position, role)
            case Gen():
                await self._end_text(chain)
                sampling, seed = self._seeded(op)
                if sampling.candidates > 1:
                    await self._draw_several(chain, position, op, sampling)
                    return Chain()
                known, began = len(chain.rules), time.monotonic()
                segment = await self.front.gen_segment(op, sampling, chain.rules, self._take_plain())
                if len(chain.rules) > known:
                    compiling = Usage(compile_seconds=time.monotonic() - began)
                    chain.compiling[len(chain.segments)] = compiling
                    self.run.usage += compiling
                chain.add(segment, Speech(self.front.tokenizer, self.index, position, seed))
            case Select():
                await self._end_text(chain)
                await self._add_select(chain, position, op)
            case Fork(children):
                await self._end_text(chain)
                if self.continues(position) and chain.segments and chain.is_text:
                    await self._hold_text(chain)
                else:
                    await self._send(chain, position)
                self._start(position, children)
                if not self.continues(position + 1):
                    self.let_go()
                return Chain()
            case Join(children):
                await self._send(chain, position)
                for child in children:
                    await self._end_child(child)
                return Chain()
            case Set():
                pass  # a Ref says what it says; in an interpreted run text that depends on it arrives as text
            case _:
                raise Unsupported(f"an interpreted run cannot have the op: {describe(op)}")
        return chain

    def _say(self, text: str, position: int | None = None) -> None:
        """Appends text; that of the Ref at `position` is told."""
        if text:
            self.run.count_text(len(text))
            self._pieces.append((text, False))
        if position is not None and self._unanswered.pop(position, None) is not None:
            self.run.emit(Rendered(self.index, position, text))

    def _mark(self, position: int, role: str | None) -> None:
        """A role op: the template's marker joins the text."""
        marker = self._turns.marker(role)
        self._pieces.append((marker, True))
        del self._unanswered[position]
        self.run.emit(Rendered(self.index, position, marker))

    async def _end_text(self, chain: Chain) -> None:
        """Encodes the text gathered so far as one run; long text in a thread, so that nobody waits for it."""
        if not self._pieces:
            return
        pieces, self._pieces = self._pieces, []
        for text, is_template in pieces:
            if text:
                self._plain = "" if is_template else (self._plain + text)[-PLAIN_END:]
        at_start = self._hold is None and not chain.segments
        if sum(len(text) for text, _ in pieces) > LONG_TEXT:
            chain.add(await asyncio.to_thread(self.front.text_run, pieces, at_start))
        else:
            chain.add(self.front.text_run(pieces, at_start))

    def _take_plain(self) -> str:
        """The plain text at the end, before something is generated there."""
        plain, self._plain = self._plain, ""
        return plain

    async def _add_select(self, chain: Chain, position: int, op: Select) -> None:
        self._take_plain()
        encoded = tuple(tuple(self.front.tokenizer.encode(option)) for option in op.options)
        choosing = Choosing(self.index, position, op, self._next_seed(), encoded)
        unconditional: tuple[float, ...] = ()
        if op.method == "unconditional_likelihood_normalized":
            link = await self._link()
            unconditional, usage = await score_alone(link, encoded, self.run.tenant, self.run.priority)
            self.run.usage += usage
            choosing = replace(choosing, alone=usage)
        chain.add(choosing.segment(unconditional), choosing)

    def _next_seed(self) -> int:
        """Of the next op that draws."""
        seed = derive_seed(self.run.seed, self.run.item, self.path, self._ordinal)
        self._ordinal += 1
        return seed

    def _seeded(self, op: Gen) -> tuple[Sampling, int]:
        sampling = merge_sampling(self.run.sampling, op.sampling, op.given)
        derived = self._next_seed()
        seed = sampling.seed if sampling.seed is not None and "seed" in op.given else derived
        return msgspec.structs.replace(sampling, seed=seed), seed

    def _start(self, position: int, children: tuple[int, ...]) -> None:
        group = self.front.link.number()
        if self.run.stored is not None:
            children = self.run.stored.order[self.index, position]
        for child in children:
            branch = self.run.branches[child]
            hold = self._hold.share() if self._hold is not None and branch.continues(0) else None
            branch.begin(hold, self._turns.copy(), group, self._plain)

    async def _end_child(self, child: int) -> None:
        branch = self.run.branches.get(child)
        if branch is None or branch.parent is not self:
            raise ProgramError(f"branch {child} is no fork of this branch")
        await branch.idle.wait()
        if branch.task is not None:
            branch.task.cancel()
        branch.let_go()

    # ------------------------------------------------------------ the engine

    async def _send(self, chain: Chain, position: int) -> None:
        """Runs a chain to its end, and keeps its sequence where an op from `position` on continues from it."""
        is_text = chain.is_text
        segments, chain.segments = chain.segments, []
        if not segments:  # text alone starts no work; it waits in the pieces
            return
        continues = self.continues(position)
        if not continues and is_text:
            return  # nobody needs it
        link = await self._link()
        hold = Hold(link) if continues else None
        number = link.number()
        done: asyncio.Future[TokenEvent] = asyncio.get_running_loop().create_future()

        def on_event(event: TokenEvent) -> None:
            try:
                self._hear(event, chain)
            finally:
                if event.final and not done.done():
                    done.set_result(event)

        parent = self._hold.id if self._hold is not None else None
        self._counted, self._drawn = Usage(), 0
        request = Request(
            number,
            tuple(segments),
            parent,
            hold.id if hold is not None else None,
            self._group,
            tenant=self.run.tenant,
            priority=self.run.priority,
        )
        link.submit(request, chain.rules, on_event)
        try:
            final = await done
        except asyncio.CancelledError:
            link.cancel(number)
            if hold is not None:
                hold.drop()
            raise
        self._group = None
        before = self._hold.error if self._hold is not None else None
        self.let_go()
        self._hold = hold
        whole = final.usage or Usage()
        self.run.usage += whole
        if whole != self._counted:  # text that no op tells of
            self.run.emit(Spent(self.index, whole - self._counted))
        if final.error is not None:
            self.fail(before or final.error)
            raise _Failed("the request failed")
        if final.end == "cancelled":
            raise Cancelled("the request was cancelled")

    async def _hold_text(self, chain: Chain) -> None:
        """Has text computed and held, and does not wait for that: children may continue from it in the same step.
        Should it fail, they do, and so does what comes after them here."""
        link = await self._link()
        before, hold = self._hold, Hold(link)
        number = hold.filling = link.number()

        def on_event(event: TokenEvent) -> None:
            if not event.final:
                return
            hold.filling, hold.error = None, event.error
            usage = event.usage or Usage()
            self.run.usage += usage
            self.run.emit(Spent(self.index, usage))
            if before is not None:
                hold.error = before.error or hold.error
                before.drop()

        request = Request(
            number,
            tuple(chain.segments),
            before.id if before is not None else None,
            hold.id,
            self._group,
            tenant=self.run.tenant,
            priority=self.run.priority,
        )
        chain.segments = []
        self._group = None
        self._hold = hold
        link.submit(request, {}, on_event)

    async def _link(self) -> EngineLink:
        """The engine, once it is there. Raises EngineDied where it is not the one that holds this branch's text."""
        link = self.front.link
        await link.available(RESTART_PATIENCE)
        if self._hold is not None and self._hold.generation != link.generation:
            raise EngineDied("the engine was restarted, and this program's text with it", hint="run it again")
        return link

    async def _draw_several(self, chain: Chain, position: int, op: Gen, sampling: Sampling) -> None:
        """A gen of several outputs: sends what comes before, draws them after the text they share, and goes on with
        the sequence of the first."""
        rules: dict[str, bytes] = {}
        began = time.monotonic()
        segment = await self.front.gen_segment(op, sampling, rules, self._take_plain())
        compiling = Usage(compile_seconds=time.monotonic() - began) if rules else Usage()
        last = chain.segments[-1] if chain.segments else None
        text = last if isinstance(last, TextSegment) else None
        if text is not None:
            chain.segments.pop()
        await self._send(chain, position)
        link = await self._link()
        parent = self._hold.id if self._hold is not None else None
        terms = Terms(parent, link.number(), self.run.tenant, self.run.priority)
        done: asyncio.Future[Said] = asyncio.get_running_loop().create_future()

        def hear(said: Said) -> None:
            if said.done is not None and not self.run.spend(said.done.usage.output):
                return
            if said.sample == 0 and said.chunk is not None and self.run.chunks and not sampling.ranked:
                self.run.emit(said.chunk)
            if samples.over and not done.done():
                done.set_result(said)

        at = {"branch": self.index, "position": position}
        keep = self.continues(position + 1)
        samples = Samples(link, self.front.tokenizer, text, segment, rules, terms, hear, keep=keep, **at)
        try:
            samples.start()
            said = await done
            self._group = None
            if said.error is not None:
                before = self._hold.error if self._hold is not None else None
                raise said.error if before is None else from_data(before)
            self.let_go()
            self._hold, samples.hold = samples.hold, None
        finally:
            samples.close()
        whole = as_one(samples.drawn, sampling)
        whole = msgspec.structs.replace(whole, usage=whole.usage + compiling)
        self.run.usage += whole.usage
        self._answer(whole)

    def _hear(self, event: TokenEvent, chain: Chain) -> None:
        speaker = chain.speakers.get(event.segment)
        if event.error is not None or speaker is None:
            return
        own = (event.usage or self._counted) - self._counted
        self._counted = event.usage or self._counted
        drawn = len(event.tokens) if event.usage is None else own.output - self._drawn
        self._drawn = self._drawn + drawn if event.usage is None else 0
        if not self.run.spend(drawn):
            return
        if isinstance(speaker, Speech):
            chunk = speaker.hear(event)
            if chunk is not None and self.run.chunks:
                self.run.emit(chunk)
            if speaker.done is not None:
                usage = own + chain.compiling.get(event.segment, Usage())
                self._answer(msgspec.structs.replace(speaker.done, usage=usage))
        elif event.chosen is not None:
            self._answer(speaker.done(event, own, self.front.tokenizer))

    def _answer(self, done: Done) -> None:
        if self._unanswered.pop(done.position, None) is not None:
            if self.run.values is not None:
                self.run.values.put(done)
            self.run.emit(done)


class _Failed(LatticeworkError):
    """Ends a branch whose ops have been answered already."""
