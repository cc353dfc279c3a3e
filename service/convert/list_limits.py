"""The length of every list and map of a request, checked on the message before anything is built.

Each has a named limit: those of `list_lengths_max`, or `LIST_LENGTH_MAX`. So a new field of the contract has
a limit from the start. Three kinds of message are left to other checks, which also look at lengths first:
events and user updates, because a bad row does not refuse the others (`convert.data`), and criteria
(`convert.criteria_limits`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from engine.audiences.checks import BATCH_PAIRS_MAX
from engine.audiences.sizes import COMPARED_MAX
from engine.errors import InvalidInput, Violation, Violations
from engine.limits import (
    API_KEY_SCOPES_MAX,
    CONSENT_VALUES_MAX,
    FIELD_MASK_PATHS_MAX,
    IMPORT_COLUMNS_MAX,
    JOURNEY_INPUTS_MAX,
    JOURNEY_MILESTONES_MAX,
    JOURNEY_OUTPUTS_MAX,
    LIST_LENGTH_MAX,
    WATCHED_AUDIENCES_MAX,
    Limits,
)
from engine.resources.connections import OPTED_IN_NAMES_MAX
from engine.resources.records import ChangeKind
from milepost.v1 import criteria_pb2, data_pb2
from milepost.written_form import written_name

CHECKED_ELSEWHERE = {
    data_pb2.Event.DESCRIPTOR,
    data_pb2.UserUpdate.DESCRIPTOR,
    criteria_pb2.Criteria.DESCRIPTOR,
}
ROWS = ("IngestEventsRequest.events", "UpsertUsersRequest.users", "DeleteUsersRequest.user_ids")
"""Fields that hold the rows of a batch."""


def list_lengths_max(limits: Limits) -> dict[str, int]:
    """The most elements of each list and map with a limit of its own, by message and field."""
    return {
        **dict.fromkeys(ROWS, limits.batch_events_max),
        "ApiKey.scopes": API_KEY_SCOPES_MAX,
        "BatchCheckMembershipRequest.audiences": BATCH_PAIRS_MAX,
        "BatchCheckMembershipRequest.user_ids": BATCH_PAIRS_MAX,
        "CompareAudiencesRequest.audiences": COMPARED_MAX,
        "Connection.attributes": OPTED_IN_NAMES_MAX,
        "Connection.hashed_attributes": OPTED_IN_NAMES_MAX,
        "Connection.hashed_identities": OPTED_IN_NAMES_MAX,
        "Connection.identities": OPTED_IN_NAMES_MAX,
        "Connection.kinds": len(ChangeKind),
        "ConsentColumn.denied_values": CONSENT_VALUES_MAX,
        "ConsentColumn.given_values": CONSENT_VALUES_MAX,
        "FieldMask.paths": FIELD_MASK_PATHS_MAX,
        "ImportHeader.attribute_kinds": IMPORT_COLUMNS_MAX,
        "ImportUsersHeader.attribute_kinds": IMPORT_COLUMNS_MAX,
        "ImportUsersHeader.consent_columns": IMPORT_COLUMNS_MAX,
        "ImportUsersHeader.identity_columns": IMPORT_COLUMNS_MAX,
        "ImportUsersHeader.ignored_columns": IMPORT_COLUMNS_MAX,
        "Journey.connected_outputs": JOURNEY_OUTPUTS_MAX,
        "Journey.inputs": JOURNEY_INPUTS_MAX,
        "JourneyDocument.inputs": JOURNEY_INPUTS_MAX,
        "JourneyDocument.milestones": JOURNEY_MILESTONES_MAX,
        "MilestoneDocument.children": JOURNEY_MILESTONES_MAX,
        "PreviewJourneyRequest.inputs": JOURNEY_INPUTS_MAX,
        "PreviewJourneyRequest.milestones": JOURNEY_MILESTONES_MAX,
        "WatchMembershipRequest.audiences": WATCHED_AUDIENCES_MAX,
    }


class _Field(NamedTuple):
    """A field with something to check: its own length (None = a single message), and each message in it."""

    name: str
    written: str
    length_max: int | None
    inside: _Fields | None
    is_tree: bool
    """Whether its messages nest: the limit is then for all of a request together."""


_Fields = list[_Field]


class ListLimits:
    """Checks requests of one kind of message."""

    def __init__(self, kind: type[Message], limits: Limits) -> None:
        self._lengths_max = list_lengths_max(limits)
        self._known: dict[Any, _Fields] = {}
        self._complete: set[Any] = set()
        self._to_check = self._fields(kind.DESCRIPTOR)

    def check(self, message: Message) -> None:
        """Raises InvalidInput with each list or map that is too long."""
        if self._to_check:
            walk = _Walk()
            walk.message(message, self._to_check, "")
            walk.raise_if_any()

    def _fields(self, descriptor: Any) -> _Fields:
        """Fields of a message that lead to lists or maps. A nested kind has itself inside."""
        found = self._known.get(descriptor)
        if found is None:
            found = self._known[descriptor] = []
            found += [each for field in descriptor.fields if (each := self._field(field)) is not None]
            self._complete.add(descriptor)
        return found

    def _field(self, field: FieldDescriptor) -> _Field | None:
        inside: _Fields | None = None
        kind = field.message_type
        if kind is not None and kind not in CHECKED_ELSEWHERE and not kind.GetOptions().map_entry:
            inside = self._fields(kind)
            if not inside and kind in self._complete:
                inside = None
        if not field.is_repeated:
            return None if inside is None else _Field(field.name, written_name(field), None, inside, False)
        assert field.containing_type is not None
        length_max = self._lengths_max.get(f"{field.containing_type.name}.{field.name}", LIST_LENGTH_MAX)
        is_tree = kind is not None and any(each.message_type is kind for each in kind.fields)
        return _Field(field.name, written_name(field), length_max, inside, is_tree)


class _Walk:
    """The check of one request."""

    def __init__(self) -> None:
        self._faults = Violations()
        self._metadata: Mapping[str, str] = {}
        self._is_batch = False
        self._nested = 0

    def message(self, message: Message, fields: _Fields, path: str) -> None:
        """Checks the fields of a message at a path, which ends with a dot unless it is empty."""
        for field in fields:
            inside = path + field.written
            if field.length_max is not None:
                self._list(field, message, getattr(message, field.name), inside)
            elif field.inside is not None and message.HasField(field.name):
                self._single(getattr(message, field.name), field.inside, inside)

    def raise_if_any(self) -> None:
        """Raises InvalidInput with the lists that are too long, if there are any."""
        if self._faults:
            reason = "BATCH_TOO_LARGE" if self._is_batch else ""
            raise InvalidInput(self._faults, reason=reason, metadata=self._metadata)

    def _single(self, message: Message, fields: _Fields, path: str) -> None:
        if isinstance(message, FieldMask):
            # Documents write a mask as one text.
            self._check(fields[0], message, len(message.paths), path)
        else:
            self.message(message, fields, f"{path}.")

    def _list(self, field: _Field, message: Message, elements: Any, path: str) -> None:
        length = len(elements)
        if field.is_tree:
            self._nested += length
            length = self._nested
        if self._check(field, message, length, path) and field.inside is not None:
            for index, element in enumerate(elements):
                self.message(element, field.inside, f"{path}[{index}].")

    def _check(self, field: _Field, message: Message, length: int, path: str) -> bool:
        length_max = field.length_max
        assert length_max is not None
        if length <= length_max:
            return True
        if not self._faults:
            self._metadata = {"limit": str(length_max), "actual": str(length)}
            self._is_batch = f"{message.DESCRIPTOR.name}.{field.name}" in ROWS
        self._faults.add(Violation(path, f"has {length} elements; at most {length_max} are allowed"))
        return False
