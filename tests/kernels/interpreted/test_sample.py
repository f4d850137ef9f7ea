"""The sampling kernels against their twins, and against the CPU's sampler: the same tokens by the same rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from latticework.kernels.logprobs import logprobs, logprobs_reference
from latticework.kernels.penalise import BIASED_ONLY, Changes, penalise, penalise_reference
from latticework.kernels.philox import uniform_reference
from latticework.kernels.sample import Draws, sample, sample_reference
from latticework.lang.ir import Sampling
from latticework.runtime.sample import sampler
from latticework.runtime.sample.philox import uniform
from tests.kernels.interpreted.device import tensor_of

WAYS = [  # temperature, top_k, top_p, min_p
    (0.0, 0, 1.0, 0.0),
    (1.0, 0, 1.0, 0.0),
    (0.7, 5, 1.0, 0.0),
    (1.3, 0, 0.8, 0.0),
    (1.0, 0, 1.0, 0.05),
    (2.0, 40, 0.9, 0.02),
    (0.5, 1, 0.1, 0.9),
    (1.0, 5000, 0.999999, 0.0),
]


def make_draws(ways: list[tuple[float, int, float, float]], seed: int, masks: Tensor | None = None) -> Draws:
    """A row of each way; rows with a mask have states 0, -1, 1, 0, -1, 1 and so on."""
    random = np.random.default_rng(seed)
    temperature, top_k, top_p, min_p = (torch.tensor(column) for column in zip(*ways, strict=True))
    return Draws(
        temperature=temperature.double(),
        top_k=top_k.int(),
        top_p=top_p.double(),
        min_p=min_p.double(),
        seeds=tensor_of(random.integers(-(2**63), 2**63, len(ways))),
        positions=tensor_of(random.integers(0, 2**32, len(ways))),
        masks=masks,
        states=None if masks is None else torch.tensor([(0, -1, 1)[r % 3] for r in range(len(ways))]).int(),
    )


def by_the_cpu(logits: Tensor, draws: Draws) -> list[int]:
    rows = []
    for r in range(len(logits)):
        state = -1 if draws.states is None else int(draws.states[r])
        sampling = Sampling(
            temperature=float(draws.temperature[r]),
            top_k=int(draws.top_k[r]) or -1,
            top_p=float(draws.top_p[r]),
            min_p=float(draws.min_p[r]),
            seed=int(draws.seeds[r]) % 2**64,
        )
        mask = None if state < 0 or draws.masks is None else draws.masks[state].cpu().numpy()
        rows.append(sampler.Row(sampling, int(draws.positions[r]), mask))
    return sampler.sample(logits, rows).tokens


def make_masks(vocabulary: int) -> Tensor:
    """Two rows: half of the tokens, and very few."""
    random = np.random.default_rng(1)
    bits = random.random((2, -(-vocabulary // 32) * 32)) < np.array([[0.5], [0.03]])
    bits[:, 7] = True
    packed = np.packbits(bits, axis=1, bitorder="little").view("<i4")
    return tensor_of(np.ascontiguousarray(packed))


@pytest.mark.parametrize(
    ("dtype", "masked"),
    [(torch.float32, False), (torch.float32, True), (torch.float16, False), (torch.bfloat16, True)],
)
def test_tokens_are_the_twins_and_the_cpus(dtype: torch.dtype, masked: bool) -> None:
    torch.manual_seed(5)
    logits = (3 * torch.randn(len(WAYS), 333)).to(dtype)
    draws = make_draws(WAYS, 3, make_masks(333) if masked else None)
    tokens, status = sample(logits, draws)
    assert status.tolist() == [0] * len(WAYS)
    assert tokens.tolist() == sample_reference(logits, draws)[0].tolist() == by_the_cpu(logits, draws)


def test_ties_go_to_the_lower_id() -> None:
    logits = torch.randint(-2, 3, (len(WAYS), 200)).float()  # five values, a zero of either sign among them
    logits[:, ::7] *= -1.0
    draws = make_draws(WAYS, 4)
    assert sample(logits, draws)[0].tolist() == by_the_cpu(logits, draws)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_many_draws_over_several_blocks_are_the_cpus(seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = tensor_of(random.normal(0, random.choice([0.5, 2, 8]), (16, 5000))).float()
    logits[:, ::3] = logits[:, ::3].round()
    ways = [
        (random.choice([0.3, 1.0, 1.7]), int(random.integers(0, 300)), random.uniform(0.05, 1), random.uniform(0, 0.1))
        for _ in range(16)
    ]
    draws = make_draws(ways, seed, make_masks(5000) if seed % 2 else None)
    assert sample(logits, draws)[0].tolist() == by_the_cpu(logits, draws)


def test_rows_that_cannot_be_drawn_say_why() -> None:
    logits = torch.zeros(6, 70)
    logits[0, 3] = torch.nan
    logits[1, 3] = torch.inf
    logits[2] = -torch.inf
    masks = torch.zeros(2, 3, dtype=torch.int32)
    masks[1, 0] = 1 << 4
    logits[4, 4] = -torch.inf
    ways = [(1.0, 0, 0.5, 0.0)] * 6
    draws = replace(make_draws(ways, 1), masks=masks, states=torch.tensor([-1, -1, -1, 0, 1, 1]).int())
    tokens, status = sample(logits, draws)
    assert status.tolist() == [1, 2, 2, 3, 4, 0]
    assert tokens.tolist() == [-1] * 5 + [4]
    twin = sample_reference(logits, draws)
    assert (twin[0].tolist(), twin[1].tolist()) == (tokens.tolist(), status.tolist())


def test_uniform_numbers_are_those_of_the_cpu() -> None:
    for seed, position in ((0, 0), (2**64 - 1, 2**32 - 1), (123456789123456789, 77)):
        assert uniform_reference(seed, position) == uniform([seed], [position])[0]


def test_what_sampling_cannot_take_is_named() -> None:
    logits, draws = torch.zeros(2, 70), make_draws(WAYS[:2], 1)
    masks, states = torch.zeros(1, 3, dtype=torch.int32), torch.zeros(2, dtype=torch.int32)
    for numbers, wrong, error, text in [
        (logits.double(), draws, TypeError, "float64; supported are"),
        (logits[0], draws, ValueError, r"logits \(70,\)"),
        (logits, replace(draws, top_k=draws.top_k.long()), TypeError, "top_k .*int64; expected torch.int32"),
        (logits, replace(draws, seeds=draws.seeds[:1]), TypeError, r"seeds \(1,\)"),
        (logits, replace(draws, masks=masks), ValueError, "masks and states go together"),
        (logits, replace(draws, masks=masks[:, :2], states=states), ValueError, r"masks \(1, 2\) .*\[S, 3\]"),
    ]:
        with pytest.raises(error, match=f"sample: .*{text}"):
            sample(numbers, wrong)


def make_changes() -> Changes:
    return Changes(
        tokens=torch.tensor([[3, 0, 299, -1], [5, 6, 7, 8]]),
        times=torch.tensor([[2, 0, BIASED_ONLY, 0], [1, 4, 0, BIASED_ONLY]]).int(),
        bias=torch.tensor([[0.0, 0.0, 2.5, 9.0], [0.0, -1.0, 0.0, 100.0]]).double(),
        repetition=torch.tensor([1.3, 1.0]).double(),
        frequency=torch.tensor([0.2, -0.5]).double(),
        presence=torch.tensor([0.0, 1.1]).double(),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_penalties_are_the_twins(dtype: torch.dtype) -> None:
    logits = torch.randn(2, 300).to(dtype)
    got, expected = logits.clone(), logits.double()
    penalise(got, make_changes())
    penalise_reference(expected.float(), make_changes())
    wide = logits.float()
    penalise_reference(wide, make_changes())
    torch.testing.assert_close(got.float(), wide, rtol=8e-3 if dtype != torch.float32 else 1e-6, atol=0)
    untouched = torch.ones_like(got, dtype=torch.bool)
    untouched[0, [3, 0, 299]] = untouched[1, [5, 6, 7, 8]] = False
    assert torch.equal(got[untouched], logits[untouched])


def test_penalties_are_the_cpus() -> None:
    logits = torch.randn(1, 50)
    sampling = Sampling(
        repetition_penalty=1.4, frequency_penalty=0.3, presence_penalty=0.7, logit_bias=((2, 1.5), (40, -2.0))
    )
    before, output = np.array([1, 2, 9]), [9, 30, 30, 30]
    listed = {1: (0, 0.0), 2: (0, 1.5), 9: (1, 0.0), 30: (3, 0.0), 40: (BIASED_ONLY, -2.0)}
    changes = Changes(
        tokens=torch.tensor([list(listed)]),
        times=torch.tensor([[times for times, _ in listed.values()]]).int(),
        bias=torch.tensor([[bias for _, bias in listed.values()]]).double(),
        repetition=torch.tensor([1.4]).double(),
        frequency=torch.tensor([0.3]).double(),
        presence=torch.tensor([0.7]).double(),
    )
    got = logits.clone()
    penalise(got, changes)
    expected = sampler.penalised(logits[0].cpu().numpy(), sampling, before, output)
    np.testing.assert_array_equal(got[0].cpu().numpy(), expected.astype(np.float32))


def test_what_penalties_cannot_take_is_named() -> None:
    with pytest.raises(TypeError, match=r"penalise: times .*int64; expected torch.int32 \(2, 4\)"):
        penalise(torch.zeros(2, 300), replace(make_changes(), times=make_changes().times.long()))
    with pytest.raises(TypeError, match=r"penalise: dtype torch.float64"):
        penalise(torch.zeros(2, 300).double(), make_changes())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_logprobs_are_the_twins_and_the_cpus(dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    logits = torch.randn(4, 150).to(dtype)
    logits[1] = logits[1].round()  # ties
    logits[2, :147] = -torch.inf  # fewer than are asked for have a probability
    logits[3, 5] = torch.nan
    tokens = torch.tensor([17, -1, 149, 5])
    got, expected = logprobs(logits, tokens, 5), logprobs_reference(logits, tokens, 5)
    assert got[1].tolist() == expected[1].tolist()
    for numbers, wanted in ((got[0], expected[0]), (got[2], expected[2])):
        torch.testing.assert_close(numbers, wanted, rtol=1e-12, atol=1e-12, equal_nan=True)
    cpu = sampler.log_probabilities(logits[0].float().cpu().numpy(), 17, 5)
    assert [token for token, _ in cpu.top] == got[1][0].tolist()


def test_what_logprobs_cannot_take_is_named() -> None:
    with pytest.raises(ValueError, match=r"logprobs: logits \(2, 8\), count 9"):
        logprobs(torch.zeros(2, 8), torch.zeros(2, dtype=torch.int64), 9)
    with pytest.raises(TypeError, match=r"logprobs: tokens .*int32"):
        logprobs(torch.zeros(2, 8), torch.zeros(2).int(), 1)
