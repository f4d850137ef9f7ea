"""A program and a run as styled text."""

import pytest

import latticework as lw
from latticework.lang.backends.scripted import Reply
from latticework.lang.events import TokenLogprob
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


def test_a_compiled_program_is_shown_as_a_flowchart_whose_edges_follow_forks_and_joins() -> None:
    lines = program.compile().show("mermaid").splitlines()
    assert lines[0] == "flowchart TD"
    edges = {line.strip() for line in lines if "-->" in line}
    nodes = {line.split("[")[0].split("(")[0].split("{")[0].strip() for line in lines[1:] if "-->" not in line}
    assert all(part in nodes for edge in edges for part in edge.split(" --> "))
    assert {"b0_9 --> b1_0", "b0_9 --> b2_0", "b1_1 --> b0_10", "b2_1 --> b0_10"} <= edges
    assert '    subgraph s2["branch 2"]' in lines


def test_nothing_in_a_program_steers_a_flowchart_or_html() -> None:
    @lw.function
    def hostile(s: lw.State) -> None:
        s += '"]; click x "javascript:1" <script>alert(1)</script>' + lw.gen("<b>", regex='a"\\]')

    compiled = hostile.compile()
    chart = compiled.show("mermaid")
    assert "<script" not in chart
    assert "click x #92;#34;javascript" in chart
    assert chart.count('"') == 2 * 3  # the labels of the branch and of two nodes
    for html in (compiled.show("html"), compiled._repr_html_()):
        assert "<script" not in html
        assert "<b>" not in html.replace("<b>program:</b>", "")


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(lw.InvalidArgument, match="text, mermaid, html"):
        program.compile().show("svg")  # type: ignore[arg-type]


def test_a_run_in_a_notebook_tells_its_kinds_of_text_its_tokens_and_its_failure() -> None:
    logprobs = (TokenLogprob(1, "fr", -0.01), TokenLogprob(2, "ee", -2.0))
    with lw.Scripted({"x": "<a>", "y": Reply("free", logprobs=logprobs)}, roles="plain") as backend:
        shown = program.run(backend=backend)._repr_html_()
    assert "&lt;a&gt;" in shown
    assert 'background:rgba(255,80,80,0.00)" title="-0.010">fr<' in shown
    assert 'background:rgba(255,80,80,0.43)" title="-2.000">ee<' in shown
    assert "── branch 2, forked from 0 ──" in shown
    assert "<td>y</td><td>stop</td><td>4</td>" in shown
    with lw.Scripted({"x": lw.Busy("no <room>")}) as backend:
        state = program.compile().run(backend=backend, wait=False)
        with pytest.raises(lw.Busy):
            state.wait(10)
        assert "Busy: no &lt;room&gt;" in state._repr_html_()
