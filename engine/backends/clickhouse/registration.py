"""The backend over a ClickHouse cluster as the registry knows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from engine.backends.clickhouse.backend import ClickHouseBackend
from engine.backends.clickhouse.gateway.location import location_of
from engine.backends.clickhouse.moving import tools
from engine.backends.clickhouse.settings import ClickHouseSettings
from engine.backends.registry import Registration
from engine.clock import Stamp
from engine.process_memory import limit_arenas


def open_clickhouse(
    location: str, settings: Mapping[str, Any], clock: Callable[[], Stamp]
) -> ClickHouseBackend:
    """Opens or creates the store in the cluster at a location (`gateway.location`)."""
    converted = msgspec.convert(settings, ClickHouseSettings)
    return ClickHouseBackend.open(location_of(location), settings=converted, clock=clock)


CLICKHOUSE = Registration(
    open=open_clickhouse,
    settings=ClickHouseSettings,
    prepare_process=limit_arenas,
    moving=tools,
)
