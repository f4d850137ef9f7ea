"""A pattern's syntax tree -> byte expressions."""

from __future__ import annotations

from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.builder import NEVER, Builder
from latticework.runtime.constrain.pattern import (
    Alternation,
    Characters,
    Concatenation,
    Repetition,
    Text,
    Tree,
    parse_pattern,
)
from latticework.runtime.constrain.utf8 import utf8_characters


def build_regex(builder: Builder, pattern: str, limits: Limits) -> int:
    """The node of all texts that `re.fullmatch(pattern, text)` accepts. Raises RegexError."""
    return _lower(builder, parse_pattern(pattern, limits, builder.tick))


def _lower(builder: Builder, tree: Tree) -> int:
    """Bottom up with an explicit stack: a tree may be deeper than Python's own stack."""
    done: list[int] = []
    work: list[tuple[Tree, bool]] = [(tree, False)]
    while work:
        node, is_ready = work.pop()
        builder.tick()
        match node:
            case Text(text):
                done.append(_text(builder, text))
            case Characters(ranges):
                done.append(utf8_characters(builder, ranges))
            case Repetition(item, low, high):
                if is_ready:
                    done.append(builder.repeat(done.pop(), low, high))
                else:
                    work += [(node, True), (item, False)]
            case Concatenation(parts) | Alternation(parts):
                if is_ready:
                    first = len(done) - len(parts)
                    nodes = done[first:]
                    del done[first:]
                    combine = builder.sequence if isinstance(node, Concatenation) else builder.either
                    done.append(combine(nodes))
                else:
                    work.append((node, True))
                    work += [(part, False) for part in reversed(parts)]
    return done.pop()


def _text(builder: Builder, text: str) -> int:
    try:
        return builder.literal(text.encode())
    except UnicodeEncodeError:  # a lone surrogate: no UTF-8 text holds it
        return NEVER
