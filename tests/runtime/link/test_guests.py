"""Frames for a client that fetches them itself: in order, bounded, and over when it is to go."""

from __future__ import annotations

import asyncio

import pytest

from latticework.runtime.link import front_server
from latticework.runtime.link.front_server import Guest


def test_frames_are_fetched_in_order_and_once() -> None:
    async def work() -> None:
        guest = Guest("ada")
        assert guest.put(b"a")
        assert guest.put(b"b")
        assert await guest.fetch() == [b"a", b"b"]
        fetching = asyncio.ensure_future(guest.fetch())
        await asyncio.sleep(0)
        assert not fetching.done()
        guest.put(b"c")
        assert await fetching == [b"c"]

    asyncio.run(work())


@pytest.mark.parametrize(("bound", "value"), [("HIGH_WATER_MARK", 3), ("MAX_CLIENT_BYTES", 2)])
def test_a_guest_that_does_not_fetch_is_too_far_behind_at_some_point(
    bound: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_server, bound, value)
    guest = Guest("ada")
    assert [guest.put(b"a") for _ in range(4)] == [True, True, True, False]


def test_a_guest_that_is_dismissed_gets_what_waits_and_no_more() -> None:
    async def work() -> None:
        guest = Guest("ada")
        guest.put(b"a")
        guest.dismiss()
        assert not guest.put(b"b")
        assert await guest.fetch() == [b"a"]
        assert await guest.fetch() == []

    asyncio.run(work())
