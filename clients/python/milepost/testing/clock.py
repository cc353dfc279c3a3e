"""The time of a service under test."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Protocol

from milepost.durations import duration_of
from milepost.instants import instant_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class _Moved(Protocol):
    """A service whose time can be moved. Times in microseconds."""

    def now(self) -> int:
        """The time that it shows."""
        ...

    def advance(self, length: int) -> None:
        """Moves it ahead."""
        ...


class Clock:
    """The service's clock. Time only moves ahead.

    A move returns once the activated audiences are what they are at the new time. The changes are then on
    their way to watchers and outputs. Waits, retries and limits of calls follow the machine's clock instead.
    """

    def __init__(self, moved: _Moved) -> None:
        self._moved = moved

    @property
    def now(self) -> datetime:
        """The time that the service shows, in UTC."""
        return _EPOCH + self._moved.now() * _MICROSECOND

    def advance(self, length: str | timedelta) -> datetime:
        """Moves the time ahead by `30d`, `1d12h` or a timedelta, and returns the new time. Raises ValueError
        for a negative length.
        """
        if isinstance(length, str):
            length = duration_of(length).ToTimedelta()
        self._moved.advance(length // _MICROSECOND)
        return self.now

    def advance_to(self, instant: str | datetime) -> datetime:
        """Moves the time ahead to an instant, like `2026-12-01`, and returns it. Raises ValueError for one
        that is past.
        """
        to = moment_of(instant)
        return self.advance(to - self.now)


def moment_of(instant: str | datetime) -> datetime:
    """The instant of a text or a datetime. Raises ValueError for a datetime without a time zone."""
    if isinstance(instant, str):
        return instant_of(instant)
    if instant.tzinfo is None:
        raise ValueError(f"{instant!r} has no time zone")
    return instant


def micros_of(moment: datetime) -> int:
    """Microseconds since 1970."""
    return (moment - _EPOCH) // _MICROSECOND
