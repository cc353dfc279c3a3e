"""Transactions: consistent states of an environment, and values that carry a checksum."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import lmdb
import xxhash

from engine.errors import DataLoss
from engine.local.keys import family_of

CHECKSUM_BYTES = 8


class ReadTransaction:
    """One consistent state of an environment. Values are views into the memory map: they hold until the
    transaction ends, or, while writing, until the next change; copy what must live longer.
    """

    def __init__(self, txn: lmdb.Transaction) -> None:
        self._txn = txn

    def get(self, key: bytes) -> memoryview | None:
        """The value, or None. Raises DataLoss when it fails its checksum."""
        stored = self._txn.get(key)
        return None if stored is None else _verified(key, stored)

    def contains(self, key: bytes) -> bool:
        """Whether the key has a value, without reading it."""
        return self._txn.cursor().set_key(key)

    def scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, memoryview]]:
        """Every pair whose key has the prefix and is at or after `start`, in key order, each value
        verified.
        """
        cursor = self._txn.cursor()
        more = cursor.set_range(max(prefix, start))
        while more:
            found = bytes(cursor.key())
            if not found.startswith(prefix):
                return
            yield found, _verified(found, cursor.value())
            more = cursor.next()

    def keys(self, prefix: bytes) -> Iterator[bytes]:
        """Every key with the prefix, in order, without reading values."""
        cursor = self._txn.cursor()
        more = cursor.set_range(prefix)
        while more:
            found = bytes(cursor.key())
            if not found.startswith(prefix):
                return
            yield found
            more = cursor.next()

    def stored(self) -> Iterator[tuple[bytes, memoryview]]:
        """Every pair as it is stored, the checksum, which is verified, in front of the value."""
        for found, stored in self._txn.cursor():
            at = bytes(found)
            _verified(at, stored)
            yield at, memoryview(stored)

    def sizes(self, prefix: bytes) -> Iterator[int]:
        """For every key with the prefix the bytes of the key and of what is stored under it, in order,
        without reading values.
        """
        cursor = self._txn.cursor()
        if cursor.set_range(prefix):
            for found, stored in cursor.iternext():
                if bytes(found[: len(prefix)]) != prefix:
                    return
                yield len(found) + len(stored)

    def walk(self, prefix: bytes) -> Iterator[tuple[bytes, int, memoryview | None]]:
        """Every key with the prefix, in order, the bytes of key and stored value, and the value, None where
        it fails its checksum.
        """
        cursor = self._txn.cursor()
        if cursor.set_range(prefix):
            for found, stored in cursor.iternext():
                at = bytes(found)
                if not at.startswith(prefix):
                    return
                yield at, len(at) + len(stored), _sound(stored)

    def count(self) -> int:
        """How many keys there are."""
        return int(self._txn.stat()["entries"])

    def last(self, prefix: bytes) -> tuple[bytes, memoryview] | None:
        """The pair with the greatest key that has the prefix, or None."""
        cursor = self._txn.cursor()
        after = _successor(prefix)
        found = cursor.prev() if after is not None and cursor.set_range(after) else cursor.last()
        if not found:
            return None
        at = bytes(cursor.key())
        return (at, _verified(at, cursor.value())) if at.startswith(prefix) else None


class WriteTransaction(ReadTransaction):
    """Changes that all take effect when the block ends without an exception, or not at all."""

    def put(self, key: bytes, value: bytes | bytearray | memoryview) -> None:
        """Stores the value under a checksum, replacing what was there."""
        self._txn.put(key, xxhash.xxh3_64_digest(value) + bytes(value))

    def delete(self, key: bytes) -> bool:
        """Removes the key; False when there was none."""
        return self._txn.delete(key)

    def delete_prefix(self, prefix: bytes, end: bytes | None = None) -> int:
        """Removes every key with the prefix (those below `end`, when given) and answers how many."""
        cursor = self._txn.cursor()
        removed = 0
        more = cursor.set_range(prefix)
        while more:
            found = bytes(cursor.key())
            if not found.startswith(prefix) or (end is not None and found >= end):
                break
            removed += 1
            more = cursor.delete()
        return removed


class Writable(Protocol):
    """What takes changes: a write transaction, or a buffer that is written later."""

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
        """As in a transaction. Raises ValueError for a prefix with an end, which nobody folds."""
        if end is not None:
            raise ValueError("a buffer deletes whole prefixes only")
        self._changes.append((prefix, None, True))

    def write_to(self, txn: WriteTransaction) -> None:
        """Makes the changes, in the order they were collected."""
        for stored, value, is_prefix in self._changes:
            if value is not None:
                txn.put(stored, value)
            elif is_prefix:
                txn.delete_prefix(stored)
            else:
                txn.delete(stored)


class Readable(Protocol):
    """What read transactions come from."""

    def reading(self) -> AbstractContextManager[ReadTransaction]: ...


def _sound(stored: bytes | memoryview) -> memoryview | None:
    """The value without its checksum; None when the two do not fit."""
    value = memoryview(stored)[CHECKSUM_BYTES:]
    return value if xxhash.xxh3_64_digest(value) == stored[:CHECKSUM_BYTES] else None


def _verified(key: bytes, stored: bytes | memoryview) -> memoryview:
    value = _sound(stored)
    if value is None:
        family = family_of(key).name
        raise DataLoss(
            f"a stored value of the family {family} fails its checksum", metadata={"key_family": family}
        )
    return value


def _successor(prefix: bytes) -> bytes | None:
    """The least key above every key with the prefix; None when there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None
