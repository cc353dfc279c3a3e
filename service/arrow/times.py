"""Arrow arrays as instants in microseconds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from milepost.arrays import has_value, integers
from milepost.grammar import Grammar, Instants, scaled
from service.arrow.layout import unfit
from service.arrow.texts import decoded, is_text

NANOS_PER_DAY = 86_400 * 1_000_000_000

TIMES = "timestamps, dates, integers or strings"

_NANOS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}


def is_time(type_: pa.DataType) -> bool:
    """Whether the type by itself says that its values are instants."""
    return bool(pa.types.is_timestamp(type_) or pa.types.is_date(type_))


def instants(name: str, array: pa.Array, grammar: Grammar) -> Instants:
    """The instant of each row; strings and integers as the grammar has them. Raises InvalidInput for other
    types.

    What lies outside of the years 1 to 9999 stays outside, for the engine to refuse.
    """
    array = decoded(array)
    has = has_value(array)
    type_ = array.type
    if pa.types.is_null(type_):
        return _plain(np.zeros(len(array), np.int64), has)
    if pa.types.is_timestamp(type_):
        return _plain(scaled(_integers(array.view(pa.int64())), _NANOS[type_.unit]), has)
    if pa.types.is_date32(type_):
        return _plain(scaled(_integers(array.view(pa.int32())), NANOS_PER_DAY), has)
    if pa.types.is_date64(type_):
        return _plain(scaled(_integers(array.view(pa.int64())), _NANOS["ms"]), has)
    if pa.types.is_integer(type_):
        return _plain(scaled(_integers(array), grammar.unit_nanos), has)
    if is_text(type_):
        return grammar.times(array)
    raise unfit(name, type_, TIMES)


def _plain(micros: npt.NDArray[np.int64], has: npt.NDArray[np.bool_]) -> Instants:
    return Instants(micros, has, np.zeros(len(micros), np.bool_))


def _integers(array: pa.Array) -> npt.NDArray[np.int64]:
    counts = integers(array)
    fitting: npt.NDArray[np.int64] = np.minimum(counts, np.iinfo(np.int64).max).astype(np.int64, copy=False)
    return fitting
