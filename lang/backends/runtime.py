"""The language's way to a Latticework runtime: embedded (a private subprocess) or served elsewhere.

Runtime(model="smollm2")   starts a front and an engine of its own, and ends them
connect("ipc://…")         joins one that `latticework serve` runs
RuntimeEndpoint("http://…")  joins it over HTTP
"""

from __future__ import annotations

import atexit
import os
import subprocess
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from latticework.lang.backends.base import Listener
from latticework.lang.backends.calls import Encoded, Terms
from latticework.lang.check import Place
from latticework.lang.errors import EngineDied, InvalidArgument, Unsupported
from latticework.lang.events import Event
from latticework.lang.ir import Gen, Op, Sampling
from latticework.runtime.config import EngineConfig, ServerConfig
from latticework.runtime.link import child
from latticework.runtime.link.client import Client
from latticework.runtime.link.http_wire import HttpAddress, HttpWire
from latticework.runtime.link.messages import FrontStats, Prompt
from latticework.runtime.link.settings import FrontSettings
from latticework.runtime.link.sockets import RuntimeFolder
from latticework.runtime.link.wire import OpenWire

__all__ = ["Connection", "Runtime", "RuntimeEndpoint", "connect", "embedded_default"]


class _RemoteRun:
    """A Session: one run on one connection."""

    def __init__(self, client: Client, number: int) -> None:
        self._client = client
        self._number = number
        self._closed = False

    def append(self, branch: int, first: int, ops: Sequence[Op]) -> None:
        self._client.append(self._number, branch, first, ops)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._client.end(self._number)


def _open(client: Client, terms: Terms, listener: Listener) -> _RemoteRun:
    number = client.open(
        terms.sampling,
        terms.seed,
        terms.item,
        listener,
        terms.timeout,
        priority=terms.priority,
        max_total_tokens=terms.max_total_tokens,
    )
    return _RemoteRun(client, number)


def _call(
    client: Client, program: Encoded, arguments: Mapping[str, str], terms: Terms, listener: Listener
) -> _RemoteRun:
    number = client.call(
        program.hash,
        program.data,
        dict(arguments),
        terms.sampling,
        terms.seed,
        listener,
        item=terms.item,
        timeout=terms.timeout,
        priority=terms.priority,
        max_total_tokens=terms.max_total_tokens,
        chunks=terms.chunks,
    )
    return _RemoteRun(client, number)


def _ignore(event: Event) -> None:
    """What happens to a warm prefix is told by the calls that need it."""


class Connection:
    """A backend that speaks to a front at `address`. Each process that uses it has a connection of its own.

    tenant: for whom it asks. Tenants share the engine fairly, and no part of the prefix cache. wire: how to get there,
    where `address` is no ZMQ address.
    """

    def __init__(self, address: str, tenant: str = "", wire: OpenWire | None = None) -> None:
        self.name = f"runtime at {address}"
        self.address = address
        self.tenant = tenant
        self._wire = wire
        self._lock = threading.Lock()
        self._client: Client | None = self._connect()
        _at_fork(self._forked)

    def _connect(self) -> Client:
        return Client(self.address, tenant=self.tenant, wire=self._wire)

    def _forked(self) -> None:
        """In a forked child: whoever held the lock is not here."""
        self._lock = threading.Lock()

    @property
    def model(self) -> str:
        """The name of the model served there."""
        welcome = self._live().welcome
        assert welcome is not None
        return welcome.model

    def open(
        self, sampling: Sampling, seed: int, item: int, listener: Listener, timeout: float | None = None
    ) -> _RemoteRun:
        """Starts a run; see `Backend.open`. Programs do this by themselves."""
        return _open(self._live(), Terms(sampling=sampling, seed=seed, item=item, timeout=timeout), listener)

    def open_run(self, terms: Terms, listener: Listener) -> _RemoteRun:
        """The same, with all that `Terms` say."""
        return _open(self._live(), terms, listener)

    def call(self, program: Encoded, arguments: Mapping[str, str], terms: Terms, listener: Listener) -> _RemoteRun:
        """Starts a run of a whole program; see `Calling.call`."""
        return _call(self._live(), program, arguments, terms, listener)

    def warm(self, program: Encoded) -> _RemoteRun:
        """Keeps what all calls of a program begin with; see `Calling.warm`."""
        client = self._live()
        return _RemoteRun(client, client.warm(program.hash, program.data, _ignore))

    def bounds(self, program: Encoded, timeout: float = 10.0) -> dict[Place, int]:
        """For each gen (branch, position) whose constraint has a longest text, the tokens it can have at most. timeout:
        seconds that compiling the constraints may take. Raises ConstraintError."""
        found = self._live().bounds(program.hash, program.data, timeout)
        return {(branch, position): longest for branch, position, longest in found}

    def stats(self) -> FrontStats:
        """Counters of the front and its engine."""
        return self._live().stats()

    def flush_cache(self) -> None:
        """Forgets every cached prefix that nothing holds."""
        self._live().flush_cache()

    def get_server_info(self) -> dict[str, Any]:
        """The model, its sizes, and counters, by SGLang's names."""
        return _server_info(self._live())

    def get_model_name(self) -> str:
        """The name of the model served there."""
        return self.model

    def _live(self) -> Client:
        with self._lock:
            if self._client is None or self._client.lost:
                self._client = self._connect()
            return self._client

    def shutdown(self) -> None:
        """Ends the connection, and the runs open on it; the runtime goes on. A later run makes another connection."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()


def connect(
    address: str, *, tenant: str = "", api_key: str | None = None, verify: str | bool | None = None
) -> Connection:
    """Joins a runtime that is being served: at its link address, "ipc://…", on behalf of `tenant`; or over HTTP, see
    `RuntimeEndpoint`. Raises ConnectionLost when nobody answers within 10 seconds, InvalidArgument for a wrong address,
    tenant or key."""
    if not isinstance(address, str):
        raise InvalidArgument(f"address is a {type(address).__name__}; expected text", field="address")
    if address.startswith(("http://", "https://")):
        if tenant:
            raise InvalidArgument("over HTTP the tenant is that of the API key", field="tenant", hint="api_key=…")
        return RuntimeEndpoint(address, api_key, verify)
    if api_key is not None or verify is not None:
        raise InvalidArgument(f"{address} asks for no key and has no certificate", field="api_key")
    return Connection(address, tenant)


def RuntimeEndpoint(
    base_url: str,
    api_key: str | None = None,
    verify: str | bool | None = None,
    chat_template_name: str | None = None,
) -> Connection:
    """Joins a Latticework server over HTTP, for whole programs: SGLang's name for it, and its arguments.

    api_key: one of the server's `--api-keys`; it decides the tenant. verify: a file of certificates to trust instead of
    the system's; False checks none. Raises ConnectionLost when nobody answers within 10 seconds or what answers is no
    Latticework server (see `lw.OpenAI` for others), InvalidArgument for a wrong address or key, Unsupported for a
    chat template: the server's model has its own.
    """
    if chat_template_name is not None:
        raise Unsupported(
            f"chat_template_name is {chat_template_name!r}; roles are written as the model's own template has them",
            field="chat_template_name",
            hint="leave it out",
        )
    address = HttpAddress(base_url, api_key, verify)
    return Connection(base_url, wire=lambda wake: HttpWire(address, wake))


def _server_info(client: Client) -> dict[str, Any]:
    welcome, stats = client.welcome, client.stats()
    assert welcome is not None
    counters = msgspec.to_builtins(stats)
    return {
        "model_path": welcome.model,
        "served_model_name": welcome.model,
        "context_length": welcome.context,
        "dtype": welcome.dtype,
        "internal_states": [counters.pop("engine") | counters],
    }


class Runtime:
    """A private runtime: a front and an engine in subprocesses, ended by `shutdown()`, `with`, or this process.

    model: "smollm2" (the bundled default), a folder, a .gguf file or a hub id; model_path: the same, by SGLang's name.
    settings: fields of EngineConfig (dtype, page_size, kv_tokens, …). progress: called with the share of the weights
    loaded, 0 to 1. Raises ModelError or InvalidArgument at once. If the front dies, open programs fail and the next
    one starts another.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        model_path: str | None = None,
        progress: Callable[[float], None] | None = None,
        **settings: Any,
    ) -> None:
        if model is not None and model_path is not None:
            raise InvalidArgument("model and model_path are both given", field="model_path")
        model = model_path if model is None else model
        if model is not None:
            settings["model"] = model
        self.config = _engine_config(settings)
        self.name = f"runtime with {self.config.model}"
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: RuntimeFolder | None = None
        self._client: Client | None = None
        self._owner = os.getpid()
        self._shut = False
        atexit.register(self.shutdown)
        _at_fork(self._forked)
        self._start(progress)

    @property
    def address(self) -> str:
        """The ipc address of the private front."""
        assert self._folder is not None
        return self._folder.address("front")

    def generate(self, prompt: Prompt, gen: Gen, listener: Listener, timeout: float | None = None) -> _RemoteRun:
        """Starts a run of one gen after a raw prompt. gen: with its sampling complete and seeded. timeout: seconds
        after which it fails with DeadlineExceeded."""
        client = self._live()
        return _RemoteRun(client, client.generate(prompt, gen, listener, timeout))

    @property
    def model(self) -> str:
        """The model, as it was asked for."""
        return self.config.model

    @property
    def pid(self) -> int:
        """Process id of the front."""
        assert self._process is not None
        return self._process.pid

    def open(
        self, sampling: Sampling, seed: int, item: int, listener: Listener, timeout: float | None = None
    ) -> _RemoteRun:
        """Starts a run; see `Backend.open`. Programs do this by themselves."""
        return _open(self._live(), Terms(sampling=sampling, seed=seed, item=item, timeout=timeout), listener)

    def open_run(self, terms: Terms, listener: Listener) -> _RemoteRun:
        """The same, with all that `Terms` say."""
        return _open(self._live(), terms, listener)

    def call(self, program: Encoded, arguments: Mapping[str, str], terms: Terms, listener: Listener) -> _RemoteRun:
        """Starts a run of a whole program; see `Calling.call`."""
        return _call(self._live(), program, arguments, terms, listener)

    def warm(self, program: Encoded) -> _RemoteRun:
        """Keeps what all calls of a program begin with; see `Calling.warm`."""
        client = self._live()
        return _RemoteRun(client, client.warm(program.hash, program.data, _ignore))

    def bounds(self, program: Encoded, timeout: float = 10.0) -> dict[Place, int]:
        """For each gen (branch, position) whose constraint has a longest text, the tokens it can have at most. timeout:
        seconds that compiling the constraints may take. Raises ConstraintError."""
        found = self._live().bounds(program.hash, program.data, timeout)
        return {(branch, position): longest for branch, position, longest in found}

    def stats(self) -> FrontStats:
        """Counters of the front and its engine."""
        return self._live().stats()

    def flush_cache(self) -> None:
        """Forgets every cached prefix that nothing holds."""
        self._live().flush_cache()

    def get_server_info(self) -> dict[str, Any]:
        """The model, its sizes, and counters, by SGLang's names."""
        return _server_info(self._live())

    def get_model_name(self) -> str:
        """`model` by SGLang's name."""
        return self.config.model

    @property
    def endpoint(self) -> Runtime:
        """Where programs of SGLang look for `get_model_name()` and its like: here."""
        return self

    def shutdown(self) -> None:
        """Ends the subprocesses. Idempotent; in a forked child it only leaves the connection."""
        with self._lock:
            self._shut = True
            self._leave()
        atexit.unregister(self.shutdown)

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    # ------------------------------------------------------------ life

    def _live(self) -> Client:
        with self._lock:
            if self._shut:
                raise InvalidArgument("this runtime was shut down", field="backend", hint="make a new Runtime(...)")
            if self._client is None or self._client.lost:
                if self._owner != os.getpid():
                    self._client = Client(self.address)  # a forked worker: a connection of its own
                else:
                    self._leave()
                    self._start(None)
            assert self._client is not None
            return self._client

    def _start(self, progress: Callable[[float], None] | None) -> None:
        self._folder = RuntimeFolder()
        log_path = self._folder.path / "log"
        server = ServerConfig(ipc=self._folder.address("front"), max_open_each=ServerConfig().max_open)
        try:
            with log_path.open("wb") as log:
                self._process = child.spawn(
                    "latticework.runtime.link.front_worker",
                    FrontSettings(self.config, server, str(self._folder.path)),
                    log,
                )
            child.await_ready(self._process, progress)
            process = self._process
            self._client = Client(self._folder.address("front"), alive=lambda: process.poll() is None)
        except BaseException as error:
            if isinstance(error, EngineDied):  # it could not say why: its log may
                error.hint = _tail(log_path)
            self._leave()
            raise

    def _leave(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._owner != os.getpid():
            return
        if self._process is not None:
            child.stop(self._process)
            self._process = None
        if self._folder is not None:
            self._folder.remove()

    def _forked(self) -> None:
        """In a forked child: let go of the parent's lifeline, so that the runtime ends with the parent."""
        self._lock = threading.Lock()
        if self._process is not None and self._process.stdin is not None:
            os.close(self._process.stdin.fileno())
            self._process.stdin = None


def _at_fork(method: Callable[[], None]) -> None:
    """Calls a method in every forked child, as long as its object lives."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        living = reference()
        if living is not None:
            living()

    os.register_at_fork(after_in_child=call)


def _engine_config(settings: dict[str, Any]) -> EngineConfig:
    known = EngineConfig.__struct_fields__
    for name in settings:
        if name not in known:
            raise InvalidArgument(f"{name} is no engine setting", field=name, hint=f"known: {', '.join(known)}")
    try:
        return msgspec.convert(settings, EngineConfig)
    except msgspec.ValidationError as error:
        field = str(error).rpartition("$.")[2].rstrip("`") or None
        raise InvalidArgument(f"bad engine setting: {error}", field=field) from None


def _tail(path: Path, lines: int = 5) -> str | None:
    """The last lines of a log, if there are any."""
    try:
        text = path.read_text(errors="replace").strip()
    except OSError:
        return None
    return "\n".join(text.splitlines()[-lines:]) or None


_default: Runtime | None = None
_default_lock = threading.Lock()


def _renew_default_lock() -> None:
    global _default_lock
    _default_lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_default_lock)


def embedded_default() -> Runtime:
    """The runtime that the first program starts when no backend was set: the bundled model, said in one line,
    with a progress bar where a terminal shows it."""
    global _default
    with _default_lock:
        if _default is None or _default._shut:
            _default = _start_visibly()
        return _default


def _start_visibly() -> Runtime:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    model = EngineConfig().model
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"latticework: loading {model}", total=1.0)
        runtime = Runtime(model, progress=lambda fraction: bar.update(task, completed=fraction))
    console.print(f"latticework: no backend was set; started {model} on this machine", style="dim", highlight=False)
    return runtime
