"""Ingestion: checks every row against the limits, stores the valid ones and reports the others."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

import msgspec
import numpy as np

from engine.backends.base import Appended, DataWriter, EventRecord, UserRecord
from engine.checks import (
    Fault,
    RowFaults,
    Times,
    check_columns,
    check_event,
    check_name,
    check_user,
    check_user_columns,
    is_longer,
    shortened,
)
from engine.clock import Clock
from engine.errors import InvalidInput, Violation
from engine.event_columns import EventColumns, Rows
from engine.limits import Limits
from engine.new_names import (
    Batch,
    EventColumnNames,
    NewNames,
    RecordNames,
    UserColumnNames,
)
from engine.resources.names import Resource
from engine.resources.names import check_name as check_resource_name
from engine.resources.records import Account, Input, account_of
from engine.resources.repository import Repository
from engine.user_columns import UserColumns
from engine.write_gate import WriteGate

INPUTS_NAMED_MAX = 100
"""Inputs of a batch after which the faults of further ones do not name them."""


class Rejection(msgspec.Struct, frozen=True):
    """A rejected row of a batch. `field` is a path in the request, such as `events[3].user_id`."""

    index: int
    reason: str
    field: str
    description: str


class Ingested(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a batch; see `Appended`."""

    revision: int
    accepted: int
    duplicates: int
    repeated: bool
    rejections: tuple[Rejection, ...]


class IngestedColumns(msgspec.Struct, frozen=True):
    """Result of a batch of columns. Rows of `faults` are indexes into the batch."""

    appended: Appended
    faults: tuple[RowFaults, ...]


class ColumnBatch(NamedTuple):
    """A batch of events by column, the index of each row in the request, and the malformed rows."""

    columns: EventColumns
    places: Sequence[int]
    rejections: Sequence[Rejection]


R = TypeVar("R", EventRecord, UserRecord)
C = TypeVar("C", EventColumns, UserColumns)
P = ParamSpec("P")
T = TypeVar("T")


def _gated(
    write: Callable[Concatenate[Ingest, str, P], T],
) -> Callable[Concatenate[Ingest, str, P], T]:
    """A write of an account, during which nothing in it is deleted."""

    @functools.wraps(write)
    def gated(self: Ingest, account: str, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self._gate.writing(account):
            return write(self, account, *args, **kwargs)

    return gated


class Ingest:
    """Checks and appends rows. Calls `appended` with the account after each write."""

    def __init__(
        self,
        repository: Repository,
        backend: DataWriter,
        gate: WriteGate,
        limits: Limits,
        clock: Clock,
        appended: Callable[[str], None],
    ) -> None:
        self._repository = repository
        self._backend = backend
        self._gate = gate
        self._limits = limits
        self._clock = clock
        self._appended = appended
        self._names = NewNames(backend, limits, self._names_max)

    @_gated
    def events(self, account: str, rows: Sequence[EventRecord | Rejection], request_id: str = "") -> Ingested:
        """Appends the valid events. A row that is already a Rejection is returned as it is.

        Raises NotFound (the account); InvalidInput: BATCH_TOO_LARGE, or BATCH_REFUSED when there are rows and
        all are rejected; LimitExceeded when the store is full.
        """
        retention = self._account(account).event_retention
        times = Times.by_clock(self._clock.bounds(), retention)
        return self._ingest(
            account, rows, "events", lambda record: check_event(record, times, self._limits), request_id
        )

    @_gated
    def users(self, account: str, rows: Sequence[UserRecord | Rejection], request_id: str = "") -> Ingested:
        """Appends the valid user updates. Raises as `events`."""
        self._account(account)
        times = Times.by_clock(self._clock.bounds())
        return self._ingest(
            account, rows, "users", lambda record: check_user(record, times, self._limits), request_id
        )

    @_gated
    def columns(self, account: str, columns: EventColumns, request_id: str = "") -> IngestedColumns:
        """Appends the valid rows. A batch without valid rows returns its faults and raises nothing.

        Raises NotFound (the account), InvalidInput (the request id), LimitExceeded when the store is full.
        """
        checked = self._event_faults(account, columns, request_id)
        with self._admitting(account, columns, checked, EventColumnNames) as (kept, faults):
            appended = self._backend.append_columns(account, kept, request_id=request_id)
        self._appended(account)
        return IngestedColumns(appended=appended, faults=tuple(faults))

    @_gated
    def event_columns(self, account: str, batch: ColumnBatch, request_id: str = "") -> Ingested:
        """As `events`, for a batch by column."""
        self._check_batch_size("events", len(batch.places) + len(batch.rejections))
        checked = self._event_faults(account, batch.columns, request_id)
        with self._admitting(account, batch.columns, checked, EventColumnNames) as (kept, faults):
            rejections = list(batch.rejections)
            for fault in faults:
                for place in map(batch.places.__getitem__, fault.rows.tolist()):
                    field = f"events[{place}].{fault.field}"
                    rejections.append(Rejection(place, fault.reason, field, fault.description))
            _refuse_if_all(rejections, len(kept))
            appended = self._backend.append_columns(account, kept, request_id=request_id)
        self._appended(account)
        return _ingested(appended, rejections)

    @_gated
    def user_columns(self, account: str, columns: UserColumns, request_id: str = "") -> IngestedColumns:
        """As `columns`, for user updates."""
        self._account(account)
        self._check_request_id(request_id)
        inputs: dict[str, bool] = {}
        checked = check_user_columns(
            columns,
            Times.by_clock(self._clock.bounds()),
            self._limits,
            lambda name: self._input_fault(account, name, inputs),
        )
        with self._admitting(account, columns, checked, UserColumnNames) as (kept, faults):
            stored_id = _stored_id("users", request_id)
            appended = self._backend.append_user_columns(account, kept, request_id=stored_id)
        self._appended(account)
        return IngestedColumns(appended=appended, faults=tuple(faults))

    def _event_faults(self, account: str, columns: EventColumns, request_id: str) -> list[RowFaults]:
        retention = self._account(account).event_retention
        self._check_request_id(request_id)
        inputs: dict[str, bool] = {}
        return check_columns(
            columns,
            Times.by_clock(self._clock.bounds(), retention),
            self._limits,
            lambda name: self._input_fault(account, name, inputs),
        )

    @contextmanager
    def _admitting(
        self, account: str, columns: C, faults: list[RowFaults], names_of: Callable[[C], Batch]
    ) -> Iterator[tuple[C, list[RowFaults]]]:
        """The rows to append inside the block, and the faults of the others, those of new names included."""
        rows = _rows_without(len(columns), faults)
        kept = columns.trimmed() if len(rows) == len(columns) else columns.take(rows)
        with self._names.admitting(account, names_of(kept)) as refused:
            if refused:
                own: list[RowFaults] = [
                    msgspec.structs.replace(fault, rows=rows[fault.rows]) for fault in refused
                ]
                faults = [*faults, *own]
                kept = columns.take(_rows_without(len(columns), faults))
            yield kept, faults

    def check_input(self, account: str, name: str, field: str) -> None:
        """Checks an input that applies to many rows. Raises InvalidInput for a name that is malformed
        or of another account, NotFound.
        """
        check_resource_name(name, field, Resource.INPUT)
        if account_of(name) != account:
            raise InvalidInput.one(field, f"must be an input of {account}")
        self._repository.get(Input, name)

    @_gated
    def alias(self, account: str, from_user_id: str, to_user_id: str) -> int:
        """Makes `from` an alias of `to` and returns the revision. Raises NotFound, InvalidInput,
        FailedPrecondition on a cycle.
        """
        self._account(account)
        faults = self._user_id_faults({"from_user_id": from_user_id, "to_user_id": to_user_id})
        if from_user_id == to_user_id:
            faults = [*faults, Violation("to_user_id", "must differ from from_user_id")]
        if faults:
            raise InvalidInput(faults)
        revision = self._backend.alias(account, from_user_id, to_user_id)
        self._appended(account)
        return revision

    @_gated
    def erase(self, account: str, user_ids: Sequence[str]) -> Appended:
        """Removes the users; `accepted` counts those that existed. Raises NotFound, InvalidInput."""
        self._account(account)
        self._check_batch_size("user_ids", len(user_ids))
        faults = self._user_id_faults({f"user_ids[{i}]": each for i, each in enumerate(user_ids)})
        if faults:
            raise InvalidInput(faults)
        erased = self._backend.erase(account, user_ids)
        self._appended(account)
        return erased

    def _account(self, name: str) -> Account:
        check_resource_name(name, "parent", Resource.ACCOUNT)
        return self._repository.get(Account, name)

    def _names_max(self, account: str) -> int:
        return self._repository.get(Account, account).quotas.effective().names_max

    def _user_id_faults(self, user_ids: Mapping[str, str]) -> list[Violation]:
        checked = ((f, check_name(f, user_id, self._limits)) for f, user_id in user_ids.items())
        return [Violation(field, fault[2]) for field, fault in checked if fault is not None]

    def _check_batch_size(self, field: str, rows: int) -> None:
        rows_max = self._limits.batch_events_max
        if rows > rows_max:
            raise InvalidInput(
                [Violation(field, f"has {rows} rows; at most {rows_max} are allowed")],
                reason="BATCH_TOO_LARGE",
                metadata={"limit": str(rows_max), "actual": str(rows)},
            )

    def _check_request_id(self, request_id: str) -> None:
        if is_longer(request_id, self._limits.name_bytes_max):
            raise InvalidInput.one("request_id", f"is longer than {self._limits.name_bytes_max} bytes")

    def _ingest(
        self,
        account: str,
        rows: Sequence[R | Rejection],
        field: str,
        check: Callable[[R], Fault | None],
        request_id: str,
    ) -> Ingested:
        self._check_batch_size(field, len(rows))
        self._check_request_id(request_id)
        accepted: list[R] = []
        places: list[int] = []
        rejections: list[Rejection] = []
        inputs: dict[str, bool] = {}
        for index, row in enumerate(rows):
            if isinstance(row, Rejection):
                rejections.append(row)
                continue
            fault = check(row) or self._input_fault(account, row.input, inputs)
            if fault is None:
                accepted.append(row)
                places.append(index)
            else:
                reason, below, description = fault
                rejections.append(Rejection(index, reason, f"{field}[{index}].{below}", description))
        with self._names.admitting(account, RecordNames(accepted)) as refused:
            for each in refused:
                for place in map(places.__getitem__, each.rows.tolist()):
                    path = f"{field}[{place}].{each.field}"
                    rejections.append(Rejection(place, each.reason, path, each.description))
            if refused:
                accepted = [accepted[at] for at in _rows_without(len(accepted), refused).tolist()]
            _refuse_if_all(rejections, len(accepted))
            stored_id = _stored_id(field, request_id)
            appended = self._backend.append(account, accepted, request_id=stored_id)
        self._appended(account)
        return _ingested(appended, rejections)

    def _input_fault(self, account: str, name: str, known: dict[str, bool]) -> Fault | None:
        if name not in known:
            exists = self._repository.find(Input, name) is not None
            known[name] = exists and account_of(name) == account
        if known[name]:
            return None
        if not name:
            return "REQUIRED", "input", "is required in the row or for the whole request"
        # Rows with the same fault are rejected together, so a batch has few different faults.
        if len(known) > INPUTS_NAMED_MAX:
            return "UNKNOWN_INPUT", "input", "the input does not exist"
        return "UNKNOWN_INPUT", "input", f"input {shortened(name)!r} does not exist"


def _stored_id(field: str, request_id: str) -> str:
    """The request id by which a repeat is known: users and events with one id are two requests."""
    return f"{field}\0{request_id}" if request_id and field != "events" else request_id


def _rows_without(count: int, faults: Iterable[RowFaults]) -> Rows:
    """The rows without a fault."""
    kept = np.ones(count, np.bool_)
    for fault in faults:
        kept[fault.rows] = False
    return np.flatnonzero(kept)


def _refuse_if_all(rejections: list[Rejection], kept: int) -> None:
    """Sorts rejections. Raises InvalidInput when they leave no row."""
    rejections.sort(key=lambda rejection: rejection.index)
    if rejections and not kept:
        raise InvalidInput(list(_violations(rejections)), reason="BATCH_REFUSED")


def _ingested(appended: Appended, rejections: Sequence[Rejection]) -> Ingested:
    return Ingested(
        revision=appended.revision,
        accepted=appended.accepted,
        duplicates=appended.duplicates,
        repeated=appended.repeated,
        rejections=tuple(rejections),
    )


def _violations(rejections: Iterable[Rejection]) -> Iterator[Violation]:
    for rejection in rejections:
        yield Violation(rejection.field, rejection.description, rejection.reason)
