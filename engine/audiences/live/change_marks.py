"""Hourly marks in each change log, so that old changes can be trimmed by age.

The time in a change record is the instant it holds for, and may be as wrong as the clock was. So once an hour
the last sequence number is stored with an `engine.clock.Stamp`, in one small document for each audience.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from engine.backends.base import Documents
from engine.clock import Stamp
from engine.values import MICROS_PER_DAY, Micros

CHANGES_KEPT_MIN_MICROS = MICROS_PER_DAY
"""Minimum age of trimmed changes, however short an account's retention is."""

_PREFIX = "changes/"

_Mark = tuple[Micros, int]
_decoder = msgspec.msgpack.Decoder(list[_Mark])


class Last(NamedTuple):
    """The last change of an audience, and the retention of its account (0 = none)."""

    audience: str
    sequence: int
    retention: Micros


class ChangeMarks:
    """Reads and writes the marks. At most one writer for each audience."""

    def __init__(self, documents: Documents, horizon: Micros) -> None:
        self._documents = documents
        self._horizon = horizon

    def past_horizon(self, last_changes: Iterable[Last], now: Stamp) -> dict[str, int]:
        """Marks the last change of each audience, all in one transaction. Returns the last sequence past the
        horizon by audience; 0 when there is none.

        The horizon is the account's retention where that is shorter.
        """
        documents, past = {}, {}
        for last in last_changes:
            kept, past[last.audience] = self._marked(last, now)
            documents[_PREFIX + last.audience] = msgspec.msgpack.encode(kept)
        self._documents.commit(documents)
        return past

    def _marked(self, last: Last, now: Stamp) -> tuple[list[_Mark], int]:
        """The marks of an audience from now on, and its last sequence past the horizon."""
        horizon = self._horizon
        if last.retention:
            horizon = min(horizon, max(last.retention, CHANGES_KEPT_MIN_MICROS))
        stored = self._documents.get(_PREFIX + last.audience)
        marks = [] if stored is None else _decoder.decode(stored)
        if marks and marks[-1][1] > last.sequence:
            # The membership was recalculated: its sequence starts again at 1.
            marks = []
        # A mark from a clock that was ahead counts as made now.
        marks = [(min(time, now.arrival), sequence) for time, sequence in marks]
        old = list(itertools.takewhile(lambda mark: mark[0] <= now.settled - horizon, marks))
        # Keep the newest expired mark: it bounds the older changes until the next mark expires.
        kept = [*old[-1:], *marks[len(old) :], (now.arrival, last.sequence)]
        return kept, old[-1][1] if old else 0

    def forget(self, audience: str) -> None:
        """Removes the audience's marks."""
        self._documents.commit({}, [_PREFIX + audience])
