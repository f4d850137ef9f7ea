"""From runs to medians, ratios and bounds; and that what is asked is the same work for everybody."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from benchmarks.rivals import questions
from benchmarks.rivals.base import Run
from benchmarks.rivals.bound import Table, layer_shapes, product, tokens_per_second
from benchmarks.rivals.client import check_lengths, first_token_figures
from benchmarks.rivals.setup import needed
from benchmarks.rivals.summary import HIGHER, LOWER, Spread, bounds, json_cost, median_table, of_peers, ratio, ratios
from benchmarks.serve import Answer, BadAnswer
from benchmarks.workloads import Sizes
from latticework.runtime.model.locate import find_model


def rates(peer: str, workload: str, *values: float | None) -> list[Run]:
    """A run a repeat; None failed."""
    return [
        Run(peer, repeat, workload, None if value is None else {"tokens_per_s": value}, None if value else "it broke")
        for repeat, value in enumerate(values)
    ]


def test_ratios_are_taken_repeat_by_repeat() -> None:
    """The second repeat found a machine of half the speed: that moves no ratio."""
    mine, theirs = {0: 200.0, 1: 100.0, 2: 210.0}, {0: 100.0, 1: 50.0, 2: 100.0}
    assert ratio(mine, theirs, HIGHER) == Spread(2.0, 2.0, 2.1, 3)
    assert ratio({0: 5.0}, {0: 10.0}, LOWER) == Spread(2.0, 2.0, 2.0, 1)


def test_a_repeat_that_one_side_failed_is_in_no_ratio() -> None:
    runs = [*rates("ours", "batch", 100.0, 90.0, 80.0), *rates("vllm", "batch", 50.0, None, 20.0)]
    found = ratios(runs, ["ours"], ["ours", "vllm"])
    assert found == {"batch tokens_per_s": {"ours": {"vllm": Spread(3.0, 2.0, 4.0, 2)}}}
    assert of_peers(runs)["batch"]["vllm"]["tokens_per_s"] == Spread(35.0, 20.0, 50.0, 2)


def test_a_peer_that_always_failed_has_no_numbers_at_all() -> None:
    runs = [*rates("ours", "batch", 100.0), *rates("vllm", "batch", None)]
    assert ratios(runs, ["ours"], ["ours", "vllm"]) == {}
    assert "vllm" not in of_peers(runs)["batch"]


def test_the_price_of_json_is_against_the_same_servers_free_rate() -> None:
    runs = [*rates("ours", "json", 120.0, 80.0), *rates("ours", "json_equal", 100.0, 100.0)]
    assert json_cost(runs, "ours") == Spread(1.0, 0.8, 1.2, 2)
    assert json_cost(runs, "vllm") is None


TABLE: Table = {
    "bf16": {"1": [0.02, 0.01], "16": [0.03, 0.01], "256": [0.1, 0.05]},
    "int8": {"1": [0.04, 0.01], "16": [0.01, 0.01], "256": [0.2, 0.05]},
    "int4": {"1": [0.01, 0.01], "16": [0.05, 0.01], "256": [0.4, 0.05]},
}


def test_the_bound_takes_each_product_in_its_fastest_format() -> None:
    assert tokens_per_second(TABLE, ("bf16",), 16, output=160, computed=0) == pytest.approx(16 / 0.04)
    assert tokens_per_second(TABLE, ("bf16", "int8"), 16, output=160, computed=0) == pytest.approx(16 / 0.02)
    with_prompts = tokens_per_second(TABLE, ("bf16", "int8"), 16, output=160, computed=512)
    assert with_prompts == pytest.approx(160 / (10 * 0.02 + 2 * 0.1))


def test_the_bound_is_of_the_tokens_that_were_computed() -> None:
    figures = {"output_tokens": 160.0, "prompt_tokens": 600.0, "cached_tokens": 88.0, "tokens_per_s": 200.0}
    found = bounds([Run("ours", 0, "batch", dict(figures))], [TABLE], "ours")
    assert found["batch"]["bf16"] == pytest.approx(160 / (10 * 0.04 + 2 * 0.1))
    assert found["batch"]["share_of_bf16"] == pytest.approx(200 / found["batch"]["bf16"])
    assert bounds([Run("ours", 0, "batch", dict(figures))], [], "ours") == {}


def test_matmul_tables_are_joined_entry_by_entry() -> None:
    slow = {kind: {rows: [9.0, 9.0] for rows in one} for kind, one in TABLE.items()}
    assert median_table([TABLE, slow, TABLE]) == TABLE


def test_the_bound_multiplies_all_weights_of_the_default_model() -> None:
    spec = find_model("smollm2").spec
    weights = sum(outputs * inputs for outputs, inputs in layer_shapes(spec)) * spec.num_hidden_layers
    assert weights + spec.vocab_size * spec.hidden_size == 134_479_872  # without norms, as the head is the embedding


@pytest.mark.parametrize(("kind", "error"), [("bf16", 0.01), ("int8", 0.03), ("int4", 0.1)])
def test_what_the_bound_times_is_the_product(kind: str, error: float) -> None:
    generator = torch.Generator().manual_seed(1)
    weight, x = (torch.randn(rows, 64, generator=generator) for rows in (96, 5))
    found = product(kind, weight)(x if kind == "int8" else x.bfloat16()).float()
    wanted = x @ weight.T
    assert float((found - wanted).norm() / wanted.norm()) < error


def test_first_tokens_are_compared_pair_by_pair() -> None:
    found = first_token_figures([100.0, 200.0, 400.0], [10.0, 40.0, 20.0])
    assert found == {"cold_ms": 200.0, "warm_ms": 20.0, "warm_share": 0.1}


def test_every_peer_and_no_two_repeats_get_the_same_prompts() -> None:
    asked = [
        questions.workload("program", questions.rng_of(1, "program", repeat), Sizes(requests=2)) for repeat in (0, 0, 1)
    ]
    first, again, other = ([task.calls for task in one.tasks] for one in asked)
    assert first == again != other


@pytest.mark.parametrize("name", questions.FULL_LENGTH)
def test_where_wall_times_are_compared_no_answer_ends_early(name: str) -> None:
    asked = questions.workload(name, random.Random(1), Sizes(requests=2))
    for task in asked.tasks:
        joined = [task.join(["an answer"] * len(task.calls))] if task.join else []
        assert all(call.to_the_end for call in [*task.calls, *joined])


def test_free_answers_get_the_lengths_of_the_constrained_ones() -> None:
    asked = questions.json_equal(random.Random(1), Sizes(requests=3), [31, 7, 55])
    calls = [task.calls[0] for task in asked.tasks]
    assert [(call.max_tokens, call.to_the_end, call.schema) for call in calls] == [
        (31, True, None),
        (7, True, None),
        (55, True, None),
    ]
    with pytest.raises(ValueError, match="2 lengths for 3 requests"):
        questions.json_equal(random.Random(1), Sizes(requests=3), [31, 7])


def test_the_warm_prompt_shares_all_but_its_end_with_the_cold_one() -> None:
    (pair,) = questions.first_token(random.Random(1), Sizes(requests=1))
    assert pair.cold.messages[0] == pair.warm.messages[0]
    assert pair.cold.messages[1] != pair.warm.messages[1]


def test_a_server_that_ends_early_all_the_same_is_found_out() -> None:
    asked = questions.workload("one_stream", random.Random(1), Sizes())
    whole, short = (Answer("text", 0.1, 1.0, 100, 0, length) for length in (128, 20))
    check_lengths(asked, [whole])
    with pytest.raises(BadAnswer, match="20 tokens were drawn, 128 were asked for"):
        check_lengths(asked, [short])


def test_a_short_run_asks_for_less_of_the_same() -> None:
    whole, short = questions.sizes_of(False), questions.sizes_of(True)
    for name in ("batch", "prefix", "program", "json"):
        large, small = (questions.workload(name, random.Random(1), one[name]) for one in (whole, short))
        assert len(small.tasks) < len(large.tasks)
        assert small.concurrency == large.concurrency


def test_vllms_requirements_lose_only_pictures_sound_torch_and_extras() -> None:
    asked = [
        "transformers>=5.0",
        'torch==2.13.0; platform_machine == "x86_64"',
        "torchvision",
        'boto3; extra == "tensorizer"',
        'xgrammar>=0.2; platform_machine == "x86_64"',
    ]
    assert needed(asked) == ["transformers>=5.0", 'xgrammar>=0.2; platform_machine == "x86_64"']


def test_the_plot_shows_every_peer_of_every_workload(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="of the `bench` extra")
    from benchmarks.rivals.plot import draw

    runs = [*rates("ours", "batch", 100.0, 120.0), *rates("vllm", "batch", 50.0), *rates("ours", "prefix", 70.0)]
    draw(tmp_path / "plot.svg", of_peers(runs), ["ours"], "one machine")
    written = (tmp_path / "plot.svg").read_text()
    assert [word for word in ("ours", "vllm", "110", "50", "70", "one machine") if word not in written] == []
