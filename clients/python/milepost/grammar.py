"""The grammar of values written as text: numbers, bools and times.

The service reads text columns of an import by it, and the command line infers the kinds of a CSV file by it,
so both agree on every text. A text that matches none of the forms remains a string.

    number   1  -2.5  .5  5.  1e-3       inferred; with an explicit kind also +5 and 007
    bool     true  false                 in any case
    time     2026-11-01                  midnight UTC
             2026-11-01T10:00            or a space for the T; seconds and their fraction may follow
             2026-11-01 10:00:00+0100    Z, UTC, +01:00, +0100 or +01 may follow, also after a space; else UTC
             1793527200  1793527200.5    in the time unit; only where a time is expected
             anything in `time_format`   see `milepost.time_formats`

An integer must lie within 2^53, so that a double represents it: 9007199254740993 is rejected, not rounded. A
number with a fraction or an exponent becomes the nearest double; beyond 2^53 it is rejected unless the double
reads back as the same number. A number beyond the range of a double is rejected. Digits below a microsecond
are dropped, towards the past.

Uses pyarrow and numpy: import it where it is needed, not at start.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_FLOOR, Decimal
from fractions import Fraction
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from milepost.arrays import Mask, first_bytes, has_value, integers, items, truth
from milepost.kinds import is_not_a
from milepost.time_formats import TimeFormat
from milepost.v1.catalog_service_pb2 import (
    VALUE_KIND_BOOL,
    VALUE_KIND_NUMBER,
    VALUE_KIND_TIME,
    ValueKind,
)

NOT_A_NUMBER = is_not_a(VALUE_KIND_NUMBER)
NOT_A_BOOL = "must be true or false"
NOT_A_TIME = is_not_a(VALUE_KIND_TIME)
OUTSIDE = "is outside of the years 1 to 9999"
INEXACT_TIME = "is a number that states no time exactly: write it as a text or an integer"
INEXACT = "is an integer beyond 2^53, which no number holds exactly"
TOO_LARGE = "is beyond the range of a number"

NANOS_PER_MICRO = 1_000
NANOS_PER_SECOND = 1_000_000_000
INTEGER_EXACT_MAX = 1 << 53
"""The largest integer up to which doubles represent every integer."""
TIME_MIN_MICROS = -62_135_596_800 * 1_000_000
TIME_MAX_MICROS = 253_402_300_800 * 1_000_000 - 1
"""The years 1 to 9999."""
_TOO_EARLY, _TOO_LATE = TIME_MIN_MICROS - 1, TIME_MAX_MICROS + 1
"""Stand for all times outside."""

Micros: TypeAlias = npt.NDArray[np.int64]

_FRACTION_DIGITS = 9
_FLOATS: Mapping[Any, type[np.floating[Any]]] = {
    pa.float16(): np.float16,
    pa.float32(): np.float32,
    pa.float64(): np.float64,
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BOOL = r"^(?i:true|false)$"
_TRUE = r"^(?i:true)$"
_EXPONENT = r"([eE][+-]?[0-9]+)?$"
_NUMBER = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)" + _EXPONENT
_PLAIN_NUMBER = r"^-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)" + _EXPONENT
"""Excludes leading zeros and a plus sign, as in postal codes and telephone numbers."""
_NOT_PLAIN_STARTS = np.frombuffer(b"0+-", np.uint8)

_INTEGER = r"^[+-]?[0-9]+$"
_DECIMAL = r"^[+-]?[0-9]+\.[0-9]{1,9}$"
_COUNT_DIGITS_MAX = 21
"""Digits of the nanoseconds from 1970 to the last time."""
_DAY = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
_TO_MINUTES = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}"
_LOCAL = _TO_MINUTES + r":[0-9]{2}(\.[0-9]{1,9})?$"
_ZONED = _LOCAL[:-1] + r"([Zz]|[+-][0-9]{2}:[0-5][0-9])$"
_TRIED = 32
_ZONED_BYTES_MIN = len("2026-11-01T10:00:00Z")
_LOOSE = _TO_MINUTES + r"(:[0-9]{2}(\.[0-9]{1,9})?)?( ?([Zz]|UTC|[+-][0-9]{2}(:?[0-5][0-9])?))?$"
_TO_STRICT = (
    # Seconds first, so that the other rules find them before the offset.
    (rf"({_TO_MINUTES})( ?([Zz]|UTC|[+-].*)?)$", r"\1:00\2"),
    (r" ?UTC$", "Z"),
    (r" ([Zz]|[+-][0-9:]+)$", r"\1"),
    (r"(:[0-9]{2}(\.[0-9]+)?[+-][0-9]{2})$", r"\1:00"),
    (r"(:[0-9]{2}(\.[0-9]+)?[+-][0-9]{2})([0-9]{2})$", r"\1:\3"),
    (r"([Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?)$", r"\1Z"),
)
"""Rewrites that complete a loose time with seconds and an offset of hours and minutes."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """A double for each row. `bad` marks texts that are not numbers, `inexact` numbers that a double cannot
    represent, `too_large` those beyond its range. Where one of them is true, the double is undefined.
    """

    values: npt.NDArray[np.float64]
    bad: Mask
    inexact: Mask
    too_large: Mask


@dataclass(frozen=True, slots=True)
class Instants:
    """Microseconds for each row; `has` is false where there is no value, `bad` true where it is no time,
    `inexact` where it is a float that does not hold one to the microsecond.
    """

    micros: Micros
    has: Mask
    bad: Mask
    inexact: Mask

    @classmethod
    def of(cls, micros: Micros, has: Mask, bad: Mask | None = None) -> Instants:
        """Instants that are all exact; without `bad`, all that have a value are times."""
        none = np.zeros(len(micros), np.bool_)
        return cls(micros, has, none if bad is None else bad, none)

    @property
    def refusals(self) -> Sequence[tuple[str, Mask]]:
        """Why rows cannot be taken, and which ones."""
        return (NOT_A_TIME, self.bad), (INEXACT_TIME, self.inexact)

    @property
    def unfit(self) -> Mask:
        """All rows that cannot be taken."""
        return self.bad | self.inexact


@dataclass(frozen=True)
class Grammar:
    """The grammar with its settings. Arrays are of strings or large strings; null is no value.

    `decimal_comma`: numbers are written `9,5` instead of `9.5`. `time_format`: an additional form of times.
    Raises ValueError when it is no format. `unit_nanos`: what numbers count where a time is expected.
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
        """Parses numbers."""
        has = has_value(texts)
        whole = self._all_doubles(texts)
        fits = has if whole is not None else self._matches(texts, _NUMBER)
        doubles = items(self._doubles(texts, fits), np.float64) if whole is None else whole
        inexact, too_large = np.zeros(len(texts), np.bool_), fits & ~np.isfinite(doubles)
        for row in np.flatnonzero(fits & ~too_large & (np.abs(doubles) >= INTEGER_EXACT_MAX)).tolist():
            inexact[row] = not _is_held(self._with_point(texts[row].as_py()), float(doubles[row]))
        return Numbers(doubles, has & ~fits, inexact, too_large)

    def bools(self, texts: pa.Array) -> tuple[Mask, Mask]:
        """Which texts are true, and which are not bools."""
        bad = has_value(texts) & ~_matches(texts, _BOOL)
        return _matches(texts, _TRUE), bad

    def times(self, texts: pa.Array) -> Instants:
        """Parses times, including integers. An empty text is a missing value.

        Times outside of the years 1 to 9999 stay outside; a year of more than four digits is marked bad.
        """
        has = has_value(texts) & (integers(pa.compute.binary_length(texts)) > 0)
        return self._counted(texts, self._written(texts, has))

    def times_of_floats(self, floats: pa.Array) -> Instants:
        """The times that floats count. A float is the shortest decimal that reads back as it; where several
        microseconds read back as one float, a fraction is inexact, and so is an integer where several do,
        unless all of them are outside of the years 1 to 9999.
        """
        has = has_value(floats)
        type_ = _FLOATS[floats.type]
        given = items(floats, type_)
        values = given.astype(np.float64)
        has_number = has & np.isfinite(values)
        gaps = np.spacing(np.abs(np.where(has_number, given, 0).astype(type_))).astype(np.float64)
        whole = np.floor(np.where(has_number, values, 0))
        fraction = np.where(has_number, values, 0) - whole
        is_coarse = gaps * self.unit_nanos > NANOS_PER_MICRO
        inexact = (np.abs(whole) > 2.0 ** (np.finfo(type_).nmant + 1)) | (is_coarse & (fraction != 0))
        micros = scaled(np.where(inexact, 0, whole).astype(np.int64), self.unit_nanos)
        if self.unit_nanos >= NANOS_PER_MICRO:
            factor = self.unit_nanos // NANOS_PER_MICRO
            parts = fraction * factor
            nearest = np.rint(parts)
            is_meant = np.abs(parts - nearest) <= gaps * factor / 2
            micros = micros + np.where(is_meant, nearest, np.floor(parts)).astype(np.int64)
        for outside, beyond in ((_TOO_EARLY, np.less), (_TOO_LATE, np.greater)):
            is_outside = beyond(values, outside * NANOS_PER_MICRO / self.unit_nanos)
            micros[is_outside], inexact[is_outside] = outside, False
        return Instants(micros, has, has & ~has_number, has_number & inexact)

    def times_of_decimals(self, decimals: pa.Array) -> Instants:
        """The times that decimals count, as texts of the same digits."""
        texts = decimals.cast(pa.string())
        if truth(pa.compute.match_substring(texts, "E")).any():
            written = [None if each is None else f"{each:f}" for each in decimals.to_pylist()]
            texts = pa.array(written, pa.string())
        digits = pa.compute.replace_substring_regex(texts, r"\.?0*$", "", max_replacements=1)
        has_point = pa.compute.match_substring(texts, ".")
        has = has_value(decimals)
        nothing = np.zeros(len(decimals), np.int64)
        return self._counted(
            pa.compute.if_else(has_point, digits, texts), Instants.of(nothing, has, has.copy())
        )

    def _counted(self, texts: pa.Array, found: Instants) -> Instants:
        """What was found, with the counts of the time unit among what is bad so far."""
        if not found.bad.any():
            return found
        for pattern, count in ((_INTEGER, _scaled_integers), (_DECIMAL, _scaled_decimals)):
            rows = np.flatnonzero(found.bad & _matches(texts, pattern))
            if len(rows):
                found.micros[rows] = count(texts.take(pa.array(rows)), self.unit_nanos)
                found.bad[rows] = False
        return found

    def fits(self, kind: ValueKind.ValueType, texts: pa.Array) -> Mask:
        """Which texts are inferred as this kind. False for null."""
        if kind == VALUE_KIND_NUMBER:
            return self._plain_numbers(texts)
        if kind == VALUE_KIND_BOOL:
            return _matches(texts, _BOOL)
        assert kind == VALUE_KIND_TIME
        found = self._written(texts, has_value(texts))
        return found.has & ~found.bad & (found.micros >= TIME_MIN_MICROS) & (found.micros <= TIME_MAX_MICROS)

    def _written(self, texts: pa.Array, has: Mask) -> Instants:
        """Parses written times; integers are marked bad."""
        micros = np.zeros(len(texts), np.int64)
        read = ~has
        if self._format is not None:
            own, fits = self._format.micros(texts)
            taken = fits & ~read
            micros[taken], read[taken] = own[taken], True
        elif (zoned := _all_zoned(texts)) is not None:
            return Instants.of(np.where(has, zoned, micros), has)
        for pattern, suffix in ((_ZONED, ""), (_LOCAL, "Z"), (_DAY, "T00:00:00Z"), (_LOOSE, None)):
            if read.all():
                break
            rows = np.flatnonzero(~read & _matches(texts, pattern))
            if len(rows):
                some = texts.take(pa.array(rows))
                micros[rows], read[rows] = _from_iso(
                    _strict(some) if suffix is None else _ended(some, suffix)
                )
        return Instants.of(micros, has, ~read)

    def _all_doubles(self, texts: pa.Array) -> npt.NDArray[np.float64] | None:
        """The doubles if all texts are plain numbers; None if the slow path is needed."""
        cast = None if self.decimal_comma else _cast_whole(texts, pa.float64())
        if cast is None:
            return None
        doubles = items(cast, np.float64)
        # Arrow also accepts infinities and NaN.
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


def is_number(text: str) -> bool:
    """Whether a text is a number, with a decimal point."""
    return re.fullmatch(_NUMBER, text) is not None


def is_exact(text: str) -> bool:
    """Whether a double represents the number of a text, by the rules of `Grammar.numbers`."""
    double = float(text)
    return abs(double) < INTEGER_EXACT_MAX or (abs(double) != float("inf") and _is_held(text, double))


def fault_of_time(text: str) -> str:
    """Why a text is no time in the years 1 to 9999; empty if it is one."""
    found = Grammar().times(pa.array([text]))
    if found.bad[0]:
        return NOT_A_TIME
    return "" if TIME_MIN_MICROS <= found.micros[0] <= TIME_MAX_MICROS else OUTSIDE


def scaled(counts: npt.NDArray[Any], unit_nanos: int) -> Micros:
    """Counts of a unit (64 bits, signed or not) as microseconds, rounded down; values that overflow are
    clamped to just outside the range of times.
    """
    if unit_nanos < NANOS_PER_MICRO:
        return np.asarray(counts // (NANOS_PER_MICRO // unit_nanos)).astype(np.int64)
    factor = unit_nanos // NANOS_PER_MICRO
    least, most = TIME_MIN_MICROS // factor - 1, TIME_MAX_MICROS // factor + 1
    fitting: Micros = np.maximum(np.minimum(counts, most).astype(np.int64), least)
    return fitting * factor


def float_time(number: float, unit_nanos: int) -> str:
    """A float that counts a time unit as a text, by the rule of `Grammar.times_of_floats`. Raises ValueError
    when it is inexact.
    """
    is_whole = number == math.floor(number) if math.isfinite(number) else True
    is_coarse = math.ulp(number) * unit_nanos > NANOS_PER_MICRO
    if math.isfinite(number) and not _TOO_EARLY <= number * unit_nanos / NANOS_PER_MICRO <= _TOO_LATE:
        return f"{number:.0f}"
    if math.isfinite(number) and (abs(number) > INTEGER_EXACT_MAX or (is_coarse and not is_whole)):
        raise ValueError(INEXACT_TIME)
    if not math.isfinite(number):
        return repr(number)
    cut = Decimal(repr(number)).quantize(Decimal((0, (1,), -_FRACTION_DIGITS)), ROUND_FLOOR)
    return f"{cut:f}"


def _is_held(text: str, double: float) -> bool:
    """Whether a double of 2^53 or more equals the number of the text. An integer may be 2^53 at most: many
    beyond it lie between two doubles, and an id must not be accepted by luck.
    """
    if set(text) & set(".eE"):
        return Decimal(text) == Decimal(repr(double))
    return abs(Decimal(text)) <= INTEGER_EXACT_MAX


def _matches(texts: pa.Array, pattern: str) -> Mask:
    return truth(pa.compute.match_substring_regex(texts, pattern))


def _scaled_integers(texts: pa.Array, unit_nanos: int) -> Micros:
    # Arrow accepts no plus sign.
    plain = pa.compute.replace_substring_regex(texts, r"^\+", "")
    try:
        counts = items(plain.cast(pa.int64()), np.int64)
    except pa.ArrowInvalid:
        return _scaled_one_by_one(texts, unit_nanos)
    return scaled(counts, unit_nanos)


def _scaled_decimals(texts: pa.Array, unit_nanos: int) -> Micros:
    """As integers; the fraction is added to the microseconds, rounded down."""
    replaced = pa.compute.replace_substring_regex
    negative = _matches(texts, "^-")
    try:
        whole = items(replaced(texts, r"^[+-]?([0-9]+)\..*$", r"\1").cast(pa.int64()), np.int64)
    except pa.ArrowInvalid:
        return _scaled_one_by_one(texts, unit_nanos)
    digits = pa.compute.utf8_rpad(replaced(texts, r"^.*\.", ""), _FRACTION_DIGITS, "0")
    fraction = items(digits.cast(pa.int64()), np.int64) * unit_nanos
    sign = np.where(negative, -1, 1)
    if unit_nanos < NANOS_PER_MICRO:
        return scaled(sign * whole - (negative & (fraction > 0)), unit_nanos)
    return scaled(sign * whole, unit_nanos) + sign * fraction // (NANOS_PER_SECOND * NANOS_PER_MICRO)


def _scaled_one_by_one(texts: pa.Array, unit_nanos: int) -> Micros:
    """Counts of which some have more than 64 bits."""
    return np.array([_micros_counted(text, unit_nanos) for text in texts.to_pylist()], np.int64)


def _micros_counted(text: str, unit_nanos: int) -> int:
    if len(text.lstrip("+-").lstrip("0").partition(".")[0]) > _COUNT_DIGITS_MAX:
        return _TOO_EARLY if text.startswith("-") else _TOO_LATE
    micros = math.floor(Fraction(text) * unit_nanos / NANOS_PER_MICRO)
    return min(max(micros, _TOO_EARLY), _TOO_LATE)


def _ended(texts: pa.Array, suffix: str) -> pa.Array:
    if not suffix:
        return texts
    return pa.compute.binary_join_element_wise(
        texts, pa.scalar(suffix, texts.type), pa.scalar("", texts.type)
    )


def _all_zoned(texts: pa.Array) -> Micros | None:
    """Microseconds if all texts have a time of day and an offset; None if the slow path is needed. Arrow
    accepts hours without minutes, but no such text is that long.
    """
    lengths = integers(pa.compute.binary_length(texts))
    if not len(lengths) or lengths[has_value(texts)].min(initial=_ZONED_BYTES_MIN) < _ZONED_BYTES_MIN:
        return None
    cast = _cast_whole(texts, pa.timestamp("us", "UTC"))
    return None if cast is None else items(cast.view(pa.int64()), np.int64).copy()


def _cast_whole(texts: pa.Array, type_: Any) -> pa.Array | None:
    """All texts as parsed by Arrow, None when it rejects one. Rejection is slow, so a few texts are tried
    first.
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
    """Microseconds of texts in the form with an offset, and whether each instant exists."""
    try:
        micros: Any = texts.cast(pa.timestamp("us", "UTC")).view(pa.int64())
    except pa.ArrowInvalid:
        # Some day does not exist, or a text has digits or letters that Arrow rejects.
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
        # Digits after the sixth are dropped, which rounds down, also before 1970.
        return (datetime.fromisoformat(text.upper()) - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError):
        return None
