"""A program and a finished run as styled text, for the terminal.

What the program wrote and the template's markers are dim, what the model wrote is bold, and coloured where a
constraint or a select bounded it. rich is imported when something is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from latticework.lang.branch import Branch, Slot
from latticework.lang.ir import Gen, Program, Role, Select, Text, describe
from latticework.lang.state import State

if TYPE_CHECKING:
    from rich.text import Text as RichText

STYLES = {"text": "dim", "marker": "dim blue", "gen": "bold", "constrained": "bold green", "select": "bold magenta"}


def show_program(program: Program) -> RichText:
    """The ops, one a line, branch by branch; `.plain` is `str(program)`."""
    from rich.text import Text as RichText

    shown = RichText()
    for index, branch in enumerate(program.branches):
        shown.append("program:" if index == 0 else f"\nbranch {index}:", "bold")
        for op in branch.ops:
            match op:
                case Gen():
                    style = STYLES["constrained" if op.constraint else "gen"]
                case Select():
                    style = STYLES["select"]
                case Role():
                    style = STYLES["marker"]
                case Text():
                    style = STYLES["text"]
                case _:
                    style = ""
            shown.append(f"\n    {describe(op)}", style)
    return shown


def show_run(state: State, timeout: float | None = None) -> RichText:
    """The text of a run, then the own text of each branch it forked. Waits, and raises what the run raises."""
    from rich.text import Text as RichText

    state.wait(timeout)
    run = state._run
    with run.condition:
        branches = list(run.branches)
    shown = RichText()
    for branch in branches:
        if branch.parent is not None:
            shown.append(f"\n── branch {branch.number}, forked from {branch.parent.number} ──\n", "cyan")
        _show_slots(branch, shown)
    return shown


def _show_slots(branch: Branch, shown: RichText) -> None:
    for slot in branch.slots:
        if slot.text:
            shown.append(slot.text, STYLES[_kind(slot)])


def _kind(slot: Slot) -> str:
    match slot.op:
        case Gen(constraint=None):
            return "gen"
        case Gen():
            return "constrained"
        case Select():
            return "select"
        case Role():
            return "marker"
        case _:
            return "text"
