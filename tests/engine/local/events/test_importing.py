"""From columns as they arrive to the frames of tables."""

from __future__ import annotations

import numpy as np

from engine.criteria.model import EventType
from engine.event_columns import EventColumns, TextColumn, ValueColumn
from engine.local.directory import PLACE_SHIFT
from engine.local.events import ArrivedRows, ColumnNumbers, RowUsers
from engine.local.events.importing import frames_of
from engine.values import Kind

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
    places = (1 << PLACE_SHIFT) + np.array([10, 11, 12])
    return ArrivedRows(columns, RowUsers(places, columns.user_ids.codes), NUMBERS, first)


def test_batches_that_waited_are_cut_into_tables_together() -> None:
    batches = [arrived(0, [2, 0, 2], [0, 0, 1], ["p", "q", "p"]), arrived(3, [0, 1], [0, 0], ["q", "p"])]
    assert batches[0].tables() == {(3, 5, 1), (3, 6, 1)}
    buy, look = frames_of(batches)

    assert (buy.group, buy.input_number, buy.name_number, buy.type) == (1, 3, 5, EventType.CUSTOM)
    assert (look.name_number, look.frame.users.tolist(), look.frame.sequences.tolist()) == (6, [12], [3])
    # By user, then time: each batch was written backwards in time.
    assert buy.frame.users.tolist() == [10, 10, 11, 12]
    assert buy.frame.times.tolist() == [102, 102, 101, 103]
    assert buy.frame.sequences.tolist() == [2, 4, 5, 1]


def test_entries_that_repeat_become_one() -> None:
    for batches in ([arrived(0, [0, 0, 1], [0, 0, 0], ["p", "p", "q"])], [arrived(0, [0], [0], ["p"])] * 2):
        (table,) = frames_of(batches)
        column = table.frame.columns[7, Kind.STRING]
        values = [column.entries.values[code] for code in column.codes.tolist()]  # type: ignore[union-attr]
        assert sorted(values) == ["p", "p", "q"][: len(values)]
        assert len(set(column.entries.values)) == column.entries.count  # type: ignore[union-attr]
