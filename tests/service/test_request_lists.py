"""Every list and map of every request has a limit that is checked before anything is built."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from engine.limits import DEFAULT_LIMITS, MESSAGE_ELEMENTS_MAX
from milepost.v1 import (
    account_service_pb2,
    admin_service_pb2,
    audience_service_pb2,
    catalog_service_pb2,
    connection_service_pb2,
    criteria_pb2,
    data_pb2,
    ingest_service_pb2,
    journey_pb2,
    journey_service_pb2,
)
from milepost.written_form import written_name
from service.convert.list_limits import list_lengths_max
from service.convert.wire_elements import WireElements
from tests.contract_rules import length_max
from tests.harness import ACCOUNT, INPUT, Serving, read_refusal, serving

CONTRACT = (
    account_service_pb2,
    admin_service_pb2,
    audience_service_pb2,
    catalog_service_pb2,
    connection_service_pb2,
    ingest_service_pb2,
    journey_service_pb2,
)

Path_ = tuple[FieldDescriptor, ...]
"""Fields from a request to a list or map, that one included."""


def methods() -> dict[str, Any]:
    """Every method, by its path."""
    return {
        f"/{service.full_name}/{method.name}": method
        for module in CONTRACT
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


def lists_of(descriptor: Any, above: Path_ = ()) -> Iterator[Path_]:
    """The way to each list and map of a message, and of those inside; nested kinds once."""
    for field in descriptor.fields:
        path = (*above, field)
        if field.is_repeated:
            yield path
        inside = field.message_type
        if inside is not None and inside not in [each.message_type for each in above]:
            is_map = inside.GetOptions().map_entry
            yield from lists_of(inside, path) if not is_map else lists_of_values(inside, path)


def lists_of_values(entry: Any, path: Path_) -> Iterator[Path_]:
    value = entry.fields_by_name["value"]
    if value.message_type is not None:
        yield from lists_of(value.message_type, path)


def request_with(method: Any, path: Sequence[Any], count: int) -> tuple[Message, str]:
    """A request with that many elements at a path, and the path as errors write it."""
    request = message_factory.GetMessageClass(method.input_type)()
    message: Any = request
    _complete(message)
    written = ""
    for field in path[:-1]:
        written += written_name(field)
        if field.message_type.GetOptions().map_entry:
            message = getattr(message, field.name)["k"]
            written += "['k']"
        elif field.is_repeated:
            message = getattr(message, field.name).add()
            written += "[0]"
        else:
            message = getattr(message, field.name)
            message.SetInParent()
        written += "."
        _complete(message)
    fill(message, path[-1], count)
    return request, (written + written_name(path[-1])).removesuffix(".paths")


def _complete(message: Any) -> None:
    """What is needed for the lists to be looked at."""
    if isinstance(message, (data_pb2.Event, data_pb2.UserUpdate)):
        message.time.FromSeconds(1)
    if "parent" in message.DESCRIPTOR.fields_by_name:
        message.parent = ACCOUNT


def fill(message: Any, field: FieldDescriptor, count: int) -> None:
    """Adds elements to a list or map."""
    elements = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        value = field.message_type.fields_by_name["value"]
        for number in range(count):
            if value.message_type is not None:
                elements[str(number)].SetInParent()
            else:
                elements[str(number)] = "" if value.type == FieldDescriptor.TYPE_STRING else 0
    elif field.message_type is not None:
        for _ in range(count):
            elements.add()
    elif field.type == FieldDescriptor.TYPE_STRING:
        elements.extend(["x"] * count)
    else:
        elements.extend([0] * count)


def cases() -> Iterator[Any]:
    """Each list of each method; one inside criteria once."""
    of_criteria = set()
    for path, method in methods().items():
        for fields in lists_of(method.input_type):
            name = fields[-1].full_name
            if criteria_pb2.Criteria.DESCRIPTOR in [each.message_type for each in fields]:
                if name in of_criteria:
                    continue
                of_criteria.add(name)
            yield pytest.param(
                path, fields, id=f"{path.rpartition('/')[2]}-{'.'.join(each.name for each in fields)}"
            )


CASES = list(cases())


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("store")) as running:
        running.create_inputs()
        yield running


def refusal(service: Serving, path: str, request: Message) -> Any:
    """How a method refuses a request, whatever kind of call it is."""
    call: Any = service.channel.stream_stream(path)
    try:
        list(call(iter([request.SerializeToString()]), timeout=60))
    except grpc.RpcError as error:
        return read_refusal(error)
    raise AssertionError("the call succeeded")


def test_the_walk_finds_the_lists_of_the_contract() -> None:
    found = {fields[-1].full_name for _, fields in (case.values for case in CASES)}
    for kind, field in (
        (ingest_service_pb2.IngestEventsRequest, "events"),
        (data_pb2.Event, "attributes"),
        (journey_pb2.MilestoneDocument, "children"),
        (criteria_pb2.ValueList, "values"),
        (FieldMask, "paths"),
    ):
        assert kind.DESCRIPTOR.fields_by_name[field].full_name in found
    known = {
        f"{fields[-1].containing_type.name}.{fields[-1].name}"
        for _, fields in (case.values for case in CASES)
    }
    assert list_lengths_max(DEFAULT_LIMITS).keys() <= known


@pytest.mark.parametrize(("path", "fields"), CASES)
def test_one_element_too_many_is_refused_with_the_field_and_the_limit(
    service: Serving, path: str, fields: Path_
) -> None:
    limit = length_max(fields[-1])
    request, written = request_with(methods()[path], fields, limit + 1)
    refused = refusal(service, path, request)
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.reason
    # Nodes of criteria and milestones are counted together, and a fault names where the count begins.
    # What a row sets and unsets is counted together as well, and paths of rows begin at the batch.
    written = written.replace("unset_", "")
    [description] = [
        text
        for field, text in refused.violations.items()
        if written.removeprefix("batch.").startswith(field.removeprefix("batch.")) and str(limit) in text
    ]
    assert "at most" in description or "the most allowed" in description


@pytest.mark.parametrize(("path", "fields"), CASES)
def test_the_longest_list_is_not_refused_for_its_length(service: Serving, path: str, fields: Path_) -> None:
    nested = fields[-1].name in ("criteria", "conditions", "children")
    # Those above are counted too.
    count = length_max(fields[-1]) - len(fields) * nested
    request, _ = request_with(methods()[path], fields, count)
    call: Any = service.channel.stream_stream(path)
    try:
        list(call(iter([request.SerializeToString()]), timeout=60))
    except grpc.RpcError as error:
        texts = read_refusal(error).violations.values()
        assert not [text for text in texts if "at most" in text or "the most allowed" in text]


def test_milestones_of_all_levels_are_counted_together(service: Serving) -> None:
    document = journey_pb2.JourneyDocument(journey="j")
    for _ in range(501):
        document.milestones.add().children.add()
    request = journey_service_pb2.ApplyJourneyRequest(parent=ACCOUNT, document=document)
    refused = refusal(service, "/milepost.v1.JourneyService/ApplyJourney", request)
    [(field, description)] = [each for each in refused.violations.items() if "1000" in each[1]][:1]
    assert field == "document.milestones[499].children"
    assert description == "has 1001 elements; at most 1000 are allowed"


@pytest.mark.parametrize("others", [1, 200])
def test_a_row_with_too_many_elements_does_not_refuse_the_others(service: Serving, others: int) -> None:
    """Few events are read one by one, many by column."""
    request = ingest_service_pb2.IngestEventsRequest(parent=ACCOUNT, input=INPUT)
    for number in range(others + 1):
        event = request.events.add(user_id=f"u{number}", name="e")
        event.time.FromSeconds(1_700_000_000)
        event.attributes["a"].number_value = number
    for number in range(101):
        request.events[0].attributes[str(number)].number_value = 1
    answer = service.ingest.IngestEvents(request)
    assert answer.accepted == others
    [rejection] = answer.rejections
    assert (rejection.index, rejection.reason) == (0, "TOO_MANY_ATTRIBUTES")
    assert rejection.description == "has 102 attributes; at most 100 are allowed"


# --- the bytes of a request ---------------------------------------------------------------------------------


def repeated(field: FieldDescriptor, body: bytes, count: int) -> bytes:
    """Elements of a field with a number below 16 and a short body, on the wire."""
    return (bytes([field.number << 3 | 2, len(body)]) + body) * count


EVENTS = ingest_service_pb2.IngestEventsRequest.DESCRIPTOR.fields_by_name["events"]
USERS = ingest_service_pb2.UpsertUsersRequest.DESCRIPTOR.fields_by_name["users"]
CONSENTS = data_pb2.UserUpdate.DESCRIPTOR.fields_by_name["consents"]
ALL_OF_TWO = b"\x12\x04\x0a\x00\x0a\x00"
USER_IDS = audience_service_pb2.BatchCheckMembershipRequest.DESCRIPTOR.fields_by_name["user_ids"]
CRITERIA = criteria_pb2.CriteriaList.DESCRIPTOR.fields_by_name["criteria"]


@pytest.mark.parametrize(
    ("kind", "data", "elements"),
    [
        (ingest_service_pb2.IngestEventsRequest, repeated(EVENTS, b"", 3_000), 3_000),
        (ingest_service_pb2.UpsertUsersRequest, repeated(USERS, repeated(CONSENTS, b"", 50), 60), 3_060),
        (criteria_pb2.CriteriaList, repeated(CRITERIA, ALL_OF_TWO, 40), 120),
        (ingest_service_pb2.IngestEventsRequest, repeated(EVENTS, b"\x0a\x01\x12", 500), 500),
        (audience_service_pb2.BatchCheckMembershipRequest, repeated(USER_IDS, b"", 2_000), 2_000),
        (audience_service_pb2.BatchCheckMembershipRequest, repeated(USER_IDS, b"\x12" * 100, 30), 30),
    ],
)
def test_elements_of_all_levels_are_counted_on_the_wire(
    kind: type[Message], data: bytes, elements: int
) -> None:
    kind.FromString(data)
    wire = WireElements(kind)
    assert not wire.are_too_many(data, elements)
    assert wire.are_too_many(data, elements - 1)


@pytest.mark.parametrize("data", [b"\xff" * 3_000, b"\x12" * 3_001, repeated(EVENTS, b"", 900) + b"\x12\x7f"])
def test_what_cannot_be_parsed_is_left_to_the_parser(data: bytes) -> None:
    wire = WireElements(ingest_service_pb2.IngestEventsRequest)
    assert not wire.are_too_many(data, 1_000)


def test_two_million_empty_events_are_refused_before_they_are_parsed(service: Serving) -> None:
    data = repeated(EVENTS, b"", 2_000_000)
    call: Any = service.channel.unary_unary("/milepost.v1.IngestService/IngestEvents")
    with pytest.raises(grpc.RpcError) as failure:
        call(data, timeout=60)
    refused = read_refusal(failure.value)
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BATCH_TOO_LARGE")
    assert refused.metadata == {"limit": str(MESSAGE_ELEMENTS_MAX)}
