"""The harness of the constraint benchmark counts rightly, on a vocabulary of bytes and schemas of its own."""

from __future__ import annotations

import base64
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import constraints
from benchmarks.constraint_cases import REGEXES

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}


def test_the_texts_of_the_pattern_list_are_labelled_rightly() -> None:
    for pattern, valid, invalid in REGEXES.values():
        assert all(re.fullmatch(pattern, text) for text in valid)
        assert not any(re.fullmatch(pattern, text) for text in invalid)


def schema_case(name: str, schema: Any, **instances: tuple[Any, bool]) -> dict[str, Any]:
    tests = []
    for value, is_valid in instances.values():
        texts = [json.dumps(value, separators=(",", ":")), json.dumps(value)]
        tests.append({"valid": is_valid, "forms": [[byte + 1 for byte in text.encode()] for text in texts]})
    return {"id": name, "set": "json", "kind": "json", "source": schema, "tests": tests}


def test_judgements_refusals_and_times_of_this_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = [
        schema_case("right", SCHEMA, a=({"a": 1}, True), b=({"a": "x"}, False), c=({}, True)),
        schema_case("labelled wrongly", SCHEMA, a=({"a": 1}, False), b=({"b": 1}, True)),
        schema_case("refused", {"$ref": "http://example.com/x.json"}, a=(1, True)),
    ]
    tokens = [base64.b64encode(token).decode() for token in [b"", *(bytes([byte]) for byte in range(256))]]
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"tokens": tokens, "end_ids": [0], "tokenizer": "", "cases": cases}))
    results = constraints.run_engine("latticework", sys.executable, job, len(cases), runs=2)
    row = constraints.summaries(cases, results)["json"]
    counts = {name: row[name] for name in ("cases", "compiled", "errors", "timeouts", "with_tests", "fully_right")}
    assert counts == {"cases": 3, "compiled": 2, "errors": 1, "timeouts": 0, "with_tests": 3, "fully_right": 1}
    assert (row["false_rejects"], row["valid"], row["false_accepts"], row["invalid"]) == (1, 3, 1, 2)
    assert row["cold_us"]["n"] == row["warm_us"]["n"] > 20
    assert results[2]["pointer"] == "/$ref"
    assert not constraints.disagreements(cases, results, results)
    assert "fully right" not in capsys.readouterr().out


def test_a_worker_that_dies_loses_its_case_alone(tmp_path: Path) -> None:
    cases = [{"id": "x", "set": "json", "kind": "no such kind", "source": 1, "tests": []}] * 2
    job = tmp_path / "job.json"
    job.write_text(json.dumps({"tokens": ["", "YQ=="], "end_ids": [0], "tokenizer": "", "cases": cases}))
    results = constraints.run_engine("latticework", sys.executable, job, len(cases), runs=1)
    assert [result["crash"] for result in results] == [True, True]


def test_reasons_are_told_apart_by_their_words_alone() -> None:
    same = constraints.reason_of("'a' is 3 of 5 (at /x/y)"), constraints.reason_of("'b' is 10 of 9 (at /z)")
    assert same[0] == same[1]
