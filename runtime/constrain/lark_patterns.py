"""What a regular expression prefers, read off its text: its alternatives, lazy repeats, and the group it ends with.

A pattern as a set of strings does not know which of two matches `re` would take; these few questions do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_ATOM = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?[a-zA-Z-]*:|\(\?P<\w+>|.", re.DOTALL)
_QUANTIFIER = re.compile(r"(?:([*+?])|\{(\d*)(,?)(\d*)\})(\??)")
_SIMPLE = {"*": (0, None), "+": (1, None), "?": (0, 1)}


def without_blanks(pattern: str) -> str:
    """A pattern with the flag x, less its blanks and comments."""
    found: list[str] = []
    in_comment = False
    for atom in re.findall(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", pattern, re.DOTALL):
        if in_comment:
            in_comment = atom != "\n"
        elif atom == "#":
            in_comment = True
        elif not atom.isspace():
            found.append(atom)
    return "".join(found)


def _parts(pattern: str) -> Iterator[tuple[int, str, re.Match[str] | None]]:
    """Where each atom or parenthesis begins, what it is, and the quantifier behind it."""
    at = 0
    while at < len(pattern):
        atom = _ATOM.match(pattern, at)
        assert atom is not None
        quantifier = None
        if atom[0] != "|" and not (atom[0].startswith("(") and atom[0] != "\\("):
            quantifier = _QUANTIFIER.match(pattern, atom.end())
            if quantifier is not None and not quantifier[1] and not (quantifier[2] or quantifier[3]):
                quantifier = None  # {} is text
        yield at, atom[0], quantifier
        at = quantifier.end() if quantifier is not None else atom.end()


def bounds(quantifier: re.Match[str] | None) -> tuple[int, int | None]:
    """How often it repeats."""
    if quantifier is None:
        return 1, 1
    sign, low, comma, high, _ = quantifier.groups()
    if sign:
        return _SIMPLE[sign]
    least = int(low or 0)
    return least, int(high) if high else (None if comma else least)


def branches_of(pattern: str) -> list[str]:
    """The alternatives outside of all groups."""
    if "|" not in pattern or re.match(r"\(\?[a-zA-Z]+\)", pattern):  # flags at the front are for all of them
        return [pattern]
    ends = [-1]
    depth = 0
    for at, atom, _ in _parts(pattern):
        depth += atom.startswith("(")
        depth -= atom == ")"
        if atom == "|" and depth == 0:
            ends.append(at)
    return [pattern[a + 1 : b] for a, b in zip(ends, [*ends[1:], len(pattern)], strict=True)]


def is_lazy_pattern(pattern: str) -> bool | None:
    """Whether one alternative has a lazy repeat; None where it has one and what stands behind it or beside it in the
    same group can vary."""
    if not re.search(r"[*+?}]\?", pattern):
        return False
    is_lazy = False
    alternates = [False]  # of each open group, whether it has had an alternative
    for _, atom, quantifier in _parts(pattern):
        if atom.startswith("("):
            alternates.append(False)
        elif atom == ")":
            alternates.pop()
        elif atom == "|":
            if is_lazy:
                return None
            alternates[-1] = True
        low, high = bounds(quantifier)
        if low == high or quantifier is None:
            continue
        if quantifier[5]:
            if any(alternates):
                return None
            is_lazy = True
        elif is_lazy:
            return None
    return is_lazy


def last_group(pattern: str) -> tuple[str, str, int, int | None] | None:
    """Of a pattern that ends with a group: what is before it, what is in it, and how often it comes."""
    opened: list[tuple[int, int]] = []
    found = None
    for at, atom, quantifier in _parts(pattern):
        found = None
        if atom.startswith("("):
            opened.append((at, at + len(atom)))
        elif atom == ")":
            begin, inner = opened.pop()
            if pattern[begin:inner] in ("(", "(?:") or pattern.startswith("(?P<", begin):
                found = (pattern[:begin], pattern[inner:at], *bounds(quantifier))
    return found
