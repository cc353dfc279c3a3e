"""Arrow arrays as the values of an attribute, each kind a column."""

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
from service.arrow.layout import unfit
from service.arrow.plain import has_value, integers, items, truth
from service.arrow.texts import coded, decoded, is_text, is_texts, without_views
from service.arrow.times import NO_TIME, instants, is_time
from service.convert.data import INVALID_VALUE

INTEGER_EXACT_MAX = 1 << 53
"""The largest integer up to which every integer is a double."""
INEXACT = "is an integer beyond 2^53, which no number holds exactly"
NO_NUMBER = "is no number"
NO_BOOL = "must be true or false"
NULL_IN_LIST = "has a null element"

VALUES = "strings, numbers, bools, timestamps, dates, lists of strings, or a union of these"

_NUMBER = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_BOOLS = {"false": 0, "true": 1}
_BOOL_ENTRIES = (False, True)
_ELEMENT_SEPARATOR = " "


class Attribute:
    """One attribute of a batch on its way to columns."""

    def __init__(self, name: str, kind: Kind | None, unit_nanos: int) -> None:
        self._name = name
        self._kind = kind
        self._unit_nanos = unit_nanos
        self._faults: dict[str, list[Rows]] = {}

    def columns(self, array: pa.Array) -> tuple[list[ValueColumn], list[RowFaults]]:
        """The values, and the rows whose value cannot be converted. Raises InvalidInput for a type that no
        value can be made of.
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
        """`places` are the rows of the batch that the array has values of, None = all of them."""
        if pa.types.is_union(array.type):
            for child, rows in _children(array):
                yield from self._columns(child, rows if places is None else places[rows])
            return
        kind = self._kind or _kind_of(array.type)
        if kind is None:
            raise unfit(self._name, array.type, VALUES)
        if pa.types.is_null(array.type):
            return
        read = {
            Kind.STRING: self._strings,
            Kind.NUMBER: self._numbers,
            Kind.BOOL: self._bools,
            Kind.TIME: self._times,
            Kind.LIST: self._lists,
        }[kind]
        entries, data, has = read(array)
        if not has.all():
            own = np.flatnonzero(has)
            data, places = data[own], own if places is None else places[own]
        yield ValueColumn.of(self._name, kind, places, data, entries)

    def _refuse(self, description: str, bad: npt.NDArray[np.bool_]) -> None:
        if bad.any():
            self._faults.setdefault(description, []).append(np.flatnonzero(bad))

    def _strings(self, array: pa.Array) -> _Read:
        if not is_texts(array.type):
            plain = decoded(array)
            if _kind_of(plain.type) in (None, Kind.LIST):
                raise unfit(self._name, array.type, "strings, numbers, bools, timestamps or dates")
            array = plain.cast(pa.large_string())
        entries, codes = coded(array)
        return entries, codes, codes >= 0

    def _numbers(self, array: pa.Array) -> _Read:
        array = decoded(array)
        has = has_value(array)
        if is_text(array.type):
            fits = pa.compute.match_substring_regex(array, _NUMBER).fill_null(False)
            bad = has & ~truth(fits)
            self._refuse(NO_NUMBER, bad)
            array, has = pa.compute.if_else(fits, array, pa.scalar(None, array.type)), has & ~bad
        elif pa.types.is_integer(array.type):
            whole = integers(array)
            bad = has & ((whole > INTEGER_EXACT_MAX) | (whole < -INTEGER_EXACT_MAX))
            self._refuse(INEXACT, bad)
            return (), whole.astype(np.float64), has & ~bad
        elif pa.types.is_decimal(array.type):
            # By way of text: that gives the double nearest to the decimal, arithmetic does not always.
            array = array.cast(pa.string())
        elif not pa.types.is_floating(array.type):
            raise unfit(self._name, array.type, "numbers or strings")
        return (), items(array.cast(pa.float64()), np.float64), has

    def _bools(self, array: pa.Array) -> _Read:
        if is_texts(array.type):
            entries, codes = coded(array)
            known = np.array([_BOOLS.get(entry.lower(), -1) for entry in entries] + [0], np.int64)
            bad = known[codes] < 0
            self._refuse(NO_BOOL, bad)
            return _BOOL_ENTRIES, known[codes], (codes >= 0) & ~bad
        array = decoded(array)
        if not pa.types.is_boolean(array.type):
            raise unfit(self._name, array.type, "bools or strings")
        return _BOOL_ENTRIES, truth(array).astype(np.int64), has_value(array)

    def _times(self, array: pa.Array) -> _Read:
        read = instants(self._name, array, self._unit_nanos)
        self._refuse(NO_TIME, read.bad)
        return (), read.micros, read.has & ~read.bad

    def _lists(self, array: pa.Array) -> _Read:
        """Lists by their elements' codes, written one after another, so that equal lists are found as texts
        are.
        """
        if not _is_list_of_texts(array.type):
            raise unfit(self._name, array.type, "lists of strings")
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
    if pa.types.is_dictionary(type_):
        return _kind_of(type_.value_type)
    if is_text(type_) or pa.types.is_null(type_):
        return Kind.STRING
    if pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_):
        return Kind.NUMBER
    if pa.types.is_boolean(type_):
        return Kind.BOOL
    if is_time(type_):
        return Kind.TIME
    return Kind.LIST if _is_list_of_texts(type_) else None


def _is_list_of_texts(type_: pa.DataType) -> bool:
    is_list = pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_)
    return bool(is_list) and is_texts(type_.value_type)


def _children(union: pa.UnionArray) -> Iterator[tuple[pa.Array, Rows]]:
    """The values of each type in a union, and the rows that they are of."""
    # From the buffers, because what pyarrow calls type codes and offsets are those of the array before it was
    # sliced; its fields are sliced in a sparse union and whole in a dense one, as they should be.
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
