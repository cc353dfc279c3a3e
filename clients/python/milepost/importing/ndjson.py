"""NDJSON files: one JSON object a line.

A member is a column: the user id, name, time and so on under the names that the settings give, every other
one an attribute, of the kind its JSON value has: string, number, bool, or array of strings. The contract's
own form of an event is understood as well: `userId` and `eventId`, attributes in an object `attributes`,
their values in objects such as `{"numberValue": 9.5}`.

Values keep the kind they are sent with, row by row, which is why the lines are read one by one and not by a
reader that wants one type a column.
"""

from __future__ import annotations

import codecs
import gzip
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec
import pyarrow as pa

from milepost.importing.errors import CannotImport
from milepost.importing.settings import EVENT_ID, USER_ID, Settings
from milepost.importing.source import COMPRESSED_SUFFIX, Malformed, Segment
from milepost.v1.catalog_service_pb2 import VALUE_KIND_TIME, ValueKind

SEGMENT_ROWS = 1 << 17
"""Fewer than in other formats, because a row takes more memory while it is read."""
FIRST_LINES = 1_000
"""Lines whose columns are looked at before any is sent."""
ATTRIBUTES = "attributes"
TEXT_OR_INTEGER = "must be a string or an integer"
EXACT_INTEGER_MAX = 1 << 53

_CAMEL_CASE = {USER_ID: "userId", EVENT_ID: "eventId"}
_MESSAGE_VALUES = ("stringValue", "numberValue", "boolValue", "timeValue", "listValue")
_TYPES = {str: pa.string(), float: pa.float64(), bool: pa.bool_(), list: pa.list_(pa.string())}


class _Unfit(ValueError):
    """A row that cannot be sent: the field below it, and why."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(description)
        self.field = field


class NdjsonSource:
    """The lines of an NDJSON file; empty ones do not count."""

    rows: int | None = None

    def __init__(self, path: Path, settings: Settings, segment_rows: int) -> None:
        self._path = path
        self._texts = settings.text_columns
        self._time = settings.time_column
        self._segment_rows = min(SEGMENT_ROWS, segment_rows)
        self.columns, self.has_all_columns = self._first_columns()

    def segments(self, first_row: int, malformed: int) -> Iterator[Segment]:
        """See `Source`."""
        try:
            with self._open() as file:
                lines = (line for line in file if line.strip())
                for _ in islice(lines, first_row):
                    pass
                while taken := list(islice(lines, self._segment_rows)):
                    yield self._segment(first_row, taken)
                    first_row += len(taken)
        except (EOFError, OSError) as error:
            raise CannotImport(f"{self._path} cannot be read: {error}") from error

    def _first_columns(self) -> tuple[Sequence[str] | None, bool]:
        """The columns of the first lines, None when none of these is an object; whether there are no more."""
        columns: dict[str, None] = {}
        fields = {other: name for name, other in _CAMEL_CASE.items() if name in self._texts}
        has_objects = False
        try:
            with self._open() as file:
                lines = (line for line in file if line.strip())
                for line in islice(lines, FIRST_LINES):
                    try:
                        row = _parsed(line)
                    except _Unfit:
                        continue
                    has_objects = True
                    nested = row.pop(ATTRIBUTES, None) if isinstance(row.get(ATTRIBUTES), dict) else None
                    columns.update(dict.fromkeys(fields.get(name, name) for name in (*row, *(nested or {}))))
                is_all = next(lines, None) is None
        except (EOFError, OSError) as error:
            raise CannotImport(f"{self._path} cannot be read: {error}") from error
        return list(columns) if has_objects else None, is_all

    def _open(self) -> BinaryIO:
        if self._path.name.lower().endswith(COMPRESSED_SUFFIX):
            return cast(BinaryIO, gzip.open(self._path))
        return self._path.open("rb")

    def _segment(self, first_row: int, lines: Sequence[bytes]) -> Segment:
        columns = _Columns(self._texts, self._time)
        malformed = []
        places = []
        for place, line in enumerate(lines):
            try:
                columns.add(_parsed(line))
            except _Unfit as error:
                data = line.decode(errors="replace").rstrip()
                malformed.append(Malformed(first_row + place, error.field, str(error), data))
            else:
                places.append(place)
        batch = columns.batch()
        return Segment(first_row, len(lines), [batch], columns.kinds(), malformed, places)


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        row = msgspec.json.decode(line.removeprefix(codecs.BOM_UTF8))
    except (ValueError, RecursionError) as error:
        raise _Unfit("", f"is no JSON: {error}") from error
    if not isinstance(row, dict):
        raise _Unfit("", "is no JSON object")
    return row


class _Columns:
    """Rows on their way to columns."""

    def __init__(self, texts: Sequence[str], time: str) -> None:
        self._count = 0
        self._texts: dict[str, list[str | None]] = {name: [] for name in (*texts, time)}
        self._values: dict[str, _Values] = {}

    def add(self, row: dict[str, Any]) -> None:
        """Adds a row; raises _Unfit, and then adds nothing of it."""
        texts = [_text(name, _pop(row, name)) for name in self._texts]
        nested = row.pop(ATTRIBUTES, None) if isinstance(row.get(ATTRIBUTES), dict) else None
        values = [(name, *_value(name, given)) for name, given in {**row, **(nested or {})}.items()]
        for column, text in zip(self._texts.values(), texts, strict=True):
            column.append(text)
        for name, value, is_time in values:
            if value is not None:
                self._values.setdefault(name, _Values()).add(self._count, value, is_time)
        self._count += 1

    def batch(self) -> Any:
        """The rows as a record batch."""
        columns = {name: pa.array(texts, pa.string()) for name, texts in self._texts.items()}
        for name, values in self._values.items():
            columns[name] = values.array(self._count)
        return pa.RecordBatch.from_pydict(columns)

    def kinds(self) -> dict[str, ValueKind.ValueType]:
        """Attributes whose strings are times."""
        return {name: VALUE_KIND_TIME for name, values in self._values.items() if values.are_times}


class _Values:
    """The values of one attribute, by their Python type."""

    def __init__(self) -> None:
        self._by_type: dict[type, tuple[list[int], list[Any]]] = {}
        self.are_times = True

    def add(self, row: int, value: Any, is_time: bool) -> None:
        rows, values = self._by_type.setdefault(type(value), ([], []))
        rows.append(row)
        values.append(value)
        self.are_times = self.are_times and is_time

    def array(self, count: int) -> Any:
        """A value or null for each row: of one type, or of a union of several."""
        codes = [0] * count
        children = []
        for code, (kind, (rows, values)) in enumerate(self._by_type.items()):
            spread: list[Any] = [None] * count
            for row, value in zip(rows, values, strict=True):
                codes[row], spread[row] = code, value
            children.append(pa.array(spread, _TYPES[kind]))
        if len(children) == 1:
            return children[0]
        names = [kind.__name__ for kind in self._by_type]
        return pa.UnionArray.from_sparse(pa.array(codes, pa.int8()), children, names)


def _pop(row: dict[str, Any], name: str) -> Any:
    value = row.pop(name, None)
    other = _CAMEL_CASE.get(name)
    return row.pop(other, None) if value is None and other is not None else value


def _text(name: str, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise _Unfit(name, TEXT_OR_INTEGER)


def _value(name: str, given: Any) -> tuple[str | float | bool | list[str] | None, bool]:
    """The value, and whether it is a string that is a time."""
    is_time = False
    if isinstance(given, Mapping):
        given, is_time = _of_message(name, given)
    if given is None or isinstance(given, str | bool | float):
        return given, is_time
    if isinstance(given, int):
        if abs(given) > EXACT_INTEGER_MAX:
            raise _unfit_value(name, "is an integer beyond 2^53, which no number holds exactly")
        return float(given), False
    if isinstance(given, list) and all(isinstance(each, str) for each in given):
        return given, False
    raise _unfit_value(name, "must be a string, a number, a bool or an array of strings")


def _of_message(name: str, given: Mapping[str, Any]) -> tuple[Any, bool]:
    """The value in the JSON form of the contract's `Value`."""
    if len(given) != 1 or not given.keys() <= set(_MESSAGE_VALUES):
        raise _unfit_value(name, "is an object, but none with one of " + ", ".join(_MESSAGE_VALUES))
    [(kind, value)] = given.items()
    if kind == "listValue" and isinstance(value, Mapping):
        return value.get("values", []), False
    return value, kind == "timeValue"


def _unfit_value(name: str, description: str) -> _Unfit:
    return _Unfit(f"attributes[{name!r}]", description)
