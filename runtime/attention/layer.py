"""How one layer of a model attends, where that is not plain causal attention. No torch."""

from __future__ import annotations

import msgspec


class LayerAttention(msgspec.Struct, frozen=True, kw_only=True):
    """score = soft_cap * tanh(scale * q·k / soft_cap), over the last `window` positions, the token's own included.

    window None: all positions. soft_cap None: scale * q·k. scale None: head_dim ** -0.5.
    """

    window: int | None = None
    soft_cap: float | None = None
    scale: float | None = None


PLAIN = LayerAttention()
