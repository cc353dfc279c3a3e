"""Values of settings as text: numbers, sizes (`256GiB`), durations (`90s`, `1d12h`), choices, paths."""

from __future__ import annotations

import re
import typing
from decimal import Decimal
from pathlib import Path
from typing import Any

from engine.backends.settings import Declared
from engine.values import MICROS_PER_SECOND
from milepost.durations import duration_of

SIZES = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
}
DURATION_UNITS_MICROS = {"_ms": 1_000, "_s": MICROS_PER_SECOND, "_days": 86_400 * MICROS_PER_SECOND}
"""Unit of a setting → its length."""
NANOS_PER_MICRO = 1_000
NUMBERS: dict[Any, type[int] | type[float]] = {int: int, float: float, int | None: int}
"""Kind of a setting that is a number → the type of its values."""
_SIZE = re.compile(rf"([0-9]{{1,18}}(?:\.[0-9]{{1,9}})?) ?({'|'.join(SIZES)})")
_YES_AND_NO = {"true": True, "false": False}


class InvalidValue(ValueError):
    """The text is no value of the setting. The message completes "--flag …"."""


def value_of(field: Declared, text: str) -> Any:
    """The value a text stands for. Raises InvalidValue."""
    choices = choices_of(field)
    if choices:
        if text not in choices:
            raise InvalidValue(f"must be one of {', '.join(choices)}, got {text!r}")
        return text
    if field.kind in NUMBERS:
        return _number(field, NUMBERS[field.kind], text)
    if field.kind is bool:
        if text not in _YES_AND_NO:
            raise InvalidValue(f"must be true or false, got {text!r}")
        return _YES_AND_NO[text]
    if not text:
        raise InvalidValue("must not be empty")
    return text if field.kind in (str, str | None) else Path(text)


def choices_of(field: Declared) -> tuple[str, ...]:
    """The values a setting can have when they are few words; else none."""
    return typing.get_args(field.kind) if typing.get_origin(field.kind) is typing.Literal else ()


def _number(field: Declared, kind: type[int] | type[float], text: str) -> int | float:
    unit = field.unit
    try:
        value = kind(text)
    except ValueError:
        try:
            exact = _converted(unit, text)
        except ValueError:
            raise InvalidValue(f"{_EXPECTED[unit]}, got {text!r}") from None
        if kind is int and exact != int(exact):
            raise InvalidValue(f"must be a whole number of {_NAMES[unit]}, got {text!r}") from None
        value = kind(exact)
    fault = field.setting.fault(value)
    if fault is not None:
        raise InvalidValue(f"{fault}, got {text}")
    return value


def _converted(unit: str, text: str) -> Decimal:
    """The number that a size or a duration is in a setting's unit. Raises ValueError for other texts."""
    if unit == "_bytes":
        found = _SIZE.fullmatch(text)
        if found is not None:
            return Decimal(found[1]) * SIZES[found[2]]
    elif unit:
        length = duration_of(text)
        micros = length.seconds * MICROS_PER_SECOND + Decimal(length.nanos) / NANOS_PER_MICRO
        return micros / DURATION_UNITS_MICROS[unit]
    raise ValueError(text)


_NAMES = {"_bytes": "bytes", "_ms": "milliseconds", "_s": "seconds", "_days": "days"}
_EXPECTED = {
    "": "must be a number",
    "_bytes": "must be a number of bytes, or a size such as 64MiB (units: " + ", ".join(SIZES) + ")",
    **{
        unit: f"must be a number of {_NAMES[unit]}, or a duration such as 90s, 12h or 1d12h"
        for unit in DURATION_UNITS_MICROS
    },
}
