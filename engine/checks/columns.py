"""Checks of events and user updates by column: each distinct string once, numbers and times as arrays.

A row is rejected for the same reason as in `check_event` or `check_user` of `rows`; tests compare them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from engine.checks.rows import (
    UTF8_BYTES_MAX,
    Fault,
    Times,
    attribute_count_fault,
    built_in_fault,
    check_key,
    check_name,
    check_value,
    consent_count_fault,
    identity_count_fault,
    is_longer,
)
from engine.event_columns import EventColumns, Rows, TextColumn, ValueColumn
from engine.limits import Limits
from engine.user_columns import UserColumns
from engine.values import TIME_MAX_MICROS, TIME_MIN_MICROS, Kind

Mask = npt.NDArray[np.bool_]


class RowFaults(msgspec.Struct, frozen=True):
    """Rows rejected for one reason. `field` is a path within the row; `rows` ascend."""

    reason: str
    field: str
    description: str
    rows: Rows


_Found = Iterator[tuple[Fault, Mask]]


def check_columns(
    columns: EventColumns,
    allowed: Times,
    limits: Limits,
    input_fault: Callable[[str], Fault | None],
) -> list[RowFaults]:
    """The first fault of every row that has one."""
    return _first_faults(len(columns), _found(columns, allowed, limits, input_fault))


def check_user_columns(
    columns: UserColumns, allowed: Times, limits: Limits, input_fault: Callable[[str], Fault | None]
) -> list[RowFaults]:
    """The first fault of every row that has one."""
    return _first_faults(len(columns), _found_of_users(columns, allowed, limits, input_fault))


def _first_faults(count: int, found: _Found) -> list[RowFaults]:
    unfaulted = np.ones(count, np.bool_)
    faults = []
    for (reason, field, description), mask in found:
        rows = np.flatnonzero(mask & unfaulted)
        if len(rows):
            unfaulted[rows] = False
            faults.append(RowFaults(reason, field, description, rows))
    return faults


def _found(
    columns: EventColumns,
    allowed: Times,
    limits: Limits,
    input_fault: Callable[[str], Fault | None],
) -> _Found:
    """Faults in the order of `check_event`, each with the rows that have it."""
    times = columns.times
    yield from _name_faults("user_id", columns.user_ids, limits)
    yield from _name_faults("name", columns.names, limits)
    yield from _time_faults(times)
    if allowed.oldest is not None:
        too_old = "EVENT_TOO_OLD", "time", "is older than the account's event retention"
        yield too_old, times < allowed.oldest
    in_future = "EVENT_IN_FUTURE", "time", "is more than 24 h ahead of the server's clock"
    yield in_future, times > allowed.latest
    if columns.event_ids is not None:
        yield from _event_id_faults(columns.event_ids, limits)
    yield from _attribute_count_faults(len(columns), [column.rows for column in columns.attributes], limits)
    for column in columns.attributes:
        yield from _value_faults(column, len(columns), limits)
    yield from _text_faults(columns.inputs, input_fault)


def _found_of_users(
    columns: UserColumns, allowed: Times, limits: Limits, input_fault: Callable[[str], Fault | None]
) -> _Found:
    """As `_found`, in the order of `check_user`."""
    count, times = len(columns), columns.times
    yield from _name_faults("user_id", columns.user_ids, limits)
    yield from _time_faults(times)
    in_future = "UPDATE_IN_FUTURE", "time", "is more than 24 h ahead of the server's clock"
    yield in_future, times > allowed.latest
    identities = [(column.name, column.rows) for column in columns.identities]
    identities += [(column.name, column.rows) for column in columns.unset_identities]
    yield from _count_faults(count, [rows for _, rows in identities], identity_count_fault)
    yield from _count_faults(count, [each.states.rows for each in columns.consents], consent_count_fault)
    for identity in columns.identities:
        yield from _entry_faults(f"identities[{identity.name!r}]", identity, count, limits)
    for consent in columns.consents:
        for name in (consent.regulation, consent.purpose):
            yield from _key_fault("consents", name, consent.states.rows, count, limits)
    for name, rows in identities:
        yield from _key_fault("identities", name, rows, count, limits)
    for column in columns.attributes:
        yield from _fault_of_all(built_in_fault(column.name), column.rows, count)
    unset = [(column.name, column.rows) for column in columns.unset_attributes]
    attributes = [column.rows for column in columns.attributes] + [rows for _, rows in unset]
    yield from _attribute_count_faults(count, attributes, limits)
    for name, rows in unset:
        yield from _key_fault("attributes", name, rows, count, limits)
    for column in columns.attributes:
        yield from _value_faults(column, count, limits)
    yield from _text_faults(columns.inputs, input_fault)


def _time_faults(times: npt.NDArray[np.int64]) -> _Found:
    outside = "INVALID_VALUE", "time", "is outside of the years 1 to 9999"
    yield outside, (times < TIME_MIN_MICROS) | (times > TIME_MAX_MICROS)


def _key_fault(field: str, name: str, rows: Rows | None, count: int, limits: Limits) -> _Found:
    """The fault of rows that write an attribute of this name, when the name itself is invalid."""
    yield from _fault_of_all(check_key(field, name, limits), rows, count)


def _fault_of_all(fault: Fault | None, rows: Rows | None, count: int) -> _Found:
    """A fault of all of these rows (None = all of the batch)."""
    if fault is not None:
        has = np.ones(count if rows is None else len(rows), np.bool_)
        yield fault, _spread(has, rows, count)


def _name_faults(field: str, column: TextColumn, limits: Limits) -> _Found:
    if all(column.entries) and _are_short(column.entries, limits.name_bytes_max):
        return
    yield from _text_faults(column, lambda name: check_name(field, name, limits))


def _are_short(texts: Sequence[str], bytes_max: int) -> bool:
    """Whether every string is short enough."""
    return max(map(len, texts), default=0) * UTF8_BYTES_MAX <= bytes_max


def _text_faults(column: TextColumn, check: Callable[[str], Fault | None]) -> _Found:
    faulty = {code: fault for code, text in enumerate(column.entries) if (fault := check(text)) is not None}
    yield from _by_fault(faulty, column.codes)


def _by_fault(faulty: Mapping[int, Fault], codes: npt.NDArray[np.integer]) -> _Found:
    by_fault: dict[Fault, list[int]] = {}
    for code, fault in faulty.items():
        by_fault.setdefault(fault, []).append(code)
    for fault, entries in by_fault.items():
        yield fault, np.isin(codes, np.array(entries))


def _event_id_faults(event_ids: Sequence[str], limits: Limits) -> _Found:
    fault = "VALUE_TOO_LONG", "event_id", f"is longer than {limits.name_bytes_max} bytes"
    if _are_short(event_ids, limits.name_bytes_max):
        return
    too_long = (is_longer(event_id, limits.name_bytes_max) for event_id in event_ids)
    yield fault, np.fromiter(too_long, np.bool_, len(event_ids))


def _attribute_count_faults(count_of_rows: int, attributes: Sequence[Rows | None], limits: Limits) -> _Found:
    return _count_faults(count_of_rows, attributes, lambda count: attribute_count_fault(count, limits))


def _count_faults(
    count_of_rows: int, columns: Sequence[Rows | None], fault_of: Callable[[int], Fault | None]
) -> _Found:
    """Faults of rows with a value in too many columns. `columns` are the rows with a value in each, None =
    all.
    """
    if fault_of(len(columns)) is None:
        return
    counts = np.zeros(count_of_rows, np.int64)
    for rows in columns:
        counts[slice(None) if rows is None else rows] += 1
    for count in np.unique(counts).tolist():
        fault = fault_of(count)
        if fault is not None:
            yield fault, counts == count


def _value_faults(column: ValueColumn, count: int, limits: Limits) -> _Found:
    fault = check_key("attributes", column.name, limits)
    if fault is not None:
        yield from _key_fault("attributes", column.name, column.rows, count, limits)
        return
    field = f"attributes[{column.name!r}]"
    if column.kind is Kind.NUMBER:
        not_finite = "INVALID_VALUE", field, "must be a finite number"
        yield not_finite, _spread(~np.isfinite(column.data), column.rows, count)
    elif column.kind is Kind.TIME:
        outside = "INVALID_VALUE", field, "is outside of the years 1 to 9999"
        mask = (column.data < TIME_MIN_MICROS) | (column.data > TIME_MAX_MICROS)
        yield outside, _spread(mask, column.rows, count)
    else:
        yield from _entry_faults(field, column, count, limits)


def _entry_faults(field: str, column: ValueColumn, count: int, limits: Limits) -> _Found:
    """Faults of strings, bools and lists. Checks each distinct value once."""
    faulty = {
        code: fault
        for code, value in enumerate(column.entries)
        if (fault := check_value(field, value, limits)) is not None
    }
    for fault, mask in _by_fault(faulty, column.data):
        yield fault, _spread(mask, column.rows, count)


def _spread(mask: Mask, rows: Rows | None, count: int) -> Mask:
    """Turns a mask over the values of `rows` (None = all) into a mask over the batch."""
    if rows is None:
        return mask
    spread = np.zeros(count, np.bool_)
    spread[rows[mask]] = True
    return spread
