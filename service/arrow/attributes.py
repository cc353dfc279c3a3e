"""Converts Arrow arrays into the values of an attribute, one column per kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from engine.checks import RowFaults
from engine.event_columns import Rows, ValueColumn
from engine.values import Kind
from milepost.arrays import has_value, integers, items, truth
from milepost.arrow_types import is_fractional, is_text, is_texts, is_time, kind_of
from milepost.grammar import (
    INEXACT,
    INTEGER_EXACT_MAX,
    NOT_A_BOOL,
    NOT_A_NUMBER,
    OUTSIDE,
    TIME_MAX_MICROS,
    TIME_MIN_MICROS,
    TOO_LARGE,
    Grammar,
    is_exact,
)
from service.arrow.layout import unfit
from service.arrow.texts import coded, decoded, without_views
from service.arrow.times import TIMES, instants
from service.convert.data import INVALID_VALUE

NULL_IN_LIST = "has a null element"

VALUES = "strings, numbers, bools, timestamps, dates, lists of strings, or a union of these"

_WANTED = {
    Kind.STRING: "strings, numbers, bools, timestamps or dates",
    Kind.NUMBER: "numbers or strings",
    Kind.BOOL: "bools or strings",
    Kind.TIME: TIMES,
    Kind.LIST: "lists of strings",
}
_BOOL_ENTRIES = (False, True)
_ELEMENT_SEPARATOR = " "


class Attribute:
    """One attribute of a batch, being converted to columns."""

    def __init__(self, name: str, kind: Kind | None, grammar: Grammar) -> None:
        self._name = name
        self._kind = kind
        self._grammar = grammar
        self._faults: dict[str, list[Rows]] = {}
        self._places: Rows | None = None
        """The rows of the batch that are being read, None = all."""

    def columns(self, array: pa.Array) -> tuple[list[ValueColumn], list[RowFaults]]:
        """The values, and the rows whose value cannot be converted. Raises InvalidInput for an unsupported
        type.
        """
        found = [column for column in self._columns(array, None) if column.data_bytes]
        faults = [
            RowFaults(
                INVALID_VALUE, f"attributes[{self._name!r}]", description, np.sort(np.concatenate(rows))
            )
            for description, rows in self._faults.items()
        ]
        return found, faults

    def _columns(self, array: pa.Array, places: Rows | None) -> Iterator[ValueColumn]:
        """`places` are the rows of the batch with a value in the array, None = all."""
        _check(self._name, array.type, self._kind)
        if pa.types.is_union(array.type):
            for child, rows in _children(array):
                yield from self._columns(child, rows if places is None else places[rows])
            return
        kind = self._kind or _kind_of(array.type)
        if kind is None or pa.types.is_null(array.type):
            return
        self._places = places
        entries, data, has = self._read(kind, array)
        if not has.all():
            own = np.flatnonzero(has)
            data, places = data[own], own if places is None else places[own]
        yield ValueColumn.of(self._name, kind, places, data, entries)

    def _read(self, kind: Kind, array: pa.Array) -> _Read:
        if not _can_be(kind, array.type):
            # The kind is set explicitly. Other batches may have other types: reject these rows only.
            self._refuse(f"has the type {array.type}; it must be {_WANTED[kind]}", has_value(array))
            return (), np.zeros(len(array), np.int64), np.zeros(len(array), np.bool_)
        read = {
            Kind.STRING: self._strings,
            Kind.NUMBER: self._numbers,
            Kind.BOOL: self._bools,
            Kind.TIME: self._times,
            Kind.LIST: self._lists,
        }[kind]
        return read(array)

    def _refuse(self, description: str, bad: npt.NDArray[np.bool_]) -> None:
        if bad.any():
            rows = np.flatnonzero(bad)
            self._faults.setdefault(description, []).append(
                rows if self._places is None else self._places[rows]
            )

    def _strings(self, array: pa.Array) -> _Read:
        if is_texts(array.type):
            entries, codes = coded(array)
            return entries, codes, codes >= 0
        array = decoded(array)
        entries, codes = coded(array.cast(pa.large_string()))
        has = codes >= 0
        if is_time(array.type):
            # Arrow cannot format a time out of range and reports the overflow instead.
            micros = instants(self._name, array, self._grammar).micros
            outside = has & ((micros < TIME_MIN_MICROS) | (micros > TIME_MAX_MICROS))
            self._refuse(OUTSIDE, outside)
            has &= ~outside
        return entries, codes, has

    def _numbers(self, array: pa.Array) -> _Read:
        array = decoded(array)
        has = has_value(array)
        if is_text(array.type):
            read = self._grammar.numbers(array)
            refusals = ((NOT_A_NUMBER, read.bad), (TOO_LARGE, read.too_large), (INEXACT, read.inexact))
            for description, bad in refusals:
                self._refuse(description, bad)
            return (), read.values, has & ~(read.bad | read.too_large | read.inexact)
        if pa.types.is_integer(array.type):
            whole = integers(array)
            bad = has & ((whole > INTEGER_EXACT_MAX) | (whole < -INTEGER_EXACT_MAX))
            self._refuse(INEXACT, bad)
            return (), whole.astype(np.float64), has & ~bad
        if pa.types.is_decimal(array.type):
            # Converted through text, which gives the nearest double; arithmetic does not always.
            doubles = items(array.cast(pa.string()).cast(pa.float64()), np.float64)
            bad = _inexact(array, has, doubles)
            self._refuse(INEXACT, bad)
            return (), doubles, has & ~bad
        return (), items(array.cast(pa.float64()), np.float64), has

    def _bools(self, array: pa.Array) -> _Read:
        if is_texts(array.type):
            entries, codes = coded(array)
            true, unfit_ = self._grammar.bools(pa.array(entries, pa.large_string()))
            # The last item is for rows without a value, whose code is -1.
            bad = np.append(unfit_, False)[codes]
            self._refuse(NOT_A_BOOL, bad)
            return _BOOL_ENTRIES, np.append(true, False)[codes].astype(np.int64), (codes >= 0) & ~bad
        array = decoded(array)
        return _BOOL_ENTRIES, truth(array).astype(np.int64), has_value(array)

    def _times(self, array: pa.Array) -> _Read:
        read = instants(self._name, array, self._grammar)
        for description, bad in read.refusals:
            self._refuse(description, bad)
        return (), read.micros, read.has & ~read.unfit

    def _lists(self, array: pa.Array) -> _Read:
        """Lists as joined codes of their elements, so that equal lists are found as strings are."""
        lists = array.cast(pa.large_list(array.type.value_type))
        has = has_value(lists)
        elements, codes = coded(lists.values)
        written = pa.array(codes, mask=codes < 0).cast(pa.large_string())
        joined = pa.compute.binary_join(
            pa.LargeListArray.from_arrays(lists.offsets, written), pa.scalar(_ELEMENT_SEPARATOR, written.type)
        )
        bad = has & ~has_value(joined)
        self._refuse(NULL_IN_LIST, bad)
        distinct, places = coded(joined)
        entries = [tuple(elements[int(code)] for code in text.split()) for text in distinct]
        return entries, places, has & ~bad


_Read = tuple[Any, npt.NDArray[Any], npt.NDArray[np.bool_]]
"""Entries, a value or code for each row, and which rows have one."""


def _kind_of(type_: pa.DataType) -> Kind | None:
    number = kind_of(type_)
    return None if number is None else Kind(number)


def _check(name: str, type_: pa.DataType, kind: Kind | None) -> None:
    """Raises InvalidInput for an unsupported type, even if no row of this batch has it."""
    if pa.types.is_union(type_):
        for index in range(type_.num_fields):
            _check(name, type_.field(index).type, kind)
    elif kind is None and _kind_of(type_) is None:
        raise unfit(name, type_, VALUES)


def _can_be(kind: Kind, type_: pa.DataType) -> bool:
    """Whether values of a type can be read as a kind."""
    own = _kind_of(type_)
    if kind is Kind.STRING:
        return own not in (None, Kind.LIST)
    if kind is Kind.TIME:
        plain = type_.value_type if pa.types.is_dictionary(type_) else type_
        return own in (Kind.STRING, Kind.TIME) or bool(pa.types.is_integer(plain)) or is_fractional(plain)
    return own is kind or (own is Kind.STRING and kind is not Kind.LIST)


def _inexact(
    decimals: pa.Array, has: npt.NDArray[np.bool_], doubles: npt.NDArray[Any]
) -> npt.NDArray[np.bool_]:
    """Rows with integers beyond 2^53 that no double represents."""
    bad: npt.NDArray[np.bool_] = has & (np.abs(doubles) >= INTEGER_EXACT_MAX)
    for row in np.flatnonzero(bad).tolist():
        bad[row] = not is_exact(str(decimals[row].as_py()))
    return bad


def _children(union: pa.UnionArray) -> Iterator[tuple[pa.Array, Rows]]:
    """The values of each type in a union, and their rows."""
    # Read from the buffers: pyarrow's type codes and offsets ignore slicing, while its fields are sliced in a
    # sparse union and whole in a dense one.
    own = slice(union.offset, union.offset + len(union))
    dense = union.type.mode == "dense"
    buffers = union.buffers()
    codes = np.frombuffer(buffers[1], np.int8)[own]
    offsets = np.frombuffer(buffers[2], np.int32)[own] if dense else np.arange(len(union))
    for index, code in enumerate(union.type.type_codes):
        rows = np.flatnonzero(codes == code)
        if not len(rows):
            continue
        yield without_views(union.field(index)).take(pa.array(offsets[rows])), rows
