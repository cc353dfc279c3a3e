"""The Complete Journey in an embedded store, and as records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.backends.base import EventRecord, Record, UserRecord
from engine.backends.local.backend import LocalBackend
from engine.criteria.model import EventType
from engine.values import MICROS_PER_SECOND, Micros, Value
from milepost import Client
from milepost.sample import dataset
from milepost.sample.load import load
from tests.harness import serving

ACCOUNT = f"accounts/{dataset.ACCOUNT_ID}"
WORKSPACE = f"{ACCOUNT}/workspaces/{dataset.WORKSPACE_ID}"
STORE = f"{WORKSPACE}/inputs/{dataset.STORE_INPUT_ID}"
CAMPAIGNS = f"{WORKSPACE}/inputs/{dataset.CAMPAIGNS_INPUT_ID}"
PANEL = f"{WORKSPACE}/inputs/{dataset.PANEL_INPUT_ID}"
INPUTS = (CAMPAIGNS, PANEL, STORE)

PANEL_TIME: Micros = 1_483_228_800 * MICROS_PER_SECOND
"""2017-01-01T00:00:00Z, the time of the profiles, which have none of their own."""

BATCH_ROWS = 20_000
_CELLS = (dataset.USER_ID, dataset.EVENT_ID, dataset.TIME)


def load_sample(directory: Path) -> LocalBackend:
    """A new store in `directory` with all of the sample's data, checkpointed. A service loads it, by columns:
    that takes a third of the time that records take.
    """
    with (
        serving(directory, log_level="error") as service,
        Client(service.address, account=dataset.ACCOUNT_ID) as client,
    ):
        load(client)
    return LocalBackend.open(directory)


def sample_batches() -> Iterator[list[Record]]:
    """The profiles, then the events source by source, each in the order of its file."""
    yield [
        UserRecord(user_id=row.pop(dataset.USER_ID), input=PANEL, time=PANEL_TIME, attributes={**row})
        for row in dataset.panel()
    ]
    for source in dataset.event_sources():
        for start in range(0, source.table.num_rows, BATCH_ROWS):
            yield list(_records(source, source.table.slice(start, BATCH_ROWS)))


def _records(source: dataset.Events, table: Any) -> Iterator[EventRecord]:
    input_name = f"{WORKSPACE}/inputs/{source.input_id}"
    type_ = EventType(source.type)
    users, ids = table.column(dataset.USER_ID).to_pylist(), table.column(dataset.EVENT_ID).to_pylist()
    times = table.column(dataset.TIME).cast("timestamp[us]").cast("int64").to_pylist()
    names = [name for name in table.column_names if name not in _CELLS]
    columns = [_values(table.column(name)) for name in names]
    for user_id, event_id, time, *values in zip(users, ids, times, *columns, strict=True):
        yield EventRecord(
            user_id=user_id,
            input=input_name,
            name=source.name,
            type=type_,
            time=time,
            attributes={name: value for name, value in zip(names, values, strict=True) if value is not None},
            event_id=event_id,
        )


def _values(column: Any) -> list[Value | None]:
    """Strings as they are; numbers, whole ones too, as doubles."""
    values: list[Value | None] = (column if column.type == "string" else column.cast("float64")).to_pylist()
    return values
