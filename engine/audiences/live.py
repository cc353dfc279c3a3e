"""Keeps the memberships of calculated audiences in step with data, time and definitions.

Nothing here is told what to do: every round compares what is needed (derived from connections) and defined
(the records) with what is stored (the backend) and brings the second to the first. So a crash at any point is
mended by the next round, and edits, moves, deletions and changes of inputs need no events of their own: the
definition of an audience, with that of every other audience it is made from, has a digest, and another digest
than the last refresh had means that everyone is looked at again.

A journey is a scope: all its calculated audiences are refreshed by one plan.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import xxhash

from engine.audiences.change_marks import ChangeMarks
from engine.audiences.history import SizeHistory
from engine.audiences.model import WatchItem
from engine.audiences.watch import PROGRESS_INTERVAL_DEFAULT_MICROS, Watcher
from engine.backends.base import Count, DocumentKeeper, Membership, MembershipStore, PlanExecutor, UserReader
from engine.clock import Clock, ClockState
from engine.criteria.zones import load_zone
from engine.errors import MilepostError
from engine.limits import DEFAULT_LIMITS, Limits
from engine.plan.compile import compile_journey
from engine.plan.expiry import expiry_plan
from engine.plan.model import Plan
from engine.plan.passes import ALL_PASSES
from engine.plan.tree import made_of
from engine.resources.activation import LIVE_STATES, Activation
from engine.resources.milestone_tree import Forest
from engine.resources.records import (
    Account,
    Audience,
    Closing,
    Connection,
    Input,
    Journey,
    Milestone,
    account_of,
    journey_of,
)
from engine.resources.repository import Repository
from engine.values import (
    MICROS_PER_DAY,
    MICROS_PER_HOUR,
    MICROS_PER_SECOND,
    TIME_MAX_MICROS,
    TIME_MIN_MICROS,
    Micros,
)

REFRESH_INTERVAL_MS = 200
"""How often `refresh_all` is to be called."""

TIME_STEP_MICROS = MICROS_PER_SECOND
"""How often windows are moved on when no new data has come."""

STORED_AGE_MICROS_MAX = 3 * MICROS_PER_SECOND
"""Older than this, a stored membership that depends on time is not answered from."""

CHANGES_KEPT = 1_000_000
"""Changes of each audience kept for watchers to resume from; more when a connection has not had them yet."""

CHANGES_TRIMMED_MIN = 100_000

OLD_CHANGES_MICROS = MICROS_PER_HOUR
"""How often changes are looked for that are old enough to be forgotten."""

SMALL_USERS = 64
"""For fewer dirty users, optimising a plan takes longer than it saves."""

_NONE: frozenset[str] = frozenset()
_SECONDS_PER_USER = 1e-6
_PROGRESS_RUNNING_MAX = 0.95


@dataclass(frozen=True, slots=True)
class Current:
    """A stored membership that is in step, and the instant it holds for."""

    membership: Membership
    as_of: Micros


@dataclass(frozen=True, slots=True)
class _Definition:
    """The calculated milestones of a journey (names) as they are defined now, and by audience the digest of
    each one's definition, in the same order.
    """

    generation: int
    milestones: tuple[str, ...]
    digests: dict[str, str]
    depends_on_time: bool


@dataclass(slots=True)
class _Journey:
    """What is known of a journey between rounds."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    definition: _Definition | None = None
    digests: dict[str, str] = field(default_factory=dict)
    """For each audience in step: the digest of the definition it was refreshed with."""
    needed: frozenset[str] | None = None
    """The audiences needed when memberships were last dropped; None = something from before may be stored."""
    as_of: Micros = 0
    old_checked: Micros = 0
    """When old changes were last looked for, by the clock that removals go by."""
    failure: str = ""
    """Why the last round failed, "" when it did not."""
    begun: float | None = None
    predicted_seconds: float = 0.0


class Refreshes(PlanExecutor, UserReader, MembershipStore, DocumentKeeper, Protocol):
    """Keeps memberships, and can tell how many users a refresh is about."""


class Live:
    """The stored memberships of all journeys. Safe to call from several threads."""

    def __init__(
        self,
        repository: Repository,
        forest: Forest,
        activation: Activation,
        backend: Refreshes,
        history: SizeHistory,
        exact_since: Callable[[str], Micros],
        clock: Clock,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._erased_ids_kept = limits.erased_ids_days * MICROS_PER_DAY
        self._change_marks = ChangeMarks(backend.documents, limits.changes_days * MICROS_PER_DAY)
        self._repository = repository
        self._forest = forest
        self._activation = activation
        self._backend = backend
        self._history = history
        self._exact_since = exact_since
        self._clock = clock
        self._lock = threading.Lock()
        self._journeys: dict[str, _Journey] = {}
        self._work = threading.Event()
        self._seconds_per_user = _SECONDS_PER_USER
        self._watcher = Watcher(repository, self.calculated, self.reached, backend)
        self._adopt()

    def _adopt(self) -> None:
        """Journeys of which something is stored from before are looked at, whether still needed or not."""
        for audience in self._repository.scan(Audience, ""):
            if self._backend.membership(audience.name) is not None:
                self._journeys.setdefault(journey_of(audience.milestone), _Journey())

    # --- what is known --------------------------------------------------------------------------------------

    def calculated(self, audience: str) -> bool:
        """Whether the audience's membership is needed: it or a descendant has a live connection."""
        return audience in self._activation.calculated(account_of(audience))

    def current(self, audience: str) -> Current | None:
        """The stored membership when it may be answered from: as defined now and not behind in time. Users
        that are dirty must be evaluated all the same.
        """
        record = self._repository.find(Audience, audience)
        state = None if record is None else self._journeys.get(journey_of(record.milestone))
        definition = None if state is None else state.definition
        if state is None or definition is None or definition.generation != self._generation():
            return None
        if state.digests.get(audience) != definition.digests.get(audience, ""):
            return None
        as_of, now = state.as_of, self._clock()
        if not definition.depends_on_time:
            as_of = max(as_of, now)
        elif abs(now - as_of) > STORED_AGE_MICROS_MAX:
            # Behind, or the clock went back and the next round has yet to undo what came of it.
            return None
        membership = self._backend.membership(audience)
        return None if membership is None else Current(membership, as_of)

    def reached(self, audience: str) -> Micros:
        """The instant up to which every change of a calculated audience is in its change log."""
        record = self._repository.find(Audience, audience)
        state = None if record is None else self._journeys.get(journey_of(record.milestone))
        return 0 if state is None or audience not in state.digests else state.as_of

    def failure(self, audience: str) -> str:
        """Why the last round over the audience's journey failed, "" when it did not."""
        record = self._repository.find(Audience, audience)
        state = None if record is None else self._journeys.get(journey_of(record.milestone))
        return "" if state is None else state.failure

    def progress(self, audience: str) -> float:
        """How far the calculation of a journey's audiences has got, 0 to 1, judged by what earlier ones
        took.
        """
        record = self._repository.find(Audience, audience)
        state = None if record is None else self._journeys.get(journey_of(record.milestone))
        if state is None or state.begun is None:
            return 0.0
        spent = time.perf_counter() - state.begun
        return min(_PROGRESS_RUNNING_MAX, spent / max(state.predicted_seconds, 1e-9))

    def due(self) -> tuple[str, ...]:
        """Journeys that a round looks at: with audiences needed, stored or being closed."""
        found: dict[str, None] = {}
        for account in self._repository.scan(Account, ""):
            for audience in sorted(self._activation.calculated(account.name)):
                record = self._repository.find(Audience, audience)
                if record is not None:
                    found[journey_of(record.milestone)] = None
        for closing in self._repository.scan(Closing, ""):
            found[journey_of(closing.milestone.name)] = None
        with self._lock:
            known = [name for name, state in self._journeys.items() if state.needed != _NONE]
        found.update(dict.fromkeys(known))
        return tuple(found)

    def changed(self, journey: str) -> None:
        """Something about a journey, or data, has changed: the next round has work."""
        self._work.set()

    def wait_for_work(self, timeout_seconds: float) -> bool:
        """Blocks until something has changed since the last round began, or the time is over (False)."""
        return self._work.wait(timeout_seconds)

    def watch(
        self,
        audience: str,
        *,
        cursor: int | None = None,
        progress_interval: Micros = PROGRESS_INTERVAL_DEFAULT_MICROS,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[WatchItem]:
        """A calculated audience's changes after `cursor` (None = first a snapshot of its members), with
        progress marks, until `stopped`. See `engine.audiences.watch`.
        """
        return self._watcher.watch(audience, cursor, progress_interval, stopped)

    # --- rounds ---------------------------------------------------------------------------------------------

    def refresh_all(self, now: Micros | None = None) -> None:
        """One round over every journey that is due, to the instant `now` (default: the clock's).

        A journey that fails does not keep the others waiting; the first failure is raised at the end.
        """
        self._work.clear()
        failures: list[MilepostError] = []
        for journey in self.due():
            try:
                self.refresh(journey, now)
            except MilepostError as error:
                self._journeys[journey].failure = error.message
                failures.append(error)
            else:
                self._journeys[journey].failure = ""
        if failures:
            raise failures[0]

    def refresh(self, journey: str, now: Micros | None = None) -> None:
        """One round over one journey. Concurrent rounds over the same journey come one after the other."""
        with self._lock:
            state = self._journeys.setdefault(journey, _Journey())
        with state.lock:
            instant = self._instant(state, self._clock() if now is None else now)
            self._close(journey, state, instant)
            definition = self._defined(journey, state)
            self._drop_unneeded(journey, state)
            if definition is not None:
                self._bring_in_step(journey, state, definition, instant)
                self._forget_old(journey, state, definition.digests)

    def _instant(self, state: _Journey, now: Micros) -> Micros:
        """The instant of a round. A clock that is slewed does not take memberships back, one that was wrong
        does: users with something between the two instants are evaluated again.
        """
        return state.as_of if 0 < state.as_of - now < TIME_STEP_MICROS else now

    def _generation(self) -> int:
        return self._repository.generation(Account, Input, Journey, Milestone, Audience)

    def _needed(self, journey: str) -> list[Milestone]:
        calculated = self._activation.calculated(account_of(journey))
        return [m for m in self._forest.milestones(journey) if m.audience in calculated]

    def _defined(self, journey: str, state: _Journey) -> _Definition | None:
        """The calculated milestones as the records define them; None when there are none."""
        with self._repository.reading():
            generation = self._generation()
            records = self._needed(journey)
            names = tuple(record.name for record in records)
            known = state.definition
            if known is None or known.generation != generation or known.milestones != names:
                state.definition = self._define(journey, generation, records) if records else None
            return state.definition

    def _define(self, journey: str, generation: int, records: Sequence[Milestone]) -> _Definition:
        account_name = account_of(journey)
        account = self._forest.account(account_name)
        tree = self._forest.tree(journey)
        resolver = self._forest.resolver(account_name)
        made = {record.audience: made_of(tree, [record.name], resolver) for record in records}
        # What means the same at both ends of time does not depend on it.
        moving = expiry_plan(account, tree, TIME_MIN_MICROS, TIME_MAX_MICROS, resolver)
        return _Definition(
            generation=generation,
            milestones=tuple(record.name for record in records),
            digests={
                audience: _digest((account, [(t.name, t.inputs, m) for t, m in located]))
                for audience, located in made.items()
            },
            depends_on_time=moving is not None,
        )

    def _drop_unneeded(self, journey: str, state: _Journey) -> None:
        """Forgets memberships that no connection needs any more.

        Inside a write of the records, so that no activation can rely on a membership that goes at once.
        """
        needed = frozenset(m.audience for m in self._needed(journey))
        if needed == state.needed:
            return
        with self._repository.writing():
            needed = frozenset(m.audience for m in self._needed(journey))
            for milestone in self._forest.milestones(journey):
                if milestone.audience not in needed and self._backend.membership(milestone.audience):
                    self._backend.drop_membership(milestone.audience)
                    self._change_marks.forget(milestone.audience)
                    state.digests.pop(milestone.audience, None)
            if not needed and not self._closings(journey):
                self._backend.drop_scope(journey)
            state.needed = needed

    def _bring_in_step(self, journey: str, state: _Journey, definition: _Definition, now: Micros) -> None:
        whole = state.digests != definition.digests
        pending = self._backend.pending(journey)
        if not whole and not pending:
            if not definition.depends_on_time:
                state.as_of = now
            if abs(now - state.as_of) < TIME_STEP_MICROS:
                return
        with self._repository.reading():
            if definition.generation != self._generation():
                # The records have changed since; the next round sees them.
                return
            moved = None if whole else self._moved(journey, state, definition, now)
        # A clock that went back takes the instant of the memberships with it, whether or not anyone moved.
        if whole or pending or now < state.as_of or self._is_anyone_moved(moved):
            plan = self._plan(journey, definition, now, is_small=not whole and pending < SMALL_USERS)
            if plan is None:
                return
            self._refresh(journey, state, definition, plan, moved, whole=whole)
        # Users moved by events that had been removed by now were not found: the next round looks at everyone.
        missed = not whole and min(state.as_of, now) < self._exact_since(account_of(journey))
        state.digests = {} if missed else dict(definition.digests)
        state.as_of = now

    def _plan(self, journey: str, definition: _Definition, now: Micros, *, is_small: bool) -> Plan | None:
        """A root for each calculated milestone; None when the records have changed since the definition was
        made, which the next round sees.
        """
        account = account_of(journey)
        with self._repository.reading():
            if definition.generation != self._generation():
                return None
            return compile_journey(
                self._forest.account(account),
                self._forest.tree(journey),
                now,
                self._forest.resolver(account),
                milestones=definition.milestones,
                passes=() if is_small else ALL_PASSES,
            ).plan

    def _moved(self, journey: str, state: _Journey, definition: _Definition, now: Micros) -> Plan | None:
        """Who may have been moved by time since the last round."""
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
        state: _Journey,
        definition: _Definition,
        plan: Plan,
        moved: Plan | None,
        *,
        whole: bool,
    ) -> None:
        account = account_of(journey)
        audiences = tuple(definition.digests)
        zone = load_zone(self._forest.account(account).time_zone)
        before = {audience: self._backend.membership(audience) for audience in audiences}
        rolled_to, settled = self._history_times(plan.as_of)
        for audience, membership in before.items():
            if membership is not None:
                self._history.roll(audience, membership, rolled_to, zone, settled)
        users = self._backend.universe_size(account, self._forest.tree(journey).inputs)
        if whole:
            state.predicted_seconds = users * self._seconds_per_user
            state.begun = time.perf_counter()
        try:
            after = self._backend.refresh(account, journey, audiences, plan, moved_by_time=moved, whole=whole)
            if whole and users and state.begun is not None:
                self._seconds_per_user = (time.perf_counter() - state.begun) / users
        finally:
            state.begun = None
        for audience, membership in zip(audiences, after, strict=True):
            if before[audience] is None:
                self._history.begin(audience, membership, rolled_to, zone)
            self._trim(audience, membership)

    def _history_times(self, as_of: Micros) -> tuple[Micros, Micros]:
        """Up to when histories are rolled, and the settled time. A clock that is behind rolls them no further
        back than its latest time: points that are gone could not be made again.
        """
        if self._clock.status().state is ClockState.SETTLED:
            return as_of, as_of
        stamp = self._clock.stamp()
        return stamp.arrival, stamp.settled

    def _trim(self, audience: str, membership: Membership) -> None:
        """Forgets old changes that every connection has delivered and that no watcher may count on."""
        through = min([membership.last_sequence - CHANGES_KEPT, *self._delivered(audience)])
        if through - membership.first_sequence >= CHANGES_TRIMMED_MIN:
            self._backend.trim_changes(audience, through)

    def _forget_old(self, journey: str, state: _Journey, audiences: Iterable[str]) -> None:
        """Forgets changes that are past their horizon, and those that name users erased long ago, once every
        connection has delivered them. A watcher who comes back later than that begins anew.
        """
        stamp = self._clock.stamp()
        settled = stamp.settled
        if abs(settled - state.old_checked) < OLD_CHANGES_MICROS:
            return
        state.old_checked = settled
        retention = self._forest.account(account_of(journey)).event_retention
        for audience in audiences:
            membership = self._backend.membership(audience)
            if membership is not None:
                aged = self._change_marks.past_horizon(audience, membership.last_sequence, stamp, retention)
                named = self._backend.erased_through(audience, settled - self._erased_ids_kept)
                self._backend.trim_changes(audience, min([max(aged, named), *self._delivered(audience)]))

    def _delivered(self, audience: str) -> list[int]:
        """The cursors of the audience's connections."""
        connections = self._repository.scan(Connection, f"{account_of(audience)}/connections/")
        return [c.delivered for c in connections if c.audience == audience and c.state in LIVE_STATES]

    # --- closing --------------------------------------------------------------------------------------------

    def _closings(self, journey: str) -> tuple[Closing, ...]:
        closings = self._repository.scan(Closing, f"{account_of(journey)}/audiences/")
        return tuple(c for c in closings if journey_of(c.milestone.name) == journey)

    def _close(self, journey: str, state: _Journey, now: Micros) -> None:
        """Takes deleted audiences to their end: exits recorded, then delivered, then nothing is left.

        Each step is durable before the next and can be repeated, so that a crash between two of them neither
        loses an exit nor leaves anything behind.
        """
        for closing in self._closings(journey):
            state.digests.pop(closing.name, None)
            if closing.through is None:
                closing = self._record_exits(closing, now)
            connections = self._repository.scan(Connection, f"{account_of(journey)}/connections/")
            waiting = [c for c in connections if c.audience == closing.name and c.state in LIVE_STATES]
            if all(c.delivered >= (closing.through or 0) and c.snapshot_after is None for c in waiting):
                self._backend.drop_membership(closing.name)
                self._change_marks.forget(closing.name)
                self._history.forget(closing.name)
                with self._repository.writing() as changes:
                    changes.delete(closing)
                    for connection in waiting:
                        changes.delete(connection)
                # The scope may have been kept for this membership only.
                state.needed = None

    def _record_exits(self, closing: Closing, now: Micros) -> Closing:
        through = 0
        if self._backend.membership(closing.name) is not None:
            through = self._backend.exit_all(closing.name, now).last_sequence
        with self._repository.writing() as changes:
            recorded = msgspec.structs.replace(closing, through=through, update_time=now)
            changes.put(recorded)
        return recorded


def _digest(definition: object) -> str:
    return xxhash.xxh3_128_hexdigest(msgspec.msgpack.encode(definition))
