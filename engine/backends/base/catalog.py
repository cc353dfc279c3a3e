"""The catalog: the names and values that occur in the data."""

from __future__ import annotations

from typing import Protocol, TypeAlias, runtime_checkable

import msgspec

from engine.backends.base.lookups import LookupReader
from engine.criteria.model import EventType
from engine.values import Kind, Micros, Value

EventPlace: TypeAlias = tuple[str, str, int]
"""Catalog key of an event name: name, input and number of the type."""
AttributePlace: TypeAlias = tuple[str, str]
"""Catalog key of a user attribute: key and workspace."""


class EventNameFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The events of one name, input and type: their number, their users, first and last time."""

    name: str
    input: str
    type: EventType
    events: int
    users: int
    first_time: Micros
    last_time: Micros

    def place(self) -> EventPlace:
        """Its catalog key."""
        return self.name, self.input, int(self.type)


class AttributeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An attribute of users (`workspace` and `users` are set) or of the events of a name (`event_name` is),
    and the kinds of its values, in order of number.

    First and last time of an event attribute are those of the events that carry it. Of a user attribute they
    are those of each user's current write; overwritten, unset or erased writes do not count.
    """

    key: str
    kinds: tuple[Kind, ...]
    first_time: Micros
    last_time: Micros
    workspace: str = ""
    users: int = 0
    event_name: str = ""


class ValueCount(msgspec.Struct, frozen=True):
    """A value, and the number of users, or of events, that have it alone or in a list. Never a list
    itself.
    """

    value: Value
    users: int = 0
    events: int = 0


@runtime_checkable
class CatalogReader(LookupReader, Protocol):
    """Lists names and values that occur in the data, exactly and without erased ones.

    Pages start just after a given key and have at most `limit` entries. Each entry reflects one state; the
    entries of a page may reflect several. Raises DeadlineExceeded when the deadline passes.
    """

    def event_names(
        self,
        account: str,
        *,
        input: str = "",
        prefix: str = "",
        after: EventPlace | None = None,
        limit: int,
        deadline: float | None = None,
    ) -> tuple[EventNameFacts, ...]:
        """Event names that start with `prefix`, through one input or ("") all, in order of `place()`."""
        ...

    def user_attributes(
        self,
        account: str,
        *,
        workspace: str = "",
        prefix: str = "",
        after: AttributePlace | None = None,
        limit: int,
        deadline: float | None = None,
    ) -> tuple[AttributeFacts, ...]:
        """Attributes of users whose keys start with `prefix`, in one workspace or ("") all, in order of key
        and workspace.
        """
        ...

    def event_attributes(
        self,
        account: str,
        event_name: str,
        *,
        input: str = "",
        prefix: str = "",
        after: str | None = None,
        limit: int,
        deadline: float | None = None,
    ) -> tuple[AttributeFacts, ...]:
        """Attributes of the events of a name whose keys start with `prefix`, of one input
        or ("") all, in order of key; `after` is a key.
        """
        ...

    def attribute_values(
        self,
        account: str,
        workspace: str,
        key: str,
        *,
        prefix: str = "",
        after: ValueCount | None = None,
        limit: int,
        deadline: float | None = None,
    ) -> tuple[ValueCount, ...]:
        """The values of a user attribute, most users first, then in order of kind and value, from one state.
        With a prefix, only strings that start with it. List elements count as strings.
        """
        ...

    def event_attribute_values(
        self,
        account: str,
        event_name: str,
        key: str,
        *,
        input: str = "",
        prefix: str = "",
        after: ValueCount | None = None,
        limit: int,
        deadline: float | None = None,
    ) -> tuple[ValueCount, ...]:
        """The same of an attribute of the events of a name, through one input or ("") all: the values that
        most events carry first. A list counts once for each of its different elements.
        """
        ...
