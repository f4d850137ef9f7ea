"""The tokens that each sequence of a step may draw: the row of its automaton's state, and near the end of its budget
only those after which the text can still be finished.

    allowed[r, t] = masks[s, t]  and  (left ≥ need[s]  or  t has no bytes  or  costs[next(s, t)] < left)

    s = states[r], left = remaining[r], the tokens that may still be drawn, this one included; s < 0: everything

need[s]: with so many tokens left, no token of the row leads too far. costs: tokens that surely suffice after a state.
So a row is copied as it is as a rule; where it is not, the bytes of all tokens are walked, as automaton.mask_rows does.
This file knows no grammar and no sequence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from latticework.kernels.automaton import TokenBytes, check_tables
from latticework.kernels.choice import twins_chosen

NAME = "affordable"
BLOCK = 512  # tokens of a program
UNBOUNDED = 2**30  # in `remaining`: the text may be cut


@dataclass(frozen=True, slots=True)
class Automata:
    """S states of all automata, stacked.

    transitions: int32 [S, 256], -1 for none; masks: int32 [S, W], W = ceil(V / 32); costs, need: int32 [S].
    """

    transitions: Tensor
    masks: Tensor
    costs: Tensor
    need: Tensor


def affordable(states: Tensor, remaining: Tensor, automata: Automata, vocabulary: TokenBytes, out: Tensor) -> None:
    """states, remaining: int32 [R]; out: int32 [R, W], written. Bits past the vocabulary are of no meaning. Raises
    TypeError or ValueError, naming the argument."""
    _check(states, remaining, automata, vocabulary, out)
    if twins_chosen():
        return affordable_reference(states, remaining, automata, vocabulary, out)
    rows, words = out.shape
    tokens = len(vocabulary.starts) - 1
    if rows and words:
        affordable_kernel[(rows, triton.cdiv(tokens, BLOCK))](
            states, remaining, automata.masks, automata.transitions, automata.costs, automata.need,
            vocabulary.data, vocabulary.starts, out, tokens, words, **affordable_options(),
        )  # fmt: skip


def affordable_reference(
    states: Tensor, remaining: Tensor, automata: Automata, vocabulary: TokenBytes, out: Tensor
) -> None:
    """The same in plain torch, one sequence at a time."""
    for r in range(len(states)):
        state, left = int(states[r]), int(remaining[r])
        if state < 0:
            out[r] = -1
        elif left >= int(automata.need[state]):
            out[r] = automata.masks[state]
        else:
            out[r] = automata.masks[state] & _packed(_affords(state, left, automata, vocabulary), out.shape[1])


def _affords(state: int, left: int, automata: Automata, vocabulary: TokenBytes) -> Tensor:
    """bool [V]: tokens without bytes, and those after which fewer than `left` suffice."""
    first = vocabulary.starts[:-1].long()
    lengths = vocabulary.starts[1:].long() - first
    reached = torch.full_like(first, state)
    for step in range(int(lengths.max())):
        walking = (lengths > step) & (reached >= 0)
        byte = vocabulary.data[(first + step).clamp(max=len(vocabulary.data) - 1)].long()
        onward = automata.transitions[reached.clamp(min=0), byte].long()
        reached = torch.where(walking, onward, reached)
    return (lengths == 0) | ((reached >= 0) & (automata.costs[reached.clamp(min=0)] < left))


def _packed(bits: Tensor, words: int) -> Tensor:
    """bool [V] -> int32 [W]."""
    padded = torch.zeros(words * 32, dtype=torch.int64, device=bits.device)
    padded[: len(bits)] = bits
    found = (padded.view(words, 32) << torch.arange(32, device=bits.device)).sum(1)
    return torch.where(found >= 2**31, found - 2**32, found).int()


def _check(states: Tensor, remaining: Tensor, automata: Automata, vocabulary: TokenBytes, out: Tensor) -> None:
    check_tables(NAME, automata.transitions, vocabulary)
    count, rows, words = len(automata.transitions), len(states), triton.cdiv(len(vocabulary.starts) - 1, 32)
    for name, tensor, shape in (
        ("states", states, (rows,)),
        ("remaining", remaining, (rows,)),
        ("masks", automata.masks, (count, words)),
        ("costs", automata.costs, (count,)),
        ("need", automata.need, (count,)),
        ("out", out, (rows, words)),
    ):
        if tensor.dtype != torch.int32 or tensor.shape != shape or not tensor.is_contiguous():
            raise TypeError(
                f"{NAME}: {name} {tuple(tensor.shape)} {tensor.dtype}; expected torch.int32 {shape}, contiguous"
            )


def affordable_options() -> dict[str, int]:
    """How the kernel is compiled."""
    return {"BLOCK": BLOCK, "num_warps": 4}


@triton.jit
def affordable_kernel(
    states: tl.tensor,  # [R]
    remaining: tl.tensor,  # [R]
    masks: tl.tensor,  # [S, W]
    transitions: tl.tensor,  # [S, 256]
    costs: tl.tensor,  # [S]
    need: tl.tensor,  # [S]
    data: tl.tensor,  # [bytes]
    starts: tl.tensor,  # [V + 1]
    out: tl.tensor,  # [R, W]
    vocabulary: tl.tensor,  # V
    words: tl.tensor,  # W
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    word = tl.program_id(1) * (BLOCK // 32) + tl.arange(0, BLOCK // 32)
    state = tl.load(states + row).to(tl.int64)
    known = tl.maximum(state, 0)
    kept = tl.where(state >= 0, tl.load(masks + known * words + word, mask=word < words, other=0), -1)
    left = tl.load(remaining + row)
    if (state >= 0) & (left < tl.load(need + known)):
        lane = tl.arange(0, BLOCK)
        token = tl.program_id(1) * BLOCK + lane
        there = token < vocabulary
        at = tl.load(starts + token, mask=there, other=0)
        length = tl.load(starts + token + 1, mask=there, other=0) - at
        reached = tl.where(there, known, -1)
        for step in tl.range(0, tl.max(length, 0)):
            walking = (step < length) & (reached >= 0)
            byte = tl.load(data + at + step, mask=walking, other=0).to(tl.int64)
            onward = tl.load(transitions + tl.maximum(reached, 0) * 256 + byte, mask=walking, other=-1).to(tl.int64)
            reached = tl.where(walking, onward, reached)
        cost = tl.load(costs + tl.maximum(reached, 0), mask=reached >= 0, other=1073741824)
        affords = (length == 0) | (cost < left)
        bits = tl.where(affords, 1, 0) << (lane % 32)
        kept = kept & tl.sum(tl.reshape(bits, [BLOCK // 32, 32]), 1)
    tl.store(out + row * words + word, kept, mask=word < words)
