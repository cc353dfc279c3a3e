"""Update masks: the fields of a record to change.

An empty mask means every field that is set. `name`, `etag` and output-only fields may be included, because
callers send back what they have read; they are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from engine.errors import InvalidInput, Violation
from engine.resources.targets import TARGETS

UPDATE_MASK = "update_mask"
ALL_FIELDS = "*"

ACCOUNT_FIELDS = {
    "display_name": ("display_name",),
    "active_audience_limit": ("active_audience_limit",),
    "time_zone": ("time_zone",),
    "event_retention": ("event_retention",),
    "quotas": ("quotas",),
}
WORKSPACE_FIELDS = {"display_name": ("display_name",)}
INPUT_FIELDS = {"display_name": ("display_name",), "kind": ("kind",)}
API_KEY_FIELDS = {
    field: (field,)
    for field in ("display_name", "scopes", "expire_time", "calls_per_second_max", "in_flight_max")
}
JOURNEY_FIELDS = {"display_name": ("display_name",), "inputs": ("inputs",)}
MILESTONE_FIELDS = {"display_name": ("display_name",), "criteria": ("criteria",)}
AUDIENCE_FIELDS = {"external_name": ("external_name",)}
OUTPUT_FIELDS = {
    "display_name": ("display_name",),
    **dict.fromkeys(TARGETS, ("target",)),
}
CONNECTION_FIELDS = {
    "identities": ("identities",),
    "attributes": ("attributes",),
    "hashed_identities": ("hashed_identities",),
    "hashed_attributes": ("hashed_attributes",),
    "kinds": ("kinds",),
    "batching": ("batch_changes", "batch_age"),
    "exits_on_deactivation": ("exits_on_deactivation",),
}
"""For each resource its mutable fields, and the record fields of each."""

IMMUTABLE = {
    "Milestone": frozenset({"parent_milestone", "kind"}),
    "Connection": frozenset({"audience", "output"}),
}
"""For each message the fields that can only be set at creation."""


def masked_fields(
    message: Message, mask: FieldMask, changeable: Mapping[str, tuple[str, ...]]
) -> frozenset[str]:
    """The fields of the record to change. Raises InvalidInput for unknown paths."""
    paths = list(mask.paths)
    if not paths:
        paths = [field.name for field, _ in message.ListFields() if field.name in changeable]
    elif paths == [ALL_FIELDS]:
        paths = list(changeable)
    faults = [Violation(UPDATE_MASK, fault) for path in paths if (fault := _fault(message, path, changeable))]
    if faults:
        raise InvalidInput(faults)
    return frozenset(name for path in paths for name in changeable.get(path, ()))


def _fault(message: Message, path: str, changeable: Mapping[str, tuple[str, ...]]) -> str:
    if path in changeable:
        return ""
    if path not in message.DESCRIPTOR.fields_by_name:
        return f"{path!r} is not a field of {message.DESCRIPTOR.name}"
    fixed = IMMUTABLE.get(message.DESCRIPTOR.name, frozenset())
    if path not in fixed:
        return ""
    kind = message.DESCRIPTOR.name.lower()
    return f"{path!r} cannot be changed: delete the {kind} and create it anew, or create another one"
