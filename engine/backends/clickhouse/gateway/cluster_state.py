"""The state of a gateway: how log entries come to the cluster and to the users of accounts.

The rows of an entry are added to the cluster before anything changes here. When that fails, the entry stays
in the log as it is and is applied later, before any other; the rows that are there already are recognised by
their tokens. An entry becomes visible in one step: its revision, its users, and whom it makes dirty.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import msgspec

from engine.backends.base import Appended, EventRecord, Record
from engine.backends.clickhouse.gateway.account_rows import AccountRows, AllRows
from engine.backends.clickhouse.gateway.cluster_people import ClusterPeople
from engine.backends.clickhouse.gateway.columns import events_of, updates_of
from engine.backends.clickhouse.gateway.profiles import Profiles
from engine.backends.clickhouse.mapped import MappedTable, Reach
from engine.backends.clickhouse.rows import Batch, Meaning, batch_of, id_rows, joined, seen_rows
from engine.backends.clickhouse.tables import IDS, SEEN
from engine.backends.clickhouse.view import View
from engine.backends.clickhouse.writer import Entry, Move, Writer
from engine.backends.local.account.updates import Item, Shown
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage.dedupe import event_digests
from engine.backends.local.storage.store import Store
from engine.backends.local.storage.transactions import Writable
from engine.backends.local.storage.user_ref import UserRef
from engine.backends.local.storage.write_ahead_log import (
    AliasEntry,
    AppendEntry,
    BatchEntry,
    FollowEntry,
    ForgetEntry,
    ImportEntry,
    MapEntry,
    MappingEntry,
    SharedEntry,
    UnmapEntry,
    UserImportEntry,
    rows_of,
)
from engine.backends.local.write.state import CheckpointingPart, NotApplied, State, stamp_of
from engine.errors import MilepostError
from engine.values import Micros


class _Watched(NamedTuple):
    """Members whose watched values a write concerns, by ref, and the values that are watched."""

    items: frozenset[Item]
    users: Mapping[UserRef, str]


class _Share:
    """What one account takes of an entry. Call with the state lock held, except `rows`."""

    def __init__(self, account: ClusterPeople) -> None:
        self.account = account
        self.batches: dict[int, BatchEntry] = {}
        """By place in the entry."""
        self.records: list[Record] = []
        """Those of all its batches, in order."""
        self.taken: list[Record] = []
        """Those that are no duplicates."""
        self._owners: dict[str, str] = {}

    def add(self, place: int, batch: BatchEntry) -> None:
        """One more batch."""
        self.batches[place] = batch
        self.records += _records_of(batch)

    def take(self, repeated: Sequence[bool]) -> None:
        """Says which records are duplicates."""
        records = zip(self.records, repeated, strict=True)
        self.taken = [record for record, is_repeated in records if not is_repeated]
        canonical = self.account.directory.canonical
        self._owners = {user: canonical(user) for user in {each.user_id for each in self.taken}}

    def rows(self, revision: int, first_seq: int) -> Batch:
        """The rows of what it takes."""
        return batch_of(
            self.account.name,
            self.taken,
            revision=revision,
            first_seq=first_seq,
            owner=self._owners.__getitem__,
        )

    def watched(self) -> _Watched:
        """The members whose watched values it concerns."""
        return _watched(self.account, self.account.watched_members(self.taken))


class ClusterState(State[ClusterPeople]):
    """The in-memory state of one gateway."""

    def __init__(
        self, store: Store, settings: LocalSettings, check: Callable[[], None], profiles: Profiles
    ) -> None:
        """`check` raises when the store is closed or has failed. `writer` is to be set."""
        super().__init__(store, settings, check, ClusterPeople)
        self.writer: Writer
        self.inserts = 0
        """Entries added to the cluster since the last checkpoint."""
        self._profiles = profiles
        self._moved_values: Mapping[UserRef, tuple[Shown, Shown]] = {}
        """Of the alias that is being applied."""
        with store.index.reading() as txn:
            self.rows = AllRows(txn)
        self._views: dict[int, int] = {}
        """By read that is under way, how many had begun before."""
        self._views_begun = 0
        self._views_lock = threading.Lock()

    # --- views ----------------------------------------------------------------------------------------------

    def view(self, account: str) -> View:
        """What counts now. Call with the state lock held."""
        return self.rows.of(account).view(account, self.position)

    @contextmanager
    def viewing(self, account: str, deadline: float | None = None) -> Iterator[View]:
        """What counts at the beginning of the block. Nothing of it is swept before its end."""
        with self.locked(deadline):
            self.check_account(account)
            view = self.view(account)
            number = self._begin_view()
        try:
            yield view
        finally:
            self._end_view(number)

    @contextmanager
    def viewing_locked(self, account: str) -> Iterator[View]:
        """As `viewing`. Call with the state lock held, which may be let go within the block."""
        number = self._begin_view()
        try:
            yield self.view(account)
        finally:
            self._end_view(number)

    def _begin_view(self) -> int:
        with self._views_lock:
            self._views_begun += 1
            self._views[self._views_begun] = self._views_begun
            return self._views_begun

    def _end_view(self, number: int) -> None:
        with self._views_lock:
            del self._views[number]

    def views_begun(self) -> int:
        """How many views have begun. Needs no lock."""
        return self._views_begun

    def have_ended(self, begun: int) -> bool:
        """Whether no view is used any more of the first ones that began."""
        with self._views_lock:
            return all(number > begun for number in self._views)

    # --- batches -------------------------------------------------------------------------------------------

    def _take_batch(self, position: int, entry: BatchEntry) -> Appended:
        (answer,) = self._take(position, entry, [entry])
        return answer

    def _take_shared(self, position: int, entry: SharedEntry) -> tuple[Appended, ...]:
        return self._take(position, entry, entry.batches)

    def _take(
        self, position: int, entry: BatchEntry | SharedEntry, batches: Sequence[BatchEntry]
    ) -> tuple[Appended, ...]:
        """Adds what is new of batches by one insert into each table and shard, and makes it visible."""
        answers: dict[int, Appended] = {}
        with self.locked():
            shares = self._shares(entry, batches, answers)
            first_seq = self._sequence + 1
            if not shares:
                self._reach(position, entry)
                return tuple(answers.values())
        rows = []
        for share in shares:
            rows.append(share.rows(position, first_seq))
            first_seq += len(share.taken)
        self._add(joined(rows))
        for watched in self._until_unchanged(lambda: [share.watched() for share in shares]):
            shown = [
                self._shown(position, share.account, each)
                for share, each in zip(shares, watched, strict=True)
            ]
            with self.locked():
                if [share.watched() for share in shares] != watched:
                    continue
                for share, each in zip(shares, shown, strict=True):
                    answers |= self._take_share(position, entry, share, each)
                self._reach(position, entry)
                return tuple(answers[place] for place in range(len(batches)))
        raise AssertionError("the last turn has answered")

    def _shares(
        self, entry: BatchEntry | SharedEntry, batches: Sequence[BatchEntry], answers: dict[int, Appended]
    ) -> list[_Share]:
        """What each account takes of the batches, without requests that have an answer: that is added to
        `answers`.
        """
        shares: dict[str, _Share] = {}
        for place, batch in enumerate(batches):
            first = self._first_answer(batch)
            if first is not None:
                answers[place] = first
                continue
            if batch.account not in shares:
                shares[batch.account] = _Share(self._account(batch.account))
            shares[batch.account].add(place, batch)
        for share in shares.values():
            share.take(self._repeated(share.account, entry, share.records, take=False))
        return list(shares.values())

    def _take_share(
        self,
        position: int,
        entry: BatchEntry | SharedEntry,
        share: _Share,
        shown: Mapping[UserRef, tuple[Shown, Shown]],
    ) -> dict[int, Appended]:
        """Applies what an account takes, and returns the answer to each of its batches."""
        account, taken = share.account, share.taken
        repeated = self._repeated(account, entry, share.records, take=True)
        touched = account.apply(taken, (False,) * len(taken), self._sequence)
        self._sequence += len(taken)
        self.rows.put(account.name, self.rows.of(account.name).added(taken))
        _notice(account, shown)
        self.memberships.mark_dirty(account.name, touched)
        answers, flags = {}, iter(repeated)
        for place, batch in share.batches.items():
            count = rows_of(batch)
            duplicates = sum(itertools.islice(flags, count))
            answers[place] = self._answered(position, batch, account, count, duplicates)
        return answers

    def _until_unchanged(self, watched: Callable[[], list[_Watched]]) -> Iterator[list[_Watched]]:
        """What is watched, again and again."""
        while True:
            with self.locked():
                found = watched()
            yield found

    def _repeated(
        self,
        account: ClusterPeople,
        entry: BatchEntry | SharedEntry,
        records: Sequence[Record],
        *,
        take: bool,
    ) -> list[bool]:
        """For each record whether it is a duplicate event; with `take` its id is known from now on."""
        at = [n for n, record in enumerate(records) if type(record) is EventRecord and record.event_id]
        repeated = [False] * len(records)
        if not at:
            return repeated
        events = [record for n in at if type(record := records[n]) is EventRecord]
        inputs = [account.inputs.number(event.input) for event in events]
        digests = event_digests(account.number, inputs, [event.event_id for event in events])
        if take:
            newest = max(event.time for event in events)
            known = self.event_ids.take(account.number, digests, newest, stamp_of(entry))
        else:
            known = self.event_ids.repeated(account.number, digests, stamp_of(entry))
        for n, is_known in zip(at, known, strict=True):
            repeated[n] = is_known
        return repeated

    def _add(self, entry: Entry) -> None:
        """Adds rows to the cluster. Raises NotApplied."""
        try:
            self.writer.add(entry)
        except MilepostError as error:
            raise NotApplied(
                f"the write is logged, and is applied once the cluster takes it: {error.message}"
            ) from error
        self.inserts += 1

    # --- opted-in values ------------------------------------------------------------------------------------

    def _shown(
        self, position: int, account: ClusterPeople, watched: _Watched
    ) -> dict[UserRef, tuple[Shown, Shown]]:
        """The watched values of users before and after a write whose rows are there but not visible yet."""
        if not watched.users:
            return {}
        try:
            with self.viewing(account.name) as view:
                before = self._profiles.shown(view, watched.users.values(), watched.items)
                then = View(account=view.account, revision=position, cuts=view.cuts)
                after = self._profiles.shown(then, watched.users.values(), watched.items)
        except MilepostError as error:
            raise NotApplied(
                f"the write is logged, and is applied once the cluster can be read: {error.message}"
            ) from error
        return {ref: (before[user], after[user]) for ref, user in watched.users.items()}

    # --- tables of others -----------------------------------------------------------------------------------

    def _take_mapping(self, position: int, entry: MappingEntry) -> Appended:
        match entry:
            case MapEntry():
                self._map(position, entry)
            case UnmapEntry():
                self._unmap(position, entry)
            case FollowEntry():
                self._follow(position, entry)
        return Appended(position, 0, 0)

    def _map(self, position: int, entry: MapEntry) -> None:
        with self.locked():
            account = self._account(entry.account)
            known = self.rows.of(account.name).known_table(entry.input)
            if known is not None and known.table == entry.table:
                # It goes on where it was.
                known = msgspec.structs.replace(
                    known, is_on=True, columns=entry.columns, settle_s=entry.settle_s
                )
                self._switch(position, account, known, entry)
                return
            aliases = account.directory.all_aliases()
        mapped = MappedTable(
            source=position,
            input=entry.input,
            table=entry.table,
            columns=entry.columns,
            settle_s=entry.settle_s,
        )
        meanings = [Meaning(alias, owner, (owner,)) for alias, owner in aliases.items()]
        self._add_ids(position, account.name, [mapped], meanings)
        mapped = msgspec.structs.replace(mapped, has_ids=bool(aliases))
        with self.locked():
            self._change(account.name, lambda rows: rows.with_table(mapped))
            self._reach(position, entry)

    def _unmap(self, position: int, entry: UnmapEntry) -> None:
        with self.locked():
            account = self._account(entry.account)
            known = self.rows.of(account.name).table_of(entry.input)
            if known is None:
                self._reach(position, entry)
            else:
                self._switch(position, account, msgspec.structs.replace(known, is_on=False), entry)

    def _switch(
        self, position: int, account: ClusterPeople, mapped: MappedTable, entry: MapEntry | UnmapEntry
    ) -> None:
        """What was followed of a table counts from now on, or no more. Call with the state lock held."""
        self._change(account.name, lambda rows: rows.with_table(mapped))
        self.memberships.mark_all_dirty(account.name, account.users_of(mapped.input))
        self._reach(position, entry)

    def _follow(self, position: int, entry: FollowEntry) -> None:
        """Users become known and dirty, and more rows count, in one step."""
        reach = Reach(entry.mark, entry.partition)
        with self.locked():
            account, mapped = self._account(entry.account), self._mapped(entry.account, entry.source)
            # An entry whose writer was told to wait may be logged once more.
            is_known = mapped is not None and reach <= mapped.reach
            if mapped is None or not mapped.is_on or (is_known and entry.gives == "more"):
                self._reach(position, entry)
                return
            owner = account.directory.canonical
            seen = seen_rows(
                account.name,
                mapped.input,
                ((owner(user.user_id), user.first, user.last) for user in entry.users),
                position,
            )
        if seen.rows[SEEN]:
            self._add(seen)
        with self.locked():
            touched = account.follow(mapped.input, entry)
            mapped = msgspec.structs.replace(mapped, reach=reach, rows=entry.rows, events=entry.events)
            self._change(account.name, lambda rows: rows.followed(mapped, entry))
            self.memberships.mark_dirty(account.name, touched)
            if entry.gives == "anew":
                # Also those whose rows are gone.
                self.memberships.mark_all_dirty(account.name, account.users_of(mapped.input))
            self._reach(position, entry)

    def _mapped(self, account: str, source: int) -> MappedTable | None:
        return next((each for each in self.rows.of(account).mapped if each.source == source), None)

    def _add_ids(
        self, position: int, account: str, mapped: Sequence[MappedTable], meanings: Sequence[Meaning]
    ) -> None:
        """Adds what ids mean in tables of others from a revision on."""
        rows = id_rows(account, mapped, meanings, position)
        if rows.rows[IDS]:
            self._add(rows)

    def _with_ids(self, account: str) -> None:
        """`ids` says something of users from now on. Call with the state lock held."""
        rows = self.rows.of(account)
        for each in rows.mapped:
            rows = rows.with_table(msgspec.structs.replace(each, has_ids=True))
        self.rows.put(account, rows)

    def _erasing(self, position: int, account: ClusterPeople, user_ids: Sequence[str]) -> None:
        with self.locked():
            mapped = self.rows.of(account.name).mapped
            if not mapped:
                return
            directory = account.directory
            meanings = [
                Meaning(each, "", (user_id,), is_cut=True)
                for user_id in user_ids
                if (aliases := directory.aliases(user_id)) or directory.find(user_id) is not None
                for each in (user_id, *aliases)
            ]
            if meanings:
                self._with_ids(account.name)
        self._add_ids(position, account.name, mapped, meanings)

    def _forgot(self, entry: ForgetEntry) -> None:
        covered = f"{entry.name}/"
        if self.rows.of(entry.account).mapped:
            self._change(
                entry.account, lambda rows: rows.without_tables(lambda each: f"{each}/".startswith(covered))
            )

    # --- other entries --------------------------------------------------------------------------------------

    def _move(self, position: int, account: ClusterPeople, entry: AliasEntry) -> None:
        with self.locked():
            target = account.directory.canonical(entry.to_user_id)
            view = self.view(account.name)
            ids = None
            if mapped := self.rows.of(account.name).mapped:
                source = entry.from_user_id
                meanings = [
                    Meaning(each, target, (source, target))
                    for each in (source, *account.directory.aliases(source))
                ]
                ids = id_rows(account.name, mapped, meanings, position)
                self._with_ids(account.name)
            has_data = account.directory.find(entry.from_user_id) is not None
            watched = _Watched(account.watched_items, account.watched_user(target))
        if not has_data:
            if ids is not None:
                self._add(ids)
            return
        self._add(Move(revision=position, source=entry.from_user_id, target=target, view=view, ids=ids))
        # Nobody opts in while an entry is applied, and who becomes a member meanwhile is among these.
        self._moved_values = self._shown(position, account, watched)

    def _moved(self, position: int, account: ClusterPeople, entry: AliasEntry) -> None:
        self._retired(position, account, [entry.from_user_id])
        _notice(account, self._moved_values)

    def _retired(self, position: int, account: ClusterPeople, users: Collection[str]) -> None:
        self._change(account.name, lambda rows: rows.cut(users, position))

    def _removed(self, position: int, account: ClusterPeople, before: Micros) -> None:
        self._change(account.name, lambda rows: rows.removed(before, position))

    def _change(self, account: str, change: Callable[[AccountRows], AccountRows]) -> None:
        self.rows.put(account, change(self.rows.of(account)))

    # --- checkpointing --------------------------------------------------------------------------------------

    @property
    def has_unlogged_changes(self) -> bool:
        """Whether cuts were swept or a base was switched to."""
        return bool(self.rows.fresh)

    def prepare(self) -> None:
        """Collects what is not in the index."""
        super().prepare()
        self.rows.prepare()
        self.inserts = 0

    def write(self, txn: Writable, pause: Callable[[], None]) -> None:
        """Writes what `prepare` collected."""
        self.rows.write(txn)
        super().write(txn, pause)

    def _checkpointing_parts(self) -> list[CheckpointingPart]:
        return [*super()._checkpointing_parts(), self.rows]


def _records_of(entry: BatchEntry) -> Sequence[Record]:
    match entry:
        case AppendEntry(records=records):
            return records
        case ImportEntry(columns=columns):
            return events_of(columns)
        case UserImportEntry(columns=updates):
            return updates_of(updates)


def _watched(account: ClusterPeople, users: Mapping[UserRef, str]) -> _Watched:
    return _Watched(account.watched_items, users)


def _notice(account: ClusterPeople, shown: Mapping[UserRef, tuple[Shown, Shown]]) -> None:
    for ref, (before, after) in shown.items():
        account.notice(ref, before, after)
