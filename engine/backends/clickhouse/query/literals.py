"""Literals and connectives of ClickHouse's SQL."""

from __future__ import annotations

from collections.abc import Iterable

TRUE, FALSE = "1", "0"

_ESCAPES = str.maketrans({"\\": "\\\\", "'": "\\'", "\0": "\\0"})


def text(value: str) -> str:
    """A String."""
    return f"'{value.translate(_ESCAPES)}'"


def texts(values: Iterable[str]) -> str:
    """An Array(String)."""
    return _array((text(value) for value in values), "String")


def number(value: float) -> str:
    """A Float64, in hexadecimal: the very same double, and never an integer."""
    return float(value).hex()


def int64(value: int) -> str:
    """An Int64. A bare literal has the smallest type that it fits."""
    return f"toInt64({text(str(value))})"


def int64s(values: Iterable[int]) -> str:
    """An Array(Int64)."""
    return f"CAST([{','.join(map(str, values))}], 'Array(Int64)')"


def int256(value: int) -> str:
    """An Int256. A bare literal above 2^64 - 1 would become a Float64."""
    return f"toInt256({text(str(value))})"


def uint64s(values: Iterable[int]) -> str:
    """An Array(UInt64)."""
    return f"CAST([{','.join(map(str, values))}], 'Array(UInt64)')"


def one_of(expression: str, values: Iterable[str]) -> str:
    """Whether a string is one of these: one lookup in a hash table, however many they are."""
    listed = ",".join(map(text, values))
    return f"{expression} IN ({listed})" if listed else FALSE


def one_of_numbers(expression: str, values: Iterable[float]) -> str:
    """Whether a Float64 is one of these. A hash table tells 0 and -0 apart, so both sides are made 0."""
    listed = ",".join(number(value + 0.0) for value in values)
    return f"({expression} + {number(0.0)}) IN ({listed})" if listed else FALSE


def one_of_integers(expression: str, values: Iterable[int]) -> str:
    """Whether an integer is one of these."""
    listed = ",".join(map(str, values))
    return f"{expression} IN ({listed})" if listed else FALSE


def all_of(conditions: Iterable[str]) -> str:
    """Every condition; without any, true."""
    parts = [condition for condition in dict.fromkeys(conditions) if condition != TRUE]
    if FALSE in parts:
        return FALSE
    return f"({' AND '.join(parts)})" if parts else TRUE


def any_of(conditions: Iterable[str]) -> str:
    """Some condition; without any, false."""
    parts = [condition for condition in dict.fromkeys(conditions) if condition != FALSE]
    if TRUE in parts:
        return TRUE
    return f"({' OR '.join(parts)})" if parts else FALSE


def _array(elements: Iterable[str], kind: str) -> str:
    listed = ",".join(elements)
    return f"[{listed}]" if listed else f"CAST([], 'Array({kind})')"
