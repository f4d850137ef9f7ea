"""What the kernels over paged keys and values have in common: numbers they take, checks, soft-capped scores.

    score(q, k) = cap * tanh(scale * q·k / cap)        without a cap: scale * q·k

Softmax is computed with powers of two, so the kernels take scores times log2(e). This file knows no scheduler.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from latticework.kernels.choice import twins_chosen

MAX_HEAD_DIM = 256
MAX_PAGE_SIZE = 256
MAX_GROUP = 64  # query heads that share a KV head
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LOG2_E = 1.4426950408889634
NO_WINDOW = 2**30  # longer than any sequence


def takes(dtype: torch.dtype) -> bool:
    """Kernels take DTYPES; their twins, where they are chosen, float64 too."""
    return dtype in DTYPES or (dtype == torch.float64 and twins_chosen())


def check_support(kernel: str, dtype: torch.dtype, head_dim: int, page_size: int = 1, group: int = 1) -> None:
    """Raises TypeError or ValueError, naming the kernel and its limit, where no program of it exists."""
    if not takes(dtype):
        raise TypeError(f"{kernel}: dtype {dtype}; supported are {', '.join(map(str, DTYPES))}")
    for name, value, limit in (
        ("head_dim", head_dim, MAX_HEAD_DIM),
        ("page_size", page_size, MAX_PAGE_SIZE),
        ("query heads per KV head", group, MAX_GROUP),
    ):
        if not 1 <= value <= limit:
            raise ValueError(f"{kernel}: {name} {value}; supported are 1 to {limit}")


def check_heads(kernel: str, q: Tensor, keys: Tensor, values: Tensor) -> None:
    """q: [rows, heads, D]; keys, values: [pages, page_size, kv_heads, D]. Raises TypeError or ValueError."""
    if q.dim() != 3 or keys.dim() != 4 or keys.shape != values.shape or q.shape[2] != keys.shape[3]:
        raise ValueError(
            f"{kernel}: q {tuple(q.shape)}, keys {tuple(keys.shape)}, values {tuple(values.shape)}; "
            "expected [rows, heads, D] and twice [pages, page_size, kv_heads, D]"
        )
    heads, kv_heads = q.shape[1], keys.shape[2]
    if kv_heads == 0 or heads % kv_heads:
        raise ValueError(f"{kernel}: {heads} heads are not a multiple of {kv_heads} KV heads")
    check_support(kernel, q.dtype, q.shape[2], keys.shape[1], heads // kv_heads)
    if not q.dtype == keys.dtype == values.dtype:
        raise TypeError(f"{kernel}: q, keys, values are {q.dtype}, {keys.dtype}, {values.dtype}; expected one dtype")
    if keys.stride() != values.stride():
        raise ValueError(f"{kernel}: strides of keys {keys.stride()} and values {values.stride()} differ")
    check_rows(kernel, q=q, keys=keys)


def check_indices(kernel: str, sequences: int, page_table: Tensor, **by_sequence: Tensor) -> None:
    """page_table: int32 [B, P]; the others int32 [B]. Raises TypeError or ValueError."""
    for name, index in {"page_table": page_table, **by_sequence}.items():
        if index.dtype != torch.int32:
            raise TypeError(f"{kernel}: {name} is {index.dtype}; expected torch.int32")
    if page_table.dim() != 2 or len(page_table) != sequences:
        raise ValueError(f"{kernel}: page_table {tuple(page_table.shape)}; expected [B, P] with B = {sequences}")
    for name, index in by_sequence.items():
        if index.shape != (sequences,):
            raise ValueError(f"{kernel}: {name} {tuple(index.shape)}; expected [B] with B = {sequences}")
    check_rows(kernel, page_table=page_table, **by_sequence)


def check_rows(kernel: str, **tensors: Tensor) -> None:
    """Raises ValueError where the numbers of a row do not lie side by side."""
    for name, tensor in tensors.items():
        if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
            raise ValueError(f"{kernel}: {name} is not contiguous in its last dimension: {tensor.stride()}")


def check_scores(kernel: str, window: int | None, soft_cap: float | None) -> None:
    """Raises ValueError for a window or cap that lets nothing through."""
    if window is not None and window < 1:
        raise ValueError(f"{kernel}: window {window}; expected at least 1")
    if soft_cap is not None and not soft_cap > 0:
        raise ValueError(f"{kernel}: soft_cap {soft_cap}; expected more than 0")


def score_factors(head_dim: int, soft_cap: float | None, scale: float | None) -> tuple[float, float]:
    """What `capped` multiplies q·k with, and the cap; scores come out in powers of two."""
    scale = head_dim**-0.5 if scale is None else scale
    if soft_cap is None:
        return scale * LOG2_E, 0.0
    return 2.0 * LOG2_E * scale / soft_cap, soft_cap * LOG2_E


@triton.jit
def capped(product: tl.tensor, factor: tl.tensor, cap: tl.tensor, CAPPED: tl.constexpr) -> tl.tensor:
    """tanh(x) = 1 - 2 / (1 + e^2x), which is right at both ends: e^2x may be 0 or infinite. To an ulp of the cap."""
    scaled = product * factor
    if CAPPED:
        return cap - 2.0 * cap / (1.0 + tl.exp2(scaled))
    else:
        return scaled


@triton.jit
def exact(x: tl.tensor, UPCAST: tl.constexpr) -> tl.tensor:
    """A tile as tensor cores take it: 16-bit numbers as they are. UPCAST: in float32, for float32 itself and for the
    interpreter, which computes with bfloat16's raw bits."""
    if UPCAST:
        return x.to(tl.float32)
    else:
        return x


def attention_reference(
    q: Tensor, k: Tensor, v: Tensor, window: int | None, soft_cap: float | None, scale: float | None
) -> Tensor:
    """Causal attention of one sequence in plain torch: float32, or float64 for float64 inputs.

    q: [n, heads, D], the last n of the sequence's tokens; k, v: [length, kv_heads, D] -> [n, heads, D].
    """
    new, heads, head_dim = q.shape
    length, kv_heads = k.shape[:2]
    work = torch.promote_types(q.dtype, torch.float32)
    grouped = q.to(work).view(new, kv_heads, heads // kv_heads, head_dim)
    scores = torch.einsum("mhgd,nhd->hgmn", grouped, k.to(work)) * (head_dim**-0.5 if scale is None else scale)
    if soft_cap is not None:
        scores = torch.tanh(scores / soft_cap) * soft_cap
    own = torch.arange(length - new, length, device=q.device)[:, None]
    there = torch.arange(length, device=q.device)[None, :]
    hidden = (there > own) if window is None else (there > own) | (there <= own - window)
    likelihood = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    return torch.einsum("hgmn,nhd->mhgd", likelihood, v.to(work)).reshape(q.shape).to(q.dtype)
