"""The benchmark on the tiny model: workloads on every side, compared by what they computed, never by time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.programs.__main__ import main, parse
from benchmarks.programs.known import WORKLOADS

STRAIGHT = {"few_shot", "select_prefix", "react", "extraction", "chat"}
SIDES = {"compiled", "interpreted", "raw"}
SOME = ["select_prefix"]
OTHERS = sorted(set(WORKLOADS) - set(SOME))


@pytest.mark.parametrize("names", [SOME, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["some", "others"])
def test_every_workload_runs_on_every_side_and_computes_no_more_than_it_has_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str]
) -> None:
    report = tmp_path / "report.json"
    main(["--model", "tiny", "--repeats", "1", "--json", str(report), "--only", *names])
    results = {result["name"]: result for result in json.loads(report.read_text())["results"]}
    assert list(results) == names
    for name, result in results.items():
        assert set(result["seconds"]) == SIDES, name
        assert list(result["counted"]) == ["off", "all"], name
        for counted in result["counted"].values():
            assert set(counted["sides"]) == SIDES, name
            compiled, interpreted = counted["sides"]["compiled"], counted["sides"]["interpreted"]
            assert compiled["waits"] == 1, name
            assert compiled["output"] == interpreted["output"] > 0, name
            assert counted["ideal"]["prefill"] <= compiled["computed"] <= 1.05 * counted["ideal"]["prefill"], name
            assert compiled["steps"] <= 1.1 * counted["ideal"]["steps"], name
            if name in STRAIGHT:
                assert interpreted["waits"] == 1, name
    if "select_prefix" in names:  # no cache helps raw calls with it
        selected = results["select_prefix"]["counted"]["all"]
        assert selected["sides"]["raw"]["computed"] > selected["ideal"]["prefill"]
    told = capsys.readouterr().out
    assert "of ideal" in told
    assert "beyond the limits" in told


def test_unknown_workloads_and_negative_repeats_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in ((["--only", "nothing"], "nothing"), (["--repeats", "-1"], "expected 0 or more")):
        with pytest.raises(SystemExit):
            parse(arguments)
        assert said in capsys.readouterr().err
