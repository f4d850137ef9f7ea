"""Dates, times and durations: RFC 3339, section 5.6 and appendix A.

The calendar is exact: every date exists. Year 0000 is left out, as many libraries have none. A leap second is where
the standard puts it, at 23:59:60 UTC, for offsets of whole and half hours.
"""

from __future__ import annotations

from latticework.runtime.constrain.patterns import from_python
from latticework.runtime.constrain.texts import Text, either, literal, seq

_MINUTES = 24 * 60


def date() -> Text:
    """full-date."""
    year = from_python("[1-9][0-9]{3}|0(?:[1-9][0-9]{2}|0(?:[1-9][0-9]|0[1-9]))")
    divisible_by_four = from_python("0[48]|[2468][048]|[13579][26]")
    leap_year = either(seq(from_python("[0-9]{2}"), divisible_by_four), seq(divisible_by_four, literal("00")))
    month_and_day = from_python(
        "(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8])"
    )
    return either(seq(year, literal("-"), month_and_day), seq(leap_year, literal("-02-29")))


def time() -> Text:
    """full-time."""
    fraction = from_python(r"(?:\.[0-9]+)?")
    common = seq(
        from_python("(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"),
        fraction,
        from_python("[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9]"),
    )
    return either(common, *(_leap_second(hour, fraction) for hour in range(24)))


def _leap_second(hour: int, fraction: Text) -> Text:
    """The leap second in the places where it comes in this hour."""
    branches = []
    for minute in (29, 59):
        ahead = (hour * 60 + minute + 1) % _MINUTES
        behind = -ahead % _MINUTES
        offsets = [literal(f"+{ahead // 60:02}:{ahead % 60:02}"), literal(f"-{behind // 60:02}:{behind % 60:02}")]
        if ahead == 0:
            offsets += [literal("Z"), literal("z")]
        branches.append(seq(literal(f"{minute}:60"), fraction, either(*offsets)))
    return seq(literal(f"{hour:02}:"), either(*branches))


def date_time() -> Text:
    """date-time."""
    return seq(date(), from_python("[Tt]"), time())


def duration() -> Text:
    """duration (appendix A): no unit is skipped between two others."""
    second = from_python("[0-9]+S")
    minute = seq(from_python("[0-9]+M"), _optional(second))
    hour = seq(from_python("[0-9]+H"), _optional(minute))
    clock = seq(literal("T"), either(hour, minute, second))
    day = from_python("[0-9]+D")
    month = seq(from_python("[0-9]+M"), _optional(day))
    year = seq(from_python("[0-9]+Y"), _optional(month))
    calendar = seq(either(day, month, year), _optional(clock))
    return seq(literal("P"), either(calendar, clock, from_python("[0-9]+W")))


def _optional(text: Text) -> Text:
    return either(text, literal(""))
