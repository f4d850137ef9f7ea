"""A program and a finished run as HTML, for notebooks: constant, generated and constrained text told apart.

Everything is escaped and styled in place, so that it is safe and looks the same wherever it is put.
"""

from __future__ import annotations

from html import escape

from latticework.lang.branch import Branch, Slot
from latticework.lang.events import Done, TokenLogprob, Usage
from latticework.lang.ir import Fork, Gen, Join, Op, Program, Role, Select, describe
from latticework.lang.run import Run

_STYLES = {
    "text": "color:#777",
    "marker": "color:#8aa4c8",
    "gen": "font-weight:bold",
    "constrained": "font-weight:bold;color:#1a7f37",
    "select": "font-weight:bold;color:#8250df",
    "branch": "color:#0969da",
}
_BOX = "font-family:monospace;white-space:pre-wrap;line-height:1.4"
SURE = 0.95  # a token of at least this probability is not shaded


def kind_of(op: Op) -> str:
    """How an op is shown."""
    match op:
        case Gen(constraint=None):
            return "gen"
        case Gen():
            return "constrained"
        case Select():
            return "select"
        case Role():
            return "marker"
        case Fork() | Join():
            return "branch"
        case _:
            return "text"


def program_html(program: Program) -> str:
    """The ops, one a line, branch by branch: `str(program)` in colours."""
    lines = []
    for index, branch in enumerate(program.branches):
        lines.append(f"<b>{'program' if index == 0 else f'branch {index}'}:</b>")
        lines += [f"    {_span(kind_of(op), describe(op))}" for op in branch.ops]
    return f'<div style="{_BOX}">' + "\n".join(lines) + "</div>"


def run_html(run: Run) -> str:
    """What a run has said so far: text as it was appended, tokens shaded by their log-probability where it was asked
    for, and under it how each output came about."""
    with run.condition:
        branches = list(run.branches)
        slots = [slot for branch in branches for slot in branch.slots]
    text = "".join(_branch_html(branch) for branch in branches)
    rows = "".join(_row(slot, slot.done) for slot in slots if slot.done is not None)
    usage = f"<div>{_usage(run.usage())}, seed {run.terms.seed}</div>"
    return f'<div><div style="{_BOX}">{text}</div>{_failure(run.error())}{_table(rows)}{usage}</div>'


def _failure(error: BaseException | None) -> str:
    if error is None:
        return ""
    return f'<div style="color:#cf222e">{escape(type(error).__name__)}: {escape(str(error))}</div>'


def _branch_html(branch: Branch) -> str:
    head = ""
    if branch.parent is not None:
        head = "\n" + _span("branch", f"── branch {branch.number}, forked from {branch.parent.number} ──") + "\n"
    return head + "".join(_slot_html(slot) for slot in branch.slots if slot.text)


def _slot_html(slot: Slot) -> str:
    done = slot.done
    if done is not None and done.logprobs and "".join(token.text for token in done.logprobs) == slot.text:
        return "".join(_token(kind_of(slot.op), token) for token in done.logprobs)
    return _span(kind_of(slot.op), slot.text)


def _token(kind: str, token: TokenLogprob) -> str:
    """The less likely, the redder."""
    probability = min(1.0, 2.718281828459045**token.logprob)
    shade = 0.0 if probability >= SURE else 0.5 * (1 - probability)
    style = f"{_STYLES[kind]};background:rgba(255,80,80,{shade:.2f})"
    return f'<span style="{style}" title="{token.logprob:.3f}">{escape(token.text)}</span>'


def _span(kind: str, text: str) -> str:
    return f'<span style="{_STYLES[kind]}">{escape(text)}</span>'


def _table(rows: str) -> str:
    if not rows:
        return ""
    heads = "".join(f"<th>{head}</th>" for head in ("variable", "finish", "output", "prompt", "cached", "seconds"))
    return f"<table><tr>{heads}</tr>{rows}</table>"


def _row(slot: Slot, done: Done) -> str:
    usage = done.usage
    seconds = usage.queue_seconds + usage.compile_seconds + usage.prefill_seconds + usage.decode_seconds
    name = getattr(slot.op, "name", None) or "_"
    cells = (name, done.finish, usage.output, usage.prompt, usage.cached, f"{seconds:.2f}")
    return "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>"


def _usage(usage: Usage) -> str:
    return f"{usage.prompt} prompt tokens ({usage.cached} from the cache), {usage.output} generated"
