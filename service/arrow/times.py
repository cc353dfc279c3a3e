"""Converts Arrow arrays into instants in microseconds."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from milepost.arrays import has_value, integers
from milepost.arrow_types import is_text
from milepost.grammar import Grammar, Instants, scaled
from service.arrow.layout import unfit
from service.arrow.texts import decoded

NANOS_PER_DAY = 86_400 * 1_000_000_000

TIMES = "timestamps, dates, numbers or strings"

_NANOS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}


def instants(name: str, array: pa.Array, grammar: Grammar) -> Instants:
    """The instant of each row; strings and numbers as the grammar has them. Raises InvalidInput for other
    types.

    Values outside of the years 1 to 9999 stay outside, so that the engine rejects them.
    """
    array = decoded(array)
    has = has_value(array)
    type_ = array.type
    if pa.types.is_null(type_):
        return Instants.of(np.zeros(len(array), np.int64), has)
    if pa.types.is_timestamp(type_):
        return Instants.of(scaled(integers(array.view(pa.int64())), _NANOS[type_.unit]), has)
    if pa.types.is_date32(type_):
        return Instants.of(scaled(integers(array.view(pa.int32())), NANOS_PER_DAY), has)
    if pa.types.is_date64(type_):
        return Instants.of(scaled(integers(array.view(pa.int64())), _NANOS["ms"]), has)
    if pa.types.is_integer(type_):
        return Instants.of(scaled(integers(array), grammar.unit_nanos), has)
    if pa.types.is_floating(type_):
        return grammar.times_of_floats(array)
    if pa.types.is_decimal(type_):
        return grammar.times_of_decimals(array)
    if is_text(type_):
        return grammar.times(array)
    raise unfit(name, type_, TIMES)
