"""A checkpoint of event tables alone, without a store around them."""

from __future__ import annotations

from collections.abc import Callable

from engine.backends.local.events import EventTables
from engine.backends.local.storage.store import Store


def stage(tables: EventTables, in_between: Callable[[], object] = lambda: None) -> None:
    """Freezes and stages the tables, and calls `in_between` where others may read and write."""
    tables.freeze()
    in_between()
    while tables.stage_next():
        in_between()


def settle(tables: EventTables) -> None:
    """Releases what a checkpoint has stored."""
    while tables.settle_next():
        pass


def checkpoint(store: Store, tables: EventTables, in_between: Callable[[], object] = lambda: None) -> None:
    """Writes the tables."""
    with store.index.writing() as txn:
        stage(tables, in_between)
        tables.write(txn)
