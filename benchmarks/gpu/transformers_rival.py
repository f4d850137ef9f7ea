"""transformers' continuous batching on the same shapes: same batches, prompts and dtype, in the same environment.

Rates are of its own time stamps, while every request draws: from the last first token to the first last one. Its
attention is torch's SDPA, or flash attention if the environment has it; graphs and batch sizes are its own choice.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.deadline import Deadline, attempt
from benchmarks.gpu.device import Device
from benchmarks.gpu.models import FULL, TINY, fitting
from benchmarks.gpu.rows import Decode, Prefill, RowFile
from benchmarks.gpu.shapes import Shape

SYSTEM = "transformers"
SECONDS = 15.0  # what one measurement takes at most
DRAWN = 160  # tokens of a request: more than all prompts take steps
TINY_DRAWN = 6


def measure_transformers(shape: Shape, device: Device, rows: RowFile, deadline: Deadline) -> None:
    """Loading first; if it fails, so has the part."""
    from transformers import AutoConfig, AutoModelForCausalLM

    lengths = fitting(shape, device, rows)
    tiny = device.machine().interpreted
    fields = {name: value for name, value in shape.config.items() if name not in ("architectures", "model_type")}
    config = AutoConfig.for_model(shape.family, **fields)
    with torch.device(device.torch_device):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    rival = Transformers(shape, model.eval(), rows, TINY_DRAWN if tiny else DRAWN, tiny)
    for batch in lengths.batches:
        what = f"{shape.name} in transformers: decode at batch {batch}"
        attempt(what, SECONDS, deadline, rows, partial(rival.decode, batch, (TINY if tiny else FULL).prompt))
    what = f"{shape.name} in transformers: a prompt of {lengths.long} tokens"
    attempt(what, SECONDS, deadline, rows, partial(rival.prefill, lengths.long))


class Transformers:
    """Owner of the model."""

    def __init__(self, shape: Shape, model: Any, rows: RowFile, drawn: int, tiny: bool) -> None:
        self._shape = shape
        self._model = model
        self._rows = rows
        self._drawn = drawn
        self._tiny = tiny
        self._random = random.Random(1)

    def decode(self, batch: int, prompt: int) -> None:
        stamps = [answer.timestamps for answer in self._run(batch, prompt, self._drawn)]
        context = prompt + self._drawn // 2
        self._rows.write(
            Decode(
                system=SYSTEM,
                model=self._shape.name,
                batch=batch,
                context=context,
                tokens_per_second=together(stamps),
                rounds=[],
                bytes=self._shape.step_bytes(batch, context),
                flops=self._shape.step_flops(batch, context),
            )
        )

    def prefill(self, tokens: int) -> None:
        """The first one warms up."""
        found = []
        for _ in range(1 if self._tiny else 3):
            answer = self._run(1, tokens, 1)[0]
            found.append(answer.timestamps[0] - answer.created_time)
        seconds = statistics.median(found[1:] or found)
        self._rows.write(
            Prefill(
                system=SYSTEM,
                model=self._shape.name,
                tokens=tokens,
                seconds=seconds,
                flops=self._shape.prompt_flops(tokens),
            )
        )

    def _run(self, batch: int, prompt: int, drawn: int) -> list[Any]:
        """Answers to so many random prompts. Raises RuntimeError if one failed or was cut short."""
        from transformers import ContinuousBatchingConfig, GenerationConfig

        prompts = [[self._random.randrange(self._shape.vocabulary) for _ in range(prompt)] for _ in range(batch)]
        sizes: dict[str, Any] = {"num_blocks": 8, "max_batch_tokens": 64} if self._tiny else {}
        answers = list(
            self._model.generate_batch(
                inputs=prompts,
                generation_config=GenerationConfig(max_new_tokens=drawn, do_sample=False, eos_token_id=-1),
                continuous_batching_config=ContinuousBatchingConfig(allow_block_sharing=False, **sizes),
                record_timestamps=True,
                progress_bar=False,
            ).values()
        )
        lengths = [len(answer.generated_tokens) for answer in answers]
        if lengths != [drawn] * batch:
            errors = {str(answer.error) for answer in answers}
            raise RuntimeError(f"{batch} requests of {drawn} tokens were answered by {lengths}: {errors}")
        return answers


def together(stamps: Sequence[Sequence[float]]) -> float:
    """Tokens a second while all draw. stamps: when each token of each request came, in seconds. Raises RuntimeError
    where they never all did."""
    begin, end = max(times[0] for times in stamps), min(times[-1] for times in stamps)
    count = sum(begin < moment <= end for times in stamps for moment in times)
    if end <= begin or not count:
        raise RuntimeError(f"{len(stamps)} requests never drew at the same time")
    return count / (end - begin)
