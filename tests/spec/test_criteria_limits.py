"""Criteria beyond a limit are refused before anything is built, by every method that takes criteria.

For each such method, and each list inside criteria, a request of almost 4 MiB fills that list with empty
elements. The refusal must name the list's limit, and take little memory.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from engine.limits import DEFAULT_LIMITS, JOURNEY_MILESTONES_MAX, MESSAGE_ELEMENTS_MAX, VIOLATIONS_MAX
from milepost.v1 import audience_service_pb2, criteria_pb2, journey_service_pb2, value_pb2
from service.convert.criteria_limits import lengths_max
from service.convert.wire_elements import ELEMENT_BYTES_MIN
from tests.harness import Refusal, Serving, refusal_of, serving
from tests.spec.scenario import METHODS

CRITERIA = criteria_pb2.Criteria.DESCRIPTOR
REQUEST_BYTES = MESSAGE_ELEMENTS_MAX * ELEMENT_BYTES_MIN - 100
"""With more elements a request is refused before it is parsed (tests/service/test_request_lists.py)."""
PEAK_BYTES_MAX = 32 << 20
"""Allocated by Python during the call; the request itself is in memory up to four times."""

Path = tuple[FieldDescriptor, ...]


def paths(
    start: Descriptor, wanted: Callable[[FieldDescriptor], bool], into: Descriptor | None
) -> Iterator[Path]:
    """A path to each field that is wanted, once for each message; not from inside `into`."""
    waiting: list[tuple[Descriptor, Path]] = [(start, ())]
    seen = {start.full_name}
    while waiting:
        message, path = waiting.pop(0)
        for field in message.fields:
            if wanted(field):
                yield (*path, field)
            inside = field.message_type
            if inside is not None and inside is not into and inside.full_name not in seen:
                seen.add(inside.full_name)
                waiting.append((inside, (*path, field)))


def descend(message: Message, path: Path) -> Any:
    """The message at the end of the path, with one element in each list on the way."""
    for field in path:
        found = getattr(message, field.name)
        if field.is_repeated:
            message = found.add()
        else:
            found.SetInParent()
            message = found
    return message


def flood(message: Message, field: FieldDescriptor) -> None:
    """Fills a list with empty elements."""
    key = bytes([field.number << 3 | 2])
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        getattr(message, field.name).extend([0.0] * (REQUEST_BYTES // 8))
    else:
        message.MergeFromString((key + b"\0") * (REQUEST_BYTES // 2))


TAKING = {
    name: list(paths(method.input_type, lambda field: field.message_type is CRITERIA, CRITERIA))
    for name, method in METHODS.items()
}
TAKING = {name: found for name, found in TAKING.items() if found}
LISTS = {path[-1].full_name: path for path in paths(CRITERIA, lambda field: field.is_repeated, None)}
MILESTONES = {
    name: list(paths(METHODS[name].input_type, _is_list_of_milestones, CRITERIA))
    for name in TAKING
    for _is_list_of_milestones in [
        lambda field: (
            field.is_repeated
            and field.message_type is not None
            and "criteria" in field.message_type.fields_by_name
        )
    ]
}


def request_of(name: str) -> Message:
    """An empty request; with the journey's name, where criteria are not looked at without one."""
    request: Message = message_factory.GetMessageClass(METHODS[name].input_type)()
    if isinstance(request, journey_service_pb2.PreviewEditRequest):
        request.name = "accounts/a/journeys/none"
        request.update_milestone.milestone.name = f"{request.name}/milestones/none"
    return request


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("limits") / "store", access_log="none") as running:
        running.create_inputs()
        yield running


def refusal_within_memory(service: Serving, name: str, request: Message) -> Refusal:
    """The refusal, for which little memory was allocated."""
    method = METHODS[name]
    call: Callable[..., Any] = service.channel.unary_unary(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    tracemalloc.start()
    try:
        refusal = refusal_of(call, request)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes <= PEAK_BYTES_MAX
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert len(refusal.violations) <= VIOLATIONS_MAX
    return refusal


def test_the_walk_finds_methods_and_lists() -> None:
    assert set(TAKING) == {
        "AudienceService.EstimateAudience",
        "AudienceService.ExplainAudience",
        "AudienceService.PreviewJourney",
        "JourneyService.ApplyJourney",
        "JourneyService.CreateMilestone",
        "JourneyService.PreviewEdit",
        "JourneyService.UpdateMilestone",
    }
    nodes = {
        criteria_pb2.CriteriaList.DESCRIPTOR.fields_by_name["criteria"].full_name,
        criteria_pb2.EventConditionList.DESCRIPTOR.fields_by_name["conditions"].full_name,
    }
    assert set(LISTS) == set(lengths_max(DEFAULT_LIMITS)) | nodes
    assert value_pb2.StringList.DESCRIPTOR.fields[0].full_name in LISTS


@pytest.mark.parametrize("list_name", LISTS)
@pytest.mark.parametrize(
    ("name", "way"),
    [(name, way) for name, found in TAKING.items() for way in found],
    ids=lambda value: value if isinstance(value, str) else ".".join(field.name for field in value),
)
def test_flood_of_elements_is_refused(service: Serving, name: str, way: Path, list_name: str) -> None:
    *inside, last = LISTS[list_name]
    request = request_of(name)
    flood(descend(descend(request, way), tuple(inside)), last)
    refusal = refusal_within_memory(service, name, request)
    assert refusal.reason == "INVALID_CRITERIA"
    (description,) = refusal.violations.values()
    length_max = lengths_max(DEFAULT_LIMITS).get(list_name)
    if length_max is None:
        assert description == "has more than 500 nodes, the most allowed"
    else:
        assert description.endswith(f"; at most {length_max} are allowed")


@pytest.mark.parametrize(
    ("name", "way"),
    [(name, way) for name, found in MILESTONES.items() for way in found],
    ids=lambda value: value if isinstance(value, str) else value[-1].name,
)
def test_flood_of_milestones_is_refused(service: Serving, name: str, way: Path) -> None:
    request = request_of(name)
    flood(descend(request, way[:-1]), way[-1])
    refusal = refusal_within_memory(service, name, request)
    (description,) = refusal.violations.values()
    assert description.endswith(f" elements; at most {JOURNEY_MILESTONES_MAX} are allowed")


@pytest.mark.parametrize(
    ("name", "milestones"),
    # As many as are allowed take seconds, so only one method gets them.
    [
        (name, JOURNEY_MILESTONES_MAX // (1 if name == "JourneyService.ApplyJourney" else 10))
        for name, found in MILESTONES.items()
        if found
    ],
)
def test_faults_beyond_100_are_counted(service: Serving, name: str, milestones: int) -> None:
    """Every one of the milestones has 500 nodes, and each but the root is a fault."""
    (way, *_) = MILESTONES[name]
    request = request_of(name)
    holder = descend(request, way[:-1])
    criteria = criteria_pb2.Criteria(all_of=criteria_pb2.CriteriaList())
    criteria.all_of.criteria.extend([criteria_pb2.Criteria()] * 499)
    for _ in range(milestones):
        getattr(holder, way[-1].name).add(criteria=criteria)
    refusal = refusal_within_memory(service, name, request)
    faults = len(refusal.violations) + int(refusal.metadata["violations_left_out"])
    # A preview stops at the first milestone with faults.
    assert faults == (499 if name == "AudienceService.PreviewJourney" else 499 * milestones)


def test_nodes_up_to_the_limit_are_allowed(service: Serving) -> None:
    def estimate(nodes: int) -> Refusal:
        request = audience_service_pb2.EstimateAudienceRequest()
        request.draft.journey = "accounts/a/journeys/none"
        for _ in range(nodes - 1):
            request.draft.criteria.all_of.criteria.add().all_of.SetInParent()
        return refusal_of(service.audiences.EstimateAudience, request)

    assert estimate(500).code is grpc.StatusCode.NOT_FOUND
    assert estimate(501).violations == {"draft.criteria": "has more than 500 nodes, the most allowed"}


@pytest.mark.parametrize("depth", [33, 90])
def test_depth_is_checked_on_the_message(service: Serving, depth: int) -> None:
    request = audience_service_pb2.EstimateAudienceRequest()
    node = request.draft.criteria
    for _ in range(depth - 1):
        node = node.negation
    node.all_of.SetInParent()
    refusal = refusal_of(service.audiences.EstimateAudience, request)
    assert refusal.violations == {"draft.criteria" + ".not" * 32: "is nested deeper than 32 levels"}


def refused_estimate(service: Serving, criteria: criteria_pb2.Criteria) -> Refusal:
    request = audience_service_pb2.EstimateAudienceRequest()
    request.draft.journey = "accounts/a/journeys/none"
    request.draft.criteria.CopyFrom(criteria)
    return refusal_of(service.audiences.EstimateAudience, request)


def add_test(group: criteria_pb2.CriteriaList) -> criteria_pb2.ValueTest:
    """A test on an attribute, to fill in."""
    part = group.criteria.add()
    part.user_attribute.key = "k"
    return part.user_attribute.test


def with_lists(*lengths: int, elements: int = 0) -> criteria_pb2.Criteria:
    """Criteria with several lists of values, each value a list of that many elements if there are any."""
    criteria = criteria_pb2.Criteria(any_of=criteria_pb2.CriteriaList())
    for length in lengths:
        test = add_test(criteria.any_of)
        for number in range(length):
            if elements:
                test.one_of.values.add().list_value.values.extend(map(str, range(elements)))
            else:
                test.one_of.values.add(string_value=str(number))
    return criteria


@pytest.mark.parametrize(
    ("allowed", "refused"),
    [
        (with_lists(10_000, 10_000), with_lists(10_000, 10_000, 1)),
        (with_lists(9_999, 1, elements=1), with_lists(10_000, 1, elements=1)),
    ],
    ids=["values", "elements"],
)
def test_values_of_all_tests_have_a_limit_together(
    service: Serving, allowed: criteria_pb2.Criteria, refused: criteria_pb2.Criteria
) -> None:
    assert refused_estimate(service, allowed).code is grpc.StatusCode.NOT_FOUND
    refusal = refused_estimate(service, refused)
    assert refusal.violations == {
        "draft.criteria": "has more than 20,000 values in all its tests together, the most allowed"
    }


def test_criteria_have_a_size_whatever_is_large_in_them(service: Serving) -> None:
    """Each text is within its own limit; 500 of them are not."""
    bytes_max = DEFAULT_LIMITS.criteria_bytes_max
    for field in ("glob", "matches", "equals"):
        criteria = criteria_pb2.Criteria(all_of=criteria_pb2.CriteriaList())
        text = "x" * (4_096 if field == "equals" else 1_024)
        for _ in range(498):
            test = add_test(criteria.all_of)
            if field == "equals":
                test.equals.string_value = text
            else:
                setattr(test, field, text)
        refusal = refused_estimate(service, criteria)
        if criteria.ByteSize() <= bytes_max:
            assert refusal.code is grpc.StatusCode.NOT_FOUND
        else:
            size = f"{criteria.ByteSize():,}"
            assert refusal.violations == {
                "draft.criteria": f"has {size} bytes; at most 1,048,576 are allowed"
            }
    assert criteria.ByteSize() > bytes_max
