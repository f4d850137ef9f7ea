"""The collector works while nobody waits, or where there is much to gain. In a process of its own, as it is one."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import gc
from latticework.runtime.garbage import WORTH_BYTES, Garbage

dropped = 0
garbage = Garbage(lambda: dropped)
assert gc.get_freeze_count() > 0
garbage.collect(is_idle=True)
assert garbage.collections == 0  # nothing was dropped
dropped += 1
garbage.collect(is_idle=False)
assert garbage.collections == 0  # somebody waits, for little
garbage.collect(is_idle=True)
garbage.collect(is_idle=True)
assert garbage.collections == 1
dropped += WORTH_BYTES + 1
garbage.collect(is_idle=False)
assert garbage.collections == 2
"""


def test_garbage_is_collected_while_nobody_waits_or_where_much_was_dropped() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
