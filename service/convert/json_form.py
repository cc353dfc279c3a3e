"""JSON and YAML forms: the proto3 JSON mapping of the messages, nothing else.

YAML is read as the same tree that JSON would give. Names are written as in the proto files; on the way in the
mapping's lowerCamelCase is taken as well.
"""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from engine.criteria.model import Criterion
from engine.errors import InvalidInput
from milepost.v1 import criteria_pb2
from service.convert.criteria import INVALID_CRITERIA, criteria_message, criterion_of

M = TypeVar("M", bound=Message)


def message_from_tree(tree: Any, message: M, *, field: str, reason: str = "") -> M:
    """Fills `message` from a tree of dicts, lists and scalars. Raises InvalidInput on a mismatch."""
    try:
        return json_format.ParseDict(tree, message)
    except (json_format.ParseError, RecursionError, TypeError, AttributeError) as error:
        raise InvalidInput.one(
            field, f"does not fit {message.DESCRIPTOR.name}: {error}", reason=reason
        ) from error


def tree_from_message(message: Message) -> dict[str, Any]:
    """The tree of dicts, lists and scalars for a message, with the names of the proto files."""
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def criterion_from_tree(tree: Any, *, field: str = "criteria") -> Criterion:
    """The criterion that a JSON or YAML tree describes. Raises InvalidInput (INVALID_CRITERIA)."""
    message = message_from_tree(tree, criteria_pb2.Criteria(), field=field, reason=INVALID_CRITERIA)
    return criterion_of(message, field)


def criterion_to_tree(criterion: Criterion) -> dict[str, Any]:
    """The tree for a criterion."""
    return tree_from_message(criteria_message(criterion))
