"""Which scopes read which data: the index by which new data makes users dirty in few scopes.

A scope (in Milepost a journey) tells what its plans read (`engine.plan.reads`). What arrives is looked up
here once for each name or row, never for each scope: scopes that read the same share a set.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from pyroaring import BitMap

from engine.backends.base import EventRecord, UserRecord
from engine.backends.local.account.updates import AccountUpdates
from engine.backends.local.attributes.user_writes import FieldColumn
from engine.backends.local.storage.arrays import Bools, Int64s, runs
from engine.backends.local.storage.bitmaps import bitmap_of
from engine.backends.local.storage.name_table import FieldKind, workspace_of
from engine.backends.local.storage.user_ref import DENSE_MASK, GROUP_SHIFT, UserRef
from engine.backends.local.users.directory import by_group
from engine.criteria.model import EventType
from engine.event_columns import EventColumns
from engine.plan.reads import Reads
from engine.values import TIME_MAX_MICROS, TIME_MIN_MICROS, Micros

Scopes: TypeAlias = set[str]
FieldKey: TypeAlias = tuple[FieldKind, str, str]
"""Kind, scope and name of a field, as in `engine.backends.local.storage.name_table.field_name`."""


class Need(NamedTuple):
    """What an event of the right input and name needs to be read: a type (None = any), and one of the
    attributes, if there are any.
    """

    type: EventType | None
    keys: frozenset[str]

    def is_met(self, event: EventRecord) -> bool:
        """Whether the event has it."""
        return (self.type is None or self.type == event.type) and (
            not self.keys or not self.keys.isdisjoint(event.attributes)
        )


class ReadBy(NamedTuple):
    """Users, by group, whose new data these scopes read."""

    scopes: frozenset[str]
    users: Mapping[int, BitMap]


class DataTimes(NamedTuple):
    """The earliest and the latest time of new events."""

    first: Micros
    last: Micros

    def joined(self, other: DataTimes) -> DataTimes:
        """Those of both."""
        return DataTimes(min(self.first, other.first), max(self.last, other.last))

    def hold(self, other: DataTimes) -> bool:
        """Whether those of the other lie within these."""
        return self.first <= other.first and other.last <= self.last


NO_DATA = DataTimes(TIME_MAX_MICROS, TIME_MIN_MICROS)
ANY_TIME = DataTimes(TIME_MIN_MICROS, TIME_MAX_MICROS)
"""Also of other data than events."""


class Touched(NamedTuple):
    """The users that one write has touched, by group, and those of them whose data a scope reads; the times
    of its data.
    """

    users: dict[int, BitMap]
    read: Sequence[ReadBy] = ()
    times: DataTimes = ANY_TIME


class Readers:
    """The scopes of one account by what they read. Call with the state lock held."""

    def __init__(self) -> None:
        self._reads: dict[str, Reads | None] = {}
        self.everything: Scopes = set()
        """Scopes of which it is unknown what they read."""
        self.events: dict[tuple[str, str], dict[Need, Scopes]] = {}
        """By input and event name ("" = any)."""
        self.inputs: dict[str, Scopes] = {}
        self.first_seen: dict[str, Scopes] = {}
        self.last_seen: dict[str, Scopes] = {}
        self.fields: dict[FieldKey, Scopes] = {}
        self.users: Scopes = set()
        self.updates = AccountUpdates()
        """Whose opted-in values are watched for deliveries."""
        self.log_position: Callable[[], int] = lambda: 0
        """The last log position that is applied completely."""

    @property
    def are_none(self) -> bool:
        """Whether no scope reads anything."""
        return not self._reads

    def put(self, scope: str, reads: Reads | None) -> None:
        """The scope reads this from now on, and nothing else; None: everything."""
        if scope in self._reads and (reads is self._reads[scope] or reads == self._reads[scope]):
            return
        self.drop(scope)
        self._reads[scope] = reads
        if reads is None:
            self.everything.add(scope)
            return
        if reads.users:
            self.users.add(scope)
        for table, keys in self._tables(reads):
            for key in keys:
                table.setdefault(key, set()).add(scope)
        for each in reads.events:
            needs = self.events.setdefault((each.input, each.name), {})
            needs.setdefault(Need(each.type, each.keys), set()).add(scope)

    def drop(self, scope: str) -> None:
        """The scope reads nothing any more."""
        reads = self._reads.pop(scope, None)
        self.everything.discard(scope)
        self.users.discard(scope)
        if reads is None:
            return
        for table, keys in self._tables(reads):
            for key in keys:
                _discard(table, key, scope)
        for each in reads.events:
            at = each.input, each.name
            needs = self.events[at]
            _discard(needs, Need(each.type, each.keys), scope)
            if not needs:
                del self.events[at]

    def _tables(self, reads: Reads) -> Iterator[tuple[dict[Any, Scopes], Iterable[Any]]]:
        """Each table with what the scope reads of it, but events."""
        yield self.inputs, reads.inputs
        yield self.first_seen, reads.first_seen
        yield self.last_seen, reads.last_seen
        yield self.fields, [(FieldKind.ATTRIBUTE, *each) for each in reads.attributes]
        yield self.fields, [(FieldKind.IDENTITY, kind, "") for kind in reads.identities]
        yield self.fields, [(FieldKind.CONSENT, *each) for each in reads.consents]

    def needs(self, input_name: str, name: str) -> list[tuple[Need, Scopes]]:
        """Who reads events of an input and name, and what they need for that."""
        named, any_name = self.events.get((input_name, name)), self.events.get((input_name, ""))
        return [*(named.items() if named else ()), *(any_name.items() if any_name else ())]


def _discard(table: dict[Any, Scopes], key: object, scope: str) -> None:
    scopes = table[key]
    scopes.discard(scope)
    if not scopes:
        del table[key]


class Reading:
    """Collects whose data of one write is read by whom."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self._refs: dict[int, tuple[Scopes, list[UserRef]]] = {}
        """By identity: a set of scopes and the users of which they read new data."""
        self._needs: dict[tuple[str, str], list[tuple[Need, Scopes]]] = {}
        self._sets: list[ReadBy] = []

    def add(self, scopes: Scopes | None, ref: UserRef) -> None:
        """These scopes read new data of the user."""
        if scopes:
            found = self._refs.get(id(scopes))
            if found is None:
                found = self._refs[id(scopes)] = scopes, []
            found[1].append(ref)

    def add_users(self, scopes: Scopes | None, users: Mapping[int, BitMap]) -> None:
        """These scopes read new data of users, by group."""
        if scopes and users:
            self._sets.append(ReadBy(frozenset(scopes), users))

    # --- records --------------------------------------------------------------------------------------------

    def event(self, record: EventRecord, ref: UserRef) -> None:
        """An event has arrived."""
        at = record.input, record.name
        needs = self._needs.get(at)
        if needs is None:
            needs = self._needs[at] = self._readers.needs(*at)
        for need, scopes in needs:
            if need.is_met(record):
                self.add(scopes, ref)

    def event_of(self, input_name: str, name: str, type_: EventType, ref: UserRef) -> None:
        """An event has arrived whose attributes are not known."""
        for need, scopes in self._readers.needs(input_name, name):
            if need.type is None or need.type == type_:
                self.add(scopes, ref)

    def update(self, record: UserRecord, ref: UserRef) -> None:
        """A user update has arrived."""
        fields = self._readers.fields
        if not fields:
            return
        workspace = workspace_of(record.input)
        for name in record.attributes:
            self.add(fields.get((FieldKind.ATTRIBUTE, workspace, name)), ref)
        for kind in record.identities:
            self.add(fields.get((FieldKind.IDENTITY, kind, "")), ref)
        for regulation, purpose in record.consents:
            self.add(fields.get((FieldKind.CONSENT, regulation, purpose)), ref)

    # --- columns --------------------------------------------------------------------------------------------

    def events(self, columns: EventColumns, refs: Int64s) -> None:
        """Events have arrived as columns; `refs` has the user of each row."""
        width = len(columns.names.entries)
        wanted = {
            at * width + number: needs
            for at, input_name in enumerate(columns.inputs.entries)
            for number, name in enumerate(columns.names.entries)
            if (needs := self._readers.needs(input_name, name))
        }
        if not wanted:
            return
        tables = columns.inputs.codes.astype(np.int64) * width + columns.names.codes
        rows = np.flatnonzero(np.isin(tables, np.fromiter(wanted, np.int64, len(wanted))))
        rows = rows[np.argsort(tables[rows], kind="stable")]
        having = _Having(columns)
        for some in np.split(rows, runs(tables[rows])[1:-1]) if len(rows) else ():
            for need, scopes in wanted[int(tables[some[0]])]:
                met = some if need.type is None else some[columns.types[some] == int(need.type)]
                met = met[having.one_of(need.keys)[met]] if need.keys else met
                self.add_users(scopes, users_of(refs[met]))

    def updates(self, columns: Iterable[FieldColumn], read: Mapping[int, Scopes], refs: Int64s) -> None:
        """User updates have arrived as columns; `read` has the readers of fields by number."""
        for column in columns:
            scopes = read.get(column.field)
            if scopes:
                self.add_users(scopes, users_of(refs[column.rows]))

    # --- the outcome ----------------------------------------------------------------------------------------

    def of(self, users: dict[int, BitMap], times: DataTimes, refs: Sequence[UserRef] = ()) -> Touched:
        """What was collected of a write that has touched these users, with data of these times. `refs`: the
        user of each of its records, if it has records.
        """
        self.add_users(self._readers.everything, users)
        # Most often someone reads all records.
        self._sets += [
            ReadBy(frozenset(scopes), users if read == refs else by_group(read))
            for scopes, read in self._refs.values()
        ]
        return Touched(users, self._sets, times)


class _Having:
    """Which rows of a batch have attributes."""

    def __init__(self, columns: EventColumns) -> None:
        self._columns = columns
        self._found: dict[frozenset[str], Bools] = {}

    def one_of(self, keys: frozenset[str]) -> Bools:
        """For each row whether it has at least one of these attributes."""
        found = self._found.get(keys)
        if found is None:
            found = self._found[keys] = np.zeros(len(self._columns), np.bool_)
            for column in self._columns.attributes:
                if column.name in keys:
                    rows = column.rows
                    found[slice(None) if rows is None else rows] = True
        return found


def users_of(refs: Int64s) -> dict[int, BitMap]:
    """The dense ids of user refs, which may repeat, by group."""
    if not len(refs):
        return {}
    distinct = np.unique(refs)
    groups = distinct >> GROUP_SHIFT
    bounds = runs(groups).tolist()
    return {
        int(groups[start]): bitmap_of((distinct[start:end] & DENSE_MASK).astype(np.uint32))
        for start, end in itertools.pairwise(bounds)
    }
