"""The server that hostile constraints are sent to: its processes and their memory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Server:
    url: str
    link: str
    pid: int

    def memory(self) -> dict[str, float]:
        """MiB resident, by kind of process."""
        return {kind: sum(map(resident, pids)) / (1 << 20) for kind, pids in self._processes().items()}

    def processor(self) -> dict[str, float]:
        """Seconds of the processor used so far, by kind of process; of those that live, and of the caller."""
        found = {kind: sum(map(used, pids)) for kind, pids in self._processes().items()}
        return found | {"senders": time.process_time()}

    def _processes(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {"front": [self.pid], "engine": [], "compilers": []}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and parent_of(entry) == self.pid:
                command = _read(entry / "cmdline")
                found["engine" if "engine_worker" in command else "compilers"].append(int(entry.name))
        return found


def parent_of(process: Path) -> int:
    """0: it has ended."""
    stat = _read(process / "stat")
    return int(stat.rpartition(")")[2].split()[1]) if stat else 0


def resident(pid: int) -> int:
    """Bytes of memory of a process; 0 if it has ended."""
    fields = _read(Path(f"/proc/{pid}/statm")).split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if fields else 0


def used(pid: int) -> float:
    """Seconds of the processor that a process has used; 0 if it has ended."""
    fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


@contextmanager
def started(model: str, options: list[str]) -> Iterator[Server]:
    """`latticework serve` on a free port of loopback. It ends with the block."""
    command = [sys.executable, "-m", "latticework", "serve", "--port", "0", "--no-log-requests", "--model", model]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"(http://\S+) and (ipc://\S+)", line)
            if found is None:
                raise SystemExit(f"the server did not start: {line!r}")
            yield Server(found[1], found[2], process.pid)
        finally:
            process.terminate()
