"""The table of deliveries at a small scale: every change arrives, in as many messages as its kind has."""

from __future__ import annotations

from rich.console import Console

from tests.bench import deliveries

CHANGES = 2_000


def test_every_change_arrives() -> None:
    # One event a request, and batches.
    options = deliveries.Options(CHANGES, only="webhook, b")
    lines = deliveries.run(options, Console(quiet=True))
    few = CHANGES // deliveries.ONE_BY_ONE
    assert [(line.way, line.changes, line.messages) for line in lines] == [
        ("webhook, batched", CHANGES, CHANGES // deliveries.BATCH_CHANGES),
        ("webhook, binary", few, few + deliveries.SNAPSHOT_MARKS),
    ]
