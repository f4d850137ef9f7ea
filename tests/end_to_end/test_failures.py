"""What dies, dies alone: engines, clients, fronts and garbage on the sockets."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

import latticework as lw
from latticework.lang.backends.runtime import Runtime, connect
from latticework.lang.errors import ConnectionLost, EngineDied, InvalidArgument, LatticeworkError, ModelNotFound
from latticework.lang.events import Event, Failed
from latticework.lang.ir import Fork, Gen, Sampling, Text
from latticework.runtime.link.client import Client
from latticework.runtime.link.messages import Append, Decoder, Rejected, ToClient, encode

ROOT = Path(__file__).parents[2]


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    """A runtime of the test's own, to be hurt."""
    with Runtime("tiny", dtype="float64", kv_tokens=4096, threads=1) as own:
        yield own


@lw.function
def short(s: lw.State) -> None:
    s += "x" + lw.gen("a", max_tokens=4)


@lw.function
def long(s: lw.State) -> None:
    s += "x" + lw.gen("a", max_tokens=450, regex="[a-z ]{440,450}")


def children(pid: int) -> dict[int, str]:
    """Process ids of the direct children and their command lines."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if parent == pid:
                found[int(entry.name)] = command
    return found


def engine_of(front: int) -> int:
    return next(pid for pid, command in children(front).items() if "engine_worker" in command)


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_engine_fails_the_open_program_and_the_next_one_works(runtime: Runtime) -> None:
    state = long.run(backend=runtime, seed=1, wait=False)
    next(state.text_iter("a"))
    killed = time.monotonic()
    os.kill(engine_of(runtime.pid), signal.SIGKILL)
    with pytest.raises(EngineDied, match="exit code -9"):
        state["a"]
    assert time.monotonic() - killed < 2.0

    assert short.run(backend=runtime, seed=1)["a"]  # it waits for the new engine


@lw.function
def branching(s: lw.State, word: str) -> None:
    s += word + lw.gen("first", max_tokens=3)
    forks = s.fork(3)
    forks += lw.gen("part", max_tokens=400, regex="[a-z ]{390,400}")
    forks.join()
    s += "So: " + lw.gen("last", max_tokens=3)


def test_an_engine_killed_during_a_compiled_run_fails_it_by_name_and_the_next_run_works(runtime: Runtime) -> None:
    compiled = branching.compile()
    states = [compiled.run("x", backend=runtime, seed=1, wait=False, timeout=60) for _ in range(2)]
    assert all(state.get("first", timeout=20) for state in states)
    assert eventually(lambda: runtime.stats().engine.running == 6)
    os.kill(engine_of(runtime.pid), signal.SIGKILL)
    for state in states:
        with pytest.raises(EngineDied, match="exit code -9"):
            state["part"]
        with pytest.raises(EngineDied):
            state["last"]
        with pytest.raises(EngineDied, match="gen 'part'"):
            state.text(timeout=10)

    again = compiled.run("x", backend=runtime, seed=1, timeout=60)  # it waits for the new engine
    assert again["first"] == states[0]["first"]
    assert len(again["part"]) == 3
    assert again["last"]
    assert runtime.stats().restarts == 1
    assert eventually(lambda: runtime.stats().open_requests == runtime.stats().engine.leases == 0)


def test_an_engine_killed_between_two_gens_fails_the_program_by_name(runtime: Runtime) -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += "x" + lw.gen("a", max_tokens=3)
        _ = s["a"]
        engine = engine_of(runtime.pid)
        os.kill(engine, signal.SIGKILL)
        assert eventually(lambda: not alive(engine))
        assert eventually(lambda: runtime.stats().restarts == 1, 60.0)
        s += "y" + lw.gen("b", max_tokens=3)

    with pytest.raises(EngineDied, match="restarted"):
        program.run(backend=runtime, seed=1)


def test_a_killed_front_fails_the_open_program_and_the_next_run_starts_another(runtime: Runtime) -> None:
    state = long.run(backend=runtime, seed=1, wait=False)
    next(state.text_iter("a"))
    engine = engine_of(runtime.pid)
    os.kill(runtime.pid, signal.SIGKILL)
    with pytest.raises(ConnectionLost):
        state["a"]
    assert eventually(lambda: not alive(engine), 2.0)
    assert short.run(backend=runtime, seed=1)["a"]


def test_a_killed_client_takes_its_runtime_with_it(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import latticework as lw
        from latticework.lang.backends.runtime import Runtime
        runtime = Runtime("tiny", threads=1)
        @lw.function
        def long(s):
            s += "x" + lw.gen("a", max_tokens=450, regex="[a-z ]{440,450}")
        state = long.run(backend=runtime, wait=False)
        print(runtime.pid, flush=True)
        import time
        time.sleep(60)
    """)
    (tmp_path / "program.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py")], stdout=subprocess.PIPE, env=environment
    ) as client:
        assert client.stdout is not None
        front = int(client.stdout.readline())
        engine = engine_of(front)
        client.kill()
    assert eventually(lambda: not alive(front) and not alive(engine), 4.0)


def test_a_killed_client_of_a_shared_runtime_frees_everything(runtime: Runtime) -> None:
    script = textwrap.dedent(f"""
        import latticework as lw
        from latticework.lang.backends.runtime import connect
        backend = connect({runtime.address!r})
        @lw.function
        def long(s):
            s += "x" + lw.gen("a", max_tokens=450, regex="[a-z ]{{440,450}}")
        states = [long.run(backend=backend, wait=False) for _ in range(4)]
        next(states[0].text_iter("a"))
        print("running", flush=True)
        import time
        time.sleep(60)
    """)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"running\n"
        client.kill()
    with connect(runtime.address) as other:
        assert short.run(backend=other, seed=1)["a"]
        assert eventually(lambda: other.stats().open_runs == 0, 10.0)
        assert eventually(lambda: other.stats().engine.running == 0 and other.stats().engine.leases == 0, 10.0)


def test_garbage_on_the_socket_is_dropped_and_the_runtime_lives(runtime: Runtime, tmp_path: Path) -> None:
    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {marker}",)

    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.linger = 1000
    dealer.connect(runtime.address)
    for frame in (pickle.dumps(Evil()), b"", b"\xff" * 1000, b"\x81\xa4type\xa4none", os.urandom(5000)):
        dealer.send(frame)
    dealer.send_multipart([b"two", b"frames"])
    dealer.close()
    context.term()
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(runtime.address.removeprefix("ipc://"))
        raw.sendall(os.urandom(10_000))
    assert short.run(backend=runtime, seed=1)["a"]
    assert not marker.exists()
    with connect(runtime.address) as other:
        assert other.stats().bad_frames >= 6


def test_a_stranger_is_told_to_begin_anew(runtime: Runtime) -> None:
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.linger = 0
    dealer.connect(runtime.address)
    dealer.send(encode(Append(1, 0, 0, ())))
    assert dealer.poll(5000)
    answer = Decoder(ToClient).decode(dealer.recv())
    dealer.close()
    context.term()
    assert isinstance(answer, Rejected)
    assert answer.error.type == "ConnectionLost"


def test_impossible_forks_fail_their_run_and_nobody_else(runtime: Runtime) -> None:
    heard: list[Event] = []
    client = Client(runtime.address)
    run = client.open(Sampling(), 1, 0, heard.append)
    client.append(run, 0, 0, [Text("x"), Fork((0, 5)), Gen("a")])
    assert eventually(lambda: any(isinstance(event, Failed) for event in heard))
    client.close()
    assert short.run(backend=runtime, seed=1)["a"]


def test_the_socket_belongs_to_its_user_alone(runtime: Runtime) -> None:
    path = Path(runtime.address.removeprefix("ipc://"))
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o077 == 0


def test_forked_workers_have_connections_of_their_own(runtime: Runtime) -> None:
    script = textwrap.dedent("""
        import os
        import latticework as lw
        from latticework.lang.backends.runtime import Runtime
        @lw.function
        def short(s):
            s += "x" + lw.gen("a", max_tokens=4)
        with Runtime("tiny", dtype="float64", threads=1) as runtime:
            first = short.run(backend=runtime, seed=1)["a"]
            workers = []
            for _ in range(3):
                pid = os.fork()
                if pid == 0:
                    os._exit(0 if short.run(backend=runtime, seed=1)["a"] == first else 1)
                workers.append(pid)
            codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in workers]
            assert codes == [0, 0, 0], codes
            assert short.run(backend=runtime, seed=1)["a"] == first
    """)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], env=environment, check=True, timeout=60)


def test_interrupting_a_program_leaves_the_runtime_alive(runtime: Runtime) -> None:
    @lw.function
    def interrupted(s: lw.State) -> None:
        s += "x" + lw.gen("a", max_tokens=450, regex="[a-z ]{440,450}")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted.run(backend=runtime, seed=1)
    assert short.run(backend=runtime, seed=1)["a"]


def test_an_unknown_model_or_setting_is_refused_before_anything_starts() -> None:
    with pytest.raises(ModelNotFound, match="no-such-model"):
        Runtime("./no-such-model")
    with pytest.raises(InvalidArgument, match="pagesize"):
        Runtime("tiny", pagesize=3)
    with pytest.raises(InvalidArgument, match="page_size"):
        Runtime("tiny", page_size=0)


def test_connecting_to_nobody_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latticework.runtime.link.client.CONNECT_SECONDS", 0.3)
    with pytest.raises(ConnectionLost, match="nobody answers"):
        connect(f"ipc://{tmp_path}/nobody")
    with pytest.raises(LatticeworkError, match="CURVE"):
        connect("tcp://127.0.0.1:5555")
    with pytest.raises(InvalidArgument, match="no link address"):
        connect("/tmp/socket")
    with pytest.raises(InvalidArgument, match="socket path"):
        connect("ipc:///" + "x" * 200)
