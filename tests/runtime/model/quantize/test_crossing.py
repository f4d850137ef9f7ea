from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from latticework.runtime.model.quantize.base import Kind
from latticework.runtime.model.quantize.by_rows import FEW_ROWS, ByRows
from latticework.runtime.model.quantize.crossing import Crossings, crossing


class Clock:
    """Time that passes only where something is multiplied."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed:
    """A form that takes a fixed time, and more for every row."""

    pads = False

    def __init__(self, kind: Kind, clock: Clock, fixed: float, each: float) -> None:
        self.kind: Kind = kind
        self.pads = False
        self._clock, self._fixed, self._each = clock, fixed, each
        self.calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        self._clock.now += self._fixed + self._each * len(x)
        return x


def pair(clock: Clock, few: tuple[float, float], many: tuple[float, float]) -> ByRows:
    return ByRows(Timed("int4", clock, *few), Timed("int8", clock, *many))


@pytest.mark.parametrize(
    ("few", "many", "limit"),
    [
        ((1e-6, 1e-6), (8e-6, 1e-7), 6),  # 7.8 rows
        ((1e-6, 1e-6), (1e-6, 1e-7), 0),
        ((1e-6, 1e-7), (8e-6, 1e-6), 128),
    ],
)
def test_the_limit_is_where_the_second_form_gets_faster(
    few: tuple[float, float], many: tuple[float, float], limit: int
) -> None:
    clock = Clock()
    assert crossing([pair(clock, few, many)] * 3, 4, torch.float32, clock) == limit


def test_slow_weights_are_not_measured_for_ever() -> None:
    clock = Clock()
    weight = pair(clock, (0.5, 0.0), (1.0, 0.0))
    assert crossing([weight], 4, torch.float32, clock) == 16  # one rung, in the middle
    assert weight.few.calls < 10  # type: ignore[attr-defined]


def test_a_shape_is_measured_once_and_remembered(tmp_path: Path) -> None:
    clock = Clock()
    for expected_calls in (True, False):
        weights = [pair(clock, (1e-6, 1e-6), (8e-6, 1e-7)) for _ in range(2)]
        Crossings(tmp_path, clock=clock).choose(weights, 4, 8, torch.float32)
        assert [weight.limit for weight in weights] == [6, 6]
        assert bool(weights[0].few.calls) is expected_calls  # type: ignore[attr-defined]
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text())["limits"] == {"8x4 torch.float32 int4 int8": 6}


@pytest.mark.parametrize(
    "text", ["", "{", '{"machine": "x", "limits": {"a": "b"}}', '{"machine": "another", "limits": {}}']
)
def test_a_damaged_table_is_measured_anew(tmp_path: Path, text: str) -> None:
    clock = Clock()
    Crossings(tmp_path, clock=clock).choose([pair(clock, (1e-6, 1e-6), (8e-6, 1e-7))], 4, 8, torch.float32)
    (path,) = tmp_path.iterdir()
    path.write_text(text)
    weight = pair(clock, (1e-6, 1e-6), (8e-6, 1e-7))
    Crossings(tmp_path, clock=clock).choose([weight], 4, 8, torch.float32)
    assert weight.few.calls  # type: ignore[attr-defined]
    assert weight.limit == 6
    assert json.loads(path.read_text())["limits"]


def test_where_nothing_can_be_kept_the_limit_is_the_same_at_every_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    clock = Clock()
    for many in ((8e-6, 1e-7), (1e-9, 1e-9)):
        weight = pair(clock, (1e-6, 1e-6), many)
        with caplog.at_level(logging.WARNING):
            Crossings(tmp_path / "file", clock=clock).choose([weight], 4, 8, torch.float32)
        assert weight.limit == FEW_ROWS
    assert "is not measured" in caplog.text
