"""What the registry offers for stores in a cluster (`engine.backends.registry.MovingTools`)."""

from __future__ import annotations

from engine.backends.clickhouse.moving.adding import add_shard
from engine.backends.clickhouse.moving.export import compare, export
from engine.backends.clickhouse.moving.mapping import map_events, recount_events, unmap_events

__all__ = ["add_shard", "compare", "export", "map_events", "recount_events", "unmap_events"]
