"""Regular constraints on the device: the rows of allowed tokens of every state, and the step from state to state.

    next(s, t) = δ(.. δ(δ(s, b0), b1) .., bn)          b0..bn: the bytes of token t, δ: `transitions`, -1 for none
    allowed[s, t] = next(s, t) is a state              packed: bit t % 32 of word t // 32

Willard and Louf 2023 (Outlines) index tokens by states likewise; here bytes are walked for all tokens of a block at
once. Rows are made once, when an automaton is admitted; a decode step then only reads the row of its state
(sample.py) and walks one token (`advance`), on the device, so it can be captured in a graph. Automata are stacked: a
state is a row of one table for all of them. Tokens without bytes are never allowed, and leave a state as it is: what
ends a text is the caller's to add. This file knows no grammar."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from latticework.kernels.choice import twins_chosen

STATES, BLOCK = 8, 512  # states and tokens of a program: bytes are read once for all its states
FREE = -1  # the state of a sequence without a constraint
DEAD = -2  # and of one whose token was not allowed


@dataclass(frozen=True, slots=True)
class TokenBytes:
    """data: uint8 [all bytes of all tokens]; starts: int32 [V + 1], into data."""

    data: Tensor
    starts: Tensor

    @staticmethod
    def of(tokens: list[bytes], device: torch.device) -> TokenBytes:
        starts = torch.tensor([0, *map(len, tokens)], dtype=torch.int64).cumsum(0)
        data = bytearray(b"".join(tokens) + b"\0")  # never empty
        return TokenBytes(torch.frombuffer(data, dtype=torch.uint8).to(device), starts.int().to(device))


def mask_rows(transitions: Tensor, vocabulary: TokenBytes) -> Tensor:
    """transitions: int32 [S, 256] -> int32 [S, ceil(V / 32)]. Raises TypeError or ValueError, naming the argument."""
    check_tables("mask_rows", transitions, vocabulary)
    if twins_chosen():
        return mask_rows_reference(transitions, vocabulary)
    states, tokens = len(transitions), len(vocabulary.starts) - 1
    rows = torch.empty(states, triton.cdiv(tokens, 32), dtype=torch.int32, device=transitions.device)
    if rows.numel():
        mask_kernel[(triton.cdiv(states, STATES), triton.cdiv(tokens, BLOCK))](
            transitions, vocabulary.data, vocabulary.starts, rows, states, tokens, rows.shape[1], **mask_options()
        )
    return rows


def mask_rows_reference(transitions: Tensor, vocabulary: TokenBytes) -> Tensor:
    """The same, one token at a time."""
    states, tokens = len(transitions), len(vocabulary.starts) - 1
    onward = torch.cat([transitions, transitions.new_full((1, 256), -1)]).long()  # -1 leads to itself
    rows = torch.zeros(states, triton.cdiv(tokens, 32), dtype=torch.int64, device=transitions.device)
    for token in range(tokens):
        word = _bytes_of(vocabulary, token)
        reached = torch.arange(states, device=transitions.device)
        for byte in word:
            reached = onward[reached, byte]
        if word:
            rows[:, token // 32] |= (reached >= 0).long() << (token % 32)
    return torch.where(rows >= 2**31, rows - 2**32, rows).int()


def advance(states: Tensor, tokens: Tensor, transitions: Tensor, vocabulary: TokenBytes) -> None:
    """states: int32 [R], changed in place: FREE and DEAD stay; tokens: int64 [R], a negative one changes nothing.
    Raises TypeError or ValueError, naming the argument."""
    check_tables("advance", transitions, vocabulary)
    for name, column, dtype in (("states", states, torch.int32), ("tokens", tokens, torch.int64)):
        if column.dtype != dtype or column.shape != states.shape[:1] or not column.is_contiguous():
            raise TypeError(f"advance: {name} {tuple(column.shape)} {column.dtype}; expected {dtype} [R], contiguous")
    if twins_chosen():
        return advance_reference(states, tokens, transitions, vocabulary)
    if len(states):
        advance_kernel[(len(states),)](states, tokens, transitions, vocabulary.data, vocabulary.starts, num_warps=1)


def advance_reference(states: Tensor, tokens: Tensor, transitions: Tensor, vocabulary: TokenBytes) -> None:
    """The same, one sequence at a time."""
    for r in range(len(states)):
        if int(states[r]) >= 0 and int(tokens[r]) >= 0:
            states[r] = _walk(transitions, int(states[r]), _bytes_of(vocabulary, int(tokens[r])))


def _bytes_of(vocabulary: TokenBytes, token: int) -> bytes:
    start, stop = int(vocabulary.starts[token]), int(vocabulary.starts[token + 1])
    return bytes(vocabulary.data[start:stop].tolist())


def _walk(transitions: Tensor, state: int, word: bytes) -> int:
    for byte in word:
        state = int(transitions[state, byte])
        if state < 0:
            return DEAD
    return state


def check_tables(kernel: str, transitions: Tensor, vocabulary: TokenBytes) -> None:
    if transitions.dtype != torch.int32 or transitions.dim() != 2 or transitions.shape[1] != 256:
        raise TypeError(
            f"{kernel}: transitions {tuple(transitions.shape)} {transitions.dtype}; expected int32 [S, 256]"
        )
    if vocabulary.data.dtype != torch.uint8 or vocabulary.starts.dtype != torch.int32:
        raise TypeError(
            f"{kernel}: bytes are {vocabulary.data.dtype}, starts {vocabulary.starts.dtype}; expected uint8, int32"
        )
    if not transitions.is_contiguous():
        raise ValueError(f"{kernel}: transitions are not contiguous")


def mask_options() -> dict[str, int]:
    """How the kernel is compiled."""
    return {"STATES": STATES, "BLOCK": BLOCK, "num_warps": 8}


@triton.jit
def mask_kernel(
    transitions: tl.tensor,  # [S, 256]
    data: tl.tensor,  # [bytes]
    starts: tl.tensor,  # [V + 1]
    rows: tl.tensor,  # [S, W]
    states: tl.tensor,  # S
    vocabulary: tl.tensor,  # V
    words: tl.tensor,  # W
    STATES: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    state = tl.program_id(0) * STATES + tl.arange(0, STATES)
    lane = tl.arange(0, BLOCK)
    token = tl.program_id(1) * BLOCK + lane
    there = token < vocabulary
    at = tl.load(starts + token, mask=there, other=0)
    length = tl.load(starts + token + 1, mask=there, other=0) - at
    reached = tl.where((state < states)[:, None] & (there & (length > 0))[None, :], state[:, None], -1)
    for step in tl.range(0, tl.max(length, 0)):
        left = step < length
        byte = tl.load(data + at + step, mask=left, other=0).to(tl.int64)
        walking = left[None, :] & (reached >= 0)
        onward = tl.load(transitions + reached.to(tl.int64) * 256 + byte[None, :], mask=walking, other=-1)
        reached = tl.where(walking, onward, reached)
    bits = tl.where(reached >= 0, 1, 0) << (lane % 32)[None, :]
    packed = tl.sum(tl.reshape(bits, [STATES, BLOCK // 32, 32]), 2)
    word = tl.program_id(1) * (BLOCK // 32) + tl.arange(0, BLOCK // 32)
    row_at = rows + state.to(tl.int64)[:, None] * words + word[None, :]
    tl.store(row_at, packed, mask=(state < states)[:, None] & (word < words)[None, :])


@triton.jit
def advance_kernel(
    states: tl.tensor,  # [R]
    tokens: tl.tensor,  # [R]
    transitions: tl.tensor,  # [S, 256]
    data: tl.tensor,  # [bytes]
    starts: tl.tensor,  # [V + 1]
) -> None:
    row = tl.program_id(0)
    state = tl.load(states + row)
    token = tl.load(tokens + row)
    if (state < 0) | (token < 0):
        return
    stop = tl.load(starts + token + 1)
    for at in tl.range(tl.load(starts + token), stop):
        byte = tl.load(data + at).to(tl.int64)
        onward = tl.load(transitions + tl.maximum(state, 0).to(tl.int64) * 256 + byte)
        state = tl.where((state < 0) | (onward < 0), -2, onward)
    tl.store(states + row, state)
