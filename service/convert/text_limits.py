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
from engine.limits import JOURNEY_MILESTONES_MAX, RESOURCE_TEXT_BYTES_MAX
from milepost.v1 import criteria_pb2
from milepost.written_form import written_name

WRITES = ("Apply", "Clone", "Create", "Update")
"""How the names of methods begin that write resources."""


def refuse_long_texts(request: Message) -> None:
    """Raises InvalidInput naming each text over `RESOURCE_TEXT_BYTES_MAX`, outside criteria."""
    faults = Violations(_long_texts(request, ""))
    if faults:
        raise InvalidInput(faults)


def _long_texts(message: Message, path: str) -> Iterator[Violation]:
    for field, value in message.ListFields():
        inside = path + written_name(field)
        elements = value if field.is_repeated else (value,)
        if field.message_type is None:
            if field.type == FieldDescriptor.TYPE_STRING:
                for index, text in enumerate(elements):
                    if len(text.encode()) > RESOURCE_TEXT_BYTES_MAX:
                        yield _violation(f"{inside}[{index}]" if field.is_repeated else inside)
        elif field.message_type is FieldMask.DESCRIPTOR:
            if any(len(text.encode()) > RESOURCE_TEXT_BYTES_MAX for text in value.paths):
                yield _violation(inside)
        # Criteria have limits of their own, and longer lists of messages than this are refused.
        elif field.message_type is not criteria_pb2.Criteria.DESCRIPTOR:
            for index, element in enumerate(elements[:JOURNEY_MILESTONES_MAX]):
                yield from _long_texts(element, f"{inside}[{index}]." if field.is_repeated else f"{inside}.")


def _violation(path: str) -> Violation:
    return Violation(path, f"is longer than {RESOURCE_TEXT_BYTES_MAX} bytes")
