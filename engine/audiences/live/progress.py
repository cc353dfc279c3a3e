"""How far the refresh of each audience has come: usable, pending, failed, and up to which instant."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from engine.audiences.live.definitions import Definitions
from engine.audiences.live.state import JourneyState, JourneyStates
from engine.backends.base import Membership, MembershipReader, Published
from engine.clock import Clock
from engine.resources.records import Audience, account_of, journey_of
from engine.resources.repository import Repository
from engine.values import MICROS_PER_SECOND, Micros

STORED_AGE_MICROS_MAX = 3 * MICROS_PER_SECOND
"""Maximum age of a time-dependent stored membership that is used for answers."""

_RUNNING_MAX = 0.95
"""Progress shown at most while a calculation runs."""


@dataclass(frozen=True, slots=True)
class Current:
    """An up-to-date stored membership, and the instant it holds for."""

    membership: Membership
    as_of: Micros


@dataclass(frozen=True, slots=True)
class Usable:
    """The stored memberships of an account, and for each audience that may be answered from them the instant
    it holds for.
    """

    published: Published
    as_of: Mapping[str, Micros]


class UsableOne(NamedTuple):
    """The stored memberships of an account, and the instant that the one asked for holds for."""

    published: Published
    as_of: Micros


class Progress:
    """Reads the states that the rounds leave. Safe to call from several threads."""

    def __init__(
        self,
        repository: Repository,
        states: JourneyStates,
        definitions: Definitions,
        backend: MembershipReader,
        clock: Clock,
    ) -> None:
        self._repository = repository
        self._states = states
        self._definitions = definitions
        self._backend = backend
        self._clock = clock

    def current(self, audience: str) -> Current | None:
        """The stored membership, when it is of the current definition and not too old."""
        record = self._repository.find(Audience, audience)
        usable = None
        if record is not None:
            journey = journey_of(record.milestone)
            usable = self.usable_one(account_of(audience), journey, audience, self._clock())
        stored = None if usable is None else usable.published.find(audience)
        return None if usable is None or stored is None else Current(stored.membership, usable.as_of)

    def usable_one(self, account: str, journey: str, audience: str, now: Micros) -> UsableOne | None:
        """As `usable`, for one audience of a journey; None when it is not to be answered from its stored
        membership.
        """
        state = self._states.find(journey)
        if state is None or state.definition is None:
            return None
        published = self._backend.published(account)
        as_of = self._usable_at(audience, state, published, self._definitions.generation.value, now)
        return None if as_of is None else UsableOne(published, as_of)

    def usable(self, account: str, audiences: Sequence[str], now: Micros) -> Usable:
        """Those of the account's audiences whose stored membership is of the current definition and not too
        old at `now`. Those that depend on time hold for one instant: after a round that failed for some
        journeys they may hold for several, and none of them is usable. Takes no lock.
        """
        published = self._backend.published(account)
        generation = self._definitions.generation.value
        as_of: dict[str, Micros] = {}
        instants = set()
        for audience in audiences:
            state = self._state(audience)
            found = None if state is None else self._usable_at(audience, state, published, generation, now)
            if state is None or found is None:
                continue
            as_of[audience] = found
            if state.definition is not None and state.definition.depends_on_time:
                instants.add(published.reached(audience))
        return Usable(published, as_of if len(instants) <= 1 else {})

    def _usable_at(
        self, audience: str, state: JourneyState, published: Published, generation: int, now: Micros
    ) -> Micros | None:
        """The instant that a stored membership holds for; None when it is of another definition or too
        old.
        """
        definition = state.definition
        if definition is None or definition.generation != generation:
            return None
        digest = definition.digests.get(audience)
        if digest is None or state.digests.get(audience) != digest:
            return None
        refreshed = published.refreshed(audience)
        if refreshed is None or refreshed[0] != digest:
            return None
        as_of = refreshed[1]
        if not definition.depends_on_time:
            return max(as_of, now)
        # Too old, or the clock went back and the next round has yet to correct the membership.
        return None if abs(now - as_of) > STORED_AGE_MICROS_MAX else as_of

    def reached(self, audience: str) -> Micros:
        """The instant of the last round that kept the audience in step; 0 while there was none of the current
        definition since the start.
        """
        state = self._state(audience)
        if state is None or audience not in state.digests:
            return 0
        return self._backend.published(account_of(audience)).reached(audience)

    def failure(self, audience: str) -> str:
        """The error of the last round over the journey; "" when it succeeded."""
        state = self._state(audience)
        return "" if state is None else state.failure

    def fraction(self, audience: str) -> float:
        """Share of the running calculation that is done, estimated from the time of earlier ones."""
        state = self._state(audience)
        if state is None or state.begun is None:
            return 0.0
        spent = time.perf_counter() - state.begun
        return min(_RUNNING_MAX, spent / max(state.predicted_seconds, 1e-9))

    def _state(self, audience: str) -> JourneyState | None:
        record = self._repository.find(Audience, audience)
        return None if record is None else self._states.find(journey_of(record.milestone))
