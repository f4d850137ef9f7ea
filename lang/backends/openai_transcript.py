"""The text of one branch as a server of OpenAI's API takes it: a conversation, or one prompt."""

from __future__ import annotations

from typing import Any

from latticework.lang.errors import ProgramError, Unsupported

MARKERS = ("{role}: ", "\n")
"""How `s.text()` shows a message. A server sees messages, and writes its model's own markers."""


class Transcript:
    """chat: messages are what counts, and text outside of them has no place. Owned by one branch; forks copy it."""

    def __init__(self, chat: bool) -> None:
        self.chat = chat
        self.text = ""  # outside of messages; in completions all there is
        self.role: str | None = None
        self.open = ""  # of the message that `role` is writing
        self._messages: tuple[tuple[str, str], ...] = ()

    def copy(self) -> Transcript:
        twin = Transcript(self.chat)
        twin.text, twin.role, twin.open, twin._messages = self.text, self.role, self.open, self._messages
        return twin

    def add(self, text: str) -> None:
        if self.role is None:
            self.text += text
        else:
            self.open += text

    def mark(self, role: str | None) -> str:
        """Opens a message, or closes the open one; the marker. Raises ProgramError or Unsupported."""
        if not self.chat:
            raise Unsupported(
                "completions have no roles: how a model marks them is not known here",
                hint="lw.OpenAI(…) without is_chat_model=False speaks chat",
            )
        if role is not None:
            self.role, self.open = role, ""
            return MARKERS[0].format(role=role)
        if self.role is None:
            raise ProgramError("a role was ended that was not open")
        self._messages = (*self._messages, (self.role, self.open))
        self.role, self.open = None, ""
        return MARKERS[1]

    def prompt(self) -> str:
        """What a completion continues. Raises Unsupported where there is nothing."""
        if not self.text:
            raise Unsupported("there is no text before the first gen", hint="append some text")
        return self.text

    def messages(self, continues: bool) -> tuple[list[dict[str, Any]], bool]:
        """The conversation up to where the assistant is to write, and whether its own message has begun.

        continues: whether the server can go on with one. Raises Unsupported for what a chat cannot express."""
        if self.text.strip():
            raise Unsupported(
                f"a chat has no place for text outside of messages: {self.text.strip()[:40]!r}",
                hint="s += lw.user(…), or is_chat_model=False",
            )
        if self.role != "assistant":
            where = f"a {self.role} message" if self.role else "no message"
            raise Unsupported(
                f"in a chat the model writes assistant messages; this stands in {where}",
                hint="s += lw.assistant(lw.gen(…))",
            )
        found = [{"role": role, "content": content} for role, content in self._messages]
        if not self.open:
            return found, False
        if not continues:
            raise Unsupported(
                "the assistant's message has begun already, and this server cannot go on with it",
                hint="one gen a message, right at its beginning",
            )
        return [*found, {"role": "assistant", "content": self.open}], True
