"""The life of a request: accepted, moved from segment to segment, ended once, and what is told of it.

    accept ──▶ proceed … proceed ──▶ close: its end, or an error of its own
                                     cancel, drop, expire: somebody or something else ends it

This file knows sequences and events; it knows no batch and no model.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator

from latticework.lang.errors import (
    Busy,
    DeadlineExceeded,
    ErrorData,
    InvalidArgument,
    LatticeworkError,
    RuntimeFailure,
)
from latticework.runtime.cache.leases import LeaseTable
from latticework.runtime.cache.radix import Node
from latticework.runtime.request import Request, TokenEvent
from latticework.runtime.schedule.accepted import constraint_keys
from latticework.runtime.schedule.automata import Automata
from latticework.runtime.schedule.chain import Chain
from latticework.runtime.schedule.deadlines import Deadlines
from latticework.runtime.schedule.memory import Memory
from latticework.runtime.schedule.scheduler import Scheduler
from latticework.runtime.schedule.sequence import Owner, Sequence

log = logging.getLogger(__name__)

Events = dict[Owner, list[TokenEvent]]


class Requests:
    """Owner of every open request, of its deadline, and of the events not yet fetched.

    check: raises for what no request may ask. max_waiting: beyond it requests are refused.
    """

    def __init__(
        self,
        chain: Chain,
        scheduler: Scheduler,
        memory: Memory,
        leases: LeaseTable,
        automata: Automata,
        check: Callable[[Request], None],
        max_waiting: int,
    ) -> None:
        self._chain = chain
        self._scheduler = scheduler
        self._memory = memory
        self._leases = leases
        self._automata = automata
        self._check = check
        self._max_waiting = max_waiting
        self._open: dict[tuple[Owner, int], Sequence] = {}
        self._deadlines: Deadlines[tuple[Owner, int]] = Deadlines()
        self._arrivals = itertools.count()
        self._events: Events = {}

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._open.values())

    # ------------------------------------------------------------ begin

    def accept(self, owner: Owner, request: Request, now: float) -> None:
        """Opens a request, or tells its owner why not. now: monotonic seconds."""
        try:
            self._accept(owner, request, now)
        except Exception as error:
            self.refuse(owner, request, error)

    def refuse(self, owner: Owner, request: Request, error: Exception) -> None:
        """Tells of a request that was never open why it is not."""
        self.tell_owner(owner, TokenEvent(request.id, 0, end="error", error=_describe(error), final=True))

    def _accept(self, owner: Owner, request: Request, now: float) -> None:
        if (owner, request.id) in self._open:
            raise InvalidArgument(f"request {request.id} is open already", field="id")
        if len(self._scheduler.waiting) >= self._max_waiting:
            raise Busy(f"{self._max_waiting} requests are waiting", hint="retry later")
        self._check(request)
        sequence = Sequence(owner, request, next(self._arrivals), [])
        if request.parent_lease is not None:
            lease = self._leases.get(owner, request.parent_lease)
            if lease.namespace != request.space:
                raise InvalidArgument("the lease is of another tenant or namespace", field="parent_lease")
            sequence.tokens = list(lease.tokens)
            sequence.carry = lease.carry
            sequence.given = len(lease.tokens)
        self._chain.enter(sequence)
        if request.hold_lease is not None and request.is_text:
            sequence.lease = self._leases.hold(
                owner, request.hold_lease, sequence.tokens, sequence.carry, request.space, None
            )
        self._automata.acquire(constraint_keys(request))
        self._open[owner, request.id] = sequence
        if request.deadline is not None:
            self._deadlines.set((owner, request.id), now + request.deadline)
        self._scheduler.add(sequence)
        if sequence.at_end and not self._wants_kv(sequence):
            self._finish(sequence)

    def _wants_kv(self, sequence: Sequence) -> bool:
        """Closing text is worth computing when someone will continue from it, or nothing else was asked for."""
        if not self._memory.caches:
            return False
        request = sequence.request
        return request.hold_lease is not None or request.is_text

    # ------------------------------------------------------------ on

    def is_open(self, sequence: Sequence) -> bool:
        return self._open.get((sequence.owner, sequence.request.id)) is sequence

    def proceed(self, sequence: Sequence, event: TokenEvent) -> None:
        """Tells of a token; after a segment's last one, begins the next segment or ends the request."""
        if event.end is None:
            self.tell_owner(sequence.owner, event)
        elif sequence.at_end:
            self._close(sequence, event, True)
        else:
            event.usage = sequence.usage
            self.tell_owner(sequence.owner, event)
            try:
                self._chain.enter(sequence)
            except Exception as error:
                self.fail(sequence, error)
                return
            if sequence.at_end and not self._wants_kv(sequence):
                self._finish(sequence)

    # ------------------------------------------------------------ end

    def tell(self, sequence: Sequence, event: TokenEvent) -> None:
        """Tells of something that is not a token."""
        self.tell_owner(sequence.owner, event)

    def finish_texts(self) -> None:
        """Ends every request whose chain ends with constant text and has its KV."""
        for sequence in list(self._scheduler.running):
            if sequence.at_end and sequence.uncomputed == 0:
                self._finish(sequence)

    def _finish(self, sequence: Sequence) -> None:
        last = max(0, len(sequence.request.chain) - 1)
        self._close(sequence, TokenEvent(sequence.request.id, last, end="text"), True)

    def fail(self, sequence: Sequence, error: Exception) -> None:
        """Ends one request with an error. Its KV is not kept: it may be what is wrong."""
        if not self.is_open(sequence):
            return
        if not isinstance(error, LatticeworkError):
            log.error("request %s failed", sequence.request.id, exc_info=error)
        event = TokenEvent(sequence.request.id, sequence.current, end="error", complete=False, error=_describe(error))
        self._close(sequence, event, False)

    def cancel(self, owner: Owner, request_id: int) -> None:
        """Ends a request with end "cancelled". Ignored if it has ended."""
        sequence = self._open.get((owner, request_id))
        if sequence is not None:
            self._close(sequence, TokenEvent(request_id, sequence.segment, end="cancelled", complete=False), True)

    def drop(self, owner: Owner) -> None:
        """Ends the owner's requests and forgets its events."""
        for key in [key for key in self._open if key[0] == owner]:
            self.cancel(*key)
        self._events.pop(owner, None)

    def expire(self, now: float) -> None:
        """Ends every request whose time is over; what it has computed is good and stays in the cache."""
        for key in self._deadlines.expired(now):
            sequence = self._open[key]
            error = out_of_time(sequence.request)
            event = TokenEvent(key[1], sequence.current, end="error", complete=False, error=error.to_data())
            self._close(sequence, event, True)

    def _close(self, sequence: Sequence, event: TokenEvent, keep: bool) -> None:
        """The one way in which a request ends. keep: its KV is good."""
        request = sequence.request
        del self._open[sequence.owner, request.id]
        self._deadlines.forget((sequence.owner, request.id))
        self._scheduler.remove(sequence)
        if not sequence.running:
            sequence.count_wait()
        computed = sequence.computed
        node = self._memory.detach(sequence, keep)
        if request.hold_lease is not None:
            if event.end not in ("error", "cancelled"):
                self._hold(sequence, request.hold_lease, node, computed if node is not None else 0)
            elif sequence.lease is not None:
                self._leases.release(sequence.owner, (request.hold_lease,))
        self._automata.release(constraint_keys(request))
        event.usage = sequence.usage
        event.final = True
        self.tell_owner(sequence.owner, event)

    def _hold(self, sequence: Sequence, lease: int, node: Node | None, computed: int) -> None:
        owner, space = sequence.owner, sequence.request.space
        if sequence.lease is None:
            self._leases.hold(owner, lease, sequence.tokens, sequence.carry, space, node, computed)
        elif node is not None:
            self._leases.fill(owner, lease, sequence.lease, node, computed)

    # ------------------------------------------------------------ events

    def tell_owner(self, owner: Owner, event: TokenEvent) -> None:
        """Keeps an event until the owner is told of it."""
        self._events.setdefault(owner, []).append(event)

    @property
    def has_news(self) -> bool:
        """There are events to fetch."""
        return bool(self._events)

    def news(self) -> Events:
        """What has happened since the last call."""
        events, self._events = self._events, {}
        return events


def _describe(error: Exception) -> ErrorData:
    """An error for whoever asked: ours as it is, others without what an operating system may tell of paths."""
    if isinstance(error, LatticeworkError):
        return error.to_data()
    detail = "" if isinstance(error, OSError) else f": {str(error)[:200]}"
    return RuntimeFailure(f"internal error: {type(error).__name__}{detail}").to_data()


def out_of_time(request: Request) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"the request took longer than the {round(request.deadline or 0, 2):g} seconds it was given",
        hint="give it more time, or ask for fewer tokens",
        field="timeout",
    )
