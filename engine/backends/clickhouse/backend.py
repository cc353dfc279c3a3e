"""`ClickHouseBackend`: the roles of a backend over a cluster, behind one process, the gateway."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Sized

from engine.backends.base import Appended, Capabilities, EventRecord, NameSpan, Profile, Record, Role
from engine.backends.clickhouse.cluster import Cluster
from engine.backends.clickhouse.gateway.base_builder import BaseBuilder
from engine.backends.clickhouse.gateway.cluster_catalog import ClusterCatalog
from engine.backends.clickhouse.gateway.cluster_memberships import ClusterMemberships
from engine.backends.clickhouse.gateway.cluster_people import ClusterPeople
from engine.backends.clickhouse.gateway.cluster_plans import ClusterPlans
from engine.backends.clickhouse.gateway.follower import Follower, columns_of
from engine.backends.clickhouse.gateway.location import Location
from engine.backends.clickhouse.gateway.open_cluster import cluster_at
from engine.backends.clickhouse.gateway.owner import read_owner
from engine.backends.clickhouse.mapped import (
    MappedTable,
    account_of_input,
    checked_columns,
    checked_settle_s,
    table_name,
)
from engine.backends.clickhouse.query.compiler import counted
from engine.backends.clickhouse.query.mapped import from_events
from engine.backends.clickhouse.settings import ClickHouseSettings, checked_promoted
from engine.backends.clickhouse.tables import DEDUPLICATED_INSERTS, EVENTS
from engine.backends.clickhouse.view import View
from engine.backends.local.roles.lifetime import Lifetime
from engine.backends.local.roles.measuring import Measuring
from engine.backends.local.roles.users import Users
from engine.backends.local.roles.writing import Writing
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage.store import Store
from engine.backends.local.storage.write_ahead_log import BatchEntry, LogEntry, MapEntry, UnmapEntry
from engine.clock import Stamp, wall_stamp
from engine.errors import FailedPrecondition, InvalidInput, MilepostError
from engine.event_columns import EventColumns
from engine.measures import Measure, gauge, timed
from engine.measures import counted as counter
from engine.values import Micros

INSERTS_MAX = DEDUPLICATED_INSERTS // 2
"""Entries added to the cluster after which a checkpoint is due. A server forgets the tokens of older inserts,
and a start repeats those since the last checkpoint.
"""

_log = logging.getLogger(__name__)


class ClickHouseBackend(
    ClusterMemberships,
    ClusterPlans,
    ClusterCatalog,
    Writing[ClusterPeople],
    Users[ClusterPeople],
    Measuring[ClusterPeople],
    Lifetime[ClusterPeople],
):
    """Users' data in a cluster; log, documents and memberships in a directory. One process owns both. All
    methods are safe from several threads.
    """

    def __init__(
        self,
        store: Store,
        settings: LocalSettings,
        clock: Callable[[], Stamp],
        cluster: Cluster,
        maintenance_s: float,
        base_writes_min: int,
        follow_s: float,
        promoted: Collection[str] = (),
    ) -> None:
        """Use `open`."""
        self._maintenance_s, self._follow_s = maintenance_s, follow_s
        self._sweeping = threading.Lock()
        self._excluded: list[View] = []
        """Rows to remove, by account, once the views that had begun by then are not used any more."""
        self._views_begun = 0
        self._connect(cluster, store, promoted)
        super().__init__(store, settings, clock)
        self._bases = BaseBuilder(
            cluster,
            self._cluster_state,
            self._fact_uses,
            self._checkpoint,
            self._sweeping,
            writes_min=base_writes_min,
        )
        self._follower = Follower(cluster, self._cluster_state, self._write_followed)
        self._start()

    @classmethod
    def open(
        cls,
        location: Location,
        *,
        settings: ClickHouseSettings | None = None,
        clock: Callable[[], Stamp] = wall_stamp,
    ) -> ClickHouseBackend:
        """Opens or creates a store in a cluster, and replays log entries that are newer than the index.

        Raises StoreUnavailable when another process owns the directory, or a shard has no server that
        answers; FailedPrecondition when a server has not the rows of this store; DataLoss when the files of
        the gateway are damaged.
        """
        settings = settings or ClickHouseSettings()
        promoted = checked_promoted(settings.promoted_attributes)
        store = Store.open(location.gateway, map_bytes=settings.map_bytes)
        cluster = cluster_at(location, read_owner(store.index))
        try:
            return cls(
                store,
                settings.gateway,
                clock,
                cluster,
                settings.maintenance_s,
                settings.base_writes_min,
                settings.follow_s,
                promoted,
            )
        except BaseException:
            cluster.close()
            store.close()
            raise

    def capabilities(self) -> Capabilities:
        """All roles but upkeep: the rows are backed up by the cluster's own means."""
        return Capabilities(name="clickhouse", roles=frozenset(Role) - {Role.UPKEEP})

    # --- users ----------------------------------------------------------------------------------------------

    def profile(self, account: str, user_id: str) -> Profile | None:
        """The profile of a user, or of the user an alias names: everything except its events."""
        with self._viewed(account) as (people, view):
            if people is None:
                return None
            with self._locked():
                own = people.directory.canonical(user_id)
                ref = people.directory.find(own)
                if ref is None:
                    return None
                seen = {
                    name: people.seen.times(number, ref) for name, number in people.inputs.numbers.items()
                }
            attributes, identities, consents = self._profiles.of(view, own)
        return Profile(
            user_id=own,
            seen={name: times for name, times in seen.items() if times is not None},
            attributes=attributes,
            identities=identities,
            consents=consents,
        )

    # --- writing --------------------------------------------------------------------------------------------

    def append(self, account: str, records: Sequence[Record], *, request_id: str = "") -> Appended:
        """As `Writing.append`. Raises InvalidInput for events of an input that a table gives."""
        inputs = (record.input for record in records if type(record) is EventRecord)
        self._refuse_mapped(account, inputs)
        return super().append(account, records, request_id=request_id)

    def append_columns(self, account: str, columns: EventColumns, *, request_id: str = "") -> Appended:
        """As `append`, for events in columns."""
        self._refuse_mapped(account, columns.inputs.entries)
        return super().append_columns(account, columns, request_id=request_id)

    def _refuse_mapped(self, account: str, inputs: Iterable[str]) -> None:
        # An input is mapped while no service has the store open.
        rows = self._cluster_state.rows.of(account)
        for name in set(inputs) if rows.mapped else ():
            if rows.table_of(name) is not None:
                raise InvalidInput.one(
                    "input",
                    f"the events of {name} are those of a table that is read in place: send yours through"
                    " another input",
                )

    def _append(self, rows: Sized, request_id: str, *entries_at: Callable[[Stamp], BatchEntry]) -> Appended:
        self._check_room()
        self._checkpoint_in_time()
        return super()._append(rows, request_id, *entries_at)

    def _write_followed(self, entry_at: Callable[[Stamp], LogEntry]) -> Appended:
        """Logs and applies an entry about tables of others."""
        self._check_room()
        self._checkpoint_in_time()
        return self._writer.write(entry_at)

    def alias(self, account: str, from_user_id: str, to_user_id: str) -> int:
        """As `Writing.alias`; moves the rows of the user."""
        self._check_room()
        self._checkpoint_in_time()
        return super().alias(account, from_user_id, to_user_id)

    def _checkpoint_in_time(self) -> None:
        """Checkpoints before a start would repeat more inserts than the servers know."""
        if self._cluster_state.inserts >= INSERTS_MAX:
            with self._checkpoint_lock:
                if self._cluster_state.inserts >= INSERTS_MAX:
                    self._checkpoint()

    def events_before(self, account: str, before: Micros) -> Iterator[NameSpan | None]:
        """As `DataWriter.events_before`. A removal takes no longer for many names."""
        with self._viewed(account) as (people, view):
            if people is None or self._cluster_state.rows.of(account).first_time >= before:
                return
            events = from_events(view, counted(view, EVENTS), f"time < {before}")
            has_some = any(self._cluster.read(f"SELECT 1 {events} LIMIT 1", mapped=view.mapped))
        if has_some:
            yield None

    # --- tables of others -----------------------------------------------------------------------------------

    def map_events(self, input_name: str, table: str, settle_s: float) -> None:
        """The events of an input are the rows of a table from now on (`mapped.py`). They are followed in the
        background, or by `follow`.

        Raises FailedPrecondition when the input is mapped already, InvalidInput for a table without the
        columns that are needed, a name that is none and too long a time, StoreUnavailable when a server does
        not answer.
        """
        account = account_of_input(input_name)
        with self._locked():
            known = self._cluster_state.rows.of(account).table_of(input_name)
        if known is not None:
            raise FailedPrecondition(f"the events of {input_name} are those of {known.table} already")
        place, settle_s = table_name(table), checked_settle_s(settle_s)
        columns = checked_columns(columns_of(self._cluster, place))
        self._write_followed(
            lambda at: MapEntry(account, at.arrival, input_name, place, columns, settle_s, at.settled)
        )

    def unmap_events(self, input_name: str) -> None:
        """The rows of the table of an input do not count any more. Its users stay. Raises FailedPrecondition
        when it has none.
        """
        account = account_of_input(input_name)
        self._table_of(account, input_name)
        self._write_followed(lambda at: UnmapEntry(account, at.arrival, input_name, at.settled))

    def recount_events(self, input_name: str) -> None:
        """Takes the rows of a table as they are now, up to where it was followed, also those that came late
        or are gone. Until that is done, questions about these events are refused. Raises FailedPrecondition
        when the input has no table, StoreUnavailable when it cannot be read, or servers have different rows.
        """
        account = account_of_input(input_name)
        self._follower.recount(account, self._table_of(account, input_name))

    def _table_of(self, account: str, input_name: str) -> MappedTable:
        with self._locked():
            known = self._cluster_state.rows.of(account).table_of(input_name)
        if known is None:
            raise FailedPrecondition(f"the events of {input_name} are not those of a table")
        return known

    def follow(self) -> None:
        """Takes the rows of tables of others that have settled. Raises StoreUnavailable when a table cannot
        be read.
        """
        self._follower.look()

    # --- upkeep of the cluster ------------------------------------------------------------------------------

    def _threads(self) -> Iterator[threading.Thread]:
        yield from super()._threads()
        yield threading.Thread(target=self._maintain, name="milepost-cluster", daemon=True)
        yield threading.Thread(
            target=self._follower.run,
            args=(self._closing, self._follow_s),
            name="milepost-follower",
            daemon=True,
        )
        yield threading.Thread(
            target=self._bases.run,
            args=(self._closing, self._maintenance_s),
            name="milepost-bases",
            daemon=True,
        )

    @property
    def has_servers_behind(self) -> bool:
        """Whether a server lacks rows."""
        return bool(self._rows.behind)

    def go_on_without_bases(self) -> None:
        """Answers from the rows, until bases are built again."""
        self._bases.forget_all()

    def _maintain(self) -> None:
        """The background thread: applies what waits, lets replicas catch up, and removes rows."""
        while not self._closing.wait(self._maintenance_s):
            try:
                if self._writer.delay is not None:
                    self._writer.go_on()
                if self._rows.behind:
                    self._claim_again()
                    self._kept.settle(self._rows.catch_up(self._kept.after))
                self._sweep()
            except MilepostError as error:
                _log.warning("the cluster is not brought up to date: %s", error.message)
            except Exception:
                _log.exception("bringing the cluster up to date failed")

    def checkpoint(self) -> int:
        """As `Checkpoints.checkpoint`; removes rows from the cluster that nothing needs any more."""
        revision = super().checkpoint()
        # The first looks up what can go, the second removes it.
        self._sweep()
        self._sweep()
        return revision

    def _sweep(self) -> None:
        """Removes the rows that were looked up the last time, unless an answer under way may still have
        them, or looks up those to remove the next time. Nothing while a base is built.
        """
        if not self._sweeping.acquire(blocking=False):
            return
        try:
            if not self._excluded:
                self._excluded, self._views_begun = self._find_excluded(), self._cluster_state.views_begun()
            elif self._cluster_state.have_ended(self._views_begun):
                views, self._excluded = self._excluded, []
                self._remove(views)
        finally:
            self._sweeping.release()

    def _find_excluded(self) -> list[View]:
        """The rows of each account that no answer from now on has, nor a replay needs."""
        with self._state.locked():
            through = self._state.checkpointed.position
            rows = self._cluster_state.rows
            views = (rows.of(account).excluded(account, through) for account in rows.accounts())
            return [view for view in views if view is not None]

    def _remove(self, views: Sequence[View]) -> None:
        for view in views:
            events = self._count_excluded(view)
            if not self._rows.sweep(view):
                return
            with self._state.locked():
                rows = self._cluster_state.rows
                rows.put(view.account, rows.of(view.account).swept(view, events))

    def _count_excluded(self, view: View) -> int:
        """The events that a sweep removes."""
        bare = View(account=view.account, revision=view.revision)
        statement = (
            f"SELECT count() FROM {EVENTS} WHERE {counted(bare, EVENTS)} AND NOT {counted(view, EVENTS)}"
        )
        return sum(int(rows[0][0]) for rows in self._cluster.read(statement))

    # --- figures --------------------------------------------------------------------------------------------

    def _events_of(self, account: ClusterPeople) -> int:
        return self._cluster_state.rows.of(account.name).events

    def measures(self) -> Iterator[Measure]:
        """All figures of this moment."""
        yield from super().measures()
        yield gauge(
            "cluster_replicas_behind", "Servers that lack rows and are not read.", len(self._rows.behind)
        )
        yield gauge(
            "cluster_writes_waiting",
            "Whether logged writes wait for the cluster.",
            int(self._writer.delay is not None),
        )
        yield counter(
            "cluster_followed_rows_total",
            "Rows of tables of others that were followed.",
            self._follower.rows,
        )
        yield timed("cluster_base_seconds", "Time to build the base of an account.", self._bases.times)

    def _end_reads(self) -> bool:
        self._rows.close()
        self._cluster.close()
        return True
