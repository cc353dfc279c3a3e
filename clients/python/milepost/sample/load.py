"""Sends the sample to a service.

Every segment has the same request id and every event the same event id in each run, so an interrupted load
can simply be repeated: data already stored is recognised.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from milepost._importing import Imported
from milepost.client import Client
from milepost.sample import dataset
from milepost.v1.ingest_service_pb2 import ImportHeader, ImportUsersHeader
from milepost.values import to_timestamp

SEGMENT_ROWS = 1 << 18
"""Rows in one call. The service appends 131,072 at a time, one batch while it converts the next."""
BATCH_ROWS = 1 << 15
PANEL_TIME = datetime(2017, 1, 1, tzinfo=UTC)
"""The time of the demographics: the start of the year that the data cover."""

Progress = Callable[[int], None]
"""Called with the number of events acknowledged so far."""


@dataclass
class Loaded:
    """Result of a load: events and profiles accepted, duplicate events, seconds, last revision."""

    events: int = 0
    duplicates: int = 0
    profiles: int = 0
    elapsed_seconds: float = field(default=0.0)
    revision: str = ""

    @property
    def events_per_second(self) -> float:
        """Acknowledged events per second, duplicates included."""
        return (self.events + self.duplicates) / self.elapsed_seconds

    def add(self, imported: Imported) -> None:
        """Counts a segment. Raises NotTaken when the service rejected rows of it."""
        if imported.rejected:
            raise NotTaken(f"{imported.rejected} events were rejected, first: {imported.refused[0]}")
        self.events += imported.accepted
        self.duplicates += imported.duplicates
        self.revision = imported.revision


class NotTaken(Exception):
    """The service rejected rows of the sample."""


def load(client: Client, progress: Progress | None = None) -> Loaded:
    """Creates missing account, workspace and inputs, and sends all profiles and events.

    Raises SampleMissing, NotTaken when the service rejects a row, and the errors of calls.
    """
    dataset.data_files()
    started = time.perf_counter()
    client.ensure_account(display_name="Demo")
    inputs = {
        input_id: client.ensure_input(dataset.WORKSPACE_ID, input_id).name
        for input_id in (dataset.STORE_INPUT_ID, dataset.CAMPAIGNS_INPUT_ID, dataset.PANEL_INPUT_ID)
    }
    profiles = client.import_users(
        _profiles().to_batches(),
        input=inputs[dataset.PANEL_INPUT_ID],
        columns=ImportUsersHeader(default_time=to_timestamp(PANEL_TIME)),
        request_id="sample-panel",
    )
    if profiles.rejected:
        raise NotTaken(f"{profiles.rejected} profiles were rejected, first: {profiles.refused[0]}")
    loaded = Loaded(profiles=profiles.accepted)
    for source in dataset.event_sources():
        header = ImportHeader(default_name=source.name, default_type=source.type)
        for number, batches in enumerate(_segments(source.table)):
            loaded.add(
                client.import_events(
                    batches,
                    input=inputs[source.input_id],
                    columns=header,
                    request_id=f"sample-{source.name}-{number}",
                )
            )
            if progress is not None:
                progress(loaded.events + loaded.duplicates)
    loaded.elapsed_seconds = time.perf_counter() - started
    return loaded


def _profiles() -> Any:
    """The demographics as a table; null for unknown values."""
    import pyarrow as pa

    rows = dataset.panel()
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: pa.array([row.get(name) for row in rows], pa.string()) for name in names})


def _segments(table: Any) -> Iterator[list[Any]]:
    """The rows of a table as record batches, those of one call after another, the same in each run."""
    whole = table.combine_chunks()
    for start in range(0, whole.num_rows, SEGMENT_ROWS):
        yield whole.slice(start, SEGMENT_ROWS).to_batches(max_chunksize=BATCH_ROWS)
