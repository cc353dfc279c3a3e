"""The caches that the accounts of a store share, so that their number does not multiply memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.backends.local.attributes.term_dictionary import TermDictionary
from engine.backends.local.events import ColumnCache
from engine.backends.local.storage.flat_columns import HeldColumns
from engine.backends.local.storage.step_cache import CachedSets
from engine.backends.local.users.directory import PartitionSets
from engine.bounded_cache import BoundedCache

STEP_CACHE_BYTES_MAX = 64 << 20
"""Answers of steps."""
TERM_CACHE_BYTES_MAX = 64 << 20
"""Strings of fields."""
PARTITION_SET_CACHE_BYTES_MAX = 8 << 20
"""Users of samples."""
BUCKET_CACHE_BYTES_DEFAULT = 64 << 20
BUCKET_CACHE_BYTES_PER_USER = 16
"""Hashes of users, eight bytes for each user and salt."""
FLAT_CACHE_BYTES_DEFAULT = 8 << 20
FLAT_CACHE_BYTES_PER_USER = 24
"""Flat columns of numbers and times, eight bytes for each user and column."""


class AccountCaches:
    """Bounded caches of one store, in bytes of memory."""

    def __init__(self) -> None:
        self.columns = ColumnCache()
        self.steps: CachedSets = BoundedCache("steps", STEP_CACHE_BYTES_MAX)
        self.terms: BoundedCache[bytes, TermDictionary] = BoundedCache("terms", TERM_CACHE_BYTES_MAX)
        self.partition_sets: PartitionSets = BoundedCache("partition sets", PARTITION_SET_CACHE_BYTES_MAX)
        self.buckets: BoundedCache[tuple[int, int, str], npt.NDArray[np.uint64]] = BoundedCache(
            "buckets", BUCKET_CACHE_BYTES_DEFAULT
        )
        """By account, group and salt."""
        self.flat_columns: HeldColumns = BoundedCache("flat columns", FLAT_CACHE_BYTES_DEFAULT)

    def all(self) -> tuple[BoundedCache[Any, Any], ...]:
        """Every cache."""
        return self.columns, self.steps, self.terms, self.partition_sets, self.buckets, self.flat_columns

    def limit(self, columns_bytes: int, users: int) -> None:
        """Sets the budgets that depend on the number of users."""
        self.columns.limit(columns_bytes)
        self.buckets.limit(BUCKET_CACHE_BYTES_DEFAULT + users * BUCKET_CACHE_BYTES_PER_USER)
        self.flat_columns.limit(FLAT_CACHE_BYTES_DEFAULT + users * FLAT_CACHE_BYTES_PER_USER)
