"""Data at the door: every row is held against the limits, what is refused is named, the rest goes in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import isfinite
from typing import TypeAlias, TypeVar

import msgspec

from engine.backend import Appended, Backend, EventRecord, UserRecord
from engine.errors import InvalidInput, Violation
from engine.journeys.model import Account, Input, account_of
from engine.journeys.names import Resource, check_name
from engine.journeys.repository import Repository
from engine.limits import Limits
from engine.values import MICROS_PER_DAY, TIME_MAX_MICROS, TIME_MIN_MICROS, Kind, Micros, Value, kind_of

UTF8_BYTES_MAX = 4
EVENT_AHEAD_MAX = MICROS_PER_DAY
"""An event may lie this far ahead of the server's clock."""


class Rejection(msgspec.Struct, frozen=True):
    """A row of a batch that is not taken. `field` is a path in the request, such as `events[3].user_id`."""

    index: int
    reason: str
    field: str
    description: str


class Ingested(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a batch; see `Appended`."""

    revision: int
    accepted: int
    duplicates: int
    repeated: bool
    rejections: tuple[Rejection, ...]


Fault: TypeAlias = tuple[str, str, str]
"""Reason, field below the row ("" = the row), description."""

R = TypeVar("R", EventRecord, UserRecord)


def is_longer(text: str, bytes_max: int) -> bool:
    """Whether the text has more bytes in UTF-8; short ones are not encoded to find out."""
    return len(text) * UTF8_BYTES_MAX > bytes_max and len(text.encode()) > bytes_max


def check_event(record: EventRecord, now: Micros, retention: Micros, limits: Limits) -> Fault | None:
    """The first fault of an event, or None. `retention` 0 = keep all."""
    fault = _name_fault("user_id", record.user_id, limits) or _name_fault("name", record.name, limits)
    if fault is not None:
        return fault
    if retention and record.time < now - retention:
        return "EVENT_TOO_OLD", "time", "is older than the account's event retention"
    if record.time > now + EVENT_AHEAD_MAX:
        return "EVENT_IN_FUTURE", "time", "is more than 24 h ahead of the server's clock"
    if is_longer(record.event_id, limits.name_bytes_max):
        return "VALUE_TOO_LONG", "event_id", f"is longer than {limits.name_bytes_max} bytes"
    return _time_fault(record.time) or _attributes_fault(record.attributes, limits)


def check_user(record: UserRecord, now: Micros, limits: Limits) -> Fault | None:
    """The first fault of a user update, or None."""
    names = [("regulation", name) for consent in record.consents for name in consent]
    fault = _name_fault("user_id", record.user_id, limits) or _time_fault(record.time)
    if fault is not None:
        return fault
    if record.time > now + EVENT_AHEAD_MAX:
        return "UPDATE_IN_FUTURE", "time", "is more than 24 h ahead of the server's clock"
    for key, identity in record.identities.items():
        names.append(("identities", key))
        if identity is not None and is_longer(identity, limits.string_bytes_max):
            field = f"identities[{key!r}]"
            return "VALUE_TOO_LONG", field, f"is longer than {limits.string_bytes_max} bytes"
    for field, name in names:
        fault = _name_fault("consents" if field == "regulation" else field, name, limits)
        if fault is not None:
            return fault
    return _attributes_fault(record.attributes, limits)


def _name_fault(field: str, name: str, limits: Limits) -> Fault | None:
    if not name:
        return "REQUIRED", field, "is required"
    if is_longer(name, limits.name_bytes_max):
        return "NAME_TOO_LONG", field, f"is longer than {limits.name_bytes_max} bytes"
    return None


def _time_fault(time: Micros) -> Fault | None:
    if TIME_MIN_MICROS <= time <= TIME_MAX_MICROS:
        return None
    return "INVALID_VALUE", "time", "is outside of the years 1 to 9999"


def _attributes_fault(attributes: Mapping[str, Value | None], limits: Limits) -> Fault | None:
    attributes_max = limits.event_attributes_max
    if len(attributes) > attributes_max:
        return (
            "TOO_MANY_ATTRIBUTES",
            "attributes",
            f"has {len(attributes)} attributes; at most {attributes_max} are allowed",
        )
    key_glance = limits.name_bytes_max // UTF8_BYTES_MAX
    text_glance = limits.string_bytes_max // UTF8_BYTES_MAX
    for key, value in attributes.items():
        # Nearly every attribute is a short string or a finite number under a short key: told at a glance.
        if 0 < len(key) <= key_glance and (
            len(value) <= text_glance if type(value) is str else type(value) is float and isfinite(value)
        ):
            continue
        fault = _name_fault("attributes", key, limits)
        if fault is None and value is not None:
            fault = _value_fault(f"attributes[{key!r}]", value, limits)
        if fault is not None:
            return fault
    return None


def _value_fault(field: str, value: Value, limits: Limits) -> Fault | None:
    match kind_of(value), value:
        case Kind.STRING, str(text) if is_longer(text, limits.string_bytes_max):
            return "VALUE_TOO_LONG", field, f"is longer than {limits.string_bytes_max} bytes"
        case Kind.NUMBER, float(number) if not isfinite(number):
            return "INVALID_VALUE", field, "must be a finite number"
        case Kind.TIME, int(time) if not TIME_MIN_MICROS <= time <= TIME_MAX_MICROS:
            return "INVALID_VALUE", field, "is outside of the years 1 to 9999"
        case Kind.LIST, tuple(items):
            if len(items) > limits.list_items_max:
                return "LIST_TOO_LONG", field, f"has more than {limits.list_items_max} elements"
            if any(is_longer(item, limits.list_item_bytes_max) for item in items):
                return (
                    "VALUE_TOO_LONG",
                    field,
                    f"has an element longer than {limits.list_item_bytes_max} bytes",
                )
    return None


class Ingest:
    """Checks and appends. `appended` is told the account after each write."""

    def __init__(
        self,
        repository: Repository,
        backend: Backend,
        limits: Limits,
        clock: Callable[[], Micros],
        appended: Callable[[str], None],
    ) -> None:
        self._repository = repository
        self._backend = backend
        self._limits = limits
        self._clock = clock
        self._appended = appended

    def events(self, account: str, rows: Sequence[EventRecord | Rejection], request_id: str = "") -> Ingested:
        """Appends the events that pass; a row that is already a Rejection stays one, in its place.

        Raises NotFound (the account), InvalidInput: BATCH_TOO_LARGE, or BATCH_REFUSED when there are rows and
        none can be taken; LimitExceeded when there is no room.
        """
        retention = self._account(account).event_retention
        now = self._clock()
        return self._ingest(
            account,
            rows,
            "events",
            lambda record: check_event(record, now, retention, self._limits),
            request_id,
        )

    def users(self, account: str, rows: Sequence[UserRecord | Rejection], request_id: str = "") -> Ingested:
        """Appends the user updates that pass. As `events`."""
        self._account(account)
        now = self._clock()
        return self._ingest(
            account, rows, "users", lambda record: check_user(record, now, self._limits), request_id
        )

    def alias(self, account: str, from_user_id: str, to_user_id: str) -> int:
        """From now on `from` is `to`; the revision at which it is visible. Raises NotFound, InvalidInput,
        FailedPrecondition on a cycle.
        """
        self._account(account)
        faults = self._user_id_faults({"from_user_id": from_user_id, "to_user_id": to_user_id})
        if from_user_id == to_user_id:
            faults = [*faults, Violation("to_user_id", "must be another user")]
        if faults:
            raise InvalidInput(faults)
        revision = self._backend.alias(account, from_user_id, to_user_id)
        self._appended(account)
        return revision

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
        check_name(name, "parent", Resource.ACCOUNT)
        return self._repository.get(Account, name)

    def _user_id_faults(self, user_ids: Mapping[str, str]) -> list[Violation]:
        checked = ((f, _name_fault(f, user_id, self._limits)) for f, user_id in user_ids.items())
        return [Violation(field, fault[2]) for field, fault in checked if fault is not None]

    def _check_batch_size(self, field: str, rows: int) -> None:
        rows_max = self._limits.batch_events_max
        if rows > rows_max:
            raise InvalidInput(
                [Violation(field, f"has {rows} rows; at most {rows_max} are allowed")],
                reason="BATCH_TOO_LARGE",
                metadata={"limit": str(rows_max), "actual": str(rows)},
            )

    def _ingest(
        self,
        account: str,
        rows: Sequence[R | Rejection],
        field: str,
        check: Callable[[R], Fault | None],
        request_id: str,
    ) -> Ingested:
        self._check_batch_size(field, len(rows))
        if is_longer(request_id, self._limits.name_bytes_max):
            raise InvalidInput.one("request_id", f"is longer than {self._limits.name_bytes_max} bytes")
        accepted: list[R] = []
        rejections: list[Rejection] = []
        inputs: dict[str, bool] = {}
        for index, row in enumerate(rows):
            if isinstance(row, Rejection):
                rejections.append(row)
                continue
            fault = check(row) or self._input_fault(account, row.input, inputs)
            if fault is None:
                accepted.append(row)
            else:
                reason, below, description = fault
                rejections.append(Rejection(index, reason, f"{field}[{index}].{below}", description))
        if rejections and not accepted:
            raise InvalidInput(list(_violations(rejections)), reason="BATCH_REFUSED")
        appended = self._backend.append(account, accepted, request_id=request_id)
        self._appended(account)
        return Ingested(
            revision=appended.revision,
            accepted=appended.accepted,
            duplicates=appended.duplicates,
            repeated=appended.repeated,
            rejections=tuple(rejections),
        )

    def _input_fault(self, account: str, name: str, known: dict[str, bool]) -> Fault | None:
        if name not in known:
            exists = self._repository.find(Input, name) is not None
            known[name] = exists and account_of(name) == account
        if known[name]:
            return None
        if not name:
            return "REQUIRED", "input", "is required, here or for the whole request"
        return "UNKNOWN_INPUT", "input", f"input {name!r} does not exist"


def _violations(rejections: Iterable[Rejection]) -> Iterator[Violation]:
    for rejection in rejections:
        yield Violation(rejection.field, rejection.description)
