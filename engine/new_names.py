"""Limits on names that data comes with: of events, attributes, identity types and consents.

Each name is numbered once and kept in memory as long as its account, and each is a table or a column of its
own. So a batch brings a limited number of names that the account does not have, and an account has a limited
number of them. A row that would exceed a limit is rejected with the name; the others are taken.
"""

from __future__ import annotations

import threading
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np

from engine.backends.base import EventRecord, NameKind, Naming, UserRecord
from engine.checks import RowFaults, shortened
from engine.event_columns import EventColumns, Rows
from engine.limits import Limits
from engine.resources.records import workspace_of
from engine.user_columns import UserColumns

TOO_MANY_NAMES = "TOO_MANY_NAMES"
NAMED_MAX = 100
"""Names after which rejections of a batch do not tell further ones apart."""
LOCKS = 64
"""Batches with new names of one account are decided one after the other. Accounts share this many locks."""

_FIELDS = {
    NameKind.EVENT: "name",
    NameKind.EVENT_ATTRIBUTE: "attributes",
    NameKind.USER_ATTRIBUTE: "attributes",
    NameKind.IDENTITY: "identities",
    NameKind.CONSENT: "consents",
}

Named: TypeAlias = Mapping[tuple[NameKind, str], Set[str]]
"""Names by kind and scope."""


class RowsWithName(NamedTuple):
    """A name and the rows of a batch that come with it, ascending."""

    naming: Naming
    rows: Rows


class Batch(Protocol):
    """The names of a batch."""

    def names(self) -> Named:
        """All of them."""
        ...

    def rows_with(self, unknown: Named) -> Iterator[RowsWithName]:
        """The rows that come with some of the names."""
        ...


class NameIndex(Protocol):
    """What `NewNames` needs of a `DataWriter`."""

    def unknown_names(self, account: str, kind: NameKind, scope: str, names: Set[str]) -> Set[str]:
        """As `DataWriter.unknown_names`."""
        ...

    def name_count(self, account: str) -> int:
        """As `DataWriter.name_count`."""
        ...


class NewNames:
    """Decides which rows of a batch may bring new names."""

    def __init__(self, backend: NameIndex, limits: Limits, names_max: Callable[[str], int]) -> None:
        """`names_max` answers the limit of an account."""
        self._backend = backend
        self._limits = limits
        self._names_max = names_max
        self._locks = tuple(threading.Lock() for _ in range(LOCKS))
        self._coming: dict[str, Counter[Naming]] = {}
        """By account, names that running batches bring, and how many do. Guarded by a lock of `_locks`."""

    @contextmanager
    def admitting(self, account: str, batch: Batch) -> Iterator[Sequence[RowFaults]]:
        """The rows to leave out. Append the others inside the block: while it runs, the names that they bring
        count as the account's.
        """
        names = batch.names()
        if not self._unknown(account, names):
            yield ()
            return
        lock = self._locks[zlib.crc32(account.encode()) % LOCKS]
        with lock:
            decided = self._decided(account, batch, self._unknown(account, names))
            self._coming.setdefault(account, Counter()).update(decided.admitted)
        try:
            yield decided.faults
        finally:
            with lock:
                # There is nothing of the account when no running batch brings a name.
                coming = self._coming.pop(account, Counter()) - Counter(decided.admitted)
                if coming:
                    self._coming[account] = coming

    def _unknown(self, account: str, names: Named) -> Named:
        found = {
            (kind, scope): self._backend.unknown_names(account, kind, scope, of_scope)
            for (kind, scope), of_scope in names.items()
            if of_scope
        }
        return {key: unknown for key, unknown in found.items() if unknown}

    def _decided(self, account: str, batch: Batch, unknown: Named) -> _Decided:
        coming: Collection[Naming] = self._coming.get(account, ())
        not_there_yet = sum(len(names) for names in self._unknown(account, _by_kind(coming)).values())
        count = self._backend.name_count(account) + not_there_yet
        in_batch, in_account = self._limits.batch_new_names_max, self._names_max(account)
        room = max(0, min(in_batch, in_account - count))
        wanted = {Naming(*key, name) for key, names in unknown.items() for name in names}
        if len(wanted.difference(coming)) <= room:
            return _Decided((), wanted)
        found = [each for each in batch.rows_with(unknown) if len(each.rows)]
        if in_batch <= in_account - count:
            problem = f"is a new name, and a batch may bring {in_batch}: send the row again in a later batch"
        else:
            problem = (
                f"is a new name, and {account} has {count} of the {in_account} names that it may have: use "
                "one that it has, or ask an operator for a higher limit"
            )
        rejected, admitted = _rejected_and_admitted(found, room, coming)
        return _Decided(_described(rejected, problem), admitted)


class _Decided(NamedTuple):
    """What a batch may bring: the rows to leave out, and the names of the others."""

    faults: Sequence[RowFaults]
    admitted: Set[Naming]


def _by_kind(namings: Iterable[Naming]) -> Named:
    found: dict[tuple[NameKind, str], set[str]] = {}
    for kind, scope, name in namings:
        found.setdefault((kind, scope), set()).add(name)
    return found


def _rejected_and_admitted(
    found: Sequence[RowsWithName], room: int, coming: Container[Naming]
) -> tuple[dict[Naming, list[int]], set[Naming]]:
    """The rows that do not fit, by the first name that does not, and the names of the others. Rows are looked
    at in order; one that does not fit brings none of its names. Names that are `coming` need no room.
    """
    rejected: dict[Naming, list[int]] = {}
    if not found:
        return rejected, set()
    rows = np.concatenate([each.rows for each in found])
    order = np.argsort(rows, kind="stable")
    numbers = np.repeat(np.arange(len(found)), [len(each.rows) for each in found])[order]
    rows = rows[order]
    starts = np.flatnonzero(np.append(True, rows[1:] != rows[:-1])).tolist()
    is_free = np.array([each.naming in coming for each in found])
    is_admitted = np.zeros(len(found), np.bool_)
    for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
        of_row = numbers[start:end]
        wanted = of_row[~(is_admitted[of_row] | is_free[of_row])]
        if len(wanted) <= room:
            is_admitted[of_row] = True
            room -= len(wanted)
        else:
            rejected.setdefault(found[wanted[0]].naming, []).append(int(rows[start]))
    return rejected, {found[number].naming for number in np.flatnonzero(is_admitted).tolist()}


def _described(rejected: Mapping[Naming, Sequence[int]], problem: str) -> Sequence[RowFaults]:
    """The faults; beyond `NAMED_MAX` names, a fault gives only the kind."""
    by_field: dict[str, list[int]] = {}
    for naming, rows in rejected.items():
        field = _FIELDS[naming.kind]
        if naming.kind is not NameKind.EVENT and len(by_field) < NAMED_MAX:
            parts = [naming.scope, naming.name] if naming.kind is NameKind.CONSENT else [naming.name]
            field += f"[{shortened('/'.join(parts))!r}]"
        by_field.setdefault(field, []).extend(rows)
    return [
        RowFaults(TOO_MANY_NAMES, field, problem, np.array(sorted(rows))) for field, rows in by_field.items()
    ]


# --- the names of batches -----------------------------------------------------------------------------------


class RecordNames:
    """The names of records."""

    def __init__(self, records: Sequence[EventRecord | UserRecord]) -> None:
        self._records = records

    def names(self) -> Named:
        """All of them."""
        events = [record for record in self._records if type(record) is EventRecord]
        found: dict[tuple[NameKind, str], set[str]] = {
            (NameKind.EVENT, ""): {event.name for event in events},
            (NameKind.EVENT_ATTRIBUTE, ""): set().union(*[event.attributes for event in events]),
            (NameKind.IDENTITY, ""): set(),
        }
        for record in self._records:
            if type(record) is UserRecord:
                workspace = workspace_of(record.input)
                found.setdefault((NameKind.USER_ATTRIBUTE, workspace), set()).update(record.attributes)
                found[NameKind.IDENTITY, ""].update(record.identities)
                for regulation, purpose in record.consents:
                    found.setdefault((NameKind.CONSENT, regulation), set()).add(purpose)
        return found

    def rows_with(self, unknown: Named) -> Iterator[RowsWithName]:
        """The rows that come with some of the names."""
        rows: dict[Naming, list[int]] = {}
        for row, record in enumerate(self._records):
            for naming in _namings(record):
                if naming.name in unknown.get(naming[:2], ()):
                    rows.setdefault(naming, []).append(row)
        return (RowsWithName(naming, np.array(found)) for naming, found in rows.items())


def _namings(record: EventRecord | UserRecord) -> Iterator[Naming]:
    if isinstance(record, EventRecord):
        yield Naming(NameKind.EVENT, "", record.name)
        yield from (Naming(NameKind.EVENT_ATTRIBUTE, "", name) for name in record.attributes)
        return
    workspace = workspace_of(record.input)
    yield from (Naming(NameKind.USER_ATTRIBUTE, workspace, name) for name in record.attributes)
    yield from (Naming(NameKind.IDENTITY, "", name) for name in record.identities)
    yield from (Naming(NameKind.CONSENT, regulation, purpose) for regulation, purpose in record.consents)


class EventColumnNames:
    """The names of events in columns, without unused entries."""

    def __init__(self, columns: EventColumns) -> None:
        self._columns = columns

    def names(self) -> Named:
        """All of them."""
        return {
            (NameKind.EVENT, ""): set(self._columns.names.entries),
            (NameKind.EVENT_ATTRIBUTE, ""): {column.name for column in self._columns.attributes},
        }

    def rows_with(self, unknown: Named) -> Iterator[RowsWithName]:
        """The rows that come with some of the names."""
        columns = self._columns
        of_events = unknown.get((NameKind.EVENT, ""), ())
        codes = [code for code, name in enumerate(columns.names.entries) if name in of_events]
        if codes:
            order = np.argsort(columns.names.codes, kind="stable")
            of_order = columns.names.codes[order]
            for code in codes:
                first, last = np.searchsorted(of_order, (code, code + 1))
                naming = Naming(NameKind.EVENT, "", columns.names.entries[code])
                yield RowsWithName(naming, order[first:last])
        named = [(column.name, column.rows) for column in columns.attributes]
        yield from _by_name(named, NameKind.EVENT_ATTRIBUTE, "", unknown, len(columns))


class UserColumnNames:
    """The names of user updates in columns, without unused entries."""

    def __init__(self, columns: UserColumns) -> None:
        self._columns = columns
        self._workspaces = [workspace_of(name) for name in columns.inputs.entries]
        self._attributes = [(column.name, column.rows) for column in columns.attributes]
        self._attributes += [(column.name, column.rows) for column in columns.unset_attributes]
        self._identities = [(column.name, column.rows) for column in columns.identities]
        self._identities += [(column.name, column.rows) for column in columns.unset_identities]

    def names(self) -> Named:
        """All of them, each attribute in each workspace of the batch."""
        found: dict[tuple[NameKind, str], set[str]] = {}
        for workspace in self._workspaces:
            found[NameKind.USER_ATTRIBUTE, workspace] = {name for name, _ in self._attributes}
        found[NameKind.IDENTITY, ""] = {name for name, _ in self._identities}
        for consent in self._columns.consents:
            found.setdefault((NameKind.CONSENT, consent.regulation), set()).add(consent.purpose)
        return found

    def rows_with(self, unknown: Named) -> Iterator[RowsWithName]:
        """The rows that come with some of the names."""
        columns = self._columns
        count = len(columns)
        for workspace in dict.fromkeys(self._workspaces):
            codes = [code for code, each in enumerate(self._workspaces) if each == workspace]
            here = np.flatnonzero(np.isin(columns.inputs.codes, codes))
            yield from _by_name(self._attributes, NameKind.USER_ATTRIBUTE, workspace, unknown, count, here)
        yield from _by_name(self._identities, NameKind.IDENTITY, "", unknown, count)
        for consent in columns.consents:
            named = [(consent.purpose, consent.states.rows)]
            yield from _by_name(named, NameKind.CONSENT, consent.regulation, unknown, count)


def _by_name(
    columns: Sequence[tuple[str, Rows | None]],
    kind: NameKind,
    scope: str,
    unknown: Named,
    count: int,
    here: Rows | None = None,
) -> Iterator[RowsWithName]:
    """The rows of a batch of `count`, among `here` (None = all), with a value in the columns of an unknown
    name, which may be several.
    """
    names = unknown.get((kind, scope), ())
    rows_of: dict[str, list[Rows]] = {}
    for name, rows in columns:
        if name in names:
            found = np.arange(count) if rows is None else rows
            if here is not None:
                found = np.intersect1d(found, here, assume_unique=True)
            rows_of.setdefault(name, []).append(found)
    for name, pieces in rows_of.items():
        rows = pieces[0] if len(pieces) == 1 else np.unique(np.concatenate(pieces))
        yield RowsWithName(Naming(kind, scope, name), rows)
