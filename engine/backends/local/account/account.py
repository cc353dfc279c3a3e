"""One account's data: its users, fields and events, and how log entries change them.

Everything here depends only on the order of the log: no clock and no randomness. So a replay reaches the same
state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import xxhash
from pyroaring import BitMap

from engine.backends.base import EventRecord, NameSpan, Profile, Record, UserRecord
from engine.backends.local.account.caches import AccountCaches
from engine.backends.local.account.name_catalog import Catalog
from engine.backends.local.account.people import NOBODY, People
from engine.backends.local.account.readers import ANY_TIME, DataTimes, Readers, Reading, Touched
from engine.backends.local.account.updates import Item, Shown
from engine.backends.local.attributes.index import Properties, Write
from engine.backends.local.attributes.user_writes import FieldColumn, UserRows, field_columns, write_columns
from engine.backends.local.events import (
    ArrivedRows,
    ColumnNumbers,
    EventRow,
    EventTables,
    RowUsers,
    Table,
)
from engine.backends.local.storage.bitmaps import bitmap_of
from engine.backends.local.storage.bulk_hash import hashes_of
from engine.backends.local.storage.name_table import (
    FieldKind,
    Names,
    field_name,
    field_of,
    workspace_of,
)
from engine.backends.local.storage.page_cache import PageCache
from engine.backends.local.storage.step_cache import ANY_NAME, ReadKey, StepCache
from engine.backends.local.storage.store import Store
from engine.backends.local.storage.transactions import Writable
from engine.backends.local.storage.user_ref import DENSE_MASK, GROUP_SHIFT, UserRef, UserRefs
from engine.criteria.model import ConsentState
from engine.event_columns import EventColumns
from engine.user_columns import UserColumns
from engine.values import Micros, Value


class Account(People):
    """The state of one account. Call with the state lock held, inside a session of the page cache."""

    def __init__(
        self,
        store: Store,
        page_cache: PageCache,
        caches: AccountCaches,
        names: Names,
        name: str,
        readers: Readers,
    ) -> None:
        """`readers`: which scopes read what of the account."""
        super().__init__(store, page_cache, caches, names, name, readers)
        self.properties = Properties(page_cache, self.number, caches.terms, caches.flat_columns)
        self.tables = EventTables(store, self.number, store.groups, caches.columns)
        self.catalog = Catalog(
            self.groups,
            self.inputs,
            self.events,
            self.event_attributes,
            self.fields,
            self.tables,
            self.properties,
        )
        self.cache = StepCache(caches.steps)
        self._buckets = caches.buckets
        self._sought: dict[UserRef, list[Table]] = {}
        """The tables with events of a user that is about to become an alias."""

    @property
    def is_purging(self) -> bool:
        """Whether removed rows are still to be rewritten."""
        return self.tables.is_purging

    @property
    def needs_compaction(self) -> bool:
        """Whether a checkpoint has parts to merge."""
        return self.tables.needs_compaction

    # --- what the log says ---

    def _put(self, records: Sequence[Record], refs: Sequence[UserRef], sequence: int) -> None:
        self.properties.begin()
        rows: list[EventRow] = []
        changed: set[ReadKey] = set()
        noticing = self._noticing()
        for record, ref in zip(records, refs, strict=True):
            sequence += 1
            if type(record) is EventRecord:
                row = self._row(record, ref, self.inputs.number(record.input), sequence)
                rows.append(row)
                changed.add(("events", row.input_number, row.name_number, row.group))
            elif type(record) is UserRecord:
                if noticing is not None and self._writes_watched(record):
                    noticing.before(ref)
                self.properties.write(ref, self._writes(record, sequence))
        if noticing is not None:
            noticing.after()
        self.tables.add(rows)
        self._touch(changed)

    def apply_columns(self, columns: EventColumns, sequence: int, yield_lock: Callable[[], None]) -> Touched:
        """Applies events that arrive as columns; the first has the arrival sequence number after `sequence`.
        Returns the touched users. Calls `yield_lock` from time to time, which may let others read.
        """
        self.seen.begin()
        counts = list(self.directory.counts)
        refs = self.directory.refs(columns.user_ids.entries)
        users = RowUsers(refs, columns.user_ids.codes)
        input_numbers = [self.inputs.number(name) for name in columns.inputs.entries]
        by_input = self._see(users, input_numbers, columns)
        touched = _united(by_input.values())
        self.watches.changed(touched)
        yield_lock()
        # Readers in between have seen half of it.
        self.watches.changed(touched)
        numbers = ColumnNumbers(
            inputs=input_numbers,
            names=[self.events.number(name) for name in columns.names.entries],
            attributes=[self._attribute_numbers[column.name] for column in columns.attributes],
        )
        arrived = ArrivedRows(columns, users, numbers, sequence)
        self.tables.add_columns(arrived)
        changed: set[ReadKey] = {("events", *table) for table in arrived.tables()}
        self._touch(changed)
        # Scopes may have come to read more while others had the lock.
        reading = None if self._readers.are_none else Reading(self._readers)
        if reading is not None:
            reading.events(columns, users.row_refs)
        times = columns.times
        spread = DataTimes(int(times.min()), int(times.max())) if len(times) else ANY_TIME
        return self._touched(reading, touched, counts, spread, first=by_input, last=by_input)

    def apply_user_columns(self, columns: UserColumns, sequence: int) -> Touched:
        """As `apply_columns`, for user updates."""
        self.seen.begin()
        self.properties.begin()
        counts = list(self.directory.counts)
        users = RowUsers(self.directory.refs(columns.user_ids.entries), columns.user_ids.codes)
        by_input = self._see(users, [self.inputs.number(name) for name in columns.inputs.entries], columns)
        refs = users.row_refs
        is_new = (refs & DENSE_MASK) >= np.array(counts)[refs >> GROUP_SHIFT]
        rows = UserRows(refs, columns.times, sequence, is_new)
        writes = list(field_columns(columns, self._field))
        noticing = self._noticing()
        if noticing is not None:
            for ref in self._refs_of_watched(writes, refs):
                noticing.before(ref)
        write_columns(self.properties, rows, writes)
        if noticing is not None:
            noticing.after()
        self._touch(set())
        touched = _united(by_input.values())
        self.watches.changed(touched)
        reading = None if self._readers.are_none else Reading(self._readers)
        if reading is not None:
            reading.updates(writes, self._fields_read(), refs)
        return self._touched(reading, touched, counts, ANY_TIME, first=by_input, last=by_input)

    # --- opted-in values ---

    def _refs_of_watched(self, writes: Iterable[FieldColumn], refs: UserRefs) -> list[UserRef]:
        """The users with a write to a watched value."""
        items = self._readers.updates.items
        rows = [each.rows for each in writes if self._item(each.field)[0] in items]
        return np.unique(refs[np.concatenate(rows)]).tolist() if rows else []

    def _shown(self, ref: UserRef) -> Shown:
        """The watched values of a user; of an attribute in several workspaces the one written last."""
        latest: dict[Item, tuple[Micros, str, Value]] = {}
        for field, (time, _, value) in self.properties.profile(ref).items():
            item, workspace = self._item(field)
            if value is None or item not in self._readers.updates.items:
                continue
            known = latest.get(item)
            # Of equal times the first workspace by name, as in what is delivered.
            if known is None or (time, known[1]) > (known[0], workspace):
                latest[item] = time, workspace, value
        return {item: value for item, (_, _, value) in latest.items()}

    def _fields_read(self) -> dict[int, set[str]]:
        """The scopes that read fields, by number."""
        found = ((self.fields.find(field_name(*field)), field) for field in self._readers.fields)
        return {number: self._readers.fields[field] for number, field in found if number is not None}

    def _see(
        self, users: RowUsers, input_numbers: Sequence[int], columns: EventColumns | UserColumns
    ) -> dict[int, dict[int, BitMap]]:
        """Records when the inputs had data for users; returns the users by input and group."""
        seen: dict[int, dict[int, BitMap]] = {}
        for entry, input_number in enumerate(input_numbers):
            rows = None if len(input_numbers) == 1 else np.flatnonzero(columns.inputs.codes == entry)
            for group, ids, first, last in users.spans(columns.times, rows):
                self.seen.saw_many(input_number, group, ids, first, last)
                by_group_ = seen.setdefault(input_number, {})
                by_group_[group] = by_group_.get(group, NOBODY) | bitmap_of(ids)
        return seen

    def _row(self, record: EventRecord, ref: UserRef, input_number: int, sequence: int) -> EventRow:
        numbers = self._attribute_numbers
        return EventRow(
            ref >> GROUP_SHIFT,
            ref & DENSE_MASK,
            input_number,
            self.events.number(record.name),
            record.type,
            record.time,
            sequence,
            {numbers[name]: value for name, value in record.attributes.items()},
        )

    def _writes(self, record: UserRecord, sequence: int) -> Iterable[tuple[int, Write]]:
        workspace = workspace_of(record.input)
        time = record.time
        for name, value in record.attributes.items():
            yield self._field(FieldKind.ATTRIBUTE, workspace, name), (time, sequence, value)
        for kind, identity in record.identities.items():
            yield self._field(FieldKind.IDENTITY, kind), (time, sequence, identity)
        for (regulation, purpose), state in record.consents.items():
            yield self._field(FieldKind.CONSENT, regulation, purpose), (time, sequence, state.value)

    def _touch(self, changed: set[ReadKey]) -> None:
        """Invalidates cached answers that read what changed."""
        changed |= {("events", number, ANY_NAME, group) for _, number, _, group in changed}
        changed |= self.properties.touched
        changed |= self.seen.touched
        changed |= self.directory.touched
        self.cache.touch(changed)
        for touched in (self.properties.touched, self.seen.touched, self.directory.touched):
            touched.clear()

    def _touch_all(self) -> None:
        super()._touch_all()
        self.cache.clear()

    def seek(self, user_id: str, yield_lock: Callable[[], None]) -> None:
        """Finds the events of a user that is about to become an alias, and calls `yield_lock` meanwhile. No
        other entry may be applied until it is one.
        """
        ref = self.directory.find(user_id)
        if ref is not None:
            tables = self.tables.tables_with(ref >> GROUP_SHIFT, ref & DENSE_MASK, yield_lock)
            self._sought = {ref: tables}

    def _take(self, ref: UserRef) -> Callable[[UserRef], None]:
        writes = self.properties.take(ref)
        tables, self._sought = self._sought.get(ref), {}

        def give(after: UserRef) -> None:
            rows = self.tables.extract(ref >> GROUP_SHIFT, ref & DENSE_MASK, tables)
            for row in rows:
                row.group, row.user = after >> GROUP_SHIFT, after & DENSE_MASK
            self.tables.add(rows)
            self.properties.begin()
            noticing = self._noticing()
            if noticing is not None:
                noticing.before(after)
            self.properties.write(after, writes.items())
            if noticing is not None:
                noticing.after()

        return give

    def remove_events_of(self, users: Mapping[int, BitMap], yield_lock: Callable[[], None]) -> None:
        for group, dense in users.items():
            self.tables.remove_users(group, np.array(dense, np.uint32), yield_lock)
        self.cache.clear()
        self.watches.changed(users)

    def remove_events(self, before: Micros, names: NameSpan | None, yield_lock: Callable[[], None]) -> None:
        removed = self.tables.remove_before(before, names, yield_lock)
        self._touch({("events", *table) for table in removed})
        self.watches.changed_for_all()

    def _drop_input(self, number: int) -> None:
        self.tables.drop(number)

    # --- profiles and names ---

    def profile(self, user_id: str) -> Profile | None:
        """The profile of a user: everything except its events."""
        canonical = self.directory.canonical(user_id)
        ref = self.directory.find(canonical)
        if ref is None:
            return None
        attributes: dict[str, dict[str, tuple[Micros, Value]]] = {}
        identities: dict[str, tuple[Micros, str]] = {}
        consents: dict[tuple[str, str], tuple[Micros, ConsentState]] = {}
        for number, (time, _, value) in sorted(self.properties.profile(ref).items()):
            if value is None:
                continue
            field = field_of(self.fields.names[number])
            match field.kind:
                case FieldKind.ATTRIBUTE:
                    attributes.setdefault(field.scope, {})[field.key] = (time, value)
                case FieldKind.IDENTITY:
                    identities[field.scope] = (time, str(value))
                case FieldKind.CONSENT:
                    consents[field.scope, field.key] = (time, ConsentState(str(value)))
        seen = {name: self.seen.times(number, ref) for name, number in self.inputs.numbers.items()}
        return Profile(
            user_id=canonical,
            seen={name: times for name, times in seen.items() if times is not None},
            attributes=attributes,
            identities=identities,
            consents=consents,
        )

    def bucket_column(
        self, group: int, salt: str, pause: Callable[[], None] = lambda: None
    ) -> npt.NDArray[np.uint64]:
        """`bucket_of(salt, user id)` of every dense id of a group that was given before the call."""
        cache_key = self.number, group, salt
        column = self._buckets.get(cache_key)
        known = 0 if column is None else len(column)
        count = self.directory.counts[group]
        if column is None or known < count:
            prefix = bucket_prefix(salt)
            pieces = [] if column is None else [column]
            for joined, ends in self.directory.joined_user_ids(group, known, count):
                pieces.append(hashes_of(prefix, joined, ends))
                pause()
            column = np.concatenate(pieces) if pieces else np.empty(0, np.uint64)
            self._buckets.put(cache_key, column, column.nbytes + len(salt))
        return column

    # --- checkpointing ---

    def prepare(self) -> None:
        super().prepare()
        self.properties.prepare()
        self.tables.freeze()

    def stage_next(self) -> bool:
        return self.tables.stage_next()

    def write(self, txn: Writable, pause: Callable[[], None]) -> None:
        super().write(txn, pause)
        self.tables.write(txn, pause)

    def settle_next(self) -> bool:
        return self.properties.settle_next() or self.tables.settle_next()

    def rollback(self) -> None:
        """Takes back a checkpoint that did not commit. The event tables detect that themselves."""
        super().rollback()
        self.properties.rollback()


def _united(parts: Iterable[Mapping[int, BitMap]]) -> dict[int, BitMap]:
    """The users of all parts, by group."""
    united: dict[int, BitMap] = {}
    for part in parts:
        for group, users in part.items():
            united[group] = united.get(group, NOBODY) | users
    return united


def bucket_hashes(salt: str, user_ids: Sequence[str]) -> npt.NDArray[np.uint64]:
    """`engine.values.bucket_of` of many users."""
    prefix = bucket_prefix(salt)
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter((digest(prefix + u.encode()) for u in user_ids), np.uint64, len(user_ids))


def bucket_prefix(salt: str) -> bytes:
    """What is hashed before the id of a user."""
    return salt.encode() + b"\0"
