"""`LocalBackend`: every role of a backend (`engine.backends.base`) in one process, over one directory.

Locks are taken in this order: checkpoint, apply (`Writer`), index, that of `Catalogs`, state (`State`). A
thread that writes to the index holds the index lock, briefly under the state lock or for longer without it. A
write request is logged and synced outside the state lock and applied under it in chunks. A read request holds
it for one answer.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import overload

from pyroaring import BitMap

from engine.backends.base import (
    Appended,
    AttributeFacts,
    AttributePlace,
    Capabilities,
    ChangePage,
    Containment,
    Contains,
    Count,
    Counts,
    EventNameFacts,
    EventPlace,
    MemberPage,
    Members,
    Membership,
    Outlook,
    PartitionSet,
    Profile,
    Record,
    Role,
    SeenNames,
    Stats,
    StepTrace,
    Trace,
    ValueCount,
)
from engine.backends.base.upkeep import Finding, StoreFigures
from engine.backends.local.account.account import Account
from engine.backends.local.catalog.pages import Catalogs
from engine.backends.local.membership.store import GroupChanges, StoredState, Update
from engine.backends.local.query.executor import Executor, GroupRun, after_group, member_page
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage.documents import LocalDocuments
from engine.backends.local.storage.header import FORMAT_VERSION
from engine.backends.local.storage.key_statistics import stored_kinds
from engine.backends.local.storage.process_memory import give_back, keep_small
from engine.backends.local.storage.store import Store
from engine.backends.local.storage.transactions import WriteBuffer
from engine.backends.local.storage.user_ref import DENSE_MASK, GROUP_SHIFT
from engine.backends.local.storage.write_ahead_log import (
    AliasEntry,
    AppendEntry,
    EraseEntry,
    ExpireEntry,
    ImportEntry,
    UserImportEntry,
    WriteAheadLog,
)
from engine.backends.local.verify.long_reads import Upkeep
from engine.backends.local.write.group_commit import Writer
from engine.backends.local.write.state import State
from engine.clock import Stamp, wall_stamp
from engine.errors import (
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidInput,
    LimitExceeded,
    MilepostError,
    StoreUnavailable,
)
from engine.event_columns import EventColumns
from engine.plan.model import Plan
from engine.user_columns import UserColumns
from engine.values import PARTITION_COUNT, Micros

CHECKPOINT_POLL_SECONDS = 0.2

FULL_RETRY_SECONDS = 5.0
"""How long after a checkpoint that found no room the next one tries."""

_log = logging.getLogger(__name__)


class LocalBackend:
    """The embedded backend. One process owns a directory; all methods are safe from several threads."""

    def __init__(self, store: Store, settings: LocalSettings, clock: Callable[[], Stamp]) -> None:
        """Use `open`."""
        self._store = store
        self._settings = settings
        self._state = State(store, settings)
        self._log = WriteAheadLog(store.log, self._state.position)
        self._writer = Writer(self._log, self._state, clock)
        self._writer.replay()
        self._executor = Executor(self._state.names)
        self._documents = LocalDocuments(store.index)
        self._catalogs = Catalogs(self._state, store.index, self._check)
        self._checkpoint_lock = threading.RLock()
        self._index_lock = threading.RLock()
        self._closing = threading.Event()
        self._closed = False
        self._upkeep = Upkeep(store)
        self._is_full = False
        self._checkpoint_damage: DataLoss | None = None
        """The error that prevents checkpoints, or None."""
        if not store.partitions.drawn_groups:
            _log.info(
                "the store was made by an earlier version: its groups of users stay runs of neighbouring"
                " partitions, only the order in which they are sampled is drawn"
            )
        self._purging, self._compaction_needed = self._is_purging(), self._needs_compaction()
        files = (store.index.file, store.log.file)
        self._background = (
            threading.Thread(target=self._checkpoint_now_and_then, name="milepost-checkpoint", daemon=True),
            threading.Thread(
                target=keep_small, args=(files, self._closing), name="milepost-memory", daemon=True
            ),
        )
        for thread in self._background:
            thread.start()

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        settings: LocalSettings | None = None,
        clock: Callable[[], Stamp] = wall_stamp,
    ) -> LocalBackend:
        """Opens or creates the store in a directory and replays log entries that are newer than the index.

        `clock` stamps arrivals. The horizons of event ids and request ids follow it.

        Raises StoreUnavailable when another process owns the store, DataLoss when it is damaged.
        """
        settings = settings or LocalSettings()
        store = Store.open(directory, groups=settings.groups, map_bytes=settings.map_bytes)
        try:
            return cls(store, settings, clock)
        except BaseException:
            store.close()
            raise

    @property
    def documents(self) -> LocalDocuments:
        """The resource records."""
        return self._documents

    @property
    def store_id(self) -> str:
        """Random, fixed at creation."""
        return self._store.store_id

    def revision(self) -> int:
        """The newest visible revision."""
        return self._state.position

    def newest_arrival(self) -> Micros:
        """When the newest write arrived; 0 when there is none."""
        return self._state.arrival

    @contextmanager
    def _locked(self, deadline: float | None = None) -> Iterator[None]:
        with self._state.locked(deadline):
            self._check()
            yield

    def _check(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed", reason="STORE_CLOSED")
        self._writer.check()

    def _check_room(self) -> None:
        """Raises LimitExceeded, or DataLoss in case of damage, while acknowledged data cannot be
        checkpointed. It stays in memory and in the log, which must not grow without bound.
        """
        self._check()
        damage = self._checkpoint_damage
        if damage is not None:
            raise DataLoss(
                f"writes are refused: the log cannot be checkpointed: {damage.message}; reads go on, and"
                " what was acknowledged is kept in the log; restore a backup",
                metadata=dict(damage.metadata),
            )
        if self._is_full:
            raise LimitExceeded("the store is full: its log cannot be checkpointed", reason="STORE_FULL")

    def write_fault(self) -> MilepostError | None:
        """The error with which writes are refused; None when they are accepted."""
        try:
            self._check_room()
        except MilepostError as error:
            return error
        return None

    # --- writing --------------------------------------------------------------------------------------------

    def append(self, account: str, records: Sequence[Record], *, request_id: str = "") -> Appended:
        """Makes the records durable, then visible, in order. A `request_id` seen before is answered without
        writing anything.
        """
        self._check_room()
        if not records and not request_id:
            return Appended(self.revision(), 0, 0)
        batch = tuple(records)
        return self._writer.write(lambda at: AppendEntry(account, at.arrival, request_id, batch, at.settled))

    def append_columns(self, account: str, columns: EventColumns, *, request_id: str = "") -> Appended:
        """As `append`, for events in columns."""
        self._check_room()
        if not len(columns) and not request_id:
            return Appended(self.revision(), 0, 0)
        return self._writer.write(
            lambda at: ImportEntry(account, at.arrival, request_id, columns, at.settled)
        )

    def append_user_columns(self, account: str, columns: UserColumns, *, request_id: str = "") -> Appended:
        """As `append`, for user updates in columns."""
        self._check_room()
        if not len(columns) and not request_id:
            return Appended(self.revision(), 0, 0)
        return self._writer.write(
            lambda at: UserImportEntry(account, at.arrival, request_id, columns, at.settled)
        )

    def erase(self, account: str, user_ids: Sequence[str]) -> Appended:
        """Removes the users, their aliases and all their data, from the log and the index. An alias names the
        user it stands for. `accepted` counts users that existed.
        """
        self._check_room()
        gone = tuple(user_ids)
        answer = self._writer.write(lambda at: EraseEntry(account, at.arrival, gone, at.settled))
        # The log contains the erased data until it is trimmed.
        self.checkpoint()
        return answer

    def remove_events(self, account: str, before: Micros) -> int:
        """Removes the account's events before an instant, for good; logs nothing when there are none."""
        for group in range(self._store.groups):
            # Group by group, so that other questions run in between.
            with self._locked():
                found = self._state.find_account(account)
                is_due = found is not None and found.tables.has_before(group, before)
            if is_due:
                return self._writer.write(
                    lambda at: ExpireEntry(account, at.arrival, before, at.settled)
                ).revision
        return self.revision()

    def alias(self, account: str, from_user_id: str, to_user_id: str) -> int:
        """Makes `from` an alias of `to`, or of the user that `to` is an alias of. Repeating it changes
        nothing.

        Raises FailedPrecondition: ALIAS_CYCLE, or ALREADY_ALIASED when `from` is an alias of another user.
        """
        self._check_room()
        answer = self._writer.write(
            lambda at: AliasEntry(account, at.arrival, from_user_id, to_user_id, at.settled)
        )
        return answer.revision

    # --- executing plans ------------------------------------------------------------------------------------

    @overload
    def execute(
        self,
        plan: Plan,
        ask: Count,
        *,
        partitions: PartitionSet = None,
        min_revision: int = 0,
        deadline: float | None = None,
    ) -> Counts: ...

    @overload
    def execute(
        self,
        plan: Plan,
        ask: Members,
        *,
        partitions: PartitionSet = None,
        min_revision: int = 0,
        deadline: float | None = None,
    ) -> MemberPage: ...

    @overload
    def execute(
        self,
        plan: Plan,
        ask: Contains,
        *,
        partitions: PartitionSet = None,
        min_revision: int = 0,
        deadline: float | None = None,
    ) -> Containment: ...

    def execute(
        self,
        plan: Plan,
        ask: Count | Members | Contains,
        *,
        partitions: PartitionSet = None,
        min_revision: int = 0,
        deadline: float | None = None,
    ) -> Counts | MemberPage | Containment:
        """Answers `ask` over one consistent state at or after `min_revision`."""
        self._await(min_revision, deadline)
        with self._locked(deadline):
            revision = self._state.position
            account = self._state.find_account(plan.account)
            if account is None:
                return _nobody(plan, ask, partitions, revision)
            bound = self._executor.bind(plan, account)
            match ask:
                case Count():
                    return self._executor.count(bound, partitions, revision, deadline)
                case Members():
                    return self._executor.members(bound, ask, partitions, revision, deadline)
                case Contains():
                    return self._executor.contains(bound, ask, partitions, revision, deadline)

    def trace(self, plan: Plan, *, min_revision: int = 0, deadline: float | None = None) -> Trace:
        """Executes the plan over every partition and reports each step."""
        self._await(min_revision, deadline)
        with self._locked(deadline):
            account = self._state.find_account(plan.account)
            if account is None:
                return Trace(tuple(StepTrace(0, 0.0, "set", 0) for _ in plan.steps), self._state.position)
            bound = self._executor.bind(plan, account)
            return self._executor.trace(bound, self._state.position, deadline)

    def _await(self, revision: int, deadline: float | None) -> None:
        if revision > self._state.position:
            latest = time.monotonic() + self._settings.revision_wait_seconds_max
            self._state.wait_for(revision, latest if deadline is None else deadline)

    def sample_partitions(self, partition_count: int) -> tuple[int, ...]:
        """The first partitions in the sampling order of the store: one whole group after the other."""
        if not 1 <= partition_count <= PARTITION_COUNT:
            raise InvalidInput.one("partition_count", f"1 to {PARTITION_COUNT}")
        return self._store.partitions.order[:partition_count]

    def smallest_sample(self) -> int:
        """A group: its bitmaps are read whole."""
        return PARTITION_COUNT // self._store.groups

    def universe_size(self, account: str, inputs: Sequence[str]) -> int:
        """Number of users that belong to at least one of the inputs."""
        with self._locked():
            found = self._state.find_account(account)
            return 0 if found is None else found.universe_size(inputs)

    def outlook(
        self, plan: Plan, inputs: Sequence[str], *, min_revision: int = 0, deadline: float | None = None
    ) -> Outlook:
        """Number of users that belong to the inputs, and the estimated time of counting the plan's roots over
        everyone.
        """
        self._await(min_revision, deadline)
        with self._locked(deadline):
            account = self._state.find_account(plan.account)
            if account is None:
                return Outlook(0, 0.0)
            work = self._executor.work(self._executor.bind(plan, account))
            return Outlook(account.universe_size(inputs), work)

    def profile(self, account: str, user_id: str) -> Profile | None:
        """The profile of a user, or of the user an alias names: everything except its events."""
        with self._locked():
            found = self._state.find_account(account)
            return None if found is None else found.profile(user_id)

    def seen_names(self, account: str) -> SeenNames:
        """Names that occur in the data."""
        with self._locked():
            found = self._state.find_account(account)
            nothing: frozenset[str] = frozenset()
            return SeenNames(nothing, nothing, nothing) if found is None else found.seen_names()

    # --- the catalog ----------------------------------------------------------------------------------------

    def event_names(
        self,
        account: str,
        *,
        input: str = "",
        prefix: str = "",
        after: EventPlace | None = None,
        limit: int,
        deadline: float | None = None,
    ) -> tuple[EventNameFacts, ...]:
        """Event names in order of name, input and type."""
        return self._catalogs.event_names(account, input, prefix, after, limit, deadline)

    def user_attributes(
        self,
        account: str,
        *,
        workspace: str = "",
        prefix: str = "",
        after: AttributePlace | None = None,
        limit: int,
        deadline: float | None = None,
    ) -> tuple[AttributeFacts, ...]:
        """Attributes of users in order of key and workspace."""
        return self._catalogs.user_attributes(account, workspace, prefix, after, limit, deadline)

    def event_attributes(
        self,
        account: str,
        event_name: str,
        *,
        input: str = "",
        prefix: str = "",
        after: str | None = None,
        limit: int,
        deadline: float | None = None,
    ) -> tuple[AttributeFacts, ...]:
        """Attributes of the events of a name in order of key."""
        return self._catalogs.event_attributes(account, event_name, input, prefix, after, limit, deadline)

    def attribute_values(
        self,
        account: str,
        workspace: str,
        key: str,
        *,
        prefix: str = "",
        after: ValueCount | None = None,
        limit: int,
        deadline: float | None = None,
    ) -> tuple[ValueCount, ...]:
        """The values of a user attribute, most users first."""
        return self._catalogs.attribute_values(account, workspace, key, prefix, after, limit, deadline)

    # --- stored membership ----------------------------------------------------------------------------------

    def refresh(
        self,
        account: str,
        scope: str,
        audiences: Sequence[str],
        plan: Plan,
        *,
        moved_by_time: Plan | None = None,
        whole: bool = False,
    ) -> tuple[Membership, ...]:
        """Brings stored memberships to the plan's `as_of` and the newest revision, in one transaction."""
        with self._index_lock, self._locked():
            memberships = self._state.memberships
            memberships.record_waiting()
            states = memberships.states(audiences, account, scope)
            dirty = memberships.dirty(scope)
            if whole or any(memberships.find(audience) is None for audience in audiences):
                dirty = None
            found = self._state.find_account(account)
            changes: list[list[GroupChanges]] = [[] for _ in audiences]
            if found is not None:
                changes = self._changes(found, tuple(states.values()), plan, dirty, moved_by_time)
            updates = {
                audience: Update(state, changed, plan.as_of)
                for (audience, state), changed in zip(states.items(), changes, strict=True)
            }
            memberships.store(updates, self._state.position)
            memberships.refreshed(account, scope)
            return tuple(memberships.get(audience).public() for audience in audiences)

    def _changes(
        self,
        account: Account,
        states: Sequence[StoredState],
        plan: Plan,
        dirty: Sequence[BitMap] | None,
        moved_by_time: Plan | None,
    ) -> list[list[GroupChanges]]:
        """Entries and exits of each membership by group, among dirty and moved users (None = all)."""
        changes: list[list[GroupChanges]] = [[] for _ in states]
        bound = self._executor.bind(plan, account)
        moved = None if moved_by_time is None else self._executor.bind(moved_by_time, account)
        for group in range(account.groups):
            base = None if dirty is None else dirty[group]
            if base is not None and moved is not None:
                base = base | GroupRun(moved, group, None).users(moved.roots[0])
            if base is not None and not base:
                continue
            run = GroupRun(bound, group, base)
            for at, (state, root) in enumerate(zip(states, plan.roots, strict=True)):
                before = self._state.memberships.members(state, group)
                after = run.users(root)
                exited = before - after if base is None else (before & base) - after
                changes[at].append(GroupChanges(group, after - before, exited))
        return changes

    def pending(self, scope: str) -> int:
        """Number of dirty users in the scope. After a restart every user is dirty until the first refresh."""
        with self._locked():
            pending = self._state.memberships.pending(scope)
            if pending is not None:
                return pending
            account = self._state.find_account(self._state.memberships.scope_account(scope) or "")
            return 0 if account is None else account.directory.size()

    def membership(self, audience: str) -> Membership | None:
        """The stored membership, or None when it is not stored."""
        with self._locked():
            state = self._state.memberships.find(audience)
            return None if state is None else state.public()

    def stored_members(self, audience: str, ask: Members) -> MemberPage:
        """Members of the stored membership, in the order of `execute`."""
        with self._locked():
            memberships = self._state.memberships
            state = memberships.get(audience)
            account = self._state.find_account(state.account)
            if account is None:
                return MemberPage((), "", state.revision)
            groups = (
                (group, memberships.members(state, group))
                for group in range(after_group(ask.after), account.groups)
            )
            return member_page(account, ask, groups, state.revision)

    def stored_contains(self, audience: str, user_ids: Sequence[str]) -> tuple[bool | None, ...]:
        """For each user whether it is a stored member; None for dirty users. Raises NotFound when the
        membership is not stored.
        """
        with self._locked():
            memberships = self._state.memberships
            state = memberships.get(audience)
            account = self._state.find_account(state.account)
            dirty = memberships.dirty(state.scope)
            flags: list[bool | None] = []
            for user_id in user_ids:
                ref = None if account is None else account.directory.find(user_id)
                if ref is None:
                    flags.append(False)
                    continue
                group, dense = ref >> GROUP_SHIFT, ref & DENSE_MASK
                is_dirty = dirty is None or dense in dirty[group]
                flags.append(None if is_dirty else dense in memberships.members(state, group))
            return tuple(flags)

    def changes(self, audience: str, after: int, limit: int) -> ChangePage:
        """Changes with a sequence above `after`, at most `limit`."""
        with self._locked():
            account = self._state.find_account(self._state.memberships.get(audience).account)
            return self._state.memberships.changes(account, audience, after, limit)

    def wait_for_changes(self, audience: str, after: int, deadline: float) -> bool:
        """Blocks until the audience has a change above `after`, is dropped or the deadline passes."""
        self._check()
        return self._state.memberships.wait(audience, after, deadline)

    def trim_changes(self, audience: str, through: int) -> None:
        """Deletes changes up to and including that sequence."""
        with self._index_lock, self._locked():
            self._state.memberships.trim(audience, through)

    def erased_through(self, audience: str, before: Micros) -> int:
        """The last change of the audience that names a user erased before an instant; 0: none."""
        with self._locked():
            return self._state.memberships.erased_through(audience, before)

    def exit_all(self, audience: str, as_of: Micros) -> Membership:
        """Empties the stored membership and records the exit of every member."""
        with self._index_lock, self._locked():
            return self._state.memberships.exit_all(audience, as_of, self._state.position)

    def drop_membership(self, audience: str) -> None:
        """Deletes the stored membership and its change log."""
        with self._index_lock, self._locked():
            self._state.memberships.drop(audience)

    def drop_scope(self, scope: str) -> None:
        """Stops tracking dirty users of a scope without stored memberships."""
        with self._locked():
            self._state.memberships.drop_scope(scope)

    # --- the store as a whole -------------------------------------------------------------------------------

    def checkpoint(self) -> int:
        """Writes everything that is only in the log to the index, trims the log, and returns the checkpointed
        revision.

        Raises LimitExceeded when the disk is full. Nothing is lost and the next checkpoint tries again.
        """
        self._check()
        return self._checkpoint()

    def _checkpoint(self) -> int:
        with self._checkpoint_lock:
            try:
                if (
                    self._purging
                    or self._compaction_needed
                    or self._state.position > self._state.checkpointed.position
                ):
                    self._write_state()
                    self._purging, self._compaction_needed = self._is_purging(), self._needs_compaction()
                checkpointed = self._state.checkpointed.position
                self._log.trim(checkpointed)
            except LimitExceeded:
                self._is_full = True
                raise
            except DataLoss as damage:
                self._checkpoint_damage = damage
                raise
            self._is_full, self._checkpoint_damage = False, None
            with suppress(LimitExceeded):
                # Merging needs disk now to save time later: the next checkpoint tries again.
                self._merge_runs()
        return checkpointed

    @property
    def _has_to_checkpoint(self) -> bool:
        """Whether a checkpoint has work: unwritten data, a log to trim, or stored rows to rewrite."""
        is_to_be_written = self._state.position > min(self._state.checkpointed.position, self._log.trimmed)
        return is_to_be_written or self._purging or self._compaction_needed

    def _is_purging(self) -> bool:
        with self._state.locked():
            return any(account.tables.is_purging for account in self._state.accounts())

    def _needs_compaction(self) -> bool:
        with self._state.locked():
            return any(account.tables.needs_compaction for account in self._state.accounts())

    def purge(self) -> None:
        """Checkpoints until no erased row is stored."""
        self._check()
        self._checkpoint()
        while self._purging:
            self._checkpoint()

    def _write_state(self) -> None:
        """Collects changes under the locks and writes them without: entries are applied and questions
        answered meanwhile.
        """
        changes = WriteBuffer()
        with self._writer.paused(), self._index_lock, self._state.locked():
            self._state.memberships.record_waiting()
            self._state.prepare(changes)
            self._writer.records_since_checkpoint = 0
        try:
            self._state.write(changes)
            with self._index_lock, self._store.index.writing() as txn:
                changes.write_to(txn)
        except BaseException:
            with self._state.locked():
                self._state.rollback()
            raise
        with self._state.locked():
            self._state.commit()

    def _merge_runs(self) -> None:
        """Merges some runs of each kind. The next checkpoint continues."""
        event_ids = self._state.event_ids
        mergeable = [(event_ids.runs, some) for some in event_ids.mergeable()]
        with self._state.locked():
            users = [account.user_index.runs for account in self._state.accounts()]
        mergeable += [(runs, runs.mergeable()) for runs in users]
        for runs, some in mergeable:
            if some:
                try:
                    with self._index_lock:
                        merged = runs.merge(some)
                except DataLoss as damage:
                    # Unmerged runs stay as they are; nothing depends on the merge.
                    _log.warning("runs are not merged any more: %s", damage.message)
                    runs.give_up(some)
                    continue
                with self._state.locked():
                    runs.merged(some, merged)
                runs.discard(some)

    def _checkpoint_now_and_then(self) -> None:
        """The background thread: checkpoints after enough records, or some time after the first."""
        since: float | None = None
        while not self._closing.wait(min(CHECKPOINT_POLL_SECONDS, self._settings.checkpoint_seconds)):
            if not self._has_to_checkpoint:
                since = None
                continue
            since = time.monotonic() if since is None else since
            is_stuck = self._is_full or self._checkpoint_damage is not None
            wait = min(self._settings.checkpoint_seconds, FULL_RETRY_SECONDS if self._is_full else math.inf)
            if (
                self._writer.records_since_checkpoint < self._settings.checkpoint_records
                and time.monotonic() - since < wait
                and (is_stuck or not self._log.is_filling)
            ):
                continue
            try:
                self._checkpoint()
            except LimitExceeded as error:
                _log.warning("nothing can be checkpointed, writes are refused: %s", error.message)
            except DataLoss as damage:
                _log.error(
                    "no checkpoint can be made; writes are refused, reads go on: %s (%s); restore a backup",
                    damage.message,
                    damage.metadata.get("key_family", "unknown family"),
                )
            except Exception:
                # The log keeps everything. The next attempt follows after another interval.
                _log.exception("checkpointing failed")
            give_back()
            since = None

    def snapshot(self, directory: Path) -> None:
        """Writes a consistent, compact copy into an empty or missing directory, while reads and writes go
        on.
        """
        self._check()
        if directory.exists() and any(directory.iterdir()):
            raise FailedPrecondition(f"{directory} is not empty", reason="DIRECTORY_NOT_EMPTY")
        self._upkeep.copy(directory, self._checkpoint_lock)

    def stats(self) -> Stats:
        """Figures about the store as a whole."""
        with self._locked():
            accounts = self._state.accounts()
            log_bytes = self._store.log.disk_bytes()
            return Stats(
                store_id=self.store_id,
                revision=self._state.position,
                users=sum(account.directory.size() for account in accounts),
                events=sum(account.tables.statistics().events for account in accounts),
                disk_bytes=self._store.index.disk_bytes() + log_bytes,
                log_bytes=log_bytes,
            )

    def figures(self, deadline: float | None = None) -> StoreFigures:
        """All figures, counted over one state of the index without blocking others."""
        self._check()
        with self._store.log.reading() as log, self._store.index.reading() as index:
            kinds = stored_kinds(log, index, self._expiry(deadline))
        checkpointed, stats = self._state.checkpointed.position, self.stats()
        return StoreFigures(
            store_id=self.store_id,
            format_version=FORMAT_VERSION,
            revision=stats.revision,
            checkpointed_revision=checkpointed,
            users=stats.users,
            events=stats.events,
            is_purging=self._is_purging(),
            kinds=kinds,
            files=(self._store.index.figures(), self._store.log.figures()),
        )

    def verify(self) -> Iterator[Finding]:
        """Reads and cross-checks everything stored. Only one verification runs at a time."""
        self._check()
        return self._upkeep.verify()

    def _expiry(self, deadline: float | None) -> Callable[[], None]:
        def check() -> None:
            self._check()
            if deadline is not None and time.monotonic() >= deadline:
                raise DeadlineExceeded("the deadline passed while the keys were counted")

        return check

    def capabilities(self) -> Capabilities:
        """All roles."""
        return Capabilities(name="local", roles=frozenset(Role))

    def close(self) -> None:
        """Checkpoints, releases the store, and wakes all waiters. Closing twice is allowed."""
        self._closing.set()
        self._catalogs.close()
        self._state.memberships.close()
        for thread in self._background:
            thread.join()
        with self._checkpoint_lock:
            if self._closed:
                return
            try:
                self._writer.close()
                self._checkpoint()
            except MilepostError as error:
                # The log holds what is not checkpointed. The next opening replays it.
                _log.warning("the store closes without a checkpoint: %s", error.message)
            finally:
                self._shut()

    def _shut(self) -> None:
        with self._catalogs.still(), self._state.locked():
            self._closed = True
        self._documents.close()
        if self._upkeep.close():
            self._store.close()
        else:
            _log.warning("close timed out: a backup or verification still holds a read transaction")


def _nobody(
    plan: Plan, ask: Count | Members | Contains, partitions: PartitionSet, revision: int
) -> Counts | MemberPage | Containment:
    """The answer for an account without data."""
    match ask:
        case Count():
            fraction = 1.0 if partitions is None else len(set(partitions)) / PARTITION_COUNT
            return Counts((0,) * len(plan.roots), revision, fraction)
        case Members():
            return MemberPage((), "", revision)
        case Contains():
            return Containment(((False,) * len(plan.roots),) * len(ask.user_ids), revision)
