"""Hands the memberships of journeys to readers in other processes after their rounds.

To serve many journeys takes long beside a round. So after it took long, a few rounds go by: readers hand on
what concerns users with newer data, and answer the rest as of the last instant that they know.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from engine.audiences.live.state import Definition, JourneyState
from engine.audiences.outlooks import Outlooks
from engine.backends.base import EstimateOutlook, ServedScope, ServingWriter
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

    def serve_all(self, journeys: Mapping[str, JourneyState]) -> None:
        """Serves what a round has brought in step, all of it at one instant; of many journeys, not while the
        last time took more than a share of the time since. Call within the round.
        """
        now = time.monotonic()
        if now < self._rests_until and len(journeys) > JOURNEYS_ALWAYS_SERVED:
            return
        began = time.thread_time()
        for journey, state in journeys.items():
            self.serve(journey, state, state.definition)
        for account in dict.fromkeys(map(account_of, journeys)):
            self._writer.serve_ids(account)
        spent = time.thread_time() - began
        self._rests_until = now + min(spent / SERVING_SHARE, REST_S_MAX)

    def serve(self, journey: str, state: JourneyState, definition: Definition | None) -> None:
        """Serves what the round has brought in step. Call within the round."""
        self._writer.serve(account_of(journey), journey, self._served(account_of(journey), state, definition))

    def _served(self, account: str, state: JourneyState, definition: Definition | None) -> ServedScope:
        if definition is None:
            return ServedScope(generation=0, reached=state.as_of, depends_on_time=False)
        milestones = dict(zip(definition.digests, definition.milestones, strict=True))
        definitions = {
            audience: digest
            for audience, digest in definition.digests.items()
            if state.digests.get(audience) == digest
        }
        served = {audience: milestones[audience] for audience in definitions}
        # Read before anything is looked at.
        writes = self._writer.writes(account)
        return ServedScope(
            generation=definition.generation,
            reached=state.as_of,
            depends_on_time=definition.depends_on_time,
            definitions=definitions,
            names={name: audience for audience in definitions for name in (audience, milestones[audience])},
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
