"""One engine in this process, with random weights of one shape, driven step by step and timed by the wall clock.

A turn begins and ends with the device idle, so what is counted is all of a step: the host's work, where it is not
hidden behind the device's, too.
"""

from __future__ import annotations

import itertools
import json
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.gpu.device import Device
from benchmarks.gpu.shapes import Shape
from latticework.lang.ir import Regex, Sampling
from latticework.runtime.config import EngineConfig
from latticework.runtime.constrain.compile import to_rules
from latticework.runtime.constrain.rules import encode_rules
from latticework.runtime.engine import Engine
from latticework.runtime.request import GenSegment, Request, TextSegment

OWNER, RECORDS = "bench", "records"
PATTERN = r'(\{"name":"[a-z ]{1,24}","age":[0-9]{1,3},"city":"[a-z ]{1,24}"\}\n)*'  # goes on as long as it is let


@dataclass(frozen=True)
class Lengths:
    """prompt: tokens of each sequence that decodes; most: what it may draw; warm: what it has drawn before it is timed,
    by when tables of constraints are on the device. long: tokens of the prompt that is timed alone."""

    batches: tuple[int, ...]
    prompt: int
    most: int
    warm: int
    long: int


@dataclass(frozen=True)
class Turn:
    """Some steps. context: tokens of a sequence, on average. by_host: tokens that were not drawn on the device."""

    seconds: float
    steps: int
    tokens: int
    context: int
    by_host: int


class Served:
    """Owner of the engine. One kind of work at a time: `begin`, `steps` as often as one likes, `end`."""

    def __init__(self, shape: Shape, lengths: Lengths, device: Device) -> None:
        self._shape = shape
        self._lengths = lengths
        self._device = device
        self._random = random.Random(1)
        self._ids = itertools.count()
        self._drawn: dict[int, int] = {}  # tokens of each open request
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(shape.config), encoding="utf-8")
            self.engine = Engine.load(msgspec.convert(self._settings(folder), EngineConfig))
        self.engine.define(OWNER, RECORDS, encode_rules(to_rules(Regex(PATTERN))))

    def begin(self, batch: int, constrained: bool = False) -> None:
        """Submits so many requests and steps until each has drawn some tokens: prompts are done, kernels compiled."""
        for number in range(batch):
            sampling = Sampling(max_tokens=self._lengths.most, temperature=0.0, seed=number, ignore_eos=True)
            segment = GenSegment(sampling, RECORDS if constrained else None)
            self._submit(self._request(self._lengths.prompt, segment))
        while min(self._drawn.values()) < self._lengths.warm:
            self._step()

    def steps(self, count: int) -> Turn:
        """So many steps of what was begun. Raises RuntimeError if a request ends meanwhile."""
        context = self._lengths.prompt + sum(self._drawn.values()) // len(self._drawn) + count // 2
        before = self._by_host
        self._device.wait()
        began = time.perf_counter()
        tokens = sum(self._step() for _ in range(count))
        self._device.wait()
        return Turn(time.perf_counter() - began, count, tokens, context, self._by_host - before)

    def end(self) -> None:
        """Whatever was begun is gone, even if it failed half-way."""
        self.engine.drop(OWNER)
        self._drawn.clear()
        self.engine.step()
        self.engine.define(OWNER, RECORDS, encode_rules(to_rules(Regex(PATTERN))))

    def prompt(self) -> float:
        """Seconds from the submission of a long prompt to its first token."""
        request = self._request(self._lengths.long, GenSegment(Sampling(max_tokens=1, temperature=0.0, seed=0)))
        self._device.wait()
        began = time.perf_counter()
        try:
            self._submit(request)
            while request.id in self._drawn:
                self._step(ending=True)
            self._device.wait()
            return time.perf_counter() - began
        finally:
            self.end()

    @property
    def _by_host(self) -> int:
        return sum(self.engine.stats().host_tokens.values())

    def _request(self, tokens: int, segment: GenSegment) -> Request:
        """A prompt of random bytes, and what is drawn after it."""
        text = tuple(self._random.randrange(256) for _ in range(tokens))
        return Request(next(self._ids), (TextSegment(text), segment))

    def _submit(self, request: Request) -> None:
        missing = self.engine.submit(OWNER, request)
        assert missing is None, f"{missing} is defined"
        self._drawn[request.id] = 0

    def _step(self, ending: bool = False) -> int:
        """Tokens that one step tells of. ending: requests may end."""
        count = 0
        for event in self.engine.step().get(OWNER, []):
            if event.request not in self._drawn:
                continue  # of work that has ended: its last step was still under way
            if event.error is not None or (event.final and not ending):
                raise RuntimeError(f"a request ended: {event.end}, {event.error}")
            count += len(event.tokens)
            self._drawn[event.request] += len(event.tokens)
            if event.final:
                del self._drawn[event.request]
        return count

    def _settings(self, folder: str) -> dict[str, Any]:
        """Fields of EngineConfig."""
        lengths = self._lengths
        held = max(lengths.batches) * (lengths.prompt + lengths.most + 64)
        settings: dict[str, Any] = {
            "model": folder,
            "dtype": "bfloat16",
            "attention": "triton",
            "kv_tokens": max(held, lengths.long + 64),
            "max_running": max(lengths.batches),
            "chunk_tokens": lengths.long,
            "prefix_cache": False,  # prompts are computed each time
            "drafts": "off",
            "overlap": "on",  # in the interpreter, too, so that it takes the same way
            "profile": True,
        }
        device = "cpu" if self._device.machine().interpreted else "cuda"
        return settings | {"load_format": "dummy", "device": device}
