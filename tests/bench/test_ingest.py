"""The ingest table at a small scale: events are stored once, as generated."""

from __future__ import annotations

from rich.console import Console

from milepost.v1.ingest_service_pb2 import IngestEventsRequest, StreamEventsRequest
from tests.bench import event_batches, ingest_rate

EVENTS = 12_000
BATCHES = 3
"""Of 5,000, 5,000 and 2,000 events."""


def test_every_method_stores_every_event() -> None:
    lines = ingest_rate.run(ingest_rate.Options(EVENTS), Console(quiet=True))
    assert [(line.way, line.read.have_event_ids) for line in lines] == [
        (way, have_event_ids) for have_event_ids in (False, True) for way in ingest_rate.WAYS
    ]
    # That every event was accepted and is stored is asserted by the table itself.
    assert {(line.events, line.batches) for line in lines} == {(EVENTS, BATCHES)}
    assert all(line.commits >= 1 for line in lines)
    assert all(line.checkpointed_cpu_seconds >= line.service_cpu_seconds for line in lines)


def test_both_methods_send_the_same_batches() -> None:
    batches = event_batches.encode(
        EVENTS, 5_000, parent="accounts/a", input="accounts/a/workspaces/w/inputs/i", have_event_ids=True
    )
    unary = [IngestEventsRequest.FromString(each) for each in batches.unary]
    streamed = [StreamEventsRequest.FromString(each) for each in batches.streamed]
    assert [len(batch.events) for batch in unary] == [5_000, 5_000, 2_000]
    assert [(each.sequence, each.batch) for each in streamed] == list(enumerate(unary))
    events = [event for batch in unary for event in batch.events]
    assert [event.event_id for event in events] == [f"event-{row:012}" for row in range(EVENTS)]
    assert {event.name for event in events} == set(event_batches.NAMES)
    assert {event.attributes["category"].string_value for event in events} == set(event_batches.CATEGORIES)
    assert len({batch.request_id for batch in unary}) == BATCHES
