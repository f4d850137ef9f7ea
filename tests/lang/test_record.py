"""Recording and replaying: what is written of a run, and what is seen when it is run again."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

import latticework as lw
from latticework.lang import record
from latticework.lang.backends.runtime import Runtime
from latticework.lang.backends.scripted import Reply
from latticework.lang.comparing import first_difference
from latticework.lang.events import TokenLogprob
from latticework.lang.record import read_records

pytestmark = pytest.mark.timeout(60)

REPLIES = {"x": "one", "y": "two"}


@lw.function
def program(s: lw.State, word: str) -> None:
    s += lw.user("Say " + word)
    s += lw.assistant(lw.gen("x", max_tokens=8))
    forks = s.fork(2)
    forks += "And: " + lw.gen("y", max_tokens=6)
    forks.join()
    if s["x"]:
        s += "It was " + s["x"] + lw.select("z", ["a", "b"])


@lw.function
def straight(s: lw.State, word: str) -> None:
    s += "Say " + word + lw.gen("x", max_tokens=8)
    s += " again " + s["x"] + lw.gen("y", max_tokens=6, n=2)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "x.jsonl"


def test_every_way_to_run_writes_one_line(file: Path) -> None:
    compiled = straight.compile()
    with lw.Scripted(REPLIES) as backend:
        settings: dict[str, Any] = {"backend": backend, "record": file}
        program.run("a", **settings)
        asyncio.run(program.arun("b", **settings))
        program.run_batch([{"word": "c"}, {"word": "d"}], **settings)
        program.run("e", stream=True, **settings).wait(10)
        compiled.run("f", **settings)
        asyncio.run(compiled.arun("g", **settings))
        compiled.run_batch([{"word": "h"}, {"word": "i"}], **settings)
    found = [recorded for _, recorded in read_records(file)]
    assert [recorded.name for recorded in found] == ["program"] * 5 + ["straight"] * 4
    assert [recorded.item for recorded in found[2:4]] in ([0, 1], [1, 0])
    assert sorted(recorded.arguments["word"] for recorded in found[5:]) == ["f", "g", "h", "i"]
    assert found[5].program == compiled.ir
    assert {recorded.error for recorded in found} == {None}


def test_a_line_has_the_ops_the_settings_and_the_answers(file: Path) -> None:
    with lw.Scripted(REPLIES) as backend:
        state = program.run("a", backend=backend, record=str(file), seed=7, temperature=0.5)
    line = json.loads(file.read_text())
    assert (line["format"], line["name"], line["backend"], line["model"]) == (1, "program", "scripted", None)
    assert (line["seed"], line["item"], line["sampling"]) == (7, 0, {"temperature": 0.5})
    assert lw.Program.from_json(json.dumps(line["program"])) == state.program()
    first = line["answers"][0]
    meta = state.meta("x")
    assert (first["text"], first["finish"], first["seed"]) == ("one", "stop", meta.seed)
    assert first["usage"]["output"] == meta.usage.output
    assert [answer["text"] for answer in line["answers"]] == ["one", "a", "two", "two"]


def test_errors_are_told_by_name_alone(file: Path) -> None:
    with (
        lw.Scripted({"x": lw.EngineDied("the key is sentinel-key")}) as backend,
        pytest.raises(lw.EngineDied),
    ):
        straight.run("a", backend=backend, record=file)
    ((_, recorded),) = read_records(file)
    assert [(error.position, error.type) for error in recorded.errors] == [(1, "EngineDied")]
    assert recorded.error == "EngineDied"
    assert "sentinel" not in file.read_text()


def test_what_is_the_same_has_no_differences(file: Path) -> None:
    with lw.Scripted(REPLIES) as backend:
        program.run("a", backend=backend, record=file)
        straight.compile().run("b", backend=backend, record=file)
        found = lw.replay(file, backend)
    assert [(replayed.line, replayed.same, replayed.left_out) for replayed in found] == [(1, True, 0), (2, True, 0)]
    assert found[0].answers == found[0].recorded.answers


def test_what_differs_is_shown_op_by_op_with_its_first_character(file: Path) -> None:
    with lw.Scripted(REPLIES) as backend:
        program.run("a", backend=backend, record=file)
    with lw.Scripted({**REPLIES, "y": ["two", "t\x1bo"]}) as backend:
        (replayed,) = lw.replay(file, backend)
    (difference,) = replayed.differences
    assert (difference.branch, difference.what, difference.recorded, difference.now) == (2, "text", "two", "t\x1bo")
    assert difference.first == 1
    shown = lw.show_replayed(replayed).plain
    assert "1 difference\n  branch 2, op 1: gen y max_tokens=6\n    text differs from character 1 on" in shown
    assert "recorded: 'two'\n         now: 't\\x1bo'" in shown


def told(text: str, *logprobs: float, first: int = 5, **fields: Any) -> Reply:
    """A reply that tells of its tokens."""
    tokens = tuple(
        TokenLogprob(first + index, letter, logprob)
        for index, (letter, logprob) in enumerate(zip(text, logprobs, strict=True))
    )
    return Reply(text, logprobs=tokens, **fields)


@lw.function
def numbers(s: lw.State) -> None:
    s += "p" + lw.gen("x", return_logprob=True, regex="[a-z]+", max_tokens=9)
    s += lw.select("y", ["a", "b"])


def differing(file: Path, then: Any, now: Any, **options: Any) -> list[tuple[Any, ...]]:
    """What is different where the gen, or the gen and the select, first said this and now that."""
    replies = [dict(zip("xy", one if isinstance(one, tuple) else (one, "a"), strict=True)) for one in (then, now)]
    with lw.Scripted(replies[0]) as backend:
        numbers.run(backend=backend, record=file)
    with lw.Scripted(replies[1]) as backend:
        (replayed,) = lw.replay(file, backend, **options)
    return [(one.what, one.recorded, one.now, one.first) for one in replayed.differences]


def test_log_probabilities_may_be_a_little_apart_and_no_further(file: Path) -> None:
    then = told("abc", -0.5, -1.0, -float("inf"))
    near, far = told("abc", -0.5004, -1.0, -float("inf")), told("abc", -0.5, -1.2, -3.0)
    assert differing(file, then, near) == []
    assert differing(file.with_name("2"), then, far) == [("logprobs", "-1.000000", "-1.200000", 1)]
    assert differing(file.with_name("3"), then, near, tolerance=1e-5) == [("logprobs", "-0.500000", "-0.500400", 0)]
    assert differing(file.with_name("4"), then, far, tolerance=None) == []
    last = told("abc", -0.5, -1.0, -3.0)
    assert differing(file.with_name("5"), then, last) == [("logprobs", "-inf", "-3.000000", 2)]


def test_the_same_text_of_other_tokens_is_told_apart(file: Path) -> None:
    assert differing(file, told("ab", -1.0, -1.0), told("ab", -1.0, -1.0, first=6)) == [("tokens", "5 6", "6 7", 0)]
    shorter = Reply("ab", logprobs=(TokenLogprob(5, "ab", -1.0),))
    assert differing(file.with_name("2"), told("ab", -1.0, -1.0), shorter) == [("tokens", "6", "the end", 1)]
    silent = Reply("ab")
    assert differing(file.with_name("3"), told("ab", -1.0, -1.0), silent) == []  # it does not tell of its tokens


def test_after_another_text_only_the_tokens_before_it_are_compared(file: Path) -> None:
    then, now = told("ab", -1.0, -1.0), Reply("ac", logprobs=(TokenLogprob(5, "a", -2.0), TokenLogprob(9, "c", -9.0)))
    assert differing(file, then, now) == [("text", "ab", "ac", 1), ("logprobs", "-1.000000", "-2.000000", 0)]


def test_whether_a_constraint_was_met_is_compared(file: Path) -> None:
    assert differing(file, Reply("ab"), Reply("ab", complete=False)) == [("complete", "True", "False", None)]


def test_scores_of_a_select_are_compared(file: Path) -> None:
    then, now = Reply("a", scores=(-1.0, -2.0)), Reply("a", scores=(-1.0, -2.5))
    assert differing(file, ("x", then), ("x", now)) == [("scores", "-2.000000", "-2.500000", 1)]
    assert differing(file.with_name("2"), ("x", then), ("x", Reply("a", scores=(-1.0, -2.0005)))) == []


def test_tokens_of_prompts_and_outputs_are_compared_on_request(file: Path) -> None:
    assert differing(file, "ab", "ab", usage=True) == []
    longer = differing(file.with_name("2"), "ab", "abc", usage=True)
    assert ("output_tokens", "2", "3", None) in longer
    assert ("prompt_tokens", "3", "4", None) in longer  # of the select behind it


def test_lines_of_an_older_build_are_compared_in_what_they_have(file: Path) -> None:
    with lw.Scripted({"x": told("ab", -1.0, -1.0), "y": "a"}) as backend:
        numbers.run(backend=backend, record=file)
    line = json.loads(file.read_text())
    for answer in line["answers"]:
        for field in ("complete", "stopped_by", "tokens", "logprobs"):
            answer.pop(field, None)
    file.write_text(json.dumps(line) + "\n")
    with lw.Scripted({"x": told("ab", -5.0, -1.0, complete=False), "y": "a"}) as backend:
        (replayed,) = lw.replay(file, backend)
    assert replayed.same


def test_numbers_that_differ_are_shown_with_their_place(file: Path) -> None:
    with lw.Scripted({"x": told("ab", -1.0, -1.0), "y": "a"}) as backend:
        numbers.run(backend=backend, record=file)
    with lw.Scripted({"x": told("ab", -1.0, -4.0, complete=False), "y": "a"}) as backend:
        (replayed,) = lw.replay(file, backend, usage=True)
    shown = lw.show_replayed(replayed).plain
    assert "complete differs\n    recorded: True\n         now: False" in shown
    assert "logprobs differs from token 1 on\n    recorded: -1.000000\n         now: -4.000000" in shown


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf"), "0", True])
def test_a_tolerance_that_is_none_is_refused(file: Path, tolerance: Any) -> None:
    with lw.Scripted(REPLIES) as backend:
        program.run("a", backend=backend, record=file)
        with pytest.raises(lw.InvalidArgument, match="tolerance"):
            lw.replay(file, backend, tolerance=tolerance)


def test_an_error_is_an_outcome_that_is_compared_by_name(file: Path) -> None:
    with lw.Scripted({"x": lw.EngineDied("one"), "y": "two"}) as backend:
        for _ in range(2):
            with pytest.raises(lw.EngineDied):
                straight.compile().run("a", backend=backend, record=file)
    with lw.Scripted({"x": [lw.EngineDied("two"), "fine"], "y": "two"}) as backend:
        same, other = lw.replay(file, backend)
    assert same.same
    assert [(one.what, one.recorded) for one in other.differences] == [("outcome", "EngineDied")] * 2
    assert other.differences[0].now == "text 'fine'"


def test_ops_that_a_body_or_a_cancel_cut_off_are_left_out(file: Path) -> None:
    @lw.function
    def raises(s: lw.State) -> None:
        s += lw.gen("x")
        s["x"]
        s += lw.gen("late")
        raise KeyError("mine")

    with lw.Scripted({"x": "one", "late": "late"}) as backend:
        with pytest.raises(KeyError):
            raises.run(backend=backend, record=file)
        (replayed,) = lw.replay(file, backend)
    assert replayed.recorded.error == "KeyError"
    assert replayed.same


def test_a_file_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path) -> None:
    with lw.Scripted(REPLIES) as backend:
        for wrong in (tmp_path, tmp_path / "no" / "x", 3, "a\0b"):
            with pytest.raises(lw.InvalidArgument) as caught:
                program.run("a", backend=backend, record=wrong)
            assert caught.value.field == "record"
        assert backend.opened == 0


def test_a_line_that_cannot_be_written_fails_the_run(file: Path) -> None:
    def answer(prompt: str, op: object) -> str:
        if file.is_file():
            file.unlink()
            file.mkdir()
        return "a"

    runs: list[Any] = [straight.run, straight.compile().run, lambda *a, **k: asyncio.run(straight.arun(*a, **k))]
    for run in runs:
        with lw.Scripted(answer) as backend, pytest.raises(lw.RuntimeFailure, match="not recorded"):
            run("a", backend=backend, record=file)
        file.rmdir()


def test_lines_of_many_threads_stay_whole(file: Path) -> None:
    def many() -> None:
        for _ in range(20):
            straight.run("word " * 2000, backend=backend, record=file)

    with lw.Scripted(REPLIES) as backend:
        threads = [threading.Thread(target=many) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert len(list(read_records(file))) == 80


# ---------------------------------------------------------------- reading


@pytest.fixture
def line(file: Path) -> str:
    with lw.Scripted(REPLIES) as backend:
        straight.run("a", backend=backend, record=file)
    return file.read_text()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda line: line[: len(line) // 2], "no recorded run"),
        (lambda line: "\n", "no recorded run"),
        (lambda line: "[]\n", "no recorded run"),
        (lambda line: line.replace('"format":1', '"format":2'), "format 2; this build reads 1"),
        (lambda line: line.replace('"seed":', '"sed":', 1), "sed"),
        (lambda line: line.replace('"type":"gen"', '"type":"run"'), "run"),
        (lambda line: line.replace('"ops":[', '"ops":[{"type":"ref","name":"never"},'), "never"),
        (lambda line: "[" * 100_000, "no recorded run"),
        (lambda line: '{"format":1,"name":"\ud800"}'.encode("utf-8", "surrogatepass").decode("latin1"), "no recorded"),
    ],
)
def test_a_malformed_line_is_named_and_nothing_is_run(file: Path, line: str, change: Any, why: str) -> None:
    file.write_text(line + change(line))
    with lw.Scripted(REPLIES) as backend:
        with pytest.raises(lw.InvalidArgument, match="line 2 of ") as caught:
            lw.replay(file, backend)
        assert backend.opened == 0
    assert why in str(caught.value)
    assert (caught.value.field, caught.value.position) == ("path", 2)


def test_reading_is_bounded(file: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "MAX_RUNS", 2)
    file.write_text(line * 2)
    assert len(list(read_records(file))) == 2
    file.write_text(line * 3)
    with pytest.raises(lw.InvalidArgument, match="more than 2 runs"):
        list(read_records(file))
    monkeypatch.setattr(record, "MAX_LINE_BYTES", 10)
    with pytest.raises(lw.InvalidArgument, match="longer than 10 bytes"):
        list(read_records(file))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(lw.InvalidArgument, match="cannot be read"):
        lw.replay(tmp_path / "none")


def test_the_first_difference_may_be_an_end() -> None:
    assert first_difference("abc", "abd") == 2
    assert first_difference("ab", "abc") == 2
    assert first_difference("", "a") == 0


# ---------------------------------------------------------------- a model


def test_a_model_says_the_same_again_and_something_else_with_another_seed(
    tiny_runtime: Runtime, file: Path, tmp_path: Path
) -> None:
    program.run("a", backend=tiny_runtime, record=file, seed=1)
    straight.compile().run_batch([{"word": "b"}, {"word": "c"}], backend=tiny_runtime, record=file, seed=2)
    found = lw.replay(file, tiny_runtime, timeout=30)
    assert [replayed.recorded.model for replayed in found] == ["tiny"] * 3
    assert [replayed.differences for replayed in found] == [()] * 3
    other = tmp_path / "other.jsonl"
    shutil.copy(file, other)
    other.write_text(other.read_text().replace('"seed":1,"item"', '"seed":9,"item"'))
    assert [replayed.same for replayed in lw.replay(other, tiny_runtime, timeout=30)] == [False, True, True]
