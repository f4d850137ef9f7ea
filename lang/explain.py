"""What each pass found or changed in a program, in words.

An `Explanation` is sections of lines; `str()` of it is what one reads. This file changes nothing.
"""

from __future__ import annotations

import msgspec

from latticework.lang.check import Place
from latticework.lang.ir import Fork, Gen, Program, Select, Text, describe
from latticework.lang.passes import (
    chains,
    constant_prefix,
    constraints,
    draws_several,
    fold_constants,
    fork_order,
    last_needed,
    merge_text,
    unedited,
)

SHOWN = 100  # characters of an op


class Section(msgspec.Struct, frozen=True):
    """One pass: its name, and what it found, a line each."""

    title: str
    lines: tuple[str, ...]


class Explanation(msgspec.Struct, frozen=True):
    """The passes in the order in which they were applied. requests: how many the program makes."""

    sections: tuple[Section, ...]
    requests: int

    def __str__(self) -> str:
        return "\n".join(
            f"{section.title}\n" + "".join(f"    {line}\n" for line in section.lines) for section in self.sections
        ).rstrip()


def explain(traced: Program, bounds: dict[Place, int] | None = None) -> Explanation:
    """What the passes make of a traced program. bounds: tokens that constraints leave possible, where a runtime has
    compiled them."""
    edited = unedited(traced)
    sections: list[Section] = []
    for title, edit in (("fold constants", fold_constants), ("merge text", merge_text)):
        before, edited = edited, edited.then(edit(edited.program))
        sections.append(Section(title, _edits(before.program, edited.program)))
    program = edited.program
    sections += [
        Section("constant prefix", _prefix(program)),
        Section("constraints", _constraints(program)),
        Section("max_tokens", _bounds(program, bounds)),
        Section("requests", _requests(program)),
        Section("leases", _leases(program)),
        Section("order of branches", _order(program)),
    ]
    return Explanation(tuple(sections), sum(map(len, chains(program))))


def _edits(before: Program, after: Program) -> tuple[str, ...]:
    changed = [
        f"branch {index}: {len(old.ops)} ops → {len(new.ops)}"
        for index, (old, new) in enumerate(zip(before.branches, after.branches, strict=True))
        if old != new
    ]
    return tuple(changed) or ("nothing to change",)


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def _place(place: Place) -> str:
    return f"{place[0]}.{place[1]}"


def _prefix(program: Program) -> tuple[str, ...]:
    count = constant_prefix(program)
    ops = program.branches[0].ops
    if not count:
        return ("none: the first op depends on a call",)
    size = sum(len(op.text) for op in ops[:count] if isinstance(op, Text))
    ends = f", up to {_short(describe(ops[count]))}" if count < len(ops) else ", which is all of the program"
    return (f"{count} ops with {size} characters{ends}", "computed once for a batch, and held while it lives")


def _constraints(program: Program) -> tuple[str, ...]:
    found = constraints(program)
    return tuple(
        _short(describe(Gen(None, constraint=constraint))[6:])
        + f": compiled once, for {', '.join(map(_place, places))}"
        for constraint, places in found.items()
    ) or ("none",)


def _bounds(program: Program, bounds: dict[Place, int] | None) -> tuple[str, ...]:
    if not constraints(program):
        return ("no gen has a constraint",)
    if bounds is None:
        return ("bounded by the longest text of each constraint when a runtime has compiled it: explain(backend=…)",)
    lines: list[str] = []
    for (index, position), longest in sorted(bounds.items()):
        op = program.branches[index].ops[position]
        assert isinstance(op, Gen)
        given = str(op.sampling.max_tokens) if "max_tokens" in op.given else "the run's"
        lines.append(f"{_place((index, position))} gen {op.name or '_'}: at most {longest} tokens, asked are {given}")
    return tuple(lines) or ("no constraint has a longest text",)


def _requests(program: Program) -> tuple[str, ...]:
    lines = []
    for index, parts in enumerate(chains(program)):
        for part in parts:
            ops = program.branches[index].ops[part.start : part.stop]
            drawn = [describe(op).split(" from ")[0] for op in ops if isinstance(op, Gen | Select)]
            several = (
                ", several outputs side by side" if any(draws_several(op) for op in ops if isinstance(op, Gen)) else ""
            )
            what = _short("; ".join(drawn)) if drawn else "text for the branches that continue from it"
            lines.append(f"{_place((index, part.start))}–{part.stop - 1}: {what}{several}")
    return tuple(lines) or ("none: nothing is drawn",)


def _leases(program: Program) -> tuple[str, ...]:
    lines = []
    for index, position in enumerate(last_needed(program)):
        op = program.branches[index].ops[position] if position >= 0 else None
        if isinstance(op, Fork):
            lines.append(
                f"branch {index}: its text is held until branches {', '.join(map(str, op.children))} have taken it over"
            )
        elif op is not None:
            lines.append(f"branch {index}: nothing is held once {_place((index, position))} is drawn")
        else:
            lines.append(f"branch {index}: nothing is computed")
    return tuple(lines)


def _order(program: Program) -> tuple[str, ...]:
    return tuple(
        f"{_place(place)}: {' '.join(map(str, order))}, the longest way to the end first"
        for place, order in fork_order(program).items()
    ) or ("no forks",)
