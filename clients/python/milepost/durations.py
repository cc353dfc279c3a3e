"""Durations written as text, on the command line and in documents:

    30d  12h  90m  2w  45s  50ms   a whole number and a unit
    1d12h  1h30m                   several of them, the larger unit first
    0.5s  2592000s  -3s            seconds may have a fraction and a sign: the form of proto3 JSON

A week has 7 days, a day 24 hours. Months and years have no fixed length: a `calendar` window counts those.
"""

from __future__ import annotations

import re

from google.protobuf.duration_pb2 import Duration

EXPECTED = "expected a duration like 30d, 12h, 90m, 2w or 1d12h (units: w, d, h, m, s, ms)"
SECONDS_MAX = 315_576_000_000
"""The longest duration of protobuf: 10,000 years."""
_SECONDS = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_COUNT = "[0-9]{1,12}"
_WRITTEN = re.compile(
    "(?=.)" + "".join(rf"(?:(?P<{unit}>{_COUNT}){unit})?" for unit in _SECONDS) + rf"(?:(?P<ms>{_COUNT})ms)?"
)
_PROTO3_JSON = re.compile(rf"-?{_COUNT}(\.[0-9]{{1,9}})?s")


def duration_of(text: str) -> Duration:
    """The duration. Raises ValueError for any other text."""
    length = Duration()
    if _PROTO3_JSON.fullmatch(text):
        whole, _, fraction = text.removesuffix("s").partition(".")
        sign = -1 if text.startswith("-") else 1
        length.seconds, length.nanos = int(whole), sign * int(fraction.ljust(9, "0"))
    elif (found := _WRITTEN.fullmatch(text)) is not None:
        seconds, milliseconds = divmod(int(found["ms"] or 0), 1_000)
        length.seconds = seconds + sum(int(found[unit] or 0) * each for unit, each in _SECONDS.items())
        length.nanos = milliseconds * 1_000_000
    else:
        raise ValueError(f"{EXPECTED}, not {text!r}")
    if abs(length.seconds) + (length.nanos != 0) > SECONDS_MAX:
        raise ValueError(f"{text!r} is longer than 10,000 years")
    return length


def text_of(length: Duration) -> str:
    """1d12h, in days at most; with a fraction of a second, in the form of proto3 JSON."""
    if length.nanos:
        return length.ToJsonString()
    parts, seconds = [], length.seconds
    for unit in "dhms":
        count, seconds = divmod(seconds, _SECONDS[unit])
        parts += [f"{count}{unit}"] if count else []
    return "".join(parts) or "0s"
