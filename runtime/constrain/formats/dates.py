"""Dates, times and durations: RFC 3339, section 5.6 and appendix A.

The calendar is exact: every date exists. Year 0000 is left out, as many libraries have none. A leap second is where
the standard puts it, at 23:59:60 UTC, and only at the offsets named below.
"""

from __future__ import annotations

from latticework.runtime.constrain.patterns import from_python
from latticework.runtime.constrain.text_kinds import Text
from latticework.runtime.constrain.texts import either, literal, seq, word_set

_DAY = 24 * 60  # in minutes


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
    common = from_python(
        r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]+)?(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
    )
    return either(common, _leap_seconds(), _fractions_of_leap_seconds())


def _leap_seconds() -> Text:
    """Leap seconds without a fraction, at offsets of whole and half hours."""
    words = ["23:59:60Z", "23:59:60z"]
    for ahead in range(0, _DAY, 30):
        behind = -ahead % _DAY
        local = (ahead - 1) % _DAY
        words += (f"{_clock(local)}:60+{_clock(ahead)}", f"{_clock(local)}:60-{_clock(behind)}")
    return word_set(words)


def _fractions_of_leap_seconds() -> Text:
    """Leap seconds with a fraction, at the whole hours from UTC-12 to UTC+14."""
    offsets: dict[int, list[Text]] = {}  # by local time
    for hour in range(-12, 15):
        sign = "-" if hour < 0 else "+"
        offsets.setdefault((60 * hour - 1) % _DAY, []).append(literal(f"{sign}{_clock(60 * abs(hour))}"))
    offsets[_DAY - 1] += [literal("-00:00"), literal("Z"), literal("z")]
    digits = from_python("[0-9]+")
    return either(*(seq(literal(f"{_clock(at)}:60."), digits, either(*texts)) for at, texts in offsets.items()))


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


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
