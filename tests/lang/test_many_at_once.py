"""A thousand programs of three gens, all open at once: few threads, little memory, in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SCRIPT = """
    import asyncio, json, resource, sys, threading
    import latticework as lw
    from latticework.lang.backends.scripted import Reply

    MANY = 1000
    begun, ended, most_open, most_threads = 0, 0, 0, 0

    def most_memory():
        try:  # getrusage of Linux counts what the process was before it became this program
            status = open("/proc/self/status").read()
            return int(status.split("VmHWM:")[1].split()[0]) >> 10
        except OSError:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (20 if sys.platform == "darwin" else 10)

    def answer(prompt, op):
        global begun, ended, most_open, most_threads
        begun += op.name == "a"
        most_open = max(most_open, begun - ended)
        ended += op.name == "c"
        most_threads = max(most_threads, threading.active_count())
        return Reply(op.name, delay=2.0 if op.name == "a" else 0.0)  # until then all have begun

    @lw.function
    def plain(s, number):
        s += number + lw.gen("a") + "x" + lw.gen("b")
        s += s["a"] + lw.gen("c")

    @lw.function
    async def asynchronous(s, number):
        s += number + lw.gen("a") + "x" + lw.gen("b")
        s += await s["a"] + lw.gen("c")

    compiled = plain.compile()
    items = [{"number": str(number)} for number in range(MANY)]

    async def gathered(program, backend):
        return await asyncio.gather(*(program.arun(**item, backend=backend) for item in items))

    with lw.Scripted(answer) as backend:
        if sys.argv[1] == "batch":
            states = compiled.run_batch(items, backend=backend)
        else:
            program = compiled if sys.argv[1] == "compiled" else asynchronous
            states = asyncio.run(gathered(program, backend))
        assert [state.text() for state in states] == [f"{number}axbac" for number in range(MANY)]
    print(json.dumps({"open": most_open, "threads": most_threads, "megabytes": most_memory()}))
"""


@pytest.mark.parametrize("how", ["compiled", "asynchronous", "batch"])
def test_a_thousand_open_programs_take_few_threads_and_little_memory(how: str) -> None:
    told = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), how],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        timeout=120,
    )
    most = json.loads(told.stdout)
    if how != "batch":  # whose concurrency is bounded
        assert most["open"] == 1000
    assert most["threads"] < 50
    assert most["megabytes"] < 500
