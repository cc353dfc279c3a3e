"""What the registry offers for moving stores (`engine.backends.registry.MovingTools`)."""

from __future__ import annotations

from engine.backends.clickhouse.moving.adding import add_shard
from engine.backends.clickhouse.moving.export import compare, export

__all__ = ["add_shard", "compare", "export"]
