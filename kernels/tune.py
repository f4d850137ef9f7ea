"""Measures how kernels run with other options on the GPU at hand, and writes the best into tuned.py:

    python -m latticework.kernels.tune            shows the times
    python -m latticework.kernels.tune --write    and rewrites the table

Shapes are those of a Llama 8B: 32 heads over 8 KV heads, pages of 16. Candidates that the device cannot run are shown
with the reason. Whatever is written is a few lines of data, to be read and committed like any other change.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import torch
import triton
from torch import Tensor

from latticework.kernels import tuned
from latticework.kernels.choice import capability_of
from latticework.kernels.int4_matmul import Int4Weight, int4_matmul
from latticework.kernels.int8_matmul import Int8Weight, int8_matmul
from latticework.kernels.paged_decode import paged_decode
from latticework.kernels.paged_extend import paged_extend
from latticework.kernels.tuned import Options, Row

Timer = Callable[[Callable[[], object]], float]
"""Runs something a few times and says how long one run takes, in milliseconds."""

TABLE_FILE = Path(tuned.__file__)
WARPS, STAGES = (4, 8), (2, 3, 4)
BITS = {16: torch.bfloat16, 32: torch.float32}


def main() -> None:
    parser = argparse.ArgumentParser(description="find the fastest options of the kernels on this GPU")
    parser.add_argument("--write", action="store_true", help="rewrite kernels/tuned.py")
    write = parser.parse_args().write
    if not torch.cuda.is_available():
        raise SystemExit("tuning needs a CUDA device; torch sees none")
    best = tune(torch.device("cuda"), lambda run: float(triton.testing.do_bench(run)), print, 8192)
    if write:
        table = {kernel: rows | best.get(kernel, {}) for kernel, rows in tuned.TABLE.items()}
        measured = tuned.MEASURED_ON | {
            capability_of(torch.device("cuda")): f"{torch.cuda.get_device_name()}, {date.today()}"
        }
        TABLE_FILE.write_text(rewritten(TABLE_FILE.read_text(), table, measured))
        print(f"{TABLE_FILE} is written; run `make format` and read the difference")


def tune(device: torch.device, timer: Timer, say: Callable[[str], None], tokens: int) -> dict[str, dict[Row, Options]]:
    """The fastest options of every kernel and kind of numbers. tokens: how long the sequences are."""
    best: dict[str, dict[Row, Options]] = {}
    capability = capability_of(device)
    for kernel, bits, width in itertools.product(tuned.TABLE, BITS, (64, 128, 256)):
        if "matmul" in kernel:
            if width == 256:
                continue
            width = 16 if width == 64 else 64
        row = (capability, bits, width)
        run = _workload(kernel, BITS[bits], width, tokens, device)
        times: dict[int, float] = {}
        options = list(candidates(kernel, bits))
        for index, candidate in enumerate(options):
            with _forced(kernel, row, candidate):
                try:
                    times[index] = timer(run)
                except triton.runtime.errors.OutOfResources as error:
                    say(f"{kernel} {row} {candidate}: {error}")
                    continue
            say(f"{kernel} {row} {candidate}: {times[index]:.4f} ms")
        if times:
            best.setdefault(kernel, {})[row] = options[min(times, key=lambda index: times[index])]
    return best


def candidates(kernel: str, bits: int) -> Iterator[Options]:
    """Options worth a try."""
    sizes: dict[str, tuple[int, ...]]
    if kernel == "paged_decode":
        sizes = {"BLOCK": (16, 32, 64, 128)}
    elif kernel == "paged_extend":
        sizes = {"ROWS": (64, 128) if bits == 16 else (16, 32, 64), "BLOCK": (32, 64, 128) if bits == 16 else (16, 32)}
    else:
        sizes = {"ROWS": (16, 64, 128), "COLUMNS": (32, 64, 128), "DEPTH": (32, 64, 128)}
    for numbers in itertools.product(*sizes.values(), WARPS, STAGES):
        yield dict(zip((*sizes, "num_warps", "num_stages"), numbers, strict=True))


class _forced:
    """While a candidate stands in the table for one row."""

    def __init__(self, kernel: str, row: Row, options: Options) -> None:
        self._rows, self._row, self._options = tuned.TABLE[kernel], row, options

    def __enter__(self) -> None:
        self._before = self._rows.get(self._row)
        self._rows[self._row] = self._options

    def __exit__(self, *_: object) -> None:
        if self._before is None:
            del self._rows[self._row]
        else:
            self._rows[self._row] = self._before


def _workload(kernel: str, dtype: torch.dtype, width: int, tokens: int, device: torch.device) -> Callable[[], object]:
    if kernel == "int8_matmul" or kernel == "int4_matmul":
        return _product(kernel, dtype, 1 if width == 16 else 512, tokens, device)
    sequences, page = 8, 16
    pages = tokens // page
    keys, values = (torch.randn(sequences * pages, page, 8, width, device=device).to(dtype) for _ in range(2))
    table = torch.randperm(sequences * pages, device=device).view(sequences, pages).int()
    lengths = torch.full((sequences,), tokens, dtype=torch.int32, device=device)
    if kernel == "paged_decode":
        q = torch.randn(sequences, 32, width, device=device).to(dtype)
        return lambda: paged_decode(q, keys, values, table, lengths)
    q = torch.randn(tokens, 32, width, device=device).to(dtype)
    first, new, out = torch.zeros_like(lengths[:1]), lengths[:1], torch.empty_like(q)
    return lambda: paged_extend(q, keys, values, table[:1], first, new, new, tokens, out)


def _product(kernel: str, dtype: torch.dtype, rows: int, inputs: int, device: torch.device) -> Callable[[], object]:
    x = torch.randn(rows, inputs, device=device).to(dtype)
    if kernel == "int8_matmul":
        eight = Int8Weight.quantise(torch.randn(inputs // 2, inputs, device=device))
        return lambda: int8_matmul(x, eight)
    codes = torch.randint(0, 256, (inputs // 2, inputs // 2), dtype=torch.uint8, device=device)
    scales: Tensor = torch.rand(inputs // 2, inputs // 32, device=device).half()
    four = Int4Weight(codes, scales, scales)
    return lambda: int4_matmul(x, four)


def rewritten(source: str, table: dict[str, dict[Row, Options]], measured: dict[int, str]) -> str:
    """tuned.py's source with another table."""
    start, stop = source.index("MEASURED_ON:"), source.index("def tuned(")
    lines = [
        f"MEASURED_ON: dict[int, str] = {{{', '.join(f'{n}: {name!r}' for n, name in sorted(measured.items()))}}}",
        "",
        "TABLE: dict[str, dict[Row, Options]] = {",
    ]
    for kernel, rows in sorted(table.items()):
        lines.append(f'    "{kernel}": {{')
        for row, options in sorted(rows.items()):
            lines.append(f"        {row}: {{{', '.join(f'{chr(34)}{n}{chr(34)}: {v}' for n, v in options.items())}}},")
        lines.append("    },")
    return source[:start] + "\n".join([*lines, "}", "", "", ""]) + source[stop:]


if __name__ == "__main__":
    main()
