"""From logits to the next token: penalties, draws, log-probabilities, and constraints on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.gpu.work import Maker, Rival, Work, size_of
from latticework.kernels.affordable import Automata, affordable, affordable_reference
from latticework.kernels.automaton import (
    TokenBytes,
    advance,
    advance_reference,
    mask_rows,
    mask_rows_reference,
)
from latticework.kernels.barred import bar, bar_reference
from latticework.kernels.logprobs import logprobs, logprobs_reference
from latticework.kernels.penalise import Changes, penalise, penalise_reference
from latticework.kernels.sample import Draws, sample, sample_reference

TOP_K, TOP_P, MIN_P = 50, 0.9, 0.02
MASK_STATES = 16  # rows of masks among which a sampling step chooses


def draw(rows: int, vocabulary: int, temperature: float, limited: bool, masked: bool) -> Maker:
    """limited: by top-k, top-p and min-p. masked: each row by one of MASK_STATES masks, which allow half."""

    def make(device: torch.device, dtype: torch.dtype) -> Work:
        logits = 3 * torch.randn(rows, vocabulary, device=device)
        words = -(-vocabulary // 32)
        masks = torch.randint(-(2**31), 2**31 - 1, (MASK_STATES, words), dtype=torch.int32, device=device)

        def column(number: float, kind: torch.dtype) -> Tensor:
            return torch.full((rows,), number, dtype=kind, device=device)

        draws = Draws(
            temperature=column(temperature, torch.float64),
            top_k=column(TOP_K if limited else 0, torch.int32),
            top_p=column(TOP_P if limited else 1.0, torch.float64),
            min_p=column(MIN_P if limited else 0.0, torch.float64),
            seeds=torch.arange(rows, device=device),
            positions=column(7, torch.int64),
            masks=masks if masked else None,
            states=(torch.arange(rows, device=device) % MASK_STATES).int() if masked else None,
        )

        def by_torch() -> Tensor:
            if temperature == 0.0:
                return logits.argmax(-1)
            return torch.multinomial((logits / temperature).softmax(-1), 1)[:, 0]

        rivals = {} if limited or masked else {"torch": Rival(by_torch, alike=temperature == 0.0)}
        return Work(
            run=lambda: sample(logits, draws),
            exact=lambda: sample_reference(logits, draws),
            bytes=size_of(logits) + (rows * words * 4 if masked else 0),
            flops=0,
            rivals=rivals,
            decides=True,
        )

    return make


def change(rows: int, vocabulary: int, count: int) -> Maker:
    """Penalties and a bias for `count` tokens a row."""

    def make(device: torch.device, dtype: torch.dtype) -> Work:
        logits = torch.randn(rows, vocabulary, device=device)
        tokens = torch.stack([torch.randperm(vocabulary)[:count] for _ in range(rows)]).to(device)
        times = torch.randint(-1, 4, (rows, count), dtype=torch.int32, device=device)

        def column(number: float) -> Tensor:
            return torch.full((rows,), number, dtype=torch.float64, device=device)

        bias = torch.randn(rows, count, dtype=torch.float64, device=device)
        changes = Changes(tokens, times, bias, column(1.1), column(0.2), column(0.3))

        def run() -> tuple[Tensor, ...]:
            penalise(logits, changes)
            return (logits,)

        def exact() -> tuple[Tensor, ...]:
            wide = logits.clone()
            penalise_reference(wide, changes)
            return (wide,)

        return Work(run=run, exact=exact, bytes=size_of(tokens, times, bias) + 2 * 4 * rows * count, flops=0)

    return make


def likelihoods(rows: int, vocabulary: int, count: int) -> Maker:
    """Log-probabilities of the chosen token and the likeliest `count`."""

    def make(device: torch.device, dtype: torch.dtype) -> Work:
        logits = torch.randn(rows, vocabulary, device=device)
        tokens = torch.randint(0, vocabulary, (rows,), device=device)

        def run() -> tuple[Tensor, ...]:
            own, _, theirs = logprobs(logits, tokens, count)
            return own, theirs

        def exact() -> tuple[Tensor, ...]:
            own, _, theirs = logprobs_reference(logits, tokens, count)
            return own, theirs

        def by_torch() -> Tensor:
            table = logits.log_softmax(-1)
            table.topk(count)
            return table.gather(1, tokens[:, None])[:, 0]

        return Work(run=run, exact=exact, bytes=size_of(logits), flops=0, rivals={"torch, float32": Rival(by_torch)})

    return make


def masks(states: int, vocabulary: int) -> Maker:
    """Rows of allowed tokens for all states of an automaton, made when it is admitted."""

    def make(device: torch.device, dtype: torch.dtype) -> Work:
        transitions, tokens = _automaton(states, vocabulary, device, dead=0.5)
        return Work(
            run=lambda: (mask_rows(transitions, tokens),),
            exact=lambda: (mask_rows_reference(transitions, tokens),),
            bytes=size_of(transitions, tokens.data, tokens.starts) + states * -(-vocabulary // 32) * 4,
            flops=0,
            decides=True,
        )

    return make


def afford(rows: int, states: int, vocabulary: int, near: bool) -> Maker:
    """Each row's allowed tokens. near: of so small a budget that every token has to be walked."""

    def make(device: torch.device, dtype: torch.dtype) -> Work:
        transitions, tokens = _automaton(states, vocabulary, device, dead=0.5)
        words = -(-vocabulary // 32)
        masks = torch.randint(-(2**31), 2**31 - 1, (states, words), dtype=torch.int32, device=device)
        costs = torch.randint(1, 9, (states,), dtype=torch.int32, device=device)
        automata = Automata(transitions, masks, costs, torch.full_like(costs, 10))
        at = torch.randint(0, states, (rows,), dtype=torch.int32, device=device)
        left = torch.full_like(at, 5 if near else 100)
        out = torch.zeros(rows, words, dtype=torch.int32, device=device)

        def run() -> tuple[Tensor, ...]:
            affordable(at, left, automata, tokens, out)
            return (out[:, :-1],)  # bits past the vocabulary are of no meaning

        def exact() -> tuple[Tensor, ...]:
            found = torch.zeros_like(out)
            affordable_reference(at, left, automata, tokens, found)
            return (found[:, :-1],)

        moved = 2 * size_of(out) + (size_of(tokens.data, tokens.starts, transitions) if near else 0)
        return Work(run=run, exact=exact, bytes=moved, flops=0, decides=True)

    return make


def barring(rows: int, vocabulary: int, count: int) -> Maker:
    """`count` tokens a row are taken out of its allowed ones."""

    def make(device: torch.device, dtype: torch.dtype) -> Work:
        allowed = torch.randint(1, 2**31 - 1, (rows, -(-vocabulary // 32)), dtype=torch.int32, device=device)
        barred = torch.randint(0, vocabulary, (rows, count), device=device)
        until = torch.full_like(barred, 100)
        positions = torch.full((rows,), 3, dtype=torch.int64, device=device)

        def run() -> tuple[Tensor, ...]:
            bar(allowed, barred, until, positions, vocabulary)
            return (allowed,)

        def exact() -> tuple[Tensor, ...]:
            found = allowed.clone()
            bar_reference(found, barred, until, positions, vocabulary)
            return (found,)

        return Work(run=run, exact=exact, bytes=size_of(allowed, barred, until), flops=0, decides=True)

    return make


def walk(rows: int, states: int, vocabulary: int) -> Maker:
    """Each row's state over the bytes of its token. No walk ends, so every call takes as long."""

    def make(device: torch.device, dtype: torch.dtype) -> Work:
        transitions, tokens = _automaton(states, vocabulary, device, dead=0.0)
        at = torch.randint(0, states, (rows,), dtype=torch.int32, device=device)
        drawn = torch.randint(0, vocabulary, (rows,), device=device)

        def run() -> tuple[Tensor, ...]:
            advance(at, drawn, transitions, tokens)
            return (at,)

        def exact() -> tuple[Tensor, ...]:
            wide = at.clone()
            advance_reference(wide, drawn, transitions, tokens)
            return (wide,)

        return Work(run=run, exact=exact, bytes=2 * size_of(at) + size_of(drawn), flops=0, decides=True)

    return make


def _automaton(states: int, vocabulary: int, device: torch.device, dead: float) -> tuple[Tensor, TokenBytes]:
    """dead: the share of transitions that there are none of. Tokens of 1 to 12 bytes."""
    transitions = torch.randint(0, states, (states, 256), dtype=torch.int32)
    transitions[torch.rand(states, 256) < dead] = -1
    lengths = torch.randint(1, 13, (vocabulary,)).tolist()
    letters = bytes(torch.randint(0, 256, (sum(lengths),), dtype=torch.uint8).tolist())
    tokens, start = [], 0
    for length in lengths:
        tokens.append(letters[start : start + length])
        start += length
    return transitions.to(device), TokenBytes.of(tokens, device)
