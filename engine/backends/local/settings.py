"""Settings of the embedded backend, and their defaults."""

from __future__ import annotations

from typing import Annotated

import msgspec

from engine.backends.local.events import COLUMN_CACHE_BYTES_DEFAULT
from engine.backends.local.membership.change_log import CHANGES_RETAINED_MAX
from engine.backends.local.storage.dedupe import DEDUPE_HORIZON_DAYS, REQUEST_HORIZON_HOURS
from engine.backends.local.storage.environment import MAP_BYTES_DEFAULT, MAP_BYTES_MAX, MAP_BYTES_MIN
from engine.backends.local.storage.header import GROUPS_DEFAULT, GROUPS_MAX
from engine.backends.local.storage.page_cache import CACHE_BYTES_DEFAULT
from engine.backends.settings import Setting

CACHE_BYTES_PER_USER = 20
COLUMN_CACHE_BYTES_PER_USER = 24
"""Bytes per user, added to the default, which is for a store without users."""
CHECKPOINT_RECORDS = 200_000
CHECKPOINT_S = 30.0
APPLY_CHUNK_RECORDS = 500
REVISION_WAIT_SECONDS_MAX = 10.0

MapBytes = Annotated[
    int,
    Setting(
        "Maximum size of the index and of the log, in bytes each. Reserves address space, not memory.",
        MAP_BYTES_MIN,
        MAP_BYTES_MAX,
    ),
]
CheckpointRecords = Annotated[
    int,
    Setting(
        "Log records that trigger a checkpoint. A start replays the records after the last checkpoint.", 1
    ),
]
CheckpointSeconds = Annotated[
    float, Setting("Maximum age of the oldest log record before a checkpoint starts, in seconds.", 0.01)
]


class LocalSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a `LocalBackend`. Those with a `Setting` are flags of the service."""

    groups: Annotated[
        int,
        Setting(
            "Partition groups of a new store, a power of two. The smallest sample is one group.",
            1,
            GROUPS_MAX,
            power_of_two=True,
        ),
    ] = GROUPS_DEFAULT
    """Fixed when the store is created; an existing store keeps its own."""
    map_bytes: MapBytes = MAP_BYTES_DEFAULT
    checkpoint_records: CheckpointRecords = CHECKPOINT_RECORDS
    checkpoint_s: CheckpointSeconds = CHECKPOINT_S
    page_cache_bytes: Annotated[
        int,
        Setting("Page cache size in bytes: users, sets and profiles. 0 = 24 MiB plus 20 bytes per user.", 0),
    ] = 0
    """Budget of clean pages. Dirty pages come on top until the next checkpoint."""
    column_cache_bytes: Annotated[
        int, Setting("Event column cache size in bytes. 0 = 48 MiB plus 24 bytes per user.", 0)
    ] = 0
    apply_chunk_records: int = APPLY_CHUNK_RECORDS
    """Records of a batch applied per hold of the lock: queries wait for at most this many."""
    dedupe_horizon_days: int = DEDUPE_HORIZON_DAYS
    request_horizon_hours: int = REQUEST_HORIZON_HOURS
    changes_retained_max: int = CHANGES_RETAINED_MAX
    revision_wait_seconds_max: float = REVISION_WAIT_SECONDS_MAX
    """How long a read without a deadline waits for its revision."""

    def page_budget_bytes(self, users: int) -> int:
        """Budget of clean pages for a number of users, in bytes."""
        return self.page_cache_bytes or CACHE_BYTES_DEFAULT + users * CACHE_BYTES_PER_USER

    def column_budget_bytes(self, users: int) -> int:
        """Budget of decoded columns for a number of users, in bytes."""
        return self.column_cache_bytes or COLUMN_CACHE_BYTES_DEFAULT + users * COLUMN_CACHE_BYTES_PER_USER
