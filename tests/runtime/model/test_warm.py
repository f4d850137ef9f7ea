"""The steps before the first: what they run, what they leave, and what becomes of their failures."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
import torch
from torch import Tensor

from latticework.lang.errors import ModelError, Unsupported
from latticework.runtime.attention.torch_cpu import TorchAttention
from latticework.runtime.cache.kv import allocate_kv
from latticework.runtime.config import EngineConfig
from latticework.runtime.model.decoder import Decoder
from latticework.runtime.model.load import load_model
from latticework.runtime.model.locate import find_model
from latticework.runtime.model.runner import ModelRunner
from latticework.runtime.model.tiny import SPEC
from latticework.runtime.model.warm import warm_up
from latticework.runtime.schedule.batch import Batch

CONFIG = EngineConfig(model="tiny", chunk_tokens=40, max_running=5, page_size=4)


def make_runner(pages: int) -> ModelRunner:
    model = load_model(find_model("tiny"), "float32")
    return ModelRunner(model, TorchAttention(), allocate_kv(SPEC, pages, 4, torch.float32))


@pytest.mark.parametrize(
    ("pages", "context", "longest", "sequences"), [(64, None, 40, 5), (3, None, 12, 3), (1, 64, 4, 1), (64, 30, 30, 5)]
)
def test_the_largest_steps_are_run_and_leave_no_trace(
    pages: int, context: int | None, longest: int, sequences: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, seen = make_runner(pages), list[tuple[int, int]]()
    run: Callable[[Batch], Tensor] = runner.run

    def counted(batch: Batch) -> Tensor:
        seen.append((len(batch.tokens), len(batch.lengths)))
        logits = run(batch)
        assert any(bool(tensor.any()) for tensor in runner.kv.keys)
        return logits

    monkeypatch.setattr(runner, "run", counted)
    warm_up(runner, msgspec.structs.replace(CONFIG, context=context))
    assert seen == [(1, 1), (longest, 1), (sequences, sequences)]
    assert not any(bool(tensor.any()) for tensor in (*runner.kv.keys, *runner.kv.values))


class OutOfResources(Exception):
    """As triton names its own."""


@pytest.mark.parametrize(
    ("failure", "expected", "said"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory"),
            ModelError,
            r"pool of 8 KV pages fits, but no step of 40 tokens",
        ),
        (OutOfResources("out of resource: shared memory"), Unsupported, "a kernel does not run on this device.*shared"),
        (RuntimeError("another"), RuntimeError, "^another$"),
        (KeyError("bug"), KeyError, "bug"),
    ],
)
def test_failures_are_those_of_loading(
    failure: Exception, expected: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = make_runner(8)

    def fail(batch: Batch) -> Tensor:
        raise failure

    monkeypatch.setattr(runner, "run", fail)
    with pytest.raises(expected, match=said):
        warm_up(runner, CONFIG)


def test_no_position_is_beyond_those_the_model_has(monkeypatch: pytest.MonkeyPatch) -> None:
    runner, seen = make_runner(64), list[int]()
    model = runner.model
    assert isinstance(model, Decoder)
    monkeypatch.setattr(model, "spec", msgspec.structs.replace(SPEC, max_position_embeddings=25))
    monkeypatch.setattr(runner, "run", lambda batch: seen.append(int(batch.positions.max())))
    warm_up(runner, CONFIG)
    assert max(seen) == 24
