"""The fault run in short: every request has one outcome, and nothing is left behind."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.faults import run


@pytest.mark.slow
def test_a_server_that_is_broken_on_purpose_answers_every_request_once() -> None:
    report = asyncio.run(run(clients=4, kills=1, disconnects=10, quiet=32, hang_seconds=1.5))
    assert report.problems() == []
    assert report.restarts == 2
    assert report.outcomes["answered"] > 0
    assert report.outcomes["left by its client"] == 10
