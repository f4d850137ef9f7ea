"""How long the texts of a compiled constraint can be.

Every token of a constrained output spells at least one byte, so no output has more tokens than the longest text has
bytes. Pure functions on rule graphs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from latticework.runtime.constrain.rules import (
    Array,
    Bytes,
    Call,
    Choice,
    Either,
    Empty,
    Literal,
    Machine,
    Node,
    Object,
    Repeat,
    RuleGraph,
    Terminal,
    Then,
    Words,
    decode_rules,
)

LARGE_RULES = 256 << 10  # bytes; longer graphs are not looked through
_REMEMBERED = 4096
_ROUNDS = 16  # calls nested deeper count as endless


class Longest:
    """The longest texts of compiled constraints, each looked for once."""

    def __init__(self) -> None:
        self._found: dict[str, int | None] = {}

    def of(self, key: str, rules: bytes) -> int | None:
        """See `longest_text`. key: of the constraint; rules: its encoded graph."""
        if key not in self._found:
            if len(self._found) >= _REMEMBERED:
                self._found.clear()
            self._found[key] = longest_text(decode_rules(rules)) if len(rules) <= LARGE_RULES else None
        return self._found[key]


def longest_text(rules: RuleGraph) -> int | None:
    """Bytes of the longest text, or more; None where there is none, or none that is found.

    The greatest solution of the lengths' equations, from above: a rule counts as endless until all it calls is known,
    so whatever is recursive stays endless."""
    called = [math.inf] * len(rules.rules)
    longest: list[float] = []
    for _ in range(_ROUNDS):
        longest = []
        for node in rules.nodes:
            longest.append(_longest(node, longest, called))
        now = [longest[root] for root in rules.rules]
        if now == called:
            break
        called = now
    found = longest[rules.root]
    return int(found) if found < math.inf else None


def _longest(node: Node, longest: Sequence[float], called: Sequence[float]) -> float:
    match node:
        case Empty():
            return 0
        case Bytes():
            return 1
        case Literal(data):
            return len(data)
        case Words(words):
            return max(map(len, words))
        case Then(first, rest):
            return longest[first] + longest[rest]
        case Either(items):
            return max(longest[item] for item in items)
        case Repeat(item, _, high):
            return _times(longest[item], high)
        case Machine(states, _, high):
            return _times(max((longest[part] for state in states for part, _ in state.moves), default=0), high)
        case Terminal(item):
            return longest[item]
        case Call(rule):
            return called[rule]
        case Object():
            return _longest_object(node, longest)
        case Array():
            return _longest_array(node, longest)


def _times(one: float, count: float | None) -> float:
    if one == 0 or count == 0:
        return 0
    return math.inf if count is None else one * count


def _value(choices: Iterable[Choice], longest: Sequence[float]) -> float:
    return max((longest[choice.value] for choice in choices), default=0)


def _longest_object(node: Object, longest: Sequence[float]) -> float:
    members = [
        len(listed.key) + longest[node.colon] + _value(listed.choices, longest)
        for listed in node.properties
        if listed.choices
    ]
    extra = max(
        (longest[part.key] + longest[node.colon] + _value(part.choices, longest) for part in node.extras), default=0.0
    )
    count = len(members) + (math.inf if node.extras else 0)
    most = count if node.high is None else min(count, node.high)
    text = sum(members) + _times(extra, max(0, most) if node.extras else 0)
    commas = _times(longest[node.comma], most)
    return max(longest[node.empty], longest[node.open] + text + commas + longest[node.close])


def _longest_array(node: Array, longest: Sequence[float]) -> float:
    most: float = math.inf if node.rest else len(node.first)
    most = most if node.high is None else min(most, node.high)
    text = sum(_value(choices, longest) for choices in node.first)
    text += _times(_value(node.rest, longest), most)
    commas = _times(longest[node.comma], most)
    return max(longest[node.empty], longest[node.open] + text + commas + longest[node.close])
