"""Records as rows of the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from engine.backends.base import EventRecord, Record, UserRecord
from engine.backends.clickhouse.mapped import MappedTable
from engine.backends.clickhouse.tables import (
    CONSENT,
    EVENTS,
    FACTS,
    IDENTITY,
    IDS,
    SEEN,
    UNSET,
    VALUE_COLUMNS,
    consent_key,
)
from engine.values import Kind, Micros, Value, kind_of, partition_of

Row = tuple[Any, ...]
"""A row, in the order of `tables.COLUMNS`."""


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of one insert, up to a revision. `rows` has those of each table, by partition."""

    revision: int
    rows: dict[str, dict[int, list[Row]]]

    def of_table(self, table: str, partitions: range) -> list[Row]:
        """The rows of a table whose users are in a range of partitions."""
        by_partition = self.rows.get(table, {})
        return [row for p in sorted(by_partition) if p in partitions for row in by_partition[p]]


def joined(batches: Sequence[Batch]) -> Batch:
    """Batches of several callers as one insert. Each row keeps its revision."""
    rows: dict[str, dict[int, list[Row]]] = {}
    for batch in batches:
        for table, by_partition in batch.rows.items():
            for p, more in by_partition.items():
                rows.setdefault(table, {}).setdefault(p, []).extend(more)
    return Batch(revision=batches[-1].revision, rows=rows)


def batch_of(
    account: str,
    records: Iterable[Record],
    *,
    revision: int,
    first_seq: int,
    owner: Callable[[str], str] = str,
) -> Batch:
    """The rows of a batch. Records are numbered from `first_seq` on; `owner` gives the user that an id means,
    by the aliases of that revision.
    """
    made = _Rows(account, revision)
    for seq, record in enumerate(records, first_seq):
        made.add(record, seq, owner(record.user_id))
    return made.batch()


class Meaning(NamedTuple):
    """What an id means in tables of others from a revision on."""

    user_id: str
    owner: str
    """The user; "" for the id itself."""
    others: tuple[str, ...]
    """Users whose id it was, or becomes: their shards have to know."""
    is_cut: bool = False
    """Whether its rows up to now do not count any more."""


def id_rows(account: str, mapped: Iterable[MappedTable], meanings: Sequence[Meaning], revision: int) -> Batch:
    """The rows of `ids`: one for each shard that has the id or a user it means, by partition."""
    rows: dict[int, list[Row]] = {}
    for each in mapped:
        for user_id, owner, others, is_cut in meanings:
            since = each.reach.since(user_id) if is_cut else 0
            for p in sorted({partition_of(user) for user in (user_id, *others)}):
                row = (account, each.source, p, user_id, owner, since, revision)
                rows.setdefault(p, []).append(row)
    return Batch(revision=revision, rows={IDS: rows})


def seen_rows(
    account: str, input_name: str, seen: Iterable[tuple[str, Micros, Micros]], revision: int
) -> Batch:
    """The rows of `seen` for users, each with its first and last time."""
    rows: dict[int, list[Row]] = {}
    for user, first, last in seen:
        p = partition_of(user)
        rows.setdefault(p, []).append((account, p, user, input_name, first, last, revision))
    return Batch(revision=revision, rows={SEEN: rows})


class _Rows:
    def __init__(self, account: str, revision: int) -> None:
        self._account, self._revision = account, revision
        self._rows: dict[str, dict[int, list[Row]]] = {EVENTS: {}, FACTS: {}, SEEN: {}}
        self._seen: dict[tuple[str, str], tuple[Micros, Micros]] = {}

    def add(self, record: Record, seq: int, user: str) -> None:
        p = partition_of(user)
        first, last = self._seen.get((user, record.input), (record.time, record.time))
        self._seen[user, record.input] = min(first, record.time), max(last, record.time)
        if isinstance(record, EventRecord):
            self._add_event(record, seq, p, user)
        else:
            self._add_update(record, seq, p, user)

    def batch(self) -> Batch:
        for (user, input_), (first, last) in self._seen.items():
            p = partition_of(user)
            self._put(SEEN, p, (self._account, p, user, input_, first, last, self._revision))
        return Batch(revision=self._revision, rows=self._rows)

    def _put(self, table: str, p: int, row: Row) -> None:
        self._rows[table].setdefault(p, []).append(row)

    def _add_event(self, event: EventRecord, seq: int, p: int, user: str) -> None:
        self._put(EVENTS, p, event_row(self._account, event, seq, p, user, self._revision))

    def _add_update(self, update: UserRecord, seq: int, p: int, user: str) -> None:
        workspace = update.input.partition("/inputs/")[0]
        writes: list[tuple[str, str, Value | None]] = [
            *((workspace, key, value) for key, value in update.attributes.items()),
            *((IDENTITY, type_, value) for type_, value in update.identities.items()),
            *((CONSENT, consent_key(*of), state.value) for of, state in update.consents.items()),
        ]
        for place, key, value in writes:
            row = fact_row(self._account, place, key, p, user, update.time, seq, self._revision, value)
            self._put(FACTS, p, row)


def event_row(account: str, event: EventRecord, seq: int, p: int, user: str, revision: int) -> Row:
    """The row of an event. `user` is the one that the event's id means."""
    by_kind: dict[Kind, dict[str, Any]] = {kind: {} for kind in Kind}
    for key, value in event.attributes.items():
        by_kind[kind_of(value)][key] = value
    head = (account, event.name, p, user, event.time, event.input, int(event.type), seq, revision)
    return (*head, *(by_kind[kind] for kind in VALUE_COLUMNS))


def fact_row(
    account: str,
    place: str,
    key: str,
    p: int,
    user: str,
    time: Micros,
    seq: int,
    revision: int,
    value: Value | None,
) -> Row:
    """The row of a write of an attribute, identity or consent; None unsets."""
    return (account, place, key, p, user, time, seq, revision, *_fact(value))


def _fact(value: Value | None) -> tuple[int, float, str, int, list[str]]:
    """The kind, number, string, whole and list of a fact."""
    if value is None:
        return UNSET, 0.0, "", 0, []
    kind = int(kind_of(value))
    if isinstance(value, str):
        return kind, 0.0, value, 0, []
    if isinstance(value, tuple):
        return kind, 0.0, "", 0, list(value)
    if isinstance(value, float):
        return kind, value, "", 0, []
    return kind, 0.0, "", int(value), []
