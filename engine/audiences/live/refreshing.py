"""Brings the stored memberships of a journey in step: everyone after a change of definitions, otherwise dirty
users and those whom time may have moved.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from engine.audiences.history import SizeHistory
from engine.audiences.live.definitions import Definitions
from engine.audiences.live.state import Definition, JourneyState
from engine.audiences.live.trimming import Trimmer
from engine.backends.base import Count, MembershipStore, PlanExecutor, UserReader
from engine.clock import Clock, ClockState
from engine.criteria.zones import load_zone
from engine.plan.compile import compile_journey
from engine.plan.expiry import expiry_plan
from engine.plan.model import Plan
from engine.plan.passes import ALL_PASSES
from engine.resources.milestone_tree import Forest
from engine.resources.records import account_of
from engine.resources.repository import Repository
from engine.values import MICROS_PER_SECOND, Micros

TIME_STEP_MICROS = MICROS_PER_SECOND
"""Interval between refreshes for time alone, when no new data arrives."""

SMALL_USERS = 64
"""Below this many dirty users, optimising a plan takes longer than it saves."""

_SECONDS_PER_USER = 1e-6


class Refreshes(PlanExecutor, UserReader, MembershipStore, Protocol):
    """Stores memberships, and estimates how many users a refresh covers."""


class JourneyRefresher:
    """Refreshes the memberships of one journey at a time."""

    def __init__(
        self,
        repository: Repository,
        forest: Forest,
        definitions: Definitions,
        trimmer: Trimmer,
        history: SizeHistory,
        backend: Refreshes,
        exact_since: Callable[[str], Micros],
        clock: Clock,
    ) -> None:
        self._repository = repository
        self._forest = forest
        self._definitions = definitions
        self._trimmer = trimmer
        self._history = history
        self._backend = backend
        self._exact_since = exact_since
        self._clock = clock
        self._seconds_per_user = _SECONDS_PER_USER

    def bring_in_step(self, journey: str, state: JourneyState, definition: Definition, now: Micros) -> None:
        """Refreshes what has changed since the last round, to the instant `now`."""
        whole = state.digests != definition.digests
        pending = self._backend.pending(journey)
        if not whole and not pending:
            if not definition.depends_on_time:
                state.as_of = now
            if abs(now - state.as_of) < TIME_STEP_MICROS:
                return
        with self._repository.reading():
            if definition.generation != self._definitions.generation():
                # The records have changed meanwhile; the next round handles that.
                return
            moved = None if whole else self._moved(journey, state, definition, now)
        # The memberships follow a clock that went back, whether or not anyone changed.
        if whole or pending or now < state.as_of or self._is_anyone_moved(moved):
            plan = self._plan(journey, definition, now, is_small=not whole and pending < SMALL_USERS)
            if plan is None:
                return
            self._refresh(journey, state, definition, plan, moved, whole=whole)
        # Removed events cannot show whom they affected, so the next round evaluates everyone.
        missed = not whole and min(state.as_of, now) < self._exact_since(account_of(journey))
        state.digests = {} if missed else dict(definition.digests)
        state.as_of = now

    def _plan(self, journey: str, definition: Definition, now: Micros, *, is_small: bool) -> Plan | None:
        """A root for each calculated milestone; None when the records have changed since the definition was
        made. The next round handles that.
        """
        account = account_of(journey)
        with self._repository.reading():
            if definition.generation != self._definitions.generation():
                return None
            return compile_journey(
                self._forest.account(account),
                self._forest.tree(journey),
                now,
                self._forest.resolver(account),
                milestones=definition.milestones,
                passes=() if is_small else ALL_PASSES,
            ).plan

    def _moved(self, journey: str, state: JourneyState, definition: Definition, now: Micros) -> Plan | None:
        """Users whose membership time alone may have changed since the last round."""
        if not definition.depends_on_time:
            return None
        account = account_of(journey)
        return expiry_plan(
            self._forest.account(account),
            self._forest.tree(journey),
            state.as_of,
            now,
            self._forest.resolver(account),
        )

    def _is_anyone_moved(self, moved: Plan | None) -> bool:
        return moved is not None and self._backend.execute(moved, Count()).sizes[0] > 0

    def _refresh(
        self,
        journey: str,
        state: JourneyState,
        definition: Definition,
        plan: Plan,
        moved: Plan | None,
        *,
        whole: bool,
    ) -> None:
        account = account_of(journey)
        audiences = tuple(definition.digests)
        zone = load_zone(self._forest.account(account).time_zone)
        before = {audience: self._backend.membership(audience) for audience in audiences}
        rolled_to, settled = history_times(self._clock, plan.as_of)
        for audience, membership in before.items():
            if membership is not None:
                self._history.roll(audience, membership, rolled_to, zone, settled)
        users = self._backend.universe_size(account, self._forest.tree(journey).inputs)
        if whole:
            state.predicted_seconds = users * self._seconds_per_user
            state.begun = time.perf_counter()
        try:
            after = self._backend.refresh(
                account,
                journey,
                audiences,
                plan,
                definitions=tuple(definition.digests.values()),
                moved_by_time=moved,
                whole=whole,
                reads=definition.reads,
            )
            if whole and users and state.begun is not None:
                self._seconds_per_user = (time.perf_counter() - state.begun) / users
        finally:
            state.begun = None
        for audience, membership in zip(audiences, after, strict=True):
            if before[audience] is None:
                self._history.begin(audience, membership, rolled_to, zone)
            self._trimmer.trim(audience, membership)


def round_instant(state: JourneyState, now: Micros) -> Micros:
    """The instant of a round. A slewed clock does not move memberships back; a clock that was wrong does,
    and users affected between the two instants are evaluated again.
    """
    return state.as_of if 0 < state.as_of - now < TIME_STEP_MICROS else now


def history_times(clock: Clock, as_of: Micros) -> tuple[Micros, Micros]:
    """The instant to roll histories to, and the settled time. A clock that is behind rolls them back to its
    latest time at most: deleted points cannot be restored.
    """
    if clock.status().state is ClockState.SETTLED:
        return as_of, as_of
    stamp = clock.stamp()
    return stamp.arrival, stamp.settled
