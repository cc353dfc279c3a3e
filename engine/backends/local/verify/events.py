"""Checks event tables: records agree with the columns of their parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby, pairwise

import numpy as np

from engine.backends.local.events.cache import ColumnCache, Loader
from engine.backends.local.events.columns import Column, DictionaryColumn, NumberColumn
from engine.backends.local.events.part import STRUCTURE, Part
from engine.backends.local.events.slices import NUMBER_BIAS, SliceKey
from engine.backends.local.events.table import Table, TableRecord, slice_decoder
from engine.backends.local.storage.bitmaps import bitmap_of
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.name_table import Space
from engine.backends.local.storage.transactions import ReadTransaction
from engine.backends.local.verify.examination import Examination, as_is
from engine.values import MICROS_PER_DAY

PART_CACHE_BYTES = 1 << 20
"""Bytes of the column cache. Columns of a part are read once, so caching more gains nothing."""

STRUCTURE_COLUMNS = 4
"""The columns of users, counts, times and arrivals."""

Numbers = tuple[int, ...]


class _OneState:
    """An open transaction, used instead of a new one."""

    def __init__(self, txn: ReadTransaction) -> None:
        self._txn = txn

    @contextmanager
    def reading(self) -> Iterator[ReadTransaction]:
        yield self._txn


class _Tables:
    """The records read so far."""

    def __init__(self, examination: Examination) -> None:
        self.examination = examination
        self.loader = Loader(_OneState(examination.index), ColumnCache(PART_CACHE_BYTES))
        self.tables: dict[Numbers, TableRecord] = {}
        self.parts: dict[Numbers, list[Part]] = {}
        """By table."""

    @property
    def has_records(self) -> bool:
        """Whether every record could be read, so that columns can be compared."""
        return self.examination.is_sound(Family.EVENT_TABLE, Family.EVENT_SLICE)


def check_events(examination: Examination) -> Iterator[None]:
    """Checks that tables, slices, parts and columns are consistent, and that events belong to live users."""
    known = _Tables(examination)
    yield from _check_tables(known)
    yield from _check_slices(known)
    yield from _check_columns(known)
    for (account,), stored, _ in examination.values(Family.EVENT_CHECKPOINT, as_is):
        named = account in examination.names.get((Space.ACCOUNT, 0), {})
        if examination.is_sound(Family.NAME):
            examination.expect(named, Family.EVENT_CHECKPOINT, "belongs to an unknown account", stored)
        yield


def _check_tables(known: _Tables) -> Iterator[None]:
    examination = known.examination
    for parts, stored, record in examination.values(Family.EVENT_TABLE, Table.decode_record):
        known.tables[parts] = record
        account, input_number, name_number, _, group = parts
        if examination.is_sound(Family.NAME):
            named = input_number in examination.names.get(
                (Space.INPUT, account), {}
            ) and name_number in examination.names.get((Space.EVENT, account), {})
            examination.expect(named, Family.EVENT_TABLE, "belongs to an unnamed input or event", stored)
        examination.expect(
            group < examination.groups, Family.EVENT_TABLE, "belongs to an unknown group", stored
        )
        yield


def _check_slices(known: _Tables) -> Iterator[None]:
    """Checks that slices do not overlap, part numbers are unique, and tables equal the sum of their parts."""
    examination = known.examination
    ends: dict[Numbers, list[SliceKey]] = {}
    for numbers, stored, record in examination.values(Family.EVENT_SLICE, slice_decoder.decode):
        table = numbers[:5]
        slice_key = SliceKey(numbers[5], numbers[6] - NUMBER_BIAS)
        ends.setdefault(table, []).append(slice_key)
        parts = [Part(known.loader, part, numbers, None) for part in record.parts]
        known.parts.setdefault(table, []).extend(parts)
        start, end = slice_key.first_day * MICROS_PER_DAY, slice_key.end_day * MICROS_PER_DAY
        within = all(start <= p.record.time_min <= p.record.time_max < end for p in parts)
        examination.expect(within, Family.EVENT_SLICE, "has events outside its days", stored)
        examination.expect(bool(parts), Family.EVENT_SLICE, "has no parts", stored)
        yield
    if not known.has_records:
        return
    for table, slices in ends.items():
        slices.sort(key=lambda slice_key: slice_key.first_day)
        apart = all(one.end_day <= two.first_day for one, two in pairwise(slices))
        examination.expect(apart, Family.EVENT_SLICE, "overlaps another", key(Family.EVENT_TABLE, *table))
    for table in known.tables.keys() | known.parts.keys():
        _check_totals(known, table)


def _check_totals(known: _Tables, table: Numbers) -> None:
    stored, parts = key(Family.EVENT_TABLE, *table), known.parts.get(table, [])
    record = known.tables.get(table)
    if record is None:
        known.examination.fault(Family.EVENT_SLICE, "belongs to an unknown table", stored)
        return
    expect = known.examination.expect
    rows = sum(part.record.rows for part in parts)
    expect(
        record.rows == rows, Family.EVENT_TABLE, f"records {record.rows} rows; its parts have {rows}", stored
    )
    size = sum(part.record.bytes for part in parts)
    expect(
        record.bytes == size,
        Family.EVENT_TABLE,
        f"records {record.bytes} bytes; its parts have {size}",
        stored,
    )
    is_removed = any(part.removed for part in parts)
    expect(
        record.has_tombstones or not is_removed,
        Family.EVENT_TABLE,
        "does not record its removed users",
        stored,
    )
    numbers = [part.record.number for part in parts]
    expect(
        len(set(numbers)) == len(numbers),
        Family.EVENT_SLICE,
        "shares a part number with another slice",
        stored,
    )
    expect(
        max(numbers, default=0) < record.next_part, Family.EVENT_TABLE, "would reuse a part number", stored
    )


def _check_columns(known: _Tables) -> Iterator[None]:
    """The columns of each part, in sequence, once all of them are sound."""
    examination = known.examination
    parts = {(*part.slice_key, part.record.number): part for parts in known.parts.values() for part in parts}
    prefix_bytes = Family.EVENT_COLUMN.packers[8].size
    values = examination.values(Family.EVENT_COLUMN, as_is)
    for prefix, group in groupby(values, lambda found: found.key[:prefix_bytes]):
        found = list(group)
        numbers = found[0].parts[:8]
        part = parts.pop(numbers, None)
        if part is not None:
            _check_part(known, part, {each.parts[8:] for each in found})
        elif known.has_records:
            examination.fault(Family.EVENT_COLUMN, "belongs to an unknown part", prefix + bytes(5))
        for _ in found:
            yield
    if examination.is_sound(Family.EVENT_COLUMN):
        for numbers in parts:
            examination.fault(
                Family.EVENT_COLUMN, "of a part are missing", key(Family.EVENT_COLUMN, *numbers, 0, 0)
            )


def _check_part(known: _Tables, part: Part, stored: set[tuple[int, int]]) -> None:
    """Compares a part with its record and checks its own consistency."""
    examination = known.examination
    at = key(Family.EVENT_COLUMN, *part.slice_key, part.record.number, 0, 0)
    needed = {(STRUCTURE, number) for number in range(STRUCTURE_COLUMNS)} | set(part.record.columns)
    missing = needed - stored
    if missing and not examination.is_sound(Family.EVENT_COLUMN):
        return
    for attribute, kind in missing | (stored - needed):
        examination.fault(Family.EVENT_COLUMN, f"column {attribute}/{kind} is missing or superfluous", at)
    if missing:
        return
    with known.loader.session():
        try:
            faults = [*_structure_faults(part), *_column_faults(part), *_user_faults(examination, part)]
        except Exception as error:
            # Decoders may raise anything on foreign bytes.
            faults = [f"cannot be decoded: {error}"]
    part.dispose()
    for fault in faults:
        examination.fault(Family.EVENT_COLUMN, fault, at)


def _structure_faults(part: Part) -> Iterator[str]:
    record, users, offsets = part.record, part.users(), part.offsets()
    times, sequences, row_users = part.times(), part.sequences(), part.row_users()
    if not len(users) or not len(times):
        yield "has no rows"
        return
    lengths = np.diff(offsets)
    holds = {
        "users are not sorted": bool((users[1:] > users[:-1]).all()),
        "the record has a different number of users": len(users) == record.users == len(lengths),
        "the record has a different number of rows": int(offsets[-1]) == record.rows,
        "some rows lack a time or an arrival": len(times) == len(sequences) == record.rows,
        "the record has a different last user": int(users[-1]) == record.user_max,
        "the record has a different highest row count per user": int(lengths.max()) == record.peak,
        "some user has no rows": int(lengths.min()) > 0,
        "the record has a different time span": (int(times.min()), int(times.max()))
        == (record.time_min, record.time_max),
        "removed users never had rows": part.removed <= set(users.tolist()) if part.removed else True,
        "the floor lies outside the times of its rows": part.floor is None
        or record.time_min < part.floor <= record.time_max,
    }
    yield from (text for text, right in holds.items() if not right)
    if len(times) == len(sequences) == len(row_users):
        later = times[1:] - times[:-1]
        in_order = (row_users[1:] > row_users[:-1]) | (later > 0)
        in_order |= (later == 0) & (sequences[1:] >= sequences[:-1])
        if not in_order.all():
            yield "rows are not sorted"


def _column_faults(part: Part) -> Iterator[str]:
    rows, times = part.record.rows, part.times()
    if len(part.record.margins) != len(part.record.columns):
        yield "the record has the time spans of other columns"
        return
    for (attribute, kind), span in part.column_spans():
        column = part.column(attribute, kind)
        assert column is not None
        if not _is_placed(column, rows):
            yield f"column {attribute}/{kind} has values for rows that do not exist"
            continue
        there = times if column.positions is None else times[column.positions]
        if (int(there.min()), int(there.max())) != span:
            yield f"column {attribute}/{kind} has values whose time span differs from the record"
        if isinstance(column, NumberColumn) and not np.isfinite(column.doubles).all():
            yield f"column {attribute}/{kind} has invalid numbers"
        if isinstance(column, DictionaryColumn):
            entries = len(column.entries.values)
            if entries != column.entries.count or (len(column.codes) and int(column.codes.max()) >= entries):
                yield f"column {attribute}/{kind} has codes without an entry"


def _is_placed(column: Column, rows: int) -> bool:
    positions = column.positions
    if positions is None:
        return len(column) == rows
    ascending = bool((positions[1:] > positions[:-1]).all()) if len(positions) else True
    return ascending and len(positions) == len(column) and (not len(positions) or int(positions[-1]) < rows)


def _user_faults(examination: Examination, part: Part) -> Iterator[str]:
    account, input_number, _, _, group = part.slice_key[:5]
    users = bitmap_of(part.live_counts()[0])
    if examination.is_sound(Family.ALIVE):
        gone = users - examination.set_of(examination.alive, account, group)
        if gone:
            yield f"has rows of {len(gone)} erased users"
    if examination.is_sound(Family.BELONGS):
        strangers = users - examination.set_of(examination.belongs, account, input_number, group)
        if strangers:
            yield f"has rows of {len(strangers)} users of other inputs"
    if examination.is_sound(Family.NAME):
        names = examination.names.get((Space.EVENT_ATTRIBUTE, account), {})
        nameless = {attribute for attribute, _ in part.record.columns} - names.keys()
        if nameless:
            yield f"has unnamed attributes: {sorted(nameless)}"
