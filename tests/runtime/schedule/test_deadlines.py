"""Deadlines: the order of time, forgetting, bounded memory."""

from __future__ import annotations

import random

from latticework.runtime.schedule.deadlines import SLACK, Deadlines


def test_keys_expire_at_their_moments_and_only_once() -> None:
    deadlines: Deadlines[str] = Deadlines()
    for key, moment in {"late": 30.0, "early": 10.0, "ended": 15.0, "middle": 20.0}.items():
        deadlines.set(key, moment)
    deadlines.forget("ended")
    deadlines.forget("never there")
    assert deadlines.expired(9.9) == []
    assert deadlines.expired(20.0) == ["early", "middle"]
    assert deadlines.expired(20.0) == []
    assert len(deadlines) == 1
    deadlines.set("early", 25.0)  # the same key again, for another request
    assert deadlines.expired(100.0) == ["early", "late"]


def test_random_deadlines_equal_a_plain_dictionary() -> None:
    rng = random.Random(1)
    deadlines: Deadlines[int] = Deadlines()
    plain: dict[int, float] = {}
    for now in range(500):
        for _ in range(3):
            key = rng.randrange(40)
            if rng.random() < 0.6:
                plain[key] = now + rng.random() * 30
                deadlines.set(key, plain[key])
            else:
                plain.pop(key, None)
                deadlines.forget(key)
        expected = {key for key, moment in plain.items() if moment <= now}
        assert set(deadlines.expired(now)) == expected
        plain = {key: moment for key, moment in plain.items() if key not in expected}


def test_requests_that_end_in_time_leave_nothing_behind() -> None:
    deadlines: Deadlines[int] = Deadlines()
    for key in range(10_000):
        deadlines.set(key, 1e9)
        deadlines.forget(key)
    assert len(deadlines) == 0
    assert len(deadlines._heap) <= SLACK + 2
