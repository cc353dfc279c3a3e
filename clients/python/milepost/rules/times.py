"""Times in rule tests: instants, or durations before and after the instant that the file is about."""

from __future__ import annotations

from datetime import datetime

from milepost import durations, instants

EXPECTED = (
    "expected a duration from as_of, like -3d or 30d, or a time like 2026-11-01 or 2026-11-01T10:00:00+01:00"
)


def time_of(text: object, as_of: datetime) -> datetime:
    """The instant that a text stands for. Raises ValueError."""
    if not isinstance(text, str):
        raise ValueError(f"{EXPECTED}, not {text!r}")
    unsigned = text.removeprefix("-") if text.startswith("-") else text.removeprefix("+")
    try:
        length = durations.duration_of(unsigned).ToTimedelta()
    except ValueError:
        try:
            return instants.instant_of(text)
        except ValueError:
            raise ValueError(f"{EXPECTED}, not {text!r}") from None
    try:
        return as_of - length if text.startswith("-") else as_of + length
    except OverflowError:
        raise ValueError(f"{text!r} from as_of is beyond the years 1 to 9999") from None
