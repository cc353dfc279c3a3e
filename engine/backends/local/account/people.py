"""The users of one account: their ids, names, aliases, inputs and times, and who reads what of them.

What else is known of users belongs to a subclass: in the embedded store `Account`. Everything here depends
only on the order of the log: no clock and no randomness. So a replay reaches the same state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from pyroaring import BitMap

from engine.backends.base import EventRecord, NameSpan, Record, UserRecord
from engine.backends.local.account.caches import AccountCaches
from engine.backends.local.account.forgotten_keys import keys_of_field, keys_of_input
from engine.backends.local.account.readers import ANY_TIME, DataTimes, Readers, Reading, Touched
from engine.backends.local.account.updates import Item, Noticing, Shown
from engine.backends.local.account.watches import Watches
from engine.backends.local.storage.name_table import (
    NO_ACCOUNT,
    FieldKind,
    Names,
    NameSpace,
    Space,
    field_name,
    field_of,
)
from engine.backends.local.storage.page_cache import PageCache
from engine.backends.local.storage.step_cache import ReadKey
from engine.backends.local.storage.store import Store
from engine.backends.local.storage.transactions import Writable
from engine.backends.local.storage.user_ref import UserRef
from engine.backends.local.users.directory import Directory, by_group
from engine.backends.local.users.first_last_seen import FirstLastSeen
from engine.backends.local.users.hash_table import UNKNOWN
from engine.backends.local.users.id_index import UserIndex
from engine.errors import FailedPrecondition
from engine.values import Micros

NOBODY = BitMap(optimize=False)


class EventAttributes(dict[str, int]):
    """Attribute name → number, numbering new names on first use."""

    def __init__(self, space: NameSpace) -> None:
        super().__init__(space.numbers)
        self._space = space

    def __missing__(self, name: str) -> int:
        number = self[name] = self._space.number(name)
        return number


class People:
    """The users of one account. Call with the state lock held, inside a session of the page cache."""

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
        self.watches = Watches()
        self._attribute_numbers = EventAttributes(self.event_attributes)
        self._field_numbers: dict[tuple[FieldKind, str, str], int] = {}

    @property
    def is_purging(self) -> bool:
        """Whether removed rows are still to be rewritten."""
        return False

    @property
    def needs_compaction(self) -> bool:
        """Whether a checkpoint has parts to merge."""
        return False

    # --- what the log says ---

    def apply(self, records: Sequence[Record], repeated: Sequence[bool], sequence: int) -> Touched:
        """Applies records in order, except those flagged as repeated; the first has the arrival sequence
        number after `sequence`. Returns the touched users.
        """
        self.seen.begin()
        taken = [record for record, is_repeated in zip(records, repeated, strict=True) if not is_repeated]
        counts = list(self.directory.counts)
        refs = self.directory.refs([record.user_id for record in taken]).tolist()
        reading = None if self._readers.are_none else Reading(self._readers)
        for record, ref in zip(taken, refs, strict=True):
            self.seen.saw(self.inputs.number(record.input), ref, record.time)
            if reading is None:
                continue
            if type(record) is EventRecord:
                reading.event(record, ref)
            elif type(record) is UserRecord:
                reading.update(record, ref)
        self._put(taken, refs, sequence)
        users = by_group(refs)
        self.watches.changed(users)
        seen: dict[int, set[UserRef]] = {}
        for record, ref in zip(taken, refs, strict=True) if self._readers.last_seen else ():
            seen.setdefault(self.inputs.number(record.input), set()).add(ref)
        last = {number: by_group(some) for number, some in seen.items()}
        are_events = not any(type(record) is UserRecord for record in taken)
        times = [record.time for record in taken] if are_events else []
        spread = DataTimes(min(times), max(times)) if times else ANY_TIME
        return self._touched(reading, users, counts, spread, first={}, last=last, refs=refs)

    def _put(self, records: Sequence[Record], refs: Sequence[UserRef], sequence: int) -> None:
        """Takes what else records say about their users, in order, and gives numbers to the names they came
        with.
        """
        raise NotImplementedError

    # --- opted-in values ---

    def _noticing(self) -> Noticing | None:
        """Compares opted-in values before and after a write; None when none are watched."""
        updates = self._readers.updates
        return Noticing(updates, self._shown, self._readers.log_position) if updates.items else None

    def _shown(self, ref: UserRef) -> Shown:
        """The watched values of a user as they are now."""
        raise NotImplementedError

    def _writes_watched(self, record: UserRecord) -> bool:
        items = self._readers.updates.items
        return any((FieldKind.ATTRIBUTE, key) in items for key in record.attributes) or any(
            (FieldKind.IDENTITY, kind) in items for kind in record.identities
        )

    def _item(self, field: int) -> tuple[Item, str]:
        """What a field is of, and its workspace."""
        found = field_of(self.fields.names[field])
        if found.kind is FieldKind.ATTRIBUTE:
            return (found.kind, found.key), found.scope
        return (found.kind, found.scope), ""

    def _touched(
        self,
        reading: Reading | None,
        users: dict[int, BitMap],
        counts: Sequence[int],
        times: DataTimes,
        *,
        first: Mapping[int, Mapping[int, BitMap]],
        last: Mapping[int, Mapping[int, BitMap]],
        refs: Sequence[UserRef] = (),
    ) -> Touched:
        """What a write has touched: these users, of its records when `refs` has them. `counts`: the ids given
        before it. `first`, `last`: those whose first or last time on an input (number) may have changed,
        newcomers apart.
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
        return reading.of(users, times, refs)

    def _field(self, kind: FieldKind, scope: str, name: str = "") -> int:
        number = self._field_numbers.get((kind, scope, name))
        if number is None:
            number = self.fields.number(field_name(kind, scope, name))
            self._field_numbers[kind, scope, name] = number
        return number

    def _touch(self, changed: set[ReadKey]) -> None:
        """Answers that read what changed do not hold any more."""
        self.seen.touched.clear()
        self.directory.touched.clear()

    def _touch_all(self) -> None:
        """No answer holds any more."""
        self._touch(set())

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
            self._take(ref)
            self._leave(user_id, ref)
            self.directory.unlink_aliases(user_id)
        self._touch_all()

    def _leave(self, user_id: str, ref: UserRef) -> dict[int, tuple[Micros, Micros]]:
        """Removes a user's id, and returns its times by input."""
        times = self.seen.take(tuple(self.inputs.names), ref)
        self.directory.retire(user_id, ref)
        self.watches.changed(by_group([ref]))
        return times

    def _take(self, ref: UserRef) -> Callable[[UserRef], None]:
        """Removes what else is known about a user, and returns what gives it to another one. Its events may
        stay until that is called, or `remove_events_of`.
        """
        raise NotImplementedError

    def remove_events_of(self, users: Mapping[int, BitMap], yield_lock: Callable[[], None]) -> None:
        """Removes the events of retired users, by group. Calls `yield_lock` from time to time."""
        raise NotImplementedError

    def remove_events(self, before: Micros, names: NameSpan | None, yield_lock: Callable[[], None]) -> None:
        """Removes the events before an instant, of some names or (None) of all. Users and their first/last
        seen times stay. Calls `yield_lock` from time to time.
        """
        raise NotImplementedError

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
        give = self._take(before)
        times = self._leave(from_user_id, before)
        self.directory.link(from_user_id, to_user_id)
        after = int(self.directory.refs([to_user_id])[0])
        give(after)
        self.seen.give(after, times)
        self._touch_all()
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
            self._drop_input(number)
            prefixes += keys_of_input(self.number, number)
        for number in self._forgotten(self.fields, lambda field: _is_below(_workspace_with(field), name)):
            prefixes += keys_of_field(self.number, number)
        self._field_numbers.clear()
        self._touch_all()
        return prefixes

    def _drop_input(self, number: int) -> None:
        """Drops what is kept for an input, which is forgotten."""

    def _forgotten(self, space: NameSpace, is_gone: Callable[[str], bool]) -> Iterator[int]:
        """Forgets the names that are gone, and returns their numbers."""
        for name in [each for each in space.numbers if is_gone(each)]:
            yield space.forget(name)

    # --- counting ---

    def universe_size(self, inputs: Sequence[str], pause: Callable[[], None] = lambda: None) -> int:
        """Number of users that belong to at least one of the inputs."""
        numbers = [number for name in inputs if (number := self.inputs.find(name)) is not None]
        users = 0
        for group in range(self.groups):
            users += len(self.seen.users(numbers, group, pause=pause))
            pause()
        return users

    # --- checkpointing ---

    def prepare(self) -> None:
        """Collects what is neither in the page cache nor in the name tables for `write`. No entry may be
        applied meanwhile.
        """
        self.directory.prepare()
        self.seen.settle()

    def stage_next(self) -> bool:
        """Prepares the next piece of what `prepare` has left to be done while entries are applied. False:
        nothing is left.
        """
        return False

    def write(self, txn: Writable, pause: Callable[[], None]) -> None:
        """Writes what was prepared. Needs no lock. Calls `pause` from time to time."""
        self.directory.write(txn)

    def commit(self) -> None:
        """Finishes a checkpoint that has committed."""
        self.directory.commit()

    def settle_next(self) -> bool:
        """Releases the next piece of what a checkpoint has written. False: nothing is left."""
        return False

    def rollback(self) -> None:
        """Takes back a checkpoint that did not commit."""
        self.directory.rollback()


def _is_below(name: str, above: str) -> bool:
    """Whether a resource name is `above` or below it."""
    return name == above or name.startswith(f"{above}/")


def _workspace_with(field: str) -> str:
    """The workspace of a field that is an attribute; "" for other fields."""
    found = field_of(field)
    return found.scope if found.kind is FieldKind.ATTRIBUTE else ""
