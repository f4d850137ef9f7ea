"""What requests change in their logits before tokens are drawn, token by token, in place:

    repetition   x > 0: x / repetition, else x · repetition        tokens of the text before or of the output
    frequency    x - frequency · times                             tokens of the output, `times` in it
    presence     x - presence                                      tokens of the output
    bias         x + bias

The order and the rule of runtime/sample/penalties.py (repetition: Keskar et al. 2019). Each row has a list of the
tokens that change, each once. float64 inside, rounded to the logits' dtype once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from latticework.kernels.choice import twins_chosen
from latticework.kernels.paged import DTYPES, check_rows, takes

NAME = "penalise"
BLOCK = 256
BIASED_ONLY = -1  # in `times`: the token is in no text


@dataclass(frozen=True, slots=True)
class Changes:
    """N tokens a row. tokens: int64 [R, N], each once a row, padded with -1; times: int32 [R, N], how often the token
    is in the output, 0 if only in the text before, BIASED_ONLY if nowhere; bias: float64 [R, N]; repetition (1 for
    none), frequency, presence: float64 [R]."""

    tokens: Tensor
    times: Tensor
    bias: Tensor
    repetition: Tensor
    frequency: Tensor
    presence: Tensor


def penalise(logits: Tensor, changes: Changes) -> None:
    """logits: [R, V], changed in place. Token ids are not checked against V. Raises TypeError or ValueError, naming the
    argument."""
    check_changes(logits, changes)
    if twins_chosen():
        return penalise_reference(logits, changes)
    rows, count = changes.tokens.shape
    if rows and count:
        penalty_kernel[(rows, triton.cdiv(count, BLOCK))](
            logits, changes.tokens, changes.times, changes.bias,
            changes.repetition, changes.frequency, changes.presence, count, logits.stride(0), BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip


def penalise_reference(logits: Tensor, changes: Changes) -> None:
    """The same in plain torch."""
    for r in range(len(logits)):
        listed = changes.tokens[r] >= 0
        tokens, times, bias = changes.tokens[r][listed], changes.times[r][listed], changes.bias[r][listed]
        x = logits[r, tokens].double()
        repeated = torch.where(x > 0, x / changes.repetition[r], x * changes.repetition[r])
        x = torch.where(times >= 0, repeated, x)
        x = torch.where(times > 0, x - changes.frequency[r] * times - changes.presence[r], x)
        logits[r, tokens] = (x + bias).to(logits.dtype)


def check_changes(logits: Tensor, changes: Changes) -> None:
    if not takes(logits.dtype):
        raise TypeError(f"{NAME}: dtype {logits.dtype}; supported are {', '.join(map(str, DTYPES))}")
    if logits.dim() != 2 or changes.tokens.dim() != 2:
        raise ValueError(f"{NAME}: logits {tuple(logits.shape)}, tokens {tuple(changes.tokens.shape)}; expected 2-d")
    rows, listed = (len(logits),), (len(logits), changes.tokens.shape[1])
    for name, shape, dtype in (
        ("tokens", listed, torch.int64),
        ("times", listed, torch.int32),
        ("bias", listed, torch.float64),
        ("repetition", rows, torch.float64),
        ("frequency", rows, torch.float64),
        ("presence", rows, torch.float64),
    ):
        tensor = getattr(changes, name)
        if tensor.dtype != dtype or tensor.shape != shape or not tensor.is_contiguous():
            raise TypeError(
                f"{NAME}: {name} {tuple(tensor.shape)} {tensor.dtype}; expected {dtype} {shape}, contiguous"
            )
    check_rows(NAME, logits=logits)


@triton.jit
def penalty_kernel(
    logits: tl.tensor,  # [R, V]
    tokens: tl.tensor,  # [R, N]
    times: tl.tensor,  # [R, N]
    bias: tl.tensor,  # [R, N]
    repetition: tl.tensor,  # [R]
    frequency: tl.tensor,  # [R]
    presence: tl.tensor,  # [R]
    count: tl.tensor,  # N
    logits_row: tl.tensor,  # stride in elements
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    entry = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    listed = entry < count
    token = tl.load(tokens + row * count + entry, mask=listed, other=-1)
    listed = listed & (token >= 0)
    often = tl.load(times + row * count + entry, mask=listed, other=0)
    x = tl.load(logits + row * logits_row + token, mask=listed, other=0.0).to(tl.float64)
    factor = tl.load(repetition + row)
    x = tl.where(often >= 0, tl.where(x > 0.0, x / factor, x * factor), x)
    less = tl.load(frequency + row) * often.to(tl.float64) + tl.load(presence + row)
    x = tl.where(often > 0, x - less, x)
    x += tl.load(bias + row * count + entry, mask=listed, other=0.0)
    tl.store(logits + row * logits_row + token, x.to(tl.float32).to(logits.dtype.element_ty), mask=listed)
