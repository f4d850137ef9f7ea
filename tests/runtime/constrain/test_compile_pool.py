from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from latticework.lang.errors import Busy, ConstraintError, GrammarError, RegexError, RuntimeFailure, SchemaError
from latticework.lang.ir import After, Choices, Constraint, Gbnf, JsonSchema, Lark, Regex, Tag, Triggered
from latticework.runtime.constrain import Limits, decode_rules, to_rules
from latticework.runtime.constrain.pool import CompilePool
from latticework.runtime.constrain.worker import HEADER, Failed, Job, answer

SLOW = Regex("|".join(f"{i:05d}[ab]?" for i in range(80_000)))  # seconds of work


def with_pool(test: Callable[[CompilePool], Awaitable[None]], limits: Limits | None = None, **options: float) -> None:
    async def run() -> None:
        pool = CompilePool(limits, **options)  # type: ignore[arg-type]
        await pool.start()
        try:
            await test(pool)
        finally:
            await pool.close()

    asyncio.run(run())


def child_of(pool: CompilePool) -> int:
    process = pool._children[0].process
    assert process is not None
    return process.pid


def test_the_child_compiles_as_this_process_does_and_its_errors_are_the_real_ones() -> None:
    async def test(pool: CompilePool) -> None:
        good: list[Constraint] = [Regex("é+"), Choices(("a", "b")), JsonSchema({"type": "integer"})]
        good += [Lark('start: "(" start ")" | WORD\nWORD: /[a-z]+/'), Gbnf('root ::= "a" root | "b"')]
        good += [After("</think>", good[3]), Triggered((Tag("<", good[4], ">"),))]
        for constraint in good:
            assert decode_rules(await pool.compile(constraint)) == to_rules(constraint)
        with pytest.raises(RegexError) as bad_pattern:
            await pool.compile(Regex("a(b"))
        assert bad_pattern.value.position == 1
        with pytest.raises(SchemaError) as bad_schema:
            await pool.compile(JsonSchema({"items": {"type": "text"}}))
        assert bad_schema.value.pointer == "/items/type"
        with pytest.raises(GrammarError, match="line 2, column 4") as bad_grammar:
            await pool.compile(Lark("start: a\na: b"))
        assert bad_grammar.value.position == 12
        with pytest.raises(ConstraintError, match="surrogate"):
            await pool.compile(Regex("\ud800"))

    with_pool(test)


def test_equal_constraints_are_compiled_once() -> None:
    async def test(pool: CompilePool) -> None:
        asked: list[Job] = []
        ask = pool._children[0].ask

        async def counting(process: asyncio.subprocess.Process, job: Job):  # type: ignore[no-untyped-def]  # noqa: ANN202
            asked.append(job)
            return await ask(process, job)

        pool._children[0].ask = counting  # type: ignore[method-assign]
        results = await asyncio.gather(*(pool.compile(Regex("[a-z]+")) for _ in range(10)))
        assert len(set(results)) == 1
        await pool.compile(Regex("[a-z]+"))
        for _ in range(2):
            with pytest.raises(RegexError):
                await pool.compile(Regex("("))
        assert len(asked) == 2

    with_pool(test)


def test_a_compilation_over_the_limit_ends_the_child_and_not_the_next_job() -> None:
    async def test(pool: CompilePool) -> None:
        before = child_of(pool)
        slow = asyncio.create_task(pool.compile(SLOW))
        await asyncio.sleep(0)
        next_one = asyncio.create_task(pool.compile(Regex("a")))
        with pytest.raises(ConstraintError, match="limit `seconds`"):
            await slow
        assert decode_rules(await next_one) == to_rules(Regex("a"))
        assert child_of(pool) != before
        assert len(pool._cache) == 1  # a timeout is not remembered

    with_pool(test, Limits(seconds=0.4, alternatives=1 << 20, states=1 << 20), grace=-1.1)


def test_the_child_gives_up_by_itself_at_the_limit() -> None:
    async def test(pool: CompilePool) -> None:
        before = child_of(pool)
        with pytest.raises(ConstraintError, match="limit `seconds`"):
            await pool.compile(SLOW)
        assert child_of(pool) == before

    with_pool(test, Limits(seconds=0.3, alternatives=1 << 20, states=1 << 20), grace=60.0)


def test_a_child_that_dies_costs_one_error_and_is_replaced() -> None:
    async def test(pool: CompilePool) -> None:
        os.kill(child_of(pool), signal.SIGSTOP)
        waiting = asyncio.create_task(pool.compile(Regex("abc")))
        await asyncio.sleep(0.05)
        os.kill(child_of(pool), signal.SIGKILL)
        with pytest.raises(ConstraintError, match="ended the compiler"):
            await waiting
        assert await pool.compile(Regex("abc"))

    with_pool(test)


def test_a_cancelled_caller_leaves_the_others_their_result() -> None:
    async def test(pool: CompilePool) -> None:
        os.kill(child_of(pool), signal.SIGSTOP)
        first, second = (asyncio.create_task(pool.compile(Regex("x+"))) for _ in range(2))
        await asyncio.sleep(0.05)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        os.kill(child_of(pool), signal.SIGCONT)
        assert decode_rules(await second) == to_rules(Regex("x+"))
        assert await pool.compile(Regex("y"))

    with_pool(test)


def test_closing_fails_what_is_open_and_ends_the_child() -> None:
    async def run() -> None:
        pool = CompilePool()
        await pool.start()
        child = child_of(pool)
        os.kill(child, signal.SIGSTOP)
        waiting = asyncio.create_task(pool.compile(Regex("x+")))
        await asyncio.sleep(0.05)
        await pool.close()
        with pytest.raises(RuntimeFailure, match="closed"):
            await waiting
        with pytest.raises(RuntimeFailure, match="closed"):
            await pool.compile(Regex("x+"))
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)

    asyncio.run(run())


def test_the_cache_keeps_its_bound() -> None:
    async def test(pool: CompilePool) -> None:
        for number in range(20):
            await pool.compile(Regex(f"a{{{number + 2}}}b"))
        assert pool._cached <= 2000
        assert 1 <= len(pool._cache) <= 3

    with_pool(test, cache_bytes=2000)


WIDE = Limits(seconds=30.0, alternatives=1 << 20, states=1 << 20)


def test_a_constraint_that_takes_long_lets_the_others_pass() -> None:
    async def test(pool: CompilePool) -> None:
        slow = [asyncio.create_task(pool.compile(Regex(f"{SLOW.pattern}|{name}"))) for name in "xyz"]
        await asyncio.sleep(0)
        for number in range(3):
            assert await pool.compile(Regex(f"a{number}"))
        assert not slow[-1].done()
        second = pool._children[1].process
        assert second is not None
        assert second.pid != child_of(pool)

    with_pool(test, WIDE)


def test_what_does_not_fit_the_slice_is_compiled_with_the_whole_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latticework.runtime.constrain.pool.SLICES", (0.0, 0.0))
    large = Choices(tuple(f"item {number}" for number in range(2000)))

    async def test(pool: CompilePool) -> None:
        assert decode_rules(await pool.compile(large)) == to_rules(large)
        assert all(child.process is not None for child in pool._children)
        with pytest.raises(RegexError):
            await pool.compile(Regex("("))

    with_pool(test)


def test_a_full_line_is_refused_and_the_next_comer_is_not() -> None:
    async def test(pool: CompilePool) -> None:
        os.kill(child_of(pool), signal.SIGSTOP)
        waiting = [asyncio.create_task(pool.compile(Regex(f"a{number}"))) for number in range(3)]
        await asyncio.sleep(0.05)
        with pytest.raises(Busy, match="2 constraints wait"):
            await pool.compile(Regex("b"))
        joined = asyncio.create_task(pool.compile(Regex("a0")))  # one of those in line already
        await asyncio.sleep(0)
        os.kill(child_of(pool), signal.SIGCONT)
        await asyncio.gather(*waiting, joined)
        assert await pool.compile(Regex("b"))

    with_pool(test, max_waiting=2)


@pytest.mark.parametrize("name", ["memory", "`seconds`"])
def test_an_error_is_remembered_whatever_names_it_quotes(name: str) -> None:
    async def test(pool: CompilePool) -> None:
        with pytest.raises(SchemaError, match=name):
            await pool.compile(JsonSchema({"properties": {name: {"type": "text"}}, "type": "object"}))
        with pytest.raises(SchemaError, match=name):
            await pool.compile(JsonSchema({"$ref": f"#/{name}"}))
        assert len(pool._cache) == 2

    with_pool(test)


def test_the_worker_says_what_was_at_fault() -> None:
    def reason(constraint: Constraint, limits: Limits) -> str:
        found = answer(msgspec.msgpack.encode(Job(constraint, limits)))
        assert isinstance(found, Failed)
        assert found.error.type in ("ConstraintError", "SchemaError")
        return found.reason

    assert reason(JsonSchema({"not": {}}), Limits()) == "constraint"
    assert reason(Choices(tuple(map(str, range(5000)))), Limits(seconds=0)) == "time"


def test_a_child_that_needs_too_much_memory_names_the_limit() -> None:
    async def test(pool: CompilePool) -> None:
        for _ in range(2):  # the second is another child, if the first has died of it
            with pytest.raises(ConstraintError, match="`memory_mb`, 1"):
                await pool.compile(SLOW)
        assert not pool._cache  # what memory there is depends on the machine

    with_pool(test, msgspec.structs.replace(WIDE, memory_mb=1))


def test_a_child_that_has_grown_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latticework.runtime.constrain.child.RETIRE_BYTES", 1 << 20)

    async def test(pool: CompilePool) -> None:
        assert await pool.compile(Regex("a"))
        assert pool._children[0].process is None
        assert await pool.compile(Regex("b"))

    with_pool(test)


def test_what_nobody_waits_for_any_more_is_ended() -> None:
    async def test(pool: CompilePool) -> None:
        before = child_of(pool)
        os.kill(before, signal.SIGSTOP)
        running, waiting = (asyncio.create_task(pool.compile(Regex(pattern))) for pattern in ("x+", "y+"))
        await asyncio.sleep(0.05)
        for task in (running, waiting):
            task.cancel()
        await asyncio.gather(running, waiting, return_exceptions=True)
        assert not pool._running
        assert decode_rules(await pool.compile(Regex("x+"))) == to_rules(Regex("x+"))
        assert child_of(pool) != before

    with_pool(test)


def test_the_children_come_after_everything_else() -> None:
    async def test(pool: CompilePool) -> None:
        child = child_of(pool)
        assert os.getpriority(os.PRIO_PROCESS, child) >= 10
        assert os.getpgid(child) == child  # Ctrl-C passes it by
        if sys.version_info >= (3, 11):
            assert os.getsid(child) == os.getsid(0)  # niceness counts among the processes of one session

    with_pool(test)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="PYTHONSAFEPATH is of Python 3.11")
def test_modules_in_the_users_folder_do_not_reach_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("msgspec", "json", "latticework"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(tmp_path)

    async def test(pool: CompilePool) -> None:
        assert await pool.compile(Regex("a"))

    with_pool(test)


def test_garbage_jobs_are_answered_with_an_error() -> None:
    for frame in (b"", b"\xc1", b"\x81\xa1a\x01"):
        assert isinstance(answer(frame), Failed)


def test_the_worker_ends_with_its_input_and_imports_no_torch() -> None:
    code = (
        "import sys, latticework.runtime.constrain.worker as worker; worker.main();"
        "assert not {'torch', 'transformers', 'pydantic'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=HEADER.pack(100) + b"short", timeout=60, check=False)
    assert done.returncode == 0
