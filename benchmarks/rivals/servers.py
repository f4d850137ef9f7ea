"""The servers, and how each is started: its documentation's best settings for a CPU, on the same cores."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx

from benchmarks.rivals import places
from benchmarks.rivals.base import Plan, Run
from benchmarks.rivals.client import rounds, warm_up
from benchmarks.rivals.libraries import preloads
from benchmarks.rivals.process import Launch, PeerError, free_port, served, tail
from benchmarks.serve import BadAnswer
from latticework.runtime.config import DEFAULT_MODEL
from latticework.runtime.model.locate import find_model

SLOTS = 16  # the workloads' concurrency
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


@dataclass(frozen=True)
class ServerPeer:
    """command, environment: of a port and the cores. needs: files without which it is not built. version: read when
    it is described."""

    name: str
    command: Callable[[int, Sequence[int]], list[str]]
    environment: Callable[[Sequence[int]], Mapping[str, str]]
    version: Callable[[], str]
    needs: tuple[Path, ...] = ()
    ready_seconds: float = 120.0
    notes: Mapping[str, str] = field(default_factory=dict)

    def workloads(self, plan: Plan) -> tuple[str, ...]:
        return plan.workloads

    def describe(self, plan: Plan) -> dict[str, str]:
        self.check_built()
        environment = " ".join(f"{name}={value}" for name, value in self.environment(plan.cores).items())
        command = " ".join(self.command(0, plan.cores))
        found = {"version": self.version(), "command": command, "environment": environment, **self.notes}
        return {name: _placeless(text) for name, text in found.items()}

    def round(self, plan: Plan, repeat: int) -> Iterator[Run]:
        self.check_built()
        port = free_port()
        log = plan.logs / f"{self.name}-{repeat}.log"
        command = self.command(port, plan.cores)
        launch = Launch(command, {**OFFLINE, **self.environment(plan.cores)}, plan.cores, log, self.ready_seconds)
        with served(launch, port) as base_url:
            try:
                warm_up(base_url, plan)
            except (BadAnswer, httpx.HTTPError, asyncio.TimeoutError) as error:
                raise PeerError(f"warming up: {type(error).__name__}: {error}", log) from None
            for run in rounds(base_url, self.name, plan, repeat):
                yield run if run.failure is None else replace(run, tail=tail(log))

    def check_built(self) -> None:
        """Raises PeerError naming what is missing."""
        missing = [str(path) for path in self.needs if not path.exists()]
        if missing:
            raise PeerError(f"it is not built: there is no {missing[0]}; make peers-setup")


def no_environment(cores: Sequence[int]) -> Mapping[str, str]:
    return {}


# ---------------------------------------------------------------- ours


def ours(name: str, arguments: Sequence[str]) -> ServerPeer:
    """`latticework serve` with more options."""

    def command(port: int, cores: Sequence[int]) -> list[str]:
        head = [sys.executable, "-m", "latticework", "serve", "--port", str(port), "--no-log-requests"]
        return [*head, *arguments]

    return ServerPeer(name, command, no_environment, lambda: "this commit")


# ---------------------------------------------------------------- vLLM


def vllm() -> ServerPeer:
    """`vllm serve` looks for a distribution of its own name, which the CPU build has not: its module does the same."""

    def command(port: int, cores: Sequence[int]) -> list[str]:
        module = "vllm.entrypoints.openai.api_server"
        head = [str(places.VLLM_PYTHON), "-m", module, "--model", str(places.HF_FOLDER)]
        where = ["--served-model-name", DEFAULT_MODEL, "--host", "127.0.0.1", "--port", str(port)]
        sizes = ["--dtype", "bfloat16", "--max-model-len", "4096", "--max-num-seqs", "32"]
        return [*head, *where, *sizes, "--enable-prefix-caching"]

    def environment(cores: Sequence[int]) -> Mapping[str, str]:
        return {
            "LD_PRELOAD": ":".join(map(str, preloads())),
            "VLLM_CPU_KVCACHE_SPACE": "4",  # GiB
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
            "VLLM_HOST_IP": "127.0.0.1",
            "VLLM_NO_USAGE_STATS": "1",
        }

    needs = (places.VLLM_DONE, places.HF_FOLDER)
    notes = {"notes": "without triton-cpu, which no package registry has: vLLM then takes its V1 model runner"}
    return ServerPeer("vllm", command, environment, _vllm_version, needs, ready_seconds=900.0, notes=notes)


def _vllm_version() -> str:
    code = "import importlib.metadata as m; print('vllm-cpu', m.version('vllm-cpu'), 'torch', m.version('torch'))"
    return _output([str(places.VLLM_PYTHON), "-c", code])


# ---------------------------------------------------------------- llama.cpp


def llamacpp() -> ServerPeer:
    return _llamacpp("llamacpp", places.BF16_GGUF)


def llamacpp_q4() -> ServerPeer:
    """Without repacked weights: with them it ends with a segmentation fault on this model where there is AMX."""
    return _llamacpp("llamacpp-q4", Path(find_model(DEFAULT_MODEL).weights), "--no-repack")


def _llamacpp(name: str, weights: Path, *more: str) -> ServerPeer:
    """A slot and a KV cache of its own for each request at a time; its unified cache was slower."""

    def command(port: int, cores: Sequence[int]) -> list[str]:
        threads = str(len(cores))
        head = [str(places.LLAMA_SERVER), "-m", str(weights), "--host", "127.0.0.1", "--port", str(port)]
        sizes = ["-t", threads, "-tb", threads, "--parallel", str(SLOTS), "-c", str(SLOTS * 2048), "--no-kv-unified"]
        return [*head, *sizes, "--jinja", "--offline", *more]

    def version() -> str:  # not what it says of itself: built inside a checkout, that names the checkout's commit
        return ", ".join(f"source of {path.name}" for path in places.LLAMACPP_SOURCE.glob("*.tar.gz"))

    return ServerPeer(name, command, no_environment, version, (places.LLAMA_SERVER, weights))


SERVERS: dict[str, Callable[[], ServerPeer]] = {"vllm": vllm, "llamacpp": llamacpp, "llamacpp-q4": llamacpp_q4}


def _placeless(text: str) -> str:
    """Without what is this machine's own: a report is read elsewhere."""
    return text.replace(sys.executable, "python").replace(f"{places.ROOT}/", "").replace(sys.prefix, ".venv")


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return " ".join((done.stdout + done.stderr).split())[:200]
