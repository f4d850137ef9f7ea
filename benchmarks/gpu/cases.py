"""Which kernels are checked and timed, in which shapes. The interpreter gets tiny ones of every kind."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.gpu import attention_works, matmul_works, row_works, sampling_works
from benchmarks.gpu.shapes import LLAMA_8B, QWEN3_06B, TINY_LLAMA, TINY_QWEN3, Shape
from benchmarks.gpu.work import Case

GOAL_DECODE = (64, 8192)  # batch, context
GOAL_CASCADE = (256, 16384)  # sequences, tokens that they share
OWN_TOKENS = 128  # of a sequence whose other tokens are shared
DRAWS = (  # name, temperature, limited by top-k, top-p and min-p, masked
    ("greedy", 0.0, False, False),
    ("greedy, masked", 0.0, False, True),
    ("temperature", 0.8, False, False),
    ("temperature, masked", 0.8, False, True),
    ("top-k, top-p, min-p", 0.8, True, False),
)


def checked(tiny: bool) -> Iterator[Case]:
    """Small shapes that no block divides, in the models' head dims: their exact values are quick to compute."""
    for shape in (TINY_LLAMA, TINY_QWEN3) if tiny else (LLAMA_8B, QWEN3_06B):
        yield from _checked_attention(shape, tiny)
        yield Case("rms_norm", f"{shape.name}, 3 rows", row_works.norm(shape, 3))
        yield Case("gated", f"{shape.name}, 3 rows", row_works.gate(shape, 3))
        tokens = 5 if tiny else 37
        yield Case("turn_and_store", f"{shape.name}, {tokens} tokens", row_works.turn(shape, tokens))
    inputs, outputs = (64, 48) if tiny else (4096, 1000)
    for rows in (1, 20):
        yield Case("int8_matmul", f"{rows} x {inputs} x {outputs}", matmul_works.int8(rows, inputs, outputs))
        yield Case("int4_matmul", f"{rows} x {inputs} x {outputs}", matmul_works.int4(rows, inputs, outputs))
    yield from _sampling(3 if tiny else 32, 300 if tiny else 128256)
    yield Case("mask_rows", "5 states, 70 tokens", sampling_works.masks(5, 70), typed=False)
    for near in (False, True):
        work = sampling_works.afford(7, 5, 70, near)
        yield Case("affordable", f"7 rows, budget {'near its end' if near else 'left'}", work, typed=False)
    yield Case("bar", "7 rows, 3 tokens", sampling_works.barring(7, 70, 3), typed=False)
    yield Case("advance", "7 rows", sampling_works.walk(7, 5, 70), typed=False)


def timed(tiny: bool) -> Iterator[Case]:
    """What decode steps and prefills of the models are made of."""
    big, small = (TINY_LLAMA, TINY_QWEN3) if tiny else (LLAMA_8B, QWEN3_06B)
    batches = [(2, 40), (1, 70)] if tiny else [GOAL_DECODE, (1, 32768), (256, 1024)]
    for batch, context in batches:
        yield Case("paged_decode", f"{batch} x {context}", attention_works.decode(big, batch, context))
    if not tiny:
        yield Case("paged_decode", f"{small.name}, 64 x 2048", attention_works.decode(small, 64, 2048))
    for new, cached in [(20, 0), (5, 30)] if tiny else [(8192, 0), (2048, 14336)]:
        yield Case("paged_extend", f"{new} new, {cached} cached", attention_works.extend(big, new, cached))
    for batch, shared in [(2, 256)] if tiny else [(64, GOAL_CASCADE[1]), GOAL_CASCADE]:
        work = attention_works.cascade(big, batch, shared, 5 if tiny else OWN_TOKENS)
        yield Case("cascade_decode", cascade_name(batch, shared), work)
    for tokens in (2,) if tiny else (64, 8192):
        yield Case("rms_norm", f"{tokens} rows", row_works.norm(big, tokens))
        yield Case("gated", f"{tokens} rows", row_works.gate(big, tokens))
        yield Case("turn_and_store", f"{tokens} tokens", row_works.turn(big, tokens))
    yield Case("turn_and_store", f"{small.name}, normed", row_works.turn(small, 2 if tiny else 64))
    inputs, outputs = (64, 48) if tiny else (4096, 14336)
    for rows in (1, 17) if tiny else (1, 16, 64, 512):
        yield Case("int8_matmul", f"{rows} x {inputs} x {outputs}", matmul_works.int8(rows, inputs, outputs))
        yield Case("int4_matmul", f"{rows} x {inputs} x {outputs}", matmul_works.int4(rows, inputs, outputs))
    rows, vocabulary = (2, 300) if tiny else (64, big.vocabulary)
    yield from _sampling(rows, vocabulary)
    states = 5 if tiny else 512
    yield Case(
        "mask_rows", f"{states} states, {vocabulary} tokens", sampling_works.masks(states, vocabulary), typed=False
    )
    for near in (False, True):
        work = sampling_works.afford(rows, states, vocabulary, near)
        yield Case("affordable", f"{rows} rows, budget {'near its end' if near else 'left'}", work, typed=False)
    yield Case("bar", f"{rows} rows, 3 tokens", sampling_works.barring(rows, vocabulary, 3), typed=False)
    yield Case("advance", f"{rows} rows", sampling_works.walk(rows, states, vocabulary), typed=False)


def cascade_name(batch: int, shared: int) -> str:
    return f"{batch} share {shared}"


def _checked_attention(shape: Shape, tiny: bool) -> Iterator[Case]:
    for page in (16,) if tiny else (1, 16, 64):
        work = attention_works.decode(shape, 2, 37, page) if tiny else attention_works.decode(shape, 3, 1333, page)
        yield Case("paged_decode", f"{shape.name}, pages of {page}", work)
    cached = 9 if tiny else 700
    for new, before in [(7, 0), (3, cached)] if tiny else [(333, 0), (77, cached)]:
        name = f"{shape.name}, {new} new, {before} cached"
        yield Case("paged_extend", name, attention_works.extend(shape, new, before))
    batch, shared = (2, 256) if tiny else (9, 1024)
    name = f"{shape.name}, {cascade_name(batch, shared)}"
    yield Case("cascade_decode", name, attention_works.cascade(shape, batch, shared, 21))


def _sampling(rows: int, vocabulary: int) -> Iterator[Case]:
    size = f"{rows} x {vocabulary}"
    for name, temperature, limited, masked in DRAWS:
        work = sampling_works.draw(rows, vocabulary, temperature, limited, masked)
        yield Case("sample", f"{size}, {name}", work, typed=False)
    yield Case("penalise", f"{size}, 200 tokens", sampling_works.change(rows, vocabulary, 200), typed=False)
    yield Case("logprobs", f"{size}, likeliest 5", sampling_works.likelihoods(rows, vocabulary, 5), typed=False)
