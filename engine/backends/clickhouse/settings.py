"""Settings of a store in a ClickHouse cluster, and their defaults."""

from __future__ import annotations

from typing import Annotated

import msgspec

from engine.backends.local.settings import (
    CHECKPOINT_RECORDS,
    CHECKPOINT_S,
    LocalSettings,
)
from engine.backends.local.storage.environment import MAP_BYTES_DEFAULT, MAP_BYTES_MAX, MAP_BYTES_MIN
from engine.backends.settings import Setting

MAINTENANCE_S = 1.0


class ClickHouseSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a `ClickHouseBackend`. Those with a `Setting` are flags of the service."""

    map_bytes: Annotated[
        int,
        Setting(
            "Maximum size of the index and of the log, in bytes each. Reserves address space, not memory.",
            MAP_BYTES_MIN,
            MAP_BYTES_MAX,
        ),
    ] = MAP_BYTES_DEFAULT
    checkpoint_records: Annotated[
        int,
        Setting(
            "Log records that trigger a checkpoint. A start replays the records after the last checkpoint.", 1
        ),
    ] = CHECKPOINT_RECORDS
    checkpoint_s: Annotated[
        float, Setting("Maximum age of the oldest log record before a checkpoint starts, in seconds.", 0.01)
    ] = CHECKPOINT_S
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
