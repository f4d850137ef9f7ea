"""Text as it grows: run(stream=True), run(wait=False), text_iter."""

import gc
import threading
import time
import weakref
from collections.abc import Callable

import pytest

import latticework as lw
from latticework.lang.backends.scripted import Reply


@lw.function
def chat(s: lw.State, question: str) -> None:
    s += lw.user(question)
    s += lw.assistant(lw.gen("answer", max_tokens=16))
    s += lw.user("sure?") + lw.assistant(lw.select("sure", ["yes", "no"]))


def test_the_pieces_of_a_stream_are_the_text() -> None:
    with lw.Scripted({"answer": "abcdefgh"}, chunk=3) as backend:
        state = chat.run("hi", backend=backend, stream=True)
        pieces = list(state.text_iter())
        assert "".join(pieces) == state.text()


def test_one_variable_streams_its_chunks_as_they_come() -> None:
    with lw.Scripted({"answer": "abcdef"}, chunk=2, delay=0.03) as backend:
        state = chat.run("hi", backend=backend, stream=True)
        pieces = list(state.text_iter("answer"))
        assert "".join(pieces) == "abcdef" == state["answer"]
        assert pieces[0] != "abcdef"  # it came before the whole was there


def test_a_stream_without_chunks_yields_each_answer_whole() -> None:
    with lw.Scripted({"answer": "abc"}) as backend:
        assert list(chat.run("hi", backend=backend, stream=True).text_iter("answer")) == ["abc"]
        assert list(chat.run("hi", backend=backend, stream=True).text_iter("sure")) == ["yes"]


def test_streaming_returns_while_the_body_still_runs() -> None:
    go = threading.Event()

    @lw.function
    def program(s: lw.State) -> None:
        s += "early"
        go.wait(20)
        s += lw.gen("x")

    for settings in ({"stream": True}, {"wait": False}):
        go.clear()
        with lw.Scripted({"x": "late"}) as backend:
            state = program.run(backend=backend, **settings)
            pieces = state.text_iter()
            assert next(pieces) == "early"
            go.set()
            assert state["x"] == "late"  # waits for an op that is not there yet
            assert list(pieces) == ["late"]
            assert state.text() == "earlylate"


def test_an_unknown_variable_of_a_running_program_raises_once_the_program_ends() -> None:
    with lw.Scripted({"answer": Reply("a", delay=0.02)}) as backend:
        state = chat.run("hi", backend=backend, stream=True)
        with pytest.raises(lw.UnknownVariable, match="nope"):
            state["nope"]
        with pytest.raises(lw.UnknownVariable, match="nope"):
            list(state.text_iter("nope"))


def test_a_stream_raises_what_went_wrong_after_the_text_so_far() -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += "text " + lw.gen("good") + lw.gen("bad")

    with lw.Scripted({"good": "g", "bad": lw.EngineDied("died")}) as backend:
        state = program.run(backend=backend, stream=True)
        pieces: list[str] = []
        with pytest.raises(lw.EngineDied, match="gen 'bad'"):
            pieces.extend(iter_into(pieces, state))
        assert "".join(pieces) == "text g"
        assert list(state.text_iter("good")) == ["g"]


def iter_into(pieces: list[str], state: lw.State) -> list[str]:
    for piece in state.text_iter():
        pieces.append(piece)
    return []


def test_a_stream_raises_a_failure_outside_its_own_text_at_its_end() -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += "text"
        s.fork(1)[0].__iadd__(lw.gen("bad"))

    with lw.Scripted({"bad": lw.EngineDied("died")}) as backend:
        pieces = program.run(backend=backend, stream=True).text_iter()
        assert next(pieces) == "text"
        with pytest.raises(lw.EngineDied):
            next(pieces)


def test_several_readers_see_the_same_text() -> None:
    with lw.Scripted({"answer": "abcdefgh" * 8}, chunk=1) as backend:
        state = chat.run("hi", backend=backend, stream=True)
        seen: list[str] = []
        threads = [threading.Thread(target=lambda: seen.append("".join(state.text_iter("answer")))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert seen == ["abcdefgh" * 8] * 4


def test_the_body_itself_can_stream() -> None:
    @lw.function
    def program(s: lw.State) -> None:
        s += "a" + lw.gen("x") + "b"
        s["copy"] = "|".join(s.text_iter("x"))
        assert "".join(s.text_iter()) == "axyzb"
        (fork,) = s.fork(1)
        fork += "c"
        assert "".join(fork.text_iter()) == "axyzbc"

    with lw.Scripted({"x": "xyz"}, chunk=1, delay=0.02) as backend:
        state = program.run(backend=backend)
    assert state["copy"].replace("|", "") == "xyz"


def test_an_abandoned_stream_leaves_no_thread_and_no_run_behind() -> None:
    with lw.Scripted({"answer": "abcdef"}, chunk=1, delay=0.005) as backend:
        state = chat.run("hi", backend=backend, stream=True)
        run = weakref.ref(state._run)
        pieces = state.text_iter()
        next(pieces)
        del state, pieces
        wait_until(lambda: backend.closed == 1)
        wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "run of chat"])
        wait_until(lambda: gc.collect() >= 0 and run() is None)


def wait_until(ready: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.002)


def test_a_reader_that_waits_already_hears_of_text_as_soon_as_it_is_appended() -> None:
    go, end = threading.Event(), threading.Event()

    @lw.function
    def program(s: lw.State) -> None:
        go.wait(20)
        s += "early"
        assert end.wait(20)  # set by who has read it

    with lw.Scripted() as backend:
        state = program.run(backend=backend, stream=True)
        pieces: list[str] = []

        def read() -> None:
            pieces.append(next(state.text_iter()))
            end.set()

        reader = threading.Thread(target=read)
        reader.start()
        while not state.waits:  # it waits
            time.sleep(0.001)
        go.set()
        reader.join()
        state.sync()
        assert pieces == ["early"]
