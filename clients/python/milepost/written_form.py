"""How documents write messages: as proto3 JSON, with names in snake case.

A field whose JSON name is a keyword of a programming language has another name in the messages: `negation` of
Criteria is written `not`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, cast

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_CAPITAL = re.compile("[A-Z]")
WELL_KNOWN = "google.protobuf."
"""The package of messages that are written as scalars."""
WHOLE_MAX = 2.0**53
"""Up to this a double and the whole number it is written as are the same."""


def written_name(field: FieldDescriptor) -> str:
    """The name of a field in documents and in paths of errors."""
    return _CAPITAL.sub(lambda letter: "_" + letter[0].lower(), field.json_name)


def written(message: Message) -> dict[str, Any]:
    """The tree of dicts, lists and scalars for a message. `json_format.ParseDict` reads it back."""
    fields = cast(Iterable[FieldDescriptor], message.DESCRIPTOR.fields)
    return _renamed(json_format.MessageToDict(message), fields)


def _renamed(tree: dict[str, Any], fields: Iterable[FieldDescriptor]) -> dict[str, Any]:
    by_json_name = {field.json_name: field for field in fields}
    return {written_name(by_json_name[name]): _value(tree[name], by_json_name[name]) for name in tree}


def _value(value: Any, field: FieldDescriptor) -> Any:
    inside = field.message_type
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return [_number(each) for each in value] if isinstance(value, list) else _number(value)
    if inside is None or inside.full_name.startswith(WELL_KNOWN):
        return value
    if inside.GetOptions().map_entry:
        return {key: _value(each, inside.fields_by_name["value"]) for key, each in value.items()}
    if field.is_repeated:
        return [_renamed(each, inside.fields) for each in value]
    return _renamed(value, inside.fields)


def _number(value: Any) -> Any:
    """A double as people write it: 900, not 900.0. `Infinity` and the like are strings."""
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) <= WHOLE_MAX
    return int(value) if is_whole and str(value) != "-0.0" else value
