"""Writing: what goes in, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import msgspec

from engine.criteria.model import ConsentState, EventType
from engine.errors import MilepostError
from engine.event_columns import EventColumns
from engine.user_columns import UserColumns
from engine.values import Micros, Value


class EventRecord(msgspec.Struct, frozen=True, array_like=True, tag_field="record", tag="event", gc=False):
    """One event, already checked against the limits. `event_id` "" = no deduplication."""

    user_id: str
    input: str
    name: str
    type: EventType
    time: Micros
    attributes: dict[str, Value]
    event_id: str = ""


class UserRecord(msgspec.Struct, frozen=True, array_like=True, tag_field="record", tag="user"):
    """One user update, already checked. Each write carries `time`; per attribute, identity and consent the
    latest time wins, of equal times the later to arrive. None unsets; an unset is a write as well.
    """

    user_id: str
    input: str
    time: Micros
    attributes: dict[str, Value | None] = {}
    identities: dict[str, str | None] = {}
    consents: dict[tuple[str, str], ConsentState] = {}


Record: TypeAlias = EventRecord | UserRecord


class Appended(msgspec.Struct, frozen=True, array_like=True):
    """What became of a batch: the revision at which it is visible, and how many events had been seen
    before.
    """

    revision: int
    accepted: int
    duplicates: int
    repeated: bool = False
    """True when `request_id` had been seen: this is the first answer again and nothing was applied."""


@runtime_checkable
class DataWriter(Protocol):
    """Takes data in and removes it. One writer at a time; each write is visible at its revision, in order."""

    def append(self, account: str, records: Sequence[Record], *, request_id: str = "") -> Appended:
        """Makes the records durable, then visible, in order. Raises LimitExceeded when there is no room, with
        nothing applied.
        """
        ...

    def append_user_columns(self, account: str, columns: UserColumns, *, request_id: str = "") -> Appended:
        """As `append`, for user updates that come as columns: each row is a `UserRecord`."""
        ...

    def append_columns(self, account: str, columns: EventColumns, *, request_id: str = "") -> Appended:
        """As `append`, for events that come as columns, checked and trimmed. The outcome is that of the same
        events as records.
        """
        ...

    def erase(self, account: str, user_ids: Sequence[str]) -> Appended:
        """Removes the users as if they had never been; stored memberships record their exits by id. Unknown
        ids are ignored.
        """
        ...

    def remove_events(self, account: str, before: Micros) -> int:
        """Removes all events before an instant that have come so far, for good, and answers the revision at
        which they are gone. Users stay, also those left without any event, and so do stored memberships: only
        what their plans count no more is to be removed. Events that come later count whatever their time.
        """
        ...

    def alias(self, account: str, from_user_id: str, to_user_id: str) -> int:
        """From now on `from` is `to`: all data moves as if it had been sent as `to`. Raises
        FailedPrecondition on a cycle.
        """
        ...

    def write_fault(self) -> MilepostError | None:
        """Why all writes are refused for now, for want of room or because of damage; None when they are
        not.
        """
        ...
