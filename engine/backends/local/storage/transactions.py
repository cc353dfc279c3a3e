"""Transactions: consistent states of an environment, values with checksums, and counted keys.

A checksum is XXH3-64 of the value, seeded by that of the key: a value passes only under its own key.
"""

from __future__ import annotations

import bisect
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol, cast

import lmdb
import numpy as np
import numpy.typing as npt
import xxhash

from engine.backends.local.storage.key_ranges import (
    NO_KEYS,
    RANGES,
    ROOT_KEY,
    KeyCount,
    KeyCounts,
    range_of,
    record_key,
)
from engine.backends.local.storage.keys import Family, family_of, key, range_bytes_of
from engine.backends.local.storage.pages import check_pages, read_meta
from engine.errors import DataLoss

CHECKSUM_BYTES = 8

KEYS_AT_FIRST, KEYS_AT_ONCE = 8, 1_024
"""Keys read at once from a prefix: at first, and at most, which is also between two looks at the deadline."""

COMMIT = b"commit"
"""Name of the record, in the family META."""

COMMIT_KEY = key(Family.META, COMMIT)
"""Holds the number of the last transaction that wrote: LMDB's own meta page has no checksum."""
COMMIT_BYTES = 8


class Pairs(NamedTuple):
    """Keys in order, their XXH3-64, and what is stored for each: the checksum, then the value."""

    keys: list[bytes]
    hashes: npt.NDArray[np.uint64]
    values: list[bytes]


class ReadTransaction:
    """One consistent state of an environment. Values are views into the memory map, valid until the
    transaction ends or, while writing, until the next change; copy what must live longer.

    A key counts as absent only in a checked range: raises DataLoss when keys are missing.
    """

    def __init__(self, txn: lmdb.Transaction, checked: set[bytes], file: Path) -> None:
        """`checked`: the ranges known to be complete, shared by the transactions of an environment."""
        self._txn = txn
        self._checked = checked
        self._file = file

    def get(self, key: bytes) -> memoryview | None:
        """The value, or None. Raises DataLoss when it fails its checksum."""
        stored = self._txn.get(key)
        if stored is None:
            self._expect_absent(key)
            return None
        return _verified(key, stored)

    def unverified(self, key: bytes) -> bytes | None:
        """The stored bytes of a key, starting with the checksum, which is not verified."""
        found = self._txn.get(key)
        return None if found is None else bytes(found)

    def get_many(self, keys: Iterable[bytes]) -> list[bytes | None]:
        """`get` of each key, copied; a third of the time for small values."""
        get, seed, digest = self._txn.get, xxhash.xxh3_64_intdigest, xxhash.xxh3_64_digest
        found: list[bytes | None] = []
        for each in keys:
            stored = get(each)
            if stored is None:
                self._expect_absent(each)
                found.append(None)
                continue
            copied = bytes(stored)
            value = copied[CHECKSUM_BYTES:]
            if digest(value, seed(each)) != copied[:CHECKSUM_BYTES]:
                _verified(each, stored)
            found.append(value)
        return found

    def contains(self, key: bytes) -> bool:
        """Whether the key has a value, without reading it and without checking whether it should."""
        return self._txn.cursor().set_key(key)

    # --- absent keys ----------------------------------------------------------------------------------------

    def _expect_absent(self, key: bytes) -> None:
        range_ = range_of(key)
        if range_ is None:
            return
        if range_ not in self._checked:
            self._check_range(range_)
        # The range is complete and in order. So a key is absent if it falls between two neighbours; otherwise
        # the path to them is damaged.
        cursor = self._txn.cursor()
        is_followed = cursor.set_range(key)
        is_out_of_place = is_followed and bytes(cursor.key()) <= key
        if not is_out_of_place and (cursor.prev() if is_followed else cursor.last()):
            is_out_of_place = bytes(cursor.key()) >= key
        if is_out_of_place:
            raise missing_keys(key)

    def _check_range(self, range_: bytes) -> None:
        """Raises DataLoss unless the range has the announced keys."""
        self._compare(range_, self._counted(range_))

    def _compare(self, range_: bytes, counts: KeyCounts) -> None:
        """Raises DataLoss unless these counts of a range's keys are the announced ones."""
        if range_ == RANGES:
            announced = self._root_count()
        else:
            stored = self.get(record_key(range_))
            announced = NO_KEYS if stored is None else KeyCount.unpack(stored)
        for _ in counts.differences({range_: announced} if announced.keys else {}):
            raise missing_keys(range_)
        self._checked.add(range_)

    def _root_count(self) -> KeyCount:
        stored = self._txn.get(ROOT_KEY)
        if stored is not None:
            return KeyCount.unpack(_verified(ROOT_KEY, stored))
        if self.count():
            raise missing_keys(ROOT_KEY)
        return NO_KEYS

    def _check_ranges(self, prefix: bytes) -> None:
        """Checks every range that has keys with the prefix (of one family; no caller needs all keys)."""
        size = range_bytes_of(prefix) if prefix else None
        if size is None:
            return
        if len(prefix) >= size:
            if prefix[:size] not in self._checked:
                self._check_range(prefix[:size])
        elif prefix not in self._checked:
            if RANGES not in self._checked:
                self._check_range(RANGES)
            for range_, _, _ in self._counted(prefix).differences(self.announced(prefix)):
                raise missing_keys(range_)
            self._checked.add(prefix)

    def announced(self, prefix: bytes = b"") -> dict[bytes, KeyCount]:
        """The count of every range whose name begins with the prefix."""
        return {
            found[1:]: KeyCount.unpack(_verified(found, value))
            for found, value in self._pairs(record_key(prefix))
            if found != ROOT_KEY
        }

    def _counted(self, prefix: bytes) -> KeyCounts:
        """Counts the keys with the prefix. Raises DataLoss when they are not in order."""
        counts = KeyCounts()
        for _ in self._in_order(prefix, counts):
            pass
        return counts

    def _in_order(self, prefix: bytes, counts: KeyCounts) -> Iterator[list[bytes]]:
        """Every key with the prefix in lists, counted. Raises DataLoss when they are not in order."""
        before = b""
        for block in self._blocks(prefix):
            _expect_order(block, before)
            counts.add_ordered(block)
            before = block[-1]
            yield block

    def _blocks(self, prefix: bytes) -> Iterator[list[bytes]]:
        """Every key with the prefix, in order, in lists of up to `KEYS_AT_ONCE`."""
        cursor = self._txn.cursor()
        if not cursor.set_range(prefix):
            return
        keys = cursor.iternext(keys=True, values=False)
        # In C from key to key: there may be a million of them. Few at first, as the last block goes beyond.
        size = KEYS_AT_FIRST
        while block := [*map(bytes, itertools.islice(keys, size))]:
            size = min(2 * size, KEYS_AT_ONCE)
            if not (block[0].startswith(prefix) and block[-1].startswith(prefix)):
                inside = [*itertools.takewhile(lambda found: found.startswith(prefix), block)]
                if inside:
                    yield inside
                return
            yield block

    def _pairs(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, memoryview]]:
        """Every pair as it is stored."""
        cursor = self._txn.cursor()
        more = cursor.set_range(max(prefix, start))
        while more:
            found = bytes(cursor.key())
            if not found.startswith(prefix):
                return
            yield found, memoryview(cursor.value())
            more = cursor.next()

    def check_pages(self) -> None:
        """Raises DataLoss unless the pages of this state are sound (`storage.pages`)."""
        meta = read_meta(self._file, self.number())
        if meta is not None:
            check_pages(self._file, meta)

    # --- many keys ------------------------------------------------------------------------------------------

    def scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, memoryview]]:
        """Every pair whose key has the prefix and is at or after `start`, in key order. Each value is
        verified.
        """
        self._check_ranges(prefix)
        for found, stored in self._pairs(prefix, start):
            yield found, _verified(found, stored)

    def keys(self, prefix: bytes) -> Iterator[bytes]:
        """Every key with the prefix, in order, without reading values."""
        self._check_ranges(prefix)
        cursor = self._txn.cursor()
        more = cursor.set_range(prefix)
        while more:
            found = bytes(cursor.key())
            if not found.startswith(prefix):
                return
            yield found
            more = cursor.next()

    def pair_blocks(self, prefix: bytes) -> Iterator[Pairs]:
        """Every pair whose key has the prefix, in order, some hundred at a time. Values are not verified. The
        keys of a range that was not checked yet are checked as they come, so DataLoss may be raised at the
        end. The transaction gives copies.
        """
        size = range_bytes_of(prefix)
        is_counted = size is not None and size <= len(prefix) and prefix[:size] not in self._checked
        if not is_counted:
            self._check_ranges(prefix)
        range_, counts, before = prefix[:size] if is_counted else prefix, KeyCounts(), b""
        for keys, values in self._key_and_value_blocks(range_):
            hashes = np.fromiter(map(xxhash.xxh3_64_intdigest, keys), np.uint64, len(keys))
            if is_counted:
                _expect_order(keys, before)
                counts.change(range_, len(keys), int(hashes.sum()))
                before = keys[-1]
            first = bisect.bisect_left(keys, prefix)
            end = len(keys)
            while end > first and not keys[end - 1].startswith(prefix):
                end -= 1
            if first < end:
                yield Pairs(keys[first:end], hashes[first:end], values[first:end])
        if is_counted:
            self._compare(range_, counts)

    def _key_and_value_blocks(self, prefix: bytes) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """Every pair with the prefix, in order, `KEYS_AT_ONCE` at a time."""
        # A cursor for keys and one for values: a tuple for each pair would take as long as both.
        of_keys, of_values = self._txn.cursor(), self._txn.cursor()
        if not of_keys.set_range(prefix) or not of_values.set_range(prefix):
            return
        keys = cast(Iterator[bytes], of_keys.iternext(keys=True, values=False))
        values = cast(Iterator[bytes], of_values.iternext(keys=False, values=True))
        size = KEYS_AT_FIRST
        while found := [*itertools.islice(keys, size)]:
            size = min(2 * size, KEYS_AT_ONCE)
            is_last = not found[-1].startswith(prefix)
            if is_last:
                found = [*itertools.takewhile(lambda key: key.startswith(prefix), found)]
            if found:
                yield found, [*itertools.islice(values, len(found))]
            if is_last:
                return

    def stored(self) -> Iterator[tuple[bytes, memoryview]]:
        """Every pair as it is stored: the value follows its checksum, which is verified. Raises DataLoss at
        the end when keys are missing.
        """
        counts = KeyCounts()
        announced: dict[bytes, KeyCount] = {}
        before = b""
        for found, stored in self._txn.cursor():
            at = bytes(found)
            value = _verified(at, stored)
            if at <= before:
                raise missing_keys(at)
            before = at
            counts.add(at)
            if family_of(at) is Family.RANGE:
                announced[at[1:]] = KeyCount.unpack(value)
            yield at, memoryview(stored)
        for range_, _, _ in counts.differences(announced):
            raise missing_keys(range_)

    def sizes(self, prefix: bytes) -> Iterator[int]:
        """The sizes of every key with the prefix and of its stored value, in order, reading no values."""
        cursor = self._txn.cursor()
        if cursor.set_range(prefix):
            for found, stored in cursor.iternext():
                if bytes(found[: len(prefix)]) != prefix:
                    return
                yield len(found) + len(stored)

    def walk(self, prefix: bytes) -> Iterator[tuple[bytes, int, memoryview | None]]:
        """Every key with the prefix, in order, with the size of key and stored value, and the value; None
        when it fails its checksum.
        """
        cursor = self._txn.cursor()
        if cursor.set_range(prefix):
            for found, stored in cursor.iternext():
                at = bytes(found)
                if not at.startswith(prefix):
                    return
                yield at, len(at) + len(stored), _sound(at, stored)

    def number(self) -> int:
        """The number of the transaction that wrote this state or, while writing, of this transaction."""
        return int(self._txn.id())

    def count(self) -> int:
        """Number of keys."""
        return int(self._txn.stat()["entries"])

    def last(self, prefix: bytes) -> tuple[bytes, memoryview] | None:
        """The pair with the greatest key that has the prefix; None when there is none."""
        cursor = self._at_last(prefix)
        if cursor is None:
            return None
        found = bytes(cursor.key())
        return found, _verified(found, cursor.value())

    def last_key(self, prefix: bytes) -> bytes | None:
        """The greatest key that has the prefix, without reading its value; None when there is none."""
        cursor = self._at_last(prefix)
        return None if cursor is None else bytes(cursor.key())

    def _at_last(self, prefix: bytes) -> lmdb.Cursor | None:
        self._check_ranges(prefix)
        cursor = self._txn.cursor()
        after = _successor(prefix)
        found = cursor.prev() if after is not None and cursor.set_range(after) else cursor.last()
        return cursor if found and bytes(cursor.key()).startswith(prefix) else None


class WriteTransaction(ReadTransaction):
    """Changes that take effect together when the block ends without an exception, or not at all."""

    def __init__(self, txn: lmdb.Transaction, checked: set[bytes], file: Path) -> None:
        super().__init__(txn, checked, file)
        self._changes = KeyCounts()
        self._has_changes = False

    def put(self, key: bytes, value: bytes | bytearray | memoryview) -> None:
        """Stores the value under a checksum, replacing what was there."""
        self._has_changes = True
        hash_ = xxhash.xxh3_64_intdigest(key)
        # As `checksum_of`, but hashes the key only once.
        stored = xxhash.xxh3_64_digest(value, hash_) + bytes(value)
        if range_bytes_of(key) is None:
            self._txn.put(key, stored)
        elif self._txn.put(key, stored, overwrite=False):
            self._changes.add(key, hash_)
        else:
            self._txn.put(key, stored)

    def delete(self, key: bytes) -> bool:
        """Removes the key; False when there was none."""
        if not self._txn.delete(key):
            return False
        self._deleted(key)
        return True

    def delete_prefix(self, prefix: bytes, end: bytes | None = None) -> int:
        """Removes every key with the prefix (those below `end`, when given) and returns their number."""
        cursor = self._txn.cursor()
        removed = 0
        more = cursor.set_range(prefix)
        while more:
            found = bytes(cursor.key())
            if not found.startswith(prefix) or (end is not None and found >= end):
                break
            removed += 1
            self._deleted(found)
            more = cursor.delete()
        return removed

    def _deleted(self, key: bytes) -> None:
        self._has_changes = True
        range_ = range_of(key)
        if range_ is not None:
            self._changes.change(range_, -1, -xxhash.xxh3_64_intdigest(key))

    def _check_range(self, range_: bytes) -> None:
        self._announce()
        super()._check_range(range_)

    def _check_ranges(self, prefix: bytes) -> None:
        self._announce()
        super()._check_ranges(prefix)

    def _announce(self) -> None:
        """Writes the counts of changed ranges."""
        for range_, change in sorted(self._changes.take().items()):
            if range_ == RANGES:
                self._changes.change(RANGES, *change)
                continue
            at = record_key(range_)
            stored = self._txn.get(at)
            before = NO_KEYS if stored is None else KeyCount.unpack(_verified(at, stored))
            after = before.plus(*change)
            if after.keys < 0:
                raise missing_keys(range_)
            if after.keys:
                self.put(at, after.pack())
            else:
                self.delete(at)
        change = self._changes.take().get(RANGES, NO_KEYS)
        stored = self._txn.get(ROOT_KEY)
        if change != NO_KEYS or stored is None:
            before = NO_KEYS if stored is None else KeyCount.unpack(_verified(ROOT_KEY, stored))
            after = before.plus(*change)
            if after.keys < 0:
                raise missing_keys(ROOT_KEY)
            self.put(ROOT_KEY, after.pack())

    def finish(self) -> None:
        """Writes the records about all changes, just before the commit."""
        if self._has_changes:
            self.put(COMMIT_KEY, _commit_of(self._txn))
            self._announce()


def mark_commit(txn: lmdb.Transaction) -> None:
    """Records in a copied environment the number of its own last transaction."""
    txn.put(COMMIT_KEY, checksum_of(COMMIT_KEY, _commit_of(txn)) + _commit_of(txn))


def _commit_of(txn: lmdb.Transaction) -> bytes:
    return int(txn.id()).to_bytes(COMMIT_BYTES, "little")


class Writable(Protocol):
    """A target of changes: a write transaction, or a buffer that is written later."""

    def put(self, key: bytes, value: bytes | bytearray | memoryview) -> None: ...

    def delete(self, key: bytes) -> object: ...

    def delete_prefix(self, prefix: bytes, end: bytes | None = None) -> object: ...


class WriteBuffer:
    """Changes collected while the state they come from is locked, to be written without that lock."""

    def __init__(self) -> None:
        self._changes: list[tuple[bytes, bytes | None, bool]] = []

    def put(self, key: bytes, value: bytes | bytearray | memoryview) -> None:
        """As in a transaction. The value is copied unless it is bytes."""
        self._changes.append((key, bytes(value), False))

    def delete(self, key: bytes) -> None:
        """As in a transaction."""
        self._changes.append((key, None, False))

    def delete_prefix(self, prefix: bytes, end: bytes | None = None) -> None:
        """As in a transaction. Raises ValueError for a prefix with an end, which no checkpoint needs."""
        if end is not None:
            raise ValueError("a buffer deletes whole prefixes only")
        self._changes.append((prefix, None, True))

    @property
    def size_bytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(len(stored) + len(value or b"") for stored, value, _ in self._changes)

    def write_to(self, txn: WriteTransaction, pause: Callable[[], None] = lambda: None) -> None:
        """Applies the changes, in the order they were collected, and calls `pause` between them."""
        for stored, value, is_prefix in self._changes:
            pause()
            if value is not None:
                txn.put(stored, value)
            elif is_prefix:
                txn.delete_prefix(stored)
            else:
                txn.delete(stored)


class Readable(Protocol):
    """A source of read transactions."""

    def reading(self) -> AbstractContextManager[ReadTransaction]: ...


def checksum_of(key: bytes, value: bytes | memoryview) -> bytes:
    """The checksum stored in front of a value."""
    return xxhash.xxh3_64_digest(value, xxhash.xxh3_64_intdigest(key))


def _expect_order(keys: Sequence[bytes], before: bytes) -> None:
    """Raises DataLoss unless keys ascend, from above the one before them."""
    if keys[0] <= before or not all(map(operator.lt, keys, itertools.islice(keys, 1, None))):
        raise missing_keys(keys[0])


def _sound(key: bytes, stored: bytes | memoryview) -> memoryview | None:
    """The value without its checksum; None when they do not match."""
    value = memoryview(stored)[CHECKSUM_BYTES:]
    return value if checksum_of(key, value) == stored[:CHECKSUM_BYTES] else None


def _verified(key: bytes, stored: bytes | memoryview) -> memoryview:
    value = _sound(key, stored)
    if value is None:
        family = _family_name(key)
        raise DataLoss(
            f"a stored value of the family {family} fails its checksum", metadata={"key_family": family}
        )
    return value


def missing_keys(key: bytes) -> DataLoss:
    """The error for missing or damaged keys in the family of a key or range."""
    family = _family_name(key)
    return DataLoss(f"keys of the family {family} are missing or damaged", metadata={"key_family": family})


def _family_name(key: bytes) -> str:
    try:
        return family_of(key).name
    except KeyError:
        # A damaged key may belong to no family.
        return Family.META.name


def _successor(prefix: bytes) -> bytes | None:
    """The least key above every key with the prefix; None when there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None
