"""Large batches of events by column, read as `data.event_records` reads them.

From a few dozen events on, what is done once a column costs less than what is done once an event.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from engine.event_columns import EventColumns, TextColumn, ValueColumn
from engine.ingest import ColumnBatch, Rejection
from engine.values import Kind, Value, kind_of
from milepost.v1 import data_pb2
from service.convert.data import Malformed, attribute_value, event_time, event_type, rejection_of

BY_COLUMN_EVENTS_MIN = 64
"""Smaller batches cost less event by event."""

V = TypeVar("V", bound=Value)

_Lists = defaultdict[str, tuple[list[int], list[Value]]]
"""For each attribute the rows that have a value of one kind, and the values."""


def event_columns(messages: Iterable[data_pb2.Event], input_: str) -> ColumnBatch:
    """The events that have the shape of one, and what is wrong with the others. `input_` is that of events
    that name none.
    """
    places: list[int] = []
    rejections: list[Rejection] = []
    taken: list[data_pb2.Event] = []
    times: list[int] = []
    types = bytearray()
    values: dict[Kind, _Lists] = {kind: defaultdict(_no_values) for kind in Kind}
    for place, message in enumerate(messages):
        try:
            _add_attributes(message, len(taken), values)
            time, type_ = event_time(message), event_type(message)
        except Malformed as error:
            rejections.append(rejection_of("events", place, error))
            _forget_row(len(taken), values)
            continue
        places.append(place)
        taken.append(message)
        times.append(time)
        types.append(type_)
    event_ids = [message.event_id for message in taken]
    columns = EventColumns(
        user_ids=_text_column([message.user_id for message in taken]),
        inputs=_text_column([message.input or input_ for message in taken]),
        names=_text_column([message.name for message in taken]),
        type_bytes=bytes(types),
        time_bytes=np.array(times, "<i8").tobytes(),
        attributes=[
            _value_column(name, kind, rows, found, len(taken))
            for kind, lists in values.items()
            for name, (rows, found) in lists.items()
            if rows
        ],
        event_ids=event_ids if any(event_ids) else None,
    )
    return ColumnBatch(columns, places, rejections)


def _no_values() -> tuple[list[int], list[Value]]:
    return [], []


def _add_attributes(message: data_pb2.Event, row: int, values: dict[Kind, _Lists]) -> None:
    texts, numbers = values[Kind.STRING], values[Kind.NUMBER]
    for key, value in message.attributes.items():
        # The two common kinds first, without a call: see `value_of`.
        text = value.string_value
        if text:
            lists = texts[key]
            lists[1].append(text)
        elif number := value.number_value:
            lists = numbers[key]
            lists[1].append(number)
        else:
            other = attribute_value(key, value)
            lists = values[kind_of(other)][key]
            lists[1].append(other)
        lists[0].append(row)


def _forget_row(row: int, values: dict[Kind, _Lists]) -> None:
    """Removes the values of a row that turned out malformed."""
    for lists in values.values():
        for rows, found in lists.values():
            if rows and rows[-1] == row:
                rows.pop()
                found.pop()


def _text_column(texts: Sequence[str]) -> TextColumn:
    numbers = _numbered(texts)
    return TextColumn.of(list(numbers), _codes(texts, numbers))


def _value_column(name: str, kind: Kind, rows: list[int], values: list[Value], count: int) -> ValueColumn:
    places = None if len(rows) == count else np.array(rows)
    if kind is Kind.NUMBER:
        return ValueColumn.of(name, kind, places, np.array(values, np.float64))
    if kind is Kind.TIME:
        return ValueColumn.of(name, kind, places, np.array(values, np.int64))
    numbers = _numbered(values)
    return ValueColumn.of(name, kind, places, _codes(values, numbers), list(numbers))


def _numbered(values: Iterable[V]) -> dict[V, int]:
    """Each distinct value with its place among them. All are of one kind, so that equal ones are the same."""
    return {value: number for number, value in enumerate(dict.fromkeys(values))}


def _codes(values: Sequence[V], numbers: dict[V, int]) -> npt.NDArray[np.uint32]:
    return np.fromiter(map(numbers.__getitem__, values), np.uint32, len(values))
