"""How a process of ours stands beside the one that starts it.

A terminal's Ctrl-C goes to a process group, so every child has a group of its own. It stays in its parent's session:
Linux shares the processor out among sessions first, and niceness counts only within one. So a compiler at a low
priority gives way to the engine, and both together have what any other program has.
"""

from __future__ import annotations

import sys
from typing import TypedDict


class Place(TypedDict, total=False):
    """Arguments of `subprocess.Popen`."""

    process_group: int
    start_new_session: bool


def beside_us() -> Place:
    """For a child that no Ctrl-C reaches; before Python 3.11 that takes a session of its own."""
    return {"process_group": 0} if sys.version_info >= (3, 11) else {"start_new_session": True}
