"""The page cache: a write-back cache of bitmaps, columns and profiles.

Pages are loaded on first use, modified in memory, and written by checkpoints. Readers and writers share the
same objects under the backend's state lock, so an acknowledged write is visible at once and nothing has to be
merged. A modified page is dirty until the next checkpoint writes it.

A checkpoint *freezes* the dirty pages, while no log entry is applied, and encodes them some at a time, while
entries are applied. Call `change` before each change of a page: it encodes a frozen page first. So a
checkpoint writes the state as it was frozen.

Clean pages are evicted, the least recently used first, when together they exceed the budget. The budget
counts approximate memory, which for profiles is ten times the stored size.
"""

from __future__ import annotations

import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar, cast

import msgspec
import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from engine.backends.local.storage.arrays import Uint32s
from engine.backends.local.storage.bulk_hash import hashes_of_words
from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.eviction import Eviction
from engine.backends.local.storage.key_order import in_order
from engine.backends.local.storage.transactions import CHECKSUM_BYTES, Pairs, ReadTransaction, Writable

T = TypeVar("T")

CACHE_BYTES_DEFAULT = 24 << 20
PAGES_PER_STEP = 64
"""Dirty pages that are encoded before others go first: a fraction of a millisecond."""
CACHED_PAGE_OVERHEAD_BYTES = 350
MESSAGE_BYTES_PER_STORED_BYTE = 9
"""Memory of a value per byte of MessagePack, measured on dicts of tuples and lists of strings."""

PAGE_BITS = 12
PAGE_USERS = 1 << PAGE_BITS
PAGE_MASK = PAGE_USERS - 1

ABSENT_NUMBER = float("nan")
ABSENT_TIME = -(1 << 63)

U32_BYTES = 4
NO_ID = 0xFFFF_FFFF
"""Stands for no id."""


_ONLY_ID = np.dtype([("checksum", f">u{CHECKSUM_BYTES}"), ("id", f"<u{U32_BYTES}")])
"""A stored bitmap of a single id."""


class Codec(Protocol[T]):
    """How the value of a page is created, decoded and encoded."""

    def empty(self) -> T: ...

    def decode(self, stored: memoryview) -> T: ...

    def encode(self, value: T) -> bytes | None:
        """The stored form; None when there is nothing to store and the key is deleted."""
        ...

    def memory_bytes(self, stored_bytes: int) -> int:
        """Approximate memory of a value with this stored size, in bytes."""
        ...


class _BitMaps:
    """A set of dense ids: the portable Roaring format, or four bytes when it holds a single one."""

    def empty(self) -> BitMap:
        return BitMap(optimize=False)

    def decode(self, stored: memoryview) -> BitMap:
        if len(stored) == U32_BYTES:
            return BitMap((int.from_bytes(stored, "little"),), optimize=False)
        return BitMap.deserialize(bytes(stored))

    def encode(self, value: BitMap) -> bytes | None:
        if len(value) > 1:
            return value.serialize()
        return value.min().to_bytes(U32_BYTES, "little") if value else None

    def memory_bytes(self, stored_bytes: int) -> int:
        return stored_bytes


class ColumnCodec:
    """An array of fixed length in which `absent` marks entries without a value.

    It is stored whole, or, when less than half full, as u16 positions and their values.
    """

    def __init__(self, typecode: str, absent: float, length: int) -> None:
        self.typecode = typecode
        self.absent = absent
        self._empty = array.array(typecode, [absent]) * length
        self._dtype = np.dtype(typecode)

    def empty(self) -> array.array[Any]:
        return self._empty[:]

    def decode(self, stored: memoryview) -> array.array[Any]:
        column: array.array[Any] = array.array(self.typecode)
        if stored[0] == _WHOLE:
            column.frombytes(stored[1:])
            return column
        column = self._empty[:]
        count = len(stored) // (2 + self._dtype.itemsize)
        positions = np.frombuffer(stored, np.uint16, count, 1)
        np.frombuffer(column, self._dtype)[positions] = np.frombuffer(
            stored, self._dtype, count, 1 + 2 * count
        )
        return column

    def view(self, stored: memoryview) -> npt.NDArray[Any]:
        """The stored entries, without a copy where they are stored whole."""
        if stored[0] == _WHOLE:
            return np.frombuffer(stored, self._dtype, -1, 1)
        return np.frombuffer(self.decode(stored), self._dtype)

    def is_present(self, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Which entries have a value."""
        return ~np.isnan(values) if self.typecode == "d" else np.asarray(values != self.absent)

    def encode(self, value: array.array[Any]) -> bytes | None:
        values = np.frombuffer(value, self._dtype)
        present = self.is_present(values)
        count = np.count_nonzero(present)
        if not count:
            return None
        if 2 * count > len(values):
            return b"".join((bytes([_WHOLE]), memoryview(value)))
        positions = np.flatnonzero(present)
        return bytes([_SPARSE]) + positions.astype(np.uint16).tobytes() + values[positions].tobytes()

    def memory_bytes(self, stored_bytes: int) -> int:
        return len(self._empty) * self._dtype.itemsize


_WHOLE, _SPARSE = 0, 1


class MessageCodec(Generic[T]):
    """Any MessagePack type. Falsy values are not stored."""

    def __init__(self, kind: Any, empty: type[T]) -> None:
        self._empty = empty
        self._decoder = msgspec.msgpack.Decoder(kind)

    def empty(self) -> T:
        return self._empty()

    def decode(self, stored: memoryview) -> T:
        return cast(T, self._decoder.decode(stored))

    def encode(self, value: T) -> bytes | None:
        return _encoder.encode(value) if value else None

    def memory_bytes(self, stored_bytes: int) -> int:
        return MESSAGE_BYTES_PER_STORED_BYTE * stored_bytes


_encoder = msgspec.msgpack.Encoder()

BITMAP = _BitMaps()
NUMBERS = ColumnCodec("d", ABSENT_NUMBER, PAGE_USERS)
TIMES = ColumnCodec("q", ABSENT_TIME, PAGE_USERS)
PARTITIONS = ColumnCodec("H", 0xFFFF, PAGE_USERS)
SEEN_TIMES = ColumnCodec("q", ABSENT_TIME, 2 * PAGE_USERS)
"""First times of a page's users, followed by their last times."""


class CachedPage(msgspec.Struct, Generic[T], gc=False, eq=False):
    """A page: a value and its key, its bytes, and when it was used last. There may be a million, in no cycle:
    the garbage collector would stop every thread to look at them.
    """

    key: bytes
    codec: Codec[T]
    value: T
    size: int
    used: int = 0


@dataclass(slots=True)
class _Session:
    depth: int = 0
    txn: ReadTransaction | None = None
    stack: ExitStack | None = None


class PageCache:
    """The page cache of a store. Call every method with the state lock held, inside a `session`."""

    def __init__(self, index: Environment, bytes_max: int = CACHE_BYTES_DEFAULT) -> None:
        self._index = index
        self.limit(bytes_max)
        self._bytes = 0
        self._clock = 0
        self._page_cache: dict[bytes, CachedPage[Any]] = {}
        self._dirty: dict[bytes, CachedPage[Any]] = {}
        self._writing: dict[bytes, CachedPage[Any]] = {}
        """Pages that the checkpoint under way has frozen."""
        self._unencoded: dict[bytes, CachedPage[Any]] = {}
        """Those of them that are still to be encoded."""
        self._written: dict[bytes, bytes | None] = {}
        """The stored form of the others; None: nothing is stored."""
        self._eviction: Eviction[CachedPage[Any]] | None = None
        # Values that were put in encoded form and not read since. Bytes, since with an object per value the
        # garbage collector would cost many times as much as storing them.
        self._encoded: dict[bytes, bytes] = {}
        self._writing_encoded: dict[bytes, bytes] = {}
        self._session = _Session()

    @property
    def size_bytes(self) -> int:
        """Approximate memory of all pages, in bytes."""
        return self._bytes

    @property
    def size_bytes_max(self) -> int:
        """The memory budget of clean pages, in bytes."""
        return self._bytes_max

    def limit(self, bytes_max: int) -> None:
        """Sets the memory budget of clean pages. It applies from the end of the next session."""
        self._bytes_max = self._evict_above = bytes_max
        self._eviction = None

    def session(self) -> AbstractContextManager[None]:
        """Everything read in the block comes from one state of the index. Evicts pages at the end."""
        return self

    def __enter__(self) -> None:
        self._session.depth += 1
        self._clock += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        session = self._session
        session.depth -= 1
        if not session.depth:
            if session.stack is not None:
                self._end_reading()
            if self._eviction is not None or self._bytes > self._evict_above:
                self._evict()

    def reading(self) -> ReadTransaction:
        """The session's read transaction, begun on first use."""
        session = self._session
        if session.txn is None:
            session.stack = ExitStack()
            session.txn = session.stack.enter_context(self._index.reading())
        return session.txn

    def newest(self) -> AbstractContextManager[ReadTransaction]:
        """A read transaction over what is stored now, for use with and without the lock. It reads many keys
        fastest.
        """
        return self._index.reading(copies=True)

    def _end_reading(self) -> None:
        if self._session.stack is not None:
            self._session.stack.close()
            self._session.stack = self._session.txn = None

    def find(self, key: bytes, codec: Codec[T]) -> CachedPage[T] | None:
        """The page, or None when the key has no value."""
        cached = self._page_cache.get(key)
        if cached is None:
            stored = self._stored(key)
            if stored is None:
                return None
            cached = CachedPage(key, codec, codec.decode(stored), _size(codec, len(stored)))
            self._page_cache[key] = cached
            self._bytes += cached.size
            if self._encoded.pop(key, None) is not None:
                self._changes(cached)
        cached.used = self._clock
        return cached

    def _stored(self, key: bytes) -> memoryview | None:
        """The newest stored form of a value that has no page."""
        encoded = self._encoded.get(key) or self._writing_encoded.get(key)
        return self.reading().get(key) if encoded is None else memoryview(encoded)

    def get(self, key: bytes, codec: Codec[T]) -> CachedPage[T]:
        """The page; with an empty value when the key has none."""
        cached = self.find(key, codec)
        if cached is None:
            cached = CachedPage(key, codec, codec.empty(), _size(codec, 0))
            cached.used = self._clock
            self._page_cache[key] = cached
            self._bytes += cached.size
        return cached

    def read(self, key: bytes, codec: Codec[T]) -> T | None:
        """The value of the key, or None. Does not cache it."""
        cached = self._page_cache.get(key)
        if cached is not None:
            return cast(T, cached.value)
        stored = self._stored(key)
        return None if stored is None else codec.decode(stored)

    def serialised(self, keys: Sequence[bytes]) -> list[BitMap | bytes | None]:
        """The set of each key, as it is kept or else serialised, or None. Does not cache them."""
        found: list[BitMap | bytes | None] = []
        for key, stored in zip(keys, self.reading().get_many(keys), strict=True):
            cached = self._page_cache.get(key)
            if cached is not None:
                found.append(cast(BitMap, cached.value))
            elif stored is not None and len(stored) == U32_BYTES:
                found.append(BITMAP.decode(memoryview(stored)))
            else:
                found.append(stored)
        return found

    def view(self, key: bytes, codec: ColumnCodec) -> npt.NDArray[Any] | None:
        """The entries of a column's page, or None; valid until the next pause. Does not cache the page."""
        cached = self._page_cache.get(key)
        if cached is not None:
            return as_numpy(cached.value)
        stored = self._stored(key)
        return None if stored is None else codec.view(stored)

    def singles(self, keys: Sequence[bytes]) -> list[int | None]:
        """For each key the only id of a bitmap that is stored and has no page; None for any other."""
        apart = (self._page_cache, self._encoded, self._writing_encoded)
        stored = self.reading().get_many(keys)
        return [
            int.from_bytes(value, "little")
            if value is not None and len(value) == U32_BYTES and not any(key in values for values in apart)
            else None
            for key, value in zip(keys, stored, strict=True)
        ]

    def encoded(self, key: bytes) -> bytes | None:
        """The stored form of the key's value, or None."""
        cached = self._page_cache.get(key)
        if cached is not None:
            encoded: bytes | None = cached.codec.encode(cached.value)
            return encoded
        stored = self._stored(key)
        return None if stored is None else bytes(stored)

    def add_encoded(self, values: Mapping[bytes, bytes]) -> None:
        """Stores encoded values under keys that have none."""
        self._encoded.update(values)

    def put_encoded(self, key: bytes, encoded: bytes) -> None:
        """Replaces the value of a key by an encoded value, which is not empty."""
        self._encoded[key] = encoded
        cached = self._page_cache.pop(key, None)
        if cached is not None:
            self._bytes -= cached.size
            self._dirty.pop(key, None)

    def change(self, key: bytes, codec: Codec[T]) -> CachedPage[T]:
        """As `get`, for a page whose value is changed next. A change after another entry of the log needs
        another call.
        """
        cached = self.get(key, codec)
        self._changes(cached)
        return cached

    def _changes(self, cached: CachedPage[Any]) -> None:
        """The page is about to be changed, and dirty from then on."""
        if cached.key not in self._dirty:
            frozen = self._unencoded.pop(cached.key, None)
            if frozen is not None:
                self._encode(frozen)
            self._dirty[cached.key] = cached

    def unstored_keys(self) -> list[bytes]:
        """The keys of all dirty pages."""
        return [*self._writing, *self._dirty]

    def unstored(self, prefixes: tuple[bytes, ...]) -> Iterator[tuple[bytes, Any]]:
        """Dirty keys under the prefixes, with their values. Values that were put in encoded form are not
        included.
        """
        for page_cache in (self._writing, self._dirty):
            for stored, cached in page_cache.items():
                if stored.startswith(prefixes):
                    yield stored, cached.value

    def replace(self, key: bytes, codec: Codec[T], value: T) -> None:
        """Adds a clean page for a key that the caller wrote itself."""
        self.get(key, codec).value = value
        self._end_reading()

    def forget(self, prefix: bytes) -> None:
        """Drops every page under the prefix, after the caller deleted the keys."""
        for key in [key for key in self._page_cache if key.startswith(prefix)]:
            self._bytes -= self._page_cache.pop(key).size
            for pages in (self._dirty, self._writing, self._unencoded):
                pages.pop(key, None)
        for encoded in (self._encoded, self._writing_encoded):
            for key in [key for key in encoded if key.startswith(prefix)]:
                del encoded[key]
        self._end_reading()

    # --- checkpointing --------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """What there is now is part of a checkpoint. Until `commit` or `rollback` its pages stay in the
        cache, whatever the budget, since the index still has their old form.
        """
        self._writing, self._dirty = self._dirty, {}
        self._writing_encoded, self._encoded = self._encoded, {}
        self._unencoded, self._written = self._writing.copy(), {}

    def stage_next(self) -> bool:
        """Encodes some of the frozen pages. False: all are encoded."""
        for _ in range(min(PAGES_PER_STEP, len(self._unencoded))):
            self._encode(self._unencoded.popitem()[1])
        return bool(self._unencoded)

    def _encode(self, cached: CachedPage[Any]) -> None:
        encoded = cached.codec.encode(cached.value)
        self._written[cached.key] = encoded
        # Otherwise an encoded value has replaced it.
        if self._page_cache.get(cached.key) is cached:
            size = _size(cached.codec, 0 if encoded is None else len(encoded))
            self._bytes += size - cached.size
            cached.size = size

    def write(self, txn: Writable, pause: Callable[[], None]) -> None:
        """Writes what was frozen in key order, which LMDB takes fastest. Needs no lock. Calls `pause` now and
        then.
        """
        written, encoded = self._written, self._writing_encoded.copy()
        for count, key in enumerate(in_order([*written, *encoded])):
            if not count % PAGES_PER_STEP:
                pause()
            value = encoded[key] if key in encoded else written[key]
            if value is None:
                txn.delete(key)
            else:
                txn.put(key, value)

    def commit(self) -> None:
        """Finishes a checkpoint that has committed."""
        self._forget_checkpoint()
        self._evict_above = self._bytes_max
        self._end_reading()

    def rollback(self) -> None:
        """Takes back a checkpoint that did not commit: the pages it froze are dirty again."""
        writing, encoded_values = self._writing, self._writing_encoded
        self._forget_checkpoint()
        for key, cached in writing.items():
            # Otherwise an encoded value replaced it meanwhile.
            if self._page_cache.get(key) is cached:
                self._changes(cached)
        for key, encoded in encoded_values.items():
            if key in self._page_cache:
                self._changes(self._page_cache[key])
            else:
                self._encoded.setdefault(key, encoded)

    def _forget_checkpoint(self) -> None:
        self._writing, self._unencoded, self._written = {}, {}, {}
        self._writing_encoded = {}

    def _evict(self) -> None:
        """Evicts some pages; the following sessions go on."""
        if self._eviction is None:
            self._evict_above = self._bytes_max
            self._eviction = Eviction(self._page_cache.values(), self._bytes, self._bytes_max, self._is_clean)
        for cached in self._eviction.next_pages():
            if self._page_cache.get(cached.key) is cached and self._is_clean(cached):
                del self._page_cache[cached.key]
                self._bytes -= cached.size
            if self._eviction.has_room(self._bytes):
                break
        if self._eviction.is_over:
            self._evict_above = self._eviction.again_above(self._bytes)
            self._eviction = None

    def _is_clean(self, cached: CachedPage[Any]) -> bool:
        return cached.key not in self._dirty and cached.key not in self._writing


def only_ids(pairs: Pairs) -> Uint32s:
    """The only id of each stored bitmap; `NO_ID` for one that has several, or fails its checksum."""
    ids = np.full(len(pairs.values), NO_ID, np.uint32)
    sizes = np.fromiter(map(len, pairs.values), np.int64, len(ids))
    rows = np.flatnonzero(sizes == _ONLY_ID.itemsize)
    values = pairs.values if len(rows) == len(ids) else [pairs.values[row] for row in rows.tolist()]
    found = np.frombuffer(b"".join(values), _ONLY_ID)
    words = np.ascontiguousarray(found["id"])
    is_sound = hashes_of_words(words, pairs.hashes[rows]) == found["checksum"]
    ids[rows[is_sound]] = words[is_sound]
    return ids


def _size(codec: Codec[Any], stored_bytes: int) -> int:
    return CACHED_PAGE_OVERHEAD_BYTES + codec.memory_bytes(stored_bytes)


def as_numpy(column: array.array[Any]) -> npt.NDArray[Any]:
    """The same memory as a numpy array."""
    return np.frombuffer(column, np.dtype(column.typecode))
