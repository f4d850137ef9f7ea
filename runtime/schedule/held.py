"""Requests that came before their constraints were ready: their automata are being made, in pieces between steps.

    hold ──▶ proceed … proceed ──▶ accepted, once every automaton is there
                                   cancelled, dropped, or out of time

This file knows requests by their keys; what an open one does is in requests.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from latticework.lang.errors import Busy, InvalidArgument
from latticework.runtime.request import Request, TokenEvent
from latticework.runtime.schedule.accepted import constraint_keys
from latticework.runtime.schedule.automata import Automata
from latticework.runtime.schedule.requests import Requests, out_of_time
from latticework.runtime.schedule.sequence import Owner


@dataclass(frozen=True, slots=True)
class _Waiting:
    request: Request
    keys: list[str]
    since: float


class Held:
    """Owner of the requests that are not open yet. most: how many; more are answered busy."""

    def __init__(self, automata: Automata, requests: Requests, most: int) -> None:
        self._automata = automata
        self._requests = requests
        self._most = most
        self._waiting: dict[tuple[Owner, int], _Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def hold(self, owner: Owner, request: Request, now: float) -> None:
        """Its keys are defined, but not all of them are ready."""
        if (owner, request.id) in self._waiting:
            error = InvalidArgument(f"request {request.id} is open already", field="id")
            self._requests.refuse(owner, request, error)
            return
        if len(self._waiting) >= self._most:
            busy = Busy(f"{len(self._waiting)} requests wait for their constraints", hint="retry later")
            self._requests.refuse(owner, request, busy)
            return
        keys = constraint_keys(request)
        self._automata.acquire(keys)
        self._waiting[owner, request.id] = _Waiting(request, keys, now)

    def proceed(self, now: float) -> None:
        """Opens those whose automata are ready, and ends those whose time is over."""
        for place, one in list(self._waiting.items()):
            if self._automata.are_ready(one.keys):
                self._requests.accept(place[0], one.request, one.since)
            elif one.request.deadline is not None and now >= one.since + one.request.deadline:
                self._requests.refuse(place[0], one.request, out_of_time(one.request))
            else:
                continue
            self._forget(place)

    def cancel(self, owner: Owner, request_id: int) -> None:
        """Ends a request with end "cancelled". Ignored if it is not held."""
        if (owner, request_id) in self._waiting:
            self._forget((owner, request_id))
            self._requests.tell_owner(owner, TokenEvent(request_id, 0, end="cancelled", complete=False, final=True))

    def drop(self, owner: Owner) -> None:
        """Forgets the owner's requests without a word."""
        for place in [place for place in self._waiting if place[0] == owner]:
            self._forget(place)

    def _forget(self, place: tuple[Owner, int]) -> None:
        self._automata.release(self._waiting.pop(place).keys)
