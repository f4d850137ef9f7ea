"""A deadline bounds whatever a request waits for."""

from __future__ import annotations

import asyncio

import pytest

from latticework.lang.errors import DeadlineExceeded, InvalidArgument
from latticework.runtime.programs.deadline import Deadline


async def soon(value: str) -> str:
    await asyncio.sleep(0)
    return value


async def wrong() -> str:
    raise InvalidArgument("wrong")


def test_what_is_done_in_time_is_given_and_what_it_raises_too() -> None:
    for deadline in (Deadline(), Deadline(60)):
        assert asyncio.run(deadline.bound(soon("x"))) == "x"
        with pytest.raises(InvalidArgument, match="wrong"):
            asyncio.run(deadline.bound(wrong()))
    assert Deadline().left() is None
    assert Deadline(60).left() > 0  # type: ignore[operator]


@pytest.mark.parametrize("seconds", [0, 0.05])
def test_what_is_not_done_in_time_is_cancelled(seconds: float) -> None:
    ends: list[str] = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    async def work() -> None:
        deadline = Deadline(seconds)
        waiting = asyncio.create_task(endless())
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded, match=f"{seconds:g} seconds") as raised:
            await deadline.bound(waiting)
        assert raised.value.field == "timeout"
        await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(work())
    assert ends == ["cancelled"]


def test_cancelling_the_one_who_waits_cancels_the_work() -> None:
    async def work() -> bool:
        inner = asyncio.create_task(asyncio.Event().wait())
        outer = asyncio.create_task(Deadline(60).bound(inner))
        await asyncio.sleep(0)
        outer.cancel()
        await asyncio.gather(outer, inner, return_exceptions=True)
        return inner.cancelled()

    assert asyncio.run(work())
