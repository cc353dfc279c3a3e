"""Every text of every request that writes a resource has a limit.

The scenario of `methods.yaml` has a request of each method that is answered. Before it is sent, each text
field that its message can hold is filled with a text that is too long, one field at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from engine.limits import RESOURCE_TEXT_BYTES_MAX
from milepost.v1 import criteria_pb2, data_pb2
from milepost.written_form import written_name
from service.convert.text_limits import CLOSER_BYTES, WRITES
from tests.harness import refusal_of
from tests.spec.scenario import METHODS, STEPS, scenario

TEXT = "x" * (RESOURCE_TEXT_BYTES_MAX + 1)
INVALID = grpc.StatusCode.INVALID_ARGUMENT
LIMITS = {"request_id": "longer than 256 bytes", "display_name": "at most 100 are allowed"} | {
    name: f"longer than {most} bytes" for name, most in CLOSER_BYTES.items()
}
"""What refusals say of fields with limits of their own."""

Way = tuple[FieldDescriptor, ...]

EXISTS = criteria_pb2.ValueTest(exists=criteria_pb2.ExistsTest())
BESIDE: dict[str, Message] = {
    message.DESCRIPTOR.full_name: message
    for message in (
        criteria_pb2.UserAttributeCriterion(test=EXISTS),
        criteria_pb2.IdentityCriterion(test=EXISTS),
        criteria_pb2.EventAttributeCondition(test=EXISTS),
        criteria_pb2.ConsentCriterion(state=data_pb2.CONSENT_STATE_GIVEN),
        criteria_pb2.CalendarWindow(unit=criteria_pb2.CALENDAR_UNIT_DAY),
    )
}
"""What criteria need beside the text. Criteria that lack a part are refused for that alone."""


def texts(message: Descriptor, way: Way = ()) -> Iterator[Way]:
    """The way to each text field, not into a message that is inside one of its kind."""
    for field in message.fields:
        inside = field.message_type
        if field.type == FieldDescriptor.TYPE_STRING:
            yield (*way, field)
        elif inside is not None and all(each.message_type is not inside for each in way):
            yield from texts(inside, (*way, field))


def put(message: Message, way: Way) -> str:
    """Puts the text into the field, below the last element of lists on the way. Returns the field's path, as
    refusals name it.
    """
    path = ""
    for field in way[:-1]:
        found = getattr(message, field.name)
        path += f".{written_name(field)}"
        if field.is_repeated:
            message = found[-1] if found else found.add()
            path += f"[{len(found) - 1}]"
        else:
            message = found
            message.SetInParent()
    if message.DESCRIPTOR.full_name in BESIDE:
        message.MergeFrom(BESIDE[message.DESCRIPTOR.full_name])
    last = way[-1]
    path += f".{written_name(last)}"
    if last.is_repeated:
        getattr(message, last.name).append(TEXT)
        path += f"[{len(getattr(message, last.name)) - 1}]"
    else:
        setattr(message, last.name, TEXT)
    return path.removeprefix(".").partition(".paths[")[0]


def test_long_text_in_any_field_is_refused(tmp_path: Path) -> None:
    asked: dict[str, set[str]] = {}
    wrong: list[str] = []

    def lengthen(method: MethodDescriptor, call: Callable[..., Any], requests: list[Any]) -> None:
        name = f"{method.containing_service.name}.{method.name}"
        if not method.name.startswith(WRITES) or name in asked:
            return
        asked[name] = set()
        for way in texts(method.input_type):
            request = type(requests[0])()
            request.CopyFrom(requests[0])
            path = put(request, way)
            asked[name].add(path)
            refusal = refusal_of(call, request)
            named = [
                field for field in refusal.violations if field.startswith(path.partition(".criteria.")[0])
            ]
            inside = [field for field in named if _names(field, path)]
            named_limit = not (known := LIMITS.get(way[-1].name)) or any(
                known in refusal.violations[field] for field in inside
            )
            if refusal.code is not INVALID or not inside or not named_limit:
                wrong.append(f"{name} {path}: {refusal.code.name} {list(refusal.violations)}")

    with scenario(tmp_path, lengthen) as run:
        for step in STEPS:
            assert run.perform(step) == []
    assert set(asked) == {name for name, method in METHODS.items() if method.name.startswith(WRITES)}
    assert wrong == [], "\n".join(wrong)
    assert sum(map(len, asked.values())) > 300
    assert "output.file.path" in asked["ConnectionService.CreateOutput"]


def _names(field: str, path: str) -> bool:
    """Whether a refusal of `field` is about the text at `path`: the field itself, or what holds it."""
    return path == field or path.startswith((f"{field}.", f"{field}["))
