"""The part about a whole model: decode by batch, a long prompt, constrained steps, where a step's time goes.

What goals are about comes first, so that a run that is short of time has it; the profiler comes last, as it slows down
what is around it.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from functools import partial

from benchmarks.gpu.deadline import Deadline, attempt
from benchmarks.gpu.device import Device
from benchmarks.gpu.rows import Constrained, Decode, Prefill, RowFile, StepParts
from benchmarks.gpu.served import Lengths, Served, Turn
from benchmarks.gpu.shapes import Shape
from benchmarks.gpu.timeline import device_parts

OURS = "latticework"
FULL = Lengths(batches=(1, 64, 8, 256), prompt=512, most=256, warm=16, long=8192)
TINY = Lengths(batches=(1, 2), prompt=20, most=60, warm=3, long=40)
ROUNDS, STEPS = 3, 16
TINY_ROUNDS, TINY_STEPS = 2, 2
SECONDS = 8.0  # what one measurement takes at most, its prompts included
USABLE = 0.85  # of the device's memory


def measure_model(shape: Shape, device: Device, rows: RowFile, deadline: Deadline) -> None:
    """Loading first; if it fails, so has the part."""
    lengths = fitting(shape, device, rows)
    if not lengths.batches:
        return
    model = Model(shape, Served(shape, lengths, device), device, rows)
    first, common = lengths.batches[0], lengths.batches[min(1, len(lengths.batches) - 1)]
    works = {
        **{f"decode at batch {batch}": partial(model.decode, batch) for batch in lengths.batches[:2]},
        f"a prompt of {lengths.long} tokens": partial(model.prefill, lengths.long),
        f"constrained and free steps at batch {common}": partial(model.constrained, common),
        **{f"decode at batch {batch}": partial(model.decode, batch) for batch in lengths.batches[2:]},
        **{f"where a step goes at batch {batch}": partial(model.parts, batch) for batch in (common, first)},
    }
    for what, run in works.items():
        attempt(f"{shape.name}: {what}", SECONDS, deadline, rows, run)


def fitting(shape: Shape, device: Device, rows: RowFile) -> Lengths:
    """Without batches whose keys and values do not fit beside the weights, which are left out by name."""
    machine = device.machine()
    if machine.interpreted:
        return TINY
    room = USABLE * machine.memory - 2 * (shape.step_weights + shape.hidden * shape.vocabulary)
    most = int(room / shape.kv_bytes / (FULL.prompt + FULL.most + 64))
    for batch in FULL.batches:
        if batch > most:
            why = f"the device holds the keys and values of {max(0, most)} sequences beside the weights"
            rows.leave_out(f"{shape.name}: decode at batch {batch}", why)
    return replace(FULL, batches=tuple(batch for batch in FULL.batches if batch <= most))


class Model:
    """One engine's measurements."""

    def __init__(self, shape: Shape, served: Served, device: Device, rows: RowFile) -> None:
        self._shape = shape
        self._served = served
        self._rows = rows
        tiny = device.machine().interpreted
        self._rounds, self._steps = (TINY_ROUNDS, TINY_STEPS) if tiny else (ROUNDS, STEPS)
        self._on_cuda = not tiny

    def decode(self, batch: int) -> None:
        turns = self._turns(batch, self._rounds)
        context = turns[len(turns) // 2].context
        self._rows.write(
            Decode(
                system=OURS,
                model=self._shape.name,
                batch=batch,
                context=context,
                tokens_per_second=statistics.median(turn.tokens / turn.seconds for turn in turns),
                rounds=[turn.tokens / turn.seconds for turn in turns],
                bytes=self._shape.step_bytes(batch, context),
                flops=self._shape.step_flops(batch, context),
            )
        )

    def prefill(self, tokens: int) -> None:
        self._served.prompt()  # compiles
        seconds = statistics.median(self._served.prompt() for _ in range(self._rounds))
        flops = self._shape.prompt_flops(tokens)
        self._rows.write(Prefill(system=OURS, model=self._shape.name, tokens=tokens, seconds=seconds, flops=flops))

    def constrained(self, batch: int) -> None:
        """The two kinds take turns."""
        found: dict[bool, list[Turn]] = {False: [], True: []}
        for _ in range(max(2, self._rounds - 1)):
            for kind, turns in found.items():
                turns += self._turns(batch, 2, kind)
        free, constrained = (
            statistics.median(turn.seconds / turn.steps for turn in found[kind]) for kind in (False, True)
        )
        by_host = sum(turn.by_host for turn in found[True])
        row = Constrained(model=self._shape.name, batch=batch, free=free, constrained=constrained, by_host=by_host)
        self._rows.write(row)

    def parts(self, batch: int) -> None:
        """Without the profiler for the step, then with it for what the device does in one."""
        try:
            self._served.begin(batch)
            before = dict(self._served.engine.profile.seconds)
            turns = [self._served.steps(self._steps) for _ in range(self._rounds)]
            after = self._served.engine.profile.seconds
            steps = sum(turn.steps for turn in turns)
            step = statistics.median(turn.seconds / turn.steps for turn in turns)
            found = device_parts(lambda: self._served.steps(self._steps), self._on_cuda)
            kernels = {kind: seconds / self._steps for kind, seconds in found.kernels.items()}
            between = found.between / self._steps
            self._rows.write(
                StepParts(
                    model=self._shape.name,
                    batch=batch,
                    step=step,
                    kernels=kernels,
                    between=between,
                    host=max(0.0, step - sum(kernels.values()) - between),
                    python={name: (after[name] - before[name]) / steps for name in after},
                )
            )
        finally:
            self._served.end()

    def _turns(self, batch: int, rounds: int, constrained: bool = False) -> list[Turn]:
        try:
            self._served.begin(batch, constrained)
            return [self._served.steps(self._steps) for _ in range(rounds)]
        finally:
            self._served.end()
