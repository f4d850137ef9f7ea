"""A program, a finished run and a replayed one as styled text, for the terminal.

What the program wrote and the template's markers are dim, what the model wrote is bold, and coloured where a
constraint or a select bounded it. rich is imported when something is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from latticework.lang.branch import Branch, Slot
from latticework.lang.comparing import Difference
from latticework.lang.ir import Gen, Program, Role, Select, Text, describe
from latticework.lang.replay import Replayed
from latticework.lang.state import State

if TYPE_CHECKING:
    from rich.text import Text as RichText

STYLES = {"text": "dim", "marker": "dim blue", "gen": "bold", "constrained": "bold green", "select": "bold magenta"}

SHOWN_OF_OP = 120  # characters
COUNTED = {"tokens": "token", "logprobs": "token", "scores": "option"}
SHOWN_BEFORE, SHOWN_AFTER = 24, 60  # of the first that differs


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


def show_replayed(replayed: Replayed) -> RichText:
    """What is different now, op by op, on one line each: the text around the first character that differs, quoted."""
    from rich.text import Text as RichText

    recorded = replayed.recorded
    shown = RichText(f"line {replayed.line}: {recorded.name}, recorded in {recorded.backend}: ", "bold")
    count = len(replayed.differences)
    verdict = f"{count} difference{'s' * (count > 1)}" if count else "no differences"
    shown.append(verdict, "bold red" if count else "bold green")
    if replayed.left_out:
        shown.append(f" ({replayed.left_out} left out: the recorded run was cut off)", "dim")
    for difference in replayed.differences:
        _show_difference(difference, shown)
    return shown


def _show_difference(difference: Difference, shown: RichText) -> None:
    sample = f", output {difference.sample}" if difference.sample else ""
    where = f"branch {difference.branch}, op {difference.position}{sample}"
    unit = COUNTED.get(difference.what, "character")
    at = f" from {unit} {difference.first} on" if difference.first is not None else ""
    shown.append(f"\n  {where}: ", "cyan")
    shown.append(difference.op[:SHOWN_OF_OP])
    shown.append(f"\n    {difference.what.replace('_', ' ')} differs{at}", "dim")
    for name, text in (("recorded", difference.recorded), ("now", difference.now)):
        shown.append(f"\n    {name:>8}: ")
        first = difference.first if difference.what == "text" else None
        shown.append(_around(text, first), "red" if name == "recorded" else "green")


def _around(text: str, first: int | None) -> str:
    """The part of a text that matters, quoted, so that a terminal shows it as it is."""
    if first is None:
        return text if text.isprintable() else repr(text)
    start, end = max(0, first - SHOWN_BEFORE), first + SHOWN_AFTER
    return "…" * (start > 0) + repr(text[start:end]) + "…" * (end < len(text))


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
