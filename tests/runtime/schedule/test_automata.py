"""Automata by key: bounded, shared, never dropped in use."""

from __future__ import annotations

import pytest

from latticework.lang.errors import ConstraintError, SchemaError
from latticework.runtime.constrain.base import Automaton, Matcher
from latticework.runtime.schedule.automata import Automata


class Sized:
    def __init__(self, size: int) -> None:
        self.cached_bytes = size

    def matcher(self) -> Matcher:
        raise NotImplementedError


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
    automata.define("a", b"garbage")
    automata.acquire("a")
    automata.release("a")


def test_what_is_wrong_with_rules_is_told_to_who_uses_them() -> None:
    automata = Automata(build, limit_bytes=1000)
    automata.define("a", b"schema")
    automata.define("b", b"not a number")
    with pytest.raises(SchemaError) as caught:
        automata.matcher("a")
    assert caught.value.pointer == "/type"
    with pytest.raises(ConstraintError, match="cannot be used"):
        automata.matcher("b")
