"""The sampling rule against a slow scalar twin, and that a row is nobody else's business."""

import math
import random

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from latticework.lang.ir import Sampling
from latticework.runtime.sample.philox import uniform
from latticework.runtime.sample.sampler import Row, sample

V = 300  # no multiple of 32; more than the sampler's first nucleus


def pack(allowed: set[int], vocabulary: int = V) -> NDArray[np.int32]:
    words = np.zeros(-(-vocabulary // 32), dtype=np.uint32)
    for token in allowed:
        words[token // 32] |= np.uint32(1 << token % 32)
    return words.view(np.int32)


def reference(logits: list[float], sampling: Sampling, position: int, allowed: set[int] | None) -> int:
    """The rule as the docstring of the sampler states it, one token at a time."""
    ids = [t for t in range(len(logits)) if allowed is None or t in allowed]
    ranked = sorted(ids, key=lambda t: (-logits[t], t))
    if sampling.temperature == 0.0:
        return ranked[0]
    peak = logits[ranked[0]]
    if sampling.top_k > 0:
        ranked = ranked[: sampling.top_k]
    # numpy's exp: the last bit of libm's differs on some machines
    p = {t: float(np.exp(np.array([(logits[t] - peak) / sampling.temperature]))[0]) for t in ranked}
    if sampling.top_p < 1.0:
        total = 0.0
        for t in sorted(ranked):
            total += p[t]
        so_far, kept = 0.0, []
        for t in ranked:
            kept.append(t)
            so_far += p[t]
            if so_far >= sampling.top_p * total:
                break
        ranked = kept
    ranked = [t for t in ranked if p[t] >= sampling.min_p * p[ranked[0]]]
    total = 0.0
    for t in sorted(ranked):
        total += p[t]
    u = float(uniform(np.array([sampling.seed], dtype=np.uint64), [position])[0])
    so_far = 0.0
    for t in sorted(ranked):
        so_far += p[t]
        if so_far > u * total:
            return t
    raise AssertionError("unreachable for u < 1")


def random_rows(count: int, seed: int) -> tuple[torch.Tensor, list[Row], list[set[int] | None]]:
    choose = random.Random(seed)
    spread = [choose.choice((0.1, 1.0, 6.0)) for _ in range(count)]
    noise = torch.randn(count, V, generator=torch.Generator().manual_seed(seed))
    logits = noise * torch.tensor(spread)[:, None]
    rows, sets = [], []
    for _ in range(count):
        sampling = Sampling(
            temperature=choose.choice((0.0, 0.3, 1.0, 1.0, 2.5)),
            top_k=choose.choice((-1, -1, 1, 5, 299, 1000)),
            top_p=choose.choice((1.0, 1.0, 0.01, 0.5, 0.95, 0.999)),
            min_p=choose.choice((0.0, 0.0, 0.05, 1.0)),
            seed=choose.randrange(1 << 64),
            logprobs=choose.choice((None, 0, 4)),
        )
        allowed = choose.choice((None, set(choose.sample(range(V), choose.choice((1, 2, 40, 280))))))
        rows.append(Row(sampling, choose.randrange(1000), None if allowed is None else pack(allowed)))
        sets.append(allowed)
    return logits, rows, sets


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_sampler_equals_the_scalar_rule(dtype: torch.dtype) -> None:
    logits, rows, sets = random_rows(250, seed=5)
    logits = logits.to(dtype)  # bfloat16 has many ties
    drawn = sample(logits, rows)
    assert not drawn.errors
    for values, row, allowed, token in zip(logits.double().tolist(), rows, sets, drawn.tokens, strict=True):
        assert token == reference(values, row.sampling, row.position, allowed), row.sampling


def test_a_row_never_depends_on_the_others() -> None:
    logits, rows, _ = random_rows(60, seed=6)
    together = sample(logits, rows)
    backwards = sample(logits.flip(0), rows[::-1])
    for r, row in enumerate(rows):
        alone = sample(logits[r : r + 1], [row])
        assert alone.tokens == [together.tokens[r]] == [backwards.tokens[-1 - r]]
        assert alone.logprobs == [together.logprobs[r]] == [backwards.logprobs[-1 - r]]


def test_the_draw_is_the_inverse_of_the_distribution_in_token_order() -> None:
    p = [0.1, 0.0, 0.4, 0.2, 0.3]
    logits = torch.tensor([[math.log(x) if x else -math.inf for x in p]], dtype=torch.float64)
    edges = np.cumsum(p)
    for position in range(200):
        u = float(uniform(np.array([9], dtype=np.uint64), [position])[0])
        expected = int(np.searchsorted(edges, u, side="right"))
        assert sample(logits, [Row(Sampling(seed=9), position)]).tokens == [expected]


def test_equal_logits_go_to_the_lower_id() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0, 2.0, 1.0]])
    assert sample(logits, [Row(Sampling(temperature=0.0), 0)]).tokens == [1]
    assert sample(logits, [Row(Sampling(temperature=0.0), 0, pack({0, 2, 3}, 5))]).tokens == [2]
    seen = {
        kind: {sample(logits, [Row(sampling, position)]).tokens[0] for position in range(60)}
        for kind, sampling in {
            "top_k": Sampling(top_k=2, seed=1),
            "top_p": Sampling(top_p=0.5, seed=1),
            "both": Sampling(top_k=3, top_p=0.34, seed=1),
            "min_p": Sampling(min_p=1.0, seed=1),
        }.items()
    }
    assert seen == {"top_k": {1, 2}, "top_p": {1, 2}, "both": {1, 2}, "min_p": {1, 2, 3}}


def test_top_p_counts_what_top_k_left() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64).log()
    # of the two left, 0.4 / 0.7 = 0.571 is enough for 0.55; of all four it would not be
    rows = [Row(Sampling(top_k=2, top_p=0.55, seed=3), position) for position in range(50)]
    assert set(sample(logits.repeat(50, 1), rows).tokens) == {0}
    rows = [Row(Sampling(top_p=0.55, seed=3), position) for position in range(50)]
    assert set(sample(logits.repeat(50, 1), rows).tokens) == {0, 1}


def test_a_tiny_temperature_is_greedy() -> None:
    logits = torch.tensor([[1.0, 1.5, -3.0]])
    assert sample(logits, [Row(Sampling(temperature=1e-300, seed=1), 0)]).tokens == [1]


def test_the_mask_may_have_bits_beyond_the_vocabulary() -> None:
    mask = np.array([-1], dtype=np.int32)  # 32 bits for 5 tokens
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0]])
    assert sample(logits, [Row(Sampling(temperature=0.0), 0, mask)]).tokens == [4]


def test_logprobs_are_the_raw_models_whatever_the_constraint() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 0.0]])
    row = Row(Sampling(temperature=0.0, logprobs=3), 0, pack({3}, 4))
    drawn = sample(logits, [row])
    expected = torch.log_softmax(logits[0].double(), dim=0).tolist()
    chosen = drawn.logprobs[0]
    assert drawn.tokens == [3]
    assert chosen is not None
    assert chosen.logprob == pytest.approx(expected[3], abs=1e-12)
    assert [token for token, _ in chosen.top] == [1, 2, 0]
    assert [value for _, value in chosen.top] == pytest.approx([expected[1], expected[2], expected[0]], abs=1e-12)


def test_logprobs_are_given_only_where_asked() -> None:
    rows = [Row(Sampling(temperature=0.0), 0), Row(Sampling(temperature=0.0, logprobs=0), 0)]
    first, second = sample(torch.zeros(2, 4), rows).logprobs
    assert first is None
    assert second is not None
    assert second.top == ()
    assert second.logprob == pytest.approx(math.log(0.25))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("sampling", [Sampling(temperature=0.0), Sampling(seed=1, logprobs=2)])
def test_a_broken_row_fails_alone(bad: float, sampling: Sampling) -> None:
    logits = torch.zeros(3, 8)
    logits[1, 5] = bad
    drawn = sample(logits, [Row(sampling, 0)] * 3)
    assert list(drawn.errors) == [1]
    assert ("NaN" in drawn.errors[1]) == math.isnan(bad)
    assert drawn.tokens[1] == -1
    assert drawn.logprobs[1] is None
    assert drawn.tokens[0] == drawn.tokens[2] != -1


def test_a_row_without_an_allowed_token_fails_alone() -> None:
    logits = torch.zeros(3, 8)
    logits[2, :4] = -math.inf
    masks = [pack({1}, 8), pack(set(), 8), pack({0, 3}, 8)]
    for sampling in (Sampling(temperature=0.0), Sampling(seed=1, top_k=2)):
        drawn = sample(logits, [Row(sampling, 0, mask) for mask in masks])
        assert drawn.tokens == [1, -1, -1]
        assert drawn.errors == {
            1: "the constraint allows no token",
            2: "every token the constraint allows has probability zero",
        }


def test_no_rows_draw_nothing() -> None:
    assert sample(torch.zeros(0, 8), []).tokens == []
