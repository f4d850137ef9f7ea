"""The tool that tunes kernels, with made-up times: what it tries runs, and what it writes is the table."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from latticework.kernels import tune, tuned


def test_writing_the_same_table_changes_nothing() -> None:
    source = tune.TABLE_FILE.read_text()
    assert tune.rewritten(source, tuned.TABLE, tuned.MEASURED_ON) == source


def test_another_table_is_what_the_source_then_says() -> None:
    table = {"paged_decode": {(90, 16, 64): {"BLOCK": 32, "num_warps": 4, "num_stages": 2}}}
    source = tune.rewritten(tune.TABLE_FILE.read_text(), table, {90: "a device"})
    assert '    "paged_decode": {\n        (90, 16, 64): {"BLOCK": 32, "num_warps": 4, "num_stages": 2},\n' in source
    assert "MEASURED_ON: dict[int, str] = {90: 'a device'}" in source
    assert "paged_extend" not in source


def test_the_fastest_candidates_are_found_and_the_table_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "WARPS", (4,))
    monkeypatch.setattr(tune, "STAGES", (2,))
    before = {kernel: dict(rows) for kernel, rows in tuned.TABLE.items()}
    calls = 0

    def timer(run: Callable[[], object]) -> float:
        nonlocal calls
        calls += 1
        if calls == 1:
            run()  # the interpreter is too slow for more
        return 1000.0 - calls  # the last is the fastest

    lines: list[str] = []
    best = tune.tune(torch.device("cpu"), timer, lines.append, 64)
    assert before == tuned.TABLE
    assert len(lines) == calls
    assert set(best) == set(before)
    for kernel, rows in best.items():
        for (architecture, bits, _), options in rows.items():
            assert architecture == 90, "the interpreter stands in for it"
            assert options == list(tune.candidates(kernel, bits))[-1]


@pytest.mark.parametrize("kernel", tuned.TABLE)
def test_every_width_and_architecture_has_options(kernel: str) -> None:
    for capability in (80, 86, 89, 90, 100, 120):
        for bits in (16, 32):
            for width in (8, 64) if "matmul" in kernel else (8, 64, 80, 128, 256):
                assert tuned.tuned(kernel, capability, bits, width)["num_warps"] in (4, 8)
    with pytest.raises(ValueError, match=f"{kernel}: no program for 16-bit numbers of width 8 on sm_75"):
        tuned.tuned(kernel, 75, 16, 8)
