"""One account's data: its users, fields and events, and how log entries change them.

Everything here depends only on the order of the log: no clock and no randomness. So a replay reaches the same
state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import xxhash
from pyroaring import BitMap

from engine.backends.base import EventRecord, Profile, Record, UserRecord
from engine.backends.local.account.caches import AccountCaches
from engine.backends.local.account.forgotten_keys import keys_of_field, keys_of_input
from engine.backends.local.account.name_catalog import Catalog
from engine.backends.local.account.readers import ANY_TIME, DataTimes, Readers, Reading, Touched
from engine.backends.local.account.updates import Item, Noticing, Shown
from engine.backends.local.account.watches import Watches
from engine.backends.local.attributes.index import Properties, Write
from engine.backends.local.attributes.user_writes import FieldColumn, UserRows, field_columns, write_columns
from engine.backends.local.events import (
    ArrivedRows,
    ColumnNumbers,
    EventRow,
    EventTables,
    RowUsers,
)
from engine.backends.local.storage.bitmaps import bitmap_of
from engine.backends.local.storage.bulk_hash import hashes_of
from engine.backends.local.storage.name_table import (
    NO_ACCOUNT,
    FieldKind,
    Names,
    NameSpace,
    Space,
    field_name,
    field_of,
    workspace_of,
)
from engine.backends.local.storage.page_cache import PageCache
from engine.backends.local.storage.step_cache import ANY_NAME, ReadKey, StepCache
from engine.backends.local.storage.store import Store
from engine.backends.local.storage.transactions import Writable
from engine.backends.local.storage.user_ref import DENSE_MASK, GROUP_SHIFT, UserRef, UserRefs
from engine.backends.local.users.directory import Directory, by_group
from engine.backends.local.users.first_last_seen import FirstLastSeen
from engine.backends.local.users.hash_table import UNKNOWN
from engine.backends.local.users.id_index import UserIndex
from engine.criteria.model import ConsentState
from engine.errors import FailedPrecondition
from engine.event_columns import EventColumns
from engine.user_columns import UserColumns
from engine.values import Micros, Value

_NOBODY = BitMap(optimize=False)


class _EventAttributes(dict[str, int]):
    """Attribute name → number, numbering new names on first use."""

    def __init__(self, space: NameSpace) -> None:
        super().__init__(space.numbers)
        self._space = space

    def __missing__(self, name: str) -> int:
        number = self[name] = self._space.number(name)
        return number


class Account:
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
        self.name = name
        self._readers = readers
        self.number = names.space(Space.ACCOUNT, NO_ACCOUNT).number(name)
        self.groups = store.groups
        self.inputs = names.space(Space.INPUT, self.number)
        self.events = names.space(Space.EVENT, self.number)
        self.event_attributes = names.space(Space.EVENT_ATTRIBUTE, self.number)
        self.fields = names.space(Space.FIELD, self.number)
        self.user_index = UserIndex(store.index, self.number, store.seed)
        self.directory = Directory(
            page_cache, self.user_index, self.number, store.partitions, caches.partition_sets
        )
        self.seen = FirstLastSeen(page_cache, self.number, caches.flat_columns)
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
        self.watches = Watches()
        self._attribute_numbers = _EventAttributes(self.event_attributes)
        self._field_numbers: dict[tuple[FieldKind, str, str], int] = {}
        self._buckets = caches.buckets

    # --- what the log says ---

    def apply(self, records: Sequence[Record], repeated: Sequence[bool], sequence: int) -> Touched:
        """Applies records in order, except those flagged as repeated; the first has the arrival sequence
        number after `sequence`. Returns the touched users.
        """
        self.seen.begin()
        self.properties.begin()
        rows: list[EventRow] = []
        touched: set[UserRef] = set()
        changed: set[ReadKey] = set()
        taken = [record for record, is_repeated in zip(records, repeated, strict=True) if not is_repeated]
        counts = list(self.directory.counts)
        refs = self.directory.refs([record.user_id for record in taken]).tolist()
        reading = None if self._readers.are_none else Reading(self._readers)
        noticing = self._noticing()
        for record, ref in zip(taken, refs, strict=True):
            sequence += 1
            touched.add(ref)
            input_number = self.inputs.number(record.input)
            self.seen.saw(input_number, ref, record.time)
            if type(record) is EventRecord:
                row = self._row(record, ref, input_number, sequence)
                rows.append(row)
                changed.add(("events", input_number, row.name_number, row.group))
                if reading is not None:
                    reading.event(record, ref)
            elif type(record) is UserRecord:
                if noticing is not None and self._writes_watched(record):
                    noticing.before(ref)
                self.properties.write(ref, self._writes(record, sequence))
                if reading is not None:
                    reading.update(record, ref)
        if noticing is not None:
            noticing.after()
        self.tables.add(rows)
        self._touch(changed)
        users = by_group(touched)
        self.watches.changed(users)
        seen: dict[int, set[UserRef]] = {}
        for record, ref in zip(taken, refs, strict=True) if self._readers.last_seen else ():
            seen.setdefault(self.inputs.number(record.input), set()).add(ref)
        last = {number: by_group(some) for number, some in seen.items()}
        are_events = not any(type(record) is UserRecord for record in taken)
        times = [record.time for record in taken] if are_events else []
        spread = DataTimes(min(times), max(times)) if times else ANY_TIME
        return self._touched(reading, users, counts, spread, first={}, last=last)

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

    def _noticing(self) -> Noticing | None:
        """Compares opted-in values before and after a write; None when none are watched."""
        updates = self._readers.updates
        return Noticing(updates, self._shown, self._readers.log_position) if updates.items else None

    def _writes_watched(self, record: UserRecord) -> bool:
        items = self._readers.updates.items
        return any((FieldKind.ATTRIBUTE, key) in items for key in record.attributes) or any(
            (FieldKind.IDENTITY, kind) in items for kind in record.identities
        )

    def _refs_of_watched(self, writes: Iterable[FieldColumn], refs: UserRefs) -> list[UserRef]:
        """The users with a write to a watched value."""
        items = self._readers.updates.items
        rows = [each.rows for each in writes if self._item(each.field)[0] in items]
        return np.unique(refs[np.concatenate(rows)]).tolist() if rows else []

    def _item(self, field: int) -> tuple[Item, str]:
        """What a field is of, and its workspace."""
        found = field_of(self.fields.names[field])
        if found.kind is FieldKind.ATTRIBUTE:
            return (found.kind, found.key), found.scope
        return (found.kind, found.scope), ""

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

    def _touched(
        self,
        reading: Reading | None,
        users: dict[int, BitMap],
        counts: Sequence[int],
        times: DataTimes,
        *,
        first: Mapping[int, Mapping[int, BitMap]],
        last: Mapping[int, Mapping[int, BitMap]],
    ) -> Touched:
        """What a write has touched: these users. `counts`: the ids given before it. `first`, `last`: those
        whose first or last time on an input (number) may have changed, newcomers apart.
        """
        newcomers = self.seen.take_newcomers()
        if reading is None:
            return Touched(users)
        readers, names = self._readers, self.inputs.names
        for table, seen in (
            (readers.inputs, newcomers),
            (readers.first_seen, newcomers),
            (readers.first_seen, first),
            (readers.last_seen, last),
        ):
            for number, some in seen.items() if table else ():
                reading.add_users(table.get(names[number]), some)
        if readers.users:
            is_new = {group: some - BitMap(range(counts[group])) for group, some in users.items()}
            reading.add_users(readers.users, is_new)
        return reading.of(users, times)

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
                by_group_[group] = by_group_.get(group, _NOBODY) | bitmap_of(ids)
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

    def _field(self, kind: FieldKind, scope: str, name: str = "") -> int:
        number = self._field_numbers.get((kind, scope, name))
        if number is None:
            number = self.fields.number(field_name(kind, scope, name))
            self._field_numbers[kind, scope, name] = number
        return number

    def _touch(self, changed: set[ReadKey]) -> None:
        """Invalidates cached answers that read what changed."""
        changed |= {("events", number, ANY_NAME, group) for _, number, _, group in changed}
        changed |= self.properties.touched
        changed |= self.seen.touched
        changed |= self.directory.touched
        self.cache.touch(changed)
        for touched in (self.properties.touched, self.seen.touched, self.directory.touched):
            touched.clear()

    def named(self, user_ids: Sequence[str]) -> dict[str, UserRef | None]:
        """The users that ids name, by their own ids; None when there is no such user."""
        own = list(dict.fromkeys(map(self.directory.canonical, user_ids)))
        refs = self.directory.find_many(own).tolist()
        return {user_id: None if ref == UNKNOWN else ref for user_id, ref in zip(own, refs, strict=True)}

    def retire(self, users: Mapping[str, UserRef]) -> None:
        """Removes users, by their own ids, with their aliases and all their data but events. No answer has
        them any more, and `remove_events_of` them is still to be called.
        """
        for user_id, ref in users.items():
            self._take(user_id, ref)
            self.directory.unlink_aliases(user_id)
        self._touch(set())
        self.cache.clear()

    def _take(self, user_id: str, ref: UserRef) -> tuple[dict[int, Write], dict[int, tuple[Micros, Micros]]]:
        writes = self.properties.take(ref)
        times = self.seen.take(tuple(self.inputs.names), ref)
        self.directory.retire(user_id, ref)
        self.watches.changed(by_group([ref]))
        return writes, times

    def remove_events_of(self, users: Mapping[int, BitMap], yield_lock: Callable[[], None]) -> None:
        """Removes the events of retired users, by group. Calls `yield_lock` from time to time."""
        for group, dense in users.items():
            self.tables.remove_users(group, np.array(dense, np.uint32), yield_lock)
        self.cache.clear()
        self.watches.changed(users)

    def remove_events(self, before: Micros) -> None:
        """Removes all events before an instant. Users and their first/last seen times stay."""
        removed = self.tables.remove_before(before)
        self._touch({("events", *table) for table in removed})
        self.watches.changed_for_all()

    def check_alias(self, from_user_id: str, to_user_id: str) -> bool:
        """Whether the alias does not exist yet. Raises FailedPrecondition when it would close a cycle
        (ALIAS_CYCLE) or `from` is already an alias of another user (ALREADY_ALIASED).
        """
        alias_of = self.directory.canonical(from_user_id)
        target = self.directory.canonical(to_user_id)
        if self.directory.leads_to(to_user_id, from_user_id):
            raise FailedPrecondition(
                f"{to_user_id!r} is {from_user_id!r} itself or an alias of it", reason="ALIAS_CYCLE"
            )
        if alias_of == from_user_id:
            return True
        if alias_of == target:
            return False
        raise FailedPrecondition(
            f"{from_user_id!r} is an alias of {alias_of!r} already",
            reason="ALREADY_ALIASED",
            metadata={"alias_of": alias_of},
        )

    def alias(self, from_user_id: str, to_user_id: str) -> tuple[UserRef, UserRef] | None:
        """Makes `from` an alias, after `check_alias`, and moves its data. Returns its old and new ref, or
        None when there was no data.
        """
        before = self.directory.find(from_user_id)
        if before is None:
            self.directory.link(from_user_id, to_user_id)
            return None
        rows = self.tables.extract(before >> GROUP_SHIFT, before & DENSE_MASK)
        writes, times = self._take(from_user_id, before)
        self.directory.link(from_user_id, to_user_id)
        after = int(self.directory.refs([to_user_id])[0])
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
        self.seen.give(after, times)
        self._touch(set())
        self.cache.clear()
        self.watches.changed(by_group([after]))
        return before, after

    # --- forgetting ---

    def users_below(self, name: str) -> int:
        """Number of users of the account, or of the inputs of one of its workspaces or an input, by name."""
        if name == self.name:
            return self.directory.size()
        return self.universe_size([each for each in self.inputs.numbers if _is_below(each, name)])

    def forget(self, name: str) -> list[bytes]:
        """Forgets the account, or one of its workspaces or inputs, which has no users. Returns the prefixes
        of the keys to delete.
        """
        prefixes: list[bytes] = []
        for number in self._forgotten(self.inputs, lambda each: _is_below(each, name)):
            self.tables.drop(number)
            prefixes += keys_of_input(self.number, number)
        for number in self._forgotten(self.fields, lambda field: _is_below(_workspace_with(field), name)):
            prefixes += keys_of_field(self.number, number)
        self._field_numbers.clear()
        self.cache.clear()
        return prefixes

    def _forgotten(self, space: NameSpace, is_gone: Callable[[str], bool]) -> Iterator[int]:
        """Forgets the names that are gone, and returns their numbers."""
        for name in [each for each in space.numbers if is_gone(each)]:
            yield space.forget(name)

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

    def universe_size(self, inputs: Sequence[str], pause: Callable[[], None] = lambda: None) -> int:
        """Number of users that belong to at least one of the inputs."""
        numbers = [number for name in inputs if (number := self.inputs.find(name)) is not None]
        users = 0
        for group in range(self.groups):
            users += len(self.seen.users(numbers, group, pause=pause))
            pause()
        return users

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

    def prepare(self, yield_lock: Callable[[], None]) -> None:
        """Collects what is neither in the page cache nor in the name tables for `write`."""
        self.directory.prepare()
        self.properties.prepare()
        self.seen.settle()
        self.tables.prepare(yield_lock)

    def write(self, txn: Writable) -> None:
        """Writes what `prepare` collected. Needs no lock."""
        self.directory.write(txn)
        self.tables.write(txn)

    def commit(self) -> None:
        """Finishes a checkpoint that has committed."""
        self.directory.commit()
        self.properties.commit()
        self.tables.settle()

    def rollback(self) -> None:
        """Takes back a checkpoint that did not commit. The event tables detect that themselves."""
        self.directory.rollback()
        self.properties.rollback()


def _united(parts: Iterable[Mapping[int, BitMap]]) -> dict[int, BitMap]:
    """The users of all parts, by group."""
    united: dict[int, BitMap] = {}
    for part in parts:
        for group, users in part.items():
            united[group] = united.get(group, _NOBODY) | users
    return united


def _is_below(name: str, above: str) -> bool:
    """Whether a resource name is `above` or below it."""
    return name == above or name.startswith(f"{above}/")


def _workspace_with(field: str) -> str:
    """The workspace of a field that is an attribute; "" for other fields."""
    found = field_of(field)
    return found.scope if found.kind is FieldKind.ATTRIBUTE else ""


def bucket_hashes(salt: str, user_ids: Sequence[str]) -> npt.NDArray[np.uint64]:
    """`engine.values.bucket_of` of many users."""
    prefix = bucket_prefix(salt)
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter((digest(prefix + u.encode()) for u in user_ids), np.uint64, len(user_ids))


def bucket_prefix(salt: str) -> bytes:
    """What is hashed before the id of a user."""
    return salt.encode() + b"\0"
