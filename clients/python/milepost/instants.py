"""A time written as one text, by the grammar of times in `milepost.grammar`, in plain Python:

    2026-11-01                   midnight UTC
    2026-11-01T10:00             or a space for the T; seconds and their fraction may follow
    2026-11-01 10:00:00+0100     Z, UTC, +01:00, +0100 or +01 may follow, also after a space; else UTC

A number is refused here: nothing says which unit it counts.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

EXPECTED = "expected a time like 2026-11-01, 2026-11-01T10:00 (both UTC) or 2026-11-01T10:00:00+01:00"
_MICROSECOND_DIGITS = 6
_DAY = r"(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})"
_CLOCK = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?:\.(?P<fraction>[0-9]{1,9}))?)?"
_OFFSET = r" ?(?:[Zz]|UTC|(?P<sign>[+-])(?P<hours>[0-9]{2})(?::?(?P<minutes>[0-5][0-9]))?)"
_WRITTEN = re.compile(f"{_DAY}(?:[Tt ]{_CLOCK}(?:{_OFFSET})?)?")


def instant_of(text: str) -> datetime:
    """The instant in UTC; digits below a microsecond are dropped. Raises ValueError for anything else."""
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise ValueError(f"{EXPECTED}, not {text!r}")
    year, month, day, hour, minute, second, hours, minutes = (
        int(found[name] or 0)
        for name in ("year", "month", "day", "hour", "minute", "second", "hours", "minutes")
    )
    microsecond = int((found["fraction"] or "")[:_MICROSECOND_DIGITS].ljust(_MICROSECOND_DIGITS, "0"))
    offset = timedelta(hours=hours, minutes=minutes)
    try:
        zone = timezone(-offset if found["sign"] == "-" else offset)
        return datetime(year, month, day, hour, minute, second, microsecond, zone).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text!r} is no time: {error}") from error


def text_of(moment: datetime) -> str:
    """The instant in RFC 3339, in UTC: 2026-11-01T10:00:00Z."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
