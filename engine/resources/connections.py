"""Connections of audiences to outputs: their records, their states, the credits that activation uses.

    INACTIVE ── activate ──▶ ACTIVE ── mark_faulted ──▶ FAULTED
        ▲                     │  ▲                        │ │
        └──── deactivate ─────┘  └──────── resume ────────┘ │
        └───────────────────── deactivate ──────────────────┘

An ACTIVE connection can be paused: it keeps its credit and its cursor, and `resume` continues from there.
`replay` moves the cursor back.

One with `exits_on_deactivation` is INACTIVE and exiting after `deactivate`, until it has delivered the exits
of all members, from a copy of the membership under its own name. Activating it ends that.

A connection's cursor says how far it has come in an epoch, which begins with a snapshot (see
`engine.audiences.deliveries`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable

import msgspec

from engine.backends.base import Membership, MembershipKeeper, OptedIn, epoch_of
from engine.clock import Clock
from engine.errors import (
    AlreadyExists,
    CursorExpired,
    FailedPrecondition,
    InvalidInput,
    LimitExceeded,
    Violation,
)
from engine.limits import Limits
from engine.resources.activation import LIVE_STATES, Activation
from engine.resources.checks import check_etag, masked_values, refuse_if_any
from engine.resources.journeys import Changed
from engine.resources.names import Resource, check_name, chosen_or_made_id
from engine.resources.outputs import Outputs
from engine.resources.paging import Page
from engine.resources.records import (
    BATCH_AGE_DEFAULT_MICROS,
    BATCH_CHANGES_DEFAULT,
    FIRST_INSTANT,
    Account,
    Audience,
    ChangeKind,
    Closing,
    Connection,
    ConnectionState,
    Cursor,
    Output,
    account_of,
    at_cursor,
    journey_of,
)
from engine.resources.repository import Changes, Repository
from engine.resources.secret_keys import SecretKeys
from engine.values import MICROS_PER_HOUR, MICROS_PER_SECOND, Micros

OPTED_IN_FIELDS = ("identities", "attributes", "hashed_identities", "hashed_attributes")
CONNECTION_FIELDS = frozenset(
    {*OPTED_IN_FIELDS, "kinds", "batch_changes", "batch_age", "exits_on_deactivation"}
)
BATCH_CHANGES_MAX = 10_000
BATCH_AGE_MAX_MICROS = MICROS_PER_HOUR
OPTED_IN_NAMES_MAX = 100
FAILURE_NOTED_MICROS = 10 * MICROS_PER_SECOND
"""Interval after which a failure that goes on is noted again."""


class Connections(Outputs):
    """Manages connections and their outputs."""

    def __init__(
        self,
        repository: Repository,
        activation: Activation,
        backend: MembershipKeeper,
        keys: SecretKeys,
        limits: Limits,
        clock: Clock,
        changed: Changed,
    ) -> None:
        super().__init__(repository, keys, limits, clock)
        self._activation = activation
        self._backend = backend
        self._changed = changed
        self._listeners: dict[str, list[Callable[[], None]]] = {}
        """By name of connection. A list is replaced, never changed: it is read without a lock."""
        self._listening = threading.Lock()

    # --- records --------------------------------------------------------------------------------------------

    def create_connection(
        self, parent: str, connection_id: str, connection: Connection, request_id: str = ""
    ) -> Connection:
        """Connects an audience to an output, INACTIVE. Raises NotFound, AlreadyExists, InvalidInput."""
        check_name(parent, "parent", Resource.ACCOUNT)
        with self._repository.writing() as changes:
            answered = self._requests.first_answer("create_connection", parent, request_id, Connection)
            if answered is not None:
                return answered
            self._repository.get(Account, parent)
            name = f"{parent}/connections/{chosen_or_made_id(connection_id, 'connection_id')}"
            if self._repository.find(Connection, name) is not None:
                raise AlreadyExists(name)
            now = self._clock()
            created = Connection(
                name=name,
                create_time=now,
                update_time=now,
                audience=connection.audience,
                output=connection.output,
                identities=connection.identities,
                attributes=connection.attributes,
                hashed_identities=connection.hashed_identities,
                hashed_attributes=connection.hashed_attributes,
                kinds=connection.kinds,
                batch_changes=connection.batch_changes or BATCH_CHANGES_DEFAULT,
                batch_age=connection.batch_age or BATCH_AGE_DEFAULT_MICROS,
                exits_on_deactivation=connection.exits_on_deactivation,
            )
            refuse_if_any((*self._reference_faults(created), *self._connection_faults(created)))
            changes.put(created)
            self._requests.remember(changes, "create_connection", parent, request_id, created)
            return created

    def get_connection(self, name: str) -> Connection:
        """The connection. Raises NotFound."""
        check_name(name, "name", Resource.CONNECTION)
        return self._repository.get(Connection, name)

    def list_connections(
        self, parent: str, *, audience: str = "", output: str = "", page_size: int = 0, page_token: str = ""
    ) -> Page[Connection]:
        """The account's connections, or those of an audience or output, in order of name. Raises NotFound,
        InvalidInput.
        """
        check_name(parent, "parent", Resource.ACCOUNT)
        if audience:
            check_name(audience, "audience", Resource.AUDIENCE)
        if output:
            check_name(output, "output", Resource.OUTPUT)
        self._repository.get(Account, parent)
        connections = (
            connection
            for connection in self._repository.scan(Connection, f"{parent}/connections/")
            if audience in ("", connection.audience) and output in ("", connection.output)
        )
        question = ("list_connections", parent, audience, output)
        return self._repository.pages.by_name(
            connections, question, page_size=page_size, page_token=page_token
        )

    def update_connection(self, record: Connection, fields: Collection[str], etag: str = "") -> Connection:
        """Changes the named fields of `CONNECTION_FIELDS`.

        Raises NotFound, EtagMismatch, InvalidInput.
        """
        check_name(record.name, "connection.name", Resource.CONNECTION)
        values = masked_values(record, fields, CONNECTION_FIELDS)
        with self._repository.writing() as changes:
            known = self._repository.get(Connection, record.name)
            check_etag(known, etag)
            updated = msgspec.structs.replace(known, **values, update_time=self._clock())
            refuse_if_any(self._connection_faults(updated))
            changes.put(updated)
            return updated

    def delete_connection(self, name: str, etag: str = "") -> None:
        """Deletes a connection and deactivates a live one. Raises NotFound, EtagMismatch."""
        check_name(name, "name", Resource.CONNECTION)
        with self._repository.writing() as changes:
            known = self._repository.get(Connection, name)
            check_etag(known, etag)
            changes.delete(known)
        self._backend.drop_membership(name)
        self._announce(known)

    def _reference_faults(self, connection: Connection) -> Iterable[Violation]:
        account = account_of(connection.name)
        audience, output = connection.audience, connection.output
        if account_of(audience) != account or self._repository.find(Audience, audience) is None:
            yield Violation("connection.audience", f"audience {audience!r} does not exist")
        if account_of(output) != account or self._repository.find(Output, output) is None:
            yield Violation("connection.output", f"output {output!r} does not exist")

    def _connection_faults(self, connection: Connection) -> Iterable[Violation]:
        if not 1 <= connection.batch_changes <= BATCH_CHANGES_MAX:
            yield Violation("connection.batching.max_changes", f"must be 1 to {BATCH_CHANGES_MAX}")
        if not 1 <= connection.batch_age <= BATCH_AGE_MAX_MICROS:
            yield Violation("connection.batching.max_age", "must be more than 0 and at most an hour")
        output = self._repository.find(Output, connection.output)
        is_watch = output is not None and not output.target.sends
        if is_watch and connection.kinds:
            yield Violation("connection.kinds", "must be empty: a watch has every change")
        if connection.exits_on_deactivation:
            field = "connection.exits_on_deactivation"
            if is_watch:
                yield Violation(field, "must be false: the watch of a consumer ends with the deactivation")
            elif connection.kinds and ChangeKind.EXITED not in connection.kinds:
                yield Violation(field, "needs exits among connection.kinds")
        for field in OPTED_IN_FIELDS:
            names: tuple[str, ...] = getattr(connection, field)
            if is_watch and names:
                yield Violation(f"connection.{field}", "must be empty: a watch has user ids only")
            if len(names) > OPTED_IN_NAMES_MAX:
                yield Violation(
                    f"connection.{field}", f"has {len(names)}; at most {OPTED_IN_NAMES_MAX} are allowed"
                )
            for index, name in enumerate(names):
                if not 1 <= len(name.encode()) <= self._limits.name_bytes_max:
                    yield Violation(
                        f"connection.{field}[{index}]", f"must have 1 to {self._limits.name_bytes_max} bytes"
                    )

    # --- states ---------------------------------------------------------------------------------------------

    def activate(self, name: str, etag: str = "") -> Connection:
        """Activates an INACTIVE connection. An ACTIVE one stays unchanged.

        Uses a credit of the account unless the audience is activated already. Raises NotFound, EtagMismatch,
        FailedPrecondition, LimitExceeded (nothing changed).
        """
        with self._repository.writing() as changes:
            known = self._known(name, etag)
            if known.state is ConnectionState.ACTIVE:
                return known
            if known.state is not ConnectionState.INACTIVE:
                raise _wrong_state(known, "resume or deactivate it")
            if self._repository.find(Audience, known.audience) is None:
                raise _wrong_state(known, "its audience was deleted and its last exits are being sent")
            self._take_credit(known)
            activated = self._put(
                changes,
                at_cursor(known, self._beginning(self._backend.membership(known.audience))),
                state=ConnectionState.ACTIVE,
                exiting=False,
                fault="",
                replayed_through=0,
                activation=known.activation + 1,
                last_success=0,
                last_error="",
                last_error_time=0,
                failing_for=0,
            )
        if known.exiting:
            self._backend.drop_membership(name)
        self._announce(known)
        return activated

    def deactivate(self, name: str, etag: str = "") -> Connection:
        """Deactivates a connection and returns the credit. Undelivered changes are dropped, or with
        `exits_on_deactivation` delivered, and the exits of all members after them. Raises NotFound,
        EtagMismatch, FailedPrecondition.
        """
        with self._repository.writing() as changes:
            known = self._known(name, etag)
            if known.state is ConnectionState.INACTIVE:
                return known
            if self._repository.find(Closing, known.audience) is not None:
                raise _wrong_state(known, "its audience was deleted and its last exits are being sent")
            left = self._keep_exits(known)
            inactive = at_cursor(known, Cursor()) if left is None else known
            deactivated = self._put(
                changes,
                inactive,
                state=ConnectionState.INACTIVE,
                replayed_through=known.replayed_through if left is not None else 0,
                paused=False,
                fault="",
                exiting=left is not None,
                left_at=left or 0,
                failing_for=0,
            )
        self._announce(known)
        return deactivated

    def _keep_exits(self, connection: Connection) -> int | None:
        """Keeps the membership for the exits of its members, if the connection is to send them. Returns the
        last change before them; None: there are none to send.
        """
        if not connection.exits_on_deactivation or not (connection.epoch or connection.left_at):
            return None
        stored = self._backend.membership(connection.audience)
        if stored is None:
            return None
        # Durable before the record that needs it. Without that record it is dropped at the next activation.
        is_known = connection.epoch == epoch_of(self._backend.store_id, stored)
        after = connection.delivered if is_known else stored.last_sequence
        self._backend.copy_membership(connection.audience, connection.name, after)
        kept = self._backend.membership(connection.name)
        return 0 if kept is None else kept.last_sequence

    def exited(self, name: str, activation: int) -> None:
        """Notes that a deactivated connection has delivered all exits. One whose audience was deleted is
        deleted.
        """
        with self._repository.writing() as changes:
            known = self._repository.find(Connection, name)
            if known is None or not known.exiting or known.activation != activation:
                return
            if self._repository.find(Audience, known.audience) is None:
                changes.delete(known)
            else:
                self._put(changes, at_cursor(known, Cursor()), exiting=False, left_at=0, replayed_through=0)
        self._backend.drop_membership(name)
        self._announce(known)

    def pause(self, name: str, etag: str = "") -> Connection:
        """Pauses an ACTIVE connection: it keeps its credit and its cursor. A paused one stays unchanged.
        Raises NotFound, EtagMismatch, FailedPrecondition, InvalidInput.
        """
        with self._repository.writing() as changes:
            known = self._known(name, etag)
            if known.state is not ConnectionState.ACTIVE:
                raise _wrong_state(known, "only an ACTIVE connection can be paused")
            output = self._repository.get(Output, known.output)
            if not output.target.sends:
                raise InvalidInput.one("name", f"{output.name} sends nothing: its consumer decides when")
            return known if known.paused else self._put(changes, known, paused=True)

    def resume(self, name: str, etag: str = "") -> Connection:
        """Resumes a paused or FAULTED connection from its cursor; a FAULTED one takes a credit again. Raises
        NotFound, EtagMismatch, FailedPrecondition, LimitExceeded.
        """
        with self._repository.writing() as changes:
            known = self._known(name, etag)
            is_faulted = known.state is ConnectionState.FAULTED
            if known.exiting and known.fault:
                resumed = self._put(changes, known, fault="", failing_for=0)
            elif not is_faulted and not known.paused:
                raise _wrong_state(known, "only a FAULTED or a paused connection can be resumed")
            else:
                if is_faulted and self._repository.find(Closing, known.audience) is None:
                    self._take_credit(known)
                resumed = self._put(
                    changes, known, state=ConnectionState.ACTIVE, paused=False, fault="", failing_for=0
                )
        self._announce(known)
        return resumed

    def replay(self, name: str, since: Micros | None = None, etag: str = "") -> Connection:
        """Has an ACTIVE or FAULTED connection send again what changed after an instant; None = every member,
        as an activation does, and what changes then. Changes nothing when nothing was delivered since.

        Raises NotFound, EtagMismatch, FailedPrecondition, InvalidInput for an instant in the future, and
        CursorExpired with the oldest instant when changes since are not kept any more.
        """
        with self._repository.writing() as changes:
            known = self._known(name, etag)
            if known.state not in LIVE_STATES:
                raise _wrong_state(known, "activate it: every member is sent then")
            if self._repository.find(Closing, known.audience) is not None:
                raise _wrong_state(known, "its audience was deleted and its last exits are being sent")
            stored = self._backend.membership(known.audience)
            if stored is None:
                return known
            cursor = self._beginning(stored)
            if since is not None:
                if since > self._clock():
                    raise InvalidInput.one(
                        "start_time", "must not be in the future: there are no changes since then"
                    )
                if known.cursor.in_snapshot:
                    raise _wrong_state(
                        known, "its members are being sent: replay it later, or from the start"
                    )
                delivered = self._backend.sequence_at(known.audience, since)
                if delivered >= known.delivered or known.epoch != epoch_of(self._backend.store_id, stored):
                    # In another epoch a snapshot comes anyway.
                    return known
                cursor = Cursor(known.epoch, delivered)
            replaying = self._put(
                changes,
                at_cursor(known, cursor),
                replayed_through=max(known.replayed_through, known.delivered),
                activation=known.activation + 1,
            )
        self._announce(known)
        return replaying

    def mark_faulted(self, name: str, why: str) -> Connection:
        """Marks an ACTIVE connection FAULTED and keeps its cursor. One that is exiting stays INACTIVE, and
        sends nothing until it is resumed. Raises NotFound.
        """
        with self._repository.writing() as changes:
            known = self._repository.get(Connection, name)
            if known.exiting:
                return self._put(changes, known, fault=why)
            if known.state is not ConnectionState.ACTIVE:
                return known
            faulted = self._put(changes, known, state=ConnectionState.FAULTED, paused=False, fault=why)
        self._announce(known)
        return faulted

    def failed(self, name: str, error: str, failing_for: Micros) -> None:
        """Notes that an attempt to deliver failed, and how long attempts have been failing, so that both
        outlive a restart. The same error is noted again after `FAILURE_NOTED_MICROS`.
        """
        now = self._clock()
        with self._repository.writing() as changes:
            known = self._repository.find(Connection, name)
            if known is None:
                return
            is_noted = (
                known.failing_for > 0 and known.last_error == error and failing_for >= known.failing_for
            )
            if is_noted and 0 <= now - known.last_error_time < FAILURE_NOTED_MICROS:
                return
            noted = msgspec.structs.replace(
                known, last_error=error, last_error_time=now, failing_for=max(1, failing_for)
            )
            changes.put(noted)

    def advance(self, name: str, cursor: Cursor, *, activation: int, sent: bool = True) -> Connection | None:
        """Advances a live connection's durable cursor. Does nothing when the connection was
        activated anew since `activation`. `sent` when its output took what lies between.

        None when the connection no longer exists: it was deleted, or has just delivered the last exit of a
        deleted audience and is removed.
        """
        with self._repository.writing() as changes:
            known = self._repository.find(Connection, name)
            if known is None or activation != known.activation:
                return known
            if known.state not in LIVE_STATES and not known.exiting:
                return known
            if cursor.epoch == known.epoch and cursor.sequence < known.delivered:
                return known
            closing = self._repository.find(Closing, known.audience)
            through = None if closing is None else closing.through
            is_told = not known.exiting and not cursor.in_snapshot
            if is_told and through is not None and cursor.sequence >= through:
                changes.delete(known)
            else:
                advanced = msgspec.structs.replace(
                    at_cursor(known, cursor),
                    last_success=self._clock() if sent else known.last_success,
                    left_at=0 if is_told else known.left_at,
                    failing_for=0 if sent else known.failing_for,
                )
                changes.put(advanced)
                return advanced
        self._announce(known)
        return None

    def watched(self, name: str, field: str = "name") -> Connection:
        """An ACTIVE connection to a `Watch` output. Raises NotFound, InvalidInput, FailedPrecondition."""
        check_name(name, field, Resource.CONNECTION)
        with self._repository.reading():
            known = self._repository.get(Connection, name)
            output = self._repository.get(Output, known.output)
        if output.target.sends:
            raise InvalidInput.one(field, f"{name} delivers to {output.name}, which is not of kind watch")
        if known.state is not ConnectionState.ACTIVE:
            raise _wrong_state(known, "activate it first")
        return known

    def acknowledge(self, name: str, cursor: int, epoch: str, activation: int) -> Connection:
        """Advances the cursor of a connection to a `Watch` output. A cursor before it changes nothing.

        Raises NotFound, InvalidInput, FailedPrecondition, and CursorExpired when the cursor is of another
        epoch, or the connection was activated again since `activation`.
        """
        with self._repository.writing():
            known = self.watched(name)
            if activation != known.activation:
                raise _activated_again(known)
            stored = self._backend.membership(known.audience)
            last = 0 if stored is None else stored.last_sequence
            current = "" if stored is None else epoch_of(self._backend.store_id, stored)
            if epoch != current:
                raise CursorExpired(
                    f"cursor {cursor} is not of the epoch of {known.audience}: send the epoch that came with "
                    f"it, or watch {name} again",
                    metadata={"oldest_cursor": str(known.delivered), "epoch": current},
                )
            if not 0 <= cursor <= last:
                raise InvalidInput.one("cursor", f"must be 0 to {last}, the last change")
            acknowledged = Cursor(epoch, cursor)
            if known.epoch == epoch and cursor < known.delivered:
                return known
            return self.advance(name, acknowledged, activation=activation) or at_cursor(known, acknowledged)

    def require_watched(self, name: str, activation: int) -> None:
        """Raises CursorExpired when the connection was activated again, or replayed, since `activation`, and
        whatever `watched` raises.
        """
        known = self.watched(name, "connection")
        if activation != known.activation:
            raise _activated_again(known)

    def listen(self, name: str, changed: Callable[[], None]) -> Callable[[], None]:
        """Calls `changed` whenever the state of the connection has changed, until the result is called."""
        with self._listening:
            self._listeners[name] = [*self._listeners.get(name, ()), changed]

        def stop() -> None:
            with self._listening:
                left = [each for each in self._listeners.get(name, ()) if each is not changed]
                if left:
                    self._listeners[name] = left
                else:
                    self._listeners.pop(name, None)

        return stop

    def _announce(self, connection: Connection) -> None:
        """Tells who depends on the state of a connection that it has changed."""
        self._changed(self._journey_of(connection.audience))
        for changed in self._listeners.get(connection.name, ()):
            changed()

    def _beginning(self, stored: Membership | None) -> Cursor:
        """The cursor of a connection that begins with a snapshot."""
        if stored is None:
            return Cursor(snapshot_through=FIRST_INSTANT)
        return Cursor(epoch_of(self._backend.store_id, stored), stored.last_sequence, snapshot_after="")

    def _known(self, name: str, etag: str) -> Connection:
        check_name(name, "name", Resource.CONNECTION)
        known = self._repository.get(Connection, name)
        check_etag(known, etag)
        return known

    def _put(self, changes: Changes, known: Connection, **values: object) -> Connection:
        updated = msgspec.structs.replace(known, update_time=self._clock(), **values)
        changes.put(updated)
        return updated

    def _take_credit(self, connection: Connection) -> None:
        account = account_of(connection.name)
        activated = self._activation.activated(account)
        limit = self._repository.get(Account, account).active_audience_limit
        if connection.audience not in activated and len(activated) >= limit:
            raise LimitExceeded(
                f"{len(activated)} of {limit} audiences of {account} are activated",
                reason="NO_AUDIENCE_CREDIT",
                metadata={"limit": str(limit)},
            )

    def _journey_of(self, audience: str) -> str:
        record = self._repository.find(Audience, audience)
        if record is None:
            closing = self._repository.find(Closing, audience)
            record = None if closing is None else closing.audience
        return "" if record is None else journey_of(record.milestone)


def opted_in_by(connection: Connection) -> OptedIn:
    """What a connection sends of users."""
    attributes = {*connection.attributes, *connection.hashed_attributes}
    identities = {*connection.identities, *connection.hashed_identities}
    return OptedIn(tuple(sorted(attributes)), tuple(sorted(identities)))


def _activated_again(connection: Connection) -> CursorExpired:
    return CursorExpired(
        f"{connection.name} was activated again, or replayed, since that watch began; watch it again",
        metadata={"oldest_cursor": str(connection.delivered)},
    )


def _wrong_state(connection: Connection, advice: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{connection.name} is {connection.state.name}: {advice}",
        reason="CONNECTION_STATE",
        metadata={"state": connection.state.name},
    )
