"""What the rules of protovalidate in the contract forbid, the service refuses, and it takes what they allow.

The scenario of `methods.yaml` has a request of each method that is answered. Before it is sent, each field
with a rule is set to a value just outside the rule, and to one just inside. The length of lists and maps is
left to `tests/service/test_request_lists.py`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import protovalidate
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from engine.resources.names import Resource
from milepost.v1 import (
    audience_service_pb2,
    catalog_service_pb2,
    connection_pb2,
    criteria_pb2,
    data_pb2,
)
from milepost.written_form import written_name
from tests.contract_rules import (
    CONTRACT,
    ID,
    NUMBER,
    expected_rules,
    id_,
    message_of,
    name_of,
    request_fields,
)
from tests.harness import CALL_TIMEOUT_S, read_refusal
from tests.spec.scenario import METHODS, STEPS, scenario
from tests.spec.test_long_texts import BESIDE as BESIDE_CRITERIA
from tools.contract import (
    FILE_MESSAGES,
    MESSAGE_ONEOFS,
    Comments,
    compiled,
    contract,
    must_have_one,
    rules_of,
)

Way = tuple[FieldDescriptor, ...]

UNRULED = {
    "at_least": "a text that the service made; any other one is refused",
    "page_token": "a text that the service made; any other one is refused",
    "etag": "another one fails with ABORTED, whatever it is",
    "name": "of a resource that is created it is ignored",
    "time_zone": "a list of names that grows",
    "event_name": "of one that no event has there is nothing to list",
    "prefix": "any text is one",
    "activation": "any other one fails with OUT_OF_RANGE",
    "cursor": "0 is one, of which nothing is acknowledged",
    "parent": "of a milestone of a preview: one of its ids",
    "position": "opaque, and refused unless it is as it came",
    "epoch": "any other one fails with OUT_OF_RANGE",
    "query": "any text is one",
    "sequence": "any number is one",
    "arrow": "a stream, split at any byte",
    "time_format": "a language of its own",
    "secret": "base64, counted in the bytes that it means",
}
"""Texts and numbers without a rule, by name, and why."""
UNRULED_IN = {
    "SemverTest": "versions are a language of their own",
    "ImportHeader": "a column that the stream does not have is refused, whatever its name",
    "ImportUsersHeader": "a column that the stream does not have is refused, whatever its name",
    "IngestEventsRequest": "the name of an input is looked up for each row",
    "UpsertUsersRequest": "the name of an input is looked up for each row",
    "Event": "the name of an input is looked up for each row",
    "UserUpdate": "the name of an input is looked up for each row",
}
"""Messages with texts without a rule, and why."""

CHOICE = "oneof.required"
LENGTHS = ("repeated.max_items", "map.max_pairs")
BESIDE = BESIDE_CRITERIA | {
    message.DESCRIPTOR.full_name: message
    for message in (
        audience_service_pb2.MilestoneDraft(journey="accounts/a/journeys/j"),
        connection_pb2.FileOutput(path="p"),
        connection_pb2.KafkaOutput(bootstrap_servers="kafka:9092", topic="t"),
        connection_pb2.NatsOutput(servers="nats://nats:4222", subject="s"),
        connection_pb2.RedisOutput(url="redis://redis:6379", stream="s"),
        connection_pb2.WebhookOutput(url="https://example.com/hook"),
        criteria_pb2.BucketCriterion(from_percent=0, to_percent=100),
        data_pb2.ConsentUpdate(regulation="r", purpose="p", state=data_pb2.CONSENT_STATE_GIVEN),
    )
}
"""What a message needs beside the field."""
BESIDE_FIELD: dict[str, Message] = {
    "EventCriterion.of": criteria_pb2.EventCriterion(aggregate=criteria_pb2.AGGREGATE_SUM),
    "Criteria.label": criteria_pb2.Criteria(all_of=criteria_pb2.CriteriaList()),
    "ListAttributesRequest.input": catalog_service_pb2.ListAttributesRequest(event_name="buy"),
    "ListAttributeValuesRequest.input": catalog_service_pb2.ListAttributeValuesRequest(
        parent="accounts/a", event_name="buy"
    ),
}
"""The same, for one field of it."""


FOLDER_CHARACTERS = 100
NAMES = [f"accounts/a/audiences/a{number}" for number in range(10)]


def text_like(pattern: str, too_long: int) -> str:
    """A text of the first form of a pattern, with the longest ids, and if wanted each a character longer."""
    form = pattern.removeprefix("^").removesuffix("$")
    if ID not in form:
        return "name desc" + "ending" * too_long
    form = form.replace(NUMBER, "9" * (12 + too_long)).replace(ID, "a" * (63 + too_long))
    return re.sub(r"\(([^|]*)\|.*\)", r"\1", form)


OTHER_NAMES = [text_like(name_of(kind)["string.pattern"], 0).replace("a" * 63, "a") for kind in Resource]
"""A name of each kind of resource: a field takes no kind that its pattern does not."""


class Probe(NamedTuple):
    """A field, a value that a rule of it forbids, and the nearest that it allows, None = as it was."""

    way: Way
    rule: str
    outside: Any
    inside: Any


def test_each_field_has_the_rules_of_its_limits() -> None:
    wrong = {
        key: (rules_of(field), expected_rules(field))
        for key, field in request_fields().items()
        if rules_of(field) != expected_rules(field)
    }
    assert wrong == {}


def test_no_field_but_those_of_requests_has_rules() -> None:
    """An answer is what the service makes it."""
    fields = {
        f"{message.name}.{field.name}": field
        for name in CONTRACT
        for message in contract().FindFileByName(name).message_types_by_name.values()
        for field in message.fields
    }
    assert len(fields) > 700
    assert [key for key, field in fields.items() if key not in request_fields() and rules_of(field)] == []


def test_each_text_and_number_without_a_rule_has_none_for_a_reason() -> None:
    without = [
        key
        for key, field in request_fields().items()
        if not rules_of(field)
        and field.name not in UNRULED
        and message_of(field).name not in UNRULED_IN
        and field.enum_type is None
        and (field.message_type is None or field.message_type.name == "Duration")
        and field.type != FieldDescriptor.TYPE_BOOL
    ]
    assert without == []


def test_the_choices_that_comments_call_required_are() -> None:
    said, ruled = set(), set()
    for file in compiled().file:
        comments = Comments(file)
        for index, message in enumerate(file.message_type):
            for place, oneof in enumerate(message.oneof_decl):
                if comments.at(FILE_MESSAGES, index, MESSAGE_ONEOFS, place).startswith("Required"):
                    said.add(f"{file.package}.{message.name}.{oneof.name}")
    for field in request_fields().values():
        ruled |= {oneof.full_name for oneof in message_of(field).oneofs if must_have_one(oneof)}
    assert ruled == said
    assert len(said) > 8


# --- what the service does ----------------------------------------------------------------------------------


def ways(message: Descriptor, way: Way = ()) -> Iterator[Way]:
    """The way to each field, not into a message that is inside one of its kind."""
    for field in message.fields:
        if f"{message.name}.{field.name}" not in request_fields() and not _is_entry(message):
            continue
        yield (*way, field)
        inside = field.message_type
        if inside is not None and all(each.message_type is not inside for each in way):
            yield from ways(inside, (*way, field))


def probes(way: Way) -> Iterator[Probe]:
    """What to try of the last field of a way."""
    choice = way[-1].containing_oneof
    if choice is not None and must_have_one(choice) and way[-1] is choice.fields[0]:
        yield Probe(way, CHOICE, None, None)
    for rule, limit in rules_of(way[-1]).items():
        if rule in (*LENGTHS, "ignore"):
            continue
        if rule == "required":
            yield Probe(way, rule, None, None)
        else:
            if rule.endswith("pattern"):
                yield from (
                    Probe(way, rule, name, None) for name in OTHER_NAMES if not re.search(limit, name)
                )
            outside, inside = values(rule.rpartition(".")[2], limit)
            yield Probe(
                way,
                rule,
                *map(as_folders, (outside, inside)) if way[-1].name == "path" else (outside, inside),
            )


def values(rule: str, limit: Any) -> tuple[Any, Any]:
    """A value that breaks the rule, and one that just keeps it."""
    match rule:
        case "max_bytes" | "max_len":
            return "x" * (limit + 1), "x" * limit
        case "min_bytes":
            return "", "x" * limit
        case "pattern":
            return text_like(limit, 1), text_like(limit, 0)
        case "min_items":
            return NAMES[: limit - 1], NAMES[:limit]
        case "const":
            return not limit, limit
        case "finite":
            return math.inf, 1e300
    step: Any = math.ulp(limit) if isinstance(limit, float) and limit else 1
    sign = 1 if rule in ("lte", "lt") else -1
    outside = limit + sign * step if rule.endswith("e") else limit
    return outside, limit if rule.endswith("e") else limit - sign * step


def as_folders(path: str) -> str:
    """The path in folders of which none is too long by itself."""
    return "/".join(
        path[start : start + FOLDER_CHARACTERS - 1] for start in range(0, len(path), FOLDER_CHARACTERS)
    )


def _is_entry(message: Descriptor) -> bool:
    """Whether it is what a map is made of."""
    return message.GetOptions().map_entry


def put(message: Any, probe: Probe, value: Any) -> str:
    """Sets the field to a value, below the first element of lists on the way. Returns the field's path, as
    refusals name it, without indexes and keys.
    """
    path = []
    for field in probe.way[:-1]:
        if _is_entry(message_of(field)):
            continue
        _complete(message)
        path.append(written_name(field))
        found = getattr(message, field.name)
        if field.message_type is not None and _is_entry(field.message_type):
            message = found["k"]
        elif field.is_repeated:
            message = found[0] if found else found.add()
        else:
            message = found
            message.SetInParent()
    _complete(message)
    last = probe.way[-1]
    message.MergeFrom(BESIDE_FIELD.get(f"{message_of(last).name}.{last.name}", type(message)()))
    _set(message, probe, value)
    return _plain(".".join([*path, written_name(last)]))


def _complete(message: Message) -> None:
    message.MergeFrom(BESIDE.get(message.DESCRIPTOR.full_name, type(message)()))


def _set(message: Any, probe: Probe, value: Any) -> None:
    field = probe.way[-1]
    if probe.rule.startswith("map."):
        elements = getattr(message, field.name)
        assert field.message_type is not None
        of_text = field.message_type.fields_by_name["value"].message_type is None
        if probe.rule.startswith("map.values"):
            elements["k"] = value
        elif of_text:
            elements[value] = "x"
        else:
            elements[value].string_value = "x"
    elif value is None:
        message.ClearField(_cleared(probe))
    elif field.is_repeated:
        message.ClearField(field.name)
        elements = getattr(message, field.name)
        for each in value if isinstance(value, list) else [value, *NAMES[: _others(field)]]:
            elements.append(each) if field.message_type is None else elements.add()
    elif field.message_type is not None:
        getattr(message, field.name).FromMicroseconds(value)
    else:
        setattr(message, field.name, value)


def _others_of_choice(field: FieldDescriptor) -> list[str]:
    """The choice that it belongs to, and the fields of which one is set."""
    choice = field.containing_oneof
    return [] if choice is None else [choice.name, *(each.name for each in choice.fields)]


def _others(field: FieldDescriptor) -> int:
    """Elements that a list needs beside one."""
    return max(rules_of(field).get("repeated.min_items", 1) - 1, 0) if field.message_type is None else 0


def violations(request: Message) -> set[str]:
    """The fields that protovalidate names, without indexes and keys, in the words of the contract."""
    kind = message_factory.GetMessageClass(contract().FindMessageTypeByName(request.DESCRIPTOR.full_name))
    found = protovalidate.collect_violations(kind.FromString(request.SerializeToString()))
    return {
        ".".join(element.field_name for element in each.proto.field.elements)
        for each in found
        if each.proto.field
    }


def faults(method: MethodDescriptor, call: Callable[..., Any], requests: list[Any]) -> dict[str, str]:
    """What the service says about fields: faults of a refusal, or the rejections of rows."""
    try:
        answer = call(iter(requests) if method.client_streaming else requests[0], timeout=CALL_TIMEOUT_S)
        answers = _first(answer) if method.server_streaming else [answer]
    except grpc.RpcError as error:
        refusal = read_refusal(error)
        return {_plain(field): text for field, text in refusal.violations.items()} or {
            refusal.code.name: refusal.message
        }
    return {
        _plain(rejection.field): rejection.description
        for answer in answers
        for rejection in getattr(answer, "rejections", ())
    }


def _first(answers: Any) -> list[Any]:
    for answer in answers:
        answers.cancel()
        return [answer]
    return []


def _plain(path: str) -> str:
    return re.sub(r"\[[^]]*\]|unset_", "", path)


def about(found: dict[str, str], path: str) -> set[str]:
    """What is said about the field, about what holds it, or about what it holds."""
    return {
        text
        for field, text in found.items()
        if path == field or path.startswith(f"{field}.") or field.startswith(f"{path}.")
    }


def test_what_is_answered_breaks_no_rule(tmp_path: Path) -> None:
    found: dict[str, set[str]] = {}

    def check(method: MethodDescriptor, call: Callable[..., Any], requests: list[Any]) -> None:
        for request in requests:
            found.setdefault(method.name, set()).update(violations(request))

    with scenario(tmp_path, check) as run:
        for step in STEPS:
            assert run.perform(step) == []
    # One event of the scenario is rejected, and the others are taken.
    assert found.pop("IngestEvents") == {"events.user_id"}
    assert {name: fields for name, fields in found.items() if fields} == {}
    assert len(found) == len(METHODS) - 1


def test_what_breaks_a_rule_is_refused_and_what_just_keeps_it_is_not(tmp_path: Path) -> None:
    tried: set[tuple[str, str, str]] = set()
    wrong: list[str] = []

    def try_all(method: MethodDescriptor, call: Callable[..., Any], requests: list[Any]) -> None:
        name = f"{method.containing_service.name}.{method.name}"
        if method.name == "CreateApiKey" and not requests[0].parent:
            return  # The first key of an operator would end all calls without one.
        described = contract().FindMessageTypeByName(method.input_type.full_name)
        for way in ways(described):
            is_in_criteria = any(
                each.message_type is not None and each.message_type.name == "Criteria" for each in way[:-1]
            )
            if is_in_criteria and name != "AudienceService.EstimateAudience":
                continue
            for probe in probes(way):
                field = f"{message_of(way[-1]).name}.{way[-1].name}"
                if (field, probe.rule, str(probe.outside)) not in tried:
                    tried.add((field, probe.rule, str(probe.outside)))
                    wrong.extend(f"{name} {line}" for line in tried_one(method, call, requests, probe))

    with scenario(tmp_path, try_all) as run:
        for step in STEPS:
            run.perform(step)
    assert wrong == [], "\n".join(wrong)
    assert len(tried) > 300
    left = {
        (key, rule)
        for key, field in request_fields().items()
        for rule in rules_of(field)
        if rule not in (*LENGTHS, "ignore")
    } - {(field, rule) for field, rule, _ in tried}
    assert left == set()


def tried_one(
    method: MethodDescriptor, call: Callable[..., Any], requests: list[Any], probe: Probe
) -> Iterator[str]:
    """What is wrong with how a rule is kept, if anything."""
    outside, inside = type(requests[0])(), type(requests[0])()
    for request in (outside, inside):
        request.CopyFrom(requests[0])
        _keep_one_row(request)
    path = put(outside, probe, probe.outside)
    _renew_id(outside, probe)
    said = faults(method, call, [outside, *requests[1:]])
    refused = about(said, path) | {
        text
        for other in _others_of_choice(probe.way[-1])
        for text in about(said, path.removesuffix(written_name(probe.way[-1])) + other)
    }
    at = f"{path} ({probe.rule})"
    if not refused:
        yield f"{at} is not refused: {said}"
    if not about(dict.fromkeys(violations(outside), ""), contract_path(probe)):
        yield f"{at} breaks no rule: {violations(outside)}"
    if probe.inside is None:
        return
    put(inside, probe, probe.inside)
    _renew_id(inside, probe)
    taken = about(faults(method, call, [inside, *requests[1:]]), path)
    if refused <= taken:
        yield f"{at} is refused inside too: {taken}"
    if about(dict.fromkeys(violations(inside), ""), contract_path(probe)):
        yield f"{at} breaks a rule inside: {violations(inside)}"


def _keep_one_row(request: Any) -> None:
    """So that what is said about rows is about that of the field."""
    for name in ("events", "users"):
        if name in request.DESCRIPTOR.fields_by_name:
            del getattr(request, name)[1:]


_numbers = itertools.count()


def _renew_id(request: Any, probe: Probe) -> None:
    """Another id of what is created, unless that is what is tried."""
    for field in request.DESCRIPTOR.fields:
        is_id = rules_of(request_fields()[f"{request.DESCRIPTOR.name}.{field.name}"]) == id_()
        if is_id and field.name != probe.way[-1].name and not request.DESCRIPTOR.name.startswith("Get"):
            setattr(request, field.name, f"new{next(_numbers)}")


def contract_path(probe: Probe) -> str:
    """The path of the field in the words of the contract."""
    *above, _ = [field for field in probe.way if not _is_entry(message_of(field))]
    return ".".join([*(field.name for field in above), _cleared(probe)])


def _cleared(probe: Probe) -> str:
    """The field that the rule is about, or the choice."""
    choice = probe.way[-1].containing_oneof
    return choice.name if choice is not None and probe.rule == CHOICE else probe.way[-1].name
