"""The sampler with the C++ operations draws what it draws without them."""

from __future__ import annotations

import random
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch

from latticework.kernels.cpu.library import DTYPES, Library
from latticework.runtime.sample.sampler import sample
from tests.runtime.sample.test_sampler import V, random_rows


@pytest.mark.parametrize("dtype", DTYPES)
def test_tokens_and_logprobs_are_the_same_with_the_library(library: Library | None, dtype: torch.dtype) -> None:
    if library is None:
        pytest.skip("needs a C++ compiler")
    logits, rows, _ = random_rows(200, seed=8)
    logits[17, 5], logits[18, 5], logits[19] = torch.nan, torch.inf, -torch.inf
    choose = random.Random(8)
    for r in range(0, 200, 3):  # with penalties, broken ones among them
        sampling = msgspec.structs.replace(
            rows[r].sampling,
            presence_penalty=choose.choice((0.0, 1.0)),
            repetition_penalty=choose.choice((1.0, 1.2)),
            logit_bias=choose.choice(((), ((3, 2.0),))),
        )
        output = choose.choices(range(V), k=9)
        rows[r] = replace(rows[r], sampling=sampling, before=np.arange(0, V, 7), output=output, barred=(4,))
    places = choose.choices(range(200), k=200)
    places[:3] = 17, 18, 19
    found = sample(logits.to(dtype), rows, places, library)
    expected = sample(logits.to(dtype), rows, places)
    assert found == expected
    assert set(found.errors.values()) == {"model produced NaN", "model produced infinite logits"}
