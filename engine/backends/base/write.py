"""Writing: records and outcomes."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence, Set
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import msgspec

from engine.criteria.model import ConsentState, EventType
from engine.errors import MilepostError
from engine.event_columns import EventColumns
from engine.user_columns import UserColumns
from engine.values import Micros, Value


class EventRecord(msgspec.Struct, frozen=True, array_like=True, tag_field="record", tag="event", gc=False):
    """One event, already validated. `event_id` "" = no deduplication."""

    user_id: str
    input: str
    name: str
    type: EventType
    time: Micros
    attributes: dict[str, Value]
    event_id: str = ""


class UserRecord(msgspec.Struct, frozen=True, array_like=True, tag_field="record", tag="user"):
    """One user update, already validated. All writes carry `time`. For each attribute, identity and consent
    the latest time wins; of equal times, the later arrival. None unsets; an unset is a write as well.
    """

    user_id: str
    input: str
    time: Micros
    attributes: dict[str, Value | None] = {}
    identities: dict[str, str | None] = {}
    consents: dict[tuple[str, str], ConsentState] = {}


Record: TypeAlias = EventRecord | UserRecord


class NameKind(enum.Enum):
    """What a name names."""

    EVENT = enum.auto()
    EVENT_ATTRIBUTE = enum.auto()
    USER_ATTRIBUTE = enum.auto()
    """Within a workspace."""
    IDENTITY = enum.auto()
    CONSENT = enum.auto()
    """A purpose within a regulation."""


class NameSpan(NamedTuple):
    """Event names of an account whose numbers follow each other: from `first` to before `end`."""

    first: int
    end: int


class Naming(NamedTuple):
    """A name that data came with. `scope` is a workspace or a regulation, "" for other kinds."""

    kind: NameKind
    scope: str
    name: str


class Appended(msgspec.Struct, frozen=True, array_like=True):
    """The outcome of a batch: the revision at which it is visible, and the number of repeated events."""

    revision: int
    accepted: int
    duplicates: int
    repeated: bool = False
    """True for a repeated `request_id`: this is the first answer again and nothing was applied."""


@runtime_checkable
class DataWriter(Protocol):
    """Takes data in and removes it. One writer at a time; each write is visible at its revision, in order."""

    def append(self, account: str, records: Sequence[Record], *, request_id: str = "") -> Appended:
        """Makes the records durable, then visible, in order. Raises LimitExceeded when the store is full,
        with nothing applied.
        """
        ...

    def append_user_columns(self, account: str, columns: UserColumns, *, request_id: str = "") -> Appended:
        """As `append`, for user updates in columns: each row is a `UserRecord`."""
        ...

    def append_columns(self, account: str, columns: EventColumns, *, request_id: str = "") -> Appended:
        """As `append`, for events in columns, already validated. The outcome equals that of the same events
        as records.
        """
        ...

    def unknown_names(self, account: str, kind: NameKind, scope: str, names: Set[str]) -> Set[str]:
        """The names that nothing stored in the account has come with. Those of accepted batches are known."""
        ...

    def name_count(self, account: str) -> int:
        """Number of names, of all kinds, that data of the account came with."""
        ...

    def erase(self, account: str, user_ids: Sequence[str]) -> Appended:
        """Removes the users as if they had never existed; stored memberships record their exits by id.
        Ignores unknown ids.
        """
        ...

    def events_before(self, account: str, before: Micros) -> Iterator[NameSpan | None]:
        """The names of stored events before an instant, in spans of which one can be removed in the time of a
        write. A single None: all names can.
        """
        ...

    def remove_events(self, account: str, before: Micros, names: NameSpan | None = None) -> int:
        """Permanently removes all stored events before an instant, or those of some names, and returns the
        revision at which they are gone. Users stay, even without events, and so do stored memberships: the
        caller removes only events that no plan counts any longer. Events that arrive later count whatever
        their time.
        """
        ...

    def forget(self, account: str, name: str) -> int:
        """Removes what is left of an account, or of one of its workspaces or inputs, that has no users: its
        names, event ids and request ids. Whatever gets the same name later starts anew. Returns the revision
        at which it is gone. Raises FailedPrecondition, changing nothing, when it has users. An account must
        have no stored membership.
        """
        ...

    def alias(self, account: str, from_user_id: str, to_user_id: str) -> int:
        """From now on `from` is `to`: all data moves as if it had been sent as `to`. Raises
        FailedPrecondition on a cycle, LimitExceeded beyond `USER_ALIASES_MAX`.
        """
        ...

    def write_fault(self) -> MilepostError | None:
        """The error with which all writes are refused, because the store is full or damaged; None when they
        are accepted.
        """
        ...
