"""The messages of a conversation as they are opened and closed, and the template's marker for each turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latticework.lang.errors import ProgramError

if TYPE_CHECKING:
    from latticework.runtime.programs.front import Front


class Turns:
    """Which messages there were, and which is open. A branch that is forked goes on with a copy."""

    def __init__(self, front: Front, roles: tuple[str, ...] = (), role: str | None = None) -> None:
        self._front = front
        self._roles = roles
        self._role = role

    def copy(self) -> Turns:
        return Turns(self._front, self._roles, self._role)

    def marker(self, role: str | None) -> str:
        """The text that opens a message of `role`, or with None closes the open one. Raises ProgramError."""
        if role is not None:
            self._role = role
            return self._front.chat.opening(self._roles, role)
        if self._role is None:
            raise ProgramError("a role was ended that was not open")
        marker = self._front.chat.closing(self._roles, self._role)
        self._roles = (*self._roles, self._role)
        self._role = None
        return marker
