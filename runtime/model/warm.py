"""The first steps of a model on a GPU, before it serves: what would fail there fails at load.

They compile the kernels of every step, and take the memory of the largest ones, so that neither the first token waits
for a compiler nor a long prompt is what memory runs out over. This file knows batches, and no scheduler.
"""

from __future__ import annotations

from collections.abc import Iterator

from latticework.lang.errors import ModelError, Unsupported
from latticework.runtime.config import EngineConfig
from latticework.runtime.model.devices import is_out_of_memory
from latticework.runtime.model.runner import ModelRunner
from latticework.runtime.schedule.batch import Batch, Entry, build_batch


def warm_up(runner: ModelRunner, config: EngineConfig) -> None:
    """Runs a step of one token, the longest chunk of a prompt, and a decode step of as many sequences as may run, and
    leaves the KV pool as it was: all zeros.

    Raises Unsupported naming what a kernel wants of the device and does not get, ModelError where memory runs out."""
    kv = runner.kv
    try:
        for batch in _batches(kv.keys[0].shape[0], kv.page_size, runner.model.spec.max_position_embeddings, config):
            runner.run(batch)
        for tensor in (*kv.keys, *kv.values):
            tensor.zero_()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"the pool of {kv.keys[0].shape[0]} KV pages fits, but no step of {config.chunk_tokens} tokens beside it: "
            f"{error}",
            hint="a smaller memory_fraction, kv_tokens, chunk_tokens or max_running leaves room for steps",
            field="memory_fraction",
        ) from None
    except Exception as error:
        if type(error).__name__ != "OutOfResources":  # triton's, whose module is imported only where it runs
            raise
        raise Unsupported(
            f"a kernel does not run on this device: {error}",
            hint="attention='torch' computes without",
            field="attention",
        ) from None


def _batches(pages: int, page_size: int, context: int, config: EngineConfig) -> Iterator[Batch]:
    """All tokens are 0, on pages from the first on. context: as many positions the model has."""
    longest = min(config.chunk_tokens, pages * page_size, context, config.context or context)
    for tokens in sorted({1, longest}):
        own = list(range(-(-tokens // page_size)))
        yield build_batch([Entry([0] * tokens, 0, own, min(tokens, config.max_running))], page_size)
    sequences = min(config.max_running, pages)
    yield build_batch([Entry([0], 0, [page], 1) for page in range(sequences)], page_size)
