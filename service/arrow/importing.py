"""Runs one import: converts rows while the previous batch is appended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa

from engine import Engine
from engine.checks import RowFaults, is_longer
from engine.errors import InvalidInput, MilepostError
from engine.ingest import Ingest, IngestedColumns
from engine.resources.names import Resource, check_name
from engine.values import Micros
from milepost.v1 import ingest_service_pb2 as pb
from service.arrow.columns import Converted, convert
from service.arrow.layout import layout_of
from service.arrow.stream import BROKEN, RecordBatches, recut, unreadable, without_first
from service.arrow.user_columns import convert_users
from service.arrow.user_layout import user_layout_of
from service.limits import (
    IMPORT_REASONS_MAX,
    IMPORT_REFUSED_ROWS_MAX,
    IMPORT_REJECTIONS_MAX,
    IMPORT_REQUEST_ID_BYTES_MAX,
)
from service.prefetch import Prefetch

FURTHER_ROWS = "for the same reason as rows whose faults are described"
BATCHES_AHEAD = 1
"""Converted batches waiting; with the one being converted and the one being appended, three are held."""


Header = pb.ImportHeader | pb.ImportUsersHeader
Request = pb.ImportEventsRequest | pb.ImportUsersRequest
Response = pb.ImportEventsResponse | pb.ImportUsersResponse


@dataclass(frozen=True, slots=True)
class Form:
    """What is imported: how columns are laid out (by the header, their names and the server's clock), read
    and appended, and what the answer is.
    """

    layout: Callable[[Any, Sequence[str], Micros], Any]
    convert: Callable[[pa.RecordBatch, Any], Converted[Any]]
    ingest: Callable[[Ingest], Callable[[str, Any, str], IngestedColumns]]
    response: type[pb.ImportEventsResponse] | type[pb.ImportUsersResponse]


EVENTS = Form(
    lambda header, names, _now: layout_of(header, names),
    convert,
    attrgetter("columns"),
    pb.ImportEventsResponse,
)
USERS = Form(user_layout_of, convert_users, attrgetter("user_columns"), pb.ImportUsersResponse)


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows to append together. `first_row` is their index in the stream."""

    first_row: int
    request_id: str
    converted: Converted[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Importing:
    """How imports are run. `token` makes revision tokens; `may_go_on` raises when no further batch should be
    begun.
    """

    engine: Engine
    token: Callable[[int], str]
    batch_bytes_max: int
    may_go_on: Callable[[], None]

    def events(self, requests: Iterator[pb.ImportEventsRequest]) -> pb.ImportEventsResponse:
        """Takes all events of a stream that can be taken. Raises as `_run`."""
        response = self._run(requests, EVENTS)
        assert isinstance(response, pb.ImportEventsResponse)
        return response

    def users(self, requests: Iterator[pb.ImportUsersRequest]) -> pb.ImportUsersResponse:
        """Takes all user updates of a stream that can be taken. Raises as `_run`."""
        response = self._run(requests, USERS)
        assert isinstance(response, pb.ImportUsersResponse)
        return response

    def _run(self, requests: Iterator[Request], form: Form) -> Response:
        """Takes all rows of a stream that can be taken.

        Raises NotFound (the account, the header's input), InvalidInput for a header, stream or column without
        a meaning, and what `Ingest.columns` raises; `metadata["rows"]` then says how many rows are dealt
        with, skipped ones included.
        """
        ingest = form.ingest(self.engine.ingest)
        header = _header(requests)
        tally = _Tally(header.skip_rows, self.engine.backend.revision(), form.response())
        try:
            self._check(header)
            source = batches_of(header, requests, self.batch_bytes_max, form, self.engine.clock())
            with Prefetch(source, depth=BATCHES_AHEAD, name="import-ahead") as batches:
                for batch in batches:
                    self.may_go_on()
                    columns = batch.converted.columns
                    tally.add(batch, ingest(header.parent, columns, batch.request_id))
        except MilepostError as error:
            error.metadata["rows"] = str(tally.rows)
            raise
        return tally.response(self.token)

    def _check(self, header: Header) -> None:
        """Rejects, before any row, what would be rejected in every row."""
        check_name(header.parent, "header.parent", Resource.ACCOUNT)
        self.engine.accounts.get_account(header.parent)
        if header.input:
            self.engine.ingest.check_input(header.parent, header.input, "header.input")
        elif not header.input_column:
            raise InvalidInput.one("header.input", "is required without input_column")


def _header(requests: Iterator[Request]) -> Header:
    first = next(requests, None)
    if first is None or first.WhichOneof("part") != "header":
        raise InvalidInput.one("header", "is required in the first message")
    if is_longer(first.header.request_id, IMPORT_REQUEST_ID_BYTES_MAX):
        raise InvalidInput.one("header.request_id", f"is longer than {IMPORT_REQUEST_ID_BYTES_MAX} bytes")
    if first.header.skip_rows < 0:
        raise InvalidInput.one("header.skip_rows", "must not be negative")
    return first.header


def _pieces(requests: Iterator[Request]) -> Iterator[bytes]:
    for request in requests:
        if request.WhichOneof("part") != "arrow":
            raise InvalidInput.one("header", "must be sent once, in the first message")
        yield request.arrow


def batches_of(
    header: Header, requests: Iterator[Request], batch_bytes_max: int, form: Form = EVENTS, now: Micros = 0
) -> Iterator[Batch]:
    """The rows of the stream, converted, in batches to append. Raises InvalidInput."""
    stream = RecordBatches(_pieces(requests), batch_bytes_max)
    layout = _layout(header, stream.schema, form, now)
    first_row = header.skip_rows
    for batch in recut(without_first(iter(stream), header.skip_rows)):
        end = first_row + batch.num_rows
        request_id = f"{header.request_id}/{first_row}-{end}" if header.request_id else ""
        yield Batch(first_row, request_id, _converted(batch, layout, form))
        first_row = end


def _layout(header: Header, schema: pa.Schema, form: Form, now: Micros) -> Any:
    """What the columns mean; one without a meaning is refused here, before any row is taken."""
    try:
        layout = form.layout(header, schema.names, now)
        columns = [pa.nulls(0, field.type) for field in schema]
        empty = pa.RecordBatch.from_arrays(columns, schema=schema)
    except BROKEN as error:
        raise unreadable(error) from error
    _converted(empty, layout, form)
    return layout


def _converted(batch: pa.RecordBatch, layout: Any, form: Form) -> Converted[Any]:
    try:
        return form.convert(batch, layout)
    except BROKEN as error:
        raise unreadable(error) from error


class _Tally:
    """Counts of the rows so far."""

    def __init__(self, skipped_rows: int, revision: int, response: Response) -> None:
        self.rows = skipped_rows
        self._revision = revision
        self._response = response
        self._refused: dict[tuple[str, str, str], pb.RefusedRows] = {}

    def add(self, batch: Batch, ingested: IngestedColumns) -> None:
        """Adds a batch and its rejected rows, in the order of their reasons."""
        converted, response = batch.converted, self._response
        appended = ingested.appended
        self._revision = max(self._revision, appended.revision)
        response.accepted += appended.accepted
        if isinstance(response, pb.ImportEventsResponse):
            response.duplicates += appended.duplicates
        own = [RowFaults(f.reason, f.field, f.description, converted.places(f.rows)) for f in ingested.faults]
        self._refuse(batch.first_row, [*converted.faults, *own])
        refused = sum(len(fault.rows) for fault in (*converted.faults, *own))
        self.rows += len(converted.columns) + sum(len(fault.rows) for fault in converted.faults)
        response.rejected += refused

    def _refuse(self, first_row: int, faults: Sequence[RowFaults]) -> None:
        if not faults:
            return
        numbers = np.concatenate([np.full(len(fault.rows), at) for at, fault in enumerate(faults)])
        rows = np.concatenate([fault.rows for fault in faults])
        # The first rows are named, whatever is wrong with them.
        room = max(0, IMPORT_REFUSED_ROWS_MAX - self._response.rejected)
        order = np.argsort(rows, kind="stable")[:room]
        numbers, rows = numbers[order], rows[order] + first_row
        for number, row in zip(numbers.tolist(), rows[: self._rejections_left].tolist(), strict=False):
            fault = faults[number]
            self._response.rejections.add(
                index=row,
                reason=fault.reason,
                field=f"rows[{row}].{fault.field}",
                description=fault.description,
            )
        for number, fault in enumerate(faults):
            of_fault = rows[numbers == number]
            if len(of_fault):
                self._named(fault).rows.extend(of_fault.tolist())

    @property
    def _rejections_left(self) -> int:
        return IMPORT_REJECTIONS_MAX - len(self._response.rejections)

    def _named(self, fault: RowFaults) -> pb.RefusedRows:
        key = fault.reason, fault.field, fault.description
        if key not in self._refused and len(self._refused) >= IMPORT_REASONS_MAX:
            key = fault.reason, fault.field.partition("[")[0], FURTHER_ROWS
        if key not in self._refused:
            reason, field, description = key
            self._refused[key] = self._response.refused.add(
                reason=reason, field=field, description=description
            )
        return self._refused[key]

    def response(self, token: Callable[[int], str]) -> Response:
        """The answer."""
        self._response.revision = token(self._revision)
        return self._response
