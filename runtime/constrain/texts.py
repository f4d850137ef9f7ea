r"""`Text`: a regular language of character strings, as an interned expression.

Equal expressions are one object, so equality and hashing are those of identity. The constructors simplify: what is
empty vanishes, alternatives merge, lengths are kept apart from the rest (`[a-z]{3,9}` in an intersection is `[a-z]*`
and a length), so that bounds stay counters. Every expression without an intersection or a complement (`is_plain`)
has a word. Nothing here knows of bytes, JSON or automata; what words an expression has, `derivatives.py` finds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from latticework.runtime.constrain.ranges import ANY, intersect, union
from latticework.runtime.constrain.rules import MAX_COUNT, Ranges
from latticework.runtime.constrain.text_kinds import (
    EMPTY,
    MANY,
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
    finish,
    known_text,
)

_MANY_WORDS = 8  # from this many literals side by side on, they are one node
_FEW = 4  # intersections are distributed over at most this many alternatives that hold lengths

# ---------------------------------------------------------------- leaves


def literal(text: str) -> Text:
    """Exactly `text`. A lone surrogate is no character, so a text with one is never."""
    if not text:
        return EMPTY
    key = (Literal, text)
    known = known_text(key)
    if known is not None:
        return known
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        return NEVER
    made = Literal()
    made.text = text
    finish(made, key, len(text), len(text), False, True)
    return made


def chars(ranges: Ranges) -> Text:
    """One character out of `ranges` (any order)."""
    return _characters(intersect(union(ranges), ANY))


def _characters(ranges: Ranges) -> Text:
    """`ranges` are sorted, merged and without surrogates."""
    if len(ranges) <= 1:
        if not ranges:
            return NEVER
        if ranges[0][0] == ranges[0][1]:
            return literal(chr(ranges[0][0]))
    key = (Characters, ranges)
    known = known_text(key)
    if known is not None:
        return known
    made = Characters()
    made.ranges = ranges
    finish(made, key, 1, 1, False, True)
    return made


def word_set(words: Iterable[str]) -> Text:
    """Any one of `words`."""
    return _word_set(sorted(set(words)))


def _word_set(words: Sequence[str]) -> Text:
    if len(words) < _MANY_WORDS or (len(words[-1]) == 1 and max(map(len, words)) == 1):
        return either(*map(literal, words))
    if not words[0]:
        return either(EMPTY, _word_set(words[1:]))
    key = (Words, *words)
    known = known_text(key)
    if known is not None:
        return known
    made = Words()
    made.words = tuple(words)
    lengths = [len(word) for word in words]
    finish(made, key, min(lengths), max(lengths), False, True)
    return made


ANY_CHARACTER = _characters(ANY)


# ---------------------------------------------------------------- sequences and repeats


def seq(*items: Text) -> Text:
    """The items one after the other."""
    if not items:
        return EMPTY
    flat: list[Text] = []
    for item in items[:-1]:
        while isinstance(item, Then):
            flat.append(item.first)
            item = item.rest
        flat.append(item)
    rest = items[-1]
    while flat:
        rest = _then(flat.pop(), rest)
        if rest is NEVER:
            return NEVER
    return rest


def _then(first: Text, rest: Text) -> Text:
    if rest is EMPTY or first is NEVER:
        return first
    if first is EMPTY or rest is NEVER:
        return rest
    if isinstance(first, Literal):
        if isinstance(rest, Literal):
            return literal(first.text + rest.text)
        if isinstance(rest, Then) and isinstance(rest.first, Literal):
            first, rest = literal(first.text + rest.first.text), rest.rest
    elif first is ANYTHING:
        rest = _behind_anything(rest)
        if rest is EMPTY:
            return ANYTHING
    before = rest.first if isinstance(rest, Then) else rest
    if before is ANYTHING:
        if first.nullable:
            return rest
        if isinstance(first, Repeat) and first.high != first.low:
            first = repeat(first.item, first.low, first.low)
            if isinstance(first, Then | Literal):
                return seq(first, rest)
    key = (Then, first, rest)
    known = known_text(key)
    if known is not None:
        return known
    made = Then()
    made.first, made.rest = first, rest
    longest = None if first.longest is None or rest.longest is None else first.longest + rest.longest
    finish(
        made, key, first.shortest + rest.shortest, longest, first.nullable and rest.nullable,
        first.is_plain and rest.is_plain,
    )  # fmt: skip
    return made


def _behind_anything(rest: Text) -> Text:
    """What `rest` comes to after any text: what it may leave out, it may as well never have."""
    while not rest.nullable:
        first = rest.first if isinstance(rest, Then) else rest
        if isinstance(first, Repeat) and first.high != first.low:
            fewest = repeat(first.item, first.low, first.low)
            return seq(fewest, rest.rest) if isinstance(rest, Then) else fewest
        if not isinstance(rest, Then) or not first.nullable:
            return rest
        rest = rest.rest
    return EMPTY


def repeat(item: Text, low: int = 0, high: int | None = None) -> Text:
    """`item` `low` to `high` times; never where high < low."""
    if high is not None and high < low:
        return NEVER
    if item is NEVER:
        return EMPTY if low == 0 else NEVER
    if item is EMPTY or high == 0:
        return EMPTY
    if item.nullable:
        low = 0
        item = _without_empty(item)
    if isinstance(item, Repeat):
        inner = item
        if inner.low == 0:
            most = None if high is None or inner.high is None else high * inner.high
            if most is None or most <= MAX_COUNT:
                low, high, item = 0, most, inner.item
        elif inner.low == 1 and inner.high is None:
            high, item = None, inner.item
    if (low, high) == (1, 1):
        return item
    key = (Repeat, item, low, high)
    known = known_text(key)
    if known is not None:
        return known
    made = Repeat()
    made.item, made.low, made.high = item, low, high
    longest = None if high is None or item.longest is None else high * item.longest
    finish(made, key, low * item.shortest, longest, low == 0 or item.nullable, item.is_plain)
    return made


def _without_empty(item: Text) -> Text:
    """Only what is easy: the same language, less its empty word or not."""
    if isinstance(item, Union) and EMPTY in item.items:
        return either(*(part for part in item.items if part is not EMPTY))
    return item


ANYTHING = repeat(ANY_CHARACTER)


def any_text() -> Text:
    """Every string."""
    return ANYTHING


def length(low: int, high: int | None = None) -> Text:
    """Every string of `low` to `high` characters (code points)."""
    return repeat(ANY_CHARACTER, low, high)


def nonempty(item: Text) -> Text:
    """The words of `item` that are not empty."""
    if not item.nullable:
        return item
    if isinstance(item, Repeat) and not item.item.nullable:
        return repeat(item.item, 1, item.high)
    if isinstance(item, Union) and EMPTY in item.items:
        rest = _without_empty(item)
        if not rest.nullable:
            return rest
    return both(item, length(1))


# ---------------------------------------------------------------- alternatives


def either(*items: Text) -> Text:
    """The words that any of the items has."""
    kept: dict[Text, None] = {}
    ranges: list[tuple[int, int]] = []
    words: set[str] = set()
    denied: list[Text] = []
    repeats = 0
    for item in items:
        for part in item.items if isinstance(item, Union) else (item,):
            if isinstance(part, Then):
                repeats += isinstance(part.first, Repeat)
                kept[part] = None
            elif isinstance(part, Literal):
                if len(part.text) == 1:
                    ranges.append((ord(part.text), ord(part.text)))
                else:
                    words.add(part.text)
            elif isinstance(part, Characters):
                ranges += part.ranges
            elif isinstance(part, Words):
                words.update(part.words)
            elif isinstance(part, Complement):
                denied.append(part.item)
            elif part is ANYTHING:
                return ANYTHING
            elif part is not NEVER:
                repeats += isinstance(part, Repeat)
                kept[part] = None
    if repeats > 1:
        kept = _joined_repeats(kept)
    if ranges:
        kept[_characters(union(ranges))] = None
    if len(words) < _MANY_WORDS:
        kept.update(dict.fromkeys(map(literal, sorted(words))))
    else:
        kept[_word_set(sorted(words))] = None
    if denied:
        kept[_complement(both(*denied)) if len(denied) > 1 else _complement(denied[0])] = None
        if ANYTHING in kept or any(part in kept for part in denied):
            return ANYTHING
    if len(kept) > 1 and EMPTY in kept:
        kept = _with_empty(kept)
    if ANYTHING in kept:
        return ANYTHING
    if len(kept) <= 1:
        return next(iter(kept), NEVER)
    key = (Union, frozenset(kept))
    known = known_text(key)
    if known is not None:
        return known
    made = Union()
    made.items = tuple(kept)
    longest: int | None = 0
    for part in kept:
        longest = None if longest is None or part.longest is None else max(longest, part.longest)
    finish(
        made, key, min(part.shortest for part in kept), longest, any(part.nullable for part in kept),
        all(part.is_plain for part in kept),
    )  # fmt: skip
    return made


def _with_empty(parts: dict[Text, None]) -> dict[Text, None]:
    """The empty word goes where it needs no part of its own."""
    if any(part.nullable for part in parts if part is not EMPTY):
        return {part: None for part in parts if part is not EMPTY}
    for part in parts:
        if isinstance(part, Repeat) and part.low == 1:
            widened = repeat(part.item, 0, part.high)
            return {widened if other is part else other: None for other in parts if other is not EMPTY}
    return parts


def _joined_repeats(parts: dict[Text, None]) -> dict[Text, None]:
    """Repeats of one item before one rest, with counts that touch, as one repeat."""
    groups: dict[tuple[Text, Text], list[tuple[int, int]]] = {}
    joined: dict[Text, None] = {}
    for part in parts:
        first, rest = (part.first, part.rest) if isinstance(part, Then) else (part, EMPTY)
        if isinstance(first, Repeat):
            groups.setdefault((first.item, rest), []).append((first.low, MANY if first.high is None else first.high))
        elif (first, rest) in groups:
            groups[first, rest].append((1, 1))
        else:
            joined[part] = None
    for (item, rest), counts in groups.items():
        if len(counts) > 1:
            counts = list(union(counts))
        for low, high in counts:
            joined[seq(repeat(item, low, None if high >= MANY else high), rest)] = None
    return joined


# ---------------------------------------------------------------- intersections and complements


def both(*items: Text) -> Text:
    """The words that all of the items have."""
    kept: dict[Text, None] = {}
    denied: dict[Text, None] = {}
    letters: Ranges = ANY  # every character is out of these
    low: int = 0
    high: int | None = None
    for item in items:
        for part in item.items if isinstance(item, Both) else (item,):
            if part is NEVER:
                return NEVER
            if isinstance(part, Complement):
                denied[part.item] = None
                continue
            if isinstance(part, Repeat) and (ranges := _set_of(part.item)) is not None:
                letters = letters if ranges is ANY else intersect(letters, ranges)
                low = max(low, part.low)
                high = part.high if high is None else high if part.high is None else min(high, part.high)
            elif part is ANY_CHARACTER:
                low, high = max(low, 1), 1 if high is None else min(high, 1)
            else:
                kept[part] = None
    rest = repeat(_characters(letters)) if letters is not ANY else ANYTHING
    if denied:
        kept[_complement(either(*denied))] = None
    if not kept:
        return repeat(_characters(letters), low, high)
    if rest is not ANYTHING:
        kept[rest] = None
    return _bounded(_both(kept), low, high)


def _set_of(item: Text) -> Ranges | None:
    """The characters of a language of single characters."""
    if isinstance(item, Characters):
        return item.ranges
    if isinstance(item, Literal) and len(item.text) == 1:
        return ((ord(item.text), ord(item.text)),)
    return None


def _both(kept: dict[Text, None]) -> Text:
    """Of parts that are neither lengths nor intersections."""
    if len(kept) == 1:
        return next(iter(kept))
    if NEVER in kept:
        return NEVER
    if EMPTY in kept:
        return EMPTY if all(part.nullable for part in kept) else NEVER
    sets = [part for part in kept if isinstance(part, Characters)]
    if len(sets) > 1:
        ranges = sets[0].ranges
        for other in sets:
            ranges = intersect(ranges, other.ranges)
        return both(_characters(ranges), *(part for part in kept if part not in sets))
    finite = [part for part in kept if isinstance(part, Literal | Words)]
    if len(finite) > 1:
        shared = set.intersection(*({part.text} if isinstance(part, Literal) else set(part.words) for part in finite))
        return both(word_set(shared), *(part for part in kept if part not in finite))
    for part in kept:
        if isinstance(part, Union) and len(part.items) <= _FEW and any(map(_has_length, part.items)):
            others = [other for other in kept if other is not part]
            return either(*(both(choice, *others) for choice in part.items))
    low = max(part.shortest for part in kept)
    longest = [part.longest for part in kept if part.longest is not None]
    high = min(longest) if longest else None
    if high is not None and high < low:
        return NEVER
    key = (Both, frozenset(kept))
    known = known_text(key)
    if known is not None:
        return known
    made = Both()
    made.items = tuple(kept)
    finish(made, key, low, high, all(part.nullable for part in kept), False)
    return made


def _has_length(part: Text) -> bool:
    if isinstance(part, Both):
        return any(map(_is_length, part.items))
    return _is_length(part)


def _is_length(part: Text) -> bool:
    return isinstance(part, Repeat) and part.item is ANY_CHARACTER


def _bounded(item: Text, low: int, high: int | None) -> Text:
    """Those words of `item` that have `low` to `high` characters."""
    if item.shortest >= low:
        low = 0
    if high is not None and item.longest is not None and item.longest <= high:
        high = None
    if (low, high) == (0, None) or item is NEVER:
        return item
    if high is not None and (high < low or item.shortest > high):
        return NEVER
    if item.longest is not None and item.longest < low:
        return NEVER
    if isinstance(item, Repeat) and _set_of(item.item) is not None:
        most = item.high if high is None else high if item.high is None else min(high, item.high)
        return repeat(item.item, max(low, item.low), most)
    if isinstance(item, Words):
        return word_set(word for word in item.words if low <= len(word) and (high is None or len(word) <= high))
    if isinstance(item, Union) and (len(item.items) <= _FEW and any(map(_has_length, item.items))):
        return either(*(both(part, length(low, high)) for part in item.items))
    bounds = length(low, high)
    parts = (*item.items, bounds) if isinstance(item, Both) else (item, bounds)
    key = (Both, frozenset(parts))
    known = known_text(key)
    if known is not None:
        return known
    made = Both()
    made.items = parts
    longest = high if item.longest is None else item.longest if high is None else min(high, item.longest)
    finish(made, key, max(low, item.shortest), longest, low == 0 and item.nullable, False)
    return made


def negate(item: Text) -> Text:
    """Every string that `item` does not have."""
    if isinstance(item, Complement):
        return item.item
    if item is NEVER:
        return ANYTHING
    if item is ANYTHING:
        return NEVER
    if isinstance(item, Both):
        return either(*map(negate, item.items))
    if isinstance(item, Repeat) and _set_of(item.item) is not None and (item.low or item.high is not None):
        outside = [negate(repeat(item.item))]
        if item.low:
            outside.append(length(0, item.low - 1))
        if item.high is not None:
            outside.append(length(item.high + 1))
        return either(*outside)
    if item is ANY_CHARACTER:
        return either(EMPTY, length(2))
    if isinstance(item, Union):
        counted = [part for part in item.items if isinstance(part, Repeat) or _has_length(part)]
        if counted:
            rest = [part for part in item.items if part not in counted]
            return both(*map(negate, counted), *([_complement(either(*rest))] if rest else []))
    return _complement(item)


def _complement(item: Text) -> Text:
    if isinstance(item, Complement):
        return item.item
    if item is NEVER:
        return ANYTHING
    if item is ANYTHING:
        return NEVER
    key = (Complement, item)
    known = known_text(key)
    if known is not None:
        return known
    made = Complement()
    made.item = item
    finish(made, key, 1 if item.nullable else 0, None, not item.nullable, False)
    return made
