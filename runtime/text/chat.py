"""Chat templates: what a model's own Jinja source makes of messages, and of one role at a time.

A template comes with a model file and is not trusted: it runs in Jinja's immutable sandbox, and its output is
bounded. Rendering follows transformers' `apply_chat_template`. A language program does not have all its messages
at hand, so `opening` and `closing` give the marker text of each role, found by rendering stand-in contents:

    <|im_start|>user\\n  CONTENT  <|im_end|>\\n  <|im_start|>assistant\\n  CONTENT  <|im_end|>\\n
    opening              closing            opening                    closing

This file knows no tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.ext import loopcontrols as LoopControls
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from latticework.lang.errors import BrokenModel, InvalidArgument, Unsupported
from latticework.runtime.model.spec import ModelCard

MAX_OUTPUT_CHARS = 64 << 20
_ROLE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PRIVATE_USE = range(0xE000, 0xF8FF)
_CACHED_TURNS = 1024

Message = Mapping[str, Any]


class ChatTemplate:
    """One model's template.

    source None (a model without one) is kept, and raises Unsupported naming `model` when it is used: a format is
    never guessed. Raises BrokenModel when the source is no Jinja template.
    """

    def __init__(self, source: str | None, bos_token: str = "", eos_token: str = "", model: str = "this model") -> None:
        self.model = model
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        try:
            self._template = None if source is None else _environment().from_string(source)
        except TemplateSyntaxError as error:
            raise BrokenModel(f"the chat template of {model} is broken at line {error.lineno}: {error}") from None
        self._turn: Callable[[tuple[str, ...], str], tuple[str, str]] = lru_cache(_CACHED_TURNS)(self._find_turn)

    @staticmethod
    def of(card: ModelCard) -> ChatTemplate:
        return ChatTemplate(card.chat_template, card.bos_token, card.eos_token, card.name)

    def render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        """The text of the whole conversation, with the opening of an answer if asked for.

        Raises InvalidArgument when the template refuses the messages, Unsupported when there is none.
        """
        if self._template is None:
            raise Unsupported(
                f"{self.model} has no chat template, so roles and messages mean nothing to it",
                hint="append plain text, or use a model that was tuned for chat",
            )
        for message in messages:
            role = message.get("role")
            if not isinstance(role, str) or not _ROLE.fullmatch(role):  # templates write it out unescaped
                raise InvalidArgument(f"{role!r} is not the name of a role", field="messages")
        given = {"messages": list(messages), "add_generation_prompt": add_generation_prompt}
        parts: list[str] = []
        size = 0
        try:
            for part in self._template.generate(tools=None, documents=None, **given, **self._tokens):
                parts.append(part)
                size += len(part)
                if size > MAX_OUTPUT_CHARS:
                    raise SecurityError(f"more than {MAX_OUTPUT_CHARS} characters")
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
            raise InvalidArgument(
                f"the chat template of {self.model} does not take these messages: {error}", field="messages"
            ) from None
        return "".join(parts)

    def pieces(self, messages: Sequence[Message]) -> list[tuple[str, bool]]:
        """`render(messages, add_generation_prompt=True)` cut into (text, is_template): what the messages say is
        no template text, so that it never becomes special tokens.

        Every string is rendered between two marks, then once more with other words between the same marks: if
        that changes the template's text, some of it came from a message. Blanks at a string's ends stay outside
        the marks, so that a template that trims does what it would do without them.
        """
        text = self.render(messages, add_generation_prompt=True)
        start, end = _unused_characters(json.dumps([list(messages), text], ensure_ascii=False, default=str))
        found = self._marked(messages, lambda core: start + core + end, start, end)
        other = self._marked(messages, lambda core: start + _content(0) + end, start, end)
        if (
            found is None
            or other is None
            or [part for part in found if part[1]] != [part for part in other if part[1]]
            or "".join(part for part, _ in found) != text
        ):
            raise Unsupported(
                f"the chat template of {self.model} rewrites what messages say, so their text cannot be kept apart "
                "from the template's"
            )
        return found

    def _marked(
        self, messages: Sequence[Message], dress: Callable[[str], str], start: str, end: str
    ) -> list[tuple[str, bool]] | None:
        """The rendering cut at the marks that `dress` puts around strings; None if the template broke a pair."""
        rendered = self.render([_dressed(message, dress) for message in messages], add_generation_prompt=True)
        found: list[tuple[str, bool]] = []
        inside = False
        for part in re.split(f"([{start}{end}])", rendered):
            if part in (start, end):
                if inside == (part == start):
                    return None
                inside = not inside
            elif part:
                found.append((part, not inside))
        return None if inside else found

    def opening(self, roles_before: tuple[str, ...], role: str) -> str:
        """What the template puts between the end of the messages before and the content of `role`.

        For an assistant that is the generation prompt. Raises Unsupported when the template does not write
        messages one after the other.
        """
        return self._turn(roles_before, role)[0]

    def closing(self, roles_before: tuple[str, ...], role: str) -> str:
        """What the template puts after the content of `role`."""
        return self._turn(roles_before, role)[1]

    def _find_turn(self, before: tuple[str, ...], role: str) -> tuple[str, str]:
        earlier = self._stand_in(before)
        whole = self._stand_in((*before, role))
        if not whole.startswith(earlier):
            raise Unsupported(
                f"the chat template of {self.model} changes earlier messages when a message of {role!r} follows "
                f"{' '.join(before)}, so a program's text could not grow step by step"
            )
        opening, content, closing = whole[len(earlier) :].partition(_content(len(before)))
        if not content or _content(len(before)) in closing:
            raise Unsupported(f"the chat template of {self.model} does not write a message of {role!r} exactly once")
        if role == "assistant" and before:
            prompt = self.render(_stand_ins(before), add_generation_prompt=True)
            if not prompt.startswith(earlier):
                raise Unsupported(f"the chat template of {self.model} changes earlier messages to ask for an answer")
            opening = prompt[len(earlier) :]
        return opening, closing

    def _stand_in(self, roles: tuple[str, ...]) -> str:
        # No messages render to no text; many templates fail on an empty list.
        return self.render(_stand_ins(roles), add_generation_prompt=False) if roles else ""


def _content(index: int) -> str:
    """A content that no template contains or changes."""
    return f"latticework-{index}-message"


def _stand_ins(roles: tuple[str, ...]) -> list[Message]:
    return [{"role": role, "content": _content(index)} for index, role in enumerate(roles)]


def _unused_characters(text: str) -> tuple[str, str]:
    """Two private-use characters that do not occur in `text`."""
    used = set(text)
    unused: Iterator[str] = (chr(code) for code in _PRIVATE_USE if chr(code) not in used)
    try:
        return next(unused), next(unused)
    except StopIteration:
        raise InvalidArgument("the messages use every private-use character of Unicode", field="messages") from None


def _dressed(value: Any, dress: Callable[[str], str], key: str = "") -> Any:
    """`value` with every string in it dressed, except blanks and names that templates compare."""
    if isinstance(value, str):
        core = value.strip()
        if key in ("role", "type") or not core:
            return value
        at = value.index(core)
        return value[:at] + dress(core) + value[at + len(core) :]
    if isinstance(value, Mapping):
        return {name: _dressed(item, dress, name) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_dressed(item, dress) for item in value]
    return value


# ---------------------------------------------------------------- Jinja as transformers sets it up


class _Sandbox(ImmutableSandboxedEnvironment):
    """Refuses to build huge values, which a bound on the output alone would not stop."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise SecurityError("templates may not raise to a power")
        for value, times in ((left, right), (right, left)):
            is_repeat = isinstance(value, str | list | tuple) and isinstance(times, int)
            if is_repeat and len(value) * times > MAX_OUTPUT_CHARS:
                raise SecurityError(f"more than {MAX_OUTPUT_CHARS} characters or items")
        return super().call_binop(context, operator, left, right)


class _Generation(Extension):
    """{% generation %}…{% endgeneration %}, which marks what the assistant wrote, is just its body here."""

    tags = {"generation"}  # noqa: RUF012 (Jinja declares it as an instance variable)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, LoopControls])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)
