"""What a recorded run and the same run now say differently, op by op. Pure functions.

always              texts, finish reasons, names of errors
where recorded      token ids, and log-probabilities and scores within a tolerance: other hardware rounds otherwise
of one backend      whether the constraint is met, and what stopped: servers of other kinds do not say so alike
on request          the tokens of prompts and outputs
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from latticework.lang import errors
from latticework.lang.check import Place
from latticework.lang.errors import InvalidArgument
from latticework.lang.ir import Op, Program, describe
from latticework.lang.record import Answer, OpError, Output, Recorded

TOLERANCE = 1e-3
CIRCUMSTANCES = frozenset({"Cancelled", "DeadlineExceeded"})
"""Errors that say nothing of an op: whoever ran it was in a hurry."""
SHOWN_TOKENS = 8

What: TypeAlias = Literal[
    "text", "finish", "outcome", "tokens", "logprobs", "scores", "complete", "stopped_by",
    "prompt_tokens", "output_tokens",
]  # fmt: skip


class Difference(msgspec.Struct, frozen=True):
    """An op that says something else now. what: "outcome" where one of the two is an error. sample: which of several
    outputs. first: of texts, the first character that differs; of tokens and log-probabilities, the first token; of
    scores, the first option."""

    branch: int
    position: int
    op: str
    what: What
    recorded: str
    now: str
    sample: int = 0
    first: int | None = None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What is compared. tolerance: of log-probabilities and scores; None compares none. details: whether the constraint
    is met, and what stopped. usage: the tokens of prompts and outputs."""

    tolerance: float | None = TOLERANCE
    details: bool = True
    usage: bool = False

    def between(self, recorded: str, now: str) -> Comparison:
        """The same, for backends of these names."""
        return msgspec.structs.replace(self, details=self.details and recorded.split(" ")[0] == now.split(" ")[0])


USUAL = Comparison()


def checked_comparison(tolerance: float | None, usage: bool) -> Comparison:
    """Raises InvalidArgument."""
    if tolerance is not None:
        is_number = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)
        if not is_number or not 0 <= tolerance < math.inf:
            raise InvalidArgument(f"tolerance is {tolerance!r}; expected a number of at least 0", field="tolerance")
    return Comparison(tolerance=tolerance, usage=usage)


def compare(
    recorded: Recorded, answers: Sequence[Answer], failed: Sequence[OpError], comparison: Comparison
) -> tuple[tuple[Difference, ...], int]:
    """What is different, and how many ops the recorded run was cut off from, which are not compared."""
    before, now = _by_place(recorded.answers, recorded.errors), _by_place(answers, failed)
    differences: list[Difference] = []
    left_out = 0
    for place in sorted(before.keys() | now.keys()):
        then = before.get(place)
        if then is None or (isinstance(then, OpError) and _is_circumstance(then.type)):
            left_out += 1
        else:
            differences += _differences(place, _op(recorded.program, place), then, now.get(place), comparison)
    return tuple(differences), left_out


def _by_place(answers: Sequence[Answer], failed: Sequence[OpError]) -> dict[Place, Answer | OpError]:
    found: dict[Place, Answer | OpError] = {(one.branch, one.position): one for one in failed}
    return found | {(one.branch, one.position): one for one in answers}


def _is_circumstance(name: str) -> bool:
    """Whether an error came from the caller, or from the body itself, and not from running the op."""
    return name in CIRCUMSTANCES or not hasattr(errors, name)


def _op(program: Program, place: Place) -> Op | None:
    branch, position = place
    if 0 <= branch < len(program.branches) and 0 <= position < len(program.branches[branch].ops):
        return program.branches[branch].ops[position]
    return None


def _differences(
    place: Place, op: Op | None, then: Answer | OpError, now: Answer | OpError | None, comparison: Comparison
) -> list[Difference]:
    shown = describe(op) if op is not None else "no op"
    if not (isinstance(then, Answer) and isinstance(now, Answer)):
        said, says = _told(then), _told(now)
        return [] if said == says else [Difference(*place, shown, "outcome", said, says)]
    if len(then.outputs) != len(now.outputs):
        said, says = f"{len(then.outputs)} outputs", f"{len(now.outputs)} outputs"
        return [Difference(*place, shown, "outcome", said, says)]
    found: list[Difference] = []
    for sample, (one, other) in enumerate(zip(then.outputs, now.outputs, strict=True)):
        found += [
            Difference(*place, shown, what, said, says, sample, first)
            for what, said, says, first in _between(one, other, comparison)
        ]
    if comparison.tolerance is not None and then.scores and now.scores:
        found += [
            Difference(*place, shown, "scores", said, says, first=first)
            for said, says, first in _apart(then.scores, now.scores, comparison.tolerance)
        ]
    if comparison.usage:
        counted: list[tuple[What, int, int]] = [
            ("prompt_tokens", then.usage.prompt, now.usage.prompt),
            ("output_tokens", then.usage.output, now.usage.output),
        ]
        found += [Difference(*place, shown, what, str(one), str(other)) for what, one, other in counted if one != other]
    return found


Found: TypeAlias = tuple[What, str, str, int | None]


def _between(one: Output, other: Output, comparison: Comparison) -> list[Found]:
    """What two outputs say differently."""
    found: list[Found] = []
    if one.text != other.text:
        found.append(("text", one.text, other.text, first_difference(one.text, other.text)))
    if one.finish != other.finish:
        found.append(("finish", one.finish, other.finish, None))
    if comparison.details and one.complete is not None and other.complete is not None:
        details: list[tuple[What, object, object]] = [
            ("complete", one.complete, other.complete),
            ("stopped_by", one.stopped_by, other.stopped_by),
        ]
        found += [(what, str(said), str(says), None) for what, said, says in details if said != says]
    same = _same_tokens(one, other)
    if same is None:
        return found
    if one.text == other.text and one.tokens != other.tokens:
        found.append(("tokens", _listed(one.tokens, same), _listed(other.tokens, same), same))
    if comparison.tolerance is not None:
        apart = _apart(one.logprobs[:same], other.logprobs[:same], comparison.tolerance)
        found += [("logprobs", said, says, first) for said, says, first in apart]
    return found


def _same_tokens(one: Output, other: Output) -> int | None:
    """How many tokens both begin with alike; None where one of the two does not tell of its tokens."""
    if not one.tokens or not other.tokens or min(*one.tokens, *other.tokens) < 0:
        return None
    return first_difference(one.tokens, other.tokens)


def _apart(one: Sequence[float | None], other: Sequence[float | None], tolerance: float) -> list[tuple[str, str, int]]:
    """The first numbers that are further apart than that, if any are."""
    for index, (said, says) in enumerate(zip(one, other, strict=False)):
        if said != says and (said is None or says is None or not abs(said - says) <= tolerance):
            return [(_number(said), _number(says), index)]
    return []


def _number(number: float | None) -> str:
    return "-inf" if number is None else f"{number:.6f}"


def _listed(tokens: Sequence[int], first: int) -> str:
    shown = " ".join(map(str, tokens[first : first + SHOWN_TOKENS]))
    return shown + (" …" if len(tokens) > first + SHOWN_TOKENS else "") if shown else "the end"


def _told(outcome: Answer | OpError | None) -> str:
    match outcome:
        case None:
            return "no answer"
        case OpError():
            return outcome.type
        case Answer():
            return f"text {outcome.text!r}"


def first_difference(one: Sequence[Any], other: Sequence[Any]) -> int:
    """The index of the first character, or token, that is not the same in both."""
    shorter = min(len(one), len(other))
    return next((index for index in range(shorter) if one[index] != other[index]), shorter)
