"""Finds times in 1970: most often seconds or milliseconds that are read as microseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from milepost.time_units import TIME_UNITS, UNIT_NANOS
from milepost.v1.ingest_service_pb2 import TimeUnit

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Number = TypeVar("Number", bound=np.generic)

UNITS_A_SECOND = {name: 1_000_000_000 // UNIT_NANOS[unit] for name, unit in TIME_UNITS.items()}
SECONDS_OF_1970 = 365 * 86_400
LIKELY_SECONDS = range(978_307_200, 4_102_444_800)
"""The years 2001 to 2099. A unit that puts times here is probably the right one."""
DIGITS = r"^[0-9]{1,18}(\.[0-9]+)?$"
FRACTION = r"\.[0-9]+$"


@dataclass(frozen=True)
class EarlyTimes:
    """`count` of `times` are in 1970. The unit is probably `likely_unit`: s, ms, us, ns, or empty."""

    count: int
    times: int
    likely_unit: str


def early_times(batches: Sequence[Any], column: str, unit: TimeUnit.ValueType) -> EarlyTimes | None:
    """The times of a column that are in 1970; None if most are not."""
    if not batches or column not in batches[0].schema.names:
        return None
    times = [batch.column(column) for batch in batches]
    numbers = _numbers(times)
    if numbers is None:
        return None
    whole, a_second = numbers
    limit = SECONDS_OF_1970 * (a_second or 1_000_000_000 // UNIT_NANOS[unit])
    early = whole[(whole >= 0) & (whole < limit)]
    total = sum(len(each) - each.null_count for each in times)
    if 2 * len(early) <= total:
        return None
    largest = int(early.max())
    likely = (name for name, units in UNITS_A_SECOND.items() if largest // units in LIKELY_SECONDS)
    return EarlyTimes(len(early), total, next(likely, "") if a_second is None else "")


def _numbers(times: Sequence[Any]) -> tuple[npt.NDArray[np.int64], int | None] | None:
    """The times that are numbers, as integers, and how many make a second (None = the unit of the settings).
    None if the type has none.
    """
    import numpy as np
    import pyarrow as pa

    type_ = times[0].type
    if pa.types.is_dictionary(type_):
        return _numbers([each.dictionary_decode() for each in times])
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return np.concatenate([_digits(each) for each in times]), None
    if pa.types.is_floating(type_) or pa.types.is_decimal(type_):
        floats = np.concatenate([_valid(each.cast(pa.float64()), np.float64) for each in times])
        return floats[np.abs(floats) < 2.0**63].astype(np.int64), None
    if pa.types.is_timestamp(type_) or pa.types.is_integer(type_):
        whole = np.concatenate([_valid(each.cast(pa.int64(), safe=False), np.int64) for each in times])
        return whole, UNITS_A_SECOND[type_.unit] if pa.types.is_timestamp(type_) else None
    return None


def _digits(texts: Any) -> npt.NDArray[np.int64]:
    """The texts that are numbers, without their fractions."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute

    is_number = pyarrow.compute.match_substring_regex(texts, DIGITS)
    whole = pyarrow.compute.replace_substring_regex(texts.filter(is_number), FRACTION, "")
    return _valid(whole.cast(pa.int64()), np.int64)


def _valid(array: Any, dtype: type[Number]) -> npt.NDArray[Number]:
    """The items that are not null."""
    from milepost.arrays import has_value, items

    return items(array, dtype)[has_value(array)]
