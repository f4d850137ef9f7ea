"""Logits equal transformers' on tiny random weights, whatever way the tokens come."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from latticework.kernels.cpu.library import Library
from latticework.runtime.model.load import load_model, torch_dtype
from latticework.runtime.model.locate import find_model
from tests.runtime.model.by_hand import make_runner, save_llama, save_model
from tests.runtime.model.families import FAMILIES, Family
from tests.runtime.model.ways import FIRST, after_a_prefix_hit, check_parity, whole

ROWS = [(family, shape) for family in FAMILIES for shape in family.shapes]


@pytest.mark.parametrize(("family", "shape"), ROWS, ids=lambda value: str(value))
def test_logits_and_greedy_tokens_equal_transformers(
    family: Family, shape: str, tmp_path: Path, library: Library | None
) -> None:
    theirs = save_model(tmp_path, family.architecture, family.config, **family.base | family.shapes[shape])
    ours = load_model(find_model(str(tmp_path)), "float32")
    check_parity(ours, theirs)
    if library is not None:
        check_parity(ours, theirs, library)


def test_logits_equal_transformers_in_float64(tmp_path: Path, library: Library | None) -> None:
    theirs = save_llama(tmp_path).double()
    ours = load_model(find_model(str(tmp_path)), "float64")
    with torch.no_grad():
        expected = theirs(torch.tensor([FIRST])).logits[0]
    found = [after_a_prefix_hit(make_runner(ours, torch.float64, library=one))[0] for one in (None, library)]
    for logits in found:
        assert logits.dtype == torch.float64
        assert (logits - expected).abs().max() < 1e-4  # transformers keeps its angles and norms in float32
    assert (found[0] - found[1]).abs().max() < 1e-11


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bit_logits_come_out_as_float32_close_to_transformers(
    dtype: str, tmp_path: Path, library: Library | None
) -> None:
    theirs = save_model(tmp_path, "LlamaForCausalLM", "LlamaConfig").to(torch_dtype(dtype))
    ours = load_model(find_model(str(tmp_path)), dtype)
    with torch.no_grad():
        expected = theirs(torch.tensor([FIRST])).logits[0].float()
    for one in (None, library):
        logits, _ = whole(make_runner(ours, torch_dtype(dtype), library=one))
        assert logits.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(logits, expected).min() > 0.99
