"""In which order the sequences of one tenant are admitted: pure functions.

The longest cached prefix goes first: it costs the least and its pages are in use while they are there (Zheng et
al. 2024, RadixAttention). A step of waiting counts as much as `age_tokens` cached tokens, and who has waited
`patience` steps goes before all that have not, so a request is overtaken for a bounded number of steps only.
Siblings of a fork stay together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable

from latticework.runtime.schedule.sequence import Sequence

WORTH_SHARING = 32  # tokens; fewer are computed twice rather than waited for


def admission_order(
    waiting: Iterable[Sequence],
    cached: Callable[[Sequence], int],
    now: int,
    age_tokens: int,
    patience: float = math.inf,
) -> list[list[Sequence]]:
    """Families, best first. cached: tokens of a sequence that need not be computed. now: number of this step."""

    def rank(sequence: Sequence) -> tuple[int, int]:
        waited = now - sequence.waiting_since
        if waited > patience:
            return (0, sequence.order)
        return (1, -cached(sequence) - waited * age_tokens)

    ordered = sorted((rank(sequence), sequence.order, sequence) for sequence in waiting)
    families: dict[object, list[Sequence]] = {}  # in the order of their first members
    for _, _, sequence in ordered:
        families.setdefault(_family(sequence), []).append(sequence)
    return list(families.values())


def _family(sequence: Sequence) -> object:
    group = sequence.request.group
    return sequence.order if group is None else (sequence.owner, group)


def who_gives_way(running: list[Sequence], priority: int, tenant: str) -> Sequence | None:
    """Whose place a tenant gets when all are taken: that of the youngest of the tenant that holds the most, as long as
    that one then holds no fewer. None: nobody's. priority: of the one that waits."""
    held = Counter(sequence.request.tenant for sequence in running)
    others = (s for s in running if s.request.tenant != tenant and s.request.priority <= priority)
    last = max(others, key=lambda s: (held[s.request.tenant], s.order), default=None)
    if last is None or held[last.request.tenant] < held[tenant] + 2:
        return None
    return last


def common_prefix(a: list[int], b: list[int]) -> int:
    """Number of leading tokens that are equal."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:  # the first `low` are equal, the first `high` are not
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low
