"""How much one client of the link may have open, without an engine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from latticework.lang.errors import QuotaExceeded, from_data
from latticework.lang.events import Event, Failed
from latticework.lang.ir import Sampling, Text
from latticework.runtime.config import ServerConfig
from latticework.runtime.link import front_server
from latticework.runtime.link.client import Client
from latticework.runtime.link.front_server import FrontServer
from latticework.runtime.programs.front import Front


async def answered(events: list[Event], count: int = 1) -> list[Event]:
    for _ in range(500):
        if len(events) >= count:
            return events
        await asyncio.sleep(0.01)
    raise AssertionError("nothing came")


def quota(events: list[Event]) -> QuotaExceeded:
    assert isinstance(events[0], Failed)
    error = from_data(events[0].error)
    assert isinstance(error, QuotaExceeded)
    return error


def test_a_client_may_have_only_so_many_runs_open(scripted: Any, tmp_path: Path) -> None:
    scripted.server = ServerConfig(max_open_each=2)

    async def talk() -> None:
        server = FrontServer(cast(Front, scripted), f"ipc://{tmp_path}/s", 8)
        server.start()
        client, other = [await asyncio.to_thread(Client, server.address) for _ in range(2)]
        try:
            heard: list[list[Event]] = [[] for _ in range(5)]
            first = client.open(Sampling(), 1, 0, heard[0].append)
            client.open(Sampling(), 1, 0, heard[1].append)
            client.open(Sampling(), 1, 0, heard[2].append)
            assert "2 programs" in str(quota(await answered(heard[2])))
            other.open(Sampling(), 1, 0, heard[3].append)
            client.end(first)
            client.open(Sampling(), 1, 0, heard[4].append)
            await asyncio.to_thread(client.stats)
            await asyncio.to_thread(other.stats)
            assert server.open_runs == 3
            assert [len(one) for one in heard] == [0, 0, 1, 0, 0]
        finally:
            await asyncio.to_thread(client.close)
            await asyncio.to_thread(other.close)
            await server.close()

    asyncio.run(talk())


def test_a_client_may_hold_only_so_many_bytes(scripted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_server, "MAX_CLIENT_BYTES", 10_000)

    async def talk() -> None:
        server = FrontServer(cast(Front, scripted), f"ipc://{tmp_path}/s", 8)
        server.start()
        client = await asyncio.to_thread(Client, server.address)
        try:
            heard: list[list[Event]] = [[], []]
            small = client.open(Sampling(), 1, 0, heard[0].append)
            large = client.open(Sampling(), 1, 0, heard[1].append)
            client.append(small, 0, 0, [Text("x" * 4000)])
            for position in range(3):
                client.append(large, 0, position, [Text("x" * 4000)])
            assert "more would exceed 10000" in str(quota(await answered(heard[1])))
            client.append(small, 0, 1, [Text("x" * 4000)])  # what the other held is free again
            await asyncio.to_thread(client.stats)
            assert server.open_runs == 1
            assert heard[0] == []
        finally:
            await asyncio.to_thread(client.close)
            await server.close()

    asyncio.run(talk())
