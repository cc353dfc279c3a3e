"""Converts large batches of events into columns, with the semantics of `data.event_records`.

From a few dozen events on, work per column is cheaper than work per event.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from engine.event_columns import EventColumns, TextColumn, ValueColumn
from engine.ingest import ColumnBatch, Rejection
from engine.limits import BATCH_COLUMNS_MAX, DEFAULT_LIMITS, Limits
from engine.new_names import TOO_MANY_NAMES
from engine.values import Kind, Value, kind_of
from milepost.v1 import data_pb2
from service.convert.data import (
    Malformed,
    attribute_value,
    attributes_of,
    event_time,
    event_type,
    rejection_of,
)

BY_COLUMN_EVENTS_MIN = 64
"""Below this size, event by event is cheaper."""

V = TypeVar("V", bound=Value)

_Lists = defaultdict[str, tuple[list[int], list[Value]]]
"""For each attribute and kind, the rows with a value, and the values."""


_NO_VALUES: tuple[list[int], list[Value]] = ([], [])


def event_columns(
    messages: Iterable[data_pb2.Event], input_: str, limits: Limits = DEFAULT_LIMITS
) -> ColumnBatch:
    """The well-formed events, and the faults of the others. `input_` applies to events without one."""
    places: list[int] = []
    rejections: list[Rejection] = []
    taken: list[data_pb2.Event] = []
    times: list[int] = []
    types = bytearray()
    values: dict[Kind, _Lists] = {kind: defaultdict(_no_values) for kind in Kind}
    for place, message in enumerate(messages):
        try:
            _add_attributes(message, len(taken), values, limits)
            _refuse_too_many(values)
            time, type_ = event_time(message), event_type(message)
        except Malformed as error:
            rejections.append(rejection_of("events", place, error))
            _forget_row(message, len(taken), values)
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
        ],
        event_ids=event_ids if any(event_ids) else None,
    )
    return ColumnBatch(columns, places, rejections)


def _no_values() -> tuple[list[int], list[Value]]:
    return [], []


def _add_attributes(message: data_pb2.Event, row: int, values: dict[Kind, _Lists], limits: Limits) -> None:
    given = attributes_of(message, limits)
    texts, numbers = values[Kind.STRING], values[Kind.NUMBER]
    for key, value in given.items():
        # The two common kinds first, without a call: see `value_of`.
        text = value.string_value
        if text:
            lists = texts[key]
            lists[1].append(text)
        elif number := value.number_value:
            lists = numbers[key]
            lists[1].append(number)
        else:
            other = attribute_value(key, value, limits)
            if other is None:
                continue
            lists = values[kind_of(other)][key]
            lists[1].append(other)
        lists[0].append(row)


def _refuse_too_many(values: dict[Kind, _Lists]) -> None:
    """Raises Malformed when the batch has too many columns with the latest row."""
    if sum(map(len, values.values())) > BATCH_COLUMNS_MAX:
        raise Malformed(
            "attributes",
            f"brings the batch over {BATCH_COLUMNS_MAX} different attributes: send it in another batch",
            TOO_MANY_NAMES,
        )


def _forget_row(message: data_pb2.Event, row: int, values: dict[Kind, _Lists]) -> None:
    """Removes the values of a row that turned out malformed."""
    for name in message.attributes:
        for lists in values.values():
            rows, found = lists.get(name, _NO_VALUES)
            if rows and rows[-1] == row:
                rows.pop()
                found.pop()
                if not rows:
                    del lists[name]


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
    """Each distinct value with its index. All have one kind, so equal values are the same."""
    return {value: number for number, value in enumerate(dict.fromkeys(values))}


def _codes(values: Sequence[V], numbers: dict[V, int]) -> npt.NDArray[np.uint32]:
    return np.fromiter(map(numbers.__getitem__, values), np.uint32, len(values))
