"""NDJSON files: one JSON object per line.

A member is a column: user id, name, time and so on by the names in the settings, every other member an
attribute of the kind of its JSON value: string, number, bool, or array of strings. The contract's own form of
an event works too: `userId` and `eventId`, attributes in an object `attributes`, their values in objects such
as `{"numberValue": 9.5}`.

Lines are read one by one, because the values of a column may differ in kind.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from itertools import chain, islice
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from milepost.grammar import INTEGER_EXACT_MAX, float_time
from milepost.importing.errors import CannotImport, nameless
from milepost.importing.files import conversion, open_text
from milepost.importing.json_values import (
    Instant,
    JsonValue,
    MayBeInexact,
    UnfitValue,
    UnknownShape,
    exact_float,
    json_value,
)
from milepost.importing.settings import EVENT_ID, UNNAMED, USER_ID, Reading, Shaping
from milepost.importing.source import (
    ROW_BYTES_MAX,
    ROW_TOO_LONG,
    SEGMENT_BYTES,
    Malformed,
    Segment,
    within_bytes,
)
from milepost.time_units import UNIT_NANOS

FIRST_LINES = 1_000
"""Lines whose columns are checked before a row is sent."""
SEGMENT_ROWS = 1 << 17
"""Fewer than in other formats, because rows take more memory."""
CELLS_MAX = 1 << 25
"""Maximum values of all attributes of a segment, missing ones included, unless it is a single row."""
ATTRIBUTES = "attributes"
WIDE_ROW = 256
"""A row with fewer attributes is not looked at before its columns are added."""
ATTRIBUTES_MAX = 10_000
"""A line with more is set aside: a column for each of them would keep a service busy for minutes."""
JQ_LINES = "jq -c '.[]'"
"""Makes lines of the elements of a JSON array."""
JQ_COMPACT = "jq -c ."
"""Makes a line of each JSON value."""
TEXT_OR_INTEGER = "must be a string or an integer"
TIME_FORM = "must be a string or a number"
NAMELESS = "has a member without a name that is not empty"

_CAMEL_CASE = {USER_ID: ("userId",), EVENT_ID: ("eventId",)}
_TYPES = {
    str: pa.string(),
    float: pa.float64(),
    bool: pa.bool_(),
    list: pa.list_(pa.string()),
    Instant: pa.timestamp("us", "UTC"),
}
_LOOKED_AT_BYTES = 4096
_SPACES = b" \t\r"
_PLAIN_TYPES = frozenset((str, bool))
_SAFE = float(INTEGER_EXACT_MAX)
_plain = msgspec.json.Decoder().decode
_exact = msgspec.json.Decoder(float_hook=exact_float).decode


class _Unfit(ValueError):
    """A row that cannot be sent: the field at fault and the reason."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(description)
        self.field = field


class _Full(Exception):
    """The columns have no room for a row: it is the first of the next segment."""


class NdjsonSource:
    """The lines of an NDJSON file, without empty ones."""

    rows: int | None = None

    def __init__(self, path: Path, reading: Reading, segment_rows: int) -> None:
        self._path = path
        self._reading = reading
        self.shaping = Shaping(reading)
        self._segment_rows = min(SEGMENT_ROWS, segment_rows)
        with open_text(path) as file:
            first, _, others = file.read(_LOOKED_AT_BYTES).lstrip().partition(b"\n")
        if first[:1] == b"[":
            raise CannotImport(
                f"{path}, line 1: the file is a JSON array; each line must be an object of its own:"
                f" {conversion(path, JQ_LINES)}"
            )
        if first.strip() == b"{" and others.lstrip()[:1] in (b'"', b"}"):
            raise CannotImport(
                f"{path}, line 1: an object goes over several lines; each must be on a line of its own:"
                f" {conversion(path, JQ_COMPACT)}"
            )
        self.columns, self.has_all_columns = self._first_columns()

    def _first_columns(self) -> tuple[Sequence[str] | None, bool]:
        """The columns of the first lines (None if none is an object), and whether these are all lines."""
        columns: dict[str, None] = {}
        own = self._reading.own_columns
        fields = {other: name for name, others in _CAMEL_CASE.items() if name in own for other in others}
        has_objects = False
        with open_text(self._path) as file:
            lines = (line for line in file if line.strip())
            for place, line in enumerate(islice(lines, FIRST_LINES)):
                try:
                    row = _parsed(line, _exact)
                except _Unfit:
                    continue
                has_objects = True
                _shape(row, self._reading, self.shaping)
                names = [fields.get(name, name) for name in row if not self.shaping.leaves_out(name)]
                if UNNAMED in names and not _is_empty(row[UNNAMED]):
                    raise nameless(f"{self._path}: a member", place, row[UNNAMED])
                columns.update(dict.fromkeys(name for name in names if name != UNNAMED))
            is_all = next(lines, None) is None
        return list(columns) if has_objects else None, is_all

    def segments(self, first_row: int, malformed: int) -> Iterator[Segment]:
        """See `Source`."""
        with open_text(self._path) as file:
            lines = (line for line in file if line.strip())
            for _ in islice(lines, first_row):
                pass
            held: Sequence[bytes] = ()
            while True:
                segment, held = self._segment(first_row, chain(held, lines))
                if not segment.rows:
                    return
                yield segment
                first_row += segment.rows

    def _segment(self, first_row: int, lines: Iterator[bytes]) -> tuple[Segment, Sequence[bytes]]:
        """The next lines, as many as memory allows, and a line that was read and has no room."""
        columns = _Columns(self._reading, self.shaping)
        malformed = []
        places = []
        rows = size_bytes = 0
        held: Sequence[bytes] = ()
        for place, line in enumerate(islice(lines, self._segment_rows)):
            try:
                _add(columns, line)
            except _Full:
                held = (line,)
                break
            except _Unfit as error:
                data = line.decode(errors="replace").rstrip()
                malformed.append(Malformed(first_row + place, error.field, str(error), data))
            else:
                places.append(place)
            rows = place + 1
            size_bytes += len(line)
            if size_bytes >= SEGMENT_BYTES:
                break
        batches = within_bytes([columns.batch()])
        return Segment(first_row, rows, batches, {}, malformed, places, columns.left_out), held


def _add(columns: _Columns, line: bytes) -> None:
    if len(line) > ROW_BYTES_MAX:
        raise _Unfit("", ROW_TOO_LONG)
    try:
        columns.add(_parsed(line, _plain), is_checked=False)
    except MayBeInexact:
        columns.add(_parsed(line, _exact), is_checked=True)


def _parsed(line: bytes, decode: Any) -> dict[str, Any]:
    try:
        row = decode(line)
        # The decoder keeps the last of two members of one name. Nearly every line has a colon after each name
        # and after no other quote: only the others are parsed again, which takes longer.
        if isinstance(row, dict) and line.translate(None, _SPACES).count(b'":') != _members(row):
            json.loads(line, object_pairs_hook=_once)
    except _Unfit:
        raise
    except msgspec.ValidationError as error:
        # A number beyond the range of a double. The other decoder takes it, unless it is a very long integer.
        if decode is _plain:
            raise MayBeInexact from error
        raise _Unfit("", "has an integer of too many digits") from error
    except (ValueError, RecursionError) as error:
        raise _Unfit("", f"is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise _Unfit("", "is not a JSON object")
    return row


def _members(value: dict[str, Any] | list[Any]) -> int:
    """Number of members in an object or array, those of nested objects included."""
    inner, count = (value.values(), len(value)) if isinstance(value, dict) else (value, 0)
    for each in inner:
        if isinstance(each, dict | list):
            count += _members(each)
    return count


def _once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) < len(members):
        [(name, _), *_] = Counter(name for name, _ in members).most_common(1)
        raise _Unfit("", f"has the member {name!r} twice")
    return found


def _shape(row: dict[str, Any], reading: Reading, shaping: Shaping) -> None:
    """Makes columns of the members of objects."""
    for path in reading.flatten:
        if _flatten(row, path, reading.own_columns):
            shaping.flattens(path)
    if isinstance(row.get(ATTRIBUTES), dict):
        _flatten(row, ATTRIBUTES, reading.own_columns)


def _flatten(row: dict[str, Any], path: str, own: Set[str]) -> bool:
    """Moves the members of an object into the row; False if there is none. A member whose name is taken
    there, or is that of a column that is not an attribute, gets the object's name as a prefix. Enclosing
    objects that are empty then are removed.
    """
    steps = [path] if path in row else path.split(".")
    holders: list[Any] = [row]
    for step in steps:
        holders.append(holders[-1].get(step))
        if not isinstance(holders[-1], dict):
            return False
    members = dict(holders[-1])
    holders[-1].clear()
    for holder, step in zip(reversed(holders[:-1]), reversed(steps), strict=True):
        if holder[step]:
            break
        del holder[step]
    for name, value in members.items():
        row[f"{path}.{name}" if name in row or name in own else name] = value
    return True


class _Columns:
    """Builds columns from rows."""

    def __init__(self, reading: Reading, shaping: Shaping) -> None:
        self._reading = reading
        self._shaping = shaping
        self._count = 0
        self._times = frozenset(reading.time_columns)
        self._own: dict[str, list[str | None]] = {
            name: [] for name in (*reading.text_columns, *reading.time_columns)
        }
        self._bools = frozenset(reading.bool_columns)
        self._contract = {
            name: member
            for name, member in reading.contract_members.items()
            if name not in self._own and name not in reading.kinds and not reading.leaving_out(name)
        }
        self._values: dict[str, _Values] = {}
        self._rows_max = CELLS_MAX
        """As many rows have room in the columns so far."""
        self._excluded: dict[str, bool] = {}
        self.left_out: Counter[str] = Counter()

    def add(self, row: dict[str, Any], is_checked: bool) -> None:
        """Adds a row. Raises _Unfit, MayBeInexact or _Full; then nothing is added."""
        if self._reading.flatten or ATTRIBUTES in row:
            _shape(row, self._reading, self._shaping)
        texts = []
        for name in self._own:
            value = row.pop(name, None)
            texts.append(value if type(value) is str else self._own_text(row, name, value))
        fields = self._contract_fields(row)
        values, left_out = self._attributes(row, is_checked)
        values += fields
        if self._count >= self._rows_max or len(values) > WIDE_ROW:
            self._check_room(values)
        for column, text in zip(self._own.values(), texts, strict=True):
            column.append(text)
        for name, given in values:
            found = self._values.get(name)
            if found is None:
                found = self._values[name] = _Values()
                self._rows_max = CELLS_MAX // len(self._values)
            found.add(self._count, given)
        if left_out:
            self.left_out.update(left_out)
        self._count += 1

    def _check_room(self, values: Sequence[tuple[str, JsonValue]]) -> None:
        """Raises _Unfit for too many values, and _Full if they would make the columns too large."""
        if len(values) > ATTRIBUTES_MAX:
            raise _Unfit(
                ATTRIBUTES, f"has {len(values):,} attributes; at most {ATTRIBUTES_MAX:,} are allowed"
            )
        names = {*self._values, *(name for name, _ in values)}
        if self._count and len(names) * (self._count + 1) > CELLS_MAX:
            raise _Full

    def _contract_fields(self, row: dict[str, Any]) -> list[tuple[str, JsonValue]]:
        """Takes the contract's own fields out of a row."""
        found: list[tuple[str, JsonValue]] = []
        for name, member in self._contract.items():
            value = row.get(name)
            if type(value) is str and value.startswith(member.prefix):
                found.append((member.column, row.pop(name)))
        return found

    def _own_text(self, row: dict[str, Any], name: str, value: Any) -> str | None:
        """The text of a column that is not an attribute, or of a member that stands in for it."""
        if value is None:
            value = self._other(row, name)
        return self._time(name, value) if name in self._times else self._text(name, value)

    def _time(self, name: str, value: Any) -> str | None:
        """A time as text. A number counts the time unit."""
        try:
            if isinstance(value, float):
                return float_time(value, UNIT_NANOS[self._reading.time_unit])
            return _text(name, value)
        except _Unfit:
            raise _Unfit(name, TIME_FORM) from None
        except ValueError as error:
            raise _Unfit(name, str(error)) from None

    def _text(self, name: str, value: Any) -> str | None:
        if isinstance(value, bool) and name in self._bools:
            return str(value)
        return _text(name, value)

    def _attributes(
        self, row: dict[str, Any], is_checked: bool
    ) -> tuple[list[tuple[str, JsonValue]], list[str]]:
        """The values of the attributes, and the names of those left out."""
        values: list[tuple[str, JsonValue]] = []
        left_out = []
        for name, given in row.items():
            if self._reading.exclude and self._is_excluded(name):
                continue
            if name == UNNAMED:
                if _is_empty(given):
                    continue
                raise _Unfit(UNNAMED, NAMELESS)
            if type(given) in _PLAIN_TYPES or (type(given) is float and -_SAFE < given < _SAFE):
                # A fast path for most values, with the result of `json_value`.
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
            self._excluded[name] = self._shaping.leaves_out(name)
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
        """A value or null for each row: an array of one type, or a union."""
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


def _is_empty(value: Any) -> bool:
    return value is None or value == ""


def _text(name: str, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise _Unfit(name, TEXT_OR_INTEGER)
