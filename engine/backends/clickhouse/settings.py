"""Settings of a store in a ClickHouse cluster, and their defaults."""

from __future__ import annotations

import msgspec

from engine.backends.local.settings import (
    CHECKPOINT_RECORDS,
    CHECKPOINT_S,
    CheckpointRecords,
    CheckpointSeconds,
    LocalSettings,
    MapBytes,
)
from engine.backends.local.storage.environment import MAP_BYTES_DEFAULT

MAINTENANCE_S = 1.0


class ClickHouseSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a `ClickHouseBackend`. Those with a `Setting` are flags of the service."""

    map_bytes: MapBytes = MAP_BYTES_DEFAULT
    checkpoint_records: CheckpointRecords = CHECKPOINT_RECORDS
    checkpoint_s: CheckpointSeconds = CHECKPOINT_S
    maintenance_s: float = MAINTENANCE_S
    """Seconds between looks at replicas that are behind, writes that wait, and rows that do not count."""

    @property
    def gateway(self) -> LocalSettings:
        """Those of the files of the gateway."""
        return LocalSettings(
            map_bytes=self.map_bytes,
            checkpoint_records=self.checkpoint_records,
            checkpoint_s=self.checkpoint_s,
        )
