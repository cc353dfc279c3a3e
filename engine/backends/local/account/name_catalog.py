"""Event names and attributes of an account, with figures that are always exact.

Nothing here reads rows. Figures of events come from part metadata; figures of user attributes come from
bitmap sizes and from the write time spans. Names are found by bisection in lists that are sorted again after
names were added.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Iterator
from typing import Final, Literal, TypeAlias

from engine.backends.base import AttributeFacts, AttributePlace, EventNameFacts
from engine.backends.local.attributes.index import EMPTY_LIST, Properties
from engine.backends.local.events import EventTables, TimeSpan
from engine.backends.local.storage.name_table import FieldKind, NameSpace, field_of
from engine.values import Kind


class _Answer(enum.Enum):
    UNFINISHED = enum.auto()


Unfinished: TypeAlias = Literal[_Answer.UNFINISHED]
UNFINISHED: Final = _Answer.UNFINISHED
"""Part of the answer has been read. The caller should release the lock to others and ask again."""


class Catalog:
    """The names of one account. Call with the state lock held, inside a session of the page cache."""

    def __init__(
        self,
        groups: int,
        inputs: NameSpace,
        events: NameSpace,
        event_attributes: NameSpace,
        fields: NameSpace,
        tables: EventTables,
        properties: Properties,
    ) -> None:
        self._groups = groups
        self._inputs = inputs
        self._events = events
        self._event_attributes = event_attributes
        self._fields = fields
        self._tables = tables
        self._properties = properties
        self._sorted_events: list[str] = []
        self._sorted_attributes: list[AttributePlace] = []
        self._attribute_numbers: dict[AttributePlace, int] = {}
        self._fields_version = -1

    # --- events ---------------------------------------------------------------------------------------------

    def event_names(self, input: str, prefix: str, start: str) -> list[str]:
        """Names that start with `prefix`, optionally through one input, in order, from `start`. Some may have
        no events left.
        """
        if input:
            number = self._inputs.find(input)
            through = () if number is None else self._tables.names_through(number)
            names = sorted(self._events.names[name] for name in through)
        else:
            if len(self._sorted_events) != len(self._events.numbers):
                self._sorted_events = sorted(self._events.numbers)
            names = self._sorted_events
        return list(_from(names, prefix, start))

    def events_named(self, name: str, input: str) -> list[EventNameFacts]:
        """The figures of an event name in order of input and type, for one input when it is given."""
        number, input_number = self._events.numbers[name], self._inputs.find(input) if input else None
        facts = [
            EventNameFacts(
                name=name,
                input=self._inputs.names[found.input_number],
                type=found.type,
                events=found.events,
                users=found.users,
                first_time=found.first_time,
                last_time=found.last_time,
            )
            for found in self._tables.facts(number, input_number)
        ]
        return sorted(facts, key=EventNameFacts.place)

    def event_attributes(self, name: str, input: str, prefix: str) -> list[AttributeFacts]:
        """The attributes of the events of a name that start with `prefix`, in order of key, through an input
        when one is given.
        """
        number, input_number = self._events.find(name), self._inputs.find(input) if input else None
        if number is None or (input and input_number is None):
            return []
        columns: dict[str, dict[Kind, TimeSpan]] = {}
        for (attribute, kind), span in self._tables.attributes(number, input_number).items():
            columns.setdefault(self._event_attributes.names[attribute], {})[Kind(kind)] = span
        return [
            AttributeFacts(
                key=key,
                event_name=name,
                kinds=tuple(sorted(spans)),
                first_time=min(span.first for span in spans.values()),
                last_time=max(span.last for span in spans.values()),
            )
            for key, spans in sorted(columns.items())
            if key.startswith(prefix)
        ]

    # --- users ----------------------------------------------------------------------------------------------

    def user_attributes(self, workspace: str, prefix: str, start: AttributePlace) -> list[AttributePlace]:
        """User attributes (key and workspace) whose keys start with `prefix`, optionally of one workspace, in
        order, from `start`. Some may have no users left.
        """
        self._sort_attributes()
        at = bisect_left(self._sorted_attributes, max(start, (prefix, "")))
        found = []
        for place in self._sorted_attributes[at:]:
            if not place[0].startswith(prefix):
                break
            if workspace in ("", place[1]):
                found.append(place)
        return found

    def user_attribute(self, place: AttributePlace) -> AttributeFacts | Unfinished | None:
        """The figures of an attribute. None: no user has it. UNFINISHED: ask again."""
        number = self._attribute_numbers.get(place)
        if number is None:
            # Forgotten since the places were listed.
            return None
        users: dict[Kind, int] = {}
        for stored_kind in (*Kind, EMPTY_LIST):
            kind = Kind.LIST if stored_kind == EMPTY_LIST else Kind(stored_kind)
            count = sum(
                len(self._properties.present(number, stored_kind, group)) for group in range(self._groups)
            )
            if count:
                users[kind] = users.get(kind, 0) + count
        if not users:
            return None
        times = self._properties.first_and_last(number, self._groups)
        if times is None:
            return UNFINISHED
        key, workspace = place
        return AttributeFacts(
            key=key,
            workspace=workspace,
            kinds=tuple(sorted(users)),
            users=sum(users.values()),
            first_time=times[0],
            last_time=times[1],
        )

    def _sort_attributes(self) -> None:
        if self._fields_version == self._fields.version:
            return
        self._attribute_numbers = {
            (field.key, field.scope): number
            for number, name in self._fields.names.items()
            if (field := field_of(name)).kind is FieldKind.ATTRIBUTE
        }
        self._sorted_attributes = sorted(self._attribute_numbers)
        self._fields_version = self._fields.version


def _from(names: list[str], prefix: str, start: str) -> Iterator[str]:
    for name in names[bisect_left(names, max(prefix, start)) :]:
        if not name.startswith(prefix):
            return
        yield name
