"""The column cache: columns are verified, decoded and kept; the least recently used are dropped.

A stored value is verified against its checksum on every read from LMDB. The cache holds decoded copies of
verified values. So nothing is verified twice and nothing unverified is served.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Protocol, TypeVar, cast

from engine.backends.local.storage.transactions import Readable, ReadTransaction, missing_keys
from engine.bounded_cache import BoundedCache

COLUMN_CACHE_BYTES_DEFAULT = 48 << 20

Key = tuple[int, Hashable]
"""Number of the owner, and the column."""


class Sized(Protocol):
    """Anything with a size in bytes."""

    @property
    def nbytes(self) -> int: ...


S = TypeVar("S", bound=Sized)


class ColumnCache(BoundedCache[Key, Sized]):
    """Decoded columns of all event tables of a store, up to a limit in bytes."""

    def __init__(self, bytes_max: int = COLUMN_CACHE_BYTES_DEFAULT) -> None:
        super().__init__("columns", bytes_max)
        self._numbers = itertools.count()

    def holder(self) -> int:
        """A number for a new owner of columns, unique in this cache."""
        return next(self._numbers)


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
        self._begun_when_needed: ExitStack | None = None
        self._keeping = Keeping.ALL

    @property
    def is_open(self) -> bool:
        """Whether a session is open."""
        return self._txn is not None or self._begun_when_needed is not None

    @contextmanager
    def session(self, txn: ReadTransaction | None = None) -> Iterator[ReadTransaction]:
        """Everything loaded in the block comes from one state: that of `txn` or, without, the newest.
        Sessions without one may nest.
        """
        if self.is_open:
            yield self._begun()
            return
        with nullcontext(txn) if txn is not None else self._index.reading() as opened:
            self._txn = opened
            try:
                yield opened
            finally:
                self._txn = None

    @contextmanager
    def when_needed(self) -> Iterator[None]:
        """A session, for which a transaction is only begun once something has to be read. Nothing that is
        stored may change in the block.
        """
        self._begun_when_needed = ExitStack()
        try:
            yield
        finally:
            self._txn = None
            stack, self._begun_when_needed = self._begun_when_needed, None
            stack.close()

    def _begun(self) -> ReadTransaction:
        if self._txn is None:
            if self._begun_when_needed is None:
                raise RuntimeError("columns are loaded within a session")
            self._txn = self._begun_when_needed.enter_context(self._index.reading())
        return self._txn

    def newest(self) -> AbstractContextManager[ReadTransaction]:
        """A read transaction over what is stored now, for use with and without the lock."""
        return self._index.reading()

    def alongside(self, txn: ReadTransaction) -> Loader:
        """Another loader with the same cache, which reads this transaction alone and needs no lock."""
        other = Loader(self._index, self.cache)
        other._txn = txn
        return other

    def fixed(self, txn: ReadTransaction) -> Loader:
        """Another loader, which reads this transaction alone, keeps nothing, and needs no lock."""
        fixed = Loader(self._index, ColumnCache(0))
        fixed._txn = txn
        fixed._keeping = Keeping.NOTHING
        return fixed

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
                self.cache.put(cache_key, column, column.nbytes)
            case Keeping.WHAT_FITS if self.cache.has_room(column.nbytes):
                self.cache.put(cache_key, column, column.nbytes)
            case _:
                pass

    def column(self, cache_key: Key, key: bytes, decode: Callable[[memoryview], S]) -> S:
        """The column stored under `key`. `decode` copies what it keeps. Raises DataLoss when the column is
        damaged or missing.
        """
        held = self.cache.get(cache_key)
        if held is not None:
            return cast(S, held)
        stored = self._begun().get(key)
        if stored is None:
            raise missing_keys(key)
        column = decode(stored)
        self.keep(cache_key, column)
        return column
