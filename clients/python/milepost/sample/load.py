"""Sends the sample to a service.

Every batch has the same request id and every event the same event id in each run, so a load that broke off
can simply be run again: what is there already is recognised.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from milepost._batches import BATCH_BYTES_MAX, BATCH_ROWS_MAX, Sent, send_all, with_retry
from milepost.client import Client
from milepost.data import make_user_update
from milepost.sample import dataset, encode
from milepost.v1.data_pb2 import UserUpdate
from milepost.v1.ingest_service_pb2 import IngestEventsResponse

REQUESTS_AT_A_TIME = 3
"""Enough to keep the service busy while answers travel; more only queue."""
PANEL_TIME = datetime(2017, 1, 1, tzinfo=UTC)
"""When the demographics became true: the start of the year the data are of."""

_INGEST_EVENTS = "/milepost.v1.IngestService/IngestEvents"

Progress = Callable[[int], None]
"""Called with the number of events acknowledged so far."""


@dataclass(frozen=True)
class Loaded:
    """What a load did: events and profiles taken, events the service had already, seconds, last revision."""

    events: int
    duplicates: int
    profiles: int
    elapsed_seconds: float
    revision: str

    @property
    def events_per_second(self) -> float:
        """Events acknowledged a second, duplicates included."""
        return (self.events + self.duplicates) / self.elapsed_seconds


class NotTaken(Exception):
    """The service refused rows of the sample."""


def load(client: Client, progress: Progress | None = None, *, batch_rows: int = BATCH_ROWS_MAX) -> Loaded:
    """Creates the account, workspace and inputs where they are missing, and sends all profiles and events.

    Raises SampleMissing, NotTaken when the service refuses a row, and what calls raise.
    """
    dataset.data_files()
    started = time.perf_counter()
    client.ensure_account(display_name="Demo")
    inputs = {
        input_id: client.ensure_input(dataset.WORKSPACE_ID, input_id).name
        for input_id in (dataset.STORE_INPUT_ID, dataset.CAMPAIGNS_INPUT_ID, dataset.PANEL_INPUT_ID)
    }
    profiles = client.upsert_users(
        _profiles(), input=inputs[dataset.PANEL_INPUT_ID], request_id="sample-panel", concurrency=1
    )
    events = send_all(
        _requests(client.account_name, inputs, batch_rows),
        _sender(client),
        concurrency=REQUESTS_AT_A_TIME,
        progress=None if progress is None else lambda sent: progress(sent.rows),
    )
    if profiles.rejected:
        raise NotTaken(f"{profiles.rejected} profiles were refused, first: {profiles.rejections[0]}")
    return Loaded(
        events=events.accepted,
        duplicates=events.duplicates,
        profiles=profiles.accepted,
        elapsed_seconds=time.perf_counter() - started,
        revision=events.revision,
    )


def _profiles() -> Iterator[UserUpdate]:
    for household in dataset.panel():
        yield make_user_update(household.pop(dataset.USER_ID), household, time=PANEL_TIME)


def _requests(parent: str, inputs: dict[str, str], batch_rows: int) -> Iterator[bytes]:
    for source in dataset.event_sources():
        for number, events in enumerate(encode.batches(source, batch_rows)):
            request_id = f"sample-{source.name}-{batch_rows}-{number}"
            request = encode.request(parent, inputs[source.input_id], request_id, events)
            if len(request) > BATCH_BYTES_MAX:
                raise ValueError(f"{batch_rows} rows make a batch of {len(request)} bytes")
            yield request


def _sender(client: Client) -> Callable[[bytes], Sent]:
    call = client.channel.unary_unary(
        _INGEST_EVENTS, request_serializer=bytes, response_deserializer=IngestEventsResponse.FromString
    )

    def send(request: bytes) -> Sent:
        response = call(request)
        if response.rejections:
            raise NotTaken(f"{len(response.rejections)} events were refused, first: {response.rejections[0]}")
        return Sent(accepted=response.accepted, duplicates=response.duplicates, revision=response.revision)

    return lambda request: with_retry(lambda: send(request))
