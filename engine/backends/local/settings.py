"""Settings of the embedded backend, and their defaults."""

from __future__ import annotations

import msgspec

from engine.backends.local.events import COLUMN_CACHE_BYTES_DEFAULT
from engine.backends.local.membership.store import CHANGES_RETAINED_MAX
from engine.backends.local.storage.dedupe import DEDUPE_HORIZON_DAYS, REQUEST_HORIZON_HOURS
from engine.backends.local.storage.environment import MAP_BYTES_DEFAULT
from engine.backends.local.storage.header import GROUPS_DEFAULT
from engine.backends.local.storage.page_cache import CACHE_BYTES_DEFAULT

CACHE_BYTES_PER_USER = 20
COLUMN_CACHE_BYTES_PER_USER = 24
"""Bytes per user, added to the default, which is for a store without users."""
CHECKPOINT_RECORDS = 200_000
CHECKPOINT_SECONDS = 30.0
APPLY_CHUNK_RECORDS = 500
REVISION_WAIT_SECONDS_MAX = 10.0


class LocalSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a `LocalBackend`."""

    groups: int = GROUPS_DEFAULT
    """Fixed when the store is created; an existing store keeps its own."""
    map_bytes: int = MAP_BYTES_DEFAULT
    """Maximum size of each of the two LMDB environments, in bytes."""
    cache_bytes: int | None = None
    """Memory budget of clean pages, in bytes. Dirty pages come on top until the next checkpoint. None: set by
    the number of users.
    """
    column_cache_bytes: int | None = None
    """Memory budget of decoded event columns, in bytes. None: set by the number of users."""
    checkpoint_records: int = CHECKPOINT_RECORDS
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    """A checkpoint starts after this many records, or this long after the first record that is not
    checkpointed.
    """
    apply_chunk_records: int = APPLY_CHUNK_RECORDS
    """Records of a batch applied per hold of the lock: queries wait for at most this many."""
    dedupe_horizon_days: int = DEDUPE_HORIZON_DAYS
    request_horizon_hours: int = REQUEST_HORIZON_HOURS
    changes_retained_max: int = CHANGES_RETAINED_MAX
    revision_wait_seconds_max: float = REVISION_WAIT_SECONDS_MAX
    """How long a read without a deadline waits for its revision."""

    def page_budget_bytes(self, users: int) -> int:
        """Default budget of clean pages for a number of users, in bytes."""
        by_users = CACHE_BYTES_DEFAULT + users * CACHE_BYTES_PER_USER
        return by_users if self.cache_bytes is None else self.cache_bytes

    def column_budget_bytes(self, users: int) -> int:
        """Default budget of decoded columns for a number of users, in bytes."""
        by_users = COLUMN_CACHE_BYTES_DEFAULT + users * COLUMN_CACHE_BYTES_PER_USER
        return by_users if self.column_cache_bytes is None else self.column_cache_bytes
