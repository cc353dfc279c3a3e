"""Arrow arrays as instants in microseconds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from engine.values import TIME_MAX_MICROS, TIME_MIN_MICROS
from service.arrow.layout import unfit
from service.arrow.plain import has_value, integers, items, truth
from service.arrow.texts import decoded, is_text

NANOS_PER_MICRO = 1_000
NANOS_PER_DAY = 86_400 * 1_000_000_000

TIMES = "timestamps, dates, integers or strings"
NO_TIME = "is no time"

_NANOS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# The digits of an integer stay below 2^63.
_INTEGER = r"^[+-]?[0-9]{1,18}$"
_DAY = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
_LOCAL = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?$"
_ZONED = _LOCAL[:-1] + r"([Zz]|[+-][0-9]{2}:[0-9]{2})$"
_ISO = re.compile(_ZONED)


@dataclass(frozen=True, slots=True)
class Instants:
    """Microseconds for each row; `has` is false where there is no value, `bad` true where it is none."""

    micros: npt.NDArray[np.int64]
    has: npt.NDArray[np.bool_]
    bad: npt.NDArray[np.bool_]


def is_time(type_: pa.DataType) -> bool:
    """Whether the type by itself says that its values are instants."""
    return bool(pa.types.is_timestamp(type_) or pa.types.is_date(type_))


def instants(name: str, array: pa.Array, unit_nanos: int) -> Instants:
    """The instant of each row; integers count `unit_nanos`. Raises InvalidInput for other types.

    What lies outside of the years 1 to 9999 stays outside, for the engine to refuse.
    """
    array = decoded(array)
    has = has_value(array)
    type_ = array.type
    if pa.types.is_null(type_):
        return _plain(np.zeros(len(array), np.int64), has)
    if pa.types.is_timestamp(type_):
        return _plain(_scaled(_integers(array.view(pa.int64())), _NANOS[type_.unit]), has)
    if pa.types.is_date32(type_):
        return _plain(_scaled(_integers(array.view(pa.int32())), NANOS_PER_DAY), has)
    if pa.types.is_date64(type_):
        return _plain(_scaled(_integers(array.view(pa.int64())), _NANOS["ms"]), has)
    if pa.types.is_integer(type_):
        return _plain(_scaled(_integers(array), unit_nanos), has)
    if is_text(type_):
        return _from_texts(array, has, unit_nanos)
    raise unfit(name, type_, TIMES)


def _plain(micros: npt.NDArray[np.int64], has: npt.NDArray[np.bool_]) -> Instants:
    return Instants(micros, has, np.zeros(len(micros), np.bool_))


def _integers(array: pa.Array) -> npt.NDArray[np.int64]:
    counts = integers(array)
    fitting: npt.NDArray[np.int64] = np.minimum(counts, np.iinfo(np.int64).max).astype(np.int64, copy=False)
    return fitting


def _scaled(counts: npt.NDArray[np.int64], unit_nanos: int) -> npt.NDArray[np.int64]:
    """Microseconds, rounded down; what would not fit is cut to just outside of the range."""
    if unit_nanos < NANOS_PER_MICRO:
        return counts // (NANOS_PER_MICRO // unit_nanos)
    factor = unit_nanos // NANOS_PER_MICRO
    least, most = TIME_MIN_MICROS // factor - 1, TIME_MAX_MICROS // factor + 1
    return np.clip(counts, least, most) * factor


def _from_texts(array: pa.Array, has: npt.NDArray[np.bool_], unit_nanos: int) -> Instants:
    has = has & (integers(pa.compute.binary_length(array)) > 0)
    micros = np.zeros(len(array), np.int64)
    read = ~has
    for pattern, suffix in ((_ZONED, ""), (_LOCAL, "Z"), (_DAY, "T00:00:00Z")):
        if read.all():
            break
        rows = np.flatnonzero(~read & _matches(array, pattern))
        if len(rows):
            texts = array.take(pa.array(rows))
            micros[rows], read[rows] = _from_iso(_appended(texts, suffix))
    if not read.all():
        rows = np.flatnonzero(~read & _matches(array, _INTEGER))
        counts = array.take(pa.array(rows)).cast(pa.int64())
        micros[rows], read[rows] = _scaled(_integers(counts), unit_nanos), True
    return Instants(micros, has, ~read)


def _matches(array: pa.Array, pattern: str) -> npt.NDArray[np.bool_]:
    return truth(pa.compute.match_substring_regex(array, pattern))


def _appended(texts: pa.Array, suffix: str) -> pa.Array:
    if not suffix:
        return texts
    return pa.compute.binary_join_element_wise(
        texts, pa.scalar(suffix, texts.type), pa.scalar("", texts.type)
    )


def _from_iso(texts: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Microseconds and whether there is such an instant, of texts in the form with an offset."""
    try:
        micros = texts.cast(pa.timestamp("us", "UTC")).view(pa.int64())
    except pa.ArrowInvalid:
        # Some day does not exist, or there are digits or letters that Arrow does not take.
        read = {text: _micros_of(text) for text in set(texts.to_pylist())}
        found = [read[text] for text in texts.to_pylist()]
        return (
            np.array([0 if each is None else each for each in found], np.int64),
            np.array([each is not None for each in found], np.bool_),
        )
    return items(micros, np.int64), np.ones(len(texts), np.bool_)


def _micros_of(text: str) -> int | None:
    assert _ISO.match(text)
    try:
        # Digits behind the sixth are cut off, which rounds down: the years before 1970 count upwards as well.
        return (datetime.fromisoformat(text.upper()) - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError):
        return None
