"""DISTINCT and DISTINCT_DAYS: the number of distinct values of each slot.

Up to `VALUE_BITS_MAX` distinct values are one bit each in an integer per slot. The integers of whole parts
are cached between questions. With more values, they are numbered and counted as pairs of slot and number.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from engine.backends.local.events.columns import Column, DictionaryColumn, NumberColumn
from engine.backends.local.events.days import local_days
from engine.backends.local.events.model import ResolvedEventMatch
from engine.backends.local.events.part import Part, derived_of_all
from engine.backends.local.events.select import Rows, Universe, lasting_parts, selected
from engine.backends.local.storage.arrays import Int64s, Ints, sorted_distinct
from engine.criteria.model import Aggregate
from engine.values import Kind, Value

VALUE_BITS_MAX = 64
"""Distinct values up to which a bit mask per slot is used; the bits of a u64."""

_PAIR_MAX = 1 << 62

FLAGS_PER_PAIR_MAX = 16
"""Flags per pair up to which distinct pairs are found with a flag for each possible pair; above, by sorting.
"""

_VALUE_BYTES_GUESS = 200

T = TypeVar("T")
Coded: TypeAlias = tuple[Ints, Sequence[Hashable]]
"""A number for each row, and the value behind each number from 0."""


def distinct_days(parts: Sequence[Part], step: ResolvedEventMatch, universe: Universe) -> Ints:
    """Number of calendar days on which each slot has rows."""

    def gathered(some: Sequence[Part], within: Universe) -> list[tuple[Rows, Int64s]]:
        return [
            (rows, local_days(rows.at(rows.part.times()), step.time_zone))
            for rows in selected(some, step.selection, within)
        ]

    tag = (Aggregate.DISTINCT_DAYS, step.time_zone)
    found = _value_bits(parts, step, universe, tag, gathered, _coded_days)
    if isinstance(found, _ValueBits):
        return found.counts()
    slots, days = [], []
    for rows, row_days in found:
        row_slots = rows.row_slots
        # Most repeats are neighbours. Dropping them first saves sorting them.
        first = np.ones(len(row_days), np.bool_)
        first[1:] = (row_days[1:] != row_days[:-1]) | (row_slots[1:] != row_slots[:-1])
        slots.append(row_slots[first])
        days.append(row_days[first])
    codes = np.concatenate(days)
    codes -= codes.min()
    return distinct_pairs(np.concatenate(slots), codes, universe.slots)


def distinct_values(parts: Sequence[Part], step: ResolvedEventMatch, universe: Universe) -> Ints:
    """Number of distinct values of the attribute `of` for each slot."""

    def gathered(some: Sequence[Part], within: Universe) -> list[tuple[Rows, Column]]:
        found = [
            rows.with_column(step.of, kind)
            for rows in selected(some, step.selection, within)
            for kind in Kind
        ]
        return [pair for pair in found if pair is not None]

    found = _value_bits(parts, step, universe, (Aggregate.DISTINCT, step.of), gathered, _coded_values)
    if isinstance(found, _ValueBits):
        return found.counts()
    columns = [column for _, column in found]
    codes = _integer_codes(columns, universe.slots)
    if codes is None:
        values = _ValueCodes()
        codes = [values.codes_of(column) for column in columns]
    slots = np.concatenate([rows.row_slots for rows, _ in found])
    return distinct_pairs(slots, np.concatenate(codes), universe.slots)


# --- a bit for each value -----------------------------------------------------------------------------------


@dataclass(slots=True)
class _ValueBits:
    """A bit mask of values for each slot; `numbers` assigns the bits. There are no masks once there are too
    many values.
    """

    masks: npt.NDArray[np.uint64]
    numbers: dict[Hashable, int] = field(default_factory=dict)
    are_too_many: bool = False

    @property
    def nbytes(self) -> int:
        return self.masks.nbytes + len(self.numbers) * _VALUE_BYTES_GUESS

    @classmethod
    def of_pieces(cls, pieces: Sequence[tuple[Rows, T]], slots: int, coded: _Coder[T]) -> _ValueBits:
        bits = cls(np.zeros(slots, np.uint64))
        bits.add(pieces, coded)
        return bits

    def add(self, pieces: Sequence[tuple[Rows, T]], coded: _Coder[T]) -> None:
        """Sets the bits of more rows."""
        for rows, values in pieces:
            found = None if self.are_too_many else coded(values)
            if found is None or not self._set(rows, *found):
                self.are_too_many = True
                self.masks = np.zeros(0, np.uint64)
                return

    def _set(self, rows: Rows, codes: Ints, keys: Sequence[Hashable]) -> bool:
        numbers = [self.numbers.setdefault(key, len(self.numbers)) for key in keys]
        if len(self.numbers) > VALUE_BITS_MAX:
            return False
        bits = np.left_shift(np.uint64(1), np.array(numbers, np.uint64))
        self.masks[rows.slots] |= np.bitwise_or.reduceat(bits[codes], rows.starts[:-1])
        return True

    def widened(self, slots: int) -> _ValueBits:
        """A copy for at least as many slots."""
        masks = np.zeros(slots, np.uint64)
        masks[: len(self.masks)] = self.masks
        return _ValueBits(masks, dict(self.numbers), self.are_too_many)

    def counts(self) -> Ints:
        """Number of values of each slot."""
        return np.bitwise_count(self.masks)


_Coder: TypeAlias = Callable[[T], Coded | None]
_Gatherer: TypeAlias = Callable[[Sequence[Part], Universe], list[tuple[Rows, T]]]


def _value_bits(
    parts: Sequence[Part],
    step: ResolvedEventMatch,
    universe: Universe,
    tag: Hashable,
    gathered: _Gatherer[T],
    coded: _Coder[T],
) -> _ValueBits | list[tuple[Rows, T]]:
    """The value bits of all rows. With too many values: the rows, at least one, and their values."""
    lasting, others = lasting_parts(parts, step.selection, universe)
    bits = _ValueBits(np.zeros(universe.slots, np.uint64))
    if lasting:
        whole = Universe(lasting, None)
        kept = derived_of_all(
            lasting, tag, lambda: _ValueBits.of_pieces(gathered(lasting, whole), whole.slots, coded)
        )
        bits = kept.widened(universe.slots)
    pieces = gathered(others, universe)
    bits.add(pieces, coded)
    if bits.are_too_many:
        return pieces + gathered(lasting, universe)
    universe.looked_at += sum(part.record.users for part in lasting)
    return bits


def _coded_days(days: Int64s) -> Coded | None:
    low, high = int(days.min()), int(days.max())
    return None if high - low >= VALUE_BITS_MAX else (days - low, range(low, high + 1))


def _coded_values(column: Column) -> Coded | None:
    if not isinstance(column, DictionaryColumn) or column.entries.count > VALUE_BITS_MAX:
        return None
    kind = column.entries.kind
    return column.codes, [(kind, value) for value in column.entries.values]


# --- pairs --------------------------------------------------------------------------------------------------


def _integer_codes(columns: list[Column], slot_count: int) -> list[Int64s] | None:
    """Codes straight from integers, when a column holds nothing else and their range is narrow enough for
    `distinct_pairs`.
    """
    exponent = max((column.exponent for column in columns if isinstance(column, NumberColumn)), default=0)
    scaled: list[tuple[Ints, int]] = []
    low = high = 0
    for column in columns:
        if not isinstance(column, NumberColumn) or column.mantissas is None:
            return None
        factor = 10 ** (exponent - column.exponent)
        low = min(low, int(column.mantissas.min()) * factor)
        high = max(high, int(column.mantissas.max()) * factor)
        scaled.append((column.mantissas, factor))
    if (high - low + 1) * slot_count > _PAIR_MAX:
        return None
    return [mantissas.astype(np.int64) * factor - low for mantissas, factor in scaled]


class _ValueCodes:
    """Numbers distinct values across parts, by kind."""

    def __init__(self) -> None:
        # By kind: in one dictionary 1.0, True and the instant 1 would be equal keys.
        self._numbers: dict[Kind, dict[Value, int]] = {kind: {} for kind in Kind}
        self._given = 0

    def codes_of(self, column: Column) -> Int64s:
        if isinstance(column, DictionaryColumn):
            values = column.entries.values
            if len(values) <= len(column):
                return self._numbered(column.entries.kind, values)[column.codes]
            used, indexes = np.unique(column.codes, return_inverse=True)
            return self._numbered(column.entries.kind, [values[code] for code in used.tolist()])[indexes]
        if isinstance(column, NumberColumn):
            numbers, indexes = np.unique(column.doubles, return_inverse=True)
            return self._numbered(Kind.NUMBER, numbers.tolist())[indexes]
        times, indexes = np.unique(column.times, return_inverse=True)
        return self._numbered(Kind.TIME, times.tolist())[indexes]

    def _numbered(self, kind: Kind, values: list[Value]) -> Int64s:
        numbers = self._numbers[kind]
        codes = []
        for value in values:
            code = numbers.get(value)
            if code is None:
                code = numbers[value] = self._given
                self._given += 1
            codes.append(code)
        return np.array(codes, np.int64)


def distinct_pairs(slots: Ints, codes: Int64s, slot_count: int) -> Ints:
    """For each slot the number of distinct codes (from 0) paired with it."""
    code_count = int(codes.max()) + 1
    if slot_count * code_count <= FLAGS_PER_PAIR_MAX * len(slots):
        flags = np.zeros((code_count, slot_count), np.uint8)
        flags[codes, slots] = 1
        counts: Ints = np.zeros(slot_count, np.min_scalar_type(code_count))
        for code_flags in flags:
            counts += code_flags
        return counts
    pairs = sorted_distinct(slots.astype(np.int64) * code_count + codes)
    return np.bincount(pairs // code_count, minlength=slot_count)
