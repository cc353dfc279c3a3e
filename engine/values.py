"""The five kinds of value an attribute can have, and the units of time.

A value keeps the kind it was sent with: the string "12" is not the number 12 and `true` is not 1. In Python a
value is

===============  =======================  =====================================================
kind             Python type              meaning
===============  =======================  =====================================================
string           `str`                    Unicode text
number           `float`                  IEEE double, never NaN or infinite
bool             `bool`
time             `int`                    microseconds since 1970-01-01T00:00:00Z (`Micros`)
list             `tuple[str, ...]`        list of strings
===============  =======================  =====================================================

The mapping is one to one, so `type(value)` decides the kind (`bool` is a subclass of `int`: use `kind_of`,
never `isinstance`), and MessagePack, which tells integers, doubles, booleans, strings and arrays apart, keeps
it without a wrapper.
"""

from __future__ import annotations

import enum
from typing import TypeAlias

import xxhash

Micros: TypeAlias = int
"""An instant (microseconds since the Unix epoch, UTC) or a duration in microseconds."""

Value: TypeAlias = str | float | bool | Micros | tuple[str, ...]

MICROS_PER_SECOND = 1_000_000
MICROS_PER_HOUR = 3_600 * MICROS_PER_SECOND
MICROS_PER_DAY = 24 * MICROS_PER_HOUR

TIME_MIN_MICROS = -62_135_596_800 * MICROS_PER_SECOND
"""0001-01-01T00:00:00Z, the earliest instant of a `google.protobuf.Timestamp`."""
TIME_MAX_MICROS = 253_402_300_800 * MICROS_PER_SECOND - 1
"""9999-12-31T23:59:59.999999Z, the latest."""

PARTITION_COUNT = 1_024
PARTITION_BITS = 10


class Kind(enum.IntEnum):
    """The kind of a value; the numbers are stored on disk and never change."""

    STRING = 1
    NUMBER = 2
    BOOL = 3
    TIME = 4
    LIST = 5


_KIND_OF_TYPE = {str: Kind.STRING, float: Kind.NUMBER, bool: Kind.BOOL, int: Kind.TIME, tuple: Kind.LIST}


def kind_of(value: Value) -> Kind:
    """The kind of `value`, from its exact Python type."""
    return _KIND_OF_TYPE[type(value)]


def partition_of(user_id: str) -> int:
    """The virtual partition of a user, 0 to 1,023: the top 10 bits of XXH3-64 of the user id. Never changes.

    Because it is a hash, any set of partitions is a uniform random sample of the users.
    """
    return xxhash.xxh3_64_intdigest(user_id.encode()) >> (64 - PARTITION_BITS)


def bucket_of(salt: str, user_id: str) -> int:
    """XXH3-64 of salt, a zero byte and the user id: its position in [0, 2^64) for experiment buckets."""
    return xxhash.xxh3_64_intdigest(salt.encode() + b"\0" + user_id.encode())
