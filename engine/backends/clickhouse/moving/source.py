"""The data of an embedded store as rows, in pages whose content is the same whenever they are read."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from engine.backends.base import EventRecord
from engine.backends.clickhouse.gateway.account_rows import AccountRows
from engine.backends.clickhouse.rows import Row, event_row, fact_row
from engine.backends.clickhouse.tables import CONSENT, EVENTS, FACTS, IDENTITY, SEEN, consent_key
from engine.backends.local.account.account import Account
from engine.backends.local.backend import LocalBackend
from engine.backends.local.events.columns import Column, DictionaryColumn, NumberColumn, at_rows
from engine.backends.local.events.frame import Frame
from engine.backends.local.events.part import Part
from engine.backends.local.events.table import TableKey
from engine.backends.local.storage.arrays import Positions
from engine.backends.local.storage.name_table import FieldKind, field_of
from engine.backends.local.storage.user_ref import GROUP_SHIFT
from engine.criteria.model import EventType
from engine.criteria.zones import SPAN_MICROS
from engine.values import Value, partition_of

ROWS_AT_ONCE = 50_000
"""Rows of a page, about."""
USERS_AT_ONCE = 1_000
ROWS_A_USER = 10
"""Users that are read at once, and rows that one counts as. These numbers decide what the token of a page
means, so they never change.
"""

Rows = dict[str, dict[int, list[Row]]]
"""Rows of each table, by partition."""
Page = Callable[[], Rows]
"""Reads the rows of a page."""


class _Piece(NamedTuple):
    """A part of a page: rows, about, and what reads them."""

    rows: int
    read: Page


class Source:
    """An embedded store that nothing else reads or writes, and whose files do not change: it has to be
    checkpointed and compacted.
    """

    def __init__(self, backend: LocalBackend) -> None:
        self._backend = backend
        self.revision = backend.revision()
        """The revision of all rows."""
        of_group = backend._store.partitions.of_group
        self._partitions = [(group, p) for group in range(backend.groups) for p in sorted(of_group(group))]

    def pages(self) -> Iterator[Page]:
        """All rows. A page is of one account. One that was read takes memory for as long as it is kept."""
        for account in self._accounts():
            page: list[_Piece] = []
            for group in range(account.groups):
                for piece in itertools.chain(self._users(account, group), self._events(account, group)):
                    if page and sum(each.rows for each in page) + piece.rows > ROWS_AT_ONCE:
                        yield functools.partial(_read, page)
                        page = []
                    page.append(piece)
            if page:
                yield functools.partial(_read, page)

    def page_count(self) -> int:
        """The number of pages. Reads no rows."""
        return sum(1 for _ in self.pages())

    def users(self) -> dict[tuple[str, int], int]:
        """The number of users by account and partition, those without any are left out. Counted by the
        directory of users, not by the rows.
        """
        found: dict[tuple[str, int], int] = {}
        for account in self._accounts():
            for group, partition in self._partitions:
                with self._backend._locked():
                    users = len(account.directory.in_partitions(group, frozenset((partition,))))
                if users:
                    found[account.name, partition] = users
        return found

    def account_rows(self) -> dict[str, AccountRows]:
        """What a gateway keeps of the rows of each account."""
        return {account.name: self._account_rows(account) for account in self._accounts()}

    def _accounts(self) -> list[Account]:
        with self._backend._locked():
            return sorted(self._backend._state.accounts(), key=lambda account: account.number)

    # --- users ----------------------------------------------------------------------------------------------

    def _users(self, account: Account, group: int) -> Iterator[_Piece]:
        with self._backend._locked():
            alive = list(account.directory.alive(group))
        for start in range(0, len(alive), USERS_AT_ONCE):
            some = alive[start : start + USERS_AT_ONCE]
            read = functools.partial(self._user_rows, account, group, some)
            yield _Piece(ROWS_A_USER * len(some), read)

    def _user_rows(self, account: Account, group: int, some: Sequence[int]) -> Rows:
        rows: Rows = {FACTS: {}, SEEN: {}}
        names = {number: _place(name) for number, name in account.fields.names.items()}
        with self._backend._locked():
            for dense, user in zip(some, account.directory.user_ids(group, some), strict=True):
                p, ref = partition_of(user), group << GROUP_SHIFT | dense
                for field, (time, sequence, value) in sorted(account.properties.profile(ref).items()):
                    row = fact_row(account.name, *names[field], p, user, time, sequence, self.revision, value)
                    rows[FACTS].setdefault(p, []).append(row)
                for through, number in sorted(account.inputs.numbers.items()):
                    times = account.seen.times(number, ref)
                    if times is not None:
                        row = (account.name, p, user, through, *times, self.revision)
                        rows[SEEN].setdefault(p, []).append(row)
        return rows

    # --- events ---------------------------------------------------------------------------------------------

    def _events(self, account: Account, group: int) -> Iterator[_Piece]:
        for table, part in self._parts(account, group):
            # Its pieces follow each other, and share what is read.
            read = functools.lru_cache(1)(functools.partial(self._frame, account, part))
            for start in range(0, part.record.rows, ROWS_AT_ONCE):
                stop = min(start + ROWS_AT_ONCE, part.record.rows)
                rows = functools.partial(self._event_rows, account, table, read, start, stop)
                yield _Piece(stop - start, rows)

    def _parts(self, account: Account, group: int) -> list[tuple[TableKey, Part]]:
        with self._backend._locked():
            parts = account.tables.parts_of_group(group)
        assert not any(part.has_tombstones for _, part in parts), "removed rows have been purged"
        return sorted(parts, key=lambda found: (found[0], found[1].slice_key, found[1].record.number))

    def _frame(self, account: Account, part: Part) -> Frame:
        with self._backend._locked():
            return account.tables.frame_of(part)

    def _event_rows(
        self, account: Account, table: TableKey, read: Callable[[], Frame], start: int, stop: int
    ) -> Rows:
        frame = read()
        _, through, name, type_, group = table
        dense = frame.users[start:stop].tolist()
        some = sorted(set(dense))
        with self._backend._locked():
            ids = dict(zip(some, account.directory.user_ids(group, some), strict=True))
        partitions = {each: partition_of(user) for each, user in ids.items()}
        attributes: list[dict[str, Value]] = [{} for _ in dense]
        for (attribute, _), column in frame.columns.items():
            key = account.event_attributes.names[attribute]
            positions, values = at_rows(column, np.arange(start, stop))
            for at, value in _placed(positions, values):
                attributes[at][key] = value
        rows: dict[int, list[Row]] = {}
        for each, time, sequence, found in zip(
            dense,
            frame.times[start:stop].tolist(),
            frame.sequences[start:stop].tolist(),
            attributes,
            strict=True,
        ):
            event = EventRecord(
                ids[each],
                account.inputs.names[through],
                account.events.names[name],
                EventType(type_),
                time,
                found,
            )
            p = partitions[each]
            rows.setdefault(p, []).append(
                event_row(account.name, event, sequence, p, event.user_id, self.revision)
            )
        return {EVENTS: rows}

    def _account_rows(self, account: Account) -> AccountRows:
        spans: set[int] = set()
        rows = AccountRows()
        first, last, events = rows.first_time, rows.last_time, 0
        for group in range(account.groups):
            for _, part in self._parts(account, group):
                times = self._frame(account, part).times
                if len(times):
                    spans.update(np.unique(times // SPAN_MICROS).tolist())
                    first, last = min(first, int(times.min())), max(last, int(times.max()))
                    events += len(times)
        return AccountRows(spans=frozenset(spans), events=events, first_time=first, last_time=last)


def _read(pieces: Sequence[_Piece]) -> Rows:
    found: Rows = {}
    for piece in pieces:
        for table, by_partition in piece.read().items():
            for p, rows in by_partition.items():
                found.setdefault(table, {}).setdefault(p, []).extend(rows)
    return found


def _place(name: str) -> tuple[str, str]:
    """The place and key of the facts of a field."""
    field = field_of(name)
    match field.kind:
        case FieldKind.ATTRIBUTE:
            return field.scope, field.key
        case FieldKind.IDENTITY:
            return IDENTITY, field.scope
        case FieldKind.CONSENT:
            return CONSENT, consent_key(field.scope, field.key)


def _placed(positions: Positions | None, column: Column) -> Iterator[tuple[int, Any]]:
    """The values of a column, each with the place of its row."""
    values: Sequence[Any]
    if isinstance(column, NumberColumn):
        values = column.doubles.tolist()
    elif isinstance(column, DictionaryColumn):
        entries = column.entries.values
        values = [entries[code] for code in column.codes.tolist()]
    else:
        values = column.times.tolist()
    places = range(len(values)) if positions is None else positions.tolist()
    return zip(places, values, strict=True)
