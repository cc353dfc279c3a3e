"""The column cache: columns are verified, decoded and kept; the least recently used are dropped.

A stored value is verified against its checksum on every read from LMDB. The cache holds decoded copies of
verified values. So nothing is verified twice and nothing unverified is served.
"""

from __future__ import annotations

import enum
import itertools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar, cast

from engine.backends.local.storage.transactions import Readable, ReadTransaction, missing_keys

COLUMN_CACHE_BYTES_DEFAULT = 48 << 20

Key = tuple[int, Hashable]
"""Number of the owner, and the column."""


class Sized(Protocol):
    """Anything with a size in bytes."""

    @property
    def nbytes(self) -> int: ...


S = TypeVar("S", bound=Sized)


class ColumnCache:
    """Decoded columns of all event tables of a store, up to a limit in bytes."""

    def __init__(self, bytes_max: int = COLUMN_CACHE_BYTES_DEFAULT) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._held: OrderedDict[Key, tuple[Sized, int]] = OrderedDict()
        self._numbers = itertools.count()

    @property
    def nbytes(self) -> int:
        """Bytes of the columns."""
        return self._bytes

    def limit(self, bytes_max: int) -> None:
        """Sets the limit in bytes. It applies from the next column on."""
        self._bytes_max = bytes_max

    def holder(self) -> int:
        """A number for a new owner of columns, unique in this cache."""
        return next(self._numbers)

    def get(self, key: Key) -> Sized | None:
        """The column, or None."""
        held = self._held.get(key)
        if held is None:
            return None
        self._held.move_to_end(key)
        return held[0]

    def put(self, key: Key, column: Sized) -> None:
        """Adds the column and evicts others when the limit is exceeded."""
        self.drop(key)
        size = column.nbytes
        self._held[key] = (column, size)
        self._bytes += size
        while self._bytes > self._bytes_max and len(self._held) > 1:
            self._bytes -= self._held.popitem(last=False)[1][1]

    def put_if_room(self, key: Key, column: Sized) -> None:
        """Adds the column if nothing has to be evicted for it."""
        if self._bytes + column.nbytes <= self._bytes_max:
            self.put(key, column)

    def drop(self, key: Key) -> None:
        """Drops the column."""
        held = self._held.pop(key, None)
        if held is not None:
            self._bytes -= held[1]


class Keeping(enum.Enum):
    """What to do with loaded columns. ALL: cache them. WHAT_FITS: cache them only if nothing has to be
    evicted, since the result is cached. NOTHING: do not cache them, since others are needed again.
    """

    ALL = enum.auto()
    WHAT_FITS = enum.auto()
    NOTHING = enum.auto()


class Loader:
    """Loads columns through the cache, all from one state of the index while a session is open."""

    def __init__(self, index: Readable, cache: ColumnCache) -> None:
        self._index = index
        self.cache = cache
        self._txn: ReadTransaction | None = None
        self._keeping = Keeping.ALL

    @contextmanager
    def session(self) -> Iterator[ReadTransaction]:
        """Everything loaded in the block comes from one state. Sessions may nest."""
        if self._txn is not None:
            yield self._txn
            return
        with self._index.reading() as txn:
            self._txn = txn
            try:
                yield txn
            finally:
                self._txn = None

    @contextmanager
    def keeping(self, keeping: Keeping) -> Iterator[None]:
        """Caches what is loaded in the block to this extent."""
        before, self._keeping = self._keeping, keeping
        try:
            yield
        finally:
            self._keeping = before

    def keep(self, cache_key: Key, column: Sized) -> None:
        """Puts a column in the cache."""
        match self._keeping:
            case Keeping.ALL:
                self.cache.put(cache_key, column)
            case Keeping.WHAT_FITS:
                self.cache.put_if_room(cache_key, column)
            case Keeping.NOTHING:
                pass

    def column(self, cache_key: Key, key: bytes, decode: Callable[[memoryview], S]) -> S:
        """The column stored under `key`. `decode` copies what it keeps. Raises DataLoss when the column is
        damaged or missing.
        """
        held = self.cache.get(cache_key)
        if held is not None:
            return cast(S, held)
        if self._txn is None:
            raise RuntimeError("columns are loaded within a session")
        stored = self._txn.get(key)
        if stored is None:
            raise missing_keys(key)
        column = decode(stored)
        self.keep(cache_key, column)
        return column
