"""The command line: its options come from the settings, its errors are one message."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
import pytest

import latticework as lw
from latticework.lang.errors import InvalidArgument
from latticework.runtime import cli, demo
from latticework.runtime.bench import Workload
from latticework.runtime.config import EngineConfig, ServerConfig
from latticework.runtime.options import settings_of
from latticework.runtime.profile import PARTS
from latticework.runtime.server.http import bind, check_host, url_of
from latticework.runtime.terminal import load_function, parse_arguments, print_state, printable

ROOT = Path(__file__).parents[2]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}


def latticework(*arguments: str, seconds: float = 60, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "latticework", *arguments],
        env=ENV,
        capture_output=True,
        text=True,
        timeout=seconds,
        input=text,
        check=False,
    )


# ---------------------------------------------------------------- options


def test_every_setting_is_an_option_of_serve() -> None:
    shown = latticework("serve", "--help").stdout
    for setting in settings_of(EngineConfig) + settings_of(ServerConfig):
        assert setting.flag in shown
        assert setting.description.split()[0] in shown


def test_settings_carry_type_bounds_default_and_description() -> None:
    page_size = next(setting for setting in settings_of(EngineConfig) if setting.name == "page_size")
    assert (page_size.type, page_size.default, page_size.minimum, page_size.maximum) == (int, 16, 1, 256)
    assert page_size.description == "tokens in a KV page"
    dtype = next(setting for setting in settings_of(EngineConfig) if setting.name == "dtype")
    assert dtype.type_name == "auto | bfloat16 | float16 | float32 | float64"


@pytest.mark.parametrize("name", ["context", "kv_tokens", "threads"])
@pytest.mark.parametrize("value", [0, -5])
def test_an_optional_size_has_bounds_too(name: str, value: int) -> None:
    setting = next(setting for setting in settings_of(EngineConfig) if setting.name == name)
    assert (setting.type, setting.type_name, setting.minimum) == (int | None, "int", 1)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({name: value}, EngineConfig)
    assert msgspec.convert({name: None}, EngineConfig) == EngineConfig()


def test_a_value_out_of_bounds_is_refused_by_its_option() -> None:
    shown = latticework("serve", "--threads", "0")
    assert shown.returncode == 2
    assert "--threads" in shown.stderr
    shown = latticework("serve", "--page-size", "0")
    assert shown.returncode == 2
    assert "--page-size" in shown.stderr
    shown = latticework("serve", "--mask-budget-ms", "0")  # an open bound, which only the struct knows
    assert shown.returncode == 1
    assert "--mask-budget-ms" in shown.stderr


def test_help_loads_no_model_library() -> None:
    code = (
        "import sys; from latticework.runtime.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'transformers', 'fastapi', 'uvicorn', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENV, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["serve", "--model", "no-such-model"], ["ModelNotFound", "no-such-model"]),
        (["serve", "--host", "0.0.0.0"], ["Unsupported", "0.0.0.0", "loopback"]),
        (["serve", "--host", "example.org"], ["InvalidArgument", "example.org"]),
        (["serve", "--ipc", "/" + "x" * 200], ["InvalidArgument", "socket path"]),
        (["serve", "--ipc", "tcp://127.0.0.1:1"], ["Unsupported", "tcp://"]),
        (["run", "nothing.py:f"], ["InvalidArgument", "no file nothing.py"]),
        (["run", "no-colon"], ["InvalidArgument", "file.py:function"]),
        (["fetch", "no-such-model"], ["ModelNotFound", "smollm2"]),
    ],
)
def test_an_error_is_one_message_and_exit_code_1(arguments: list[str], parts: list[str]) -> None:
    shown = latticework(*arguments)
    assert shown.returncode == 1
    assert "Traceback" not in shown.stderr
    for part in parts:
        assert part in shown.stderr


def test_a_port_in_use_is_refused_before_a_model_loads() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        shown = latticework("serve", "--model", "no-such-model", "--port", str(port))
    assert shown.returncode == 1
    assert "AddressInUse" in shown.stderr
    assert str(port) in shown.stderr


def test_only_loopback_addresses_are_served() -> None:
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        check_host(host)
    with bind("127.0.0.1", 0) as bound:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url_of(bound))


# ---------------------------------------------------------------- run


def test_arguments_are_json_or_else_text() -> None:
    assert parse_arguments(["a=1", "b=[true]", "c=x=y", "d="]) == {"a": 1, "b": [True], "c": "x=y", "d": ""}
    for bad in ("a", "=1", "1a=2"):
        with pytest.raises(InvalidArgument, match="no argument"):
            parse_arguments([bad])


def test_a_target_must_be_a_program(tmp_path: Path) -> None:
    file = tmp_path / "cli_programs.py"
    file.write_text("import latticework as lw\n@lw.function\ndef f(s, x):\n    s += x\ndef g(): pass\n")
    assert load_function(f"{file}:f").parameters == {"x"}
    for name in ("g", "h"):
        with pytest.raises(InvalidArgument, match="expected a @function"):
            load_function(f"{file}:{name}")


def test_control_characters_never_reach_the_terminal() -> None:
    assert printable("a\x1b[31mb\x07\tc\nd\r") == "a[31mb\tc\nd"


@lw.function
def two_words(s: lw.State) -> None:
    s += "Say: \x1b[2J" + lw.gen("[link]")
    forks = s.fork(1)
    forks += lw.gen("more")
    forks.join()


def test_what_a_model_writes_never_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with lw.Scripted({"[link]": "\x1b[31mred\x07 [bold]\x9b2J", "more": "\x1b]0;title\x07\u202e!"}) as backend:
        print_state(two_words.run(backend=backend), 1.0)
    shown = capsys.readouterr().out
    assert not set(shown) & set("\x1b\x07\x9b\u202e")
    assert "Say: [2J[31mred [bold]2J" in shown  # as text, markup included
    assert "]0;title!" in shown


def test_the_demo_shows_no_control_characters(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    order = '{"customer": "A", "quantity": 1, "product": "\x1b[31mb", "express": true}'.replace("\x1b", "\\u001b")

    @contextmanager
    def scripted(_: EngineConfig) -> Iterator[lw.Scripted]:
        with lw.Scripted({"order": order, "kind": "an order", "draft": "\x1b[2Jgone"}) as backend:
            yield backend

    monkeypatch.setattr(demo, "started", scripted)
    demo.show_demo(EngineConfig(model="tiny"))
    shown = capsys.readouterr().out
    assert "[2Jgone" in shown
    assert "\x1b" not in shown


def test_an_error_that_quotes_a_model_does_not_steer_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise InvalidArgument("it wrote \x1b[2J")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().err == "InvalidArgument: it wrote [2J\n"


def test_a_file_named_like_a_module_does_not_replace_it(tmp_path: Path) -> None:
    file = tmp_path / "json.py"
    file.write_text(
        "from __future__ import annotations\n"
        "import dataclasses\n"
        "import latticework as lw\n"
        "@dataclasses.dataclass\n"
        "class Point:\n    x: int\n"
        "@lw.function\n"
        "def f(s):\n    s += lw.gen('p', schema=Point)\n"
    )
    function = load_function(f"{file}:f")
    assert sys.modules["json"] is json
    with lw.Scripted({"p": '{"x":1}'}) as backend:
        assert function.run(backend=backend).value("p").x == 1


def test_run_prints_text_values_and_usage(tmp_path: Path) -> None:
    file = tmp_path / "cli_hello.py"
    file.write_text(
        "import latticework as lw\n"
        "@lw.function\n"
        "def hello(s, name, count):\n"
        "    s += f'{name} {count + 1} ' + lw.gen('word', max_tokens=4) + lw.select('end', ['!', '?'])\n"
    )
    shown = latticework("run", f"{file}:hello", "name=Ada", "count=41", "--model", "tiny", "--seed", "1")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("Ada 42 ")
    assert "word" in shown.stdout
    assert "seed 1" in shown.stdout


def test_show_compiles_without_a_model_and_prints_the_program(tmp_path: Path) -> None:
    file = tmp_path / "cli_show.py"
    file.write_text(
        "import latticework as lw\n"
        "@lw.function\n"
        "def f(s, word, n=2):\n"
        "    for i in range(n):\n"
        "        s += f'{i} {word}' + lw.gen(f'x{i}')\n"
        "@lw.function\n"
        "def g(s, word):\n"
        "    s += word * 2\n"
    )
    shown = latticework("show", f"{file}:f")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[1:4] == ['    text "0 "', "    arg word", "    gen x0"]
    assert len(latticework("show", f"{file}:f", "n=1").stdout.splitlines()) == 4
    assert latticework("show", f"{file}:f", "--as", "mermaid").stdout.startswith("flowchart TD")
    assert "constant prefix\n    1 ops" in latticework("show", f"{file}:f", "--as", "passes").stdout
    refused = latticework("show", f"{file}:g")
    assert refused.returncode == 1
    assert "NeedsValue: argument 'word'" in refused.stderr
    assert "cli_show.py:8" in refused.stderr


def test_chat_answers_until_the_input_ends() -> None:
    shown = latticework("chat", "--model", "tiny", "--max-tokens", "6", "--seed", "1", text="Hi\nMore\n")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("tokens a second") == 2


def test_env_says_what_a_bug_report_needs() -> None:
    shown = latticework("env").stdout
    for name in ("python", "cpu features", "cores allowed", "gpus", "cache folder", "model smollm2", "torch"):
        assert name in shown


# ---------------------------------------------------------------- serve


class Served:
    """`latticework serve` as a process."""

    def __init__(self, log: Path, *arguments: str) -> None:
        command = [sys.executable, "-X", "importtime", "-m", "latticework", "serve", "--model", "tiny", *arguments]
        with log.open("w") as stderr:
            self.process = subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE, stderr=stderr, text=True)
        assert self.process.stdout is not None
        self.ready = self.process.stdout.readline()

    def children(self) -> list[int]:
        task = Path(f"/proc/{self.process.pid}/task")
        return [int(pid) for one in task.iterdir() for pid in (one / "children").read_text().split()]

    def end(self, number: int) -> int:
        with self.process:  # closes its pipe
            self.process.send_signal(number)
            return self.process.wait(15)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def all_gone(pids: list[int], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while any(map(is_running, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(is_running, pids))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_says_one_ready_line_and_a_signal_ends_every_process(number: int, tmp_path: Path) -> None:
    served = Served(tmp_path / "log", "--port", "0")
    found = re.fullmatch(r"ready: (http://127\.0\.0\.1:\d+) and (ipc://\S+) \(tiny, .*\)\n", served.ready)
    assert found is not None, served.ready
    assert httpx.get(f"{found[1]}/health").status_code == 200
    children = served.children()
    assert children
    assert served.end(number) == 0
    assert all_gone(children)
    assert not Path(found[2].removeprefix("ipc://")).exists()


def test_sigterm_lets_an_open_answer_finish_before_every_process_ends(tmp_path: Path) -> None:
    served = Served(tmp_path / "log", "--port", "0", "--drain-seconds", "60")
    found = re.search(r"http://[\d.:]+", served.ready)
    assert found is not None, served.ready
    body = {"model": "tiny", "prompt": "x", "max_tokens": 300, "stream": True, "regex": "[a-z]{300}"}
    url = f"{found[0]}/v1/completions"
    with served.process, httpx.stream("POST", url, json=body, timeout=60) as response:
        lines = response.iter_lines()
        next(lines)
        served.process.terminate()
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert served.process.wait(30) == 0


def test_serve_ipc_serves_the_link_and_no_http(tmp_path: Path) -> None:
    served = Served(tmp_path / "log", "--ipc", str(tmp_path / "link"))
    try:
        assert f"ipc://{tmp_path}/link" in served.ready
        assert "http" not in served.ready
        imported = {line.rpartition("|")[2].strip() for line in (tmp_path / "log").read_text().splitlines()}
        assert "latticework.runtime.programs.front" in imported
        assert imported.isdisjoint({"fastapi", "uvicorn", "starlette", "torch"})
        shown = subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys, latticework as lw; c = lw.connect(sys.argv[1]); print(c.model); c.shutdown()",
                f"ipc://{tmp_path}/link",
            ],
            env=ENV,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert shown.stdout == "tiny\n"
    finally:
        assert served.end(signal.SIGTERM) == 0


def test_a_signal_while_the_model_loads_ends_every_process() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "latticework", "serve", "--model", "tiny", "--port", "0"], env=ENV, text=True
    )
    time.sleep(1.0)
    process.terminate()
    assert process.wait(15) in (0, -signal.SIGTERM)  # -SIGTERM: it came before the handler


def test_settings_structs_reject_what_the_command_line_rejects() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"page_size": 0}, EngineConfig)


# ---------------------------------------------------------------- bench


def test_bench_reports_tokens_and_the_parts_of_a_step() -> None:
    sizes = ("--prompts", "6", "--words", "8", "--shared", "4", "--tokens", "5")
    done = latticework("bench", "--model", "tiny", "--kv-tokens", "2048", "--threads", "1", *sizes)
    assert done.returncode == 0, done.stderr
    assert re.search(r"output tokens +30,", done.stdout)
    parts = re.findall(r"^(\w+) +(\d+\.\d{3}) +\d", done.stdout, re.MULTILINE)
    assert [name for name, _ in parts] == [*PARTS, "waiting"]
    assert sum(float(seconds) > 0 for _, seconds in parts) >= 3


def test_a_workload_is_the_same_every_time_and_shares_its_beginning() -> None:
    texts = Workload(3, 10, 6, 1).texts()
    assert texts == Workload(3, 10, 6, 1).texts()
    assert len({tuple(text.split()[:6]) for text in texts}) == 1
    assert len(set(texts)) == 3
    assert [len(text.split()) for text in texts] == [10] * 3
    assert len(set(Workload(3, 4, 9, 1).texts())) == 1


def test_replay_shows_what_differs_and_says_so_in_its_exit_status(tmp_path: Path) -> None:
    file, summary = tmp_path / "x.jsonl", tmp_path / "summary.json"

    @lw.function
    def program(s: lw.State) -> None:
        s += "Once" + lw.gen("x", max_tokens=4)

    with lw.Runtime("tiny", dtype="float64", kv_tokens=1024, threads=1) as runtime:
        program.run(backend=runtime, seed=1, record=file)
        address = ("--url", runtime.address)
        same = latticework("replay", str(file), *address, "--json", str(summary))
        assert (same.returncode, same.stderr) == (0, "")
        assert "no differences" in same.stdout
        assert json.loads(summary.read_text()) == {"runs": 1, "same": 1, "left_out": 0, "differences": []}
        file.write_text(file.read_text().replace('"seed":1,', '"seed":2,'))
        other = latticework("replay", str(file), *address, "--json", str(summary))
    assert other.returncode == 1
    assert "text differs from character" in other.stdout
    assert [found["what"] for found in json.loads(summary.read_text())["differences"]] == ["text"]
    file.write_text("{}\n")
    broken = latticework("replay", str(file), *address)
    assert broken.returncode == 1
    assert "InvalidArgument: line 1 of" in broken.stderr
