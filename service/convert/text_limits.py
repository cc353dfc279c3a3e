"""The longest text of a request that writes a resource, checked on the message.

The engine has a closer limit for each field that it keeps. This one holds for all of them, for fields that a
write ignores too, so a new field of the contract has a limit from the start.
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from engine.errors import InvalidInput, Violation, Violations
from engine.limits import (
    JOURNEY_MILESTONES_MAX,
    OUTPUT_NAME_BYTES_MAX,
    OUTPUT_PATH_BYTES_MAX,
    OUTPUT_SERVERS_BYTES_MAX,
    OUTPUT_URL_BYTES_MAX,
    OUTPUT_USER_BYTES_MAX,
    RESOURCE_TEXT_BYTES_MAX,
    Limits,
)
from milepost.v1 import criteria_pb2
from milepost.written_form import written_name

WRITES = ("Apply", "Clone", "Create", "Update")
"""How the names of methods begin that write resources."""


CLOSER_BYTES = {
    "bootstrap_servers": OUTPUT_SERVERS_BYTES_MAX,
    "path": OUTPUT_PATH_BYTES_MAX,
    "servers": OUTPUT_SERVERS_BYTES_MAX,
    "stream": OUTPUT_NAME_BYTES_MAX,
    "subject": OUTPUT_NAME_BYTES_MAX,
    "topic": OUTPUT_NAME_BYTES_MAX,
    "url": OUTPUT_URL_BYTES_MAX,
    "user": OUTPUT_USER_BYTES_MAX,
}
"""Closer limits of fields by name, for the refusals here: a caller that shortens a text does so once."""


def refuse_long_texts(request: Message, limits: Limits) -> None:
    """Raises InvalidInput naming each text over `RESOURCE_TEXT_BYTES_MAX`, outside criteria."""
    faults = Violations(_long_texts(request, "", limits))
    if faults:
        raise InvalidInput(faults)


def _long_texts(message: Message, path: str, limits: Limits) -> Iterator[Violation]:
    for field, value in message.ListFields():
        inside = path + written_name(field)
        elements = value if field.is_repeated else (value,)
        if field.message_type is None:
            if field.type == FieldDescriptor.TYPE_STRING:
                for index, text in enumerate(elements):
                    if len(text.encode()) > RESOURCE_TEXT_BYTES_MAX:
                        where = f"{inside}[{index}]" if field.is_repeated else inside
                        yield Violation(where, _fault(field.name, text, limits))
        elif field.message_type is FieldMask.DESCRIPTOR:
            if any(len(text.encode()) > RESOURCE_TEXT_BYTES_MAX for text in value.paths):
                yield Violation(inside, _too_long(RESOURCE_TEXT_BYTES_MAX))
        # Criteria have limits of their own, and longer lists of messages than this are refused.
        elif field.message_type is not criteria_pb2.Criteria.DESCRIPTOR:
            for index, element in enumerate(elements[:JOURNEY_MILESTONES_MAX]):
                below = f"{inside}[{index}]." if field.is_repeated else f"{inside}."
                yield from _long_texts(element, below, limits)


def _fault(field: str, text: str, limits: Limits) -> str:
    if field == "display_name":
        most = limits.display_name_characters_max
        return f"has {len(text)} characters; at most {most} are allowed"
    if field == "request_id":
        return _too_long(limits.name_bytes_max)
    return _too_long(CLOSER_BYTES.get(field, RESOURCE_TEXT_BYTES_MAX))


def _too_long(bytes_max: int) -> str:
    return f"is longer than {bytes_max} bytes"
