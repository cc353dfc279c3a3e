"""Hands the memberships of journeys to readers in other processes after their rounds.

To serve many journeys takes long beside a round. So after it took long, a few rounds go by: readers hand on
what concerns users with newer data, and answer the rest as of the last instant that they know.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from engine.audiences.live.failures import each_alone
from engine.audiences.live.state import Definition, JourneyState
from engine.audiences.outlooks import Outlooks
from engine.backends.base import EstimateOutlook, ServedScope, ServingWriter
from engine.errors import MilepostError, failure_of
from engine.resources.records import account_of

JOURNEYS_ALWAYS_SERVED = 16
"""Journeys that are served after each round, when there are no more of them."""
SERVING_SHARE = 0.05
"""Processor time that is spent on more of them, of all time."""
REST_S_MAX = 1.0
"""Well below the age of memberships that readers still answer from."""


class JourneyServing:
    """Serves journeys through a writer."""

    def __init__(self, writer: ServingWriter, outlooks: Outlooks) -> None:
        self._writer = writer
        self._outlooks = outlooks
        self._rests_until = 0.0
        """An instant of `time.monotonic()`."""

    def serve_all(self, journeys: Mapping[str, JourneyState]) -> dict[str, MilepostError]:
        """Serves what a round has brought in step, all of it at one instant; of many journeys, not while the
        last time took more than a share of the time since. Returns the failures by journey. Call within the
        round.
        """
        now = time.monotonic()
        if now < self._rests_until and len(journeys) > JOURNEYS_ALWAYS_SERVED:
            return {}
        began = time.thread_time()
        accounts: dict[str, dict[str, ServedScope]] = {}
        failures: dict[str, MilepostError] = {}
        for journey, state in journeys.items():
            account = account_of(journey)
            try:
                served = self._served(account, state, state.definition)
            except Exception as error:
                failures[journey] = failure_of(error)
                served = _unserved(state)
            accounts.setdefault(account, {})[journey] = served
        for account, scopes in accounts.items():
            failures |= self._serve(account, scopes)
        spent = time.thread_time() - began
        self._rests_until = now + min(spent / SERVING_SHARE, REST_S_MAX)
        return failures

    def _serve(self, account: str, scopes: Mapping[str, ServedScope]) -> dict[str, MilepostError]:
        def serve(journeys: Sequence[str]) -> None:
            self._writer.serve(account, {journey: scopes[journey] for journey in journeys})

        failures = dict(each_alone(list(scopes), serve))
        try:
            self._writer.serve_ids(account)
        except Exception as error:
            # Of all the account's journeys: their lists need the ids.
            failures |= dict.fromkeys(scopes, failure_of(error))
        return failures

    def _served(self, account: str, state: JourneyState, definition: Definition | None) -> ServedScope:
        if definition is None:
            return _unserved(state)
        milestones = definition.milestone_of
        is_whole = state.digests == definition.digests
        definitions = (
            definition.digests
            if is_whole
            else {
                audience: digest
                for audience, digest in definition.digests.items()
                if state.digests.get(audience) == digest
            }
        )
        served = milestones if is_whole else {audience: milestones[audience] for audience in definitions}
        # Read before anything is looked at.
        writes = self._writer.writes(account)
        return ServedScope(
            generation=definition.generation,
            reached=state.as_of,
            depends_on_time=definition.depends_on_time,
            definitions=definitions,
            names={
                name: audience for audience, milestone in served.items() for name in (audience, milestone)
            },
            inputs=definition.inputs,
            outlooks=self._outlooks_of(served, state, definition, writes),
            writes=writes,
        )

    def _outlooks_of(
        self, served: Mapping[str, str], state: JourneyState, definition: Definition, writes: int | None
    ) -> Mapping[str, EstimateOutlook]:
        if writes is None or not served:
            return {}
        return self._outlooks.of(served, state.as_of, definition.generation, writes)


def _unserved(state: JourneyState) -> ServedScope:
    """Nothing that readers could answer from."""
    return ServedScope(generation=0, reached=state.as_of, depends_on_time=False)
