"""A program and a run as styled text."""

import latticework as lw
from latticework.lang.show import STYLES


@lw.function
def program(s: lw.State) -> None:
    s.user("q")
    with s.assistant():
        s += lw.gen("x", regex="[a-z]+") + " " + lw.gen("y") + lw.select("z", ["!"])
    forks = s.fork(2)
    forks += " branch " + lw.gen("y")
    forks.join()


def test_a_program_is_shown_as_its_own_text() -> None:
    with lw.Scripted({"x": "abc", "y": "free"}) as backend:
        ir = program.run(backend=backend).program()
    shown = lw.show_program(ir)
    assert shown.plain == str(ir)
    assert "    gen x regex='[a-z]+'" in shown.plain.splitlines()


def test_a_run_is_shown_with_what_the_model_wrote_set_apart() -> None:
    with lw.Scripted({"x": "abc", "y": "free"}, roles="plain") as backend:
        state = program.run(backend=backend)
    shown = lw.show_run(state)
    assert shown.plain.startswith(state.text())
    assert "── branch 2, forked from 0 ──\n branch free" in shown.plain
    spans = {shown.plain[span.start : span.end]: span.style for span in shown.spans}
    assert spans["abc"] == STYLES["constrained"]
    assert spans["free"] == STYLES["gen"]
    assert spans["!"] == STYLES["select"]
    assert spans["q"] == STYLES["text"]
    assert spans["user: "] == STYLES["marker"]
