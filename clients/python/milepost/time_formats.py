"""Time formats in the notation of `strptime`, parsed column by column.

`TimeFormat("%d.%m.%Y %H:%M")` reads `01.11.2026 10:00`. The directives:

    %Y %y        year; of two digits, 69 to 99 are 1969 to 1999
    %m %b %B     month, as a number, `Nov` or `November` (English, in any case)
    %d           day of the month
    %H %I %p     hour, of 24; of 12 with AM or PM
    %M %S %f     minute, second, up to nine digits of a second (the seventh and later are cut off)
    %z           Z, UTC, +01:00, +0100 or +01; without it, times are UTC
    %a %A        day of the week, ignored
    %F %D %T %R  %Y-%m-%d, %m/%d/%y, %H:%M:%S, %H:%M
    %%           a percent sign

Leading zeros are optional, except in the year and directly after another number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from milepost.arrays import Mask, items, truth

MICROS_PER_SECOND = 1_000_000
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_FULL_MONTHS = "january|february|march|april|may|june|july|august|september|october|november|december"
_SHORTHANDS = {"F": "%Y-%m-%d", "D": "%m/%d/%y", "T": "%H:%M:%S", "R": "%H:%M"}
_PATTERNS = {
    "Y": "[0-9]{4}",
    "y": "[0-9]{2}",
    "m": "[0-9]{1,2}",
    "d": "[0-9]{1,2}",
    "H": "[0-9]{1,2}",
    "I": "[0-9]{1,2}",
    "M": "[0-9]{1,2}",
    "S": "[0-9]{1,2}",
    "f": "[0-9]{1,9}",
    "p": "(?i:am|pm)",
    "b": f"(?i:{'|'.join(_MONTHS)})",
    "B": f"(?i:{_FULL_MONTHS})",
    "z": "Z|UTC|[+-][0-9]{2}(?::?[0-9]{2})?",
    "a": "[A-Za-z]+",
    "A": "[A-Za-z]+",
}
_NUMBERS = frozenset("YymdHIMSf")
_NAMES = {"y": "Y", "b": "m", "B": "m", "I": "H"}
"""Directives that are synonyms of others."""
_PIVOT = 69
_Parts = Mapping[str, pa.Array]
_Counts = npt.NDArray[np.int64]


class TimeFormat:
    """A format. Raises ValueError when a directive is unknown or repeated, or the date is incomplete."""

    def __init__(self, text: str) -> None:
        plain = re.sub("%([FDTR])", lambda match: _SHORTHANDS[match[1]], text)
        self._directives: list[str] = []
        self._pattern = f"^{self._compiled(plain)}$"
        said = [_NAMES.get(each, each) for each in self._directives]
        repeated = sorted({each for each in said if said.count(each) > 1 and each not in "aA"})
        if repeated:
            raise ValueError(f"the time format {text!r} has %{repeated[0]} more than once")
        if not {"Y", "m", "d"} <= set(said):
            raise ValueError(f"the time format {text!r} must have year, month and day")
        if ("I" in self._directives) != ("p" in self._directives):
            raise ValueError(f"the time format {text!r} must have %I and %p together")

    def _compiled(self, text: str) -> str:
        pattern, at = "", 0
        while at < len(text):
            if text[at] != "%":
                pattern += re.escape(text[at])
                at += 1
                continue
            directive = text[at + 1 : at + 2]
            at += 2
            if directive == "%":
                pattern += "%"
            elif directive in _PATTERNS and directive:
                pattern += f"(?P<g{len(self._directives)}>{self._digits(directive, text[at:])})"
                self._directives.append(directive)
            else:
                known = " ".join(f"%{each}" for each in (*_PATTERNS, *_SHORTHANDS))
                raise ValueError(f"the time format {text!r} has %{directive}; known are {known}")
        return pattern

    @staticmethod
    def _digits(directive: str, rest: str) -> str:
        """The pattern; exactly two digits where another number follows directly."""
        followed = rest[:1] == "%" and rest[1:2] in _NUMBERS
        return _PATTERNS[directive].replace("{1,2}", "{2}") if followed else _PATTERNS[directive]

    def micros(self, texts: pa.Array) -> tuple[_Counts, Mask]:
        """Microseconds since 1970, and which texts match this format."""
        groups = pa.compute.extract_regex(texts, pattern=self._pattern)
        fits = truth(groups.is_valid())
        if not fits.any():
            return np.zeros(len(texts), np.int64), fits
        parts = {
            _NAMES.get(directive, directive): _filled(groups.field(place), directive)
            for place, directive in enumerate(self._directives)
        }
        return _combined(parts, self._directives, fits)


def _filled(group: pa.Array, directive: str) -> pa.Array:
    """A group with a valid default where the text did not match."""
    plain = "01" if directive in _NUMBERS else "+00" if directive == "z" else "jan"
    return pa.compute.if_else(
        pa.compute.equal(pa.compute.binary_length(group), 0), pa.scalar(plain, group.type), group
    ).fill_null(plain)


def _combined(parts: _Parts, directives: list[str], fits: Mask) -> tuple[_Counts, Mask]:
    year, month, day = _year(parts["Y"]), _month(parts["m"], directives), _number(parts["d"])
    zero = np.zeros(len(fits), np.int64)
    hour, minute, second = (_number(parts[name]) if name in parts else zero for name in "HMS")
    fits = fits & (year >= 1) & (month >= 1) & (month <= len(_MONTHS)) & (minute < 60) & (second < 60)
    if "I" in directives:
        fits = fits & (hour >= 1) & (hour <= 12)
        hour = hour % 12 + 12 * truth(pa.compute.equal(pa.compute.utf8_lower(parts["p"]), "pm"))
    fits = fits & (hour < 24)
    months = (np.clip(year, 1, 9999) - 1970) * 12 + np.clip(month, 1, 12) - 1
    first = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    following = (months + 1).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    fits = fits & (day >= 1) & (day <= following - first)
    seconds = (first + day - 1) * 86_400 + hour * 3_600 + minute * 60 + second
    micros = seconds * MICROS_PER_SECOND
    if "f" in parts:
        digits = pa.compute.utf8_slice_codeunits(pa.compute.utf8_rpad(parts["f"], 6, "0"), 0, 6)
        micros = micros + _number(digits)
    if "z" in parts:
        offset, in_range = _offset_seconds(parts["z"])
        micros, fits = micros - offset * MICROS_PER_SECOND, fits & in_range
    return np.where(fits, micros, 0), fits


def _number(digits: pa.Array) -> _Counts:
    return items(digits.cast(pa.int64()), np.int64)


def _year(digits: pa.Array) -> _Counts:
    year = _number(digits)
    two = items(pa.compute.binary_length(digits).cast(pa.int64()), np.int64) == 2
    return np.where(two, np.where(year < _PIVOT, 2000, 1900) + year, year)


def _month(names: pa.Array, directives: list[str]) -> _Counts:
    if "m" in directives:
        return _number(names)
    short = pa.compute.utf8_slice_codeunits(pa.compute.utf8_lower(names), 0, 3)
    found: Any = pa.compute.index_in(short, pa.array(_MONTHS, short.type)).fill_null(-1)
    return items(found.cast(pa.int64()), np.int64) + 1


def _offset_seconds(offsets: pa.Array) -> tuple[_Counts, Mask]:
    plain = pa.compute.replace_substring_regex(offsets, "^(Z|UTC)$", "+00")
    negative = truth(pa.compute.starts_with(plain, "-"))
    digits = pa.compute.replace_substring_regex(plain, "[+:-]", "")
    number = _number(pa.compute.utf8_rpad(digits, 4, "0"))
    hours, minutes = number // 100, number % 100
    return np.where(negative, -1, 1) * (hours * 3_600 + minutes * 60), (hours < 24) & (minutes < 60)
