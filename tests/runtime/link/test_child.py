"""A child process lives exactly as long as its parent wants it to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from latticework.lang.errors import EngineDied, ModelNotFound
from latticework.runtime.config import EngineConfig
from latticework.runtime.link import child
from latticework.runtime.link.settings import EngineSettings

Worker: TypeAlias = Callable[[str], str]

SETTINGS = EngineSettings(EngineConfig(model="tiny"), "ipc:///nowhere")

WORKER = """
import sys, time
from latticework.lang.errors import ModelNotFound
from latticework.runtime.link.child import Lifeline
from latticework.runtime.link.settings import EngineSettings

lifeline = Lifeline()
settings = lifeline.settings(EngineSettings)
print("a library that prints to stdout")
lifeline.loading(0.25)
lifeline.loading(0.75)
{then}
"""


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """Makes a module out of WORKER and says its name."""

    def make(then: str) -> str:
        (tmp_path / "lw_test_worker.py").write_text(WORKER.format(then=textwrap.dedent(then)))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return "lw_test_worker"

    return make


def gone(pid: int, seconds: float = 5.0) -> bool:
    """Whether the process ends (or is a zombie of somebody's) within `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_progress_and_readiness_are_reported(worker: Worker, capfd: pytest.CaptureFixture[str]) -> None:
    heard: list[float] = []
    process = child.spawn(worker("lifeline.ready(); time.sleep(60)"), SETTINGS)
    child.await_ready(process, heard.append)
    child.stop(process)
    assert heard == [0.25, 0.75]
    assert process.returncode == 0
    assert "a library that prints" in capfd.readouterr().err


def test_the_childs_own_error_is_raised_in_the_parent(worker: Worker) -> None:
    process = child.spawn(worker("lifeline.failed(ModelNotFound('no such model', hint='fetch it'))"), SETTINGS)
    with pytest.raises(ModelNotFound, match="no such model") as caught:
        child.await_ready(process)
    assert caught.value.hint == "fetch it"


def test_a_child_that_just_ends_is_an_error(worker: Worker) -> None:
    process = child.spawn(worker("sys.exit(3)"), SETTINGS)
    with pytest.raises(EngineDied, match="exit code 3"):
        child.await_ready(process)
    child.stop(process)


def test_a_child_that_ignores_its_lifeline_is_killed(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "GRACE_SECONDS", 0.2)
    process = child.spawn(
        worker("lifeline._before_exit.append(lambda: time.sleep(60)); lifeline.ready()\ntime.sleep(60)"), SETTINGS
    )
    child.await_ready(process)
    child.stop(process)
    assert process.returncode == -signal.SIGKILL


def test_a_child_ends_when_its_parent_is_killed(worker: Worker) -> None:
    name = worker("lifeline.ready(); time.sleep(60)")
    script = textwrap.dedent(f"""
        import time
        from latticework.runtime.config import EngineConfig
        from latticework.runtime.link import child
        from latticework.runtime.link.settings import EngineSettings
        process = child.spawn({name!r}, EngineSettings(EngineConfig(), ""))
        child.await_ready(process)
        print(process.pid, flush=True)
        time.sleep(60)
    """)
    path = os.pathsep.join([os.environ["PYTHONPATH"], str(Path(__file__).parents[3])])
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    assert gone(pid)
