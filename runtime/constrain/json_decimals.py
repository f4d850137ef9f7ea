"""Ranges of decimal digits -> byte expressions: naturals between two, and decimals between two."""

from __future__ import annotations

from latticework.runtime.constrain.builder import EMPTY, NEVER, Builder


def naturals(builder: Builder, low: int, high: int) -> int:
    """low to high without leading zeros; NEVER when high < low."""
    if high < low:
        return NEVER
    first, last = str(low), str(high)
    if len(first) == len(last):
        return _same_length(builder, first, last)
    from_low = _same_length(builder, first, "9" * len(first))
    to_high = _same_length(builder, "1" + "0" * (len(last) - 1), last)
    between = NEVER
    if len(last) - len(first) > 1:
        between = builder.sequence([digits(builder, 1, 9), some_digits(builder, len(first), len(last) - 2)])
    return builder.either([from_low, between, to_high])


def decimals(builder: Builder, low: int, high: int, places: int) -> int:
    """Non-negative decimals with a point and 1 to `places` digits behind it, from low / 10**places to
    high / 10**places; NEVER when high < low."""
    if high < low:
        return NEVER
    unit = 10**places
    (first, above), (last, below) = divmod(low, unit), divmod(high, unit)
    low_tail, high_tail = f"{above:0{places}d}", f"{below:0{places}d}"
    if first == last:
        return _with_point(builder, builder.literal(str(first).encode()), _tail_between(builder, low_tail, high_tail))
    branches: list[int] = []
    if not above:
        first -= 1
    else:
        branches.append(_with_point(builder, builder.literal(str(first).encode()), _tail_from(builder, low_tail)))
    if below == unit - 1:
        last += 1
    else:
        branches.append(_with_point(builder, builder.literal(str(last).encode()), _tail_to(builder, high_tail)))
    branches.append(_with_point(builder, naturals(builder, first + 1, last - 1), some_digits(builder, 1, places)))
    return builder.either(branches)


def digits(builder: Builder, low: int, high: int) -> int:
    """One digit from low to high; NEVER when there is none."""
    return builder.byte_set(((0x30 + low, 0x30 + high),)) if low <= high else NEVER


def any_digits(builder: Builder, count: int) -> int:
    return builder.repeat(digits(builder, 0, 9), count, count)


def some_digits(builder: Builder, low: int, high: int) -> int:
    return builder.repeat(digits(builder, 0, 9), low, high)


# ---------------------------------------------------------------- naturals


def _same_length(builder: Builder, low: str, high: str) -> int:
    """The digit strings from low to high, all of their one length."""
    builder.tick()
    shared = 0
    while shared < len(low) and low[shared] == high[shared]:
        shared += 1
    prefix = builder.literal(low[:shared].encode())
    if shared == len(low):
        return prefix
    a, b = int(low[shared]), int(high[shared])
    low_rest, high_rest = low[shared + 1 :], high[shared + 1 :]
    rest = len(low_rest)
    branches: list[int] = []
    if not low_rest.strip("0"):
        a -= 1
    else:
        branches.append(builder.sequence([digits(builder, a, a), _at_least(builder, low_rest)]))
    if not high_rest.strip("9"):
        b += 1
    else:
        branches.append(builder.sequence([digits(builder, b, b), _at_most(builder, high_rest)]))
    branches.append(builder.sequence([digits(builder, a + 1, b - 1), any_digits(builder, rest)]))
    return builder.sequence([prefix, builder.either(branches)])


def _at_least(builder: Builder, low: str) -> int:
    """Digit strings of the same length, not below `low`."""
    kept = low.rstrip("0")
    node = any_digits(builder, len(low) - len(kept))
    for place in range(len(kept) - 1, -1, -1):
        digit = int(low[place])
        above = builder.sequence([digits(builder, digit + 1, 9), any_digits(builder, len(low) - place - 1)])
        node = builder.either([builder.sequence([digits(builder, digit, digit), node]), above])
    return node


def _at_most(builder: Builder, high: str) -> int:
    """Digit strings of the same length, not above `high`."""
    kept = high.rstrip("9")
    node = any_digits(builder, len(high) - len(kept))
    for place in range(len(kept) - 1, -1, -1):
        digit = int(high[place])
        below = builder.sequence([digits(builder, 0, digit - 1), any_digits(builder, len(high) - place - 1)])
        node = builder.either([builder.sequence([digits(builder, digit, digit), node]), below])
    return node


# ---------------------------------------------------------------- behind the point


def _with_point(builder: Builder, whole: int, tail: int) -> int:
    return builder.sequence([whole, builder.literal(b"."), tail])


def _tail_from(builder: Builder, low: str) -> int:
    """1 to len(low) digits that, filled up with zeros, are not below `low`; NEVER may be written short of it."""
    kept = low.rstrip("0")
    if not kept:
        return some_digits(builder, 1, len(low))
    node = some_digits(builder, 0, len(low) - len(kept))  # what follows once all of `kept` is written
    for place in range(len(kept) - 1, -1, -1):
        digit = int(low[place])
        above = builder.sequence([digits(builder, digit + 1, 9), some_digits(builder, 0, len(low) - place - 1)])
        node = builder.either([above, builder.sequence([digits(builder, digit, digit), node])])
    return node


def _tail_to(builder: Builder, high: str) -> int:
    """1 to len(high) digits that, filled up with zeros, are not above `high`."""
    kept = high.rstrip("0")
    zeros = len(high) - len(kept)
    node = builder.repeat(builder.literal(b"0"), 0 if kept else 1, zeros)
    for place in range(len(kept) - 1, -1, -1):
        digit = int(high[place])
        below = builder.sequence([digits(builder, 0, digit - 1), some_digits(builder, 0, len(high) - place - 1)])
        node = builder.either([below, builder.sequence([digits(builder, digit, digit), builder.optional(node)])])
    return node


def _tail_between(builder: Builder, low: str, high: str) -> int:
    """1 to len(low) digits that, filled up with zeros, lie from `low` to `high`."""
    shared = 0
    while shared < len(low) and low[shared] == high[shared]:
        shared += 1
    if shared == len(low):
        return _written_short(builder, low)
    a, b = int(low[shared]), int(high[shared])
    low_rest, high_rest = low[shared + 1 :], high[shared + 1 :]
    rest = len(low_rest)
    from_low = _tail_from(builder, low_rest) if low_rest.strip("0") else some_digits(builder, 0, rest)
    to_high = builder.optional(_tail_to(builder, high_rest)) if rest else EMPTY
    branch = builder.either(
        [
            builder.sequence([digits(builder, a, a), from_low]),
            builder.sequence([digits(builder, a + 1, b - 1), some_digits(builder, 0, rest)]),
            builder.sequence([digits(builder, b, b), to_high]),
        ]
    )
    whole = builder.sequence([builder.literal(low[:shared].encode()), branch])
    if shared and not low[shared:].strip("0"):  # the shared part alone already reaches `low`
        whole = builder.either([whole, _written_short(builder, low[:shared])])
    return whole


def _written_short(builder: Builder, text: str) -> int:
    """`text` with any number of its final zeros left out, at least one digit."""
    kept = text.rstrip("0") or "0"
    zeros = builder.repeat(builder.literal(b"0"), 0, len(text) - len(kept))
    return builder.sequence([builder.literal(kept.encode()), zeros])
