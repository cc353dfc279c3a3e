"""User updates that arrive as columns, applied field by field instead of user by user.

The result equals that of `Properties.write` for the same updates in order: the latest write of each field in
the profile, with its index entry and write time span. When a batch has several rows for a user, only the
latest write of each field is applied. New profiles are stored in encoded form: most users of an import are
new, and few are read before the checkpoint.
"""

from __future__ import annotations

import itertools
import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from engine.backends.local.attributes.index import EMPTY_LIST, Properties, stored_values
from engine.backends.local.attributes.profile_codec import ProfileUpdate
from engine.backends.local.storage.arrays import Bools, Int64s, runs
from engine.backends.local.storage.bitmaps import bitmap_of
from engine.backends.local.storage.name_table import FieldKind, workspace_of
from engine.backends.local.storage.page_cache import PAGE_BITS, PAGE_MASK, as_numpy
from engine.backends.local.storage.user_ref import DENSE_MASK, GROUP_SHIFT, UserRef, UserRefs
from engine.event_columns import ValueColumn
from engine.user_columns import UserColumns
from engine.values import Kind, Micros, Value, kind_of

_PAGED_KINDS = (Kind.NUMBER, Kind.TIME)
_NOTHING = object()
"""Stands for a value where a row does not write a field."""
_UPDATE_ORDER = operator.itemgetter(0, 1)


class UserRows(NamedTuple):
    """The rows of a batch: user ref, time, and whether the batch created the user. Row i has the arrival
    sequence number `sequence` + 1 + i.
    """

    refs: UserRefs
    times: Int64s
    sequence: int
    is_new: Bools


class FieldColumn(NamedTuple):
    """Writes of one kind to one field: the rows, and for each a number, a time or a code into `entries`, as
    in `ValueColumn`. Kind None: the rows unset the field.
    """

    field: int
    kind: Kind | None
    rows: Int64s
    data: npt.NDArray[Any]
    entries: Sequence[Value] = ()

    def where(self, mask: Bools) -> FieldColumn:
        """The writes for which `mask` is true."""
        return self._replace(rows=self.rows[mask], data=self.data[mask])

    def without(self, rows: Sequence[int]) -> FieldColumn:
        """The same writes for other row numbers."""
        return self.where(~np.isin(self.rows, rows)) if rows else self

    def values(self) -> npt.NDArray[np.object_]:
        """The values as Python objects; None where the field is unset."""
        if self.kind is None:
            return np.full(len(self.rows), None, object)
        if self.kind in _PAGED_KINDS:
            return self.data.astype(object)
        entries: npt.NDArray[np.object_] = np.fromiter(self.entries, object, len(self.entries))[self.data]
        return entries


def field_columns(columns: UserColumns, field: Callable[[FieldKind, str, str], int]) -> Iterator[FieldColumn]:
    """The writes by field. `field` returns a field's number by kind, scope and key."""
    count = len(columns)
    workspaces = [workspace_of(name) for name in columns.inputs.entries]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(workspaces))}
    of_row = np.array([numbers[name] for name in workspaces])[columns.inputs.codes]
    attributes = [(column.name, _set(column, count)) for column in columns.attributes]
    attributes += [(column.name, _unset(column.rows, count)) for column in columns.unset_attributes]
    for name, writes in attributes:
        for workspace, number in numbers.items():
            here = writes if len(numbers) == 1 else writes.where(of_row[writes.rows] == number)
            if len(here.rows):
                yield here._replace(field=field(FieldKind.ATTRIBUTE, workspace, name))
    for identity in columns.identities:
        yield _set(identity, count)._replace(field=field(FieldKind.IDENTITY, identity.name, ""))
    for unset in columns.unset_identities:
        yield _unset(unset.rows, count)._replace(field=field(FieldKind.IDENTITY, unset.name, ""))
    for consent in columns.consents:
        number = field(FieldKind.CONSENT, consent.regulation, consent.purpose)
        yield _set(consent.states, count)._replace(field=number)


def _set(column: ValueColumn, count: int) -> FieldColumn:
    rows = np.arange(count) if column.rows is None else column.rows
    return FieldColumn(0, column.kind, rows, column.data, column.entries)


def _unset(rows: Int64s | None, count: int) -> FieldColumn:
    rows = np.arange(count) if rows is None else rows
    return FieldColumn(0, None, rows, np.zeros(len(rows), np.uint32))


def write_columns(properties: Properties, rows: UserRows, columns: Iterable[FieldColumn]) -> None:
    """Applies the writes of a batch. A write is ignored when a later one exists."""
    by_field: dict[int, list[FieldColumn]] = {}
    for column in columns:
        by_field.setdefault(column.field, []).append(column)
    is_repeated = _repeated(rows.refs)
    if is_repeated.any():
        by_field = {field: _latest(rows, found) for field, found in by_field.items()}
    written = _Written(rows, sorted(by_field.items()))
    is_first = rows.is_new & ~is_repeated
    _put_first_profiles(properties, written, np.flatnonzero(is_first & written.is_any))
    merged = _MergedProfiles(properties)
    merged.put(written, np.flatnonzero(~is_first & written.is_any))
    for field, found in by_field.items():
        replaced = merged.replaced.get(field, _Replaced())
        counting = [column.without(replaced.late_rows) for column in found]
        _follow(properties, rows, field, counting, replaced)


def _repeated(refs: UserRefs) -> Bools:
    """For each row, whether its user has another row."""
    order = np.argsort(refs, kind="stable")
    same = refs[order[1:]] == refs[order[:-1]]
    repeated = np.zeros(len(refs), np.bool_)
    repeated[order[1:][same]] = True
    repeated[order[:-1][same]] = True
    return repeated


def _latest(rows: UserRows, columns: Sequence[FieldColumn]) -> list[FieldColumn]:
    """The latest write of each user to one field; of equal times the one that arrived last."""
    written = np.concatenate([column.rows for column in columns])
    owners = rows.refs[written]
    order = np.lexsort((written, rows.times[written], owners))
    owners = owners[order]
    is_last = np.append(owners[1:] != owners[:-1], True)
    kept = np.zeros(len(written), np.bool_)
    kept[order[is_last]] = True
    ends = np.cumsum([len(column.rows) for column in columns])[:-1]
    pieces = zip(columns, np.split(kept, ends), strict=True)
    return [column.where(mask) for column, mask in pieces if mask.any()]


# --- profiles -----------------------------------------------------------------------------------------------


class _Written:
    """What rows write to profiles. `fields` are ascending, as in profiles."""

    def __init__(self, rows: UserRows, fields: Sequence[tuple[int, Sequence[FieldColumn]]]) -> None:
        self.rows = rows
        self._fields = fields
        self.is_any = np.zeros(len(rows.refs), np.bool_)
        """For each row, whether it writes anything."""
        for _, columns in fields:
            for column in columns:
                self.is_any[column.rows] = True

    def by_row(self, chosen: Int64s) -> Iterator[dict[int, Value | None]]:
        """The values by field of each chosen row. Every chosen row writes something."""
        position = np.full(len(self.rows.refs), -1)
        position[chosen] = np.arange(len(chosen))
        fields: list[int] = []
        values: list[list[Any]] = []
        missing = 0
        for field, columns in self._fields:
            of_field = np.full(len(chosen), _NOTHING, object)
            count = 0
            for column in columns:
                at = position[column.rows]
                here = at >= 0
                of_field[at[here]] = column.where(here).values()
                count += int(np.count_nonzero(here))
            if count:
                fields.append(field)
                values.append(of_field.tolist())
                missing += len(chosen) - count
        # Columns are zipped, so `dict` is the only call per row.
        rows = (zip(fields, row, strict=True) for row in zip(*values, strict=True))
        if not missing:
            return map(dict, rows)
        return ({field: value for field, value in row if value is not _NOTHING} for row in rows)


def _put_first_profiles(properties: Properties, written: _Written, chosen: Int64s) -> None:
    """Creates profiles for users that have none, from one row each."""
    rows = written.rows
    keys = properties.profile_keys(rows.refs[chosen])
    times = rows.times[chosen].tolist()
    sequences = (rows.sequence + 1 + chosen).tolist()
    properties.put_first_profiles(
        (key, [(time, sequence, values)])
        for key, time, sequence, values in zip(keys, times, sequences, written.by_row(chosen), strict=True)
    )
    properties.have_profiles(rows.refs[chosen])


class _Replaced:
    """Outcome of the writes to one field: users and times of replaced writes, removed values, and rows that
    came too late.
    """

    def __init__(self) -> None:
        self.refs: list[UserRef] = []
        self.times: list[Micros] = []
        self.gone: list[tuple[UserRef, Value]] = []
        self.late_rows: list[int] = []


class _MergedProfiles:
    """Profiles of users that may already have writes."""

    def __init__(self, properties: Properties) -> None:
        self._properties = properties
        self.replaced: dict[int, _Replaced] = defaultdict(_Replaced)
        """By field."""

    def put(self, written: _Written, chosen: Int64s) -> None:
        """Merges rows into the profiles of their users."""
        rows = written.rows
        chosen = chosen[np.argsort(rows.refs[chosen], kind="stable")]
        refs = rows.refs[chosen]
        keys = self._properties.profile_keys(refs)
        of_row = (keys, refs.tolist(), rows.times[chosen].tolist(), chosen.tolist(), written.by_row(chosen))
        for key, ref, time, row, values in zip(*of_row, strict=True):
            updates = self._properties.profile_updates(key)
            if updates:
                updates = self._kept(updates, ref, time, row, values)
            if values:
                updates.append((time, rows.sequence + 1 + row, values))
                if len(updates) > 1:
                    updates.sort(key=_UPDATE_ORDER)
            self._properties.put_profile(key, updates)
        self._properties.have_profiles(refs)

    def _kept(
        self,
        updates: Sequence[ProfileUpdate],
        ref: UserRef,
        time: Micros,
        row: int,
        values: dict[int, Value | None],
    ) -> list[ProfileUpdate]:
        """What a row leaves of earlier updates. Removes values that come too late from the row.

        Rows of a batch arrive after everything in a profile, so comparing times is enough.
        """
        kept = []
        for update in updates:
            was_at, _, earlier = update
            written = [field for field in earlier if field in values]
            if was_at > time:
                for field in written:
                    del values[field]
                    self.replaced[field].late_rows.append(row)
            else:
                for field in written:
                    was = earlier[field]
                    if was is not None:
                        self._replace(field, ref, was_at, was, values[field])
                if len(written) == len(earlier):
                    continue
                for field in written:
                    del earlier[field]
            kept.append(update)
        return kept

    def _replace(self, field: int, ref: UserRef, was_at: Micros, was: Value, now: Value | None) -> None:
        replaced = self.replaced[field]
        replaced.refs.append(ref)
        replaced.times.append(was_at)
        kind = type(was)
        # The column page is overwritten in any case.
        if kind is not type(now) or (was != now and kind is not float and kind is not int):
            replaced.gone.append((ref, was))


# --- index --------------------------------------------------------------------------------------------------


def _follow(
    properties: Properties, rows: UserRows, field: int, columns: Sequence[FieldColumn], replaced: _Replaced
) -> None:
    """Updates the index and spans of a field. Each user has one write here."""
    _unindex(properties, field, replaced.gone)
    properties.write_times.remove_many(field, np.array(replaced.refs, np.int64), replaced.times)
    for column in columns:
        refs = rows.refs[column.rows]
        for group in np.unique(refs >> GROUP_SHIFT).tolist():
            properties.touched.add(("field", field, group))
        if column.kind is None:
            continue
        order = np.argsort(refs)
        sorted_refs = refs[order]
        _index(properties, column, sorted_refs, column.data[order])
        properties.write_times.add_many(field, sorted_refs, rows.times[column.rows[order]])


def _unindex(properties: Properties, field: int, gone: Sequence[tuple[UserRef, Value]]) -> None:
    present: dict[tuple[int, int], list[int]] = defaultdict(list)
    valued: dict[tuple[Kind, int, bytes], list[int]] = defaultdict(list)
    for ref, value in gone:
        kind, group, dense = kind_of(value), ref >> GROUP_SHIFT, ref & DENSE_MASK
        present[EMPTY_LIST if value == () else kind, group].append(dense)
        if kind in _PAGED_KINDS:
            properties.unset_column(field, kind, group, dense)
            continue
        for stored in stored_values(value):
            valued[kind, group, stored].append(dense)
    for (kind_number, group), users in present.items():
        properties.present_cell(field, kind_number, group).value.difference_update(BitMap(users))
    for (kind, group, stored), users in valued.items():
        properties.discard_from_value(field, kind, group, stored, users)


def _index(properties: Properties, column: FieldColumn, refs: UserRefs, data: npt.NDArray[Any]) -> None:
    """Indexes values of one kind. Users are ascending."""
    field, kind = column.field, column.kind
    assert kind is not None
    empty = [code for code, value in enumerate(column.entries) if value == ()]
    is_empty = np.isin(data, empty) if empty else np.zeros(len(data), np.bool_)
    _present(properties, field, kind, refs[~is_empty])
    _present(properties, field, EMPTY_LIST, refs[is_empty])
    if kind in _PAGED_KINDS:
        for start, end in itertools.pairwise(runs(refs >> PAGE_BITS).tolist()):
            group, dense = int(refs[start]) >> GROUP_SHIFT, int(refs[start]) & DENSE_MASK
            page = as_numpy(properties.column_cell(field, kind, group, dense).value)
            page[refs[start:end] & PAGE_MASK] = data[start:end]
        return
    # A stable sort keeps the users of a value in order.
    keys = (refs >> GROUP_SHIFT) * len(column.entries) + data
    order = np.argsort(keys, kind="stable")
    users = (refs[order] & DENSE_MASK).astype(np.uint32)
    stored: dict[int, tuple[bytes, ...]] = {}
    for start, end in itertools.pairwise(runs(keys[order]).tolist()):
        group, code = divmod(int(keys[order[start]]), len(column.entries))
        if code not in stored:
            stored[code] = stored_values(column.entries[code])
        for value in stored[code]:
            properties.add_to_value(field, kind, group, value, users[start:end])


def _present(properties: Properties, field: int, kind: int, refs: UserRefs) -> None:
    for start, end in itertools.pairwise(runs(refs >> GROUP_SHIFT).tolist()):
        cached = properties.present_cell(field, kind, int(refs[start]) >> GROUP_SHIFT)
        cached.value |= bitmap_of(refs[start:end] & DENSE_MASK)
