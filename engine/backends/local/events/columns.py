"""Columns: the values of one attribute and one kind, in three physical forms.

============  ===========================================================================================
NUMBER        `NumberColumn`: integers and one decimal exponent when every value is integer × 10^-exponent
              with fewer than 16 digits, otherwise doubles
TIME          `TimeColumn`: microseconds
others        `DictionaryColumn`: each distinct value once, and a code for each row
============  ===========================================================================================

A column knows which rows have a value (`positions`, None = all of them); value i belongs to row positions[i].
-0.0 is the number 0: it is kept as 0.0 in the first form.

Stored form: encoding u8 and whether positions follow u8, padded to 8 bytes, the exponent or the kind among
them; then the packed arrays (`arrays`), doubles as the integers of the same bits. Dictionary entries are
MessagePack, one after the other, compressed (`engine.backends.local.storage.compression`).
"""

from __future__ import annotations

import functools
import struct
import weakref
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec
import numpy as np

from engine.backends.local.events.decimals import integer_bounds, rescaled, scaled
from engine.backends.local.storage.arrays import (
    TIME_UNITS,
    Bools,
    Floats,
    Int64s,
    Ints,
    Positions,
    find_sorted,
    pack_integers,
    packed_size,
    smallest,
    unpack_integers,
)
from engine.backends.local.storage.compression import compressed, decompressed
from engine.backends.local.storage.matching import passing_values
from engine.criteria.operators import Matcher
from engine.criteria.ranges import Interval
from engine.values import Kind, Value

_HEADER = struct.Struct("<BBbxI")
_SCALED, _DOUBLES, _TIMES, _DICTIONARY = range(4)
_ARRAY32_HEADER = 0xDD
_ENTRIES_DECODER: dict[Kind, msgspec.msgpack.Decoder[Any]] = {
    Kind.STRING: msgspec.msgpack.Decoder(list[str]),
    Kind.BOOL: msgspec.msgpack.Decoder(list[bool]),
    Kind.LIST: msgspec.msgpack.Decoder(list[tuple[str, ...]]),
}
_ENTRY_BYTES_GUESS = 80

COMPARED_CODES_MAX = 8
"""Passing entries of a dictionary up to which each row's code is compared with all of them."""

_encoder = msgspec.msgpack.Encoder()


@dataclass(slots=True)
class NumberColumn:
    """Doubles, or `mantissas` × 10^-`exponent`. Initially exactly one form is present."""

    positions: Positions | None
    mantissas: Ints | None
    exponent: int
    _doubles: Floats | None

    @classmethod
    def of(cls, positions: Positions | None, values: Floats) -> NumberColumn:
        """Chooses the form for these values."""
        found = scaled(values)
        if found is None:
            return cls(positions, None, 0, values)
        return cls(positions, smallest(found[0]), found[1], None)

    def __len__(self) -> int:
        return len(self.mantissas if self.mantissas is not None else self.doubles)

    @property
    def doubles(self) -> Floats:
        """The original values."""
        if self._doubles is None:
            assert self.mantissas is not None
            # Both operands are exact and division rounds correctly, so this is the original double.
            self._doubles = self.mantissas.astype(np.float64) / 10.0**self.exponent
        return self._doubles

    def at(self, positions: Ints | slice) -> NumberColumn:
        mantissas = None if self.mantissas is None else self.mantissas[positions]
        doubles = None if self._doubles is None else self._doubles[positions]
        return NumberColumn(None, mantissas, self.exponent, doubles)

    def passing(self, matcher: Matcher, check: Callable[[], None]) -> Bools:
        passed = np.zeros(len(self), np.bool_)
        for interval in matcher.numbers:
            passed |= self.between(interval)
        return passed

    def between(self, interval: Interval) -> Bools:
        """Mask of values in the interval."""
        if self.mantissas is None:
            return doubles_between(self.doubles, interval)
        return integers_between(self.mantissas, *integer_bounds(interval, self.exponent))

    def pack(self) -> bytes:
        head, tail = _packed_positions(self.positions)
        if self.mantissas is None:
            doubles = self.doubles.astype("<f8", copy=False)
            packed = pack_integers(doubles.view("<u8"))
            return _HEADER.pack(_DOUBLES, head, 0, len(doubles)) + tail + packed
        packed = pack_integers(self.mantissas)
        return _HEADER.pack(_SCALED, head, self.exponent, len(self.mantissas)) + tail + packed

    @property
    def nbytes(self) -> int:
        arrays = (self.positions, self.mantissas, self._doubles)
        return sum(array.nbytes for array in arrays if array is not None)


@dataclass(slots=True)
class TimeColumn:
    """Instants in microseconds."""

    positions: Positions | None
    times: Int64s

    def __len__(self) -> int:
        return len(self.times)

    def at(self, positions: Ints | slice) -> TimeColumn:
        return TimeColumn(None, self.times[positions])

    def passing(self, matcher: Matcher, check: Callable[[], None]) -> Bools:
        passed = np.zeros(len(self.times), np.bool_)
        for span in matcher.instants:
            end = None if span.end is None else span.end - 1
            passed |= integers_between(self.times, span.start, end)
        return passed

    def pack(self) -> bytes:
        head, tail = _packed_positions(self.positions)
        packed = pack_integers(self.times, rebase=True, units=TIME_UNITS)
        return _HEADER.pack(_TIMES, head, 0, len(self.times)) + tail + packed

    @property
    def nbytes(self) -> int:
        return self.times.nbytes + (0 if self.positions is None else self.positions.nbytes)


class Entries:
    """Distinct values of a dictionary, decoded on first use."""

    __slots__ = ("_blob", "_values", "count", "kind", "passing")

    def __init__(self, kind: Kind, count: int, blob: bytes = b"", values: list[Value] | None = None) -> None:
        self.kind = kind
        self.count = count
        self._blob = blob
        self._values = values
        # The last test and its result: the same test often runs over a part repeatedly.
        self.passing: tuple[weakref.ref[Matcher], Bools] | None = None

    @property
    def are_decoded(self) -> bool:
        """Whether the values are at hand."""
        return self._values is not None

    @property
    def values(self) -> list[Value]:
        """The entries by code."""
        # The blob first: another thread that decodes it sets the values before it drops the blob.
        blob, values = self._blob, self._values
        if values is None:
            array = struct.pack(">BI", _ARRAY32_HEADER, self.count) + decompressed(blob)
            values = _ENTRIES_DECODER[self.kind].decode(array)
            self._values = values
            self._blob = b""
        return values

    def pack(self) -> bytes:
        return self._blob or compressed(b"".join(map(_encoder.encode, self.values)))

    def test(self, matcher: Matcher, check: Callable[[], None]) -> Bools:
        """Mask of entries that pass. Each is tested once. `check` is called now and then and may raise."""
        last = self.passing
        if last is not None and last[0]() is matcher:
            return last[1]
        passed = passing_values(matcher, self.values, check)
        self.passing = (weakref.ref(matcher), passed)
        return passed


@dataclass(slots=True)
class DictionaryColumn:
    """Codes into `entries`."""

    positions: Positions | None
    codes: Ints
    entries: Entries

    @classmethod
    def of(cls, positions: Positions | None, kind: Kind, values: Sequence[Value]) -> DictionaryColumn:
        """Numbers distinct values in order of first occurrence."""
        numbers: dict[Value, int] = {}
        codes = np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int64)
        return cls(positions, smallest(codes), Entries(kind, len(numbers), values=list(numbers)))

    def __len__(self) -> int:
        return len(self.codes)

    def at(self, positions: Ints | slice) -> DictionaryColumn:
        return DictionaryColumn(None, self.codes[positions], self.entries)

    def trimmed(self) -> DictionaryColumn:
        """The same values without unused entries."""
        if len(self.codes) < self.entries.count:
            # A few rows of a large dictionary.
            used, codes = np.unique(self.codes, return_inverse=True)
        else:
            in_use = np.zeros(self.entries.count, np.bool_)
            in_use[self.codes] = True
            used = np.flatnonzero(in_use)
            if len(used) == self.entries.count:
                return DictionaryColumn(self.positions, smallest(self.codes), self.entries)
            codes = (np.cumsum(in_use) - 1)[self.codes]
        values = self.entries.values
        entries = Entries(self.entries.kind, len(used), values=[values[code] for code in used.tolist()])
        return DictionaryColumn(self.positions, smallest(codes), entries)

    def passing(self, matcher: Matcher, check: Callable[[], None]) -> Bools:
        if len(self.codes) < self.entries.count:
            # A few rows of a large dictionary: test only their entries.
            used, codes = np.unique(self.codes, return_inverse=True)
            values = self.entries.values
            outcomes: Bools = passing_values(matcher, [values[code] for code in used.tolist()], check)
            return outcomes[codes]
        entries = self.entries.test(matcher, check)
        passing = np.flatnonzero(entries).tolist()
        if not 0 < len(passing) <= COMPARED_CODES_MAX:
            return entries.take(self.codes)
        # Comparing small integers is many times faster than looking each one up.
        passed: Bools = self.codes == passing[0]
        for code in passing[1:]:
            passed |= self.codes == code
        return passed

    def pack(self) -> bytes:
        head, tail = _packed_positions(self.positions)
        header = _HEADER.pack(_DICTIONARY, head, self.entries.kind, self.entries.count)
        return header + tail + pack_integers(self.codes) + self.entries.pack()

    @property
    def nbytes(self) -> int:
        entries = self.entries.count * _ENTRY_BYTES_GUESS
        return self.codes.nbytes + entries + (0 if self.positions is None else self.positions.nbytes)


Column: TypeAlias = NumberColumn | TimeColumn | DictionaryColumn


def unpack_column(data: memoryview) -> Column:
    """The inverse of a column's `pack`, as a copy that outlives `data`."""
    encoding, has_positions, detail, count = _HEADER.unpack_from(data)
    data = data[_HEADER.size :]
    positions: Positions | None = None
    if has_positions:
        positions = unpack_integers(data).astype(np.int64, copy=False)
        data = data[packed_size(data) :]
    if encoding == _SCALED:
        return NumberColumn(positions, unpack_integers(data), detail, None)
    if encoding == _DOUBLES:
        return NumberColumn(positions, None, 0, unpack_integers(data).astype("<u8").view("<f8"))
    if encoding == _TIMES:
        return TimeColumn(positions, unpack_integers(data).astype(np.int64, copy=False))
    codes = unpack_integers(data)
    return DictionaryColumn(positions, codes, Entries(Kind(detail), count, bytes(data[packed_size(data) :])))


def column_of(kind: Kind, positions: Positions | None, values: Sequence[Any]) -> Column:
    """A column of values of one kind."""
    if kind is Kind.NUMBER:
        return NumberColumn.of(positions, np.array(values, np.float64))
    if kind is Kind.TIME:
        return TimeColumn(positions, np.array(values, np.int64))
    return DictionaryColumn.of(positions, kind, values)


def at_rows(column: Column, rows: Positions | None) -> tuple[Positions | None, Column]:
    """The column's values for some rows (None = all): positions in `rows` of those that have a value (None =
    all), and the values.
    """
    if rows is None:
        return column.positions, column
    if column.positions is None:
        return None, column.at(rows)
    found, positions = find_sorted(column.positions, rows)
    return found, column.at(positions)


def joined(pieces: Sequence[tuple[int, int, Column]], order: Positions) -> Column:
    """Joins the columns of consecutive sets of rows. Each column comes with the position of its first row and
    its number of rows. `order`: where each row of the result comes from.
    """
    column = joined_in_order(pieces, len(order))
    if column.positions is None:
        return _chosen(column, None, order)
    return _chosen(column, *reordered(column.positions, order))


def joined_in_order(pieces: Sequence[tuple[int, int, Column]], rows: int) -> Column:
    """As `joined`, all `rows` in the order in which they come."""
    columns = [column for _, _, column in pieces]
    positions = _places_of_values(pieces) if sum(map(len, columns)) < rows else None
    if all(isinstance(column, NumberColumn) for column in columns):
        return _joined_numbers([each for each in columns if isinstance(each, NumberColumn)], positions)
    if all(isinstance(column, TimeColumn) for column in columns):
        times = np.concatenate([column.times for column in columns if isinstance(column, TimeColumn)])
        return TimeColumn(positions, times)
    dictionaries = [column for column in columns if isinstance(column, DictionaryColumn)]
    codes, values = joined_codes([(column.codes, column.entries.values) for column in dictionaries])
    entries = Entries(dictionaries[0].entries.kind, len(values), values=values)
    return DictionaryColumn(positions, codes, entries)


def _chosen(column: Column, positions: Positions | None, chosen: Positions) -> Column:
    """Some of the values, in another order, at these positions."""
    found = column.at(chosen)
    found.positions = positions
    return found


def reordered(rows: Positions, order: Positions) -> tuple[Positions, Positions]:
    """For a sparse column whose rows are reordered: the new positions of rows that have a value, and the
    index of each value.
    """
    value_of = np.full(len(order), -1, np.int64)
    value_of[rows] = np.arange(len(rows))
    value_of = value_of[order]
    positions = np.flatnonzero(value_of >= 0)
    return positions, value_of[positions]


def _places_of_values(pieces: Sequence[tuple[int, int, Column]]) -> Positions:
    return np.concatenate(
        [
            np.arange(first, first + rows) if column.positions is None else first + column.positions
            for first, rows, column in pieces
        ]
    )


def _joined_numbers(columns: Sequence[NumberColumn], positions: Positions | None) -> NumberColumn:
    pieces = [(column.mantissas, column.exponent) for column in columns if column.mantissas is not None]
    found = rescaled(pieces) if len(pieces) == len(columns) else None
    if found is not None:
        mantissas, exponent = found
        return NumberColumn(positions, smallest(mantissas), exponent, None)
    return NumberColumn.of(positions, np.concatenate([column.doubles for column in columns]))


def joined_codes(pieces: Iterable[tuple[Ints, Sequence[Hashable]]]) -> tuple[Ints, list[Any]]:
    """Merges dictionaries of one kind: the codes, and the distinct entries."""
    numbers: dict[Hashable, int] = {}
    known: dict[int, tuple[Sequence[Hashable], Int64s]] = {}
    coded: list[tuple[Ints, Int64s]] = []
    for own, entries in pieces:
        # Pieces of one batch share a dictionary, which is processed once.
        if id(entries) not in known:
            found = np.array([numbers.setdefault(entry, len(numbers)) for entry in entries], np.int64)
            known[id(entries)] = entries, found
        coded.append((own, known[id(entries)][1]))
    dtype = np.min_scalar_type(max(0, len(numbers) - 1))
    return np.concatenate([found.astype(dtype)[own] for own, found in coded]), list(numbers)


def doubles_between(values: Floats, interval: Interval) -> Bools:
    """Mask of doubles in the interval. Bounds compare as shortest decimals, which order like doubles."""
    passed = np.ones(len(values), np.bool_)
    if interval.low is not None:
        passed &= values >= interval.low if interval.low_included else values > interval.low
    if interval.high is not None:
        passed &= values <= interval.high if interval.high_included else values < interval.high
    return passed


@functools.cache
def _limits_of(dtype: np.dtype[Any]) -> tuple[int, int]:
    """The least and the greatest integer of a type."""
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)


def integers_between(values: Ints, low: int | None, high: int | None) -> Bools:
    """Mask of integers in [low, high], of any size. None: unbounded."""
    least, most = _limits_of(values.dtype)
    if (low is not None and low > most) or (high is not None and high < least):
        return np.zeros(len(values), np.bool_)
    above = None if low is None or low <= least else values >= low
    below = None if high is None or high >= most else values <= high
    if above is not None and below is not None:
        return above & below
    only = above if above is not None else below
    return np.ones(len(values), np.bool_) if only is None else only


def _packed_positions(positions: Positions | None) -> tuple[int, bytes]:
    return (0, b"") if positions is None else (1, pack_integers(positions))
