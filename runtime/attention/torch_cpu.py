"""Paged attention in plain torch: what a CPU runs, and what every other backend is compared with.

New tokens attend in *groups*: sequences with the same number of new tokens and similar lengths, whose keys and
values are gathered into one padded block. A decode batch of equal lengths is a few groups; a prefill chunk is one.

    first  [b]        the first position that any new token may look at: 0, or later in layers with a window
    slots  [b, W]     where position first..length-1 of each sequence lives; beyond its length: its `first` again
    mask   [b, n, W]  0 where new token i may look, -inf elsewhere

Padding repeats a sequence's own token, so one sequence's NaN never reaches another. Query heads that share
a KV head are folded into the query length, so keys and values are never expanded. Scores and softmax are float32
for 16-bit inputs (the CPU kernel behind scaled_dot_product_attention). A step has one plan for each width of window
among the layers. This file knows tensors and a Batch; it does not know who owns a page.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from latticework.runtime.attention.base import KVCache
from latticework.runtime.attention.layer import PLAIN, LayerAttention
from latticework.runtime.attention.places import Places, write_kv
from latticework.runtime.schedule.batch import Batch

GATHER_BYTES = 6 << 20  # keys and values of one group: attention still finds them in the CPU's cache
PADDING_BYTES = 768 << 10  # gathering this much for nothing costs about as much time as one more group
QUERY_ROWS = 128  # new tokens attending at once; keys after the last of them are skipped


@dataclass(slots=True)
class Tile:
    """New tokens start..stop of each sequence of a group, looking at the first `width` gathered positions."""

    start: int
    stop: int
    width: int
    mask: Tensor | None  # [b, 1, heads per KV head * (stop - start), width]; None: all positions are seen


@dataclass(frozen=True, slots=True)
class Group:
    """b sequences with n new tokens each."""

    sequences: int
    new: int
    rows: Tensor  # [b * n], indices into the batch's T tokens
    slots: Tensor  # [b * W]
    tiles: tuple[Tile, ...]


@dataclass(slots=True)
class TorchPlan:
    """What the layers of one step share. `folded`: how many query heads per KV head the masks are laid out for."""

    places: Places
    groups: tuple[Group, ...]
    folded: int = 1

    def fold_masks(self, heads_per_kv: int) -> None:
        """Repeats masks for the query heads sharing a KV head: once a step, at the first layer."""
        if self.folded == heads_per_kv:
            return
        assert self.folded == 1, "one plan serves layers of one shape"
        for group in self.groups:
            for tile in group.tiles:
                if tile.mask is not None and tile.mask.shape[2] > 1:  # one row is broadcast anyway
                    tile.mask = tile.mask.repeat(1, 1, heads_per_kv, 1)
        self.folded = heads_per_kv


class TorchAttention:
    """An AttentionBackend for any device and float type torch has a fused attention for. Stateless."""

    name = "torch"

    def __init__(self, layers: tuple[LayerAttention, ...] = ()) -> None:
        self.layers = layers
        self._windows = {layer.window for layer in layers} or {None}

    def plan(self, batch: Batch, kv: KVCache) -> dict[int | None, TorchPlan]:
        """By window."""
        everyone = np.arange(len(batch.lengths))
        longest = int(batch.lengths.max())
        whole = None
        plans: dict[int | None, TorchPlan] = {}
        for window in self._windows:
            if window is not None and window < longest:
                plans[window] = plan_sequences(batch, kv, everyone, window)
            else:  # nothing is out of sight
                whole = whole or plan_sequences(batch, kv, everyone)
                plans[window] = whole
        return plans

    def forward(self, layer: int, q: Tensor, k: Tensor, v: Tensor, kv: KVCache, plan: Any) -> Tensor:
        """q: [T, heads, head_dim]; k, v: [T, kv_heads, head_dim] -> [T, heads, head_dim]."""
        how = self.layers[layer] if self.layers else PLAIN
        chosen = plan[how.window]
        write_kv(kv.keys[layer], k, chosen.places)
        write_kv(kv.values[layer], v, chosen.places)
        return attend(q, kv.keys[layer], kv.values[layer], chosen, torch.empty_like(q), how)


def plan_sequences(batch: Batch, kv: KVCache, sequences: NDArray[np.int64], window: int | None = None) -> TorchPlan:
    """The plan for some of the batch's sequences (by index); `places` covers the whole batch."""
    keys = kv.keys[0]
    token_bytes = 2 * keys.shape[2] * keys.shape[3] * keys.element_size()
    new = np.diff(batch.starts)
    seen = batch.lengths if window is None else np.minimum(batch.lengths, new + window - 1)
    members = group_sequences(new, seen, sequences, GATHER_BYTES // token_bytes, PADDING_BYTES // token_bytes)
    groups = tuple(_plan_group(batch, kv, group, int(new[group[0]]), window) for group in members)
    return TorchPlan(Places.of(batch, keys.device), groups)


def group_sequences(
    new: NDArray[np.int64],
    lengths: NDArray[np.int64],
    sequences: NDArray[np.int64],
    max_tokens: int,
    max_padding: int,
) -> list[NDArray[np.int64]]:
    """Splits `sequences` into groups with the same number of new tokens, so that one long sequence does not pad
    many short ones.

    new, lengths: [B], by sequence. max_tokens: gathered for a group, padding included; max_padding: of these, for
    nothing. A sequence too long for the limits is a group of its own.
    """
    order = sequences[np.lexsort((lengths[sequences], new[sequences]))]
    groups: list[NDArray[np.int64]] = []
    first, filled = 0, 0  # the open group is order[first:i], with `filled` tokens before padding
    for i, sequence in enumerate(order):
        count, width = i - first, int(lengths[sequence])
        fits = (
            new[sequence] == new[order[first]]
            and (count + 1) * width <= max_tokens
            and count * width - filled <= max_padding
            and (count + 1) * new[sequence] <= QUERY_ROWS
        )
        if count and not fits:
            groups.append(order[first:i])
            first, filled = i, 0
        filled += width
    if len(order):
        groups.append(order[first:])
    return groups


def _plan_group(batch: Batch, kv: KVCache, group: NDArray[np.int64], new: int, window: int | None) -> Group:
    keys = kv.keys[0]
    lengths = batch.lengths[group, None]  # [b, 1]
    first = np.zeros_like(lengths) if window is None else np.maximum(lengths - new - window + 1, 0)
    positions = first + np.arange(int((lengths - first).max()))  # [b, W]
    held = np.where(positions < lengths, positions, first)  # [b, W]
    slots = slots_of(batch.page_table[group], held, kv.page_size)
    rows = batch.starts[group, None] + np.arange(new)  # [b, n]
    last = lengths - new + np.arange(new)  # [b, n]: the position of each new token, the last it may see
    mask_type = keys.dtype if keys.dtype == torch.float64 else torch.float32

    def mask(start: int, stop: int, seen: int) -> Tensor | None:
        there, own = positions[:, None, :seen], last[:, start:stop, None]
        visible = there <= own if window is None else (there <= own) & (there > own - window)
        allowed = torch.from_numpy(visible)  # [b, n, W]
        if new == 1 and bool(allowed.all()):
            return None
        zeros = torch.zeros(allowed.shape, dtype=mask_type)
        return zeros.masked_fill_(~allowed, -torch.inf).unsqueeze(1).to(keys.device)

    tiles = []
    for start in range(0, new, QUERY_ROWS):
        stop = min(start + QUERY_ROWS, new)
        seen = int((last[:, stop - 1] - first[:, 0]).max()) + 1
        tiles.append(Tile(start, stop, seen, mask(start, stop, seen)))
    return Group(
        sequences=len(group),
        new=new,
        rows=torch.from_numpy(rows.reshape(-1)).to(keys.device),
        slots=torch.from_numpy(slots.reshape(-1)).to(keys.device),
        tiles=tuple(tiles),
    )


def slots_of(page_table: NDArray[np.int32], positions: NDArray[np.int64], page_size: int) -> NDArray[np.int64]:
    """page_table: [b, P]; positions: [b, W] -> the slot of each position, [b, W]."""
    pages = np.take_along_axis(page_table, positions // page_size, axis=1).astype(np.int64)
    return pages * page_size + positions % page_size


def attend(
    q: Tensor, keys: Tensor, values: Tensor, plan: TorchPlan, out: Tensor, how: LayerAttention = PLAIN
) -> Tensor:
    """Fills the rows of `out` that the plan's groups cover, and returns it.

    q, out: [T, heads, head_dim]; keys, values: [P, page_size, kv_heads, head_dim], the new tokens' included.
    """
    plan.fold_masks(q.shape[1] // keys.shape[2])
    for group in plan.groups:
        result = _attend_group(q.index_select(0, group.rows), keys, values, group, how)
        out.index_copy_(0, group.rows, result)
    return out


def _attend_group(q: Tensor, keys: Tensor, values: Tensor, group: Group, how: LayerAttention) -> Tensor:
    """q: [b * n, heads, head_dim] -> the same shape."""
    kv_heads, head_dim = keys.shape[2:]
    shape = (group.sequences, group.new, kv_heads, q.shape[1] // kv_heads, head_dim)
    queries = q.view(shape).permute(0, 2, 3, 1, 4)  # [b, kv_heads, fold, n, head_dim]
    k = _gather(keys, group)
    v = _gather(values, group)
    parts = []
    for tile in group.tiles:
        folded = queries[:, :, :, tile.start : tile.stop].flatten(2, 3)  # [b, kv_heads, fold * n, head_dim]
        seen = slice(0, tile.width)
        attended = _attend_tile(folded, k[:, :, seen], v[:, :, seen], tile.mask, how)
        parts.append(attended.unflatten(2, (shape[3], tile.stop - tile.start)))
    return torch.cat(parts, 3).permute(0, 3, 1, 2, 4).reshape(q.shape)


def _attend_tile(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, how: LayerAttention) -> Tensor:
    """q: [b, kv_heads, fold * n, head_dim]; k, v: [b, kv_heads, W, head_dim] -> q's shape."""
    if how.soft_cap is None:
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=how.scale)
    work = torch.promote_types(q.dtype, torch.float32)  # no fused kernel caps scores
    scale = q.shape[-1] ** -0.5 if how.scale is None else how.scale
    scores = q.to(work) @ k.to(work).transpose(-1, -2) * (scale / how.soft_cap)
    scores = scores.tanh_().mul_(how.soft_cap)
    if mask is not None:
        scores = scores + mask
    return (scores.softmax(-1) @ v.to(work)).to(q.dtype)


def _gather(cache: Tensor, group: Group) -> Tensor:
    """[P, page_size, kv_heads, head_dim] -> [b, kv_heads, W, head_dim], a view of the gathered rows."""
    kv_heads, head_dim = cache.shape[2:]
    rows = cache.view(-1, kv_heads * head_dim).index_select(0, group.slots)
    return rows.view(group.sequences, -1, kv_heads, head_dim).transpose(1, 2)
