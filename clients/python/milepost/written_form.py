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
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from milepost.durations import duration_of

_CAPITAL = re.compile("[A-Z]")
WELL_KNOWN = "google.protobuf."
"""The package of messages that are written as scalars."""
SECONDS_A_DAY = 86_400
WHOLE_MAX = 2.0**53
"""Up to this a double and the whole number it is written as are the same."""


def written_name(field: FieldDescriptor) -> str:
    """The name of a field in documents and in paths of errors."""
    return _CAPITAL.sub(lambda letter: "_" + letter[0].lower(), field.json_name)


def written(message: Message, *, days: bool = False) -> dict[str, Any]:
    """The tree of dicts, lists and scalars for a message. `json_format.ParseDict` reads it back, unless
    `days` writes durations of whole days as people do, like 30d: then `milepost.documents` does.
    """
    fields = cast(Iterable[FieldDescriptor], message.DESCRIPTOR.fields)
    return _renamed(json_format.MessageToDict(message), fields, days=days)


def _renamed(tree: dict[str, Any], fields: Iterable[FieldDescriptor], *, days: bool) -> dict[str, Any]:
    by_json_name = {field.json_name: field for field in fields}
    return {
        written_name(by_json_name[name]): _value(tree[name], by_json_name[name], days=days) for name in tree
    }


def _value(value: Any, field: FieldDescriptor, *, days: bool) -> Any:
    inside = field.message_type
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return [_number(each) for each in value] if isinstance(value, list) else _number(value)
    if inside is not None and inside.full_name == Duration.DESCRIPTOR.full_name and days:
        return _in_days(value)
    if inside is None or inside.full_name.startswith(WELL_KNOWN):
        return value
    if inside.GetOptions().map_entry:
        in_map = inside.fields_by_name["value"]
        return {key: _value(each, in_map, days=days) for key, each in value.items()}
    if field.is_repeated:
        return [_renamed(each, inside.fields, days=days) for each in value]
    return _renamed(value, inside.fields, days=days)


def _in_days(written_seconds: str) -> str:
    """30d for 2592000s; a duration that is not of whole days as it is."""
    length = duration_of(written_seconds)
    count, rest = divmod(length.seconds, SECONDS_A_DAY)
    return written_seconds if rest or length.nanos or count <= 0 else f"{count}d"


def _number(value: Any) -> Any:
    """A double as people write it: 900, not 900.0. `Infinity` and the like are strings."""
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) <= WHOLE_MAX
    return int(value) if is_whole and str(value) != "-0.0" else value
