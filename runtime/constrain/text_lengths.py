"""How long the words of a text can be, without looking at its characters; which counts a bound on them makes needless.

Lengths are sorted, disjoint intervals, both ends included, up to a bound. Plain texts have no intersections and no
complements, so the lengths of a whole are those of its parts, added up.
"""

from __future__ import annotations

from latticework.runtime.constrain.ranges import union
from latticework.runtime.constrain.text_kinds import (
    EMPTY,
    NEVER,
    Both,
    Characters,
    Complement,
    Literal,
    Repeat,
    Text,
    Then,
    Union,
    Words,
)
from latticework.runtime.constrain.texts import both, either, negate, repeat, seq

Lengths = tuple[tuple[int, int], ...]

_MANY = 64  # intervals beyond which it is too much work
_ROUNDS = 5_000


def has_length(text: Text, low: int, high: int | None) -> bool | None:
    """Whether `text`, a plain one, has a word of `low` to `high` characters; None where that is not easy to tell."""
    if text is NEVER:
        return False
    if low == 0 or text.shortest >= low:
        return high is None or text.shortest <= high
    if high is None:
        return text.longest is None or text.longest >= low
    found = _lengths(text, high)
    return None if found is None else any(first <= high and last >= low for first, last in found)


def _lengths(text: Text, high: int) -> Lengths | None:
    known: dict[Text, Lengths] = {EMPTY: ((0, 0),), NEVER: ()}
    work = [text]
    while work:
        part = work[-1]
        if part in known:
            work.pop()
            continue
        missing = [child for child in _children(part) if child not in known]
        if missing:
            work += missing
            continue
        found = _computed(part, known, high)
        if found is None or len(found) > _MANY:
            return None
        known[part] = found
        work.pop()
    return known[text]


def _children(text: Text) -> tuple[Text, ...]:
    match text:
        case Then():
            return (text.first, text.rest)
        case Union():
            return text.items
        case Repeat():
            return (text.item,)
        case _:
            return ()


def _computed(text: Text, known: dict[Text, Lengths], high: int) -> Lengths | None:
    match text:
        case Literal():
            return ((len(text.text), len(text.text)),)
        case Characters():
            return ((1, 1),)
        case Words():
            return union((len(word), len(word)) for word in text.words)
        case Then():
            return _added(known[text.first], known[text.rest], high)
        case Union():
            return union(interval for item in text.items for interval in known[item])
        case Repeat():
            return _repeated(known[text.item], text.low, text.high, high)
        case _:
            return None


def _added(left: Lengths, right: Lengths, high: int) -> Lengths:
    sums = ((a + c, b + d) for a, b in left for c, d in right)
    return union((first, min(last, high)) for first, last in sums if first <= high)


def _repeated(item: Lengths, low: int, most: int | None, high: int) -> Lengths | None:
    """Sums of `low` to `most` lengths."""
    if len(item) == 1:
        first, last = item[0]
        if low * first > high:
            return ()
        rounds = range(low, (most if most is not None else high) + 1)
        if last - first >= 1 or first <= 1:  # from some round on, the sums of one touch those of the next
            found: list[tuple[int, int]] = []
            for count in rounds[:_ROUNDS]:
                if count * first > high:
                    break
                if count and count * (last - first) + 1 >= first:
                    end = high if most is None else min(high, most * last)
                    found.append((count * first, end))
                    return union(found)
                found.append((count * first, min(high, count * last)))
            return union(found) if len(rounds) <= _ROUNDS or count * first > high else None
        if rounds.stop - rounds.start > _MANY and high // first - low > _MANY:
            return None
        return union((count * first, count * last) for count in rounds[: _MANY + 1] if count * first <= high)
    total: Lengths = ((0, 0),)
    found = []
    for count in range(min(_ROUNDS, high + 1 if most is None else most) + 1):
        if count >= low:
            found += total
        total = _added(total, item, high)
        if not total:
            break
        if len(total) > _MANY or len(found) > _ROUNDS or count == _ROUNDS:
            return None
    return union(found)


def without_needless_counts(text: Text, high: int) -> Text:
    """A text with the same words of at most `high` characters, whose repeats end nowhere where such words cannot
    tell: `(?:.{1,63}[.]){1,127}` within 255 characters is `(?:.{1,63}[.])+`."""
    known: dict[Text, Text] = {}
    work = [text]
    while work:
        part = work[-1]
        if part in known:
            work.pop()
            continue
        parts = part.items if isinstance(part, Both) else _children(part)
        parts = (part.item,) if isinstance(part, Complement) else parts
        missing = [child for child in parts if child not in known]
        if missing:
            work += missing
            continue
        known[part] = _rebuilt(part, known, high)
        work.pop()
    return known[text]


def _rebuilt(text: Text, known: dict[Text, Text], high: int) -> Text:
    match text:
        case Then():
            return seq(known[text.first], known[text.rest])
        case Union():
            return either(*(known[item] for item in text.items))
        case Both():
            return both(*(known[item] for item in text.items))
        case Complement():
            return negate(known[text.item])
        case Repeat():
            is_needless = text.high is not None and (text.high + 1) * text.item.shortest > high
            return repeat(known[text.item], text.low, None if is_needless else text.high)
        case _:
            return text
