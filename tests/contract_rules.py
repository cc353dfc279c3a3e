"""The rules of protovalidate that the contract should have, from the limits of the service.

`RULES` names the limit of each field, as a constant of the service. Lists have theirs in the tables that the
service itself checks by.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.api import field_behavior_pb2, resource_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from engine.audiences.sizes import COMPARED_MIN
from engine.audiences.watch import PROGRESS_INTERVAL_MIN_MICROS
from engine.criteria.operators.place import LATITUDE_DEGREES_MAX, LONGITUDE_DEGREES_MAX
from engine.criteria.validation import PERCENT_MAX
from engine.limits import (
    DEFAULT_LIMITS,
    LIST_LENGTH_MAX,
    OUTPUT_CREDENTIAL_BYTES_MAX,
    OUTPUT_FILE_AGE_S_MAX,
    OUTPUT_FILE_AGE_S_MIN,
    OUTPUT_FILE_BYTES_MAX,
    OUTPUT_FILE_BYTES_MIN,
    OUTPUT_NAME_BYTES_MAX,
    OUTPUT_PATH_BYTES_MAX,
    OUTPUT_SERVERS_BYTES_MAX,
    OUTPUT_URL_BYTES_MAX,
    OUTPUT_USER_BYTES_MAX,
    QUOTA_FIELDS,
    SLOTS_PERCENT_MAX,
    UPDATE_CONSENTS_MAX,
    UPDATE_IDENTITIES_MAX,
)
from engine.resources.api_keys import CALLS_PER_SECOND_MAX, IN_FLIGHT_MAX, ROTATION_OVERLAP_MAX
from engine.resources.connections import BATCH_AGE_MAX_MICROS, BATCH_CHANGES_MAX
from engine.resources.names import Resource
from engine.values import MICROS_PER_SECOND
from service.convert.criteria_limits import lengths_max
from service.convert.list_limits import list_lengths_max
from service.limits import IMPORT_REQUEST_ID_BYTES_MAX
from tools.contract import PACKAGE, Rules, contract, sources

LIMITS = DEFAULT_LIMITS
# Their stubs do not say that these are extensions.
BEHAVIOUR: Any = field_behavior_pb2.field_behavior
REFERENCE: Any = resource_pb2.resource_reference
CONTRACT = sources()
RESOURCES = {"".join(word.capitalize() for word in kind.name.split("_")): (kind,) for kind in Resource} | {
    "ApiKey": (Resource.API_KEY, Resource.OPERATOR_KEY)
}
"""Kinds of resource by the name of their message."""
ID = r"[a-z][a-z0-9-]{0,62}"
NUMBER = r"[1-9][0-9]{0,11}"
OPTIONAL: Rules = {"ignore": "IGNORE_IF_ZERO_VALUE"}
"""The zero value of the field means something, whatever the other rules say."""


def bytes_max(limit: int, minimum: int = 0) -> Rules:
    """Of a text."""
    return (
        {"string.min_bytes": minimum, "string.max_bytes": limit} if minimum else {"string.max_bytes": limit}
    )


def id_(*, optional: bool = True) -> Rules:
    """Of an id that the caller chooses."""
    return {"string.pattern": f"^{ID}$"} | (OPTIONAL if optional else {})


def name_of(*kinds: Resource) -> Rules:
    """Of a resource name of one of the kinds."""
    patterns = [kind.value for kind in kinds]
    for index, pattern in enumerate(patterns):
        parts = [_part(part) for part in pattern.split("/")]
        patterns[index] = "/".join(parts)
    alternatives = patterns[0] if len(patterns) == 1 else f"({'|'.join(patterns)})"
    return {"string.pattern": f"^{alternatives}$"}


def _part(part: str) -> str:
    return NUMBER if part == "{number}" else ID if part.startswith("{") else part


def within(kind: str, low: Any = None, high: Any = None) -> Rules:
    """Of a number or a duration between bounds, both inclusive."""
    bounds = {f"{kind}.gte": low, f"{kind}.lte": high}
    return {path: bound for path, bound in bounds.items() if bound is not None}


NAME = bytes_max(LIMITS.name_bytes_max, 1)
OPTIONAL_NAME = bytes_max(LIMITS.name_bytes_max)
DISPLAY_NAME: Rules = {"string.max_len": LIMITS.display_name_characters_max}
STRING = bytes_max(LIMITS.string_bytes_max)
PATTERN = bytes_max(LIMITS.pattern_bytes_max)
POSITIVE: Rules = {"duration.gt": 0}
FINITE: Rules = {"double.finite": True}
TARGET = name_of(Resource.MILESTONE, Resource.AUDIENCE)
CERTIFICATES = bytes_max(OUTPUT_CREDENTIAL_BYTES_MAX)

BY_NAME: dict[str, Rules] = {
    "page_size": within("int32", 0),
    "request_id": OPTIONAL_NAME,
    "display_name": DISPLAY_NAME,
    "user_id": NAME,
    **{
        f"{kind}_id": id_()
        for kind in (
            *("account", "api_key", "connection", "input", "journey", "milestone", "output", "workspace"),
        )
    },
}
"""The rules of fields that mean the same in every message."""

RULES: dict[str, Rules] = {
    # --- accounts and keys ---
    "Account.active_audience_limit": within("int32", 0),
    "Account.event_retention": within("duration", 0),
    **{
        f"AccountQuotas.{name}": within("int64" if name == "record_bytes_max" else "int32", 0)
        for name in QUOTA_FIELDS
    },
    "AccountQuotas.slots_percent_max": within("int32", 0, SLOTS_PERCENT_MAX),
    "ApiKey.calls_per_second_max": within("int32", 0, CALLS_PER_SECOND_MAX),
    "ApiKey.in_flight_max": within("int32", 0, IN_FLIGHT_MAX),
    "CreateApiKeyRequest.parent": name_of(Resource.ACCOUNT) | OPTIONAL,
    "CreateBackupRequest.backup_id": id_(optional=False),
    "DeleteBackupRequest.name": name_of(Resource.BACKUP),
    "ListApiKeysRequest.parent": name_of(Resource.ACCOUNT) | OPTIONAL,
    "ListInputsRequest.parent": {"string.pattern": f"^accounts/{ID}/workspaces/({ID}|-)$"},
    "RotateApiKeyRequest.overlap": within("duration", 0, ROTATION_OVERLAP_MAX),
    # --- audiences ---
    "Audience.external_name": OPTIONAL_NAME,
    "BatchCheckMembershipRequest.user_ids[]": NAME,
    "CheckMembershipRequest.audience": TARGET,
    "CompareAudiencesRequest.audiences": {"repeated.min_items": COMPARED_MIN},
    "CompareAudiencesRequest.audiences[]": TARGET,
    "CountAudienceRequest.name": TARGET,
    "EstimateAudienceRequest.max_relative_error": {"double.gt": 0},
    "EstimateAudienceRequest.name": TARGET,
    "EstimateAudienceRequest.time_budget": POSITIVE,
    "ExplainAudienceRequest.name": TARGET,
    "ExplainMembershipRequest.name": TARGET,
    "ExportMembersRequest.name": TARGET,
    "ListAudiencesRequest.journey": name_of(Resource.JOURNEY) | OPTIONAL,
    "ListMembersRequest.parent": TARGET,
    "MilestoneDraft.parent_milestone": name_of(Resource.MILESTONE) | OPTIONAL,
    "MilestoneDraft.replaces": name_of(Resource.MILESTONE) | OPTIONAL,
    "PreviewMilestone.id": NAME,
    "WatchMembershipRequest.audience": TARGET | OPTIONAL,
    "WatchMembershipRequest.connection": name_of(Resource.CONNECTION),
    "WatchMembershipRequest.cursor": within("int64", 0),
    "WatchMembershipRequest.progress_interval": within("duration", PROGRESS_INTERVAL_MIN_MICROS),
    "WatchMembershipRequest.snapshot": {"bool.const": True},
    # --- connections and outputs ---
    "Batching.max_age": within("duration", 0, BATCH_AGE_MAX_MICROS),
    "Batching.max_changes": within("int32", 0, BATCH_CHANGES_MAX),
    "Connection.attributes[]": NAME,
    "Connection.hashed_attributes[]": NAME,
    "Connection.hashed_identities[]": NAME,
    "Connection.identities[]": NAME,
    "FileOutput.max_age": within(
        "duration", OUTPUT_FILE_AGE_S_MIN * MICROS_PER_SECOND, OUTPUT_FILE_AGE_S_MAX * MICROS_PER_SECOND
    ),
    "FileOutput.max_bytes": within("int64", OUTPUT_FILE_BYTES_MIN, OUTPUT_FILE_BYTES_MAX) | OPTIONAL,
    "FileOutput.path": bytes_max(OUTPUT_PATH_BYTES_MAX),
    "KafkaOutput.bootstrap_servers": bytes_max(OUTPUT_SERVERS_BYTES_MAX),
    "KafkaOutput.ca_certificates": CERTIFICATES,
    "KafkaOutput.password": bytes_max(OUTPUT_CREDENTIAL_BYTES_MAX),
    "KafkaOutput.topic": bytes_max(OUTPUT_NAME_BYTES_MAX),
    "KafkaOutput.user": bytes_max(OUTPUT_USER_BYTES_MAX),
    "NatsOutput.ca_certificates": CERTIFICATES,
    "NatsOutput.credentials": bytes_max(OUTPUT_CREDENTIAL_BYTES_MAX),
    "NatsOutput.servers": bytes_max(OUTPUT_SERVERS_BYTES_MAX),
    "NatsOutput.subject": bytes_max(OUTPUT_NAME_BYTES_MAX),
    "RedisOutput.ca_certificates": CERTIFICATES,
    "RedisOutput.max_length": within("int64", 0),
    "RedisOutput.stream": bytes_max(OUTPUT_NAME_BYTES_MAX),
    "RedisOutput.url": bytes_max(OUTPUT_URL_BYTES_MAX),
    "UpdateOutputRequest.secret_overlap": within("duration", 0, ROTATION_OVERLAP_MAX),
    "WebhookOutput.url": bytes_max(OUTPUT_URL_BYTES_MAX),
    "ListConnectionsRequest.audience": name_of(Resource.AUDIENCE) | OPTIONAL,
    "ListConnectionsRequest.output": name_of(Resource.OUTPUT) | OPTIONAL,
    # --- criteria ---
    "BetweenAgo.from_age": POSITIVE,
    "BetweenAgo.to_age": within("duration", 0),
    "BucketCriterion.from_percent": within("double", 0, PERCENT_MAX),
    "BucketCriterion.salt": OPTIONAL_NAME,
    "BucketCriterion.to_percent": within("double", 0, PERCENT_MAX),
    "CalendarWindow.count": within("int32", 0, LIMITS.calendar_units_max),
    "CalendarWindow.offset": within("int32", 0, LIMITS.calendar_units_max),
    "ConsentCriterion.purpose": NAME,
    "ConsentCriterion.regulation": NAME,
    "Criteria.label": OPTIONAL_NAME,
    "EventAttributeCondition.key": NAME,
    "EventCriterion.name": OPTIONAL_NAME,
    "EventCriterion.of": OPTIONAL_NAME,
    "IdentityCriterion.identity_type": NAME,
    "NearTest.latitude": within("double", -LATITUDE_DEGREES_MAX, LATITUDE_DEGREES_MAX),
    "NearTest.longitude": within("double", -LONGITUDE_DEGREES_MAX, LONGITUDE_DEGREES_MAX),
    "NearTest.meters": within("double", 0) | FINITE,
    **{
        f"NumberTest.{test}": FINITE
        for test in ("equals", "greater_than", "greater_or_equal", "less_than", "less_or_equal")
    },
    "NumberBetween.high": FINITE,
    "NumberBetween.low": FINITE,
    "NumberList.values[]": FINITE,
    "SequenceCriterion.steps": {"repeated.min_items": 1},
    "SequenceCriterion.within": POSITIVE,
    "SequenceStep.name": OPTIONAL_NAME,
    "UserAttributeCriterion.key": NAME,
    "ValueTest.contains": STRING,
    "ValueTest.ends_with": STRING,
    "ValueTest.glob": PATTERN,
    "ValueTest.matches": PATTERN,
    "ValueTest.older_than": within("duration", 0),
    "ValueTest.starts_with": STRING,
    "ValueTest.within_last": POSITIVE,
    "Window.last": POSITIVE,
    # --- catalog ---
    "ListAttributeValuesRequest.parent": name_of(Resource.WORKSPACE, Resource.ACCOUNT),
    "ListAttributeValuesRequest.input": name_of(Resource.INPUT) | OPTIONAL,
    "ListAttributesRequest.input": name_of(Resource.INPUT) | OPTIONAL,
    "ListAttributesRequest.workspace": name_of(Resource.WORKSPACE) | OPTIONAL,
    "ListEventNamesRequest.input": name_of(Resource.INPUT) | OPTIONAL,
    # --- data ---
    "AliasUserRequest.from_user_id": NAME,
    "AliasUserRequest.to_user_id": NAME,
    "ConsentUpdate.purpose": NAME,
    "ConsentUpdate.regulation": NAME,
    "ConsentUpdate.state": {"required": True},
    "DeleteUsersRequest.user_ids[]": NAME,
    "Event.attributes{}": NAME,
    "Event.event_id": OPTIONAL_NAME,
    "Event.input": {},
    "Event.name": NAME,
    "ImportHeader.request_id": bytes_max(IMPORT_REQUEST_ID_BYTES_MAX),
    "ImportHeader.skip_rows": within("int64", 0),
    "ImportUsersHeader.request_id": bytes_max(IMPORT_REQUEST_ID_BYTES_MAX),
    "ImportUsersHeader.skip_rows": within("int64", 0),
    "StringList.values[]": bytes_max(LIMITS.list_item_bytes_max),
    "UserUpdate.attributes{}": NAME,
    "UserUpdate.identities{}": NAME,
    "UserUpdate.identities{}.value": STRING,
    "UserUpdate.unset_attributes[]": NAME,
    "UserUpdate.unset_identities[]": NAME,
    "Value.number_value": FINITE,
    "Value.string_value": STRING,
    # --- journeys ---
    "ListJourneysRequest.order_by": {
        "string.pattern": "^((name|display_name|create_time|update_time)( desc)?)?$"
    },
    "Milestone.parent_milestone": name_of(Resource.MILESTONE) | OPTIONAL,
    "JourneyDocument.inputs[]": {
        "string.pattern": f"^(accounts/{ID}/workspaces/{ID}/inputs/{ID}|{ID}/{ID})$"
    },
    "JourneyDocument.journey": id_(optional=False),
    "MilestoneDocument.id": id_(optional=False),
    "MoveMilestoneRequest.position": within("int32", 0),
}
"""By message and field. `[]` = each element of a list, `{}` = each key of a map."""

ROWS = {
    "Event.attributes": LIMITS.event_attributes_max,
    "UserUpdate.attributes": LIMITS.event_attributes_max,
    "UserUpdate.unset_attributes": LIMITS.event_attributes_max,
    "UserUpdate.identities": UPDATE_IDENTITIES_MAX,
    "UserUpdate.unset_identities": UPDATE_IDENTITIES_MAX,
    "UserUpdate.consents": UPDATE_CONSENTS_MAX,
}
"""The most elements of lists and maps in rows."""
NODES = {
    "CriteriaList.criteria": LIMITS.criteria_nodes_max,
    "EventConditionList.conditions": LIMITS.criteria_nodes_max,
}
"""The most elements of lists of nodes, of which there are no more in all criteria together."""


# --- what it should have ------------------------------------------------------------------------------------


@cache
def request_fields() -> dict[str, FieldDescriptor]:
    """The fields that a caller fills in, by message and name: of requests and of what is in them. Fields
    that are output only are left out.
    """
    found: dict[str, FieldDescriptor] = {}
    for file in map(contract().FindFileByName, CONTRACT):
        for service in file.services_by_name.values():
            for method in service.methods:
                _add_fields(method.input_type, found)
    return found


def _add_fields(message: Descriptor, found: dict[str, FieldDescriptor]) -> None:
    for field in message.fields:
        key = f"{message.name}.{field.name}"
        if field_behavior_pb2.OUTPUT_ONLY in behaviour(field) or key in found:
            continue
        if message.file.package == PACKAGE and not message.GetOptions().map_entry:
            found[key] = field
        if field.message_type is not None:
            _add_fields(field.message_type, found)


def message_of(field: FieldDescriptor) -> Descriptor:
    """The message that has the field."""
    assert field.containing_type is not None
    return field.containing_type


def behaviour(field: FieldDescriptor) -> list[int]:
    """What `google.api.field_behavior` says."""
    return list(field.GetOptions().Extensions[BEHAVIOUR])


@cache
def partial_messages() -> frozenset[str]:
    """Messages that an update may hold a part of: their required fields may be unset. Criteria are whole."""
    found: set[str] = set()
    for field in request_fields().values():
        if "update_mask" in message_of(field).fields_by_name and field.message_type is not None:
            _add_parts(field.message_type, found)
    return frozenset(found)


def _add_parts(message: Descriptor, found: set[str]) -> None:
    if message.file.package == PACKAGE and message.name != "Criteria" and message.name not in found:
        found.add(message.name)
        for field in message.fields:
            if field.message_type is not None:
                _add_parts(field.message_type, found)


def expected_rules(field: FieldDescriptor) -> Rules:
    """The rules that a field should have."""
    key = f"{message_of(field).name}.{field.name}"
    rules = _of_value(field, key) | RULES.get(key, {})
    if field.is_repeated:
        rules |= _of_elements(field, key)
    if _must_be_set(field):
        rules = {path: rule for path, rule in rules.items() if path not in ("string.min_bytes", "ignore")}
        rules["required"] = True
    return rules


def _of_value(field: FieldDescriptor, key: str) -> Rules:
    is_text = field.type == FieldDescriptor.TYPE_STRING
    if field.is_repeated or key in RULES or not (is_text or field.type == FieldDescriptor.TYPE_INT32):
        return {}
    reference = _reference(field)
    if not reference:
        return BY_NAME.get(field.name, {})
    return reference if _must_be_set(field) or field.has_presence else reference | OPTIONAL


def _of_elements(field: FieldDescriptor, key: str) -> Rules:
    is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
    rules: Rules = {"map.max_pairs" if is_map else "repeated.max_items": length_max(field)}
    places = {f"{key}[]": "repeated.items.", f"{key}{{}}": "map.keys.", f"{key}{{}}.value": "map.values."}
    for place, above in places.items():
        of_element = RULES.get(place, _reference(field) if place.endswith("[]") else {})
        rules |= {above + path: rule for path, rule in of_element.items()}
    return rules


def _reference(field: FieldDescriptor) -> Rules:
    type_ = field.GetOptions().Extensions[REFERENCE].type.removeprefix("milepost/")
    return name_of(*RESOURCES[type_]) if type_ else {}


def _must_be_set(field: FieldDescriptor) -> bool:
    message = message_of(field).name
    return field_behavior_pb2.REQUIRED in behaviour(field) and message not in {
        "AcknowledgeChangesRequest",
        *partial_messages(),
    }


def length_max(field: FieldDescriptor) -> int:
    """The most elements of a list or a map."""
    key = f"{message_of(field).name}.{field.name}"
    of_criteria = lengths_max(LIMITS).get(field.full_name)
    if of_criteria is not None:
        return of_criteria
    return {**list_lengths_max(LIMITS), **ROWS, **NODES}.get(key, LIST_LENGTH_MAX)
