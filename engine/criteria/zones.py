"""Time zones by their IANA name."""

from __future__ import annotations

from zoneinfo import ZoneInfo


class BadTimeZone(ValueError):
    """No such zone in the time zone database."""


def load_zone(name: str) -> ZoneInfo:
    """The zone called `name` ("Europe/Berlin"). Raises BadTimeZone."""
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError) as error:
        # A name can be unknown, no key at all, a directory of zones ("America"), a path out of the database.
        raise BadTimeZone(f"{name!r} is not a time zone of the IANA database") from error
