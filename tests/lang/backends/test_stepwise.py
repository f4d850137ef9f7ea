"""What a backend that takes ops one by one is sent of a compiled program, and when."""

from __future__ import annotations

from collections.abc import Sequence

import latticework as lw
from latticework.lang.backends.base import Listener
from latticework.lang.errors import ErrorData
from latticework.lang.events import Done, Failed
from latticework.lang.ir import Join, Op, Sampling


class Noted:
    """Answers nothing by itself; `sent` has what was appended."""

    name = "noted"

    def __init__(self) -> None:
        self.sent: list[tuple[int, int, tuple[Op, ...]]] = []
        self.listener: Listener = lambda event: None

    def open(self, sampling: Sampling, seed: int, item: int, listener: Listener, timeout: float | None = None) -> Noted:
        self.listener = listener
        return self

    def append(self, branch: int, first: int, ops: Sequence[Op]) -> None:
        self.sent.append((branch, first, tuple(ops)))

    def close(self) -> None:
        """Nothing is held."""

    def shutdown(self) -> None:
        """Nothing runs."""

    def joins(self) -> int:
        return sum(isinstance(op, Join) for _, _, ops in self.sent for op in ops)


@lw.function
def ask(s: lw.State) -> None:
    s += "Points: "
    forks = s.fork(2)
    for fork in forks:
        fork += "one: " + lw.gen("point", max_tokens=3)
        fork += f" so {fork['point']}" + lw.gen("mark", max_tokens=1)
    forks.join()
    s += "Sum: " + lw.gen("sum", max_tokens=3)


def test_a_join_is_sent_after_all_that_its_branches_have() -> None:
    backend = Noted()
    ask.compile().run(backend=backend, seed=1, wait=False)
    assert {branch for branch, _, _ in backend.sent} == {0, 1, 2}
    assert backend.joins() == 0
    for branch in (1, 2):
        assert backend.joins() == 0
        backend.listener(Done(branch, 1, "x", "stop"))
    assert backend.joins() == 1
    branch, _, ops = backend.sent[-1]
    assert branch == 0
    assert isinstance(ops[0], Join)


def test_a_branch_that_failed_keeps_no_join_waiting() -> None:
    backend = Noted()
    ask.compile().run(backend=backend, seed=1, wait=False)
    backend.listener(Done(1, 1, "x", "stop"))
    assert backend.joins() == 0
    backend.listener(Failed(2, 1, ErrorData("RuntimeFailure", "no")))
    assert backend.joins() == 1
