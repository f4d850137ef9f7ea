"""What a reasoning model thinks and what it answers, as two variables of one gen. Pure functions on text.

The text of the branch keeps both: tokens that were generated are never taken back.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from latticework.lang.errors import InvalidArgument
from latticework.lang.expr import Expr, Piece, pieces_of
from latticework.lang.ir import Gen

SUFFIX = "_reasoning_content"


class Format(msgspec.Struct, frozen=True):
    """How a kind of model marks its thoughts. inside: its template, or habit, has begun them already."""

    begin: str = "<think>"
    end: str = "</think>"
    inside: bool = False

    def split(self, text: str, over: bool) -> tuple[str, str]:
        """(thoughts, answer) of the text so far, which only grow as it does. over: that is all of it.

        Thoughts without an end are all there is; text that does not begin with `begin` is all answer, unless
        `inside`."""
        body = text.lstrip()
        if body.startswith(self.begin):
            body = body[len(self.begin) :]
        elif not over and self.begin.startswith(body):
            return "", ""  # it may become the marker
        elif not self.inside:
            return "", text
        thoughts, end, answer = body.partition(self.end)
        if not end and not over:
            thoughts = thoughts[: len(thoughts) - _begun(thoughts, self.end)]
        return thoughts.strip(), answer.strip()

    def thoughts(self, text: str, over: bool) -> str:
        return self.split(text, over)[0]

    def answer(self, text: str, over: bool) -> str:
        return self.split(text, over)[1]


FORMATS = {
    "deepseek-r1": Format(inside=True),
    "deepseek-v3": Format(),
    "glm45": Format(),
    "kimi": Format("◁think▷", "◁/think▷"),
    "qwen3": Format(),
    "qwen3-thinking": Format(inside=True),
    "step3": Format(inside=True),
}
"""By SGLang's names of models."""


def separate_reasoning(expr: str | Expr | None = None, model_type: str | None = None) -> Expr:
    """The same expression, whose named gens have two variables each: `name` is the answer, `name_reasoning_content`
    what was thought before it. Works with n and in streams.

    model_type: how thoughts are marked, a key of FORMATS. Unlike SGLang's it leaves the text as it was generated.
    Raises InvalidArgument for another model_type, and where no gen has a name."""
    found = FORMATS.get(model_type) if isinstance(model_type, str) else None
    if found is None:
        raise InvalidArgument(f"model_type is {model_type!r}; expected one of {', '.join(FORMATS)}", field="model_type")
    pieces = pieces_of(expr if expr is not None else "")
    if not any(isinstance(piece.op, Gen) and piece.op.name for piece in pieces):
        raise InvalidArgument("there is no gen with a name to separate", field="expr")
    return Expr(*(_separated(piece, found) for piece in pieces))


def _separated(piece: Piece, found: Format) -> Piece:
    if not isinstance(piece.op, Gen) or not piece.op.name:
        return piece
    name = piece.op.name
    parts: tuple[tuple[str, Callable[[str, bool], str]], ...] = (
        (name, found.answer),
        (name + SUFFIX, found.thoughts),
    )
    return msgspec.structs.replace(piece, parts=parts)


def _begun(text: str, marker: str) -> int:
    """How many characters at the end of `text` may be the beginning of `marker`."""
    longest = min(len(marker) - 1, len(text))
    return next((size for size in range(longest, 0, -1) if text.endswith(marker[:size])), 0)
