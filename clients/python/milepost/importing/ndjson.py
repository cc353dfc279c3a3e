"""NDJSON files: one JSON object a line.

A member is a column: the user id, name, time and so on under the names that the settings give, every other
one an attribute, of the kind its JSON value has: string, number, bool, or array of strings. The contract's
own form of an event is understood as well: `userId` and `eventId`, attributes in an object `attributes`,
their values in objects such as `{"numberValue": 9.5}`.

Values keep the kind they are sent with, row by row, which is why the lines are read one by one and not by a
reader that wants one type a column.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence, Set
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from milepost.grammar import INTEGER_EXACT_MAX
from milepost.importing.errors import CannotImport
from milepost.importing.files import open_text
from milepost.importing.json_values import (
    Instant,
    JsonValue,
    MayBeInexact,
    UnfitValue,
    UnknownShape,
    exact_float,
    json_value,
)
from milepost.importing.settings import EVENT_ID, USER_ID, Reading
from milepost.importing.source import Malformed, Segment

FIRST_LINES = 1_000
"""Lines whose columns are looked at before any is sent."""
SEGMENT_ROWS = 1 << 17
"""Fewer than in other formats, because a row takes more memory while it is read."""
ATTRIBUTES = "attributes"
TEXT_OR_INTEGER = "must be a string or an integer"
TIME_FORM = "must be a string or a number"

_CAMEL_CASE = {USER_ID: ("userId",), EVENT_ID: ("eventId",)}
_TYPES = {
    str: pa.string(),
    float: pa.float64(),
    bool: pa.bool_(),
    list: pa.list_(pa.string()),
    Instant: pa.timestamp("us", "UTC"),
}
_PLAIN_TYPES = frozenset((str, bool))
_SAFE = float(INTEGER_EXACT_MAX)
_plain = msgspec.json.Decoder().decode
_exact = msgspec.json.Decoder(float_hook=exact_float).decode


class _Unfit(ValueError):
    """A row that cannot be sent: the field below it, and why."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(description)
        self.field = field


class NdjsonSource:
    """The lines of an NDJSON file; empty ones do not count."""

    rows: int | None = None

    def __init__(self, path: Path, reading: Reading, segment_rows: int) -> None:
        self._path = path
        self._reading = reading
        self._segment_rows = min(SEGMENT_ROWS, segment_rows)
        with open_text(path) as file:
            if file.read(1) == b"[":
                raise CannotImport(
                    f"{path}, line 1: the file is a JSON array; each line must be an object of its own:"
                    f" jq -c '.[]' {path.name} > {path.stem}.ndjson"
                )

        self.columns, self.has_all_columns = self._first_columns()

    def _first_columns(self) -> tuple[Sequence[str] | None, bool]:
        """The columns of the first lines, None when none of these is an object; whether there are no more."""
        columns: dict[str, None] = {}
        own = self._reading.own_columns
        fields = {other: name for name, others in _CAMEL_CASE.items() if name in own for other in others}
        has_objects = False
        with open_text(self._path) as file:
            lines = (line for line in file if line.strip())
            for line in islice(lines, FIRST_LINES):
                try:
                    row = _parsed(line, _plain)
                except _Unfit:
                    continue
                has_objects = True
                _shape(row, self._reading)
                names = (fields.get(name, name) for name in row if not self._reading.leaves_out(name))
                columns.update(dict.fromkeys(names))
            is_all = next(lines, None) is None
        return list(columns) if has_objects else None, is_all

    def segments(self, first_row: int, malformed: int) -> Iterator[Segment]:
        """See `Source`."""
        with open_text(self._path) as file:
            lines = (line for line in file if line.strip())
            for _ in islice(lines, first_row):
                pass
            while taken := list(islice(lines, self._segment_rows)):
                yield self._segment(first_row, taken)
                first_row += len(taken)

    def _segment(self, first_row: int, lines: Sequence[bytes]) -> Segment:
        columns = _Columns(self._reading)
        malformed = []
        places = []
        for place, line in enumerate(lines):
            try:
                _add(columns, line)
            except _Unfit as error:
                data = line.decode(errors="replace").rstrip()
                malformed.append(Malformed(first_row + place, error.field, str(error), data))
            else:
                places.append(place)
        batch = columns.batch()
        return Segment(first_row, len(lines), [batch], {}, malformed, places, columns.left_out)


def _add(columns: _Columns, line: bytes) -> None:
    try:
        columns.add(_parsed(line, _plain), is_checked=False)
    except MayBeInexact:
        columns.add(_parsed(line, _exact), is_checked=True)


def _parsed(line: bytes, decode: Any) -> dict[str, Any]:
    try:
        row = decode(line)
    except (ValueError, RecursionError) as error:
        raise _Unfit("", f"is no JSON: {error}") from error
    if not isinstance(row, dict):
        raise _Unfit("", "is no JSON object")
    return row


def _shape(row: dict[str, Any], reading: Reading) -> None:
    """Puts what is in objects where columns are."""
    for path in reading.flatten:
        _flatten(row, path, reading.own_columns)
    if isinstance(row.get(ATTRIBUTES), dict):
        _flatten(row, ATTRIBUTES, reading.own_columns)


def _flatten(row: dict[str, Any], path: str, own: Set[str]) -> None:
    """Puts the members of an object among those of the row. One whose name is taken there, or belongs to a
    column that is no attribute, gets the object's name before its own.
    """
    holder: Any = row
    *outer, last = [path] if path in row else path.split(".")
    for step in outer:
        holder = holder.get(step)
        if not isinstance(holder, dict):
            return
    if not isinstance(holder.get(last), dict):
        return
    for name, value in holder.pop(last).items():
        row[f"{path}.{name}" if name in row or name in own else name] = value


class _Columns:
    """Rows on their way to columns."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._count = 0
        self._times = frozenset(reading.time_columns)
        self._own: dict[str, list[str | None]] = {
            name: [] for name in (*reading.text_columns, *reading.time_columns)
        }
        self._bools = frozenset(reading.bool_columns)
        self._values: dict[str, _Values] = {}
        self._excluded: dict[str, bool] = {}
        self.left_out: Counter[str] = Counter()

    def add(self, row: dict[str, Any], is_checked: bool) -> None:
        """Adds a row; raises _Unfit or MayBeInexact, and then adds nothing of it."""
        if self._reading.flatten or ATTRIBUTES in row:
            _shape(row, self._reading)
        texts = []
        for name in self._own:
            value = row.pop(name, None)
            texts.append(value if type(value) is str else self._own_text(row, name, value))
        values, left_out = self._attributes(row, is_checked)
        for column, text in zip(self._own.values(), texts, strict=True):
            column.append(text)
        for name, given in values:
            found = self._values.get(name)
            if found is None:
                found = self._values[name] = _Values()
            found.add(self._count, given)
        if left_out:
            self.left_out.update(left_out)
        self._count += 1

    def _own_text(self, row: dict[str, Any], name: str, value: Any) -> str | None:
        """The text of a column that is no attribute, from another member where its own has no value."""
        if value is None:
            value = self._other(row, name)
        return _time(name, value) if name in self._times else self._text(name, value)

    def _text(self, name: str, value: Any) -> str | None:
        if isinstance(value, bool) and name in self._bools:
            return str(value)
        return _text(name, value)

    def _attributes(
        self, row: dict[str, Any], is_checked: bool
    ) -> tuple[list[tuple[str, JsonValue]], list[str]]:
        """The values of the attributes, and the names of what was left out."""
        values: list[tuple[str, JsonValue]] = []
        left_out = []
        for name, given in row.items():
            if self._reading.exclude and self._is_excluded(name):
                continue
            if type(given) in _PLAIN_TYPES or (type(given) is float and -_SAFE < given < _SAFE):
                # As `json_value` has it; most values are of these.
                values.append((name, given))
                continue
            try:
                value = json_value(given, is_checked)
            except UnknownShape as error:
                if not self._reading.skip_objects:
                    raise _Unfit(f"attributes[{name!r}]", str(error)) from error
                left_out.append(name)
            except UnfitValue as error:
                raise _Unfit(f"attributes[{name!r}]", str(error)) from error
            else:
                if value is not None:
                    values.append((name, value))
        return values, left_out

    def _is_excluded(self, name: str) -> bool:
        if name not in self._excluded:
            self._excluded[name] = self._reading.leaves_out(name)
        return self._excluded[name]

    def _other(self, row: dict[str, Any], name: str) -> Any:
        for other in _CAMEL_CASE.get(name, ()):
            if other in row:
                return row.pop(other)
        fallbacks = self._reading.fallbacks.get(name, ())
        return next((row[other] for other in fallbacks if row.get(other) is not None), None)

    def batch(self) -> Any:
        """The rows as a record batch."""
        columns = {name: pa.array(texts, pa.string()) for name, texts in self._own.items()}
        for name, values in self._values.items():
            columns[name] = values.array(self._count)
        return pa.RecordBatch.from_pydict(columns)


class _Values:
    """The values of one attribute, by their Python type."""

    def __init__(self) -> None:
        self._by_type: dict[type, tuple[list[int], list[Any]]] = {}

    def add(self, row: int, value: Any) -> None:
        rows, values = self._by_type.setdefault(type(value), ([], []))
        rows.append(row)
        values.append(value)

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


def _text(name: str, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise _Unfit(name, TEXT_OR_INTEGER)


def _time(name: str, value: Any) -> str | None:
    """A time as a text; a number, which counts in the time unit, may have a fraction."""
    if isinstance(value, float):
        return f"{value:.9f}".rstrip("0").rstrip(".")
    try:
        return _text(name, value)
    except _Unfit:
        raise _Unfit(name, TIME_FORM) from None
