"""Requests that may be ended by name: `/abort_request`."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing, contextmanager

from latticework.runtime.programs.generation import Output


class Aborts:
    """Who can be ended, by tenant and id. An id may stand for several requests."""

    def __init__(self) -> None:
        self._events: dict[tuple[str, str], set[asyncio.Event]] = defaultdict(set)

    @contextmanager
    def named(self, tenant: str, ids: Iterable[str]) -> Iterator[asyncio.Event]:
        """Set when one of `ids` is aborted, as long as the context lasts."""
        event, keys = asyncio.Event(), [(tenant, one) for one in ids]
        for key in keys:
            self._events[key].add(event)
        try:
            yield event
        finally:
            for key in keys:
                self._events[key].discard(event)
                if not self._events[key]:
                    del self._events[key]

    def abort(self, tenant: str, rid: str) -> None:
        """Ends the tenant's requests of that name. Nothing, if there are none."""
        for event in self._events.get((tenant, rid), ()):
            event.set()

    def abort_all(self, tenant: str) -> None:
        """Ends every request of the tenant."""
        for (owner, _), events in self._events.items():
            if owner == tenant:
                for event in events:
                    event.set()


async def until(event: asyncio.Event, source: AsyncGenerator[Output, None]) -> AsyncGenerator[Output, None]:
    """`source` up to its end or the event's, whichever comes first; it is closed either way."""
    ended = asyncio.ensure_future(event.wait())
    try:
        async with aclosing(source):
            while not event.is_set():
                following = asyncio.ensure_future(anext(source))
                try:
                    await asyncio.wait({ended, following}, return_when=asyncio.FIRST_COMPLETED)
                    if not following.done():
                        return
                    yield following.result()
                except StopAsyncIteration:
                    return
                finally:
                    if not following.done():
                        following.cancel()
                        await asyncio.gather(following, return_exceptions=True)
    finally:
        ended.cancel()
