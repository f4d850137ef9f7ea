"""The messages of a conversation as they are opened and closed, and the template's marker for each turn."""

from __future__ import annotations

from latticework.lang.errors import ProgramError
from latticework.runtime.text.chat import ChatTemplate


class Turns:
    """Which messages there were, and which is open. A branch that is forked goes on with a copy."""

    def __init__(self, chat: ChatTemplate, roles: tuple[str, ...] = (), role: str | None = None) -> None:
        self._chat = chat
        self._roles = roles
        self._role = role

    def copy(self) -> Turns:
        return Turns(self._chat, self._roles, self._role)

    def marker(self, role: str | None) -> str:
        """The text that opens a message of `role`, or with None closes the open one. Raises ProgramError."""
        if role is not None:
            self._role = role
            return self._chat.opening(self._roles, role)
        if self._role is None:
            raise ProgramError("a role was ended that was not open")
        marker = self._chat.closing(self._roles, self._role)
        self._roles = (*self._roles, self._role)
        self._role = None
        return marker
