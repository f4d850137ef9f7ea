"""Which models the Triton kernels serve, asked before any weight is read. Imports triton only when asked."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from latticework.lang.errors import InvalidArgument, Unsupported
from latticework.runtime.model.spec import ModelSpec


def check_triton(field: str) -> None:
    """Raises Unsupported, naming the setting that asks for it, where triton is not installed; InvalidArgument for an
    unknown LATTICEWORK_KERNELS."""
    if find_spec("triton") is None:
        raise Unsupported(
            f"{field} on a GPU needs the triton package, which is not installed",
            hint="pip install latticework[triton]",
            field=field,
        )
    from latticework.kernels.choice import twins_chosen

    try:
        twins_chosen()
    except ValueError as error:
        raise InvalidArgument(str(error)) from None


def check_model(spec: ModelSpec, dtype: torch.dtype, page_size: int, attention: str, device: torch.device) -> None:
    """Raises Unsupported, naming the kernel and its limit, for a model that not all kernels of a step serve. attention:
    triton, or flashinfer, whose kernels go with ours."""
    check_triton("attention")
    if attention == "flashinfer":
        from latticework.runtime.attention.flashinfer import check_flashinfer

        check_flashinfer(device.type, spec.head_dim, dtype)
    from latticework.kernels.paged import check_support
    from latticework.kernels.rms_norm import check_size

    group = spec.num_attention_heads // spec.num_key_value_heads
    try:
        for kernel in ("turn_and_store", "paged_decode", "paged_extend"):
            check_support(kernel, dtype, spec.head_dim, page_size, group)
        check_size(dtype, spec.hidden_size)
        if spec.qk_norm == "whole":
            check_size(dtype, spec.num_attention_heads * spec.head_dim)
    except (TypeError, ValueError) as error:
        raise Unsupported(str(error), hint="attention='torch' computes without kernels", field="attention") from None
