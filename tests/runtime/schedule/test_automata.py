"""Automata by key: bounded, shared, never dropped in use."""

from __future__ import annotations

import pytest

from latticework.lang.errors import ConstraintError, SchemaError
from latticework.runtime.constrain.base import Automaton, Matcher, Search
from latticework.runtime.schedule.automata import MAX_AWAITED, Automata


class Sized:
    def __init__(self, size: int) -> None:
        self.cached_bytes = size

    def matcher(self) -> Matcher:
        raise NotImplementedError

    def healing_matcher(self, prefix: bytes) -> Matcher:
        raise NotImplementedError

    def search(self) -> Search:
        raise NotImplementedError

    def forget(self) -> bool:
        self.cached_bytes = 10
        return True


def build(rules: bytes) -> Automaton:
    if rules == b"schema":
        raise SchemaError("no", pointer="/type")
    return Sized(int(rules))


def test_the_least_recently_used_goes_first() -> None:
    automata = Automata(build, limit_bytes=250)
    for key in "abc":
        automata.define(key, b"100")
    assert len(automata) == 3  # room is made for the next one only
    automata.acquire("a")
    automata.release("a")
    assert [key in automata for key in "abc"] == [True, False, True]
    assert automata.missing(["a", "b", "c"]) == "b"


def test_an_automaton_in_use_is_never_dropped() -> None:
    automata = Automata(build, limit_bytes=10)
    automata.define("a", b"100")
    automata.acquire(["a", "a"])
    automata.define("b", b"100")
    automata.release(["a"])
    assert automata.missing(["a"]) is None
    assert automata.missing(["b"]) == "b"
    automata.release(["a"])
    assert len(automata) == 0


def test_defining_a_key_again_keeps_the_first() -> None:
    automata = Automata(build, limit_bytes=1000)
    automata.define("a", b"100")
    automata.define("b", b"100")
    size = automata.size
    automata.define("a", b"garbage")
    assert (len(automata), automata.size) == (2, size)


def test_what_is_wrong_with_rules_is_told_to_who_uses_them() -> None:
    automata = Automata(build, limit_bytes=1000)
    automata.define("a", b"schema")
    automata.define("b", b"not a number")
    with pytest.raises(SchemaError) as caught:
        automata.matcher("a")
    assert caught.value.pointer == "/type"
    with pytest.raises(ConstraintError, match="cannot be used"):
        automata.matcher("b")


def test_automata_in_use_forget_what_can_be_made_again_the_largest_first() -> None:
    built: list[Sized] = []

    def keeping(rules: bytes) -> Automaton:
        built.append(Sized(int(rules)))
        return built[-1]

    automata = Automata(keeping, limit_bytes=250)
    for key in "abc":
        automata.define(key, b"40")
        automata.acquire([key])
    for index, size in ((0, 90), (1, 60), (2, 80)):
        built[index].cached_bytes = size
        automata.grown("abc"[index])
    assert [automaton.cached_bytes for automaton in built] == [90, 60, 80]
    built[1].cached_bytes = 100
    automata.grown("b")
    assert [automaton.cached_bytes for automaton in built] == [90, 10, 80]
    assert (automata.size, automata.forgotten) == (90 + 10 + 80 + 3 * len(b"40"), 1)


def test_what_cannot_be_forgotten_is_not_forgotten_again_and_again() -> None:
    automata = Automata(build, limit_bytes=5)
    automata.define("a", b"100")
    automata.acquire(["a"])
    for _ in range(3):
        automata.grown("a")
    assert automata.forgotten == 0
    assert "a" in automata


def test_keys_of_a_request_that_will_come_again_do_not_evict_each_other() -> None:
    automata = Automata(build, limit_bytes=150)
    request = (b"front", 1)
    for key in "abc":
        automata.define(key, b"100")
    assert automata.missing("abc") == "a"
    automata.expect(request, list("abc"))
    for key in "ab":
        automata.define(key, b"100")
    automata.define("other", b"100")
    assert automata.missing("abc") is None
    automata.expected(request)
    automata.trim()
    assert len(automata) <= 1


def test_only_so_many_requests_are_awaited_and_none_of_a_front_that_is_gone() -> None:
    automata = Automata(build, limit_bytes=100)
    automata.define("a", b"60")
    automata.expect((b"silent", 0), ["a"])
    automata.define("b", b"60")
    automata.define("c", b"60")
    assert automata.missing("a") is None
    for number in range(MAX_AWAITED):
        automata.expect((b"flood", number), ["x"])
    automata.trim()
    assert automata.missing("a") == "a"
    automata.expect((b"silent", 1), ["c"])
    automata.expect_nothing_of(b"silent")
    automata.define("d", b"60")
    automata.define("e", b"60")
    assert automata.missing("c") == "c"
