"""The benchmarks for a GPU, as far as they can be tested without one: what they conclude, and that they run at all."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("triton")

import torch
import triton
import triton.language as tl

from benchmarks.gpu import __main__ as command
from benchmarks.gpu.deadline import Deadline, attempt
from benchmarks.gpu.device import InterpretedDevice
from benchmarks.gpu.estimates import resident_warps
from benchmarks.gpu.goals import Goal, Subjects, goals
from benchmarks.gpu.kernels import check
from benchmarks.gpu.launches import META, launches_of
from benchmarks.gpu.report import NOT_MEASURED, as_document, lines
from benchmarks.gpu.row_works import gate
from benchmarks.gpu.rows import (
    AnyRow,
    Check,
    Constrained,
    Decode,
    Failed,
    KernelTime,
    LeftOut,
    Limits,
    Machine,
    Prefill,
    RowFile,
    StepParts,
    read_rows,
)
from benchmarks.gpu.shapes import LLAMA_8B, QWEN3_06B, TINY_LLAMA
from benchmarks.gpu.timeline import Span, kind_of, split
from benchmarks.gpu.transformers_rival import together
from benchmarks.gpu.work import Case, Work

ABOUT = Subjects("big", "64 x 8192", "256 share 16384", 1, 64)
LIMITS = Limits(copy=1e12, matmul=1e14)
ROWS: list[AnyRow] = [
    Machine(name="a card", interpreted=False, memory=1 << 36, capability=90, packages={"torch": "2"}),
    LIMITS,
    KernelTime(
        kernel="paged_decode", shape="64 x 8192", seconds=2e-3, bytes=1_800_000_000, flops=1, rivals={}, launched=False
    ),
    KernelTime(
        kernel="cascade_decode",
        shape="256 share 16384",
        seconds=1e-3,
        bytes=1,
        flops=50_000_000_000,
        rivals={"without cascade": 4e-3},
        launched=True,
    ),
    *(
        Decode(
            system=system,
            model="big",
            batch=batch,
            context=544,
            tokens_per_second=rate,
            rounds=[rate],
            bytes=16_000_000_000,
            flops=1,
        )
        for system, batch, rate in (("transformers", 1, 20.0), ("latticework", 1, 50.0), ("latticework", 64, 2000.0))
    ),
    Prefill(system="latticework", model="big", tokens=8192, seconds=2.0, flops=130 * 10**12),
    Constrained(model="big", batch=64, free=0.010, constrained=0.0101, by_host=0),
    StepParts(model="big", batch=64, step=0.01, kernels={"attention": 0.009}, between=0.0005, host=0.0005, python={}),
]


def found(rows: Sequence[AnyRow]) -> dict[str, Goal]:
    return {goal.name: goal for goal in goals(rows, ABOUT)}


def test_every_figure_that_is_asked_for_is_computed() -> None:
    figures = {name: (goal.found, goal.is_met) for name, goal in found(ROWS).items()}
    assert figures == {
        "decode attention, 64 x 8192: share of the measured copy bandwidth": (pytest.approx(0.9), True),
        "attention, 256 share 16384: times as fast with cascade": (pytest.approx(4.0), False),
        "big, decode at batch 1: share of the bandwidth floor": (pytest.approx(0.8), False),
        "big, decode at batch 64: share of the bandwidth floor": (pytest.approx(0.5), False),
        "big, prefill: share of the measured matmul rate": (pytest.approx(0.65), True),
        "big, batch 64: constrained step over free step": (pytest.approx(1.01), True),
        "big, batch 64: host gap of a step": (pytest.approx(0.05), False),
    }


def test_what_was_not_measured_is_said_to_be() -> None:
    for rows in ROWS[:0], ROWS[:1], ROWS[1:2]:
        for goal in found(rows).values():
            assert (goal.found, goal.is_met) == (None, None)
            assert "not measured" in str(goal)
    assert len(found([])) == len(found(ROWS))


def test_the_interpreters_times_meet_no_goal_and_are_called_what_they_are() -> None:
    machine = Machine(name="Triton's interpreter", interpreted=True, memory=0, capability=90, packages={})
    rows = [machine, *ROWS[1:]]
    assert all(goal.is_met is None for goal in goals(rows, ABOUT))
    table = list(lines(rows, goals(rows, ABOUT)))
    assert NOT_MEASURED in table[0]
    assert NOT_MEASURED in table[-1]
    assert not any("NOT MET" in line or line.endswith(" met") for line in table)


def test_the_table_names_what_is_wrong_failed_or_left_out() -> None:
    wrong = Check(kernel="gated", shape="3 rows", dtype="bfloat16", error=None, tolerance=8e-3)
    right = Check(kernel="gated", shape="4 rows", dtype="bfloat16", error=8e-3, tolerance=8e-3)
    rows = [*ROWS, wrong, right, LeftOut(part="qwen", what="all", why="time"), Failed(part="a", what="b", error="c")]
    table = "\n".join(lines(rows, []))
    assert "1 of 2 results" in table
    assert "WRONG: gated, 3 rows, bfloat16: error None" in table
    assert "left out: all (qwen): time" in table
    assert "FAILED: b (a): c" in table
    assert "cascade_decode   256 share 16384" in table
    assert "50%" in table, "of the matmul rate, which is that kernel's limit"
    document = as_document(rows, goals(rows, ABOUT), {"seed": 1})
    assert document["KernelTime"][0]["share_of_limit"] == pytest.approx(0.9)
    assert json.loads(json.dumps(document))["Failed"] == [{"part": "a", "what": "b", "error": "c"}]


def test_rows_of_a_process_that_was_killed_while_it_wrote_are_read(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows", "kernels")
    file.write(LIMITS)
    file.fail("a case", ValueError("no"))
    with (tmp_path / "rows").open("ab") as half:
        half.write(b'{"type":"Limits","copy":1')
    assert read_rows(tmp_path / "rows") == [LIMITS, Failed(part="kernels", what="a case", error="ValueError: no")]


def test_a_measurement_that_does_not_fit_is_left_out_by_name_and_one_that_raises_is_noted(tmp_path: Path) -> None:
    rows = RowFile(tmp_path / "rows", "kernels")
    ran: list[int] = []
    attempt("the first", 5.0, Deadline(4.0), rows, lambda: ran.append(1))
    attempt("the second", 5.0, Deadline(100.0), rows, lambda: ran.append(1 // 0))
    attempt("the third", 5.0, Deadline(100.0), rows, lambda: ran.append(3))
    left_out, failed = read_rows(tmp_path / "rows")
    assert isinstance(left_out, LeftOut)
    assert (left_out.what, ran) == ("the first", [3])
    assert isinstance(failed, Failed)
    assert failed.what == "the second"


def test_a_part_without_time_is_not_begun_and_says_so() -> None:
    (rows,) = command.run([command.Part("kernels", 100.0)], 20.0, dry=True, seed=1)
    assert [(row.part, row.what) for row in rows if isinstance(row, LeftOut)] == [("kernels", "all of it")]


def test_a_part_that_takes_too_long_is_ended_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "GRACE", 0.01)
    command.run_part("kernels", tmp_path / "rows", 0.01, dry=True, seed=1)
    last = read_rows(tmp_path / "rows")[-1]
    assert isinstance(last, LeftOut)
    assert last.what == "what follows the last row"


def test_what_there_is_is_written_after_every_part_and_no_part_follows_one_that_finds_no_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "found.json"
    written: list[int] = []

    def run(*_: object) -> Iterator[list[AnyRow]]:
        yield ROWS
        written.append(len(json.loads(path.read_text())["Decode"]))
        yield [Failed(part="llama", what="all", error="no device")]
        written.append(-1)

    monkeypatch.setattr(command, "run", run)
    monkeypatch.setattr(command.sys, "argv", ["gpu", "--json", str(path)])
    assert command.main() == 1
    assert written == [3]
    assert json.loads(path.read_text())["Failed"][0]["error"] == "no device"
    assert "FAILED: all (llama): no device" in capsys.readouterr().out


def test_parts_and_their_grace_fit_into_nine_minutes() -> None:
    assert command.MINUTES < 9
    shares = sum(part.seconds + command.GRACE for part in command.PARTS)
    assert shares - command.PARTS[0].seconds * (1 - command.NEEDED) < 60 * command.MINUTES


def test_gaps_belong_to_the_host_only_before_another_launch() -> None:
    spans = [
        Span("split_kernel", 0.0, 1.0, 7),
        Span("nvjet_gemm", 1.5, 2.0, 7),  # the same graph: the device's own gap
        Span("Memcpy DtoH", 1.8, 2.2, 8),  # beside the one before for a while
        Span("norm_kernel", 3.2, 3.4, 9),
        Span("something", 3.400001, 3.5, 10),
    ]
    parts = split(spans)
    assert parts.kernels == pytest.approx(
        {"attention": 1.0, "matrix products": 0.5, "copies": 0.2, "norms": 0.2, "other": 0.099999}
    )
    assert parts.between == pytest.approx(0.500001)
    assert parts.host == pytest.approx(1.0)
    assert kind_of("sm90_xmma_gemm_bf16") == "matrix products"


def test_a_rivals_rate_is_of_the_time_in_which_all_draw() -> None:
    assert together([[0.0, 1.0, 2.0, 3.0, 4.0], [1.5, 2.5, 3.5]]) == pytest.approx(4 / 2.0)
    with pytest.raises(RuntimeError, match="2 requests never drew at the same time"):
        together([[0.0, 1.0], [2.0, 3.0]])


def test_shapes_have_the_published_sizes() -> None:
    for shape, parameters in ((LLAMA_8B, 8_030_261_248), (QWEN3_06B, 596_049_920)):
        embedding = 0 if shape.tied else shape.vocabulary * shape.hidden
        norms = shape.hidden * (2 * shape.layers + 1) + (2 * shape.head_dim * shape.layers if shape.normed else 0)
        assert shape.step_weights + embedding + norms == parameters
    assert LLAMA_8B.kv_bytes == 131072
    assert LLAMA_8B.step_bytes(64, 8192) - LLAMA_8B.step_bytes(0, 8192) == 64 * 8192 * 131072
    seen = sum(4 * 32 * 32 * 128 * token for token in range(1, 101))
    assert LLAMA_8B.prompt_flops(100) == 2 * (100 * 32 * LLAMA_8B.layer_weights + 4096 * 128256) + seen


def test_a_kernel_that_is_wrong_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATTICEWORK_KERNELS", "torch")  # twins on a CPU: what is tested is how they are compared

    def broken(change: float) -> Case:
        def make(device: torch.device, dtype: torch.dtype) -> Work:
            work = gate(TINY_LLAMA, 3)(device, dtype)

            def run() -> tuple[torch.Tensor, ...]:
                out = work.run()[0].clone()
                out[1, 5] += change
                return (out,)

            return replace(work, run=run)

        return Case("gated", "3 rows", make)

    rows = RowFile(tmp_path / "rows", "kernels")
    for change in (0.0, 1.0, float("nan")):
        check(broken(change), torch.bfloat16, InterpretedDevice(), rows)
    kernels = [row for row in read_rows(tmp_path / "rows") if isinstance(row, Check) and row.kernel == "gated"]
    assert [row.is_right for row in kernels] == [True, False, False]


def test_launches_are_read_without_a_device() -> None:
    work = gate(LLAMA_8B, 64)(META, torch.bfloat16)
    for capability in (80, 90):
        (launch,) = launches_of(work.run, capability)
        assert launch.kernel.__name__ == "gate_kernel"
        assert launch.arguments["x"] == "*bf16:16"
        assert launch.options["SILU"] is True


@triton.jit(do_not_specialize=["changing"])
def some_kernel(x: tl.tensor, size: tl.tensor, one: tl.tensor, changing: tl.tensor, BLOCK: tl.constexpr) -> None:
    tl.store(x + size * one + changing + tl.arange(0, BLOCK), 0)


def test_numbers_are_read_as_triton_reads_them() -> None:
    x = torch.empty(8, dtype=torch.int64, device=META)
    for changing in (1, 16):
        (launch,) = launches_of(partial(some_kernel[(1,)], x, 48, 1, changing, BLOCK=16), 90)
        assert launch.arguments == {"x": "*i64:16", "size": "i32:16", "changing": "i32"}
        assert launch.options == {"one": 1, "BLOCK": 16}
    before = launch.key
    (launch,) = launches_of(lambda: some_kernel[(1,)](x, 7, 2**40, 3, BLOCK=16, num_warps=2), 90)
    assert launch.arguments == {"x": "*i64:16", "size": "i32", "one": "i64:16", "changing": "i32"}
    assert launch.key != before


def test_a_multiprocessor_holds_as_many_warps_as_registers_and_memory_let_it() -> None:
    assert resident_warps(32, 0, 4, 90) == 64
    assert resident_warps(255, 0, 8, 90) == 8
    assert resident_warps(32, 100_000, 8, 90) == 16
    assert resident_warps(16, 0, 1, 90) == 32


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_dry_run_measures_everything_and_fails_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    began = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--dry-run", "--json", str(path), "--seed", "1"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=560,
    )
    assert run.returncode == 0, f"{time.monotonic() - began:.0f} s\n{run.stdout}{run.stderr}"
    document = json.loads(path.read_text())
    assert document["machine"]["interpreted"] is True
    assert (document["Failed"], document["LeftOut"]) == ([], [])
    assert all(goal["found"] is not None and goal["met"] is None for goal in document["goals"])
    assert [row["by_host"] for row in document["Constrained"]] == [0, 0]
    assert {row["system"] for row in document["Decode"]} == {"latticework", "transformers"}
    assert {row["kernel"] for row in document["KernelTime"]} <= {row["kernel"] for row in document["Check"]}
    assert NOT_MEASURED in run.stdout
