"""Says that a table of others has the events of an input, while no service has the store open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from engine.backends.clickhouse.backend import ClickHouseBackend
from engine.backends.clickhouse.gateway.location import location_of
from engine.backends.clickhouse.settings import ClickHouseSettings
from engine.errors import NotFound

NEVER_S = 1e9


def map_events(location: str, input_name: str, document: str, table: str, settle_s: float) -> int:
    """Maps a table, whose rows are followed once a service runs. `document`: the key of the input's record.
    Returns the revision from which on it is mapped.

    Raises NotFound without that record, and as `ClickHouseBackend.map_events`.
    """
    with _opened(location) as backend:
        if backend.documents.get(document) is None:
            raise NotFound(input_name)
        backend.map_events(input_name, table, settle_s)
        return backend.revision()


def unmap_events(location: str, input_name: str) -> int:
    """The events of the table of an input do not count any more. Returns the revision from which on. Raises
    FailedPrecondition when it has none.
    """
    with _opened(location) as backend:
        backend.unmap_events(input_name)
        return backend.revision()


def recount_events(location: str, input_name: str) -> int:
    """Takes the rows of the table of an input as they are now. Returns the revision from which on. Raises as
    `ClickHouseBackend.recount_events`.
    """
    with _opened(location) as backend:
        backend.recount_events(input_name)
        return backend.revision()


@contextmanager
def _opened(location: str) -> Iterator[ClickHouseBackend]:
    settings = ClickHouseSettings(follow_s=NEVER_S)
    backend = ClickHouseBackend.open(location_of(location), settings=settings)
    try:
        yield backend
    finally:
        backend.close()
