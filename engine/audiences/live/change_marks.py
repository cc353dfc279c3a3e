"""Hourly marks in each change log, so that old changes can be trimmed by age.

The time in a change record is the instant it holds for, and may be as wrong as the clock was. So once an hour
the last sequence number is stored with an `engine.clock.Stamp`, in one small document for each audience.
"""

from __future__ import annotations

import itertools

import msgspec

from engine.backends.base import Documents
from engine.clock import Stamp
from engine.values import MICROS_PER_DAY, Micros

CHANGES_KEPT_MIN_MICROS = MICROS_PER_DAY
"""Minimum age of trimmed changes, however short an account's retention is."""

_PREFIX = "changes/"

_Mark = tuple[Micros, int]
_decoder = msgspec.msgpack.Decoder(list[_Mark])


class ChangeMarks:
    """Reads and writes the marks. At most one writer for each audience."""

    def __init__(self, documents: Documents, horizon: Micros) -> None:
        self._documents = documents
        self._horizon = horizon

    def past_horizon(self, audience: str, last_sequence: int, now: Stamp, retention: Micros) -> int:
        """Marks the audience's last change. Returns the last sequence past the horizon; 0 when there is none.

        The horizon is the account's retention (0 = none) where that is shorter.
        """
        horizon = min(self._horizon, max(retention, CHANGES_KEPT_MIN_MICROS)) if retention else self._horizon
        stored = self._documents.get(_PREFIX + audience)
        marks = [] if stored is None else _decoder.decode(stored)
        if marks and marks[-1][1] > last_sequence:
            # The membership was recalculated: its sequence starts again at 1.
            marks = []
        # A mark from a clock that was ahead counts as made now.
        marks = [(min(time, now.arrival), sequence) for time, sequence in marks]
        old = list(itertools.takewhile(lambda mark: mark[0] <= now.settled - horizon, marks))
        # Keep the newest expired mark: it bounds the older changes until the next mark expires.
        kept = [*old[-1:], *marks[len(old) :], (now.arrival, last_sequence)]
        self._documents.commit({_PREFIX + audience: msgspec.msgpack.encode(kept)})
        return old[-1][1] if old else 0

    def forget(self, audience: str) -> None:
        """Removes the audience's marks."""
        self._documents.commit({}, [_PREFIX + audience])
