"""Undelivered changes of each connection, from its durable cursor.

An epoch begins with a snapshot: at activation, and when the audience was calculated anew or the store
restored. The members are sent as entered, page by page, while the membership changes. The changes since the
beginning follow, and complete it: then the entries and exits since the beginning make a state that the
audience had. Whatever was read but not confirmed by `advance` is read again after a crash: at least once, in
order, for each connection.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

import msgspec

from engine.audiences.delivery_status import DeliveryLog, DeliveryStatus
from engine.audiences.model import DeliveryBatch
from engine.backends.base import Change, Members, Membership, MembershipKeeper, OptedIn, epoch_of
from engine.clock import Clock
from engine.errors import MilepostError, NotFound
from engine.measures import Measure, gauge
from engine.resources.activation import LIVE_STATES
from engine.resources.connections import Connections, opted_in_by
from engine.resources.records import (
    FIRST_INSTANT,
    Audience,
    ChangeKind,
    Closing,
    Connection,
    ConnectionState,
    Cursor,
    Milestone,
    Output,
)
from engine.resources.repository import Repository
from engine.resources.targets import TARGETS
from engine.values import MICROS_PER_SECOND, Micros

LOOK_AHEAD_CHANGES = 1_000
"""Changes that are read at a time to find the end of an instant."""


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A connection that delivers, with the data of its messages. `closing` when the audience is deleted and
    its last exits are being sent. An opened one has the secrets in its output's target, and in
    `previous_secrets`, by field, those that are valid until the output's `previous_expire_time`.
    """

    connection: Connection
    output: Output
    audience: Audience
    milestone: Milestone
    closing: bool
    previous_secrets: Mapping[str, str] = {}


class Deliveries:
    """Reads undelivered changes. Safe to call from several threads for different connections."""

    def __init__(
        self, repository: Repository, connections: Connections, backend: MembershipKeeper, clock: Clock
    ) -> None:
        self._clock = clock
        self._repository = repository
        self._connections = connections
        self._backend = backend
        self._log = DeliveryLog()

    def active(self) -> tuple[Delivery, ...]:
        """Every ACTIVE connection of all accounts that sends and is not paused, including those that deliver
        the last exits of deleted audiences, and those that exit after their deactivation.
        """
        with self._repository.reading():
            connections = list(self._repository.scan(Connection, ""))
            self._log.keep({connection.name for connection in connections})
            active = [each for each in connections if each.delivers]
            deliveries = (self._delivery(connection) for connection in active)
            return tuple(delivery for delivery in deliveries if delivery.output.target.sends)

    def delivery_of(self, connection: Connection) -> Delivery:
        """The connection with the records that its messages need, as they are now. Raises NotFound."""
        with self._repository.reading():
            return self._delivery(connection)

    def opened(self, delivery: Delivery) -> Delivery:
        """The delivery with the secrets of its output, for a sink alone. Raises FailedPrecondition when they
        cannot be read.
        """
        opened = self._connections.opened(delivery.output)
        output = msgspec.structs.replace(delivery.output, target=opened.target)
        return msgspec.structs.replace(delivery, output=output, previous_secrets=opened.previous)

    def _delivery(self, connection: Connection) -> Delivery:
        output = self._repository.get(Output, connection.output)
        closing = self._repository.find(Closing, connection.audience)
        if closing is not None:
            audience, milestone = closing.audience, closing.milestone
        else:
            audience = self._repository.get(Audience, connection.audience)
            milestone = self._repository.get(Milestone, audience.milestone)
        return Delivery(
            connection=connection,
            output=output,
            audience=audience,
            milestone=milestone,
            closing=closing is not None,
        )

    def pull(self, connection: Connection, limit: int) -> DeliveryBatch:
        """Up to `limit` changes after the connection's cursor, without waiting.

        Members of a snapshot carry the sequence of the last change they reflect. The answer is empty and
        `caught_up` when there is nothing to deliver or the membership is still being calculated for the first
        time. Raises CursorExpired when changes were lost before delivery.
        """
        try:
            if not self._is_watched(connection):
                return DeliveryBatch(changes=(), cursor=connection.cursor, caught_up=True)
            name = connection.membership
            while True:
                membership = self._stored(name)
                batch = self._batch(name, membership, connection.cursor, limit)
                # What was read may be of another calculation by now.
                if self._epoch(self._stored(name)) == batch.cursor.epoch:
                    break
            if connection.exiting and batch.caught_up and not batch.changes:
                return self._exit(connection, membership, limit)
            if self._connections.get_connection(connection.name).membership == name:
                return batch
            # It was deactivated or activated: what was read is not what it sends now.
        except NotFound:
            # Without its copy, for example in a store that was repaired, there are no exits to send.
            if connection.exiting:
                self._connections.exited(connection.name, connection.activation)
        return DeliveryBatch(changes=(), cursor=connection.cursor, caught_up=True)

    def _exit(self, connection: Connection, membership: Membership, limit: int) -> DeliveryBatch:
        """What a deactivated connection sends last: the exits of all members. Nothing after them."""
        if membership.size:
            self._backend.exit_all(connection.name, max(self._clock(), membership.as_of))
            return self.pull(connection, limit)
        self._connections.exited(connection.name, connection.activation)
        return DeliveryBatch(changes=(), cursor=connection.cursor, caught_up=True)

    def _batch(self, audience: str, membership: Membership, cursor: Cursor, limit: int) -> DeliveryBatch:
        if cursor.epoch != self._epoch(membership):
            return DeliveryBatch(changes=(), cursor=self._begun(membership, cursor), caught_up=False)
        if cursor.snapshot_after is not None:
            return self._members(audience, membership, cursor, cursor.snapshot_after, limit)
        if cursor.snapshot_through is not None:
            return self._completing(audience, membership, cursor, cursor.snapshot_through, limit)
        page = self._backend.changes(audience, cursor.sequence, limit)
        last = page.changes[-1].sequence if page.changes else cursor.sequence
        return DeliveryBatch(
            changes=page.changes, cursor=Cursor(cursor.epoch, last), caught_up=page.caught_up
        )

    def _is_watched(self, connection: Connection) -> bool:
        """Whether the store records changes of the values that the connection sends: from then on a member
        may be sent, and none of its later changes is missed.
        """
        if connection.exiting:
            return True
        membership, values = self._backend.membership(connection.membership), opted_in_by(connection)
        return membership is None or (
            set(values.attributes) <= set(membership.opted_in.attributes)
            and set(values.identities) <= set(membership.opted_in.identities)
        )

    def _stored(self, audience: str) -> Membership:
        membership = self._backend.membership(audience)
        if membership is None:
            raise NotFound(audience)
        return membership

    def _epoch(self, membership: Membership) -> str:
        return epoch_of(self._backend.store_id, membership)

    def _begun(self, membership: Membership, cursor: Cursor) -> Cursor:
        """The cursor at which the snapshot of an epoch begins, for a connection that was in another one."""
        epoch = self._epoch(membership)
        if cursor.snapshot_through == FIRST_INSTANT and membership.first_sequence == 1:
            return Cursor(epoch, 0, snapshot_through=FIRST_INSTANT)
        return Cursor(epoch, membership.last_sequence, snapshot_after="")

    def _members(
        self, audience: str, membership: Membership, cursor: Cursor, after: str, limit: int
    ) -> DeliveryBatch:
        page = self._backend.stored_members(audience, Members(after, limit))
        changes = tuple(
            Change(cursor.sequence, user_id, True, membership.as_of, False) for user_id in page.user_ids
        )
        # The pages hold nothing later than this, and the changes up to here complete them.
        through = None if page.next_after else self._stored(audience).last_sequence
        return DeliveryBatch(
            changes=changes,
            cursor=Cursor(cursor.epoch, cursor.sequence, page.next_after or None, through),
            caught_up=False,
            as_of=membership.as_of,
            begins=after == "",
            snapshot=cursor.sequence,
        )

    def _completing(
        self, audience: str, membership: Membership, cursor: Cursor, through: int, limit: int
    ) -> DeliveryBatch:
        is_log = through == FIRST_INSTANT
        most = limit if is_log else min(limit, through - cursor.sequence)
        page = self._backend.changes(audience, cursor.sequence, most)
        changes = _through_instant(page.changes) if is_log else page.changes
        last = changes[-1].sequence if changes else cursor.sequence
        ends = not changes or changes[-1].last_of_instant if is_log else last >= through
        return DeliveryBatch(
            changes=tuple(msgspec.structs.replace(change, last_of_instant=False) for change in changes),
            cursor=Cursor(cursor.epoch, last, snapshot_through=None if ends else through),
            caught_up=False,
            as_of=membership.as_of,
            # Otherwise it began with the members.
            begins=is_log and cursor.sequence == 0,
            ends=ends,
        )

    def wanted(self, connection: Connection, batch: DeliveryBatch) -> DeliveryBatch:
        """The batch with the changes that the connection sends: those of its kinds, none = all, and of its
        values. When the last change of an instant is not sent, the last one that is has its mark.
        """
        kinds = set(connection.kinds or ChangeKind)
        if opted_in_by(connection) == OptedIn():
            # Other connections of the audience have opted in to values.
            kinds.discard(ChangeKind.UPDATED)
        if not batch.changes or len(kinds) == len(ChangeKind):
            return batch
        kept: list[Change] = []
        for change in batch.changes:
            if kind_of(change) in kinds:
                kept.append(change)
            elif change.last_of_instant and kept and kept[-1].as_of == change.as_of:
                kept[-1] = msgspec.structs.replace(kept[-1], last_of_instant=True)
        is_in_snapshot = connection.cursor.in_snapshot or connection.epoch != batch.cursor.epoch
        if kept and not is_in_snapshot and not batch.changes[-1].last_of_instant:
            ends = not kept[-1].last_of_instant and self._ends_without(connection.membership, kinds, batch)
            kept[-1] = msgspec.structs.replace(kept[-1], last_of_instant=kept[-1].last_of_instant or ends)
        return msgspec.structs.replace(batch, changes=tuple(kept))

    def _ends_without(self, audience: str, kinds: Collection[ChangeKind], batch: DeliveryBatch) -> bool:
        """Whether the instant that goes on after the batch ends without another change of the kinds."""
        sequence = batch.cursor.sequence
        while True:
            page = self._backend.changes(audience, sequence, LOOK_AHEAD_CHANGES).changes
            for change in page:
                if kind_of(change) in kinds:
                    return False
                if change.last_of_instant:
                    return True
            if not page:
                return False
            sequence = page[-1].sequence

    def advance(self, connection: Connection, cursor: Cursor, *, sent: bool = True) -> Connection | None:
        """Confirms delivery up to the cursor; `sent` when the output took something. None when the connection
        no longer exists.
        """
        return self._connections.advance(connection.name, cursor, activation=connection.activation, sent=sent)

    def succeeded(self, delivery: Delivery, changes: int) -> None:
        """Notes that an output took a batch."""
        self._log.succeeded(delivery.connection.name, delivery.output.target.kind(), changes)

    def refused(self, delivery: Delivery, changes: int) -> None:
        """Notes changes of a batch that an output took without them."""
        self._log.refused(delivery.output.target.kind(), changes)

    def failed(self, delivery: Delivery, error: str, failing_for: Micros) -> None:
        """Notes that an output did not take a batch, as none for this long."""
        self._log.failed(delivery.connection.name, delivery.output.target.kind(), error, self._clock())
        self._connections.failed(delivery.connection.name, error, failing_for)

    def status(self, connection: Connection) -> DeliveryStatus:
        """How far a connection is behind, and how its last attempts ended."""
        if connection.state not in LIVE_STATES and not connection.exiting:
            return DeliveryStatus()
        behind = self._behind(connection)
        found = self._log.of(connection.name)
        if not found.error:
            # Nothing failed since the start.
            found = msgspec.structs.replace(
                found,
                error=connection.last_error,
                error_time=connection.last_error_time,
                failures=1 if connection.failing_for else 0,
            )
        return msgspec.structs.replace(
            found,
            pending_changes=behind.changes,
            pending_snapshot=behind.snapshot,
            lag=behind.lag,
            last_success=connection.last_success,
        )

    def measures(self) -> Iterator[Measure]:
        """Connections by state, and how far the active ones that send are behind."""
        states = dict.fromkeys(ConnectionState, 0)
        for connection in self._repository.scan(Connection, ""):
            states[connection.state] += 1
        for state, count in states.items():
            yield gauge("connections", "Connections by state.", count, state=state.name.lower())
        yield from self._lags()
        yield from self._log.measures()

    def _lags(self) -> Iterator[Measure]:
        behind: dict[str, list[_Behind]] = {kind: [] for kind, target in TARGETS.items() if target.sends}
        for delivery in self.active():
            behind[delivery.output.target.kind()].append(self._behind(delivery.connection))
        for kind, found in behind.items():
            yield gauge(
                "delivery_pending_changes",
                "Changes that active connections have not delivered yet, without members of snapshots, by "
                "kind of output.",
                sum(each.changes for each in found),
                kind=kind,
            )
        for kind, found in behind.items():
            yield gauge(
                "delivery_lag_seconds",
                "Age of the oldest change that an active connection has not delivered, or the time for which "
                "one has been failing, by kind of output.",
                max((each.lag for each in found), default=0) / MICROS_PER_SECOND,
                kind=kind,
            )

    def _behind(self, connection: Connection) -> _Behind:
        """How far a connection is behind."""
        now = self._clock()
        # 0 when the last attempt succeeded.
        failing = connection.failing_for and connection.failing_for + max(0, now - connection.last_error_time)
        try:
            membership = self._backend.membership(connection.membership)
            if membership is None:
                return _Behind(0, failing, snapshot=False)
            is_other = connection.epoch != self._epoch(membership)
            # The first members of an audience are its first changes.
            is_first = connection.snapshot_through == FIRST_INSTANT
            snapshot = not is_first and (is_other or connection.cursor.in_snapshot)
            if (is_other and not is_first) or membership.last_sequence <= connection.delivered:
                return _Behind(0, failing, snapshot)
            page = self._backend.changes(connection.membership, connection.delivered, 1)
        except MilepostError:
            # Reported where it is delivered.
            return _Behind(0, failing, snapshot=False)
        age = now - page.changes[0].as_of if page.changes else 0
        return _Behind(membership.last_sequence - connection.delivered, max(age, failing), snapshot)

    def has_changes(self, connection: Connection, beyond: int) -> bool:
        """Whether the connection has a snapshot to deliver, or a change above `beyond`."""
        membership = self._backend.membership(connection.membership)
        if membership is None or not self._is_watched(connection):
            return False
        if connection.cursor.in_snapshot or connection.epoch != self._epoch(membership):
            return True
        return membership.last_sequence > beyond

    def listen(self, connection: Connection, changed: Callable[[], None]) -> Callable[[], None]:
        """Calls `changed` when the connection's audience changes, until the result is called. It must not
        wait.
        """
        return self._backend.listen(connection.membership, changed)


class _Behind(NamedTuple):
    """Changes after a connection's cursor, the age of the first of them or the time for which attempts have
    been failing, and whether members of a snapshot are to be delivered.
    """

    changes: int
    lag: Micros
    snapshot: bool


def kind_of(change: Change) -> ChangeKind:
    """The kind of a change."""
    if change.updated:
        return ChangeKind.UPDATED
    return ChangeKind.ENTERED if change.entered else ChangeKind.EXITED


def _through_instant(changes: tuple[Change, ...]) -> tuple[Change, ...]:
    """The changes up to the end of the first instant."""
    ends = (at for at, change in enumerate(changes, 1) if change.last_of_instant)
    return changes[: next(ends, len(changes))]
