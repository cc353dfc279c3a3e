"""What criteria name: audiences and inputs."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from milepost.v1.criteria_pb2 import AudienceCriterion, Criteria, EventCriterion, SequenceStep


def audiences_in(criteria: Criteria) -> set[str]:
    """The audiences that some node names."""
    return {node.name for node in _messages(criteria) if isinstance(node, AudienceCriterion)}


def names_inputs(criteria: Criteria) -> bool:
    """Whether some node or step chooses inputs of its own."""
    return any(node.inputs for node in _messages(criteria) if isinstance(node, EventCriterion | SequenceStep))


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for child in value if field.is_repeated else [value]:
                yield from _messages(child)
