"""A backend that answers from a script: for tests of programs, without a model.

    with Scripted({"city": '{"name": "Rome"}'}) as backend:
        state = extract.run(text="…", backend=backend)

One thread answers any number of runs. A token is a byte here. Replies are not checked against constraints.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, TypeAlias

import msgspec

from latticework.lang.backends.base import Listener, Session
from latticework.lang.errors import (
    Cancelled,
    ConnectionLost,
    InvalidArgument,
    LatticeworkError,
    ProgramError,
    RuntimeFailure,
    UnknownVariable,
    Unsupported,
)
from latticework.lang.events import Chunk, Done, Event, Failed, Finish, Rendered, TokenLogprob, Usage
from latticework.lang.ir import (
    Arg,
    Fork,
    Gen,
    Join,
    Op,
    Ref,
    Role,
    Sampling,
    Select,
    Set,
    Text,
    derive_seed,
    merge_sampling,
    sample_seed,
)
from latticework.lang.samples import as_one


class Reply(msgspec.Struct, frozen=True):
    """An answer with its circumstances. delay: seconds before it comes."""

    text: str
    delay: float = 0.0
    finish: Finish = "stop"
    complete: bool = True
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    scores: tuple[float, ...] = ()


Answer: TypeAlias = str | Reply | Exception
"""What the script says for one op; an exception makes it fail."""

Script: TypeAlias = Mapping[str, Answer | Sequence[Answer]] | Sequence[Answer] | Callable[[str, Gen | Select], Answer]
"""By variable name (a list: one after the other, across runs), in order of asking, or a function of the prompt."""

ROLE_TEMPLATES = {
    "chatml": ("<|im_start|>{role}\n", "<|im_end|>\n"),
    "plain": ("{role}: ", "\n"),
}


class Scripted:
    """Answers gens from `replies`, and selects too, whose first choice is taken where nothing is scripted.

    chunk: characters a Chunk has (None: no chunks); a reply's logprobs are spread over its chunks.
    delay: seconds before each chunk and each answer. roles: how
    messages are rendered. opened, closed, appends count calls; `asked` lists (variable, prompt, sampling) in
    order, where sampling is the op's own over the run's. A gen with n or best_of takes as many replies.
    """

    name = "scripted"

    def __init__(
        self,
        replies: Script = (),
        *,
        chunk: int | None = None,
        delay: float = 0.0,
        roles: Literal["chatml", "plain"] = "chatml",
    ) -> None:
        self.chunk = chunk
        self.delay = delay
        self.role_templates = ROLE_TEMPLATES[roles]
        self.opened = 0
        self.closed = 0
        self.appends = 0
        self.asked: list[tuple[str | None, str, Sampling]] = []
        self._script = _Script(replies)
        self._condition = threading.Condition()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None
        self._shut = False
        self._open: set[_Session] = set()

    def open(
        self, sampling: Sampling, seed: int, item: int, listener: Listener, timeout: float | None = None
    ) -> Session:
        """Starts a run; see `Backend.open`. Programs do this by themselves."""
        with self._condition:
            if self._shut:
                raise ConnectionLost("the scripted backend was shut down")
            self.opened += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="scripted backend", daemon=True)
                self._thread.start()
            session = _Session(self, sampling, seed, item, listener)
            self._open.add(session)
        return session

    def shutdown(self) -> None:
        """Ends the thread; runs still open fail with ConnectionLost. Idempotent."""
        with self._condition:
            self._shut = True
            self._condition.notify()
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Runs `action` in the backend's thread."""
        with self._condition:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), action))
            self._condition.notify()

    def answer(self, op: Gen | Select, prompt: str) -> Answer:
        """Raises LatticeworkError where the script says nothing."""
        answer = self._script.next(prompt, op)
        if answer is None and isinstance(op, Select):
            return op.options[0]
        if answer is None:
            raise ProgramError(f"no reply is scripted for {op.name!r}", field=op.name)
        return answer

    def _work(self) -> None:
        while self._work_once():
            pass
        for session in list(self._open):
            session.lose()

    def _work_once(self) -> bool:
        """Waits for one action and runs it; false once shut down. Holds no finished run while it waits."""
        with self._condition:
            while not self._shut and (not self._due or self._due[0][0] > time.monotonic()):
                self._condition.wait(self._due[0][0] - time.monotonic() if self._due else None)
            if self._shut:
                return False
            action = heapq.heappop(self._due)[2]
        action()
        return True

    def forget(self, session: _Session) -> None:
        """The session is over."""
        self.closed += 1
        with self._condition:
            self._open.discard(session)


class _Script:
    """Where the next answer comes from."""

    def __init__(self, replies: Script) -> None:
        self._function = replies if callable(replies) else None
        self._named: dict[str, deque[Answer] | Answer] = {}
        self._ordered: deque[Answer] = deque()
        if isinstance(replies, Mapping):
            self._named = {name: _queue(reply) for name, reply in replies.items()}
        elif self._function is None:
            assert isinstance(replies, Sequence)
            self._ordered = deque(replies)

    def next(self, prompt: str, op: Gen | Select) -> Answer | None:
        if self._function:
            return self._function(prompt, op)
        reply = self._named.get(op.name or "")
        if isinstance(reply, deque):
            return reply.popleft() if reply else None
        if reply is None and self._ordered:
            return self._ordered.popleft()
        return reply


def _queue(reply: Answer | Sequence[Answer]) -> deque[Answer] | Answer:
    return reply if isinstance(reply, str | Reply | Exception) else deque(reply)


class _Branch:
    """Ops of one branch not yet run. `path`: see `derive_seed`. Nothing runs before the fork that starts it."""

    def __init__(self, number: int, started: bool) -> None:
        self.number = number
        self.started = started
        self.path: tuple[int, ...] = ()
        self.text = ""
        self.variables: dict[str, str] = {}
        self.queue: deque[tuple[int, Op]] = deque()
        self.busy = False  # an answer is under way
        self.failed = False
        self.asked = 0
        self.forks = 0


class _Session:
    """One run. Everything but append and close happens in the backend's thread."""

    def __init__(self, backend: Scripted, sampling: Sampling, seed: int, item: int, listener: Listener) -> None:
        self.backend = backend
        self.sampling = sampling
        self.seed = seed
        self.item = item
        self.listener = listener
        self.branches = {0: _Branch(0, started=True)}
        self.closing = False
        self.is_closed = False

    def append(self, branch: int, first: int, ops: Sequence[Op]) -> None:
        self.backend.appends += 1
        self.backend.later(0.0, lambda: self._enqueue(branch, first, ops))

    def close(self) -> None:
        self.closing = True
        self.backend.later(0.0, self._close)

    def _enqueue(self, number: int, first: int, ops: Sequence[Op]) -> None:
        if not self.is_closed:
            self.branches[number].queue.extend(enumerate(ops, first))
            forked = [child for op in ops if isinstance(op, Fork) for child in op.children]
            self.branches.update({child: _Branch(child, started=False) for child in forked})
            self._advance_all()

    def _close(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        self.backend.forget(self)
        error = Cancelled("the run was closed").to_data()
        for branch in self.branches.values():
            for position, op in branch.queue:
                if isinstance(op, Gen | Select | Role) and not branch.failed:
                    self.listener(Failed(branch.number, position, error))

    def lose(self) -> None:
        """The backend is shut down while the run is open."""
        if self.closing:
            return self._close()
        self.is_closed = True
        self.backend.forget(self)
        self.listener(Failed(0, -1, ConnectionLost("the scripted backend was shut down").to_data()))

    def _advance_all(self) -> None:
        """Runs every branch as far as it goes; a join may wait for a branch that comes later in the round."""
        while any(self._advance(branch) for branch in list(self.branches.values())):
            pass

    def _advance(self, branch: _Branch) -> bool:
        """Runs ops up to the next answer or join to wait for; whether any was run."""
        moved = False
        while branch.queue and branch.started and not branch.busy and not branch.failed and not self.is_closed:
            position, op = branch.queue[0]
            if isinstance(op, Join) and any(self._is_busy(child) for child in op.children):
                break
            try:
                self._run(branch, position, op)
            except LatticeworkError as error:
                self._fail(branch, position, error)
            except Exception as error:  # the script is the user's code
                self._fail(branch, position, RuntimeFailure(f"the script raised {error!r}"))
            moved = True
            if not branch.busy:
                branch.queue.popleft()
        return moved

    def _is_busy(self, number: int) -> bool:
        branch = self.branches[number]
        return not branch.failed and (branch.busy or bool(branch.queue))

    def _run(self, branch: _Branch, position: int, op: Op) -> None:
        match op:
            case Text(text):
                branch.text += text
            case Ref():
                branch.text += self._piece(branch, op)
            case Set(name, pieces):
                branch.variables[name] = "".join(self._piece(branch, piece) for piece in pieces)
            case Arg():
                branch.text += self._piece(branch, op)
            case Role(role):
                opening, closing = self.backend.role_templates
                marker = opening.format(role=role) if role else closing
                branch.text += marker
                self.listener(Rendered(branch.number, position, marker))
            case Fork(children):
                for index, child in enumerate(children):
                    self._fork(branch, child, index)
                branch.forks += 1
            case Join():
                pass
            case Gen() | Select():
                self._ask(branch, position, op)

    def _piece(self, branch: _Branch, piece: Text | Arg | Ref) -> str:
        match piece:
            case Text(text):
                return text
            case Ref(name):
                if name not in branch.variables:
                    raise UnknownVariable(f"no op of this branch sets {name!r}", field=name)
                return branch.variables[name]
            case Arg(name):
                raise Unsupported(f"the scripted backend has no value for argument {name!r}")

    def _fork(self, branch: _Branch, number: int, index: int) -> None:
        child = self.branches[number]
        child.started = True
        child.path = (*branch.path, branch.forks, index)
        child.text = branch.text
        child.variables = dict(branch.variables)

    def _ask(self, branch: _Branch, position: int, op: Gen | Select) -> None:
        sampling = self.sampling
        if isinstance(op, Gen):
            if op.heal:
                raise Unsupported("the scripted backend has no tokens to heal", field="heal", hint="leave heal out")
            sampling = merge_sampling(sampling, op.sampling, op.given)
        ordinal, branch.asked = branch.asked, branch.asked + 1
        seed = derive_seed(self.seed, self.item, branch.path, ordinal) if sampling.seed is None else sampling.seed
        prompt = branch.text
        self.backend.asked.append((op.name, prompt, sampling))
        replies = [self._reply(op, prompt) for _ in range(sampling.candidates if isinstance(op, Gen) else 1)]
        branch.busy = True
        self._deliver(branch, position, op, replies, prompt, msgspec.structs.replace(sampling, seed=seed))

    def _reply(self, op: Gen | Select, prompt: str) -> Reply:
        answer = self.backend.answer(op, prompt)
        if isinstance(answer, Exception):
            raise answer if isinstance(answer, LatticeworkError) else RuntimeFailure(repr(answer))
        reply = answer if isinstance(answer, Reply) else Reply(answer)
        if isinstance(op, Select) and reply.text not in op.options:
            raise InvalidArgument(f"the script answers {reply.text!r}, which is none of {list(op.options)}")
        return reply

    def _deliver(
        self, branch: _Branch, position: int, op: Gen | Select, replies: list[Reply], prompt: str, sampling: Sampling
    ) -> None:
        """Several replies are the outputs of one gen; the first streams, unless the best has to be found."""
        seed, read = sampling.seed or 0, len(prompt.encode())
        drawn = [
            Done(
                branch.number,
                position,
                reply.text,
                "select" if isinstance(op, Select) else reply.finish,
                complete=reply.complete,
                usage=Usage(prompt=read, computed=read, output=len(reply.text.encode())),
                logprobs=reply.logprobs,
                prompt_logprobs=reply.prompt_logprobs,
                scores=reply.scores,
                seed=sample_seed(seed, sample),
            )
            for sample, reply in enumerate(replies)
        ]
        done = drawn[0] if len(drawn) == 1 else as_one(drawn, sampling)
        size = self.backend.chunk if isinstance(op, Gen) and not sampling.ranked else None
        chunks = [done.text[at : at + size] for at in range(0, len(done.text), size)] if size else []
        delay = max(reply.delay for reply in replies)
        told = done.logprobs if sampling.n == 1 else ()
        for step, chunk in enumerate(chunks, 1):
            first, last = ((number * len(told)) // len(chunks) for number in (step - 1, step))
            event = Chunk(branch.number, position, chunk, told[first:last])
            self.backend.later(delay + step * self.backend.delay, partial(self._send, event))
        self.backend.later(delay + (len(chunks) + 1) * self.backend.delay, lambda: self._finish(branch, op, done))

    def _send(self, event: Event) -> None:
        if not self.is_closed:
            self.listener(event)

    def _finish(self, branch: _Branch, op: Gen | Select, done: Done) -> None:
        if self.is_closed:
            return
        branch.busy = False
        branch.queue.popleft()
        branch.text += done.text
        if op.name:
            branch.variables[op.name] = done.text
        self.listener(done)
        self._advance_all()

    def _fail(self, branch: _Branch, position: int, error: LatticeworkError) -> None:
        branch.failed = True
        self.listener(Failed(branch.number, position, error.to_data()))
