"""Jobs go on in pieces, the least served first, and end when nobody waits or their time is over."""

from __future__ import annotations

import threading
import time

import pytest

from latticework.lang.errors import Cancelled, ConstraintError
from latticework.runtime.schedule import pieces as module
from latticework.runtime.schedule.pieces import Job, Pace, Pieces, gone

PAST = 0.0  # a deadline at which a job does one round more, at most


def counting(pace: Pace, rounds: int, seen: list[int]) -> int:
    for number in range(rounds):
        seen.append(number)
        pace()
    return rounds


def test_a_job_stops_wherever_its_time_is_over_and_goes_on_from_there() -> None:
    pace, seen = Pace(), list[int]()
    job = Job(pace, lambda: counting(pace, 3, seen))
    assert not job.resume(PAST)
    assert seen == [0]
    assert not job.resume(PAST)
    assert seen == [0]  # nothing is done in no time
    assert job.resume(time.monotonic() + 60)
    assert (seen, job.result()) == ([0, 1, 2], 3)


def test_outside_of_a_job_nothing_pauses() -> None:
    seen: list[int] = []
    assert counting(Pace(), 5, seen) == 5


def test_what_goes_wrong_in_a_job_is_raised_to_whoever_asks() -> None:
    def fail() -> None:
        raise ConstraintError("too ambiguous")

    job = Job(Pace(), fail)
    assert job.resume(PAST)
    assert not job.succeeded
    with pytest.raises(ConstraintError, match="too ambiguous"):
        job.result()


def test_an_abandoned_job_is_unwound_and_its_thread_does_the_next_one() -> None:
    pace, ended = Pace(), list[str]()

    def endless() -> None:
        try:
            while True:
                pace()
        finally:
            ended.append("unwound")

    job = Job(pace, endless)
    before = threading.active_count()
    assert not job.resume(PAST)
    assert threading.active_count() == before + 1
    job.abandon(gone())
    assert ended == ["unwound"]
    with pytest.raises(Cancelled):
        job.result()
    assert Job(pace, lambda: 7).resume(PAST)
    assert threading.active_count() == before + 1


def test_the_least_served_goes_first() -> None:
    pace = Pace()
    pieces = Pieces(pace, 60.0)
    order: list[str] = []

    def work(name: str, rounds: int) -> str:
        for _ in range(rounds):
            order.append(name)
            time.sleep(module.LEAST_SECONDS)
            pace()
        return name

    long = pieces.start(lambda: work("long", 30), "long")
    pieces.go_on(5 * module.LEAST_SECONDS)
    assert not long.is_done
    short = pieces.start(lambda: work("short", 2), "short")
    while not short.is_done:
        pieces.go_on(module.LEAST_SECONDS)
    assert not long.is_done
    assert len(pieces) == 1
    pieces.go_on(60.0)
    assert (long.result(), short.result(), len(pieces)) == ("long", "short", 0)


def test_a_job_that_takes_too_long_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JOB_SECONDS", 0.01)
    pace = Pace()
    pieces = Pieces(pace, 60.0)

    def endless() -> None:
        while True:
            pace()

    job = pieces.start(endless, "a mask of the constraint")
    pieces.go_on(60.0)
    with pytest.raises(ConstraintError, match="a mask of the constraint takes longer than"):
        job.result()


def test_a_job_whose_owner_finds_a_fault_ends_with_it() -> None:
    pace = Pace()
    pieces = Pieces(pace, 60.0)

    def endless() -> None:
        while True:
            pace()

    job = pieces.start(endless, "it", gone)
    pieces.go_on(60.0)
    assert len(pieces) == 0
    with pytest.raises(Cancelled):
        job.result()
