"""The grammar of texts that stand for values: numbers, bools and times.

The service reads text columns of an import by it, and the command line finds the kinds of a CSV file by it,
so both agree on every text. A text that is exactly none of these stays a text.

    number   1  -2.5  .5  5.  1e-3       found by itself; with a kind given also +5 and 007
    bool     true  false                 in any case
    time     2026-11-01                  midnight UTC
             2026-11-01T10:00            or a space for the T; seconds and their fraction may follow
             2026-11-01 10:00:00+0100    Z, UTC, +01:00, +0100 or +01 may end it, after a space too; else UTC
             1793527200  1793527200.5    in the time unit; only where a time is expected
             anything in `time_format`   see `milepost.time_formats`

An integer must lie within 2^53, so that a double holds it: 9007199254740993 is refused and not rounded. With
a fraction or an exponent, a number becomes the nearest double; beyond 2^53 it is refused unless the double
reads back the same. A number beyond the range of a double is refused. Digits below a microsecond are cut off,
towards the past.

Uses pyarrow and numpy: import it where it is needed, not at start.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from milepost.arrays import Mask, first_bytes, has_value, integers, items, truth
from milepost.time_formats import TimeFormat
from milepost.v1.catalog_service_pb2 import (
    VALUE_KIND_BOOL,
    VALUE_KIND_NUMBER,
    VALUE_KIND_TIME,
    ValueKind,
)

NOT_A_NUMBER = "is not a number"
NOT_A_BOOL = "must be true or false"
NOT_A_TIME = "is not a time"
INEXACT = "is an integer beyond 2^53, which no number holds exactly"
TOO_LARGE = "is beyond the range of a number"

NANOS_PER_MICRO = 1_000
NANOS_PER_SECOND = 1_000_000_000
INTEGER_EXACT_MAX = 1 << 53
"""The largest integer up to which every integer is a double."""
TIME_MIN_MICROS = -62_135_596_800 * 1_000_000
TIME_MAX_MICROS = 253_402_300_800 * 1_000_000 - 1
"""The years 1 to 9999."""

Micros: TypeAlias = npt.NDArray[np.int64]

_FRACTION_DIGITS = 9
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BOOL = r"^(?i:true|false)$"
_TRUE = r"^(?i:true)$"
_EXPONENT = r"([eE][+-]?[0-9]+)?$"
_NUMBER = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)" + _EXPONENT
_PLAIN_NUMBER = r"^-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)" + _EXPONENT
"""Without what postal codes and telephone numbers have: leading zeros and a plus sign."""
_NOT_PLAIN_STARTS = np.frombuffer(b"0+-", np.uint8)

# The digits of an integer stay below 2^63.
_INTEGER = r"^[+-]?[0-9]{1,18}$"
_DECIMAL = r"^[+-]?[0-9]{1,18}\.[0-9]{1,9}$"
_DAY = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
_TO_MINUTES = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}"
_LOCAL = _TO_MINUTES + r":[0-9]{2}(\.[0-9]{1,9})?$"
_ZONED = _LOCAL[:-1] + r"([Zz]|[+-][0-9]{2}:[0-5][0-9])$"
_TRIED = 32
_ZONED_BYTES_MIN = len("2026-11-01T10:00:00Z")
_LOOSE = _TO_MINUTES + r"(:[0-9]{2}(\.[0-9]{1,9})?)?( ?([Zz]|UTC|[+-][0-9]{2}(:?[0-5][0-9])?))?$"
_TO_STRICT = (
    # Seconds first, so that each of the others finds them before the offset.
    (rf"({_TO_MINUTES})( ?([Zz]|UTC|[+-].*)?)$", r"\1:00\2"),
    (r" ?UTC$", "Z"),
    (r" ([Zz]|[+-][0-9:]+)$", r"\1"),
    (r"(:[0-9]{2}(\.[0-9]+)?[+-][0-9]{2})$", r"\1:00"),
    (r"(:[0-9]{2}(\.[0-9]+)?[+-][0-9]{2})([0-9]{2})$", r"\1:\3"),
    (r"([Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?)$", r"\1Z"),
)
"""What makes a loose time one with seconds and an offset of hours and minutes."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """A double for each row. `bad` marks texts that are no numbers, `inexact` numbers that no double holds,
    `too_large` those beyond its range; where one of them is true, the double means nothing.
    """

    values: npt.NDArray[np.float64]
    bad: Mask
    inexact: Mask
    too_large: Mask


@dataclass(frozen=True, slots=True)
class Instants:
    """Microseconds for each row; `has` is false where there is no value, `bad` true where it is none."""

    micros: Micros
    has: Mask
    bad: Mask


@dataclass(frozen=True)
class Grammar:
    """The grammar with its settings. Arrays are of strings or large strings; null is no value.

    `decimal_comma`: numbers are written `9,5`, and not `9.5`. `time_format`: a further form of times. Raises
    ValueError when it is no format. `unit_nanos`: what integers count where a time is expected.
    """

    decimal_comma: bool = False
    time_format: str = ""
    unit_nanos: int = NANOS_PER_MICRO

    def __post_init__(self) -> None:
        if self.time_format:
            assert self._format

    @cached_property
    def _format(self) -> TimeFormat | None:
        return TimeFormat(self.time_format) if self.time_format else None

    def numbers(self, texts: pa.Array) -> Numbers:
        """The numbers that the texts state."""
        has = has_value(texts)
        whole = self._all_doubles(texts)
        fits = has if whole is not None else self._matches(texts, _NUMBER)
        doubles = items(self._doubles(texts, fits), np.float64) if whole is None else whole
        inexact, too_large = np.zeros(len(texts), np.bool_), fits & ~np.isfinite(doubles)
        for row in np.flatnonzero(fits & ~too_large & (np.abs(doubles) >= INTEGER_EXACT_MAX)).tolist():
            inexact[row] = not _is_held(self._with_point(texts[row].as_py()), float(doubles[row]))
        return Numbers(doubles, has & ~fits, inexact, too_large)

    def bools(self, texts: pa.Array) -> tuple[Mask, Mask]:
        """Which texts are true, and which are no bools."""
        bad = has_value(texts) & ~_matches(texts, _BOOL)
        return _matches(texts, _TRUE), bad

    def times(self, texts: pa.Array) -> Instants:
        """The times that the texts state, integers included. An empty text is no value.

        What lies outside of the years 1 to 9999 stays outside, or is bad.
        """
        has = has_value(texts) & (integers(pa.compute.binary_length(texts)) > 0)
        found = self._written(texts, has)
        if not found.bad.any():
            return found
        for pattern, count in ((_INTEGER, _scaled_integers), (_DECIMAL, _scaled_decimals)):
            rows = np.flatnonzero(found.bad & _matches(texts, pattern))
            if len(rows):
                found.micros[rows] = count(texts.take(pa.array(rows)), self.unit_nanos)
                found.bad[rows] = False
        return found

    def fits(self, kind: ValueKind.ValueType, texts: pa.Array) -> Mask:
        """Which texts are by themselves, without a kind given, of this kind. False where there is null."""
        if kind == VALUE_KIND_NUMBER:
            return self._plain_numbers(texts)
        if kind == VALUE_KIND_BOOL:
            return _matches(texts, _BOOL)
        assert kind == VALUE_KIND_TIME
        found = self._written(texts, has_value(texts))
        return found.has & ~found.bad & (found.micros >= TIME_MIN_MICROS) & (found.micros <= TIME_MAX_MICROS)

    def _written(self, texts: pa.Array, has: Mask) -> Instants:
        """The times that are written as such; the integers are bad."""
        micros = np.zeros(len(texts), np.int64)
        read = ~has
        if self._format is not None:
            own, fits = self._format.micros(texts)
            taken = fits & ~read
            micros[taken], read[taken] = own[taken], True
        elif (zoned := _all_zoned(texts)) is not None:
            return Instants(np.where(has, zoned, micros), has, np.zeros(len(texts), np.bool_))
        for pattern, suffix in ((_ZONED, ""), (_LOCAL, "Z"), (_DAY, "T00:00:00Z"), (_LOOSE, None)):
            if read.all():
                break
            rows = np.flatnonzero(~read & _matches(texts, pattern))
            if len(rows):
                some = texts.take(pa.array(rows))
                micros[rows], read[rows] = _from_iso(
                    _strict(some) if suffix is None else _ended(some, suffix)
                )
        return Instants(micros, has, ~read)

    def _all_doubles(self, texts: pa.Array) -> npt.NDArray[np.float64] | None:
        """The doubles of texts that are all numbers; None when some are not, or it takes a closer look."""
        cast = None if self.decimal_comma else _cast_whole(texts, pa.float64())
        if cast is None:
            return None
        doubles = items(cast, np.float64)
        # Besides numbers, Arrow takes infinities and NaN.
        return doubles if np.isfinite(doubles[has_value(texts)]).all() else None

    def _plain_numbers(self, texts: pa.Array) -> Mask:
        """Which texts are numbers without leading zeros and plus signs."""
        if self._all_doubles(texts) is None:
            return self._matches(texts, _PLAIN_NUMBER)
        fits = has_value(texts).copy()
        rows = np.flatnonzero(fits & np.isin(first_bytes(texts), _NOT_PLAIN_STARTS))
        if len(rows):
            fits[rows] = _matches(texts.take(pa.array(rows)), _PLAIN_NUMBER)
        return fits

    def _matches(self, texts: pa.Array, pattern: str) -> Mask:
        return _matches(texts, pattern.replace(r"\.", ",") if self.decimal_comma else pattern)

    def _doubles(self, texts: pa.Array, fits: Mask) -> pa.Array:
        if not fits.all():
            texts = pa.compute.if_else(pa.array(fits), texts, pa.scalar(None, texts.type))
        if self.decimal_comma:
            texts = pa.compute.replace_substring(texts, ",", ".")
        return texts.cast(pa.float64())

    def _with_point(self, text: str) -> str:
        return text.replace(",", ".") if self.decimal_comma else text


def is_exact(text: str) -> bool:
    """Whether a double holds the number that a text states, as `Grammar.numbers` has it."""
    double = float(text)
    return abs(double) < INTEGER_EXACT_MAX or (abs(double) != float("inf") and _is_held(text, double))


def scaled(counts: Micros, unit_nanos: int) -> Micros:
    """Counts of a unit as microseconds, rounded down; what would not fit is cut to just outside of the range
    of times.
    """
    if unit_nanos < NANOS_PER_MICRO:
        return counts // (NANOS_PER_MICRO // unit_nanos)
    factor = unit_nanos // NANOS_PER_MICRO
    least, most = TIME_MIN_MICROS // factor - 1, TIME_MAX_MICROS // factor + 1
    return np.clip(counts, least, most) * factor


def _is_held(text: str, double: float) -> bool:
    """Whether a double of 2^53 or more is the number that a text states. An integer may be 2^53 at most: of
    those beyond, many are between two doubles, and an id must not be taken by luck.
    """
    if set(text) & set(".eE"):
        return Decimal(text) == Decimal(repr(double))
    return abs(Decimal(text)) <= INTEGER_EXACT_MAX


def _matches(texts: pa.Array, pattern: str) -> Mask:
    return truth(pa.compute.match_substring_regex(texts, pattern))


def _scaled_integers(texts: pa.Array, unit_nanos: int) -> Micros:
    # Arrow takes no plus sign.
    plain = pa.compute.replace_substring_regex(texts, r"^\+", "")
    return scaled(items(plain.cast(pa.int64()), np.int64), unit_nanos)


def _scaled_decimals(texts: pa.Array, unit_nanos: int) -> Micros:
    """As integers; the fraction is added to the microseconds, rounded down."""
    replaced = pa.compute.replace_substring_regex
    negative = _matches(texts, "^-")
    whole = items(replaced(texts, r"^[+-]?([0-9]+)\..*$", r"\1").cast(pa.int64()), np.int64)
    digits = pa.compute.utf8_rpad(replaced(texts, r"^.*\.", ""), _FRACTION_DIGITS, "0")
    fraction = items(digits.cast(pa.int64()), np.int64) * unit_nanos
    sign = np.where(negative, -1, 1)
    if unit_nanos < NANOS_PER_MICRO:
        return scaled(sign * whole - (negative & (fraction > 0)), unit_nanos)
    return scaled(sign * whole, unit_nanos) + sign * fraction // (NANOS_PER_SECOND * NANOS_PER_MICRO)


def _ended(texts: pa.Array, suffix: str) -> pa.Array:
    if not suffix:
        return texts
    return pa.compute.binary_join_element_wise(
        texts, pa.scalar(suffix, texts.type), pa.scalar("", texts.type)
    )


def _all_zoned(texts: pa.Array) -> Micros | None:
    """Microseconds of texts that all have a time of day and an offset; None when some have not, or it takes a
    closer look. Arrow takes hours without minutes, but no such text is that long.
    """
    lengths = integers(pa.compute.binary_length(texts))
    if not len(lengths) or lengths[has_value(texts)].min(initial=_ZONED_BYTES_MIN) < _ZONED_BYTES_MIN:
        return None
    cast = _cast_whole(texts, pa.timestamp("us", "UTC"))
    return None if cast is None else items(cast.view(pa.int64()), np.int64).copy()


def _cast_whole(texts: pa.Array, type_: Any) -> pa.Array | None:
    """All of the texts as Arrow reads them, None when it refuses one. A refusal takes it long, so that some
    texts are tried first.
    """
    try:
        if len(texts) > _TRIED:
            texts.take(pa.array(np.linspace(0, len(texts) - 1, _TRIED, dtype=np.int64))).cast(type_)
        return texts.cast(type_)
    except pa.ArrowInvalid:
        return None


def _strict(texts: pa.Array) -> pa.Array:
    for pattern, written in _TO_STRICT:
        texts = pa.compute.replace_substring_regex(texts, pattern, written)
    return texts


def _from_iso(texts: pa.Array) -> tuple[Micros, Mask]:
    """Microseconds and whether there is such an instant, of texts in the form with an offset."""
    try:
        micros: Any = texts.cast(pa.timestamp("us", "UTC")).view(pa.int64())
    except pa.ArrowInvalid:
        # Some day does not exist, or there are digits or letters that Arrow does not take.
        read = {text: _micros_of(text) for text in set(texts.to_pylist())}
        found = [read[text] for text in texts.to_pylist()]
        return (
            np.array([0 if each is None else each for each in found], np.int64),
            np.array([each is not None for each in found], np.bool_),
        )
    return items(micros, np.int64), np.ones(len(texts), np.bool_)


_ISO = re.compile(_ZONED)


def _micros_of(text: str) -> int | None:
    assert _ISO.match(text), text
    try:
        # Digits behind the sixth are cut off, which rounds down: the years before 1970 count upwards as well.
        return (datetime.fromisoformat(text.upper()) - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError):
        return None
