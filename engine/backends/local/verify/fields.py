"""Checks profiles and their index: the index holds exactly what the profiles hold.

Both are compared by *sums*: for each field, kind and group, the number of indexed values and a sum modulo
2^64 of one term per value and user. Both sides add up the same terms in any order, so nothing has to be kept
per user.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
from pyroaring import BitMap

from engine.backends.local.attributes.index import (
    DIGEST_SUFFIX,
    EMPTY_LIST,
    column_codec,
    decode_text,
    stored_values,
    text_key,
    value_key_suffix,
    value_suffix,
)
from engine.backends.local.attributes.profile_codec import PROFILE
from engine.backends.local.storage.bitmaps import ids_of
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.name_table import Space
from engine.backends.local.storage.page_cache import BITMAP, PAGE_BITS, as_numpy
from engine.backends.local.verify.examination import Examination, Sets, as_is
from engine.backends.local.verify.write_times import WriteTimesCheck
from engine.values import Kind, Value, kind_of

_MODULUS = (1 << 64) - 1
_BITS_OF_NUMBER = struct.Struct("<d")
_NUMBER_OF_BITS = struct.Struct("<Q")

_IndexKey = tuple[int, int, int, int]
"""Account, field, kind and group."""


class _Sums:
    """Count and sum for each field, kind and group."""

    def __init__(self) -> None:
        self._sums: dict[_IndexKey, tuple[int, int]] = {}

    def add(self, at: _IndexKey, count: int, term: int) -> None:
        before = self._sums.get(at, (0, 0))
        self._sums[at] = (before[0] + count, (before[1] + term) & _MODULUS)

    def difference(self, other: _Sums) -> Iterator[tuple[_IndexKey, int, int]]:
        """Entries in which the two differ, with the counts of each."""
        for at in sorted(self._sums.keys() | other._sums.keys()):
            one, two = self._sums.get(at, (0, 0)), other._sums.get(at, (0, 0))
            if one != two:
                yield at, one[0], two[0]


class _Expected:
    """Expected index entries, from the profiles."""

    def __init__(self) -> None:
        self.present, self.values, self.columns = _Sums(), _Sums(), _Sums()

    def add(self, account: int, group: int, dense: int, field: int, value: Value) -> None:
        """Adds a user's value."""
        kind = kind_of(value)
        at = (account, field, int(kind), group)
        self.present.add((account, field, EMPTY_LIST, group) if value == () else at, 1, _weight(dense))
        if kind is Kind.NUMBER or kind is Kind.TIME:
            self.columns.add(at, 1, _bits(value) * _weight(dense))
            return
        for stored_value in stored_values(value):
            term = xxhash.xxh3_64_intdigest(value_key_suffix(stored_value)) * _weight(dense)
            self.values.add(at, 1, term)


def _weight(dense: int) -> int:
    return 2 * dense + 1


def _weights(users: BitMap) -> int:
    """The sum of the weights."""
    return 2 * int(ids_of(users).astype(np.uint64).sum()) + len(users)


def _bits(value: Any) -> int:
    """The 64 bits of a number or a time. 0.0 and -0.0 are one number."""
    if type(value) is float:
        bits: int = _NUMBER_OF_BITS.unpack(_BITS_OF_NUMBER.pack(value + 0.0))[0]
        return bits
    return int(value) & _MODULUS


def check_fields(examination: Examination) -> Iterator[None]:
    """Checks that profiles belong to live users, and that the index agrees with them."""
    expected, times = _Expected(), WriteTimesCheck(examination)
    profiled: Sets = {}
    yield from times.read()
    yield from _check_profiles(examination, expected, times, profiled)
    yield from _check_profiled(examination, profiled)
    times.finish()
    for family, found, wanted in (
        (Family.FIELD_PRESENT, _presence, expected.present),
        (Family.FIELD_VALUE, _values, expected.values),
        (Family.FIELD_COLUMN, _columns, expected.columns),
    ):
        sums = _Sums()
        yield from found(examination, sums)
        if examination.is_sound(Family.PROFILE, family):
            for (account, field, kind, group), have, need in sums.difference(wanted):
                examination.fault(
                    family,
                    f"has {have} values; the profiles have {need}",
                    key(Family.FIELD_PRESENT, account, field, kind, group),
                )
    yield from _check_texts(examination)


def _check_profiles(
    examination: Examination, expected: _Expected, times: WriteTimesCheck, profiled: Sets
) -> Iterator[None]:
    for (account, group, dense), stored, profile in examination.values(Family.PROFILE, PROFILE.decode):
        profiled.setdefault((account, group), BitMap()).add(dense)
        if examination.is_sound(Family.ALIVE):
            alive = dense in examination.set_of(examination.alive, account, group)
            examination.expect(alive, Family.PROFILE, "belongs to an erased user", stored)
        names = examination.names.get((Space.FIELD, account), {})
        times.meet(account, group, dense, profile)
        for field, (_, _, value) in profile.items():
            if value is not None:
                expected.add(account, group, dense, field, value)
            if field not in names and examination.is_sound(Family.NAME):
                examination.fault(Family.PROFILE, f"has the unnamed field {field}", stored)
        yield


def _check_profiled(examination: Examination, profiled: Sets) -> Iterator[None]:
    announced: Sets = {}
    for (account, group), _, users in examination.values(Family.PROFILED, BITMAP.decode):
        announced[account, group] = users
        yield
    if not examination.is_sound(Family.PROFILE, Family.PROFILED):
        return
    for numbers in announced.keys() | profiled.keys():
        missing = examination.set_of(announced, *numbers) - examination.set_of(profiled, *numbers)
        others = examination.set_of(profiled, *numbers) - examination.set_of(announced, *numbers)
        stored = key(Family.PROFILED, *numbers)
        examination.expect(not missing, Family.PROFILE, f"of {len(missing)} users are missing", stored)
        examination.expect(not others, Family.PROFILED, f"lacks {len(others)} users", stored)


def _presence(examination: Examination, sums: _Sums) -> Iterator[None]:
    for parts, _, users in examination.values(Family.FIELD_PRESENT, BITMAP.decode):
        sums.add(parts, len(users), _weights(users))
        yield


def _values(examination: Examination, sums: _Sums) -> Iterator[None]:
    for (account, field, kind, group, suffix), _, users in examination.values(
        Family.FIELD_VALUE, BITMAP.decode
    ):
        term = xxhash.xxh3_64_intdigest(suffix) * _weights(users)
        sums.add((account, field, kind, group), len(users), term)
        yield


def _columns(examination: Examination, sums: _Sums) -> Iterator[None]:
    for (account, field, kind, group, page), stored, packed in examination.values(Family.FIELD_COLUMN, as_is):
        if kind not in (Kind.NUMBER, Kind.TIME):
            examination.fault(Family.FIELD_COLUMN, "has a kind that has no columns", stored)
            continue
        codec = column_codec(Kind(kind))
        values: npt.NDArray[Any] = as_numpy(codec.decode(packed))
        rows = np.flatnonzero(codec.is_present(values))
        # Adding 0 makes 0.0 of -0.0, which is the same number.
        bits = (values[rows] + 0).view(np.uint64)
        weights = 2 * (rows.astype(np.uint64) + np.uint64(page << PAGE_BITS)) + np.uint64(1)
        sums.add((account, field, kind, group), len(rows), int((bits * weights).sum()))
        yield


def _check_texts(examination: Examination) -> Iterator[None]:
    """Checks that exactly the strings too long for their keys are stored, under their digests."""
    texts = 0
    for (account, field, kind, group, suffix), stored, text in examination.values(
        Family.FIELD_TEXT, decode_text
    ):
        texts += 1
        examination.expect(
            suffix == value_suffix(text), Family.FIELD_TEXT, "does not match its digest", stored
        )
        value_key = key(Family.FIELD_VALUE, account, field, kind, group, suffix)
        needed = text_key(value_key) == stored and examination.index.contains(value_key)
        examination.expect(needed, Family.FIELD_TEXT, "is stored for a value that no user has", stored)
        yield
    digests = 0
    for parts in map(_suffix_of, examination.index.keys(key(Family.FIELD_VALUE))):
        digests += parts[:1] == DIGEST_SUFFIX
        yield
    if examination.is_sound(Family.FIELD_TEXT):
        examination.expect(texts >= digests, Family.FIELD_TEXT, f"{digests - texts} strings are missing")


def _suffix_of(value_key: bytes) -> bytes:
    return value_key[len(key(Family.FIELD_VALUE, 0, 0, 0, 0)) :]
