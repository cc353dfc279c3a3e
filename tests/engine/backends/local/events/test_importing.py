"""From columns as they arrive to the frames of tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backends.local.events import ArrivedRows, ColumnNumbers, RowUsers, importing
from engine.backends.local.events.columns import DictionaryColumn, NumberColumn, at_rows
from engine.backends.local.events.frame import Frame, RowSet
from engine.backends.local.events.importing import sets_of
from engine.backends.local.storage.user_ref import GROUP_SHIFT
from engine.criteria.model import EventType
from engine.event_columns import EventColumns, TextColumn, ValueColumn
from engine.values import Kind, Value

NUMBERS = ColumnNumbers(inputs=[3], names=[5, 6], attributes=[7])


def arrived(first: int, users: list[int], names: list[int], values: list[str]) -> ArrivedRows:
    """Rows of users 0 to 2, who are in group 1 with dense ids 10 to 12; each value an entry of its own."""
    count = len(users)
    columns = EventColumns(
        user_ids=TextColumn.of(["a", "b", "c"], np.array(users)),
        inputs=TextColumn.same("web", count),
        names=TextColumn.of(["buy", "look"], np.array(names)),
        type_bytes=bytes([EventType.CUSTOM]) * count,
        time_bytes=np.arange(100 + count, 100, -1).astype("<i8").tobytes(),
        attributes=[ValueColumn.of("x", Kind.STRING, None, np.arange(count), values)],
    )
    refs = (1 << GROUP_SHIFT) + np.array([10, 11, 12])
    return ArrivedRows(columns, RowUsers(refs, columns.user_ids.codes), NUMBERS, first)


def test_batches_that_waited_are_cut_into_tables_together() -> None:
    batches = [arrived(0, [2, 0, 2], [0, 0, 1], ["p", "q", "p"]), arrived(3, [0, 1], [0, 0], ["q", "p"])]
    assert batches[0].tables() == {(3, 5, 1), (3, 6, 1)}
    (buy, bought), (look, looked) = sets_of(batches)

    assert buy == (1, 3, 5, EventType.CUSTOM)
    assert (look.name_number, looked.users.tolist(), looked.sequences.tolist()) == (6, [12], [3])
    assert bought.sequences.tolist() == [1, 2, 4, 5]
    # By user, then time: each batch was written backwards in time.
    frame = Frame.of_sets([bought])
    assert frame.users.tolist() == [10, 10, 11, 12]
    assert frame.times.tolist() == [102, 102, 101, 103]
    assert frame.sequences.tolist() == [2, 4, 5, 1]
    assert list(look_entries(looked)) == ["p"]


def look_entries(rows: RowSet) -> Iterator[Value]:
    column = rows.columns[7, Kind.STRING]
    assert isinstance(column, DictionaryColumn)
    return iter(column.entries.values)


NAMES = ["buy", "look", "buy"]
INPUTS = ["web", "app"]
MANY = ColumnNumbers(inputs=[3, 4], names=[5, 6, 5], attributes=[7, 8, 9])
events = st.tuples(
    st.integers(0, 5),
    st.integers(0, 1),
    st.integers(0, 2),
    st.sampled_from([EventType.CUSTOM, EventType.COMMERCE]),
    st.integers(0, 9),
    st.none() | st.sampled_from([1.5, 2.0, 0.1 + 0.2]),
    st.none() | st.integers(0, 3),
    st.none() | st.integers(0, 10**12),
)
"""User, input, name, type, time, and what its three attributes are."""


def column_batch(rows: list[Any]) -> EventColumns:
    users, inputs, names, types, times, *attributes = map(list, zip(*rows, strict=True))
    columns = []
    for name, kind, values in zip("xyz", (Kind.NUMBER, Kind.STRING, Kind.TIME), attributes, strict=True):
        held = [index for index, value in enumerate(values) if value is not None]
        if held:
            data = np.array([values[index] for index in held])
            at = None if len(held) == len(values) else np.array(held)
            columns.append(ValueColumn.of(name, kind, at, data, "pqrp" if kind is Kind.STRING else ""))
    return EventColumns(
        user_ids=TextColumn.of("abcdef", np.array(users)),
        inputs=TextColumn.of(INPUTS, np.array(inputs)),
        names=TextColumn.of(NAMES, np.array(names)),
        type_bytes=bytes(types),
        time_bytes=np.array(times, "<i8").tobytes(),
        attributes=columns,
    )


@pytest.mark.parametrize("packed_max", [0, 1 << 20])
@given(batches=st.lists(st.lists(events, min_size=1, max_size=8), min_size=1, max_size=3))
def test_every_row_comes_to_its_table_with_its_values(packed_max: int, batches: list[list[Any]]) -> None:
    refs = np.array([user % 2 << GROUP_SHIFT | user for user in range(6)])
    arrived, expected, sequence = [], dict[int, Any](), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importing, "PACKED_TABLES_MAX", packed_max)
        for rows in batches:
            columns = column_batch(rows)
            attributes = ["xyz".index(column.name) + 7 for column in columns.attributes]
            numbers = ColumnNumbers(MANY.inputs, MANY.names, attributes)
            users = RowUsers(refs, columns.user_ids.codes)
            arrived.append(ArrivedRows(columns, users, numbers, sequence))
            assert arrived[-1].tables() == {
                (MANY.inputs[input_], MANY.names[name], user % 2) for user, input_, name, *_ in rows
            }
            for number, (user, input_, name, type_, time, x, y, z) in enumerate(rows, sequence + 1):
                table = (user % 2, MANY.inputs[input_], MANY.names[name], type_)
                values = {7: x, 8: None if y is None else "pqrp"[y], 9: z}
                expected[number] = (table, user, time, {k: v for k, v in values.items() if v is not None})
            sequence += len(rows)

    found, tables = dict[int, Any](), []
    for table, rows_of_table in sets_of(arrived):
        tables.append(table)
        assert sorted(rows_of_table.sequences.tolist()) == rows_of_table.sequences.tolist()
        for row, number in enumerate(rows_of_table.sequences.tolist()):
            user, time = int(rows_of_table.users[row]), int(rows_of_table.times[row])
            found[number] = (table, user, time, values_at(rows_of_table, row))
    assert len(set(tables)) == len(tables)
    assert found == expected


def values_at(rows: RowSet, row: int) -> dict[int, Value]:
    values: dict[int, Value] = {}
    for (attribute, _), column in rows.columns.items():
        _, value = at_rows(column, np.array([row]))
        if isinstance(value, NumberColumn):
            values.update((attribute, number) for number in value.doubles.tolist())
        elif isinstance(value, DictionaryColumn):
            values.update((attribute, value.entries.values[code]) for code in value.codes.tolist())
        else:
            values.update((attribute, time) for time in value.times.tolist())
    return values


def test_entries_that_repeat_become_one() -> None:
    for batches in ([arrived(0, [0, 0, 1], [0, 0, 0], ["p", "p", "q"])], [arrived(0, [0], [0], ["p"])] * 2):
        ((_, rows),) = sets_of(batches)
        column = rows.columns[7, Kind.STRING]
        values = [column.entries.values[code] for code in column.codes.tolist()]  # type: ignore[union-attr]
        assert sorted(values) == ["p", "p", "q"][: len(values)]
        assert len(set(column.entries.values)) == column.entries.count  # type: ignore[union-attr]
