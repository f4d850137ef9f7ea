"""Attention over the paged KV cache: the protocol in base.py, one file per implementation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latticework.lang.errors import InvalidArgument, Unsupported

if TYPE_CHECKING:
    import torch

    from latticework.kernels.cpu.library import Library
    from latticework.runtime.attention.base import AttentionBackend
    from latticework.runtime.attention.layer import LayerAttention

__all__ = ["make_attention", "resolve_attention"]


def resolve_attention(name: str, device: str, has_library: bool) -> str:
    """What "auto" means there: triton on CUDA, elsewhere native with the built CPU kernels and torch without."""
    if name != "auto":
        return name
    return "triton" if device.startswith("cuda") else "native" if has_library else "torch"


def make_attention(
    name: str,
    device: str,
    head_dim: int | None = None,
    dtype: torch.dtype | None = None,
    layers: tuple[LayerAttention, ...] = (),
    library: Library | None = None,
    takes_all: bool = False,
    heads: int | None = None,
) -> AttentionBackend:
    """The backend of that name, "auto" as in `resolve_attention`. Triton is imported only if chosen.

    heads, head_dim, dtype, layers: of the model; if given, a backend that cannot serve them refuses now, and flashinfer
    needs them all. library: the built CPU kernels. takes_all: "native" does not leave long prompts to torch. Raises
    Unsupported when the backend cannot run here, InvalidArgument for an unknown name.
    """
    name = resolve_attention(name, device, library is not None)
    if name == "torch":
        from latticework.runtime.attention.torch_cpu import TorchAttention

        return TorchAttention(layers)
    if name == "native":
        from latticework.runtime.attention.native_cpu import NativeAttention

        if library is None:
            raise Unsupported(
                "attention='native' needs the CPU kernels, which are off or not built",
                hint="cpu_kernels='on', or `latticework kernels build`",
                field="attention",
            )
        return NativeAttention(library, dtype, layers, takes_all)
    if name == "triton":
        from latticework.runtime.attention.triton import TritonAttention

        return TritonAttention(device, head_dim, dtype, layers)
    if name == "flashinfer":
        from latticework.runtime.attention.flashinfer import FlashInferAttention

        assert heads is not None, "flashinfer plans for a model"
        assert head_dim is not None
        assert dtype is not None
        return FlashInferAttention(device, heads, head_dim, dtype, layers)
    raise InvalidArgument(
        f"attention is {name!r}; expected auto, torch, native, triton or flashinfer", field="attention"
    )
