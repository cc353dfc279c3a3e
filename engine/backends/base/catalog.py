"""The catalog: the names and values that data came with."""

from __future__ import annotations

from typing import Protocol, TypeAlias, runtime_checkable

import msgspec

from engine.criteria.model import EventType
from engine.values import Kind, Micros, Value


class SeenNames(msgspec.Struct, frozen=True):
    """Names seen in an account so far, for warnings about names that may be mistyped."""

    events: frozenset[str]
    user_attributes: frozenset[str]
    event_attributes: frozenset[str]


EventPlace: TypeAlias = tuple[str, str, int]
"""An event name's place in the catalog: name, input and number of the type."""
AttributePlace: TypeAlias = tuple[str, str]
"""A user attribute's place in the catalog: key and workspace."""


class EventNameFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The events of one name, input and type: how many, of how many users, first and last time."""

    name: str
    input: str
    type: EventType
    events: int
    users: int
    first_time: Micros
    last_time: Micros

    def place(self) -> EventPlace:
        """Its place in the catalog."""
        return self.name, self.input, int(self.type)


class AttributeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An attribute of users (`workspace` and `users` are set) or of the events of a name (`event_name` is),
    and the kinds its values have, in order of number.

    First and last time are those of the events that carry it; of an attribute of users, those of the writes
    by which users have it now, one for each of them. What was overwritten, unset or erased does not count.
    """

    key: str
    kinds: tuple[Kind, ...]
    first_time: Micros
    last_time: Micros
    workspace: str = ""
    users: int = 0
    event_name: str = ""


class ValueCount(msgspec.Struct, frozen=True):
    """A value, and how many users have it or have it in their list. Never a list itself."""

    value: Value
    users: int


@runtime_checkable
class CatalogReader(Protocol):
    """Lists what data came with, exact, and without what was erased.

    Pages are listed from just behind a place, at most `limit` long; each entry is of one state, the entries
    of a page may be of several. DeadlineExceeded is raised when the deadline passes.
    """

    def seen_names(self, account: str) -> SeenNames:
        """All names that data of the account came with."""
        ...

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
        """Attributes of the events of a name whose keys start with `prefix`, as they came through one input
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
        """The values of a user attribute, most users first, then in order of kind and value, all of one
        state. With a prefix, only strings that start with it. An element of a list is a string here.
        """
        ...
