"""Leases: what a program keeps between its requests, with and without its KV."""

from __future__ import annotations

import pytest

from tests.runtime.engine.bench import Bench, gen, greedy

DOCUMENT = "A document of some length that all of the branches read. "


@pytest.mark.parametrize("cache", [True, False])
def test_forks_continue_from_a_lease(cache: bool) -> None:
    bench = Bench(prefix_cache=cache)
    root = bench.submit(DOCUMENT, hold_lease=1)
    bench.run()
    assert bench.final(root).end == "text"
    forks = [bench.submit(f"Branch {n}: ", greedy(4), parent_lease=1, group=1) for n in range(4)]
    whole = [bench.submit(DOCUMENT + f"Branch {n}: ", greedy(4)) for n in range(4)]
    bench.run()
    assert [bench.tokens(n) for n in forks] == [bench.tokens(n) for n in whole]
    for number in forks:
        usage = bench.final(number).usage
        assert usage is not None
        assert usage.prompt == len(DOCUMENT) + len("Branch 1: ")
        alike = 0 if number == forks[0] else len("Branch ")  # what the first one computes for all
        assert usage.cached == (len(DOCUMENT) + alike if cache else 0)


def test_a_broken_lease_is_computed_again() -> None:
    bench = Bench(kv_tokens=100)
    bench.submit(DOCUMENT, hold_lease=1)
    bench.run()
    big = bench.submit("z" * 80, greedy(3))
    bench.run()
    assert bench.final(big).end == "length"
    assert bench.engine.leases.get("a", 1).is_broken
    number = bench.submit("So: ", greedy(4), parent_lease=1)
    bench.run()
    usage = bench.final(number).usage
    assert usage is not None
    assert usage.cached < len(DOCUMENT)
    roomy = Bench()
    twin = roomy.submit(DOCUMENT + "So: ", greedy(4))
    roomy.run()
    assert bench.tokens(number) == roomy.tokens(twin)


def test_the_idlest_lease_is_broken_first() -> None:
    bench = Bench(kv_tokens=128)
    for lease, letter in enumerate("pqr"):
        bench.submit(letter * 32, hold_lease=lease)
        bench.run()
    bench.submit("!", greedy(1), parent_lease=0)
    bench.run()
    bench.submit("z" * 50, greedy(3))
    bench.run()
    assert [bench.engine.leases.get("a", lease).is_broken for lease in range(3)] == [False, True, False]


def test_held_prefixes_never_block_the_pool() -> None:
    bench = Bench(kv_tokens=128)
    for lease in range(20):
        bench.submit(f"{lease} " + "w" * 40, hold_lease=lease)
    bench.run()
    numbers = [bench.submit(" and", gen(max_tokens=20, seed=n), parent_lease=n, hold_lease=100 + n) for n in range(20)]
    bench.run()
    assert all(bench.final(number).end in ("length", "stop") for number in numbers)
    bench.engine.release("a", [*range(20), *range(100, 120)])
    bench.assert_all_free()


def test_namespaces_share_nothing() -> None:
    bench = Bench()
    bench.submit(DOCUMENT, hold_lease=1, namespace="x")
    bench.run()
    other = bench.submit(DOCUMENT, greedy(2), namespace="y")
    same = bench.submit(DOCUMENT, greedy(2), namespace="x")
    mixed = bench.submit("more", greedy(2), parent_lease=1, namespace="y")
    bench.run()
    assert bench.final(other).usage.cached == 0  # type: ignore[union-attr]
    assert bench.final(same).usage.cached == len(DOCUMENT) - 1  # type: ignore[union-attr]
    assert bench.final(mixed).error.field == "parent_lease"  # type: ignore[union-attr]


def test_releasing_a_lease_while_its_child_runs_is_harmless() -> None:
    bench = Bench()
    bench.submit(DOCUMENT, hold_lease=1)
    bench.run()
    number = bench.submit("So: ", greedy(6), parent_lease=1)
    bench.step()
    bench.engine.release("a", (1,))
    bench.engine.release("a", (1, 5))
    bench.engine.check()
    bench.run()
    assert len(bench.tokens(number)) == 6
    bench.assert_all_free()


def test_children_continue_from_text_that_is_not_computed_yet() -> None:
    bench = Bench()
    root = bench.submit(DOCUMENT, hold_lease=1)
    forks = [bench.submit(f"Branch {n}: ", greedy(4), parent_lease=1, group=1) for n in range(4)]
    assert bench.engine.leases.get("a", 1).is_broken  # it says what its text is, and holds no page yet
    bench.step()
    assert bench.final(root).end == "text"
    assert not bench.engine.leases.get("a", 1).is_broken
    assert all(len(bench.tokens(number)) == 1 for number in forks)  # one step did it all
    bench.run()
    usages = [bench.final(number).usage for number in (root, *forks)]
    assert [usage.computed for usage in usages if usage] == [len(DOCUMENT), len("Branch 0: "), 3, 3, 3]
    whole = [bench.submit(DOCUMENT + f"Branch {n}: ", greedy(4)) for n in range(4)]
    bench.run()
    assert [bench.tokens(number) for number in forks] == [bench.tokens(number) for number in whole]


@pytest.mark.parametrize("how", ["release", "cancel", "both"])
def test_a_lease_of_text_can_end_before_its_text_is_computed(how: str) -> None:
    bench = Bench(chunk_tokens=8)
    root = bench.submit(DOCUMENT, hold_lease=1)
    child = bench.submit("So: ", greedy(4), parent_lease=1)
    bench.step()
    if how != "release":
        bench.engine.cancel("a", root)
    if how != "cancel":
        bench.engine.release("a", (1,))
    bench.run()
    assert bench.final(root).end == ("text" if how == "release" else "cancelled")
    assert len(bench.tokens(child)) == 4
    assert len(bench.engine.leases) == 0
    bench.assert_all_free()


def test_text_that_fails_leaves_no_lease() -> None:
    bench = Bench(kv_tokens=40)
    root = bench.submit("z" * 60, hold_lease=1)
    child = bench.submit("So: ", greedy(1), parent_lease=1)
    bench.run()
    errors = [bench.final(number).error for number in (root, child)]
    assert [error.type for error in errors if error] == ["PromptTooLong", "InvalidArgument"]
    assert len(bench.engine.leases) == 0
