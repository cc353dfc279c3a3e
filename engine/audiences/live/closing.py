"""Removes memberships: those of deleted audiences after their exits, and those that no connection needs."""

from __future__ import annotations

import msgspec

from engine.audiences.history import SizeHistory
from engine.audiences.live.change_marks import ChangeMarks
from engine.audiences.live.consumers import Consumers
from engine.audiences.live.definitions import Definitions
from engine.audiences.live.state import JourneyState
from engine.backends.base import MembershipKeeper, epoch_of
from engine.clock import Clock
from engine.limits import Limits
from engine.resources.milestone_tree import Forest
from engine.resources.records import Closing, Connection, account_of, journey_of
from engine.resources.repository import Repository
from engine.values import MICROS_PER_DAY, Micros


class Closer:
    """Closes the deleted audiences of a journey, and drops the memberships of deactivated ones."""

    def __init__(
        self,
        repository: Repository,
        forest: Forest,
        definitions: Definitions,
        consumers: Consumers,
        change_marks: ChangeMarks,
        history: SizeHistory,
        backend: MembershipKeeper,
        clock: Clock,
        limits: Limits,
    ) -> None:
        self._changes_kept = limits.changes_days * MICROS_PER_DAY
        self._repository = repository
        self._forest = forest
        self._definitions = definitions
        self._consumers = consumers
        self._change_marks = change_marks
        self._history = history
        self._backend = backend
        self._clock = clock

    def close_deleted(self, journey: str, state: JourneyState, now: Micros) -> None:
        """Closes deleted audiences: records the exits, delivers them, then removes everything.

        Each step is durable before the next and can be repeated, so a crash between two steps neither loses
        an exit nor leaves anything behind.
        """
        for closing in self._closings(journey):
            state.digests.pop(closing.name, None)
            if closing.through is None:
                closing = self._record_exits(closing, now)
            waiting = self._consumers.of(closing.name)
            if all(self._has_ended(c, closing) for c in waiting) and not self._consumers.exiting(
                closing.name
            ):
                self._backend.drop_membership(closing.name)
                self._change_marks.forget(closing.name)
                self._history.forget(closing.name)
                with self._repository.writing() as changes:
                    changes.delete(closing)
                    for connection in waiting:
                        changes.delete(connection)
                for connection in waiting:
                    self._backend.drop_membership(connection.name)
                # This membership may have been the last of its scope.
                state.needed = None

    def drop_unneeded(self, journey: str, state: JourneyState, version: int) -> None:
        """Drops memberships that no connection needs at a version of the records or later.

        Runs inside a write of the records, so that no activation can rely on a membership that is being
        dropped.
        """
        if state.needed is not None and version == state.needed_at:
            return
        version = self._definitions.version()
        needed = frozenset(m.audience for m in self._definitions.needed(journey))
        if needed == state.needed:
            state.needed_at = version
            return
        with self._repository.writing():
            needed = frozenset(m.audience for m in self._definitions.needed(journey))
            for milestone in self._forest.milestones(journey):
                if milestone.audience not in needed and self._backend.membership(milestone.audience):
                    self._backend.drop_membership(milestone.audience)
                    self._change_marks.forget(milestone.audience)
                    state.digests.pop(milestone.audience, None)
            if not needed and not self._closings(journey):
                self._backend.drop_scope(journey)
            state.needed = needed

    def closing(self) -> set[str]:
        """Journeys with deleted audiences that are to be closed."""
        return {journey_of(each.milestone.name) for each in self._repository.scan(Closing, "")}

    def _closings(self, journey: str) -> tuple[Closing, ...]:
        closings = self._repository.scan(Closing, f"{account_of(journey)}/audiences/")
        return tuple(c for c in closings if journey_of(c.milestone.name) == journey)

    def _has_ended(self, connection: Connection, closing: Closing) -> bool:
        """Whether a connection has delivered the last exit, or its consumer has stayed away for too long."""
        membership = self._backend.membership(closing.name)
        if membership is None:
            # Never calculated: there are no exits.
            return True
        epoch, cursor = epoch_of(self._backend.store_id, membership), connection.cursor
        is_there = cursor.epoch == epoch and cursor.sequence >= (closing.through or 0)
        if is_there and not cursor.in_snapshot:
            return True
        waited = self._clock.stamp().settled - closing.update_time
        return self._consumers.is_watch(connection) and waited >= self._changes_kept

    def _record_exits(self, closing: Closing, now: Micros) -> Closing:
        through = 0
        if self._backend.membership(closing.name) is not None:
            through = self._backend.exit_all(closing.name, now).last_sequence
        with self._repository.writing() as changes:
            recorded = msgspec.structs.replace(closing, through=through, update_time=now)
            changes.put(recorded)
        return recorded
