"""Trims change logs: by number after each refresh, by age once an hour."""

from __future__ import annotations

from collections.abc import Mapping

from engine.audiences.live.change_marks import ChangeMarks, Last
from engine.audiences.live.consumers import Consumers
from engine.audiences.live.state import JourneyState
from engine.backends.base import Membership, MembershipStore
from engine.clock import Clock
from engine.limits import Limits
from engine.resources.milestone_tree import Forest
from engine.resources.records import account_of
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR

CHANGES_KEPT = 1_000_000
"""Changes of each audience kept for watchers; more while a connection has not delivered them."""

CHANGES_TRIMMED_MIN = 100_000

OLD_CHANGES_MICROS = MICROS_PER_HOUR
"""Interval between searches for changes that are old enough to trim."""


class Trimmer:
    """Trims the change logs of the audiences of a journey."""

    def __init__(
        self,
        forest: Forest,
        consumers: Consumers,
        change_marks: ChangeMarks,
        backend: MembershipStore,
        clock: Clock,
        limits: Limits,
    ) -> None:
        self._erased_ids_kept = limits.erased_ids_days * MICROS_PER_DAY
        self._forest = forest
        self._consumers = consumers
        self._change_marks = change_marks
        self._backend = backend
        self._clock = clock

    def trim(self, audience: str, membership: Membership) -> None:
        """Trims old changes that every connection has delivered and no watcher may need."""
        through = membership.last_sequence - CHANGES_KEPT
        if through - membership.first_sequence < CHANGES_TRIMMED_MIN:
            # Most often: so the connections of an account are not looked through for each audience.
            return
        through = min([through, *self._consumers.delivered(audience)])
        if through - membership.first_sequence >= CHANGES_TRIMMED_MIN:
            self._backend.trim_changes(audience, through)

    def due(self, journeys: Mapping[str, JourneyState]) -> list[str]:
        """The journeys to look for old changes of: each once an hour."""
        settled = self._clock.settled()
        return [
            journey
            for journey, state in journeys.items()
            if state.definition is not None and abs(settled - state.old_checked) >= OLD_CHANGES_MICROS
        ]

    def forget_old(self, journeys: Mapping[str, JourneyState]) -> None:
        """Trims changes past their horizon, and changes that name users erased long ago, once every
        connection has delivered them. A watcher that resumes later starts with a new snapshot.
        """
        stamp = self._clock.stamp()
        last: list[Last] = []
        for journey, state in journeys.items():
            state.old_checked = stamp.settled
            if state.definition is None:
                continue
            retention = self._forest.account(account_of(journey)).event_retention
            for audience in state.definition.digests:
                membership = self._backend.membership(audience)
                if membership is not None:
                    last.append(Last(audience, membership.last_sequence, retention))
        aged = self._change_marks.past_horizon(last, stamp) if last else {}
        for audience, through in aged.items():
            named = self._backend.erased_through(audience, stamp.settled - self._erased_ids_kept)
            through = min([max(through, named), *self._consumers.delivered(audience)])
            self._backend.trim_changes(audience, through)
