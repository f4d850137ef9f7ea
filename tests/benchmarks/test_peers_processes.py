"""A rival's process: it answers itself, is ended whole, and if it fails the report says how."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks import peers
from benchmarks.rivals import hold, questions
from benchmarks.rivals.base import Plan, Run
from benchmarks.rivals.process import Launch, PeerError, free_port, served, session, started
from benchmarks.rivals.servers import ServerPeer, no_environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="rivals are run on Linux")

SERVER = """
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send(json.dumps({"data": [{"id": "scripted"}]}).encode())

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if MODE == "refuses" and asked["max_tokens"] > 16:
            return self.send_error(500)
        if MODE == "dies" and asked["max_tokens"] > 16:
            print("out of luck", flush=True)
            os._exit(3)
        drawn = 1 if MODE == "stops early" else asked["max_tokens"]
        usage = {"prompt_tokens": 5, "completion_tokens": drawn}
        events = [{"choices": [{"delta": {"content": "x"}}]}, {"choices": [], "usage": usage}]
        self.send("".join(f"data: {json.dumps(event)}\\n\\n" for event in events).encode() + b"data: [DONE]\\n\\n")

    def send(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass

import os, subprocess
HOST, PORT, MODE = sys.argv[1], int(sys.argv[2]), sys.argv[3]
subprocess.Popen(["sleep", "300"])  # a child that outlives a leader which is ended alone
ThreadingHTTPServer.request_queue_size = 64  # the client opens many connections at once
ThreadingHTTPServer((HOST, PORT), Handler).serve_forever()
"""


def launch(log: Path, *arguments: str) -> Launch:
    return Launch([sys.executable, *arguments], {}, [0], log, ready_seconds=20)


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "server.py"
    path.write_text(SERVER)
    return str(path)


@pytest.fixture
def cores() -> list[int]:
    return peers.parse(["--json", "x", "--threads", "1"]).cores[:1]


def plan(tmp_path: Path, cores: Sequence[int], *workloads: str) -> Plan:
    return Plan(workloads, 1, questions.sizes_of(short=True), cores, 20.0, tmp_path)


def scripted(script: str, mode: str) -> ServerPeer:
    def command(port: int, cores: Sequence[int]) -> list[str]:
        return [sys.executable, script, "127.0.0.1", str(port), mode]

    return ServerPeer("scripted", command, no_environment, lambda: "1")


def asked(peer: Any, mine: Plan) -> peers.Comparison:
    return peers.Comparison((peer,), (), mine, 1, peers.time.monotonic() + 60)


def test_a_server_is_ended_with_all_that_it_started(tmp_path: Path, script: str, cores: list[int]) -> None:
    port = free_port()
    begun = replace(launch(tmp_path / "log", script, "127.0.0.1", str(port), "well"), cores=cores)
    with served(begun, port) as base_url:
        assert httpx.get(f"{base_url}/models").status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{base_url}/models")
    with started(replace(begun, command=["sh", "-c", "sleep 300 & sleep 300"])) as process:
        pass
    assert session(process.pid) == []


def test_one_that_does_not_start_is_told_with_the_end_of_its_log(tmp_path: Path, cores: list[int]) -> None:
    code = "print('reading the model'); raise SystemExit('no such model')"
    failing = replace(launch(tmp_path / "log", "-c", code), cores=cores)
    with pytest.raises(PeerError, match="ended with status 1 before it answered") as caught, served(failing, 1):
        pass
    assert caught.value.tail.splitlines() == ["reading the model", "no such model"]


def test_one_that_never_answers_is_given_up(tmp_path: Path, cores: list[int]) -> None:
    silent = replace(launch(tmp_path / "log", "-c", "import time; time.sleep(300)"), cores=cores, ready_seconds=0.5)
    with pytest.raises(PeerError, match="did not answer within"), served(silent, free_port()):
        pass


def test_a_port_that_somebody_else_answers_is_refused(tmp_path: Path, script: str, cores: list[int]) -> None:
    port = free_port()
    other = replace(launch(tmp_path / "other", script, "127.0.0.1", str(port), "well"), cores=cores)
    idle = replace(launch(tmp_path / "log", "-c", "import time; time.sleep(300)"), cores=cores)
    with served(other, port), pytest.raises(PeerError, match="a process that we did not start"), served(idle, port):
        pass


def test_one_that_listens_to_the_world_is_refused(tmp_path: Path, script: str, cores: list[int]) -> None:
    port = free_port()
    open_to_all = replace(launch(tmp_path / "log", script, "0.0.0.0", str(port), "well"), cores=cores)
    with pytest.raises(PeerError, match="of other addresses than"), served(open_to_all, port):
        pass


def test_a_free_port_is_free() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))


def test_a_round_gives_a_run_for_each_workload(tmp_path: Path, script: str, cores: list[int]) -> None:
    mine = plan(tmp_path, cores, "one_stream", "json", "json_equal", "first_token")
    runs = peers.one_round(scripted(script, "well"), asked(scripted(script, "well"), mine), 0)
    assert [(run.workload, run.failure) for run in runs] == [(name, None) for name in mine.workloads]
    first, json_run = runs[0].figures, runs[1].figures
    assert first is not None
    assert first["output_tokens"] == 128
    assert json_run is not None
    assert json_run["valid_json"] == 0  # it answers "x"


@pytest.mark.parametrize(
    ("mode", "said"),
    [("refuses", "500"), ("stops early", "1 tokens were drawn, 128 were asked for"), ("dies", "")],
)
def test_a_failing_workload_is_a_run_that_says_why(
    tmp_path: Path, script: str, cores: list[int], mode: str, said: str
) -> None:
    mine = plan(tmp_path, cores, "one_stream")
    (run,) = peers.one_round(scripted(script, mode), asked(scripted(script, mode), mine), 0)
    assert run.figures is None
    assert run.failure is not None
    assert said in run.failure
    assert ("out of luck" in run.tail) == (mode == "dies")


def test_a_command_runs_while_a_rival_is_up(
    tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hold, "LOGS", tmp_path)
    code = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1] + '/models').read()); sys.exit(7)"
    assert hold.hold(scripted(script, "well"), [sys.executable, "-c", code, "{url}"]) == 7
    assert "scripted" in capfd.readouterr().out
    unbuilt = replace(scripted(script, "well"), needs=(tmp_path / "nothing",))
    with pytest.raises(PeerError, match="nothing; make peers-setup"):
        hold.hold(unbuilt, ["true"])


class Breaking:
    """Answers one workload, then breaks."""

    name = "breaking"

    def workloads(self, plan: Plan) -> tuple[str, ...]:
        return plan.workloads

    def describe(self, plan: Plan) -> Mapping[str, str]:
        raise PeerError("it is not built")

    def round(self, plan: Plan, repeat: int) -> Iterator[Run]:
        yield Run(self.name, repeat, "one_stream", {"tokens_per_s": 10.0})
        raise PeerError("the machine is on fire")


def test_what_a_peer_did_not_answer_fails_and_what_it_did_counts(tmp_path: Path) -> None:
    mine = asked(Breaking(), plan(tmp_path, [0], "one_stream", "batch"))
    done, broken = peers.one_round(mine.peers[0], mine, 0)
    assert (done.workload, done.figures) == ("one_stream", {"tokens_per_s": 10.0})
    assert (broken.workload, broken.failure) == ("batch", "the machine is on fire")
    about = {"repeats": 1}
    written = peers.document(mine, about, [done, broken], [])
    assert peers.described(mine.peers[0], mine.plan) == {"failure": "it is not built"}
    assert [run.get("failure") for run in written["runs"]] == [None, "the machine is on fire"]


def test_after_the_time_for_all_nothing_begins(tmp_path: Path) -> None:
    late = replace(asked(Breaking(), plan(tmp_path, [0], "batch")), end=0.0)
    (run,) = peers.one_round(late.peers[0], late, 2)
    assert run.failure is not None
    assert "--minutes" in run.failure


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--peers", "sglang"], "no 'sglang'"),
        (["--only", "all"], "no 'all'"),
        (["--only", "json_equal"], "needs json"),
        (["--ours", "best"], "NAME=SERVE_ARGS"),
        (["--ours", "vllm=--threads 1"], "no rival has"),
        (["--repeats", "0"], "at least 1"),
        (["--threads", "4096"], "the cores allowed"),
    ],
)
def test_what_cannot_be_asked_is_refused(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        peers.parse(["--json", "x", *arguments])
    assert said in capsys.readouterr().err


def test_rows_of_ours_come_first_and_keep_their_options() -> None:
    options = peers.parse(["--json", "x", "--peers", "vllm,ours", "--ours", "a=--drafts off", "--ours", "b="])
    found = peers.comparison(options)
    assert [peer.name for peer in found.peers] == ["a", "b", "vllm"]
    assert found.mine == ("a", "b")
    assert found.peers[0].command(5, [0])[-2:] == ["--drafts", "off"]  # type: ignore[attr-defined]
