"""Settings of a store in a ClickHouse cluster, and their defaults."""

from __future__ import annotations

from typing import Annotated

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
from engine.backends.settings import Setting
from engine.checks import is_longer
from engine.errors import InvalidInput
from engine.limits import NAME_BYTES_MAX

MAINTENANCE_S = 1.0
FOLLOW_S = 1.0
BASE_WRITES_MIN = 100_000


PROMOTED_MAX = 32
"""Event attributes with columns of their own."""


def checked_promoted(keys: str) -> tuple[str, ...]:
    """The keys of a list with commas, each once. Raises InvalidInput when one is too long, or there are too
    many.
    """
    found = tuple(dict.fromkeys(filter(None, map(str.strip, keys.split(",")))))
    if len(found) > PROMOTED_MAX:
        raise InvalidInput.one(
            "promoted_attributes", f"names {len(found)} attributes; at most {PROMOTED_MAX} are allowed"
        )
    for key in found:
        if is_longer(key, NAME_BYTES_MAX):
            raise InvalidInput.one("promoted_attributes", f"{key!r} is longer than {NAME_BYTES_MAX} bytes")
    return found


class ClickHouseSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a `ClickHouseBackend`. Those with a `Setting` are flags of the service."""

    map_bytes: MapBytes = MAP_BYTES_DEFAULT
    checkpoint_records: CheckpointRecords = CHECKPOINT_RECORDS
    checkpoint_s: CheckpointSeconds = CHECKPOINT_S
    maintenance_s: float = MAINTENANCE_S
    """Seconds between looks at replicas that are behind, writes that wait, rows that do not count, and
    accounts that need a base.
    """
    follow_s: Annotated[
        float,
        Setting("Interval between looks at tables that are mapped as events of an input, in seconds.", 0.01),
    ] = FOLLOW_S
    promoted_attributes: Annotated[
        str,
        Setting(
            "Keys of event attributes that get columns of their own, separated by commas: questions about"
            " them take less work, and events more disk."
        ),
    ] = ""
    base_writes_min: int = BASE_WRITES_MIN
    """Writes of an account since its base, or since it began, before it gets one. The rows of so few are
    grouped in some hundredths of a second.
    """

    @property
    def gateway(self) -> LocalSettings:
        """Those of the files of the gateway."""
        return LocalSettings(
            map_bytes=self.map_bytes,
            checkpoint_records=self.checkpoint_records,
            checkpoint_s=self.checkpoint_s,
        )
