"""When changes of memberships were made, for forgetting them by age.

Change logs are numbered. Their records say for which instant they hold, which may be as wrong as the clock
was. So once an hour the number of the last change is noted with an `engine.clock.Stamp`, in one small
document for each audience.
"""

from __future__ import annotations

import itertools

import msgspec

from engine.backends.base import Documents
from engine.clock import Stamp
from engine.values import MICROS_PER_DAY, Micros

CHANGES_KEPT_MIN_MICROS = MICROS_PER_DAY
"""However short an account's retention is, changes are kept for this long."""

_PREFIX = "changes/"

_Mark = tuple[Micros, int]
_decoder = msgspec.msgpack.Decoder(list[_Mark])


class ChangeMarks:
    """Reads and writes the marks. One writer for each audience at a time."""

    def __init__(self, documents: Documents, horizon: Micros) -> None:
        self._documents = documents
        self._horizon = horizon

    def past_horizon(self, audience: str, last_sequence: int, now: Stamp, retention: Micros) -> int:
        """Notes the audience's last change, and answers the last one past the horizon: 0 when there is none.
        The horizon is the account's retention (0 = none) where that is shorter.
        """
        horizon = min(self._horizon, max(retention, CHANGES_KEPT_MIN_MICROS)) if retention else self._horizon
        stored = self._documents.get(_PREFIX + audience)
        marks = [] if stored is None else _decoder.decode(stored)
        if marks and marks[-1][1] > last_sequence:
            # Calculated anew, with numbers from 1.
            marks = []
        # What was noted under a clock that was ahead was not noted later than now.
        marks = [(min(time, now.arrival), sequence) for time, sequence in marks]
        old = list(itertools.takewhile(lambda mark: mark[0] <= now.settled - horizon, marks))
        # The newest of the old ones stays: it speaks for what came before until another one is old enough.
        kept = [*old[-1:], *marks[len(old) :], (now.arrival, last_sequence)]
        self._documents.commit({_PREFIX + audience: msgspec.msgpack.encode(kept)})
        return old[-1][1] if old else 0

    def forget(self, audience: str) -> None:
        """The membership is gone."""
        self._documents.commit({}, [_PREFIX + audience])
