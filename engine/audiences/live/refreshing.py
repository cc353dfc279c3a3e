"""Brings the stored memberships of journeys in step: everyone after a change of definitions, otherwise dirty
users and those whom time may have moved.

A round without new data looks at no one unless someone is expected to move: each journey looks ahead over a
few horizons, and remembers whom time may move within them.
"""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from engine.audiences.history import Rolled, SizeHistory
from engine.audiences.live.definitions import Definitions
from engine.audiences.live.failures import each_alone
from engine.audiences.live.state import Definition, JourneyState
from engine.audiences.live.trimming import Trimmer
from engine.backends.base import Ahead, Membership, MembershipStore, ScopeRefresh, UserReader
from engine.clock import Clock, ClockState
from engine.deadline import TimeShares
from engine.errors import MilepostError, failure_of
from engine.plan.model import Plan
from engine.plan.passes import ALL_PASSES, optimise
from engine.resources.milestone_tree import Forest
from engine.resources.records import account_of
from engine.values import MICROS_PER_HOUR, MICROS_PER_SECOND, TIME_MIN_MICROS, Micros

SLEWED_MICROS_MAX = MICROS_PER_SECOND
"""A clock that is behind the last round by less than this goes slower for a while, and was not wrong."""

HORIZONS_MICROS = (MICROS_PER_HOUR, 60 * MICROS_PER_SECOND, MICROS_PER_SECOND)
"""How far a journey looks ahead. The population is searched once an hour for those whom time may move, these
once a minute, and those of the coming minute once a second. A round looks only at those of the coming second,
so every journey can be brought to the instant of each round.
"""

SMALL_USERS = 1 << 14
"""Below this many dirty users, optimising a plan takes longer than it saves."""

_SECONDS_PER_USER = 1e-6


class Refreshes(UserReader, MembershipStore, Protocol):
    """Stores memberships, and estimates how many users a refresh covers."""


@dataclass(slots=True)
class Due:
    """A journey of a round: what is asked of the backend (None: nothing has moved), and what was before."""

    journey: str
    state: JourneyState
    definition: Definition
    refresh: ScopeRefresh | None
    is_whole: bool = False
    users: int = 0
    before: dict[str, Membership | None] = field(default_factory=dict)


class JourneyRefresher:
    """Refreshes the memberships of the journeys of a round."""

    def __init__(
        self,
        forest: Forest,
        definitions: Definitions,
        trimmer: Trimmer,
        history: SizeHistory,
        backend: Refreshes,
        exact_since: Callable[[str], Micros],
        clock: Clock,
    ) -> None:
        self._forest = forest
        self._definitions = definitions
        self._trimmer = trimmer
        self._history = history
        self._backend = backend
        self._exact_since = exact_since
        self._clock = clock
        self._seconds_per_user = _SECONDS_PER_USER
        self._calculated: deque[tuple[str, Rolled]] = deque()
        """Audiences that were calculated for the first time, and have no history yet, with their journeys."""

    # --- what is due ----------------------------------------------------------------------------------------

    def due(
        self,
        journey: str,
        state: JourneyState,
        definition: Definition,
        now: Micros,
        deadline: float | None = None,
    ) -> Due | None:
        """What a round to the instant `now` has to do for a journey; None: nothing yet. Raises
        DeadlineExceeded.
        """
        if definition.generation != self._definitions.generation.value:
            # The records have changed meanwhile; the next round handles that.
            return None
        if state.digests != definition.digests:
            return self._whole(journey, state, definition, now)
        pending = self._backend.pending(journey)
        if not pending and not definition.depends_on_time:
            return Due(journey, state, definition, None)
        if definition.depends_on_time:
            self._look_ahead(journey, state, definition, now, deadline)
            expected = self._backend.expected(journey)
            if not pending and now >= state.as_of and not expected:
                return Due(journey, state, definition, None)
        return self._of_some(journey, state, definition, now, pending)

    def _whole(self, journey: str, state: JourneyState, definition: Definition, now: Micros) -> Due:
        users = self._backend.universe_size(account_of(journey), self._forest.tree(journey).inputs)
        plan = optimise(definition.compiled.template.at(now), ALL_PASSES)
        refresh = self._refresh(journey, definition, plan, whole=True)
        return Due(journey, state, definition, refresh, is_whole=True, users=users)

    def _of_some(
        self, journey: str, state: JourneyState, definition: Definition, now: Micros, pending: int
    ) -> Due:
        """A refresh of dirty users and of those whom time may have moved."""
        plan = definition.compiled.template.at(now)
        is_small = pending < SMALL_USERS
        if not is_small:
            plan = optimise(plan, ALL_PASSES)
        if definition.depends_on_time:
            refresh = self._with_time(journey, state, definition, plan, of_template=is_small)
        else:
            refresh = self._refresh(journey, definition, plan, of_template=is_small)
        return Due(journey, state, definition, refresh)

    def _with_time(
        self, journey: str, state: JourneyState, definition: Definition, plan: Plan, *, of_template: bool
    ) -> ScopeRefresh:
        """A refresh also of those whom time has moved, which renews the horizons. Most refreshes need none of
        the plans.
        """
        expiry, since, horizons = definition.compiled.expiry, state.as_of, state.horizons
        now = plan.as_of

        def moved() -> Plan | None:
            return expiry.between(since, now)

        def may_move(times: tuple[Micros, Micros] | None) -> bool:
            # Up to a full hour: the same question for all journeys that ask the same.
            return bool(horizons) and expiry.may_move(now, _in_full_hours(horizons[0]), times)

        def plans() -> tuple[Plan | None, ...]:
            return tuple(expiry.between(now, until) for until in horizons)

        ahead = Ahead(len(horizons), may_move, plans)
        return self._refresh(
            journey, definition, plan, of_template=of_template, moved=moved, moved_since=since, ahead=ahead
        )

    def _refresh(
        self,
        journey: str,
        definition: Definition,
        plan: Plan,
        *,
        of_template: bool = False,
        whole: bool = False,
        moved: Callable[[], Plan | None] | None = None,
        moved_since: Micros = TIME_MIN_MICROS,
        ahead: Ahead | None = None,
    ) -> ScopeRefresh:
        return ScopeRefresh(
            account=account_of(journey),
            scope=journey,
            audiences=definition.audiences,
            plan=plan,
            definitions=definition.audience_digests,
            of_template=of_template,
            whole=whole,
            reads=definition.compiled.reads,
            moved_by_time=moved,
            moved_since=moved_since,
            ahead=ahead,
        )

    def _look_ahead(
        self,
        journey: str,
        state: JourneyState,
        definition: Definition,
        now: Micros,
        deadline: float | None = None,
    ) -> None:
        """Renews the horizons that end before `now`, all of them after a clock that went back."""
        if now < state.as_of or self._backend.expected(journey) is None:
            state.horizons = ()
        for level, length in enumerate(HORIZONS_MICROS):
            is_first = level >= len(state.horizons)
            if not is_first and (now <= state.horizons[level] or self._expects_nobody(journey, level)):
                continue
            after = int(length * state.first_share) if is_first else length
            until = min([now + after, *state.horizons[level - 1 : level]])
            plan = None
            if not level or self._backend.expected(journey, level - 1):
                plan = definition.compiled.expiry.between(state.as_of, until)
            since = min(state.as_of, until)
            self._backend.look_ahead(account_of(journey), journey, level, plan, since, until, deadline)
            state.horizons = (*state.horizons[:level], until)

    def _expects_nobody(self, journey: str, level: int) -> bool:
        """Whether a horizon that has ended says what it would say if it were renewed: those that are farther
        hold, and have nobody.
        """
        return level > 0 and not (
            self._backend.expected(journey, level - 1) or self._backend.expected(journey, level)
        )

    # --- a round --------------------------------------------------------------------------------------------

    def seconds_of(self, due: Due) -> float:
        """How long a calculation of everyone is expected to take."""
        return due.users * self._seconds_per_user if due.is_whole else 0.0

    def run(self, now: Micros, due: Sequence[Due], shares: TimeShares) -> dict[str, MilepostError]:
        """Refreshes journeys in one transaction. Returns the failures by journey: DeadlineExceeded for all of
        an account that has used up its share. When the transaction fails by an error that nobody expected,
        each journey has one of its own.
        """
        asked = [each for each in due if each.refresh is not None]
        unrolled = each_alone(asked, functools.partial(self._roll, now=now))
        if unrolled:
            failures = {each.journey: error for each, error in unrolled}
            rest = [each for each in due if each.journey not in failures]
            return failures | self.run(now, rest, shares)
        began = time.perf_counter()
        for each in asked:
            if each.is_whole:
                each.state.begun = began
                each.state.predicted_seconds = self.seconds_of(each)
        try:
            outcome = self._backend.refresh_scopes(
                now,
                [each.refresh for each in asked if each.refresh is not None],
                [each.journey for each in due if each.refresh is None],
                shares,
            )
        except Exception as error:
            if isinstance(error, MilepostError) or len(due) == 1:
                return {each.journey: failure_of(error) for each in due}
            return {j: failure for each in due for j, failure in self.run(now, [each], shares).items()}
        finally:
            for each in asked:
                each.state.begun = None
        failures = self._take(asked, outcome, now)
        whole_users = sum(each.users for each in asked if each.is_whole and each.journey not in failures)
        if whole_users:
            self._seconds_per_user = (time.perf_counter() - began) / whole_users
        for each in due:
            if each.refresh is None:
                self._reach(each, now)
        return failures

    def _take(
        self, asked: Sequence[Due], outcome: Sequence[tuple[Membership, ...] | MilepostError], now: Micros
    ) -> dict[str, MilepostError]:
        """Takes over what was stored. Returns the failures by journey."""
        failures = {}
        for each, found in zip(asked, outcome, strict=True):
            try:
                if isinstance(found, MilepostError):
                    raise found
                self._refreshed(each, found)
                self._reach(each, now)
            except Exception as error:
                failures[each.journey] = failure_of(error)
        return failures

    def _roll(self, asked: Sequence[Due], *, now: Micros) -> None:
        """Closes the periods of the histories of all audiences that may change."""
        rolled_to, settled = history_times(self._clock, now)
        rolled = []
        for each in asked:
            for audience in each.definition.digests:
                membership = each.before[audience] = self._backend.membership(audience)
                if membership is not None:
                    rolled.append(Rolled(audience, membership, each.definition.zone))
        self._history.roll(rolled, rolled_to, settled)

    def _refreshed(self, due: Due, after: Sequence[Membership]) -> None:
        for (audience, before), membership in zip(due.before.items(), after, strict=True):
            if before is None:
                rolled = Rolled(audience, membership, due.definition.zone)
                self._calculated.append((due.journey, rolled))
            self._trimmer.trim(audience, membership)

    def begin_histories(self, now: Micros) -> dict[str, MilepostError]:
        """Begins the histories of audiences that were calculated for the first time: call after all of them
        were, as it is one transaction. Returns the failures by journey.
        """
        calculated = [self._calculated.popleft() for _ in range(len(self._calculated))]

        def begin(some: Sequence[tuple[str, Rolled]]) -> None:
            self._history.begin([rolled for _, rolled in some], history_times(self._clock, now)[0])

        return {journey: error for (journey, _), error in each_alone(calculated, begin)}

    def _reach(self, due: Due, now: Micros) -> None:
        state = due.state
        # Removed events cannot show whom they affected, so the next round evaluates everyone.
        missed = not due.is_whole and min(state.as_of, now) < self._exact_since(account_of(due.journey))
        state.digests = {} if missed else dict(due.definition.digests)
        if due.is_whole:
            state.horizons = ()
        state.as_of = now


def _in_full_hours(instant: Micros) -> Micros:
    return -(-instant // MICROS_PER_HOUR) * MICROS_PER_HOUR


def round_instant(last: Micros, now: Micros) -> Micros:
    """The instant of a round after one at `last`. A slewed clock does not move memberships back; a clock that
    was wrong does, and users affected between the two instants are evaluated again.
    """
    return last if 0 < last - now < SLEWED_MICROS_MAX else now


def history_times(clock: Clock, as_of: Micros) -> tuple[Micros, Micros]:
    """The instant to roll histories to, and the settled time. A clock that is behind rolls them back to its
    latest time at most: deleted points cannot be restored.
    """
    if clock.status().state is ClockState.SETTLED:
        return as_of, as_of
    stamp = clock.stamp()
    return stamp.arrival, stamp.settled
